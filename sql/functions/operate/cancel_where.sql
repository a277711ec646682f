-- Cancels matching jobs that have not ended; returns how many.
-- At least one filter is required: a queue, a kind, a state, a time before which they were enqueued, a tag, an object
-- that their arguments contain, a group, or the cause of their last errors, as failure_causes names it. Changes at most
-- max_jobs (1 to 10,000), and available jobs of at most 500 queues: call it again until it returns 0. A filter by tag,
-- arguments or group reads at most 100,000 jobs of each state, one by cause 20,000, the first in line; scan_jobs finds
-- the rest. Skips deferred jobs that another session is changing, and other
-- jobs that another session is changing, or answering for, for longer than claim_wait.
-- Locks: as cancel, for each job.
-- Raises 22023 for the filter, JQ004; 55P03 for a lock that stands for all claims; 40001, at commit, as cancel does.
create or replace function awa.cancel_where(
  queue     text default null,
  kind      text default null,
  state     text default null,
  before    timestamptz default null,
  max_jobs  int default 1000,
  tag       text default null,
  args      jsonb default null,
  group_key text default null,
  cause     text default null
) returns bigint
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
#variable_conflict use_variable
declare
  v_max int := coalesce(max_jobs, 1000);
  v_cause text := awa._cause(cause);
  v_most int := awa._most_entries(tag, args, group_key, cause); -- null: all
  v_queue_id bigint := awa._queue_id(queue);
  v_last bigint; -- of the deferred jobs that it looks at; null: of all
  v_cancelled bigint := 0;
  v_running awa._place[];
begin
  perform awa._check_filter(queue, kind, state, before, max_jobs, awa._states('cancellable'), tag, args, group_key,
    cause);
  perform awa._check_isolation();
  perform awa._bound_waits();
  if state is null or state = any(awa._states('deferred')) then
    if v_most is not null then
      select d.job_id into v_last
        from awa.deferred_jobs d
       where (queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
         and (state is null or d.state = state)
       order by d.job_id
      offset v_most - 1
       limit 1;
    end if;
    v_cancelled := cardinality(awa._cancel_waiting(array(
      select d.job_id
        from awa.deferred_jobs d
       where (queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
         and (kind is null or d.kind = kind)
         and (state is null or d.state = state)
         and (before is null or d.created_at < before)
         and (tag is null or d.tags @> array[tag])
         and (args is null or d.args @> args)
         and (group_key is null or d.group_key = group_key)
         and (cause is null or awa._cause_of(d.errors) = v_cause)
         and (v_last is null or d.job_id <= v_last)
         and case -- see _buried_here
           when d.job_id in (select b.job_id from awa._buried_here b)
             then d.run_at in (select h.run_at from awa._deferred_here h where h.job_id = d.job_id)
           else true
         end
       limit v_max
         for update skip locked), 'cancelled with others'));
  end if;
  if state is null or state = 'available' then
    v_cancelled := v_cancelled + awa._cancel_free(array(
      select (a.job_id, 'available', null, a.lane, a.lane & 7, a.xid, a.segment, null)::awa._place
        from (
          -- each is locked at commit
          select a.lane, a.xid, a.job_id, a.segment, dense_rank() over (order by awa._shard_of(a.lane)) as shards
            from (
              select a.lane, a.xid, a.job_id, a.segment
                from (
                  select a.lane, a.xid, a.job_id, a.segment, a.kind, a.created_at, a.tags, a.args,
                         a.group_key, a.errors
                    from awa._all_available a
                   where queue is null or a.queue_id = v_queue_id
                   limit v_most
                ) a
               where (kind is null or a.kind = kind) and (before is null or a.created_at < before)
                 and (tag is null or a.tags @> array[tag]) and (args is null or a.args @> args)
                 and (group_key is null or a.group_key = group_key)
                 and (cause is null or awa._cause_of(a.errors) = v_cause)
               limit v_max - v_cancelled
            ) a
        ) a
       where a.shards <= 500), 'cancelled with others');
  end if;
  if state is null or state = 'running' then
    v_running := array(
      select (r.job_id, 'running', r.receipt, null, null, null, null, null)::awa._place
        from (
          select r.job_id, r.receipt, r.kind, r.created_at, r.tags, r.args, r.group_key, r.errors
            from awa._running r
           where queue is null or r.queue_id = v_queue_id
           limit v_most
        ) r
       where (kind is null or r.kind = kind) and (before is null or r.created_at < before)
         and (tag is null or r.tags @> array[tag]) and (args is null or r.args @> args)
         and (group_key is null or r.group_key = group_key)
         and (cause is null or awa._cause_of(r.errors) = v_cause)
       order by r.receipt
       limit v_max - v_cancelled);
    perform set_config('plan_cache_mode', 'force_generic_plan', true); -- one plan for all of them
    v_cancelled := v_cancelled + awa._cancel_free(v_running, 'cancelled with others');
  end if;
  perform awa._note_change('cancel', awa._as_filter(queue, kind, state, before, tag, args, group_key, v_cause),
    changed => v_cancelled);
  return v_cancelled;
end
$$;
comment on function awa.cancel_where is 'Cancels matching jobs that have not ended; returns how many';

-- Cancels jobs that are available or running, but for those that other sessions hold; returns how many.
-- Where one of them is locked for too long, it goes on with half of them at a time; less where that fails, more where
-- it does not, for five seconds at most, or a fourth of the caller's timeout.
-- Locks: as complete_many, but it waits for milliseconds for each.
-- Why: as _release_some.
create or replace function awa._cancel_free(places awa._place[], reason text) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_before text := current_setting('lock_timeout');
  v_until timestamptz;
  v_free bigint[];
  v_at int := 1;
  v_size int;
  v_cancelled bigint := 0;
begin
  begin
    return cardinality(awa._cancel_there(places, reason));
  exception when lock_not_available then
    v_until := clock_timestamp() + awa._budget('5 seconds', 4);
  end;
  perform set_config('lock_timeout', '10', true);
  v_free := awa._join_free_claims(array(select p.receipt from unnest(places) p where p.receipt is not null));
  places := array(
    select p from unnest(places) p where p.receipt is null or p.receipt >> 12 in (select unnest(v_free))); -- hashed
  v_size := greatest(cardinality(places) / 2, 1);
  while v_at <= cardinality(places) and clock_timestamp() < v_until loop
    begin
      v_cancelled := v_cancelled + cardinality(awa._cancel_there(places[v_at : v_at + v_size - 1], reason));
      v_at := v_at + v_size;
      v_size := 2 * v_size;
    exception when lock_not_available then
      v_at := v_at + (v_size = 1)::int;
      v_size := greatest(least(v_size, cardinality(places) - v_at + 1) / 2, 1);
    end;
  end loop;
  perform set_config('lock_timeout', v_before, true);
  return v_cancelled;
end
$$;
comment on function awa._cancel_free is
  'Cancels jobs that are available or running, but for those that other sessions hold; returns how many';

-- Refuses a filter without a condition, or by an unknown state, or one too large to be noted.
-- Raises 22023.
create or replace function awa._check_filter(
  queue text,
  kind text,
  state text,
  before timestamptz,
  max_jobs int,
  states text[],
  tag text,
  args jsonb,
  group_key text,
  cause text
) returns void
language plpgsql
as $$
begin
  -- an empty object is in the arguments of each job
  if num_nonnulls(queue, kind, state, before, tag, nullif(nullif(args, '{}'), '[]'), group_key,
       cause) = 0 then
    perform awa._refuse('a filter must name a queue, kind, state, before, tag, args, group_key or cause', null,
      'Say which jobs: at least one of these.');
  end if;
  if state <> all(states) then
    perform awa._refuse('state must be one that allows this change', state,
      'It may be ' || array_to_string(states, ', ') || '.');
  end if;
  if max_jobs not between 1 and 10000 then
    perform awa._refuse('max_jobs must be between 1 and 10000', max_jobs::text, 'Leave it out for 1000.');
  end if;
  if char_length(queue) > 200 then
    perform awa._check_name('queue', queue);
  elsif char_length(kind) > 200 then
    perform awa._check_name('kind', kind);
  end if;
  perform awa._json_bytes('args', args, most => 65536);
  perform awa._check_tag(tag);
  perform awa._check_group(group_key);
  perform awa._check_cause(cause);
end
$$;
comment on function awa._check_filter is
  'Refuses a filter without a condition, or by an unknown state, or one too large to be noted';
