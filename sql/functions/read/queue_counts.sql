-- Exact counts of jobs by queue and state.
--
-- Available are the entries that the cursor has not passed. Two stretches of a lane hold them: the transactions that were in progress at one of the
-- window's ends, probed one by one, and what comes after the position. All others are counted from the ledgers.
create or replace view awa.queue_counts as
with queues as (
  select distinct q.queue_id, q.name from awa.queues q
), lanes as (
  select q.queue_id, l.lane, c.lo, c.hi, c.pos_xid, c.pos_id,
         coalesce(c.lo, c.hi, '3:3:') as floor,
         greatest(case when c.lo is not null then c.pos_xid end, pg_snapshot_xmax(coalesce(c.lo, c.hi, '3:3:'))) as from_xid,
         case when c.lo is not null and c.pos_xid >= pg_snapshot_xmax(c.lo) then c.pos_id else 0 end as from_id
    from queues q
   cross join generate_series(q.queue_id * 8, q.queue_id * 8 + 4) l(lane)
    left join lateral (
      select * from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 1
    ) c on true
), available as (
  select l.queue_id, sum(n.jobs) as jobs, min(n.oldest) as oldest
    from lanes l
   cross join lateral (
      select count(*) as jobs, min(e.ready_at) as oldest
        from awa.ready_entries e
       where e.lane = l.lane and (e.xid, e.job_id) > (l.from_xid, l.from_id)
      union all
      select count(*), min(e.ready_at)
        from (
          select pg_snapshot_xip(l.floor) as xid
          union
          select x from pg_snapshot_xip(l.hi) x where x <= l.from_xid
        ) x
        join awa.ready_entries e on e.lane = l.lane and e.xid = x.xid
       where (e.xid, e.job_id) <= (l.from_xid, l.from_id)
         and (l.hi is null or not pg_visible_in_snapshot(e.xid, l.hi)
           or l.lo is null or (e.xid, e.job_id) > (l.pos_xid, l.pos_id))
    ) n
   group by l.queue_id
), claimed as (
  select c.lane >> 3 as queue_id, sum(cardinality(c.job_ids)) as jobs from awa.lease_claims c group by 1
), closed as (
  select c.lane >> 3 as queue_id,
         sum(coalesce(cardinality(k.items), 1)) as jobs,
         sum(coalesce(cardinality(k.items), 1)) filter (where k.outcome = 'completed') as completed
    from awa.lease_claim_closures k
    join awa.lease_claims c on c.claim_id = k.claim_id and c.segment = k.segment
   group by 1
), deferred as (
  select d.lane >> 3 as queue_id,
         count(*) filter (where d.attempted_at is null) as scheduled,
         count(*) filter (where d.attempted_at is not null) as retryable
    from awa.deferred_jobs d
   group by 1
), done as (
  select f.lane >> 3 as queue_id,
         count(*) filter (where f.state = 'completed') as completed,
         count(*) filter (where f.state = 'failed') as failed,
         count(*) filter (where f.state = 'cancelled') as cancelled
    from awa.done_entries f
   group by 1
)
select q.name as queue,
       coalesce(a.jobs, 0)::bigint as available,
       coalesce(d.scheduled, 0)::bigint as scheduled,
       coalesce(d.retryable, 0)::bigint as retryable,
       (coalesce(c.jobs, 0) - coalesce(k.jobs, 0))::bigint as running,
       0::bigint as waiting_external,
       (coalesce(k.completed, 0) + coalesce(f.completed, 0))::bigint as completed,
       coalesce(f.failed, 0)::bigint as failed,
       coalesce(f.cancelled, 0)::bigint as cancelled,
       0::bigint as dead,
       a.oldest as oldest_ready_at
  from queues q
  left join available a on a.queue_id = q.queue_id
  left join claimed c on c.queue_id = q.queue_id
  left join closed k on k.queue_id = q.queue_id
  left join deferred d on d.queue_id = q.queue_id
  left join done f on f.queue_id = q.queue_id;
comment on view awa.queue_counts is 'Exact counts of jobs by queue and state';

-- The rows of awa.queue_counts, or the one of a queue.
create or replace function awa.queue_counts(queue text default null) returns setof awa.queue_counts
language sql stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$ select * from awa.queue_counts c where queue_counts.queue is null or c.queue = queue_counts.queue order by c.queue $$;
comment on function awa.queue_counts is 'Exact counts of jobs by queue and state';
