-- Puts one attempt off that has failed, but whose failure the server refuses to store: a trigger or a constraint of somebody else's does not take the row. The job is scheduled anew; the attempt counts while others are left, and
-- error is kept in the job's errors, in an element that has put_off. The first time in a row it waits for a minute, then twice as long each time, up to an hour. Returns when it runs again.
-- Locks: the claim, shared, until the transaction ends. Raises JQ001, 22023; 55P03, 40001 as complete does.
create or replace function awa.put_off(job_id bigint, receipt bigint, error text) returns timestamptz
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
  if error is null then
    perform awa._refuse('error must not be null', null, 'Say what was refused, and why, in a text that is read in awa.jobs.');
  end if;
  perform awa._close(job_id, receipt, 'snoozed');
  return awa._put_off(awa._look_up(array[receipt]), error);
end
$$;
comment on function awa.put_off is 'Puts one attempt off whose failure the server refuses to store; returns when the job runs again';

-- Writes what follows attempts that were closed, and whose failure the server refuses to store. Returns when the last of the jobs runs again.
create or replace function awa._put_off(attempts awa.leases[], error text) returns timestamptz
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_run_at timestamptz[];
  v_errors jsonb[];
begin
  select array_agg(clock_timestamp() + awa._put_off_delay(a.errors) order by a.ordinality),
         array_agg(jsonb_set(awa._add_error(a.errors, a.attempt, error), '{-1,put_off}', 'true') order by a.ordinality)
    into v_run_at, v_errors
    from unnest(attempts) with ordinality a;
  perform awa._defer(attempts, 'scheduled', v_run_at, v_errors, counts => true);
  perform awa._end_attempts(attempts, 'scheduled');
  return (select max(r) from unnest(v_run_at) r);
end
$$;
comment on function awa._put_off is 'Writes what follows attempts whose failure the server refuses to store';

-- How long to put a job off that was put off after each of its last attempts.
create or replace function awa._put_off_delay(errors jsonb) returns interval
language sql stable
return (
  select least(interval '1 minute' * 2 ^ least(count(*), 10), '1 hour')
    from jsonb_array_elements(errors) with ordinality e(error, place)
   where e.place > coalesce((select max(o.place) from jsonb_array_elements(errors) with ordinality o(error, place) where not o.error ? 'put_off'), 0));
comment on function awa._put_off_delay is 'How long to put a job off that was put off after each of its last attempts';

-- Whether an error may be about one row alone: whatever a trigger may raise, but a cancel, a timeout, or the end of the server. Raises 55000 where Awa itself has lost a row, or was restored from a dump.
create or replace function awa._is_about_a_row(sqlstate text) returns boolean
language sql stable
return left(sqlstate, 2) <> '57' and awa._current_segment() >= 0;
comment on function awa._is_about_a_row is 'Whether an error may be about one row alone';

-- Whether an error says that somebody else was in the way: the row is left for the next pass.
create or replace function awa._is_passing(sqlstate text) returns boolean
language sql immutable
return sqlstate = any('{40001,40P01,55P03}');
comment on function awa._is_passing is 'Whether an error says that somebody else was in the way';

-- An error that is, most likely, about something that the server lacks (disk, memory, leave to write), for _fail_for; null for another one.
create or replace function awa._lack(message text, sqlstate text) returns text[]
language sql immutable
return case when left(sqlstate, 2) = any('{25,53,58}') then array[sqlstate, message] end;
comment on function awa._lack is 'An error about something that the server lacks';

-- Raises what the server lacks, where a pass could do nothing at all for it.
create or replace function awa._fail_for(lack text[]) returns void
language plpgsql
as $$
begin
  if lack is not null then
    raise exception using errcode = lack[1], message = lack[2], detail = 'It kept maintenance from every single row of this pass.';
  end if;
end
$$;
comment on function awa._fail_for is 'Raises what the server lacks';

-- An error in words, as errors of jobs and health have it.
create or replace function awa._refusal(message text, sqlstate text) returns text
language sql immutable
return format('%s (SQLSTATE %s)', left(message, 1000), sqlstate);
comment on function awa._refusal is 'An error in words';
