-- Without this, a job that can never succeed would be tried again until its attempts are used up.
\set name discard
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
select awa.extend(job_id, receipt, '1 hour') from c where n = 4 \g /dev/null
select awa.set_progress(job_id, receipt, '{"p": 4}') from c where n = 4 \g /dev/null
select count(*)
  from awa.enqueue_many(:'queue' || ' dead', 'k', array(select to_jsonb(n) from generate_series(1, 3) n),
    1) \g /dev/null
select awa.configure_queue(:'queue' || ' dead', '{"dead_letter": true}') \g /dev/null
create temp table d as select * from pg_temp.take(' dead', 2);

-- A second attempt
select awa.enqueue(:'queue' || ' again', 'k') as again_id \gset
select awa.fail(job_id, receipt, 'first', '0') from pg_temp.take(' again', 1) \g /dev/null
select promoted from awa.promote_due() \g /dev/null
create temp table again as select * from pg_temp.take(' again', 1);

begin;
select plan(35);

create temp table told as
select awa.discard(job_id => c.job_id, receipt => c.receipt, error => 'never', details => '{"why": 1}') as state
  from c
 where n = 1;
select is((select state from told), 'failed', 'discard returns the state that followed');
select is(
  (
    select to_jsonb(j) - '{id,run_at,created_at,attempted_at,finalized_at,errors}'::text[]
      from c, awa.job(c.job_id) j
     where n = 1
  ),
  (
    select jsonb_build_object('kind', 'k', 'queue', pg_temp.q(), 'args', '{"n": 1}'::jsonb, 'state', 'failed',
      'priority', 3, 'attempt', 1, 'max_attempts', 5,
    'heartbeat_at', null, 'deadline_at', null, 'metadata', '{"m": 1}'::jsonb,
    'group_key', 'g', 'expires_at', null, 'tags', '["t"]'::jsonb, 'unique_key',
    null,
    'receipt', receipt, 'progress', null, 'output', null, 'worker_id', :worker_id)
      from c
     where n = 1), 'the job failed in its first attempt, whatever are left');
select is((select jsonb_agg(e - 'at') from c, awa.job(c.job_id) j, jsonb_array_elements(j.errors) e where n = 1),
  '[{"attempt": 1, "error": "never", "details": {"why": 1}}]', 'with its error');
select ok((
  select j.finalized_at between now() and clock_timestamp()
    and j.attempted_at < j.finalized_at
    and j.created_at < j.attempted_at
    from c, awa.job(c.job_id) j
   where n = 1
),
  'as of now');
select is((select awa.discard(job_id, receipt, 'never', null) from s where n = 1), 'failed',
  'a claim of one job, and an explicit null for details');
select is((select jsonb_agg(e - 'at') from s, awa.job(s.job_id) j, jsonb_array_elements(j.errors) e where n = 1),
  '[{"attempt": 1, "error": "never"}]', 'no details, none shown');
select pg_temp.agrees('each is in one state');

-- An attempt with a row of its own
select is((select awa.discard(job_id, receipt, 'never') from c where n = 4), 'failed',
  'an attempt that lasted is no different');
select is((
  select row(j.state, j.attempt, j.progress, j.receipt = c.receipt, j.worker_id)::text
    from c, awa.job(c.job_id) j
   where n = 4
),
  format('(failed,1,"{""p"": 4}",t,%s)', :worker_id), 'its progress is kept');
select is((select count(*) from awa.leases l join c using (receipt)), 0::bigint, 'its lease row goes');

-- Dead letters
select is((select awa.discard(job_id, receipt, 'never') from d where n = 1), 'dead',
  'where the queue keeps dead letters, the job is dead');
select is(
  (
    select to_jsonb(j) - '{id,run_at,created_at,attempted_at,finalized_at,errors}'::text[]
      from d, awa.job(d.job_id) j
     where n = 1
  ),
  (
    select jsonb_build_object('kind', 'k', 'queue', pg_temp.q(' dead'), 'args', 1, 'state', 'dead', 'priority', 1,
      'attempt', 1, 'max_attempts', 25,
    'heartbeat_at', null, 'deadline_at', null, 'metadata', null,
    'group_key', null, 'expires_at', null, 'tags', null, 'unique_key', null,
    'receipt', receipt, 'progress', null, 'output', null, 'worker_id', null)
      from d
     where n = 1), 'with all that it was');
select is((select e.reason from d join awa.dlq_entries e using (job_id) where n = 1), 'discarded',
  'because it was discarded');
select pg_temp.agrees('dead ones count as dead');

-- History
select is((select awa.discard(job_id, receipt, 'second') from again), 'failed', 'a later attempt');
select is((select jsonb_agg(e - 'at') from awa.job(:again_id) j, jsonb_array_elements(j.errors) e),
  '[{"attempt": 1, "error": "first"}, {"attempt": 2, "error": "second"}]', 'keeps the errors of those before');
select is(pg_temp.states(), 'available 2, failed 3, running 7', 'the others of its claim run on');

-- Refusals
savepoint business;
select awa.discard(job_id, receipt, 'e') from c where n = 2 \g /dev/null
rollback to business;
select is((select j.state from c, awa.job(c.job_id) j where n = 2), 'running', 'one that rolls back never was');
select pg_temp.refused(format('select awa.discard(%s, %s, %L)', job_id, receipt, 'e'), 'JQ001', 'stale',
  format('discarded before, item %s', n))
  from c
 where n in (1, 4)
 order by n;
select pg_temp.refused(format('select awa.discard(%s, %s, %L)', job_id, receipt, 'e'), 'JQ001', 'stale',
  'discarded before, a claim of one')
  from s
 where n = 1;
select pg_temp.refused(format('select awa.discard(%s, %s, %L)', job_id, receipt, 'e'), 'JQ001', 'stale', 'dead before')
  from d
 where n = 1;
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'nor can it be completed then')
  from c
 where n = 1;
select awa.complete(job_id, receipt) from c where n = 3 \g /dev/null
select pg_temp.refused(format('select awa.discard(%s, %s, %L)', job_id, receipt, 'e'), 'JQ001', 'stale',
  'completed before')
  from c
 where n = 3;
select pg_temp.refused(format('select awa.discard(%s, %s, %L)', a.job_id, x.receipt, 'e'), 'JQ001', 'stale',
  'the receipt of another job')
  from c a, c x
 where a.n = 5 and x.n = 6;
select pg_temp.refused(format('select awa.discard(%s, %s, %L)', c.job_id, r.receipt, 'e'), 'JQ001', 'stale',
  'receipt ' || r.receipt)
  from c,
    (values (1, 0::bigint), (2, -1), (3, 9223372036854775807), (4, -9223372036854775808),
      (5, 7654321987654321)) r(n, receipt)
 where c.n = 5
 order by r.n;
create temp table v as select job_id as j, receipt as r from c where n = 5;
select pg_temp.refused(format(x.call, v.j, v.r), '22023', x.names, x.description)
  from v, (values
    (1, $$select awa.discard(null, %2$s, 'e')$$, 'job_id', 'no job'),
    (2, $$select awa.discard(%1$s, null, 'e')$$, 'receipt', 'no receipt'),
    (3, $$select awa.discard(%1$s, %2$s, null)$$, 'error', 'no error')
  ) x(n, call, names, description)
 order by x.n;
select is((select j.state from c, awa.job(c.job_id) j where n = 5), 'running', 'none of this ended the attempt');
select pg_temp.agrees('and the books balance');

select * from finish();
rollback;
