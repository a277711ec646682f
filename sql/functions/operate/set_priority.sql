-- Gives a job that waits another priority (1 to 4); returns the state that it was in.
-- It goes to the end of its new lane. One that was given back, and waits for its group, keeps its place there.
-- Locks: the job's row, until the transaction ends; for an available job its queue, at commit.
-- Raises 22023, JQ003, JQ004; JQ005 when it runs or has ended, or when this transaction has put it into the same place
-- before; 55P03; 40001, also at commit, when it moved on meanwhile; 55000 as enqueue does.
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
  v_state text;
begin
  if priority is null or priority not between 1 and 4 then
    perform awa._refuse('priority must be between 1 and 4', priority::text, 'Priority 1 is served first, 4 last.');
  end if;
  perform awa._check_change(job_id);
  perform awa._bound_waits();
  begin
    v_state := awa._relocate(job_id, null, priority);
  exception when lock_not_available then
    get stacked diagnostics v_detail = pg_exception_detail;
    if v_detail <> '' then
      raise; -- it names the holder
    end if;
    perform awa._refuse_change(job_id);
  end;
  perform awa._note_change('set_priority', jsonb_build_object('job_id', job_id),
    jsonb_build_object('priority', priority));
  return v_state;
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

-- Moves jobs that wait to another queue or priority, as _relocate does, many at a time.
-- Returns how many, and why the last of the others was not moved.
-- Locks: as _relocate, for each job, and the rows of deferred ones, which the caller has locked; with a group, one lock
-- for all numbers of shards after the 64th job.
-- Raises as _relocate does: then none is moved.
create or replace function awa._relocate_part(
  places awa._place[],
  queue text,
  priority int,
  out changed bigint,
  out error text
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_place awa._place;
  v_ready record;
begin
  changed := 0;
  foreach v_place in array array(
    select p from unnest(places) p where p.state <> 'available' or p.xid is null order by p.id
  ) loop
    if v_place.state = 'available' then -- it waits for its group
      perform awa._relocate(v_place.id, queue, priority);
      changed := changed + 1;
    elsif awa._relocate_deferred(v_place, queue, priority) then
      changed := changed + 1;
    else
      error := format('job %s: another job holds its unique key', v_place.id);
    end if;
  end loop;
  v_ready := awa._relocate_ready(array(select p from unnest(places) p where p.xid is not null), queue, priority);
  changed := changed + v_ready.moved;
  error := coalesce(v_ready.error, error);
end
$$;
comment on function awa._relocate_part is
  'Moves jobs that wait to another queue or priority, as _relocate does, many at a time';

-- The lane and the unique key of a job in another queue or priority.
-- Takes the key, where it is another one, and the job holds it in its state. taken: another job has it.
-- Locks: the key; with a group, the number of shards of the new queue; until the transaction ends.
create or replace function awa._relocated(
  place awa._place,
  group_key text,
  queue text,
  priority int,
  among_many boolean,
  out lane bigint,
  out unique_key bytea,
  out taken boolean
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_from bigint := awa._queue_of(place.lane);
  v_to bigint := coalesce(awa._queue_id(queue), v_from);
begin
  lane := place.lane & ~7::bigint
    | case when place.lane & 7 = 0 and queue is null then 0 else coalesce(priority, place.priority) end;
  if v_to <> v_from then
    lane := awa._lane(v_to, (lane & 7)::int, awa._shard_for(v_to, place.id, group_key, among_many));
  end if;
  unique_key := awa._moved_key(place.unique_key, v_from, v_to);
  taken := unique_key <> place.unique_key
    and awa._holds(unique_key, place.state)
    and not (awa._take_key(substr(unique_key, 1, 32), true, place.id)).taken;
end
$$;
comment on function awa._relocated is 'The lane and the unique key of a job in another queue or priority';

-- Moves a deferred job, whose row the caller has locked; false where another job holds its key there.
-- Raises 40001 where it is not there any more.
create or replace function awa._relocate_deferred(place awa._place, queue text, priority int) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_job record;
  v_new record;
begin
  select d.group_key, d.expires_at is not null as expires into v_job
    from awa.deferred_jobs d
   where d.job_id = place.id and d.lane = place.lane;
  v_new := awa._relocated(place, v_job.group_key, queue, priority, false);
  if v_new.taken then
    return false;
  end if;
  perform awa._use_lanes(array[v_new.lane], queue, expiring => v_job.expires);
  update awa.deferred_jobs d
     set lane = v_new.lane, unique_key = v_new.unique_key
   where d.job_id = place.id and d.lane = place.lane;
  if not found then
    perform awa._moved_on(place.id);
  end if;
  if v_new.unique_key <> place.unique_key then
    perform awa._let_go(array[place.id], array[substr(place.unique_key, 1, 32)]);
  end if;
  perform awa._note_moved(place.lane, v_new.lane);
  if awa._queue_of(v_new.lane) <> awa._queue_of(place.lane) then
    perform awa._note_leavers(array[place.id], array[place.lane], array[v_job.group_key]);
  end if;
  return true;
end
$$;
comment on function awa._relocate_deferred is
  'Moves a deferred job, whose row the caller has locked; false where another job holds its key there';

-- Moves available jobs, with one decision at the end of the transaction for all of them.
-- Returns how many, and why the last of the others was not moved.
-- Raises 40001 where another session has taken one of them from its place.
create or replace function awa._relocate_ready(
  places awa._place[],
  queue text,
  priority int,
  out moved bigint,
  out error text
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_batch bigint := awa._new_batch();
  v_job record;
  v_new record;
  v_lane bigint;
  v_from awa._place[] := '{}';
  v_lanes bigint[] := '{}';
  v_keys bytea[] := '{}';
  v_left text[] := '{}'; -- the groups of those that leave their queue
  v_expires boolean := false;
  v_entry awa.ready_entries;
begin
  moved := 0;
  for v_job in
    select p::awa._place as place, e.group_key, e.expires_at is not null as expires
      from unnest(places) p
     cross join lateral (
        select * from awa._entries e where e.lane = p.lane and e.xid = p.xid and e.job_id = p.id limit 1
     ) e
  loop
    v_new := awa._relocated(v_job.place, v_job.group_key, queue, priority, cardinality(v_from) >= awa._max_locks());
    if v_new.taken then
      error := format('job %s: another job holds its unique key', (v_job.place).id);
      continue;
    end if;
    moved := moved + 1;
    continue when v_new.lane = (v_job.place).lane
      and coalesce(priority, (v_job.place).priority) = (v_job.place).priority; -- it is there
    v_lane := v_new.lane;
    v_from := v_from || v_job.place;
    v_keys := v_keys || array[v_new.unique_key];
    v_left := v_left
      || array[case when awa._queue_of(v_new.lane) <> awa._queue_of((v_job.place).lane) then v_job.group_key end];
    if v_job.group_key is not null then
      v_lane := (select l from awa._ready_lane(v_lane, (v_job.place).id, v_job.group_key) l);
    end if;
    v_lanes := v_lanes || v_lane;
    v_expires := v_expires or v_job.expires;
  end loop;
  if v_from = '{}' then
    return;
  end if;

  perform awa._use_lanes(v_lanes || array( -- also the one to which one goes from the front
    select l.lane & ~7::bigint | coalesce(priority, v_from[l.n].priority)
      from unnest(v_lanes) with ordinality l(lane, n)), queue, expiring => v_expires);
  if cardinality(awa._bury(v_from, v_batch, false)) < cardinality(v_from) then
    perform awa._moved_on(v_from[1].id);
  end if;
  for v_nth in 1..cardinality(v_from) loop
    select e.* into v_entry
      from awa._entries e
     where e.lane = v_from[v_nth].lane and e.xid = v_from[v_nth].xid and e.job_id = v_from[v_nth].id
     limit 1;
    v_entry.segment := awa._current_segment();
    v_entry.lane := v_lanes[v_nth];
    v_entry.xid := pg_current_xact_id();
    v_entry.priority := coalesce(priority, v_entry.priority);
    v_entry.unique_key := v_keys[v_nth];
    v_entry.created_at := coalesce(v_entry.created_at, v_entry.ready_at);
    perform awa._append_entry(v_entry);
  end loop;
  perform awa._arrive(m.old_lane, - m.jobs), awa._arrive(m.new_lane, m.jobs)
     from (
       select p.lane as old_lane, p.new_lane, count(*) as jobs
         from unnest(v_from, v_lanes) p(id, state, receipt, lane, priority, xid, segment, unique_key, new_lane)
        where awa._queue_of(p.lane) <> awa._queue_of(p.new_lane)
        group by p.lane, p.new_lane
     ) m;
  perform awa._note_leavers(array(select p.id from unnest(v_from) p), array(select p.lane from unnest(v_from) p),
    v_left);
  perform awa._decide_at_end(v_batch);
  perform awa._wake(q) from (select distinct awa._queue_of(l) as q from unnest(v_lanes) l) l;
end
$$;
comment on function awa._relocate_ready is
  'Moves available jobs, with one decision at the end of the transaction for all of them';

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
