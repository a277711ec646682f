-- Without this, a job that nobody wants any more would be handed out, or one that has begun would be taken away.
\set name expiry
\ir ../prelude.psql

select array_agg(e.id) as ids
  from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[4]), tags => '{t}', metadata => '1',
    group_key => 'g', expires_at => '2130-01-01') e(id) \gset
select job_id as keyed_id
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue', expires_at => '2130-01-01') \gset
-- Ten ids that are taken, and one whose end a trigger refuses
create temp table c as select t.job_id, t.receipt from awa.claim(:'queue', 3) t;
create temp table k as select t.job_id, t.receipt from awa.claim(:'queue' || ' keyed') t;

begin;
select plan(16);

select is(awa._is_expired(t.at, t.attempt, '2030-01-01'), t.is_expired, t.description)
  from (values (null::timestamptz, '1'::smallint, false, 'a job without an expires_at never expires'),
    ('2029-12-31 23:59:59', '1', true, 'one whose time has passed has expired'),
    ('2030-01-01', '1', true, 'at that time already'), ('2030-01-01 00:00:01', '1', false, 'and not before'),
    ('2029-12-31 23:59:59', '2', false, 'unless an attempt counts')) t(at, attempt, is_expired, description);

-- A claim whose first job has expired
select awa._expire_claimed(array[receipt], clock_timestamp()) from c where job_id = (:'ids'::bigint[])[1] \g /dev/null
select is((
  select row(j.state, j.attempt, j.receipt, j.worker_id, j.attempted_at, j.expires_at, j.tags, j.metadata, j.group_key,
           jsonb_array_length(j.errors), j.errors -> 0 ->> 'error', j.errors -> 0 ->> 'attempt',
           j.errors -> 0 ->> 'by')::text
    from awa.job((:'ids'::bigint[])[1]) j
),
  row('cancelled', 0, null, null, null, '2130-01-01'::timestamptz, '{t}'::text[], '1', 'g', 1, 'expired', '0',
    null)::text,
  'its job is cancelled, was never anybody''s, and says why');
select is(pg_temp.states(), 'available 1, cancelled 1, running 2', 'the others are not touched');
select pg_temp.agrees('the books balance');
select is((select array_agg(s) from c, awa.complete_many(array[job_id], array[receipt]) s
  where job_id = (:'ids'::bigint[])[1]), array[(:'ids'::bigint[])[1]], 'an answer to it is stale');
select awa.complete(job_id, receipt) from c where job_id = (:'ids'::bigint[])[2] \g /dev/null
select is(pg_temp.states(), 'available 1, cancelled 1, completed 1, running 1', 'answers to the others are taken');
select is((select u.job_id from awa.unique_claims u where u.job_id = :keyed_id), :keyed_id::bigint, 'a key');
select awa._expire_claimed(array[receipt], clock_timestamp()) from k \g /dev/null
select is((select u.job_id from awa.unique_claims u where u.job_id = :keyed_id), null, 'is let go of');

-- An end that the server refuses
create function pg_temp.refuse() returns trigger
language plpgsql
as $$
begin
  raise exception 'no ends';
end
$$;
create trigger refuse before insert on awa.done_entries for each row execute function pg_temp.refuse();
set client_min_messages = error;
select awa._expire_claimed(array[receipt], clock_timestamp()) from c where job_id = (:'ids'::bigint[])[3] \g /dev/null
select is((
  select row(j.state, j.attempt, j.errors -> 0 ->> 'error', (j.errors -> 0 ->> 'put_off')::boolean,
           j.run_at > now() + interval '30 seconds')::text
    from awa.job((:'ids'::bigint[])[3]) j
),
  '(scheduled,0,"to cancel it was refused: no ends (SQLSTATE P0001)",t,t)', 'a job whose end is refused is put off');
drop trigger refuse on awa.done_entries;
select pg_temp.agrees('the books balance, again');
update awa.deferred_jobs d
   set run_at = now(), expires_at = '2000-01-01'
 where d.job_id = (:'ids'::bigint[])[3];
select promoted from awa.promote_due() \g /dev/null
select is((
  select row(j.state, j.attempt, j.errors -> 1 ->> 'error')::text from awa.job((:'ids'::bigint[])[3]) j
),
  '(cancelled,0,expired)', 'and is cancelled when it is due again');
select is((select count(*) from pg_proc where pronamespace = 'awa'::regnamespace and proname = '_end_expired'),
  1::bigint, 'one function writes such ends');

select * from finish();
rollback;
