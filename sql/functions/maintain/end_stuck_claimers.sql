-- The row that end_stuck_claimers returns: how many sessions it ended.
create or replace view awa.end_stuck_claimers_row as select c.claim_id as ended from awa.lease_claims c where false;
comment on view awa.end_stuck_claimers_row is
  'The row that end_stuck_claimers returns: how many sessions it ended. The view itself is always empty';

-- Ends sessions that hold a queue and do not read the jobs that they claimed; returns how many.
-- A session is ended after ten seconds in which its client has read nothing, where the owner of this function may end
-- it (pg_signal_backend). health names the others. Safe to call from anywhere, as often as one likes.
-- Raises JQ004, 55000.
create or replace function awa.end_stuck_claimers() returns setof awa.end_stuck_claimers_row
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
  v_ended bigint;
begin
  perform awa._check_pass(null);
  select count(*) filter (where e.is_ended) into v_ended
    from (
      select pg_terminate_backend(c.pid) as is_ended
        from awa._stuck_claimers c
        join pg_roles u on u.oid = c.usesysid
        join pg_roles me on me.rolname = current_user
       where (me.rolsuper or not u.rolsuper)
         and (pg_has_role(u.oid, 'usage') or pg_has_role('pg_signal_backend', 'usage'))
      offset 0
    ) e;
  perform awa._note_success('end_stuck_claimers');
  return query select v_ended;
end
$$;
comment on function awa.end_stuck_claimers is
  'Ends sessions that hold a queue and do not read the jobs that they claimed; returns how many';
