-- Puts one attempt off whose failure the server refuses to store; returns when the job runs again.
-- A foreign trigger or constraint does not take the row. The job is scheduled anew. The attempt counts while others are
-- left, and the error is kept in the job's errors, in an element that has put_off. The first time in a row it waits for
-- a minute, then twice as long each time, up to an hour.
-- Locks: the claim, shared, until the transaction ends.
-- Raises JQ001, 22023; 55P03, 40001 as complete does.
create or replace function awa.put_off(job_id bigint, receipt bigint, error text) returns timestamptz
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
      'Say what was refused, and why, in a text that is read in awa.jobs.');
  end if;
  v_closed := awa._close(job_id, receipt, 'snoozed', looks_up => true);
  return awa._put_off(v_closed.attempts, error, leased => v_closed.materialized);
end
$$;
comment on function awa.put_off is
  'Puts one attempt off whose failure the server refuses to store; returns when the job runs again';
