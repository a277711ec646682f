-- Without this, who asks why a job does not run would have to know every table.
\set name explain_job
\ir ../prelude.psql
\ir states.psql

insert into kinds
select n, awa.enqueue(:'queue' || ' more', n, priority => 3)
  from unnest(array['off', 'no way', 'lasting', 'nobody', 'gone', 'given back']) with ordinality u(n, place)
 order by place;
create temp table more as
select t.kind as name, t.job_id, t.receipt
  from awa.claim(:'queue' || ' more', 3, :worker_id) t;
insert into more select t.kind, t.job_id, t.receipt from awa.claim(:'queue' || ' more', 1) t;
select awa.register_worker('gone') as gone_id \gset
insert into more select t.kind, t.job_id, t.receipt from awa.claim(:'queue' || ' more', 1, :gone_id) t;
insert into more select t.kind, t.job_id, t.receipt from awa.claim(:'queue' || ' more', 1) t;
select awa.cancel(job_id, 'not today') from more where name = 'off' \g /dev/null
select awa.configure_queue(:'queue' || ' more', '{"dead_letter": true, "deadline": "1 hour"}') \g /dev/null
select awa.discard(job_id, receipt, 'no way') from more where name = 'no way' \g /dev/null
select awa.extend(job_id, receipt, '1 hour') from more where name = 'lasting' \g /dev/null
select awa.release(job_id, receipt) from more where name = 'given back' \g /dev/null
delete from awa.workers where worker_id = :gone_id;
insert into kinds select 'second', awa.enqueue(:'queue', 'second', priority => 2);
insert into kinds select 'third', awa.enqueue(:'queue', 'third', priority => 2);

begin;
select plan(42);

create function pg_temp.says(name text, pattern text) returns text
language plpgsql
as $$
begin
  return matches(awa.explain_job((select k.id from kinds k where k.name = says.name)), pattern, name);
end
$$;
select pg_temp.says('completed', '^It completed at .+, in attempt 1\.$');
select pg_temp.says('output', '^It completed at .+, in attempt 1\.$');
select pg_temp.says('batch', '^It completed at .+, in attempt 1\.$');
select pg_temp.says('failed', '^It failed for good at .+, after attempt 1 of 1: e\. retry lets it run again\.$');
select pg_temp.says('no way',
  '^It is dead since .+, after attempt 1 of 25 \(discarded\): no way\. retry lets it run again, purge_dlq removes '
  'it\.$');
select pg_temp.says('off', format('^It was cancelled at .+ by %s: not today\.$', session_user));
select pg_temp.says('scheduled', '^It is scheduled: it may run in .+, at 2130-01-01');
select pg_temp.says('retryable', '^Attempt 1 of 25 failed \(e\)\. It waits for its retry in .+, at ');
select pg_temp.says('running',
  format('^It is running: attempt 1, since .+, with worker %s \(.+\)\. The attempt is its own until .+\.$',
    :worker_id));
select pg_temp.says('lasting',
  format('^It is running: attempt 1, since .+, with worker %s \(.+\)\. The attempt is its own until .+\.$',
    :worker_id));
select pg_temp.says('nobody',
  '^It is running: attempt 1, since .+, with a caller that is not registered\. The attempt is its own until .+\.$');
select pg_temp.says('gone',
  format('^It is running: attempt 1, since .+, with worker %s, which is not registered any more\.', :gone_id));
select pg_temp.says('available',
  '^It is available since .+, and waits in queue .+ behind 0 jobs of priority 2; jobs of other priorities may come '
  'before it\.$');
select pg_temp.says('second', 'behind 1 job of priority 2;');
select pg_temp.says('third', 'behind 2 jobs of priority 2;');
select pg_temp.says('released', 'behind 0 jobs of priority 3 that were given back, too;');

-- Only claimable jobs are ahead
select awa.cancel(id) from kinds where name = 'available' \g /dev/null
select pg_temp.says('third', 'behind 1 job of priority 2;');
select awa.set_priority(id, 4) from kinds where name = 'third' \g /dev/null
select pg_temp.says('third', 'behind 0 jobs of priority 4;');

-- Put off
savepoint here;
update awa.deferred_jobs d
   set errors = '[{"attempt": 1, "error": "boom"}, {"attempt": 2, "error": "the failure was refused", "put_off": true}]'
  from kinds k
 where k.id = d.job_id;
select pg_temp.says(n,
  '^It was put off in attempt 2 of \d+, because the server refuses a row of it \(the failure was refused\)\. It is '
  'tried again in .+, at .+\.')
  from unnest(array['scheduled', 'retryable']) n;
rollback to here;

-- Late, paused, nobody there; maintenance is called
select pg_temp.no_gap() \g /dev/null
update awa.workers set heartbeat_at = clock_timestamp();
update awa.deferred_jobs d set run_at = clock_timestamp() - interval '1 minute' from kinds k where k.id = d.job_id;
select pg_temp.says('scheduled',
  '^It is scheduled: it may run in 00:00:00, at .+\. That is over: it becomes available when maintenance promotes it');
select pg_temp.says('retryable',
  'in 00:00:00, at .+\. That is over: it becomes available when maintenance promotes it');
select unalike(awa.explain_job(id), '%No live worker%', 'a worker of any queue is one of this')
  from kinds
 where name = 'second';
update awa.workers set heartbeat_at = clock_timestamp() - interval '2 minutes';
select pg_temp.says('second', 'No live worker has registered for the queue\.$');
update awa.workers set heartbeat_at = clock_timestamp(), queues = '{another}';
select pg_temp.says('second', 'No live worker has registered for the queue\.$');
update awa.workers set queues = array['another', pg_temp.q()];
select unalike(awa.explain_job(id), '%No live worker%', 'one that has registered for it is, too')
  from kinds
 where name = 'second';
select awa.pause_queue(pg_temp.q()) \g /dev/null
select pg_temp.says(n, 'The queue is paused since .+: nothing is claimed from it until resume_queue\.')
  from unnest(array['second', 'scheduled', 'retryable']) n;
select unalike(awa.explain_job(id), '%paused%', 'what runs, runs') from kinds where name = 'running';

-- An attempt whose time is over
update awa.leases l
   set lease_until = clock_timestamp() - interval '1 second', lease = '1 second', deadline_at = '2130-01-01'
  from more
 where more.receipt = l.receipt;
update awa.workers set heartbeat_at = clock_timestamp() - interval '2 minutes';
select pg_temp.says('lasting',
  '\. Its lease ended at .+, and the next rescue ends the attempt, at most until 2130-01-01.*\.$');

-- Maintenance that no program calls
select setval('awa.rescue_called_at',
  (extract(epoch from clock_timestamp() - interval '2 minutes') * 1000000)::bigint) \g /dev/null
delete from awa.rescue_gaps;
select pg_temp.says(n, ' Maintenance has not been called since .+\.$')
  from unnest(array['scheduled', 'retryable', 'lasting']) n;
select pg_temp.no_gap() \g /dev/null
select unalike(awa.explain_job(id), '%Maintenance%', 'nothing to wait for') from kinds where name = 'scheduled';

-- A restored database
savepoint here;
update awa.origin set xid = '5', server = server + 1;
select pg_temp.says('second',
  ' The database was restored from a dump: nothing is claimed until rebase_after_restore was called\.$');
rollback to here;

-- Put off until after its expiry, as snooze does
insert into kinds
select 'expires', awa.enqueue(:'queue', 'k', run_at => '2130-01-01 00:00+00', expires_at => '2130-01-02 00:00+00');
update awa.deferred_jobs set run_at = '2130-01-03 00:00+00'
 where job_id = (select id from kinds where name = 'expires');
select pg_temp.says('expires', '^It is scheduled: .* It expires at 2130-01-02 .*: it is cancelled when it is due\.$');
update awa.deferred_jobs set expires_at = '2020-01-02 00:00+00'
 where job_id = (select id from kinds where name = 'expires');
select pg_temp.says('expires',
  '^It is scheduled: .* It has expired at 2020-01-02 .*: it is cancelled when it is due\.$');

select pg_temp.refused(format('select awa.explain_job(%s)', id), 'JQ003', 'no such job', 'job ' || id)
  from unnest(array['null', '0', '-1', '9223372036854775807']) with ordinality u(id, n)
 order by n;

select * from finish();
rollback;
