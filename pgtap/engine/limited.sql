-- Without this, a job that waits for its group would lose a column on its way, or could not be changed.
\set name limited
\ir ../prelude.psql

select awa.configure_queue(:'queue', '{"group_max_running": 1}') \g /dev/null
select job_id as first_id
  from awa.enqueue_unique(:'queue', 'k', '{"a": 1}', unique_key => :'queue' || 1, group_key => 'g') \gset
select job_id as second_id
  from awa.enqueue_unique(:'queue', 'k', '{"a": 2}', unique_key => :'queue' || 2, priority => 3, max_attempts => 5,
    tags => '{t}', metadata => '{"m": 1}', group_key => 'g', expires_at => '2101-01-01 UTC') \gset
select job_id as third_id
  from awa.enqueue_unique(:'queue', 'k', '{"a": 3}', unique_key => :'queue' || 3, group_key => 'g') \gset
create temp table before as select j.id, to_jsonb(j) as job from awa.jobs j where j.queue = :'queue';
create temp table c as select * from awa.claim(:'queue', 9);

begin;
select plan(16);

select is((select array_agg(job_id) from c), array[:first_id::bigint], 'one job of the group begins');
select is((select count(*) from awa.limited_jobs w where w.shard = awa._queue_id(:'queue') << 6), 2::bigint,
  'the others wait in line');
select is((select to_jsonb(j) from awa.job(:second_id) j), (select job from before where id = :second_id),
  'a job that waits is shown as before');
select is((select p::text from awa._locate(:second_id) p),
  (select (:second_id, 'available', null, awa._lane(awa._queue_id(:'queue'), 3), 3, null, null,
     w.unique_key)::awa._place::text from awa.limited_jobs w where w.job_id = :second_id),
  'and found without an entry');
select is((select array_agg(j.id order by j.id) from awa.list_jobs(:'queue', 'available') j),
  array[:second_id, :third_id]::bigint[], 'list_jobs has it');
select is((select c.available from awa.queue_counts(:'queue') c), 2::bigint, 'queue_counts counts it as available');
select ok((select c.oldest_ready_at = (select min(w.ready_at) from awa.limited_jobs w
     where w.shard = awa._queue_id(:'queue') << 6) from awa.queue_counts(:'queue') c), 'since when it is ready');
select is((select array_agg(a.job_id order by a.job_id) from awa._all_available a
    where a.queue_id = awa._queue_id(:'queue')), array[:second_id, :third_id]::bigint[], 'it may be claimed');
select ok((select awa._has_groups(awa._queue_id(:'queue'))), 'its queue has groups');

-- Out of line
savepoint s;
select is((select to_jsonb(d) - '{lane,state,run_at,attempted_at}'::text[] from awa._leave_lines(array[:second_id]) d),
  (select to_jsonb(e) - '{lane,xid,segment,ready_at,priority}'::text[] || jsonb_build_object('created_at', e.ready_at)
     from awa.ready_entries e where e.job_id = :second_id), '_leave_lines takes the job as it was enqueued');
select is_empty(format('select from awa._leave_lines(array[%s])', :second_id), 'once');
rollback to s;
select is(awa._cancel_waiting(array[:second_id, :first_id, -1], 'why'), array[:second_id::bigint],
  '_cancel_waiting cancels those that wait');
select results_eq(format('select j.state, j.errors -> -1 ->> ''error'', j.attempt from awa.job(%s) j', :second_id),
  $$ values ('cancelled', 'why', 0) $$, 'for this reason, without an attempt');
select is((select count(*) from awa.unique_claims u where u.job_id = :second_id), 0::bigint, 'and lets go of its key');
rollback to s;

-- Idle groups, and queues that are dropped
select awa._forget_idle_groups(1000000) \g /dev/null
select is((select count(*) from awa.group_states s where s.shard = awa._queue_id(:'queue') << 6), 1::bigint,
  '_forget_idle_groups keeps a group that is not idle');
select awa._forget_limits(awa._queue_id(:'queue')) \g /dev/null
select is((select count(*) from (
    select from awa.limited_jobs w where w.shard >> 6 = awa._queue_id(:'queue')
    union all select from awa.group_states s where s.shard >> 6 = awa._queue_id(:'queue')
    union all select from awa.shard_states s where s.shard >> 6 = awa._queue_id(:'queue')) s), 0::bigint,
  '_forget_limits leaves nothing of a queue');

select * from finish();
rollback;
