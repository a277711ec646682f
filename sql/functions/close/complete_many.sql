-- Completes many attempts, of any claims and queues; returns the jobs whose attempts were stale.
-- Drop the results of stale attempts.
-- Locks: each claim, exclusively where it can have it at once, else shared; in ascending order, until the transaction
-- ends. At most 64 claims: from the 65th on, one lock for all, shared.
-- Raises 22023, JQ004; 55P03 when one of these is held for longer than claim_wait, or when a transaction is open for as
-- long that cancels one of the jobs, or answers for it; 40001 when another session answers for them at the same time.
create or replace function awa.complete_many(
  job_ids bigint[],
  receipts bigint[],
  outputs jsonb[] default null
) returns setof bigint
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
  v_done int; -- so many of the first receipts are closed
  v_in_order bigint[];
  v_claims record;
  v_holding bigint[] := '{}';
  v_closed record;
  v_full record;
  v_ordinals bigint[] := '{}';
  v_batches cursor (asked bigint[]) for select l as attempts from awa._look_up_many(asked) l;
  v_receipts bigint[];
  v_found bigint[] := '{}';
  v_outputs jsonb[];
begin
  -- At a glance, the most frequent call
  if (array_ndims(receipts) = 1 and array_ndims(job_ids) = 1 and array_lower(receipts, 1) = 1
    and array_lower(job_ids, 1) = 1 and cardinality(job_ids) = cardinality(receipts) and cardinality(receipts) <= 10000
    and array_position(job_ids, null) is null and array_position(receipts, null) is null
    and outputs is null and current_setting('transaction_isolation') = 'read committed') is not true
  then
    perform awa._check_answers(job_ids, receipts);
    perform awa._check_companion('outputs', outputs, job_ids, true);
    job_ids := job_ids[:]; -- whatever their lower bounds were
    receipts := receipts[:];
    outputs := outputs[:];
  end if;
  if outputs is null then
    v_done := awa._close_batches(job_ids, receipts);
    v_in_order := receipts;
    if v_done is null then
      v_in_order := array(select distinct r from unnest(receipts) r order by r);
      if cardinality(v_in_order) = cardinality(receipts) then
        v_done := awa._close_batches(
          array(select a.job_id from unnest(job_ids, receipts) a(job_id, receipt) order by a.receipt), v_in_order);
      end if;
    end if;
    if v_done = cardinality(receipts) then
      return;
    elsif v_done > 0 then -- the others, in the order in which they came
      select array_agg(a.job_id order by a.ordinal), array_agg(a.receipt order by a.ordinal) into job_ids, receipts
        from unnest(job_ids, receipts) with ordinality a(job_id, receipt, ordinal)
       where a.receipt > v_in_order[v_done];
    end if;
  end if;
  perform awa._json_bytes('outputs', o) from unnest(outputs) o where pg_column_size(o) > 2000; -- smaller ones pass
  v_claims := awa._lock_claims(receipts);
  if v_claims.holds_keys then
    v_holding := awa._holding_keys(receipts);
  end if;
  if outputs is not null or v_holding <> '{}' then
    select array_agg(a.job_id) as job_ids, array_agg(a.receipt) as receipts,
           array_agg(a.ordinal) as ordinals into v_full
      from unnest(job_ids, receipts, outputs) with ordinality a(job_id, receipt, output, ordinal)
     where a.output is not null or a.receipt = any(v_holding);
    v_closed := awa._close_many(v_full.job_ids, v_full.receipts, 'completed_with_row', v_claims.by_item);
    v_ordinals := array(select v_full.ordinals[p] from unnest(v_closed.ordinals) p);
    v_receipts := array(select receipts[p] from unnest(v_ordinals) p);
    v_outputs := array(select outputs[p] from unnest(v_ordinals) p);
    for v_batch in v_batches(v_receipts) loop
      perform awa._end(v_batch.attempts, 'completed',
        outputs => array(
          select v_outputs[array_position(v_receipts, a.receipt)]
            from unnest(v_batch.attempts) with ordinality a
           order by a.ordinality
        ),
        counted_by_closure => array(
          select a.receipt <> all(v_closed.materialized)
            from unnest(v_batch.attempts) with ordinality a
           order by a.ordinality
        ));
      if v_closed.holding <> '{}' then
        perform awa._end_attempts(v_batch.attempts, 'completed');
      end if;
      v_found := v_found || array(select a.receipt from unnest(v_batch.attempts) a);
    end loop;
    perform awa._check_found(v_receipts, v_found);
    if cardinality(v_full.ordinals) = cardinality(receipts) then
      return query select awa._stale(job_ids, receipts, v_ordinals);
      return;
    end if;
  end if;

  -- The others; of those none is open any more.
  v_closed := awa._close_many(job_ids, receipts, 'completed', v_claims.by_item);
  if v_closed.holding <> '{}' then
    for v_batch in v_batches(v_closed.holding) loop
      perform awa._end(array(select a from unnest(v_batch.attempts) a where a.receipt = any(v_closed.materialized)),
        'completed');
      perform awa._end_attempts(v_batch.attempts, 'completed');
    end loop;
  end if;
  return query select awa._stale(job_ids, receipts, v_ordinals || v_closed.ordinals);
end
$$;
comment on function awa.complete_many is
  'Completes many attempts, of any claims and queues; returns the jobs whose attempts were stale';

-- The receipts, of some, whose jobs hold their unique keys when they have completed.
-- The key goes with the row in done_entries.
-- Why: looked up before the attempts are closed, since such an attempt is closed with another outcome. The caller looks
-- them up again, with their bodies, some at a time: the bodies of 10,000 jobs may not fit into memory.
create or replace function awa._holding_keys(receipts bigint[]) returns bigint[]
language plpgsql stable
as $$
declare
  v_holding bigint[];
begin
  v_holding := array(select a.receipt from awa._attempts(receipts) a where awa._holds(a.unique_key, 'completed'));
  raise sqlstate 'JQ999'; -- see _look_up
exception when sqlstate 'JQ999' then
  return v_holding;
end
$$;
comment on function awa._holding_keys is
  'The receipts, of some, whose jobs hold their unique keys when they have completed';
