-- The function that returns the version is looked at, and not called.
-- Of another text the check of functions tells.
select case v.version when e.version then 'ok' else 'warning' end as level, 'functions' as subject,
       case v.version
         when e.version then format('version %s', v.version)
         else format('version %s, this program brings %s', v.version, e.version)
       end as message,
       case v.version when e.version then '' else 'Run awa migrate, or use a newer awa, whichever is older.' end as hint
  from jsonb_to_record($1::jsonb) e(version text)
  join lateral (
    select substring(p.prosrc from '^ *select ''([0-9.]+)'' *$') as version
      from pg_proc p
      join pg_namespace n on n.oid = p.pronamespace
     where n.nspname = 'awa' and p.proname = 'version' and p.pronargs = 0
  ) v on v.version <> ''
