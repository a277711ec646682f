-- Without this, dead letters that nobody wants would stay until their retention is over.
\set name purge_dlq
\ir ../prelude.psql

-- In queue a: 4 dead of kind x and 1 of kind y, 1 failed, 1 available. In queue b: 1 dead, with a key that it holds
-- while it is dead.
select count(*) from awa.enqueue_many(:'queue' || ' a', 'x', array_fill('{}'::jsonb, array[6])) \g /dev/null
select awa.enqueue(:'queue' || ' a', 'y', '{"y": [1, 2]}', priority => 3, tags => '{eu}') \g /dev/null
select job_id as keyed_id
  from awa.enqueue_unique(:'queue' || ' b', 'x', unique_key => :'queue',
    unique_states => '{available,running,dead}') \gset
create temp table c as select * from pg_temp.take(' a', 5);
select awa.discard(job_id, receipt, 'e') from c where n = 1 \g /dev/null
select awa.configure_queue(:'queue' || s, '{"dead_letter": true}') from unnest(array[' a', ' b']) s \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n > 1 \g /dev/null
select awa.discard(t.job_id, t.receipt, 'e') from awa.claim(:'queue' || ' a', 2) t where t.kind = 'y' \g /dev/null
select awa.discard(t.job_id, t.receipt, 'e') from awa.claim(:'queue' || ' b') t \g /dev/null
select pg_temp.step('setup') \g /dev/null

begin;
select plan(34);

select is(pg_temp.states(' a'), 'dead 5, failed 1, running 1', 'before');
create function pg_temp.purged(args text) returns text
language plpgsql
as $$
declare
  v_count bigint;
  v_states text;
begin
  begin
    execute 'select awa.purge_dlq(' || args || ')' into v_count;
    v_states := pg_temp.states(' a') || ' | ' || coalesce(pg_temp.states(' b'), '-');
    raise exception using errcode = 'TAP00';
  exception when sqlstate 'TAP00' then
    null;
  end;
  return v_count || ': ' || v_states;
end
$$;
select is(pg_temp.purged(format(c.args, pg_temp.q(' a'), pg_temp.q())), c.expected, c.args)
  from (values
    (1, 'queue => %L', '5: failed 1, running 1 | dead 1'),
    (2, '%L, null, null, null, null', '5: failed 1, running 1 | dead 1'),
    (3, 'queue => %L, state => ''dead''', '5: failed 1, running 1 | dead 1'),
    (4, 'queue => %L, kind => ''y''', '1: dead 4, failed 1, running 1 | dead 1'),
    (5, 'queue => %L, before => now()', '5: failed 1, running 1 | dead 1'),
    (6, 'queue => %L, before => ''2000-01-01''', '0: dead 5, failed 1, running 1 | dead 1'),
    (7, 'queue => %L, max_jobs => 2', '2: dead 3, failed 1, running 1 | dead 1'),
    (8, 'queue => %L, max_jobs => 10000', '5: failed 1, running 1 | dead 1'),
    (9, 'queue => %2$L || '' b''', '1: dead 5, failed 1, running 1 | -'),
    (10, 'queue => %2$L || '' no such''', '0: dead 5, failed 1, running 1 | dead 1'),
    (11, 'queue => %L, tag => ''eu''', '1: dead 4, failed 1, running 1 | dead 1'),
    (12, 'queue => %L, tag => ''us''', '0: dead 5, failed 1, running 1 | dead 1'),
    (13, 'queue => %L, args => ''{"y": [2]}''', '1: dead 4, failed 1, running 1 | dead 1'),
    (14, 'queue => %L, args => ''{"y": [3]}''', '0: dead 5, failed 1, running 1 | dead 1')
  ) c(n, args, expected)
 order by c.n;

-- For good
select is((select count(*) from awa.unique_claims u where u.job_id = :keyed_id), 1::bigint,
  'a dead letter may hold a key');
select is(awa.purge_dlq(pg_temp.q(' b')), 1::bigint, 'when it is purged');
select is((select count(*) from awa.unique_claims u where u.job_id = :keyed_id), 0::bigint, 'nobody does');
select is((select count(*) from awa.job(:keyed_id)), 0::bigint, 'and nobody finds it');
select pg_temp.refused(format('select awa.retry(%s)', :keyed_id), 'JQ003', 'no such job', 'or retries it');
select is(awa.purge_dlq(pg_temp.q(' b')), 0::bigint, 'a second call finds nothing');
select pg_temp.agrees('the books balance');

-- Refusals
select pg_temp.refused(format('select awa.purge_dlq(%s)', c.args), '22023', c.names, c.description)
  from (values
    (1, '', 'filter', 'no filter'),
    (2, 'max_jobs => 10', 'filter', 'a limit, and no filter'),
    (3, $$pg_temp.q(), state => 'failed'$$, 'state', 'failed ones'),
    (4, $$pg_temp.q(), state => 'Dead'$$, 'state', 'a state in capitals'),
    (5, 'pg_temp.q(), max_jobs => 0', 'max_jobs', 'no jobs'),
    (6, 'pg_temp.q(), max_jobs => -1', 'max_jobs', '-1 jobs'),
    (7, 'pg_temp.q(), max_jobs => 10001', 'max_jobs', '10,001 jobs'),
    (8, $$args => '{}'$$, 'filter', 'an object that is in the arguments of each job'),
    (9, $$args => '[]', max_jobs => 10$$, 'filter', 'an empty array')
  ) c(n, args, names, description)
 order by c.n;
select is(pg_temp.states(' a'), 'dead 5, failed 1, running 1', 'a refused call removes nothing');
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');
select pg_temp.steps_agree();

select * from finish();
rollback;
