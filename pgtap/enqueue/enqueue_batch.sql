-- Without this, a client that sends jobs as JSON could have a misspelt field ignored, half a batch accepted, or ids of
-- other jobs returned.
\set name enqueue_batch
\ir ../prelude.psql

begin;
set local track_functions = 'pl';
select plan(147);

-- Order, mixed queues, fields
create temp table made as
select e.id, e.n
  from awa.enqueue_batch(jobs => jsonb_build_array(
    jsonb_build_object('queue', pg_temp.q(' a'), 'kind', 'k1', 'args', 1),
    jsonb_build_object('queue', pg_temp.q(' b'), 'kind', 'k2', 'args', 2),
    jsonb_build_object('queue', pg_temp.q(' a'), 'kind', 'k1', 'args', 3),
    jsonb_build_object('queue', pg_temp.q(' a'), 'kind', 'k1', 'args', 4),
    jsonb_build_object('queue', pg_temp.q(' a'), 'kind', 'k1', 'args', 5, 'run_at', '2130-01-01T00:00:00Z'),
    jsonb_build_object('queue', pg_temp.q(' b'), 'kind', 'k2', 'args', 6, 'priority', 1),
    jsonb_build_object('queue', pg_temp.q(' a'), 'kind', 'k1', 'args', 7)
  )) with ordinality e(id, inserted, n);
select results_eq(
  'select j.queue, j.kind, j.args, j.state, j.priority from made m, awa.job(m.id) j order by m.n',
  $$values (pg_temp.q(' a'), 'k1', '1'::jsonb, 'available', 2), (pg_temp.q(' b'), 'k2', '2', 'available', 2),
    (pg_temp.q(' a'), 'k1', '3', 'available', 2),
    (pg_temp.q(' a'), 'k1', '4', 'available', 2), (pg_temp.q(' a'), 'k1', '5', 'scheduled', 2),
    (pg_temp.q(' b'), 'k2', '6', 'available', 1),
    (pg_temp.q(' a'), 'k1', '7', 'available', 2)$$,
  'the ids come in the order of the array, over queues and kinds');
select is((select array_agg(n order by id) from made), '{1,2,3,4,5,6,7}',
  'and ascend, so that they are served in this order');
select is((
  select array_agg(right(q.name, 1) || (q.lane & 7) order by q.name, q.lane)
    from awa.queues q
   where q.name like pg_temp.q('%')
),
  (
    select array_agg(distinct right(j.queue, 1) || j.priority order by right(j.queue, 1) || j.priority)
      from awa.jobs j
     where j.queue like pg_temp.q('%')
  ),
  'each queue is made once for each lane that it has jobs in');

create temp table plain as
select job_id as id
  from awa.enqueue_batch(jsonb_build_array(jsonb_build_object('queue', pg_temp.q(), 'kind', 'k')));
select is(
  (select to_jsonb(j) - '{id,run_at,created_at}'::text[] from plain m, awa.job(m.id) j),
  jsonb_build_object('kind', 'k', 'queue', pg_temp.q(), 'args', '{}'::jsonb, 'state', 'available', 'priority', 2,
    'attempt', 0, 'max_attempts', 25,
    'heartbeat_at', null, 'deadline_at', null, 'attempted_at', null, 'finalized_at', null, 'errors', '[]'::jsonb,
    'metadata', null,
    'group_key', null, 'expires_at', null,
    'tags', null, 'unique_key', null, 'receipt', null, 'progress', null, 'output', null, 'worker_id', null),
  'a job that names nothing has the defaults');
select is(
  (select to_jsonb(j) - '{id,run_at,created_at}'::text[]
     from pg_temp.made(
       $$awa.enqueue_batch(
         jsonb_build_array(
           jsonb_build_object('queue', pg_temp.q(), 'kind', 'k', 'args', null, 'priority', null, 'run_at', null,
       'max_attempts', null, 'tags', null, 'metadata', null, 'group_key', null,
       'expires_at', null)))$$) j),
  (select to_jsonb(j) - '{id,run_at,created_at}'::text[] from plain m, awa.job(m.id) j),
  'an explicit null means the default, for every optional field');
select is(
  (select row(j.args, j.priority, j.run_at, j.max_attempts, j.tags, j.metadata, j.group_key, j.expires_at)::text
     from pg_temp.made(
       $$awa.enqueue_batch(
         jsonb_build_array(
           jsonb_build_object('queue', pg_temp.q(), 'kind', 'k', 'args', '{"a": 1}'::jsonb, 'priority', 3,
       'run_at', '2130-05-01 09:00:00+02', 'max_attempts', 1000, 'tags', '["b", "a"]'::jsonb, 'metadata',
       '{"m": 1}'::jsonb, 'group_key', 'g', 'expires_at', '2130-05-01T09:00:00.5+02:00')))$$) j),
  row('{"a": 1}'::jsonb, 3, '2130-05-01 07:00:00+00'::timestamptz, 1000, '{b,a}'::text[], '{"m": 1}'::jsonb,
    'g'::text, '2130-05-01 07:00:00.5+00'::timestamptz)::text,
  'a job has what its fields say');
select is(
  (select array_agg(row(j.priority, j.max_attempts, j.tags, j.metadata, j.group_key)::text)
     from pg_temp.made($$awa.enqueue_batch(jsonb_build_array(
       jsonb_build_object('queue', pg_temp.q(), 'kind', 'k', 'priority', 1, 'max_attempts', 2, 'tags', '["t"]'::jsonb,
         'metadata', 1, 'group_key', 'g'),
       jsonb_build_object('queue', pg_temp.q(), 'kind', 'k')))$$) j),
  array['(1,2,{t},1,g)', '(2,25,,,)'], 'a job takes nothing over from the one before it');
select awa.configure_queue(pg_temp.q(), '{"default_priority": 4, "default_max_attempts": 9}') \g /dev/null
select is(
  (select row(j.priority, j.max_attempts)::text
     from pg_temp.made(
       $$awa.enqueue_batch(jsonb_build_array(jsonb_build_object('queue', pg_temp.q(), 'kind', 'k')))$$
     ) j),
       '(4,9)',
  'a job that names nothing has the defaults of its queue');
select is(
  (
    select j.state
      from pg_temp.made(
        format('awa.enqueue_batch(%L)',
          jsonb_build_array(jsonb_build_object('queue', pg_temp.q(), 'kind', 'k', 'run_at', c.run_at)))
      ) j
  ),
  'available', 'a run_at in the past means now: ' || c.run_at)
  from unnest('{2001-01-01T00:00:00Z,0001-01-01T00:00:00Z,0000-01-01T00:00:00+23:59}'::text[]) c(run_at);
select is(
  (
    select j.run_at
      from pg_temp.made(
        format('awa.enqueue_batch(%L)',
          jsonb_build_array(
            jsonb_build_object('queue', pg_temp.q(), 'kind', 'k', 'run_at', '9999-12-31T09:59:59.999999Z')
          ))
      ) j
  ),
  '9999-12-31 09:59:59.999999Z'::timestamptz, 'the last run_at that there may be');
select is(
  (
    select j.tags
      from pg_temp.made(
        $$awa.enqueue_batch(
          jsonb_build_array(jsonb_build_object('queue', pg_temp.q(), 'kind', 'k', 'tags', '[]'::jsonb))
        )$$
      ) j
  ),
  '{}', 'an empty list of tags is one');

-- How many
create temp table before as select pg_temp.writes() as writes;
select is((select count(*) from awa.enqueue_batch('[]')), 0::bigint, 'no objects, no jobs');
select is(pg_temp.writes(), (select writes from before), 'and nothing written');
create temp table most as
select e.id, e.n
  from awa.enqueue_batch(
    (
      select jsonb_agg(jsonb_build_object('queue', pg_temp.q(' most'), 'kind', 'k' || n / 100, 'args', n) order by n)
        from generate_series(1, 10000) n
    )
  )
       with ordinality e(id, inserted, n);
select is(
  (
    select count(*)
      from awa.ready_entries e
      join most m on m.id = e.job_id
     where e.args = to_jsonb(m.n) and e.kind = 'k' || m.n / 100
  ),
  10000::bigint,
  '10,000 jobs in one call, each id that of its object');

-- Limits that are allowed
select is(
  pg_temp.outcome(
    format('select * from awa.enqueue_batch(jsonb_build_array(jsonb_build_object(%L, pg_temp.q(), %L, %L) || %L))',
      'queue', 'kind', 'k', c.fields)
  ),
  'ok', c.description)
  from (values
    (1, jsonb_build_object('queue', repeat('😀', 200), 'kind', repeat('ü', 200)),
      'a queue and a kind of 200 characters of more than a byte'),
    (2, '{"max_attempts": 1}', '1 attempt'),
    (3, jsonb_build_object('tags', array_fill('t'::text, array[20])), '20 tags'),
    (4, '{"metadata": [1]}', 'metadata of any JSON')
  ) c(n, fields, description)
 order by c.n;

-- Refusals of the whole
select pg_temp.refused(format('select * from awa.enqueue_batch(%s)', c.args), '22023', 'jobs', c.description)
  from (values
    (1, 'null', 'no jobs'),
    (2, $$'null'$$, 'a JSON null'),
    (3, $$'{"queue": "q", "kind": "k"}'$$, 'an object in place of an array'),
    (4, $$'"x"'$$, 'a string in place of an array'),
    (5, $$'[1]'$$, 'an element that is a number'),
    (6, $$'[null]'$$, 'an element that is null'),
    (7, $$'[[{"queue": "q", "kind": "k"}]]'$$, 'an array within the array'),
    (8,
      $$(
        select jsonb_agg(jsonb_build_object('queue', pg_temp.q(' refused'), 'kind', 'k')) from generate_series(1, 10001)
      )$$,
      '10,001 jobs')
  ) c(n, args, description)
 order by c.n;

-- Refusals of a field. The message names the field or what holds it; a good job before it must not get in.
select pg_temp.refused(
    format(
      'select * from awa.enqueue_batch(jsonb_build_array(jsonb_build_object(%L, pg_temp.q(%L), %L, %L), '
      'jsonb_build_object(%L, pg_temp.q(%L), %L, %L) || %L))',
      'queue', ' refused', 'kind', 'good', 'queue', ' refused', 'kind', 'bad', c.fields),
    '22023', c.names, c.description)
  from (values
    (1, '{"prioritiy": 1}'::jsonb, 'jobs', 'a misspelt field'),
    (2, '{"unique_key": "x"}', 'jobs', 'a field of enqueue_unique'),
    (3, '{"Queue": "x"}', 'jobs', 'a field in capitals'),
    (4, '{"queue": null}', 'jobs', 'a queue that is null'),
    (5, '{"queue": 1}', 'jobs', 'a queue that is a number'),
    (6, '{"kind": ["k"]}', 'jobs', 'a kind that is an array'),
    (7, '{"priority": "1"}', 'jobs', 'a priority that is a string'),
    (8, '{"priority": 0}', 'jobs', 'priority 0'),
    (9, '{"priority": 5}', 'jobs', 'priority 5'),
    (10, '{"priority": 1.5}', 'jobs', 'a priority that is no whole number'),
    (11, '{"priority": true}', 'jobs', 'a priority that is a boolean'),
    (12, '{"max_attempts": "5"}', 'jobs', 'attempts as a string'),
    (13, '{"max_attempts": -1}', 'jobs', '-1 attempts'),
    (14, '{"max_attempts": 99999999999999999999}', 'jobs', 'more attempts than an integer holds'),
    (15, '{"tags": "t"}', 'jobs', 'tags that are a string'),
    (16, '{"tags": ["t", 1]}', 'jobs', 'a tag that is a number'),
    (17, '{"tags": ["t", null]}', 'jobs', 'a tag that is null'),
    (18, '{"tags": [["t"]]}', 'jobs', 'tags in two dimensions'),
    (19, '{"run_at": 1700000000}', 'jobs', 'a run_at that is a number'),
    (20, '{"run_at": "soon"}', 'run_at', 'a run_at that is no timestamp'),
    (21, '{"run_at": "2031-02-30"}', 'run_at', 'a run_at on a day that there is not'),
    (22, '{"run_at": ""}', 'run_at', 'an empty run_at'),
    (23, '{"run_at": "2031-01-01 00:00 Nowhere/City"}', 'run_at', 'a run_at in a time zone that there is not'),
    (24, '{"run_at": "infinity"}', 'run_at', 'a run_at that never comes'),
    (25, '{"queue": ""}', 'queue', 'an empty queue'),
    (26, jsonb_build_object('queue', repeat('q', 201)), 'queue', 'a queue of 201 characters'),
    (27, '{"kind": ""}', 'kind', 'an empty kind'),
    (28, jsonb_build_object('kind', repeat('語', 201)), 'kind', 'a kind of 201 characters'),
    (29, '{"max_attempts": 0}', 'max_attempts', 'no attempts'),
    (30, '{"max_attempts": 1001}', 'max_attempts', '1001 attempts'),
    (31, jsonb_build_object('tags', array_fill('t'::text, array[21])), 'tags', '21 tags'),
    (32, jsonb_build_object('tags', array[repeat('t', 201)]), 'tags', 'a tag of 201 characters'),
    (33, jsonb_build_object('args', pg_temp.nested(501)), 'args', 'args nested 501 deep'),
    (34, jsonb_build_object('metadata', pg_temp.nested(501)), 'metadata', 'metadata nested 501 deep'),
    (35, '{"group_key": 7}', 'jobs', 'a group that is a number'),
    (36, '{"group_key": ""}', 'group_key', 'an empty group'),
    (37, jsonb_build_object('group_key', repeat('g', 201)), 'group_key', 'a group of 201 characters'),
    (38, '{"expires_at": 7}', 'jobs', 'an expires_at that is a number'),
    (39, '{"expires_at": "2000-01-01T00:00:00Z"}', 'expires_at', 'an expires_at that has passed'),
    (40, '{"expires_at": "tomorrow"}', 'expires_at', 'an expires_at that is a word'),
    (41, '{"expires_at": "2130-01-01T00:00:00Z", "run_at": "2130-01-01T01:00:00+01:00"}', 'expires_at',
      'an expires_at that is not later than run_at')
  ) c(n, fields, names, description)
 order by c.n;
select pg_temp.refused($$select * from awa.enqueue_batch('[{"kind": "k"}]')$$, '22023', 'queue', 'no queue');
select pg_temp.refused($$
select *
  from awa.enqueue_batch(jsonb_build_array(jsonb_build_object('queue', pg_temp.q(' refused'))))$$,
  '22023', 'kind', 'no kind');
select pg_temp.refused($$select * from awa.enqueue_batch('[{}]')$$, '22023', 'queue', 'an empty object');

-- A run_at says when, whoever calls. What depends on the session's DateStyle or TimeZone, or on the day, is refused.
set local datestyle = 'SQL, DMY';
set local timezone = 'Asia/Kathmandu';
select is(
    (
      select j.run_at
        from pg_temp.made(
          format('awa.enqueue_batch(%L)',
            jsonb_build_array(jsonb_build_object('queue', pg_temp.q(), 'kind', 'k', 'run_at', c.run_at)))
        ) j
    ),
    to_timestamp(1935482645 + c.fraction), 'run_at ' || left(c.run_at, 50))
  from (values
    (1, '2031-05-02T10:04:05Z', 0), (2, '2031-05-02t10:04:05z', 0), (3, '2031-05-02 10:04:05Z', 0),
    (4, '2031-05-02 10:04:05 Z', 0),
    (5, '2031-05-02T12:04:05+02', 0), (6, '2031-05-02T12:04:05+02:00', 0), (7, '2031-05-02 12:04:05 +0200', 0),
    (8, '2031-05-02T04:34:05-05:30', 0),
    (9, '2031-05-02T10:57:33+00:53:28', 0), (10, '2031-05-02T10:04:05.5Z', 0.5),
    (11, '2031-05-02T10:04:05.123456789+00:00', 0.123457),
    (12, '2031-05-02T10:04Z', -5), (13, to_jsonb('2031-05-02 10:04:05.000001+00'::timestamptz) #>> '{}', 0.000001),
    (14, '2031-05-01T24:00:00-10:04', -5), (15, '2031-05-02T09:59:60+00', -245),
    (16, '2031-05-02T10:04:05.1234567890123456789Z', 0.123457),
    (17, '2031-05-02T10:04:05.' || repeat('9', 10000) || 'Z', 1), (18, '2031-05-02T10:04:05-00:00', 0),
    (19, '2031-05-03T10:03:05+23:59', 0),
    (20, '2031-05-01T10:05:05-23:59', 0), (21, '2031-05-02t09:59:60.5z', -244.5)
  ) c(n, run_at, fraction)
 order by c.n;
select pg_temp.refused(format('select * from awa.enqueue_batch(%L)',
  jsonb_build_array(jsonb_build_object('queue', pg_temp.q(' refused'), 'kind', 'k', 'run_at', c.run_at))),
  '22023', 'run_at', 'run_at ' || c.run_at)
  from (values
    (1, '2031-05-02T10:04:05'), (2, '2031-05-02'), (3, '2031-05-02 10:04:05 Europe/Berlin'),
    (4, '2031-05-02 10:04:05 CEST'), (5, '02/05/2031 10:04:05Z'),
    (6, '02.05.2031 10:04:05Z'), (7, '31-05-02 10:04:05Z'), (8, 'Fri May 2 10:04:05 2031 UTC'), (9, 'tomorrow'),
    (10, 'now'), (11, 'epoch'), (12, '-infinity'),
    (13, '2031-13-02T10:04:05Z'), (14, '2031-05-02T25:04:05Z'), (15, '2031-05-02T10:04:05+99:00'),
    (16, '2031-05-02T10:04:05Z BC'), (17, '12031-05-02T10:04:05Z'),
    (18, '+2031-05-02T10:04:05Z'), (19, '2031-05-02T10:04:05,5Z'), (20, E'2031-05-02T10:04:05Z\n'),
    (21, ' 2031-05-02T10:04:05Z'), (22, '2031-05-02T10:04:05+24:00'), (23, '1935558245'),
    (24, '2031-05-02T10:04:05+02:60'), (25, '2031-05-02T10Z'), (26, '20310502T100405Z'), (27, '2031-W18-5T10:04:05Z'),
    (28, '2031-05-02T10:04.5Z'), (29, '9999-12-31T10:00:00Z'), (30, '2031-05-02T10:04:60.0000001Z5')
  ) c(n, run_at)
 order by c.n;
reset datestyle;
reset timezone;

-- 2.0 is 2, and PostgreSQL's JSON says so too: accepted or refused, but not an error from the inside
select ok(
  pg_temp.outcome(
    $$
    select *
      from awa.enqueue_batch(
        jsonb_build_array(jsonb_build_object('queue', pg_temp.q(), 'kind', 'k') || '{"priority": 2.0}')
      )$$
  )
    in ('ok', '22023'), 'priority 2.0 is accepted, or refused properly');
select is((select count(*) from awa.jobs_compat() j where j.queue = pg_temp.q(' refused')), 0::bigint,
  'a refused batch leaves no job');
select is((select count(*) from awa.queues where name = pg_temp.q(' refused')), 0::bigint, 'and no queue');

-- Of two jobs with one key the first one gets it, whatever else their keys say
select is((select array_agg(b.inserted) from awa.enqueue_batch(jsonb_build_array(
    jsonb_build_object('queue', pg_temp.q(), 'kind', 'k', 'unique',
      '{"key": "twice", "states": ["available", "running"]}'::jsonb),
    jsonb_build_object('queue', pg_temp.q(), 'kind', 'k', 'unique',
      '{"key": "twice", "states": ["available"]}'::jsonb))) b),
  '{t,f}', 'the first of two jobs with one key is inserted');

-- Unique jobs: what is refused, in which of them
select pg_temp.refused(format($$
select *
  from awa.enqueue_batch('[{"queue": "q", "kind": "k"}, {"queue": "q", "kind": "k", "unique": %s}]')$$,
  c.uniq),
  '22023', c.names, c.uniq)
  from (values
    (1, '{"period": "soon"}', 'unique.period'), (2, '{"period": "0"}', 'jobs: unique_period'),
    (3, '{"zone": "UTC+5"}', 'jobs: unique_zone'), (4, '{"by": []}', 'jobs: unique_by'),
    (5, '{"states": ["ready"]}', 'jobs: unique_states'), (6, '{"key": ""}', 'jobs: unique_key'),
    (7, '{"name": "x"}', 'jobs: unique'), (8, '{"key": 1}', 'jobs: unique'), (9, '{"by": ["kind", 1]}', 'jobs: unique'),
    (10, '"x"', 'jobs holds'), (11, '{"period": "1 day", "key": "x", "zone": "Mars"}', 'jobs: unique_zone')
  ) c(n, uniq, names)
 order by c.n;

-- The period of a key is that of run_at, in its zone
create temp table reminders as
select jsonb_agg(jsonb_build_object('queue', pg_temp.q(), 'kind', 'k',
    'run_at', current_date + n + h.at,
    'unique', '{"key": "reminder", "period": "1 day", "zone": "Asia/Kathmandu"}'::jsonb)
  order by n) as jobs, h.at
  from generate_series(1, 7) n, unnest('{00:15+05:45,23:45+05:45}'::timetz[]) h(at)
 group by h.at;
create temp table reminded as
select b.*
  from reminders r cross join lateral awa.enqueue_batch(r.jobs) with ordinality b(job_id, inserted, nth)
 where r.at = '00:15+05:45';
select is((select array_agg(inserted order by nth) from reminded), '{t,t,t,t,t,t,t}',
  'seven reminders on seven days are seven jobs');
select is((select array_agg(row(b.job_id, b.inserted)::text order by b.nth)
  from reminders r cross join lateral awa.enqueue_batch(r.jobs) with ordinality b(job_id, inserted, nth)
 where r.at = c.at),
  (select array_agg(row(job_id, false)::text order by nth) from reminded),
  'and duplicates of those, when they are enqueued again, at ' || c.at)
  from reminders c;

-- Two jobs that would both replace one that this transaction has cancelled
select awa.cancel(job_id) from awa.enqueue_unique(pg_temp.q(), 'k', unique_key => 'replaced') \g /dev/null
select is((select array_agg(b.inserted) from awa.enqueue_batch(jsonb_build_array(
    jsonb_build_object('queue', pg_temp.q(), 'kind', 'k', 'unique', '{"key": "replaced"}'::jsonb),
    jsonb_build_object('queue', pg_temp.q(), 'kind', 'k', 'unique', '{"key": "replaced"}'::jsonb))) b),
  '{t,f}', 'the first of two heirs is inserted');

-- Each key is made once, and one that nobody has is taken without more ado
create temp table calls as
select p.proname, pg_stat_get_xact_function_calls(p.oid) as before
  from pg_proc p
 where p.oid in ('awa._unique_key'::regproc, 'awa._take_key'::regproc);
select is(
  (
    select count(*) filter (where b.inserted)
      from awa.enqueue_batch(
        (
          select jsonb_agg(
            jsonb_build_object('queue', pg_temp.q(), 'kind', 'k', 'unique', jsonb_build_object('key', 'of ' || n % 9))
          )
            from generate_series(1, 10) n
        )
      ) b
  ),
  9::bigint, 'of ten jobs with nine keys nine are inserted');
select is((
  select string_agg(c.proname || ' '
    || coalesce(pg_stat_get_xact_function_calls(('awa.' || c.proname)::regproc), 0) - coalesce(c.before, 0),
    ', ' order by c.proname)
    from calls c
),
  '_take_key 0, _unique_key 10', 'each key is made once, and looked at only where it is taken');

-- A glance at all jobs takes no field that enqueue refuses: with unique, even null, each is looked at by itself
create temp table fields (n int generated always as identity, field text, value jsonb);
insert into fields (field, value)
select f.field, v.value
  from unnest('{queue,kind,args,priority,max_attempts,run_at,expires_at,tags,metadata,group_key}'::text[]) f(field)
 cross join (
    select v.value
      from jsonb_array_elements('[null, true, 0, 1, 4, 5, 1.0, 2.0, 1e0, -1, 1000, 1001, 99999999999, "", "1", [], {}]')
             v(value)
    union all
    select to_jsonb(s)
      from unnest(
        array[
          repeat('x', 200), repeat('x', 201), repeat('ü', 200), repeat('ü', 201), E'\n', ' ', '2031-01-01T00:00:00Z',
          '2001-01-01T00:00:00Z', '2131-02-29T00:00:00Z', '9999-12-31T10:00:00Z', 'infinity'
        ]) s
    union all
    select to_jsonb(a)
      from (
        values (array['t']), (array['']), (array[repeat('t', 200)]), (array[repeat('t', 201)]),
          (array[repeat('ü', 200)]), (array[E'a\nb']),
          (array_fill('t'::text, array[20])), (array_fill('t'::text, array[21])), (array['t', null])
      ) a(a)
    union all
    values ('["t", 1]'::jsonb), ('[["t"]]'), (to_jsonb(repeat('x', 3000))), (pg_temp.nested(501))
  ) v;
insert into fields (field, value) values ('Queue', '"q"'), ('unique', 'null'), ('unique', '{"key": "x"}'), ('x', '1');
create temp table glances as
select f.n, g.are_plain,
       pg_temp.outcome(format('select * from awa.enqueue_batch(%L)', jsonb_build_array(j.job))) as outcome,
       pg_temp.outcome(format('select * from awa.enqueue_batch(%L)', jsonb_build_array(j.job || '{"unique": null}')))
         as looked_at
  from fields f
 cross join lateral (
    select jsonb_build_object('queue', pg_temp.q(' glance'), 'kind', 'k', 'run_at', '2131-01-01T00:00:00Z')
             || jsonb_build_object(f.field, f.value) as job
  ) j
 cross join lateral awa._glance_at_jobs(jsonb_build_array(j.job)) g;
select is((select array_agg(f.field || ' ' || left(f.value::text, 20)) from glances g join fields f using (n)
  where g.outcome is distinct from g.looked_at and f.field <> 'unique'), null, 'both ways refuse the same');
select is((select array_agg(distinct f.field || ' ' || left(f.value::text, 20)) from glances g join fields f using (n)
  where not g.are_plain and g.outcome = 'ok'),
  array['unique null', 'unique {"key": "x"}'], 'and of those that are taken none has to be looked at by itself');
create temp table checks as select pg_stat_get_xact_function_calls('awa._check_fields'::regproc) as before;
select awa.enqueue_batch(
    jsonb_agg(jsonb_build_object('queue', pg_temp.q(' glance'), 'kind', 'k', 'group_key', 'g' || n)))
  from generate_series(1, 10) n \g /dev/null
select is(pg_stat_get_xact_function_calls('awa._check_fields'::regproc), c.before, 'so none of a batch is')
  from checks c;
select * from finish();
rollback;
