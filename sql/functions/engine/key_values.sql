-- The bytes of unique keys, as jobs carry them.

-- The unique key of a job: see ready_entries.
-- at is the time whose period counts.
-- Raises 22023.
create or replace function awa._unique_key(
  queue         text,
  kind          text,
  args          jsonb,
  unique_key    text,
  unique_by     text[],
  unique_period interval,
  unique_zone   text,
  unique_states text[],
  at            timestamptz
) returns bytea
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_by text[] := coalesce(unique_by, '{kind,args}');
  v_bits int;
  v_parts jsonb;
  v_period record;
  v_ends timestamptz;
  v_key bytea;
begin
  perform awa._check_array('unique_states', unique_states, cardinality(awa._states('known')));
  select bit_or(awa._state_bit(s)) into v_bits
    from unnest(coalesce(unique_states, awa._states('live'))) s
  having bool_and(awa._state_bit(s) is not null);
  if v_bits is null then
    perform awa._refuse('unique_states must name states of a job', unique_states::text,
      'The states are ' || array_to_string(awa._states('known'), ', ') || '.');
  end if;
  if unique_key is not null then
    if char_length(unique_key) not between 1 and 10000 then
      perform awa._refuse('unique_key must be 1 to 10000 characters long', unique_key,
        'Pass a text that says what there may be one of, or leave it out.');
    end if;
    v_parts := jsonb_build_object('key', unique_key);
  elsif unique_by is null or unique_by = '{kind,args}' then
    v_parts := jsonb_build_object('kind', kind, 'args', coalesce(args, '{}'));
  else
    perform awa._check_array('unique_by', v_by, 3);
    if cardinality(v_by) = 0 or not v_by <@ '{queue,kind,args}' then
      perform awa._refuse('unique_by must name queue, kind or args', v_by::text,
        'Pass any of the three, such as {kind,args}.');
    end if;
    v_parts := case when 'kind' = any(v_by) then jsonb_build_object('kind', kind) else '{}' end
      || case when 'args' = any(v_by) then jsonb_build_object('args', coalesce(args, '{}')) else '{}' end;
  end if;
  if unique_period is not null or unique_zone <> 'UTC' then
    v_period := awa._unique_period(unique_period, unique_zone, at);
    v_parts := v_parts
      || case when unique_period is not null then jsonb_build_object('period', v_period.name) else '{}' end;
    v_ends := v_period.ends;
  end if;
  v_key := sha256(convert_to(awa._canonical(v_parts::text), 'UTF8'));
  if unique_key is null and 'queue' = any(v_by) then
    v_key := awa._for_queue(v_key, awa._queue_id(queue));
    v_bits := v_bits | awa._queue_bit();
  end if;
  if unique_key is null and 'args' = any(v_by) then
    v_bits := v_bits | awa._args_bit();
  end if;
  return v_key || substr(int4send(v_bits), 3)
    || case
      when v_ends is not null and unique_states is null then int8send(ceil(extract(epoch from v_ends))::bigint)
      else ''
    end;
end
$$;
comment on function awa._unique_key is 'The unique key of a job: see ready_entries';

-- A key of one queue, from a key of all queues; and the other way round.
-- Why: a job that is moved has to get the key of its new queue, and does not store the values that its key is made of.
create or replace function awa._for_queue(key bytea, queue_id bigint) returns bytea
language sql immutable strict parallel safe
return (
  select string_agg(int8send(
    ('x' || encode(substr(key, i, 8), 'hex'))::bit(64)::bigint # (
      'x' || encode(substr(sha256(int8send(queue_id)), i, 8), 'hex')
    )::bit(64)::bigint
  ),
    '' order by i)
    from unnest('{1,9,17,25}'::int[]) i);
comment on function awa._for_queue is 'A key of one queue, from a key of all queues; and the other way round';

-- The bit of a unique key that says that the queue is a part of it.
-- Why: the highest of the two bytes. States have the others, from the lowest on, so fourteen of them fit beside the one
-- for args.
create or replace function awa._queue_bit() returns int
language sql immutable parallel safe
return 1 << 15;
comment on function awa._queue_bit is 'The bit of a unique key that says that the queue is a part of it';

-- The bit of a unique key that says that the args are a part of it.
create or replace function awa._args_bit() returns int
language sql immutable parallel safe
return 1 << 14;
comment on function awa._args_bit is 'The bit of a unique key that says that the args are a part of it';

-- Whether the queue is a part of a job's key.
create or replace function awa._names_queue(unique_key bytea) returns boolean
language sql immutable parallel safe
return coalesce((get_byte(unique_key, 32) << 8) & awa._queue_bit() <> 0, false);
comment on function awa._names_queue is 'Whether the queue is a part of a job''s key';

-- Whether the args are a part of a job's key.
create or replace function awa._names_args(unique_key bytea) returns boolean
language sql immutable parallel safe
return coalesce((get_byte(unique_key, 32) << 8) & awa._args_bit() <> 0, false);
comment on function awa._names_args is 'Whether the args are a part of a job''s key';

-- The key of a job that goes from one queue to another; the same, unless the queue is a part of it.
create or replace function awa._moved_key(unique_key bytea, from_queue_id bigint, to_queue_id bigint) returns bytea
language sql immutable parallel safe
return case
  when awa._names_queue(unique_key)
    then awa._for_queue(awa._for_queue(substr(unique_key, 1, 32), from_queue_id), to_queue_id) || substr(unique_key, 33)
  else unique_key
end;
comment on function awa._moved_key is
  'The key of a job that goes from one queue to another; the same, unless the queue is a part of it';

-- The period in which a time lies: its name, and its end; null without a period.
-- A day (or 24 hours), a week (from Monday), and whole months and years are those of the calendar in a zone; others
-- count from 1970.
-- Raises 22023.
create or replace function awa._unique_period(
  length interval,
  zone text,
  at timestamptz,
  out name jsonb,
  out ends timestamptz
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_zone text := coalesce(zone, 'UTC');
  v_months int := extract(year from length) * 12 + extract(month from length);
  v_days int := extract(day from length);
  v_seconds numeric := extract(hour from length) * 3600 + extract(
    minute from length
  ) * 60 + extract(second from length);
  v_local timestamp;
  v_starts timestamptz;
begin
  if not awa._fits(length, '1 millisecond', '10 years') then
    perform awa._refuse('unique_period must be between 1 millisecond and 10 years', length::text,
      'Leave it out for a key that holds at any time.');
  end if;
  if v_zone <> 'UTC' then
    v_zone := awa._zone(v_zone, 'unique_zone');
  end if;
  if length is null then
    return;
  end if;
  if (v_months, v_days, v_seconds) = (0, 0, 86400) then
    v_days := 1;
    v_seconds := 0;
  end if;
  if at < '0001-01-02 00:00:00+00' then
    at := clock_timestamp(); -- -infinity, say, which means now
  end if;
  v_local := at at time zone v_zone;
  if v_months > 0 and v_days = 0 and v_seconds = 0 then
    v_local := timestamp '1970-01-01' + make_interval(
      months => floor(
        ((extract(year from v_local) - 1970) * 12 + extract(month from v_local) - 1) / v_months
      )::int * v_months
    );
    ends := (v_local + length) at time zone v_zone;
    v_starts := v_local at time zone v_zone;
  elsif v_months = 0 and v_days in (1, 7) and v_seconds = 0 then
    -- a Monday
    v_local := date '1970-01-05' + floor((v_local::date - date '1970-01-05') / v_days::numeric)::int * v_days;
    ends := (v_local + make_interval(days => v_days)) at time zone v_zone;
    v_starts := v_local at time zone v_zone;
  else
    v_starts := to_timestamp(floor(extract(epoch from at) / extract(epoch from length)) * extract(epoch from length));
    ends := to_timestamp((floor(extract(epoch from at) / extract(epoch from length)) + 1) * extract(epoch from length));
  end if;
  name := jsonb_build_array(v_months, v_days, trim_scale(v_seconds), trim_scale(extract(epoch from v_starts)));
end
$$;
comment on function awa._unique_period is
  'The period in which a time lies: its name, and its end; null without a period';

-- The text of a jsonb value, the same for values that are equal: without zeros at the ends of fractions.
-- In strings they stay.
-- Why: 1 and 1.0 are equal, and have two texts. Only texts that may have such zeros are taken apart.
create or replace function awa._canonical(value text) returns text
language plpgsql immutable
as $$
begin
  if value !~ E'\\.[0-9]*0([^0-9]|$)' then
    return value;
  end if;
  -- A quotation mark or backslash within a string is put aside: as a control character, of which a JSON text has none.
  -- Then each second part lies within a string.
  return (
    select replace(replace(string_agg(
             case
               when p.n % 2 = 0 then p.part
               else regexp_replace(p.part, E'(\\.[0-9]*[1-9])0+(?![0-9])|\\.0+(?![0-9])', E'\\1', 'g')
             end,
             '"'
              order by p.n), chr(2), E'\\"'), chr(1), E'\\\\')
      from string_to_table(replace(replace(value, E'\\\\', chr(1)), E'\\"', chr(2)), '"') with ordinality p(part, n));
end
$$;
comment on function awa._canonical is
  'The text of a jsonb value, the same for values that are equal: without zeros at the ends of fractions';
