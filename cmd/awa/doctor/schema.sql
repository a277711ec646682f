-- The content of awa.schema_version, once it is sure that it is a table.
select case when v.version is null then 'critical' when v.version = e.schema then 'ok' else 'warning' end as level,
       'schema' as subject,
       case
         when v.version is null then 'awa.schema_version has lost its row'
         when v.version = e.schema then format('version %s', v.version)
         else format('version %s, this program brings %s', v.version, e.schema)
       end as message,
       case
         when v.version is null
           then 'Left out of a dump, say. Restore the row: awa migrate needs it when something is to be done.'
         when v.version < e.schema then 'Run awa migrate.'
         when v.version > e.schema then 'Use a newer awa.'
         else ''
       end as hint
  from jsonb_to_record($1::jsonb) e(schema int)
  left join awa.schema_version v on true
union all
select 'critical', 'tables', 'they are those of another Awa that was not released',
       'Remove it with the program that installed it, and install anew: awa uninstall, awa migrate.'
  from awa.schema_version v, jsonb_to_record($1::jsonb) e(schema int, fingerprint text)
 where v.version = e.schema and to_jsonb(v) ->> 'tables' is distinct from e.fingerprint
