-- Makes the schedules of a program be those that it declares; returns whether it did.
-- schedules is an array of objects with the fields of schedule. Those that the source declared before, and no longer
-- does, are removed; those of other sources, and those made by hand, are left alone. A revision that is lower than the
-- last one changes nothing, and returns false: an old version of the program that starts again does no harm. Without a
-- revision it is always done, and the last revision stays. Pauses last.
-- Locks: the source, and the schedules that it changes, until the transaction ends; not those that stay as they are.
-- Raises 22023, which names the element and its field; 42501, 55P03.
create or replace function awa.sync_schedules(source text, schedules jsonb, revision bigint default null)
returns boolean
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
  v_now constant timestamptz := awa._schedule_clock();
  v_declared awa.schedules[];
  v_content bytea;
  v_source awa.schedule_sources;
  v_seen xid; -- of the row of the source: each synchronisation writes it
  v_owner oid;
  v_name text;
  v_schedule awa.schedules;
begin
  perform awa._check_name('source', source), awa._check_declarer();
  if jsonb_typeof(schedules) is distinct from 'array' then
    perform awa._refuse('schedules must be a JSON array', jsonb_typeof(schedules),
      'Pass an array of objects with the fields of schedule.');
  elsif jsonb_array_length(schedules) > 10000 then
    perform awa._refuse('schedules must hold at most 10000 elements', jsonb_array_length(schedules)::text,
      'Use several sources.');
  end if;
  select s.* into v_source from awa.schedule_sources s where s.source = source;
  perform awa._check_owner(v_source);
  if revision < v_source.revision then
    return false;
  end if;
  select s.xmin into v_seen from awa.schedule_sources s where s.source = source;
  v_declared := awa._declared(source, schedules, v_now);
  v_content := sha256(convert_to((select jsonb_agg(j.value order by j.value ->> 'name')::text
    from jsonb_array_elements(schedules) j), 'UTF8'));
  v_content := coalesce(v_content, '');

  perform awa._bound_waits();
  if not awa._lock_source(source, revision, v_content) then
    select s.* into v_source from awa.schedule_sources s where s.source = source;
    perform awa._check_owner(v_source);
    if revision < v_source.revision then
      return false;
    elsif revision = v_source.revision and v_content <> v_source.content then
      perform awa._refuse('revision was synchronised with other schedules', revision::text,
        'Raise the revision with each change of the schedules.');
    end if;
    if v_seen is distinct from (select s.xmin from awa.schedule_sources s where s.source = source) then
      -- another session was quicker: a schedule may be declared otherwise by now
      v_declared := awa._declared(source, schedules, v_now);
    end if;
  end if;
  perform awa._save_declared(v_declared);
  for v_name in
    select s.name
      from awa.schedules s
     where s.source = source
       and s.removed_at is null
       and s.name not in (select j.value ->> 'name' from jsonb_array_elements(schedules) j)
     order by s.name
  loop
    v_schedule := awa._lock_if_there(v_name);
    if v_schedule.source = source then
      perform awa._store_schedule(awa._removed(v_schedule, v_now));
    end if;
  end loop;
  v_owner := coalesce(awa._owner_of(v_source), awa._declarer());
  update awa.schedule_sources s
     set owner = (select r.rolname from pg_roles r where r.oid = v_owner), owner_id = v_owner,
         revision = coalesce(revision, s.revision),
         content = case when revision is null and s.revision is not null then s.content else v_content end
   where s.source = source;
  return true;
end
$$;
comment on function awa.sync_schedules is
  'Makes the schedules of a program be those that it declares; returns whether it did';

-- Locks a source; makes it where it is not there, and returns whether it did.
-- Locks: the source, until the transaction ends, for which it waits for as long as lock_timeout says.
-- Raises 55P03, and names the sessions that may hold it.
create or replace function awa._lock_source(source text, revision bigint, content bytea) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.schedule_sources (source, revision, content)
  values (source, revision, content)
  on conflict do nothing;
  if found then
    return true;
  end if;
  perform from awa.schedule_sources s where s.source = source for update;
  return false;
exception when lock_not_available then
  perform awa._refuse_wait(array['awa.schedule_sources']::regclass[], 'the source is locked by another session',
    'A synchronisation holds its source until its transaction ends: let that end, and try again.',
    (select awa._row_holder('awa.schedule_sources', s.xmax) from awa.schedule_sources s where s.source = source));
end
$$;
comment on function awa._lock_source is 'Locks a source; makes it where it is not there, and returns whether it did';

-- The role that declares schedules: the one that the session has set, or its login; null for an operator.
-- Why: logins may change, and share a role. A source that an operator owned would be closed to its program.
create or replace function awa._declarer() returns oid
language sql stable
as $$
select r.oid
  from pg_roles r
 where r.rolname = case current_setting('role') when 'none' then session_user else current_setting('role') end
   and not awa._is_operator(r.rolname)
$$;
comment on function awa._declarer is
  'The role that declares schedules: the one that the session has set, or its login; null for an operator';

-- Refuses a login that is neither an operator, nor a worker and a producer.
-- Raises 42501.
create or replace function awa._check_declarer() returns void
language plpgsql
as $$
begin
  if not (awa._is_operator() or awa._may_call('awa.claim') and awa._may_call('awa.enqueue')) then
    raise exception using errcode = '42501', message = 'schedules are for operators, and for workers that may enqueue',
      detail = format('This session is of %s.', session_user),
      hint = 'Grant the login both roles, awa_worker and awa_producer by default.';
  end if;
end
$$;
comment on function awa._check_declarer is
  'Refuses a login that is neither an operator, nor a worker and a producer';

-- Refuses a source that belongs to a role of which the session's login is no member.
-- Raises 42501.
create or replace function awa._check_owner(source awa.schedule_sources) returns void
language plpgsql
as $$
declare
  v_owner constant oid := awa._owner_of(source);
begin
  if v_owner is not null and not pg_has_role(session_user, v_owner, 'member') and not awa._is_operator() then
    raise exception using errcode = '42501', message = 'the source belongs to another role',
      detail = format('Source %s belongs to %s; this session is of %s.', source.source, v_owner::regrole,
        session_user),
      hint = 'Choose another source, or be granted that role. For logins that change, set a role of which all of them '
        'are members.';
  end if;
end
$$;
comment on function awa._check_owner is
  'Refuses a source that belongs to a role of which the session''s login is no member';

-- The schedules that a program declares, in the order of their names, but for those that it has declared so before.
-- Raises 22023, which names the element.
create or replace function awa._declared(source text, schedules jsonb, now timestamptz) returns awa.schedules[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_declared awa.schedules[] := '{}';
  v_entry record;
  v_schedule awa.schedules;
  v_is_again boolean;
  v_last text;
  v_message text;
  v_detail text;
  v_hint text;
begin
  for v_entry in
    select j.value, j.ordinal
      from jsonb_array_elements(schedules) with ordinality j(value, ordinal)
     order by j.value ->> 'name', j.ordinal
  loop
    v_is_again := v_entry.value ->> 'name' is not distinct from v_last;
    v_last := v_entry.value ->> 'name';
    continue when not v_is_again and awa._is_declared(source, v_entry.value);
    perform awa._check_schedule_fields(v_entry.value);
    v_schedule := awa._schedule_from(v_entry.value);
    v_schedule.source := source;
    v_schedule := awa._checked_schedule(v_schedule, now);
    perform awa._refuse_source(v_schedule, s)
       from awa.schedules s
      where s.name = v_schedule.name and s.removed_at is null and s.source is distinct from source;
    if v_is_again then
      perform awa._refuse('name stands there twice', v_schedule.name, 'Leave one of them out.');
    end if;
    v_declared := v_declared || v_schedule;
  end loop;
  return v_declared;
exception when invalid_parameter_value then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  raise exception using errcode = '22023', message = 'schedules: ' || v_message,
    detail = format('Element %s%s: %s', v_entry.ordinal,
      case when jsonb_typeof(v_entry.value -> 'name') = 'string'
        then format(' (%s)', left(v_entry.value ->> 'name', 200)) end, v_detail),
    hint = v_hint;
end
$$;
comment on function awa._declared is
  'The schedules that a program declares, in the order of their names, but for those that it has declared so before';

-- Whether a source has declared a schedule as an entry says; false where it is written otherwise.
-- Raises 22023.
-- Why: to check an entry takes ten times as long, and most programs declare the same each time that they start.
create or replace function awa._is_declared(source text, entry jsonb) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_schedule awa.schedules;
  v_declared jsonb;
begin
  select s.* into v_schedule
    from awa.schedules s
   where s.name = entry ->> 'name' and s.source = source and s.removed_at is null;
  if not found then
    return false;
  end if;
  select '{"cron": null, "every": null, "args": {}, "timezone": "UTC", "missed": "latest", "missed_for": "1 day",
           "overlap": "allow", "starts_at": null, "ends_at": null, "priority": null, "max_attempts": null, "tags": null,
           "metadata": null, "group_key": null}'
         || jsonb_object_agg(e.key, case
              when jsonb_typeof(e.value) <> 'string' then e.value
              -- times in one form
              when e.key in ('every', 'missed_for') then to_jsonb(awa._as_interval(entry ->> e.key, e.key))
              when e.key in ('starts_at', 'ends_at') then to_jsonb(awa._timestamp(entry ->> e.key, e.key))
              else e.value
            end)
    into v_declared
    from jsonb_each(entry) e
   where e.value <> 'null';
  return v_declared::text = jsonb_build_object('name', v_schedule.name, 'queue', v_schedule.queue,
    'kind', v_schedule.kind, 'cron', v_schedule.cron, 'every', v_schedule.every, 'args', v_schedule.args,
    'timezone', v_schedule.timezone, 'missed', v_schedule.missed, 'missed_for', v_schedule.missed_for,
    'overlap', v_schedule.overlap, 'starts_at', v_schedule.starts_at, 'ends_at', v_schedule.ends_at,
    'priority', v_schedule.priority, 'max_attempts', v_schedule.max_attempts, 'tags', v_schedule.tags,
    'metadata', v_schedule.metadata, 'group_key', v_schedule.group_key)::text;
end
$$;
comment on function awa._is_declared is
  'Whether a source has declared a schedule as an entry says; false where it is written otherwise';

-- Saves the schedules that a program declares.
-- Raises 22023, which names the schedule.
create or replace function awa._save_declared(declared awa.schedules[]) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_schedule awa.schedules;
  v_message text;
  v_detail text;
  v_hint text;
begin
  foreach v_schedule in array declared loop
    perform awa._save_schedule(v_schedule);
  end loop;
exception when invalid_parameter_value then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  raise exception using errcode = '22023', message = 'schedules: ' || v_message, detail = v_detail, hint = v_hint;
end
$$;
comment on function awa._save_declared is 'Saves the schedules that a program declares';

-- Refuses an entry of a declaration whose fields are not of schedule's names and types.
-- Raises 22023, which names the field.
create or replace function awa._check_schedule_fields(entry jsonb) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_field text;
  v_value jsonb;
  v_type text;
begin
  if jsonb_typeof(entry) <> 'object' then
    perform awa._refuse('each element must be an object', jsonb_typeof(entry), 'Pass the fields of schedule.');
  end if;
  for v_field, v_value in select * from jsonb_each(entry) loop
    v_type := case
      when v_field in ('name', 'queue', 'kind', 'cron', 'every', 'timezone', 'missed', 'missed_for', 'overlap',
        'starts_at', 'ends_at', 'group_key') then 'a string'
      when v_field in ('priority', 'max_attempts') then 'a whole number'
      when v_field = 'tags' then 'an array of strings'
      when v_field in ('args', 'metadata') then 'any'
    end;
    if v_type is null then
      perform awa._refuse(format('there is no field %s', left(v_field, 100)), awa._brief(v_value),
        'The fields are name, queue, kind, cron, every, args, timezone, missed, missed_for, overlap, starts_at, '
        'ends_at, priority, max_attempts, tags, metadata and group_key.');
    elsif v_value <> 'null' and not (case v_type
      when 'a string' then jsonb_typeof(v_value) = 'string'
      when 'a whole number' then jsonb_typeof(v_value) = 'number' and awa._brief(v_value) ~ '^-?[0-9]{1,9}$'
      when 'an array of strings' then awa._is_list(v_value)
      else true
    end)
    then
      perform awa._refuse(format('%s must be %s', v_field, v_type), awa._brief(v_value), 'Pass null for the default.');
    end if;
  end loop;
end
$$;
comment on function awa._check_schedule_fields is
  'Refuses an entry of a declaration whose fields are not of schedule''s names and types';

-- The schedule that an entry of a declaration says.
-- Raises 22023.
create or replace function awa._schedule_from(entry jsonb) returns awa.schedules
language plpgsql
as $$
declare
  v_schedule awa.schedules;
begin
  v_schedule.name := entry ->> 'name';
  v_schedule.queue := entry ->> 'queue';
  v_schedule.kind := entry ->> 'kind';
  v_schedule.cron := entry ->> 'cron';
  v_schedule.every := awa._as_interval(entry ->> 'every', 'every');
  v_schedule.args := nullif(entry -> 'args', 'null');
  v_schedule.timezone := entry ->> 'timezone';
  v_schedule.missed := entry ->> 'missed';
  v_schedule.missed_for := awa._as_interval(entry ->> 'missed_for', 'missed_for');
  v_schedule.overlap := entry ->> 'overlap';
  v_schedule.starts_at := awa._timestamp(entry ->> 'starts_at', 'starts_at');
  v_schedule.ends_at := awa._timestamp(entry ->> 'ends_at', 'ends_at');
  v_schedule.priority := (entry ->> 'priority')::int;
  v_schedule.max_attempts := (entry ->> 'max_attempts')::int;
  v_schedule.tags := awa._texts(entry -> 'tags');
  v_schedule.metadata := nullif(entry -> 'metadata', 'null');
  v_schedule.group_key := entry ->> 'group_key';
  return v_schedule;
end
$$;
comment on function awa._schedule_from is 'The schedule that an entry of a declaration says';
