-- The limits of a queue, and the states that claims keep of them.

-- Reads the settings and the state of a shard, and its new slots, and says how many jobs may begin: null for none now.
-- whole: the state of the first shard, which has the limits of the queue as a whole. Where this shard is another one,
-- the slots of the first one are read, too, since no claim comes to a shard without jobs. Its groups are left to the
-- next claim there.
-- Returns also the groups to look at, how many slots each has got back, and whether there were slots; and has_own:
-- whether any group of the queue has a row of settings.
-- Locks: the first shard of the queue, tried, where the limits of the whole queue are asked for another one.
create or replace function awa._limits_now(
  queue_id bigint,
  shard bigint,
  now pg_snapshot,
  at timestamptz,
  max_jobs int,
  out settings awa.queue_settings,
  out state awa.shard_states,
  out whole awa.shard_states,
  out groups bigint[],
  out freed int[],
  out has_slots boolean,
  out has_own boolean,
  out most int
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_first constant bigint := awa._first_shard(shard);
  v_until pg_snapshot;
  v_slots record;
  v_lines bigint[];
  v_opened timestamptz;
begin
  select s.* into settings from awa.queue_settings s where s.queue_id = queue_id;
  settings.group_order := coalesce(settings.group_order, 'start');
  settings.group_turns := coalesce(settings.group_turns, false);
  settings.group_max_running := awa._group_limit(settings.group_max_running, settings.group_order);
  if settings.paused_at is not null then
    return;
  end if;
  has_own := exists (select from awa.group_settings g where g.queue_id = queue_id);
  if current_setting('synchronous_commit') = 'off' and (num_nonnulls(settings.rate, settings.group_rate) > 0
    or has_own and exists (select from awa.group_settings g where g.queue_id = queue_id and g.group_rate is not null))
  then
    perform set_config('synchronous_commit', 'on', true); -- a crash must not forget that jobs have begun
  end if;
  state := awa._shard_state(shard);
  whole := state;
  if shard <> v_first and num_nonnulls(settings.max_running, settings.rate) > 0 then
    if not pg_try_advisory_xact_lock(awa._shard_key(v_first)) then
      return;
    end if;
    v_until := awa._snapshot(); -- under the lock: the first shard may have been read since now
    whole := awa._shard_state(v_first);
    v_slots := awa._read_slots(v_first, whole.read_until, v_until);
    if v_slots.is_any then
      whole.running := whole.running - v_slots.of_queue;
      whole.read_until := v_until;
      whole := awa._store_shard_state(whole, v_until);
      if v_slots.looks is not null then
        perform awa._change_holders(v_first, v_slots.looks, v_slots.holders, v_slots.leavers, settings.group_order);
      end if;
      perform awa._take_turns_back(v_first, v_slots.changed) where v_slots.changed <> '{}';
      perform awa._deal_turns(v_first, v_slots.groups, v_slots.freed, settings, has_own, at, false);
      if v_slots.groups <> '{}' then
        perform awa._look_again(v_first, v_slots.groups);
      end if;
    end if;
  end if;
  v_slots := awa._read_slots(shard, state.read_until, now);
  groups := v_slots.groups;
  freed := v_slots.freed;
  has_slots := v_slots.is_any;
  whole.running := whole.running - v_slots.of_queue;
  if v_slots.looks is not null then
    perform awa._change_holders(shard, v_slots.looks, v_slots.holders, v_slots.leavers, settings.group_order);
  end if;
  if state.group_order is distinct from settings.group_order then
    v_lines := awa._end_holders(shard, settings.group_order);
    groups := groups || v_lines;
    freed := freed || array_fill(0, array[cardinality(v_lines)]);
  end if;
  if (state.group_max_running, state.group_rate, state.group_turns)
    is distinct from (settings.group_max_running, settings.group_rate, settings.group_turns)
  then
    v_lines := awa._take_turns_back(shard);
  else
    if v_slots.changed <> '{}' then
      perform awa._take_turns_back(shard, v_slots.changed);
    end if;
    select array_agg(o.group_id), max(o.opens_at) into v_lines, v_opened
      from (
        select s.group_id, s.opens_at
          from awa.group_states s
         where s.shard = shard and s.opens_at >= coalesce(state.opened_until, '-infinity') and s.opens_at <= at
         order by s.opens_at
         limit 1000
      ) o;
    state.opened_until := case
      when state.opened_until > at then at -- the clock was set back
      else coalesce(v_opened, state.opened_until)
    end;
  end if;
  groups := groups || v_lines;
  freed := freed || array_fill(0, array[coalesce(cardinality(v_lines), 0)]);
  most := greatest(least(max_jobs, settings.max_running - whole.running,
    awa._rate_allows(settings.rate, whole.next_at, at)), 0);
end
$$;
comment on function awa._limits_now is
  'Reads the settings and the state of a shard, and its new slots, and says how many jobs may begin: null for none now';

-- Writes the states that a claim leaves, by which so many jobs have begun.
create or replace function awa._store_limits(
  settings awa.queue_settings,
  state awa.shard_states,
  whole awa.shard_states,
  at timestamptz,
  jobs int,
  read_until pg_snapshot
) returns void
language plpgsql
as $$
begin
  state.group_max_running := settings.group_max_running;
  state.group_order := settings.group_order;
  state.group_rate := settings.group_rate;
  state.group_turns := settings.group_turns;
  whole.running := whole.running + case when settings.max_running is null then 0 else jobs end;
  if settings.rate is not null then
    whole.next_at := awa._rate_after(settings.rate, whole.next_at, at, jobs);
  end if;
  if state.shard = whole.shard then
    state.running := whole.running;
    state.next_at := whole.next_at;
  else
    perform awa._store_shard_state(whole);
  end if;
  perform awa._store_shard_state(state, read_until);
end
$$;
comment on function awa._store_limits is 'Writes the states that a claim leaves, by which so many jobs have begun';

-- The newest state of a shard, or the one of a shard without limits so far.
create or replace function awa._shard_state(shard bigint) returns awa.shard_states
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_state awa.shard_states;
begin
  select s.* into v_state from awa.shard_states s where s.shard = shard order by s.state_id desc limit 1;
  if not found then
    v_state := (shard, 0, '3:3:', '{0,0,0,0,0}', 0, null, null, 'start', null, null, false);
  end if;
  return v_state;
end
$$;
comment on function awa._shard_state is
  'The newest state of a shard, or the one of a shard without limits so far';

-- Writes the new state of a shard, where it differs from the newest one, which it was read from; returns it.
-- read_until: the snapshot up to which slots are read, if there were any.
create or replace function awa._store_shard_state(
  state awa.shard_states,
  read_until pg_snapshot default null
) returns awa.shard_states
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_old awa.shard_states;
begin
  if read_until is null then
    v_old := awa._shard_state(state.shard);
    if (state.turns_until, state.running, state.next_at, state.group_max_running, state.group_order, state.group_rate,
        state.opened_until, state.group_turns)
      is not distinct from (v_old.turns_until, v_old.running, v_old.next_at, v_old.group_max_running,
        v_old.group_order, v_old.group_rate, v_old.opened_until, v_old.group_turns)
    then
      return v_old;
    end if;
  end if;
  delete from awa.shard_states s where s.shard = state.shard and s.state_id = state.state_id;
  state.read_until := coalesce(read_until, state.read_until);
  state.state_id := nextval('awa.state_ids');
  insert into awa.shard_states
    (shard, state_id, read_until, turns_until, running, next_at, group_max_running, group_order, group_rate,
     opened_until, group_turns)
  values (state.shard, state.state_id, state.read_until, state.turns_until, state.running, state.next_at,
    state.group_max_running, state.group_order, state.group_rate, state.opened_until, state.group_turns);
  return state;
end
$$;
comment on function awa._store_shard_state is
  'Writes the new state of a shard, where it differs from the newest one, which it was read from; returns it';
