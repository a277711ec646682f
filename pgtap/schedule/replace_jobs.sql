-- Without this, schedules that replace their jobs would do so one by one, or all of them stop at one whose job stays.
\set name replace_jobs
\ir ../prelude.psql

select awa.enqueue(:'queue' || ' waits', 'k') as available_id,
       awa.enqueue(:'queue' || ' waits', 'k', run_at => '2130-01-01') as scheduled_id \gset
select count(*) from awa.enqueue_many(:'queue' || ' taken', 'k', array_fill('{}'::jsonb, array[3])) \g /dev/null
create temp table taken as select * from pg_temp.take(' taken', 3);
select awa.extend(job_id, receipt, '1 hour') from taken where n = 1 \g /dev/null
select awa.complete(job_id, receipt) from taken where n = 2 \g /dev/null

begin;
\ir clock.psql
select plan(19);
create temp table last_jobs as
select 'available' as name, :available_id::bigint as id union all
select 'scheduled', :scheduled_id union all
select case n when 1 then 'leased' when 2 then 'ended' else 'running' end, job_id from taken union all
select 'gone', -1 union all
select 'none', null;
select awa.schedule(name, pg_temp.q(), 'k', '* * * * *', overlap => 'replace') from last_jobs \g /dev/null
update awa.schedules s set last_job_id = j.id from last_jobs j where j.name = s.name;
create function pg_temp.names() returns text[]
language sql
as $$ select array_agg(name order by name) from last_jobs $$;
create function pg_temp.ends() returns text
language sql
as $$
select string_agg(j.name || ' ' || awa._state_of(j.id), ', ' order by j.name) from last_jobs j where j.id > 0
$$;
do $do$ -- there is time for all
begin
  execute replace(pg_get_functiondef('awa._replace_jobs'::regproc), '250 milliseconds', '1 hour');
end
$do$;
savepoint here;

-- All at once
select is(row(p.*)::text, '(,)', 'jobs of all kinds are cancelled in one call')
  from awa._replace_part(pg_temp.names(), '100') p;
select is(pg_temp.ends(), 'available cancelled, ended completed, leased cancelled, running cancelled, '
  'scheduled cancelled', 'but for those that have ended');
select is((select count(*) from awa.pending_changes), 0::bigint, 'it is decided');
select is((select array_agg(distinct j.errors -> -1 ->> 'error') from last_jobs l cross join awa.job(l.id) j
  where j.state = 'cancelled'), '{replaced by the next job of its schedule}', 'and says why');
select is(current_setting('lock_timeout'), '0', 'later calls wait as before');
select pg_temp.agrees('the books balance');
rollback to here;

select is(awa._replace_jobs(pg_temp.names(), awa._schedule_clock()), 0, 'so does _replace_jobs');
select is(pg_temp.ends(), 'available cancelled, ended completed, leased cancelled, running cancelled, '
  'scheduled cancelled', 'with the same end');
rollback to here;
select is(awa._replace_jobs('{}', awa._schedule_clock()), 0, 'of no schedules nothing');

-- One that a user's trigger refuses
create function pg_temp.refuse() returns trigger
language plpgsql
as $$ begin if new.job_id = (select l.id from last_jobs l where l.name = 'leased') then raise 'not this one'; end if;
  return new; end $$;
grant select on last_jobs to public;
create trigger refuse before insert on awa.done_entries for each row execute function pg_temp.refuse();
select is(row(p.*)::text, '(P0001,"not this one (SQLSTATE P0001)")', 'all or none, and the error')
  from awa._replace_part(pg_temp.names(), '100') p;
select is(pg_temp.ends(), 'available available, ended completed, leased running, running running, '
  'scheduled scheduled', 'here none');
select is(awa._replace_jobs(pg_temp.names(), awa._schedule_clock()), 1, 'one of them fails');
select is(pg_temp.ends(), 'available cancelled, ended completed, leased running, running cancelled, '
  'scheduled cancelled', 'the others do not');
select is((select string_agg(s.name || ' ' || s.failures || ' ' || s.error, ', ') from awa.schedules s
  where s.failures > 0), 'leased 1 not this one (SQLSTATE P0001)', 'and it is noted');

drop trigger refuse on awa.done_entries;
rollback to here;

-- Beside schedules that make up for a standstill, of which each call fires some
select awa.unschedule(s.name) from awa.schedules s where s.removed_at is null \g /dev/null
do $do$
begin
  execute replace(pg_get_functiondef('awa.fire_due'::regproc), '''1 second''', '''1 minute''');
end
$do$;
select pg_temp.at('2026-06-01 06:00:00.5+00') \g /dev/null
select awa.schedule('flood ' || n, pg_temp.q(), 'k', '* * * * * *', missed => 'all')
  from generate_series(1, 2) n \g /dev/null
select pg_temp.at('2026-06-01 12:00:30+00') \g /dev/null
select awa.schedule('replaces', pg_temp.q(), 'k', '* * * * *', overlap => 'replace') \g /dev/null
update awa.schedules set last_job_id = :available_id where name = 'replaces';
select pg_temp.at('2026-06-01 12:01:00.5+00') \g /dev/null
select pg_temp.fire(50) from generate_series(1, 4) \g /dev/null
select is(pg_temp.times('replaces'), '01 12:01', 'those keep no other from being replaced');
select is((select count(*) > 0 from awa.jobs j where j.metadata #>> '{schedule,name}' ~ 'flood'), true,
  'and go on meanwhile');
select awa.unschedule('replaces') \g /dev/null
select pg_temp.at('2026-06-01 11:59:30+00') \g /dev/null
select awa.schedule('late', pg_temp.q(), 'k', '0 12 * * *', overlap => 'replace') \g /dev/null
update awa.schedules set last_job_id = :scheduled_id where name = 'late';
select pg_temp.at('2026-06-01 12:05:30.5+00') \g /dev/null
select pg_temp.fire(50) from generate_series(1, 4) \g /dev/null
select is(pg_temp.times('late'), '01 12:00', 'nor one that was missed');
select awa.unschedule(s.name) from awa.schedules s where s.removed_at is null \g /dev/null
select awa.schedule(n, pg_temp.q(), 'k', '0 13 * * *', overlap => case n when 'late' then 'replace' else 'allow' end)
  from unnest('{late,failed}'::text[]) n \g /dev/null
update awa.schedules s set timezone = 'Europe/Atlantis', failures = 1 where s.name = 'failed';
update awa.schedules s set last_job_id = j.id from last_jobs j where s.name = 'late' and j.name = 'leased';
select is(pg_temp.fire_at('2026-06-01 13:05:00+00'), 'more', 'nor do those that have failed before');
select is(pg_temp.fire(), 'fired 1, failed 1', 'which come last');

select * from finish();
rollback;
