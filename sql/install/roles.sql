{{- /* The roles of an installation. They belong to the server: another database may have made them. */ -}}
{{define "bad_prefix"}}({{.}} !~ '^[a-z_][a-z0-9_]*$' or {{.}} ~ '^pg_' or length({{.}}) > 50){{end}}
{{define "mark"}}'Awa: made by an installation of it'{{end}}
{{define "inherit"}}case c_with
                when '' then 'Let somebody who may say: alter role %1$I inherit.'
                else 'Let somebody who may say: grant %2$s to %1$I with inherit true, set true.'
              end{{end}}
{{define "elsewhere"}}        select string_agg(d.datname, ', ' order by d.datname) into v_elsewhere
          from pg_database d
         where d.datname <> current_database()
           and exists (
            select
              from pg_shdepend s
             where s.dbid = d.oid
               and s.refclassid = 'pg_authid'::regclass
               and s.refobjid = v_owner_role
               and s.deptype = 'o'
          );
{{end}}
{{define "serves"}}          raise warning 'the roles of Awa (%...) serve other databases, too', v_prefix
            using detail =
              format('Roles belong to the server. A member of %sproducer may enqueue, and so on, in each of: %s, %s.',
              v_prefix, current_database(), v_elsewhere),
                  hint =
                    'Keep roles out of databases by: revoke connect on database ... from public. Or install with roles '
                    'of its own: --role-prefix, for psql -v role_prefix=...';
{{end}}
{{define "roles"}}
      -- First they are made, then looked at: an installation in another database that makes them just now is waited
      -- for, and seen.
      perform set_config('lock_timeout', greatest(1, ceil(extract(epoch from v_wait) * 1000))::text, true);
      foreach v_role in array c_roles loop
        continue when exists (select from pg_roles r where r.rolname = v_prefix || v_role);
        if not v_may_create then
          v_missing := v_prefix || v_role;
          exit;
        end if;
        begin
          execute format('create role %I nologin', v_prefix || v_role);
          execute format('comment on role %I is %L', v_prefix || v_role, {{template "mark"}});
        exception when duplicate_object or unique_violation then
          null; -- made by an installation in another database, just now
        end;
      end loop;
      perform set_config('lock_timeout', v_lock_timeout, true);
      select r.oid, shobj_description(r.oid, 'pg_authid') is not distinct from {{template "mark"}} into v_owner_role,
             v_marked
        from pg_roles r
       where r.rolname = v_prefix || 'owner';
      if v_owner_role is not null then
        if (
          select r.rolsuper or r.rolcanlogin and v_schema_owner is distinct from r.oid
            from pg_roles r
           where r.oid = v_owner_role
        ) then
          raise exception using errcode = '55000',
            message = format('the role %s is there, and is none of Awa''s', v_owner_role::regrole),
            detail = 'It is a superuser, or can log in. Everybody''s calls would run with its rights.',
            hint =
              'Choose roles of Awa''s own: --role-prefix app_awa_, for psql -v role_prefix=app_awa_. Or alter that '
              'role: nosuperuser, nologin.';
        end if;
        -- Objects that are there may hold code of their present owner's: they do not become another role's.
        if v_before > 0 and v_schema_owner <> v_owner_role and not v_marked then
          raise exception using errcode = '55000',
            message = format('the role %s is there, and was not made by Awa', v_owner_role::regrole),
            detail = format('Schema awa belongs to %s. What was put there would run with the rights of %s.',
              v_schema_owner::regrole, v_owner_role::regrole),
            hint = format('If that role is meant for Awa: comment on role %s is %L. Otherwise rename it.',
              v_owner_role::regrole, {{template "mark"}});
        end if;
        -- Two first installations at once, in two databases, meet here, where the roles are there already: one waits
        -- for the other's end, and sees then what that role owns.
        while v_schema_owner is distinct from v_owner_role
          and not (select r.rolcanlogin from pg_roles r where r.oid = v_owner_role) loop
          begin
            perform set_config('lock_timeout',
              greatest(1, ceil(extract(epoch from v_began + v_wait - clock_timestamp()) * 1000))::text, true);
            execute format('alter role %s nologin', v_owner_role::regrole);
            exit;
          exception
            when insufficient_privilege then
              exit; -- nor may this role make itself a member
            when internal_error then
              if clock_timestamp() > v_began + v_wait + '1 second' then
                raise;
              end if; -- otherwise once more: another transaction has changed the role ("tuple concurrently updated")
            when lock_not_available then
              raise exception using errcode = '55P03',
                message = format('others are in the way: role %s has not become free within %s', v_owner_role::regrole,
                  v_wait),
                detail = 'An installation in another database is under way, or somebody changes the role.',
                hint = 'Nothing was changed. Try again when it has ended.';
          end;
        end loop;
        perform set_config('lock_timeout', v_lock_timeout, true);
{{template "elsewhere"}}        if v_elsewhere is not null
          and (
            v_namespace is not null and v_schema_owner = v_owner_role or v_super or pg_has_role(v_owner_role, 'usage')
          ) then
{{template "serves"}}        elsif v_elsewhere is not null then
          raise exception using errcode = '55000',
            message = format('the role %s owns things in other databases', v_owner_role::regrole),
            detail =
              format(
                'They are in: %s. To install here, %s would have to become a member of it, and so could read and '
                'change all there.',
              v_elsewhere, current_user),
            hint = 'Choose roles of this database''s own: --role-prefix app_, for psql -v role_prefix=app_.';
        end if;
        -- A member from when the roles were another database's, which is gone, would read and change all here.
        if v_before = 0 then
          select string_agg(m.member::regrole::text, ', ' order by m.member::regrole::text) into v_members
            from pg_auth_members m join pg_roles r on r.oid = m.member
           where m.roleid = v_owner_role and m.member <> v_me and not r.rolsuper
             -- from PostgreSQL 16 on, its creator is a member that is neither
             and (
               coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, true)
                 or coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)
             );
          if v_members is not null and v_super then
            raise warning 'the role % has members: %', v_owner_role::regrole, v_members
              using detail = 'They can read and change everything here.',
                hint =
                  format(
                    'Unless that is meant: revoke %s from %s cascade. Or install with roles of its own: --role-prefix, '
                    'for psql -v role_prefix=...',
                  v_owner_role::regrole, v_members);
          elsif v_members is not null then
            raise exception using errcode = '55000',
              message = format('the role %s has members: %s', v_owner_role::regrole, v_members),
              detail = 'They could read and change everything here.',
              hint =
                format(
                  'Let somebody who may say: revoke %s from %s cascade. Or choose roles of this database''s own: '
                  '--role-prefix app_, for psql -v role_prefix=app_.',
                v_owner_role::regrole, v_members);
          end if;
        end if;
      end if;
      -- From PostgreSQL 16 on, whoever has made the owner beforehand is no member, but may become one.
      select string_agg(distinct r.oid::regrole::text, ', ') into v_others
        from pg_auth_members m join pg_roles r on r.oid = m.member
       where m.roleid = v_owner_role and m.admin_option and m.member <> v_me and not r.rolsuper
         and not exists (
           select
             from pg_auth_members o
            where o.roleid = m.roleid
              and o.member = m.member
              and (
                coalesce((to_jsonb(o) ->> 'inherit_option')::boolean, true)
                  or coalesce((to_jsonb(o) ->> 'set_option')::boolean, true)
              )
         );
      if v_others is not null then
        raise warning 'the role % can be granted by: %', v_owner_role::regrole, v_others
          using detail = 'Also to themselves. Its members can read and change everything here.',
            hint = format('Unless they install: revoke %s from %s cascade.', v_owner_role::regrole, v_others);
      end if;
      -- So with the other roles. Members of the owner, and roles that may become one, may do all of that anyhow.
      select string_agg(distinct format('%s by %s', m.roleid::regrole, m.member::regrole), ', '),
             string_agg(distinct format('revoke %s from %s cascade;', m.roleid::regrole, m.member::regrole), ' ')
        into v_others, v_cure
        from unnest(c_roles) e(role)
        join pg_roles o on o.rolname = v_prefix || e.role and o.oid <> v_owner_role
        join pg_auth_members m on m.roleid = o.oid and m.admin_option and m.member <> v_me
        join pg_roles r on r.oid = m.member and not r.rolsuper
       where m.member not in (select w.member from pg_auth_members w where w.roleid = v_owner_role);
      if v_others is not null then
        raise warning 'roles of Awa can be granted by others: %', v_others
          using detail = 'Also to themselves, and to anybody.',
            hint = format('Unless that is meant: %s', v_cure);
      end if;
      select string_agg(r.rolname, ', ' order by r.rolname) into v_others
        from pg_roles r join unnest(c_roles) e(role) on r.rolname = v_prefix || e.role
       where shobj_description(r.oid, 'pg_authid') is distinct from {{template "mark"}};
      if v_others is not null and v_before = 0 then
        raise warning 'roles that Awa did not make are used: %', v_others
          using detail = 'Their members get Awa''s rights. Uninstalling leaves them.',
            hint =
              'If they are for something else, remove this installation, and choose roles of Awa''s own: '
              '--role-prefix, for psql -v role_prefix=...';
      end if;

      v_owner := coalesce(v_schema_owner, v_me);
      if v_missing is not null then
        raise warning 'awa is installed for % alone', v_owner::regrole
          using detail = format('Role %s does not exist, and %s may not create it.', v_missing, current_user),
            hint = 'To share it between roles, install once more as a role with CREATEROLE.';
      end if;
      if v_owner_role is not null then
        -- A role that has created the owner, or been there when it was created, may grant it to itself; before it does,
        -- it is at most its administrator.
        begin
          if not pg_has_role(v_owner_role, 'usage')
            or (case when c_with <> '' then not pg_has_role(v_owner_role, 'set') end) then
            execute format('grant %s to current_user%s', v_owner_role::regrole, c_with);
            v_granted := v_owner_role;
          end if;
          v_owner := v_owner_role;
        exception
          when insufficient_privilege then
            raise warning 'the functions of awa run as %', v_owner::regrole
              using detail = format('%s is not a member of %s, and may not become one.', current_user,
                v_owner_role::regrole),
                    hint = 'To have them run as a role that nobody can log in as, let a superuser run awa migrate.';
          when unique_violation then
            v_owner := v_owner_role; -- granted by another installation, just now
        end;
        if v_owner = v_owner_role and not pg_has_role(v_owner_role, 'usage') then
          raise exception using errcode = '42501',
            message = format('%s is a member of %s, but does not inherit its rights', current_user,
              v_owner_role::regrole),
            hint = format({{template "inherit"}}, current_user, v_owner_role::regrole);
        end if;
        -- To truncate a segment, the owner has to know how old the snapshots of others are.
        if v_owner = v_owner_role and not pg_has_role(v_owner_role, 'pg_read_all_stats', 'usage') then
          begin
            execute format('grant pg_read_all_stats to %s', v_owner_role::regrole);
          exception
            when insufficient_privilege then
              raise warning '% may not see the snapshots of other roles', v_owner_role::regrole
                using hint =
                  format(
                    'prune_oldest waits for their sessions to end. Let a superuser say: grant pg_read_all_stats to %s.',
                  v_owner_role::regrole);
            when unique_violation then
              null;
          end;
        end if;
      end if;
{{end}}