-- Fires schedules of which one tick is due and on time, many at once; begins none after a time.
-- due are their names; the caller has locked them. full_queues are queues that are known to be full, and are not
-- looked at again; others that are found full are added.
-- Returns how many have fired, of how many the tick was skipped, how many a full queue refused, about how many it was
-- decided, those whose last jobs have to be cancelled first, and those that have to be looked at by themselves: see
-- _fire_part; and where many fail together, the ten at most among which one fails. All others are left for the next
-- call. waits: how often another session was in the way for 100 ms.
create or replace function awa._fire_many(
  due text[],
  now timestamptz,
  until timestamptz,
  inout full_queues text[],
  out fired int,
  out skipped int,
  out refused int,
  out decided int,
  out replaces text[],
  out alone text[],
  out waits int
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_part text[];
  v_size int := 250;
  v_result record;
  v_grouped text[];
begin
  fired := 0;
  skipped := 0;
  refused := 0;
  decided := 0;
  replaces := '{}';
  alone := '{}';
  waits := 0;
  while due <> '{}' loop
    exit when clock_timestamp() > until and (decided > 0 or alone <> '{}');
    v_part := due[:v_size];
    v_result := awa._fire_part(v_part, now, full_queues);
    full_queues := v_result.full_queues;
    if v_result.problem is null then
      fired := fired + v_result.fired;
      skipped := skipped + v_result.skipped;
      refused := refused + v_result.refused;
      decided := decided + v_result.decided;
      replaces := replaces || v_result.replaces;
      alone := alone || v_result.alone;
      due := due[v_size + 1:];
      v_size := least(v_size * 5, 250);
      continue;
    end if;
    v_grouped := '{}';
    if awa._is_passing(v_result.problem) then
      waits := waits + 1;
      v_grouped := array(select s.name from awa.schedules s where s.name = any(v_part) and s.group_key is not null);
    end if;
    if v_grouped <> '{}' then
      alone := alone || v_grouped;
      due := array(select p from unnest(v_part) p where p <> all(v_grouped)) || due[v_size + 1:];
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
-- Those that would fire, or replace a job, and whose queue is full, are put off together. full_queues: see _fire_many.
-- Returns how many have fired, of how many the tick was skipped, how many are put off, about how many it was decided,
-- and the SQLSTATE where it fails. replaces are those whose last jobs have to be cancelled first. alone are those that
-- have to be looked at by themselves: the tick ran, the zone has other data, or another tick is due where the first job
-- would be the last one of the second.
create or replace function awa._fire_part(
  due text[],
  now timestamptz,
  inout full_queues text[],
  out fired int,
  out skipped int,
  out refused int,
  out decided int,
  out replaces text[],
  out alone text[],
  out problem text
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_due record;
  v_last awa.schedules;
  v_next timestamptz; -- neighbours have the same
  v_fired text[] := '{}';
  v_fired_next timestamptz[] := '{}';
  v_asked text[] := '{}'; -- those whose last jobs may live
  v_asked_next timestamptz[] := '{}';
  v_asked_overlap text[] := '{}';
  v_asked_full boolean[] := '{}';
  v_last_jobs bigint[] := '{}';
  v_states text[];
  v_lives boolean;
  v_left text[] := '{}';
  v_left_next timestamptz[] := '{}';
  v_refused text[] := '{}';
begin
  replaces := '{}';
  alone := '{}';
  perform set_config('lock_timeout', '100', true);
  full_queues := full_queues || awa._full_queues(array(
    select distinct s.queue
      from unnest(due) d(name)
     cross join lateral (select * from awa.schedules s where s.name = d.name offset 0) s
     where s.queue <> all(full_queues)));
  for v_due in
    select s.name, s.cron_bits, s.timezone, s.next_tick, s.ends_at, s.overlap, s.last_job_id,
           s.queue = any(full_queues) as is_full,
           s.next_tick <@ s.ran or s.next_wall <> s.next_tick at time zone (':' || s.timezone) as is_special
      from unnest(due) with ordinality d(name, ordinal)
     cross join lateral (select * from awa.schedules s where s.name = d.name offset 0) s
     order by d.ordinal
  loop
    if v_due.is_special then
      alone := alone || v_due.name;
      continue;
    elsif v_due.is_full and v_due.overlap = 'allow' then
      v_refused := v_refused || v_due.name;
      continue;
    end if;
    if v_due.cron_bits is null or (v_due.cron_bits, v_due.timezone, v_due.next_tick, v_due.ends_at)
      is distinct from (v_last.cron_bits, v_last.timezone, v_last.next_tick, v_last.ends_at)
    then
      select s.* into v_last from awa.schedules s where s.name = v_due.name;
      v_next := awa._tick_after(v_last, awa._cron_of(v_last.cron_bits), ':' || v_last.timezone, v_last.next_tick);
    end if;
    if v_due.overlap = 'allow' then
      v_fired := v_fired || v_due.name;
      v_fired_next := v_fired_next || v_next;
    elsif v_next <= now then
      alone := alone || v_due.name;
    else
      v_asked := v_asked || v_due.name;
      v_asked_overlap := v_asked_overlap || v_due.overlap;
      v_asked_full := v_asked_full || v_due.is_full;
      v_asked_next := v_asked_next || v_next;
      v_last_jobs := v_last_jobs || v_due.last_job_id;
    end if;
  end loop;
  v_states := awa._states_of(v_last_jobs);
  for i in 1..cardinality(v_asked) loop
    v_lives := (v_states[i] <> all(awa._states('ended'))) is true;
    if v_asked_full[i] and (not v_lives or v_asked_overlap[i] = 'replace') then
      v_refused := v_refused || v_asked[i];
    elsif not v_lives then
      v_fired := v_fired || v_asked[i];
      v_fired_next := v_fired_next || v_asked_next[i];
    elsif v_asked_overlap[i] = 'replace' then
      replaces := replaces || v_asked[i];
    else
      v_left := v_left || v_asked[i];
      v_left_next := v_left_next || v_asked_next[i];
    end if;
  end loop;
  fired := awa._fire_together(v_fired, v_fired_next);
  skipped := awa._leave_out(v_left, v_left_next, now);
  refused := awa._put_off_full(v_refused, now);
  decided := cardinality(v_fired) + cardinality(v_left) + refused;
  perform awa._decide_constraints();
  perform set_config('lock_timeout', '0', true);
exception when others then
  if not awa._is_passing(sqlstate) and not awa._is_about_a_row(sqlstate) then
    raise;
  end if;
  fired := 0;
  skipped := 0;
  refused := 0;
  decided := 0;
  replaces := '{}';
  alone := '{}';
  problem := sqlstate;
end
$$;
comment on function awa._fire_part is
  'Fires schedules of which one tick is due and on time, all at once, or none where one of them fails';

-- Has deferred constraint triggers of users on ready_entries decide now, about jobs that were just enqueued.
-- From then on, all constraints of the transaction are immediate. Where there are no such triggers, it changes nothing.
-- Why: an error at the commit would take back all that the call has done, each time, and be noted nowhere.
create or replace function awa._decide_constraints() returns void
language plpgsql
as $$
begin
  if exists (
    select from pg_trigger t where t.tgrelid = 'awa.ready_entries'::regclass and t.tginitdeferred
  )
  then
    set constraints all immediate;
  end if;
end
$$;
comment on function awa._decide_constraints is
  'Has deferred constraint triggers of users on ready_entries decide now, about jobs that were just enqueued';

-- Enqueues the jobs of schedules for their next ticks, and notes these; returns how many.
-- next are their ticks after these.
create or replace function awa._fire_together(names text[], next timestamptz[]) returns int
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_segment constant smallint := awa._current_segment();
  v_fired int := 0;
  v_lane record;
begin
  for v_lane in
    with fires as (
      update awa.schedules s
         set decided_until = s.next_tick, next_tick = n.next, next_at = n.next,
             next_wall = n.next at time zone (':' || s.timezone), last_tick = s.next_tick,
             last_job_id = nextval('awa.job_ids'), error = null, failed_at = null,
             ran = case
               when s.last_tick = s.decided_until -- all from the last one on have fired
                 then s.ran + tstzmultirange(tstzrange(s.last_tick, s.next_tick, '[]'))
               else (awa._with_ran(s.ran, s.unsure, s.next_tick, s.next_tick)).ran
             end,
             unsure = case
               when s.last_tick = s.decided_until then s.unsure
               else (awa._with_ran(s.ran, s.unsure, s.next_tick, s.next_tick)).unsure
             end
        from (select unnest(names) as name, unnest(next) as next) n
       where s.name = any(array[n.name]) -- with =, a plan that was made for few schedules would go through all of them
      returning s.queue, awa._queue_id(s.queue) as queue_id, s.last_job_id, s.kind, s.args, s.tags, s.group_key,
                s.priority, s.max_attempts, awa._tick_metadata(s.metadata, s.name, s.last_tick) as metadata
    ), appended as (
      insert into awa.ready_entries
        (segment, lane, job_id, ready_at, priority, attempt, max_attempts, body_bytes, kind, args, tags, metadata,
         group_key)
      select v_segment,
             awa._lane_in_order(awa._lane(f.queue_id, p.priority, case
               when f.group_key is not null then awa._shard_for(f.queue_id, null, f.group_key, true)
               when q.shards > 1 then floor(random() * q.shards)::int
               else 0
             end), f.group_key, q.group_order),
             f.last_job_id, clock_timestamp(), p.priority, 1,
             coalesce(f.max_attempts, q.default_max_attempts, awa._default_number('default_max_attempts')),
             octet_length(f.kind) + octet_length(f.args::text) + octet_length(f.metadata::text)
               + coalesce(octet_length(f.tags::text), 0) + coalesce(octet_length(f.group_key), 0),
             f.kind, f.args, f.tags, f.metadata, f.group_key
        from fires f
        left join awa.queue_settings q on q.queue_id = f.queue_id
       cross join lateral (
          select coalesce(f.priority, q.default_priority, awa._default_number('default_priority')) as priority
        ) p
      returning ready_entries.lane
    )
    select a.lane, a.jobs, (select f.queue from fires f where f.queue_id = awa._queue_of(a.lane) limit 1) as queue
      from (select a.lane, count(*) as jobs from appended a group by a.lane) a
  loop
    v_fired := v_fired + v_lane.jobs;
    perform awa._use_lanes(array[v_lane.lane], v_lane.queue), awa._wake(awa._queue_of(v_lane.lane));
  end loop;
  return v_fired;
end
$$;
comment on function awa._fire_together is
  'Enqueues the jobs of schedules for their next ticks, and notes these; returns how many';

-- Leaves the next ticks of schedules out whose last jobs have not ended, or lets them wait; returns how many it skips.
-- next are their ticks after these.
create or replace function awa._leave_out(names text[], next timestamptz[], now timestamptz) returns int
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_skipped int;
begin
  with left_out as (
    update awa.schedules s
       set decided_until = s.next_tick, next_tick = n.next, next_wall = n.next at time zone (':' || s.timezone),
           next_at = case s.overlap when 'wait' then awa._next_look(s.next_tick, now) else n.next end,
           waiting_tick = case s.overlap when 'wait' then s.next_tick end,
           times_skipped = s.times_skipped + (s.overlap <> 'wait')::int, error = null, failed_at = null
      from (select unnest(names) as name, unnest(next) as next) n
     where s.name = any(array[n.name]) -- as in _fire_together
    returning s.overlap
  )
  select count(*) filter (where l.overlap <> 'wait') into v_skipped from left_out l;
  return v_skipped;
end
$$;
comment on function awa._leave_out is
  'Leaves the next ticks of schedules out whose last jobs have not ended, or lets them wait; returns how many it skips';

-- Notes that a schedule has failed to fire, and puts it off.
create or replace function awa._note_failure(schedule awa.schedules, now timestamptz, error text) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  update awa.schedules s
     set failures = s.failures + 1, error = error, failed_at = now,
         next_at = now + least(interval '5 seconds' * 2 ^ least(s.failures, 10), '1 hour')
   where s.name = schedule.name;
end
$$;
comment on function awa._note_failure is 'Notes that a schedule has failed to fire, and puts it off';

-- Puts schedules off whose queue is full, for 5 seconds, and notes why; returns how many.
-- Why: a full queue is no failure of a schedule. It is tried again soon, and as soon as all others of the queue.
create or replace function awa._put_off_full(names text[], now timestamptz) returns int
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_count int;
begin
  update awa.schedules s
     set next_at = now + interval '5 seconds', failed_at = now,
         error = awa._refusal('the queue is deeper than its max_depth', 'JQ006')
   where s.name = any(names);
  get diagnostics v_count = row_count;
  return v_count;
end
$$;
comment on function awa._put_off_full is
  'Puts schedules off whose queue is full, for 5 seconds, and notes why; returns how many';
