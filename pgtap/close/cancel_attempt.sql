-- Without this, a handler that finds its job to be off would have to call that a success, or a failure.
\set name cancel_attempt
\ir ../prelude.psql

select awa.register_worker(:'queue') as worker_id \gset
select count(*)
  from awa.enqueue_many(:'queue', 'k',
    array(select jsonb_build_object('n', n) from generate_series(1, 12) n), 3, null, 5, '{t}', '{"m": 1}',
    'g') \g /dev/null
create temp table c as
select row_number() over (order by t.receipt)::int as n, t.job_id, t.receipt
  from awa.claim(:'queue', 8, :worker_id) t;
create temp table s as select * from pg_temp.take('', 2, one_claim => false);
select awa.set_progress(job_id, receipt, '{"p": 4}') from c where n = 4 \g /dev/null
select awa.enqueue(:'queue' || ' again', 'k') as again_id \gset
select awa.fail(job_id, receipt, 'first', '0') from pg_temp.take(' again', 1) \g /dev/null
select promoted from awa.promote_due() \g /dev/null
create temp table again as select * from pg_temp.take(' again', 1);

begin;
select plan(29);

create temp table told as
select awa.cancel_attempt(job_id => c.job_id, receipt => c.receipt, reason => 'no need')::text as answer
  from c
 where n = 1;
select is((select answer from told), '', 'cancel_attempt returns nothing');
select is(
  (
    select to_jsonb(j) - '{id,run_at,created_at,attempted_at,finalized_at,errors}'::text[]
      from c, awa.job(c.job_id) j
     where n = 1
  ),
  (
    select jsonb_build_object('kind', 'k', 'queue', pg_temp.q(), 'args', '{"n": 1}'::jsonb, 'state', 'cancelled',
      'priority', 3, 'attempt', 1, 'max_attempts', 5,
    'heartbeat_at', null, 'deadline_at', null, 'metadata', '{"m": 1}'::jsonb,
    'group_key', 'g', 'expires_at', null, 'tags', '["t"]'::jsonb, 'unique_key',
    null,
    'receipt', receipt, 'progress', null, 'output', null, 'worker_id', :worker_id)
      from c
     where n = 1), 'the job is cancelled, in the attempt that it was in');
select is((select jsonb_agg(e - 'at') from c, awa.job(c.job_id) j, jsonb_array_elements(j.errors) e where n = 1),
  jsonb_build_array(jsonb_build_object('attempt', 1, 'error', 'no need', 'by', session_user)),
  'with the reason, and who said so');
select ok((
  select j.finalized_at between now() and clock_timestamp()
    and j.attempted_at < j.finalized_at
    and j.created_at < j.attempted_at
    from c, awa.job(c.job_id) j
   where n = 1
),
  'as of now');
select awa.cancel_attempt(job_id, receipt) from s where n = 1 \g /dev/null
select is((select row(j.state, j.errors -> -1 ->> 'error')::text from s, awa.job(s.job_id) j where n = 1),
  '(cancelled,cancelled)', 'a claim of one job, and no reason');
select awa.cancel_attempt(job_id, receipt, null) from c where n = 2 \g /dev/null
select is((select row(j.state, j.errors -> -1 ->> 'error')::text from c, awa.job(c.job_id) j where n = 2),
  '(cancelled,cancelled)', 'an explicit null is none');
select awa.cancel_attempt(job_id, receipt, repeat('ü', 30000)) from c where n = 7 \g /dev/null
select is((select char_length(j.errors -> -1 ->> 'error') from c, awa.job(c.job_id) j where n = 7), 20000,
  'a long reason is kept in part');
select awa.cancel_attempt(job_id, receipt) from c where n = 4 \g /dev/null
select is((
  select row(j.state, j.attempt, j.progress, j.receipt = c.receipt, j.worker_id)::text
    from c, awa.job(c.job_id) j
   where n = 4
),
  format('(cancelled,1,"{""p"": 4}",t,%s)', :worker_id),
  'an attempt that lasted is no different; its progress is kept');
select is((select count(*) from awa.leases l join c using (receipt)), 0::bigint, 'its lease row goes');
select is((select count(*) from awa.heartbeat(:worker_id)), 0::bigint, 'the worker decided it, so nobody tells it');
select awa.cancel_attempt(job_id, receipt, 'second') from again \g /dev/null
select is((select jsonb_agg(e - 'at' - 'by') from awa.job(:again_id) j, jsonb_array_elements(j.errors) e),
  '[{"attempt": 1, "error": "first"}, {"attempt": 2, "error": "second"}]',
  'a later attempt keeps the errors of those before');
select is(pg_temp.states(), 'available 2, cancelled 5, running 5', 'the others of its claim run on');
select pg_temp.agrees('each is in one state');

-- Refusals
savepoint business;
select awa.cancel_attempt(job_id, receipt) from c where n = 3 \g /dev/null
rollback to business;
select is((select j.state from c, awa.job(c.job_id) j where n = 3), 'running', 'one that rolls back never was');
select pg_temp.refused(format('select awa.cancel_attempt(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  format('cancelled before, item %s', n))
  from c
 where n in (1, 4)
 order by n;
select pg_temp.refused(format('select awa.cancel_attempt(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'cancelled before, a claim of one')
  from s
 where n = 1;
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'nor can it be completed then')
  from c
 where n = 1;
select awa.complete(job_id, receipt) from c where n = 3 \g /dev/null
select pg_temp.refused(format('select awa.cancel_attempt(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'completed before')
  from c
 where n = 3;
select pg_temp.refused(format('select awa.cancel_attempt(%s, %s)', a.job_id, x.receipt), 'JQ001', 'stale',
  'the receipt of another job')
  from c a, c x
 where a.n = 5 and x.n = 6;
select pg_temp.refused(format('select awa.cancel_attempt(%s, %s)', c.job_id, r.receipt), 'JQ001', 'stale',
  'receipt ' || r.receipt)
  from c,
    (values (1, 0::bigint), (2, -1), (3, 9223372036854775807), (4, -9223372036854775808),
      (5, 7654321987654321)) r(n, receipt)
 where c.n = 5
 order by r.n;
select pg_temp.refused(format('select awa.cancel_attempt(null, %s)', receipt), '22023', 'job_id', 'no job')
  from c
 where n = 5;
select pg_temp.refused(format('select awa.cancel_attempt(%s, null)', job_id), '22023', 'receipt', 'no receipt')
  from c
 where n = 5;
select is((select j.state from c, awa.job(c.job_id) j where n = 5), 'running', 'none of this ended the attempt');
select pg_temp.agrees('and the books balance');

select * from finish();
rollback;
