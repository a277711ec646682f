-- Ticks: the times at which schedules fire.

-- The time by which schedules fire.
-- Nominal times, and decisions by them, go by this clock alone. How long a call takes, whether a worker is alive,
-- and the times of jobs go by the server's, clock_timestamp().
-- Why: in one place, so that a test can put another clock here.
create or replace function awa._schedule_clock() returns timestamptz
language sql volatile
return clock_timestamp();
comment on function awa._schedule_clock is 'The time by which schedules fire';

-- The next tick of a schedule after a time; null when there is none.
-- cron and zone are those of the schedule, from _parse_cron and _zone.
-- Raises 22023.
create or replace function awa._tick_after(
  schedule awa.schedules,
  cron awa.cron_row,
  zone text,
  after timestamptz
) returns timestamptz
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_after timestamptz := greatest(after, schedule.starts_at - interval '1 microsecond');
  v_next timestamptz;
begin
  if schedule.cron is not null then
    v_next := awa._next_cron(cron, zone, v_after);
  elsif schedule.starts_at is not null then
    v_next := awa._next_every(schedule.starts_at, schedule.every, zone, v_after);
  else
    v_next := awa._next_every(schedule.made_at, schedule.every, zone, greatest(v_after, schedule.made_at));
  end if;
  return case when v_next < coalesce(schedule.ends_at, 'infinity') then v_next end;
end
$$;
comment on function awa._tick_after is 'The next tick of a schedule after a time; null when there is none';

-- The next tick of a schedule after a time, from its expression and its zone as they are written.
-- Raises 22023.
create or replace function awa._next_tick(schedule awa.schedules, after timestamptz) returns timestamptz
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_cron awa.cron_row;
begin
  v_cron := awa._cron_of(schedule.cron_bits);
  return awa._tick_after(schedule, v_cron, awa._zone(schedule.timezone), after);
end
$$;
comment on function awa._next_tick is
  'The next tick of a schedule after a time, from its expression and its zone as they are written';

-- The last tick of a schedule after a time, and at or before another one; null when there is none.
-- Why: halves the time between them instead of going through all ticks in it.
create or replace function awa._last_tick(
  schedule awa.schedules,
  cron awa.cron_row,
  zone text,
  after timestamptz,
  until timestamptz
) returns timestamptz
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_high timestamptz := least(until, schedule.ends_at - interval '1 microsecond');
  v_last timestamptz := awa._tick_after(schedule, cron, zone, after);
  v_middle timestamptz;
  v_next timestamptz;
begin
  if v_last is null or v_last > v_high then
    return null;
  elsif schedule.cron is not null then
    return awa._last_cron(cron, zone, v_last - interval '1 microsecond', v_high);
  end if;
  while v_high - v_last >= interval '1 second' loop -- no two ticks are nearer
    v_middle := v_last + (v_high - v_last) / 2;
    v_next := awa._tick_after(schedule, cron, zone, v_middle);
    if v_next <= until then
      v_last := v_next;
    else
      v_high := v_middle;
    end if;
  end loop;
  return v_last;
end
$$;
comment on function awa._last_tick is
  'The last tick of a schedule after a time, and at or before another one; null when there is none';

-- How many ticks that have not run a schedule has after a time, and at or before another one; of the first 1000.
create or replace function awa._count_ticks(
  schedule awa.schedules,
  cron awa.cron_row,
  zone text,
  after timestamptz,
  until timestamptz
) returns int
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_tick timestamptz := after;
  v_ticks int := 0;
begin
  for i in 1..1000 loop
    v_tick := awa._tick_after(schedule, cron, zone, v_tick);
    exit when v_tick is null or v_tick > until;
    v_ticks := v_ticks + (not v_tick <@ schedule.ran)::int;
  end loop;
  return v_ticks;
end
$$;
comment on function awa._count_ticks is
  'How many ticks that have not run a schedule has after a time, and at or before another one; of the first 1000';

-- The ticks that a schedule is known to have fired (ran, unsure), once all from one time to another have fired, too.
-- Keeps at most 100 ranges. Of more, two neighbours are put together, and unsure spans them: those that keep it short.
-- Why: the oldest ones would be a year apart while a backfill of that year is done in parts.
create or replace function awa._with_ran(
  inout ran tstzmultirange,
  inout unsure tstzrange,
  first timestamptz,
  last timestamptz
)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_ran constant tstzrange := tstzrange(first, last, '[]');
  v_is_more constant boolean := not ran && v_ran;
  v_gap tstzrange;
begin
  ran := ran + tstzmultirange(v_ran);
  if unsure && v_ran then
    unsure := range_merge(tstzmultirange(unsure) - tstzmultirange(v_ran));
  end if;
  if v_is_more and (select count(*) from unnest(ran)) > 100 then
    select g.gap into v_gap
      from (
        select tstzrange(upper(r.range), lead(lower(r.range)) over (order by r.range), '()') as gap
          from unnest(ran) r(range)
      ) g
     cross join lateral (select range_merge(unsure, g.gap) as unsure) m
     where not upper_inf(g.gap)
     order by upper(m.unsure) - lower(m.unsure), g.gap
     limit 1;
    ran := ran + tstzmultirange(v_gap);
    unsure := range_merge(unsure, v_gap);
  end if;
end
$$;
comment on function awa._with_ran is
  'The ticks that a schedule is known to have fired (ran, unsure), once all from one time to another have fired, too';

-- A schedule that goes on at now: ticks that are due, and have not fired, are counted as missed, and left out.
-- A schedule whose expression can't be read any more has no ticks.
create or replace function awa._without_due(schedule awa.schedules, now timestamptz) returns awa.schedules
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_cron awa.cron_row;
begin
  if schedule.next_tick <= now then
    v_cron := awa._cron_of(schedule.cron_bits);
    schedule.times_missed := schedule.times_missed
      + awa._count_ticks(schedule, v_cron, awa._zone(schedule.timezone), schedule.decided_until, now);
  end if;
  schedule.decided_until := greatest(schedule.decided_until, now);
  return schedule;
exception when invalid_parameter_value then
  schedule.decided_until := greatest(schedule.decided_until, now);
  return schedule;
end
$$;
comment on function awa._without_due is
  'A schedule that goes on at now: ticks that are due, and have not fired, are counted as missed, and left out';

-- Whether something of a schedule is of a clock that was ahead: it lies more than a minute ahead of now.
-- A clock that is set back by less changes nothing: ticks that have fired do not come again.
create or replace function awa._is_ahead(schedule awa.schedules, now timestamptz) returns boolean
language sql immutable
as $$
select greatest(schedule.decided_until, schedule.made_at, schedule.last_tick, schedule.waiting_tick, schedule.failed_at,
  upper(schedule.ran), upper(schedule.unsure),
  -- it was put off: for 30 seconds at most, unless it has failed
  case when schedule.failures = 0 and schedule.next_at > schedule.next_tick then schedule.next_at end
) > now + interval '1 minute'
$$;
comment on function awa._is_ahead is
  'Whether something of a schedule is of a clock that was ahead: it lies more than a minute ahead of now';

-- Whether a schedule was refused last because its queue is full.
create or replace function awa._is_refused(schedule awa.schedules) returns boolean
language sql immutable
as $$ select coalesce(schedule.error like '%(SQLSTATE JQ006)', false) $$;
comment on function awa._is_refused is 'Whether a schedule was refused last because its queue is full';

-- Whether the tick that a schedule could not fire was given up since: it was missed by then.
-- Also where it was the last one.
create or replace function awa._has_given_up(schedule awa.schedules) returns boolean
language sql immutable
as $$
select coalesce(schedule.error is not null and schedule.waiting_tick is null
  and num_nonnulls(schedule.paused_at, schedule.removed_at) = 0
  and (schedule.next_tick is null or schedule.next_tick > schedule.failed_at)
  and schedule.last_tick is distinct from schedule.decided_until, false)
$$;
comment on function awa._has_given_up is
  'Whether the tick that a schedule could not fire was given up since: it was missed by then';

-- A schedule, without the times after now that a clock which was ahead has written; its later ticks come again.
-- A schedule without such times stays as it is.
create or replace function awa._set_right(schedule awa.schedules, now timestamptz) returns awa.schedules
language plpgsql immutable
as $$
begin
  if awa._is_ahead(schedule, now) then
    schedule.made_at := least(schedule.made_at, now);
    schedule.decided_until := least(schedule.decided_until, now);
    schedule.last_tick := case when schedule.last_tick <= now then schedule.last_tick end;
    schedule.waiting_tick := case when schedule.waiting_tick <= now then schedule.waiting_tick end;
    schedule.ran := schedule.ran * tstzmultirange(tstzrange(null, now, '[]'));
    schedule.unsure := schedule.unsure * tstzrange(null, now, '[]');
  end if;
  return schedule;
end
$$;
comment on function awa._set_right is
  'A schedule, without the times after now that a clock which was ahead has written; its later ticks come again';

-- When fire_due has to look at a schedule of these queues, or of any, next; null when never.
create or replace function awa._next_tick_of(queues text[]) returns timestamptz
language plpgsql stable
as $$
#variable_conflict use_variable
begin
  return (
    select s.next_at
      from awa.schedules s
     where s.next_at is not null and (queues is null or s.queue = any(queues))
     order by s.next_at
     limit 1);
end
$$;
comment on function awa._next_tick_of is
  'When fire_due has to look at a schedule of these queues, or of any, next; null when never';

-- Raises JQ007.
create or replace function awa._refuse_schedule(name text) returns void
language plpgsql
as $$
begin
  raise exception using errcode = 'JQ007', message = 'no such schedule', detail = format('Got %s.', left(name, 200)),
    hint = 'See awa.list_schedules().';
end
$$;
comment on function awa._refuse_schedule is 'Raises JQ007';

-- Whether a worker works on a queue.
-- A registered worker counts while it is alive, unless it named other queues; any other caller, for a day after it has
-- claimed from the queue.
create or replace function awa._is_worked_on(queue text) returns boolean
language plpgsql stable
as $$
#variable_conflict use_variable
begin
  return exists (
    select
      from awa.workers w
     where coalesce(queue = any(w.queues), true)
       and w.heartbeat_at > clock_timestamp() - (select s.warn_silence from awa.settings s)
  )
    or exists (
      select
        from awa._lanes_of(awa._queue_id(queue)) l
       cross join lateral (
          select c.claimed_at
            from awa.lease_claims c
           where c.lane = l.lane and c.job_ids <> '{}'
           order by c.lane_seq desc
           limit 1
        ) c
       where c.claimed_at > clock_timestamp() - interval '1 day'
    );
end
$$;
comment on function awa._is_worked_on is 'Whether a worker works on a queue';
