-- Appends one job and returns its id; it exists when the caller's transaction commits.
-- Takes no lock that another producer or a claim waits for.
-- Raises 22023.
create or replace function awa.enqueue(
  queue        text,
  kind         text,
  args         jsonb default '{}',
  priority     int default null,
  run_at       timestamptz default null,
  max_attempts int default null,
  tags         text[] default null,
  metadata     jsonb default null
) returns bigint
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
begin
  return (awa._append(queue, kind, array[coalesce(args, '{}')], priority, run_at, max_attempts, tags, metadata))[1];
end
$$;
comment on function awa.enqueue is
  'Appends one job and returns its id; it exists when the caller''s transaction commits';

-- Appends one job per element of args, and returns the ids in that order.
-- Every form of enqueue ends in it. Ids are drawn, and there are no unique keys, unless there is one for each. now
-- decides whether run_at has passed.
-- Why: now is read once, since the keys that a job holds depend on it.
create or replace function awa._append(
  queue        text,
  kind         text,
  args         jsonb[],
  priority     int,
  run_at       timestamptz,
  max_attempts int,
  tags         text[],
  metadata     jsonb,
  job_ids      bigint[] default null,
  unique_keys  bytea[] default null,
  now          timestamptz default clock_timestamp()
) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_lane bigint;
  v_is_in_use boolean;
  v_priority int;
  v_max_attempts int;
  v_bytes int[];
  v_job_ids bigint[];
begin
  perform awa._check_options(queue, kind, priority, run_at, max_attempts, tags);
  if cardinality(args) = 0 then
    return '{}';
  end if;
  v_bytes := awa._body_bytes(args, tags, metadata);

  select o.lane, o.priority, o.max_attempts, (select true from awa.queues q where q.queue_id = awa._queue_of(o.lane) and q.lane = o.lane and q.dropped_at is null limit 1)
    into v_lane, v_priority, v_max_attempts, v_is_in_use
    from (
      select awa._lane(q.queue_id, coalesce(priority, s.default_priority, 2)) as lane, coalesce(priority, s.default_priority, 2) as priority, coalesce(max_attempts, s.default_max_attempts, 25) as max_attempts
        from (select awa._queue_id(queue) as queue_id offset 0) q
        left join awa.queue_settings s on s.queue_id = q.queue_id
      offset 0
    ) o;
  if v_is_in_use is null then
    perform awa._use_lanes(array[v_lane], queue);
  end if;

  if run_at > now then
    with appended as (
      insert into awa.deferred_jobs
        (job_id, lane, state, run_at, created_at, attempt, max_attempts, body_bytes, unique_key, kind, args, tags, metadata)
      select coalesce(a.job_id, nextval('awa.job_ids')), v_lane, 'scheduled', run_at, now, 1, v_max_attempts,
             octet_length(kind) + a.bytes, a.unique_key, kind, a.args, tags, metadata
        from (select unnest(args) as args, unnest(v_bytes) as bytes, unnest(job_ids) as job_id, unnest(unique_keys) as unique_key) a
      returning deferred_jobs.job_id
    )
    select array_agg(n.job_id) into v_job_ids from appended n;
    perform awa._arrive(v_lane, cardinality(v_job_ids));
  else
    with appended as (
      insert into awa.ready_entries
        (segment, lane, job_id, ready_at, priority, attempt, max_attempts, body_bytes, unique_key, kind, args, tags, metadata)
      select r.current_segment, v_lane, coalesce(a.job_id, nextval('awa.job_ids')), now, v_priority, 1, v_max_attempts,
             octet_length(kind) + a.bytes, a.unique_key, kind, a.args, tags, metadata
        from awa._current_segment() r(current_segment), (select unnest(args) as args, unnest(v_bytes) as bytes, unnest(job_ids) as job_id, unnest(unique_keys) as unique_key) a
      returning ready_entries.job_id
    )
    select array_agg(n.job_id) into v_job_ids from appended n;
    perform awa._wake(awa._queue_of(v_lane));
  end if;
  return v_job_ids;
end
$$;
comment on function awa._append is 'Appends one job per element of args, and returns the ids in that order';

-- The bytes of text of each of args, with tags and metadata, which go along with it.
-- Refuses a job that is too long or nested too deep.
-- Raises 22023.
create or replace function awa._body_bytes(args jsonb[], tags text[], metadata jsonb) returns int[]
language plpgsql
as $$
declare
  v_beside int := coalesce(octet_length(tags::text), 0);
  v_small int; -- bytes stored, up to which args pass: they come to 27 MB of text at most
begin
  v_beside := v_beside + coalesce(awa._json_bytes('metadata', metadata, v_beside), 0);
  v_small := case when v_beside < 100000000 then 2000 else 0 end;
  return array(
    select v_beside + case when pg_column_size(a) > v_small then awa._json_bytes('args', a, v_beside) else octet_length(a::text) end from unnest(args) a);
end
$$;
comment on function awa._body_bytes is
  'The bytes of text of each of args, with tags and metadata, which go along with it';

-- Refuses invalid arguments of enqueue.
-- Raises 22023.
create or replace function awa._check_options(queue text, kind text, priority int, run_at timestamptz, max_attempts int, tags text[]) returns void
language plpgsql
as $$
begin
  perform awa._check_name('queue', queue);
  perform awa._check_name('kind', kind);
  if priority not between 1 and 4 then
    perform awa._refuse('priority must be between 1 and 4', priority::text, 'Priority 1 is served first, 4 last; leave it out for the queue''s default.');
  end if;
  if max_attempts not between 1 and 1000 then
    perform awa._refuse('max_attempts must be between 1 and 1000', max_attempts::text, 'Leave it out for the queue''s default.');
  end if;
  perform awa._check_array('tags', tags, 20);
  if tags is not null then
    perform awa._refuse('tags must be 1 to 200 characters long each', t, 'Pass short words; what is longer goes into metadata.') from unnest(tags) t where char_length(t) not between 1 and 200;
  end if;
  if run_at >= '9999-12-31 10:00:00+00' then -- so that it is before the year 10000 in every zone
    perform awa._refuse('run_at must be a time before 9999-12-31 10:00 UTC', run_at::text, 'Pass a time, or null for now.');
  end if;
end
$$;
comment on function awa._check_options is 'Refuses invalid arguments of enqueue';
