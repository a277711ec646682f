-- Without this, a worker that lives would be taken for dead, and its jobs run twice.
\set name heartbeat
\ir ../prelude.psql

select awa.register_worker(:'queue') as worker_id, awa.register_worker(:'queue') as other_id,
       awa.register_worker(:'queue') as left_id \gset
select awa.deregister_worker(:left_id) \g /dev/null
select awa.enqueue(:'queue', 'k') as job_id \gset
create temp table c as select * from awa.claim(:'queue', worker_id => :worker_id);
create temp table before as select * from awa.workers where worker_id in (:worker_id, :other_id);

-- What it can lose: by a cancel, in the ledger and in a row of its own. What it answers itself, and what others lose,
-- is not told.
select count(*)
  from awa.enqueue_many(:'queue' || ' lost', 'k', array(select to_jsonb(n) from generate_series(1, 8) n)) \g /dev/null
create temp table l as
select row_number() over (order by t.receipt)::int as n, t.job_id, t.receipt
  from awa.claim(:'queue' || ' lost', 5, :worker_id) t;
insert into l
select row_number() over (order by t.receipt)::int + 5, t.job_id, t.receipt
  from awa.claim(:'queue' || ' lost', 2, :other_id) t;
insert into l select 8, t.job_id, t.receipt from awa.claim(:'queue' || ' lost', 1) t;
select awa.extend(job_id, receipt, '1 hour') from l where n = 2 \g /dev/null

begin;
select plan(27);

select is((select count(*) from awa.heartbeat(worker_id => :worker_id)), 0::bigint,
  'a worker that has lost nothing is told nothing');
select cmp_ok((select w.heartbeat_at from awa.workers w where w.worker_id = :worker_id), '>',
  (select heartbeat_at from before where worker_id = :worker_id), 'it is alive, as of now');
select ok((select w.heartbeat_at between now() and clock_timestamp() from awa.workers w where w.worker_id = :worker_id),
  'not as of when its transaction began');
select is((select to_jsonb(w) - 'heartbeat_at' from awa.workers w where w.worker_id = :worker_id),
  (select to_jsonb(b) - 'heartbeat_at' from before b where worker_id = :worker_id), 'nothing else about it changes');
select is((select w.heartbeat_at from awa.workers w where w.worker_id = :other_id),
  (select heartbeat_at from before where worker_id = :other_id), 'nor anything about another worker');
select is((select j.heartbeat_at from awa.job(:job_id) j),
  (select w.heartbeat_at from awa.workers w where w.worker_id = :worker_id), 'its running jobs show it');
select is(
  (select array_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)) order by a.attnum)
     from pg_proc p
     join pg_type t on t.oid = p.prorettype
     join pg_attribute a on a.attrelid = t.typrelid and a.attnum > 0
    where p.oid = 'awa.heartbeat'::regproc),
  '{job_id bigint,receipt bigint,reason text}', 'what it returns names the attempts to stop');
select pg_temp.refused(format('select * from awa.heartbeat(%s)', c.id), '22023', 'worker_id', c.description)
  from (values (1, 'null', 'no worker'), (2, '0', 'worker 0'), (3, '-1', 'worker -1'),
    (4, '9223372036854775807', 'a worker that was never registered'),
    (5, :'left_id', 'a worker that has left')) c(n, id, description)
 order by c.n;
select awa.complete(job_id, receipt) from c \g /dev/null
select is((select j.heartbeat_at from awa.job(:job_id) j), null, 'an ended job shows no heartbeat');

-- Lost attempts
create function pg_temp.told(worker_id bigint) returns text
language sql
return (
  select string_agg(format('%s %s', l.n, h.reason), ', ' order by l.n)
    from awa.heartbeat(worker_id) h
    join l using (job_id, receipt)
);
select awa.cancel(job_id, 'off') from l where n in (1, 2, 6, 8) \g /dev/null
select awa.complete(job_id, receipt) from l where n = 3 \g /dev/null
select awa.cancel_attempt(job_id, receipt) from l where n = 4 \g /dev/null
select is(pg_temp.told(:worker_id), '1 off, 2 off',
  'a worker is told of the attempts that were taken from it, and why');
select is(pg_temp.told(:other_id), '6 off', 'another one of its own');
select is((select array_agg(h.receipt) from awa.heartbeat(:worker_id) h),
  (select array_agg(receipt order by receipt) from l where n in (1, 2)), 'in the order of their receipts');
select is(pg_temp.told(:worker_id), '1 off, 2 off', 'again and again');
select ok((
  select bool_and(r.told_at between now() and clock_timestamp()) from awa.lost_attempts r where r.worker_id = :worker_id
),
  'since it was told first');
update awa.lost_attempts r set told_at = clock_timestamp() - interval '40 seconds' where r.worker_id = :worker_id;
select is(pg_temp.told(:worker_id), '1 off, 2 off', 'for a minute');
update awa.lost_attempts r set told_at = clock_timestamp() - interval '61 seconds' where r.worker_id = :worker_id;
select is(pg_temp.told(:worker_id), null, 'and then no more');
select is((select count(*) from awa.lost_attempts r where r.worker_id = :worker_id), 0::bigint,
  'nothing is kept of it');
select is(pg_temp.told(:other_id), '6 off', 'of others it is');
select awa.cancel(job_id) from l where n = 5 \g /dev/null
select is(pg_temp.told(:worker_id), '5 cancelled', 'what it loses next is told next');
-- Its attempts with rows of their own live by it, too
select is((select j.heartbeat_at from l, awa.job(l.job_id) j where n = 7),
  (select w.heartbeat_at from awa.workers w where w.worker_id = :other_id),
  'a running job shows the heartbeat of its worker');
select awa.extend(job_id, receipt, '1 hour') from l where n = 7 \g /dev/null
select is((select count(*) from awa.heartbeat(:other_id)), 1::bigint, 'a heartbeat');
select is((select j.heartbeat_at from l, awa.job(l.job_id) j where n = 7),
  (select w.heartbeat_at from awa.workers w where w.worker_id = :other_id),
  'shows on an attempt with a row of its own');
select is((select count(*) from awa.lost_attempt_row), 0::bigint, 'the view that names the columns is empty');

select * from finish();
rollback;
