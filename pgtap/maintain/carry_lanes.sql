-- Without this, one call would go through all lanes of a segment, however many there are. What late writers do, and
-- what other sessions hold: see TestLanesWaitForLateWriters and its neighbours.
\set name carry_lanes
\ir ../prelude.psql
\set old 0

begin;
select plan(22);

-- The tables are empty for the time of this transaction, so that all is known
truncate awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures,
awa.queue_rollups, awa.leases, awa.deferred_jobs, awa.done_entries, awa.unique_claims, awa.queues;
update awa.ring set current_segment = 0, cleaned_segment = null, carried_segment = null, outcome = null;

-- A queue that waits, one that works, and one that is quiet, in a segment that was left
select pg_temp.fill(:'queue' || ' waits', 5), pg_temp.fill(:'queue' || ' works', 10),
  pg_temp.fill(:'queue' || ' quiet', 2) \g /dev/null
create temp table c as select * from pg_temp.take(' works', 6);
select awa.complete(job_id, receipt) from c where n < 6 \g /dev/null
select count(*) from pg_temp.take(' quiet', 2) t cross join lateral awa.complete(t.job_id, t.receipt) \g /dev/null
create temp table l as
select row_number() over (order by lane desc) as n, lane from (select distinct e.lane from awa.ready_entries e) e;
update awa.ring set current_segment = (:old + 1) % 4;

-- The lanes, from the last one back
select is(array(select awa._next_lanes(:old::smallint)), array(select lane from l order by n), 'all lanes');
select is(array(select awa._next_lanes(:old::smallint, (select lane from l where n = 1), 1)),
  array(select lane from l where n = 2), 'the next one');
select is(array(select awa._next_lanes(:old::smallint, (select lane from l where n = 3), 9)), '{}'::bigint[],
  'or none');
select is(array(select awa._next_lanes(((:old + 2) % 4)::smallint)), '{}'::bigint[], 'nor in another segment');
select is((select array_agg(l.lane order by l.lane desc) from awa._lanes_in_segment(:old::smallint) l),
  array(select lane from l order by n), 'all of them, with their last claims');
select is((select array_agg(s.last_seq) from awa._lanes_in_segment(:old::smallint, (select array_agg(lane) from l
  where lane = awa._lane(awa._queue_id(:'queue' || ' works'), 2))) s), '{1}', 'or some');

-- Waiting for whoever may write to it: here, this transaction
update awa.ring set carried_segment = :old, begun_by = pg_current_xact_id(), carried_since = awa._snapshot();
select is(awa._look_for_writers(:old::smallint), 'waiting', 'for the transaction that has begun');
select is((select row(r.old_snapshots, r.carried_before)::text from awa.ring r), '(,)', 'it is not committed');
update awa.ring set begun_by = '3', carried_since = '3:3:';
select is(awa._look_for_writers(:old::smallint), 'cleaning', 'when it is');
select is((select r.carried_since::text from awa.ring r), awa._snapshot()::text, 'it looks for sessions from then on');
select is(awa._look_for_writers(:old::smallint), 'waiting', 'one that has written to the segment is waited for');
select is((select row(r.begun_by is null, r.carried_before)::text from awa.ring r), '(f,)', 'until it has ended');
select is((select r.old_snapshots from awa.ring r), array[awa._reader_name(pg_backend_pid(), now())], 'and named');
select is(array(select w.holder from awa._writers(((:old + 2) % 4)::smallint) w), '{}'::text[],
  'it has truncated the tables of another one, and written nothing there');
update awa.ring set begun_by = null, carried_before = 9223372036854775807, passed_over = '{}';

-- Some lanes in each call
select is((select count(*) from awa._alive_lanes(:old::smallint, array(select lane from l))), 3::bigint,
  'each has something alive: entries, an attempt, a cursor');
do $do$
declare
  v_old constant text := pg_get_functiondef('awa._carry_lanes'::regproc);
  v_new text := replace(v_old, '200 milliseconds', '0');
begin
  if v_new = v_old then
    raise 'awa._carry_lanes does not hold this piece';
  end if;
  execute v_new;
end
$do$;
create temp table calls as
select n, awa._carry_lanes(:old::smallint, 1, 1000) as outcome from generate_series(1, 4) n;
select is((select array_agg(outcome order by n) from calls), '{cleaning,cleaning,cleaning,NULL}',
  'lane by lane, as long as there is time');
select is((select row(r.carried_before, r.passed_over)::text from awa.ring r),
  (select format('(%s,{})', lane) from l where n = 3), 'all of them');
select is((select count(*) from awa._alive_lanes(:old::smallint, array(select lane from l))), 0::bigint,
  'nothing is alive there');
select is((select array_agg(distinct r.segment_entries[:old + 1]) from awa.queue_rollups r), '{0}', 'nor counted');
select is(pg_temp.states(' waits') || ', ' || pg_temp.states(' works'),
  'available 5, available 4, completed 5, running 1', 'all is as it was');
select isnt(awa._end_lanes(:old::smallint)::text, null, 'from now on the segment counts no more');
select pg_temp.agrees('the books balance');

select * from finish();
rollback;
