-- Without this, two queues could share a lane or a lock, or a producer's id of a queue differ from a worker's.
\set name queues
\ir ../prelude.psql

begin;
select plan(14);

select is(awa._queue_id('email'), ('x' || left(encode(sha256('email'), 'hex'), 15))::bit(60)::bigint, 'the id of a queue is the first 60 bits of the SHA-256 of its name');
select is(awa._queue_id('größe'), ('x' || left(encode(sha256('\x6772c3b6c39f65'), 'hex'), 15))::bit(60)::bigint, 'in UTF-8');
select isnt(awa._queue_id('Email'), awa._queue_id('email'), 'capitals count');
select isnt(awa._queue_id('email '), awa._queue_id('email'), 'blanks count');
select is(awa._queue_id(null), null, 'no name, no id');
select is((select count(distinct awa._queue_id('queue ' || n)) from generate_series(1, 10000) n), 10000::bigint, 'queues have ids of their own');
select is((select count(*) from generate_series(1, 10000) n where awa._queue_id('queue ' || n) * 8 + 7 not between 0 and 9223372036854775807), 0::bigint, 'which leave room for the lanes');
select is(
  (select count(*) from generate_series(1, 10000) n where not awa._queue_key(awa._queue_id('queue ' || n)) between -1152921504606846975 and 0), 0::bigint, 'keys of queue locks are in a range of their own');
select cmp_ok(awa._claim_key((9223372036854775807 >> 12)), '<', -1152921504606846975, 'above those of claims, as far as receipts go');
select cmp_ok(awa._claim_key(0), '<', awa._queue_key((1::bigint << 60) - 1), 'claim 0 among them');
select isnt(awa._queue_key(awa._queue_id('a')), awa._queue_key(awa._queue_id('b')), 'two queues have two locks');

-- Wake-ups
create temp table ticks as select to_hex(awa._queue_id(pg_temp.q()) >> 56) as digit;
select awa._wake(awa._queue_id(pg_temp.q())) \g /dev/null
select ok(
  (select pg_sequence_last_value(format('awa.wake_clock_%s', digit)::regclass) between (extract(epoch from now()) * 200)::bigint - 1 and (extract(epoch from clock_timestamp()) * 200)::bigint + 1 from ticks),
  'a wake-up sets the clock of its channel');
select is((select count(*) from generate_series(0, 15) d where to_regclass('awa.wake_clock_' || to_hex(d)) is null), 0::bigint, 'there is a clock for each of the 16 channels');
select is((select digit from ticks), left(encode(sha256(convert_to(pg_temp.q(), 'UTF8')), 'hex'), 1), 'whose name ends with the first digit of the hash of the queue''s name');

select * from finish();
rollback;
