-- The one writer of each table that jobs go to.

-- Lets go of the unique keys and lease rows of attempts, once their jobs go to another state.
-- Of unique keys only where the jobs do not hold them in that state.
create or replace function awa._end_attempts(attempts awa.leases[], state text) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_job_ids bigint[];
  v_keys bytea[];
  v_queue_ids bigint[];
  v_held bigint[];
begin
  select array_agg(a.job_id), array_agg(a.unique_key), array_agg(awa._queue_of(a.lane)) into v_job_ids, v_keys,
         v_queue_ids
    from unnest(attempts) a
   where a.unique_key is not null;
  if v_keys is not null then
    if state = 'completed' then
      v_held := awa._keep_keys(v_job_ids, v_keys, v_queue_ids);
      if v_held <> '{}' then
        select array_agg(k.job_id), array_agg(k.key) into v_job_ids, v_keys
          from unnest(v_job_ids, v_keys) with ordinality k(job_id, key, ordinal)
         where k.ordinal <> all(v_held);
      end if;
    end if;
    perform awa._move_keys(v_job_ids, v_keys, 'running', state);
  end if;
  delete from awa.leases l where l.receipt = any(array(select a.receipt from unnest(attempts) a));
end
$$;
comment on function awa._end_attempts is
  'Lets go of the unique keys and lease rows of attempts, once their jobs go to another state';

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
  select a.job_id, a.lane & ~7::bigint | a.priority, state, run_at[a.ordinality], a.created_at, a.claimed_at,
         least(a.attempt + counts::int, a.max_attempts)::smallint, a.max_attempts, a.body_bytes,
         a.unique_key, a.kind, a.args, a.tags, a.metadata, a.group_key, a.progress,
         coalesce(_waiting.errors[a.ordinality], a.errors)
    from unnest(attempts) with ordinality a
$$;
comment on function awa._waiting is 'The jobs of attempts, as they wait for a time';

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
  perform awa._wake_due((select min(r) from unnest(run_at) r));
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
           else awa._ready_lane(job.lane, job.job_id, job.group_key)
         end,
         pg_current_xact_id(), job.job_id, job.run_at, segment, (job.lane & 7)::smallint, job.attempt,
         job.max_attempts, job.body_bytes,
         job.unique_key, job.kind, job.args, job.tags, job.metadata, job.group_key, job.created_at, job.progress,
         job.errors
$$;
comment on function awa._as_entry is
  'A job that waited, as an entry of a segment: in its lane, or in the front lane of its shard';

-- An entry, as a job that waits for a time.
create or replace function awa._as_deferred(entry awa.ready_entries, run_at timestamptz) returns awa.deferred_jobs
language sql stable
as $$
  select entry.job_id,
         awa._ready_lane(entry.lane & ~7::bigint | entry.priority, entry.job_id, entry.group_key), 'scheduled', run_at,
         coalesce(entry.created_at, entry.ready_at), null::timestamptz, entry.attempt, entry.max_attempts,
         entry.body_bytes, entry.unique_key, entry.kind, entry.args, entry.tags, entry.metadata, entry.group_key,
         entry.progress, entry.errors
$$;
comment on function awa._as_deferred is 'An entry, as a job that waits for a time';

-- An ended job, as one that waits for its first attempt.
create or replace function awa._revived(job awa.done_entries) returns setof awa.deferred_jobs
language sql stable
as $$
  select job.job_id, job.lane, job.state, null::timestamptz, job.created_at, null::timestamptz, 1::smallint,
         job.max_attempts, job.body_bytes, job.unique_key, job.kind, job.args, job.tags, job.metadata, job.group_key,
         job.progress, job.errors
$$;
comment on function awa._revived is 'An ended job, as one that waits for its first attempt';

-- Appends jobs to the current segment, and wakes their queues.
-- To their lanes, or to the front lanes of their shards.
create or replace function awa._append_ready(jobs awa.deferred_jobs[], in_front boolean default false) returns void
language plpgsql
as $$
declare
  v_lanes bigint[];
begin
  with appended as (
    insert into awa.ready_entries
    select e.*
      from awa._current_segment() r(current_segment), unnest(jobs) j
     cross join lateral awa._as_entry(j, r.current_segment, in_front) e
    returning lane
  )
  select array_agg(distinct a.lane) into v_lanes from appended a;
  perform awa._use_lanes(v_lanes);
  perform awa._wake(q) from (select distinct awa._queue_of(l) as q from unnest(v_lanes) l) l;
end
$$;
comment on function awa._append_ready is 'Appends jobs to the current segment, and wakes their queues';

-- Writes the ends of jobs, after their last attempts.
-- The attempt of a job that never ran has no receipt. errors, outputs, and whether a closure counts the job as
-- completed, are there for each job, or for none.
create or replace function awa._end(
  attempts awa.leases[],
  state text,
  reason text default null,
  errors jsonb[] default null,
  outputs jsonb[] default null,
  counted_by_closure boolean[] default null
) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.done_entries
    (job_id, lane, state, reason, counted_by_closure, receipt, worker_id, ready_at, created_at, attempted_at,
     finalized_at, attempt, max_attempts, body_bytes, unique_key,
     kind, args, tags, metadata, group_key, progress, errors, output)
  select a.job_id, a.lane & ~7::bigint | a.priority, state, reason, coalesce(counted_by_closure[a.ordinality], false),
         a.receipt, a.worker_id, a.ready_at, a.created_at, a.claimed_at, clock_timestamp(),
         a.attempt, a.max_attempts, a.body_bytes, a.unique_key, a.kind, a.args, a.tags, a.metadata,
         a.group_key,
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

-- An entry, as it is in another segment.
create or replace function awa._in_segment(entry awa.ready_entries, segment smallint) returns awa.ready_entries
language plpgsql immutable
as $$
begin
  entry.segment := segment;
  return entry;
end
$$;
comment on function awa._in_segment is 'An entry, as it is in another segment';

-- Notes, for the counts, that jobs have come to a lane without an entry, or, negative, have left it.
create or replace function awa._arrive(lane bigint, jobs bigint) returns void
language sql
as $$
  insert into awa.arrivals (segment, lane, jobs) select awa._current_segment(), lane, jobs where jobs <> 0
$$;
comment on function awa._arrive is
  'Notes, for the counts, that jobs have come to a lane without an entry, or, negative, have left it';
