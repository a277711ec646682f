-- Variant (b): a pass writes the rows of jobs that have completed, in batches, behind the counts: these know up to
-- which claim of a lane all are closed, and which before it are still open. No segment is truncated before the rows
-- of its claims were written.
create table history.passes (
  lane     bigint primary key,
  done_seq bigint not null,   -- claims up to this one are written
  pending  bigint[] not null  -- but for these, which were open then
);

create function history.materialize(max_claims int) returns bigint language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
  v_lane record;
  v_until bigint;
  v_written bigint;
  v_all bigint := 0;
begin
  perform awa.fold();
  for v_lane in
    select r.lane, r.closed_seq, r.open_seqs, coalesce(p.done_seq, 0) as done_seq, coalesce(p.pending, '{}') as pending
      from awa.queue_rollups r
      left join history.passes p on p.lane = r.lane
     where r.closed_seq > coalesce(p.done_seq, 0) or p.pending <> '{}'
  loop
    v_until := least(v_lane.closed_seq, v_lane.done_seq + max_claims);
    insert into history.done_entries (job_id, receipt, finalized_at, segment)
    select c.job_ids[i + 1], c.claim_id << 12 | i, k.closed_at, c.segment
      from (
        select c.* from awa.lease_claims c
         where c.lane = v_lane.lane and c.lane_seq > v_lane.done_seq and c.lane_seq <= v_until
           and c.lane_seq <> all(v_lane.open_seqs)
        union all
        select c.*
          from unnest(v_lane.pending) p
          join awa.lease_claims c on c.lane = v_lane.lane and c.lane_seq = p
         where p <> all(v_lane.open_seqs)
      ) c
      join awa.lease_claim_closures k on k.segment = c.segment and k.claim_id = c.claim_id and k.outcome = 'completed'
     cross join lateral unnest(coalesce(k.items, array[k.item])) i;
    get diagnostics v_written = row_count;
    v_all := v_all + v_written;
    insert into history.passes as p (lane, done_seq, pending)
    values (v_lane.lane, v_until, array(select o from unnest(v_lane.open_seqs) o where o <= v_until))
    on conflict (lane) do update set done_seq = excluded.done_seq, pending = excluded.pending;
    if v_until < v_lane.closed_seq then
      v_all := v_all + 1; -- there is more
    end if;
  end loop;
  return v_all;
end
$$;

create function history.guard() returns trigger language plpgsql security definer as $$
declare
  v_segment smallint := right(tg_table_name, 1);
begin
  perform from awa.queue_rollups r
    left join history.passes p on p.lane = r.lane
   where exists (
     select from awa.lease_claims c
      where c.segment = v_segment and c.lane = r.lane and c.job_ids <> '{}'
        and (c.lane_seq > coalesce(p.done_seq, 0) or c.lane_seq = any(p.pending)));
  if found then
    raise 'history of segment % is not written yet', v_segment;
  end if;
  return null;
end
$$;

do $$
begin
  for s in 0..3 loop
    execute format('create trigger guard before truncate on awa.ready_entries_%s
      execute function history.guard()', s);
    execute format('create trigger guard before truncate on awa.lease_claims_%s
      execute function history.guard()', s);
  end loop;
end
$$;
