-- Completes one attempt, inside the caller's transaction: the job is completed if and when that commits.
-- Locks: the claim, shared, until then. Raises JQ001 when the attempt is not the caller's any more, 22023; 55P03 when somebody keeps the claim for longer than claim_wait;
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
declare
  v_closed record;
  v_attempts awa.leases[];
begin
  perform awa._json_bytes('output', output);
  v_closed := awa._close(job_id, receipt, case when output is null then 'completed' else 'recorded' end);
  if v_closed.lasts or v_closed.recorded or v_closed.holds_keys then
    v_attempts := awa._look_up(array[receipt]);
    if v_closed.lasts or v_closed.recorded then
      perform awa._end(v_attempts, 'completed', outputs => array[output], counted => array[not v_closed.lasts]);
    end if;
    if v_closed.lasts or v_closed.holds_keys then
      perform awa._end_attempts(v_attempts, 'completed');
    end if;
  end if;
end
$$;
comment on function awa.complete is 'Completes one attempt, inside the caller''s transaction';

-- Closes one attempt: its item in the ledger, or else it locks its lease row, for the caller to delete. Raises JQ001.
create or replace function awa._close(job_id bigint, receipt bigint, outcome text, out lasts boolean, out holds_keys boolean, out recorded boolean)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_item record;
begin
  if job_id is null or receipt is null then
    perform awa._refuse('job_id and receipt must not be null', null, 'Pass both as claim returned them.');
  end if;
  v_item := awa._close_item(job_id, receipt, outcome);
  lasts := not v_item.closed;
  holds_keys := v_item.holds_keys;
  recorded := v_item.recorded;
  if lasts then
    perform from awa.leases l where l.receipt = receipt and l.job_id = job_id for update;
    if not found then
      if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        perform awa._check_snapshot(receipt >> 12);
      end if;
      perform awa._refuse_stale(job_id, receipt);
    end if;
  end if;
end
$$;
comment on function awa._close is 'Closes one attempt, in the ledger or in leases, or raises JQ001';

-- Closes one item of a claim, where it is open; of one that the caller has joined, or not yet. Says whether the claim holds unique keys, and whether a row of done_entries has to follow: as recorded, for an output or a key that outlasts the job.
--
-- The claim is held shared, so that a long transaction keeps nobody off the claim's other items; no batch row can come meanwhile, and who only tries the claim
-- (rescue, materialize) leaves it alone. Of two answers for one item the unique index lets the first one pass: the second waits for it.
--
-- Each statement names its segment, and no plan holds another one: a transaction keeps the locks of all tables that it has read to its end, and would keep the oldest segment from being truncated. The claim is looked for from the current segment back.
create or replace function awa._close_item(job_id bigint, receipt bigint, outcome text, joined boolean default false, out closed boolean, out holds_keys boolean, out recorded boolean)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_claim_id bigint := receipt >> 12;
  v_item int := receipt & 4095;
  v_segment smallint;
  v_claim record;
  v_batches record;
begin
  closed := false;
  v_segment := (select r.current_segment from awa.ring r);
  for v_try in 1..4 loop
    case v_segment
      when 0 then select c.segment, c.job_ids[v_item + 1] as job_id, cardinality(c.job_ids) as size, c.holds_keys into v_claim from awa.lease_claims c where c.segment = 0 and c.claim_id = v_claim_id;
      when 1 then select c.segment, c.job_ids[v_item + 1] as job_id, cardinality(c.job_ids) as size, c.holds_keys into v_claim from awa.lease_claims c where c.segment = 1 and c.claim_id = v_claim_id;
      when 2 then select c.segment, c.job_ids[v_item + 1] as job_id, cardinality(c.job_ids) as size, c.holds_keys into v_claim from awa.lease_claims c where c.segment = 2 and c.claim_id = v_claim_id;
      when 3 then select c.segment, c.job_ids[v_item + 1] as job_id, cardinality(c.job_ids) as size, c.holds_keys into v_claim from awa.lease_claims c where c.segment = 3 and c.claim_id = v_claim_id;
    end case;
    exit when v_claim.size is not null;
    v_segment := (v_segment + 3) % 4;
  end loop;
  holds_keys := coalesce(v_claim.holds_keys, false);
  if v_claim.job_id is distinct from job_id then
    return;
  end if;
  if outcome = 'completed' and holds_keys and (awa._keeping(array[receipt])) <> '{}' then
    outcome := 'recorded';
  end if;
  recorded := outcome = 'recorded';
  if not joined then
    perform awa._join_claim(v_claim_id);
  end if;
  if v_claim.size > 1 then -- one of a single job is never closed by a batch row
    case v_claim.segment
      when 0 then select least(min(k.item), 0) - 1 as next_item, coalesce(bool_or(v_item = any(k.items)), false) as has_item into v_batches from awa.lease_claim_closures k where k.segment = 0 and k.claim_id = v_claim_id and k.item < 0;
      when 1 then select least(min(k.item), 0) - 1 as next_item, coalesce(bool_or(v_item = any(k.items)), false) as has_item into v_batches from awa.lease_claim_closures k where k.segment = 1 and k.claim_id = v_claim_id and k.item < 0;
      when 2 then select least(min(k.item), 0) - 1 as next_item, coalesce(bool_or(v_item = any(k.items)), false) as has_item into v_batches from awa.lease_claim_closures k where k.segment = 2 and k.claim_id = v_claim_id and k.item < 0;
      when 3 then select least(min(k.item), 0) - 1 as next_item, coalesce(bool_or(v_item = any(k.items)), false) as has_item into v_batches from awa.lease_claim_closures k where k.segment = 3 and k.claim_id = v_claim_id and k.item < 0;
    end case;
    if v_batches.has_item then
      return;
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
  closed := found;
end
$$;
comment on function awa._close_item is 'Closes one item of a claim, where it is open';

-- Raises 40001 where a claim is there that the snapshot does not see: its receipt is not stale. A row with its number collides with it, which raises 40001 in PostgreSQL; where there is none, the row is taken back at once.
create or replace function awa._check_snapshot(claim_id bigint) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.lease_claims (segment, claim_id, lane, lane_seq, hi, first_xid, first_id, pos_xid, pos_id, claimed_at, lease_until, holds_keys, job_ids)
  select s, claim_id, 0, -claim_id, '3:3:', '0', 0, '0', 0, now(), now(), false, '{}' from generate_series(0, 3) s
  on conflict do nothing;
  raise exception using errcode = 'JQ001';
exception when sqlstate 'JQ001' then
  null;
end
$$;
comment on function awa._check_snapshot is 'Raises 40001 where a claim is there that the snapshot does not see';

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

-- Those of some receipts whose jobs keep their unique keys when they have completed: the key goes with the row in done_entries.
create or replace function awa._keeping(receipts bigint[]) returns bigint[]
language sql stable
as $$ select array(select a.receipt from awa._attempts(receipts) a where awa._holds(a.unique_key, 'completed')) $$;
comment on function awa._keeping is 'Receipts whose jobs keep their unique keys when they have completed';
