-- Completes attempts of any claims and queues, each on its own. Returns the jobs whose attempts were stale: drop their results.
-- Locks: each claim, exclusive where it can have it at once, else shared; in ascending order, until the transaction ends. At most 64 claims: from the 65th on, one lock for all, shared.
-- Raises 22023, JQ004; 55P03 when one of these is held for longer than claim_wait.
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
  v_claims record;
  v_keeping bigint[] := '{}';
  v_closed record;
  v_full record;
  v_places bigint[] := '{}';
  v_attempts awa.leases[];
  v_receipts bigint[];
  v_outputs jsonb[];
begin
  perform awa._check_answers(job_ids, receipts);
  perform awa._check_companion('outputs', outputs, job_ids, true);
  job_ids := job_ids[:]; -- whatever their lower bounds were
  receipts := receipts[:];
  outputs := outputs[:];
  perform awa._json_bytes('outputs', o) from unnest(outputs) o where pg_column_size(o) > 2000; -- smaller ones pass
  v_claims := awa._lock_claims(receipts);
  if v_claims.holds_keys then
    v_keeping := awa._keeping(receipts);
  end if;
  if outputs is not null or v_keeping <> '{}' then
    select array_agg(a.job_id) as job_ids, array_agg(a.receipt) as receipts, array_agg(a.place) as places into v_full
      from unnest(job_ids, receipts, outputs) with ordinality a(job_id, receipt, output, place)
     where a.output is not null or a.receipt = any(v_keeping);
    v_closed := awa._close_many(v_full.job_ids, v_full.receipts, 'recorded', v_claims.by_item);
    v_places := array(select v_full.places[p] from unnest(v_closed.places) p);
    v_receipts := array(select receipts[p] from unnest(v_places) p);
    v_outputs := array(select outputs[p] from unnest(v_places) p);
    for v_attempts in select l from awa._look_up_many(v_receipts) l loop
      perform awa._end(v_attempts, 'completed',
        outputs => array(select v_outputs[array_position(v_receipts, a.receipt)] from unnest(v_attempts) with ordinality a order by a.ordinality),
        counted => array(select a.receipt <> all(v_closed.lasting) from unnest(v_attempts) with ordinality a order by a.ordinality));
      if v_closed.unsettled <> '{}' then
        perform awa._end_attempts(v_attempts, 'completed');
      end if;
    end loop;
    if cardinality(v_full.places) = cardinality(receipts) then
      return query select awa._stale(job_ids, receipts, v_places);
      return;
    end if;
  end if;

  -- The others; of those none is open any more.
  v_closed := awa._close_many(job_ids, receipts, 'completed', v_claims.by_item);
  if v_closed.unsettled <> '{}' then
    for v_attempts in select l from awa._look_up_many(v_closed.unsettled) l loop
      perform awa._end(array(select a from unnest(v_attempts) a where a.receipt = any(v_closed.lasting)), 'completed');
      perform awa._end_attempts(v_attempts, 'completed');
    end loop;
  end if;
  return query select awa._stale(job_ids, receipts, v_places || v_closed.places);
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
-- need no lock, claims that somebody is inside of, and those that are too many for a lock each. And whether any holds a unique key.
-- Where anybody has answered for too many, all items get a row each.
create or replace function awa._lock_claims(receipts bigint[], out by_item bigint[], out holds_keys boolean)
language plpgsql
as $$
declare
  v_claim record;
  v_locks int := 0;
  v_batched bigint[] := '{}';
begin
  by_item := '{}';
  holds_keys := false;
  for v_claim in
    select c.claim_id, c.size, c.holds_keys
      from (select distinct r >> 12 as claim_id from unnest(receipts) r order by 1) a
     cross join lateral (
        select c.claim_id, cardinality(c.job_ids) as size, c.holds_keys from awa.lease_claims c where c.claim_id = a.claim_id limit 1
      ) c
     order by a.claim_id
  loop
    holds_keys := holds_keys or v_claim.holds_keys;
    if v_claim.size > 1 then
      v_locks := v_locks + 1;
      if v_locks <= awa._max_locks() and pg_try_advisory_xact_lock(awa._claim_key(v_claim.claim_id)) then
        v_batched := v_batched || v_claim.claim_id;
        continue;
      end if;
      perform awa._join_claim(v_claim.claim_id, v_locks);
    end if;
    by_item := by_item || v_claim.claim_id;
  end loop;
  if v_batched <> '{}' and awa._is_crowded() then
    by_item := by_item || v_batched;
  end if;
end
$$;
comment on function awa._lock_claims is 'Locks the claims of some receipts; returns those whose items need a row each';

-- Keeps batch rows off a claim until the transaction ends, so that its items can be closed by rows of their own: waits for a batch row that is not committed, and lets none come. Other items stay free for others. Raises 55P03.
create or replace function awa._join_claim(claim_id bigint, nth int default 1) returns void
language plpgsql
as $$
begin
  if not awa._try_join_claim(claim_id, nth) then
    perform awa._wait_for_lock(awa._claim_key(claim_id), true, 'the claim is locked by somebody else',
      'Somebody is answering for its jobs, or cancelling one of them, in a transaction that lasts: let that end, and try again.');
  end if;
end
$$;
comment on function awa._join_claim is 'Keeps batch rows off a claim until the transaction ends';

-- As _join_claim, but says no where it would have to wait. By a shared lock on the claim; for the nth claim of a call, when that is too many for the server's lock table, by one lock for all of them:
-- whoever writes batch rows looks for it once he holds his claims. Then the claim's own lock only has to be free for a moment, once the other one is held.
create or replace function awa._try_join_claim(claim_id bigint, nth int) returns boolean
language plpgsql
as $$
begin
  if nth <= awa._max_locks() then
    return pg_try_advisory_xact_lock_shared(awa._claim_key(claim_id));
  end if;
  perform awa._lock_crowd();
  -- Nothing can interrupt a single expression: a lock of the session would outlast an error.
  return case when pg_try_advisory_lock_shared(awa._claim_key(claim_id)) then pg_advisory_unlock_shared(awa._claim_key(claim_id)) else false end;
end
$$;
comment on function awa._try_join_claim is 'Keeps batch rows off a claim, or says that it would have to wait';

-- Whether another transaction answers for more claims than it has locks for. The lock is taken and given back in one expression; that another one is just looking does not count, so it looks more than once.
create or replace function awa._is_crowded() returns boolean
language plpgsql
as $$
begin
  for v_look in 1..5 loop
    if (case when pg_try_advisory_lock(awa._crowd_key()) then pg_advisory_unlock(awa._crowd_key()) else false end) then
      return false;
    end if;
  end loop;
  return true;
end
$$;
comment on function awa._is_crowded is 'Whether another transaction answers for more claims than it has locks for';

-- How many claims, or queues, one call locks: what PostgreSQL's lock table has room for, by default, for each connection.
create or replace function awa._max_locks() returns int
language sql immutable parallel safe
return 64;
comment on function awa._max_locks is 'How many claims, or queues, one call locks';

-- The key of the advisory lock on a claim: below all keys of queues.
create or replace function awa._claim_key(claim_id bigint) returns bigint
language sql immutable strict parallel safe
return claim_id - 4611686018427387904;
comment on function awa._claim_key is 'The key of the advisory lock on a claim';

-- The key of the advisory lock of those that answer for more claims than they have locks for: below those of claims.
create or replace function awa._crowd_key() returns bigint
language sql immutable parallel safe
return awa._claim_key(-2);
comment on function awa._crowd_key is 'The key of the advisory lock of those that answer for very many claims';

-- Closes attempts whose claims the caller has locked: in the ledger, or else it locks their lease rows, for the caller to delete. An answer that is given twice counts
-- once. Returns the places, in the two arrays, of those that were open; the receipts of those that have a lease row; and of all that have to be settled.
create or replace function awa._close_many(
  job_ids   bigint[],
  receipts  bigint[],
  outcome   text,
  by_item   bigint[],
  out places    bigint[],
  out lasting   bigint[],
  out unsettled bigint[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_places bigint[];
  v_lasting bigint[];
begin
  if cardinality(receipts) > (select count(distinct r) from unnest(receipts) r) then
    select array_agg(a.job_id), array_agg(a.receipt), array_agg(a.place) into job_ids, receipts, v_places
      from (
        select distinct on (a.receipt, a.job_id) a.*
          from unnest(job_ids, receipts) with ordinality a(job_id, receipt, place)
         order by a.receipt, a.job_id, a.place
      ) a;
  end if;

  select c.places, c.unsettled into places, unsettled from awa._close_items(job_ids, receipts, outcome, by_item) c;
  lasting := '{}';
  if cardinality(places) < cardinality(receipts) then
    select array_agg(a.place), coalesce(array_agg(a.receipt), '{}') into v_lasting, lasting
      from (
        select a.place, a.receipt
          from unnest(job_ids, receipts) with ordinality a(job_id, receipt, place)
         cross join lateral (select * from awa.leases l where l.receipt = a.receipt limit 1) l
         where l.job_id = a.job_id and a.place <> all(places)
         order by a.receipt
      ) a
     where exists (select from awa.leases l where l.receipt = a.receipt for update);
    places := places || v_lasting;
    unsettled := unsettled || lasting;
  end if;
  if v_places is not null then
    places := array(select v_places[p] from unnest(places) p);
  end if;
end
$$;
comment on function awa._close_many is 'Closes attempts whose claims the caller has locked, in the ledger or in leases';

-- Closes items of claims that the caller has locked. Returns their places, and the receipts of those whose claims hold unique keys.
create or replace function awa._close_items(job_ids bigint[], receipts bigint[], outcome text, by_item bigint[], out places bigint[], out unsettled bigint[])
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_now timestamptz := clock_timestamp();
begin
  with asked as materialized (
    select a.receipt >> 12 as claim_id, array_agg(a.receipt & 4095) as items, array_agg(a.job_id) as jobs, array_agg(a.place) as places
      from unnest(job_ids, receipts) with ordinality a(job_id, receipt, place)
     group by 1
  ), claims as materialized (
    select a.*, c.segment, c.job_ids, c.holds_keys, (a.claim_id in (select unnest(by_item))) is true as is_by_item, -- hashed, for there may be thousands
           array(select unnest(coalesce(k.items, array[k.item])) from awa.lease_claim_closures k where k.claim_id = a.claim_id) as closed
      from asked a
     cross join lateral (
        select * from awa.lease_claims c where c.claim_id = a.claim_id limit 1 -- fenced off: a join might read all claims
      ) c
  ), open as materialized (
    select c.segment, c.claim_id, c.holds_keys, c.is_by_item, i.item, i.place
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
     where not o.is_by_item
     group by o.segment, o.claim_id
  ), singles as (
    insert into awa.lease_claim_closures (segment, claim_id, item, outcome, closed_at)
    select o.segment, o.claim_id, o.item, outcome, v_now
      from open o
     where o.is_by_item
     order by o.claim_id, o.item
    on conflict do nothing
    returning claim_id << 12 | item as receipt
  )
  select coalesce(array_agg(o.place), '{}'), coalesce(array_agg(o.claim_id << 12 | o.item) filter (where o.holds_keys), '{}') into places, unsettled
    from open o
   where not o.is_by_item
      or (o.claim_id << 12 | o.item in (select s.receipt from singles s)) is true;
end
$$;
comment on function awa._close_items is 'Closes items of claims that the caller has locked';

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
