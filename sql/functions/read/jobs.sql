-- Every job that is still kept, one row each, in one state.
--
-- An entry is claimed when its lane's cursor has passed it. Its claim is then the first one, in the order of last places, that spans it
-- and lists it. It shows as available, running or completed; an attempt that ended otherwise, or goes on in leases, is shown from where it went. An entry that is buried, or
-- that a dropped queue's cursor has passed, shows nowhere; nor does a completed job that was deleted, or that its queue keeps no longer.
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
       encode(substr(e.unique_key, 1, 32), 'hex') as unique_key,
       c.receipt,
       case when k.outcome is null then e.progress end as progress,
       null::jsonb as output,
       c.worker_id,
       e.segment,
       e.unique_key as full_key
  from awa._entries e
  left join lateral (
    select c.lo, c.hi, c.pos_xid, c.pos_id from awa.lease_claims c where c.lane = e.lane order by c.lane_seq desc limit 1
  ) cursor on true
  cross join lateral (
    select coalesce(case
             when cursor.lo is null then pg_visible_in_snapshot(e.xid, cursor.hi)
             else pg_visible_in_snapshot(e.xid, cursor.lo)
               or pg_visible_in_snapshot(e.xid, cursor.hi) and (e.xid, e.job_id) <= (cursor.pos_xid, cursor.pos_id)
           end, false) as passed
  ) p
  left join lateral (
    select c.*, c.claim_id << 12 | (array_position(c.job_ids, e.job_id) - 1) as receipt
      from awa.lease_claims c
     where p.passed
       and c.lane = e.lane
       and (c.pos_xid, c.pos_id) >= (e.xid, e.job_id)
       and (c.first_xid, c.first_id) <= (e.xid, e.job_id)
       and pg_visible_in_snapshot(e.xid, c.hi)
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
 where case
         when (select true from awa.queue_rollups where dropped is not null limit 1)
          and (select pg_visible_in_snapshot(e.xid, r.dropped) from awa.queue_rollups r where r.lane = e.lane) then false
         when (select true from awa.ready_tombstones limit 1)
          and (select true from awa.ready_tombstones t where t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id limit 1) then false
         when c.claim_id is null then not p.passed
         when k.outcome is null then true
         when k.outcome <> 'completed' then false
         when (select true from awa.deleted_jobs d where d.job_id = e.job_id) then false
         else (select k.closed_at < statement_timestamp() - s.completed_retention from awa.queue_settings s where s.queue_id = e.lane >> 3) is not true
       end;
comment on view awa._ledger is 'The jobs that the ledgers describe: available, running, completed; with the places of their entries';

create or replace view awa._deferred as
select d.job_id as id,
       d.kind,
       (select q.name from awa.queues q where q.queue_id = d.lane >> 3 limit 1) as queue,
       d.args,
       d.state,
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
       encode(substr(d.unique_key, 1, 32), 'hex') as unique_key,
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
       encode(substr(f.unique_key, 1, 32), 'hex') as unique_key,
       f.receipt,
       f.progress,
       f.output,
       f.worker_id
  from awa.done_entries f
 where case
         when f.state <> 'completed' then true
         else (select f.finalized_at < statement_timestamp() - s.completed_retention from awa.queue_settings s where s.queue_id = f.lane >> 3) is not true
       end;
comment on view awa._done is 'The ended jobs that have a row of their own: failed, cancelled, dead, completed with an output or after a lease';

-- The dead letters among the ended jobs.
create or replace view awa.dlq_entries as
select d.job_id, d.lane, d.reason, d.receipt, d.worker_id, d.ready_at, d.created_at, d.attempted_at, d.finalized_at, d.attempt, d.max_attempts, d.body_bytes, d.unique_key,
       d.kind, d.args, d.tags, d.metadata, d.progress, d.errors
  from awa.done_entries d
 where d.state = 'dead';
comment on view awa.dlq_entries is 'The dead letters among the ended jobs';

create or replace view awa._leased as
select l.job_id as id,
       l.kind,
       (select q.name from awa.queues q where q.queue_id = l.lane >> 3 limit 1) as queue,
       l.args,
       'running'::text as state,
       l.priority::int as priority,
       l.attempt::int as attempt,
       l.max_attempts::int as max_attempts,
       l.ready_at as run_at,
       (select w.heartbeat_at from awa.workers w where w.worker_id = l.worker_id) as heartbeat_at,
       l.deadline_at,
       l.claimed_at as attempted_at,
       null::timestamptz as finalized_at,
       l.created_at,
       coalesce(l.errors, '[]') as errors,
       l.metadata,
       l.tags,
       encode(substr(l.unique_key, 1, 32), 'hex') as unique_key,
       l.receipt,
       l.progress,
       null::jsonb as output,
       l.worker_id
  from awa.leases l;
comment on view awa._leased is 'The jobs whose attempts have a row of their own: running';

-- Barriers: what readers put into where comes after the filters of _ledger and _done, but for leakproof operators. Otherwise a cheap function of theirs would be given the jobs that were dropped, deleted, moved or answered, too. Here and not at jobs: the planner takes a union apart.
create or replace view awa._shown with (security_barrier = true) as
select id, kind, queue, args, state, priority, attempt, max_attempts, run_at, heartbeat_at, deadline_at, attempted_at, finalized_at, created_at,
       errors, metadata, tags, unique_key, receipt, progress, output, worker_id
  from awa._ledger;
comment on view awa._shown is 'The jobs that the ledgers describe, for readers: their conditions see no others';

create or replace view awa._shown_done with (security_barrier = true) as
select * from awa._done;
comment on view awa._shown_done is 'The ended jobs that have a row of their own, for readers: their conditions see no others';

create or replace view awa.jobs as
select * from awa._shown
union all
select * from awa._deferred
union all
select * from awa._leased
union all
select * from awa._shown_done;
comment on view awa.jobs is 'Every job that is still kept, one row each, in one state';

-- Where each job is: its state, and its place there.
create or replace view awa._place as
select j.id, j.state, j.receipt, j.lane, j.priority, j.xid, j.segment, j.full_key as unique_key from awa._ledger j
union all
select d.job_id, d.state, null, d.lane, (d.lane & 7)::int, null, null, d.unique_key from awa.deferred_jobs d
union all
select l.job_id, 'running', l.receipt, l.lane, l.priority, null, null, l.unique_key from awa.leases l
union all
select f.job_id, f.state, f.receipt, f.lane, (f.lane & 7)::int, null, null, f.unique_key
  from awa.done_entries f
 where case
         when f.state <> 'completed' then true
         else (select f.finalized_at < statement_timestamp() - s.completed_retention from awa.queue_settings s where s.queue_id = f.lane >> 3) is not true
       end;
comment on view awa._place is 'Where each job is: its state, and its place there';

-- Every lane, to be filtered by its queue_id: its cursor, from where entries are unclaimed in its range, and what is counted of its past.
create or replace view awa._lanes as
select l.lane, c.lo, c.hi, c.pos_xid, c.pos_id, coalesce(c.lane_seq, 0) as lane_seq, c.segment as cursor_segment,
       greatest(case when c.lo is not null then c.pos_xid end, pg_snapshot_xmax(coalesce(c.lo, c.hi, '3:3:'))) as from_xid,
       case when c.lo is not null and c.pos_xid >= pg_snapshot_xmax(c.lo) then c.pos_id else 0 end as from_id,
       coalesce(r.counted, '3:3:') as counted, r.dropped, coalesce(r.enqueued, 0) as enqueued, coalesce(r.appended, 0) as appended, coalesce(r.kept, '{0,0,0,0}') as kept, coalesce(r.buried, 0) as buried, coalesce(r.closed_seq, 0) as closed_seq, coalesce(r.open_seqs, '{}') as open_seqs,
       coalesce(r.claimed, 0) as claimed, coalesce(r.completed, 0) as completed, coalesce(r.failed, 0) as failed, coalesce(r.cancelled, 0) as cancelled, coalesce(r.dead, 0) as dead,
       q.queue_id
  from (select distinct q.queue_id from awa.queues q) q
 cross join lateral (select q.queue_id * 8 + p as lane from unnest('{0,1,2,3,4}'::int[]) p) l
  left join lateral (
    select * from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 1
  ) c on true
  left join lateral (
    select * from awa.queue_rollups r where r.lane = l.lane limit 1
  ) r on true;
comment on view awa._lanes is 'Every lane, its cursor, and what is counted of its past';

-- Every lane that has rows, and what is counted of its past. is_counted says that this is all: neither an entry, a burial or an arrival, nor a claim has come since, nor was a job deleted, and none that was passed over is open. last_xid is the youngest transaction that put an
-- entry, a burial or an arrival there, or deleted a job. Walks through the indexes from one lane to the next, so the cost follows the lanes that were used, not the queues that there are, and is a few index entries for each. Reads the lanes from the last one back; before a lane, or only so many, where that is said.
create or replace function awa._lanes_in_use(before bigint default null, max_lanes int default null, out lane bigint, out is_counted boolean, out last_xid xid8, out available bigint, out completed bigint, out failed bigint, out cancelled bigint, out dead bigint) returns setof record
language sql stable
as $$
select u.lane,
       coalesce(max(u.xid) < coalesce(max(u.counted_until), '3'), true) and coalesce(max(u.lane_seq), 0) <= coalesce(max(u.closed_seq), 0) and coalesce(bool_and(u.none_open), true) as is_counted,
       max(u.xid) as last_xid,
       coalesce(sum(u.available), 0)::bigint as available, coalesce(sum(u.completed), 0)::bigint as completed, coalesce(sum(u.failed), 0)::bigint as failed, coalesce(sum(u.cancelled), 0)::bigint as cancelled,
       coalesce(sum(u.dead), 0)::bigint as dead
  from (
    select l.lane, l.xid, null::bigint as lane_seq, null::xid8 as counted_until, null::bigint as closed_seq, null::boolean as none_open,
           null::bigint as available, null::bigint as completed, null::bigint as failed, null::bigint as cancelled, null::bigint as dead
      from generate_series(0, 3) s(segment)
     cross join lateral (
        with recursive lanes(lane, xid) as (
          (select e.lane, e.xid from awa.ready_entries e where e.segment = s.segment and e.lane < coalesce(before, 9223372036854775807) order by e.lane desc, e.xid desc limit 1)
          union all
          select n.lane, n.xid
            from lanes l
           cross join lateral (select e.lane, e.xid from awa.ready_entries e where e.segment = s.segment and e.lane < l.lane order by e.lane desc, e.xid desc limit 1) n
        )
        select * from lanes limit max_lanes
      ) l
    union all
    select l.lane, l.by_xid, null, null, null, null, null, null, null, null, null
      from generate_series(0, 3) s(segment)
     cross join lateral (
        with recursive lanes(lane, by_xid) as (
          (select t.lane, t.by_xid from awa.ready_tombstones t where t.segment = s.segment and t.lane < coalesce(before, 9223372036854775807) order by t.lane desc, t.by_xid desc limit 1)
          union all
          select n.lane, n.by_xid
            from lanes l
           cross join lateral (select t.lane, t.by_xid from awa.ready_tombstones t where t.segment = s.segment and t.lane < l.lane order by t.lane desc, t.by_xid desc limit 1) n
        )
        select * from lanes limit max_lanes
      ) l
    union all
    select l.lane, l.xid, null, null, null, null, null, null, null, null, null
      from generate_series(0, 3) s(segment)
     cross join lateral (
        with recursive lanes(lane, xid) as (
          (select a.lane, a.xid from awa.arrivals a where a.segment = s.segment and a.lane < coalesce(before, 9223372036854775807) order by a.lane desc, a.xid desc limit 1)
          union all
          select n.lane, n.xid
            from lanes l
           cross join lateral (select a.lane, a.xid from awa.arrivals a where a.segment = s.segment and a.lane < l.lane order by a.lane desc, a.xid desc limit 1) n
        )
        select * from lanes limit max_lanes
      ) l
    union all
    select l.lane, null, l.lane_seq, null, null, null, null, null, null, null, null
      from generate_series(0, 3) s(segment)
     cross join lateral (
        with recursive lanes(lane, lane_seq) as (
          (select c.lane, c.lane_seq from awa.lease_claims c where c.segment = s.segment and c.lane < coalesce(before, 9223372036854775807) order by c.lane desc, c.lane_seq desc limit 1)
          union all
          select n.lane, n.lane_seq
            from lanes l
           cross join lateral (select c.lane, c.lane_seq from awa.lease_claims c where c.segment = s.segment and c.lane < l.lane order by c.lane desc, c.lane_seq desc limit 1) n
        )
        select * from lanes limit max_lanes
      ) l
    union all
    select l.lane, l.by_xid, null, null, null, null, null, null, null, null, null
      from (
        with recursive lanes(lane, by_xid) as (
          (select d.lane, d.by_xid from awa.deleted_jobs d where d.lane < coalesce(before, 9223372036854775807) order by d.lane desc, d.by_xid desc limit 1)
          union all
          select n.lane, n.by_xid
            from lanes l
           cross join lateral (select d.lane, d.by_xid from awa.deleted_jobs d where d.lane < l.lane order by d.lane desc, d.by_xid desc limit 1) n
        )
        select * from lanes limit max_lanes
      ) l
    union all
    select r.lane, null, null, pg_snapshot_xmin(r.counted), r.closed_seq, r.open_seqs = '{}', r.appended - r.buried - r.claimed, r.completed, r.failed, r.cancelled, r.dead
      from (select * from awa.queue_rollups r where r.lane < coalesce(before, 9223372036854775807) order by r.lane desc limit max_lanes) r
  ) u
 group by u.lane
 order by u.lane desc
 limit max_lanes
$$;
comment on function awa._lanes_in_use is 'Every lane that has rows, what is counted of its past, and whether that is all';

-- The transactions that were in progress at one of the ends of a lane's window, and whose entries no cursor has passed though they lie before the place from which the range goes on: with the ids
-- after which, and up to which, these entries lie. Two scalars, so that the scan of an index begins and ends there.
create or replace function awa._late(lo pg_snapshot, hi pg_snapshot, pos_xid xid8, pos_id bigint, from_xid xid8, from_id bigint, out xid xid8, out after_id bigint, out until_id bigint) returns setof record
language sql stable
as $$
  select x.xid,
         case when x.xid = pos_xid and lo is not null and pg_visible_in_snapshot(x.xid, hi) then pos_id else 0 end,
         case when x.xid = from_xid then from_id else 9223372036854775807 end
    from (
      select pg_snapshot_xip(coalesce(lo, hi)) as xid
      union
      select pg_snapshot_xip(hi)
    ) x
   where x.xid <= from_xid
     and (x.xid >= pos_xid or lo is null or not pg_visible_in_snapshot(x.xid, hi))
$$;
comment on function awa._late is 'Transactions that were committed late, and which of their entries no cursor has passed';

-- Entries of a lane that were committed late, and that no cursor has passed.
create or replace function awa._late_entries(lane bigint, lo pg_snapshot, hi pg_snapshot, pos_xid xid8, pos_id bigint, from_xid xid8, from_id bigint) returns setof awa.ready_entries
language sql stable
as $$
  select e.*
    from awa._late(lo, hi, pos_xid, pos_id, from_xid, from_id) x
   cross join lateral (
      select * from awa._entries e where e.lane = _late_entries.lane and e.xid = x.xid and e.job_id > x.after_id and e.job_id <= x.until_id offset 0
    ) e
$$;
comment on function awa._late_entries is 'Entries of a lane that were committed late, and that no cursor has passed';

-- The places of entries that no cursor has passed. Two stretches of a lane hold them: the transactions that were in progress at one of the
-- window's ends, probed one by one, and what comes after the position.
create or replace view awa._available as
select l.lane, e.xid, e.job_id, e.segment, e.kind, e.ready_at, e.created_at, e.unique_key, l.queue_id, e.tags, e.args
  from awa._lanes l
 cross join lateral (
    select e.xid, e.job_id, e.segment, e.kind, e.ready_at, coalesce(e.created_at, e.ready_at) as created_at, e.unique_key, e.tags, e.args
      from awa._entries e
     where e.lane = l.lane and (e.xid, e.job_id) > (l.from_xid, l.from_id)
    union all
    select e.xid, e.job_id, e.segment, e.kind, e.ready_at, coalesce(e.created_at, e.ready_at), e.unique_key, e.tags, e.args
      from awa._late_entries(l.lane, l.lo, l.hi, l.pos_xid, l.pos_id, l.from_xid, l.from_id) e
  ) e
 where case
         when (select true from awa.ready_tombstones limit 1)
         then (select true from awa.ready_tombstones t where t.lane = l.lane and t.xid = e.xid and t.job_id = e.job_id limit 1) is null
         else true
       end;
comment on view awa._available is 'The places of entries that may be claimed';

-- The items of claims that are open in the ledger: they are all in claims that are not counted yet.
create or replace view awa._open_items as
select c.lane, c.claim_id << 12 | (j.place - 1) as receipt, j.job_id, c.claimed_at, c.lease_until, c.deadline_at, c.worker_id,
       c.first_xid, c.first_id, c.pos_xid, c.pos_id, c.hi, c.segment, l.queue_id
  from awa._lanes l
 cross join lateral (
    select * from awa._uncounted(l.lane, l.closed_seq, l.open_seqs, null) offset 0
  ) c
 cross join lateral (
    select array(select unnest(coalesce(k.items, array[k.item])) from awa.lease_claim_closures k where k.claim_id = c.claim_id) as items offset 0
  ) closed
 cross join lateral (
    select j.job_id, j.place from unnest(c.job_ids) with ordinality j(job_id, place) offset 0
  ) j
 where cardinality(closed.items) < cardinality(c.job_ids)
   and j.place - 1 <> all(closed.items);
comment on view awa._open_items is 'The items of claims that are open in the ledger';

-- Open attempts: of the ledger, with the places of their entries, and those that have a row of their own.
create or replace view awa._running as
select o.lane, e.xid, o.job_id, o.receipt, e.kind, coalesce(e.created_at, e.ready_at) as created_at, e.segment, o.queue_id, e.tags, e.args
  from awa._open_items o
 cross join lateral (
    select *
      from awa._claimed_entries(o.lane, o.first_xid, o.first_id, o.pos_xid, o.pos_id, o.job_id, o.job_id) e
     where pg_visible_in_snapshot(e.xid, o.hi)
       and (select true from awa.ready_tombstones t where t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id limit 1) is null
    offset 0
  ) e
union all
select l.lane, null, l.job_id, l.receipt, l.kind, l.created_at, null, l.lane >> 3, l.tags, l.args from awa.leases l;
comment on view awa._running is 'Open attempts';

-- The rows of awa.jobs.
create or replace function awa.jobs_compat() returns setof awa.jobs
language sql stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$ select * from awa.jobs $$;
comment on function awa.jobs_compat is 'Every job that is still kept, one row each, in one state';
