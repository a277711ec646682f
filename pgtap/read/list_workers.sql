-- Without this, no user could see which workers there are, and which of them holds jobs and is silent.
\set name list_workers
\ir ../prelude.psql

select awa.register_worker(:'queue', array[:'queue', 'other'], '{"version": "1"}') as worker_id,
  awa.register_worker(:'queue' || ' all') as all_id \gset
select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[10])) \g /dev/null

begin;
select plan(11);
create function pg_temp.worker(id bigint) returns awa.list_workers_row
language sql
as $$ select w.* from awa.list_workers() w where w.worker_id = id $$;

select is((select to_jsonb(w) - '{started_at,heartbeat_at}'::text[] from pg_temp.worker(:worker_id) w),
  jsonb_build_object('worker_id', :worker_id, 'name', :'queue', 'queues', array[:'queue', 'other'], 'info',
    '{"version": "1"}'::jsonb, 'overdue', false, 'open_attempts', 0, 'registered_by', session_user),
  'what was registered, and by whom');
select is((select row(w.started_at, w.heartbeat_at)::text from pg_temp.worker(:worker_id) w),
  (select row(w.started_at, w.heartbeat_at)::text from awa.workers w where w.worker_id = :worker_id),
  'since when, and the last heartbeat');
select is((select row(w.name, w.queues, w.info)::text from pg_temp.worker(:all_id) w),
  (select row(:'queue' || ' all', null::text[], null::jsonb)::text), 'of one that works on all queues, no queues');
select is((select array_agg(w.worker_id) from awa.list_workers() w),
  (select array_agg(w.worker_id order by w.worker_id) from awa.workers w), 'every worker, by its id');

-- Open attempts
create temp table c as select row_number() over () as n, c.* from awa.claim(pg_temp.q(), 5, :worker_id) c;
select count(*) from awa.claim(pg_temp.q(), 2, :all_id) a, awa.claim(pg_temp.q(), 1) b \g /dev/null
create function pg_temp.open_attempts(a bigint, b bigint) returns text
language sql
as $$ select row((pg_temp.worker(a)).open_attempts, (pg_temp.worker(b)).open_attempts)::text $$;
select is(pg_temp.open_attempts(:worker_id, :all_id), '(5,2)', 'how many attempts of each are open');
select awa.complete(job_id, receipt) from c where n = 1 \g /dev/null
select awa.fail(job_id, receipt, 'e') from c where n = 2 \g /dev/null
select is(pg_temp.open_attempts(:worker_id, :all_id), '(3,2)', 'not those that have ended');
select awa.extend(job_id, receipt, '1 hour') from c where n = 3 \g /dev/null
select pg_temp.fold() \g /dev/null
select is(pg_temp.open_attempts(:worker_id, :all_id), '(3,2)',
  'also those that have rows of their own, and when the past is counted');
select is((select (pg_temp.worker(:worker_id)).open_attempts),
  (select count(*) from awa.jobs j where j.state = 'running' and j.worker_id = :worker_id), 'as awa.jobs shows them');
select count(*) from awa.complete_many(array(select job_id from c where n > 2),
  array(select receipt from c where n > 2)) \g /dev/null
select is(pg_temp.open_attempts(:worker_id, :all_id), '(0,2)', 'none when all have ended');

-- Silence
update awa.workers
   set heartbeat_at = clock_timestamp() - case worker_id when :worker_id then interval '2 minutes' else '0' end;
select is((select array_agg(w.overdue order by w.worker_id) from awa.list_workers() w
  where w.worker_id in (:worker_id, :all_id)), '{t,f}', 'one that sends no heartbeats for warn_silence is overdue');
select awa.configure('{"warn_silence": "1 hour"}') \g /dev/null
select is((select (pg_temp.worker(:worker_id)).overdue), false, 'whatever that is set to');

select * from finish();
rollback;
