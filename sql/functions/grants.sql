-- Owners, revokes, grants: all in one place, and last, so that a function that was dropped and created again has them too.

-- Roles. They belong to the cluster, so another database may have made them; a role that may not make them installs for itself alone.
do $$
declare
  v_role text;
begin
  foreach v_role in array array['awa_owner', 'awa_producer', 'awa_worker', 'awa_maintainer', 'awa_operator', 'awa_reader'] loop
    continue when exists (select from pg_roles where rolname = v_role);
    if not (select rolsuper or rolcreaterole from pg_roles where rolname = current_user) then
      raise warning 'awa is installed for % alone', current_user
        using detail = format('Role %s does not exist, and %s may not create it.', v_role, current_user),
              hint = 'To share it between roles, install once more as a role with CREATEROLE.';
      exit;
    end if;
    begin
      execute format('create role %I nologin', v_role);
    exception when duplicate_object or unique_violation then
      null; -- created by an installation in another database, just now
    end;
  end loop;
end
$$;

-- Owners. Functions run as their owner, so that is a role that nobody can log in as.
do $$
declare
  v_object record;
begin
  if not exists (select from pg_roles where rolname = 'awa_owner') then
    return;
  end if;
  -- A role that has created awa_owner, or been there when it was created, may grant it to itself; before it does, it is at most its administrator.
  if not pg_has_role('awa_owner', 'usage') then
    begin
      execute format('grant awa_owner to %I', current_user);
    exception when insufficient_privilege then
      raise warning 'the functions of awa run as %', current_user
        using detail = format('%s is not a member of awa_owner, and may not become one.', current_user),
              hint = format('To have them run as a role that nobody can log in as, let a superuser say: grant awa_owner to %I; and install once more.', current_user);
      return;
    end;
  end if;
  alter schema awa owner to awa_owner;
  for v_object in
    select format('alter %s %s owner to awa_owner', case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end, c.oid::regclass) as command
      from pg_class c
     where c.relnamespace = 'awa'::regnamespace and c.relkind in ('r', 'p', 'v', 'S') and c.relowner <> 'awa_owner'::regrole
       and not exists (select from pg_depend d where d.objid = c.oid and d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i') and c.relkind = 'S')
    union all
    select format('alter routine %s owner to awa_owner', p.oid::regprocedure)
      from pg_proc p
     where p.pronamespace = 'awa'::regnamespace and p.proowner <> 'awa_owner'::regrole
  loop
    execute v_object.command;
  end loop;
end
$$;

-- To truncate a segment, the owner has to know how old the snapshots of others are.
do $$
begin
  if exists (select from pg_roles where rolname = 'awa_owner') and not pg_has_role('awa_owner', 'pg_read_all_stats', 'usage') then
    grant pg_read_all_stats to awa_owner;
  end if;
exception when insufficient_privilege then
  raise warning 'awa_owner may not see the snapshots of other roles'
    using hint = 'prune_oldest waits for their sessions to end. Let a superuser say: grant pg_read_all_stats to awa_owner.';
end
$$;

revoke all on all routines in schema awa from public;

-- Grants, to those of the roles that exist.
do $$
declare
  v_grant record;
begin
  for v_grant in
    select g.role, g.what
      from (values
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
        ('awa_worker', 'function awa.cancel_attempt'),
        ('awa_worker', 'function awa.extend'),
        ('awa_worker', 'function awa.set_progress'),
        ('awa_maintainer', 'function awa.promote_due'),
        ('awa_maintainer', 'function awa.materialize'),
        ('awa_maintainer', 'function awa.rescue'),
        ('awa_maintainer', 'function awa.expire_history'),
        ('awa_maintainer', 'function awa.rotate'),
        ('awa_maintainer', 'function awa.prune_oldest'),
        ('awa_maintainer', 'procedure awa.run_maintenance'),
        ('awa_operator', 'function awa.configure_queue'),
        ('awa_operator', 'function awa.pause_queue'),
        ('awa_operator', 'function awa.resume_queue'),
        ('awa_operator', 'function awa.drop_queue'),
        ('awa_operator', 'function awa.cancel'),
        ('awa_operator', 'function awa.cancel_where'),
        ('awa_operator', 'function awa.retry'),
        ('awa_operator', 'function awa.retry_where'),
        ('awa_operator', 'function awa.set_priority'),
        ('awa_operator', 'function awa.move'),
        ('awa_operator', 'function awa.purge_dlq'),
        ('awa_operator', 'function awa.rebase_after_restore'),
        ('awa_reader', 'function awa.jobs_compat'),
        ('awa_reader', 'function awa.job'),
        ('awa_reader', 'function awa.list_jobs'),
        ('awa_reader', 'function awa.queue_counts'),
        ('awa_reader', 'function awa.explain_job'),
        ('awa_reader', 'function awa.audit'),
        ('awa_reader', 'function awa.health')
      ) g(role, what)
    union all
    select r.role, 'function awa.version'
      from unnest(array['awa_producer', 'awa_worker', 'awa_maintainer', 'awa_operator', 'awa_reader']) r(role)
    order by 1, 2
  loop
    continue when not exists (select from pg_roles where rolname = v_grant.role);
    execute format('grant usage on schema awa to %I', v_grant.role);
    execute format('grant execute on %s to %I', v_grant.what, v_grant.role);
  end loop;
  if exists (select from pg_roles where rolname = 'awa_reader') then
    grant select on awa.jobs, awa.queue_counts to awa_reader;
  end if;
end
$$;
