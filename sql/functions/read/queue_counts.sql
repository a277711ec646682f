-- Exact counts of jobs by queue and state.
create or replace view awa.queue_counts as
with queues as (
  select distinct q.queue_id, q.name from awa.queues q
), available as (
  select a.lane >> 3 as queue_id, count(*) as jobs, min(a.ready_at) as oldest from awa._available a group by 1
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
