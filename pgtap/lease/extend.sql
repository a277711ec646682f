-- Without this, an attempt that takes longer than anybody thought would be taken for dead, and run twice.
\set name extend
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
select awa.enqueue(:'queue' || ' deadline', 'k') \g /dev/null
select awa.configure_queue(:'queue' || ' deadline', '{"deadline": "10 minutes"}') \g /dev/null
create temp table d as select * from awa.claim(:'queue' || ' deadline');
create temp table before as select j.id, to_jsonb(j) as job from awa.jobs j where j.queue = :'queue';

begin;
select plan(37);

-- The first time
create temp table told as
select awa.extend(job_id => c.job_id, receipt => c.receipt, lease => '10 minutes') as until
  from c
 where n = 1;
select ok((select until between now() + interval '10 minutes' and clock_timestamp() + interval '10 minutes' from told),
  'extend returns when the lease ends: so long from now');
select is((select to_jsonb(j) from c, awa.job(c.job_id) j where n = 1),
  (select b.job from c join before b on b.id = c.job_id where n = 1), 'the job runs as before');
select is(
  (
    select to_jsonb(l) - '{lane,ready_at,created_at,claimed_at,lease_until,body_bytes}'::text[]
      from c
      join awa.leases l using (receipt)
     where n = 1
  ),
  (
    select jsonb_build_object('receipt', receipt, 'job_id', job_id, 'priority', 3, 'lease', interval '10 minutes',
      'deadline_at', null, 'worker_id', :worker_id, 'attempt', 1, 'max_attempts', 5, 'unique_key', null,
      'group_id', null, 'holds_queue', false,
     'kind', 'k', 'args', '{"n": 1}'::jsonb, 'tags', '["t"]'::jsonb, 'metadata', '{"m": 1}'::jsonb,
    'group_key', 'g', 'expires_at', null, 'progress', null,
     'errors', null)
       from c
      where n = 1), 'from a row of its own');
select is((select l.lease_until from c join awa.leases l using (receipt) where n = 1), (select until from told),
  'which says until when');
select is((
  select k.outcome
    from c
    join awa.lease_claim_closures k on k.claim_id = c.receipt >> 12 and k.item = (c.receipt & 4095)
   where n = 1
),
  'materialized', 'in the ledger it has moved there');
select is(pg_temp.states(), 'available 2, running 10', 'others are not touched');
select pg_temp.agrees('each is in one state');

-- Again, and shorter
create temp table again as select awa.extend(job_id, receipt, '1 second') as until from c where n = 1;
select ok((select until between now() + interval '1 second' and clock_timestamp() + interval '1 second' from again),
  'again: also when that is sooner');
select is((
  select row(l.lease, l.lease_until = a.until)::text from again a, c join awa.leases l using (receipt) where n = 1
),
  '(00:00:01,t)', 'a heartbeat keeps it for as long from then on');
select is((select count(*) from c join awa.lease_claim_closures k on k.claim_id = c.receipt >> 12 where n = 1),
  1::bigint, 'the ledger is closed once');
select is(pg_temp.outcome(format('select awa.extend(%s, %s, %L)', job_id, receipt, '1 year')), 'ok',
  'a year may be asked for')
  from s
 where n = 1;
select is(pg_temp.outcome(format('select awa.extend(%s, %s, %L)', job_id, receipt, '1 millisecond')), 'ok',
  'and a millisecond, also for a claim of one job')
  from s
 where n = 1;

-- A deadline is hard
select ok((select awa.extend(job_id, receipt, '1 hour') > deadline_at from d), 'a lease may end after the deadline');
select is((
  select row(l.deadline_at, j.deadline_at)::text from d join awa.leases l using (receipt) cross join awa.job(d.job_id) j
),
  (select row(deadline_at, deadline_at)::text from d), 'which stays');

-- The receipt is good for every answer
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'ok',
  'the attempt completes with the receipt of its claim')
  from c
 where n = 1;
select is((
  select row(j.state, j.output, j.receipt = c.receipt, j.worker_id)::text from c, awa.job(c.job_id) j where n = 1
),
  format('(completed,,t,%s)', :worker_id), 'as any other');
select is((select count(*) from awa.leases l join c using (receipt)), 0::bigint, 'its row goes');
select pg_temp.agrees('and it counts as completed');

-- Refusals
savepoint business;
select awa.extend(job_id, receipt, '1 hour') from c where n = 2 \g /dev/null
rollback to business;
select is((select count(*) from awa.leases l join c using (receipt)), 0::bigint, 'one that rolls back never was');
select pg_temp.refused(format('select awa.extend(%s, %s, %L)', job_id, receipt, '1 hour'), 'JQ001', 'stale',
  'completed from its row')
  from c
 where n = 1;
select awa.complete(job_id, receipt) from c where n = 3 \g /dev/null
select pg_temp.refused(format('select awa.extend(%s, %s, %L)', job_id, receipt, '1 hour'), 'JQ001', 'stale',
  'completed before')
  from c
 where n = 3;
select awa.complete_many(array[job_id], array[receipt]) from c where n = 4 \g /dev/null
select pg_temp.refused(format('select awa.extend(%s, %s, %L)', job_id, receipt, '1 hour'), 'JQ001', 'stale',
  'completed before, in a batch')
  from c
 where n = 4;
select pg_temp.refused(format('select awa.extend(%s, %s, %L)', a.job_id, x.receipt, '1 hour'), 'JQ001', 'stale',
  'the receipt of another job')
  from c a, c x
 where a.n = 5 and x.n = 6;
select awa.extend(job_id, receipt, '1 hour') from c where n = 6 \g /dev/null
select pg_temp.refused(format('select awa.extend(%s, %s, %L)', a.job_id, x.receipt, '1 hour'), 'JQ001', 'stale',
  'the receipt of another job that has a row of its own')
  from c a, c x
 where a.n = 5 and x.n = 6;
select pg_temp.refused(format('select awa.extend(%s, %s, %L)', c.job_id, r.receipt, '1 hour'), 'JQ001', 'stale',
  'receipt ' || r.receipt)
  from c,
    (values (1, 0::bigint), (2, -1), (3, 9223372036854775807), (4, -9223372036854775808),
      (5, 7654321987654321)) r(n, receipt)
 where c.n = 5
 order by r.n;
create temp table v as select job_id as j, receipt as r from c where n = 5;
select pg_temp.refused(format(x.call, v.j, v.r), '22023', x.names, x.description)
  from v, (values
    (1, $$select awa.extend(null, %2$s, '1 hour')$$, 'job_id', 'no job'),
    (2, $$select awa.extend(%1$s, null, '1 hour')$$, 'receipt', 'no receipt'),
    (3, $$select awa.extend(%1$s, %2$s, null)$$, 'lease', 'no lease'),
    (4, $$select awa.extend(%1$s, %2$s, '0')$$, 'lease', 'a lease of no time'),
    (5, $$select awa.extend(%1$s, %2$s, '-1 minute')$$, 'lease', 'a lease that ended before it began'),
    (6, $$select awa.extend(%1$s, %2$s, '1 year 1 day')$$, 'lease', 'more than a year')
  ) x(n, call, names, description)
 order by x.n;
select is((
  select row(j.state, (select count(*) from awa.leases l where l.job_id = j.id))::text
    from c, awa.job(c.job_id) j
   where n = 5
),
  '(running,0)', 'none of this gave it a row');
select pg_temp.agrees('and the books balance');

select * from finish();
rollback;
