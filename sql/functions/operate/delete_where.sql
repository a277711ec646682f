-- Deletes matching jobs that have ended, as delete_job does; returns how many.
-- At least one filter is required: a queue, a kind, a state, a time before which they ended, a tag, an object that
-- their arguments contain, a group, or the cause of their last errors, as failure_causes names it. Changes at most
-- max_jobs (1 to 10,000). For completed jobs it reads at most 100,000 entries of the ledgers that are not deleted, the
-- newest first; a filter by tag, arguments or group reads as many of the others, one by cause 20,000. A notice says so
-- when there are more: scan_jobs finds the rest. Skips jobs that another session is changing, of completed ones at most
-- 100,000, and jobs that this transaction has cancelled while they were available.
-- Locks: as delete_job.
-- Raises 22023, JQ004, 55P03.
create or replace function awa.delete_where(
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
set enable_bitmapscan = on
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set lock_timeout = 0
as $$
#variable_conflict use_variable
declare
  v_queue_id bigint := awa._queue_id(queue);
  v_max int := coalesce(max_jobs, 1000);
  v_cause text := awa._cause(cause);
  v_most int := awa._most_entries(tag, args, group_key, cause); -- null: all
  v_last bigint; -- of the jobs that it looks at; null: of all
  v_undecided bigint[];
  v_completed record;
  v_before_id bigint;
  v_asked int;
  v_looked int := 0;
  v_deleted bigint := 0;
begin
  perform awa._check_filter(queue, kind, state, before, max_jobs, awa._states('ended'), tag, args, group_key, cause);
  perform awa._check_isolation();
  perform awa._bound_waits();
  if state is null or state = any(awa._states('done')) then
    if v_most is not null then
      select d.job_id into v_last
        from awa.done_entries d
       where d.state <> 'completed'
         and (state is null or d.state = state)
         and (queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
       order by d.job_id
      offset v_most - 1
       limit 1;
    end if;
    v_undecided := awa._undecided();
    v_deleted := awa._delete_rows(array(
      select d.job_id
        from awa.done_entries d
       where d.state <> 'completed' and (state is null or d.state = state) and d.job_id <> all(v_undecided)
         and (queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
         and (kind is null or d.kind = kind)
         and (before is null or d.finalized_at < before)
         and (tag is null or d.tags @> array[tag])
         and (args is null or d.args @> args)
         and (group_key is null or d.group_key = group_key)
         and (cause is null or awa._cause_of(d.errors) = v_cause)
         and (v_last is null or d.job_id <= v_last)
       order by d.job_id
       limit v_max
         for update skip locked));
  end if;
  if v_deleted < v_max and (state is null or state = 'completed') then
    v_asked := v_max - v_deleted;
    loop -- jobs that another session deletes make room for more
      v_completed := awa._scan(queue, kind, awa._states('completed_retention'), before, tag, args, group_key,
        cause, v_before_id, v_asked, hidden => true);
      v_before_id := v_completed.next_before_id;
      v_deleted := v_deleted + awa._delete_rows(array(
        select d.job_id
          from awa.done_entries d
         where d.job_id = any(v_completed.job_ids)
         order by d.job_id
         limit v_max - v_deleted
           for update skip locked));
      v_deleted := v_deleted + awa._delete_completed(v_completed.job_ids, v_max - v_deleted);
      v_looked := v_looked + cardinality(v_completed.job_ids);
      exit when v_deleted >= v_max or v_before_id is null or cardinality(v_completed.job_ids) < v_asked
        or v_looked >= 100000;
      v_asked := least(2 * v_asked, 10000);
    end loop;
    if v_before_id is not null and v_deleted < v_max then
      raise notice 'more jobs may match: 100000 entries were read' using hint =
        format('Go on with scan_jobs from id %s.',
        v_before_id);
    end if;
  end if;
  perform awa._note_change('delete', awa._as_filter(queue, kind, state, before, tag, args, group_key, v_cause),
    changed => v_deleted);
  return v_deleted;
end
$$;
comment on function awa.delete_where is 'Deletes matching jobs that have ended, as delete_job does; returns how many';
