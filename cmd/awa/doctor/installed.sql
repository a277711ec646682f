select 'critical' as level, '' as subject, format('Awa is not installed in database %s', current_database()) as message,
       'Run awa migrate there, or check the URL.' as hint
 where not exists (
    select
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = 'awa' and c.relname = 'ready_entries'
  )
