-- A function whose body is in standard SQL (return ...) is kept as a parse tree, without its text: of these, all but
-- the body is compared. Of defaults: how many there are, and whether they call what none of Awa's do.
with expected as (
  select e.*, format('awa.%s(%s)', e.name, array_to_string(e.types, ', ')) as signature,
         array(select to_regtype(t.name)::oid from unnest(e.types) with ordinality t(name, n) order by t.n) as oids
    from jsonb_to_recordset($1::jsonb -> 'functions') e(name text, names text[], types text[], defaults int,
      result text, attributes text[], settings text[], body text)
), installed as (
  select p.*, p.oid::regprocedure::text as signature,
         coalesce(p.proallargtypes, array(select unnest(p.proargtypes))) as oids,
         (select array_agg(a order by a)
            from unnest(
              array[case when p.prosecdef then 'security definer' end, case when p.proisstrict then 'strict' end,
                case p.proparallel when 's' then 'parallel safe' when 'r' then 'parallel restricted' end,
                   case p.provolatile when 'i' then 'immutable' when 's' then 'stable' end]) a
           where a is not null) as attributes,
         -- a body in standard SQL depends on Awa's objects
         exists (
           select
             from pg_depend d
            cross join lateral pg_identify_object(d.refclassid, d.refobjid, 0) i
            where d.classid = 'pg_proc'::regclass
              and d.objid = p.oid
              and d.refobjid >= 16384
              and d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
              and i.schema <> 'awa'
         )
           or exists (
             select
               from regexp_matches(p.proargdefaults::text, ':(?:funcid|opfuncid|elemfuncid) (\d+)', 'g') m
               join pg_proc f on f.oid = m[1]::oid
              where f.provolatile <> 'i' and f.proname not in ('now', 'clock_timestamp')
           ) as calls
    from pg_proc p
   where p.pronamespace = (select n.oid from pg_namespace n where n.nspname = 'awa')
), compared as (
  select e.name, p.proname, coalesce(p.signature, e.signature) as signature,
         array_to_string(array[
           case when p.prosrc <> coalesce(e.body, '') or (p.prosqlbody is null) <> (e.body is not null) then 'body' end,
           case when coalesce(p.proargnames, '{}') <> e.names then 'names of arguments' end,
           case when p.pronargdefaults <> e.defaults or p.calls then 'defaults' end,
           case when e.result <> '' and format('%s%s', case when p.proretset then 'setof ' end, p.prorettype::regtype)
                <> format('%s%s', substring(e.result from '^setof '),
                  to_regtype(replace(e.result, 'setof ', ''))) then 'result' end,
           case when coalesce(p.attributes, '{}') <> e.attributes then 'attributes' end,
           case
             when coalesce((select array_agg(c order by c) from unnest(p.proconfig) c), '{}') <> e.settings
               then 'settings'
           end],
           ', ') as differences
    from expected e
    full join installed p on p.proname = e.name and p.oids = e.oids
)
select 'critical' as level, c.signature as subject, 'is missing' as message, 'Run awa migrate.' as hint 
  from compared c
 where c.proname is null
union all
select 'warning', c.signature, format('is not this program''s: %s', c.differences),
       'Run awa migrate, and where that finds nothing to do, once more after: comment on schema awa is null. Put '
       'changes of your own in functions of your own.'
  from compared c
 where c.differences <> '' and c.proname is not null and c.name is not null
union all
select 'warning', c.signature, 'is none of Awa''s',
       'Left by another version, or put there: move it to another schema. awa migrate drops what is there when it '
       'changes anything.'
  from compared c
 where c.name is null
 order by level, subject
