-- Without this, a job could be lost and it would not be noticed; or the books be off for no reason, and nobody would
-- believe them any more. The tables are emptied for the time of this transaction, so that all is known, and are as they
-- were when it rolls back.
\set name audit
\ir ../prelude.psql

begin;
truncate awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures, awa.leases,
awa.deferred_jobs, awa.done_entries, awa.unique_claims, awa.queue_rollups, awa.queues, awa.workers;
update awa.ring set current_segment = 0;
select plan(116);

select is((select count(*) from awa.audit()), 0::bigint, 'no queues, no books');

-- Jobs as of earlier transactions, most of them claimed: c together, s one by one
select pg_temp.fill(pg_temp.q(), 60) \g /dev/null
create temp table c as select t.* from pg_temp.take('', 36) t;
create temp table s as select t.* from pg_temp.take('', 4, one_claim => false) t;
create temp table jobs (name text, id bigint);
create function pg_temp.id(name text) returns bigint
language sql
return (select j.id from jobs j where j.name = id.name order by j.id desc limit 1);
select is((select row(a.enqueued, a.available, a.running, a.balanced, a.problem)::text from awa.audit() a),
  '(60,20,40,t,)', 'what was enqueued waits or runs');

-- Damage, and the balance that finds it
create function pg_temp.after(command text) returns text
language plpgsql
as $$
begin
  execute command;
  return pg_temp.unbalanced();
end
$$;
create temp table operations (n int generated always as identity, command text, description text);
insert into operations (command, description) values
  ($$insert into jobs select 'now', awa.enqueue(pg_temp.q(), 'k')$$, 'enqueue'),
  ($$insert into jobs select 'later', awa.enqueue(pg_temp.q(), 'k', run_at => '2130-01-01')$$, 'enqueue, for later'),
  ($$insert into jobs select 'many',
    e from awa.enqueue_many(pg_temp.q(), 'k', array_fill('{}'::jsonb, array[5]), 3) e$$, 'enqueue_many'),
  ($$insert into jobs select 'many later',
    e from awa.enqueue_many(pg_temp.q(), 'k', array_fill('{}'::jsonb, array[5]), 3, '2130-01-01') e$$,
    'enqueue_many, for later'),
  ($$select awa.enqueue_many(pg_temp.q(), 'k', '{}')$$, 'enqueue_many of nothing'),
  ($$
  select awa.enqueue_batch(
    jsonb_build_array(jsonb_build_object('queue', pg_temp.q(), 'kind', 'k'),
      jsonb_build_object('queue', pg_temp.q(' batch'), 'kind', 'k'),
      jsonb_build_object('queue', pg_temp.q(' batch'), 'kind', 'k', 'run_at', '2130-01-01T00:00Z'),
      jsonb_build_object('queue', pg_temp.q(' batch'), 'kind', 'k', 'priority', 1))
  )$$,
    'enqueue_batch'),
  ($$insert into jobs select 'unique', u.job_id from awa.enqueue_unique(pg_temp.q(), 'k', unique_key => 'a') u$$,
    'enqueue_unique'),
  ($$select awa.enqueue_unique(pg_temp.q(), 'k', unique_key => 'a')$$, 'a duplicate'),
  ($$insert into jobs select 'unique later',
    u.job_id from awa.enqueue_unique(pg_temp.q(), 'k', unique_key => 'b', run_at => '2130-01-01') u$$,
    'enqueue_unique, for later'),
  ($$do
    'begin perform awa.enqueue(pg_temp.q(), $q$k$q$), awa.enqueue(pg_temp.q(), $q$k$q$, '
      'run_at => $q$2130-01-01$q$); raise exception $q$no$q$; exception when raise_exception then null; end'$$,
    'what is rolled back'),
  ($$insert into s select 5, t.job_id, t.receipt from awa.claim(pg_temp.q(), 1) t$$, 'claim'),
  ($$select awa.claim(pg_temp.q(), 2, awa.register_worker('w'))$$, 'claim of a worker'),
  ($$select awa.complete(job_id, receipt) from c where n = 1$$, 'complete'),
  ($$select awa.complete(job_id, receipt, '1') from c where n = 2$$, 'complete with an output'),
  ($$select awa.complete(job_id, receipt) from s where n = 1$$, 'complete, a claim of one job'),
  ($$select awa.complete_many(array_agg(job_id), array_agg(receipt)) from c where n in (3, 4)$$, 'complete_many'),
  ($$select awa.complete_many(array_agg(job_id), array_agg(receipt), '{1,null}') from c where n in (5, 6)$$,
    'complete_many with outputs'),
  ($$select awa.complete_many(array_agg(job_id), array_agg(receipt)) from c where n in (3, 7)$$,
    'a stale answer among others'),
  ($$select awa.fail(job_id, receipt, 'e', '1 day') from c where n in (8, 9, 10)$$, 'fail'),
  ($$select awa.fail_many(array_agg(job_id), array_agg(receipt), '{e,e}', '{1 day,1 day}') from c where n in (11, 12)$$,
    'fail_many'),
  ($$update awa.ready_entries e set max_attempts = 1 from c where c.job_id = e.job_id and c.n in (13, 14)$$,
    'as if it were the last attempt'),
  ($$select awa.fail(job_id, receipt, 'e') from c where n = 13$$, 'fail, the last attempt'),
  ($$select awa.discard(job_id, receipt, 'e') from c where n in (15, 16)$$, 'discard'),
  ($$select awa.configure_queue(pg_temp.q(), '{"dead_letter": true}'), awa.fail(job_id, receipt, 'e'),
    awa.configure_queue(pg_temp.q(), '{"dead_letter": null}') from c where n = 14$$, 'fail, to a dead letter'),
  ($$select awa.configure_queue(pg_temp.q(), '{"dead_letter": true}'), awa.discard(job_id, receipt, 'e'),
    awa.configure_queue(pg_temp.q(), '{"dead_letter": null}') from c where n in (17, 18, 19)$$,
    'discard, to dead letters'),
  ($$select awa.snooze(job_id, receipt, '1 day') from c where n in (20, 21)$$, 'snooze'),
  ($$select awa.release(job_id, receipt) from c where n in (22, 23, 24)$$, 'release'),
  ($$select awa.cancel_attempt(job_id, receipt) from c where n = 25$$, 'cancel_attempt'),
  ($$select awa.extend(job_id, receipt, '1 hour') from c where n in (26, 27, 28)$$, 'extend'),
  ($$select awa.set_progress(job_id, receipt, '1') from c where n in (29, 30, 31)$$, 'set_progress'),
  ($$select awa.complete(job_id, receipt) from c where n = 26$$, 'complete, after a lease'),
  ($$select awa.complete(job_id, receipt, '1') from c where n = 29$$, 'complete with an output, after a lease'),
  ($$select awa.fail(job_id, receipt, 'e', '1 day') from c where n = 27$$, 'fail, after a lease'),
  ($$select awa.release(job_id, receipt) from c where n = 30$$, 'release, after a lease'),
  ($$select awa.cancel(pg_temp.id('now'))$$, 'cancel of what this transaction enqueued'),
  ($$select awa.cancel(j.id) from awa.jobs j where j.queue = pg_temp.q() and j.args = '{"n": 60}'$$,
    'cancel of what is available'),
  ($$set constraints all immediate; set local idle_in_transaction_session_timeout = 0; set constraints all deferred$$,
    'its decision'),
  ($$select awa.cancel(pg_temp.id('later'))$$, 'cancel of what is scheduled'),
  ($$select awa.cancel(job_id) from c where n = 8$$, 'cancel of what is to be retried'),
  ($$select awa.cancel(job_id) from c where n = 32$$, 'cancel of what runs'),
  ($$select awa.cancel(job_id) from c where n = 28$$, 'cancel of what runs long'),
  ($$select awa.cancel_by_unique_key(unique_key => 'a')$$, 'cancel_by_unique_key'),
  ($$insert into jobs select 'heir', u.job_id from awa.enqueue_unique(pg_temp.q(), 'k', unique_key => 'a') u$$,
    'the next one with its key'),
  ($$select awa.set_priority(j.id, 4) from awa.jobs j where j.queue = pg_temp.q() and j.args = '{"n": 59}'$$,
    'set_priority of what is available'),
  ($$select awa.set_priority(job_id, 4) from c where n = 9$$, 'set_priority of what waits'),
  ($$select awa.move(j.id, pg_temp.q(' moved')) from awa.jobs j where j.queue = pg_temp.q() and j.args = '{"n": 58}'$$,
    'move of what is available'),
  ($$select awa.move(job_id, pg_temp.q(' moved')) from c where n = 10$$, 'move of what is to be retried'),
  ($$select awa.move(job_id, pg_temp.q(' moved')) from c where n = 20$$, 'move of what is scheduled'),
  ($$select awa.move(job_id, pg_temp.q(' moved')) from c where n = 23$$, 'move of what was given back'),
  ($$select awa.move(pg_temp.id('many'), pg_temp.q(' moved'))$$, 'move of what this transaction enqueued'),
  ($$select awa.move(pg_temp.id('many'), pg_temp.q(' new'))$$, 'and on'),
  ($$select awa.retry(job_id) from c where n = 15$$, 'retry of what failed'),
  ($$select awa.retry(job_id) from c where n = 17$$, 'retry of what is dead'),
  ($$select awa.retry(job_id) from c where n = 25$$, 'retry of what was cancelled'),
  ($$select awa.retry(job_id) from c where n = 21$$, 'retry of what is scheduled'),
  ($$select awa.retry(job_id) from c where n = 11$$, 'retry of what is to be retried'),
  ($$select awa.retry_where(pg_temp.q(), state => 'dead', max_jobs => 1)$$, 'retry_where'),
  ($$select awa.cancel_where(pg_temp.q(), 'k', 'scheduled', max_jobs => 2)$$, 'cancel_where'),
  ($$select awa.purge_dlq(pg_temp.q(), max_jobs => 1)$$, 'purge_dlq'),
  ($$update awa.deferred_jobs d set run_at = clock_timestamp() - interval '1 second'
    from c
   where c.job_id = d.job_id and c.n = 12$$,
    'time goes by'),
  ($$select awa.promote_due()$$, 'promote_due'),
  ($$select awa.materialize('0', 3)$$, 'materialize'),
  ($$update awa.lease_claims set lease_until = clock_timestamp() - interval '1 second';
  update awa.leases
     set lease_until = clock_timestamp() - interval '1 second'
   where receipt = (select min(receipt) from awa.leases)$$,
    'time goes by'),
  ($$select awa.rescue(4)$$, 'rescue'),
  ($$select awa.deregister_worker((select worker_id from awa.workers))$$, 'deregister_worker'),
  ($$select awa.pause_queue(pg_temp.q()), awa.resume_queue(pg_temp.q())$$, 'pause_queue, resume_queue'),
  ($$update awa.done_entries d set finalized_at = finalized_at - interval '100 days' where d.job_id % 2 = 0;
  update awa.done_entries set finalized_at = finalized_at - interval '100 days' where state = 'dead'$$,
    'time goes by'),
  ($$select awa.expire_history()$$, 'expire_history'),
  ($$select awa.rotate(true)$$, 'rotate'),
  ($$select awa.enqueue(pg_temp.q(), 'k'), awa.enqueue(pg_temp.q(' new'), 'k')$$, 'enqueue into the next segment'),
  ($$select awa.claim(pg_temp.q(), 3)$$, 'claim from both'),
  ($$select awa.cancel(j.id) from awa.jobs j where j.queue = pg_temp.q() and j.args = '{"n": 57}'$$,
    'cancel in the segment that was left');
select is(pg_temp.after(command), null, description) from operations order by n;
select is((select count(*) from awa.audit() a where a.balanced), (select count(distinct q.queue_id) from awa.queues q),
  'a row for each queue');
select is(
  (
    select string_agg(d.queue, ' ')
      from (
        select a.queue, a.available, a.scheduled, a.retryable, a.running, a.waiting_external, a.completed, a.failed,
               a.cancelled, a.dead
          from awa.audit() a
    except
    select c.queue, c.available, c.scheduled, c.retryable, c.running, c.waiting_external, c.completed, c.failed,
           c.cancelled, c.dead
      from awa.queue_counts() c) d), null, 'with its counts');
select is((
  select string_agg(a.queue, ' ')
    from awa.audit() a
   where a.enqueued <> a.available + a.scheduled + a.retryable + a.running + a.waiting_external + a.completed + a.failed
     + a.cancelled + a.dead
),
  null, 'which add up');
select is((
  select row(a.enqueued, a.available + a.scheduled, a.balanced, a.problem)::text
    from awa.audit() a
   where a.queue = pg_temp.q(' moved')
),
  '(4,3,t,)', 'to what came there, and stayed');
select cmp_ok((
  select least(a.available, a.scheduled, a.retryable, a.running, a.completed, a.failed, a.cancelled, a.dead)
    from awa.audit() a
   where a.queue = pg_temp.q()
),
  '>=', 1::bigint, 'in all states that there are');
-- A queue and a segment afterwards
select is(pg_temp.after(command), null, description)
  from (values
    (1, $$select awa.drop_queue(pg_temp.q(' moved'), true)$$, 'drop_queue'),
    (2, $$select awa.enqueue(pg_temp.q(' moved'), 'k'), awa.enqueue(pg_temp.q(' moved'), 'k', run_at => '2130-01-01')$$,
      'which is used again'),
    (3, $$select awa.drop_queue(pg_temp.q(' moved'), true)$$, 'drop_queue, with what this transaction enqueued'),
    (4, $$select awa.enqueue(pg_temp.q(' own'), 'k'), awa.enqueue(pg_temp.q(' own'), 'k', run_at => '2130-01-01')$$,
      'a new queue'),
    (5, $$select awa.drop_queue(pg_temp.q(' own'), true), awa.enqueue(pg_temp.q(' own'), 'k')$$,
      'dropped, and used again'),
    (6,
      $$set constraints all immediate;
      set local idle_in_transaction_session_timeout = 0; set constraints all deferred$$,
      'all that is to be decided'),
    (7, $$select awa.prune_oldest(true)$$, 'prune_oldest'),
    (8, $$select awa.claim(pg_temp.q(), 100)$$, 'claim of what was carried'),
    (9, $$select awa.enqueue(pg_temp.q(), 'k')$$, 'enqueue after that'),
    (10, $$select awa.materialize('0')$$, 'materialize after that'),
    (11, $$select awa.rescue()$$, 'rescue after that')
  ) v(n, command, description)
 order by n;
select is((select row(r.cleaned_segment, r.current_segment)::text from awa.ring r), '(0,1)',
  'with a segment that was cleaned');

-- Rows that somebody has removed. On tables of which all is known: one job in each state; claims of several, and of
-- one; with answers of both kinds
truncate awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures, awa.leases,
awa.deferred_jobs, awa.done_entries, awa.unique_claims, awa.queue_rollups, awa.queues, awa.workers;
update awa.ring set current_segment = 0, cleaned_segment = null, cleaned_until = null, cleaned_by = null;
select pg_temp.fill(pg_temp.q(), 20) \g /dev/null
create temp table j as
select row_number() over (order by t.receipt)::int as n, t.job_id, t.receipt
  from awa.claim(pg_temp.q(), 10) t;
insert into j select 10 + t.n, t.job_id, t.receipt from pg_temp.take('', 4, one_claim => false) t;
select awa.complete(job_id, receipt) from j where n in (1, 11) \g /dev/null
select awa.complete_many(array_agg(job_id), array_agg(receipt)) from j where n in (2, 3) \g /dev/null
select awa.complete(job_id, receipt, '1') from j where n = 4 \g /dev/null
select awa.extend(job_id, receipt, '1 hour') from j where n in (5, 6) \g /dev/null
select awa.complete(job_id, receipt) from j where n = 6 \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 day') from j where n = 7 \g /dev/null
select awa.discard(job_id, receipt, 'e') from j where n = 12 \g /dev/null
select awa.configure_queue(pg_temp.q(), '{"dead_letter": true}') \g /dev/null
select awa.discard(job_id, receipt, 'e') from j where n = 8 \g /dev/null
select awa.cancel(t.id), awa.enqueue(pg_temp.q(), 'k', run_at => '2130-01-01')
  from awa.jobs t
 where t.args = '{"n": 20}' \g /dev/null
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
set constraints all deferred;
-- As if it had been a while ago, so that it is counted
update awa.lease_claims set claimed_at = claimed_at - interval '11 seconds';
update awa.ready_tombstones set by_xid = (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text::xid8;
update awa.arrivals set xid = (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text::xid8;
select is(pg_temp.unbalanced(), null, 'all is counted');
select is((select to_jsonb(a) - 'queue' from awa.audit() a),
  '{"enqueued": 21, "available": 5, "scheduled": 1, "retryable": 1, "running": 5, "waiting_external": 0, "completed": '
  '6, "failed": 1, "cancelled": 1, "dead": 1, "balanced": true, "problem": null}',
  'what is known');
create function pg_temp.without(command text) returns text
language plpgsql
as $$
declare
  v_says text;
begin
  begin
    execute command;
    v_says := (
      select string_agg(case
        when a.balanced <> (a.problem is null) then 'balanced?'
        when a.queue is null then 'nowhere: ' || a.problem
        else a.problem
      end,
        ' | ' order by a.queue)
        from awa.audit() a
       where not a.balanced
    );
    raise exception using errcode = 'TAP00';
  exception when sqlstate 'TAP00' then
    null;
  end;
  return regexp_replace(v_says, 'claim \d+', 'claim N', 'g');
end
$$;
select is(pg_temp.without('delete from awa.' || command), says, format('%s: %s', command, says))
  from (values
    (1, 'ready_entries where args = ''{"n": 19}''',
      '5 jobs are counted as available, 4 are; segment 0: 20 entries counted, 19 there'),
    (2, 'ready_entries using j where j.job_id = ready_entries.job_id and j.n = 9',
      '5 jobs are counted as running, 4 are; segment 0: 20 entries counted, 19 there'),
    (3, 'ready_entries using j where j.job_id = ready_entries.job_id and j.n = 1',
      'segment 0: 20 entries counted, 19 there'),
    (4, 'ready_entries where args = ''{"n": 20}''', 'segment 0: 20 entries counted, 19 there'),
    (5, 'ready_tombstones', '5 jobs are counted as available, 6 are'),
    (6, 'lease_claims where claim_id = (select receipt >> 12 from j where n = 11)',
      'claims 1 to 5: 1 are missing | nowhere: segment 0: claim N is missing, but was answered'),
    (7, 'lease_claims where claim_id = (select receipt >> 12 from j where n = 13)',
      '6 jobs are counted as available, 5 are; claims 1 to 5: 1 are missing'),
    (9, 'lease_claim_closures where claim_id = (select receipt >> 12 from j where n = 11)',
      'segment 0: of claim N, which is counted as closed, 0 of 1 items are'),
    (10, 'leases', '21 jobs were enqueued, 20 are there'),
    (11, 'deferred_jobs where state = ''scheduled''', '21 jobs were enqueued, 20 are there'),
    (12, 'deferred_jobs where state = ''retryable''', '21 jobs were enqueued, 20 are there'),
    (13, 'done_entries where state = ''failed''', '21 jobs were enqueued, 20 are there'),
    (14, 'done_entries where state = ''cancelled''', '21 jobs were enqueued, 20 are there'),
    (15, 'done_entries where state = ''completed'' and not counted_by_closure', '21 jobs were enqueued, 20 are there'),
    (16, 'done_entries where state = ''dead''', '21 jobs were enqueued, 20 are there')
  ) v(n, command, says)
 order by n;
-- Jobs that went when it was time are in the counts alone.
update awa.done_entries set finalized_at = finalized_at - interval '100 days';
select expired from awa.expire_history() \g /dev/null
select is((select a.problem from awa.audit() a), null, 'what expired is counted');
select is(pg_temp.without('delete from awa.queue_rollups'), '21 jobs were enqueued, 17 are there',
  'until somebody removes the counts');
select is(pg_temp.without('update awa.queue_rollups set failed = failed + 1 where enqueued > 0'),
  '21 jobs were enqueued, 22 are there', 'or makes one up');
select is(pg_temp.without('update awa.queue_rollups set completed = completed - 1 where enqueued > 0'),
  '21 jobs were enqueued, 20 are there', 'or takes one away');
select is(pg_temp.without(
  'update awa.queue_rollups set segment_entries[1] = segment_entries[1] + 1 where enqueued > 0'
),
  'segment 0: 21 entries counted, 20 there', 'or says that there were more entries');
select is(pg_temp.without('update awa.queue_rollups set enqueued = enqueued - 1 where enqueued > 0'),
  '20 jobs were enqueued, 21 are there', 'or fewer jobs');

-- It writes nothing, and takes no lock that anybody but the truncation of a segment would wait for
savepoint may_not_write;
set transaction read only;
select is((select row(a.balanced, a.problem)::text from awa.audit() a), '(t,)',
  'also in a transaction that may not write');
rollback to may_not_write;
select is((select count(*) from awa.audit_row), 0::bigint, 'the view that names the columns is empty');

select * from finish();
rollback;
