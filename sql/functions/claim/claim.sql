-- What claim returns.
create or replace view awa.claimed_job_row as
select e.job_id, c.claim_id as receipt, q.name as queue, e.kind, e.args, e.priority::int as priority, e.attempt::int as attempt,
       e.max_attempts::int as max_attempts, e.ready_at as created_at, e.ready_at, c.deadline_at, e.tags, e.metadata, e.progress
  from awa.ready_entries e, awa.lease_claims c, awa.queues q
 where false;
comment on view awa.claimed_job_row is 'The row that claim returns, one per job. The view itself is always empty';

-- Takes up to max_jobs jobs of a queue, lane by lane, in the order (xid, job_id) of each lane.
-- Locks: the worker, shared, then the queue, until the caller's transaction ends. Raises 22023, JQ004, 55P03 when somebody else holds one of them for too long,
-- 42501 when the worker was registered by another login, and 55000 in a database that was restored from a dump.
--
-- A window is what became visible between two snapshots, lo and hi. It is read in two kinds of parts: the entries of each transaction
-- that was in progress at lo (late commits, one claim row for each), then everything that began after lo. Reading "up to a
-- snapshot" is what PgQ does for batches; here the position within the window is kept too.
create or replace function awa.claim(
  queue     text,
  max_jobs  int default 1,
  worker_id bigint default null,
  lease     interval default null
) returns setof awa.claimed_job_row
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
set jit = off
set lock_timeout = 0
as $$
#variable_conflict use_variable
declare
  v_queue_id bigint;
  v_worker record;
  v_settings record;
  v_room int := coalesce(max_jobs, 1);
  v_bytes bigint;
  v_row_bytes int := 145 + octet_length(queue); -- of a row's fixed columns, in text format
  v_segment smallint;
  v_cleaned smallint; -- the segment whose entries count no more, and up to where
  v_cleaned_until pg_snapshot;
  v_now pg_snapshot;
  v_claimed_at timestamptz;
  v_lane record;
  v_lo pg_snapshot;
  v_hi pg_snapshot;
  v_at_xid xid8;
  v_at_id bigint;
  v_late xid8;
  v_limit int;
  v_batch record;
  v_claim_id bigint;
  v_window_ends boolean;
  v_is_newest boolean;
  v_lane_seq bigint;
  v_lane_began timestamptz;
begin
  perform awa._check_name('queue', queue);
  if v_room not between 1 and 10000 then
    perform awa._refuse('max_jobs must be between 1 and 10000', max_jobs::text, 'Ask for as many jobs as you can work on at once.');
  end if;
  if not awa._fits(lease, '1 millisecond', '1 year') then
    perform awa._refuse('lease must be between 1 millisecond and 1 year', lease::text, 'Leave it out for the queue''s default.');
  end if;
  perform awa._check_isolation();
  if worker_id is not null then
    if not pg_try_advisory_xact_lock_shared(awa._worker_key(worker_id)) then -- until it commits, the worker cannot be deregistered
      perform awa._lock_worker(worker_id, true);
    end if;
    select w.registered_by, w.member_of into v_worker from awa.workers w where w.worker_id = worker_id;
    if not found then
      perform awa._refuse('worker_id must be a registered worker', worker_id::text, 'Call register_worker first, or leave it out.');
    elsif v_worker.registered_by <> session_user then
      perform awa._check_login(worker_id, v_worker.registered_by, v_worker.member_of);
    end if;
  end if;

  v_queue_id := awa._queue_id(queue);
  perform awa._lock_queue(v_queue_id);
  v_now := awa._snapshot();
  v_claimed_at := clock_timestamp();
  -- After the snapshot: who pauses the queue, and then enqueues, can rely on the pause.
  select s.paused_at, s.lease, s.deadline, s.aging_interval into v_settings from awa.queue_settings s where s.queue_id = v_queue_id;
  if v_settings.paused_at is not null then
    return;
  end if;
  v_segment := awa._current_segment();
  select s.claim_bytes, coalesce(r.cleaned_segment, -1), r.cleaned_until into v_bytes, v_cleaned, v_cleaned_until from awa.settings s, awa.ring r;
  if v_bytes is null then
    perform awa._refuse_missing('settings', 'insert into awa.settings default values');
  end if;

  -- Each lane's cursor and head. The front lane comes first, then the lanes by their priority, less one for each aging interval that the head has waited.
  <<lanes>>
  for v_lane in
    select l.lane, c.lane_seq, c.lo, c.hi, c.pos_xid, c.pos_id, h.took,
           h.ready_at is null and (
             select true
               from (select pg_snapshot_xip(c.lo) union all select pg_snapshot_xip(c.hi)) x(xid)
              where pg_visible_in_snapshot(x.xid, v_now)
              limit 1) is null as is_empty,
           (select true
              from awa.ready_tombstones t
             where t.lane = l.lane and t.xid >= coalesce(pg_snapshot_xmin(coalesce(c.lo, c.hi)), '0') -- what is not claimed is not older
             limit 1) as buried
      from generate_series(v_queue_id * 8, v_queue_id * 8 + 4) l(lane)
      left join lateral (
        select * from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 1
      ) c on true
     cross join lateral awa._head(l.lane,
        greatest(case when c.lo is not null then c.pos_xid end, pg_snapshot_xmax(coalesce(c.lo, c.hi, '3:3:'))),
        case when c.lo is not null and c.pos_xid >= pg_snapshot_xmax(c.lo) then c.pos_id else 0 end, v_cleaned, v_cleaned_until) h
     order by (l.lane & 7) <> 0,
              h.ready_at is not null and h.is_far desc, -- taken at once, so that nobody has to go that way again
              (l.lane & 7) - floor(greatest(extract(epoch from v_claimed_at - h.ready_at)::float8, 0)
                / extract(epoch from coalesce(v_settings.aging_interval, interval '1 minute'))::float8),
              h.ready_at,
              l.lane
  loop
    continue when v_lane.is_empty and v_lane.took <= interval '10 milliseconds';
    v_lane_began := clock_timestamp() - v_lane.took;
    v_lane_seq := coalesce(v_lane.lane_seq, 0);
    v_is_newest := v_lane.lo is null;
    if v_is_newest then
      -- The last window was read to its end. A lane without a cursor begins at the first transaction there can be.
      v_lo := coalesce(v_lane.hi, '3:3:');
      v_hi := v_now;
      v_at_xid := '0';
      v_at_id := 0;
    else
      v_lo := v_lane.lo;
      v_hi := v_lane.hi;
      v_at_xid := v_lane.pos_xid;
      v_at_id := v_lane.pos_id;
    end if;

    loop
      -- Late commits are probed one transaction at a time: as a list they would be a filter over the lane's whole history. And by
      -- a subquery with a limit, not by exists, which the planner may turn into a join that reads the whole lane.
      select x into v_late
        from (select x from pg_snapshot_xip(v_lo) x order by x offset 0) s
       where x >= v_at_xid
         and pg_visible_in_snapshot(x, v_hi)
         and (
           select true
             from awa.ready_entries e
            where e.lane = v_lane.lane and e.xid = x and (e.segment <> v_cleaned or not pg_visible_in_snapshot(e.xid, v_cleaned_until))
              and e.job_id > case when x = v_at_xid then v_at_id else 0 end
            limit 1)
       limit 1;
      v_limit := least(v_room, 960); -- a longer array would not stay in its row
      v_batch := awa._read_part(v_lane.lane, v_lo, v_hi, v_at_xid, v_at_id, v_late, v_limit, v_bytes, v_row_bytes,
        v_room = coalesce(max_jobs, 1), v_lane.buried, v_cleaned, v_cleaned_until);

      exit lanes when v_batch.entries > 0 and v_batch.job_ids = '{}'; -- the next one would not fit

      v_window_ends := v_late is null and v_batch.entries < v_limit and v_batch.entries = cardinality(v_batch.job_ids);
      if v_batch.entries > 0 then
        v_at_xid := v_batch.pos_xid;
        v_at_id := v_batch.job_ids[cardinality(v_batch.job_ids)];
        v_lane_seq := v_lane_seq + 1;
        v_claim_id := nextval('awa.claim_ids');
        insert into awa.lease_claims
          (segment, claim_id, lane, lane_seq, hi, lo, first_xid, first_id, pos_xid, pos_id,
           claimed_at, lease_until, deadline_at, worker_id, holds_keys, job_ids)
        values
          (v_segment, v_claim_id, v_lane.lane, v_lane_seq, v_hi, case when not v_window_ends then v_lo end,
           v_batch.first_xid, v_batch.job_ids[1], v_at_xid, v_at_id,
           v_claimed_at, v_claimed_at + coalesce(lease, v_settings.lease, interval '1 minute'), v_claimed_at + v_settings.deadline, worker_id,
           v_batch.holds_keys, v_batch.job_ids);
        if v_batch.holds_keys then
          perform awa._move_keys(array_agg(a.job_id), array_agg(a.unique_key), 'available', 'running')
             from awa._attempts(array(select v_claim_id << 12 | i from generate_series(0, cardinality(v_batch.job_ids) - 1) i)) a
            where a.unique_key is not null;
        end if;
        return query
          select e.job_id, v_claim_id << 12 | (row_number() over (order by e.xid, e.job_id) - 1), queue, e.kind, e.args, e.priority::int, e.attempt::int,
                 e.max_attempts::int, coalesce(e.created_at, e.ready_at), e.ready_at, v_claimed_at + v_settings.deadline, e.tags, e.metadata, e.progress
            from (
              select e.*
                from awa.ready_entries e
               where e.lane = v_lane.lane
                 and (e.segment <> v_cleaned or not pg_visible_in_snapshot(e.xid, v_cleaned_until))
                 and (e.xid, e.job_id) >= (v_batch.first_xid, v_batch.job_ids[1])
                 and (e.xid, e.job_id) <= (v_at_xid, v_at_id)
                 and pg_visible_in_snapshot(e.xid, v_hi)
                 and case
                       when v_lane.buried
                       then (select true from awa.ready_tombstones t where t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id limit 1) is null
                       else true
                     end
               order by e.xid, e.job_id
               limit cardinality(v_batch.job_ids) -- within one transaction the last place does not end the scan; and the numbers look one row ahead
            ) e
           order by e.xid, e.job_id;
        v_room := v_room - cardinality(v_batch.job_ids);
        v_bytes := v_bytes - v_batch.bytes;
        exit lanes when v_room = 0 or v_bytes <= 0 or cardinality(v_batch.job_ids) < v_batch.entries;
      end if;

      if v_late is not null and v_batch.entries = 0 then
        v_at_xid := v_late; -- all that is left of this transaction is buried
        v_at_id := 9223372036854775807;
      end if;
      if v_window_ends then
        exit when v_is_newest;
        v_lo := v_hi;
        v_hi := v_now;
        v_at_xid := '0';
        v_at_id := 0;
        v_is_newest := true;
      end if;
    end loop;

    -- A long way for nothing (a large rolled-back enqueue): move the cursor, so that nobody walks it again.
    if v_lane_seq = coalesce(v_lane.lane_seq, 0) and clock_timestamp() - v_lane_began > interval '10 milliseconds' then
      insert into awa.lease_claims
        (segment, claim_id, lane, lane_seq, hi, first_xid, first_id, pos_xid, pos_id, claimed_at, lease_until, holds_keys, job_ids)
      values
        (v_segment, nextval('awa.claim_ids'), v_lane.lane, v_lane_seq + 1, v_now, '0', 0, '0', 0, v_claimed_at, v_claimed_at, false, '{}');
    end if;
  end loop;
  if v_room < coalesce(max_jobs, 1) and not exists (select from awa.queues q where q.queue_id = v_queue_id and q.dropped_at is null) then
    insert into awa.queues (queue_id, name) values (v_queue_id, queue); -- it was dropped while a producer had not committed yet
  end if;
end
$$;
comment on function awa.claim is 'Takes up to max_jobs jobs of a queue, for a lease';

-- The head of a lane: since when the first entry after a place is ready; late commits aside, and also if it is buried. Says how long it took to look; and that it is far when that took long
-- twice, which tells a long way over what is not visible from a busy machine.
create or replace function awa._head(lane bigint, after_xid xid8, after_id bigint, cleaned smallint, cleaned_until pg_snapshot, out ready_at timestamptz, out took interval, out is_far boolean)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_began timestamptz;
begin
  for v_look in 1..2 loop
    v_began := clock_timestamp();
    ready_at := (
      select e.ready_at
        from awa.ready_entries e
       where e.lane = lane and (e.xid, e.job_id) > (after_xid, after_id) and (e.segment <> cleaned or not pg_visible_in_snapshot(e.xid, cleaned_until))
       order by e.xid, e.job_id
       limit 1);
    is_far := clock_timestamp() - v_began > interval '10 milliseconds';
    took := coalesce(took, clock_timestamp() - v_began);
    exit when not is_far;
  end loop;
end
$$;
comment on function awa._head is 'Since when the first entry of a lane is ready, and whether it was hard to find';

-- Reads the next entries of a lane's window that are not buried: those of one late transaction, or of the range. Stops at the byte budget, but takes the first
-- job of a claim whatever its size.
-- One lower bound for the index: with a second one beside it the scan would begin at the beginning of the lane. The upper bound is of the transaction alone: a row
-- comparison does not end the scan where the second column decides.
create or replace function awa._read_part(
  lane       bigint,
  lo         pg_snapshot,
  hi         pg_snapshot,
  at_xid     xid8,
  at_id      bigint,
  late       xid8,
  max_jobs   int,
  max_bytes  bigint,
  row_bytes  int,
  is_first   boolean,
  buried     boolean,
  cleaned    smallint,
  cleaned_until pg_snapshot,
  out job_ids   bigint[],
  out first_xid xid8,
  out pos_xid   xid8,
  out bytes     bigint,
  out entries   bigint,
  out holds_keys boolean
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_from_xid xid8 := coalesce(late, greatest(at_xid, pg_snapshot_xmax(lo)));
  v_from_id bigint := case when v_from_xid = at_xid then at_id else 0 end;
  v_to_xid xid8 := coalesce(late, (pg_snapshot_xmax(hi)::text::bigint - 1)::text::xid8);
begin
  select coalesce(array_agg(b.job_id) filter (where b.fits), '{}'),
         min(b.xid),
         max(b.xid) filter (where b.fits),
         sum(b.bytes) filter (where b.fits),
         count(*),
         coalesce(bool_or(b.unique_key is not null) filter (where b.fits), false)
    into job_ids, first_xid, pos_xid, bytes, entries, holds_keys
    from (
      select e.*, e.bytes_through <= max_bytes or is_first and e.bytes_through = e.bytes as fits
        from (
          select e.*, sum(e.bytes) over (order by e.xid, e.job_id rows unbounded preceding) as bytes_through
            from (
              select e.xid, e.job_id, e.body_bytes + row_bytes as bytes, e.unique_key
                from awa.ready_entries e
               where e.lane = lane
                 and (e.segment <> cleaned or not pg_visible_in_snapshot(e.xid, cleaned_until))
                 and (e.xid, e.job_id) > (v_from_xid, v_from_id)
                 and e.xid <= v_to_xid
                 and pg_visible_in_snapshot(e.xid, hi)
                 and case -- a probe for each entry, only where there is anything to find
                       when buried
                       then (select true from awa.ready_tombstones t where t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id limit 1) is null
                       else true
                     end
               order by e.xid, e.job_id
               limit max_jobs
            ) e
        ) e
    ) b;
end
$$;
comment on function awa._read_part is 'Reads the next entries of a lane''s window';
