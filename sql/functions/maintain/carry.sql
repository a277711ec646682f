-- Moving the live rows of a segment, some at a time, and looking at the rows that it has.

-- Moves unclaimed entries of a segment, and cursors, to the current one, at most so many.
-- Entries keep their places. Cursors are moved for at most 500 shards, since the server's lock table is small. The
-- caller has locked the counts.
-- Returns cleaning; damaged or refused when the only jobs left are unreadable, or refused by the table, and ring then
-- names them; or null when nothing is left to carry.
-- Locks: the shards that it can have at once, in the order of their ids; where there are none, the first one, for which
-- it waits.
-- Raises 55P03.
-- Why: under the lock of a shard no other session claims from it. A claim before finds its entries at their old places,
-- and a claim after at the new ones. Sessions with an older snapshot go on to see the old rows, and the truncation
-- waits for them.
create or replace function awa._carry(segment smallint, max_entries int) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_unreadable bigint[];
  v_refused bigint[];
  v_refusal text;
  v_shards bigint[];
  v_places awa._place[];
  v_moves record;
  v_is_stuck boolean;
begin
  -- they may have been mended since; once in each try, which may take several calls
  update awa.ring r
     set unreadable = null, refused = null, refusal = null
   where r.outcome in ('damaged', 'refused') and r.retry_at is not null;
  select coalesce(r.unreadable, '{}'), coalesce(r.refused, '{}'), r.refusal into v_unreadable, v_refused, v_refusal
    from awa.ring r;
  v_shards := awa._shards_to_carry(segment, v_unreadable || v_refused, max_entries);
  if v_shards = '{}' then
    return case when v_unreadable <> '{}' then 'damaged' when v_refused <> '{}' then 'refused' end;
  end if;
  v_shards := awa._lock_some(v_shards);
  v_places := array(
    select (a.job_id, 'available', null, a.lane, a.lane & 7, a.xid, a.segment, null)::awa._place
      from unnest(v_shards) s
     cross join lateral (
        select *
          from awa._available a
         where a.queue_id = s >> 6 and awa._shard_of(a.lane) = s and a.segment = segment
        offset 0
      ) a
     where a.job_id <> all(v_unreadable || v_refused)
     limit max_entries);
  v_moves := awa._move_most(segment, v_places);
  v_unreadable := v_unreadable || v_moves.unreadable;
  v_refused := v_refused || v_moves.refused;
  v_refusal := coalesce(v_moves.refusal, v_refusal);
  v_is_stuck := v_moves.moved = 0 and v_places <> '{}' and cardinality(v_places) < max_entries;
  begin
    perform awa._carry_cursors(segment, v_shards);
  exception when others then
    if awa._is_passing(sqlstate) or not awa._is_about_a_row(sqlstate) then
      raise;
    end if;
    v_refusal := awa._refusal(sqlerrm, sqlstate); -- cursors; they stay, and so does the segment
    v_is_stuck := v_is_stuck or v_moves.moved = 0;
  end;
  update awa.ring r
     set unreadable = v_unreadable, refused = v_refused, refusal = v_refusal
   where (v_unreadable, v_refused, v_refusal) is distinct from (coalesce(r.unreadable, '{}'), coalesce(r.refused, '{}'),
     r.refusal);
  return case
    when not v_is_stuck then 'cleaning'
    when v_unreadable <> '{}' then 'damaged'
    when v_refused = '{}' and v_refusal is null then 'busy'
    else 'refused'
  end;
end
$$;
comment on function awa._carry is
  'Moves unclaimed entries of a segment, and cursors, to the current one, at most so many';

-- The shards, at most 500, of which a segment holds unclaimed entries, but for those of some jobs, or cursors.
create or replace function awa._shards_to_carry(segment smallint, but_job_ids bigint[], max_entries int)
returns bigint[]
language plpgsql stable
as $$
#variable_conflict use_variable
begin
  return array(
    select s from (
      (
        select awa._shard_of(a.lane) as s
          from awa._available_in(segment) a
         where a.job_id <> all(but_job_ids)
         limit max_entries
      )
      union
      (select awa._shard_of(c) from awa._cursors_in(segment) c limit 500)
    ) s order by s limit 500);
end
$$;
comment on function awa._shards_to_carry is
  'The shards, at most 500, of which a segment holds unclaimed entries, but for those of some jobs, or cursors';

-- Locks those of some shards that it can have at once, or else the first one, if it waits; returns which.
-- Locks: these, in the order given, until the transaction ends.
-- Raises 55P03.
create or replace function awa._lock_some(shards bigint[], waits boolean default true) returns bigint[]
language plpgsql
as $$
declare
  v_shard bigint;
  v_locked bigint[] := '{}';
begin
  foreach v_shard in array shards loop
    if pg_try_advisory_xact_lock(awa._shard_key(v_shard)) then
      v_locked := v_locked || v_shard;
    end if;
  end loop;
  if v_locked = '{}' and waits then
    -- no session waits for this one meanwhile, but for the counts, without which they go on
    perform awa._lock_for(array[awa._shard_key(shards[1])], '500 milliseconds');
    v_locked := shards[1:1];
  end if;
  return v_locked;
end
$$;
comment on function awa._lock_some is
  'Locks those of some shards that it can have at once, or else the first one, if it waits; returns which';

-- Moves entries to the current segment, but for those that the server can't read, or whose rows it refuses.
-- Returns how many it moved, the jobs that it left for one of these reasons, and the last refusal.
-- Raises the error of a resource that the server lacks, such as memory, where none was moved. Changes lock_timeout: the
-- calling function has to have a SET clause for it.
-- Why: one by one after an error, since the rest must not wait for one job.
create or replace function awa._move_most(
  segment smallint,
  entries awa._place[],
  out moved bigint,
  out unreadable bigint[],
  out refused bigint[],
  out refusal text
)
language plpgsql
as $$
declare
  v_entry awa._place;
  v_lack text[];
begin
  unreadable := '{}';
  refused := '{}';
  perform set_config('lock_timeout', '10', true); -- a user's trigger may wait for another session
  moved := awa._move_entries(segment, entries);
  perform set_config('lock_timeout', '0', true);
exception when others then
  if not awa._is_about_a_row(sqlstate) then
    raise;
  end if;
  perform set_config('lock_timeout', '1', true);
  moved := 0;
  foreach v_entry in array entries loop
    begin
      moved := moved + awa._move_entries(segment, array[v_entry]);
    exception when others then
      if sqlstate = 'XX001' then
        unreadable := unreadable || v_entry.id;
      elsif awa._is_passing(sqlstate) then
        null;
      elsif awa._is_about_a_row(sqlstate) then
        refused := refused || v_entry.id;
        refusal := awa._refusal(sqlerrm, sqlstate);
        v_lack := coalesce(v_lack, awa._lack(sqlerrm, sqlstate));
      else
        raise;
      end if;
    end;
  end loop;
  perform set_config('lock_timeout', '0', true);
  if moved = 0 then
    perform awa._fail_for(v_lack);
  end if;
end
$$;
comment on function awa._move_most is
  'Moves entries to the current segment, but for those that the server can''t read, or whose rows it refuses';

-- Moves entries to the current segment, under the same places; returns how many.
-- The caller has locked their shards, and the counts.
create or replace function awa._move_entries(segment smallint, entries awa._place[]) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_current smallint := awa._current_segment();
  v_moved bigint;
begin
  with moved as (
    delete from awa.ready_entries e
     where e.segment = segment
       and e.ctid = any(array( -- found place by place: a join might read the whole segment
         select p.ctid
           from unnest(entries) d
          cross join lateral (
             select e.ctid
               from awa.ready_entries e
              where e.segment = segment and e.lane = d.lane and e.xid = d.xid and e.job_id = d.id
              limit 1
           ) p))
    returning e as entry
  ), carried as (
    insert into awa.ready_entries
    select m.* from moved d cross join lateral awa._in_segment(d.entry, v_current) m
    returning lane, xid
  ), counted as (
    update awa.queue_rollups r
       set segment_entries[segment + 1] = r.segment_entries[segment + 1] - n.entries,
           segment_entries[v_current + 1] = r.segment_entries[v_current + 1] + n.entries
      from (
        select c.lane, count(*) as entries
          from carried c
         cross join lateral (select * from awa.queue_rollups r where r.lane = c.lane limit 1) r
         where pg_visible_in_snapshot(c.xid, r.counted) -- the others are counted where they are then
         group by c.lane
      ) n
     where r.lane = n.lane
  )
  select count(*) into v_moved from carried c;
  return v_moved;
end
$$;
comment on function awa._move_entries is
  'Moves entries to the current segment, under the same places; returns how many';

-- Copies the cursors of shards that are in a segment to the current one; returns how many.
-- Where all claims of a lane are counted, so is the copy, which took no jobs. The caller has locked the counts and the
-- shards.
create or replace function awa._carry_cursors(segment smallint, shards bigint[]) returns bigint
language sql
as $$
  with carried as (
    select l.lane,
           awa._move_cursor(r.current_segment, l.lane, l.lane_seq + 1, l.hi, l.lo, l.pos_xid, l.pos_id) as lane_seq
      from awa._current_segment() r(current_segment)
     cross join (select distinct s from unnest(shards) s) s(shard)
     cross join lateral (
        select *
          from awa._lanes l
         where l.queue_id = s.shard >> 6
           and awa._shard_of(l.lane) = s.shard
           and l.cursor_segment = _carry_cursors.segment
        offset 0
      ) l
  ), counted as (
    update awa.queue_rollups r
       set closed_seq = c.lane_seq
      from carried c
     where r.lane = c.lane and r.closed_seq = c.lane_seq - 1
  )
  select count(*) from carried
$$;
comment on function awa._carry_cursors is
  'Copies the cursors of shards that are in a segment to the current one; returns how many';

-- The lanes, of some or of all, whose cursors are in a segment.
create or replace function awa._cursors_in(segment smallint, lanes bigint[] default null) returns setof bigint
language sql stable
as $$
  select l.lane
    from awa._lanes_in_segment(_cursors_in.segment, lanes) l
   where l.last_seq = (select c.lane_seq from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 1)
$$;
comment on function awa._cursors_in is 'The lanes, of some or of all, whose cursors are in a segment';

-- The places of entries in a segment, of some lanes or of all, that no cursor has passed.
create or replace function awa._available_in(segment smallint, lanes bigint[] default null)
returns setof awa._available
language sql stable
as $$
  select a.*
    from awa._lanes_in_segment(_available_in.segment, lanes) l
   cross join lateral (
      select *
        from awa._available a
       where a.queue_id = awa._queue_of(l.lane) and a.lane = l.lane and a.segment = _available_in.segment
      offset 0
    ) a
$$;
comment on function awa._available_in is
  'The places of entries in a segment, of some lanes or of all, that no cursor has passed';

-- The receipts of open attempts, of some lanes or of all, that a segment holds, as claims or as entries.
-- Skips lanes whose claims are all counted: they have no open attempt.
create or replace function awa._open_in(segment smallint, lanes bigint[] default null) returns setof bigint
language sql stable
as $$
  with used as materialized (
    select l.lane
      from awa._lanes_in_segment(_open_in.segment, lanes) l
      left join lateral (
        select * from awa.queue_rollups r where r.lane = l.lane limit 1
      ) r on true
     where r.open_seqs is distinct from '{}'
        or (select true from awa.lease_claims c where c.lane = l.lane and c.lane_seq > r.closed_seq limit 1)
  )
  select o.receipt
    from used l
   cross join lateral (
      select o.receipt
        from awa._open_items o
       where o.queue_id = awa._queue_of(l.lane) and o.lane = l.lane and o.segment = _open_in.segment
      offset 0
    ) o
  union
  select r.receipt
    from used l
   cross join lateral (
      select r.receipt
        from awa._running r
       where r.queue_id = awa._queue_of(l.lane) and r.lane = l.lane and r.segment = _open_in.segment
      offset 0
    ) r
$$;
comment on function awa._open_in is
  'The receipts of open attempts, of some lanes or of all, that a segment holds, as claims or as entries';

-- The tombstones in a segment of transactions that are not visible in a snapshot.
create or replace function awa._buried_since(segment smallint, since pg_snapshot) returns setof awa.ready_tombstones
language sql stable
as $$
  select * from awa.ready_tombstones t where t.segment = _buried_since.segment and t.by_xid >= pg_snapshot_xmax(since)
  union all
  select t.*
    from pg_snapshot_xip(since) x
   cross join lateral (
      select * from awa.ready_tombstones t where t.segment = _buried_since.segment and t.by_xid = x offset 0
    ) t
$$;
comment on function awa._buried_since is
  'The tombstones in a segment of transactions that are not visible in a snapshot';

-- The lanes, of some or of all, that have claims in a segment that are not counted yet, such as open ones.
create or replace function awa._uncounted_lanes(segment smallint, lanes bigint[] default null) returns setof bigint
language sql stable
as $$
  select l.lane
    from awa._lanes_in_segment(_uncounted_lanes.segment, lanes) l
    left join lateral (
      select * from awa.queue_rollups r where r.lane = l.lane limit 1
    ) r on true
   where l.last_seq > coalesce(r.closed_seq, 0)
      or l.last_seq is not null and exists (
        select from unnest(r.open_seqs) s
         cross join lateral (
            select true
              from awa.lease_claims c
             where c.segment = _uncounted_lanes.segment and c.lane = l.lane and c.lane_seq = s
             limit 1
          ) c)
$$;
comment on function awa._uncounted_lanes is
  'The lanes, of some or of all, that have claims in a segment that are not counted yet, such as open ones';

-- Whether rows are missing in a segment.
-- Why: it counts all rows, so it needs other plans than the rest. It uses one processor, as other sessions need the
-- rest.
create or replace function awa._is_unbalanced(segment smallint) returns boolean
language plpgsql stable
set enable_seqscan = on
set enable_bitmapscan = on
set enable_hashjoin = on
set max_parallel_workers_per_gather = 0
as $$
begin
  return exists (select from awa._imbalances i where i.segment = _is_unbalanced.segment);
end
$$;
comment on function awa._is_unbalanced is 'Whether rows are missing in a segment';
