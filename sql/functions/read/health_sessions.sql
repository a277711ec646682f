-- Health of workers and other sessions, and the locks that sessions hold.

-- The rows of health about workers.
create or replace function awa._health_workers() returns table (
  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
)
language sql stable
as $$
with now as (
  select clock_timestamp() as at
), settings as (
  select * from awa.settings
)
select 6, case when w.heartbeat_at < n.at - t.warn_silence then 'warning' else 'ok' end, 'worker',
       format('%s (%s)', w.name, w.worker_id),
       format(case
         when w.heartbeat_at >= n.at - t.warn_silence then 'alive, %s after its last heartbeat'
         when l.holder is null then 'no heartbeat for %s'
         else 'no heartbeat for %s: its row is locked by %s'
       end,
         awa._in_words(n.at - w.heartbeat_at), l.holder),
       case
         when w.heartbeat_at < n.at - t.warn_silence
           then 'Its jobs run again when their leases are over; after an hour it is forgotten.'
             || case when l.holder is null then '' else ' Have that transaction end: heartbeats wait for it.' end
       end,
       jsonb_build_object('worker_id', w.worker_id, 'silent_seconds', floor(extract(epoch from n.at - w.heartbeat_at)))
  from awa.workers w
 cross join now n
 cross join settings t
  left join lateral (
    select r.holder
      from awa._locked_workers r
     where r.worker_id = w.worker_id and w.heartbeat_at < n.at - t.warn_silence
     limit 1
  ) l on true
$$;
comment on function awa._health_workers is 'The rows of health about workers';

-- The rows of health about sessions that keep old rows from being removed.
-- Here and everywhere else in the database.
create or replace function awa._health_horizon() returns table (
  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
)
language sql stable
as $$
with now as (
  select clock_timestamp() as at
), settings as (
  select * from awa.settings
)
select 7, case when (h.since < n.at - t.warn_transaction_age or h.is_abandoned) then 'warning' else 'ok' end, 'horizon',
       h.holder,
       format('%s for %s: no row that was deleted since can be removed', h.what, awa._in_words(n.at - h.since)),
       case
         when (h.since < n.at - t.warn_transaction_age or h.is_abandoned)
           then
             'Claims are as fast as ever. End it (a replication slot: drop it) for the sake of other tables, and for '
             'segments to be emptied.'
       end,
       jsonb_build_object('pid', h.pid, 'seconds', floor(extract(epoch from n.at - h.since)), 'transactions',
         h.transactions)
  from now n
 cross join settings t
 cross join lateral (
    select awa._backend(a.pid) as holder, 'a transaction has been open' as what,
           coalesce(a.xact_start, a.backend_start) as since, a.pid,
           greatest(age(a.backend_xmin), age(a.backend_xid)) as transactions, false as is_abandoned
      from pg_stat_activity a
     where (a.backend_xmin is not null or a.backend_xid is not null)
       and a.pid <> pg_backend_pid()
       and a.backend_type is distinct from 'autovacuum worker'
       and (a.datid is null or a.datid = (select d.oid from pg_database d where d.datname = current_database()))
    union all
    select 'prepared transaction ' || p.gid, 'it has been prepared', p.prepared, null, age(p.transaction), false
      from pg_prepared_xacts p
     where p.database = current_database()
    union all
    select 'replication slot ' || s.slot_name,
           case
             when s.active then 'it has kept rows, at least'
             else 'it is not in use, and has kept rows, at least'
           end,
           n.at, null, age(s.xmin), not s.active
      from pg_replication_slots s
     where s.xmin is not null
  ) h
 where h.since < n.at - interval '1 minute' or h.pid is null
$$;
comment on function awa._health_horizon is 'The rows of health about sessions that keep old rows from being removed';

-- The rows of health about notifications.
-- A listener holds the server's queue of notifications while it is in a transaction. The server does not say who
-- listens: the oldest transaction, of one whose last statement was a listen if there is any.
create or replace function awa._health_notifications() returns table (
  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
)
language sql stable
as $$
with now as (
  select clock_timestamp() as at
), settings as (
  select * from awa.settings
)
select 9, case when u.usage >= 0.5 then 'warning' else 'ok' end, 'notifications', 'notification queue',
       format('%s %% full', round(u.usage::numeric * 100))
         || case when not s.notifications then '; workers are not notified (setting notifications), and poll'
                 when u.usage >= 0.5 then '; workers are not notified, and poll' else '' end
         || case
           when u.usage >= 0.5
             then format('; held by a listener, most likely %s',
               coalesce(format('%s, in a transaction for %s', awa._backend(l.pid), awa._in_words(n.at - l.xact_start)),
                 'one that has just gone'))
           else ''
         end,
       case when u.usage >= 0.5 then
         'End that transaction, or the session (pg_terminate_backend). Until then jobs wait for the poll interval of '
         'their workers. When the queue is full, transactions that notify fail; those of awa do not notify.'
            when not s.notifications
              then
                'Jobs wait for the poll interval of their workers, usually a second. Where that is not meant: select '
                'awa.configure(''{"notifications": true}'').' end,
       jsonb_build_object('usage', u.usage, 'pid', l.pid)
  from now n
 cross join settings s
 cross join (select pg_notification_queue_usage() as usage) u
  left join lateral (
    select a.pid, a.xact_start from pg_stat_activity a
     where u.usage >= 0.5
       and a.xact_start is not null
       and a.pid <> pg_backend_pid()
       and a.backend_type = 'client backend'
     order by a.query ~* '^[[:space:]]*listen[[:>:]]' desc, a.xact_start
     limit 1
  ) l on true
$$;
comment on function awa._health_notifications is 'The rows of health about notifications';

-- The holders of locks in this database, and at least since when: since the end of the last statement, the beginning of
-- this one, or since others wait. key is that of an advisory lock.
create or replace view awa._locks as
select l.pid,
       case
         when l.pid is null then coalesce('prepared transaction ' || p.gid, 'a prepared transaction')
         else awa._backend(l.pid)
       end as holder,
       l.relation, l.mode,
       case when l.locktype = 'advisory' and l.objsubid = 1 then l.classid::bigint << 32 | l.objid::bigint end as key,
       coalesce(p.prepared, case when a.state = 'active' then a.query_start else a.state_change end, (
         select min(w.waitstart)
           from pg_locks w
          where w.locktype = l.locktype and not w.granted and w.database = l.database
            and w.relation is not distinct from l.relation
            and w.classid is not distinct from l.classid
            and w.objid is not distinct from l.objid
            and w.objsubid is not distinct from l.objsubid)) as since -- not by rows: see pgtap/contract/dump.sql
  from pg_locks l
  left join pg_stat_activity a on a.pid = l.pid
  left join pg_locks x on l.pid is null
   and x.pid is null
   and x.locktype = 'transactionid'
   and x.granted
   and x.virtualtransaction = l.virtualtransaction
  left join pg_prepared_xacts p on p.transaction = x.transactionid
 where l.granted
   and l.locktype in ('relation', 'advisory')
   and l.database = (select d.oid from pg_database d where d.datname = current_database());
comment on view awa._locks is 'The holders of locks in this database, and at least since when';

-- Other sessions that hold a lock that others wait for: of a queue, or of its number of shards, of a worker, of a
-- claim, or of those that answer for very many claims, or keep very many numbers of shards. Not the shared lock of a
-- claim, which an answer may keep in a long transaction; for that of the counts see _maintenance_holders.
create or replace view awa._held_locks as
select l.pid, l.holder, l.mode, l.since, q.name as queue, q.shard, w.worker_id, c.claim_id,
       case
         when q.name is not null
           then case when q.is_whole then '' else format('shard %s of ', q.shard & 63) end || 'queue ' || q.name
         when n.name is not null then 'the number of shards of queue ' || n.name
         when w.worker_id is not null then 'worker ' || w.worker_id
         when c.claim_id is not null then 'claim ' || c.claim_id
         when l.key = awa._many_shards_key() then 'the numbers of shards'
         else 'answers for many claims'
       end as what,
       case when q.name is not null then 'nothing is claimed from it'
            when n.name is not null then 'no job with a group is enqueued to it'
            when l.key = awa._many_shards_key() then 'no jobs with groups are enqueued to many queues'
            when w.worker_id is null then 'answers wait'
            when l.mode = 'ShareLock' then 'it can''t be ended'
            else 'it claims nothing' end as so
  from awa._locks l
  left join lateral (
    select q.name, - l.key as shard, awa._may_have_shards(q.queue_id) is not true as is_whole
      from awa.queues q
     where l.mode = 'ExclusiveLock'
       and q.queue_id = case when l.key between -1152921504606846976 and 0 then (- l.key) >> 6 end
     limit 1
  ) q on true
  left join lateral (
    select q.name
      from awa.queues q
     where l.mode = 'ExclusiveLock'
       and q.queue_id = case
         when l.key between -3458764513820540928 and -3440750115311058945 then l.key + 3458764513820540928
       end
     limit 1
  ) n on true
  left join lateral (select w.worker_id from awa.workers w where awa._worker_key(w.worker_id) = l.key limit 1) w on true
  left join lateral (
    select c.claim_id
      from awa.lease_claims c
     where l.mode = 'ExclusiveLock' and c.claim_id = case when l.key < 0 then l.key + 4611686018427387904 end
     limit 1
  ) c on true
 where l.pid is distinct from pg_backend_pid()
   and (
     q.name is not null
       or n.name is not null
       or w.worker_id is not null
       or c.claim_id is not null
       or l.mode = 'ExclusiveLock' and l.key in (awa._crowd_key(), awa._many_shards_key())
   );
comment on view awa._held_locks is 'Other sessions that hold a lock that others wait for';

-- Transactions that hold a lock that maintenance needs: the lock of the counts, the row of ring, or the lock of a pass.
create or replace view awa._maintenance_holders as
select a.pid, a.xact_start as since,
       case when bool_or(l.key = awa._fold_key()) then 'counting, expiry, and the emptying of segments'
            when bool_or(l.key is null) then 'the turning of segments'
            else string_agg(p, ', ') end as what
  from (
    select l.*,
           case
             when l.locktype = 'advisory' and l.objsubid = 1 then l.classid::bigint << 32 | l.objid::bigint
           end as key
      from pg_locks l
  ) l
  left join unnest(awa._passes()) p on awa._pass_key(p) = l.key
  join pg_stat_activity a on a.pid = l.pid
 where l.database = (select d.oid from pg_database d where d.datname = current_database())
   and l.granted
   and l.pid <> pg_backend_pid()
   and (l.key = awa._fold_key() or p is not null
     or l.locktype = 'relation' and l.relation = 'awa.ring'::regclass and l.mode <> 'AccessShareLock')
 group by a.pid, a.xact_start;
comment on view awa._maintenance_holders is 'Transactions that hold a lock that maintenance needs';
