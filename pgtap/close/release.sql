-- Without this, a deploy would burn attempts, or send the work that it interrupts to the end of a deep backlog.
\set name release
\ir ../prelude.psql

select count(*)
  from awa.enqueue_many(:'queue', 'k',
    array(select jsonb_build_object('n', n) from generate_series(1, 12) n), 3, null, 5, '{t}', '{"m": 1}',
    'g') \g /dev/null
create temp table c as select * from pg_temp.take('', 6);
create temp table s as select * from pg_temp.take('', 2, one_claim => false);

-- Two attempts are given back, and then a job of priority 1 comes: the order of claims afterwards is what is tested.
select count(*)
  from awa.enqueue_many(:'queue' || ' front', 'k',
    array(select to_jsonb('old ' || n) from generate_series(1, 3) n), 4) \g /dev/null
create temp table front as select * from pg_temp.take(' front', 2);
create temp table front_old as select f.job_id, f.receipt, j.created_at from front f, awa.job(f.job_id) j where f.n = 2;
select awa.release(job_id, receipt) from front where n = 2 \g /dev/null
select awa.release(job_id, receipt) from front where n = 1 \g /dev/null
select awa.enqueue(:'queue' || ' front', 'k', '"first"', 1) \g /dev/null

-- An attempt that failed once, and then is given back: its history goes with it.
select awa.enqueue(:'queue' || ' history', 'k', max_attempts => 2) as history_id \gset
do $$
declare
  v_claim record;
begin
  select * into v_claim from awa.claim(pg_temp.q(' history'));
  perform awa.fail(v_claim.job_id, v_claim.receipt, 'first', '0');
  commit;
  perform awa.promote_due();
  commit;
  for n in 1..3 loop
    select * into v_claim from awa.claim(pg_temp.q(' history'));
    perform awa.release(v_claim.job_id, v_claim.receipt);
    commit;
  end loop;
end
$$;

-- With a row of its own, and a key
select u.job_id as lasts_id from awa.enqueue_unique(:'queue' || ' lasts', 'k', unique_key => :'queue') u \gset
create temp table lasts as select * from pg_temp.take(' lasts', 1);
select awa.set_progress(job_id, receipt, '0.5') from lasts \g /dev/null

begin;
select plan(36);

create temp table told as
select awa.release(job_id => c.job_id, receipt => c.receipt)::text as answer
  from c
 where n = 1;
select is((select answer from told), '', 'release returns nothing');
select is(
  (select to_jsonb(j) - '{id,run_at,created_at}'::text[] from c, awa.job(c.job_id) j where n = 1),
  jsonb_build_object('kind', 'k', 'queue', pg_temp.q(), 'args', '{"n": 1}'::jsonb, 'state', 'available', 'priority', 3,
    'attempt', 0, 'max_attempts', 5,
    'heartbeat_at', null, 'deadline_at', null, 'attempted_at', null, 'finalized_at', null, 'errors', '[]'::jsonb,
    'metadata', '{"m": 1}'::jsonb,
    'group_key', 'g', 'expires_at', null,
    'tags', '["t"]'::jsonb, 'unique_key', null, 'receipt', null, 'progress', null, 'output', null, 'worker_id', null),
  'the job is available as it was, and the attempt is not counted');
select ok((
  select j.run_at between now() and clock_timestamp() and j.created_at < now() from c, awa.job(c.job_id) j where n = 1
),
  'ready as of now, created when it was');
select awa.release(job_id, receipt) from s where n = 1 \g /dev/null
select is((select row(j.state, j.attempt)::text from s, awa.job(s.job_id) j where n = 1), '(available,0)',
  'a claim of one job is no different');
select is(pg_temp.states(), 'available 6, running 6', 'others are not touched');
select is((select count(distinct j.id) from awa.jobs j where j.queue = pg_temp.q()), 12::bigint,
  'every job shows once');

-- The front lane
create temp table served as select row_number() over () as place, c.* from awa.claim(pg_temp.q(' front'), 10) c;
select is((select array_agg(args #>> '{}' order by place) from served), '{old 2,old 1,first,old 3}',
  'what was given back comes before priority 1, in the order in which it was given back');
select is((select array_agg(priority order by place) from served), '{4,4,1,4}', 'with its own priority');
select is((select array_agg(attempt order by place) from served), '{1,1,1,1}', 'as a first attempt still');
select ok((
  select s.created_at = f.created_at and s.ready_at > s.created_at from served s join front_old f using (job_id)
),
  'it was created when it was');
select isnt((select s.receipt from served s join front_old f using (job_id)), (select receipt from front_old),
  'and has a new receipt');
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale', 'the old one is stale')
  from front_old;
select is((select j.state from front_old f, awa.job(f.job_id) j), 'running', 'and does not touch the new attempt');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', s.job_id, s.receipt)), 'ok', 'whose own does')
  from served s
  join front_old f using (job_id);

-- History
create temp table again as select * from awa.claim(pg_temp.q(' history'));
select is((select attempt from again), 2, 'three releases later it is still the second attempt');
select is((select array_agg(e ->> 'error') from awa.job(:history_id) j, jsonb_array_elements(j.errors) e), '{first}',
  'with the error of the first');
select is((select awa.fail(job_id, receipt, 'second') from again), 'failed', 'which is the last one');
select is((select array_agg(e ->> 'error') from awa.job(:history_id) j, jsonb_array_elements(j.errors) e),
  '{first,second}', 'and the history is whole');

-- An attempt with a row of its own
select awa.release(job_id, receipt) from lasts \g /dev/null
select is((
  select row(j.state, j.attempt, j.progress, j.receipt, j.unique_key is not null)::text from awa.job(:lasts_id) j
),
  '(available,0,0.5,,t)', 'an attempt that lasted is no different; its progress goes with it');
select is((select count(*) from awa.leases l join lasts using (receipt)), 0::bigint, 'its row goes');
select is(pg_temp.outcome(format('select awa.release(%s, %s)', job_id, receipt)), 'JQ001', 'once') from lasts;
select pg_temp.agrees('each is in one state');

-- Refusals
savepoint business;
select awa.release(job_id, receipt) from c where n = 2 \g /dev/null
rollback to business;
select is((select j.state from c, awa.job(c.job_id) j where n = 2), 'running', 'a release that rolls back never was');
select pg_temp.refused(format('select awa.release(%s, %s)', job_id, receipt), 'JQ001', 'stale', 'released before')
  from c
 where n = 1;
select pg_temp.refused(format('select awa.release(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'released before, a claim of one')
  from s
 where n = 1;
select awa.complete(job_id, receipt) from c where n = 3 \g /dev/null
select pg_temp.refused(format('select awa.release(%s, %s)', job_id, receipt), 'JQ001', 'stale', 'completed before')
  from c
 where n = 3;
select pg_temp.refused(format('select awa.release(%s, %s)', a.job_id, x.receipt), 'JQ001', 'stale',
  'the receipt of another job')
  from c a, c x
 where a.n = 4 and x.n = 5;
select pg_temp.refused(format('select awa.release(%s, %s)', c.job_id, r.receipt), 'JQ001', 'stale',
  'receipt ' || r.receipt)
  from c,
    (values (1, 0::bigint), (2, -1), (3, 9223372036854775807), (4, -9223372036854775808),
      (5, 7654321987654321)) r(n, receipt)
 where c.n = 4
 order by r.n;
select pg_temp.refused(format('select awa.release(null, %s)', receipt), '22023', 'job_id', 'no job') from c where n = 4;
select pg_temp.refused(format('select awa.release(%s, null)', job_id), '22023', 'receipt', 'no receipt')
  from c
 where n = 4;
select is((select j.state from c, awa.job(c.job_id) j where n = 4), 'running', 'none of this ended the attempt');
select is(pg_temp.states(), 'available 6, completed 1, running 5', 'and nothing else happened');

select * from finish();
rollback;
