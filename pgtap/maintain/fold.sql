-- Without this, a count would read the whole history; or, once the past is counted, be off for ever.
\set name fold
\ir ../prelude.psql

create function pg_temp.rollup(suffix text, priority int default 2) returns text
language sql
begin atomic
  select format('%s appended, %s buried, %s claimed, %s completed, to claim %s', r.appended, r.buried, r.claimed, r.completed, r.closed_seq)
    from awa.queue_rollups r where r.lane = awa._queue_id(pg_temp.q(suffix)) * 8 + priority;
end;

-- A busy queue, counted after every step: jobs on all lanes, claimed, closed in every way, cancelled, moved, with keys
do $$
declare
  v_claims record;
begin
  for n in 1..25 loop
    perform awa.enqueue_many(pg_temp.q(' busy'), 'k', array_fill('{}'::jsonb, array[3]), priority => n % 4 + 1, max_attempts => 2);
    perform awa.enqueue_unique(pg_temp.q(' busy'), 'k', unique_key => pg_temp.q(' ' || n % 3), max_attempts => 2);
    commit;
    perform awa.cancel((select min(j.id) from awa.list_jobs(pg_temp.q(' busy'), 'available') j)) where n % 5 = 0;
    perform awa.set_priority((select max(j.id) from awa.list_jobs(pg_temp.q(' busy'), 'available') j), n % 4 + 1) where n % 4 = 0;
    commit;
    select array_agg(c.job_id) as jobs, array_agg(c.receipt) as receipts into v_claims from awa.claim(pg_temp.q(' busy'), n % 6 + 1) c;
    perform awa.complete(v_claims.jobs[1], v_claims.receipts[1]);
    perform awa.fail(v_claims.jobs[2], v_claims.receipts[2], 'e', '0') where cardinality(v_claims.jobs) > 1;
    perform awa.complete_many(v_claims.jobs[3:4], v_claims.receipts[3:4]) where cardinality(v_claims.jobs) > 3;
    perform awa.release(v_claims.jobs[5], v_claims.receipts[5]) where cardinality(v_claims.jobs) > 4;
    perform awa.extend(v_claims.jobs[6], v_claims.receipts[6], '1 hour') where cardinality(v_claims.jobs) > 5;
    commit;
    if n % 3 = 0 then
      perform awa.promote_due();
      commit;
    end if;
    if n % 2 = 0 then
      perform pg_temp.fold();
    end if;
    perform pg_temp.step('step ' || n);
    commit;
  end loop;
end
$$;

-- One lane, step by step
select count(*) from awa.enqueue_many(:'queue', 'k', array(select to_jsonb(n) from generate_series(1, 12) n)) \g /dev/null
create temp table c as select * from pg_temp.take('', 4);
create temp table d as select n + 4 as n, job_id, receipt from pg_temp.take('', 3);
select awa.cancel(j.id) from awa.jobs j where j.queue = :'queue' and j.args = '10' \g /dev/null
select pg_temp.fold() \g /dev/null
create temp table said as select 1 as n, pg_temp.rollup('') as says;
select count(*) from awa.complete_many((select array_agg(job_id) from c), (select array_agg(receipt) from c)) \g /dev/null
select pg_temp.fold() \g /dev/null
insert into said select 2, pg_temp.rollup('');
select awa.complete(job_id, receipt, '1') from d where n = 5 \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 day') from d where n = 6 \g /dev/null
select pg_temp.fold() \g /dev/null
insert into said select 3, pg_temp.rollup('');
select awa.extend(job_id, receipt, '1 hour') from d where n = 7 \g /dev/null
select pg_temp.fold() \g /dev/null
insert into said select 4, pg_temp.rollup('');
select pg_temp.step('one lane') \g /dev/null

-- A transaction that appends before and after it counts, and one that rolls back what it counted
begin;
select awa.enqueue(:'queue' || ' own', 'k', '1') \g /dev/null
select pg_temp.fold() \g /dev/null
select awa.enqueue(:'queue' || ' own', 'k', '2') \g /dev/null
select pg_temp.fold() \g /dev/null
insert into said select 5, pg_temp.rollup(' own');
select pg_temp.step('own') \g /dev/null
commit;
select pg_temp.step('own, committed') \g /dev/null
begin;
select awa.enqueue(:'queue' || ' own', 'k', '"gone"') \g /dev/null
select awa.cancel(j.id) from awa.jobs j where j.queue = :'queue' || ' own' and j.args = '2' \g /dev/null
select count(*) from awa.claim(:'queue' || ' own', 10) \g /dev/null
select pg_temp.fold() \g /dev/null
rollback;
select awa.enqueue(:'queue' || ' own', 'k', '3') \g /dev/null
select pg_temp.fold() \g /dev/null
insert into said select 6, pg_temp.rollup(' own');
select pg_temp.step('rolled back') \g /dev/null
select awa.enqueue(:'queue' || ' seldom', 'k') \g /dev/null
select awa._fold() \g /dev/null

begin;
select plan(16);

select is(says, expected, description)
  from said
  join (values
    (1, '12 appended, 1 buried, 0 claimed, 0 completed, to claim 0', 'what was appended and buried is counted'),
    (2, '12 appended, 1 buried, 4 claimed, 4 completed, to claim 1', 'and claims whose items are closed, from the oldest on'),
    (3, '12 appended, 1 buried, 4 claimed, 4 completed, to claim 1', 'but not one with an item that is open'),
    (4, '12 appended, 1 buried, 7 claimed, 5 completed, to claim 2', 'until that has moved to a row of its own'),
    (5, '0 appended, 0 buried, 0 claimed, 0 completed, to claim 0', 'what this very transaction appended is counted later'),
    (6, '3 appended, 0 buried, 0 claimed, 0 completed, to claim 0', 'once; and nothing that was rolled back')
  ) e(n, expected, description) using (n)
 order by n;
select pg_temp.steps_agree();
select pg_temp.agrees('the books balance');

-- Only so many claims
select pg_temp.fill(pg_temp.q(' many'), 10) \g /dev/null
create temp table many as select * from pg_temp.take(' many', 10, one_claim => false);
select awa.complete(job_id, receipt) from many \g /dev/null
select is((select completed from awa.queue_counts(pg_temp.q(' many'))), 10::bigint, 'ten claims');
select awa._fold(max_claims => 3) \g /dev/null
select is((select r.closed_seq from awa.queue_rollups r where r.lane = awa._queue_id(pg_temp.q(' many')) * 8 + 2), 3::bigint, 'at most so many in one pass');
select is((select completed from awa.queue_counts(pg_temp.q(' many'))), 10::bigint, 'the counts stay');
select pg_temp.fold() \g /dev/null
select is((select r.closed_seq from awa.queue_rollups r where r.lane = awa._queue_id(pg_temp.q(' many')) * 8 + 2), 10::bigint, 'the next pass goes on from there');
select is((select completed from awa.queue_counts(pg_temp.q(' many'))), 10::bigint, 'and the counts stay');

-- Seldom
update awa.queue_rollups r set folded_at = clock_timestamp() where r.lane = awa._queue_id(pg_temp.q(' seldom')) * 8 + 2;
create temp table before as select r.folded_at from awa.queue_rollups r where r.lane = awa._queue_id(pg_temp.q(' seldom')) * 8 + 2;
select awa.enqueue(:'queue' || ' seldom', 'k') \g /dev/null
select awa._fold() \g /dev/null
select is((select r.folded_at from awa.queue_rollups r where r.lane = awa._queue_id(pg_temp.q(' seldom')) * 8 + 2), (select folded_at from before), 'where little has happened, it is not counted again at once');
select is((select c.available from awa.queue_counts(pg_temp.q(' seldom')) c), 2::bigint, 'and the count is exact all the same');
update awa.queue_rollups r set folded_at = clock_timestamp() - interval '6 seconds' where r.lane = awa._queue_id(pg_temp.q(' seldom')) * 8 + 2;
select awa._fold() \g /dev/null
select ok((select r.folded_at > b.folded_at from before b, awa.queue_rollups r where r.lane = awa._queue_id(pg_temp.q(' seldom')) * 8 + 2), 'after a few seconds it is');

select * from finish();
rollback;
