-- The row that failure_causes returns, one for each kind and cause.
create or replace view awa.failure_causes_row as
select d.kind, d.kind as cause, d.job_id as failed, d.job_id as dead, d.job_id as retryable,
       d.finalized_at as first_at, d.finalized_at as last_at, d.job_id as last_job_id, d.kind as last_error,
       d.finalized_at as counted_since
  from awa.done_entries d
 where false;
comment on view awa.failure_causes_row is
  'The row that failure_causes returns, one for each kind and cause. The view itself is always empty';

-- The jobs whose last attempt failed within a time, by their kinds and the causes of their last errors.
-- The most frequent first; at most max_causes (1 to 1,000). Of jobs that have ended, and are kept: those that failed
-- for good, and dead letters; and those that wait for their next attempt, where the last one began within that time.
-- A cause is the first line of an error, without what differs from job to job: what stands in quotation marks, and
-- words with digits. Reads the newest 10,000 of each of the two, and at most 32 MiB of errors: counted_since says since
-- when all are counted.
-- Raises 22023.
create or replace function awa.failure_causes(
  queue      text default null,
  since      interval default '1 day',
  kind       text default null,
  max_causes int default 100
) returns setof awa.failure_causes_row
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_variable
declare
  v_queue_id bigint := awa._queue_id(queue);
  v_most constant int := 10000;
  v_since interval := coalesce(since, '1 day');
  v_from timestamptz;
  v_lanes bigint[];
begin
  if awa._fits(v_since, '1 minute', '10 years') is not true then
    perform awa._refuse('since must be an interval between 1 minute and 10 years', since::text,
      'Leave it out for 1 day.');
  elsif max_causes not between 1 and 1000 then
    perform awa._refuse('max_causes must be between 1 and 1000', max_causes::text, 'Leave it out for 100.');
  end if;
  v_from := clock_timestamp() - v_since;
  v_lanes := array(select l.lane from awa._lanes_of(v_queue_id) l);
  return query
    with ended as materialized (
      select d.*, count(*) over () >= v_most as is_cut
        from (
          (
            select d.job_id, d.state, d.kind, d.errors, d.lane, d.finalized_at as at
              from awa.done_entries d
             where queue is null and d.reason is not null and d.finalized_at >= v_from
             order by d.finalized_at desc
             limit v_most
          )
          union all
          select d.*
            from unnest(v_lanes) l(lane)
           cross join unnest(awa._states('after_failure')) s(state)
           cross join lateral (
              select d.job_id, d.state, d.kind, d.errors, d.lane, d.finalized_at as at
                from awa.done_entries d
               where d.lane = l.lane and d.state = s.state and not d.counted_by_closure and d.finalized_at >= v_from
               order by d.finalized_at desc
               limit v_most
            ) d
           where queue is not null
           order by at desc
           limit v_most
        ) d
    ), waiting as materialized (
      select d.*, count(*) over () >= v_most as is_cut
        from (
          select d.job_id, d.state, d.kind, d.errors, d.lane, d.attempted_at as at
            from awa.deferred_jobs d
           where d.state = 'retryable' and d.attempted_at >= v_from
           order by d.attempted_at desc
           limit v_most
        ) d
    ), found as materialized (
      select f.*, sum(pg_column_size(f.errors)) over (order by f.at desc rows unbounded preceding) as bytes
        from (select * from ended union all select * from waiting) f
    ), bounds as materialized (
      -- what was cut off is older than this
      select greatest(v_from, min(f.at) filter (where f.is_cut and f.state <> 'retryable'),
               min(f.at) filter (where f.is_cut and f.state = 'retryable'),
               max(f.at) filter (where f.bytes > 33554432)) as counted_since
        from found f
    ), counted as materialized (
      select f.job_id, f.state, f.kind, awa._cause(e.error) as cause, left(e.error, 500) as error,
             case when f.state = 'retryable' then coalesce(e.at::timestamptz, f.at) else f.at end as at
        from found f
       cross join bounds b
       cross join lateral (select f.errors -> -1 ->> 'error' as error, f.errors -> -1 ->> 'at' as at offset 0) e
       where f.at >= b.counted_since and f.bytes <= 33554432 and (kind is null or f.kind = kind)
         and (queue is null or awa._queue_of(f.lane) = v_queue_id)
    )
    select g.kind, g.cause, g.failed, g.dead, g.retryable, g.first_at, g.last_at, g.last_job_id,
           g.last_error, b.counted_since
      from (
        select c.kind, c.cause, count(*) filter (where c.state = 'failed') as failed,
               count(*) filter (where c.state = 'dead') as dead,
               count(*) filter (where c.state = 'retryable') as retryable, count(*) as jobs,
               min(c.at) as first_at, max(c.at) as last_at,
               (array_agg(c.job_id order by c.at desc, c.job_id desc))[1] as last_job_id,
               (array_agg(c.error order by c.at desc, c.job_id desc))[1] as last_error
          from counted c
         where c.cause is not null
         group by c.kind, c.cause
         order by count(*) desc, max(c.at) desc, c.kind, c.cause
         limit coalesce(max_causes, 100)
      ) g
     cross join bounds b
     order by g.jobs desc, g.last_at desc, g.kind, g.cause;
end
$$;
comment on function awa.failure_causes is
  'The jobs whose last attempt failed within a time, by their kinds and the causes of their last errors';
