-- Claims from a queue whose groups are served by turns.
--
-- A claim moves each entry that it reads out of the log, into the line of its group. A group that has a line, and room,
-- has one turn; when that is served, it gets the next one, at the end of its lane. A job without a group is a group by
-- itself: it has its turn at once. Where no entries are left to read, and few groups wait, one statement gives several
-- rounds of turns.

-- Takes jobs of a shard by turns, for _take_limited, after the front lane.
-- It reads new entries, up to 2,000, and begins the jobs that have turns; a large entry counts for several. For each
-- job of a group that was served before, it reads 200 entries at least, unless it has read the lane, and those before
-- it, to their ends.
-- Where it has read 2,000 entries, and begun no job, it wakes the queue. groups, freed: slots that have come back.
-- most, room, bytes: how many jobs the claim may take, how many it may still take, and their bytes.
-- Why: a group gets a second turn only after the claim has looked for other groups behind it in the log.
create or replace function awa._take_by_turns(
  queue text,
  shard bigint,
  now pg_snapshot,
  terms awa._terms_row,
  settings awa.queue_settings,
  state awa.shard_states,
  whole awa.shard_states,
  has_slots boolean,
  has_own boolean,
  groups bigint[],
  freed int[],
  claim awa.lease_claims,
  most int,
  room int,
  bytes bigint,
  one_by_one boolean
) returns setof awa.claimed_job_row
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_lanes bigint[];
  v_open bigint[]; -- those that are read to their ends, as those before them
  v_lane bigint;
  v_read record;
  v_scanned int := 0;
  v_credit int := 0; -- entries read, and not used up by jobs of groups that were served before
  v_is_all boolean;
  v_is_mixed boolean; -- jobs of all priorities may come in a lane that is not read
  v_before int;
  v_last bigint;
  v_is_stuck boolean := false; -- the last turns that it looked at have not begun
  v_dealt bigint[];
  v_goes_on boolean;
  v_turns record;
  v_passes int := 0;
  v_jobs int;
begin
  perform awa._pass_turns(shard, groups, freed, false, settings, has_own, terms.claimed_at);
  <<rounds>>
  while room > 0 and bytes > 0 loop
    v_lanes := (awa._limited_lanes(terms, shard, now, settings.aging_interval, state.turns_until, false)).lanes;
    v_open := '{}';
    v_dealt := '{}';
    v_is_all := true;
    v_jobs := least(2000 - v_scanned, greatest(200 * least(room, 10), v_scanned)); -- to be read
    foreach v_lane in array v_lanes loop
      v_read := awa._line_up(shard, v_lane, now, terms, claim, v_jobs, one_by_one);
      v_dealt := v_dealt || v_read.lanes
        || awa._pass_turns(shard, v_read.fresh, null, false, settings, has_own, terms.claimed_at, is_again => false)
        || awa._pass_turns(shard, v_read.held, null, false, settings, has_own, terms.claimed_at);
      v_scanned := v_scanned + v_read.entries;
      v_credit := v_credit + v_read.entries;
      v_jobs := v_jobs - v_read.entries;
      v_is_all := v_read.is_read;
      exit when not v_is_all;
      v_open := v_open || v_lane;
    end loop;
    if not v_dealt <@ v_lanes then
      v_lanes := (awa._limited_lanes(terms, shard, now, settings.aging_interval, state.turns_until, false)).lanes;
    end if;
    if v_is_all then
      v_open := v_lanes;
    end if;
    v_is_mixed := not v_is_all and settings.group_order <> 'start' and shard << 3 | 2 <> all(v_open);
    v_goes_on := not v_is_all and v_scanned < 2000;
    foreach v_lane in array v_lanes loop
      v_before := room;
      v_last := (select s.last_value from awa.turn_ids s); -- turns that are put off get later ones
      loop
        exit rounds when room <= 0 or bytes <= 0 or v_passes >= 50;
        v_turns := awa._next_by_turns(v_lane, state.turns_until[(v_lane & 7) + 1], v_is_stuck, room, bytes,
          awa._row_bytes(queue), terms.claimed_at, room = most,
          case when v_is_mixed or v_lane <> all(v_open) then v_credit / 200 end);
        exit when v_turns.last_id is null;
        exit rounds when v_turns.last_id = 0; -- the next one does not fit
        v_passes := v_passes + 1;
        v_is_stuck := v_turns.waiting_ids = '{}';
        state.turns_until[(v_lane & 7) + 1] := v_turns.last_id;
        v_credit := v_credit - 200 * v_turns.again;
        v_jobs := 0;
        if v_turns.waiting_ids <> '{}' then
          return query select * from awa._begin_turns(queue, shard, now, v_turns.waiting_ids, claim, one_by_one);
          get diagnostics v_jobs = row_count;
          room := room - v_jobs;
          bytes := bytes - v_turns.bytes;
          if v_jobs < cardinality(v_turns.waiting_ids) then
            v_turns.groups := awa._without_turns(v_lane, v_turns.last_id, v_turns.waiting_ids, v_turns.groups);
          end if;
        end if;
        v_dealt := awa._pass_turns(shard, v_turns.groups || v_turns.void,
          array_fill(0, array[cardinality(v_turns.groups)]) || array_fill(1, array[cardinality(v_turns.void)]), true,
          settings, has_own, terms.claimed_at, v_turns.is_last and v_lane = any(v_open) and not v_is_mixed, room,
          bytes, v_lane);
        v_goes_on := v_goes_on or not v_dealt <@ array[v_lane];
        -- other sessions change these jobs, or they can't begin: it tries each of the turns that were here once
        exit when v_jobs = 0 and v_turns.void = '{}' and v_turns.last_id >= v_last;
      end loop;
      exit when v_lane <> all(v_open) or v_is_mixed and room < v_before; -- earlier lanes are read first
    end loop;
    exit when not v_goes_on;
  end loop;
  v_jobs := most - room;
  perform awa._store_limits(settings, state, whole, terms.claimed_at, v_jobs, case when has_slots then now end);
  if v_jobs = 0 and (v_scanned >= 2000 or v_passes >= 50 or awa._looks_again(shard)) then
    perform awa._wake(terms.queue_id);
  end if;
end
$$;
comment on function awa._take_by_turns is
  'Takes jobs of a shard by turns, for _take_limited, after the front lane';

-- Puts the new entries of a lane into the lines of their groups, up to so many.
-- An entry counts for one in each 8 kB.
-- Returns how many it has read, counted so; whether none are left; the groups that are to get turns, since they had no
-- line (fresh) or are reserved for one of these jobs (held); and the lanes in which jobs without a group got theirs.
-- one_by_one: see _put_aside_each; 2,000 entries count as read once its time is over.
create or replace function awa._line_up(
  shard bigint,
  lane bigint,
  now pg_snapshot,
  terms awa._terms_row,
  claim awa.lease_claims,
  max_entries int,
  one_by_one boolean,
  out entries int,
  out is_read boolean,
  out fresh bigint[],
  out held bigint[],
  out lanes bigint[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_window awa._window_row := awa._open_window(terms.segment, lane, now, terms.has_tombstones);
  v_part record;
  v_large int;
begin
  entries := 0;
  is_read := false;
  fresh := '{}';
  held := '{}';
  lanes := '{}';
  while entries < max_entries and not is_read loop
    v_large := 0;
    if v_window.at_xid < pg_snapshot_xmax(v_window.lo) then
      v_window := awa._late_part(lane, v_window, terms.cleaned, terms.cleaned_until);
    end if;
    if awa._has_entries(lane, v_window, terms.cleaned, terms.cleaned_until) then
      if one_by_one then
        v_part := awa._put_aside_each(shard, lane, v_window, terms.cleaned, terms.cleaned_until,
          least(max_entries - entries, 960), claim);
      else
        v_part := awa._put_aside(shard, lane, v_window, terms.cleaned, terms.cleaned_until,
          least(max_entries - entries, 960), claim);
      end if;
      fresh := fresh || v_part.fresh;
      held := held || v_part.held;
      lanes := lanes || v_part.lanes;
      v_large := least(v_part.bytes / 8192, 2000);
    end if;
    v_window := awa._next_part(terms.segment, lane, now, v_window, 0, true, terms.cleaned, terms.cleaned_until, true,
      terms.has_others, terms.began_at);
    entries := entries + greatest(v_window.passed, v_large);
    is_read := v_window.is_read;
    if one_by_one and not is_read and clock_timestamp() > terms.began_at + awa._budget('1 second', 4) then
      entries := 2000;
    end if;
  end loop;
end
$$;
comment on function awa._line_up is 'Puts the new entries of a lane into the lines of their groups, up to so many';

-- Puts entries of a part of a window into the lines of their groups, by a claim that closes them at once.
-- At most max_entries; it stops once their bodies have 8 kB for each of these. Those that have expired are cancelled;
-- those without a group get a turn. A job for which its group is reserved goes to the front of the line, which keeps
-- its place from then on.
-- Returns groups and lanes as _line_up does, and the bytes of these bodies.
-- Locks: the states that it replaces, tried.
-- Why: a group that has a line has its turn, or no room: its state need not change. So a part with jobs of one group
-- looks at one state. Bodies are copied: a claim is to end soon, however large they are.
create or replace function awa._put_aside(
  shard bigint,
  lane bigint,
  part awa._window_row,
  cleaned smallint,
  cleaned_until pg_snapshot,
  max_entries int,
  claim awa.lease_claims,
  out fresh bigint[],
  out held bigint[],
  out lanes bigint[],
  out bytes bigint
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_most constant bigint := max_entries * 8192::bigint;
begin
  claim.lane := lane;
  claim.lane_seq := part.lane_seq + 1;
  claim.hi := part.hi;
  claim.lo := part.lo;
  with entries as materialized (
    select e.*, awa._group_id(e.group_key) as group_id,
           awa._is_expired(e.expires_at, e.attempt, claim.claimed_at) is true as is_expired
      from (
        select e.*, row_number() over through as ordinality, sum(e.body_bytes) over through as bytes_through
          from awa._read_part(lane, cleaned, cleaned_until, part.at_xid, part.at_id, part.to_xid, part.hi,
                 part.is_buried, part.most, max_entries) e
        window through as (order by e.xid, e.job_id rows unbounded preceding)
      ) e
     where e.bytes_through - e.body_bytes < v_most
  ), come as materialized (
    select array_agg(e.job_id) as job_ids from entries e where e.group_id is not null and not e.is_expired
  ), changed as materialized (
    select g.of_group, g.place, s.*, (s.holder = any(c.job_ids)) is true as is_held
      from (
        select e.group_id as of_group, min(e.ordinality) as place
          from entries e
         where e.group_id is not null and not e.is_expired
         group by e.group_id
      ) g
     cross join come c
      left join lateral awa._group_state(shard, g.of_group) s on true
     where s.has_line is not true or s.holder = any(c.job_ids)
  ), gone as (
    delete from awa.group_states s where s.ctid = any(array(
      select s.ctid
        from awa.group_states s
       where s.ctid = any(array(select c.row_id from changed c))
         for update skip locked -- fold may be removing it: it counts no more
    ))
  ), states as (
    insert into awa.group_states
      (shard, group_id, state_id, running, has_line, has_front, taken, front_taken, holder, next_at, rate_turns,
       opens_at)
    select shard, c.of_group, nextval('awa.state_ids'), coalesce(c.running, 0), true,
           coalesce(c.has_front, false) or c.is_held, coalesce(c.taken, 0),
           coalesce(c.front_taken, -9223372036854775808), case when not c.is_held then c.holder end, c.next_at,
           coalesce(c.rate_turns, 0), c.opens_at
      from changed c
  ), aside as (
    insert into awa.limited_jobs
      (waiting_id, shard, group_id, job_id, lane, ready_at, created_at, attempt, max_attempts, body_bytes,
       unique_key, kind, args, tags, metadata, group_key, expires_at, progress, errors)
    select nextval('awa.waiting_ids') - case when e.job_id = any(h.job_ids) then 4611686018427387904 else 0 end,
           shard, e.group_id, e.job_id, shard << 3 | e.priority, e.ready_at, coalesce(e.created_at, e.ready_at),
           e.attempt, e.max_attempts, e.body_bytes, e.unique_key, e.kind, e.args, e.tags, e.metadata, e.group_key,
           e.expires_at, e.progress, case when e.created_at is not null then awa._errors_of(lane, e.xid, e.job_id) end
      from (select array_agg(c.holder) as job_ids from changed c where c.is_held) h
     cross join (select * from entries e where not e.is_expired order by e.ordinality) e
    returning waiting_id, limited_jobs.lane as of_lane, group_id
  ), turns as (
    insert into awa.turns (turn_id, lane, waiting_id)
    select nextval('awa.turn_ids'), a.of_lane, a.waiting_id from aside a where a.group_id is null
    returning turns.lane as of_lane
  ), appended as materialized (
    select awa._append_limited(claim,
             num_nonnulls(part.late, part.most) > 0 or f.entries = max_entries or f.bytes >= v_most, f.xids,
             f.job_ids, '{}', '{}', 0, f.aside, f.expired) as claim_id, f.bytes
      from (
        select count(*) as entries, max(e.bytes_through) as bytes, array_agg(e.xid order by e.ordinality) as xids,
               array_agg(e.job_id order by e.ordinality) as job_ids,
               array_agg(e.ordinality - 1) filter (where e.is_expired) as expired,
               array_agg((e.ordinality - 1)::smallint) filter (where not e.is_expired) as aside
          from entries e
      ) f
     where f.entries > 0
  )
  select coalesce(array_agg(c.of_group order by c.place) filter (where not c.is_held), '{}'),
         coalesce(array_agg(c.of_group order by c.place) filter (where c.is_held), '{}'),
         array(select distinct t.of_lane from turns t where a.claim_id is not null), coalesce(a.bytes, 0)
    into fresh, held, lanes, bytes
    from (select max(a.claim_id) as claim_id, max(a.bytes) as bytes from appended a) a
    left join changed c on true
   group by a.claim_id, a.bytes;
end
$$;
comment on function awa._put_aside is
  'Puts entries of a part of a window into the lines of their groups, by a claim that closes them at once';

-- Takes slots back into their groups, and gives each group that has a line, and room, its next turn.
-- are_served: the groups come once for each of their turns that have gone, with 1 in freed where its job has not begun.
-- Otherwise freed is how many slots have come back; and of the groups that got none it looks at 1,000 at most, any of
-- them; the next claim goes on. is_again: see turns. fills: gives several rounds of turns in one lane, for so many jobs
-- and bytes, which can all be served. Of a group that a rate, or a pause, keeps closed, it notes when it opens.
-- settings, has_own: see _group_terms.
-- Returns the lanes in which it gave turns.
-- Locks: the states that it replaces, tried.
create or replace function awa._pass_turns(
  shard bigint,
  groups bigint[],
  freed int[],
  are_served boolean,
  settings awa.queue_settings,
  has_own boolean,
  at timestamptz,
  fills boolean default false,
  jobs int default 0,
  bytes bigint default 0,
  lane bigint default null,
  is_again boolean default true
) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_asked record;
  v_each int := 1;
  v_lanes bigint[];
begin
  if array_remove(groups, null) = '{}' is not false then
    return '{}';
  end if;
  select array_agg(g.group_id order by g.place) as groups, array_agg(g.freed order by g.place) as freed,
         array_agg(g.turns order by g.place) as turns
    into v_asked
    from (
      select g.group_id, coalesce(sum(g.freed), 0)::int as freed, min(g.place) as place,
             case when are_served then count(*)::int else 0 end as turns
        from unnest(groups, freed) with ordinality g(group_id, freed, place)
       where g.group_id is not null
       group by g.group_id
    ) g;
  if fills and jobs > 0 then
    v_each := greatest(ceil(jobs::float8 / cardinality(v_asked.groups)), 1);
  end if;
  if not are_served and cardinality(v_asked.groups) > 1000 then
    v_asked := awa._first_thousand(shard, v_asked.groups, v_asked.freed);
  end if;
  with lines as materialized (
    select *
      from awa._line_heads(shard, v_asked.groups, v_asked.freed, v_asked.turns, v_each, lane, settings, has_own, at)
  ), dealt as materialized (
    select l.*, u.waiting_id, u.of_lane, u.rank, u.rank is not null and (u.rank = 1
             or row_number() over through <= jobs and sum(u.size + 500) over through <= bytes) as is_dealt
      from lines l
      left join lateral unnest(l.ids, l.lanes, l.sizes) with ordinality u(waiting_id, of_lane, size, rank) on true
    window through as (order by u.rank, l.place rows unbounded preceding)
  ), turns as (
    insert into awa.turns (turn_id, lane, group_id, waiting_id, is_again)
    select nextval('awa.turn_ids'), t.of_lane, t.of_group, t.waiting_id, is_again
      from (select * from dealt d where d.is_dealt order by d.rank, d.place) t
  ), gone as (
    delete from awa.group_states s where s.ctid = any(array(
      select s.ctid
        from awa.group_states s
       where s.ctid = any(array(select d.row_id from dealt d))
         for update skip locked -- fold may be removing it: it counts no more
    ))
  ), counted as materialized (
    select d.of_group, min(d.running) - min(d.freed_slots) as running, min(d.room) as room, min(d.seen) as seen,
           min(d.seen_in_front) as seen_in_front, bool_and(d.has_line) as has_line, bool_and(d.has_front) as has_front,
           min(d.taken) as taken, min(d.front_taken) as front_taken, min(d.holder) as holder,
           min(d.new_next_at) as next_at, min(d.turns_left) as turns_left, bool_and(d.is_paused) as is_paused,
           min(d.paused_until) as paused_until, (array_agg(d.rate))[1] as rate,
           (count(*) filter (where d.is_dealt))::int as turns,
           (count(*) filter (where d.is_dealt and d.waiting_id < 0))::int as turns_in_front,
           max(d.waiting_id) filter (where d.is_dealt and d.waiting_id >= 0) as last,
           max(d.waiting_id) filter (where d.is_dealt and d.waiting_id < 0) as last_in_front
      from dealt d
     group by d.of_group
  ), states as (
    insert into awa.group_states
      (shard, group_id, state_id, running, has_line, has_front, taken, front_taken, holder, next_at, rate_turns,
       opens_at)
    select shard, c.of_group, nextval('awa.state_ids'), c.running + c.turns, l.has_line, l.has_front,
           greatest(c.taken, c.last), greatest(c.front_taken, c.last_in_front), c.holder, c.next_at,
           c.turns_left + c.turns, case when l.has_line or l.has_front then
             awa._opens_at(c.is_paused, c.paused_until, c.rate, c.next_at, c.turns_left + c.turns, at) end
      from counted c
     cross join lateral (
        select c.has_line and (c.seen = c.room or c.turns < c.seen) as has_line,
               c.has_front and (c.seen_in_front = c.room or c.turns_in_front < c.seen_in_front) as has_front
      ) l
  )
  select coalesce(array_agg(distinct d.of_lane), '{}') into v_lanes from dealt d where d.is_dealt;
  return v_lanes;
end
$$;
comment on function awa._pass_turns is
  'Takes slots back into their groups, and gives each group that has a line, and room, its next turn';

-- The turns that groups may get: of each how many (room), and the first jobs in its line, up to so many.
-- each: how many turns a group may have; the second one, and later ones, only in in_lane. new_next_at, turns_left: the
-- time of its rate, and its turns, once those that have gone are counted. seen: how many jobs were found. Groups
-- without a change are left out.
-- Why: a query of SQL, which the planner puts in the place of its call.
create or replace function awa._line_heads(
  shard bigint,
  groups bigint[],
  freed int[],
  turns int[],
  each int,
  in_lane bigint,
  settings awa.queue_settings,
  has_own boolean,
  at timestamptz
) returns table (
  of_group bigint, freed_slots int, place bigint, row_id tid, running int, has_line boolean, has_front boolean,
  taken bigint, front_taken bigint, holder bigint, max_running int, rate jsonb, is_paused boolean,
  paused_until timestamptz, new_next_at timestamptz, turns_left int, room int, ids bigint[], lanes bigint[],
  sizes int[], seen int, seen_in_front int
)
language sql stable
as $$
  select k.of_group, k.freed_slots, k.place, k.row_id, k.running, k.has_line, k.has_front, k.taken, k.front_taken,
         k.holder, k.max_running, k.rate, k.is_paused, k.paused_until, k.new_next_at, k.turns_left, k.room, l.*
    from (
      select a.*, s.*, t.*, r.next_at as new_next_at, r.turns_left, greatest(case
               when t.is_paused or not (s.has_line or s.has_front) or s.holder is not null then 0
               else least(t.max_running - s.running + a.freed_slots,
                 awa._rate_allows(t.rate, r.next_at, at) - r.turns_left, each - r.turns_left)
             end, 0) as room
        from unnest(groups, freed, turns) with ordinality a(of_group, freed_slots, gone, place)
       cross join lateral awa._group_state(_line_heads.shard, a.of_group) s
       cross join lateral awa._group_terms(settings, _line_heads.shard >> 6, a.of_group, has_own, at) t
       cross join lateral (
          select case when a.gone > a.freed_slots then awa._rate_after(t.rate, s.next_at, at, a.gone - a.freed_slots)
                   else s.next_at end as next_at, greatest(s.rate_turns - a.gone, 0) as turns_left
        ) r
      offset 0
    ) k
   cross join lateral (
      select array_agg(w.waiting_id order by w.rank) filter (where w.rank = 1 or w.is_here) as ids,
             array_agg(w.lane order by w.rank) filter (where w.rank = 1 or w.is_here) as lanes,
             array_agg(w.body_bytes order by w.rank) filter (where w.rank = 1 or w.is_here) as sizes,
             count(*)::int as seen, (count(*) filter (where w.waiting_id < 0))::int as seen_in_front
        from (
          select w.*, row_number() over (order by w.waiting_id) as rank,
                 bool_and(w.lane = in_lane) over (order by w.waiting_id) as is_here
            from (
              (
                select w.waiting_id, w.lane, w.body_bytes
                  from awa.limited_jobs w
                 where w.shard = _line_heads.shard and w.group_id = k.of_group and w.waiting_id > k.front_taken
                   and w.waiting_id < 0
                 order by w.waiting_id
                 limit k.room
              )
              union all
              (
                select w.waiting_id, w.lane, w.body_bytes
                  from awa.limited_jobs w
                 where w.shard = _line_heads.shard and w.group_id = k.of_group and w.waiting_id > k.taken
                 order by w.waiting_id
                 limit k.room
              )
              limit k.room
            ) w
        ) w
    ) l
   where k.freed_slots > 0 or k.gone > 0 or k.room > 0
      or k.opens_at is distinct from case when k.has_line or k.has_front then
           awa._opens_at(k.is_paused, k.paused_until, k.rate, k.new_next_at, k.turns_left, at) end
$$;
comment on function awa._line_heads is
  'The turns that groups may get: of each how many (room), and the first jobs in its line, up to so many';
