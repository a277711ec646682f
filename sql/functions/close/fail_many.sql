-- Fails many attempts, of any claims and queues, as fail does; returns the jobs whose attempts were stale.
-- Locks: as complete_many.
-- Raises 22023, JQ004; 55P03, 40001 as complete_many does.
create or replace function awa.fail_many(
  job_ids     bigint[],
  receipts    bigint[],
  errors      text[],
  retry_after interval[] default null
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
declare
  v_closed record;
  v_ordinals bigint[];
  v_receipts bigint[];
  v_found bigint[] := '{}';
  v_batches cursor (asked bigint[]) for select l as attempts from awa._look_up_many(asked) l;
  v_asked bigint[]; -- for each of the attempts, its ordinal in the arrays
begin
  -- At a glance, the most frequent call: one answer. An array whose only element is not the first one, or that has
  -- several dimensions, has none at 1.
  if cardinality(receipts) = 1 and cardinality(job_ids) = 1 and cardinality(errors) = 1 and receipts[1] is not null
    and job_ids[1] is not null and errors[1] is not null
    and (retry_after is null or cardinality(retry_after) = 1 and array_ndims(retry_after) = 1
      and array_lower(retry_after, 1) = 1 and awa._fits(coalesce(retry_after[1], '0'), '0', '10 years'))
    and current_setting('transaction_isolation') = 'read committed'
  then
    v_closed := awa._close_single(job_ids[1], receipts[1], 'failed', looks_up => true);
    if v_closed.segment is not null then
      perform awa._record_failures(v_closed.attempts, errors, retry_after, leased => false);
      return;
    end if;
  end if;
  perform awa._check_answers(job_ids, receipts);
  if errors is null then
    perform awa._refuse('errors must not be null', null, 'Pass one for each job.');
  end if;
  perform awa._check_companion('errors', errors, job_ids, false);
  perform awa._check_companion('retry_after', retry_after, job_ids, true);
  perform awa._check_delays(retry_after);
  job_ids := job_ids[:]; -- whatever their lower bounds were
  receipts := receipts[:];
  errors := errors[:];
  retry_after := retry_after[:];
  v_closed := awa._close_many(job_ids, receipts, 'failed', (awa._lock_claims(receipts)).by_item);
  v_ordinals := v_closed.ordinals;
  v_receipts := array(select receipts[p] from unnest(v_ordinals) p);
  for v_batch in v_batches(v_receipts) loop
    v_asked := array(
      select v_ordinals[array_position(v_receipts, a.receipt)]
        from unnest(v_batch.attempts) with ordinality a
       order by a.ordinality
    );
    perform awa._record_failures(v_batch.attempts, array(select errors[p] from unnest(v_asked) p),
      array(select retry_after[p] from unnest(v_asked) p), leased => v_closed.materialized <> '{}');
    v_found := v_found || array(select a.receipt from unnest(v_batch.attempts) a);
  end loop;
  perform awa._check_found(v_receipts, v_found);
  return query select awa._stale(job_ids, receipts, v_ordinals);
end
$$;
comment on function awa.fail_many is
  'Fails many attempts, of any claims and queues, as fail does; returns the jobs whose attempts were stale';
