-- Which shard of a queue with several a claim takes.

-- Locks a shard of a queue in which there is something to claim; returns it, or null where there is none.
-- But for the shards that the claim holds already. It takes, in random order, the first one that is free. Where all
-- are held it waits, as long as the claim has no jobs: for claim_wait at most, or, while it holds a shard, for 10 ms.
-- Every 50 ms it looks again, so that it sees jobs that have come to a shard that is free.
-- Raises 55000; 55P03, and names the holders.
-- Why: a claim that came to an empty shard could be waited for by the very claim that it waits for. And it looks before
-- it locks, since a claim that finds nothing should keep no other one off, and costs less. One claim in sixteen looks
-- at all shards, so that those in which only late commits wait have their turn beside busy ones.
create or replace function awa._take_shard(queue_id bigint, held bigint[], has_jobs boolean) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_shards bigint[] := '{}';
  v_shard bigint;
  v_busy bigint[];
  v_wait interval;
  v_end timestamptz;
  v_left interval;
begin
  if held = '{}' and random() < 15 / 16.0 then
    v_shards := awa._some_shards_with_jobs(queue_id);
  end if;
  loop
    if v_shards = '{}' then
      v_shards := awa._shards_with_jobs(queue_id, held);
    end if;
    v_busy := '{}';
    foreach v_shard in array v_shards loop
      if pg_try_advisory_xact_lock(awa._shard_key(v_shard)) then
        return v_shard;
      end if;
      v_busy := v_busy || v_shard;
    end loop;
    if has_jobs or v_busy = '{}' then
      return null;
    end if;
    if v_end is null then
      v_wait := case when held = '{}' then awa._wait() else '10 milliseconds' end;
      v_end := clock_timestamp() + v_wait;
    end if;
    v_left := v_end - clock_timestamp();
    if v_left > interval '0' then
      if awa._lock_shard_within(v_busy[1], least(v_left, '50 milliseconds')) then
        return v_busy[1];
      end if;
    elsif held = '{}' then
      perform awa._refuse_shards(v_busy, v_wait);
    else
      return null;
    end if;
    v_shards := '{}';
  end loop;
end
$$;
comment on function awa._take_shard is
  'Locks a shard of a queue in which there is something to claim; returns it, or null where there is none';

-- The shards of a queue, but for these, in which there is something to claim, in random order.
-- Also those with turns, or slots that no claim has read, or with a line that has opened since, or that no claim has
-- looked at since the limits or the order of groups were changed; those in which all entries are buried, and those
-- where the look took long: a claim moves their cursors.
-- Raises 55000.
-- Why: one statement for all lanes. A transaction that was in progress at one end of a window counts where it has
-- entries in the lane: if all of them did, a claim with room left would lock each shard that was ever used. The columns
-- of a list of a query are computed from left to right.
create or replace function awa._shards_with_jobs(queue_id bigint, except_for bigint[]) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
begin
  perform awa._current_segment();
  return array(
    select awa._shard_of(s.lane)
      from (
        select l.lane, clock_timestamp() as began,
               coalesce((
                 select true
                   from awa.ready_entries e
                  where e.lane = l.lane
                    and (e.xid, e.job_id) > (f.from_xid, f.from_id)
                    and (e.segment <> r.cleaned or not pg_visible_in_snapshot(e.xid, r.cleaned_until))
                  limit 1
               ), (
                 select true
                   from awa._late(c.lo, c.hi, c.pos_xid, c.pos_id, f.from_xid, f.from_id) x
                  cross join lateral (
                     select true
                       from awa.ready_entries e
                      where e.lane = l.lane and e.xid = x.xid and e.job_id > x.after_id and e.job_id <= x.until_id
                        and (e.segment <> r.cleaned or not pg_visible_in_snapshot(e.xid, r.cleaned_until))
                      limit 1
                  ) e
                  limit 1
               ),
               case when (select true from awa.queues q where q.queue_id = queue_id and q.has_limits limit 1) then (
                 select coalesce((
                          select true
                            from awa.turns t
                           where t.lane = l.lane and t.turn_id > s.turns_until[(l.lane & 7) + 1]
                           limit 1
                        ), (
                          select true
                            from awa.slots n
                           where n.shard = s.shard and n.xid >= pg_snapshot_xmax(s.read_until)
                           limit 1
                        ), (
                          select true
                            from pg_snapshot_xip(s.read_until) x(xid)
                           cross join lateral (
                              select true from awa.slots n where n.shard = s.shard and n.xid = x.xid limit 1
                            ) n
                           limit 1
                        ), (
                          select true
                            from awa.group_states g
                           where g.shard = s.shard and g.opens_at >= coalesce(s.opened_until, '-infinity')
                             and g.opens_at <= (select clock_timestamp())
                           limit 1
                        ), (
                          select true
                            from awa.group_states g
                           where g.shard = s.shard and (g.has_line or g.has_front)
                             and not exists (
                               select
                                 from awa.queue_settings q
                                where q.queue_id = queue_id
                                  and awa._group_limit(q.group_max_running, q.group_order)
                                    is not distinct from s.group_max_running
                                  and q.group_rate is not distinct from s.group_rate
                                  and coalesce(q.group_order, 'start') = coalesce(s.group_order, 'start'))
                           limit 1
                        ))
                   from awa._shard_state(awa._shard_of(l.lane)) s
               ) end, false) as has_jobs,
               clock_timestamp() as ended
          from (select coalesce(r.cleaned_segment, -1) as cleaned, r.cleaned_until from awa.ring r) r
         cross join (
            select distinct q.lane
              from awa.queues q
             where q.queue_id = queue_id and q.lane is not null and awa._shard_of(q.lane) <> all(except_for)
          ) l
          left join lateral (
            select * from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 1
          ) c on true
         cross join lateral (
            select greatest(case when c.lo is not null then c.pos_xid end,
                     pg_snapshot_xmax(coalesce(c.lo, c.hi, '3:3:'))) as from_xid,
                   case when c.lo is not null and c.pos_xid >= pg_snapshot_xmax(c.lo) then c.pos_id else 0
                   end as from_id
          ) f
      ) s
     where s.has_jobs or s.ended - s.began > interval '10 milliseconds'
     group by awa._shard_of(s.lane)
     order by random());
end
$$;
comment on function awa._shards_with_jobs is
  'The shards of a queue, but for these, in which there is something to claim, in random order';

-- Up to eight shards of a queue that have new entries in the current segment, in random order.
-- Late commits do not count, nor entries in other segments. Of a lane that was not claimed from in this segment all
-- entries in it are new.
-- Why: most often one of these is free, and it costs a third of _shards_with_jobs, since each statement names
-- the tables of its segment, and stops when it has found so many.
create or replace function awa._some_shards_with_jobs(queue_id bigint) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_shards bigint[];
begin
  case (select r.current_segment from awa.ring r)
    when 0 then
      v_shards := array(
        select awa._shard_of(l.lane)
          from (select q.lane from awa.queues q where q.queue_id = queue_id and q.lane is not null order by random()) l
          left join lateral (
            select c.lo, c.hi, c.pos_xid, c.pos_id
              from awa.lease_claims_0 c
             where c.lane = l.lane
             order by c.lane_seq desc
             limit 1
          ) c on true
         cross join lateral (
            select true
              from awa.ready_entries_0 e
             where e.lane = l.lane
               and (e.xid, e.job_id) > (
                 greatest(case when c.lo is not null then c.pos_xid end,
                   pg_snapshot_xmax(coalesce(c.lo, c.hi, '3:3:'))),
                 case when c.lo is not null and c.pos_xid >= pg_snapshot_xmax(c.lo) then c.pos_id else 0 end)
             limit 1
          ) e
         limit 8);
    when 1 then
      v_shards := array(
        select awa._shard_of(l.lane)
          from (select q.lane from awa.queues q where q.queue_id = queue_id and q.lane is not null order by random()) l
          left join lateral (
            select c.lo, c.hi, c.pos_xid, c.pos_id
              from awa.lease_claims_1 c
             where c.lane = l.lane
             order by c.lane_seq desc
             limit 1
          ) c on true
         cross join lateral (
            select true
              from awa.ready_entries_1 e
             where e.lane = l.lane
               and (e.xid, e.job_id) > (
                 greatest(case when c.lo is not null then c.pos_xid end,
                   pg_snapshot_xmax(coalesce(c.lo, c.hi, '3:3:'))),
                 case when c.lo is not null and c.pos_xid >= pg_snapshot_xmax(c.lo) then c.pos_id else 0 end)
             limit 1
          ) e
         limit 8);
    when 2 then
      v_shards := array(
        select awa._shard_of(l.lane)
          from (select q.lane from awa.queues q where q.queue_id = queue_id and q.lane is not null order by random()) l
          left join lateral (
            select c.lo, c.hi, c.pos_xid, c.pos_id
              from awa.lease_claims_2 c
             where c.lane = l.lane
             order by c.lane_seq desc
             limit 1
          ) c on true
         cross join lateral (
            select true
              from awa.ready_entries_2 e
             where e.lane = l.lane
               and (e.xid, e.job_id) > (
                 greatest(case when c.lo is not null then c.pos_xid end,
                   pg_snapshot_xmax(coalesce(c.lo, c.hi, '3:3:'))),
                 case when c.lo is not null and c.pos_xid >= pg_snapshot_xmax(c.lo) then c.pos_id else 0 end)
             limit 1
          ) e
         limit 8);
    when 3 then
      v_shards := array(
        select awa._shard_of(l.lane)
          from (select q.lane from awa.queues q where q.queue_id = queue_id and q.lane is not null order by random()) l
          left join lateral (
            select c.lo, c.hi, c.pos_xid, c.pos_id
              from awa.lease_claims_3 c
             where c.lane = l.lane
             order by c.lane_seq desc
             limit 1
          ) c on true
         cross join lateral (
            select true
              from awa.ready_entries_3 e
             where e.lane = l.lane
               and (e.xid, e.job_id) > (
                 greatest(case when c.lo is not null then c.pos_xid end,
                   pg_snapshot_xmax(coalesce(c.lo, c.hi, '3:3:'))),
                 case when c.lo is not null and c.pos_xid >= pg_snapshot_xmax(c.lo) then c.pos_id else 0 end)
             limit 1
          ) e
         limit 8);
  end case;
  return v_shards;
end
$$;
comment on function awa._some_shards_with_jobs is
  'Up to eight shards of a queue that have new entries in the current segment, in random order';
