-- Without this, a tick would be lost, or fire twice, or a standstill would end with a flood. What two sessions do to
-- each other is tested with two sessions; a year in five zones is, too.
\set name fire_due
\ir ../prelude.psql

-- Jobs of each state, as last jobs
select awa.configure_queue(:'queue' || ' dead', '{"dead_letter": true}') \g /dev/null
select count(*)
  from awa.enqueue_many(:'queue' || ' states', 'k', array_fill('{}'::jsonb, array[7])) \g /dev/null
select awa.enqueue(:'queue' || ' dead', 'k') as dead_id \gset
create temp table taken as select * from pg_temp.take(' states', 6);
create temp table dead as select * from pg_temp.take(' dead', 1);
select awa.complete(job_id, receipt) from taken where n = 1 \g /dev/null
select awa.discard(job_id, receipt, 'e') from taken where n = 2 \g /dev/null
select awa.fail(job_id, receipt, 'e') from taken where n = 3 \g /dev/null
select awa.snooze(job_id, receipt, '1 hour') from taken where n = 4 \g /dev/null
select awa.cancel(job_id) from taken where n = 5 \g /dev/null
select awa.discard(job_id, receipt, 'e') from dead \g /dev/null
create temp table last_jobs as
select j.id, j.state from awa.jobs j where j.queue in (pg_temp.q(' states'), pg_temp.q(' dead'));

begin;
\ir clock.psql
select plan(100);

select is(pg_temp.fire(), '', 'without schedules there is nothing to do');
select awa.schedule('s', pg_temp.q(), 'k', '* * * * *') \g /dev/null
select is(pg_temp.fire(), '', 'nor before the first time');
select is(pg_temp.fire_at('2026-06-01 12:01:00+00'), 'fired 1', 'at its time it fires');
select is(pg_temp.fire(), '', 'once');
select is(pg_temp.fire_at('2026-06-01 12:02:59+00'), 'fired 1', 'within a minute, too');
select is(pg_temp.fire_at('2026-06-01 12:00:00+00'), '', 'not again after the clock was set back');
select is(pg_temp.fire_at('2026-06-01 12:02:59+00'), '', 'nor when it is there again');
select is(pg_temp.times('s'), '01 12:01, 01 12:02', 'each time once');
select awa.pause_schedule('s') \g /dev/null

-- The last time
select awa.schedule('last', pg_temp.q(), 'k', '* * * * *', ends_at => '2026-06-01 12:05+00') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:03:59+00'), 'fired 1', 'before the last time');
select pg_temp.at('2026-06-01 12:04:00+00') \g /dev/null
select is((select row(f.fired, f.more)::text from awa.fire_due() f), '(1,f)', 'after the last time there is no more');
select is(awa.run_pass('fire_due'), false, 'for run_pass, too');
select is(pg_temp.times('last'), '01 12:03, 01 12:04', 'it has fired once, and has ended');
select awa.unschedule('last') \g /dev/null
select pg_temp.at('2026-06-01 12:02:59+00') \g /dev/null

-- Missed ticks
create temp table missed as select m as name from unnest('{skip,latest,all}'::text[]) m;
select awa.schedule(name, pg_temp.q(), 'k', '*/10 * * * *', missed => name, missed_for => '90 minutes')
  from missed \g /dev/null
select pg_temp.at('2026-06-01 13:59:59.5+00') \g /dev/null
select is(pg_temp.fire(), 'fired 10, missed 23', 'two hours without maintenance');
select is(pg_temp.times('skip'), null, 'skip fires none of the times that were missed');
select is(pg_temp.times('latest'), '01 13:50', 'latest one for all of them');
select is(pg_temp.times('all'),
  '01 12:30, 01 12:40, 01 12:50, 01 13:00, 01 13:10, 01 13:20, 01 13:30, 01 13:40, 01 13:50',
  'all each of them, but none that is older than missed_for');
select is((select string_agg(l.name || ' ' || l.times_missed, ', ' order by l.name)
  from awa.list_schedules() l join missed m on m.name = l.name), 'all 2, latest 10, skip 11',
  'and what is left out is noted');
select is(pg_temp.next(m.name), '01 14:00:00', m.name || ' goes on with the next time') from missed m order by 1;
select is(pg_temp.fire_at('2026-06-01 15:00:30+00'), 'fired 9, missed 12', 'a standstill that ends right after a time');
select is(pg_temp.times('skip'), '01 15:00', 'skip fires the time that is on time');
select is(pg_temp.times('latest'), '01 13:50, 01 15:00', 'latest, too: the one for all');
select is(right(pg_temp.times('all'), 18), '01 14:50, 01 15:00', 'and all');
select awa.schedule('old', pg_temp.q(), 'k', '@hourly', missed_for => '1 minute') \g /dev/null
select awa.unschedule(name) from missed \g /dev/null
select is(pg_temp.fire_at('2026-09-01 00:30:00+00'), 'fired 1, missed 999', 'latest fires however old it is');
select is(pg_temp.times('old'), '01 00:00', 'the last one');
select awa.unschedule('old') \g /dev/null

-- Where missed_for ends is by the clock of the schedule, not of the session: this day has 23 hours
savepoint summer;
select pg_temp.at('2026-03-27 00:00:30+00') \g /dev/null
select awa.schedule('berlin', pg_temp.q(), 'k', '0 * * * *', timezone => 'Europe/Berlin', missed => 'all'),
       awa.schedule('utc', pg_temp.q(), 'k', '0 * * * *', missed => 'all') \g /dev/null
set local timezone = 'America/New_York';
select pg_temp.fire_at('2026-03-29 10:00:30+00') \g /dev/null
set local timezone = 'UTC';
select is(substr(pg_temp.times('berlin'), 1, 8) || ', ' || (select l.times_missed from pg_temp.listed('berlin') l),
  '28 12:00, 35', 'a day of its zone, which has 23 hours');
select is(substr(pg_temp.times('utc'), 1, 8) || ', ' || (select l.times_missed from pg_temp.listed('utc') l),
  '28 11:00, 34', 'or 24');
rollback to summer;

select pg_temp.at('2026-06-01 11:59:30+00') \g /dev/null
select awa.schedule('short ' || o, pg_temp.q(), 'k', '* * * * *', missed => 'all', missed_for => '1 second',
  overlap => o)
  from unnest('{allow,wait}'::text[]) o \g /dev/null
update awa.schedules set last_job_id = -1, failures = 1 where name ~ '^short';
select is(pg_temp.fire_at('2026-06-01 12:00:59+00'), 'fired 2',
  'with a shorter missed_for, too, a time that is served within a minute is on time');
select is(pg_temp.fire_at('2026-06-01 12:03:00.5+00'), 'fired 1, missed 4', 'and an older one is missed');
select awa.unschedule('short ' || o) from unnest('{allow,wait}'::text[]) o \g /dev/null

-- A schedule for each second, after a year
select pg_temp.at('2026-06-01 12:00:00+00') \g /dev/null
create temp table seconds as select m as name from unnest('{skip,latest,all}'::text[]) m;
select awa.schedule('second ' || name, pg_temp.q(), 'k', '* * * * * *', missed => name, missed_for => '1 hour')
  from seconds \g /dev/null
select pg_temp.at('2027-06-01 12:00:00+00'), set_config('test.began', clock_timestamp()::text, true) \g /dev/null
select is(pg_temp.fire(150), 'fired 150, missed 3000, more', 'a year of seconds');
select ok(clock_timestamp() < current_setting('test.began')::timestamptz + interval '10 seconds', 'answers at once');
select is((select string_agg(l.name || ' ' || to_char(l.last_at, 'DD HH24:MI:SS'), ', ' order by l.name)
  from awa.list_schedules() l where l.name ~ '^second'),
  'second all 01 11:00:29, second latest 01 12:00:00, second skip 01 12:00:00',
  'the others come first, then one that has many to make up for');
select is(pg_temp.fire(), 'fired 1000, more', 'which goes on with the next call, and fires 1000 at most');
select awa.unschedule('second ' || name) from seconds \g /dev/null

-- Overlap, with a last job of each state
create temp table laps as
select o.overlap, j.state, o.overlap || ' ' || j.state as name, j.id
  from unnest('{allow,skip,wait,replace}'::text[]) o(overlap)
 cross join (select * from last_jobs union all select -1, 'gone') j;
select pg_temp.at('2026-06-01 12:00:00+00') \g /dev/null
select awa.schedule(o.name, pg_temp.q(), 'k', '0 13 * * *', overlap => o.overlap) from laps o \g /dev/null
update awa.schedules s set last_job_id = o.id from laps o where o.name = s.name;
select is((select count(*) from laps), 36::bigint, 'there is a job of each state');
savepoint here;
select is(pg_temp.fire_at('2026-06-01 13:00:01+00'), 'fired 24, skipped 4, more', 'what has ended overlaps nothing');
select is(
  (select string_agg(distinct o.state, ' ' order by o.state) from laps o join awa.schedules s on s.name = o.name
    where s.last_tick is null and o.overlap = c.overlap), c.states, c.overlap || ': ' || c.description)
  from (values ('allow', null, 'all fire'),
    ('skip', 'available retryable running scheduled', 'a job that has not ended leaves the time out'),
    ('wait', 'available retryable running scheduled', 'or makes it wait'),
    ('replace', 'available retryable running scheduled', 'or is cancelled first')) c(overlap, states, description)
 order by 1;
select is((select array_agg(distinct l.waiting_at) from awa.list_schedules() l join laps o on o.name = l.name
  where o.overlap = 'wait' and o.state in ('available', 'running')), array[timestamptz '2026-06-01 13:00+00'],
  'list_schedules shows the time that waits');

-- replace
select is((select string_agg(pg_temp.fire(), '; ') from generate_series(1, 3)), 'more; fired 4; ',
  'the jobs are cancelled first');
select is((select string_agg(distinct j.state, ' ') from laps o, awa.job(o.id) j
  where o.overlap = 'replace' and o.state in ('available', 'retryable', 'running', 'scheduled')), 'cancelled',
  'they are cancelled');
select is((select j.errors -> -1 ->> 'error' from laps o, awa.job(o.id) j where o.name = 'replace available'),
  'replaced by the next job of its schedule', 'and say why');
select is((select array_agg(distinct s.last_tick) from laps o join awa.schedules s on s.name = o.name
  where o.overlap = 'replace'), array[timestamptz '2026-06-01 13:00+00'], 'and all have fired');

-- wait: the last jobs were cancelled meanwhile
select is(pg_temp.fire_at('2026-06-01 13:00:02.5+00'), 'fired 4', 'a time that waits fires once the job has ended');
select is((select count(*) from awa.list_schedules() l where l.waiting_at is not null), 0::bigint, 'none waits');
rollback to here;

-- wait, for long
select awa.unschedule(o.name) from laps o where o.name <> 'wait available' \g /dev/null
select awa.schedule('wait available', pg_temp.q(), 'k', '* * * * *', overlap => 'wait', missed => 'skip') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:01:01+00'), '', 'a time waits');
select is(pg_temp.fire_at('2026-06-01 12:02:01+00'), 'skipped 1', 'one at most: the others are left out');
select is(pg_temp.fire_at('2026-06-01 12:59:01+00'), 'missed 56, skipped 1', 'or missed');
select is((select row(l.waiting_at, l.times_skipped, l.times_missed)::text from pg_temp.listed('wait available') l),
  '("2026-06-01 12:01:00+00",2,56)', 'the first one waits on');
select awa.cancel(o.id) from laps o where o.name = 'wait available' \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:59:31+00'), 'fired 1', 'until the job has ended, however old it is');
select is(pg_temp.times('wait available'), '01 12:01', 'with its own time');
rollback to here;

-- skip and replace, with many times
select awa.unschedule(o.name) from laps o where o.state <> 'gone' or o.overlap in ('allow', 'wait') \g /dev/null
select awa.schedule(o.overlap || ' gone', pg_temp.q(), 'k', '* * * * *', overlap => o.overlap, missed => 'all')
  from unnest('{skip,replace}'::text[]) o(overlap) \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:05:00+00'), 'fired 2, skipped 8', 'of many times at once one fires');
select is(pg_temp.times('skip gone'), '01 12:01', 'the first one, where the others would overlap it');
select is(pg_temp.times('replace gone'), '01 12:05', 'the last one, where it would replace the others');
rollback to here;
select awa.unschedule(o.name) from laps o \g /dev/null

-- Failures
select awa.schedule(n, pg_temp.q(), 'k', '* * * * *') from unnest('{bad,good}'::text[]) n \g /dev/null
update awa.schedules set timezone = 'Europe/Atlantis' where name = 'bad';
select is(pg_temp.fire_at('2026-06-01 12:01:01+00'), 'fired 1, failed 1', 'one that fails holds up no other');
select is((select row(l.failures, l.failed_at, l.error ~ 'timezone.*22023', l.next_at, l.last_at)::text
  from pg_temp.listed('bad') l), '(1,"2026-06-01 12:01:01+00",t,"2026-06-01 12:01:00+00",)', 'it is noted');
select is(pg_temp.fire_at('2026-06-01 12:01:05+00'), '', 'and put off');
select is(pg_temp.fire_at('2026-06-01 12:01:06+00'), 'failed 1', 'for 5 seconds');
select is(pg_temp.fire_at('2026-06-01 12:01:15+00'), '', 'then for longer');
select is(pg_temp.fire_at('2026-06-01 12:01:16+00'), 'failed 1', 'twice as long each time');
update awa.schedules set failures = 100 where name = 'bad';
select awa.pause_schedule('good') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 13:00:00+00'), 'failed 1', 'up to');
select is((select s.next_at from awa.schedules s where s.name = 'bad'), timestamptz '2026-06-01 14:00:00+00',
  'an hour');
update awa.schedules set timezone = 'Europe/Berlin' where name = 'bad';
select is(pg_temp.fire_at('2026-06-01 14:00:00+00'), 'fired 1, missed 119', 'mended, it fires');
select is((select row(l.failures, l.error, l.failed_at)::text from pg_temp.listed('bad') l), '(0,,)',
  'and its failures are over');
create function pg_temp.refuse() returns trigger language plpgsql as $$ begin raise exception 'full'; end $$;
create trigger refuse before insert on awa.ready_entries
  for each row when (new.kind = 'refused') execute function pg_temp.refuse();
select awa.schedule('bad', pg_temp.q(), 'refused', '* * * * *'), awa.resume_schedule('good') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 14:01:00+00'), 'fired 1, failed 1', 'a job that is refused is a failure, too');
select is((select l.error from pg_temp.listed('bad') l), 'full (SQLSTATE P0001)', 'with its error');
select awa.unschedule('bad') \g /dev/null

-- Data of a zone that change
select pg_temp.at('2026-06-01 12:00:00+00') \g /dev/null
select awa.unschedule('good') \g /dev/null
select awa.schedule('zone', pg_temp.q(), 'k', '0 15 * * *', timezone => 'Europe/Berlin') \g /dev/null
update awa.schedules set next_tick = '2026-06-01 14:00+00', next_at = '2026-06-01 14:00+00' where name = 'zone';
select setval('awa.pass_clock_fire_due', 1) \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:01:00+00'), '', 'a next time of before');
select is(pg_temp.next('zone'), '01 13:00:00', 'is computed anew');
update awa.schedules
   set next_tick = '2026-06-01 12:30+00', next_at = '2026-06-01 12:30+00' where name = 'zone';
select is(pg_temp.fire_at('2026-06-01 12:30:00+00'), '', 'a time that is none any more does not fire');
select is(pg_temp.fire_at('2026-06-01 13:00:00+00'), 'fired 1', 'the right one does');
select awa.schedule('gone', pg_temp.q(), 'k', '0 15 * * *') \g /dev/null
update awa.schedules set timezone = 'Europe/Atlantis' where name = 'gone';
select setval('awa.pass_clock_fire_due', 1) \g /dev/null
select is(pg_temp.fire(), '', 'a zone that is gone stops nobody');
select awa.unschedule('gone') \g /dev/null

-- A queue that is dropped, and a last job that is moved
select pg_temp.at('2026-06-01 12:00:00+00') \g /dev/null
select awa.schedule('dropped', pg_temp.q(' drop'), 'k', '* * * * *', overlap => 'skip') \g /dev/null
select pg_temp.fire_at('2026-06-01 12:01:00+00') \g /dev/null
select awa.drop_queue(pg_temp.q(' drop'), true) \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:02:00+00'), 'fired 1', 'a dropped queue is made anew, and its job has ended');
select is(pg_temp.states(' drop'), 'available 1', 'the job is there');
select l.last_job_id as job_id from pg_temp.listed('dropped') l \gset
select awa.move(:job_id, pg_temp.q(' moved')) \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:03:00+00'), 'skipped 1', 'a job that was moved is still the last one');
select awa.unschedule('dropped') \g /dev/null

-- A full queue
select pg_temp.at('2026-06-01 12:00:00+00') \g /dev/null
select awa.schedule('full' || n, pg_temp.q(' full'), 'k', '* * * * *') from generate_series(1, 3) n \g /dev/null
select awa.schedule('beside', pg_temp.q(' beside'), 'k', '* * * * *') \g /dev/null
select awa.schedule('replaces', pg_temp.q(' full'), 'k', '* * * * *', overlap => 'replace') \g /dev/null
select awa.configure_queue(pg_temp.q(' full'), '{"max_depth": 6}') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:01:00+00'), 'fired 5', 'schedules of a queue with room fire, many at once');
select is(pg_temp.fire_at('2026-06-01 12:02:00+00'), 'fired 4, more', 'as long as there is room');
select is(pg_temp.fire(), 'failed 1', 'but for one that would replace its job after that');
select is(pg_temp.fire_at('2026-06-01 12:03:00+00'), 'fired 1, failed 4',
  'one of a full queue is refused, no other one');
select is((select row(l.failures, l.error, l.failed_at, l.next_at)::text from pg_temp.listed('full1') l),
  '(0,"the queue is deeper than its max_depth (SQLSTATE JQ006)","2026-06-01 12:03:00+00","2026-06-01 12:03:00+00")',
  'its row says why, and for which time');
select is((select j.state from pg_temp.listed('replaces') l cross join awa.job(l.last_job_id) j), 'available',
  'no job is cancelled for one that is refused');
select awa.configure_queue(pg_temp.q(' full'), '{"max_depth": 100}') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:03:05+00'), 'fired 3, more', 'all of them fire when there is room');
select is((select l.error from pg_temp.listed('full1') l), null, 'and its row says so');
select awa.unschedule(name) from unnest('{full1,full2,full3,replaces,beside}'::text[]) name \g /dev/null
select awa.configure_queue(pg_temp.q(' full'), '{"max_depth": 1}') \g /dev/null
select awa.schedule('many', pg_temp.q(' many'), 'k', '* * * * *', missed => 'all') \g /dev/null
select awa.configure_queue(pg_temp.q(' many'), '{"max_depth": 2}') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:13:05+00'), 'fired 10', 'what one makes up for counts as one call');
select awa.unschedule('many') \g /dev/null
select awa.schedule('alone', pg_temp.q(' alone'), 'k', '* * * * *', overlap => 'replace') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:14:00+00'), 'fired 1', 'one with a queue of its own');
select awa.enqueue(pg_temp.q(' alone'), 'k') \g /dev/null
select awa.configure_queue(pg_temp.q(' alone'), '{"max_depth": 1}') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:19:00+00'), 'failed 1', 'is refused when it makes up for what it missed');
select is((select j.state from pg_temp.listed('alone') l cross join awa.job(l.last_job_id) j), 'available',
  'and its job is not cancelled before');
select awa.unschedule('alone') \g /dev/null

-- The last time, late; a time that ran already, on time
select awa.schedule('last', pg_temp.q(), 'k', '* * * * *', ends_at => '2026-06-01 12:25+00') \g /dev/null
select pg_temp.at('2026-06-01 12:30:00+00') \g /dev/null
select is((select row(f.fired, f.more)::text from awa.fire_due() f), '(1,f)', 'after it there is no more');
select awa.unschedule('last') \g /dev/null
select awa.schedule('ran', pg_temp.q(), 'k', '* * * * *') \g /dev/null
update awa.schedules s set ran = tstzmultirange(tstzrange(s.next_tick, s.next_tick, '[]')) where s.name = 'ran';
select is(pg_temp.fire_at('2026-06-01 12:31:00+00'), '', 'it does not fire again');
select is(pg_temp.fire_at('2026-06-01 12:32:00+00'), 'fired 1', 'and the next one does');
select awa.unschedule('ran') \g /dev/null

-- The order of those that are late, and of those that wait
select awa.schedule(name, pg_temp.q(), 'k', '0 12 * * *', missed => case name when 'all' then 'all' else 'latest' end)
  from unnest('{read,latest,all,failed,waits,older}'::text[]) name \g /dev/null
update awa.schedules s
   set next_at = timestamptz '2026-06-01 12:00+00'
         + interval '1 s' * array_position('{failed,all,latest,read,older,waits}', s.name),
       failures = (s.name = 'failed')::int,
       next_tick = case when s.name in ('latest', 'all') then '2026-06-01 12:00+00' else s.next_tick end,
       waiting_tick = case when s.name in ('waits', 'older') then timestamptz '2026-06-01 12:00+00' end
 where s.name in ('read', 'latest', 'all', 'failed', 'waits', 'older');
select is(awa._due_schedules(awa._schedule_clock(), 'late', '{}', '{}', 100), '{read,latest,all,failed}',
  'first those that are looked at again, then those that fire one job, make up for more, or have failed');
select is(awa._due_schedules(awa._schedule_clock(), 'waiting', '{}', '{}', 100), '{older,waits}',
  'those that wait are none of them');
select is(awa._due_schedules(awa._schedule_clock(), 'on time', '{}', '{}', 100), '{}', 'nor on time');
select awa.unschedule(s.name) from awa.schedules s
 where s.name in ('read', 'latest', 'all', 'failed', 'waits', 'older') \g /dev/null

-- Arguments, and the pass
select pg_temp.refused(format('select awa.fire_due(%s)', n), '22023', 'max_jobs', 'max_jobs ' || n)
  from unnest('{0,10001}'::int[]) n;
select pg_temp.at('2026-06-02 13:00:00+00') \g /dev/null
select is(awa.run_pass('fire_due'), false, 'run_pass fires');
select is(pg_temp.times('zone'), '01 13:00, 02 13:00', 'what is due');
savepoint restored;
update awa.ring set tables = '{1,2}';
update awa.origin set xid = '5';
select pg_temp.at('2026-06-03 13:00:00+00') \g /dev/null
select throws_ok('select awa.fire_due()', '55000', null, 'in a restored database no schedule fires, or fails');
rollback to restored;
select pg_temp.agrees('the books balance');

select * from finish();
rollback;
