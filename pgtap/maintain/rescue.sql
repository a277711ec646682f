-- Without this, a job whose worker died would never run again; or one whose worker lives would run twice.
\set name rescue
\ir ../prelude.psql

select awa.register_worker(:'queue' || ' alive') as alive_id,
       awa.register_worker(:'queue' || ' silent') as silent_id \gset
select count(*)
  from awa.enqueue_many(:'queue', 'k',
    array(select jsonb_build_object('n', n) from generate_series(1, 30) n), 3, null, 5, '{t}', '{"m": 1}') \g /dev/null
-- c: nobody's; of the workers, three each: the last one with a row of its own
create temp table c (n text, job_id bigint, receipt bigint);
insert into c
select 'nobody ' || row_number() over (order by t.receipt), t.job_id, t.receipt
  from awa.claim(:'queue', 5) t;
insert into c
select 'alive ' || row_number() over (order by t.receipt), t.job_id, t.receipt
  from awa.claim(:'queue', 3, :alive_id) t;
insert into c
select 'silent ' || row_number() over (order by t.receipt), t.job_id, t.receipt
  from awa.claim(:'queue', 3, :silent_id) t;
insert into c select 'single', t.job_id, t.receipt from awa.claim(:'queue', 1) t;
insert into c
select 'fresh ' || row_number() over (order by t.receipt), t.job_id, t.receipt
  from awa.claim(:'queue', 2) t;
select awa.set_progress(job_id, receipt, '1')
  from c
 where n in ('nobody 3', 'alive 3', 'silent 3', 'fresh 2') \g /dev/null
select awa.complete(job_id, receipt) from c where n = 'nobody 4' \g /dev/null
select awa.complete_many(array[job_id], array[receipt]) from c where n = 'nobody 5' \g /dev/null
-- Last attempts, with and without dead letters; one with a key that it holds while it waits for its retry; deadlines
select awa.enqueue(:'queue' || ' last', 'k', max_attempts => 1) \g /dev/null
insert into c select 'last', t.job_id, t.receipt from awa.claim(:'queue' || ' last', 1) t;
select awa.enqueue(:'queue' || ' dead', 'k', max_attempts => 1) \g /dev/null
select awa.configure_queue(:'queue' || ' dead', '{"dead_letter": true}') \g /dev/null
insert into c select 'dead', t.job_id, t.receipt from awa.claim(:'queue' || ' dead', 1) t;
select u.job_id as keyed_id
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue', unique_states => '{retryable}') u \gset
insert into c select 'keyed', t.job_id, t.receipt from awa.claim(:'queue' || ' keyed', 1) t;
select count(*) from awa.enqueue_many(:'queue' || ' deadline', 'k', array_fill('{}'::jsonb, array[3])) \g /dev/null
select awa.configure_queue(:'queue' || ' deadline', '{"deadline": "30 minutes"}') \g /dev/null
insert into c
select 'deadline ' || row_number() over (order by t.receipt), t.job_id, t.receipt
  from awa.claim(:'queue' || ' deadline', 3, :alive_id, '1 hour') t;
select awa.extend(job_id, receipt, '2 hours') from c where n = 'deadline 3' \g /dev/null
select pg_temp.step('setup') \g /dev/null

begin;
select plan(46);

-- Whatever else is open in this database is not overdue for the time of this transaction.
update awa.lease_claims k
   set lease_until = clock_timestamp() + interval '1 day', deadline_at = null
 where k.claim_id not in (select receipt >> 12 from c);
update awa.leases l
   set lease_until = clock_timestamp() + interval '1 day', deadline_at = null
 where l.receipt not in (select receipt from c);
select is(pg_temp.states(), 'available 16, completed 2, running 12', 'nothing of this is overdue');

-- As if some of it had been claimed so long ago, however long ago it was
create function pg_temp.claimed(names text, span interval) returns void
language plpgsql
as $$
declare
  v_at timestamptz := clock_timestamp() - span;
begin
  update awa.leases l
     set claimed_at = v_at, lease_until = l.lease_until + (v_at - l.claimed_at),
         deadline_at = l.deadline_at + (v_at - l.claimed_at)
    from c
   where l.receipt = c.receipt and c.n ~ names;
  update awa.lease_claims k
     set claimed_at = v_at, lease_until = k.lease_until + (v_at - k.claimed_at),
         deadline_at = k.deadline_at + (v_at - k.claimed_at)
   where k.claim_id in (select c.receipt >> 12 from c where c.n ~ names);
  perform pg_temp.no_gap();
end
$$;
select pg_temp.claimed('^(nobody|alive|silent|single|last|dead$|keyed)', '30 seconds') \g /dev/null
select is((select rescued from awa.rescue()), 0::bigint, 'a lease of a minute is not over after 30 seconds');
select pg_temp.claimed('^(nobody|alive|silent|single|last|dead$|keyed)', '61 seconds') \g /dev/null
update awa.workers set heartbeat_at = clock_timestamp() - interval '1 second' where worker_id = :alive_id;
update awa.workers set heartbeat_at = clock_timestamp() - interval '61 seconds' where worker_id = :silent_id;
select pg_temp.no_gap() \g /dev/null
select is((select rescued from awa.rescue(max_jobs => 2)), 2::bigint, 'at most max_jobs');
select is((select rescued from awa.rescue()), 8::bigint,
  'then all whose lease is over, but those of a worker that has sent a heartbeat since');
select is((select string_agg(c.n, ', ' order by c.n) from c, awa.job(c.job_id) j where j.state = 'retryable'),
  'keyed, nobody 1, nobody 2, nobody 3, silent 1, silent 2, silent 3, single', 'are to be tried again');
select is((
  select string_agg(c.n || ' ' || j.state, ', ' order by c.n) from c, awa.job(c.job_id) j where c.n in ('last', 'dead')
),
  'dead dead, last failed', 'or end, when it was the last attempt');
select is((select count(*) from c, awa.job(c.job_id) j where j.state = 'running'), 8::bigint, 'others run on');
select is((
  select string_agg(distinct format('%s %s %s', j.attempt, jsonb_array_length(j.errors), (j.errors -> 0) - 'at'), ', ')
    from c, awa.job(c.job_id) j
   where j.state in ('retryable', 'failed', 'dead')
),
  '1 1 {"error": "lease expired", "attempt": 1}', 'the attempt counts, and says why');
select ok((
  select bool_and(j.run_at between now() + interval '1.9 seconds' and clock_timestamp() + interval '2.6 seconds')
    from c, awa.job(c.job_id) j
   where j.state = 'retryable'
),
  'they wait as after a failure');
select is((
  select string_agg(c.n, ', ' order by c.n) from c, awa.job(c.job_id) j where j.state = 'retryable' and j.progress = '1'
),
  'nobody 3, silent 3', 'progress is kept');
select is((select e.reason from c join awa.dlq_entries e using (job_id)), 'attempts used up', 'a dead letter says so');
select is((select u.job_id from awa.unique_claims u where u.job_id = :keyed_id), :keyed_id::bigint,
  'a key goes with the state');
select is((select string_agg(c.n, ', ' order by c.n) from awa.leases l join c using (receipt)),
  'alive 3, deadline 3, fresh 2', 'rows of ended attempts are gone');
select pg_temp.agrees('the books balance');
select is((select rescued from awa.rescue()), 0::bigint, 'once');

-- Late answers
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'a late answer is stale: ' || n)
  from c
 where n in ('nobody 1', 'nobody 3', 'silent 2', 'single', 'last', 'dead')
 order by n;
select is((
  select count(*)
    from awa.fail_many((select array_agg(job_id) from c where n ~ '^silent'),
      (select array_agg(receipt) from c where n ~ '^silent'), '{e,e,e}')
),
  3::bigint, 'also in a batch');
select is((
  select string_agg(c.n || ': ' || l.reason, ', ' order by c.n)
    from awa.heartbeat(:silent_id) l
    join c using (job_id, receipt)
),
  'silent 1: lease expired, silent 2: lease expired, silent 3: lease expired', 'and a worker that comes back is told');
select is((select count(*) from awa.heartbeat(:alive_id)), 0::bigint, 'one that lives has lost nothing');

-- A deadline is over whatever the worker says
select pg_temp.claimed('^deadline', '31 minutes') \g /dev/null
select is((select rescued from awa.rescue()), 3::bigint, 'a deadline ends an attempt whose lease and worker live');
select is((
  select string_agg(distinct j.state || ' ' || (j.errors -> 0 ->> 'error'), ', ')
    from c, awa.job(c.job_id) j
   where c.n ~ '^deadline'
),
  'retryable deadline exceeded', 'and says so');
select is((
  select string_agg(c.n || ': ' || l.reason, ', ' order by c.n)
    from awa.heartbeat(:alive_id) l
    join c using (job_id, receipt)
),
  'deadline 1: deadline exceeded, deadline 2: deadline exceeded, deadline 3: deadline exceeded', 'to its worker, too');
select pg_temp.agrees('the books balance after that');

-- A lease that was extended is as long as it says
select awa.extend(job_id, receipt, '10 minutes') from c where n = 'alive 1' \g /dev/null
update awa.workers set heartbeat_at = clock_timestamp() - interval '2 minutes' where worker_id = :alive_id;
select pg_temp.no_gap() \g /dev/null
select is((select rescued from awa.rescue()), 2::bigint, 'when the worker falls silent, so are its others');
select is((select j.state from c, awa.job(c.job_id) j where n = 'alive 1'), 'running', 'but one with a longer lease');
select pg_temp.claimed('alive 1$', '20 minutes') \g /dev/null
select is((select rescued from awa.rescue()), 0::bigint, 'for which its heartbeat counts for longer');
update awa.workers set heartbeat_at = clock_timestamp() - interval '11 minutes' where worker_id = :alive_id;
select pg_temp.no_gap() \g /dev/null
select is((select rescued from awa.rescue()), 1::bigint, 'but not for ever');

-- A failure that a user's trigger refuses: the others are ended all the same
insert into c
select 'more ' || row_number() over (order by t.receipt), t.job_id, t.receipt
  from awa.claim(pg_temp.q(), 3) t;
select set_config('test.refused',
  (select array_agg(job_id)::text from c where n in ('fresh 1', 'fresh 2', 'more 2')), true),
       set_config('test.stuck', (select job_id::text from c where n = 'more 2'), true) \g /dev/null
create function public.refuse() returns trigger language plpgsql as $$
begin
  if new.job_id = any(current_setting('test.refused')::bigint[]) and new.state = 'retryable'
    or new.job_id = current_setting('test.stuck')::bigint then
    raise exception using errcode = '55000', message = 'not this one';
  end if;
  return new;
end
$$;
create trigger refuse before insert on awa.deferred_jobs for each row execute function public.refuse();
select pg_temp.claimed('^(fresh|more)', '2 minutes') \g /dev/null
set local client_min_messages = error;
select is((select rescued from awa.rescue()), 4::bigint,
  'an attempt that can''t be ended does not keep the others from it');
set local client_min_messages = warning;
select is(
  (
    select string_agg(c.n || ' ' || j.state || ' ' || j.attempt, ', ' order by c.n)
      from c, awa.job(c.job_id) j
     where c.n ~ '^(fresh|more)'
  ),
  'fresh 1 scheduled 1, fresh 2 scheduled 1, more 1 retryable 1, more 2 running 1, more 3 retryable 1',
  'one whose failure is refused is put off');
select is((select distinct j.errors -> -1 ->> 'error' from c, awa.job(c.job_id) j where c.n ~ '^fresh'),
  'the failure was refused: not this one (SQLSTATE 55000); it was: lease expired', 'and says so');
select is((select count(*) from awa.leases l join c using (receipt) where c.n = 'fresh 2'), 0::bigint,
  'its lease row goes');
drop trigger refuse on awa.deferred_jobs;
select is((select rescued from awa.rescue()), 1::bigint, 'one for which nothing is taken is ended when that is over');

select is((select rescued from awa.rescue(null)), 0::bigint, 'an explicit null means the default');
select is((select count(*) from awa.rescue_row), 0::bigint, 'the view that names the column is empty');

select pg_temp.refused(format('select * from awa.rescue(%s)', n), '22023', 'max_jobs', n || ' jobs')
  from unnest(array[0, -1, 10001, 2147483647, -2147483648]) with ordinality u(n, place)
 order by place;
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');
select pg_temp.steps_agree();

select * from finish();
rollback;
