-- Grants: all in one place, and last. Each object gets exactly the rights that stand here: all others, also those by
-- the default privileges of the role that installs, are revoked. The roles are made before, and have
-- the prefix of the installation where it says awa_ here.
do $$
declare
  v_prefix constant text := (select s.role_prefix from awa.schema_version s);
  v_owner constant regrole := (select n.nspowner from pg_namespace n where n.nspname = 'awa');
  v_object record;
  v_command text;
begin
  for v_object in
    with allowed(role, what) as (
      values
          ('awa_producer', 'function awa.enqueue'),
          ('awa_producer', 'function awa.enqueue_many'),
          ('awa_producer', 'function awa.enqueue_batch'),
          ('awa_producer', 'function awa.enqueue_unique'),
          ('awa_producer', 'function awa.cancel_by_unique_key'),
          ('awa_worker', 'function awa.register_worker'),
          ('awa_worker', 'function awa.heartbeat'),
          ('awa_worker', 'function awa.deregister_worker'),
          ('awa_worker', 'function awa.release_unknown'),
          ('awa_worker', 'function awa.claim'),
          ('awa_worker', 'function awa.complete'),
          ('awa_worker', 'function awa.complete_many'),
          ('awa_worker', 'function awa.fail'),
          ('awa_worker', 'function awa.fail_many'),
          ('awa_worker', 'function awa.release'),
          ('awa_worker', 'function awa.discard'),
          ('awa_worker', 'function awa.snooze'),
          ('awa_worker', 'function awa.put_off'),
          ('awa_worker', 'function awa.cancel_attempt'),
          ('awa_worker', 'function awa.extend'),
          ('awa_worker', 'function awa.set_progress'),
          ('awa_worker', 'function awa.sync_schedules'),
          ('awa_maintainer', 'function awa.promote_due'),
          ('awa_maintainer', 'function awa.fire_due'),
          ('awa_maintainer', 'function awa.materialize'),
          ('awa_maintainer', 'function awa.rescue'),
          ('awa_maintainer', 'function awa.cancel_expired'),
          ('awa_maintainer', 'function awa.apply_changes'),
          ('awa_maintainer', 'function awa.expire_history'),
          ('awa_maintainer', 'function awa.rotate'),
          ('awa_maintainer', 'function awa.prune_oldest'),
          ('awa_maintainer', 'function awa.fold'),
          ('awa_maintainer', 'function awa.end_stuck_claimers'),
          ('awa_maintainer', 'function awa.summarize'),
          ('awa_maintainer', 'function awa.forget_workers'),
          ('awa_maintainer', 'function awa.run_pass'),
          ('awa_maintainer', 'function awa.pass_due_at'),
          ('awa_maintainer', 'procedure awa.run_maintenance'),
          ('awa_maintainer', 'procedure awa.run_passes'),
          ('awa_operator', 'function awa.deregister_worker'),
          ('awa_operator', 'function awa.rotate'),
          ('awa_operator', 'function awa.prune_oldest'),
          ('awa_operator', 'function awa.configure'),
          ('awa_operator', 'function awa.configuration'),
          ('awa_operator', 'function awa.configure_queue'),
          ('awa_operator', 'function awa.pause_queue'),
          ('awa_operator', 'function awa.resume_queue'),
          ('awa_operator', 'function awa.drain_queue'),
          ('awa_operator', 'function awa.configure_group'),
          ('awa_operator', 'function awa.pause_group'),
          ('awa_operator', 'function awa.resume_group'),
          ('awa_operator', 'function awa.drop_queue'),
          ('awa_operator', 'function awa.start_change'),
          ('awa_operator', 'function awa.stop_change'),
          ('awa_operator', 'function awa.list_changes'),
          ('awa_operator', 'function awa.cancel'),
          ('awa_operator', 'function awa.cancel_where'),
          ('awa_operator', 'function awa.discard_job'),
          ('awa_operator', 'function awa.retry'),
          ('awa_operator', 'function awa.retry_where'),
          ('awa_operator', 'function awa.set_priority'),
          ('awa_operator', 'function awa.move'),
          ('awa_operator', 'function awa.reschedule'),
          ('awa_operator', 'function awa.purge_dlq'),
          ('awa_operator', 'function awa.delete_job'),
          ('awa_operator', 'function awa.delete_where'),
          ('awa_operator', 'function awa.rebase_after_restore'),
          ('awa_operator', 'function awa.schedule'),
          ('awa_operator', 'function awa.unschedule'),
          ('awa_operator', 'function awa.pause_schedule'),
          ('awa_operator', 'function awa.resume_schedule'),
          ('awa_operator', 'function awa.trigger_schedule'),
          ('awa_operator', 'function awa.backfill_schedule'),
          ('awa_operator', 'function awa.sync_schedules'),
          ('awa_operator', 'function awa.list_schedules'),
          ('awa_operator', 'function awa.explain_schedule'),
          ('awa_operator', 'function awa.next_fires'),
          ('awa_operator', 'function awa.describe_cron'),
          ('awa_operator', 'function awa.next_ready_at'),
          ('awa_reader', 'function awa.jobs_compat'),
          ('awa_reader', 'function awa.job'),
          ('awa_reader', 'function awa.list_jobs'),
          ('awa_reader', 'function awa.job_summaries'),
          ('awa_reader', 'function awa.scan_jobs'),
          ('awa_reader', 'function awa.failure_causes'),
          ('awa_reader', 'function awa.queue_counts'),
          ('awa_reader', 'function awa.queue_stats'),
          ('awa_reader', 'function awa.configuration'),
          ('awa_reader', 'function awa.list_queues'),
          ('awa_reader', 'function awa.list_groups'),
          ('awa_reader', 'function awa.list_workers'),
          ('awa_reader', 'function awa.list_changes'),
          ('awa_reader', 'function awa.list_schedules'),
          ('awa_reader', 'function awa.next_fires'),
          ('awa_worker', 'function awa.next_ready_at'),
          ('awa_maintainer', 'function awa.next_ready_at'),
          ('awa_reader', 'function awa.next_ready_at'),
          ('awa_reader', 'function awa.describe_cron'),
          ('awa_reader', 'function awa.explain_job'),
          ('awa_reader', 'function awa.explain_schedule'),
          ('awa_reader', 'function awa.audit'),
          ('awa_reader', 'function awa.health'),
          ('awa_reader', 'function awa.health_of'),
          ('awa_maintainer', 'view awa.passes'), -- run_maintenance runs as its caller
          ('awa_reader', 'view awa.jobs'),
          ('awa_reader', 'view awa.dlq_entries'),
          ('awa_reader', 'view awa.queue_counts'),
          ('awa_reader', 'view awa.audit'),
          ('awa_reader', 'view awa.health')
      union all
      select r.role, 'function awa.version'
        from unnest(array['awa_producer', 'awa_worker', 'awa_maintainer', 'awa_operator', 'awa_reader']) r(role)
    ), granted as (
      select r.oid, case when a.what like 'view %' then 'relation' else 'routine' end as kind,
             split_part(a.what, '.', 2) as name
        from allowed a join pg_roles r on r.rolname = v_prefix || substr(a.role, 5)
    ), grantees as (
      select g.kind, g.name, array_agg(g.oid) as roles from granted g group by g.kind, g.name
    ), objects as (
      select 'schema awa' as object, n.nspowner as owner, coalesce(n.nspacl, acldefault('n', n.nspowner)) as acl,
             acldefault('n', n.nspowner) as default_acl,
             array(select distinct g.oid from granted g) as grantees, 'USAGE' as privilege, '{}'::oid[] as by_column
        from pg_namespace n where n.nspname = 'awa'
      union all
      select format('routine %s', p.oid::regprocedure), p.proowner, coalesce(p.proacl, acldefault('f', p.proowner)),
             acldefault('f', p.proowner),
             coalesce(g.roles, '{}'), 'EXECUTE', '{}'
        from pg_proc p
        left join grantees g on g.kind = 'routine' and g.name = p.proname
       where p.pronamespace = 'awa'::regnamespace
      union all
      select format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass), c.relowner,
             coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner)),
             acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner),
             coalesce(g.roles, '{}'), 'SELECT',
             array(select distinct x.grantee from pg_attribute a, aclexplode(a.attacl) x where a.attrelid = c.oid)
        from pg_class c
        left join grantees g on g.kind = 'relation' and g.name = c.relname
       where c.relnamespace = 'awa'::regnamespace and c.relkind in ('r', 'p', 'v', 'S') and c.relowner = v_owner
    )
    select o.object, o.grantees, o.privilege,
           array(select distinct a.grantee from aclexplode(o.acl) a where a.grantee <> o.owner) || o.by_column as others
      from objects o
     where case
             when o.by_column <> '{}' then true
             -- Most are as this has left them, which is seen fast: others wait meanwhile.
             when o.privilege = 'EXECUTE' and o.acl = array(
               select makeaclitem(g.grantee, o.owner, 'EXECUTE', false)
                 from unnest(o.owner || o.grantees) with ordinality g(grantee, n) order by g.n
             ) then false
             else array(
               select format('%s %s %s', a.grantee, a.privilege_type, a.is_grantable)
                 from aclexplode(o.acl) a
                order by 1
             ) <> array(
               select format('%s %s %s', o.owner, a.privilege_type, false)
                 from aclexplode(o.default_acl) a
                where a.grantee = o.owner
                      union all select format('%s %s %s', g, o.privilege, false) from unnest(o.grantees) g
                      order by 1)
           end
  loop
    for v_command in
      select format('revoke all on %s from %s cascade', v_object.object,
        case g when 0 then 'public' else g::regrole::text end)
        from unnest(v_object.others) g
      union all
      select format('grant all on %s to %s', v_object.object, v_owner)
      union all
      select format('grant %s on %s to %s', v_object.privilege, v_object.object, g::regrole)
        from unnest(v_object.grantees) g
    loop
      execute v_command;
    end loop;
  end loop;
end
$$;
