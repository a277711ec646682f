-- Groups with limits of their own, and paused groups.

-- The limits that hold for a group at a time: its own, otherwise those of its queue.
-- settings: of the queue. has_own: whether any group of the queue has a row.
-- Why: a set of one, so that it becomes a part of the query that calls it.
create or replace function awa._group_terms(
  settings awa.queue_settings,
  queue_id bigint,
  group_id bigint,
  has_own boolean,
  at timestamptz
) returns table (max_running int, rate jsonb, is_paused boolean, paused_until timestamptz)
language sql stable
as $$
  select awa._group_limit(coalesce(o.group_max_running, (settings).group_max_running), (settings).group_order),
         coalesce(o.group_rate, (settings).group_rate), o.paused_at is not null and (o.paused_until > at) is not false,
         o.paused_until
    from (select) x
    left join lateral (
      select *
        from awa.group_settings g
       where has_own and g.queue_id = _group_terms.queue_id and g.group_id = _group_terms.group_id
       limit 1
    ) o on true
$$;
comment on function awa._group_terms is
  'The limits that hold for a group at a time: its own, otherwise those of its queue';

-- The newest state of a group, and the place of its row; no row for a group that is idle.
-- Why: a set of one, so that it becomes a part of the query that calls it. Of the states the newest comes first, so the
-- look passes over no older ones.
create or replace function awa._group_state(shard bigint, group_id bigint) returns table (
  row_id tid, running int, has_line boolean, has_front boolean, taken bigint, front_taken bigint, holder bigint,
  next_at timestamptz, rate_turns int, opens_at timestamptz
)
language sql stable
as $$
  select s.ctid, s.running, s.has_line, s.has_front, s.taken, s.front_taken, s.holder, s.next_at, s.rate_turns,
         s.opens_at
    from awa.group_states s
   where s.shard = _group_state.shard and s.group_id = _group_state.group_id
   order by s.state_id desc
   limit 1
$$;
comment on function awa._group_state is
  'The newest state of a group, and the place of its row; no row for a group that is idle';

-- The row of a group, which is made if there is none, locked.
-- Locks: the row, until the transaction ends. Waits for it for claim_wait, or lock_timeout where that is shorter.
-- Raises 55P03, and names the holder.
create or replace function awa._lock_group(queue_id bigint, group_key text) returns awa.group_settings
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_row awa.group_settings;
  v_wait text := awa._shorten_waits();
begin
  begin
    insert into awa.group_settings as g (queue_id, group_id, group_key, changed_at, changed_by)
    values (queue_id, awa._group_id(group_key), group_key, clock_timestamp(), session_user)
    on conflict on constraint group_settings_pkey do update set changed_at = g.changed_at
    returning g.* into v_row;
  exception when lock_not_available then
    perform awa._refuse_group(queue_id, group_key);
  end;
  v_wait := set_config('lock_timeout', v_wait, true);
  return v_row;
end
$$;
comment on function awa._lock_group is 'The row of a group, which is made if there is none, locked';

-- The row of a group that is paused, locked; null where it is not.
-- Locks: the row, as _lock_group.
-- Raises 55P03, and names the holder.
create or replace function awa._lock_paused_group(queue_id bigint, group_key text) returns awa.group_settings
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_row awa.group_settings;
  v_wait text := awa._shorten_waits();
begin
  begin
    select g.* into v_row
      from awa.group_settings g
     where g.queue_id = queue_id and g.group_id = awa._group_id(group_key) and g.paused_at is not null
       for update;
  exception when lock_not_available then
    perform awa._refuse_group(queue_id, group_key);
  end;
  v_wait := set_config('lock_timeout', v_wait, true);
  return v_row;
end
$$;
comment on function awa._lock_paused_group is 'The row of a group that is paused, locked; null where it is not';

-- Raises 55P03: the row of a group was waited for, for as long as lock_timeout says.
-- Names the holder.
create or replace function awa._refuse_group(queue_id bigint, group_key text) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  perform awa._refuse_wait(array['awa.group_settings']::regclass[],
    'the settings of the group are being changed by another session',
    'configure_group, pause_group, resume_group, drop_queue, and snooze with hold_group, hold them until their '
    'transaction ends: let that end, and try again.',
    (
      select awa._row_holder('awa.group_settings', g.xmax)
        from awa.group_settings g
       where g.queue_id = queue_id and g.group_id = awa._group_id(group_key)
    ));
end
$$;
comment on function awa._refuse_group is
  'Raises 55P03: the row of a group was waited for, for as long as lock_timeout says';

-- Writes the row of a group that _lock_group has returned, and has claims look at the group.
-- Without limits, and not paused, it leaves no row.
create or replace function awa._store_group(new_row awa.group_settings, shard bigint) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  if num_nonnulls(new_row.group_max_running, new_row.group_rate, new_row.paused_at) = 0 then
    delete from awa.group_settings g where g.queue_id = new_row.queue_id and g.group_id = new_row.group_id;
  else
    update awa.group_settings g
       set (group_max_running, group_rate, paused_at, paused_until, reason, changed_at, changed_by)
         = (new_row.group_max_running, new_row.group_rate, new_row.paused_at, new_row.paused_until, new_row.reason,
            clock_timestamp(), session_user)
     where g.queue_id = new_row.queue_id and g.group_id = new_row.group_id;
  end if;
  insert into awa.slots (shard, changed) values (shard, array[new_row.group_id]);
  perform awa._wake(new_row.queue_id);
end
$$;
comment on function awa._store_group is
  'Writes the row of a group that _lock_group has returned, and has claims look at the group';

-- Closes a group until a time; without one, until it is opened.
-- The caller has made its queue one with limits. Claims that have begun before may begin jobs of it.
-- Locks: the row of the group, until the transaction ends.
create or replace function awa._pause_group(
  queue_id bigint,
  shard bigint,
  group_key text,
  reason text,
  until timestamptz
) returns void
language plpgsql
as $$
declare
  v_row awa.group_settings := awa._lock_group(queue_id, group_key);
begin
  if v_row.paused_at is null or v_row.paused_until <= clock_timestamp() then
    v_row.paused_at := clock_timestamp();
  end if;
  v_row.paused_until := until;
  v_row.reason := reason;
  perform awa._store_group(v_row, shard);
end
$$;
comment on function awa._pause_group is 'Closes a group until a time; without one, until it is opened';

-- Removes rows of groups that have no limits of their own, and whose pause is over, at most so many.
-- Locks: these rows. Skips those that others hold.
create or replace function awa._forget_pauses(max_groups int) returns void
language sql
as $$
  delete from awa.group_settings g
   where g.ctid = any(array(
     select g.ctid
       from awa.group_settings g
      where g.group_max_running is null and g.group_rate is null and g.paused_until <= clock_timestamp()
      limit max_groups
        for update skip locked))
$$;
comment on function awa._forget_pauses is
  'Removes rows of groups that have no limits of their own, and whose pause is over, at most so many';
