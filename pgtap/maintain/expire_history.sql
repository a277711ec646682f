-- Without this, failed jobs, dead letters, and completed jobs with rows of their own would be kept for ever; or go
-- before anybody looked at them, or out of the counts.
\set name expire_history
\ir ../prelude.psql

select count(*)
  from (values ('', 2), (' set', 1)) v(q, p)
 cross join lateral awa.enqueue_many(pg_temp.q(q), 'k',
   array(select to_jsonb(n) from generate_series(1, 12) n), priority => p) \g /dev/null
create temp table c as
select q.suffix, t.n, t.job_id, t.receipt
  from (values (''), (' set')) q(suffix)
 cross join lateral pg_temp.take(q.suffix, 10) t;
select awa.discard(job_id, receipt, 'e') from c where n in (1, 2) \g /dev/null
select awa.cancel(job_id) from c where n in (3, 4) \g /dev/null
select awa.complete(job_id, receipt, '1') from c where n = 5 \g /dev/null
select awa.extend(job_id, receipt, '1 hour') from c where n = 6 \g /dev/null
select awa.complete(job_id, receipt) from c where n = 6 \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 day') from c where n = 7 \g /dev/null
select awa.configure_queue(:'queue' || q, '{"dead_letter": true}') from unnest(array['', ' set']) q \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n in (8, 9) \g /dev/null
select awa.configure_queue(:'queue' || ' set',
  '{"failed_retention": "1 hour", "dlq_retention": "2 hours"}') \g /dev/null
-- Keys that are held when the job has ended
select u.job_id as failed_id
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || ' failed',
    unique_states => '{failed}') u \gset
select awa.discard(job_id, receipt, 'e') from pg_temp.take(' keyed', 1) \g /dev/null
select awa.configure_queue(:'queue' || ' keyed', '{"dead_letter": true}') \g /dev/null
select u.job_id as dead_id
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || ' dead',
    unique_states => '{dead}') u \gset
select awa.discard(job_id, receipt, 'e') from pg_temp.take(' keyed', 1) \g /dev/null
select u.job_id as completed_id
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || ' completed',
    unique_states => '{completed}') u \gset
select awa.complete(job_id, receipt, '1') from pg_temp.take(' keyed', 1) \g /dev/null
select awa.enqueue(:'queue' || ' keyed', 'plain') \g /dev/null
select awa.complete(job_id, receipt) from pg_temp.take(' keyed', 1) \g /dev/null
-- For a trigger that refuses some
select count(*) from awa.enqueue_many('refused ' || :'queue', 'k', array_fill('{}'::jsonb, array[9])) \g /dev/null
create temp table r as
select row_number() over (order by t.receipt) as n, t.*
  from awa.claim('refused ' || :'queue', 9) t;
select awa.cancel(job_id) from r where n <= 3 \g /dev/null
select awa.complete(job_id, receipt, '1') from r where n between 4 and 6 \g /dev/null
select awa.configure_queue('refused ' || :'queue', '{"dead_letter": true}') \g /dev/null
select awa.discard(job_id, receipt, 'e') from r where n > 6 \g /dev/null
select pg_temp.step('setup') \g /dev/null

begin;
select plan(50);

-- Rows that others have left in this database
select expired from awa.expire_history() \g /dev/null
update awa.settings set completed_retention = '1000 days';
create temp table before as select * from awa.queue_counts() c where starts_with(c.queue, pg_temp.q());
select is(pg_temp.states(), 'available 2, cancelled 2, completed 2, dead 2, failed 2, retryable 1, running 1',
  'before');
select is((select count(*) from awa.unique_claims u where u.job_id in (:failed_id, :dead_id, :completed_id)), 3::bigint,
  'with three keys');

create function pg_temp.age(span interval) returns void
language plpgsql
as $$
begin
  update awa.done_entries d
     set finalized_at = d.finalized_at - span
    from awa.queues q
   where q.queue_id = awa._queue_of(d.lane) and starts_with(q.name, pg_temp.q());
end
$$;
select pg_temp.age('59 minutes') \g /dev/null
select is((select expired from awa.expire_history()), 0::bigint, 'nothing is past its retention');
select pg_temp.age('2 minutes') \g /dev/null
select is((select expired from awa.expire_history()), 4::bigint,
  'failed and cancelled jobs go after their queue''s failed_retention');
select is(pg_temp.states(' set'), 'available 2, completed 2, dead 2, retryable 1, running 1',
  'dead letters and others stay');
select pg_temp.age('1 hour') \g /dev/null
select is((select expired from awa.expire_history()), 2::bigint, 'dead letters after its dlq_retention');
select is(pg_temp.states(' set'), 'available 2, completed 2, retryable 1, running 1', 'the others stay');
select is(pg_temp.states(), 'available 2, cancelled 2, completed 2, dead 2, failed 2, retryable 1, running 1',
  'another queue keeps its own for longer');
select pg_temp.age('69 hours 50 minutes') \g /dev/null
select is((select expired from awa.expire_history()), 0::bigint, 'for 72 hours, failed ones');
select pg_temp.age('10 minutes') \g /dev/null
select is((select expired from awa.expire_history()), 5::bigint, 'by default');
select is(pg_temp.states(), 'available 2, completed 2, dead 2, retryable 1, running 1', 'dead letters');
select pg_temp.age('26 days') \g /dev/null
select is((select expired from awa.expire_history()), 0::bigint, 'for 30 days');
select pg_temp.age('1 day') \g /dev/null
select is((select expired from awa.expire_history()), 3::bigint, 'by default');
select is(pg_temp.states(), 'available 2, completed 2, retryable 1, running 1', 'what completed, waits or runs stays');
select is((select expired from awa.expire_history()), 0::bigint, 'once');

-- Completed ones: those with rows of their own; the others go with their segment
select is((
  select row(count(*), count(*) filter (where d.counted_by_closure))::text
    from awa.done_entries d
    join awa.queues q on q.queue_id = awa._queue_of(d.lane)
   where starts_with(q.name, pg_temp.q()) and d.state = 'completed'
),
  '(5,3)', 'three left an output, two ran long');
update awa.settings set completed_retention = default;
update awa.done_entries d
   set finalized_at = clock_timestamp() - interval '23 hours 59 minutes'
  from awa.queues q
 where q.queue_id = awa._queue_of(d.lane) and starts_with(q.name, pg_temp.q()) and d.state = 'completed';
select is((select expired from awa.expire_history()), 0::bigint, 'completed jobs stay for 24 hours');
select pg_temp.age('2 minutes') \g /dev/null
update awa.settings set completed_retention = '25 hours';
select is((select expired from awa.expire_history()), 0::bigint, 'or as long as the settings say');
-- A queue may keep them for less time: at once they are not shown any more
select awa.configure_queue(pg_temp.q(' set'), '{"completed_retention": "24 hours"}') \g /dev/null
select is(pg_temp.states(' set'), 'available 2, retryable 1, running 1',
  'a queue that keeps them for less time shows them no more');
select is((select count(*) from c, awa.job(c.job_id) j where c.suffix = ' set' and c.n in (5, 6)), 0::bigint,
  'nor does job');
select pg_temp.refused(format('select awa.retry(%s)', c.job_id), 'JQ003', 'no such job',
  'nor are they there to be changed')
  from c
 where c.suffix = ' set' and c.n = 5;
select is((select count(*) from awa.list_jobs(pg_temp.q(' set'), 'completed')), 0::bigint, 'or listed');
select is(pg_temp.states(), 'available 2, completed 2, retryable 1, running 1', 'others do');
select is((select c.completed from awa.queue_counts(pg_temp.q(' set')) c), 2::bigint, 'they stay in the counts');
select is((select expired from awa.expire_history()), 2::bigint, 'those with rows of their own go');
select is((select c.completed from awa.queue_counts(pg_temp.q(' set')) c), 2::bigint, 'and stay in the counts');
update awa.lease_claim_closures set closed_at = closed_at - interval '61 minutes';
select awa.configure_queue(pg_temp.q(' keyed'), '{"completed_retention": "1 hour"}') \g /dev/null
select is(pg_temp.states(' keyed'), null, 'one without a row of its own is not shown either');
select is((select c.completed from awa.queue_counts(pg_temp.q(' keyed')) c), 2::bigint, 'but counted');
select awa.configure_queue(pg_temp.q(' keyed'), '{"completed_retention": "62 minutes"}') \g /dev/null
select is(pg_temp.states(' keyed'), 'completed 1', 'until it is that old');
select awa.configure_queue(pg_temp.q(' keyed'), '{"completed_retention": null}') \g /dev/null
select is(pg_temp.states(' keyed'), 'completed 2', 'or where the installation''s retention holds again');
update awa.settings set completed_retention = default;
select is((select expired from awa.expire_history()), 3::bigint, 'then they go');
select is(pg_temp.states(), 'available 2, retryable 1, running 1', 'and are not shown');
select is(pg_temp.states(' keyed'), 'completed 1', 'one without a row of its own is');
select is((select count(*) from awa.unique_claims u where u.job_id = :completed_id), 0::bigint,
  'a key goes with its job');
select is((select expired from awa.expire_history()), 0::bigint, 'they go once');

-- They stay in the counts, and nowhere else
select is(
  (
    select count(*)
      from (
        select b.queue, b.available, b.completed, b.failed, b.cancelled, b.dead, b.running, b.retryable from before b
    except
    select c.queue, c.available, c.completed, c.failed, c.cancelled, c.dead, c.running, c.retryable
      from awa.queue_counts() c) d), 0::bigint, 'all counts are as before');
select is((select count(*) from before), 3::bigint, 'of three queues');
select pg_temp.fold() \g /dev/null
select is((select row(c.completed, c.failed, c.cancelled, c.dead)::text from awa.queue_counts(pg_temp.q()) c),
  '(2,2,2,2)', 'also when the past is counted');
select is(pg_temp.unbalanced(), null, 'the books balance');
select is((select count(*) from awa.unique_claims u where u.job_id in (:failed_id, :dead_id)), 0::bigint,
  'their keys are free');
select is((select count(*) from c, awa.job(c.job_id) j where c.n in (1, 2, 3, 4, 8, 9)), 0::bigint,
  'they are not shown');
select pg_temp.refused(format('select awa.retry(%s)', job_id), 'JQ003', 'no such job', 'nor retried')
  from c
 where n = 1 and suffix = '';
select is((select count(*) from awa.claim(pg_temp.q(), 10)), 2::bigint, 'the queue goes on');
select is((select count(*) from awa.expire_history_row), 0::bigint, 'the view that names the column is empty');
select pg_temp.steps_agree();

-- Rows that a user's trigger keeps: the others go
update awa.done_entries d set finalized_at = d.finalized_at - interval '31 days' from r where d.job_id = r.job_id;
select set_config('test.refused', (select array_agg(job_id)::text from r where n % 3 = 2), true),
       job_id as refused_id
  from r
 where n = 5 \gset
create function public.refuse(
) returns
  trigger language plpgsql as $$ begin if old.job_id = any(
    current_setting('test.refused')::bigint[]
  ) then raise exception 'not this one';
  end if; return old; end $$;
create trigger refuse before delete on awa.done_entries for each row execute function public.refuse();
set local client_min_messages = error;
select is((select expired from awa.expire_history()), 6::bigint,
  'of each kind, one that can''t be removed keeps no other one');
set local client_min_messages = warning;
select is((select string_agg(r.n::text, ' ' order by r.n) from r, awa.job(r.job_id)), '2 5 8', 'it stays');
select is((
  select h.details ->> 'job_id' from awa.health() h where h.topic = 'maintenance' and h.subject = 'expire_history'
),
  :'refused_id', 'health names the first');
select is((select row(c.completed, c.cancelled, c.dead)::text from awa.queue_counts('refused ' || pg_temp.q()) c),
  '(3,3,3)', 'the counts are as before');
drop trigger refuse on awa.done_entries;
select is((select expired from awa.expire_history()), 3::bigint, 'when that is over they go');

select * from finish();
rollback;
