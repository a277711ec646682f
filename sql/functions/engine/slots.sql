-- Slots: an attempt holds one of its group, and one of its queue, and gives them back when it ends.

-- The id of a group: the first 64 bits of the SHA-256 of its key.
create or replace function awa._group_id(group_key text) returns bigint
language sql stable strict parallel safe
return ('x' || encode(sha256(convert_to(group_key, 'UTF8')), 'hex'))::bit(64)::bigint;
comment on function awa._group_id is 'The id of a group: the first 64 bits of the SHA-256 of its key';

-- The first shard of a queue: claims keep there the state of the limits of the queue as a whole.
create or replace function awa._first_shard(shard bigint) returns bigint
language sql immutable strict parallel safe
return shard >> 6 << 6;
comment on function awa._first_shard is
  'The first shard of a queue: claims keep there the state of the limits of the queue as a whole';

-- How many jobs of a group may run at once: one where they go in order; null without a limit.
create or replace function awa._group_limit(group_max_running int, group_order text) returns int
language sql immutable parallel safe
return case when group_order in ('strict', 'halt') then 1 else group_max_running end;
comment on function awa._group_limit is
  'How many jobs of a group may run at once: one where they go in order; null without a limit';

-- The lane for an entry that is to go to this one: that of priority 2 where its group goes in order.
-- Why: claims read a lane in its order, and the lanes one after the other: one job of a group must not be read before
-- an earlier one of another priority.
create or replace function awa._lane_in_order(lane bigint, group_key text, group_order text) returns bigint
language sql immutable parallel safe
return case
    when group_key is not null and group_order in ('strict', 'halt') and lane & 7 <> 0 then lane & ~7::bigint | 2
    else lane
  end;
comment on function awa._lane_in_order is
  'The lane for an entry that is to go to this one: that of priority 2 where its group goes in order';

-- Gives slots back that attempts of a shard have held, and wakes the queue.
-- freed has the group of each attempt, null where it held none; of_queue is how many slots of the queue were held. The
-- next claim reads them, once the caller has committed. The caller has closed the attempts.
-- Why: appended, so that nobody waits for anybody who ends an attempt.
create or replace function awa._free_slots(shard bigint, freed bigint[], of_queue int) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_first bigint := awa._first_shard(shard);
begin
  freed := coalesce(array_remove(freed, null), '{}');
  if freed <> '{}' or of_queue > 0 and shard = v_first then
    insert into awa.slots (shard, freed, of_queue)
    values (shard, freed, case when shard = v_first then of_queue else 0 end);
  end if;
  if of_queue > 0 and shard <> v_first then
    insert into awa.slots (shard, of_queue) values (v_first, of_queue);
  end if;
  if awa._is_awake(shard >> 6) is not true then
    perform awa._wake(shard >> 6);
  end if;
end
$$;
comment on function awa._free_slots is 'Gives slots back that attempts of a shard have held, and wakes the queue';

-- Gives back the slots of attempts that the caller has closed in the ledger.
create or replace function awa._free_slots_of(receipts bigint[]) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_held record;
begin
  for v_held in
    select awa._shard_of(c.lane) as shard, array_agg(c.group_id) as freed,
           (count(*) filter (where c.holds_queue))::int as of_queue
      from unnest(receipts) r
     cross join lateral (
        select c.lane, c.groups[(r & 4095) + 1] as group_id, c.holds_queue, c.groups is not null as has_groups
          from awa.lease_claims c
         where c.claim_id = r >> 12
         limit 1
      ) c
     where c.has_groups or c.holds_queue
     group by 1
     order by 1
  loop
    perform awa._free_slots(v_held.shard, v_held.freed, v_held.of_queue);
  end loop;
end
$$;
comment on function awa._free_slots_of is 'Gives back the slots of attempts that the caller has closed in the ledger';
