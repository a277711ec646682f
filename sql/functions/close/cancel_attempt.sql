-- Cancels the job of one attempt, as its worker decides.
-- Locks: the claim, shared, until the transaction ends.
-- Raises JQ001, 22023; 55P03, 40001 as complete does.
create or replace function awa.cancel_attempt(job_id bigint, receipt bigint, reason text default null) returns void
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
  v_closed := awa._close(job_id, receipt, 'cancelled', looks_up => true);
  perform awa._record_cancels(v_closed.attempts, reason, leased => v_closed.materialized);
end
$$;
comment on function awa.cancel_attempt is 'Cancels the job of one attempt, as its worker decides';
