-- Parts of the _many forms. Most often none of the attempts is closed, and no other session answers for their claims.

-- Closes attempts, from the first on, in one row for each claim, up to one that is not open or not free.
-- Returns how many it has closed, none of which was stale; null, and closes nothing, where the receipts are not in
-- ascending order, or one is given twice. It stops before the first claim in which an attempt is not open, or has a row
-- in leases, or which holds unique keys, or which another session is inside of. It closes nothing of more than 64
-- claims.
-- Locks: the claims, in ascending order, but waits for none of them; of a single attempt, as _close_item.
-- Raises 55P03 when a transaction that has closed a single one is open for longer than claim_wait.
-- Why: nearly all answers are like that, and arrays are compared at a time. It closes nothing before it has all locks,
-- and has seen that no session answers for too many.
create or replace function awa._close_batches(job_ids bigint[], receipts bigint[]) returns int
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_jobs int := cardinality(receipts);
  v_newest smallint;
  v_is_run boolean;
  v_at int := 1;
  v_to int := 0;
  v_ends int[] := '{}'; -- the last attempt of each claim
  v_is_closed boolean;
begin
  if v_jobs = 1 then
    return ((awa._close_single(job_ids[1], receipts[1], 'completed', keyless => true)).segment is not null)::int;
  elsif receipts[1] < 9000000000000000000 is not true then -- so that the numbers below do not overflow
    return 0;
  end if;
  select r.current_segment, receipts = array(select generate_series(receipts[1], receipts[1] + v_jobs - 1))
    into v_newest, v_is_run
    from awa.ring r;
  if not v_is_run and receipts <> array(select distinct r from unnest(receipts) r order by r) then
    return null;
  elsif v_jobs > awa._max_locks() and (receipts[v_jobs] >> 12) - (receipts[1] >> 12) >= awa._max_locks()
    and (select count(distinct r >> 12) from unnest(receipts) r) > awa._max_locks()
  then
    return 0;
  end if;
  while v_to < v_jobs loop
    exit when not pg_try_advisory_xact_lock(awa._claim_key(receipts[v_to + 1] >> 12));
    v_to := width_bucket(receipts[v_to + 1] | 4095, receipts);
    v_ends := v_ends || v_to;
  end loop;
  if awa._is_crowded() then
    return 0;
  end if;
  foreach v_to in array v_ends loop
    for v_back in 0..3 loop -- most often it is in the current one
      v_is_closed := awa._close_batch((v_newest + 4 - v_back) % 4, job_ids[v_at : v_to], receipts[v_at : v_to]);
      exit when v_is_closed is not null;
    end loop;
    exit when v_is_closed is not true;
    v_at := v_to + 1;
  end loop;
  return v_at - 1;
end
$$;
comment on function awa._close_batches is
  'Closes attempts, from the first on, in one row for each claim, up to one that is not open or not free';

-- Closes one attempt as _close does, where it is open in the ledger.
-- keyless: and its claim holds no unique keys. looks_up: as _close does.
-- Returns the segment in which it has closed it, or null; and the attempt, where it has looked it up.
-- Raises 55P03 as _close does.
create or replace function awa._close_single(
  job_id bigint,
  receipt bigint,
  outcome text,
  keyless boolean default false,
  looks_up boolean default false,
  out segment smallint,
  out attempts awa.leases[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_begun record := awa._begin_close();
  v_item record := awa._close_item(job_id, receipt, outcome, keyless => keyless, looks_up => looks_up,
    newest => v_begun.newest);
begin
  v_begun.wait := set_config('lock_timeout', v_begun.wait, true);
  segment := v_item.segment;
  if looks_up and segment is not null then
    attempts := coalesce(v_item.attempts, awa._look_up(array[receipt], segment));
  end if;
end
$$;
comment on function awa._close_single is 'Closes one attempt as _close does, where it is open in the ledger';

-- Closes attempts of one claim, which the caller has locked, where all of them are open in the ledger.
-- Returns whether it has, or null where the claim is not in this segment. The receipts are in ascending order. It
-- closes none of a claim with unique keys.
-- Raises 55P03 as _close_batches does.
-- Why: one row has all items. A claim of one job can be closed without its lock, so its row is that of its item. Each
-- statement names the tables of its segment, as in _close_item.
create or replace function awa._close_batch(segment int, job_ids bigint[], receipts bigint[]) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_batch record;
  v_items smallint[];
  v_row int;
  v_wait text;
  v_is_closed boolean;
begin
  case segment
    when 0 then select b.* into v_batch from awa._batch_in(0::smallint, job_ids, receipts) b;
    when 1 then select b.* into v_batch from awa._batch_in(1::smallint, job_ids, receipts) b;
    when 2 then select b.* into v_batch from awa._batch_in(2::smallint, job_ids, receipts) b;
    when 3 then select b.* into v_batch from awa._batch_in(3::smallint, job_ids, receipts) b;
  end case;
  if v_batch.size is null then
    return null;
  elsif not v_batch.fits or v_batch.first_row is not null and awa._is_any_closed(segment, receipts) then
    return false;
  elsif v_batch.size > 1 then
    v_row := awa._next_batch(v_batch.first_row);
    v_items := v_batch.items;
  else
    v_row := 0;
    v_wait := awa._shorten_waits();
  end if;
  v_is_closed := awa._append_closure(segment::smallint, receipts[1] >> 12, v_row, v_items, 'completed');
  if v_wait is not null then
    v_wait := set_config('lock_timeout', v_wait, true);
  end if;
  if v_is_closed and (v_batch.groups is not null or v_batch.holds_queue) then
    perform awa._free_slots(v_batch.shard, array(
        select g.group_id
          from unnest(v_batch.groups) with ordinality g(group_id, ordinal) -- with nulls, an item is far to look up
         where g.group_id is not null
           and (g.ordinal in (select (r & 4095) + 1 from unnest(receipts) r)) is true -- hashed
      ),
      case when v_batch.holds_queue then cardinality(receipts) else 0 end);
  end if;
  return v_is_closed;
end
$$;
comment on function awa._close_batch is
  'Closes attempts of one claim, which the caller has locked, where all of them are open in the ledger';

-- The claim of some attempts in a segment: how many jobs it has, whether the attempts fit it, and its closures.
-- They fit where they are of these jobs, and the claim holds no unique keys. Also returns their items, and the lowest
-- number of the closures that there are. The receipts are in ascending order.
-- Why: a constant for the segment leaves the other ones out of the plan. Arrays are compared at a time.
create or replace function awa._batch_in(
  segment smallint,
  job_ids bigint[],
  receipts bigint[],
  out size int,
  out fits boolean,
  out items smallint[],
  out first_row int,
  out shard bigint,
  out groups bigint[],
  out holds_queue boolean
) returns setof record
language sql stable
as $$
  select cardinality(c.job_ids), not c.holds_keys and _batch_in.job_ids = case
           when receipts[cardinality(receipts)] - receipts[1] = cardinality(receipts) - 1
             then c.job_ids[(receipts[1] & 4095) + 1 : (receipts[cardinality(receipts)] & 4095) + 1]
           else array(select c.job_ids[(r & 4095) + 1] from unnest(receipts) r)
         end,
         array(select (r & 4095)::smallint from unnest(receipts) r), (
           select k.item
             from awa.lease_claim_closures k
            where k.segment = _batch_in.segment and k.claim_id = receipts[1] >> 12
            order by k.claim_id, k.item
            limit 1
         ),
         awa._shard_of(c.lane), c.groups, c.holds_queue
    from awa.lease_claims c
   where c.segment = _batch_in.segment and c.claim_id = receipts[1] >> 12
$$;
comment on function awa._batch_in is
  'The claim of some attempts in a segment: how many jobs it has, whether the attempts fit it, and its closures';

-- Whether any of some attempts of one claim is closed in the ledger.
create or replace function awa._is_any_closed(segment int, receipts bigint[]) returns boolean
language plpgsql
as $$
begin
  case segment -- a statement for each: one of all four would lock the tables of all
    when 0 then return exists (select from awa._closed_in(0::smallint, receipts));
    when 1 then return exists (select from awa._closed_in(1::smallint, receipts));
    when 2 then return exists (select from awa._closed_in(2::smallint, receipts));
    when 3 then return exists (select from awa._closed_in(3::smallint, receipts));
  end case;
end
$$;
comment on function awa._is_any_closed is 'Whether any of some attempts of one claim is closed in the ledger';

-- One of some attempts of one claim that is closed in a segment; none where all are open there.
-- Why: as _batch_in.
create or replace function awa._closed_in(segment smallint, receipts bigint[]) returns setof bigint
language sql stable
as $$
  select k.claim_id << 12 | i
    from awa.lease_claim_closures k
   cross join unnest(coalesce(k.items, array[k.item])) i
   where k.segment = _closed_in.segment and k.claim_id = receipts[1] >> 12
     and (k.claim_id << 12 | i in (select unnest(receipts))) is true -- hashed, and not a join of all with all
   limit 1
$$;
comment on function awa._closed_in is
  'One of some attempts of one claim that is closed in a segment; none where all are open there';

-- The jobs whose answers were not taken; closed has the ordinals of those that were.
create or replace function awa._stale(job_ids bigint[], receipts bigint[], closed bigint[]) returns setof bigint
language plpgsql
as $$
begin
  if cardinality(closed) < cardinality(receipts) then
    return query
      select a.job_id
        from unnest(job_ids, receipts) with ordinality a(job_id, receipt, ordinal)
       where (a.job_id, a.receipt) not in (select job_ids[p], receipts[p] from unnest(closed) p)
       order by a.ordinal;
  end if;
end
$$;
comment on function awa._stale is 'The jobs whose answers were not taken; closed has the ordinals of those that were';
