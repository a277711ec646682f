-- Without this, nothing that start_change has started would ever be done.
\set name apply_changes
\ir ../prelude.psql

-- In each queue jobs in every state, with a tag, and one without it
create function pg_temp.jobs_of(suffix text) returns void
language plpgsql
as $$
declare
  v_queue text := pg_temp.q(suffix);
begin
  perform awa.configure_queue(v_queue, '{"dead_letter": true}');
  perform awa.enqueue_many(v_queue, 'k', array(select to_jsonb(n) from generate_series(1, 8) n), tags => '{t}');
  perform awa.enqueue(v_queue, 'k', '9', run_at => '2130-01-01', tags => '{t}');
end
$$;
create function pg_temp.ends_of(suffix text) returns void
language plpgsql
as $$
declare
  v_queue text := pg_temp.q(suffix);
begin
  create temp table c on commit drop as select t.args #>> '{}' as n, t.job_id, t.receipt from awa.claim(v_queue, 7) t;
  perform awa.complete(job_id, receipt) from c where n = '1';
  perform awa.complete(job_id, receipt, '{}') from c where n = '2';
  perform awa.cancel_attempt(job_id, receipt) from c where n = '3';
  perform awa.discard(job_id, receipt, 'e') from c where n = '4';
  perform awa.fail(job_id, receipt, 'e', '1 day') from c where n = '5';
  perform awa.extend(job_id, receipt, '1 hour') from c where n = '6';
  perform awa.configure_queue(v_queue, '{"dead_letter": false}');
  perform awa.discard(job_id, receipt, 'e') from c where n = '7';
end
$$;
select pg_temp.jobs_of(' ' || n) from generate_series(1, 8) n \g /dev/null
do $$ begin for n in 1..8 loop perform pg_temp.ends_of(' ' || n); drop table c; end loop; end $$;
select awa.claim(:'queue' || ' 1') \g /dev/null
select pg_temp.step('setup') \g /dev/null
select count(*)
  from awa.enqueue_many(:'queue' || ' many', 'k', array(select to_jsonb(n) from generate_series(1, 10) n)) \g /dev/null
-- Two jobs of one key, the second of which holds it
create temp table keyed as
select 1 as n, u.job_id from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue', max_attempts => 1) u;
select awa.fail(job_id, receipt, 'e') from pg_temp.take(' keyed', 1) \g /dev/null
insert into keyed select 2, u.job_id from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue') u;
insert into keyed select 3, awa.enqueue(:'queue' || ' keyed', 'k');
select awa.cancel(job_id) from keyed where n = 3 \g /dev/null
-- Jobs of a group that wait in line
select awa.configure_queue(:'queue' || ' line', '{"group_max_running": 1}') \g /dev/null
select count(*)
  from awa.enqueue_many(:'queue' || ' line', 'k', array(select to_jsonb(n) from generate_series(1, 4) n),
    group_key => 'g') \g /dev/null
select job_id from awa.claim(:'queue' || ' line', 10) \g /dev/null
select pg_temp.step('and more') \g /dev/null

begin;
select plan(50);

-- Starts a change of a queue, makes all of its parts, and says what came of it.
create function pg_temp.changes(action text, suffix text, options jsonb default '{}', filter jsonb default '{}')
returns text
language plpgsql
as $$
declare
  v_id bigint := awa.start_change(action, filter || jsonb_build_object('queue', pg_temp.q(suffix)), options);
  v_more boolean := true;
begin
  while v_more loop
    select more into v_more from awa.apply_changes(3);
  end loop;
  return (
    select concat_ws(', ', c.state, 'found ' || c.found, 'changed ' || c.changed, 'skipped ' || c.skipped)
      from awa.list_changes() c
     where c.change_id = v_id);
end
$$;
select results_eq('select changed, more from awa.apply_changes()', 'values (0::bigint, false)', 'nothing is to do');
select is((select count(*) from awa.apply_changes_row), 0::bigint, 'the view that names the columns is empty');
select is(pg_temp.states(' 2'),
  'available 1, cancelled 1, completed 2, dead 1, failed 1, retryable 1, running 1, scheduled 1', 'before');

select is(pg_temp.changes('cancel', ' 2', '{"reason": "r"}'), 'finished, found 4, changed 4, skipped 0',
  'cancel: what has not ended');
select is(pg_temp.states(' 2'), 'cancelled 5, completed 2, dead 1, failed 1', 'is cancelled');
select is((
  select array_agg(distinct row(e ->> 'error', e ->> 'by')::text)
    from awa.list_jobs(pg_temp.q(' 2'), 'cancelled') j
   cross join lateral (select j.errors -> -1 as e) l
   where j.args <> '3'
),
  array[format('(r,%s)', session_user)], 'with the reason, and by the login that started it');
select is(pg_temp.changes('retry', ' 3'), 'finished, found 3, changed 3, skipped 0',
  'retry: what failed or was cancelled');
select is(pg_temp.states(' 3'), 'available 4, completed 2, retryable 1, running 1, scheduled 1', 'runs again');
select is(pg_temp.changes('retry', ' 3', '{}', '{"state": "retryable"}'), 'finished, found 1, changed 1, skipped 0',
  'what waits does where it is named');
select is(pg_temp.changes('retry', ' 4', '{"queue": "elsewhere", "priority": 1, "run_at": "2130-01-01T00:00:00Z"}'),
  'finished, found 3, changed 3, skipped 0', 'with another queue, priority, and time');
select is((select array_agg(distinct row(j.state, j.priority, j.run_at = '2130-01-01')::text)
  from awa.list_jobs('elsewhere') j), '{"(scheduled,1,t)"}', 'there they are');
select is(pg_temp.changes('move', ' 5', jsonb_build_object('queue', pg_temp.q(' moved'))),
  'finished, found 3, changed 3, skipped 0', 'move: what waits');
select is(pg_temp.states(' moved'), 'available 1, retryable 1, scheduled 1', 'is in the other queue');
select is(pg_temp.states(' 5'), 'cancelled 1, completed 2, dead 1, failed 1, running 1', 'and no more in the first');
select is(pg_temp.changes('move', ' moved', jsonb_build_object('queue', pg_temp.q(' moved'))),
  'finished, found 3, changed 3, skipped 0', 'what is there already is left there');
select is(pg_temp.changes('set_priority', ' 6', '{"priority": 4}'), 'finished, found 3, changed 3, skipped 0',
  'set_priority: what waits');
select is((select jsonb_object_agg(j.state, j.priority) from awa.list_jobs(pg_temp.q(' 6')) j
  where j.state in ('available', 'scheduled', 'retryable', 'running')),
  '{"available": 4, "scheduled": 4, "retryable": 4, "running": 2}', 'has the other priority');
select is(pg_temp.changes('delete', ' 7'), 'finished, found 5, changed 5, skipped 0', 'delete: what has ended');
select is(pg_temp.states(' 7'), 'available 1, retryable 1, running 1, scheduled 1', 'is gone');
select awa.configure_queue(pg_temp.q(' 8'), '{"completed_retention": "1 millisecond"}') \g /dev/null
select is(pg_temp.states(' 8'),
  'available 1, cancelled 1, dead 1, failed 1, retryable 1, running 1, scheduled 1', 'completed jobs that are hidden')
  where pg_sleep(0.002) is not null;
select is(pg_temp.changes('delete', ' 8', '{}', '{"state": "completed"}'), 'finished, found 2, changed 2, skipped 0',
  'are deleted, too');
select is(pg_temp.changes('delete', ' 8', '{}', '{"state": "dead"}'), 'finished, found 1, changed 1, skipped 0',
  'or those of one state');
select pg_temp.agrees('the books balance');

-- Filters
select is(pg_temp.changes(a.action, ' 1', a.options, '{"tag": "other"}'), 'finished, found 0, changed 0, skipped 0',
  a.action || ' of jobs that have another tag')
  from (values (1, 'cancel', '{}'::jsonb), (2, 'retry', '{}'), (3, 'move', '{"queue": "r"}'), (4, 'delete', '{}'))
       a(n, action, options)
 order by a.n;
select is(pg_temp.changes('cancel', ' 1', '{}', f.filter::jsonb), 'finished, found 1, changed 1, skipped 0',
  'by ' || f.filter)
  from (values (1, '{"args": 8, "tag": "t", "kind": "k"}'),
    (2, '{"state": "retryable", "before": "9999-01-01T00:00:00Z"}'),
    (3, '{"args": 9, "state": "scheduled"}')) f(n, filter)
 order by f.n;
select is(pg_temp.changes('cancel', ' 1', '{}', '{"before": "2000-01-01T00:00:00Z"}'),
  'finished, found 0, changed 0, skipped 0',
  'none was enqueued so long ago');
select is(pg_temp.changes('retry', ' 1', '{}', '{"before": "2000-01-01T00:00:00Z"}'),
  'finished, found 0, changed 0, skipped 0',
  'or has ended');

-- Parts
select awa.start_change('cancel', jsonb_build_object('queue', pg_temp.q(' many'))) as many_id \gset
select awa.enqueue(pg_temp.q(' many'), 'k', '11') \g /dev/null
select results_eq('select changed, more from awa.apply_changes(4)', 'values (4::bigint, true)', 'a part of four jobs');
select is((select array_agg((args #>> '{}')::int order by id) from awa.list_jobs(pg_temp.q(' many'), 'cancelled') j),
  '{7,8,9,10}', 'the newest first, but for those that came later');
select awa.start_change('cancel', '{"queue": "none"}') as second_id \gset
select results_eq('select changed, more from awa.apply_changes(4)', 'values (4::bigint, true)', 'the next part');
select results_eq('select changed, more from awa.apply_changes(4)', 'values (0::bigint, true)', 'then another change');
select is(awa.run_pass('apply_changes', 4), false, 'it is the pass apply_changes');
select is(pg_temp.states(' many'), 'available 1, cancelled 10', 'all but the one that came later');

-- Jobs that are skipped
select is(pg_temp.changes('retry', ' keyed'), 'finished, found 2, changed 1, skipped 1', 'one whose key is held');
select alike((select last_error from awa.list_changes() limit 1), 'job % another job holds its unique key',
  'is named');
select is(pg_temp.states(' keyed'), 'available 2, failed 1', 'and the other one runs');

-- Lines
select is(pg_temp.states(' line'), 'available 3, running 1', 'jobs that wait for their group');
select is(pg_temp.changes('set_priority', ' line', '{"priority": 1}', '{"args": 2}'),
  'finished, found 1, changed 1, skipped 0', 'get another priority');
select is(pg_temp.changes('move', ' line', '{"queue": "away"}', '{"args": 3}'),
  'finished, found 1, changed 1, skipped 0', 'go to another queue');
select is(pg_temp.changes('cancel', ' line'), 'finished, found 3, changed 3, skipped 0', 'and are cancelled');
select pg_temp.agrees('the books balance after that');

-- History
update awa.changes set ended_at = now() - interval '90 days' where change_id = :many_id;
update awa.changes set started_at = now() - interval '91 days' where change_id = :second_id;
select changed from awa.apply_changes() \g /dev/null
select is((select array_agg(c.change_id) from awa.list_changes() c where c.change_id in (:many_id, :second_id)),
  array[:second_id]::bigint[], 'changes are kept for 90 days after their end');
select pg_temp.refused(format('select * from awa.apply_changes(%s)', n), '22023', 'max_jobs', 'max_jobs of ' || n)
  from unnest(array[0, 10001]) n;
select pg_temp.steps_agree();

select * from finish();
rollback;
