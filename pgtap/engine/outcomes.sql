-- Without this, a failure would not count, or not be seen; or a worker would go on with what it has lost.
\set name outcomes
\ir ../prelude.psql

select awa.register_worker(:'queue') as worker_id \gset
select count(*)
  from awa.enqueue_many(:'queue', 'k', array(select to_jsonb(n) from generate_series(1, 12) n),
    max_attempts => 2) \g /dev/null
create temp table c as
select row_number() over (order by t.receipt)::int as n, t.job_id, t.receipt from awa.claim(:'queue', 11, :worker_id) t;

begin;
select plan(22);

create function pg_temp.attempts(variadic ns int[]) returns awa.leases[]
language sql
return array(select a from awa._attempts(array(select c.receipt from c where c.n = any(ns))) a order by a.receipt);
-- The last attempt of a job
create function pg_temp.last(attempts awa.leases[]) returns awa.leases[]
language plpgsql
as $$
declare
  v_attempt awa.leases;
  v_attempts awa.leases[] := '{}';
begin
  foreach v_attempt in array attempts loop
    v_attempt.attempt := v_attempt.max_attempts;
    v_attempts := v_attempts || v_attempt;
  end loop;
  return v_attempts;
end
$$;

-- Failures
select is(awa._record_failures(pg_temp.attempts(1, 2), '{one,two}', '{1 hour,2 hours}'), 'retryable',
  'an attempt that leaves others');
select is(
  (select string_agg(format('%s: %s, attempt %s, %s, %s', c.n, d.state, d.attempt, d.errors -> 0 ->> 'error',
     date_trunc('hour', d.run_at - now())), ' | ' order by c.n)
     from c join awa.deferred_jobs d using (job_id)),
  '1: retryable, attempt 2, one, 01:00:00 | 2: retryable, attempt 2, two, 02:00:00',
  'is followed by the next one, each with its own error and delay');
select is(awa._record_failures(pg_temp.last(pg_temp.attempts(3)), '{three}', '{null}', '{"d": 1}'), 'failed',
  'the last attempt is the end');
select is((select d.state || ', ' || d.reason || ', ' || (d.errors -> 0 -> 'details') from c
  join awa.done_entries d using (job_id) where n = 3), 'failed, attempts used up, {"d": 1}', 'and says why');
select is(awa._record_failures(pg_temp.attempts(4), '{four}', '{null}', final => true), 'failed', 'so is a final one');
select is((select d.reason from c join awa.done_entries d using (job_id) where n = 4), 'discarded',
  'which says that it is');
insert into awa.queue_settings (queue_id, dead_letter) values (awa._queue_id(:'queue'), true)
on conflict (queue_id) do update set dead_letter = true;
select is(awa._record_failures(pg_temp.last(pg_temp.attempts(5)), '{five}', '{null}'), 'dead',
  'in a queue with dead letters it becomes one');
select awa._record_failures(pg_temp.last(pg_temp.attempts(10)) || pg_temp.attempts(11), '{ten,eleven}',
  '{3 hours,4 hours}') \g /dev/null
select is(
  (
    select array_agg(format('%s: %s, %s', c.n, j.state, j.errors -> 0 ->> 'error') order by c.n)
      from c, awa.job(c.job_id) j
     where c.n >= 10 and j.state <> 'running' -- none of them was closed
  ),
  '{"10: dead, ten","11: retryable, eleven"}', 'of several each goes its own way, with its own error');

-- Put off
create temp table put_off as select awa._put_off(pg_temp.attempts(6), 'refused') as until;
select ok((select until between now() + interval '1 minute' and clock_timestamp() + interval '1 minute' from put_off),
  'a failure that can''t be stored puts the job off for a minute');
select is((select d.state || ' ' || d.attempt || ' ' || ((d.errors -> 0) - 'at') from c
  join awa.deferred_jobs d using (job_id) where n = 6),
  'scheduled 2 {"error": "refused", "attempt": 1, "put_off": true}', 'it counts, and says so');
select is(awa._put_off_delay(e::jsonb), d, 'after ' || e) from (values
  ('[]', interval '1 minute'), ('[{}]', '1 minute'), ('[{"put_off": true}]', '2 minutes'),
  ('[{"put_off": true}, {"put_off": true}]', '4 minutes'), ('[{"put_off": true}, {}]', '1 minute'),
  ('[{"put_off": true}, {}, {"put_off": true}]', '2 minutes')) e(e, d);
select is(awa._put_off_delay((select jsonb_agg('{"put_off": true}'::jsonb) from generate_series(1, 41))),
  interval '1 hour', 'for an hour, at most');

-- Given back, cancelled
select awa._record_releases(pg_temp.attempts(7)) \g /dev/null
select is((select row(e.lane & 7, e.priority, e.attempt)::text from c join awa.ready_entries e using (job_id)
  where n = 7 and e.xid = pg_current_xact_id()), '(0,2,1)', 'what is given back comes first, and has lost no attempt');
select awa._record_cancels(pg_temp.attempts(8), 'not today') \g /dev/null
select is((select d.state || ' ' || (d.errors -> 0 ->> 'error') || ' by ' || (d.errors -> 0 ->> 'by') from c
  join awa.done_entries d using (job_id) where n = 8), 'cancelled not today by ' || session_user,
  'what is cancelled ends, and says why, and by whom');

-- Lost attempts
select awa._record_lost_attempts(pg_temp.attempts(8, 9), '{a,b}') \g /dev/null
select is((select string_agg(c.n || ' ' || r.reason, ', ' order by c.n) from awa.lost_attempts r join c using (receipt)
  where r.worker_id = :worker_id), '8 a, 9 b', 'a worker is told what it has lost, each with its reason');
select awa._record_lost_attempts(pg_temp.attempts(9), '{c}') \g /dev/null
select is((select r.reason from awa.lost_attempts r join c using (receipt) where c.n = 9), 'b', 'once');
delete from awa.lost_attempts;
delete from awa.workers where worker_id = :worker_id;
select awa._record_lost_attempts(pg_temp.attempts(9), '{a}') \g /dev/null
select is((select count(*) from awa.lost_attempts), 0::bigint, 'a worker that is not registered is not');

select * from finish();
rollback;
