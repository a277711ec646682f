-- Registers a worker process: its claims live as long as it sends heartbeats. Raises 22023.
create or replace function awa.register_worker(name text, queues text[] default null, info jsonb default null) returns bigint
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
  insert into awa.workers (name, queues, info) values (name, queues, info) returning workers.worker_id into v_worker_id;
  return v_worker_id;
end
$$;
comment on function awa.register_worker is 'Registers a worker process and returns its id';
