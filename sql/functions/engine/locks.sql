-- The keys of all advisory locks, and waiting for them. A transaction takes them in this order: pass, worker, number of
-- shards, rollups, shards of queues by their ids, claims by their ids. Those of a pass, of a look at a depth and of a
-- transaction that notifies are only tried, and so is that of a number of shards by a session that changes the number.
-- A claim that holds a shard only tries others, or waits for some milliseconds.

-- The key of the advisory lock on a shard of a queue.
create or replace function awa._shard_key(shard bigint) returns bigint
language sql immutable strict parallel safe
return - shard;
comment on function awa._shard_key is 'The key of the advisory lock on a shard of a queue';

-- The key of the advisory lock on the first shard of a queue.
-- The 63 keys below are those of its other shards. Claim locks have keys below all of these.
create or replace function awa._queue_key(queue_id bigint) returns bigint
language sql immutable strict parallel safe
return - (queue_id << 6);
comment on function awa._queue_key is 'The key of the advisory lock on the first shard of a queue';

-- The key of the advisory lock on a worker: between those of claims and those of queues.
create or replace function awa._worker_key(worker_id bigint) returns bigint
language sql immutable strict parallel safe
return worker_id # -2305843009213693952; -- not a difference, which could overflow
comment on function awa._worker_key is
  'The key of the advisory lock on a worker: between those of claims and those of queues';

-- The key of the advisory lock on the number of shards of a queue: between those of claims and those of workers.
create or replace function awa._shards_key(queue_id bigint) returns bigint
language sql immutable strict parallel safe
return queue_id - 3458764513820540928;
comment on function awa._shards_key is
  'The key of the advisory lock on the number of shards of a queue: between those of claims and those of workers';

-- The key of the advisory lock of sessions that hold very many numbers of shards: below those of the numbers.
create or replace function awa._many_shards_key() returns bigint
language sql immutable parallel safe
return awa._shards_key(-1);
comment on function awa._many_shards_key is
  'The key of the advisory lock of sessions that hold very many numbers of shards: below those of the numbers';

-- The key of the advisory lock on a look at the depth of a queue.
create or replace function awa._look_key(queue_id bigint) returns bigint
language sql immutable strict parallel safe
return awa._shards_key(queue_id) + 36028797018963968;
comment on function awa._look_key is 'The key of the advisory lock on a look at the depth of a queue';

-- The key of the advisory lock on a claim: below all keys of queues.
create or replace function awa._claim_key(claim_id bigint) returns bigint
language sql immutable strict parallel safe
return claim_id - 4611686018427387904;
comment on function awa._claim_key is 'The key of the advisory lock on a claim: below all keys of queues';

-- The key of the advisory lock of sessions that answer for very many claims: below those of claims.
create or replace function awa._crowd_key() returns bigint
language sql immutable parallel safe
return awa._claim_key(-2);
comment on function awa._crowd_key is
  'The key of the advisory lock of sessions that answer for very many claims: below those of claims';

-- The key of the advisory lock on queue_rollups: below those of claims.
create or replace function awa._fold_key() returns bigint
language sql immutable parallel safe
as $$ select awa._claim_key(-1) $$;
comment on function awa._fold_key is 'The key of the advisory lock on queue_rollups: below those of claims';

-- The key of the advisory lock on a pass of maintenance, by its position in the list: below that of the crowd.
create or replace function awa._pass_key(pass text) returns bigint
language sql immutable strict parallel safe
as $$ select awa._claim_key(-2) - array_position(awa._passes(), pass) $$;
comment on function awa._pass_key is
  'The key of the advisory lock on a pass of maintenance, by its position in the list: below that of the crowd';

-- The key of the advisory lock of a transaction that notifies: below those of passes.
-- It is only tried.
create or replace function awa._notifier_key() returns bigint
language sql immutable parallel safe
return awa._claim_key(-1000);
comment on function awa._notifier_key is
  'The key of the advisory lock of a transaction that notifies: below those of passes';

-- How many claims, or queues, one call locks.
-- Why: PostgreSQL's lock table has room for so many, by default, for each connection.
create or replace function awa._max_locks() returns int
language sql immutable parallel safe
return 64;
comment on function awa._max_locks is 'How many claims, or queues, one call locks';

-- Waits for an advisory lock that the caller has just tried in vain, and takes it until the transaction ends.
-- Waits for claim_wait at most, or for the caller's lock_timeout where that is shorter.
-- Raises 55P03 with this message, and names the holder.
create or replace function awa._wait_for_lock(key bigint, shared boolean, message text, hint text) returns void
language plpgsql
as $$
declare
  v_wait interval := awa._wait();
begin
  if not awa._lock_within(key, shared, v_wait) then
    perform awa._refuse_lock(array[key], v_wait, message, hint);
  end if;
end
$$;
comment on function awa._wait_for_lock is
  'Waits for an advisory lock that the caller has just tried in vain, and takes it until the transaction ends';

-- How long the caller waits for a lock: claim_wait, or its lock_timeout where that is shorter.
create or replace function awa._wait() returns interval
language plpgsql stable
as $$
begin
  return least((awa._settings()).claim_wait, nullif(current_setting('lock_timeout')::interval, '0'));
end
$$;
comment on function awa._wait is
  'How long the caller waits for a lock: claim_wait, or its lock_timeout where that is shorter';

-- Waits for an advisory lock for so long at most; returns whether the transaction holds it.
-- Why: only here is a subtransaction, and a change of lock_timeout, which is as before when this returns.
create or replace function awa._lock_within(key bigint, shared boolean, wait interval) returns boolean
language plpgsql
as $$
declare
  v_before text := current_setting('lock_timeout');
begin
  begin
    perform set_config('lock_timeout', awa._milliseconds(greatest(wait, '1 millisecond')), true);
    if shared then
      perform pg_advisory_xact_lock_shared(key);
    else
      perform pg_advisory_xact_lock(key);
    end if;
  exception when lock_not_available then
    return false; -- with lock_timeout as before
  end;
  perform set_config('lock_timeout', v_before, true);
  return true;
end
$$;
comment on function awa._lock_within is
  'Waits for an advisory lock for so long at most; returns whether the transaction holds it';

-- Raises 55P03 with this message, and names the holders of advisory locks that were waited for so long.
create or replace function awa._refuse_lock(keys bigint[], waited interval, message text, hint text) returns void
language plpgsql
as $$
declare
  v_holders text;
begin
  select string_agg(distinct coalesce(awa._backend(l.pid), 'a prepared transaction'), ', ') into v_holders
    from pg_locks l
   where l.locktype = 'advisory' and l.granted and l.objsubid = 1
     and l.database = (select d.oid from pg_database d where d.datname = current_database())
     and l.classid::bigint << 32 | l.objid::bigint = any(keys);
  raise exception using errcode = '55P03', message = message,
    detail = format('Waited %s for %s.', waited, coalesce(v_holders, 'a backend that has just let go')), hint = hint;
end
$$;
comment on function awa._refuse_lock is
  'Raises 55P03 with this message, and names the holders of advisory locks that were waited for so long';

-- Waits for the lock of a shard for so long at most; returns whether the transaction holds it.
create or replace function awa._lock_shard_within(shard bigint, wait interval) returns boolean
language plpgsql
as $$
begin
  return awa._lock_within(awa._shard_key(shard), false, wait);
end
$$;
comment on function awa._lock_shard_within is
  'Waits for the lock of a shard for so long at most; returns whether the transaction holds it';

-- Raises 55P03, and names the holders of shards that were waited for so long.
create or replace function awa._refuse_shards(shards bigint[], waited interval) returns void
language plpgsql
as $$
begin
  perform awa._refuse_lock(array(select awa._shard_key(s) from unnest(shards) s), waited,
    'the queue is locked by another session',
    'A claim holds the queue until its transaction ends and its result is sent: claim in a transaction of its own, '
    'and read the answer. Where the holder is no claim: pg_terminate_backend.');
end
$$;
comment on function awa._refuse_shards is 'Raises 55P03, and names the holders of shards that were waited for so long';

-- Takes the locks of shards, in this order, until the transaction ends.
-- Waits as _wait_for_lock does, so long for all of them together.
-- Raises 55P03, and names the holder.
create or replace function awa._lock_each_shard(shards bigint[]) returns void
language plpgsql
as $$
declare
  v_wait interval := awa._wait();
  v_end timestamptz := clock_timestamp() + v_wait;
  v_shard bigint;
begin
  foreach v_shard in array shards loop
    if not pg_try_advisory_xact_lock(awa._shard_key(v_shard))
      and not awa._lock_shard_within(v_shard, v_end - clock_timestamp())
    then
      perform awa._refuse_shards(array[v_shard], v_wait);
    end if;
  end loop;
end
$$;
comment on function awa._lock_each_shard is 'Takes the locks of shards, in this order, until the transaction ends';

-- Takes the lock of a shard until the transaction ends.
-- Waits as _wait_for_lock does.
-- Raises 55P03, and names the holder.
create or replace function awa._lock_shard(shard bigint) returns void
language plpgsql
as $$
begin
  perform awa._lock_each_shard(array[shard]);
end
$$;
comment on function awa._lock_shard is 'Takes the lock of a shard until the transaction ends';

-- Takes the locks of all shards that a queue can have until the transaction ends.
-- Waits as _wait_for_lock does, so long for all of them together.
-- Raises 55P03, and names the holder.
create or replace function awa._lock_queue(queue_id bigint) returns void
language plpgsql
as $$
begin
  perform awa._lock_each_shard(array(select queue_id << 6 | s from generate_series(0, 63) s));
end
$$;
comment on function awa._lock_queue is 'Takes the locks of all shards that a queue can have until the transaction ends';

-- Takes the lock of a worker until the transaction ends.
-- Shared for a claim of the worker; exclusively to end the worker or to release its attempts, after its claims in
-- progress.
-- Raises 55P03, and names the holder.
create or replace function awa._lock_worker(worker_id bigint, shared boolean) returns void
language plpgsql
as $$
declare
  v_key bigint := awa._worker_key(worker_id);
begin
  if not (case when shared then pg_try_advisory_xact_lock_shared(v_key) else pg_try_advisory_xact_lock(v_key) end) then
    perform awa._wait_for_lock(v_key, shared, 'the worker is locked by another session',
      'A claim, and a call that ends the worker, hold it until their transaction ends: let that end, and try again.');
  end if;
end
$$;
comment on function awa._lock_worker is 'Takes the lock of a worker until the transaction ends';

-- Locks the row of a worker, where there is one, until the transaction ends.
-- Waits for claim_wait at most, or for the caller's lock_timeout where that is shorter.
-- Raises 55P03, and names the holder.
create or replace function awa._lock_worker_row(worker_id bigint) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_before text := current_setting('lock_timeout');
  v_wait interval;
begin
  perform from awa.workers w where w.worker_id = worker_id for no key update skip locked;
  if found or not exists (select from awa.workers w where w.worker_id = worker_id) then
    return;
  end if;
  v_wait := awa._wait();
  perform set_config('lock_timeout', awa._milliseconds(v_wait), true);
  begin
    perform from awa.workers w where w.worker_id = worker_id for no key update;
  exception when lock_not_available then
    raise exception using errcode = '55P03', message = 'the worker is locked by another session',
      detail = format('Waited %s for %s.', v_wait, coalesce(
        (select r.holder from awa._locked_workers r where r.worker_id = worker_id), 'a backend that has just let go')),
      hint = 'A heartbeat, and a call that ends the worker, hold its row until their transaction ends: send heartbeats '
        'in transactions of their own. Let that transaction end, and try again.';
  end;
  perform set_config('lock_timeout', v_before, true);
end
$$;
comment on function awa._lock_worker_row is 'Locks the row of a worker, where there is one, until the transaction ends';

-- Takes the lock of sessions that answer for more claims than they have locks for, shared.
-- Until the transaction ends.
-- Raises 55P03, and names the holder.
create or replace function awa._lock_crowd() returns void
language plpgsql
as $$
begin
  if not pg_try_advisory_xact_lock_shared(awa._crowd_key()) then
    perform awa._wait_for_lock(awa._crowd_key(), true, 'answers for very many claims are locked by another session',
      'Let that session end its transaction, or answer for at most 64 claims in one call.');
  end if;
end
$$;
comment on function awa._lock_crowd is
  'Takes the lock of sessions that answer for more claims than they have locks for, shared';

-- Keeps batch rows off a claim until the transaction ends, so that its items can be closed by rows of their own.
-- Waits for a batch row that is not committed, and lets none come. Other items stay free for others.
-- Locks: as _try_join_claim.
-- Raises 55P03, and names the holder.
create or replace function awa._join_claim(claim_id bigint, nth int default 1) returns void
language plpgsql
as $$
begin
  if not awa._try_join_claim(claim_id, nth) then
    perform awa._wait_for_lock(awa._claim_key(claim_id), true, 'the claim is locked by another session',
      'A session is answering for its jobs, or cancelling one of them, in a transaction that lasts: let that end, and '
      'try again.');
  end if;
end
$$;
comment on function awa._join_claim is
  'Keeps batch rows off a claim until the transaction ends, so that its items can be closed by rows of their own';

-- Keeps batch rows off a claim as _join_claim does, or returns false where it would have to wait.
-- Locks: the claim, shared. For the nth claim of a call, when that is too many for the server's lock table, one lock
-- for all of them: a writer of batch rows looks for it once it holds its claims. Then the claim's own lock only has to
-- be free for a moment, once the other one is held.
-- Raises 55P03 where it waits for the lock of all.
create or replace function awa._try_join_claim(claim_id bigint, nth int) returns boolean
language plpgsql
as $$
begin
  if nth <= awa._max_locks() then
    return pg_try_advisory_xact_lock_shared(awa._claim_key(claim_id));
  end if;
  perform awa._lock_crowd();
  -- Nothing can interrupt a single expression: a lock of the session would outlast an error.
  return case
    when pg_try_advisory_lock_shared(awa._claim_key(claim_id)) then pg_advisory_unlock_shared(awa._claim_key(claim_id))
    else false
  end;
end
$$;
comment on function awa._try_join_claim is
  'Keeps batch rows off a claim as _join_claim does, or returns false where it would have to wait';

-- Keeps other sessions off a claim until the transaction ends, as far as they hold its lock.
-- For the nth claim of a call, when that is too many for the server's lock table, only batch rows (see
-- _try_join_claim).
-- Returns false where another session is answering for it, or holds the lock of all.
-- Locks: the claim, or the lock of all, shared.
create or replace function awa._try_take_claim(claim_id bigint, nth int) returns boolean
language plpgsql
as $$
begin
  if nth <= awa._max_locks() then
    return pg_try_advisory_xact_lock(awa._claim_key(claim_id));
  end if;
  return case
    when not pg_try_advisory_xact_lock_shared(awa._crowd_key()) then false
    when pg_try_advisory_lock(awa._claim_key(claim_id)) then pg_advisory_unlock(awa._claim_key(claim_id))
    else false
  end;
end
$$;
comment on function awa._try_take_claim is
  'Keeps other sessions off a claim until the transaction ends, as far as they hold its lock';

-- Whether another transaction answers for more claims than it has locks for.
-- The lock is taken and given back in one expression. The planner puts it in the place of the call.
create or replace function awa._is_crowded() returns boolean
language sql
as $$
  select case
    when pg_try_advisory_lock(awa._crowd_key()) then not pg_advisory_unlock(awa._crowd_key())
    else awa._stays_crowded()
  end
$$;
comment on function awa._is_crowded is 'Whether another transaction answers for more claims than it has locks for';

-- Whether four more looks find the lock of very many claims taken.
-- Why: another session that only looks has it for a moment, and is to be told from one that keeps it.
create or replace function awa._stays_crowded() returns boolean
language plpgsql
as $$
begin
  for v_look in 1..4 loop
    if (case when pg_try_advisory_lock(awa._crowd_key()) then pg_advisory_unlock(awa._crowd_key()) else false end) then
      return false;
    end if;
  end loop;
  return true;
end
$$;
comment on function awa._stays_crowded is 'Whether four more looks find the lock of very many claims taken';

-- Locks the claims of some receipts, in ascending order; returns the claims whose items need a row each.
-- These are claims of one job, which need no lock, claims that another session is answering for, and claims that are
-- too many for a lock each. Where any session has answered for too many, all items get a row each. Also returns whether
-- any claim holds a unique key.
-- Locks: these claims, and shared those that another session is answering for, until the transaction ends.
-- Raises 55P03, and names the holder.
create or replace function awa._lock_claims(receipts bigint[], out by_item bigint[], out holds_keys boolean)
language plpgsql
as $$
declare
  v_claims record;
  v_claim record;
  v_locks int := 0;
  v_batched bigint[] := '{}';
begin
  by_item := '{}';
  begin
    select array_agg(c.claim_id order by c.claim_id) as ids, array_agg(c.size order by c.claim_id) as sizes,
           bool_or(c.holds_keys) as hold_keys
      into v_claims
      from (select distinct r >> 12 as claim_id from unnest(receipts) r) a
     cross join lateral (
        select c.claim_id, cardinality(c.job_ids) as size, c.holds_keys
          from awa.lease_claims c
         where c.claim_id = a.claim_id
         limit 1
      ) c;
    raise sqlstate 'JQ999'; -- see _look_up
  exception when sqlstate 'JQ999' then
    holds_keys := coalesce(v_claims.hold_keys, false);
  end;
  for v_claim in select c.claim_id, c.size from unnest(v_claims.ids, v_claims.sizes) c(claim_id, size) loop
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
comment on function awa._lock_claims is
  'Locks the claims of some receipts, in ascending order; returns the claims whose items need a row each';

-- Takes advisory locks in their order, and waits so long at most, for all of them together.
-- Raises 55P03.
create or replace function awa._lock_for(keys bigint[], wait interval) returns void
language plpgsql
as $$
declare
  v_end timestamptz := clock_timestamp() + wait;
  v_key bigint;
begin
  foreach v_key in array keys loop
    if not pg_try_advisory_xact_lock(v_key) then
      perform set_config('lock_timeout', awa._milliseconds(greatest(v_end - clock_timestamp(), '1 millisecond')), true);
      perform pg_advisory_xact_lock(v_key);
    end if;
  end loop;
  perform set_config('lock_timeout', '0', true); -- the next write may have to wait for a page
end
$$;
comment on function awa._lock_for is
  'Takes advisory locks in their order, and waits so long at most, for all of them together';

-- Bounds all later waits for locks of this transaction as those of a claim.
-- The calling function has to have a SET clause for lock_timeout.
create or replace function awa._bound_waits() returns void
language sql
as $$ select set_config('lock_timeout', awa._milliseconds(s.claim_wait), true) from awa._settings() s $$;
comment on function awa._bound_waits is 'Bounds all later waits for locks of this transaction as those of a claim';

-- Bounds the waits for locks that follow by claim_wait, or by the caller's lock_timeout where that is shorter.
-- Returns lock_timeout as it was: the caller sets it again when it has its lock. It does so in an assignment, which
-- costs less than a statement.
create or replace function awa._shorten_waits() returns text
language plpgsql
as $$
declare
  v_before text := current_setting('lock_timeout');
begin
  perform set_config('lock_timeout', awa._shorter_wait(s.claim_wait, v_before), true) from awa.settings s;
  return v_before;
end
$$;
comment on function awa._shorten_waits is
  'Bounds the waits for locks that follow by claim_wait, or by the caller''s lock_timeout where that is shorter';

-- Has the server end this session when it stays idle in this transaction for a second.
-- Why: where a transaction decides before its end (set constraints all immediate), it holds the queues from then on,
-- and must not be left open.
create or replace function awa._end_when_idle() returns void
language plpgsql
as $$
begin
  if current_setting('idle_in_transaction_session_timeout')::interval not between '1 millisecond' and '1 second' then
    perform set_config('idle_in_transaction_session_timeout', '1s', true);
  end if;
end
$$;
comment on function awa._end_when_idle is
  'Has the server end this session when it stays idle in this transaction for a second';
