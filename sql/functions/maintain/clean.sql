-- Cleaning a segment: its live rows are carried to the current one, as in a log-structured file system.

-- Carries the live rows of a segment to the current one.
-- These are entries that no claim has passed, under the same place; cursors; and, to leases, open attempts. Then ring
-- says that the segment no longer counts, up to a snapshot. It may have to be called again, for rows that an older
-- transaction has put there since. Where many rows are alive, or a call before was blocked or cut off, it first moves
-- entries and cursors queue by queue, some in each call: then a call that is cut off has lost little. A segment of very
-- many lanes is carried lane by lane, some in each call, when no session can write to it any more.
-- Locks: the counts; once it copies the rest, the shards whose rows these are; until the transaction ends.
-- Why: it copies the rest first, and locks the queues only then, for the changes since. So their claims wait for
-- milliseconds. Entries that were claimed meanwhile are there twice until the commit, and only once after it.
create or replace function awa._clean(segment smallint, force boolean, cut_off int, wait interval) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_ring awa.ring;
  v_outcome text;
  v_until pg_snapshot;
  v_by_lanes boolean;
  v_each record;
begin
  select * into v_ring from awa.ring r;
  if v_ring.carried_segment = segment and v_ring.begun_by is not null then
    return awa._look_for_writers(segment);
  end if;
  v_by_lanes := v_ring.carried_before is not null and segment in (v_ring.carried_segment, v_ring.cleaned_segment);
  if v_ring.carried_segment is distinct from segment and v_by_lanes is not true then
    v_outcome := awa._begin_cleaning(segment, force, cut_off);
    if v_outcome is not null then
      return v_outcome;
    end if;
  end if;
  begin
    perform awa._lock_for(array[awa._fold_key()], wait);
    if v_ring.carried_segment = segment then
      v_outcome := case
        when v_by_lanes
          then awa._carry_lanes(segment, greatest(50 >> least(cut_off, 5), 1), greatest(1000 >> least(cut_off, 5), 1))
        else awa._carry(segment, greatest(1000 >> least(cut_off, 5), 1))
      end;
      if v_outcome is not null then
        return v_outcome;
      end if;
    end if;
    v_until := case when v_by_lanes then awa._end_lanes(segment) else awa._carry_all(segment, wait) end;
    if v_until is null then
      return 'cleaning';
    end if;
  exception
    when lock_not_available then
      return 'busy';
    when others then
      if awa._is_passing(sqlstate) or not awa._is_about_a_row(sqlstate) then
        raise;
      end if;
      if v_by_lanes then
        update awa.ring r set refusal = awa._refusal(sqlerrm, sqlstate);
        return 'refused';
      end if;
      if v_ring.carried_segment is distinct from segment then -- the others are moved
        update awa.ring r
           set carried_segment = segment, carried_since = awa._snapshot(), carried_before = null, old_snapshots = null;
        return 'cleaning';
      end if;
      v_each := awa._materialize_each(array(select o from awa._open_in(segment) o limit 1000));
      update awa.ring r
         set unreadable = v_each.unreadable, refused = v_each.refused,
             refusal = coalesce(v_each.refusal, awa._refusal(sqlerrm, sqlstate));
      return case when v_each.unreadable <> '{}' or sqlstate = 'XX001' then 'damaged' else 'refused' end;
  end;
  update awa.ring r
     set cleaned_segment = segment, cleaned_until = v_until, cleaned_by = pg_current_xact_id(), carried_segment = null,
         carried_since = null, begun_by = null,
         carried_before = case when v_by_lanes then r.carried_before end, passed_over = null, old_snapshots = null,
         unreadable = null, refused = null, refusal = null;
  return 'cleaned';
end
$$;
comment on function awa._clean is 'Carries the live rows of a segment to the current one';

-- Looks whether a segment can be cleaned, and how.
-- Returns null if it can be cleaned in one call; cleaning if entries and cursors must be moved first, some in each
-- call; or the obstacle.
create or replace function awa._begin_cleaning(segment smallint, force boolean, cut_off int) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_ring awa.ring;
  v_settings awa.settings;
  v_has_many_lanes boolean := (select count(*) > 500 from awa._next_lanes(segment, max_lanes => 501));
  v_alive bigint;
  v_readers text[];
begin
  select * into v_ring from awa.ring r;
  select * into v_settings from awa.settings s;
  if v_has_many_lanes then -- as far as they are counted, and wherever they are: a look at each lane would take long
    v_alive := (
      select coalesce(sum(greatest(r.appended - r.buried - r.claimed, 0)), 0)
        from awa.queue_rollups r
       where r.segment_entries[segment + 1] > 0);
  end if;
  if v_alive is null or v_alive > v_settings.carry_max then
    select count(*) into v_alive
      from (
        select
          from awa._available_in(segment) a
         limit case when cut_off < 2 then v_settings.carry_max + 1 else least(v_settings.carry_max, 1000) + 1 end
      ) a;
  end if;
  if v_alive > v_settings.carry_max then
    return 'full';
  end if;
  if not force then
    -- While a session keeps an old snapshot it can't be truncated, and claims would have to pass over the carried rows.
    -- Where others come and go it is cleaned all the same.
    if v_alive > 1000 then
      v_readers := array(
        select r.holder
          from awa._long_readers() r
         where v_ring.old_snapshots is null or r.holder = any(v_ring.old_snapshots)
      );
      if v_readers <> '{}' then
        update awa.ring r set old_snapshots = v_readers;
        return 'waiting';
      end if;
    end if;
    -- It reads the whole segment. Where there was never time for that, it is left to audit.
    if cut_off < 2 and awa._is_unbalanced(segment) then
      return 'unbalanced';
    end if;
  end if;
  if v_has_many_lanes
    or v_alive > 1000
    or cut_off > 0
    or v_ring.outcome = 'busy' and v_ring.cleaned_segment is distinct from segment
    or pg_relation_size(format('awa.ready_entries_%s', segment)::regclass) > 67108864
  then
    -- from here on it does not look again
    update awa.ring r
       set carried_segment = segment, carried_since = awa._snapshot(), old_snapshots = null, carried_before = null,
           passed_over = null, begun_by = case when v_has_many_lanes then pg_current_xact_id() end;
    return 'cleaning';
  end if;
  return null;
end
$$;
comment on function awa._begin_cleaning is 'Looks whether a segment can be cleaned, and how';

-- Copies all live rows of a segment to the current one, and locks its shards of queues.
-- The caller has locked the counts.
-- Returns the snapshot up to which the segment no longer counts; null when there is more to count, or more open
-- attempts are to get rows of their own, first.
-- Locks: these shards, and claims whose attempts are open, until the transaction ends.
-- Raises 55P03 where another session holds a lock for too long.
create or replace function awa._carry_all(segment smallint, wait interval) returns pg_snapshot
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_ring awa.ring;
  v_before pg_snapshot;
  v_until pg_snapshot;
  v_shards bigint[];
  v_open bigint[];
  v_lanes bigint[];
begin
  select * into v_ring from awa.ring r;
  v_open := array(select awa._open_in(segment) limit 1001);
  if cardinality(v_open) > 1000 then -- some in each call
    if awa._materialize(v_open, 1000) = 0 then
      raise lock_not_available;
    end if;
    return null;
  end if;
  -- Before anything is copied: is another session answering for an open attempt?
  if exists (
    select from (select distinct awa._claim_key(r >> 12) as key from unnest(v_open) r) c
     where not case when pg_try_advisory_lock(c.key) then pg_advisory_unlock(c.key) else false end)
  then
    raise lock_not_available;
  end if;

  v_before := awa._snapshot();
  if awa._fold_segment(segment) then -- rows that are copied now must not be counted again
    return null;
  end if;
  with carried as (
    insert into awa.ready_entries
    select m.*
      from awa._available_in(segment) a
     cross join lateral (
        select e
          from awa.ready_entries e
         where e.segment = segment and e.lane = a.lane and e.xid = a.xid and e.job_id = a.job_id
         limit 1
      ) e(entry)
     cross join lateral awa._in_segment(e.entry, v_ring.current_segment) m
     where pg_visible_in_snapshot(a.xid, v_before)
    returning lane
  )
  select coalesce(array_agg(c.lane), '{}') into v_lanes from carried c;

  v_shards := array(
    select awa._shard_of(l) from unnest(v_lanes) l
    union
    select awa._shard_of(c) from awa._cursors_in(segment) c
    order by 1);
  perform awa._lock_for(array(select awa._shard_key(s) from unnest(v_shards) s), wait);
  v_until := awa._snapshot();
  -- Something of another shard that was committed only now: a claim may be taking it, and would not find it where it
  -- was; and it is not counted.
  if exists (
    select from awa._lanes_in_segment(segment) l
     cross join lateral awa._put_since(segment, l.lane, v_before) x
     where awa._shard_of(l.lane) <> all(v_shards)
       and not pg_visible_in_snapshot(x, v_before)
       and pg_visible_in_snapshot(x, v_until))
  then
    raise lock_not_available;
  end if;

  -- Open attempts: those claimed in the segment, and those whose entries are in it.
  v_open := array(select awa._open_in(segment));
  if cardinality(v_open) > 1000 then
    raise lock_not_available; -- materialize has them in a moment
  end if;
  if awa._materialize(v_open, 1000) < cardinality(v_open) then
    raise lock_not_available;
  end if;
  perform awa._fold(null, true, array(
    select s >> 6 from unnest(v_shards) s
    union
    select awa._queue_of(u) from awa._uncounted_lanes(segment) u));
  if exists (select from awa._uncounted_lanes(segment)) then
    raise lock_not_available;
  end if;

  perform awa._carry_late(segment, v_before, v_until, v_shards, v_lanes);
  perform awa._carry_cursors(segment, v_shards);
  return v_until;
end
$$;
comment on function awa._carry_all is
  'Copies all live rows of a segment to the current one, and locks its shards of queues';

-- Copies the rows that were committed to a segment between two snapshots, and counts the copied ones.
-- The caller has locked the shards and the counts. lanes are those of the entries that were copied before.
create or replace function awa._carry_late(
  segment smallint,
  before pg_snapshot,
  until pg_snapshot,
  shards bigint[],
  lanes bigint[]
) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_ring awa.ring;
  v_late_lanes bigint[];
begin
  select * into v_ring from awa.ring r;
  -- Entries that were committed meanwhile; claimed or not, it makes no difference.
  with carried as (
    insert into awa.ready_entries
    select m.*
      from unnest(shards) s
     cross join awa._lanes_in_shard(s) l
     cross join lateral (
        select distinct a.xid
          from awa._appended_since(l.lane, before, null) a
         where a.segment = segment and a.entries > 0 and pg_visible_in_snapshot(a.xid, until)
      ) a
     cross join lateral (
        select row(e.*)::awa.ready_entries
          from awa._entries e
         where e.segment = segment and e.lane = l.lane and e.xid = a.xid
        offset 0
      ) e(entry)
     cross join lateral awa._in_segment(e.entry, v_ring.current_segment) m
    returning lane
  )
  select coalesce(array_agg(c.lane), '{}') into v_late_lanes from carried c;
  update awa.queue_rollups r
     set segment_entries[segment + 1] = n.late,
         segment_entries[v_ring.current_segment + 1] = r.segment_entries[v_ring.current_segment + 1] + n.carried
    from (
      select r.lane, coalesce(c.carried, 0) as carried, (
               select coalesce(sum(a.entries), 0)
                 from awa._appended_since(r.lane, until, r.dropped) a
                where a.segment = segment and pg_visible_in_snapshot(a.xid, r.counted)) as late
        from awa.queue_rollups r
        left join (
          select l as lane, count(*) as carried from unnest(lanes || v_late_lanes) l group by l
        ) c on c.lane = r.lane
       where r.segment_entries[segment + 1] > 0
    ) n
   where r.lane = n.lane;
  perform awa._carry_burials(segment,
    case
      when v_ring.cleaned_segment = segment then v_ring.cleaned_until
      else case when v_ring.carried_segment = segment then v_ring.carried_since else before end
    end, until);
end
$$;
comment on function awa._carry_late is
  'Copies the rows that were committed to a segment between two snapshots, and counts the copied ones';

-- Copies the burials that were committed between two snapshots, of entries that were carried before.
create or replace function awa._carry_burials(segment smallint, since pg_snapshot, until pg_snapshot) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.ready_tombstones (segment, lane, xid, job_id, by_xid, batch, cancels)
  select e.segment, t.lane, t.xid, t.job_id, t.by_xid, t.batch, t.cancels
    from awa._buried_since(segment, since) t
   cross join lateral (
      select e.segment
        from awa.ready_entries e
       where e.lane = t.lane and e.xid = t.xid and e.job_id = t.job_id and e.segment <> segment
       limit 1
    ) e
   where pg_visible_in_snapshot(t.by_xid, until) -- the others call for another cleaning
  on conflict do nothing;
end
$$;
comment on function awa._carry_burials is
  'Copies the burials that were committed between two snapshots, of entries that were carried before';
