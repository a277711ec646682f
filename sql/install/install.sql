{{- /* Fills in the installation: migrations, functions and the lists of what they make. See internal/install. */ -}}
-- Installs Awa, or brings an older installation to this version, in one transaction. Does nothing, and locks nothing, where all is as this version has it.
-- Nothing of the schema is called, and nothing is read, before the catalog says what it is: its owner's code must not run as the role that installs.
do $awa$
declare
  c_schema constant int := {{.Schema}};
  c_version constant text := '{{.Version}}';
  c_sources constant text := '{{.Hash}}';
  c_roles constant text[] := '{ {{- range $i, $r := .Roles}}{{if $i}},{{end}}{{$r}}{{end -}} }';
  c_functions constant jsonb := $awa_code${{.FunctionsJSON}}$awa_code$;
  c_relations constant jsonb := $awa_code${{.RelationsJSON}}$awa_code$;
  c_catalog constant text := $awa_code${{.CatalogQuery}}$awa_code$;
  v_wait constant interval := coalesce(nullif(current_setting('awa.install_wait', true), ''), '1 minute')::interval;
  v_began constant timestamptz := clock_timestamp();
  v_asked constant text := nullif(current_setting('awa.role_prefix', true), '');
  v_super constant boolean := (select r.rolsuper from pg_roles r where r.rolname = current_user);
  v_may_create constant boolean := (select r.rolsuper or r.rolcreaterole from pg_roles r where r.rolname = current_user);
  v_prefix text;
  v_namespace oid;
  v_schema_owner oid;
  v_record record;
  v_before int;
  v_problem text;
  v_role text;
  v_owner_role oid;
  v_owner oid;
  v_elsewhere text;
  v_catalog text;
  v_changed text[];
  v_locks text[];
  v_tables oid[];
  v_gone oid[];
  v_object record;
{{template "declare" .}}
begin
  if current_setting('server_version_num')::int < 150000 then
    raise exception using errcode = '0A000', message = 'awa needs PostgreSQL 15 or newer', detail = format('This is PostgreSQL %s.', current_setting('server_version'));
  end if;
  if v_asked is not null and (v_asked !~ '^[a-z_][a-z0-9_]*$' or v_asked ~ '^pg_' or length(v_asked) > 50) then
    raise exception using errcode = '22023', message = 'role_prefix is not the beginning of a role''s name', detail = format('It is %L.', v_asked),
      hint = 'Use at most 50 small letters, digits and _, as in app_; not pg_, which is the server''s.';
  end if;

  -- What is there: twice, since another installation may have changed it before this one has the installation's lock.
  for v_look in 1..2 loop
    v_namespace := null;
    v_before := 0;
    select n.oid, n.nspowner into v_namespace, v_schema_owner from pg_namespace n where n.nspname = 'awa';
    if v_namespace is null then
      if not has_database_privilege(current_database(), 'create') then
        raise exception using errcode = '42501', message = format('permission denied for database %s', current_database()), detail = format('%s may not create a schema in it.', current_user),
          hint = format('Let the database''s owner run this; or grant the right to: grant create on database %I to %I; or create an empty schema for it: create schema awa authorization %I.', current_database(), current_user, current_user);
      end if;
      v_prefix := coalesce(v_asked, 'awa_');
    else
      if not pg_has_role(v_schema_owner, 'usage') then
        begin
          if not exists (select from pg_roles r where r.oid = v_schema_owner and r.rolname ~ 'owner$' and not r.rolcanlogin) then
            raise insufficient_privilege;
          end if;
          execute format('grant %s to current_user', v_schema_owner::regrole);
        exception when insufficient_privilege then
          raise exception using errcode = '42501', message = format('schema awa belongs to %s', v_schema_owner::regrole), detail = format('%s is not a member of that role.', current_user),
            hint = format('Run this as %s or as a member of it, or let somebody who may grant it for the time being: grant %s to %I.', v_schema_owner::regrole, v_schema_owner::regrole, current_user);
        end;
      end if;
      if exists (select from pg_class c where c.relnamespace = v_namespace and c.relname = 'schema_version') then
        lock table awa.schema_version in access share mode; -- so that it stays what it is
        select case
                 when c.relkind <> 'r' or c.relispartition or c.relhassubclass or c.relpersistence <> 'p' or exists (select from pg_inherits i where i.inhrelid = c.oid) then 'is not a plain table'
                 when c.relowner <> v_schema_owner and c.relowner::regrole <> current_user::regrole then format('belongs to %s, schema awa to %s', c.relowner::regrole, v_schema_owner::regrole)
                 when exists (select from pg_trigger t where t.tgrelid = c.oid) then 'has a trigger'
                 when exists (select from pg_rewrite r where r.ev_class = c.oid) then 'has a rule'
                 when c.relrowsecurity or exists (select from pg_policy p where p.polrelid = c.oid) then 'has policies'
                 when exists (select from pg_attribute a join pg_type t on t.oid = a.atttypid where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and (t.typnamespace <> 'pg_catalog'::regnamespace or t.typtype <> 'b'))
                   then 'has a column of a type that is not the server''s'
                 when exists (select from pg_depend d
                               where d.refclassid = 'pg_proc'::regclass
                                 and (d.classid, d.objid) in (select 'pg_attrdef'::regclass, a.oid from pg_attrdef a where a.adrelid = c.oid union all select 'pg_constraint'::regclass, o.oid from pg_constraint o where o.conrelid = c.oid
                                                              union all select 'pg_class'::regclass, i.indexrelid from pg_index i where i.indrelid = c.oid)) then 'calls a function that is not the server''s'
                 when (select count(*) from pg_attribute a where a.attrelid = c.oid and a.attname in ('version', 'functions', 'role_prefix', 'sources', 'catalog', 'views')) <> 6 then 'lacks columns'
               end
          into v_problem
          from pg_class c
         where c.relnamespace = v_namespace and c.relname = 'schema_version';
        if v_problem is not null then
          raise exception using errcode = '55000', message = format('awa.schema_version %s', v_problem),
            detail = format('It is not as Awa makes it. What was put there would run as %s.', current_user), hint = 'Find out who did it. Remove what was added; or drop the schema, if it is not Awa''s.';
        end if;
        select s.version, s.functions, s.role_prefix, s.sources, s.catalog, s.views into v_record from awa.schema_version s;
        if v_record.version is null and exists (select from pg_class c where c.relnamespace = v_namespace and c.relname = 'ready_entries') then
          raise exception using errcode = '55000', message = 'awa.schema_version has lost its row', detail = 'Its data were left out of a dump, say.',
            hint = 'Where there are no jobs, drop the schema, and install anew: awa uninstall, awa migrate. Otherwise restore the row.';
        end if;
        v_before := coalesce(v_record.version, 0);
      elsif exists (select from pg_class c where c.relnamespace = v_namespace) or exists (select from pg_proc p where p.pronamespace = v_namespace) then
        raise exception using errcode = '55000', message = 'schema awa holds tables or functions, but not the version of Awa',
          detail = 'It is not Awa''s, or it was restored without awa.schema_version.', hint = 'Empty or rename the schema; or restore that table, too.';
      end if;
      if v_before = 0 then
        v_prefix := coalesce(v_asked, 'awa_');
      else
        v_prefix := v_record.role_prefix;
        if v_asked <> v_prefix then
          raise exception using errcode = '55000', message = format('Awa is installed here with the role prefix %s, not %s', v_prefix, v_asked), hint = 'Leave the prefix out: the database knows it.';
        end if;
        -- An older program never replaces newer functions.
        if v_before > c_schema or string_to_array(v_record.functions, '.')::int[] > string_to_array(c_version, '.')::int[] then
          if (string_to_array(v_record.functions, '.')::int[])[1] <> (string_to_array(c_version, '.')::int[])[1]
             or (string_to_array(v_record.functions, '.')::int[])[2] > (string_to_array(c_version, '.')::int[])[2] + 1 then
            raise exception using errcode = '55000', message = format('the database has Awa %s (schema version %s), too new for this program, which brings %s (%s)', v_record.functions, v_before, c_version, c_schema),
              detail = 'A program works with the functions of its own version, and of the next one.', hint = 'Use a newer program.';
          end if;
          raise warning 'the database has Awa % (schema version %), newer than this program''s % (%)', v_record.functions, v_before, c_version, c_schema
            using detail = 'It stays as it is; programs of this version work with it.', hint = 'Use newer programs, too.';
          perform set_config('awa.installed', json_build_object('before', v_before, 'after', v_before, 'functions', v_record.functions, 'newer', true, 'changed', false, 'role', current_user, 'role_prefix', v_prefix,
            'shared', exists (select from pg_roles r where r.rolname = v_prefix || 'producer'))::text, false);
          return;
        end if;
      end if;
    end if;

    -- Roles, and who will own all. They belong to the cluster: another database may have made them.
    if v_look = 1 then
      if getdatabaseencoding() <> 'UTF8' then
        raise warning 'the database is encoded in %', getdatabaseencoding()
          using detail = 'Jobs and outputs with characters that this encoding lacks are refused (22P05), and so are JSON escapes for them; Go workers store errors with escapes. SQL_ASCII takes any bytes, and says nothing of what they mean.',
                hint = 'A database in UTF-8 takes all of them: create database mydb encoding ''UTF8'' template template0. In this one, let Go programs set client_encoding=UTF8.';
      end if;
      select r.oid into v_owner_role from pg_roles r where r.rolname = v_prefix || 'owner';
      if v_owner_role is not null then
        if (select r.rolsuper or r.rolcanlogin and v_schema_owner is distinct from r.oid from pg_roles r where r.oid = v_owner_role) then
          raise exception using errcode = '55000', message = format('the role %s is there, and is none of Awa''s', v_owner_role::regrole),
            detail = 'It is a superuser, or can log in. Everybody''s calls would run with its rights.',
            hint = 'Choose roles of Awa''s own: --role-prefix app_awa_, for psql -v role_prefix=app_awa_. Or alter that role: nosuperuser, nologin.';
        end if;
        select string_agg(d.datname, ', ' order by d.datname) into v_elsewhere
          from pg_database d
         where d.datname <> current_database() and exists (select from pg_shdepend s where s.dbid = d.oid and s.refclassid = 'pg_authid'::regclass and s.refobjid = v_owner_role and s.deptype = 'o');
        if v_elsewhere is not null and v_namespace is not null and v_schema_owner = v_owner_role or v_elsewhere is not null and (v_super or pg_has_role(v_owner_role, 'usage')) then
          raise warning 'the roles of Awa (%...) serve other databases, too', v_prefix
            using detail = format('Roles belong to the server. A member of %sproducer may enqueue, and so on, in each of: %s, %s.', v_prefix, current_database(), v_elsewhere),
                  hint = 'Keep roles out of databases by: revoke connect on database ... from public. Or install with roles of its own: --role-prefix, for psql -v role_prefix=...';
        elsif v_elsewhere is not null then
          raise exception using errcode = '55000', message = format('the role %s owns things in other databases', v_owner_role::regrole),
            detail = format('They are in: %s. To install here, %s would have to become a member of it, and so could read and change all there.', v_elsewhere, current_user),
            hint = 'Choose roles of this database''s own: --role-prefix app_, for psql -v role_prefix=app_.';
        end if;
      end if;
      foreach v_role in array c_roles loop
        continue when exists (select from pg_roles r where r.rolname = v_prefix || v_role);
        if not v_may_create then
          raise warning 'awa is installed for % alone', current_user
            using detail = format('Role %s does not exist, and %s may not create it.', v_prefix || v_role, current_user), hint = 'To share it between roles, install once more as a role with CREATEROLE.';
          exit;
        end if;
        begin
          execute format('create role %I nologin', v_prefix || v_role);
        exception when duplicate_object or unique_violation then
          null; -- created by an installation in another database, just now
        end;
      end loop;
      select r.oid into v_owner_role from pg_roles r where r.rolname = v_prefix || 'owner';
      v_owner := current_user::regrole;
      if v_owner_role is not null then
        -- A role that has created the owner, or been there when it was created, may grant it to itself; before it does, it is at most its administrator.
        begin
          if not pg_has_role(v_owner_role, 'usage') then
            execute format('grant %s to current_user', v_owner_role::regrole);
          end if;
          v_owner := v_owner_role;
        exception
          when insufficient_privilege then
            raise warning 'the functions of awa run as %', current_user
              using detail = format('%s is not a member of %s, and may not become one.', current_user, v_owner_role::regrole),
                    hint = format('To have them run as a role that nobody can log in as, let somebody who may say: grant %s to %I; and install once more.', v_owner_role::regrole, current_user);
          when unique_violation then
            v_owner := v_owner_role; -- granted by another installation, just now
        end;
        -- To truncate a segment, the owner has to know how old the snapshots of others are.
        if v_owner = v_owner_role and not pg_has_role(v_owner_role, 'pg_read_all_stats', 'usage') then
          begin
            execute format('grant pg_read_all_stats to %s', v_owner_role::regrole);
          exception
            when insufficient_privilege then
              raise warning '% may not see the snapshots of other roles', v_owner_role::regrole
                using hint = format('prune_oldest waits for their sessions to end. Let a superuser say: grant pg_read_all_stats to %s.', v_owner_role::regrole);
            when unique_violation then
              null;
          end;
        end if;
      end if;
    end if;

    if v_before > 0 then
      execute c_catalog into v_catalog;
      if v_before = c_schema and v_record.sources = c_sources and v_record.catalog = v_catalog and v_schema_owner = v_owner then
        perform set_config('awa.installed', json_build_object('before', v_before, 'after', v_before, 'functions', v_record.functions, 'newer', false, 'changed', false, 'role', current_user, 'role_prefix', v_prefix,
          'shared', exists (select from pg_roles r where r.rolname = v_prefix || 'producer'))::text, false);
        return;
      end if;
    end if;
    exit when v_look = 2;
{{template "alone" .}}
  end loop;

  -- The schema, and the table of the version, which says before all else whose roles these are.
  if v_namespace is null then
    create schema awa;
    v_namespace := 'awa'::regnamespace;
  end if;
  if not exists (select from pg_class c where c.relnamespace = v_namespace and c.relname = 'schema_version') then
    create table awa.schema_version (
      only_row    boolean primary key default true check (only_row),
      version     int not null,
      functions   text not null,
      role_prefix text not null,
      sources     text,
      catalog     text,
      views       jsonb not null default '{}'
    );
    comment on table awa.schema_version is 'What is installed, in one row';
    comment on column awa.schema_version.version is 'The number of the last migration';
    comment on column awa.schema_version.functions is 'The version of the functions';
    comment on column awa.schema_version.role_prefix is 'What the names of the roles begin with';
    comment on column awa.schema_version.sources is 'A hash of what was installed';
    comment on column awa.schema_version.catalog is 'A hash of what the catalog held of it, owners and grants included, so that nothing is done where nothing was changed';
    comment on column awa.schema_version.views is 'Hashes of the text of each view, and of what the catalog made of it, so that what is as it was is not locked';
    insert into awa.schema_version (version, functions, role_prefix) values (0, '0', v_prefix);
  end if;
  select s.version, s.functions, s.role_prefix, s.sources, s.catalog, s.views into v_record from awa.schema_version s;
  update awa.schema_version set role_prefix = v_prefix, functions = c_version; -- functions read the prefix of their installation
  perform set_config('awa.install_owner', v_owner::regrole::text, true);
  set local check_function_bodies = off;
  set local client_min_messages = warning;

  -- What has to be locked: a view only where it differs, tables only where a migration, an owner or a trigger changes them.
  select coalesce(array_agg(p.view), '{}') into v_changed
    from (values {{range $i, $p := .Views}}{{if $i}}, {{end}}('{{$p.Name}}', '{{$p.Hash}}'){{end}}) p(view, hash)
    left join pg_class c on c.relnamespace = v_namespace and c.relname = p.view and c.relkind = 'v'
    left join pg_rewrite r on r.ev_class = c.oid
   where (v_record.views -> p.view ->> 0 = p.hash and v_record.views -> p.view ->> 1 = md5(concat(r.ev_action, c.reloptions))) is not true;
  select coalesce(array_agg(c.oid), '{}') into v_tables
    from pg_class c
   where c.relnamespace = v_namespace and v_before > 0 and c.relkind in ('r', 'p') and not c.relispartition
     and (v_before < c_schema
          or exists (select from pg_class o where o.relnamespace = v_namespace and o.relkind in ('r', 'p', 'S') and o.relowner <> v_owner)
          or c.relname in (select t."table" from jsonb_to_recordset($awa_code${{.TriggersJSON}}$awa_code$::jsonb) t("table" text, name text)
                            where not exists (select from pg_trigger g where g.tgrelid = c.oid and g.tgname = t.name and g.tgenabled in ('O', 'A'))));
  select array(select format('lock table %s in access exclusive mode', t::regclass) from unnest(v_tables) t order by 1)
         -- Locks the view alone, and nothing that it reads.
         || array(select format('alter view awa.%I owner to %s', c.relname, c.relowner::regrole)
                    from pg_class c
                   where v_before > 0 and c.relnamespace = v_namespace and c.relkind = 'v' and (c.relname = any (v_changed) or c.relowner <> v_owner or not exists (select from jsonb_to_recordset(c_relations) e(name text) where e.name = c.relname))
                   order by 1)
    into v_locks;
  v_tables := v_tables || array(select c.oid from pg_class c where c.relnamespace = v_namespace and c.relkind = 'v' and (c.relname = any (v_changed) or c.relowner <> v_owner));
{{template "lock" .}}

  -- Functions that this version does not have, or not in this form, go, with what of the schema depends on them: that is made again. What depends on them elsewhere is its owner's.
  select array_agg(distinct p.oid) into v_gone
    from pg_proc p
   where p.pronamespace = v_namespace
     and not exists (
           select from jsonb_to_recordset(c_functions) f(name text, names text[], types text[], defaults int, result text)
            where f.name = p.proname and array(select to_regtype(t.name)::oid from unnest(f.types) with ordinality t(name, n) order by t.n) = coalesce(p.proallargtypes, array(select unnest(p.proargtypes)))
              and f.names = coalesce(p.proargnames, '{}') and f.defaults >= p.pronargdefaults
              and (f.result = '' or format('%s%s', case when p.proretset then 'setof ' end, p.prorettype::regtype) = format('%s%s', substring(f.result from '^setof '), to_regtype(replace(f.result, 'setof ', '')))));
  if v_gone <> '{}' then
    with recursive gone(classid, objid) as (
      select 'pg_proc'::regclass::oid, g from unnest(v_gone) g
      union
      select case when r.oid is null then d.classid else 'pg_class'::regclass end, coalesce(r.ev_class, d.objid)
        from gone g
        join pg_depend d on d.refclassid = g.classid and d.refobjid = g.objid
        left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
    )
    select string_agg(pg_describe_object(g.classid, g.objid, 0), ', ' order by 1), (select string_agg(p.oid::regprocedure::text, ', ' order by 1) from pg_proc p where p.oid = any (v_gone))
      into v_problem, v_holders
      from gone g
     where v_namespace is distinct from case g.classid
             when 'pg_proc'::regclass then (select p.pronamespace from pg_proc p where p.oid = g.objid)
             when 'pg_class'::regclass then (select c.relnamespace from pg_class c where c.oid = g.objid)
             when 'pg_type'::regclass then (select t.typnamespace from pg_type t where t.oid = g.objid)
             when 'pg_trigger'::regclass then (select c.relnamespace from pg_trigger t join pg_class c on c.oid = t.tgrelid where t.oid = g.objid)
           end;
    if v_problem is not null then
      raise exception using errcode = '2BP01', message = 'objects of others depend on what this version changes or no longer has', detail = format('%s: needed by %s.', v_holders, v_problem),
        hint = 'Nothing was changed. Drop them, install, and create them again on what there is then.';
    end if;
    for v_command in select format('drop routine if exists %s cascade', p.oid::regprocedure) from pg_proc p where p.oid = any (v_gone) loop
      execute v_command;
    end loop;
  end if;

{{range .Migrations}}  if v_before < {{.Number}} then
    execute $awa_code${{.SQL}}$awa_code$;
  end if;
{{end}}
  -- Functions, views and triggers; and the rest of the functions' package. A view that is as it should be is left alone.
  for v_object in
    select p.* from (values
{{range $i, $p := .Pieces}}{{if $i}},
{{end}}      ({{$i}}, {{if $p.View}}'{{$p.View}}'{{else}}null{{end}}, $awa_code${{$p.SQL}}$awa_code$){{end}}
    ) p(n, view, code) order by p.n
  loop
    if v_object.view is null or v_object.view = any (v_changed) or not exists (select from pg_class c where c.relnamespace = v_namespace and c.relname = v_object.view) then
      execute v_object.code;
    end if;
  end loop;

  select string_agg(c.oid::regclass::text, ', ') into v_command
    from pg_class c
   where c.relnamespace = v_namespace and c.relkind = 'v' and not exists (select from jsonb_to_recordset(c_relations) e(name text) where e.name = c.relname);
  if v_command is not null then
    execute format('drop view %s', v_command);
  end if;

  execute c_catalog into v_catalog;
  update awa.schema_version
     set version = c_schema, functions = c_version, sources = c_sources, catalog = v_catalog,
         views = (select jsonb_object_agg(p.view, jsonb_build_array(p.hash, md5(concat(r.ev_action, c.reloptions))))
                    from (values {{range $i, $p := .Views}}{{if $i}}, {{end}}('{{$p.Name}}', '{{$p.Hash}}'){{end}}) p(view, hash)
                    join pg_class c on c.relnamespace = v_namespace and c.relname = p.view
                    join pg_rewrite r on r.ev_class = c.oid);
  perform set_config('awa.installed', json_build_object('before', v_before, 'after', c_schema, 'functions', c_version, 'newer', false, 'changed', true, 'role', current_user, 'role_prefix', v_prefix,
    'shared', exists (select from pg_roles r where r.rolname = v_prefix || 'producer'))::text, false);
end
$awa$;
