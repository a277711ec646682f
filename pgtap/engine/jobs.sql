-- Without this, a job would be shown twice, or nowhere, on its way from one table to another.
\set name jobs
\ir ../prelude.psql

begin;
select plan(26);

select pg_temp.fill(:'queue', 6) \g /dev/null
create temp table j as
select row_number() over (order by e.job_id)::int as n, e.job_id as id
  from awa.ready_entries e
 where awa._queue_of(e.lane) = awa._queue_id(:'queue');
create temp table c as select * from pg_temp.take('', 5);
select awa.complete(job_id, receipt) from c where n = 1 \g /dev/null
select awa.complete(job_id, receipt, '"out"') from c where n = 2 \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 day') from c where n = 3 \g /dev/null
select awa.extend(job_id, receipt, '1 hour') from c where n = 4 \g /dev/null

-- Where each is
create function pg_temp.found(view regclass, id text default 'id') returns text
language plpgsql
as $$
declare
  v_found text;
begin
  execute format('select string_agg(j.n || '' '' || v.state, '', '' order by j.n) from %s v join j on j.id = v.%s',
    view,
    id) into v_found;
  return v_found;
end
$$;
select is(pg_temp.found('awa._ledger'), '1 completed, 5 running, 6 available', 'what the ledgers describe');
select is(pg_temp.found('awa._deferred'), '3 retryable', 'what waits');
select is(pg_temp.found('awa._leased'), '4 running', 'what has a row of its own');
select is(pg_temp.found('awa._done'), '2 completed', 'what has ended with one');
select is(pg_temp.found('awa.jobs'),
  '1 completed, 2 completed, 3 retryable, 4 running, 5 running, 6 available', 'each is shown once');
select is(pg_temp.found('awa._place'), pg_temp.found('awa.jobs'), 'and is at one place');
select is((select array_agg(j.n order by j.n) from awa._completed d join j using (id)), '{1,2}',
  'those that completed');
select is((select row(p.state, p.priority, p.segment, p.receipt)::text from j, awa._locate(j.id) p where n = 6),
  format('(available,2,%s,)', awa._current_segment()), 'a job is located with its place');
select is((select p.receipt from j, awa._locate(j.id) p where n = 4), (select receipt from c where n = 4),
  'or with its attempt');
select pg_temp.refused('select awa._locate(-1)', 'JQ003', 'no such job', 'one that is not there');
select is((select array_agg(p.id order by o) from unnest(awa._places_of((select array_agg(id order by n) || -1 from j)))
  with ordinality p(id, state, receipt, lane, priority, xid, segment, unique_key, o)),
  (select array_agg(id order by n) || null::bigint from j), 'many are located at once, in their order');
select is(awa._states_of((select array_agg(id order by n) || array[-1, null]::bigint[] from j)),
  '{completed,completed,retryable,running,running,available,null,null}', 'with their states');
select is(awa._states_of('{}'), '{}', 'of no jobs none');
select is(awa._state_of((select id from j where n = 4)), 'running', 'the state of a job');
select is(awa._state_of(-1), null, 'of one that is gone');
select is(awa._state_of(null), null, 'of none');
select ok((select 'jit=off' = any(p.proconfig) from pg_proc p where p.oid = 'awa._places_of'::regproc),
  'its plan is not compiled, which would take seconds');

-- Hidden: past the retention of its queue
update awa.lease_claim_closures k set closed_at = closed_at - interval '2 hours'
  from c where k.claim_id = c.receipt >> 12;
update awa.done_entries d set finalized_at = finalized_at - interval '2 hours' from j where d.job_id = j.id;
select awa.configure_queue(:'queue', '{"completed_retention": "1 hour"}') \g /dev/null
select is(pg_temp.found('awa.jobs'), '3 retryable, 4 running, 5 running, 6 available',
  'what its queue keeps no longer is not shown');
select is((select array_agg(j.n order by j.n) from awa._completed d join j using (id)), '{1,2}',
  'but is there for those who delete');
select throws_ok(format('select awa._locate(%s)', id), 'JQ003', null, 'it is not located') from j where n = 1;
select is((select p.state from j, awa._locate(j.id, true) p where n = 1), 'completed', 'unless it is asked for')
  from j where n = 1;

-- Gone: deleted, buried, dropped
insert into awa.deleted_jobs (segment, lane, xid, job_id)
select e.segment, e.lane, e.xid, e.job_id from awa.ready_entries e join j on j.id = e.job_id where j.n = 1;
select is((select array_agg(j.n order by j.n) from awa._completed d join j using (id)), '{2}',
  'what was deleted is gone');
savepoint here;
insert into awa.ready_tombstones (segment, lane, xid, job_id, batch, cancels)
select e.segment, e.lane, e.xid, e.job_id, 1, true from awa.ready_entries e join j on j.id = e.job_id where j.n = 6;
select is(pg_temp.found('awa._ledger'), '5 running', 'what was buried, too');
rollback to here;
update awa.lease_claims k set job_ids = '{}' where k.claim_id = (select receipt >> 12 from c where n = 5);
select is(pg_temp.found('awa._ledger'), '6 available', 'and what the cursor has passed, when no claim has it');
rollback to here;
select pg_temp.fold() \g /dev/null
update awa.queue_rollups r set dropped = pg_current_snapshot() where awa._queue_of(r.lane) = awa._queue_id(:'queue');
select is(pg_temp.found('awa._ledger'), null, 'and what was dropped with its queue');

-- Barriers: a function that costs nothing is given what is shown, and nothing else
create function pg_temp.notes(id bigint) returns boolean
language plpgsql cost 0.0001
as $$
begin
  perform set_config('test.given', concat_ws(' ', nullif(current_setting('test.given', true), ''), id), true);
  return true;
end
$$;
select count(*) from awa._shown s where pg_temp.notes(s.id) \g /dev/null
select is((select count(*) from string_to_table(current_setting('test.given', true), ' ') g join j on j.id = g::bigint),
  0::bigint, 'a condition sees no jobs that are not shown');

select * from finish();
rollback;
