-- Counts what ledgers have grown by into queue_rollups, lane by lane: entries that have become visible, and claims, from the oldest on, that are closed. What comes after is all that counts and searches
-- for open attempts have to read. Seldom where little has happened, so that the rows are not rewritten all the time. Skips lanes that somebody else is counting.
create or replace function awa._fold(max_claims int default 20000) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_lane record;
  v_rollup awa.queue_rollups;
  v_now pg_snapshot;
  v_new record;
  v_claim record;
begin
  for v_lane in
    select l.lane, r.lane is not null as exists
      from (select distinct q.queue_id from awa.queues q) q
     cross join lateral (select q.queue_id * 8 + p as lane from unnest('{0,1,2,3,4}'::int[]) p) l
      left join awa.queue_rollups r on r.lane = l.lane
      left join lateral (
        select c.lane_seq from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 1
      ) c on true
     where c.lane_seq > coalesce(r.closed_seq, 0) + case when r.folded_at > clock_timestamp() - interval '5 seconds' then 50 else 0 end
        or (r.folded_at is null or r.folded_at < clock_timestamp() - interval '5 seconds')
           and (select true
                  from awa.ready_entries e
                 where e.lane = l.lane and (e.xid, e.job_id) > (pg_snapshot_xmax(coalesce(r.counted, '3:3:')), 0)
                 limit 1)
     order by l.lane
  loop
    if not v_lane.exists then
      insert into awa.queue_rollups (lane) values (v_lane.lane) on conflict do nothing;
    end if;
    select * into v_rollup from awa.queue_rollups r where r.lane = v_lane.lane for no key update skip locked;
    continue when not found;
    v_now := awa._snapshot();
    select count(*) filter (where not n.is_tombstone) as entries, count(*) filter (where n.is_tombstone) as tombstones into v_new
      from awa._appended_since(v_lane.lane, v_rollup.counted, v_rollup.dropped) n
     where pg_visible_in_snapshot(n.xid, v_now);
    v_rollup.appended := v_rollup.appended + v_new.entries;
    v_rollup.buried := v_rollup.buried + v_new.tombstones;
    for v_claim in
      select c.lane_seq, cardinality(c.job_ids) as size, k.closed, k.completed
        from (
          select * from awa.lease_claims c where c.lane = v_lane.lane and c.lane_seq > v_rollup.closed_seq order by c.lane_seq limit max_claims
        ) c
       cross join lateral (
          select coalesce(sum(coalesce(cardinality(k.items), 1)), 0) as closed,
                 coalesce(sum(coalesce(cardinality(k.items), 1)) filter (where k.outcome in ('completed', 'recorded')), 0) as completed
            from awa.lease_claim_closures k
           where k.claim_id = c.claim_id
          offset 0
        ) k
       order by c.lane_seq
    loop
      exit when v_claim.closed < v_claim.size;
      v_rollup.closed_seq := v_claim.lane_seq;
      v_rollup.claimed := v_rollup.claimed + v_claim.size;
      v_rollup.completed := v_rollup.completed + v_claim.completed;
    end loop;
    update awa.queue_rollups r
       set counted = v_now, appended = v_rollup.appended, buried = v_rollup.buried, closed_seq = v_rollup.closed_seq, claimed = v_rollup.claimed,
           completed = v_rollup.completed, folded_at = clock_timestamp()
     where r.lane = v_lane.lane;
  end loop;
end
$$;
comment on function awa._fold is 'Counts what the ledgers have grown by into queue_rollups';

-- The entries and tombstones of a lane that are not visible in a snapshot, as claim reads them: of transactions that were in progress, one by one, then all that came after. Leaves out the tombstones
-- of entries that were dropped with their queue.
create or replace function awa._appended_since(lane bigint, since pg_snapshot, dropped pg_snapshot, out xid xid8, out is_tombstone boolean) returns setof record
language sql stable
as $$
  select e.xid, false
    from awa.ready_entries e
   where e.lane = _appended_since.lane and (e.xid, e.job_id) > (pg_snapshot_xmax(since), 0)
  union all
  select e.xid, false
    from pg_snapshot_xip(since) x
   cross join lateral (select * from awa.ready_entries e where e.lane = _appended_since.lane and e.xid = x offset 0) e
  union all
  select t.by_xid, true
    from awa.ready_tombstones t
   where t.lane = _appended_since.lane and t.by_xid >= pg_snapshot_xmax(since) and pg_visible_in_snapshot(t.xid, dropped) is not true
  union all
  select t.by_xid, true
    from pg_snapshot_xip(since) x
   cross join lateral (select * from awa.ready_tombstones t where t.by_xid = x and t.lane = _appended_since.lane offset 0) t
   where pg_visible_in_snapshot(t.xid, dropped) is not true
$$;
comment on function awa._appended_since is 'The entries and tombstones of a lane that are not visible in a snapshot';
