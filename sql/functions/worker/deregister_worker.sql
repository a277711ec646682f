-- Ends a worker and releases its open attempts, which do not count; returns how many.
-- Leaves out, with a notice, those that another session is answering for, or changing, for longer than claim_wait: they
-- end with their leases, unless release_unknown is called before. Unknown workers have none, and are not locked. Where
-- there were some, the worker is notified on the channel awa_lost_attempts, since another session may have ended it.
-- For the login that registered the worker, members of the role that was named then, and operators.
-- Locks: the worker, for which it waits until the worker's open claims have committed, its row, then its claims as
-- complete_many does.
-- Raises 22023, JQ004, 42501; 55P03 when the worker, or its row, is held for longer than claim_wait.
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
  v_released record;
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
  if v_released.released + v_released.left_out > 0 then
    perform awa._notify('awa_lost_attempts', worker_id::text);
  end if;
  if v_released.left_out > 0 then
    raise notice '% attempts stay open: other sessions are answering for them, or changing them', v_released.left_out
      using hint = format('They end with their leases. To release them before: select awa.release_unknown(%s, ''{}'', '
        '''{}'').', worker_id);
  end if;
  return v_released.released;
end
$$;
comment on function awa.deregister_worker is
  'Ends a worker and releases its open attempts, which do not count; returns how many';

-- Releases the open attempts of a worker, but for some; returns how many, and how many it had to leave out.
-- The caller has locked the worker.
create or replace function awa._release_open(
  worker_id bigint,
  but_job_ids bigint[],
  but_receipts bigint[],
  out released bigint,
  out left_out bigint
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_job_ids bigint[];
  v_receipts bigint[];
  v_wait text;
  v_some record;
begin
  released := 0;
  left_out := 0;
  perform awa._current_segment(); -- in a restored database, visibility means nothing
  select array_agg(r.job_id order by r.receipt), array_agg(r.receipt order by r.receipt) into v_job_ids, v_receipts
    from (
      select o.job_id, o.receipt from awa._open_items o where o.worker_id = worker_id
      union all
      select l.job_id, l.receipt from awa.leases l where l.worker_id = worker_id
      except
      select b.job_id, b.receipt from unnest(but_job_ids, but_receipts) b(job_id, receipt)
    ) r;
  if v_receipts is null then
    return;
  end if;
  v_wait := awa._shorten_waits();
  begin
    released := awa._release_all(v_job_ids, v_receipts);
  exception when others then
    if not awa._is_about_a_row(sqlstate) then
      raise;
    end if;
    v_some := awa._release_some(v_job_ids, v_receipts);
    released := v_some.released;
    left_out := v_some.left_out;
  end;
  perform set_config('lock_timeout', v_wait, true);
end
$$;
comment on function awa._release_open is
  'Releases the open attempts of a worker, but for some; returns how many, and how many it had to leave out';

-- Releases attempts, but for those that can't be; returns how many, and how many other sessions kept from it.
-- The receipts are in ascending order. Begins with half of them at a time; less where that fails, more where it does
-- not, for five seconds at most, or a fourth of the caller's timeout. An attempt that the server can't read, or whose
-- job a trigger that is not Awa's refuses, ends with its lease.
-- Locks: as complete_many, but it waits for milliseconds for each.
-- Why: the others must not wait for one. To try each by itself would take long where there are thousands.
create or replace function awa._release_some(
  job_ids bigint[],
  receipts bigint[],
  out released bigint,
  out left_out bigint
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_until timestamptz := clock_timestamp() + awa._budget('5 seconds', 4);
  v_jobs int;
  v_at int := 1;
  v_size int;
  v_refused bigint[] := '{}';
  v_refusal text;
  v_lack text[];
begin
  perform set_config('lock_timeout', '10', true);
  released := 0;
  left_out := cardinality(receipts);
  select coalesce(array_agg(a.job_id order by a.receipt), '{}'), coalesce(array_agg(a.receipt order by a.receipt), '{}')
    into job_ids, receipts
    from unnest(job_ids, receipts) a(job_id, receipt)
   where a.receipt >> 12 in (select unnest(awa._join_free_claims(receipts))); -- hashed
  v_jobs := cardinality(receipts);
  left_out := left_out - v_jobs;
  v_size := greatest(v_jobs / 2, 1);
  while v_at <= v_jobs and clock_timestamp() < v_until loop
    v_size := least(v_size, v_jobs - v_at + 1);
    begin
      released := released
        + awa._release_all(job_ids[v_at : v_at + v_size - 1], receipts[v_at : v_at + v_size - 1]);
      v_at := v_at + v_size;
      v_size := 2 * v_size;
    exception when others then
      if not awa._is_about_a_row(sqlstate) then
        raise;
      elsif v_size > 1 then
        v_size := v_size / 2;
        continue;
      elsif awa._is_passing(sqlstate) then
        left_out := left_out + 1;
      else
        v_lack := coalesce(v_lack, awa._lack(sqlerrm, sqlstate));
        v_refused := v_refused || job_ids[v_at];
        v_refusal := coalesce(v_refusal, awa._refusal(sqlerrm, sqlstate));
      end if;
      v_at := v_at + 1;
    end;
  end loop;
  left_out := left_out + v_jobs - v_at + 1;
  perform awa._warn_refused(v_refused, 'can''t be released', v_refusal);
  if released = 0 then
    perform awa._fail_for(v_lack);
  end if;
end
$$;
comment on function awa._release_some is
  'Releases attempts, but for those that can''t be; returns how many, and how many other sessions kept from it';

-- Releases attempts; returns how many of them were open.
-- Locks: the claims, then items of the ledger, then rows of leases, until the transaction ends.
-- Raises 55P03; XX001 where an entry is missing.
create or replace function awa._release_all(job_ids bigint[], receipts bigint[]) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_closed record;
  v_released bigint[];
  v_found bigint[] := '{}';
  v_batches cursor (asked bigint[]) for select l as attempts from awa._look_up_many(asked) l;
begin
  v_closed := awa._close_many(job_ids, receipts, 'released', (awa._lock_claims(receipts)).by_item);
  v_released := array(select receipts[p] from unnest(v_closed.ordinals) p);
  for v_batch in v_batches(v_released) loop
    perform awa._record_releases(v_batch.attempts, leased => v_closed.materialized <> '{}');
    v_found := v_found || array(select a.receipt from unnest(v_batch.attempts) a);
  end loop;
  perform awa._check_found(v_released, v_found);
  return cardinality(v_released);
end
$$;
comment on function awa._release_all is 'Releases attempts; returns how many of them were open';
