-- Makes a schedule, or changes it: at its times, a job is enqueued.
-- Only the future fires: one that is made, or whose cron, every, timezone or starts_at is changed, begins now. A change
-- keeps the record of the last tick, and a pause. list_changes shows it, where the session has said for whom it acts.
-- Locks: the schedule, until the transaction ends; meanwhile it does not fire.
-- Raises 22023, also for a schedule that a program declares; 55P03.
create or replace function awa.schedule(
  name         text,
  queue        text,
  kind         text,
  cron         text default null,
  every        interval default null,
  args         jsonb default '{}',
  timezone     text default 'UTC',
  missed       text default 'latest',
  missed_for   interval default '1 day',
  overlap      text default 'allow',
  starts_at    timestamptz default null,
  ends_at      timestamptz default null,
  priority     int default null,
  max_attempts int default null,
  tags         text[] default null,
  metadata     jsonb default null,
  group_key    text default null
) returns void
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
#variable_conflict use_variable
declare
  v_schedule awa.schedules;
begin
  v_schedule.name := name;
  v_schedule.queue := queue;
  v_schedule.kind := kind;
  v_schedule.cron := cron;
  v_schedule.every := every;
  v_schedule.args := args;
  v_schedule.timezone := timezone;
  v_schedule.missed := missed;
  v_schedule.missed_for := missed_for;
  v_schedule.overlap := overlap;
  v_schedule.starts_at := starts_at;
  v_schedule.ends_at := ends_at;
  v_schedule.priority := priority;
  v_schedule.max_attempts := max_attempts;
  v_schedule.tags := tags;
  v_schedule.metadata := metadata;
  v_schedule.group_key := group_key;
  v_schedule := awa._checked_schedule(v_schedule, awa._schedule_clock());
  perform awa._bound_waits();
  perform awa._save_schedule(v_schedule);
  perform awa._note_change('schedule', jsonb_build_object('schedule', name),
    jsonb_build_object('queue', queue, 'kind', kind, 'cron', cron, 'every', every, 'timezone', timezone), 0);
end
$$;
comment on function awa.schedule is 'Makes a schedule, or changes it: at its times, a job is enqueued';

-- A schedule as it is when it is made now, with the defaults of the fields that were left out.
-- Raises 22023.
create or replace function awa._checked_schedule(schedule awa.schedules, now timestamptz) returns awa.schedules
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_least constant timestamptz := '0001-01-03 00:00+00';
  v_end constant timestamptz := '9999-12-31 10:00+00';
begin
  schedule.args := coalesce(schedule.args, '{}');
  schedule.timezone := coalesce(schedule.timezone, 'UTC');
  schedule.missed := coalesce(schedule.missed, 'latest');
  schedule.missed_for := coalesce(schedule.missed_for, '1 day');
  schedule.overlap := coalesce(schedule.overlap, 'allow');
  perform awa._check_name('name', schedule.name);
  perform awa._check_options(schedule.queue, schedule.kind, schedule.priority, null, schedule.max_attempts,
    schedule.tags, schedule.group_key);
  if num_nonnulls(schedule.cron, schedule.every) <> 1 then
    perform awa._refuse('cron or every must be given, and not both',
      schedule.cron || ' and ' || schedule.every, 'Pass cron => ''30 9 * * MON-FRI'', or every => ''1 hour''.');
  elsif schedule.missed not in ('skip', 'latest', 'all') then
    perform awa._refuse('missed must be skip, latest or all', schedule.missed, 'Leave it out for latest.');
  elsif not awa._fits(schedule.missed_for, '1 second', '10 years') then
    perform awa._refuse('missed_for must be between 1 second and 10 years', schedule.missed_for::text,
      'Leave it out for one day.');
  elsif schedule.overlap not in ('allow', 'skip', 'wait', 'replace') then
    perform awa._refuse('overlap must be allow, skip, wait or replace', schedule.overlap, 'Leave it out for allow.');
  elsif not (schedule.starts_at >= v_least and schedule.starts_at < v_end) then
    perform awa._refuse('starts_at must be a time between 0001-01-03 and 9999-12-31 10:00 UTC',
      schedule.starts_at::text, 'Pass a time, or null.');
  elsif not (schedule.ends_at >= v_least and schedule.ends_at < v_end) then
    perform awa._refuse('ends_at must be a time between 0001-01-03 and 9999-12-31 10:00 UTC', schedule.ends_at::text,
      'Pass a time, or null.');
  elsif schedule.ends_at <= schedule.starts_at then
    perform awa._refuse('ends_at must be later than starts_at', schedule.ends_at::text,
      'The times lie from starts_at on, and before ends_at.');
  elsif jsonb_typeof(schedule.metadata) <> 'object' or schedule.metadata ? 'schedule' then
    perform awa._refuse('metadata must be an object without the field schedule', awa._brief(schedule.metadata),
      'The name and the time of the schedule go into that field.');
  end if;
  schedule.cron_bits := awa._cron_bits(schedule.cron);
  perform awa._check_body(array[schedule.args], schedule.tags,
    awa._tick_metadata(schedule.metadata, schedule.name, now));
  schedule.made_at := now;
  schedule.changed_at := now;
  schedule.changed_by := session_user;
  schedule.decided_until := now;
  schedule.ran := '{}';
  schedule.unsure := 'empty';
  schedule.times_missed := 0;
  schedule.times_skipped := 0;
  schedule.failures := 0;
  schedule := awa._planned(schedule);
  if schedule.next_tick is null
    and awa._next_cron(awa._cron_of(schedule.cron_bits), awa._zone(schedule.timezone), now) is null
    and schedule.cron is not null
  then
    perform awa._refuse('cron never comes in this time zone', concat_ws(' in ', schedule.cron, schedule.timezone),
      'The clock skips its times whenever they would come. Choose other ones, or write minutes and hours without *: '
      'such times come right after the jump.');
  end if;
  return schedule;
end
$$;
comment on function awa._checked_schedule is
  'A schedule as it is when it is made now, with the defaults of the fields that were left out';

-- A time as in RFC 3339, in UTC, whatever the session's settings are.
create or replace function awa._as_rfc3339(at timestamptz) returns text
language sql stable
return to_char(at at time zone 'UTC',
  case when at = date_trunc('second', at) then 'YYYY-MM-DD"T"HH24:MI:SS"Z"' else 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"' end);
comment on function awa._as_rfc3339 is 'A time as in RFC 3339, in UTC, whatever the session''s settings are';

-- The metadata of a job that a schedule enqueues: its own, and the name and the nominal time of the schedule.
create or replace function awa._tick_metadata(metadata jsonb, name text, tick timestamptz) returns jsonb
language sql stable
return case
  when metadata is null
    then jsonb_build_object('schedule', jsonb_build_object('name', name, 'at', awa._as_rfc3339(tick)))
  else metadata || jsonb_build_object('schedule', jsonb_build_object('name', name, 'at', awa._as_rfc3339(tick)))
end;
comment on function awa._tick_metadata is
  'The metadata of a job that a schedule enqueues: its own, and the name and the nominal time of the schedule';

-- A schedule with its next tick, computed anew.
-- Raises 22023.
create or replace function awa._planned(schedule awa.schedules) returns awa.schedules
language plpgsql
as $$
begin
  if schedule.paused_at is null and schedule.removed_at is null then
    schedule.next_tick := awa._next_tick(schedule, schedule.decided_until);
    while schedule.next_tick <@ schedule.ran loop -- the clock was set back a little
      schedule.decided_until := (select upper(r) from unnest(schedule.ran) r where schedule.next_tick <@ r);
      schedule.next_tick := awa._next_tick(schedule, schedule.decided_until);
    end loop;
    schedule.next_at := case
      when schedule.waiting_tick is null then schedule.next_tick
      else schedule.decided_until
    end;
    schedule.next_wall := schedule.next_tick at time zone awa._zone(schedule.timezone);
  else -- its zone may be gone
    schedule.next_tick := null;
    schedule.next_at := null;
    schedule.next_wall := null;
  end if;
  return schedule;
end
$$;
comment on function awa._planned is 'A schedule with its next tick, computed anew';

-- Makes a schedule, or changes the one that has its name.
-- It comes from _checked_schedule. One that a program declares again as it is stays as it is; a change also takes away
-- the times of a clock that was ahead.
-- Locks: the schedule, until the transaction ends, unless it stays as it is.
-- Raises 22023 where the name belongs to another source.
create or replace function awa._save_schedule(schedule awa.schedules) returns void
language plpgsql
as $$
declare
  v_old awa.schedules;
  v_has_other_times boolean;
  v_has_ended boolean;
begin
  if schedule.source is not null then -- without a lock, so that a deploy that changes nothing keeps none from firing
    select s.* into v_old from awa.schedules s where s.name = schedule.name and s.removed_at is null;
    if awa._declares(schedule) = awa._declares(v_old) then
      return;
    end if;
  end if;
  loop
    select s.* into v_old from awa.schedules s where s.name = schedule.name for update skip locked;
    exit when found;
    perform awa._wait_for_schedule(schedule.name, schedule);
    insert into awa.schedules select schedule.* on conflict do nothing;
    if found then
      perform awa._wake_due(schedule.next_at);
      return;
    end if;
  end loop;
  if v_old.removed_at is null and v_old.source is distinct from schedule.source then
    perform awa._refuse_source(schedule, v_old);
  elsif v_old.removed_at is null and schedule.source is not null and awa._declares(schedule) = awa._declares(v_old) then
    return;
  end if;
  v_old := awa._set_right(v_old, schedule.changed_at);
  v_has_other_times := (v_old.cron_bits, v_old.every::text, lower(v_old.timezone), v_old.starts_at)
    is distinct from (schedule.cron_bits, schedule.every::text, lower(schedule.timezone), schedule.starts_at);
  if v_old.removed_at is null or v_old.source = schedule.source then -- else it is made anew
    schedule.made_at := v_old.made_at;
    schedule.paused_at := v_old.paused_at;
    schedule.paused_by := v_old.paused_by;
    schedule.pause_reason := v_old.pause_reason;
  end if;
  if v_has_other_times and v_old.ran <> '{}' then
    v_old.unsure := range_merge(v_old.unsure, tstzrange(lower(v_old.ran), upper(v_old.ran), '()'));
  end if;
  -- with another end it would have had ticks since then
  v_has_ended := v_old.ends_at <= schedule.changed_at and v_old.ends_at is distinct from schedule.ends_at;
  if v_old.removed_at is not null or v_has_other_times or v_has_ended then
    v_old := awa._without_due(v_old, schedule.changed_at); -- one that is removed or paused has none
  else
    schedule.decided_until := v_old.decided_until;
  end if;
  if v_old.removed_at is null and not v_has_other_times then -- overlap decides about it as about one that is due
    schedule.waiting_tick := v_old.waiting_tick;
  end if;
  schedule.last_tick := v_old.last_tick;
  schedule.last_job_id := v_old.last_job_id;
  schedule.ran := v_old.ran;
  schedule.unsure := v_old.unsure;
  schedule.times_missed := v_old.times_missed;
  schedule.times_skipped := v_old.times_skipped
    + (schedule.waiting_tick is null and v_old.waiting_tick is not null)::int;
  schedule := awa._planned(schedule);
  perform awa._store_schedule(schedule), awa._wake_due(schedule.next_at);
end
$$;
comment on function awa._save_schedule is
  'Makes a schedule, or changes the one that has its name';

-- The declaration of a schedule, without its progress.
create or replace function awa._declares(schedule awa.schedules) returns jsonb
language plpgsql stable
as $$
begin
  return to_jsonb(schedule) - '{made_at,changed_at,changed_by,paused_at,paused_by,pause_reason,removed_at,'
    'decided_until,next_tick,next_wall,next_at,last_tick,last_job_id,waiting_tick,ran,unsure,times_missed,'
    'times_skipped,failures,error,failed_at}'::text[];
end
$$;
comment on function awa._declares is 'The declaration of a schedule, without its progress';

-- Raises 22023 for a name that belongs to another source.
create or replace function awa._refuse_source(schedule awa.schedules, holder awa.schedules) returns void
language plpgsql
as $$
begin
  perform awa._refuse(
    case
      when holder.source is null then 'name belongs to a schedule that was made by hand'
      else 'name belongs to a schedule that a program declares'
    end,
    concat_ws(', of source ', holder.name, holder.source),
    case
      when schedule.source is null then 'Change it in the program, pause it, or remove it with unschedule before.'
      else 'Choose another name, or remove that one with unschedule.'
    end);
end
$$;
comment on function awa._refuse_source is 'Raises 22023 for a name that belongs to another source';

-- Writes a schedule that is there.
create or replace function awa._store_schedule(schedule awa.schedules) returns void
language plpgsql
as $$
begin
  update awa.schedules s
     set (source, queue, kind, cron, cron_bits, every, args, timezone, missed, missed_for, overlap, starts_at, ends_at,
           priority, max_attempts, tags, metadata, group_key, made_at, changed_at, changed_by, paused_at, paused_by,
           pause_reason, removed_at, decided_until, next_tick, next_wall, next_at, last_tick, last_job_id, waiting_tick,
           ran, unsure, times_missed, times_skipped, failures, error, failed_at)
       = (schedule.source, schedule.queue, schedule.kind, schedule.cron, schedule.cron_bits, schedule.every,
           schedule.args, schedule.timezone, schedule.missed, schedule.missed_for, schedule.overlap, schedule.starts_at,
           schedule.ends_at, schedule.priority, schedule.max_attempts, schedule.tags, schedule.metadata,
           schedule.group_key, schedule.made_at, schedule.changed_at, schedule.changed_by, schedule.paused_at,
           schedule.paused_by,
           schedule.pause_reason, schedule.removed_at, schedule.decided_until, schedule.next_tick, schedule.next_wall,
           schedule.next_at, schedule.last_tick, schedule.last_job_id, schedule.waiting_tick, schedule.ran,
           schedule.unsure, schedule.times_missed, schedule.times_skipped, schedule.failures, schedule.error,
           schedule.failed_at)
   where s.name = schedule.name;
end
$$;
comment on function awa._store_schedule is 'Writes a schedule that is there';

-- Locks a schedule that is there, and returns it.
-- Locks: the schedule, until the transaction ends, for which it waits as a claim does. Changes lock_timeout: the
-- calling function has to have a SET clause for it.
-- Raises 22023, JQ007, 55P03.
create or replace function awa._lock_schedule(name text) returns awa.schedules
language plpgsql
as $$
declare
  v_schedule awa.schedules;
begin
  perform awa._check_name('name', name);
  perform awa._bound_waits();
  v_schedule := awa._lock_if_there(name);
  if v_schedule.name is null then
    perform awa._refuse_schedule(name);
  end if;
  return v_schedule;
end
$$;
comment on function awa._lock_schedule is 'Locks a schedule that is there, and returns it';

-- Locks a schedule, and returns it; null where it is not there.
-- Locks: the schedule, until the transaction ends, for which it waits for as long as lock_timeout says.
-- Raises 55P03, and names the holder.
create or replace function awa._lock_if_there(name text) returns awa.schedules
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_schedule awa.schedules;
begin
  loop
    select s.* into v_schedule
      from awa.schedules s
     where s.name = name and s.removed_at is null
       for update skip locked;
    if found or not exists (select from awa.schedules s where s.name = name and s.removed_at is null) then
      return v_schedule;
    end if;
    perform awa._wait_for_schedule(name);
  end loop;
end
$$;
comment on function awa._lock_if_there is 'Locks a schedule, and returns it; null where it is not there';

-- Waits until no other session has a schedule locked, or it is not there. The caller locks it then.
-- With the row that the caller is to insert, also for a session that has inserted one, and has not committed.
-- Locks: the schedule, and lets go of it again.
-- Raises 55P03, and names the holder.
-- Why: the error can be caught in a subtransaction alone. A lock that one has taken does not say which session holds
-- it, so it is undone.
create or replace function awa._wait_for_schedule(name text, made awa.schedules default null) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_holder text;
begin
  perform from awa.schedules s where s.name = name for update;
  if not found and made.name is not null then
    insert into awa.schedules select made.* on conflict do nothing;
  end if;
  raise sqlstate 'JQ999';
exception
  when sqlstate 'JQ999' then
    null;
  when lock_not_available then
    select l.holder into v_holder from awa._locked_schedules l where l.name = name;
    perform awa._refuse_wait(array['awa.schedules']::regclass[], 'the schedule is locked by another session',
      'Calls that change or trigger a schedule hold it until their transaction ends: let that end, and try again.',
      v_holder);
end
$$;
comment on function awa._wait_for_schedule is
  'Waits until no other session has a schedule locked, or it is not there. The caller locks it then';

-- A schedule that is removed: the times that are due, or wait, are left out, and counted.
create or replace function awa._removed(schedule awa.schedules, now timestamptz) returns awa.schedules
language plpgsql
as $$
begin
  schedule := awa._without_due(schedule, now);
  schedule.times_skipped := schedule.times_skipped + (schedule.waiting_tick is not null)::int;
  schedule.waiting_tick := null;
  schedule.removed_at := now;
  return awa._planned(schedule);
end
$$;
comment on function awa._removed is
  'A schedule that is removed: the times that are due, or wait, are left out, and counted';
