-- Without this, an answer for many jobs would close the attempt of another one, or count twice. What two sessions do at
-- once is covered by tests with several.
\set name batches
\ir ../prelude.psql

select job_id from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue') \g /dev/null
select pg_temp.fill(:'queue' || ' keyed', 1) \g /dev/null
create temp table keyed as select * from pg_temp.take(' keyed', 2);

begin;
select plan(30);

-- 1 to 8 and 9 to 14 are items of a claim each, 15 and 16 are claims of one job
select pg_temp.fill(:'queue', 20) \g /dev/null
create temp table c as select * from pg_temp.take('', 8);
insert into c select 8 + t.n, t.job_id, t.receipt from pg_temp.take('', 6) t;
insert into c select 14 + t.n, t.job_id, t.receipt from pg_temp.take('', 2, one_claim => false) t;
create function pg_temp.jobs(variadic ns int[]) returns bigint[]
language sql
return (select array_agg(c.job_id order by u.o) from unnest(ns) with ordinality u(n, o) join c using (n));
create function pg_temp.receipts(variadic ns int[]) returns bigint[]
language sql
return (select array_agg(c.receipt order by u.o) from unnest(ns) with ordinality u(n, o) join c using (n));
-- The rows of closures, by the jobs that they close
create function pg_temp.closed() returns text
language sql
return (
  select string_agg(case when r.item < 0 then '(' || r.jobs || ')' else r.jobs end, ' '
      order by r.claim_id, r.item < 0, r.nth)
    from (
      select k.claim_id, k.item, abs(k.item) as nth,
             string_agg(c.n::text, ' ' order by c.n) as jobs
        from c
        join awa.lease_claim_closures k
          on k.claim_id = c.receipt >> 12 and (k.item = (c.receipt & 4095) or (c.receipt & 4095) = any(k.items))
       group by 1, 2
    ) r
);
create function pg_temp.batches(variadic ns int[]) returns text
language sql
as $$
  select awa._close_batches(pg_temp.jobs(variadic ns), pg_temp.receipts(variadic ns)) || ': ' || pg_temp.closed()
$$;

-- Answers that go the long way
select k.closed from c, awa._close_item(c.job_id, c.receipt, 'completed') k where n = 1 \g /dev/null
select awa.extend(job_id, receipt, '1 hour') from c where n = 2 \g /dev/null
savepoint here;
select is(awa._close_batches(j, r), case when d ~ 'order|twice' then null else 0 end, d) from (values
  (1, pg_temp.jobs(1, 3), pg_temp.receipts(1, 3), 'one that is closed is left to others'),
  (2, pg_temp.jobs(2), pg_temp.receipts(2), 'so is one that has a row of its own'),
  (3, pg_temp.jobs(9, 10, 9), pg_temp.receipts(9, 10, 9), 'one that is given twice'),
  (4, pg_temp.jobs(9, 9), pg_temp.receipts(9, 9), 'twice and nothing else'),
  (5, pg_temp.jobs(10, 9), pg_temp.receipts(9, 10), 'those of other jobs'),
  (6, pg_temp.jobs(10, 11, 13), pg_temp.receipts(9, 11, 13), 'with gaps, too'),
  (7, pg_temp.jobs(14, 13, 15), pg_temp.receipts(14, 13, 15), 'those that are not in order'),
  (8, array[1, 2], array[4096000000000, 4096000000001], 'one of no claim'),
  (9, pg_temp.jobs(14) || 1::bigint, pg_temp.receipts(14) || (pg_temp.receipts(14))[1] + 1, 'or past the end of one'),
  (10, array[1, 2], array[-1, 9223372036854775807], 'or of none that could be'),
  (11, '{}', '{}', 'nothing'), (12, null, null, 'null')) x(n, j, r, d)
 order by n;
select is((select awa._close_batches(array_agg(job_id), array_agg(receipt)) from keyed where n = 2), 0,
  'a claim that holds a unique key');
select is(pg_temp.closed(), '1 2', 'of all these none is closed');

-- Closed items
select is(pg_temp.batches(9, 10, 11, 12, 13, 14), '6: 1 2 (9 10 11 12 13 14)', 'a whole claim is a row');
rollback to here;
select is(pg_temp.batches(11, 12), '2: 1 2 (11 12)', 'a run of items is');
select is(pg_temp.batches(9, 13), '2: 1 2 (11 12) (9 13)', 'items that are no run are, beside those of before');
select is(pg_temp.batches(14), '1: 1 2 14 (11 12) (9 13)', 'a single one is an item row');
select is(pg_temp.batches(10, 12), '0: 1 2 14 (11 12) (9 13)', 'none is closed with one that is closed');
select is(pg_temp.batches(10, 14), '0: 1 2 14 (11 12) (9 13)', 'whatever row has closed it');
select is(pg_temp.batches(12), '0: 1 2 14 (11 12) (9 13)', 'nor that one');
select is(pg_temp.batches(15), '1: 1 2 14 (11 12) (9 13) 15', 'the one of a claim of one job is');
rollback to here;
select is(pg_temp.batches(7, 8, 9, 10), '4: 1 2 (7 8) (9 10)', 'of two claims, a row for each');
rollback to here;
select is(pg_temp.batches(3, 4, 5, 7, 9, 12, 14), '7: 1 2 (3 4 5 7) (9 12 14)', 'whatever items');
rollback to here;
select is(pg_temp.batches(13, 14, 15, 16), '4: 1 2 (13 14) 15 16', 'claims of one job get the row of their item');
select is(pg_temp.batches(9, 10, 15, 16), '2: 1 2 (13 14) (9 10) 15 16', 'up to a claim of which one is closed');
select is(pg_temp.batches(15, 16), '0: 1 2 (13 14) (9 10) 15 16', 'one of a single job, too');
rollback to here;

-- The numbers of the rows
insert into awa.lease_claim_closures (segment, claim_id, item, items, outcome, closed_at)
select (select r.current_segment from awa.ring r), c.receipt >> 12, -1, '{}', 'completed', now() from c where c.n = 9;
select is(pg_temp.batches(9, 10), '2: 1 2 (9 10)', 'a row that closes nothing has taken a number');
select is((select min(k.item) from c, awa.lease_claim_closures k where k.claim_id = c.receipt >> 12 and c.n = 9),
  -2::smallint, 'so this is the next one');

-- Of a claim with closed items, each is looked up in the answers by a hash, and not compared with all of them.
create function pg_temp.plan_of(query text) returns text
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_line text;
  v_plan text := '';
begin
  for v_line in execute 'explain ' || query loop
    v_plan := v_plan || v_line;
  end loop;
  return v_plan;
end
$$;
select matches(pg_temp.plan_of('select * from awa._closed_in(0::smallint, ''{4096,4097}'')'), 'hashed SubPlan',
  'closed items are not compared with all answers');

select * from finish();
rollback;
