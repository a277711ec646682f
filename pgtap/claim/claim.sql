-- Without this, a job could be lost, be claimed twice, overtake one that came before it, or never be served at all.
\set name claim
\ir ../prelude.psql

-- Nine jobs of mixed priorities, each enqueued in a transaction of its own; n says in which order they are to be
-- served.
do $$
declare
  v_job record;
begin
  for v_job in
    select * from (values (3, 6), (1, 1), (4, 8), (2, 3), (1, 2), (4, 9), (3, 7), (2, 4), (2, 5)) v(priority, n)
  loop
    perform awa.enqueue(pg_temp.q(), 'k', jsonb_build_object('n', v_job.n), v_job.priority);
    commit;
  end loop;
end
$$;

-- Columns of a claimed row
select awa.enqueue(:'queue' || ' row', 'full', '{"a": 1}', 3, null, 7, '{x,y}', '{"m": 1}', 'g') as row_id \gset
select awa.enqueue(:'queue' || ' plain', 'plain') as plain_id \gset

-- A bulk that needs more than one ledger row
select count(*)
  from awa.enqueue_many(:'queue' || ' bulk', 'k',
    array(select jsonb_build_object('n', n) from generate_series(1, 2500) n)) \g /dev/null

-- A transaction that enqueues, claims, and enqueues again. What it rolls back in between is younger than itself: its
-- own number lies below the claim's horizon.
select awa.enqueue(:'queue' || ' own', 'k', '0') \g /dev/null
begin;
select awa.enqueue(:'queue' || ' own', 'k', '1') \g /dev/null
savepoint s;
select awa.enqueue(:'queue' || ' own', 'k', '"lost"') \g /dev/null
rollback to s;
create temp table own_claim as select c.args from awa.claim(:'queue' || ' own', 10) c;
select awa.enqueue(:'queue' || ' own', 'k', '2') \g /dev/null
commit;

-- Rolled back as a whole, and in part
begin;
select awa.enqueue(:'queue' || ' rolled back', 'k', '"lost"') \g /dev/null
rollback;
begin;
select awa.enqueue(:'queue' || ' rolled back', 'k', '1') \g /dev/null
savepoint s;
select awa.enqueue(:'queue' || ' rolled back', 'k', '"lost"') \g /dev/null
rollback to s;
select awa.enqueue(:'queue' || ' rolled back', 'k', '2') \g /dev/null
commit;
begin;
create temp table undone as select c.job_id, c.receipt from awa.claim(:'queue' || ' rolled back', 1) c;
select job_id as undone_id, receipt as undone_receipt from undone \gset
rollback;

-- Others
select awa.enqueue(:'queue' || ' deferred', 'k', run_at => '2130-01-01') \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' leases', 'k', array_fill('{}'::jsonb, array[9])) \g /dev/null
select count(*)
  from awa.enqueue_many(:'queue' || ' bytes', 'k',
    array_fill(jsonb_build_object('b', repeat('x', 3000)), array[9])) \g /dev/null
select awa.enqueue(repeat('ü', 160) || right(:'queue', 36), 'k') as wide_id \gset
select awa.register_worker(:'queue') as worker_id, awa.register_worker(:'queue') as left_id \gset
select awa.deregister_worker(:left_id) \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' paused', 'k', array_fill('{}'::jsonb, array[2])) \g /dev/null
select awa.pause_queue(:'queue' || ' paused') \g /dev/null
create temp table one_by_one (place int generated always as identity, n int, receipt bigint);
do $$
begin
  for n in 1..5 loop
    perform awa.enqueue(pg_temp.q(' one by one'), 'k', to_jsonb(2 * n - 1));
    commit;
    insert into one_by_one (n, receipt)
    select (c.args #>> '{}')::int, c.receipt
      from awa.claim(pg_temp.q(' one by one')) c;
    perform awa.enqueue(pg_temp.q(' one by one'), 'k', to_jsonb(2 * n));
    commit;
  end loop;
end
$$;

-- Aging: a job on each lane, of which some have waited for longer. Which is served when; its priority, and how long it
-- has waited, are its args.
create function pg_temp.waited(suffix text, jobs text[]) returns void
language sql
as $$
  select awa.enqueue(pg_temp.q(suffix), 'k', to_jsonb(j), split_part(j, ' ', 1)::int) from unnest(jobs) j;
  update awa.ready_entries e
     set ready_at = e.ready_at - split_part(e.args #>> '{}', ' ', 2)::interval
   where awa._queue_of(e.lane) = awa._queue_id(pg_temp.q(suffix));
$$;
create temp table ages as
select * from (values
  (1, '', '{1 0s,2 0s,3 0s,4 0s}'::text[], '{1 0s,2 0s,3 0s,4 0s}'::text[],
    'who has not waited for long is served by priority'),
  (2, '', '{1 20s,2 20s,3 20s,4 20s}', '{1 20s,2 20s,3 20s,4 20s}', 'also when all have waited for less than a minute'),
  (3, '', '{1 0s,2 0s,3 80s,4 0s}', '{1 0s,3 80s,2 0s,4 0s}',
    'each minute that a head has waited counts for a priority; the older one first'),
  (4, '', '{1 0s,2 100s,3 130s,4 10m}', '{4 10m,3 130s,2 100s,1 0s}', 'the more the longer'),
  (5, '', '{1 1h,2 0s,3 0s,4 1h}', '{1 1h,4 1h,2 0s,3 0s}', 'where all age, priorities stay'),
  (6, '', '{1 0s,2 0s,3 0s,4 6000y}', '{4 6000y,1 0s,2 0s,3 0s}', 'a head may have waited for thousands of years'),
  (7, '{"aging_interval": 0.001}', '{1 1s,2 2s,3 0s,4 6000y}', '{4 6000y,2 2s,1 1s,3 0s}', 'by milliseconds'),
  (8, '{"aging_interval": "1 hour"}', '{1 0s,2 50m,3 70m,4 2h}', '{1 0s,4 2h,3 70m,2 50m}',
    'or hours, as the queue says'),
  (9, '{"aging_interval": "1 year"}', '{1 0s,2 11mons,3 400d,4 400d}', '{1 0s,3 400d,2 11mons,4 400d}', 'or years')
) v(n, settings, jobs, expected, description);
select count(pg_temp.waited(' age ' || n, jobs)) from ages \g /dev/null
select count(awa.configure_queue(pg_temp.q(' age ' || n), settings::jsonb)) from ages where settings <> '' \g /dev/null
-- The front lane, however young
select pg_temp.waited(' front', '{4 0s}') \g /dev/null
select awa.release(job_id, receipt) from pg_temp.take(' front', 1) \g /dev/null
select pg_temp.waited(' front', '{1 1h}') \g /dev/null

-- Buried entries: at the beginning, in between, at the end; a whole lane; and those of a transaction that committed
-- late
create temp table buried as
select n, awa.enqueue(pg_temp.q(' buried'), 'k', to_jsonb(n)) as id
  from generate_series(1, 20) n;
select awa.cancel(id) from buried where n in (1, 2, 3, 4, 7, 9, 10, 11, 18, 19, 20) \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' all buried', 'k', array_fill('{}'::jsonb, array[5]), 1) \g /dev/null
select awa.cancel_where(:'queue' || ' all buried') \g /dev/null
select awa.enqueue(:'queue' || ' all buried', 'k', '"left"', 3) \g /dev/null
begin;
create temp table late as
select n, awa.enqueue(pg_temp.q(' late'), 'k', to_jsonb(n)) as id
  from generate_series(1, 4) n;
savepoint s;
select awa.enqueue(:'queue' || ' late', 'k', '"lost"') \g /dev/null
rollback to s;
select count(*) from awa.claim(:'queue' || ' late', 10) \g /dev/null
commit;
select awa.enqueue(:'queue' || ' late', 'k', '5') \g /dev/null
select count(*) from awa.claim(:'queue' || ' late', 1) \g /dev/null
select awa.cancel(id) from late where n in (2, 3, 4) \g /dev/null
select pg_temp.step('buried') \g /dev/null

-- Keys, and a deadline
select count(*) from awa.enqueue_many(:'queue' || ' keys', 'plain', array_fill('{}'::jsonb, array[2])) \g /dev/null
select u.job_id as keyed_id
  from awa.enqueue_unique(:'queue' || ' keys', 'unique', unique_key => :'queue', unique_states => '{running}') u \gset
select count(*) from awa.enqueue_many(:'queue' || ' deadline', 'k', array_fill('{}'::jsonb, array[2])) \g /dev/null

begin;
select plan(74);

-- Order
create temp table first as
select c.*, row_number() over () as place
  from awa.claim(queue => pg_temp.q(), max_jobs => 4) c;
select is((select array_agg((args ->> 'n')::int order by place) from first), '{1,2,3,4}',
  'jobs come by priority, and within one in the order of their commits');
select is((select array_agg((c.args ->> 'n')::int) from awa.claim(pg_temp.q(), 3) c), '{5,6,7}',
  'the next claim goes on where the last one stopped');
select is((select array_agg((c.args ->> 'n')::int) from awa.claim(pg_temp.q(), 100) c), '{8,9}',
  'a claim returns what there is');
select is((select count(*) from awa.claim(pg_temp.q(), 100)), 0::bigint, 'nothing is claimed twice');
select is((select array_agg(n order by place) from one_by_one), '{1,2,3,4,5}',
  'claims between enqueues keep the order');
select is((select array_agg((c.args #>> '{}')::int) from awa.claim(pg_temp.q(' one by one'), 100) c), '{6,7,8,9,10}',
  'and leave nothing behind');

-- The row
create temp table whole_row as select c.* from awa.claim(pg_temp.q(' row')) c;
select is(
  (select to_jsonb(c) - '{receipt,created_at,ready_at}'::text[] from whole_row c),
  jsonb_build_object('job_id', :row_id, 'queue', pg_temp.q(' row'), 'kind', 'full', 'args', '{"a": 1}'::jsonb,
    'priority', 3, 'attempt', 1,
    'max_attempts', 7, 'deadline_at', null, 'tags', '["x", "y"]'::jsonb, 'metadata', '{"m": 1}'::jsonb,
    'group_key', 'g', 'expires_at', null, 'progress',
    null),
  'a claimed row shows the job');
select ok((
  select c.created_at = j.created_at and c.ready_at = j.run_at and c.ready_at < now()
    from whole_row c, awa.job(c.job_id) j
),
  'and since when it waits');
select is(
  (select to_jsonb(c) - '{receipt,created_at,ready_at}'::text[] from awa.claim(pg_temp.q(' plain')) c),
  jsonb_build_object('job_id', :plain_id, 'queue', pg_temp.q(' plain'), 'kind', 'plain', 'args', '{}'::jsonb,
    'priority', 2, 'attempt', 1,
    'max_attempts', 25, 'deadline_at', null, 'tags', null, 'metadata', null,
    'group_key', null, 'expires_at', null, 'progress', null),
  'a job that named nothing is claimed with the defaults');
select is(
  (
    select row(j.state, j.attempt, j.receipt, j.worker_id, j.attempted_at between now() and clock_timestamp(),
      j.finalized_at)::text
      from whole_row c, awa.job(c.job_id) j
  ),
  (select row('running'::text, 1, c.receipt, null::bigint, true, null::timestamptz)::text from whole_row c),
  'and runs, its first attempt, from now on');
select is((select count(*) from awa.claimed_job_row), 0::bigint, 'the view that names the columns is empty');

-- A bulk
update awa.settings set claim_bytes = 100000000;
create temp table bulk as select c.*, row_number() over () as place from awa.claim(pg_temp.q(' bulk'), 2400) c;
select is((select count(*) filter (where (args ->> 'n')::bigint = place) from bulk), 2400::bigint,
  'a claim of 2,400 jobs is complete, and in order');
select is((select count(distinct receipt) from bulk), 2400::bigint, 'every attempt has a receipt of its own');
select is((
  select count(*)
    from bulk b, awa._attempts(array[b.receipt]) a
   where a.job_id = b.job_id and b.place in (1, 960, 961, 2400)
),
  4::bigint, 'which leads to its job');
select is((select array_agg((c.args ->> 'n')::int) from awa.claim(pg_temp.q(' bulk'), 10000) c),
  array(select generate_series(2401, 2500)), '10,000 may be asked for');
update awa.settings set claim_bytes = 131072;

-- The caller's own transaction
select is((select array_agg(args) from own_claim), '{0}', 'what a transaction enqueued is not there for its own claim');
select is((select array_agg(c.args) from awa.claim(pg_temp.q(' own'), 10) c), '{1,2}',
  'but is once it committed, also what it enqueued after the claim');
select awa.enqueue(pg_temp.q(' in here'), 'k') \g /dev/null
select is((select count(*) from awa.claim(pg_temp.q(' in here'), 10)), 0::bigint,
  'nor is it when the claim comes first to the queue');

-- Rolled back
select is((select array_agg(c.args) from awa.claim(pg_temp.q(' rolled back'), 10) c), '{1,2}',
  'what was rolled back is not claimed, whatever is around it; a claim that was is made again');
select is(
  pg_temp.outcome($q$select awa.complete($q$ || :undone_id || ', ' || :undone_receipt || ')'), 'JQ001',
    'the receipt of the first one is worth nothing');

-- How many
select is((select count(*) from awa.claim(pg_temp.q(' leases'))), 1::bigint, 'one job unless told otherwise');
select is((select count(*) from awa.claim(pg_temp.q(' leases'), null, null, null)), 1::bigint,
  'an explicit null means the default');
select is((select count(*) from awa.claim(pg_temp.q(' deferred'), 10)), 0::bigint,
  'a scheduled job is not claimed before its time');
update awa.settings set claim_bytes = 10000;
select is((select count(*) from awa.claim(pg_temp.q(' bytes'), 9)), 3::bigint,
  'a claim stops before the job that would exceed its bytes');
update awa.settings set claim_bytes = 1;
select is((select count(*) from awa.claim(pg_temp.q(' bytes'), 9)), 1::bigint, 'but not before the first job');
update awa.settings set claim_bytes = 131072;
select is((select count(*) from awa.claim(pg_temp.q(' bytes'), 9)), 5::bigint, 'and the rest comes later');
select is((select count(*) from awa.claim(repeat('ü', 160) || right(pg_temp.q(), 36))), 1::bigint,
  'a name of more than 200 bytes will do');

-- Nothing to claim
create temp table before as select (regexp_match(pg_temp.writes(), '^\d+'))[1] as rows;
select is((select count(*) from awa.claim(pg_temp.q(' unheard of'), 10)), 0::bigint,
  'there is nothing to claim from a queue that nobody has enqueued to');
select is((select count(*) from awa.claim(pg_temp.q(' paused'), 10)), 0::bigint, 'nor from one that is paused');
select is((regexp_match(pg_temp.writes(), '^\d+'))[1], (select rows from before), 'and nothing is written for it');

-- Lease and worker
select is(
  (
    select l.lease_until - l.claimed_at
      from awa.claim(pg_temp.q(' leases')) c, awa.lease_claims l
     where l.claim_id = c.receipt >> 12
  ),
  null,
  'a statement does not see what it claims itself');
create temp table leased as
select 'default' as which, c.* from awa.claim(pg_temp.q(' leases')) c
 union all select 'named', c.* from awa.claim(pg_temp.q(' leases'), lease => '5 minutes') c;
select awa.configure_queue(pg_temp.q(' leases'), '{"lease": "17 seconds"}') \g /dev/null
insert into leased
select 'queue', c.* from awa.claim(pg_temp.q(' leases')) c
 union all select 'before the queue', c.* from awa.claim(pg_temp.q(' leases'), lease => '3 seconds') c;
select results_eq(
  'select d.which, l.lease_until - l.claimed_at from leased d join awa.lease_claims l on l.claim_id = d.receipt >> 12 '
  'order by d.which',
  $q$values ('before the queue', interval '3 seconds'), ('default', '1 minute'), ('named', '5 minutes'),
  ('queue', '17 seconds')$q$,
  'a lease is what the caller, or else the queue, or else the default says');
create temp table with_worker as select c.* from awa.claim(pg_temp.q(' leases'), worker_id => :worker_id) c;
select is(
  (select row(j.worker_id, j.heartbeat_at)::text from with_worker c, awa.job(c.job_id) j),
  (select row(w.worker_id, w.heartbeat_at)::text from awa.workers w where w.worker_id = :worker_id),
  'an attempt shows its worker, and when that was last heard of');

-- Aging
select is(
  (
    select array_agg(c.args #>> '{}' order by c.n)
      from rows
      from (awa.claim(pg_temp.q(' age ' || a.n), 10)) with ordinality c(job_id, receipt, queue, kind, args, priority,
        attempt, max_attempts, created_at, ready_at, deadline_at, tags, metadata, progress, group_key, expires_at, n)
  ),
  a.expected, a.description) from ages a order by a.n;
select is((select array_agg(c.args #>> '{}') from awa.claim(pg_temp.q(' front'), 10) c), '{4 0s,1 1h}',
  'what was given back comes first, however long others have waited');

-- Buried
select is((select array_agg(c.args order by c.receipt) from awa.claim(pg_temp.q(' buried'), 3) c),
  array['5', '6', '8']::jsonb[], 'entries that are buried are passed over, and do not count');
create temp table past as select * from awa.claim(pg_temp.q(' buried'), 100);
select is((select array_agg(p.args order by p.receipt) from past p), array['12', '13', '14', '15', '16', '17']::jsonb[],
  'to the end');
select is((
  select count(*) from past p, awa._attempts(array[p.receipt]) a where a.job_id = p.job_id and a.args = p.args
),
  6::bigint, 'and receipts lead to their jobs');
select is((
  select count(*) from awa.complete_many((select array_agg(job_id) from past), (select array_agg(receipt) from past))
),
  0::bigint, 'which can be completed');
select is((select array_agg(c.args) from awa.claim(pg_temp.q(' all buried'), 10) c), '{"\"left\""}',
  'a lane that is all buried is in nobody''s way');
select is((select array_agg(c.args) from awa.claim(pg_temp.q(' late'), 10) c), '{5}', 'nor are late commits');
select is((select count(*) from awa.claim(pg_temp.q(' buried'), 100)) + (
  select count(*) from awa.claim(pg_temp.q(' all buried'), 100)
) + (select count(*) from awa.claim(pg_temp.q(' late'), 100)),
  0::bigint, 'nothing is left');
select pg_temp.agrees('each job is in one state');
select pg_temp.steps_agree();

-- Keys, and a deadline
create temp table keys as
select c.kind, c.job_id, l.holds_keys, l.claim_id
  from (select * from awa.claim(pg_temp.q(' keys'), 2) union all select * from awa.claim(pg_temp.q(' keys'), 2)) c
  join awa.lease_claims l on l.claim_id = c.receipt >> 12;
select is((select count(*) from keys), 0::bigint, 'claims of the same statement are not seen by it');
select is((
  select array_agg(l.holds_keys order by l.claim_id)
    from awa.lease_claims l
   where l.lane = awa._lane(awa._queue_id(pg_temp.q(' keys')), 2)
),
  '{f,t}', 'a claim says whether any of its jobs has a unique key');
select is((select count(*) from awa.unique_claims u where u.job_id = :keyed_id), 1::bigint,
  'one that is held while it runs is held then');
select is((select c.deadline_at from awa.claim(pg_temp.q(' deadline')) c), null,
  'there is no deadline unless the queue has one');
select awa.configure_queue(pg_temp.q(' deadline'), '{"deadline": "90 seconds"}') \g /dev/null
create temp table deadline as select * from awa.claim(pg_temp.q(' deadline'), 1, :worker_id, '1 hour');
select is((
  select row(d.deadline_at - l.claimed_at, l.deadline_at = d.deadline_at, j.deadline_at = d.deadline_at,
    l.lease_until - l.claimed_at)::text
    from deadline d
    join awa.lease_claims l on l.claim_id = d.receipt >> 12
   cross join awa.job(d.job_id) j
),
  '(00:01:30,t,t,01:00:00)', 'a deadline is so long from the claim, whatever the lease');

-- Durable: what the transaction's commit does, of each kind that the session may have set
create temp table waits as
select *
  from (values ('on'), ('local'), ('off')) s(before)
 cross join (values (true), (false), (null)) d(durable);
alter table waits add column after text;
do $$
declare
  v_case record;
begin
  for v_case in select * from waits loop
    perform set_config('synchronous_commit', v_case.before, true);
    perform from awa.claim(pg_temp.q(' nothing'), durable => v_case.durable);
    update waits w
       set after = current_setting('synchronous_commit')
     where w.before = v_case.before and w.durable is not distinct from v_case.durable;
  end loop;
end
$$;
select results_eq('select w.before, w.durable, w.after from waits w order by 1, 2', $$values
  ('local', false, 'off'), ('local', true, 'local'), ('local', null, 'local'),
  ('off', false, 'off'), ('off', true, 'on'), ('off', null, 'off'),
  ('on', false, 'off'), ('on', true, 'on'), ('on', null, 'on')$$,
  'durable: false does not wait for the disk, true does, null leaves it to the session');

-- Refusals
select pg_temp.refused(format('select * from awa.claim(%s)', c.args), '22023', c.names, c.description)
  from (values
    (1, 'null', 'queue', 'no queue'),
    (2, $q$''$q$, 'queue', 'an empty queue'),
    (3, $q$repeat('ü', 201)$q$, 'queue', 'a queue of 201 characters'),
    (4, 'pg_temp.q(), 0', 'max_jobs', 'no jobs'),
    (5, 'pg_temp.q(), -1', 'max_jobs', '-1 jobs'),
    (6, 'pg_temp.q(), -2147483648', 'max_jobs', 'as few jobs as an integer can say'),
    (7, 'pg_temp.q(), 10001', 'max_jobs', 'more jobs than a call may handle'),
    (8, 'pg_temp.q(), 2147483647', 'max_jobs', 'as many jobs as an integer can say'),
    (9, $q$pg_temp.q(), lease => '0'$q$, 'lease', 'no lease'),
    (10, $q$pg_temp.q(), lease => '-1 second'$q$, 'lease', 'a lease that ended before it began'),
    (11, $q$pg_temp.q(), lease => '100000 years'$q$, 'lease', 'a lease for ever'),
    (12, 'pg_temp.q(), worker_id => 0', 'worker_id', 'worker 0'),
    (13, 'pg_temp.q(), worker_id => -1', 'worker_id', 'worker -1'),
    (14, 'pg_temp.q(), worker_id => 9223372036854775807', 'worker_id', 'a worker that nobody registered'),
    (15, 'pg_temp.q(), worker_id => ' || :left_id, 'worker_id', 'a worker that has left')
  ) c(n, args, names, description)
 order by c.n;
select is((select count(*) from awa.claim(pg_temp.q(' leases'), 10)), 1::bigint, 'no refused claim took a job');

select * from finish();
rollback;
