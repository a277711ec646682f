{{- /* How an installation runs what it does inside the schema. */ -}}
{{define "declare_as_owner"}}  v_name constant text := format('_install_%s', pg_backend_pid());
  v_as oid;
  v_body text;
  v_arguments jsonb := '{}';
  v_said jsonb;
{{end}}
{{define "as_owner"}}
    -- Whoever may change the schema can attach code to anything in it, and has it run by whoever touches that: by triggers, rules, policies, defaults, checks, casts, expressions of indexes. Here it runs
    -- with the rights of the owner, which its author has anyhow: in a function that is the owner's (v_as), and that nobody else can see or replace before the transaction ends. That alone is not
    -- enough: such code could put off some of itself to the end of the transaction, by deferred triggers or cursors with hold, or leave a search_path to the session. So a materialized view calls the
    -- function, while which PostgreSQL refuses the first, and takes the second back.
    execute format('create function awa.%I(jsonb) returns jsonb language plpgsql security definer set search_path = pg_catalog, pg_temp as %L', v_name, v_body);
    if v_as <> v_me then
      execute format('alter function awa.%I(jsonb) owner to %s', v_name, v_as::regrole);
    end if;
    execute format('create materialized view awa.%I as select awa.%I(%L::pg_catalog.jsonb) as said', v_name, v_name, v_arguments);
    if not exists (select from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'said' and a.atttypid = 'jsonb'::regtype
                    where c.oid = to_regclass(format('awa.%I', v_name)) and c.relkind = 'm' and c.relowner = v_me) then
      raise exception using errcode = '55000', message = 'code in schema awa has replaced what this installation made';
    end if;
    -- Through text: a long value would be in the table of that view, which goes.
    execute format('select m.said::text::jsonb from awa.%I m', v_name) into v_said;
    execute format('drop materialized view awa.%I', v_name);
    execute format('drop function awa.%I(jsonb)', v_name);
{{end}}
