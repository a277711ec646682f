select md5(string_agg(o.text, E'\n' order by o.text collate "C"))
  from (
    select concat_ws(' ', 'schema', n.nspowner::regrole, n.nspacl) as text
      from pg_namespace n where n.nspname = 'awa'
    union all
    select concat_ws(' ', p.oid::regprocedure, p.prokind, p.proowner::regrole, p.prolang, p.prosecdef, p.proleakproof,
             p.proisstrict, p.proretset, p.provolatile, p.proparallel, p.prorettype::regtype, p.proargmodes,
             p.proargnames,
             p.proargdefaults, p.prosrc, p.probin, p.prosqlbody, p.proconfig, p.proacl)
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'awa' and p.oid <> all ($1)
    union all
    select concat_ws(' ', c.relname, c.relkind, c.relpersistence, c.relispartition, c.relrowsecurity,
             c.relforcerowsecurity, c.relowner::regrole, c.reloptions, c.relacl,
             (
               select string_agg(concat_ws(' ', a.attname, a.attacl), ' ' order by a.attnum)
                 from pg_attribute a
                where a.attrelid = c.oid and a.attacl is not null
             ),
             (
               select string_agg(md5(concat_ws(' ', r.rulename, r.ev_enabled, r.ev_action)), ' ' order by r.rulename)
                 from pg_rewrite r
                where r.ev_class = c.oid
             ),
             (
               select string_agg(concat_ws(' ', p.polname, p.polcmd, p.polroles, p.polqual, p.polwithcheck),
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
               select string_agg(concat_ws(' ', t.stxnamespace::regnamespace, t.stxname, t.stxkeys, t.stxexprs), ' '
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
  ) o
