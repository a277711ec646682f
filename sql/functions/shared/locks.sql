-- Advisory locks. Whoever may connect can take them, so each wait has an end, and says who is in the way.

-- Waits for an advisory lock that the caller has just tried in vain, and takes it until the transaction ends. Waits for claim_wait at most, or for the caller's lock_timeout where that is shorter, then raises 55P03 with this message and names the holder.
-- Why: only here is a subtransaction, and a change of lock_timeout, which is as before when this returns.
create or replace function awa._wait_for_lock(key bigint, shared boolean, message text, hint text) returns void
language plpgsql
as $$
declare
  v_before text := current_setting('lock_timeout');
  v_wait interval;
  v_holders text;
begin
  select least(s.claim_wait, nullif(v_before::interval, '0')) into v_wait from awa.settings s;
  perform set_config('lock_timeout', awa._milliseconds(v_wait), true);
  begin
    if shared then
      perform pg_advisory_xact_lock_shared(key);
    else
      perform pg_advisory_xact_lock(key);
    end if;
  exception when lock_not_available then
    select string_agg(coalesce(awa._backend(l.pid), 'a prepared transaction'), ', ') into v_holders
      from pg_locks l
     where l.locktype = 'advisory' and l.granted and l.objsubid = 1
       and l.database = (select d.oid from pg_database d where d.datname = current_database())
       and l.classid::bigint << 32 | l.objid::bigint = key;
    raise exception using errcode = '55P03', message = message,
      detail = format('Waited %s for %s.', v_wait, coalesce(v_holders, 'a backend that has just let go')), hint = hint;
  end;
  perform set_config('lock_timeout', v_before, true);
end
$$;
comment on function awa._wait_for_lock is 'Waits for an advisory lock, within bounds, or names the holder';

-- Takes the lock of a queue until the transaction ends. Waits for as long as the settings say, then raises 55P03 and names the holder.
create or replace function awa._lock_queue(queue_id bigint) returns void
language plpgsql
as $$
declare
  v_key bigint := awa._queue_key(queue_id);
begin
  if not pg_try_advisory_xact_lock(v_key) then
    perform awa._wait_for_lock(v_key, false, 'the queue is locked by another claim',
      'A claim keeps the queue until its transaction ends and its result is sent: claim in a transaction of its own, and read the answer.');
  end if;
end
$$;
comment on function awa._lock_queue is 'Takes the lock of a queue until the transaction ends, or names the holder';

-- Takes the lock of a worker until the transaction ends: shared for its claims, exclusively for whoever ends or clears it, after the claims that it is in the middle of. Raises 55P03.
create or replace function awa._lock_worker(worker_id bigint, shared boolean) returns void
language plpgsql
as $$
declare
  v_key bigint := awa._worker_key(worker_id);
begin
  if not (case when shared then pg_try_advisory_xact_lock_shared(v_key) else pg_try_advisory_xact_lock(v_key) end) then
    perform awa._wait_for_lock(v_key, shared, 'the worker is locked by somebody else',
      'A claim keeps its worker, and so does whoever ends it, until the transaction ends: let that end, and try again.');
  end if;
end
$$;
comment on function awa._lock_worker is 'Takes the lock of a worker until the transaction ends, or names the holder';

-- Takes the lock of those that answer for more claims than they have locks for, shared, until the transaction ends. Raises 55P03.
create or replace function awa._lock_crowd() returns void
language plpgsql
as $$
begin
  if not pg_try_advisory_xact_lock_shared(awa._crowd_key()) then
    perform awa._wait_for_lock(awa._crowd_key(), true, 'answers for very many claims are locked by somebody else', 'Let that session end its transaction, or answer for at most 64 claims in one call.');
  end if;
end
$$;
comment on function awa._lock_crowd is 'Takes the lock of those that answer for very many claims, or names the holder';
