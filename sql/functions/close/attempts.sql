-- What an attempt was: its entry and its claim.
create or replace view awa._attempt as
select c.claim_id as receipt, e.job_id, e.lane, e.priority, e.ready_at, e.ready_at as created_at, c.claimed_at, c.worker_id,
       e.attempt, e.max_attempts, e.kind, e.args, e.tags, e.metadata, e.progress, e.errors, e.body_bytes
  from awa.ready_entries e, awa.lease_claims c
 where false;
comment on view awa._attempt is 'What an attempt was: its entry and its claim';

-- The entries behind some receipts whose items the caller closes. Reads the claims' own stretch of the lane, whatever the history. A job has one entry there: an earlier
-- one lies in an earlier window, and a later one exists only once this item is closed.
-- The limit and the offset fence the subqueries off: the planner, who believes the tables to be empty, must not turn them round.
-- Stable, so that it becomes a part of the query that calls it, and of that query's cached plan.
create or replace function awa._attempts(receipts bigint[]) returns setof awa._attempt
language sql stable
as $$
  select c.claim_id << 12 | (array_position(c.job_ids, e.job_id) - 1), e.job_id, e.lane, e.priority, e.ready_at,
         coalesce(e.created_at, e.ready_at), c.claimed_at, c.worker_id, e.attempt, e.max_attempts,
         e.kind, e.args, e.tags, e.metadata, e.progress, e.errors, e.body_bytes
    from (
      select r >> 12 as claim_id, array_agg(r) as receipts from unnest(receipts) r group by 1
    ) a
   cross join lateral (
      select * from awa.lease_claims c where c.claim_id = a.claim_id limit 1
    ) c
   cross join lateral (
      select min(c.job_ids[(r & 4095) + 1]) as first_id, max(c.job_ids[(r & 4095) + 1]) as last_id from unnest(a.receipts) r
    ) j
   cross join lateral (
      select *
        from awa.ready_entries e
       where e.lane = c.lane
         and (e.xid, e.job_id) >= (c.first_xid, c.first_id)
         and (e.xid, e.job_id) <= (c.pos_xid, c.pos_id)
         and e.job_id between j.first_id and j.last_id
      offset 0
    ) e
   where c.claim_id << 12 | (array_position(c.job_ids, e.job_id) - 1) = any(a.receipts)
$$;
comment on function awa._attempts is 'The entries behind some receipts';
