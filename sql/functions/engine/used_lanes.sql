-- Lanes and queues in use: found by the rows that they have, so queues that nobody uses cost nothing.

-- The last row of every lane that has rows, of each kind: its transaction, or, of a claim, its number in the lane.
-- Kinds are entries, tombstones, arrivals, claims and deleted jobs, in each segment. Walks through the indexes as
-- _lanes_in_use does, from the last lane back; before a lane, or only so many, where that is given.
create or replace function awa._last_rows(
  before bigint,
  max_lanes int,
  out lane bigint,
  out xid xid8,
  out lane_seq bigint
) returns setof record
language sql stable
as $$
  select l.lane, l.xid, null::bigint as lane_seq
    from generate_series(0, 3) s(segment)
   cross join lateral (
      with recursive lanes(lane, xid) as (
        select coalesce(before, 9223372036854775807), null::xid8
        union all
        select n.lane, n.xid
          from lanes l
         cross join lateral (
            select e.lane, e.xid
              from awa.ready_entries e
             where e.segment = s.segment and e.lane < l.lane
             order by e.lane desc, e.xid desc
             limit 1
          ) n
      )
      select * from lanes l where l.xid is not null limit max_lanes
    ) l
  union all
  select l.lane, l.by_xid, null
    from generate_series(0, 3) s(segment)
   cross join lateral (
      with recursive lanes(lane, by_xid) as (
        select coalesce(before, 9223372036854775807), null::xid8
        union all
        select n.lane, n.by_xid
          from lanes l
         cross join lateral (
            select t.lane, t.by_xid
              from awa.ready_tombstones t
             where t.segment = s.segment and t.lane < l.lane
             order by t.lane desc, t.by_xid desc
             limit 1
          ) n
      )
      select * from lanes l where l.by_xid is not null limit max_lanes
    ) l
  union all
  select l.lane, l.xid, null
    from generate_series(0, 3) s(segment)
   cross join lateral (
      with recursive lanes(lane, xid) as (
        select coalesce(before, 9223372036854775807), null::xid8
        union all
        select n.lane, n.xid
          from lanes l
         cross join lateral (
            select a.lane, a.xid
              from awa.arrivals a
             where a.segment = s.segment and a.lane < l.lane
             order by a.lane desc, a.xid desc
             limit 1
          ) n
      )
      select * from lanes l where l.xid is not null limit max_lanes
    ) l
  union all
  select l.lane, null, l.lane_seq
    from generate_series(0, 3) s(segment)
   cross join lateral (
      with recursive lanes(lane, lane_seq) as (
        select coalesce(before, 9223372036854775807), null::bigint
        union all
        select n.lane, n.lane_seq
          from lanes l
         cross join lateral (
            select c.lane, c.lane_seq
              from awa.lease_claims c
             where c.segment = s.segment and c.lane < l.lane
             order by c.lane desc, c.lane_seq desc
             limit 1
          ) n
      )
      select * from lanes l where l.lane_seq is not null limit max_lanes
    ) l
  union all
  select l.lane, l.by_xid, null
    from (
      with recursive lanes(lane, by_xid) as (
        select coalesce(before, 9223372036854775807), null::xid8
        union all
        select n.lane, n.by_xid
          from lanes l
         cross join lateral (
            select d.lane, d.by_xid
              from awa.deleted_jobs d
             where d.lane < l.lane
             order by d.lane desc, d.by_xid desc
             limit 1
          ) n
      )
      select * from lanes l where l.by_xid is not null limit max_lanes
    ) l
$$;
comment on function awa._last_rows is
  'The last row of every lane that has rows, of each kind: its transaction, or, of a claim, its number in the lane';

-- Every lane that has rows, the counts of its past, and whether they are complete.
-- is_counted: no entry, tombstone, arrival or claim has come since, no job was deleted, and no claim that was passed
-- over is open. last_xid is the youngest transaction that put an entry, a tombstone or an arrival there, or deleted a
-- job. Reads the lanes from the last one back; those before a lane, or only so many, where that is given.
-- Why: it walks through the indexes from one lane to the next. So the cost follows the lanes that were used, not the
-- queues that exist, and is a few index entries for each.
create or replace function awa._lanes_in_use(
  before bigint default null,
  max_lanes int default null,
  out lane bigint,
  out is_counted boolean,
  out last_xid xid8,
  out available bigint,
  out completed bigint,
  out failed bigint,
  out cancelled bigint,
  out dead bigint
) returns setof record
language sql stable
as $$
select u.lane,
       coalesce(max(u.xid) < coalesce(max(u.counted_until), '3'), true)
         and coalesce(max(u.lane_seq), 0) <= coalesce(max(u.closed_seq), 0)
         and coalesce(bool_and(u.none_open), true) as is_counted,
       max(u.xid) as last_xid,
       coalesce(sum(u.available), 0)::bigint as available, coalesce(sum(u.completed), 0)::bigint as completed,
       coalesce(sum(u.failed), 0)::bigint as failed, coalesce(sum(u.cancelled), 0)::bigint as cancelled,
       coalesce(sum(u.dead), 0)::bigint as dead
  from (
    select r.lane, r.xid, r.lane_seq, null::xid8 as counted_until, null::bigint as closed_seq,
           null::boolean as none_open, null::bigint as available, null::bigint as completed, null::bigint as failed,
           null::bigint as cancelled, null::bigint as dead
      from awa._last_rows(before, max_lanes) r
    union all
    select r.lane, null, null, pg_snapshot_xmin(r.counted), r.closed_seq, r.open_seqs = '{}',
           r.appended - r.buried - r.claimed, r.completed, r.failed, r.cancelled, r.dead
      from (
        select *
          from awa.queue_rollups r
         where r.lane < coalesce(before, 9223372036854775807)
         order by r.lane desc
         limit max_lanes
      ) r
  ) u
 group by u.lane
 order by u.lane desc
 limit max_lanes
$$;
comment on function awa._lanes_in_use is
  'Every lane that has rows, the counts of its past, and whether they are complete';

-- The queues in which claims may be open, or not counted.
-- These are queues with claims that fold has not looked at, and queues with claims that are known to be open. A claim
-- whose transaction took more than 30 seconds may be missing until all queues are looked at.
-- Why: a set, so that it becomes a part of the query that calls it. An array would be planned anew at each call.
create or replace function awa._busy_queues() returns setof bigint
language sql stable
as $$
  select awa._queue_of(c.lane)
    from awa.lease_claims c
   where c.claim_id > (select s.last_value from awa.folded_until s)
  union
  select awa._queue_of(r.lane) from awa.queue_rollups r where r.open_seqs <> '{}'
$$;
comment on function awa._busy_queues is 'The queues in which claims may be open, or not counted';
