-- Holders: where the jobs of a group go in order, the job for which the group is reserved.
--
-- An attempt that ends gives its slot back in any case. Where its job comes again, its group is reserved for it: the
-- state of the group names the job, and no other job begins before that one has begun, or has left. The job is named by
-- its id, so it does not matter where it waits. A note that a job has left changes nothing where it holds no group.

-- Notes for the next claim that attempts have ended that held slots, and whose jobs come again, or failed for good.
-- The caller has given their slots back. Under an order other than start, their groups are reserved for them. for_good:
-- whether they failed for good.
-- Why: settings are not read here, since the claim that reads the note decides by those of its own time. And a claim
-- can't look up whether a job has failed for good: it may have been retried by then, which is a new job under strict.
create or replace function awa._note_holders(attempts awa.leases[], for_good boolean) returns void
language plpgsql
as $$
begin
  insert into awa.slots (shard, looks, holders)
  select awa._shard_of(a.lane), array_agg(a.group_id order by a.job_id),
         array_agg(case when for_good then - a.job_id else a.job_id end order by a.job_id)
    from unnest(attempts) a
   where a.group_id is not null
   group by 1;
end
$$;
comment on function awa._note_holders is
  'Notes for the next claim that attempts have ended that held slots, and whose jobs come again, or failed for good';

-- Notes for the next claim that jobs leave for which their groups may be reserved, and wakes their queues.
-- For any jobs that leave without an attempt. The note of a job that is no holder changes nothing.
create or replace function awa._note_leavers(job_ids bigint[], lanes bigint[], group_keys text[]) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_queue_ids bigint[];
begin
  if array_remove(group_keys, null) = '{}' is not false then
    return;
  end if;
  with left_now as (
    insert into awa.slots (shard, looks, leavers)
    select awa._shard_of(j.lane), array_agg(awa._group_id(j.group_key) order by j.job_id),
           array_agg(j.job_id order by j.job_id)
      from unnest(job_ids, lanes, group_keys) j(job_id, lane, group_key)
     where j.group_key is not null
       and (
         select true
           from awa.queues q
          where q.queue_id = awa._queue_of(j.lane) and q.has_limits and q.dropped_at is null
          limit 1
       )
     group by 1
    returning shard
  )
  select array_agg(distinct l.shard >> 6) into v_queue_ids from left_now l;
  perform awa._wake(q) from unnest(v_queue_ids) q;
end
$$;
comment on function awa._note_leavers is
  'Notes for the next claim that jobs leave for which their groups may be reserved, and wakes their queues';

-- Reserves groups for the jobs that come again, and lets go of those reserved for jobs that do not.
-- Each place of groups has a job in holders, which comes again (negative: it failed for good), or one in leavers, which
-- does not. A job in both comes no more: it ended, and left after that. It can't have come again in between, since the
-- claim that begins it reads its note first.
-- A group is reserved for one job. Where two attempts had begun under another order, and have ended, the second job
-- comes as any other. A job that failed for good holds its group under halt alone.
-- Locks: the states that it replaces, tried.
create or replace function awa._change_holders(
  shard bigint,
  groups bigint[],
  holders bigint[],
  leavers bigint[],
  group_order text
) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  if groups is null or group_order = 'start' and holders is not null then
    return; -- under start there are no holders, once _end_holders has been called
  end if;
  with changes as materialized (
    select c.group_id as of_group, coalesce(array_agg(c.leavers) filter (where c.leavers is not null), '{}') as gone,
           array_agg(abs(c.holders) order by abs(c.holders)) filter (
             where group_order = 'halt' or group_order = 'strict' and c.holders > 0) as come
      from unnest(groups, holders, leavers) c(group_id, holders, leavers)
     group by c.group_id
  ), known as materialized (
    select c.of_group as group_id, s.*, coalesce(
             case when s.holder <> all(c.gone) then s.holder end,
             (
               select k
                 from unnest(c.come) k
                where k <> all(c.gone)
                limit 1
             )) as new_holder
      from changes c
     cross join lateral awa._group_state(shard, c.of_group) s
  ), gone as (
    delete from awa.group_states s where s.ctid = any(array(
      select s.ctid
        from awa.group_states s
       where s.ctid = any(array(select k.row_id from known k where k.holder is distinct from k.new_holder))
         for update skip locked -- fold may be removing it: it counts no more
    ))
  )
  insert into awa.group_states
    (shard, group_id, state_id, running, has_line, has_front, taken, front_taken, holder, next_at, rate_turns,
     opens_at)
  select shard, k.group_id, nextval('awa.state_ids'), k.running, k.has_line, k.has_front, k.taken, k.front_taken,
         k.new_holder, k.next_at, k.rate_turns, k.opens_at
    from known k
   where k.holder is distinct from k.new_holder;
end
$$;
comment on function awa._change_holders is
  'Reserves groups for the jobs that come again, and lets go of those reserved for jobs that do not';

-- Reserves a group in order for a job that can't be put in line, where no other job of the group is before it.
-- The caller has locked the shard.
-- Locks: the state that it replaces, tried.
-- Why: where others are before it, they would wait for it, or lose their own places to it: it comes again as a new job.
create or replace function awa._hold_if_idle(shard bigint, group_id bigint, job_id bigint) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  with idle as materialized (
    select s.*
      from awa.queue_settings q
      left join lateral awa._group_state(shard, group_id) s on true
     where q.queue_id = shard >> 6
       and q.group_order <> 'start'
       and coalesce(s.running, 0) = 0
       and (s.has_line or s.has_front or s.holder is not null) is not true
  ), gone as (
    delete from awa.group_states s where s.ctid = any(array(
      select s.ctid
        from awa.group_states s
       where s.ctid = any(array(select i.row_id from idle i))
         for update skip locked -- fold may be removing it: it counts no more
    ))
  )
  insert into awa.group_states
    (shard, group_id, state_id, running, has_line, has_front, taken, front_taken, holder, next_at, rate_turns,
     opens_at)
  select shard, group_id, nextval('awa.state_ids'), 0, false, false, coalesce(i.taken, 0),
         coalesce(i.front_taken, -9223372036854775808), job_id, i.next_at, coalesce(i.rate_turns, 0), i.opens_at
    from idle i;
end
$$;
comment on function awa._hold_if_idle is
  'Reserves a group in order for a job that can''t be put in line, where no other job of the group is before it';

-- Lets go of the groups of a shard that are not reserved under another order; returns them.
-- Locks: the states that it replaces, tried.
-- Why: after a change of the order. A job for which its group is reserved under both stays its holder.
create or replace function awa._end_holders(shard bigint, group_order text) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_held record;
begin
  select array_agg(h.group_id) as groups, array_agg(h.holder) as holders
    into v_held
    from (
      select distinct s.group_id, s.holder
        from awa.group_states s
       where s.shard = shard and s.holder is not null
         and case group_order
           when 'start' then true
           when 'strict' then exists (select from awa.done_entries d where d.job_id = s.holder)
         end
    ) h;
  perform awa._change_holders(shard, v_held.groups, null, v_held.holders, group_order);
  return coalesce(v_held.groups, '{}');
end
$$;
comment on function awa._end_holders is
  'Lets go of the groups of a shard that are not reserved under another order; returns them';
