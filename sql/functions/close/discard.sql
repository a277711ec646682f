-- Ends a job whatever attempts are left; returns the state that followed: failed or dead.
-- It is dead where the queue keeps dead letters, else failed.
-- Locks: the claim, shared, until the transaction ends.
-- Raises JQ001, 22023; 55P03, 40001 as complete does.
create or replace function awa.discard(
  job_id bigint,
  receipt bigint,
  error text,
  details jsonb default null
) returns text
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
declare
  v_closed record;
begin
  if error is null then
    perform awa._refuse('error must not be null', null,
      'Say why it should not be tried again, in a text that is read in awa.jobs.');
  end if;
  if details is not null then
    perform awa._json_bytes('details', details, most => 65536);
  end if;
  v_closed := awa._close(job_id, receipt, 'failed', looks_up => true);
  return awa._record_failures(v_closed.attempts, array[error], null, details, final => true,
    leased => v_closed.materialized);
end
$$;
comment on function awa.discard is
  'Ends a job whatever attempts are left; returns the state that followed: failed or dead';
