-- Every job that is still kept, one row each, in one state.
--
-- An entry is claimed when its lane's cursor has passed it. Its claim is then the first one, in the order of last places, that spans it
-- and lists it. It shows as available, running or completed; an attempt that ended otherwise is shown from where the job went.
create or replace view awa._ledger as
select e.lane,
       e.xid,
       e.job_id as id,
       e.kind,
       (select q.name from awa.queues q where q.queue_id = e.lane >> 3 limit 1) as queue,
       e.args,
       case when c.claim_id is null then 'available' when k.outcome is null then 'running' else 'completed' end as state,
       e.priority::int as priority,
       case when c.claim_id is null then e.attempt - 1 else e.attempt end as attempt,
       e.max_attempts::int as max_attempts,
       e.ready_at as run_at,
       case when k.outcome is null then (select w.heartbeat_at from awa.workers w where w.worker_id = c.worker_id) end as heartbeat_at,
       case when k.outcome is null then c.deadline_at end as deadline_at,
       c.claimed_at as attempted_at,
       k.closed_at as finalized_at,
       coalesce(e.created_at, e.ready_at) as created_at,
       coalesce(e.errors, '[]') as errors,
       e.metadata,
       e.tags,
       null::text as unique_key,
       c.receipt,
       e.progress,
       null::jsonb as output,
       c.worker_id
  from awa.ready_entries e
  left join lateral (
    select c.lo, c.hi, c.pos_xid, c.pos_id from awa.lease_claims c where c.lane = e.lane order by c.lane_seq desc limit 1
  ) cursor on true
  left join lateral (
    select c.*, c.claim_id << 12 | (array_position(c.job_ids, e.job_id) - 1) as receipt
      from awa.lease_claims c
     where case
             when cursor.lo is null then pg_visible_in_snapshot(e.xid, cursor.hi)
             else pg_visible_in_snapshot(e.xid, cursor.lo)
               or pg_visible_in_snapshot(e.xid, cursor.hi) and (e.xid, e.job_id) <= (cursor.pos_xid, cursor.pos_id)
           end
       and c.lane = e.lane
       and (c.pos_xid, c.pos_id) >= (e.xid, e.job_id)
       and (c.first_xid, c.first_id) <= (e.xid, e.job_id)
       and e.job_id = any(c.job_ids)
     order by c.pos_xid, c.pos_id
     limit 1
  ) c on true
  left join lateral (
    select k.outcome, k.closed_at
      from awa.lease_claim_closures k
     where k.claim_id = c.claim_id and k.item = (c.receipt & 4095)
    union all
    select k.outcome, k.closed_at
      from awa.lease_claim_closures k
     where k.claim_id = c.claim_id and k.item < 0 and (c.receipt & 4095) = any(k.items)
    limit 1
  ) k on true
 where k.outcome is null or k.outcome = 'completed';
comment on view awa._ledger is 'The jobs that the ledgers describe: available, running, completed; with the places of their entries';

create or replace view awa._deferred as
select d.job_id as id,
       d.kind,
       (select q.name from awa.queues q where q.queue_id = d.lane >> 3 limit 1) as queue,
       d.args,
       case when d.attempted_at is null then 'scheduled' else 'retryable' end as state,
       (d.lane & 7)::int as priority,
       d.attempt - 1 as attempt,
       d.max_attempts::int as max_attempts,
       d.run_at,
       null::timestamptz as heartbeat_at,
       null::timestamptz as deadline_at,
       d.attempted_at,
       null::timestamptz as finalized_at,
       d.created_at,
       coalesce(d.errors, '[]') as errors,
       d.metadata,
       d.tags,
       null::text as unique_key,
       null::bigint as receipt,
       d.progress,
       null::jsonb as output,
       null::bigint as worker_id
  from awa.deferred_jobs d;
comment on view awa._deferred is 'The jobs that may not run yet: scheduled, retryable';

create or replace view awa._done as
select f.job_id as id,
       f.kind,
       (select q.name from awa.queues q where q.queue_id = f.lane >> 3 limit 1) as queue,
       f.args,
       f.state,
       (f.lane & 7)::int as priority,
       f.attempt::int as attempt,
       f.max_attempts::int as max_attempts,
       f.ready_at as run_at,
       null::timestamptz as heartbeat_at,
       null::timestamptz as deadline_at,
       f.attempted_at,
       f.finalized_at,
       f.created_at,
       coalesce(f.errors, '[]') as errors,
       f.metadata,
       f.tags,
       null::text as unique_key,
       f.receipt,
       f.progress,
       f.output,
       f.worker_id
  from awa.done_entries f;
comment on view awa._done is 'The ended jobs that have a row of their own: failed, completed with an output';

create or replace view awa.jobs as
select id, kind, queue, args, state, priority, attempt, max_attempts, run_at, heartbeat_at, deadline_at, attempted_at, finalized_at, created_at,
       errors, metadata, tags, unique_key, receipt, progress, output, worker_id
  from awa._ledger
union all
select * from awa._deferred
union all
select * from awa._done;
comment on view awa.jobs is 'Every job that is still kept, one row each, in one state';

-- The places of entries that no cursor has passed. Two stretches of a lane hold them: the transactions that were in progress at one of the
-- window's ends, probed one by one, and what comes after the position.
create or replace view awa._available as
with lanes as (
  select l.lane, c.lo, c.hi, c.pos_xid, c.pos_id,
         greatest(case when c.lo is not null then c.pos_xid end, pg_snapshot_xmax(coalesce(c.lo, c.hi, '3:3:'))) as from_xid,
         case when c.lo is not null and c.pos_xid >= pg_snapshot_xmax(c.lo) then c.pos_id else 0 end as from_id
    from (select distinct q.queue_id from awa.queues q) q
   cross join generate_series(q.queue_id * 8, q.queue_id * 8 + 4) l(lane)
    left join lateral (
      select * from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 1
    ) c on true
)
select l.lane, e.xid, e.job_id, e.kind, e.ready_at
  from lanes l
 cross join lateral (
    select e.xid, e.job_id, e.kind, e.ready_at
      from awa.ready_entries e
     where e.lane = l.lane and (e.xid, e.job_id) > (l.from_xid, l.from_id)
    union all
    select e.xid, e.job_id, e.kind, e.ready_at
      from (
        select pg_snapshot_xip(coalesce(l.lo, l.hi)) as xid
        union
        select x from pg_snapshot_xip(l.hi) x where x <= l.from_xid
      ) x
     cross join lateral (
        select * from awa.ready_entries e where e.lane = l.lane and e.xid = x.xid offset 0
      ) e
     where (e.xid, e.job_id) <= (l.from_xid, l.from_id)
       and (not pg_visible_in_snapshot(e.xid, l.hi) or l.lo is null or (e.xid, e.job_id) > (l.pos_xid, l.pos_id))
  ) e;
comment on view awa._available is 'The places of entries that may be claimed';

-- The places of entries whose attempts are open.
create or replace view awa._running as
select c.lane, e.xid, e.job_id, e.kind
  from (
    select c.*,
           array(select unnest(coalesce(k.items, array[k.item])) from awa.lease_claim_closures k where k.claim_id = c.claim_id) as closed
      from awa.lease_claims c
    offset 0
  ) c
 cross join unnest(c.job_ids) with ordinality j(job_id, place)
 cross join lateral (
    select e.xid, e.job_id, e.kind
      from awa.ready_entries e
     where e.lane = c.lane
       and (e.xid, e.job_id) >= (c.first_xid, c.first_id)
       and (e.xid, e.job_id) <= (c.pos_xid, c.pos_id)
       and e.job_id = j.job_id
    offset 0
  ) e
 where cardinality(c.closed) < cardinality(c.job_ids)
   and j.place - 1 <> all(c.closed);
comment on view awa._running is 'The places of entries whose attempts are open';

-- The rows of awa.jobs.
create or replace function awa.jobs_compat() returns setof awa.jobs
language sql stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$ select * from awa.jobs $$;
comment on function awa.jobs_compat is 'Every job that is still kept, one row each, in one state';
