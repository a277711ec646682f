-- The counts of each lane in the ledgers, and whether they are right.

-- The time at which the first entry of a lane became ready that no cursor has passed.
-- Given the lane and its cursor. Looks into the range behind the cursor, and at entries that were committed late.
create or replace function awa._oldest_ready(
  lane bigint,
  lo pg_snapshot,
  hi pg_snapshot,
  pos_xid xid8,
  pos_id bigint,
  from_xid xid8,
  from_id bigint
) returns setof timestamptz
language sql stable
as $$
  select least(h.ready_at, a.ready_at)
    from (select) x
    left join lateral (
      select e.ready_at
        from awa._entries e
       where e.lane = _oldest_ready.lane and (e.xid, e.job_id) > (from_xid, from_id)
         and (
          select true
            from awa.ready_tombstones t
           where t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id
           limit 1
        ) is null
       order by e.xid, e.job_id
       limit 1
    ) h on true
   cross join lateral (
      select min(e.ready_at) as ready_at
        from awa._late(lo, hi, pos_xid, pos_id, from_xid, from_id) x
       cross join lateral (
          select e.ready_at
            from awa._entries e
           where e.lane = _oldest_ready.lane and e.xid = x.xid and e.job_id > x.after_id and e.job_id <= x.until_id
             and (
              select true
                from awa.ready_tombstones t
               where t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id
               limit 1
            ) is null
           order by e.job_id
           limit 1
        ) e
      offset 0
    ) a
$$;
comment on function awa._oldest_ready is
  'The time at which the first entry of a lane became ready that no cursor has passed';

-- The exact counts of each lane in the ledgers: the counts of its past, and the rows that came after. An entry that
-- this very transaction has buried, and that was claimed meanwhile, is neither running nor completed for it, and was
-- available only once.
create or replace view awa._lane_counts as
select l.lane,
       (l.enqueued + n.enqueued)::bigint as enqueued,
       (l.appended + n.entries - l.buried - n.tombstones - l.claimed - c.claimed + o.claimed)::bigint as available,
       (c.claimed - c.closed - o.open)::bigint as running,
       (l.completed + c.completed - n.deleted - o.completed)::bigint as completed,
       l.failed, l.cancelled, l.dead,
       h.ready_at as oldest_ready_at,
       l.queue_id
  from awa._lanes l
 cross join lateral (
    select coalesce(sum(a.entries), 0) as entries, coalesce(sum(a.tombstones), 0) as tombstones,
           coalesce(sum(a.enqueued), 0) as enqueued, coalesce(sum(a.deleted), 0) as deleted
      from awa._appended_since(l.lane, l.counted, l.dropped) a
     where not pg_visible_in_snapshot(a.xid, l.counted)
    offset 0
  ) n
 cross join lateral (
    select coalesce(sum(cardinality(c.job_ids)), 0) as claimed, coalesce(sum(k.closed), 0) as closed,
           coalesce(sum(k.completed), 0) as completed
      from (
        select * from awa._uncounted(l.lane, l.closed_seq, l.open_seqs, null) offset 0
      ) c
     cross join lateral (
        select sum(coalesce(cardinality(k.items), 1)) as closed,
               sum(coalesce(cardinality(k.items), 1)) filter (
                 where k.outcome in ('completed', 'completed_with_row')
               ) as completed
          from awa.lease_claim_closures k
         where k.claim_id = c.claim_id
        offset 0
      ) k
    offset 0
  ) c
  cross join lateral (
    select count(*) as claimed, count(*) filter (where k.outcome is null) as open,
           count(*) filter (where k.outcome in ('completed', 'completed_with_row')) as completed
      from (
        select *
          from awa.ready_tombstones t
         where t.by_xid = pg_current_xact_id_if_assigned()
           and t.lane = l.lane
           and pg_visible_in_snapshot(t.xid, l.dropped) is not true
           and case
                 when l.lo is null then pg_visible_in_snapshot(t.xid, l.hi)
                 else pg_visible_in_snapshot(t.xid, l.lo)
                   or pg_visible_in_snapshot(t.xid, l.hi) and (t.xid, t.job_id) <= (l.pos_xid, l.pos_id)
               end
        offset 0
      ) t
     cross join lateral (
        select c.claim_id, array_position(c.job_ids, t.job_id) - 1 as item
          from awa.lease_claims c
         where c.lane = l.lane
           and (c.pos_xid, c.pos_id) >= (t.xid, t.job_id)
           and (c.first_xid, c.first_id) <= (t.xid, t.job_id)
           and pg_visible_in_snapshot(t.xid, c.hi)
           and t.job_id = any(c.job_ids)
         order by c.pos_xid, c.pos_id
         limit 1
      ) c
     cross join lateral (
        select (
          select k.outcome
            from awa.lease_claim_closures k
           where k.claim_id = c.claim_id and (k.item = c.item or c.item = any(k.items))
           limit 1
        ) as outcome
      ) k
    offset 0
  ) o
  cross join lateral awa._oldest_ready(l.lane, l.lo, l.hi, l.pos_xid, l.pos_id, l.from_xid, l.from_id) h(ready_at);
comment on view awa._lane_counts is 'The exact counts of each lane in the ledgers';

-- Rows that are missing from the ledgers, by lane and segment, as far as these are known.
create or replace view awa._imbalances as
select l.lane, s.segment::smallint as segment,
       format('segment %s: %s entries counted, %s there', s.segment, l.segment_entries[s.segment + 1],
         coalesce(e.entries, 0)) as problem
  from awa._lanes l
 cross join generate_series(0, 3) s(segment)
  left join (
    select e.lane, e.segment, count(*) as entries
      from awa._entries e
      join awa.queue_rollups r on r.lane = e.lane
      left join awa.ring g on g.carried_segment = e.segment
     where pg_visible_in_snapshot(e.xid, r.counted)
       and pg_visible_in_snapshot(e.xid, r.dropped) is not true
       and (e.lane < g.carried_before or e.lane = any(g.passed_over)) is not false -- the others are carried
     group by e.lane, e.segment
  ) e on e.lane = l.lane and e.segment = s.segment
 where l.segment_entries[s.segment + 1] <> coalesce(e.entries, 0)
union all
select c.lane, c.segment,
       format('segment %s: of claim %s, which is counted as closed, %s of %s items are', c.segment, c.claim_id,
         coalesce(k.items, 0), cardinality(c.job_ids))
  from awa.lease_claims c
  join awa.queue_rollups r on r.lane = c.lane
  left join (
    select k.segment, k.claim_id, sum(coalesce(cardinality(k.items), 1)) as items
      from awa.lease_claim_closures k
     group by k.segment, k.claim_id
  ) k on k.segment = c.segment and k.claim_id = c.claim_id
 where c.lane_seq <= r.closed_seq and c.lane_seq <> all(r.open_seqs) and cardinality(c.job_ids) <> coalesce(k.items, 0)
union all
select null, k.segment, format('segment %s: claim %s is missing, but was answered', k.segment, k.claim_id)
  from awa.lease_claim_closures k
 where not exists (select from awa.lease_claims c where c.segment = k.segment and c.claim_id = k.claim_id)
   and k.segment is distinct from (select r.cleaned_segment from awa.ring r)
union all
select r.lane, null,
       format('claims %s to %s: %s are missing', c.first, greatest(c.last, r.closed_seq),
         greatest(c.last, r.closed_seq) - c.first + 1 - c.claims)
  from awa.queue_rollups r
 cross join lateral (
    select count(*) as claims, coalesce(min(c.lane_seq), r.closed_seq) as first, max(c.lane_seq) as last
      from awa.lease_claims c
     where c.lane = r.lane
  ) c
 where greatest(c.last, r.closed_seq) - c.first + 1 <> c.claims and (r.closed_seq > 0 or c.claims > 0);
comment on view awa._imbalances is 'Rows that are missing from the ledgers, by lane and segment';

-- The row that queue_counts returns, one per queue.
create or replace view awa.queue_counts_row as
select q.name as queue, q.queue_id as available, q.queue_id as scheduled, q.queue_id as retryable,
       q.queue_id as running, q.queue_id as waiting_external,
       q.queue_id as completed, q.queue_id as failed, q.queue_id as cancelled, q.queue_id as dead,
       q.created_at as oldest_ready_at, q.queue_id as limited
  from awa.queues q
 where false;
comment on view awa.queue_counts_row is
  'The row that queue_counts returns, one per queue. The view itself is always empty';

-- How many jobs of a queue its own limits let begin now, as claims and answers have left it; null for any number.
create or replace function awa._room_of(queue_id bigint) returns bigint
language sql stable
as $$
  select greatest(0, least(
           s.max_running - n.running + (select coalesce(sum(f.of_queue), 0) from awa.slots f where f.shard = n.shard),
           awa._rate_allows(s.rate, n.next_at, clock_timestamp())))::bigint
    from awa.queue_settings s
   cross join lateral (
      select n.shard, n.running, n.next_at
        from awa.shard_states n
       where n.shard = s.queue_id << 6
       order by n.state_id desc
       limit 1
    ) n
   where s.queue_id = _room_of.queue_id and num_nonnulls(s.max_running, s.rate) > 0
$$;
comment on function awa._room_of is
  'How many jobs of a queue its own limits let begin now, as claims and answers have left it; null for any number';

-- The lease rows that count for this transaction; and, of the jobs that it has buried, the other rows, to be taken off
-- the counts, with its own ones (is_here): see _buried_here. Not rows of done_entries that a closure counts.
create or replace view awa._leases_here as
select l.lane, 'running'::text as state, true as is_here
  from awa.leases l
 where l.job_id not in (select b.job_id from awa._buried_here b)
union all
select r.lane, r.state, r.is_here
  from (select distinct b.job_id from awa._buried_here b) b
 cross join lateral (
    select d.lane, d.state, false as is_here from awa.deferred_jobs d where d.job_id = b.job_id
    union all
    select d.lane, d.state, true from awa._deferred_here d where d.job_id = b.job_id
    union all
    select w.lane, 'available'::text, false from awa.limited_jobs w where w.job_id = b.job_id
    union all
    select f.lane, f.state, false from awa.done_entries f where f.job_id = b.job_id and not f.counted_by_closure
    union all
    select f.lane, f.state, true from awa._done_here f where f.job_id = b.job_id and not f.counted_by_closure
    offset 0
  ) r;
comment on view awa._leases_here is
  'The lease rows that count for this transaction; and the other rows of the jobs that it has buried';

-- How many of the jobs that claims have put aside wait for no limit, of the queues with such.
-- They have turns; or their group, where groups are served by turns, has one, so no limit keeps it closed.
create or replace function awa._unlimited(first_id bigint, last_id bigint) returns table (queue_id bigint, jobs bigint)
language sql stable
as $$
  select awa._queue_of(t.lane), count(*)
    from awa.turns t
   where t.lane >= awa._first_lane(first_id) and t.lane <= awa._last_lane(last_id)
   group by 1
  union all
  select q.queue_id, sum(greatest(w.jobs - s.rate_turns, 0))::bigint
    from awa.queue_settings q
   cross join lateral (
      select s.shard, s.group_id, s.rate_turns
        from awa.group_states s
       where s.shard between q.queue_id << 6 and q.queue_id << 6 | 63
         and (s.has_line or s.has_front or s.holder is not null) and s.rate_turns > 0
         and not exists (
           select
             from awa.group_states n
            where n.shard = s.shard and n.group_id = s.group_id and n.state_id > s.state_id
         )
      offset 0
    ) s
   cross join lateral (
      select count(*) as jobs from awa.limited_jobs w where w.shard = s.shard and w.group_id = s.group_id offset 0
    ) w
   where q.queue_id between first_id and last_id and q.group_turns
   group by q.queue_id
$$;
comment on function awa._unlimited is
  'How many of the jobs that claims have put aside wait for no limit, of the queues with such';

-- Exact counts of jobs by queue and state, as queue_counts returns them.
-- limited is how many of the available wait for a limit: in the lines of their groups, without a turn, or more than
-- those of the queue let begin now. Not those that only wait for the next turn of their group.
create or replace function awa._queue_counts(queue text) returns setof awa.queue_counts_row
language sql stable
as $$
with span as (
  select i.queue_id, coalesce(i.queue_id, 0) as first_id, coalesce(i.queue_id, (1::bigint << 54) - 1) as last_id
    from (select awa._queue_id(_queue_counts.queue) as queue_id) i
), lanes as (
  select l.lane, l.is_counted, l.available, l.completed, l.failed, l.cancelled, l.dead
    from awa._lanes_in_use() l
   where _queue_counts.queue is null
  union all
  select l.lane, false, 0, 0, 0, 0, 0
    from span s
   cross join awa._lanes_of(s.queue_id) l
   where _queue_counts.queue is not null
), parts as (
  select awa._queue_of(l.lane) as queue_id, n.state, n.jobs, n.oldest_ready_at, null::text as name, false as is_there
    from lanes l
   cross join lateral (
      select 0::bigint as available, 0::bigint as running, l.completed, l.failed, l.cancelled, l.dead,
             null::timestamptz as oldest_ready_at
       where l.is_counted and l.available = 0
      union all
      select l.available, 0, l.completed, l.failed, l.cancelled, l.dead, h.ready_at
        from awa._lanes c
       cross join lateral awa._oldest_ready(c.lane, c.lo, c.hi, c.pos_xid, c.pos_id, c.from_xid, c.from_id)
            h(ready_at)
       where l.is_counted and l.available <> 0 and c.queue_id = awa._queue_of(l.lane) and c.lane = l.lane
      union all
      select c.available, c.running, c.completed, c.failed, c.cancelled, c.dead, c.oldest_ready_at
        from awa._lane_counts c
       where not l.is_counted and c.queue_id = awa._queue_of(l.lane) and c.lane = l.lane
      offset 0
    ) c
   cross join lateral (
      values ('available', c.available, c.oldest_ready_at), ('running', c.running, null),
        ('completed', c.completed, null), ('failed', c.failed, null), ('cancelled', c.cancelled, null),
        ('dead', c.dead, null)
    ) n(state, jobs, oldest_ready_at)
   where n.jobs <> 0 or n.oldest_ready_at is not null
  union all
  select awa._queue_of(l.lane), l.state, sum(case when l.is_here then 1 else -1 end), null, null, false
    from span s
   cross join lateral (
      select l.lane, l.state, l.is_here
        from awa._leases_here l
       where l.lane >= awa._first_lane(s.first_id) and l.lane <= awa._last_lane(s.last_id)
      offset 0
    ) l
   group by 1, 2
  union all
  select awa._queue_of(d.lane), d.state, count(*), null, null, false
    from span s
   cross join lateral (
      select d.lane, d.state
        from awa.deferred_jobs d
       where d.lane >= awa._first_lane(s.first_id) and d.lane <= awa._last_lane(s.last_id)
      offset 0
    ) d
   group by 1, 2
  union all
  select w.queue_id, n.state, w.jobs, w.ready_at, null, false
    from (
      select awa._queue_of(w.lane) as queue_id, count(*) as jobs, min(w.ready_at) as ready_at
        from span s
       cross join lateral (
          select w.lane, w.ready_at
            from awa.limited_jobs w
           where w.lane >= awa._first_lane(s.first_id) and w.lane <= awa._last_lane(s.last_id)
          offset 0
        ) w
       group by 1
    ) w
   cross join unnest('{available,in line}'::text[]) n(state)
  union all
  select u.queue_id, 'in line', -u.jobs, null, null, false
    from span s
   cross join lateral awa._unlimited(s.first_id, s.last_id) u
  union all
  select awa._queue_of(f.lane), f.state, count(*), null, null, false
    from span s
   cross join lateral (
      select f.lane, f.state
        from awa.done_entries f
       where not f.counted_by_closure and f.lane >= awa._first_lane(s.first_id) and f.lane <= awa._last_lane(s.last_id)
      offset 0
    ) f
   group by 1, 2
  union all
  select q.queue_id, null, 0, null, q.name, q.dropped_at is null
    from span s
   cross join lateral (select * from awa.queues q where q.queue_id >= s.first_id and q.queue_id <= s.last_id offset 0) q
)
select max(p.name) as queue,
       coalesce(sum(p.jobs) filter (where p.state = any(awa._states('counted_as_available'))), 0)::bigint as available,
       coalesce(sum(p.jobs) filter (where p.state = any(awa._states('counted_as_scheduled'))), 0)::bigint as scheduled,
       coalesce(sum(p.jobs) filter (where p.state = any(awa._states('counted_as_retryable'))), 0)::bigint as retryable,
       coalesce(sum(p.jobs) filter (where p.state = any(awa._states('counted_as_running'))), 0)::bigint as running,
       coalesce(sum(p.jobs) filter (where p.state = any(awa._states('counted_as_waiting_external'))), 0)::bigint
         as waiting_external,
       coalesce(sum(p.jobs) filter (where p.state = any(awa._states('counted_as_completed'))), 0)::bigint as completed,
       coalesce(sum(p.jobs) filter (where p.state = any(awa._states('counted_as_failed'))), 0)::bigint as failed,
       coalesce(sum(p.jobs) filter (where p.state = any(awa._states('counted_as_cancelled'))), 0)::bigint as cancelled,
       coalesce(sum(p.jobs) filter (where p.state = any(awa._states('counted_as_dead'))), 0)::bigint as dead,
       min(p.oldest_ready_at) as oldest_ready_at,
       greatest(0, sum(p.jobs) filter (where p.state = 'in line'),
         sum(p.jobs) filter (where p.state = any(awa._states('counted_as_available')))
           - awa._room_of(p.queue_id))::bigint as limited
  from parts p
 group by p.queue_id
having max(p.name) is not null
   and (bool_or(p.is_there) or bool_or(p.jobs <> 0 and p.state = any(awa._states('live'))))
 order by 1
$$;
comment on function awa._queue_counts is 'Exact counts of jobs by queue and state, as queue_counts returns them';

-- How many jobs these counts have in states that share a property.
create or replace function awa._jobs_in(counts awa.queue_counts_row, fact text) returns bigint
language sql stable
as $$
  select sum(c.jobs::bigint)
    from jsonb_each_text(to_jsonb(counts)) c("column", jobs)
   where c.column = any(awa._states(fact))
$$;
comment on function awa._jobs_in is 'How many jobs these counts have in states that share a property';
