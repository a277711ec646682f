-- Without this, a queue without workers would show only when a user misses a job.
\set name health_queues
\ir ../prelude.psql

begin;
select plan(26);

create function pg_temp.end_all(what text, max_jobs int) returns void
language plpgsql
as $$
begin
  execute format('select count(%s) from (select c.* from awa.claim(pg_temp.q(), %s) c) c', what, max_jobs);
end
$$;

\ir health.psql

-- Jobs that wait, and for which workers
select pg_temp.fill(pg_temp.q(), 5) \g /dev/null
update awa.ready_entries set ready_at = pg_temp.ago('4 minutes 1 second');
select is(pg_temp.says('queue'), format('ok: %s: 5 ready, the oldest for 00:04, 0 running', pg_temp.q()),
  'a queue whose jobs wait for less than five minutes');
update awa.ready_entries set ready_at = pg_temp.ago('5 minutes 1 second');
select is(pg_temp.says('queue'),
  format('warning: %s: 5 ready, the oldest for 00:05, 0 running -> No registered worker is alive that works on it.',
    pg_temp.q()),
  'one that no worker works on');
select is(pg_temp.details('queue') - 'oldest_ready_seconds', '{"running": 0, "available": 5, "paused_at": null}',
  'in numbers');
select is((pg_temp.details('queue') ->> 'oldest_ready_seconds')::int / 60, 5, 'and seconds');
insert into awa.workers (name, queues, heartbeat_at)
values ('other', array[pg_temp.q(' other')], clock_timestamp()), ('late', array[pg_temp.q()], pg_temp.ago('2 minutes'));
select is(pg_temp.says('queue'),
  format('warning: %s: 5 ready, the oldest for 00:05, 0 running -> No registered worker is alive that works on it.',
    pg_temp.q()),
  'a worker of another queue, or one that is silent, does not');
update awa.workers set heartbeat_at = clock_timestamp() where name = 'late';
select is(pg_temp.says('queue'),
  format(
    'warning: %s: 5 ready, the oldest for 00:05, 0 running -> Its workers are alive, and claim nothing: see what they '
    'log.',
    pg_temp.q()),
  'one whose workers live, and claim nothing');
update awa.workers set queues = null where name = 'other';
delete from awa.workers where name = 'late';
select is(pg_temp.says('queue'),
  format(
    'warning: %s: 5 ready, the oldest for 00:05, 0 running -> Its workers are alive, and claim nothing: see what they '
    'log.',
    pg_temp.q()),
  'who did not say on what it works may work on this');
select awa.pause_queue(pg_temp.q()) \g /dev/null
update awa.queue_settings set paused_at = pg_temp.ago('3 minutes 1 second');
select is(pg_temp.says('queue'),
  format('ok: %s: 5 ready, the oldest for 00:05, 0 running; paused for 00:03', pg_temp.q()),
  'one that is paused is nobody''s fault');
select awa.resume_queue(pg_temp.q()) \g /dev/null
update awa.settings set warn_ready_age = '10 minutes';
select is(pg_temp.says('queue'), format('ok: %s: 5 ready, the oldest for 00:05, 0 running', pg_temp.q()),
  'how long is too long is a setting');
update awa.settings set warn_ready_age = '5 minutes';
select count(*) from awa.claim(pg_temp.q(), 1) \g /dev/null
select is(pg_temp.says('queue'),
  format('warning: %s: 4 ready, the oldest for 00:05, 1 running -> Its workers do not keep up: run more of them.',
    pg_temp.q()),
  'one whose workers do not keep up');
update awa.lease_claims set claimed_at = pg_temp.ago('3 minutes');
select is(pg_temp.says('queue'),
  format(
    'warning: %s: 4 ready, the oldest for 00:05, 1 running -> Its workers are busy with what runs: run more of them, '
    'or look at what takes so long.',
    pg_temp.q()),
  'one whose workers are busy');
delete from awa.workers;
select is(pg_temp.says('queue'),
  format('warning: %s: 4 ready, the oldest for 00:05, 1 running -> No registered worker is alive that works on it.',
    pg_temp.q()),
  'one whose workers are gone');
select count(*) from awa.claim(pg_temp.q(), 1) \g /dev/null
select is(pg_temp.says('queue'),
  format(
    'warning: %s: 3 ready, the oldest for 00:05, 2 running -> Callers that claim from it, unregistered, do not keep '
    'up: run more of them.',
    pg_temp.q()),
  'and one from which others claim');
select count(*) from awa.claim(pg_temp.q(), 5) \g /dev/null
select is(pg_temp.says('queue'), format('ok: %s: 0 ready, 5 running', pg_temp.q()), 'one that is worked on');
rollback to well;

-- Failures
select is(pg_temp.says('failures'), null, 'where nothing failed nothing is said');
select pg_temp.fill(pg_temp.q(), 500) \g /dev/null
select pg_temp.end_all('awa.discard(c.job_id, c.receipt, ''error'')', 500) \g /dev/null
select is(pg_temp.says('failures'),
  format(
    'warning: %s: of 500 jobs that ended in the last 1 day, 500 failed in their last attempt -> See why: the errors of '
    'its jobs that are failed, dead or retryable, in awa.jobs.',
    pg_temp.q()),
  '500 of 500 jobs failed');
select is(pg_temp.details('failures'), '{"failed": 500, "completed": 0, "seconds": 86400}', 'in numbers');
update awa.settings set warn_failed_share = 1;
select is((select h.level from awa.health() h where h.topic = 'failures'), 'ok', 'how many are too many is a setting');
rollback to well;
select pg_temp.fill(pg_temp.q(), 15) \g /dev/null
select awa.configure_queue(pg_temp.q(), '{"dead_letter": true}') \g /dev/null
select pg_temp.end_all('awa.discard(c.job_id, c.receipt, ''error'')', 2) \g /dev/null
select is((select h.level from awa.health() h where h.topic = 'failures'), 'ok', 'two are not enough to tell');
select pg_temp.end_all('awa.discard(c.job_id, c.receipt, ''error'')', 1) \g /dev/null
select matches(pg_temp.says('failures'), '^warning: .*: of 3 jobs that ended in the last 1 day, 3 failed',
  'dead letters have failed');
update awa.done_entries set finalized_at = pg_temp.ago('25 hours');
select is(pg_temp.says('failures'), null, 'of a day ago nothing is said');
select pg_temp.end_all('awa.fail(c.job_id, c.receipt, ''error'')', 3) \g /dev/null
select matches(pg_temp.says('failures'), '^warning: .*: of 3 jobs that ended in the last 1 day, 3 failed',
  'so have those that wait for a retry');
select count(awa.complete(c.job_id, c.receipt)) from awa.claim(pg_temp.q(), 3) c \g /dev/null
select count(awa.complete(c.job_id, c.receipt, '1')) from awa.claim(pg_temp.q(), 3) c \g /dev/null
create temp table lasting as select * from awa.claim(pg_temp.q(), 2);
select materialized from awa.materialize('0') \g /dev/null
select matches(pg_temp.says('failures'), '^warning: .*: of 9 jobs that ended in the last 1 day, 3 failed',
  'one third is too much');
select count(awa.complete(l.job_id, l.receipt)) from lasting l \g /dev/null
select count(m)
  from awa.claim(pg_temp.q(), 1) c
  left join lateral awa.complete_many(array[c.job_id], array[c.receipt]) m on true \g /dev/null
select matches(pg_temp.says('failures'), '^ok: .*: of 12 jobs that ended in the last 1 day, 3 failed',
  'a quarter is not');
rollback to well;

-- Claimers whose clients do not read, as the view finds them
create or replace view awa._stuck_claimers as
select pg_backend_pid() as pid, 10::oid as usesysid, 'q'::text as queue,
       clock_timestamp() - interval '1 minute 1 second' as since;
select matches(pg_temp.says('claimer'),
  format(
    '^warning: backend %s \(.*\): holds up the claims of queue q: its client has not read its jobs for 00:01 -> End it '
    'with pg_terminate_backend\. .*: grant pg_signal_backend to %I\.$',
    pg_backend_pid(), (select n.nspowner::regrole from pg_namespace n where n.nspname = 'awa')),
  'a claimer whose client does not read');
select is(pg_temp.details('claimer'), jsonb_build_object('pid', pg_backend_pid(), 'queue', 'q'), 'in numbers');
select setval('awa.rescue_called_at', :rescue_called_at, :'was_called') \g /dev/null

select * from finish();
rollback;
