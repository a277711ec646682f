-- Without this, maintenance would end attempts twice, or more of them than it was asked for. What it leaves alone is
-- covered by tests with several sessions.
\set name taking
\ir ../prelude.psql

begin;
select plan(7);

select pg_temp.fill(:'queue', 8) \g /dev/null
create temp table c as select * from pg_temp.take('', 3);
insert into c select 3 + t.n, t.job_id, t.receipt from pg_temp.take('', 5) t;
create function pg_temp.receipts(variadic ns int[]) returns bigint[]
language sql
return (select array_agg(c.receipt order by u.o) from unnest(ns) with ordinality u(n, o) join c using (n));

set local lock_timeout = 0;
select is(awa._take_open(pg_temp.receipts(7, 2, 4, 5), 3, 'failed'), pg_temp.receipts(2, 4, 5),
  'maintenance closes so many, the oldest claims first');
select is((select array_agg(c.n || ' ' || k.outcome order by c.n) from c join awa.lease_claim_closures k
  on k.claim_id = c.receipt >> 12 and k.item = (c.receipt & 4095)), '{2 failed,4 failed,5 failed}', 'by a row each');
select is(awa._take_open(pg_temp.receipts(2, 4, 6), 3, 'failed'), pg_temp.receipts(6), 'those that were open');
select is(awa._take_open('{}', 3, 'failed'), '{}', 'or none');
select is(awa._take_items(pg_temp.receipts(6, 7), 'failed'), pg_temp.receipts(7), 'an item is taken once');
select is(awa._take_items('{}', 'failed'), '{}', 'or none is');
select is((select count(*) from awa._open_items o join c using (receipt)), 3::bigint, 'the others stay open');

select * from finish();
rollback;
