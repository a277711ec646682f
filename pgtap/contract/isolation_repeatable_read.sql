-- Without this, a call that decides by what others have just committed would decide by an older snapshot: claim twice, close twice.
-- The single forms stand in business transactions, which may run at any level, so they have to work here.
\set name isolation repeatable read
\ir ../prelude.psql

select awa.register_worker(:'queue') as worker_id \gset
select count(*) from awa.enqueue_many(:'queue', 'k', array(select to_jsonb(n) from generate_series(1, 20) n), max_attempts => 3) \g /dev/null
create temp table c as select * from pg_temp.take('', 10);
create temp table s as select * from pg_temp.take('', 3, one_claim => false);
create temp table w as select * from awa.claim(:'queue', 2, :worker_id);
create temp table before as select j.id, to_jsonb(j) as job from awa.jobs j where j.queue = :'queue';

begin isolation level repeatable read;
select plan(32);

select pg_temp.refused($$select * from awa.claim(pg_temp.q())$$, 'JQ004', 'READ COMMITTED', 'claim');
select pg_temp.refused(format('select * from awa.complete_many(array[%s], array[%s])', job_id, receipt), 'JQ004', 'READ COMMITTED', 'complete_many') from c where n = 1;
select pg_temp.refused(format('select * from awa.complete_many(array[%s], array[%s], array[%L]::jsonb[])', job_id, receipt, '1'), 'JQ004', 'READ COMMITTED', 'complete_many with outputs') from c where n = 1;
select pg_temp.refused(format('select * from awa.complete_many(array[%s], array[%s])', job_id, receipt), 'JQ004', 'READ COMMITTED', 'complete_many, a claim of one job') from s where n = 1;
select pg_temp.refused(format('select * from awa.fail_many(array[%s], array[%s], array[%L])', job_id, receipt, 'e'), 'JQ004', 'READ COMMITTED', 'fail_many') from c where n = 1;
select pg_temp.refused(format('select awa.deregister_worker(%s)', :worker_id), 'JQ004', 'READ COMMITTED', 'deregister_worker');
select is((select count(*) from before b, awa.job(b.id) j where to_jsonb(j) = b.job), 20::bigint, 'no job has changed');
select is((select count(*) from awa.workers t where t.worker_id = :worker_id), 1::bigint, 'the worker is still there');

-- The single forms
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'ok', 'complete') from c where n = 1;
select is(pg_temp.outcome(format('select awa.complete(%s, %s, %L)', job_id, receipt, '1')), 'ok', 'complete with an output') from c where n = 2;
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'ok', 'complete, a claim of one job') from s where n = 1;
select is(pg_temp.outcome(format('select awa.fail(%s, %s, %L)', job_id, receipt, 'e')), 'ok', 'fail') from c where n = 3;
select is(pg_temp.outcome(format('select awa.fail(%s, %s, %L)', job_id, receipt, 'e')), 'ok', 'fail, a claim of one job') from s where n = 2;
select is(pg_temp.outcome(format('select awa.release(%s, %s)', job_id, receipt)), 'ok', 'release') from c where n = 4;
select is(pg_temp.outcome(format('select awa.release(%s, %s)', job_id, receipt)), 'ok', 'release, a claim of one job') from s where n = 3;
select is((select string_agg(j.state, ' ' order by n) from c, awa.job(c.job_id) j where n <= 5), 'completed completed retryable available running', 'do what they say');
select is((select string_agg(j.state, ' ' order by n) from s, awa.job(s.job_id) j), 'completed retryable available', 'for claims of one job too');
select is(pg_temp.states(), 'available 7, completed 3, retryable 2, running 8', 'the books agree');
select is((select row(q.available, q.completed, q.retryable, q.running)::text from awa.queue_counts(pg_temp.q()) q), '(7,3,2,8)', 'and so do the counts');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'JQ001', 'a second answer is stale, item ' || n) from c where n in (1, 3, 4) order by n;
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'JQ001', 'a second answer is stale, a claim of one job') from s where n = 1;
select is(pg_temp.outcome(format('select awa.complete(%s, 0)', job_id)), 'JQ001', 'a made-up receipt is stale') from c where n = 5;

-- The rest
select is(pg_temp.outcome($$select awa.enqueue(pg_temp.q(), 'k')$$), 'ok', 'enqueue');
select is(pg_temp.outcome($$select * from awa.enqueue_many(pg_temp.q(), 'k', array['{}']::jsonb[])$$), 'ok', 'enqueue_many');
select is(pg_temp.outcome($$select * from awa.enqueue_batch(jsonb_build_array(jsonb_build_object('queue', pg_temp.q(), 'kind', 'k')))$$), 'ok', 'enqueue_batch');
select is(pg_temp.outcome(format('select * from awa.heartbeat(%s)', :worker_id)), 'ok', 'heartbeat');
select is(pg_temp.outcome($$select awa.register_worker('w')$$), 'ok', 'register_worker');
select is(pg_temp.outcome($$select awa.configure_queue(pg_temp.q(), '{"lease": 60}')$$), 'ok', 'configure_queue');
select is(pg_temp.outcome($$select awa.pause_queue(pg_temp.q()), awa.resume_queue(pg_temp.q())$$), 'ok', 'pause_queue and resume_queue');
select is((select count(*) from awa.list_jobs(pg_temp.q())), 23::bigint, 'list_jobs');

select * from finish();
rollback;
