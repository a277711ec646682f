{{- /* A look at a glance: in the catalog alone, without a lock, by whoever may look there. */ -}}
{{define "done"}}if v_granted is not null then -- it was only to look
            execute format('revoke %s from current_user', v_granted::regrole);
          end if;
          perform set_config('awa.installed',
            json_build_object('before', v_before, 'after', v_before, 'functions', v_functions, 'newer', {{.}},
              'changed', false, 'role', current_user, 'role_prefix', v_prefix,
              'shared', exists (select from pg_roles r where r.rolname = v_prefix || 'producer'))::text, false);{{end}}
{{- /* Who can install over what is there, for a hint. */ -}}
{{define "installers"}}(
              select case
                       when r.rolcanlogin then format('Run this as %s or as a superuser.', r.oid::regrole)
                       else format('Let a superuser run awa {{.}}%s. Grant %s to no login of a program: its members '
                         'can read and change everything.',
                         (select ', or a role that installs: ' || string_agg(m.member::regrole::text, ', ')
                            from (select distinct a.member from pg_auth_members a where a.roleid = r.oid) m),
                         r.oid::regrole)
                     end
                from pg_roles r
               where r.oid = v_schema_owner){{end}}
{{define "newer"}}
        -- An older program never replaces newer functions.
        if v_before > c_schema
          or string_to_array(v_functions, '.')::int[] > string_to_array(c_version, '.')::int[] then
          if (string_to_array(v_functions, '.')::int[])[1] <> (string_to_array(c_version, '.')::int[])[1]
             or (
               string_to_array(v_functions, '.')::int[]
             )[2] > (string_to_array(c_version, '.')::int[])[2] + 1 then
            raise exception using errcode = '55000',
              message =
                format('the database has Awa %s (schema version %s), too new for this program, which brings %s (%s)',
                v_functions, v_before, c_version, c_schema),
              detail = 'A program works with the functions of its own version, and of the next one.',
              hint = 'Use a newer program.';
          end if;
          raise warning 'the database has Awa % (schema version %), newer than this program''s % (%)',
            v_functions, v_before, c_version, c_schema
            using detail = 'It stays as it is; programs of this version work with it.',
              hint = 'Use newer programs, too.';
          {{template "done" "true"}}
          return;
        end if;
{{end}}
{{define "glance"}}
    -- The schema's comment, as the last installation has left it. It is believed only where the schema belongs to the
    -- owner's role, and the caller has to do with these roles; or where it belongs to the caller, who can't have it
    -- shared. The second time, the findings of the first one count.
    v_is_ours := false;
    select regexp_match(obj_description(n.oid, 'pg_namespace'), '^Awa ([0-9.]{1,20}), schema version ([0-9]{1,6}), '
             'roles ([a-z0-9_]{1,50}), sources ([0-9a-f]{32}), catalog ([0-9a-f]{32}) ([0-9a-f]{32})$'), n.nspowner
      into v_glance, v_schema_owner
      from pg_namespace n
     where n.nspname = 'awa';
    v_prefix := v_glance[3];
    v_owner_role := (select r.oid from pg_roles r where r.rolname = v_prefix || 'owner');
    if coalesce(v_asked, v_prefix) = v_prefix
       and (case
             when v_look = 2 then v_schema_owner = v_owner
             when v_schema_owner = v_owner_role
               then pg_has_role(v_owner_role, 'member with admin option')
                 or exists (select from unnest(c_roles) e(role) join pg_roles r on r.rolname = v_prefix || e.role
                             where pg_has_role(r.oid, 'member'))
             else pg_has_role(v_schema_owner, 'usage') and not v_may_create
               and coalesce(not pg_has_role(v_owner_role, 'usage'), true)
           end) then
      v_before := v_glance[2];
      v_functions := v_glance[1];
{{template "newer"}}
      v_is_ours := v_before = c_schema and v_glance[4] = c_sources;
      execute c_catalog into v_catalog using '{}'::oid[], false;
      v_as_it_was := v_catalog = v_glance[5];
      if v_is_ours and not v_as_it_was then
        execute c_catalog into v_catalog using '{}'::oid[], true;
        v_as_it_was := v_catalog = v_glance[6];
      end if;
      if v_is_ours and v_as_it_was
         -- An installer that may make roles, or grant what the owner needs, makes up for what another installer could
         -- not.
         and (v_look = 2 or not v_may_create
              or not exists (select from unnest(c_roles) e(role)
                              where not exists (select from pg_roles r where r.rolname = v_prefix || e.role)))
         and (v_look = 2 or not v_super or pg_has_role(v_schema_owner, 'pg_read_all_stats', 'usage')) then
        if v_look = 1 and v_schema_owner = v_owner_role and pg_has_role(v_owner_role, 'usage') then
{{template "elsewhere"}}          if v_elsewhere is not null then
{{template "serves"}}          end if;
        end if;
        {{template "done" "false"}}
        return;
      end if;
    end if;
{{end}}
