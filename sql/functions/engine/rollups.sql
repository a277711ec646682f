-- The counts of the past of a lane, so that an exact count adds up only the rows that came after.

-- Adds new entries and closed claims to queue_rollups, lane by lane.
-- A claim that stays open for more than 10 seconds is noted, and passed over. Counts and searches for open attempts
-- read only the rest, which is not counted yet. Rows are rewritten seldom where little has happened. Does nothing while
-- another session is counting. With everything it counts the rest, too; of some queues, if they are named: then in one
-- go. Otherwise it ends after 10 seconds, or a tenth of the time that the caller's timeouts leave; and with each lane
-- after max_claims claims. Lanes are read some at a time. When a look at all queues is cut off, the next call goes on
-- with it; a look at the busy ones begins anywhere.
-- Returns whether there is more to count.
-- Locks: the counts, until the transaction ends; where another session has them, it does nothing.
create or replace function awa._fold(
  max_claims int default 20000, everything boolean default false, queue_ids bigint[] default null
) returns boolean
language plpgsql
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_variable
declare
  v_lane record;
  v_fold record;
  v_began timestamptz := clock_timestamp();
  v_budget interval := case when queue_ids is null then awa._budget('10 seconds', 10) end; -- null: in one go
  v_max int := awa._fold_max(max_claims, v_budget);
  v_counted int := 0;
  v_more boolean := false;
  v_is_cut boolean := false;
  v_is_sweep boolean := false;
  v_is_whole boolean := queue_ids is null and not everything; -- otherwise some new claims are not looked at
  v_until bigint; -- the next pass begins after this claim
  v_lanes bigint[];
  v_at int := 0;
  v_before bigint; -- lanes are read from the last one back
  v_last bigint;
  v_size int;
  v_piece bigint[];
  v_xids xid8[];
  v_counts awa.queue_statistics[] := '{}'; -- for the statistics
  v_ended awa.lease_claims[] := '{}'; -- for these, too
  v_completed_at timestamptz[] := '{}'; -- of these claims
  v_later interval := '0'; -- the time that these take at the end
begin
  perform awa._current_segment(); -- in a restored database, visibility means nothing
  if not pg_try_advisory_xact_lock(awa._fold_key()) then
    return false;
  end if;
  if queue_ids is null and not everything then
    -- Those that have been claimed from, and all that have changed as often as that takes a fiftieth of the time (or if
    -- a clock was ahead): for claims that were committed late, and entries that no worker claims.
    v_is_sweep := (
      select (extract(epoch from v_began) * 1000000)::bigint not between s.last_value - 3600000000 and s.last_value
        from awa.next_fold_at s);
    v_until := awa._claimed_until(v_began - interval '30 seconds'); -- by then each was counted, or noted as open
    if not v_is_sweep then
      queue_ids := array(select q from awa._busy_queues() q);
    else
      v_before := (select nullif(s.last_value, 0) from awa.fold_from s);
      v_is_whole := v_before is null;
    end if;
  end if;
  v_lanes := case when queue_ids is not null then awa._lanes_in_turn(queue_ids) end;
  loop
    if v_lanes is null then
      select count(*), min(u.lane),
             coalesce(array_agg(u.lane order by u.lane desc) filter (where not u.is_counted), '{}'),
             coalesce(array_agg(u.last_xid order by u.lane desc) filter (where not u.is_counted), '{}')
        into v_size, v_last, v_piece, v_xids
        from awa._lanes_in_use(v_before, 200) u;
    else
      v_piece := v_lanes[v_at + 1 : v_at + 200];
      v_size := cardinality(v_piece);
      v_at := v_at + v_size;
    end if;
    for v_lane in
      select l.lane
        from unnest(v_piece, v_xids) with ordinality l(lane, last_xid, nth)
        left join lateral (select * from awa.queue_rollups r where r.lane = l.lane limit 1) r on true
        left join lateral (
          select c.lane_seq from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 1
        ) c on true
       cross join lateral (
          select everything or r.folded_at is null -- or a clock that was ahead
                 or r.folded_at not between clock_timestamp() - interval '5 seconds' and clock_timestamp() as is_due
        ) d
       where (c.lane_seq > coalesce(r.closed_seq, 0) + case when d.is_due then 0 else 50 end
           or everything
             and (select true from awa._appended_since(l.lane, coalesce(r.counted, '3:3:'), r.dropped) limit 1)
           or d.is_due
             and (r.open_seqs <> '{}'
               or l.last_xid >= coalesce(pg_snapshot_xmin(r.counted), '3')
                 and l.last_xid < pg_snapshot_xmin(pg_current_snapshot()) -- so that the next look finds nothing
               or (select true from awa._entries e
                    where e.lane = l.lane and (e.xid, e.job_id) > (pg_snapshot_xmax(coalesce(r.counted, '3:3:')), 0)
                    limit 1)))
         -- not the rest of one that was forgotten
         and (select true from awa.queues q where q.queue_id = awa._queue_of(l.lane) limit 1)
       order by l.nth
    loop
      if v_counted > 0 and clock_timestamp() + v_later > v_began + v_budget then
        v_is_cut := true;
        v_before := v_lane.lane + 1;
        exit;
      end if;
      v_counted := v_counted + 1;
      v_fold := awa._fold_lane(v_lane.lane, v_max, v_began + v_budget, v_counts, v_ended, v_completed_at);
      v_more := v_more or v_fold.is_more;
      v_until := least(v_until, v_fold.looked_until); -- null where that holds nothing back
      v_counts := v_fold.counts;
      v_ended := v_fold.ended;
      v_completed_at := v_fold.completed_at;
      v_later := v_later + v_fold.jobs * interval '3 microseconds';
    end loop;
    exit when v_is_cut or v_size < 200;
    v_before := v_last;
    v_is_cut := clock_timestamp() > v_began + v_budget;
    exit when v_is_cut;
  end loop;
  perform awa._store_statistics(v_counts || array(select e from awa._ends_of(v_ended, v_completed_at) e));
  perform setval('awa.fold_from', case when v_is_cut then v_before else 0 end) where v_is_sweep;
  if v_is_cut then
    return true;
  end if;
  perform setval('awa.folded_until', greatest(v_until, 0)) where v_until is not null and v_is_whole;
  if v_is_sweep and not v_more then
    perform awa._forget_queues();
    perform setval('awa.next_fold_at',
      ((extract(epoch from v_began) + 50 * extract(epoch from clock_timestamp() - v_began)) * 1000000)::bigint);
  end if;
  return v_more;
end
$$;
comment on function awa._fold is 'Adds new entries and closed claims to queue_rollups, lane by lane';

-- The lanes of some queues, from the last one back, beginning with any of the queues.
create or replace function awa._lanes_in_turn(queue_ids bigint[]) returns bigint[]
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_last bigint := queue_ids[1 + floor(random() * cardinality(queue_ids))::int];
begin
  return array(
    select l.lane from (select distinct q from unnest(queue_ids) q) q cross join awa._lanes_of(q) l
     order by q <= v_last desc, 1 desc);
end
$$;
comment on function awa._lanes_in_turn is
  'The lanes of some queues, from the last one back, beginning with any of the queues';

-- Gives lanes a row of counts each, where they have none.
-- The caller has locked the counts.
create or replace function awa._add_rollups(lanes bigint[]) returns void
language plpgsql
as $$
begin
  insert into awa.queue_rollups (lane)
  select l from unnest(lanes) l where (select true from awa.queue_rollups r where r.lane = l limit 1) is null;
end
$$;
comment on function awa._add_rollups is 'Gives lanes a row of counts each, where they have none';

-- Adds the new rows of one lane to its counts, at most about max_rows entries and as many claims at a time.
-- These claims have about ten times as many jobs, at most. Goes on with the entries until the time that is given. The
-- entries, tombstones and arrivals of one transaction are counted together. The caller has locked the counts.
-- Returns whether there is more, and the last claim up to which it has looked where there are open ones, or more. Adds,
-- for the statistics: the new jobs; and the claims that are counted now, with the time at which all attempts of each
-- completed, if they did so at once. Stores what has become much. jobs is the number of their jobs.
create or replace function awa._fold_lane(
  lane bigint,
  max_rows int,
  until timestamptz,
  inout counts awa.queue_statistics[],
  inout ended awa.lease_claims[],
  inout completed_at timestamptz[],
  out is_more boolean,
  out looked_until bigint,
  out jobs bigint
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_rollup awa.queue_rollups;
  v_end xid8; -- rows of this transaction and of later ones are counted later
  v_now pg_snapshot;
  v_new record;
  v_claim record;
  v_counted int := 0;
begin
  is_more := false;
  jobs := 0;
  if cardinality(ended) > 200 then -- so that no lane copies very many
    counts := counts || array(select e from awa._ends_of(ended, completed_at) e);
    ended := '{}';
    completed_at := '{}';
  end if;
  if cardinality(counts) > 500 then -- the same
    perform awa._store_statistics(counts);
    counts := '{}';
  end if;
  perform awa._add_rollups(array[lane]);
  select * into v_rollup from awa.queue_rollups r where r.lane = lane;
  loop
    v_end := awa._nth_after(lane, pg_snapshot_xmax(v_rollup.counted), max_rows);
    v_now := awa._cut_snapshot(awa._snapshot(), v_end);
    for v_new in
      select n.segment, sum(n.entries) as entries, sum(n.tombstones) as tombstones, sum(n.enqueued) as enqueued,
             sum(n.deleted) as deleted, n.kind, awa._minute_of(n.ready_at) as minute
        from awa._appended_since(lane, v_rollup.counted, v_rollup.dropped, pg_snapshot_xmax(v_now)) n
       where pg_visible_in_snapshot(n.xid, v_now)
       group by n.segment, n.kind, awa._minute_of(n.ready_at)
    loop
      v_rollup.appended := v_rollup.appended + v_new.entries;
      v_rollup.segment_entries[v_new.segment + 1] := v_rollup.segment_entries[v_new.segment + 1] + v_new.entries;
      v_rollup.buried := v_rollup.buried + v_new.tombstones;
      v_rollup.enqueued := v_rollup.enqueued + v_new.enqueued;
      v_rollup.completed := v_rollup.completed - v_new.deleted;
      if v_new.enqueued > 0 and v_new.kind is not null then
        counts := counts || (awa._queue_of(lane), 60, coalesce(v_new.minute, awa._minute_of(clock_timestamp())),
          v_new.kind, v_new.enqueued, 0, 0, '{}', '{}')::awa.queue_statistics;
      end if;
    end loop;
    v_rollup.counted := v_now;
    exit when v_end is distinct from pg_snapshot_xmax(v_now);
    is_more := clock_timestamp() > until;
    exit when is_more;
  end loop;
  for v_claim in
    select c.claim_id, c.lane_seq, cardinality(c.job_ids) as size, c.claimed_at, k.closed, k.completed, c as claim,
           case when k.closures = 1 and k.completed = k.closed then k.closed_at end as completed_at
      from awa._uncounted(lane, v_rollup.closed_seq, v_rollup.open_seqs, max_rows) c
     cross join lateral (
        select coalesce(sum(coalesce(cardinality(k.items), 1)), 0) as closed,
               coalesce(sum(coalesce(cardinality(k.items), 1)) filter (
                 where k.outcome in ('completed', 'completed_with_row')
               ),
                 0) as completed,
               count(*) as closures, min(k.closed_at) as closed_at
          from awa.lease_claim_closures k
         where k.claim_id = c.claim_id
        offset 0
      ) k
     order by c.lane_seq
  loop
    if v_claim.closed = v_claim.size then
      v_rollup.claimed := v_rollup.claimed + v_claim.size;
      v_rollup.completed := v_rollup.completed + v_claim.completed;
      v_rollup.open_seqs := array_remove(v_rollup.open_seqs, v_claim.lane_seq);
      if v_claim.size > 0 then -- a place that was noted has none, and lies anywhere
        ended := ended || v_claim.claim;
        completed_at := completed_at || v_claim.completed_at;
      end if;
      jobs := jobs + v_claim.size;
    elsif v_claim.lane_seq > v_rollup.closed_seq then
      looked_until := least(looked_until, v_claim.claim_id - 1);
      exit when v_claim.claimed_at between clock_timestamp() - interval
        '10 seconds' and clock_timestamp() + interval '1 second'
        or cardinality(v_rollup.open_seqs) >= 1000;
      v_rollup.open_seqs := v_rollup.open_seqs || v_claim.lane_seq;
    end if;
    continue when v_claim.lane_seq <= v_rollup.closed_seq;
    v_rollup.closed_seq := v_claim.lane_seq;
    v_counted := v_counted + 1;
    if v_counted = max_rows or jobs >= 10 * max_rows then
      looked_until := least(looked_until, v_claim.claim_id); -- there may be more
      is_more := true;
      exit;
    end if;
  end loop;
  update awa.queue_rollups r
     set counted = v_rollup.counted, enqueued = v_rollup.enqueued, appended = v_rollup.appended,
         segment_entries = v_rollup.segment_entries, buried = v_rollup.buried, closed_seq = v_rollup.closed_seq,
         open_seqs = v_rollup.open_seqs,
         -- so that the next pass goes on
         claimed = v_rollup.claimed, completed = v_rollup.completed,
         folded_at = case when is_more then '-infinity' else clock_timestamp() end
   where r.lane = lane;
end
$$;
comment on function awa._fold_lane is
  'Adds the new rows of one lane to its counts, at most about max_rows entries and as many claims at a time';

-- Adds the rows of a segment that is not the current one to the counts, lane by lane.
-- Goes on until all rows are counted that are visible now, but for open claims. New rows of these lanes elsewhere do
-- not keep it from its end. Of some lanes, if they are given. The caller has locked the counts. Ends as _fold does, or
-- earlier, if it is to take less.
-- Returns whether there is more.
create or replace function awa._fold_segment(
  segment smallint,
  lanes bigint[] default null,
  most interval default '10 seconds'
) returns boolean
language plpgsql
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_variable
declare
  v_budget interval := awa._budget(most, 10);
  v_end timestamptz := clock_timestamp() + v_budget;
  v_lane record;
  v_fold record;
  v_counted int := 0;
  v_more boolean := false;
  v_counts awa.queue_statistics[] := '{}'; -- for the statistics
  v_ended awa.lease_claims[] := '{}'; -- for these, too
  v_completed_at timestamptz[] := '{}'; -- of these claims
  v_later interval := '0'; -- the time that these take at the end
begin
  for v_lane in
    select l.lane, l.last_seq
      from awa._lanes_in_segment(segment, lanes) l
      left join lateral (
        select * from awa.queue_rollups r where r.lane = l.lane limit 1
      ) r on true
     where l.last_seq > coalesce(r.closed_seq, 0)
        or r.open_seqs <> '{}'
        or (select true from awa._put_since(segment, l.lane, coalesce(r.counted, '3:3:')) limit 1)
  loop
    if v_counted > 0 and clock_timestamp() + v_later > v_end then
      v_more := true;
      exit;
    end if;
    v_counted := v_counted + 1;
    v_fold := awa._fold_lane(v_lane.lane, awa._fold_max(20000, v_budget), v_end, v_counts, v_ended, v_completed_at);
    v_counts := v_fold.counts;
    v_ended := v_fold.ended;
    v_completed_at := v_fold.completed_at;
    v_later := v_later + v_fold.jobs * interval '3 microseconds';
    if v_fold.is_more then
      v_more := v_more or exists (
        select from awa.queue_rollups r
         where r.lane = v_lane.lane
           and (
             r.closed_seq < v_lane.last_seq
               or (select true from awa._put_since(segment, v_lane.lane, r.counted) limit 1)
           ));
    end if;
  end loop;
  perform awa._store_statistics(v_counts || array(select e from awa._ends_of(v_ended, v_completed_at) e));
  return v_more;
end
$$;
comment on function awa._fold_segment is
  'Adds the rows of a segment that is not the current one to the counts, lane by lane';

-- How many rows of a lane are counted at a time.
-- Where there is little time, as many as a busy machine manages.
create or replace function awa._fold_max(max_rows int, budget interval) returns int
language sql immutable
return case
  when max_rows is null or budget is null then max_rows
  else least(max_rows, greatest(20000 * extract(epoch from budget), 100)::int)
end;
comment on function awa._fold_max is 'How many rows of a lane are counted at a time';

-- The transaction after the one of the nth row of a lane that is not older than a transaction.
-- Of its entries, tombstones, arrivals or deleted jobs, whichever comes first. Null where there are fewer, or nth is
-- null.
create or replace function awa._nth_after(lane bigint, since xid8, nth int) returns xid8
language sql stable
as $$
  select (min(x.xid)::text::bigint + 1)::text::xid8
    from (
      (
        select e.xid
          from awa._entries e
         where e.lane = _nth_after.lane and (e.xid, e.job_id) > (since, 0)
         order by e.xid, e.job_id
        offset nth - 1
         limit 1
      )
      union all
      (
        select t.by_xid
          from awa.ready_tombstones t
         where t.lane = _nth_after.lane and t.by_xid >= since
         order by t.by_xid
        offset nth - 1
         limit 1
      )
      union all
      (
        select a.xid
          from awa.arrivals a
         where a.lane = _nth_after.lane and a.xid >= since
         order by a.xid
        offset nth - 1
         limit 1
      )
      union all
      (
        select d.by_xid
          from awa.deleted_jobs d
         where d.lane = _nth_after.lane and d.by_xid >= since
         order by d.by_xid
        offset nth - 1
         limit 1
      )
    ) x
   where nth is not null
$$;
comment on function awa._nth_after is
  'The transaction after the one of the nth row of a lane that is not older than a transaction';

-- The last claim before those that are younger than a time, among those that fold has not looked at.
-- Claims that are being committed are younger, and were not made by a clock that was ahead.
create or replace function awa._claimed_until(claimed_before timestamptz) returns bigint
language sql stable
as $$
  select coalesce(min(c.claim_id) filter (
    where c.claimed_at between claimed_before and clock_timestamp() + interval '1 second'
  ) - 1,
    max(c.claim_id), (select s.last_value from awa.folded_until s))
    from awa.lease_claims c
   where c.claim_id > (select s.last_value from awa.folded_until s)
$$;
comment on function awa._claimed_until is
  'The last claim before those that are younger than a time, among those that fold has not looked at';

-- Removes the names of dropped queues that have no entry, arrival or job left, at most 1,000.
-- Their counts go, too, and their cursors: a queue of the same name counts its claims from the first one on.
-- Why: it takes two steps. A transaction that has seen the name before the drop may still enqueue without another look:
-- it has an older snapshot when the name is marked, or an id, and has ended when the name is removed.
create or replace function awa._forget_queues() returns void
language plpgsql
as $$
declare
  v_gone bigint[];
  v_marked bigint[];
  v_now pg_snapshot := awa._snapshot();
begin
  if (select true from awa.queues q where q.dropped_at is not null limit 1) is null then
    return;
  end if;
  v_gone := array(
    select q.queue_id
      from (select q.queue_id from awa.queues q group by q.queue_id having bool_and(q.dropped_at is not null)) q
     where not exists (
         select from (select awa._first_lane(q.queue_id) as first, awa._last_lane(q.queue_id) as last) l
          where (select true from awa.ready_entries e where e.lane between l.first and l.last limit 1)
             or (select true from awa.ready_tombstones t where t.lane between l.first and l.last limit 1)
             or (select true from awa.arrivals a where a.lane between l.first and l.last limit 1)
             or (
               select true from awa.lease_claims c where c.lane between l.first and l.last and c.job_ids <> '{}' limit 1
             )
             or (select true from awa.leases s where s.lane between l.first and l.last limit 1)
             or (select true from awa.deferred_jobs d where d.lane between l.first and l.last limit 1)
             or (select true from awa.limited_jobs w where w.lane between l.first and l.last limit 1)
             or (
               select true
                 from awa.done_entries d
                where d.lane between l.first and l.last and not d.counted_by_closure
                limit 1
             )
             or (select true from awa.deleted_jobs d where d.lane between l.first and l.last limit 1))
     limit 1000);
  with names as (
    delete from awa.queues q
     where q.queue_id = any(v_gone) and q.forget_after <= pg_snapshot_xmin(v_now)
    returning q.queue_id
  ), cursors as (
    delete from awa.lease_claims c using names n
     where c.lane between awa._first_lane(n.queue_id) and awa._last_lane(n.queue_id) and c.job_ids = '{}'
  )
  delete from awa.queue_rollups r using names n
   where r.lane >= awa._first_lane(n.queue_id) and r.lane <= awa._last_lane(n.queue_id);
  perform pg_stat_clear_snapshot(); -- this transaction may have looked before the drop
  v_marked := array(
    select q.queue_id
      from awa.queues q
     where q.queue_id = any(v_gone) and q.forget_after is null
     group by q.queue_id
    having bool_and(not exists (select from awa._old_snapshots(q.xmin::text::xid8))));
  -- A transaction that has got an id since, and no snapshot any more, is waited for.
  perform pg_stat_clear_snapshot(); -- see _next_xid
  update awa.queues q
     set forget_after = awa._next_xid()
   where q.queue_id = any(v_marked) and q.forget_after is null;
end
$$;
comment on function awa._forget_queues is
  'Removes the names of dropped queues that have no entry, arrival or job left, at most 1,000';
