-- Moving cursors where nothing is left to claim.

-- Moves the cursor of a lane past the entries at its head that are buried, at most so many; returns how many.
-- Not while there are others that were committed late. The caller has locked the shard.
-- Why: otherwise each claim, cancel and read of the lane would walk over them, until a claim takes one behind them.
-- In a queue that is paused, or has no workers, none does. The row that it appends is that of a claim of no jobs, in
-- the same window, or in the next one where that is read to its end.
create or replace function awa._pass_buried(lane bigint, max_entries int) returns int
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_now pg_snapshot := awa._snapshot();
  v_lane record;
  v_entry record;
  v_lo pg_snapshot;
  v_hi pg_snapshot;
  v_xid xid8;
  v_id bigint;
  v_is_newest boolean;
  v_is_free boolean := false;
  v_walked int := 0;
  v_passed int := 0;
  v_cursor awa.lease_claims;
begin
  select l.* into v_lane from awa._lanes l where l.queue_id = awa._queue_of(lane) and l.lane = lane;
  if not found then
    return 0;
  end if;
  v_lo := coalesce(v_lane.lo, v_lane.hi, '3:3:');
  v_is_newest := v_lane.lo is null;
  v_hi := case when v_is_newest then v_now else v_lane.hi end;
  v_xid := v_lane.from_xid;
  v_id := v_lane.from_id;
  loop
    exit when exists (
      select
        from awa._late_entries(lane, v_lane.lo, v_lane.hi, v_lane.pos_xid, v_lane.pos_id, v_xid, v_id) e
       where pg_visible_in_snapshot(e.xid, v_hi)
         and (
           select true from awa.ready_tombstones t where t.lane = lane and t.xid = e.xid and t.job_id = e.job_id limit 1
         ) is null);
    for v_entry in
      select e.xid, e.job_id, (
               select true
                 from awa.ready_tombstones t
                where t.lane = lane and t.xid = e.xid and t.job_id = e.job_id
                limit 1
             ) as is_buried
        from awa._entries e
       where e.lane = lane and (e.xid, e.job_id) > (v_xid, v_id) and e.xid < pg_snapshot_xmax(v_hi)
         and pg_visible_in_snapshot(e.xid, v_hi)
       order by e.xid, e.job_id
       limit max_entries - v_walked
    loop
      v_walked := v_walked + 1;
      v_is_free := v_entry.is_buried is null;
      exit when v_is_free;
      v_passed := v_passed + 1;
      v_cursor.lo := v_lo;
      v_cursor.hi := v_hi;
      v_cursor.pos_xid := v_entry.xid;
      v_cursor.pos_id := v_entry.job_id;
    end loop;
    exit when v_is_free or v_walked >= max_entries or v_is_newest;
    v_lo := v_hi;
    v_hi := v_now;
    v_is_newest := true;
    v_lane.lo := null; -- no late entry of the next window is read
    v_xid := pg_snapshot_xmax(v_lo);
    v_id := 0;
  end loop;
  if v_passed > 0 then
    perform awa._move_cursor(awa._current_segment(), lane, v_lane.lane_seq + 1, v_cursor.hi, v_cursor.lo,
      v_cursor.pos_xid, v_cursor.pos_id);
  end if;
  return v_passed;
end
$$;
comment on function awa._pass_buried is
  'Moves the cursor of a lane past the entries at its head that are buried, at most so many; returns how many';
