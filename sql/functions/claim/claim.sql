-- The row that claim returns, one per job.
create or replace view awa.claimed_job_row as
select e.job_id, c.claim_id as receipt, q.name as queue, e.kind, e.args, e.priority::int as priority,
       e.attempt::int as attempt,
       e.max_attempts::int as max_attempts, e.ready_at as created_at, e.ready_at, c.deadline_at, e.tags, e.metadata,
       e.progress, e.group_key, e.expires_at
  from awa.ready_entries e, awa.lease_claims c, awa.queues q
 where false;
comment on view awa.claimed_job_row is 'The row that claim returns, one per job. The view itself is always empty';

-- A part of a lane's window, as claim reads it: the entries that are visible in hi, after a place and up to a
-- transaction: of one transaction that was committed late, or of all that came after lo. from_seq is the number of the
-- lane's newest claim before this call, and began_at when this call came to the lane. is_buried: some entries may be
-- buried. most: so many may be that this call reads no more than that at once, buried ones included; otherwise null.
create or replace view awa._window_row as
select c.lane_seq, c.lo, c.hi, c.pos_xid as at_xid, c.pos_id as at_id, c.first_xid as to_xid, c.first_xid as late,
       c.bytes, c.holds_keys as is_newest, c.holds_keys as is_buried, c.bytes as most, c.holds_keys as is_read,
       c.holds_keys as is_full, c.bytes as passed, c.lane_seq as from_seq, c.claimed_at as began_at
  from awa.lease_claims c
 where false;
comment on view awa._window_row is
  'A type: a part of a lane''s window, as claim reads it. The view itself is always empty';

-- The facts of a shard that a claim needs before it reads entries. began_at: when the call began.
create or replace view awa._terms_row as
select q.queue_id, s.claim_bytes::bigint, c.segment, c.segment as cleaned, c.hi as cleaned_until, c.job_ids as lanes,
       q.has_tombstones, q.may_expire, q.has_limits, q.has_limits as limits_groups, q.has_limits as is_there,
       q.has_limits as has_others, c.claimed_at, c.lease_until, c.deadline_at, c.claimed_at as began_at
  from awa.queues q, awa.settings s, awa.lease_claims c
 where false;
comment on view awa._terms_row is
  'A type: the facts of a shard that a claim needs before it reads entries. The view itself is always empty';

-- Takes up to max_jobs jobs of a queue for a lease, lane by lane, in the order (xid, job_id) of each lane.
-- Of a queue with several shards, it takes the jobs of one that no other claim holds, and goes on with more such shards
-- while there is room. Jobs that have expired are cancelled instead; a claim that has met a thousand of them ends, and
-- so does one that walks over entries of cancelled or moved jobs for a quarter of a second. The next one goes on.
-- durable: whether the caller's transaction waits for the disk when it commits. Null leaves that as it is.
-- Locks: the worker, shared, then the queue, or the shards that it looks at, until the caller's transaction ends.
-- Raises 22023, JQ004; 55P03 when another session holds one of these for too long; 42501 when the worker was registered
-- by another login; 55000 in a database that was restored from a dump.
-- Why: a window is the entries that became visible between two snapshots, lo and hi. It is read in two kinds of parts:
-- the entries of each transaction that was in progress at lo (late commits, one claim row for each), then all entries
-- that began after lo. Reading "up to a snapshot" is how PgQ makes batches; here the position within the window is kept
-- too. One statement reads a part, appends the claim and returns the jobs, so that each entry is read once.
create or replace function awa.claim(
  queue text, max_jobs int default 1, worker_id bigint default null, lease interval default null,
  durable boolean default null
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
  v_terms awa._terms_row;
  v_now pg_snapshot;
  v_limits record;
  v_holds_queue boolean; -- null without limits of the queue as a whole
  v_most int := coalesce(max_jobs, 1);
  v_room int := v_most;
  v_bytes bigint;
  v_row_bytes int := 153 + octet_length(queue); -- of a row's fixed columns, in text format
  v_shards bigint[] := array[awa._begin_claim(queue, max_jobs, worker_id, lease, durable)];
  v_lane bigint;
  v_window awa._window_row;
  v_limit int;
  v_jobs int;
  v_passed int := 0;
begin
  <<shards>>
  while v_shards[1] is not null loop -- the newest comes first
    v_now := awa._snapshot();
    v_terms := awa._claim_terms(queue, v_shards[1], v_now, lease, v_terms.began_at);
    if v_terms.has_limits then
      v_limits := awa._whole_limits(v_terms, v_shards[1], v_now, v_room);
      if v_limits.most is null then
        return query select * from awa._claim_limited(queue, v_shards[1], v_now, v_terms, v_room, worker_id);
        get diagnostics v_jobs = row_count;
        v_room := v_room - v_jobs;
        exit when v_jobs > 0 or not v_terms.has_others;
        v_passed := awa._walked(v_terms);
        exit when v_passed > 0;
        v_shards := awa._take_shard(v_terms.queue_id, v_shards, false) || v_shards;
        continue;
      end if;
      v_holds_queue := (v_limits.settings).max_running is not null;
      v_terms.lanes := v_limits.lanes;
      v_most := v_limits.most;
      v_room := v_most;
      exit when v_room = 0;
    end if;
    v_bytes := coalesce(v_bytes, v_terms.claim_bytes);
    foreach v_lane in array v_terms.lanes loop
      v_window := awa._open_window(v_terms.segment, v_lane, v_now, v_terms.has_tombstones);
      loop
        v_limit := awa._to_read(v_room + 2 * v_passed, v_jobs + v_window.passed, v_holds_queue and v_passed > 0, 960);
        if v_window.at_xid < pg_snapshot_xmax(v_window.lo) then
          v_window := awa._late_part(v_lane, v_window, v_terms.cleaned, v_terms.cleaned_until);
        end if;
        return query
          with entries as materialized (
            select e.*, row_number() over (order by e.xid, e.job_id) as ordinality,
                   case when v_terms.may_expire and awa._is_expired(e.expires_at, e.attempt, v_terms.claimed_at)
                     then null else e.body_bytes + v_row_bytes end as size -- null where it has expired
              from awa._read_part(v_lane, v_terms.cleaned, v_terms.cleaned_until, v_window.at_xid, v_window.at_id,
                     v_window.to_xid, v_window.hi, v_window.is_buried, v_window.most, v_limit) e
          ), fitting as materialized (
            select t.*, case when t.bytes <= v_bytes and t.entries <= v_room and num_nulls(t.expired, v_holds_queue) > 0
                     then t.entries else (select awa._fitting(array_agg(e.size order by e.ordinality), v_bytes, v_room,
                       v_room = v_most, v_holds_queue is true) from entries e) end as jobs
              from (
                select array_agg(e.xid) as xids, array_agg(e.job_id) as job_ids, count(*)::int as entries,
                       coalesce(sum(e.size), 0) as bytes, bool_or(e.unique_key is not null) as holds_keys,
                       array_agg(e.ordinality - 1) filter (where e.size is null) as expired
                  from entries e) t
          ), claim as materialized (
            select awa._append_claim(
                     (nextval('awa.claim_ids'), v_lane, v_window.lane_seq + 1, f.xids[1], f.job_ids[1], f.xids[f.jobs],
                      f.job_ids[f.jobs], v_terms.claimed_at, v_terms.lease_until, v_terms.deadline_at, worker_id,
                      v_terms.segment, least(f.bytes, 2147483647), f.holds_keys, v_window.hi, case
                        when num_nonnulls(v_window.late, v_window.most) > 0 or f.entries = v_limit or f.jobs < f.entries
                        then v_window.lo end, f.job_ids[1:f.jobs], null, v_holds_queue is true)::awa.lease_claims,
                     case when f.holds_keys then (select array_agg(case when e.size is not null then e.unique_key end)
                                                    from entries e where e.ordinality <= f.jobs) end,
                     f.expired, v_terms.began_at) as claim_id, f.jobs
              from fitting f where f.jobs > 0
          )
          select e.job_id, c.claim_id << 12 | (e.ordinality - 1), queue, e.kind, e.args, e.priority::int,
                 e.attempt::int, e.max_attempts::int, coalesce(e.created_at, e.ready_at), e.ready_at,
                 v_terms.deadline_at, e.tags, e.metadata, e.progress, e.group_key, e.expires_at
            from claim c cross join entries e
           where e.ordinality <= c.jobs and e.size is not null;
        get diagnostics v_jobs = row_count;
        v_room := v_room - v_jobs;
        exit shards when v_room = 0;
        v_window := awa._next_part(v_terms.segment, v_lane, v_now, v_window, v_jobs, v_room = v_most,
          v_terms.cleaned, v_terms.cleaned_until, v_terms.may_expire, v_terms.has_others, v_terms.began_at);
        v_bytes := v_bytes - v_window.bytes;
        v_passed := v_passed + v_window.passed;
        exit shards when v_window.is_full or v_bytes <= 0 or v_passed >= 1000;
        exit when v_window.is_read;
      end loop;
    end loop;
    exit when not v_terms.has_others;
    v_shards := awa._take_shard(v_terms.queue_id, v_shards, v_room < v_most) || v_shards;
  end loop;
  if v_holds_queue is not null then
    perform awa._store_limits(v_limits.settings, v_limits.state, v_limits.state, v_terms.claimed_at, v_most - v_room,
      case when v_limits.has_slots then v_now end);
  end if;
  if v_passed >= 1000 or not v_terms.is_there and (v_room < v_most or v_passed > 0) then
    perform awa._end_claim(queue, v_terms.is_there, v_room = v_most);
  end if;
end
$$;
comment on function awa.claim is
  'Takes up to max_jobs jobs of a queue for a lease, lane by lane, in the order (xid, job_id) of each lane';

-- Gives the queue of a claim its name where it has lost it, and wakes it where the claim was empty-handed too soon.
-- It was too soon where many jobs had expired.
create or replace function awa._end_claim(queue text, is_there boolean, is_empty boolean) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  if not is_there then -- it was dropped while a producer had not committed yet
    perform awa._add_queue(queue);
  end if;
  if is_empty then
    perform awa._wake(awa._queue_id(queue));
  end if;
end
$$;
comment on function awa._end_claim is
  'Gives the queue of a claim its name where it has lost it, and wakes it where the claim was empty-handed too soon';

-- Refuses invalid arguments of claim, and locks the worker and a shard of the queue; returns the shard.
-- Null where the queue has several, and no jobs.
-- Locks: these, until the transaction ends.
-- Raises 22023, JQ004, 42501, 55P03, 55000.
create or replace function awa._begin_claim(
  queue text,
  max_jobs int,
  worker_id bigint,
  lease interval,
  durable boolean
) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_queue_id bigint;
begin
  -- At a glance, the most frequent call
  if (
    char_length(queue) between 1 and 200 and coalesce(max_jobs, 1) between 1 and 10000
    and current_setting('transaction_isolation') = 'read committed' and lease is null and worker_id is null
  ) is not true then
    perform awa._check_claim(queue, max_jobs, worker_id, lease);
  end if;
  if durable <> (current_setting('synchronous_commit') <> 'off') then
    perform set_config('synchronous_commit', case when durable then 'on' else 'off' end, true);
  end if;
  v_queue_id := awa._queue_id(queue);
  if awa._may_have_shards(v_queue_id) then
    return awa._take_shard(v_queue_id, '{}', false);
  elsif not pg_try_advisory_xact_lock(awa._queue_key(v_queue_id)) then
    perform awa._lock_shard(v_queue_id << 6);
  end if;
  return v_queue_id << 6;
end
$$;
comment on function awa._begin_claim is
  'Refuses invalid arguments of claim, and locks the worker and a shard of the queue; returns the shard';

-- Refuses invalid arguments of claim, and locks the worker, shared.
-- Locks: that worker, until the transaction ends.
-- Raises 22023, JQ004, 42501, 55P03.
-- Why: until the claim commits, the worker can't be deregistered.
create or replace function awa._check_claim(queue text, max_jobs int, worker_id bigint, lease interval) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_worker record;
begin
  perform awa._check_name('queue', queue);
  if coalesce(max_jobs, 1) not between 1 and 10000 then
    perform awa._refuse('max_jobs must be between 1 and 10000', max_jobs::text,
      'Ask for as many jobs as you can work on at once.');
  end if;
  if not awa._fits(lease, '1 millisecond', '1 year') then
    perform awa._refuse('lease must be between 1 millisecond and 1 year', lease::text,
      'Leave it out for the queue''s default.');
  end if;
  perform awa._check_isolation();
  if worker_id is not null then
    -- until it commits, the worker cannot be deregistered
    if not pg_try_advisory_xact_lock_shared(awa._worker_key(worker_id)) then
      perform awa._lock_worker(worker_id, true);
    end if;
    select w.registered_by, w.member_of into v_worker from awa.workers w where w.worker_id = worker_id;
    if not found then
      perform awa._refuse('worker_id must be a registered worker', worker_id::text,
        'Call register_worker first, or leave it out.');
    elsif v_worker.registered_by <> session_user then
      perform awa._check_login(worker_id, v_worker.registered_by, v_worker.member_of);
    end if;
  end if;
end
$$;
comment on function awa._check_claim is 'Refuses invalid arguments of claim, and locks the worker, shared';

-- The settings, the segments, and the lanes of a shard of a queue in the order in which a claim serves them.
-- A paused queue has no lanes; of one with limits all are there, in no order. has_others: there are other shards.
-- began_at: when the call began, if that was with another shard.
-- Raises 55000.
-- Why: in statements that begin after the snapshot. A session that pauses the queue, and then enqueues, can rely on the
-- pause; and an entry that the snapshot shows lies in a lane that is seen here. A statement for each table costs less
-- than one that joins them.
create or replace function awa._claim_terms(
  queue text,
  shard bigint,
  now pg_snapshot,
  lease interval,
  began_at timestamptz default null
) returns awa._terms_row
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_terms awa._terms_row;
  v_is_original boolean;
  v_is_paused boolean;
  v_lease interval;
  v_aging interval;
begin
  v_terms.claimed_at := clock_timestamp();
  v_terms.began_at := coalesce(began_at, v_terms.claimed_at);
  v_terms.queue_id := awa._queue_id(queue);
  select s.claim_bytes into v_terms.claim_bytes from awa.settings s;
  select r.current_segment, coalesce(r.cleaned_segment, -1), r.cleaned_until, r.is_original
    into v_terms.segment, v_terms.cleaned, v_terms.cleaned_until, v_is_original
    from awa._checked_ring r;
  select coalesce(array_agg(l.lane) filter (where awa._shard_of(l.lane) = shard), '{}'),
         coalesce(bool_or(awa._shard_of(l.lane) <> shard), false), coalesce(bool_or(l.has_tombstones), false),
         coalesce(bool_or(l.may_expire), false), coalesce(bool_or(l.has_limits), false),
         coalesce(bool_or(l.dropped_at is null), false)
    into v_terms.lanes, v_terms.has_others, v_terms.has_tombstones, v_terms.may_expire, v_terms.has_limits,
         v_terms.is_there
    from awa.queues l
   where l.queue_id = v_terms.queue_id;
  select q.paused_at is not null, q.lease, v_terms.claimed_at + q.deadline, q.aging_interval,
         num_nonnulls(q.group_max_running, q.group_rate) > 0 or coalesce(q.group_order, 'start') <> 'start'
           or q.group_turns is true
    into v_is_paused, v_lease, v_terms.deadline_at, v_aging, v_terms.limits_groups
    from awa.queue_settings q
   where q.queue_id = v_terms.queue_id;
  v_terms.lease_until := v_terms.claimed_at + coalesce(lease, v_lease, awa._default_interval('lease'));
  if (v_is_original and v_terms.claim_bytes is not null) is not true then
    v_terms.segment := awa._current_segment();
    if v_terms.claim_bytes is null then
      perform awa._refuse_missing('settings');
    end if;
  end if;
  if v_terms.has_others then
    perform awa._note_shards(v_terms.queue_id);
  end if;
  if v_is_paused then
    v_terms.lanes := '{}';
    v_terms.has_others := false;
  elsif not v_terms.has_limits and cardinality(v_terms.lanes) > 1 then
    v_terms.lanes := awa._in_order(v_terms, now, v_aging);
  end if;
  return v_terms;
end
$$;
comment on function awa._claim_terms is
  'The settings, the segments, and the lanes of a shard of a queue in the order in which a claim serves them';

-- How many jobs count as passed in a shard of a queue with limits: 2,000 where the claim is to end.
-- So it is when the time for expired and buried entries is over, and the cursor of one of its lanes was moved.
create or replace function awa._walked(terms awa._terms_row) returns int
language plpgsql
as $$
#variable_conflict use_column
begin
  if clock_timestamp() > terms.began_at + awa._budget('250 milliseconds', 4) and (
    select true
      from unnest(terms.lanes) l(lane)
     cross join lateral (
        select c.claimed_at
          from awa.lease_claims c
         where c.segment = terms.segment and c.lane = l.lane
         order by c.lane_seq desc
         limit 1
      ) c
     where c.claimed_at >= terms.claimed_at
     limit 1
  ) then
    return 2000;
  end if;
  return 0;
end
$$;
comment on function awa._walked is
  'How many jobs count as passed in a shard of a queue with limits: 2,000 where the claim is to end';

-- The lanes of a shard in the order in which a claim serves them.
create or replace function awa._in_order(terms awa._terms_row, now pg_snapshot, aging interval) returns bigint[]
language plpgsql
as $$
declare
  v_lanes constant bigint[] := array(select distinct l from unnest(terms.lanes) l);
begin
  return case
    when cardinality(v_lanes) > 1
      then awa._by_age(v_lanes, now, terms.claimed_at, coalesce(aging, awa._default_interval('aging_interval')),
        terms.cleaned, terms.cleaned_until)
    else v_lanes
  end;
end
$$;
comment on function awa._in_order is 'The lanes of a shard in the order in which a claim serves them';

-- How many entries a claim reads at once: as many as usual, or few more than the last time where it is pure.
-- is_pure: where it takes only some of them, since others have expired: see _fitting. At most most: a longer array
-- would not stay in its row.
create or replace function awa._to_read(usual int, last int, is_pure boolean, most int) returns int
language sql immutable parallel safe
return least(case when is_pure then 2 * last + 8 else usual end, most);
comment on function awa._to_read is
  'How many entries a claim reads at once: as many as usual, or few more than the last time where it is pure';

-- How many jobs of these sizes, in their order, a claim takes that has room for so many jobs and bytes.
-- The first job of a claim fits, whatever its size. Those that have expired have no size, and take no room. is_pure: it
-- takes either such ones alone, or none of them.
-- Why: each attempt of one claim holds a slot of the queue, or none does. Jobs that have expired hold none: where one
-- can't be ended, its queue goes on.
create or replace function awa._fitting(
  sizes int[],
  bytes bigint,
  room int,
  is_first boolean,
  is_pure boolean default false
) returns int
language plpgsql immutable
as $$
begin
  return (
    select count(*)
      from (
        select s.ordinal, coalesce(sum(s.size) over through, 0) as bytes_through,
               count(s.size) over through as jobs_through
          from unnest(sizes) with ordinality s(size, ordinal)
        window through as (order by s.ordinal rows unbounded preceding)
      ) s
     where s.jobs_through <= room and (s.bytes_through <= bytes or s.jobs_through = 1 and is_first)
       and (not is_pure or s.jobs_through in (0, s.ordinal))
  );
end
$$;
comment on function awa._fitting is
  'How many jobs of these sizes, in their order, a claim takes that has room for so many jobs and bytes';
