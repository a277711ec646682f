-- Without this, the ids of a bulk enqueue might not belong to its jobs, or one bad element might let half of the rest
-- in.
\set name enqueue_many
\ir ../prelude.psql

begin;
select plan(39);

create temp table made as
select e.id, e.n
  from awa.enqueue_many(queue => pg_temp.q(), kind => 'k',
    args => array['{"n": 1}', '{"n": 2}', '{"n": 3}']::jsonb[]) with ordinality e(id, n);
select results_eq(
  'select j.args from made m, awa.job(m.id) j order by m.n',
  $$values ('{"n": 1}'::jsonb), ('{"n": 2}'), ('{"n": 3}')$$, 'the ids come in the order of args');
select is(
  (select array_agg(distinct to_jsonb(j) - '{id,args,run_at,created_at}'::text[]) from made m, awa.job(m.id) j),
  array[
    jsonb_build_object('kind', 'k', 'queue', pg_temp.q(), 'state', 'available', 'priority', 2, 'attempt', 0,
      'max_attempts', 25,
    'heartbeat_at', null, 'deadline_at', null, 'attempted_at', null, 'finalized_at', null, 'errors', '[]'::jsonb,
    'metadata', null,
    'group_key', null, 'expires_at', null,
    'tags', null, 'unique_key', null, 'receipt', null, 'progress', null, 'output', null, 'worker_id', null)],
  'jobs that name nothing have the defaults');
select is(
  (select array_agg(distinct to_jsonb(j) - '{id,args,run_at,created_at}'::text[])
     from pg_temp.made(
       $$awa.enqueue_many(pg_temp.q(), 'k', array['{}', '{}']::jsonb[], null, null, null, null, null)$$
     ) j),
  (select array_agg(distinct to_jsonb(j) - '{id,args,run_at,created_at}'::text[]) from made m, awa.job(m.id) j),
  'an explicit null means the default, for every optional argument');
select is(
  (select array_agg(distinct row(j.state, j.priority, j.max_attempts, j.tags, j.metadata, j.group_key,
            j.expires_at)::text)
     from pg_temp.made(
       $$awa.enqueue_many(queue => pg_temp.q(), kind => 'k', args => array['{}', '{}']::jsonb[], priority => 1,
         run_at => '2001-01-01',
       max_attempts => 3, tags => '{a,b}', metadata => '{"m": 1}', group_key => 'g',
         expires_at => '2130-01-01 UTC')$$) j),
  array[row('available'::text, 1, 3, '{a,b}'::text[], '{"m": 1}'::jsonb, 'g'::text,
    '2130-01-01 UTC'::timestamptz)::text],
  'every job has what the caller named');
select is(
  (select string_agg(j.state || (j.args ->> 'n') || ' ' || (j.run_at at time zone 'UTC')::text, ', ')
     from pg_temp.made(
       $$awa.enqueue_many(pg_temp.q(), 'k', array['{"n": 1}', '{"n": 2}']::jsonb[], run_at => '2130-01-01 00:00+00')$$
     ) j),
  'scheduled1 2130-01-01 00:00:00, scheduled2 2130-01-01 00:00:00', 'deferred jobs come in order too');
select awa.configure_queue(pg_temp.q(), '{"default_priority": 4, "default_max_attempts": 9}') \g /dev/null
select is(
  (
    select row(j.priority, j.max_attempts)::text
      from pg_temp.made($$awa.enqueue_many(pg_temp.q(), 'k', array['{}']::jsonb[])$$) j
  ),
  '(4,9)',
  'jobs that name nothing have the defaults of their queue');

-- How many
create temp table before as select pg_temp.writes() as writes;
select is((select count(*) from awa.enqueue_many(pg_temp.q(' none'), 'k', '{}')), 0::bigint, 'no args, no jobs');
select is(pg_temp.writes(), (select writes from before), 'and nothing written');
create temp table most as
select e.id, e.n
  from awa.enqueue_many(pg_temp.q(' most'), 'k',
    array(select jsonb_build_object('n', n) from generate_series(1, 10000) n)) with ordinality e(id, n);
select is((select count(distinct id) from most), 10000::bigint, '10,000 jobs in one call');
select is(
  (select count(*) from awa.ready_entries e join most m on m.id = e.job_id where e.args = jsonb_build_object('n', m.n)),
  10000::bigint,
  'each id is that of its args');
select is((select count(*) from (select id <= lag(id) over (order by n) as falls from most) m where falls), 0::bigint,
  'and ids ascend, so that they are served in this order');
select is(
  (select array_agg(j.args)
     from pg_temp.made($$awa.enqueue_many(pg_temp.q(), 'k', '[7:8]={"\"a\"","\"b\""}'::jsonb[])$$) j),
  array['"a"', '"b"']::jsonb[], 'an array may be numbered from 7');

-- Refusals
select pg_temp.refused(format('select * from awa.enqueue_many(%s)', c.args), '22023', c.names, c.description)
  from (values
    (1, $$pg_temp.q(' refused'), 'k', null$$, 'args', 'no args'),
    (2, $$pg_temp.q(' refused'), 'k', array['{}', null]::jsonb[]$$, 'args', 'args with a null'),
    (3, $$pg_temp.q(' refused'), 'k', array_fill('{}'::jsonb, array[10001])$$, 'args', '10,001 jobs'),
    (4, $$pg_temp.q(' refused'), 'k', array_fill('{}'::jsonb, array[2, 2])$$, 'args', 'args in two dimensions'),
    (5, $$null, 'k', '{"{}"}'$$, 'queue', 'no queue'),
    (6, $$'', 'k', '{"{}"}'$$, 'queue', 'an empty queue'),
    (7, $$repeat('ü', 201), 'k', '{"{}"}'$$, 'queue', 'a queue of 201 characters'),
    (8, $$pg_temp.q(' refused'), null, '{"{}"}'$$, 'kind', 'no kind'),
    (9, $$pg_temp.q(' refused'), '', '{"{}"}'$$, 'kind', 'an empty kind'),
    (10, $$pg_temp.q(' refused'), repeat('k', 201), '{"{}"}'$$, 'kind', 'a kind of 201 characters'),
    (11, $$pg_temp.q(' refused'), 'k', '{"{}"}', priority => 0$$, 'priority', 'priority 0'),
    (12, $$pg_temp.q(' refused'), 'k', '{"{}"}', priority => 5$$, 'priority', 'priority 5'),
    (13, $$pg_temp.q(' refused'), 'k', '{"{}"}', max_attempts => 0$$, 'max_attempts', 'no attempts'),
    (14, $$pg_temp.q(' refused'), 'k', '{"{}"}', max_attempts => 1001$$, 'max_attempts', '1001 attempts'),
    (15, $$pg_temp.q(' refused'), 'k', '{"{}"}', tags => array_fill('t'::text, array[21])$$, 'tags', '21 tags'),
    (16, $$pg_temp.q(' refused'), 'k', '{"{}"}', tags => '{NULL}'$$, 'tags', 'a tag that is null'),
    (17, $$pg_temp.q(' refused'), 'k', '{"{}"}', tags => '{{a},{b}}'$$, 'tags', 'tags in two dimensions'),
    (18, $$pg_temp.q(' refused'), 'k', '{"{}"}', run_at => 'infinity'$$, 'run_at', 'a run_at that never comes'),
    (19, $$pg_temp.q(' refused'), '', '{}'$$, 'kind', 'an empty kind, even for no jobs'),
    (20, $$pg_temp.q(' refused'), 'k', '{"{}"}', group_key => repeat('g', 201)$$, 'group_key',
      'a group of 201 characters'),
    (21, $$pg_temp.q(' refused'), 'k', '{"{}"}', expires_at => now()$$, 'expires_at', 'an expires_at that has passed')
  ) c(n, args, names, description)
 order by c.n;
select is(pg_temp.outcome(format('select * from awa.enqueue_many(%s)', c.args)), 'ok', c.description)
  from (values
    (1, $$repeat('😀', 200), repeat('ü', 200), '{"{}"}'$$, 'a queue and a kind of 200 characters of more than a byte'),
    (2, $$pg_temp.q(), 'k', '{"{}"}', tags => array_fill('t'::text, array[20])$$, '20 tags'),
    (3, $$pg_temp.q(), 'k', '{"{}"}', max_attempts => 1000$$, '1000 attempts'),
    (4, $$pg_temp.q(), 'k', '{"{}"}', max_attempts => 1$$, '1 attempt')
  ) c(n, args, description)
 order by c.n;
select is((select count(*) from awa.queues where name = pg_temp.q(' refused')), 0::bigint,
  'a refused enqueue makes no queue');
select is((select count(*) from awa.jobs_compat() j where j.queue = pg_temp.q(' refused')), 0::bigint, 'and no job');

select * from finish();
rollback;
