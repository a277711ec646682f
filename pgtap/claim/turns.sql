-- Without this, a slot that was given back would be nobody's, or two jobs would begin in it.
\set name turns
\ir ../prelude.psql

select awa.configure_queue(:'queue', '{"group_max_running": 1}') \g /dev/null
select awa.enqueue(:'queue', 'k', to_jsonb(n), group_key => 'g', priority => 1 + n % 2) from generate_series(1, 6) n
  \g /dev/null
select count(*) from awa.claim(:'queue', 9) \g /dev/null
create temp table s as select awa._queue_id(:'queue') << 6 as shard, awa._group_id('g') as g;

begin;
select plan(18);
create function pg_temp.settings(group_max_running int) returns awa.queue_settings
language sql
return jsonb_populate_record(null::awa.queue_settings, jsonb_build_object('group_max_running', group_max_running));
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
select awa._give_turns(shard, array[g], '{0}', pg_temp.settings(1), false, now(), true) from s \g /dev/null
select is(pg_temp.turns(), null, 'no room, no turn');
select awa._give_turns(shard, array[g], '{1}', pg_temp.settings(1), false, now(), false) from s \g /dev/null
select is(pg_temp.state(), '0 t f', 'a slot comes back');
select awa._give_turns(shard, array[g], '{0}', pg_temp.settings(2), false, now(), true) from s \g /dev/null
select is(pg_temp.state(), '2 t f', 'turns hold slots');
select is(pg_temp.turns(), '{4,6}', 'the first in line get them');
select awa._give_turns(shard, array[g], '{0}', pg_temp.settings(9), false, now(), true) from s \g /dev/null
select is(pg_temp.state(), '5 f f', 'all of them have a turn');
select is((select count(*) from awa.turns t join s on t.lane >> 3 = s.shard), 5::bigint, 'once each');
select is(awa._take_turns_back(shard), array[g], '_take_turns_back returns the groups with lines') from s;
select is(pg_temp.state(), '0 t f', 'they wait again');
select awa._give_turns(shard, array[g], '{0}', pg_temp.settings(1), false, now(), true) from s \g /dev/null
select is(pg_temp.turns(), '{4}', 'in the same order');

-- Serving turns
select is((select t.last_id from s cross join lateral awa._next_turns(s.shard << 3 | 2, 0, 1::bigint << 60, 9, 10000, 0,
    now(), true) t), null, 'a turn is in the lane of its job');
select is((select t.last_id from s cross join lateral awa._next_turns(s.shard << 3 | 1, 0, 1::bigint << 60, 9, 1, 0,
    now(), false) t), 0::bigint, 'one that does not fit waits');
create temp table n as
select t.* from s cross join lateral awa._next_turns(s.shard << 3 | 1, 0, 1::bigint << 60, 9, 10000, 10, now(), true) t;
select results_eq('select n.waiting_ids, n.void, n.bytes from n',
  format('select array[w.waiting_id], ''{}''::bigint[], w.body_bytes + 10::bigint from awa.limited_jobs w, s
           where w.shard = s.shard and w.args = ''4''', :'queue'), 'or begins');
select is((select count(*) from awa.turns t join s on t.lane >> 3 = s.shard), 0::bigint, 'once');
insert into awa.turns select nextval('awa.turn_ids'), s.shard << 3 | 1, s.g, 999999999 from s;
select results_eq('select t.waiting_ids, t.void from s
    cross join lateral awa._next_turns(s.shard << 3 | 1, 0, 1::bigint << 60, 9, 10000, 0, now(), true) t',
  $$ select '{}'::bigint[], array[g] from s $$, 'a turn whose job has gone is void');

-- Slots
delete from awa.slots x where x.shard = (select shard from s);
insert into awa.slots (shard, xid, freed, looks, of_queue)
select shard, x::text::xid8, f, l, q
  from s, (values (100, '{1,2,2}'::bigint[], '{3}'::bigint[], 2), (104, '{1}', '{}', 1), (106, '{9}', '{}', 9))
         v(x, f, l, q);
select results_eq('
    select array(select format(''%s:%s'', g, f) from unnest(r.groups, r.freed) u(g, f) order by g), of_queue
      from s cross join lateral awa._read_slots(shard, ''101:101:'', ''106:106:'') r',
  $$ values ('{1:1}'::text[], 1) $$, 'slots are read from one snapshot up to another');
select results_eq('
    select array(select format(''%s:%s'', g, f) from unnest(r.groups, r.freed) u(g, f) order by g), of_queue
      from s cross join lateral awa._read_slots(shard, ''100:103:100,102'', ''103:103:'') r',
  $$ values ('{1:1,2:2,3:0}'::text[], 2) $$, 'also late ones');
select is((select array_agg(x.freed) from awa.slots x join s using (shard)), array['{9}'::bigint[]]::bigint[],
  'and once');

select * from finish();
rollback;
