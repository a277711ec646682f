-- Without this, claims would walk over a segment that was cleaned, until it is truncated; or the pruner read all of its
-- rows while it holds locks.
-- The tables are emptied for the time of this transaction, and are as they were when it rolls back.
\set name segments
\ir ../prelude.psql
\ir cost.psql

begin;
truncate awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures, awa.leases,
awa.deferred_jobs, awa.done_entries, awa.unique_claims, awa.queue_rollups, awa.queues;
update awa.ring
   set current_segment = 0, cleaned_segment = null, cleaned_until = null, cleaned_by = null, old_snapshots = null;
select plan(74);

-- 100,000 jobs that were claimed, and completed, in claims of 950; of 1,000 more every fourth is buried
select pg_temp.fill(pg_temp.q(), 101000) \g /dev/null
create temp table entries as select e.*, row_number() over (order by e.xid, e.job_id) as n from awa.ready_entries e;
insert into awa.lease_claims (segment, claim_id, lane, lane_seq, hi, lo, first_xid, first_id, pos_xid, pos_id,
  claimed_at, lease_until, holds_keys, job_ids)
select 0, nextval('awa.claim_ids'), c.*
  from (
    select e.lane, row_number() over (order by min(e.n)), pg_current_snapshot(), pg_snapshot '3:3:', min(e.xid),
           min(e.job_id), max(e.xid), max(e.job_id), now(), now() + interval '1 hour', false,
           array_agg(e.job_id order by e.n)
      from entries e where e.n <= 100000 group by e.lane, (e.n - 1) / 950 order by min(e.n)
  ) c;
insert into awa.lease_claim_closures (segment, claim_id, item, items, outcome, closed_at)
select c.segment, c.claim_id, -1, array(select i::smallint from generate_series(0, cardinality(c.job_ids) - 1) i),
       'completed', now()
  from awa.lease_claims c;
insert into awa.ready_tombstones (segment, lane, xid, job_id, by_xid, batch, cancels)
select 0, e.lane, e.xid, e.job_id, e.xid, 1, true from entries e where e.n > 100000 and e.n % 4 = 0;
select awa._use_lanes(array(select distinct t.lane from awa.ready_tombstones t), buried => true) \g /dev/null
select pg_temp.fold(), awa._summarize() \g /dev/null
select is((select row(c.available, c.running, c.completed)::text from awa.queue_counts() c), '(750,0,100000)',
  '100,000 completed, 750 wait');

create temp table open (n int generated always as identity, job_id bigint, receipt bigint);
create sequence pg_temp.next_open;
create function pg_temp.open() returns open
language sql
return (select o from open o where o.n = (select nextval('pg_temp.next_open')));
create function pg_temp.measured(at_what text) returns void
language plpgsql
as $$
begin
  insert into open (job_id, receipt) select c.job_id, c.receipt from awa.claim(pg_temp.q(), 14) c;
  perform setval('pg_temp.next_open', (select max(o.n) - 13 from open o), false);
  -- The cheapest of three: one may come upon a buried entry, or follow a new cursor, which a slow machine gets
  for n in 1..3 loop
    perform pg_temp.measure(at_what, array[
      'claim of 20', 'select * from awa.claim(pg_temp.q(), 20)',
      'claim of 1', 'select * from awa.claim(pg_temp.q())']);
  end loop;
  perform pg_temp.measure(at_what, array[
    'complete', 'select awa.complete(o.job_id, o.receipt) from pg_temp.open() o offset 0',
    'complete_many', $c$
  select *
    from pg_temp.open() o, pg_temp.open() p,
      awa.complete_many(array[o.job_id, p.job_id], array[o.receipt, p.receipt])$c$,
    'complete_many of one', 'select * from pg_temp.open() o, awa.complete_many(array[o.job_id], array[o.receipt])',
    'fail', $c$select awa.fail(o.job_id, o.receipt, 'e') from pg_temp.open() o offset 0$c$,
    'release', 'select awa.release(o.job_id, o.receipt) from pg_temp.open() o offset 0',
    'extend', $c$select awa.extend(o.job_id, o.receipt, '1 hour') from pg_temp.open() o offset 0$c$,
    'enqueue', $c$select awa.enqueue(pg_temp.q(), 'k')$c$,
    'job', format('select * from awa.job(%s)', (select e.job_id from entries e where e.n = 100999))]);
end
$$;
-- What a call of the pruner costs; and the rows that it reads by sequence, for which a row is enough to see that there
-- is one
create temp table pruner (call text, outcome text, blocks bigint, tuples bigint, sequential bigint);
create function pg_temp.prunes(call text) returns void
language plpgsql
as $$
declare
  v_before bigint := (
    select sum(t.seq_tup_read)
      from pg_stat_xact_user_tables t
     where t.schemaname = 'awa' and t.relname ~ '^(ready|lease)_'
  );
  v_cost record;
begin
  v_cost := pg_temp.cost('create temp table said on commit drop as select p.outcome from awa.prune_oldest(true) p');
  insert into pruner
  select call, s.outcome, v_cost.blocks, v_cost.tuples,
         (
           select sum(t.seq_tup_read)
             from pg_stat_xact_user_tables t
            where t.schemaname = 'awa' and t.relname ~ '^(ready|lease)_'
         ) - v_before
    from said s;
  drop table said;
end
$$;

select pg_temp.measured('current') \g /dev/null
-- what it has appended is not to come late
update awa.ready_entries
   set xid = (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text::xid8
 where xid = pg_current_xact_id();
select rotated from awa.rotate(true) \g /dev/null
select pg_temp.measured('left') \g /dev/null
select pg_temp.prunes('cleaning') \g /dev/null
select pg_temp.measured('cleaned') \g /dev/null
update awa.ring set cleaned_by = (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text::xid8;
select pg_temp.prunes(f) from unnest('{entries,tombstones,claims,closures}'::text[]) f \g /dev/null
select pg_temp.measured('truncated') \g /dev/null

create temp table best as
select c.at, c.what, min(c.blocks) as blocks, max(c.seq_scans) as seq_scans, min(c.tuples) as tuples,
       max(c.changed) as changed
  from costs c group by c.at, c.what;
select is((select array_agg(outcome order by n) from (select row_number() over () as n, outcome from pruner) p),
  '{cleaned,truncating,truncating,truncating,truncated}', 'the segment was cleaned, and truncated');
select is((select count(*) from best c where c.seq_scans > 0), 0::bigint,
  'nothing is read from one end to the other by who works meanwhile');
select is((select sum(c.changed) from best c), 0::numeric, 'and no row of the hot tables is updated or deleted');
select cmp_ok(c.tuples, '<=', b.tuples + case when c.at = 'cleaned' and c.what ~ '^claim' then 2 * 750 else 8 end,
  format('%s, %s: it reads no more rows than before, but for those that were carried', c.what, c.at))
  from best c join best b using (what) where b.at = 'current' and c.at <> 'current' order by c.what, c.at;
select cmp_ok(c.blocks, '<=', b.blocks + b.blocks / 4 + 30, format('%s, %s: nor blocks', c.what, c.at))
  from best c
  join best b using (what)
 where c.at <> 'current'
   -- A claim that does not find its cursor in the current segment looks into the others: a fixed price, once a lane.
   and b.at = case when c.what ~ '^claim' and c.at <> 'left' then 'left' else 'current' end
 order by c.what, c.at;
select cmp_ok(p.tuples, '<=', case p.call when 'cleaning' then 5000 else 50 end::bigint,
  format('%s: the pruner reads what is alive, and not the 100,000', p.call))
  from pruner p;
select cmp_ok(p.sequential, '<=', 5::bigint,
  format('%s: and by sequence the first row of a table, to see whether there is any', p.call))
  from pruner p;

select * from finish();
rollback;
