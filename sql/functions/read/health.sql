-- What health returns.
create or replace view awa.health as
select q.name as level, q.name as topic, q.name as subject, q.name as message, q.name as hint, w.info as details from awa.queues q, awa.workers w where false;
comment on view awa.health is 'The row that health returns, one per thing that is looked at. The view itself is always empty';

-- How the installation is: one row per thing that is looked at, those that need somebody first. level is ok, warning or critical; topic is restore, maintenance, prune, claimer, queue, worker, horizon or segment; message says it in words, hint what
-- to do, details the same as numbers (seconds, bytes, process ids). Takes about a tenth of a second.
create or replace function awa.health() returns setof awa.health
language sql stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$
with now as (
  select clock_timestamp() as at
), ring as (
  select * from awa.ring
), settings as (
  select * from awa.settings
), segments as (
  select s.segment, s.segment = r.current_segment as is_current, awa._is_empty(s.segment) as is_empty, r.left_at[s.segment + 1] as left_at,
         (select sum(pg_total_relation_size(format('awa.%s_%s', f, s.segment)::regclass))
            from unnest('{ready_entries,ready_tombstones,lease_claims,lease_claim_closures}'::text[]) f)::bigint as bytes,
         pg_relation_size(format('awa.ready_entries_%s', s.segment)::regclass) as entry_bytes
    from ring r
   cross join generate_series(0, 3) s(segment)
), open as (
  select o.claimed_at, awa._is_overdue(o.lease_until + interval '30 seconds', o.deadline_at + interval '30 seconds', o.lease_until - o.claimed_at + interval '30 seconds', o.worker_id, n.at) as is_overdue
    from awa._open_items o
   cross join now n
), rows as (
  select 1 as place, 'critical' as level, 'restore' as topic, 'database' as subject, 'it was restored from a dump: nothing is enqueued or claimed' as message,
         'Call awa.rebase_after_restore() once.' as hint, null::jsonb as details
   where awa._is_restored()
  union all
  -- Work that maintenance should have done by now.
  select 2, case when m.late_since is null then 'ok' else 'warning' end, 'maintenance', m.pass,
         case when m.late_since is null then 'it keeps up' else format('%s, for %s', m.problem, awa._in_words(n.at - m.late_since)) end,
         case when m.late_since is not null then 'Run workers, or call awa.run_maintenance() every few seconds.' end,
         case when m.late_since is not null then jsonb_build_object('late_seconds', floor(extract(epoch from n.at - m.late_since))) end
    from now n
   cross join lateral (
      select 'run_maintenance' as pass, 'nobody has called it' as problem, (
        select case when s.is_called then to_timestamp(s.last_value / 1000000.0) else (select min(q.created_at) from awa.queues q) end
          from awa.promoted_until s
         where case when s.is_called then to_timestamp(s.last_value / 1000000.0) else (select min(q.created_at) from awa.queues q) end < n.at - interval '1 minute') as late_since
      union all
      select 'promote_due', 'jobs that are due wait', (select min(d.run_at) from awa.deferred_jobs d where d.run_at < n.at - interval '30 seconds')
      union all
      select 'rescue', 'attempts that are overdue run on', least(
        (select min(l.claimed_at) from awa.leases l where awa._is_overdue(l.lease_until + interval '30 seconds', l.deadline_at + interval '30 seconds', l.lease + interval '30 seconds', l.worker_id, n.at)),
        (select min(o.claimed_at) from open o where o.is_overdue))
      union all
      select 'materialize', 'attempts that last have no rows of their own', (select min(o.claimed_at) from open o where o.claimed_at < n.at - interval '1 minute')
      union all
      select 'expire_history', 'jobs are past their retention', (
        select min(d.finalized_at) + s.completed_retention from awa.done_entries d, settings s where d.state = 'completed' group by s.completed_retention having min(d.finalized_at) < n.at - s.completed_retention - interval '1 hour')
      union all
      select 'rotate', 'the current segment should have been left', (
        select c.left_at + s.segment_age
          from segments c, settings s
         where c.is_current and not c.is_empty and (select x.is_empty from segments x where x.segment = (c.segment + 1) % 4)
           and c.left_at < n.at - s.segment_age - interval '1 hour')
      union all
      select 'prune_oldest', 'the oldest segment is past its retention', (
        select min(c.left_at) + s.completed_retention from segments c, settings s, ring r
         where not c.is_current and not c.is_empty and r.outcome is null
         group by s.completed_retention having min(c.left_at) < n.at - s.completed_retention - interval '1 hour')
    ) m
  union all
  -- What is in the way of emptying the oldest segment.
  select 3, case when r.outcome = 'unbalanced' then 'critical' when r.stuck_since < n.at - interval '1 minute' then 'warning' else 'ok' end, 'prune', coalesce('segment ' || r.cleaned_segment, 'oldest segment'),
         format(case r.outcome
             when 'unbalanced' then 'not emptied for %s: rows are missing in it'
             when 'full' then 'not emptied for %s: more is alive in it than carry_max'
             when 'busy' then 'not emptied for %s: somebody is at work on what is alive in it'
             when 'waiting' then 'not emptied for %s: there are snapshots that are older than its cleaning: %s'
             else 'not emptied for %s: others hold locks on it: %s'
           end, awa._in_words(n.at - r.stuck_since), case when r.outcome = 'waiting' and r.old_snapshots is not null then array_to_string(r.old_snapshots, '; ') else coalesce(b.holders, 'nobody by now') end),
         case r.outcome
           when 'unbalanced' then 'See awa.audit(). To empty it all the same: awa.prune_oldest(true).'
           when 'full' then 'Have the jobs worked on, or raise carry_max. Meanwhile the current segment grows.'
           when 'busy' then 'It is tried again.'
           else 'End these transactions when they need not go on. Meanwhile the current segment grows; claims are as fast as ever.'
         end,
         jsonb_build_object('outcome', r.outcome, 'tries', r.tries, 'retry_at', r.retry_at, 'pids', b.pids)
    from ring r
   cross join now n
   cross join lateral (
      select string_agg(distinct coalesce(awa._backend(l.pid), 'a prepared transaction'), ', ') as holders, to_jsonb(array_agg(distinct l.pid)) as pids
        from pg_locks l
       where l.locktype = 'relation' and l.granted and l.database = (select d.oid from pg_database d where d.datname = current_database())
         and r.outcome = 'blocked'
         and l.relation in (
           select format('awa.%s_%s', f, coalesce(r.cleaned_segment, (select s.segment from segments s where not s.is_current and not s.is_empty order by (s.segment - r.current_segment + 4) % 4 limit 1)))::regclass from unnest('{ready_entries,ready_tombstones,lease_claims,lease_claim_closures}'::text[]) f)
    ) b
   where r.outcome is not null
  union all
  select 4, 'warning', 'claimer', awa._backend(c.pid), format('holds up the claims of queue %s: its client has not read its jobs for %s', c.queue, awa._in_words(n.at - c.since)),
         'End it with pg_terminate_backend. For maintenance to do so, let a superuser say: grant pg_signal_backend to awa_owner.', jsonb_build_object('pid', c.pid, 'queue', c.queue)
    from awa._stuck_claimers c
   cross join now n
  union all
  select 5, case when q.oldest_ready_at < n.at - interval '5 minutes' and s.paused_at is null then 'warning' else 'ok' end, 'queue', q.queue,
         format('%s ready', q.available)
           || case when q.oldest_ready_at is not null then format(', the oldest for %s', awa._in_words(n.at - q.oldest_ready_at)) else '' end
           || format(', %s running', q.running)
           || case when s.paused_at is not null then format('; paused for %s', awa._in_words(n.at - s.paused_at)) else '' end,
         case when q.oldest_ready_at < n.at - interval '5 minutes' and s.paused_at is null then
           case when exists (select from awa.workers w where coalesce(q.queue = any(w.queues), true) and w.heartbeat_at > n.at - interval '1 minute')
             then 'Its workers do not keep up: run more of them.' else 'No registered worker is alive that works on it.' end
         end,
         jsonb_build_object('available', q.available, 'running', q.running, 'oldest_ready_seconds', floor(extract(epoch from n.at - q.oldest_ready_at)), 'paused_at', s.paused_at)
    from awa.queue_counts(null) q
   cross join now n
    left join (select distinct x.queue_id, x.name from awa.queues x) x on x.name = q.queue
    left join awa.queue_settings s on s.queue_id = x.queue_id
  union all
  select 6, case when w.heartbeat_at < n.at - interval '1 minute' then 'warning' else 'ok' end, 'worker', format('%s (%s)', w.name, w.worker_id),
         format(case when w.heartbeat_at < n.at - interval '1 minute' then 'no heartbeat for %s' else 'alive, %s after its last heartbeat' end, awa._in_words(n.at - w.heartbeat_at)),
         case when w.heartbeat_at < n.at - interval '1 minute' then 'Its jobs run again when their leases are over; after an hour it is forgotten.' end,
         jsonb_build_object('worker_id', w.worker_id, 'silent_seconds', floor(extract(epoch from n.at - w.heartbeat_at)))
    from awa.workers w
   cross join now n
  union all
  -- Who keeps old rows from being removed, here and everywhere else in the database.
  select 7, case when h.since < n.at - interval '1 hour' then 'warning' else 'ok' end, 'horizon', h.holder,
         format('%s for %s: no row that was deleted since can be removed', h.what, awa._in_words(n.at - h.since)),
         case when h.since < n.at - interval '1 hour' then 'Claims are as fast as ever. End it for the sake of other tables, and for segments to be emptied.' end,
         jsonb_build_object('pid', h.pid, 'seconds', floor(extract(epoch from n.at - h.since)), 'transactions', h.transactions)
    from now n
   cross join lateral (
      select awa._backend(a.pid) as holder, 'a transaction has been open' as what, coalesce(a.xact_start, a.backend_start) as since, a.pid, greatest(age(a.backend_xmin), age(a.backend_xid)) as transactions
        from pg_stat_activity a
       where (a.backend_xmin is not null or a.backend_xid is not null) and a.pid <> pg_backend_pid() and a.backend_type is distinct from 'autovacuum worker'
         and (a.datid is null or a.datid = (select d.oid from pg_database d where d.datname = current_database()))
      union all
      select 'prepared transaction ' || p.gid, 'it has been prepared', p.prepared, null, age(p.transaction) from pg_prepared_xacts p where p.database = current_database()
      union all
      select 'replication slot ' || s.slot_name, 'it has kept rows, at least', n.at, null, age(s.xmin) from pg_replication_slots s where s.xmin is not null
    ) h
   where h.since < n.at - interval '1 minute' or h.pid is null
  union all
  select 8, case when c.is_current and c.entry_bytes > 4 * s.segment_bytes then 'warning' else 'ok' end, 'segment', 'segment ' || c.segment,
         case when c.is_current then format('current for %s, %s', awa._in_words(n.at - c.left_at), pg_size_pretty(c.bytes))
              when c.is_empty then 'empty'
              else format('left %s ago, %s%s', awa._in_words(n.at - c.left_at), pg_size_pretty(c.bytes), case when c.segment = r.cleaned_segment then ', cleaned' else '' end) end,
         case when c.is_current and c.entry_bytes > 4 * s.segment_bytes then 'The next one is not empty yet: see prune, or keep completed jobs for a shorter time (completed_retention).' end,
         jsonb_build_object('bytes', c.bytes, 'is_current', c.is_current, 'is_empty', c.is_empty, 'seconds', floor(extract(epoch from n.at - c.left_at)))
    from segments c
   cross join settings s
   cross join ring r
   cross join now n
)
select r.level, r.topic, r.subject, r.message, r.hint, r.details
  from rows r
 order by array_position('{critical,warning,ok}', r.level), r.place, r.subject
$$;
comment on function awa.health is 'How the installation is: what needs somebody first, in words';

-- A length of time, to the second.
create or replace function awa._in_words(length interval) returns text
language sql stable
return justify_hours(date_trunc('second', greatest(length, '0')))::text;
comment on function awa._in_words is 'A length of time, to the second';

-- A session: its process id, and what it calls itself.
create or replace function awa._backend(pid int) returns text
language sql stable
return (
  select format('backend %s (%s)', a.pid, concat_ws(', ', a.usename, nullif(a.application_name, ''), nullif(a.state, 'active'))) from pg_stat_activity a where a.pid = _backend.pid);
comment on function awa._backend is 'A session: its process id, and what it calls itself';

-- Claimers that hold a queue, because their clients have not read what they claimed for ten seconds.
create or replace view awa._stuck_claimers as
select a.pid, a.usesysid, q.name as queue, a.query_start as since
  from pg_stat_activity a
  join pg_locks l on l.pid = a.pid and l.locktype = 'advisory' and l.granted and l.objsubid = 1
   and l.database = (select d.oid from pg_database d where d.datname = current_database())
  join (select distinct q.queue_id, q.name from awa.queues q) q on - q.queue_id = l.classid::bigint << 32 | l.objid::bigint
 where a.wait_event = 'ClientWrite' and a.query_start < clock_timestamp() - interval '10 seconds';
comment on view awa._stuck_claimers is 'Claimers whose clients have not read what they claimed';
