-- Without this, a column would be lost on a job's way from one table to another.
\set name writers
\ir ../prelude.psql

select awa.register_worker(:'queue') as worker_id \gset
select awa.configure_queue(:'queue', '{"deadline": "1 hour", "group_max_running": 1, "max_running": 1}') \g /dev/null
select job_id
  from awa.enqueue_unique(:'queue', 'k', '{"a": 1}', unique_key => :'queue', priority => 3, max_attempts => 5,
    tags => '{t}', metadata => '{"m": 1}',
    group_key => 'g', expires_at => '2101-01-01 UTC') \g /dev/null
create temp table c as select t.job_id, t.receipt from awa.claim(:'queue', 1, :worker_id) t;

begin;
select plan(24);

-- An attempt of which each column says something, that was given back once
create temp table attempt as
select jsonb_populate_record(null::awa.leases, to_jsonb(a)
    || '{"attempt": 2, "progress": 0.5, "errors": [{"error": "e"}]}' || jsonb_build_object('lane', a.lane & ~7::bigint))
    as a
  from c, awa._attempts(array[c.receipt]) a;
select is((select array_agg(k) from attempt, jsonb_each(to_jsonb(a)) e(k, v) where v = 'null'), null,
  'nothing of this attempt is null');
create function pg_temp.attempts() returns awa.leases[]
language sql
return (select array[a] from attempt);
-- The columns of a row that the attempt has, and that are not the same
create function pg_temp.differ("row" jsonb) returns text
language sql
return (
  select string_agg(k, ' ' order by k)
    from attempt, jsonb_each("row") r(k, v)
    join jsonb_each(to_jsonb(a)) x(k, w) using (k)
   where v <> w
);

select awa._lease(pg_temp.attempts()) \g /dev/null
select is((select to_jsonb(l) from awa.leases l join c using (receipt)), (select to_jsonb(a) from attempt),
  '_lease writes the attempt as it is');
select awa._defer(pg_temp.attempts(), 'retryable', '{2130-01-01}') \g /dev/null
select is((select d.state || ' ' || extract(year from d.run_at) || ' ' || coalesce(pg_temp.differ(to_jsonb(d)), '')
  from awa.deferred_jobs d join c using (job_id)), 'retryable 2130 lane',
  '_defer writes all of it; only its lane is that of its priority');
select is((select d.lane & 7 from awa.deferred_jobs d join c using (job_id)), 3::bigint, 'which it keeps');
select is((select d.attempted_at = (a).claimed_at from attempt, awa.deferred_jobs d join c using (job_id)), true,
  'and when it was attempted last');
delete from awa.deferred_jobs d using c where d.job_id = c.job_id;
select awa._defer(pg_temp.attempts(), 'retryable', '{2130-01-01}', array['[{"error": "e"}, {"error": "f"}]'::jsonb],
  counts => true) \g /dev/null
select is((select d.attempt || ' ' || jsonb_array_length(d.errors) from awa.deferred_jobs d join c using (job_id)),
  '3 2', 'one that counts has the next number, and its errors');
select is((select w.attempt from attempt, awa._waiting(array[jsonb_populate_record(a, '{"attempt": 5}')], 'retryable',
  '{2130-01-01}', counts => true) w), 5::smallint, 'never more than it may have');

create temp table entries (place text, e awa.ready_entries);
insert into entries
select 'lane', e from awa.deferred_jobs d join c using (job_id) cross join awa._as_entry(d, 2::smallint) e
union all
select 'front', e from awa.deferred_jobs d join c using (job_id) cross join awa._as_entry(d, 2::smallint, true) e;
select is((select string_agg(x.place || ' ' || ((x.e).lane & 7) || ' ' || (x.e).priority, ', ' order by x.place)
  from entries x), 'front 0 3, lane 3 3', 'an entry lies in the lane of its priority, or in front');
select is((select pg_temp.differ(to_jsonb(x.e) - '{lane,attempt,errors,ready_at}'::text[]) from entries x
  where x.place = 'lane'), null, 'and is the job');
select is((select row((x.e).xid = pg_current_xact_id(), (x.e).segment, (x.e).ready_at = d.run_at)::text from entries x,
  awa.deferred_jobs d join c using (job_id) where x.place = 'lane'), '(t,2,t)',
    'of this transaction, since it was due');
delete from awa.queues q where q.lane = awa._lane(awa._queue_id(:'queue'), 3);
select awa._append_ready(array(select d from awa.deferred_jobs d join c using (job_id))) \g /dev/null
select is((select count(*) from awa.ready_entries e join c using (job_id) where e.xid = pg_current_xact_id()),
  1::bigint, '_append_ready writes it');
select is((select count(*) from awa.queues q where q.lane = awa._lane(awa._queue_id(:'queue'), 3)), 1::bigint,
  'and notes its lane');
select is((select e.segment from awa.ready_entries e join c using (job_id) where e.xid = pg_current_xact_id()),
  awa._current_segment(), 'in the current segment');

select awa._end(pg_temp.attempts(), 'failed', 'why', array['[{"error": "last"}]'::jsonb]) \g /dev/null
select is((select pg_temp.differ(to_jsonb(d)) from awa.done_entries d join c using (job_id)), 'errors lane',
  '_end writes all of it');
select is((select row(d.state, d.reason, d.errors, d.output, d.counted_by_closure, d.lane & 7,
  d.finalized_at between now() and clock_timestamp())::text from awa.done_entries d join c using (job_id)),
  '(failed,why,"[{""error"": ""last""}]",,f,3,t)', 'with its end');
delete from awa.done_entries d using c where d.job_id = c.job_id;
select awa._end(pg_temp.attempts(), 'completed', outputs => '{"1"}'::jsonb[], counted_by_closure => '{t}') \g /dev/null
select is((select row(d.state, d.output, d.counted_by_closure, d.progress)::text from awa.done_entries d
  join c using (job_id)), '(completed,1,t,)', 'of a completed one with its output, and without progress');

-- Keys of attempts
select is((select count(*) from awa.unique_claims u join c using (job_id)), 1::bigint,
  'while it runs it holds its key');
select awa._end_attempts(pg_temp.attempts(), 'retryable') \g /dev/null
select is((select count(*) from awa.leases l join c using (receipt)), 0::bigint, 'its row goes at its end');
select is((select count(*) from awa.unique_claims u join c using (job_id)), 1::bigint,
  'its key stays in a state that holds it');
select awa._end_attempts(pg_temp.attempts(), 'failed') \g /dev/null
select is((select count(*) from awa.unique_claims u join c using (job_id)), 0::bigint, 'and goes in one that does not');

select is((select (awa._in_segment(x.e, 1::smallint)).segment from entries x where x.place = 'lane'), 1::smallint,
  'an entry, as it is in another segment');
select is((select to_jsonb(awa._in_segment(x.e, 1::smallint)) - 'segment' from entries x where x.place = 'lane'),
  (select to_jsonb(x.e) - 'segment' from entries x where x.place = 'lane'), 'is the same');
select awa._arrive(123456, 2), awa._arrive(123456, -1), awa._arrive(123456, 0) \g /dev/null
select is((select array_agg(a.jobs order by a.jobs) from awa.arrivals a where a.lane = 123456), '{-1,2}',
  'arrivals and leavings are noted, nothing for none');

create temp table ended as
select d
  from jsonb_populate_record(null::awa.done_entries,
    '{"job_id": 1, "lane": 8, "state": "dead", "reason": "r", "attempt": 5, "max_attempts": 5, "body_bytes": 3}'::jsonb
    || '{"kind": "k", "args": 1, "tags": [], "metadata": 2, "group_key": "g", "progress": 3, "errors": []}'::jsonb) d;
select is((select to_jsonb(r) from ended e cross join lateral awa._revived(e.d) r),
  (
    select jsonb_object_agg(a.attname, case a.attname when 'attempt' then '1' else to_jsonb(e.d) -> a.attname end)
      || '{"run_at": null, "attempted_at": null}'
      from ended e, pg_attribute a
     where a.attrelid = 'awa.deferred_jobs'::regclass and a.attnum > 0
  ),
  'a job that is revived has its body, and begins with its first attempt');

select * from finish();
rollback;
