-- What health returns.
create or replace view awa.health_row as
select q.name as level, q.name as topic, q.name as subject, q.name as message, q.name as hint, w.info as details from awa.queues q, awa.workers w where false;
comment on view awa.health_row is 'The row that health returns, one per thing that is looked at. The view itself is always empty';

-- How the installation is: one row per thing that is looked at, those that need somebody first. level is ok, warning or
-- critical; topic is restore, maintenance, prune, claimer, queue, failures, refusals, worker, horizon, segment or
-- notifications; message says it in words, hint what to do, details the same as numbers (seconds, bytes, process ids).
-- Takes about a tenth of a second.
create or replace function awa.health() returns setof awa.health_row
language sql stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_mergejoin = off
set jit = off
as $$
select r.level, r.topic, r.subject, r.message, r.hint, r.details
  from (
    select * from awa._health_maintenance()
    union all
    select * from awa._health_segments()
    union all
    select * from awa._health_queues()
    union all
    select * from awa._health_sessions()
  ) r
 order by array_position('{critical,warning,ok}', r.level), r.place, r.subject
$$;
comment on function awa.health is 'How the installation is: what needs somebody first, in words';

create or replace view awa.health as
select h.level, h.topic, h.subject, h.message, h.hint, h.details from awa.health() h;
comment on view awa.health is 'How the installation is: what needs somebody first, in words';

-- The segments, and how large they are.
create or replace view awa._segments as
select s.segment, s.segment = r.current_segment as is_current, awa._is_empty(s.segment) as is_empty, r.left_at[s.segment + 1] as left_at,
       (select sum(pg_total_relation_size(format('awa.%s_%s', f, s.segment)::regclass))
          from unnest(awa._families()) f)::bigint as bytes,
       pg_relation_size(format('awa.ready_entries_%s', s.segment)::regclass) as entry_bytes
  from awa.ring r
 cross join generate_series(0, 3) s(segment);
comment on view awa._segments is 'The segments, and how large they are';

-- Passes that have not succeeded for warn_silence, and a minute at least, although maintenance was called meanwhile;
-- and since when.
create or replace view awa._failing_passes as
select p.pass, p.since
  from awa.settings s
 cross join lateral (select greatest(s.warn_silence, interval '1 minute') as silence) t
 cross join lateral (
    select u as pass, coalesce(awa._succeeded_at(u), (select min(q.created_at) from awa.queues q)) as since from unnest(awa._passes()) u
  ) p
 where p.since < clock_timestamp() - t.silence and awa._maintained_at() >= clock_timestamp() - t.silence;
comment on view awa._failing_passes is 'Passes that have not succeeded, although maintenance was called';

-- What health says of maintenance, and of a database that was restored.
create or replace function awa._health_maintenance() returns table (place int, level text, topic text, subject text, message text, hint text, details jsonb)
language sql stable
as $$
with now as (
  select clock_timestamp() as at
), ring as (
  select * from awa.ring
), settings as (
  select * from awa.settings
), segments as materialized (
  select * from awa._segments
), open as (
  select o.job_id, o.claimed_at, awa._is_overdue(o.lease_until + interval '30 seconds', o.deadline_at + interval '30 seconds', o.lease_until - o.claimed_at + interval '30 seconds', o.worker_id, n.at) as is_overdue
    from awa._open_items o
   cross join now n
   where o.queue_id = any(array(select awa._queue_of(l.lane) from awa._lanes_in_use() l where not l.is_counted))
)
select 1, 'critical', 'restore', 'database', 'it was restored from a dump: nothing is enqueued or claimed',
       'Call awa.rebase_after_restore() once.' as hint, null::jsonb as details
 where awa._is_restored()
union all
-- Work that maintenance should have done by now, and passes that have not succeeded.
select 2, case when coalesce(m.late_since, f.since) is null then 'ok' else 'warning' end, 'maintenance', m.pass,
       case when coalesce(m.late_since, f.since) is null then 'it keeps up'
            else concat_ws('; ', case when m.late_since is not null then format('%s, for %s', m.problem, awa._in_words(n.at - m.late_since)) end, case when f.since is not null then format('it has not succeeded for %s, though maintenance is called', awa._in_words(n.at - f.since)) end) end,
       case when f.since is not null then 'See the errors of those that call awa.run_maintenance(), or call this pass, too.'
            when m.late_since is not null then 'Run workers, or call awa.run_maintenance() every few seconds.' || case when m.job_id is null then '' else format(' Where somebody does, something is in the way of job %s: see the server''s log.', m.job_id) end end,
       case when coalesce(m.late_since, f.since) is not null
            then jsonb_strip_nulls(jsonb_build_object('late_seconds', floor(extract(epoch from n.at - coalesce(m.late_since, f.since))), 'job_id', m.job_id, 'succeeded_at', awa._succeeded_at(f.pass))) end
  from now n
 cross join lateral (
    select 'run_maintenance' as pass, 'nobody has called it' as problem, (
      select m.at from (select coalesce(awa._maintained_at(), (select min(q.created_at) from awa.queues q)) as at) m, settings s where m.at < n.at - s.warn_silence) as late_since, null::bigint as job_id
    union all
    (select 'promote_due', 'jobs that are due wait', d.run_at, d.job_id
       from (select) x left join lateral (select d.run_at, d.job_id from awa.deferred_jobs d where d.run_at < n.at - interval '30 seconds' order by d.run_at, d.job_id limit 1) d on true)
    union all
    select 'rescue', 'attempts that are overdue run on', least(
      (select min(l.claimed_at) from awa.leases l where awa._is_overdue(l.lease_until + interval '30 seconds', l.deadline_at + interval '30 seconds', l.lease + interval '30 seconds', l.worker_id, n.at)),
      (select min(o.claimed_at) from open o where o.is_overdue)), null
    union all
    select 'materialize', 'attempts that last have no rows of their own', o.claimed_at, o.job_id
      from (select) x left join lateral (select * from open o where o.claimed_at < n.at - interval '1 minute' order by o.claimed_at limit 1) o on true
    union all
    select 'expire_history', 'jobs are past their retention', e.until, e.job_id from (select) x left join lateral (
      select e.until, e.job_id
        from (
          (select d.finalized_at + s.completed_retention as until, d.job_id from awa.done_entries d, settings s where d.state = 'completed' order by d.finalized_at limit 1)
          union all
          -- Of those that are kept longer, the first hundred of each state will do.
          select d.finalized_at + case f.state when 'dead' then coalesce(q.dlq_retention, '30 days') else coalesce(q.failed_retention, '72 hours') end, d.job_id
            from unnest('{failed,cancelled,dead}'::text[]) f(state)
           cross join lateral (select d.lane, d.job_id, d.finalized_at from awa.done_entries d where d.state = f.state and d.state <> 'completed' order by d.job_id limit 100) d
            left join awa.queue_settings q on q.queue_id = awa._queue_of(d.lane)
        ) e
       where e.until < n.at - interval '1 hour'
       order by e.until
       limit 1) e on true
    union all
    select 'rotate', 'the current segment should have been left', (
      select c.left_at + s.segment_age
        from segments c, settings s
       where c.is_current and not c.is_empty and (select x.is_empty from segments x where x.segment = (c.segment + 1) % 4)
         and c.left_at < n.at - s.segment_age - interval '1 hour'
      union all
      select c.left_at
        from segments c, settings s
       where c.is_current and c.entry_bytes > 4 * s.segment_bytes and (select x.is_empty from segments x where x.segment = (c.segment + 1) % 4)
       limit 1), null
    union all
    select 'prune_oldest', 'the oldest segment is past its retention', (
      select min(c.left_at) + s.completed_retention from segments c, settings s, ring r
       where not c.is_current and not c.is_empty and r.outcome is null
       group by s.completed_retention having min(c.left_at) < n.at - s.completed_retention - interval '1 hour'), null
    union all
    select p, null, null, null from unnest('{fold,end_stuck_claimers,summarize,forget_workers}'::text[]) p
  ) m
  left join awa._failing_passes f on f.pass = m.pass
union all
-- Transactions that were left open after a call of maintenance, or hang in one.
select 2, 'warning', 'maintenance', awa._backend(h.pid), format('its transaction has held up %s for %s', h.what, awa._in_words(n.at - h.since)),
       'Let it end, or end it with pg_terminate_backend. Call maintenance in transactions of its own.', jsonb_build_object('pid', h.pid, 'seconds', floor(extract(epoch from n.at - h.since)))
  from awa._maintenance_holders h
 cross join now n
 where h.since < n.at - interval '1 minute'
$$;
comment on function awa._health_maintenance is 'What health says of maintenance, and of a database that was restored';

-- What health says of segments, and of what is in the way of emptying the oldest one.
create or replace function awa._health_segments() returns table (place int, level text, topic text, subject text, message text, hint text, details jsonb)
language sql stable
as $$
with now as (
  select clock_timestamp() as at
), ring as (
  select * from awa.ring
), settings as (
  select * from awa.settings
), segments as materialized (
  select * from awa._segments
)
-- What is in the way of emptying the oldest segment.
select 3, case when r.outcome in ('unbalanced', 'damaged') then 'critical' when r.outcome = 'refused' or r.stuck_since < n.at - interval '1 minute' or c.tries > 2 then 'warning' else 'ok' end, 'prune', coalesce('segment ' || r.cleaned_segment, 'oldest segment'),
       case when c.tries > 0 then format('not emptied: the last %s calls did not come to their end', c.tries)
       else format(case r.outcome
           when 'unbalanced' then 'not emptied for %s: rows are missing in it'
           when 'damaged' then 'not emptied for %s: the server can''t read jobs that are alive in it: %s'
           when 'refused' then 'not emptied for %s: the server refuses to carry what is alive in it: %s'
           when 'full' then 'not emptied for %s: more is alive in it than carry_max'
           when 'busy' then 'not emptied for %s: somebody is at work on what is alive in it: %s'
           when 'waiting' then 'not emptied for %s: there are older snapshots: %s'
           else 'not emptied for %s: others hold locks on it: %s'
         end, awa._in_words(n.at - r.stuck_since), case when r.outcome = 'waiting' and r.old_snapshots is not null then array_to_string(r.old_snapshots, '; ') when r.outcome = 'damaged' then array_to_string(r.unreadable[:20], ', ') when r.outcome = 'refused' then concat_ws(', ', 'job ' || nullif(array_to_string(r.refused[:20], ', job '), ''), r.refusal) else coalesce(b.holders, 'nobody by now, and it is tried again') end)
       end,
       case when c.tries > 0 then 'Look into the server''s log, and at statement_timeout and transaction_timeout of whoever calls awa.run_maintenance(). It is tried again later, in smaller parts.'
       else case r.outcome
         when 'unbalanced' then 'See awa.audit(). To empty it all the same: awa.prune_oldest(true).'
         when 'damaged' then 'A page is damaged: see "Jobs that can''t be read" in the reference of Awa. The others were moved.'
         when 'refused' then 'Mend the trigger or the constraint that refuses it. The others were moved.'
         when 'full' then 'Have the jobs worked on, or raise carry_max. Meanwhile the current segment grows.'
         when 'busy' then 'It is tried again. Who is named for long should end the transaction.'
         else 'End these transactions when they need not go on. Meanwhile the current segment grows; claims are as fast as ever.'
       end end,
       jsonb_build_object('outcome', case when c.tries > 0 then 'cut off' else r.outcome end, 'tries', greatest(c.tries, r.tries), 'retry_at', r.retry_at, 'pids', b.pids)
  from ring r
 cross join now n
 cross join lateral (
    select case when awa._last_prune_at() > '1971-01-01' and (s.last_value > 1 or awa._last_prune_at() < n.at - interval '1 minute') then s.last_value else 0 end as tries from awa.prune_tries s -- one may be under way
  ) c
 cross join lateral (
    select string_agg(distinct l.holder, ', ') as holders, to_jsonb(array_agg(distinct l.pid)) as pids
      from (
        select l.pid, l.holder
          from awa._locks l
         where r.outcome = 'blocked'
           and l.relation in (
             select format('awa.%s_%s', f, coalesce(r.cleaned_segment, (select s.segment from segments s where not s.is_current and not s.is_empty order by (s.segment - r.current_segment + 4) % 4 limit 1)))::regclass
               from unnest(awa._families()) f)
        union all
        -- Locks of queues, of claims and of the counts, and of the ring, but for those of a moment.
        select l.pid, l.holder
          from awa._locks l
         where r.outcome = 'busy' and l.pid is distinct from pg_backend_pid() and l.since < n.at - interval '1 second'
           and (l.key < 0 and l.key >= awa._crowd_key() or l.relation = 'awa.ring'::regclass and l.mode = 'RowShareLock')
        union all
        select a.pid, awa._backend(a.pid)
          from pg_stat_activity a
         where r.outcome = 'waiting' and a.pid <> pg_backend_pid() and a.datid = (select d.oid from pg_database d where d.datname = current_database()) and a.backend_xmin is not null
           and a.xact_start < n.at - interval '1 second'
      ) l
  ) b
 where r.outcome is not null or c.tries > 0
union all
select 8, case when c.is_current and c.entry_bytes > 4 * s.segment_bytes then 'warning' else 'ok' end, 'segment', 'segment ' || c.segment,
       case when c.is_current then format('current for %s, %s', awa._in_words(n.at - c.left_at), pg_size_pretty(c.bytes))
            when c.is_empty then 'empty'
            else format('left %s ago, %s%s', awa._in_words(n.at - c.left_at), pg_size_pretty(c.bytes), case when c.segment = r.cleaned_segment then ', cleaned' else '' end) end,
       case when not c.is_current or c.entry_bytes <= 4 * s.segment_bytes then null
            when (select x.is_empty from segments x where x.segment = (c.segment + 1) % 4) then 'Nobody has left it for the next one, which is empty: see maintenance.'
            else 'The next one is not empty yet: see prune, or keep completed jobs for a shorter time (completed_retention).' end,
       jsonb_build_object('bytes', c.bytes, 'is_current', c.is_current, 'is_empty', c.is_empty, 'seconds', floor(extract(epoch from n.at - c.left_at)))
  from segments c
 cross join settings s
 cross join ring r
 cross join now n
$$;
comment on function awa._health_segments is 'What health says of segments, and of what is in the way of emptying the oldest one';

-- What health says of queues, and of sessions that hold their locks.
create or replace function awa._health_queues() returns table (place int, level text, topic text, subject text, message text, hint text, details jsonb)
language sql stable
as $$
with now as (
  select clock_timestamp() as at
), settings as (
  select * from awa.settings
), counts as materialized (
  select * from awa.queue_counts(null)
), locks as materialized (
  select l.* from awa._held_locks l, settings s, now n where l.since < n.at - greatest(s.claim_wait, interval '1 second')
)
select 4, 'warning', 'claimer', awa._backend(c.pid), format('holds up the claims of queue %s: its client has not read its jobs for %s', c.queue, awa._in_words(n.at - c.since)),
       'End it with pg_terminate_backend. For maintenance to do so, let a superuser say: grant pg_signal_backend to awa_owner.', jsonb_build_object('pid', c.pid, 'queue', c.queue)
  from awa._stuck_claimers c
 cross join now n
union all
-- Anybody who can connect can take these locks, also by mistake.
select 4, 'warning', 'claimer', l.holder, format('has held the lock of %s for %s: %s', l.what, awa._in_words(n.at - l.since), l.so),
       case when l.pid is null then 'Commit it, or roll it back.' else format('Let it end its transaction, or end it: select pg_terminate_backend(%s). A transaction that claims, or cancels, should commit at once.', l.pid) end,
       jsonb_strip_nulls(jsonb_build_object('queue', l.queue, 'worker_id', l.worker_id, 'claim_id', l.claim_id)) || jsonb_build_object('pid', l.pid, 'seconds', floor(extract(epoch from n.at - l.since)))
  from locks l
 cross join now n
 where not exists (select from awa._stuck_claimers c where c.pid = l.pid)
   and (l.queue is not null or not exists (select from locks q where q.queue is not null and q.pid is not distinct from l.pid and q.holder = l.holder)) -- a claim keeps its worker, too
union all
select 5, case when w.waits and s.paused_at is null then 'warning' else 'ok' end, 'queue', q.queue,
       format('%s ready', q.available)
         || case when q.oldest_ready_at is not null then format(', the oldest for %s', awa._in_words(n.at - q.oldest_ready_at)) else '' end
         || format(', %s running', q.running)
         || case when s.paused_at is not null then format('; paused for %s', awa._in_words(n.at - s.paused_at)) else '' end,
       case
         when not w.waits or s.paused_at is not null then null
         when l.holder is not null then format('Nothing is claimed from it while %s holds its lock: see claimer.', l.holder)
         when c.claimed_at > n.at - t.warn_silence and w.is_worked_on then 'Its workers do not keep up: run more of them.'
         when c.claimed_at > n.at - t.warn_silence then 'Those who claim from it, unregistered, do not keep up: run more of them.'
         when w.is_worked_on and q.running > 0 then 'Its workers are busy with what runs: run more of them, or look at what takes so long.'
         when w.is_worked_on then 'Its workers are alive, and claim nothing: see what they log.'
         else 'No registered worker is alive that works on it.'
       end,
       jsonb_build_object('available', q.available, 'running', q.running, 'oldest_ready_seconds', floor(extract(epoch from n.at - q.oldest_ready_at)), 'paused_at', s.paused_at)
  from counts q
 cross join now n
 cross join settings t
  cross join lateral (select awa._queue_id(q.queue) as queue_id) x
  left join awa.queue_settings s on s.queue_id = x.queue_id
 cross join lateral (
    select coalesce(q.oldest_ready_at < n.at - t.warn_ready_age, false) as waits,
           exists (select from awa.workers w where coalesce(q.queue = any(w.queues), true) and w.heartbeat_at > n.at - t.warn_silence) as is_worked_on
 ) w
  left join lateral (select string_agg(l.holder, ', ') as holder from locks l where l.queue = q.queue) l on true
  left join lateral (
    select max(c.claimed_at) as claimed_at
      from awa._lanes_of(x.queue_id) l
     cross join lateral (select c.claimed_at from awa.lease_claims c where c.lane = l.lane and c.job_ids <> '{}' order by c.lane_seq desc limit 1) c
     where w.waits
 ) c on true
union all
-- Of the jobs that ended of late, how many failed. Of the hundred queues with most of these: others have few.
select 5, case when f.failed >= 3 and f.failed > t.warn_failed_share * (f.failed + f.completed) then 'warning' else 'ok' end, 'failures', q.queue,
       format('of %s jobs that ended in the last %s, %s failed in their last attempt', f.failed + f.completed, awa._in_words(n.at - f.counted_since), f.failed),
       case when f.failed >= 3 and f.failed > t.warn_failed_share * (f.failed + f.completed) then 'See why: the errors of its jobs that are failed, dead or retryable, in awa.jobs.' end,
       jsonb_build_object('failed', f.failed, 'completed', f.completed, 'seconds', floor(extract(epoch from n.at - f.counted_since)))
  from (select c.queue from counts c where c.failed + c.dead + c.retryable > 0 order by c.failed + c.dead + c.retryable desc limit 100) q
 cross join now n
 cross join settings t
 cross join lateral (select awa._queue_id(q.queue) as queue_id) x
 cross join lateral awa._results(x.queue_id, n.at - interval '1 day') f
 where f.failed > 0
union all
-- Jobs that were put off, because the server refuses to store how they failed, or to make them ready; of the first
-- 10,000 of these.
select 5, 'warning', 'refusals', coalesce((select x.name from awa.queues x where x.queue_id = q.queue_id limit 1), '?'),
       format('jobs that are put off, because the server refuses to store how they failed, or to make them ready: %s; the last one is job %s, in attempt %s of %s: %s', q.jobs, d.job_id, d.errors -> -1 ->> 'attempt', d.max_attempts, left(d.errors -> -1 ->> 'error', 300)),
       'Mend the trigger or the constraint that refuses it. They run again within an hour; at once after awa.retry.',
       jsonb_build_object('jobs', q.jobs, 'job_id', d.job_id, 'run_at', d.run_at)
  from (
    select awa._queue_of(p.lane) as queue_id, count(*) as jobs, (array_agg(p.job_id order by p.attempted_at desc, p.job_id desc))[1] as job_id
      from (select d.lane, d.job_id, d.attempted_at from awa.deferred_jobs d where (d.errors -> -1) ? 'put_off' limit 10000) p
     group by 1
  ) q
  join awa.deferred_jobs d on d.job_id = q.job_id
$$;
comment on function awa._health_queues is 'What health says of queues, and of sessions that hold their locks';

-- What health says of workers, of old snapshots, and of notifications.
create or replace function awa._health_sessions() returns table (place int, level text, topic text, subject text, message text, hint text, details jsonb)
language sql stable
as $$
with now as (
  select clock_timestamp() as at
), settings as (
  select * from awa.settings
)
select 6, case when w.heartbeat_at < n.at - t.warn_silence then 'warning' else 'ok' end, 'worker', format('%s (%s)', w.name, w.worker_id),
       format(case when w.heartbeat_at < n.at - t.warn_silence then 'no heartbeat for %s' else 'alive, %s after its last heartbeat' end, awa._in_words(n.at - w.heartbeat_at)),
       case when w.heartbeat_at < n.at - t.warn_silence then 'Its jobs run again when their leases are over; after an hour it is forgotten.' end,
       jsonb_build_object('worker_id', w.worker_id, 'silent_seconds', floor(extract(epoch from n.at - w.heartbeat_at)))
  from awa.workers w
 cross join now n
 cross join settings t
union all
-- Who keeps old rows from being removed, here and everywhere else in the database.
select 7, case when (h.since < n.at - t.warn_transaction_age or h.is_abandoned) then 'warning' else 'ok' end, 'horizon', h.holder,
       format('%s for %s: no row that was deleted since can be removed', h.what, awa._in_words(n.at - h.since)),
       case when (h.since < n.at - t.warn_transaction_age or h.is_abandoned) then 'Claims are as fast as ever. End it (a replication slot: drop it) for the sake of other tables, and for segments to be emptied.' end,
       jsonb_build_object('pid', h.pid, 'seconds', floor(extract(epoch from n.at - h.since)), 'transactions', h.transactions)
  from now n
 cross join settings t
 cross join lateral (
    select awa._backend(a.pid) as holder, 'a transaction has been open' as what, coalesce(a.xact_start, a.backend_start) as since, a.pid, greatest(age(a.backend_xmin), age(a.backend_xid)) as transactions, false as is_abandoned
      from pg_stat_activity a
     where (a.backend_xmin is not null or a.backend_xid is not null) and a.pid <> pg_backend_pid() and a.backend_type is distinct from 'autovacuum worker'
       and (a.datid is null or a.datid = (select d.oid from pg_database d where d.datname = current_database()))
    union all
    select 'prepared transaction ' || p.gid, 'it has been prepared', p.prepared, null, age(p.transaction), false from pg_prepared_xacts p where p.database = current_database()
    union all
    select 'replication slot ' || s.slot_name, case when s.active then 'it has kept rows, at least' else 'nobody uses it, and it has kept rows, at least' end, n.at, null, age(s.xmin), not s.active from pg_replication_slots s where s.xmin is not null
  ) h
 where h.since < n.at - interval '1 minute' or h.pid is null
union all
-- A listener holds the server's queue of notifications while it is in a transaction. The server does not say who
-- listens: the oldest transaction, of one whose last statement was a listen if there is any.
select 9, case when u.usage >= 0.5 then 'warning' else 'ok' end, 'notifications', 'notification queue',
       format('%s %% full', round(u.usage::numeric * 100))
         || case when not s.notifications then '; workers are not notified (setting notifications), and poll'
                 when u.usage >= 0.5 then '; workers are not notified, and poll' else '' end
         || case when u.usage >= 0.5 then format('; held by a listener, most likely %s', coalesce(format('%s, in a transaction for %s', awa._backend(l.pid), awa._in_words(n.at - l.xact_start)), 'one that has just gone')) else '' end,
       case when u.usage >= 0.5 then 'End that transaction, or the session (pg_terminate_backend). Until then jobs wait for the poll interval of their workers. When the queue is full, transactions that notify fail; those of awa do not notify.'
            when not s.notifications then 'Jobs wait for the poll interval of their workers, usually a second. Where that is not meant: select awa.configure(''{"notifications": true}'').' end,
       jsonb_build_object('usage', u.usage, 'pid', l.pid)
  from now n
 cross join settings s
 cross join (select pg_notification_queue_usage() as usage) u
  left join lateral (
    select a.pid, a.xact_start from pg_stat_activity a
     where u.usage >= 0.5 and a.xact_start is not null and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
     order by a.query ~* '^[[:space:]]*listen[[:>:]]' desc, a.xact_start
     limit 1
  ) l on true
$$;
comment on function awa._health_sessions is 'What health says of workers, of old snapshots, and of notifications';

-- A length of time, to the second.
create or replace function awa._in_words(length interval) returns text
language sql stable
return justify_hours(date_trunc('second', greatest(length, '0')))::text;
comment on function awa._in_words is 'A length of time, to the second';

-- Who holds a lock in this database, and at least since when: since the end of the last statement, the beginning of
-- this one, or since others wait. key is that of an advisory lock.
create or replace view awa._locks as
select l.pid, case when l.pid is null then coalesce('prepared transaction ' || p.gid, 'a prepared transaction') else awa._backend(l.pid) end as holder, l.relation, l.mode,
       case when l.locktype = 'advisory' and l.objsubid = 1 then l.classid::bigint << 32 | l.objid::bigint end as key,
       coalesce(p.prepared, case when a.state = 'active' then a.query_start else a.state_change end, (
         select min(w.waitstart) from pg_locks w where w.locktype = l.locktype and not w.granted and w.database = l.database
            and (w.relation, w.classid, w.objid, w.objsubid) is not distinct from (l.relation, l.classid, l.objid, l.objsubid))) as since
  from pg_locks l
  left join pg_stat_activity a on a.pid = l.pid
  left join pg_locks x on l.pid is null and x.pid is null and x.locktype = 'transactionid' and x.granted and x.virtualtransaction = l.virtualtransaction
  left join pg_prepared_xacts p on p.transaction = x.transactionid
 where l.granted and l.locktype in ('relation', 'advisory') and l.database = (select d.oid from pg_database d where d.datname = current_database());
comment on view awa._locks is 'Who holds a lock in this database, and at least since when';

-- Who else holds a lock that others wait for: of a queue, of a worker, of a claim, or of those that answer for very
-- many claims. Not the shared lock of a claim, which an answer may keep in a long transaction; for that of the counts
-- see _maintenance_holders.
create or replace view awa._held_locks as
select l.pid, l.holder, l.since, q.name as queue, w.worker_id, c.claim_id,
       case when q.name is not null then 'queue ' || q.name when w.worker_id is not null then 'worker ' || w.worker_id when c.claim_id is not null then 'claim ' || c.claim_id else 'answers for many claims' end as what,
       case when q.name is not null then 'nothing is claimed from it'
            when w.worker_id is null then 'answers wait'
            when l.mode = 'ShareLock' then 'it can''t be ended'
            else 'it claims nothing' end as so
  from awa._locks l
  left join lateral (select q.name from awa.queues q where l.mode = 'ExclusiveLock' and q.queue_id = case when l.key between -1152921504606846976 and 0 then (- l.key) >> 6 end limit 1) q on true
  left join lateral (select w.worker_id from awa.workers w where awa._worker_key(w.worker_id) = l.key limit 1) w on true
  left join lateral (select c.claim_id from awa.lease_claims c where l.mode = 'ExclusiveLock' and c.claim_id = case when l.key < 0 then l.key + 4611686018427387904 end limit 1) c on true
 where l.pid is distinct from pg_backend_pid()
   and (q.name is not null or w.worker_id is not null or c.claim_id is not null or l.mode = 'ExclusiveLock' and l.key = awa._crowd_key());
comment on view awa._held_locks is 'Who else holds a lock that others wait for';

-- How many jobs of a queue failed in their last attempt since a time, those included that wait for a retry, and how
-- many completed. Looks at the last 200 claims of each lane, and counts from where that begins; counts no more than
-- 10,001 of each kind that have rows of their own.
create or replace function awa._results(queue_id bigint, since timestamptz, out counted_since timestamptz, out failed bigint, out completed bigint) returns record
language plpgsql stable
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_variable
declare
  v_claims bigint[];
begin
  select coalesce(array_agg(c.claim_id), '{}'), greatest(since, max(l.since)) into v_claims, counted_since
    from (
      select array_agg(c.claim_id) as claims, case when count(*) = 200 then min(c.claimed_at) end as since
        from awa._lanes_of(queue_id) l
       cross join lateral (select c.claim_id, c.claimed_at from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 200) c
       group by l.lane
    ) l
   cross join unnest(l.claims) c(claim_id);
  select coalesce(sum(k.completed), 0) into completed
    from unnest(v_claims) c
   cross join lateral (
      select coalesce(cardinality(k.items), 1) as completed
        from awa.lease_claim_closures k
       where k.claim_id = c and k.outcome in ('completed', 'completed_with_row') and k.closed_at >= counted_since
      offset 0
    ) k;
  completed := completed + (
    select count(*)
      from (select from awa._lanes_of(queue_id) l
             cross join lateral (select from awa.done_entries d where d.lane = l.lane and d.state = 'completed' and not d.counted_by_closure and d.finalized_at >= counted_since limit 10001) d
             limit 10001) d);
  failed := (
    select count(*)
      from awa._lanes_of(queue_id) l
     cross join lateral (
        (select from awa.done_entries d where d.lane = l.lane and d.state = 'failed' and not d.counted_by_closure and d.finalized_at >= counted_since limit 10001)
        union all
        (select from awa.done_entries d where d.lane = l.lane and d.state = 'dead' and not d.counted_by_closure and d.finalized_at >= counted_since limit 10001)
        union all
        (select from (select d.attempted_at from awa.deferred_jobs d where d.lane = l.lane and d.state = 'retryable' limit 10001) d where d.attempted_at >= counted_since)
      ) d);
end
$$;
comment on function awa._results is 'How many jobs of a queue failed in their last attempt since a time, and how many completed';

-- Transactions that hold what maintenance needs: the lock of the counts, the row of ring, or the lock of a pass.
create or replace view awa._maintenance_holders as
select a.pid, a.xact_start as since,
       case when bool_or(l.key = awa._fold_key()) then 'counting, expiry, and the emptying of segments'
            when bool_or(l.key is null) then 'the turning of segments'
            else string_agg(p, ', ') end as what
  from (
    select l.*, case when l.locktype = 'advisory' and l.objsubid = 1 then l.classid::bigint << 32 | l.objid::bigint end as key from pg_locks l
  ) l
  left join unnest(awa._passes()) p on awa._pass_key(p) = l.key
  join pg_stat_activity a on a.pid = l.pid
 where l.database = (select d.oid from pg_database d where d.datname = current_database()) and l.granted and l.pid <> pg_backend_pid()
   and (l.key = awa._fold_key() or p is not null
     or l.locktype = 'relation' and l.relation = 'awa.ring'::regclass and l.mode <> 'AccessShareLock')
 group by a.pid, a.xact_start;
comment on view awa._maintenance_holders is 'Transactions that hold what maintenance needs';
