-- Without this, somebody would have to call each step of maintenance; and one that fails would keep the others from
-- being done.
-- It commits, so it is called before the transaction of the tests.
\set name run_maintenance
\ir ../prelude.psql
call pg_temp.one_segment();

-- Work for each step: a segment past its retention, and a current one that is old; jobs that are due, more than one
-- call promotes; attempts that are overdue, or last; a job past its retention
select count(*) from awa.enqueue_many(:'queue', 'past', array_fill('{}'::jsonb, array[3])) \g /dev/null
select count(*) from pg_temp.take('', 3) t cross join lateral awa.complete(t.job_id, t.receipt) \g /dev/null
select rotated from awa.rotate(true) \g /dev/null
select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[4])) \g /dev/null
create temp table c as select * from pg_temp.take('', 3, one_claim => false);
select awa.discard(job_id, receipt, 'e') from c where n = 1 \g /dev/null
select count(*)
  from awa.enqueue_many(:'queue' || ' due', 'k', array_fill('{}'::jsonb, array[4100]),
    run_at => clock_timestamp() + interval '1 hour') \g /dev/null
update awa.deferred_jobs
   set run_at = clock_timestamp() - interval '1 second'
 where awa._queue_of(lane) = awa._queue_id(:'queue' || ' due');
-- Overdue since before rescue was called last, so that no gap spares it
create procedure pg_temp.expire(n int) language sql as $$
  update awa.lease_claims k
     set claimed_at = clock_timestamp() - interval '2 hours', lease_until = clock_timestamp() - interval '1 hour'
   where k.claim_id = (select c.receipt >> 12 from c where c.n = expire.n) $$;
call pg_temp.expire(2);
update awa.lease_claims k
   set claimed_at = clock_timestamp() - interval '1 minute', lease_until = clock_timestamp() + interval '1 hour'
 where k.claim_id = (select receipt >> 12 from c where n = 3);
update awa.done_entries d set finalized_at = clock_timestamp() - interval '73 hours' from c where d.job_id = c.job_id;
create temp table before as select current_segment as segment from awa.ring;
update awa.ring r
   set left_at[(segment + 3) % 4 + 1] = clock_timestamp() - interval '25 hours',
       left_at[segment + 1] = clock_timestamp() - interval '9 hours'
  from before;
select pg_temp.step('setup') \g /dev/null

select pg_temp.no_gap() \g /dev/null
set role awa_maintainer;
call awa.run_maintenance();
reset role;
create temp table after as
select pg_temp.states() as states, pg_temp.states(' due') as due,
       (select j.state from c, awa.job(c.job_id) j where n = 2) as overdue,
       (select count(*) from awa.leases l join c using (receipt)) as leases,
       (select count(*) from awa.job((select job_id from c where n = 1))) as expired,
       awa._is_empty((segment + 3) % 4) as pruned,
       (select (r.current_segment - segment + 4) % 4 from awa.ring r) as turned, pg_temp.unbalanced() as unbalanced
  from before;

-- A step that fails, and another one
create function pg_temp.fails() returns trigger
language plpgsql
as $$
begin
  raise exception using errcode = tg_argv[0], message = tg_argv[0] || ' on purpose';
end
$$;
select awa.enqueue(:'queue' || ' late', 'k', run_at => clock_timestamp() + interval '1 hour') \g /dev/null
update awa.deferred_jobs
   set run_at = clock_timestamp() - interval '1 second'
 where awa._queue_of(lane) = awa._queue_id(:'queue' || ' late');
-- as if no pass had looked back within the last second
select setval('awa.pass_clock_promote_due', 1) \g /dev/null
insert into c select 4, t.job_id, t.receipt from pg_temp.take('', 1) t;
call pg_temp.expire(4);
update awa.ring r set left_at[current_segment + 1] = clock_timestamp() - interval '9 hours';
select pg_temp.no_gap() \g /dev/null
create trigger fails before delete on awa.deferred_jobs for each row execute function pg_temp.fails('53UN1');
create trigger fails before update on awa.ring for each row execute function pg_temp.fails('UN002');
\set ON_ERROR_STOP off
\set VERBOSITY sqlstate
call awa.run_maintenance();
\set ON_ERROR_STOP on
\set VERBOSITY default
\set error :LAST_ERROR_SQLSTATE ' ' :LAST_ERROR_MESSAGE
drop trigger fails on awa.deferred_jobs;
drop trigger fails on awa.ring;
create temp table failed as
select pg_temp.states(' late') as late, (select j.state from c, awa.job(c.job_id) j where n = 4) as overdue;
select setval('awa.pass_clock_promote_due', 1) \g /dev/null
call awa.run_maintenance();
create temp table again as select pg_temp.states(' late') as late;

-- A pass that has just succeeded is not due
update awa.ring r set left_at[current_segment + 1] = clock_timestamp() - interval '9 hours';
create temp table idle as select current_segment as segment, null::smallint as later from awa.ring;
call awa.run_passes();
update idle set later = r.current_segment from awa.ring r;
call awa.run_maintenance();

begin;
select plan(17);

select is(due, 'available 4100', 'what is due is promoted, to the last one') from after;
select is(overdue, 'retryable', 'what is overdue is rescued') from after;
select is(leases, 1::bigint, 'what lasts gets a row of its own') from after;
select is(expired, 0::bigint, 'what is past its retention goes') from after;
select is(turned, 1, 'a segment that is old is left') from after;
select ok(pruned, 'and one that is past its retention is emptied, to the last table') from after;
select is(states, 'available 1, retryable 1, running 1', 'the rest is as it was') from after;
select is(unbalanced, null, 'the books balance') from after;

select is(:'error'::text, '53UN1 53UN1 on purpose', 'the first error is raised in the end');
select is(overdue, 'retryable', 'a step that fails does not keep the next ones from being done') from failed;
select is(late, 'scheduled 1', 'what it should have done waits') from failed;
select is(late, 'available 1', 'for the next call') from again;
select is(later, segment, 'a pass that has just succeeded is not due') from idle;
select isnt((select current_segment from awa.ring), later, 'and run_maintenance runs all') from idle;
select is(pg_temp.outcome('call awa.run_maintenance()'), '2D000', 'it cannot be called inside a transaction');
select is(pg_temp.unbalanced(), null, 'the books balance in the end');
select pg_temp.steps_agree();

select * from finish();
rollback;

-- The segments of all files so far
select awa.drop_queue(:'queue' || ' due', true) \g /dev/null
select rotated from awa.rotate(true) \g /dev/null
call pg_temp.one_segment();
