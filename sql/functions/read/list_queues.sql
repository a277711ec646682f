-- The row that list_queues returns, one per queue.
create or replace view awa.list_queues_row as
select q.name as queue, 0 as default_priority, 0 as default_max_attempts, l.lease, s.deadline,
       l.lease as backoff_base, l.lease as backoff_max, false as dead_letter, l.lease as aging_interval,
       l.lease as failed_retention, l.lease as dlq_retention, l.lease as completed_retention, 0 as shards,
       s.max_depth, s.group_max_running, s.group_rate, s.max_running, s.rate, s.group_order, s.group_turns,
       s.paused_at,
       s.paused_at as changed_at, w.member_of as changed_by, q.queue_id as workers, q.queue_id as available,
       q.queue_id as scheduled, q.queue_id as retryable, q.queue_id as running, q.queue_id as waiting_external,
       q.queue_id as completed,
       q.queue_id as failed, q.queue_id as cancelled, q.queue_id as dead, s.paused_at as oldest_ready_at,
       q.queue_id as limited
  from awa.queues q, awa.queue_settings s, awa.leases l, awa.workers w
 where false;
comment on view awa.list_queues_row is
  'The row that list_queues returns, one per queue. The view itself is always empty';

-- All queues, by name, with their settings, live workers and counts.
-- Returns the settings that hold for each, its own or the defaults; since when it is paused; when and by whom its
-- settings were changed; how many live workers it has; and the counts of queue_counts, which take most of the time. A
-- worker is live when it has sent a heartbeat within warn_silence. One that named no queues works on all of them.
-- Raises 55000 where settings has lost its row.
create or replace function awa.list_queues() returns setof awa.list_queues_row
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
with defaults as materialized (
  select d.*
    from (select jsonb_object_agg(k.name, k.default_value) as settings from awa._known_settings k where k.of_queue) k
   cross join jsonb_populate_record(null::awa.queue_settings, k.settings) d
), live as materialized (
  select w.worker_id, w.queues
    from awa.workers w
   where w.heartbeat_at > clock_timestamp() - (select s.warn_silence from awa._settings() s)
), working as materialized (
  -- An object by queue, so that looking up one takes no longer where there are many.
  select (select count(*) from live l where l.queues is null) as everywhere,
         coalesce(jsonb_object_agg(n.queue, n.workers), '{}') as by_queue
    from (
      select q.queue, count(distinct l.worker_id) as workers
        from live l
       cross join unnest(l.queues) q(queue)
       group by q.queue
    ) n
)
select c.queue,
       coalesce(s.default_priority, d.default_priority)::int,
       coalesce(s.default_max_attempts, d.default_max_attempts)::int,
       coalesce(s.lease, d.lease), s.deadline,
       coalesce(s.backoff_base, d.backoff_base), coalesce(s.backoff_max, d.backoff_max),
       coalesce(s.dead_letter, d.dead_letter), coalesce(s.aging_interval, d.aging_interval),
       coalesce(s.failed_retention, d.failed_retention), coalesce(s.dlq_retention, d.dlq_retention),
       least(s.completed_retention, (select i.completed_retention from awa._settings() i)),
       coalesce(s.shards, d.shards)::int, s.max_depth, s.group_max_running, s.group_rate, s.max_running, s.rate,
       coalesce(s.group_order, 'start'), coalesce(s.group_turns, false), s.paused_at, s.changed_at, s.changed_by,
       w.everywhere + coalesce((w.by_queue -> c.queue)::bigint, 0),
       c.available, c.scheduled, c.retryable, c.running, c.waiting_external, c.completed, c.failed,
       c.cancelled, c.dead, c.oldest_ready_at, c.limited
  from awa.queue_counts(null) c
 cross join defaults d
 cross join working w
  left join lateral (select s.* from awa.queue_settings s where s.queue_id = awa._queue_id(c.queue) offset 0) s on true
 order by c.queue
$$;
comment on function awa.list_queues is 'All queues, by name, with their settings, live workers and counts';
