-- Fails attempts of any claims and queues, each on its own, as fail does. Returns the jobs whose attempts were stale.
-- Locks as complete_many. Raises 22023, JQ004.
create or replace function awa.fail_many(
  job_ids     bigint[],
  receipts    bigint[],
  errors      text[],
  retry_after interval[] default null
) returns setof bigint
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
  v_by_item bigint[];
  v_closed bigint[];
begin
  perform awa._check_answers(job_ids, receipts, 'errors', coalesce(cardinality(errors), -1));
  perform awa._check_answers(job_ids, receipts, 'retry_after', cardinality(retry_after));
  perform awa._check_failure(errors, retry_after);
  v_by_item := awa._lock_claims(receipts);
  v_closed := awa._close_items(job_ids, receipts, 'failed', v_by_item);
  perform awa._record_failures(v_closed, receipts, errors, retry_after, null);
  return query select awa._stale(job_ids, receipts, v_closed);
end
$$;
comment on function awa.fail_many is 'Fails many attempts; returns the jobs whose attempts were stale';
