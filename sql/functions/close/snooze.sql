-- Puts one attempt off, without counting it: the job is scheduled anew, and runs after a delay.
-- Locks: the claim, shared, until the transaction ends. Raises JQ001, 22023; 55P03, 40001 as complete does.
create or replace function awa.snooze(job_id bigint, receipt bigint, delay interval) returns void
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
  if delay is null or not awa._fits(delay, '0', '10 years') then
    perform awa._refuse('delay must be between 0 and 10 years', delay::text, 'Say how long the job should wait.');
  end if;
  perform awa._close(job_id, receipt, 'snoozed');
  insert into awa.deferred_jobs
    (job_id, lane, state, run_at, created_at, attempted_at, attempt, max_attempts, body_bytes, unique_key, kind, args, tags, metadata, progress, errors)
  select a.job_id, a.lane & ~7::bigint | a.priority, 'scheduled', clock_timestamp() + delay, a.created_at, a.claimed_at, a.attempt, a.max_attempts, a.body_bytes,
         a.unique_key, a.kind, a.args, a.tags, a.metadata, a.progress, a.errors
    from awa._attempts(array[receipt]) a;
  perform awa._settle(array[receipt], 'scheduled');
end
$$;
comment on function awa.snooze is 'Puts one attempt off, without counting it: the job runs after a delay';
