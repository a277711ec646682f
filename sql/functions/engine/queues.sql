-- The id of a queue, the current segment, and whether the database is at home on this server.

-- The id of a queue: the first 60 bits of the SHA-256 of its name. No producer has to wait for another one to agree on
-- it.
create or replace function awa._queue_id(queue text) returns bigint
language sql stable strict parallel safe
return ('x' || left(encode(sha256(convert_to(queue, 'UTF8')), 'hex'), 15))::bit(60)::bigint;
comment on function awa._queue_id is 'The id of a queue';

-- The id of a queue that exists. Raises 22023, JQ002.
create or replace function awa._require_queue(queue text) returns bigint
language plpgsql
as $$
declare
  v_queue_id bigint;
begin
  perform awa._check_name('queue', queue);
  v_queue_id := awa._queue_id(queue);
  if not exists (select from awa.queues q where q.queue_id = v_queue_id and q.dropped_at is null) then
    raise exception using errcode = 'JQ002', message = 'no such queue', detail = format('Got %s.', left(queue, 200)),
      hint = 'A queue exists from its first enqueue, configure_queue or pause_queue.';
  end if;
  return v_queue_id;
end
$$;
comment on function awa._require_queue is 'The id of a queue that exists, or JQ002';

-- The segment that new entries and claims go to. Raises 55000 in a database that was restored from a dump: the
-- transaction ids in it are another server's.
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

-- Whether a database was restored from a dump, or filled by logical replication. ring holds the OIDs of tables, and
-- origin the transaction and the server that wrote its row. A restore gives both other values; but two fresh servers
-- may give tables the same OIDs, or transactions the same ids. Where one of the two is as it was, it is the server that
-- decides: on the same one, a table or the row was only rewritten (pg_repack, say). A restore of data alone adds a row.
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

-- Notes that the database is at home on this server. In a subtransaction, the xmin of a row is that of the
-- subtransaction.
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

-- Writes origin again, and the OIDs in ring, where a table was rewritten, or the server has another identifier since
-- pg_upgrade: so that the next of these, together with the last one, is not taken for a restore. The caller has locked
-- ring, and seen that it was none.
create or replace function awa._keep_origin() returns void
language sql
as $$
  select awa._set_origin()
   where (select r.tables from awa.ring r) <> array['awa.ring'::regclass, 'awa.ready_entries'::regclass]::oid[]
      or exists (select from awa.origin o, pg_control_system() c where o.xid <> o.xmin or o.server <> c.system_identifier)
$$;
comment on function awa._keep_origin is 'Writes origin again where a table was rewritten, or the server has another identifier';
