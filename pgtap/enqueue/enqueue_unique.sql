-- Without this, work of which there should be one would be done twice at the same time, or never again once it was
-- done.
\set name enqueue_unique
\ir ../prelude.psql

-- What a call with this key would do: insert, or find it held by the job, or by another. It is rolled back.
create function pg_temp.tried(key text, job_id bigint) returns text
language plpgsql
as $$
declare
  v_found record;
begin
  begin
    select * into v_found
      from awa.enqueue_unique(pg_temp.q(), 'tried', unique_key => key, unique_states => '{available}');
    raise exception using errcode = 'TAP00';
  exception when sqlstate 'TAP00' then
    null;
  end;
  return case
    when v_found.inserted then 'free'
    when v_found.job_id = tried.job_id then 'held'
    else 'held by another'
  end;
end
$$;

-- A job through all of its states, of which it holds its key in some; its attempts in the ledger, or with rows of their
-- own.
create temp table life (states text[], lasts boolean, n int generated always as identity, step text, state text,
  tried text);
create procedure pg_temp.life(states text[], lasts boolean)
language plpgsql
as $$
declare
  v_key text := pg_temp.q(format(' %s %s', states, lasts));
  v_queue text := v_key;
  v_id bigint;
  v_claim record;
  v_step text;
begin
  foreach v_step in array string_to_array(
    'enqueue promote claim fail retry claim release claim snooze move set_priority retry set_priority claim discard '
    'retry cancel retry claim cancel retry claim cancel_attempt retry dead '
    'claim discard retry claim complete', ' ')
  loop
    case v_step
      when 'enqueue' then
        select u.job_id into v_id
          from awa.enqueue_unique(v_queue, 'k', unique_key => v_key, unique_states => states, run_at => '2130-01-01') u;
      when 'promote' then
        update awa.deferred_jobs d set run_at = clock_timestamp() where d.job_id = v_id;
        commit;
        perform awa.promote_due();
      when 'claim' then
        select * into strict v_claim from awa.claim(v_queue);
        if lasts then
          perform awa.extend(v_id, v_claim.receipt, '1 hour');
        end if;
      when 'fail' then perform awa.fail(v_id, v_claim.receipt, 'e', '1 hour');
      when 'release' then perform awa.release(v_id, v_claim.receipt);
      when 'snooze' then perform awa.snooze(v_id, v_claim.receipt, '1 hour');
      when 'discard' then perform awa.discard(v_id, v_claim.receipt, 'e');
      when 'cancel_attempt' then perform awa.cancel_attempt(v_id, v_claim.receipt);
      when 'complete' then perform awa.complete(v_id, v_claim.receipt);
      when 'retry' then perform awa.retry(v_id);
      when 'cancel' then perform awa.cancel(v_id);
      when 'set_priority' then perform awa.set_priority(v_id, 4);
      when 'move' then
        v_queue := v_queue || ' moved';
        perform awa.move(v_id, v_queue);
      when 'dead' then perform awa.configure_queue(v_queue, '{"dead_letter": true}');
    end case;
    commit;
    insert into life (states, lasts, step, state, tried)
    select life.states, life.lasts, v_step, j.state, pg_temp.tried(v_key, v_id)
      from awa.job(v_id) j;
    commit;
    if states = '{scheduled,available,running,retryable,waiting_external}' then
      perform pg_temp.step(v_step);
      commit;
    end if;
  end loop;
  perform pg_temp.step(format('%s %s', states, lasts));
end
$$;
call pg_temp.life('{scheduled,available,running,retryable,waiting_external}', false);
call pg_temp.life('{scheduled,available,running,retryable,waiting_external}', true);
call pg_temp.life('{scheduled}', false);
call pg_temp.life('{available}', false);
call pg_temp.life('{running}', false);
call pg_temp.life('{retryable}', false);
call pg_temp.life('{completed}', false);
call pg_temp.life('{failed}', false);
call pg_temp.life('{cancelled}', false);
call pg_temp.life('{dead}', false);
call pg_temp.life('{running}', true);
call pg_temp.life('{completed}', true);
call pg_temp.life('{failed}', true);
call pg_temp.life('{cancelled,dead}', true);
call pg_temp.life('{scheduled,available,running,retryable,waiting_external,completed,failed,cancelled,dead}', false);

-- Ends in batches, some with an output, beside jobs without a key
create temp table batch as
select n,
       (
         awa.enqueue_unique(pg_temp.q(' batch'), 'k', unique_key => pg_temp.q(' batch ' || n), max_attempts => 1)
       ).job_id as id
  from generate_series(1, 6) n;
select count(*) from awa.enqueue_many(:'queue' || ' batch', 'k', array_fill('{}'::jsonb, array[2])) \g /dev/null
create temp table taken as select * from pg_temp.take(' batch', 8);
select awa.extend(job_id, receipt, '1 hour') from taken where n in (2, 5) \g /dev/null
select count(*)
  from awa.complete_many((select array_agg(job_id order by n) from taken where n in (1, 2, 3, 7)),
    (select array_agg(receipt order by n) from taken where n in (1, 2, 3, 7)),
    array[null, null, '1', null]::jsonb[]) \g /dev/null
select count(*)
  from awa.fail_many((select array_agg(job_id) from taken where n in (4, 5, 8)),
    (select array_agg(receipt) from taken where n in (4, 5, 8)), array_fill('e'::text, array[3])) \g /dev/null
select pg_temp.step('batches') \g /dev/null

begin;
select plan(76);

-- Its row
create temp table made as
select u.*
  from awa.enqueue_unique(queue => pg_temp.q(), kind => 'k', args => '{"a": 1}', unique_key => pg_temp.q(' row'),
    priority => 3, max_attempts => 7, tags => '{x,y}', metadata => '{"m": 1}',
    group_key => 'g') u;
select is((select inserted from made), true, 'who comes first inserts');
select is(
  (select to_jsonb(j) - '{id,run_at,created_at}'::text[] from made m, awa.job(m.job_id) j),
  jsonb_build_object('kind', 'k', 'queue', pg_temp.q(), 'args', '{"a": 1}'::jsonb, 'state', 'available', 'priority', 3,
    'attempt', 0, 'max_attempts', 7,
    'heartbeat_at', null, 'deadline_at', null, 'attempted_at', null, 'finalized_at', null, 'errors', '[]'::jsonb,
    'metadata', '{"m": 1}'::jsonb,
    'group_key', 'g', 'expires_at', null,
    'tags', '["x", "y"]'::jsonb, 'unique_key',
    encode(sha256(convert_to(jsonb_build_object('key', pg_temp.q(' row'))::text, 'UTF8')), 'hex'),
    'receipt', null, 'progress', null, 'output', null, 'worker_id', null),
    'a job as enqueue makes it, with the hash of its key');
create temp table before as select pg_temp.writes() as writes;
create temp table again as
select u.*
  from awa.enqueue_unique(pg_temp.q(' another'), 'other', '{"a": 2}', pg_temp.q(' row'), priority => 1) u;
select is((select row(a.job_id = m.job_id, a.inserted)::text from again a, made m), '(t,f)',
  'who comes second gets the job that holds the key');
select is(pg_temp.writes(), (select writes from before), 'and writes nothing');
select is((select row(j.kind, j.queue, j.args, j.priority)::text from made m, awa.job(m.job_id) j),
  row('k'::text, pg_temp.q(), '{"a": 1}'::jsonb, 3)::text, 'the job stays as it is');
select is((select count(*) from awa.queues q where q.name = pg_temp.q(' another')), 0::bigint,
  'nor does a queue come into being for it');
select is((select count(*) from awa.enqueue_unique_row), 0::bigint, 'the view that names the columns is empty');

-- Deferred
create temp table later as
select u.*
  from awa.enqueue_unique(pg_temp.q(), 'k', unique_key => pg_temp.q(' later'), run_at => '2130-01-01') u;
select is((select row(l.inserted, j.state, j.unique_key is not null)::text from later l, awa.job(l.job_id) j),
  '(t,scheduled,t)', 'a scheduled job holds a key too');
select is(pg_temp.tried(pg_temp.q(' later'), (select job_id from later)), 'held', 'before its time');

-- What the key is made of. Each call beside a first one: is it the same?
create function pg_temp.same(first text, second text) returns boolean
language plpgsql
as $$
declare
  v_inserted boolean;
begin
  begin
    execute 'select u.inserted from awa.enqueue_unique(' || first || ') u' into strict v_inserted;
    if not v_inserted then
      raise exception 'the first is a duplicate: %', first;
    end if;
    execute 'select u.inserted from awa.enqueue_unique(' || second || ') u' into strict v_inserted;
    raise exception using errcode = 'TAP00';
  exception when sqlstate 'TAP00' then
    null;
  end;
  return not v_inserted;
end
$$;
select is(pg_temp.same(format('pg_temp.q(), pg_temp.q(), %s', c.first),
  format('%s, %s', coalesce(c.place, 'pg_temp.q(), pg_temp.q()'), c.second)),
  c.same, c.description)
  from (values
    (1, $$'1'$$, null, $$'1'$$, true, 'the same kind and args'),
    (2, $$'1'$$, null, $$'2'$$, false, 'other args'),
    (3, $$'1'$$, 'pg_temp.q(), pg_temp.q($$ other$$)', $$'1'$$, false, 'another kind'),
    (4, $$'1'$$, 'pg_temp.q($$ other$$), pg_temp.q()', $$'1'$$, true,
      'another queue, which is no part of the key unless named'),
    (5, $$'{"a": 1, "b": 2}'$$, null, $$'{"b": 2, "a": 1}'$$, true, 'args in another order'),
    (6, $$null$$, null, $$'{}'$$, true, 'no args are empty ones'),
    (7, $$'1', unique_by => null$$, null, $$'1', unique_by => '{args,kind}'$$, true,
      'an explicit null for unique_by: the default, in any order'),
    (8, $$'1', unique_by => '{queue}'$$, 'pg_temp.q(), pg_temp.q($$ other$$)', $$'2', unique_by => '{queue}'$$, true,
      'a queue alone'),
    (9, $$'1', unique_by => '{queue}'$$, 'pg_temp.q($$ other$$), pg_temp.q()', $$'1', unique_by => '{queue}'$$, false,
      'another queue'),
    (10, $$'1', unique_by => '{kind}'$$, null, $$'2', unique_by => '{kind}'$$, true, 'a kind alone'),
    (11, $$'1', unique_by => '{kind}'$$, null, $$'1'$$, false, 'a kind alone is not a kind and args'),
    (12, $$to_jsonb(pg_temp.q()), unique_by => '{args}'$$, 'pg_temp.q($$ a$$), pg_temp.q($$ b$$)',
      $$to_jsonb(pg_temp.q()), unique_by => '{args}'$$, true, 'args alone'),
    (13, $$'1', unique_key => pg_temp.q(' s')$$, 'pg_temp.q($$ a$$), pg_temp.q($$ b$$)', $$'2',
      unique_key => pg_temp.q(' s'), unique_by => '{queue}'$$, true, 'a text, whatever else there is'),
    (14, $$'1', unique_key => pg_temp.q(' s')$$, null, $$'1', unique_key => pg_temp.q(' S')$$, false,
      'in other letters'),
    (15, $$'1', unique_period => '10 years'$$, null, $$'1', unique_period => interval '10 years'$$, true,
      'within a period'),
    (16, $$'1', unique_period => '10 years'$$, null, $$'1'$$, false, 'with a period or without'),
    (17, $$'1', unique_period => '10 years'$$, null, $$'1', unique_period => '9 years'$$, false, 'with another period'),
    (18, $$'1', unique_period => '1 millisecond'$$, null, $$(select '1'::jsonb from pg_sleep(0.003)),
      unique_period => '1 millisecond'$$, false, 'in the next period'),
    (19, $$'1', unique_states => null$$, null, $$'1', unique_states => '{available,available}'$$, true,
      'the states are no part of the key'),
    (20, $$'1', unique_key => repeat('ü', 10000)$$, null, $$'1', unique_key => repeat('ü', 10000)$$, true,
      'a key of 10,000 characters'),
    (21, $$'1', unique_states => '{running}'$$, null, $$'1'$$, false,
      'a job that does not hold its key yet is in nobody''s way')
  ) c(n, first, place, second, same, description)
 order by c.n;

-- Through a job's life
select is((select count(*) from life), 450::bigint, 'a job was in thirty states, fifteen times');
select is((select string_agg(distinct l.state, ' ' order by l.state) from life l),
  'available cancelled completed dead failed retryable running scheduled', 'in every state there is');
select is((
  select string_agg(format('%s (%s), %s: %s after %s', l.states, l.lasts, l.tried, l.state, l.step), ' | ' order by l.n)
    from life l
   where l.tried is distinct from case when l.state = any(l.states) then 'held' else 'free' end
),
  null,
  'a key is held in the states of unique_states, and in no other');
select pg_temp.steps_agree();
select is((select array_agg(pg_temp.tried(pg_temp.q(' batch ' || n), id) order by n) from batch),
  '{free,free,free,free,free,held}', 'keys of jobs that ended in a batch are free, of one that runs it is not');
select is((select string_agg(j.state, ' ' order by n) from batch b, awa.job(b.id) j),
  'completed completed completed failed failed running', 'those that ended');

-- With the caller's transaction
savepoint before;
select job_id as gone_id from awa.enqueue_unique(:'queue', 'k', unique_key => :'queue' || ' gone') \gset
select is(pg_temp.tried(pg_temp.q(' gone'), :gone_id), 'held', 'the caller holds it at once');
rollback to before;
select is(pg_temp.tried(pg_temp.q(' gone'), :gone_id), 'free', 'and when it rolls back, nobody does');

-- Cancelled and enqueued anew, in one transaction
savepoint anew;
create temp table first as select * from awa.enqueue_unique(pg_temp.q(' anew'), 'k', unique_key => pg_temp.q(' anew'));
select awa.cancel(job_id) from first \g /dev/null
create temp table second as select * from awa.enqueue_unique(pg_temp.q(' anew'), 'k', unique_key => pg_temp.q(' anew'));
select is((select row(s.inserted, s.job_id <> f.job_id)::text from first f, second s), '(t,t)',
  'who has cancelled the job that holds a key can enqueue the next one at once');
select is(pg_temp.tried(pg_temp.q(' anew'), (select job_id from second)), 'held', 'which holds it');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select is(pg_temp.tried(pg_temp.q(' anew'), (select job_id from second)), 'held', 'and keeps it');
select pg_temp.agrees('when it is decided');
set constraints all deferred;
create temp table third as
select *
  from awa.enqueue_unique(pg_temp.q(' anew'), 'k', unique_key => pg_temp.q(' kept'),
    unique_states => '{available,cancelled}');
select awa.cancel(job_id) from third \g /dev/null
select is(pg_temp.tried(pg_temp.q(' kept'), (select job_id from third)), 'held',
  'but not where a cancelled job holds its key');
rollback to anew;
set constraints all deferred;

-- Two that may both be there: the key stays with the one that has it
savepoint two;
create temp table two as
select 1 as n, u.job_id
  from awa.enqueue_unique(pg_temp.q(' two'), 'k', unique_key => pg_temp.q(' two'), unique_states => '{cancelled}') u;
insert into two select 2, u.job_id from awa.enqueue_unique(pg_temp.q(' two'), 'k', unique_key => pg_temp.q(' two')) u;
select isnt((select job_id from two where n = 1), (select job_id from two where n = 2),
  'a key that no job holds yet can be taken');
select awa.cancel(job_id) from two where n = 1 \g /dev/null
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select is(pg_temp.tried(pg_temp.q(' two'), (select job_id from two where n = 2)), 'held',
  'who would begin to hold it leaves it with who has it');
select awa.cancel(job_id) from two where n = 2 \g /dev/null
select is(pg_temp.tried(pg_temp.q(' two'), 0), 'free', 'who let go of it has');
rollback to two;

-- Limits and refusals
select pg_temp.refused(format('select * from awa.enqueue_unique(%s)', c.args), '22023', c.names, c.description)
  from (values
    (1, $$null, 'k'$$, 'queue', 'no queue'),
    (2, $$repeat('q', 201), 'k'$$, 'queue', 'a queue of 201 characters'),
    (3, $$pg_temp.q(' refused'), null$$, 'kind', 'no kind'),
    (4, $$pg_temp.q(' refused'), ''$$, 'kind', 'an empty kind'),
    (5, $$pg_temp.q(' refused'), 'k', priority => 0$$, 'priority', 'priority 0'),
    (6, $$pg_temp.q(' refused'), 'k', priority => 5$$, 'priority', 'priority 5'),
    (7, $$pg_temp.q(' refused'), 'k', max_attempts => 0$$, 'max_attempts', 'no attempts'),
    (8, $$pg_temp.q(' refused'), 'k', max_attempts => 1001$$, 'max_attempts', '1001 attempts'),
    (9, $$pg_temp.q(' refused'), 'k', tags => array(select 't' || n from generate_series(1, 21) n)$$, 'tags',
      '21 tags'),
    (10, $$pg_temp.q(' refused'), 'k', run_at => 'infinity'$$, 'run_at', 'a run_at that never comes'),
    (50, $$pg_temp.q(' refused'), 'k', group_key => ''$$, 'group_key', 'an empty group'),
    (51, $$pg_temp.q(' refused'), 'k', expires_at => now()$$, 'expires_at', 'an expires_at that has passed'),
    (11, $$pg_temp.q(' refused'), 'k', unique_key => ''$$, 'unique_key', 'an empty key'),
    (12, $$pg_temp.q(' refused'), 'k', unique_key => repeat('k', 10001)$$, 'unique_key', 'a key of 10,001 characters'),
    (13, $$pg_temp.q(' refused'), 'k', unique_by => '{}'$$, 'unique_by', 'a key of nothing'),
    (14, $$pg_temp.q(' refused'), 'k', unique_by => '{kind,priority}'$$, 'unique_by', 'a key of what there is not'),
    (15, $$pg_temp.q(' refused'), 'k', unique_by => array['kind', null]$$, 'unique_by', 'a part that is null'),
    (16, $$pg_temp.q(' refused'), 'k', unique_by => '{queue,kind,args,kind}'$$, 'unique_by', 'four parts of three'),
    (17, $$pg_temp.q(' refused'), 'k', unique_by => '{{kind},{args}}'$$, 'unique_by', 'parts in two dimensions'),
    (18, $$pg_temp.q(' refused'), 'k', unique_period => '0'$$, 'unique_period', 'no period'),
    (19, $$pg_temp.q(' refused'), 'k', unique_period => '-1 hour'$$, 'unique_period',
      'a period that ended before it began'),
    (20, $$pg_temp.q(' refused'), 'k', unique_period => '11 years'$$, 'unique_period', 'a period of 11 years'),
    (21, $$pg_temp.q(' refused'), 'k', unique_states => '{}'$$, 'unique_states', 'no states'),
    (22, $$pg_temp.q(' refused'), 'k', unique_states => '{done}'$$, 'unique_states', 'a state that there is not'),
    (23, $$pg_temp.q(' refused'), 'k', unique_states => '{available,Running}'$$, 'unique_states',
      'a state in capitals'),
    (24, $$pg_temp.q(' refused'), 'k', unique_states => array['available', null]$$, 'unique_states',
      'a state that is null'),
    (25, $$pg_temp.q(' refused'), 'k', unique_states => array_fill('dead'::text, array[10])$$, 'unique_states',
      'ten states of nine')
  ) c(n, args, names, description)
 order by c.n;
select is((select count(*) from awa.queues where name = pg_temp.q(' refused')), 0::bigint,
  'a refused call makes no queue');

-- Rows that it writes
select awa.enqueue(:'queue' || ' quiet', 'k') \g /dev/null
create temp table rows_before as
select relname, n_tup_ins, n_tup_upd, n_tup_del
  from pg_stat_xact_user_tables
 where schemaname = 'awa';
select inserted from awa.enqueue_unique(:'queue' || ' quiet', 'k', unique_key => :'queue' || ' quiet') \g /dev/null
select is(
  (
    select string_agg(regexp_replace(a.relname, '_[0-3]$', '')
      || format(' %s %s %s', a.n_tup_ins - coalesce(b.n_tup_ins, 0), a.n_tup_upd - coalesce(b.n_tup_upd, 0),
        a.n_tup_del - coalesce(b.n_tup_del, 0)),
      ', ' order by a.relname)
     from pg_stat_xact_user_tables a
     left join rows_before b using (relname)
    where a.schemaname = 'awa'
      and (a.n_tup_ins, a.n_tup_upd, a.n_tup_del) is distinct from (coalesce(b.n_tup_ins, 0), coalesce(b.n_tup_upd, 0),
        coalesce(b.n_tup_del, 0))),
  'ready_entries 1 0 0, unique_claims 1 0 0', 'a unique job is a row more');
select pg_temp.agrees('the books balance');

select * from finish();
rollback;
