-- Without this, a paused queue would stay so, or lose its place: what waited must come in order, and nothing twice.
\set name resume_queue
\ir ../prelude.psql

select count(*)
  from awa.enqueue_many(:'queue', 'k', array(select to_jsonb(n) from generate_series(1, 3) n)) \g /dev/null
create temp table c as select * from pg_temp.take('', 1);
select awa.configure_queue(:'queue', '{"lease": "5 minutes"}') \g /dev/null
select awa.pause_queue(:'queue') \g /dev/null
select awa.enqueue(:'queue', 'k', '4') \g /dev/null

begin;
select plan(11);

select is((select count(*) from awa.claim(pg_temp.q(), 10)), 0::bigint, 'while it is paused nothing is claimed');
create temp table told as select awa.resume_queue(queue => pg_temp.q())::text as answer;
select is((select answer from told), '', 'resume_queue returns nothing');
select is((select array_agg(c.args) from awa.claim(pg_temp.q(), 10) c), '{2,3,4}',
  'then what waited is claimed, in order, and what came meanwhile');
select is((
  select row(s.paused_at, s.lease, s.changed_by)::text
    from awa.queue_settings s
   where s.queue_id = awa._queue_id(pg_temp.q())
),
  format('(,00:05:00,%s)', session_user), 'settings stay');
select is(pg_temp.outcome($$select awa.resume_queue(pg_temp.q())$$), 'ok', 'a queue that is not paused may be resumed');
select awa.enqueue(:'queue' || ' plain', 'k') \g /dev/null
select is(pg_temp.outcome($$select awa.resume_queue(pg_temp.q(' plain'))$$), 'ok', 'and one that has no settings');

select pg_temp.refused(format('select awa.resume_queue(%s)', c.queue), c.state, c.names, c.description)
  from (values
    (1, 'null', '22023', 'queue', 'no queue'), (2, $$''$$, '22023', 'queue', 'an empty queue'),
    (3, $$repeat('q', 201)$$, '22023', 'queue', 'a queue of 201 characters'),
    (4, $$pg_temp.q(' unknown')$$, 'JQ002', 'queue', 'a queue that no job was enqueued to')
  ) c(n, queue, state, names, description)
 order by c.n;
select is((select count(*) from awa.queues where name = pg_temp.q(' unknown')), 0::bigint,
  'an unknown queue does not come into being');

select * from finish();
rollback;
