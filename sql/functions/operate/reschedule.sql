-- Gives a job that has not begun another time, and other args where given; returns the state that it was in.
-- A job has begun when an attempt of it counts. Before run_at it is scheduled. With a run_at that has passed, a
-- scheduled job is ready at the end of its lane, and an available one stays in its place, unless it gets other args.
-- The unique key stays, also that of a period.
-- Locks: the job's row, until the transaction ends; for an available job its queue, at commit.
-- Raises 22023, also for args of which the unique key is made, and for a time at which the job will have expired;
-- JQ003, JQ004; JQ005 when it has begun or ended, or when this transaction has put it into the same place before;
-- 55P03; 40001, also at commit, when it moved on meanwhile; 55000 as enqueue does.
create or replace function awa.reschedule(job_id bigint, run_at timestamptz, args jsonb default null) returns text
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
  v_is_done boolean;
  v_detail text;
begin
  if run_at is null then
    perform awa._refuse('run_at must not be null', null, 'Pass a time; one that has passed means now.');
  end if;
  perform awa._check_run_at(run_at);
  perform awa._json_bytes('args', args);
  perform awa._check_change(job_id);
  perform awa._bound_waits();
  for v_look in 1..10 loop
    v_place := awa._locate(job_id);
    begin
      if v_place.state = 'scheduled' then
        v_is_done := awa._reschedule_deferred(job_id, run_at, args);
      elsif v_place.state = 'available' then
        v_is_done := awa._reschedule_ready(v_place, run_at, args);
      else
        perform awa._refuse_begun(job_id, v_place.state);
      end if;
    exception when lock_not_available then
      get stacked diagnostics v_detail = pg_exception_detail;
      if v_detail <> '' then
        raise; -- it names the holder
      end if;
      perform awa._refuse_change(job_id);
    end;
    if v_is_done then
      perform awa._note_change('reschedule', jsonb_build_object('job_id', job_id),
        jsonb_build_object('run_at', run_at, 'other_args', nullif(args is not null, false)));
      return v_place.state;
    end if;
  end loop;
  perform awa._moved_on(job_id);
end
$$;
comment on function awa.reschedule is
  'Gives a job that has not begun another time, and other args where given; returns the state that it was in';

-- Gives a scheduled job another time; false when it is not there any more.
-- Locks: its row, until the transaction ends.
-- Raises 22023 where it would expire before.
create or replace function awa._reschedule_deferred(job_id bigint, run_at timestamptz, args jsonb) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_job awa.deferred_jobs;
begin
  select d.* into v_job from awa.deferred_jobs d where d.job_id = job_id and d.state = 'scheduled' for update;
  if not found then
    return false;
  end if;
  v_job := awa._with_args(v_job, args, v_job.state);
  perform awa._check_expiry(v_job.expires_at, run_at);
  update awa.deferred_jobs d
     set run_at = run_at, args = v_job.args, body_bytes = v_job.body_bytes
   where d.job_id = job_id and d.state = 'scheduled';
  perform awa._wake_due(run_at);
  if run_at <= clock_timestamp() then
    return awa._retry(job_id, 'scheduled') = 'retried';
  end if;
  if num_nonnulls(v_job.attempted_at, v_job.errors) > 0 then -- as in _cancel_waiting
    perform awa._note_leavers(array[job_id], array[v_job.lane], array[v_job.group_key]);
  end if;
  return true;
end
$$;
comment on function awa._reschedule_deferred is
  'Gives a scheduled job another time; false when it is not there any more';

-- Gives an available job another time; false when it is not there any more.
-- It leaves its place with a tombstone: _resolve_change sees, at the end of the transaction, whether it was claimed
-- meanwhile, and lets go of a unique key that the job does not hold while it is scheduled.
-- Raises 22023 where it would expire before; JQ005 where this transaction has put the job into that lane before.
create or replace function awa._reschedule_ready(place awa._place, run_at timestamptz, args jsonb) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_now timestamptz := clock_timestamp();
  v_entry awa.ready_entries;
  v_job awa.deferred_jobs;
  v_batch bigint;
begin
  if place.xid is null then
    return awa._reschedule_limited(place.id, run_at, args);
  end if;
  begin
    select e.* into v_entry
      from awa._entries e
     where e.lane = place.lane and e.xid = place.xid and e.job_id = place.id;
    raise sqlstate 'JQ999'; -- see _look_up
  exception when sqlstate 'JQ999' then
    null;
  end;
  if v_entry.job_id is null then
    return false;
  end if;
  select w.* into v_job
    from awa._as_attempt(v_entry) a
   cross join lateral awa._waiting(array[a], 'scheduled', array[greatest(run_at, v_now)], counts => true) w;
  if v_job.group_key is null then
    v_job.lane := (select l from awa._ready_lane(v_job.lane, v_job.job_id, null) l);
  end if;
  v_job := awa._with_args(v_job, args, place.state);
  perform awa._check_expiry(v_job.expires_at, run_at);
  if run_at <= v_now and args is null then
    return true;
  end if;
  v_batch := awa._new_batch();
  if cardinality(awa._bury(array[place], v_batch, false)) = 0 then
    return false;
  end if;
  if run_at > v_now then
    if awa._holds(v_job.unique_key, 'scheduled') then
      perform awa._change_state(array[v_job.job_id], array[v_job.lane], array[v_job.unique_key], 'available',
        'scheduled');
    end if;
    perform awa._use_lanes(array[v_job.lane]);
    perform awa._defer(array(select a from awa._last_attempt(v_job) a), 'scheduled', array[run_at], counts => true);
    perform awa._note_leavers(array[v_job.job_id], array[v_job.lane], array[v_job.group_key]);
  else
    if awa._has_place((select l from awa._ready_lane(v_job.lane, v_job.job_id, v_job.group_key) l), v_job.job_id) then
      perform awa._refuse_place(v_job.job_id, place.state);
    end if;
    perform awa._append_ready(array[v_job]);
  end if;
  perform awa._decide_at_end(v_batch);
  return true;
end
$$;
comment on function awa._reschedule_ready is 'Gives an available job another time; false when it is not there any more';

-- Gives a job that waits for its group another time; false when it is not there any more.
-- It leaves its line, and comes back as any job that was scheduled.
-- Raises as _reschedule_ready does.
create or replace function awa._reschedule_limited(job_id bigint, run_at timestamptz, args jsonb) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_now timestamptz := clock_timestamp();
  v_job awa.deferred_jobs;
begin
  select d.* into v_job
    from awa.limited_jobs w
   cross join lateral awa._as_deferred(w) d
   where w.job_id = job_id;
  if not found then
    return false;
  end if;
  v_job := awa._with_args(v_job, args, 'available');
  perform awa._check_expiry(v_job.expires_at, run_at);
  if run_at <= v_now and args is null then
    return true;
  elsif not exists (select from awa._leave_lines(array[job_id])) then
    return false;
  end if;
  if run_at <= v_now then
    if awa._has_place((select l from awa._ready_lane(v_job.lane, job_id, v_job.group_key) l), job_id) then
      perform awa._refuse_place(job_id, 'available');
    end if;
    perform awa._append_ready(array[v_job]);
    return true;
  end if;
  if v_job.unique_key is not null then
    perform awa._change_state(array[job_id], array[v_job.lane], array[v_job.unique_key], 'available', 'scheduled');
  end if;
  perform awa._defer(array(select a from awa._last_attempt(v_job) a), 'scheduled', array[run_at], counts => true);
  return true;
end
$$;
comment on function awa._reschedule_limited is
  'Gives a job that waits for its group another time; false when it is not there any more';

-- Refuses a time at which a job will have expired.
-- Raises 22023.
create or replace function awa._check_expiry(expires_at timestamptz, run_at timestamptz) returns void
language plpgsql
as $$
begin
  if expires_at <= greatest(run_at, clock_timestamp()) then
    perform awa._refuse('run_at must be before the expires_at of the job',
      format('%s for expires_at %s', run_at, expires_at),
      'The job would be cancelled: pass an earlier time, or cancel the job and enqueue another one.');
  end if;
end
$$;
comment on function awa._check_expiry is 'Refuses a time at which a job will have expired';

-- A job that has not begun, with other args where given.
-- state is the one that it was found in.
-- Raises 22023, JQ005.
create or replace function awa._with_args(job awa.deferred_jobs, args jsonb, state text) returns awa.deferred_jobs
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_beside int;
begin
  if job.attempt > 1 then
    perform awa._refuse_begun(job.job_id, state);
  end if;
  if args is null then
    return job;
  end if;
  if awa._names_args(job.unique_key) then
    perform awa._refuse('args must be null for a job whose unique key is made of its args', awa._brief(args),
      'Cancel the job, and enqueue another one.');
  end if;
  v_beside := job.body_bytes - octet_length(job.args::text);
  job.body_bytes := v_beside + awa._json_bytes('args', args, v_beside);
  job.args := args;
  return job;
end
$$;
comment on function awa._with_args is 'A job that has not begun, with other args where given';

-- Raises JQ005 for a job that has begun, or ended.
create or replace function awa._refuse_begun(job_id bigint, state text) returns void
language plpgsql
as $$
begin
  perform awa._refuse_state(job_id, state || case
    when state = 'available' or state = 'scheduled' then ', and has begun'
    else ''
  end,
    'Only a job that is scheduled or available, and of which no attempt counts, can be rescheduled.');
end
$$;
comment on function awa._refuse_begun is 'Raises JQ005 for a job that has begun, or ended';
