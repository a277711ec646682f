-- Without this, a slot that an attempt gives back would be another group's, or nobody's.
\set name slots
\ir ../prelude.psql

select awa.configure_queue(:'queue', '{"group_max_running": 2, "max_running": 3}') \g /dev/null
select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('1'::jsonb, array[2]), group_key => 'g') \g /dev/null
select awa.enqueue(:'queue', 'k') \g /dev/null
create temp table c as select * from awa.claim(:'queue', 9);

begin;
select plan(13);

select is(awa._group_id('acme'), ('x' || left(encode(sha256('acme'), 'hex'), 16))::bit(64)::bigint,
  'the id of a group is the beginning of a hash of its key');
select is(awa._group_id(null), null, 'no group has none');
select is(awa._first_shard(awa._queue_id(:'queue') << 6 | 5), awa._queue_id(:'queue') << 6,
  'the first shard of a queue');
select is((
    select array_agg(h.group_id order by h.job_id) from awa._holders h where h.queue_id = awa._queue_id(:'queue')
  ),
  array[awa._group_id('g'), awa._group_id('g'), null], 'attempts hold slots of their groups');
select is((select bool_and(h.holds_queue) from awa._holders h where h.queue_id = awa._queue_id(:'queue')), true,
  'and all of them of the queue');

select awa._free_slots(awa._queue_id(:'queue') << 6, array[1, null, 2, 2], 3) \g /dev/null
select results_eq('select s.freed, s.of_queue from awa.slots s where s.shard = ' || (awa._queue_id(:'queue') << 6),
  $$ values ('{1,2,2}'::bigint[], 3) $$, '_free_slots names each group as often as it got a slot back');
delete from awa.slots s where s.shard = awa._queue_id(:'queue') << 6;
select awa._free_slots(awa._queue_id(:'queue') << 6 | 3, array[7], 1) \g /dev/null
select results_eq('select s.shard & 63, s.freed, s.of_queue from awa.slots s where s.shard >> 6 = '
    || awa._queue_id(:'queue') || ' order by 1',
  $$ values (0::bigint, '{}'::bigint[], 1), (3, '{7}', 0) $$, 'those of the queue go to its first shard');
delete from awa.slots s where s.shard >> 6 = awa._queue_id(:'queue');
select awa._free_slots(awa._queue_id(:'queue') << 6, '{null}', 0) \g /dev/null
select is((select count(*) from awa.slots s where s.shard >> 6 = awa._queue_id(:'queue')), 0::bigint,
  'nothing is nothing');
select awa._free_slots_of(array(select receipt from c order by 1)) \g /dev/null
select results_eq('select s.freed, s.of_queue from awa.slots s where s.shard = ' || (awa._queue_id(:'queue') << 6),
  $$ select array[awa._group_id('g'), awa._group_id('g')], 3 $$, '_free_slots_of gives back what the claims say');

select is(awa._rate_step('{"jobs": 100, "per": "1 minute", "burst": 5}'), 0.6::float8, 'the step of a rate');
select is(awa._rate_opens_at('{"jobs": 60, "per": "1 minute", "burst": 1}', '2030-01-01'), '2030-01-01'::timestamptz,
  'without a burst, the next job begins when its step is over');
select is(awa._rate_opens_at('{"jobs": 60, "per": "1 minute", "burst": 5}', '2030-01-01'),
  '2030-01-01'::timestamptz - interval '4 seconds', 'with one, so many steps before');
select is(awa._rate_opens_at('{"jobs": 60, "per": "1 minute", "burst": 5}', null), null,
  'before the first job there is no such time');

select * from finish();
rollback;
