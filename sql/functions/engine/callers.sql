-- Callers are known by the login of the session, since the functions run as their owner.

-- Whether the session's login, or another role, may call a function, by itself or after set role.
create or replace function awa._may_call(function regproc, role name default session_user) returns boolean
language sql stable
as $$
  select coalesce(bool_or(pg_has_role(role, a.grantee, 'member')), false)
    from pg_proc p
   cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
   where p.oid = function and a.grantee <> 0
$$;
comment on function awa._may_call is
  'Whether the session''s login, or another role, may call a function, by itself or after set role';

-- Whether the session's login, or another role, may act as an operator, by itself or after set role.
-- Why: operators are the roles that may call drop_queue. So the names of the installation's roles do not matter, nor
-- whether there are any.
create or replace function awa._is_operator(role name default session_user) returns boolean
language sql stable
as $$ select awa._may_call('awa.drop_queue', role) $$;
comment on function awa._is_operator is
  'Whether the session''s login, or another role, may act as an operator, by itself or after set role';

-- The role that owns a source of schedules; null where no role does, or it is gone.
-- Why: by its OID, since another role may have its name by now. In a database that was restored from another server,
-- whose roles have other OIDs, by its name, until rebase_after_restore has run.
create or replace function awa._owner_of(source awa.schedule_sources) returns oid
language sql stable
as $$
select r.oid
  from pg_roles r
 where case when awa._is_restored() then r.rolname = source.owner else r.oid = source.owner_id end
$$;
comment on function awa._owner_of is
  'The role that owns a source of schedules; null where no role does, or it is gone';

-- Notes by their OIDs on this server which roles own sources of schedules, in a database that was restored.
create or replace function awa._own_sources() returns void
language sql
as $$
update awa.schedule_sources s set owner_id = awa._owner_of(s)
$$;
comment on function awa._own_sources is
  'Notes by their OIDs on this server which roles own sources of schedules, in a database that was restored';

-- Refuses maintenance by force to a login that is no operator.
-- Raises 42501.
create or replace function awa._check_force(force boolean) returns void
language plpgsql
as $$
begin
  if force and not awa._is_operator() then
    raise exception using errcode = '42501', message = 'force is for operators',
      detail = format('This session is of %s.', session_user),
      hint = 'Leave force out, or call this as a member of the role of operators, awa_operator by default.';
  end if;
end
$$;
comment on function awa._check_force is 'Refuses maintenance by force to a login that is no operator';

-- Refuses the use of a worker to another login.
-- The worker is for the login that registered it, and for members of the role that was named then. The caller has seen
-- that this is another login.
-- Raises 42501.
create or replace function awa._check_login(worker_id bigint, registered_by text, member_of text) returns void
language plpgsql
as $$
begin
  if pg_has_role(session_user, to_regrole(quote_ident(member_of)), 'member') is not true then
    raise exception using errcode = '42501', message = 'the worker was registered by another login',
      detail = format('Worker %s was registered by %s%s; this session is of %s.', worker_id, registered_by,
        ' for members of ' || member_of, session_user),
      hint =
        'Register a worker of your own. For logins that change, name a role at register_worker (member_of) of which '
        'all of them are members.';
  end if;
end
$$;
comment on function awa._check_login is 'Refuses the use of a worker to another login';
