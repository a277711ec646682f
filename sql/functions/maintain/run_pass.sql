-- Runs one pass of maintenance, unless another session is running it; returns whether there is more to do.
-- max_jobs bounds the pass, where the pass has such a limit. if_due: leaves the pass out, too, where it has succeeded
-- within its period (see _pass_period), and left no work. Where another session has the pass's lock, and the pass has
-- not succeeded for 5 seconds, it is run without the lock: one session must not hold up the others. Each pass skips
-- rows that others hold. After a pass that did not come to its end, the next one takes half as many jobs, down to one;
-- after each that did, twice as many.
-- Locks: the pass, where it can have it at once, until the transaction ends; then as the pass does.
-- Raises 22023, and the errors of the pass.
-- Why: run_maintenance runs as its caller, who may have no right on advisory locks, and has none on sequences. 5
-- seconds are half of the time after which rescue finds a gap. A clock that was set back leaves a success in the
-- future, which does not count.
create or replace function awa.run_pass(
  pass     text,
  max_jobs int default null,
  if_due   boolean default false
) returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
  v_key bigint := awa._pass_key(pass);
  v_sequence regclass;
  v_may_be_cut boolean := awa._budget('1 day', 1) < '1 day';
  v_cuts int;
  v_max int;
  v_is_alone boolean;
  v_since interval;
  v_more boolean;
begin
  if v_key is null then
    perform awa._refuse('there is no such pass', pass, format('Passes are %s.', array_to_string(awa._passes(), ', ')));
  end if;
  perform awa._check_pass(max_jobs);
  v_is_alone := pg_try_advisory_xact_lock(v_key);
  -- the clock is read after the lock was tried: another session may have just ended
  v_since := clock_timestamp() - awa._succeeded_at(pass);
  if v_since >= '0' and v_since < (case
    when not v_is_alone then interval '5 seconds'
    when if_due then awa._pass_period(pass)
    else '0'
  end) then
    return false;
  end if;
  v_sequence := 'awa.pass_cuts_' || pass;
  v_cuts := coalesce(pg_sequence_last_value(v_sequence), 0);
  v_max := case when v_cuts = 0 then max_jobs else greatest(coalesce(max_jobs, 1000) >> v_cuts, 1) end;
  perform setval(v_sequence, least(v_cuts + 1, 10)) where v_may_be_cut; -- what is cut off undoes all but this
  v_more := coalesce(case pass
    when 'promote_due' then (
      select p.promoted >= coalesce(v_max, 4096) or p.promoted > 0 and awa._sweeps_on()
        from awa._promote_due(v_max, false) p(promoted)
    )
    when 'fire_due' then (select f.more from awa.fire_due(v_max) f)
    when 'fold' then (select f.more from awa.fold() f)
    when 'end_stuck_claimers' then (select false from awa.end_stuck_claimers() e)
    -- their parts have 32 at most
    when 'rescue' then (select r.rescued >= least(v_max, 32) from awa.rescue(v_max) r)
    when 'materialize' then (select m.materialized >= least(v_max, 32) from awa.materialize(null, v_max) m)
    when 'cancel_expired' then (select c.cancelled > 0 from awa.cancel_expired(v_max) c)
    when 'apply_changes' then (select c.more from awa.apply_changes(v_max) c)
    when 'expire_history' then (select e.expired >= 2000 from awa.expire_history() e)
    when 'summarize' then (select false from awa.summarize() s)
    when 'rotate' then (select false from awa.rotate() r)
    when 'prune_oldest' then (select p.outcome in ('cleaning', 'cleaned', 'truncating') from awa.prune_oldest() p)
    when 'forget_workers' then (select false from awa.forget_workers() f)
  end, false);
  perform setval(v_sequence, greatest(v_cuts - 1, 0)) where v_may_be_cut or v_cuts > 0;
  if v_more then
    perform awa._make_due(pass);
  end if;
  return v_more;
end
$$;
comment on function awa.run_pass is
  'Runs one pass of maintenance, unless another session is running it; returns whether there is more to do';
