-- Without this, a worker whose claim was answered into a broken connection would keep jobs that it does not know of
-- from everybody, for as long as it lives.
\set name release_unknown
\ir ../prelude.psql

select awa.register_worker(:'queue') as worker_id, awa.register_worker(:'queue') as other_id \gset
select count(*)
  from awa.enqueue_many(:'queue', 'k', array(select to_jsonb('w' || n) from generate_series(1, 12) n), 3) \g /dev/null
select u.job_id as keyed_id from awa.enqueue_unique(:'queue' || ' lasts', 'k', unique_key => :'queue') u \gset
-- Two that last, of which it knows one; six in one claim, of which it knows two and has answered one; one in a claim of
-- its own; one of another worker, and one without a worker.
select awa.enqueue(:'queue' || ' lasts', 'k') as lasting_id \gset
create temp table lasts as select row_number() over () as n, * from awa.claim(:'queue' || ' lasts', 2, :worker_id);
select awa.set_progress(job_id, receipt, '0.5') from lasts \g /dev/null
create temp table c as select row_number() over () as n, * from awa.claim(:'queue', 6, :worker_id);
create temp table single as select * from awa.claim(:'queue', 1, :worker_id);
create temp table other as select * from awa.claim(:'queue', 1, :other_id);
create temp table nobody as select * from awa.claim(:'queue', 1);
select awa.complete(job_id, receipt) from c where n = 2 \g /dev/null
create temp table known as
  select job_id, receipt
    from c
   where n in (1, 2, 5)
  union all
  select job_id, receipt
    from lasts
   where n = 2
  union all
  select job_id, 0
    from c
   where n = 3;
create temp table told as
  select awa.release_unknown(worker_id => :worker_id, job_ids => array_agg(job_id),
    receipts => array_agg(receipt)) as released
    from known;
create temp table after as select * from awa.jobs where queue like :'queue' || '%';

begin;
select plan(28);

select is((select released from told), 5::bigint, 'what it does not know is released, and counted');
select is((
  select string_agg(a.args #>> '{}', ' ' order by a.id)
    from after a
   where a.state = 'available' and a.queue = pg_temp.q() and a.attempt = 0 and a.receipt is null
),
  'w3 w4 w6 w7 w10 w11 w12',
  'it is available again, without an attempt burnt, also where the receipt does not fit the job');
select is((
  select string_agg(a.args #>> '{}', ' ' order by a.id)
    from after a
   where a.state = 'running' and a.worker_id = :worker_id and a.queue = pg_temp.q()
),
  'w1 w5', 'what it knows is its own still');
select is((select string_agg(a.args #>> '{}', ' ' order by a.id) from after a where a.state = 'completed'), 'w2',
  'what it has answered stays answered');
select is((
  select string_agg(a.args #>> '{}', ' ' order by a.id)
    from after a
   where a.state = 'running' and a.worker_id is distinct from :worker_id
),
  'w8 w9', 'what others have open is theirs');
select is((select row(j.state, j.attempt, j.progress, j.receipt, j.worker_id)::text from awa.job(:keyed_id) j),
  '(available,0,0.5,,)', 'one with a row of its own is released, too, with its progress');
select is((select row(j.state, j.worker_id)::text from awa.job(:lasting_id) j), format('(running,%s)', :worker_id),
  'unless it is known');
select is((select count(*) from awa.unique_claims u where u.job_id = :keyed_id), 1::bigint, 'it holds its key');
select is((select count(*) from awa.workers w where w.worker_id = :worker_id), 1::bigint, 'the worker is still there');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'ok',
  'and answers for what it knows, item ' || n)
  from c
 where n in (1, 5)
 order by n;
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'a late answer is stale, item ' || n)
  from c
 where n in (3, 4, 6)
 order by n;
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'also for a claim of one')
  from single;
select is((select string_agg(args #>> '{}', ' ') from (select * from awa.claim(pg_temp.q(), 4, :worker_id)) s),
  'w3 w4 w6 w7', 'they come back first, and it may claim them');
select is(awa.release_unknown(:worker_id, '{}', '{}'), 5::bigint, 'a worker that knows nothing gives everything back');
select is(awa.release_unknown(:worker_id, '{}', '{}'), 0::bigint, 'a second time there is nothing');
select is(awa.release_unknown(9223372036854775807, '{}', '{}'), 0::bigint,
  'nor does a worker have anything that was never registered');
select pg_temp.refused('select awa.release_unknown(null, ''{}'', ''{}'')', '22023', 'worker_id', 'no worker');
select pg_temp.refused('select awa.release_unknown(1, null, ''{}'')', '22023', 'job_ids', 'no jobs');
select pg_temp.refused('select awa.release_unknown(1, ''{}'', null)', '22023', 'receipts', 'no receipts');
select pg_temp.refused('select awa.release_unknown(1, ''{1}'', ''{}'')', '22023', 'receipts',
  'arrays that do not fit together');
select pg_temp.agrees('the books balance');

-- A worker may know more than it may answer for in one call: those that run, those that wait, and answers
select is(awa.release_unknown(:other_id, array_agg(n), array_agg(n)), 1::bigint, 'it may know very many')
  from generate_series(1, 100000) n;
select pg_temp.refused(format('select awa.release_unknown(1, array_agg(n), array_agg(n)) from generate_series(1, %s) n',
  100001), '22023', 'job_ids', 'but there is an end');

-- One that a user's trigger keeps from being given back, whatever it raises: the others are all the same
create temp table more as select job_id from awa.claim(pg_temp.q(), 3, :worker_id);
select set_config('test.refused', (select min(job_id)::text from more), true) \g /dev/null
create function public.refuse(
) returns
  trigger language plpgsql as $$ begin if new.job_id = current_setting(
    'test.refused'
  )::bigint then raise exception using errcode = '55000',
  message = 'not this one';
  end if; return new; end $$;
create trigger refuse before insert on awa.ready_entries for each row execute function public.refuse();
set local client_min_messages = error;
select is(awa.release_unknown(:worker_id, '{}', '{}'), 2::bigint, 'one that is refused keeps no other one');
set local client_min_messages = warning;
select is((select j.state from awa.job(current_setting('test.refused')::bigint) j), 'running', 'and stays open');

select * from finish();
rollback;
