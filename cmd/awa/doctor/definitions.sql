-- Body of a function in PL/pgSQL. The server keeps views, and functions in standard SQL, only as it has parsed them. So
-- this program's text is parsed, too, and the results are compared. Objects that were made for that are rolled back.
declare
  c_schema constant text := case when has_schema_privilege('awa', 'create') then 'awa' else 'pg_temp' end;
  v record;
  v_same boolean;
begin
  for v in select d.* from jsonb_to_recordset($1) d(topic text, subject text, kind text, name text, code text) loop
    begin
      if v.kind = 'view' then
        execute format('create view %I._doctor as %s', c_schema, v.code);
        v_same := pg_get_viewdef(v.subject::regclass) = pg_get_viewdef(format('%I._doctor', c_schema)::regclass);
        execute format('drop view %I._doctor', c_schema);
      else
        execute format('create function %I._doctor%s', c_schema, v.code);
        v_same := pg_get_function_sqlbody(v.subject::regprocedure)
          = replace(pg_get_function_sqlbody(format('%I._doctor', c_schema)::regproc), '_doctor.', v.name || '.');
        execute format('drop function %I._doctor', c_schema);
      end if;
      if v_same is not true then
        return next jsonb_build_object('level', 'warning', 'topic', v.topic, 'subject', v.subject, 'message',
          'is not this program''s', 'hint',
          'Run awa migrate, and where that finds nothing to do, once more after: comment on schema awa is null. Put '
          'changes of your own in views and functions of your own.');
      end if;
    exception when undefined_table or undefined_function or undefined_column or undefined_object then
      return next jsonb_build_object('level', ''); -- other checks tell which
    end;
  end loop;
end
