-- Without this, an operator could not stop work that does harm without stopping those who enqueue it.
\set name pause_queue
\ir ../prelude.psql

select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[5])) \g /dev/null
select awa.enqueue(:'queue' || ' other', 'k') \g /dev/null
create temp table c as select * from pg_temp.take('', 3);

begin;
select plan(20);

create temp table told as select awa.pause_queue(queue => pg_temp.q())::text as answer;
select is((select answer from told), '', 'pause_queue returns nothing');
select is((select count(*) from awa.claim(pg_temp.q(), 10)), 0::bigint, 'nothing is claimed from a paused queue');
select is((select count(*) from awa.claim(pg_temp.q(' other'), 10)), 1::bigint, 'but from others');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'ok', 'what runs may complete')
  from c
 where n = 1;
select is(pg_temp.outcome(format('select awa.fail(%s, %s, %L)', job_id, receipt, 'e')), 'ok', 'or fail')
  from c
 where n = 2;
select is(pg_temp.outcome(format('select awa.release(%s, %s)', job_id, receipt)), 'ok', 'or be given back')
  from c
 where n = 3;
select is(pg_temp.outcome(format('select awa.enqueue(%L, %L)', pg_temp.q(), 'k')), 'ok', 'enqueue goes on');
select is(pg_temp.states(), 'available 4, completed 1, retryable 1', 'all is as it would be otherwise');
select is((
  select row(s.changed_by, s.paused_at between now() and clock_timestamp())::text
    from awa.queue_settings s
   where s.queue_id = awa._queue_id(pg_temp.q())
),
  format('(%s,t)', session_user), 'it keeps who paused it, and when');
create temp table before as select s.paused_at from awa.queue_settings s where s.queue_id = awa._queue_id(pg_temp.q());
select awa.pause_queue(pg_temp.q()) \g /dev/null
select is((select s.paused_at from awa.queue_settings s where s.queue_id = awa._queue_id(pg_temp.q())),
  (select paused_at from before), 'paused twice, it is paused since the first time');
select awa.configure_queue(pg_temp.q(), '{"lease": "5 minutes"}') \g /dev/null
select is((
  select row(s.paused_at is not null, s.lease)::text
    from awa.queue_settings s
   where s.queue_id = awa._queue_id(pg_temp.q())
),
  '(t,00:05:00)', 'settings and pause leave each other alone');
select awa.pause_queue(pg_temp.q()) \g /dev/null
select is((select s.lease from awa.queue_settings s where s.queue_id = awa._queue_id(pg_temp.q())),
  interval '5 minutes', 'both ways');

select pg_temp.refused(format('select awa.pause_queue(%s)', c.queue), c.state, c.names, c.description)
  from (values
    (1, 'null', '22023', 'queue', 'no queue'), (2, $$''$$, '22023', 'queue', 'an empty queue'),
    (3, $$repeat('q', 201)$$, '22023', 'queue', 'a queue of 201 characters')
  ) c(n, queue, state, names, description)
 order by c.n;
select is(pg_temp.outcome($$select awa.pause_queue(pg_temp.q(' new'))$$), 'ok',
  'a queue that no job was enqueued to is made');
select is((select count(*) from awa.queue_counts(pg_temp.q(' new'))), 1::bigint, 'it is there');
select pg_temp.fill(pg_temp.q(' new'), 1) \g /dev/null
select is((select count(*) from awa.claim(pg_temp.q(' new'))), 0::bigint, 'and paused: its first job is not claimed');
select awa.resume_queue(pg_temp.q(' new')) \g /dev/null
select is((select count(*) from awa.claim(pg_temp.q(' new'))), 1::bigint, 'until it is resumed');
select is((select count(*) from awa.queue_settings s where s.queue_id = awa._queue_id(pg_temp.q(' new'))), 1::bigint,
  'once');

select * from finish();
rollback;
