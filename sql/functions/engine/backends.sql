-- The sessions of the server.

-- The name of a session: its process id, and its application name.
create or replace function awa._backend(pid int) returns text
language sql stable
return (
  select format('backend %s (%s)', a.pid,
    concat_ws(', ', a.usename, nullif(a.application_name, ''), nullif(a.state, 'active')))
    from pg_stat_activity a
   where a.pid = _backend.pid);
comment on function awa._backend is 'The name of a session: its process id, and its application name';

-- Whether a transaction, or a subtransaction, is in progress.
-- It is the one of that number that is nearest to the snapshot.
create or replace function awa._is_in_progress(xid xid) returns boolean
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_near constant bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
begin
  return coalesce('in progress' =
    pg_xact_status((v_near + (xid::text::bigint - v_near + 2147483648 & 4294967295) - 2147483648)::text::xid8), false);
exception when data_exception then
  return false; -- there has been none of that number
end
$$;
comment on function awa._is_in_progress is 'Whether a transaction, or a subtransaction, is in progress';

-- The other sessions that hold a row, by its xmax; null when none does.
-- One, if it can be told which; else all that may be it: those that have read rows of the table to lock or to write
-- them, in transactions that are no younger.
-- Why: xmax is the number of a transaction, of a subtransaction, which is told from others while it is not released, or
-- of a set of these.
create or replace function awa._row_holder(relation regclass, xmax xid) returns text
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_xids xid[] := array[xmax];
  v_transactions text[];
begin
  if coalesce(xmax, '0') = '0' then
    return null;
  end if;
  begin
    v_xids := v_xids || array(select m.xid from pg_get_multixact_members(xmax) m);
  exception when internal_error then
    null; -- there is no such set
  end;
  v_transactions := array(
    select l.virtualtransaction
      from pg_locks l
     where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.transactionid = any(v_xids));
  if v_transactions = '{}' then
    v_transactions := array(
      select l.virtualtransaction
        from unnest(v_xids) x(xid)
        join pg_locks l on age(l.transactionid) >= age(x.xid)
       where awa._is_in_progress(x.xid) and l.locktype = 'transactionid' and l.mode = 'ExclusiveLock');
  end if;
  return (
    select string_agg(distinct coalesce(awa._backend(l.pid), 'a prepared transaction'), ' or ')
      from pg_locks l
     where v_transactions <> '{}'
       and l.locktype = 'relation'
       and l.database = (select d.oid from pg_database d where d.datname = current_database())
       and l.relation = relation
       and l.mode in ('RowShareLock', 'RowExclusiveLock')
       and l.virtualtransaction = any(v_transactions)
       and l.pid is distinct from pg_backend_pid());
end
$$;
comment on function awa._row_holder is 'The other sessions that hold a row, by its xmax; null when none does';

-- The workers whose rows are locked, by an open heartbeat for example, and the sessions that have locked them.
create or replace view awa._locked_workers as
select w.worker_id, h.holder
  from awa.workers w
 cross join lateral (select awa._row_holder('awa.workers', w.xmax) as holder offset 0) h
 where w.xmax <> '0' and h.holder is not null;
comment on view awa._locked_workers is 'The workers whose rows are locked, and the sessions that have locked them';

-- The schedules that another session has locked, and that session.
create or replace view awa._locked_schedules as
select s.name, h.holder
  from awa.schedules s
 cross join lateral (select awa._row_holder('awa.schedules', s.xmax) as holder offset 0) h
 where s.xmax <> '0' and h.holder is not null;
comment on view awa._locked_schedules is 'The schedules that another session has locked, and that session';

-- Claimers that hold a queue, because their clients have not read their claimed jobs for ten seconds.
create or replace view awa._stuck_claimers as
select distinct a.pid, a.usesysid, q.name as queue, a.query_start as since
  from pg_stat_activity a
  join pg_locks l on l.pid = a.pid and l.locktype = 'advisory' and l.granted and l.objsubid = 1
   and l.database = (select d.oid from pg_database d where d.datname = current_database())
  join (
    select distinct q.queue_id, q.name from awa.queues q
  ) q on l.classid::bigint << 32 | l.objid::bigint
           between awa._queue_key(q.queue_id) - 63 and awa._queue_key(q.queue_id)
 where a.wait_event = 'ClientWrite' and a.query_start < clock_timestamp() - interval '10 seconds';
comment on view awa._stuck_claimers is 'Claimers whose clients have not read their claimed jobs';

-- Raises 55P03: a row of some tables was waited for, for as long as lock_timeout says.
-- Names the session that holds it; where that is not known, the transactions that have changed these tables and were
-- open all that time: it is one of them.
create or replace function awa._refuse_wait(
  relations regclass[],
  message text,
  hint text,
  holder text default null
) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_wait interval := current_setting('lock_timeout')::interval;
  v_holders text;
begin
  select string_agg(distinct coalesce(awa._backend(l.pid), 'a prepared transaction'), ', ') into v_holders
    from pg_locks l
    left join pg_stat_activity a on a.pid = l.pid
   where l.locktype = 'relation'
     and l.database = (select d.oid from pg_database d where d.datname = current_database())
     and l.relation = any(relations::oid[])
     and l.mode = 'RowExclusiveLock'
     and l.pid is distinct from pg_backend_pid()
     and coalesce(a.xact_start, '-infinity') < clock_timestamp() - v_wait;
  raise exception using errcode = '55P03', message = message,
    detail = format('Waited %s for %s.', v_wait, coalesce(holder, v_holders, 'a transaction that has just ended')),
    hint = hint;
end
$$;
comment on function awa._refuse_wait is
  'Raises 55P03: a row of some tables was waited for, for as long as lock_timeout says';

-- Raises 55P03: another session is changing a job, or answering for it, for longer than lock_timeout says.
-- Names it as _refuse_wait does.
create or replace function awa._refuse_change(job_id bigint) returns void
language plpgsql
as $$
begin
  perform awa._refuse_wait(
    array(
      select c.oid::regclass
        from pg_class c
       where c.relnamespace = 'awa'::regnamespace and c.relkind = 'r'
         and c.relname ~ ('^(deferred_jobs|limited_jobs|leases|done_entries|deleted_jobs|unique_claims|'
           'ready_tombstones_.|lease_claim_closures_.)$')
    ),
    format('job %s is being changed by another session', job_id),
    'A session changes it, or answers for it, in a transaction that lasts: let that end, and try again.');
end
$$;
comment on function awa._refuse_change is
  'Raises 55P03: another session is changing a job, or answering for it, for longer than lock_timeout says';
