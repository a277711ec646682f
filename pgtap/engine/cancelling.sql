-- Without this, many jobs would be cancelled one by one; or a job would be reported as cancelled that goes on. What is
-- decided about jobs that are claimed meanwhile is tested in changes.sql.
\set name cancelling
\ir ../prelude.psql

select awa.configure_queue(:'queue' || ' full', '{"group_max_running": 1}') \g /dev/null
select awa.enqueue(:'queue' || ' waits', 'k') as available_id,
       awa.enqueue(:'queue' || ' waits', 'k', run_at => '2130-01-01') as scheduled_id \gset
select count(*)
  from awa.enqueue_many(:'queue' || ' full', 'k', array_fill('1'::jsonb, array[2]), group_key => 'g') \g /dev/null
select count(*) from awa.claim(:'queue' || ' full', 2) \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' taken', 'k', array_fill('{}'::jsonb, array[4])) \g /dev/null
create temp table taken as select * from pg_temp.take(' taken', 4);
select awa.extend(job_id, receipt, '1 hour') from taken where n = 1 \g /dev/null
select awa.complete(job_id, receipt) from taken where n = 2 \g /dev/null
select awa.fail(job_id, receipt, 'e') from taken where n = 3 \g /dev/null

begin;
select plan(9);
create temp table jobs as
select 'available' as name, :available_id::bigint as id union all
select 'scheduled', :scheduled_id union all
select case n when 1 then 'leased' when 2 then 'completed' when 3 then 'retryable' else 'running' end, job_id
  from taken union all
select 'in line', w.job_id from awa.limited_jobs w where w.lane >> 9 = awa._queue_id(:'queue' || ' full');
create function pg_temp.places() returns awa._place[]
language sql
as $$ select awa._places_of(array_agg(id order by name)) from jobs $$;
select is((select count(*) from jobs), 7::bigint, 'there is a job of each kind');
select is(awa._cancel_there('{}', 'r'), '{}', 'no jobs, none');
select is((select array_agg(j.name order by j.name) from unnest(awa._cancel_there(pg_temp.places(), 'r')) c
  join jobs j on j.id = c), '{available,in line,leased,retryable,running,scheduled}',
  'all that have not ended are cancelled at once');
set constraints awa.resolve immediate;
select is((select string_agg(distinct awa._state_of(id), ' ' order by awa._state_of(id)) from jobs),
  'cancelled completed', 'and the others are not');
select is((select count(distinct d.errors -> -1 ->> 'error') from awa.done_entries d join jobs j on j.id = d.job_id
  where d.state = 'cancelled'), 1::bigint, 'with the reason');
select is(awa._cancel_there(pg_temp.places(), 'r'), '{}', 'once');
select is(awa._cancel((select id from jobs where name = 'completed'), 'r'), 'completed',
  'of one that has ended the state is returned, and nothing done');
select pg_temp.refused(format($$select awa._cancel_there(array[(%s, 'waiting_external', null, 1, 1, null, null, null)
  ::awa._place], 'r')$$, :available_id), 'JQ005', 'state', 'a state of which it does not know how');
select pg_temp.agrees('the books balance');

select * from finish();
rollback;
