-- Removes dead letters for good: of a queue, a kind, that died before a time, with a tag, or whose arguments contain an object; at least one of these has to be said, or the state dead. At most max_jobs, 1 to 10,000. Returns how many.
-- A filter by tag or arguments looks at 100,000 at most, the oldest ids first; scan_jobs finds the rest.
-- Locks: their rows; skips those that somebody else is changing. Raises 22023.
create or replace function awa.purge_dlq(
  queue    text default null,
  kind     text default null,
  state    text default null,
  before   timestamptz default null,
  max_jobs int default 1000,
  tag      text default null,
  args     jsonb default null
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
  v_last bigint; -- of the dead letters that it looks at; null: of all
  v_letters record;
  v_purged bigint := 0;
begin
  perform awa._check_filter(queue, kind, state, before, max_jobs, '{dead}', tag, args);
  if tag is not null or args is not null then
    select d.job_id into v_last from awa.dlq_entries d where queue is null or d.lane between v_queue_id * 8 and v_queue_id * 8 + 7 order by d.job_id offset 99999 limit 1;
  end if;
  for v_letters in
    with locked as (
      select d.job_id, d.lane
        from awa.dlq_entries d
       where (queue is null or d.lane between v_queue_id * 8 and v_queue_id * 8 + 7) and (kind is null or d.kind = kind) and (before is null or d.finalized_at < before)
         and (tag is null or d.tags @> array[tag]) and (args is null or d.args @> args) and (v_last is null or d.job_id <= v_last)
       limit coalesce(max_jobs, 1000)
         for update skip locked
    )
    select l.lane, array_agg(l.job_id) as job_ids from locked l group by l.lane order by l.lane
  loop
    perform awa._note_enqueued(v_letters.lane, - awa._remove_dead(v_letters.job_ids));
    v_purged := v_purged + cardinality(v_letters.job_ids);
  end loop;
  return v_purged;
end
$$;
comment on function awa.purge_dlq is 'Removes dead letters for good, by a filter; returns how many';

-- Deletes dead letters whose rows the caller has locked, and lets go of their unique keys. Returns how many.
create or replace function awa._remove_dead(job_ids bigint[]) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_removed bigint;
  v_keyed bigint[];
  v_keys bytea[];
begin
  with gone as (
    delete from awa.dlq_entries d where d.job_id = any(job_ids) returning d.job_id, d.unique_key
  )
  select count(*), array_agg(g.job_id) filter (where g.unique_key is not null), array_agg(g.unique_key) filter (where g.unique_key is not null)
    into v_removed, v_keyed, v_keys
    from gone g;
  perform awa._move_keys(v_keyed, v_keys, 'dead', null);
  return v_removed;
end
$$;
comment on function awa._remove_dead is 'Deletes dead letters; returns how many';
