-- The model of a lane: entries that count, its cursor, available entries, open items.

-- The entries of a claim's stretch of its lane, with ids from and to; in one segment only, where one is given.
-- Other entries may lie between them: not visible to the claim, or buried. The limits and the offset of the caller
-- fence it off.
-- Why: in two parts, each with both its ends in the index. A row comparison ends a scan only where its first column
-- decides, so one for the last place would read the transaction that it lies in to its end.
create or replace function awa._claimed_entries(
  lane bigint,
  first_xid xid8,
  first_id bigint,
  pos_xid xid8,
  pos_id bigint,
  from_id bigint,
  to_id bigint,
  segment smallint default null
) returns setof awa.ready_entries
language sql stable
as $$
  select e.*
    from awa._entries e
   where e.lane = _claimed_entries.lane
     and (_claimed_entries.segment is null or e.segment = _claimed_entries.segment)
     and e.xid = pos_xid
     and e.job_id >= case when first_xid = pos_xid then greatest(first_id, from_id) else from_id end
     and e.job_id <= least(pos_id, to_id)
  union all
  select e.*
    from awa._entries e
   where first_xid < pos_xid
     and e.lane = _claimed_entries.lane
     and (_claimed_entries.segment is null or e.segment = _claimed_entries.segment)
     and (e.xid, e.job_id) >= (first_xid, first_id)
     and e.xid < pos_xid
     and e.job_id between from_id and to_id
$$;
comment on function awa._claimed_entries is
  'The entries of a claim''s stretch of its lane, with ids from and to; in one segment only, where one is given';

-- The claims of a lane that are not counted yet: those that were passed over while open, and later ones.
create or replace function awa._uncounted(
  lane bigint,
  closed_seq bigint,
  open_seqs bigint[],
  max_claims int
) returns setof awa.lease_claims
language sql stable
as $$
  select c.*
    from unnest(open_seqs) s
   cross join lateral (select * from awa.lease_claims c where c.lane = _uncounted.lane and c.lane_seq = s limit 1) c
  union all
  (
    select c.*
      from awa.lease_claims c
     where c.lane = _uncounted.lane and c.lane_seq > _uncounted.closed_seq
     order by c.lane_seq
     limit max_claims
  )
$$;
comment on function awa._uncounted is
  'The claims of a lane that are not counted yet: those that were passed over while open, and later ones';

-- The rows that a lane has got that are not visible in a snapshot, as claim reads it.
-- Of transactions that were in progress, one by one, then all later ones. An entry whose created_at is its ready_at is
-- that of a new job; other jobs come with an arrival. kind and ready_at: of an entry, the kind also of an arrival. A
-- deleted job counts neither as enqueued nor as completed. Leaves
-- out the tombstones of entries, and the deleted jobs, that were dropped with their queue; and the rows of transactions
-- from until on, which are not read.
create or replace function awa._appended_since(
  lane bigint,
  since pg_snapshot,
  dropped pg_snapshot,
  until xid8 default '18446744073709551615',
  out xid xid8,
  out segment smallint,
  out entries int,
  out tombstones int,
  out enqueued bigint,
  out deleted int,
  out kind text,
  out ready_at timestamptz
) returns setof record
language sql stable
as $$
  select e.xid, e.segment, 1, 0, (e.created_at is null)::int, 0, e.kind, e.ready_at
    from awa._entries e
   where e.lane = _appended_since.lane and (e.xid, e.job_id) > (pg_snapshot_xmax(since), 0) and e.xid < until
  union all
  select e.xid, e.segment, 1, 0, (e.created_at is null)::int, 0, e.kind, e.ready_at
    from pg_snapshot_xip(since) x
   cross join lateral (select * from awa._entries e where e.lane = _appended_since.lane and e.xid = x offset 0) e
  union all
  select t.by_xid, t.segment, 0, 1, 0, 0, null, null
    from awa.ready_tombstones t
   where t.lane = _appended_since.lane
     and t.by_xid >= pg_snapshot_xmax(since)
     and t.by_xid < until
     and pg_visible_in_snapshot(t.xid, dropped) is not true
  union all
  select t.by_xid, t.segment, 0, 1, 0, 0, null, null
    from pg_snapshot_xip(since) x
   cross join lateral (
      select * from awa.ready_tombstones t where t.by_xid = x and t.lane = _appended_since.lane offset 0
    ) t
   where pg_visible_in_snapshot(t.xid, dropped) is not true
  union all
  select a.xid, a.segment, 0, 0, a.jobs, 0, a.kind, null
    from awa.arrivals a
   where a.lane = _appended_since.lane and a.xid >= pg_snapshot_xmax(since) and a.xid < until
  union all
  select a.xid, a.segment, 0, 0, a.jobs, 0, a.kind, null
    from pg_snapshot_xip(since) x
   cross join lateral (select * from awa.arrivals a where a.lane = _appended_since.lane and a.xid = x offset 0) a
  union all
  select d.by_xid, d.segment, 0, 0, -1, 1, null, null
    from awa.deleted_jobs d
   where d.lane = _appended_since.lane
     and d.by_xid >= pg_snapshot_xmax(since)
     and d.by_xid < until
     and pg_visible_in_snapshot(d.xid, dropped) is not true
  union all
  select d.by_xid, d.segment, 0, 0, -1, 1, null, null
    from pg_snapshot_xip(since) x
   cross join lateral (select * from awa.deleted_jobs d where d.lane = _appended_since.lane and d.by_xid = x offset 0) d
   where pg_visible_in_snapshot(d.xid, dropped) is not true
$$;
comment on function awa._appended_since is
  'The rows that a lane has got that are not visible in a snapshot, as claim reads it';

-- The transactions in progress at one end of a lane's window, and the ids of their entries that no cursor has passed.
-- Only those with entries before the place from which the range goes on. The entries lie after after_id, and up to
-- until_id.
-- Why: two scalars, so that the scan of an index begins and ends there.
create or replace function awa._late(
  lo pg_snapshot,
  hi pg_snapshot,
  pos_xid xid8,
  pos_id bigint,
  from_xid xid8,
  from_id bigint,
  out xid xid8,
  out after_id bigint,
  out until_id bigint
) returns setof record
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
comment on function awa._late is
  'The transactions in progress at one end of a lane''s window, and the ids of their entries that no cursor has passed';

-- Entries of a lane that were committed late, and that no cursor has passed.
create or replace function awa._late_entries(
  lane bigint,
  lo pg_snapshot,
  hi pg_snapshot,
  pos_xid xid8,
  pos_id bigint,
  from_xid xid8,
  from_id bigint
) returns setof awa.ready_entries
language sql stable
as $$
  select e.*
    from awa._late(lo, hi, pos_xid, pos_id, from_xid, from_id) x
   cross join lateral (
      select *
        from awa._entries e
       where e.lane = _late_entries.lane and e.xid = x.xid and e.job_id > x.after_id and e.job_id <= x.until_id
      offset 0
    ) e
$$;
comment on function awa._late_entries is 'Entries of a lane that were committed late, and that no cursor has passed';

-- Every lane in use, to be filtered by its queue_id: its cursor, from where entries are unclaimed in its range, and
-- the counts of its past.
create or replace view awa._lanes as
select l.lane, c.lo, c.hi, c.pos_xid, c.pos_id, coalesce(c.lane_seq, 0) as lane_seq, c.segment as cursor_segment,
       greatest(case when c.lo is not null then c.pos_xid end,
         pg_snapshot_xmax(coalesce(c.lo, c.hi, '3:3:'))) as from_xid,
       case when c.lo is not null and c.pos_xid >= pg_snapshot_xmax(c.lo) then c.pos_id else 0 end as from_id,
       coalesce(r.counted, '3:3:') as counted, r.dropped, coalesce(r.enqueued, 0) as enqueued,
       coalesce(r.appended, 0) as appended, coalesce(r.segment_entries, '{0,0,0,0}') as segment_entries,
       coalesce(r.buried, 0) as buried, coalesce(r.closed_seq, 0) as closed_seq,
       coalesce(r.open_seqs, '{}') as open_seqs,
       coalesce(r.claimed, 0) as claimed, coalesce(r.completed, 0) as completed, coalesce(r.failed, 0) as failed,
       coalesce(r.cancelled, 0) as cancelled, coalesce(r.dead, 0) as dead,
       l.queue_id
  from (select distinct q.queue_id, q.lane from awa.queues q where q.lane is not null) l
  left join lateral (
    select * from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 1
  ) c on true
  left join lateral (
    select * from awa.queue_rollups r where r.lane = l.lane limit 1
  ) r on true;
comment on view awa._lanes is 'Every lane, its cursor, and the counts of its past';

-- The places of entries that no cursor has passed. Two stretches of a lane hold them: the transactions that were in
-- progress at one of the window's ends, probed one by one, and those after the position.
create or replace view awa._available as
select l.lane, e.xid, e.job_id, e.segment, e.kind, e.ready_at, e.created_at, e.unique_key, l.queue_id, e.tags, e.args,
       e.group_key, e.errors
  from awa._lanes l
 cross join lateral (
    select e.xid, e.job_id, e.segment, e.kind, e.ready_at, coalesce(e.created_at, e.ready_at) as created_at,
           e.unique_key, e.tags, e.args, e.group_key, e.errors
      from awa._entries e
     where e.lane = l.lane and (e.xid, e.job_id) > (l.from_xid, l.from_id)
    union all
    select e.xid, e.job_id, e.segment, e.kind, e.ready_at, coalesce(e.created_at, e.ready_at), e.unique_key, e.tags,
           e.args, e.group_key, e.errors
      from awa._late_entries(l.lane, l.lo, l.hi, l.pos_xid, l.pos_id, l.from_xid, l.from_id) e
  ) e
 where case
         when (select true from awa.ready_tombstones limit 1)
         then (
           select true
             from awa.ready_tombstones t
            where t.lane = l.lane and t.xid = e.xid and t.job_id = e.job_id
            limit 1
         ) is null
         else true
       end;
comment on view awa._available is 'The places of entries that may be claimed';

-- All jobs that may be claimed: those that no cursor has passed, and those that wait for their groups.
-- The latter have no xid.
create or replace view awa._all_available as
select a.lane, a.xid, a.job_id, a.segment, a.kind, a.ready_at, a.created_at, a.unique_key, a.queue_id, a.tags, a.args,
       a.group_key, a.errors
  from awa._available a
union all
select w.lane, null, w.job_id, null, w.kind, w.ready_at, w.created_at, w.unique_key, w.lane >> 9, w.tags, w.args,
       w.group_key, w.errors
  from awa.limited_jobs w
 where w.job_id not in (
    select t.job_id from awa.ready_tombstones t where t.by_xid = pg_current_xact_id_if_assigned()
  );
comment on view awa._all_available is
  'All jobs that may be claimed: those that no cursor has passed, and those that wait for their groups';

-- The items of claims that are open in the ledger: they are all in claims that are not counted yet.
create or replace view awa._open_items as
select c.lane, c.claim_id << 12 | (j.ordinal - 1) as receipt, j.job_id, c.claimed_at, c.lease_until, c.deadline_at,
       c.worker_id,
       c.first_xid, c.first_id, c.pos_xid, c.pos_id, c.hi, c.segment, l.queue_id
  from awa._lanes l
 cross join lateral (
    select * from awa._uncounted(l.lane, l.closed_seq, l.open_seqs, null) offset 0
  ) c
 cross join lateral (
    select array(
      select unnest(coalesce(k.items, array[k.item])) from awa.lease_claim_closures k where k.claim_id = c.claim_id
    ) as items
    offset 0
  ) closed
 cross join lateral (
    select j.job_id, j.ordinal from unnest(c.job_ids) with ordinality j(job_id, ordinal) offset 0
  ) j
 where cardinality(closed.items) < cardinality(c.job_ids)
   and j.ordinal - 1 <> all(closed.items);
comment on view awa._open_items is 'The items of claims that are open in the ledger';

-- Open attempts: of the ledger, with the places of their entries, and those that have a row of their own.
create or replace view awa._running as
select o.lane, e.xid, o.job_id, o.receipt, e.kind, coalesce(e.created_at, e.ready_at) as created_at, e.segment,
       o.queue_id, e.tags, e.args, e.group_key, e.errors, o.worker_id
  from awa._open_items o
 cross join lateral (
    select *
      from awa._claimed_entries(o.lane, o.first_xid, o.first_id, o.pos_xid, o.pos_id, o.job_id, o.job_id) e
     where pg_visible_in_snapshot(e.xid, o.hi)
       and (
        select true from awa.ready_tombstones t where t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id limit 1
      ) is null
    offset 0
  ) e
union all
select l.lane, null, l.job_id, l.receipt, l.kind, l.created_at, null, awa._queue_of(l.lane), l.tags, l.args,
       l.group_key, l.errors, l.worker_id
  from awa.leases l
 where l.job_id not in (
    select t.job_id from awa.ready_tombstones t where t.by_xid = pg_current_xact_id_if_assigned()
  );
comment on view awa._running is 'Open attempts';

-- Open attempts that hold slots: of their group, of their queue.
create or replace view awa._holders as
select o.lane, o.job_id, o.receipt, c.groups[(o.receipt & 4095) + 1] as group_id, c.holds_queue, o.queue_id
  from awa._open_items o
 cross join lateral (
    select c.groups, c.holds_queue from awa.lease_claims c where c.claim_id = o.receipt >> 12 limit 1
  ) c
 where c.groups[(o.receipt & 4095) + 1] is not null or c.holds_queue
union all
select l.lane, l.job_id, l.receipt, l.group_id, l.holds_queue, awa._queue_of(l.lane)
  from awa.leases l
 where l.group_id is not null or l.holds_queue;
comment on view awa._holders is 'Open attempts that hold slots: of their group, of their queue';

-- Whether this transaction has put a job into a lane before, in any segment.
create or replace function awa._has_place(lane bigint, job_id bigint) returns boolean
language plpgsql stable
as $$
declare
  v_has_place boolean;
begin
  v_has_place := exists (
    select
      from awa.ready_entries e
     where e.lane = _has_place.lane and e.xid = pg_current_xact_id_if_assigned() and e.job_id = _has_place.job_id
  );
  raise sqlstate 'JQ999'; -- see _look_up
exception when sqlstate 'JQ999' then
  return v_has_place;
end
$$;
comment on function awa._has_place is 'Whether this transaction has put a job into a lane before, in any segment';
