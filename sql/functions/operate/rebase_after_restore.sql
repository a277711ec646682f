-- The row that rebase_after_restore returns: how many jobs of each state it has moved.
create or replace view awa.rebase_after_restore_row as
select c.claim_id as available, c.claim_id as running, c.claim_id as completed
  from awa.lease_claims c
 where false;
comment on view awa.rebase_after_restore_row is
  'The row that rebase_after_restore returns: how many jobs of each state it has moved. The view itself is always '
  'empty';

-- Makes the jobs of a database that was restored from a dump claimable again.
-- Live jobs get places from which they can be claimed, in their order as far as this server has had enough transactions
-- to tell so many places apart. Open attempts go on, and keep their receipts. Completed jobs get rows of their own
-- until their retention is over. Does nothing in a database that was not restored. Before it has run, claim and all
-- functions that append a job raise 55000.
-- Locks: all hot families, exclusively, for which it waits as a claim does; first the locks of an answer, since the
-- session that gives it may read, or enqueue, before its transaction ends.
-- Raises JQ004, 55P03.
-- Why: the order of jobs is in transaction ids, which mean something else on this server, or will be used again.
create or replace function awa.rebase_after_restore() returns setof awa.rebase_after_restore_row
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set jit = off
set lock_timeout = 0
as $$
declare
  v_batch record;
  v_batches cursor (asked bigint[]) for select l as attempts from awa._look_up_many(asked) l;
  v_lanes bigint[];
  v_enqueued bigint[];
  v_counted bigint[];
  v_available bigint;
  v_running bigint := 0;
  v_completed bigint := 0;
begin
  perform awa._check_isolation();
  for v_look in 1..2 loop
    if not awa._is_restored() then
      return query select 0::bigint, 0::bigint, 0::bigint;
      return;
    end if;
    if exists (
      select from pg_subscription_rel s join pg_class c on c.oid = s.srrelid where c.relnamespace = 'awa'::regnamespace
    ) then
      raise exception using errcode = '55000', message = 'a subscription still fills the tables',
        detail = 'Rows that come from the other server have that server''s transaction ids.',
        hint = 'Stop all work there, wait until all rows have come, and drop the subscription; then call this again.';
    end if;
    perform awa._bound_waits();
    lock table awa.lease_claim_closures, awa.lease_claims, awa.ready_entries, awa.ready_tombstones, awa.arrivals
      in access exclusive mode;
  end loop;
  perform set_config('lock_timeout', '0', true);
  perform awa._own_sources();
  perform awa._set_origin();
  perform awa._advance_sequences();

  -- The live rows, by the old ids: only compared with each other. After a restore of data alone, ring does not tell
  -- which segment was cleaned: rows that were carried from it are there twice.
  truncate awa.rebasing;
  v_available := awa._place_anew();
  for v_batch in v_batches(array(select o.receipt from awa._open_items o)) loop
    perform awa._lease(v_batch.attempts);
    v_running := v_running + cardinality(v_batch.attempts);
  end loop;
  select coalesce(array_agg(c.lane), '{}'), array_agg(c.enqueued), array_agg(c.completed)
    into v_lanes, v_enqueued, v_counted
    from awa._lane_counts c;
  for v_batch in select * from awa._completed_in_ledger() loop
    perform awa._end(v_batch.attempts, 'completed', ended_at => v_batch.ended_at);
    v_completed := v_completed + cardinality(v_batch.attempts);
    v_counted := array(
      select l.completed - coalesce(b.jobs, 0)
        from unnest(v_lanes, v_counted) with ordinality l(lane, completed, n)
        left join (
          select a.lane & ~7::bigint | a.priority as lane, count(*) as jobs from unnest(v_batch.attempts) a group by 1
        ) b on b.lane = l.lane
       order by l.n);
  end loop;

  truncate awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures;
  insert into awa.ready_entries select e.* from awa.rebasing e;

  delete from awa.queue_rollups r where r.lane <> all(v_lanes);
  perform awa._add_rollups(v_lanes);
  update awa.queue_rollups r
     set counted = awa._snapshot(), enqueued = c.enqueued, completed = c.completed, appended = 0,
         segment_entries = '{0,0,0,0}', buried = 0, closed_seq = 0, open_seqs = '{}', claimed = 0, dropped = null
    from unnest(v_lanes, v_enqueued, v_counted) c(lane, enqueued, completed)
   where r.lane = c.lane;
  update awa.queue_rollups r
     set appended = n.entries, segment_entries[awa._current_segment() + 1] = n.entries
    from (select e.lane, count(*) as entries from awa.rebasing e group by e.lane) n
   where r.lane = n.lane;
  perform awa._recount_limits();
  update awa.ring r
     set carried_segment = null, carried_since = null, begun_by = null, carried_before = null, passed_over = null,
         cleaned_segment = null, cleaned_until = null, cleaned_by = null,
         old_snapshots = null, unreadable = null, refused = null, refusal = null, outcome = null, tries = 0,
         retry_at = null, stuck_since = null;
  update awa.unique_claims u set free_since = pg_current_xact_id() where u.free_since is not null;
  update awa.queues q set forget_after = null where q.forget_after is not null;
  truncate awa.rebasing;
  delete from awa.deleted_jobs; -- their entries are gone
  return query select v_available, v_running, v_completed;
end
$$;
comment on function awa.rebase_after_restore is
  'Makes the jobs of a database that was restored from a dump claimable again';

-- Copies all available entries to rebasing, under other transaction ids, in their order; returns how many.
-- Each stretch of a lane in which job ids ascend gets a transaction id, as far as this server has had as many.
create or replace function awa._place_anew() returns bigint
language plpgsql
as $$
declare
  v_room numeric := pg_snapshot_xmin(pg_current_snapshot())::text::numeric - 3;
  v_placed bigint;
begin
  insert into awa.rebasing
  select n.*
    from (
      select p.entry, p.step, max(p.step) over () as last_step
        from (
          select e as entry,
                 sum((e.job_id < l.before)::int) over (partition by e.lane order by e.xid, e.job_id) as step
            from (
              select a.segment, a.lane, a.xid, a.job_id,
                     lag(a.job_id, 1, a.job_id) over (partition by a.lane order by a.xid, a.job_id) as before
                from (
                  select distinct on (a.lane, a.xid, a.job_id) a.segment, a.lane, a.xid, a.job_id
                    from awa._available a
                   order by a.lane, a.xid, a.job_id, a.segment
                ) a
            ) l
            join awa.ready_entries e
              on e.segment = l.segment and e.lane = l.lane and e.xid = l.xid and e.job_id = l.job_id
        ) p
    ) p
   cross join awa._current_segment() r(current_segment)
   cross join lateral awa._in_segment(p.entry, r.current_segment,
      (3 + floor(p.step * least(1, v_room / (1 + p.last_step))))::text::xid8) n;
  get diagnostics v_placed = row_count;
  return v_placed;
end
$$;
comment on function awa._place_anew is
  'Copies all available entries to rebasing, under other transaction ids, in their order; returns how many';

-- The completed jobs that the ledgers describe, as attempts, and when they ended, in arrays of about 64 MB.
create or replace function awa._completed_in_ledger() returns table (attempts awa.leases[], ended_at timestamptz[])
language sql stable
as $$
  select array_agg(b.attempt order by (b.attempt).job_id), array_agg(b.ended_at order by (b.attempt).job_id)
    from (
      select c.attempt, c.ended_at, sum(
               pg_column_size(c.attempt) + pg_column_size(array[(c.attempt).errors])
             ) over (order by c.id, c.receipt rows unbounded preceding) / 67108864 as batch
        from (
          select distinct on (j.id, j.receipt) j.id, j.receipt, a as attempt, j.finalized_at as ended_at
            from awa._ledger j
            join awa.ready_entries e on e.segment = j.segment and e.lane = j.lane and e.xid = j.xid and e.job_id = j.id
           cross join lateral awa._as_attempt(e, j.receipt, j.attempted_at, worker_id => j.worker_id) a
           where j.state = 'completed'
        ) c
    ) b
   group by b.batch
$$;
comment on function awa._completed_in_ledger is
  'The completed jobs that the ledgers describe, as attempts, and when they ended, in arrays of about 64 MB';

-- Moves sequences past the highest id in any table.
-- Why: logical replication copies rows, but not sequences.
create or replace function awa._advance_sequences() returns void
language sql
as $$
  select setval(s.sequence, s.highest)
    from (
      select 'awa.job_ids'::regclass as sequence, (
               select max(i.id)
                 from (select max(e.job_id) as id from awa.ready_entries e
                       union all select max(j) from awa.lease_claims c, unnest(c.job_ids) j
                       union all select max(l.job_id) from awa.leases l
                       union all select max(d.job_id) from awa.deferred_jobs d
                       union all select max(w.job_id) from awa.limited_jobs w
                       union all select max(d.job_id) from awa.done_entries d
                       union all select max(d.job_id) from awa.deleted_jobs d
                       union all select max(u.job_id) from awa.unique_claims u
                       union all select max(s.last_job_id) from awa.schedules s
                       union all select max(c.before_id) - 1 from awa.changes c) i) as highest
      union all
      select 'awa.claim_ids', (
               select max(i.id)
                 from (select max(c.claim_id) as id from awa.lease_claims c
                       union all select max(l.receipt >> 12) from awa.leases l
                       union all select max(d.receipt >> 12) from awa.done_entries d
                       union all select max(h.receipt >> 12) from awa.lost_attempts h
                       union all select max(u.round) from awa.unique_claims u) i)
      union all
      select 'awa.waiting_ids', (
               select max(case when w.waiting_id < 0 then w.waiting_id + 4611686018427387904 else w.waiting_id end)
                 from awa.limited_jobs w)
      union all
      select 'awa.turn_ids', (select max(t.turn_id) from awa.turns t)
      union all
      select 'awa.state_ids', (select max(s.state_id) from awa.shard_states s)
      union all
      select 'awa.change_ids', (select max(c.change_id) from awa.changes c)
      union all
      select pg_get_serial_sequence('awa.workers', 'worker_id')::regclass, (
               select max(i.id)
                 from (select max(w.worker_id) as id from awa.workers w
                       union all select max(c.worker_id) from awa.lease_claims c
                       union all select max(l.worker_id) from awa.leases l
                       union all select max(d.worker_id) from awa.done_entries d
                       union all select max(h.worker_id) from awa.lost_attempts h) i)
    ) s
   where s.highest > coalesce(pg_sequence_last_value(s.sequence), 0)
$$;
comment on function awa._advance_sequences is 'Moves sequences past the highest id in any table';
