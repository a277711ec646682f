-- Without this, attempts would end because the server was down, and a clock that was ahead would keep dead workers
-- alive. Interleavings of two sessions are covered by tests with several.
\set name gaps
\ir ../prelude.psql

select pg_temp.fill(:'queue', 2) \g /dev/null
begin;
select plan(11);
delete from awa.rescue_gaps;
create function pg_temp.called(at timestamptz) returns bigint
language sql
return setval('awa.rescue_called_at', awa._microseconds(at));
create function pg_temp.gaps() returns text
language sql
return (select string_agg(extract(epoch from g.began_at - now())::int || ' to '
                 || extract(epoch from g.ended_at - now())::int, ', ' order by g.began_at) from awa.rescue_gaps g);

-- Gaps
select pg_temp.called(now() - interval '5 seconds') \g /dev/null
select awa._note_call(now()) \g /dev/null
select is(pg_temp.gaps(), null, 'five seconds without a call are no gap');
select pg_temp.called(now() - interval '20 seconds') \g /dev/null
select awa._note_call(now()) \g /dev/null
select is(pg_temp.gaps(), '-20 to 0', 'more than ten are one');
select awa._note_call(now()) \g /dev/null
select is(pg_temp.gaps(), '-20 to 0', 'which is noted once');
select cmp_ok((select s.last_value from awa.rescue_called_at s), '<', awa._microseconds(now() - interval '10 seconds'),
  'a gap that is not committed does not count as a call');
insert into awa.rescue_gaps values (now() + interval '1 hour', now() + interval '2 hours');
select pg_temp.called(now() + interval '2 hours') \g /dev/null
select awa._note_call(now()) \g /dev/null
select is(pg_temp.gaps(), '-20 to 0, 0 to 0', 'a gap that lies ahead, by a clock that was set back, ends now');
delete from awa.rescue_gaps;
insert into awa.rescue_gaps values (now() - interval '3 hours', now() - interval '2 hours');
select awa._forget_gaps(now()) \g /dev/null
select is(pg_temp.gaps(), null, 'a gap that is older than all leases is forgotten');
select count(*) from awa.claim(:'queue', lease => '5 hours') \g /dev/null
insert into awa.rescue_gaps values (now() - interval '3 hours', now() - interval '2 hours');
select awa._forget_gaps(now()) \g /dev/null
select is(pg_temp.gaps(), '-10800 to -7200', 'one that an attempt may need is not');

-- Times that lie ahead
select awa.register_worker('w') as worker_id \gset
update awa.workers set heartbeat_at = now() + interval '1 hour' where worker_id = :worker_id;
select job_id, receipt from awa.claim(:'queue', lease => '1 minute') \gset
select awa.extend(:job_id, :receipt, '1 minute') \g /dev/null
update awa.leases
   set claimed_at = now() + interval '1 hour', lease_until = now() + interval '61 minutes',
       deadline_at = now() + interval '2 hours'
 where receipt = :receipt;
select awa._set_times_back(now()) \g /dev/null
select is((select w.heartbeat_at from awa.workers w where w.worker_id = :worker_id), now(),
  'a heartbeat that lies ahead is set to now');
select is((select l.claimed_at from awa.leases l where l.receipt = :receipt), now(),
  'so is the beginning of an attempt');
select is((select l.lease_until - now() from awa.leases l where l.receipt = :receipt), interval '1 minute',
  'its lease ends one lease from now');
select is((select l.deadline_at - now() from awa.leases l where l.receipt = :receipt), interval '1 hour',
  'and its deadline moves with its beginning');

select * from finish();
rollback;
select setval('awa.rescue_called_at', awa._microseconds(clock_timestamp())) \g /dev/null
