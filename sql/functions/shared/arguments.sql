-- What every capability needs to check its arguments.

-- Raises 22023 with a constant message, the value in DETAIL and what to do in HINT.
create or replace function awa._refuse(message text, value text, hint text) returns void
language plpgsql
as $$
begin
  raise exception using errcode = '22023', message = message, detail = 'Got ' || coalesce(nullif(left(value, 200), ''), case value when '' then 'an empty text' else 'null' end) || '.', hint = hint;
end
$$;
comment on function awa._refuse is 'Raises 22023';

-- A JSON value for a message: a large one is not written out, which might take more memory than there is.
create or replace function awa._brief(value jsonb) returns text
language sql immutable
return case when pg_column_size(value) > 1000 then format('a JSON %s of more than 1000 bytes', jsonb_typeof(value)) else value::text end;
comment on function awa._brief is 'A JSON value for a message';

-- Refuses a queue or a kind that is null, empty or too long.
create or replace function awa._check_name(argument text, value text) returns void
language plpgsql
as $$
begin
  if value is null or char_length(value) not between 1 and 200 then
    perform awa._refuse(argument || ' must be 1 to 200 characters long', value, 'Pass a short name, such as email or send_invoice.');
  end if;
end
$$;
comment on function awa._check_name is 'Refuses a queue or a kind that is null, empty or too long';

-- Refuses an array that has several dimensions, is too long for one call, or holds nulls where it may not. A null array passes.
create or replace function awa._check_array(argument text, value anyarray, max_length int, may_hold_null boolean default false) returns void
language plpgsql
as $$
begin
  if cardinality(value) > max_length or array_ndims(value) > 1 then
    perform awa._refuse(format('%s must be an array of at most %s elements, of one dimension', argument, max_length),
      format('%s elements in %s dimensions', cardinality(value), array_ndims(value)), format('Pass at most %s in one call.', max_length));
  end if;
  if not may_hold_null and array_position(value, null) is not null then
    perform awa._refuse(argument || ' must not hold null', null, 'Leave the element out, or pass a value.');
  end if;
end
$$;
comment on function awa._check_array is 'Refuses an array that has several dimensions, is too long, or holds nulls where it may not';

-- Whether an interval lies in a range. One whose parts have different signs does not: what it comes to depends on where it is added.
create or replace function awa._fits(value interval, shortest interval, longest interval) returns boolean
language sql immutable parallel safe
return value between shortest and longest and least(extract(year from value), extract(month from value), extract(day from value),
  extract(hour from value), extract(minute from value), extract(second from value)) >= 0;
comment on function awa._fits is 'Whether an interval lies in a range, and has no parts of different signs';

-- Refuses an isolation level whose snapshot could be older than the locks. Raises JQ004.
create or replace function awa._check_isolation() returns void
language plpgsql
as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception using errcode = 'JQ004', message = 'this call needs isolation level READ COMMITTED',
      detail = 'The transaction runs at ' || upper(current_setting('transaction_isolation')) || '.',
      hint = 'It decides by what others have just committed; call it in a transaction of its own.';
  end if;
end
$$;
comment on function awa._check_isolation is 'Refuses an isolation level other than READ COMMITTED';

-- The bytes of a JSON value as text, which clients get. Beside are those of what goes along with it. Refuses what is too long, or nested too deep for clients to read.
-- Why: what is stored says little of the text, since a number such as 1e100000 takes a few bytes. But 2,000 bytes are never nested more than 500 deep, nor have a text
-- that is too long for the server itself.
create or replace function awa._json_bytes(argument text, value jsonb, beside int default 0, most int default 134217728) returns int
language plpgsql strict
as $$
declare
  v_bytes int;
begin
  if pg_column_size(array[value]) <= 2000 then -- in an array it is not compressed
    v_bytes := octet_length(value::text);
  else
    begin
      v_bytes := octet_length(value::text);
    exception when program_limit_exceeded then
      v_bytes := 2147483647;
    end;
  end if;
  if v_bytes > most - beside then
    perform awa._refuse(
      format('%s must be at most %s of text', argument || case when beside > 0 then ' and what goes along with it' else '' end, replace(upper(pg_size_pretty(most::bigint)), 'B', 'iB')),
      coalesce(nullif(v_bytes, 2147483647) || ' bytes', 'more than 1 GiB') || case when beside > 0 then format(' beside %s', beside) else '' end,
      'Store it elsewhere, and pass where.');
  end if;
  if v_bytes > 1000 and jsonb_path_exists(value, 'strict $.**{500} ? (@.type() == "array" || @.type() == "object")') then
    perform awa._refuse(argument || ' must not be nested more than 500 deep', format('%s bytes', v_bytes), 'Many clients read no deeper: pass a flatter value, or the deep one as a string.');
  end if;
  return v_bytes;
end
$$;
comment on function awa._json_bytes is 'The bytes of a JSON value as text, which clients get';
