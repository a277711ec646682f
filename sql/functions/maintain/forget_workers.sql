-- The row that forget_workers returns: how many workers it removed.
create or replace view awa.forget_workers_row as select c.claim_id as forgotten from awa.lease_claims c where false;
comment on view awa.forget_workers_row is
  'The row that forget_workers returns: how many workers it removed. The view itself is always empty';

-- Removes workers that have been silent for an hour and have no open attempt; returns how many.
-- Also removes the rows of removed workers: lost attempts that heartbeat would have returned, and notifications that
-- all other listeners have read. A worker's silence counts only up to the last call of rescue, which notes the times in
-- which the server was down. Safe to call from anywhere, as often as one likes.
-- Locks: the rows that it removes. Skips rows that others hold.
-- Raises JQ004, 55000.
create or replace function awa.forget_workers() returns setof awa.forget_workers_row
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
declare
  v_now timestamptz := awa._maintained_at();
  v_forgotten bigint;
begin
  perform awa._check_pass(null);
  -- A worker with attempts may have a lease that is longer than its silence.
  with gone as (
    delete from awa.workers w
     where w.worker_id = any(array(
       select w.worker_id from awa.workers w
        cross join lateral awa._is_overdue(w.heartbeat_at + interval '1 hour', null, interval '1 hour', w.worker_id,
           v_now) o(is_overdue)
        where o.is_overdue
          and not exists (select from awa.leases l where l.worker_id = w.worker_id)
          and not exists (
           select
             from awa._open_items o
            where o.queue_id = any(array(select q from awa._busy_queues() q)) and o.worker_id = w.worker_id
         )
          for update of w skip locked))
    returning 1
  )
  select count(*) into v_forgotten from gone;
  delete from awa.lost_attempts h
   where (h.worker_id, h.receipt) in (
     select r.worker_id, r.receipt from awa.lost_attempts r
      where not exists (select from awa.workers w where w.worker_id = r.worker_id)
        for update skip locked);
  perform pg_notification_queue_usage(); -- moves the tail of the server's queue, which only a listener does otherwise
  perform awa._note_success('forget_workers');
  return query select v_forgotten;
end
$$;
comment on function awa.forget_workers is
  'Removes workers that have been silent for an hour and have no open attempt; returns how many';
