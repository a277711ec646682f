-- Without this, a user would have to guess why a job does not come.
\set name explain_schedule
\ir ../prelude.psql

begin;
\ir ../schedule/clock.psql
select plan(24);

create function pg_temp.explains(pattern text, description text, schedule text default 's') returns text
language sql
as $$ select matches(awa.explain_schedule(schedule), pattern, description) $$;

delete from awa.workers; -- those of other files, some of which work on all queues
select awa.schedule('s', pg_temp.q(), 'k', '0 13 * * *') \g /dev/null
select pg_temp.explains('^It fires in 00:59:30, at 2026-06-01 13:00:00.00.', 'when it fires');
select pg_temp.explains('No worker works on its queue explain_schedule', 'a queue without workers');
select pg_temp.explains('It has not fired yet.$', 'that it has not yet');
select awa.register_worker('w') \g /dev/null
select is(awa.explain_schedule(name => 's') ~ 'Nobody', false, 'a queue with a worker');
select awa.pause_queue(pg_temp.q()) \g /dev/null
select pg_temp.explains('Its queue is paused since', 'a queue that is paused');
select awa.resume_queue(pg_temp.q()) \g /dev/null
select pg_temp.at('2026-06-01 13:00:10+00') \g /dev/null
select pg_temp.explains('^It is due since 2026-06-01 13:00:00.00: it fires when maintenance calls fire_due. If it '
  'stays due, maintenance is late.', 'maintenance');
select pg_temp.fire_at('2026-06-03 15:00:10+00') \g /dev/null
select pg_temp.explains('Its last time was 2026-06-03 13:00:00.00. Its last job is [0-9]+, which is available. '
  'Left out because they were missed: 2.$', 'what has become of it');
select awa.schedule('t', pg_temp.q(), 'k', '0 13 * * *') \g /dev/null
select awa.trigger_schedule('t') \g /dev/null
select pg_temp.explains('It has not fired yet. Its last job is [0-9]+, which is available.$', 'a triggered job',
  't');
select awa.unschedule('t') \g /dev/null
select awa.pause_schedule('s', 'too dear') \g /dev/null
select pg_temp.explains('^It is paused since 2026-06-03 15:00:10.00 by ' || session_user
  || ': too dear. resume_schedule lets it', 'a pause');
select awa.resume_schedule('s') \g /dev/null

select awa.schedule('s', pg_temp.q(), 'k', '0 13 * * *', overlap => 'skip') \g /dev/null
select pg_temp.explains('Its times are left out while job [0-9]+ has not ended, which is available.', 'skip');
select awa.schedule('s', pg_temp.q(), 'k', '0 13 * * *', overlap => 'wait') \g /dev/null
select pg_temp.fire_at('2026-06-04 13:00:10+00') \g /dev/null
select pg_temp.explains('^Its time 2026-06-04 13:00:00.00 waits for job [0-9]+ to end, which is available.', 'wait');
select awa.schedule('s', pg_temp.q(), 'k', '0 13 * * *', overlap => 'skip'), pg_temp.fire() \g /dev/null
select awa.schedule('s', pg_temp.q(), 'k', '0 13 * * *', overlap => 'replace') \g /dev/null
select pg_temp.at('2026-06-05 13:00:10+00') \g /dev/null
select pg_temp.explains('^Its time 2026-06-05 13:00:00.00 waits for job [0-9]+ to be cancelled', 'replace');
select pg_temp.explains('Left out because the last job had not ended: 1.$', 'what was left out for that');
update awa.schedules
   set failures = 3, error = 'no space', failed_at = '2026-06-05 13:00+00', next_at = '2026-06-05 14:00+00'
 where name = 's';
select pg_temp.explains('^It has failed to fire 3 times in a row, the last time at 2026-06-05 13:00:00.00: no space. '
  'It is tried again at 2026-06-05 14:00:00.00.', 'failures');
update awa.schedules set failures = 0, error = 'too deep (SQLSTATE JQ006)', next_at = '2026-06-05 13:00:15+00'
 where name = 's';
select pg_temp.explains('^Its queue explain_schedule.* was full at 2026-06-05 13:00:00.00: too deep .SQLSTATE JQ006.. '
  'It is tried again at 2026-06-05 13:00:15.00.', 'a full queue');
select awa.schedule('s', pg_temp.q(), 'k', '0 13 * * *', ends_at => '2026-06-05 13:00+00') \g /dev/null
select pg_temp.explains('^It has ended at 2026-06-05 13:00:00.00, and does not fire any more.', 'its end');
select awa.schedule('s', pg_temp.q(), 'k', '0 13 * * *', ends_at => '2026-06-05 13:30+00') \g /dev/null
select pg_temp.explains('^It has no time ahead, and does not fire any more.', 'no time before its end');
savepoint restored;
update awa.ring set tables = '{1,2}';
update awa.origin set xid = '5';
select pg_temp.explains('^The database was restored from a dump: .* rebase_after_restore', 'a restored database');
rollback to restored;
select awa.unschedule('s') \g /dev/null
select pg_temp.explains('^It was removed at 2026-06-05 13:00:10.00 by ', 'one that was removed');
select pg_temp.refused('select awa.explain_schedule(null)', '22023', 'name', 'no name');
select pg_temp.refused('select awa.explain_schedule(''none'')', 'JQ007', 'no such schedule', 'an unknown one');

-- What keeps it
select pg_temp.at('2026-06-05 13:01:10+00') \g /dev/null
select awa.schedule('kept', pg_temp.q(), 'k', '* * * * *') \g /dev/null
update awa.schedules set error = 'busy (SQLSTATE 55P03)', failed_at = '2026-06-05 13:01:10+00',
       next_tick = '2026-06-05 13:01+00', next_at = '2026-06-05 13:01:11+00', last_tick = '2026-06-05 12:00+00'
 where name = 'kept';
select pg_temp.explains('^Its time 2026-06-05 13:01:00.00 could not fire at 2026-06-05 13:01:10.00, since another '
  'session is in its way: busy .SQLSTATE 55P03.. It is tried again at 2026-06-05 13:01:11.00.', 'another session',
  'kept');
update awa.schedules set next_tick = '2026-06-05 13:10+00' where name = 'kept';
select pg_temp.explains('The time that could not fire was missed by then, and left out.', 'a time that is given up',
  'kept');
update awa.schedules set failures = 3, failed_at = '2027-06-05 13:01:10+00' where name = 'kept';
select pg_temp.explains('^The clock of the server was ahead: .* It failed then: busy .SQLSTATE 55P03..',
  'one that has failed by a clock that was ahead', 'kept');

select * from finish();
rollback;
