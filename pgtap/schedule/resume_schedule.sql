-- Without this, the end of a pause would be a flood of what fell into it, and a clock that was ahead would stop a
-- schedule for as long.
\set name resume_schedule
\ir ../prelude.psql

begin;
\ir clock.psql
select plan(15);

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
select awa.resume_schedule('s') \g /dev/null
select is(pg_temp.next('s'), '01 12:34:00', 'resume_schedule lets it fire from now on');
select is((select l.last_at from pg_temp.listed('s') l), null, 'its last time does not lie ahead any more');
select is(pg_temp.fire_at('2026-06-01 12:34:01+00'), 'fired 1', 'also the times that have fired ahead');

select pg_temp.refused(format('select awa.resume_schedule(%s)', c.call), c.state, c.names, c.description)
  from (values (1, 'null', '22023', 'name', 'no name'), (2, '''none''', 'JQ007', 'no such schedule', 'an unknown one')
    ) c(n, call, state, names, description) order by c.n;

select * from finish();
rollback;
