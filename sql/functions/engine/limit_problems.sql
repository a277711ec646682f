-- Whether the counts of limits are right.

-- Errors in the slots, lines and turns of queues with limits; also rows that somebody has removed.
-- The slots of a group are held by open attempts and by turns, or given back and not read by a claim yet. Each job in
-- line is behind the last one that got a turn, by its state. A group with a line has no room; or is paused; or is
-- reserved for a job that comes; or a claim is to look at it, the next one or the first one after a time; or, where
-- groups are served by turns, it has its turn. A job without a group that has left the log has its turn.
create or replace view awa._limit_problems as
with states as (
  select distinct on (s.shard, s.group_id) s.shard, s.group_id, s.running, s.has_line, s.has_front, s.taken,
         s.front_taken, s.holder, s.rate_turns, s.opens_at
    from awa.group_states s
   order by s.shard, s.group_id, s.state_id desc
), shards as (
  select distinct on (s.shard) s.shard, s.running, s.group_max_running, s.group_order, s.opened_until, s.group_turns
    from awa.shard_states s
   order by s.shard, s.state_id desc
), unread as (
  select s.shard, f as group_id, 1 as slots from awa.slots s cross join unnest(s.freed) f
  union all
  select s.shard, l, 0 from awa.slots s cross join unnest(s.looks || s.changed) l
), held as (
  select h.shard, h.group_id, sum(h.slots) as slots
    from (
      select o.lane >> 3 as shard, o.group_id, 1 as slots from awa._holders o where o.group_id is not null
      union all
      select t.lane >> 3, t.group_id, 1 from awa.turns t where t.group_id is not null
      union all
      select u.shard, u.group_id, u.slots from unread u
    ) h
   group by h.shard, h.group_id
), lines as (
  select w.shard, w.group_id, count(*) as jobs, min(w.group_key) as group_key,
         min(w.waiting_id) filter (where w.waiting_id >= 0) as first,
         min(w.waiting_id) filter (where w.waiting_id < 0) as first_in_front
    from awa.limited_jobs w
   where w.group_id is not null and w.waiting_id not in (select t.waiting_id from awa.turns t)
   group by w.shard, w.group_id
)
select coalesce(s.shard, h.shard) >> 6 as queue_id,
       format('group %s: %s slots are held, %s are counted', coalesce(s.group_id, h.group_id), coalesce(h.slots, 0),
         coalesce(s.running, 0)) as problem
  from states s
  full join held h on h.shard = s.shard and h.group_id = s.group_id
 where coalesce(s.running, 0) <> coalesce(h.slots, 0)
union all
select l.shard >> 6, format('group %s (%s): of its line of %s jobs some are not known', l.group_id, l.group_key, l.jobs)
  from lines l
  left join states s on s.shard = l.shard and s.group_id = l.group_id
 where (l.first is null or s.has_line and l.first > s.taken) is not true
    or (l.first_in_front is null or s.has_front and l.first_in_front > s.front_taken) is not true
union all
select l.shard >> 6,
       format('group %s (%s): %s jobs wait, there is room, and nothing wakes them', l.group_id, l.group_key, l.jobs)
  from lines l
  join states s on s.shard = l.shard and s.group_id = l.group_id
  join shards h on h.shard = l.shard
  left join awa.group_settings o on o.queue_id = l.shard >> 6 and o.group_id = l.group_id
 where (s.running < awa._group_limit(coalesce(o.group_max_running, h.group_max_running), h.group_order)) is not false
   and s.holder is null
   and h.group_max_running is distinct from 0 -- since a restore: the next claim looks at all groups
   and not (h.group_turns and s.rate_turns > 0)
   and (s.opens_at >= coalesce(h.opened_until, '-infinity')) is not true
   and (o.paused_at is not null and o.paused_until is null) is not true
   and not exists (select from unread u where u.shard = l.shard and u.group_id = l.group_id)
union all
select w.shard >> 6, format('job %s has no group, and no turn', w.job_id)
  from awa.limited_jobs w
 where w.group_id is null and w.waiting_id not in (select t.waiting_id from awa.turns t)
union all
select s.shard >> 6, format('group %s is reserved for job %s, which does not come', s.group_id, s.holder)
  from states s
 where s.holder is not null
   and not exists (select from awa.slots n where n.shard = s.shard and s.holder = any(n.leavers))
   and not exists (
    select
      from awa._place p
     where p.id = s.holder and awa._shard_of(p.lane) = s.shard
       and p.state = any(awa._states('holds_group'))
  )
union all
select s.shard >> 6,
       format('group %s: %s turns are counted, %s are there', s.group_id, s.rate_turns, t.turns)
  from states s
  left join shards h on h.shard = s.shard
 cross join lateral (
    select count(*) as turns from awa.turns t where t.lane >> 3 = s.shard and t.group_id = s.group_id
  ) t
 where s.rate_turns > t.turns or h.group_turns and s.rate_turns < t.turns
union all
select q.queue_id, format('%s slots of the queue are held, %s are counted', q.slots, coalesce(s.running, 0))
  from (
    select h.queue_id, sum(h.slots) as slots
      from (
        select o.queue_id, 1 as slots from awa._holders o where o.holds_queue
        union all
        select s.shard >> 6, s.of_queue from awa.slots s
        union all
        select s.shard >> 6, 0 from shards s
      ) h
     group by h.queue_id
  ) q
  left join shards s on s.shard = q.queue_id << 6
 where q.slots <> coalesce(s.running, 0);
comment on view awa._limit_problems is 'Errors in the slots, lines and turns of queues with limits';
