-- What claim returns.
create or replace view awa.claimed_job_row as
select e.job_id, c.claim_id as receipt, q.name as queue, e.kind, e.args, e.priority::int as priority, e.attempt::int as attempt,
       e.max_attempts::int as max_attempts, e.ready_at as created_at, e.ready_at, c.deadline_at, e.tags, e.metadata, e.progress
  from awa.ready_entries e, awa.lease_claims c, awa.queues q
 where false;
comment on view awa.claimed_job_row is 'The row that claim returns, one per job. The view itself is always empty';

-- Takes up to max_jobs jobs of a queue, lane by lane, in the order (xid, job_id) of each lane.
-- Locks: the worker, shared, then the queue, until the caller's transaction ends. Raises 22023, JQ004, 55P03 when
-- somebody else holds one of them for too long, 42501 when the worker was registered by another login, and 55000 in a
-- database that was restored from a dump.
-- Durable says whether the caller's transaction waits for the disk when it commits. Null leaves that as it is.
--
-- A window is what became visible between two snapshots, lo and hi. It is read in two kinds of parts: the entries of
-- each transaction that was in progress at lo (late commits, one claim row for each), then everything that began after
-- lo. Reading "up to a
-- snapshot" is what PgQ does for batches; here the position within the window is kept too.
create or replace function awa.claim(
  queue     text,
  max_jobs  int default 1,
  worker_id bigint default null,
  lease     interval default null,
  durable   boolean default null
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
  v_limit int;
  v_batch record;
  v_claim_id bigint;
  v_window_ends boolean;
  v_is_newest boolean;
  v_lane_seq bigint;
  v_lane_began timestamptz;
begin
  perform awa._check_claim(queue, max_jobs, worker_id, lease);
  perform awa._wait_for_disk(durable);
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
  <<lanes>>
  for v_lane in
    select * from awa._claimable_lanes(v_queue_id, v_now, v_claimed_at, coalesce(v_settings.aging_interval, interval '1 minute'), v_cleaned, v_cleaned_until)
  loop
    continue when v_lane.is_empty and v_lane.took <= interval '10 milliseconds';
    v_lane_began := clock_timestamp() - v_lane.took;
    v_lane_seq := v_lane.lane_seq;
    v_is_newest := v_lane.is_newest;
    v_lo := v_lane.lo;
    v_hi := v_lane.hi;
    v_at_xid := v_lane.at_xid;
    v_at_id := v_lane.at_id;
    loop
      v_limit := least(v_room, 960); -- a longer array would not stay in its row
      v_batch := awa._read_part(v_lane.lane, v_lo, v_hi, v_at_xid, v_at_id, v_limit, v_bytes, v_row_bytes,
        v_room = coalesce(max_jobs, 1), v_lane.buried, v_cleaned, v_cleaned_until);

      exit lanes when v_batch.entries > 0 and v_batch.job_ids = '{}'; -- the next one would not fit

      v_window_ends := v_batch.late is null and v_batch.entries < v_limit and v_batch.entries = cardinality(v_batch.job_ids);
      if v_batch.entries > 0 then
        v_at_xid := v_batch.pos_xid;
        v_at_id := v_batch.job_ids[cardinality(v_batch.job_ids)];
        v_lane_seq := v_lane_seq + 1;
        v_claim_id := awa._append_claim(v_segment, v_lane.lane, v_lane_seq, v_hi, case when not v_window_ends then v_lo end, v_batch.first_xid, v_at_xid, v_batch.job_ids,
          v_claimed_at, coalesce(lease, v_settings.lease, interval '1 minute'), v_settings.deadline, worker_id, v_batch.holds_keys);
        return query
          select e.job_id, v_claim_id << 12 | (e.place - 1), queue, e.kind, e.args, e.priority, e.attempt, e.max_attempts, e.created_at, e.ready_at, v_claimed_at + v_settings.deadline, e.tags, e.metadata, e.progress
            from awa._taken_entries(v_lane.lane, v_batch.first_xid, v_batch.job_ids[1], v_at_xid, v_at_id, cardinality(v_batch.job_ids), v_hi, v_lane.buried, v_cleaned, v_cleaned_until) e
           order by e.place;
        v_room := v_room - cardinality(v_batch.job_ids);
        v_bytes := v_bytes - v_batch.bytes;
        exit lanes when v_room = 0 or v_bytes <= 0 or cardinality(v_batch.job_ids) < v_batch.entries;
      end if;

      if v_batch.late is not null and v_batch.entries = 0 then
        v_at_xid := v_batch.late; -- all that is left of this transaction is buried
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
    if v_lane_seq = v_lane.lane_seq and clock_timestamp() - v_lane_began > interval '10 milliseconds' then
      perform awa._append_claim(v_segment, v_lane.lane, v_lane_seq + 1, v_now, null, '0', '0', '{}', v_claimed_at, '0', null, null, false);
    end if;
  end loop;
  if v_room < coalesce(max_jobs, 1) and not exists (select from awa.queues q where q.queue_id = v_queue_id and q.dropped_at is null) then
    insert into awa.queues (queue_id, name) values (v_queue_id, queue); -- it was dropped while a producer had not committed yet
  end if;
end
$$;
comment on function awa.claim is 'Takes up to max_jobs jobs of a queue, for a lease';

-- Sets whether the caller's transaction waits for the disk when it commits. Null leaves that as it is.
create or replace function awa._wait_for_disk(durable boolean) returns text
language sql
as $$
  select case
           when durable <> (current_setting('synchronous_commit') <> 'off')
           then set_config('synchronous_commit', case when durable then 'on' else 'off' end, true)
         end
$$;
comment on function awa._wait_for_disk is 'Sets whether the caller''s transaction waits for the disk when it commits';

-- Refuses what claim does not take, and locks the worker, shared: until the claim commits, it can't be deregistered.
create or replace function awa._check_claim(queue text, max_jobs int, worker_id bigint, lease interval) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_worker record;
begin
  perform awa._check_name('queue', queue);
  if coalesce(max_jobs, 1) not between 1 and 10000 then
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
end
$$;
comment on function awa._check_claim is 'Refuses what claim does not take, and locks the worker';

-- Each lane of a queue in the order in which claim serves them: the window that is read next and the place in it,
-- whether there may be anything new, and whether entries are buried.
-- Where the last window was read to its end the next one reaches to now. A lane without a cursor begins at the first
-- transaction there can be.
-- The front lane comes first, then the lanes by their priority, less one for each aging interval that the head has
-- waited.
create or replace function awa._claimable_lanes(
  queue_id bigint, now pg_snapshot, claimed_at timestamptz, aging interval, cleaned smallint, cleaned_until pg_snapshot,
  out lane bigint, out lane_seq bigint, out lo pg_snapshot, out hi pg_snapshot, out at_xid xid8, out at_id bigint, out is_newest boolean, out took interval, out is_empty boolean, out buried boolean
) returns setof record
language sql stable
as $$
  select l.lane, coalesce(c.lane_seq, 0), coalesce(c.lo, c.hi, '3:3:'), case when c.lo is null then now else c.hi end,
         case when c.lo is null then '0' else c.pos_xid end, case when c.lo is null then 0 else c.pos_id end, c.lo is null, h.took,
         h.ready_at is null and (
           select true
             from (select pg_snapshot_xip(c.lo) union all select pg_snapshot_xip(c.hi)) x(xid)
            where pg_visible_in_snapshot(x.xid, now)
            limit 1) is null as is_empty,
         (select true
            from awa.ready_tombstones t
           where t.lane = l.lane and t.xid >= coalesce(pg_snapshot_xmin(coalesce(c.lo, c.hi)), '0') -- what is not claimed is not older
           limit 1) as buried
    from awa._lanes_of(_claimable_lanes.queue_id) l
    left join lateral (
      select * from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 1
    ) c on true
   cross join lateral awa._head(l.lane,
      greatest(case when c.lo is not null then c.pos_xid end, pg_snapshot_xmax(coalesce(c.lo, c.hi, '3:3:'))),
      case when c.lo is not null and c.pos_xid >= pg_snapshot_xmax(c.lo) then c.pos_id else 0 end, cleaned, cleaned_until) h
   order by (l.lane & 7) <> 0,
            h.ready_at is not null and h.is_far desc, -- taken at once, so that nobody has to go that way again
            (l.lane & 7) - floor(greatest(extract(epoch from _claimable_lanes.claimed_at - h.ready_at)::float8, 0)
              / extract(epoch from aging)::float8),
            h.ready_at,
            l.lane
$$;
comment on function awa._claimable_lanes is 'Each lane of a queue in the order in which claim serves them';

-- Appends a claim, which is its lane's cursor from then on, and returns its id. Lo is null where the window was read to
-- its end.
create or replace function awa._append_claim(
  segment smallint, lane bigint, lane_seq bigint, hi pg_snapshot, lo pg_snapshot, first_xid xid8, pos_xid xid8, job_ids bigint[],
  claimed_at timestamptz, lease interval, deadline interval, worker_id bigint, holds_keys boolean
) returns bigint
language plpgsql
as $$
declare
  v_claim_id bigint := nextval('awa.claim_ids');
begin
  insert into awa.lease_claims
    (segment, claim_id, lane, lane_seq, hi, lo, first_xid, first_id, pos_xid, pos_id, claimed_at, lease_until, deadline_at, worker_id, holds_keys, job_ids)
  values
    (segment, v_claim_id, lane, lane_seq, hi, lo, first_xid, coalesce(job_ids[1], 0), pos_xid, coalesce(job_ids[cardinality(job_ids)], 0),
     claimed_at, claimed_at + lease, claimed_at + deadline, worker_id, holds_keys, job_ids);
  if holds_keys then
    perform awa._move_keys(array_agg(a.job_id), array_agg(a.unique_key), 'available', 'running')
       from awa._attempts(array(select v_claim_id << 12 | i from generate_series(0, cardinality(job_ids) - 1) i)) a
      where a.unique_key is not null;
  end if;
  return v_claim_id;
end
$$;
comment on function awa._append_claim is 'Appends a claim, which is its lane''s cursor from then on';

-- The entries that a claim took, in their order: those from the first place to the last that are visible, and not
-- buried.
create or replace function awa._taken_entries(
  lane bigint, first_xid xid8, first_id bigint, pos_xid xid8, pos_id bigint, jobs int, hi pg_snapshot, buried boolean, cleaned smallint, cleaned_until pg_snapshot,
  out place bigint, out job_id bigint, out kind text, out args jsonb, out priority int, out attempt int, out max_attempts int, out created_at timestamptz, out ready_at timestamptz,
  out tags text[], out metadata jsonb, out progress jsonb
) returns setof record
language sql stable
as $$
  select row_number() over (order by e.xid, e.job_id), e.job_id, e.kind, e.args, e.priority::int, e.attempt::int, e.max_attempts::int, coalesce(e.created_at, e.ready_at), e.ready_at,
         e.tags, e.metadata, e.progress
    from (
      select e.*
        from awa.ready_entries e
       where e.lane = _taken_entries.lane
         and (e.segment <> cleaned or not pg_visible_in_snapshot(e.xid, cleaned_until))
         and (e.xid, e.job_id) >= (first_xid, first_id)
         and (e.xid, e.job_id) <= (pos_xid, pos_id)
         and pg_visible_in_snapshot(e.xid, hi)
         and case
               when buried
               then (select true from awa.ready_tombstones t where t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id limit 1) is null
               else true
             end
       order by e.xid, e.job_id
       limit jobs -- within one transaction the last place does not end the scan; and the numbers look one row ahead
    ) e
$$;
comment on function awa._taken_entries is 'The entries that a claim took, in their order';

-- The head of a lane: since when the first entry after a place is ready; late commits aside, and also if it is buried.
-- Says how long it took to look; and that it is far when that took long
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

-- Reads the next entries of a lane's window that are not buried: those of one late transaction, or of the range. Stops
-- at the byte budget, but takes the first job of a claim whatever its size.
-- One lower bound for the index: with a second one beside it the scan would begin at the beginning of the lane. The
-- upper bound is of the transaction alone: a row comparison does not end the scan where the second column decides.
create or replace function awa._read_part(
  lane       bigint,
  lo         pg_snapshot,
  hi         pg_snapshot,
  at_xid     xid8,
  at_id      bigint,
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
  out holds_keys boolean,
  out late      xid8
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_from_xid xid8;
  v_from_id bigint;
  v_to_xid xid8;
begin
  -- Late commits are probed one transaction at a time: as a list they would be a filter over the lane's whole history.
  -- And by a subquery with a limit, not by exists, which the planner may turn into a join that reads the whole lane.
  select x into late
    from (select x from pg_snapshot_xip(lo) x order by x offset 0) s
   where x >= at_xid
     and pg_visible_in_snapshot(x, hi)
     and (
       select true
         from awa.ready_entries e
        where e.lane = lane and e.xid = x and (e.segment <> cleaned or not pg_visible_in_snapshot(e.xid, cleaned_until))
          and e.job_id > case when x = at_xid then at_id else 0 end
        limit 1)
   limit 1;
  v_from_xid := coalesce(late, greatest(at_xid, pg_snapshot_xmax(lo)));
  v_from_id := case when v_from_xid = at_xid then at_id else 0 end;
  v_to_xid := coalesce(late, (pg_snapshot_xmax(hi)::text::bigint - 1)::text::xid8);
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
