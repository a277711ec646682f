-- Without this, jobs of one customer could only be deleted one by one.
\set name delete_where
\ir ../prelude.psql

-- In queue a: 5 completed of kind x (one with an output, one that lasted), 1 of kind y; 2 failed, 2 cancelled, 1 dead,
-- 1 running, 1 available. In queue b: 1 completed.
select count(*)
  from awa.enqueue_many(:'queue' || ' a', 'x',
    array(
      select jsonb_build_object('n', n, 'customer', jsonb_build_object('id', n % 2))
        from generate_series(1, 10) n
    ),
    tags => '{eu,new}') \g /dev/null
select awa.enqueue(:'queue' || ' a', 'y', tags => '{us}') \g /dev/null
create temp table c as select * from pg_temp.take(' a', 11);
select count(*)
  from awa.complete_many((select array_agg(job_id) from c where n in (1, 2, 3)),
    (select array_agg(receipt) from c where n in (1, 2, 3))) \g /dev/null
select awa.complete(job_id, receipt, '"out"') from c where n = 4 \g /dev/null
select awa.extend(job_id, receipt, '1 hour') from c where n = 5 \g /dev/null
select awa.complete(job_id, receipt) from c where n in (5, 11) \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n in (6, 7) \g /dev/null
select awa.cancel_attempt(job_id, receipt) from c where n = 8 \g /dev/null
select awa.configure_queue(:'queue' || ' a', '{"dead_letter": true}') \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n = 9 \g /dev/null
select awa.enqueue(:'queue' || ' a', 'x') as waiting_id \gset
select awa.enqueue(:'queue' || ' a', 'x') as cancelled_id \gset
select awa.cancel(:cancelled_id) \g /dev/null
select awa.enqueue(:'queue' || ' b', 'x', tags => '{eu}') \g /dev/null
select awa.complete(t.job_id, t.receipt) from awa.claim(:'queue' || ' b') t \g /dev/null
select pg_temp.step('setup') \g /dev/null

begin;
select plan(50);

select is(pg_temp.states(' a'), 'available 1, cancelled 2, completed 6, dead 1, failed 2, running 1', 'before');
create function pg_temp.deleted(args text) returns text
language plpgsql
as $$
declare
  v_count bigint;
  v_states text;
begin
  begin
    execute 'select awa.delete_where(' || args || ')' into v_count;
    v_states := pg_temp.states(' a') || ' | ' || coalesce(pg_temp.states(' b'), '-')
      || coalesce(' | ' || pg_temp.wrong(), '') || coalesce(' | ' || pg_temp.unbalanced(), '');
    raise exception using errcode = 'TAP00';
  exception when sqlstate 'TAP00' then
    null;
  end;
  return v_count || ': ' || v_states;
end
$$;
select is(pg_temp.deleted(format(c.args, pg_temp.q(' a'), pg_temp.q())), c.expected, c.args)
  from (values
    (1, 'queue => %L', '11: available 1, running 1 | completed 1'),
    (2, '%L, null, null, null, null, null, null', '11: available 1, running 1 | completed 1'),
    (3, 'queue => %L, state => ''completed''',
      '6: available 1, cancelled 2, dead 1, failed 2, running 1 | completed 1'),
    (4, 'queue => %L, state => ''failed''',
      '2: available 1, cancelled 2, completed 6, dead 1, running 1 | completed 1'),
    (5, 'queue => %L, state => ''cancelled''',
      '2: available 1, completed 6, dead 1, failed 2, running 1 | completed 1'),
    (6, 'queue => %L, state => ''dead''',
      '1: available 1, cancelled 2, completed 6, failed 2, running 1 | completed 1'),
    (7, 'queue => %L, kind => ''y''',
      '1: available 1, cancelled 2, completed 5, dead 1, failed 2, running 1 | completed 1'),
    (8, 'queue => %L, before => clock_timestamp()', '11: available 1, running 1 | completed 1'),
    (9, 'queue => %L, before => ''2000-01-01''',
      '0: available 1, cancelled 2, completed 6, dead 1, failed 2, running 1 | completed 1'),
    (10, 'queue => %L, state => ''completed'', before => ''2000-01-01''',
      '0: available 1, cancelled 2, completed 6, dead 1, failed 2, running 1 | completed 1'),
    (11, 'queue => %L, max_jobs => 2, state => ''completed''',
      '2: available 1, cancelled 2, completed 4, dead 1, failed 2, running 1 | completed 1'),
    (12, 'queue => %L, max_jobs => 5', '5: available 1, completed 6, running 1 | completed 1'),
    (13, 'queue => %L, max_jobs => 10000', '11: available 1, running 1 | completed 1'),
    (14, 'queue => %2$L || '' b''', '1: available 1, cancelled 2, completed 6, dead 1, failed 2, running 1 | -'),
    (15, 'queue => %2$L || '' no such''',
      '0: available 1, cancelled 2, completed 6, dead 1, failed 2, running 1 | completed 1'),
    (16, 'queue => %L, tag => ''us''',
      '1: available 1, cancelled 2, completed 5, dead 1, failed 2, running 1 | completed 1'),
    (17, 'queue => %L, tag => ''new''', '9: available 1, cancelled 1, completed 1, running 1 | completed 1'),
    (18, 'queue => %L, tag => ''none''',
      '0: available 1, cancelled 2, completed 6, dead 1, failed 2, running 1 | completed 1'),
    (19, 'queue => %L, args => ''{"customer": {"id": 1}}''',
      '5: available 1, cancelled 2, completed 3, failed 1, running 1 | completed 1'),
    (20, 'queue => %L, args => ''{"customer": {"id": 1}}'', tag => ''us''',
      '0: available 1, cancelled 2, completed 6, dead 1, failed 2, running 1 | completed 1'),
    (21, 'queue => %L, args => ''{"n": 9}'', state => ''dead''',
      '1: available 1, cancelled 2, completed 6, failed 2, running 1 | completed 1'),
    (22, 'queue => %L, args => ''{"n": 6}'', state => ''failed''',
      '1: available 1, cancelled 2, completed 6, dead 1, failed 1, running 1 | completed 1'),
    (23, 'queue => %L, args => ''{}''', '11: available 1, running 1 | completed 1'),
    (24, 'queue => %L, args => ''1''',
      '0: available 1, cancelled 2, completed 6, dead 1, failed 2, running 1 | completed 1')
  ) c(n, args, expected)
 order by c.n;

-- Again and again; hidden ones, too
select from awa.configure_queue(pg_temp.q(' a'), '{"completed_retention": "1 millisecond"}') \g /dev/null
select is((select count(*) from awa.jobs j where j.queue = pg_temp.q(' a') and j.state = 'completed'), 0::bigint,
  'a shorter retention of the queue hides completed jobs');
select is((select array_agg(awa.delete_where(pg_temp.q(' a'), max_jobs => 4)) from generate_series(1, 4)), '{4,4,3,0}',
  'called again, it goes on, until it returns 0');
select pg_temp.agrees('the books balance');
select from awa.configure_queue(pg_temp.q(' a'), '{"completed_retention": null}') \g /dev/null
select is((select count(*) from awa.jobs j where j.queue = pg_temp.q(' a') and j.state = 'completed'), 0::bigint,
  'and none comes back when the setting goes');

-- What this very transaction has cancelled while it was available
select is(awa.cancel(:waiting_id), 'available', 'a job that was available is cancelled');
select is(awa.delete_where(pg_temp.q(' a')), 0::bigint,
  'it is not deleted before it is decided at the commit whether it was claimed meanwhile');
select pg_temp.refused(format('select awa.delete_job(%s)', :waiting_id), 'JQ005', 'state', 'nor by delete_job');

-- Refusals
select pg_temp.refused(format('select awa.delete_where(%s)', c.args), '22023', c.names, c.description)
  from (values
    (1, '', 'filter', 'no filter'),
    (2, 'max_jobs => 10', 'filter', 'a limit, and no filter'),
    (3, $$pg_temp.q(), state => 'running'$$, 'state', 'running ones'),
    (4, $$pg_temp.q(), state => 'available'$$, 'state', 'available ones'),
    (5, $$pg_temp.q(), state => 'Failed'$$, 'state', 'a state in capitals'),
    (6, 'pg_temp.q(), max_jobs => 0', 'max_jobs', 'no jobs'),
    (7, 'pg_temp.q(), max_jobs => -1', 'max_jobs', '-1 jobs'),
    (8, 'pg_temp.q(), max_jobs => 10001', 'max_jobs', '10,001 jobs'),
    (9, $$tag => ''$$, 'tag', 'an empty tag'),
    (10, $$tag => repeat('t', 201)$$, 'tag', 'a tag of 201 characters'),
    (11, $$args => '{}'$$, 'filter', 'an object that is in the arguments of each job'),
    (12, $$args => '[]', max_jobs => 10$$, 'filter', 'an empty array')
  ) c(n, args, names, description)
 order by c.n;
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');
select pg_temp.steps_agree();

-- Deleted jobs do not use up what one call may read
select is((
  select array[count(*), count(*) filter (where d.xid is null)]
    from awa.deleted_jobs d
   where awa._queue_of(d.lane) = awa._queue_id(pg_temp.q(' a'))
),
  '{5,1}', 'five are noted, one of them without the place of an entry');
select is((
  select (awa._stretch(c.until, 5, 100000)).is_empty
    from (
      select max(d.job_id) + 1 as until
        from awa.deleted_jobs d
       where d.xid is not null and awa._queue_of(d.lane) = awa._queue_id(pg_temp.q(' a'))
    ) c
),
  false, 'a stretch in which a job is not deleted is read');
select is((
  select (awa._stretch(c.until, 3, 100000)).is_empty
    from (
      select min(d.job_id) + 3 as until
        from awa.deleted_jobs d
       where awa._queue_of(d.lane) = awa._queue_id(pg_temp.q(' a'))
    ) c
),
  true, 'one in which all are is not');
select is((
  select (awa._stretch(c.until, 3, 1)).entries
    from (
      select min(d.job_id) + 3 as until
        from awa.deleted_jobs d
       where awa._queue_of(d.lane) = awa._queue_id(pg_temp.q(' a'))
    ) c
),
  0::bigint, 'and counts nothing');

select * from finish();
rollback;
