-- Sets the progress of an attempt.
-- awa.jobs shows it; the next attempt gets it, if this one fails; and it is cleared when the job completes. Null clears
-- it. The attempt gets a row of its own in leases, if it has none.
-- Locks: that row, and before it has one the claim, shared, until the transaction ends.
-- Raises JQ001, 22023; 55P03, 40001 as complete does.
create or replace function awa.set_progress(job_id bigint, receipt bigint, progress jsonb) returns void
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
  v_bytes int := coalesce(awa._json_bytes('progress', progress), 0);
begin
  perform awa._lock_lease(job_id, receipt);
  update awa.leases l
     set progress = progress,
         body_bytes = l.body_bytes - coalesce(awa._json_bytes('progress', l.progress), 0) + v_bytes
   where l.receipt = receipt;
end
$$;
comment on function awa.set_progress is 'Sets the progress of an attempt';
