{{- /* Removes an installation. See internal/install. */ -}}
-- Removes Awa: the schema, and those of its roles that nothing else needs. Refuses while there are jobs, schedules, or
-- objects of others that depend on it, unless it is told to (awa.force). The schema is read by its
-- owner: see as_owner.sql.
do $awa$
declare
  c_schema constant int := {{.Schema}};
  c_version constant text := '{{.Version}}';
  c_roles constant text[] := '{ {{- range $i, $r := .Roles}}{{if $i}},{{end}}{{$r}}{{end -}} }';
  c_relations constant jsonb := $awa_code${{.RelationsJSON}}$awa_code$;
  v_wait constant interval := coalesce(nullif(current_setting('awa.install_wait', true), ''), '1 minute')::interval;
  v_began constant timestamptz := clock_timestamp();
  v_asked constant text := nullif(current_setting('awa.role_prefix', true), '');
  v_force constant boolean := coalesce(nullif(current_setting('awa.force', true), ''), 'off')::boolean;
  v_prefix text;
  v_namespace oid;
  v_schema_owner oid;
  v_me constant oid := (select r.oid from pg_roles r where r.rolname = current_user);
  v_jobs text[];
  v_dependent text[];
  v_role record;
  v_reason text;
  v_gone text[] := '{}';
  v_kept jsonb := '{}';
  v_locks text[];
{{template "declare" .}}
{{- template "declare_as_owner" .}}
begin
  -- from PostgreSQL 17 on
  perform set_config(s.name, '0', true) from pg_settings s where s.name = 'transaction_timeout';
  if {{template "bad_prefix" "v_asked"}} then
    raise exception using errcode = '22023', message = 'role_prefix is not the beginning of a role''s name',
      detail = format('It is %L.', v_asked), hint = 'Use the one that was installed with.';
  end if;
{{template "not_in_disguise"}}{{template "alone" .}}
  loop
    v_namespace := null;
    select n.oid, n.nspowner into v_namespace, v_schema_owner from pg_namespace n where n.nspname = 'awa';
    exit when v_namespace is null;
{{template "become_owner"}}    if not pg_has_role(v_schema_owner, 'usage') then
      raise exception using errcode = '42501', message = format('schema awa belongs to %s', v_schema_owner::regrole),
        detail = format('%s is not a member of that role.', current_user),
        hint = {{template "installers" "uninstall"}};
    end if;
{{template "pin"}}  end loop;
{{template "no_members"}}  v_prefix := coalesce(v_asked, 'awa_');
  if v_namespace is not null then
    if not exists (
      select from pg_class c where c.relnamespace = v_namespace and c.relname = 'schema_version' and c.relkind = 'r'
    )
      and exists (select from pg_class c where c.relnamespace = v_namespace)
      and not v_force then
      raise exception using errcode = '55000', message = 'schema awa does not hold the version of Awa',
        detail = 'It may be somebody else''s.',
        hint = 'Drop it yourself: drop schema awa cascade. Or insist: --force, for psql -v force=on.';
    end if;
    v_locks := array(
      select format('lock table %s in access exclusive mode', c.oid::regclass)
        from pg_class c
       where c.relnamespace = v_namespace and c.relkind in ('r', 'p') and not c.relispartition
         and pg_has_role(c.relowner, 'usage') -- those of others are named below
       order by 1
    )
      || array(
        select format('alter view %s owner to %s', c.oid::regclass, c.relowner::regrole)
          from pg_class c
         where c.relnamespace = v_namespace and c.relkind = 'v' and pg_has_role(c.relowner, 'usage')
         order by 1
      );
{{template "lock" .}}
    -- The schema knows the prefix; where it is gone, it has to be said. Whether there are jobs is looked at under the
    -- locks: nobody can add one now.
    v_as := v_schema_owner;
    v_arguments := jsonb_build_object(
      'version',
      exists (
        select
          from pg_class c
          join pg_attribute a on a.attrelid = c.oid and a.attname = 'role_prefix' and not a.attisdropped
         where c.relnamespace = v_namespace and c.relname = 'schema_version'
      ),
      'tables', array(select c.relname from pg_class c
                       where not v_force
                         and c.relnamespace = v_namespace
                         and c.relname in ('ready_entries', 'deferred_jobs', 'leases', 'done_entries', 'schedules')));
    v_body := $awa_inside${{template "look" .}}$awa_inside$;
{{template "as_owner" .}}
    v_prefix := coalesce(v_said ->> 'role_prefix', v_prefix);
    if {{template "bad_prefix" "v_prefix"}} then
      raise exception using errcode = '55000',
        message = 'awa.schema_version does not hold the beginning of a role''s name',
        detail = format('role_prefix is %L.', v_prefix),
        hint = 'Put back what it was: awa_, unless another one was chosen.';
    end if;
    if v_asked <> v_prefix then
      raise exception using errcode = '55000',
        message = format('Awa is installed here with the role prefix %s, not %s', v_prefix, v_asked),
        hint = 'Leave the prefix out: the database knows it.';
    end if;
    -- An older program takes objects that it does not know for somebody else's.
    if not v_force
      and (
        (v_said ->> 'version')::int > c_schema
          or case
            when v_said ->> 'functions' ~ '^[0-9]{1,9}([.][0-9]{1,9})*$'
              then string_to_array(v_said ->> 'functions', '.')::int[] > string_to_array(c_version, '.')::int[]
          end
      ) then
      raise exception using errcode = '55000',
        message = format('the database has Awa %s (schema version %s), newer than this program''s %s (%s)',
          v_said ->> 'functions', v_said ->> 'version', c_version, c_schema),
        hint = 'Nothing was changed. Use the program of its version, or the file that this makes: awa sql --uninstall. '
          'Or insist: --force, for psql -v force=on.';
    end if;
    v_jobs := array(select jsonb_array_elements_text(v_said -> 'jobs'));
    if v_jobs <> '{}' and not v_force then
      raise exception using errcode = '55000', message = 'there are jobs, or schedules',
        detail = format('They are in %s: schedules, jobs that wait, or run, and those that have ended and are kept.',
          array_to_string(v_jobs, ', ')),
        hint = 'Nothing was changed. To remove them, too: --force, for psql -v force=on.';
    end if;
    with recursive gone(classid, objid, objsubid) as (
      select 'pg_namespace'::regclass::oid, v_namespace, 0
      union
      select case when r.oid is null then d.classid else 'pg_class'::regclass end, coalesce(r.ev_class, d.objid),
             case when r.oid is null then d.objsubid else 0 end
        from gone g
        join pg_depend d
          on d.refclassid = g.classid
         and d.refobjid = g.objid
         and (g.objsubid = 0 or d.refobjsubid = g.objsubid) -- of a table of others' a column may go alone
        left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
    )
    select array_agg(d.object order by d.object) into v_dependent
      from (
        select distinct pg_describe_object(g.classid, g.objid, g.objsubid) as object
          from gone g
         where case g.classid
                 when 'pg_class'::regclass
                   then (
                     select c.relnamespace not in (v_namespace, 'pg_toast'::regnamespace)
                       from pg_class c
                      where c.oid = g.objid
                   )
                 when 'pg_proc'::regclass
                   then (select p.pronamespace <> v_namespace from pg_proc p where p.oid = g.objid)
                 when 'pg_attrdef'::regclass
                   then (
                     select c.relnamespace <> v_namespace
                       from pg_attrdef a
                       join pg_class c on c.oid = a.adrelid
                      where a.oid = g.objid
                   )
                 when 'pg_constraint'::regclass
                   then (select c.connamespace <> v_namespace from pg_constraint c where c.oid = g.objid)
                 when 'pg_trigger'::regclass
                   then (
                     select c.relnamespace <> v_namespace
                       from pg_trigger t
                       join pg_class c on c.oid = t.tgrelid
                      where t.oid = g.objid
                   )
                 when 'pg_policy'::regclass
                   then (
                     select c.relnamespace <> v_namespace
                       from pg_policy p
                       join pg_class c on c.oid = p.polrelid
                      where p.oid = g.objid
                   )
                 -- Awa has no types but those of relations
                 when 'pg_type'::regclass
                   then (
                     select t.typrelid = 0 and not exists (select from pg_type e where e.typarray = t.oid)
                       from pg_type t
                      where t.oid = g.objid
                   )
                 -- Publications, statistics, operators, casts and so on: Awa has none.
                 else g.classid not in ('pg_namespace'::regclass, 'pg_rewrite'::regclass, 'pg_default_acl'::regclass)
               end
        union
        select format('%s awa.%I',
          case c.relkind
            when 'v' then 'view'
            when 'm' then 'materialized view'
            when 'S' then 'sequence'
            when 'f' then 'foreign table'
            when 'c' then 'type'
            else 'table'
          end,
          c.relname)
          from pg_class c
         where c.relnamespace = v_namespace
           and c.relkind not in ('i', 'I')
           and not exists (select from jsonb_to_recordset(c_relations) e(name text) where e.name = c.relname)
           and not exists (
            select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'i'
          )
      ) d;
    if v_dependent is not null and not v_force then
      raise exception using errcode = '2BP01', message = 'objects of others depend on Awa',
        detail = format('They are: %s.', array_to_string(v_dependent, ', ')),
        hint = 'Nothing was changed. Drop them first. To drop them, too: --force, for psql -v force=on.';
    elsif v_dependent is not null then
      raise warning 'objects of others are dropped, too: %', array_to_string(v_dependent, ', ');
    end if;
    set local client_min_messages = warning;
    drop schema awa cascade;
  end if;

  -- Roles belong to the server: one stays where anything else needs it.
  for v_role in
    select a.oid, a.rolname, a.rolcanlogin
      or a.rolsuper as used, shobj_description(a.oid, 'pg_authid') is not distinct from {{template "mark"}} as marked
      from pg_roles a join unnest(c_roles) r(name) on a.rolname = v_prefix || r.name order by a.rolname
  loop
    select string_agg(o.object, ', ' order by o.object) into v_reason
      from (
        select distinct case
                 when s.dbid = 0 then 'things of the whole server'
                 when d.datname = current_database() then pg_describe_object(s.classid, s.objid, s.objsubid)
                 else format('database %s', coalesce(d.datname, s.dbid::text))
               end as object
          from pg_shdepend s
          left join pg_database d on d.oid = s.dbid
         where s.refclassid = 'pg_authid'::regclass
           and s.refobjid = v_role.oid
         order by 1
         limit 20
      ) o;
    v_reason := case
      when not v_role.marked then 'Awa did not make it'
      when v_role.used then 'it can log in, or is a superuser, so it is not as Awa made it'
      else 'it owns, or has rights on: ' || v_reason
    end;
    if v_reason is null then
      begin
        perform set_config('lock_timeout',
          greatest(1, ceil(extract(epoch from v_began + v_wait - clock_timestamp()) * 1000))::text, true);
        execute format('drop role %I', v_role.rolname);
        v_gone := v_gone || v_role.rolname::text;
      exception
        when insufficient_privilege then
          v_reason := format('%s may not drop it', current_user);
        when dependent_objects_still_exist then
          v_reason := 'it is needed elsewhere';
        when lock_not_available then
          select string_agg(distinct format('%s in database %s', {{template "holder"}},
                   coalesce(a.datname, x.database)), '; ') into v_holders
            from {{template "held"}}
           where l.locktype = 'object' and l.classid = 'pg_authid'::regclass and l.objid = v_role.oid and l.granted
             and l.pid is distinct from pg_backend_pid();
          raise exception using errcode = '55P03',
            message = format('others are in the way: role %I has not become free within %s', v_role.rolname, v_wait),
            detail = format('It is used by %s.', coalesce(v_holders, 'a transaction that holds no lock on it now')),
            hint = 'Nothing was changed. An installation in another database, say: try again when it has ended.';
      end;
    end if;
    if v_reason is not null then
      v_kept := v_kept || jsonb_build_object(v_role.rolname, v_reason);
    end if;
  end loop;
  if exists (select from pg_roles r where r.oid = v_granted) then -- it is needed elsewhere
    execute format('revoke %s from current_user', v_granted::regrole);
  end if;
  perform set_config('awa.uninstalled',
    json_build_object('found', v_namespace is not null, 'prefix', v_prefix, 'others', coalesce(v_dependent, '{}'),
      'dropped', v_gone, 'kept', v_kept)::text, false);
end
$awa$;
