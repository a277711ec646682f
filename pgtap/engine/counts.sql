-- Without this, counts would lag behind, or be wrong once the past is counted; and a row that is missing would not be
-- noticed. The counts themselves: see queue_counts; what the books say: see audit.
\set name counts
\ir ../prelude.psql

begin;
select plan(15);

select pg_temp.fill(:'queue', 10) \g /dev/null
select awa._lane(awa._queue_id(:'queue'), 2) as lane \gset
create function pg_temp.counts() returns text
language sql
return (
  select format('available %s, running %s, completed %s', c.available, c.running, c.completed)
    from awa._lane_counts c
   where c.queue_id = awa._queue_id(pg_temp.q()) and c.lane = awa._lane(awa._queue_id(pg_temp.q()), 2)
);
select is(pg_temp.counts(), 'available 10, running 0, completed 0', 'entries');
create temp table c as select * from pg_temp.take('', 6);
select is(pg_temp.counts(), 'available 4, running 6, completed 0', 'claimed');
select awa.complete(job_id, receipt) from c where n = 1 \g /dev/null
select count(*) from awa.complete_many(array(select job_id from c where n in (2, 3)),
  array(select receipt from c where n in (2, 3))) \g /dev/null
select is(pg_temp.counts(), 'available 4, running 3, completed 3', 'completed, alone or in a batch');
select awa.fail(job_id, receipt, 'e', '1 day') from c where n = 4 \g /dev/null
select is(pg_temp.counts(), 'available 4, running 2, completed 3', 'one that failed is counted where it waits');
select is((select row(q.available, q.retryable, q.running, q.completed)::text from awa._queue_counts(pg_temp.q()) q),
  '(4,1,2,3)', 'with all that its queue has');
select awa.complete(job_id, receipt) from c where n in (5, 6) \g /dev/null
select pg_temp.fold() \g /dev/null
select is(pg_temp.counts(), 'available 4, running 0, completed 5', 'the same when it is counted');
select is((select c.closed_seq from awa._lanes c where c.lane = :lane), 1::bigint, 'which it is');
select is((select count(*) from awa._queue_counts(pg_temp.q(' other'))), 0::bigint, 'a queue that is not there');
select is((select c.queue from awa._queue_counts(null::text) c where c.queue = :'queue'), :'queue'::text, 'all queues');

savepoint here;
insert into awa.deleted_jobs (segment, lane, xid, job_id)
select e.segment, e.lane, e.xid, e.job_id from awa.ready_entries e where e.job_id = (select job_id from c where n = 1);
select is(pg_temp.counts(), 'available 4, running 0, completed 4', 'a completed job that was deleted is not counted');
rollback to here;

-- Missing rows
create function pg_temp.problems() returns text
language sql
return (
  select string_agg(regexp_replace(i.problem, '\d{4,}', 'n', 'g'), ' | ' order by i.problem)
    from awa._imbalances i
   where i.lane = awa._lane(awa._queue_id(pg_temp.q()), 2) or i.lane is null
);
select is(pg_temp.problems(), null, 'nothing is missing');
savepoint here;
delete from awa.ready_entries e where e.job_id = (select job_id from c where n = 1);
select matches(pg_temp.problems(), '^segment \d: 10 entries counted, 9 there$', 'an entry');
rollback to here;
delete from awa.lease_claim_closures k where k.claim_id = (select receipt >> 12 from c where n = 1) and k.item = 0;
select matches(pg_temp.problems(), 'which is counted as closed, 5 of 6 items are$', 'a closure');
rollback to here;
delete from awa.lease_claims k where k.claim_id = (select receipt >> 12 from c where n = 1);
select matches(pg_temp.problems(), 'claim \w+ is missing, but was answered$', 'a claim');
rollback to here;
create temp table d as select * from pg_temp.take('', 1);
insert into d select * from pg_temp.take('', 1);
delete from awa.lease_claims k where k.claim_id = (select min(receipt) >> 12 from d);
select matches(pg_temp.problems(), '^claims 1 to 3: 1 are missing$', 'a claim that nobody answered');

select * from finish();
rollback;
