-- Without this, what a transaction enqueues after its own claim would count as read, and be lost; and a segment would
-- be
-- emptied under the eyes of who still reads it. Snapshots of other sessions are covered by tests with several.
\set name snapshots
\ir ../prelude.psql
begin;
select plan(18);

-- The own transaction
select is(awa._snapshot()::text, pg_current_snapshot()::text,
  'before this transaction has an id there is nothing to add');
select pg_current_xact_id() as own \gset
-- A later transaction has ended, so that the snapshot goes further than this one
savepoint later;
create temp table later ();
rollback to later;
select ok(pg_visible_in_snapshot(:'own', pg_current_snapshot()),
  'to PostgreSQL the own transaction is not in progress');
select is(pg_visible_in_snapshot(:'own', awa._snapshot()), false, 'in a snapshot that a cursor may keep it is');
select is(pg_snapshot_xmax(awa._snapshot()), pg_snapshot_xmax(pg_current_snapshot()), 'which goes as far');
select ok(pg_snapshot_xmin(awa._snapshot()) <= :'own'::xid8, 'and begins no later');
select is((select array_agg(x order by x) from pg_snapshot_xip(awa._snapshot()) x),
  (select array_agg(x order by x) from (select pg_snapshot_xip(pg_current_snapshot()) union select :'own'::xid8) s(x)),
  'with all that was in progress');

-- Cut off
select is(awa._cut_snapshot(s.snapshot::pg_snapshot, s.until::xid8)::text, s.cut, s.description)
  from (values
    (1, '10:20:10,15', '15', '10:15:10', 'in progress are those before the cut, and none from there on'),
    (2, '10:20:10,15', '16', '10:16:10,15', 'the last one before it, too'),
    (3, '12:20:12,15', '11', '11:11:', 'a cut before all of them leaves nothing'),
    (4, '10:20:10,15', '20', '10:20:10,15', 'a cut at its end cuts nothing'),
    (5, '10:20:10,15', '30', '10:20:10,15', 'nor does one after it'),
    (6, '10:20:10,15', null, '10:20:10,15', 'nor null')
  ) s(n, snapshot, until, cut, description)
 order by s.n;

-- Snapshots that look back
select ok(awa._horizon() <= pg_snapshot_xmin(pg_current_snapshot()), 'no snapshot looks further than the present one');
select is((select count(*) from awa._old_snapshots(:'own') s where s.holder like format('backend %s,%%',
  pg_backend_pid())),
  0::bigint, 'the caller is not among those with an old snapshot');
select is((select count(*) from awa._long_readers() s where s.holder like format('backend %s,%%', pg_backend_pid())),
  0::bigint, 'nor among those that have read for long');
select is(awa._reader_name(7, '2026-11-28 10:00:00.5+00'), 'backend 7, 1795860000.500000',
  'a transaction is told by its process, and when it began');
set local timezone = 'Asia/Tokyo';
select is(awa._reader_name(7, '2026-11-28 10:00:00.5+00'), 'backend 7, 1795860000.500000', 'in every time zone');
select is(awa._reader_name(7, null), 'backend 7, since it began', 'or only by its process');

select * from finish();
rollback;
