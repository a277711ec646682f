-- Without this, a flood of jobs that should not run could only be stopped one by one.
\set name cancel_where
\ir ../prelude.psql

-- In queue a: 4 available of kind x, 3 of kind y, 2 scheduled, 2 retryable, 3 running (one with a row of its own), 2
-- completed, 1 failed. In queue b: 2 available.
select awa.register_worker(:'queue') as worker_id \gset
select count(*)
  from awa.enqueue_many(:'queue' || ' a', 'x', array(select to_jsonb(n) from generate_series(1, 12) n),
    max_attempts => 3) \g /dev/null
create temp table c as
select row_number() over (order by t.receipt)::int as n, t.job_id, t.receipt
  from awa.claim(:'queue' || ' a', 8, :worker_id) t;
select awa.fail(job_id, receipt, 'first', '1 hour') from c where n in (1, 2) \g /dev/null
select awa.complete(job_id, receipt) from c where n in (3, 4) \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n = 5 \g /dev/null
select awa.extend(job_id, receipt, '1 hour') from c where n = 6 \g /dev/null
select count(*)
  from awa.enqueue_many(:'queue' || ' a', 'y', array_fill('{"y": {"a": 1, "b": 2}}'::jsonb, array[3]), 4,
    tags => '{eu,fast}') \g /dev/null
select count(*)
  from awa.enqueue_many(:'queue' || ' a', 'y', array_fill('{"y": {"a": 1}}'::jsonb, array[2]),
    run_at => '2130-01-01', tags => '{eu}') \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' b', 'x', array_fill('{}'::jsonb, array[2])) \g /dev/null
select job_id as keyed_id from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue') \gset
select job_id as keyed_later_id
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || ' later', run_at => '2130-01-01') \gset
select pg_temp.step('setup') \g /dev/null
-- Committed, then served
select count(*)
  from awa.enqueue_many(:'queue' || ' served', 'x', array(select to_jsonb(n) from generate_series(1, 6) n)) \g /dev/null
select awa.enqueue(:'queue' || ' served', 'y', '"y"') \g /dev/null
select awa.cancel_where(queue => :'queue' || ' served', kind => 'x', max_jobs => 4) as cancelled \gset
create temp table served as select row_number() over () as place, t.* from awa.claim(:'queue' || ' served', 10) t;

begin;
select plan(59);

select is(pg_temp.states(' a'), 'available 7, completed 2, failed 1, retryable 2, running 3, scheduled 2', 'before');

-- One filter at a time, each rolled back
savepoint before;
create function pg_temp.cancelled(args text) returns text
language plpgsql
as $$
declare
  v_count bigint;
  v_said text;
  v_states text;
begin
  begin
    execute 'select awa.cancel_where(' || args || ')' into v_count;
    set constraints all immediate;
    set local idle_in_transaction_session_timeout = 0;
    v_states := pg_temp.states(' a') || ' | ' || pg_temp.states(' b') || coalesce(' | ' || pg_temp.wrong(), '');
    raise exception using errcode = 'TAP00';
  exception when sqlstate 'TAP00' then
    null;
  end;
  return v_count || ': ' || v_states;
end
$$;
select is(pg_temp.cancelled(format(c.args, pg_temp.q(' a'), pg_temp.q())), c.expected, c.args)
  from (values
    (1, 'queue => %L', '14: cancelled 14, completed 2, failed 1 | available 2'),
    (2, '%L', '14: cancelled 14, completed 2, failed 1 | available 2'),
    (3, 'queue => %L, kind => ''y''',
      '5: available 4, cancelled 5, completed 2, failed 1, retryable 2, running 3 | available 2'),
    (4, 'queue => %L, state => ''available''',
      '7: cancelled 7, completed 2, failed 1, retryable 2, running 3, scheduled 2 | available 2'),
    (5, 'queue => %L, state => ''scheduled''',
      '2: available 7, cancelled 2, completed 2, failed 1, retryable 2, running 3 | available 2'),
    (6, 'queue => %L, state => ''retryable''',
      '2: available 7, cancelled 2, completed 2, failed 1, running 3, scheduled 2 | available 2'),
    (7, 'queue => %L, state => ''running''',
      '3: available 7, cancelled 3, completed 2, failed 1, retryable 2, scheduled 2 | available 2'),
    (8, 'queue => %L, state => ''waiting_external''',
      '0: available 7, completed 2, failed 1, retryable 2, running 3, scheduled 2 | available 2'),
    (9, 'queue => %L, kind => ''x'', state => ''running''',
      '3: available 7, cancelled 3, completed 2, failed 1, retryable 2, scheduled 2 | available 2'),
    (10, 'queue => %L, kind => ''y'', state => ''running''',
      '0: available 7, completed 2, failed 1, retryable 2, running 3, scheduled 2 | available 2'),
    (11, 'queue => %L, kind => ''no such''',
      '0: available 7, completed 2, failed 1, retryable 2, running 3, scheduled 2 | available 2'),
    (12, 'queue => %L, before => now()', '14: cancelled 14, completed 2, failed 1 | available 2'),
    (13, 'queue => %L, before => ''2000-01-01''',
      '0: available 7, completed 2, failed 1, retryable 2, running 3, scheduled 2 | available 2'),
    (15, 'queue => %L, max_jobs => 14', '14: cancelled 14, completed 2, failed 1 | available 2'),
    (16, 'queue => %L, max_jobs => 10000', '14: cancelled 14, completed 2, failed 1 | available 2'),
    (17, 'queue => %L, max_jobs => null, kind => null', '14: cancelled 14, completed 2, failed 1 | available 2'),
    (18, 'queue => %2$L || '' no such''',
      '0: available 7, completed 2, failed 1, retryable 2, running 3, scheduled 2 | available 2'),
    (19, 'queue => %L, tag => ''eu''',
      '5: available 4, cancelled 5, completed 2, failed 1, retryable 2, running 3 | available 2'),
    (20, 'queue => %L, tag => ''fast''',
      '3: available 4, cancelled 3, completed 2, failed 1, retryable 2, running 3, scheduled 2 | available 2'),
    (21, 'queue => %L, tag => ''eu'', state => ''scheduled''',
      '2: available 7, cancelled 2, completed 2, failed 1, retryable 2, running 3 | available 2'),
    (22, 'queue => %L, tag => ''none''',
      '0: available 7, completed 2, failed 1, retryable 2, running 3, scheduled 2 | available 2'),
    (23, 'queue => %L, args => ''{"y": {"a": 1}}''',
      '5: available 4, cancelled 5, completed 2, failed 1, retryable 2, running 3 | available 2'),
    (24, 'queue => %L, args => ''{"y": {"b": 2}}''',
      '3: available 4, cancelled 3, completed 2, failed 1, retryable 2, running 3, scheduled 2 | available 2'),
    (25, 'queue => %L, args => ''6''',
      '1: available 7, cancelled 1, completed 2, failed 1, retryable 2, running 2, scheduled 2 | available 2'),
    (26, 'queue => %L, args => ''7'', state => ''running''',
      '1: available 7, cancelled 1, completed 2, failed 1, retryable 2, running 2, scheduled 2 | available 2'),
    (27, 'queue => %L, args => ''1''',
      '1: available 7, cancelled 1, completed 2, failed 1, retryable 1, running 3, scheduled 2 | available 2')
  ) c(n, args, expected)
 order by c.n;
select matches(pg_temp.cancelled(format('%L, max_jobs => %s', pg_temp.q(' a'), n)),
  '^' || n || ': .*cancelled ' || n || ',', format('at most %s', n))
  from unnest(array[1, 3, 5, 11, 13]) n;

-- Afterwards
select awa.cancel_where(queue => :'queue' || ' a', before => clock_timestamp()) \g /dev/null
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select is(pg_temp.states(' a'), 'cancelled 14, completed 2, failed 1', 'all that had not ended');
select is((
  select string_agg(distinct format('%s %s', j.errors -> -1 ->> 'error', j.errors -> -1 ->> 'by'), ', ')
    from awa.jobs j
   where j.queue = pg_temp.q(' a') and j.state = 'cancelled'
),
  'cancelled with others ' || session_user, 'each says so, and who did it');
select is((
  select array_agg(c.n || ' ' || l.reason order by c.n) from awa.heartbeat(:worker_id) l join c using (job_id, receipt)
),
  '{"6 cancelled with others","7 cancelled with others","8 cancelled with others"}', 'the worker is told');
select pg_temp.refused(format('select awa.complete(%s, %s)', job_id, receipt), 'JQ001', 'stale',
  'its answer is stale, item ' || n)
  from c
 where n in (6, 7)
 order by n;
select is((
  select string_agg(e ->> 'error', ', ' order by c.n, e ->> 'attempt')
    from c, awa.job(c.job_id) j, jsonb_array_elements(j.errors) with ordinality x(e, place)
   where c.n in (1, 2)
),
  'first, cancelled with others, first, cancelled with others', 'errors of before are kept');
set constraints all deferred;
select is(awa.cancel_where(pg_temp.q(' keyed')), 2::bigint, 'with unique keys');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select is((select count(*) from awa.unique_claims u where u.job_id in (:keyed_id, :keyed_later_id)), 0::bigint,
  'which are free then');
select pg_temp.agrees('the books balance');
select is(awa.cancel_where(pg_temp.q(' a')), 0::bigint, 'a second call finds nothing');
set constraints all deferred;

select is(:cancelled, 4, 'four of six of a kind were cancelled');
select is((select array_agg(args order by place) from served), array['5', '6', '"y"']::jsonb[],
  'the first ones; the others are served');

-- Refusals
select pg_temp.refused(format('select awa.cancel_where(%s)', c.args), '22023', c.names, c.description)
  from (values
    (1, '', 'filter', 'no filter'),
    (2, 'max_jobs => 10', 'filter', 'a limit, and no filter'),
    (3, 'null, null, null, null', 'filter', 'nulls'),
    (4, $$pg_temp.q(), state => 'completed'$$, 'state', 'a state that has ended'),
    (5, $$pg_temp.q(), state => 'dead'$$, 'state', 'dead ones'),
    (6, $$pg_temp.q(), state => ''$$, 'state', 'an empty state'),
    (7, $$pg_temp.q(), state => 'Running'$$, 'state', 'a state in capitals'),
    (8, 'pg_temp.q(), max_jobs => 0', 'max_jobs', 'no jobs'),
    (9, 'pg_temp.q(), max_jobs => -1', 'max_jobs', '-1 jobs'),
    (10, 'pg_temp.q(), max_jobs => 10001', 'max_jobs', '10,001 jobs'),
    (11, $$tag => ''$$, 'tag', 'an empty tag'),
    (12, $$args => '{}'$$, 'filter', 'an object that is in the arguments of each job'),
    (13, $$args => '[]', max_jobs => 10$$, 'filter', 'an empty array')
  ) c(n, args, names, description)
 order by c.n;
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');
select pg_temp.steps_agree();

select * from finish();
rollback;
