-- Removes a schedule.
-- Its jobs stay. Its last tick is kept for 30 days: a schedule that comes back under its name fires none of its times
-- again. Nothing else of it comes back, also where its program declares it anew. list_changes shows it, where the
-- session has said for whom it acts.
-- Locks: the schedule, until the transaction ends.
-- Raises 22023, JQ007, 55P03.
create or replace function awa.unschedule(name text) returns void
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
begin
  v_schedule := awa._removed(v_schedule, awa._schedule_clock());
  v_schedule.changed_at := v_schedule.removed_at;
  v_schedule.changed_by := session_user;
  v_schedule.source := null;
  perform awa._store_schedule(v_schedule);
  perform awa._note_change('unschedule', jsonb_build_object('schedule', name), changed => 0);
end
$$;
comment on function awa.unschedule is 'Removes a schedule';
