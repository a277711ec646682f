-- What promote_due returns.
create or replace view awa.promote_due as select c.claim_id as promoted from awa.lease_claims c where false;
comment on view awa.promote_due is 'The row that promote_due returns: how many jobs it made ready. The view itself is always empty';

-- Makes at most max_jobs deferred jobs ready whose time has come, the longest due first. Safe to call from anywhere, as often as one likes.
-- Locks: the rows that it promotes; skips those that others hold. Raises 22023.
--
-- A fast pass reads from a little before the last pass's horizon, so that it never walks over what was deleted. What committed later than that is
-- found by a sweep over everything, which may take one fiftieth of the time: on every call when the table is small, seldom when a
-- transaction elsewhere keeps millions of deleted rows in it.
create or replace function awa.promote_due(max_jobs int default 4096) returns setof awa.promote_due
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_max int := coalesce(max_jobs, 4096);
  v_now timestamptz := clock_timestamp();
  v_now_us bigint := extract(epoch from v_now) * 1000000;
  v_horizon timestamptz;
  v_promoted bigint;
  v_swept bigint;
begin
  if v_max not between 1 and 10000 then
    perform awa._refuse('max_jobs must be between 1 and 10000', max_jobs::text, 'Leave it out for 4096.');
  end if;
  select case when s.is_called then to_timestamp(s.last_value / 1000000.0) - interval '10 seconds' else '-infinity' end
    into v_horizon
    from awa.promoted_until s;
  v_promoted := awa._promote(v_horizon, v_now, v_max);
  if v_promoted < v_max then
    perform setval('awa.promoted_until', v_now_us);
    if (select v_now_us not between s.last_value - 3600000000 and s.last_value from awa.next_sweep_at s) then -- due, or a clock that was ahead
      v_swept := awa._promote('-infinity', v_now, v_max - v_promoted::int);
      v_promoted := v_promoted + v_swept;
      if v_promoted < v_max then
        if pg_try_advisory_xact_lock(awa._claim_key(0)) then
          perform awa._summarize();
        end if;
        perform setval('awa.next_sweep_at', v_now_us + 50 * (extract(epoch from clock_timestamp() - v_now) * 1000000)::bigint);
      end if;
    end if;
  end if;
  return query select v_promoted;
end
$$;
comment on function awa.promote_due is 'Makes deferred jobs ready whose time has come; returns how many';

-- Promotes due jobs. One that the server can't read, because a page is damaged, is put off for a minute, with a warning: the others must not wait for it.
create or replace function awa._promote(due_from timestamptz, due_until timestamptz, max_jobs int) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_due bigint[] := array(
    select d.job_id
      from awa.deferred_jobs d
     where d.run_at >= due_from and d.run_at <= due_until
     order by d.run_at, d.job_id
     limit max_jobs
       for update skip locked);
  v_job_id bigint;
  v_promoted bigint := 0;
begin
  if v_due = '{}' then
    return 0;
  end if;
  begin
    return awa._make_ready(v_due);
  exception when data_corrupted then
    null; -- one by one
  end;
  foreach v_job_id in array v_due loop
    begin
      v_promoted := v_promoted + awa._make_ready(array[v_job_id]);
    exception when data_corrupted then
      perform awa._warn_unreadable(v_job_id, sqlerrm);
      update awa.deferred_jobs d set run_at = clock_timestamp() + interval '1 minute' where d.job_id = v_job_id;
    end;
  end loop;
  return v_promoted;
end
$$;
comment on function awa._promote is 'Promotes due jobs';

-- Says, in the log of the server, which job it can't read.
create or replace function awa._warn_unreadable(job_id bigint, error text) returns void
language plpgsql
as $$
begin
  raise warning 'job % can''t be read', job_id using errcode = 'XX001', detail = error, hint = 'A page is damaged: see "Jobs that can''t be read" in the reference of Awa.';
end
$$;
comment on function awa._warn_unreadable is 'Says which job the server can''t read';

-- Moves deferred jobs to ready_entries, and wakes their queues.
create or replace function awa._make_ready(job_ids bigint[]) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_promoted bigint;
begin
  with taken as (
    delete from awa.deferred_jobs d where d.job_id = any(job_ids) returning d.*
  ), appended as (
    insert into awa.ready_entries
      (segment, lane, job_id, ready_at, priority, attempt, max_attempts, body_bytes, unique_key, kind, args, tags, metadata, created_at, progress, errors)
    select r.current_segment, t.lane, t.job_id, t.run_at, t.lane & 7, t.attempt, t.max_attempts, t.body_bytes,
           t.unique_key, t.kind, t.args, t.tags, t.metadata, t.created_at, t.progress, t.errors
      from awa._current_segment() r(current_segment), taken t
    returning lane >> 3 as queue_id
  ), keys as (
    select awa._move_keys(array_agg(t.job_id), array_agg(t.unique_key), t.state, 'available') from taken t where t.unique_key is not null group by t.state
  ), woken as (
    select count(*) as jobs, awa._wake(a.queue_id) from appended a group by a.queue_id
  )
  select sum(w.jobs) into v_promoted from woken w where (select count(*) from keys) >= 0;
  return coalesce(v_promoted, 0);
end
$$;
comment on function awa._make_ready is 'Moves deferred jobs to ready_entries';

-- Brings the BRIN indexes on ready_entries up to date, by which a job is found from its id: no autovacuum does it here.
create or replace function awa._summarize() returns void
language sql
as $$
  select brin_summarize_new_values(i.indexrelid)
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_am a on a.oid = c.relam
   where a.amname = 'brin'
     and i.indrelid = (select format('awa.ready_entries_%s', r.current_segment)::regclass from awa.ring r)
$$;
comment on function awa._summarize is 'Brings the BRIN indexes on ready_entries up to date';
