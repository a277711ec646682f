-- The objects of an installation in the catalog, as JSON: see Catalog.
with schema as (
  select n.oid, pg_get_userbyid(n.nspowner) as owner from pg_namespace n where n.nspname = 'awa'
), relations as (
  select c.*, t.reloptions as toast_options,
         case
           when c.relispartition and c.relkind = 'r' then 'partition'
           when c.relkind in ('r', 'p') then 'table'
           when c.relkind = 'S' then 'sequence'
           when c.relkind = 'v' then 'view'
           else 'index'
         end as kind
    from pg_class c
    left join pg_class t on t.oid = c.reltoastrelid
   where c.relnamespace = (select s.oid from schema s)
     -- those of identity columns belong to their columns
     and not exists (
       select
         from pg_depend d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'i' and c.relkind = 'S'
     )
), functions as (
  select p.* from pg_proc p where p.pronamespace = (select s.oid from schema s)
), granted as (
  select a.grantee, 'function' as kind, p.proname as name
    from functions p, aclexplode(p.proacl) a
   where a.grantee <> p.proowner
  union
  select a.grantee, 'relation', c.relname from relations c, aclexplode(c.relacl) a where a.grantee <> c.relowner
)
select jsonb_build_object(
  'functions', (
    select jsonb_agg(jsonb_build_object('name', p.proname, 'names', coalesce(p.proargnames, '{}'),
             'types', array(
               select format_type(t, null)
                 from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) with ordinality a(t, n)
                order by a.n
             ),
             'defaults', p.pronargdefaults,
             'result', case
               when p.proallargtypes is null and p.prokind = 'f'
                 then format('%s%s', case when p.proretset then 'setof ' end, p.prorettype::regtype)
               else ''
             end,
             'attributes', array(
               select a
                 from unnest(array[case when p.prosecdef then 'security definer' end,
                   case when p.proisstrict then 'strict' end,
                   case p.proparallel when 's' then 'parallel safe' when 'r' then 'parallel restricted' end,
                   case p.provolatile when 'i' then 'immutable' when 's' then 'stable' end]) a
                where a is not null
                order by a collate "C"
             ),
             'settings', array(select c from unnest(p.proconfig) c order by c collate "C"))
             order by p.proname collate "C")
      from functions p
  ),
  'relations', (
    select jsonb_agg(jsonb_build_object('name', c.relname, 'kind', c.kind,
             -- of other tables, they are their owner's to choose
             'options', case
               when c.kind in ('partition', 'view')
                 then array(
                   select o
                     from unnest(c.reloptions || array(select 'toast.' || t from unnest(c.toast_options) t)) o
                    order by o collate "C"
                 )
               else '{}'
             end) order by c.relname collate "C")
      from relations c
  ),
  'triggers', (
    select jsonb_agg(jsonb_build_object('name', t.tgname, 'table', c.relname, 'function', p.proname)
             order by c.relname collate "C", t.tgname collate "C")
      from pg_trigger t
      join relations c on c.oid = t.tgrelid
      join pg_proc p on p.oid = t.tgfoid
     where t.tgparentid = 0 and not t.tgisinternal
  ),
  'grants', (
    select jsonb_agg(jsonb_build_object('role', substr(r.rolname, length(s.owner) - 4), 'kind', g.kind, 'name', g.name)
             order by g.name collate "C", g.kind collate "C", r.rolname collate "C")
      from granted g
      join pg_roles r on r.oid = g.grantee
     cross join schema s
  ))
