-- Time zones and clock changes: when the clock on the wall shows a time, and when schedules come next.
-- Zones have a colon before their name here, since :CET is always the zone of that name. Without it, PostgreSQL takes
-- CET for an abbreviation, which has no summer time, and Berln2 for a zone as POSIX writes it.

-- The name of a time zone with a colon before it, as the other functions of this file take it.
-- Raises 22023 when it is none of the names in pg_timezone_names.
-- Why: the view itself reads the file of each zone, which takes a quarter of a second.
create or replace function awa._zone(zone text, argument text default 'timezone') returns text
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_is_known boolean := coalesce(zone !~* '^(localtime|posixrules|factory|(posix|right)/.*)$', false);
begin
  if v_is_known then
    begin
      perform now() at time zone (':' || zone);
    exception when data_exception then
      v_is_known := false;
    end;
  end if;
  if not v_is_known then
    perform awa._refuse(argument || ' must be a time zone by its name', zone,
      'Pass a name of pg_timezone_names, such as Europe/Berlin. Zones of a fixed offset are Etc/GMT-5, which is five '
      'hours east, and its like.');
  end if;
  return ':' || zone;
end
$$;
comment on function awa._zone is
  'The name of a time zone with a colon before it, as the other functions of this file take it';

-- How far a zone's clock is ahead of UTC.
create or replace function awa._utc_offset(zone text, at timestamptz) returns interval
language sql stable
return (at at time zone zone) - (at at time zone 'UTC');
comment on function awa._utc_offset is 'How far a zone''s clock is ahead of UTC';

-- The second at which a zone's clock was changed, between two times at which its offset differs.
-- It is the first second with the later offset.
create or replace function awa._clock_change(zone text, before timestamptz, after timestamptz) returns timestamptz
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_offset constant interval := awa._utc_offset(zone, after);
  v_middle timestamptz;
begin
  while after - before > interval '1 second' loop
    v_middle := date_trunc('second', before + (after - before) / 2);
    if awa._utc_offset(zone, v_middle) = v_offset then
      after := v_middle;
    else
      before := v_middle;
    end if;
  end loop;
  return after;
end
$$;
comment on function awa._clock_change is
  'The second at which a zone''s clock was changed, between two times at which its offset differs';

-- When a zone's clock first shows a time, or when it jumps past it.
-- skipped: it jumps, and does not show it.
-- Why: AT TIME ZONE takes the second time where a time comes twice, and one after the jump where it does not come.
create or replace function awa._first_time(zone text, wall timestamp, out at timestamptz, out skipped boolean)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_shown timestamp;
  v_earlier timestamptz;
begin
  at := wall at time zone zone;
  v_shown := at at time zone zone;
  skipped := v_shown <> wall;
  if skipped then
    at := awa._clock_change(zone, at - (v_shown - wall), at);
  else
    v_earlier := (wall - awa._utc_offset(zone, at - interval '1 day')) at time zone 'UTC';
    if v_earlier < at and v_earlier at time zone zone = wall then
      at := v_earlier;
    end if;
  end if;
end
$$;
comment on function awa._first_time is 'When a zone''s clock first shows a time, or when it jumps past it';

-- When a cron expression comes next after a time; null when never.
-- The zone is one from _zone.
-- Why: years that make_date and the job's run_at do not have are left out.
create or replace function awa._next_cron(cron awa.cron_row, zone text, after timestamptz) returns timestamptz
language plpgsql stable
as $$
declare
  v_after timestamptz := date_trunc('second', after);
  v_wall timestamp;
  v_next timestamptz;
begin
  if v_after is null or v_after >= timestamptz '9999-12-31 10:00+00' then
    return null;
  elsif v_after < timestamptz '0001-01-03 00:00+00' then
    v_after := timestamptz '0001-01-03 00:00+00';
  end if;
  v_wall := v_after at time zone zone + interval '1 second';
  v_next := case
    when cron.by_wall then awa._next_by_wall(cron, zone, v_after, v_wall)
    else awa._next_at_time(cron, zone, v_after, v_wall)
  end;
  return case when v_next < timestamptz '9999-12-31 10:00+00' then v_next end;
end
$$;
comment on function awa._next_cron is 'When a cron expression comes next after a time; null when never';

-- When a cron expression with fixed times comes next: each time once.
-- A skipped time comes right after the jump. A time that is shown twice comes the first time.
create or replace function awa._next_at_time(cron awa.cron_row, zone text, after timestamptz, wall timestamp)
returns timestamptz
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_wall timestamp := wall;
  v_next timestamptz;
begin
  loop
    v_wall := awa._cron_time(cron, v_wall);
    if v_wall is null then
      return null;
    end if;
    v_next := (awa._first_time(zone, v_wall)).at;
    if v_next > after then
      return v_next;
    end if;
    -- The clock was set back between them: on to the time that it showed then.
    v_next := awa._clock_change(zone, v_next, after);
    v_wall := greatest(v_wall + interval '1 second',
      (v_next at time zone 'UTC') + awa._utc_offset(zone, v_next - interval '1 second'));
  end loop;
end
$$;
comment on function awa._next_at_time is 'When a cron expression with fixed times comes next: each time once';

-- When a zone's clock next shows a time that a cron expression matches.
-- Goes from one clock change to the next.
create or replace function awa._next_by_wall(cron awa.cron_row, zone text, after timestamptz, wall timestamp)
returns timestamptz
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_after timestamptz := after;
  v_wall timestamp := wall;
  v_offset interval;
  v_next timestamptz;
  v_probe timestamptz;
  v_shown record;
begin
  for i in 1..100 loop -- times that are skipped each year never come
    v_offset := awa._utc_offset(zone, v_after);
    v_wall := awa._cron_time(cron, v_wall);
    if v_wall is null then
      return null;
    end if;
    v_next := (v_wall - v_offset) at time zone 'UTC';
    v_probe := least(v_next, v_after + interval '1 day');
    if awa._utc_offset(zone, v_probe) <> v_offset then
      v_after := awa._clock_change(zone, v_after, v_probe);
    elsif v_probe = v_next then
      return v_next;
    else
      v_shown := awa._first_time(zone, v_wall);
      if not v_shown.skipped then
        return v_shown.at;
      end if;
      v_after := v_shown.at;
    end if;
    v_wall := v_after at time zone zone;
  end loop;
  return null;
end
$$;
comment on function awa._next_by_wall is 'When a zone''s clock next shows a time that a cron expression matches';

-- When a cron expression came last, at or before a time and after another one; null when it did not.
-- Why: halves the time between them instead of going through all times that match in it.
create or replace function awa._last_cron(cron awa.cron_row, zone text, after timestamptz, until timestamptz)
returns timestamptz
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_last timestamptz := awa._next_cron(cron, zone, after);
  v_high timestamptz := until;
  v_middle timestamptz;
  v_next timestamptz;
begin
  if v_last is null or v_last > until then
    return null;
  end if;
  while v_high - v_last >= interval '1 second' loop
    v_middle := v_last + (v_high - v_last) / 2;
    v_next := awa._next_cron(cron, zone, v_middle);
    if v_next <= until then
      v_last := v_next;
    else
      v_high := v_middle;
    end if;
  end loop;
  return v_last;
end
$$;
comment on function awa._last_cron is
  'When a cron expression came last, at or before a time and after another one; null when it did not';

-- The time anchor + n * every: its months and days are those of the calendar in a zone, hours and less are exact.
create or replace function awa._nth_time(anchor timestamptz, every interval, zone text, n bigint) returns timestamptz
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_days constant interval := date_trunc('day', every);
begin
  if v_days = interval '0' then
    return anchor + every * n;
  end if;
  return (awa._first_time(zone, (anchor at time zone zone) + v_days * n)).at + (every - v_days) * n;
end
$$;
comment on function awa._nth_time is
  'The time anchor + n * every: its months and days are those of the calendar in a zone, hours and less are exact';

-- The next of the times anchor + n * every after a time, from n = 0 on; null when there is none.
-- Months and days are those of the calendar in a zone from _zone, hours and less are exact.
-- Raises 22023.
-- Why: each time is computed from the anchor, so that 31 January is followed by the last of February, and then by 31
-- March.
create or replace function awa._next_every(anchor timestamptz, every interval, zone text, after timestamptz)
returns timestamptz
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_seconds numeric;
  v_months int;
  v_days int;
  v_elapsed numeric;
  v_low bigint;
  v_high bigint;
  v_middle bigint;
  v_next timestamptz;
begin
  if every is null or not awa._fits(every, '1 second', '10 years') then
    perform awa._refuse('every must be between 1 second and 10 years, without parts of different signs', every::text,
      'Pass an interval such as 15 minutes or 1 month.');
  end if;
  v_seconds := extract(epoch from every - date_trunc('day', every));
  v_months := extract(year from every) * 12 + extract(month from every);
  v_days := extract(day from every);
  if not anchor between timestamptz '0001-01-03 00:00+00' and timestamptz '9999-12-31 10:00+00'
      or not after < timestamptz '9999-12-31 10:00+00' then
    return null;
  elsif after < anchor then
    return anchor;
  end if;
  -- A month has 28 to 31 days, and a day on which clocks are changed 0 to 48 hours.
  v_elapsed := extract(epoch from after) - extract(epoch from anchor);
  v_low := greatest(0, floor((v_elapsed - 172800) / (v_months * 2678400::numeric + v_days * 86400 + v_seconds)) - 1);
  v_high := ceil((v_elapsed + 172800) / (v_months * 2419200::numeric + v_days * 86400 + v_seconds)) + 1;
  while v_high - v_low > 1 loop
    v_middle := (v_low + v_high) / 2;
    if awa._nth_time(anchor, every, zone, v_middle) > after then
      v_high := v_middle;
    else
      v_low := v_middle;
    end if;
  end loop;
  v_next := awa._nth_time(anchor, every, zone, v_high);
  return case when v_next < timestamptz '9999-12-31 10:00+00' then v_next end;
end
$$;
comment on function awa._next_every is
  'The next of the times anchor + n * every after a time, from n = 0 on; null when there is none';
