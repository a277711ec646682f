-- Without this, a call could wait for an advisory lock for ever, take the wrong one, or leave its caller with another
-- lock_timeout. What a wait ends with is in the tests with two sessions.
\set name locks
\ir ../prelude.psql

begin;
select plan(26);

-- The advisory locks that this transaction holds: their keys, and how
create function pg_temp.locks() returns text
language sql
begin atomic
  select string_agg(format('%s %s', l.classid::bigint << 32 | l.objid::bigint, l.mode), ', ' order by l.mode)
    from pg_locks l
   where l.locktype = 'advisory' and l.pid = pg_backend_pid() and l.objsubid = 1;
end;
-- What is held, and the lock_timeout, after a statement that is taken back
create function pg_temp.after(command text) returns text
language plpgsql
as $$
declare
  v_after text;
begin
  begin
    execute command;
    v_after := concat_ws('; ', pg_temp.locks(), current_setting('lock_timeout'));
    raise exception using errcode = 'TAP00';
  exception when sqlstate 'TAP00' then
    return v_after;
  end;
end
$$;
select is(pg_temp.locks(), null, 'nothing is held');

-- The holder has let go meanwhile, or holds it shared
select is(pg_temp.after($$select awa._wait_for_lock(7, false, 'm', 'h')$$), '7 ExclusiveLock; 0',
  'a lock that is waited for is taken');
select is(pg_temp.after($$select awa._wait_for_lock(-7, true, 'm', 'h')$$), '-7 ShareLock; 0',
  'shared, where that was asked for; whatever its key');
set local lock_timeout = '3s';
select is(pg_temp.after($$select awa._wait_for_lock(7, false, 'm', 'h')$$), '7 ExclusiveLock; 3s',
  'the caller''s lock_timeout is what it was');
set local lock_timeout = '1h';
select is(pg_temp.after($$select awa._wait_for_lock(7, false, 'm', 'h')$$), '7 ExclusiveLock; 1h', 'also a longer one');
set local lock_timeout = 0;

-- Which lock is whose
select is(pg_temp.after('select awa._lock_shard(5 << 6)'), awa._queue_key(5) || ' ExclusiveLock; 0',
  'the lock of a shard');
select is(pg_temp.after('select awa._lock_shards(5)'), awa._shards_key(5) || ' ExclusiveLock; 0',
  'that of the number of shards of a queue');
select is(pg_temp.after('select awa._try_lock_shards(5)'), awa._shards_key(5) || ' ExclusiveLock; 0',
  'where it is free, at once');
select is(pg_temp.after('select awa._share_shards_lock(5, false)'), awa._shards_key(5) || ' ShareLock; 0',
  'shared, for who puts jobs with a group there');
select is(pg_temp.after('select awa._share_shards_lock(5, true), awa._share_shards_lock(6, true)'),
  awa._many_shards_key() || ' ShareLock; 0', 'or one for those of many queues');
select is(pg_temp.after($$select awa._lock_within(7, true, '1 s')$$), '7 ShareLock; 0',
  'one within some time is taken');
select is(pg_temp.after($$select awa._lock_shard_within(5 << 6, '1 s')$$), awa._queue_key(5) || ' ExclusiveLock; 0',
  'so is a shard''s');
savepoint queue;
select awa._lock_queue(5) \g /dev/null
select is((select count(distinct l.key) from (select l.classid::bigint << 32 | l.objid::bigint as key from pg_locks l
  where l.locktype = 'advisory' and l.pid = pg_backend_pid()) l where l.key between -(5 << 6) - 63 and -(5 << 6)),
  64::bigint, 'those of all shards that a queue can have');
rollback to queue;
select is(pg_temp.after('select awa._lock_worker(5, true)'), awa._worker_key(5) || ' ShareLock; 0',
  'that of a worker, shared, for its claims');
select is(pg_temp.after('select awa._lock_worker(5, false)'), awa._worker_key(5) || ' ExclusiveLock; 0',
  'and exclusive, for who ends it');
select is(pg_temp.after('select awa._lock_crowd()'), awa._crowd_key() || ' ShareLock; 0',
  'that of those that answer for very many claims');
select is(pg_temp.after('select awa._lock_shard(5 << 6), awa._lock_shard(5 << 6)'),
  awa._queue_key(5) || ' ExclusiveLock; 0',
  'twice is once');
select is(pg_temp.after('select awa._lock_worker(5, true), awa._lock_worker(5, false)'),
  format('%1$s ExclusiveLock, %1$s ShareLock; 0', awa._worker_key(5)),
  'who claims and then ends its worker does not wait for itself');
select is(pg_temp.locks(), null, 'they are those of the transaction');

-- The ranges of keys
select is(
  (select count(distinct k) from (
     select awa._queue_key(n) as k from generate_series(0, 99) n
     union all select awa._claim_key(n) from generate_series(-2, 99) n
     union all select awa._shards_key(n) from generate_series(-1, 99) n
     union all select awa._worker_key(n) from generate_series(1, 99) n) k),
  402::bigint, 'no two of them are one');
select cmp_ok(awa._crowd_key(), '<', awa._fold_key(), 'the crowd comes before the counts');
select cmp_ok(awa._fold_key(), '<', awa._claim_key(0), 'and these before claims');
select is(
  (select count(*) from unnest('{1,2,1000000,1152921504606846975}'::bigint[]) w
    where awa._worker_key(w) between awa._queue_key((1::bigint << 54) - 1) - 63 and awa._queue_key(0)
       or awa._worker_key(w) between awa._crowd_key() and awa._claim_key(9223372036854775807 >> 12)),
  0::bigint, 'those of workers are in a range of their own');
select ok(awa._shards_key(0) > awa._claim_key(9223372036854775807 >> 12)
  and awa._many_shards_key() > awa._claim_key(9223372036854775807 >> 12)
  and awa._shards_key((1::bigint << 54) - 1) < awa._worker_key(1), 'those of numbers of shards, too');

-- No wait
update awa.settings set claim_wait = '1 millisecond';
select is(pg_temp.after('select awa._lock_shard(5 << 6)'), awa._queue_key(5) || ' ExclusiveLock; 0',
  'a lock that is free is not waited for');
select is(pg_temp.after($$select awa._wait_for_lock(7, false, 'm', 'h')$$), '7 ExclusiveLock; 0',
  'the shortest wait is long enough for it');

select * from finish();
rollback;
