-- Fails one attempt; returns the state that followed: retryable, failed or dead.
-- The job runs again after a delay. When its attempts are used up it ends: as dead where the queue keeps dead letters,
-- else as failed. The delay is retry_after, or 2^attempt times the queue's backoff_base and up to a quarter more, at
-- most its backoff_max.
-- Locks: the claim, shared, until the transaction ends.
-- Raises JQ001, 22023; 55P03, 40001 as complete does.
create or replace function awa.fail(
  job_id      bigint,
  receipt     bigint,
  error       text,
  retry_after interval default null,
  details     jsonb default null
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
    perform awa._refuse('error must not be null', null, 'Say what went wrong, in a text that is read in awa.jobs.');
  end if;
  if details is not null then
    perform awa._json_bytes('details', details, most => 65536);
  end if;
  if not awa._fits(retry_after, '0', '10 years') then
    perform awa._check_delays(array[retry_after]);
  end if;
  v_closed := awa._close(job_id, receipt, 'failed', looks_up => true);
  return awa._record_failures(v_closed.attempts, array[error], array[retry_after], details,
    leased => v_closed.materialized);
end
$$;
comment on function awa.fail is 'Fails one attempt; returns the state that followed: retryable, failed or dead';
