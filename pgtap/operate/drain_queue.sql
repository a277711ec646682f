-- Without this, no user could be sure before a deploy that none of a queue's jobs runs, or begins.
\set name drain_queue
\ir ../prelude.psql

select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[5])) \g /dev/null
select awa.enqueue(:'queue' || ' other', 'k') \g /dev/null
create temp table c as select * from pg_temp.take('', 3);
select awa.extend(job_id, receipt, '1 hour') from c where n = 3 \g /dev/null

begin;
select plan(17);

select is(awa.drain_queue(queue => pg_temp.q()), 3::bigint, 'drain_queue returns how many run, those that last, too');
select is((select count(*) from awa.claim(pg_temp.q(), 10)), 0::bigint, 'nothing is claimed from then on');
select is((select count(*) from awa.claim(pg_temp.q(' other'), 10)), 1::bigint, 'but from others');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'ok', 'what runs may complete')
  from c
 where n = 1;
select is(awa.drain_queue(pg_temp.q()), 2::bigint, 'then there is one less');
select is(pg_temp.outcome(format('select awa.fail(%s, %s, %L, %L)', job_id, receipt, 'e', '0')), 'ok', 'or fail')
  from c
 where n = 2;
select is(pg_temp.outcome(format('select awa.release(%s, %s)', job_id, receipt)), 'ok', 'or be given back')
  from c
 where n = 3;
select is(awa.drain_queue(pg_temp.q()), 0::bigint, 'none runs');
select is((select p.promoted from awa.promote_due() p), 1::bigint, 'retries become ready');
select is(pg_temp.outcome(format('select awa.enqueue(%L, %L)', pg_temp.q(), 'k')), 'ok', 'enqueue goes on');
select is((select count(*) from awa.claim(pg_temp.q(), 10)), 0::bigint, 'and none of these begins');
select is((select row(q.paused_at between now() and clock_timestamp(), q.changed_by)::text
  from awa.list_queues() q where q.queue = pg_temp.q()), format('(t,%s)', session_user),
  'the queue is shown as paused, since the first call, and by whom');
select pg_temp.refused(format('select awa.drain_queue(%L)', pg_temp.q(' new')), 'JQ002', 'no such queue',
  'a queue that does not exist');
select is((select count(*) from awa.queue_counts(pg_temp.q(' new'))), 0::bigint, 'nor is it made');
select pg_temp.refused(format('select awa.drain_queue(%s)', c.queue), '22023', 'queue', c.description)
  from (values (1, 'null', 'no queue'), (2, $$''$$, 'an empty queue')) c(n, queue, description)
 order by c.n;
select pg_temp.agrees('the books balance');

select * from finish();
rollback;
