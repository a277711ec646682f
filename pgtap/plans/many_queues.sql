-- Without this, what reads or counts all queues would look into each lane of every queue that there ever was.
\set name many_queues
\ir ../prelude.psql
\ir cost.psql

-- Queues whose jobs have all completed, and are counted
create function pg_temp.queues(first int, last int) returns void
language plpgsql
as $$
declare
  v_claim record;
begin
  for n in first..last loop
    perform pg_temp.fill(pg_temp.q(' ' || n), 1);
    select c.* into v_claim from awa.claim(pg_temp.q(' ' || n)) c;
    perform awa.complete(v_claim.job_id, v_claim.receipt);
  end loop;
  while awa._fold(everything => true) loop
  end loop;
end
$$;
create function pg_temp.calls() returns text[]
language sql
return array[
  'queue_counts', 'select * from awa.queue_counts()',
  'list_queues', 'select * from awa.list_queues()',
  'list_workers', 'select * from awa.list_workers()',
  'health', 'select * from awa.health()',
  'list_jobs running', $$select * from awa.list_jobs(state => 'running')$$,
  'list_jobs available', $$select * from awa.list_jobs(state => 'available')$$,
  'a look at all queues', $$select setval('awa.next_fold_at', 1), awa._fold()$$
];

begin;
truncate awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures, awa.leases,
awa.deferred_jobs, awa.done_entries, awa.unique_claims, awa.queue_rollups, awa.workers, awa.lost_attempts;
delete from awa.queues;
select plan(18);

select pg_temp.queues(1, 100) \g /dev/null
select pg_temp.measure('100', pg_temp.calls()) \g /dev/null
select pg_temp.queues(101, 400) \g /dev/null
select pg_temp.measure('400', pg_temp.calls()) \g /dev/null
-- From one lane to the next in two indexes, the queue's counts, and its name; health looks at its settings and claims,
-- too
select cmp_ok((
  select (b.blocks - a.blocks) / 300
    from costs a
    join costs b using (what)
   where a.at = '100' and b.at = '400' and what = w.what
),
  '<', w.blocks::bigint, format('%s: few blocks for each queue in which nothing has happened', w.what))
  from (values ('queue_counts', 20), ('list_queues', 25), ('list_workers', 20), ('health', 30),
    ('list_jobs running', 20), ('list_jobs available', 20), ('a look at all queues', 20)) w(what, blocks);

-- What has changed in a few of them is there
select awa.enqueue(pg_temp.q(' 7'), 'k'), awa.enqueue(pg_temp.q(' 8'), 'k', run_at => '2130-01-01') \g /dev/null
select pg_temp.fill(pg_temp.q(' 9 new'), 2) \g /dev/null
select count(*) from awa.claim(pg_temp.q(' 9 new'), 1) \g /dev/null
select is(
  (
    select string_agg(format('%s: %s available, %s scheduled, %s running, %s completed', split_part(c.queue, ' ', 3),
      c.available, c.scheduled, c.running, c.completed),
      '; ' order by c.queue)
      from awa.queue_counts() c
     where c.available + c.scheduled + c.running > 0
  ),
  '7: 1 available, 0 scheduled, 0 running, 1 completed; 8: 0 available, 1 scheduled, 0 running, 1 completed; 9: 1 '
  'available, 0 scheduled, 1 running, 0 completed',
  'what has changed is counted');
select is((select sum(c.completed) from awa.queue_counts() c), 400::numeric, 'and what has not');
select pg_temp.measure('changed', pg_temp.calls()) \g /dev/null
select cmp_ok((
  select b.blocks - a.blocks
    from costs a
    join costs b using (what)
   where a.at = '400' and b.at = 'changed' and what = 'queue_counts'
),
  '<', 500::bigint, 'which costs as much as these few queues');

-- A transaction that has buried jobs in one queue counts them there, and not once for each lane of all queues
select pg_temp.fill(pg_temp.q(' 10 new'), 60) \g /dev/null
create function pg_temp.counts_of_one() returns text[]
language sql
return array[
  'queue_counts of one', format('select * from awa.queue_counts(%L)', pg_temp.q(' 10 new')),
  'list_jobs of one', format('select * from awa.list_jobs(%L, ''available'')', pg_temp.q(' 10 new')),
  'list_queues', 'select * from awa.list_queues()',
  'list_jobs available', $$select * from awa.list_jobs(state => 'available')$$,
  'list_jobs running', $$select * from awa.list_jobs(state => 'running')$$
];
select pg_temp.measure('nothing buried', pg_temp.counts_of_one()) \g /dev/null
insert into costs
select 'nothing buried', 'drop_queue', c.*
  from pg_temp.cost(format('select awa.drop_queue(%L, true)', pg_temp.q(' 8'))) c;
select awa.cancel_where(pg_temp.q(' 10 new'), max_jobs => 50) \g /dev/null
select pg_temp.measure('50 buried', pg_temp.counts_of_one()) \g /dev/null
insert into costs
select '50 buried', 'drop_queue', c.*
  from pg_temp.cost(format('select awa.drop_queue(%L, true)', pg_temp.q(' 10 new'))) c;
-- Ten blocks for each, and two for each segment before the current one: the entry is looked for there first.
select cmp_ok(
  (select b.blocks - a.blocks from costs a join costs b using (what)
    where a.at = 'nothing buried' and b.at = '50 buried' and what = w.what),
  '<', (select 50 * (10 + 2 * r.current_segment) from awa.ring r)::bigint,
  format('%s: few blocks for each buried job', w.what))
  from (values ('queue_counts of one'), ('list_jobs of one'), ('list_queues'), ('list_jobs available'),
    ('list_jobs running'), ('drop_queue')) w(what);

-- A job that waits in each of them, and is counted: only since when is looked up
create procedure pg_temp.waiting(first int, last int)
language plpgsql
as $$
begin
  for n in first..last loop
    perform pg_temp.fill(pg_temp.q(' waiting ' || n), 1);
  end loop;
  while awa._fold(everything => true) loop
  end loop;
end
$$;
call pg_temp.waiting(1, 100);
select pg_temp.measure('100 wait', pg_temp.calls()) \g /dev/null
call pg_temp.waiting(101, 300);
select pg_temp.measure('300 wait', pg_temp.calls()) \g /dev/null
select cmp_ok((
  select (b.blocks - a.blocks) / 200
    from costs a
    join costs b using (what)
   where a.at = '100 wait' and b.at = '300 wait' and what = w.what
),
  '<', w.blocks::bigint, format('%s: few blocks for each queue in which a job waits', w.what))
  from (values ('queue_counts', 55), ('health', 60)) w(what, blocks);

select * from finish();
rollback;
