-- Stops claims from a queue, as pause_queue does, and returns how many of its jobs run.
-- No job begins after they were counted, until resume_queue: so once it has returned 0, nothing of the queue runs. Call
-- it again until then.
-- Locks: as pause_queue; and the queue, or its shards, until the transaction ends: it waits for claims that are going
-- on, for claim_wait at most, and claims wait for it.
-- Raises 22023, JQ002, JQ004, 55P03.
-- Why: a claim that has read the settings before the pause commits its jobs later. With its lock this session counts
-- them, and any other claim sees the pause. It makes no queue: a script with a mistyped name would take its 0 for an
-- answer.
create or replace function awa.drain_queue(queue text) returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set lock_timeout = 0
as $$
begin
  perform awa._require_queue(queue);
  perform awa._check_isolation();
  perform awa._bound_waits();
  if awa._pause_queue(queue) then -- it is called again and again
    perform awa._note_change('drain_queue', jsonb_build_object('queue', queue), changed => 0);
  end if;
  perform awa._lock_queue(awa._queue_id(queue));
  return (select c.running from awa._queue_counts(queue) c);
end
$$;
comment on function awa.drain_queue is
  'Stops claims from a queue, as pause_queue does, and returns how many of its jobs run';
