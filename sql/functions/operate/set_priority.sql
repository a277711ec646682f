-- Gives a job that waits another priority (1 to 4); returns the state that it was in.
-- It goes to the end of its new lane. One that was given back, and waits for its group, keeps its place there.
-- Locks: the job's row, until the transaction ends; for an available job its queue, at commit.
-- Raises 22023, JQ003, JQ004; JQ005 when it runs or has ended, or when this transaction has put it into the same place
-- before; 55P03; 40001, also at commit, when it moved on meanwhile.
create or replace function awa.set_priority(job_id bigint, priority int) returns text
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
begin
  if priority is null or priority not between 1 and 4 then
    perform awa._refuse('priority must be between 1 and 4', priority::text, 'Priority 1 is served first, 4 last.');
  end if;
  perform awa._check_change(job_id);
  perform awa._bound_waits();
  begin
    return awa._relocate(job_id, null, priority);
  exception when lock_not_available then
    get stacked diagnostics v_detail = pg_exception_detail;
    if v_detail <> '' then
      raise; -- it names the holder
    end if;
    perform awa._refuse_change(job_id);
  end;
end
$$;
comment on function awa.set_priority is
  'Gives a job that waits another priority (1 to 4); returns the state that it was in';

-- Moves a job that waits to another queue or priority; returns the state that it was in.
-- Null leaves the queue or the priority. Where the queue is a part of its unique key, the job takes the key of the new
-- queue. It lets go of the old key, at commit if it was available: see _resolve_change.
-- Locks: the job's row, or the tables of its entry's segment; its unique keys, old and new; with a group, the number of
-- shards of the new queue; until the transaction ends.
-- Raises JQ003; JQ005 where the job does not wait, or this transaction has put it into that lane before; 23505 where
-- another job holds the key; 55P03, 40001.
create or replace function awa._relocate(job_id bigint, queue text, priority int) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_place awa._place;
  v_waits boolean;
  v_lane bigint;
  v_batch bigint;
  v_key bytea;
  v_group_key text;
  v_expires_at timestamptz;
  v_entry awa.ready_entries;
  v_limited awa.deferred_jobs;
begin
  for v_look in 1..10 loop
    v_place := awa._locate(job_id);
    v_waits := v_place.state = 'available' or v_place.state = any(awa._states('deferred'));
    v_lane := v_place.lane & ~7::bigint
      | case when v_place.lane & 7 = 0 and queue is null then 0 else coalesce(priority, v_place.priority) end;
    if v_waits and awa._queue_id(queue) <> awa._queue_of(v_place.lane) then
      begin
        select j.group_key, j.expires_at into v_group_key, v_expires_at from awa.jobs j where j.id = job_id;
        raise sqlstate 'JQ999'; -- see _look_up
      exception when sqlstate 'JQ999' then
        null;
      end;
      v_lane := awa._lane(awa._queue_id(queue), (v_lane & 7)::int,
        awa._shard_for(awa._queue_id(queue), job_id, v_group_key));
    end if;
    if v_waits then
      -- also the one to which it goes from the front
      perform awa._use_lanes(array[v_lane, v_lane & ~7::bigint | coalesce(priority, v_place.priority)], queue,
        expiring => v_expires_at is not null);
    end if;
    v_key := awa._moved_key(v_place.unique_key, awa._queue_of(v_place.lane), awa._queue_of(v_lane));
    if v_key <> v_place.unique_key
      and awa._holds(v_key, v_place.state)
      and not (awa._take_key(substr(v_key, 1, 32), true, job_id)).taken then
      perform awa._refuse_key(job_id, substr(v_key, 1, 32));
    end if;
    if v_place.state = any(awa._states('deferred')) then
      update awa.deferred_jobs d
         set lane = v_lane, unique_key = v_key
       where d.job_id = job_id and d.lane = v_place.lane;
      if found then
        if v_key <> v_place.unique_key then
          perform awa._let_go(array[job_id], array[substr(v_place.unique_key, 1, 32)]);
        end if;
        perform awa._note_moved(v_place.lane, v_lane);
        perform awa._note_leavers(array[job_id], array[v_place.lane], array[v_group_key]);
        return v_place.state;
      end if;
    elsif v_place.state = 'available' then
      if v_lane = v_place.lane and coalesce(priority, v_place.priority) = v_place.priority then
        return v_place.state;
      end if;
      if v_place.xid is null then -- it waits for its group
        if awa._queue_of(v_lane) = awa._queue_of(v_place.lane) then
          update awa.limited_jobs w set lane = v_lane where w.job_id = job_id and w.waiting_id < 0;
          if found then -- it comes first in its group, and goes on to
            perform awa._wake(awa._queue_of(v_lane));
            return v_place.state;
          end if;
        end if;
        select d.* into v_limited from awa._leave_lines(array[job_id]) d;
        continue when v_limited.job_id is null;
        if awa._has_place((select l from awa._ready_lane(v_lane, job_id, v_limited.group_key) l), job_id) then
          perform awa._refuse_place(job_id, v_place.state);
        end if;
        v_limited.lane := v_lane;
        v_limited.unique_key := v_key;
        perform awa._append_ready(array[v_limited]);
        if v_key <> v_place.unique_key then
          perform awa._let_go(array[job_id], array[substr(v_place.unique_key, 1, 32)]);
        end if;
        perform awa._note_moved(v_place.lane, v_lane);
        return v_place.state;
      end if;
      v_batch := awa._new_batch();
      if cardinality(awa._bury(array[v_place], v_batch, false)) > 0 then
        begin
          select e.* into v_entry
            from awa._entries e
           where e.lane = v_place.lane and e.xid = v_place.xid and e.job_id = job_id;
          raise sqlstate 'JQ999'; -- see _look_up
        exception when sqlstate 'JQ999' then
          null;
        end;
        if v_entry.group_key is not null then
          v_lane := (select l from awa._ready_lane(v_lane, job_id, v_entry.group_key) l);
          perform awa._use_lanes(array[v_lane]);
        end if;
        if v_entry.job_id is null or awa._has_place(v_lane, job_id) then
          perform awa._refuse_place(job_id, v_place.state);
        end if;
        v_entry.segment := awa._current_segment();
        v_entry.lane := v_lane;
        v_entry.xid := pg_current_xact_id();
        v_entry.priority := coalesce(priority, v_entry.priority);
        v_entry.unique_key := v_key;
        v_entry.created_at := coalesce(v_entry.created_at, v_entry.ready_at);
        perform awa._append_entry(v_entry);
        perform awa._note_moved(v_place.lane, v_lane);
        perform awa._note_leavers(array[job_id], array[v_place.lane], array[v_group_key]);
        perform awa._decide_at_end(v_batch);
        perform awa._wake(awa._queue_of(v_lane));
        return v_place.state;
      end if;
    else
      perform awa._refuse_state(job_id, v_place.state,
        'Only a job that waits to run can get another queue or priority.');
    end if;
  end loop;
  perform awa._moved_on(job_id);
end
$$;
comment on function awa._relocate is
  'Moves a job that waits to another queue or priority; returns the state that it was in';

-- Notes that a job has gone to another queue.
create or replace function awa._note_moved(from_lane bigint, to_lane bigint) returns void
language sql
as $$
  select awa._arrive(from_lane, -1), awa._arrive(to_lane, 1) where awa._queue_of(from_lane) <> awa._queue_of(to_lane)
$$;
comment on function awa._note_moved is 'Notes that a job has gone to another queue';

-- Raises JQ005 for a job that this transaction itself took away from the place where it should go.
create or replace function awa._refuse_place(job_id bigint, state text) returns void
language plpgsql
as $$
begin
  perform awa._refuse_state(job_id, state || ', and this transaction has put it there before',
    'A job cannot go to the same place twice in one transaction: commit first.');
end
$$;
comment on function awa._refuse_place is
  'Raises JQ005 for a job that this transaction itself took away from the place where it should go';
