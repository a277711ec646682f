-- Without this, two queues could share a lane or a lock, a producer's id of a queue differ from a worker's, or rows go
-- to a segment that is about to be emptied.
\set name queues
\ir ../prelude.psql

begin;
select plan(40);

select is(awa._queue_id('email'), ('x' || left(encode(sha256('email'), 'hex'), 15))::bit(60)::bigint >> 6,
  'the id of a queue is the first 54 bits of the SHA-256 of its name');
select is(awa._queue_id('größe'), ('x' || left(encode(sha256('\x6772c3b6c39f65'), 'hex'), 15))::bit(60)::bigint >> 6,
  'in UTF-8');
select isnt(awa._queue_id('Email'), awa._queue_id('email'), 'capitals count');
select isnt(awa._queue_id('email '), awa._queue_id('email'), 'blanks count');
select is(awa._queue_id(null), null, 'no name, no id');
select is((select count(distinct awa._queue_id('queue ' || n)) from generate_series(1, 10000) n), 10000::bigint,
  'queues have ids of their own');
select is((
  select count(*)
    from generate_series(1, 10000) n
   where awa._last_lane(awa._queue_id('queue ' || n)) not between 0 and 9223372036854775807
),
  0::bigint, 'which leave room for the lanes');
select is(
  (
    select count(*)
      from generate_series(1, 10000) n
     where not awa._queue_key(awa._queue_id('queue ' || n)) between -1152921504606846975 and 0
  ),
  0::bigint, 'keys of queue locks are in a range of their own');
select cmp_ok(awa._claim_key((9223372036854775807 >> 12)), '<', -1152921504606846975,
  'above those of claims, as far as receipts go');
select cmp_ok(awa._claim_key(0), '<', awa._queue_key((1::bigint << 54) - 1) - 63, 'claim 0 among them');
select isnt(awa._queue_key(awa._queue_id('a')), awa._queue_key(awa._queue_id('b')), 'two queues have two locks');


-- Shards
select is((select count(distinct awa._lane(5, p, s)) from generate_series(0, 4) p, generate_series(0, 63) s),
  320::bigint, 'each priority of each shard is a lane of its own');
select is(
  (select array_agg(distinct awa._shard_of(awa._lane(5, p, 63))) from generate_series(0, 4) p),
  array[5::bigint << 6 | 63],
  'lanes of one shard have one number');
select is(awa._shard_key(awa._shard_of(awa._first_lane(5))), awa._queue_key(5),
  'the lock of the first is the queue''s');
select is(awa._group_bits('größe'), ('x' || left(encode(sha256('\x6772c3b6c39f65'), 'hex'), 8))::bit(31)::int,
  'a group''s number is the first 31 bits of the SHA-256 of its key');
select awa.configure_queue(pg_temp.q(' shards'), '{"shards": 5}') \g /dev/null
select is(awa._shard_for(awa._queue_id(pg_temp.q(' shards')), 17, null), 2, 'a job without a group goes by its id');
select is(awa._shard_for(awa._queue_id(pg_temp.q(' shards')), 17, 'g'), awa._group_bits('g') % 5, 'or by its group');
select is(awa._shard_for(awa._queue_id(pg_temp.q(' one')), 17, 'g'), 0, 'there is one shard by default');
select is(
  array[
    (select awa._ready_lane(awa._lane(q, 3, 60), 17, null)), (select awa._ready_lane(awa._lane(q, 3, 60), 17, 'g'))
  ],
  array[awa._lane(q, 3, 2), awa._lane(q, 3, 60)],
  'a job becomes ready in a shard that there is; with a group, in its own')
  from awa._queue_id(pg_temp.q(' shards')) q;
select is(awa._may_have_shards(7), null, 'nothing is noted');
select awa._note_shards(7) \g /dev/null
select is(array[awa._may_have_shards(7), awa._may_have_shards(8)], '{t,f}', 'a queue is, and no other');
select awa._note_shards(8) \g /dev/null
select is(array[awa._may_have_shards(7), awa._may_have_shards(8)], '{t,t}', 'until it is, too');
select setval('awa.sharded', 1, false) \g /dev/null
select awa._use_lanes(array[awa._lane(awa._queue_id(pg_temp.q(' shards')), 1, 2),
  awa._lane(awa._queue_id(pg_temp.q(' shards')), 2, 4)], pg_temp.q(' shards')) \g /dev/null
select is((select array_agg(l) from awa._lanes_in_shard(awa._queue_id(pg_temp.q(' shards')) << 6 | 4) l),
  array[awa._lane(awa._queue_id(pg_temp.q(' shards')), 2, 4)], 'the lanes of a shard are its own');
select awa._check_settings_seen(awa._queue_id(pg_temp.q(' none'))) \g /dev/null
select is((select count(*) from awa.queue_settings s where s.queue_id = awa._queue_id(pg_temp.q(' none'))), 0::bigint,
  'a look at the settings leaves none');

-- Wake-ups
create temp table ticks as select to_hex(awa._queue_id(pg_temp.q()) >> 50) as digit;
select awa._wake(awa._queue_id(pg_temp.q())) \g /dev/null
select ok(
  (
    select pg_sequence_last_value(
      format('awa.wake_clock_%s', digit)::regclass
    ) between (extract(epoch from now()) * 200)::bigint - 1 and (
      extract(epoch from clock_timestamp()) * 200
    )::bigint + 1
      from ticks
  ),
  'a wake-up sets the clock of its channel');
select is((select count(*) from generate_series(0, 15) d where to_regclass('awa.wake_clock_' || to_hex(d)) is null),
  0::bigint, 'there is a clock for each of the 16 channels');
select is((select digit from ticks), left(encode(sha256(convert_to(pg_temp.q(), 'UTF8')), 'hex'), 1),
  'whose name ends with the first digit of the hash of the queue''s name');

-- Where rows go
update awa.ring set current_segment = 2;
select is(awa._current_segment(), 2::smallint, 'rows go to the segment that ring names');
select awa.enqueue(pg_temp.q(), 'k') \g /dev/null
select is((
  select array_agg(distinct e.tableoid::regclass::text) from awa.ready_entries e where e.xid = pg_current_xact_id()
),
  '{awa.ready_entries_2}', 'new entries do');
savepoint here;
update awa.ring set tables = array['awa.ring'::regclass, 'awa.ready_tombstones'::regclass]::oid[];
select is(awa._current_segment(), 2::smallint, 'a table that was copied and swapped is no restore');
update awa.origin set xid = '3';
select pg_temp.refused('select awa._current_segment()', '55000', 'restored',
  'one where ready_entries has another OID, and a row was written by another transaction than it says, is');
rollback to here;
update awa.ring set tables = array['awa.queues'::regclass, 'awa.ready_entries'::regclass]::oid[];
update awa.origin set server = server + 1;
update awa.origin set xid = xmin;
select pg_temp.refused('select awa._current_segment()', '55000', 'restored',
  'so is one where ring has another OID, on another server');
rollback to here;
update awa.origin set xid = '3';
select is(awa._current_segment(), 2::smallint, 'a row that was rewritten is no restore');
update awa.origin set server = server + 1;
select pg_temp.refused('select awa._current_segment()', '55000', 'restored', 'but on another server');
rollback to here;
update awa.origin set server = server + 1;
update awa.origin set xid = xmin;
select is(awa._current_segment(), 2::smallint, 'an upgrade gives the server another identifier, and is no restore');
rollback to here;
insert into awa.origin table awa.origin;
select pg_temp.refused('select awa._current_segment()', '55000', 'restored',
  'data that was restored alone has added a row');
rollback to here;
delete from awa.origin;
select pg_temp.refused('select awa._current_segment()', '55000', 'restored', 'without a row nobody knows');

-- For the books
rollback to here;
truncate awa.arrivals;
select awa._arrive(20, 3), awa._arrive(20, 0), awa._arrive(21, -1) \g /dev/null
select results_eq('select a.lane, a.jobs, a.segment, a.xid = pg_current_xact_id() from awa.arrivals a order by a.lane',
  $$values (20::bigint, 3::bigint, 2::smallint, true), (21, -1, 2::smallint, true)$$,
  'jobs that come or go without an entry are noted for their lane; not when there are none');
select awa._arrive(20, 3) \g /dev/null
select is((select sum(a.enqueued) from awa._appended_since(20, '3:3:', null) a), 6::numeric,
  'several in one transaction add up');
select is((select sum(a.entries + a.tombstones) from awa._appended_since(20, '3:3:', null) a), 0::bigint,
  'they are no entries, and no burials');

select * from finish();
rollback;
