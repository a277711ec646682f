-- Cancels the job that holds a unique key, which is given as for enqueue_unique; returns its id.
-- No row when no job that has not ended holds the key. A running job is taken from its worker, which learns of it by
-- its next heartbeat.
-- Locks: as cancel.
-- Raises 22023, JQ004; 55P03 when another session is answering for the job in a long transaction; 40001, also at
-- commit, when the job moved on meanwhile; JQ003 or JQ005 when it has ended meanwhile.
create or replace function awa.cancel_by_unique_key(
  queue         text default null,
  kind          text default null,
  args          jsonb default '{}',
  unique_key    text default null,
  unique_by     text[] default '{kind,args}',
  unique_period interval default null,
  unique_zone   text default 'UTC',
  run_at        timestamptz default null
) returns setof bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = on
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set lock_timeout = 0
as $$
#variable_conflict use_variable
declare
  v_now timestamptz := clock_timestamp();
  v_key bytea;
  v_holder record;
begin
  if unique_key is null then
    if 'queue' = any(unique_by) then
      perform awa._check_name('queue', queue);
    end if;
    if 'kind' = any(coalesce(unique_by, '{kind}')) then
      perform awa._check_name('kind', kind);
    end if;
  end if;
  perform awa._check_run_at(run_at);
  v_key := awa._unique_key(queue, kind, args, unique_key, unique_by, unique_period, unique_zone, null,
    coalesce(run_at, v_now));
  perform awa._check_isolation();
  v_holder := awa._holder(substr(v_key, 1, 32), v_now);
  if v_holder.job_id is null or v_holder.leaves or v_holder.ended then
    return;
  end if;
  if awa._cancel(v_holder.job_id, null) = any(awa._states('cancellable')) then
    return next v_holder.job_id;
  end if;
end
$$;
comment on function awa.cancel_by_unique_key is
  'Cancels the job that holds a unique key, which is given as for enqueue_unique; returns its id';
