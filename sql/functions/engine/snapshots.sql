-- Snapshots, and the transactions that keep old ones.

-- The current snapshot, with the caller's own transaction in progress.
-- Why: a cursor may keep it. PostgreSQL leaves the caller's own transaction out of the list of those in progress.
-- Without it, the jobs that the caller enqueues after this claim would count as read, and be lost.
create or replace function awa._snapshot() returns pg_snapshot
language plpgsql
as $$
declare
  v_snapshot pg_snapshot := pg_current_snapshot();
  v_own xid8 := pg_current_xact_id_if_assigned();
begin
  if v_own < pg_snapshot_xmax(v_snapshot) then
    return format('%s:%s:%s', least(v_own, pg_snapshot_xmin(v_snapshot)), pg_snapshot_xmax(v_snapshot),
      (select string_agg(x::text, ',' order by x) from (select pg_snapshot_xip(v_snapshot) union select v_own) s(x)));
  end if;
  return v_snapshot;
end
$$;
comment on function awa._snapshot is 'The current snapshot, with the caller''s own transaction in progress';

-- A snapshot without the transactions from one on.
-- Transactions that were in progress before that one are in progress in it, too. Null cuts nothing.
create or replace function awa._cut_snapshot(snapshot pg_snapshot, until xid8) returns pg_snapshot
language sql immutable
return case when until < pg_snapshot_xmax(snapshot) then
    format('%s:%s:%s', least(pg_snapshot_xmin(snapshot), until), until,
      (select string_agg(x::text, ',' order by x) from pg_snapshot_xip(snapshot) x where x < until))::pg_snapshot
  else snapshot end;
comment on function awa._cut_snapshot is 'A snapshot without the transactions from one on';

-- The transaction up to which no snapshot looks back.
-- Rows that older transactions have deleted are in the way of no scan. Where this role may not see the snapshots of
-- others, they do not count.
create or replace function awa._horizon() returns xid8
language sql stable
as $$
  select (o.xid::text::bigint - greatest(0, (
           select max(age(s.xmin))
             from (
               select a.backend_xmin as xmin
                 from pg_stat_activity a
                where (
                  a.datid is null or a.datid = (select d.oid from pg_database d where d.datname = current_database())
                )
                  and a.backend_type is distinct from 'autovacuum worker'
               union all
               select s.xmin from pg_replication_slots s
             ) s
         ) - age(o.xid::xid)))::text::xid8
    from (select pg_snapshot_xmin(pg_current_snapshot()) as xid) o
$$;
comment on function awa._horizon is 'The transaction up to which no snapshot looks back';

-- The sessions that could read this database with a snapshot that does not see a transaction.
-- Where this role may not see the snapshots of others, it counts every session of theirs.
-- Why: a snapshot that was taken later may look like an older one while an older transaction is still open. So only the
-- first list after the transaction's commit counts, and of that list the sessions that are still on it.
create or replace function awa._old_snapshots(xid xid8) returns table (holder text)
language sql stable
as $$
  select awa._reader_name(a.pid, a.xact_start)
    from pg_stat_activity a
   where a.pid <> pg_backend_pid()
     and (a.datid is null or a.datid = (select d.oid from pg_database d where d.datname = current_database()))
     and a.backend_type is distinct from 'autovacuum worker'
     and (age(a.backend_xmin) >= age(_old_snapshots.xid::xid)
       or a.backend_type is null
      and a.usesysid is not null
      and not pg_has_role(a.usesysid, 'usage')
      and not pg_has_role('pg_read_all_stats', 'usage'))
  union all
  select 'replication slot ' || s.slot_name
    from pg_replication_slots s
   where age(s.xmin) >= age(_old_snapshots.xid::xid)
$$;
comment on function awa._old_snapshots is
  'The sessions that could read this database with a snapshot that does not see a transaction';

-- A transaction that is younger than all that have begun, so that these have ended once it is the oldest in progress.
-- Take it by a later look at the sessions than that of _old_snapshots: one that was on none had its id by then.
-- Why: a snapshot's xmax is not: it follows the last transaction that has ended, and younger ones may be in progress.
create or replace function awa._next_xid() returns xid8
language sql
as $$
  with own as materialized (select pg_current_xact_id() as xid)
  select ((
           select max(o.xid::text::bigint + age(o.xid::xid) - age(x.xid))
             from (
               select o.xid::xid
               union all
               select a.backend_xid from pg_stat_activity a
               union all
               select p.transaction from pg_prepared_xacts p
             ) x(xid)
         ) + 1)::text::xid8
    from own o
$$;
comment on function awa._next_xid is
  'A transaction that is younger than all that have begun, so that these have ended once it is the oldest in progress';

-- The sessions that have held a snapshot for more than a second, by the same names as _old_snapshots.
create or replace function awa._long_readers() returns table (holder text)
language sql stable
as $$
  select awa._reader_name(a.pid, a.xact_start)
    from pg_stat_activity a
   where a.pid <> pg_backend_pid()
     and a.datid = (select d.oid from pg_database d where d.datname = current_database())
     and a.backend_type is distinct from 'autovacuum worker'
     and a.backend_xmin is not null
     and a.xact_start < clock_timestamp() - interval '1 second'
     and (a.state <> 'active' or a.query_start < clock_timestamp() - interval '1 second')
$$;
comment on function awa._long_readers is
  'The sessions that have held a snapshot for more than a second, by the same names as _old_snapshots';

-- The name of a transaction: its process, and when it began; the same in every time zone.
create or replace function awa._reader_name(pid int, xact_start timestamptz) returns text
language sql stable
return format('backend %s, %s', pid, coalesce(extract(epoch from xact_start)::text, 'since it began'));
comment on function awa._reader_name is
  'The name of a transaction: its process, and when it began; the same in every time zone';
