-- Without this, a schedule could not be stopped for good, or one that comes back would fire a time again.
\set name unschedule
\ir ../prelude.psql

begin;
\ir clock.psql
select plan(14);

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
select pg_temp.refused(format('select awa.unschedule(%s)', c.name), c.state, c.names, c.description)
  from (values (1, '''s''', 'JQ007', 'no such schedule', 'one that was removed'),
    (2, 'null', '22023', 'name', 'no name')) c(n, name, state, names, description) order by c.n;

-- The clock was set back meanwhile
select pg_temp.at('2026-06-01 12:00:30+00') \g /dev/null
select awa.schedule('s', pg_temp.q(), 'k', '* * * * *') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:01:30+00'), '', 'made anew, it does not fire what has fired');
select is(pg_temp.fire_at('2026-06-01 12:02:01+00'), 'fired 1', 'made anew, it fires what has not fired yet');
select is(pg_temp.times('s'), '01 12:01, 01 12:02', 'each time once');

-- 30 days
select awa.unschedule('s') \g /dev/null
select setval('awa.pass_clock_fire_due', 1) \g /dev/null
select pg_temp.fire_at('2026-07-01 12:02:00+00') \g /dev/null
select is((select count(*) from awa.schedules s where s.name = 's'), 1::bigint, 'its last time is kept for 30 days');
select setval('awa.pass_clock_fire_due', 1) \g /dev/null
select pg_temp.fire_at('2026-07-01 12:02:02+00') \g /dev/null
select is((select count(*) from awa.schedules s where s.name = 's'), 0::bigint, 'and no longer');

select * from finish();
rollback;
