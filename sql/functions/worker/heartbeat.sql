-- What heartbeat returns.
create or replace view awa.lost_attempt as
select e.job_id, c.claim_id as receipt, e.kind as reason from awa.ready_entries e, awa.lease_claims c where false;
comment on view awa.lost_attempt is 'The row that heartbeat returns. The view itself is always empty';

-- Says that a worker is alive. Returns the attempts that are no longer its own and that it should stop: none yet, since nothing takes
-- an attempt from a worker that is registered. Raises 22023 when the worker is not registered (any more).
create or replace function awa.heartbeat(worker_id bigint) returns setof awa.lost_attempt
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
  update awa.workers w set heartbeat_at = clock_timestamp() where w.worker_id = worker_id;
  if not found then
    perform awa._refuse('worker_id must be a registered worker', worker_id::text, 'Call register_worker again.');
  end if;
end
$$;
comment on function awa.heartbeat is 'Says that a worker is alive; returns the attempts that it lost';
