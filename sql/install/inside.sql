{{- /* Code that runs inside the schema, as its owner: bodies of the function of as_owner.sql. */ -}}
{{- /* An answer, as JSON, for who called it. */ -}}
{{define "say"}}  execute format('comment on function awa.%I(jsonb) is %L', $1 ->> 'name', v_said);
  return true;{{end}}
{{define "read"}}
declare
  v_said jsonb;
begin
  select jsonb_build_object('version', s.version, 'functions', s.functions, 'role_prefix', s.role_prefix, 'tables',
           to_jsonb(s) -> 'tables', 'views', s.views, 'routines', s.routines)
    into v_said
    from awa.schema_version s;
{{template "say"}}
end
{{end}}
{{- /* A function as the catalog has it, but for its owner and its grants. */ -}}
{{define "made"}}md5((to_jsonb(p) - '{proowner,proacl}'::text[])::text){{end}}
{{define "made_of"}}(
          select string_agg({{template "made"}}, ' ' order by p.oid)
            from pg_proc p
           where p.pronamespace = v_namespace and p.proname = v_object.name
        ){{end}}
{{define "look"}}
declare
  v_version jsonb;
  v_table text;
  v_rows boolean;
  v_jobs text[] := '{}';
  v_said jsonb;
begin
  if ($1 -> 'version')::boolean then
    select jsonb_build_object('version', s.version, 'functions', s.functions, 'role_prefix', s.role_prefix)
      into v_version
      from awa.schema_version s;
  end if;
  for v_table in select jsonb_array_elements_text($1 -> 'tables') loop
    execute format('select exists (select from awa.%I%s)', v_table,
      case v_table when 'schedules' then ' where removed_at is null' end) into v_rows;
    if v_rows then
      v_jobs := v_jobs || format('awa.%I', v_table);
    end if;
  end loop;
  v_said := coalesce(v_version, '{}') || jsonb_build_object('jobs', v_jobs);
{{template "say"}}
end
{{end}}
{{- /* The part before the functions' package. */ -}}
{{define "prepare"}}  -- The table of the version says before all else whose roles these are: the grants read it.
  if not exists (select from pg_class c where c.relnamespace = v_namespace and c.relname = 'schema_version') then
    create table awa.schema_version (
      only_row    boolean primary key default true check (only_row),
      version     int not null,
      functions   text not null,
      role_prefix text not null,
      tables      text,
      views       jsonb not null default '{}',
      routines    jsonb not null default '{}'
    );
    comment on table awa.schema_version is 'The version that is installed, in one row';
    comment on column awa.schema_version.only_row is 'True: the table has one row';
    comment on column awa.schema_version.version is 'The number of the last migration';
    comment on column awa.schema_version.functions is 'The version of the functions';
    comment on column awa.schema_version.role_prefix is 'The beginning of the names of the roles';
    comment on column awa.schema_version.tables is 'A hash of the migrations that were run';
    comment on column awa.schema_version.views is
      'Hashes of the text of each view, and of what the catalog made of it, so that what is as it was is not locked';
    comment on column awa.schema_version.routines is
      'The same of each function and procedure, so that sessions do not compile anew what is as it was';
    insert into awa.schema_version (version, functions, role_prefix) values (0, '0', v_prefix);
  end if;
  -- Triggers, rules and policies that this version does not have go, also those of an older one.
  for v_command in execute format('select f.cure from (%s) f where f.cure is not null', c_foreign) using c_expected loop
    execute v_command;
  end loop;
  update awa.schema_version set role_prefix = v_prefix, functions = c_version;

  -- Functions that this version does not have, or not in this form, go, with the objects of the schema that depend on
  -- them: those are made again. Objects elsewhere that depend on them are their owners'.
  select array_agg(distinct p.oid) into v_gone
    from pg_proc p
   where p.pronamespace = v_namespace and p.oid <> all (v_ours)
     and not exists (
           select
             from jsonb_to_recordset(c_functions) f(name text, names text[], types text[], defaults int, result text)
            where f.name = p.proname
              and array(
               select to_regtype(t.name)::oid from unnest(f.types) with ordinality t(name, n) order by t.n
             ) = coalesce(p.proallargtypes, array(select unnest(p.proargtypes)))
              and f.names = coalesce(p.proargnames, '{}') and f.defaults >= p.pronargdefaults
              and (
                f.result = ''
                  or format('%s%s', case when p.proretset then 'setof ' end, p.prorettype::regtype) = format('%s%s',
                    substring(f.result from '^setof '), to_regtype(replace(f.result, 'setof ', '')))
              ));
  if v_gone <> '{}' then
    with recursive gone(classid, objid) as (
      select 'pg_proc'::regclass::oid, g from unnest(v_gone) g
      union
      select case when r.oid is null then d.classid else 'pg_class'::regclass end, coalesce(r.ev_class, d.objid)
        from gone g
        join pg_depend d on d.refclassid = g.classid and d.refobjid = g.objid
        left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
    )
    select string_agg(o.object, ', ' order by o.object),
           (select string_agg(p.oid::regprocedure::text, ', ' order by p.oid::regprocedure::text)
              from pg_proc p
             where p.oid = any (v_gone))
      into v_problem, v_holders
      from gone g
      cross join lateral pg_describe_object(g.classid, g.objid, 0) o (object)
     where v_namespace is distinct from case g.classid
             when 'pg_proc'::regclass then (select p.pronamespace from pg_proc p where p.oid = g.objid)
             when 'pg_class'::regclass then (select c.relnamespace from pg_class c where c.oid = g.objid)
             when 'pg_type'::regclass then (select t.typnamespace from pg_type t where t.oid = g.objid)
             when 'pg_trigger'::regclass
               then (select c.relnamespace from pg_trigger t join pg_class c on c.oid = t.tgrelid where t.oid = g.objid)
           end;
    if v_problem is not null then
      raise exception using errcode = '2BP01',
        message = 'objects of others depend on what this version changes or no longer has',
        detail = format('%s: needed by %s.', v_holders, v_problem),
        hint = 'Nothing was changed. Drop them, install, and create them again on what there is then.';
    end if;
    for v_command in
      select format('drop routine if exists %s cascade', p.oid::regprocedure) from pg_proc p where p.oid = any (v_gone)
    loop
      execute v_command;
    end loop;
  end if;

{{range .Migrations}}  if v_before < {{.Number}} then
    execute $awa_code${{.SQL}}$awa_code$;
  end if;
{{end}}
{{end}}
{{- /* Which of the views that were recorded as they should be are: answers, and ends. A view is compared with one of
       the same text, which is undone. */ -}}
{{define "compare_views"}}  for v_object in
    select p.* from (values
{{range $i, $p := .Views}}{{if $i}},
{{end}}      ('{{$p.Name}}', $awa_code${{$p.Query}}$awa_code$){{end}}
    ) p(name, query)
     where p.name <> all (v_changed)
  loop
    v_now := null;
    begin
      execute format('create view awa.%I as %s', $1 ->> 'name' || '_view', v_object.query);
      v_now := pg_get_viewdef(format('awa.%I', $1 ->> 'name' || '_view')::regclass);
      raise exception 'undone';
    exception when others then
      null;
    end;
    if (
      select pg_get_viewdef(c.oid) = v_now
         and e.options = array(select o from unnest(c.reloptions) o order by o collate "C")
        from pg_class c
        join jsonb_to_recordset(c_relations) e(name text, options text[]) on e.name = c.relname
       where c.relnamespace = v_namespace and c.relname = v_object.name
    ) is not true then
      v_differ := v_differ || v_object.name;
    end if;
  end loop;
  v_said := jsonb_build_object('kept', v_same, 'changed', v_differ);
{{template "say"}}
{{end}}
{{define "inside"}}
declare
  c_schema constant int := {{.Schema}};
  c_version constant text := '{{.Version}}';
  c_sources constant text := '{{.Hash}}';
  c_functions constant jsonb := $awa_code${{.FunctionsJSON}}$awa_code$;
  c_relations constant jsonb := $awa_code${{.RelationsJSON}}$awa_code$;
  c_foreign constant text := $awa_code${{.ForeignQuery}}$awa_code$;
  c_expected constant jsonb := jsonb_build_object('relations', c_relations, 'triggers',
    $awa_code${{.TriggersJSON}}$awa_code$::jsonb);
  c_catalog constant text := $awa_code${{.CatalogQuery}}$awa_code$;
  v_before constant int := $1 ->> 'before';
  v_prefix constant text := $1 ->> 'role_prefix';
  v_changed constant text[] := array(select jsonb_array_elements_text($1 -> 'changed'));
  v_namespace constant oid := 'awa'::regnamespace;
  -- The function that this runs in is no part of the installation.
  v_ours constant oid[] := array_remove(array[to_regprocedure(format('awa.%I(jsonb)', $1 ->> 'name'))::oid,
    to_regclass(format('awa.%I', $1 ->> 'name'))::oid],
    null);
  v_catalog text;
  v_text text; -- without OIDs
  v_gone oid[];
  v_kept constant text[] := array(select jsonb_array_elements_text($1 -> 'kept'));
  -- Only to tell which of the functions and views that were recorded as they should be are: the schema's owner may
  -- change the record. Before others have to wait for a lock.
  v_compare constant boolean := coalesce(($1 ->> 'compare')::boolean, false);
  v_same text[] := '{}';
  v_differ text[] := v_changed;
  v_now text;
  v_said jsonb;
  v_object record;
  v_problem text;
  v_command text;
  v_holders text;
begin
  if not v_compare then
{{template "prepare" .}}  end if;

  -- Functions, views and triggers; and the rest of the functions' package. A view or function that is as it should be
  -- is left alone.
  for v_object in
    select p.* from (values
{{range $i, $p := .Pieces}}{{if $i}},
{{end}}      ({{$i}}, '{{$p.Kind}}', '{{$p.Name}}', '{{$p.Hash}}', $awa_code${{$p.SQL}}$awa_code$){{end}}
    ) p(n, kind, name, hash, code)
     where case
             when v_compare then p.kind = 'routine' and format('%s %s', p.name, p.hash) = any (v_kept)
             else format('%s %s', p.name, p.hash) <> all (v_kept)
               or not exists (select from pg_proc r where r.pronamespace = v_namespace and r.proname = p.name)
           end
     order by p.n
  loop
    if v_compare then
      v_now := null;
      begin
        execute v_object.code;
        v_now := {{template "made_of"}};
        raise exception 'undone';
      exception when others then
        null; -- other sessions never hear of it
      end;
      if v_now = {{template "made_of"}} then
        v_same := v_same || format('%s %s', v_object.name, v_object.hash);
      end if;
    elsif v_object.kind <> 'view'
      or v_object.name = any (v_changed)
      or not exists (select from pg_class c where c.relnamespace = v_namespace and c.relname = v_object.name) then
      execute v_object.code;
    end if;
  end loop;
  if v_compare then
{{template "compare_views" .}}  end if;

  select string_agg(c.oid::regclass::text, ', ') into v_command
    from pg_class c
   where c.relnamespace = v_namespace
     and c.relkind = 'v'
     and not exists (select from jsonb_to_recordset(c_relations) e(name text) where e.name = c.relname);
  if v_command is not null then
    execute format('drop view %s', v_command);
  end if;

  execute c_catalog into v_catalog using v_ours, false;
  execute c_catalog into v_text using v_ours, true;
  update awa.schema_version s
     set version = c_schema, functions = c_version, tables = '{{.Fingerprint}}',
         views = (select jsonb_object_agg(p.view, jsonb_build_array(p.hash, md5(concat(r.ev_action, c.reloptions))))
                    from (values {{range $i, $p := .Views}}{{if $i}},
                      {{end}}('{{$p.Name}}', '{{$p.Hash}}'){{end}}) p(view, hash)
                    join pg_class c on c.relnamespace = v_namespace and c.relname = p.view
                    join pg_rewrite r on r.ev_class = c.oid),
         routines = (select jsonb_object_agg(e.name,
                              case
                                when format('%s %s', e.name, e.hash) = any (v_kept) then s.routines -> e.name
                                else jsonb_build_array(e.hash, {{template "made"}})
                              end)
                       from (values {{range $i, $p := .Routines}}{{if $i}},
                         {{end}}('{{$p.Name}}', '{{$p.Hash}}'){{end}}) e(name, hash)
                       join pg_proc p on p.pronamespace = v_namespace and p.proname = e.name);
  -- A comment, which everybody can read without touching anything of the schema: so nothing is done, or locked, where
  -- nothing was changed. The last hashes are of the rows of the catalog, owners and grants included.
  execute format('comment on schema awa is %L', format('Awa %s, schema version %s, roles %s, sources %s, catalog %s %s',
    c_version, c_schema, v_prefix, c_sources, v_catalog, v_text));
  return true;
end
{{end}}
