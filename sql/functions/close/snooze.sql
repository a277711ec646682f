-- Puts one attempt off without counting it: the job runs after a delay.
-- hold_group: nothing of its group begins until then either, and the job comes first then. It waits in the line of its
-- group, so it is available. A group that is paused for longer stays paused, and resume_group opens it before its time.
-- Of a job without a group it changes nothing.
-- Locks: the claim, shared, and with hold_group the row of the group, until the transaction ends.
-- Raises JQ001, 22023; 55P03, 40001 as complete does; 55000 as enqueue does.
create or replace function awa.snooze(
  job_id bigint,
  receipt bigint,
  delay interval,
  hold_group boolean default false
) returns void
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
declare
  v_closed record;
  v_attempts awa.leases[];
begin
  if delay is null or not awa._fits(delay, '0', '10 years') then
    perform awa._refuse('delay must be between 0 and 10 years', delay::text, 'Say how long the job should wait.');
  end if;
  v_closed := awa._close(job_id, receipt, 'snoozed', looks_up => true);
  v_attempts := v_closed.attempts;
  if hold_group and v_attempts[1].group_key is not null then
    perform awa._hold_group(v_attempts[1].lane, v_attempts[1].group_key, job_id, clock_timestamp() + delay);
    perform awa._record_releases(v_attempts, leased => v_closed.materialized);
  else
    perform awa._defer(v_attempts, 'scheduled', array[clock_timestamp() + delay]);
    if not awa._holds_nothing(v_attempts, leased => v_closed.materialized) then
      perform awa._end_attempts(v_attempts, 'scheduled', leased => v_closed.materialized);
    end if;
  end if;
end
$$;
comment on function awa.snooze is 'Puts one attempt off without counting it: the job runs after a delay';

-- Closes the group of a job until a time; one that is paused for longer stays as it is.
-- Locks: the row of the group, until the transaction ends.
create or replace function awa._hold_group(
  lane bigint,
  group_key text,
  job_id bigint,
  until timestamptz
) returns void
language plpgsql
as $$
declare
  v_queue_id constant bigint := awa._queue_of(lane);
  v_row awa.group_settings := awa._lock_group(v_queue_id, group_key);
begin
  if (v_row.paused_at is not null and (v_row.paused_until >= until) is not false) is not true then
    perform awa._limit_queue(v_queue_id, (
      select q.name from awa.queues q where q.queue_id = v_queue_id and q.dropped_at is null limit 1));
    perform awa._pause_group(v_queue_id, awa._shard_of(lane), group_key, format('held by job %s', job_id), until);
  end if;
end
$$;
comment on function awa._hold_group is
  'Closes the group of a job until a time; one that is paused for longer stays as it is';
