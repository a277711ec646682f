-- Puts one attempt off without counting it: the job runs after a delay.
-- Locks: the claim, shared, until the transaction ends.
-- Raises JQ001, 22023; 55P03, 40001 as complete does.
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
declare
  v_segment smallint;
  v_attempts awa.leases[];
begin
  if delay is null or not awa._fits(delay, '0', '10 years') then
    perform awa._refuse('delay must be between 0 and 10 years', delay::text, 'Say how long the job should wait.');
  end if;
  v_segment := (awa._close(job_id, receipt, 'snoozed')).segment;
  v_attempts := awa._look_up(array[receipt], v_segment);
  perform awa._defer(v_attempts, 'scheduled', array[clock_timestamp() + delay]);
  perform awa._end_attempts(v_attempts, 'scheduled');
end
$$;
comment on function awa.snooze is 'Puts one attempt off without counting it: the job runs after a delay';
