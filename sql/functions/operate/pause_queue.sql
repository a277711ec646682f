-- Stops claims from a queue.
-- Running jobs and enqueues go on. Makes the queue if it does not exist.
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
end
$$;
comment on function awa.pause_queue is 'Stops claims from a queue';

-- Stops claims from a queue, from the commit on.
-- Locks: as configure_queue.
-- Raises 22023; 55P03, and names the holder.
create or replace function awa._pause_queue(queue text) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_queue_id bigint := awa._make_queue(queue);
begin
  perform awa._lock_settings(v_queue_id);
  update awa.queue_settings s
     set paused_at = coalesce(s.paused_at, clock_timestamp()), changed_at = clock_timestamp(), changed_by = session_user
   where s.queue_id = v_queue_id;
end
$$;
comment on function awa._pause_queue is 'Stops claims from a queue, from the commit on';
