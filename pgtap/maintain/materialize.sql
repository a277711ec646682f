-- Without this, one attempt that takes hours would make every search for open attempts go back to it, and keep its
-- segment from being emptied.
\set name materialize
\ir ../prelude.psql

select awa.register_worker(:'queue') as worker_id \gset
select count(*)
  from awa.enqueue_many(:'queue', 'k',
    array(select jsonb_build_object('n', n) from generate_series(1, 12) n), 3, null, 5, '{t}', '{"m": 1}',
    'g') \g /dev/null
create temp table c as
select row_number() over (order by t.receipt)::int as n, t.job_id, t.receipt
  from awa.claim(:'queue', 8, :worker_id, '1 hour') t;
create temp table s as select * from pg_temp.take('', 2, one_claim => false);
select awa.complete(job_id, receipt) from c where n = 1 \g /dev/null
select awa.complete_many(array[job_id], array[receipt]) from c where n = 2 \g /dev/null
select awa.extend(job_id, receipt, '2 hours') from c where n = 3 \g /dev/null
select u.job_id as keyed_id
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue', unique_states => '{running}') u \gset
create temp table keyed as select * from pg_temp.take(' keyed', 1);
select pg_temp.step('setup') \g /dev/null

begin;
select plan(42);

-- Whatever else is open in this database is out of the way first.
create temp table mine as select receipt from c union all select receipt from s union all select receipt from keyed;
do $$
begin
  while (select m.materialized from awa.materialize('1 minute', 10000) m) > 0 loop
    null;
  end loop;
  for v_item in 1..(select count(*) from awa._open_items o where o.receipt not in (select receipt from mine)) loop
    perform awa.extend(o.job_id, o.receipt, '1 hour')
       from (select * from awa._open_items o where o.receipt not in (select receipt from mine) limit 1) o;
  end loop;
end
$$;
create temp table before as
select j.id, to_jsonb(j) as job
  from awa.jobs j
 where j.queue in (pg_temp.q(), pg_temp.q(' keyed'));

select is((select materialized from awa.materialize(older_than => '1 hour')), 0::bigint, 'nothing is open for so long');
select is((select count(*) from awa.leases l join mine using (receipt)), 1::bigint, 'so nothing gets a row');
select is((select materialized from awa.materialize('0', max_jobs => 3)), 3::bigint,
  'materialize returns how many got one; at most max_jobs');
select is((select array_agg(c.n order by c.n) from awa.leases l join c using (receipt)), '{3,4,5,6}',
  'those of the oldest claim first');
select is((select materialized from awa.materialize('0')), 5::bigint, 'then the rest');
select is((select count(*) from before b, awa.jobs j where j.id = b.id and to_jsonb(j) = b.job),
  (select count(*) from before), 'no job looks any different');
select pg_temp.agrees('each is in one state');
select is((select materialized from awa.materialize('0')), 0::bigint, 'nothing is open in the ledger any more');
select is((select count(*) from awa._open_items o join mine using (receipt)), 0::bigint, 'so that nobody looks there');
select is((select materialized from awa.materialize()), 0::bigint, 'nothing to do');
select is(
  (
    select to_jsonb(l) - '{lane,ready_at,created_at,claimed_at,lease_until,body_bytes}'::text[]
      from c
      join awa.leases l using (receipt)
     where n = 4
  ),
  (
    select jsonb_build_object('receipt', receipt, 'job_id', job_id, 'priority', 3, 'lease', interval '1 hour',
      'deadline_at', null, 'worker_id', :worker_id, 'attempt', 1, 'max_attempts', 5, 'unique_key', null,
     'kind', 'k', 'args', '{"n": 4}'::jsonb, 'tags', '["t"]'::jsonb, 'metadata', '{"m": 1}'::jsonb,
     'group_key', 'g', 'group_id', null, 'holds_queue', false, 'expires_at', null, 'progress', null,
     'errors', null)
       from c
      where n = 4), 'an attempt takes its body along');
select ok((
  select l.lease_until = l.claimed_at + l.lease and l.lease_until = k.lease_until
    from c
    join awa.leases l using (receipt)
    join awa.lease_claims k on k.claim_id = l.receipt >> 12
   where n = 4
),
  'and the lease of its claim');
select is((select l.lease from c join awa.leases l using (receipt) where n = 3), interval '2 hours',
  'one that was extended keeps its own');
select is((select u.job_id from awa.unique_claims u where u.job_id = :keyed_id), :keyed_id::bigint, 'a key is held on');

-- All of it answers as before
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'ok', 'it completes')
  from c
 where n = 4;
select is(pg_temp.outcome(format('select awa.fail(%s, %s, %L, %L)', job_id, receipt, 'e', '1 day')), 'ok', 'fails')
  from c
 where n = 5;
select is(pg_temp.outcome(format('select awa.release(%s, %s)', job_id, receipt)), 'ok', 'is given back')
  from c
 where n = 6;
select is((select count(*) from awa.complete_many(array_agg(job_id), array_agg(receipt))), 0::bigint,
  'completes in a batch')
  from c
 where n = 7;
select is((select count(*) from awa.fail_many(array_agg(job_id), array_agg(receipt), '{e}')), 0::bigint,
  'fails in a batch')
  from c
 where n = 8;
select is((select string_agg(j.state, ' ' order by n) from c, awa.job(c.job_id) j where n between 4 and 8),
  'completed retryable available completed retryable', 'and the job is in the state that follows');
select is((select array_agg(c.n order by c.n) from awa.leases l join c using (receipt)), '{3}',
  'rows of ended attempts are gone');
select pg_temp.agrees('the books balance after that');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'JQ001',
  'a second answer is stale, item ' || n)
  from c
 where n between 4 and 8
 order by n;
select awa.complete(job_id, receipt) from keyed \g /dev/null
select is((select count(*) from awa.unique_claims u where u.job_id = :keyed_id), 0::bigint,
  'a key that is held while it runs is free then');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', c.job_id, s.receipt)), 'JQ001',
  'the receipt of another')
  from c, s
 where c.n = 3 and s.n = 1;

-- Not what somebody is answering for: a claim that is held by another session is covered by tests with two; here the
-- default age
select pg_temp.fill(pg_temp.q(' new'), 3) \g /dev/null
create temp table new as select * from pg_temp.take(' new', 3);
update awa.lease_claims k set claimed_at = clock_timestamp() from new where k.claim_id = new.receipt >> 12;
select is((select materialized from awa.materialize()), 0::bigint, 'what was claimed a moment ago is left alone');
update awa.lease_claims k
   set claimed_at = k.claimed_at - interval '6 seconds'
  from new
 where k.claim_id = new.receipt >> 12;
select is((select materialized from awa.materialize(null, null)), 3::bigint,
  'for five seconds, by default; explicit nulls mean the same');

-- A row that a user's trigger refuses: the others get theirs
select pg_temp.fill(pg_temp.q(' refused'), 3) \g /dev/null
create temp table refused as select * from pg_temp.take(' refused', 3);
update awa.lease_claims k
   set claimed_at = k.claimed_at - interval '6 seconds'
  from refused r
 where k.claim_id = r.receipt >> 12;
select set_config('test.refused', (select job_id::text from refused where n = 2), true) as refused_id \gset
create function public.refuse(
) returns
  trigger language plpgsql as $$ begin if new.job_id = current_setting(
    'test.refused'
  )::bigint then raise exception 'not this one';
  end if; return new; end $$;
create trigger refuse before insert on awa.leases for each row execute function public.refuse();
set local client_min_messages = error;
select is((select materialized from awa.materialize()), 2::bigint, 'a row that is refused keeps no other one');
set local client_min_messages = warning;
update awa.lease_claims k
   set claimed_at = k.claimed_at - interval '1 minute'
  from refused r
 where k.claim_id = r.receipt >> 12;
select is((
  select h.details ->> 'job_id' from awa.health() h where h.topic = 'maintenance' and h.subject = 'materialize'
),
  :'refused_id', 'after a minute health names the job');
drop trigger refuse on awa.leases;
select is((select materialized from awa.materialize()), 1::bigint, 'and it gets its own when that is over');
select is((select count(*) from awa.materialize_row), 0::bigint, 'the view that names the column is empty');

select pg_temp.refused(format('select * from awa.materialize(%s)', c.args), '22023', c.names, c.description)
  from (values
    (1, $$'-1 second'$$, 'older_than', 'an age below none'), (2, $$'1 year 1 day'$$, 'older_than', 'more than a year'),
    (3, 'max_jobs => 0', 'max_jobs', 'no jobs'), (4, 'max_jobs => -1', 'max_jobs', '-1 jobs'),
    (5, 'max_jobs => 10001', 'max_jobs', '10,001 jobs')
  ) c(n, args, names, description)
 order by c.n;
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');
select pg_temp.steps_agree();

select * from finish();
rollback;
