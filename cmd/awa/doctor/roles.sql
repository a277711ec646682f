with schema as (
  select n.* from pg_namespace n where n.nspname = 'awa'
), named as (
  select substring(r.rolname from '^(.*)owner$') as prefix from schema s join pg_roles r on r.oid = s.nspowner
   where not r.rolcanlogin
      or exists (select from pg_roles p where p.rolname = substring(r.rolname from '^(.*)owner$') || 'producer')
), prefix as (
  -- The table of the version knows it, but is not read here. The owner's name tells it; or the grants, where the
  -- functions run as the role that installed them. Without grants it is installed for that role alone.
  select coalesce((select n.prefix from named n),
           (
             select substring(r.rolname from '^(.*)producer$')
               from schema s, aclexplode(s.nspacl) a
               join pg_roles r on r.oid = a.grantee
              where r.rolname ~ 'producer$'
              order by 1
              limit 1
           )) as prefix
), roles as (
  select e.role as name, p.prefix || e.role as role, r.oid
    from prefix p
   cross join jsonb_array_elements_text($1::jsonb -> 'roles') e(role)
    left join pg_roles r on r.rolname = p.prefix || e.role
   where p.prefix is not null
), functions as (
  select p.*, p.oid::regprocedure::text as name
    from pg_proc p
   where p.pronamespace = (select n.oid from pg_namespace n where n.nspname = 'awa')
), relations as (
  select c.*, format('awa.%I', c.relname) as name from pg_class c
   where c.relnamespace = (select n.oid from pg_namespace n where n.nspname = 'awa')
     and c.relkind in ('r', 'p', 'v', 'S')
     -- others are named with the tables
     and c.relname in (select e.name from jsonb_to_recordset($1::jsonb -> 'relations') e(name text))
), owner as (
  select mode() within group (order by f.proowner) as oid from functions f
), objects as (
  select 'schema' as kind, 'awa' as name, 'awa' as relation, n.nspowner as owner, n.nspacl as acl from schema n
  union all
  select 'routine', f.name, f.proname, f.proowner, coalesce(f.proacl, acldefault('f', f.proowner))
    from functions f
  union all
  select case c.relkind when 'S' then 'sequence' else 'table' end, c.name, c.relname, c.relowner, c.relacl
    from relations c
  union all
  select 'table', format('%s.%I', c.name, a.attname), '', c.relowner, a.attacl
    from relations c
    join pg_attribute a on a.attrelid = c.oid and a.attacl is not null
), granted as (
  select r.oid, g.kind, g.name
    from jsonb_to_recordset($1::jsonb -> 'grants') g(role text, kind text, name text)
    join roles r on r.name = g.role
)
select 'warning' as level, r.role as subject, 'does not exist' as message,
       'Run awa migrate as a role that may create roles.' as hint
  from roles r
 where r.oid is null and exists (select from roles o where o.oid is not null)
union all
select 'ok', '', format('Awa is installed for %s alone', o.oid::regrole), ''
  from owner o
 where not exists (select from roles r where r.oid is not null)
union all
select 'warning', '', format('the functions run as %s, not as %s', o.oid::regrole, r.role),
       format('Run awa migrate as a member of %s.', r.role)
  from owner o
  join roles r on r.name = 'owner' and r.oid <> o.oid
union all
select 'critical', b.name, format('belongs to %s, functions to %s', b.owner::regrole, o.oid::regrole),
       case
         when b.kind = 'schema'
           then format('If it was restored alone (pg_restore --schema awa), before awa migrate: alter schema awa owner '
             'to %s;', o.oid::regrole)
         else 'Run awa migrate as a member of both.'
       end
  from owner o
  join objects b on b.owner <> o.oid
union all
select 'warning', o.role, 'is a superuser, as which everybody''s calls run',
       format('alter role %I nosuperuser;', o.role)
  from roles o join pg_roles r on r.oid = o.oid
 where o.name = 'owner' and r.rolsuper
union all
select 'warning', o.role, 'can log in, and then read and change everything', format('alter role %I nologin;', o.role)
  from roles o join pg_roles r on r.oid = o.oid
 where o.name = 'owner' and r.rolcanlogin
union all
select case when not bool_or(m.reads) and m.installs then 'ok' else 'warning' end, o.role,
       case
         when bool_or(m.reads) then format('has the member %s, who can read and change everything', m.member::regrole)
         when m.installs then format('can be granted by %s, who may install, also to itself', m.member::regrole)
         else format('can be granted by %s, also to itself', m.member::regrole)
       end,
       case
         when bool_or(m.reads)
           then format('When nothing is to be installed: revoke %I from %s cascade;', o.role, m.member::regrole)
         else format('Unless it installs: revoke %I from %s cascade;', o.role, m.member::regrole)
       end
  from roles o
  join (
    -- From PostgreSQL 16 on a member may be one that only grants, as its creator is.
    select m.roleid, m.member,
           coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, true)
             or coalesce((to_jsonb(m) ->> 'set_option')::boolean, true) as reads,
           -- It made the role when it installed, and can't give that up: the server has granted it.
           r.rolcreaterole and has_database_privilege(r.oid, current_database(), 'create') as installs
      from pg_auth_members m
      join pg_roles r on r.oid = m.member
  ) m on m.roleid = o.oid
 where o.name = 'owner'
 group by o.role, m.member, m.installs
union all
-- Members of the owner, and roles that may become one, are named already.
select 'warning', o.role, format('can be granted by %s, also to itself', m.member::regrole),
       format('Unless that is meant: revoke %I from %s cascade;', o.role, m.member::regrole)
  from roles o
  join pg_auth_members m on m.roleid = o.oid and m.admin_option
  join pg_roles r on r.oid = m.member and not r.rolsuper
 where o.name <> 'owner'
   and m.member not in (
     select w.member from roles p join pg_auth_members w on w.roleid = p.oid where p.name = 'owner'
   )
 group by o.role, m.member
union all
select 'warning', o.oid::regrole::text,
       'may not see the snapshots of others: a segment is kept until their sessions end',
       format('As a superuser: grant pg_read_all_stats to %s;', o.oid::regrole)
  from owner o
 where not pg_has_role(o.oid, 'pg_read_all_stats', 'usage')
union all
select case when b.kind = 'schema' and a.privilege_type = 'USAGE' then 'warning' else 'critical' end, b.name,
       format('is open to %s (%s)', case a.grantee when 0 then 'everybody' else a.grantee::regrole::text end,
         string_agg(a.privilege_type || case when a.is_grantable then ', to be passed on' else '' end,
           ', ' order by a.privilege_type)),
       'Run awa migrate.'
  from objects b
 cross join aclexplode(b.acl) a
 where a.grantee <> b.owner
   and (a.is_grantable
        or not exists (select from granted g
                        where g.oid = a.grantee
                          and case b.kind
                            when 'schema' then a.privilege_type = 'USAGE'
                            when 'routine' then g.kind = 'function' and g.name = b.relation
                            else g.kind = 'relation' and g.name = b.relation and a.privilege_type = 'SELECT'
                          end))
 group by b.kind, b.name, a.grantee,
          case when b.kind = 'schema' and a.privilege_type = 'USAGE' then 'warning' else 'critical' end
union all
select 'warning', 'awa', format('can''t be used by %s', r.role), 'Run awa migrate.'
  from roles r
 where r.name <> 'owner' and r.oid is not null and not has_schema_privilege(r.oid, 'awa', 'usage')
union all
select 'warning', f.name, format('can''t be called by %s', r.role), 'Run awa migrate.'
  from jsonb_to_recordset($1::jsonb -> 'grants') g(role text, kind text, name text)
  join roles r on r.name = g.role and r.oid is not null
  join functions f on f.proname = g.name and g.kind = 'function'
 where not has_function_privilege(r.oid, f.oid, 'execute')
union all
select 'warning', c.name, format('can''t be read by %s', r.role), 'Run awa migrate.'
  from jsonb_to_recordset($1::jsonb -> 'grants') g(role text, kind text, name text)
  join roles r on r.name = g.role and r.oid is not null
  join relations c on c.relname = g.name and g.kind = 'relation'
 where not has_table_privilege(r.oid, c.oid, 'select')
 order by level, subject, message
