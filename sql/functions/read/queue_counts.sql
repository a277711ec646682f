-- What the ledgers say of each lane, exactly: what is counted of its past, and what came after. An entry that this very transaction has buried, and that somebody claimed meanwhile, is running for it no more.
create or replace view awa._lane_counts as
select l.lane,
       (l.enqueued + n.enqueued)::bigint as enqueued,
       (l.appended + n.entries - l.buried - n.tombstones - l.claimed - c.claimed + o.jobs)::bigint as available,
       (c.claimed - c.closed - o.jobs)::bigint as running,
       (l.completed + c.completed)::bigint as completed,
       l.failed, l.cancelled, l.dead,
       least(h.ready_at, a.ready_at) as oldest_ready_at,
       l.queue_id
  from awa._lanes l
 cross join lateral (
    select coalesce(sum(a.entries), 0) as entries, coalesce(sum(a.tombstones), 0) as tombstones, coalesce(sum(a.enqueued), 0) as enqueued
      from awa._appended_since(l.lane, l.counted, l.dropped) a
     where not pg_visible_in_snapshot(a.xid, l.counted)
    offset 0
  ) n
 cross join lateral (
    select coalesce(sum(cardinality(c.job_ids)), 0) as claimed, coalesce(sum(k.closed), 0) as closed, coalesce(sum(k.completed), 0) as completed
      from (
        select * from awa._uncounted(l.lane, l.closed_seq, l.open_seqs, null) offset 0
      ) c
     cross join lateral (
        select sum(coalesce(cardinality(k.items), 1)) as closed,
               sum(coalesce(cardinality(k.items), 1)) filter (where k.outcome in ('completed', 'recorded')) as completed
          from awa.lease_claim_closures k
         where k.claim_id = c.claim_id
        offset 0
      ) k
    offset 0
  ) c
  cross join lateral (
    select count(*) as jobs
      from (select * from awa.ready_tombstones t where t.by_xid = pg_current_xact_id_if_assigned() and t.lane = l.lane offset 0) t
     where (select true from awa._open_items i where i.lane = t.lane and i.job_id = t.job_id limit 1)
    offset 0
  ) o
  left join lateral (
    select e.ready_at
      from awa._entries e
     where e.lane = l.lane and (e.xid, e.job_id) > (l.from_xid, l.from_id)
       and (select true from awa.ready_tombstones t where t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id limit 1) is null
     order by e.xid, e.job_id
     limit 1
  ) h on true
 cross join lateral (
    select min(e.ready_at) as ready_at
      from awa._late(l.lo, l.hi, l.pos_xid, l.pos_id, l.from_xid, l.from_id) x
     cross join lateral (
        select e.ready_at
          from awa._entries e
         where e.lane = l.lane and e.xid = x.xid and e.job_id > x.after_id and e.job_id <= x.until_id
           and (select true from awa.ready_tombstones t where t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id limit 1) is null
         order by e.job_id
         limit 1
      ) e
    offset 0
  ) a;
comment on view awa._lane_counts is 'What the ledgers say of each lane';

-- What queue_counts returns.
create or replace view awa.queue_counts as
select q.name as queue, q.queue_id as available, q.queue_id as scheduled, q.queue_id as retryable, q.queue_id as running, q.queue_id as waiting_external,
       q.queue_id as completed, q.queue_id as failed, q.queue_id as cancelled, q.queue_id as dead, q.created_at as oldest_ready_at
  from awa.queues q
 where false;

-- Exact counts of jobs by queue and state, of all queues or of one; those included that are not kept any more.
-- Queue by queue: where the planner takes the tables for empty, a join would add all of them up again for each one.
create or replace function awa.queue_counts(queue text default null) returns setof awa.queue_counts
language sql stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
with names as (
  select q.queue_id, q.name, bool_or(q.dropped_at is null) as is_there
    from awa.queues q
   where q.queue_id >= coalesce(awa._queue_id(queue_counts.queue), 0) and q.queue_id <= coalesce(awa._queue_id(queue_counts.queue), (1::bigint << 60) - 1)
   group by q.queue_id, q.name
)
select q.name as queue,
       c.available::bigint as available,
       d.scheduled::bigint as scheduled,
       d.retryable::bigint as retryable,
       (c.running + l.jobs)::bigint as running,
       0::bigint as waiting_external,
       (c.completed + f.completed)::bigint as completed,
       (c.failed + f.failed)::bigint as failed,
       (c.cancelled + f.cancelled)::bigint as cancelled,
       (c.dead + x.jobs)::bigint as dead,
       c.oldest as oldest_ready_at
  from names q
 cross join lateral (
    select sum(c.available) as available, sum(c.running) as running, sum(c.completed) as completed,
           sum(c.failed) as failed, sum(c.cancelled) as cancelled, sum(c.dead) as dead, min(c.oldest_ready_at) as oldest
      from awa._lane_counts c
     where c.queue_id = q.queue_id
    offset 0
  ) c
 cross join lateral (
    select count(*) as jobs from awa.leases l where l.lane >= q.queue_id * 8 and l.lane <= q.queue_id * 8 + 7
    offset 0
  ) l
 cross join lateral (
    select count(*) filter (where d.state = 'scheduled') as scheduled,
           count(*) filter (where d.state = 'retryable') as retryable
      from awa.deferred_jobs d
     where d.lane >= q.queue_id * 8 and d.lane <= q.queue_id * 8 + 7
    offset 0
  ) d
 cross join lateral (
    select count(*) filter (where f.state = 'completed') as completed,
           count(*) filter (where f.state = 'failed') as failed,
           count(*) filter (where f.state = 'cancelled') as cancelled
      from awa.done_entries f
     where not f.recorded and f.lane >= q.queue_id * 8 and f.lane <= q.queue_id * 8 + 7
    offset 0
  ) f
 cross join lateral (
    select count(*) as jobs from awa.dlq_entries f where f.lane >= q.queue_id * 8 and f.lane <= q.queue_id * 8 + 7
    offset 0
  ) x
 where (queue_counts.queue is null or q.name = queue_counts.queue)
   and (q.is_there or c.available + c.running + l.jobs + d.scheduled + d.retryable > 0)
 order by q.name
$$;
comment on function awa.queue_counts is 'Exact counts of jobs by queue and state';

-- By the function, which does without JIT: compiling would take seconds.
create or replace view awa.queue_counts as
select c.queue, c.available, c.scheduled, c.retryable, c.running, c.waiting_external, c.completed, c.failed, c.cancelled, c.dead, c.oldest_ready_at
  from awa.queue_counts(null) c;
comment on view awa.queue_counts is 'Exact counts of jobs by queue and state';
