-- The segments of the hot families.

-- Refuses to remove the one row of a table that has to have it.
-- Why: without settings nothing would be claimed, and without ring nothing enqueued. It runs as the role that removes
-- the row, with its search_path: so each call names its schema.
create or replace function awa._refuse_removal() returns trigger
language plpgsql
as $$
begin
  raise exception using errcode = '55000', message = pg_catalog.format('awa.%s must keep its row', tg_table_name),
    detail = pg_catalog.format('Tried to %s it.', pg_catalog.lower(tg_op)),
    hint = 'Update the row instead. Where it is missing, see the reference: "Rows that must be there".';
end
$$;
comment on function awa._refuse_removal is 'Refuses to remove the one row of a table that has to have it';

do $$
begin
  if (
    select count(*)
      from pg_trigger t
     where t.tgrelid in ('awa.settings'::regclass, 'awa.ring'::regclass)
       and t.tgname = 'refuse_removal'
       and t.tgenabled in ('O', 'A')
  ) < 2 then
    create or replace trigger refuse_removal before delete or truncate on awa.settings
      execute function awa._refuse_removal();
    create or replace trigger refuse_removal before delete or truncate on awa.ring
      execute function awa._refuse_removal();
  end if;
end
$$;

-- The entries that count: all, but for those of the segment that was cleaned, which are claimed, buried, or carried to
-- the current segment under the same place.
create or replace view awa._entries as
select e.*
  from awa.ready_entries e
 where e.segment <> coalesce((select r.cleaned_segment from awa.ring r), -1)
    or not pg_visible_in_snapshot(e.xid, (select r.cleaned_until from awa.ring r));
comment on view awa._entries is 'The entries that count: all, but for those of the segment that was cleaned';

-- The tables that are divided into segments, in the order in which a segment is truncated.
create or replace function awa._families() returns text[]
language sql immutable parallel safe
return '{ready_entries,ready_tombstones,arrivals,lease_claims,lease_claim_closures}'::text[];
comment on function awa._families is
  'The tables that are divided into segments, in the order in which a segment is truncated';

-- Whether a segment holds no row of any family, and is not on its way out.
-- Dead rows of a carry may be left.
create or replace function awa._is_empty(segment int) returns boolean
language sql stable
as $$
  select not exists (select from awa.ring r where _is_empty.segment in (r.carried_segment, r.cleaned_segment))
     and not exists (select from awa.ready_entries e where e.segment = _is_empty.segment)
     and not exists (select from awa.ready_tombstones t where t.segment = _is_empty.segment)
     and not exists (select from awa.arrivals a where a.segment = _is_empty.segment)
     and not exists (select from awa.lease_claims c where c.segment = _is_empty.segment)
     and not exists (select from awa.lease_claim_closures k where k.segment = _is_empty.segment)
$$;
comment on function awa._is_empty is 'Whether a segment holds no row of any family, and is not on its way out';

-- Brings the BRIN indexes on ready_entries up to date; returns how many ranges of blocks got a summary.
-- Why: a job is found from its id by them, and no autovacuum does it here.
create or replace function awa._summarize() returns bigint
language sql
as $$
  select sum(brin_summarize_new_values(i.indexrelid))
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_am a on a.oid = c.relam
   where a.amname = 'brin'
     and i.indrelid = (select format('awa.ready_entries_%s', r.current_segment)::regclass from awa.ring r)
$$;
comment on function awa._summarize is
  'Brings the BRIN indexes on ready_entries up to date; returns how many ranges of blocks got a summary';

-- The lanes that have rows in a segment, from the last one back: those before a lane, or only so many.
-- Where these are given. Rows are entries, tombstones, arrivals, or claims.
-- Why: it walks through the indexes of that segment from one lane to the next, as _lanes_in_use does, so other queues
-- cost nothing.
create or replace function awa._next_lanes(
  segment smallint,
  before bigint default null,
  max_lanes int default null
) returns setof bigint
language sql stable
as $$
  select u.lane
    from (
      select l.lane
        from (
          with recursive lanes(lane, is_there) as (
            select coalesce(before, 9223372036854775807), null::boolean
            union all
            select n.lane, true
              from lanes l
             cross join lateral (
                select e.lane
                  from awa.ready_entries e
                 where e.segment = _next_lanes.segment and e.lane < l.lane
                 order by e.lane desc
                 limit 1
              ) n
          )
          select * from lanes l where l.is_there limit max_lanes
        ) l
      union
      select l.lane
        from (
          with recursive lanes(lane, is_there) as (
            select coalesce(before, 9223372036854775807), null::boolean
            union all
            select n.lane, true
              from lanes l
             cross join lateral (
                select t.lane
                  from awa.ready_tombstones t
                 where t.segment = _next_lanes.segment and t.lane < l.lane
                 order by t.lane desc
                 limit 1
              ) n
          )
          select * from lanes l where l.is_there limit max_lanes
        ) l
      union
      select l.lane
        from (
          with recursive lanes(lane, is_there) as (
            select coalesce(before, 9223372036854775807), null::boolean
            union all
            select n.lane, true
              from lanes l
             cross join lateral (
                select a.lane
                  from awa.arrivals a
                 where a.segment = _next_lanes.segment and a.lane < l.lane
                 order by a.lane desc
                 limit 1
              ) n
          )
          select * from lanes l where l.is_there limit max_lanes
        ) l
      union
      select l.lane
        from (
          with recursive lanes(lane, is_there) as (
            select coalesce(before, 9223372036854775807), null::boolean
            union all
            select n.lane, true
              from lanes l
             cross join lateral (
                select c.lane
                  from awa.lease_claims c
                 where c.segment = _next_lanes.segment and c.lane < l.lane
                 order by c.lane desc
                 limit 1
              ) n
          )
          select * from lanes l where l.is_there limit max_lanes
        ) l
    ) u
   order by u.lane desc
   limit max_lanes
$$;
comment on function awa._next_lanes is
  'The lanes that have rows in a segment, from the last one back: those before a lane, or only so many';

-- Lanes that have rows in a segment, all of them unless they are given, and the number of their last claim there.
create or replace function awa._lanes_in_segment(
  segment smallint,
  lanes bigint[] default null,
  out lane bigint,
  out last_seq bigint
) returns setof record
language sql stable
as $$
  select l.lane, c.lane_seq
    from unnest(coalesce(lanes, array(select n from awa._next_lanes(segment) n order by n))) l(lane)
    left join lateral (
      select c.lane_seq
        from awa.lease_claims c
       where c.segment = _lanes_in_segment.segment and c.lane = l.lane
       order by c.lane_seq desc
       limit 1
    ) c on true
   where (select true from awa.queues q where q.queue_id = awa._queue_of(l.lane) limit 1)
$$;
comment on function awa._lanes_in_segment is
  'Lanes that have rows in a segment, all of them unless they are given, and the number of their last claim there';

-- The transactions of the rows that a lane has got in a segment, and that are not visible in a snapshot.
-- Rows are entries, tombstones and arrivals.
create or replace function awa._put_since(segment smallint, lane bigint, since pg_snapshot) returns setof xid8
language sql stable
as $$
  select e.xid
    from awa.ready_entries e
   where e.segment = _put_since.segment and e.lane = _put_since.lane and e.xid >= pg_snapshot_xmax(since)
  union all
  select t.by_xid
    from awa.ready_tombstones t
   where t.segment = _put_since.segment and t.lane = _put_since.lane and t.by_xid >= pg_snapshot_xmax(since)
  union all
  select a.xid
    from awa.arrivals a
   where a.segment = _put_since.segment and a.lane = _put_since.lane and a.xid >= pg_snapshot_xmax(since)
  union all
  select e.xid
    from pg_snapshot_xip(since) x
   cross join lateral (
      select *
        from awa.ready_entries e
       where e.segment = _put_since.segment and e.lane = _put_since.lane and e.xid = x
      offset 0
    ) e
  union all
  select t.by_xid
    from pg_snapshot_xip(since) x
   cross join lateral (
      select *
        from awa.ready_tombstones t
       where t.segment = _put_since.segment and t.by_xid = x and t.lane = _put_since.lane
      offset 0
    ) t
  union all
  select a.xid
    from pg_snapshot_xip(since) x
   cross join lateral (
      select *
        from awa.arrivals a
       where a.segment = _put_since.segment and a.lane = _put_since.lane and a.xid = x
      offset 0
    ) a
$$;
comment on function awa._put_since is
  'The transactions of the rows that a lane has got in a segment, and that are not visible in a snapshot';
