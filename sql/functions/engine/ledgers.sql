-- The writers of the two ledgers: claims, of which the newest is its lane's cursor, and closures.

-- Appends a claim, which is its lane's cursor from then on; returns its id.
-- With the unique keys of its jobs, where it holds any, and the items that have expired, where any have, of which those
-- in the claim are cancelled. With any of these it holds no slots of the queue: no attempt begins beside them where it
-- would (see is_pure of _fitting). began_at: when the call began, where that was with another shard.
-- Why: each statement names the table of its segment, so that no other segment has to be looked up, or locked.
create or replace function awa._append_claim(
  claim awa.lease_claims,
  keys bytea[] default null,
  expired bigint[] default null,
  began_at timestamptz default null
) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
begin
  if expired is not null then
    expired := array(select i from unnest(expired) i where i < cardinality(claim.job_ids));
    claim.holds_queue := claim.holds_queue and expired = '{}';
  end if;
  case claim.segment
    when 0 then insert into awa.lease_claims_0 values (claim.*);
    when 1 then insert into awa.lease_claims_1 values (claim.*);
    when 2 then insert into awa.lease_claims_2 values (claim.*);
    when 3 then insert into awa.lease_claims_3 values (claim.*);
  end case;
  if keys is not null then
    perform awa._change_state(array_agg(k.job_id), array_agg(claim.lane), array_agg(k.key), 'available', 'running')
       from unnest(claim.job_ids, keys) k(job_id, key)
      where k.key is not null;
  end if;
  if expired <> '{}' then
    perform awa._expire_claimed(array(select claim.claim_id << 12 | i from unnest(expired) i),
      coalesce(began_at, claim.claimed_at));
  end if;
  return claim.claim_id;
end
$$;
comment on function awa._append_claim is 'Appends a claim, which is its lane''s cursor from then on; returns its id';

-- Moves the cursor of a lane, by a claim of no jobs; returns the claim's number in its lane.
-- To a place in the window that ends at hi, or, without lo, to the end of that window. The caller has locked the shard.
create or replace function awa._move_cursor(
  segment smallint,
  lane bigint,
  lane_seq bigint,
  hi pg_snapshot,
  lo pg_snapshot default null,
  xid xid8 default '0',
  job_id bigint default 0
) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
begin
  perform awa._append_claim(
    awa._claim_of_no_jobs(nextval('awa.claim_ids'), segment, lane, lane_seq, hi, lo, xid, job_id));
  return lane_seq;
end
$$;
comment on function awa._move_cursor is
  'Moves the cursor of a lane, by a claim of no jobs; returns the claim''s number in its lane';

-- A claim of no jobs, as a value.
create or replace function awa._claim_of_no_jobs(
  claim_id bigint,
  segment smallint,
  lane bigint,
  lane_seq bigint,
  hi pg_snapshot,
  lo pg_snapshot default null,
  xid xid8 default '0',
  job_id bigint default 0
) returns awa.lease_claims
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_claim awa.lease_claims;
begin
  v_claim.claim_id := claim_id;
  v_claim.segment := segment;
  v_claim.lane := lane;
  v_claim.lane_seq := lane_seq;
  v_claim.first_xid := xid;
  v_claim.first_id := job_id;
  v_claim.pos_xid := xid;
  v_claim.pos_id := job_id;
  v_claim.claimed_at := clock_timestamp();
  v_claim.lease_until := v_claim.claimed_at;
  v_claim.bytes := 0;
  v_claim.holds_keys := false;
  v_claim.hi := hi;
  v_claim.lo := lo;
  v_claim.job_ids := '{}';
  v_claim.holds_queue := false;
  return v_claim;
end
$$;
comment on function awa._claim_of_no_jobs is 'A claim of no jobs, as a value';

-- Raises 40001 where a claim exists that the snapshot does not see: its receipt is not stale.
-- A row with its number collides with it, which raises 40001 in PostgreSQL. Where there is none, the row is removed at
-- once. It is of lane 0, which no queue has.
create or replace function awa._check_snapshot(claim_id bigint) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.lease_claims
  select c.*
    from generate_series(0, 3) s
   cross join lateral awa._claim_of_no_jobs(claim_id, s::smallint, 0, -claim_id, '3:3:') c
  on conflict do nothing;
  raise exception using errcode = 'JQ001';
exception when sqlstate 'JQ001' then
  null;
end
$$;
comment on function awa._check_snapshot is
  'Raises 40001 where a claim exists that the snapshot does not see: its receipt is not stale';

-- Appends a closure; returns whether it has, or else its number in its claim is taken.
-- Its number is that of the item that it closes; or that of a batch row (see _next_batch), which closes items.
-- Locks: waits for a transaction that has appended one of this number.
-- Raises 40001 at REPEATABLE READ and above, where the snapshot does not see the other one.
-- Why: each statement names the table of its segment.
create or replace function awa._append_closure(
  segment smallint,
  claim_id bigint,
  number int,
  items smallint[],
  outcome text
) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
begin
  case segment
    when 0 then
      insert into awa.lease_claim_closures_0 (claim_id, closed_at, segment, item, outcome, items)
      values (claim_id, clock_timestamp(), segment, number, outcome, items)
      on conflict do nothing;
    when 1 then
      insert into awa.lease_claim_closures_1 (claim_id, closed_at, segment, item, outcome, items)
      values (claim_id, clock_timestamp(), segment, number, outcome, items)
      on conflict do nothing;
    when 2 then
      insert into awa.lease_claim_closures_2 (claim_id, closed_at, segment, item, outcome, items)
      values (claim_id, clock_timestamp(), segment, number, outcome, items)
      on conflict do nothing;
    when 3 then
      insert into awa.lease_claim_closures_3 (claim_id, closed_at, segment, item, outcome, items)
      values (claim_id, clock_timestamp(), segment, number, outcome, items)
      on conflict do nothing;
  end case;
  return found;
end
$$;
comment on function awa._append_closure is
  'Appends a closure; returns whether it has, or else its number in its claim is taken';

-- Appends closures, in the order of their claims and numbers; returns those whose numbers were not taken.
-- Locks: waits for transactions that have appended one of the same number.
create or replace function awa._append_closures(
  closures awa.lease_claim_closures[]
) returns setof awa.lease_claim_closures
language plpgsql
as $$
begin
  return query
    insert into awa.lease_claim_closures select k.* from unnest(closures) k order by k.claim_id, k.item
    on conflict do nothing
    returning *;
end
$$;
comment on function awa._append_closures is
  'Appends closures, in the order of their claims and numbers; returns those whose numbers were not taken';

-- The number of a claim's next batch row, after the lowest number that its closures have.
-- That is -1, -2, and so on. Without a closure, the lowest one is null.
create or replace function awa._next_batch(lowest int) returns int
language sql immutable parallel safe
return least(lowest, 0) - 1;
comment on function awa._next_batch is
  'The number of a claim''s next batch row, after the lowest number that its closures have';
