-- Without this, a job could be claimed twice, or never; what a lane holds would depend on who asks.
\set name lanes
\ir ../prelude.psql

begin;
select plan(30);

-- The entries of a lane: jobs 1 to 3 of each of four transactions, 101 to 104
select awa._lane(awa._queue_id(:'queue'), 2) as lane \gset
insert into awa.ready_entries (segment, lane, xid, job_id, ready_at, priority, attempt, max_attempts, body_bytes, kind,
  args)
select r.current_segment, :lane, (x + 100)::text::xid8, x * 10 + n, now(), 2, 1, 25, 60, 'k', '{}'
  from awa.ring r, generate_series(1, 4) x, generate_series(1, 3) n;
create function pg_temp.lane() returns bigint
language sql
return awa._lane(awa._queue_id(pg_temp.q()), 2);

-- A claim's stretch
create function pg_temp.claimed(first_xid xid8, first_id bigint, pos_xid xid8, pos_id bigint, from_id bigint default 0,
  to_id bigint default 1000) returns text
language sql
return (
  select string_agg(e.job_id::text, ' ' order by e.xid, e.job_id)
    from awa._claimed_entries(pg_temp.lane(), first_xid, first_id, pos_xid, pos_id, from_id, to_id) e
);
select is(pg_temp.claimed('101', 11, '104', 43), '11 12 13 21 22 23 31 32 33 41 42 43', 'all of a lane');
select is(pg_temp.claimed('101', 12, '103', 32), '12 13 21 22 23 31 32', 'from one place to another');
select is(pg_temp.claimed('102', 22, '102', 22), '22', 'of one entry');
select is(pg_temp.claimed('102', 21, '102', 22), '21 22', 'within one transaction');
select is(pg_temp.claimed('101', 12, '103', 32, 13, 31), '13 21 22 23 31', 'with ids from and to');
select is(pg_temp.claimed('103', 31, '102', 23), '21 22 23', 'up to a place, whatever the first one is');

-- What was committed late: 102 was in progress for the window's end, 103 for its beginning
create function pg_temp.late(lo pg_snapshot, hi pg_snapshot, pos_xid xid8, pos_id bigint, from_xid xid8,
  from_id bigint) returns text
language sql
return (
  select string_agg(e.job_id::text, ' ' order by e.xid, e.job_id)
    from awa._late_entries(pg_temp.lane(), lo, hi, pos_xid, pos_id, from_xid, from_id) e
);
select is(pg_temp.late(null, '102:105:102', '104', 43, '105', 0), '21 22 23',
  'a transaction that was in progress is late, with all that it has');
select is(pg_temp.late(null, '105:105:', '104', 43, '105', 0), null, 'others are not');
select is(pg_temp.late('102:103:102', '105:105:', '102', 22, '103', 0), '23',
  'of one in which the cursor stands, what lies behind it');
select is(pg_temp.late('102:103:102', '105:105:', '103', 31, '103', 31), null, 'or is passed');
select is(pg_temp.late('103:104:103', '105:105:', '102', 23, '103', 32), '31 32',
  'of one from which the range goes on, what lies before that place');

-- Snapshots: what is not visible in one
create function pg_temp.since(since pg_snapshot, until xid8 default '18446744073709551615') returns text
language sql
return (
  select string_agg(a.xid || ' ' || a.entries || ' ' || a.tombstones || ' ' || a.deleted, ', ' order by a.xid)
    from (
      select a.xid, sum(a.entries) as entries, sum(a.tombstones) as tombstones, sum(a.deleted) as deleted
        from awa._appended_since(pg_temp.lane(), since, null, until) a
       group by a.xid
    ) a
);
select is(pg_temp.since('103:103:'), '103 3 0 0, 104 3 0 0', 'what came after it');
select is(pg_temp.since('101:103:101'), '101 3 0 0, 103 3 0 0, 104 3 0 0', 'and what was in progress');
select is(pg_temp.since('101:103:101', '104'), '101 3 0 0, 103 3 0 0', 'before a transaction');
insert into awa.ready_tombstones (segment, lane, xid, job_id, by_xid, batch, cancels)
select r.current_segment, :lane, '101', 11, '104', 1, true from awa.ring r;
insert into awa.deleted_jobs (segment, lane, xid, job_id, by_xid)
select r.current_segment, :lane, '101', 12, '104' from awa.ring r;
select is(pg_temp.since('104:104:'), '104 3 1 1', 'with tombstones and deleted jobs');
select is((select sum(a.tombstones + a.deleted) from awa._appended_since(:lane, '104:104:', '102:102:') a), 0::bigint,
  'but for those of entries that were dropped with their queue');
delete from awa.ready_tombstones where lane = :lane;
delete from awa.deleted_jobs where lane = :lane;

-- Before a claim all is available; after one, what it did not take
select awa._use_lanes(array[:lane]::bigint[], :'queue') \g /dev/null
create function pg_temp.available() returns text
language sql
return (
  select string_agg(a.job_id::text, ' ' order by a.xid, a.job_id)
    from awa._available a
   where a.queue_id = awa._queue_id(pg_temp.q())
);
select is(pg_temp.available(), '11 12 13 21 22 23 31 32 33 41 42 43', 'all is available');
select is((select row(l.lane_seq, l.hi, l.closed_seq, l.open_seqs)::text from awa._lanes l where l.lane = :lane),
  '(0,,0,{})', 'a lane without a claim has no cursor');
create temp table c as select * from pg_temp.take('', 5);
select is(pg_temp.available(), '23 31 32 33 41 42 43', 'what was claimed is not any more');
select is((select array_agg(o.job_id order by o.job_id) from awa._open_items o
  where o.queue_id = awa._queue_id(:'queue')),
  '{11,12,13,21,22}', 'it is open');
select is((select array_agg(r.job_id order by r.job_id) from awa._running r where r.queue_id = awa._queue_id(:'queue')),
  '{11,12,13,21,22}', 'and runs');
select is((select count(*) from awa._uncounted(:lane, 0, '{}', null)), 1::bigint, 'its claim is not counted');
select is((select count(*) from awa._uncounted(:lane, 1, '{}', null)), 0::bigint, 'or is');
select is((select count(*) from awa._uncounted(:lane, 1, '{1}', null)), 1::bigint, 'or was passed over');
insert into awa.ready_tombstones (segment, lane, xid, job_id, batch, cancels)
select r.current_segment, :lane, '103', 32, 1, true from awa.ring r;
select is(pg_temp.available(), '23 31 33 41 42 43', 'what was buried is not available');
select awa.complete(job_id, receipt) from c where n = 1 \g /dev/null
select count(*) from awa.complete_many(array(select job_id from c where n = 2), array(select receipt from c
  where n = 2))
  \g /dev/null
select awa.extend(job_id, receipt, '1 hour') from c where n = 3 \g /dev/null
select is((select array_agg(o.job_id order by o.job_id) from awa._open_items o
  where o.queue_id = awa._queue_id(:'queue')),
  '{21,22}', 'items that were closed are not open');
select is((select array_agg(r.job_id order by r.job_id) from awa._running r where r.queue_id = awa._queue_id(:'queue')),
  '{13,21,22}', 'an attempt with a row of its own runs on');

-- The places that this transaction has put
select is(awa._has_place(:lane, 11), false, 'a job of another transaction');
select awa.enqueue(:'queue', 'k') as job_id \gset
select is(awa._has_place(:lane, :job_id), true, 'one of this one');
select is(awa._has_place(:lane + 1, :job_id), false, 'in that lane');

select * from finish();
rollback;
