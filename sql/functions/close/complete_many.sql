-- Completes attempts of any claims and queues, each on its own. Returns the jobs whose attempts were stale: drop their results.
-- Locks: each claim, exclusive where it can have it at once, else shared; in ascending order, until the transaction ends.
-- Raises 22023, JQ004.
create or replace function awa.complete_many(job_ids bigint[], receipts bigint[], outputs jsonb[] default null) returns setof bigint
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
  v_by_item bigint[];
  v_closed bigint[];
  v_split record;
begin
  perform awa._check_answers(job_ids, receipts, 'outputs', cardinality(outputs));
  v_by_item := awa._lock_claims(receipts);
  if outputs is null then
    v_closed := awa._close_items(job_ids, receipts, 'completed', v_by_item);
  else
    select coalesce(array_agg(a.job_id) filter (where a.output is null), '{}') as bare_jobs,
           coalesce(array_agg(a.receipt) filter (where a.output is null), '{}') as bare,
           coalesce(array_agg(a.job_id) filter (where a.output is not null), '{}') as full_jobs,
           coalesce(array_agg(a.receipt) filter (where a.output is not null), '{}') as full
      into v_split
      from unnest(job_ids, receipts, outputs) a(job_id, receipt, output);
    v_closed := awa._close_items(v_split.full_jobs, v_split.full, 'recorded', v_by_item);
    perform awa._record_outputs(v_closed, v_split.full, array_remove(outputs, null));
    v_closed := v_closed || awa._close_items(v_split.bare_jobs, v_split.bare, 'completed', v_by_item);
  end if;
  return query select awa._stale(job_ids, receipts, v_closed);
end
$$;
comment on function awa.complete_many is 'Completes many attempts; returns the jobs whose attempts were stale';

-- Refuses answers that do not fit together, and the wrong isolation level.
create or replace function awa._check_answers(job_ids bigint[], receipts bigint[], argument text, size int) returns void
language plpgsql
as $$
begin
  perform awa._check_count('job_ids', cardinality(job_ids));
  if cardinality(receipts) is distinct from cardinality(job_ids) then
    perform awa._refuse('receipts must be as many as job_ids', cardinality(receipts) || ' beside ' || cardinality(job_ids),
      'Pass both as claim returned them, in the same order.');
  end if;
  if array_position(job_ids, null) is not null or array_position(receipts, null) is not null then
    perform awa._refuse('job_ids and receipts must not hold null', null, 'Pass both as claim returned them.');
  end if;
  if size <> cardinality(job_ids) then
    perform awa._refuse(argument || ' must be as many as job_ids', size || ' beside ' || cardinality(job_ids),
      'Pass one per job, null where there is none.');
  end if;
  perform awa._check_isolation();
end
$$;
comment on function awa._check_answers is 'Refuses answers that do not fit together';

-- Locks the claims of some receipts, in ascending order. Returns those whose items have to be closed by a row each: claims of one job, which
-- need no lock, and claims that somebody is inside of.
create or replace function awa._lock_claims(receipts bigint[]) returns bigint[]
language plpgsql
as $$
declare
  v_claim record;
  v_by_item bigint[] := '{}';
begin
  for v_claim in
    select c.claim_id, c.size
      from (select distinct r >> 12 as claim_id from unnest(receipts) r order by 1) a
     cross join lateral (
        select c.claim_id, cardinality(c.job_ids) as size from awa.lease_claims c where c.claim_id = a.claim_id limit 1
      ) c
     order by a.claim_id
  loop
    if v_claim.size > 1 then
      continue when pg_try_advisory_xact_lock(awa._claim_key(v_claim.claim_id));
      perform pg_advisory_xact_lock_shared(awa._claim_key(v_claim.claim_id));
    end if;
    v_by_item := v_by_item || v_claim.claim_id;
  end loop;
  return v_by_item;
end
$$;
comment on function awa._lock_claims is 'Locks the claims of some receipts; returns those whose items need a row each';

-- The key of the advisory lock on a claim: below all keys of queues.
create or replace function awa._claim_key(claim_id bigint) returns bigint
language sql immutable strict parallel safe
return claim_id - 4611686018427387904;
comment on function awa._claim_key is 'The key of the advisory lock on a claim';

-- Closes items of claims that the caller has locked, and returns the receipts that it closed. A receipt that is named twice counts once.
create or replace function awa._close_items(job_ids bigint[], receipts bigint[], outcome text, by_item bigint[]) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_now timestamptz := clock_timestamp();
  v_closed bigint[];
begin
  with asked as materialized (
    select a.receipt >> 12 as claim_id, array_agg(a.receipt & 4095) as items, array_agg(a.job_id) as jobs
      from unnest(job_ids, receipts) a(job_id, receipt)
     group by 1
  ), claims as materialized (
    select a.*, c.segment, c.job_ids,
           array(select unnest(coalesce(k.items, array[k.item])) from awa.lease_claim_closures k where k.claim_id = a.claim_id) as closed
      from asked a
     cross join lateral (
        select * from awa.lease_claims c where c.claim_id = a.claim_id limit 1 -- fenced off: a join might read all claims
      ) c
  ), open as materialized (
    select distinct c.segment, c.claim_id, i.item
      from claims c
     cross join unnest(c.items, c.jobs) i(item, job_id)
     where c.job_ids[i.item + 1] = i.job_id
       and i.item <> all(c.closed)
  ), batches as (
    insert into awa.lease_claim_closures (segment, claim_id, item, items, outcome, closed_at)
    select o.segment, o.claim_id,
           least((select min(k.item) from awa.lease_claim_closures k where k.claim_id = o.claim_id), 0) - 1,
           array_agg(o.item::smallint), outcome, v_now
      from open o
     where o.claim_id <> all(by_item)
     group by o.segment, o.claim_id
  ), singles as (
    insert into awa.lease_claim_closures (segment, claim_id, item, outcome, closed_at)
    select o.segment, o.claim_id, o.item, outcome, v_now
      from open o
     where o.claim_id = any(by_item)
     order by o.claim_id, o.item
    on conflict do nothing
    returning claim_id << 12 | item as receipt
  )
  select array_agg(r.receipt) into v_closed
    from (
      select o.claim_id << 12 | o.item as receipt from open o where o.claim_id <> all(by_item)
      union all
      select s.receipt from singles s
    ) r;
  return coalesce(v_closed, '{}');
end
$$;
comment on function awa._close_items is 'Closes items of claims that the caller has locked, and returns their receipts';

-- The jobs whose receipts were not closed.
create or replace function awa._stale(job_ids bigint[], receipts bigint[], closed bigint[]) returns setof bigint
language plpgsql
as $$
begin
  if cardinality(closed) < cardinality(receipts) then
    return query
      select a.job_id from unnest(job_ids, receipts) with ordinality a(job_id, receipt, n) where a.receipt <> all(closed) order by a.n;
  end if;
end
$$;
comment on function awa._stale is 'The jobs whose receipts were not closed';
