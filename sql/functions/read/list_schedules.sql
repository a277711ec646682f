-- The row that list_schedules returns, one per schedule.
create or replace view awa.list_schedules_row as
select s.name, s.source, s.queue, s.kind, s.cron, s.every, s.args, s.timezone, s.missed, s.missed_for, s.overlap,
       s.starts_at, s.ends_at, s.priority, s.max_attempts, s.tags, s.metadata, s.group_key, s.next_at,
       s.last_tick as last_at, s.last_job_id, s.error as last_job_state, s.waiting_tick as waiting_at, s.paused_at,
       s.paused_by, s.pause_reason,
       s.times_missed, s.times_skipped, s.failures, s.error, s.failed_at, s.made_at, s.changed_at, s.changed_by,
       false as is_ahead
  from awa.schedules s
 where false;
comment on view awa.list_schedules_row is
  'The row that list_schedules returns, one per schedule. The view itself is always empty';

-- All schedules, by name: what each one enqueues, when it fires next, and how it fared.
-- Returns the next and the last nominal time, the last job with its state, null when it is gone, the time that waits
-- for that job to end, who paused it, since when and why, how many times were left out, the error with which it fails,
-- and whether a clock that was ahead has stopped it.
-- Why: the states of jobs are looked up 500 at a time, since each look is planned anew.
create or replace function awa.list_schedules() returns setof awa.list_schedules_row
language sql stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = on
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
with numbered as materialized (
  select s.*, (row_number() over (order by s.name) - 1)::int as n, awa._is_ahead(s, c.at) as is_ahead
    from awa.schedules s, (select awa._schedule_clock() as at offset 0) c
   where s.removed_at is null
), batches as materialized (
  select b.batch, awa._states_of(b.job_ids) as states
    from (select s.n / 500 as batch, array_agg(s.last_job_id order by s.n) as job_ids from numbered s group by 1) b
)
select s.name, s.source, s.queue, s.kind, s.cron, s.every, s.args, s.timezone, s.missed, s.missed_for, s.overlap,
       s.starts_at, s.ends_at, s.priority, s.max_attempts, s.tags, s.metadata, s.group_key, s.next_tick,
       s.last_tick, s.last_job_id, b.states[s.n % 500 + 1], s.waiting_tick, s.paused_at, s.paused_by,
       s.pause_reason,
       s.times_missed, s.times_skipped, s.failures, s.error, s.failed_at, s.made_at, s.changed_at, s.changed_by,
       s.is_ahead
  from numbered s
  join batches b on b.batch = s.n / 500
 order by s.name
$$;
comment on function awa.list_schedules is
  'All schedules, by name: what each one enqueues, when it fires next, and how it fared';
