-- Without this, a batch of failures could give one job the error or the delay of another, or lose one.
\set name fail_many
\ir ../prelude.psql

select count(*)
  from awa.enqueue_many(:'queue', 'k',
    array(select jsonb_build_object('n', n) from generate_series(1, 40) n)) \g /dev/null
create temp table c as select * from pg_temp.take('', 30);
create temp table s as select * from pg_temp.take('', 4, one_claim => false);
select count(*)
  from awa.enqueue_many(:'queue' || ' once', 'k', array_fill('{}'::jsonb, array[3]), max_attempts => 1) \g /dev/null
create temp table once as select * from pg_temp.take(' once', 3);
select awa.configure_queue(:'queue' || ' once', '{"backoff_base": "1 hour"}') \g /dev/null

select count(*) from awa.enqueue_many(:'queue' || ' lasts', 'k', array_fill('{}'::jsonb, array[4])) \g /dev/null
create temp table l as select * from pg_temp.take(' lasts', 4);
select awa.set_progress(job_id, receipt, to_jsonb(n)) from l where n % 2 = 0 \g /dev/null
select count(*)
  from awa.enqueue_many(:'queue' || ' dead', 'k', array_fill('{}'::jsonb, array[2]), max_attempts => 1) \g /dev/null
create temp table d as select * from pg_temp.take(' dead', 2);
select awa.configure_queue(:'queue' || ' dead', '{"dead_letter": true}') \g /dev/null

-- Job n, its state, its errors and its delay in whole seconds, for a range of places
create function pg_temp.seen(first int, last int) returns text
language sql
return (
  select string_agg(
    concat_ws(' ', c.n, j.state, (select string_agg(e ->> 'error', '+') from jsonb_array_elements(j.errors) e),
           floor(extract(epoch from j.run_at - (j.errors -> -1 ->> 'at')::timestamptz) + 0.1)), ', ' order by c.n)
    from c cross join lateral awa.job(c.job_id) j where c.n between first and last);

begin;
select plan(49);

select is((select count(*) from awa.fail_many('{}', '{}', '{}')), 0::bigint, 'nothing to fail, nothing refused');
select is(
  (
    select count(*)
      from awa.fail_many(job_ids => (select array_agg(job_id order by n) from c where n between 1 and 3),
        receipts => (select array_agg(receipt order by n) from c where n between 1 and 3),
        errors => (select array_agg('e' || n order by n) from c where n between 1 and 3))
  ),
  0::bigint,
  'accepted answers are not returned');
select is(pg_temp.seen(1, 4), '1 retryable e1 2, 2 retryable e2 2, 3 retryable e3 2, 4 running',
  'each job has its own error, and waits for its first retry');
select is((
  select row(j.attempt, j.max_attempts, j.finalized_at, j.worker_id, j.errors -> 0 -> 'attempt')::text
    from c, awa.job(c.job_id) j
   where n = 1
),
  '(1,25,,,1)', 'its first attempt is over');
select is(
  (
    select count(*)
      from awa.fail_many((select array_agg(job_id order by n desc) from c where n between 4 and 7),
        (select array_agg(receipt order by n desc) from c where n between 4 and 7),
        (select array_agg('e' || n order by n desc) from c where n between 4 and 7),
     retry_after => array[null, '1 hour', '0', '10 seconds']::interval[])), 0::bigint, 'delays of the caller''s');
select is(pg_temp.seen(4, 7), '4 retryable e4 10, 5 retryable e5 0, 6 retryable e6 3600, 7 retryable e7 2',
  'belong to their jobs; null means the backoff');
select is((
  select count(*)
    from awa.fail_many((select array_agg(job_id) from c where n = 8), (select array_agg(receipt) from c where n = 8),
      (select array_agg('x'::text) from c where n = 8), null)
),
  0::bigint, 'an explicit null: no delays');
select is(pg_temp.seen(8, 8), '8 retryable x 2', 'means the backoff too');
select is((
  select count(*) from awa.fail_many(array_agg(job_id order by n), array_agg(receipt order by n), array['s1', 's2'])
),
  0::bigint, 'claims of one job')
  from s
 where n in (1, 2);
select is((
  select string_agg(j.state || (j.errors -> 0 ->> 'error'), ' ' order by n)
    from s, awa.job(s.job_id) j
   where n in (1, 2)
),
  'retryables1 retryables2', 'are no different');

-- Last attempts beside others
select is(
  (select count(*) from awa.fail_many(
    (
      select array_agg(job_id order by q, n)
        from (select 1 as q, * from once where n < 3 union all select 2, * from c where n = 9) x
    ),
    (
      select array_agg(receipt order by q, n)
        from (select 1 as q, * from once where n < 3 union all select 2, * from c where n = 9) x
    ),
    array['o1', 'o2', 'c9'])), 0::bigint, 'last attempts beside others');
select is((
  select string_agg(concat(j.state, j.errors -> 0 ->> 'error', j.finalized_at is not null), ' ' order by n)
    from once, awa.job(once.job_id) j
),
  'failedo1t failedo2t runningf', 'end their jobs as failed');
select is(pg_temp.seen(9, 9), '9 retryable c9 2', 'and the others are retried, by their own queue''s backoff');

-- Attempts with rows of their own, and dead letters
select is(
  (select count(*) from awa.fail_many(
    (
      select array_agg(job_id order by q, n)
        from (select 1 as q, * from l where n < 4 union all select 2, * from d where n = 1) x
    ),
    (
      select array_agg(receipt order by q, n)
        from (select 1 as q, * from l where n < 4 union all select 2, * from d where n = 1) x
    ),
    array['l1', 'l2', 'l3', 'd1'], array['1 hour', '2 hours', null, '1 hour']::interval[])), 0::bigint,
    'attempts that lasted, and a last one');
select is((
  select string_agg(concat_ws(' ', j.state, j.errors -> 0 ->> 'error', j.progress,
    round(extract(epoch from j.run_at - now()) / 3600)),
    ', ' order by n)
    from l, awa.job(l.job_id) j
   where n < 4
),
  'retryable l1 1, retryable l2 2 2, retryable l3 0', 'are retried, each with its delay and its progress');
select is((
  select string_agg(concat_ws(' ', j.state, j.errors -> 0 ->> 'error'), ', ' order by n) from d, awa.job(d.job_id) j
),
  'dead d1, running', 'or dead, where the queue keeps dead letters');
select is((select array_agg(l.n) from awa.leases r join l using (receipt)), '{4}', 'rows of ended attempts go');
select pg_temp.agrees('each is in one state');

-- Stale
select is(
  (
    select array_agg(r)
      from awa.fail_many((select array_agg(job_id order by n) from c where n between 8 and 11),
        (select array_agg(receipt order by n) from c where n between 8 and 11), array['w', 'x', 'y', 'z']) r
  ),
  (select array_agg(job_id order by n) from c where n between 8 and 9), 'stale answers are returned');
select is(pg_temp.seen(8, 11), '8 retryable x 2, 9 retryable c9 2, 10 retryable y 2, 11 retryable z 2',
  'and the others accepted, with their errors');
select is(
  (
    select array_agg(r)
      from awa.fail_many(array[-1, 0, job_id, job_id, job_id, job_id],
        array[-1, 0, 9223372036854775807, -receipt, 7654321987654321, -9223372036854775808],
        array_fill('e'::text, array[6])) r
  ),
  array[-1, 0, job_id, job_id, job_id, job_id], 'made-up receipts') from c where n = 12;
select is((
  select array_agg(r) from awa.fail_many(array[a.job_id, x.job_id], array[x.receipt, a.receipt], array['e', 'e']) r
),
  array[a.job_id, x.job_id], 'swapped receipts')
  from c a, c x
 where a.n = 12 and x.n = 13;
select is(pg_temp.seen(12, 13), '12 running, 13 running', 'close nothing');
select is((
  select count(*) from awa.fail_many(array[job_id, job_id], array[receipt, receipt], array['first', 'second'])
),
  0::bigint, 'an answer that is given twice counts once')
  from c
 where n = 12;
select is(pg_temp.seen(12, 12), '12 retryable first 2', 'the first time');
select is((
  select array_agg(r)
    from awa.fail_many(array[x.job_id, a.job_id], array[a.receipt, a.receipt], array['of another', 'own'],
      array['1 hour', '1 minute']::interval[]) r
),
  array[x.job_id], 'a receipt with another job, then with its own: the other is refused')
  from c a, c x where a.n = 13 and x.n = 14;
select is(pg_temp.seen(13, 14), '13 retryable own 60, 14 running', 'and leaves neither error nor delay');
select awa.complete(job_id, receipt) from c where n = 15 \g /dev/null
select awa.fail(job_id, receipt, 'single') from c where n = 16 \g /dev/null
select awa.release(job_id, receipt) from c where n = 17 \g /dev/null
select is((
  select array_agg(r)
    from awa.fail_many((select array_agg(job_id order by n) from c where n between 15 and 18),
      (select array_agg(receipt order by n) from c where n between 15 and 18),
      (select array_agg('e' || n order by n) from c where n between 15 and 18)) r
),
  (select array_agg(job_id order by n) from c where n between 15 and 17), 'what the single forms closed is stale');
select is((select string_agg(j.state, ' ' order by n) from c, awa.job(c.job_id) j where n between 15 and 18),
  'completed retryable available retryable', 'and stays what it is');
select is((
  select count(*)
    from awa.complete_many((select array_agg(job_id) from c where n < 19),
      (select array_agg(receipt) from c where n < 19))
),
  17::bigint, 'a failed attempt cannot be completed');

-- Refusals
create temp table v as select c.job_id as j, c.receipt as r from c where n = 20;
select pg_temp.refused(format(c.call, v.j, v.r), '22023', c.names, c.description)
  from v, (values
    (1, 'select * from awa.fail_many(null, null, null)', 'job_ids', 'no arrays'),
    (2, $$select * from awa.fail_many(array[%1$s], null, '{e}')$$, 'receipts', 'no receipts'),
    (3, 'select * from awa.fail_many(array[%1$s], array[%2$s], null)', 'errors', 'no errors'),
    (4, $$select * from awa.fail_many(array[%1$s, %1$s], array[%2$s], '{e,e}')$$, 'receipts',
      'fewer receipts than jobs'),
    (5, $$select * from awa.fail_many(array[%1$s], array[%2$s], '{}')$$, 'errors', 'fewer errors than jobs'),
    (6, $$select * from awa.fail_many(array[%1$s], array[%2$s], '{e,e}')$$, 'errors', 'more errors than jobs'),
    (7, $$select * from awa.fail_many(array[%1$s], array[%2$s], '{NULL}')$$, 'error', 'an error that is null'),
    (8, $$select * from awa.fail_many(array[%1$s], array[%2$s], '{e}', '{}')$$, 'retry_after',
      'fewer delays than jobs'),
    (9, $$select * from awa.fail_many(array[%1$s], array[%2$s], '{e}', '{1s,1s}')$$, 'retry_after',
      'more delays than jobs'),
    (10, $$select * from awa.fail_many(array[%1$s], array[%2$s], '{e}', '{-1s}')$$, 'retry_after',
      'a delay below none'),
    (11, $$select * from awa.fail_many(array[%1$s, null], array[%2$s, 1], '{e,e}')$$, 'job_ids', 'a job that is null'),
    (12, $$select * from awa.fail_many(array[%1$s, 1], array[%2$s, null], '{e,e}')$$, 'receipts',
      'a receipt that is null'),
    (13,
      $$
      select *
        from awa.fail_many(array_fill(%1$s::bigint, array[10001]), array_fill(%2$s::bigint, array[10001]),
          array_fill('e'::text, array[10001]))$$,
      'job_ids', '10,001 answers'),
    (14,
      $$
      select *
        from awa.fail_many(array_fill(%1$s::bigint, array[2, 2]), array_fill(%2$s::bigint, array[2, 2]),
          array_fill('e'::text, array[2, 2]))$$,
      'job_ids', 'arrays in two dimensions')
  ) c(n, call, names, description)
 order by c.n;
select is(pg_temp.seen(20, 20), '20 running', 'a refused call closes nothing');
create temp table before as select (regexp_match(pg_temp.writes(), '^\d+'))[1] as rows;
select is((
  select count(*)
    from awa.fail_many((select array_agg(job_id) from c where n <= 10),
      (select array_agg(receipt) from c where n <= 10), (select array_agg('e'::text) from c where n <= 10))
),
  10::bigint, 'where all is stale');
select is((regexp_match(pg_temp.writes(), '^\d+'))[1], (select rows from before), 'nothing is written');
select pg_temp.fill(pg_temp.q(' most'), 10000) \g /dev/null
create temp table most as select * from pg_temp.take(' most', 10000);
select is((
  select count(*)
    from awa.fail_many((select array_agg(job_id) from most), (select array_agg(receipt) from most),
      array_fill('e'::text, array[10000]))
),
  0::bigint, '10,000 in one call');
select is((select row(retryable, running)::text from awa.queue_counts(pg_temp.q(' most'))), '(10000,0)',
  'are all to be retried');

select * from finish();
rollback;
