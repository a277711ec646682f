-- Without this, two queues could share a lane or a lock, a producer's id of a queue differ from a worker's, or rows go
-- to a segment that is about to be emptied.
\set name queues
\ir ../prelude.psql

begin;
select plan(27);

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
