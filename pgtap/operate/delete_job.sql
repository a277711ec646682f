-- Without this, what a job says of a person would stay until its history is over, whatever data protection asks.
\set name delete_job
\ir ../prelude.psql
\ir ../read/states.psql
select pg_temp.step('setup') \g /dev/null

begin;
select plan(51);

create temp table ended as
select k.name, k.id, j.state
  from kinds k
  join awa.jobs j using (id)
 where j.state in ('completed', 'failed', 'cancelled', 'dead');
select is((select string_agg(e.name, ', ' order by e.id) from ended e),
  'completed, output, batch, failed, leased completed, cancelled, called off, dead',
  'jobs that have ended, in every home');
create temp table before as select * from awa.queue_counts(pg_temp.q());
select awa._fold(null, true) \g /dev/null

-- Those that have not
select pg_temp.refused(format('select awa.delete_job(%s)', k.id), 'JQ005', 'state', k.name || ' is refused')
  from kinds k where k.id not in (select e.id from ended e) order by k.id;

-- Hidden ones: they are on the disk, and come back when the setting goes
select from awa.configure_queue(pg_temp.q(), '{"completed_retention": "1 millisecond"}') \g /dev/null
select is((select count(*) from awa.jobs j join ended e using (id) where e.state = 'completed'), 0::bigint,
  'a shorter retention of the queue hides completed jobs');
select is((
  select count(*)
    from awa.scan_jobs(jsonb_build_object('queue', pg_temp.q(), 'state', 'completed')) s, unnest(s.job_ids) j
),
  0::bigint, 'from scan_jobs, too');
select pg_temp.refused(format('select awa.explain_job(%s)', e.id), 'JQ003', 'no such job',
  'and from explain_job: ' || e.name)
  from ended e
 where e.name in ('output', 'batch')
 order by e.id;
select is(awa.delete_job(job_id => e.id), 'completed', e.name || ': it can be deleted nevertheless')
  from ended e
 where e.name in ('output', 'batch')
 order by e.id;
select from awa.configure_queue(pg_temp.q(), '{"completed_retention": null}') \g /dev/null
select pg_temp.agrees('the books balance');
select is((
  select string_agg(e.name, ', ' order by e.id) from awa.jobs j join ended e using (id) where e.state = 'completed'
),
  'completed, leased completed', 'what was deleted does not come back');

-- Those that have: gone from every read
select is(awa.delete_job(job_id => e.id), e.state, e.name || ': it returns the state that it was in')
  from ended e
 where e.name not in ('output', 'batch')
 order by e.id;
select is((select count(*) from awa.jobs j join ended e using (id)), 0::bigint, 'then awa.jobs does not show them');
select is((select count(*) from ended e, awa.job(e.id)), 0::bigint, 'nor does job');
select is((select count(*) from awa.list_jobs(pg_temp.q()) j join ended e using (id)), 0::bigint, 'nor list_jobs');
select is((select count(*) from awa.list_jobs(pg_temp.q(), e.state) j join ended e using (id, state)), 0::bigint,
  'nor list_jobs of ' || e.state)
  from (select distinct state from ended) e
 order by e.state;
select is((
  select count(*)
    from awa.scan_jobs(jsonb_build_object('queue', pg_temp.q())) s, unnest(s.job_ids) j(id)
    join ended e using (id)
),
  0::bigint, 'nor scan_jobs');
select pg_temp.refused(format('select awa.explain_job(%s)', e.id), 'JQ003', 'no such job',
  'explain_job finds no job: ' || e.name)
  from ended e
 where e.name in ('completed', 'failed')
 order by e.id;
select is((select row(q.completed, q.failed, q.cancelled, q.dead)::text from awa.queue_counts(pg_temp.q()) q),
  '(0,0,0,0)', 'they are not counted');
select is((
  select row(q.completed, q.failed, q.cancelled, q.dead)::text from awa.queue_counts() q where q.queue = pg_temp.q()
),
  '(0,0,0,0)', 'nor in the counts of all queues, which know what is counted');
select is((select row(q.available, q.scheduled, q.retryable, q.running)::text from awa.queue_counts(pg_temp.q()) q),
  (select row(b.available, b.scheduled, b.retryable, b.running)::text from before b), 'the others are');
select is((select a.enqueued from awa.audit() a where a.queue = pg_temp.q()),
  (select b.available + b.scheduled + b.retryable + b.running from before b), 'the books take them for never enqueued');
select pg_temp.agrees('and balance, counted or not');
select pg_temp.refused(format('select awa.delete_job(%s)', e.id), 'JQ003', 'no such job',
  e.name || ' can''t be deleted twice')
  from ended e
 where e.name in ('completed', 'output', 'failed', 'dead')
 order by e.id;
select pg_temp.refused(format('select awa.retry(%s)', e.id), 'JQ003', 'no such job', e.name || ' can''t be retried')
  from ended e
 where e.name in ('failed', 'dead')
 order by e.id;
select is((select array_agg(d.job_id order by d.job_id) from awa.deleted_jobs d join ended e on e.id = d.job_id),
  (select array_agg(e.id order by e.id) from ended e where e.name in ('completed', 'output', 'batch')),
  'only those that the ledgers count as completed are noted');
select is((select count(*) from awa.done_entries d join ended e on e.id = d.job_id), 0::bigint,
  'the others have no row');
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');

-- Which job
select pg_temp.refused('select awa.delete_job(null)', '22023', 'job_id', 'no job');
select pg_temp.refused('select awa.delete_job(0)', 'JQ003', 'no such job', 'a job that there is not');
select pg_temp.steps_agree();

select * from finish();
rollback;
