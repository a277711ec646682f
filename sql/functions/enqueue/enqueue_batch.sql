-- Appends jobs of any queues and kinds, unless others hold their unique keys; returns whether each was inserted.
-- jobs is an array of objects with the fields of enqueue, and unique: an object with the fields key, by, period, zone
-- and states, as the arguments of enqueue_unique. Where a job was not inserted, the id is that of the job that holds
-- the key. Neighbours that differ in args and unique alone are appended together, so sort them when there are
-- thousands.
-- Locks: the unique keys, in their order; waits as enqueue_unique. For jobs with a group, as enqueue; where they go to
-- more than 64 queues, one lock for all of these.
-- Raises as enqueue_unique does.
create or replace function awa.enqueue_batch(jobs jsonb) returns setof awa.enqueue_unique_row
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
declare
  v_now timestamptz := clock_timestamp();
  v_is_many boolean; -- queues to which jobs with a group go
  v_jobs int := jsonb_array_length(case when jsonb_typeof(jobs) = 'array' then jobs else '[]' end);
  v_job_ids bigint[];
  v_keys bytea[];
  v_inserted boolean[];
  v_key record;
  v_last_key bytea;
  v_last_id bigint;
  v_taken record;
  v_run record;
begin
  if jobs is null or jsonb_typeof(jobs) <> 'array' then
    perform awa._refuse('jobs must be a JSON array', jsonb_typeof(jobs),
      'Pass an array of objects with the fields of enqueue.');
  end if;
  if v_jobs > 10000 then
    perform awa._refuse('jobs must hold at most 10000 elements', v_jobs::text, 'Split it into several calls.');
  end if;
  perform awa._check_fields(j.job, j.ordinal) from jsonb_array_elements(jobs) with ordinality j(job, ordinal);
  v_keys := awa._checked_keys(jobs, v_now);

  -- Ids in the order of the array: in this order they are served.
  v_job_ids := array(select nextval('awa.job_ids') from generate_series(1, v_jobs));
  v_inserted := array_fill(true, array[v_jobs]);
  -- Keys in one order, whatever that of the jobs: two batches never wait for each other in a circle.
  for v_key in
    select k.ordinal, substr(k.key, 1, 32) as key,
           awa._holds(k.key,
             case
               when awa._timestamp(jobs -> (k.ordinal::int - 1) ->> 'run_at') > v_now then 'scheduled'
               else 'available'
             end) as holds
      from unnest(v_keys) with ordinality k(key, ordinal)
     where k.key is not null
     order by 2, 1
  loop
    -- A job of this batch has it by now; it is not there yet, so _take_key would take an heir for one that has left.
    if v_key.key = v_last_key then
      v_job_ids[v_key.ordinal] := v_last_id;
      v_inserted[v_key.ordinal] := false;
      continue;
    end if;
    if v_key.holds then
      v_last_key := v_key.key;
      v_last_id := v_job_ids[v_key.ordinal];
      -- most often no job has it
      continue when awa._try_key(v_key.key, v_last_id);
    end if;
    v_taken := awa._take_key(v_key.key, v_key.holds, v_job_ids[v_key.ordinal], v_now);
    v_job_ids[v_key.ordinal] := v_taken.job_id;
    v_inserted[v_key.ordinal] := v_taken.taken;
    v_last_id := v_taken.job_id;
  end loop;

  v_is_many := v_jobs > awa._max_locks() and (
    select count(distinct j.job ->> 'queue') > awa._max_locks()
      from jsonb_array_elements(jobs) j(job)
     where j.job ->> 'group_key' is not null
  );
  for v_run in
    with fields as (
      select j.ordinal, coalesce(nullif(j.job -> 'args', 'null'), '{}') as args,
             j.job - '{args,unique}'::text[] as rest, j.job_id, j.key
        from (
          select *
            from rows from (
              jsonb_array_elements(jobs), unnest(v_job_ids), unnest(v_inserted), unnest(v_keys)
            ) with ordinality j(job, job_id, inserted, key, ordinal)
        ) j
       where j.inserted
    ), starts as (
      select f.*, f.rest is distinct from lag(f.rest) over (order by f.ordinal) as starts from fields f
    ), numbered as (
      select s.*, count(*) filter (where s.starts) over (order by s.ordinal) as run from starts s
    )
    select n.rest, array_agg(n.args order by n.ordinal) as args, array_agg(n.job_id order by n.ordinal) as job_ids,
           array_agg(n.key order by n.ordinal) as keys,
           row_number() over (partition by n.rest -> 'queue' order by n.run) = 1 as is_first_of_queue
      from numbered n
     group by n.run, n.rest
     order by n.run
  loop
    perform awa._append(o.queue, o.kind, v_run.args, o.priority, o.run_at, o.max_attempts, o.tags, o.metadata,
      o.group_key, o.expires_at, v_run.job_ids, v_run.keys, v_now, v_is_many, v_run.is_first_of_queue)
       from awa._job_options(v_run.rest) o;
  end loop;
  return query select unnest(v_job_ids), unnest(v_inserted);
end
$$;
comment on function awa.enqueue_batch is
  'Appends jobs of any queues and kinds, unless others hold their unique keys; returns whether each was inserted';

-- The unique keys of job objects, once their values have been checked; null for jobs without one.
-- Refuses the first object whose values enqueue would refuse, and names its ordinal.
-- Raises 22023.
create or replace function awa._checked_keys(jobs jsonb, now timestamptz) returns bytea[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_keys bytea[] := '{}';
  v_job record;
  v_options record;
  v_unique jsonb;
  v_message text;
  v_detail text;
  v_hint text;
begin
  for v_job in select j.job, j.ordinal from jsonb_array_elements(jobs) with ordinality j(job, ordinal) loop
    v_options := awa._job_options(v_job.job);
    perform awa._check_options(v_options.queue, v_options.kind, v_options.priority, v_options.run_at,
      v_options.max_attempts, v_options.tags, v_options.group_key, v_options.expires_at);
    if pg_column_size(v_job.job) > 2000 then
      perform awa._check_body(array[v_job.job -> 'args'], v_options.tags, v_options.metadata);
    end if;
    v_unique := v_job.job -> 'unique';
    v_keys[v_job.ordinal] := case when jsonb_typeof(v_unique) = 'object' then
      awa._unique_key(v_options.queue, v_options.kind, nullif(v_job.job -> 'args', 'null'), v_unique ->> 'key',
        awa._texts(v_unique -> 'by'), awa._as_interval(v_unique ->> 'period', 'unique.period'),
        coalesce(v_unique ->> 'zone', 'UTC'), awa._texts(v_unique -> 'states'), coalesce(v_options.run_at, now)) end;
  end loop;
  return v_keys;
exception when invalid_parameter_value then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  raise exception using errcode = '22023', message = 'jobs: ' || v_message,
    detail = format('Element %s: %s', v_job.ordinal, v_detail), hint = v_hint;
end
$$;
comment on function awa._checked_keys is
  'The unique keys of job objects, once their values have been checked; null for jobs without one';

-- The fields of a job object, but for args.
create or replace function awa._job_options(
  job              jsonb,
  out queue        text,
  out kind         text,
  out priority     int,
  out run_at       timestamptz,
  out max_attempts int,
  out tags         text[],
  out metadata     jsonb,
  out group_key    text,
  out expires_at   timestamptz
)
language plpgsql
as $$
begin
  queue := job ->> 'queue';
  kind := job ->> 'kind';
  priority := (job ->> 'priority')::int;
  run_at := awa._timestamp(job ->> 'run_at');
  max_attempts := (job ->> 'max_attempts')::int;
  tags := awa._texts(job -> 'tags');
  metadata := nullif(job -> 'metadata', 'null');
  group_key := job ->> 'group_key';
  expires_at := awa._timestamp(job ->> 'expires_at', 'expires_at');
end
$$;
comment on function awa._job_options is 'The fields of a job object, but for args';

-- Refuses a job object whose fields are not of enqueue's names and types, and names its ordinal.
-- Raises 22023.
create or replace function awa._check_fields(job jsonb, ordinal bigint) returns void
language plpgsql
as $$
declare
  v_field text;
  v_value jsonb;
begin
  if jsonb_typeof(job) <> 'object' then
    perform awa._refuse('jobs must hold objects only', format('element %s of type %s', ordinal, jsonb_typeof(job)),
      'Pass an array of objects with the fields of enqueue.');
  end if;
  for v_field, v_value in select * from jsonb_each(job) loop
    if (case v_field
          when 'queue' then jsonb_typeof(v_value) <> 'string'
          when 'kind' then jsonb_typeof(v_value) <> 'string'
          when 'args' then false
          when 'metadata' then false
          when 'priority'
            then jsonb_typeof(v_value) not in ('null', 'number') or awa._brief(v_value) !~ '^(null|-?[0-9]{1,9})$'
          when 'max_attempts'
            then jsonb_typeof(v_value) not in ('null', 'number') or awa._brief(v_value) !~ '^(null|-?[0-9]{1,9})$'
          when 'run_at' then jsonb_typeof(v_value) not in ('null', 'string')
          when 'expires_at' then jsonb_typeof(v_value) not in ('null', 'string')
          when 'group_key' then jsonb_typeof(v_value) not in ('null', 'string')
          when 'tags' then not awa._is_list(v_value)
          when 'unique' then jsonb_typeof(v_value) not in ('null', 'object')
          else true
        end)
    then
      perform awa._refuse('jobs holds an object with an unknown or unfit field',
        format('element %s, %s: %s', ordinal, left(v_field, 100), awa._brief(v_value)),
        'The fields are those of enqueue: queue, kind (strings), args, priority, max_attempts (whole numbers), run_at, '
        'expires_at (strings such as "2031-05-01T09:00:00+02:00"), tags (an array of strings), metadata, group_key (a '
        'string); and unique, an object.');
    end if;
    if v_field = 'unique' then
      for v_field, v_value in
        select * from jsonb_each(case when jsonb_typeof(v_value) = 'object' then v_value else '{}' end)
      loop
        if (case
              when v_field in ('key', 'period', 'zone') then jsonb_typeof(v_value) not in ('null', 'string')
              when v_field in ('by', 'states') then not awa._is_list(v_value)
              else true
            end)
        then
          perform awa._refuse('jobs: unique has an unknown or unfit field',
            format('element %s, %s: %s', ordinal, left(v_field, 100), awa._brief(v_value)),
            'The fields are key (a string), by (an array of strings), period (a string such as "1 day"), zone (a '
            'string), states (an array of strings).');
        end if;
      end loop;
    end if;
  end loop;
end
$$;
comment on function awa._check_fields is
  'Refuses a job object whose fields are not of enqueue''s names and types, and names its ordinal';
