-- The row that list_workers returns, one per worker.
create or replace view awa.list_workers_row as
select w.worker_id, w.name, w.queues, w.info, w.started_at, w.heartbeat_at, false as overdue,
       w.worker_id as open_attempts, w.registered_by
  from awa.workers w
 where false;
comment on view awa.list_workers_row is
  'The row that list_workers returns, one per worker. The view itself is always empty';

-- The registered workers, by their ids, with their heartbeats and open attempts.
-- queues is null for a worker that works on all queues. A worker is overdue when it has sent no heartbeat for
-- warn_silence.
-- Raises 55000 where settings has lost its row.
create or replace function awa.list_workers() returns setof awa.list_workers_row
language sql stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
with open as materialized (
  select o.worker_id, count(*) as attempts
    from (
      select o.worker_id
        from awa._open_items o
       where o.queue_id = any(array(select awa._queue_of(l.lane) from awa._lanes_in_use() l where not l.is_counted))
      union all
      select l.worker_id from awa.leases l where l.worker_id is not null
    ) o
   group by o.worker_id
)
select w.worker_id, w.name, w.queues, w.info, w.started_at, w.heartbeat_at,
       w.heartbeat_at <= clock_timestamp() - s.warn_silence, coalesce(o.attempts, 0), w.registered_by
  from awa.workers w
 cross join awa._settings() s
  left join open o on o.worker_id = w.worker_id
 order by w.worker_id
$$;
comment on function awa.list_workers is 'The registered workers, by their ids, with their heartbeats and open attempts';
