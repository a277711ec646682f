-- Counts what ledgers have grown by into queue_rollups, lane by lane: entries that have become visible, and claims that are closed. One that stays open for more than 10 seconds is noted, and passed over. What is not counted
-- yet is all that counts and searches for open attempts have to read. Seldom where little has happened, so that the rows are not rewritten all the time. One at a time: does nothing while somebody else is at it.
-- Everything says to count the rest, too; of some queues, if they are named: then in one go.
-- Otherwise it ends after 10 seconds, or a tenth of the statement_timeout; and with each lane after max_claims claims. The next call goes on, with the lanes first that were counted longest ago. Returns whether there is more to count.
create or replace function awa._fold(max_claims int default 20000, everything boolean default false, queue_ids bigint[] default null) returns boolean
language plpgsql
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_variable
declare
  v_lane record;
  v_rollup awa.queue_rollups;
  v_now pg_snapshot;
  v_new record;
  v_claim record;
  v_began timestamptz := clock_timestamp();
  v_end timestamptz := case when queue_ids is null then v_began + least(interval '10 seconds', nullif(current_setting('statement_timeout')::interval, '0') / 10) end;
  v_lanes int := 0;
  v_more boolean := false;
  v_is_sweep boolean := false;
  v_counted int;
  v_until bigint; -- the next pass begins after this claim
begin
  perform awa._current_segment(); -- in a restored database, what is visible means nothing
  if not pg_try_advisory_xact_lock(awa._fold_key()) then
    return false;
  end if;
  if queue_ids is null and not everything then
    -- Those that have been claimed from, and all that have changed as often as that takes a fiftieth of the time: for claims that were committed late, and entries that nobody claims.
    v_is_sweep := (select (extract(epoch from v_began) * 1000000)::bigint not between s.last_value - 3600000000 and s.last_value from awa.next_fold_at s); -- due, or a clock that was ahead
    v_until := awa._claimed_until(v_began - interval '30 seconds'); -- by then each was looked at, and counted, or noted as open
    if not v_is_sweep then
      queue_ids := awa._busy_queues();
    end if;
  end if;
  for v_lane in
    select l.lane, r.lane is not null as exists
      from (
        select u.lane, u.last_xid from awa._lanes_in_use() u where queue_ids is null and not u.is_counted
        union all
        select q * 8 + p, null from (select distinct q from unnest(queue_ids) q) q cross join generate_series(0, 4) p
      ) l
      left join lateral (
        select * from awa.queue_rollups r where r.lane = l.lane limit 1
      ) r on true
      left join lateral (
        select c.lane_seq from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 1
      ) c on true
     where (c.lane_seq > coalesce(r.closed_seq, 0) + case when r.folded_at between clock_timestamp() - interval '5 seconds' and clock_timestamp() and not everything then 50 else 0 end
        or everything and (select true from awa._appended_since(l.lane, coalesce(r.counted, '3:3:'), r.dropped) limit 1)
        or (r.folded_at is null or r.folded_at not between clock_timestamp() - interval '5 seconds' and clock_timestamp() or everything) -- or a clock that was ahead
           and (r.open_seqs <> '{}'
             or l.last_xid >= coalesce(pg_snapshot_xmin(r.counted), '3') and l.last_xid < pg_snapshot_xmin(pg_current_snapshot()) -- so that the next look finds nothing
             or (
               select true
                 from awa._entries e
                where e.lane = l.lane and (e.xid, e.job_id) > (pg_snapshot_xmax(coalesce(r.counted, '3:3:')), 0)
                limit 1)))
       and (select true from awa.queues q where q.queue_id = l.lane >> 3 limit 1) -- not what is left of one that was forgotten
     order by r.folded_at nulls first, l.lane
  loop
    if v_lanes > 0 and clock_timestamp() > v_end then
      v_more := true;
      v_until := null;
      exit;
    end if;
    v_lanes := v_lanes + 1;
    if not v_lane.exists then
      insert into awa.queue_rollups (lane) values (v_lane.lane);
    end if;
    select * into v_rollup from awa.queue_rollups r where r.lane = v_lane.lane;
    v_now := awa._snapshot();
    for v_new in
      select n.segment, sum(n.entries) as entries, sum(n.tombstones) as tombstones, sum(n.enqueued) as enqueued, sum(n.deleted) as deleted
        from awa._appended_since(v_lane.lane, v_rollup.counted, v_rollup.dropped) n
       where pg_visible_in_snapshot(n.xid, v_now)
       group by n.segment
    loop
      v_rollup.appended := v_rollup.appended + v_new.entries;
      v_rollup.kept[v_new.segment + 1] := v_rollup.kept[v_new.segment + 1] + v_new.entries;
      v_rollup.buried := v_rollup.buried + v_new.tombstones;
      v_rollup.enqueued := v_rollup.enqueued + v_new.enqueued;
      v_rollup.completed := v_rollup.completed - v_new.deleted;
    end loop;
    v_counted := 0;
    for v_claim in
      select c.claim_id, c.lane_seq, cardinality(c.job_ids) as size, c.claimed_at, k.closed, k.completed
        from awa._uncounted(v_lane.lane, v_rollup.closed_seq, v_rollup.open_seqs, max_claims) c
       cross join lateral (
          select coalesce(sum(coalesce(cardinality(k.items), 1)), 0) as closed,
                 coalesce(sum(coalesce(cardinality(k.items), 1)) filter (where k.outcome in ('completed', 'recorded')), 0) as completed
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
      elsif v_claim.lane_seq > v_rollup.closed_seq then
        v_until := least(v_until, v_claim.claim_id - 1);
        exit when v_claim.claimed_at between clock_timestamp() - interval '10 seconds' and clock_timestamp() + interval '1 second' or cardinality(v_rollup.open_seqs) >= 1000;
        v_rollup.open_seqs := v_rollup.open_seqs || v_claim.lane_seq;
      end if;
      v_rollup.closed_seq := greatest(v_rollup.closed_seq, v_claim.lane_seq);
      v_counted := v_counted + 1;
      if v_counted = max_claims then
        v_until := least(v_until, v_claim.claim_id); -- there may be more
        v_more := true;
      end if;
    end loop;
    update awa.queue_rollups r
       set counted = v_now, enqueued = v_rollup.enqueued, appended = v_rollup.appended, kept = v_rollup.kept, buried = v_rollup.buried, closed_seq = v_rollup.closed_seq, open_seqs = v_rollup.open_seqs,
           claimed = v_rollup.claimed, completed = v_rollup.completed, folded_at = clock_timestamp()
     where r.lane = v_lane.lane;
  end loop;
  if v_until is not null then
    perform setval('awa.folded_until', greatest(v_until, 0));
    if v_is_sweep then
      perform awa._forget_queues();
      perform setval('awa.next_fold_at', ((extract(epoch from v_began) + 50 * extract(epoch from clock_timestamp() - v_began)) * 1000000)::bigint);
    end if;
  end if;
  return v_more;
end
$$;
comment on function awa._fold is 'Counts what the ledgers have grown by into queue_rollups';

-- The key of the advisory lock on queue_rollups: below those of claims.
create or replace function awa._fold_key() returns bigint
language sql immutable parallel safe
as $$ select awa._claim_key(-1) $$;
comment on function awa._fold_key is 'The key of the advisory lock on queue_rollups';

-- The claims of a lane that are not counted yet: those that were open when they were passed over, and what came after.
create or replace function awa._uncounted(lane bigint, closed_seq bigint, open_seqs bigint[], max_claims int) returns setof awa.lease_claims
language sql stable
as $$
  select c.*
    from unnest(open_seqs) s
   cross join lateral (select * from awa.lease_claims c where c.lane = _uncounted.lane and c.lane_seq = s limit 1) c
  union all
  (select c.* from awa.lease_claims c where c.lane = _uncounted.lane and c.lane_seq > _uncounted.closed_seq order by c.lane_seq limit max_claims)
$$;
comment on function awa._uncounted is 'The claims of a lane that are not counted yet';

-- What a lane has got that is not visible in a snapshot, as claim reads it: of transactions that were in progress, one by one, then all that came after. An entry whose created_at is its ready_at is that of a new job; other
-- jobs come with a note. A deleted job is none that was enqueued, nor one that completed. Leaves out the tombstones of entries, and the deleted jobs, that were dropped with their queue.
create or replace function awa._appended_since(lane bigint, since pg_snapshot, dropped pg_snapshot, out xid xid8, out segment smallint, out entries int, out tombstones int, out enqueued bigint, out deleted int) returns setof record
language sql stable
as $$
  select e.xid, e.segment, 1, 0, (e.created_at is null)::int, 0
    from awa._entries e
   where e.lane = _appended_since.lane and (e.xid, e.job_id) > (pg_snapshot_xmax(since), 0)
  union all
  select e.xid, e.segment, 1, 0, (e.created_at is null)::int, 0
    from pg_snapshot_xip(since) x
   cross join lateral (select * from awa._entries e where e.lane = _appended_since.lane and e.xid = x offset 0) e
  union all
  select t.by_xid, t.segment, 0, 1, 0, 0
    from awa.ready_tombstones t
   where t.lane = _appended_since.lane and t.by_xid >= pg_snapshot_xmax(since) and pg_visible_in_snapshot(t.xid, dropped) is not true
  union all
  select t.by_xid, t.segment, 0, 1, 0, 0
    from pg_snapshot_xip(since) x
   cross join lateral (select * from awa.ready_tombstones t where t.by_xid = x and t.lane = _appended_since.lane offset 0) t
   where pg_visible_in_snapshot(t.xid, dropped) is not true
  union all
  select t.by_xid, t.segment, 0, 0, t.batch, 0
    from awa.ready_tombstones t
   where t.lane = - _appended_since.lane and (t.xid, t.job_id) > (pg_snapshot_xmax(since), 0)
  union all
  select t.by_xid, t.segment, 0, 0, t.batch, 0
    from pg_snapshot_xip(since) x
   cross join lateral (select * from awa.ready_tombstones t where t.lane = - _appended_since.lane and t.xid = x offset 0) t
  union all
  select d.by_xid, d.segment, 0, 0, -1, 1
    from awa.deleted_jobs d
   where d.lane = _appended_since.lane and d.by_xid >= pg_snapshot_xmax(since) and pg_visible_in_snapshot(d.xid, dropped) is not true
  union all
  select d.by_xid, d.segment, 0, 0, -1, 1
    from pg_snapshot_xip(since) x
   cross join lateral (select * from awa.deleted_jobs d where d.lane = _appended_since.lane and d.by_xid = x offset 0) d
   where pg_visible_in_snapshot(d.xid, dropped) is not true
$$;
comment on function awa._appended_since is 'What a lane has got that is not visible in a snapshot';

-- The queues in which claims may be open, or not counted: those with claims that maintenance has not looked at, and those of which it knows that some are open. A claim whose transaction took more than 30 seconds may be missing until
-- all queues are looked at.
create or replace function awa._busy_queues() returns bigint[]
language sql stable
as $$
  select array(
    select c.lane >> 3 from awa.lease_claims c where c.claim_id > (select s.last_value from awa.folded_until s)
    union
    select r.lane >> 3 from awa.queue_rollups r where r.open_seqs <> '{}')
$$;
comment on function awa._busy_queues is 'The queues in which claims may be open, or not counted';

-- The last claim before those that are younger than a time, among those that maintenance has not looked at. Claims that are being committed are younger, and were not made by a clock that was ahead.
create or replace function awa._claimed_until(claimed_before timestamptz) returns bigint
language sql stable
as $$
  select coalesce(min(c.claim_id) filter (where c.claimed_at between claimed_before and clock_timestamp() + interval '1 second') - 1, max(c.claim_id), (select s.last_value from awa.folded_until s))
    from awa.lease_claims c
   where c.claim_id > (select s.last_value from awa.folded_until s)
$$;
comment on function awa._claimed_until is 'The last claim before those that are younger than a time';

-- Removes the names of dropped queues of which nothing is left: no entry, note or job. Their counts go, too. At most 1,000.
-- In two steps, for a transaction that has seen the name before the drop may still enqueue without looking for it again: it has an older snapshot when the name is marked, or an id, and has ended when the name is removed.
create or replace function awa._forget_queues() returns void
language plpgsql
as $$
declare
  v_gone bigint[];
  v_now pg_snapshot := awa._snapshot();
begin
  if (select true from awa.queues q where q.dropped_at is not null limit 1) is null then
    return;
  end if;
  v_gone := array(
    select q.queue_id
      from (select q.queue_id from awa.queues q group by q.queue_id having bool_and(q.dropped_at is not null)) q
     where not exists (
         select from generate_series(q.queue_id * 8, q.queue_id * 8 + 7) l(lane)
          where (select true from awa.ready_entries e where e.lane = l.lane limit 1)
             or (select true from awa.ready_tombstones t where t.lane = l.lane limit 1)
             or (select true from awa.ready_tombstones t where t.lane = - l.lane limit 1)
             or (select true from awa.lease_claims c where c.lane = l.lane and c.job_ids <> '{}' limit 1)
             or (select true from awa.leases s where s.lane = l.lane limit 1)
             or (select true from awa.deferred_jobs d where d.lane = l.lane limit 1)
             or (select true from awa.done_entries d where d.lane = l.lane and not d.recorded limit 1)
             or (select true from awa.dlq_entries d where d.lane = l.lane limit 1)
             or (select true from awa.deleted_jobs d where d.lane = l.lane limit 1))
     limit 1000);
  with names as (
    delete from awa.queues q where q.queue_id = any(v_gone) and q.forget_after <= pg_snapshot_xmin(v_now) returning q.queue_id
  )
  delete from awa.queue_rollups r using names n where r.lane >= n.queue_id * 8 and r.lane <= n.queue_id * 8 + 7;
  update awa.queues q
     set forget_after = pg_snapshot_xmax(v_now)
   where q.queue_id = any(v_gone) and q.forget_after is null
     and not exists (select from awa._old_snapshots(q.xmin::text::xid8));
end
$$;
comment on function awa._forget_queues is 'Removes the names of dropped queues of which nothing is left';
