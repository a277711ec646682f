-- The row that enqueue_unique returns: the job that holds the key, and whether this call inserted it.
create or replace view awa.enqueue_unique_row as
select t.job_id, t.cancels as inserted
  from awa.ready_tombstones t
 where false;
comment on view awa.enqueue_unique_row is
  'The row that enqueue_unique returns: the job that holds the key, and whether this call inserted it. The view itself '
  'is always empty';

-- Appends one job, unless another one holds its unique key; returns the one that holds it.
-- The key is a text (unique_key), or made of any of queue, kind and args (unique_by). A job holds it in the states of
-- unique_states: by default all in which it has not ended. With a unique_period there is a key for each period: that of
-- run_at, or of now. Then a completed job holds it, too, to the end of the period, unless unique_states excludes that;
-- the job may not be kept any more.
-- Locks: the key. Waits for a transaction that is about to take, or to let go of, the same key.
-- Raises 22023, JQ006, 55000, 55P03 as enqueue does; 40001, too, and at REPEATABLE READ and above also when another
-- session took the key that the snapshot does not see.
create or replace function awa.enqueue_unique(
  queue         text,
  kind          text,
  args          jsonb default '{}',
  unique_key    text default null,
  unique_by     text[] default '{kind,args}',
  unique_period interval default null,
  unique_states text[] default null,
  priority      int default null,
  run_at        timestamptz default null,
  max_attempts  int default null,
  tags          text[] default null,
  metadata      jsonb default null,
  unique_zone   text default 'UTC',
  group_key     text default null,
  expires_at    timestamptz default null
) returns setof awa.enqueue_unique_row
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
  v_now timestamptz := clock_timestamp();
  v_key bytea;
  v_job record;
begin
  perform awa._check_options(queue, kind, priority, run_at, max_attempts, tags, group_key, expires_at);
  v_key := awa._unique_key(queue, kind, args, unique_key, unique_by, unique_period, unique_zone, unique_states,
    coalesce(run_at, v_now));
  v_job := awa._take_key(substr(v_key, 1, 32),
    awa._holds(v_key, case when run_at > v_now then 'scheduled' else 'available' end), null, v_now);
  if v_job.taken then
    perform awa._append(queue, kind, array[coalesce(args, '{}')], priority, run_at, max_attempts, tags, metadata,
      group_key, expires_at, array[v_job.job_id], array[v_key], v_now);
  end if;
  return query select v_job.job_id, v_job.taken;
end
$$;
comment on function awa.enqueue_unique is
  'Appends one job, unless another one holds its unique key; returns the one that holds it';
