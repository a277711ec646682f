-- Queue ids, queue locks, wake-ups, and where rows go.

-- The id of a queue: the first 60 bits of the SHA-256 of its name. No producer has to wait for another one to agree on it.
create or replace function awa._queue_id(queue text) returns bigint
language sql stable strict parallel safe
return ('x' || left(encode(sha256(convert_to(queue, 'UTF8')), 'hex'), 15))::bit(60)::bigint;
comment on function awa._queue_id is 'The id of a queue';

-- The key of the advisory lock on a queue; claim locks have keys below all of these.
create or replace function awa._queue_key(queue_id bigint) returns bigint
language sql immutable strict parallel safe
return - queue_id;
comment on function awa._queue_key is 'The key of the advisory lock on a queue';

-- Notifies the workers of a queue when the caller commits, unless somebody did within the same 5 ms.
-- The channel is awa_wake_ and the first hexadecimal digit of the SHA-256 of the queue's name: queues that share it wake together.
create or replace function awa._wake(queue_id bigint) returns void
language plpgsql
as $$
declare
  v_digit text := to_hex(queue_id >> 56);
  v_clock regclass := 'awa.wake_clock_' || v_digit;
  v_tick bigint := extract(epoch from clock_timestamp()) * 200;
begin
  if coalesce(pg_sequence_last_value(v_clock), 0) not between v_tick and v_tick + 1000 then -- before, or a clock that was ahead
    perform setval(v_clock, v_tick), pg_notify('awa_wake_' || v_digit, '');
  end if;
end
$$;
comment on function awa._wake is 'Notifies the workers of a queue when the caller commits, at most once per 5 ms';

-- The segment that new entries and claims go to. Raises 55000 in a database that was restored from a dump: the transaction ids in it are another server's.
create or replace function awa._current_segment() returns smallint
language plpgsql stable
as $$
declare
  v_ring record;
begin
  select r.current_segment, awa._is_restored(r.tables, o.xid, o.xmin) as is_restored into v_ring from awa.ring r, awa.origin o;
  if v_ring.is_restored then
    raise exception using errcode = '55000', message = 'the database was restored from a dump',
      detail = 'The order of its jobs is in the transaction ids of the server that the dump came from.',
      hint = 'Call awa.rebase_after_restore() once.';
  end if;
  return v_ring.current_segment;
end
$$;
comment on function awa._current_segment is 'The segment that new entries and claims go to';

-- Notes that jobs have come to a lane, or, negative, have gone from it, without an entry of their own: for the books.
create or replace function awa._note_enqueued(lane bigint, jobs bigint) returns void
language sql
as $$
  insert into awa.ready_tombstones (segment, lane, xid, job_id, batch, cancels)
  select awa._current_segment(), - lane, pg_current_xact_id(), nextval('awa.claim_ids'), jobs, false -- any number that nobody else has
   where jobs <> 0
$$;
comment on function awa._note_enqueued is 'Notes that jobs have come to a lane, or gone from it, without an entry';

-- A length of time for lock_timeout.
create or replace function awa._milliseconds(length interval) returns text
language sql immutable
return ceil(extract(epoch from length) * 1000)::bigint::text;
comment on function awa._milliseconds is 'A length of time for lock_timeout';

-- Whether a database was restored from a dump. The OIDs of tables may be the same on two fresh servers, and so may transaction ids, but hardly both.
create or replace function awa._is_restored(tables oid[], xid xid, xmin xid) returns boolean
language sql stable
return tables <> array['awa.ring'::regclass, 'awa.ready_entries'::regclass]::oid[] or xid <> xmin;
comment on function awa._is_restored is 'Whether a database was restored from a dump';
