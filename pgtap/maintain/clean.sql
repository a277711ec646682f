-- Without this, a segment would count no more while jobs are alive in it. How it is truncated then, and what may be in
-- the
-- way: see prune_oldest.
\set name clean
\ir ../prelude.psql
\set old 0

begin;
select plan(22);

-- The tables are empty for the time of this transaction, so that all is known
truncate awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures,
awa.queue_rollups, awa.leases, awa.deferred_jobs, awa.done_entries, awa.unique_claims, awa.queues;
update awa.ring set current_segment = 0, cleaned_segment = null, carried_segment = null, outcome = null;

select pg_temp.fill(:'queue', 10) \g /dev/null
create temp table c as select * from pg_temp.take('', 4);
select awa.complete(job_id, receipt) from c where n < 4 \g /dev/null
select awa.cancel(e.job_id)
  from (select max(e.job_id) as job_id from awa.ready_entries e where awa._queue_of(e.lane) = awa._queue_id(:'queue')) e
  \g /dev/null
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
set constraints all deferred;
select is(pg_temp.states(), 'available 5, cancelled 1, completed 3, running 1', 'what is in it');
update awa.ring set current_segment = (:old + 1) % 4;
select pg_temp.fold() \g /dev/null

-- How
create function pg_temp.begins(cut_off int default 0, force boolean default false) returns text
language sql
as $$ select coalesce(awa._begin_cleaning(((r.current_segment + 3) % 4)::smallint, force, cut_off), 'in one go')
  from awa.ring r $$;
savepoint here;
select is(pg_temp.begins(), 'in one go', 'little is alive');
update awa.settings set carry_max = 4;
select is(pg_temp.begins(), 'full', 'more than carry_max');
select is(pg_temp.begins(force => true), 'full', 'also by force');
update awa.settings set carry_max = 5;
select is(pg_temp.begins(), 'in one go', 'or as much');
delete from awa.ready_entries e where e.job_id = (select job_id from c where n = 1);
select is(pg_temp.begins(), 'unbalanced', 'rows are missing');
select is(pg_temp.begins(force => true), 'in one go', 'which force does not look at');
rollback to here;
select is(pg_temp.begins(1), 'cleaning', 'after a call that was cut off it is cleaned in parts');
select is((select r.carried_segment from awa.ring r), :old::smallint, 'which ring says');
rollback to here;

-- In one go
select is(awa._clean(:old::smallint, false, 0, '1 second'), 'cleaned', 'it is cleaned');
select is((select row(r.cleaned_segment, r.cleaned_by = pg_current_xact_id(), r.carried_segment)::text from awa.ring r),
  format('(%s,t,)', :old), 'which ring says, too');
select is((select count(*) from awa.ready_entries e where e.segment = :old) > 0, true, 'its rows are there');
select is((select count(*) from awa._entries e where e.segment = :old), 0::bigint, 'and count no more');
select is((select count(*) from awa._cursors_in(:old::smallint)), 0::bigint, 'no cursor is left there');
select is((select array_agg(l.receipt) from awa.leases l), (select array[receipt] from c where n = 4),
  'what runs has a row of its own');
select is((select count(*) from awa.claim(:'queue', 10)), 5::bigint, 'what waits can be claimed, once');
select is((select count(*) from awa.claim(:'queue', 10)), 0::bigint, 'and what was buried can not');
select is(pg_temp.states(), 'cancelled 1, running 6', 'what had completed is not shown any more');
select is(pg_temp.unbalanced(), null, 'the books balance');
rollback to here;

-- In parts
select is(awa._clean(:old::smallint, false, 1, '1 second'), 'cleaning', 'in parts: first it is begun');
create temp table calls as
select n, awa._clean(:old::smallint, false, 1, '1 second') as outcome from generate_series(1, 2) n;
select is((select string_agg(outcome, ', ' order by n) from calls), 'cleaning, cleaned', 'then carried, then cleaned');
select is((select count(*) from awa.claim(:'queue', 10)), 5::bigint, 'with the same result');

select * from finish();
rollback;
