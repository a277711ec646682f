-- Without this, a job could be lost, get other values than its caller named, or be accepted with values that a later
-- step chokes on.
\set name enqueue
\ir ../prelude.psql

begin;
select plan(90);

-- Defaults
create temp table made as select awa.enqueue(queue => pg_temp.q(), kind => 'plain') as id;
select isnt((select id from made), null, 'enqueue returns the id of the job');
select is(
  (select to_jsonb(j) - '{id,run_at,created_at}'::text[] from made m, awa.job(m.id) j),
  jsonb_build_object('kind', 'plain', 'queue', pg_temp.q(), 'args', '{}'::jsonb, 'state', 'available', 'priority', 2,
    'attempt', 0, 'max_attempts', 25,
    'heartbeat_at', null, 'deadline_at', null, 'attempted_at', null, 'finalized_at', null, 'errors', '[]'::jsonb,
    'metadata', null,
    'group_key', null, 'expires_at', null,
    'tags', null, 'unique_key', null, 'receipt', null, 'progress', null, 'output', null, 'worker_id', null),
  'a job that names nothing has the defaults');
select ok(
  (select j.run_at = j.created_at and j.created_at between now() and clock_timestamp() from made m, awa.job(m.id) j),
  'it was created, and may run, now');
select is(
  (select to_jsonb(j) - '{id,run_at,created_at}'::text[]
     from pg_temp.made($$awa.enqueue(pg_temp.q(), 'plain', null, null, null, null, null, null, null)$$) j),
  (select to_jsonb(j) - '{id,run_at,created_at}'::text[] from made m, awa.job(m.id) j),
  'an explicit null means the default, for every optional argument');
select is((select count(*) from awa.queues where name = pg_temp.q()), 1::bigint,
  'the queue exists from its first enqueue, once');

-- Everything named
create temp table full_job as
select awa.enqueue(queue => pg_temp.q(), kind => 'full', args => '{"a": [1, null]}', priority => 4,
  run_at => '2000-01-01',
  max_attempts => 7, tags => '{x,y}', metadata => '{"m": 1}',
  group_key => 'g', expires_at => '2130-01-01 UTC') as id;
select is(
  (
    select row(j.kind, j.args, j.priority, j.max_attempts, j.tags, j.metadata, j.group_key, j.expires_at, j.state)::text
      from full_job m, awa.job(m.id) j
  ),
  row('full'::text, '{"a": [1, null]}'::jsonb, 4, 7, '{x,y}'::text[], '{"m": 1}'::jsonb, 'g'::text,
    '2130-01-01 UTC'::timestamptz, 'available'::text)::text,
  'a job has what its caller named');
select ok((select j.run_at between now() and clock_timestamp() from full_job m, awa.job(m.id) j),
  'a run_at in the past means now');
select is(
  (select j.state from pg_temp.made($$awa.enqueue(pg_temp.q(), 'k', run_at => '-infinity')$$) j), 'available',
  'so does one before all time');
select cmp_ok((select id from full_job), '>', (select id from made), 'ids ascend');
select is(
  (select array_agg((select j.args from pg_temp.made(format('awa.enqueue(pg_temp.q(), %L, %L)', 'k', u.args)) j))
     from unnest(array['[1]', '"text"', '7', 'true']::jsonb[]) u(args)),
  array['[1]', '"text"', '7', 'true']::jsonb[], 'args may be any JSON');

-- Deferred
create temp table later as
select awa.enqueue(pg_temp.q(), 'later', '{"l": 1}', 3, '2130-05-01 12:00+00', 9, '{t}', '{"m": 2}', 'g') as id;
select is(
  (
    select row(j.state, j.run_at, j.priority, j.attempt, j.max_attempts, j.args, j.tags, j.metadata, j.group_key,
             j.errors)::text
      from later m, awa.job(m.id) j
  ),
  row('scheduled'::text, '2130-05-01 12:00+00'::timestamptz, 3, 0, 9, '{"l": 1}'::jsonb, '{t}'::text[],
    '{"m": 2}'::jsonb, 'g'::text, '[]'::jsonb)::text,
  'a job with a run_at to come is scheduled, as its caller named it');
select ok((select j.created_at between now() and clock_timestamp() from later m, awa.job(m.id) j),
  'it was created now');
select is((select count(*) from awa.ready_entries e, later m where e.job_id = m.id), 0::bigint, 'and is not ready');
select awa.enqueue(pg_temp.q(' only later'), 'k', run_at => '2130-01-01') \g /dev/null
select is((select count(*) from awa.queues where name = pg_temp.q(' only later')), 1::bigint,
  'a scheduled job brings its queue into being too');

-- Defaults of the queue
select awa.configure_queue(pg_temp.q(), '{"default_priority": 3, "default_max_attempts": 4}') \g /dev/null
select is(
  (select row(j.priority, j.max_attempts)::text from pg_temp.made($$awa.enqueue(pg_temp.q(), 'k')$$) j), '(3,4)',
  'a job that names nothing has the defaults of its queue');
select is(
  (
    select row(j.priority, j.max_attempts)::text
      from pg_temp.made($$awa.enqueue(pg_temp.q(), 'k', priority => null, max_attempts => null)$$) j
  ),
  '(3,4)',
  'and so has one that names null');
select is(
  (
    select row(j.priority, j.max_attempts)::text
      from pg_temp.made($$awa.enqueue(pg_temp.q(), 'k', priority => 1, max_attempts => 25)$$) j
  ),
  '(1,25)',
  'what a job names comes before the queue''s default');

-- It lives and dies with the caller's transaction
savepoint before;
create temp table gone as
select awa.enqueue(pg_temp.q(' gone'), 'k') as id,
       awa.enqueue(pg_temp.q(' gone'), 'k', run_at => '2130-01-01') as later;
select id, later from gone \gset
rollback to before;
select is((select count(*) from awa.jobs_compat() j where j.id in (:id, :later)), 0::bigint,
  'what is rolled back never was');
select is((select count(*) from awa.queues where name = pg_temp.q(' gone')), 0::bigint, 'nor was its queue');

-- Limits that are allowed
select is(pg_temp.outcome(format('select awa.enqueue(%s)', c.args)), 'ok', c.description)
  from (values
    (1, $$'q', 'k'$$, 'a queue and a kind of one character'),
    (2, $$repeat('q', 200), repeat('k', 200)$$, 'a queue and a kind of 200 characters'),
    (3, $$repeat('ü', 200), repeat('語', 200)$$, 'a queue and a kind of 200 characters of more than a byte'),
    (4, $$repeat('😀', 200), repeat('😀', 200)$$, 'and of four bytes'),
    (5, $$'it''s "odd"; drop -- \ %s $1', ' '$$, 'a queue with characters that mean something elsewhere'),
    (6, $$pg_temp.q(), 'k', priority => 1$$, 'priority 1'),
    (7, $$pg_temp.q(), 'k', priority => 4$$, 'priority 4'),
    (8, $$pg_temp.q(), 'k', max_attempts => 1$$, '1 attempt'),
    (9, $$pg_temp.q(), 'k', max_attempts => 1000$$, '1000 attempts'),
    (10, $$pg_temp.q(), 'k', tags => array(select 't' || n from generate_series(1, 20) n)$$, '20 tags'),
    (11, $$pg_temp.q(), 'k', tags => '{}'$$, 'no tags'),
    (12, $$pg_temp.q(), 'k', tags => '[5:6]={a,b}'$$, 'tags that are numbered from 5'),
    (13, $$pg_temp.q(), 'k', tags => array['t', repeat('語', 200)]$$, 'tags of 1 and of 200 characters'),
    (14, $$pg_temp.q(), 'k', pg_temp.nested(500), metadata => pg_temp.nested(500)$$, 'arrays nested 500 deep'),
    (15, $$pg_temp.q(), 'k', pg_temp.nested(500, '{"some key": ', '}')$$, 'objects nested 500 deep'),
    (16, $$pg_temp.q(), 'k', run_at => '9999-12-31 09:59:59.999999+00'$$,
      'a run_at that is before the year 10000 in every zone'),
    (20, $$pg_temp.q(), 'k', expires_at => '9999-12-31 09:59:59.999999+00'$$, 'the last expires_at'),
    (21, $$pg_temp.q(), 'k', run_at => '2130-01-01', expires_at => '2130-01-01 00:00:00.000001'$$,
      'an expires_at that is later than run_at'),
    (22, $$pg_temp.q(), 'k', run_at => '2000-01-01', expires_at => '2130-01-01'$$, 'or than now'),
    (18, $$pg_temp.q(), 'k', group_key => repeat('語', 200)$$, 'a group of 200 characters'),
    (19, $$pg_temp.q(), 'k', group_key => ' '$$, 'a group of one character'),
    (17, $$pg_temp.q(), 'k', run_at => '4713-01-01 00:00:00+00 BC'$$, 'one before Christ, which is past')
  ) c(n, args, description)
 order by c.n;

-- Refusals
select pg_temp.refused(format('select awa.enqueue(%s)', c.args), '22023', c.names, c.description)
  from (values
    (1, $$null, 'k'$$, 'queue', 'no queue'),
    (2, $$'', 'k'$$, 'queue', 'an empty queue'),
    (3, $$repeat('q', 201), 'k'$$, 'queue', 'a queue of 201 characters'),
    (4, $$repeat('ü', 201), 'k'$$, 'queue', 'a queue of 201 characters of more than a byte'),
    (5, $$pg_temp.q(' refused'), null$$, 'kind', 'no kind'),
    (6, $$pg_temp.q(' refused'), ''$$, 'kind', 'an empty kind'),
    (7, $$pg_temp.q(' refused'), repeat('k', 201)$$, 'kind', 'a kind of 201 characters'),
    (8, $$pg_temp.q(' refused'), repeat('語', 201)$$, 'kind', 'a kind of 201 characters of more than a byte'),
    (9, $$pg_temp.q(' refused'), 'k', priority => 0$$, 'priority', 'priority 0, the front lane'),
    (10, $$pg_temp.q(' refused'), 'k', priority => 5$$, 'priority', 'priority 5'),
    (11, $$pg_temp.q(' refused'), 'k', priority => -1$$, 'priority', 'priority -1'),
    (12, $$pg_temp.q(' refused'), 'k', priority => 2147483647$$, 'priority', 'a huge priority'),
    (13, $$pg_temp.q(' refused'), 'k', priority => 8$$, 'priority',
      'priority 8, which would be a lane of another queue'),
    (14, $$pg_temp.q(' refused'), 'k', max_attempts => 0$$, 'max_attempts', 'no attempts'),
    (15, $$pg_temp.q(' refused'), 'k', max_attempts => -1$$, 'max_attempts', '-1 attempts'),
    (16, $$pg_temp.q(' refused'), 'k', max_attempts => 1001$$, 'max_attempts', '1001 attempts'),
    (17, $$pg_temp.q(' refused'), 'k', max_attempts => 2147483647$$, 'max_attempts', 'very many attempts'),
    (18, $$pg_temp.q(' refused'), 'k', tags => array(select 't' || n from generate_series(1, 21) n)$$, 'tags',
      '21 tags'),
    (19, $$pg_temp.q(' refused'), 'k', tags => array['a', null]$$, 'tags', 'a tag that is null'),
    (20, $$pg_temp.q(' refused'), 'k', tags => '{{a,b},{c,d}}'$$, 'tags', 'tags in two dimensions'),
    (21, $$pg_temp.q(' refused'), 'k', run_at => 'infinity'$$, 'run_at', 'a run_at that never comes'),
    (22, $$pg_temp.q(' refused'), 'k', priority => 0, run_at => '2130-01-01'$$, 'priority',
      'priority 0 for a scheduled job'),
    (23, $$pg_temp.q(' refused'), 'k', max_attempts => 0, run_at => '2130-01-01'$$, 'max_attempts',
      'no attempts for a scheduled job'),
    (25, $$pg_temp.q(' refused'), 'k', run_at => '9999-12-31 10:00:00+00'$$, 'run_at',
      'a run_at that many clients cannot read'),
    (26, $$pg_temp.q(' refused'), 'k', tags => array['a', '']$$, 'tags', 'an empty tag'),
    (27, $$pg_temp.q(' refused'), 'k', tags => array[repeat('語', 201)]$$, 'tags', 'a tag of 201 characters'),
    (28, $$pg_temp.q(' refused'), 'k', pg_temp.nested(501)$$, 'args', 'arrays nested 501 deep'),
    (29, $$pg_temp.q(' refused'), 'k', pg_temp.nested(501, '{"some key": ', '}')$$, 'args', 'objects nested 501 deep'),
    (30, $$pg_temp.q(' refused'), 'k', jsonb_build_object('a', 1, 'b', jsonb_build_array(1, pg_temp.nested(499), 2))$$,
      'args', 'deep in the middle'),
    (31, $$pg_temp.q(' refused'), 'k', pg_temp.nested(1500), run_at => '2130-01-01'$$, 'args',
      'args of a scheduled job nested 1500 deep'),
    (32, $$pg_temp.q(' refused'), 'k', metadata => pg_temp.nested(501)$$, 'metadata', 'metadata nested 501 deep'),
    (33, $$pg_temp.q(' refused'), 'k', group_key => ''$$, 'group_key', 'an empty group'),
    (34, $$pg_temp.q(' refused'), 'k', group_key => repeat('語', 201)$$, 'group_key', 'a group of 201 characters'),
    (35, $$pg_temp.q(' refused'), 'k', group_key => '', run_at => '2130-01-01'$$, 'group_key',
      'an empty group of a scheduled job'),
    (36, $$pg_temp.q(' refused'), 'k', expires_at => clock_timestamp()$$, 'expires_at',
      'an expires_at that has passed'),
    (37, $$pg_temp.q(' refused'), 'k', expires_at => '-infinity'$$, 'expires_at', 'one that always has'),
    (38, $$pg_temp.q(' refused'), 'k', expires_at => 'infinity'$$, 'expires_at', 'one that never comes'),
    (39, $$pg_temp.q(' refused'), 'k', expires_at => '9999-12-31 10:00:00+00'$$, 'expires_at',
      'one that many clients cannot read'),
    (40, $$pg_temp.q(' refused'), 'k', run_at => '2130-01-01', expires_at => '2130-01-01'$$, 'expires_at',
      'one that is not later than run_at')
  ) c(n, args, names, description)
 order by c.n;
select pg_temp.refused(format('select awa.enqueue_many(%s)', c.args), '22023', c.names, c.description)
  from (values
    (1, $$'', 'k', '{}'$$, 'queue', 'no job for a queue without a name'),
    (2, $$pg_temp.q(), '', '{}'$$, 'kind', 'no job of a kind without a name')
  ) c(n, args, names, description)
 order by c.n;
-- Compressed, it takes fewer bytes than those that pass unread. The queue is there, so that the short way is tried.
create temp table compressed as select pg_temp.nested(501) as args;
select cmp_ok((select pg_column_size(c.args) from compressed c), '<', 2000, 'args from a column may be compressed');
select pg_temp.refused('select awa.enqueue(pg_temp.q(), ''k'', c.args) from compressed c', '22023', 'args',
  'then args nested 501 deep');
select is((select count(*) from awa.queues where name = pg_temp.q(' refused')), 0::bigint,
  'a refused enqueue makes no queue');
select is((select count(*) from awa.jobs_compat() j where j.queue = pg_temp.q(' refused')), 0::bigint, 'and no job');

-- One row, nothing else
create temp table before as
select relname, n_tup_ins, n_tup_upd, n_tup_del
  from pg_stat_xact_user_tables
 where schemaname = 'awa';
select awa.enqueue(pg_temp.q(), 'k', '{"big": "body"}') \g /dev/null
select is(
  (
    select string_agg(regexp_replace(a.relname, '_[0-3]$', '')
      || format(' %s %s %s', a.n_tup_ins - b.n_tup_ins, a.n_tup_upd - b.n_tup_upd, a.n_tup_del - b.n_tup_del),
      ', ')
     from pg_stat_xact_user_tables a
     join before b using (relname)
    where a.schemaname = 'awa'
      and (a.n_tup_ins, a.n_tup_upd, a.n_tup_del) is distinct from (b.n_tup_ins, b.n_tup_upd, b.n_tup_del)),
  'ready_entries 1 0 0', 'a job is one row, once its queue is known');

-- A wake-up is due at most once per 5 ms, and the clock for it moves
select cmp_ok(
  (select pg_sequence_last_value(format('awa.wake_clock_%s', to_hex(awa._queue_id(pg_temp.q()) >> 50))::regclass)),
  '>=',
  (extract(epoch from now()) * 200)::bigint - 1, 'its workers are woken');

-- Whatever a session asks of plpgsql: a lane may have several rows in queues, as after a cancel
select awa.cancel(awa.enqueue(:'queue', 'k')) \g /dev/null
set local plpgsql.extra_errors = 'too_many_rows';
select is(pg_temp.outcome(format('select awa.enqueue(%L, %L)', :'queue', 'k')), 'ok', 'the short way');
select is(pg_temp.outcome(format('select awa.enqueue(%L, %L, priority => 2)', :'queue', 'k')), 'ok', 'the long way');

select * from finish();
rollback;
