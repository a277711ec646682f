-- Fires schedules of which one tick is due and on time, many at once; begins none after a time.
-- Returns how many, and those that have to be looked at by themselves: whose last job lives, whose queue is full, whose
-- tick ran, or whose zone has other data; and where many fail together, the ten at most among which one fails. Those
-- that are in neither are left for the next call. waits: how often another session was in the way for 100 ms.
create or replace function awa._fire_many(
  due awa.schedules[],
  now timestamptz,
  until timestamptz,
  out fired int,
  out alone awa.schedules[],
  out waits int
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_part awa.schedules[];
  v_size int := 250;
  v_result record;
begin
  fired := 0;
  alone := '{}';
  waits := 0;
  while due <> '{}' loop
    exit when clock_timestamp() > until and (fired > 0 or alone <> '{}');
    v_part := due[:v_size];
    v_result := awa._fire_part(v_part, now);
    if v_result.problem is null then
      fired := fired + v_result.fired;
      alone := alone || v_result.alone;
      due := due[v_size + 1:];
      v_size := least(v_size * 5, 250);
      continue;
    end if;
    waits := waits + awa._is_passing(v_result.problem)::int;
    if awa._is_passing(v_result.problem) and exists (select from unnest(v_part) p where p.group_key is not null) then
      alone := alone || array(select p from unnest(v_part) p where p.group_key is not null);
      due := array(select p from unnest(v_part) p where p.group_key is null) || due[v_size + 1:];
    elsif v_size > 10 then
      v_size := v_size / 5;
    else
      alone := alone || v_part;
      due := due[v_size + 1:];
    end if;
  end loop;
end
$$;
comment on function awa._fire_many is
  'Fires schedules of which one tick is due and on time, many at once; begins none after a time';

-- Fires schedules of which one tick is due and on time, all at once, or none where one of them fails.
-- Returns how many, those that have to be looked at by themselves, and the SQLSTATE where it fails.
create or replace function awa._fire_part(
  due awa.schedules[],
  now timestamptz,
  out fired int,
  out alone awa.schedules[],
  out problem text
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_states text[];
  v_alone text[];
  v_full text[];
begin
  perform set_config('lock_timeout', '100', true);
  v_states := awa._states_of(array(
    select case when d.overlap <> 'allow' then d.last_job_id end
      from unnest(due) with ordinality d
     order by d.ordinality));
  v_full := awa._full_queues(array(select distinct d.queue from unnest(due) d));
  v_alone := array(
    select d.name
      from unnest(due) with ordinality d
     where v_states[d.ordinality] <> all(awa._states('ended'))
        or d.queue = any(v_full)
        or d.next_tick <@ d.ran
        or d.next_wall <> d.next_tick at time zone (':' || d.timezone)); -- the data of the zone have changed
  select t.fired, array(select d from unnest(due) d where d.name = any(v_alone)) || t.alone
    into fired, alone
    from awa._fire_together(array(select d from unnest(due) d where d.name <> all(v_alone)), now) t;
  perform set_config('lock_timeout', '0', true);
exception when others then
  if not awa._is_passing(sqlstate) and not awa._is_about_a_row(sqlstate) then
    raise;
  end if;
  fired := 0;
  alone := '{}';
  problem := sqlstate;
end
$$;
comment on function awa._fire_part is
  'Fires schedules of which one tick is due and on time, all at once, or none where one of them fails';

-- Enqueues the jobs of schedules for their next ticks, and notes these; returns how many.
-- alone are those that it leaves out, with an overlap, and another tick that is due: the first job would be the last
-- one of the second.
create or replace function awa._fire_together(
  due awa.schedules[],
  now timestamptz,
  out fired int,
  out alone awa.schedules[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_segment constant smallint := awa._current_segment();
  v_schedule awa.schedules;
  v_last awa.schedules;
  v_next timestamptz; -- neighbours have the same
  v_fires awa.schedules[] := '{}';
  v_lane record;
begin
  alone := '{}';
  foreach v_schedule in array due loop
    if v_schedule.cron is null or (v_schedule.cron, v_schedule.timezone, v_schedule.next_tick, v_schedule.ends_at)
      is distinct from (v_last.cron, v_last.timezone, v_last.next_tick, v_last.ends_at)
    then
      v_next := awa._tick_after(v_schedule, awa._cron_of(v_schedule.cron_bits), ':' || v_schedule.timezone,
        v_schedule.next_tick);
      v_last := v_schedule;
    end if;
    if v_schedule.overlap <> 'allow' and v_next <= now then
      alone := alone || v_schedule;
    else
      v_fires := v_fires || awa._fired(v_schedule, v_next);
    end if;
  end loop;
  for v_lane in
    with fires as materialized (
      select d.*, awa._tick_metadata(d.metadata, d.name, d.last_tick) as job_metadata,
             p.priority as job_priority,
             coalesce(d.max_attempts, q.default_max_attempts, awa._default_number('default_max_attempts'))
               as most_attempts,
             awa._lane(awa._queue_id(d.queue), p.priority, case
               when d.group_key is not null then awa._shard_for(awa._queue_id(d.queue), null, d.group_key, true)
               when q.shards > 1 then floor(random() * q.shards)::int
               else 0
             end) as lane
        from unnest(v_fires) d
        left join awa.queue_settings q on q.queue_id = awa._queue_id(d.queue)
       cross join lateral (
          select coalesce(d.priority, q.default_priority, awa._default_number('default_priority')) as priority
        ) p
    ), appended as (
      insert into awa.ready_entries
        (segment, lane, job_id, ready_at, priority, attempt, max_attempts, body_bytes, kind, args, tags, metadata,
         group_key)
      select v_segment, f.lane, f.last_job_id, clock_timestamp(), f.job_priority, 1, f.most_attempts,
             octet_length(f.kind) + octet_length(f.args::text) + octet_length(f.job_metadata::text)
               + coalesce(octet_length(f.tags::text), 0) + coalesce(octet_length(f.group_key), 0),
             f.kind, f.args, f.tags, f.job_metadata, f.group_key
        from fires f
    ), noted as (
      update awa.schedules s
         set decided_until = f.decided_until, next_tick = f.next_tick, next_at = f.next_at,
             next_wall = f.next_tick at time zone (':' || f.timezone), last_tick = f.last_tick,
             last_job_id = f.last_job_id, ran = f.ran, unsure = f.unsure
        from fires f
       where s.name = f.name
    )
    select distinct f.queue, f.lane from fires f
  loop
    perform awa._use_lanes(array[v_lane.lane], v_lane.queue), awa._wake(awa._queue_id(v_lane.queue));
  end loop;
  fired := cardinality(v_fires);
end
$$;
comment on function awa._fire_together is
  'Enqueues the jobs of schedules for their next ticks, and notes these; returns how many';

-- A schedule that has fired at its next tick, and comes next at a time; its last job gets an id.
create or replace function awa._fired(schedule awa.schedules, next timestamptz) returns awa.schedules
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_tick constant timestamptz := schedule.next_tick;
begin
  if schedule.last_tick = schedule.decided_until then -- all from the last one on have fired
    schedule.ran := schedule.ran + tstzmultirange(tstzrange(schedule.last_tick, v_tick, '[]'));
  else
    schedule := awa._with_ran(schedule, v_tick, v_tick);
  end if;
  schedule.decided_until := v_tick;
  schedule.last_tick := v_tick;
  schedule.next_tick := next;
  schedule.next_at := next;
  schedule.last_job_id := nextval('awa.job_ids');
  return schedule;
end
$$;
comment on function awa._fired is
  'A schedule that has fired at its next tick, and comes next at a time; its last job gets an id';
