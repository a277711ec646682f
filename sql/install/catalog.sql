-- A hash of the schema, without the things that its owner may tune: storage parameters of tables, plain indexes,
-- targets of statistics, comments.
-- $1: objects that are left out. $2: whether without OIDs, which differ after pg_upgrade and after a restore. That
-- locks the tables that the views read, for a moment; otherwise nothing is locked.
select md5(string_agg(o.text, E'\n' order by o.text collate "C"))
  from (
    select concat_ws(' ', 'schema', n.nspowner::regrole,
             (select string_agg(a::text, ' ' order by a::text collate "C") from unnest(n.nspacl) a)) as text
      from pg_namespace n where n.nspname = 'awa'
    union all
    select concat_ws(' ', p.oid::regprocedure, p.prokind, p.proowner::regrole,
             (select l.lanname from pg_language l where l.oid = p.prolang), p.prosecdef, p.proleakproof, p.proisstrict,
             p.proretset, p.provolatile, p.proparallel, p.prorettype::regtype, p.proargmodes,
             p.proargnames,
             case when $2 then pg_get_expr(p.proargdefaults, 0) else p.proargdefaults::text end, p.prosrc, p.probin,
             case when $2 then pg_get_function_sqlbody(p.oid) else p.prosqlbody::text end, p.proconfig,
             (select string_agg(a::text, ' ' order by a::text collate "C") from unnest(p.proacl) a))
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'awa' and p.oid <> all ($1)
    union all
    select concat_ws(' ', c.relname, c.relkind, c.relpersistence, c.relispartition, c.relrowsecurity,
             c.relforcerowsecurity, c.relowner::regrole,
             case when c.relkind = 'v' or c.relispartition then c.reloptions end,
             (select string_agg(a::text, ' ' order by a::text collate "C") from unnest(c.relacl) a),
             (
               select string_agg(concat_ws(' ', a.attname,
                          (select string_agg(i::text, ' ' order by i::text collate "C") from unnest(a.attacl) i)),
                        ' ' order by a.attnum)
                 from pg_attribute a
                where a.attrelid = c.oid and a.attacl is not null
             ),
             (
               select string_agg(md5(concat_ws(' ', r.rulename, r.ev_enabled,
                          case when $2 then pg_get_ruledef(r.oid) else r.ev_action::text end)), ' ' order by r.rulename)
                 from pg_rewrite r
                where r.ev_class = c.oid
             ),
             (
               select string_agg(concat_ws(' ', p.polname, p.polcmd, p.polroles::regrole[],
                          case when $2 then pg_get_expr(p.polqual, c.oid) else p.polqual::text end,
                          case when $2 then pg_get_expr(p.polwithcheck, c.oid) else p.polwithcheck::text end),
                 ' ' order by p.polname)
                 from pg_policy p
                where p.polrelid = c.oid
             ),
             (
               select string_agg(concat_ws(' ', t.tgname, t.tgenabled, t.tgtype, t.tgfoid::regprocedure),
                 ' ' order by t.tgname)
                 from pg_trigger t
                where t.tgrelid = c.oid and not t.tgisinternal
             ),
             (
               select string_agg(concat_ws(' ', t.stxnamespace::regnamespace, t.stxname, t.stxkeys,
                          case when $2 then pg_get_statisticsobjdef(t.oid) else t.stxexprs::text end), ' '
                        order by t.stxnamespace::regnamespace::text, t.stxname)
                 from pg_statistic_ext t
                where t.stxrelid = c.oid
             ),
             (
               select string_agg(concat_ws(' ', k.castsource::regtype, k.casttarget::regtype, k.castfunc::regprocedure,
                        k.castcontext, k.castmethod), ' ' order by k.castsource::regtype::text,
                        k.casttarget::regtype::text)
                 from pg_type y
                 join pg_cast k on k.castsource in (y.oid, y.typarray) or k.casttarget in (y.oid, y.typarray)
                where y.oid = c.reltype
             ))
      from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'awa' and c.oid <> all ($1)
       -- The schema in which a materialized view is filled while this runs, from PostgreSQL 17 on.
       and c.relname !~ '^pg_temp_[0-9]+$'
       and not exists (
         select
           from pg_index i
          where i.indexrelid = c.oid
            and i.indexprs is null and i.indpred is null and 16384 > all (i.indclass::oid[])
       )
  ) o
