select 'warning' as level, format('prune_wait = %s', s.prune_wait) as subject,
       format('not shorter than deadlock_timeout (%s): a prune may end the transaction of one that waits behind it',
         current_setting('deadlock_timeout')) as message,
       'Raise deadlock_timeout, or lower prune_wait with awa.configure.' as hint
  from awa.settings s
 where s.prune_wait >= current_setting('deadlock_timeout')::interval
union all
select 'warning', format('lease = %s of queue %s', s.lease, q.name),
       format('not longer than %s, the time between heartbeats of a Go worker: what takes longer runs twice', h.every),
       'Set a longer one with awa.configure_queue, or see to shorter ones: Lease and HeartbeatEvery in WorkerConfig.'
  from awa.queue_settings s
 cross join (select make_interval(secs => ($1::jsonb ->> 'heartbeat')::float8) as every) h
 cross join lateral (select q.name from awa.queues q where q.queue_id = s.queue_id and q.dropped_at is null limit 1) q
 where s.lease <= h.every
