-- The row that fire_due returns: how many jobs it enqueued, how many ticks it left out because they were missed or
-- the last job had not ended, how many schedules failed, and whether there is more to do.
create or replace view awa.fire_due_row as
select s.times_missed as fired, s.times_missed as missed, s.times_missed as skipped, s.times_missed as failed,
       s.removed_at is null as more
  from awa.schedules s
 where false;
comment on view awa.fire_due_row is
  'The row that fire_due returns: how many jobs it enqueued, how many ticks it left out because they were missed or '
  'the last job had not ended, how many schedules failed, and whether there is more to do. The view itself is always '
  'empty';

-- Enqueues the jobs of schedules whose time has come, max_jobs at most.
-- Each tick of a schedule once: its row is locked, its job enqueued and its tick noted in one transaction. Safe to
-- call from anywhere, as often as one likes. A call begins no schedule after a second. Those on time come first, many
-- at once; where one of them fails, each by itself. Schedules that were missed come last, of these the ones that make
-- up for many ticks. A schedule that fails is noted, and put off: for 5 seconds, and twice as long each time, up to an
-- hour. Where overlap is replace, a call that finds nothing else to do cancels the
-- jobs of up to ten schedules of one queue, and the next one fires. Where another session is in the way for 100 ms
-- (configure_queue, say), the schedules of that queue are left for the next call.
-- Locks: the schedules that it fires, until the transaction ends; skips those that others hold. For a job that it
-- cancels, as cancel.
-- Raises 22023, JQ004, 55000.
create or replace function awa.fire_due(max_jobs int default 1000) returns setof awa.fire_due_row
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set lock_timeout = 0
as $$
declare
  v_max constant int := coalesce(max_jobs, 1000);
  v_now constant timestamptz := awa._schedule_clock();
  v_schedule awa.schedules;
  v_result record;
  v_done awa.fire_due_row;
  v_until timestamptz := clock_timestamp() + interval '1 second';
  v_replaced awa.schedules[] := '{}';
  v_looked int := 0;
  v_is_due constant boolean := exists (select from awa.schedules s where s.next_at <= v_now);
  v_left text[] := '{}';
  v_room int := 250;
  v_name text; -- of the zone that was read last: many schedules have the same
  v_zone text;
  v_busy text[] := '{}';
  v_is_full boolean := false;
begin
  perform awa._check_pass(max_jobs);
  if date_trunc('minute', awa._succeeded_at('fire_due')) is distinct from date_trunc('minute', clock_timestamp()) then
    perform awa._refresh_schedules(v_now);
  end if;
  v_done := (0, 0, 0, 0, false);
  while v_is_due loop
    v_result := awa._fire_many(v_now, least(v_max - v_done.fired, v_room)::int, v_left);
    v_done.fired := v_done.fired + v_result.fired;
    v_left := v_result.left_out;
    if v_result.has_failed then
      v_room := 1 + v_room / 5; -- until it is the one that fails
      v_until := v_until + interval '100 milliseconds';
    else
      v_room := least(v_room * 5, 250);
    end if;
    v_is_full := v_done.fired > 0 and (v_done.fired >= v_max or clock_timestamp() > v_until);
    exit when v_is_full or v_result.is_last;
  end loop;
  for v_schedule in
    select s.*
      from awa.schedules s
     where s.next_at <= v_now
       and not v_is_full
     order by coalesce(s.next_tick < v_now - interval '1 minute', false),
           s.missed = 'all' and s.next_tick < v_now - interval '1 minute', s.overlap = 'replace', s.next_at, s.cron
     limit v_max
       for update skip locked
  loop
    continue when v_schedule.queue = any(v_busy);
    begin
      perform set_config('lock_timeout', '100', true);
      if v_schedule.timezone is distinct from v_name then
        v_zone := awa._zone(v_schedule.timezone);
        v_name := v_schedule.timezone;
      end if;
      v_result := awa._fire(v_schedule, awa._cron_of(v_schedule.cron_bits), v_zone, v_now,
        least(v_max - v_done.fired, 1000)::int);
      v_done.fired := v_done.fired + v_result.fired;
      v_done.missed := v_done.missed + v_result.missed;
      v_done.skipped := v_done.skipped + v_result.skipped;
      v_done.more := v_done.more or v_result.more;
      if v_result.replaces then
        v_replaced := v_replaced || v_schedule;
      end if;
      perform set_config('lock_timeout', '0', true);
    exception when others then
      if awa._is_passing(sqlstate) then
        v_busy := v_busy || v_schedule.queue;
        v_until := v_until + interval '100 milliseconds'; -- those behind it get their time
      elsif not awa._is_about_a_row(sqlstate) then
        raise;
      else
        perform awa._note_failure(v_schedule, v_now, awa._refusal(sqlerrm, sqlstate));
        v_done.failed := v_done.failed + 1;
      end if;
    end;
    v_looked := v_looked + 1;
    v_is_full := v_done.fired >= v_max or cardinality(v_replaced) >= 10 or clock_timestamp() > v_until;
    exit when v_is_full;
  end loop;
  v_done.more := v_done.more or v_looked >= v_max or v_is_full;
  if v_done.fired + v_done.failed = 0 then
    foreach v_schedule in array v_replaced loop
      v_done.failed := v_done.failed
        + (v_schedule.queue = v_replaced[1].queue and not awa._replace_job(v_schedule, v_now))::int;
    end loop;
  end if;
  perform awa._note_success('fire_due');
  return next v_done;
end
$$;
comment on function awa.fire_due is 'Enqueues the jobs of schedules whose time has come, max_jobs at most';

-- Fires schedules of which one tick is due and on time: room at most, all at once, or none where one of them fails.
-- Returns how many, the names of those that have to be looked at one by one, and whether there are no others.
create or replace function awa._fire_many(
  now timestamptz,
  room int,
  inout left_out text[],
  out fired int,
  out has_failed boolean,
  out is_last boolean
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_before constant text[] := left_out;
  v_due awa.schedules[];
  v_living bigint[];
begin
  fired := 0;
  has_failed := false;
  perform set_config('lock_timeout', '100', true);
  v_due := array(
    select s
      from awa.schedules s
     where s.next_at <= now
       and s.next_tick > now - interval '1 minute'
       and s.next_tick <= now
       and s.waiting_tick is null
       and s.failures = 0
       and s.name <> all(v_before)
     order by s.overlap <> 'allow', s.next_at, s.cron, s.timezone
     limit room
       for update skip locked);
  is_last := cardinality(v_due) < room;
  v_living := awa._living(array(select d.last_job_id from unnest(v_due) d where d.overlap <> 'allow'));
  left_out := v_before || array(
    select d.name
      from unnest(v_due) d
     where d.overlap <> 'allow' and d.last_job_id = any(v_living)
        or d.next_tick <@ d.ran
        or d.next_wall <> d.next_tick at time zone (':' || d.timezone)); -- the data of the zone have changed
  fired := awa._fire_together(array(select d from unnest(v_due) d where d.name <> all(left_out)), now);
  left_out := left_out || array(select d.name from unnest(v_due) d where d.overlap <> 'allow');
  perform set_config('lock_timeout', '0', true);
exception when others then
  if not awa._is_passing(sqlstate) and not awa._is_about_a_row(sqlstate) then
    raise;
  end if;
  fired := 0;
  has_failed := true;
  left_out := v_before || case
    when cardinality(v_due) = 1 then array[v_due[1].name]
    when awa._is_passing(sqlstate) then array(select d.name from unnest(v_due) d where d.group_key is not null)
    else '{}'
  end;
  is_last := coalesce(cardinality(v_due), 0) = 0;
end
$$;
comment on function awa._fire_many is
  'Fires schedules of which one tick is due and on time: room at most, all at once, or none where one of them fails';

-- Enqueues the jobs of schedules for their next ticks, and notes these; returns how many.
-- Leaves out those with an overlap of which another tick is due: the first job would be the last one of the second.
create or replace function awa._fire_together(due awa.schedules[], now timestamptz) returns int
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
  foreach v_schedule in array due loop
    if v_schedule.cron is null or (v_schedule.cron, v_schedule.timezone, v_schedule.next_tick, v_schedule.ends_at)
      is distinct from (v_last.cron, v_last.timezone, v_last.next_tick, v_last.ends_at)
    then
      v_next := awa._tick_after(v_schedule, awa._cron_of(v_schedule.cron_bits), ':' || v_schedule.timezone,
        v_schedule.next_tick);
      v_last := v_schedule;
    end if;
    continue when v_schedule.overlap <> 'allow' and v_next <= now;
    v_fires := v_fires || awa._fired(v_schedule, v_next);
  end loop;
  for v_lane in
    with fires as materialized (
      select d.*, awa._tick_metadata(d.metadata, d.name, d.last_tick) as job_metadata,
             coalesce(d.priority, q.default_priority, 2) as job_priority,
             coalesce(d.max_attempts, q.default_max_attempts, 25) as most_attempts,
             awa._lane(awa._queue_id(d.queue), coalesce(d.priority, q.default_priority, 2), case
               when d.group_key is not null then awa._shard_for(awa._queue_id(d.queue), null, d.group_key, true)
               when q.shards > 1 then floor(random() * q.shards)::int
               else 0
             end) as lane
        from unnest(v_fires) d
        left join awa.queue_settings q on q.queue_id = awa._queue_id(d.queue)
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
  return cardinality(v_fires);
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

-- Cancels the last job of a schedule, so that the next call fires it; returns false when that fails, and notes it.
-- Where another session is in the way, the schedule is put off for a second, and that is no failure.
-- Why: decides at once, so that a failure is caught. Waits for 100 ms at most, since others are due; so the lock for
-- which the decision would wait longer is taken before.
create or replace function awa._replace_job(schedule awa.schedules, now timestamptz) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
begin
  perform set_config('lock_timeout', '100ms', true);
  perform awa._lock_shard(awa._shard_of(p.lane)) from awa._locate(schedule.last_job_id) p where p.state = 'available';
  perform awa._cancel(schedule.last_job_id, 'replaced by the next job of schedule ' || schedule.name);
  set constraints awa.resolve immediate;
  set constraints awa.resolve deferred;
  perform set_config('lock_timeout', '0', true);
  return true;
exception when others then
  if awa._is_passing(sqlstate) then
    update awa.schedules s set next_at = now + interval '1 second' where s.name = schedule.name;
    return true;
  elsif not awa._is_about_a_row(sqlstate) then
    raise;
  end if;
  perform awa._note_failure(schedule, now, awa._refusal(sqlerrm, sqlstate));
  return false;
end
$$;
comment on function awa._replace_job is
  'Cancels the last job of a schedule, so that the next call fires it; returns false when that fails, and notes it';

-- Fires a schedule whose time has come, or notes why it does not; enqueues room jobs at most.
-- Returns how many jobs it enqueued and ticks it left out, whether there is more to do at once, and whether the last
-- job has to be cancelled first.
create or replace function awa._fire(
  schedule awa.schedules,
  cron awa.cron_row,
  zone text,
  now timestamptz,
  room int,
  out fired int,
  out missed int,
  out skipped int,
  out more boolean,
  out replaces boolean
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_due record;
  v_ticks timestamptz[];
  v_tick timestamptz;
  v_has_lived boolean;
  v_waiting timestamptz;
  v_next_at timestamptz;
begin
  v_due := awa._due_ticks(schedule, cron, zone, now, room);
  v_ticks := v_due.ticks;
  if schedule.waiting_tick <@ schedule.ran is false then
    v_ticks := schedule.waiting_tick || v_ticks;
  end if;
  fired := 0;
  missed := v_due.missed;
  skipped := 0;
  more := coalesce(v_due.next_tick <= now, false); -- after the last tick there is none
  replaces := false;
  if schedule.overlap <> 'allow' and v_ticks <> '{}' then
    v_has_lived := coalesce(awa._state_of(schedule.last_job_id) <> all(awa._states('ended')), false);
    if schedule.overlap = 'replace' and v_has_lived then
      missed := 0;
      more := true;
      replaces := true;
      return;
    end if;
    skipped := cardinality(v_ticks);
    v_waiting := case when schedule.overlap = 'wait' then v_ticks[case when v_has_lived then 1 else 2 end] end;
    v_ticks := case
      when v_has_lived then '{}'
      when schedule.overlap = 'replace' then v_ticks[skipped:]
      else v_ticks[1:1]
    end;
    skipped := skipped - cardinality(v_ticks) - (v_waiting is not null)::int;
  end if;
  foreach v_tick in array v_ticks loop
    schedule.last_job_id := awa._enqueue_tick(schedule, v_tick, true);
    fired := fired + 1;
  end loop;
  if fired > 0 then
    schedule := awa._with_ran(schedule,
      case
        when schedule.last_tick = schedule.decided_until and missed = 0 and v_ticks[1] = v_due.ticks[1]
          then schedule.last_tick -- none was left out: all from the last one on have fired
        else v_ticks[1]
      end, v_tick);
    schedule.last_tick := v_tick;
  end if;
  v_next_at := case
    when v_waiting is not null then least(v_due.next_tick, now + interval '1 second')
    when more then now
    else v_due.next_tick
  end;
  update awa.schedules s
     set decided_until = v_due.decided_until, next_tick = v_due.next_tick,
         next_wall = v_due.next_tick at time zone zone, next_at = v_next_at, last_tick = schedule.last_tick,
         last_job_id = schedule.last_job_id, waiting_tick = v_waiting, ran = schedule.ran,
         unsure = schedule.unsure,
         times_missed = s.times_missed + missed, times_skipped = s.times_skipped + skipped, failures = 0, error = null,
         failed_at = null
   where s.name = schedule.name;
end
$$;
comment on function awa._fire is
  'Fires a schedule whose time has come, or notes why it does not; enqueues room jobs at most';

-- The ticks of a schedule for which jobs are to be enqueued now, by what it says of missed ones; room ticks at most.
-- Returns how many it leaves out, up to which time that decides, and the next tick after it. A tick of the last minute
-- is on time. A tick that ran, in a backfill say, does not come again.
create or replace function awa._due_ticks(
  schedule awa.schedules,
  cron awa.cron_row,
  zone text,
  now timestamptz,
  room int,
  out ticks timestamptz[],
  out missed int,
  out decided_until timestamptz,
  out next_tick timestamptz
)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_edge constant timestamptz := now - interval '1 minute';
  v_from timestamptz;
  v_latest timestamptz;
begin
  ticks := '{}';
  missed := 0;
  decided_until := schedule.decided_until;
  next_tick := schedule.next_tick;
  if next_tick at time zone zone is distinct from schedule.next_wall then -- the data of the zone have changed
    next_tick := awa._tick_after(schedule, cron, zone, decided_until);
  end if;
  v_from := case
    when schedule.missed = 'all' then now - schedule.missed_for - interval '1 microsecond'
    else v_edge
  end;
  if next_tick <= v_from then
    missed := awa._count_ticks(schedule, cron, zone, decided_until, v_from);
    if schedule.missed = 'latest' then
      v_latest := awa._last_tick(schedule, cron, zone, decided_until, v_from);
    end if;
    decided_until := v_from;
    next_tick := awa._tick_after(schedule, cron, zone, v_from);
  end if;
  for i in 1..room loop
    exit when next_tick is null or next_tick > now;
    if not next_tick <@ schedule.ran then
      ticks := ticks || next_tick;
    end if;
    decided_until := next_tick;
    next_tick := awa._tick_after(schedule, cron, zone, next_tick);
  end loop;
  if ticks = '{}' and not v_latest <@ schedule.ran then
    ticks := array[v_latest];
    missed := missed - 1;
  end if;
end
$$;
comment on function awa._due_ticks is
  'The ticks of a schedule for which jobs are to be enqueued now, by what it says of missed ones; room ticks at most';

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

-- Forgets schedules that were removed 30 days ago, and makes those due whose zone has other data by now.
-- These are the ones whose next tick was computed with other data. Skips those that others hold.
create or replace function awa._refresh_schedules(now timestamptz) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_zone text;
begin
  delete from awa.schedules s
   where s.name = any(array(
     select s.name from awa.schedules s
      where s.removed_at < now - interval '30 days' limit 1000 for update skip locked));
  for v_zone in select distinct s.timezone from awa.schedules s where s.next_tick is not null loop
    begin
      update awa.schedules s
         set next_at = now
       where s.name = any(array(
         select s.name
           from awa.schedules s
          where s.timezone = v_zone
            and s.next_at > now
            and s.next_wall <> s.next_tick at time zone (':' || v_zone)
            for update skip locked));
    exception when data_exception then
      null; -- the zone is gone: they fail when they are due
    end;
  end loop;
end
$$;
comment on function awa._refresh_schedules is
  'Forgets schedules that were removed 30 days ago, and makes those due whose zone has other data by now';
