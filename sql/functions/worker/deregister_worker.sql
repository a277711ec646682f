-- Ends a worker and releases its open attempts, which do not count; returns how many.
-- Unknown workers have none, and are not locked. Where there were some, the worker is notified on the channel
-- awa_lost_attempts, since another session may have ended it. For the login that registered the worker, members of the
-- role that was named then, and operators.
-- Locks: the worker, for which it waits until the worker's open claims have committed, its row, then its claims as
-- complete_many does.
-- Raises 22023, JQ004, 42501; 55P03 when one of these is held for longer than claim_wait.
create or replace function awa.deregister_worker(worker_id bigint) returns bigint
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
#variable_conflict use_variable
declare
  v_worker record;
  v_released bigint;
begin
  if worker_id is null then
    perform awa._refuse('worker_id must not be null', null, 'Pass what register_worker returned.');
  end if;
  perform awa._check_isolation();
  select w.registered_by, w.member_of into v_worker from awa.workers w where w.worker_id = worker_id;
  if not found then
    return 0;
  elsif v_worker.registered_by <> session_user and not awa._is_operator() then
    perform awa._check_login(worker_id, v_worker.registered_by, v_worker.member_of);
  end if;
  perform awa._lock_worker(worker_id, false); -- after the claims that it is in the middle of
  perform awa._lock_worker_row(worker_id);
  delete from awa.workers w where w.worker_id = worker_id;
  v_released := awa._release_open(worker_id, '{}', '{}');
  delete from awa.lost_attempts h where h.worker_id = worker_id; -- last: it may have waited for a cancel
  if v_released > 0 then
    perform awa._notify('awa_lost_attempts', worker_id::text);
  end if;
  return v_released;
end
$$;
comment on function awa.deregister_worker is
  'Ends a worker and releases its open attempts, which do not count; returns how many';

-- Releases the open attempts of a worker, but for some; returns how many.
-- The caller has locked the worker.
create or replace function awa._release_open(
  worker_id bigint,
  but_job_ids bigint[],
  but_receipts bigint[]
) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_job_ids bigint[];
  v_receipts bigint[];
  v_one record;
  v_released bigint;
  v_lack text[];
begin
  perform awa._current_segment(); -- in a restored database, what is visible means nothing
  select array_agg(r.job_id), array_agg(r.receipt) into v_job_ids, v_receipts
    from (
      select o.job_id, o.receipt from awa._open_items o where o.worker_id = worker_id
      union all
      select l.job_id, l.receipt from awa.leases l where l.worker_id = worker_id
      except
      select b.job_id, b.receipt from unnest(but_job_ids, but_receipts) b(job_id, receipt)
    ) r;
  if v_receipts is null then
    return 0;
  end if;
  begin
    v_released := awa._release_all(v_job_ids, v_receipts);
  exception when others then
    -- to wait for each attempt that somebody holds would take too long
    if not awa._is_about_a_row(sqlstate) or sqlstate = '55P03' then
      raise;
    end if;
    -- One by one: the rest must not wait for a job that the server can't read, or refuses to give back because of a
    -- trigger of somebody else's. Its attempt ends with its lease.
    v_released := 0;
    for v_one in
      select a.job_id, a.receipt from unnest(v_job_ids, v_receipts) a(job_id, receipt) order by a.receipt
    loop
      begin
        v_released := v_released + awa._release_all(array[v_one.job_id], array[v_one.receipt]);
      exception when others then
        if sqlstate = 'XX001' then
          perform awa._warn_unreadable(v_one.job_id, sqlerrm);
        elsif awa._is_about_a_row(sqlstate) and sqlstate <> '55P03' then
          v_lack := coalesce(v_lack, awa._lack(sqlerrm, sqlstate));
          raise warning 'an attempt of job % can''t be released', v_one.job_id using errcode = sqlstate,
            detail = sqlerrm;
        else
          raise;
        end if;
      end;
    end loop;
    if v_released = 0 then
      perform awa._fail_for(v_lack);
    end if;
  end;
  return v_released;
end
$$;
comment on function awa._release_open is 'Releases the open attempts of a worker, but for some; returns how many';

-- Releases attempts; returns how many of them were open.
create or replace function awa._release_all(job_ids bigint[], receipts bigint[]) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_released bigint[];
  v_found bigint[] := '{}';
  v_batches cursor (asked bigint[]) for select l as attempts from awa._look_up_many(asked) l;
begin
  v_released := array(
    select receipts[p]
      from unnest((awa._close_many(job_ids, receipts, 'released', (awa._lock_claims(receipts)).by_item)).ordinals) p);
  for v_batch in v_batches(v_released) loop
    perform awa._give_back(v_batch.attempts);
    v_found := v_found || array(select a.receipt from unnest(v_batch.attempts) a);
  end loop;
  perform awa._check_found(v_released, v_found);
  return cardinality(v_released);
end
$$;
comment on function awa._release_all is 'Releases attempts; returns how many of them were open';
