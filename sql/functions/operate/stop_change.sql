-- Stops a change that start_change has started.
-- Jobs that it has changed stay changed. After this has returned, it changes no more. A change that has ended stays so.
-- Locks: the change, until the transaction ends. It waits for the part that is being made.
-- Raises 22023, JQ004; 55P03 after claim_wait, and names the holder; JQ008 for an unknown change.
create or replace function awa.stop_change(change_id bigint) returns void
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
set lock_timeout = 0
as $$
#variable_conflict use_variable
begin
  if change_id is null then
    perform awa._refuse('change_id must not be null', null, 'Pass the id that start_change returned.');
  end if;
  perform awa._check_isolation();
  perform awa._bound_waits();
  begin
    perform from awa.changes c where c.change_id = change_id and c.state = 'running' for no key update;
  exception when lock_not_available then
    perform awa._refuse_wait(array['awa.changes']::regclass[], 'the change is locked by another session',
      'A session that makes a part of it, or stops it, holds it until its transaction ends: let that end, and try '
      'again.',
      (select awa._row_holder('awa.changes', c.xmax) from awa.changes c where c.change_id = change_id));
  end;
  update awa.changes c
     set state = 'stopped', ended_at = clock_timestamp()
   where c.change_id = change_id and c.state = 'running';
  if not found and not exists (select from awa.changes c where c.change_id = change_id) then
    raise exception using errcode = 'JQ008', message = 'no such change', detail = format('Got %s.', change_id),
      hint = 'It was never started, or it ended more than 90 days ago: see awa.list_changes().';
  end if;
end
$$;
comment on function awa.stop_change is 'Stops a change that start_change has started';
