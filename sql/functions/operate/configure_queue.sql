-- Changes settings of a queue; those that are not named stay, null brings a default back. Makes the queue if it is not there. Raises 22023.
-- Locks: the queue's name, shared, and its settings, until the transaction ends; only drop_queue and other changes of its settings wait.
-- default_priority: 1 to 4. default_max_attempts: 1 to 1000. dead_letter: true or false. The others (lease, deadline, backoff_base, backoff_max, aging_interval, failed_retention, dlq_retention, completed_retention): an
-- interval as text, or seconds; 1 ms to a year, the retentions to 100 years, completed_retention to that of the installation.
create or replace function awa.configure_queue(queue text, settings jsonb) returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
  v_queue_id bigint;
  v_key text;
  v_value jsonb;
  v_interval interval;
  v_most text;
  v_intervals jsonb := '{}';
begin
  perform awa._check_name('queue', queue);
  if settings is null or jsonb_typeof(settings) <> 'object' then
    perform awa._refuse('settings must be a JSON object', awa._brief(settings), 'Pass something like {"lease": "5 minutes"}.');
  end if;
  for v_key, v_value in select * from jsonb_each(settings) loop
    if v_key not in ('default_priority', 'default_max_attempts', 'lease', 'deadline', 'backoff_base', 'backoff_max', 'dead_letter', 'aging_interval', 'failed_retention', 'dlq_retention', 'completed_retention') then
      perform awa._refuse('settings holds an unknown key', v_key,
        'The keys are default_priority, default_max_attempts, lease, deadline, backoff_base, backoff_max, dead_letter, aging_interval, failed_retention, dlq_retention and completed_retention.');
    elsif v_value = 'null' then
      null;
    elsif v_key = 'default_priority' then
      if jsonb_typeof(v_value) <> 'number' or v_value::text !~ '^[1-4]$' then
        perform awa._refuse('default_priority must be between 1 and 4', awa._brief(v_value), 'Priority 1 is served first.');
      end if;
    elsif v_key = 'default_max_attempts' then
      if (case when jsonb_typeof(v_value) = 'number' and v_value::text ~ '^[0-9]{1,4}$' then v_value::int not between 1 and 1000 else true end) then
        perform awa._refuse('default_max_attempts must be between 1 and 1000', awa._brief(v_value), 'Pass a whole number.');
      end if;
    elsif v_key = 'dead_letter' then
      if jsonb_typeof(v_value) <> 'boolean' then
        perform awa._refuse('dead_letter must be true or false', awa._brief(v_value), 'True keeps jobs that failed for good as dead letters.');
      end if;
    else
      v_interval := awa._interval(v_value);
      v_most := case
        when v_key in ('failed_retention', 'dlq_retention') then '100 years'
        when v_key = 'completed_retention' then (select s.completed_retention::text from awa.settings s)
        else '1 year'
      end;
      if v_interval is null or not awa._fits(v_interval, '1 millisecond', v_most::interval) then
        perform awa._refuse(format('%s must be an interval between 1 millisecond and %s', v_key, v_most), awa._brief(v_value),
          case v_key
            when 'completed_retention' then 'Pass an interval such as "6 hours", or a number of seconds: no more than completed_retention in awa.settings.'
            else 'Pass an interval such as "30 seconds", or a number of seconds.'
          end);
      end if;
      v_intervals := v_intervals || jsonb_build_object(v_key, v_interval::text);
    end if;
  end loop;

  v_queue_id := awa._make_queue(queue);
  insert into awa.queue_settings (queue_id) values (v_queue_id) on conflict do nothing;
  update awa.queue_settings s
     set default_priority = case when settings ? 'default_priority' then (settings ->> 'default_priority')::smallint else s.default_priority end,
         default_max_attempts = case when settings ? 'default_max_attempts' then (settings ->> 'default_max_attempts')::smallint else s.default_max_attempts end,
         lease = case when settings ? 'lease' then (v_intervals ->> 'lease')::interval else s.lease end,
         backoff_base = case when settings ? 'backoff_base' then (v_intervals ->> 'backoff_base')::interval else s.backoff_base end,
         backoff_max = case when settings ? 'backoff_max' then (v_intervals ->> 'backoff_max')::interval else s.backoff_max end,
         deadline = case when settings ? 'deadline' then (v_intervals ->> 'deadline')::interval else s.deadline end,
         dead_letter = case when settings ? 'dead_letter' then (settings ->> 'dead_letter')::boolean else s.dead_letter end,
         aging_interval = case when settings ? 'aging_interval' then (v_intervals ->> 'aging_interval')::interval else s.aging_interval end,
         failed_retention = case when settings ? 'failed_retention' then (v_intervals ->> 'failed_retention')::interval else s.failed_retention end,
         dlq_retention = case when settings ? 'dlq_retention' then (v_intervals ->> 'dlq_retention')::interval else s.dlq_retention end,
         completed_retention = case when settings ? 'completed_retention' then (v_intervals ->> 'completed_retention')::interval else s.completed_retention end,
         changed_at = clock_timestamp(),
         changed_by = session_user
   where s.queue_id = v_queue_id;
end
$$;
comment on function awa.configure_queue is 'Changes settings of a queue';

-- The id of a queue, which is made if it is not there. Keeps drop_queue out until the transaction ends: it would leave behind the settings that the caller is about to write, for the next queue of that name.
-- Locks: the queue's name, shared. Raises 22023.
create or replace function awa._make_queue(queue text) returns bigint
language plpgsql
as $$
declare
  v_queue_id bigint := awa._queue_id(queue);
begin
  perform awa._check_name('queue', queue);
  perform from awa.queues q where q.queue_id = v_queue_id and q.dropped_at is null for share;
  if not found then
    insert into awa.queues (queue_id, name) values (v_queue_id, queue);
  end if;
  return v_queue_id;
end
$$;
comment on function awa._make_queue is 'The id of a queue, which is made if it is not there';

-- The id of a queue that exists. Raises 22023, JQ002.
create or replace function awa._require_queue(queue text) returns bigint
language plpgsql
as $$
declare
  v_queue_id bigint;
begin
  perform awa._check_name('queue', queue);
  v_queue_id := awa._queue_id(queue);
  if not exists (select from awa.queues q where q.queue_id = v_queue_id and q.dropped_at is null) then
    raise exception using errcode = 'JQ002', message = 'no such queue', detail = format('Got %s.', left(queue, 200)),
      hint = 'A queue exists from its first enqueue, configure_queue or pause_queue.';
  end if;
  return v_queue_id;
end
$$;
comment on function awa._require_queue is 'The id of a queue that exists, or JQ002';

-- An interval from JSON: a text that PostgreSQL reads as one, or a number of seconds. Null when it is neither.
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
comment on function awa._interval is 'An interval from JSON, or null';
