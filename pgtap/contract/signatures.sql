-- Without this, a change of a name, a default or a column would break clients in other languages, which no compiler
-- tells us.
\set name signatures
\ir ../prelude.psql

create temp table contract (name text primary key, arguments text, result text);
insert into contract values
  ('enqueue',
    'queue text, kind text, args jsonb DEFAULT ''{}''::jsonb, priority integer DEFAULT NULL::integer, run_at timestamp '
    'with time zone DEFAULT NULL::timestamp with time zone, max_attempts integer DEFAULT NULL::integer, tags text[] '
    'DEFAULT NULL::text[], metadata jsonb DEFAULT NULL::jsonb, group_key text DEFAULT NULL::text, '
    'expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone', 'bigint'),
  ('enqueue_many',
    'queue text, kind text, args jsonb[], priority integer DEFAULT NULL::integer, run_at timestamp with time zone '
    'DEFAULT NULL::timestamp with time zone, max_attempts integer DEFAULT NULL::integer, tags text[] DEFAULT '
    'NULL::text[], metadata jsonb DEFAULT NULL::jsonb, group_key text DEFAULT NULL::text, '
    'expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone', 'SETOF bigint'),
  ('enqueue_batch', 'jobs jsonb', 'SETOF awa.enqueue_unique_row'),
  ('enqueue_unique',
    'queue text, kind text, args jsonb DEFAULT ''{}''::jsonb, unique_key text DEFAULT NULL::text, unique_by text[] '
    'DEFAULT ''{kind,args}''::text[], unique_period interval DEFAULT NULL::interval, unique_states text[] DEFAULT '
    'NULL::text[], priority integer DEFAULT NULL::integer, run_at timestamp with time zone DEFAULT NULL::timestamp '
    'with time zone, max_attempts integer DEFAULT NULL::integer, tags text[] DEFAULT NULL::text[], metadata jsonb '
    'DEFAULT NULL::jsonb, unique_zone text DEFAULT ''UTC''::text, group_key text DEFAULT NULL::text, '
    'expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone',
    'SETOF awa.enqueue_unique_row'),
  ('cancel_by_unique_key',
    'queue text DEFAULT NULL::text, kind text DEFAULT NULL::text, args jsonb DEFAULT ''{}''::jsonb, unique_key text '
    'DEFAULT NULL::text, unique_by text[] DEFAULT ''{kind,args}''::text[], unique_period interval DEFAULT '
    'NULL::interval, unique_zone text DEFAULT ''UTC''::text, run_at timestamp with time zone DEFAULT NULL::timestamp '
    'with time zone', 'SETOF bigint'),
  ('register_worker',
    'name text, queues text[] DEFAULT NULL::text[], info jsonb DEFAULT NULL::jsonb, member_of text DEFAULT NULL::text',
    'bigint'),
  ('heartbeat', 'worker_id bigint', 'SETOF awa.lost_attempt_row'),
  ('deregister_worker', 'worker_id bigint', 'bigint'),
  ('release_unknown', 'worker_id bigint, job_ids bigint[], receipts bigint[]', 'bigint'),
  ('claim',
    'queue text, max_jobs integer DEFAULT 1, worker_id bigint DEFAULT NULL::bigint, lease interval DEFAULT '
    'NULL::interval, durable boolean DEFAULT NULL::boolean', 'SETOF awa.claimed_job_row'),
  ('complete', 'job_id bigint, receipt bigint, output jsonb DEFAULT NULL::jsonb', 'void'),
  ('complete_many', 'job_ids bigint[], receipts bigint[], outputs jsonb[] DEFAULT NULL::jsonb[]', 'SETOF bigint'),
  ('fail',
    'job_id bigint, receipt bigint, error text, retry_after interval DEFAULT NULL::interval, details jsonb DEFAULT '
    'NULL::jsonb', 'text'),
  ('fail_many',
    'job_ids bigint[], receipts bigint[], errors text[], retry_after interval[] DEFAULT NULL::interval[]',
    'SETOF bigint'),
  ('release', 'job_id bigint, receipt bigint', 'void'),
  ('discard', 'job_id bigint, receipt bigint, error text, details jsonb DEFAULT NULL::jsonb', 'text'),
  ('snooze', 'job_id bigint, receipt bigint, delay interval, hold_group boolean DEFAULT false', 'void'),
  ('put_off', 'job_id bigint, receipt bigint, error text', 'timestamp with time zone'),
  ('cancel_attempt', 'job_id bigint, receipt bigint, reason text DEFAULT NULL::text', 'void'),
  ('extend', 'job_id bigint, receipt bigint, lease interval', 'timestamp with time zone'),
  ('set_progress', 'job_id bigint, receipt bigint, progress jsonb', 'void'),
  ('configure', 'settings jsonb', 'void'),
  ('configure_queue', 'queue text, settings jsonb', 'void'),
  ('pause_queue', 'queue text', 'void'),
  ('resume_queue', 'queue text', 'void'),
  ('drain_queue', 'queue text', 'bigint'),
  ('configure_group', 'queue text, group_key text, settings jsonb', 'void'),
  ('pause_group',
    'queue text, group_key text, reason text DEFAULT NULL::text, until timestamp with time zone DEFAULT '
    'NULL::timestamp with time zone', 'void'),
  ('resume_group', 'queue text, group_key text', 'void'),
  ('drop_queue', 'queue text, force boolean DEFAULT false', 'void'),
  ('start_change', 'action text, filter jsonb, options jsonb DEFAULT ''{}''::jsonb', 'bigint'),
  ('stop_change', 'change_id bigint', 'void'),
  ('list_changes',
    'state text DEFAULT NULL::text, before_id bigint DEFAULT NULL::bigint, max_changes integer DEFAULT 100',
    'SETOF awa.list_changes_row'),
  ('apply_changes', 'max_jobs integer DEFAULT 500', 'SETOF awa.apply_changes_row'),
  ('cancel', 'job_id bigint, reason text DEFAULT NULL::text', 'text'),
  ('discard_job', 'job_id bigint, reason text DEFAULT NULL::text', 'text'),
  ('retry',
    'job_id bigint, queue text DEFAULT NULL::text, priority integer DEFAULT NULL::integer, run_at timestamp with time '
    'zone DEFAULT NULL::timestamp with time zone', 'text'),
  ('set_priority', 'job_id bigint, priority integer', 'text'),
  ('move', 'job_id bigint, queue text', 'text'),
  ('next_ready_at', 'queues text[] DEFAULT NULL::text[]', 'timestamp with time zone'),
  ('pass_due_at', 'pass text', 'timestamp with time zone'),
  ('reschedule', 'job_id bigint, run_at timestamp with time zone, args jsonb DEFAULT NULL::jsonb', 'text'),
  ('cancel_where',
    'queue text DEFAULT NULL::text, kind text DEFAULT NULL::text, state text DEFAULT NULL::text, before timestamp with '
    'time zone DEFAULT NULL::timestamp with time zone, max_jobs integer DEFAULT 1000, tag text DEFAULT NULL::text, '
    'args jsonb DEFAULT NULL::jsonb, group_key text DEFAULT NULL::text, cause text DEFAULT NULL::text', 'bigint'),
  ('retry_where',
    'queue text DEFAULT NULL::text, kind text DEFAULT NULL::text, state text DEFAULT NULL::text, before timestamp with '
    'time zone DEFAULT NULL::timestamp with time zone, max_jobs integer DEFAULT 1000, tag text DEFAULT NULL::text, '
    'args jsonb DEFAULT NULL::jsonb, group_key text DEFAULT NULL::text, cause text DEFAULT NULL::text', 'bigint'),
  ('purge_dlq',
    'queue text DEFAULT NULL::text, kind text DEFAULT NULL::text, state text DEFAULT NULL::text, before timestamp with '
    'time zone DEFAULT NULL::timestamp with time zone, max_jobs integer DEFAULT 1000, tag text DEFAULT NULL::text, '
    'args jsonb DEFAULT NULL::jsonb, group_key text DEFAULT NULL::text, cause text DEFAULT NULL::text', 'bigint'),
  ('delete_job', 'job_id bigint', 'text'),
  ('delete_where',
    'queue text DEFAULT NULL::text, kind text DEFAULT NULL::text, state text DEFAULT NULL::text, before timestamp with '
    'time zone DEFAULT NULL::timestamp with time zone, max_jobs integer DEFAULT 1000, tag text DEFAULT NULL::text, '
    'args jsonb DEFAULT NULL::jsonb, group_key text DEFAULT NULL::text, cause text DEFAULT NULL::text', 'bigint'),
  ('schedule',
    'name text, queue text, kind text, cron text DEFAULT NULL::text, every interval DEFAULT NULL::interval, args jsonb '
    'DEFAULT ''{}''::jsonb, timezone text DEFAULT ''UTC''::text, missed text DEFAULT ''latest''::text, missed_for '
    'interval DEFAULT ''1 day''::interval, overlap text DEFAULT ''allow''::text, starts_at timestamp with time zone '
    'DEFAULT NULL::timestamp with time zone, ends_at timestamp with time zone DEFAULT NULL::timestamp with time zone, '
    'priority integer DEFAULT NULL::integer, max_attempts integer DEFAULT NULL::integer, tags text[] DEFAULT '
    'NULL::text[], metadata jsonb DEFAULT NULL::jsonb, group_key text DEFAULT NULL::text', 'void'),
  ('unschedule', 'name text', 'void'),
  ('pause_schedule', 'name text, reason text DEFAULT NULL::text', 'void'),
  ('resume_schedule', 'name text', 'void'),
  ('trigger_schedule', 'name text', 'bigint'),
  ('backfill_schedule',
    'name text, "from" timestamp with time zone, "to" timestamp with time zone, max_jobs integer DEFAULT 1000, repeat '
    'boolean DEFAULT false', 'SETOF bigint'),
  ('sync_schedules', 'source text, schedules jsonb, revision bigint DEFAULT NULL::bigint', 'boolean'),
  ('fire_due', 'max_jobs integer DEFAULT 1000', 'SETOF awa.fire_due_row'),
  ('rescue', 'max_jobs integer DEFAULT 1000', 'SETOF awa.rescue_row'),
  ('materialize',
    'older_than interval DEFAULT NULL::interval, max_jobs integer DEFAULT 1000', 'SETOF awa.materialize_row'),
  ('cancel_expired', 'max_jobs integer DEFAULT 1000', 'SETOF awa.cancel_expired_row'),
  ('expire_history', '', 'SETOF awa.expire_history_row'),
  ('rotate', 'force boolean DEFAULT false', 'SETOF awa.rotate_row'),
  ('prune_oldest', 'force boolean DEFAULT false', 'SETOF awa.prune_oldest_row'),
  ('fold', '', 'SETOF awa.fold_row'),
  ('summarize', '', 'SETOF awa.summarize_row'),
  ('forget_workers', '', 'SETOF awa.forget_workers_row'),
  ('end_stuck_claimers', '', 'SETOF awa.end_stuck_claimers_row'),
  ('run_pass', 'pass text, max_jobs integer DEFAULT NULL::integer, if_due boolean DEFAULT false', 'boolean'),
  ('run_maintenance', '', ''),
  ('run_passes', 'IN if_due boolean DEFAULT true', ''),
  ('rebase_after_restore', '', 'SETOF awa.rebase_after_restore_row'),
  ('explain_job', 'job_id bigint', 'text'),
  ('promote_due', 'max_jobs integer DEFAULT 4096', 'SETOF awa.promote_due_row'),
  ('jobs_compat', '', 'SETOF awa.jobs'),
  ('job', 'job_id bigint', 'SETOF awa.jobs'),
  ('list_jobs',
    'queue text DEFAULT NULL::text, state text DEFAULT NULL::text, kind text DEFAULT NULL::text, before_id bigint '
    'DEFAULT NULL::bigint, max_jobs integer DEFAULT 100, tag text DEFAULT NULL::text, args jsonb DEFAULT '
    'NULL::jsonb, group_key text DEFAULT NULL::text, cause text DEFAULT NULL::text', 'SETOF awa.jobs'),
  ('job_summaries',
    'queue text DEFAULT NULL::text, state text DEFAULT NULL::text, kind text DEFAULT NULL::text, before_id bigint '
    'DEFAULT NULL::bigint, max_jobs integer DEFAULT 100, tag text DEFAULT NULL::text, args jsonb DEFAULT '
    'NULL::jsonb, group_key text DEFAULT NULL::text, cause text DEFAULT NULL::text, worker_id bigint DEFAULT '
    'NULL::bigint, job_ids bigint[] DEFAULT NULL::bigint[]', 'SETOF awa.job_summaries_row'),
  ('failure_causes',
    'queue text DEFAULT NULL::text, since interval DEFAULT ''1 day''::interval, kind text DEFAULT NULL::text, '
    'max_causes integer DEFAULT 100', 'SETOF awa.failure_causes_row'),
  ('scan_jobs', 'filter jsonb, before_id bigint DEFAULT NULL::bigint', 'SETOF awa.scan_jobs_row'),
  ('queue_stats',
    'queue text DEFAULT NULL::text, since interval DEFAULT ''01:00:00''::interval, step interval DEFAULT '
    '''00:01:00''::interval, kind text DEFAULT NULL::text, by_kind boolean DEFAULT false', 'SETOF awa.queue_stats_row'),
  ('queue_counts', 'queue text DEFAULT NULL::text', 'SETOF awa.queue_counts_row'),
  ('configuration', '', 'SETOF awa.configuration_row'),
  ('list_queues', '', 'SETOF awa.list_queues_row'),
  ('list_groups', 'queue text, after_key text DEFAULT NULL::text, max_groups integer DEFAULT 100',
    'SETOF awa.list_groups_row'),
  ('list_workers', '', 'SETOF awa.list_workers_row'),
  ('list_schedules', '', 'SETOF awa.list_schedules_row'),
  ('explain_schedule', 'name text', 'text'),
  ('next_fires',
    'cron text, timezone text DEFAULT ''UTC''::text, after timestamp with time zone DEFAULT now(), n integer DEFAULT 5',
    'SETOF timestamp with time zone'),
  ('describe_cron', 'cron text', 'text'),
  ('audit', '', 'SETOF awa.audit_row'),
  ('health', '', 'SETOF awa.health_row'),
  ('health_of', 'topics text[] DEFAULT NULL::text[]', 'SETOF awa.health_row'),
  ('version', '', 'text');

create function pg_temp.columns_of(relation regclass) returns text
language sql
return (select string_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum)
          from pg_attribute a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped);

begin;
select plan(216);

select is(
  (
    select array_agg(format('(%s) returns %s', pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)))
      from pg_proc p
     where p.pronamespace = 'awa'::regnamespace and p.proname = c.name
  ),
  array[format('(%s) returns %s', c.arguments, c.result)], c.name || ' is as the contract has it')
  from contract c order by c.name;
select is((select p.provolatile::text from pg_proc p where p.pronamespace = 'awa'::regnamespace and p.proname = c.name),
  case
    when c.name in ('audit', 'jobs_compat', 'job', 'list_jobs', 'scan_jobs', 'failure_causes',
      'job_summaries', 'queue_counts', 'queue_stats',
      'configuration', 'list_queues', 'list_groups', 'list_workers', 'list_changes', 'list_schedules',
      'explain_schedule', 'next_fires', 'next_ready_at', 'explain_job',
      'pass_due_at', 'health', 'health_of', 'version')
      then 's'
    when c.name = 'describe_cron' then 'i'
    else 'v'
  end,
  c.name || ': does it write?')
  from contract c order by c.name;

select is(pg_temp.columns_of('awa.claimed_job_row'),
  'job_id bigint, receipt bigint, queue text, kind text, args jsonb, priority integer, attempt integer, max_attempts '
  'integer, created_at timestamp with time zone, ready_at timestamp with time zone, '
  'deadline_at timestamp with time zone, tags text[], metadata jsonb, progress jsonb, group_key text, '
  'expires_at timestamp with time zone',
  'columns of claimed_job');
select is(pg_temp.columns_of('awa.jobs'),
  'id bigint, kind text, queue text, args jsonb, state text, priority integer, attempt integer, max_attempts integer, '
  'run_at timestamp with time zone, heartbeat_at timestamp with time zone, '
  'deadline_at timestamp with time zone, attempted_at timestamp with time zone, finalized_at timestamp with time zone, '
  'created_at timestamp with time zone, errors jsonb, metadata jsonb, tags text[], '
  'unique_key text, receipt bigint, progress jsonb, output jsonb, worker_id bigint, group_key text, '
  'expires_at timestamp with time zone',
  'columns of jobs');
select is(pg_temp.columns_of('awa.scan_jobs_row'), 'next_before_id bigint, job_ids bigint[]',
  'columns of scan_jobs_row');
select is(pg_temp.columns_of('awa.job_summaries_row'),
  'id bigint, kind text, queue text, state text, priority integer, attempt integer, max_attempts integer, '
  'run_at timestamp with time zone, heartbeat_at timestamp with time zone, deadline_at timestamp with time zone, '
  'attempted_at timestamp with time zone, finalized_at timestamp with time zone, created_at timestamp with time zone, '
  'tags text[], worker_id bigint, group_key text, expires_at timestamp with time zone, args_start text, '
  'args_bytes bigint, last_error text, errors_bytes bigint', 'columns of job_summaries_row');
select is(pg_temp.columns_of('awa.failure_causes_row'),
  'kind text, cause text, failed bigint, dead bigint, retryable bigint, first_at timestamp with time zone, '
  'last_at timestamp with time zone, last_job_id bigint, last_error text, counted_since timestamp with time zone',
  'columns of failure_causes_row');
select is(pg_temp.columns_of('awa.lost_attempt_row'), 'job_id bigint, receipt bigint, reason text',
  'columns of lost_attempt');
select is(pg_temp.columns_of('awa.queue_counts_row'),
  'queue text, available bigint, scheduled bigint, retryable bigint, running bigint, waiting_external bigint, '
  'completed bigint, failed bigint, cancelled bigint, dead bigint, '
  'oldest_ready_at timestamp with time zone, limited bigint', 'columns of queue_counts');
select is(pg_temp.columns_of('awa.configuration_row'),
  'name text, type text, value jsonb, default_value jsonb, min_value jsonb, max_value jsonb, description text',
  'columns of configuration_row');
select is(pg_temp.columns_of('awa.list_queues_row'),
  'queue text, default_priority integer, default_max_attempts integer, lease interval, deadline interval, backoff_base '
  'interval, backoff_max interval, dead_letter boolean, aging_interval interval, '
  'failed_retention interval, dlq_retention interval, completed_retention interval, shards integer, max_depth integer, '
  'group_max_running integer, group_rate jsonb, max_running integer, rate jsonb, group_order text, '
  'group_turns boolean, paused_at timestamp with time zone, changed_at timestamp with time zone, changed_by text, '
  'workers bigint, '
  'available bigint, scheduled bigint, retryable bigint, running bigint, waiting_external bigint, completed bigint, '
  'failed bigint, cancelled bigint, dead bigint, '
  'oldest_ready_at timestamp with time zone, limited bigint', 'columns of list_queues_row');
select is(pg_temp.columns_of('awa.list_groups_row'),
  'group_key text, running integer, waiting bigint, oldest_waiting_at timestamp with time zone, next_at timestamp with '
  'time zone, paused_at timestamp with time zone, paused_until timestamp with time zone, reason text',
  'columns of list_groups_row');
select is(pg_temp.columns_of('awa.list_workers_row'),
  'worker_id bigint, name text, queues text[], info jsonb, started_at timestamp with time zone, heartbeat_at timestamp '
  'with time zone, overdue boolean, open_attempts bigint, registered_by text',
  'columns of list_workers_row');
select is(pg_temp.columns_of('awa.list_changes_row'),
  'change_id bigint, action text, filter jsonb, options jsonb, started_by text, actor text, started_at timestamp with '
  'time zone, state text, found bigint, changed bigint, skipped bigint, last_error text, ended_at timestamp with time '
  'zone', 'columns of list_changes_row');
select is(pg_temp.columns_of('awa.apply_changes_row'), 'changed bigint, more boolean', 'columns of apply_changes');
select is(pg_temp.columns_of('awa.enqueue_unique_row'), 'job_id bigint, inserted boolean', 'columns of enqueue_unique');
select is(pg_temp.columns_of('awa.promote_due_row'), 'promoted bigint', 'columns of promote_due');
select is(pg_temp.columns_of('awa.fire_due_row'),
  'fired bigint, missed bigint, skipped bigint, failed bigint, more boolean', 'columns of fire_due');
select is(pg_temp.columns_of('awa.list_schedules_row'),
  'name text, source text, queue text, kind text, cron text, every interval, args jsonb, timezone text, missed text, '
  'missed_for interval, overlap text, starts_at timestamp with time zone, ends_at timestamp with time zone, '
  'priority integer, max_attempts integer, tags text[], metadata jsonb, group_key text, next_at timestamp with time '
  'zone, last_at timestamp with time zone, last_job_id bigint, last_job_state text, waiting_at timestamp with time '
  'zone, '
  'paused_at timestamp with time zone, paused_by text, pause_reason text, times_missed bigint, times_skipped bigint, '
  'failures integer, error text, failed_at timestamp with time zone, made_at timestamp with time zone, '
  'changed_at timestamp with time zone, changed_by text, is_ahead boolean', 'columns of list_schedules_row');
select is(pg_temp.columns_of('awa.rescue_row'), 'rescued bigint', 'columns of rescue');
select is(pg_temp.columns_of('awa.materialize_row'), 'materialized bigint', 'columns of materialize');
select is(pg_temp.columns_of('awa.cancel_expired_row'), 'cancelled bigint', 'columns of cancel_expired');
select is(pg_temp.columns_of('awa.expire_history_row'), 'expired bigint', 'columns of expire_history');
select is(pg_temp.columns_of('awa.rotate_row'), 'rotated boolean, current_segment smallint', 'columns of rotate');
select is(pg_temp.columns_of('awa.prune_oldest_row'), 'segment smallint, outcome text', 'columns of prune_oldest');
select is(pg_temp.columns_of('awa.fold_row'), 'more boolean', 'columns of fold');
select is(pg_temp.columns_of('awa.summarize_row'), 'summarized bigint', 'columns of summarize');
select is(pg_temp.columns_of('awa.forget_workers_row'), 'forgotten bigint', 'columns of forget_workers');
select is(pg_temp.columns_of('awa.end_stuck_claimers_row'), 'ended bigint', 'columns of end_stuck_claimers');
select is(pg_temp.columns_of('awa.rebase_after_restore_row'), 'available bigint, running bigint, completed bigint',
  'columns of rebase_after_restore');
select is(pg_temp.columns_of('awa.audit_row'),
  'queue text, enqueued bigint, available bigint, scheduled bigint, retryable bigint, running bigint, waiting_external '
  'bigint, completed bigint, failed bigint, cancelled bigint, dead bigint, '
  'balanced boolean, problem text', 'columns of audit');
select is(pg_temp.columns_of('awa.health_row'),
  'level text, topic text, subject text, message text, hint text, details jsonb', 'columns of health');
select is((
  select array_agg(p.proname::text order by p.proname::text)
    from (select proname from pg_proc where pronamespace = 'awa'::regnamespace group by proname having count(*) > 1) p
),
  null, 'no overloads');
select is((
  select array_agg(p.proname::text order by p.proname::text)
    from pg_proc p
   where p.pronamespace = 'awa'::regnamespace and p.proname !~ '^_' and p.proname not in (select c.name from contract c)
),
  null, 'no public function beside the contract''s');
select is(
  (select array_agg(p.oid::regprocedure::text order by p.oid::regprocedure::text) from pg_proc p
    where p.pronamespace = 'awa'::regnamespace
      and p.proname !~ '^_'
      and array_to_string(p.proargnames, ' ') ~ '(^| )[pv_]_'), null, 'arguments have no prefix');

-- Named, and left out
select is(pg_temp.outcome(
  format('select awa.enqueue(queue => %L, kind => %L, tags => %L)', pg_temp.q(), 'send', '{a}')
),
  'ok', 'arguments may be named, and left out from the middle');

select * from finish();
rollback;
