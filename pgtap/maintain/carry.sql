-- Without this, what is alive in the oldest segment would go with it, or keep the segment for ever. What may be in the
-- way: see prune_oldest.
\set name carry
\ir ../prelude.psql
\set old 0

begin;
select plan(24);

-- The tables are empty for the time of this transaction, so that all is known
truncate awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures,
awa.queue_rollups, awa.leases, awa.deferred_jobs, awa.done_entries, awa.unique_claims, awa.queues;
update awa.ring set current_segment = 0, cleaned_segment = null, carried_segment = null, outcome = null;

-- A queue that waits, one that works, and one that is quiet, in a segment that was left
select pg_temp.fill(:'queue' || ' waits', 5), pg_temp.fill(:'queue' || ' works', 10),
  pg_temp.fill(:'queue' || ' quiet', 2) \g /dev/null
create temp table c as select * from pg_temp.take(' works', 6);
insert into c select 6 + t.n, t.job_id, t.receipt from pg_temp.take(' works', 1) t;
select awa.complete(job_id, receipt) from c where n < 6 \g /dev/null
select count(*) from pg_temp.take(' quiet', 2) t cross join lateral awa.complete(t.job_id, t.receipt) \g /dev/null
create temp table w as
select e.lane, e.xid, e.job_id from awa.ready_entries e
  where awa._queue_of(e.lane) = awa._queue_id(:'queue' || ' waits');
update awa.ring set current_segment = (:old + 1) % 4;

select is((select count(*) from awa._available_in(:old::smallint) a
  where a.queue_id = awa._queue_id(:'queue' || ' waits')),
  5::bigint, 'entries that nobody has claimed');
select is((select count(*) from awa._available_in(:old::smallint) a
  where a.queue_id = awa._queue_id(:'queue' || ' works')),
  3::bigint, 'of a lane with a cursor, those after it');
select is((select array_agg(l order by l) from awa._cursors_in(:old::smallint) l),
  (select array_agg(awa._lane(awa._queue_id(:'queue' || s), 2) order by awa._lane(awa._queue_id(:'queue' || s), 2))
    from unnest('{" works"," quiet"}'::text[]) s),
  'lanes whose cursors are there');
select is((select array_agg(o order by o) from awa._open_in(:old::smallint) o),
  (select array_agg(receipt order by receipt) from c where n > 5), 'open attempts');
select is((select count(*) from awa._uncounted_lanes(:old::smallint)), 2::bigint, 'claims that are not counted');
select pg_temp.fold() \g /dev/null
select is(awa._is_unbalanced(:old::smallint), false, 'nothing is missing');
savepoint here;
delete from awa.ready_entries e using w where e.job_id = (select min(job_id) from w);
select is(awa._is_unbalanced(:old::smallint), true, 'or an entry is');
rollback to here;

-- Some entries
select is(awa._move_entries(:old::smallint, array(
    select (w.job_id, 'available', null, w.lane, 2, w.xid, :old, null)::awa._place from w order by w.job_id limit 2)),
  2::bigint, 'entries that are named are moved');
select is((select string_agg(format('%s %s', e.segment = :old, e.n), ', ' order by e.segment = :old)
  from (select e.segment, count(*) as n from awa.ready_entries e join w using (lane, xid, job_id) group by 1) e),
  'f 2, t 3', 'under the places that they had');
select is((select r.segment_entries[:old + 1] || ' ' || r.segment_entries[(:old + 1) % 4 + 1] from awa.queue_rollups r
  where r.lane = (select min(lane) from w)), '3 2', 'and are counted where they are');
select is((select count(*) from awa.claim(:'queue' || ' waits', 10)), 5::bigint, 'all can be claimed');
rollback to here;

-- Cursors
select is(awa._carry_cursors(:old::smallint, array[awa._queue_id(:'queue' || ' works') << 6,
  awa._queue_id(:'queue' || ' waits') << 6]),
  1::bigint, 'a cursor is carried');
select is(awa._carry_cursors(:old::smallint, array[awa._queue_id(:'queue' || ' quiet') << 6]), 1::bigint,
  'another one');
select is((select count(*) from awa._cursors_in(:old::smallint)), 0::bigint, 'none is left there');
select is((select array_agg(l.lane_seq - l.closed_seq order by l.lane_seq - l.closed_seq) from awa._lanes l
  where l.lane_seq > 0), '{0,3}', 'where all claims are counted, the carried cursor is, too');
select is((select array_agg(t.job_id order by t.job_id) from pg_temp.take(' works', 10) t),
  (select array_agg(e.job_id order by e.job_id) from awa.ready_entries e
    where awa._queue_of(e.lane) = awa._queue_id(:'queue' || ' works') and e.job_id not in (select job_id from c)),
  'the queue goes on from where it was');
rollback to here;

-- All of it, in so many calls
select is(awa._carry(:old::smallint, 4), 'cleaning', 'some at a time');
select is((select count(*) from awa._available_in(:old::smallint)), 4::bigint, 'the rest stays');
select is(awa._carry(:old::smallint, 4), 'cleaning', 'then the rest');
select is(awa._carry(:old::smallint, 4), null, 'until nothing is left');
select is((select count(*) from awa._available_in(:old::smallint)) + (select count(*)
  from awa._cursors_in(:old::smallint)),
  0::bigint, 'to carry');
select is(pg_temp.states(' waits') || ', ' || pg_temp.states(' works'),
  'available 5, available 3, completed 5, running 2',
  'all is as it was');
select pg_temp.agrees('the books balance');

-- Burials
insert into awa.ready_tombstones (segment, lane, xid, job_id, by_xid, batch, cancels)
select :old, w.lane, w.xid, w.job_id, x.by_xid, 1, true
  from (select *, row_number() over (order by job_id) as n from w) w
  join (values (1, '100'::xid8), (2, '105'), (3, '110')) x(n, by_xid) using (n);
select is((select array_agg(b.by_xid::text order by b.by_xid) from awa._buried_since(:old::smallint, '101:108:105') b),
  '{105,110}', 'what was buried by transactions that a snapshot does not see');

select * from finish();
rollback;
