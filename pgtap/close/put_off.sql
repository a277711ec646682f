-- Without this, a job whose failure a trigger or a constraint refuses would run every minute for ever, and nobody would
-- know.
\set name put_off
\ir ../prelude.psql

select count(*)
  from awa.enqueue_many(:'queue', 'k',
    array(select jsonb_build_object('n', n) from generate_series(1, 12) n), 3, null, 3, '{t}', '{"m": 1}',
    'g') \g /dev/null
create temp table c as select * from pg_temp.take('', 8);
select awa.set_progress(job_id, receipt, '{"p": 4}') from c where n = 4 \g /dev/null

-- A job that failed, then is put off again and again
select awa.enqueue(:'queue' || ' again', 'k', max_attempts => 3) as again_id \gset
select set_config('test.again', :'again_id', false) \g /dev/null
create temp table delays (place int, delay interval, attempt int);
do $$
declare
  v_claim record;
  v_id bigint := current_setting('test.again');
  v_began timestamptz;
begin
  select * into v_claim from awa.claim(pg_temp.q(' again'));
  perform awa.fail(v_id, v_claim.receipt, 'first', '0');
  commit;
  for n in 1..9 loop
    update awa.deferred_jobs d set run_at = clock_timestamp() where d.job_id = v_id;
    commit;
    perform awa.promote_due();
    commit;
    select * into strict v_claim from awa.claim(pg_temp.q(' again'));
    v_began := clock_timestamp();
    insert into delays
    select n, date_trunc('minute', awa.put_off(v_id, v_claim.receipt, 'refused ' || n) - v_began), v_claim.attempt;
    perform pg_temp.step('put_off ' || n);
    commit;
  end loop;
end
$$;

begin;
select plan(22);

create temp table told as
select awa.put_off(job_id => c.job_id, receipt => c.receipt, error => 'the failure was refused') as run_at
  from c
 where n = 1;
select is(
  (
    select (to_jsonb(j) #- '{errors,0,at}'::text[]) - '{id,run_at,created_at,attempted_at}'::text[]
      from c, awa.job(c.job_id) j
     where n = 1
  ),
  jsonb_build_object('kind', 'k', 'queue', pg_temp.q(), 'args', '{"n": 1}'::jsonb, 'state', 'scheduled', 'priority', 3,
    'attempt', 1, 'max_attempts', 3,
    'heartbeat_at', null, 'deadline_at', null, 'finalized_at', null, 'errors',
    '[{"attempt": 1, "error": "the failure was refused", "put_off": true}]'::jsonb, 'metadata', '{"m": 1}'::jsonb,
    'group_key', 'g', 'expires_at', null,
    'tags', '["t"]'::jsonb, 'unique_key', null, 'receipt', null, 'progress', null, 'output', null, 'worker_id', null),
  'the job is scheduled as it was, the attempt counts, and it is written down why');
select ok((
  select j.run_at = t.run_at
    and j.run_at between now() + interval '1 minute' and clock_timestamp() + interval '1 minute'
    and j.created_at < j.attempted_at
    from told t, c, awa.job(c.job_id) j
   where n = 1
),
  'put_off returns when it runs again, in a minute');
select awa.put_off(job_id, receipt, 'refused') from c where n = 4 \g /dev/null
select is((select row(j.state, j.attempt, j.progress, j.receipt)::text from c, awa.job(c.job_id) j where n = 4),
  '(scheduled,1,"{""p"": 4}",)', 'an attempt that lasted is no different; its progress is kept');
select is((select count(*) from awa.leases l join c using (receipt)), 0::bigint, 'its lease row goes');
select pg_temp.agrees('each is in one state');

-- Again and again
select results_eq('select delay from delays order by place',
  $$
  select d::interval
    from unnest('{1 minute,2 minutes,4 minutes,8 minutes,16 minutes,32 minutes,1 hour,1 hour,1 hour}'::text[]) d$$,
      'each time it waits for twice as long, up to an hour');
select results_eq('select attempt from delays order by place', $$values (2), (3), (3), (3), (3), (3), (3), (3), (3)$$,
  'it counts until the last attempt');
select is(
  (
    select string_agg(concat(e ->> 'attempt', ' ', e ->> 'error', ' ', e ->> 'put_off'), ', ')
      from awa.job(:again_id) j, jsonb_array_elements(j.errors) e
     where e ->> 'error' ~ '[1t]$'
  ),
  '1 first , 2 refused 1 true', 'and the history is whole');
select is(awa._put_off_delay('[{"put_off": true}, {"error": "x"}, {"put_off": true}]'), '2 minutes',
  'only the last ones in a row count');
select is(awa._put_off_delay(null), '1 minute', 'no errors, a minute');
select pg_temp.steps_agree();

-- Refusals
savepoint business;
select awa.put_off(job_id, receipt, 'x') from c where n = 3 \g /dev/null
rollback to business;
select is((select j.state from c, awa.job(c.job_id) j where n = 3), 'running', 'one that rolls back never was');
select pg_temp.refused(format('select awa.put_off(%s, %s, %L)', job_id, receipt, 'x'), 'JQ001', 'stale',
  format('put off before, item %s', n))
  from c
 where n in (1, 4)
 order by n;
create temp table v as select job_id as j, receipt as r from c where n = 5;
select pg_temp.refused(format(x.call, v.j, v.r), '22023', x.names, x.description)
  from v, (values
    (1, $$select awa.put_off(null, %2$s, 'x')$$, 'job_id', 'no job'),
    (2, $$select awa.put_off(%1$s, null, 'x')$$, 'receipt', 'no receipt'),
    (3, $$select awa.put_off(%1$s, %2$s, null)$$, 'error', 'no error')
  ) x(n, call, names, description)
 order by x.n;
select is((select j.state from c, awa.job(c.job_id) j where n = 5), 'running', 'none of this ended the attempt');

-- Health
create function pg_temp.says(
) returns
  text language sql as $$
  select string_agg(format('%s: %s: %s', h.level, h.subject, h.message), ' | ' order by h.subject)
    from awa.health() h
   where h.topic = 'refusals' and h.subject like pg_temp.q('%') $$;
select is(pg_temp.says(),
  format(
    'warning: %s: jobs that are put off, because the server refuses to store how they failed, or to make them ready: '
    '2; the last one is job %s, in attempt 1 of 3: refused',
    pg_temp.q(), (select job_id from c where n = 4))
  || format(
    ' | warning: %s: jobs that are put off, because the server refuses to store how they failed, or to make them '
    'ready: 1; the last one is job %s, in attempt 3 of 3: refused 9',
    pg_temp.q(' again'), :again_id),
  'health says how many of each queue, and why the last one');
select awa.retry(:again_id) \g /dev/null
select is((select count(*) from awa.health() h where h.topic = 'refusals' and h.subject = pg_temp.q(' again')),
  0::bigint, 'until they run');
select is((select h.details - 'run_at' from awa.health() h where h.topic = 'refusals' and h.subject = pg_temp.q()),
  jsonb_build_object('jobs', 2, 'job_id', (select job_id from c where n = 4)), 'in numbers');
select pg_temp.agrees('and the books balance');

select * from finish();
rollback;
