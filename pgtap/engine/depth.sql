-- Without this, producers that are faster than the workers would fill the disk, or a limit on the depth would refuse
-- what has to go on.
\set name depth
\ir ../prelude.psql

select awa.configure_queue(:'queue', '{"max_depth": 3}') \g /dev/null
select awa.configure_queue(:'queue' || ' other', '{"max_depth": 3}') \g /dev/null
select awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[3])) \g /dev/null

begin;
select plan(45);
create function pg_temp.ready(suffix text default '') returns bigint
language sql
as $$ select c.available from awa.queue_counts(pg_temp.q(suffix)) c $$;
-- Both ways to know the depth, and the true one
create function pg_temp.depths(suffix text default '') returns text
language sql
as $$
  select concat_ws(' ', awa._counted_depth(awa._queue_id(pg_temp.q(suffix)), 100000),
           awa._depth(awa._queue_id(pg_temp.q(suffix)), 1), (
             select count(*) from awa._available a where a.queue_id = awa._queue_id(pg_temp.q(suffix))),
           pg_temp.ready(suffix))
$$;

-- As many as max_depth, and a call beyond them
select is(pg_temp.outcome('select awa.enqueue(pg_temp.q(), $$k$$)'), 'ok',
  'where as many are ready as max_depth, a job is taken');
select pg_temp.refused(call, 'JQ006', 'deeper than its max_depth', description)
  from (values
    ('select awa.enqueue(pg_temp.q(), $$k$$)', 'where more are, enqueue refuses it'),
    ('select awa.enqueue(pg_temp.q(), $$k$$, priority => 1, metadata => $${}$$)', 'of whatever priority'),
    ('select awa.enqueue(pg_temp.q(), $$k$$, run_at => now() + interval $$1 day$$)', 'or time'),
    ('select awa.enqueue(pg_temp.q(), $$k$$, group_key => $$g$$)', 'or group'),
    ('select awa.enqueue_many(pg_temp.q(), $$k$$, $${1,2}$$)', 'and so does enqueue_many')
  ) c(call, description);
select is(pg_temp.outcome('select * from awa.enqueue_unique(pg_temp.q(), $$k$$, unique_key => $$new$$)'), 'JQ006',
  'and enqueue_unique');
select is(pg_temp.outcome($$select * from awa.enqueue_batch(jsonb_build_array(
  jsonb_build_object('queue', pg_temp.q(' other'), 'kind', 'k'),
  jsonb_build_object('queue', pg_temp.q(), 'kind', 'k')))$$),
  'JQ006', 'and enqueue_batch, where one of its queues is full');
select is(pg_temp.ready(' other'), 0::bigint, 'a call is refused as a whole');
select is(pg_temp.ready(), 4::bigint, 'and nothing was added');
select pg_temp.refused('select awa.enqueue(pg_temp.q(), $$k$$, priority => 9)', '22023', 'priority',
  'a call with an invalid argument is refused for that');
create function pg_temp.detail(command text) returns text
language plpgsql
as $$
declare
  v_detail text;
begin
  execute command;
  return null;
exception when others then
  get stacked diagnostics v_detail = pg_exception_detail;
  return v_detail;
end
$$;
select is(pg_temp.detail('select awa.enqueue(pg_temp.q(), $$k$$)'),
  format('Queue %s has 4 jobs ready or more, and its max_depth is 3.', pg_temp.q()), 'which names the depth');
select is(pg_temp.detail('select awa.enqueue_many(pg_temp.q(), $$k$$, $${}$$)'), null, 'no jobs are no new ones');

-- A call finds what was there before it
select is(
  (select count(*) from awa.enqueue_many(pg_temp.q(' other'), 'k', array_fill('{}'::jsonb, array[10]))), 10::bigint,
  'a large call is taken as a whole');
select awa.configure_queue(pg_temp.q(' batch'), '{"max_depth": 3}') \g /dev/null
select is((select count(*)
  from awa.enqueue_batch((
    select jsonb_agg(jsonb_build_object('queue', pg_temp.q(' batch'), 'kind', 'k' || n))
      from generate_series(1, 10) n))),
  10::bigint, 'also one that mixes kinds');

-- Calls that are no enqueue go on
savepoint here;
select awa.configure_queue(pg_temp.q(), '{"max_depth": null}') \g /dev/null
select awa.enqueue(pg_temp.q(), 'later', run_at => now() + interval '1 day') as later_id \gset
select * from awa.enqueue_unique(pg_temp.q(), 'unique', unique_key => 'held') \gset unique_
select awa.enqueue(pg_temp.q(' from'), 'k') as moved_id \gset
select awa.configure_queue(pg_temp.q(), '{"max_depth": 1}') \g /dev/null
create temp table claimed as select c.* from awa.claim(pg_temp.q(), 2) c;
select is((select count(*) from claimed), 2::bigint, 'claims go on');
select is(pg_temp.outcome(format('select awa.fail(%s, %s, $$e$$, retry_after => $$0$$)', c.job_id, c.receipt)), 'ok',
  'and so do failures') from (select * from claimed limit 1) c;
select is(
  (select f.fail from (select * from claimed offset 1) c cross join awa.discard(c.job_id, c.receipt, 'e') f(fail)),
  'failed', 'and ends');
select is(pg_temp.outcome(format('select awa.retry(%s)', c.job_id)), 'ok', 'and retries')
  from (select * from claimed offset 1) c;
select is(pg_temp.outcome('select awa.promote_due()'), 'ok', 'and promotions');
select is(pg_temp.outcome(format('select awa.retry(%s)', :later_id)), 'ok', 'also of a scheduled job');
select is(pg_temp.outcome(format('select awa.move(%s, pg_temp.q())', :moved_id)), 'ok', 'and moves');
select is(pg_temp.outcome(format('select awa.set_priority(%s, 1)', :later_id)), 'ok', 'and changes of priority');
select is((select row(u.job_id, u.inserted)::text
  from awa.enqueue_unique(pg_temp.q(), 'unique', unique_key => 'held') u), format('(%s,f)', :unique_job_id),
  'a duplicate of a unique job is no new job');
select is(pg_temp.outcome('select awa.enqueue(pg_temp.q(), $$k$$)'), 'JQ006', 'a new one is refused');
rollback to here;

-- Room comes back
select count(*) from awa.claim(pg_temp.q(), 1) \g /dev/null
select is(pg_temp.outcome('select awa.enqueue(pg_temp.q(), $$k$$)'), 'ok', 'when one was claimed, one more is taken');
select is(pg_temp.outcome('select awa.enqueue(pg_temp.q(), $$k$$)'), 'JQ006', 'and no second one');
select awa.cancel(max(j.id)) from awa.jobs j where j.queue = pg_temp.q() and j.state = 'available' \g /dev/null
select is(pg_temp.depths(), '3 2 3 3', 'one that is cancelled does not count');
select is(pg_temp.outcome('select awa.enqueue(pg_temp.q(), $$k$$)'), 'ok', 'so one more is taken');
select awa.configure_queue(pg_temp.q(), '{"max_depth": 4}') \g /dev/null
select is(pg_temp.outcome('select awa.enqueue(pg_temp.q(), $$k$$)'), 'ok', 'or when max_depth is raised');
select is(pg_temp.outcome('select awa.enqueue(pg_temp.q(), $$k$$)'), 'JQ006', 'up to it');
select awa.configure_queue(pg_temp.q(), '{"max_depth": null}') \g /dev/null
select is(pg_temp.outcome('select awa.enqueue(pg_temp.q(), $$k$$)'), 'ok', 'without it no job is refused');

-- A look lasts for a 32nd
create function pg_temp.has_room(max_depth int, suffix text default '') returns boolean
language sql
as $$
  select coalesce(awa._has_room(s.queue_id, has_room.max_depth, s.depth_note), false)
    from awa.queue_settings s
   where s.queue_id = awa._queue_id(pg_temp.q(suffix))
$$;
select awa.configure_queue(pg_temp.q(), '{"max_depth": 128}') \g /dev/null
select is(pg_temp.has_room(128), false, 'before the first look there is nothing to go by');
select awa.enqueue(pg_temp.q(), 'k') from generate_series(1, 4) \g /dev/null
select is(pg_temp.has_room(128), false, 'a look lasts for a 32nd of max_depth');
select awa.enqueue(pg_temp.q(), 'k') \g /dev/null
select is(pg_temp.has_room(128), true, 'and the next one for as many again');
select is(pg_temp.has_room(31), false, 'not with a smaller one, of which less than that is left');
select is(pg_temp.has_room(128, ' batch'), false, 'nor of another queue');
select last_value as job_ids from awa.job_ids \gset
select setval('awa.job_ids', 1) \g /dev/null
select is(pg_temp.has_room(128), false, 'nor when ids begin anew');
select setval('awa.job_ids', :job_ids) \g /dev/null

-- Both ways to know the depth
select is(pg_temp.depths(), '11 2 11 11', 'from the counts and what came since; and from what no cursor has passed');
select is(awa._counted_depth(awa._queue_id(pg_temp.q(' batch')), 9), null, 'not where more has come than it reads');
select is(awa._counted_depth(awa._queue_id(pg_temp.q(' batch')), 10), 10::bigint, 'but where it is as much');
select pg_temp.fold() \g /dev/null
select is(pg_temp.depths(), '11 2 11 11', 'those of transactions that were in progress when it was counted, too');
select is(awa._counted_depth(awa._queue_id(pg_temp.q(' batch')), 9), null, 'not more of them either');
select is(awa._counted_depth(awa._queue_id(pg_temp.q(' none')), 2), 0::bigint, 'a queue that is not there has none');
select pg_temp.agrees('the books balance');

select * from finish();
rollback;
