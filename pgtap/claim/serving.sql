-- Without this, a job that has its turn would not begin, or a slot would be kept for one that has gone.
\set name serving
\ir ../prelude.psql

select awa.configure_queue(:'queue', '{"group_max_running": 1}') \g /dev/null
select awa.enqueue(:'queue', 'k', to_jsonb(n), group_key => 'g', priority => 1 + n % 2) from generate_series(1, 6) n
  \g /dev/null
select count(*) from awa.claim(:'queue', 9) \g /dev/null
create temp table s as select awa._queue_id(:'queue') << 6 as shard, awa._group_id('g') as g;

begin;
select plan(7);
select awa._store_turns(awa._deal_turns(shard, array[g], '{1}', jsonb_populate_record(null::awa.queue_settings,
  '{"group_max_running": 1}'), false, now(), true)) from s \g /dev/null
select is((select t.last_id from s cross join lateral awa._next_by_turns(s.shard << 3 | 2, 0, false, 9, 10000,
    0, now(), true) t), null, 'a turn is in the lane of its job');
select is((select t.last_id from s cross join lateral awa._next_by_turns(s.shard << 3 | 1, 0, false, 9, 1,
    0, now(), false) t), 0::bigint, 'one that does not fit waits');
create temp table n as
select t.* from s
 cross join lateral awa._next_by_turns(s.shard << 3 | 1, 0, false, 9, 10000, 10, now(), true) t;
select results_eq('select n.waiting_ids, n.void, n.bytes from n',
  format('select array[w.waiting_id], ''{}''::bigint[], w.body_bytes + 10::bigint from awa.limited_jobs w, s
           where w.shard = s.shard and w.args = ''4''', :'queue'), 'or begins');
select is((select count(*) from awa.turns t join s on t.lane >> 3 = s.shard), 0::bigint, 'once');
insert into awa.turns select nextval('awa.turn_ids'), s.shard << 3 | 1, s.g, 999999999 from s;
select results_eq('select t.waiting_ids, t.void from s
    cross join lateral awa._next_by_turns(s.shard << 3 | 1, 0, false, 9, 10000, 0, now(), true) t',
  $$ select '{}'::bigint[], array[g] from s $$, 'a turn whose job has gone is void');

-- Of groups that were served before, as many as may be
insert into awa.turns (turn_id, lane, group_id, waiting_id, is_again)
select nextval('awa.turn_ids'), s.shard << 3 | 2, s.g, w.waiting_id, w.n > 1
  from s, (select w.waiting_id, row_number() over (order by w.waiting_id) as n from awa.limited_jobs w, s
            where w.shard = s.shard and w.lane & 7 = 2) w;
select results_eq('select cardinality(t.waiting_ids), t.again, t.is_last from s
    cross join lateral awa._next_by_turns(s.shard << 3 | 2, 0, false, 1, 10000, 0, now(), true, 0) t',
  'values (1, 0, false)', 'the ones in front of a group that was served before');
select is((select t.last_id from s cross join lateral awa._next_by_turns(s.shard << 3 | 2, 0, false, 9, 10000,
    0, now(), true, 0) t), null, 'and no more, if none may be of such a group');

select * from finish();
rollback;
