-- The row that heartbeat returns.
create or replace view awa.lost_attempt_row as
select e.job_id, c.claim_id as receipt, e.kind as reason from awa.ready_entries e, awa.lease_claims c where false;
comment on view awa.lost_attempt_row is 'The row that heartbeat returns. The view itself is always empty';

-- Notes that a worker is alive; returns the attempts that it has lost and should stop.
-- Each lost attempt is returned for a minute, by every heartbeat.
-- Locks: the worker's row, until the transaction ends.
-- Raises 22023 when the worker is not registered (any more); 42501 when it was registered by another login; 55P03 when
-- its row is locked for longer than claim_wait.
create or replace function awa.heartbeat(worker_id bigint) returns setof awa.lost_attempt_row
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
#variable_conflict use_variable
declare
  v_now timestamptz;
  v_worker record;
begin
  perform awa._lock_worker_row(worker_id);
  v_now := clock_timestamp();
  update awa.workers w
     set heartbeat_at = v_now
   where w.worker_id = worker_id
  returning w.registered_by, w.member_of into v_worker;
  if not found then
    perform awa._refuse('worker_id must be a registered worker', worker_id::text, 'Call register_worker again.');
  elsif v_worker.registered_by <> session_user then
    perform awa._check_login(worker_id, v_worker.registered_by, v_worker.member_of);
  end if;
  delete from awa.lost_attempts l
   where l.worker_id = worker_id and l.told_at not between v_now - interval '1 minute' and v_now + interval '1 minute';
  update awa.lost_attempts l set told_at = v_now where l.worker_id = worker_id and l.told_at is null;
  return query
    select l.job_id, l.receipt, l.reason
      from awa.lost_attempts l
     where l.worker_id = worker_id
     order by l.receipt;
end
$$;
comment on function awa.heartbeat is
  'Notes that a worker is alive; returns the attempts that it has lost and should stop';
