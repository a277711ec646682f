-- Gives one group of a queue limits of its own: group_max_running, group_rate.
-- They stand for those of the queue. One that is not named stays; null takes it away, so that the queue's holds. Makes
-- the queue if it does not exist.
-- Locks: as pause_group.
-- Raises 22023; 55P03, 40001 as pause_group does.
create or replace function awa.configure_group(queue text, group_key text, settings jsonb) returns void
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
  v_queue_id bigint;
  v_checked jsonb;
  v_shard bigint;
  v_row awa.group_settings;
begin
  perform awa._check_named_group(group_key);
  if jsonb_typeof(settings) = 'object' then
    perform awa._refuse('settings holds an unknown key', k, 'The keys are group_max_running, group_rate.')
       from jsonb_object_keys(settings) k
      where k <> all('{group_max_running,group_rate}');
  end if;
  v_checked := awa._checked_settings(true, settings);
  v_queue_id := awa._make_queue(queue);
  perform awa._limit_queue(v_queue_id, queue);
  v_shard := awa._shard_of_group(v_queue_id, group_key); -- first, as pause_group
  v_row := awa._lock_group(v_queue_id, group_key);
  v_row := jsonb_populate_record(v_row, v_checked);
  if v_row.group_max_running > 1 and (
    select s.group_order from awa.queue_settings s where s.queue_id = v_queue_id) in ('strict', 'halt')
  then
    perform awa._refuse('group_max_running must be 1 with the group_order strict or halt',
      v_row.group_max_running::text, 'In order means one at a time: leave group_max_running out, or set it to 1.');
  end if;
  perform awa._store_group(v_row, v_shard), awa._wake_now(v_queue_id);
  perform awa._note_change('configure_group', jsonb_build_object('queue', queue, 'group_key', group_key),
    jsonb_build_object('settings', v_checked), 0);
end
$$;
comment on function awa.configure_group is
  'Gives one group of a queue limits of its own: group_max_running, group_rate';
