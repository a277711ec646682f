-- Without this, a restored database would wait for transaction ids of another server, or skip what is new.
-- It locks all that there is, so the whole is in one transaction. The real dump and restore is in sql/restore_test.go.
\set name rebase_after_restore
\ir ../prelude.psql

select job_ids.id as retried from awa.enqueue_many(:'queue', 'first', array_fill('{}'::jsonb, array[1])) job_ids(id) \gset
select count(*) from awa.enqueue_many(:'queue', 'x', array_fill('{}'::jsonb, array[6])) \g /dev/null
select awa.enqueue(:'queue', 'later', run_at => now() + interval '1 hour') \g /dev/null
select job_id as keyed from awa.enqueue_unique(:'queue' || ' b', 'x', unique_key => :'queue') \gset
create temp table c as select * from pg_temp.take('', 3);
select awa.fail(job_id, receipt, 'e') from c where n = 1 \g /dev/null
select awa.complete(job_id, receipt) from c where n = 2 \g /dev/null
select awa.retry(:retried) \g /dev/null
select awa.pause_queue(:'queue' || ' b') \g /dev/null
select awa.cancel(j.id) from awa.jobs j where j.queue = :'queue' and j.state = 'available' and j.kind = 'x' order by j.id limit 1 \g /dev/null

begin;
select plan(16);
create temp table before as
select j.id, j.state, j.kind, j.attempt, j.created_at, j.unique_key, j.worker_id, j.receipt from awa.jobs j where starts_with(j.queue, :'queue');
create temp table places as select id from awa.jobs j where j.queue = :'queue' and j.state = 'available' order by id;

select is((select r from awa.rebase_after_restore() r)::text, '(0,0,0)', 'a database that was not restored is left alone');
-- Another server's ids, ahead of this one's.
update awa.ready_entries set xid = (xid::text::bigint + 1000000000)::text::xid8;
update awa.ready_tombstones set xid = (xid::text::bigint + 1000000000)::text::xid8, by_xid = (by_xid::text::bigint + 1000000000)::text::xid8;
create function pg_temp.shifted(s pg_snapshot) returns pg_snapshot
language sql strict
return (
  select format('%s:%s:%s', pg_snapshot_xmin(s)::text::bigint + 1000000000, pg_snapshot_xmax(s)::text::bigint + 1000000000,
    (select string_agg((x::text::bigint + 1000000000)::text, ',' order by x) from pg_snapshot_xip(s) x))::pg_snapshot);
update awa.lease_claims set hi = pg_temp.shifted(hi), lo = pg_temp.shifted(lo),
  first_xid = (first_xid::text::bigint + 1000000000)::text::xid8, pos_xid = (pos_xid::text::bigint + 1000000000)::text::xid8;
update awa.queue_rollups set counted = pg_temp.shifted(counted), dropped = pg_temp.shifted(dropped);
update awa.origin set xid = '5';

select is(pg_temp.outcome(format(c.call, :'queue')), '55000', c.call)
  from (values
    ('select awa.enqueue(%L, ''k'')'),
    ('select awa.enqueue(%L, ''k'', run_at => now() + interval ''1 hour'')'),
    ('select * from awa.claim(%L)'),
    ('select awa.promote_due(), %L'),
    ('select awa.rotate(true), %L'),
    ('select awa.prune_oldest(true), %L'),
    ('select awa.audit(), %L')
  ) c(call);
select is((select level from awa.health() where topic = 'restore'), 'critical', 'health says so');

select ok((select r.running >= 1 from awa.rebase_after_restore() r), 'what runs is moved, too');
select results_eq(
  'select j.id, j.state, j.kind, j.attempt, j.created_at, j.unique_key, j.worker_id, case when j.state <> ''available'' then j.receipt end from awa.jobs j where starts_with(j.queue, pg_temp.q()) order by 1',
  'select b.id, b.state, b.kind, b.attempt, b.created_at, b.unique_key, b.worker_id, b.receipt from before b order by 1', 'every job is as it was');
select is(pg_temp.wrong(), null, 'the counts are, too');
select is(pg_temp.unbalanced(), null, 'and the books balance');
select is((select r from awa.rebase_after_restore() r)::text, '(0,0,0)', 'once is enough');
select lives_ok('select awa.complete(job_id, receipt) from c where n = 3', 'an open attempt has kept its receipt');
select is((select array_agg(t.job_id) from awa.claim(:'queue', 100) t where t.kind = 'x'), (select array_agg(p.id order by p.id) from places p join before b using (id) where b.kind = 'x'), 'what waits is claimed in its order');
select * from finish();
rollback;
