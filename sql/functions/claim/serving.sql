-- Serving turns where groups are served by turns: which jobs of a lane begin next.

-- The next turns of a lane, after one, whose jobs can begin: as many as fit, 450 at most.
-- is_stuck: it looks at 450 turns. most_again: how many of them may be of groups that were served before.
-- Returns waiting_ids and groups, one of each for a job, whose row it has locked, and the bytes of these jobs; void:
-- the groups of turns whose jobs have gone, or have expired, once for each; last_id: the last turn, null where there is
-- none, 0 where the next job does not fit; again: how many are of groups that were served before; is_last: no turns
-- are left.
-- A turn whose job another session is changing comes last in its lane.
-- Locks: the rows of these jobs, tried.
create or replace function awa._next_by_turns(
  lane bigint,
  after_id bigint,
  is_stuck boolean,
  room int,
  room_bytes bigint,
  row_bytes int,
  at timestamptz,
  is_first boolean,
  most_again int default null,
  out waiting_ids bigint[],
  out groups bigint[],
  out bytes bigint,
  out void bigint[],
  out last_id bigint,
  out again int,
  out is_last boolean
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
  select array_agg(t.turn_id order by t.turn_id) as ids, array_agg(t.waiting_id order by t.turn_id) as waiting_ids,
         array_agg(t.group_id order by t.turn_id) as groups, array_agg(t.size order by t.turn_id) as sizes,
         array_agg(t.expired order by t.turn_id) as expired, array_agg(t.is_again order by t.turn_id) as again
    into v_turns
    from (
      select t.turn_id, t.waiting_id, t.group_id, t.is_again, case when w.is_expired then w.job_id end as expired,
             case when not w.is_expired then w.body_bytes + row_bytes end as size -- null where it is not to begin
        from (
          select t.*, count(*) filter (where t.is_again) over (order by t.turn_id) as again_through
            from (
              select *
                from awa.turns t
               where t.lane = lane and t.turn_id > after_id
               order by t.turn_id
               limit v_looks
            ) t
        ) t
        left join lateral (
          select w.job_id, w.body_bytes, awa._is_expired(w.expires_at, w.attempt, at) as is_expired
            from awa.limited_jobs w
           where w.waiting_id = t.waiting_id
           limit 1
             for update skip locked
        ) w on true
       where (t.again_through <= most_again) is not false
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
  perform awa._expire_limited(array_remove(v_turns.expired[1:v_size], null), at + awa._budget('100 milliseconds', 4));
  with turns as materialized (
    select t.turn_id, t.waiting_id, t.group_id, t.size, t.is_again,
           t.size is not null as begins,
           (select true from awa.limited_jobs w where w.waiting_id = t.waiting_id limit 1) is true as is_there
      from unnest(v_turns.ids[1:v_size], v_turns.waiting_ids[1:v_size], v_turns.groups[1:v_size],
             v_turns.sizes[1:v_size], v_turns.again[1:v_size]) t(turn_id, waiting_id, group_id, size, is_again)
  ), gone as (
    delete from awa.turns t where t.lane = lane and t.turn_id = any(v_turns.ids[1:v_size])
  ), put_back as (
    insert into awa.turns (turn_id, lane, group_id, waiting_id, is_again)
    select nextval('awa.turn_ids'), lane, t.group_id, t.waiting_id, t.is_again
      from turns t
     where t.is_there and not t.begins
  )
  select coalesce(array_agg(t.waiting_id order by t.turn_id) filter (where t.begins), '{}'),
         coalesce(array_agg(t.group_id order by t.turn_id) filter (where t.begins), '{}'),
         coalesce(sum(t.size) filter (where t.begins), 0),
         coalesce(array_agg(t.group_id) filter (where not t.is_there), '{}'),
         count(*) filter (where t.begins and t.is_again), v_size = cardinality(v_turns.ids) and v_size < v_looks
    into waiting_ids, groups, bytes, void, again, is_last
    from turns t;
end
$$;
comment on function awa._next_by_turns is
  'The next turns of a lane, after one, whose jobs can begin: as many as fit, 450 at most';

-- Of groups, those that got slots back, and a thousand others, any of them. The next claim looks at the rest.
create or replace function awa._first_thousand(
  shard bigint,
  inout groups bigint[],
  inout freed int[],
  out turns int[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_others bigint[] := array(
    select g.group_id
      from unnest(groups, freed) g(group_id, freed)
     where g.freed = 0
     order by random());
  v_freed record;
begin
  select array_agg(g.group_id) as groups, array_agg(g.freed) as freed into v_freed
    from unnest(groups, freed) g(group_id, freed)
   where g.freed > 0;
  perform awa._look_again(shard, v_others[1001:]) where cardinality(v_others) > 1000;
  groups := v_freed.groups || v_others[:1000];
  freed := v_freed.freed || array_fill(0, array[cardinality(v_others[:1000])]);
  turns := array_fill(0, array[cardinality(groups)]);
end
$$;
comment on function awa._first_thousand is
  'Of groups, those that got slots back, and a thousand others, any of them. The next claim looks at the rest';

-- Of the groups of jobs that had turns up to one in a lane, those that have none later there.
-- The others could neither begin nor be put off: they keep their turns (_put_off_turn).
create or replace function awa._without_turns(
  lane bigint,
  last_id bigint,
  waiting_ids bigint[],
  groups bigint[]
) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_with_turn bigint[] := array(
    select t.waiting_id
      from awa.turns t
     where t.lane = lane and t.turn_id > last_id and t.waiting_id = any(waiting_ids));
begin
  return array(
    select g.group_id
      from unnest(waiting_ids, groups) with ordinality g(waiting_id, group_id, n)
     where g.waiting_id <> all(v_with_turn)
     order by g.n);
end
$$;
comment on function awa._without_turns is
  'Of the groups of jobs that had turns up to one in a lane, those that have none later there';
