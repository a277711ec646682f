-- Without this, a slot that was lost would be missing for ever, and no user would know why a group stands still.
\set name limit_problems
\ir ../prelude.psql

select awa.configure_queue(:'queue', '{"group_max_running": 1, "max_running": 9}') \g /dev/null
select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('1'::jsonb, array[3]), group_key => 'g') \g /dev/null
select count(*) from awa.claim(:'queue', 9) \g /dev/null

begin;
select plan(9);
create function pg_temp.problems() returns text
language sql
return (select string_agg(l.problem, '; ' order by l.problem) from awa._limit_problems l
  where l.queue_id = awa._queue_id(pg_temp.q()));

-- The problems after damage, which is undone.
create function pg_temp.problems_after(damage text, queue_id bigint default awa._queue_id(pg_temp.q())) returns text
language plpgsql
as $$
declare
  v_problems text;
begin
  execute replace(replace(damage, ':shard', (queue_id << 6)::text), ':queue_id', queue_id::text);
  v_problems := pg_temp.problems();
  raise sqlstate 'JQ999';
exception when sqlstate 'JQ999' then
  return v_problems;
end
$$;

select is(pg_temp.problems(), null, 'the books are right');
select is(pg_temp.problems_after('update awa.group_states set running = 2 where shard = :shard'),
  format('group %s: 1 slots are held, 2 are counted', awa._group_id('g')), 'a slot that no job holds');
select alike(pg_temp.problems_after('delete from awa.group_states where shard = :shard'),
  '%(g): of its line of 2 jobs some are not known%1 slots are held, 0 are counted%', 'a group without its state');
select is(
  pg_temp.problems_after('update awa.group_states set taken = 9000000000000000000 where shard = :shard'),
  format('group %s (g): of its line of 2 jobs some are not known', awa._group_id('g')), 'jobs that were passed over');
select is(pg_temp.problems_after('update awa.shard_states set group_max_running = 2 where shard = :shard'),
  format('group %s (g): 2 jobs wait, there is room, and nothing wakes them', awa._group_id('g')),
  'a group that nobody looks at');
select is(
  pg_temp.problems_after($$
    do 'begin update awa.shard_states set group_max_running = 2 where shard = :shard;
      perform awa._look_again(:shard, array[awa._group_id(''g'')]); end'$$),
  null, 'a claim is to look at it');
select is(pg_temp.problems_after('update awa.shard_states set running = 0 where shard = :shard'),
  '1 slots of the queue are held, 0 are counted', 'a slot of the queue');
select alike(pg_temp.problems_after('delete from awa.lease_claims where lane >> 9 = :queue_id'),
  '%0 slots are held, 1 are counted%', 'a claim that was removed');
select alike(
  pg_temp.problems_after($$
    do 'begin update awa.shard_states set group_turns = true where shard = :shard;
      update awa.group_states set running = 2 where shard = :shard;
      insert into awa.turns (turn_id, lane, group_id, waiting_id) select nextval(''awa.turn_ids''), w.lane, w.group_id,
        w.waiting_id from awa.limited_jobs w where w.shard = :shard order by w.waiting_id limit 1; end'$$),
  '%: 0 turns are counted, 1 are there%', 'a turn that is not counted, where groups are served by turns');

select * from finish();
rollback;
