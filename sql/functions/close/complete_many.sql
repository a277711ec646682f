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
#variable_conflict use_variable
declare
  v_by_item bigint[];
  v_closed bigint[];
  v_bare record;
  v_full record;
begin
  perform awa._check_answers(job_ids, receipts);
  perform awa._check_companion('outputs', outputs, job_ids, true);
  job_ids := job_ids[:]; -- whatever their lower bounds were
  receipts := receipts[:];
  v_by_item := awa._lock_claims(receipts);
  if outputs is null then
    v_closed := awa._close_items(job_ids, receipts, 'completed', v_by_item);
    return query select awa._stale(job_ids, receipts, v_closed);
    return;
  end if;

  select coalesce(array_agg(a.job_id), '{}') as job_ids, coalesce(array_agg(a.receipt), '{}') as receipts,
         array_agg(a.place) as places, array_agg(a.output) as outputs
    into v_full
    from unnest(job_ids, receipts, outputs) with ordinality a(job_id, receipt, output, place)
   where a.output is not null;
  select coalesce(array_agg(a.job_id), '{}') as job_ids, coalesce(array_agg(a.receipt), '{}') as receipts, array_agg(a.place) as places
    into v_bare
    from unnest(job_ids, receipts, outputs) with ordinality a(job_id, receipt, output, place)
   where a.output is null;
  v_closed := awa._close_items(v_full.job_ids, v_full.receipts, 'recorded', v_by_item);
  perform awa._record_outputs(
    array(select v_full.receipts[p] from unnest(v_closed) p), array(select v_full.outputs[p] from unnest(v_closed) p));
  v_closed := array(select v_full.places[p] from unnest(v_closed) p)
    || array(select v_bare.places[p] from unnest(awa._close_items(v_bare.job_ids, v_bare.receipts, 'completed', v_by_item)) p);
  return query select awa._stale(job_ids, receipts, v_closed);
end
$$;
comment on function awa.complete_many is 'Completes many attempts; returns the jobs whose attempts were stale';

-- Refuses answers that do not fit together, and the wrong isolation level.
create or replace function awa._check_answers(job_ids bigint[], receipts bigint[]) returns void
language plpgsql
as $$
begin
  if job_ids is null or receipts is null then
    perform awa._refuse('job_ids and receipts must not be null', null, 'Pass both as claim returned them.');
  end if;
  perform awa._check_array('job_ids', job_ids, 10000);
  perform awa._check_companion('receipts', receipts, job_ids, false);
  perform awa._check_isolation();
end
$$;
comment on function awa._check_answers is 'Refuses answers that do not fit together';

-- Refuses an array beside job_ids that is not as long. A null array passes.
create or replace function awa._check_companion(argument text, value anyarray, job_ids bigint[], may_hold_null boolean) returns void
language plpgsql
as $$
begin
  perform awa._check_array(argument, value, 10000, may_hold_null);
  if cardinality(value) <> cardinality(job_ids) then
    perform awa._refuse(argument || ' must be as many as job_ids', cardinality(value) || ' beside ' || cardinality(job_ids),
      'Pass one for each job, in the same order.');
  end if;
end
$$;
comment on function awa._check_companion is 'Refuses an array beside job_ids that is not as long';

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

-- Closes items of claims that the caller has locked, and returns the places, in the two arrays, of those that it closed. An
-- answer that is given twice counts once.
create or replace function awa._close_items(job_ids bigint[], receipts bigint[], outcome text, by_item bigint[]) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_now timestamptz := clock_timestamp();
  v_closed bigint[];
  v_places bigint[];
begin
  if cardinality(receipts) > (select count(distinct r) from unnest(receipts) r) then
    select array_agg(a.job_id), array_agg(a.receipt), array_agg(a.place) into job_ids, receipts, v_places
      from (
        select distinct on (a.receipt, a.job_id) a.*
          from unnest(job_ids, receipts) with ordinality a(job_id, receipt, place)
         order by a.receipt, a.job_id, a.place
      ) a;
  end if;

  with asked as materialized (
    select a.receipt >> 12 as claim_id, array_agg(a.receipt & 4095) as items, array_agg(a.job_id) as jobs, array_agg(a.place) as places
      from unnest(job_ids, receipts) with ordinality a(job_id, receipt, place)
     group by 1
  ), claims as materialized (
    select a.*, c.segment, c.job_ids,
           array(select unnest(coalesce(k.items, array[k.item])) from awa.lease_claim_closures k where k.claim_id = a.claim_id) as closed
      from asked a
     cross join lateral (
        select * from awa.lease_claims c where c.claim_id = a.claim_id limit 1 -- fenced off: a join might read all claims
      ) c
  ), open as materialized (
    select c.segment, c.claim_id, i.item, i.place
      from claims c
     cross join unnest(c.items, c.jobs, c.places) i(item, job_id, place)
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
  select array_agg(o.place) into v_closed
    from open o
   where o.claim_id <> all(by_item)
      or o.claim_id << 12 | o.item = any(array(select s.receipt from singles s));
  if v_places is not null then
    v_closed := array(select v_places[p] from unnest(v_closed) p);
  end if;
  return coalesce(v_closed, '{}');
end
$$;
comment on function awa._close_items is 'Closes items of claims that the caller has locked, and returns their places';

-- The jobs whose answers were not taken: closed are the places of those that were.
create or replace function awa._stale(job_ids bigint[], receipts bigint[], closed bigint[]) returns setof bigint
language plpgsql
as $$
begin
  if cardinality(closed) < cardinality(receipts) then
    return query
      select a.job_id
        from unnest(job_ids, receipts) with ordinality a(job_id, receipt, place)
       where (a.job_id, a.receipt) not in (select job_ids[p], receipts[p] from unnest(closed) p)
       order by a.place;
  end if;
end
$$;
comment on function awa._stale is 'The jobs whose answers were not taken';
