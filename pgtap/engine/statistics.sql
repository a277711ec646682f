-- Without these, statistics would be of any size, or off by more than they say.
\set name statistics
\ir ../prelude.psql

begin;
select plan(18);

-- Lengths of time
select results_eq($$select l, awa._duration_step(l::interval) from unnest('{-1 s,0,1 ms,1.01 ms,2 ms,1 s,1 hour,
    100 years}'::text[]) l$$,
  $$values ('-1 s', 0::bigint), ('0', 0), ('1 ms', 0), ('1.01 ms', 1), ('2 ms', 4), ('1 s', 40), ('1 hour', 88),
    ('100 years', 167)$$, 'four steps for each doubling, from a millisecond on');
select is((
    select max(abs(date_part('epoch', awa._step_length(awa._duration_step(l))) / date_part('epoch', l) - 1)) < 0.091
      from generate_series(1, 2000) n, lateral (select make_interval(secs => 0.0011 * 1.01 ^ n) as l) l
     where l < interval '30 days'
  ),
  true, 'a length is off by 9 % at most');
select is(awa._step_length(0), '1 ms', 'the first one');
select is(awa._minute_of('2026-03-01 12:34:56.789+05:45'), '2026-03-01 12:34:00+05:45', 'the beginning of a minute');
select is(awa._add_steps('{}'), '{}', 'no steps');
select is(awa._add_steps(array[3::bigint << 40 | 7, 1::bigint << 40 | 1, 3::bigint << 40 | 2]),
  array[1::bigint << 40 | 1, 3::bigint << 40 | 9], 'those of one step are added up');

-- Rows
create temp table counts as
select (1, 60, '2026-01-01'::timestamptz, k, 1, 2, 3, array[1::bigint << 40 | 1], array[n::bigint << 40 | 1])
         ::awa.queue_statistics as c
  from (values ('b', 1), ('a', 2), ('a', 3)) v(k, n);
select results_eq('select m.kind, m.enqueued, m.completed, m.failed, m.waits, m.runs
    from awa._merge_statistics(array(select c from counts)) m order by 1',
  $$values ('a', 2::bigint, 4::bigint, 6::bigint, array[1::bigint << 40 | 2],
      array[2::bigint << 40 | 1, 3::bigint << 40 | 1]),
    ('b', 1, 2, 3, array[1::bigint << 40 | 1], array[1::bigint << 40 | 1])$$, 'rows of one kind are added up');
select is((select count(*) from awa._merge_statistics('{}')), 0::bigint, 'of none there are none');
select awa._store_statistics(array(select c from counts)) from generate_series(1, 2) \g /dev/null
select results_eq('select kind, enqueued, completed, failed, waits[1] & 15 from awa.queue_statistics where queue_id = 1
    order by 1',
  $$values ('a', 4::bigint, 8::bigint, 12::bigint, 4::bigint), ('b', 2, 4, 6, 2)$$,
  'a second one is added to the first');
select results_eq('select kind, enqueued, completed, failed, waits[1] & 15 from awa.statistics
    where at = ''2026-01-01'' order by 1',
  $$values ('a', 4::bigint, 8::bigint, 12::bigint, 4::bigint), ('b', 2, 4, 6, 2)$$, 'also to those of all queues');
select awa._store_statistics(array(
  select (q, 60, '2026-01-01'::timestamptz, k::text, 1, 0, 0, '{}', '{}')::awa.queue_statistics
    from generate_series(1, 2) q, generate_series(1, 60) k)) \g /dev/null
select results_eq($$select queue_id, count(*), count(kind), sum(enqueued) from awa.queue_statistics
    where queue_id in (1, 2) group by 1 order by 1$$,
  'values (1::bigint, 51::bigint, 50::bigint, 66::numeric), (2, 51, 50, 60)',
  'kinds beyond the first 50 have one row, and none is lost');
select results_eq($$select count(*), count(kind), sum(enqueued) from awa.statistics where at = '2026-01-01'$$,
  'values (51::bigint, 50::bigint, 126::numeric)', 'so for all queues');
select awa._store_statistics(array(select c from counts)) \g /dev/null
select is((select count(*) from awa.queue_statistics where queue_id = 1), 51::bigint, 'those that have a row keep it');

-- In time
delete from awa.queue_statistics;
delete from awa.statistics;
select awa._store_statistics(array(
  select (1, 60, awa._minute_of(now() - a), 'k', 1, 1, 0, array[5::bigint << 40 | 1], '{}')::awa.queue_statistics
    from unnest('{1 minute,23 hours,27 hours,27 hours,40 days}'::interval[]) a)) \g /dev/null
select awa._thin_statistics(1) from generate_series(1, 5) \g /dev/null
select results_eq($$select seconds, sum(enqueued), sum(waits[1] & 15) from awa.queue_statistics group by 1 order by 1$$,
  'values (60, 2::numeric, 2::numeric), (3600, 2, 2)', 'after a day minutes become hours, after 30 days these go');
select results_eq($$select seconds, sum(enqueued), sum(waits[1] & 15) from awa.statistics group by 1 order by 1$$,
  'values (60, 2::numeric, 2::numeric), (3600, 2, 2)', 'of all queues, too');
select is((select bool_and(at = date_bin('1 hour', at, '2000-01-01 00:00:00+00')) from awa.statistics
    where seconds = 3600), true, 'they begin with the hour');

-- Ends of attempts with lease rows
delete from awa.leased_ends; -- those of other tests
insert into awa.leased_ends (lane, kind, is_failure, ready_at, claimed_at, ended_at)
select 512, 'k', f, now() - interval '3 s', now() - interval '2 s', now() from unnest('{t,f,f}'::boolean[]) f;
select results_eq($$select queue_id, kind, completed, failed, waits, runs from awa._take_leased_ends(10)$$,
  $$values (1::bigint, 'k'::text, 2::bigint, 1::bigint, array[40::bigint << 40 | 3], array[44::bigint << 40 | 3])$$,
  'they are counted by how they ended');
select is((select count(*) from awa.leased_ends), 0::bigint, 'once');
select * from finish();
rollback;
