-- Without this, the end of a pause would be a flood of what fell into it, and a clock that was ahead would stop a
-- schedule for as long.
\set name resume_schedule
\ir ../prelude.psql

begin;
\ir clock.psql
select plan(35);

select awa.schedule('s', pg_temp.q(), 'k', '* * * * *', missed => 'all') \g /dev/null
select awa.pause_schedule('s') \g /dev/null
select pg_temp.at('2026-06-01 12:30:30+00') \g /dev/null
create temp table told as select awa.resume_schedule(name => 's')::text as answer;
select is((select answer from told), '', 'resume_schedule returns nothing');
select is((select row(l.paused_at, l.paused_by, l.pause_reason)::text from pg_temp.listed('s') l), '(,,)',
  'it is not paused');
select is(pg_temp.fire(), '', 'what fell into the pause does not fire');
select is((select l.times_missed from pg_temp.listed('s') l), 0::bigint, 'and is not missed');
select is(pg_temp.fire_at('2026-06-01 12:31:01+00'), 'fired 1', 'it goes on');
select is(pg_temp.times('s'), '01 12:31', 'with the next time');

-- One that is not paused
select pg_temp.at('2026-06-01 12:32:01+00') \g /dev/null
select awa.resume_schedule('s') \g /dev/null
select is(pg_temp.fire(), 'fired 1', 'nothing becomes of one that is not paused');

-- A clock that was ahead
select is(pg_temp.fire_at('2026-06-05 00:00:30+00'), 'fired 1000, missed 1000, more', 'a clock that is ahead');
select awa.schedule('l', pg_temp.q(), 'k', '* * * * *') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:33:01+00'), '', 'and set right again: it stands still');
select is(awa.explain_schedule('s') ~ '^The clock of the server was ahead: .*resume_schedule', true,
  'explain_schedule says why, and what helps');
select is((select h.message from awa._health_schedules() h where h.subject = 's' and h.message ~ 'clock'),
  'the clock of the server was ahead: it fires again in 3 days 11:27:29', 'and health, too');
select awa.resume_schedule('s') \g /dev/null
select is(pg_temp.next('s'), '01 12:34:00', 'resume_schedule lets it fire from now on');
select is((select l.last_at from pg_temp.listed('s') l), null, 'its last time does not lie ahead any more');
select is(pg_temp.fire_at('2026-06-01 12:34:01+00'), 'fired 1', 'also the times that have fired ahead');

-- So does a change, and one that is made anew: what has fired ahead comes again, and what next_at promises fires
select pg_temp.at('2026-06-03 12:00:30+00') \g /dev/null
select awa.unschedule(l.name) from awa.list_schedules() l \g /dev/null
select awa.schedule(n, pg_temp.q(), 'k', '* * * * *') from unnest('{other,times,anew}'::text[]) n \g /dev/null
select is(pg_temp.fire_at('2026-06-03 13:00:00.5+00'), 'fired 3, missed 177', 'a clock that is an hour ahead');
select pg_temp.at('2026-06-03 12:10:30+00') \g /dev/null
select awa.schedule('other', pg_temp.q(), 'k', '* * * * *', args => '1'),
       awa.schedule('times', pg_temp.q(), 'k', '*/2 * * * *'),
       awa.unschedule('anew'), awa.schedule('anew', pg_temp.q(), 'k', '* * * * *') \g /dev/null
select is(pg_temp.next(n), '03 12:1' || case n when 'times' then 2 else 1 end || ':00', n || ': it goes on')
  from unnest('{other,times,anew}'::text[]) n;
select is(pg_temp.fire_at('2026-06-03 12:11:01+00'), 'fired 2', 'as next_at says');
select pg_temp.at('2026-06-03 12:58:30+00') \g /dev/null
select awa.pause_schedule('times'), awa.resume_schedule('times') \g /dev/null
select is(pg_temp.fire_at('2026-06-03 13:00:01+00') , 'fired 3, missed 96', 'also at the time that has fired ahead');
select awa.unschedule(l.name) from awa.list_schedules() l \g /dev/null

-- An interval that was made by such a clock
select pg_temp.at('2027-06-03 12:00:00+00') \g /dev/null
select awa.schedule('i', pg_temp.q(), 'k', every => '1 hour') \g /dev/null
select pg_temp.at('2026-06-03 12:00:00+00') \g /dev/null
select awa.resume_schedule('i') \g /dev/null
select is((select l.next_at from pg_temp.listed('i') l), timestamptz '2026-06-03 13:00:00+00',
  'an interval counts from now on');
select awa.unschedule('i') \g /dev/null

-- A clock that was set back a little: nothing fires twice
select pg_temp.at('2026-06-04 12:00:30+00') \g /dev/null
select awa.schedule(n, pg_temp.q(), 'k', '* * * * *') from unnest('{little,paused}'::text[]) n \g /dev/null
select is(pg_temp.fire_at('2026-06-04 12:01:00.2+00'), 'fired 2', 'a time fires');
select pg_temp.at('2026-06-04 12:00:59.5+00') \g /dev/null
select awa.pause_schedule('paused') \g /dev/null
select awa.resume_schedule(n) from unnest('{little,paused}'::text[]) n \g /dev/null
select is(pg_temp.next(n), '04 12:02:00', n || ': the next one is another') from unnest('{little,paused}'::text[]) n;
select is(pg_temp.fire_at('2026-06-04 12:01:01.2+00'), '', 'the clock was set back by a second: nothing fires twice');
select is(pg_temp.fire_at('2026-06-04 12:02:00+00'), 'fired 2', 'nor is lost');
select awa.unschedule(n) from unnest('{little,paused}'::text[]) n \g /dev/null

-- Failures
create function pg_temp.refuse() returns trigger language plpgsql as $$ begin raise exception 'full'; end $$;
create trigger refuse before insert on awa.ready_entries
  for each row when (new.kind = 'refused') execute function pg_temp.refuse();
select awa.schedule('f', pg_temp.q(), 'refused', '* * * * *', missed => 'all') \g /dev/null
select pg_temp.at('2027-06-04 12:00:00+00') \g /dev/null
select pg_temp.fire() \g /dev/null
select pg_temp.at('2026-06-04 12:03:30+00') \g /dev/null
select is((select row(s.failures, s.next_at)::text from awa.schedules s where s.name = 'f'),
  '(1,"2027-06-04 12:00:05+00")', 'one that failed by a clock that was ahead is put off for a year');
select is(awa.explain_schedule('f') ~ 'resume_schedule lets it fire from now on.*full', true,
  'explain_schedule says what helps');
drop trigger refuse on awa.ready_entries;
select is(pg_temp.fire(), '', 'it does not fire');
select awa.resume_schedule('f') \g /dev/null
select is(pg_temp.fire(), 'fired 1', 'resume_schedule lets it fire at once, also what is due');
select is((select row(l.failures, l.error, l.times_missed)::text from pg_temp.listed('f') l), '(0,,0)',
  'it fails no more');
select pg_temp.at('2026-06-04 12:04:30+00') \g /dev/null
update awa.schedules set next_at = '2027-01-01' where name = 'f'; -- _replace_jobs does this for a second
select is(pg_temp.fire(), '', 'one that was put off for a second by such a clock');
select awa.resume_schedule('f') \g /dev/null
select is(pg_temp.fire(), 'fired 1', 'fires, too');

select pg_temp.refused(format('select awa.resume_schedule(%s)', c.call), c.state, c.names, c.description)
  from (values (1, 'null', '22023', 'name', 'no name'), (2, '''none''', 'JQ007', 'no such schedule', 'an unknown one')
    ) c(n, call, state, names, description) order by c.n;

select * from finish();
rollback;
