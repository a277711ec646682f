-- The row that queue_stats returns, one for each step of time, or for each kind in it.
create or replace view awa.queue_stats_row as
select s.at, s.kind, s.enqueued, s.completed, s.failed, i.wait_p50, i.wait_p95, i.wait_p99, i.run_p50, i.run_p95,
       i.run_p99
  from awa.queue_statistics s
 cross join (
    select null::interval as wait_p50, null::interval as wait_p95, null::interval as wait_p99,
           null::interval as run_p50, null::interval as run_p95, null::interval as run_p99
  ) i
 where false;
comment on view awa.queue_stats_row is
  'The row that queue_stats returns, one for each step of time, or for each kind in it. The view itself is always '
  'empty';

-- Counts of jobs enqueued, completed and failed in a queue, or in all, in each step of time, and how long they took.
-- at is when the step begins; the last one is not over yet. enqueued: new jobs; completed, failed: attempts, by the
-- time of their end. wait: how long these had been ready when they began; run: how long they took: percentiles, up to
-- 9 % off; null where there were none. kind: of one kind of jobs. by_kind: a row for each kind that there was in a
-- step; a null kind is all beyond 50. since: at most 30 days; for more than a day, step is a number of hours, otherwise
-- of minutes; at most 1,500 steps. A bounded number of rows that are not counted yet is read from the ledgers.
-- Raises 22023.
create or replace function awa.queue_stats(
  queue   text default null,
  since   interval default '1 hour',
  step    interval default '1 minute',
  kind    text default null,
  by_kind boolean default false
) returns setof awa.queue_stats_row
language plpgsql stable
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
  v_queue_id bigint := awa._queue_id(queue);
  v_now timestamptz := clock_timestamp();
  v_step interval;
  v_from timestamptz;
  v_seconds numeric;
  v_lanes bigint[];
  v_counts awa.queue_statistics[];
begin
  since := coalesce(since, '1 hour');
  if awa._fits(since, '1 minute', '30 days') is not true then
    perform awa._refuse('since must be an interval between 1 minute and 30 days', since::text,
      'Leave it out for 1 hour.');
  end if;
  step := coalesce(step, '1 minute');
  v_seconds := case when since > interval '1 day' then 3600 else 60 end;
  if awa._fits(step, '1 minute', '30 days') is not true or extract(epoch from step) % v_seconds <> 0 then
    perform awa._refuse('step must be a number of minutes; of hours, where since is more than a day', step::text,
      'Pass something like "1 minute", or "1 hour".');
  elsif extract(epoch from since) / extract(epoch from step) > 1500 then
    perform awa._refuse('step is too short for since', step::text, 'There may be 1,500 steps: pass a longer one.');
  end if;
  by_kind := coalesce(by_kind, false);
  v_step := make_interval(secs => extract(epoch from step)::float8); -- a day of 24 hours
  v_from := date_bin(v_step, v_now - make_interval(secs => extract(epoch from since)::float8),
    '2000-01-01 00:00:00+00');
  if queue is null then
    v_lanes := array(select l.lane from awa._lanes_in_use(null, 1000) l where not l.is_counted limit 500);
  else
    v_lanes := array(select l.lane from awa._lanes_of(v_queue_id) l);
  end if;
  v_counts := array(
    select u
      from unnest(v_lanes) l
     cross join lateral awa._uncounted_statistics(l, 20000 / cardinality(v_lanes)) u)
    || array(
    select e
      from awa._as_statistics(array(
        select l.ended
          from (select e as ended, e.lane from awa.leased_ends e limit 20000) l
         where queue is null or awa._queue_of(l.lane) = v_queue_id)) e);
  return query
    with counts as materialized (
      select date_bin(v_step, c.at, '2000-01-01 00:00:00+00') as at, case when by_kind then c.kind end as kind,
             c.enqueued, c.completed, c.failed, c.waits, c.runs
        from (
          select s.at, s.kind, s.enqueued, s.completed, s.failed, s.waits, s.runs
            from unnest('{60,3600}'::int[]) w(seconds)
           cross join lateral (
              select * from awa.statistics s where queue is null and s.seconds = w.seconds and s.at >= v_from offset 0
            ) s
          union all
          select s.at, s.kind, s.enqueued, s.completed, s.failed, s.waits, s.runs
            from unnest('{60,3600}'::int[]) w(seconds)
           cross join lateral (
              select * from awa.queue_statistics s
               where (s.queue_id, s.seconds, s.at) -- as rows, for which no other index can be taken
                 between (v_queue_id, w.seconds, v_from) and (v_queue_id, w.seconds, 'infinity')
              offset 0
            ) s
          union all
          select c.at, c.kind, c.enqueued, c.completed, c.failed, c.waits, c.runs
            from unnest(v_counts) c
           where c.at >= v_from
        ) c
       where kind is null or c.kind = kind
    ), lengths as materialized (
      select l.at, l.kind, l.is_wait, l.length, l.attempts,
             sum(l.attempts) over (partition by l.at, l.kind, l.is_wait order by l.length) as until_here,
             sum(l.attempts) over (partition by l.at, l.kind, l.is_wait) as of_all
        from (
          select c.at, c.kind, v.is_wait, v.value >> 40 as length, sum(v.value & 1099511627775) as attempts
            from counts c
           cross join lateral (
              select unnest(c.waits) as value, true as is_wait union all select unnest(c.runs), false
            ) v
           group by 1, 2, 3, 4
        ) l
    )
    select p.at, p.kind, coalesce(sum(p.enqueued), 0)::bigint, coalesce(sum(p.completed), 0)::bigint,
           coalesce(sum(p.failed), 0)::bigint,
           awa._step_length(min(p.length) filter (where p.is_wait and p.share >= 0.5)),
           awa._step_length(min(p.length) filter (where p.is_wait and p.share >= 0.95)),
           awa._step_length(min(p.length) filter (where p.is_wait and p.share >= 0.99)),
           awa._step_length(min(p.length) filter (where not p.is_wait and p.share >= 0.5)),
           awa._step_length(min(p.length) filter (where not p.is_wait and p.share >= 0.95)),
           awa._step_length(min(p.length) filter (where not p.is_wait and p.share >= 0.99))
      from (
        select c.at, c.kind, c.enqueued, c.completed, c.failed, null::boolean as is_wait, null::bigint as length,
               null::numeric as share
          from counts c
        union all
        select l.at, l.kind, 0, 0, 0, l.is_wait, l.length, l.until_here / l.of_all from lengths l
        union all
        select g.at, null, 0, 0, 0, null, null, null
          from generate_series(v_from, v_now, v_step) g(at)
         where not by_kind
      ) p
     group by p.at, p.kind
     order by p.at, p.kind;
end
$$;
comment on function awa.queue_stats is
  'Counts of jobs enqueued, completed and failed in a queue, or in all, in each step of time, and how long they took';
