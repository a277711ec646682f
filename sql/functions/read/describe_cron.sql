-- Describes a cron expression in words: its times, its days, and its months.
-- Returns what the expression means, not how it is written: 0 0 * * 7 and @weekly are described alike.
-- Raises 22023.
create or replace function awa.describe_cron(cron text) returns text
language plpgsql immutable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_cron constant awa.cron_row := awa._parse_cron(cron);
begin
  return concat_ws(', ', awa._describe_time(v_cron), awa._describe_day(v_cron),
    'in ' || awa._describe_values(nullif(v_cron.months, 8190), 1, 12,
      '{"",January,February,March,April,May,June,July,August,September,October,November,December}'));
end
$$;
comment on function awa.describe_cron is 'Describes a cron expression in words: its times, its days, and its months';

-- The bits of a field of a cron expression as words.
-- Three or more in a row as a range; names instead of numbers where there are some (the first is that of 0).
create or replace function awa._describe_values(
  bits        bigint,
  from_bit    int,
  to_bit      int,
  names       text[] default null,
  conjunction text default 'and'
) returns text
language sql immutable
return (
  select coalesce(string_agg(w.word, ', ' order by w.position) filter (where w.position < w.words)
           || format(' %s ', conjunction), '')
         || max(w.word) filter (where w.position = w.words)
    from (
      select p.word, row_number() over (order by r.first, p.n) as position, count(*) over () as words
        from (
          select min(b.bit) as first, max(b.bit) as last
            from (
              select v.bit, v.bit - row_number() over (order by v.bit) as run
                from generate_series(from_bit, to_bit) v(bit)
               where bits >> v.bit & 1 = 1
            ) b
           group by b.run
        ) r
       cross join lateral (
          select 1 as n, concat_ws(' to ', coalesce(names[r.first + 1], r.first::text),
                   coalesce(names[r.last + 1], r.last::text)) as word
           where r.last > r.first + 1
          union all
          select v.bit, coalesce(names[v.bit + 1], v.bit::text)
            from generate_series(r.first, r.last) v(bit)
           where r.last <= r.first + 1
        ) p
    ) w
);
comment on function awa._describe_values is 'The bits of a field of a cron expression as words';

-- The n for which a field of so many values matches each nth from 0; null when there is none.
-- Such that the steps go on in the next minute, hour or day.
create or replace function awa._describe_step(bits bigint, size int) returns int
language sql immutable
return (
  select n from generate_series(1, size / 2) n
   where size % n = 0 and bits = (select bit_or(1::bigint << v) from generate_series(0, size - 1, n) v)
);
comment on function awa._describe_step is
  'The n for which a field of so many values matches each nth from 0; null when there is none';

-- When on its days a cron expression comes, in words.
-- By the clock on the wall: where clocks change, it comes whenever they show that time, not once for each.
create or replace function awa._describe_time(cron awa.cron_row) returns text
language plpgsql immutable
as $$
#variable_conflict use_variable
declare
  v_times text;
begin
  -- Few times: as a clock shows them
  select string_agg(t.shown, ', ' order by t.shown) into v_times
    from (
      select concat_ws(':', lpad(h::text, 2, '0'), lpad(m::text, 2, '0'),
               case when cron.seconds <> 1 then lpad(s::text, 2, '0') end) as shown
        from generate_series(0, 23) h, generate_series(0, 59) m, generate_series(0, 59) s
       where cron.hours >> h & 1 = 1 and cron.minutes >> m & 1 = 1 and cron.seconds >> s & 1 = 1
       limit 7
    ) t
  having count(*) <= 6;
  if v_times is not null then
    return 'at ' || regexp_replace(v_times, ', ([^ ]+)$', ' and ' || split_part(v_times, ', ', -1))
      || case when cron.by_wall then ' by the clock on the wall' else '' end;
  end if;
  return concat(
    case when cron.seconds <> 1 then awa._describe_unit(cron.seconds, 60, 'second') end,
    case
      when cron.seconds = 1 then awa._describe_unit(cron.minutes, 60, 'minute')
      when cron.minutes <> 1152921504606846975 then awa._describe_within(cron.seconds, cron.minutes, 60, 'minute')
      when awa._describe_step(cron.seconds, 60) is null then ' of every minute'
    end,
    case
      when cron.hours <> 16777215 then awa._describe_within(cron.minutes, cron.hours, 24, 'hour')
      when awa._describe_step(cron.minutes, 60) is null then ' of every hour'
    end);
end
$$;
comment on function awa._describe_time is 'When on its days a cron expression comes, in words';

-- A word, in the plural where there are several bits.
create or replace function awa._plural(word text, bits bigint) returns text
language sql immutable
return word || case when bits & (bits - 1) = 0 then '' else 's' end;
comment on function awa._plural is 'A word, in the plural where there are several bits';

-- A field of seconds, minutes or hours in words.
create or replace function awa._describe_unit(bits bigint, size int, unit text) returns text
language sql immutable
return case
  when awa._describe_step(bits, size) = 1 then 'every ' || unit
  when awa._describe_step(bits, size) > 1 then format('every %s %ss', awa._describe_step(bits, size), unit)
  else format('at %s %s', awa._plural(unit, bits), awa._describe_values(bits, 0, size - 1))
end;
comment on function awa._describe_unit is 'A field of seconds, minutes or hours in words';

-- A field of minutes or hours in words, behind the field of the next smaller unit, whose bits come first.
create or replace function awa._describe_within(smaller bigint, bits bigint, size int, unit text) returns text
language sql immutable
return case
  when smaller & (smaller - 1) = 0 and awa._describe_step(bits, size) is not null then
    ', ' || awa._describe_unit(bits, size, unit)
  else format(' of %s %s', awa._plural(unit, bits), awa._describe_values(bits, 0, size - 1))
end;
comment on function awa._describe_within is
  'A field of minutes or hours in words, behind the field of the next smaller unit, whose bits come first';

-- On which days a cron expression comes, in words.
-- A field that all days match says nothing where both are needed, and everything where one is enough.
create or replace function awa._describe_day(cron awa.cron_row) returns text
language plpgsql immutable
as $$
#variable_conflict use_variable
declare
  v_names constant text[] := '{Sunday,Monday,Tuesday,Wednesday,Thursday,Friday,Saturday}';
  v_is_any_in_month constant boolean := cron.days & 4294967294 = 4294967294;
  v_is_any_in_week constant boolean := cron.weekdays & 127 = 127;
  v_in_month text[];
  v_in_week text[];
  v_bits bigint;
begin
  if not cron.needs_both and (v_is_any_in_month or v_is_any_in_week) then
    return 'every day';
  end if;
  if not v_is_any_in_month then
    if cron.days & 4294967294 <> 0 then
      v_bits := cron.days & 4294967294;
      v_in_month := v_in_month
        || format('%s %s of the month', awa._plural('day', v_bits), awa._describe_values(v_bits, 1, 31));
    end if;
    if cron.days & 1 = 1 then
      v_in_month := v_in_month || text 'the last day of the month';
    end if;
    v_bits := cron.days >> 31;
    if v_bits & 2147483646 <> 0 then
      v_in_month := v_in_month || format('the weekday (Monday to Friday) nearest to day %s of the month',
        awa._describe_values(v_bits & 2147483646, 1, 30));
    end if;
    if v_bits >> 31 = 1 then
      v_in_month := v_in_month || text 'the last weekday (Monday to Friday) of the month';
    end if;
  end if;
  if not v_is_any_in_week then
    for i in 0..6 loop
      v_bits := cron.weekdays >> 7 * i & 127;
      if i = 0 and v_bits & 1 = 1 and v_bits & 64 = 64 then -- Sunday goes on from Saturday
        v_bits := v_bits - 1 + 128;
      end if;
      if v_bits <> 0 then
        v_in_week := v_in_week || concat_ws(' ',
          'the ' || ('{first,second,third,fourth,fifth,last}'::text[])[i],
          awa._describe_values(v_bits, 0, 7, v_names || v_names[1],
            case when v_in_month is not null and cron.needs_both then 'or' else 'and' end),
          case when i > 0 then 'of the month' end);
      end if;
    end loop;
  end if;
  return case
    when v_in_month is null and v_in_week is null then 'every day'
    when v_in_week is null then 'on ' || array_to_string(v_in_month, ' or on ')
    when v_in_month is null then 'on ' || array_to_string(v_in_week, ' or on ')
    when cron.needs_both then
      format('on %s and only if it is %s', array_to_string(v_in_month, ' or '), array_to_string(v_in_week, ' or '))
    else format('on %s or on %s', array_to_string(v_in_month, ' or on '), array_to_string(v_in_week, ' or on '))
  end;
end
$$;
comment on function awa._describe_day is 'On which days a cron expression comes, in words';
