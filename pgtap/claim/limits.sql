-- Without this, a state of a shard would be lost, or claims would not know of a limit.
\set name limits
\ir ../prelude.psql

begin;
select plan(4);

-- Steps and bursts that a claim cannot count in
select throws_ok($$ select awa.configure_queue('q', '{"rate": {"jobs": 1, "per": "366 days", "burst": 1000000}}') $$,
  '22023', 'rate.burst * per / jobs must be at most 100 years', 'a burst that no claim could add to a time is refused');

-- The state of a shard
select is(awa._shard_state(-7)::text,
  (-7, 0, '3:3:', '{0,0,0,0,0}', 0, null, null, 'start', null, null, false)::awa.shard_states::text,
  'a shard without limits has read nothing');
select awa._store_shard_state((-7, 0, '3:3:', '{0,0,9,0,0}', 2, null, 3, 'start', null, null, false)::awa.shard_states,
    '5:5:') \g /dev/null
select awa._store_shard_state((s.shard, s.state_id, s.read_until, s.turns_until, 4, s.next_at, s.group_max_running,
    s.group_order, s.group_rate, s.opened_until, s.group_turns)::awa.shard_states)
  from awa._shard_state(-7) s \g /dev/null
select results_eq('
    select s.read_until::text, s.turns_until, s.running, s.group_max_running
      from awa.shard_states s
     where s.shard = -7',
  $$ values ('5:5:', '{0,0,9,0,0}'::bigint[], 4, 3) $$, 'the newest state counts, and the older one is gone');
select awa._store_shard_state(awa._shard_state(-7)) \g /dev/null
select is((select count(*) from awa.shard_states s where s.shard = -7), 1::bigint,
  'the same state is not written again');

select * from finish();
rollback;
