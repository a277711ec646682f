-- Lets claims from a paused queue go on, and wakes its workers.
-- Locks: the row of the queue's settings, until the transaction ends. Waits for claim_wait at most.
-- Raises 22023, JQ002; 55P03, and names the holder.
create or replace function awa.resume_queue(queue text) returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
  v_queue_id bigint := awa._require_queue(queue);
begin
  perform awa._lock_settings(v_queue_id);
  update awa.queue_settings s
     set paused_at = null, changed_at = clock_timestamp(), changed_by = session_user
   where s.queue_id = v_queue_id and s.paused_at is not null;
  if found then
    perform awa._note_change('resume_queue', jsonb_build_object('queue', queue), changed => 0);
  end if;
  perform awa._wake_now(v_queue_id);
end
$$;
comment on function awa.resume_queue is 'Lets claims from a paused queue go on, and wakes its workers';
