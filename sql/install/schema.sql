{{- /*
  Whoever could create in a schema may have done so in a transaction that has not ended: nobody sees that, and for
  functions no lock tells. What it creates stays in the schema that it was created in. So where a schema gets to another
  owner, all of Awa goes into a new one, and the old one is dropped.
*/ -}}
{{define "published"}}
    select string_agg(format('alter publication %I add tables in schema awa;', p.pubname), ' ') into v_cure
      from pg_publication_namespace n
      join pg_publication p on p.oid = n.pnpubid
     where n.pnnspid = v_namespace;
    if v_cure is not null then
      raise warning 'schema awa is a new one: publications that had the old one lose it'
        using hint = format('If that is not meant: %s', v_cure);
    end if;
{{end}}
{{- /* A schema that was made beforehand, and is empty. */ -}}
{{define "empty"}}
  if v_before = 0 and v_namespace is not null and has_database_privilege(current_database(), 'create')
     and (v_schema_owner <> v_owner or case
            when c_with = '' then pg_has_role(v_owner, 'member')
            else pg_has_role(v_owner, 'set')
          end) then
{{template "published"}}    v_left := v_namespace;
    v_locks := array['drop schema awa'];
{{template "lock"}}    v_namespace := null;
  end if;
{{end}}
{{- /* Code of one role's does not become another's. */ -}}
{{define "foreign_first"}}
    execute format('select string_agg(f.object, '', '') from (%s) f', c_foreign) into v_problem using c_expected;
    if v_problem is not null then
      raise exception using errcode = '55000',
        message = format('there are things in schema awa that are none of Awa''s, and it would become %s''s',
          v_owner::regrole),
        detail = format('They are: %s.', v_problem),
        hint =
          'Nothing was changed. What runs code there would run it as that role. Drop them, or move them elsewhere, and '
          'run this again.';
    end if;
{{end}}
{{- /* What is to be done, besides locks, to move an installation into a new schema of the owner's. */ -}}
{{define "moves"}}{{template "published"}}    v_left := v_namespace;
    v_locks := v_locks
      || format('alter schema awa rename to %I', v_name)
      || format('create schema awa authorization %s', v_owner::regrole)
      || array(
        select format('alter %s %I.%I set schema awa',
          case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end, v_name, c.relname)
          from pg_class c
         where c.relnamespace = v_namespace
           and c.relkind in ('r', 'p', 'v', 'S')
           and not exists (
            select
              from pg_depend d
             where d.objid = c.oid and d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i') and c.relkind = 'S'
          )
         order by c.oid
      )
      || array(
        select format('alter routine %I.%I(%s) set schema awa', v_name, p.proname,
          pg_get_function_identity_arguments(p.oid))
          from pg_proc p
         where p.pronamespace = v_namespace
      )
      || format('drop schema %I', v_name);
{{end}}
