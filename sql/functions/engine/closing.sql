-- Closing attempts: in the ledger, or in leases.

-- Closes one attempt, in the ledger, or else locks its lease row for the caller to delete.
-- Returns the result of _close_item, and materialized where it has a lease row. looks_up: and the attempt.
-- Locks: the claim, as _close_item, or the lease row, until the transaction ends.
-- Raises JQ001; 55P03 when a transaction that has closed it is open for longer than claim_wait.
create or replace function awa._close(
  job_id bigint,
  receipt bigint,
  outcome text,
  looks_up boolean default false,
  out materialized boolean,
  out holds_keys boolean,
  out needs_row boolean,
  out segment smallint,
  out attempts awa.leases[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_begun record;
  v_item record;
begin
  if job_id is null or receipt is null then
    perform awa._refuse('job_id and receipt must not be null', null, 'Pass both as claim returned them.');
  end if;
  v_begun := awa._begin_close();
  v_item := awa._close_item(job_id, receipt, outcome, looks_up => looks_up, newest => v_begun.newest);
  materialized := not v_item.closed;
  holds_keys := v_item.holds_keys;
  needs_row := v_item.needs_row;
  segment := v_item.segment;
  attempts := v_item.attempts;
  if materialized then
    perform from awa.leases l where l.receipt = receipt and l.job_id = job_id for update skip locked;
    if not found and not awa._await_lease(job_id, receipt) then
      if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        perform awa._check_snapshot(receipt >> 12);
      end if;
      perform awa._refuse_stale(job_id, receipt);
    end if;
  end if;
  v_begun.wait := set_config('lock_timeout', v_begun.wait, true);
  if looks_up and attempts is null then
    attempts := awa._look_up(array[receipt], segment);
  end if;
end
$$;
comment on function awa._close is
  'Closes one attempt, in the ledger, or else locks its lease row for the caller to delete';

-- Waits for the lease row of an attempt, and locks it; returns whether there is one.
-- Raises 55P03, and names the holder.
create or replace function awa._await_lease(job_id bigint, receipt bigint) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
begin
  if not exists (select from awa.leases l where l.receipt = receipt and l.job_id = job_id) then
    return false;
  end if;
  begin
    perform from awa.leases l where l.receipt = receipt and l.job_id = job_id for update;
    return found;
  exception when lock_not_available then
    perform awa._refuse_wait(array['awa.leases']::regclass[],
      format('the attempt of job %s is held by another session', job_id),
      'A session that extends it, sets its progress, or answers for it, holds it until its transaction ends: let that '
      'end, and try again.',
      (select awa._row_holder('awa.leases', l.xmax) from awa.leases l where l.receipt = receipt));
  end;
end
$$;
comment on function awa._await_lease is
  'Waits for the lease row of an attempt, and locks it; returns whether there is one';

-- Bounds the waits that follow as _shorten_waits does; returns lock_timeout as it was, and the current segment.
-- Why: both in one statement.
create or replace function awa._begin_close(out wait text, out newest smallint)
language plpgsql
as $$
#variable_conflict use_variable
begin
  wait := current_setting('lock_timeout');
  select r.current_segment into newest
    from awa.ring r
    left join awa.settings s on true
   where set_config('lock_timeout', coalesce(awa._shorter_wait(s.claim_wait, wait), wait), true) is not null;
end
$$;
comment on function awa._begin_close is
  'Bounds the waits that follow as _shorten_waits does; returns lock_timeout as it was, and the current segment';

-- Closes one item of a claim, where it is open.
-- joined: the caller has joined the claim. keyless: it closes none of a claim with unique keys. newest: the current
-- segment, where the caller knows it.
-- Returns whether it closed it; whether the claim holds unique keys; whether a row of done_entries has to follow, for
-- an output or a key that outlasts the job; the segment, where it closed it; and the attempt, where it had to look at
-- it; or, with looks_up, where it lies at the end of the claim, as most do.
-- Locks: the claim, shared, so that a long transaction keeps no session off the claim's other items. No batch row can
-- come meanwhile, and sessions that only try the claim (rescue, materialize) leave it alone. Of two answers for one
-- item the unique index lets the first one pass: the second waits for it.
-- Raises 55P03 when another transaction that answers for the claim is open for longer than lock_timeout; 40001 at
-- REPEATABLE READ and above, where the snapshot does not see another answer.
-- Why: each statement names its segment, and no plan holds another one. A transaction keeps the locks of all tables
-- that it has read to its end, and would keep the oldest segment from being truncated. The claim is looked for from the
-- current segment back.
create or replace function awa._close_item(
  job_id bigint,
  receipt bigint,
  outcome text,
  joined boolean default false,
  keyless boolean default false,
  looks_up boolean default false,
  newest smallint default null,
  out closed boolean,
  out holds_keys boolean,
  out needs_row boolean,
  out segment smallint,
  out attempts awa.leases[]
)
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
  v_segment := newest;
  if newest is null then
    v_segment := (select r.current_segment from awa.ring r);
  end if;
  for v_try in 1..4 loop
    if not looks_up then
      case v_segment
        when 0 then select i.* into v_claim from awa._item_in(0::smallint, receipt) i;
        when 1 then select i.* into v_claim from awa._item_in(1::smallint, receipt) i;
        when 2 then select i.* into v_claim from awa._item_in(2::smallint, receipt) i;
        when 3 then select i.* into v_claim from awa._item_in(3::smallint, receipt) i;
      end case;
    else
      case v_segment
        when 0 then select i.* into v_claim from awa._item_and_attempt_in(0::smallint, receipt) i;
        when 1 then select i.* into v_claim from awa._item_and_attempt_in(1::smallint, receipt) i;
        when 2 then select i.* into v_claim from awa._item_and_attempt_in(2::smallint, receipt) i;
        when 3 then select i.* into v_claim from awa._item_and_attempt_in(3::smallint, receipt) i;
      end case;
    end if;
    exit when v_claim.size is not null;
    v_segment := (v_segment + 3) % 4;
  end loop;
  holds_keys := coalesce(v_claim.holds_keys, false);
  if v_claim.job_id is distinct from job_id or holds_keys and keyless then
    return;
  end if;
  if holds_keys and outcome = 'completed' then
    attempts := awa._look_up(array[receipt], v_segment, checks => false);
    if awa._holds(attempts[1].unique_key, 'completed') then
      outcome := 'completed_with_row';
    end if;
  end if;
  needs_row := outcome = 'completed_with_row';
  if not joined and not awa._try_join_claim(v_claim_id, 1) then -- no statement of its own: most often it is free
    perform awa._join_claim(v_claim_id);
  end if;
  if v_claim.size > 1 then -- one of a single job is never closed by a batch row
    case v_segment
      when 0 then select b.* into v_batches from awa._batches_in(0::smallint, receipt) b;
      when 1 then select b.* into v_batches from awa._batches_in(1::smallint, receipt) b;
      when 2 then select b.* into v_batches from awa._batches_in(2::smallint, receipt) b;
      when 3 then select b.* into v_batches from awa._batches_in(3::smallint, receipt) b;
    end case;
    if v_batches.has_item then
      return;
    end if;
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
      -- The snapshot may be older than a batch row. A batch row of no items under the next number collides with it,
      -- which raises 40001.
      perform awa._append_closure(v_segment, v_claim_id, v_batches.next_number, '{}', outcome);
    end if;
  end if;
  closed := awa._append_closure(v_segment, v_claim_id, v_item, null, outcome);
  if closed then
    segment := v_segment;
    if looks_up then
      attempts := case when (v_claim.attempt).receipt is not null then array[v_claim.attempt] end;
    end if;
    if (v_claim.group_id is not null or v_claim.holds_queue) and outcome <> 'materialized' then
      perform awa._free_slots(v_claim.shard, array[v_claim.group_id], v_claim.holds_queue::int);
    end if;
  end if;
end
$$;
comment on function awa._close_item is 'Closes one item of a claim, where it is open';

-- An item of a claim in a segment: its job, the size of the claim, whether it holds unique keys, and the slots held.
-- Why: a constant for the segment leaves the other ones out of the plan; so with _batches_in.
create or replace function awa._item_in(
  segment smallint,
  receipt bigint,
  out job_id bigint,
  out size int,
  out holds_keys boolean,
  out shard bigint,
  out group_id bigint,
  out holds_queue boolean
) returns setof record
language sql stable
as $$
  select c.job_ids[(receipt & 4095) + 1], cardinality(c.job_ids), c.holds_keys, awa._shard_of(c.lane),
         c.groups[(receipt & 4095) + 1], c.holds_queue
    from awa.lease_claims c
   where c.segment = _item_in.segment and c.claim_id = receipt >> 12
$$;
comment on function awa._item_in is
  'An item of a claim in a segment: its job, the size of the claim, whether it holds unique keys, and the slots held';

-- An item of a claim in a segment, as _item_in, and its attempt, where its entry lies there at the end of the claim.
-- That is so for all items where one transaction has enqueued the jobs of the claim, and they were claimed at once.
-- Why: the whole key of the entry is known then, and nothing else is read. It does not look whether the entry counts,
-- or is buried: in one lane a transaction has one entry of a job, and that of an open item is neither cleaned nor
-- buried. A session that cleans or buries it closes the item before, and then the caller can't.
create or replace function awa._item_and_attempt_in(
  segment smallint,
  receipt bigint,
  out job_id bigint,
  out size int,
  out holds_keys boolean,
  out shard bigint,
  out group_id bigint,
  out holds_queue boolean,
  out attempt awa.leases
) returns setof record
language sql stable
as $$
  select c.job_ids[(receipt & 4095) + 1], cardinality(c.job_ids), c.holds_keys, awa._shard_of(c.lane),
         c.groups[(receipt & 4095) + 1], c.holds_queue, (
           select t
             from awa.ready_entries e
            cross join lateral awa._as_attempt(e, receipt, c.claimed_at, c.lease_until, c.deadline_at, c.worker_id,
               c.groups[(receipt & 4095) + 1], c.holds_queue) t
            where e.segment = _item_and_attempt_in.segment and e.lane = c.lane and e.xid = c.pos_xid
              and e.job_id = c.job_ids[(receipt & 4095) + 1]
         )
    from awa.lease_claims c
   where c.segment = _item_and_attempt_in.segment and c.claim_id = receipt >> 12
$$;
comment on function awa._item_and_attempt_in is
  'An item of a claim in a segment, as _item_in, and its attempt, where its entry lies there at the end of the claim';

-- The batch rows of a claim in a segment: the number of the next one, and whether one of them closes an item.
create or replace function awa._batches_in(
  segment smallint,
  receipt bigint,
  out next_number int,
  out has_item boolean
) returns setof record
language sql stable
as $$
  select awa._next_batch(min(k.item)), coalesce(bool_or((receipt & 4095) = any(k.items)), false)
    from awa.lease_claim_closures k
   where k.segment = _batches_in.segment and k.claim_id = receipt >> 12 and k.item < 0
$$;
comment on function awa._batches_in is
  'The batch rows of a claim in a segment: the number of the next one, and whether one of them closes an item';

-- Closes attempts whose claims the caller has locked, in the ledger, or else locks their lease rows.
-- The caller deletes these. An answer that is given twice counts once.
-- Returns the ordinals, in the two arrays, of the attempts that were open; the receipts of those that have a lease row;
-- and the receipts of those that hold something: a lease row, or perhaps a unique key.
-- Locks: lease rows, in ascending order, until the transaction ends.
-- Raises 55P03 when a transaction that has closed one of them is open for longer than claim_wait.
-- Why: otherwise all would wait for as long as that one lasts.
create or replace function awa._close_many(
  job_ids  bigint[],
  receipts bigint[],
  outcome  text,
  by_item  bigint[],
  out ordinals     bigint[],
  out materialized bigint[],
  out holding      bigint[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_wait text := awa._shorten_waits();
  v_ordinals bigint[];
  v_materialized bigint[];
begin
  if cardinality(receipts) > (select count(distinct r) from unnest(receipts) r) then
    select array_agg(a.job_id), array_agg(a.receipt), array_agg(a.ordinal) into job_ids, receipts, v_ordinals
      from (
        select distinct on (a.receipt, a.job_id) a.*
          from unnest(job_ids, receipts) with ordinality a(job_id, receipt, ordinal)
         order by a.receipt, a.job_id, a.ordinal
      ) a;
  end if;

  select c.ordinals, c.holding into ordinals, holding from awa._close_items(job_ids, receipts, outcome, by_item) c;
  materialized := '{}';
  if cardinality(ordinals) < cardinality(receipts) then
    select array_agg(a.ordinal), coalesce(array_agg(a.receipt), '{}') into v_materialized, materialized
      from (
        select a.ordinal, a.receipt
          from unnest(job_ids, receipts) with ordinality a(job_id, receipt, ordinal)
         cross join lateral (select * from awa.leases l where l.receipt = a.receipt limit 1) l
         where l.job_id = a.job_id and a.ordinal <> all(ordinals)
         order by a.receipt
      ) a
     where exists (select from awa.leases l where l.receipt = a.receipt for update);
    ordinals := ordinals || v_materialized;
    holding := holding || materialized;
  end if;
  if v_ordinals is not null then
    ordinals := array(select v_ordinals[p] from unnest(ordinals) p);
  end if;
  v_wait := set_config('lock_timeout', v_wait, true);
end
$$;
comment on function awa._close_many is
  'Closes attempts whose claims the caller has locked, in the ledger, or else locks their lease rows';

-- Closes items of claims that the caller has locked.
-- Returns the ordinals of those that were open, and the receipts of those whose claims hold unique keys.
-- Raises 40001 where another row has the number of a batch row, which the locks of the claims rule out.
create or replace function awa._close_items(
  job_ids bigint[],
  receipts bigint[],
  outcome text,
  by_item bigint[],
  out ordinals bigint[],
  out holding bigint[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_now timestamptz := clock_timestamp();
  v_open record;
  v_closures awa.lease_claim_closures[];
  v_taken bigint[];
  v_batches bigint;
begin
  begin
    with asked as materialized (
      select a.receipt >> 12 as claim_id, array_agg(a.receipt & 4095) as items, array_agg(a.job_id) as jobs,
             array_agg(a.ordinal) as ordinals
        from unnest(job_ids, receipts) with ordinality a(job_id, receipt, ordinal)
       group by 1
    ), claims as materialized (
      select a.*, c.segment, c.job_ids, c.holds_keys, c.groups is not null or c.holds_queue as holds_slots, k.closed,
             k.first_item,
             (a.claim_id in (select unnest(by_item))) is true as is_by_item -- hashed, for there may be thousands
        from asked a
       cross join lateral (
          -- fenced off: a join might read all claims
          select * from awa.lease_claims c where c.claim_id = a.claim_id limit 1
        ) c
       cross join lateral (
          select coalesce(array_agg(i) filter (where i is not null), '{}') as closed, min(k.item) as first_item
            from awa.lease_claim_closures k
            left join lateral unnest(coalesce(k.items, array[k.item])) i on true
           where k.claim_id = a.claim_id
        ) k
    )
    select array_agg(c.segment) as segments, array_agg(c.claim_id) as claims, array_agg(i.item) as items,
           array_agg(i.ordinal) as ordinals, array_agg(c.claim_id << 12 | i.item) as receipts,
           array_agg(c.holds_keys) as hold_keys, array_agg(c.is_by_item) as are_by_item,
           array_agg(awa._next_batch(c.first_item)) as batches, bool_or(c.holds_slots) as hold_slots
      into v_open
      from claims c
     cross join unnest(c.items, c.jobs, c.ordinals) i(item, job_id, ordinal)
     where c.job_ids[i.item + 1] = i.job_id
       and i.item <> all(c.closed);
    raise sqlstate 'JQ999'; -- see _look_up
  exception when sqlstate 'JQ999' then
    null;
  end;
  v_closures := array(
    select (o.claim_id, v_now, o.segment, o.batch, outcome, array_agg(o.item::smallint))::awa.lease_claim_closures
      from unnest(v_open.segments, v_open.claims, v_open.items, v_open.batches, v_open.are_by_item)
             o(segment, claim_id, item, batch, is_by_item)
     where not o.is_by_item
     group by o.segment, o.claim_id, o.batch
    union all
    select (o.claim_id, v_now, o.segment, o.item, outcome, null)::awa.lease_claim_closures
      from unnest(v_open.segments, v_open.claims, v_open.items, v_open.are_by_item)
             o(segment, claim_id, item, is_by_item)
     where o.is_by_item);
  select array_agg(k.claim_id << 12 | k.item) filter (where k.items is null), count(k.items) into v_taken, v_batches
    from awa._append_closures(v_closures) k;
  if v_batches < (select count(k.items) from unnest(v_closures) k) then
    raise exception using errcode = '40001', message = 'another session has answered for a claim that is locked',
      hint = 'Give the answers again.';
  end if;
  select coalesce(array_agg(o.ordinal), '{}'), coalesce(array_agg(o.receipt) filter (where o.holds_keys), '{}')
    into ordinals, holding
    from unnest(v_open.receipts, v_open.ordinals, v_open.hold_keys, v_open.are_by_item)
           o(receipt, ordinal, holds_keys, is_by_item)
   where not o.is_by_item
      or o.receipt in (select unnest(v_taken)); -- hashed
  if v_open.hold_slots and outcome <> 'materialized' then
    perform awa._free_slots_of(array(select receipts[p] from unnest(ordinals) p));
  end if;
end
$$;
comment on function awa._close_items is 'Closes items of claims that the caller has locked';
