-- Opens a group that is paused, and wakes the workers of its queue.
-- Also one that a worker has closed (snooze with hold_group). Of a group that is not paused, it changes nothing.
-- Locks: the queue's number of shards, shared, and the row of the group, until the transaction ends.
-- Raises 22023, JQ002; 55P03, 40001 as pause_group does.
create or replace function awa.resume_group(queue text, group_key text) returns void
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
#variable_conflict use_variable
declare
  v_queue_id bigint := awa._require_queue(queue);
  v_shard bigint;
  v_row awa.group_settings;
begin
  perform awa._check_named_group(group_key);
  v_shard := awa._shard_of_group(v_queue_id, group_key); -- first, as pause_group
  v_row := awa._lock_paused_group(v_queue_id, group_key);
  if v_row.queue_id is not null then
    v_row.paused_at := null;
    v_row.paused_until := null;
    v_row.reason := null;
    perform awa._store_group(v_row, v_shard), awa._wake_now(v_queue_id);
    perform awa._note_change('resume_group', jsonb_build_object('queue', queue, 'group_key', group_key), changed => 0);
  end if;
end
$$;
comment on function awa.resume_group is 'Opens a group that is paused, and wakes the workers of its queue';
