-- Enqueues the job of a schedule now, whatever the clock says, also while it is paused; returns the job's id.
-- The ticks go on as before. The job counts as the last one, where overlap asks whether it has ended. list_changes
-- shows it, where the session has said for whom it acts.
-- Locks: the schedule, until the transaction ends; meanwhile it does not fire.
-- Raises 22023, JQ007; JQ006, 55000, 55P03, 40001 as enqueue does.
create or replace function awa.trigger_schedule(name text) returns bigint
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
  v_schedule.last_job_id := awa._enqueue_tick(v_schedule, awa._schedule_clock());
  update awa.schedules s set last_job_id = v_schedule.last_job_id where s.name = v_schedule.name;
  perform awa._note_change('trigger_schedule', jsonb_build_object('schedule', name),
    jsonb_build_object('job_id', v_schedule.last_job_id));
  return v_schedule.last_job_id;
end
$$;
comment on function awa.trigger_schedule is
  'Enqueues the job of a schedule now, whatever the clock says, also while it is paused; returns the job''s id';

-- Enqueues the job of a schedule for a time; returns the job's id.
-- among_many and checks_depth are for _append.
-- Raises as enqueue does.
create or replace function awa._enqueue_tick(
  schedule awa.schedules,
  tick timestamptz,
  among_many boolean default false,
  checks_depth boolean default true
) returns bigint
language plpgsql
as $$
begin
  return (awa._append(schedule.queue, schedule.kind, array[schedule.args], schedule.priority, null,
    schedule.max_attempts, schedule.tags, awa._tick_metadata(schedule.metadata, schedule.name, tick),
    schedule.group_key, among_many => among_many, checks_depth => checks_depth))[1];
end
$$;
comment on function awa._enqueue_tick is 'Enqueues the job of a schedule for a time; returns the job''s id';
