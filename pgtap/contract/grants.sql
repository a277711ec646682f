-- Without this, whoever may enqueue could also read, claim or end the jobs of others.
\set name grants
\ir ../prelude.psql

select awa.enqueue(:'queue', 'k') as job_id \gset
select awa.enqueue(:'queue' || ' change', 'k') as cancelled_id,
       awa.enqueue(:'queue' || ' change', 'k') as moved_id, awa.enqueue(:'queue' || ' change', 'k') as retried_id,
       awa.enqueue(:'queue' || ' drop', 'k') \gset
select awa.cancel(:retried_id) \g /dev/null
select job_id as unique_id from awa.enqueue_unique(:'queue' || ' change', 'k', unique_key => :'queue') \gset
select count(*) from awa.enqueue_many(:'queue' || ' work', 'k', array_fill('{}'::jsonb, array[5])) \g /dev/null
create temp table allowed (role text, function text);
insert into allowed
values ('awa_producer', 'enqueue'), ('awa_producer', 'enqueue_many'), ('awa_producer', 'enqueue_batch'),
  ('awa_producer', 'enqueue_unique'), ('awa_producer', 'cancel_by_unique_key'),
  ('awa_worker', 'register_worker'), ('awa_worker', 'heartbeat'), ('awa_worker', 'deregister_worker'),
  ('awa_worker', 'release_unknown'), ('awa_worker', 'claim'), ('awa_worker', 'complete'),
  ('awa_worker', 'complete_many'),
  ('awa_worker', 'fail'), ('awa_worker', 'fail_many'), ('awa_worker', 'release'), ('awa_worker', 'discard'),
  ('awa_worker', 'snooze'), ('awa_worker', 'put_off'), ('awa_worker', 'cancel_attempt'), ('awa_worker', 'extend'),
  ('awa_worker', 'set_progress'),
  ('awa_maintainer', 'promote_due'), ('awa_maintainer', 'materialize'), ('awa_maintainer', 'rescue'),
  ('awa_maintainer', 'cancel_expired'), ('awa_maintainer', 'apply_changes'),
  ('awa_maintainer', 'expire_history'),
  ('awa_maintainer', 'rotate'), ('awa_maintainer', 'prune_oldest'), ('awa_maintainer', 'run_maintenance'),
  ('awa_maintainer', 'fold'), ('awa_maintainer', 'summarize'), ('awa_maintainer', 'forget_workers'),
  ('awa_maintainer', 'end_stuck_claimers'), ('awa_maintainer', 'run_pass'), ('awa_maintainer', 'pass_due_at'),
  ('awa_maintainer', 'run_passes'),
  ('awa_operator', 'configure'), ('awa_operator', 'configuration'), ('awa_operator', 'configure_queue'),
  ('awa_operator', 'configure_group'), ('awa_operator', 'pause_group'), ('awa_operator', 'resume_group'),
  ('awa_operator', 'pause_queue'), ('awa_operator', 'resume_queue'), ('awa_operator', 'drain_queue'),
  ('awa_operator', 'drop_queue'),
  ('awa_operator', 'cancel'), ('awa_operator', 'cancel_where'), ('awa_operator', 'discard_job'),
  ('awa_operator', 'retry'),
  ('awa_operator', 'retry_where'), ('awa_operator', 'set_priority'), ('awa_operator', 'move'),
  ('awa_operator', 'purge_dlq'), ('awa_operator', 'delete_job'), ('awa_operator', 'delete_where'),
  ('awa_operator', 'reschedule'), ('awa_operator', 'start_change'), ('awa_operator', 'stop_change'),
  ('awa_operator', 'list_changes'), ('awa_reader', 'list_changes'), ('awa_reader', 'queue_stats'),
  ('awa_operator', 'rebase_after_restore'), ('awa_operator', 'deregister_worker'), ('awa_operator', 'rotate'),
  ('awa_operator', 'prune_oldest'),
  ('awa_operator', 'schedule'), ('awa_operator', 'unschedule'), ('awa_operator', 'pause_schedule'),
  ('awa_operator', 'resume_schedule'), ('awa_operator', 'trigger_schedule'), ('awa_operator', 'backfill_schedule'),
  ('awa_operator', 'list_schedules'), ('awa_operator', 'explain_schedule'), ('awa_operator', 'next_fires'),
  ('awa_operator', 'describe_cron'), ('awa_operator', 'next_ready_at'),
  ('awa_operator', 'sync_schedules'), ('awa_worker', 'sync_schedules'), ('awa_maintainer', 'fire_due'),
  ('awa_reader', 'list_schedules'), ('awa_reader', 'explain_schedule'),
  ('awa_reader', 'jobs_compat'), ('awa_reader', 'job'), ('awa_reader', 'list_jobs'), ('awa_reader', 'scan_jobs'),
  ('awa_reader', 'failure_causes'), ('awa_reader', 'job_summaries'),
  ('awa_reader', 'queue_counts'), ('awa_reader', 'configuration'), ('awa_reader', 'list_queues'),
  ('awa_reader', 'list_groups'),
  ('awa_reader', 'list_workers'), ('awa_reader', 'next_fires'), ('awa_reader', 'describe_cron'),
  ('awa_reader', 'next_ready_at'), ('awa_worker', 'next_ready_at'), ('awa_maintainer', 'next_ready_at'),
  ('awa_reader', 'explain_job'), ('awa_reader', 'audit'), ('awa_reader', 'health'),
  ('awa_reader', 'health_of'),
  ('awa_producer', 'version'), ('awa_worker', 'version'), ('awa_maintainer', 'version'), ('awa_operator', 'version'),
  ('awa_reader', 'version');

-- The outcome of a statement when this role runs it: ok, or its SQLSTATE.
create function pg_temp.outcome_as(role text, command text) returns text
language plpgsql
as $$
declare
  v_outcome text := 'ok';
begin
  begin
    execute format('set local role %I', role);
    execute command;
  exception when others then
    v_outcome := sqlstate;
  end;
  reset role;
  return v_outcome;
end
$$;

begin;
select awa.start_change('delete', '{"tag": "none"}') as change_id \gset
select plan(42);

-- The matrix: everything that is built, for each role
select is(
  (
    select array_agg(p.proname::text order by p.proname)
      from pg_proc p
     where p.pronamespace = 'awa'::regnamespace and has_function_privilege(r.role, p.oid, 'execute')
  ),
  (select array_agg(a.function order by a.function) from allowed a where a.role = r.role),
  format('%s may execute what it should, and nothing else', r.role))
  from (select distinct role from allowed) r order by r.role;
select is(
  (select array_agg(c.relname || ' ' || p.privilege order by c.relname || ' ' || p.privilege)
     from pg_class c,
       unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) p(privilege)
    where c.relnamespace = 'awa'::regnamespace
      and c.relkind in ('r', 'p', 'v', 'm')
      and has_table_privilege(r.role, c.oid, p.privilege)),
  case r.role
    when 'awa_reader'
      then array['audit select', 'dlq_entries select', 'health select', 'jobs select', 'queue_counts select']
    when 'awa_maintainer' then array['passes select']
  end,
  format('%s has no right on a table%s', r.role,
    case r.role when 'awa_reader' then ', but reads five views'
      when 'awa_maintainer' then ', but reads one' else '' end))
  from (select distinct role from allowed) r order by r.role;
select is(
  (select array_agg(c.relname || ' ' || p.privilege order by c.relname || ' ' || p.privilege)
     from pg_class c, unnest(array['usage', 'select', 'update']) p(privilege)
    where c.relnamespace = 'awa'::regnamespace
      and c.relkind = 'S'
      and has_sequence_privilege(r.role, c.oid, p.privilege)), null, format('%s has no right on a sequence', r.role))
  from (select distinct role from allowed) r order by r.role;
select is(has_schema_privilege(r.role, 'awa', 'usage') and not has_schema_privilege(r.role, 'awa', 'create'), true,
  format('%s may use the schema, and not add to it', r.role))
  from (select distinct role from allowed) r order by r.role;

-- A role that is a member of one of them: what works, and what does not
select awa.schedule(pg_temp.q(' kept'), pg_temp.q(), 'k', '@daily') \g /dev/null

create temp table attempts (n int, role text, command text);
insert into attempts
values
  (1, 'awa_producer', format('select awa.enqueue(%L, %L)', pg_temp.q(), 'k')),
  (2, 'awa_producer',
    format('select * from awa.enqueue_many(%L, %L, array[%L]::jsonb[], run_at => %L)', pg_temp.q(), 'k', '{}',
      '2130-01-01')),
  (3, 'awa_producer',
    format('select * from awa.enqueue_batch(%L)',
      jsonb_build_array(jsonb_build_object('queue', pg_temp.q(), 'kind', 'k')))),
  (4, 'awa_worker', format('select awa.register_worker(%L)', pg_temp.q())),
  (5, 'awa_worker', format('select awa.complete(c.job_id, c.receipt, %L) from awa.claim(%L) c', '1', pg_temp.q())),
  (6, 'awa_worker', 'select * from awa.complete_many(array[1], array[1])'),
  (7, 'awa_worker', 'select * from awa.fail_many(array[1], array[1], array[''e''])'),
  (8, 'awa_worker', 'select awa.release_unknown(0, ''{}'', ''{}'')'),
  (9, 'awa_maintainer', 'select * from awa.promote_due()'),
  (10, 'awa_operator', format('select awa.configure_queue(%L, %L)', pg_temp.q(), '{"lease": 60}')),
  (11, 'awa_operator', format('select awa.pause_queue(%L)', pg_temp.q())),
  (12, 'awa_operator', format('select awa.resume_queue(%L)', pg_temp.q())),
  (13, 'awa_reader', 'select count(*) from awa.jobs, awa.dlq_entries'),
  (14, 'awa_reader', 'select count(*) from awa.queue_counts'),
  (15, 'awa_reader', 'select count(*) from awa.jobs_compat()'),
  (16, 'awa_reader', format('select * from awa.job(%s)', :'job_id')),
  (17, 'awa_reader', 'select * from awa.list_jobs()'),
  (18, 'awa_reader', 'select * from awa.queue_counts()'),
  (19, 'awa_reader', format('select awa.explain_job(%s)', :'job_id')),
  (20, 'awa_producer',
    format('select * from awa.enqueue_unique(%L, %L, unique_key => %L)', pg_temp.q(), 'k', pg_temp.q(' own'))),
  (21, 'awa_producer', format('select awa.cancel_by_unique_key(unique_key => %L)', pg_temp.q())),
  (22, 'awa_worker',
    format('select awa.discard(c.job_id, c.receipt, %L) from awa.claim(%L) c', 'e', pg_temp.q(' work'))),
  (23, 'awa_worker',
    format('select awa.snooze(c.job_id, c.receipt, %L) from awa.claim(%L) c', '1 hour', pg_temp.q(' work'))),
  (24, 'awa_worker', format('select awa.cancel_attempt(c.job_id, c.receipt) from awa.claim(%L) c', pg_temp.q(' work'))),
  (25, 'awa_worker',
    format('select awa.extend(c.job_id, c.receipt, %L) from awa.claim(%L) c', '1 hour', pg_temp.q(' work'))),
  (26, 'awa_worker',
    format('select awa.set_progress(c.job_id, c.receipt, %L) from awa.claim(%L) c', '1', pg_temp.q(' work'))),
  (27, 'awa_maintainer', 'select * from awa.materialize()'),
  (28, 'awa_maintainer', 'select * from awa.rescue()'),
  (29, 'awa_maintainer', 'select * from awa.expire_history()'),
  (69, 'awa_maintainer', 'select * from awa.cancel_expired()'),
  (30, 'awa_operator', format('select awa.cancel(%s)', :'cancelled_id')),
  (31, 'awa_operator', format('select awa.retry(%s)', :'retried_id')),
  (32, 'awa_operator', format('select awa.set_priority(%s, 2)', :'moved_id')),
  (33, 'awa_operator', format('select awa.move(%s, %L)', :'moved_id', pg_temp.q(' new'))),
  (59, 'awa_operator', format('select awa.reschedule(%s, now())', :'moved_id')),
  (34, 'awa_operator', format('select awa.cancel_where(queue => %L)', pg_temp.q(' none'))),
  (35, 'awa_operator', format('select awa.retry_where(queue => %L)', pg_temp.q(' none'))),
  (36, 'awa_operator', format('select awa.purge_dlq(queue => %L)', pg_temp.q(' none'))),
  (37, 'awa_operator', format('select awa.drop_queue(%L, true)', pg_temp.q(' drop'))),
  (38, 'awa_maintainer', 'select * from awa.rotate()'),
  (39, 'awa_maintainer', 'select * from awa.prune_oldest()'),
  (40, 'awa_operator', 'select * from awa.rebase_after_restore()'),
  (41, 'awa_reader', 'select * from awa.audit()'),
  (42, 'awa_reader', 'select * from awa.health()'),
  (43, 'awa_reader', 'select * from awa.scan_jobs(''{}'')'),
  (70, 'awa_reader', 'select * from awa.failure_causes()'),
  (70, 'awa_reader', 'select * from awa.job_summaries()'),
  (70, 'awa_reader', 'select * from awa.health_of()'),
  (44, 'awa_operator', format('select awa.delete_where(queue => %L)', pg_temp.q(' none'))),
  (45, 'awa_operator', 'select awa.deregister_worker(0)'),
  (46, 'awa_operator', 'select awa.configure(''{}'')'),
  (47, 'awa_reader', 'select * from awa.configuration()'),
  (48, 'awa_reader', 'select * from awa.list_queues()'),
  (49, 'awa_reader', 'select * from awa.list_workers()'),
  (50, 'awa_reader', 'select * from awa.audit'),
  (51, 'awa_reader', 'select * from awa.health'),
  (52, 'awa_maintainer', 'select * from awa.fold()'),
  (53, 'awa_maintainer', 'select * from awa.summarize()'),
  (54, 'awa_maintainer', 'select * from awa.forget_workers()'),
  (55, 'awa_maintainer', 'select * from awa.end_stuck_claimers()'),
  (56, 'awa_maintainer', 'select awa.run_pass(''rescue'')'),
  (57, 'awa_reader', 'select * from awa.next_fires(''@daily'', ''Europe/Berlin'')'),
  (58, 'awa_reader', 'select awa.describe_cron(''@daily'')'),
  (59, 'awa_operator', format('select awa.schedule(%L, %L, %L, %L)', pg_temp.q(' s'), pg_temp.q(), 'k', '@daily')),
  (60, 'awa_operator', format('select awa.pause_schedule(%L)', pg_temp.q(' s'))),
  (61, 'awa_operator', format('select awa.resume_schedule(%L)', pg_temp.q(' s'))),
  (62, 'awa_operator', format('select awa.trigger_schedule(%L)', pg_temp.q(' s'))),
  (63, 'awa_operator',
    format('select awa.backfill_schedule(%L, now() - interval %L, now())', pg_temp.q(' s'), '1 day')),
  (64, 'awa_reader', format('select awa.explain_schedule(%L)', pg_temp.q(' kept'))),
  (65, 'awa_operator', format('select awa.unschedule(%L)', pg_temp.q(' s'))),
  (66, 'awa_operator', format('select awa.sync_schedules(%L, %L)', pg_temp.q(), '[]')),
  (67, 'awa_reader', 'select * from awa.list_schedules()'),
  (68, 'awa_maintainer', 'select * from awa.fire_due()'),
  (69, 'awa_maintainer', 'select awa.pass_due_at(''fire_due'')'),
  (70, 'awa_operator', format('select awa.start_change(%L, %L)', 'cancel', '{"tag": "none"}')),
  (71, 'awa_operator', format('select awa.stop_change(%s)', :change_id)),
  (72, 'awa_reader', 'select * from awa.list_changes()'),
  (73, 'awa_maintainer', 'select * from awa.apply_changes()'),
  (74, 'awa_operator', format('select awa.discard_job(%s)', awa.enqueue(pg_temp.q(' discarded'), 'k'))),
  (75, 'awa_reader', 'select * from awa.queue_stats()');
create temp table forbidden (command text);
insert into forbidden
select format('select count(*) from %s', c.oid::regclass)
  from pg_class c
 where c.relnamespace = 'awa'::regnamespace
   and c.relkind in ('r', 'p', 'v', 'S')
   and c.relname not in ('jobs', 'dlq_entries', 'queue_counts', 'audit', 'health', 'passes')
union all select 'insert into awa.ready_entries (lane, job_id) values (1, 1)'
union all select 'delete from awa.deferred_jobs'
union all select 'truncate awa.lease_claims'
union all select 'update awa.settings set claim_bytes = 1'
union all select 'select nextval(''awa.job_ids'')'
union all select 'select awa._queue_id(''q'')'
union all select 'select awa._record_releases(null)'
union all select 'delete from awa.unique_claims'
union all
select 'insert into awa.ready_tombstones (lane, xid, job_id, segment, batch, cancels) values (1, ''3'', 1, 0, 1, true)'
union all select 'create table awa.mine (n int)';
create role pgtap_awa_producer in role awa_producer;
create role pgtap_awa_worker in role awa_worker;
create role pgtap_awa_maintainer in role awa_maintainer;
create role pgtap_awa_operator in role awa_operator;
create role pgtap_awa_reader in role awa_reader;
create role pgtap_nobody;
select is(
  (select array_agg(a.n || ' ' || pg_temp.outcome_as('pgtap_' || r.role, a.command) order by a.n) from attempts a),
  (
    select array_agg(
      a.n || ' '
        || case
          when a.role = r.role or a.n in (38, 39, 47, 57, 58, 64, 67, 72) and r.role = 'awa_operator'
            or a.n in (45, 66) and r.role = 'awa_worker'
            then 'ok'
          else '42501'
        end
       order by a.n
    )
      from attempts a
  ),
  format('a member of %s does its own part, and no other', r.role))
  from (select distinct role from allowed) r order by r.role;
select is((
  select array_agg(f.command || ' ' || o.outcome)
    from forbidden f, pg_temp.outcome_as('pgtap_' || r.role, f.command) o(outcome)
   where o.outcome <> '42501'
),
  null, format('a member of %s reads and writes no table', r.role))
  from (select distinct role from allowed) r order by r.role;
select is((select array_agg(distinct pg_temp.outcome_as('pgtap_nobody', a.command)) from attempts a), '{42501}',
  'who is a member of none may do nothing');
select is(pg_temp.outcome_as('pgtap_nobody', 'select awa.version()'), '42501', 'not even ask for the version');
select is(pg_temp.outcome_as('pgtap_awa_' || m.name, 'select awa.version()'), 'ok',
  format('a member of awa_%s may', m.name))
  from unnest(array['producer', 'worker', 'maintainer', 'operator', 'reader']) m(name);

select is((
  select array_agg(r.role order by r.role)
    from (select distinct role from allowed) r
   where pg_has_role('pgtap_' || r.role, 'awa_owner', 'member')
),
  null, 'and none can become the owner');

-- What is decided at commit runs as whoever the session is by then
select is(pg_temp.outcome_as('pgtap_nobody', 'set constraints all immediate'), 'ok',
  'the decision about buried entries needs no rights of the one who commits');
set constraints all deferred\; set local idle_in_transaction_session_timeout = 0;

-- Who did it is who logged in, not who owns the function
select pg_temp.outcome_as('pgtap_awa_worker', format('select awa.register_worker(%L)', pg_temp.q(' who'))) \g /dev/null
select is((select w.registered_by from awa.workers w where w.name = pg_temp.q(' who')), session_user::text,
  'a worker is registered by the session''s user');
select is((select s.changed_by from awa.queue_settings s where s.queue_id = awa._queue_id(pg_temp.q())),
  session_user::text, 'a setting is changed by the session''s user');
select is((select j.errors -> 0 ->> 'by' from awa.job(:cancelled_id) j), session_user::text,
  'a job is cancelled by the session''s user');

select * from finish();
rollback;
