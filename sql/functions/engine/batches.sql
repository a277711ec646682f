-- Closing many attempts at once in the usual case: nothing of them was closed before, and nobody else answers for their
-- claims.

-- Closes attempts, by a batch row for each claim, where all of them are open in the ledger and nobody is in the way.
-- Returns whether it has; then none was stale. It has closed nothing for all else: an attempt that is not open, or has
-- a row in leases, or is given twice, claims that another session is inside of, or with unique keys, or, beside others,
-- of a single job, or more than 64.
-- Locks: the claims, in ascending order, but waits for none; a single attempt is closed as _close does it.
-- Raises 55P03 when a transaction that has closed a single one is open for longer than claim_wait.
-- Why: nearly all answers are like that, and arrays are compared at a time. Each statement names its segment, as in
-- _close_item.
create or replace function awa._close_batches(job_ids bigint[], receipts bigint[]) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_jobs int := coalesce(cardinality(receipts), 0);
  v_in_order bigint[];
  v_at int := 1;
  v_to int;
  v_first bigint;
  v_claim_id bigint := -1;
  v_claim record;
  v_items smallint[] := '{}'; -- of all claims
  v_some smallint[]; -- of one
  v_taken bigint[];
  v_segments int[] := '{}';
  v_claims bigint[] := '{}';
  v_ends int[] := '{}';
  v_batches smallint[] := '{}';
  v_batch smallint;
  v_wait text;
  v_is_closed boolean;
  v_now timestamptz := clock_timestamp();
begin
  while v_at <= v_jobs loop
    v_first := receipts[v_at];
    v_claim := awa._find_claim(v_first >> 12);
    v_to := least(v_jobs, v_at - 1 + v_claim.size - (v_first & 4095)); -- of a run
    if v_claim.holds_keys is distinct from false or v_to < v_at then
      return false;
    elsif v_jobs = 1 then
      v_wait := awa._shorten_waits();
      v_is_closed := (awa._close_item(job_ids[1], receipts[1], 'completed')).closed;
      perform set_config('lock_timeout', v_wait, true);
      return v_is_closed;
    elsif v_claim.size = 1 or cardinality(v_claims) = awa._max_locks() then
      return false;
    elsif v_first >> 12 > v_claim_id
      and receipts[v_at : v_to] = array(select generate_series(v_first, v_first + v_to - v_at))
    then
      v_some := array(select i::smallint from generate_series(v_first & 4095, (v_first & 4095) + v_to - v_at) i);
      v_taken := v_claim.job_ids[(v_first & 4095) + 1 : (v_first & 4095) + 1 + v_to - v_at];
    else
      if v_in_order is null then
        v_in_order := array(select distinct r from unnest(receipts) r order by r);
        if v_in_order <> receipts then
          return cardinality(v_in_order) = v_jobs and awa._close_batches(
            array(select a.job_id from unnest(job_ids, receipts) a(job_id, receipt) order by a.receipt), v_in_order);
        end if;
      end if;
      v_to := width_bucket(v_first | 4095, receipts); -- the last one of the claim
      v_some := array(select (r & 4095)::smallint from unnest(receipts[v_at : v_to]) r);
      v_taken := array(select v_claim.job_ids[i + 1] from unnest(v_some) i);
    end if;
    if job_ids[v_at : v_to] is distinct from v_taken then
      return false;
    end if;
    v_claim_id := v_first >> 12;
    v_segments := v_segments || v_claim.segment::int;
    v_claims := v_claims || v_claim_id;
    v_items := v_items || v_some;
    v_ends := v_ends || v_to;
    v_at := v_to + 1;
  end loop;
  if v_jobs = 0 then
    return false;
  end if;
  -- Only now: with a lock in hand, receipts in another order would wait for claims before it.
  foreach v_claim_id in array v_claims loop
    if not pg_try_advisory_xact_lock(awa._claim_key(v_claim_id)) then
      return false;
    end if;
  end loop;
  if awa._is_crowded() then
    return false;
  end if;
  v_at := 1;
  for v_nth in 1 .. cardinality(v_claims) loop
    v_batch := awa._next_batch(v_segments[v_nth], v_claims[v_nth], v_items[v_at : v_ends[v_nth]]);
    if v_batch is null then
      return false;
    end if;
    v_batches := v_batches || v_batch;
    v_at := v_ends[v_nth] + 1;
  end loop;
  v_at := 1;
  for v_nth in 1 .. cardinality(v_claims) loop
    perform awa._append_closure((v_claims[v_nth], v_now, v_segments[v_nth], v_batches[v_nth], 'completed',
      v_items[v_at : v_ends[v_nth]])::awa.lease_claim_closures);
    v_at := v_ends[v_nth] + 1;
  end loop;
  return true;
end
$$;
comment on function awa._close_batches is
  'Closes attempts, by a batch row for each claim, where all of them are open in the ledger and nobody is in the way';

-- The number of the next batch row of a claim, or null where one of these items is closed.
create or replace function awa._next_batch(segment int, claim_id bigint, items smallint[]) returns smallint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_batch smallint;
begin
  case segment
    when 0 then
      select case when bool_or(i in (select unnest(items))) then null else least(min(k.item), 0) - 1 end into v_batch
        from awa.lease_claim_closures k
        left join lateral unnest(coalesce(k.items, array[k.item])) i on true
       where k.segment = 0 and k.claim_id = claim_id;
    when 1 then
      select case when bool_or(i in (select unnest(items))) then null else least(min(k.item), 0) - 1 end into v_batch
        from awa.lease_claim_closures k
        left join lateral unnest(coalesce(k.items, array[k.item])) i on true
       where k.segment = 1 and k.claim_id = claim_id;
    when 2 then
      select case when bool_or(i in (select unnest(items))) then null else least(min(k.item), 0) - 1 end into v_batch
        from awa.lease_claim_closures k
        left join lateral unnest(coalesce(k.items, array[k.item])) i on true
       where k.segment = 2 and k.claim_id = claim_id;
    when 3 then
      select case when bool_or(i in (select unnest(items))) then null else least(min(k.item), 0) - 1 end into v_batch
        from awa.lease_claim_closures k
        left join lateral unnest(coalesce(k.items, array[k.item])) i on true
       where k.segment = 3 and k.claim_id = claim_id;
  end case;
  return v_batch;
end
$$;
comment on function awa._next_batch is
  'The number of the next batch row of a claim, or null where one of these items is closed';

-- A claim, by its id.
-- It is looked for from the current segment back.
create or replace function awa._find_claim(
  claim_id bigint,
  out segment smallint,
  out size int,
  out holds_keys boolean,
  out job_ids bigint[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_segment smallint := (select r.current_segment from awa.ring r);
begin
  for v_look in 1..4 loop
    case v_segment
      when 0 then
        select c.segment, cardinality(c.job_ids), c.holds_keys, c.job_ids into segment, size, holds_keys, job_ids
          from awa.lease_claims c
         where c.segment = 0 and c.claim_id = claim_id;
      when 1 then
        select c.segment, cardinality(c.job_ids), c.holds_keys, c.job_ids into segment, size, holds_keys, job_ids
          from awa.lease_claims c
         where c.segment = 1 and c.claim_id = claim_id;
      when 2 then
        select c.segment, cardinality(c.job_ids), c.holds_keys, c.job_ids into segment, size, holds_keys, job_ids
          from awa.lease_claims c
         where c.segment = 2 and c.claim_id = claim_id;
      when 3 then
        select c.segment, cardinality(c.job_ids), c.holds_keys, c.job_ids into segment, size, holds_keys, job_ids
          from awa.lease_claims c
         where c.segment = 3 and c.claim_id = claim_id;
    end case;
    exit when size is not null;
    v_segment := (v_segment + 3) % 4;
  end loop;
end
$$;
comment on function awa._find_claim is 'A claim, by its id';

-- Appends a closure.
create or replace function awa._append_closure(closure awa.lease_claim_closures) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  case closure.segment
    when 0 then insert into awa.lease_claim_closures_0 values (closure.*);
    when 1 then insert into awa.lease_claim_closures_1 values (closure.*);
    when 2 then insert into awa.lease_claim_closures_2 values (closure.*);
    when 3 then insert into awa.lease_claim_closures_3 values (closure.*);
  end case;
end
$$;
comment on function awa._append_closure is 'Appends a closure';
