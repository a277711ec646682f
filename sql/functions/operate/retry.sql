-- Lets a job run again that has ended without success, or ahead of its time; returns the state that it was in.
-- A failed, dead or cancelled job starts again with no attempts counted, and keeps its errors. A scheduled or retryable
-- one runs ahead of its time. queue, priority: where it runs from then on, unless null. run_at: when, unless now; until
-- then it is scheduled, or retryable where it was. A unique key of which the queue is a part becomes that of the new
-- queue. An expires_at that has passed by then is taken away.
-- Locks: the job's row, and its unique keys, old and new, until the transaction ends.
-- Raises 22023, JQ003, JQ004; JQ005 when it is available, runs or completed, or when this transaction has put it into
-- the same place before; 23505 when another job holds its unique key by now; 55P03; 40001 when it moved on meanwhile;
-- 55000 as enqueue does.
create or replace function awa.retry(
  job_id   bigint,
  queue    text default null,
  priority int default null,
  run_at   timestamptz default null
) returns text
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
  v_place awa._place;
  v_outcome text;
  v_detail text;
begin
  perform awa._check_change(job_id);
  perform awa._check_target(queue, priority, run_at);
  perform awa._bound_waits();
  for v_look in 1..10 loop
    v_place := awa._locate(job_id);
    begin
      v_outcome := awa._retry(job_id, v_place.state, queue => queue, priority => priority, run_at => run_at);
    exception when lock_not_available then
      get stacked diagnostics v_detail = pg_exception_detail;
      if v_detail <> '' then
        raise; -- it names the holder
      end if;
      perform awa._refuse_change(job_id);
    end;
    if v_outcome = 'retried' then
      perform awa._note_change('retry', jsonb_build_object('job_id', job_id),
        jsonb_build_object('queue', queue, 'priority', priority, 'run_at', run_at));
      return v_place.state;
    elsif v_outcome = 'taken' then
      perform awa._refuse_key(job_id, substr(awa._moved_key(v_place.unique_key, awa._queue_of(v_place.lane),
        coalesce(awa._queue_id(queue), awa._queue_of(v_place.lane))), 1, 32));
    elsif v_outcome is null then
      perform awa._refuse_state(job_id, v_place.state, 'A job that is available, runs or completed cannot be retried.');
    end if;
  end loop;
  perform awa._moved_on(job_id);
end
$$;
comment on function awa.retry is
  'Lets a job run again that has ended without success, or ahead of its time; returns the state that it was in';

-- Refuses a queue, a priority or a time to which no job can be sent.
-- Nulls pass.
-- Raises 22023.
create or replace function awa._check_target(queue text, priority int, run_at timestamptz) returns void
language plpgsql
as $$
begin
  if queue is not null then
    perform awa._check_name('queue', queue);
  end if;
  if priority not between 1 and 4 then
    perform awa._refuse('priority must be between 1 and 4', priority::text,
      'Priority 1 is served first, 4 last; leave it out for that of the job.');
  end if;
  perform awa._check_run_at(run_at);
end
$$;
comment on function awa._check_target is 'Refuses a queue, a priority or a time to which no job can be sent';

-- Lets a job run again from one of the states that allow it: at once, or at a time, in its queue or in another one.
-- among_many is for _shard_for.
-- Returns retried; taken, when another job holds its unique key; gone, when the job is in another state by now, or
-- should be looked at again; null when the state does not allow it.
-- Locks: the job's row, its unique keys, and with a group its queue's number of shards, until the transaction ends.
-- Raises JQ005 where this transaction has put the job into that lane before.
-- Why: plans of its own, since its callers plan their searches at each call, and would plan it anew for each job.
create or replace function awa._retry(
  job_id     bigint,
  state      text,
  among_many boolean default false,
  queue      text default null,
  priority   int default null,
  run_at     timestamptz default null
) returns text
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_bitmapscan = off
as $$
#variable_conflict use_variable
declare
  v_has_ended boolean := state = any(awa._states('done'));
  v_now timestamptz := clock_timestamp();
  v_job awa.deferred_jobs;
  v_to text := 'available';
  v_queue_id bigint;
  v_lane bigint;
  v_key bytea;
begin
  -- As a deferred job that is due.
  if state = any(awa._states('deferred')) then
    select d.* into v_job from awa.deferred_jobs d where d.job_id = job_id and d.state = state for update;
  elsif v_has_ended then
    select w.* into v_job
      from awa.done_entries d
     cross join lateral awa._revived(d) w
     where d.job_id = job_id and d.state = state
       for update of d;
  else
    return null;
  end if;
  if v_job.job_id is null then
    return 'gone';
  end if;

  if run_at > v_now then
    v_to := case when v_has_ended then 'scheduled' else state end;
  end if;
  v_queue_id := coalesce(awa._queue_id(queue), awa._queue_of(v_job.lane));
  v_key := awa._moved_key(v_job.unique_key, awa._queue_of(v_job.lane), v_queue_id);
  if awa._holds(v_key, v_to) and (v_has_ended or v_key <> v_job.unique_key) then
    if not (awa._take_key(substr(v_key, 1, 32), true, job_id)).taken then
      return 'taken';
    end if;
  elsif v_key = v_job.unique_key then
    perform awa._change_state(array[job_id], array[v_job.lane], array[v_key], state, v_to);
  end if;
  if v_key <> v_job.unique_key then
    perform awa._let_go(array[job_id], array[substr(v_job.unique_key, 1, 32)]);
    v_job.unique_key := v_key;
  end if;
  if v_has_ended then
    delete from awa.done_entries d where d.job_id = job_id;
  else
    delete from awa.deferred_jobs d where d.job_id = job_id;
  end if;
  v_lane := awa._lane(v_queue_id, coalesce(priority, (v_job.lane & 7)::int),
    awa._shard_for(v_queue_id, job_id, v_job.group_key, among_many));
  if v_lane <> v_job.lane or v_to <> 'available' then
    perform awa._use_lanes(array[v_lane], queue, expiring => v_job.expires_at is not null);
    perform awa._note_moved(v_job.lane, v_lane);
    if awa._shard_of(v_lane) <> awa._shard_of(v_job.lane) then -- its queue had another number of shards, or it moves
      perform awa._note_leavers(array[job_id], array[v_job.lane], array[v_job.group_key]);
    end if;
    v_job.lane := v_lane;
  end if;
  v_job.run_at := greatest(run_at, v_now);
  if v_job.expires_at <= v_job.run_at then
    v_job.expires_at := null; -- otherwise it would be cancelled at once
  end if;
  if v_to <> 'available' then
    perform awa._defer(array(select a from awa._last_attempt(v_job) a), v_to, array[v_job.run_at], counts => true);
    return 'retried';
  end if;
  if awa._has_place((select l from awa._ready_lane(v_job.lane, job_id, v_job.group_key) l), job_id) then
    perform awa._refuse_place(job_id, state);
  end if;
  perform awa._append_ready(array[v_job]);
  return 'retried';
end
$$;
comment on function awa._retry is
  'Lets a job run again from one of the states that allow it: at once, or at a time, in its queue or in another one';
