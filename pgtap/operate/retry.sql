-- Without this, a job that failed for a reason that is mended would have to be enqueued anew, as another job.
\set name retry
\ir ../prelude.psql

create temp table jobs as
select n, awa.enqueue(pg_temp.q(), 'k', to_jsonb(n), 3, null, 2, '{t}', '{"m": 1}', 'g') as id
  from unnest(
    array['failed', 'discarded', 'cancelled', 'retryable', 'snoozed', 'completed', 'output', 'running', 'leased',
      'dead']
  ) with ordinality u(n, place)
 order by place;
create temp table c as select j.n, t.job_id, t.receipt from awa.claim(:'queue', 100) t join jobs j on j.id = t.job_id;
select awa.fail(job_id, receipt, 'first', '0') from c where n = 'failed' \g /dev/null
select promoted from awa.promote_due() \g /dev/null
select awa.fail(t.job_id, t.receipt, 'second') from awa.claim(:'queue') t \g /dev/null
select awa.set_progress(job_id, receipt, '{"p": 1}') from c where n in ('discarded', 'leased') \g /dev/null
select awa.discard(job_id, receipt, 'first') from c where n = 'discarded' \g /dev/null
select awa.cancel(job_id) from c where n = 'cancelled' \g /dev/null
select awa.fail(job_id, receipt, 'first', '1 day') from c where n = 'retryable' \g /dev/null
select awa.snooze(job_id, receipt, '1 day') from c where n = 'snoozed' \g /dev/null
select awa.complete(job_id, receipt) from c where n = 'completed' \g /dev/null
select awa.complete(job_id, receipt, '1') from c where n = 'output' \g /dev/null
select awa.configure_queue(:'queue', '{"dead_letter": true}') \g /dev/null
select awa.discard(job_id, receipt, 'first') from c where n = 'dead' \g /dev/null
insert into jobs
select n,
       awa.enqueue(:'queue', 'k', to_jsonb(n), 3, case n when 'scheduled' then timestamptz '2130-01-01' end, 2, '{t}',
         '{"m": 1}', 'g')
  from unnest(array['available', 'scheduled']) n;
create temp table created as select j.id, j.created_at from awa.jobs j where j.queue = :'queue';
select pg_temp.step('setup') \g /dev/null
-- Two jobs of one key: the first has ended, the second holds it
create temp table keyed as
select 1 as n, u.job_id
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue', max_attempts => 1) u;
select awa.fail(job_id, receipt, 'e') from pg_temp.take(' keyed', 1) \g /dev/null
insert into keyed select 2, u.job_id from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue') u;
insert into keyed
select 3, u.job_id
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || ' 3', unique_states => '{running}') u;
select awa.cancel(job_id) from keyed where n = 3 \g /dev/null
select job_id as holder_id from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || ' 3') \gset
insert into keyed
select 4, u.job_id
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || ' 4', run_at => '2130-01-01') u;
select pg_temp.step('keys') \g /dev/null

-- Committed retries, which are then served
create temp table again as
select n, awa.enqueue(pg_temp.q(' again'), 'k', to_jsonb(n), max_attempts => 1) as id
  from generate_series(1, 3) n;
select awa.fail(job_id, receipt, 'round 1') from pg_temp.take(' again', 3) \g /dev/null
select awa.retry(id) from again where n in (1, 3) \g /dev/null
select pg_temp.step('retried') \g /dev/null
create temp table served as select row_number() over () as place, t.* from awa.claim(:'queue' || ' again', 10) t;
select awa.fail(job_id, receipt, 'round 2') from served where args = '1' \g /dev/null
select awa.complete(job_id, receipt) from served where args = '3' \g /dev/null
select pg_temp.step('served') \g /dev/null

-- To be retried elsewhere, and later
select awa.configure_queue(:'queue' || ' sent', '{"dead_letter": true}') \g /dev/null
create temp table sent as
select n, awa.enqueue(pg_temp.q(' sent'), 'k', to_jsonb(n), 3, null, 2, '{t}', '{"m": 1}', 'g',
         now() + interval '1 day') as id
  from generate_series(1, 4) n;
select awa.discard(job_id, receipt, 'e') from pg_temp.take(' sent', 4) \g /dev/null
insert into sent
select n, awa.enqueue(pg_temp.q(' sent'), 'k', to_jsonb(n), 3, '2130-01-01', 2) from generate_series(5, 7) n;
-- Of one key in each queue: the second holds that of the other one
create temp table homes as
select n, u.job_id
  from (values (1, ' home'), (2, ' away'), (3, ' third')) q(n, suffix)
 cross join lateral awa.enqueue_unique(pg_temp.q(q.suffix), 'k', unique_by => '{queue}',
    run_at => case when n = 3 then timestamptz '2130-01-01' end, max_attempts => 1) u;
select awa.fail(job_id, receipt, 'e') from pg_temp.take(' home', 1) \g /dev/null
select pg_temp.step('to be sent') \g /dev/null

begin;
select plan(56);

create temp table told as
select j.n, awa.retry(job_id => j.id) as state
  from jobs j
 where j.n in ('failed', 'discarded', 'cancelled', 'retryable', 'snoozed', 'scheduled', 'dead');
select results_eq('select n, state from told order by n',
  $$values ('cancelled', 'cancelled'), ('dead', 'dead'), ('discarded', 'failed'), ('failed', 'failed'),
  ('retryable', 'retryable'), ('scheduled', 'scheduled'), ('snoozed', 'scheduled')$$,
  'retry returns the state that the job was in');
select is(
  (
    select jsonb_object_agg(n,
      jsonb_build_array(j.state, j.attempt, (select jsonb_agg(e ->> 'error') from jsonb_array_elements(j.errors) e),
        j.progress))
      from told t
      join jobs using (n), awa.job(jobs.id) j
  ),
  '{"failed": ["available", 0, ["first", "second"], null], "discarded": ["available", 0, ["first"], {"p": 1}],
    "cancelled": ["available", 0, ["cancelled"], null],
    "retryable": ["available", 1, ["first"], null], "snoozed": ["available", 0, null, null],
    "scheduled": ["available", 0, null, null], "dead": ["available", 0, ["first"], null]}',
  'each is available: ended ones with no attempts counted, and all with their errors and progress');
select is((select count(*) from told t join jobs using (n) join created using (id), awa.job(jobs.id) j
    where row(j.kind, j.queue, j.args, j.priority, j.max_attempts, j.tags, j.metadata, j.group_key)
        = row('k'::text, pg_temp.q(), to_jsonb(n), 3, 2, '{t}'::text[], '{"m": 1}'::jsonb, 'g'::text)
      and j.created_at = created.created_at
      and j.run_at between now() and clock_timestamp()
      and j.receipt is null
      and j.finalized_at is null
      and j.worker_id is null
      and j.attempted_at is null), 7::bigint, 'with all that they were, ready as of now');
select is((
  select count(*)
    from jobs
    join told using (n)
   where id in (select job_id from awa.done_entries union all select job_id from awa.deferred_jobs)
),
  0::bigint, 'nothing is left where they were');
select pg_temp.agrees('the books balance');
select is((select count(*) from awa.claim(pg_temp.q(), 100)), 1::bigint,
  'they are claimed when the caller has committed');

-- Served
select is((select array_agg(format('%s %s', args, attempt) order by place) from served), '{"1 1","3 1"}',
  'a committed one is, as a first attempt');
select is((
  select string_agg(j.state || ' ' || (select string_agg(e ->> 'error', '+') from jsonb_array_elements(j.errors) e),
    ', ' order by n)
    from again, awa.job(again.id) j
),
  'failed round 1+round 2, failed round 1, completed round 1', 'and has all errors that it ever had');
select is(awa.retry(id), 'failed', 'a job may be retried again') from again where n = 1;
select pg_temp.agrees('and the books balance then');

-- Jobs that cannot be retried
select pg_temp.refused(format('select awa.retry(%s)', id), 'JQ005', 'state', 'a job that is ' || n)
  from jobs
 where n in ('available', 'running', 'leased', 'completed', 'output')
 order by n;
select pg_temp.refused(format('select awa.retry(%s)', id), 'JQ005', 'state', 'nor one that was retried: ' || n)
  from jobs
 where n in ('failed', 'scheduled')
 order by n;

-- Unique keys
select pg_temp.refused(format('select awa.retry(%s)', job_id), '23505', 'unique key',
  'a job whose key another one holds by now')
  from keyed
 where n = 1;
select is((select j.state from keyed, awa.job(keyed.job_id) j where n = 1), 'failed', 'it stays as it is');
select awa.cancel(job_id) from keyed where n = 2 \g /dev/null
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select is(awa.retry(job_id), 'failed', 'when that one has ended, it runs') from keyed where n = 1;
select is((select u.job_id from keyed k join awa.unique_claims u using (job_id) where k.n = 1),
  (select job_id from keyed where n = 1), 'and holds its key again');
select pg_temp.refused(format('select awa.retry(%s)', job_id), '23505', 'unique key', 'so that the other one cannot')
  from keyed
 where n = 2;
select is(awa.retry(job_id), 'cancelled', 'a job that would not hold it while it waits runs all the same')
  from keyed
 where n = 3;
select is(awa.retry(job_id), 'scheduled', 'one ahead of its time') from keyed where n = 4;
select is((select count(*) from awa.unique_claims u join keyed k using (job_id) where k.n = 4), 1::bigint,
  'keeps its key');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select pg_temp.agrees('keys and all');
set constraints all deferred;

-- With the caller's transaction
savepoint business;
select awa.retry(id) from again where n = 2 \g /dev/null
rollback to business;
select is((select j.state from again, awa.job(again.id) j where n = 2), 'failed', 'a retry that rolls back never was');
create temp table own as
select awa.enqueue(pg_temp.q(' own'), 'k') as id,
       awa.enqueue(pg_temp.q(' own'), 'k', run_at => '2130-01-01') as later_id;
select is((select awa.retry(later_id) from own), 'scheduled', 'what the transaction itself has put off can be retried');
select is((select awa.cancel(id) || awa.cancel(later_id) from own), 'availableavailable', 'what it cancels');
select is(pg_temp.outcome(format('select awa.retry(%s)', id)), 'JQ005',
  'goes back to its place only when the transaction has committed')
  from own;
select is(pg_temp.states(' own'), 'cancelled 2', 'until then it is cancelled');
select awa.cancel(id) from jobs where n = 'available' \g /dev/null
select is(awa.retry(id), 'cancelled', 'what was there before can be cancelled and retried at once')
  from jobs
 where n = 'available';
select is((select j.state from jobs, awa.job(jobs.id) j where n = 'available'), 'available', 'and is available');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select pg_temp.agrees('the books balance after that');
set constraints all deferred;

-- Elsewhere, and later
select is((
  select array_agg(awa.retry(id,
             queue => case when n in (2, 4, 6) then pg_temp.q(' new') end,
             priority => case when n in (2, 3, 7) then 1 end,
             run_at => case when n in (3, 4, 5, 6) then timestamptz '2129-01-01' end) order by n)
    from sent
   where n > 1
),
  '{dead,dead,dead,scheduled,scheduled,scheduled}',
  'a job may be retried in another queue, with another priority, later');
select is(awa.retry(id, null, null, '2000-01-01'), 'dead', 'a time that has passed means now') from sent where n = 1;
select results_eq(format($$
  select s.n, case j.queue when %L then 'sent' when %L then 'new' end, j.state, j.priority,
         case when j.state = 'scheduled' then extract(year from j.run_at at time zone 'UTC')::int end
    from sent s, awa.job(s.id) j
   order by s.n$$, pg_temp.q(' sent'), pg_temp.q(' new')),
  $$values (1, 'sent', 'available', 3, null::int), (2, 'new', 'available', 1, null),
  (3, 'sent', 'scheduled', 1, 2129), (4, 'new', 'scheduled', 3, 2129),
  (5, 'sent', 'scheduled', 3, 2129), (6, 'new', 'scheduled', 3, 2129), (7, 'sent', 'available', 1, null)$$,
  'it goes there; what is not named stays');
select is((
  select array_agg(row(s.n, j.attempt, j.max_attempts, j.tags, j.metadata, j.group_key, j.expires_at is null,
             jsonb_array_length(j.errors)) order by s.n)::text
    from sent s, awa.job(s.id) j
   where s.n in (2, 4)
),
  '{"(2,0,2,{t},\"{\"\"m\"\": 1}\",g,f,1)","(4,0,2,{t},\"{\"\"m\"\": 1}\",g,t,1)"}',
  'with all that it was; an expires_at that will have passed is taken away');
select pg_temp.agrees('the counts of both queues agree');
select pg_temp.refused(format('select awa.retry(%s, %L)', job_id, pg_temp.q(' away')), '23505', 'unique key',
  'a job whose key in the other queue another one holds')
  from homes
 where n = 1;
select pg_temp.refused(format('select awa.retry(%s, %L)', job_id, pg_temp.q(' away')), '23505', 'unique key',
  'nor one that waits')
  from homes
 where n = 3;
select is(awa.retry(job_id, pg_temp.q(' home')), 'scheduled', 'one whose key there is free') from homes where n = 3;
select is((
  select count(*)
    from awa.unique_claims u
    join homes h using (job_id), awa.job(h.job_id) j
   where encode(u.key, 'hex') = j.unique_key
),
  2::bigint, 'has the key of that queue, and no other');
select pg_temp.refused(format('select awa.retry(%s)', job_id), '23505', 'unique key', 'which the first one can''t take')
  from homes
 where n = 1;
select is(awa.retry(job_id, pg_temp.q(' third'), run_at => '2130-01-01'), 'failed',
  'the first takes the one that is free')
  from homes
 where n = 1;
select pg_temp.agrees('keys and all, again');

-- Refusals
select pg_temp.refused('select awa.retry(null)', '22023', 'job_id', 'no job');
select pg_temp.refused(format('select awa.retry(%s)', id), 'JQ003', 'no such job', 'job ' || id)
  from unnest(array[0, -1, 9223372036854775807, -9223372036854775808]) with ordinality u(id, n)
 order by n;
select pg_temp.refused(format('select awa.retry(%s, queue => %L)', id, ''), '22023', 'queue', 'an empty queue')
  from again
 where n = 2;
select pg_temp.refused(format('select awa.retry(%s, priority => 5)', id), '22023', 'priority', 'priority 5')
  from again
 where n = 2;
select pg_temp.refused(format('select awa.retry(%s, run_at => %L)', id, 'infinity'), '22023', 'run_at', 'no such time')
  from again
 where n = 2;
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');
select pg_temp.steps_agree();

select * from finish();
rollback;
