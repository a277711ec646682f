-- Without this, a schedule could not be stopped for good, or one that comes back would fire a time again.
\set name unschedule
\ir ../prelude.psql

begin;
\ir clock.psql
select plan(19);

select awa.schedule('s', pg_temp.q(), 'k', '* * * * *', overlap => 'wait') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:01:01+00'), 'fired 1', 'it fires');
select is(pg_temp.fire_at('2026-06-01 12:02:01+00'), '', 'and waits');
create temp table told as select awa.unschedule(name => 's')::text as answer;
select is((select answer from told), '', 'unschedule returns nothing');
select is((select count(*) from pg_temp.listed('s')), 0::bigint, 'it is not listed');
select is(pg_temp.fire_at('2026-06-01 12:10:00+00'), '', 'and does not fire');
select is(pg_temp.states(), 'available 1', 'its jobs stay');
select is((select row(s.last_tick, s.waiting_tick, s.changed_by)::text from awa.schedules s where s.name = 's'),
  format('("2026-06-01 12:01:00+00",,%s)', session_user), 'its last time is kept');
select is((select row(s.times_skipped, s.times_missed)::text from awa.schedules s where s.name = 's'), '(1,0)',
  'and the one that waited counts as left out');
select pg_temp.refused(format('select awa.unschedule(%s)', c.name), c.state, c.names, c.description)
  from (values (1, '''s''', 'JQ007', 'no such schedule', 'one that was removed'),
    (2, 'null', '22023', 'name', 'no name')) c(n, name, state, names, description) order by c.n;

-- The clock was set back meanwhile: a little, and by more than a minute
select pg_temp.at('2026-06-01 12:20:30+00') \g /dev/null
select awa.schedule('s', pg_temp.q(), 'k', '* * * * *') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:21:00.2+00'), 'fired 1', 'made anew, it fires');
select pg_temp.at('2026-06-01 12:20:30+00') \g /dev/null
select awa.unschedule('s'), awa.schedule('s', pg_temp.q(), 'k', '* * * * *') \g /dev/null
select is(pg_temp.next('s'), '01 12:22:00', 'made anew after a clock that was set back, it comes next');
select is(pg_temp.fire_at('2026-06-01 12:21:30+00'), '', 'not at the time that has fired');
select is(pg_temp.fire_at('2026-06-01 12:22:01+00'), 'fired 1', 'but at one that has not fired yet');
select is(pg_temp.times('s'), '01 12:01, 01 12:21, 01 12:22', 'each time once');
select pg_temp.at('2026-06-01 12:20:30+00') \g /dev/null
select awa.unschedule('s'), awa.schedule('s', pg_temp.q(), 'k', '* * * * *') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:21:30+00'), 'fired 1', 'set back by more, the times come again');

-- One that a program declares, too, begins anew, when the program declares it again
create function pg_temp.declares() returns boolean language sql as $$
  select awa.sync_schedules(pg_temp.q(), jsonb_build_array(jsonb_build_object('name', 'd', 'queue', pg_temp.q(),
    'kind', 'k', 'every', '7 days')))
$$;
select pg_temp.declares(), awa.pause_schedule('d', 'off') \g /dev/null
select awa.unschedule('d') \g /dev/null
select pg_temp.at('2026-06-01 12:21:40+00') \g /dev/null
select pg_temp.declares() \g /dev/null
select is((select row(l.source, l.paused_at, l.made_at)::text from pg_temp.listed('d') l),
  format('("%s",,"2026-06-01 12:21:40+00")', pg_temp.q()), 'one that its program declares again begins anew');
select awa.unschedule('d') \g /dev/null
select pg_temp.at('2026-06-01 12:21:30+00') \g /dev/null

-- 30 days
select awa.unschedule('s') \g /dev/null
select setval('awa.pass_clock_fire_due', 1) \g /dev/null
select pg_temp.fire_at('2026-07-01 12:21:29+00') \g /dev/null
select is((select count(*) from awa.schedules s where s.name = 's'), 1::bigint, 'its last time is kept for 30 days');
select setval('awa.pass_clock_fire_due', 1) \g /dev/null
select pg_temp.fire_at('2026-07-01 12:21:32+00') \g /dev/null
select is((select count(*) from awa.schedules s where s.name = 's'), 0::bigint, 'and no longer');

select * from finish();
rollback;
