-- Changes settings of a queue.
-- Settings that are not named stay; null brings a default back. Makes the queue if it does not exist. The reference
-- lists the keys, with their ranges.
-- Locks: the queue's name, shared, and its settings, until the transaction ends; only drop_queue and other changes of
-- its settings wait, for claim_wait at most.
-- Another number of shards does not take effect while a transaction is open that has enqueued a job with a group: that
-- is waited for, for claim_wait at most.
-- Raises 22023; 55000 for another number of shards while jobs with a group wait or run; JQ004 for the same; 55P03, and
-- names the holder.
create or replace function awa.configure_queue(queue text, settings jsonb) returns void
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
as $$
#variable_conflict use_variable
declare
  v_queue_id bigint;
  v_checked jsonb;
begin
  perform awa._check_name('queue', queue);
  v_checked := awa._checked_settings(true, settings);
  v_queue_id := awa._make_queue(queue);
  perform awa._lock_settings(v_queue_id);
  update awa.queue_settings s
     set (default_priority, default_max_attempts, lease, deadline, backoff_base, backoff_max, dead_letter,
          aging_interval, max_depth, depth_note, failed_retention, dlq_retention, completed_retention,
          group_max_running, group_rate, max_running, rate, group_order, group_turns, changed_at, changed_by)
       = (select r.default_priority, r.default_max_attempts, r.lease, r.deadline, r.backoff_base, r.backoff_max,
                 r.dead_letter, r.aging_interval, r.max_depth,
                 case when r.max_depth is not null then awa._free_depth_note(v_queue_id) end, r.failed_retention,
                 r.dlq_retention, r.completed_retention, r.group_max_running, r.group_rate, r.max_running, r.rate,
                 r.group_order, r.group_turns, clock_timestamp(), session_user
            from jsonb_populate_record(s, v_checked) r)
   where s.queue_id = v_queue_id;
  if v_checked ? 'shards' then
    perform awa._set_shards(v_queue_id, (v_checked ->> 'shards')::int);
  end if;
  perform awa._note_limits(v_queue_id, queue);
  perform awa._note_change('configure_queue', jsonb_build_object('queue', queue),
    jsonb_build_object('settings', v_checked), 0);
end
$$;
comment on function awa.configure_queue is 'Changes settings of a queue';

-- The note for looks at the depth of a queue: its own, or else one that no other queue has.
-- That of the fewest queues, where each is taken.
-- Why: two queues of one note overwrite each other's looks, and look at each call. Two that get their notes at the same
-- moment may get the same; the next change of one cures that.
create or replace function awa._free_depth_note(queue_id bigint) returns smallint
language sql
as $$
  select u.note::smallint
    from (
      select n as note, 0 as others, 0 as own from generate_series(0, 15) n
      union all
      select s.depth_note, (s.queue_id <> _free_depth_note.queue_id)::int, (s.queue_id = _free_depth_note.queue_id)::int
        from awa.queue_settings s
       where s.depth_note is not null
    ) u
   group by u.note
   order by sum(u.others), sum(u.own) desc, u.note
   limit 1
$$;
comment on function awa._free_depth_note is
  'The note for looks at the depth of a queue: its own, or else one that no other queue has';

-- Lets claims look at the limits of a queue from now on, where it has some; checks that they fit its shards.
-- The caller has locked its settings. Where limits wait for more room, its workers are woken.
-- Raises 22023.
create or replace function awa._note_limits(queue_id bigint, queue text) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_settings awa.queue_settings;
  v_has_limits boolean;
begin
  select s.* into v_settings from awa.queue_settings s where s.queue_id = queue_id;
  if v_settings.shards > 1 and num_nonnulls(v_settings.max_running, v_settings.rate) > 0 then
    perform awa._refuse('max_running and rate need a queue of one shard', format('%s shards', v_settings.shards),
      'A limit of the whole queue is kept in one shard: set shards to 1, or limit the groups.');
  end if;
  if v_settings.group_order in ('strict', 'halt') and v_settings.group_max_running > 1 then
    perform awa._refuse('group_max_running must be 1 with the group_order strict or halt',
      v_settings.group_max_running::text, 'In order means one at a time: leave group_max_running out, or set it to 1.');
  end if;
  v_has_limits := exists (
    select from awa.queues q where q.queue_id = queue_id and q.has_limits and q.dropped_at is null);
  if num_nonnulls(awa._group_limit(v_settings.group_max_running, v_settings.group_order), v_settings.group_rate,
    v_settings.max_running, v_settings.rate, nullif(v_settings.group_turns, false)) > 0
  then
    perform awa._limit_queue(queue_id, queue);
    v_has_limits := true;
  end if;
  if v_settings.group_order in ('strict', 'halt') then -- entries go to one lane, and turns to those of their priorities
    perform awa._use_lanes(array(
      select awa._lane(queue_id, p, s)
        from generate_series(1, 4) p
       cross join generate_series(0, coalesce(v_settings.shards, awa._default_number('shards')) - 1) s), queue);
  end if;
  if v_has_limits then
    perform awa._wake_now(queue_id);
  end if;
end
$$;
comment on function awa._note_limits is
  'Lets claims look at the limits of a queue from now on, where it has some; checks that they fit its shards';

-- Changes the number of shards of a queue, whose settings the caller has locked.
-- Locks: the number of shards, until the transaction ends.
-- Raises 55000, 55P03, JQ004.
-- Why: the jobs of a group are in one shard as long as all calls that put them there have read one number. A change
-- of a job that waits or runs leaves it in its shard. So only calls that bring a job to the queue (enqueue, retry,
-- move) hold that lock, too.
create or replace function awa._set_shards(queue_id bigint, number int) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  if coalesce(number, 1) <> (select coalesce(s.shards, 1) from awa.queue_settings s where s.queue_id = queue_id) then
    perform awa._check_isolation();
    for v_look in 1..2 loop -- most often the first one says it all
      if awa._has_groups(queue_id) then
        raise exception using errcode = '55000',
          message = 'shards cannot change while jobs with a group wait or run, or keep their group',
          detail = format('The queue has %s.',
            (select coalesce(s.shards, 1) from awa.queue_settings s where s.queue_id = queue_id)),
          hint = 'The order of a group lies in its shard: stop enqueuing with group_key, let these jobs end, retry or '
            'delete those that failed for good, and try again; or use another queue.';
      end if;
      if v_look = 1 then
        perform awa._lock_shards(queue_id);
      end if;
    end loop;
  end if;
  update awa.queue_settings s set shards = number where s.queue_id = queue_id;
end
$$;
comment on function awa._set_shards is
  'Changes the number of shards of a queue, whose settings the caller has locked';

-- Whether jobs of a queue wait, or run, that have a group, or have failed for good and keep their group.
-- Why: one statement, since between two of them a job could go from where the second looks to where the first did.
create or replace function awa._has_groups(queue_id bigint) returns boolean
language sql
as $$
  select exists (
      select
        from awa.deferred_jobs d
       where d.lane between awa._first_lane(_has_groups.queue_id) and awa._last_lane(_has_groups.queue_id)
         and d.group_key is not null
    )
    or exists (select from awa._all_available a where a.queue_id = _has_groups.queue_id and a.group_key is not null)
    or exists (select from awa._running r where r.queue_id = _has_groups.queue_id and r.group_key is not null)
    or exists (
      select
        from (
          select s.holder
            from awa.group_states s
           where s.shard between _has_groups.queue_id << 6 and _has_groups.queue_id << 6 | 63 and s.holder is not null
          union all
          select - k -- no claim has read it
            from awa.slots n
           cross join unnest(n.holders) k
           where n.shard between _has_groups.queue_id << 6 and _has_groups.queue_id << 6 | 63
        ) h
        join awa.done_entries d on d.job_id = h.holder
       where exists (
         select from awa.queue_settings s where s.queue_id = _has_groups.queue_id and s.group_order = 'halt')
    )
$$;
comment on function awa._has_groups is
  'Whether jobs of a queue wait, or run, that have a group, or have failed for good and keep their group';

-- The id of a queue, which is made if it does not exist, with a row of settings.
-- Locks: the queue's name, shared, until the transaction ends. Waits for claim_wait at most.
-- Raises 22023; 55P03, and names the holder.
-- Why: drop_queue would leave behind the settings that the caller is about to write, for the next queue of that name.
create or replace function awa._make_queue(queue text) returns bigint
language plpgsql
as $$
declare
  v_queue_id bigint := awa._queue_id(queue);
  v_before text;
begin
  perform awa._check_name('queue', queue);
  v_before := awa._shorten_waits();
  begin
    perform from awa.queues q where q.queue_id = v_queue_id and q.dropped_at is null for share;
    if not found then
      perform awa._add_queue(queue);
    end if;
    perform awa._add_settings(v_queue_id);
  exception when lock_not_available then
    perform awa._refuse_settings();
  end;
  perform set_config('lock_timeout', v_before, true);
  return v_queue_id;
end
$$;
comment on function awa._make_queue is 'The id of a queue, which is made if it does not exist, with a row of settings';

-- Locks the settings of a queue until the transaction ends.
-- Waits for claim_wait at most, or for the caller's lock_timeout where that is shorter.
-- Raises 55P03, and names the holder.
create or replace function awa._lock_settings(queue_id bigint) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_before text := awa._shorten_waits();
begin
  begin
    perform from awa.queue_settings s where s.queue_id = queue_id for no key update;
  exception when lock_not_available then
    perform awa._refuse_settings();
  end;
  perform set_config('lock_timeout', v_before, true);
end
$$;
comment on function awa._lock_settings is 'Locks the settings of a queue until the transaction ends';
