-- Lets matching jobs run now that have ended without success or that wait, as retry does; returns how many.
-- At least one filter is required: a queue, a kind, a state, a time before which they ended, a tag, or an object that
-- their arguments contain. Without a state: failed, dead and cancelled jobs. Changes at most max_jobs (1 to 10,000),
-- the oldest ids first. A filter by tag or arguments reads at most 100,000 jobs of each home; scan_jobs finds the rest.
-- Skips jobs whose unique key another job holds, and jobs that another session is changing.
-- Locks: the jobs' rows, until the transaction ends; for jobs with a group, as retry, but one lock for all after the
-- 64th, unless they are of one queue.
-- Raises 22023, JQ004.
create or replace function awa.retry_where(
  queue    text default null,
  kind     text default null,
  state    text default null,
  before   timestamptz default null,
  max_jobs int default 1000,
  tag      text default null,
  args     jsonb default null
) returns bigint
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
  v_queue_id bigint := awa._queue_id(queue);
  v_job record;
  v_max int := coalesce(max_jobs, 1000);
  v_retried bigint := 0;
  v_most int := case when tag is not null or args is not null then 100000 end; -- null: all
  v_last_done bigint; -- of the jobs that it looks at; null: of all
  v_last_deferred bigint;
begin
  perform awa._check_filter(queue, kind, state, before, max_jobs, awa._states('retriable'), tag, args);
  perform awa._check_isolation();
  perform awa._bound_waits();
  if v_most is not null then
    select d.job_id into v_last_done
      from awa.done_entries d
     where d.state <> 'completed'
       and (state is null or d.state = state)
       and (queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
     order by d.job_id
    offset v_most - 1
     limit 1;
    select d.job_id into v_last_deferred
      from awa.deferred_jobs d
     where d.state = state
       and (queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
     order by d.job_id
    offset v_most - 1
     limit 1;
  end if;
  for v_job in
    select j.job_id, j.home
      from (
        select j.*
          from (
            select job_id, 'done' as home from unnest(array(
              select d.job_id
                from awa.done_entries d
               where d.state <> 'completed'
                 and (state is null or d.state = state)
                 and not awa._is_taken(d.unique_key, d.job_id)
                 and (queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
                 and (kind is null or d.kind = kind)
                 and (before is null or d.finalized_at < before)
                 and (tag is null or d.tags @> array[tag])
                 and (args is null or d.args @> args)
                 and (v_last_done is null or d.job_id <= v_last_done)
               order by d.job_id
               limit v_max
                 for update skip locked)) job_id
            union all
            select job_id, 'deferred' from unnest(array(
              select d.job_id
                from awa.deferred_jobs d
               where d.state = state
                 and (queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
                 and (kind is null or d.kind = kind)
                 and (before is null or d.created_at < before)
                 and (tag is null or d.tags @> array[tag])
                 and (args is null or d.args @> args)
                 and (v_last_deferred is null or d.job_id <= v_last_deferred)
               order by d.job_id
               limit v_max
                 for update skip locked)) job_id
          ) j
         order by j.job_id
         limit v_max
      ) j
     -- Keys are taken in their order, as everywhere.
     order by case j.home
                when 'done'
                  then (select substr(d.unique_key, 1, 32) from awa.done_entries d where d.job_id = j.job_id limit 1)
                else (select substr(d.unique_key, 1, 32) from awa.deferred_jobs d where d.job_id = j.job_id)
              end, j.job_id
  loop
    if awa._retry(v_job.job_id, case v_job.home
         when 'done' then (
           -- two rows where this transaction has cancelled it, and somebody answered for it meanwhile
           select d.state
             from awa.done_entries d
            where d.job_id = v_job.job_id and d.state <> 'completed' and (state is null or d.state = state)
            limit 1
         )
         else state
       end, queue is null and v_retried >= awa._max_locks()) = 'retried'
    then
      v_retried := v_retried + 1;
    end if;
  end loop;
  return v_retried;
end
$$;
comment on function awa.retry_where is
  'Lets matching jobs run now that have ended without success or that wait, as retry does; returns how many';

-- Whether another job holds the unique key that a job would hold when it is available.
create or replace function awa._is_taken(unique_key bytea, job_id bigint) returns boolean
language sql stable
return unique_key is not null and awa._holds(unique_key, 'available')
   and (select h.job_id <> _is_taken.job_id and not h.leaves from awa._holder(substr(unique_key, 1, 32)) h) is true;
comment on function awa._is_taken is
  'Whether another job holds the unique key that a job would hold when it is available';
