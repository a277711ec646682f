-- Extends the lease of one attempt to so long from now; returns when it ends.
-- A hard deadline stays. The attempt gets a row of its own in leases, if it has none.
-- Locks: that row, and before it has one the claim, shared, until the transaction ends.
-- Raises JQ001, 22023; 55P03, 40001 as complete does.
create or replace function awa.extend(job_id bigint, receipt bigint, lease interval) returns timestamptz
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_variable
declare
  v_until timestamptz;
begin
  if lease is null or not awa._fits(lease, '1 millisecond', '1 year') then
    perform awa._refuse('lease must be between 1 millisecond and 1 year', lease::text,
      'Say how long the attempt may go on from now.');
  end if;
  perform awa._lock_lease(job_id, receipt);
  update awa.leases l
     set lease = lease, lease_until = clock_timestamp() + lease
   where l.receipt = receipt
  returning l.lease_until into v_until;
  return v_until;
end
$$;
comment on function awa.extend is 'Extends the lease of one attempt to so long from now; returns when it ends';

-- Locks the lease row of an attempt, or makes one.
-- Locks: that row, and before it has one the claim, shared, until the transaction ends.
-- Raises JQ001; 55P03 when another transaction holds it for longer than claim_wait, and names the holder of the row.
create or replace function awa._lock_lease(job_id bigint, receipt bigint) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_wait text := awa._shorten_waits();
  v_closed record;
begin
  perform from awa.leases l where l.receipt = receipt and l.job_id = job_id for no key update skip locked;
  if not found and not awa._await_lease(job_id, receipt) then
    v_closed := awa._close(job_id, receipt, 'materialized', looks_up => true);
    if not v_closed.materialized then
      perform awa._lease(v_closed.attempts);
    end if;
  end if;
  perform set_config('lock_timeout', v_wait, true);
end
$$;
comment on function awa._lock_lease is 'Locks the lease row of an attempt, or makes one';
