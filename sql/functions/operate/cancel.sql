-- Cancels a job, in any state in which it has not ended. Returns that state. What runs is taken from its worker: it learns of it by its next heartbeat, and a notification on
-- awa_lost; its answer will be stale.
-- Locks: the job's row, or its claim, shared, until the transaction ends; for one that is available its queue, at commit. Raises 22023, JQ003, JQ004, JQ005 when it has
-- ended; 55P03 when somebody is answering for it in a transaction that lasts; 40001, also at commit, when it moved on meanwhile.
create or replace function awa.cancel(job_id bigint, reason text default null) returns text
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
  v_state text;
begin
  perform awa._check_change(job_id);
  v_state := awa._cancel(job_id, reason);
  if v_state in ('completed', 'failed', 'cancelled', 'dead') then
    perform awa._refuse_state(job_id, v_state, 'A job that has ended cannot be cancelled.');
  end if;
  return v_state;
end
$$;
comment on function awa.cancel is 'Cancels a job that has not ended; returns the state that it was in';

-- Cancels a job unless it has ended, and returns the state that it was in; or raises JQ003.
-- It looks where the job is, then acts there. Where the job has left meanwhile, it looks again.
create or replace function awa._cancel(job_id bigint, reason text) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_place awa._place;
begin
  perform awa._bound_waits();
  for v_look in 1..10 loop
    v_place := awa._locate(job_id);
    if v_place.state not in ('available', 'scheduled', 'retryable', 'running') or (case
      when v_place.state in ('scheduled', 'retryable') then cardinality(awa._cancel_deferred(array[job_id], reason)) > 0
      when v_place.state = 'available' then cardinality(awa._cancel_ready(array[v_place], reason)) > 0
      else cardinality(awa._cancel_running(array[job_id], array[v_place.receipt], reason)) > 0
    end)
    then
      return v_place.state;
    end if;
  end loop;
  perform awa._moved_on(job_id);
end
$$;
comment on function awa._cancel is 'Cancels a job unless it has ended; returns the state that it was in';

-- Cancels deferred jobs, and returns their ids.
create or replace function awa._cancel_deferred(job_ids bigint[], reason text) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_jobs awa.deferred_jobs[];
  v_gone bigint[] := '{}';
begin
  for v_jobs in
    with gone as (
      delete from awa.deferred_jobs d where d.job_id = any(job_ids) returning d as job
    )
    select array_agg(b.job) from (select g.job, div(sum((g.job).body_bytes::bigint) over (rows unbounded preceding), 67108864) as batch from gone g) b group by b.batch
  loop
    perform awa._move_keys(array_agg(g.job_id), array_agg(g.unique_key), g.state, 'cancelled') from unnest(v_jobs) g where g.unique_key is not null group by g.state;
    perform awa._end(array(
      select (null, g.job_id, g.lane, g.lane & 7, g.run_at, g.created_at, g.attempted_at, null, null, null, null, g.attempt - 1, g.max_attempts, g.body_bytes,
              g.unique_key, g.kind, g.args, g.tags, g.metadata, g.progress, awa._add_error(g.errors, g.attempt - 1, coalesce(reason, 'cancelled'), by => session_user))::awa.leases
        from unnest(v_jobs) g), 'cancelled');
    v_gone := v_gone || array(select g.job_id from unnest(v_jobs) g);
  end loop;
  return v_gone;
end
$$;
comment on function awa._cancel_deferred is 'Cancels deferred jobs, and returns their ids';

-- Cancels jobs that are available, and returns the ids of those that nobody else buried first. If one is claimed before the caller commits, its attempt is cancelled then.
-- Their unique keys are let go of then, too: who has claimed one meanwhile should not have to wait.
create or replace function awa._cancel_ready(places awa._place[], reason text) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_batch bigint := nextval('awa.claim_ids'); -- any number that nobody else has
  v_buried bigint[] := awa._bury(places, v_batch, true);
  v_attempts awa.leases[];
begin
  for v_attempts in
    select array_agg(b.attempt)
      from (
        select (null, e.job_id, e.lane, e.priority, e.ready_at, coalesce(e.created_at, e.ready_at), null, null, null, null, null, e.attempt - 1, e.max_attempts, e.body_bytes,
                e.unique_key, e.kind, e.args, e.tags, e.metadata, e.progress, awa._add_error(e.errors, e.attempt - 1, coalesce(reason, 'cancelled'), by => session_user))::awa.leases as attempt,
               div(sum(e.body_bytes::bigint) over (rows unbounded preceding), 67108864) as batch
          from unnest(places) p
         cross join lateral (
            select * from awa._entries e where e.lane = p.lane and e.xid = p.xid and e.job_id = p.id limit 1
          ) e
         where p.id = any(v_buried)
      ) b
     group by b.batch
  loop
    perform awa._end(v_attempts, 'cancelled');
  end loop;
 if v_buried <> '{}' then
    insert into awa.decisions (batch) values (v_batch);
  end if;
  return v_buried;
end
$$;
comment on function awa._cancel_ready is 'Cancels jobs that are available, and returns their ids';

-- Cancels open attempts, and returns the ids of those jobs whose attempts were still open. Locks in the order of the _many forms: the claims, then items of the ledger, then rows of leases.
create or replace function awa._cancel_running(job_ids bigint[], receipts bigint[], reason text) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_attempt record;
  v_attempts awa.leases[];
  v_job_ids bigint[] := '{}';
  v_taken bigint[] := '{}';
  v_other_jobs bigint[] := '{}';
  v_others bigint[] := '{}';
begin
  perform awa._join_claim(c.claim_id, c.nth::int)
     from (select c.claim_id, row_number() over (order by c.claim_id) as nth from (select distinct r >> 12 as claim_id from unnest(receipts) r) c order by 1) c;
  for v_attempt in select a.job_id, a.receipt from unnest(job_ids, receipts) a(job_id, receipt) order by a.receipt loop
    if (awa._close_item(v_attempt.job_id, v_attempt.receipt, 'cancelled', joined => true)).closed then
      v_job_ids := v_job_ids || v_attempt.job_id;
      v_taken := v_taken || v_attempt.receipt;
    else
      v_other_jobs := v_other_jobs || v_attempt.job_id;
      v_others := v_others || v_attempt.receipt;
    end if;
  end loop;
  for v_attempt in select a.job_id, a.receipt from unnest(v_other_jobs, v_others) a(job_id, receipt) loop
    perform from awa.leases l where l.receipt = v_attempt.receipt and l.job_id = v_attempt.job_id for update;
    if found then
      v_job_ids := v_job_ids || v_attempt.job_id;
      v_taken := v_taken || v_attempt.receipt;
    end if;
  end loop;
  for v_attempts in select l from awa._look_up_many(v_taken) l loop
    perform awa._lose(v_attempts, array(select coalesce(reason, 'cancelled') from unnest(v_attempts)));
    perform awa._record_cancels(v_attempts, reason);
  end loop;
  return v_job_ids;
end
$$;
comment on function awa._cancel_running is 'Cancels open attempts, and returns the ids of their jobs';
