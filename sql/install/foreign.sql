-- Objects in schema awa, or on its tables, that are none of Awa's; functions apart. $1: relations and triggers of this
-- version, as JSON.
select f.*
  from (
    with relations as (
      select c.*, format('awa.%I', c.relname) as name, e.name is not null as ours
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'awa'
        left join jsonb_to_recordset($1::jsonb -> 'relations') e(name text) on e.name = c.relname
    ), triggers as (
      select t.*, format('trigger %I on %s', t.tgname, c.name) as name,
             not exists (
               select from jsonb_to_recordset($1::jsonb -> 'triggers') e(name text, "table" text, function text)
                           join pg_proc p on p.oid = t.tgfoid
                            and p.pronamespace = c.relnamespace
                            and p.proname = e.function
                          where e.name = t.tgname
                            and e.table in (c.relname,
                              (
                                select p.relname
                                  from pg_inherits i
                                  join relations p on p.oid = i.inhparent
                                 where i.inhrelid = c.oid
                              ))) as foreign
        from relations c join pg_trigger t on t.tgrelid = c.oid
       where not t.tgisinternal
    ), expressions as (
      select 'pg_constraint'::regclass as class, k.oid, c.oid as relation,
             format('constraint %I on %s', k.conname, c.name) as name, k.conbin::text as tree, 0::oid as apart
        from relations c join pg_constraint k on k.conrelid = c.oid where k.contype = 'c'
      union all
      select 'pg_attrdef'::regclass, d.oid, c.oid, format('default of %s.%I', c.name, a.attname), d.adbin::text, 0
        from relations c
        join pg_attrdef d on d.adrelid = c.oid
        join pg_attribute a on a.attrelid = c.oid and a.attnum = d.adnum
      union all
      select 'pg_class'::regclass, i.indexrelid, c.oid, format('index awa.%I', x.relname),
             concat(i.indexprs::text, i.indpred::text), 0
        from relations c join pg_index i on i.indrelid = c.oid join pg_class x on x.oid = i.indexrelid
      union all
      select 'pg_class'::regclass, c.oid, c.oid, format('partition key of %s', c.name), k.partexprs::text, 0
        from relations c join pg_partitioned_table k on k.partrelid = c.oid
      union all
      select 'pg_trigger'::regclass, t.oid, t.tgrelid, t.name, t.tgqual::text, t.tgfoid
        from triggers t
       where not t.foreign
    )
    select 'relation' as kind,
           format('%s %s',
             case c.relkind
               when 'v' then 'view'
               when 'm' then 'materialized view'
               when 'S' then 'sequence'
               when 'f' then 'foreign table'
               when 'c' then 'type'
               else 'table'
             end,
             c.name) as object,
           c.oid as relation, null as cure
      from relations c
     where not c.ours
       and c.relkind not in ('i', 'I')
       and not exists (
        select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'i'
      )
    union all
    select 'index', format('index awa.%I on %s', x.relname, c.name), c.oid, null
      from relations c
      join pg_index i on i.indrelid = c.oid
      join pg_class x on x.oid = i.indexrelid
      left join relations o on o.oid = x.oid
     where c.ours and o.ours is not true
    union all
    select 'object', pg_describe_object(d.classid, d.objid, 0), null, null
      from pg_depend d join pg_namespace n on n.oid = d.refobjid and n.nspname = 'awa'
     where d.refclassid = 'pg_namespace'::regclass
       and d.classid not in ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_default_acl'::regclass,
         'pg_publication_namespace'::regclass, 'pg_statistic_ext'::regclass)
    union all
    -- Their expressions run when a query of the table is planned. They may be in any schema.
    select 'statistics', format('statistics %I.%I on %s', n.nspname, t.stxname, c.name), c.oid,
           format('drop statistics %I.%I', n.nspname, t.stxname)
      from relations c
      join pg_statistic_ext t on t.stxrelid = c.oid
      join pg_namespace n on n.oid = t.stxnamespace
    union all
    select 'cast', format('cast (%s as %s)', k.castsource::regtype, k.casttarget::regtype), null,
           format('drop cast (%s as %s)', k.castsource::regtype, k.casttarget::regtype)
      from pg_cast k
     where exists (
       select
         from relations c
         join pg_type t on t.oid = c.reltype
        where k.castsource in (t.oid, t.typarray) or k.casttarget in (t.oid, t.typarray)
     )
    union all
    select case when p.pubowner = c.relowner then 'own publication' else 'publication' end,
           format('publication %I of %s, with %s', p.pubname, p.pubowner::regrole, c.name), c.oid, null
      from relations c
      join pg_publication_rel r on r.prrelid = c.oid
      join pg_publication p on p.oid = r.prpubid
      join pg_roles o on o.oid = p.pubowner and not o.rolsuper
    union all
    select 'trigger', t.name, t.tgrelid, format('drop trigger %I on %s', t.tgname, t.tgrelid::regclass)
      from triggers t
     where t.foreign and t.tgparentid = 0
    union all
    select 'rule', format('rule %I on %s', r.rulename, c.name), c.oid, format('drop rule %I on %s', r.rulename, c.name)
      from relations c
      join pg_rewrite r on r.ev_class = c.oid
     where not (r.rulename = '_RETURN' and c.relkind in ('v', 'm'))
    union all
    select 'policy', format('policy %I on %s', p.polname, c.name), c.oid,
           format('drop policy %I on %s', p.polname, c.name)
      from relations c
      join pg_policy p on p.polrelid = c.oid
    union all
    select 'policy', format('row level security of %s', c.name), c.oid,
           format('alter table %s disable row level security, no force row level security', c.name)
      from relations c
     where c.relrowsecurity or c.relforcerowsecurity
    union all
    select 'child', format('table %s, which inherits from %s', i.inhrelid::regclass, c.name), c.oid, null
      from relations c
      join pg_inherits i on i.inhparent = c.oid
     where c.relkind in ('r', 'p') and i.inhrelid not in (select o.oid from relations o)
    union all
    select 'parent', format('table %s, of which %s inherits', i.inhparent::regclass, c.name), c.oid, null
      from relations c
      join pg_inherits i on i.inhrelid = c.oid
     where c.relkind in ('r', 'p') and i.inhparent not in (select o.oid from relations o)
    union all
    select 'constraint', format('constraint %I on %s', k.conname, k.conrelid::regclass), c.oid, null
      from relations c
      join pg_constraint k on c.oid in (k.conrelid, k.confrelid)
     where k.contype = 'f'
    union all
    select 'column', format('column %s.%I of type %s', c.name, a.attname, a.atttypid::regtype), c.oid, null
      from relations c
      join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and a.atttypid >= 16384
     where c.ours and c.relkind in ('r', 'p')
    union all
    -- The server has functions that run a text as a query, query_to_xml for one. None of them is immutable.
    select 'expression', format('%s calls a function that none of Awa''s calls', x.name), x.relation, null
      from expressions x
     where exists (select from pg_depend d
                    where d.classid = x.class
                      and d.objid = x.oid
                      and d.refobjid >= 16384
                      and d.refobjid <> x.apart
                      and d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass,
                        'pg_opclass'::regclass))
        or exists (
          select
            from regexp_matches(x.tree, ':(?:funcid|opfuncid|elemfuncid) (\d+)', 'g') m
            join pg_proc p on p.oid = m[1]::oid
                    where p.provolatile <> 'i'
                      and p.proname not in ('now', 'clock_timestamp', 'pg_current_xact_id', 'nextval'))
  ) f
