-- Ends the pause of a schedule: it fires from now on.
-- Ticks that fell into the pause are not missed. A schedule that is not paused, but whose last tick lies ahead, since
-- the clock was ahead when it fired, also fires from now on; times that have fired ahead come again.
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
  if v_schedule.paused_at is null and v_schedule.decided_until <= v_now then
    return;
  end if;
  v_schedule.paused_at := null;
  v_schedule.paused_by := null;
  v_schedule.pause_reason := null;
  v_schedule.decided_until := v_now;
  v_schedule.ran := v_schedule.ran * tstzmultirange(tstzrange(null, v_now, '[]'));
  v_schedule.unsure := v_schedule.unsure * tstzrange(null, v_now, '[]');
  v_schedule.last_tick := case when v_schedule.last_tick <= v_now then v_schedule.last_tick end;
  v_schedule := awa._planned(v_schedule);
  perform awa._store_schedule(v_schedule), awa._wake_due(v_schedule.next_at);
end
$$;
comment on function awa.resume_schedule is 'Ends the pause of a schedule: it fires from now on';
