-- A relation that has the name of a table may be something else, which runs code that is not Awa's when it is read.
select 'critical' as level, format('awa.%I', c.relname) as subject,
       case
         when k.kinds is null then 'is neither a table, a view, a sequence nor an index'
         when c.relkind::text <> all (k.kinds) then format('is not a %s', e.kind)
         when c.relrowsecurity then 'has policies'
         else 'has a rule'
       end as message,
       'Reading it may run code of whoever made it. Find out who did, and put back what was there.' as hint
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'awa'
  join jsonb_to_recordset($1::jsonb -> 'relations') e(name text, kind text) on e.name = c.relname
  left join lateral (
    select case e.kind
      when 'table' then '{r,p}'
      when 'partition' then '{r}'
      when 'sequence' then '{S}'
      when 'index' then '{i,I}'
      when 'view' then '{v}'
    end::text[]
  ) k(kinds) on true
 where c.relkind::text <> all (k.kinds)
    or c.relrowsecurity
    or c.relkind <> 'v' and exists (select from pg_rewrite r where r.ev_class = c.oid)
 order by subject
