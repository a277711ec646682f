-- Without this, a job that should run at another time would have to be cancelled and enqueued anew, under another id.
\set name reschedule
\ir ../prelude.psql

create temp table jobs as
select n, awa.enqueue(pg_temp.q(), 'k', to_jsonb(n), 3, null, 5, '{t}', '{"m": 1}') as id
  from unnest(
    array['running', 'leased', 'retryable', 'snoozed', 'completed', 'failed', 'released', 'promoted']
  ) with ordinality u(n, place)
 order by place;
create temp table c as select j.n, t.job_id, t.receipt from awa.claim(:'queue', 100) t join jobs j on j.id = t.job_id;
select awa.extend(job_id, receipt, '1 hour') from c where n = 'leased' \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 day') from c where n = 'retryable' \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 day') from c where n = 'promoted' \g /dev/null
select awa.retry(job_id) from c where n = 'promoted' \g /dev/null
select awa.snooze(job_id, receipt, '1 day') from c where n = 'snoozed' \g /dev/null
select awa.complete(job_id, receipt) from c where n = 'completed' \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n = 'failed' \g /dev/null
select awa.release(job_id, receipt) from c where n = 'released' \g /dev/null
insert into jobs
select n,
       awa.enqueue(:'queue', 'k', to_jsonb(n), 3, case when n like 'scheduled%' then timestamptz '2130-01-01' end, 5,
         '{t}', '{"m": 1}')
  from unnest(array['available', 'scheduled', 'scheduled now', 'cancelled', 'same', 'other args', 'undone']) n;
select awa.cancel(id) from jobs where n = 'cancelled' \g /dev/null
select job_id as keyed_id from awa.enqueue_unique(:'queue', 'k', '{"a": 1}', unique_by => '{args}') \gset
select job_id as daily_id
  from awa.enqueue_unique(:'queue', 'k', unique_key => 'reschedule', unique_period => '1 day',
    run_at => '2131-01-01 12:00+00') \gset
create temp table before as select j.id, to_jsonb(j) as job from awa.jobs j where j.queue = :'queue';
select pg_temp.step('setup') \g /dev/null

-- Committed ones, after which the queue is served
create temp table order_jobs as
select n, awa.enqueue(pg_temp.q(' order'), 'k', to_jsonb(n), run_at => case n when 5 then timestamptz '2130-01-01' end)
       as id
  from generate_series(1, 6) n;
select awa.reschedule(id, now(), case n when 2 then '"other"'::jsonb end)
  from order_jobs
 where n in (1, 2, 5)
 order by n \g /dev/null
select pg_temp.step('changed') \g /dev/null
select awa.reschedule(id, '2130-01-01') from order_jobs where n = 4 \g /dev/null
select pg_temp.step('deferred') \g /dev/null
select awa.reschedule(id, now()) from order_jobs where n = 4 \g /dev/null
select pg_temp.step('and back') \g /dev/null
create temp table served as select t.* from awa.claim(:'queue' || ' order', 10) with ordinality t;
select pg_temp.step('served') \g /dev/null

begin;
select plan(43);

-- To another time
create temp table told as
select j.n, awa.reschedule(job_id => j.id, run_at => '2131-02-03 04:05+00', args => null) as state
  from jobs j
 where j.n in ('snoozed', 'scheduled', 'available', 'released');
select results_eq('select n, state from told order by n',
  $$values ('available', 'available'), ('released', 'available'), ('scheduled', 'scheduled'),
  ('snoozed', 'scheduled')$$, 'reschedule returns the state that the job was in');
select is((
  select count(*)
    from told t
    join jobs using (n)
    join before b using (id), awa.job(jobs.id) j
   where to_jsonb(j) - 'attempted_at' = b.job - 'attempted_at' || jsonb_build_object('state', 'scheduled',
     'run_at', timestamptz '2131-02-03 04:05+00')
),
  4::bigint, 'nothing but the time, and the state, changes');
select is((select count(*) from before b, awa.job(b.id) j where to_jsonb(j) = b.job), 13::bigint,
  'other jobs stay as they are');
select pg_temp.agrees('the books balance');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select pg_temp.agrees('also when it is decided');
set constraints all deferred;

-- Now
select is(awa.reschedule(id, now() - interval '1 day'), 'available', 'now, for a job that is available, is no change')
  from jobs
 where n = 'same';
select is((select to_jsonb(j) from jobs, awa.job(jobs.id) j where n = 'same'),
  (select job from before join jobs using (id) where n = 'same'), 'at all');
select is(awa.reschedule(id, '-infinity'), 'scheduled', 'a scheduled one') from jobs where n = 'scheduled now';
select is((select j.state from jobs, awa.job(jobs.id) j where n = 'scheduled now'), 'available', 'is ready at once');
select ok((select j.run_at between now() and clock_timestamp() from jobs, awa.job(jobs.id) j where n = 'scheduled now'),
  'since now');

-- Other args
select is(awa.reschedule(id, now(), '{"other": "args"}'), 'available', 'with other args')
  from jobs
 where n = 'other args';
select is((select j.args from jobs, awa.job(jobs.id) j where n = 'other args'), '{"other": "args"}',
  'an available job has them');
select is(awa.reschedule(id, '2131-02-03 04:05+00', repeat('"x"', 1)::jsonb), 'scheduled', 'again')
  from jobs
 where n = 'scheduled';
select is((select j.args from jobs, awa.job(jobs.id) j where n = 'scheduled'), '"x"', 'a scheduled one, too');
select is((
  select array_agg(d.body_bytes order by d.body_bytes)
    from awa.deferred_jobs d
    join jobs on jobs.id = d.job_id
   where n in ('scheduled', 'available')
),
  array[15, 23], 'the bytes of its body are those of its new args');
select pg_temp.agrees('the books balance after that');

select is((select array_agg(args order by ordinality) from served),
  array['1', '3', '6', '"other"', '5', '4']::jsonb[], 'a job gets a new place at the end, or keeps its own');
select is((
  select count(*)
    from awa.complete_many((select array_agg(job_id) from served), (select array_agg(receipt) from served))
),
  0::bigint, 'receipts are good');

-- Unique keys
select pg_temp.refused(format($$select awa.reschedule(%s, '2131-01-01', '{"a": 2}')$$, :keyed_id), '22023', 'args',
  'other args than those that its key is made of');
select is(awa.reschedule(:daily_id, '2131-06-01 12:00+00', '{"a": 2}'), 'scheduled',
  'a job with a key that is a text gets other args');
select is((select u.job_id from awa.enqueue_unique(:'queue', 'k', unique_key => 'reschedule', unique_period => '1 day',
  run_at => '2131-01-01 13:00+00') u), :daily_id::bigint, 'it keeps the key of its period');
select is((select u.inserted from awa.enqueue_unique(:'queue', 'k', unique_key => 'reschedule',
  unique_period => '1 day', run_at => '2131-06-01 13:00+00') u), true, 'and does not take that of another one');

-- Wrong state
select pg_temp.refused(format($$select awa.reschedule(%s, '2131-01-01')$$, id), 'JQ005', 'state', 'a job that is ' || n)
  from jobs
 where n in ('running', 'leased', 'completed', 'failed', 'cancelled', 'retryable', 'promoted')
 order by n;

-- With the caller's transaction
savepoint business;
create temp table own as select awa.enqueue(pg_temp.q(' own'), 'k', '"own"') as id;
select is(awa.reschedule(id, '2131-01-01'), 'available', 'what the transaction itself enqueued can be rescheduled')
  from own;
select is((select string_agg(j.state, ' ') from own, awa.jobs j where j.id = own.id), 'scheduled', 'and is there once');
rollback to business;
select is((select count(*) from awa.queues q where q.name = pg_temp.q(' own')), 0::bigint, 'or never was');

-- Refusals
select pg_temp.refused(format('select awa.reschedule(%s, %s)', :keyed_id, c.run_at), '22023', 'run_at', c.description)
  from (values (1, 'null', 'no time'), (2, $$'infinity'$$, 'a time that never comes'),
    (3, $$'9999-12-31 10:00+00'$$, 'a time that is too late')) c(n, run_at, description)
 order by c.n;
select pg_temp.refused(format('select awa.reschedule(%s, now(), %L)', :keyed_id, repeat('[', 501) || repeat(']', 501)),
  '22023', 'args', 'args that are nested too deep');
select pg_temp.refused('select awa.reschedule(null, now())', '22023', 'job_id', 'no job');
select pg_temp.refused(format('select awa.reschedule(%s, now())', id), 'JQ003', 'no such job', 'job ' || id)
  from unnest(array[0, -1, 9223372036854775807, -9223372036854775808]) with ordinality u(id, n)
 order by n;
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');
select pg_temp.steps_agree();

select * from finish();
rollback;
