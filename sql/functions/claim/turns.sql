-- Turns: which of the jobs that wait for their group begin next.
--
-- A turn holds a slot of its group. So to begin a job that has one takes no look at the group, and each job gets its
-- turn in the lane of its own priority.

-- Reads the slots of a shard that have come since a snapshot, up to another one.
-- Returns the groups to look at, and how many slots each has got back; those whose own limits have changed, which are
-- among them; how many slots of the queue; and whether there were any. looks, keeps and leaves: groups, with the job
-- that comes again for each, or the one that does not.
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
  out keeps bigint[],
  out leaves bigint[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
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
    returning s.of_queue, s.freed, s.looks, s.keeps, s.leaves, s.changed
  ), places as (
    select p.*
      from gone g
     cross join unnest(g.looks, g.keeps, g.leaves) p(group_id, keeps, leaves)
     where num_nonnulls(p.keeps, p.leaves) > 0
  )
  select count(*) > 0, coalesce(sum(g.of_queue), 0),
         array(select f from gone o cross join unnest(o.freed) f),
         array(select l from gone o cross join unnest(o.looks) l),
         array(select distinct c from gone o cross join unnest(o.changed) c),
         (select array_agg(p.group_id) from places p), (select array_agg(p.keeps) from places p),
         (select array_agg(p.leaves) from places p)
    into is_any, of_queue, v_freed, v_looks, changed, looks, keeps, leaves
    from gone g;
  groups := '{}';
  freed := '{}';
  if v_freed = '{}' and v_looks = '{}' and changed = '{}' then
    return;
  end if;
  select coalesce(array_agg(g.group_id), '{}'), coalesce(array_agg(g.freed), '{}') into groups, freed
    from (
      select g.group_id, sum(g.freed)::int as freed
        from (
        select f as group_id, 1 as freed from unnest(v_freed) f
        union all
        select l, 0 from unnest(v_looks || changed) l
      ) g
       group by 1
    ) g;
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

-- Takes slots back into their groups, and gives turns to the first ones in line, as far as there is room.
-- A group is named once. deals: whether it gives turns. At most 10,000 turns in all, or ten for each group; and of the
-- groups that got no slot back, it looks at 1,000 at most, any of them. The next claim goes on. Of a group that a rate,
-- or a pause, keeps closed, it notes when it opens. settings, has_own: see _group_terms.
-- Locks: the states that it replaces, tried.
create or replace function awa._give_turns(
  shard bigint,
  groups bigint[],
  freed int[],
  settings awa.queue_settings,
  has_own boolean,
  at timestamptz,
  deals boolean
) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_all record;
  v_later bigint[];
begin
  select array_agg(g.group_id) filter (where g.freed > 0) as freed_groups,
         array_agg(g.freed) filter (where g.freed > 0) as freed,
         array_agg(g.group_id order by random()) filter (where g.freed = 0 and deals) as others
    into v_all
    from (select g.group_id, sum(g.freed)::int as freed from unnest(groups, freed) g(group_id, freed) group by 1) g;
  with known as materialized (
    select a.group_id, a.freed, s.*, t.*, awa._rate_allows(t.rate, s.next_at, at) as allowed, case
             when not deals or t.is_paused or not (s.has_line or s.has_front) or s.holder is not null then 0
             else greatest(least(t.max_running - s.running + a.freed,
               awa._rate_allows(t.rate, s.next_at, at) - s.rate_turns, 10000), 0)
           end as room
      from (
        select g.group_id, g.freed from unnest(v_all.freed_groups, v_all.freed) g(group_id, freed)
        union all
        select g, 0 from unnest(v_all.others[:1000]) g
      ) a
     cross join lateral (
        select s.ctid as row_id, s.running, s.has_line, s.has_front, s.taken, s.front_taken, s.holder, s.next_at,
               s.rate_turns, s.opens_at
          from awa.group_states s
         where s.shard = shard and s.group_id = a.group_id
         order by s.state_id desc
         limit 1
      ) s
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
  ), turns as (
    insert into awa.turns (turn_id, lane, group_id, waiting_id)
    select nextval('awa.turn_ids'), t.lane, t.group_id, t.waiting_id
      from (
        select u.lane, d.group_id, u.waiting_id
          from dealt d
         cross join unnest(d.ids, d.lanes) u(waiting_id, lane)
         order by u.waiting_id
      ) t
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
  select array_agg(d.group_id) into v_later
    from dealt d
   where d.turns > 0 and d.turns = d.most and (d.running - d.freed + d.turns < d.max_running) is not false
     and (d.rate_turns + d.turns < d.allowed) is not false;
  v_later := v_later || v_all.others[1001:];
  if v_later <> '{}' then
    perform awa._look_again(shard, v_later);
  end if;
end
$$;
comment on function awa._give_turns is
  'Takes slots back into their groups, and gives turns to the first ones in line, as far as there is room';

-- Takes the turns of a shard back, all or those of some groups; returns these, or all groups that have a line.
-- The jobs with turns are first in line again.
-- Locks: the states that it replaces, tried.
-- Why: after a change of a limit. A turn that was given under a larger one would begin a job for which there is no
-- room any more.
create or replace function awa._take_turns_back(shard bigint, groups bigint[] default null) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
begin
  with back as (
    delete from awa.turns t
     where t.lane between shard << 3 and shard << 3 | 7 and (groups is null or t.group_id = any(groups))
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
     cross join lateral (
        select s.ctid as row_id, s.running, s.has_line, s.has_front, s.taken, s.front_taken, s.holder, s.next_at,
               s.opens_at
          from awa.group_states s
         where s.shard = shard and s.group_id = b.of_group
         order by s.state_id desc
         limit 1
      ) s
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

-- The next turns of a lane, after one and up to another one, whose jobs can begin: as many as fit.
-- Returns the places of these jobs, whose rows it has locked, their groups, once for each, and their bytes; the groups
-- of turns whose jobs have gone, or have expired, once for each; and the last turn: null where there is none, 0 where
-- the next job does not fit.
-- A turn whose job another session is changing comes last in its lane.
-- Locks: the rows of these jobs, tried.
create or replace function awa._next_turns(
  lane bigint,
  after_id bigint,
  until_id bigint,
  room int,
  room_bytes bigint,
  row_bytes int,
  at timestamptz,
  is_first boolean,
  out waiting_ids bigint[],
  out groups bigint[],
  out bytes bigint,
  out void bigint[],
  out last_id bigint
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_turns record;
  v_size int;
  v_locked bigint[];
begin
  select array_agg(t.turn_id order by t.turn_id) as ids, array_agg(t.waiting_id order by t.turn_id) as waiting_ids,
         array_agg(t.group_id order by t.turn_id) as groups, array_agg(t.size order by t.turn_id) as sizes,
         array_agg(t.expired order by t.turn_id) as expired
    into v_turns
    from (
      select t.turn_id, t.waiting_id, t.group_id, case when w.is_expired then w.job_id end as expired,
             case when not w.is_expired then w.body_bytes + row_bytes end as size -- null where it is not to begin
        from (
          select *
            from awa.turns t
           where t.lane = lane and t.turn_id > after_id and t.turn_id <= until_id
           order by t.turn_id
           limit room
        ) t
        left join lateral (
          select w.job_id, w.body_bytes, awa._is_expired(w.expires_at, w.attempt, at) as is_expired
            from awa.limited_jobs w
           where w.waiting_id = t.waiting_id
           limit 1
        ) w on true
    ) t;
  if v_turns.ids is null then
    return;
  end if;
  v_size := awa._fitting(v_turns.sizes, room_bytes, room, is_first);
  if v_size = 0 then
    last_id := 0;
    return;
  end if;
  last_id := v_turns.ids[v_size];
  v_locked := array(
    select w.waiting_id
      from unnest(v_turns.waiting_ids[1:v_size]) t(waiting_id)
     cross join lateral (
        select w.waiting_id from awa.limited_jobs w where w.waiting_id = t.waiting_id limit 1 for update skip locked
      ) w);
  perform awa._expire_limited(array(
    select t.job_id
      from unnest(v_turns.expired[1:v_size], v_turns.waiting_ids[1:v_size]) t(job_id, waiting_id)
     where t.job_id is not null and t.waiting_id in (select unnest(v_locked))));
  with turns as materialized (
    select t.turn_id, t.waiting_id, t.group_id, t.size,
           t.waiting_id in (select unnest(v_locked)) and t.size is not null as begins,
           (select true from awa.limited_jobs w where w.waiting_id = t.waiting_id limit 1) is true as is_there
      from unnest(v_turns.ids[1:v_size], v_turns.waiting_ids[1:v_size], v_turns.groups[1:v_size],
             v_turns.sizes[1:v_size]) t(turn_id, waiting_id, group_id, size)
  ), gone as (
    delete from awa.turns t where t.lane = lane and t.turn_id = any(v_turns.ids[1:v_size])
  ), put_back as (
    insert into awa.turns (turn_id, lane, group_id, waiting_id)
    select nextval('awa.turn_ids'), lane, t.group_id, t.waiting_id from turns t where t.is_there and not t.begins
  )
  select coalesce(array_agg(t.waiting_id order by t.turn_id) filter (where t.begins), '{}'),
         coalesce(array_agg(t.group_id) filter (where t.begins), '{}'),
         coalesce(sum(t.size) filter (where t.begins), 0),
         coalesce(array_agg(t.group_id) filter (where not t.is_there), '{}')
    into waiting_ids, groups, bytes, void
    from turns t;
end
$$;
comment on function awa._next_turns is
  'The next turns of a lane, after one and up to another one, whose jobs can begin: as many as fit';

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
     cross join lateral (
        select s.ctid as row_id, s.running, s.has_line, s.has_front, s.taken, s.front_taken, s.holder, s.next_at,
               s.rate_turns, s.opens_at
          from awa.group_states s
         where s.shard = shard and s.group_id = a.of_group
         order by s.state_id desc
         limit 1
      ) s
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
-- The caller has locked their rows. claim: the row to append, but for what depends on the jobs. one_by_one: each has a
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
        perform awa._put_off_turn(v_waiting_id, sqlerrm, sqlstate);
      end;
    end loop;
    return;
  end if;
  claim.lane := shard << 3 | 7;
  claim.lane_seq := (awa._open_window(claim.segment, claim.lane, now, false)).lane_seq + 1;
  claim.first_xid := v_xid;
  claim.pos_xid := v_xid;
  claim.hi := format('%s:%s:', v_end, v_end); -- all that ever was here is claimed
  perform awa._use_lanes(array[claim.lane], queue);
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
                 array_agg(b.group_id order by b.ordinality) as groups,
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
