-- The attempts behind some receipts that the caller has closed, or whose lease rows it has locked. Reads the claims' own stretch of the lane, whatever the history.
-- A job has one entry there that is not buried: an earlier one lies in an earlier window, and a later one exists only once this item is closed.
-- The limits and the offset fence the subqueries off: the planner, who believes the tables to be empty, must not turn them round.
-- Stable, so that it becomes a part of the query that calls it, and of that query's cached plan.
create or replace function awa._attempts(receipts bigint[]) returns setof awa.leases
language sql stable
as $$
  select l.* from awa.leases l where l.receipt = any(receipts)
  union all
  select c.claim_id << 12 | (array_position(c.job_ids, e.job_id) - 1), e.job_id, e.lane, e.priority, e.ready_at,
         coalesce(e.created_at, e.ready_at), c.claimed_at, c.lease_until - c.claimed_at, c.lease_until, c.deadline_at, c.worker_id,
         e.attempt, e.max_attempts, e.body_bytes, e.unique_key, e.kind, e.args, e.tags, e.metadata, e.progress, e.errors
    from (
      select r >> 12 as claim_id, array_agg(r) as receipts
        from unnest(receipts) r
       where (select true from awa.leases l where l.receipt = r limit 1) is null
       group by 1
    ) a
   cross join lateral (
      select * from awa.lease_claims c where c.claim_id = a.claim_id limit 1
    ) c
   cross join lateral (
      select min(c.job_ids[(r & 4095) + 1]) as first_id, max(c.job_ids[(r & 4095) + 1]) as last_id from unnest(a.receipts) r
    ) j
   cross join lateral (
      select * from awa._claimed_entries(c.lane, c.first_xid, c.first_id, c.pos_xid, c.pos_id, j.first_id, j.last_id) offset 0
    ) e
   where c.claim_id << 12 | (array_position(c.job_ids, e.job_id) - 1) = any(a.receipts)
     and case
           when (select true from awa.ready_tombstones limit 1)
           then (select true from awa.ready_tombstones t where t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id limit 1) is null
           else true
         end
$$;
comment on function awa._attempts is 'The attempts behind some receipts';

-- The entries of a claim's stretch of its lane, with ids from and to. Others may lie between them: not visible to the claim, or buried.
-- In two parts, each with both its ends in the index: a row comparison ends a scan only where its first column decides, so one for the last place would read the transaction that it lies in to its end.
-- The limits and the offset of the caller fence it off.
create or replace function awa._claimed_entries(lane bigint, first_xid xid8, first_id bigint, pos_xid xid8, pos_id bigint, from_id bigint, to_id bigint) returns setof awa.ready_entries
language sql stable
as $$
  select e.*
    from awa._entries e
   where e.lane = _claimed_entries.lane
     and e.xid = pos_xid
     and e.job_id >= case when first_xid = pos_xid then greatest(first_id, from_id) else from_id end
     and e.job_id <= least(pos_id, to_id)
  union all
  select e.*
    from awa._entries e
   where first_xid < pos_xid
     and e.lane = _claimed_entries.lane
     and (e.xid, e.job_id) >= (first_xid, first_id)
     and e.xid < pos_xid
     and e.job_id between from_id and to_id
$$;
comment on function awa._claimed_entries is 'The entries of a claim''s stretch of its lane';

-- The attempts behind some receipts, to be passed on: they are looked up once.
create or replace function awa._look_up(receipts bigint[]) returns awa.leases[]
language sql stable
as $$ select coalesce(array_agg(a), '{}') from awa._attempts(receipts) a $$;
comment on function awa._look_up is 'The attempts behind some receipts, to be passed on';

-- The attempts behind very many receipts, in arrays of about 64 MB: an array can't hold 1 GB.
create or replace function awa._look_up_many(receipts bigint[]) returns setof awa.leases[]
language sql stable
as $$
  select array_agg(b.attempt)
    from (
      select a.attempt, div(sum((a.attempt).body_bytes::bigint + coalesce(pg_column_size((a.attempt).errors), 0)) over (order by a.receipt rows unbounded preceding), 67108864) as batch
        from (select distinct on (a.receipt) a.receipt, a as attempt from awa._attempts(receipts) a) a -- while a segment is cleaned, entries are there twice
    ) b
   group by b.batch
$$;
comment on function awa._look_up_many is 'The attempts behind very many receipts, in arrays of about 64 MB';

-- Lets go of what attempts hold, once their jobs go to another state: of unique keys that the jobs do not hold there, and of lease rows.
create or replace function awa._end_attempts(attempts awa.leases[], state text) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_job_ids bigint[];
  v_keys bytea[];
  v_queue_ids bigint[];
  v_kept bigint[];
begin
  select array_agg(a.job_id), array_agg(a.unique_key), array_agg(a.lane >> 3) into v_job_ids, v_keys, v_queue_ids
    from unnest(attempts) a
   where a.unique_key is not null;
  if v_keys is not null then
    if state = 'completed' then
      v_kept := awa._keep_keys(v_job_ids, v_keys, v_queue_ids);
      if v_kept <> '{}' then
        select array_agg(k.job_id), array_agg(k.key) into v_job_ids, v_keys
          from unnest(v_job_ids, v_keys) with ordinality k(job_id, key, place)
         where k.place <> all(v_kept);
      end if;
    end if;
    perform awa._move_keys(v_job_ids, v_keys, 'running', state);
  end if;
  delete from awa.leases l where l.receipt = any(array(select a.receipt from unnest(attempts) a));
end
$$;
comment on function awa._end_attempts is 'Lets go of what attempts hold, once their jobs go to another state';

-- The jobs of attempts, as they wait for a time: one for each attempt, as there are errors. Their next attempt has the same number, or the next one where they count.
create or replace function awa._waiting(attempts awa.leases[], state text, run_at timestamptz[], errors jsonb[] default null, counts boolean default false) returns setof awa.deferred_jobs
language sql stable
as $$
  select a.job_id, a.lane & ~7::bigint | a.priority, state, run_at[a.ordinality], a.created_at, a.claimed_at, least(a.attempt + counts::int, a.max_attempts)::smallint, a.max_attempts, a.body_bytes,
         a.unique_key, a.kind, a.args, a.tags, a.metadata, a.progress, coalesce(_waiting.errors[a.ordinality], a.errors)
    from unnest(attempts) with ordinality a
$$;
comment on function awa._waiting is 'The jobs of attempts, as they wait for a time';

-- Puts the jobs of attempts off to a time: one for each attempt, as there are errors.
create or replace function awa._defer(attempts awa.leases[], state text, run_at timestamptz[], errors jsonb[] default null, counts boolean default false) returns void
language sql
as $$ insert into awa.deferred_jobs select w.* from awa._waiting(attempts, state, run_at, errors, counts) w $$;
comment on function awa._defer is 'Puts the jobs of attempts off to a time';

-- Appends jobs to the current segment, and wakes their queues: to their lanes, or to the front lanes of their queues. They are ready since their run_at.
create or replace function awa._append_ready(jobs awa.deferred_jobs[], in_front boolean default false) returns void
language plpgsql
as $$
declare
  v_queue_ids bigint[];
begin
  with appended as (
    insert into awa.ready_entries
      (segment, lane, job_id, ready_at, priority, attempt, max_attempts, body_bytes, unique_key, kind, args, tags, metadata, created_at, progress, errors)
    select r.current_segment, case when in_front then j.lane & ~7::bigint else j.lane end, j.job_id, j.run_at, j.lane & 7, j.attempt, j.max_attempts, j.body_bytes,
           j.unique_key, j.kind, j.args, j.tags, j.metadata, j.created_at, j.progress, j.errors
      from awa._current_segment() r(current_segment), unnest(jobs) j
    returning lane >> 3 as queue_id
  )
  select array_agg(distinct a.queue_id) into v_queue_ids from appended a;
  perform awa._wake(q) from unnest(v_queue_ids) q;
end
$$;
comment on function awa._append_ready is 'Appends jobs to the current segment, and wakes their queues';

-- Writes the ends of jobs, after their last attempts; the attempt of a job that never ran has no receipt. Counted says that a closure counts the job as completed. There are errors, outputs, and whether it is counted, for each, or none.
create or replace function awa._end(attempts awa.leases[], state text, reason text default null, errors jsonb[] default null, outputs jsonb[] default null, counted boolean[] default null) returns void
language sql
as $$
  insert into awa.done_entries
    (job_id, lane, state, reason, recorded, receipt, worker_id, ready_at, created_at, attempted_at, finalized_at, attempt, max_attempts, body_bytes, unique_key,
     kind, args, tags, metadata, progress, errors, output)
  select a.job_id, a.lane & ~7::bigint | a.priority, state, reason, coalesce(counted[a.ordinality], false), a.receipt, a.worker_id, a.ready_at, a.created_at, a.claimed_at, clock_timestamp(),
         a.attempt, a.max_attempts, a.body_bytes, a.unique_key, a.kind, a.args, a.tags, a.metadata, case when state <> 'completed' then a.progress end,
         coalesce(_end.errors[a.ordinality], a.errors), outputs[a.ordinality]
    from unnest(attempts) with ordinality a
$$;
comment on function awa._end is 'Writes the ends of jobs';

-- Gives attempts rows of their own.
create or replace function awa._lease(attempts awa.leases[]) returns void
language sql
as $$ insert into awa.leases select a.* from unnest(attempts) a $$;
comment on function awa._lease is 'Gives attempts rows of their own';

-- The errors of a job with one more. The first 20 and the last 20 are kept, and between them an object that says how many were left out. By says who cancelled it.
create or replace function awa._add_error(errors jsonb, attempt int, error text, details jsonb default null, by text default null) returns jsonb
language sql stable
return case jsonb_array_length(errors)
    when 40 then jsonb_set(errors, '{20}', '{"omitted": 1}')
    when 41 then jsonb_set(errors - 21, '{20,omitted}', to_jsonb((errors -> 20 ->> 'omitted')::int + 1))
    else coalesce(errors, '[]')
  end
  || jsonb_build_array(jsonb_strip_nulls(jsonb_build_object('attempt', attempt, 'at', clock_timestamp(), 'error', left(error, 20000), 'by', by))
    || case when details is null then '{}' else jsonb_build_object('details', details) end);
comment on function awa._add_error is 'The errors of a job with one more';
