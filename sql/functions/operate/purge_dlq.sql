-- Removes matching dead letters for good; returns how many.
-- At least one filter is required: a queue, a kind, a time before which they died, a tag, an object that their
-- arguments contain, a group, the cause of their last errors, as failure_causes names it, or the state dead. Removes
-- at most max_jobs (1 to 10,000). A filter by tag, arguments or group reads at most 100,000, one by cause 20,000, the
-- oldest ids first; scan_jobs finds the rest.
-- Locks: their rows. Skips rows that another session is changing.
-- Raises 22023.
create or replace function awa.purge_dlq(
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
  v_cause text := awa._cause(cause);
  v_most int := awa._most_entries(tag, args, group_key, cause); -- null: all
  v_last bigint; -- of the dead letters that it looks at; null: of all
  v_deleted bigint;
begin
  perform awa._check_filter(queue, kind, state, before, max_jobs, awa._states('dlq_retention'), tag, args, group_key,
    cause);
  if v_most is not null then
    select d.job_id into v_last
      from awa.done_entries d
     where d.state = 'dead'
       and (queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
     order by d.job_id
    offset v_most - 1
     limit 1;
  end if;
  v_deleted := awa._delete_rows(array(
    select d.job_id
      from awa.done_entries d
     where d.state = 'dead'
       and (queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
       and (kind is null or d.kind = kind)
       and (before is null or d.finalized_at < before)
       and (tag is null or d.tags @> array[tag])
       and (args is null or d.args @> args)
       and (group_key is null or d.group_key = group_key)
     and (cause is null or awa._cause_of(d.errors) = v_cause)
       and (v_last is null or d.job_id <= v_last)
     order by d.job_id
     limit coalesce(max_jobs, 1000)
       for update skip locked));
  perform awa._note_change('delete', awa._as_filter(queue, kind, 'dead', before, tag, args, group_key, v_cause),
    changed => v_deleted);
  return v_deleted;
end
$$;
comment on function awa.purge_dlq is 'Removes matching dead letters for good; returns how many';
