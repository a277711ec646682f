-- Without this, an answer would close the attempt of another job, or count twice. Interleavings of two sessions are
-- covered by tests with several; what follows, by those of close.
\set name closing
\ir ../prelude.psql

select job_id from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || ' a',
  unique_states => '{running,completed}') \g /dev/null
select job_id from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || ' b') \g /dev/null
create temp table keyed as select * from pg_temp.take(' keyed', 2);

begin;
select plan(25);

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
-- Which are closed: each by a row of its own, or in a batch
create function pg_temp.closed() returns text
language sql
return (
  select string_agg(c.n || case when k.items is not null then ' batch' else '' end, ', ' order by c.n)
    from c
    join awa.lease_claim_closures k
      on k.claim_id = c.receipt >> 12 and (k.item = (c.receipt & 4095) or (c.receipt & 4095) = any(k.items))
);

-- One
select is((select row(k.closed, k.holds_keys, k.needs_row)::text
  from c, awa._close_item(c.job_id, c.receipt, 'completed') k where n = 1), '(t,f,f)', 'an item is closed');
select is((select k.closed from c, awa._close_item(c.job_id, c.receipt, 'completed') k where n = 1), false, 'once');
select is((select k.closed from c, awa._close_item(c.job_id + 1, c.receipt, 'completed') k where n = 2), false,
  'not for another job');
select is((select k.closed from c, awa._close_item(c.job_id, c.receipt | 4095, 'completed') k where n = 2), false,
  'nor by a receipt past the end of its claim');
select is((select k.closed from awa._close_item(1, 9223372036854775807, 'completed') k), false,
  'nor by one that no claim gave out');
select is(pg_temp.closed(), '1', 'nothing else is closed');
select is((select row(k.materialized, k.holds_keys)::text from c, awa._close(c.job_id, c.receipt, 'failed') k
  where n = 2), '(f,f)', 'an attempt is closed in the ledger');
select awa.extend(job_id, receipt, '1 hour') from c where n = 3 \g /dev/null
select is((select k.materialized from c, awa._close(c.job_id, c.receipt, 'failed') k where n = 3), true,
  'or has a row of its own, which the caller deletes');
select is((select count(*) from awa.leases l join c using (receipt)), 1::bigint, 'and which is there');
select throws_ok(format('select awa._close(%s, %s, %L)', job_id, receipt, 'failed'), 'JQ001', null,
  'a second answer is stale') from c where n = 2;
select pg_temp.refused('select awa._close(null, 1, ''failed'')', '22023', 'job_id', 'no job');
select pg_temp.refused('select awa._close(1, null, ''failed'')', '22023', 'receipt', 'no receipt');

savepoint here;

-- Many
create temp table many as
select * from awa._close_many(pg_temp.jobs(9, 1, 3, 10, 9, 15), pg_temp.receipts(9, 1, 3, 10, 9, 15), 'completed',
  '{}');
select is((select array_agg(o order by o) from many, unnest(ordinals) o), '{1,3,4,6}',
  'of many, the places of those that were open: an answer that is given twice counts once');
select is((select materialized from many), pg_temp.receipts(3), 'and those that have a row of their own');
select is(pg_temp.closed(), '1, 2, 3, 9 batch, 10 batch, 15 batch', 'the others are closed in batches');
select is((select array_agg(s order by o) from many, awa._stale(pg_temp.jobs(9, 1, 3, 10, 2, 15),
  pg_temp.receipts(9, 1, 3, 10, 2, 15), ordinals) with ordinality s(s, o)), pg_temp.jobs(1, 2),
  'the rest was stale');
select is((select k.closed from c, awa._close_item(c.job_id, c.receipt, 'completed') k where n = 9), false,
  'an item that was closed in a batch is closed once, too');
select is((select count(*) from awa._stale('{1,2}', '{1,2}', '{1,2}')), 0::bigint, 'or nothing was');
select is((select array_agg(o order by o)
  from awa._close_items(pg_temp.jobs(11, 16), pg_temp.receipts(11, 16), 'completed',
    array[(pg_temp.receipts(16))[1] >> 12]) i,
    unnest(i.ordinals) o), '{1,2}', 'some of them by a row each');
select is(pg_temp.closed(), '1, 2, 3, 9 batch, 10 batch, 11 batch, 15 batch, 16', 'as they were asked for');
rollback to here;

-- Keys that outlast their jobs
select is(awa._holding_keys(pg_temp.receipts(5, 6)), '{}', 'jobs without a key keep none');
select is(awa._holding_keys((select array_agg(receipt) from keyed)), (select array[receipt] from keyed where n = 1),
  'of those with one, those that hold it when they have completed');
select is((select row(k.closed, k.holds_keys, k.needs_row)::text
  from keyed, awa._close_item(job_id, receipt, 'completed') k where n = 1), '(t,t,t)', 'for which a row has to follow');
select is((select k.outcome from awa.lease_claim_closures k join keyed on k.claim_id = receipt >> 12 where n = 1),
  'completed_with_row', 'which the closure says');
select is((select row(k.closed, k.holds_keys, k.needs_row)::text
  from keyed, awa._close_item(job_id, receipt, 'completed') k where n = 2), '(t,t,f)', 'not for the others');

select * from finish();
rollback;
