-- Completes one attempt, inside the caller's transaction.
-- The job is completed if and when that transaction commits.
-- Locks: the claim, shared, until then.
-- Raises JQ001 when the attempt is not the caller's any more; 22023; 55P03 when another session holds the claim, or is
-- cancelling the job, for longer than claim_wait; and 40001 at REPEATABLE READ and above, against a close that the
-- snapshot cannot see.
create or replace function awa.complete(job_id bigint, receipt bigint, output jsonb default null) returns void
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
  v_attempts awa.leases[];
begin
  if output is not null then
    perform awa._json_bytes('output', output);
  end if;
  v_closed := awa._close(job_id, receipt, case when output is null then 'completed' else 'completed_with_row' end,
    looks_up => output is not null);
  if v_closed.materialized or v_closed.needs_row or v_closed.holds_keys then
    v_attempts := coalesce(nullif(v_closed.attempts, '{}'), awa._look_up(array[receipt], v_closed.segment));
    if v_closed.materialized or v_closed.needs_row then
      perform awa._end(v_attempts, 'completed', outputs => array[output],
        counted_by_closure => array[not v_closed.materialized]);
    end if;
    if v_closed.materialized or v_closed.holds_keys then
      perform awa._end_attempts(v_attempts, 'completed', leased => v_closed.materialized);
    end if;
  end if;
end
$$;
comment on function awa.complete is 'Completes one attempt, inside the caller''s transaction';
