-- Without this, no user could see how far a long job is, nor the next attempt go on where the last one stopped.
\set name set_progress
\ir ../prelude.psql

select awa.register_worker(:'queue') as worker_id \gset
select count(*)
  from awa.enqueue_many(:'queue', 'k',
    array(select jsonb_build_object('n', n) from generate_series(1, 20) n), 3, null, 5, '{t}', '{"m": 1}') \g /dev/null
create temp table c as
select row_number() over (order by t.receipt)::int as n, t.job_id, t.receipt
  from awa.claim(:'queue', 16, :worker_id) t;
create temp table s as select * from pg_temp.take('', 2, one_claim => false);
create temp table before as select j.id, to_jsonb(j) as job from awa.jobs j where j.queue = :'queue';

-- Progress through all that can follow an attempt: what the next one is given, and what the job shows in between
create temp table kept (n int generated always as identity, step text, state text, shown jsonb, claimed jsonb);
do $$
declare
  v_id bigint := awa.enqueue(pg_temp.q(' kept'), 'k', max_attempts => 25);
  v_claim record;
  v_step text;
begin
  commit;
  foreach v_step in array string_to_array(
    'claim set fail promote claim release claim snooze promote claim set extend fail promote claim discard retry claim '
    'cancel retry set_priority claim clear fail promote claim set '
    'fail promote claim complete', ' ')
  loop
    case v_step
      when 'claim' then select * into strict v_claim from awa.claim(pg_temp.q(' kept'));
      when 'set' then perform awa.set_progress(v_id, v_claim.receipt, to_jsonb((select count(*) from kept)));
      when 'clear' then perform awa.set_progress(v_id, v_claim.receipt, null);
      when 'extend' then perform awa.extend(v_id, v_claim.receipt, '1 hour');
      when 'fail' then perform awa.fail(v_id, v_claim.receipt, 'e', '0');
      when 'promote' then
        update awa.deferred_jobs d set run_at = clock_timestamp() where d.job_id = v_id;
        commit;
        perform awa.promote_due();
      when 'release' then perform awa.release(v_id, v_claim.receipt);
      when 'snooze' then perform awa.snooze(v_id, v_claim.receipt, '1 hour');
      when 'discard' then perform awa.discard(v_id, v_claim.receipt, 'e');
      when 'retry' then perform awa.retry(v_id);
      when 'cancel' then perform awa.cancel(v_id);
      when 'set_priority' then perform awa.set_priority(v_id, 1);
      when 'complete' then perform awa.complete(v_id, v_claim.receipt);
    end case;
    insert into kept (step, state, shown, claimed)
    select v_step, j.state, j.progress, case v_step when 'claim' then v_claim.progress end
      from awa.job(v_id) j;
    commit;
    perform pg_temp.step(v_step);
    commit;
  end loop;
end
$$;
-- Completed in each way, in an attempt that was given progress
create temp table given as
select n, awa.enqueue(pg_temp.q(' given'), 'k') as id
  from unnest(
    array['ledger', 'output', 'batch', 'batch output', 'lease', 'lease output', 'lease batch', 'lease batch output']
  ) n;
do $$
declare
  v_claim record;
begin
  for v_claim in select * from pg_temp.take(' given', 8) loop
    perform awa.set_progress(v_claim.job_id, v_claim.receipt, '1');
    perform awa.fail(v_claim.job_id, v_claim.receipt, 'e', '0');
  end loop;
  commit;
  perform awa.promote_due(10000);
end
$$;
create temp table again as select g.n, c.* from awa.claim(:'queue' || ' given', 8) c join given g on g.id = c.job_id;
select awa.extend(job_id, receipt, '1 hour') from again where n like 'lease%' \g /dev/null
select awa.complete(job_id, receipt, case when n like '%output' then '2'::jsonb end)
  from again
 where n not like '%batch%' \g /dev/null
select count(*)
  from awa.complete_many(array(select job_id from again where n like '%batch%' order by n),
    array(select receipt from again where n like '%batch%' order by n),
  array(
    select case when n like '%output' then '2'::jsonb end from again where n like '%batch%' order by n
  )) \g /dev/null

begin;
select plan(33);

create temp table told as
select awa.set_progress(job_id => c.job_id, receipt => c.receipt, progress => '{"done": 3}')::text as answer
  from c
 where n = 1;
select is((select answer from told), '', 'set_progress returns nothing');
select is((select to_jsonb(j) from c, awa.job(c.job_id) j where n = 1),
  (select b.job || '{"progress": {"done": 3}}' from c join before b on b.id = c.job_id where n = 1),
  'the job shows it, and runs as before');
select is((
  select row(l.progress, l.lease, l.lease_until - l.claimed_at)::text
    from c
    join awa.leases l using (receipt)
   where n = 1
),
  '("{""done"": 3}",00:01:00,00:01:00)', 'from a row of its own, whose lease is that of the claim');
select awa.set_progress(job_id, receipt, '"more"') from c where n = 1 \g /dev/null
select is((select j.progress from c, awa.job(c.job_id) j where n = 1), '"more"'::jsonb, 'the last word counts');
select awa.set_progress(job_id, receipt, 'null') from c where n = 1 \g /dev/null
select is((select j.progress from c, awa.job(c.job_id) j where n = 1), 'null'::jsonb, 'a JSON null is one');
select awa.set_progress(job_id, receipt, null) from c where n = 1 \g /dev/null
select is((select j.progress from c, awa.job(c.job_id) j where n = 1), null, 'null clears it');
select awa.set_progress(job_id, receipt, '[1]') from s where n = 1 \g /dev/null
select is((select j.progress from s, awa.job(s.job_id) j where n = 1), '[1]'::jsonb,
  'a claim of one job is no different');
select is(pg_temp.states(), 'available 2, running 18', 'others are not touched');
select pg_temp.agrees('each is in one state');

-- It counts for the byte budget of the next claim
create temp table bytes as select l.body_bytes from c join awa.leases l using (receipt) where n = 1;
select awa.set_progress(job_id, receipt, jsonb_build_object('long', repeat('x', 5000))) from c where n = 1 \g /dev/null
select ok((
  select l.body_bytes between b.body_bytes + 5000 and b.body_bytes + 5100
    from bytes b, c
    join awa.leases l using (receipt)
   where n = 1
),
  'the bytes of the body are those with it');
select awa.set_progress(job_id, receipt, null) from c where n = 1 \g /dev/null
select is((select l.body_bytes from c join awa.leases l using (receipt) where n = 1), (select body_bytes from bytes),
  'or without it');

-- Kept, and cleared
select is(
  (
    select string_agg(k.step || ' ' || coalesce(k.claimed::text, '-'), ', ' order by k.n)
      from kept k
     where k.step = 'claim'
  ),
  'claim -, claim 1, claim 1, claim 1, claim 10, claim 10, claim 10, claim -, claim 26',
  'an attempt is given the progress of the one before, however that ended; until it is cleared');
select is((select string_agg(k.step, ', ' order by k.n) from kept k where k.n between 3 and 22 and k.shown is null),
  null, 'the job shows it all the time');
select is((select row(k.state, k.shown)::text from kept k order by k.n desc limit 1), '(completed,)',
  'until it completes');
select pg_temp.steps_agree();
select is(
  (
    select string_agg(g.n || ': ' || coalesce(j.progress::text, '-'), ', ' order by g.n)
      from given g, awa.job(g.id) j
     where j.state = 'completed'
  ),
  'batch: -, batch output: -, lease: -, lease batch: -, lease batch output: -, lease output: -, ledger: -, output: -',
  'however it is completed');

-- Refusals
savepoint business;
select awa.set_progress(job_id, receipt, '1') from c where n = 2 \g /dev/null
rollback to business;
select is((select j.progress from c, awa.job(c.job_id) j where n = 2), null, 'progress that rolls back never was');
select awa.complete(job_id, receipt) from c where n = 1 \g /dev/null
select pg_temp.refused(format('select awa.set_progress(%s, %s, %L)', job_id, receipt, '1'), 'JQ001', 'stale',
  'completed from its row')
  from c
 where n = 1;
select awa.complete(job_id, receipt) from c where n = 3 \g /dev/null
select pg_temp.refused(format('select awa.set_progress(%s, %s, %L)', job_id, receipt, '1'), 'JQ001', 'stale',
  'completed before')
  from c
 where n = 3;
select awa.fail(job_id, receipt, 'e') from c where n = 4 \g /dev/null
select pg_temp.refused(format('select awa.set_progress(%s, %s, %L)', job_id, receipt, '1'), 'JQ001', 'stale',
  'failed before')
  from c
 where n = 4;
select pg_temp.refused(format('select awa.set_progress(%s, %s, %L)', a.job_id, x.receipt, '1'), 'JQ001', 'stale',
  'the receipt of another job')
  from c a, c x
 where a.n = 5 and x.n = 6;
select awa.extend(job_id, receipt, '1 hour') from c where n = 6 \g /dev/null
select pg_temp.refused(format('select awa.set_progress(%s, %s, %L)', a.job_id, x.receipt, '1'), 'JQ001', 'stale',
  'the receipt of another job that has a row of its own')
  from c a, c x
 where a.n = 5 and x.n = 6;
select pg_temp.refused(format('select awa.set_progress(%s, %s, %L)', c.job_id, r.receipt, '1'), 'JQ001', 'stale',
  'receipt ' || r.receipt)
  from c,
    (values (1, 0::bigint), (2, -1), (3, 9223372036854775807), (4, -9223372036854775808),
      (5, 7654321987654321)) r(n, receipt)
 where c.n = 5
 order by r.n;
select pg_temp.refused(format('select awa.set_progress(null, %s, %L)', receipt, '1'), '22023', 'job_id', 'no job')
  from c
 where n = 5;
select pg_temp.refused(format('select awa.set_progress(%s, null, %L)', job_id, '1'), '22023', 'receipt', 'no receipt')
  from c
 where n = 5;
select pg_temp.refused(format(
  'select awa.set_progress(%s, %s, (select jsonb_agg(n) from unnest(array_fill(1e120000::numeric, array[1200])) n))',
  job_id, receipt),
  '22023', 'progress', 'more than a claim could return')
  from c
 where n = 5;
select pg_temp.refused(format('select awa.set_progress(%s, %s, pg_temp.nested(501))', job_id, receipt), '22023',
  'progress', 'nested 501 deep')
  from c
 where n = 5;
select is((select j.progress from c, awa.job(c.job_id) j where n = 5), null, 'none of this was written');
select pg_temp.agrees('and the books balance');

select * from finish();
rollback;
