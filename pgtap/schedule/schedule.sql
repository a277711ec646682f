-- Without this, a change of a schedule would fire times that are over, or forget what has fired.
\set name schedule
\ir ../prelude.psql

begin;
\ir clock.psql
select plan(83);

create temp table told as
select awa.schedule(name => 's', queue => pg_temp.q(), kind => 'send', cron => '15 1 * * *', args => '{"a": 1}',
  timezone => 'Europe/Berlin', missed => 'all', missed_for => '2 days', overlap => 'skip',
  starts_at => '2026-01-01 00:00+00', ends_at => '2027-01-01 00:00+00', priority => 3, max_attempts => 7,
  tags => '{t}', metadata => '{"m": 1}', group_key => 'g')::text as answer;
select is((select answer from told), '', 'schedule returns nothing');
select is((select to_jsonb(l) - '{made_at,changed_at,changed_by,next_at}'::text[] from pg_temp.listed('s') l),
  jsonb_build_object('name', 's', 'source', null, 'queue', pg_temp.q(), 'kind', 'send', 'cron', '15 1 * * *',
    'every', null, 'args', jsonb_build_object('a', 1), 'timezone', 'Europe/Berlin', 'missed', 'all',
    'missed_for', interval '2 days', 'overlap', 'skip', 'starts_at', timestamptz '2026-01-01 00:00+00',
    'ends_at', timestamptz '2027-01-01 00:00+00', 'priority', 3, 'max_attempts', 7, 'tags', array['t'],
    'metadata', jsonb_build_object('m', 1), 'group_key', 'g')
    || '{"last_at": null, "last_job_id": null, "last_job_state": null, "waiting_at": null, "paused_at": null,
      "paused_by": null, "pause_reason": null, "times_missed": 0, "times_skipped": 0, "failures": 0, "error": null,
      "failed_at": null, "is_ahead": false}', 'all that was said is kept');
select is(pg_temp.next('s'), '01 23:15:00', 'its next time is that of its zone');
select is((select row(l.made_at, l.changed_at, l.changed_by)::text from pg_temp.listed('s') l),
  format('("2026-06-01 12:00:30+00","2026-06-01 12:00:30+00",%s)', session_user), 'who made it, and when');

-- The job
select is(pg_temp.fire_at('2026-06-01 23:15:01+00'), 'fired 1', 'at its time it fires');
select is(
  (select row(j.kind, j.args, j.priority, j.max_attempts, j.tags, j.metadata, j.state, j.group_key)::text
     from awa.jobs j where j.queue = pg_temp.q()),
  '(send,"{""a"": 1}",3,7,{t},"{""m"": 1, ""schedule"": {""at"": ""2026-06-01T23:15:00Z"", ""name"": ""s""}}",'
  'available,g)',
  'the job has all of it, and its nominal time');
select is(
  (select row(l.last_at, l.last_job_state, l.last_job_id = (select max(j.id) from awa.jobs j))::text
     from pg_temp.listed('s') l),
  '("2026-06-01 23:15:00+00",available,t)', 'the last time and the last job are kept');
select awa.pause_schedule('s') \g /dev/null

-- Changes
select awa.schedule('c', pg_temp.q(), 'k', '15 1 * * *') \g /dev/null
select pg_temp.at('2026-06-02 12:00+00') \g /dev/null
select is(pg_temp.fire(), 'fired 1', 'a time that was not served is made up for');
select awa.schedule('c', pg_temp.q(), 'k', '15 2 * * *') \g /dev/null
select is(pg_temp.next('c'), '03 02:15:00', 'a change at noon from 01:15 to 02:15 fires tomorrow');
select is(pg_temp.fire(), '', 'not now');
select awa.schedule('t', pg_temp.q(), 'k', '15 13 * * *') \g /dev/null
select is(pg_temp.fire_at('2026-06-02 13:15:01+00'), 'fired 1', 'also after a time that was served at once');
select pg_temp.at('2026-06-02 14:00+00') \g /dev/null
select awa.schedule('t', pg_temp.q(), 'k', '45 13 * * *') \g /dev/null
select is(pg_temp.next('t'), '03 13:45:00', 'the rest of the day is not made up for');
select awa.unschedule('t') \g /dev/null
select is((select row(l.last_at, l.last_job_id is not null, l.made_at)::text from pg_temp.listed('c') l),
  '("2026-06-02 01:15:00+00",t,"2026-06-01 23:15:01+00")', 'the record of the last time stays, and when it was made');
select awa.schedule('c', pg_temp.q(), 'k', '15 2 * * *', timezone => 'Asia/Tokyo') \g /dev/null
select is(pg_temp.next('c'), '02 17:15:00', 'another zone is another time');
select pg_temp.at('2026-06-02 17:15:10+00') \g /dev/null
select awa.schedule('c', pg_temp.q(), 'other', '15 2 * * *', timezone => 'Asia/Tokyo') \g /dev/null
select is(pg_temp.fire(), 'fired 1', 'a change of anything else keeps the time that is due');
select is((select j.kind from awa.jobs j where j.id = (select l.last_job_id from pg_temp.listed('c') l)), 'other',
  'and takes effect at once');
select awa.schedule('c', pg_temp.q(), 'k', every => '1 hour') \g /dev/null
select is(pg_temp.next('c'), '02 18:15:01', 'an interval counts from when the schedule was first made');
select awa.schedule('c', pg_temp.q(), 'k', every => '1 hour', ends_at => '2026-06-02 18:15:01+00') \g /dev/null
select is(pg_temp.next('c'), null, 'the end is not a time of it');
select pg_temp.at('2026-06-03 00:00+00') \g /dev/null
select awa.schedule('c', pg_temp.q(), 'k', every => '1 hour', ends_at => '2026-06-04 00:00+00') \g /dev/null
select is(pg_temp.next('c'), '03 00:15:01', 'a later end brings back no time that is over');
select is(pg_temp.fire(), '', 'at all');
select awa.schedule('c', pg_temp.q(), 'k', every => '1 day', starts_at => '2026-06-10 08:00+00') \g /dev/null
select is(pg_temp.next('c'), '10 08:00:00', 'or from its start');
select awa.schedule('c', pg_temp.q(), 'k', '0 9 * * *', starts_at => '2026-06-10 09:00+00') \g /dev/null
select is(pg_temp.next('c'), '10 09:00:00', 'which is a time of it where it matches');
select awa.schedule('p', pg_temp.q(), 'k', '@hourly', starts_at => '2026-01-01 00:00+00',
  ends_at => '2026-02-01 00:00+00') \g /dev/null
select is(pg_temp.next('p'), null, 'one whose time is over never fires');

-- A time that is due, and that a change leaves out
select awa.schedule('due', pg_temp.q(), 'k', '@hourly') \g /dev/null
select pg_temp.at('2026-06-03 02:00:00.5+00') \g /dev/null
select awa.schedule('due', pg_temp.q(), 'k', '@daily') \g /dev/null
select is((select l.times_missed from pg_temp.listed('due') l), 2::bigint,
  'times that were due before another expression count as missed');
select awa.unschedule('due') \g /dev/null

-- The same times, written otherwise
select awa.schedule('spaces', pg_temp.q(), 'k', '0 * * * *', timezone => 'Europe/Berlin') \g /dev/null
select pg_temp.at('2026-06-03 03:00:00.5+00') \g /dev/null
select awa.schedule('spaces', pg_temp.q(), 'k', '0  * * * *', timezone => 'europe/berlin') \g /dev/null
select is((select row(l.times_missed, l.cron)::text from pg_temp.listed('spaces') l), '(0,"0  * * * *")',
  'an expression that is only written otherwise');
select is(pg_temp.fire(), 'fired 1', 'loses nothing that is due');
select awa.unschedule('spaces') \g /dev/null
select pg_temp.at('2026-06-03 02:00:00.5+00') \g /dev/null

-- An end that has passed
select awa.schedule(n, pg_temp.q(), 'k', '*/10 * * * *', missed => 'all', ends_at => '2026-06-03 03:00+00')
  from unnest('{end,args}'::text[]) n \g /dev/null
select pg_temp.at('2026-06-03 03:00:05+00') \g /dev/null
select awa.schedule('end', pg_temp.q(), 'k', '*/10 * * * *', missed => 'all'),
       awa.schedule('args', pg_temp.q(), 'k', '*/10 * * * *', args => '1', missed => 'all',
         ends_at => '2026-06-03 03:00+00') \g /dev/null
select is((select row(l.times_missed, l.next_at)::text from pg_temp.listed('end') l), '(5,"2026-06-03 03:10:00+00")',
  'another end, after it has passed: what was due before it counts as missed');
select is((select row(l.times_missed, l.next_at)::text from pg_temp.listed('args') l), '(0,"2026-06-03 02:10:00+00")',
  'with the same end, what is due stays due');
select is(pg_temp.fire(), 'fired 5', 'and fires');
select awa.schedule('wait', pg_temp.q(), 'k', '* * * * *', overlap => 'wait', ends_at => '2026-06-03 03:03+00')
  \g /dev/null
select awa.trigger_schedule('wait'), pg_temp.fire_at('2026-06-03 03:01:30+00') \g /dev/null
select pg_temp.at('2026-06-03 03:04:00.5+00') \g /dev/null
select awa.schedule('wait', pg_temp.q(), 'k', '* * * * *', overlap => 'wait') \g /dev/null
select is((select row(l.waiting_at, l.times_missed, l.next_at)::text from pg_temp.listed('wait') l),
  '("2026-06-03 03:01:00+00",1,"2026-06-03 03:05:00+00")', 'what waits goes on waiting');
select awa.unschedule(n) from unnest('{end,args,wait}'::text[]) n \g /dev/null

-- A time that waits, and another overlap
select awa.schedule('to ' || o, pg_temp.q(), 'k', '* * * * *', overlap => 'wait')
  from unnest('{allow,skip,replace}'::text[]) o \g /dev/null
select awa.trigger_schedule('to ' || o) from unnest('{allow,skip,replace}'::text[]) o \g /dev/null
select pg_temp.fire_at('2026-06-03 03:05:00.5+00') \g /dev/null
select awa.schedule('to ' || o, pg_temp.q(), 'k', '* * * * *', overlap => o)
  from unnest('{allow,skip,replace}'::text[]) o \g /dev/null
select pg_temp.fire() from generate_series(1, 3) \g /dev/null
select is((select row(l.last_at, l.waiting_at, l.times_skipped)::text from pg_temp.listed('to ' || c.overlap) l),
  c.expected, 'overlap becomes ' || c.overlap)
  from (values ('allow', '("2026-06-03 03:05:00+00",,0)'), ('skip', '(,,1)'),
    ('replace', '("2026-06-03 03:05:00+00",,0)')) c(overlap, expected);
select awa.unschedule('to ' || o) from unnest('{allow,skip,replace}'::text[]) o \g /dev/null
select pg_temp.refused(format('select awa.schedule(''i'', ''q'', ''k'', every => %L)', case -- from 17 on
  when current_setting('server_version_num')::int >= 170000 then 'infinity' else '11 years' end), '22023', 'every',
  'an interval without end');

-- Dropped, and made anew
select pg_temp.at('2026-06-05 00:00:10+00') \g /dev/null
select awa.schedule('d', pg_temp.q(), 'k', every => '1 hour') \g /dev/null
select pg_temp.at('2026-06-05 05:30:00+00') \g /dev/null
select awa.unschedule('d') \g /dev/null
select pg_temp.at('2026-06-05 07:30:00+00') \g /dev/null
select awa.schedule('d', pg_temp.q(), 'k', every => '1 hour') \g /dev/null
select is(pg_temp.next('d'), '05 08:30:00', 'one that was dropped and made anew begins anew');
select is(pg_temp.fire(), '', 'and fires nothing of before');

-- A pause lasts
select awa.pause_schedule('d', 'because') \g /dev/null
select awa.schedule('d', pg_temp.q(), 'k', '0 12 * * *') \g /dev/null
select is((select row(l.paused_at, l.pause_reason, l.next_at)::text from pg_temp.listed('d') l),
  '("2026-06-05 07:30:00+00",because,)', 'a change ends no pause');

-- null means the default
select awa.schedule('n', pg_temp.q(), 'k', '@daily', null, null, null, null, null, null, null, null, null, null, null,
  null, null) \g /dev/null
select is((select row(l.args, l.timezone, l.missed, l.missed_for, l.overlap)::text from pg_temp.listed('n') l),
  '({},UTC,latest,"1 day",allow)', 'an explicit null means the default');
select is(pg_temp.outcome($$select awa.schedule('n', pg_temp.q(), 'k', E'\t30  9 * * MON-FRI\n')$$), 'ok',
  'tabs and newlines are fine');

-- Refusals
select pg_temp.refused(format('select awa.schedule(name => %s, queue => %s, kind => %s, %s)', c.name, c.queue, c.kind,
  c.rest), '22023', c.names, c.description)
  from (values
    (1, 'null', '''q''', '''k''', 'cron => ''@daily''', 'name', 'no name'),
    (2, '''''', '''q''', '''k''', 'cron => ''@daily''', 'name', 'an empty name'),
    (3, 'repeat(''x'', 201)', '''q''', '''k''', 'cron => ''@daily''', 'name', 'a long name'),
    (4, '''s''', 'null', '''k''', 'cron => ''@daily''', 'queue', 'no queue'),
    (5, '''s''', '''q''', 'null', 'cron => ''@daily''', 'kind', 'no kind'),
    (6, '''s''', '''q''', '''k''', 'cron => null', 'cron or every', 'neither'),
    (7, '''s''', '''q''', '''k''', 'cron => ''@daily'', every => ''1 day''', 'cron or every', 'both'),
    (8, '''s''', '''q''', '''k''', 'cron => ''0 0 30 2 *''', 'cron', 'a date that never comes'),
    (8, '''s''', '''q''', '''k''', 'cron => ''*/10 2 * 3 7L'', timezone => ''Europe/Berlin''', 'cron',
      'a time that the clock of its zone skips each year'),
    (9, '''s''', '''q''', '''k''', 'cron => ''@reboot''', 'cron', 'another form'),
    (10, '''s''', '''q''', '''k''', 'cron => ''0 99 * * *''', 'hour', 'an hour that is none'),
    (11, '''s''', '''q''', '''k''', 'every => ''0''', 'every', 'no interval'),
    (12, '''s''', '''q''', '''k''', 'every => ''-1 hour''', 'every', 'a negative one'),
    (13, '''s''', '''q''', '''k''', 'every => ''1 month -1 day''', 'every', 'mixed signs'),
    (14, '''s''', '''q''', '''k''', 'every => ''11 years''', 'every', 'too long'),
    (15, '''s''', '''q''', '''k''', 'every => ''999 milliseconds''', 'every', 'too short'),
    (16, '''s''', '''q''', '''k''', 'cron => ''@daily'', timezone => ''UTC+3''', 'timezone', 'an offset'),
    (17, '''s''', '''q''', '''k''', 'cron => ''@daily'', timezone => ''Berln2''', 'timezone', 'a typing error'),
    (18, '''s''', '''q''', '''k''', 'every => ''1 day'', timezone => ''Factory''', 'timezone', 'no zone'),
    (19, '''s''', '''q''', '''k''', 'cron => ''@daily'', missed => ''none''', 'missed must', 'another policy'),
    (20, '''s''', '''q''', '''k''', 'cron => ''@daily'', missed_for => ''0''', 'missed_for', 'no time'),
    (21, '''s''', '''q''', '''k''', 'cron => ''@daily'', missed_for => ''20 years''', 'missed_for', 'a long time'),
    (22, '''s''', '''q''', '''k''', 'cron => ''@daily'', overlap => ''queue''', 'overlap', 'another overlap'),
    (23, '''s''', '''q''', '''k''', 'cron => ''@daily'', starts_at => ''infinity''', 'starts_at', 'no start'),
    (24, '''s''', '''q''', '''k''', 'cron => ''@daily'', starts_at => ''-infinity''', 'starts_at', 'before all'),
    (25, '''s''', '''q''', '''k''', 'cron => ''@daily'', ends_at => ''infinity''', 'ends_at', 'no end'),
    (26, '''s''', '''q''', '''k''', 'cron => ''@daily'', starts_at => ''2030-01-02'', ends_at => ''2030-01-02''',
      'ends_at must be later', 'an end that is the start'),
    (27, '''s''', '''q''', '''k''', 'cron => ''@daily'', priority => 5', 'priority', 'a priority'),
    (28, '''s''', '''q''', '''k''', 'cron => ''@daily'', max_attempts => 0', 'max_attempts', 'attempts'),
    (29, '''s''', '''q''', '''k''', 'cron => ''@daily'', tags => ''{""}''', 'tags', 'tags'),
    (30, '''s''', '''q''', '''k''', 'cron => ''@daily'', metadata => ''[]''', 'metadata', 'metadata'),
    (31, '''s''', '''q''', '''k''', 'cron => ''@daily'', metadata => ''{"schedule": 1}''', 'metadata', 'its field'),
    (32, '''s''', '''q''', '''k''', 'cron => ''@daily'', args => pg_temp.nested(501)', 'args', 'args'),
    (34, '''s''', '''q''', '''k''', 'cron => ''@daily'', group_key => ''''', 'group_key', 'an empty group'),
    (33, '''s''', '''q''', '''k''', 'every => ''1 day'', starts_at => ''9999-12-31 12:00+00''', 'starts_at', 'too late')
  ) c(n, name, queue, kind, rest, names, description)
 order by c.n;
select is((select row(l.cron, l.missed)::text from pg_temp.listed('s') l), '("15 1 * * *",all)',
  'the schedule is as it was');
select awa.sync_schedules(pg_temp.q(), jsonb_build_array(jsonb_build_object('name', 'declared', 'queue', pg_temp.q(),
  'kind', 'k', 'cron', '@daily'))) \g /dev/null
select pg_temp.refused($$select awa.schedule('declared', 'q', 'k', '@hourly')$$, '22023', 'name belongs',
  'one that a program declares');

-- The session's settings
select awa.schedule('z', pg_temp.q(), 'k', every => '1 month', starts_at => '2026-01-30 23:30+00',
  timezone => 'Europe/Berlin') \g /dev/null
set local timezone = 'Pacific/Auckland';
set local datestyle = 'German';
set local intervalstyle = 'sql_standard';
select pg_temp.at('2026-06-20 00:00+00') \g /dev/null
select is((select l.next_at from pg_temp.listed('z') l), timestamptz '2026-06-29 22:30+00',
  'months are those of its zone, whatever the session''s is');
select awa.trigger_schedule('z') \g /dev/null
select is((select j.metadata #>> '{schedule,at}' from awa.jobs j where j.queue = pg_temp.q()
  order by j.id desc limit 1),
  '2026-06-20T00:00:00Z', 'and so is the time that a job is told');

-- Private ones
select is((awa._declares(s) ? 'cron')::text || (awa._declares(s) ? 'ran')::text, 'truefalse',
  '_declares is the declaration of a schedule') from awa.schedules s where s.name = 's';
select is(awa._tick_metadata(s.metadata, s.name, '2026-06-01 00:00:00.5+00'),
  '{"m": 1, "schedule": {"at": "2026-06-01T00:00:00.500000Z", "name": "s"}}', '_tick_metadata keeps fractions')
  from awa.schedules s where s.name = 's';
select pg_temp.refused('select awa._lock_schedule(''none'')', 'JQ007', 'no such schedule', 'one that is not there');

set local timezone = 'Asia/Tokyo';
select is(awa._as_rfc3339('2026-01-01 00:00:00+00'), '2026-01-01T00:00:00Z', 'a time in UTC');
select is(awa._as_rfc3339('2026-01-01 00:00:00.25+00'), '2026-01-01T00:00:00.250000Z', 'with its fraction');

select * from finish();
rollback;
