-- The one writer of each table that jobs go to.

-- Ends attempts, once their jobs go to another state: changes their keys, slots and groups, and removes lease rows.
-- leased: whether some of them may have such rows. Gives back the slots that these hold; those of the ledger were given
-- back with the closure. Where the jobs may come again, or failed for good, notes that their groups may be reserved
-- for them; not without holds_group, where an operator has ended them. Nothing to do where _holds_nothing is true.
create or replace function awa._end_attempts(
  attempts awa.leases[],
  state text,
  leased boolean default true,
  holds_group boolean default true
) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_job_ids bigint[];
  v_lanes bigint[];
  v_keys bytea[];
  v_has_slots boolean;
  v_freed record;
begin
  if cardinality(attempts) > 1 or attempts[1].unique_key is not null then
    select array_agg(a.job_id), array_agg(a.lane), array_agg(a.unique_key) into v_job_ids, v_lanes, v_keys
      from unnest(attempts) a
     where a.unique_key is not null;
    if v_keys is not null then
      perform awa._change_state(v_job_ids, v_lanes, v_keys, 'running', state);
    end if;
  end if;
  v_has_slots := case
    when cardinality(attempts) = 1 then attempts[1].group_id is not null or attempts[1].holds_queue
    else exists (select from unnest(attempts) a where a.group_id is not null or a.holds_queue)
  end;
  if not v_has_slots then
    if leased then
      perform from awa._delete_leases(attempts, state, holds_group);
    end if;
    return;
  end if;
  for v_freed in
    with gone as (
      select l.lane, l.group_id, l.holds_queue from awa._delete_leases(attempts, state, holds_group) l where leased
    )
    select awa._shard_of(g.lane) as shard, array_agg(g.group_id) as groups,
           (count(*) filter (where g.holds_queue))::int as of_queue
      from gone g
     where g.group_id is not null or g.holds_queue
     group by 1
     order by 1
  loop
    perform awa._free_slots(v_freed.shard, v_freed.groups, v_freed.of_queue);
  end loop;
  if holds_group and state = any(awa._states('holds_group')) then
    perform awa._note_holders(attempts, state = any(awa._states('done')));
  end if;
end
$$;
comment on function awa._end_attempts is
  'Ends attempts, once their jobs go to another state: changes their keys, slots and groups, and removes lease rows';

-- Removes the lease rows of attempts, where they have any, and notes those that completed or failed; returns the rows.
-- state: the one that follows. for_itself: whether that follows from its end, and no operator has ended it.
create or replace function awa._delete_leases(
  attempts awa.leases[],
  state text,
  for_itself boolean
) returns setof awa.leases
language plpgsql
as $$
#variable_conflict use_variable
begin
  return query
    with gone as (
      delete from awa.leases l where l.receipt = any(array(select a.receipt from unnest(attempts) a)) returning l.*
    ), counted as (
      insert into awa.leased_ends (lane, kind, is_failure, ready_at, claimed_at, ended_at)
      select g.lane, g.kind, state <> 'completed', g.ready_at, g.claimed_at, clock_timestamp()
        from gone g
       where state = 'completed' or for_itself and state = any(awa._states('after_failure'))
    )
    select * from gone;
end
$$;
comment on function awa._delete_leases is
  'Removes the lease rows of attempts, where they have any, and notes those that completed or failed; returns the rows';

-- Whether an attempt that ends holds nothing: no unique key, no slot, and, unless it is leased, no lease row.
-- Of several it is not said.
create or replace function awa._holds_nothing(attempts awa.leases[], leased boolean) returns boolean
language plpgsql immutable
as $$
begin
  return not leased and cardinality(attempts) = 1 and attempts[1].unique_key is null
    and attempts[1].group_id is null and not attempts[1].holds_queue;
end
$$;
comment on function awa._holds_nothing is
  'Whether an attempt that ends holds nothing: no unique key, no slot, and, unless it is leased, no lease row';

-- The jobs of attempts, as they wait for a time.
-- There is one job for each attempt, and one error. Their next attempt has the same number, or the next one where the
-- attempts count.
create or replace function awa._waiting(
  attempts awa.leases[],
  state text,
  run_at timestamptz[],
  errors jsonb[] default null,
  counts boolean default false
) returns setof awa.deferred_jobs
language sql stable
as $$
  select w.*
    from (
      select unnest(attempts) as attempt, unnest(_waiting.run_at) as run_at, unnest(_waiting.errors) as errors
    ) a
   cross join lateral awa._as_waiting(a.attempt, _waiting.state, a.run_at, a.errors, _waiting.counts) w
$$;
comment on function awa._waiting is 'The jobs of attempts, as they wait for a time';

-- The job of an attempt, as one that waits for a time, as in _waiting.
create or replace function awa._as_waiting(
  attempt awa.leases,
  state text,
  run_at timestamptz,
  errors jsonb,
  counts boolean
) returns setof awa.deferred_jobs
language sql stable
as $$
  select attempt.job_id, attempt.lane & ~7::bigint | attempt.priority, state, run_at, attempt.created_at,
         attempt.claimed_at, least(attempt.attempt + counts::int, attempt.max_attempts)::smallint,
         attempt.max_attempts, attempt.body_bytes,
         attempt.unique_key, attempt.kind, attempt.args, attempt.tags, attempt.metadata, attempt.group_key,
         attempt.expires_at, attempt.progress, coalesce(_as_waiting.errors, attempt.errors)
$$;
comment on function awa._as_waiting is 'The job of an attempt, as one that waits for a time, as in _waiting';

-- Puts the jobs of attempts off to a time: one job for each attempt, and one error.
create or replace function awa._defer(
  attempts awa.leases[],
  state text,
  run_at timestamptz[],
  errors jsonb[] default null,
  counts boolean default false
) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.deferred_jobs select w.* from awa._waiting(attempts, state, run_at, errors, counts) w;
  if cardinality(run_at) > 1 then
    run_at := array[(select min(r) from unnest(run_at) r)];
  end if;
  if awa._is_due_soon(run_at[1]) then
    perform awa._wake_due(run_at[1]);
  end if;
end
$$;
comment on function awa._defer is 'Puts the jobs of attempts off to a time: one job for each attempt, and one error';

-- A job that waited, as an entry of a segment: in its lane, or in the front lane of its shard.
-- It is ready since its run_at.
create or replace function awa._as_entry(
  job awa.deferred_jobs,
  segment smallint,
  in_front boolean default false
) returns setof awa.ready_entries
language sql stable
as $$
  select case
           when in_front then job.lane & ~7::bigint
           else (select l from awa._ready_lane(job.lane, job.job_id, job.group_key) l)
         end,
         pg_current_xact_id(), job.job_id, job.run_at, segment, (job.lane & 7)::smallint, job.attempt,
         job.max_attempts, job.body_bytes,
         job.unique_key, job.kind, job.args, job.tags, job.metadata, job.group_key, job.expires_at, job.created_at,
         job.progress, job.errors
$$;
comment on function awa._as_entry is
  'A job that waited, as an entry of a segment: in its lane, or in the front lane of its shard';

-- An entry, as an attempt: of a claim, or, without a receipt, one that has not begun.
create or replace function awa._as_attempt(
  entry awa.ready_entries,
  receipt bigint default null,
  claimed_at timestamptz default null,
  lease_until timestamptz default null,
  deadline_at timestamptz default null,
  worker_id bigint default null,
  group_id bigint default null,
  holds_queue boolean default false
) returns setof awa.leases
language sql stable
as $$
  select receipt, entry.job_id, entry.lane, entry.priority, entry.ready_at, coalesce(entry.created_at, entry.ready_at),
         claimed_at, lease_until - claimed_at, lease_until, deadline_at, worker_id,
         case when receipt is null then entry.attempt - 1::smallint else entry.attempt end, entry.max_attempts,
         entry.body_bytes, entry.unique_key, entry.kind, entry.args, entry.tags, entry.metadata, entry.group_key,
         entry.expires_at, entry.progress, entry.errors, group_id, holds_queue
$$;
comment on function awa._as_attempt is
  'An entry, as an attempt: of a claim, or, without a receipt, one that has not begun';

-- A deferred job, as the attempt before the one that it waits for: it has ended, or there was none.
create or replace function awa._last_attempt(job awa.deferred_jobs) returns setof awa.leases
language sql stable
as $$
  select null::bigint, job.job_id, job.lane, (job.lane & 7)::smallint, job.run_at, job.created_at, job.attempted_at,
         null::interval, null::timestamptz, null::timestamptz, null::bigint, job.attempt - 1::smallint,
         job.max_attempts, job.body_bytes,
         job.unique_key, job.kind, job.args, job.tags, job.metadata, job.group_key, job.expires_at,
         job.progress, job.errors, null::bigint, false
$$;
comment on function awa._last_attempt is
  'A deferred job, as the attempt before the one that it waits for: it has ended, or there was none';

-- An ended job, as one that waits for its first attempt.
create or replace function awa._revived(job awa.done_entries) returns setof awa.deferred_jobs
language sql stable
as $$
  select job.job_id, job.lane, job.state, null::timestamptz, job.created_at, null::timestamptz, 1::smallint,
         job.max_attempts, job.body_bytes, job.unique_key, job.kind, job.args, job.tags, job.metadata, job.group_key,
         job.expires_at, job.progress, job.errors
$$;
comment on function awa._revived is 'An ended job, as one that waits for its first attempt';

-- Appends jobs to the current segment, and wakes their queues.
-- To their lanes, or to the front lanes of their shards.
create or replace function awa._append_ready(jobs awa.deferred_jobs[], in_front boolean default false) returns void
language plpgsql
as $$
declare
  v_segment smallint := awa._current_segment();
  v_lanes bigint[];
begin
  with appended as (
    insert into awa.ready_entries
    select e.*
      from unnest(jobs) j
     cross join lateral awa._as_entry(j, v_segment, in_front) e
    returning lane
  )
  select array_agg(distinct a.lane) into v_lanes from appended a;
  perform awa._note_appended(v_lanes);
end
$$;
comment on function awa._append_ready is 'Appends jobs to the current segment, and wakes their queues';

-- Appends an entry, as it is.
-- The caller has noted its lane as one in use, and wakes the queue.
create or replace function awa._append_entry(entry awa.ready_entries) returns void
language plpgsql
as $$
begin
  insert into awa.ready_entries values (entry.*);
end
$$;
comment on function awa._append_entry is 'Appends an entry, as it is';

-- Moves deferred jobs to the current segment, as _append_ready appends jobs; returns how many.
-- Why: in one statement, since an array of thousands of jobs might not fit into 1 GB.
create or replace function awa._append_deferred(job_ids bigint[]) returns bigint
language plpgsql
as $$
declare
  v_appended bigint;
  v_lanes bigint[];
begin
  with taken as (
    delete from awa.deferred_jobs d where d.job_id = any(job_ids) returning d as job
  ), appended as (
    insert into awa.ready_entries
    select e.*
      from awa._current_segment() r(current_segment), taken t
     cross join lateral awa._as_entry(t.job, r.current_segment) e
    returning lane
  ), keys as (
    select awa._change_state(array_agg((t.job).job_id), array_agg((t.job).lane), array_agg((t.job).unique_key),
             (t.job).state, 'available')
      from taken t
     where (t.job).unique_key is not null
     group by (t.job).state
  )
  select count(*), array_agg(distinct a.lane) into v_appended, v_lanes
    from appended a
   where (select count(*) from keys) >= 0;
  perform awa._note_appended(v_lanes);
  return v_appended;
end
$$;
comment on function awa._append_deferred is
  'Moves deferred jobs to the current segment, as _append_ready appends jobs; returns how many';

-- Notes that jobs have been appended to lanes: these are in use, and their queues are woken.
create or replace function awa._note_appended(lanes bigint[]) returns void
language plpgsql
as $$
declare
  v_queue_id bigint;
begin
  if cardinality(lanes) = 1 is not true then
    perform awa._use_lanes(lanes);
    perform awa._wake(q) from (select distinct awa._queue_of(l) as q from unnest(lanes) l) l;
    return;
  end if;
  v_queue_id := awa._queue_of(lanes[1]);
  if not exists (
    select from awa.queues q where q.queue_id = v_queue_id and q.lane = lanes[1] and q.dropped_at is null
  ) then
    perform awa._use_lanes(lanes);
  end if;
  if awa._is_awake(v_queue_id) is not true then
    perform awa._wake(v_queue_id);
  end if;
end
$$;
comment on function awa._note_appended is
  'Notes that jobs have been appended to lanes: these are in use, and their queues are woken';

-- Writes the ends of jobs, after their last attempts.
-- The attempt of a job that never ran has no receipt. errors, outputs, whether a closure counts the job as completed,
-- and when it ended, are there for each job, or for none; without a time it ends now.
create or replace function awa._end(
  attempts awa.leases[],
  state text,
  reason text default null,
  errors jsonb[] default null,
  outputs jsonb[] default null,
  counted_by_closure boolean[] default null,
  ended_at timestamptz[] default null
) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.done_entries
    (job_id, lane, state, reason, counted_by_closure, receipt, worker_id, ready_at, created_at, attempted_at,
     finalized_at, attempt, max_attempts, body_bytes, unique_key,
     kind, args, tags, metadata, group_key, expires_at, progress, errors, output)
  select a.job_id, a.lane & ~7::bigint | a.priority, state, reason, coalesce(counted_by_closure[a.ordinality], false),
         a.receipt, a.worker_id, a.ready_at, a.created_at, a.claimed_at,
         coalesce(ended_at[a.ordinality], clock_timestamp()),
         a.attempt, a.max_attempts, a.body_bytes, a.unique_key, a.kind, a.args, a.tags, a.metadata,
         a.group_key, a.expires_at,
         case when state <> 'completed' then a.progress end,
         coalesce(errors[a.ordinality], a.errors), outputs[a.ordinality]
    from unnest(attempts) with ordinality a;
end
$$;
comment on function awa._end is 'Writes the ends of jobs, after their last attempts';

-- Gives attempts rows of their own in leases.
create or replace function awa._lease(attempts awa.leases[]) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.leases select a.* from unnest(attempts) a;
end
$$;
comment on function awa._lease is 'Gives attempts rows of their own in leases';

-- An entry, as it is in another segment, and with another xid where one is given.
create or replace function awa._in_segment(
  entry awa.ready_entries,
  segment smallint,
  xid xid8 default null
) returns awa.ready_entries
language plpgsql immutable
as $$
#variable_conflict use_variable
begin
  entry.segment := segment;
  entry.xid := coalesce(xid, entry.xid);
  return entry;
end
$$;
comment on function awa._in_segment is 'An entry, as it is in another segment, and with another xid where one is given';

-- Notes, for the counts, that jobs have come to a lane without an entry, or, negative, have left it.
create or replace function awa._arrive(lane bigint, jobs bigint, kind text default null) returns void
language plpgsql
as $$
begin
  if jobs <> 0 then
    insert into awa.arrivals (segment, lane, jobs, kind) values (awa._current_segment(), lane, jobs, kind);
  end if;
end
$$;
comment on function awa._arrive is
  'Notes, for the counts, that jobs have come to a lane without an entry, or, negative, have left it';
