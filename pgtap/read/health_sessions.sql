-- Without this, a worker that died would show only when its jobs run again, and it would not be noticed why workers
-- poll. Old snapshots, and a queue of notifications that is full, are covered by tests with several sessions.
\set name health_sessions
\ir ../prelude.psql

begin;
select plan(4);
\ir health.psql

-- Workers
insert into awa.workers (name, heartbeat_at)
values ('quick', pg_temp.ago('1 second')), ('silent', pg_temp.ago('1 minute 1 second'));
select matches(pg_temp.says('worker'),
  '^ok: quick \(\d+\): alive, 00:00 after its last heartbeat \| warning: silent \(\d+\): no heartbeat for 00:01 -> Its '
  'jobs run again when their leases are over; after an hour it is forgotten\.$',
  'workers, alive and silent');
select is((pg_temp.details('worker') ->> 'worker_id')::bigint,
  (select w.worker_id from awa.workers w where w.name = 'silent'), 'by its id');
rollback to well;

-- Without notifications jobs wait until their workers look.
select is((select h.hint from awa.health() h where h.topic = 'notifications'), null,
  'where workers are notified there is nothing to say');
update awa.settings set notifications = false;
select matches((
  select h.level || ': ' || h.message || ': ' || h.hint from awa.health() h where h.topic = 'notifications'
),
  '^ok: .* workers are not notified .*: Jobs wait for the poll interval of their workers',
  'without notifications jobs wait for the poll interval');
select setval('awa.rescue_called_at', :rescue_called_at, :'was_called') \g /dev/null

select * from finish();
rollback;
