-- Releases the open attempts of a worker that it does not know, which do not count; returns how many.
-- The known ones are named by job_ids and receipts. For a worker that did not get the answer of a claim: its heartbeats
-- would keep the jobs of that claim from all workers.
-- There may be more than one call answers: a worker knows those that run, wait, and are not answered. Leaves out, with
-- a notice, those that another session is answering for, or changing, for longer than claim_wait: call it again. Also
-- for a worker that is gone, and has left such attempts.
-- Locks: the worker, for which it waits until the worker's open claims have committed, then the claims as complete_many
-- does.
-- Raises 22023, JQ004; 42501 when it was registered by another login; 55P03 when the worker is held for longer than
-- claim_wait.
create or replace function awa.release_unknown(worker_id bigint, job_ids bigint[], receipts bigint[]) returns bigint
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
  v_worker record;
  v_released record;
begin
  if worker_id is null then
    perform awa._refuse('worker_id must not be null', null, 'Pass what register_worker returned.');
  end if;
  perform awa._check_answers(job_ids, receipts, 100000);
  select w.registered_by, w.member_of into v_worker from awa.workers w where w.worker_id = worker_id;
  if v_worker.registered_by <> session_user then
    perform awa._check_login(worker_id, v_worker.registered_by, v_worker.member_of);
  end if;
  perform awa._lock_worker(worker_id, false); -- after the claims that it is in the middle of
  v_released := awa._release_open(worker_id, job_ids, receipts);
  if v_released.left_out > 0 then
    raise notice '% attempts stay open: other sessions are answering for them, or changing them', v_released.left_out
      using hint = 'Call it again when their transactions have ended.';
  end if;
  return v_released.released;
end
$$;
comment on function awa.release_unknown is
  'Releases the open attempts of a worker that it does not know, which do not count; returns how many';
