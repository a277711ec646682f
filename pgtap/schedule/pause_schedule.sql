-- Without this, a schedule that does harm could be stopped only by forgetting what it says.
\set name pause_schedule
\ir ../prelude.psql

begin;
\ir clock.psql
select plan(17);

select awa.schedule('s', pg_temp.q(), 'k', '* * * * *') \g /dev/null
create temp table told as select awa.pause_schedule(name => 's', reason => 'the bill is wrong')::text as answer;
select is((select answer from told), '', 'pause_schedule returns nothing');
select is((select row(l.paused_at, l.paused_by, l.pause_reason, l.next_at)::text from pg_temp.listed('s') l),
  format('("2026-06-01 12:00:30+00",%s,"the bill is wrong",)', session_user), 'it says since when, by whom, and why');
select is(pg_temp.fire_at('2026-06-01 12:05:00+00'), '', 'it does not fire');
select awa.pause_schedule('s') \g /dev/null
select is((select row(l.paused_at, l.pause_reason)::text from pg_temp.listed('s') l),
  '("2026-06-01 12:00:30+00","the bill is wrong")', 'paused twice, it is paused since the first time');
select awa.pause_schedule('s', 'another') \g /dev/null
select is((select l.pause_reason from pg_temp.listed('s') l), 'another', 'for the last reason');

-- A time that is due, and has not fired yet
select awa.schedule('due', pg_temp.q(), 'k', '* * * * *') \g /dev/null
select pg_temp.at('2026-06-01 12:07:00.5+00') \g /dev/null
select awa.pause_schedule('due') \g /dev/null
select is((select l.times_missed from pg_temp.listed('due') l), 2::bigint, 'times that are due count as missed');
select awa.pause_schedule('due') \g /dev/null
select pg_temp.at('2026-06-01 12:09:00.5+00') \g /dev/null
select awa.resume_schedule('due') \g /dev/null
select is(pg_temp.fire() || (select l.times_missed from pg_temp.listed('due') l), '2',
  'those of the pause do not, and neither fire');
select is(pg_temp.fire_at('2026-06-01 12:10:00+00'), 'fired 1', 'it goes on after that');
select pg_temp.at('2026-06-01 12:11:00.5+00') \g /dev/null
update awa.schedules set timezone = 'Europe/Atlantis' where name = 'due';
select awa.pause_schedule('due') \g /dev/null
select isnt((select l.paused_at from pg_temp.listed('due') l), null, 'one whose zone is gone can be paused');
select pg_temp.at('2026-06-01 12:05:00+00') \g /dev/null

-- A declaration
select awa.sync_schedules(pg_temp.q(), jsonb_build_array(jsonb_build_object('name', 'd', 'queue', pg_temp.q(), 'kind',
  'k', 'cron', '@daily'))) \g /dev/null
select awa.pause_schedule('d', 'off') \g /dev/null
select awa.sync_schedules(pg_temp.q(), jsonb_build_array(jsonb_build_object('name', 'd', 'queue', pg_temp.q(), 'kind',
  'k', 'cron', '@hourly'))) \g /dev/null
select is((select row(l.cron, l.pause_reason, l.next_at)::text from pg_temp.listed('d') l), '(@hourly,off,)',
  'a deploy ends no pause');
select awa.sync_schedules(pg_temp.q(), '[]') \g /dev/null
select awa.sync_schedules(pg_temp.q(), jsonb_build_array(jsonb_build_object('name', 'd', 'queue', pg_temp.q(), 'kind',
  'k', 'cron', '@hourly'))) \g /dev/null
select is((select row(l.cron, l.pause_reason, l.next_at)::text from pg_temp.listed('d') l), '(@hourly,off,)',
  'nor one that brings it back');
select awa.unschedule('d') \g /dev/null
select awa.schedule('d', pg_temp.q(), 'k', '@hourly') \g /dev/null
select is((select l.paused_at from pg_temp.listed('d') l), null, 'one that is made anew by hand is not paused');
select awa.pause_schedule('d', 'by hand'), awa.unschedule('d') \g /dev/null
select awa.sync_schedules(pg_temp.q(), jsonb_build_array(jsonb_build_object('name', 'd', 'queue', pg_temp.q(), 'kind',
  'k', 'cron', '@hourly'))) \g /dev/null
select is((select row(l.paused_at, l.next_at)::text from pg_temp.listed('d') l), '(,"2026-06-01 13:00:00+00")',
  'nor is one that a program declares under a name that was freed');

select pg_temp.refused(format('select awa.pause_schedule(%s)', c.call), c.state, c.names, c.description)
  from (values (1, 'null', '22023', 'name', 'no name'), (2, '''none''', 'JQ007', 'no such schedule', 'an unknown one'),
    (3, '''s'', repeat(''x'', 1001)', '22023', 'reason', 'a long reason'),
    (4, '''''', '22023', 'name', 'an empty name')) c(n, call, state, names, description) order by c.n;

select * from finish();
rollback;
