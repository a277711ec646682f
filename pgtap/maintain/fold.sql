-- Without this, every count and every search for an open attempt would read all claims of the kept history.
\set name fold
\ir ../prelude.psql

select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[60])) \g /dev/null
create temp table c as select * from pg_temp.take('', 60, one_claim => false);
select awa.complete(job_id, receipt) from c where n < 60 \g /dev/null

begin;
select plan(7);

create temp view uncounted as
select count(*) as claims
  from awa.lease_claims k
  left join awa.queue_rollups r on r.lane = k.lane
 where awa._queue_of(k.lane) = awa._queue_id(pg_temp.q()) and k.lane_seq > coalesce(r.closed_seq, 0);
select cmp_ok((select claims from uncounted), '>=', 60::bigint, 'claims that are not counted');
select count(*) from awa.materialize(), awa.rescue() \g /dev/null
select cmp_ok((select claims from uncounted), '>=', 60::bigint, 'rescue and materialize do not count');
select setval('awa.pass_clock_fold', 1), setval('awa.next_fold_at', 1) \g /dev/null
select is((select count(*) from awa.fold()), 1::bigint, 'it returns one row');
select cmp_ok((select claims from uncounted), '<=', 1::bigint, 'then all are counted, but for those that are open');
select ok(awa._succeeded_at('fold') > clock_timestamp() - interval '1 minute', 'it has succeeded');
select is((select more from awa.fold()), false, 'there is no more to count');
select is((select count(*) from awa.fold_row), 0::bigint, 'the view that names the column is empty');

select * from finish();
rollback;
