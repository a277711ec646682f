-- Without this, a job that has to wait for something would burn its attempts by waiting.
\set name snooze
\ir ../prelude.psql

select count(*)
  from awa.enqueue_many(:'queue', 'k',
    array(select jsonb_build_object('n', n) from generate_series(1, 12) n), 3, null, 5, '{t}', '{"m": 1}',
    'g') \g /dev/null
create temp table c as select * from pg_temp.take('', 8);
create temp table s as select * from pg_temp.take('', 2, one_claim => false);
select awa.set_progress(job_id, receipt, '{"p": 4}') from c where n = 4 \g /dev/null

-- An attempt that failed once, then is put off three times, in the ledger and with a row of its own: its history goes
-- with it.
select awa.enqueue(:'queue' || ' history', 'k', max_attempts => 2) as history_id \gset
select set_config('test.history', :'history_id', false) \g /dev/null
do $$
declare
  v_claim record;
  v_id bigint := current_setting('test.history');
begin
  select * into v_claim from awa.claim(pg_temp.q(' history'));
  perform awa.fail(v_id, v_claim.receipt, 'first', '0');
  commit;
  for n in 1..3 loop
    update awa.deferred_jobs d set run_at = clock_timestamp() where d.job_id = v_id;
    commit;
    perform awa.promote_due();
    commit;
    select * into strict v_claim from awa.claim(pg_temp.q(' history'));
    if n = 2 then
      perform awa.set_progress(v_id, v_claim.receipt, to_jsonb(n));
    end if;
    perform awa.snooze(v_id, v_claim.receipt, '1 hour');
    perform pg_temp.step('snooze ' || n);
    commit;
  end loop;
  update awa.deferred_jobs d set run_at = clock_timestamp() where d.job_id = v_id;
  commit;
  perform awa.promote_due();
  commit;
end
$$;
-- The last one of a front lane
select awa.enqueue(:'queue' || ' front', 'k', priority => 4) \g /dev/null
select awa.release(job_id, receipt) from pg_temp.take(' front', 1) \g /dev/null
create temp table front as select * from pg_temp.take(' front', 1);

begin;
select plan(36);

create temp table told as
select awa.snooze(job_id => c.job_id, receipt => c.receipt, delay => '90 minutes')::text as answer
  from c
 where n = 1;
select is((select answer from told), '', 'snooze returns nothing');
select is(
  (select to_jsonb(j) - '{id,run_at,created_at,attempted_at}'::text[] from c, awa.job(c.job_id) j where n = 1),
  jsonb_build_object('kind', 'k', 'queue', pg_temp.q(), 'args', '{"n": 1}'::jsonb, 'state', 'scheduled', 'priority', 3,
    'attempt', 0, 'max_attempts', 5,
    'heartbeat_at', null, 'deadline_at', null, 'finalized_at', null, 'errors', '[]'::jsonb, 'metadata',
    '{"m": 1}'::jsonb,
    'group_key', 'g', 'expires_at', null,
    'tags', '["t"]'::jsonb, 'unique_key', null, 'receipt', null, 'progress', null, 'output', null, 'worker_id', null),
  'the job is scheduled as it was, and the attempt is not counted');
select ok((
  select j.run_at between now() + interval '90 minutes' and clock_timestamp() + interval '90 minutes'
    and j.created_at < j.attempted_at
    and j.attempted_at < now()
    from c, awa.job(c.job_id) j
   where n = 1
),
  'for so long from now');
select awa.snooze(job_id, receipt, '0') from s where n = 1 \g /dev/null
select ok((
  select j.state = 'scheduled' and j.attempt = 0 and j.run_at <= clock_timestamp()
    from s, awa.job(s.job_id) j
   where n = 1
),
  'a claim of one job, and no delay: due at once');
select awa.snooze(job_id, receipt, '10 years') from c where n = 2 \g /dev/null
select ok((select j.run_at > now() + interval '9 years 11 months' from c, awa.job(c.job_id) j where n = 2),
  'ten years may be asked for');
select is(pg_temp.states(), 'available 2, running 7, scheduled 3', 'others are not touched');

-- An attempt with a row of its own
select awa.snooze(job_id, receipt, '1 hour') from c where n = 4 \g /dev/null
select is((select row(j.state, j.attempt, j.progress, j.receipt)::text from c, awa.job(c.job_id) j where n = 4),
  '(scheduled,0,"{""p"": 4}",)', 'an attempt that lasted is no different; its progress is kept');
select is((select count(*) from awa.leases l join c using (receipt)), 0::bigint, 'its lease row goes');
select pg_temp.agrees('each is in one state');
select awa.snooze(job_id, receipt, '1 hour') from front \g /dev/null
select is((select row(j.state, j.priority)::text from front f, awa.job(f.job_id) j), '(scheduled,4)',
  'a job of the front lane goes back to the lane of its priority');

-- History
create temp table again as select * from awa.claim(pg_temp.q(' history'));
select is((select row(attempt, progress)::text from again), '(2,2)',
  'after three it is still the second attempt, with the progress that it had');
select is((select awa.fail(job_id, receipt, 'second') from again), 'failed', 'which is the last one');
select is((select jsonb_agg(e - 'at') from awa.job(:history_id) j, jsonb_array_elements(j.errors) e),
  '[{"attempt": 1, "error": "first"}, {"attempt": 2, "error": "second"}]', 'and the history is whole');
select pg_temp.steps_agree();

-- With its group
savepoint business;
select awa.snooze(job_id => job_id, receipt => receipt, delay => '1 hour', hold_group => true)
  from c where n = 6 \g /dev/null
select is((select row(j.state, j.attempt)::text from c, awa.job(c.job_id) j where n = 6), '(available,0)',
  'with its group, it waits in its line');
select is((
  select row(s.group_key, s.reason, s.paused_until > now() + interval '59 minutes')::text
    from awa.group_settings s
   where s.queue_id = awa._queue_id(:'queue')
), (select format('(g,"held by job %s",t)', job_id) from c where n = 6), 'and the group is paused');
select is((select count(*) from awa.claim(:'queue', 9)), 0::bigint, 'nothing of it begins');
select pg_temp.agrees('each is in one state');
rollback to business;

-- Refusals
savepoint business;
select awa.snooze(job_id, receipt, '1 hour') from c where n = 3 \g /dev/null
rollback to business;
select is((select j.state from c, awa.job(c.job_id) j where n = 3), 'running', 'one that rolls back never was');
select pg_temp.refused(format('select awa.snooze(%s, %s, %L)', job_id, receipt, '1 hour'), 'JQ001', 'stale',
  format('put off before, item %s', n))
  from c
 where n in (1, 4)
 order by n;
select pg_temp.refused(format('select awa.snooze(%s, %s, %L)', job_id, receipt, '1 hour'), 'JQ001', 'stale',
  'put off before, a claim of one')
  from s
 where n = 1;
select awa.complete(job_id, receipt) from c where n = 3 \g /dev/null
select pg_temp.refused(format('select awa.snooze(%s, %s, %L)', job_id, receipt, '1 hour'), 'JQ001', 'stale',
  'completed before')
  from c
 where n = 3;
select pg_temp.refused(format('select awa.snooze(%s, %s, %L)', a.job_id, x.receipt, '1 hour'), 'JQ001', 'stale',
  'the receipt of another job')
  from c a, c x
 where a.n = 5 and x.n = 6;
select pg_temp.refused(format('select awa.snooze(%s, %s, %L)', c.job_id, r.receipt, '1 hour'), 'JQ001', 'stale',
  'receipt ' || r.receipt)
  from c,
    (values (1, 0::bigint), (2, -1), (3, 9223372036854775807), (4, -9223372036854775808),
      (5, 7654321987654321)) r(n, receipt)
 where c.n = 5
 order by r.n;
create temp table v as select job_id as j, receipt as r from c where n = 5;
select pg_temp.refused(format(x.call, v.j, v.r), '22023', x.names, x.description)
  from v, (values
    (1, $$select awa.snooze(null, %2$s, '1 hour')$$, 'job_id', 'no job'),
    (2, $$select awa.snooze(%1$s, null, '1 hour')$$, 'receipt', 'no receipt'),
    (3, $$select awa.snooze(%1$s, %2$s, null)$$, 'delay', 'no delay'),
    (4, $$select awa.snooze(%1$s, %2$s, '-1 second')$$, 'delay', 'a delay below none'),
    (5, $$select awa.snooze(%1$s, %2$s, '10 years 1 day')$$, 'delay', 'more than ten years')
  ) x(n, call, names, description)
 order by x.n;
select is((select j.state from c, awa.job(c.job_id) j where n = 5), 'running', 'none of this ended the attempt');
select pg_temp.agrees('and the books balance');

select * from finish();
rollback;
