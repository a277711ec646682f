with expected as (
  select e.* from jsonb_to_recordset($1::jsonb -> 'relations') e(name text, kind text, options text[])
), relations as (
  select c.*, format('awa.%I', c.relname) as name
    from pg_class c
   where c.relnamespace = (select n.oid from pg_namespace n where n.nspname = 'awa')
)
select 'critical' as level, format('awa.%I', e.name) as subject, 'is missing' as message,
       case e.kind
         when 'view' then 'Run awa migrate.'
         else 'Create it again as in sql/migrations, or restore a backup.'
       end as hint
  from expected e
 where not exists (select from relations c where c.relname = e.name)
union all
select 'critical', c.name, 'is detached from its table',
       'Rows for it are refused: attach it again (alter table ... attach partition).'
  from expected e join relations c on c.relname = e.name
 where e.kind = 'partition' and not c.relispartition
union all
select 'critical', c.name, 'is unlogged: a crash empties it', format('alter table %s set logged;', c.name)
  from relations c
 where c.relpersistence = 'u' and c.relkind = 'r'
union all
select 'critical', c.name, 'is invalid: what needs it reads the whole table',
       format('reindex index concurrently %s;', c.name)
  from relations c join pg_index i on i.indexrelid = c.oid
 where not (i.indisvalid and i.indisready)
union all
select 'warning', c.name, format('is without %s', string_agg(o.option, ', ')),
       format('alter table %s set (%s);', c.name, string_agg(o.option, ', '))
  from expected e
  join relations c on c.relname = e.name
 cross join unnest(e.options) o(option)
  left join pg_class t on t.oid = c.reltoastrelid
 where case
   when o.option like 'toast.%' then t.oid is not null and not coalesce(substr(o.option, 7) = any (t.reloptions), false)
   else not coalesce(o.option = any (c.reloptions), false)
 end
 group by c.name
union all
select 'warning', c.name, 'is not vacuumed',
       format('It has rows that change: alter table %s reset (autovacuum_enabled);', c.name)
  from expected e join relations c on c.relname = e.name
 where c.relkind = 'r'
   and e.kind <> 'partition'
   and c.reloptions && array['autovacuum_enabled=off', 'autovacuum_enabled=false']
union all
select 'critical', format('trigger %s on %s', e.name, c.name),
       case when t.oid is null then 'is missing' else 'is disabled' end,
       case
         when t.oid is null then 'Run awa migrate.'
         else format('alter table %s enable trigger %s;', c.name, e.name)
       end
  from jsonb_to_recordset($1::jsonb -> 'triggers') e(name text, "table" text)
  join relations c on c.relname = e.table
    or c.oid in (select i.inhrelid from pg_inherits i join relations p on p.oid = i.inhparent where p.relname = e.table)
  left join pg_trigger t on t.tgrelid = c.oid and t.tgname = e.name
 where t.oid is null or t.tgenabled not in ('O', 'A')
union all
select 'critical', m.object, format('belongs to extension %s: pg_dump leaves it out, with its rows', m.extension),
       m.cure
  from (
{{members}}
  ) m
union all
select 'warning', f.object, 'is none of Awa''s',
       case
         when f.kind = 'publication'
           then 'Its owner decides what it sends, and can stop updates: drop it, or let a superuser own it.'
         when f.cure is null then 'Left by another version, or put there: drop it, or move it to another schema.'
         else 'Run awa migrate, which drops it.'
       end
  from (
{{foreign}}
  ) f
 where f.kind <> 'own publication'
 order by level, subject
