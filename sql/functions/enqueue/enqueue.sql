-- Appends one job and returns its id; it exists when the caller's transaction commits.
-- A job that has not begun by expires_at is cancelled: see _is_expired.
-- Takes no lock that another producer or a claim waits for.
-- Raises 22023; JQ006 where more jobs are ready than the queue's max_depth; 55000 in a database that was restored from
-- a dump; for a job with a group 55P03 beside a session that changes the queue's number of shards, or drops the queue,
-- and 40001 at REPEATABLE READ and above, where the queue's settings have changed since the snapshot.
-- Why: in a transaction of its own, most of a small job's time goes into the set-up of each transaction: for each
-- statement, each table that it reads, and each function and operator in an expression. So the short way has few, and
-- none that joins.
create or replace function awa.enqueue(
  queue        text,
  kind         text,
  args         jsonb default '{}',
  priority     int default null,
  run_at       timestamptz default null,
  max_attempts int default null,
  tags         text[] default null,
  metadata     jsonb default null,
  group_key    text default null,
  expires_at   timestamptz default null
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
#variable_conflict use_variable
declare
  v_queue_id bigint;
  v_lane bigint;
  v_shards int;
  v_max_depth int;
  v_depth_note int;
  v_priority smallint;
  v_max_attempts smallint;
  v_segment smallint;
  v_is_original boolean;
  v_is_in_use boolean;
  v_job_id bigint;
begin
  -- The short way, for a small job that names nothing else, in a lane in use: so the queue has a name that is allowed.
  if priority is null and run_at is null and max_attempts is null and tags is null and metadata is null
    and group_key is null and expires_at is null
    and pg_column_size(array[args]) <= 2000 and octet_length(kind) between 1 and 200
  then
    v_queue_id := awa._queue_id(queue);
    select s.default_priority, s.default_max_attempts, s.shards, s.max_depth, s.depth_note
      into v_priority, v_max_attempts, v_shards, v_max_depth, v_depth_note
      from awa.queue_settings s where s.queue_id = v_queue_id;
    v_priority := coalesce(v_priority, awa._default_number('default_priority'));
    v_lane := awa._lane(v_queue_id, v_priority);
    if v_shards > 1 then
      v_lane := awa._lane(v_queue_id, v_priority, floor(random() * v_shards)::int);
    end if;
    select true into v_is_in_use
      from awa.queues q where q.queue_id = v_queue_id and q.lane = v_lane and q.dropped_at is null
     limit 1; -- it may have several rows
    select r.current_segment, r.is_original into v_segment, v_is_original from awa._checked_ring r;
    if v_is_in_use and v_is_original then
      if v_max_depth is not null then
        perform awa._check_depth(queue, v_queue_id, v_max_depth, v_depth_note);
      end if;
      insert into awa.ready_entries
        (segment, lane, job_id, ready_at, priority, attempt, max_attempts, body_bytes, kind, args)
      values
        (v_segment, v_lane, nextval('awa.job_ids'), clock_timestamp(), v_priority, 1,
         coalesce(v_max_attempts, awa._default_number('default_max_attempts')),
         octet_length(kind) + octet_length(coalesce(args, '{}')::text), kind, coalesce(args, '{}'))
      returning job_id into v_job_id;
      if awa._is_awake(v_queue_id) is not true then
        perform awa._wake(v_queue_id);
      end if;
      return v_job_id;
    end if;
  end if;
  return (
    awa._append(queue, kind, array[coalesce(args, '{}')], priority, run_at, max_attempts, tags, metadata, group_key,
      expires_at)
  )[1];
end
$$;
comment on function awa.enqueue is
  'Appends one job and returns its id; it exists when the caller''s transaction commits';
