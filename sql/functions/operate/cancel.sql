-- Cancels a job that has not ended; returns the state that it was in.
-- A running job is taken from its worker. The worker learns of it by its next heartbeat, and by a notification on
-- awa_lost_attempts; its answer will be stale.
-- Locks: the job's row, or its claim, shared, until the transaction ends; for an available job its queue, at commit.
-- Raises 22023, JQ003, JQ004; JQ005 when it has ended; 55P03 when another session is answering for it in a long
-- transaction; 40001, also at commit, when it moved on meanwhile.
create or replace function awa.cancel(job_id bigint, reason text default null) returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = on
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set lock_timeout = 0
as $$
#variable_conflict use_variable
declare
  v_state text;
begin
  perform awa._check_change(job_id);
  v_state := awa._cancel(job_id, reason);
  if v_state = any(awa._states('ended')) then
    perform awa._refuse_state(job_id, v_state, 'A job that has ended cannot be cancelled.');
  end if;
  perform awa._note_change('cancel', jsonb_build_object('job_id', job_id),
    jsonb_build_object('reason', left(reason, 20000)));
  return v_state;
end
$$;
comment on function awa.cancel is 'Cancels a job that has not ended; returns the state that it was in';
