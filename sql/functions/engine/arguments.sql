-- Checks of arguments, for every capability.

-- Raises 22023 with a constant message, the value in DETAIL and the remedy in HINT.
create or replace function awa._refuse(message text, value text, hint text) returns void
language plpgsql
as $$
begin
  raise exception using errcode = '22023', message = message,
    detail = 'Got ' || coalesce(nullif(left(value, 200), ''), case value when '' then 'an empty text' else 'null' end)
      || '.',
    hint = hint;
end
$$;
comment on function awa._refuse is 'Raises 22023 with a constant message, the value in DETAIL and the remedy in HINT';

-- A JSON value for a message.
-- A large value is not written out: its text might take more memory than there is.
create or replace function awa._brief(value jsonb) returns text
language sql immutable
return case
  when pg_column_size(value) > 1000 then format('a JSON %s of more than 1000 bytes', jsonb_typeof(value))
  else value::text
end;
comment on function awa._brief is 'A JSON value for a message';

-- Refuses a queue or a kind that is null, empty or too long.
-- Raises 22023.
create or replace function awa._check_name(argument text, value text) returns void
language plpgsql
as $$
begin
  if value is null or char_length(value) not between 1 and 200 then
    perform awa._refuse(argument || ' must be 1 to 200 characters long', value,
      'Pass a short name, such as email or send_invoice.');
  end if;
end
$$;
comment on function awa._check_name is 'Refuses a queue or a kind that is null, empty or too long';

-- Refuses an array that has several dimensions, is too long, or holds nulls where it may not.
-- A null array passes.
-- Raises 22023.
create or replace function awa._check_array(
  argument text,
  value anyarray,
  max_length int,
  may_hold_null boolean default false
) returns void
language plpgsql
as $$
begin
  if cardinality(value) > max_length or array_ndims(value) > 1 then
    perform awa._refuse(format('%s must be an array of at most %s elements, of one dimension', argument, max_length),
      format('%s elements in %s dimensions', cardinality(value), array_ndims(value)),
      format('Pass at most %s in one call.', max_length));
  end if;
  if not may_hold_null and array_position(value, null) is not null then
    perform awa._refuse(argument || ' must not hold null', null, 'Leave the element out, or pass a value.');
  end if;
end
$$;
comment on function awa._check_array is
  'Refuses an array that has several dimensions, is too long, or holds nulls where it may not';

-- Whether an interval lies in a range, and has no parts of different signs.
-- Why: the length of an interval with parts of different signs depends on the time to which it is added.
create or replace function awa._fits(value interval, shortest interval, longest interval) returns boolean
language sql immutable parallel safe
return shortest <= value and value <= longest -- no "between": see pgtap/contract/dump.sql
  and least(extract(year from value), extract(month from value), extract(day from value),
  extract(hour from value), extract(minute from value), extract(second from value)) >= 0;
comment on function awa._fits is 'Whether an interval lies in a range, and has no parts of different signs';

-- Refuses a time at which no job may run.
-- Null passes.
-- Raises 22023.
create or replace function awa._check_run_at(run_at timestamptz) returns void
language plpgsql
as $$
begin
  if run_at >= '9999-12-31 10:00:00+00' then -- so that it is before the year 10000 in every zone
    perform awa._refuse('run_at must be a time before 9999-12-31 10:00 UTC', run_at::text,
      'Pass a time, or null for now.');
  end if;
end
$$;
comment on function awa._check_run_at is 'Refuses a time at which no job may run';

-- Refuses a time by which a job must have begun, where it has passed, or comes before the job may run.
-- Null passes.
-- Raises 22023.
create or replace function awa._check_expires_at(expires_at timestamptz, run_at timestamptz) returns void
language plpgsql
as $$
begin
  if expires_at >= '9999-12-31 10:00:00+00' then
    perform awa._refuse('expires_at must be a time before 9999-12-31 10:00 UTC', expires_at::text,
      'Pass a time, or null for never.');
  elsif expires_at <= clock_timestamp() then
    perform awa._refuse('expires_at must not have passed', expires_at::text,
      'Pass the time by which the job must have begun, or null for never.');
  elsif expires_at <= run_at then
    perform awa._refuse('expires_at must be later than run_at', format('%s for run_at %s', expires_at, run_at),
      'The job may begin from run_at on, and must have begun by expires_at.');
  end if;
end
$$;
comment on function awa._check_expires_at is
  'Refuses a time by which a job must have begun, where it has passed, or comes before the job may run';

-- Refuses an isolation level other than READ COMMITTED.
-- Raises JQ004.
-- Why: at others the snapshot could be older than the locks.
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

-- The bytes of a JSON value as text, as clients get it.
-- beside are the bytes of values that go along with it. Refuses a value that is too long, or nested too deep for
-- clients to read.
-- Raises 22023.
-- Why: the stored size says little of the text, since a number such as 1e100000 takes a few bytes. But a value of 2,000
-- bytes is never nested more than 500 deep, and its text is never too long for the server itself.
create or replace function awa._json_bytes(
  argument text,
  value jsonb,
  beside int default 0,
  most int default 134217728
) returns int
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
      format('%s must be at most %s of text',
        argument || case when beside > 0 then ' and what goes along with it' else '' end,
        replace(upper(pg_size_pretty(most::bigint)), 'B', 'iB')),
      coalesce(nullif(v_bytes, 2147483647) || ' bytes', 'more than 1 GiB')
        || case when beside > 0 then format(' beside %s', beside) else '' end,
      'Store it elsewhere, and pass where.');
  end if;
  if v_bytes > 1000
    and jsonb_path_exists(value, 'strict $.**{500} ? (@.type() == "array" || @.type() == "object")') then
    perform awa._refuse(argument || ' must not be nested more than 500 deep', format('%s bytes', v_bytes),
      'Many clients read no deeper: pass a flatter value, or the deep one as a string.');
  end if;
  return v_bytes;
end
$$;
comment on function awa._json_bytes is 'The bytes of a JSON value as text, as clients get it';

-- Refuses answers that do not fit together, and the wrong isolation level.
-- Raises 22023, JQ004.
create or replace function awa._check_answers(
  job_ids bigint[],
  receipts bigint[],
  most int default 10000
) returns void
language plpgsql
as $$
begin
  if job_ids is null or receipts is null then
    perform awa._refuse('job_ids and receipts must not be null', null, 'Pass both as claim returned them.');
  end if;
  perform awa._check_array('job_ids', job_ids, most);
  perform awa._check_companion('receipts', receipts, job_ids, false, most);
  perform awa._check_isolation();
end
$$;
comment on function awa._check_answers is 'Refuses answers that do not fit together, and the wrong isolation level';

-- Refuses an array beside job_ids that is not as long.
-- A null array passes.
-- Raises 22023.
create or replace function awa._check_companion(
  argument text,
  value anyarray,
  job_ids bigint[],
  may_hold_null boolean,
  most int default 10000
) returns void
language plpgsql
as $$
begin
  perform awa._check_array(argument, value, most, may_hold_null);
  if cardinality(value) <> cardinality(job_ids) then
    perform awa._refuse(argument || ' must be as many as job_ids',
      cardinality(value) || ' beside ' || cardinality(job_ids),
      'Pass one for each job, in the same order.');
  end if;
end
$$;
comment on function awa._check_companion is 'Refuses an array beside job_ids that is not as long';

-- Refuses delays that are negative or too long.
-- Raises 22023.
create or replace function awa._check_delays(retry_after interval[]) returns void
language plpgsql
as $$
begin
  if exists (select from unnest(retry_after) r where not awa._fits(r, '0', '10 years')) then
    perform awa._refuse('retry_after must be between 0 and 10 years', retry_after::text,
      'Leave it out for the queue''s backoff.');
  end if;
end
$$;
comment on function awa._check_delays is 'Refuses delays that are negative or too long';

-- Refuses a change of a job that is not named, and the wrong isolation level.
-- Raises 22023, JQ004.
create or replace function awa._check_change(job_id bigint) returns void
language plpgsql
as $$
begin
  if job_id is null then
    perform awa._refuse('job_id must not be null', null, 'Pass the id that enqueue returned.');
  end if;
  perform awa._check_isolation();
end
$$;
comment on function awa._check_change is 'Refuses a change of a job that is not named, and the wrong isolation level';

-- Refuses an unknown state; argument: its name in the caller's signature.
-- Raises 22023.
create or replace function awa._check_state(state text, argument text default 'state') returns void
language plpgsql
as $$
begin
  if state <> all(awa._states('known')) then
    perform awa._refuse(argument || ' must be a state of a job', state,
      'The states are ' || array_to_string(awa._states('known'), ', ') || '.');
  end if;
end
$$;
comment on function awa._check_state is 'Refuses an unknown state; argument: its name in the caller''s signature';

-- Refuses a tag that no job can have; argument: its name in the caller's signature.
-- Raises 22023.
create or replace function awa._check_tag(tag text, argument text default 'tag') returns void
language plpgsql
as $$
begin
  if char_length(tag) not between 1 and 200 then
    perform awa._refuse(argument || ' must be 1 to 200 characters long', tag,
      'Pass one of the job''s tags, or leave it out.');
  end if;
end
$$;
comment on function awa._check_tag is
  'Refuses a tag that no job can have; argument: its name in the caller''s signature';

-- Refuses the key of a group that no job can have; argument: its name in the caller's signature.
-- Null passes.
-- Raises 22023.
create or replace function awa._check_group(group_key text, argument text default 'group_key') returns void
language plpgsql
as $$
begin
  if char_length(group_key) not between 1 and 200 then
    perform awa._refuse(argument || ' must be 1 to 200 characters long', group_key,
      'Pass what the jobs of a group have in common, such as the id of a customer; leave it out for none.');
  end if;
end
$$;
comment on function awa._check_group is
  'Refuses the key of a group that no job can have; argument: its name in the caller''s signature';

-- Raises JQ005.
create or replace function awa._refuse_state(job_id bigint, state text, hint text) returns void
language plpgsql
as $$
begin
  raise exception using errcode = 'JQ005', message = 'the job''s state does not allow this change',
    detail = format('Job %s is %s.', job_id, state), hint = hint;
end
$$;
comment on function awa._refuse_state is 'Raises JQ005';

-- Raises 23505.
create or replace function awa._refuse_key(job_id bigint, key bytea) returns void
language plpgsql
as $$
begin
  raise exception using errcode = '23505', message = 'another job holds the job''s unique key',
    detail = (select format('Job %s holds the key of job %s.', h.job_id, _refuse_key.job_id) from awa._holder(key) h),
    hint = 'Wait until that one has ended, and its period is over where the key has one; or cancel it.';
end
$$;
comment on function awa._refuse_key is 'Raises 23505';

-- Raises 40001.
create or replace function awa._moved_on(job_id bigint) returns void
language plpgsql
as $$
begin
  raise exception using errcode = '40001', message = 'the job moved on meanwhile',
    detail = format('Another session was changing job %s.', job_id),
    hint = 'Try again: the next call sees the job''s new state.';
end
$$;
comment on function awa._moved_on is 'Raises 40001';

-- Raises JQ001.
create or replace function awa._refuse_stale(job_id bigint, receipt bigint) returns void
language plpgsql
as $$
begin
  raise exception using errcode = 'JQ001', message = 'stale receipt',
    detail = format('Receipt %s is not, or no longer, an open attempt of job %s.', receipt, job_id),
    hint = 'The attempt was answered before, or given to another worker: drop its result.';
end
$$;
comment on function awa._refuse_stale is 'Raises JQ001';
