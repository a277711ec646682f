-- The jobs that each queue has got, and the states that they are in.
create or replace view awa._books as
select n.queue_id, q.*, e.enqueued::bigint as enqueued, n.jobs
  from awa.queue_counts(null) q
 cross join lateral (
    select awa._queue_id(q.queue) as queue_id, awa._jobs_in(q, 'known') as jobs
    offset 0 -- once for each queue
  ) n
 cross join lateral (
    select sum(c.enqueued) as enqueued from awa._lane_counts c where c.queue_id = n.queue_id
    offset 0
  ) e;
comment on view awa._books is 'The jobs that each queue has got, and the states that they are in';

-- The row that audit returns, one per queue.
create or replace view awa.audit_row as
select b.queue, b.enqueued, b.available, b.scheduled, b.retryable, b.running, b.waiting_external, b.completed, b.failed,
       b.cancelled, b.dead,
       true as balanced, b.queue as problem
  from awa._books b
 where false;
comment on view awa.audit_row is 'The row that audit returns, one per queue. The view itself is always empty';

-- Checks that the books balance: one row per queue, and its problem, in words.
-- They balance when each job that was enqueued to a queue is available, scheduled, retryable, running, completed,
-- failed, cancelled or dead; when the counts equal the rows; when no row is missing in the ledgers; and when the slots
-- of groups and queues are those that attempts hold. Jobs that are
-- not kept any more are counted, purged ones are not. One more row, without a queue, for all that belongs to none.
-- Reads all that is kept, so it takes seconds for millions of jobs. Writes nothing. A row that was removed before
-- maintenance has counted it (within seconds) leaves no trace.
-- Locks: as any reader; only the truncation of a segment waits for it.
-- Raises 55000 in a database that was restored from a dump, or that has lost the row of ring.
create or replace function awa.audit() returns setof awa.audit_row
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set jit = off
as $$
begin
  perform awa._current_segment(); -- in a restored database, visibility means nothing
  return query
    with books as materialized (
      select b.*, concat_ws('; ',
               case
                 when b.jobs <> b.enqueued then format('%s jobs were enqueued, %s are there', b.enqueued, b.jobs)
               end,
               case
                 when coalesce(a.jobs, 0) <> b.available
                   then format('%s jobs are counted as available, %s are', b.available, coalesce(a.jobs, 0))
               end,
               case
                 when coalesce(r.jobs, 0) <> b.running
                   then format('%s jobs are counted as running, %s are', b.running, coalesce(r.jobs, 0))
               end,
               i.problems, l.problems) as problem
        from awa._books b
        left join (
          select awa._queue_of(a.lane) as queue_id, count(*) as jobs from awa._all_available a group by 1
        ) a on a.queue_id = b.queue_id
        left join (
          select awa._queue_of(r.lane) as queue_id, count(*) as jobs from awa._running r group by 1
        ) r on r.queue_id = b.queue_id
        left join (
          select i.queue_id, string_agg(i.problem, '; ') as problems
            from (
              select awa._queue_of(i.lane) as queue_id, i.problem,
                     row_number() over (partition by awa._queue_of(i.lane)) as n
                from awa._imbalances i
               where i.lane is not null
            ) i
           where i.n <= 20
           group by i.queue_id
        ) i on i.queue_id = b.queue_id
        left join (
          select l.queue_id, string_agg(l.problem, '; ') as problems
            from (
              select l.queue_id, l.problem, row_number() over (partition by l.queue_id) as n from awa._limit_problems l
            ) l
           where l.n <= 20
           group by l.queue_id
        ) l on l.queue_id = b.queue_id
    )
    select b.queue, b.enqueued, b.available, b.scheduled, b.retryable, b.running, b.waiting_external, b.completed,
           b.failed, b.cancelled, b.dead,
           b.problem = '', nullif(b.problem, '')
      from books b
    union all
    select null, null, null, null, null, null, null, null, null, null, null, false, i.problem
      from awa._imbalances i
     where i.lane is null
     order by 1;
end
$$;
comment on function awa.audit is 'Checks that the books balance: one row per queue, and its problem, in words';

create or replace view awa.audit as
select a.queue, a.enqueued, a.available, a.scheduled, a.retryable, a.running, a.waiting_external, a.completed, a.failed,
       a.cancelled, a.dead, a.balanced, a.problem
  from awa.audit() a;
comment on view awa.audit is 'Whether the books balance: one row per queue, and its problem, in words';
