-- Completes one attempt, inside the caller's transaction: the job is completed if and when that commits.
-- Locks: the claim, shared, until then. Raises JQ001 when the attempt is not the caller's any more, 22023;
-- and 40001 at REPEATABLE READ and above, against a close that the snapshot cannot see.
create or replace function awa.complete(job_id bigint, receipt bigint, output jsonb default null) returns void
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
begin
  perform awa._close_item(job_id, receipt, case when output is null then 'completed' else 'recorded' end);
  if output is not null then
    perform awa._record_outputs(array[receipt], array[output]);
  end if;
end
$$;
comment on function awa.complete is 'Completes one attempt, inside the caller''s transaction';

-- Closes one item of a claim, or raises JQ001.
--
-- The claim is held shared, so that a long transaction keeps nobody off the claim's other items; no batch row can come meanwhile. Of two answers for one
-- item the unique index lets the first one pass: the second waits for it. A claim of one job is never closed by a batch row, so it needs no lock.
create or replace function awa._close_item(job_id bigint, receipt bigint, outcome text) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_claim_id bigint := receipt >> 12;
  v_item int := receipt & 4095;
  v_claim record;
  v_batches record;
begin
  if job_id is null or receipt is null then
    perform awa._refuse('job_id and receipt must not be null', null, 'Pass both as claim returned them.');
  end if;
  select c.segment, c.job_ids[v_item + 1] as job_id, cardinality(c.job_ids) as size into v_claim
    from awa.lease_claims c
   where c.claim_id = v_claim_id;
  if v_claim.job_id is distinct from job_id then
    perform awa._refuse_stale(job_id, receipt);
  end if;
  if v_claim.size > 1 then
    perform pg_advisory_xact_lock_shared(awa._claim_key(v_claim_id));
    select least(min(k.item), 0) - 1 as next_item, coalesce(bool_or(v_item = any(k.items)), false) as has_item into v_batches
      from awa.lease_claim_closures k
     where k.claim_id = v_claim_id and k.item < 0;
    if v_batches.has_item then
      perform awa._refuse_stale(job_id, receipt);
    end if;
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
      -- The snapshot may be older than a batch row. An empty batch row under the next number collides with it, which raises 40001.
      insert into awa.lease_claim_closures (segment, claim_id, item, items, outcome, closed_at)
      values (v_claim.segment, v_claim_id, v_batches.next_item, '{}', outcome, clock_timestamp())
      on conflict do nothing;
    end if;
  end if;
  insert into awa.lease_claim_closures (segment, claim_id, item, outcome, closed_at)
  values (v_claim.segment, v_claim_id, v_item, outcome, clock_timestamp())
  on conflict do nothing;
  if not found then
    perform awa._refuse_stale(job_id, receipt);
  end if;
end
$$;
comment on function awa._close_item is 'Closes one item of a claim, or raises JQ001';

-- Raises JQ001.
create or replace function awa._refuse_stale(job_id bigint, receipt bigint) returns void
language plpgsql
as $$
begin
  raise exception using errcode = 'JQ001', message = 'stale receipt',
    detail = format('Receipt %s is not, or no longer, an open attempt of job %s.', receipt, job_id),
    hint = 'The attempt was answered before, or given to somebody else: drop its result.';
end
$$;
comment on function awa._refuse_stale is 'Raises JQ001';

-- Writes the rows of jobs that completed with an output, one for each receipt.
create or replace function awa._record_outputs(receipts bigint[], outputs jsonb[]) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.done_entries
    (job_id, lane, state, receipt, worker_id, ready_at, created_at, attempted_at, finalized_at, attempt, max_attempts,
     kind, args, tags, metadata, progress, errors, output)
  select a.job_id, a.lane, 'completed', a.receipt, a.worker_id, a.ready_at, a.created_at, a.claimed_at, clock_timestamp(), a.attempt, a.max_attempts,
         a.kind, a.args, a.tags, a.metadata, a.progress, a.errors, outputs[array_position(receipts, a.receipt)]
    from awa._attempts(receipts) a;
end
$$;
comment on function awa._record_outputs is 'Writes the rows of jobs that completed with an output';
