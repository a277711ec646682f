-- The id of a queue, the current segment, and whether the database is the original one, or was restored.

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

-- The shard of a lane: the id of its queue, and six bits.
create or replace function awa._shard_of(lane bigint) returns bigint
language sql immutable strict parallel safe
return lane >> 3;
comment on function awa._shard_of is 'The shard of a lane: the id of its queue, and six bits';

-- Whether a queue may have several shards.
-- False also for one that has, until a claim has noticed. Then claims begin with its first shard.
-- Why: a claim has to know it before it locks anything, and without a statement of its own. The planner puts the
-- expression in the place of the call.
create or replace function awa._may_have_shards(queue_id bigint) returns boolean
language sql
as $$ select pg_sequence_last_value('awa.sharded'::regclass) >> (queue_id & 31)::int & 1 = 1 $$;
comment on function awa._may_have_shards is 'Whether a queue may have several shards';

-- Notes that a queue has several shards.
create or replace function awa._note_shards(queue_id bigint) returns void
language plpgsql
as $$
begin
  if awa._may_have_shards(queue_id) is not true then
    perform setval('awa.sharded',
      coalesce(pg_sequence_last_value('awa.sharded'::regclass), 0) | (1::bigint << (queue_id & 31)::int));
  end if;
end
$$;
comment on function awa._note_shards is 'Notes that a queue has several shards';

-- The shard of a queue, from 0, to which a job goes; with a group, to that of the group.
-- Locks: with a group, the queue's number of shards, shared, until the transaction ends; where the call puts jobs with
-- groups into very many queues, one lock for all of them.
-- Raises 55P03; 40001 at REPEATABLE READ and above, when the settings of the queue have changed since the snapshot.
create or replace function awa._shard_for(
  queue_id bigint,
  job_id bigint,
  group_key text,
  among_many boolean default false
) returns int
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_shards int;
begin
  if group_key is not null then
    perform awa._share_shards_lock(queue_id, among_many);
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
      perform awa._check_settings_seen(queue_id);
    end if;
  end if;
  -- in a statement that begins after the lock is held
  v_shards := coalesce((select s.shards from awa.queue_settings s where s.queue_id = queue_id), 1);
  return case when group_key is null then job_id else awa._group_bits(group_key) end % v_shards;
end
$$;
comment on function awa._shard_for is
  'The shard of a queue, from 0, to which a job goes; with a group, to that of the group';

-- Takes the lock of a queue's number of shards, shared: the number does not change until the transaction ends.
-- Locks: the number, shared. Among many queues, one lock for all: then the number's own only has to be free for a
-- moment, once that one is held. A session that changes a number holds its lock, and looks for the other one.
-- Raises 55P03, and names the holder.
-- Why: it tries again and again. A caller that has claimed, and waited in PostgreSQL's line, would make a deadlock with
-- a session that changes the number and waits for the claim's shard; PostgreSQL may end a claim beside them for that.
create or replace function awa._share_shards_lock(queue_id bigint, among_many boolean) returns void
language plpgsql
as $$
declare
  v_key bigint := awa._shards_key(queue_id);
  v_end timestamptz := clock_timestamp() + awa._wait();
begin
  if among_many and not pg_try_advisory_xact_lock_shared(awa._many_shards_key()) then
    perform awa._wait_for_lock(awa._many_shards_key(), true, 'the numbers of shards are locked by another session',
      'Let that session end its transaction, or enqueue jobs with a group to at most 64 queues in one call.');
  end if;
  -- Nothing can interrupt a single expression: a lock of the session would outlast an error.
  while not (case
               when not among_many then pg_try_advisory_xact_lock_shared(v_key)
               when pg_try_advisory_lock_shared(v_key) then pg_advisory_unlock_shared(v_key)
               else false
             end)
  loop
    if clock_timestamp() > v_end then
      perform awa._refuse_lock(array[v_key], awa._wait(), 'the number of shards of the queue is being changed',
        'configure_queue, or drop_queue, holds it until its transaction ends: let that end, and try again.');
    end if;
    perform pg_sleep(0.005);
  end loop;
end
$$;
comment on function awa._share_shards_lock is
  'Takes the lock of a queue''s number of shards, shared: the number does not change until the transaction ends';

-- Takes the lock of a queue's number of shards, where no session holds the number; returns whether it has it.
-- Why: in a subtransaction, which lets go of it: producers would wait for a session that waits for the others.
create or replace function awa._try_lock_shards(queue_id bigint) returns boolean
language plpgsql
as $$
begin
  if pg_try_advisory_xact_lock(awa._shards_key(queue_id)) then
    if (case
          when pg_try_advisory_lock(awa._many_shards_key()) then pg_advisory_unlock(awa._many_shards_key())
          else false
        end)
    then
      return true;
    end if;
    raise sqlstate 'JQ999'; -- see _look_up
  end if;
  return false;
exception when sqlstate 'JQ999' then
  return false;
end
$$;
comment on function awa._try_lock_shards is
  'Takes the lock of a queue''s number of shards, where no session holds the number; returns whether it has it';

-- Takes the lock of a queue's number of shards until the transaction ends, so that it can change.
-- Waits for claim_wait at most, for transactions that have enqueued jobs with a group.
-- Raises 55P03, and names the holders.
-- Why: it tries again and again, since producers would wait behind a session that waits.
create or replace function awa._lock_shards(queue_id bigint) returns void
language plpgsql
as $$
declare
  v_wait interval := (awa._settings()).claim_wait;
  v_end timestamptz := clock_timestamp() + v_wait;
begin
  while not awa._try_lock_shards(queue_id) loop
    if clock_timestamp() > v_end then
      perform awa._refuse_lock(array[awa._shards_key(queue_id), awa._many_shards_key()], v_wait,
        'the number of shards of the queue is in use',
        'A transaction that has enqueued a job with a group holds it to its end: let that end, and try again.');
    end if;
    perform pg_sleep(0.005);
  end loop;
end
$$;
comment on function awa._lock_shards is
  'Takes the lock of a queue''s number of shards until the transaction ends, so that it can change';

-- A number for a group: the first 31 bits of the SHA-256 of its key.
create or replace function awa._group_bits(group_key text) returns int
language sql stable strict parallel safe
return ('x' || encode(sha256(convert_to(group_key, 'UTF8')), 'hex'))::bit(31)::int;
comment on function awa._group_bits is 'A number for a group: the first 31 bits of the SHA-256 of its key';

-- Raises 40001 where the settings of a queue have changed since the snapshot.
-- In PostgreSQL a row with its key collides with one that the snapshot does not see, or sees in an older version. Where
-- one was removed since, the snapshot shows both. The row is taken back at once.
create or replace function awa._check_settings_seen(queue_id bigint) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  perform awa._bound_waits();
  begin
    perform awa._add_settings(queue_id);
  exception when lock_not_available then
    perform awa._refuse_settings();
  end;
  if (select count(*) > 1 from awa.queue_settings s where s.queue_id = queue_id) then
    raise exception using errcode = '40001', message = 'the queue was dropped since the snapshot',
      detail = 'It has lost its settings.', hint = 'Run the transaction again.';
  end if;
  raise sqlstate 'JQ999'; -- see _look_up
exception when sqlstate 'JQ999' then
  null;
end
$$;
comment on function awa._check_settings_seen is
  'Raises 40001 where the settings of a queue have changed since the snapshot';

-- The lane in which a job that waited becomes ready.
-- With a group it is its own: while such a job waits, its queue keeps its number of shards. Others are spread over the
-- shards that there are now.
-- Why: a set of one, so that it becomes a part of the query that calls it.
create or replace function awa._ready_lane(lane bigint, job_id bigint, group_key text) returns setof bigint
language sql stable
as $$
  select case
           when group_key is not null then awa._lane_in_order(lane, group_key,
             (select s.group_order from awa.queue_settings s where s.queue_id = awa._queue_of(lane)))
           else awa._lane(awa._queue_of(lane), (lane & 7)::int,
             (job_id % coalesce((select s.shards from awa.queue_settings s where s.queue_id = awa._queue_of(lane)),
               1))::int)
         end
$$;
comment on function awa._ready_lane is 'The lane in which a job that waited becomes ready';

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

-- The lanes of a shard of a queue that jobs have been put to, as _lanes_of.
create or replace function awa._lanes_in_shard(shard bigint, out lane bigint) returns setof bigint
language sql stable
as $$
  select l.lane from awa._lanes_of(shard >> 6) l where awa._shard_of(l.lane) = shard
$$;
comment on function awa._lanes_in_shard is 'The lanes of a shard of a queue that jobs have been put to, as _lanes_of';

-- Notes that lanes are in use, unless they are.
-- Each function that appends to a lane calls this in the same transaction. The name of their queue is looked up where
-- it is not given. buried: they get tombstones, too. expiring: jobs that may expire.
-- Why: no unique index, since no session may wait for the commit of another one. A row that another transaction has not
-- committed yet is not found, and one that was dropped with its queue does not count: then there is one more.
create or replace function awa._use_lanes(
  lanes bigint[],
  queue text default null,
  buried boolean default false,
  expiring boolean default false
) returns void
language plpgsql
as $$
begin
  insert into awa.queues (queue_id, lane, has_tombstones, may_expire, name)
  select awa._queue_of(u.lane), u.lane, buried, expiring,
         coalesce(queue, (select q.name from awa.queues q where q.queue_id = awa._queue_of(u.lane) limit 1))
    from (select distinct l as lane from unnest(lanes) l) u
   where (
      select true
        from awa.queues q
       where q.queue_id = awa._queue_of(u.lane)
         and q.lane = u.lane
         and q.has_tombstones >= buried
         and q.may_expire >= expiring
         and q.dropped_at is null
       limit 1
    ) is null;
end
$$;
comment on function awa._use_lanes is 'Notes that lanes are in use, unless they are';

-- Makes a queue without a job.
create or replace function awa._add_queue(queue text, has_limits boolean default false) returns void
language plpgsql
as $$
#variable_conflict use_column
begin
  insert into awa.queues (queue_id, name, has_limits) values (awa._queue_id(queue), queue, _add_queue.has_limits);
end
$$;
comment on function awa._add_queue is 'Makes a queue without a job';

-- Lets claims look at the limits of a queue from now on.
create or replace function awa._limit_queue(queue_id bigint, queue text) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  if not exists (select from awa.queues q where q.queue_id = queue_id and q.has_limits and q.dropped_at is null) then
    perform awa._add_queue(queue, true);
  end if;
end
$$;
comment on function awa._limit_queue is 'Lets claims look at the limits of a queue from now on';

-- Gives a queue a row of settings, where it has none; nothing is set in it.
-- Locks: waits for a transaction that has just made one.
-- Raises 40001 at REPEATABLE READ and above, where the snapshot does not see the row that is there.
create or replace function awa._add_settings(queue_id bigint) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.queue_settings (queue_id) values (queue_id) on conflict do nothing;
end
$$;
comment on function awa._add_settings is
  'Gives a queue a row of settings, where it has none; nothing is set in it';

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

-- The OIDs of tables by which a restore is known.
create or replace function awa._own_tables() returns oid[]
language sql immutable
as $$ select array['awa.ring'::regclass, 'awa.ready_entries'::regclass]::oid[] $$;
comment on function awa._own_tables is 'The OIDs of tables by which a restore is known';

-- The segments of the ring, and whether the database is the original one, at a glance. Where it seems not to be,
-- _current_segment looks more closely.
-- A database that was restored, or a table that was rewritten, has other values: see _is_restored.
create or replace view awa._checked_ring as
select r.current_segment, r.cleaned_segment, r.cleaned_until,
       r.tables = awa._own_tables() and array(select o.xid = o.xmin from awa.origin o) = array[true] as is_original
  from awa.ring r;
comment on view awa._checked_ring is
  'The segments of the ring, and whether the database is the original one, at a glance';

-- The segment that new entries and claims go to.
-- Raises 55000 in a database that was restored from a dump: the transaction ids in it are another server's.
create or replace function awa._current_segment() returns smallint
language plpgsql stable
as $$
declare
  v_segment smallint;
  v_is_original boolean;
begin
  select r.current_segment, r.is_original into v_segment, v_is_original from awa._checked_ring r;
  if v_is_original is not true then
    if v_segment is null then
      perform awa._refuse_missing('ring');
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

-- The tables of one row that have lost it, and the statement that brings it back.
create or replace view awa._missing_rows as
select m.name, m.cure
  from (values
    ('ring', (select true from awa.ring limit 1),
      'insert into awa.ring (tables) values (array[''awa.ring''::regclass, ''awa.ready_entries''::regclass]::oid[])'),
    ('settings', (select true from awa.settings limit 1), 'insert into awa.settings default values')
  ) m(name, is_there, cure)
 where m.is_there is null;
comment on view awa._missing_rows is 'The tables of one row that have lost it, and the statement that brings it back';

-- Raises 55000 for a table whose row is missing.
create or replace function awa._refuse_missing(name text) returns void
language plpgsql
as $$
begin
  raise exception using errcode = '55000', message = format('awa.%s has lost its row', name),
    detail = 'It was removed, or a restore has not brought it back.',
    hint = coalesce((select format('Run: %s.', m.cure) from awa._missing_rows m where m.name = _refuse_missing.name),
      'It is back by now: try again.');
end
$$;
comment on function awa._refuse_missing is 'Raises 55000 for a table whose row is missing';

-- The settings of the installation.
-- Raises 55000 where their row is missing.
-- Why: without it each setting would be null, and a comparison with null says nothing.
create or replace function awa._settings() returns awa.settings
language plpgsql stable
as $$
declare
  v_settings awa.settings;
begin
  select s.* into v_settings from awa.settings s;
  if not found then
    perform awa._refuse_missing('settings');
  end if;
  return v_settings;
end
$$;
comment on function awa._settings is 'The settings of the installation';

-- Refuses a database that was restored, or has lost a row that must be there.
-- Raises 55000.
create or replace function awa._check_rows() returns void
language plpgsql stable
as $$
begin
  perform awa._current_segment(), awa._settings();
end
$$;
comment on function awa._check_rows is 'Refuses a database that was restored, or has lost a row that must be there';

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
      case (r.tables = awa._own_tables())::int + (o.xid = o.xmin)::int
             when 2 then false
             when 0 then true
             else o.server <> (select c.system_identifier from pg_control_system() c)
           end), true) or count(*) > 1
    from awa.ring r, awa.origin o
$$;
comment on function awa._is_restored is 'Whether a database was restored from a dump, or filled by logical replication';

-- Notes that the database is an original one on this server.
-- Why: in a subtransaction, the xmin of a row is that of the subtransaction.
create or replace function awa._set_origin() returns void
language plpgsql
as $$
declare
  v_xid xid;
begin
  update awa.ring r set tables = awa._own_tables(); -- one at a time
  delete from awa.origin;
  insert into awa.origin (xid, server) values ('0', 0) returning xmin into v_xid;
  delete from awa.origin;
  insert into awa.origin (xid, server) select v_xid, c.system_identifier from pg_control_system() c;
end
$$;
comment on function awa._set_origin is 'Notes that the database is an original one on this server';

-- Writes origin again where a table was rewritten, or the server has another identifier since pg_upgrade.
-- Writes the OIDs in ring, too. The caller has locked ring, and seen that the database was not restored.
-- Why: the next of these changes, together with the last one, must not be taken for a restore.
create or replace function awa._renew_origin() returns void
language sql
as $$
  select awa._set_origin()
   where (select r.tables from awa.ring r) <> awa._own_tables()
      or exists (
        select from awa.origin o, pg_control_system() c where o.xid <> o.xmin or o.server <> c.system_identifier
      )
$$;
comment on function awa._renew_origin is
  'Writes origin again where a table was rewritten, or the server has another identifier since pg_upgrade';
