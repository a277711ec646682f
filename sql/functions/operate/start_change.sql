-- Starts a change of all jobs that match a filter, which maintenance makes in parts; returns its id.
-- Action: cancel, discard, retry, move, set_priority or delete. The filter is as that of scan_jobs, with at least one
-- condition. Without a state: all states that allow the action; for retry failed, cancelled and dead. Options: reason
-- for cancel and discard; queue for move; priority for set_priority; queue, priority, run_at and over for retry, where
-- over is the time over which the retries are spread. Jobs that are enqueued after this call are not touched. The
-- setting awa.actor is recorded beside the login.
-- Raises 22023.
create or replace function awa.start_change(action text, filter jsonb, options jsonb default '{}') returns bigint
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
as $$
#variable_conflict use_variable
declare
  v_states text[] := awa._changed_states(action);
  v_filter record;
  v_options jsonb;
  v_change_id bigint;
begin
  if v_states is null then
    perform awa._refuse('action must be one that changes jobs', action,
      'The actions are cancel, discard, retry, move, set_priority and delete.');
  end if;
  perform awa._json_bytes('filter', filter, most => 65536);
  v_filter := awa._read_filter(filter);
  -- an empty object is in the arguments of each job
  if num_nonnulls(v_filter.queue, v_filter.kind, v_filter.state, v_filter.before, v_filter.tag,
    nullif(nullif(v_filter.args, '{}'), '[]'), v_filter.group_key, v_filter.cause) = 0 then
    perform awa._refuse('a filter must name a queue, kind, state, before, tag, args, group_key or cause',
      awa._brief(filter),
      'Say which jobs: at least one of these.');
  elsif v_filter.state <> all(v_states) then
    perform awa._refuse('filter: state must be one that allows this change', v_filter.state,
      'It may be ' || array_to_string(v_states, ', ') || '.');
  end if;
  v_options := awa._checked_options(action, coalesce(options, '{}'));
  insert into awa.changes
    (change_id, action, filter, options, started_by, actor, started_at, state, before_id, turn_at, moved_at)
  select nextval('awa.change_ids'), action,
         awa._without_nulls(filter)
           || awa._without_nulls(jsonb_build_object('before', v_filter.before, 'cause', v_filter.cause)),
         v_options, session_user, awa._actor(), t.now, 'running',
         s.last_value + s.is_called::int, t.now, t.now
    from awa.job_ids s, clock_timestamp() t(now)
  returning changes.change_id into v_change_id;
  return v_change_id;
end
$$;
comment on function awa.start_change is
  'Starts a change of all jobs that match a filter, which maintenance makes in parts; returns its id';

-- The states of the jobs that an action changes; null for an unknown action.
create or replace function awa._changed_states(action text) returns text[]
language sql immutable parallel safe
return case action
  when 'cancel' then awa._states('cancellable')
  when 'discard' then awa._states('cancellable')
  when 'retry' then awa._states('retriable')
  when 'move' then array_append(awa._states('deferred'), 'available')
  when 'set_priority' then array_append(awa._states('deferred'), 'available')
  when 'delete' then awa._states('ended')
end;
comment on function awa._changed_states is 'The states of the jobs that an action changes; null for an unknown action';

-- The options of an action, once they are checked: without nulls, and with times that say their zone.
-- Raises 22023.
create or replace function awa._checked_options(action text, options jsonb) returns jsonb
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_known constant text[] := case action
    when 'cancel' then '{reason}'
    when 'discard' then '{reason}'
    when 'retry' then '{queue,priority,run_at,over}'
    when 'move' then '{queue}'
    when 'set_priority' then '{priority}'
    else '{}'
  end;
  v_checked jsonb := '{}';
  v_key text;
  v_value jsonb;
begin
  if jsonb_typeof(options) <> 'object' then
    perform awa._refuse('options must be a JSON object', awa._brief(options),
      'Pass something like {"queue": "email"}.');
  end if;
  perform awa._json_bytes('options', options, most => 65536);
  for v_key, v_value in select * from jsonb_each(options) loop
    if v_key <> all(v_known) then
      perform awa._refuse('options holds an unknown key', v_key,
        case when v_known = '{}' then action || ' has no options.'
             else format('The keys for %s are %s.', action, array_to_string(v_known, ', ')) end);
    elsif v_value <> 'null' then
      v_checked := v_checked || jsonb_build_object(v_key, awa._checked_option(v_key, v_value));
    end if;
  end loop;
  if (action = 'move' and not v_checked ? 'queue') or (action = 'set_priority' and not v_checked ? 'priority') then
    perform awa._refuse(format('options: %s must be there for %s', v_known[1], action), awa._brief(options),
      'Say where the jobs are to go.');
  end if;
  return v_checked;
end
$$;
comment on function awa._checked_options is
  'The options of an action, once they are checked: without nulls, and with times that say their zone';

-- The value of one option, once it is checked.
-- Raises 22023.
create or replace function awa._checked_option(option text, value jsonb) returns jsonb
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_text text := value #>> '{}';
  v_over interval;
  v_run_at timestamptz;
begin
  if option = 'priority' then
    if value not in ('1', '2', '3', '4') then
      perform awa._refuse('options: priority must be between 1 and 4', awa._brief(value),
        'Pass a number, without quotation marks. Priority 1 is served first, 4 last.');
    end if;
    return value;
  elsif option = 'over' then
    v_over := awa._interval(value);
    if awa._fits(v_over, '0', '10 years') is not true then
      perform awa._refuse('options: over must be an interval between 0 and 10 years', awa._brief(value),
        'Pass an interval such as "2 hours", or a number of seconds.');
    end if;
    return to_jsonb(v_over::text);
  elsif jsonb_typeof(value) <> 'string' then
    perform awa._refuse(format('options: %s must be a string', option), awa._brief(value),
      'Pass it in quotation marks, or leave it out.');
  elsif option = 'queue' then
    perform awa._check_name('options: queue', v_text);
  elsif option = 'run_at' then
    v_run_at := awa._timestamp(v_text, 'options: run_at');
    if v_run_at >= '9999-12-31 10:00:00+00' then
      perform awa._refuse('options: run_at must be a time before 9999-12-31 10:00 UTC', v_text,
        'Pass one such as 2026-01-31T12:00:00Z, or leave it out for now.');
    end if;
    return to_jsonb(v_run_at);
  end if;
  return value;
end
$$;
comment on function awa._checked_option is 'The value of one option, once it is checked';

-- The arguments of a call over a filter, as the filter of a change.
create or replace function awa._as_filter(
  queue text,
  kind text,
  state text,
  before timestamptz,
  tag text,
  args jsonb,
  group_key text,
  cause text
) returns jsonb
language sql stable
return jsonb_build_object('queue', queue, 'kind', kind, 'state', state, 'before', before, 'tag', tag, 'args', args,
  'group_key', group_key, 'cause', cause);
comment on function awa._as_filter is 'The arguments of a call over a filter, as the filter of a change';
