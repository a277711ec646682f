-- Cancels the job of one attempt: its worker decides that it is off.
-- Locks: the claim, shared, until the transaction ends. Raises JQ001, 22023; 55P03, 40001 as complete does.
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
begin
  perform awa._close(job_id, receipt, 'cancelled');
  perform awa._record_cancels(array[receipt], reason);
end
$$;
comment on function awa.cancel_attempt is 'Cancels the job of one attempt: its worker decides that it is off';

-- Writes the ends of attempts that were closed as cancelled.
create or replace function awa._record_cancels(receipts bigint[], reason text) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.done_entries
    (job_id, lane, state, recorded, receipt, worker_id, ready_at, created_at, attempted_at, finalized_at, attempt, max_attempts, body_bytes, unique_key,
     kind, args, tags, metadata, progress, errors)
  select a.job_id, a.lane & ~7::bigint | a.priority, 'cancelled', false, a.receipt, a.worker_id, a.ready_at, a.created_at, a.claimed_at, clock_timestamp(),
         a.attempt, a.max_attempts, a.body_bytes, a.unique_key, a.kind, a.args, a.tags, a.metadata, a.progress,
         awa._add_error(a.errors, a.attempt, coalesce(reason, 'cancelled'), by => session_user)
    from awa._attempts(receipts) a;
  perform awa._settle(receipts, 'cancelled');
end
$$;
comment on function awa._record_cancels is 'Writes the ends of attempts that were cancelled';
