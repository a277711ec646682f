-- Moves a job that waits to another queue; returns the state that it was in.
-- It goes to the end of its lane there. The queue exists from then on. A unique key of which the queue is a part
-- becomes that of the new queue: 23505 when another job holds it there.
-- Locks: as set_priority.
-- Raises 22023, JQ003, JQ004, JQ005, 55P03, 40001, 55000, as set_priority does; 23505.
create or replace function awa.move(job_id bigint, queue text) returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = on
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set lock_timeout = 0
as $$
declare
  v_detail text;
  v_state text;
begin
  perform awa._check_name('queue', queue);
  perform awa._check_change(job_id);
  perform awa._bound_waits();
  begin
    v_state := awa._relocate(job_id, queue, null);
  exception when lock_not_available then
    get stacked diagnostics v_detail = pg_exception_detail;
    if v_detail <> '' then
      raise; -- it names the holder
    end if;
    perform awa._refuse_change(job_id);
  end;
  perform awa._note_change('move', jsonb_build_object('job_id', job_id), jsonb_build_object('queue', queue));
  return v_state;
end
$$;
comment on function awa.move is 'Moves a job that waits to another queue; returns the state that it was in';
