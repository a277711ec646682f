-- Without this, a queue that nobody needs would be listed for ever; or be dropped with work that a user waits for.
\set name drop_queue
\ir ../prelude.psql
\ir ../read/states.psql

select count(*)
  from unnest(array['available', 'running', 'leased', 'failed', 'dead']) n
 cross join lateral awa.enqueue_unique(pg_temp.q(' keyed'), n, unique_key => pg_temp.q(' ' || n),
  unique_states => '{available,running,failed,dead}', priority => case n when 'available' then 4 end) u \g /dev/null
create temp table c as select t.kind, t.job_id, t.receipt from awa.claim(:'queue' || ' keyed', 4, :worker_id) t;
select awa.extend(job_id, receipt, '1 hour') from c where kind = 'leased' \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where kind = 'failed' \g /dev/null
select awa.configure_queue(:'queue' || ' keyed', '{"dead_letter": true, "lease": "7 minutes"}') \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where kind = 'dead' \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' idle', 'k', array_fill('{}'::jsonb, array[3])) \g /dev/null
create temp table idle as select * from pg_temp.take(' idle', 3);
select awa.complete(job_id, receipt) from idle where n = 1 \g /dev/null
select awa.complete(job_id, receipt, '1') from idle where n = 2 \g /dev/null
select awa.discard(job_id, receipt, 'e') from idle where n = 3 \g /dev/null
select awa.enqueue(:'queue' || ' other', 'k') as other_id \gset
select pg_temp.step('setup') \g /dev/null

-- A queue that is dropped, used again, and dropped again; all committed
select count(*) from awa.enqueue_many(:'queue' || ' twice', 'old', array_fill('{}'::jsonb, array[5])) \g /dev/null
create temp table old as select * from pg_temp.take(' twice', 2);
select awa.complete(job_id, receipt) from old where n = 1 \g /dev/null
select awa.release(job_id, receipt) from old where n = 2 \g /dev/null
select awa.drop_queue(:'queue' || ' twice', force => true) \g /dev/null
create temp table after as
select (select count(*) from awa.queues q where q.name = pg_temp.q(' twice') and q.dropped_at is null) as queues,
       (select count(*) from awa.jobs j where j.queue = pg_temp.q(' twice')) as jobs;
select count(*) from awa.enqueue_many(:'queue' || ' twice', 'new', array_fill('{}'::jsonb, array[3])) \g /dev/null
select pg_temp.step('used again') \g /dev/null
create temp table new as select t.* from awa.claim(:'queue' || ' twice', 2) t;
select pg_temp.step('claimed again') \g /dev/null
select awa.complete(job_id, receipt) from new limit 1 \g /dev/null
select pg_temp.fold() \g /dev/null
select pg_temp.step('counted') \g /dev/null
create temp table twice as select * from awa.queue_counts(:'queue' || ' twice');
select awa.drop_queue(:'queue' || ' twice', true) \g /dev/null
select awa.enqueue(:'queue' || ' twice', 'newer') as newer_id \gset
select pg_temp.step('used once more') \g /dev/null
-- A transaction that enqueues, and drops the queue: that goes with it, what it enqueues afterwards stays
begin;
select job_id as own_id from awa.enqueue_unique(:'queue' || ' own', 'before', unique_key => :'queue' || ' own') \gset
select awa.enqueue(:'queue' || ' own', 'before', run_at => '2130-01-01') \g /dev/null
select awa.drop_queue(:'queue' || ' own', true) \g /dev/null
select pg_temp.step('own, dropped') \g /dev/null
select awa.enqueue(:'queue' || ' own', 'after') \g /dev/null
commit;
select pg_temp.step('own') \g /dev/null
create temp table own as select * from awa.claim(:'queue' || ' own', 10);
select pg_temp.step('own, claimed') \g /dev/null

begin;
select plan(40);

-- Refused
select pg_temp.refused($$select awa.drop_queue(pg_temp.q())$$, 'JQ005', 'have not ended',
  'a queue with jobs that have not ended');
select pg_temp.refused(format('select awa.drop_queue(pg_temp.q(), %s)', f), 'JQ005', 'have not ended', 'force ' || f)
  from unnest(array['false', 'null']) f;
select is(pg_temp.states(),
  'available 4, cancelled 2, completed 4, dead 1, failed 1, retryable 1, running 2, scheduled 2', 'they stay');
select is(pg_temp.outcome('select awa.drop_queue(queue => pg_temp.q($$ other$$))'), 'JQ005',
  'one that is available is enough');

-- One whose jobs have all ended
create temp table told as select awa.drop_queue(queue => pg_temp.q(' idle'))::text as answer;
select is((select answer from told), '', 'drop_queue returns nothing');
select is((select count(*) from awa.queues q where q.name = pg_temp.q(' idle') and q.dropped_at is null), 0::bigint,
  'a queue whose jobs have all ended is gone');
select is((select count(*) from awa.queue_counts(pg_temp.q(' idle'))), 0::bigint, 'it has no counts');
select is((select count(*) from awa.jobs j where j.id in (select job_id from idle where n = 3)), 0::bigint,
  'its failed jobs are gone');
select is((select count(*) from awa.jobs j where j.id in (select job_id from idle where n in (1, 2))), 0::bigint,
  'and its completed ones are not shown');

-- By force
create temp table before as
select j.id
  from awa.jobs j
 where j.queue in (pg_temp.q(), pg_temp.q(' keyed')) and j.state <> 'completed';
create temp table settings as
select count(*) as n
  from awa.queue_settings s
 where s.queue_id = awa._queue_id(pg_temp.q(' keyed'));
select is((select n from settings), 1::bigint, 'a queue with settings');
select awa.drop_queue(queue => :'queue' || s, force => true) from unnest(array['', ' keyed']) s \g /dev/null
select is((select count(*) from awa.jobs j join before b using (id)), 0::bigint,
  'by force, all that waits, runs, failed or is dead is gone');
select is((select count(*) from awa.jobs j where j.queue in (pg_temp.q(), pg_temp.q(' keyed'))), 0::bigint,
  'nothing of it is shown');
select is((select count(*) from awa.queue_settings s where s.queue_id = awa._queue_id(pg_temp.q(' keyed'))), 0::bigint,
  'its settings are gone');
select is((select count(*) from awa.unique_claims u where u.job_id in (select id from before)), 0::bigint,
  'so are unique keys');
select is((select count(*) from awa.leases l join c using (receipt)), 0::bigint, 'and rows of attempts');
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'the answer of a worker is stale: ' || kind)
  from c
 where kind in ('running', 'leased')
 order by kind;
select is((
  select array_agg(c.kind || ' ' || l.reason order by c.kind)
    from awa.heartbeat(:worker_id) l
    join c using (job_id, receipt)
),
  '{"leased the queue was dropped","running the queue was dropped"}', 'and it is told');
select is((select count(*) from awa.claim(pg_temp.q(), 100)) + (
  select count(*) from awa.claim(pg_temp.q(' keyed'), 100)
),
  0::bigint, 'there is nothing to claim');
select pg_temp.agrees('other queues'' books balance');
select is((select j.state from awa.job(:other_id) j), 'available', 'as they were');

-- Used again
select is((select row(queues, jobs)::text from after), '(0,0)', 'a queue that was dropped');
select is((select array_agg(distinct kind) from new), '{new}', 'and is used again has its new jobs alone');
select is((select row(available, running, failed, cancelled, dead)::text from twice), '(1,1,0,0,0)',
  'counted from nothing');
select is((
  select string_agg(j.kind || ' ' || j.state, ', ' order by j.id)
    from awa.jobs j
   where j.queue = pg_temp.q(' twice') and j.state <> 'completed'
),
  'newer available', 'and dropped again, too');
select pg_temp.agrees('the books balance in the end');
select awa.enqueue(pg_temp.q(), 'again') as again_id \gset
select is((select row(c.available, c.running, c.failed, c.dead)::text from awa.queue_counts(pg_temp.q()) c),
  '(1,0,0,0)', 'in the transaction that dropped it, too');
select is(pg_temp.states(),
  (
    select string_agg(s.state || ' ' || s.jobs, ', ' order by s.state)
      from (
        select 'available' as state, c.available as jobs
          from awa.queue_counts(pg_temp.q()) c
        union all
        select 'completed', c.completed
          from awa.queue_counts(pg_temp.q()) c
      ) s
     where s.jobs > 0
  ),
  'as awa.jobs shows');

-- Jobs that the transaction itself enqueued
select is((select string_agg(kind, ' ') from own), 'after',
  'what a transaction enqueued before it dropped the queue is never claimed; what it enqueued after that is');
select is((select string_agg(j.kind || ' ' || j.state, ', ') from awa.jobs j where j.queue = pg_temp.q(' own')),
  'after running', 'or shown');
select is((
  select row(c.available, c.scheduled, c.running, c.cancelled)::text from awa.queue_counts(pg_temp.q(' own')) c
),
  '(0,0,1,0)', 'or counted');
select is((select count(*) from awa.unique_claims u where u.job_id = :own_id), 0::bigint, 'and its key is free');

-- Refusals
select pg_temp.refused(format('select awa.drop_queue(%s)', c.queue), c.state, c.names, c.description)
  from (values
    (1, 'null', '22023', 'queue', 'no queue'), (2, $$''$$, '22023', 'queue', 'an empty queue'),
    (3, $$repeat('q', 201)$$, '22023', 'queue', 'a queue of 201 characters'),
    (4, $$pg_temp.q(' unknown')$$, 'JQ002', 'queue', 'a queue that no job was enqueued to'),
    (5, $$pg_temp.q(' idle')$$, 'JQ002', 'queue', 'a queue that was dropped')
  ) c(n, queue, state, names, description)
 order by c.n;
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');
select pg_temp.steps_agree();

select * from finish();
rollback;
