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
-- call from anywhere, as often as one likes. A call ends after a second, or a quarter of the caller's timeout, whatever
-- fails: all that was decided by then stays, and it says that there is more. Those on time come first, many at once;
-- where one of them fails, it and its neighbours fire by themselves. Then come 250 of those that wait for their last
-- jobs: one look at all of these jobs, and those that go on waiting are put off. Schedules that were missed come after
-- them, of these the ones that make up for many ticks later, and last those that have failed before. A schedule that
-- fails is noted, and put off: for 5 seconds, and twice as long each time, up to an hour. Those of a queue that is full
-- are put off for 5 seconds, all that are due after one look at the queue, and count as failed in the result of the
-- call.
-- Where overlap is replace, a call that has fired none cancels the last jobs, many at once, and the next call fires. A
-- call that has fired some on time leaves the rest to the next one where some replace or wait. Where another session
-- is in the way for 100 ms (configure_queue, say; from the tenth time on 1 ms), the schedules of that queue are left
-- for the next call; those that it has kept for ten seconds are noted, and put off.
-- Locks: the schedules that it fires, until the transaction ends; skips those that others hold. For jobs that it
-- cancels, as _replace_part.
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
  v_until constant timestamptz := clock_timestamp() + awa._budget('1 second', 4);
  v_stage text;
  v_done awa.fire_due_row := (0, 0, 0, 0, false);
  v_due text[];
  v_states text[];
  v_schedule awa.schedules;
  v_result record;
  v_has_decided boolean := false;
  v_is_over boolean := false;
  v_is_full boolean := false; -- more of them may be there that wait
  v_left text[] := '{}';
  v_held text[] := '{}'; -- those that another session holds
  v_refusals text[] := '{}'; -- the errors that say so
  v_busy text[] := '{}';
  v_full text[] := '{}'; -- queues
  v_refused text[];
  v_waits int := 0;
  v_replaced text[] := '{}';
begin
  perform awa._check_pass(max_jobs);
  if awa._is_time_to_refresh(awa._succeeded_at('fire_due'), clock_timestamp()) then
    perform awa._refresh_schedules(v_now);
  end if;
  foreach v_stage in array awa._stages(v_now) loop
    -- the jobs that have come are not to wait for those that wait
    v_is_over := v_is_over or v_stage = 'waiting' and v_done.fired > 0 and awa._has_waiting(v_now);
    exit when v_is_over or v_replaced <> '{}';
    while not v_is_over loop
      v_due := awa._due_schedules(v_now, v_stage, v_left, v_busy, least(v_max - v_done.fired, 250)::int);
      exit when v_due = '{}';
      if v_stage = 'on time' then
        v_result := awa._fire_many(v_due, v_now, v_until, v_full);
        v_done.fired := v_done.fired + v_result.fired;
        v_done.skipped := v_done.skipped + v_result.skipped;
        v_done.failed := v_done.failed + v_result.refused;
        v_due := v_result.alone;
        v_full := v_result.full_queues;
        v_waits := v_waits + v_result.waits;
        v_has_decided := v_has_decided or v_result.decided > 0;
        v_replaced := v_replaced || v_result.replaces;
        v_left := v_left || v_result.replaces;
      elsif v_stage = 'waiting' then
        v_is_full := cardinality(v_due) = 250;
        v_due := awa._put_off_waiting(v_due, v_now);
      end if;
      v_states := awa._last_states(v_due);
      v_refused := '{}';
      for i in 1..cardinality(v_due) loop
        exit when v_done.fired >= v_max
          or (v_has_decided or v_held <> '{}') and clock_timestamp() > v_until
          or cardinality(v_replaced) >= 100;
        select s.* into v_schedule from awa.schedules s where s.name = v_due[i];
        continue when v_schedule.group_key is not null and v_schedule.queue = any(v_busy);
        if v_schedule.queue = any(v_full) then
          v_refused := v_refused || v_schedule.name;
          continue;
        end if;
        v_is_over := v_replaced <> '{}' and awa._may_hold_up(v_schedule, v_now);
        exit when v_is_over;
        v_result := awa._fire_alone(v_schedule, v_states[i], v_states is null, v_now,
          least(v_max - v_done.fired, 1000)::int, case when v_waits < 10 then '100' else '1' end);
        v_done := (v_done.fired + v_result.fired, v_done.missed + v_result.missed, v_done.skipped + v_result.skipped,
          v_done.failed + v_result.failed, v_done.more or v_result.more);
        v_has_decided := v_has_decided or not v_result.is_busy;
        v_waits := v_waits + v_result.is_busy::int;
        if v_result.is_full then
          v_full := v_full || v_schedule.queue;
          v_refused := v_refused || v_schedule.name;
        end if;
        if v_result.is_busy then
          v_held := v_held || v_schedule.name;
          v_refusals := v_refusals || v_result.refusal;
        end if;
        if v_result.is_busy and v_schedule.group_key is not null then
          v_busy := v_busy || v_schedule.queue;
        elsif v_result.is_busy or v_result.more then
          v_left := v_left || v_schedule.name;
        end if;
        if v_result.replaces then
          v_replaced := v_replaced || v_schedule.name;
        end if;
      end loop;
      if v_refused <> '{}' then
        v_done.failed := v_done.failed + awa._put_off_full(v_refused, v_now);
        v_has_decided := true;
      end if;
      v_is_over := v_is_over or v_done.fired >= v_max or cardinality(v_replaced) >= 100
        or (v_has_decided or v_held <> '{}') and clock_timestamp() > v_until;
      v_is_over := v_is_over or v_is_full and v_done.fired > 0;
      exit when v_stage = 'waiting'; -- one look; the next call looks at others
    end loop;
  end loop;
  perform awa._note_held(v_held, v_refusals, v_now, v_is_over);
  v_done.more := v_done.more or v_is_over or v_replaced <> '{}';
  if v_done.fired + v_done.failed = 0 then
    v_done.failed := awa._replace_jobs(v_replaced, v_now);
  end if;
  perform awa._note_success('fire_due');
  return next v_done;
end
$$;
comment on function awa.fire_due is 'Enqueues the jobs of schedules whose time has come, max_jobs at most';

-- The stages of a call of fire_due, in their order; none where no schedule is due.
create or replace function awa._stages(now timestamptz) returns text[]
language plpgsql stable
as $$
#variable_conflict use_variable
begin
  return case
    when exists (select from awa.schedules s where s.next_at <= now) then '{on time,waiting,late}'::text[]
    else '{}'
  end;
end
$$;
comment on function awa._stages is 'The stages of a call of fire_due, in their order; none where no schedule is due';

-- The names of schedules whose time has come, room at most, in the order in which they fire.
-- stage: on time; waiting, for their last jobs; or late, which are all others. Leaves out some by their names, and
-- those with a group of a queue that is busy.
-- Locks: the schedules, until the transaction ends; skips those that others hold.
create or replace function awa._due_schedules(
  now timestamptz,
  stage text,
  left_out text[],
  busy text[],
  room int
) returns text[]
language plpgsql
as $$
#variable_conflict use_variable
begin
  if stage = 'on time' then
    return array(
      select s.name
        from awa.schedules s
       where s.next_at <= now
         and s.next_tick > now - interval '1 minute'
         and s.next_tick <= now
         and s.waiting_tick is null
         and s.failures = 0
         and s.name <> all(left_out)
         and (s.group_key is null or s.queue <> all(busy))
       order by s.overlap <> 'allow', case s.overlap when 'replace' then s.queue end nulls first, s.next_at, s.cron,
             s.timezone
       limit room
         for update skip locked);
  elsif stage = 'waiting' then
    return array(
      select s.name
        from awa.schedules s
       where s.next_at <= now and s.waiting_tick is not null and s.failures = 0 and s.name <> all(left_out)
       order by s.next_at
       limit room
         for update skip locked);
  end if;
  return array(
    select s.name
      from awa.schedules s
     where s.next_at <= now
       and (s.waiting_tick is null or s.failures > 0)
       and s.name <> all(left_out)
       and (s.group_key is null or s.queue <> all(busy))
     order by s.failures > 0, coalesce(s.next_tick < now - interval '1 minute', false),
           s.missed = 'all' and s.next_tick < now - interval '1 minute',
           case s.overlap when 'replace' then s.queue end nulls first, s.next_at, s.cron
     limit least(room, 100)
       for update skip locked);
end
$$;
comment on function awa._due_schedules is
  'The names of schedules whose time has come, room at most, in the order in which they fire';

-- Whether a schedule that is late may take long: it makes up for many ticks, or has failed before.
-- Why: jobs are replaced by a call that has fired none; such schedules would keep it from that again and again.
create or replace function awa._may_hold_up(schedule awa.schedules, now timestamptz) returns boolean
language sql immutable
as $$
select schedule.failures > 0
  or coalesce(schedule.missed = 'all' and schedule.next_tick < now - interval '1 minute', false)
$$;
comment on function awa._may_hold_up is
  'Whether a schedule that is late may take long: it makes up for many ticks, or has failed before';

-- The states of the last jobs of schedules, where overlap asks for them; null where one of them can't be read.
create or replace function awa._last_states(names text[]) returns text[]
language plpgsql stable
as $$
#variable_conflict use_variable
begin
  return awa._states_of(array(
    select case when s.overlap <> 'allow' then s.last_job_id end
      from unnest(names) with ordinality n(name, ordinal)
     cross join lateral (select * from awa.schedules s where s.name = n.name offset 0) s
     order by n.ordinal));
exception when others then
  if not awa._is_about_a_row(sqlstate) then
    raise;
  end if;
  return null;
end
$$;
comment on function awa._last_states is
  'The states of the last jobs of schedules, where overlap asks for them; null where one of them can''t be read';

-- Fires a schedule by itself, as _fire does, and notes where that fails.
-- state is that of its last job; looks: it is not known. Waits for another session for so many milliseconds at most;
-- is_busy: it was in the way for longer, and refusal says so; is_full: the queue is full. In both cases, the schedule
-- is as it was.
create or replace function awa._fire_alone(
  schedule awa.schedules,
  state text,
  looks boolean,
  now timestamptz,
  room int,
  wait text,
  out fired int,
  out missed int,
  out skipped int,
  out failed int,
  out more boolean,
  out replaces boolean,
  out is_busy boolean,
  out is_full boolean,
  out refusal text
)
language plpgsql
as $$
#variable_conflict use_variable
begin
  failed := 0;
  is_busy := false;
  is_full := false;
  perform set_config('lock_timeout', wait, true);
  if looks and schedule.overlap <> 'allow' then
    state := awa._state_of(schedule.last_job_id);
  end if;
  select f.fired, f.missed, f.skipped, f.more, f.replaces
    into fired, missed, skipped, more, replaces
    from awa._fire(schedule, state, now, room) f;
  perform awa._decide_constraints();
  perform set_config('lock_timeout', '0', true);
exception when others then
  fired := 0;
  missed := 0;
  skipped := 0;
  more := false;
  replaces := false;
  is_busy := awa._is_passing(sqlstate);
  is_full := sqlstate = 'JQ006';
  refusal := awa._refusal(sqlerrm, sqlstate);
  if not is_busy and not awa._is_about_a_row(sqlstate) then
    raise;
  elsif not is_busy and not is_full then
    perform awa._note_failure(schedule, now, refusal);
    failed := 1;
  end if;
end
$$;
comment on function awa._fire_alone is 'Fires a schedule by itself, as _fire does, and notes where that fails';

-- Fires a schedule whose time has come, or notes why it does not; enqueues room jobs at most.
-- state is that of its last job, where overlap asks for it.
-- Returns how many jobs it enqueued and ticks it left out, whether there is more to do at once, and whether the last
-- job has to be cancelled first. Where it only gives up ticks that were missed, an error stays noted: it is why.
create or replace function awa._fire(
  schedule awa.schedules,
  state text,
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
  v_zone constant text := awa._zone(schedule.timezone);
  v_due record;
  v_ticks timestamptz[];
  v_tick timestamptz;
  v_has_lived boolean;
  v_waiting timestamptz;
  v_next_at timestamptz;
  v_gives_up boolean;
begin
  v_due := awa._due_ticks(schedule, awa._cron_of(schedule.cron_bits), v_zone, now, room);
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
    v_has_lived := coalesce(state <> all(awa._states('ended')), false);
    if schedule.overlap = 'replace' and v_has_lived then
      perform awa._check_depth_of(schedule.queue); -- else the next call may be refused, and that job is cancelled
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
    schedule.last_job_id := awa._enqueue_tick(schedule, v_tick, true, fired = 0);
    fired := fired + 1;
  end loop;
  if fired > 0 then
    select r.ran, r.unsure into schedule.ran, schedule.unsure
      from awa._with_ran(schedule.ran, schedule.unsure, case
        when schedule.last_tick = schedule.decided_until and missed = 0 and v_ticks[1] = v_due.ticks[1]
          then schedule.last_tick -- none was left out: all from the last one on have fired
        else v_ticks[1]
      end, v_tick) r;
    schedule.last_tick := v_tick;
  end if;
  v_next_at := case
    when v_waiting is not null then awa._next_look(v_waiting, now)
    when more then now
    else v_due.next_tick
  end;
  v_gives_up := missed > 0 and fired + skipped = 0 and v_waiting is null;
  update awa.schedules s
     set decided_until = v_due.decided_until, next_tick = v_due.next_tick,
         next_wall = v_due.next_tick at time zone v_zone, next_at = v_next_at, last_tick = schedule.last_tick,
         last_job_id = schedule.last_job_id, waiting_tick = v_waiting, ran = schedule.ran,
         unsure = schedule.unsure,
         times_missed = s.times_missed + missed, times_skipped = s.times_skipped + skipped,
         failures = case when v_gives_up then s.failures else 0 end, error = case when v_gives_up then s.error end,
         failed_at = case when v_gives_up then s.failed_at end
   where s.name = schedule.name;
end
$$;
comment on function awa._fire is
  'Fires a schedule whose time has come, or notes why it does not; enqueues room jobs at most';

-- The ticks of a schedule for which jobs are to be enqueued now, by its setting for missed ones; room ticks at most.
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
    when schedule.missed = 'all' and next_tick <= v_edge
      then least(v_edge, awa._nth_time(now, schedule.missed_for, zone, -1) - interval '1 microsecond')
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
  'The ticks of a schedule for which jobs are to be enqueued now, by its setting for missed ones; room ticks at most';
