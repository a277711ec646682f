-- Without this, a failure could lose the job, run it again at once and for ever, or forget why it failed.
\set name fail
\ir ../prelude.psql

select count(*)
  from awa.enqueue_many(:'queue', 'k',
    array(select jsonb_build_object('n', n) from generate_series(1, 20) n), 3, null, 5, '{t}', '{"m": 1}',
    'g') \g /dev/null
create temp table c as select * from pg_temp.take('', 16);
create temp table s as select * from pg_temp.take('', 2, one_claim => false);
select count(*)
  from awa.enqueue_many(:'queue' || ' once', 'k', array_fill('{}'::jsonb, array[2]), max_attempts => 1) \g /dev/null
create temp table once as select * from pg_temp.take(' once', 2);
select count(*) from awa.enqueue_many(:'queue' || ' set', 'k', array_fill('{}'::jsonb, array[3])) \g /dev/null
create temp table set_claim as select * from pg_temp.take(' set', 3);

select count(*)
  from awa.enqueue_many(:'queue' || ' dead', 'k', array(select to_jsonb(n) from generate_series(1, 2) n),
    1, null, 1, '{t}', '{"m": 1}', 'g') \g /dev/null
select awa.configure_queue(:'queue' || ' dead', '{"dead_letter": true}') \g /dev/null
create temp table d as select * from pg_temp.take(' dead', 2);
select awa.set_progress(job_id, receipt, '0.5') from c where n = 11 \g /dev/null
select awa.set_progress(job_id, receipt, '0.5') from d where n = 2 \g /dev/null

-- A job that fails again and again: what each attempt waits for, and what became of it. No test waits here: its time is
-- moved.
create temp table rounds (attempt int, state text, delay float8, took float8, errors int, history jsonb,
  claimed_attempt int, run_at timestamptz, attempted_at timestamptz);
select awa.enqueue(:'queue' || ' again', 'k', max_attempts => 20) as again_id \gset
select set_config('test.again', :'again_id', false) \g /dev/null
do $$
declare
  v_claim record;
  v_state text;
  v_began timestamptz;
begin
  for n in 1..20 loop
    select * into v_claim from awa.claim(pg_temp.q(' again'));
    v_began := clock_timestamp();
    v_state := awa.fail(v_claim.job_id, v_claim.receipt, 'error ' || n,
      details => case when n % 2 = 0 then to_jsonb(n) end);
    insert into rounds
    select j.attempt, v_state, extract(epoch from j.run_at - v_began), extract(epoch from clock_timestamp() - v_began),
           jsonb_array_length(j.errors), j.errors, v_claim.attempt, j.run_at, j.attempted_at
      from awa.job(v_claim.job_id) j;
    update awa.deferred_jobs d set run_at = clock_timestamp() where d.job_id = v_claim.job_id;
    commit;
    perform awa.promote_due();
    commit;
  end loop;
end
$$;

begin;
select plan(83);

-- A first failure
create temp table told as
select awa.fail(job_id => c.job_id, receipt => c.receipt, error => 'it broke') as state
  from c
 where n = 1;
select is((select state from told), 'retryable', 'a failed attempt that leaves others makes the job retryable');
select is(
  (select to_jsonb(j) - '{id,run_at,created_at,attempted_at,errors}'::text[] from c, awa.job(c.job_id) j where n = 1),
  jsonb_build_object('kind', 'k', 'queue', pg_temp.q(), 'args', '{"n": 1}'::jsonb, 'state', 'retryable', 'priority', 3,
    'attempt', 1, 'max_attempts', 5,
    'heartbeat_at', null, 'deadline_at', null, 'finalized_at', null, 'metadata', '{"m": 1}'::jsonb,
    'group_key', 'g', 'expires_at', null, 'tags',
    '["t"]'::jsonb, 'unique_key', null,
    'receipt', null, 'progress', null, 'output', null, 'worker_id', null), 'with all that it was');
select is((
  select jsonb_array_length(j.errors) || ' ' || (j.errors -> 0 ->> 'attempt') || ' ' || (j.errors -> 0 ->> 'error')
    from c, awa.job(c.job_id) j
   where n = 1
),
  '1 1 it broke', 'it tells the error');
select ok((
  select (j.errors -> 0 ->> 'at')::timestamptz between now() and clock_timestamp()
    and j.attempted_at < now()
    and j.created_at < j.attempted_at
    from c, awa.job(c.job_id) j
   where n = 1
),
  'and when');
select ok((
  select extract(epoch from j.run_at - (j.errors -> 0 ->> 'at')::timestamptz) between 1.99 and 2.5001
    from c, awa.job(c.job_id) j
   where n = 1
),
  'it waits 2 to 2.5 seconds');
select is(pg_temp.states(), 'available 2, retryable 1, running 17', 'the others of its claim run on');
select awa.fail(job_id, receipt, 'with details', null, '{"stack": ["a"]}') from c where n = 2 \g /dev/null
select is((select j.errors -> 0 -> 'details' from c, awa.job(c.job_id) j where n = 2), '{"stack": ["a"]}'::jsonb,
  'details are kept');
select ok((
  select extract(epoch from j.run_at - (j.errors -> 0 ->> 'at')::timestamptz) between 1.99 and 2.5001
    from c, awa.job(c.job_id) j
   where n = 2
),
  'an explicit null for retry_after means the backoff');
select ok((select not (j.errors -> 0) ? 'details' from c, awa.job(c.job_id) j where n = 1), 'no details, none shown');
select awa.fail(job_id, receipt, '', details => 'null') from c where n = 9 \g /dev/null
select is((select j.errors -> 0 ->> 'error' from c, awa.job(c.job_id) j where n = 9), '', 'an error may be empty');

-- A delay that the caller names
select is(awa.fail(job_id, receipt, 'e', retry_after => '90 minutes'), 'retryable', 'a delay of the caller''s')
  from c
 where n = 3;
select ok((
  select j.run_at - (
    j.errors -> 0 ->> 'at'
  )::timestamptz between interval '89 minutes 59.9 seconds' and interval '90 minutes 1 second'
    from c, awa.job(c.job_id) j
   where n = 3
),
  'is kept to');
select is(awa.fail(job_id, receipt, 'e', '0'), 'retryable', 'no delay') from c where n = 4;
select ok((select j.run_at <= clock_timestamp() and j.state = 'retryable' from c, awa.job(c.job_id) j where n = 4),
  'makes the job due at once');
select is(awa.fail(job_id, receipt, 'e', '3 years'), 'retryable', 'a delay of years') from c where n = 5;
select ok((select j.run_at > now() + interval '2 years 11 months' from c, awa.job(c.job_id) j where n = 5),
  'is above the ceiling of the backoff, and the caller''s to choose');
select is(awa.fail(job_id, receipt, 'e'), 'retryable', 'a claim of one job') from s where n = 1;
select is((select j.state || j.attempt || jsonb_array_length(j.errors) from s, awa.job(s.job_id) j where n = 1),
  'retryable11', 'is no different');

-- Settings of the queue
select awa.configure_queue(pg_temp.q(' set'), '{"backoff_base": "10 seconds"}') \g /dev/null
select awa.fail(job_id, receipt, 'e') from set_claim where n = 1 \g /dev/null
select ok((
  select j.run_at between now() + interval '20 seconds' and clock_timestamp() + interval '25 seconds'
    from set_claim c, awa.job(c.job_id) j
   where n = 1
),
  'backoff_base of the queue');
select awa.configure_queue(pg_temp.q(' set'), '{"backoff_max": "7 seconds"}') \g /dev/null
select awa.fail(job_id, receipt, 'e') from set_claim where n = 2 \g /dev/null
select ok((
  select j.run_at between now() + interval '7 seconds' and clock_timestamp() + interval '7 seconds'
    from set_claim c, awa.job(c.job_id) j
   where n = 2
),
  'backoff_max of the queue');
select awa.fail(job_id, receipt, 'e', '1 hour') from set_claim where n = 3 \g /dev/null
select ok((select j.run_at > now() + interval '59 minutes' from set_claim c, awa.job(c.job_id) j where n = 3),
  'neither binds a delay of the caller''s');

-- Again and again
select is((select array_agg(claimed_attempt order by attempt) from rounds), array(select generate_series(1, 20)),
  'every attempt has its number');
select is((select array_agg(attempt order by attempt) from rounds), array(select generate_series(1, 20)),
  'which the job shows');
select is((select array_agg(errors order by attempt) from rounds), array(select generate_series(1, 20)),
  'and an error of its own');
select is((select string_agg(distinct state, ' ') from rounds where attempt < 20), 'retryable',
  'the job is retryable until its last attempt');
select is((select state from rounds where attempt = 20), 'failed', 'which ends it');
select ok(delay between 2 ^ attempt and 2 ^ attempt * 1.25 + took,
  format('attempt %s waits 2^%1$s seconds, and up to a quarter more: %s', attempt, delay))
  from rounds
 where attempt <= 16
 order by attempt;
select ok(delay between 86400 and 86400 + took, format('attempt %s waits 24 hours, the ceiling: %s', attempt, delay))
  from rounds
 where attempt between 17 and 19
 order by attempt;
select is((select count(distinct delay / 2 ^ attempt) > 8 from rounds where attempt <= 16), true,
  'the quarter is random');
select is(
  (
    select array_agg((e ->> 'attempt') || (e ->> 'error') || coalesce(e ->> 'details', '') order by n)
      from rounds, jsonb_array_elements(history) with ordinality x(e, n)
     where attempt = 20
  ),
  array(select n || 'error ' || n || case when n % 2 = 0 then n::text else '' end from generate_series(1, 20) n),
  'the history of errors is complete, oldest first');
select is(
  (
    select row(j.state, j.attempt, j.max_attempts, j.finalized_at is not null, j.attempted_at < j.finalized_at,
      j.created_at < j.attempted_at, j.receipt is not null, jsonb_array_length(j.errors))::text
      from awa.job(:again_id) j
  ),
  '(failed,20,20,t,t,t,t,20)', 'a failed job tells all that');
select is((select count(*) from awa.jobs_compat() j where j.id = :again_id), 1::bigint,
  'once, whatever attempts it had');
select is((select count(*) from awa.done_entries d where d.job_id = :again_id and d.state = 'failed'), 1::bigint,
  'from its row among the ended jobs');
select is((select count(*) from awa.claim(pg_temp.q(' again'))), 0::bigint, 'and never runs again');

-- The last attempt
select is(awa.fail(job_id, receipt, 'only one', '1 hour'), 'failed',
  'a last attempt fails the job, whatever delay is named')
  from once
 where n = 1;
select is(
  (
    select to_jsonb(j) - '{id,run_at,created_at,attempted_at,finalized_at,errors,receipt}'::text[]
      from once c, awa.job(c.job_id) j
     where n = 1
  ),
  jsonb_build_object('kind', 'k', 'queue', pg_temp.q(' once'), 'args', '{}'::jsonb, 'state', 'failed', 'priority', 2,
    'attempt', 1, 'max_attempts', 1,
    'heartbeat_at', null, 'deadline_at', null, 'metadata', null,
    'group_key', null, 'expires_at', null, 'tags', null, 'unique_key', null, 'progress', null,
    'output', null, 'worker_id', null), 'which is as it was');

-- Dead letters
select is(awa.fail(job_id, receipt, 'only one'), 'dead',
  'a last attempt makes a dead letter, where the queue keeps them')
  from d
 where n = 1;
select is(
  (
    select to_jsonb(j) - '{id,run_at,created_at,attempted_at,finalized_at,errors}'::text[]
      from d, awa.job(d.job_id) j
     where n = 1
  ),
  (
    select jsonb_build_object('kind', 'k', 'queue', pg_temp.q(' dead'), 'args', 1, 'state', 'dead', 'priority', 1,
      'attempt', 1, 'max_attempts', 1,
    'heartbeat_at', null, 'deadline_at', null, 'metadata', '{"m": 1}'::jsonb,
    'group_key', 'g', 'expires_at', null, 'tags', '["t"]'::jsonb, 'unique_key',
    null, 'receipt', receipt, 'progress', null, 'output', null, 'worker_id', null)
      from d
     where n = 1), 'which is as it was');
select is((select e.reason from d join awa.dlq_entries e using (job_id)), 'attempts used up', 'and says why');
select is(awa.fail(job_id, receipt, 'only one'), 'dead', 'an attempt that lasted is no different') from d where n = 2;
select is((select j.progress from d, awa.job(d.job_id) j where n = 2), '0.5'::jsonb, 'its progress is kept');
select is(awa.fail(job_id, receipt, 'e'), 'retryable', 'also when others are left') from c where n = 11;
select is((
  select row(j.progress, j.attempt, (select count(*) from awa.leases l where l.job_id = j.id))::text
    from c, awa.job(c.job_id) j
   where n = 11
),
  '(0.5,1,0)', 'and its row goes');
select pg_temp.agrees('each is in one state');

-- Refusals, and what is stale
savepoint business;
select awa.fail(job_id, receipt, 'e') from c where n = 6 \g /dev/null
rollback to business;
select is((select j.state from c, awa.job(c.job_id) j where n = 6), 'running', 'a failure that rolls back never was');
select pg_temp.refused(format('select awa.fail(%s, %s, %L)', job_id, receipt, 'again'), 'JQ001', 'stale',
  format('failed before, item %s', n))
  from c
 where n in (1, 4)
 order by n;
select pg_temp.refused(format('select awa.fail(%s, %s, %L)', job_id, receipt, 'again'), 'JQ001', 'stale',
  'failed before, a claim of one')
  from s
 where n = 1;
select pg_temp.refused(format('select awa.fail(%s, %s, %L)', job_id, receipt, 'again'), 'JQ001', 'stale',
  'failed for good before')
  from once
 where n = 1;
select pg_temp.refused(format('select awa.fail(%s, %s, %L)', job_id, receipt, 'again'), 'JQ001', 'stale', 'dead before')
  from d
 order by n;
select pg_temp.refused(format('select awa.fail(%s, %s, %L)', job_id, receipt, 'again'), 'JQ001', 'stale',
  'failed from its row')
  from c
 where n = 11;
select awa.complete(job_id, receipt) from c where n = 7 \g /dev/null
select pg_temp.refused(format('select awa.fail(%s, %s, %L)', job_id, receipt, 'e'), 'JQ001', 'stale',
  'completed before')
  from c
 where n = 7;
select pg_temp.refused(format('select awa.fail(%s, %s, %L)', a.job_id, x.receipt, 'e'), 'JQ001', 'stale',
  'the receipt of another job')
  from c a, c x
 where a.n = 8 and x.n = 10;
select pg_temp.refused(format('select awa.fail(%s, %s, %L)', c.job_id, r.receipt, 'e'), 'JQ001', 'stale',
  'receipt ' || r.receipt)
  from c,
    (values (1, 0::bigint), (2, -1), (3, 9223372036854775807), (4, -9223372036854775808),
      (5, 7654321987654321)) r(n, receipt)
 where c.n = 8
 order by r.n;
create temp table v as select job_id as j, receipt as r from c where n = 8;
select pg_temp.refused(format(c.call, v.j, v.r), '22023', c.names, c.description)
  from v, (values
    (1, $$select awa.fail(null, %2$s, 'e')$$, 'job_id', 'no job'),
    (2, $$select awa.fail(%1$s, null, 'e')$$, 'receipt', 'no receipt'),
    (3, $$select awa.fail(%1$s, %2$s, null)$$, 'error', 'no error'),
    (4, $$select awa.fail(%1$s, %2$s, 'e', '-1 second')$$, 'retry_after', 'a delay below none'),
    (5, $$select awa.fail(%1$s, %2$s, 'e', '100000 years')$$, 'retry_after', 'a delay for ever'),
    (6, $$select awa.fail(%1$s, %2$s, 'e', details => pg_temp.nested(501))$$, 'details', 'details nested 501 deep')
  ) c(n, call, names, description)
 order by c.n;
select is((select j.state from c, awa.job(c.job_id) j where n = 8), 'running', 'none of this ended the attempt');

select * from finish();
rollback;
