-- Without this, what an outage left behind could only be run again one by one.
\set name retry_where
\ir ../prelude.psql

-- In queue a: 3 failed of kind x and 1 of kind y, 2 cancelled, 2 dead, 2 retryable, 1 scheduled, 1 completed with an
-- output, 1 running, 1 available. In queue b: 1 failed.
select count(*)
  from awa.enqueue_many(:'queue' || ' a', 'x', array(select to_jsonb(n) from generate_series(1, 12) n),
    max_attempts => 3) \g /dev/null
create temp table c as select * from pg_temp.take(' a', 11);
select awa.discard(job_id, receipt, 'e') from c where n in (1, 2, 3) \g /dev/null
select awa.cancel(job_id) from c where n in (4, 5) \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 day') from c where n in (6, 7) \g /dev/null
select awa.complete(job_id, receipt, '1') from c where n = 8 \g /dev/null
select awa.configure_queue(:'queue' || ' a', '{"dead_letter": true}') \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n in (9, 10) \g /dev/null
select awa.configure_queue(:'queue' || ' a', '{"dead_letter": null}') \g /dev/null
select awa.enqueue(:'queue' || ' a', 'y', priority => 1, tags => '{y,z}') \g /dev/null
select awa.discard(job_id, receipt, 'e') from pg_temp.take(' a', 1) \g /dev/null
select awa.enqueue(:'queue' || ' a', 'y', run_at => '2130-01-01', tags => '{y}') \g /dev/null
select awa.enqueue(:'queue' || ' b', 'x') \g /dev/null
select awa.discard(job_id, receipt, 'e') from pg_temp.take(' b', 1) \g /dev/null
select pg_temp.step('setup') \g /dev/null
-- Five jobs of one key that have ended, and one without a key
select count(*)
  from generate_series(1, 5) n
 cross join lateral awa.enqueue_unique(pg_temp.q(' keyed'), 'k', unique_key => pg_temp.q() || n) u \g /dev/null
select awa.discard(job_id, receipt, 'e') from pg_temp.take(' keyed', 5) \g /dev/null
select job_id as holder_id from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || '2') \gset
select awa.enqueue(:'queue' || ' keyed', 'k', priority => 1) \g /dev/null
select awa.discard(job_id, receipt, 'e') from pg_temp.take(' keyed', 1) \g /dev/null
create temp table twins as
select n, awa.enqueue(pg_temp.q(' twins'), 'k', to_jsonb(n)) as id
  from generate_series(1, 2) n;
select awa.cancel(id) from twins \g /dev/null
select pg_temp.step('keys') \g /dev/null
-- Committed, then served
select count(*)
  from awa.enqueue_many(:'queue' || ' served', 'x', array(select to_jsonb(n) from generate_series(1, 4) n)) \g /dev/null
select awa.cancel_where(:'queue' || ' served') \g /dev/null
select awa.retry_where(queue => :'queue' || ' served', max_jobs => 3) as retried \gset
select pg_temp.step('retried') \g /dev/null
create temp table served as select row_number() over () as place, t.* from awa.claim(:'queue' || ' served', 10) t;

begin;
select plan(53);

select is(pg_temp.states(' a'),
  'available 1, cancelled 2, completed 1, dead 2, failed 4, retryable 2, running 1, scheduled 1', 'before');
create function pg_temp.retried(args text) returns text
language plpgsql
as $$
declare
  v_count bigint;
  v_states text;
begin
  begin
    execute 'select awa.retry_where(' || args || ')' into v_count;
    v_states := pg_temp.states(' a') || ' | ' || pg_temp.states(' b') || coalesce(' | ' || pg_temp.wrong(), '');
    raise exception using errcode = 'TAP00';
  exception when sqlstate 'TAP00' then
    null;
  end;
  return v_count || ': ' || v_states;
end
$$;
select is(pg_temp.retried(format(c.args, pg_temp.q(' a'), pg_temp.q())), c.expected, c.args)
  from (values
    (1, 'queue => %L', '8: available 9, completed 1, retryable 2, running 1, scheduled 1 | failed 1'),
    (2, '%L, null, null, null, null', '8: available 9, completed 1, retryable 2, running 1, scheduled 1 | failed 1'),
    (3, 'queue => %L, kind => ''y''',
      '1: available 2, cancelled 2, completed 1, dead 2, failed 3, retryable 2, running 1, scheduled 1 | failed 1'),
    (4, 'queue => %L, state => ''failed''',
      '4: available 5, cancelled 2, completed 1, dead 2, retryable 2, running 1, scheduled 1 | failed 1'),
    (5, 'queue => %L, state => ''cancelled''',
      '2: available 3, completed 1, dead 2, failed 4, retryable 2, running 1, scheduled 1 | failed 1'),
    (6, 'queue => %L, state => ''dead''',
      '2: available 3, cancelled 2, completed 1, failed 4, retryable 2, running 1, scheduled 1 | failed 1'),
    (7, 'queue => %L, state => ''retryable''',
      '2: available 3, cancelled 2, completed 1, dead 2, failed 4, running 1, scheduled 1 | failed 1'),
    (8, 'queue => %L, state => ''scheduled''',
      '1: available 2, cancelled 2, completed 1, dead 2, failed 4, retryable 2, running 1 | failed 1'),
    (9, 'queue => %L, state => ''failed'', kind => ''x''',
      '3: available 4, cancelled 2, completed 1, dead 2, failed 1, retryable 2, running 1, scheduled 1 | failed 1'),
    (10, 'queue => %L, before => now()', '8: available 9, completed 1, retryable 2, running 1, scheduled 1 | failed 1'),
    (21, 'queue => %L, args => ''1''',
      '1: available 2, cancelled 2, completed 1, dead 2, failed 3, retryable 2, running 1, scheduled 1 | failed 1'),
    (22, 'queue => %L, args => ''4''',
      '1: available 2, cancelled 1, completed 1, dead 2, failed 4, retryable 2, running 1, scheduled 1 | failed 1'),
    (23, 'queue => %L, args => ''9''',
      '1: available 2, cancelled 2, completed 1, dead 1, failed 4, retryable 2, running 1, scheduled 1 | failed 1'),
    (24, 'queue => %L, args => ''6'', state => ''retryable''',
      '1: available 2, cancelled 2, completed 1, dead 2, failed 4, retryable 1, running 1, scheduled 1 | failed 1'),
    (25, 'queue => %L, args => ''6''',
      '0: available 1, cancelled 2, completed 1, dead 2, failed 4, retryable 2, running 1, scheduled 1 | failed 1'),
    (26, 'queue => %L, tag => ''y''',
      '1: available 2, cancelled 2, completed 1, dead 2, failed 3, retryable 2, running 1, scheduled 1 | failed 1'),
    (27, 'queue => %L, tag => ''y'', state => ''scheduled''',
      '1: available 2, cancelled 2, completed 1, dead 2, failed 4, retryable 2, running 1 | failed 1'),
    (28, 'queue => %L, tag => ''y'', args => ''1''',
      '0: available 1, cancelled 2, completed 1, dead 2, failed 4, retryable 2, running 1, scheduled 1 | failed 1'),
    (11, 'queue => %L, before => ''2000-01-01''',
      '0: available 1, cancelled 2, completed 1, dead 2, failed 4, retryable 2, running 1, scheduled 1 | failed 1'),
    (12, 'queue => %L, state => ''scheduled'', before => now()',
      '1: available 2, cancelled 2, completed 1, dead 2, failed 4, retryable 2, running 1 | failed 1'),
    (14, 'queue => %L, max_jobs => 10000',
      '8: available 9, completed 1, retryable 2, running 1, scheduled 1 | failed 1'),
    (15, 'queue => %2$L || '' no such''',
      '0: available 1, cancelled 2, completed 1, dead 2, failed 4, retryable 2, running 1, scheduled 1 | failed 1')
  ) c(n, args, expected)
 order by c.n;

-- The oldest first, over all the places where they are
savepoint oldest;
select is(awa.retry_where(pg_temp.q(' a'), max_jobs => 6), 6::bigint, 'at most so many');
select is((select array_agg(c.n order by c.n) from c, awa.job(c.job_id) j where j.state = 'available'), '{1,2,3,4,5,9}',
  'those with the oldest ids');
select is(awa.retry_where(pg_temp.q(' a'), max_jobs => 1), 1::bigint, 'and one more');
select is((select array_agg(c.n order by c.n) from c, awa.job(c.job_id) j where j.state = 'available'),
  '{1,2,3,4,5,9,10}', 'the next one');
select is((
  select string_agg(distinct format('%s %s %s', j.attempt, jsonb_array_length(j.errors), j.max_attempts), ', ')
    from c, awa.job(c.job_id) j
   where c.n in (1, 4, 9)
),
  '0 1 3', 'no attempts counted, errors kept');
select is(awa.retry_where(pg_temp.q(' a'), state => 'retryable'), 2::bigint, 'those that wait');
select is((
  select string_agg(distinct format('%s %s', j.state, j.attempt), ', ') from c, awa.job(c.job_id) j where c.n in (6, 7)
),
  'available 1', 'keep their count');
select is((select count(*) from awa.claim(pg_temp.q(' a'), 100)), 1::bigint,
  'they are claimed when the caller has committed');
rollback to oldest;

-- Unique keys
select is(awa.retry_where(pg_temp.q(' keyed')), 5::bigint, 'jobs whose key another one holds are left out');
select is(pg_temp.states(' keyed'), 'available 6, failed 1', 'and stay as they are');
select pg_temp.agrees('the others hold theirs again');
select is(awa.retry_where(pg_temp.q(' keyed')), 0::bigint, 'a second call finds nothing');
update awa.done_entries d
   set unique_key = awa._unique_key('q', 'k', '{}', pg_temp.q(' twins'), null, null, null, '{available}', now())
  from twins
 where d.job_id = twins.id;
select is(awa.retry_where(pg_temp.q(' twins')), 1::bigint, 'of two with one key');
select is((select array_agg(j.state order by n) from twins, awa.job(twins.id) j), '{available,cancelled}',
  'the older one runs');
select pg_temp.agrees('and holds it');

select is(:retried, 3, 'three of four were retried');
select is((select array_agg(args order by place) from served), array['1', '2', '3']::jsonb[],
  'and served, in their order');

-- Refusals
select pg_temp.refused(format('select awa.retry_where(%s)', c.args), '22023', c.names, c.description)
  from (values
    (1, '', 'filter', 'no filter'),
    (2, 'max_jobs => 10', 'filter', 'a limit, and no filter'),
    (3, $$pg_temp.q(), state => 'completed'$$, 'state', 'completed ones'),
    (4, $$pg_temp.q(), state => 'running'$$, 'state', 'running ones'),
    (5, $$pg_temp.q(), state => 'available'$$, 'state', 'available ones'),
    (6, $$pg_temp.q(), state => 'Failed'$$, 'state', 'a state in capitals'),
    (7, 'pg_temp.q(), max_jobs => 0', 'max_jobs', 'no jobs'),
    (8, 'pg_temp.q(), max_jobs => -1', 'max_jobs', '-1 jobs'),
    (9, 'pg_temp.q(), max_jobs => 10001', 'max_jobs', '10,001 jobs'),
    (10, $$args => '{}'$$, 'filter', 'an object that is in the arguments of each job'),
    (11, $$args => '[]', max_jobs => 10$$, 'filter', 'an empty array')
  ) c(n, args, names, description)
 order by c.n;
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');
select pg_temp.steps_agree();

select * from finish();
rollback;
