-- When a pass that waits for times is due; null when nothing is ahead.
-- That is promote_due, with the next deferred job, or fire_due, with the next tick of a schedule. A time that has
-- passed: run the pass.
-- Raises 22023, also for the other passes.
-- Why: a worker sleeps until then, a second at most. Reads one entry of an index, and writes nothing. A deferred job,
-- or a schedule, that comes meanwhile, and is due sooner, is notified on the channel awa_due.
create or replace function awa.pass_due_at(pass text) returns timestamptz
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
  if pass = 'promote_due' then
    return awa._next_deferred();
  elsif pass = 'fire_due' then
    return awa._next_tick_of(null);
  end if;
  perform awa._refuse('pass must be promote_due or fire_due', pass, 'The other passes wait for no time.');
end
$$;
comment on function awa.pass_due_at is 'When a pass that waits for times is due; null when nothing is ahead';
