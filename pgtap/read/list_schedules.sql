-- Without this, no user would see what a schedule does next, or that it has stopped.
\set name list_schedules
\ir ../prelude.psql

begin;
set local track_functions = 'pl'; -- first: what is called before it is not tracked later
\ir ../schedule/clock.psql
select plan(10);

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

-- What a clock that was ahead has decided
select awa.schedule('ahead', pg_temp.q(), 'k', '0 * * * *', missed => 'skip') \g /dev/null
select is(l.is_ahead, false, 'one that goes by the clock') from awa.list_schedules() l where l.name = 'ahead';
update awa.schedules set decided_until = decided_until + interval '1 day' where name = 'ahead';
select is(l.is_ahead, true, 'one that a clock ahead has stopped, also where nothing fired then')
  from awa.list_schedules() l where l.name = 'ahead';

-- Many
select awa.schedule('n' || n, pg_temp.q(), 'k', '0 * * * *') from generate_series(1, 1100) n \g /dev/null
with jobs as materialized (
  select j.id, j.n
    from awa.enqueue_many(pg_temp.q(), 'k', array_fill('{}'::jsonb, array[1100])) with ordinality j(id, n)
), cancelled as materialized (
  select awa.cancel(j.id) from jobs j where j.n % 100 = 0
), linked as (
  update awa.schedules s set last_job_id = j.id from jobs j where s.name = 'n' || j.n and j.n % 7 > 0
)
select count(*) from cancelled \g /dev/null
select coalesce(pg_stat_get_xact_function_calls('awa._places_of'::regproc), 0) as calls \gset
create temp table listed as select * from awa.list_schedules() l where l.name ~ '^n';
select ok(pg_stat_get_xact_function_calls('awa._places_of'::regproc) - :calls between 1 and 4,
  'the states of many jobs are looked up together');
create temp table looked as select l.name, awa._state_of(l.last_job_id) as state from listed l where l.last_job_id > 0;
select is(
  (select string_agg(format('%s %s', s.state, s.schedules), ', ' order by s.state)
     from (
       select coalesce(l.last_job_state, 'none') as state, count(*) as schedules
         from listed l
         left join looked o on o.name = l.name
        where l.last_job_state is not distinct from o.state
        group by 1
     ) s), 'available 933, cancelled 10, none 157', 'each has that of its own');

select * from finish();
rollback;
