-- Registers a worker process and returns its id.
-- Its claims live as long as it sends heartbeats. The id is for the login that registered it, and for members of the
-- role member_of: for logins that change while a process runs.
-- Raises 22023.
create or replace function awa.register_worker(
  name text,
  queues text[] default null,
  info jsonb default null,
  member_of text default null
) returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
  v_worker_id bigint;
begin
  perform awa._check_name('name', name);
  perform awa._check_array('queues', queues, 10000);
  perform awa._check_name('each element of queues', q) from unnest(queues) q;
  perform awa._json_bytes('info', info, most => 65536);
  if member_of is not null and pg_has_role(session_user, to_regrole(quote_ident(member_of)), 'member') is not true then
    perform awa._refuse('member_of must be a role of which this login is a member', member_of,
      format('Leave it out, or be granted the role: grant %I to %I.', member_of, session_user));
  end if;
  insert into awa.workers (name, queues, info, member_of)
  values (name, queues, info, member_of)
  returning workers.worker_id into v_worker_id;
  return v_worker_id;
end
$$;
comment on function awa.register_worker is 'Registers a worker process and returns its id';
