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
  if coalesce(pg_sequence_last_value(v_clock), 0) not between v_tick and v_tick + 1 then -- before, or a clock that was ahead; the next tick is of somebody who was quicker
    perform setval(v_clock, v_tick), awa._notify('awa_wake_' || v_digit, '');
  end if;
end
$$;
comment on function awa._wake is 'Notifies the workers of a queue when the caller commits, at most once per 5 ms';

-- Notifies when the caller commits, unless the settings say not to, or the server's queue of notifications is half full: when it is full, commits fail. Everything works without.
create or replace function awa._notify(channel text, payload text) returns void
language plpgsql
as $$
begin
  if pg_notification_queue_usage() < 0.5 and (select s.notifications from awa.settings s) then
    perform pg_notify(channel, payload);
  end if;
end
$$;
comment on function awa._notify is 'Notifies when the caller commits, if that is safe';

-- The segment that new entries and claims go to. Raises 55000 in a database that was restored from a dump: the transaction ids in it are another server's.
create or replace function awa._current_segment() returns smallint
language plpgsql stable
as $$
declare
  v_ring record;
begin
  select min(r.current_segment) as current_segment, count(*) = 1 and bool_and(r.tables = array['awa.ring'::regclass, 'awa.ready_entries'::regclass]::oid[] and o.xid = o.xmin) as is_at_home
    into v_ring
    from awa.ring r, awa.origin o;
  if v_ring.current_segment is null and not exists (select from awa.ring) then
    perform awa._refuse_missing('ring', $q$insert into awa.ring (tables) values (array['awa.ring'::regclass, 'awa.ready_entries'::regclass]::oid[])$q$);
  elsif v_ring.is_at_home is not true and awa._is_restored() then -- which takes longer
    raise exception using errcode = '55000', message = 'the database was restored from a dump',
      detail = 'The order of its jobs is in the transaction ids of the server that the dump came from.',
      hint = 'Call awa.rebase_after_restore() once.';
  end if;
  return v_ring.current_segment;
end
$$;
comment on function awa._current_segment is 'The segment that new entries and claims go to';

-- Raises 55000 for a table whose row is missing.
create or replace function awa._refuse_missing(name text, cure text) returns void
language plpgsql
as $$
begin
  raise exception using errcode = '55000', message = format('awa.%s has lost its row', name), detail = 'Somebody has removed it, or a restore has not brought it back.',
    hint = format('Run: %s.', cure);
end
$$;
comment on function awa._refuse_missing is 'Raises 55000 for a table whose row is missing';

-- Notes, for the counts, that jobs have come to a lane without an entry, or, negative, have left it.
create or replace function awa._arrive(lane bigint, jobs bigint) returns void
language sql
as $$
  insert into awa.arrivals (segment, lane, jobs) select awa._current_segment(), lane, jobs where jobs <> 0
$$;
comment on function awa._arrive is 'Notes that jobs have come to a lane without an entry, or have left it';

-- The tables that are divided into segments, in the order in which a segment is truncated.
create or replace function awa._families() returns text[]
language sql immutable parallel safe
return '{ready_entries,ready_tombstones,arrivals,lease_claims,lease_claim_closures}'::text[];
comment on function awa._families is 'The tables that are divided into segments';

-- A length of time for lock_timeout.
create or replace function awa._milliseconds(length interval) returns text
language sql immutable
return ceil(extract(epoch from length) * 1000)::bigint::text;
comment on function awa._milliseconds is 'A length of time for lock_timeout';

-- Whether a database was restored from a dump, or filled by logical replication. ring holds the OIDs of tables, and origin the transaction and the server that wrote its row. A restore gives both other values; but two fresh servers
-- may give tables the same OIDs, or transactions the same ids. Where one of the two is as it was, it is the server that decides: on the same one, a table or the row was only rewritten (pg_repack, say). A restore of data alone adds a row.
create or replace function awa._is_restored() returns boolean
language sql stable
as $$
  select coalesce(bool_or(case (r.tables = array['awa.ring'::regclass, 'awa.ready_entries'::regclass]::oid[])::int + (o.xid = o.xmin)::int
             when 2 then false
             when 0 then true
             else o.server <> (select c.system_identifier from pg_control_system() c)
           end), true) or count(*) > 1
    from awa.ring r, awa.origin o
$$;
comment on function awa._is_restored is 'Whether a database was restored from a dump, or filled by logical replication';

-- Notes that the database is at home on this server. In a subtransaction, the xmin of a row is that of the subtransaction.
create or replace function awa._set_origin() returns void
language plpgsql
as $$
declare
  v_xid xid;
begin
  update awa.ring r set tables = array['awa.ring'::regclass, 'awa.ready_entries'::regclass]::oid[]; -- one at a time
  delete from awa.origin;
  insert into awa.origin (xid, server) values ('0', 0) returning xmin into v_xid;
  delete from awa.origin;
  insert into awa.origin (xid, server) select v_xid, c.system_identifier from pg_control_system() c;
end
$$;
comment on function awa._set_origin is 'Notes that the database is at home on this server';

-- Writes origin again, and the OIDs in ring, where a table was rewritten, or the server has another identifier since pg_upgrade: so that the next of these, together with the last one, is not taken for a restore. The caller has locked ring,
-- and seen that it was none.
create or replace function awa._keep_origin() returns void
language sql
as $$
  select awa._set_origin()
   where (select r.tables from awa.ring r) <> array['awa.ring'::regclass, 'awa.ready_entries'::regclass]::oid[]
      or exists (select from awa.origin o, pg_control_system() c where o.xid <> o.xmin or o.server <> c.system_identifier)
$$;
comment on function awa._keep_origin is 'Writes origin again where a table was rewritten, or the server has another identifier';
