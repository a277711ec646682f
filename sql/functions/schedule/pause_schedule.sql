-- Pauses a schedule: it does not fire until it is resumed.
-- A tick that is due, and has not fired yet, counts as missed. One that waits for the last job to end goes on waiting.
-- Pausing it again changes the reason. list_changes shows it, where the session has said for whom it acts.
-- Locks: the schedule, until the transaction ends.
-- Raises 22023, JQ007, 55P03.
create or replace function awa.pause_schedule(name text, reason text default null) returns void
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
set lock_timeout = 0
as $$
declare
  v_schedule awa.schedules;
begin
  if char_length(reason) > 1000 then
    perform awa._refuse('reason must be at most 1000 characters long', reason, 'Pass a short one.');
  end if;
  v_schedule := awa._lock_schedule(name);
  if v_schedule.paused_at is null then
    v_schedule.paused_at := awa._schedule_clock();
    v_schedule := awa._without_due(v_schedule, v_schedule.paused_at);
  end if;
  v_schedule.paused_by := session_user;
  v_schedule.pause_reason := coalesce(reason, v_schedule.pause_reason);
  perform awa._store_schedule(awa._planned(v_schedule));
  perform awa._note_change('pause_schedule', jsonb_build_object('schedule', name), jsonb_build_object('reason', reason),
    0);
end
$$;
comment on function awa.pause_schedule is 'Pauses a schedule: it does not fire until it is resumed';
