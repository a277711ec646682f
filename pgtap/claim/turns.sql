-- Without this, a slot that was given back would be nobody's, or two jobs would begin in it.
\set name turns
\ir ../prelude.psql

select awa.configure_queue(:'queue', '{"group_max_running": 1}') \g /dev/null
select awa.enqueue(:'queue', 'k', to_jsonb(n), group_key => 'g', priority => 1 + n % 2) from generate_series(1, 6) n
  \g /dev/null
select count(*) from awa.claim(:'queue', 9) \g /dev/null
create temp table s as select awa._queue_id(:'queue') << 6 as shard, awa._group_id('g') as g;

begin;
select plan(20);
create function pg_temp.settings(group_max_running int) returns awa.queue_settings
language sql
return jsonb_populate_record(null::awa.queue_settings, jsonb_build_object('group_max_running', group_max_running));
create function pg_temp.deals(freed int, group_max_running int, deals boolean) returns void
language sql
return (
  select awa._store_turns(awa._deal_turns(s.shard, array[s.g], array[freed], pg_temp.settings(group_max_running), false,
           now(), deals))
    from s
);
create function pg_temp.turns() returns int[]
language sql
return (
  select array_agg((w.args #>> '{}')::int order by t.turn_id)
    from awa.turns t join awa.limited_jobs w using (waiting_id) join s on t.lane >> 3 = s.shard
);
create function pg_temp.state() returns text
language sql
return (
  select format('%s %s %s', x.running, x.has_line, x.has_front)
    from s cross join lateral (
      select * from awa.group_states x where x.shard = s.shard and x.group_id = s.g order by x.state_id desc limit 1) x
);
select is(pg_temp.state(), '1 t f', 'one runs, and others wait');
select pg_temp.deals(0, 1, true) \g /dev/null
select is(pg_temp.turns(), null, 'no room, no turn');
select pg_temp.deals(1, 1, false) \g /dev/null
select is(pg_temp.state(), '0 t f', 'a slot comes back');
select pg_temp.deals(0, 2, true) \g /dev/null
select is(pg_temp.state(), '2 t f', 'turns hold slots');
select is(pg_temp.turns(), '{4,6}', 'the first in line get them');
select pg_temp.deals(0, 9, true) \g /dev/null
select is(pg_temp.state(), '5 f f', 'all of them have a turn');
select is((select count(*) from awa.turns t join s on t.lane >> 3 = s.shard), 5::bigint, 'once each');
select is(awa._take_turns_back(shard), array[g], '_take_turns_back returns the groups with lines') from s;
select is(pg_temp.state(), '0 t f', 'they wait again');
select pg_temp.deals(0, 1, true) \g /dev/null
select is(pg_temp.turns(), '{4}', 'in the same order');

-- Serving turns
create function pg_temp.served(priority int, room int, bytes bigint, dealt awa.turns[] default '{}') returns text
language sql
return (
  select format('%s %s %s %s', (
             select array_agg(w.args order by i.ordinality)
               from unnest(t.waiting_ids) with ordinality i(id) join awa.limited_jobs w on w.waiting_id = i.id
           ), t.bytes, t.void, case
             when t.is_full then 'full' when t.is_read then 'read' else cardinality(t.left_over)::text
           end)
    from s
   cross join lateral awa._next_turns(s.shard << 3 | priority, 0, 1::bigint << 60, dealt, false, room, bytes, 10, now(),
      false) t
);
create temp table bytes as select w.body_bytes + 10 as n from awa.limited_jobs w join s using (shard) limit 1;
select is(pg_temp.served(2, 9, 10000), ' 0 {} read', 'a turn is in the lane of its job');
select is(pg_temp.served(1, 9, 1), ' 0 {} full', 'one that does not fit waits');
select is(pg_temp.served(1, 9, 10000), format('{4} %s {} read', n), 'or begins') from bytes;
select is((select count(*) from awa.turns t join s on t.lane >> 3 = s.shard), 0::bigint, 'once');
insert into awa.turns select nextval('awa.turn_ids'), s.shard << 3 | 1, s.g, 999999999 from s;
select is(pg_temp.served(1, 9, 10000), format(' 0 {%s} read', g), 'a turn whose job has gone is void') from s;

-- Turns that were just dealt
select awa._take_turns_back(shard) from s \g /dev/null
create temp table dealt as
select awa._deal_turns(shard, array[g], '{1}', pg_temp.settings(9), false, now(), true) as turns from s;
select is((select count(*) from awa.turns t join s on t.lane >> 3 = s.shard), 0::bigint, 'they are not written');
select is(pg_temp.served(2, 9, 10000, turns), format('{1,3,5} %s {} read', 3 * n), 'they begin in their lanes')
  from dealt, bytes;
select is(pg_temp.served(2, 1, 10000, turns), format('{1} %s {} 3', n), 'or are left over, with those of other lanes')
  from dealt, bytes;
select is(pg_temp.served(2, 9, n + 1, turns), format('{1} %s {} 3', n), 'so where they do not fit') from dealt, bytes;
select awa._store_turns(array[turns[4]]) from dealt \g /dev/null
select is(pg_temp.served(2, 9, 10000, turns[:3]), format('{5,1,3} %s {} read', 3 * n), 'those that wait come first')
  from dealt, bytes;

select * from finish();
rollback;
