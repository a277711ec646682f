-- Without this, one stale answer in a batch would spoil the others, be taken for good, or give its output to another
-- job.
\set name complete_many
\ir ../prelude.psql

select count(*)
  from awa.enqueue_many(:'queue', 'k',
    array(select jsonb_build_object('n', n) from generate_series(1, 60) n)) \g /dev/null
create temp table c as select * from pg_temp.take('', 40);
create temp table s as select * from pg_temp.take('', 8, one_claim => false);
select count(*) from awa.enqueue_many(:'queue' || ' lasts', 'k', array_fill('{}'::jsonb, array[8])) \g /dev/null
create temp table l as select * from pg_temp.take(' lasts', 8);
select awa.extend(job_id, receipt, '1 hour') from l where n % 2 = 0 \g /dev/null

-- Job n, its state and its output, for a range of places
create function pg_temp.seen(first int, last int) returns text
language sql
return (
  select string_agg(concat_ws(' ', c.n, j.state, j.output), ', ' order by c.n)
    from c
   cross join lateral awa.job(c.job_id) j
   where c.n between first and last
);

begin;
select plan(61);

-- Without outputs
select is((select count(*) from awa.complete_many('{}', '{}')), 0::bigint, 'nothing to complete, nothing refused');
select is((
  select count(*)
    from c
   cross join lateral awa.complete_many(job_ids => array[c.job_id], receipts => array[c.receipt])
   where n = 1
),
  0::bigint, 'an accepted answer is not returned');
select is(pg_temp.seen(1, 2), '1 completed, 2 running', 'and its job is completed');
select is((
  select count(*)
    from awa.complete_many((select array_agg(job_id) from c where n between 2 and 4),
      (select array_agg(receipt) from c where n between 2 and 4), null)
),
  0::bigint, 'explicit null: no outputs');
select is(pg_temp.seen(2, 5), '2 completed, 3 completed, 4 completed, 5 running', 'several items of one claim');
select is(
  (select array_agg(r) from awa.complete_many(
    (select array_agg(job_id order by n desc) from c where n between 3 and 6),
    (select array_agg(receipt order by n desc) from c where n between 3 and 6)) r),
  (select array_agg(job_id order by n desc) from c where n between 3 and 4),
  'stale answers are returned, in the order in which they came');
select is(pg_temp.seen(3, 7), '3 completed, 4 completed, 5 completed, 6 completed, 7 running',
  'and the others accepted');
select is(
  (select array_agg(r) from awa.complete_many(
    (
      select array_agg(job_id order by n) || array[-1, 0, 9223372036854775807]
        from (select * from c where n = 7 union all select * from s where n in (1, 2)) x
    ),
    (
      select array_agg(receipt order by n) || array[-1, 0, 9223372036854775807]
        from (select * from c where n = 7 union all select * from s where n in (1, 2)) x
    )) r),
  array[-1, 0, 9223372036854775807], 'claims of several jobs, claims of one, and receipts that no claim gave out');
select is(pg_temp.states(), 'available 12, completed 9, running 39', 'are told apart');
select is(
  (select array_agg(r) from awa.complete_many(array[a.job_id, x.job_id], array[x.receipt, a.receipt]) r),
  array[a.job_id, x.job_id],
  'swapped receipts close nothing') from c a, c x where a.n = 8 and x.n = 9;
select is(
  (select array_agg(r) from awa.complete_many(array[a.job_id, x.job_id], array[x.receipt, a.receipt]) r),
  array[a.job_id, x.job_id],
  'nor do those of other claims') from c a, s x where a.n = 8 and x.n = 3;
select is(
  (
    select array_agg(r)
      from awa.complete_many(array_fill(c.job_id, array[6]),
        array[-c.receipt, c.receipt + 40, c.receipt | 4095, -9223372036854775808, 7654321987654321,
          c.receipt + (1::bigint << 40)]) r
  ),
  array_fill(c.job_id, array[6]), 'nor receipts that are made up') from c where n = 8;
select is(pg_temp.seen(8, 9), '8 running, 9 running', 'those attempts are open');

-- One receipt named twice
select is((select count(*) from awa.complete_many(array[job_id, job_id], array[receipt, receipt])), 0::bigint,
  'an answer that is given twice counts once')
  from c
 where n = 8;
select is((select count(*) from awa.complete_many(array[job_id, job_id], array[receipt, receipt])), 0::bigint,
  'also for a claim of one')
  from s
 where n = 3;
select is((select array_agg(r) from awa.complete_many(array[job_id, job_id], array[receipt, receipt]) r),
  array[job_id, job_id], 'and is refused as often')
  from c
 where n = 8;
select is(
  (
    select sum(coalesce(cardinality(k.items), 1))::bigint
      from c
      join awa.lease_claim_closures k on k.claim_id = c.receipt >> 12
     where c.n = 8
  ),
  (select count(*) from c cross join lateral awa.job(c.job_id) j where j.state = 'completed'),
  'the ledger counts every item once');
select is(
  (select array_agg(r) from awa.complete_many(array[a.job_id, x.job_id], array[a.receipt, a.receipt]) r),
  array[x.job_id],
  'a receipt that comes with its job, then with another: the other is refused')
    from c a, c x
   where a.n = 9 and x.n = 10;
select is(
  (select array_agg(r) from awa.complete_many(array[x.job_id, a.job_id], array[a.receipt, a.receipt]) r),
  array[x.job_id],
  'and the other way round') from c a, c x where a.n = 10 and x.n = 11;
select is(pg_temp.seen(8, 11), '8 completed, 9 completed, 10 completed, 11 running',
  'the job whose receipt it is ends');

-- Outputs
select is(
  (select count(*) from awa.complete_many(
    (select array_agg(job_id order by n) from c where n between 12 and 16),
    (select array_agg(receipt order by n) from c where n between 12 and 16),
    outputs => array[null, '"b"', null, 'null', '{"d": 1}']::jsonb[])), 0::bigint, 'some with an output, some without');
select is(pg_temp.seen(12, 16),
  '12 completed, 13 completed "b", 14 completed, 15 completed null, 16 completed {"d": 1}', 'each job has its own');
select is(
  (select array_agg(r) from awa.complete_many(
    (select array_agg(job_id order by n) from c where n between 15 and 19),
    (select array_agg(receipt order by n) from c where n between 15 and 19),
    array['"late"', null, '"17"', null, '"19"']::jsonb[]) r),
  (select array_agg(job_id order by n) from c where n between 15 and 16), 'stale ones among them are refused');
select is(pg_temp.seen(15, 19),
  '15 completed null, 16 completed {"d": 1}, 17 completed "17", 18 completed, 19 completed "19"', 'and change nothing');
select is((
  select count(*)
    from awa.complete_many(array_agg(job_id order by n), array_agg(receipt order by n), array['"s4"', null]::jsonb[])
),
  0::bigint, 'claims of one job')
  from s
 where n in (4, 5);
select is((
  select string_agg(concat_ws(' ', j.state, j.output), ', ' order by n) from s, awa.job(s.job_id) j where n in (4, 5)
),
  'completed "s4", completed', 'have their outputs too');
select is(
  (
    select array_agg(r)
      from awa.complete_many(array[x.job_id, a.job_id], array[a.receipt, a.receipt],
        array['"of another"', '"own"']::jsonb[]) r
  ),
  array[x.job_id],
  'a receipt with another job, and an output, is refused') from c a, c x where a.n = 20 and x.n = 21;
select is(pg_temp.seen(20, 21), '20 completed "own", 21 running', 'and leaves its output to nobody');
select is((
  select count(*) from awa.complete_many(array[job_id, job_id], array[receipt, receipt], array[null, '"x"']::jsonb[])
),
  0::bigint, 'one answer twice, once with an output')
  from c
 where n = 21;
select is((
  select array_agg(row(j.state, j.output)::text)
    from c
   cross join lateral awa.jobs_compat() j
   where c.n = 21 and j.id = c.job_id
),
  array['(completed,"""x""")'], 'ends the job once');
select is((select count(*) from awa.complete_many(array[job_id], array[receipt], array[null]::jsonb[])), 0::bigint,
  'no outputs but nulls')
  from c
 where n = 22;
select is(pg_temp.seen(22, 22), '22 completed', 'is as without');

-- Attempts with rows of their own, beside others
select is(
  (select array_agg(r) from awa.complete_many(
    (select array_agg(job_id order by n) || array[0] from l where n <= 6),
    (select array_agg(receipt order by n) || array[0] from l where n <= 6),
    array[null, null, '3', '4', null, '6', null]::jsonb[]) r), '{0}',
  'attempts that lasted, and others, with outputs and without');
select is((select string_agg(concat_ws(' ', j.state, j.output), ', ' order by n) from l, awa.job(l.job_id) j),
  'completed, completed, completed 3, completed 4, completed, completed 6, running, running', 'all complete');
select is((select array_agg(l.n) from awa.leases r join l using (receipt)), '{8}', 'rows of ended attempts go');
select is((
  select array_agg(r)
    from awa.complete_many((select array_agg(job_id order by n) from l),
      (select array_agg(receipt order by n) from l)) r
),
  (select array_agg(job_id order by n) from l where n <= 6), 'once');
select pg_temp.agrees('each is in one state');

-- Beside the single form
select awa.complete(job_id, receipt) from c where n = 23 \g /dev/null
select awa.fail(job_id, receipt, 'no') from c where n = 24 \g /dev/null
select awa.release(job_id, receipt) from c where n = 25 \g /dev/null
select is(
  (
    select array_agg(r)
      from awa.complete_many((select array_agg(job_id order by n) from c where n between 23 and 26),
        (select array_agg(receipt order by n) from c where n between 23 and 26)) r
  ),
  (select array_agg(job_id order by n) from c where n between 23 and 25), 'what the single forms closed is stale');
select is(pg_temp.seen(23, 26), '23 completed, 24 retryable, 25 available, 26 completed', 'and stays what it is');

-- Refusals
create temp table v as select c.job_id as j, c.receipt as r from c where n = 30;
select pg_temp.refused(format(c.call, v.j, v.r), '22023', c.names, c.description)
  from v, (values
    (1, 'select * from awa.complete_many(null, null)', 'job_ids', 'no arrays'),
    (2, 'select * from awa.complete_many(null, array[%2$s])', 'job_ids', 'no jobs'),
    (3, 'select * from awa.complete_many(array[%1$s], null)', 'receipts', 'no receipts'),
    (4, 'select * from awa.complete_many(array[%1$s, %1$s], array[%2$s])', 'receipts', 'fewer receipts than jobs'),
    (5, 'select * from awa.complete_many(array[%1$s], array[%2$s, %2$s])', 'receipts', 'more receipts than jobs'),
    (6, $$select * from awa.complete_many('{}', array[%2$s])$$, 'receipts', 'a receipt and no job'),
    (7, 'select * from awa.complete_many(array[%1$s, null], array[%2$s, 1])', 'job_ids', 'a job that is null'),
    (8, 'select * from awa.complete_many(array[%1$s, 1], array[%2$s, null])', 'receipts', 'a receipt that is null'),
    (9, $$select * from awa.complete_many(array[%1$s], array[%2$s], '{}')$$, 'outputs', 'fewer outputs than jobs'),
    (10, $$select * from awa.complete_many(array[%1$s], array[%2$s], array['1', '2']::jsonb[])$$, 'outputs',
      'more outputs than jobs'),
    (11,
      'select * from awa.complete_many(array_fill(%1$s::bigint, array[10001]), array_fill(%2$s::bigint, array[10001]))',
      'job_ids', '10,001 answers'),
    (12,
      'select * from awa.complete_many(array_fill(%1$s::bigint, array[2, 2]), array_fill(%2$s::bigint, array[2, 2]))',
      'job_ids', 'arrays in two dimensions')
  ) c(n, call, names, description)
 order by c.n;
select is(pg_temp.seen(30, 30), '30 running', 'a refused call closes nothing');
create temp table before as select (regexp_match(pg_temp.writes(), '^\d+'))[1] as rows;
select is((
  select array_agg(r)
    from awa.complete_many((select array_agg(job_id) from c where n <= 10),
      (select array_agg(receipt) from c where n <= 10)) r
),
  (select array_agg(job_id) from c where n <= 10), 'where all is stale');
select is((regexp_match(pg_temp.writes(), '^\d+'))[1], (select rows from before), 'nothing is written');

-- Each on its own, and many
savepoint many;
select is((
  select count(*)
    from awa.complete_many((select array_agg(job_id) from c where n > 30),
      (select array_agg(receipt) from c where n > 30))
),
  0::bigint, 'ten at once');
rollback to many;
select is(pg_temp.seen(31, 32), '31 running, 32 running', 'run on when the caller rolls back');
select is((
  select count(*)
    from awa.complete_many((select array_agg(job_id) from c where n > 30),
      (select array_agg(receipt) from c where n > 30))
),
  0::bigint, 'and are completed when asked again');
select pg_temp.fill(pg_temp.q(' most'), 10000) \g /dev/null
create temp table most as select * from pg_temp.take(' most', 10000);
select is((
  select count(*) from awa.complete_many((select array_agg(job_id) from most), (select array_agg(receipt) from most))
),
  0::bigint, '10,000 in one call');
select is((select row(completed, running)::text from awa.queue_counts(pg_temp.q(' most'))), '(10000,0)',
  'are all completed');
select is(
  (select array_agg(r) from awa.complete_many(array[-5, 30, 30], array[0, 1, 1]) r), array[-5, 30, 30]::bigint[],
  'one that is refused twice is returned twice');
select is(
  (
    select string_agg(j.state || ' ' || j.jobs, ', ' order by j.state)
      from (
        select j.state, count(*) as jobs, count(distinct j.id) as ids
          from awa.jobs j
         where j.queue = pg_temp.q()
         group by 1
      ) j
     where j.jobs = j.ids
  ),
  pg_temp.states(), 'and every job is in one state');

select * from finish();
rollback;
