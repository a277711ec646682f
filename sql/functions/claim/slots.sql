-- Slots that have come back, and groups that claims are to look at.

-- Reads the slots of a shard that have come since a snapshot, up to another one.
-- Returns the groups to look at, and how many slots each has got back; those whose own limits have changed, which are
-- among them; how many slots of the queue; and whether there were any. looks, holders and leavers: groups, each with a
-- job that comes again, or one that does not.
create or replace function awa._read_slots(
  shard bigint,
  since pg_snapshot,
  until pg_snapshot,
  out groups bigint[],
  out freed int[],
  out changed bigint[],
  out of_queue int,
  out is_any boolean,
  out looks bigint[],
  out holders bigint[],
  out leavers bigint[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_slots awa.slots[];
  v_freed bigint[];
  v_looks bigint[];
begin
  with gone as (
    delete from awa.slots s
     where s.ctid = any(array(
       select s.ctid
         from awa.slots s
        where s.shard = shard and s.xid >= pg_snapshot_xmax(since) and pg_visible_in_snapshot(s.xid, until)
       union all
       select s.ctid
         from (select x from pg_snapshot_xip(since) x where pg_visible_in_snapshot(x, until)) x(xid)
        cross join lateral (
           select s.ctid from awa.slots s where s.shard = shard and s.xid = x.xid offset 0
         ) s))
    returning s as slot
  )
  select array_agg(g.slot), coalesce(sum((g.slot).of_queue), 0) into v_slots, of_queue from gone g;
  is_any := v_slots is not null;
  groups := '{}';
  freed := '{}';
  changed := '{}';
  if not is_any then
    return;
  elsif cardinality(v_slots) = 1 and v_slots[1].looks || v_slots[1].changed = '{}'
    and cardinality(v_slots[1].freed) < 2
  then -- the end of one attempt
    groups := v_slots[1].freed;
    freed := array_fill(1, array[cardinality(groups)]);
    return;
  end if;
  v_freed := array(select f from unnest(v_slots) s cross join unnest(s.freed) f);
  v_looks := array(select l from unnest(v_slots) s cross join unnest(s.looks || s.changed) l);
  select coalesce(array_agg(g.group_id), '{}'), coalesce(array_agg(g.freed), '{}') into groups, freed
    from (
      select g.group_id, sum(g.freed)::int as freed
        from (
          select f as group_id, 1 as freed from unnest(v_freed) f
          union all
          select l, 0 from unnest(v_looks) l
        ) g
       group by 1
    ) g;
  if v_looks <> '{}' then
    changed := array(select distinct c from unnest(v_slots) s cross join unnest(s.changed) c);
    select array_agg(p.group_id), array_agg(p.holders), array_agg(p.leavers) into looks, holders, leavers
      from unnest(v_slots) s
     cross join unnest(s.looks, s.holders, s.leavers) p(group_id, holders, leavers)
     where num_nonnulls(p.holders, p.leavers) > 0;
  end if;
end
$$;
comment on function awa._read_slots is 'Reads the slots of a shard that have come since a snapshot, up to another one';

-- Notes groups that the next claim is to look at.
create or replace function awa._look_again(shard bigint, groups bigint[]) returns void
language plpgsql
as $$
begin
  insert into awa.slots (shard, looks)
  select shard, groups[n : n + 9999] from generate_series(1, cardinality(groups), 10000) n;
end
$$;
comment on function awa._look_again is 'Notes groups that the next claim is to look at';

-- Whether this transaction has noted groups of a shard that the next claim is to look at.
create or replace function awa._looks_again(shard bigint) returns boolean
language sql stable
return exists (
  select from awa.slots s where s.shard = _looks_again.shard and s.xid = pg_current_xact_id() and s.looks <> '{}');
comment on function awa._looks_again is
  'Whether this transaction has noted groups of a shard that the next claim is to look at';
