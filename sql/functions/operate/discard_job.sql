-- Makes a job that has not ended a dead letter, whatever its queue keeps; returns the state that it was in.
-- A running job is taken from its worker, as by cancel. The group of the job goes on, under every order.
-- Locks: as cancel.
-- Raises 22023, JQ003, JQ004, JQ005, 55P03, 40001, as cancel does.
create or replace function awa.discard_job(job_id bigint, reason text default null) returns text
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
  v_state := awa._cancel(job_id, coalesce(reason, 'discarded'), 'dead');
  if v_state = any(awa._states('ended')) then
    perform awa._refuse_state(job_id, v_state, 'A job that has ended cannot be discarded.');
  end if;
  perform awa._note_change('discard', jsonb_build_object('job_id', job_id),
    jsonb_build_object('reason', left(reason, 20000)));
  return v_state;
end
$$;
comment on function awa.discard_job is
  'Makes a job that has not ended a dead letter, whatever its queue keeps; returns the state that it was in';
