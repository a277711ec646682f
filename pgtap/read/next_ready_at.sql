-- Without this, whoever promotes deferred jobs would have to look again and again, or promote them late.
\set name next_ready_at
\ir ../prelude.psql

begin;
-- Whatever else is deferred in this database stays out of this.
delete from awa.deferred_jobs;
update awa.schedules set next_at = null;
select plan(26);

select is(awa.next_ready_at(), null, 'nothing is deferred');
select is(awa.next_ready_at(array[:'queue']), null, 'nor in a queue that there is not');
select awa.enqueue(:'queue', 'k'), awa.enqueue(:'queue', 'k', priority => 4, run_at => '2130-01-02 00:00+00'),
       awa.enqueue(:'queue', 'k', priority => 1, run_at => '2130-01-03 00:00+00'),
       awa.enqueue(pg_temp.q(' other'), 'k', run_at => '2130-01-01 00:00+00') \g /dev/null
select is(awa.next_ready_at(), '2130-01-01 00:00+00', 'the next of all queues');
select is(awa.next_ready_at(queues => null), '2130-01-01 00:00+00', 'null stands for all');
select is(awa.next_ready_at(array[:'queue']), '2130-01-02 00:00+00', 'the next of a queue, whatever its priority');
select is(awa.next_ready_at(array[:'queue', :'queue' || ' other', 'there is none']), '2130-01-01 00:00+00',
  'of several');
select is(awa.next_ready_at('{}'), null, 'of none');
update awa.deferred_jobs set state = 'retryable' where run_at = '2130-01-02 00:00+00';
select is(awa.next_ready_at(array[:'queue']), '2130-01-02 00:00+00', 'a retry counts');

-- Jobs that wait for promote_due
update awa.deferred_jobs set run_at = '2020-01-01 00:00+00' where run_at = '2130-01-03 00:00+00';
select setval('awa.promoted_until', 1) \g /dev/null
select is(awa.next_ready_at(), '2020-01-01 00:00+00', 'a job that is due, where no pass has been');
select is(awa.next_ready_at(array[:'queue']), '2020-01-01 00:00+00', 'of a queue, too');
select setval('awa.promoted_until', awa._microseconds(clock_timestamp() - interval '2 seconds')),
       setval('awa.pass_clock_promote_due', awa._microseconds(clock_timestamp() - interval '2 seconds')) \g /dev/null
update awa.deferred_jobs set run_at = clock_timestamp() - interval '5 seconds' where run_at = '2020-01-01 00:00+00';
select ok(awa.next_ready_at() < now(), 'a job that was committed late is seen');
select setval('awa.promoted_until', awa._microseconds(clock_timestamp() - interval '10 milliseconds')),
       setval('awa.pass_clock_promote_due', awa._microseconds(clock_timestamp() - interval '10 milliseconds'))
\g /dev/null
select is(awa.next_ready_at(), '2130-01-01 00:00+00', 'not behind a pass that has looked back just now');
select setval('awa.promoted_until', awa._microseconds(clock_timestamp() + interval '1 hour')),
       setval('awa.pass_clock_promote_due', awa._microseconds(clock_timestamp() + interval '1 hour')) \g /dev/null
select ok(awa.next_ready_at() < now(), 'nor is it hidden by a clock that was ahead');
select promoted from awa.promote_due() \g /dev/null
select is(awa.next_ready_at(), '2130-01-01 00:00+00', 'when it is promoted, the next one comes next');
select is(awa.next_ready_at(array[:'queue']), '2130-01-02 00:00+00', 'in its queue, too');

-- The next tick of a schedule
select awa.schedule(pg_temp.q(' a'), pg_temp.q(), 'k', '@daily', starts_at => '2129-01-02 00:00+00'),
       awa.schedule(pg_temp.q(' b'), pg_temp.q(' other'), 'k', '@daily', starts_at => '2129-01-01 00:00+00')
\g /dev/null
select is(awa.next_ready_at(), '2129-01-01 00:00+00', 'a schedule may come before all jobs');
select is(awa.next_ready_at(array[:'queue']), '2129-01-02 00:00+00', 'one of these queues');
select is(awa.next_ready_at(array['there is none']), null, 'not one of others');
select awa.pause_schedule(pg_temp.q(' b')) \g /dev/null
select is(awa.next_ready_at(), '2129-01-02 00:00+00', 'nor one that is paused');
delete from awa.deferred_jobs;
select is(awa.next_ready_at(), '2129-01-02 00:00+00', 'without a job, too');
select awa.unschedule(pg_temp.q(' a')) \g /dev/null
select is(awa.next_ready_at(), null, 'or there is none');

-- Refusals
select pg_temp.refused(format('select awa.next_ready_at(%s)', c.queues), '22023', 'queues', c.description)
  from (values (1, $$array['q', null]$$, 'null for a queue'), (2, $$'{{q},{r}}'$$, 'queues in two dimensions'),
    (3, $$array_fill('q'::text, array[10001])$$, 'too many queues')) c(n, queues, description)
 order by c.n;
select is((select provolatile from pg_proc where oid = 'awa.next_ready_at'::regproc), 's', 'it changes nothing');
select pg_temp.steps_agree();

select * from finish();
rollback;
