-- Without this, counts would drift from what is there: a job counted as ready that runs, or not counted at all.
\set name queue_counts
\ir ../prelude.psql
\ir states.psql

select awa.enqueue(:'queue' || ' scheduled', 'k', run_at => '2130-01-01') \g /dev/null
select count(*)
  from generate_series(1, 4) p,
    awa.enqueue_many(:'queue' || ' lanes', 'k', array_fill('{}'::jsonb, array[30]), priority => p) \g /dev/null
create temp table lanes as select * from pg_temp.take(' lanes', 50);
select awa.release(job_id, receipt) from lanes where n between 20 and 40 \g /dev/null

-- A job that was enqueued in a transaction that was open when its lane was read to its end: here that of the claim
-- itself
select awa.enqueue(:'queue' || ' late', 'k') \g /dev/null
begin;
select awa.enqueue(:'queue' || ' late', 'k') \g /dev/null
savepoint s;
select awa.enqueue(:'queue' || ' late', 'k') \g /dev/null
rollback to s;
select count(*) from awa.claim(:'queue' || ' late', 10) \g /dev/null
commit;

-- What awa.jobs says, against what the counts say: the rows that differ. Of this run's queues: others may have jobs
-- that are counted, and not kept any more.
create function pg_temp.differences() returns bigint
language sql
begin atomic
  select count(*)
    from (
      select q.name as queue,
             count(j.id) filter (where j.state = 'available') as available,
             count(j.id) filter (where j.state = 'scheduled') as scheduled,
             count(j.id) filter (where j.state = 'retryable') as retryable,
             count(j.id) filter (where j.state = 'running') as running,
             count(j.id) filter (where j.state = 'waiting_external') as waiting_external,
             count(j.id) filter (where j.state = 'completed') as completed,
             count(j.id) filter (where j.state = 'failed') as failed,
             count(j.id) filter (where j.state = 'cancelled') as cancelled,
             count(j.id) filter (where j.state = 'dead') as dead
        from (select distinct name from awa.queues where starts_with(name, pg_temp.q())) q
        left join awa.jobs j on j.queue = q.name
       group by q.name
    ) counted
    full join (select * from awa.queue_counts() c where starts_with(c.queue, pg_temp.q())) c using (queue)
   where row(counted.available, counted.scheduled, counted.retryable, counted.running, counted.waiting_external,
     counted.completed, counted.failed, counted.cancelled, counted.dead)
         is distinct from row(c.available, c.scheduled, c.retryable, c.running, c.waiting_external, c.completed,
           c.failed, c.cancelled, c.dead);
end;

begin;
select plan(26);

select is(
  (select to_jsonb(c) - 'oldest_ready_at' from awa.queue_counts(queue => pg_temp.q()) c),
  jsonb_build_object('queue', pg_temp.q(), 'available', 4, 'scheduled', 2, 'retryable', 1, 'running', 2,
    'waiting_external', 0, 'completed', 4, 'failed', 1, 'cancelled', 2, 'dead', 1, 'limited', 0),
  'one count per state');
select is((select c.oldest_ready_at from awa.queue_counts(pg_temp.q()) c),
  (select min(j.run_at) from awa.jobs j where j.queue = pg_temp.q() and j.state = 'available'),
  'and since when the oldest ready job waits');
select is((
  select string_agg(format('%s: %s available, the oldest since %s', c.queue, c.available,
    coalesce(c.oldest_ready_at::text, 'never')),
    ', ')
    from awa.queue_counts() c
   where (c.available > 0) <> (c.oldest_ready_at is not null)
),
  null, 'of any queue that has one');
select is((select row(c.available, c.oldest_ready_at)::text from awa.queue_counts(pg_temp.q(' late')) c),
  (select row(1, j.run_at)::text from awa.jobs j where j.queue = pg_temp.q(' late') and j.state = 'available'),
  'also when it committed late');
select is((
  select row(c.scheduled, c.available, c.oldest_ready_at)::text from awa.queue_counts(pg_temp.q(' scheduled')) c
),
  '(1,0,)', 'where none is ready there is no oldest');
select is((select count(*) from awa.queue_counts(pg_temp.q(' unknown'))), 0::bigint,
  'no row for a queue that no job was enqueued to');
select is((select count(*) from awa.queue_counts(null)),
  (select count(distinct q.name) from awa.queues q where q.dropped_at is null), 'an explicit null means every queue');
select is((
  select count(*)
    from (select to_jsonb(c) from awa.queue_counts() c except all select to_jsonb(c) from awa.queue_counts c) d
),
  0::bigint, 'the function has the rows of the view');
select is((select count(*) from awa.queue_counts()), (select count(*) from awa.queue_counts), 'as many');
select is(pg_temp.differences(), 0::bigint, 'every count is what awa.jobs shows');
select is((select row(c.available, c.running)::text from awa.queue_counts(pg_temp.q(' lanes')) c), '(91,29)',
  'all lanes count, the front lane too');

-- At every step of a transaction
select count(*)
  from generate_series(1, 4) p,
    awa.enqueue_many(:'queue' || ' lanes', 'k', array_fill('{}'::jsonb, array[5]), priority => p) \g /dev/null
select is((select row(c.available, c.running)::text from awa.queue_counts(pg_temp.q(' lanes')) c), '(111,29)',
  'what the transaction enqueued counts');
select is(pg_temp.differences(), 0::bigint, 'as awa.jobs shows it');
create temp table own as select * from pg_temp.take(' lanes', 25);
select is((select row(c.available, c.running)::text from awa.queue_counts(pg_temp.q(' lanes')) c), '(86,54)',
  'so does what it claims');
select is(pg_temp.differences(), 0::bigint, 'as awa.jobs shows it');
select count(*)
  from awa.complete_many((select array_agg(job_id) from own where n < 9),
    (select array_agg(receipt) from own where n < 9)) \g /dev/null
select awa.complete(job_id, receipt, '1') from own where n = 9 \g /dev/null
select awa.fail(job_id, receipt, 'e') from own where n = 10 \g /dev/null
select awa.release(job_id, receipt) from own where n = 11 \g /dev/null
select is((
  select row(c.available, c.running, c.completed, c.retryable)::text from awa.queue_counts(pg_temp.q(' lanes')) c
),
  '(87,43,9,1)', 'and how it ends');
select is(pg_temp.differences(), 0::bigint, 'as awa.jobs shows it');
create temp table rest as select * from pg_temp.take(' lanes', 500);
select is((select row(c.available, c.running)::text from awa.queue_counts(pg_temp.q(' lanes')) c), '(21,109)',
  'what cannot be claimed yet is available');
select is(pg_temp.differences(), 0::bigint, 'as awa.jobs shows it');
select awa.enqueue(:'queue' || ' lanes', 'k', priority => 1) \g /dev/null
select is((select c.available from awa.queue_counts(pg_temp.q(' lanes')) c), 22::bigint,
  'also what comes after the lane was read to its end');
select is(pg_temp.differences(), 0::bigint, 'as awa.jobs shows it');

-- When the past is counted, too, and entries are buried
select awa.cancel(j.id)
  from (
    select j.id
      from awa.jobs j
     where j.queue = pg_temp.q(' lanes') and j.state = 'available'
     order by j.id
     limit 3
  ) j \g /dev/null
select awa.set_priority(j.id, 1)
  from (
    select j.id
      from awa.jobs j
     where j.queue = pg_temp.q(' lanes') and j.state = 'available' and j.priority = 4
     order by j.id
     limit 2
  ) j \g /dev/null
select is(pg_temp.differences(), 0::bigint, 'what is cancelled or moved counts once');
select pg_temp.fold() \g /dev/null
select is(pg_temp.differences(), 0::bigint, 'when the past is counted, nothing changes');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select is(pg_temp.differences(), 0::bigint, 'nor when it is decided');
set constraints all deferred;

-- A queue that two producers made at once
insert into awa.queues (queue_id, lane, name)
select q.queue_id, q.lane, q.name
  from awa.queues q
 where q.name = pg_temp.q();
select is((select count(*) from awa.queue_counts(pg_temp.q())), 1::bigint,
  'a queue that two producers made at once is one');
select is((select c.available from awa.queue_counts(pg_temp.q()) c), 4::bigint, 'and its jobs count once');

select * from finish();
rollback;
