-- Without this, counts of all queues, and maintenance, would pass over a lane, or would look at lanes of no use.
\set name used_lanes
\ir ../prelude.psql

select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[6])) \g /dev/null

begin;
select plan(8);
select awa._lane(awa._queue_id(:'queue'), 2) as lane \gset
create function pg_temp.lane() returns bigint
language sql
return awa._lane(awa._queue_id(pg_temp.q()), 2);
create function pg_temp.in_use() returns text
language sql
return (select row(u.is_counted, u.available, u.completed)::text from awa._lanes_in_use() u
  where u.lane = pg_temp.lane());

-- The last rows
select is((select array_agg(r.lane_seq) from awa._last_rows(null, null) r where r.lane = :lane), '{null}',
  'a lane with entries is found by the last one');
select is(pg_temp.in_use(), '(f,0,0)', 'it is not counted');
create temp table c as select * from pg_temp.take('', 4);
select is((select max(r.lane_seq) from awa._last_rows(null, null) r where r.lane = :lane), 1::bigint,
  'and by the number of its last claim');
select is((select count(*) from awa._last_rows(:lane, null) r where r.lane >= :lane), 0::bigint,
  'before a lane there are others');
select ok(awa._queue_id(:'queue') = any(array(select awa._busy_queues())), 'its queue may have open claims');

-- Once they are counted
select awa.complete(job_id, receipt) from c \g /dev/null
select pg_temp.fold() \g /dev/null
select is(pg_temp.in_use(), '(t,2,4)', 'it is counted, with what it holds');
select is((select array_agg(u.lane) from awa._lanes_in_use(:lane + 1, 1) u), array[:lane]::bigint[],
  'the first one before a lane');
select is((select count(*) from awa._lanes_in_use(1)), 0::bigint, 'none before the first');

select * from finish();
rollback;
