-- Without this, an effect could happen twice: a worker that lost its job would complete it all the same, and commit.
\set name complete
\ir ../prelude.psql

select count(*)
  from awa.enqueue_many(:'queue', 'k',
    array(select jsonb_build_object('n', n) from generate_series(1, 12) n), tags => '{t}',
    metadata => '{"m": 1}',
    group_key => 'g') \g /dev/null
create temp table c as select * from pg_temp.take('', 8);
create temp table s as select * from pg_temp.take('', 3, one_claim => false);
select count(*) from awa.enqueue_many(:'queue' || ' lasts', 'k', array_fill('{}'::jsonb, array[3])) \g /dev/null
create temp table l as select * from pg_temp.take(' lasts', 3);
select awa.extend(job_id, receipt, '1 hour') from l \g /dev/null

begin;
select plan(56);

-- Effects
create temp table told as
select awa.complete(job_id => c.job_id, receipt => c.receipt)::text as answer
  from c
 where n = 1;
select is((select answer from told), '', 'complete returns nothing');
select is(
  (
    select to_jsonb(j) - '{id,run_at,created_at,attempted_at,finalized_at}'::text[]
      from c, awa.job(c.job_id) j
     where n = 1
  ),
  (
    select jsonb_build_object('kind', 'k', 'queue', pg_temp.q(), 'args', '{"n": 1}'::jsonb, 'state', 'completed',
      'priority', 2, 'attempt', 1, 'max_attempts', 25,
    'heartbeat_at', null, 'deadline_at', null, 'errors', '[]'::jsonb, 'metadata', '{"m": 1}'::jsonb,
    'group_key', 'g', 'expires_at', null, 'tags',
    '["t"]'::jsonb, 'unique_key', null,
    'receipt', receipt, 'progress', null, 'output', null, 'worker_id', null)
      from c
     where n = 1), 'the job is completed');
select ok((
  select j.finalized_at between now() and clock_timestamp() and j.attempted_at < j.finalized_at
    from c, awa.job(c.job_id) j
   where n = 1
),
  'as of now');
select is(pg_temp.states(), 'available 1, completed 1, running 10', 'and the other jobs of its claim are not');

select awa.complete(c.job_id, c.receipt, output => '{"o": [1]}') from c where n = 2 \g /dev/null
select is(
  (
    select to_jsonb(j) - '{id,run_at,created_at,attempted_at,finalized_at}'::text[]
      from c, awa.job(c.job_id) j
     where n = 2
  ),
  (
    select jsonb_build_object('kind', 'k', 'queue', pg_temp.q(), 'args', '{"n": 2}'::jsonb, 'state', 'completed',
      'priority', 2, 'attempt', 1, 'max_attempts', 25,
    'heartbeat_at', null, 'deadline_at', null, 'errors', '[]'::jsonb, 'metadata', '{"m": 1}'::jsonb,
    'group_key', 'g', 'expires_at', null, 'tags',
    '["t"]'::jsonb, 'unique_key', null,
    'receipt', receipt, 'progress', null, 'output', '{"o": [1]}'::jsonb, 'worker_id', null)
      from c
     where n = 2), 'a job with an output is completed, and shows it');
select ok((
  select j.finalized_at between now() and clock_timestamp()
    and j.attempted_at < j.finalized_at
    and j.created_at < j.attempted_at
    from c, awa.job(c.job_id) j
   where n = 2
),
  'with its times');
select awa.complete(c.job_id, c.receipt, null) from c where n = 3 \g /dev/null
select is((select row(j.state, j.output)::text from c, awa.job(c.job_id) j where n = 3), '(completed,)',
  'an explicit null is no output');
select awa.complete(c.job_id, c.receipt, 'null') from c where n = 4 \g /dev/null
select is((select row(j.state, j.output)::text from c, awa.job(c.job_id) j where n = 4), '(completed,null)',
  'a JSON null is one');
select awa.complete(job_id, receipt, to_jsonb(n)) from s where n = 1 \g /dev/null
select awa.complete(job_id, receipt) from s where n = 2 \g /dev/null
select is((select array_agg(row(j.state, j.output)::text order by n) from s, awa.job(s.job_id) j),
  '{"(completed,1)","(completed,)","(running,)"}', 'a claim of one job is no different');
select is(pg_temp.states(), 'available 1, completed 6, running 5', 'every job is in one state');
select is((select count(distinct j.id) from awa.jobs j where j.queue = pg_temp.q()), 12::bigint, 'and shows once');

-- Attempts with rows of their own
select awa.complete(job_id, receipt, case n when 2 then '"out"'::jsonb end) from l where n < 3 \g /dev/null
select is(
  (
    select array_agg(
      row(j.state, j.attempt, j.output, j.receipt = l.receipt, j.finalized_at is not null)::text order by n
    )
      from l, awa.job(l.job_id) j
  ),
  '{"(completed,1,,t,t)","(completed,1,\"\"\"out\"\"\",t,t)","(running,1,,t,f)"}',
  'an attempt that lasted completes as any other');
select is((select array_agg(l.n) from awa.leases r join l using (receipt)), '{3}', 'its row goes');
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'it completed before, item ' || n)
  from l
 where n < 3
 order by n;
select pg_temp.refused(format('select awa.complete(%s, %s)', l.job_id, x.receipt), 'JQ001', 'stale',
  'the row of another job')
  from l, c x
 where l.n = 3 and x.n = 8;
select pg_temp.agrees('each is in one state');

-- Inside a business transaction
savepoint business;
select awa.complete(job_id, receipt) from c where n = 5 \g /dev/null
select awa.complete(job_id, receipt, '1') from c where n = 6 \g /dev/null
select is(pg_temp.states(), 'available 1, completed 8, running 3', 'a transaction sees its own completions');
rollback to business;
select is(pg_temp.states(), 'available 1, completed 6, running 5', 'when it rolls back, the jobs run on');
select is(pg_temp.outcome(format('select awa.complete(%s, %s, %L)', job_id, receipt, '"again"')), 'ok',
  'and their receipts are good')
  from c
 where n = 5;
select is((select row(j.state, j.output)::text from c, awa.job(c.job_id) j where n = 5), '(completed,"""again""")',
  'for one completion');

-- Stale
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  format('completed before, item %s', n))
  from c
 where n <= 5
 order by n;
select pg_temp.refused(format('select awa.complete(%s, %s, %L)', job_id, receipt, '1'), 'JQ001', 'stale',
  format('completed before, now with an output, item %s', n))
  from c
 where n <= 5
 order by n;
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  format('completed before, a claim of one, %s', n))
  from s
 where n <= 2
 order by n;
select awa.complete_many(array[job_id], array[receipt]) from c where n = 6 \g /dev/null
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'completed before, in a batch')
  from c
 where n = 6;
select awa.fail(job_id, receipt, 'no') from c where n = 7 \g /dev/null
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale', 'failed before')
  from c
 where n = 7;
select awa.release(job_id, receipt) from s where n = 3 \g /dev/null
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale', 'released before')
  from s
 where n = 3;

-- Not the caller's
select pg_temp.refused(format('select awa.complete(%s, %s)', a.job_id, x.receipt), 'JQ001', 'stale',
  'the receipt of another job')
  from c a, c x
 where a.n = 8 and x.n = 1;
select pg_temp.refused(format('select awa.complete(%s, %s)', a.job_id, x.receipt), 'JQ001', 'stale',
  'the receipt of another claim')
  from c a, s x
 where a.n = 8 and x.n = 1;
select pg_temp.refused(format('select awa.complete(%s, %s)', x.job_id, a.receipt), 'JQ001', 'stale',
  'an open receipt for another job')
  from c a, c x
 where a.n = 8 and x.n = 1;
select pg_temp.refused(format('select awa.complete(%s, %s)', c.job_id, r.receipt), 'JQ001', 'stale',
  'receipt ' || r.description)
  from c,
    lateral (values
      (1, 0::bigint, '0'), (2, -1, '-1'), (3, 9223372036854775807, 'of the largest number'),
      (4, -9223372036854775808, 'of the smallest number'),
      (5, -c.receipt, 'of the other sign'), (6, c.receipt + 1, 'past the last item'),
      (7, c.receipt | 4095, 'of the last place'), (8, c.receipt + (1000000::bigint << 12), 'of a claim to come'),
      (9, 7654321987654321, 'at random')) r(n, receipt, description)
 where c.n = 8
 order by r.n;
select pg_temp.refused(format('select awa.complete(%s, %s)', r.job_id, c.receipt), 'JQ001', 'stale', 'job ' || r.job_id)
  from c, (values (1, 0::bigint), (2, -1), (3, 9223372036854775807)) r(n, job_id)
 where c.n = 8
 order by r.n;
select pg_temp.refused(format('select awa.complete(null, %s)', receipt), '22023', 'job_id', 'no job')
  from c
 where n = 8;
select pg_temp.refused(format('select awa.complete(%s, null)', job_id), '22023', 'receipt', 'no receipt')
  from c
 where n = 8;
select pg_temp.refused(format('select awa.complete(%s, %s, pg_temp.nested(501))', job_id, receipt), '22023', 'output',
  'an output nested 501 deep')
  from c
 where n = 8;
select is((select j.state from c, awa.job(c.job_id) j where n = 8), 'running', 'none of this ended the attempt');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'ok',
  'and its own receipt still does')
  from c
 where n = 8;

select * from finish();
rollback;
