{{- /* How an installation runs what it does inside the schema. */ -}}
{{define "declare_as_owner"}}  v_lock_timeout constant text := current_setting('lock_timeout');
  -- which nobody can take beforehand
  v_name constant text := format('_install_%s', replace(gen_random_uuid()::text, '-', ''));
  v_as oid;
  v_body text;
  v_arguments jsonb := '{}';
  v_said jsonb;
  v_temporary oid[];
  -- How the owner is granted: to inherit its rights, and to give it things, from PostgreSQL 16 on two options.
  c_with constant text :=
    case when current_setting('server_version_num')::int >= 160000 then ' with inherit true, set true' else '' end;
  v_granted oid; -- the role that was granted for the time being
{{end}}
{{define "become_owner"}}
      if not pg_has_role(v_schema_owner, 'usage') then
        begin
          -- A role becomes a member by itself only of one that Awa has made for this.
          if not exists (
            select
              from pg_roles r
             where r.oid = v_schema_owner
               and r.rolname ~ 'owner$'
               and not r.rolcanlogin
               and shobj_description(r.oid, 'pg_authid') = {{template "mark"}}
          ) then
            raise insufficient_privilege;
          end if;
          execute format('grant %s to current_user%s', v_schema_owner::regrole, c_with);
          v_granted := v_schema_owner;
        exception when insufficient_privilege then
          null;
        end;
      end if;
{{end}}
{{define "temporary"}}
select d.objid
  from pg_depend d
 where d.refclassid = 'pg_namespace'::regclass and d.refobjid = pg_my_temp_schema(){{end}}
{{define "pin"}}
      -- In a loop that looks at the schema, and is left here. The schema's owner could rename it, and make another one
      -- of that name, between two statements. This changes its row in the catalog: so until the transaction ends, other
      -- sessions that rename, drop or give away that schema, or make one of that name, wait.
      begin
        perform set_config('lock_timeout',
          greatest(1, ceil(extract(epoch from v_began + v_wait - clock_timestamp()) * 1000))::text, true);
        execute format('grant usage on schema awa to %s', v_schema_owner::regrole);
        if not exists (
          select from pg_namespace n where n.nspname = 'awa' and n.oid = v_namespace and n.nspowner = v_schema_owner
        ) then
          raise internal_error;
        end if;
        perform set_config('lock_timeout', v_lock_timeout, true);
        exit;
      exception
        when internal_error or invalid_schema_name or insufficient_privilege then
          if clock_timestamp() > v_began + v_wait + '1 second' then
            raise;
          end if; -- otherwise look again: another transaction has changed it ("tuple concurrently updated")
        when lock_not_available then
          select string_agg({{template "holder"}} || {{template "since"}}, '; ') into v_holders
            from {{template "held"}}
           where l.locktype = 'transactionid' and l.granted
             and l.transactionid = (select n.xmax from pg_namespace n where n.nspname = 'awa');
          raise exception using errcode = '55P03',
            message = format('others are in the way: schema awa has not become free within %s', v_wait),
            detail = format('It is changed by %s.', coalesce(v_holders, 'nobody any more')),
            hint = 'Nothing was changed. Try again when these have ended, or ' || {{template "end_them"}};
      end;
{{end}}
{{define "not_in_disguise"}}
    -- Code that gets a moment as this role could undo that: reset role, reset session authorization. The role that has
    -- logged in is known to the server's statistics alone.
    select string_agg(r.rolname, ', ') into v_holders
      from pg_roles r
     where r.rolsuper
       and not (select m.rolsuper from pg_roles m where m.oid = v_me)
       and (
         r.rolname = session_user
           or r.oid = (select a.usesysid from pg_stat_activity a where a.pid = pg_backend_pid())
       );
    if v_holders is not null then
      raise exception using errcode = '55000',
        message = format('this session is the superuser %s''s, acting as %s', v_holders, current_user),
        detail = 'Code in schema awa could become that superuser.',
        hint = format(
          'Nothing was changed. Log in as %s; or say "reset role", and "reset session authorization", first. What sets '
          'the role may be the database: see pg_db_role_setting.',
          current_user);
    end if;
{{end}}
{{define "as_owner"}}{{template "make"}}{{template "call"}}{{end}}
{{define "make"}}
    -- Whoever may change the schema can attach code to anything in it, and has it run by whoever touches that: by
    -- triggers, rules, policies, defaults, checks, casts, expressions of indexes. Here it runs
    -- with the rights of the owner, which its author has anyhow: in a function that is the owner's (v_as), and that
    -- nobody else can see or replace before the transaction ends. That alone is not
    -- enough: such code could put off some of itself to the end of the transaction, by deferred triggers or cursors
    -- with hold, or leave a search_path to the session. So a materialized view calls the
    -- function, while which PostgreSQL refuses the first, and takes the second back. It does not refuse functions and
    -- types in pg_temp, where the session would find them later: these are looked for. Nothing is read from the view:
    -- where its owner is the schema's, such code could have put another one in its place, and to plan a query runs
    -- code, too. The answer is the function's comment, which is read from the server's catalog.
    execute format(
      'create function awa.%I(jsonb) returns boolean language plpgsql security definer set search_path = pg_catalog, '
      'pg_temp as %L',
      v_name, v_body);
    if v_as <> v_me then
      execute format('alter function awa.%I(jsonb) owner to %s', v_name, v_as::regrole);
    end if;
{{end}}
{{define "call"}}
    v_temporary := array({{template "temporary"}});
    execute format('create materialized view awa.%I as select awa.%I(%L::pg_catalog.jsonb) as done', v_name, v_name,
      v_arguments || jsonb_build_object('name', v_name));
    if not exists (
         select
           from pg_class c
          where c.oid = to_regclass(format('awa.%I', v_name)) and c.relkind = 'm' and c.relowner = v_me
       )
       or not exists (
         select
           from pg_proc p
          where p.oid = to_regprocedure(format('awa.%I(jsonb)', v_name)) and p.proowner = v_as and p.prosrc = v_body
       )
       or not exists (
         select from pg_namespace n where n.nspname = 'awa' and n.oid = v_namespace and n.nspowner = v_schema_owner
       ) then
      raise exception using errcode = '55000', message = 'code in schema awa has replaced what this installation made';
    end if;
    if exists (select from ({{template "temporary"}}) t where t.objid <> all (v_temporary)) then
      raise exception using errcode = '55000',
        message = 'code in schema awa has left temporary objects to this session',
        detail = 'They would run with its rights.',
        hint =
          format(
            'Nothing was changed. Find out who attached code to the tables: triggers, rules, policies, checks, '
            'expressions of indexes. It ran as %s.',
          v_as::regrole);
    end if;
    v_said := obj_description(to_regprocedure(format('awa.%I(jsonb)', v_name)), 'pg_proc');
    execute format('drop materialized view awa.%I', v_name);
    execute format('drop function awa.%I(jsonb)', v_name);
{{end}}
