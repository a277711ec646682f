-- Lanes in the order in which claim serves them, without lanes that have no new entries.
-- The front lane comes first, then the lanes by their priority, less one for each aging interval that the head has
-- waited.
-- Why: a function in SQL that is not put in the place of its call would be planned anew by each transaction.
create or replace function awa._by_age(
  lanes bigint[],
  now pg_snapshot,
  claimed_at timestamptz,
  aging interval,
  cleaned smallint,
  cleaned_until pg_snapshot
) returns bigint[]
language plpgsql stable
as $$
#variable_conflict use_column
begin
  return (
    select coalesce(array_agg(l.lane), '{}')
      from (
        select l.lane
          from unnest(lanes) l(lane)
          left join lateral (
            select * from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 1
          ) c on true
         cross join lateral awa._head(l.lane,
            greatest(case when c.lo is not null then c.pos_xid end, pg_snapshot_xmax(coalesce(c.lo, c.hi, '3:3:'))),
            case when c.lo is not null and c.pos_xid >= pg_snapshot_xmax(c.lo) then c.pos_id else 0 end, cleaned,
            cleaned_until) h
         where h.ready_at is not null
            or h.took > interval '10 milliseconds'
            or (select true
                  from (select pg_snapshot_xip(c.lo) union all select pg_snapshot_xip(c.hi)) x(xid)
                 where pg_visible_in_snapshot(x.xid, now)
                 limit 1)
         order by (l.lane & 7) <> 0,
                  h.ready_at is not null and h.is_far desc, -- taken at once, so that no claim has to go that way again
                  (l.lane & 7) - floor(
                    greatest(extract(epoch from _by_age.claimed_at - h.ready_at)::float8, 0)
                      / extract(epoch from aging)::float8
                  ),
                  h.ready_at,
                  l.lane
      ) l
  );
end
$$;
comment on function awa._by_age is
  'Lanes in the order in which claim serves them, without lanes that have no new entries';

-- Since when the first entry of a lane after a place is ready, and whether it was hard to find.
-- Late commits do not count, and buried entries do. took is the time of the look. is_far: it took long twice, which
-- distinguishes a long way over invisible entries from a busy machine.
create or replace function awa._head(
  lane bigint,
  after_xid xid8,
  after_id bigint,
  cleaned smallint,
  cleaned_until pg_snapshot,
  out ready_at timestamptz,
  out took interval,
  out is_far boolean
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_began timestamptz;
begin
  for v_look in 1..2 loop
    v_began := clock_timestamp();
    ready_at := (
      select e.ready_at
        from awa.ready_entries e
       where e.lane = lane
         and (e.xid, e.job_id) > (after_xid, after_id)
         and (e.segment <> cleaned or not pg_visible_in_snapshot(e.xid, cleaned_until))
       order by e.xid, e.job_id
       limit 1);
    is_far := clock_timestamp() - v_began > interval '10 milliseconds';
    took := coalesce(took, clock_timestamp() - v_began);
    exit when not is_far;
  end loop;
end
$$;
comment on function awa._head is
  'Since when the first entry of a lane after a place is ready, and whether it was hard to find';

-- Where a lane is to be read on.
-- Where the last window was read to its end the next one reaches to now. So does an open one from which no transaction
-- that was in progress has committed before the place that it has come to: new entries come after that place. A lane
-- without a cursor begins at the first transaction there can be.
-- Why: the newest claim of a lane is most often in the current segment, and then the plan holds no other one. No older
-- segment holds a newer claim: claims of a lane come one after the other, each to the current segment of its time.
create or replace function awa._open_window(
  segment smallint,
  lane bigint,
  now pg_snapshot,
  has_tombstones boolean
) returns awa._window_row
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_began_at timestamptz := clock_timestamp();
  v_cursor record;
  v_window awa._window_row;
begin
  case segment
    when 0 then
      select c.lane_seq, c.lo, c.hi, c.pos_xid, c.pos_id into v_cursor
        from awa.lease_claims c
       where c.segment = 0 and c.lane = lane
       order by c.lane_seq desc
       limit 1;
    when 1 then
      select c.lane_seq, c.lo, c.hi, c.pos_xid, c.pos_id into v_cursor
        from awa.lease_claims c
       where c.segment = 1 and c.lane = lane
       order by c.lane_seq desc
       limit 1;
    when 2 then
      select c.lane_seq, c.lo, c.hi, c.pos_xid, c.pos_id into v_cursor
        from awa.lease_claims c
       where c.segment = 2 and c.lane = lane
       order by c.lane_seq desc
       limit 1;
    when 3 then
      select c.lane_seq, c.lo, c.hi, c.pos_xid, c.pos_id into v_cursor
        from awa.lease_claims c
       where c.segment = 3 and c.lane = lane
       order by c.lane_seq desc
       limit 1;
  end case;
  if v_cursor.lane_seq is null then
    select c.lane_seq, c.lo, c.hi, c.pos_xid, c.pos_id into v_cursor
      from awa.lease_claims c
     where c.lane = lane
     order by c.lane_seq desc
     limit 1;
  end if;
  if v_cursor.lane_seq is null then
    v_window := (0, '3:3:', now, '0', 0, null, null, 0, true, false, null, false, false, 0, 0, v_began_at);
  elsif v_cursor.lo is null then
    v_window := (v_cursor.lane_seq, v_cursor.hi, now, '0', 0, null, null, 0, true, false, null, false, false,
      0, v_cursor.lane_seq, v_began_at);
  else
    v_window := (v_cursor.lane_seq, v_cursor.lo, v_cursor.hi, v_cursor.pos_xid, v_cursor.pos_id, null, null, 0, false,
      false, null, false, false, 0, v_cursor.lane_seq, v_began_at);
    if v_window.at_xid >= pg_snapshot_xmax(v_window.lo)
       and (pg_snapshot_xmin(v_window.hi) > v_window.at_xid
         or (
           select true
             from pg_snapshot_xip(v_window.hi) x
            where x <= v_window.at_xid and pg_visible_in_snapshot(x, now)
            limit 1
         ) is null)
    then
      v_window.hi := now;
      v_window.is_newest := true;
    end if;
  end if;
  v_window.to_xid := awa._last_xid(v_window.hi);
  if has_tombstones then -- unclaimed entries are not older
    v_window.is_buried := (
      select true
        from awa.ready_tombstones t
       where t.lane = lane
         and t.xid >= coalesce(
           least(pg_snapshot_xmin(v_cursor.hi), case when v_cursor.lo is not null then v_cursor.pos_xid end), '0')
       limit 1
    ) is true;
    if v_window.is_buried and v_window.at_xid >= pg_snapshot_xmax(v_window.lo) then
      v_window.most := awa._most_at_once(lane, v_window.at_xid, v_window.at_id);
    end if;
  end if;
  return v_window;
end
$$;
comment on function awa._open_window is 'Where a lane is to be read on';

-- The last transaction that can be visible in a snapshot.
create or replace function awa._last_xid(snapshot pg_snapshot) returns xid8
language sql immutable strict parallel safe
return (pg_snapshot_xmax(snapshot)::text::bigint - 1)::text::xid8;
comment on function awa._last_xid is 'The last transaction that can be visible in a snapshot';

-- The next part of a window whose late commits may not have been read: those of one transaction, or all after lo.
-- Why: late commits are probed one transaction at a time, since as a list they would be a filter over the lane's whole
-- history. And by a subquery with a limit, not by exists, which the planner may turn into a join that reads the whole
-- lane.
create or replace function awa._late_part(
  lane bigint,
  part awa._window_row,
  cleaned smallint,
  cleaned_until pg_snapshot
) returns awa._window_row
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_late xid8;
begin
  if pg_snapshot_xmin(part.lo) < pg_snapshot_xmax(part.lo) then
    select x into v_late
      from (select x from pg_snapshot_xip(part.lo) x order by x offset 0) s
     where x >= part.at_xid
       and pg_visible_in_snapshot(x, part.hi)
       and (
         select true
           from awa.ready_entries e
          where e.lane = lane
            and e.xid = x
            and (e.segment <> cleaned or not pg_visible_in_snapshot(e.xid, cleaned_until))
            and e.job_id > case when x = part.at_xid then part.at_id else 0 end
          limit 1)
     limit 1;
  end if;
  part.late := v_late;
  if v_late is null then
    part.at_xid := pg_snapshot_xmax(part.lo);
    part.at_id := 0;
    part.to_xid := awa._last_xid(part.hi);
  else
    part.at_id := case when v_late = part.at_xid then part.at_id else 0 end;
    part.at_xid := v_late;
    part.to_xid := v_late;
  end if;
  part.most := case when part.is_buried then awa._most_at_once(lane, part.at_xid, part.at_id) end;
  return part;
end
$$;
comment on function awa._late_part is
  'The next part of a window whose late commits may not have been read: those of one transaction, or all after lo';

-- How many entries a claim reads at once after a place, the buried ones included: 2,000 where many are buried.
-- Many are 128 or more; otherwise null, which is all.
create or replace function awa._most_at_once(lane bigint, xid xid8, job_id bigint) returns int
language plpgsql
as $$
#variable_conflict use_variable
begin
  return (
    select 2000 from awa.ready_tombstones t where t.lane = lane and (t.xid, t.job_id) > (xid, job_id) offset 127 limit 1
  );
end
$$;
comment on function awa._most_at_once is
  'How many entries a claim reads at once after a place, the buried ones included: 2,000 where many are buried';

-- The first entries of a part of a window, in their order.
-- Why: a query of SQL, which the planner puts in the place of its call. It has one lower bound for the index: with a
-- second one beside it the scan would begin at the beginning of the lane. The upper bound is of the transaction alone:
-- a row comparison does not end the scan where the second column decides. most: of so many entries, the buried ones
-- included; without it, of all.
create or replace function awa._read_part(
  lane bigint,
  cleaned smallint,
  cleaned_until pg_snapshot,
  at_xid xid8,
  at_id bigint,
  to_xid xid8,
  hi pg_snapshot,
  is_buried boolean,
  most int,
  max_entries int,
  out xid xid8, out job_id bigint, out kind text, out args jsonb, out priority smallint, out attempt smallint,
  out max_attempts smallint, out created_at timestamptz, out ready_at timestamptz, out tags text[], out metadata jsonb,
  out progress jsonb, out group_key text, out expires_at timestamptz, out unique_key bytea, out body_bytes int
) returns setof record
language sql stable
as $$
  select e.xid, e.job_id, e.kind, e.args, e.priority, e.attempt, e.max_attempts, e.created_at, e.ready_at, e.tags,
         e.metadata, e.progress, e.group_key, e.expires_at, e.unique_key, e.body_bytes
    from (
      select *
        from awa.ready_entries e
       where e.lane = _read_part.lane
         and (e.segment <> cleaned or not pg_visible_in_snapshot(e.xid, cleaned_until))
         and (e.xid, e.job_id) > (at_xid, at_id)
         and e.xid <= to_xid
         and pg_visible_in_snapshot(e.xid, hi)
       order by e.xid, e.job_id
       limit most
    ) e
   where case when is_buried then not awa._is_buried(_read_part.lane, e.xid, e.job_id) else true end
   order by e.xid, e.job_id
   limit max_entries
$$;
comment on function awa._read_part is 'The first entries of a part of a window, in their order';

-- The part of a window that comes after a part of which so many jobs were taken.
-- is_read: nothing is left in the lane. is_full: jobs are left, and do not fit. bytes are those of the part.
-- passed: how many of its jobs had expired; 2,000 where the time for buried entries is over, and the cursor was moved,
-- so that the claim ends. That time runs from began_at, when the call began, for all lanes and shards.
-- may_expire: more jobs may have been taken from the lane, which had expired. Moves the cursor past many buried
-- entries; and where a lane was read to its end for nothing, and that took long (a large enqueue was rolled back), or
-- there are others, and buried entries in this one of several shards: the next claim does not go that way again.
create or replace function awa._next_part(
  segment smallint,
  lane bigint,
  now pg_snapshot,
  part awa._window_row,
  jobs int,
  is_first boolean,
  cleaned smallint,
  cleaned_until pg_snapshot,
  may_expire boolean,
  has_others boolean,
  began_at timestamptz
) returns awa._window_row
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_claim record;
  v_is_claimed boolean := false;
  v_is_read boolean;
  v_until timestamptz;
  v_walk record;
begin
  part.bytes := 0;
  part.passed := 0;
  if part.most is not null then
    v_until := began_at + awa._budget('250 milliseconds', 4);
  end if;
  if jobs > 0 or may_expire then
    select c.pos_xid, c.pos_id, c.bytes, c.lo, cardinality(c.job_ids) as items into v_claim
      from awa.lease_claims c
     where c.segment = segment and c.lane = lane and c.lane_seq = part.lane_seq + 1;
    v_is_claimed := found;
  end if;
  if v_is_claimed then
    part.lane_seq := part.lane_seq + 1;
    part.at_xid := v_claim.pos_xid;
    part.at_id := v_claim.pos_id;
    part.bytes := v_claim.bytes;
    part.passed := v_claim.items - jobs;
    v_is_read := v_claim.lo is null;
  elsif part.most is not null then
    v_walk := awa._walk_buried(lane, part, cleaned, cleaned_until, v_until);
    v_is_read := v_walk.is_read and part.late is null;
    part.is_full := v_walk.walked = 0 and not v_walk.is_read;
    if v_walk.walked > 0 and not (v_is_read and part.is_newest) then
      part.lane_seq := awa._move_cursor(segment, lane, part.lane_seq + 1, part.hi, part.lo, v_walk.xid, v_walk.job_id);
      part.at_xid := v_walk.xid;
      part.at_id := v_walk.job_id;
    end if;
    if v_walk.is_read and part.late is not null then
      part.at_id := 9223372036854775807;
    end if;
  elsif not is_first and (
    select true
      from awa.ready_entries e
     where e.lane = lane and (e.segment <> cleaned or not pg_visible_in_snapshot(e.xid, cleaned_until))
       and (e.xid, e.job_id) > (part.at_xid, part.at_id)
       and e.xid <= part.to_xid
       and pg_visible_in_snapshot(e.xid, part.hi)
       and (
        select true from awa.ready_tombstones t where t.lane = lane and t.xid = e.xid and t.job_id = e.job_id limit 1
      ) is null
     limit 1)
  then
    part.is_full := true;
  elsif part.late is not null then
    part.at_id := 9223372036854775807; -- all that is left of this transaction is buried
  else
    v_is_read := true;
  end if;
  if v_is_read and part.is_newest then
    part.is_read := true;
    if part.most is not null
      or part.lane_seq = part.from_seq
        and (has_others and part.is_buried and awa._has_entries(lane, part, cleaned, cleaned_until)
          or clock_timestamp() - part.began_at > interval '10 milliseconds')
    then
      part.lane_seq := awa._move_cursor(segment, lane, part.lane_seq + 1, now);
    end if;
  elsif v_is_read then
    part.lo := part.hi;
    part.hi := now;
    part.at_xid := '0';
    part.at_id := 0;
    part.is_newest := true;
  end if;
  if clock_timestamp() > v_until and part.lane_seq > part.from_seq then
    part.passed := 2000; -- the next claim goes on behind what this one has noted
  end if;
  return part;
end
$$;
comment on function awa._next_part is 'The part of a window that comes after a part of which so many jobs were taken';

-- Walks over the buried entries that a part of a window begins with, until a time, but over 2,000 of them at least.
-- Returns how many these were, the last of them, and whether the part ended with it.
create or replace function awa._walk_buried(
  lane bigint,
  part awa._window_row,
  cleaned smallint,
  cleaned_until pg_snapshot,
  until timestamptz,
  out walked int,
  out xid xid8,
  out job_id bigint,
  out is_read boolean
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_entry record;
begin
  walked := 0;
  for v_entry in
    select e.xid, e.job_id, (
             select true
               from awa.ready_tombstones t
              where t.lane = lane and t.xid = e.xid and t.job_id = e.job_id
              limit 1
           ) as is_buried
      from awa.ready_entries e
     where e.lane = lane and (e.segment <> cleaned or not pg_visible_in_snapshot(e.xid, cleaned_until))
       and (e.xid, e.job_id) > (part.at_xid, part.at_id)
       and e.xid <= part.to_xid
       and pg_visible_in_snapshot(e.xid, part.hi)
     order by e.xid, e.job_id
  loop
    is_read := v_entry.is_buried is null or walked >= 2000 and clock_timestamp() > until;
    exit when is_read;
    walked := walked + 1;
    xid := v_entry.xid;
    job_id := v_entry.job_id;
  end loop;
  is_read := is_read is not true;
end
$$;
comment on function awa._walk_buried is
  'Walks over the buried entries that a part of a window begins with, until a time, but over 2,000 of them at least';

-- Whether an entry is buried.
create or replace function awa._is_buried(lane bigint, xid xid8, job_id bigint) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
begin
  return (
    select true from awa.ready_tombstones t where t.lane = lane and t.xid = xid and t.job_id = job_id limit 1
  ) is true;
end
$$;
comment on function awa._is_buried is 'Whether an entry is buried';
