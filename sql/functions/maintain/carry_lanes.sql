-- Cleaning a segment of very many lanes: lane by lane, once no session can write to it any more.

-- Looks for sessions that may still write to a segment of very many lanes: it is cleaned once there are none.
-- First the transaction that has begun the cleaning is to be committed, and with it the rotation; then carried_since is
-- taken. Next, no snapshot may be left that is older: a statement with one may still take the segment for the current
-- one. Of these, those count that were there at the first look (see _old_snapshots), and then those that were there
-- when these had ended: a session may have taken one of their snapshots over. Then no transaction may hold a lock to
-- write on the segment's tables: its rows may not be committed.
-- Returns at once: cleaning where there are none; or waiting, and ring names these sessions.
-- Why: cleaning waits only for sessions that would hold up the truncation, too. Other transactions may last.
create or replace function awa._look_for_writers(segment smallint) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_ring awa.ring;
  v_holders text[];
begin
  select * into v_ring from awa.ring r;
  if not pg_visible_in_snapshot(v_ring.begun_by, v_ring.carried_since) then
    if not pg_visible_in_snapshot(v_ring.begun_by, awa._snapshot()) then
      return 'waiting';
    end if;
    update awa.ring r set carried_since = awa._snapshot(), old_snapshots = null, looked_again = false;
    return 'cleaning';
  end if;
  perform pg_stat_clear_snapshot(); -- this transaction may have looked before
  v_holders := array(
    select o.holder
      from awa._old_snapshots(pg_snapshot_xmax(v_ring.carried_since)) o
     where v_ring.old_snapshots is null or o.holder = any(v_ring.old_snapshots));
  if v_holders = '{}' and v_ring.old_snapshots is not null and not v_ring.looked_again then
    v_holders := array(select o.holder from awa._old_snapshots(pg_snapshot_xmax(v_ring.carried_since)) o);
    update awa.ring r set looked_again = true;
  end if;
  if v_holders = '{}' then
    v_holders := array(select w.holder from awa._writers(segment) w);
  end if;
  if v_holders <> '{}' then
    update awa.ring r set old_snapshots = v_holders;
    return 'waiting';
  end if;
  update awa.ring r
     set begun_by = null, carried_before = 9223372036854775807, passed_over = '{}', old_snapshots = null;
  return 'cleaning';
end
$$;
comment on function awa._look_for_writers is
  'Looks for sessions that may still write to a segment of very many lanes: it is cleaned once there are none';

-- The transactions that may have entries, arrivals or claims in a segment that are not committed.
-- By the same names as _old_snapshots.
-- Why: each row is written under a lock on its table, which lasts until the transaction ends, also a prepared one.
create or replace function awa._writers(segment smallint) returns table (holder text)
language sql stable
as $$
  select distinct coalesce(awa._reader_name(l.pid, a.xact_start), 'a prepared transaction')
    from pg_locks l
    left join pg_stat_activity a on a.pid = l.pid
   where l.locktype = 'relation'
     and l.database = (select d.oid from pg_database d where d.datname = current_database())
     and l.relation in (
       select format('awa.%s_%s', f, _writers.segment)::regclass
         from unnest('{ready_entries,arrivals,lease_claims}'::text[]) f)
     and l.mode = 'RowExclusiveLock'
     and l.granted
$$;
comment on function awa._writers is
  'The transactions that may have entries, arrivals or claims in a segment that are not committed';

-- Carries the live rows in the lanes of a segment to the current one, some lanes in each call.
-- No session may write to the segment any more: then a lane that has nothing alive gets nothing. The others are
-- passed over, and tried again when all have been looked at: those that other sessions hold, and those with a job that
-- can't be carried. Goes on for a fifth of a second, or a tenth of the time that the caller's timeouts leave.
-- The caller has locked the counts.
-- Returns cleaning; damaged, refused or busy where it got no further; or null when no lane is left.
-- Locks: the shards of these lanes, and claims whose attempts are open, until the transaction ends.
-- Raises 55P03.
create or replace function awa._carry_lanes(segment smallint, max_lanes int, max_entries int) returns text
language plpgsql
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_variable
declare
  v_end timestamptz := clock_timestamp() + awa._budget('200 milliseconds', 10);
  v_ring awa.ring;
  v_lanes bigint[];
  v_is_rest boolean;
  v_piece record;
  v_tried int := 0;
  v_has_moved boolean := false;
begin
  -- they may have been mended since; once in each try, which may take several calls
  update awa.ring r
     set unreadable = null, refused = null, refusal = null
   where r.outcome in ('damaged', 'refused') and r.retry_at is not null;
  select * into v_ring from awa.ring r;
  loop
    v_is_rest := cardinality(v_ring.passed_over) >= 500;
    if not v_is_rest then
      v_lanes := array(select n from awa._next_lanes(segment, v_ring.carried_before, max_lanes) n order by n desc);
      v_is_rest := v_lanes = '{}';
    end if;
    if v_is_rest then
      v_lanes := v_ring.passed_over[1:max_lanes];
      exit when v_lanes = '{}';
    end if;
    v_piece := awa._carry_piece(segment, v_lanes, max_entries, v_ring.unreadable, v_ring.refused,
      v_is_rest and v_tried = 0);
    v_tried := v_tried + cardinality(v_lanes);
    v_ring.unreadable := nullif(v_piece.unreadable, '{}');
    v_ring.refused := nullif(v_piece.refused, '{}');
    v_ring.refusal := coalesce(v_piece.refusal, v_ring.refusal);
    v_has_moved := v_has_moved or v_piece.has_moved;
    exit when v_piece.is_cut; -- the next call goes on with them
    v_has_moved := v_has_moved or not v_is_rest or cardinality(v_piece.left_over) < cardinality(v_lanes);
    if v_is_rest then
      v_ring.passed_over := v_ring.passed_over[max_lanes + 1:] || v_piece.left_over;
    else
      v_ring.carried_before := v_lanes[cardinality(v_lanes)];
      v_ring.passed_over := v_ring.passed_over || v_piece.left_over;
    end if;
    exit when v_is_rest and not v_has_moved or v_tried >= 450 or clock_timestamp() > v_end;
  end loop;
  update awa.ring r
     set carried_before = v_ring.carried_before, passed_over = v_ring.passed_over, unreadable = v_ring.unreadable,
         refused = v_ring.refused, refusal = v_ring.refusal;
  return case
    when v_lanes = '{}' then null
    when v_has_moved then 'cleaning'
    when v_ring.unreadable <> '{}' then 'damaged'
    when v_ring.refused <> '{}' or v_ring.refusal is not null then 'refused'
    else 'busy'
  end;
end
$$;
comment on function awa._carry_lanes is
  'Carries the live rows in the lanes of a segment to the current one, some lanes in each call';

-- Carries the live rows in a few lanes of a segment to the current one.
-- Entries are moved, open attempts get rows of their own, cursors are copied, and all is counted. unreadable and
-- refused are the jobs that can't be carried, before and after. waits: for the first shard, where none is free.
-- Returns the lanes that still have something alive, or that other sessions hold; is_cut where it takes another call,
-- for there is too much in these lanes.
-- Locks: the shards that it can have, and claims whose attempts are open, until the transaction ends.
-- Raises 55P03.
create or replace function awa._carry_piece(
  segment smallint,
  lanes bigint[],
  max_entries int,
  inout unreadable bigint[],
  inout refused bigint[],
  waits boolean,
  out refusal text,
  out left_over bigint[],
  out has_moved boolean,
  out is_cut boolean
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_shards bigint[];
  v_mine bigint[];
  v_places awa._place[];
  v_open bigint[];
  v_moves record;
begin
  unreadable := coalesce(unreadable, '{}');
  refused := coalesce(refused, '{}');
  left_over := '{}';
  has_moved := false;
  is_cut := awa._fold_segment(segment, lanes, '200 milliseconds'); -- most of it before their shards are locked
  if is_cut then
    has_moved := true;
    return;
  end if;
  v_shards := awa._lock_some(array(select distinct awa._shard_of(l) from unnest(lanes) l order by 1), waits);
  v_mine := array(select l from unnest(lanes) l where awa._shard_of(l) = any(v_shards));
  if v_mine = '{}' then
    left_over := lanes;
    return;
  end if;
  v_places := array(
    select (a.job_id, 'available', null, a.lane, a.lane & 7, a.xid, a.segment, null)::awa._place
      from awa._available_in(segment, v_mine) a
     where a.job_id <> all(unreadable || refused)
     limit max_entries);
  v_moves := awa._move_most(segment, v_places);
  unreadable := unreadable || v_moves.unreadable;
  refused := refused || v_moves.refused;
  refusal := v_moves.refusal;
  has_moved := v_moves.moved > 0;
  is_cut := cardinality(v_places) = max_entries and has_moved;
  if is_cut then
    return;
  end if;
  v_open := array(select o from awa._open_in(segment, v_mine) o limit max_entries);
  begin
    has_moved := v_open <> '{}' and awa._materialize(v_open, max_entries) > 0 or has_moved;
  exception when others then
    if awa._is_passing(sqlstate) or not awa._is_about_a_row(sqlstate) then
      raise;
    end if;
    v_moves := awa._materialize_each(v_open);
    has_moved := has_moved or v_moves.materialized > 0;
    unreadable := array(select unnest(unreadable) union select unnest(v_moves.unreadable));
    refused := array(select unnest(refused) union select unnest(v_moves.refused));
    refusal := coalesce(v_moves.refusal, refusal);
  end;
  is_cut := cardinality(v_open) = max_entries and has_moved or awa._fold_segment(segment, v_mine, '200 milliseconds');
  if is_cut then
    has_moved := true;
    return;
  end if;
  begin
    perform awa._carry_cursors(segment, v_shards);
  exception when others then
    if awa._is_passing(sqlstate) or not awa._is_about_a_row(sqlstate) then
      raise;
    end if;
    refusal := awa._refusal(sqlerrm, sqlstate);
  end;
  left_over := array(
    select l from unnest(lanes) l
     where l <> all(v_mine) or l in (select a from awa._alive_lanes(segment, v_mine) a));
  update awa.queue_rollups r
     set segment_entries[segment + 1] = 0
   where r.lane = any(v_mine) and r.lane <> all(left_over) and r.segment_entries[segment + 1] <> 0;
end
$$;
comment on function awa._carry_piece is 'Carries the live rows in a few lanes of a segment to the current one';

-- The lanes, of some, that have something in a segment that is alive, or not counted.
create or replace function awa._alive_lanes(segment smallint, lanes bigint[]) returns setof bigint
language sql stable
as $$
  select a.lane from awa._available_in(segment, lanes) a
  union
  select c from awa._cursors_in(segment, lanes) c
  union
  select c.lane
    from awa._open_in(segment, lanes) r
   cross join lateral (select c.lane from awa.lease_claims c where c.claim_id = r >> 12 limit 1) c
  union
  select l.lane
    from awa._lanes_in_segment(segment, lanes) l
    left join lateral (select * from awa.queue_rollups r where r.lane = l.lane limit 1) r on true
   where l.last_seq > coalesce(r.closed_seq, 0)
      or (select true from awa._put_since(segment, l.lane, coalesce(r.counted, '3:3:')) limit 1)
  union
  select u from awa._uncounted_lanes(segment, lanes) u
$$;
comment on function awa._alive_lanes is
  'The lanes, of some, that have something in a segment that is alive, or not counted';

-- Copies the burials of rows carried lane by lane; returns the snapshot up to which the segment no longer counts.
-- These were not committed when their entries were carried. Null when there is more to count first. The caller has
-- locked the counts.
create or replace function awa._end_lanes(segment smallint) returns pg_snapshot
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_until pg_snapshot := awa._snapshot();
  v_since pg_snapshot;
  v_lanes bigint[];
begin
  select case when r.cleaned_segment = segment then r.cleaned_until else r.carried_since end into v_since
    from awa.ring r;
  v_lanes := array(
    select distinct t.lane from awa._buried_since(segment, v_since) t where pg_visible_in_snapshot(t.by_xid, v_until));
  if v_lanes <> '{}' and awa._fold_segment(segment, v_lanes) then -- the copies must not be counted again
    return null;
  end if;
  perform awa._carry_burials(segment, v_since, v_until);
  return v_until;
end
$$;
comment on function awa._end_lanes is
  'Copies the burials of rows carried lane by lane; returns the snapshot up to which the segment no longer counts';
