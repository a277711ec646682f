-- Stops claims from a queue.
-- Running jobs and enqueues go on. Makes the queue if it does not exist. list_changes shows it, where the session has
-- said for whom it acts.
-- Locks: as configure_queue.
-- Raises 22023; 55P03, and names the holder.
create or replace function awa.pause_queue(queue text) returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform awa._pause_queue(queue);
  perform awa._note_change('pause_queue', jsonb_build_object('queue', queue), changed => 0);
end
$$;
comment on function awa.pause_queue is 'Stops claims from a queue';

-- Stops claims from a queue, from the commit on.
-- Returns whether it was open.
-- Locks: as configure_queue.
-- Raises 22023; 55P03, and names the holder.
create or replace function awa._pause_queue(queue text) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_queue_id bigint := awa._make_queue(queue);
  v_was_open boolean;
begin
  perform awa._lock_settings(v_queue_id);
  select s.paused_at is null into v_was_open from awa.queue_settings s where s.queue_id = v_queue_id;
  update awa.queue_settings s
     set paused_at = coalesce(s.paused_at, clock_timestamp()), changed_at = clock_timestamp(), changed_by = session_user
   where s.queue_id = v_queue_id;
  return v_was_open;
end
$$;
comment on function awa._pause_queue is 'Stops claims from a queue, from the commit on';
