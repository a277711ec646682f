-- Without this, workers that died would be listed for ever, and with them what they were to be told.
\set name forget_workers
\ir ../prelude.psql

select awa.register_worker(:'queue' || ' silent') as silent_id, awa.register_worker(:'queue' || ' dead') as dead_id,
       awa.register_worker(:'queue' || ' working') as working_id,
       awa.register_worker(:'queue' || ' leased') as leased_id \gset
select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[2])) \g /dev/null
select count(*)
  from awa.claim(:'queue', 1, :leased_id, '3 hours') c
 cross join lateral awa.set_progress(c.job_id, c.receipt, '1') \g /dev/null
select count(*) from awa.claim(:'queue', 1, :working_id, '3 hours') \g /dev/null

begin;
select plan(9);

create temp view those as
select string_agg(substr(w.name, length(pg_temp.q()) + 2), ', ' order by w.name) as names
  from awa.workers w
 where starts_with(w.name, pg_temp.q());
insert into awa.lost_attempts (worker_id, receipt, job_id, reason)
values (:dead_id, 1, 1, 'cancelled'), (:silent_id, 1, 1, 'cancelled'), (-1, 1, 1, 'cancelled');
update awa.workers set heartbeat_at = clock_timestamp() - interval '59 minutes' where worker_id = :silent_id;
update awa.workers
   set heartbeat_at = clock_timestamp() - interval '61 minutes'
 where worker_id in (:dead_id, :working_id, :leased_id);
select pg_temp.no_gap() \g /dev/null
select setval('awa.rescue_called_at', awa._microseconds(clock_timestamp() - interval '2 minutes')) \g /dev/null
select is((select forgotten from awa.forget_workers()), 0::bigint,
  'silence counts up to the last call of rescue: the server may have been down since');
select is(names, 'dead, leased, silent, working', 'so all stay') from those;
select pg_temp.no_gap() \g /dev/null
select setval('awa.pass_clock_forget_workers', 1) \g /dev/null
select cmp_ok((select forgotten from awa.forget_workers()), '>=', 1::bigint,
  'workers that were silent for an hour are forgotten');
select is(names, 'leased, silent, working', 'but not those that have attempts') from those;
select is((select array_agg(r.worker_id) from awa.lost_attempts r where r.worker_id in (:dead_id, :silent_id, -1)),
  array[:silent_id]::bigint[], 'with what they were to be told');
select ok(awa._succeeded_at('forget_workers') > clock_timestamp() - interval '1 minute', 'it has succeeded');
select is((select forgotten from awa.forget_workers()), 0::bigint, 'once');
select setval('awa.rescue_called_at', 1, false) \g /dev/null
select is((select forgotten from awa.forget_workers()), 0::bigint, 'where rescue was never called nobody is forgotten');
select pg_temp.no_gap() \g /dev/null
select is((select count(*) from awa.forget_workers_row), 0::bigint, 'the view that names the column is empty');

select * from finish();
rollback;
