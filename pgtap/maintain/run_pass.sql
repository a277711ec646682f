-- Without this, ten workers would scan the same rows ten times, and it would not be noticed which pass has stopped.
-- What a session that hangs does to the others is tested with two sessions.
\set name run_pass
\ir ../prelude.psql

select count(*)
  from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[5]),
    run_at => clock_timestamp() + interval '1 hour') \g /dev/null

begin;
select plan(34);

select set_config('test.passes', awa._passes()::text, true) \g /dev/null
select is(pg_temp.outcome(format('select awa.run_pass(%L)', 'other')), '22023', 'no other pass is run');
select is((
  select count(distinct awa._pass_key(u)) from unnest(awa._passes()) u where awa._pass_key(u) < awa._crowd_key()
),
  cardinality(awa._passes())::bigint, 'each has a key of its own');
select setval(('awa.pass_clock_' || u)::regclass, 1, false) from unnest(awa._passes()) u \g /dev/null
select is(awa._succeeded_at('rescue'), null, 'a pass that was never run has not succeeded');
select is(pg_temp.outcome(format('select awa.run_pass(%L)', u)), 'ok', u || ' is run') from unnest(awa._passes()) u;
select is((select array_agg(u) from unnest(awa._passes()) u where awa._succeeded_at(u) is null), null,
  'each has succeeded then');
select is((
  select count(*)
    from pg_locks l
   where l.pid = pg_backend_pid()
     and l.locktype = 'advisory'
     and l.classid::bigint << 32 | l.objid::bigint = any(array(select awa._pass_key(u) from unnest(awa._passes()) u))
),
  cardinality(awa._passes())::bigint, 'its lock is kept until the transaction ends');

-- The clock
select setval('awa.pass_clock_rescue', awa._microseconds(clock_timestamp())) as succeeded_at \gset
select awa._note_success('rescue')
 where clock_timestamp() < to_timestamp(:succeeded_at / 1000000.0) + interval '300 milliseconds' \g /dev/null
select is((select last_value from awa.pass_clock_rescue), :succeeded_at::bigint, 'the clock moves once a second');
select setval('awa.pass_clock_rescue', awa._microseconds(clock_timestamp() + interval '1 hour')),
       awa._note_success('rescue') \g /dev/null
select ok(awa._succeeded_at('rescue') <= clock_timestamp(), 'or back, when it was ahead');

-- Whether there is more
update awa.deferred_jobs
   set run_at = clock_timestamp() - interval '1 second'
 where awa._queue_of(lane) = awa._queue_id(:'queue');
-- these were not committed late: a pass that has left some goes on with the others, whenever it was swept last
select setval('awa.promoted_until', awa._microseconds(clock_timestamp() - interval '5 seconds')),
       setval('awa.pass_clock_promote_due', 1) \g /dev/null
select is(awa.run_pass('promote_due', 3), true, 'there is more, when it has done as much as it may');
select is(awa.run_pass('promote_due', 1, true), true, 'and then it is due again at once');
select setval('awa.pass_clock_promote_due', 1) \g /dev/null
select is(awa.run_pass('promote_due'), false, 'or not');
select is(pg_temp.states(), 'available 5', 'all of it is done');
select is(awa.run_pass('prune_oldest', null), false, 'an explicit null means the default');

-- Whether it is due: its clock moves when it is run
create function pg_temp.runs(ago interval, if_due boolean) returns boolean
language plpgsql
as $$
declare
  v_before bigint := setval('awa.pass_clock_end_stuck_claimers', awa._microseconds(clock_timestamp() - ago));
begin
  perform awa.run_pass('end_stuck_claimers', if_due => if_due);
  return (select last_value from awa.pass_clock_end_stuck_claimers) <> v_before;
end
$$;
select is(pg_temp.runs('3 seconds', true), false, 'a pass that has succeeded within its period is not due');
select is(pg_temp.runs('3 seconds', false), true, 'it is run all the same where that was not asked');
select is(pg_temp.runs('3 seconds', null), true, 'an explicit null means the default, too');
select is(pg_temp.runs('4 seconds', true), true, 'after its period it is due');
select is(pg_temp.runs('-1 hour', true), true, 'and after a success in the future, by a clock that was set back');
select pg_temp.refused('select awa.run_pass(''vacuum'')', '22023', 'no such pass', 'a pass that is not there');
select pg_temp.refused('select awa.run_pass(null)', '22023', 'no such pass', 'none');
select pg_temp.refused('select awa.run_pass(''rescue'', 0)', '22023', 'max_jobs', 'no jobs');
create or replace function awa.forget_workers() returns setof awa.forget_workers_row language sql as $$
select f.* from awa.workers w cross join awa.forget_workers_row f where false $$;
select is(awa.run_pass('forget_workers'), false, 'a pass that does not say whether there is more has no more to do');

select * from finish();
rollback;
