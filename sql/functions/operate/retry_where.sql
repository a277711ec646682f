-- Lets matching jobs run now that have ended without success or that wait, as retry does; returns how many.
-- At least one filter is required: a queue, a kind, a state, a time before which they ended, a tag, an object that
-- their arguments contain, a group, or the cause of their last errors, as failure_causes names it. Without a state:
-- failed, dead and cancelled jobs. Changes at most max_jobs (1 to 10,000), the oldest ids first. A filter by tag,
-- arguments or group reads at most 100,000 jobs, one by cause 20,000; scan_jobs finds the rest. Skips jobs whose unique
-- key another job holds, or another session is about to take for longer than claim_wait, jobs that another session is
-- changing, and jobs that this transaction has put into the same place before.
-- Locks: the jobs' rows, until the transaction ends; for jobs with a group, as retry, but one lock for all after the
-- 64th, unless they are of one queue.
-- Raises 22023 for the filter, JQ004; 55000 as enqueue does.
create or replace function awa.retry_where(
  queue     text default null,
  kind      text default null,
  state     text default null,
  before    timestamptz default null,
  max_jobs  int default 1000,
  tag       text default null,
  args      jsonb default null,
  group_key text default null,
  cause     text default null
) returns bigint
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
  v_queue_id bigint := awa._queue_id(queue);
  v_max int := coalesce(max_jobs, 1000);
  v_cause text := awa._cause(cause);
  v_most int := awa._most_entries(tag, args, group_key, cause); -- null: all
  v_last bigint; -- of the jobs that it looks at; null: of all
  v_job_ids bigint[]; -- by their keys, which are taken in this order everywhere
  v_retried bigint;
begin
  perform awa._check_filter(queue, kind, state, before, max_jobs, awa._states('retriable'), tag, args, group_key,
    cause);
  perform awa._check_isolation();
  perform awa._bound_waits();
  if state = any(awa._states('deferred')) then
    if v_most is not null then
      select d.job_id into v_last
        from awa.deferred_jobs d
       where d.state = state
         and (queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
       order by d.job_id
      offset v_most - 1
       limit 1;
    end if;
    v_job_ids := array(
      select j.job_id
        from (
          select d.job_id, substr(d.unique_key, 1, 32) as key
            from awa.deferred_jobs d
           where d.state = state
             and (queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
             and (kind is null or d.kind = kind)
             and (before is null or d.created_at < before)
             and (tag is null or d.tags @> array[tag])
             and (args is null or d.args @> args)
             and (group_key is null or d.group_key = group_key)
             and (cause is null or awa._cause_of(d.errors) = v_cause)
             and (v_last is null or d.job_id <= v_last)
             and case -- see _buried_here
               when d.job_id in (select b.job_id from awa._buried_here b)
                 then d.run_at in (select h.run_at from awa._deferred_here h where h.job_id = d.job_id)
               else true
             end
           order by d.job_id
           limit v_max
             for update skip locked
        ) j
       order by j.key, j.job_id);
  else
    if v_most is not null then
      select d.job_id into v_last
        from awa.done_entries d
       where d.state <> 'completed'
         and (state is null or d.state = state)
         and (queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
       order by d.job_id
      offset v_most - 1
       limit 1;
    end if;
    v_job_ids := array(
      select j.job_id
        from (
          select d.job_id, substr(d.unique_key, 1, 32) as key
            from awa.done_entries d
           where d.state <> 'completed'
             and (state is null or d.state = state)
             and not awa._is_taken(d.unique_key, d.job_id)
             and (queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
             and (kind is null or d.kind = kind)
             and (before is null or d.finalized_at < before)
             and (tag is null or d.tags @> array[tag])
             and (args is null or d.args @> args)
             and (group_key is null or d.group_key = group_key)
             and (cause is null or awa._cause_of(d.errors) = v_cause)
             and (v_last is null or d.job_id <= v_last)
             and case
               when d.job_id in (select b.job_id from awa._buried_here b)
                 then d.finalized_at in (select h.finalized_at from awa._done_here h where h.job_id = d.job_id)
               else true
             end
           order by d.job_id
           limit v_max
             for update skip locked
        ) j
       order by j.key, j.job_id);
  end if;
  v_retried := awa._retry_free(v_job_ids, state, queue is null);
  perform awa._note_change('retry', awa._as_filter(queue, kind, state, before, tag, args, group_key, v_cause),
    changed => v_retried);
  return v_retried;
end
$$;
comment on function awa.retry_where is
  'Lets matching jobs run now that have ended without success or that wait, as retry does; returns how many';

-- Makes jobs ready, but for those that another session holds; returns how many.
-- Where one is locked for too long, it goes on with half of them at a time; less where that fails, more where it does
-- not, for five seconds at most, or a fourth of the caller's timeout.
-- Why: as _cancel_free.
create or replace function awa._retry_free(
  job_ids bigint[],
  state text,
  in_all_queues boolean
) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_before text := current_setting('lock_timeout');
  v_jobs int := cardinality(job_ids);
  v_until timestamptz;
  v_at int := 1;
  v_size int;
  v_retried bigint := 0;
begin
  begin
    return awa._retry_all(job_ids, state, in_all_queues, 0);
  exception when lock_not_available or sqlstate 'JQ005' then
    v_until := clock_timestamp() + awa._budget('5 seconds', 4);
  end;
  perform set_config('lock_timeout', '10', true);
  v_size := greatest(v_jobs / 2, 1);
  while v_at <= v_jobs and clock_timestamp() < v_until loop
    begin
      v_retried := v_retried
        + awa._retry_all(job_ids[v_at : v_at + v_size - 1], state, in_all_queues, v_retried);
      v_at := v_at + v_size;
      v_size := 2 * v_size;
    exception when lock_not_available or sqlstate 'JQ005' then
      v_at := v_at + (v_size = 1)::int;
      v_size := greatest(least(v_size, v_jobs - v_at + 1) / 2, 1);
    end;
  end loop;
  perform set_config('lock_timeout', v_before, true);
  return v_retried;
end
$$;
comment on function awa._retry_free is
  'Makes jobs ready, but for those that another session holds; returns how many';

-- Makes jobs ready, some after others; returns how many.
-- state: of all of them; null: they have ended.
-- Raises 55P03, JQ005.
create or replace function awa._retry_all(
  job_ids bigint[],
  state text,
  in_all_queues boolean,
  retried bigint
) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_is_deferred constant boolean := coalesce(state = any(awa._states('deferred')), false);
  v_job_id bigint;
  v_retried bigint := 0;
begin
  foreach v_job_id in array job_ids loop
    if awa._retry(v_job_id, case
         when v_is_deferred then state
         else (
           -- two rows where this transaction has cancelled it, and another session answered for it meanwhile
           select d.state
             from awa.done_entries d
            where d.job_id = v_job_id and d.state <> 'completed' and (state is null or d.state = state)
            limit 1
         )
       end, in_all_queues and retried + v_retried >= awa._max_locks()) = 'retried'
    then
      v_retried := v_retried + 1;
    end if;
  end loop;
  return v_retried;
end
$$;
comment on function awa._retry_all is 'Makes jobs ready, some after others; returns how many';

-- Whether another job holds the unique key that a job would hold when it is available.
create or replace function awa._is_taken(unique_key bytea, job_id bigint) returns boolean
language sql stable
return unique_key is not null and awa._holds(unique_key, 'available')
   and (select h.job_id <> _is_taken.job_id and not h.leaves from awa._holder(substr(unique_key, 1, 32)) h) is true;
comment on function awa._is_taken is
  'Whether another job holds the unique key that a job would hold when it is available';
