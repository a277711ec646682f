-- Closing attempts, and leaving those alone that other sessions are answering for: maintenance does, and so do calls
-- that end many attempts.

-- Closes open items for maintenance, but for those that are being answered for; returns their receipts.
-- At most max_jobs, the oldest claims first. It only tries the claims, and goes on where it can't have one. Where
-- single forms are answering for some items of a claim, it takes the others, one by one, waiting for milliseconds each:
-- a transaction that answers for one job, and lasts, must not keep the others of its claim. For claims of a single job,
-- answers by a _many form hold no lock to try: there it waits for milliseconds, too. Changes lock_timeout for that: the
-- calling function has to have a SET clause for it. claims: how many the caller has taken before, in the same call.
-- Locks: the claims, where it can have them at once, or shared for some of them, until the transaction ends.
create or replace function awa._take_open(
  receipts bigint[],
  max_jobs int,
  outcome text,
  claims int default 0
) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_claim record;
  v_claims int := claims;
  v_lock_timeout text := current_setting('lock_timeout');
  v_mine bigint[] := '{}';
  v_one_by_one bigint[] := '{}';
  v_taken bigint[] := '{}';
  v_receipt bigint;
begin
  for v_claim in
    select r >> 12 as claim_id, array_agg(r order by r) as receipts from unnest(receipts) r group by 1 order by 1
  loop
    exit when cardinality(v_mine) >= max_jobs;
    v_claims := v_claims + 1;
    if awa._try_take_claim(v_claim.claim_id, v_claims) then
      v_mine := v_mine || v_claim.receipts[1:max_jobs - cardinality(v_mine)];
    elsif v_claims <= awa._max_locks() and awa._try_join_claim(v_claim.claim_id, v_claims) then
      v_one_by_one := v_one_by_one || v_claim.receipts;
    end if;
  end loop;
  perform set_config('lock_timeout', '50', true) where v_lock_timeout <> '1ms'; -- the caller goes one by one
  begin
    v_taken := awa._take_items(v_mine, outcome);
  exception when lock_not_available then
    v_one_by_one := v_mine || v_one_by_one;
  end;
  perform set_config('lock_timeout', '1', true);
  foreach v_receipt in array v_one_by_one loop
    exit when cardinality(v_taken) >= max_jobs;
    begin
      v_taken := v_taken || awa._take_items(array[v_receipt], outcome);
    exception when lock_not_available then
      null;
    end;
  end loop;
  perform set_config('lock_timeout', v_lock_timeout, true);
  return v_taken;
end
$$;
comment on function awa._take_open is
  'Closes open items for maintenance, but for those that are being answered for; returns their receipts';

-- Closes items by a row each; returns the receipts of those that were open.
-- begun: they are attempts; otherwise they hold no slots.
create or replace function awa._take_items(receipts bigint[], outcome text, begun boolean default true)
returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_now timestamptz := clock_timestamp();
  v_closures awa.lease_claim_closures[];
  v_hold_slots boolean;
  v_taken bigint[];
begin
  select array_agg((c.claim_id, v_now, c.segment, i.item, outcome, null)::awa.lease_claim_closures),
         bool_or(c.groups is not null or c.holds_queue)
    into v_closures, v_hold_slots
    from (select r >> 12 as claim_id, array_agg(r & 4095) as items from unnest(receipts) r group by 1) a
   cross join lateral (
      select c.claim_id, c.segment, c.groups, c.holds_queue
        from awa.lease_claims c
       where c.claim_id = a.claim_id
       limit 1
    ) c
   cross join lateral (
      select array(
        select unnest(k.items) from awa.lease_claim_closures k where k.claim_id = c.claim_id and k.item < 0
      ) as items
      offset 0
    ) closed
   cross join lateral unnest(a.items) i(item)
   where i.item <> all(closed.items);
  v_taken := array(select k.claim_id << 12 | k.item from awa._append_closures(v_closures) k);
  if begun and v_hold_slots and v_taken <> '{}' and outcome <> 'materialized' then
    perform awa._free_slots_of(v_taken);
  end if;
  return v_taken;
end
$$;
comment on function awa._take_items is 'Closes items by a row each; returns the receipts of those that were open';

-- Joins the claims of some receipts, in ascending order, but for those of which another session answers for many.
-- Returns the claims that it has joined.
-- Locks: as _join_claim, but it waits for none of them.
create or replace function awa._join_free_claims(receipts bigint[]) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_claim_id bigint;
  v_nth int := 0;
  v_joined bigint[] := '{}';
begin
  for v_claim_id in select distinct r >> 12 as claim_id from unnest(receipts) r order by 1 loop
    v_nth := v_nth + 1;
    if awa._try_join_claim(v_claim_id, v_nth) then
      v_joined := v_joined || v_claim_id;
    end if;
  end loop;
  return v_joined;
end
$$;
comment on function awa._join_free_claims is
  'Joins the claims of some receipts, in ascending order, but for those of which another session answers for many';
