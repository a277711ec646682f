-- Without this, a job could keep a key that it should have let go of, or take one away from another.
\set name unique_keys
\ir ../prelude.psql

-- Jobs with keys, one for each way out of a state
create temp table c (nth serial, what text, job_id bigint, receipt bigint);
insert into c (what, job_id)
select w, (awa.enqueue_unique(:'queue' || w, 'k', unique_key => w || :'queue', run_at => r)).job_id
  from (values ('scheduled', now() + interval '1 day'), ('available', null), ('running', null),
          ('failed', null), ('completed', null), ('retried', now() + interval '1 day')) w(w, r);
update c set receipt = t.receipt
  from (select what, (awa.claim(:'queue' || what)).receipt from c where what in ('running', 'failed', 'completed')) t
 where t.what = c.what;

begin;
select plan(32);

-- States
select is(
  (
    select array_agg(awa._state_bit(s) order by n)
      from unnest(
        array['scheduled', 'available', 'running', 'retryable', 'waiting_external', 'completed', 'failed', 'cancelled',
          'dead']
      ) with ordinality u(s, n)
  ),
  '{1,2,4,8,16,32,64,128,256}', 'each state has a bit of its own');
select is(awa._state_bit(s), null, format('there is no state %s', coalesce(quote_literal(s), 'null')))
  from unnest(array['', 'Running', 'done', null]) s;

-- A key is a hash and the bits of its states
create function pg_temp.key(name text, states text[]) returns bytea
language sql
return sha256(convert_to(name, 'UTF8'))
  || (select decode(lpad(to_hex(bit_or(awa._state_bit(s))), 4, '0'), 'hex') from unnest(states) s);
select is(octet_length(pg_temp.key('k', '{dead}')), 34, 'it takes 34 bytes');
select is(
  (
    select array_agg(s order by s)
      from unnest(
        array['scheduled', 'available', 'running', 'retryable', 'waiting_external', 'completed', 'failed', 'cancelled',
          'dead']
      ) s
     where awa._holds(pg_temp.key('k', x.states), s)
  ),
  (select array_agg(s order by s) from unnest(x.states) s), format('a key of %s is held in these states', x.states))
  from (values ('{dead}'::text[]), ('{scheduled,dead}'), ('{available}'),
    ('{scheduled,available,running,retryable,waiting_external,completed,failed,cancelled,dead}')) x(states);
select is(awa._holds(null, 'running'), false, 'no key, nothing held');
select is(awa._holds(pg_temp.key('k', '{running}'), null), false, 'in no state a key is not held');
select is(awa._holds(pg_temp.key('k', '{running}'), 'done'), false, 'nor in one that there is not');

-- Periods
select is(awa._held_until(awa._unique_key('q', 'k', '1', 't', null, '1 day', null, null, '2026-11-28 10:00+00')),
  '2026-11-29 00:00+00'::timestamptz, 'a key carries the end of its period');
select is(awa._held_until(awa._unique_key('q', 'k', '1', 't', null, '1 day', null, '{running}', now())), null,
  'not with states of its own');
select is(awa._held_until(awa._unique_key('q', 'k', '1', 't', null, null, null, null, now())), null,
  'nor without a period');

-- Moves
insert into awa.unique_claims (key, job_id) values (sha256('mine'), -1), (sha256('other''s'), -2), (sha256('kept'), -1);
create function pg_temp.holders() returns text
language sql
return (
  select string_agg(n.name || ' ' || u.job_id, ', ' order by n.name)
    from (select * from awa.unique_claims where job_id is not null) u
    join unnest(array['mine', 'other''s', 'kept', 'new']) n(name) on u.key = sha256(convert_to(n.name, 'UTF8'))
);
select awa._change_state(null, null, null, 'running', 'completed') \g /dev/null
select awa._change_state('{-1}', '{0}', array[null]::bytea[], 'running', 'completed') \g /dev/null
select is(pg_temp.holders(), 'kept -1, mine -1, other''s -2', 'no keys, nothing happens');
select awa._change_state('{-1,-1}', '{0,0}',
  array[pg_temp.key('mine', '{running}'), pg_temp.key('kept', '{running,failed}')], 'running', 'failed') \g /dev/null
select is(pg_temp.holders(), 'kept -1, other''s -2',
  'a key is let go of in a state that does not hold it, and kept in one that does');
select awa._change_state('{-1}', '{0}', array[pg_temp.key('other''s', '{running}')], 'running', 'failed') \g /dev/null
select is(pg_temp.holders(), 'kept -1, other''s -2', 'another job''s is not let go of');
select awa._change_state('{-1,-1}', '{0,0}',
  array[pg_temp.key('new', '{failed}'), pg_temp.key('other''s', '{failed}')], 'running', 'failed') \g /dev/null
select is(pg_temp.holders(), 'kept -1, new -1, other''s -2',
  'a key is taken in a state that holds it, unless another job has it');
select awa._change_state('{-1}', '{0}', array[pg_temp.key('mine', '{running,failed}')], 'running',
  'failed') \g /dev/null
select is(pg_temp.holders(), 'kept -1, new -1, other''s -2', 'what was lost while it could be held is not taken again');
select awa._change_state('{-1,-1,-1}', '{0,0,0}',
  array[pg_temp.key('new', '{failed}'), null, pg_temp.key('kept', '{running,failed}')], 'failed', null) \g /dev/null
select is(pg_temp.holders(), 'other''s -2', 'who goes for good lets go of all');

-- Rows of keys that no job holds
select ok(awa._horizon() <= pg_snapshot_xmin(pg_current_snapshot()), 'no snapshot looks further than the present one');
insert into awa.unique_claims (key, round, job_id, free_since)
values (sha256('idle'), 0, null, null), (sha256('idle'), 1000000000, null, '3'), (sha256('busy'), 0, null, null),
  (sha256('busy'), 1000000000, -3, null), (sha256('young'), 0, null, null),
  (sha256('young'), 1000000000, null, pg_current_xact_id());
insert into awa.unique_claims (key, round, job_id, held_until)
values (sha256('over'), 0, -4, now() - interval '1 minute'), (sha256('over again'), 0, null, null),
  (sha256('over again'), 1000000000, -5, now() - interval '1 minute'),
  (sha256('goes on'), 0, -6, now() + interval '1 hour'), (sha256('just over'), 0, -7, now());
select awa._expire_keys() \g /dev/null
select is(
  (
    select string_agg(concat_ws(' ', n.name,
      case when u.round > 0 then case when u.round = 1000000000 then 'second' else 'second, changed' end end, u.job_id,
      case when u.free_since is not null then 'free' end),
      ', ' order by n.n, u.round)
             from awa.unique_claims u
             join unnest(
               array['idle', 'busy', 'young', 'over', 'over again', 'goes on', 'just over']
             ) with ordinality n(name, n) on u.key = sha256(convert_to(n.name, 'UTF8'))),
  'busy, busy second -3, young, young second free, over again, over again second, changed free, goes on -6, just over '
  '-7',
  'go when no snapshot is older; a key whose period is over is let go of, a minute later');

-- Who has asked within a period, and looks after its end, finds the job of that period
insert into awa.unique_claims (key, job_id, held_until) values (sha256('asked'), -8, now());
select is((select row(h.job_id, h.ended)::text from awa._holder(sha256('asked'), now() - interval '1 microsecond') h),
  '(-8,t)', 'a key is held for who asked before the end');
select is((
  select row(k.job_id, k.taken)::text from awa._take_key(sha256('asked'), true, -9, now() - interval '1 microsecond') k
),
  '(-8,f)', 'who is a duplicate');
select is((select h.job_id from awa._holder(sha256('asked'), now()) h), null, 'not for who asks at the end');
select is((select row(k.job_id, k.taken)::text from awa._take_key(sha256('asked'), true, -9, now()) k), '(-9,t)',
  'who takes it');
insert into awa.unique_claims (key, job_id) values (sha256('late'), -10), (sha256('later'), -11);
create function pg_temp.until(key bytea, ago interval) returns bytea
language sql
return key || '\x001f'::bytea || int8send(extract(epoch from clock_timestamp() - ago)::bigint);
select is(
  awa._hold_keys('{-10,-11}',
    array[pg_temp.until(sha256('late'), '20 seconds'), pg_temp.until(sha256('later'), '70 seconds')], '{1,1}'),
  '{1}', 'a job that completes just after the end keeps its key, too, for such a call');

-- The hook is called at each change of a state in which something may be held
create temp table changes (
  nth bigint generated always as identity, job_id bigint, lane bigint, from_state text, to_state text
);
grant insert on changes to public; -- the hook runs as the owner of awa
create or replace function awa._change_state(
  job_ids bigint[], lanes bigint[], keys bytea[], from_state text, to_state text
) returns void
language sql
as $$
  insert into pg_temp.changes (job_id, lane, from_state, to_state)
  select k.job_id, k.lane, _change_state.from_state, _change_state.to_state
    from unnest(job_ids, lanes, keys) k(job_id, lane, key)
   where k.key is not null
$$;
select awa.cancel(job_id) from c where what in ('scheduled', 'available', 'running') \g /dev/null
select awa.fail(job_id, receipt, 'error') from c where what = 'failed' \g /dev/null
select awa.complete(job_id, receipt) from c where what = 'completed' \g /dev/null
select awa.retry(job_id) from c where what = 'retried' \g /dev/null
select is((select string_agg(c.what || ': ' || h.from_state || ' to ' || h.to_state, ', ' order by c.nth)
             from changes h join c using (job_id)),
  'scheduled: scheduled to cancelled, running: running to cancelled, failed: running to retryable, '
  'completed: running to completed, retried: scheduled to available', 'the hook is called at each change');
set constraints all immediate;
select is((select string_agg(c.what || ': ' || h.from_state || ' to ' || h.to_state, ', ' order by c.nth)
             from changes h join c using (job_id) where what = 'available'),
  'available: available to cancelled',
  'of a job that was cancelled while it was available, at the end of the transaction');
select is((select array_agg(distinct what) from changes h join c using (job_id)
            where h.lane is distinct from awa._lane(awa._queue_id(:'queue' || c.what), 2)),
  null, 'with their lanes');

select * from finish();
rollback;
