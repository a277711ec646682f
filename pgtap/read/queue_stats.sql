-- Without this, nobody could see how a queue did in the last hour, or the last month.
\set name queue_stats
\ir ../prelude.psql

-- Totals, as queue_stats has them for the queue of the test
create function pg_temp.totals(kind text default null, suffix text default '') returns text
language sql as $$
  select format('%s enqueued, %s completed, %s failed', sum(s.enqueued), sum(s.completed), sum(s.failed))
    from awa.queue_stats(pg_temp.q(suffix), '10 minutes', kind => totals.kind) s
$$;
select count(awa.enqueue(:'queue', 'a')) from generate_series(1, 10) \g /dev/null
select count(awa.enqueue(:'queue', 'b', run_at => '2130-01-01')) from generate_series(1, 3) \g /dev/null
select awa.enqueue_batch(jsonb_build_array(
  jsonb_build_object('queue', :'queue', 'kind', 'b', 'run_at', '2130-01-01T00:00:00Z'),
  jsonb_build_object('queue', :'queue', 'kind', 'c', 'run_at', '2130-01-01T00:00:00Z'),
  jsonb_build_object('queue', :'queue', 'kind', 'c'))) \g /dev/null
create temp table c as select * from awa.claim(:'queue', 11);
select awa.complete(job_id, receipt) from c where kind = 'c' \g /dev/null
select awa.complete_many(array_agg(job_id), array_agg(receipt)) from (select * from c where kind = 'a' limit 4) c
  \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 hour') from (select * from c where kind = 'a' offset 4 limit 1) c \g /dev/null
select awa.snooze(job_id, receipt, '1 hour') from (select * from c where kind = 'a' offset 5 limit 1) c \g /dev/null
create temp table first as select pg_temp.totals() as t, pg_temp.totals('a') as a, pg_temp.totals('b') as b;
select awa.materialize('0', 10000) \g /dev/null
select awa.complete(job_id, receipt) from (select * from c where kind = 'a' offset 6 limit 1) c \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 hour') from (select * from c where kind = 'a' offset 7 limit 1) c \g /dev/null
select awa.discard_job(job_id) from (select * from c where kind = 'a' offset 8 limit 1) c \g /dev/null
create temp table second as select pg_temp.totals() as t, pg_temp.totals('a') as a, pg_temp.totals('b') as b;
select awa.move(id, :'queue' || ' moved') from awa.jobs where queue = :'queue' and kind = 'b' \g /dev/null
select awa.fold() \g /dev/null
create temp table third as select pg_temp.totals() as t, pg_temp.totals('a') as a, pg_temp.totals('b') as b;

begin;
select plan(25);
select is(t, '16 enqueued, 5 completed, 1 failed', 'from the ledgers') from first;
select is(a, '10 enqueued, 4 completed, 1 failed', 'of a kind') from first;
select is(b, '4 enqueued, 0 completed, 0 failed', 'of jobs that wait for a time') from first;
select is(t, '16 enqueued, 6 completed, 2 failed', 'with attempts that had rows, and not what an operator has ended')
  from second;
select results_eq('table third', 'table second', 'once they are counted, it is the same');
select is(pg_temp.totals(suffix => ' moved'), '0 enqueued, 0 completed, 0 failed', 'what was moved is not new');
select is((select count(*) from awa.queue_stats(pg_temp.q(), '1 hour')), 61::bigint, 'there is a row for each minute');
select is((select count(*) from awa.queue_stats(pg_temp.q(' none'), '1 hour', '15 minutes')), 5::bigint,
  'also of a queue that is not there');
select is((select bool_and(s.at = date_bin('15 minutes', s.at, '2000-01-01 00:00:00+00'))
    from awa.queue_stats(pg_temp.q(), '1 hour', '15 minutes') s), true, 'steps begin with the hour');
select results_eq(format('select kind, sum(enqueued) from awa.queue_stats(%L, by_kind => true) group by 1 order by 1',
    :'queue'), $$values ('a', 10::numeric), ('b', 4), ('c', 2)$$, 'by kind');
select is((select count(*) from awa.queue_stats(by_kind => true) s where s.kind = 'a' and s.enqueued > 0) > 0, true,
  'of all queues');
select is((select count(*) from awa.queue_stats(pg_temp.q(), null, null, null, null)), 61::bigint,
  'null is the default');

-- Percentiles
select awa._store_statistics(array(
  select (awa._queue_id(pg_temp.q(' p')), 60, awa._minute_of(now()), 'k', 0, 1, 0,
           array[awa._duration_step(make_interval(secs => n)) << 40 | 1],
           array[awa._duration_step(make_interval(secs => n * 0.001)) << 40 | 1])::awa.queue_statistics
    from generate_series(1, 100) n)) \g /dev/null
select is((
    select bool_and(p.is between p.should * 0.91 and p.should * 1.1)
      from awa.queue_stats(pg_temp.q(' p'), '1 minute') s
     cross join lateral (values (s.wait_p50, interval '50 s'), (s.wait_p95, '95 s'), (s.wait_p99, '99 s'),
       (s.run_p50, '50 ms'), (s.run_p95, '95 ms'), (s.run_p99, '99 ms')) p("is", should)
     where s.completed > 0
  ),
  true, 'percentiles are off by a tenth at most');
select is((select count(s.wait_p50) from awa.queue_stats(pg_temp.q(' none')) s), 0::bigint,
  'and null where nothing ended');

-- Hours, and a day without minutes
update awa.queue_statistics set at = at - interval '3 days' where queue_id = awa._queue_id(:'queue' || ' p');
select awa._thin_statistics(1000) \g /dev/null
select is((select sum(s.completed) from awa.queue_stats(pg_temp.q(' p'), '7 days', '1 hour') s), 100::numeric,
  'after days by the hour');
select is((select sum(s.completed) from awa.queue_stats(pg_temp.q(' p'), '30 days', '1 day') s), 100::numeric,
  'and by the day');

-- A dropped queue
select awa.complete(job_id, receipt) from (select * from c where kind = 'a' offset 9 limit 1) c \g /dev/null
select is(pg_temp.totals(), '16 enqueued, 7 completed, 2 failed', 'one more has ended');
select awa.drop_queue(:'queue', true) \g /dev/null
select awa.fold() \g /dev/null
select is(pg_temp.totals(), '0 enqueued, 0 completed, 0 failed', 'those of a dropped queue go, also uncounted ones');

-- Refusals
select pg_temp.refused(format('select awa.queue_stats(since => %L)', i), '22023', 'since', 'since ' || i)
  from unnest('{0,-1 hour,31 days}'::text[]) i;
select pg_temp.refused(format('select awa.queue_stats(since => %L, step => %L)', s, i), '22023', 'step',
    i || ' of ' || s)
  from (values ('1 hour', '0'), ('1 hour', '90 seconds'), ('2 days', '90 minutes'), ('1 day', '-1 hour')) v(s, i);
select * from finish();
rollback;
