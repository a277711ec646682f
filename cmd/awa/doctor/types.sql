-- A text that has to do with columns of such a type may run code while it is parsed: a constant is read as that type,
-- a domain's check looks at it.
select 'warning' as level, format('%s.%I', c.oid::regclass, a.attname) as subject,
       format('is of type %s', a.atttypid::regtype) as message,
       'Awa''s are of types of the server. Find out who did it, and put back what was there.' as hint
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'awa'
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and a.atttypid >= 16384
 where c.relkind not in ('i', 'I')
 order by subject
