-- Without this, an entry would be there twice between the cleaning of its segment and the truncation: where it was, and
-- where it was carried to.
\set name segments
\ir ../prelude.psql

select count(*)
  from awa.enqueue_many(:'queue', 'k', array(select to_jsonb(n) from generate_series(1, 3) n)) \g /dev/null
select awa.enqueue(:'queue' || ' late', 'k') \g /dev/null

begin;
select plan(10);

create function pg_temp.counting() returns text
language sql
return (
  select format('%s of %s',
    (select count(*) from awa._entries e where awa._queue_of(e.lane) = awa._queue_id(pg_temp.q())),
    (select count(*) from awa.ready_entries e where awa._queue_of(e.lane) = awa._queue_id(pg_temp.q())))
);

select is(pg_temp.counting(), '3 of 3', 'all entries count where no segment was cleaned');
select is((select count(*) from awa._entries), (select count(*) from awa.ready_entries), 'of all queues');

-- As if the current segment had been cleaned just now
update awa.ring set cleaned_segment = current_segment, cleaned_until = awa._snapshot();
select is(pg_temp.counting(), '0 of 3', 'those of a segment that was cleaned do not');
select is(pg_temp.states(), null, 'and are not shown');
select is((select count(*) from awa.claim(pg_temp.q(), 10)), 0::bigint, 'or claimed');
select awa.enqueue(pg_temp.q(), 'k') \g /dev/null
select is(pg_temp.counting(), '1 of 4', 'but for what came to it after the cleaning');
update awa.ring set current_segment = (current_segment + 1) % 4;
select awa.enqueue(pg_temp.q(), 'k') \g /dev/null
select is(pg_temp.counting(), '2 of 5', 'others do');
-- As if the transaction of one entry had been open at the cleaning
update awa.ring r
   set cleaned_until = format('%s:%s:%1$s', e.xid, pg_snapshot_xmax(r.cleaned_until))::pg_snapshot
  from awa.ready_entries e
 where awa._queue_of(e.lane) = awa._queue_id(pg_temp.q(' late'));
select is(pg_temp.states(' late'), 'available 1', 'also what a transaction put there that was older than the cleaning');
select is((select count(*) from awa.claim(pg_temp.q(' late'), 10)), 1::bigint, 'which can be claimed');
update awa.ring r set cleaned_until = null, cleaned_segment = null;
select is(pg_temp.counting(), '5 of 5', 'all do when that is over');

select * from finish();
rollback;
