-- The sessions of the server.

-- The name of a session: its process id, and its application name.
create or replace function awa._backend(pid int) returns text
language sql stable
return (
  select format('backend %s (%s)', a.pid,
    concat_ws(', ', a.usename, nullif(a.application_name, ''), nullif(a.state, 'active')))
    from pg_stat_activity a
   where a.pid = _backend.pid);
comment on function awa._backend is 'The name of a session: its process id, and its application name';

-- The workers whose rows are locked, by an open heartbeat for example, and the sessions that have locked them.
create or replace view awa._locked_workers as
select w.worker_id, coalesce(awa._backend(l.pid), 'a prepared transaction') as holder
  from awa.workers w
 cross join lateral (
    select l.pid
      from pg_locks l
     where l.locktype = 'transactionid' and l.granted and l.transactionid = w.xmax
     limit 1
  ) l
 where w.xmax <> '0';
comment on view awa._locked_workers is 'The workers whose rows are locked, and the sessions that have locked them';

-- Claimers that hold a queue, because their clients have not read what they claimed for ten seconds.
create or replace view awa._stuck_claimers as
select distinct a.pid, a.usesysid, q.name as queue, a.query_start as since
  from pg_stat_activity a
  join pg_locks l on l.pid = a.pid and l.locktype = 'advisory' and l.granted and l.objsubid = 1
   and l.database = (select d.oid from pg_database d where d.datname = current_database())
  join (
    select distinct q.queue_id, q.name from awa.queues q
  ) q on l.classid::bigint << 32 | l.objid::bigint
           between awa._queue_key(q.queue_id) - 63 and awa._queue_key(q.queue_id)
 where a.wait_event = 'ClientWrite' and a.query_start < clock_timestamp() - interval '10 seconds';
comment on view awa._stuck_claimers is 'Claimers whose clients have not read what they claimed';
