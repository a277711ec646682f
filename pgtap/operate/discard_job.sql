-- Without this, an operator could not put a job aside that must not run, and look at it later.
\set name discard_job
\ir ../prelude.psql

select awa.register_worker(:'queue') as worker_id \gset
create temp table jobs as
select n, awa.enqueue(pg_temp.q(), 'k', to_jsonb(n)) as id
  from unnest('{running,leased,retryable,front,completed,failed,cancelled}'::text[]) n;
create temp table c as
select j.n, t.job_id, t.receipt
  from awa.claim(:'queue', 7, :worker_id) t
  join jobs j on j.id = t.job_id;
select awa.set_progress(job_id, receipt, '{"p": 1}') from c where n = 'leased' \g /dev/null
select awa.fail(job_id, receipt, 'first', '1 hour') from c where n = 'retryable' \g /dev/null
select awa.release(job_id, receipt) from c where n = 'front' \g /dev/null
select awa.complete(job_id, receipt) from c where n = 'completed' \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n = 'failed' \g /dev/null
select awa.cancel(job_id) from c where n = 'cancelled' \g /dev/null
insert into jobs
select n, awa.enqueue(:'queue', 'k', to_jsonb(n), run_at => case n when 'scheduled' then timestamptz '2130-01-01' end)
  from unnest('{available,scheduled}'::text[]) n;
select job_id as keyed_id from awa.enqueue_unique(:'queue' || ' keyed', 'k') \gset
select pg_temp.step('setup') \g /dev/null

begin;
select plan(25);

create temp table told as
select j.n, awa.discard_job(job_id => j.id, reason => 'looks odd') as state
  from jobs j
 where j.n not in ('completed', 'failed', 'cancelled');
select results_eq('select n, state from told order by n',
  $$values ('available', 'available'), ('front', 'available'), ('leased', 'running'), ('retryable', 'retryable'),
  ('running', 'running'), ('scheduled', 'scheduled')$$, 'it returns the state that the job was in');
select is((select string_agg(distinct j.state, ' ') from told t join jobs using (n), awa.job(jobs.id) j), 'dead',
  'each is dead at once, for the caller');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select is((select string_agg(distinct j.state, ' ') from told t join jobs using (n), awa.job(jobs.id) j), 'dead',
  'and once it is decided');
select pg_temp.agrees('the books balance');
select is((select count(*) from awa.dlq_entries d join jobs on jobs.id = d.job_id where d.reason = 'discarded'),
  6::bigint, 'they are dead letters');
select is(
  (
    select string_agg(distinct ((j.errors -> -1) - 'at' - 'attempt')::text, ' ')
      from told t
      join jobs using (n), awa.job(jobs.id) j
  ),
  jsonb_build_object('by', session_user, 'error', 'looks odd')::text, 'the last error says why, and who');
select is((select string_agg(n || ' ' || j.attempt, ', ' order by n) from told join jobs using (n), awa.job(id) j),
  'available 0, front 0, leased 1, retryable 1, running 1, scheduled 0', 'in the attempt that it was in');
select alike(awa.explain_job(id), 'It is dead since % (discarded): looks odd.%', 'explain_job says so')
  from jobs
 where n = 'available';
select results_eq(format('select c.n, l.reason from awa.heartbeat(%s) l join c using (job_id, receipt) order by c.n',
    :worker_id),
  $$values ('cancelled', 'cancelled'), ('leased', 'looks odd'), ('running', 'looks odd')$$,
  'the worker is told which attempts to stop, and why');
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'its answer is stale: ' || n)
  from c
 where n in ('running', 'leased')
 order by n;
set constraints all deferred;
select is((select count(*) from awa.claim(:'queue', 10)), 0::bigint, 'none is claimed any more');
select pg_temp.refused(format('select awa.discard_job(%s)', id), 'JQ005', 'state', 'a job that is ' || n)
  from jobs
 where n in ('completed', 'failed', 'cancelled', 'available', 'running')
 order by n;
select is(awa.discard_job(:keyed_id, null), 'available', 'a job with a unique key, and no reason');
select is((select j.errors -> -1 ->> 'error' from awa.job(:keyed_id) j), 'discarded', 'says that');
select ok((select inserted from awa.enqueue_unique(:'queue' || ' keyed', 'k')), 'the key is free');
select is(awa.retry(id), 'dead', 'a dead letter can be retried') from jobs where n = 'scheduled';
select pg_temp.refused('select awa.discard_job(null)', '22023', 'job_id', 'no job');
select pg_temp.refused('select awa.discard_job(0)', 'JQ003', 'no such job', 'an unknown job');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select pg_temp.agrees('the books balance');
select pg_temp.steps_agree();

select * from finish();
rollback;
