-- Without this, a scheduled job, or one that waits for its retry, would never run; or run before its time; or run
-- twice.
\set name promote_due
\ir ../prelude.psql

-- A retry and a scheduled job, both due and promoted, then claimed below. No test waits here: their time is moved.
select awa.enqueue(:'queue' || ' retry', 'k', '{"a": 1}', 3, null, 5, '{t}', '{"m": 1}', 'g') as retry_id \gset
select awa.enqueue(:'queue' || ' retry', 'scheduled', '{"a": 2}', 1, '2130-01-01', 7, '{u}',
  '{"m": 2}', 'h') as scheduled_id \gset
create temp table retry as select * from pg_temp.take(' retry', 1);
select awa.fail(job_id, receipt, 'first', '0') from retry \g /dev/null
update awa.deferred_jobs set run_at = clock_timestamp() where job_id = :scheduled_id;
create temp table due as
select job_id, run_at, created_at
  from awa.deferred_jobs
 where job_id in (:retry_id, :scheduled_id);
create temp table promoted as select p.promoted from awa.promote_due() p;

begin;
-- Whatever else is deferred in this database stays out of the counts below.
delete from awa.deferred_jobs;
select plan(50);

select is((select count(*) from awa.promote_due_row), 0::bigint, 'the view that names the column is empty');
select cmp_ok((select promoted from promoted), '>=', 2::bigint, 'promote_due returns how many jobs it made ready');
select is((
  select count(*)
    from awa.job(:retry_id) j, awa.job(:scheduled_id) i
   where j.state = 'available' and i.state = 'available'
),
  1::bigint, 'what was due is available');
select is((select count(*) from due d, awa.job(d.job_id) j where j.run_at = d.run_at and j.created_at = d.created_at),
  2::bigint, 'since its time came; created when it was');
create temp table served as select row_number() over () as place, c.* from awa.claim(pg_temp.q(' retry'), 10) c;
select results_eq(
  'select kind, args, priority, attempt, max_attempts, tags, metadata, group_key from served order by place',
  $$values ('scheduled', '{"a": 2}'::jsonb, 1, 1, 7, '{u}'::text[], '{"m": 2}'::jsonb, 'h'),
  ('k', '{"a": 1}', 3, 2, 5, '{t}', '{"m": 1}', 'g')$$,
  'it is claimed on the lane of its priority, with all that it was; a retry is the next attempt');
select is((
  select count(*) from served s join due d using (job_id) where s.created_at = d.created_at and s.ready_at = d.run_at
),
  2::bigint, 'a claim shows when it was created, and since when it was ready');
select is((select row(j.state, j.attempt, j.errors -> 0 ->> 'error')::text from awa.job(:retry_id) j),
  '(running,2,first)', 'its errors come with it');
select is((select count(*) from awa.jobs_compat() j where j.id in (:retry_id, :scheduled_id)), 2::bigint,
  'each job shows once');

-- Which, and how many
select count(*)
  from awa.enqueue_many(:'queue', 'k', array(select to_jsonb(n) from generate_series(1, 30) n),
    run_at => '2130-01-01') \g /dev/null
update awa.deferred_jobs d
   set run_at = now() - make_interval(secs => (d.args #>> '{}')::int / 100.0)
 where (d.args #>> '{}')::int <= 20;
select is((select promoted from awa.promote_due(max_jobs => 3)), 3::bigint, 'max_jobs are promoted');
select is((
  select array_agg((e.args #>> '{}')::int order by e.ready_at)
    from awa.ready_entries e
   where awa._queue_of(e.lane) = awa._queue_id(pg_temp.q())
),
  '{20,19,18}', 'those that are due the longest');
select is(pg_temp.states(), 'available 3, scheduled 27', 'the others wait');
select is((select promoted from awa.promote_due(null)), 17::bigint,
  'an explicit null means the default: the rest of what is due');
select is(pg_temp.states(), 'available 20, scheduled 10', 'what is not due stays');
select is(
  (
    select array_agg((e.args #>> '{}')::int order by e.ready_at)
      from awa.ready_entries e
     where awa._queue_of(e.lane) = awa._queue_id(pg_temp.q())
  ),
  array(select n from generate_series(20, 1, -1) n), 'every job was promoted once');
select is((select promoted from awa.promote_due()), 0::bigint, 'where nothing is due nothing happens');
select is((select count(*) from awa.deferred_jobs d where awa._queue_of(d.lane) = awa._queue_id(pg_temp.q())),
  10::bigint, 'a promoted job leaves deferred_jobs');
select count(*)
  from awa.enqueue_many(:'queue' || ' default', 'k', array_fill('{}'::jsonb, array[5000]),
    run_at => '2130-01-01') \g /dev/null
update awa.deferred_jobs d set run_at = now() where awa._queue_of(d.lane) = awa._queue_id(pg_temp.q(' default'));
select is((select promoted from awa.promote_due()), 4096::bigint, '4,096 jobs unless told otherwise');
select is((select promoted from awa.promote_due(10000)), 904::bigint, '10,000 may be asked for');

-- What committed so late that the fast pass has gone by
select awa.enqueue(:'queue' || ' late', 'k', run_at => '2130-01-01') \g /dev/null
update awa.deferred_jobs d
   set run_at = now() - interval '1 day'
 where awa._queue_of(d.lane) = awa._queue_id(pg_temp.q(' late'));
select setval('awa.next_sweep_at', 1) \g /dev/null
select is((select promoted from awa.promote_due()), 1::bigint,
  'a job that became due long before it committed is found by the sweep');
select is(pg_temp.states(' late'), 'available 1', 'and ready');
select awa.enqueue(:'queue' || ' late', 'k', run_at => '2130-01-01') \g /dev/null
update awa.deferred_jobs d set run_at = '-infinity' where awa._queue_of(d.lane) = awa._queue_id(pg_temp.q(' late'));
select setval('awa.next_sweep_at', 1) \g /dev/null
select is((select promoted from awa.promote_due()), 1::bigint, 'however long');

-- A job from before priority or attempts were changed for its queue keeps its own
select awa.enqueue(:'queue' || ' kept', 'k', run_at => '2130-01-01') as kept_id \gset
select awa.configure_queue(:'queue' || ' kept', '{"default_priority": 4, "default_max_attempts": 3}') \g /dev/null
update awa.deferred_jobs d set run_at = now() where d.job_id = :kept_id;
select promoted from awa.promote_due() \g /dev/null
select is((select row(j.priority, j.max_attempts, j.state)::text from awa.job(:kept_id) j), '(2,25,available)',
  'a job keeps the defaults of when it was enqueued');

-- A paused queue
select awa.enqueue(:'queue' || ' paused', 'k', run_at => '2130-01-01') as paused_id \gset
select awa.pause_queue(:'queue' || ' paused') \g /dev/null
update awa.deferred_jobs d set run_at = now() where d.job_id = :paused_id;
select promoted from awa.promote_due() \g /dev/null
select is((select j.state from awa.job(:paused_id) j), 'available', 'a paused queue is promoted to as well');

-- Refusals
select pg_temp.refused(format('select * from awa.promote_due(%s)', n), '22023', 'max_jobs', n || ' jobs')
  from unnest(array[0, -1, 10001, 2147483647, -2147483648]) with ordinality u(n, place)
 order by place;

-- A job that a user's trigger keeps from being made ready: the others are all the same
create temp table due_again as
select j as job_id
  from awa.enqueue_many(:'queue' || ' refused', 'k', array_fill('{}'::jsonb, array[3]), run_at => '2130-01-01') j;
update awa.deferred_jobs d set run_at = clock_timestamp() where d.job_id in (select job_id from due_again);
select set_config('test.refused', (select (array_agg(job_id order by job_id))[2]::text from due_again),
  true) as refused_id \gset
create function public.refuse(
) returns
  trigger language plpgsql as $$ begin if new.job_id = current_setting(
    'test.refused'
  )::bigint then raise exception 'not this one';
  end if; return new; end $$;
create trigger refuse before insert on awa.ready_entries for each row execute function public.refuse();
set local client_min_messages = error;
select is((select promoted from awa.promote_due()), 2::bigint, 'one that is refused keeps no other one');
set local client_min_messages = warning;
select ok((
  select d.run_at between now() + interval '1 minute' and clock_timestamp() + interval '1 minute'
    from awa.deferred_jobs d
   where d.job_id = :refused_id
),
  'and is put off for a minute');
select is((select h.message from awa.health() h where h.topic = 'refusals'),
  format(
    'jobs that are put off, because the server refuses to store how they failed, or to make them ready: 1; the last '
    'one is job %s, in attempt 1 of 25: to make it ready was refused: not this one (SQLSTATE P0001)',
    :'refused_id'),
  'health names it');
update awa.deferred_jobs d set run_at = clock_timestamp() where d.job_id = :refused_id;
set local client_min_messages = error;
select is((select promoted from awa.promote_due()), 0::bigint, 'as long as it is refused');
select ok((select d.run_at > now() + interval '2 minutes' from awa.deferred_jobs d where d.job_id = :refused_id),
  'it is put off for longer each time');
update awa.deferred_jobs d set run_at = clock_timestamp() where d.job_id = :refused_id;
create trigger refuse before update on awa.deferred_jobs for each row execute function public.refuse();
select is((select promoted from awa.promote_due()), 0::bigint, 'one that can''t be put off');
select awa.enqueue(:'queue' || ' refused', 'k', run_at => '2130-01-01') as other_id \gset
update awa.deferred_jobs d set run_at = clock_timestamp() where d.job_id = :other_id;
select is((select promoted from awa.promote_due()), 1::bigint, 'keeps no other one either');
set local client_min_messages = warning;
drop trigger refuse on awa.deferred_jobs;
drop trigger refuse on awa.ready_entries;
delete from awa.deferred_jobs;

-- Whatever the trigger raises; but what the server lacks for all of them is an error
create or replace function public.refuse(
) returns
  trigger language plpgsql as $$ begin if new.kind = 'bad' then raise exception using errcode = current_setting(
    'test.code'
  ),
  message = 'no';
  end if; return new; end $$;
create trigger refuse before insert on awa.ready_entries for each row execute function public.refuse();
create function pg_temp.promotes(code text) returns text language plpgsql as $$
declare
  v_bad bigint := awa.enqueue(pg_temp.q(' codes'), 'bad', run_at => '2130-01-01');
  v_promoted text;
begin
  perform set_config('test.code', code, true);
  perform awa.enqueue(pg_temp.q(' codes'), 'good', run_at => '2130-01-01');
  update awa.deferred_jobs d set run_at = clock_timestamp();
  select p.promoted into v_promoted from awa.promote_due() p;
  v_promoted := v_promoted
    || (
      select case when d.run_at > clock_timestamp() then ' put off' else ' left' end
        from awa.deferred_jobs d
       where d.job_id = v_bad
    );
  delete from awa.deferred_jobs;
  return v_promoted;
end
$$;
set local client_min_messages = error;
select is(pg_temp.promotes(c), '1 put off', 'one that is refused with ' || c)
  from unnest('{55000,53100,58P01,25006}'::text[]) c;
select is(pg_temp.promotes(c), '1 left', 'another session was in its way: ' || c) from unnest('{40P01}'::text[]) c;
select throws_ok($$select pg_temp.promotes('57P01')$$, '57P01', 'no', 'the end of the server ends the pass');
select awa.enqueue(:'queue' || ' codes', 'bad', run_at => '2130-01-01') \g /dev/null
update awa.deferred_jobs d set run_at = clock_timestamp();
select set_config('test.code', '53100', true) \g /dev/null
select throws_ok('select * from awa.promote_due()', '53100', 'no', 'a full disk');
select set_config('test.code', '55000', true) \g /dev/null
select is((select promoted from awa.promote_due()), 0::bigint, 'one that is refused alone is no error');
select set_config('test.code', '53100', true) \g /dev/null
select awa.enqueue(:'queue' || ' codes', 'bad', run_at => '2130-01-01') from generate_series(1, 4) \g /dev/null
select awa.enqueue(:'queue' || ' codes', 'good', run_at => '2130-01-01') \g /dev/null
update awa.deferred_jobs d
   set run_at = clock_timestamp() - case d.kind when 'bad' then interval '1 second' else '0' end;
select is((select promoted from awa.promote_due(2)), 1::bigint,
  'all of a pass are refused as if it were: the ones behind them are promoted');
select is((select count(*) from awa.deferred_jobs d where d.run_at > clock_timestamp()), 5::bigint,
  'and they are put off, so that the next pass goes on');
set local client_min_messages = warning;
drop trigger refuse on awa.ready_entries;
delete from awa.deferred_jobs;

-- Nothing else
create temp table before as
select relname, n_tup_upd, n_tup_del
  from pg_stat_xact_user_tables
 where schemaname = 'awa' and relname ~ '^(ready|lease)';
select awa.enqueue(:'queue' || ' quiet', 'k', run_at => '2130-01-01') as quiet_id \gset
update awa.deferred_jobs d set run_at = clock_timestamp() where d.job_id = :quiet_id;
select is((select promoted from awa.promote_due()), 1::bigint, 'a promotion');
select is((
  select count(*)
    from pg_stat_xact_user_tables a
    join before b using (relname)
   where a.n_tup_upd + a.n_tup_del <> b.n_tup_upd + b.n_tup_del
),
  0::bigint, 'only appends to the hot tables');
select is((select count(*) from awa.deferred_jobs d where d.job_id = :quiet_id), 0::bigint,
  'and deletes what it promoted');
select is((select row(q.available, q.scheduled)::text from awa.queue_counts(pg_temp.q(' quiet')) q), '(1,0)',
  'the books agree');
select is((select count(*) from awa.claim(pg_temp.q(' quiet'))), 0::bigint,
  'until the promotion commits no worker claims the job');

select * from finish();
rollback;
