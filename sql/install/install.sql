{{- /* Fills in the installation: migrations, functions and the lists of what they make. See internal/install. */ -}}
-- Installs Awa, or brings an older installation to this version, in one transaction. Does nothing, and locks nothing,
-- where all is as this version has it.
-- As the role that installs it looks at the server's own catalogs, makes roles and gives objects to their owner. All
-- that reads, writes or changes anything inside the schema runs as its owner: see as_owner.sql.
do $awa$
declare
  c_schema constant int := {{.Schema}};
  c_version constant text := '{{.Version}}';
  c_sources constant text := '{{.Hash}}';
  -- after each migration
  c_tables constant text[] := '{ {{- range $i, $m := .Migrations}}{{if $i}},{{end}}{{$m.Fingerprint}}{{end -}} }';
  c_roles constant text[] := '{ {{- range $i, $r := .Roles}}{{if $i}},{{end}}{{$r}}{{end -}} }';
  c_relations constant jsonb := $awa_code${{.RelationsJSON}}$awa_code$;
  c_catalog constant text := $awa_code${{.CatalogQuery}}$awa_code$;
  c_foreign constant text := $awa_code${{.ForeignQuery}}$awa_code$;
  c_expected constant jsonb := jsonb_build_object('relations', c_relations, 'triggers',
    $awa_code${{.TriggersJSON}}$awa_code$::jsonb);
  c_order constant text[] := '{settings,queue_settings,ring,queues,origin,lease_claims,lease_claim_closures,'
    'ready_tombstones,leases,deferred_jobs,ready_entries}';
  v_wait constant interval := coalesce(nullif(current_setting('awa.install_wait', true), ''), '1 minute')::interval;
  v_began constant timestamptz := clock_timestamp();
  v_asked constant text := nullif(current_setting('awa.role_prefix', true), '');
  v_me constant oid := (select r.oid from pg_roles r where r.rolname = current_user);
  v_super constant boolean := (select r.rolsuper from pg_roles r where r.oid = v_me);
  v_may_create constant boolean := (select r.rolsuper or r.rolcreaterole from pg_roles r where r.oid = v_me);
  v_prefix text;
  v_namespace oid;
  v_schema_owner oid;
  v_record record;
  v_functions text;
  v_glance text[];
  v_views jsonb;
  v_routines jsonb;
  v_kept text[];
  v_before int;
  v_problem text;
  v_role text;
  v_owner_role oid;
  v_owner oid;
  v_missing text;
  v_marked boolean;
  v_others text;
  v_cure text;
  v_members text;
  v_elsewhere text;
  v_catalog text;
  v_is_ours boolean; -- whether the schema says that these sources were installed
  v_as_it_was boolean; -- and whether it is as they left it
  v_changed text[];
  v_locks text[];
  v_tables oid[];
  v_foreign oid[];
  v_passes boolean;
  v_pending text[];
  v_found text[];
  v_stops boolean;
{{template "declare" .}}
{{- template "declare_as_owner" .}}
begin
  -- from PostgreSQL 17 on
  perform set_config(s.name, '0', true) from pg_settings s where s.name = 'transaction_timeout';
  if current_setting('server_version_num')::int < 150000 then
    raise exception using errcode = '0A000', message = 'awa needs PostgreSQL 15 or newer',
      detail = format('This is PostgreSQL %s.', current_setting('server_version'));
  end if;
  if {{template "bad_prefix" "v_asked"}} then
    raise exception using errcode = '22023', message = 'role_prefix is not the beginning of a role''s name',
      detail = format('It is %L.', v_asked),
      hint = 'Use at most 50 small letters, digits and _, as in app_; not pg_, which is the server''s.';
  end if;

  if getdatabaseencoding() <> 'UTF8' then
    raise warning 'the database is encoded in %', getdatabaseencoding()
      using detail =
        'Jobs and outputs with characters that this encoding lacks are refused (22P05), and so are JSON escapes '
        'for them; Go workers store errors with escapes. SQL_ASCII takes any bytes, and says nothing of what they '
        'mean.',
            hint =
              'A database in UTF-8 takes all of them: create database mydb encoding ''UTF8'' template template0. '
              'In this one, let Go programs set client_encoding=UTF8.';
  end if;

  -- It looks twice, since another installation may have changed it before this one has the installation's lock.
  for v_look in 1..2 loop
{{template "glance" .}}{{template "not_in_disguise"}}    loop
      v_namespace := null;
      v_before := 0;
      select n.oid, n.nspowner into v_namespace, v_schema_owner from pg_namespace n where n.nspname = 'awa';
      exit when v_namespace is null;
{{template "become_owner"}}      if not pg_has_role(v_schema_owner, 'usage') then
        if v_is_ours and not v_as_it_was and not pg_has_role(v_schema_owner, 'member') then
          raise warning 'schema awa is not as its installation left it'
            using detail = format('%s may not change that. All is of this version, so programs work.', current_user),
              hint = 'awa doctor says what differs; after pg_upgrade from another major version nothing may. '
                || {{template "installers" "migrate"}};
          v_before := c_schema;
          {{template "done" "false"}}
          return;
        end if;
        if not pg_has_role(v_schema_owner, 'usage') then
          raise exception using errcode = '42501',
            message = format('schema awa belongs to %s', v_schema_owner::regrole),
            detail = format(case
              when pg_has_role(v_schema_owner, 'member')
                then '%s is a member of that role, but does not inherit its rights.'
              else '%s is not a member of that role.'
            end,
              current_user),
            hint = case
              when pg_has_role(v_schema_owner, 'member')
                then format({{template "inherit"}}, current_user, v_schema_owner::regrole)
              else {{template "installers" "migrate"}}
            end;
        end if;
      end if;
{{template "pin"}}    end loop;
{{template "no_members"}}    if v_namespace is null then
      if not has_database_privilege(current_database(), 'create') then
        raise exception using errcode = '42501',
          message = format('permission denied for database %s', current_database()),
          detail = format('%s may not create a schema in it.', current_user),
          hint =
            format(
              'Let the database''s owner run this; or grant the right to: grant create on database %I to %I; or create '
              'an empty schema for it: create schema awa authorization %I.',
            current_database(), current_user, current_user);
      end if;
      v_prefix := coalesce(v_asked, 'awa_');
    else
      if exists (select from pg_class c where c.relnamespace = v_namespace and c.relname = 'schema_version') then
        lock table awa.schema_version in access share mode; -- so that it stays what it is
        select case
                 when c.relkind <> 'r' then 'is not a table'
                 when c.relowner <> v_schema_owner
                   then format('belongs to %s, schema awa to %s', c.relowner::regrole, v_schema_owner::regrole)
                 when (
                   select count(*)
                     from pg_attribute a
                    where a.attrelid = c.oid
                      and a.attname in ('version', 'functions', 'role_prefix', 'views', 'routines')
                 ) <> 5
                   then 'lacks columns'
               end
          into v_problem
          from pg_class c
         where c.relnamespace = v_namespace and c.relname = 'schema_version';
        if v_problem is not null then
          raise exception using errcode = '55000', message = format('awa.schema_version %s', v_problem),
            detail = 'It is not as Awa makes it.',
            hint = coalesce((
                select format('If the schema was restored alone (pg_restore --schema awa), it has got another owner: '
                         'alter schema awa owner to %s, then run this again. To drop it would lose the jobs.',
                         c.relowner::regrole)
                  from pg_class c
                 where c.relnamespace = v_namespace and c.relname = 'schema_version' and c.relowner <> v_schema_owner
                   and not exists (
                     select
                       from pg_class o
                      where o.relnamespace = v_namespace and o.relkind in ('r', 'p', 'v', 'S')
                        and o.relowner <> c.relowner
                   )), 'Find out who did it, and put back what was there.');
        end if;
        v_as := v_schema_owner;
        v_body := $awa_inside${{template "read" .}}$awa_inside$;
{{template "as_owner" .}}
        select r.* into v_record
          from jsonb_to_record(v_said) r(version int, functions text, role_prefix text, tables text, views jsonb,
            routines jsonb);
        if v_record.version is null then
          raise exception using errcode = '55000', message = 'awa.schema_version has lost its row',
            detail = 'Its data were left out of a dump, say.',
            hint =
              'Where there are no jobs, drop the schema, and install anew: awa uninstall, awa migrate. Otherwise '
              'restore the row.';
        elsif v_record.version < 1 then
          raise exception using errcode = '55000',
            message = format('awa.schema_version holds version %s, which there is none', v_record.version),
            detail = 'Somebody else made that table, or changed it.',
            hint =
              'Find out who did it. Where there are no jobs, drop the schema, and install anew: awa uninstall, awa '
              'migrate.';
        end if;
        v_before := v_record.version;
        v_functions := v_record.functions;
        if v_before between 1 and c_schema and v_record.tables is distinct from c_tables[v_before] then
          raise exception using errcode = '55000',
            message = 'the database has the tables of another Awa that was not released',
            detail = 'Until version 0.1.0 tables are changed without a migration.',
            hint = 'Remove it with the program that installed it, and install anew: awa uninstall, awa migrate.';
        end if;
        v_views := v_record.views;
        v_routines := v_record.routines;
      else
        select string_agg(pg_describe_object(d.classid, d.objid, 0), ', ' order by d.classid, d.objid) into v_problem
          from (select d.classid, d.objid from pg_depend d
                 where d.refclassid = 'pg_namespace'::regclass
                   and d.refobjid = v_namespace
                   and d.classid not in ('pg_default_acl'::regclass, 'pg_publication_namespace'::regclass)
                 order by d.classid, d.objid limit 5) d;
        if v_problem is not null then
          raise exception using errcode = '55000',
            message = 'schema awa is not empty, but does not hold the version of Awa',
            detail = format('It holds %s. It is not Awa''s, or it was restored without awa.schema_version.', v_problem),
            hint = 'Empty or rename the schema; or restore that table, too.';
        end if;
      end if;
      if v_before = 0 then
        v_prefix := coalesce(v_asked, 'awa_');
      else
        v_prefix := v_record.role_prefix;
        if v_prefix is null or {{template "bad_prefix" "v_prefix"}} then
          raise exception using errcode = '55000',
            message = 'awa.schema_version does not hold the beginning of a role''s name',
            detail = format('role_prefix is %L.', v_prefix),
            hint = 'Put back what it was: awa_, unless another one was chosen.';
        end if;
        if v_asked <> v_prefix
          and not exists (select from pg_roles r where r.oid = v_schema_owner and r.rolname = v_prefix || 'owner') then
          v_prefix := v_asked; -- a copy, or an installation for a role alone, that gets roles of its own
        elsif v_asked <> v_prefix then
          raise exception using errcode = '55000',
            message = format('Awa is installed here with the role prefix %s, not %s', v_prefix, v_asked),
            hint = 'Leave the prefix out: the database knows it.';
        end if;
{{template "newer"}}
      end if;
    end if;

    -- Roles, and who will own all. They belong to the cluster: another database may have made them.
    if v_look = 1 then
{{template "roles" .}}    end if;

    exit when v_look = 2;
{{template "alone" .}}
  end loop;

{{template "empty"}}  if v_namespace is null then
    execute format('create schema awa authorization %s', v_owner::regrole);
    v_namespace := 'awa'::regnamespace;
    v_schema_owner := v_owner;
  end if;
  set local check_function_bodies = off;
  set local client_min_messages = warning;

  -- Objects that have another owner now become this one's.
  v_passes := v_before > 0 and (v_schema_owner <> v_owner
    or exists (
      select
        from pg_class c
        join jsonb_to_recordset(c_relations) e(name text) on e.name = c.relname
       where c.relnamespace = v_namespace and c.relkind in ('r', 'p', 'v', 'S') and c.relowner <> v_owner
    ));
  if v_passes and v_before < c_schema then
    raise exception using errcode = '55000',
      message = format('schema awa, or something in it, does not belong to %s, and has older tables', v_owner::regrole),
      detail = 'What its present owner put there would run as that role.',
      hint = format('Bring it to this version as its present owner (%s) first, then run this again.',
        v_schema_owner::regrole);
  end if;
  if v_before > 0 and not v_passes then
{{template "pending" .}}  end if;
  execute format(
    'select array_agg(distinct coalesce(i.inhparent, f.relation)) from (%s) f left join pg_inherits i on i.inhrelid = '
    'f.relation where f.cure is not null and f.relation is not null',
    c_foreign) into v_foreign using c_expected;
  -- Objects that would run code, and can't be taken away without loss, have to go first. Where the schema gets another
  -- owner all that is none of Awa's has to: see below.
  execute format(
    'select string_agg(f.object, '', '' order by f.object) from (%s) f where f.kind in (''expression'', ''column'', '
    '''child'')',
    c_foreign) into v_problem using c_expected;
  if v_problem is not null and not v_passes then
    raise exception using errcode = '55000', message = 'there is code on Awa''s tables that is none of Awa''s',
      detail = format('It runs with the rights of %s, or of who calls: %s.', v_owner::regrole, v_problem),
      hint = 'Nothing was changed. Find out who did it, drop it, and run this again.';
  end if;

  -- The objects to be locked: a view only where it differs, tables only where a migration, an owner or a trigger
  -- changes them.
  select coalesce(array_agg(p.view), '{}') into v_changed
    from (values {{range $i, $p := .Views}}{{if $i}}, {{end}}('{{$p.Name}}', '{{$p.Hash}}'){{end}}) p(view, hash)
    left join pg_class c on c.relnamespace = v_namespace and c.relname = p.view and c.relkind = 'v'
    left join pg_rewrite r on r.ev_class = c.oid
   where v_passes
      or c.oid = any (v_foreign)
      or (
        v_views -> p.view ->> 0 = p.hash and v_views -> p.view ->> 1 = md5(concat(r.ev_action, c.reloptions))
      ) is not true;
  -- Functions that are as they should be are left alone, so that no session compiles them anew.
  v_kept := array(select format('%s %s', p.proname, r.value ->> 0)
                    from jsonb_each(v_routines) r
                    join pg_proc p on p.pronamespace = v_namespace and p.proname = r.key
                   where not v_passes and r.value ->> 1 = {{template "made"}});
  v_as := v_owner;
  v_body := $awa_inside${{template "inside" .}}$awa_inside$;
  if v_before > 0 and not v_passes then
    v_arguments := jsonb_build_object('compare', true, 'kept', v_kept, 'changed', v_changed);
{{template "as_owner" .}}
    v_kept := array(select jsonb_array_elements_text(v_said -> 'kept'));
    v_changed := array(select jsonb_array_elements_text(v_said -> 'changed'));
  end if;
  select coalesce(array_agg(c.oid), '{}') into v_tables
    from pg_class c
   where c.relnamespace = v_namespace and v_before > 0 and c.relkind in ('r', 'p') and not c.relispartition
     and (v_before < c_schema or c.oid = any (v_foreign)
          or exists (
            select
              from pg_class o
             where o.relnamespace = v_namespace and o.relkind in ('r', 'p', 'S') and o.relowner <> v_owner
          )
          or c.relname in (
            select t."table"
              from jsonb_to_recordset($awa_code${{.TriggersJSON}}$awa_code$::jsonb) t("table" text, name text)
                            where not exists (
                               select
                                 from pg_trigger g
                                where g.tgrelid = c.oid and g.tgname = t.name and g.tgenabled in ('O', 'A')
                             )));
  -- Views first, where reports are met. Then the tables in about the order in which claims, answers and producers lock
  -- them: who has a table that this waits for seldom needs one that it holds.
  -- To alter its owner locks a view alone, and nothing that it reads.
  select array(select format('alter view awa.%I owner to %s', c.relname, c.relowner::regrole)
                 from pg_class c
                where v_before > 0
                  and c.relnamespace = v_namespace
                  and c.relkind = 'v'
                  and (
                    c.relname = any (v_changed)
                      or c.relowner <> v_owner
                      or not exists (
                        select from jsonb_to_recordset(c_relations) e(name text) where e.name = c.relname
                      )
                  )
                order by 1)
         || array(select format('lock table %s in access exclusive mode', c.oid::regclass)
                    from pg_class c
                   where c.oid = any (v_tables)
                   order by array_position(c_order, c.relname::text), c.relname)
    into v_locks;
  -- The part that can be done before others have to wait.
  for v_command in
    select format('alter schema awa owner to %s', v_owner::regrole)
      from pg_namespace n
     where n.oid = v_namespace and n.nspowner <> v_owner
    union all
    select format('grant all on schema awa to %s', v_owner::regrole)
     where not (
       has_schema_privilege(v_owner, v_namespace, 'usage') and has_schema_privilege(v_owner, v_namespace, 'create')
     )
  loop
    execute v_command;
  end loop;
  v_schema_owner := v_owner;
{{template "make" .}}
  if v_passes then
{{template "foreign_first" .}}{{template "moves" .}}  end if;
{{template "lock" .}}

  if v_passes then
    v_namespace := 'awa'::regnamespace;
{{template "foreign_first" .}}  end if;

  -- Statistics are their owner's, who may be another role than the table's. Another schema may hold them.
  for v_command in
    execute format('select f.cure from (%s) f where f.kind = ''statistics''', c_foreign) using c_expected
  loop
    begin
      execute v_command;
    exception when insufficient_privilege then
      raise exception using errcode = '55000', message = 'statistics on Awa''s tables are none of Awa''s',
        detail = format('Their expressions run when a query is planned. %s may not drop them.', current_user),
        hint = format('Nothing was changed. Let their owner, or a superuser, say: %s.', v_command);
    end;
  end loop;

  -- All that is there of Awa's is given to its owner, with all rights on it. This runs nothing of anybody's.
  for v_command in
    select format('alter %s %s owner to %s',
      case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end, c.oid::regclass, v_owner::regrole)
      from pg_class c
     where c.relnamespace = v_namespace
       and c.relkind in ('r', 'p', 'v', 'S')
       and c.relowner <> v_owner
       and c.relname in (select e.name from jsonb_to_recordset(c_relations) e(name text))
       and not exists (
        select
          from pg_depend d
         where d.objid = c.oid and d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i') and c.relkind = 'S'
      )
    union all
    select format('alter routine %s owner to %s', p.oid::regprocedure, v_owner::regrole)
      from pg_proc p
     where p.pronamespace = v_namespace and p.proowner <> v_owner
    union all
    select format('grant all on %s %s to %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass,
      v_owner::regrole)
      from pg_class c
     where c.relnamespace = v_namespace and c.relkind in ('r', 'p', 'v', 'S') and c.relowner = v_owner
       and (select count(*) from aclexplode(c.relacl) a where a.grantee = c.relowner) < (
        select count(*) from aclexplode(acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner)) a
      )
       and c.relacl is not null
    union all
    select format('grant all on routine %s to %s', p.oid::regprocedure, v_owner::regrole)
      from pg_proc p
     where p.pronamespace = v_namespace and not has_function_privilege(p.proowner, p.oid, 'execute')
  loop
    execute v_command;
  end loop;

  v_arguments := jsonb_build_object('before', v_before, 'role_prefix', v_prefix, 'changed', v_changed,
    'kept', v_kept);
{{template "call" .}}
  perform set_config('awa.installed',
    json_build_object('before', v_before, 'after', c_schema, 'functions', c_version, 'newer', false, 'changed', true,
      'role', current_user, 'role_prefix', v_prefix,
    'shared', exists (select from pg_roles r where r.rolname = v_prefix || 'producer'))::text, false);
end
$awa$;
