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

-- What follows when attempts have ended and the job's next row is written: their unique keys go with the state, their lease rows go.
create or replace function awa._settle(receipts bigint[], state text) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_job_ids bigint[];
  v_keys bytea[];
  v_queue_ids bigint[];
  v_kept bigint[];
begin
  if (select true from awa.leases l where l.receipt = any(receipts) limit 1) is null
     and (select bool_or((select c.holds_keys from awa.lease_claims c where c.claim_id = r.claim_id limit 1))
            from (select distinct u >> 12 as claim_id from unnest(receipts) u) r) is not true
  then
    return;
  end if;
  select array_agg(a.job_id), array_agg(a.unique_key), array_agg(a.lane >> 3) into v_job_ids, v_keys, v_queue_ids
    from awa._attempts(receipts) a
   where a.unique_key is not null;
  if state = 'completed' and v_keys is not null then
    v_kept := awa._keep_keys(v_job_ids, v_keys, v_queue_ids);
    if v_kept <> '{}' then
      select array_agg(k.job_id), array_agg(k.key) into v_job_ids, v_keys
        from unnest(v_job_ids, v_keys) with ordinality k(job_id, key, place)
       where k.place <> all(v_kept);
    end if;
  end if;
  perform awa._move_keys(v_job_ids, v_keys, 'running', state);
  delete from awa.leases l where l.receipt = any(receipts);
end
$$;
comment on function awa._settle is 'Unique keys and lease rows of attempts that have ended';

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
