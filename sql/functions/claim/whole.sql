-- The short way of claims from a queue whose groups have no limits.

-- The limits of a queue as a whole, where it has no others: its settings and state, and how many jobs may begin.
-- most is null where a claim has to go by _claim_limited: the queue is paused, or has other shards; its groups, or one
-- of them, have a limit or a pause; or they had one, and a job still has a turn, or a slot of a group comes back, or a
-- group opens at some time. Otherwise lanes are those of the shard, in their order. has_slots: slots of the queue have
-- come back, and are read. The caller has locked the shard.
-- Why: without limits of groups, a claim needs no look at the groups of jobs. It goes through the lanes as one without
-- limits does, and takes fewer. No job is in a line then: a group with a line is named by slots, or has a turn, or
-- opens at some time, or has no room; and without a limit it has room.
create or replace function awa._whole_limits(
  terms awa._terms_row,
  shard bigint,
  now pg_snapshot,
  max_jobs int,
  out settings awa.queue_settings,
  out state awa.shard_states,
  out has_slots boolean,
  out most int,
  out lanes bigint[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_of_groups boolean;
begin
  if terms.limits_groups or terms.has_others or shard <> awa._first_shard(shard) then
    return;
  end if;
  select s.* into settings from awa.queue_settings s where s.queue_id = terms.queue_id;
  settings.group_order := coalesce(settings.group_order, 'start');
  settings.group_turns := coalesce(settings.group_turns, false);
  state := awa._shard_state(shard);
  if settings.paused_at is not null
    or num_nonnulls(settings.group_max_running, settings.group_rate, state.group_max_running, state.group_rate) > 0
    or (settings.group_order, state.group_order) is distinct from ('start', 'start')
    or state.group_turns or settings.group_turns
    or (select true from awa.group_settings g where g.queue_id = terms.queue_id limit 1)
    or (
      select true
        from awa.group_states g
       where g.shard = shard and g.opens_at >= coalesce(state.opened_until, '-infinity')
       limit 1)
    or (
      select true
        from unnest(state.turns_until) with ordinality u(turn_id, n)
       cross join lateral (
          select from awa.turns t where t.lane = (shard << 3) + u.n - 1 and t.turn_id > u.turn_id limit 1
        ) t
       limit 1)
  then
    return;
  end if;
  -- also slots that now does not show: with one of them, the row of a group may have gone that was just not found
  select count(*) filter (where pg_visible_in_snapshot(s.xid, now)) > 0,
         coalesce(bool_or(s.freed || s.looks || s.changed <> '{}'), false)
    into has_slots, v_of_groups
    from (
      select s.xid, s.freed, s.looks, s.changed
        from awa.slots s
       where s.shard = shard and s.xid >= pg_snapshot_xmax(state.read_until)
      union all
      select s.xid, s.freed, s.looks, s.changed
        from pg_snapshot_xip(state.read_until) x(xid)
       cross join lateral (select * from awa.slots s where s.shard = shard and s.xid = x.xid offset 0) s
    ) s;
  if v_of_groups then
    return;
  end if;
  if has_slots then
    state.running := state.running - (awa._read_slots(shard, state.read_until, now)).of_queue;
  end if;
  if settings.rate is not null and current_setting('synchronous_commit') = 'off' then
    perform set_config('synchronous_commit', 'on', true); -- a crash must not forget that jobs have begun
  end if;
  most := greatest(least(max_jobs, settings.max_running - state.running,
    awa._rate_allows(settings.rate, state.next_at, terms.claimed_at)), 0);
  if most > 0 then
    lanes := awa._in_order(terms, now, settings.aging_interval);
  end if;
end
$$;
comment on function awa._whole_limits is
  'The limits of a queue as a whole, where it has no others: its settings and state, and how many jobs may begin';
