-- Lets a job run now that has ended without success or that waits; returns the state that it was in.
-- A failed, dead or cancelled job starts again with no attempts counted, and keeps its errors. A scheduled or retryable
-- one runs ahead of its time. An expires_at that has passed is taken away.
-- Locks: the job's row, until the transaction ends.
-- Raises 22023, JQ003, JQ004; JQ005 when it is available, runs or completed, or when this transaction has put it into
-- the same place before; 23505 when another job holds its unique key by now; 55P03; 40001 when it moved on meanwhile.
create or replace function awa.retry(job_id bigint) returns text
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
begin
  perform awa._check_change(job_id);
  perform awa._bound_waits();
  for v_look in 1..10 loop
    v_place := awa._locate(job_id);
    v_outcome := awa._retry(job_id, v_place.state);
    if v_outcome = 'retried' then
      return v_place.state;
    elsif v_outcome = 'taken' then
      perform awa._refuse_key(job_id, substr(v_place.unique_key, 1, 32));
    elsif v_outcome is null then
      perform awa._refuse_state(job_id, v_place.state, 'A job that is available, runs or completed cannot be retried.');
    end if;
  end loop;
  perform awa._moved_on(job_id);
end
$$;
comment on function awa.retry is
  'Lets a job run now that has ended without success or that waits; returns the state that it was in';

-- Makes a job ready from one of the states that allow it.
-- among_many is for _shard_for.
-- Returns retried; taken, when another job holds its unique key; gone, when the job is in another state by now, or
-- should be looked at again; null when the state does not allow it.
-- Locks: the job's row, its unique key, and with a group its queue's number of shards, until the transaction ends.
-- Raises JQ005 where this transaction has put the job into that lane before.
-- Why: plans of its own, since its callers plan their searches at each call, and would plan it anew for each job.
create or replace function awa._retry(job_id bigint, state text, among_many boolean default false) returns text
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_bitmapscan = off
as $$
#variable_conflict use_variable
declare
  v_has_ended boolean := state = any(awa._states('done'));
  v_job awa.deferred_jobs;
  v_lane bigint;
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

  if v_has_ended and awa._holds(v_job.unique_key, 'available') then
    if not (awa._take_key(substr(v_job.unique_key, 1, 32), true, job_id)).taken then
      return 'taken';
    end if;
  else
    perform awa._change_state(array[job_id], array[v_job.lane], array[v_job.unique_key], state, 'available');
  end if;
  if v_has_ended then
    delete from awa.done_entries d where d.job_id = job_id;
  else
    delete from awa.deferred_jobs d where d.job_id = job_id;
  end if;
  v_lane := awa._lane(awa._queue_of(v_job.lane), (v_job.lane & 7)::int,
    awa._shard_for(awa._queue_of(v_job.lane), job_id, v_job.group_key, among_many));
  if v_lane <> v_job.lane then -- its queue had another number of shards when it ended
    perform awa._leave_places(array[job_id], array[v_job.lane], array[v_job.group_key]);
    v_job.lane := v_lane;
  end if;
  if awa._has_place((select l from awa._ready_lane(v_job.lane, job_id, v_job.group_key) l), job_id) then
    perform awa._refuse_place(job_id, state);
  end if;
  v_job.run_at := clock_timestamp();
  if v_job.expires_at <= v_job.run_at then
    v_job.expires_at := null; -- otherwise it would be cancelled at once
  end if;
  perform awa._append_ready(array[v_job]);
  return 'retried';
end
$$;
comment on function awa._retry is 'Makes a job ready from one of the states that allow it';
