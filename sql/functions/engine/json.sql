-- Values of SQL types from JSON.

-- An interval from a text.
-- Raises 22023.
create or replace function awa._as_interval(value text, argument text) returns interval
language plpgsql strict
as $$
begin
  return value::interval;
exception when invalid_datetime_format or datetime_field_overflow or interval_field_overflow then
  perform awa._refuse(argument || ' must be an interval', value, 'Pass something like "1 day" or "90 minutes".');
end
$$;
comment on function awa._as_interval is 'An interval from a text';

-- The strings of a JSON array; null for any other value.
create or replace function awa._texts(value jsonb) returns text[]
language plpgsql immutable
as $$
begin
  if jsonb_typeof(value) = 'array' then
    return array(select t.text from jsonb_array_elements_text(value) with ordinality t(text, n) order by t.n);
  end if;
  return null;
end
$$;
comment on function awa._texts is 'The strings of a JSON array; null for any other value';

-- A timestamp from a text as in RFC 3339, whatever DateStyle and TimeZone are.
-- The seconds may be missing, and the zone may be shorter. The server itself takes neither the year 0000, nor offsets
-- of 16 hours and more, nor very long fractions.
-- Raises 22023.
create or replace function awa._timestamp(value text, argument text default 'run_at') returns timestamptz
language plpgsql strict
as $$
declare
  v_parts text[] := regexp_match(regexp_replace(value, '([.][0-9]{9})[0-9]+', E'\\1'),
    '^([0-9]{4})(-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.][0-9]+)?)?) '
    '?(?:Z|([-+])([01][0-9]|2[0-3])(?::?([0-5][0-9])|:([0-5][0-9]):([0-5][0-9]))?)$',
    'i');
begin
  if v_parts is null then
    raise exception using errcode = '22007';
  end if;
  return (
    case v_parts[1] when '0000' then '0001' else v_parts[1] end || v_parts[2] || ' ' || v_parts[3] || '+00'
      || case v_parts[1] when '0000' then ' BC' else '' end
  )::timestamptz
    - case v_parts[4] when '-' then -1 else 1 end
      * make_interval(hours => coalesce(v_parts[5], '0')::int, mins => coalesce(v_parts[6], v_parts[7], '0')::int,
        secs => coalesce(v_parts[8], '0')::int);
exception when data_exception then
  perform awa._refuse(argument || ' must be a timestamp as in RFC 3339, with a zone', value,
    'Pass something like "2031-05-01T09:00:00+02:00" or "2031-05-01T07:00:00Z".');
end
$$;
comment on function awa._timestamp is 'A timestamp from a text as in RFC 3339, whatever DateStyle and TimeZone are';

-- Whether a text is a time that _timestamp takes, in a form that PostgreSQL itself reads, whatever the settings are.
-- False for other forms that _timestamp takes: this one is a glance, for many texts.
create or replace function awa._is_plain_time(value text) returns boolean
language sql immutable parallel safe
return value ~ ('^[12][0-9]{3}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|'
  '(?:0[13578]|1[02])-31)[T ](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:[.][0-9]{1,6})?'
  '(?:Z|[-+](?:0[0-9]|1[0-4]):[0-5][0-9])$');
comment on function awa._is_plain_time is
  'Whether a text is a time that _timestamp takes, in a form that PostgreSQL itself reads, whatever the settings are';

-- The time in a text, as _timestamp.
-- Raises 22023.
-- Why: the planner puts the expression in the place of the call, and _timestamp takes long: it has a subtransaction.
create or replace function awa._time_of(value text, argument text default 'run_at') returns timestamptz
language sql
return case when awa._is_plain_time(value) then value::timestamptz else awa._timestamp(value, argument) end;
comment on function awa._time_of is 'The time in a text, as _timestamp';

-- Whether a JSON value is null or an array of strings.
create or replace function awa._is_list(value jsonb) returns boolean
language sql immutable
return value = 'null'
  or jsonb_typeof(value) = 'array' and not jsonb_path_exists(value, 'strict $[*] ? (@.type() <> "string")');
comment on function awa._is_list is 'Whether a JSON value is null or an array of strings';
