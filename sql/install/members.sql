{{- /* Objects of the schema that are members of an extension. Takes nothing, returns extension, object and cure. */ -}}
{{define "members"}}select e.extname as extension, pg_describe_object(d.classid, d.objid, 0) as object,
       format('alter extension %I drop %s %s;', e.extname, i.type, i.identity) as cure
  from pg_depend d
  join pg_extension e on d.refclassid = 'pg_extension'::regclass and e.oid = d.refobjid
 cross join lateral pg_identify_object(d.classid, d.objid, 0) i
 where d.deptype = 'e'
   and (d.classid = 'pg_namespace'::regclass and i.name = 'awa' or i.schema = 'awa'){{end}}
{{define "no_members"}}
    -- pg_dump leaves out the members of an extension, with their rows: a backup would have no jobs. And nobody can drop
    -- them.
    select string_agg(m.object, ', '), string_agg(m.cure, ' ') into v_command, v_holders
      from ({{template "members"}} order by e.extname, object limit 5) m;
    if v_command is not null then
      raise exception using errcode = '55000', message = 'schema awa, or something in it, belongs to an extension',
        detail = format('These do, at least: %s. pg_dump leaves them out, with their rows.', v_command),
        hint = format('Nothing was changed. Take them out of the extension first: %s', v_holders);
    end if;
{{end}}
