-- Every job that is still kept, and where it is.

-- The jobs whose entries this transaction has buried, to cancel or to move them.
-- Another session may claim such an entry before this transaction decides, and then answer for it, too. So the job may
-- be in two places for this transaction: where the transaction itself has put it, and where the other session has. Only
-- the first is shown to it: that is where the job is once it commits, and otherwise it fails.
-- Views, not functions: a role that reads a view needs the right to call the functions in it.
create or replace view awa._buried_here as
select t.job_id from awa.ready_tombstones t where t.by_xid = pg_current_xact_id_if_assigned();
comment on view awa._buried_here is 'The jobs whose entries this transaction has buried, to cancel or to move them';

-- The deferred jobs that count for this transaction: of those in _buried_here, its own rows.
-- A row that is visible, and whose transaction is in progress, is its own. Its xmin may be the id of a subtransaction,
-- which follows that of the transaction; the upper half is missing there.
create or replace view awa._deferred_here as
select d.*
  from awa.deferred_jobs d
 where case
         when d.job_id not in (select b.job_id from awa._buried_here b) then true
         else (
           select true
             from (select pg_current_xact_id_if_assigned()::text::bigint as xid) own
            cross join lateral (select (d.xmin::text::bigint - own.xid) & 4294967295 as after) n
            where n.after < 2147483648 and pg_xact_status((own.xid + n.after)::text::xid8) = 'in progress'
         )
       end;
comment on view awa._deferred_here is 'The deferred jobs that count for this transaction';

-- The ended jobs with a row of their own that count for this transaction: as _deferred_here.
-- Why: the condition is written twice. A view has no parameters, and readers may not call private functions.
create or replace view awa._done_here as
select d.*
  from awa.done_entries d
 where case
         when d.job_id not in (select b.job_id from awa._buried_here b) then true
         else (
           select true
             from (select pg_current_xact_id_if_assigned()::text::bigint as xid) own
            cross join lateral (select (d.xmin::text::bigint - own.xid) & 4294967295 as after) n
            where n.after < 2147483648 and pg_xact_status((own.xid + n.after)::text::xid8) = 'in progress'
         )
       end;
comment on view awa._done_here is
  'The ended jobs with a row of their own that count for this transaction';

-- Every job that is still kept, one row each, in one state.
--
-- An entry is claimed when its lane's cursor has passed it. Its claim is then the first one, in the order of last
-- places, that spans it and lists it. It shows as available, running or completed; an attempt that ended otherwise, or
-- goes on in leases, is shown from where it went. An entry that is buried, or
-- that a dropped queue's cursor has passed, shows nowhere; nor does a completed job that was deleted. One that its
-- queue keeps no longer is hidden: it shows to those who delete.
create or replace view awa._whole_ledger as
select e.lane,
       e.xid,
       e.job_id as id,
       e.kind,
       (select q.name from awa.queues q where q.queue_id = e.lane >> 9 limit 1) as queue,
       e.args,
       case
         when c.claim_id is null then 'available'
         when k.outcome is null then 'running'
         else 'completed'
       end as state,
       e.priority::int as priority,
       case when c.claim_id is null then e.attempt - 1 else e.attempt end as attempt,
       e.max_attempts::int as max_attempts,
       e.ready_at as run_at,
       case
         when k.outcome is null then (select w.heartbeat_at from awa.workers w where w.worker_id = c.worker_id)
       end as heartbeat_at,
       case when k.outcome is null then c.deadline_at end as deadline_at,
       c.claimed_at as attempted_at,
       k.closed_at as finalized_at,
       coalesce(e.created_at, e.ready_at) as created_at,
       coalesce(e.errors, '[]') as errors,
       e.metadata,
       e.tags,
       encode(substr(e.unique_key, 1, 32), 'hex') as unique_key,
       c.receipt,
       case when k.outcome is null then e.progress end as progress,
       null::jsonb as output,
       c.worker_id,
       e.group_key,
       e.expires_at,
       e.segment,
       e.unique_key as full_key,
       case when k.outcome is null then false
            else (
              select k.closed_at < statement_timestamp() - s.completed_retention
                from awa.queue_settings s
               where s.queue_id = e.lane >> 9
            ) is true end as hidden
  from awa._entries e
  left join lateral (
    select c.lo, c.hi, c.pos_xid, c.pos_id
      from awa.lease_claims c
     where c.lane = e.lane
     order by c.lane_seq desc
     limit 1
  ) cursor on true
  cross join lateral (
    select coalesce(case
             when cursor.lo is null then pg_visible_in_snapshot(e.xid, cursor.hi)
             else pg_visible_in_snapshot(e.xid, cursor.lo)
               or pg_visible_in_snapshot(e.xid, cursor.hi) and (e.xid, e.job_id) <= (cursor.pos_xid, cursor.pos_id)
           end, false) as passed
  ) p
  left join lateral (
    select c.*, c.claim_id << 12 | (array_position(c.job_ids, e.job_id) - 1) as receipt
      from awa.lease_claims c
     where p.passed
       and c.lane = e.lane
       and (c.pos_xid, c.pos_id) >= (e.xid, e.job_id)
       and (c.first_xid, c.first_id) <= (e.xid, e.job_id)
       and pg_visible_in_snapshot(e.xid, c.hi)
       and e.job_id = any(c.job_ids)
     order by c.pos_xid, c.pos_id
     limit 1
  ) c on true
  left join lateral (
    select k.outcome, k.closed_at
      from awa.lease_claim_closures k
     where k.claim_id = c.claim_id and k.item = (c.receipt & 4095)
    union all
    select k.outcome, k.closed_at
      from awa.lease_claim_closures k
     where k.claim_id = c.claim_id and k.item < 0 and (c.receipt & 4095) = any(k.items)
    limit 1
  ) k on true
 where case
         when (select true from awa.queue_rollups where dropped is not null limit 1)
          and (
           select pg_visible_in_snapshot(e.xid, r.dropped) from awa.queue_rollups r where r.lane = e.lane
         ) then false
         when (select true from awa.ready_tombstones t order by t.lane limit 1)
          and (
           select true
             from awa.ready_tombstones t
            where t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id
            limit 1
         ) then false
         when e.job_id in (select b.job_id from awa._buried_here b) and e.xid <> pg_current_xact_id_if_assigned()
           then false
         when c.claim_id is null then not p.passed
         when k.outcome is null then true
         when k.outcome <> 'completed' then false
         else (select true from awa.deleted_jobs d where d.job_id = e.job_id) is not true
       end;
comment on view awa._whole_ledger is 'The jobs that the ledgers describe, also those that their queue keeps no longer';

create or replace view awa._ledger as
select lane, xid, id, kind, queue, args, state, priority, attempt, max_attempts, run_at, heartbeat_at, deadline_at,
       attempted_at, finalized_at, created_at, errors, metadata, tags, unique_key, receipt, progress, output, worker_id,
       group_key, expires_at, segment, full_key
  from awa._whole_ledger
 where not hidden;
comment on view awa._ledger is
  'The jobs that the ledgers describe: available, running, completed; with the places of their entries';

create or replace view awa._deferred as
select d.job_id as id,
       d.kind,
       (select q.name from awa.queues q where q.queue_id = d.lane >> 9 limit 1) as queue,
       d.args,
       d.state,
       (d.lane & 7)::int as priority,
       d.attempt - 1 as attempt,
       d.max_attempts::int as max_attempts,
       d.run_at,
       null::timestamptz as heartbeat_at,
       null::timestamptz as deadline_at,
       d.attempted_at,
       null::timestamptz as finalized_at,
       d.created_at,
       coalesce(d.errors, '[]') as errors,
       d.metadata,
       d.tags,
       encode(substr(d.unique_key, 1, 32), 'hex') as unique_key,
       null::bigint as receipt,
       d.progress,
       null::jsonb as output,
       null::bigint as worker_id,
       d.group_key,
       d.expires_at
  from awa._deferred_here d;
comment on view awa._deferred is 'The jobs that may not run yet: scheduled, retryable';

create or replace view awa._limited as
select w.job_id as id,
       w.kind,
       (select q.name from awa.queues q where q.queue_id = w.lane >> 9 limit 1) as queue,
       w.args,
       'available'::text as state,
       (w.lane & 7)::int as priority,
       w.attempt - 1 as attempt,
       w.max_attempts::int as max_attempts,
       w.ready_at as run_at,
       null::timestamptz as heartbeat_at,
       null::timestamptz as deadline_at,
       null::timestamptz as attempted_at,
       null::timestamptz as finalized_at,
       w.created_at,
       coalesce(w.errors, '[]') as errors,
       w.metadata,
       w.tags,
       encode(substr(w.unique_key, 1, 32), 'hex') as unique_key,
       null::bigint as receipt,
       w.progress,
       null::jsonb as output,
       null::bigint as worker_id,
       w.group_key,
       w.expires_at
  from awa.limited_jobs w
 where w.job_id not in (select b.job_id from awa._buried_here b);
comment on view awa._limited is 'The available jobs that claims have put aside, since their groups were full';

create or replace view awa._done as
select f.job_id as id,
       f.kind,
       (select q.name from awa.queues q where q.queue_id = f.lane >> 9 limit 1) as queue,
       f.args,
       f.state,
       (f.lane & 7)::int as priority,
       f.attempt::int as attempt,
       f.max_attempts::int as max_attempts,
       f.ready_at as run_at,
       null::timestamptz as heartbeat_at,
       null::timestamptz as deadline_at,
       f.attempted_at,
       f.finalized_at,
       f.created_at,
       coalesce(f.errors, '[]') as errors,
       f.metadata,
       f.tags,
       encode(substr(f.unique_key, 1, 32), 'hex') as unique_key,
       f.receipt,
       f.progress,
       f.output,
       f.worker_id,
       f.group_key,
       f.expires_at
  from awa._done_here f
 where case
         when f.state <> 'completed' then true
         else (
           select f.finalized_at < statement_timestamp() - s.completed_retention
             from awa.queue_settings s
            where s.queue_id = f.lane >> 9
         ) is not true
       end;
comment on view awa._done is
  'The ended jobs that have a row of their own: failed, cancelled, dead, completed with an output or after a lease';

create or replace view awa._leased as
select l.job_id as id,
       l.kind,
       (select q.name from awa.queues q where q.queue_id = l.lane >> 9 limit 1) as queue,
       l.args,
       'running'::text as state,
       l.priority::int as priority,
       l.attempt::int as attempt,
       l.max_attempts::int as max_attempts,
       l.ready_at as run_at,
       (select w.heartbeat_at from awa.workers w where w.worker_id = l.worker_id) as heartbeat_at,
       l.deadline_at,
       l.claimed_at as attempted_at,
       null::timestamptz as finalized_at,
       l.created_at,
       coalesce(l.errors, '[]') as errors,
       l.metadata,
       l.tags,
       encode(substr(l.unique_key, 1, 32), 'hex') as unique_key,
       l.receipt,
       l.progress,
       null::jsonb as output,
       l.worker_id,
       l.group_key,
       l.expires_at
  from awa.leases l
 where l.job_id not in (select b.job_id from awa._buried_here b);
comment on view awa._leased is 'The jobs whose attempts have a row of their own: running';

-- Barriers: conditions of readers come after the filters of _ledger and _done, but for leakproof operators. Otherwise a
-- cheap function of theirs would be given the jobs that were dropped, deleted, moved or answered, too. Here and not at
-- jobs: the planner takes a union apart.
create or replace view awa._shown with (security_barrier = true) as
select id, kind, queue, args, state, priority, attempt, max_attempts, run_at, heartbeat_at, deadline_at, attempted_at,
       finalized_at, created_at,
       errors, metadata, tags, unique_key, receipt, progress, output, worker_id, group_key, expires_at
  from awa._ledger;
comment on view awa._shown is 'The jobs that the ledgers describe, for readers: their conditions see no others';

create or replace view awa._shown_done with (security_barrier = true) as
select * from awa._done;
comment on view awa._shown_done is
  'The ended jobs that have a row of their own, for readers: their conditions see no others';

create or replace view awa.jobs as
select * from awa._shown
union all
select * from awa._deferred
union all
select * from awa._limited
union all
select * from awa._leased
union all
select * from awa._shown_done;
comment on view awa.jobs is 'Every job that is still kept, one row each, in one state';

-- Where each job is: its state, and its place there. An available job without an xid is in limited_jobs.
create or replace view awa._place as
select j.id, j.state, j.receipt, j.lane, j.priority, j.xid, j.segment, j.full_key as unique_key from awa._ledger j
union all
select d.job_id, d.state, null, d.lane, (d.lane & 7)::int, null, null, d.unique_key
  from awa._deferred_here d
union all
select w.job_id, 'available', null, w.lane, (w.lane & 7)::int, null, null, w.unique_key
  from awa.limited_jobs w
 where w.job_id not in (select b.job_id from awa._buried_here b)
union all
select l.job_id, 'running', l.receipt, l.lane, l.priority, null, null, l.unique_key
  from awa.leases l
 where l.job_id not in (select b.job_id from awa._buried_here b)
union all
select f.job_id, f.state, f.receipt, f.lane, (f.lane & 7)::int, null, null, f.unique_key
  from awa._done_here f
 where case
         when f.state <> 'completed' then true
         else (
           select f.finalized_at < statement_timestamp() - s.completed_retention
             from awa.queue_settings s
            where s.queue_id = f.lane >> 9
         ) is not true
       end;
comment on view awa._place is 'Where each job is: its state, and its place there';

-- The completed jobs, wherever they are, also those that their queue keeps no longer: these are hidden, but on the
-- disk, and can be deleted.
create or replace view awa._completed as
select j.id, j.kind, j.queue, j.args, j.finalized_at, j.tags, j.group_key, j.errors
  from awa._whole_ledger j
 where j.state = 'completed'
union all
select d.job_id, d.kind, (select q.name from awa.queues q where q.queue_id = d.lane >> 9 limit 1), d.args,
       d.finalized_at, d.tags, d.group_key, d.errors
  from awa.done_entries d
 where d.state = 'completed';
comment on view awa._completed is 'The completed jobs, also those that their queue keeps no longer';

-- The state of a job, and its place there.
-- Of a hidden job, where hidden ones are asked for, the state alone.
-- Raises JQ003.
create or replace function awa._locate(job_id bigint, hidden boolean default false) returns awa._place
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_place awa._place;
begin
  begin
    select * into v_place from awa._place p where p.id = job_id;
    if not found and hidden then
      select c.id, 'completed' into v_place.id, v_place.state from awa._completed c where c.id = job_id;
    end if;
    raise sqlstate 'JQ999'; -- see _look_up
  exception when sqlstate 'JQ999' then
    null;
  end;
  if v_place.id is null then
    raise exception using errcode = 'JQ003', message = 'no such job', detail = format('Got %s.', job_id),
      hint = 'It was never enqueued, or it has ended and is not kept any more.';
  end if;
  return v_place;
end
$$;
comment on function awa._locate is 'The state of a job, and its place there';

-- The places of jobs, in their order; null for each that is gone.
create or replace function awa._places_of(job_ids bigint[]) returns awa._place[]
language plpgsql stable
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = on
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_variable
declare
  v_places awa._place[];
begin
  if num_nonnulls(variadic job_ids) = 0 then
    return array_fill(null::awa._place, array[cardinality(job_ids)]);
  end if;
  v_places := array(
    select (select p from awa._place p where p.id = j.id limit 1) -- it is there twice while a segment is cleaned
      from unnest(job_ids) with ordinality j(id, n)
     order by j.n);
  raise sqlstate 'JQ999'; -- see _look_up
exception when sqlstate 'JQ999' then
  return v_places;
end
$$;
comment on function awa._places_of is 'The places of jobs, in their order; null for each that is gone';

-- The states of jobs, in their order; null for each that is gone.
-- Why: to plan an unnest, PostgreSQL 18 calls a stable function that is its argument, which here takes long.
create or replace function awa._states_of(job_ids bigint[]) returns text[]
language sql stable
as $$
  select array(select p.state from unnest(f.places) with ordinality p order by p.ordinality)
    from (select awa._places_of(job_ids) as places offset 0) f
$$;
comment on function awa._states_of is 'The states of jobs, in their order; null for each that is gone';

-- The state of a job that may be gone; null when it is.
create or replace function awa._state_of(job_id bigint) returns text
language sql stable
return (awa._states_of(array[job_id]))[1];
comment on function awa._state_of is 'The state of a job that may be gone; null when it is';
