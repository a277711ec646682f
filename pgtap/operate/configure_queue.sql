-- Without this, a misspelt setting would be taken silently, or a bad one stop every claim or retry of its queue.
\set name configure_queue
\ir ../prelude.psql

select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[10])) \g /dev/null

-- The settings of this run's queue, as one text
create function pg_temp.set_now() returns text
language sql
begin atomic
  select concat_ws(' ', coalesce(s.default_priority::text, '-'), coalesce(s.default_max_attempts::text, '-'),
           coalesce(extract(epoch from s.lease)::float8::text, '-'),
           coalesce(extract(epoch from s.backoff_base)::float8::text, '-'),
           coalesce(extract(epoch from s.backoff_max)::float8::text, '-'))
    from awa.queue_settings s where s.queue_id = awa._queue_id(pg_temp.q());
end;

begin;
select plan(128);

-- The others
create function pg_temp.others_now() returns text
language sql
begin atomic
  select concat_ws(' ', coalesce(s.deadline::text, '-'), coalesce(s.dead_letter::text, '-'),
    coalesce(s.aging_interval::text, '-'), coalesce(s.failed_retention::text, '-'),
    coalesce(s.dlq_retention::text, '-'), coalesce(s.completed_retention::text, '-'))
    from awa.queue_settings s where s.queue_id = awa._queue_id(pg_temp.q());
end;

create function pg_temp.shards_after(settings jsonb) returns int
language plpgsql
as $$
begin
  perform awa.configure_queue(pg_temp.q(), settings);
  return (select s.shards from awa.queue_settings s where s.queue_id = awa._queue_id(pg_temp.q()));
end
$$;

-- Settings
create temp table told as
select awa.configure_queue(queue => pg_temp.q(),
  settings =>
    '{"default_priority": 3, "default_max_attempts": 7, "lease": "90 seconds", "backoff_base": 5, "backoff_max": "2 '
    'hours"}')::text as answer;
select is((select answer from told), '', 'configure_queue returns nothing');
select is(pg_temp.set_now(), '3 7 90 5 7200', 'every key is set');
select awa.configure_queue(pg_temp.q(), '{"lease": 30}') \g /dev/null
select is(pg_temp.set_now(), '3 7 30 5 7200', 'those that are not named stay');
select awa.configure_queue(pg_temp.q(), '{}') \g /dev/null
select is(pg_temp.set_now(), '3 7 30 5 7200', 'an empty object changes nothing');
select awa.configure_queue(pg_temp.q(), '{"default_priority": null, "lease": null, "backoff_max": 0.5}') \g /dev/null
select is(pg_temp.set_now(), '- 7 - 5 0.5', 'null brings a default back');
select awa.configure_queue(pg_temp.q(),
  '{"default_max_attempts": null, "backoff_base": null, "backoff_max": null}') \g /dev/null
select is(pg_temp.set_now(), '- - - - -', 'of every key');
select is(
  (
    select row(s.changed_by, s.changed_at between now() and clock_timestamp(), s.paused_at)::text
      from awa.queue_settings s
     where s.queue_id = awa._queue_id(pg_temp.q())
  ),
  format('(%s,t,)', session_user), 'it keeps who changed it and when');
select is((select count(*) from awa.queue_settings s where s.queue_id = awa._queue_id(pg_temp.q())), 1::bigint,
  'in one row');

-- Shards
select is(pg_temp.shards_after('{"shards": 64}'), 64, 'a number of shards, 64 at most');
select is(pg_temp.shards_after('{"lease": 30}'), 64, 'which stays where it is not named');
select is(pg_temp.shards_after('{"shards": 1}'), 1, 'or 1 at least');
select is(pg_temp.shards_after('{"shards": null, "lease": null}'), null, 'null brings the default back');
select awa.enqueue(pg_temp.q(), 'k', group_key => 'g', run_at => '2130-01-01') as grouped_id \gset
select is(pg_temp.outcome(format('select awa.configure_queue(pg_temp.q(), %L)', '{"shards": 2}')), '55000',
  'another number is refused while a job with a group waits');
select is(pg_temp.shards_after('{"shards": 1}'), 1, 'the same number is not');
select awa.cancel(:grouped_id) \g /dev/null
select is(pg_temp.shards_after('{"shards": 2}'), 2, 'once it has ended, it may change');
select awa.configure_queue(pg_temp.q(), '{"shards": null}') \g /dev/null

select awa.configure_queue(pg_temp.q(),
  '{"deadline": "5 minutes", "dead_letter": true, "aging_interval": 30, "failed_retention": "90 days", '
  '"dlq_retention": "100 years", "completed_retention": "23 hours"}') \g /dev/null
select is(pg_temp.others_now(), '00:05:00 true 00:00:30 90 days 100 years 23:00:00',
  'deadline, dead_letter, aging_interval and the retentions');
select awa.configure_queue(pg_temp.q(), '{"dead_letter": false, "lease": 30}') \g /dev/null
select is(pg_temp.others_now(), '00:05:00 false 00:00:30 90 days 100 years 23:00:00',
  'those that are not named stay, here too');
select awa.configure_queue(pg_temp.q(),
  '{"deadline": null, "dead_letter": null, "aging_interval": null, "failed_retention": null, '
  '"dlq_retention": null, "completed_retention": null, "lease": null}') \g /dev/null
select is(pg_temp.others_now(), '- - - - - -', 'null brings their defaults back');

-- Bounds
select is(pg_temp.outcome(format('select awa.configure_queue(pg_temp.q(), %L)', c.settings)), 'ok', c.settings)
  from (values (1, '{"default_priority": 1}'), (2, '{"default_priority": 4}'), (3, '{"default_max_attempts": 1}'),
    (4, '{"default_max_attempts": 1000}'), (5, '{"lease": "1 millisecond"}'),
    (6, '{"lease": "PT5M"}'), (7, '{"backoff_base": 0.001}'), (8, '{"backoff_max": "1 year"}'), (9, '{"lease": 1e3}'),
    (10, '{"deadline": 0.001}'), (11, '{"deadline": "1 year"}'), (12, '{"aging_interval": "1 millisecond"}'),
    (13, '{"failed_retention": 0.001}'), (14, '{"dlq_retention": "100 years"}'),
    (16, '{"completed_retention": "24 hours"}'), (17, '{"completed_retention": 0.001}'),
    (15,
      '{"deadline": null, "dead_letter": null, "aging_interval": null, "failed_retention": null, '
      '"dlq_retention": null}')) c(n, settings)
 order by c.n;

-- Effects
select awa.configure_queue(pg_temp.q(),
  '{"default_priority": 4, "default_max_attempts": 2, "lease": "13 seconds", "backoff_base": 100, '
  '"backoff_max": 150}') \g /dev/null
select is((select row(j.priority, j.max_attempts)::text from pg_temp.made($$awa.enqueue(pg_temp.q(), 'k')$$) j),
  '(4,2)', 'the next job has the defaults');
create temp table c as select * from awa.claim(pg_temp.q());
select is((select l.lease_until - l.claimed_at from c join awa.lease_claims l on l.claim_id = c.receipt >> 12),
  interval '13 seconds', 'the next claim has the lease');
select is((select awa.fail(job_id, receipt, 'e') from c), 'retryable', 'the next failure');
select is((
  select extract(epoch from j.run_at - (j.errors -> 0 ->> 'at')::timestamptz)::int from c, awa.job(c.job_id) j
),
  150, 'has the backoff, up to its ceiling');
select is((select row(j.priority, j.max_attempts)::text from c, awa.job(c.job_id) j), '(2,25)',
  'a job of before keeps what it had');
savepoint others;
select awa.configure_queue(pg_temp.q(), '{"deadline": "2 hours", "dead_letter": true}') \g /dev/null
create temp table d as select * from awa.claim(pg_temp.q());
select is((
  select row(d.deadline_at - l.claimed_at, l.deadline_at = d.deadline_at, j.deadline_at = d.deadline_at)::text
    from d
    join awa.lease_claims l on l.claim_id = d.receipt >> 12
   cross join awa.job(d.job_id) j
),
  '(02:00:00,t,t)', 'the next claim has the deadline');
select is((select awa.discard(job_id, receipt, 'e') from d), 'dead', 'and what fails for good is dead');
select awa.configure_queue(pg_temp.q(), '{"deadline": null, "dead_letter": false}') \g /dev/null
create temp table e as select * from awa.claim(pg_temp.q());
select is((select deadline_at from e), null, 'or has none');
select is((select awa.discard(job_id, receipt, 'e') from e), 'failed', 'or is failed');
rollback to others;
create temp table before as select pg_temp.set_now() as settings;

-- Refusals
select pg_temp.refused(format('select awa.configure_queue(pg_temp.q(), %L)', c.settings), '22023', c.names,
  coalesce(c.settings, 'no settings'))
  from (values
    (1, null, 'settings'), (2, 'null', 'settings'), (3, '[]', 'settings'), (4, '"lease"', 'settings'),
    (5, '[{"lease": 1}]', 'settings'),
    (6, '{"leese": 1}', 'settings'), (7, '{"lease": 1, "Lease": 1}', 'settings'),
    (8, '{"paused_at": null}', 'settings'), (9, '{"": 1}', 'settings'), (10, '{"queue_id": 1}', 'settings'),
    (11, '{"default_priority": 0}', 'default_priority'), (12, '{"default_priority": 5}', 'default_priority'),
    (201, '{"shards": 0}', 'shards'), (202, '{"shards": 65}', 'shards'), (203, '{"shards": 1.5}', 'shards'),
    (204, '{"shards": "4"}', 'shards'),
    (13, '{"default_priority": "2"}', 'default_priority'),
    (14, '{"default_priority": 1.5}', 'default_priority'), (15, '{"default_priority": [1]}', 'default_priority'),
    (16, '{"default_max_attempts": 0}', 'default_max_attempts'),
    (17, '{"default_max_attempts": 1001}', 'default_max_attempts'),
    (18, '{"default_max_attempts": -1}', 'default_max_attempts'),
    (19, '{"default_max_attempts": "5"}', 'default_max_attempts'),
    (20, '{"default_max_attempts": 1.5}', 'default_max_attempts'),
    (21, '{"default_max_attempts": 99999999999999999999}', 'default_max_attempts'),
    (22, '{"lease": 0}', 'lease'), (23, '{"lease": -1}', 'lease'), (24, '{"lease": "-1 minute"}', 'lease'),
    (25, '{"lease": "soon"}', 'lease'), (26, '{"lease": ""}', 'lease'), (27, '{"lease": true}', 'lease'),
    (28, '{"lease": {"minutes": 1}}', 'lease'), (29, '{"lease": 1e300}', 'lease'),
    (30, '{"lease": "1000 years"}', 'lease'), (31, '{"lease": 1e999}', 'lease'),
    (32, '{"backoff_base": 0}', 'backoff_base'), (33, '{"backoff_base": "x"}', 'backoff_base'),
    (34, '{"backoff_max": "0 seconds"}', 'backoff_max'), (35, '{"backoff_max": []}', 'backoff_max'),
    (36, '{"lease": "5 minutes", "backoff_max": -1}', 'backoff_max'),
    (37, '{"deadline": 0}', 'deadline'), (38, '{"deadline": "1 year 1 day"}', 'deadline'),
    (39, '{"deadline": "soon"}', 'deadline'), (40, '{"dead_letter": "true"}', 'dead_letter'),
    (41, '{"dead_letter": 1}', 'dead_letter'),
    (42, '{"aging_interval": 0}', 'aging_interval'), (43, '{"aging_interval": "2 years"}', 'aging_interval'),
    (44, '{"failed_retention": -1}', 'failed_retention'), (45, '{"failed_retention": "101 years"}', 'failed_retention'),
    (46, '{"dlq_retention": {}}', 'dlq_retention'), (47, '{"dlq_retention": "0"}', 'dlq_retention'),
    (48, '{"dead_letters": true}', 'settings'),
    (49, '{"lease": "infinity"}', 'lease'), (50, '{"deadline": "-infinity"}', 'deadline'),
    (51, '{"failed_retention": "infinity"}', 'failed_retention'), (52, '{"backoff_base": "NaN"}', 'backoff_base'),
    (53, '{"aging_interval": "100 years"}', 'aging_interval'),
    (54, '{"backoff_max": "1 year -364 days"}', 'backoff_max'), (55, '{"lease": 1e131071}', 'lease'),
    (56, '{"default_max_attempts": 1e131071}', 'default_max_attempts'),
    (57, '{"completed_retention": "25 hours"}', 'completed_retention'),
    (58, '{"completed_retention": 86401}', 'completed_retention'),
    (59, '{"completed_retention": 0}', 'completed_retention'),
    (60, '{"completed_retention": "-1 hour"}', 'completed_retention'),
    (61, '{"completed_retention": "soon"}', 'completed_retention'),
    (62, '{"completed_retention": true}', 'completed_retention'),
    (63, '{"group_turns": "true"}', 'group_turns'), (64, '{"group_turns": 1}', 'group_turns'),
    (65, '{"group_turns": []}', 'group_turns')
  ) c(n, settings, names)
 order by c.n;
select ok(pg_temp.outcome($$select awa.configure_queue(pg_temp.q(), '{"default_priority": 2.0}')$$) in ('ok', '22023'),
  'default_priority 2.0 is accepted, or refused properly');
select is(replace(pg_temp.set_now(), '2 2 ', '4 2 '), (select settings from before), 'a refused call changes nothing');

-- Which queue
select pg_temp.refused(format('select awa.configure_queue(%s, %L)', c.queue, '{"lease": 1}'), c.state, c.names,
  c.description)
  from (values
    (1, 'null', '22023', 'queue', 'no queue'), (2, $$''$$, '22023', 'queue', 'an empty queue'),
    (3, $$repeat('ü', 201)$$, '22023', 'queue', 'a queue of 201 characters')
  ) c(n, queue, state, names, description)
 order by c.n;
select pg_temp.refused(format('select awa.configure_queue(pg_temp.q(%L), %L)', ' new', c.settings), '22023', c.names,
  'a queue that is not there, with ' || c.settings)
  from (values ('{"leese": 1}', 'settings'), ('{"lease": -1}', 'lease')) c(settings, names);
select is((select count(*) from awa.queues where name = pg_temp.q(' new')), 0::bigint,
  'and then it does not come into being');
select is(pg_temp.outcome(
  $$select awa.configure_queue(pg_temp.q(' new'), '{"lease": "13 seconds", "default_priority": 3}')$$
),
  'ok', 'a queue that no job was enqueued to is made');
select is((
  select row(q.queue, q.available, q.running, q.completed, q.oldest_ready_at)::text
    from awa.queue_counts(pg_temp.q(' new')) q
),
  format('("%s",0,0,0,)', pg_temp.q(' new')), 'it is there, and empty');
select is((select count(*) from awa.claim(pg_temp.q(' new'))), 0::bigint, 'nothing is claimed from it');
select awa.configure_queue(pg_temp.q(' new'), '{"deadline": "1 hour"}') \g /dev/null
select is((select count(*) from awa.queues where name = pg_temp.q(' new')), 1::bigint,
  'once, however often it is configured');
select is((select j.priority from pg_temp.made($$awa.enqueue(pg_temp.q(' new'), 'k')$$) j), 3,
  'its first job has its defaults');
select awa.drop_queue(pg_temp.q(' new'), true) \g /dev/null
select awa.configure_queue(pg_temp.q(' new'), '{}') \g /dev/null
select is((
  select row(s.lease, s.deadline, s.default_priority)::text
    from awa.queue_settings s
   where s.queue_id = awa._queue_id(pg_temp.q(' new'))
),
  '(,,)', 'a queue that was dropped is made anew');
select is((select count(*) from awa.queue_counts(pg_temp.q(' new'))), 1::bigint, 'and is there');

select * from finish();
rollback;
