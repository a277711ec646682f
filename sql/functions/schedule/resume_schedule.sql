-- Ends the pause of a schedule: it fires from now on. Also the reset of one that is not paused.
-- Ticks that fell into the pause are not missed. A schedule that fails is tried again at once. After a clock that was
-- ahead by more than a minute, it fires from now on; times that have fired ahead come again. list_changes shows it,
-- where the session has said for whom it acts.
-- Locks: the schedule, until the transaction ends.
-- Raises 22023, JQ007, 55P03.
create or replace function awa.resume_schedule(name text) returns void
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
  v_schedule awa.schedules := awa._lock_schedule(name);
  v_now constant timestamptz := awa._schedule_clock();
begin
  perform awa._zone(v_schedule.timezone, 'the timezone of the schedule'); -- it may be gone
  v_schedule := awa._set_right(v_schedule, v_now);
  if v_schedule.paused_at is not null then
    v_schedule.paused_at := null;
    v_schedule.paused_by := null;
    v_schedule.pause_reason := null;
    v_schedule.decided_until := v_now;
  end if;
  v_schedule.failures := 0;
  v_schedule.error := null;
  v_schedule.failed_at := null;
  v_schedule := awa._planned(v_schedule);
  perform awa._store_schedule(v_schedule), awa._wake_due(v_schedule.next_at);
  perform awa._note_change('resume_schedule', jsonb_build_object('schedule', name), changed => 0);
end
$$;
comment on function awa.resume_schedule is
  'Ends the pause of a schedule: it fires from now on. Also the reset of one that is not paused';
