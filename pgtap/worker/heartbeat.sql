-- Without this, a worker that lives would be taken for dead, and its jobs run twice.
\set name heartbeat
\ir ../prelude.psql

select awa.register_worker(:'queue') as worker_id, awa.register_worker(:'queue') as other_id, awa.register_worker(:'queue') as left_id \gset
select awa.deregister_worker(:left_id) \g /dev/null
select awa.enqueue(:'queue', 'k') as job_id \gset
create temp table c as select * from awa.claim(:'queue', worker_id => :worker_id);
create temp table before as select * from awa.workers where worker_id in (:worker_id, :other_id);

begin;
select plan(13);

select is((select count(*) from awa.heartbeat(worker_id => :worker_id)), 0::bigint, 'a worker that has lost nothing is told nothing');
select cmp_ok((select w.heartbeat_at from awa.workers w where w.worker_id = :worker_id), '>', (select heartbeat_at from before where worker_id = :worker_id), 'it is alive, as of now');
select ok((select w.heartbeat_at between now() and clock_timestamp() from awa.workers w where w.worker_id = :worker_id), 'not as of when its transaction began');
select is((select to_jsonb(w) - 'heartbeat_at' from awa.workers w where w.worker_id = :worker_id), (select to_jsonb(b) - 'heartbeat_at' from before b where worker_id = :worker_id), 'nothing else about it changes');
select is((select w.heartbeat_at from awa.workers w where w.worker_id = :other_id), (select heartbeat_at from before where worker_id = :other_id), 'nor anything about another worker');
select is((select j.heartbeat_at from awa.job(:job_id) j), (select w.heartbeat_at from awa.workers w where w.worker_id = :worker_id), 'its running jobs show it');
select is(
  (select array_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)) order by a.attnum)
     from pg_proc p join pg_type t on t.oid = p.prorettype join pg_attribute a on a.attrelid = t.typrelid and a.attnum > 0
    where p.oid = 'awa.heartbeat'::regproc),
  '{job_id bigint,receipt bigint,reason text}', 'what it returns names the attempts to stop');
select pg_temp.refused(format('select * from awa.heartbeat(%s)', c.id), '22023', 'worker_id', c.description)
  from (values (1, 'null', 'no worker'), (2, '0', 'worker 0'), (3, '-1', 'worker -1'), (4, '9223372036854775807', 'a worker that nobody registered'), (5, :'left_id', 'a worker that has left')) c(n, id, description)
 order by c.n;
select awa.complete(job_id, receipt) from c \g /dev/null
select is((select j.heartbeat_at from awa.job(:job_id) j), null, 'an ended job shows no heartbeat');

select * from finish();
rollback;
