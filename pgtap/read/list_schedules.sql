-- Without this, nobody would see what a schedule does next, or that it has stopped.
\set name list_schedules
\ir ../prelude.psql

begin;
\ir ../schedule/clock.psql
select plan(6);

select is((select count(*) from awa.list_schedules() l where l.queue = pg_temp.q()), 0::bigint, 'there is none');
select awa.schedule(n, pg_temp.q(), 'k', '0 * * * *') from unnest('{b,a,c}'::text[]) n \g /dev/null
select awa.unschedule('c') \g /dev/null
select is((select array_agg(l.name) from awa.list_schedules() l where l.queue = pg_temp.q()), '{a,b}', 'by name');
select awa.pause_schedule('a', 'why') \g /dev/null
select pg_temp.fire_at('2026-06-01 15:30:00+00') \g /dev/null
select is(
  (select row(l.cron, l.timezone, l.next_at, l.last_at, l.last_job_state, l.times_missed)::text
     from pg_temp.listed('b') l),
  '("0 * * * *",UTC,"2026-06-01 16:00:00+00","2026-06-01 15:00:00+00",available,2)',
  'with the next and the last time, the last job, and how many were missed');
select is((select row(l.paused_at, l.pause_reason, l.next_at)::text from pg_temp.listed('a') l),
  '("2026-06-01 12:00:30+00",why,)', 'since when it is paused, and why');
select l.last_job_id as job_id from pg_temp.listed('b') l \gset
select awa.cancel(:job_id) \g /dev/null
select is((select l.last_job_state from pg_temp.listed('b') l), 'cancelled', 'the state of the job is that of now');
update awa.schedules set last_job_id = -1 where name = 'b';
select is((select row(l.last_job_id, l.last_job_state)::text from pg_temp.listed('b') l), '(-1,)',
  'one that is gone has none');

select * from finish();
rollback;
