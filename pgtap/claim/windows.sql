-- Without this, a claim would pass entries by, or read them twice. What late commits and burials do to a window is
-- covered by the tests of claim.
\set name windows
\ir ../prelude.psql

begin;
select plan(14);

select pg_temp.fill(:'queue', 5) \g /dev/null
select awa._lane(awa._queue_id(:'queue'), 2) as lane, awa._lane(awa._queue_id(:'queue'), 1) as other_lane,
       awa._lane(awa._queue_id(:'queue'), 0) as front_lane, r.current_segment as segment, awa._snapshot() as now
  from awa.ring r \gset
select min(e.job_id) as first_id, max(e.job_id) as last_id, min(e.xid::text) as xid
  from awa.ready_entries e where e.lane = :lane \gset

select is(awa._last_xid('10:20:10'), '19'::xid8, 'the last transaction that a snapshot can show');
select is((select h.ready_at from awa._head(:lane, '0', 0, 99::smallint, '1:1:') h), now(), 'the head of a lane');
select is((select h.ready_at from awa._head(:lane, :'xid', :last_id, 99::smallint, '1:1:') h), null,
  'after its last entry there is none');
select is(awa._by_age(array[:lane, :other_lane]::bigint[], :'now', now(), '1 minute', 99::smallint, '1:1:'),
  array[:lane]::bigint[], 'a lane without entries is not served');

create function pg_temp.brief(w awa._window_row) returns text
language sql
return format('%s: %s to %s, after %s %s, newest %s, read %s, full %s', w.lane_seq, w.lo, w.hi, w.at_xid, w.at_id,
  w.is_newest, w.is_read, w.is_full);
create function pg_temp.next(now pg_snapshot, jobs int, is_first boolean, part awa._window_row) returns text
language sql
return pg_temp.brief(awa._next_part((select r.current_segment from awa.ring r),
  awa._lane(awa._queue_id(pg_temp.q()), 2), now, part, jobs, is_first, 99::smallint, '1:1:', false, false, now()));
create function pg_temp.window(now pg_snapshot) returns awa._window_row
language sql
return awa._open_window((select r.current_segment from awa.ring r), awa._lane(awa._queue_id(pg_temp.q()), 2),
  now, false);

select is(pg_temp.brief(pg_temp.window(:'now')), format('0: 3:3: to %s, after 0 0, newest t, read f, full f', :'now'),
  'a lane without a cursor is read from the first transaction on');
select is((pg_temp.window(:'now')).to_xid, awa._last_xid(:'now'), 'to the last one that is visible');
select is(pg_temp.next(:'now', 0, true, pg_temp.window(:'now')),
  format('0: 3:3: to %s, after 0 0, newest t, read t, full f', :'now'), 'where nothing was taken it is read');
select is(pg_temp.next(:'now', 0, false, pg_temp.window(:'now')),
  format('0: 3:3: to %s, after 0 0, newest t, read f, full t', :'now'),
  'unless other jobs were taken before, and there are some: they do not fit');
select count(*) from awa.claim(:'queue', 2) \g /dev/null
select is(pg_temp.brief(pg_temp.window(:'now')),
  format('1: 3:3: to %s, after %s %s, newest t, read f, full f', :'now', :'xid', :first_id + 1),
  'a claim that left jobs is gone on with');
select count(*) from awa.claim(:'queue', 10) \g /dev/null
select is(pg_temp.brief(pg_temp.window(:'now')),
  format('2: %s to %s, after 0 0, newest t, read f, full f',
    (select c.hi from awa.lease_claims c where c.lane = :lane and c.lane_seq = 2), :'now'),
  'the next window begins where the last one ended');

create function pg_temp.plan(query text) returns setof text
language plpgsql
as $$
begin
  return query execute 'explain ' || query;
end
$$;
select is_empty($$
  select l
    from pg_temp.plan(
           'select * from awa._read_part(1, 0::smallint, ''1:1:'', ''0'', 0, ''5'', ''1:1:'', false, null, 1)') l
   where l ~ 'Function Scan'$$, 'a part is read by the statement itself, not by a call');
select is(awa._is_buried(:lane, :'xid', :first_id), false, 'an entry is not buried');
insert into awa.ready_tombstones (lane, xid, job_id, segment, batch, cancels)
values (:lane, :'xid', :first_id, :segment, 1, true);
select is(awa._is_buried(:lane, :'xid', :first_id), true, 'or is');
select is(awa._is_buried(:lane, :'xid', :last_id), false, 'and the others are not');

select * from finish();
rollback;
