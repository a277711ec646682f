-- Closes a group of a queue: none of its jobs begins, until a time, or until resume_group.
-- Jobs that run go on, and jobs of the group may be enqueued. Claims that have begun before may begin jobs of it. A
-- second call sets the reason and the end anew. Makes the queue if it does not exist.
-- Locks: the queue's name, and its number of shards, shared, and the row of the group, until the transaction ends.
-- Raises 22023; 55P03 when the number of shards is being changed; 40001 at REPEATABLE READ and above, when the
-- settings of the queue have changed since the snapshot.
create or replace function awa.pause_group(
  queue text,
  group_key text,
  reason text default null,
  until timestamptz default null
) returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_queue_id bigint;
begin
  perform awa._check_named_group(group_key);
  if until >= '9999-12-31 10:00:00+00' then
    perform awa._refuse('until must be a time before 9999-12-31 10:00 UTC', until::text,
      'Pass a time, or null for no end.');
  elsif until <= clock_timestamp() then
    perform awa._refuse('until must not have passed', until::text,
      'Pass the time at which the group opens, or null for no end; resume_group opens it now.');
  elsif char_length(reason) > 1000 then
    perform awa._refuse('reason must be at most 1000 characters long', reason, 'Pass a short one.');
  end if;
  v_queue_id := awa._make_queue(queue);
  perform awa._limit_queue(v_queue_id, queue);
  perform awa._pause_group(v_queue_id, awa._shard_of_group(v_queue_id, group_key), group_key, reason, until);
  perform awa._note_change('pause_group', jsonb_build_object('queue', queue, 'group_key', group_key),
    jsonb_build_object('reason', reason, 'until', until), 0);
end
$$;
comment on function awa.pause_group is
  'Closes a group of a queue: none of its jobs begins, until a time, or until resume_group';

-- Refuses a group that is not named.
-- Raises 22023.
create or replace function awa._check_named_group(group_key text) returns void
language plpgsql
as $$
begin
  if group_key is null then
    perform awa._refuse('group_key must not be null', null, 'Pass the key of the group.');
  end if;
  perform awa._check_group(group_key);
end
$$;
comment on function awa._check_named_group is 'Refuses a group that is not named';

-- The shard in which a group of a queue lies.
-- Locks: as _shard_for.
-- Raises 55P03, 40001.
create or replace function awa._shard_of_group(queue_id bigint, group_key text) returns bigint
language sql
return awa._shard_of(awa._lane(queue_id, 0, awa._shard_for(queue_id, null, group_key)));
comment on function awa._shard_of_group is 'The shard in which a group of a queue lies';
