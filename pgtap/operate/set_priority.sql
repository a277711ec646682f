-- Without this, an urgent job would wait behind all that was enqueued before it.
\set name set_priority
\ir ../prelude.psql

create temp table jobs as
select n, awa.enqueue(pg_temp.q(), 'k', to_jsonb(n), 3, null, 5, '{t}', '{"m": 1}', 'g') as id
  from unnest(
    array['running', 'leased', 'retryable', 'snoozed', 'completed', 'failed', 'released', 'front']
  ) with ordinality u(n, place)
 order by place;
create temp table c as select j.n, t.job_id, t.receipt from awa.claim(:'queue', 100) t join jobs j on j.id = t.job_id;
select awa.extend(job_id, receipt, '1 hour') from c where n = 'leased' \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 day') from c where n = 'retryable' \g /dev/null
select awa.snooze(job_id, receipt, '1 day') from c where n = 'snoozed' \g /dev/null
select awa.complete(job_id, receipt) from c where n = 'completed' \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n = 'failed' \g /dev/null
select awa.release(job_id, receipt) from c where n in ('released', 'front') \g /dev/null
insert into jobs
select n,
       awa.enqueue(:'queue', 'k', to_jsonb(n), 3, case n when 'scheduled' then timestamptz '2130-01-01' end, 5, '{t}',
         '{"m": 1}', 'g')
  from unnest(array['available', 'scheduled', 'cancelled', 'same', 'undone']) n;
select awa.cancel(id) from jobs where n = 'cancelled' \g /dev/null
create temp table before as select j.id, to_jsonb(j) as job from awa.jobs j where j.queue = :'queue';
select pg_temp.step('setup') \g /dev/null

-- Committed changes, after which the queue is served: 1 to 6 on lane 2; 5 to the front, 2 to the end, 4 there and back
create temp table order_jobs as
select n, awa.enqueue(pg_temp.q(' order'), 'k', to_jsonb(n)) as id
  from generate_series(1, 6) n;
create temp table changed as
select n, awa.set_priority(id, case n when 5 then 1 when 2 then 4 else 3 end) as state
  from order_jobs
 where n in (2, 4, 5);
select pg_temp.step('changed') \g /dev/null
select awa.set_priority(id, 2) from order_jobs where n = 4 \g /dev/null
select pg_temp.step('and back') \g /dev/null
create temp table served as select row_number() over () as place, t.* from awa.claim(:'queue' || ' order', 10) t;
select pg_temp.step('served') \g /dev/null
-- A retry that waits, changed, then promoted
select awa.enqueue(:'queue' || ' later', 'k') as later_id \gset
select awa.fail(job_id, receipt, 'e', '1 day') from pg_temp.take(' later', 1) \g /dev/null
select awa.set_priority(:later_id, 4) \g /dev/null
update awa.deferred_jobs set run_at = clock_timestamp() where job_id = :later_id;
select promoted from awa.promote_due() \g /dev/null
select pg_temp.step('promoted') \g /dev/null
create temp table later as select * from awa.claim(:'queue' || ' later');
-- One with a key
select job_id as keyed_id from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue') \gset
select awa.set_priority(:keyed_id, 1) \g /dev/null
select pg_temp.step('keyed') \g /dev/null

begin;
select plan(41);

create temp table told as
select j.n, awa.set_priority(job_id => j.id, priority => 1) as state
  from jobs j
 where j.n in ('retryable', 'snoozed', 'scheduled', 'available', 'released', 'same', 'front');
select results_eq('select n, state from told order by n',
  $$values ('available', 'available'), ('front', 'available'), ('released', 'available'), ('retryable', 'retryable'),
  ('same', 'available'), ('scheduled', 'scheduled'), ('snoozed', 'scheduled')$$,
  'set_priority returns the state that the job was in');
select is((
  select count(*)
    from told t
    join jobs using (n)
    join before b using (id), awa.job(jobs.id) j
   where to_jsonb(j) = b.job || '{"priority": 1}'
),
  7::bigint, 'nothing but the priority changes');
select is((
  select count(*)
    from before b
    join jobs using (id), awa.job(b.id) j
   where n not in (select n from told) and to_jsonb(j) = b.job
),
  6::bigint, 'and nothing of other jobs');
select pg_temp.agrees('the books balance');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select pg_temp.agrees('also when it is decided');
set constraints all deferred;
create temp table twice as select n, awa.set_priority(id, 1) as state from jobs where n = 'same';
select is((select state from twice), 'available', 'the priority that it has is no change');
select is(pg_temp.outcome(format('select awa.set_priority(%s, 2)', id)), 'ok',
  'another one in the same transaction is one')
  from jobs
 where n = 'same';
select is((select j.priority from jobs, awa.job(jobs.id) j where n = 'same'), 2, 'the last one counts');
select is((select string_agg(j.state, ' ') from jobs, awa.jobs j where n = 'same' and j.id = jobs.id), 'available',
  'and the job shows once');
select is(pg_temp.outcome(format('select awa.set_priority(%s, 1)', id)), 'JQ005',
  'back to a place where this transaction had it is refused')
  from jobs
 where n = 'same';
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select pg_temp.agrees('the books balance after two');
set constraints all deferred;

-- Served
select is((select string_agg(n || state, ' ' order by n) from changed), '2available 4available 5available',
  'committed changes');
select is((select array_agg(args order by place) from served), array['5', '1', '3', '6', '4', '2']::jsonb[],
  'a job is served on its new lane, at the end of it, and once');
select is((select array_agg(priority order by place) from served), '{1,2,2,2,2,4}', 'with its new priority');
select is((
  select count(*)
    from awa.complete_many((select array_agg(job_id) from served), (select array_agg(receipt) from served))
),
  0::bigint, 'its receipt is good');
select is(pg_temp.states(' order'), 'completed 6', 'each completes once');
select is((select row(priority, attempt)::text from later), '(4,2)',
  'a retry comes back with the priority that it was given meanwhile');
select is((select count(*) from awa.unique_claims u where u.job_id = :keyed_id), 1::bigint,
  'a job keeps its unique key');
select pg_temp.agrees('the books balance with all that');

-- Wrong state
select pg_temp.refused(format('select awa.set_priority(%s, 1)', id), 'JQ005', 'state', 'a job that is ' || n)
  from jobs
 where n in ('running', 'leased', 'completed', 'failed', 'cancelled')
 order by n;
-- With the caller's transaction
savepoint business;
select awa.set_priority(id, 4) from jobs where n = 'undone' \g /dev/null
rollback to business;
select is((select j.priority from jobs, awa.job(jobs.id) j where n = 'undone'), 3, 'what rolls back never was');
create temp table own as select awa.enqueue(pg_temp.q(' own'), 'k', '"own"') as id;
select is(awa.set_priority(id, 4), 'available', 'what the transaction itself enqueued can be changed') from own;
select is((select string_agg(j.state || j.priority, ' ') from awa.jobs j where j.queue = pg_temp.q(' own')),
  'available4', 'and is there once');
select is((select row(c.available, c.cancelled)::text from awa.queue_counts(pg_temp.q(' own')) c), '(1,0)',
  'also in the counts');

-- Refusals
select pg_temp.refused(format('select awa.set_priority(%s, %s)', :later_id, p), '22023', 'priority', 'priority ' || p)
  from unnest(array['null', '0', '5', '-1', '2147483647', '-2147483648']) with ordinality u(p, n)
 order by n;
select pg_temp.refused('select awa.set_priority(null, 1)', '22023', 'job_id', 'no job');
select pg_temp.refused(format('select awa.set_priority(%s, 1)', id), 'JQ003', 'no such job', 'job ' || id)
  from unnest(array[0, -1, 9223372036854775807, -9223372036854775808]) with ordinality u(id, n)
 order by n;
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');
select pg_temp.steps_agree();

select * from finish();
rollback;
