-- Deletes a job that has ended; returns the state that it was in.
-- Also a job that its queue no longer shows. From then on it is neither shown nor counted, and holds no unique key.
-- The rows of a completed job in the ledgers, with its arguments, leave the disk with their segment.
-- Locks: the job's row; or its entry, and the note of it; until the transaction ends.
-- Raises 22023, JQ003, JQ004; JQ005 when the job has not ended, or when this transaction has cancelled it while it was
-- available; 55P03 when another session is changing it in a long transaction; 40001 when it moved on meanwhile.
create or replace function awa.delete_job(job_id bigint) returns text
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
  v_place awa._place;
  v_detail text;
begin
  perform awa._check_change(job_id);
  perform awa._bound_waits();
  for v_look in 1..10 loop
    v_place := awa._locate(job_id, hidden => true);
    if v_place.state <> all(awa._states('ended')) then
      perform awa._refuse_state(job_id, v_place.state,
        'Only a job that has ended can be deleted: cancel it, or let it end.');
    elsif job_id = any(awa._undecided()) then
      perform awa._refuse_state(job_id, 'cancelled by this transaction',
        'Whether it was claimed meanwhile is decided at the commit: delete it afterwards.');
    end if;
    begin
      if awa._delete_rows(array[job_id]) + awa._delete_completed(array[job_id]) > 0 then
        perform awa._note_change('delete', jsonb_build_object('job_id', job_id));
        return v_place.state;
      end if;
    exception when lock_not_available then
      get stacked diagnostics v_detail = pg_exception_detail;
      if v_detail <> '' then
        raise; -- it names the holder
      end if;
      perform awa._refuse_change(job_id);
    end;
  end loop;
  perform awa._moved_on(job_id);
end
$$;
comment on function awa.delete_job is 'Deletes a job that has ended; returns the state that it was in';

-- The jobs that were available when this transaction cancelled them.
-- At its end the transaction decides about those that were claimed meanwhile.
create or replace function awa._undecided() returns bigint[]
language sql stable
as $$ select array(select t.job_id from awa.ready_tombstones t where t.by_xid = pg_current_xact_id_if_assigned()) $$;
comment on function awa._undecided is 'The jobs that were available when this transaction cancelled them';

-- Deletes jobs that have ended and have rows of their own; returns how many.
-- Notes that they are gone. Jobs that a closure counts as completed are noted as _delete_completed does.
create or replace function awa._delete_rows(job_ids bigint[]) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_jobs record;
  v_deleted bigint := 0;
  v_keyed bigint[] := '{}';
  v_keys bytea[] := '{}';
begin
  for v_jobs in
    with done as (
      delete from awa.done_entries d
       where d.job_id = any(job_ids)
      returning d.job_id, d.lane, d.counted_by_closure, d.unique_key,
                case when d.state = any(awa._states('holds_group')) then d.group_key end as group_key
    )
    select g.lane, count(*) as jobs, count(*) filter (where not g.counted_by_closure) as noted,
           array_agg(g.job_id) filter (where g.counted_by_closure) as completed,
           array_agg(g.job_id) filter (where g.unique_key is not null) as keyed,
           array_agg(g.unique_key) filter (where g.unique_key is not null) as keys,
           array_agg(g.job_id) filter (where g.group_key is not null) as grouped,
           array_agg(g.lane) filter (where g.group_key is not null) as group_lanes,
           array_agg(g.group_key) filter (where g.group_key is not null) as groups
      from done g
     group by g.lane
     order by g.lane
  loop
    perform awa._arrive(v_jobs.lane, - v_jobs.noted);
    perform awa._note_deleted(v_jobs.completed, array_fill(v_jobs.lane, array[v_jobs.jobs - v_jobs.noted]::int[]));
    perform awa._note_leavers(v_jobs.grouped, v_jobs.group_lanes, v_jobs.groups);
    v_deleted := v_deleted + v_jobs.jobs;
    v_keyed := v_keyed || v_jobs.keyed;
    v_keys := v_keys || v_jobs.keys;
  end loop;
  perform awa._let_go_of_all(v_keyed, v_keys);
  return v_deleted;
end
$$;
comment on function awa._delete_rows is 'Deletes jobs that have ended and have rows of their own; returns how many';

-- Notes that completed jobs, which the ledgers hold, are deleted; returns those of which no other session has.
-- With the transactions of their entries, where done_entries does not describe them.
-- Locks: waits for a transaction that is deleting one of them.
create or replace function awa._note_deleted(
  job_ids bigint[],
  lanes bigint[],
  xids xid8[] default null
) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_noted bigint[];
begin
  with noted as (
    insert into awa.deleted_jobs (job_id, lane, xid, segment)
    select d.job_id, d.lane, d.xid, awa._current_segment() from unnest(job_ids, lanes, xids) d(job_id, lane, xid)
     order by d.job_id
    on conflict do nothing
    returning deleted_jobs.job_id
  )
  select coalesce(array_agg(n.job_id), '{}') into v_noted from noted n;
  return v_noted;
end
$$;
comment on function awa._note_deleted is
  'Notes that completed jobs, which the ledgers hold, are deleted; returns those of which no other session has';

-- Deletes jobs that completed in the ledgers, unless another session has deleted them; returns how many.
-- Reads the entries between the lowest id and the highest. Waits for a session that is deleting one of them; where most
-- is given, it leaves such jobs out instead, and deletes at most so many.
-- Locks: the jobs' entries, until the transaction ends.
-- Why: a note that is not committed can only be waited for. An entry that is locked can be left out; nothing else locks
-- it.
create or replace function awa._delete_completed(job_ids bigint[], most bigint default null) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_first bigint;
  v_last bigint;
  v_found record;
  v_free bigint[];
  v_deleted bigint[];
begin
  select min(j), max(j) into v_first, v_last from unnest(job_ids) j;
  select array_agg(j.id order by j.id) as ids, array_agg(j.segment order by j.id) as segments,
         array_agg(j.lane order by j.id) as lanes, array_agg(j.xid order by j.id) as xids,
         array_agg(j.full_key order by j.id) as keys
    into v_found
    from awa._whole_ledger j
   -- by the range: each id by itself would read the whole BRIN index
   where j.id >= v_first and j.id <= v_last and j.id + 0 = any(job_ids)
     and j.state = 'completed';
  v_free := array(
    select e.job_id
      from unnest(v_found.ids, v_found.segments, v_found.lanes, v_found.xids) f(id, segment, lane, xid)
     cross join lateral (
        select e.job_id
          from awa.ready_entries e
         where e.segment = f.segment and e.lane = f.lane and e.xid = f.xid and e.job_id = f.id
           for update skip locked
     ) e
     limit most);
  v_deleted := (
    select awa._note_deleted(array_agg(f.id), array_agg(f.lane), array_agg(f.xid))
      from unnest(v_found.ids, v_found.lanes, v_found.xids) f(id, lane, xid)
     where most is null or f.id in (select unnest(v_free))); -- hashed
  perform awa._let_go_of_all(array_agg(f.id), array_agg(f.full_key))
     from unnest(v_found.ids, v_found.keys) f(id, full_key)
    where f.full_key is not null and f.id = any(v_deleted);
  return cardinality(v_deleted);
end
$$;
comment on function awa._delete_completed is
  'Deletes jobs that completed in the ledgers, unless another session has deleted them; returns how many';
