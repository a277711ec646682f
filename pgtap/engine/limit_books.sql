-- Without this, a slot that was lost would be missing for ever, and nobody would know why a group stands still.
\set name limit_books
\ir ../prelude.psql

select awa.configure_queue(:'queue', '{"group_max_running": 1, "max_running": 9}') \g /dev/null
select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('1'::jsonb, array[3]), group_key => 'g') \g /dev/null
select count(*) from awa.claim(:'queue', 9) \g /dev/null

begin;
select plan(8);
create function pg_temp.problems() returns text
language sql
return (select string_agg(l.problem, '; ' order by l.problem) from awa._limit_problems l
  where l.queue_id = awa._queue_id(pg_temp.q()));

select is(pg_temp.problems(), null, 'the books are right');
savepoint s;
update awa.group_states s set running = 2 where s.shard = awa._queue_id(:'queue') << 6;
select is(pg_temp.problems(), format('group %s: 1 slots are held, 2 are counted', awa._group_id('g')),
  'a slot that nobody holds');
rollback to s;
delete from awa.group_states s where s.shard = awa._queue_id(:'queue') << 6;
select ok(pg_temp.problems() like '%(g): of its line of 2 jobs some are not known%1 slots are held, 0 are counted%',
  'a group without its state');
rollback to s;
update awa.group_states s set taken = 9000000000000000000 where s.shard = awa._queue_id(:'queue') << 6;
select is(pg_temp.problems(), format('group %s (g): of its line of 2 jobs some are not known', awa._group_id('g')),
  'jobs that were passed over');
rollback to s;
update awa.shard_states s set group_max_running = 2 where s.shard = awa._queue_id(:'queue') << 6;
select is(pg_temp.problems(), format('group %s (g): 2 jobs wait, there is room, and nothing wakes them',
  awa._group_id('g')), 'a group that nobody looks at');
select awa._look_again(awa._queue_id(:'queue') << 6, array[awa._group_id('g')]) \g /dev/null
select is(pg_temp.problems(), null, 'a claim is to look at it');
rollback to s;
update awa.shard_states s set running = 0 where s.shard = awa._queue_id(:'queue') << 6;
select is(pg_temp.problems(), '1 slots of the queue are held, 0 are counted', 'a slot of the queue');
rollback to s;
delete from awa.lease_claims c where c.lane >> 9 = awa._queue_id(:'queue');
select ok(pg_temp.problems() like '%0 slots are held, 1 are counted%', 'a claim that was removed');
rollback to s;

select * from finish();
rollback;
