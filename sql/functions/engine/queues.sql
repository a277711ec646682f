-- The id of a queue, the current segment, and whether the database is at home on this server.

-- The id of a queue: the first 54 bits of the SHA-256 of its name.
-- Why: no producer has to wait for another one to agree on it.
create or replace function awa._queue_id(queue text) returns bigint
language sql stable strict parallel safe
return ('x' || encode(sha256(convert_to(queue, 'UTF8')), 'hex'))::bit(54)::bigint;
comment on function awa._queue_id is 'The id of a queue: the first 54 bits of the SHA-256 of its name';

-- A lane of a queue, by its priority and shard; priority 0 is the front lane.
-- It has 54 bits of the queue, six of the shard, three of the priority. The planner puts the expression in the place of
-- the call. Views that readers may see hold the expressions (lane >> 9): a reader may not call these functions.
create or replace function awa._lane(queue_id bigint, priority int, shard int default 0) returns bigint
language sql immutable strict parallel safe
return (queue_id << 9) + (shard << 3 | priority);
comment on function awa._lane is 'A lane of a queue, by its priority and shard; priority 0 is the front lane';

-- The queue of a lane.
create or replace function awa._queue_of(lane bigint) returns bigint
language sql immutable strict parallel safe
return lane >> 9;
comment on function awa._queue_of is 'The queue of a lane';

-- The first lane that a queue can have.
create or replace function awa._first_lane(queue_id bigint) returns bigint
language sql immutable strict parallel safe
return queue_id << 9;
comment on function awa._first_lane is 'The first lane that a queue can have';

-- The last lane that a queue can have.
create or replace function awa._last_lane(queue_id bigint) returns bigint
language sql immutable strict parallel safe
return queue_id << 9 | 511;
comment on function awa._last_lane is 'The last lane that a queue can have';

-- The lanes of a queue that jobs have been put to, in ascending order.
-- Also those of a dropped queue, until it is forgotten. All rows of a queue that a snapshot shows are in lanes that it
-- shows here.
create or replace function awa._lanes_of(queue_id bigint, out lane bigint) returns setof bigint
language sql stable
as $$
select distinct q.lane
  from awa.queues q
 where q.queue_id = _lanes_of.queue_id and q.lane is not null
 order by q.lane $$;
comment on function awa._lanes_of is 'The lanes of a queue that jobs have been put to, in ascending order';

-- Notes that lanes are in use, unless they are.
-- Each function that appends to a lane calls this in the same transaction. The name of their queue is looked up where
-- it is not given. buried: they get tombstones, too.
-- Why: no unique index, since no session may wait for the commit of another one. A row that another transaction has not
-- committed yet is not found, and one that was dropped with its queue does not count: then there is one more.
create or replace function awa._use_lanes(
  lanes bigint[],
  queue text default null,
  buried boolean default false
) returns void
language plpgsql
as $$
begin
  insert into awa.queues (queue_id, lane, has_tombstones, name)
  select awa._queue_of(u.lane), u.lane, buried,
         coalesce(queue, (select q.name from awa.queues q where q.queue_id = awa._queue_of(u.lane) limit 1))
    from (select distinct l as lane from unnest(lanes) l) u
   where (
      select true
        from awa.queues q
       where q.queue_id = awa._queue_of(u.lane)
         and q.lane = u.lane
         and q.has_tombstones >= buried
         and q.dropped_at is null
       limit 1
    ) is null;
end
$$;
comment on function awa._use_lanes is 'Notes that lanes are in use, unless they are';

-- The id of a queue that exists.
-- Raises 22023, JQ002.
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
comment on function awa._require_queue is 'The id of a queue that exists';

-- The segment that new entries and claims go to.
-- Raises 55000 in a database that was restored from a dump: the transaction ids in it are another server's.
create or replace function awa._current_segment() returns smallint
language plpgsql stable
as $$
declare
  v_segment smallint;
  v_is_at_home boolean;
begin
  select r.current_segment, r.tables = array['awa.ring'::regclass, 'awa.ready_entries'::regclass]::oid[]
         and array(select o.xid = o.xmin from awa.origin o) = array[true]
    into v_segment, v_is_at_home
    from awa.ring r;
  if v_is_at_home is not true then
    if v_segment is null then
      perform awa._refuse_missing('ring',
        $q$insert into awa.ring (tables) values (array['awa.ring'::regclass, 'awa.ready_entries'::regclass]::oid[])$q$);
    elsif awa._is_restored() then -- which takes longer
      raise exception using errcode = '55000', message = 'the database was restored from a dump',
        detail = 'The order of its jobs is in the transaction ids of the server that the dump came from.',
        hint = 'Call awa.rebase_after_restore() once.';
    end if;
  end if;
  return v_segment;
end
$$;
comment on function awa._current_segment is 'The segment that new entries and claims go to';

-- Raises 55000 for a table whose row is missing.
create or replace function awa._refuse_missing(name text, cure text) returns void
language plpgsql
as $$
begin
  raise exception using errcode = '55000', message = format('awa.%s has lost its row', name),
    detail = 'Somebody has removed it, or a restore has not brought it back.',
    hint = format('Run: %s.', cure);
end
$$;
comment on function awa._refuse_missing is 'Raises 55000 for a table whose row is missing';

-- Whether a database was restored from a dump, or filled by logical replication.
-- ring holds the OIDs of tables, and origin the transaction and the server that wrote its row. A restore gives both
-- other values; but two fresh servers may give tables the same OIDs, or transactions the same ids. Where one of the two
-- is as it was, the server decides: on the same one, a table or the row was only rewritten (by pg_repack, for example).
-- A restore of data alone adds a row.
create or replace function awa._is_restored() returns boolean
language sql stable
as $$
  select coalesce(
    bool_or(
      case (r.tables = array['awa.ring'::regclass, 'awa.ready_entries'::regclass]::oid[])::int + (o.xid = o.xmin)::int
             when 2 then false
             when 0 then true
             else o.server <> (select c.system_identifier from pg_control_system() c)
           end), true) or count(*) > 1
    from awa.ring r, awa.origin o
$$;
comment on function awa._is_restored is 'Whether a database was restored from a dump, or filled by logical replication';

-- Notes that the database is at home on this server.
-- Why: in a subtransaction, the xmin of a row is that of the subtransaction.
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

-- Writes origin again where a table was rewritten, or the server has another identifier since pg_upgrade.
-- Writes the OIDs in ring, too. The caller has locked ring, and seen that the database was not restored.
-- Why: the next of these changes, together with the last one, must not be taken for a restore.
create or replace function awa._keep_origin() returns void
language sql
as $$
  select awa._set_origin()
   where (select r.tables from awa.ring r) <> array['awa.ring'::regclass, 'awa.ready_entries'::regclass]::oid[]
      or exists (
        select from awa.origin o, pg_control_system() c where o.xid <> o.xmin or o.server <> c.system_identifier
      )
$$;
comment on function awa._keep_origin is
  'Writes origin again where a table was rewritten, or the server has another identifier since pg_upgrade';
