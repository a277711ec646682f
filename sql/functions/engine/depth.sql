-- Back pressure: whether a queue is deeper than its max_depth.

-- Whether a queue has room by the last look at its depth; or had, until so many ids ago.
-- A look is good for the next ids of jobs, as many as a 32nd of max_depth. All queues draw these ids, so they run out
-- sooner where jobs go to other queues. The planner puts the expression in the place of the call.
-- note: queue_settings.depth_note, null for none.
-- Why: a look reads at most about as many entries as max_depth, so it costs each job at most 32. A sequence is seen by
-- all producers at once, and none of them waits. Its number is valid only near the present ids, and names the queue: so
-- neither another max_depth, nor a restore, nor another queue with this note leaves one that allows too much.
create or replace function awa._has_room(queue_id bigint, max_depth int, note int, ago int default 0) returns boolean
language sql
as $$
  select pg_sequence_last_value(('awa.room_' || to_hex(note))::regclass) - ((queue_id & 524287) << 43)
    - coalesce(pg_sequence_last_value('awa.job_ids'::regclass), 0) between - ago and max_depth / 32 - 1 - ago
$$;
comment on function awa._has_room is
  'Whether a queue has room by the last look at its depth; or had, until so many ids ago';

-- Refuses a new job where more jobs of the queue are ready than max_depth.
-- Locks: the look at this depth, tried. While another transaction has it, jobs are taken without a look, for a 32nd of
-- max_depth more.
-- Raises JQ006.
-- Why: jobs whose ids are drawn before the look, and committed after it, are not seen. So the last id is read first.
-- Without the lock, all producers of a queue would look at the same time.
create or replace function awa._check_depth(queue text, queue_id bigint, max_depth int, note int) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_last_id bigint;
  v_depth bigint;
begin
  if awa._has_room(queue_id, max_depth, note)
    or awa._has_room(queue_id, max_depth, note, max_depth / 32)
      and not pg_try_advisory_xact_lock(awa._look_key(queue_id))
  then
    return;
  end if;
  v_last_id := coalesce(pg_sequence_last_value('awa.job_ids'::regclass), 0);
  v_depth := awa._depth(queue_id, max_depth);
  if v_depth > max_depth then
    raise exception using errcode = 'JQ006', message = 'the queue is deeper than its max_depth',
      detail = format('Queue %s has %s jobs ready or more, and its max_depth is %s.', queue, v_depth, max_depth),
      hint = 'Try again when workers have claimed some of them; or change max_depth with configure_queue.';
  elsif max_depth >= 32 then
    perform setval(('awa.room_' || to_hex(note))::regclass,
      ((queue_id & 524287) << 43) | ((v_last_id + max_depth / 32 - 1) & 8796093022207));
  end if;
end
$$;
comment on function awa._check_depth is 'Refuses a new job where more jobs of the queue are ready than max_depth';

-- Refuses a new job as _check_depth does, where the queue has a max_depth.
-- Raises JQ006.
create or replace function awa._check_depth_of(queue text) returns void
language plpgsql
as $$
begin
  perform awa._check_depth(queue, s.queue_id, s.max_depth, s.depth_note)
     from awa.queue_settings s
    where s.queue_id = awa._queue_id(queue) and s.max_depth is not null;
end
$$;
comment on function awa._check_depth_of is 'Refuses a new job as _check_depth does, where the queue has a max_depth';

-- Those of the queues to which a new job would be refused.
-- A queue whose look fails is taken for one that is not full: an error there must not stop the others. Where another
-- session is in the way, so are those that come after it, since each look may wait for as long.
create or replace function awa._full_queues(queues text[]) returns text[]
language plpgsql
as $$
declare
  v_full text[] := '{}';
  v_queue record;
begin
  for v_queue in
    select q.queue, s.queue_id, s.max_depth, s.depth_note
      from unnest(queues) q(queue)
     cross join lateral (
        select s.queue_id, s.max_depth, s.depth_note
          from awa.queue_settings s
         where s.queue_id = awa._queue_id(q.queue) and s.max_depth is not null
        offset 0
      ) s
     where awa._has_room(s.queue_id, s.max_depth, s.depth_note) is not true
  loop
    begin
      if awa._depth(v_queue.queue_id, v_queue.max_depth) > v_queue.max_depth then
        v_full := v_full || v_queue.queue;
      end if;
    exception when others then
      exit when awa._is_passing(sqlstate);
    end;
  end loop;
  return v_full;
end
$$;
comment on function awa._full_queues is 'Those of the queues to which a new job would be refused';

-- How many jobs of a queue are ready; or, where they are more than max_depth, some number that is larger, too.
-- Adds to the counts the rows that came since, where these are few. Otherwise goes through the entries that no cursor
-- has passed.
-- Why: the first takes long where many have come since maintenance counted, the second where the queue is deep.
create or replace function awa._depth(queue_id bigint, max_depth int) returns bigint
language plpgsql
as $$
declare
  v_most constant int := least(max_depth, 100000);
  v_limited bigint; -- those that wait for their groups
  v_depth bigint;
begin
  select count(*) into v_limited
    from (
      select
        from awa.limited_jobs w
       where w.lane between awa._first_lane(queue_id) and awa._last_lane(queue_id)
       limit max_depth::bigint + 1
    ) w;
  if v_limited > max_depth then
    return v_limited;
  end if;
  v_depth := awa._counted_depth(queue_id, least(max_depth, 5000));
  if v_depth is null then
    select count(*) into v_depth
      from (select from awa._available a where a.queue_id = _depth.queue_id limit v_most + 1) a;
    if v_depth > v_most and v_most < max_depth then
      v_depth := awa._counted_depth(queue_id, greatest(max_depth, 1000000));
    end if;
    if v_depth is null then -- much has come, and some of it may have been claimed
      select count(*) into v_depth
        from (select from awa._available a where a.queue_id = _depth.queue_id limit max_depth::bigint + 1) a;
    end if;
  end if;
  return v_limited + v_depth;
end
$$;
comment on function awa._depth is
  'How many jobs of a queue are ready; or, where they are more than max_depth, some number that is larger, too';

-- How many jobs of a queue are ready: the counts of the past of its lanes, and the rows that came after.
-- Null where a lane has got more than max_rows entries, or as many claims, since it was counted.
-- Why: small statements, of which most queues need two. A connection that enqueues one job has to plan them first: for
-- _appended_since, that took 20 ms.
create or replace function awa._counted_depth(queue_id bigint, max_rows int) returns bigint
language plpgsql stable
as $$
declare
  v_lane record;
  v_since xid8;
  v_rows bigint;
  v_depth bigint := 0;
begin
  for v_lane in
    select l.lane, l.has_tombstones, coalesce(r.appended - r.buried - r.claimed, 0) as depth,
           coalesce(r.counted, '3:3:') as counted, r.dropped, coalesce(r.closed_seq, 0) as closed_seq,
           coalesce(r.open_seqs, '{}') as open_seqs
      from (
        select q.lane, bool_or(q.has_tombstones) as has_tombstones
          from awa.queues q
         where q.queue_id = _counted_depth.queue_id and q.lane is not null
         group by q.lane
      ) l
      left join lateral (select * from awa.queue_rollups r where r.lane = l.lane limit 1) r on true
  loop
    v_since := pg_snapshot_xmax(v_lane.counted);
    v_depth := v_depth + v_lane.depth;
    select count(*) into v_rows
      from (
        select from awa._entries e where e.lane = v_lane.lane and (e.xid, e.job_id) > (v_since, 0) limit max_rows + 1
      ) e;
    if pg_snapshot_xmin(v_lane.counted) < v_since then -- transactions were in progress
      v_rows := v_rows + (
        select count(*)
          from (
            select
              from pg_snapshot_xip(v_lane.counted) x
             cross join lateral (select from awa._entries e where e.lane = v_lane.lane and e.xid = x offset 0) e
             limit max_rows + 1
          ) e);
    end if;
    if v_rows > max_rows then
      return null;
    end if;
    v_depth := v_depth + v_rows;
    if v_lane.has_tombstones then
      v_depth := v_depth - (
        select count(*)
          from (
            select t.xid
              from awa.ready_tombstones t
             where t.lane = v_lane.lane and t.by_xid >= v_since
            union all
            select t.xid
              from pg_snapshot_xip(v_lane.counted) x
             cross join lateral (
                select t.xid from awa.ready_tombstones t where t.by_xid = x and t.lane = v_lane.lane offset 0
              ) t
          ) t
         where pg_visible_in_snapshot(t.xid, v_lane.dropped) is not true);
    end if;
    select v_depth - coalesce(sum(cardinality(c.job_ids)), 0), count(*) into v_depth, v_rows
      from awa._uncounted(v_lane.lane, v_lane.closed_seq, v_lane.open_seqs, max_rows + 1) c;
    if v_rows > max_rows + cardinality(v_lane.open_seqs) then
      return null;
    end if;
  end loop;
  return v_depth;
end
$$;
comment on function awa._counted_depth is
  'How many jobs of a queue are ready: the counts of the past of its lanes, and the rows that came after';
