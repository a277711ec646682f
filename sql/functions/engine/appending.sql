-- How new jobs are appended, wherever they come from.

-- Appends one job per element of args, and returns the ids in that order.
-- Every form of enqueue ends in it. among_many is for _shard_for. Ids are drawn, and there are no unique keys, unless
-- there is one for each. now decides whether run_at has passed. checks_depth: the first jobs of a call for the queue.
-- Raises 22023; JQ006 where the queue is deeper than its max_depth.
-- Why: now is read once, since the keys that a job holds depend on it. An array is unnested in a list of a query: after
-- FROM it would be copied to the side first.
create or replace function awa._append(
  queue        text,
  kind         text,
  args         jsonb[],
  priority     int,
  run_at       timestamptz,
  max_attempts int,
  tags         text[],
  metadata     jsonb,
  group_key    text default null,
  expires_at   timestamptz default null,
  job_ids      bigint[] default null,
  unique_keys  bytea[] default null,
  now          timestamptz default clock_timestamp(),
  among_many   boolean default false,
  checks_depth boolean default true
) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_beside int := octet_length(kind); -- bytes of text that go along with each of args
  v_queue_id bigint := awa._queue_id(queue);
  v_lane bigint;
  v_shards int;
  v_shard int := 0;
  v_max_depth int;
  v_depth_note int;
  v_group_order text;
  v_priority smallint;
  v_max_attempts smallint;
  v_segment smallint;
  v_is_in_use boolean;
  v_job_ids bigint[];
begin
  -- At a glance, the most frequent call. A lane in use has a queue with a name that is allowed.
  if (priority is null and run_at is null and max_attempts is null and tags is null
    and group_key is null and expires_at is null and octet_length(kind) between 1 and 200) is not true
  then
    perform awa._check_options(queue, kind, priority, run_at, max_attempts, tags, group_key, expires_at);
  end if;
  if cardinality(args) = 0 then
    perform awa._check_name('queue', queue);
    return '{}';
  end if;
  if tags is not null or metadata is not null or pg_column_size(args) > 2000 then
    v_beside := v_beside + awa._check_body(args, tags, metadata);
  end if;
  v_beside := v_beside + coalesce(octet_length(group_key), 0) + case when expires_at is null then 0 else 29 end;

  select s.default_priority, s.default_max_attempts, s.shards, s.max_depth, s.depth_note, s.group_order
    into v_priority, v_max_attempts, v_shards, v_max_depth, v_depth_note, v_group_order
    from awa.queue_settings s where s.queue_id = v_queue_id;
  if v_max_depth is not null and checks_depth then
    perform awa._check_depth(queue, v_queue_id, v_max_depth, v_depth_note);
  end if;
  v_priority := coalesce(priority, v_priority, awa._default_number('default_priority'));
  v_max_attempts := coalesce(max_attempts, v_max_attempts, awa._default_number('default_max_attempts'));
  if group_key is not null then
    v_shard := awa._shard_for(v_queue_id, null, group_key, among_many);
  elsif v_shards > 1 then
    v_shard := floor(random() * v_shards);
  end if;
  v_lane := awa._lane(v_queue_id, v_priority, v_shard);
  if v_group_order is not null and run_at > now is not true then
    v_lane := awa._lane_in_order(v_lane, group_key, v_group_order);
  end if;
  select true into v_is_in_use
    from awa.queues q
   where q.queue_id = v_queue_id
     and q.lane = v_lane
     and q.dropped_at is null
     and q.may_expire >= (expires_at is not null)
   limit 1; -- it may have several rows
  if v_is_in_use is null then
    perform awa._check_name('queue', queue);
    perform awa._use_lanes(array[v_lane], queue, expiring => expires_at is not null);
  end if;

  if run_at > now then
    with appended as (
      insert into awa.deferred_jobs
        (job_id, lane, state, run_at, created_at, attempt, max_attempts, body_bytes, unique_key, kind, args, tags,
         metadata, group_key, expires_at)
      select coalesce(a.job_id, nextval('awa.job_ids')), v_lane, 'scheduled', run_at, now, 1, v_max_attempts,
             v_beside + octet_length(a.args::text), a.unique_key, kind, a.args, tags, metadata, group_key,
             expires_at
        from (select unnest(args) as args, unnest(job_ids) as job_id, unnest(unique_keys) as unique_key) a
      returning deferred_jobs.job_id
    )
    select array_agg(n.job_id) into v_job_ids from appended n;
    perform awa._arrive(v_lane, cardinality(v_job_ids), kind);
    perform awa._wake_due(run_at);
    return v_job_ids;
  end if;

  v_segment := awa._current_segment();
  with appended as (
    insert into awa.ready_entries
      (segment, lane, job_id, ready_at, priority, attempt, max_attempts, body_bytes, unique_key, kind, args, tags,
       metadata, group_key, expires_at)
    select v_segment, v_lane, coalesce(a.job_id, nextval('awa.job_ids')), now, v_priority, 1, v_max_attempts,
           v_beside + octet_length(a.args::text), a.unique_key, kind, a.args, tags, metadata, group_key,
           expires_at
      from (select unnest(args) as args, unnest(job_ids) as job_id, unnest(unique_keys) as unique_key) a
    returning ready_entries.job_id
  )
  select array_agg(n.job_id) into v_job_ids from appended n;
  if awa._is_awake(v_queue_id) is not true then
    perform awa._wake(v_queue_id);
  end if;
  return v_job_ids;
end
$$;
comment on function awa._append is 'Appends one job per element of args, and returns the ids in that order';

-- The bytes of text of the values beside each of args.
-- Refuses values, and args, that are too long or nested too deep. In an array, 2,000 bytes and less pass, which come
-- to 27 MB of text at most.
-- Raises 22023.
create or replace function awa._check_body(args jsonb[], tags text[], metadata jsonb) returns int
language plpgsql
as $$
declare
  v_beside int := coalesce(octet_length(tags::text), 0);
begin
  v_beside := v_beside + coalesce(awa._json_bytes('metadata', metadata, v_beside), 0);
  perform awa._json_bytes('args', a.args, v_beside) from (select unnest(args) as args) a
    where pg_column_size(a.args) > 2000 or v_beside >= 100000000;
  return v_beside;
end
$$;
comment on function awa._check_body is 'The bytes of text of the values beside each of args';

-- Refuses invalid arguments of enqueue.
-- Raises 22023.
create or replace function awa._check_options(
  queue text,
  kind text,
  priority int,
  run_at timestamptz,
  max_attempts int,
  tags text[],
  group_key text,
  expires_at timestamptz default null
) returns void
language plpgsql
as $$
begin
  perform awa._check_name('queue', queue);
  perform awa._check_name('kind', kind);
  if priority not between 1 and 4 then
    perform awa._refuse('priority must be between 1 and 4', priority::text,
      'Priority 1 is served first, 4 last; leave it out for the queue''s default.');
  end if;
  if max_attempts not between 1 and 1000 then
    perform awa._refuse('max_attempts must be between 1 and 1000', max_attempts::text,
      'Leave it out for the queue''s default.');
  end if;
  perform awa._check_array('tags', tags, 20);
  if tags is not null then
    perform awa._refuse('tags must be 1 to 200 characters long each', t,
      'Pass short words; put longer texts into metadata.')
       from unnest(tags) t
      where char_length(t) not between 1 and 200;
  end if;
  if group_key is not null then
    perform awa._check_group(group_key);
  end if;
  perform awa._check_run_at(run_at);
  perform awa._check_expires_at(expires_at, run_at);
end
$$;
comment on function awa._check_options is 'Refuses invalid arguments of enqueue';
