-- The settings of the installation, and of queues.

-- The default of a setting of a queue that is a whole number.
-- Why: the planner puts the number in the place of the call, so that a hot call pays nothing for it.
create or replace function awa._default_number(setting text) returns int
language sql immutable parallel safe
return case setting when 'default_priority' then 2 when 'default_max_attempts' then 25 when 'shards' then 1 end;
comment on function awa._default_number is 'The default of a setting of a queue that is a whole number';

-- The default of a setting of a queue that is an interval.
-- Why: as _default_number.
create or replace function awa._default_interval(setting text) returns interval
language sql immutable parallel safe
return case setting
  when 'lease' then interval '1 minute'
  when 'backoff_base' then interval '1 second'
  when 'backoff_max' then interval '24 hours'
  when 'aging_interval' then interval '1 minute'
  when 'failed_retention' then interval '72 hours'
  when 'dlq_retention' then interval '30 days'
end;
comment on function awa._default_interval is 'The default of a setting of a queue that is an interval';

-- How long a failed, cancelled or dead job is kept, at least, by two settings of its queue.
create or replace function awa._retention(
  state text,
  failed_retention interval,
  dlq_retention interval
) returns interval
language sql immutable parallel safe
return case
  when state = any(awa._states('dlq_retention')) then coalesce(dlq_retention, awa._default_interval('dlq_retention'))
  else coalesce(failed_retention, awa._default_interval('failed_retention'))
end;
comment on function awa._retention is
  'How long a failed, cancelled or dead job is kept, at least, by two settings of its queue';

-- type is interval, integer, number, boolean, choice (see _choices) or rate (see _checked_rate). A queue's
-- completed_retention is at most, and
-- by default, that of the installation, which _checked_settings and list_queues look up. The defaults of the
-- installation are also those of the columns of awa.settings, since no table may depend on a function; a test compares
-- them.
create or replace view awa._known_settings as
select k.of_queue, k.name, k.type, k.min_value, k.max_value, k.default_value
  from (values
    (false, 'claim_wait', 'interval', '1 millisecond', '1 hour', '5 seconds'),
    (false, 'claim_bytes', 'integer', '1', '1000000000', '184320'),
    (false, 'segment_bytes', 'integer', '1', '9223372036854775807', '1073741824'),
    (false, 'segment_age', 'interval', '1 microsecond', '100 years', '8 hours'),
    (false, 'completed_retention', 'interval', '0 seconds', '100 years', '24 hours'),
    (false, 'carry_max', 'integer', '0', '10000000', '100000'),
    (false, 'prune_wait', 'interval', '1 millisecond', '500 milliseconds', '20 milliseconds'),
    (false, 'notifications', 'boolean', null, null, 'true'),
    (false, 'warn_ready_age', 'interval', '1 millisecond', '100 years', '5 minutes'),
    (false, 'warn_failed_share', 'number', '0', '1', '0.25'),
    (false, 'warn_silence', 'interval', '1 millisecond', '100 years', '1 minute'),
    (false, 'warn_transaction_age', 'interval', '1 millisecond', '100 years', '1 hour'),
    (false, 'warn_group_age', 'interval', '1 millisecond', '100 years', '15 minutes'),
    (true, 'default_priority', 'integer', '1', '4', awa._default_number('default_priority')::text),
    (true, 'default_max_attempts', 'integer', '1', '1000',
      awa._default_number('default_max_attempts')::text),
    (true, 'lease', 'interval', '1 millisecond', '1 year', awa._default_interval('lease')::text),
    (true, 'deadline', 'interval', '1 millisecond', '1 year', null),
    (true, 'backoff_base', 'interval', '1 millisecond', '1 year', awa._default_interval('backoff_base')::text),
    (true, 'backoff_max', 'interval', '1 millisecond', '1 year', awa._default_interval('backoff_max')::text),
    (true, 'dead_letter', 'boolean', null, null, 'false'),
    (true, 'aging_interval', 'interval', '1 millisecond', '1 year', awa._default_interval('aging_interval')::text),
    (true, 'shards', 'integer', '1', '64', awa._default_number('shards')::text),
    (true, 'max_depth', 'integer', '1', '1000000000', null),
    (true, 'failed_retention', 'interval', '1 millisecond', '100 years',
      awa._default_interval('failed_retention')::text),
    (true, 'dlq_retention', 'interval', '1 millisecond', '100 years',
      awa._default_interval('dlq_retention')::text),
    (true, 'completed_retention', 'interval', '1 millisecond', null, null),
    (true, 'group_max_running', 'integer', '1', '1000000', null),
    (true, 'group_rate', 'rate', '1', '1000000', null),
    (true, 'max_running', 'integer', '1', '1000000', null),
    (true, 'rate', 'rate', '1', '1000000', null),
    (true, 'group_order', 'choice', null, null, 'start'),
    (true, 'group_turns', 'boolean', null, null, 'false')
  ) k(of_queue, name, type, min_value, max_value, default_value);
comment on view awa._known_settings is 'The settings that there are, with their ranges and defaults';

-- The settings that configure and configure_queue get, once they are checked.
-- As the columns of their tables take them.
-- Raises 22023 for an unknown key, or a value out of range.
create or replace function awa._checked_settings(of_queue boolean, settings jsonb) returns jsonb
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_checked jsonb := '{}';
  v_key text;
  v_value jsonb;
  v_known awa._known_settings;
begin
  if settings is null or jsonb_typeof(settings) <> 'object' then
    perform awa._refuse('settings must be a JSON object', awa._brief(settings),
      format('Pass something like {"%s": "5 minutes"}.', case when of_queue then 'lease' else 'segment_age' end));
  end if;
  for v_key, v_value in select * from jsonb_each(settings) loop
    select k.* into v_known from awa._known_settings k where k.of_queue = of_queue and k.name = v_key;
    if not found then
      perform awa._refuse('settings holds an unknown key', v_key,
        (select format('The keys are %s.', string_agg(k.name, ', ' order by k.name))
           from awa._known_settings k where k.of_queue = of_queue));
    elsif v_value <> 'null' then
      if of_queue and v_key = 'completed_retention' then
        v_known.max_value := (awa._settings()).completed_retention;
      end if;
      v_value := awa._checked_setting(v_known, v_value);
    end if;
    v_checked := v_checked || jsonb_build_object(v_key, v_value);
  end loop;
  return v_checked;
end
$$;
comment on function awa._checked_settings is
  'The settings that configure and configure_queue get, once they are checked';

-- The value of one setting once it is checked.
-- Raises 22023.
create or replace function awa._checked_setting(known awa._known_settings, value jsonb) returns jsonb
language plpgsql stable
as $$
declare
  v_interval interval;
  v_number numeric;
begin
  if known.type = 'rate' then
    return awa._checked_rate(known, value);
  elsif known.type = 'choice' then
    if (value #>> '{}' = any(awa._choices(known.name))) is not true then
      perform awa._refuse(format('%s must be one of %s', known.name, array_to_string(awa._choices(known.name), ', ')),
        awa._brief(value), 'Pass one of these, as a string.');
    end if;
    return value;
  elsif known.type = 'boolean' then
    if jsonb_typeof(value) <> 'boolean' then
      perform awa._refuse(known.name || ' must be true or false', awa._brief(value),
        'Pass true or false, without quotation marks.');
    end if;
    return value;
  elsif known.type = 'interval' then
    v_interval := awa._interval(value);
    if awa._fits(v_interval, known.min_value::interval, known.max_value::interval) is not true then
      perform awa._refuse(
        format('%s must be an interval between %s and %s', known.name, known.min_value, known.max_value),
        awa._brief(value),
        'Pass an interval such as "30 seconds", or a number of seconds.'
          || case when known.of_queue and known.name = 'completed_retention'
                  then ' The most is that of the installation, which awa.configure sets.' else '' end);
    end if;
    return to_jsonb(v_interval::text);
  end if;
  if jsonb_typeof(value) = 'number' then
    v_number := value #>> '{}';
  end if;
  if (v_number between known.min_value::numeric and known.max_value::numeric
      and (known.type = 'number' or v_number = trunc(v_number))) is not true then
    perform awa._refuse(
      format('%s must be a %s between %s and %s', known.name,
        case known.type when 'integer' then 'whole number' else 'number' end, known.min_value, known.max_value),
      awa._brief(value),
      case
        when v_number = 0 and known.name = 'max_running' then 'To let no job begin, pause the queue: pause_queue.'
        when v_number = 0 and known.name = 'group_max_running'
          then 'To let no job of a group begin, pause it: pause_group.'
        else 'Pass a number, without quotation marks.'
      end);
  end if;
  return to_jsonb(case known.type when 'integer' then trunc(v_number) else v_number end);
end
$$;
comment on function awa._checked_setting is 'The value of one setting once it is checked';

-- The values that a setting of the type choice may have.
create or replace function awa._choices(setting text) returns text[]
language sql immutable
return case setting when 'group_order' then '{start,strict,halt}'::text[] end;
comment on function awa._choices is 'The values that a setting of the type choice may have';

-- A rate once it is checked: an object with jobs, per, and burst, which is a twentieth of jobs by default, at least 1.
-- min_value and max_value are those of jobs and burst.
-- Raises 22023.
create or replace function awa._checked_rate(known awa._known_settings, value jsonb) returns jsonb
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_hint constant text := 'Pass something like {"jobs": 100, "per": "1 minute", "burst": 5}.';
  v_per interval;
  v_number jsonb;
begin
  if jsonb_typeof(value) <> 'object' or not value ? 'jobs' or not value ? 'per' then
    perform awa._refuse(known.name || ' must be an object with jobs and per', awa._brief(value), v_hint);
  end if;
  perform awa._refuse(known.name || ' holds an unknown key', k, 'The keys are burst, jobs, per.')
     from jsonb_object_keys(value) k
    where k <> all('{jobs,per,burst}');
  if value -> 'burst' = 'null' then
    value := value - 'burst';
  end if;
  v_per := awa._interval(value -> 'per');
  if extract(month from v_per) <> 0 or extract(year from v_per) <> 0
    or awa._fits(v_per, '1 millisecond', '366 days') is not true then
    perform awa._refuse(known.name || '.per must be an interval between 1 millisecond and 366 days, without months',
      awa._brief(value -> 'per'), 'Pass an interval such as "1 minute", or a number of seconds.');
  end if;
  foreach v_number in array array[value -> 'jobs', coalesce(value -> 'burst', '1')] loop
    if jsonb_typeof(v_number) <> 'number'
      or (v_number #>> '{}')::numeric <> trunc((v_number #>> '{}')::numeric)
      or not (v_number #>> '{}')::numeric between known.min_value::numeric and known.max_value::numeric
    then
      perform awa._refuse(
        format('%s.jobs and %1$s.burst must be whole numbers between %s and %s', known.name, known.min_value,
          known.max_value), awa._brief(v_number), v_hint);
    end if;
  end loop;
  -- The time until a burst may begin again: claims add it to a time.
  if (value ->> 'burst')::numeric * extract(epoch from v_per) / (value ->> 'jobs')::numeric
    > extract(epoch from interval '36525 days')
  then
    perform awa._refuse(known.name || '.burst * per / jobs must be at most 100 years', awa._brief(value), v_hint);
  end if;
  return jsonb_build_object('jobs', trunc((value ->> 'jobs')::numeric), 'per', v_per::text, 'burst',
    coalesce(trunc((value ->> 'burst')::numeric), greatest(trunc((value ->> 'jobs')::numeric / 20), 1)));
end
$$;
comment on function awa._checked_rate is
  'A rate once it is checked: an object with jobs, per, and burst, which is a twentieth of jobs by default, at least 1';

-- An interval from JSON: a text that PostgreSQL reads as one, or a number of seconds; null for anything else.
create or replace function awa._interval(value jsonb) returns interval
language plpgsql
as $$
begin
  return case jsonb_typeof(value)
    when 'string' then (value #>> '{}')::interval
    when 'number' then make_interval(secs => (value #>> '{}')::float8)
  end;
exception when data_exception then
  return null;
end
$$;
comment on function awa._interval is
  'An interval from JSON: a text that PostgreSQL reads as one, or a number of seconds; null for anything else';

-- A length of time for lock_timeout.
create or replace function awa._milliseconds(length interval) returns text
language sql immutable
return ceil(extract(epoch from length) * 1000)::bigint::text;
comment on function awa._milliseconds is 'A length of time for lock_timeout';

-- The shorter one of claim_wait and a lock_timeout that is not 0, for lock_timeout.
create or replace function awa._shorter_wait(claim_wait interval, lock_timeout text) returns text
language sql stable
return awa._milliseconds(least(claim_wait, nullif(lock_timeout::interval, '0')));
comment on function awa._shorter_wait is
  'The shorter one of claim_wait and a lock_timeout that is not 0, for lock_timeout';

-- Raises 55P03: the settings of a queue were waited for, for as long as lock_timeout says.
-- Names the holder.
create or replace function awa._refuse_settings() returns void
language plpgsql
as $$
begin
  perform awa._refuse_wait(array['awa.queues', 'awa.queue_settings']::regclass[],
    'the settings of the queue are being changed by another session',
    'configure_queue, pause_queue, resume_queue and drop_queue hold them until their transaction ends: let that end, '
    'and try again.');
end
$$;
comment on function awa._refuse_settings is
  'Raises 55P03: the settings of a queue were waited for, for as long as lock_timeout says';
