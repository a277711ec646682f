-- Turns: which of the jobs that wait for their group begin next.
--
-- A turn holds a slot of its group. So to begin a job that has one takes no look at the group, and each job gets its
-- turn in the lane of its own priority.

-- Takes slots back into their groups, and deals turns to the first ones in line, as far as there is room.
-- Returns the turns, which have no ids yet, in the order of these jobs. A group is named once. deals: whether it deals
-- any. At most 10,000 turns in all, or ten for each group; and of the groups that got no slot back, it looks at 1,000
-- at most, any of them. The next claim goes on. Of a group that a rate, or a pause, keeps closed, it notes when it
-- opens. settings, has_own: see _group_terms.
-- Locks: the states that it replaces, tried.
create or replace function awa._deal_turns(
  shard bigint, groups bigint[], freed int[],
  settings awa.queue_settings, has_own boolean, at timestamptz, deals boolean
) returns awa.turns[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_dealt awa.turns[];
  v_later bigint[];
begin
  if cardinality(groups) < 5 then
    select b.groups, b.freed into groups, freed from awa._take_slots_back(shard, groups, freed, deals) b;
    if groups = '{}' then
      return '{}';
    end if;
  elsif cardinality(groups) > 1000 then
    select array_agg(g.group_id) filter (where g.is_in), array_agg(g.freed) filter (where g.is_in),
           array_agg(g.group_id) filter (where deals and not g.is_in)
      into groups, freed, v_later
      from (
        select u.g as group_id, sum(u.f)::int as freed,
               sum(u.f) > 0 or row_number() over (partition by sum(u.f) > 0 order by random()) <= 1000 as is_in
          from unnest(groups, freed) u(g, f)
         group by u.g
      ) g;
  end if;
  with known as materialized (
    select a.group_id, a.freed, s.*, t.*, awa._rate_allows(t.rate, s.next_at, at) as allowed, case
             when not deals or t.is_paused or not (s.has_line or s.has_front) or s.holder is not null then 0
             else greatest(least(t.max_running - s.running + a.freed,
               awa._rate_allows(t.rate, s.next_at, at) - s.rate_turns, 10000), 0)
           end as room
      from (
        select g.group_id, sum(g.freed)::int as freed from unnest(groups, freed) g(group_id, freed) group by 1
      ) a
     cross join lateral awa._group_state(shard, a.group_id) s
     cross join lateral awa._group_terms(settings, shard >> 6, a.group_id, has_own, at) t
  ), bounded as materialized (
    select k.*, least(k.room, (select greatest(10000 / nullif(count(*), 0), 10) from known k where k.room > 0)) as most
      from known k
     where k.freed > 0 or k.room > 0
        or deals and k.opens_at is distinct from case
             when k.has_line or k.has_front
               then awa._opens_at(k.is_paused, k.paused_until, k.rate, k.next_at, k.rate_turns, at)
           end
  ), dealt as materialized (
    select b.*, h.ids, h.lanes, coalesce(cardinality(h.ids), 0) as turns,
           (select max(i) from unnest(h.ids) i where i >= 0) as last,
           (select max(i) from unnest(h.ids) i where i < 0) as last_in_front
      from bounded b
     cross join lateral (
        select array_agg(h.waiting_id) as ids, array_agg(h.lane) as lanes
          from (
            (
              select w.waiting_id, w.lane
                from awa.limited_jobs w
               where w.shard = shard and w.group_id = b.group_id and w.waiting_id > b.front_taken and w.waiting_id < 0
               order by w.waiting_id
               limit b.most
            )
            union all
            (
              select w.waiting_id, w.lane
                from awa.limited_jobs w
               where w.shard = shard and w.group_id = b.group_id and w.waiting_id > b.taken
               order by w.waiting_id
               limit b.most
            )
            limit b.most
          ) h
      ) h
  ), gone as (
    delete from awa.group_states s where s.ctid = any(array(
      select s.ctid
        from awa.group_states s
       where s.ctid = any(array(select d.row_id from dealt d))
         for update skip locked -- fold may be removing it: it counts no more
    ))
  ), states as (
    insert into awa.group_states
      (shard, group_id, state_id, running, has_line, has_front, taken, front_taken, holder, next_at, rate_turns,
       opens_at)
    select shard, d.group_id, nextval('awa.state_ids'), d.running - d.freed + d.turns, l.has_line, l.has_front,
           greatest(d.taken, d.last), greatest(d.front_taken, d.last_in_front), d.holder, d.next_at, l.rate_turns,
           case
             when not deals then d.opens_at
             when l.has_line or l.has_front
               then awa._opens_at(d.is_paused, d.paused_until, d.rate, d.next_at, l.rate_turns, at)
           end
      from dealt d
     cross join lateral (
        select d.has_line and d.turns = d.most as has_line,
               d.has_front and (d.most = 0 or d.last is null and d.turns = d.most) as has_front,
               d.rate_turns + case when d.rate is null then 0 else d.turns end as rate_turns
      ) l
  )
  select (
           select array_agg((0, u.lane, d.group_id, u.waiting_id, false)::awa.turns order by u.waiting_id)
             from dealt d
            cross join unnest(d.ids, d.lanes) u(waiting_id, lane)
         ),
         v_later || array_agg(d.group_id) filter (
           where d.turns > 0 and d.turns = d.most and (d.running - d.freed + d.turns < d.max_running) is not false
             and (d.rate_turns + d.turns < d.allowed) is not false)
    into v_dealt, v_later
    from dealt d;
  if v_later <> '{}' then
    perform awa._look_again(shard, v_later);
  end if;
  return coalesce(v_dealt, '{}');
end
$$;
comment on function awa._deal_turns is
  'Takes slots back into their groups, and deals turns to the first ones in line, as far as there is room';

-- Takes slots back into groups that have no line; returns the others, for _deal_turns.
-- Why: where few slots have come back, as when jobs are claimed one by one, the statement of _deal_turns takes several
-- times as long. A group that holds a slot is not idle: no fold removes its state.
create or replace function awa._take_slots_back(
  shard bigint,
  inout groups bigint[],
  inout freed int[],
  deals boolean
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_groups bigint[] := '{}';
  v_freed int[] := '{}';
  v_state record;
begin
  for i in 1..cardinality(groups) loop
    select s.*, s.has_line or s.has_front or s.holder is not null as has_others into v_state
      from awa._group_state(shard, groups[i]) s;
    if freed[i] = 0 or v_state.has_others then
      v_groups := v_groups || groups[i];
      v_freed := v_freed || freed[i];
    elsif found then
      insert into awa.group_states
        (shard, group_id, state_id, running, has_line, has_front, taken, front_taken, holder, next_at, rate_turns,
         opens_at)
      values (shard, groups[i], nextval('awa.state_ids'), v_state.running - freed[i], false, false, v_state.taken,
        v_state.front_taken, null, v_state.next_at, v_state.rate_turns, case when not deals then v_state.opens_at end);
      delete from awa.group_states s where s.ctid = v_state.row_id;
    end if;
  end loop;
  groups := v_groups;
  freed := v_freed;
end
$$;
comment on function awa._take_slots_back is
  'Takes slots back into groups that have no line; returns the others, for _deal_turns';

-- Writes turns that were dealt, and not served, for the claims to come.
create or replace function awa._store_turns(turns awa.turns[]) returns void
language plpgsql
as $$
begin
  insert into awa.turns (turn_id, lane, group_id, waiting_id)
  select nextval('awa.turn_ids'), t.lane, t.group_id, t.waiting_id from unnest(turns) t;
end
$$;
comment on function awa._store_turns is 'Writes turns that were dealt, and not served, for the claims to come';

-- Takes the turns of a shard back, all or those of some groups; returns these, or all groups that have a line.
-- The jobs with turns are first in line again. Jobs without a group keep theirs.
-- Locks: the states that it replaces, tried.
-- Why: after a change of a limit. A turn that was given under a larger one would begin a job for which there is no
-- room any more. It begins behind the turns that were served, whose rows a transaction elsewhere may keep.
create or replace function awa._take_turns_back(shard bigint, groups bigint[] default null) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
begin
  with back as (
    delete from awa.turns t where t.ctid = any(array(
      select t.ctid
        from unnest((awa._shard_state(shard)).turns_until) with ordinality u(turn_id, n)
       cross join lateral (
          select t.ctid, t.group_id
            from awa.turns t
           where t.lane = (shard << 3) + u.n - 1 and t.turn_id > u.turn_id
          offset 0
        ) t
       where case when groups is null then t.group_id is not null else t.group_id = any(groups) end
    ))
    returning t.group_id, t.waiting_id
  ), known as materialized (
    select b.*, s.*
      from (
        select b.group_id as of_group, count(*)::int as turns,
               min(b.waiting_id) filter (where b.waiting_id >= 0) as first,
               min(b.waiting_id) filter (where b.waiting_id < 0) as first_in_front
          from back b
         group by b.group_id
      ) b
     cross join lateral awa._group_state(shard, b.of_group) s
  ), gone as (
    delete from awa.group_states s where s.ctid = any(array(
      select s.ctid
        from awa.group_states s
       where s.ctid = any(array(select k.row_id from known k))
         for update skip locked -- fold may be removing it: it counts no more
    ))
  )
  insert into awa.group_states
    (shard, group_id, state_id, running, has_line, has_front, taken, front_taken, holder, next_at, rate_turns,
     opens_at)
  select shard, k.of_group, nextval('awa.state_ids'), k.running - k.turns, k.has_line or k.first is not null,
         k.has_front or k.first_in_front is not null, least(k.taken, k.first - 1),
         least(k.front_taken, k.first_in_front - 1), k.holder, k.next_at, 0, k.opens_at
    from known k;
  return coalesce(groups, array(
    select distinct s.group_id from awa.group_states s where s.shard = shard and (s.has_line or s.has_front)));
end
$$;
comment on function awa._take_turns_back is
  'Takes the turns of a shard back, all or those of some groups; returns these, or all groups that have a line';

-- The next turns of a lane whose jobs can begin: those that wait, after one and up to another one, then those dealt.
-- As many as fit, 450 at most; where is_stuck, it looks at 450. A turn whose job another session is changing comes last
-- in its lane.
-- Returns the places of these jobs, whose rows it has locked, their groups, once for each, and their bytes; the groups
-- of turns whose jobs have gone, or have expired, once for each; the last of the turns that waited; whether the next
-- job does not fit, and nothing was done; whether no turns are left in the lane; and the turns that were dealt and are
-- left.
-- Locks: the rows of these jobs, tried.
create or replace function awa._next_turns(
  lane bigint,
  after_id bigint,
  until_id bigint,
  dealt awa.turns[],
  is_stuck boolean,
  room int,
  room_bytes bigint,
  row_bytes int,
  at timestamptz,
  is_first boolean,
  out waiting_ids bigint[],
  out groups bigint[],
  out bytes bigint,
  out void bigint[],
  out last_id bigint,
  out is_full boolean,
  out is_read boolean,
  out left_over awa.turns[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_turns record;
  v_size int;
  v_looks int;
begin
  room := least(room, 450);
  v_looks := case when is_stuck then 450 else room end;
  select array_agg(t.turn_id) as ids, array_agg(t.waiting_id) as waiting_ids, array_agg(t.group_id) as groups,
         array_agg(t.size) as sizes, array_agg(t.expired) as expired, max(t.turn_id) as last_id,
         count(*)::int as turns, count(t.size) as ready, coalesce(sum(t.size), 0) as bytes
    into v_turns
    from (
      select t.turn_id, t.waiting_id, t.group_id, case when w.is_expired then w.job_id end as expired,
             case when not w.is_expired then w.body_bytes + row_bytes end as size -- null where it is not to begin
        from (
          select *
            from (
              (
                select t.turn_id, t.waiting_id, t.group_id
                  from awa.turns t
                 where t.lane = lane and t.turn_id > after_id and t.turn_id <= until_id
                 order by t.turn_id
                 limit v_looks
              )
              union all
              select null, d.waiting_id, d.group_id from unnest(dealt) d where d.lane = lane
            ) t
           order by t.turn_id, t.waiting_id
           limit v_looks
        ) t
        left join lateral (
          select w.job_id, w.body_bytes, awa._is_expired(w.expires_at, w.attempt, at) as is_expired
            from awa.limited_jobs w
           where w.waiting_id = t.waiting_id
           limit 1
             for update skip locked
        ) w on true
       order by t.turn_id, t.waiting_id
    ) t;
  void := '{}';
  if v_turns.ready = v_turns.turns and v_turns.turns <= room and v_turns.bytes <= room_bytes then -- most often
    v_size := v_turns.turns;
    last_id := coalesce(v_turns.last_id, after_id);
    waiting_ids := coalesce(v_turns.waiting_ids, '{}');
    groups := coalesce(v_turns.groups, '{}');
    bytes := v_turns.bytes;
    if v_turns.last_id is not null then
      delete from awa.turns t where t.lane = lane and t.turn_id = any(v_turns.ids);
    end if;
  else
    v_size := awa._fitting(v_turns.sizes, room_bytes, room, is_first);
    perform awa._expire_limited(array_remove(v_turns.expired[1:v_size], null), at + awa._budget('100 milliseconds', 4));
    with turns as materialized (
      select t.turn_id, t.waiting_id, t.group_id, t.size,
             (select true from awa.limited_jobs w where w.waiting_id = t.waiting_id limit 1) is true as is_there
        from unnest(v_turns.ids[1:v_size], v_turns.waiting_ids[1:v_size], v_turns.groups[1:v_size],
               v_turns.sizes[1:v_size]) t(turn_id, waiting_id, group_id, size)
    ), gone as (
      delete from awa.turns t where t.lane = lane and t.turn_id = any(v_turns.ids[1:v_size])
    ), put_back as (
      insert into awa.turns (turn_id, lane, group_id, waiting_id)
      select nextval('awa.turn_ids'), lane, t.group_id, t.waiting_id from turns t where t.is_there and t.size is null
    )
    select coalesce(array_agg(t.waiting_id order by t.turn_id, t.waiting_id) filter (where t.size is not null), '{}'),
           coalesce(array_agg(t.group_id) filter (where t.size is not null), '{}'), coalesce(sum(t.size), 0),
           coalesce(array_agg(t.group_id) filter (where not t.is_there), '{}'),
           coalesce(max(t.turn_id), after_id)
      into waiting_ids, groups, bytes, void, last_id
      from turns t;
  end if;
  is_full := v_size = 0 and v_turns.turns > 0;
  is_read := v_size = v_turns.turns and v_turns.turns < v_looks;
  left_over := array(
    select d
      from unnest(dealt) d
     where d.lane <> lane or not is_read and d.waiting_id not in (select unnest(v_turns.waiting_ids[1:v_size])));
end
$$;
comment on function awa._next_turns is
  'The next turns of a lane whose jobs can begin: those that wait, after one and up to another one, then those dealt';

-- Counts turns of groups with a rate that were served: of the jobs that begin, and of those that have gone.
-- Groups are named once for each.
-- Locks: the states that it replaces, tried.
create or replace function awa._count_served(
  shard bigint,
  begun bigint[],
  void bigint[],
  settings awa.queue_settings,
  has_own boolean,
  at timestamptz
) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  with served as materialized (
    select a.turns, a.jobs, a.of_group, s.*, t.rate
      from (
        select g.of_group, count(*)::int as turns, sum(g.jobs)::int as jobs
          from (select b as of_group, 1 as jobs from unnest(begun) b union all select v, 0 from unnest(void) v) g
         group by g.of_group
      ) a
     cross join lateral awa._group_state(shard, a.of_group) s
     cross join lateral awa._group_terms(settings, shard >> 6, a.of_group, has_own, at) t
     where s.rate_turns > 0
  ), gone as (
    delete from awa.group_states s where s.ctid = any(array(
      select s.ctid
        from awa.group_states s
       where s.ctid = any(array(select d.row_id from served d))
         for update skip locked -- fold may be removing it: it counts no more
    ))
  )
  insert into awa.group_states
    (shard, group_id, state_id, running, has_line, has_front, taken, front_taken, holder, next_at, rate_turns,
     opens_at)
  select shard, d.of_group, nextval('awa.state_ids'), d.running, d.has_line, d.has_front, d.taken, d.front_taken,
         d.holder, awa._rate_after(d.rate, d.next_at, at, d.jobs), greatest(d.rate_turns - d.turns, 0), d.opens_at
    from served d;
end
$$;
comment on function awa._count_served is
  'Counts turns of groups with a rate that were served: of the jobs that begin, and of those that have gone';

-- Begins jobs that have turns: moves them into the log, to the lane of turns of their shard, as entries of one claim.
-- The caller has locked their rows. claim: the row to append, without the values of its jobs. one_by_one: each has a
-- claim of its own, and one that the server refuses, because of a user's trigger, is put off; but not for a resource
-- that the server lacks.
-- Why: the entries come with their claim, so no cursor comes to them. From then on each is an attempt as any other.
create or replace function awa._begin_turns(
  queue text,
  shard bigint,
  now pg_snapshot,
  waiting_ids bigint[],
  claim awa.lease_claims,
  one_by_one boolean
) returns setof awa.claimed_job_row
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_xid constant xid8 := pg_current_xact_id();
  v_end bigint := greatest(pg_snapshot_xmax(now)::text::bigint, v_xid::text::bigint + 1);
  v_waiting_id bigint;
  v_refused bigint[] := '{}';
  v_refusal text;
begin
  if one_by_one then
    foreach v_waiting_id in array waiting_ids loop
      begin
        return query select * from awa._begin_turns(queue, shard, now, array[v_waiting_id], claim, false);
      exception when others then
        if awa._is_passing(sqlstate) or not awa._is_about_a_row(sqlstate) or awa._lack(sqlerrm, sqlstate) is not null
        then
          raise;
        end if;
        v_refusal := coalesce(v_refusal, awa._refusal(sqlerrm, sqlstate));
        v_refused := v_refused || awa._put_off_turn(v_waiting_id, sqlerrm, sqlstate);
      end;
    end loop;
    perform awa._warn_refused(v_refused, 'can''t begin', v_refusal);
    return;
  end if;
  claim.lane := shard << 3 | 7;
  claim.lane_seq := (awa._open_window(claim.segment, claim.lane, now, false)).lane_seq + 1;
  claim.first_xid := v_xid;
  claim.pos_xid := v_xid;
  claim.hi := format('%s:%s:', v_end, v_end); -- all that ever was here is claimed
  if (
    select true
      from awa.queues q
     where q.queue_id = shard >> 6 and q.lane = claim.lane and q.dropped_at is null
     limit 1) is null
  then
    perform awa._use_lanes(array[claim.lane], queue);
  end if;
  return query
    with gone as (
      delete from awa.limited_jobs w where w.waiting_id = any(waiting_ids) returning w.*
    ), begun as materialized (
      select g.*, row_number() over (order by g.waiting_id) as ordinality from gone g
    ), entries as (
      insert into awa.ready_entries
        (segment, lane, job_id, ready_at, priority, attempt, max_attempts, body_bytes, unique_key, kind, args, tags,
         metadata, group_key, expires_at, created_at, progress, errors)
      select claim.segment, claim.lane, b.job_id, b.ready_at, b.lane & 7, b.attempt, b.max_attempts, b.body_bytes,
             b.unique_key, b.kind, b.args, b.tags, b.metadata, b.group_key, b.expires_at, b.created_at, b.progress,
             b.errors
        from begun b
    ), appended as materialized (
      select awa._append_claim(
               (nextval('awa.claim_ids'), claim.lane, claim.lane_seq, v_xid, f.first_id, v_xid, f.last_id,
                claim.claimed_at, claim.lease_until, claim.deadline_at, claim.worker_id, claim.segment,
                least(f.bytes, 2147483647), f.holds_keys, claim.hi, null, f.job_ids, f.groups,
                claim.holds_queue)::awa.lease_claims,
               case when f.holds_keys then f.keys end) as claim_id
        from (
          select min(b.job_id) as first_id, max(b.job_id) as last_id,
                 sum(b.body_bytes + awa._row_bytes(queue)) as bytes,
                 array_agg(b.job_id order by b.ordinality) as job_ids,
                 case when bool_or(b.group_id is not null) then array_agg(b.group_id order by b.ordinality)
                 end as groups,
                 array_agg(b.unique_key order by b.ordinality) as keys, bool_or(b.unique_key is not null) as holds_keys
            from begun b
        ) f
       where f.job_ids is not null
    )
    select b.job_id, c.claim_id << 12 | (b.ordinality - 1), queue, b.kind, b.args, (b.lane & 7)::int, b.attempt::int,
           b.max_attempts::int, b.created_at, b.ready_at, claim.deadline_at, b.tags, b.metadata, b.progress,
           b.group_key, b.expires_at
      from appended c
     cross join begun b;
end
$$;
comment on function awa._begin_turns is
  'Begins jobs that have turns: moves them into the log, to the lane of turns of their shard, as entries of one claim';
