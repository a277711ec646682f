-- Without this, work that came to a queue that no worker serves would have to be enqueued anew.
\set name move
\ir ../prelude.psql

create temp table jobs as
select n, awa.enqueue(pg_temp.q(), 'k', to_jsonb(n), 3, null, 5, '{t}', '{"m": 1}', 'g') as id
  from unnest(
    array['running', 'leased', 'retryable', 'snoozed', 'completed', 'failed', 'released']
  ) with ordinality u(n, place)
 order by place;
create temp table c as select j.n, t.job_id, t.receipt from awa.claim(:'queue', 100) t join jobs j on j.id = t.job_id;
select awa.extend(job_id, receipt, '1 hour') from c where n = 'leased' \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 day') from c where n = 'retryable' \g /dev/null
select awa.snooze(job_id, receipt, '1 day') from c where n = 'snoozed' \g /dev/null
select awa.complete(job_id, receipt) from c where n = 'completed' \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n = 'failed' \g /dev/null
select awa.release(job_id, receipt) from c where n = 'released' \g /dev/null
insert into jobs
select n,
       awa.enqueue(:'queue', 'k', to_jsonb(n), 3, case n when 'scheduled' then timestamptz '2130-01-01' end, 5, '{t}',
         '{"m": 1}', 'g')
  from unnest(array['available', 'scheduled', 'cancelled', 'same', 'undone']) n;
select awa.cancel(id) from jobs where n = 'cancelled' \g /dev/null
create temp table before as select j.id, to_jsonb(j) as job from awa.jobs j where j.queue = :'queue';
select pg_temp.step('setup') \g /dev/null

-- Committed moves, after which both queues are served
create temp table order_jobs as
select n, awa.enqueue(pg_temp.q(' from'), 'k', to_jsonb(n), case n when 3 then 1 end) as id
  from generate_series(1, 5) n;
select awa.enqueue(:'queue' || ' to', 'k', '"first"') \g /dev/null
create temp table moved as select n, awa.move(id, pg_temp.q(' to')) as state from order_jobs where n in (2, 3, 4);
select pg_temp.step('moved') \g /dev/null
select awa.move(id, :'queue' || ' from') from order_jobs where n = 4 \g /dev/null
select pg_temp.step('and back') \g /dev/null
create temp table served as
select row_number() over () as place, t.*
  from (values (' from'), (' to')) q(suffix)
 cross join lateral awa.claim(pg_temp.q(q.suffix), 10) t(job_id, receipt, q, kind, args, priority, attempt);
select pg_temp.step('served') \g /dev/null
-- One with a key of which its queue is a part
select job_id as keyed_id from awa.enqueue_unique(:'queue' || ' from', 'k', unique_by => '{queue}') \gset
select awa.move(:keyed_id, :'queue' || ' to') \g /dev/null
select pg_temp.step('keyed') \g /dev/null

begin;
select plan(39);

create temp table told as
select j.n, awa.move(job_id => j.id, queue => pg_temp.q(' new')) as state
  from jobs j
 where j.n in ('retryable', 'snoozed', 'scheduled', 'available', 'released');
select results_eq('select n, state from told order by n',
  $$values ('available', 'available'), ('released', 'available'), ('retryable', 'retryable'),
  ('scheduled', 'scheduled'), ('snoozed', 'scheduled')$$, 'move returns the state that the job was in');
select is((
  select count(*)
    from told t
    join jobs using (n)
    join before b using (id), awa.job(jobs.id) j
   where to_jsonb(j) = b.job || jsonb_build_object('queue', pg_temp.q(' new'))
),
  5::bigint, 'nothing but the queue changes');
select is((select count(*) from awa.queues q where q.name = pg_temp.q(' new')), 1::bigint, 'which exists from then on');
select is((
  select count(*)
    from before b
    join jobs using (id), awa.job(b.id) j
   where n not in (select n from told) and to_jsonb(j) = b.job
),
  7::bigint, 'other jobs stay as they are');
select pg_temp.agrees('the books of both balance');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select pg_temp.agrees('also when it is decided');
set constraints all deferred;
select is(awa.move(id, pg_temp.q()), 'available', 'the queue that it is in is no change') from jobs where n = 'same';
select is((select to_jsonb(j) from jobs, awa.job(jobs.id) j where n = 'same'),
  (select job from before join jobs using (id) where n = 'same'), 'at all');
select is(pg_temp.outcome(format('select awa.move(%s, %L)', id, pg_temp.q())), 'ok', 'back in the same transaction')
  from jobs
 where n = 'available';
select is((select j.queue from jobs, awa.job(jobs.id) j where n = 'available'), pg_temp.q(), 'is where it was');
select is(pg_temp.outcome(format('select awa.move(%s, %L)', id, pg_temp.q(' new'))), 'JQ005',
  'to a place where this transaction had it before is refused')
  from jobs
 where n = 'available';
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select pg_temp.agrees('the books balance after two');
set constraints all deferred;

-- Served
select is((select string_agg(n || state, ' ' order by n) from moved), '2available 3available 4available',
  'committed moves');
select is((select array_agg(args order by place) from served where q = pg_temp.q(' from')),
  array['1', '5', '4']::jsonb[], 'a queue is served without what left, and what came back at the end');
select is((select array_agg(args order by place) from served where q = pg_temp.q(' to')),
  array['3', '"first"', '2']::jsonb[], 'the other with it: on the lane of its priority, at the end');
select is((
  select count(*)
    from awa.complete_many((select array_agg(job_id) from served), (select array_agg(receipt) from served))
),
  0::bigint, 'receipts are good');
select is((
  select row(j.queue, count(u))::text
    from awa.job(:keyed_id) j
    left join awa.unique_claims u on u.job_id = j.id
   group by j.queue
),
  format('("%s",1)', pg_temp.q(' to')),
  'a job keeps the unique key that it came with, unless the queue is a part of it');
select pg_temp.agrees('the books balance with all that');

-- Wrong state
select pg_temp.refused(format('select awa.move(%s, pg_temp.q())', id), 'JQ005', 'state', 'a job that is ' || n)
  from jobs
 where n in ('running', 'leased', 'completed', 'failed', 'cancelled')
 order by n;
select is(pg_temp.outcome(format('select awa.move(%s, pg_temp.q($$ unknown$$))', id)), 'JQ005',
  'to a queue that is new')
  from jobs
 where n = 'running';
select is((select count(*) from awa.queues q where q.name = pg_temp.q(' unknown')), 0::bigint,
  'which does not come into being for it');
-- With the caller's transaction
savepoint business;
select awa.move(id, pg_temp.q(' gone')) from jobs where n = 'undone' \g /dev/null
rollback to business;
select is((select j.queue from jobs, awa.job(jobs.id) j where n = 'undone'), pg_temp.q(), 'what rolls back never was');
create temp table own as select awa.enqueue(pg_temp.q(' own'), 'k', '"own"') as id;
select is(awa.move(id, pg_temp.q(' owned')), 'available', 'what the transaction itself enqueued can be moved') from own;
select is((select string_agg(j.queue || j.state, ' ') from own, awa.jobs j where j.id = own.id),
  pg_temp.q(' owned') || 'available', 'and is there once');
select is((
  select string_agg(c.available::text, ' ' order by c.queue)
    from awa.queue_counts() c
   where c.queue in (pg_temp.q(' own'), pg_temp.q(' owned'))
),
  '0 1', 'also in the counts');

-- Refusals
select pg_temp.refused(format('select awa.move(%s, %s)', :keyed_id, c.queue), '22023', 'queue', c.description)
  from (values (1, 'null', 'no queue'), (2, $$''$$, 'an empty queue'),
    (3, $$repeat('ü', 201)$$, 'a queue of 201 characters')) c(n, queue, description)
 order by c.n;
select pg_temp.refused('select awa.move(null, pg_temp.q())', '22023', 'job_id', 'no job');
select pg_temp.refused(format('select awa.move(%s, pg_temp.q())', id), 'JQ003', 'no such job', 'job ' || id)
  from unnest(array[0, -1, 9223372036854775807, -9223372036854775808]) with ordinality u(id, n)
 order by n;
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');
select pg_temp.steps_agree();

select * from finish();
rollback;
