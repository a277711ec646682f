-- Without this, jobs that have expired would stay available for ever in a queue that is paused, or that nobody works
-- on.
\set name cancel_expired
\ir ../prelude.psql

select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[5])) \g /dev/null
select array_agg(e.id) as ids
  from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[6]), expires_at => '2130-01-01') e(id) \gset
select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[3])) \g /dev/null
select count(*)
  from awa.enqueue_many(:'queue' || ' other', 'k', array_fill('{}'::jsonb, array[3]),
    expires_at => '2130-01-01') \g /dev/null
select job_id as keyed_id
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue', expires_at => '2130-01-01') \gset
select awa.pause_queue(:'queue') \g /dev/null

begin;
select plan(27);

select is((select count(*) from awa.cancel_expired_row), 0::bigint, 'the view that names the column is empty');
select pg_temp.refused(format('select * from awa.cancel_expired(%s)', n), '22023', 'max_jobs', 'max_jobs of ' || n)
  from (values (0), (10001)) v(n);
select cancelled from awa.cancel_expired() \g /dev/null
select is(pg_temp.states(), 'available 14', 'before their time nothing happens');

-- Time goes by: all of the six but the last have expired
create function pg_temp.expire(ids bigint[]) returns void
language sql
begin atomic
  update awa.ready_entries e set expires_at = now() - interval '1 second' where e.job_id = any(ids);
end;
select pg_temp.expire((:'ids'::bigint[])[1:5]) \g /dev/null
select is((select cancelled from awa.cancel_expired(2)), 2::bigint, 'at most max_jobs are cancelled');
select is(pg_temp.states(), 'available 12, cancelled 2', 'although the queue is paused');
select is((select array_agg(j.id order by j.id) from awa.jobs j where j.queue = pg_temp.q() and j.state = 'cancelled'),
  (:'ids'::bigint[])[1:2], 'the first ones');
select is((
  select row(j.attempt, j.receipt, j.attempted_at, jsonb_array_length(j.errors), j.errors -> 0 ->> 'error',
           j.errors -> 0 ->> 'by')::text
    from awa.job((:'ids'::bigint[])[1]) j
),
  '(0,,,1,expired,)', 'they have never begun, and say why they were cancelled');
select is(awa.run_pass('cancel_expired'), true, 'where there were some, the pass is to be run again');
select is(pg_temp.states(), 'available 9, cancelled 5', 'the rest is cancelled');
select is(awa.run_pass('cancel_expired'), false, 'then there is no more');
select is((select cancelled from awa.cancel_expired(null)), 0::bigint, 'an explicit null means the default');
select pg_temp.agrees('the books balance');
select ok((select q.has_tombstones from awa.queues q where q.name = pg_temp.q() and q.has_tombstones limit 1),
  'they are buried, and claims know it');

-- Another queue
select pg_temp.expire(array(select j.id from awa.jobs j where j.queue = pg_temp.q(' other'))) \g /dev/null
select pg_temp.expire(array[:keyed_id]) \g /dev/null
select is((select u.job_id from awa.unique_claims u where u.job_id = :keyed_id), :keyed_id::bigint, 'a key is held');
select cancelled + (select cancelled from awa.cancel_expired()) as both from awa.cancel_expired() \gset
select is(:both, 4, 'each call cancels jobs of one shard');
select is(pg_temp.states(' other') || ', ' || pg_temp.states(' keyed'), 'cancelled 3, cancelled 1',
  'queue after queue');
select is((select u.job_id from awa.unique_claims u where u.job_id = :keyed_id), null, 'and the key is let go of');

-- An end that the server refuses
create function pg_temp.refuse() returns trigger
language plpgsql
as $$
begin
  if new.args = '{"refused": true}' then
    raise exception 'no ends';
  end if;
  return new;
end
$$;
create trigger refuse before insert on awa.done_entries for each row execute function pg_temp.refuse();
set client_min_messages = error;
select pg_temp.expire(:'ids'::bigint[]) \g /dev/null
update awa.ready_entries e set args = '{"refused": true}' where e.job_id = (:'ids'::bigint[])[6];
update awa.ready_entries e
   set expires_at = now() - interval '1 second'
 where e.job_id = (select max(j.id) from awa.jobs j where j.queue = pg_temp.q());
select is((select cancelled from awa.cancel_expired()), 1::bigint, 'a job whose end is refused holds no other up');
select is(pg_temp.states(), 'available 8, cancelled 6', 'it stays');
drop trigger refuse on awa.done_entries;
select cancelled from awa.cancel_expired() \g /dev/null
select cancelled from awa.cancel_expired() \g /dev/null
select is((select state from awa.job((:'ids'::bigint[])[6])), 'cancelled', 'until it is not refused any more');
select pg_temp.agrees('the books balance, again');

-- The place from which it goes on
select awa._store_expiry_place((7, null, null, 1600, null, '9', null, null), true) \g /dev/null
select is((select row(p.lane, p.xid, p.id)::text from awa._expiry_place() p), '(1600,9,7)', 'its place is kept');
select awa._store_expiry_place((7, null, null, 1600, null, '9', null, null), false) \g /dev/null
select is((select row(p.lane, p.xid, p.id)::text from awa._expiry_place() p), '(0,0,0)', 'or it begins anew');
select e.lane, e.xid from awa.ready_entries e where e.job_id = (:'ids'::bigint[])[1] \gset
update awa.ready_tombstones t set lane = 0 where t.lane = :lane;
select is((
  select array(select e.id from unnest(f.entries) e) || (f.last).id || f.looked_at::bigint
    from awa._find_expired((0, null, null, :lane, null, '0', null, null), 2, 100) f
),
  (:'ids'::bigint[])[1:2] || (:'ids'::bigint[])[2] || 14::bigint, 'it finds so many, and goes on after the last one');
select is((
  select array(select e.id from unnest(f.entries) e) || (f.last).id || f.looked_at::bigint
    from awa._find_expired(((:'ids'::bigint[])[2], null, null, :lane, null, :'xid', null, null), 9, 2) f
),
  (:'ids'::bigint[])[3:4] || (:'ids'::bigint[])[4] || 2::bigint, 'or after the last entry that it looks at');
select is((select f.last from awa._find_expired((5, null, null, :lane, null, '99999999', null, null), 9, 9) f),
  (5, null, null, :lane, null, '99999999', null, null)::awa._place, 'where nothing is left it stays');

select * from finish();
rollback;
