-- What rescue returns.
create or replace view awa.rescue as select c.claim_id as rescued from awa.lease_claims c where false;
comment on view awa.rescue is 'The row that rescue returns: how many attempts it ended. The view itself is always empty';

-- Ends attempts that are overdue, at most max_jobs, as failed: the attempt counts, and the job runs again after its backoff, or ends. An attempt is overdue when its deadline is over; or its lease, unless its worker
-- sent a heartbeat that is younger than the lease is long. Also forgets workers that have been silent for an hour, and, where the owner of this function may (pg_signal_backend), ends sessions that hold a
-- queue because their clients have not read what they claimed for ten seconds.
-- Safe to call from anywhere, as often as one likes.
-- Locks: their claims, where it can have them at once, or their lease rows; skips those that somebody is answering for. Raises 22023, JQ004.
create or replace function awa.rescue(max_jobs int default 1000) returns setof awa.rescue
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
set lock_timeout = 0
as $$
#variable_conflict use_variable
declare
  v_max int := coalesce(max_jobs, 1000);
  v_now timestamptz := clock_timestamp();
  v_receipts bigint[];
  v_late bigint[];
begin
  perform awa._check_pass(max_jobs);
  perform pg_terminate_backend(c.pid)
     from awa._stuck_claimers c
     join pg_roles u on u.oid = c.usesysid
     join pg_roles me on me.rolname = current_user
    where (me.rolsuper or not u.rolsuper) and (pg_has_role(u.oid, 'usage') or pg_has_role('pg_signal_backend', 'usage'));
  perform awa._fold();
  v_receipts := array(
    select l.receipt
      from awa.leases l
     where awa._is_overdue(l.lease_until, l.deadline_at, l.lease, l.worker_id, v_now)
     order by l.receipt
     limit v_max
       for update skip locked);
  if cardinality(v_receipts) < v_max then
    v_receipts := v_receipts || awa._take_open(array(
      select o.receipt from awa._open_items o where awa._is_overdue(o.lease_until, o.deadline_at, o.lease_until - o.claimed_at, o.worker_id, v_now)),
      v_max - cardinality(v_receipts), 'failed');
  end if;

  select array_agg(a.receipt) into v_late from awa._attempts(v_receipts) a where a.deadline_at <= v_now;
  v_late := coalesce(v_late, '{}');
  perform awa._lose(v_late, 'deadline exceeded');
  perform awa._lose(array(select r from unnest(v_receipts) r where r <> all(v_late)), 'lease expired');
  perform awa._record_failures(v_receipts,
    array(select case when r = any(v_late) then 'deadline exceeded' else 'lease expired' end from unnest(v_receipts) with ordinality u(r, n) order by n), null, null);

  -- One that has attempts left may have a lease that is longer than its silence.
  delete from awa.workers w
   where w.worker_id = any(array(
     select w.worker_id from awa.workers w
      where w.heartbeat_at < v_now - interval '1 hour'
        and not exists (select from awa.leases l where l.worker_id = w.worker_id)
        and not exists (select from awa._open_items o where o.worker_id = w.worker_id)
        for update skip locked));
  delete from awa.heartbeat_replies h
   where (h.worker_id, h.receipt) in (
     select r.worker_id, r.receipt from awa.heartbeat_replies r
      where not exists (select from awa.workers w where w.worker_id = r.worker_id)
        for update skip locked);
  return query select cardinality(v_receipts)::bigint;
end
$$;
comment on function awa.rescue is 'Ends attempts that are overdue, as failed; returns how many';

-- Whether an attempt's time is over.
create or replace function awa._is_overdue(lease_until timestamptz, deadline_at timestamptz, lease interval, worker_id bigint, now timestamptz) returns boolean
language sql stable
return deadline_at <= now
    or lease_until <= now
       and (select w.heartbeat_at + lease > now from awa.workers w where w.worker_id = _is_overdue.worker_id) is not true;
comment on function awa._is_overdue is 'Whether an attempt''s time is over';
