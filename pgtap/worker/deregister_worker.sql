-- Without this, what a worker had open when it left would wait for its lease to end, and lose an attempt.
\set name deregister_worker
\ir ../prelude.psql

select awa.register_worker(:'queue') as worker_id, awa.register_worker(:'queue') as other_id,
       awa.register_worker(:'queue') as idle_id \gset
select count(*)
  from awa.enqueue_many(:'queue', 'k', array(select to_jsonb('w' || n) from generate_series(1, 10) n), 3) \g /dev/null
-- One of another queue with a row of its own, a key and some progress; and one that was taken from it.
select u.job_id as keyed_id from awa.enqueue_unique(:'queue' || ' lasts', 'k', unique_key => :'queue') u \gset
create temp table lasts as select * from awa.claim(:'queue' || ' lasts', 1, :worker_id);
select awa.set_progress(job_id, receipt, '0.5') from lasts \g /dev/null
select awa.enqueue(:'queue' || ' lost', 'k') as lost_id \gset
select count(*) from awa.claim(:'queue' || ' lost', 1, :worker_id) \g /dev/null
select awa.cancel(:lost_id) \g /dev/null
-- Six in one claim, of which it answers three; one in a claim of its own; two of another worker; one without a worker.
create temp table c as select row_number() over () as n, * from awa.claim(:'queue', 6, :worker_id);
create temp table single as select * from awa.claim(:'queue', 1, :worker_id);
create temp table other as select * from awa.claim(:'queue', 2, :other_id);
create temp table nobody as select * from awa.claim(:'queue', 1);
select awa.complete(job_id, receipt) from c where n = 2 \g /dev/null
select awa.complete_many(array_agg(job_id), array_agg(receipt)) from c where n = 4 \g /dev/null
select awa.fail(job_id, receipt, 'e') from c where n = 6 \g /dev/null
create temp table told as select awa.deregister_worker(worker_id => :worker_id) as released;
create temp table after as select * from awa.jobs where queue = :'queue';
select awa.enqueue(:'queue', 'k', '"first"', 1) \g /dev/null
-- One for a trigger that refuses some
select awa.register_worker('refused') as refused_worker_id \gset
select count(*) from awa.enqueue_many(:'queue' || ' refused', 'k', array_fill('{}'::jsonb, array[3])) \g /dev/null
create temp table refused as
select row_number() over (order by t.receipt) as n, t.job_id
  from awa.claim(pg_temp.q(' refused'), 3, :refused_worker_id) t;

begin;
select plan(32);

select is((select released from told), 5::bigint, 'the attempts that it had open are released, and counted');
select is((select count(*) from awa.workers w where w.worker_id = :worker_id), 0::bigint, 'the worker is gone');
select is((select string_agg(a.args #>> '{}', ' ' order by a.id) from after a where a.state = 'available'),
  'w1 w3 w5 w7', 'they are available again');
select is((
  select array_agg(distinct row(a.attempt, a.priority, a.receipt, a.worker_id, a.errors)::text)
    from after a
   where a.state = 'available'
),
  '{"(0,3,,,[])"}', 'without an attempt burnt');
select is((select string_agg(a.args #>> '{}', ' ' order by a.id) from after a where a.state = 'completed'), 'w2 w4',
  'what it completed stays completed');
select is((select string_agg(a.args #>> '{}', ' ' order by a.id) from after a where a.state = 'retryable'), 'w6',
  'what it failed stays failed');
select is((select string_agg(a.args #>> '{}', ' ' order by a.id) from after a where a.state = 'running'), 'w8 w9 w10',
  'what others have open is theirs');
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'a late answer is stale, item ' || n)
  from c
 where n in (1, 3, 5)
 order by n;
select pg_temp.refused(format('select awa.fail(%s, %s, %L)', job_id, receipt, 'e'), 'JQ001', 'stale',
  'also for a claim of one')
  from single;
select is((
  select count(*) from awa.complete_many((select array_agg(job_id) from c), (select array_agg(receipt) from c))
),
  6::bigint, 'and in a batch');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'ok',
  'the other worker answers as before')
  from other
 limit 1;
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'ok',
  'and so does a caller without a worker')
  from nobody;

create temp table served as select row_number() over () as place, s.* from awa.claim(pg_temp.q(), 10, :other_id) s;
select is((select array_agg(args #>> '{}' order by place) from served where args <> '"first"'),
  array(select args #>> '{}' from served where args <> '"first"' order by job_id), 'they come back in their order');
select is((select array_agg(args #>> '{}' order by place) from served), '{w1,w3,w5,w7,first}', 'before priority 1');
select is((select array_agg(distinct attempt) from served), '{1}', 'each as a first attempt');

select is(awa.deregister_worker(:worker_id), 0::bigint, 'a worker that has left has nothing to release');
select is(awa.deregister_worker(:idle_id), 0::bigint, 'nor has one that was idle');
select is((select count(*) from awa.workers w where w.worker_id = :idle_id), 0::bigint, 'which is gone too');
select is(awa.deregister_worker(9223372036854775807) + awa.deregister_worker(0) + awa.deregister_worker(-1), 0::bigint,
  'nor one that was never registered');
select pg_temp.refused('select awa.deregister_worker(null)', '22023', 'worker_id', 'no worker');
select pg_temp.refused(format('select * from awa.claim(pg_temp.q(), worker_id => %s)', :worker_id), '22023',
  'worker_id', 'a worker that has left claims nothing');

-- Attempts with rows of their own
select is((select row(j.state, j.attempt, j.progress, j.receipt, j.worker_id)::text from awa.job(:keyed_id) j),
  '(available,0,0.5,,)', 'an attempt with a row of its own is given back, too, with its progress');
select is((select count(*) from awa.leases l join lasts using (receipt)), 0::bigint, 'its row goes');
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'a late answer is stale')
  from lasts;
select is((select j.state from awa.job(:lost_id) j), 'cancelled', 'what was taken from it stays what it is');
select is((select count(*) from awa.lost_attempts r where r.worker_id = :worker_id), 0::bigint,
  'and nobody is left to be told');
select pg_temp.agrees('the books balance');

-- One that a user's trigger keeps from being given back: the others are all the same
select set_config('test.refused', (select job_id::text from refused where n = 2), true) \g /dev/null
create function public.refuse(
) returns
  trigger language plpgsql as $$ begin if new.job_id = current_setting(
    'test.refused'
  )::bigint then raise exception using errcode = '55000',
  message = 'not this one';
  end if; return new; end $$;
create trigger refuse before insert on awa.ready_entries for each row execute function public.refuse();
set local client_min_messages = error;
select is(awa.deregister_worker(:refused_worker_id), 2::bigint, 'one that is refused keeps no other one');
set local client_min_messages = warning;
select is((select string_agg(j.state, ' ' order by r.n) from refused r, awa.job(r.job_id) j),
  'available running available', 'and stays open, until its lease ends');
select is((select count(*) from awa.workers w where w.worker_id = :refused_worker_id), 0::bigint, 'the worker is gone');

select * from finish();
rollback;
