-- Without this, what follows an attempt would be written from the body of another job, or of another attempt of the
-- same job.
\set name attempts
\ir ../prelude.psql

select count(*)
  from awa.enqueue_many(:'queue', 'k',
    array(select jsonb_build_object('n', n) from generate_series(1, 1000) n), 3, null, 5, '{t}',
    '{"m": 1}', 'g') \g /dev/null

-- One job in three attempts: claimed, given back, claimed, failed, promoted, claimed
select awa.enqueue(:'queue' || ' thrice', 'k', '"body"') as thrice_id \gset
create temp table thrice (n int, receipt bigint);
do $$
declare
  v_claim record;
begin
  select * into v_claim from awa.claim(pg_temp.q(' thrice'));
  insert into thrice values (1, v_claim.receipt);
  perform awa.release(v_claim.job_id, v_claim.receipt);
  commit;
  select * into v_claim from awa.claim(pg_temp.q(' thrice'));
  insert into thrice values (2, v_claim.receipt);
  perform awa.fail(v_claim.job_id, v_claim.receipt, 'e', '0');
  commit;
  perform awa.promote_due();
  commit;
  select * into v_claim from awa.claim(pg_temp.q(' thrice'));
  insert into thrice values (3, v_claim.receipt);
  commit;
end
$$;

select count(*) from awa.enqueue_many(:'queue' || ' missing', 'k', array_fill('{}'::jsonb, array[4])) \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' older', 'k', array_fill('"older"'::jsonb, array[2])) \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' answers', 'k', array_fill('{}'::jsonb, array[9])) \g /dev/null
select awa.enqueue(:'queue' || ' pairs', 'k', '1') \g /dev/null
select awa.enqueue(:'queue' || ' pairs', 'k', '2') \g /dev/null
select awa.enqueue(:'queue' || ' pairs', 'k', '3') \g /dev/null
select awa.enqueue(:'queue' || ' pairs', 'k', '4') \g /dev/null
select awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue', unique_period => '1 hour') \g /dev/null

begin;
select plan(52);
set local track_functions = 'pl'; -- first: what is called before it is not tracked later

update awa.settings set claim_bytes = 100000000; -- a claim's ledger row holds 960 jobs
create temp table c as select * from pg_temp.take('', 998);
create temp table s as select * from pg_temp.take('', 2, one_claim => false);

select is(
  (
    select to_jsonb(a) - '{lane,ready_at,created_at,claimed_at,lease_until,body_bytes}'::text[]
      from c, awa._attempts(array[c.receipt]) a
     where c.n = 5
  ),
  (
    select jsonb_build_object('receipt', receipt, 'job_id', job_id, 'priority', 3, 'lease', interval '1 minute',
      'group_id', null, 'holds_queue', false,
      'deadline_at', null, 'unique_key', null, 'worker_id', null, 'attempt', 1, 'max_attempts', 5, 'kind', 'k', 'args',
      '{"n": 5}'::jsonb,
    'tags', '["t"]'::jsonb, 'metadata', '{"m": 1}'::jsonb,
    'group_key', 'g', 'expires_at', null, 'progress', null, 'errors', null)
      from c
     where n = 5), 'an attempt is its entry and its claim');
select ok((
  select a.created_at <= a.ready_at and a.ready_at < a.claimed_at and a.lease_until = a.claimed_at + a.lease
    from c, awa._attempts(array[c.receipt]) a
   where c.n = 5
),
  'with its times');
select is((
  select array_agg(a.args ->> 'n' order by a.job_id)
    from awa._attempts(array(select receipt from c where n in (1, 500, 960))) a
),
  '{1,500,960}', 'several of one claim, its first and last among them');
select is((
  select array_agg(a.args ->> 'n' order by a.job_id)
    from awa._attempts(array(select receipt from c where n in (960, 961, 998) union select receipt from s)) a
),
  '{960,961,998,999,1000}', 'and of several claims');
select is((
  select count(*)
    from awa._attempts(array(select receipt from c)) a
    join c using (receipt, job_id)
   where a.args = jsonb_build_object('n', c.n)
),
  998::bigint, 'each receipt leads to its job');
select is((select count(*) from awa._attempts(array[receipt, receipt])), 1::bigint,
  'a receipt that is named twice is one attempt')
  from c
 where n = 7;
select is((select count(*) from awa._attempts('{}')), 0::bigint, 'no receipts, no attempts');
select is((
  select count(*) from awa._attempts(array[0, -1, 9223372036854775807, -9223372036854775808, 7654321987654321])
),
  0::bigint, 'nor for receipts that no claim gave out');
select is((select count(*) from awa._attempts(array[receipt + 960, receipt | 4095])), 0::bigint,
  'nor past the end of a claim')
  from c
 where n = 1;
select is(
  (
    select array_agg(
      row(a.attempt, a.receipt = t.receipt, jsonb_array_length(coalesce(a.errors, '[]')))::text order by t.n
    )
      from thrice t, awa._attempts(array[t.receipt]) a
  ),
  '{"(1,t,0)","(1,t,0)","(2,t,1)"}', 'of one job''s attempts each receipt finds its own');
select is((select array_agg(a.lane & 7 order by t.n) from thrice t, awa._attempts(array[t.receipt]) a), '{2,0,2}',
  'on its own lane');
select is((select count(*) from awa._attempts((select array_agg(receipt) from thrice)) a where a.job_id = :thrice_id),
  3::bigint, 'all of them, when asked together');
select is((select count(distinct a.created_at) from thrice t, awa._attempts(array[t.receipt]) a), 1::bigint,
  'and all say when the job was created');

-- In the segment of its claim, where most entries are
create temp table segments as
select r.current_segment as now, ((r.current_segment + 1) % 4)::smallint as next from awa.ring r;
select is((
  select count(*)
    from segments s, c, awa._attempt_in(s.now, c.receipt) a, awa._attempts(array[c.receipt]) b
   where c.n % 10 = 0 and to_jsonb(a) = to_jsonb(b)
),
  99::bigint, 'where the entry is in the segment of its claim, it is looked for there alone');
select is((select count(*) from segments s, thrice t, awa._attempt_in(s.now, t.receipt) a where a.job_id = :thrice_id),
  3::bigint, 'each attempt of a job');
select is((select count(*) from segments s, c, awa._attempt_in(s.next, c.receipt) a where c.n <= 10), 0::bigint,
  'and nowhere else');
update awa.ring r set current_segment = s.next from segments s;
create temp table older as select * from pg_temp.take(' older', 2);
select is((select count(*) from segments s, older o, awa._attempt_in(s.next, o.receipt) a), 0::bigint,
  'not where the entry is in an older segment than its claim');
select is((select awa.fail(job_id, receipt, 'e') from older where n = 1), 'retryable',
  'an attempt whose entry is in an older segment than its claim is found all the same');
select is((select j.args from older o, awa.job(o.job_id) j where n = 1), '"older"', 'with its body');
update awa.ring r set current_segment = s.now from segments s;

-- An answer for an attempt that has no row of its own does not look for one.
create function pg_temp.lease_scans() returns bigint
language sql volatile
return (select t.seq_scan + coalesce(t.idx_scan, 0)
          from pg_stat_xact_user_tables t
         where t.schemaname = 'awa' and t.relname = 'leases');
select pg_temp.lease_scans() as lease_scans \gset

-- An answer finds its attempt with the claim, where its entry lies at the end of it; otherwise it looks the attempt up
-- once: that is most of what it costs.
create temp table answers as select * from pg_temp.take(' answers', 9);
create temp table keyed as select * from pg_temp.take(' keyed', 1);
create temp table pairs as select * from pg_temp.take(' pairs', 4);
create function pg_temp.look_ups() returns bigint
language sql volatile
return (select coalesce(sum(f.calls), 0)
          from pg_stat_xact_user_functions f
         where f.schemaname = 'awa' and f.funcname in ('_look_up', '_holding_keys'));
create function pg_temp.look_ups(call text, job_id bigint, receipt bigint) returns bigint
language plpgsql
as $$
declare
  v_before bigint := pg_temp.look_ups();
begin
  execute format(call, job_id, receipt);
  return pg_temp.look_ups() - v_before;
end
$$;
select is(pg_temp.look_ups(f.call, a.job_id, a.receipt), f.times, format('%s looks it up %s times', f.call, f.times))
  from (values
    (1, 'select awa.complete(%s, %s)', 0::bigint), (2, 'select awa.complete(%s, %s, ''{}'')', 0),
    (3, 'select awa.fail(%s, %s, ''e'')', 0), (4, 'select awa.discard(%s, %s, ''e'')', 0),
    (5, 'select awa.snooze(%s, %s, ''1 hour'')', 0), (6, 'select awa.fail_many(array[%s], array[%s], ''{e}'')', 0),
    (7, 'select awa.release(%s, %s)', 0), (8, 'select awa.cancel_attempt(%s, %s)', 0),
    (9, 'select awa.put_off(%s, %s, ''e'')', 0)
  ) f(n, call, times)
  join answers a on a.n = f.n
 order by f.n;
select is(pg_temp.lease_scans(), :lease_scans::bigint, 'none of these looks for a row of its own');
select is((select pg_temp.look_ups('select awa.complete(%s, %s)', job_id, receipt) from keyed), 1::bigint,
  'complete of a job with a unique key that outlasts it looks it up once');
select is(
  (
    select string_agg(pg_temp.look_ups(f.call, p.job_id, p.receipt)::text, ' ' order by p.receipt)
      from pairs p
      join (values
        (1, 'select awa.fail(%s, %s, ''e'')'), (2, 'select awa.fail(%s, %s, ''e'')'),
        (3, 'select awa.fail_many(array[%s], array[%s], ''{e}'')'), (4, 'select awa.discard(%s, %s, ''e'')')
      ) f(n, call) on f.n = p.n
  ),
  '1 1 1 0', 'so does an answer for a job that another transaction enqueued than the last one of its claim');
select is((select string_agg(j.args #>> '{}' || ' ' || j.state, ', ' order by p.receipt)
  from pairs p, awa.job(p.job_id) j), '1 retryable, 2 retryable, 3 retryable, 4 failed', 'each with its own body');

-- The errors of a job are bounded
create temp table history (n int, errors jsonb);
do $$
declare
  v_errors jsonb;
begin
  for n in 1..250 loop
    v_errors := awa._add_error(v_errors, n, 'error ' || n, case when n % 2 = 0 then to_jsonb(n) end);
    insert into history values (n, v_errors);
  end loop;
end
$$;
create function pg_temp.told(n int) returns text
language sql
return (select string_agg(coalesce(e ->> 'attempt', 'omitted ' || (e ->> 'omitted')), ' ' order by o)
          from history h, jsonb_array_elements(h.errors) with ordinality x(e, o) where h.n = told.n);
select is(pg_temp.told(40), (select string_agg(n::text, ' ') from generate_series(1, 40) n),
  'forty errors are all kept');
select is(pg_temp.told(41),
  (select string_agg(case n when 21 then 'omitted 1' else n::text end, ' ') from generate_series(1, 41) n),
  'of 41 the first and the last 20, and that there was one more');
select is(pg_temp.told(250),
  (select string_agg(n::text, ' ') from generate_series(1, 20) n) || ' omitted 210 '
    || (select string_agg(n::text, ' ') from generate_series(231, 250) n),
  'of 250, too');
select is((select h.errors -> 20 from history h where h.n = 250), '{"omitted": 210}'::jsonb,
  'which an object without an error says');
select is((select h.errors -> 40 ->> 'error' || (h.errors -> 40 ->> 'details') from history h where h.n = 250),
  'error 250250', 'the last one is whole');
select is((select max(jsonb_array_length(h.errors)) from history h), 41, 'there are never more');

-- The entry of an open attempt is missing. Without the check the attempt would be closed, and nothing would follow it.
create temp table m as select * from pg_temp.take(' missing', 4);
delete from awa.ready_entries e where e.job_id in (select job_id from m where n <= 3);
select is(pg_temp.outcome(format(f.call, m.job_id, m.receipt)), 'XX001', f.call || ' fails')
  from m, (values
    ('select awa.complete(%s, %s, ''{}'')'), ('select awa.fail(%s, %s, ''e'')'), ('select awa.discard(%s, %s, ''e'')'),
    ('select awa.put_off(%s, %s, ''e'')'), ('select awa.release(%s, %s)'), ('select awa.snooze(%s, %s, ''1 hour'')'),
    ('select awa.cancel_attempt(%s, %s)'), ('select awa.extend(%s, %s, ''1 hour'')'),
    ('select awa.complete_many(array[%s], array[%s], array[''{}''::jsonb])'),
    ('select awa.fail_many(array[%s], array[%s], ''{e}'')')) f(call)
 where m.n = 1;
select is((select count(*) from awa._open_items o join m using (receipt)), 4::bigint, 'the attempts stay open');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'ok',
  'an attempt of which only the closure is written can be completed')
  from m where n = 1;
set local client_min_messages = error;
select is(awa._materialize(array(select receipt from m where n > 2), 9), 2::bigint,
  'maintenance closes what is missing');
select is(awa._rescue('{}', array(select receipt from m where n = 2), 9, now()), 1::bigint, 'and rescue, too');

select * from finish();
rollback;
