-- Without this, a read or a pass of maintenance would get another plan when somebody has called ANALYZE, on empty
-- tables or on full ones, and read the whole history.
\set name statistics
\ir ../prelude.psql
\ir cost.psql

begin;
truncate awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures, awa.leases,
awa.deferred_jobs, awa.done_entries, awa.unique_claims, awa.queue_rollups, awa.deleted_jobs, awa.workers,
awa.lost_attempts, awa.queue_statistics, awa.statistics, awa.leased_ends;
-- and the dead rows of queues that were forgotten
insert into awa.queues (queue_id, name)
select awa._queue_id(pg_temp.q(' other ' || n)), pg_temp.q(' other ' || n) from generate_series(1, 5000) n;
delete from awa.queues;

create function pg_temp.analyze() returns void
language plpgsql
as $$
begin
  perform set_config('client_min_messages', 'error', true);
  analyze awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures, awa.leases,
  awa.deferred_jobs, awa.done_entries, awa.unique_claims, awa.queue_rollups, awa.queues, awa.queue_settings,
  awa.deleted_jobs, awa.workers, awa.settings, awa.ring, awa.slots, awa.turns, awa.shard_states, awa.group_states,
  awa.group_settings, awa.limited_jobs, awa.changes, awa.schedules, awa.queue_statistics, awa.statistics,
  awa.leased_ends;
end
$$;

create temp table ids (what text, job_id bigint, receipt bigint);
create function pg_temp.id(what text) returns bigint
language sql stable
as $$ select coalesce((select i.job_id from ids i where i.what = id.what limit 1), 1) $$;
create function pg_temp.receipt(what text) returns bigint
language sql stable
as $$ select coalesce((select i.receipt from ids i where i.what = receipt.what limit 1), 1) $$;

create function pg_temp.calls() returns text[]
language sql
return array[
  'queue_counts', 'select * from awa.queue_counts()',
  'queue_counts of one', format('select * from awa.queue_counts(%L)', pg_temp.q(' 1')),
  'queue_stats', 'select * from awa.queue_stats()',
  'queue_stats of one', format('select * from awa.queue_stats(%L)', pg_temp.q(' 1')),
  'queue_stats by kind', format('select * from awa.queue_stats(%L, by_kind => true)', pg_temp.q(' 1')),
  'list_queues', 'select * from awa.list_queues()',
  'list_workers', 'select * from awa.list_workers()',
  'list_groups', format('select * from awa.list_groups(%L)', pg_temp.q(' 1')),
  'list_groups, limited', format('select * from awa.list_groups(%L)', pg_temp.q(' 3')),
  'list_changes', 'select * from awa.list_changes()',
  'explain_schedule', format('select awa.explain_schedule(%L)', pg_temp.q(' s')),
  'next_ready_at', 'select awa.next_ready_at()',
  'next_ready_at of one', format('select awa.next_ready_at(array[%L])', pg_temp.q(' 3')),
  'pass_due_at', $$select awa.pass_due_at('promote_due')$$,
  'job, old', format('select * from awa.job(%s)', pg_temp.id('old')),
  'job, running', format('select * from awa.job(%s)', pg_temp.id('running')),
  'job, failed', format('select * from awa.job(%s)', pg_temp.id('failed')),
  'explain_job', format('select awa.explain_job(%s)', pg_temp.id('available')),
  'list_jobs', 'select * from awa.list_jobs()',
  'list_jobs available', $$select * from awa.list_jobs(state => 'available')$$,
  'job_summaries running', 'select * from awa.job_summaries(state => ''running'')',
  'job_summaries of a worker', format('select * from awa.job_summaries(worker_id => %s)', pg_temp.id('worker')),
  'job_summaries dead', 'select * from awa.job_summaries(state => ''dead'')',
  'job_summaries by ids', format('select * from awa.job_summaries(job_ids => array[%s, %s])', pg_temp.id('old'),
    pg_temp.id('failed')),
  'list_jobs running', $$select * from awa.list_jobs(state => 'running')$$,
  'list_jobs retryable', $$select * from awa.list_jobs(state => 'retryable')$$,
  'list_jobs failed', $$select * from awa.list_jobs(state => 'failed')$$,
  'list_jobs completed', $$select * from awa.list_jobs(state => 'completed')$$,
  'list_jobs dead', $$select * from awa.list_jobs(state => 'dead')$$,
  'list_jobs by tag', $$select * from awa.list_jobs(tag => 'none', before_id => 5000)$$,
  'scan_jobs', format('select * from awa.scan_jobs(%L, 5000)', '{"tag": "none"}'),
  'failure_causes', 'select * from awa.failure_causes()',
  'failure_causes of one', format('select * from awa.failure_causes(%L)', pg_temp.q(' 1')),
  'list_jobs dead, by cause', $$select * from awa.list_jobs(state => 'dead', cause => 'none')$$,
  'retry_where by cause', format('select awa.retry_where(%L, cause => %L)', pg_temp.q(' 1'), 'none'),
  'delete_job, completed', format('select awa.delete_job(%s)', pg_temp.id('old')),
  'delete_job, failed', format('select awa.delete_job(%s)', pg_temp.id('failed')),
  'delete_where, completed',
  format('select awa.delete_where(%L, state => %L, max_jobs => 20)', pg_temp.q(' 1'), 'completed'),
  'delete_where, failed', format('select awa.delete_where(%L, state => %L, max_jobs => 20)', pg_temp.q(' 1'), 'failed'),
  'cancel_where by tag', format('select awa.cancel_where(%L, tag => %L)', pg_temp.q(' 1'), 'none'),
  'retry_where by tag', format('select awa.retry_where(%L, tag => %L)', pg_temp.q(' 1'), 'none'),
  'health', 'select * from awa.health()',
  'promote_due', 'select * from awa.promote_due()',
  'fire_due', 'select * from awa.fire_due()',
  'list_schedules', 'select * from awa.list_schedules()',
  'fold', 'select * from awa.fold()',
  'counts of 100 queues', format(
    $$select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
      awa._store_queue_statistics(array(
        select (awa._queue_id('%s ' || n), 60, awa._minute_of(now()), 'a', 1, 0, 0, '{}', '{}')::awa.queue_statistics
          from generate_series(1, 100) n))$$,
    pg_temp.q()),
  'rescue', 'select * from awa.rescue()',
  'forget_workers', 'select * from awa.forget_workers()',
  'materialize', 'select * from awa.materialize()',
  'cancel_expired', 'select * from awa.cancel_expired()',
  'start_change', format($$select awa.start_change('retry', jsonb_build_object('queue', %L))$$, pg_temp.q(' 1')),
  'apply_changes', format(
    $$select awa.start_change('retry', jsonb_build_object('queue', %L)), (select changed from awa.apply_changes(50))$$,
    pg_temp.q(' 1')),
  'summarize', 'select * from awa.summarize()',
  'end_stuck_claimers', 'select * from awa.end_stuck_claimers()',
  'expire_history', 'select * from awa.expire_history()',
  'rotate', 'select * from awa.rotate(true)',
  'rotate and prune', 'select * from awa.rotate(true), awa.prune_oldest(true)',
  'claim', format('select * from awa.claim(%L, 10)', pg_temp.q(' 1')),
  'claim, limited', format('select * from awa.claim(%L, 10)', pg_temp.q(' 3')),
  'complete, limited',
  format('select awa.complete(%s, %s)', pg_temp.id('limited'), pg_temp.receipt('limited')),
  'fail, limited',
  format($$select awa.fail(%s, %s, 'e')$$, pg_temp.id('limited'), pg_temp.receipt('limited')),
  'cancel, limited', format('select awa.cancel(%s)', pg_temp.id('in line')),
  'complete with output',
  format($$select awa.complete(%s, %s, '1')$$, pg_temp.id('running'), pg_temp.receipt('running')),
  'fail', format($$select awa.fail(%s, %s, 'e')$$, pg_temp.id('running'), pg_temp.receipt('running')),
  'put_off', format($$select awa.put_off(%s, %s, 'e')$$, pg_temp.id('running'), pg_temp.receipt('running')),
  'extend', format($$select awa.extend(%s, %s, '1 hour')$$, pg_temp.id('running'), pg_temp.receipt('running')),
  'cancel, available', format('select awa.cancel(%s)', pg_temp.id('available')),
  'cancel, running', format('select awa.cancel(%s)', pg_temp.id('running')),
  'cancel, retryable', format('select awa.cancel(%s)', pg_temp.id('retryable')),
  'discard_job, available', format('select awa.discard_job(%s)', pg_temp.id('available')),
  'discard_job, running', format('select awa.discard_job(%s)', pg_temp.id('running')),
  'cancel_where', format('select awa.cancel_where(%L, max_jobs => 20)', pg_temp.q(' 1')),
  'set_priority', format('select awa.set_priority(%s, 1)', pg_temp.id('available')),
  'move', format('select awa.move(%s, %L)', pg_temp.id('available'), pg_temp.q(' 2')),
  'reschedule', format($$select awa.reschedule(%s, now() + '1 hour')$$, pg_temp.id('available')),
  'reschedule, scheduled', format($$select awa.reschedule(%s, now() + '1 hour')$$, pg_temp.id('scheduled')),
  'retry', format('select awa.retry(%s)', pg_temp.id('failed')),
  'retry elsewhere', format('select awa.retry(%s, %L, 1)', pg_temp.id('failed'), pg_temp.q(' 2')),
  'retry later', format('select awa.retry(%s, run_at => %L)', pg_temp.id('failed'), '2130-01-01'),
  'retry_where', format('select awa.retry_where(%L, max_jobs => 20)', pg_temp.q(' 1')),
  'purge_dlq', format('select awa.purge_dlq(%L)', pg_temp.q(' 1')),
  'drain_queue', format('select awa.drain_queue(%L)', pg_temp.q(' 1')),
  'drop_queue', format('select awa.drop_queue(%L, true)', pg_temp.q(' 2')),
  'heartbeat', format('select awa.heartbeat(%s)', pg_temp.id('worker')),
  'release_unknown', format($$select awa.release_unknown(%s, '{}', '{}')$$, pg_temp.id('worker')),
  'deregister_worker', format('select awa.deregister_worker(%s)', pg_temp.id('worker'))
];
-- Each is undone, so that the next one finds what this one found. The cheapest of three times counts, after one to warm
-- up: now and then a session has to read the catalog again.
create procedure pg_temp.try(at text)
language plpgsql
as $$
declare
  v_calls text[] := pg_temp.calls();
  v_cost record;
  v_least bigint; -- blocks
  v_tuples bigint;
  v_changed bigint;
  v_error text;
  v_scans bigint;
begin
  for n in 1 .. cardinality(v_calls) by 2 loop
    v_least := null;
    for v_time in 1..4 loop
      v_cost := null;
      begin
        perform pg_temp.fold_later();
        v_scans := pg_temp.history_scans();
        select * into v_cost from pg_temp.cost(v_calls[n + 1]) c;
        v_scans := pg_temp.history_scans() - v_scans;
        raise exception using errcode = 'TAP02';
      exception
        when sqlstate 'TAP02' then v_error := null;
        when others then v_error := sqlerrm;
      end;
      if v_error is null and (v_time = 2 or v_time > 2 and v_cost.blocks < v_least) then
        v_least := v_cost.blocks;
        v_tuples := v_cost.tuples;
        v_changed := v_cost.changed;
      end if;
    end loop;
    insert into costs select at, v_calls[n], v_least, v_scans, v_tuples, v_changed where v_error is null;
    insert into broken select at, v_calls[n], v_error where v_error is not null;
  end loop;
end
$$;
create function pg_temp.history_scans() returns bigint
language sql
as $$
select sum(t.seq_scan)
  from pg_stat_xact_user_tables t
 where t.schemaname = 'awa'
   and t.relname ~ '^(ready|lease_claim|deferred|done|dlq|unique|deleted|slots|turns|group_states|.*statistics)' $$;
create temp table broken (at text, what text, error text);
create function pg_temp.fold_later() returns void
language sql
-- after a gap rescue looks for the longest lease, too
as $$ update awa.queue_rollups set folded_at = '-infinity';
select setval('awa.next_fold_at', 1); select pg_temp.no_gap() $$;

select plan(89);

-- Plans that were made when there was nothing
select pg_temp.analyze() \g /dev/null
insert into ids select 'worker', awa.register_worker('w');
call pg_temp.try('nothing');
delete from costs; delete from broken;

-- 100,000 completed jobs, 2,000 that failed, 1,000 that wait for a retry, 1,000 that are dead, 1,000 available, 60 that
-- run
select pg_temp.fill(pg_temp.q(' 1'), 103000) \g /dev/null
select pg_temp.fill(pg_temp.q(' 2'), 500) \g /dev/null
do $$
declare
  v_claim record;
begin
  loop
    select array_agg(c.job_id) as jobs, array_agg(c.receipt) as receipts into v_claim
      from awa.claim(pg_temp.q(' 1'), 930) c;
    perform awa.complete_many(v_claim.jobs, v_claim.receipts);
    exit when v_claim.jobs[1] > (select max(e.job_id) - 4500 from awa.ready_entries e);
  end loop;
end
$$;
insert into ids select 'failed', c.job_id, c.receipt from awa.claim(pg_temp.q(' 1'), 500) c;
select awa.discard(i.job_id, i.receipt, 'e') from ids i where i.what = 'failed' \g /dev/null
insert into awa.queue_settings (queue_id, dead_letter) values (awa._queue_id(pg_temp.q(' 1')), true);
insert into ids select 'dead', c.job_id, c.receipt from awa.claim(pg_temp.q(' 1'), 500) c;
select awa.discard(i.job_id, i.receipt, 'e') from ids i where i.what = 'dead' \g /dev/null
insert into ids select 'retryable', c.job_id, c.receipt from awa.claim(pg_temp.q(' 1'), 500) c;
select awa.fail(i.job_id, i.receipt, 'e', '1 hour') from ids i where i.what = 'retryable' \g /dev/null
select pg_temp.fold(), awa._summarize() \g /dev/null
-- A queue with limits: 2,000 groups, some of which are served, in line, or paused
select awa.configure_queue(pg_temp.q(' 3'), '{"group_max_running": 1, "max_running": 300}') \g /dev/null
select count(awa.enqueue(pg_temp.q(' 3'), 'k', group_key => 'g' || n % 2000)) from generate_series(1, 4000) n
\g /dev/null
-- as if they had been enqueued before this transaction
update awa.ready_entries e
   set xid = (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text::xid8
 where awa._queue_of(e.lane) = awa._queue_id(pg_temp.q(' 3'));
insert into ids select 'limited', c.job_id, c.receipt from awa.claim(pg_temp.q(' 3'), 200, lease => '1 hour') c;
select awa.pause_group(pg_temp.q(' 3'), 'g' || n) from generate_series(1500, 1600) n \g /dev/null
insert into ids select 'in line', max(e.job_id) from awa.ready_entries e;
select awa.schedule(pg_temp.q(' s'), pg_temp.q(' 2'), 'k', cron => '0 0 1 1 *') \g /dev/null
insert into ids
select 'running', c.job_id, c.receipt
  from awa.claim(pg_temp.q(' 1'), 40, (select i.job_id from ids i where i.what = 'worker'), '1 hour') c;
-- however long this takes, they are older than what maintenance looks at again and again
update awa.lease_claims set claimed_at = claimed_at - interval '50 seconds';
insert into ids
select 'available', max(e.job_id) - 100
  from awa.ready_entries e
 where e.lane = awa._lane(awa._queue_id(pg_temp.q(' 1')), 2);
insert into ids select 'scheduled', awa.enqueue(pg_temp.q(' 1'), 'k', run_at => now() + interval '1 day');
insert into ids select 'old', min(e.job_id) + 50000 from awa.ready_entries e;
-- Statistics: the last hour of 100 queues, and of one of them and of all together a day by minutes, a month by hours
create temp table times as
select 60 as seconds, date_bin('1 minute', now(), '2000-01-01') - make_interval(mins => n) as at, n < 60 as is_recent
  from generate_series(0, 1400) n
union all
select 3600, date_bin('1 hour', now(), '2000-01-01') - make_interval(hours => n), false
  from generate_series(25, 700) n;
insert into awa.queue_statistics
select awa._queue_id(pg_temp.q(' ' || n)), t.seconds, t.at, k, 1, 1, 0, '{1,1099511627777}', '{1}'
  from generate_series(1, 100) n
  join times t on n = 1 or t.is_recent
 cross join unnest(case n when 1 then '{a,b}' else '{a}' end::text[]) k;
insert into awa.statistics
select t.seconds, t.at, k, 1, 1, 0, '{1,1099511627777}', '{1}' from times t cross join unnest('{a,b,c,d,e}'::text[]) k;
insert into awa.leased_ends
select awa._lane(awa._queue_id(pg_temp.q(' 1')), 2), 'a', false, now(), now(), now() from generate_series(1, 100);

call pg_temp.try('analyzed when empty');
select pg_temp.analyze() \g /dev/null
call pg_temp.try('analyzed');
-- As if there were a hundred times as many
update pg_class c
   set reltuples = greatest(c.reltuples, 1000) * 100
 where c.relnamespace = 'awa'::regnamespace and c.relkind in ('r', 'p', 'i');
call pg_temp.try('analyzed, as if of millions');
-- As if there were nothing
delete from pg_statistic where starelid in (select c.oid from pg_class c where c.relnamespace = 'awa'::regnamespace);
update pg_class c
   set reltuples = 0, relpages = 0
 where c.relnamespace = 'awa'::regnamespace and c.relkind in ('r', 'p', 'i');
call pg_temp.try('as if empty');

select is((select array_agg(format('%s, %s: %s', b.what, b.at, b.error)) from broken b), null,
  'all calls do what they should');
with best as (select c.what, min(c.blocks) as blocks from costs c group by c.what)
select is((
  select array_agg(format('%s: %s blocks, not %s', c.at, c.blocks, b.blocks) order by c.blocks)
    from costs c
   where c.what = b.what and c.blocks > b.blocks * 2 + 100
),
  null,
  format('%s reads the same whatever the statistics say', b.what)) from best b order by b.what;
-- But for drop_queue, which is for once, and those that look whether a segment is empty, which the first row says.
select is((
  select array_agg(format('%s, %s', c.what, c.at))
    from costs c
   where c.seq_scans > 0 and c.what !~ '^(drop_queue|health|rotate)'
),
  null, 'nothing is read from one end to the other');

select * from finish();
rollback;
