-- What rebase_after_restore returns.
create or replace view awa.rebase_after_restore as select c.claim_id as available, c.claim_id as running, c.claim_id as completed from awa.lease_claims c where false;
comment on view awa.rebase_after_restore is 'The row that rebase_after_restore returns: how many jobs of each state it has moved. The view itself is always empty';

-- Makes a database work again that was restored from a dump (pg_dump): the order of its jobs is in transaction ids, which have another meaning on this server, or will be used again. Live jobs get places from which they can be
-- claimed, in their order as far as this server has had enough transactions to tell so many places apart; open attempts go on, and keep their receipts; what completed gets rows of its own, until its retention is over. Does nothing in a
-- database that was not restored. Until it has run, what appends a job, and claim, raise 55000.
-- Locks: all hot families, exclusively, for which it waits as a claim does. Raises JQ004, 55P03.
create or replace function awa.rebase_after_restore() returns setof awa.rebase_after_restore
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set jit = off
set lock_timeout = 0
as $$
declare
  v_room numeric;
  v_xid xid;
  v_available bigint;
  v_running bigint;
  v_completed bigint;
begin
  perform awa._check_isolation();
  for v_look in 1..2 loop
    if not (select awa._is_restored(r.tables, o.xid, o.xmin) from awa.ring r, awa.origin o) then
      return query select 0::bigint, 0::bigint, 0::bigint;
      return;
    end if;
    perform awa._bound_waits();
    lock table awa.ready_entries, awa.ready_tombstones, awa.lease_claims, awa.lease_claim_closures in access exclusive mode;
  end loop;
  perform set_config('lock_timeout', '0', true);
  update awa.ring r set tables = array['awa.ring'::regclass, 'awa.ready_entries'::regclass]::oid[];
  -- Its own xmin: that of a subtransaction, if this is one.
  delete from awa.origin;
  insert into awa.origin (xid) values ('0') returning xmin into v_xid;
  delete from awa.origin;
  insert into awa.origin (xid) values (v_xid);

  -- What is alive, by the old ids: only compared with each other.
  create table awa.rebasing as
  select e.*, sum((e.job_id < e.before)::int) over (partition by e.lane order by e.xid, e.job_id) as step
    from (
      select e.*, lag(e.job_id, 1, e.job_id) over (partition by e.lane order by e.xid, e.job_id) as before
        from awa._available a
        join awa.ready_entries e on e.segment = a.segment and e.lane = a.lane and e.xid = a.xid and e.job_id = a.job_id
    ) e;
  get diagnostics v_available = row_count;
  insert into awa.leases select a.* from awa._attempts(array(select o.receipt from awa._open_items o)) a on conflict do nothing;
  get diagnostics v_running = row_count;
  create table awa.rebasing_counts as select c.lane, c.enqueued, c.completed from awa._lane_counts c;
  with completed as (
    insert into awa.done_entries
      (job_id, lane, state, recorded, receipt, worker_id, ready_at, created_at, attempted_at, finalized_at, attempt, max_attempts, body_bytes, unique_key,
       kind, args, tags, metadata, errors)
    select e.job_id, e.lane & ~7::bigint | e.priority, 'completed', false, j.receipt, j.worker_id, e.ready_at, j.created_at, j.attempted_at, j.finalized_at, e.attempt, e.max_attempts, e.body_bytes, e.unique_key,
           e.kind, e.args, e.tags, e.metadata, e.errors
      from awa._ledger j
      join awa.ready_entries e on e.segment = j.segment and e.lane = j.lane and e.xid = j.xid and e.job_id = j.id
     where j.state = 'completed'
    returning lane
  ), by_lane as (
    select c.lane, count(*) as jobs from completed c group by c.lane
  ), counted as (
    update awa.rebasing_counts c set completed = c.completed - b.jobs from by_lane b where b.lane = c.lane
  )
  select coalesce(sum(b.jobs), 0) into v_completed from by_lane b;

  truncate awa.ready_entries, awa.ready_tombstones, awa.lease_claims, awa.lease_claim_closures;
  v_room := pg_snapshot_xmin(pg_current_snapshot())::text::numeric - 3;
  insert into awa.ready_entries
    (segment, lane, xid, job_id, ready_at, priority, attempt, max_attempts, body_bytes, unique_key, kind, args, tags, metadata, created_at, progress, errors)
  select awa._current_segment(), e.lane, (3 + floor(e.step * least(1, v_room / (1 + (select max(m.step) from awa.rebasing m)))))::text::xid8, e.job_id, e.ready_at, e.priority, e.attempt, e.max_attempts,
         e.body_bytes, e.unique_key, e.kind, e.args, e.tags, e.metadata, e.created_at, e.progress, e.errors
    from awa.rebasing e;

  delete from awa.queue_rollups r where r.lane not in (select c.lane from awa.rebasing_counts c);
  insert into awa.queue_rollups as r (lane, counted, enqueued, completed)
  select c.lane, awa._snapshot(), c.enqueued, c.completed from awa.rebasing_counts c
  on conflict on constraint queue_rollups_pkey do update
    set counted = excluded.counted, enqueued = excluded.enqueued, completed = excluded.completed,
        appended = 0, kept = '{0,0,0,0}', buried = 0, closed_seq = 0, open_seqs = '{}', claimed = 0, dropped = null;
  update awa.queue_rollups r
     set appended = n.entries, kept[awa._current_segment() + 1] = n.entries
    from (select e.lane, count(*) as entries from awa.rebasing e group by e.lane) n
   where r.lane = n.lane;
  update awa.ring r
     set cleaned_segment = null, cleaned_until = null, cleaned_by = null, old_snapshots = null, outcome = null, tries = 0, retry_at = null, stuck_since = null;
  drop table awa.rebasing, awa.rebasing_counts;
  return query select v_available, v_running, v_completed;
end
$$;
comment on function awa.rebase_after_restore is 'Makes the jobs of a database that was restored from a dump claimable again';
