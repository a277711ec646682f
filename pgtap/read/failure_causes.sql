-- Without this, an operator would have to read thousands of failures to learn that they have one cause, and could not
-- retry these alone.
\set name failure_causes
\ir ../prelude.psql

-- In queue a: 3 failed for one cause, and 1 of another kind; 2 dead; 2 retryable; 1 cancelled; 1 completed, after an
-- attempt that failed for that cause; 1 available, which has failed, too. In queue b: 1 failed.
select count(*) from awa.enqueue_many(:'queue' || ' a', 'x', array(select to_jsonb(n) from generate_series(1, 10) n))
  \g /dev/null
create temp table c as select * from pg_temp.take(' a', 10);
select awa.discard(job_id, receipt, format('user %s is gone', n)) from c where n in (1, 2, 3) order by n \g /dev/null
select awa.configure_queue(:'queue' || ' a', '{"dead_letter": true}') \g /dev/null
select awa.discard(job_id, receipt, 'user "eve" is gone') from c where n = 4 \g /dev/null
select awa.discard(job_id, receipt, 'timeout') from c where n = 5 \g /dev/null
select awa.configure_queue(:'queue' || ' a', '{"dead_letter": null}') \g /dev/null
select awa.fail(job_id, receipt, 'user 6 is gone', '1 day') from c where n = 6 \g /dev/null
select awa.fail(job_id, receipt, 'timeout', '1 day') from c where n = 7 \g /dev/null
select awa.cancel(job_id) from c where n = 8 \g /dev/null
select awa.fail(job_id, receipt, 'user 9 is gone', '0') from c where n in (9, 10) \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' a', 'y', array['1']::jsonb[], priority => 1) \g /dev/null
select awa.discard(job_id, receipt, 'user 1 is gone') from awa.claim(:'queue' || ' a', 1) \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' b', 'x', array['1']::jsonb[]) \g /dev/null
select awa.discard(job_id, receipt, 'user 1 is gone') from awa.claim(:'queue' || ' b', 1) \g /dev/null
select promoted from awa.promote_due() \g /dev/null
select awa.complete(job_id, receipt) from awa.claim(:'queue' || ' a', 1) \g /dev/null

begin;
select plan(46);

create function pg_temp.causes(suffix text, kind text default null, since interval default '1 hour') returns text
language sql
as $$
  select string_agg(concat_ws(' ', c.kind || ':', c.cause, '-', c.failed, c.dead, c.retryable), ', ' order by c.n)
    from (
      select row_number() over () as n, f.*
        from awa.failure_causes(pg_temp.q(suffix), since, kind) f
    ) c
$$;
select is(pg_temp.causes(' a'), 'x: user ? is gone - 3 1 1, x: timeout - 0 1 1, y: user ? is gone - 1 0 0',
  'failed, dead and retryable jobs by kind and cause, the most frequent first');
select is(pg_temp.causes(' b'), 'x: user ? is gone - 1 0 0', 'of another queue');
select is(pg_temp.causes(' none'), null, 'of none');
select is(pg_temp.causes(' a', 'y'), 'y: user ? is gone - 1 0 0', 'of a kind');
select results_eq(
  format($$select f.kind, f.cause, f.failed, f.dead, f.retryable
    from awa.failure_causes() f
   where f.cause in ('user ? is gone', 'timeout')
   order by f.kind, f.cause$$),
  $$values ('x', 'timeout', 0::bigint, 1::bigint, 1::bigint), ('x', 'user ? is gone', 4, 1, 1),
    ('y', 'user ? is gone', 1, 0, 0)$$,
  'of all queues');
select is(
  (
    select row(f.last_job_id, f.last_error, f.first_at < f.last_at, f.first_at > now() - interval '1 hour')::text
      from awa.failure_causes(pg_temp.q(' a'), max_causes => 1) f
  ),
  (select row(c.job_id, 'user 6 is gone', true, true)::text from c where c.n = 6),
  'the last one that failed, its error, and when the first and the last failed');
select is((select count(*) from awa.failure_causes(pg_temp.q(' a'), max_causes => 2)), 2::bigint, 'only so many');
select ok((
    select bool_and(f.counted_since between clock_timestamp() - interval '61 minutes'
             and clock_timestamp() - interval '59 minutes')
      from awa.failure_causes(pg_temp.q(' a'), '1 hour') f
  ),
  'all are counted since the time that was asked for');
savepoint s;
update awa.done_entries d set finalized_at = finalized_at - interval '2 hours' where d.job_id in (select job_id from c);
select is(pg_temp.causes(' a'), 'y: user ? is gone - 1 0 0, x: timeout - 0 0 1, x: user ? is gone - 0 0 1',
  'only within that time');
update awa.deferred_jobs d set attempted_at = attempted_at - interval '2 hours'
 where d.job_id in (select job_id from c);
select is(pg_temp.causes(' a'), 'y: user ? is gone - 1 0 0',
  'of jobs that wait for an attempt: when the last one began');
rollback to s;
-- More than are read
insert into awa.done_entries
select d.job_id, d.lane, d.state, d.reason, d.counted_by_closure, d.receipt, d.worker_id, d.ready_at, d.created_at,
       d.attempted_at, d.finalized_at - make_interval(secs => n), d.attempt, d.max_attempts, d.body_bytes, null, d.kind,
       d.args, d.tags, d.metadata, d.group_key, d.expires_at, d.progress,
       case when n > 9980 then '[{"error": "old"}]' else d.errors end, d.output
  from awa.done_entries d
 cross join generate_series(1, 10100) n
 where d.job_id = (select c.job_id from c where c.n = 1);
select is(
  (
    select string_agg(concat_ws(' ', f.cause, f.failed, f.dead), ', ' order by f.failed desc)
      from awa.failure_causes(pg_temp.q(' a'), '1 day', 'x') f
  ),
  'user ? is gone 9983 1, old 14 0, timeout 0 1', 'the newest 10,000 of those that have ended');
select ok((
    select bool_and(f.counted_since between clock_timestamp() - interval '170 minutes'
             and clock_timestamp() - interval '165 minutes')
      from awa.failure_causes(pg_temp.q(' a'), '1 day') f
  ),
  'it says since when all are counted');
select ok((
    select bool_and(f.counted_since > clock_timestamp() - interval '170 minutes')
      from awa.failure_causes(since => '1 day') f
  ),
  'so it does for all queues');
select is(pg_temp.causes(' a', 'y', '1 day'), 'y: user ? is gone - 1 0 0', 'of another kind');
insert into awa.deferred_jobs
select (jsonb_populate_record(d, jsonb_build_object('attempted_at', d.attempted_at - interval '2 hours', 'run_at',
         d.run_at + make_interval(secs => n)))).*
  from awa.deferred_jobs d
 cross join generate_series(1, 500) n
 where d.job_id = (select c.job_id from c where c.n = 6);
create function pg_temp.rows_read(call text) returns bigint
language plpgsql
as $$
declare
  v_before bigint;
  v_after bigint;
begin
  select sum(t.seq_tup_read + t.idx_tup_fetch) into v_before
    from pg_stat_xact_user_tables t where t.schemaname = 'awa' and t.relname in ('done_entries', 'deferred_jobs');
  execute call;
  select sum(t.seq_tup_read + t.idx_tup_fetch) into v_after
    from pg_stat_xact_user_tables t where t.schemaname = 'awa' and t.relname in ('done_entries', 'deferred_jobs');
  return v_after - v_before;
end
$$;
select cmp_ok(pg_temp.rows_read(format('select count(f) from awa.failure_causes(%L, ''5 minutes'') f', q)), '<',
  400::bigint,
  'what failed before that time is not read: ' || case when q is null then 'of all queues' else 'of one' end)
  from unnest(array[pg_temp.q(' a'), null]) q;
rollback to s;
-- Errors that are large
update awa.done_entries d
   set errors = jsonb_build_array(jsonb_build_object('error', (
         select string_agg(md5(random()::text), ' ') from generate_series(1, 80000)))) || d.errors
 where d.job_id in (select c.job_id from c where c.n in (1, 2, 4, 5));
insert into awa.done_entries
select (jsonb_populate_record(d, jsonb_build_object('finalized_at', d.finalized_at - interval '1 minute'))).*
  from awa.done_entries d
 cross join generate_series(1, 12)
 where d.job_id in (select c.job_id from c where c.n = 1);
select ok((select sum(f.failed) between 4 and 14 from awa.failure_causes(pg_temp.q(' a'), '1 day', 'x') f),
  'it reads 32 MiB of errors');
select ok((
    select bool_and(f.counted_since > clock_timestamp() - interval '10 minutes')
      from awa.failure_causes(pg_temp.q(' a'), '1 day') f
  ),
  'and says so');
rollback to s;

-- The jobs of a cause
create function pg_temp.numbers(job_ids bigint[]) returns text
language sql
as $$
  select string_agg(coalesce(c.n::text, '?'), ' ' order by c.n) from unnest(job_ids) i left join c on c.job_id = i
$$;
create function pg_temp.listed(state text, cause text, kind text default null) returns text
language sql
as $$
  select pg_temp.numbers(array_agg(j.id)) from awa.list_jobs(pg_temp.q(' a'), state, kind, cause => cause) j
$$;
select is(pg_temp.listed('failed', 'user ? is gone', 'x'), '1 2 3', 'list_jobs lists those that failed for a cause');
select is(pg_temp.listed('dead', 'user ? is gone'), '4', 'dead ones');
select is(pg_temp.listed('retryable', 'timeout'), '7', 'retryable ones');
select is(pg_temp.listed('available', 'user ? is gone'), '10', 'available ones, by the attempt before');
select is(pg_temp.listed('completed', 'user ? is gone'), '9', 'completed ones');
select is(pg_temp.listed(null, 'user ? is gone', 'x'), '1 2 3 4 6 9 10', 'in any state');
select is(pg_temp.listed(null, 'user 77 is gone', 'x'), '1 2 3 4 6 9 10', 'by an error that has this cause');
select is(pg_temp.listed(null, 'none'), null, 'none of another cause');
select is((select pg_temp.numbers(s.job_ids) from awa.scan_jobs(jsonb_build_object('queue', pg_temp.q(' a'),
  'cause', 'user ? is gone', 'kind', 'x')) s), '1 2 3 4 6 9 10', 'scan_jobs finds them');
create function pg_temp.they_are() returns text
language sql
as $$
  select string_agg(c.n || ' ' || coalesce(j.state, 'gone'), ', ' order by c.n)
    from c
    left join awa.jobs j on j.id = c.job_id
$$;
select is(pg_temp.they_are(), '1 failed, 2 failed, 3 failed, 4 dead, 5 dead, 6 retryable, 7 retryable, 8 cancelled, '
  '9 completed, 10 available', 'before');
create function pg_temp.change(action text, filter jsonb, options jsonb default '{}') returns text
language plpgsql
as $$
declare
  v_filter jsonb := filter || jsonb_build_object('queue', pg_temp.q(' a'), 'cause', 'user 5 is gone');
  v_change_id bigint;
  v_said text;
begin
  v_change_id := awa.start_change(action, v_filter, options);
  for n in 1..10 loop
    exit when not (select more from awa.apply_changes());
  end loop;
  select format('%s, %s: %s', l.filter ->> 'cause', l.state, pg_temp.they_are()) into v_said
    from awa.list_changes() l
   where l.change_id = v_change_id;
  raise exception using errcode = 'TAP00', message = v_said;
exception when sqlstate 'TAP00' then
  return v_said;
end
$$;
select is(pg_temp.change('retry', '{"kind": "x"}'),
  'user ? is gone, finished: 1 available, 2 available, 3 available, 4 available, 5 dead, 6 retryable, 7 retryable, '
  '8 cancelled, 9 completed, 10 available', 'start_change retries them, and no others');
select is(pg_temp.change('retry', '{"kind": "x"}', '{"over": "1 hour"}'),
  'user ? is gone, finished: 1 scheduled, 2 scheduled, 3 scheduled, 4 scheduled, 5 dead, 6 retryable, 7 retryable, '
  '8 cancelled, 9 completed, 10 available', 'over a time');
select is(pg_temp.change('retry', '{"state": "retryable"}'),
  'user ? is gone, finished: 1 failed, 2 failed, 3 failed, 4 dead, 5 dead, 6 available, 7 retryable, '
  '8 cancelled, 9 completed, 10 available', 'retryable ones, where it says so');
select is(pg_temp.change('cancel', '{}'),
  'user ? is gone, finished: 1 failed, 2 failed, 3 failed, 4 dead, 5 dead, 6 cancelled, 7 retryable, '
  '8 cancelled, 9 completed, 10 cancelled', 'cancels');
select is(pg_temp.change('delete', '{"kind": "x"}'),
  'user ? is gone, finished: 1 gone, 2 gone, 3 gone, 4 gone, 5 dead, 6 retryable, 7 retryable, '
  '8 cancelled, 9 gone, 10 available', 'deletes');
create function pg_temp.called(call text) returns text
language plpgsql
as $$
declare
  v_said text;
begin
  execute format('select format(%L, awa.%s, pg_temp.they_are())', '%s: %s',
    format(call, pg_temp.q(' a'))) into v_said;
  raise exception using errcode = 'TAP00', message = v_said;
exception when sqlstate 'TAP00' then
  return v_said;
end
$$;
select is(pg_temp.called('retry_where(%L, cause => ''user ? is gone'', kind => ''x'')'),
  '4: 1 available, 2 available, 3 available, 4 available, 5 dead, 6 retryable, 7 retryable, 8 cancelled, 9 completed, '
  '10 available', 'retry_where');
select is(pg_temp.called('retry_where(%L, cause => ''user ? is gone'', state => ''retryable'')'),
  '1: 1 failed, 2 failed, 3 failed, 4 dead, 5 dead, 6 available, 7 retryable, 8 cancelled, 9 completed, 10 available',
  'retry_where of retryable ones');
select is(pg_temp.called('cancel_where(%L, cause => ''user ? is gone'')'),
  '2: 1 failed, 2 failed, 3 failed, 4 dead, 5 dead, 6 cancelled, 7 retryable, 8 cancelled, 9 completed, 10 cancelled',
  'cancel_where');
select is(pg_temp.called('purge_dlq(%L, cause => ''timeout'')'),
  '1: 1 failed, 2 failed, 3 failed, 4 dead, 5 gone, 6 retryable, 7 retryable, 8 cancelled, 9 completed, 10 available',
  'purge_dlq');
select is(pg_temp.called('delete_where(%L, cause => ''user ? is gone'', kind => ''x'')'),
  '5: 1 gone, 2 gone, 3 gone, 4 gone, 5 dead, 6 retryable, 7 retryable, 8 cancelled, 9 gone, 10 available',
  'delete_where');
select is(pg_temp.outcome('select awa.retry_where(cause => ''none'')'), 'ok', 'a cause alone is a filter');
select is(pg_temp.outcome('select awa.start_change(''retry'', ''{"cause": "none"}'')'), 'ok', 'of a change, too');

select pg_temp.refused('select * from awa.failure_causes(since => ''0'')', '22023', 'since', 'no time');
select pg_temp.refused('select * from awa.failure_causes(max_causes => 0)', '22023', 'max_causes', 'no causes');
select pg_temp.refused('select awa.retry_where(cause => '' '')', '22023', 'cause', 'no word');
select pg_temp.refused('select * from awa.list_jobs(cause => '''')', '22023', 'cause', 'of a list');
select pg_temp.refused('select * from awa.scan_jobs(''{"cause": ""}'')', '22023', 'filter: cause', 'of scan_jobs');
select pg_temp.agrees('the books balance');

select * from finish();
rollback;
