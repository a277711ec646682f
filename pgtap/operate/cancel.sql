-- Without this, a job that should not run could not be stopped; or would be cancelled, and run all the same.
\set name cancel
\ir ../prelude.psql

select awa.register_worker(:'queue') as worker_id \gset
create temp table jobs as
select n, awa.enqueue(pg_temp.q(), 'k', to_jsonb(n), 3, null, 5, '{t}', '{"m": 1}', 'g') as id
  from unnest(
    array['running', 'leased', 'retryable', 'snoozed', 'completed', 'output', 'failed', 'dead', 'released', 'again',
      'front']
  ) with ordinality u(n, place)
 order by place;
create temp table c as
select j.n, t.job_id, t.receipt
  from awa.claim(:'queue', 11, :worker_id) t
  join jobs j on j.id = t.job_id;
create temp table front as select * from c where n in ('released', 'front');
select awa.set_progress(job_id, receipt, '{"p": 1}') from c where n = 'leased' \g /dev/null
select awa.fail(job_id, receipt, 'first', '1 hour') from c where n = 'retryable' \g /dev/null
select awa.snooze(job_id, receipt, '1 hour') from c where n = 'snoozed' \g /dev/null
select awa.complete(job_id, receipt) from c where n = 'completed' \g /dev/null
select awa.complete(job_id, receipt, '1') from c where n = 'output' \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n = 'failed' \g /dev/null
select awa.configure_queue(:'queue', '{"dead_letter": true}') \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n = 'dead' \g /dev/null
select awa.release(job_id, receipt) from c where n in ('released', 'front') \g /dev/null
-- A second attempt
select awa.fail(job_id, receipt, 'first', '0') from c where n = 'again' \g /dev/null
select promoted from awa.promote_due() \g /dev/null
insert into jobs
select n,
       awa.enqueue(:'queue', 'k', to_jsonb(n), 3, case n when 'scheduled' then timestamptz '2130-01-01' end, 5, '{t}',
         '{"m": 1}', 'g')
  from unnest(array['available', 'scheduled', 'last', 'bystander']) n;
select awa.enqueue(:'queue' || ' one', 'k') as one_id \gset
create temp table one as select * from pg_temp.take(' one', 1);
select pg_temp.step('setup') \g /dev/null

-- Committed cancels, of which the queue is then served
create temp table kept as
select n, awa.enqueue(pg_temp.q(' kept'), 'k', to_jsonb(n)) as id
  from generate_series(1, 6) n;
create temp table said as select awa.cancel(id) from kept where n in (1, 3, 6);
create temp table served as select row_number() over () as place, t.* from awa.claim(:'queue' || ' kept', 10) t;
select pg_temp.step('served') \g /dev/null

begin;
select plan(43);

-- What it returns, and what follows
create temp table told as
select j.n, awa.cancel(job_id => j.id, reason => 'no more') as state
  from jobs j
 where j.n in ('running', 'leased', 'retryable', 'snoozed', 'released', 'available', 'scheduled');
select results_eq('select n, state from told order by n',
  $$values ('available', 'available'), ('leased', 'running'), ('released', 'available'), ('retryable', 'retryable'),
  ('running', 'running'), ('scheduled', 'scheduled'), ('snoozed', 'scheduled')$$,
  'cancel returns the state that the job was in');
select is((select string_agg(distinct j.state, ' ') from told t join jobs using (n), awa.job(jobs.id) j), 'cancelled',
  'each is cancelled at once, for the caller');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select is((select string_agg(distinct j.state, ' ') from told t join jobs using (n), awa.job(jobs.id) j), 'cancelled',
  'and once it is decided');
select pg_temp.agrees('the books balance');
select is(
  (
    select jsonb_object_agg(n,
      to_jsonb(
        j
      ) -
        '{id,kind,queue,args,run_at,created_at,attempted_at,finalized_at,errors,deadline_at,heartbeat_at,'
        'metadata,tags,max_attempts,unique_key,output,group_key,expires_at}'::text[])
      from told t
      join jobs using (n), awa.job(jobs.id) j
  ),
  (select jsonb_build_object(
     'available',
     jsonb_build_object('state', 'cancelled', 'priority', 3, 'attempt', 0, 'receipt', null, 'progress', null,
       'worker_id', null),
     'released',
     jsonb_build_object('state', 'cancelled', 'priority', 3, 'attempt', 0, 'receipt', null, 'progress', null,
       'worker_id', null),
     'scheduled',
     jsonb_build_object('state', 'cancelled', 'priority', 3, 'attempt', 0, 'receipt', null, 'progress', null,
       'worker_id', null),
     'snoozed',
     jsonb_build_object('state', 'cancelled', 'priority', 3, 'attempt', 0, 'receipt', null, 'progress', null,
       'worker_id', null),
     'retryable',
     jsonb_build_object('state', 'cancelled', 'priority', 3, 'attempt', 1, 'receipt', null, 'progress', null,
       'worker_id', null),
     'running',
     jsonb_build_object('state', 'cancelled', 'priority', 3, 'attempt', 1, 'receipt',
       (select receipt from c where n = 'running'), 'progress', null, 'worker_id', :worker_id),
     'leased',
     jsonb_build_object('state', 'cancelled', 'priority', 3, 'attempt', 1, 'receipt',
       (select receipt from c where n = 'leased'), 'progress', '{"p": 1}'::jsonb, 'worker_id', :worker_id))),
  'in the attempt that it was in');
select is((select count(*) from told t join jobs using (n), awa.job(jobs.id) j
    where row(j.kind, j.queue, j.args, j.max_attempts, j.tags, j.metadata, j.group_key) = row('k'::text, pg_temp.q(),
      to_jsonb(n), 5, '{t}'::text[], '{"m": 1}'::jsonb, 'g'::text)
      and j.finalized_at between now() and clock_timestamp()
      and j.created_at < now()), 7::bigint, 'with all that it was');
select is((
  select string_agg(distinct ((j.errors -> -1) - 'at' - 'attempt')::text, ' ')
    from told t
    join jobs using (n), awa.job(jobs.id) j
),
  jsonb_build_object('by', session_user, 'error', 'no more')::text, 'the last error says why, and who');
select is((
  select jsonb_agg(e ->> 'error') from jobs, awa.job(jobs.id) j, jsonb_array_elements(j.errors) e where n = 'retryable'
),
  '["first", "no more"]', 'after those of before');
select is((
  select count(*) from awa.deferred_jobs d join jobs on jobs.id = d.job_id
) + (select count(*) from awa.leases l join jobs on jobs.id = l.job_id),
  0::bigint, 'nothing is left where it was');

-- Notifications
create temp table lost as select * from awa.heartbeat(:worker_id);
select results_eq('select c.n, l.reason from lost l join c using (job_id, receipt) order by c.n',
  $$values ('leased', 'no more'), ('running', 'no more')$$, 'the worker is told which attempts to stop, and why');
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'its answer is stale: ' || n)
  from c
 where n in ('running', 'leased')
 order by n;
select is(
  (
    select array_agg(r)
      from awa.complete_many((select array_agg(job_id order by n) from c where n in ('running', 'leased')),
        (select array_agg(receipt order by n) from c where n in ('running', 'leased'))) r
  ),
  (select array_agg(job_id order by n) from c where n in ('running', 'leased')), 'in a batch, too');
set constraints all deferred;
select is(awa.cancel(job_id), 'running', 'a claim of one job, of a caller without a worker, and no reason') from one;
select is((select row(j.state, j.errors -> -1 ->> 'error')::text from awa.job(:one_id) j), '(cancelled,cancelled)',
  'is cancelled');
select awa.cancel(id, null) from jobs where n = 'last' \g /dev/null
select is((select j.errors -> -1 ->> 'error' from jobs, awa.job(jobs.id) j where n = 'last'), 'cancelled',
  'an explicit null is no reason');

-- Served around those that were cancelled
select is((select array_agg(args order by place) from served), '{2,4,5}',
  'what is cancelled is never claimed, what is around it is');
select is(pg_temp.states(' kept'), 'cancelled 3, running 3', 'each in its state');
select is((
  select count(*)
    from awa.complete_many((select array_agg(job_id) from served), (select array_agg(receipt) from served))
),
  0::bigint, 'receipts lead to their jobs, past what is buried');
select is((select string_agg(j.state, ' ' order by n) from kept, awa.job(kept.id) j),
  'cancelled completed cancelled completed completed cancelled', 'which complete');

-- The attempt counts
create temp table again as select * from awa.claim(pg_temp.q(), 10);
select is(awa.cancel(id), 'running', 'a second attempt') from jobs where n = 'again';
select is((select row(j.attempt, jsonb_array_length(j.errors))::text from jobs, awa.job(jobs.id) j where n = 'again'),
  '(2,2)', 'is the job''s second, with both errors');
select is((select string_agg(a.args #>> '{}', ' ' order by a.receipt) from again a), 'front again bystander',
  'others were served meanwhile');

-- Ended jobs
select pg_temp.refused(format('select awa.cancel(%s)', id), 'JQ005', 'state', 'a job that is ' || n)
  from jobs
 where n in ('completed', 'output', 'failed', 'dead')
 order by n;
select pg_temp.refused(format('select awa.cancel(%s)', id), 'JQ005', 'state', 'a job that was cancelled, from ' || n)
  from jobs
 where n in ('available', 'running', 'leased', 'scheduled')
 order by n;
select is((
  select string_agg(j.state, ' ' order by n)
    from jobs, awa.job(jobs.id) j
   where n in ('completed', 'output', 'failed', 'dead')
),
  'completed dead failed completed', 'stays as it is');

-- With the caller's transaction
savepoint business;
select awa.cancel(id) from jobs where n in ('front', 'bystander') \g /dev/null
rollback to business;
select is((select string_agg(j.state, ' ' order by n) from jobs, awa.job(jobs.id) j where n in ('front', 'bystander')),
  'running running', 'what rolls back never was');
create temp table own as
select awa.enqueue(pg_temp.q(' own'), 'k') as id,
       awa.enqueue(pg_temp.q(' own'), 'k', run_at => '2130-01-01') as later_id;
select is((select awa.cancel(id) || ' ' || awa.cancel(later_id) from own), 'available scheduled',
  'what the transaction itself enqueued can be cancelled');
select is(pg_temp.states(' own'), 'cancelled 2', 'and is');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select pg_temp.agrees('when it is decided, the books balance');
set constraints all deferred;

-- Refusals
select pg_temp.refused('select awa.cancel(null)', '22023', 'job_id', 'no job');
select pg_temp.refused(format('select awa.cancel(%s)', id), 'JQ003', 'no such job', 'job ' || id)
  from unnest(array[0, -1, 9223372036854775807, -9223372036854775808]) with ordinality u(id, n)
 order by n;
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');
select pg_temp.steps_agree();

select * from finish();
rollback;
