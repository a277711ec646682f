-- Without this, an operator who wants a million jobs changed would have to write a loop, and keep a session open.
\set name start_change
\ir ../prelude.psql

begin;
select plan(71);

-- Refusals
select pg_temp.refused(format('select awa.start_change(%s, %L, %L)', c.action, c.filter, c.options), '22023', c.names,
  c.description)
  from (values
    (1, 'null', '{"queue": "q"}', null, 'action', 'no action'),
    (2, '''purge''', '{"queue": "q"}', null, 'action', 'an unknown action'),
    (3, '''cancel''', null, null, 'filter', 'no filter'),
    (4, '''cancel''', '[]', null, 'filter', 'a filter that is no object'),
    (5, '''cancel''', '{}', null, 'filter', 'a filter without a condition'),
    (6, '''cancel''', '{"queue": null}', null, 'filter', 'a condition that is null'),
    (7, '''cancel''', '{"args": {}}', null, 'filter', 'args that all jobs contain'),
    (8, '''cancel''', '{"queues": "q"}', null, 'unknown key', 'an unknown condition'),
    (9, '''cancel''', '{"queue": 1}', null, 'filter: queue', 'a queue that is a number'),
    (10, '''cancel''', '{"before": "soon"}', null, 'filter: before', 'a time that is none'),
    (11, '''cancel''', '{"state": "asleep"}', null, 'filter: state', 'an unknown state'),
    (12, '''cancel''', '{"state": "failed"}', null, 'state', 'a state that cannot be cancelled'),
    (13, '''retry''', '{"state": "available"}', null, 'state', 'or retried'),
    (14, '''move''', '{"state": "running"}', '{"queue": "r"}', 'state', 'or moved'),
    (15, '''delete''', '{"state": "scheduled"}', null, 'state', 'or deleted'),
    (16, '''cancel''', '{"queue": "q"}', '[]', 'options', 'options that are no object'),
    (17, '''cancel''', '{"queue": "q"}', '{"queue": "r"}', 'unknown key', 'a cancel with a queue'),
    (18, '''cancel''', '{"queue": "q"}', '{"reason": 1}', 'options: reason', 'a reason that is a number'),
    (19, '''delete''', '{"queue": "q"}', '{"reason": "r"}', 'unknown key', 'a delete has no options'),
    (20, '''retry''', '{"queue": "q"}', '{"priority": 5}', 'options: priority', 'priority 5'),
    (21, '''retry''', '{"queue": "q"}', '{"priority": "1"}', 'options: priority', 'a priority that is a string'),
    (22, '''retry''', '{"queue": "q"}', '{"queue": ""}', 'options: queue', 'a queue without a name'),
    (23, '''retry''', '{"queue": "q"}', '{"run_at": "soon"}', 'options: run_at', 'a run_at that is none'),
    (24, '''retry''', '{"queue": "q"}', '{"run_at": "infinity"}', 'options: run_at', 'one that never comes'),
    (25, '''retry''', '{"queue": "q"}', '{"over": "-1 hour"}', 'options: over', 'a negative time to spread over'),
    (26, '''retry''', '{"queue": "q"}', '{"over": "11 years"}', 'options: over', 'one that is too long'),
    (27, '''move''', '{"queue": "q"}', null, 'options: queue', 'a move without a queue'),
    (28, '''move''', '{"queue": "q"}', '{"queue": null}', 'options: queue', 'or with none'),
    (29, '''set_priority''', '{"queue": "q"}', '{}', 'options: priority', 'a priority that is not there'),
    (30, '''cancel''', '{"tag": ""}', null, 'filter: tag', 'an empty tag')
  ) c(n, action, filter, options, names, description)
 order by c.n;

-- A time says when, whoever calls. What depends on the session's DateStyle or TimeZone, or on the day, is refused.
set local datestyle = 'SQL, DMY';
select pg_temp.refused(format(c.call, t.time), '22023', c.names, format('%s: %s', c.names, t.time))
  from (values ($$select awa.start_change('cancel', '{"before": "%s"}')$$, 'filter: before'),
    ($$select * from awa.scan_jobs('{"before": "%s"}')$$, 'filter: before'),
    ($$select awa.start_change('retry', '{"queue": "q"}', '{"run_at": "%s"}')$$, 'options: run_at')) c(call, names)
 cross join unnest('{2026-01-01,2026-01-01 12:00,03/04/2026 00:00+00,now,tomorrow,infinity,9999-12-31T23:59:59-09:00}'
   ::text[]) t(time)
 order by c.call, t.time;
select pg_temp.refused($$select awa.start_change('cancel', '{"before": "0000-01-01T00:00:00Z"}')$$, '22023',
  'filter: before', 'a time that would be noted with BC');
reset datestyle;
select pg_temp.refused(
  format('select awa.start_change(%L, %L)', 'cancel', jsonb_build_object('queue', repeat('q', 70000))), '22023',
  'filter', 'a filter of 70,000 bytes');
select is((select count(*) from awa.changes), 0::bigint, 'nothing of this was started');

-- What is recorded
set local timezone = 'Asia/Tokyo';
set local datestyle = 'SQL, DMY';
set local awa.actor = 'Ada';
select awa.start_change(action => 'retry',
  filter => '{"queue": "q", "kind": null, "args": {"a": null}, "before": "2026-01-01T00:00:00+09:00"}',
  options => '{"queue": "r", "priority": 1, "run_at": "2130-01-01T00:00:00+09:00", "over": 90}') as change_id \gset
set local awa.actor = '';
select awa.start_change('delete', '{"tag": "t"}', null) as other_id \gset
set local timezone = 'UTC';
reset datestyle;
select results_eq('select change_id, action, filter, options, started_by, actor, state, found, changed, skipped
    from awa.list_changes()',
  format($$values (%1$s::bigint, 'delete', '{"tag": "t"}'::jsonb, '{}'::jsonb, %3$L::text, null::text,
    'running', 0::bigint, 0::bigint, 0::bigint),
    (%2$s, 'retry', '{"queue": "q", "args": {"a": null}, "before": "2026-01-01T00:00:00+09:00"}',
      '{"queue": "r", "priority": 1, "run_at": "2130-01-01T00:00:00+09:00", "over": "00:01:30"}', %3$L, 'Ada',
      'running', 0, 0, 0)$$, :other_id, :change_id, session_user),
  'who, what, which, and how: without nulls, and with times of a zone; an actor that is empty is none');
select ok(c.started_at between now() and clock_timestamp() and c.ended_at is null, 'and when')
  from awa.list_changes() c
 where c.change_id = :change_id;

-- Changes that are made at once are recorded for a session that names its actor
select awa.enqueue(pg_temp.q(), 'k', run_at => '2130-01-01') as job_id \gset
select awa.set_priority(:job_id, 1) \g /dev/null
select is((select count(*) from awa.list_changes()), 2::bigint, 'a change of one job is not recorded');
set local awa.actor = 'Ada';
select awa.set_priority(:job_id, 3) \g /dev/null
select awa.move(:job_id, pg_temp.q(' b')) \g /dev/null
select awa.reschedule(:job_id, '2131-01-01 00:00+00', '2') \g /dev/null
select awa.cancel(:job_id, 'why') \g /dev/null
select awa.retry(:job_id, priority => 2, run_at => '2130-01-01 00:00+00') \g /dev/null
select awa.cancel_where(pg_temp.q(' b'), tag => 'none') \g /dev/null
select awa.cancel_where(pg_temp.q(' b')) \g /dev/null
select awa.retry_where(pg_temp.q(' b'), state => 'cancelled') \g /dev/null
select awa.purge_dlq(pg_temp.q(' b')) \g /dev/null
select awa.delete_where(pg_temp.q(' b')) \g /dev/null
select pg_temp.refused(format('select awa.move(%s, null)', :job_id), '22023', 'queue', 'a refusal is not recorded');
set local awa.actor = '';
select results_eq($$
  select replace(c.filter::text, pg_temp.q(), 'Q')::jsonb - 'job_id', c.action,
         replace(c.options::text, pg_temp.q(), 'Q')::jsonb, c.changed, c.filter ? 'job_id'
    from awa.list_changes() c
   where c.actor = 'Ada' and c.state = 'finished' and c.found = c.changed and c.skipped = 0
     and c.ended_at = c.started_at and c.started_by = session_user
   order by c.change_id$$,
  $$values ('{}'::jsonb, 'set_priority', '{"priority": 3}'::jsonb, 1::bigint, true),
    ('{}', 'move', '{"queue": "Q b"}', 1, true),
    ('{}', 'reschedule', '{"run_at": "2131-01-01T00:00:00+00:00", "other_args": true}', 1, true),
    ('{}', 'cancel', '{"reason": "why"}', 1, true),
    ('{}', 'retry', '{"run_at": "2130-01-01T00:00:00+00:00", "priority": 2}', 1, true),
    ('{"tag": "none", "queue": "Q b"}', 'cancel', '{}', 0, false),
    ('{"queue": "Q b"}', 'cancel', '{}', 1, false),
    ('{"queue": "Q b", "state": "cancelled"}', 'retry', '{}', 1, false),
    ('{"queue": "Q b", "state": "dead"}', 'delete', '{}', 0, false),
    ('{"queue": "Q b"}', 'delete', '{}', 0, false)$$,
  'with an actor each is, with the job or the filter, what it was changed to, and how many');

-- So are changes of queues, of groups and of settings
set local awa.actor = '';
select awa.pause_queue(pg_temp.q(' c')), awa.resume_queue(pg_temp.q(' c')), awa.configure('{}') \g /dev/null
select is((select count(*) from awa.list_changes()), 12::bigint, 'a change of a queue is not recorded');
set local awa.actor = 'Grace';
select awa.pause_queue(pg_temp.q(' c')) \g /dev/null
select awa.pause_queue(pg_temp.q(' c')) \g /dev/null
select awa.drain_queue(pg_temp.q(' c')) \g /dev/null
select awa.resume_queue(pg_temp.q(' c')) \g /dev/null
select awa.resume_queue(pg_temp.q(' c')) \g /dev/null
select awa.drain_queue(pg_temp.q(' c')), awa.drain_queue(pg_temp.q(' c')) \g /dev/null
select awa.configure_queue(pg_temp.q(' c'), '{"lease": 90, "deadline": null}') \g /dev/null
select awa.configure_group(pg_temp.q(' c'), 'g', '{"group_max_running": 2}') \g /dev/null
select awa.pause_group(pg_temp.q(' c'), 'g', 'why', '2130-01-01 00:00+00') \g /dev/null
select awa.resume_group(pg_temp.q(' c'), 'g') \g /dev/null
select awa.resume_group(pg_temp.q(' c'), 'g') \g /dev/null
select awa.configure('{"segment_age": null}') \g /dev/null
select awa.drop_queue(pg_temp.q(' c'), force => true) \g /dev/null
select pg_temp.refused(format('select awa.configure_queue(%L, %L)', pg_temp.q(' c'), '{"leese": 1}'), '22023',
  'unknown key', 'a refusal is not recorded');
set local awa.actor = '';
select results_eq($$
  select c.action, replace(c.filter::text, pg_temp.q(), 'Q')::jsonb, c.options
    from awa.list_changes() c
   where c.actor = 'Grace' and c.state = 'finished' and c.found = 0 and c.changed = 0 and c.ended_at = c.started_at
     and c.started_by = session_user
   order by c.change_id$$,
  $$values ('pause_queue', '{"queue": "Q c"}'::jsonb, '{}'::jsonb), ('pause_queue', '{"queue": "Q c"}', '{}'),
    ('resume_queue', '{"queue": "Q c"}', '{}'), ('drain_queue', '{"queue": "Q c"}', '{}'),
    ('configure_queue', '{"queue": "Q c"}', '{"settings": {"lease": "00:01:30", "deadline": null}}'),
    ('configure_group', '{"queue": "Q c", "group_key": "g"}', '{"settings": {"group_max_running": 2}}'),
    ('pause_group', '{"queue": "Q c", "group_key": "g"}', '{"reason": "why", "until": "2130-01-01T00:00:00+00:00"}'),
    ('resume_group', '{"queue": "Q c", "group_key": "g"}', '{}'),
    ('configure', '{}', '{"settings": {"segment_age": null}}'),
    ('drop_queue', '{"queue": "Q c"}', '{"force": true}')$$,
  'with an actor each is, where it changes something: of what, and how');
select is((select count(*) from awa.list_changes() c where c.actor = 'Grace'), 10::bigint, 'and nothing else');

-- So are changes of schedules
select awa.schedule(pg_temp.q(), pg_temp.q(), 'k', '0 3 * * *') \g /dev/null
set local awa.actor = 'Edith';
select awa.schedule(pg_temp.q(), pg_temp.q(), 'k', '0 4 * * *', timezone => 'Europe/Paris') \g /dev/null
select awa.pause_schedule(pg_temp.q(), 'why') \g /dev/null
select awa.trigger_schedule(pg_temp.q()) as job_id \gset
select awa.resume_schedule(pg_temp.q()) \g /dev/null
select count(*) as jobs from awa.backfill_schedule(pg_temp.q(), '2020-01-01', '2020-01-03', repeat => true) \gset
select awa.unschedule(pg_temp.q()) \g /dev/null
select pg_temp.refused(format('select awa.pause_schedule(%L)', pg_temp.q()), 'JQ007', '', 'a refusal is not recorded');
set local awa.actor = '';
select results_eq(format($$
  select c.action, c.options, c.changed
    from awa.list_changes() c
   where c.actor = 'Edith' and c.filter = jsonb_build_object('schedule', %L) and c.state = 'finished'
     and c.found = c.changed and c.started_by = session_user
   order by c.change_id$$, pg_temp.q()),
  format($$values ('schedule', '{"queue": %1$s, "kind": "k", "cron": "0 4 * * *", "timezone": "Europe/Paris"}'::jsonb,
      0::bigint),
    ('pause_schedule', '{"reason": "why"}', 0), ('trigger_schedule', '{"job_id": %2$s}', 1),
    ('resume_schedule', '{}', 0),
    ('backfill_schedule', '{"from": "2020-01-01T00:00:00+00:00", "to": "2020-01-03T00:00:00+00:00", "repeat": true}',
      %3$s),
    ('unschedule', '{}', 0)$$, to_json(pg_temp.q()), :job_id, :jobs),
  'with an actor each is: of which schedule, and how');
savepoint s;
set local awa.actor = 'Ada';
select awa.enqueue(pg_temp.q(' long'), 'k') as long_id \gset
select awa.cancel(:long_id, repeat('r', 100000)) \g /dev/null
select is((select length(c.options ->> 'reason') from awa.list_changes() c limit 1), 20000,
  'of a long reason the beginning is noted');
select awa.enqueue(pg_temp.q(' long'), 'k') as long_id \gset
select awa.discard_job(:long_id, repeat('r', 100000)) \g /dev/null
select is((select length(c.options ->> 'reason') from awa.list_changes() c limit 1), 20000, 'of a discard, too');
select pg_temp.refused(format('select awa.delete_where(%s => %s)', c.names, c.value), '22023', c.names,
    'a long ' || c.names)
  from (values ('queue', $$repeat('x', 70000)$$), ('kind', $$repeat('x', 70000)$$),
    ('args', $$to_jsonb(repeat('x', 70000))$$)) c(names, value)
 order by c.names;
select awa.cancel_where(pg_temp.q(' b')) \g /dev/null
rollback to s;
select is((select count(*) from awa.list_changes()), 28::bigint, 'a change that rolls back never was');

select * from finish();
rollback;
