-- Cron expressions: how one is read, and which times of a calendar it matches. Zones and clock changes are in
-- clock.sql.

-- An expression that was read. Bits are counted from 0.
create or replace view awa.cron_row as
select 0::bigint as seconds, 0::bigint as minutes, 0::bigint as hours, 0::bigint as days, 0::bigint as months,
       0::bigint as weekdays, false as needs_both, false as by_wall
 where false;
comment on view awa.cron_row is
  'An expression that _parse_cron has read, as sets of bits. The view itself is always empty';
comment on column awa.cron_row.seconds is 'A bit for each second; minutes and hours likewise';
comment on column awa.cron_row.days is
  'Bits 1 to 31: the day of the month. Bit 0: the last day. Bits 32 to 62: the weekday nearest to day 1 to 31, or to '
  'the last day of a shorter month, so that LW is bit 62';
comment on column awa.cron_row.months is 'Bits 1 to 12';
comment on column awa.cron_row.weekdays is
  'Seven bits from Sunday, for each of these in turn: all such weekdays of a month, the first, second, third, fourth, '
  'fifth, and the last';
comment on column awa.cron_row.needs_both is
  'A day has to match both day fields, since one of them begins with *; otherwise one of them';
comment on column awa.cron_row.by_wall is
  'The minute or the hour begins with *, so the expression goes by the clock on the wall when clocks change';

-- Refuses a cron expression, and names the field and the problem.
-- Raises 22023.
create or replace function awa._refuse_cron(cron text, field int, problem text, hint text) returns void
language sql
as $$
  select awa._refuse(
    format('cron, %s: %s', ('{second,minute,hour,day of month,month,day of week}'::text[])[field], problem),
    cron, hint)
$$;
comment on function awa._refuse_cron is 'Refuses a cron expression, and names the field and the problem';

-- A hint for a part of a field that can't be read.
-- The part is in capitals.
create or replace function awa._cron_hint(field int, part text) returns text
language sql immutable
return case
  when part = '' then 'Remove the comma that is too many.'
  when part = '?' then 'Write * instead of ?.'
  when part ~ '^H([(/]|$)' then 'Choose a value: H, which spreads jobs by a hash, is not supported.'
  when part ~ '^R([(/]|$)|~' then 'Choose a value: random times are not supported.'
  when part ~ '^(19|20)[0-9][0-9]' and field = 6 then
    'Years can''t be given: leave the year out, and pass ends_at to schedule.'
  when field = 6 and part ~ '^([A-Z_]+/[A-Z].*|UTC|GMT|[A-Z]{2,4}T|Z|((UTC|GMT)?[+-][0-9:]+))$' then
    'Pass the zone as timezone, not in the expression.'
  when field = 4 and part ~ '^L-' then
    'Days that are counted back from the last one are not supported: L is the last day, LW the last weekday.'
  when field = 4 and part ~ 'W' then
    'Write 15W for the weekday nearest to day 15, or LW for the last weekday of the month; not in ranges, nor with '
    'steps.'
  when field = 4 and part ~ 'L' and part !~ '[A-Z]{3}' then
    'Write L for the last day of the month, or LW for the last weekday; not in ranges, nor with steps.'
  when field = 6 and part ~ '[#L]' then
    'Write 5L for the last Friday of the month, or 5#2 for the second one; not in ranges, nor with steps.'
  when part ~ '[#LW]' and part !~ '[A-Z]{3}' then
    'L, W and # stand in day fields only: L, LW and 15W in the day of month, 5L and 5#2 in the day of week.'
  when part ~ '^[A-Z]{4,}$' then 'Write names with three letters.'
  else format('Write %s; lists such as 1,3, ranges such as 1-5, and steps such as */2.',
    (array['0 to 59', '0 to 59', '0 to 23', '1 to 31', '1 to 12, or JAN to DEC',
      '0 to 7, or SUN to SAT; 0 and 7 are Sunday'])[field])
end;
comment on function awa._cron_hint is 'A hint for a part of a field that can''t be read';

-- The number of a value or name of a field of a cron expression.
-- part, in which it stands, is for the message.
-- Raises 22023.
create or replace function awa._cron_value(cron text, field int, part text, value text) returns int
language plpgsql immutable
as $$
declare
  v_min constant int := ('{0,0,0,1,1,0}'::int[])[field];
  v_max constant int := ('{59,59,23,31,12,7}'::int[])[field];
  v_value int;
begin
  if value ~ '^[0-9]+$' then
    v_value := coalesce(nullif(left(ltrim(value, '0'), 5), ''), '0');
    if v_value between v_min and v_max then
      return v_value;
    end if;
  elsif field = 5 then
    v_value := array_position('{JAN,FEB,MAR,APR,MAY,JUN,JUL,AUG,SEP,OCT,NOV,DEC}'::text[], value);
  elsif field = 6 then
    v_value := array_position('{SUN,MON,TUE,WED,THU,FRI,SAT}'::text[], value) - 1;
  end if;
  if v_value is null then
    perform awa._refuse_cron(cron, field, format('can''t read "%s"', left(part, 50)), awa._cron_hint(field, part));
  elsif value ~ '^[0-9]' then
    perform awa._refuse_cron(cron, field, format('%s is not in the range %s to %s', left(value, 50), v_min, v_max),
      case when field = 3 and v_value = 24 then 'Midnight is hour 0.' else awa._cron_hint(field, part) end);
  end if;
  return v_value;
end
$$;
comment on function awa._cron_value is 'The number of a value or name of a field of a cron expression';

-- The bits of a field of a cron expression.
-- The field is in capitals. Fields are numbered from 1, the second.
-- Raises 22023.
create or replace function awa._cron_field(cron text, field int, value text) returns bigint
language plpgsql immutable
as $$
#variable_conflict use_variable
declare
  v_first constant int := ('{0,0,0,1,1,1}'::int[])[field]; -- 0 and 7 are one weekday
  v_max constant int := ('{59,59,23,31,12,7}'::int[])[field];
  v_all constant bigint :=
    ('{1152921504606846975,1152921504606846975,16777215,4294967294,8190,127}'::bigint[])[field];
  v_bits bigint := 0;
  v_part text;
  v_parts text[];
  v_from int;
  v_to int;
  v_step int;
  v_value int;
begin
  if value = '*' then
    return v_all;
  end if;
  foreach v_part in array string_to_array(value, ',') loop
    if field = 4 and v_part in ('L', 'LW') then
      v_bits := v_bits | case v_part when 'L' then 1::bigint else 1::bigint << 62 end;
      continue;
    elsif field = 4 and v_part ~ '^[0-9]+W$' then
      v_bits := v_bits | (1::bigint << 31 + awa._cron_value(cron, field, v_part, rtrim(v_part, 'W')));
      continue;
    elsif field = 6 and v_part ~ '^([0-9]+|[A-Z]{3})(#[0-9]+|L)$' then
      v_parts := regexp_match(v_part, '^([0-9]+|[A-Z]{3})(#([0-9]+)|L)$');
      if v_parts[3] !~ '^[1-5]$' then
        perform awa._refuse_cron(cron, field, format('%s is not in the range 1 to 5', v_parts[3]),
          'Write 5#2 for the second Friday of the month, or 5L for the last one.');
      end if;
      v_value := awa._cron_value(cron, field, v_part, v_parts[1]) % 7;
      v_bits := v_bits | (1::bigint << coalesce(v_parts[3]::int, 6) * 7 + v_value);
      continue;
    end if;
    v_parts := regexp_match(v_part, '^([*]|[0-9]+|[A-Z]+)(?:-([0-9]+|[A-Z]+))?(?:/([0-9]+))?$');
    if v_parts is null or v_parts[1] = '*' and v_parts[2] is not null then
      perform awa._refuse_cron(cron, field,
        case v_part when '' then 'a part is empty' else format('can''t read "%s"', left(v_part, 50)) end,
        awa._cron_hint(field, v_part));
    end if;
    v_from := case v_parts[1]
      when '*' then case field when 6 then 0 else v_first end
      else awa._cron_value(cron, field, v_part, v_parts[1])
    end;
    v_to := case
      when v_parts[2] is not null then awa._cron_value(cron, field, v_part, v_parts[2])
      when v_parts[1] = '*' or v_parts[3] is not null then v_max
      else v_from
    end;
    if v_to < v_from then
      perform awa._refuse_cron(cron, field, format('the range %s ends before it begins', left(v_part, 50)),
        format('Ranges do not go on past the end of the field. Write %s-%s%s instead.', v_from, v_max,
          case when v_to = v_first then ',' || v_to when v_to > v_first then format(',%s-%s', v_first, v_to) end));
    elsif ltrim(v_parts[3], '0') = '' then
      perform awa._refuse_cron(cron, field, 'a step of 0 never goes on',
        format('Write %s for each value.', v_parts[1] || coalesce('-' || v_parts[2], '')));
    elsif char_length(v_parts[3]) > 3 or v_parts[3]::int > v_max - v_first then
      perform awa._refuse_cron(cron, field, format('the step %s is larger than the field', left(v_parts[3], 50)),
        format('Steps begin anew with each %s. Pass every to schedule for an interval of any length.',
          ('{minute,hour,day,month,year,week}'::text[])[field]));
    end if;
    v_step := coalesce(v_parts[3]::int, 1);
    for i in v_from..v_to by v_step loop
      v_bits := v_bits | (1::bigint << case field when 6 then i % 7 else i end);
    end loop;
  end loop;
  return v_bits;
end
$$;
comment on function awa._cron_field is 'The bits of a field of a cron expression';

-- Reads a cron expression: five fields, six with seconds first, or a name such as @daily.
-- Raises 22023.
create or replace function awa._parse_cron(cron text) returns awa.cron_row
language plpgsql immutable
as $$
declare
  v_text text;
  v_fields text[];
  v_cron awa.cron_row;
begin
  if char_length(cron) > 1000 then
    perform awa._refuse('cron must be at most 1000 characters long', cron,
      'Use ranges and steps instead of long lists.');
  end if;
  v_text := upper(btrim(cron, E' \t\n\r\f\v') collate "C");
  if v_text ~ '^@' then
    v_text := case v_text
      when '@YEARLY' then '0 0 1 1 *'
      when '@ANNUALLY' then '0 0 1 1 *'
      when '@MONTHLY' then '0 0 1 * *'
      when '@WEEKLY' then '0 0 * * 0'
      when '@DAILY' then '0 0 * * *'
      when '@MIDNIGHT' then '0 0 * * *'
      when '@HOURLY' then '0 * * * *'
    end;
    if v_text is null then
      perform awa._refuse('cron has an unknown name', cron,
        case
          when cron ~* '@reboot' then 'Nothing starts with the server: enqueue a job when your program starts.'
          when cron ~* '@(yearly|annually|monthly|weekly|daily|midnight|hourly)([^[:alnum:]_]|$)' then
            'Write nothing else beside such a name.'
          when cron ~* '@every' then 'Pass every to schedule, such as every => ''90 minutes''.'
          else 'The names are @yearly, @annually, @monthly, @weekly, @daily, @midnight and @hourly.'
        end);
    end if;
  end if;
  if v_text ~ '^[A-Z_]+=' then
    perform awa._refuse('cron must not begin with a setting', cron,
      'Pass the zone as timezone, not in the expression.');
  end if;
  v_fields := regexp_split_to_array(v_text, E'[ \t\n\r\f\v]+');
  if cardinality(v_fields) = 5 then
    v_fields := array_prepend('0', v_fields);
  end if;
  if v_text is null or cardinality(v_fields) <> 6 then
    perform awa._refuse('cron must have five fields, or six with seconds first', cron,
      case
        when cardinality(v_fields) > 6 then
          format('These are %s fields. Leave years and zones out: a zone is passed as timezone.', cardinality(v_fields))
        else 'The fields are minute, hour, day of month, month, day of week: 30 9 * * MON-FRI.'
      end);
  end if;
  v_cron.weekdays := awa._cron_field(cron, 6, v_fields[6]); -- first, since it refuses a zone or a year at the end
  v_cron.seconds := awa._cron_field(cron, 1, v_fields[1]);
  v_cron.minutes := awa._cron_field(cron, 2, v_fields[2]);
  v_cron.hours := awa._cron_field(cron, 3, v_fields[3]);
  v_cron.days := awa._cron_field(cron, 4, v_fields[4]);
  v_cron.months := awa._cron_field(cron, 5, v_fields[5]);
  v_cron.needs_both := v_fields[4] ~ '^[*]' or v_fields[6] ~ '^[*]';
  v_cron.by_wall := v_fields[2] ~ '^[*]' or v_fields[3] ~ '^[*]';
  if not awa._cron_comes(v_cron) then
    perform awa._refuse('cron, day of month: no such day ever comes', cron,
      case v_fields[6]
        when '*' then 'The months have no such day.'
        else 'Where a day field begins with *, both have to match, and in these months no day does.'
      end);
  end if;
  return v_cron;
end
$$;
comment on function awa._parse_cron is
  'Reads a cron expression: five fields, six with seconds first, or a name such as @daily';

-- A cron expression as numbers that can be stored; null for none.
-- Raises 22023.
-- Why: reading an expression takes longer than finding its next time. schedules.cron_bits holds the result of when the
-- schedule was saved, and _refresh_expressions reads each one anew once an hour.
create or replace function awa._cron_bits(cron text) returns bigint[]
language plpgsql immutable strict
as $$
declare
  v_cron constant awa.cron_row := awa._parse_cron(cron);
begin
  return array[v_cron.seconds, v_cron.minutes, v_cron.hours, v_cron.days, v_cron.months, v_cron.weekdays,
    v_cron.needs_both::int, v_cron.by_wall::int];
end
$$;
comment on function awa._cron_bits is 'A cron expression as numbers that can be stored; null for none';

-- A cron expression that was read by _cron_bits.
create or replace function awa._cron_of(bits bigint[]) returns awa.cron_row
language sql immutable
return row(bits[1], bits[2], bits[3], bits[4], bits[5], bits[6], bits[7] = 1, bits[8] = 1)::awa.cron_row;
comment on function awa._cron_of is 'A cron expression that was read by _cron_bits';

-- The days of a month that match a cron expression, as bits 1 to 31.
-- length is the number of the month's days, first_weekday the day of the week on which it begins; 0 is Sunday.
create or replace function awa._cron_days(cron awa.cron_row, length int, first_weekday int) returns bigint
language plpgsql immutable
as $$
#variable_conflict use_variable
declare
  v_mask constant bigint := (2::bigint << length) - 2;
  v_days bigint := (cron.days & v_mask) | ((cron.days & 1) << length);
  v_weekdays bigint := 0;
  v_group bigint;
  v_weekday int;
  v_day int;
begin
  if cron.days >> 32 <> 0 then
    for v_nearest in 1..31 loop
      if cron.days >> 31 + v_nearest & 1 = 1 then
        v_day := least(v_nearest, length);
        v_weekday := (first_weekday + v_day - 1) % 7;
        v_days := v_days | (1::bigint << v_day + case
          when v_weekday = 6 then case v_day when 1 then 2 else -1 end
          when v_weekday = 0 then case v_day when length then -2 else 1 end
          else 0
        end);
      end if;
    end loop;
  end if;
  if cron.weekdays = 127 then
    v_weekdays := v_mask;
  else
    for i in 0..6 loop
      v_group := cron.weekdays >> 7 * i & 127;
      continue when v_group = 0;
      -- The weekday of the first of seven days: the last seven, or those from the first of the month
      v_weekday := case i when 6 then (first_weekday + length) % 7 else first_weekday end;
      v_group := ((v_group >> v_weekday) | (v_group << 7 - v_weekday)) & 127;
      v_weekdays := v_weekdays | case i
        when 0 then v_group * 270549121 << 1 -- the same in each of five weeks
        when 6 then v_group << length - 6
        else v_group << 7 * i - 6
      end;
      exit when cron.weekdays >> 7 * (i + 1) = 0;
    end loop;
  end if;
  return v_mask & case when cron.needs_both then v_days & v_weekdays else v_days | v_weekdays end;
end
$$;
comment on function awa._cron_days is 'The days of a month that match a cron expression, as bits 1 to 31';

-- Whether any day of the fourteen calendars that years have matches a cron expression.
create or replace function awa._cron_comes(cron awa.cron_row) returns boolean
language plpgsql immutable
as $$
begin
  for v_month in 1..12 loop
    continue when cron.months >> v_month & 1 = 0;
    for v_weekday in 0..6 loop
      if awa._cron_days(cron, ('{31,29,31,30,31,30,31,31,30,31,30,31}'::int[])[v_month], v_weekday) <> 0
          or v_month = 2 and awa._cron_days(cron, 28, v_weekday) <> 0 then
        return true;
      end if;
    end loop;
  end loop;
  return false;
end
$$;
comment on function awa._cron_comes is
  'Whether any day of the fourteen calendars that years have matches a cron expression';

-- The lowest bit that is set, from a position on; null when there is none.
create or replace function awa._lowest_bit(bits bigint, from_bit int default 0) returns int
language sql immutable
return 64 - nullif(position(B'1' in ((bits >> from_bit << from_bit) & -(bits >> from_bit << from_bit))::bit(64)), 0);
comment on function awa._lowest_bit is 'The lowest bit that is set, from a position on; null when there is none';

-- The first second of a day that matches a cron expression, from a second on; null when there is none.
create or replace function awa._cron_second(cron awa.cron_row, second int) returns int
language plpgsql immutable
as $$
#variable_conflict use_variable
declare
  v_hour int := second / 3600;
  v_minute int := second / 60 % 60;
  v_second int := second % 60;
begin
  if cron.hours >> v_hour & 1 = 1 then
    if cron.minutes >> v_minute & 1 = 1 then
      v_second := awa._lowest_bit(cron.seconds, v_second);
      if v_second is not null then
        return v_hour * 3600 + v_minute * 60 + v_second;
      end if;
    end if;
    v_minute := awa._lowest_bit(cron.minutes, v_minute + 1);
    if v_minute is not null then
      return v_hour * 3600 + v_minute * 60 + awa._lowest_bit(cron.seconds);
    end if;
  end if;
  return awa._lowest_bit(cron.hours, v_hour + 1) * 3600 + awa._lowest_bit(cron.minutes) * 60
    + awa._lowest_bit(cron.seconds);
end
$$;
comment on function awa._cron_second is
  'The first second of a day that matches a cron expression, from a second on; null when there is none';

-- The first time of a calendar that matches a cron expression, at or after one of whole seconds.
-- Null when there is none before the year 10000.
-- Why: the rarest days, such as 29 February on a Monday, come again within 40 years, so it looks at few months.
create or replace function awa._cron_time(cron awa.cron_row, at timestamp) returns timestamp
language plpgsql immutable
as $$
#variable_conflict use_variable
declare
  v_year int := extract(year from at);
  v_month int := extract(month from at);
  v_day int := extract(day from at);
  v_first date := at::date - (v_day - 1);
  v_days bigint; -- by itself, so that _lowest_bit becomes a part of the expression
  v_second int := awa._cron_second(cron, extract(epoch from at::time)::int);
begin
  if v_second is null then
    v_day := v_day + 1;
  end if;
  loop
    if cron.months >> v_month & 1 = 1 then
      v_days := awa._cron_days(cron, (v_first + interval '1 month')::date - v_first, extract(dow from v_first)::int);
      v_day := awa._lowest_bit(v_days, v_day);
      if v_day is not null then
        v_first := v_first + (v_day - 1);
        return v_first
          + make_interval(secs => case when v_first = at::date then v_second else awa._cron_second(cron, 0) end);
      end if;
    end if;
    v_day := 1;
    v_month := awa._lowest_bit(cron.months, v_month + 1);
    if v_month is null then
      v_year := v_year + 1;
      v_month := awa._lowest_bit(cron.months);
      if v_year > 9999 then
        return null;
      end if;
    end if;
    v_first := make_date(v_year, v_month, 1);
  end loop;
end
$$;
comment on function awa._cron_time is
  'The first time of a calendar that matches a cron expression, at or after one of whole seconds';
