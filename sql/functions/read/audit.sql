-- What each queue has got, and where it is now.
create or replace view awa._books as
select n.queue_id, q.*, e.enqueued::bigint as enqueued,
       q.available + q.scheduled + q.retryable + q.running + q.waiting_external + q.completed + q.failed + q.cancelled + q.dead as jobs
  from awa.queue_counts(null) q
 cross join lateral (select awa._queue_id(q.queue) as queue_id) n
 cross join lateral (
    select sum(c.enqueued) as enqueued from awa._lane_counts c where c.queue_id = n.queue_id
    offset 0
  ) e;
comment on view awa._books is 'What each queue has got, and where it is now';

-- What is missing from the ledgers, by lane and segment, as far as these are known.
create or replace view awa._imbalances as
select l.lane, s.segment::smallint as segment, format('segment %s: %s entries counted, %s there', s.segment, l.kept[s.segment + 1], coalesce(e.entries, 0)) as problem
  from awa._lanes l
 cross join generate_series(0, 3) s(segment)
  left join (
    select e.lane, e.segment, count(*) as entries
      from awa._entries e
      join awa.queue_rollups r on r.lane = e.lane
     where pg_visible_in_snapshot(e.xid, r.counted) and pg_visible_in_snapshot(e.xid, r.dropped) is not true
     group by e.lane, e.segment
  ) e on e.lane = l.lane and e.segment = s.segment
 where l.kept[s.segment + 1] <> coalesce(e.entries, 0)
union all
select c.lane, c.segment, format('segment %s: of claim %s, which is counted as closed, %s of %s items are', c.segment, c.claim_id, coalesce(k.items, 0), cardinality(c.job_ids))
  from awa.lease_claims c
  join awa.queue_rollups r on r.lane = c.lane
  left join (
    select k.segment, k.claim_id, sum(coalesce(cardinality(k.items), 1)) as items from awa.lease_claim_closures k group by k.segment, k.claim_id
  ) k on k.segment = c.segment and k.claim_id = c.claim_id
 where c.lane_seq <= r.closed_seq and c.lane_seq <> all(r.open_seqs) and cardinality(c.job_ids) <> coalesce(k.items, 0)
union all
select null, k.segment, format('segment %s: claim %s is missing, but was answered', k.segment, k.claim_id)
  from awa.lease_claim_closures k
 where not exists (select from awa.lease_claims c where c.segment = k.segment and c.claim_id = k.claim_id)
   and k.segment is distinct from (select r.cleaned_segment from awa.ring r)
union all
select r.lane, null, format('claims %s to %s: %s are missing', c.first, greatest(c.last, r.closed_seq), greatest(c.last, r.closed_seq) - c.first + 1 - c.claims)
  from awa.queue_rollups r
 cross join lateral (
    select count(*) as claims, coalesce(min(c.lane_seq), r.closed_seq) as first, max(c.lane_seq) as last from awa.lease_claims c where c.lane = r.lane
  ) c
 where greatest(c.last, r.closed_seq) - c.first + 1 <> c.claims and (r.closed_seq > 0 or c.claims > 0);
comment on view awa._imbalances is 'What is missing from the ledgers, by lane and segment';

-- What audit returns.
create or replace view awa.audit_row as
select b.queue, b.enqueued, b.available, b.scheduled, b.retryable, b.running, b.waiting_external, b.completed, b.failed, b.cancelled, b.dead,
       true as balanced, b.queue as problem
  from awa._books b
 where false;
comment on view awa.audit_row is 'The row that audit returns, one per queue. The view itself is always empty';

-- Whether the books balance: what was enqueued to each queue is available, scheduled, retryable, running, completed, failed, cancelled or dead; what the counts say is there when one looks; and no row is missing in the ledgers.
-- Jobs that are not kept any more are counted, purged ones are not. One row per queue, with what is wrong in words; and one without a queue for what belongs to none.
-- Reads all that is kept, so it takes seconds for millions of jobs. Writes nothing, and takes no lock but those of any reader: only the truncation of a segment waits for it. A row that was removed before maintenance has counted it
-- (within seconds) leaves no trace.
create or replace function awa.audit() returns setof awa.audit_row
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set jit = off
as $$
begin
  perform awa._current_segment(); -- in a restored database, what is visible means nothing
  return query
    with books as (
      select b.*, concat_ws('; ',
               case when b.jobs <> b.enqueued then format('%s jobs were enqueued, %s are there', b.enqueued, b.jobs) end,
               case when coalesce(a.jobs, 0) <> b.available then format('%s jobs are counted as available, %s are', b.available, coalesce(a.jobs, 0)) end,
               case when coalesce(r.jobs, 0) <> b.running then format('%s jobs are counted as running, %s are', b.running, coalesce(r.jobs, 0)) end,
               i.problems) as problem
        from awa._books b
        left join (select a.lane >> 3 as queue_id, count(*) as jobs from awa._available a group by 1) a on a.queue_id = b.queue_id
        left join (select r.lane >> 3 as queue_id, count(*) as jobs from awa._running r group by 1) r on r.queue_id = b.queue_id
        left join (
          select i.queue_id, string_agg(i.problem, '; ') as problems
            from (select i.lane >> 3 as queue_id, i.problem, row_number() over (partition by i.lane >> 3) as n from awa._imbalances i where i.lane is not null) i
           where i.n <= 20
           group by i.queue_id
        ) i on i.queue_id = b.queue_id
    )
    select b.queue, b.enqueued, b.available, b.scheduled, b.retryable, b.running, b.waiting_external, b.completed, b.failed, b.cancelled, b.dead,
           b.problem = '', nullif(b.problem, '')
      from books b
    union all
    select null, null, null, null, null, null, null, null, null, null, null, false, i.problem
      from awa._imbalances i
     where i.lane is null
     order by 1;
end
$$;
comment on function awa.audit is 'Whether the books balance: one row per queue, and what is wrong, in words';

create or replace view awa.audit as
select a.queue, a.enqueued, a.available, a.scheduled, a.retryable, a.running, a.waiting_external, a.completed, a.failed, a.cancelled, a.dead, a.balanced, a.problem
  from awa.audit() a;
comment on view awa.audit is 'Whether the books balance: one row per queue, and what is wrong, in words';
