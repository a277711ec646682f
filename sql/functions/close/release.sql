-- Gives one attempt back without counting it: the job is ready at once.
-- It goes ahead of the queue's other jobs.
-- Locks: the claim, shared, until the transaction ends.
-- Raises JQ001, 22023; 55P03, 40001 as complete does; 55000 as enqueue does.
create or replace function awa.release(job_id bigint, receipt bigint) returns void
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
  v_closed record;
begin
  v_closed := awa._close(job_id, receipt, 'released', looks_up => true);
  perform awa._record_releases(v_closed.attempts, leased => v_closed.materialized);
end
$$;
comment on function awa.release is 'Gives one attempt back without counting it: the job is ready at once';
