-- Without this, health would not know which pass has stopped, and a pass could take longer than its caller may wait.
-- Clocks of passes: see run_pass.
\set name passes
\ir ../prelude.psql
begin;
select plan(29);

select is(cardinality(awa._passes()), 13, 'there are thirteen passes');
select is((select count(*) from unnest(awa._passes()) p where to_regclass('awa.pass_clock_' || p) is null), 0::bigint,
  'each has a clock');
select is((select array_agg(p) from unnest(awa._passes()) p where not exists (
    select from pg_proc f where f.pronamespace = 'awa'::regnamespace and f.proname = p)), null, 'and is a function');
select cmp_ok(array_position(awa._passes(), a), '<', array_position(awa._passes(), b), a || ' comes before ' || b)
  from (values ('fold', 'rescue'), ('fold', 'materialize'), ('end_stuck_claimers', 'prune_oldest'),
    ('rescue', 'materialize'), ('rescue', 'forget_workers'), ('summarize', 'rotate'), ('rotate', 'prune_oldest')) o(a,
      b);

-- Times as numbers
select is(awa._microseconds('1970-01-01 00:00:01.000002+00'), 1000002::bigint, 'a time is its microseconds since 1970');
select is(awa._microseconds('1969-01-01 00:00+00'), 1::bigint, 'one before is the first that a sequence has');

-- Success
select setval('awa.pass_clock_fold', 1, false) \g /dev/null
select is(awa._succeeded_at('fold'), null, 'a pass that never ran has not succeeded');
select setval('awa.pass_clock_fold', awa._microseconds('2026-11-28 10:00:00+00')) \g /dev/null
select is(awa._succeeded_at('fold'), '2026-11-28 10:00:00+00'::timestamptz, 'one that ran has, then');
select awa._note_success('fold') \g /dev/null
select ok(awa._succeeded_at('fold') between now() and clock_timestamp(), 'and now');

-- Arguments
select lives_ok(format('select awa._check_pass(%s)', n), 'max_jobs may be ' || n)
  from unnest(array['1', '10000', 'null']) n;
select pg_temp.refused(format('select awa._check_pass(%s)', n), '22023', 'max_jobs', 'but not ' || n)
  from unnest('{0,-1,10001}'::int[]) n;
savepoint here;
update awa.ring set tables = '{1,2}';
update awa.origin set xid = '5';
select throws_ok('select awa._check_pass(1)', '55000', null, 'in a restored database no pass runs');
rollback to here;

-- Budgets
set local statement_timeout = 0;
select is(awa._budget('10 seconds', 10), interval '10 seconds', 'a step may take as long as it should');
set local statement_timeout = '1h';
select is(awa._budget('10 seconds', 10), interval '10 seconds', 'also where there is time');
set local statement_timeout = '50s';
select is(awa._budget('10 seconds', 10), interval '5 seconds', 'no longer than its share of what the caller may take');
set local statement_timeout = 0;

-- The last calls
select setval('awa.prune_tried_at', awa._microseconds('2026-11-28 10:00:00+00')) \g /dev/null
select is(awa._last_prune_at(), '2026-11-28 10:00:00+00'::timestamptz, 'when a prune began last');
delete from awa.rescue_gaps;
select setval('awa.rescue_called_at', 1, false) \g /dev/null
select is(awa._maintained_at(), null, 'maintenance that was never called');
select setval('awa.rescue_called_at', awa._microseconds('2026-11-28 10:00:00+00')) \g /dev/null
select is(awa._maintained_at(), '2026-11-28 10:00:00+00'::timestamptz, 'that was');
insert into awa.rescue_gaps (began_at, ended_at) values ('2026-11-28 10:00+00', '2026-11-28 11:00+00');
select is(awa._maintained_at(), '2026-11-28 11:00:00+00'::timestamptz, 'and again, after a gap');
select pg_temp.no_gap() \g /dev/null
select setval('awa.prune_tried_at', 1) \g /dev/null

select * from finish();
rollback;
