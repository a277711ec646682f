-- Appends jobs of any queues and kinds, unless others hold their unique keys; returns whether each was inserted.
-- jobs is an array of objects with the fields of enqueue, and unique: an object with the fields key, by, period, zone
-- and states, as the arguments of enqueue_unique. Where a job was not inserted, the id is that of the job that holds
-- the key.
-- Locks: the unique keys, in their order; waits as enqueue_unique. For jobs with a group, as enqueue; where they go to
-- more than 64 queues, one lock for all of these.
-- Raises 22023, JQ006, 55000, 55P03, 40001, as enqueue_unique does.
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
  v_jobs int := jsonb_array_length(case when jsonb_typeof(jobs) = 'array' then jobs else '[]' end);
  v_glance record;
  v_job_ids bigint[];
  v_keys bytea[];
  v_inserted boolean[];
  v_key record;
  v_last_key bytea;
  v_last_id bigint;
  v_taken record;
begin
  if jobs is null or jsonb_typeof(jobs) <> 'array' then
    perform awa._refuse('jobs must be a JSON array', jsonb_typeof(jobs),
      'Pass an array of objects with the fields of enqueue.');
  end if;
  if v_jobs > 10000 then
    perform awa._refuse('jobs must hold at most 10000 elements', v_jobs::text, 'Split it into several calls.');
  end if;
  v_glance := awa._glance_at_jobs(jobs);
  if not v_glance.are_plain then
    perform awa._check_fields(j.job, j.ordinal) from jsonb_array_elements(jobs) with ordinality j(job, ordinal);
    v_keys := awa._checked_keys(jobs, v_now);
  elsif v_glance.has_large then
    perform awa._checked_keys(jobs, v_now, true);
  end if;

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

  if awa._ready_queues(jobs, v_inserted) then
    perform awa._append_batch(jobs, v_job_ids, v_inserted, v_keys, v_now);
  end if;
  return query select unnest(v_job_ids), unnest(v_inserted);
end
$$;
comment on function awa.enqueue_batch is
  'Appends jobs of any queues and kinds, unless others hold their unique keys; returns whether each was inserted';

-- Whether the elements of an array are jobs that enqueue would take, without a unique key; and whether some are large.
-- Large ones still have to be checked for values that are too long, or nested too deep. False for the few jobs that
-- would be taken, but are written in other ways, such as a run_at in the year 3000.
-- Why: one query for all. Only where it returns false are the jobs looked at one by one, which takes ten times as long,
-- and finds the first one that is to be refused.
create or replace function awa._glance_at_jobs(jobs jsonb, out are_plain boolean, out has_large boolean)
language plpgsql
as $$
begin
  select coalesce(bool_and((
           jsonb_typeof(j.job) = 'object'
             and j.job - '{queue,kind,args,priority,max_attempts,run_at,expires_at,tags,metadata,group_key}'::text[]
               = '{}'
             and jsonb_typeof(j.job -> 'queue') = 'string'
             and char_length(j.job ->> 'queue') between 1 and 200
             and jsonb_typeof(j.job -> 'kind') = 'string'
             and char_length(j.job ->> 'kind') between 1 and 200
             and case jsonb_typeof(j.job -> 'group_key')
               when 'string' then char_length(j.job ->> 'group_key') between 1 and 200
               when 'null' then true
               else j.job -> 'group_key' is null
             end
             and case
               when j.job ?| '{priority,max_attempts,run_at,expires_at,tags}' then awa._is_plain(j.job)
               else true
             end
         ) is true), true), coalesce(bool_or(pg_column_size(j.job) > 2000), false)
    into are_plain, has_large
    from (select jsonb_array_elements(jobs) as job) j;
end
$$;
comment on function awa._glance_at_jobs is
  'Whether the elements of an array are jobs that enqueue would take, without a unique key; and whether some are large';

-- Whether enqueue would take the optional fields of a job object, as _glance_at_jobs.
create or replace function awa._is_plain(job jsonb) returns boolean
language plpgsql
as $$
declare
  v_run_at constant text := job ->> 'run_at';
  v_expires_at constant text := job ->> 'expires_at';
begin
  return coalesce(jsonb_typeof(job -> 'priority') in ('number', 'null'), true)
    and coalesce(job ->> 'priority' in ('1', '2', '3', '4'), true)
    and coalesce(jsonb_typeof(job -> 'max_attempts') in ('number', 'null'), true)
    and coalesce(job ->> 'max_attempts' ~ '^([1-9][0-9]{0,2}|1000)$', true)
    and coalesce(jsonb_typeof(job -> 'run_at') in ('string', 'null'), true)
    and coalesce(jsonb_typeof(job -> 'expires_at') in ('string', 'null'), true)
    and case
      when (awa._is_plain_time(v_run_at) and awa._is_plain_time(v_expires_at)) is false then false
      else coalesce(v_expires_at::timestamptz > greatest(clock_timestamp(), v_run_at::timestamptz), true)
    end
    and case jsonb_typeof(job -> 'tags')
      when 'array' then awa._is_list(job -> 'tags') and jsonb_array_length(job -> 'tags') <= 20
        and not jsonb_path_exists(job -> 'tags', 'strict $[*] ? (!(@ like_regex "^.{1,200}$" flag "s"))')
      when 'null' then true
      else job -> 'tags' is null
    end;
end
$$;
comment on function awa._is_plain is
  'Whether enqueue would take the optional fields of a job object, as _glance_at_jobs';

-- The unique keys of job objects, once their values have been checked; null for jobs without one.
-- Refuses the first object whose values enqueue would refuse, and names its ordinal. are_plain: all is checked, but
-- for values that are too long, or nested too deep.
-- Raises 22023.
create or replace function awa._checked_keys(
  jobs jsonb,
  now timestamptz,
  are_plain boolean default false
) returns bytea[]
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
  for v_job in
    select j.job, j.ordinal, pg_column_size(j.job) > 2000 as is_large
      from jsonb_array_elements(jobs) with ordinality j(job, ordinal)
  loop
    if v_job.is_large and are_plain then
      perform awa._check_body(array[v_job.job -> 'args'], awa._texts(v_job.job -> 'tags'),
        nullif(v_job.job -> 'metadata', 'null'));
    end if;
    continue when are_plain;
    v_options := awa._job_options(v_job.job);
    perform awa._check_options(v_options.queue, v_options.kind, v_options.priority, v_options.run_at,
      v_options.max_attempts, v_options.tags, v_options.group_key, v_options.expires_at);
    if v_job.is_large then
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

-- Appends the jobs of an array that are to be inserted; all is checked.
-- With each goes its id, and its unique key where there is one. now decides whether run_at has passed.
-- Locks as _ready_queues.
-- Raises JQ006; 55000.
-- Why: in one statement, however many queues, groups and options there are. The jobs of a queue are put together before
-- its settings are looked up: a join of both would look at all pairs.
create or replace function awa._append_batch(
  jobs jsonb,
  job_ids bigint[],
  inserted boolean[],
  unique_keys bytea[],
  now timestamptz
) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_segment constant smallint := awa._current_segment();
  v_lane record;
begin
  for v_lane in
    with queues as (
      select q.*, awa._queue_id(q.queue) as queue_id, random() as luck
        from (
          select j.job ->> 'queue' as queue, array_agg(j.job) as jobs, array_agg(j.job_id) as job_ids,
                 array_agg(j.unique_key) as unique_keys
            from rows from (
              jsonb_array_elements(jobs), unnest(job_ids), unnest(inserted), unnest(unique_keys)
            ) j(job, job_id, inserted, unique_key)
           where j.inserted
           group by j.job ->> 'queue'
        ) q
    ), given as (
      select q.queue, q.queue_id, q.luck, coalesce(s.shards, 1) as shards, s.default_priority, s.default_max_attempts,
             s.group_order, unnest(q.jobs) as job, unnest(q.job_ids) as job_id, unnest(q.unique_keys) as unique_key
        from queues q
        left join awa.queue_settings s on s.queue_id = q.queue_id
    ), placed as materialized (
      select f.*, f.run_at > now as is_deferred,
             awa._lane(f.queue_id, case -- as _lane_in_order
               when f.group_key is not null and f.group_order in ('strict', 'halt') and (f.run_at > now) is not true
                 then 2
               else f.priority
             end, case
               when f.shards = 1 then 0
               when f.group_key is not null then awa._group_bits(f.group_key) % f.shards
               else floor(f.luck * f.shards)::int
             end) as lane,
             octet_length(f.kind) + octet_length(f.args::text) + coalesce(octet_length(f.tags::text), 0)
               + coalesce(octet_length(f.metadata::text), 0) + coalesce(octet_length(f.group_key), 0)
               + case when f.expires_at is null then 0 else 29 end as body_bytes
        from (
          select g.queue, g.queue_id, g.luck, g.shards, g.group_order, g.job_id, g.unique_key, g.job ->> 'kind' as kind,
                 coalesce(nullif(g.job -> 'args', 'null'), '{}') as args,
                 coalesce((g.job ->> 'priority')::int, g.default_priority, awa._default_number('default_priority'))
                   as priority,
                 coalesce((g.job ->> 'max_attempts')::int, g.default_max_attempts,
                   awa._default_number('default_max_attempts')) as max_attempts,
                 awa._time_of(g.job ->> 'run_at') as run_at,
                 awa._time_of(g.job ->> 'expires_at', 'expires_at') as expires_at,
                 case when g.job ? 'tags' then awa._texts(g.job -> 'tags') end as tags,
                 nullif(g.job -> 'metadata', 'null') as metadata, g.job ->> 'group_key' as group_key
            from given g
        ) f
    ), ready as (
      insert into awa.ready_entries
        (segment, lane, job_id, ready_at, priority, attempt, max_attempts, body_bytes, unique_key, kind, args, tags,
         metadata, group_key, expires_at)
      select v_segment, p.lane, p.job_id, now, p.priority, 1, p.max_attempts, p.body_bytes, p.unique_key, p.kind,
             p.args, p.tags, p.metadata, p.group_key, p.expires_at
        from placed p
       where p.is_deferred is not true
    ), deferred as (
      insert into awa.deferred_jobs
        (job_id, lane, state, run_at, created_at, attempt, max_attempts, body_bytes, unique_key, kind, args, tags,
         metadata, group_key, expires_at)
      select p.job_id, p.lane, 'scheduled', p.run_at, now, 1, p.max_attempts, p.body_bytes, p.unique_key, p.kind,
             p.args, p.tags, p.metadata, p.group_key, p.expires_at
        from placed p
       where p.is_deferred
    )
    select l.*, (
             select true
               from awa.queues q
              where q.queue_id = awa._queue_of(l.lane) and q.lane = l.lane and q.dropped_at is null
                and q.may_expire >= l.is_expiring
              limit 1
           ) as is_in_use
      from (
        select p.queue, p.lane, bool_or(p.expires_at is not null) as is_expiring,
               count(*) filter (where p.is_deferred) as deferred,
               array_agg(p.kind) filter (where p.is_deferred) as kinds,
               min(p.run_at) filter (where p.is_deferred) as due,
               bool_or(p.is_deferred is not true) as has_ready
          from placed p
         group by p.lane, p.queue
      ) l
  loop
    if v_lane.is_in_use is null then
      perform awa._use_lanes(array[v_lane.lane], v_lane.queue, expiring => v_lane.is_expiring);
    end if;
    if v_lane.deferred > 0 then
      perform awa._arrive(v_lane.lane, k.jobs, k.kind)
         from (select k.kind, count(*) as jobs from unnest(v_lane.kinds) k(kind) group by k.kind) k;
      perform awa._wake_due(v_lane.due);
    end if;
    if v_lane.has_ready and awa._is_awake(awa._queue_of(v_lane.lane)) is not true then
      perform awa._wake(awa._queue_of(v_lane.lane));
    end if;
  end loop;
end
$$;
comment on function awa._append_batch is 'Appends the jobs of an array that are to be inserted; all is checked';

-- Looks at the queues of the jobs that are to be inserted, and keeps their numbers of shards; whether there are any.
-- Locks: of queues that get jobs with a group, as _shard_for.
-- Raises JQ006 where one of them is deeper than its max_depth; as _shard_for.
-- Why: a function of its own, since the statement that reads the numbers has to begin after they are locked.
create or replace function awa._ready_queues(jobs jsonb, inserted boolean[]) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_queue record;
begin
  for v_queue in
    select q.*, count(*) filter (where q.has_groups) over () > awa._max_locks() as are_many,
           s.max_depth, s.depth_note
      from (
        select j.queue, awa._queue_id(j.queue) as queue_id, min(j.ordinal) as first, bool_or(j.has_group) as has_groups
          from (
            select j.job ->> 'queue' as queue, j.job ->> 'group_key' is not null as has_group, j.ordinal
              from rows from (jsonb_array_elements(jobs), unnest(inserted)) with ordinality j(job, inserted, ordinal)
             where j.inserted
          ) j
         group by j.queue
      ) q
      left join lateral (
        select s.max_depth, s.depth_note from awa.queue_settings s where s.queue_id = q.queue_id limit 1
      ) s on true
     order by q.first
  loop
    if v_queue.max_depth is not null then
      perform awa._check_depth(v_queue.queue, v_queue.queue_id, v_queue.max_depth, v_queue.depth_note);
    end if;
    if v_queue.has_groups then
      perform awa._shard_for(v_queue.queue_id, null, '', v_queue.are_many);
    end if;
  end loop;
  return found;
end
$$;
comment on function awa._ready_queues is
  'Looks at the queues of the jobs that are to be inserted, and keeps their numbers of shards; whether there are any';

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
