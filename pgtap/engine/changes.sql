-- Without this, a job that is changed while somebody claims it would run twice, or never, or be cancelled and run all
-- the same.
-- That somebody is simulated: an entry is buried from a place that was looked up before it was claimed.
\set name changes
\ir ../prelude.psql

select awa.register_worker(:'queue') as worker_id \gset
create temp table jobs as
select n, awa.enqueue(pg_temp.q(), n, to_jsonb(n)) as id
  from unnest(
    array['open', 'open too', 'leased', 'completed', 'batch', 'failed', 'released', 'moved', 'alone', 'plain',
      'plain too', 'undone', 'mixed']
  ) with ordinality u(n, place)
 order by place;
insert into jobs select 'keyed', u.job_id from awa.enqueue_unique(:'queue', 'keyed', unique_key => :'queue') u;
create temp table places as select j.n, (p)::awa._place as place from jobs j join awa._place p on p.id = j.id;
-- All but the last ones are claimed now
create temp table c as
select j.n, t.job_id, t.receipt
  from awa.claim(:'queue', 9, :worker_id) t
  join jobs j on j.id = t.job_id;
select awa.extend(job_id, receipt, '1 hour') from c where n = 'leased' \g /dev/null
select awa.complete(job_id, receipt) from c where n = 'completed' \g /dev/null
select awa.complete_many(array[job_id], array[receipt]) from c where n = 'batch' \g /dev/null
select awa.fail(job_id, receipt, 'e') from c where n = 'failed' \g /dev/null
select awa.release(job_id, receipt) from c where n = 'released' \g /dev/null
select pg_temp.step('setup') \g /dev/null

-- A claim of one job, with a key
select job_id as keyed_id from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || ' keyed') \gset
create temp table keyed_place as select (p)::awa._place as place from awa._place p where p.id = :keyed_id;
create temp table keyed as select * from awa.claim(:'queue' || ' keyed', 1, :worker_id);

begin;
select plan(55);

-- Where a job is
select is((select array_agg(format('%s %s', c.n, (awa._locate(c.job_id)).state) order by c.n) from c),
  '{"alone running","batch completed","completed completed","failed retryable","leased running","moved running","open '
  'running","open too running","released available"}',
  'a job is located in its state');
select is((select count(*) from c where (awa._locate(c.job_id)).receipt = c.receipt), 7::bigint,
  'with its receipt, where it has an attempt');
select pg_temp.refused('select awa._locate(0)', 'JQ003', 'no such job', 'a job that there is not');
select pg_temp.refused('select awa._check_change(null)', '22023', 'job_id', 'no job');
select pg_temp.refused('select awa._refuse_state(1, ''running'', ''Wait.'')', 'JQ005', 'state',
  'a refusal for its state');
select pg_temp.refused('select awa._moved_on(1)', '40001', 'moved on', 'a job that moved on');

-- A change that nobody disturbs
select is(awa._bury(array[(select place from places where n = 'plain')], 1, true), array[id],
  'burying returns what it buried')
  from jobs
 where n = 'plain';
select is(awa._bury(array[(select place from places where n = 'plain'),
  (select place from places where n = 'plain too')],
  1, true),
  array[id], 'and not what was buried before')
  from jobs
 where n = 'plain too';
select is(awa._bury('{}', 1, true), '{}', 'nothing, nothing');
select is((
  select count(*)
    from awa.ready_tombstones t
    join jobs j on j.id = t.job_id
   where t.by_xid = pg_current_xact_id() and t.cancels
),
  2::bigint, 'a tombstone each');
select is((
  select count(*)
    from pg_locks l
   where l.pid = pg_backend_pid() and l.locktype = 'advisory' and l.mode = 'ExclusiveLock'
),
  0::bigint, 'no queue is locked for it');
insert into awa.pending_changes (batch) values (1);
select is(pg_temp.outcome('truncate awa.pending_changes'), '55006',
  'something is to be decided at the end of the transaction');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select is((
  select count(*) from awa.ready_tombstones t join jobs j on j.id = t.job_id where t.by_xid = pg_current_xact_id()
),
  2::bigint, 'they stand when it is decided');
select is((select count(*) from awa.pending_changes), 0::bigint, 'and nothing is left to decide');
select is((
  select count(*)
    from pg_locks l
   where l.pid = pg_backend_pid() and l.locktype = 'advisory' and l.mode = 'ExclusiveLock' and l.objsubid = 1
),
  1::bigint, 'under the lock of their queue');
select is((select array_agg(t.args #>> '{}') from awa.claim(pg_temp.q(), 1) t), '{released}',
  'nobody claims them: first comes what was given back');
select is((select array_agg(t.args #>> '{}' order by t.job_id) from awa.claim(pg_temp.q(), 2) t), '{undone,mixed}',
  'then what comes after them');
-- For the books: these two are buried, and nowhere else.
select awa._arrive((place).lane, -1) from places where n in ('plain', 'plain too') \g /dev/null
set constraints all deferred;

-- Cancelled, and claimed meanwhile
create function pg_temp.cancelled_late(name text) returns text
language plpgsql
as $$
declare
  v_state text;
begin
  set constraints all deferred;
  perform awa._cancel_ready(array[(select p.place from places p where p.n = name)], 'late');
  set constraints all immediate;
  set local idle_in_transaction_session_timeout = 0;
  select string_agg(concat_ws(' ', j.state, j.attempt, j.receipt is not null, j.errors -> -1 ->> 'error'),
    ', ') into v_state
    from awa.jobs j
   where j.id = (select id from jobs where n = name);
  return v_state;
exception when sqlstate '40001' then
  return '40001';
end
$$;
savepoint one;
select is(pg_temp.cancelled_late('open'), 'cancelled 1 t late', 'an attempt that began meanwhile is cancelled');
select is((
  select row(j.attempted_at is not null, j.worker_id, j.receipt = c.receipt)::text
    from c, awa.job(c.job_id) j
   where n = 'open'
),
  format('(t,%s,t)', :worker_id), 'and the job shows it');
select is((
  select k.outcome
    from c
    join awa.lease_claim_closures k on k.claim_id = c.receipt >> 12 and k.item = (c.receipt & 4095)
   where n = 'open'
),
  'cancelled', 'its item is closed');
select is((select count(*) from awa.ready_tombstones t join jobs j on j.id = t.job_id where j.n = 'open'), 0::bigint,
  'the entry is not buried');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'JQ001',
  'the worker''s answer is stale')
  from c
 where n = 'open';
select is((select array_agg(c.n) from awa.heartbeat(:worker_id) l join c using (job_id, receipt)), '{open}',
  'and it is told');
select pg_temp.agrees('the books balance');
select is(pg_temp.cancelled_late('leased'), 'cancelled 1 t late', 'also one that has a row of its own');
select is((select count(*) from awa.leases l join c using (receipt)), 0::bigint, 'which goes');
select pg_temp.agrees('the books balance then');
select is(pg_temp.cancelled_late('keyed'), 'cancelled 0 f late', 'one that no worker claimed stays buried');
select pg_temp.agrees('its key is free');
rollback to one;
set constraints all deferred;

-- A claim of one, with a key
select is(awa._cancel_ready(array[place], 'late'), array[:keyed_id]::bigint[], 'a claim of one job, with a key')
  from keyed_place;
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select is((select row(j.state, j.attempt, j.receipt = k.receipt)::text from keyed k, awa.job(k.job_id) j),
  '(cancelled,1,t)', 'is no different');
select is((select count(*) from awa.unique_claims u where u.job_id = :keyed_id), 0::bigint, 'the key is free');
select pg_temp.agrees('the books balance with it');
set constraints all deferred;
rollback to one;
set constraints all deferred;

-- Jobs that ended meanwhile, in any way
select is(pg_temp.cancelled_late(n), '40001',
  'cancelled late, but it was ' || n || ' meanwhile: the caller tries again')
  from unnest(array['completed', 'batch', 'failed', 'released']) n;
select pg_temp.agrees('and nothing has happened');

-- Moved, and claimed meanwhile
create function pg_temp.moved_late(name text) returns text
language plpgsql
as $$
begin
  set constraints all deferred;
  perform awa._bury(array[(select p.place from places p where p.n = name)], 2, false);
  insert into awa.pending_changes (batch) values (2);
  set constraints all immediate;
  set local idle_in_transaction_session_timeout = 0;
  return 'moved';
exception when sqlstate '40001' then
  return '40001';
end
$$;
select is(pg_temp.moved_late(n), '40001', 'moved late, but it was ' || n || ' meanwhile')
  from unnest(array['moved', 'leased', 'completed', 'released']) n;
savepoint elsewhere;
insert into awa.ready_tombstones (segment, lane, xid, job_id, by_xid, batch, cancels)
select ((place).segment + 1) % 4, (place).lane, (place).xid, (place).id, '3', 1, false
  from places
 where n = 'keyed';
select is(pg_temp.moved_late('keyed'), '40001',
  'moved late, but another session has moved it, and cleaning has carried the tombstone to another segment');
rollback to elsewhere;
set constraints all deferred;
select is(pg_temp.moved_late('keyed'), 'moved', 'one that no worker claimed is moved');
rollback to one;
set constraints all deferred;

-- Several in one transaction, and one decision after another
select awa._cancel_ready(array[(select place from places where n = 'alone'),
  (select place from places where n = 'mixed')],
  'many') \g /dev/null
select awa.cancel(id) from jobs where n = 'keyed' \g /dev/null
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select is((
  select string_agg(n || ' ' || j.state || j.attempt, ', ' order by n)
    from jobs, awa.job(jobs.id) j
   where n in ('alone', 'mixed', 'keyed')
),
  'alone cancelled1, keyed cancelled0, mixed cancelled1', 'one decision for all of a transaction');
select pg_temp.agrees('after which the books balance');
-- Constraints are immediate now, as in a transaction that has said so.
savepoint later;
select awa._cancel_ready(array[(select place from places where n = 'open too')], 'immediate') \g /dev/null
select is((select row(j.state, j.attempt)::text from jobs, awa.job(jobs.id) j where n = 'open too'), '(cancelled,1)',
  'what comes after a decision is decided too');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'JQ001', 'its answer is stale')
  from c
 where n = 'open too';
rollback to later;
set constraints all deferred;
savepoint undone;
select awa._cancel_ready(array[(select place from places where n = 'undone')], 'no') \g /dev/null
rollback to undone;
select is((select j.state from jobs, awa.job(jobs.id) j where n = 'undone'), 'running',
  'what is rolled back never was');
select awa._cancel_ready(array[(select place from places where n = 'open')], 'after') \g /dev/null
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select is((select row(j.state, j.attempt)::text from jobs, awa.job(jobs.id) j where n = 'open'), '(cancelled,1)',
  'and does not keep the next one from being decided');
select pg_temp.agrees('the books balance in the end');
select pg_temp.steps_agree();

-- Whom a worker's loss is told
select awa._record_lost_attempts(awa._look_up(array(select receipt from c where n in ('moved', 'leased'))),
  array_fill(repeat('r', 30000)::text, array[2])) \g /dev/null
select is((
  select array_agg(c.n || ' ' || char_length(l.reason) order by c.n)
    from awa.lost_attempts l
    join c using (job_id, receipt)
   where c.n in ('moved', 'leased')
),
  '{"leased 20000","moved 20000"}', 'a registered worker is told which attempts it lost, and in short why');
select awa._record_lost_attempts(awa._look_up(array(select receipt from c where n in ('moved', 'leased'))),
  array_fill('again'::text, array[2])) \g /dev/null
select is((select count(*) from awa.lost_attempts l join c using (job_id, receipt) where l.reason = 'again'), 0::bigint,
  'once');
delete from awa.workers where worker_id = :worker_id;
delete from awa.lost_attempts where worker_id = :worker_id;
select awa._record_lost_attempts(awa._look_up(array(select receipt from c where n in ('moved', 'leased'))),
  array_fill('gone'::text, array[2])) \g /dev/null
select is((select count(*) from awa.lost_attempts l where l.worker_id = :worker_id), 0::bigint,
  'one that has left is not');

select * from finish();
rollback;
