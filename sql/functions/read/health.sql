-- The row that health returns, one per thing that is looked at.
create or replace view awa.health_row as
select q.name as level, q.name as topic, q.name as subject, q.name as message, q.name as hint, w.info as details
  from awa.queues q, awa.workers w
 where false;
comment on view awa.health_row is
  'The row that health returns, one per thing that is looked at. The view itself is always empty';

-- The condition of the installation: one row per topic, the most urgent first.
-- level is ok, warning or critical; topic is restore, maintenance, prune, claimer, queue, group, failures, refusals,
-- schedule, worker, horizon, segment or notifications; message describes it in words, hint names a remedy, details has
-- the same as numbers (seconds, bytes, process ids). Takes about a tenth of a second, and 30 ms for each thousand
-- queues in which jobs wait.
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
select h.level, h.topic, h.subject, h.message, h.hint, h.details
  from awa._health_rows(null) h
 order by array_position('{critical,warning,ok}', h.level), h.ordinal, h.subject
$$;
comment on function awa.health is 'The condition of the installation: one row per topic, the most urgent first';

-- The rows of health, of some topics, or of all.
-- Why: a part whose condition does not hold is not called.
create or replace function awa._health_rows(topics text[]) returns table (
  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
)
language sql stable
as $$
select r.ordinal, r.level, r.topic, r.subject, r.message, r.hint, r.details
  from (
    select * from awa._health_maintenance() where topics is null or topics && '{restore,maintenance}'
    union all
    select * from awa._health_prune() where topics is null or 'prune' = any(topics)
    union all
    select * from awa._health_claimers() where topics is null or 'claimer' = any(topics)
    union all
    select * from awa._health_queues() where topics is null or topics && '{queue,failures}'
    union all
    select * from awa._health_groups() where topics is null or 'group' = any(topics)
    union all
    select * from awa._health_refusals() where topics is null or 'refusals' = any(topics)
    union all
    select * from awa._health_schedules() where topics is null or 'schedule' = any(topics)
    union all
    select * from awa._health_workers() where topics is null or 'worker' = any(topics)
    union all
    select * from awa._health_horizon() where topics is null or 'horizon' = any(topics)
    union all
    select * from awa._health_notifications() where topics is null or 'notifications' = any(topics)
    union all
    select * from awa._health_segments() where topics is null or 'segment' = any(topics)
  ) r
 where topics is null or r.topic = any(topics)
$$;
comment on function awa._health_rows is 'The rows of health, of some topics, or of all';

create or replace view awa.health as
select h.level, h.topic, h.subject, h.message, h.hint, h.details from awa.health() h;
comment on view awa.health is 'The condition of the installation: one row per topic, the most urgent first';

-- The segments, and how large they are.
create or replace view awa._segments as
select s.segment, s.segment = r.current_segment as is_current, awa._is_empty(s.segment) as is_empty,
       r.left_at[s.segment + 1] as left_at,
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
    select u as pass, coalesce(awa._succeeded_at(u), (select min(q.created_at) from awa.queues q)) as since
      from unnest(awa._passes()) u
  ) p
 where p.since < clock_timestamp() - t.silence and awa._maintained_at() >= clock_timestamp() - t.silence;
comment on view awa._failing_passes is 'Passes that have not succeeded, although maintenance was called';

-- The rows of health about maintenance, about a database that was restored, and about rows that are missing.
create or replace function awa._health_maintenance() returns table (
  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
)
language sql stable
as $$
with now as (
  select clock_timestamp() as at
)
select 1, 'critical', 'restore', 'database', 'it was restored from a dump: nothing is enqueued or claimed',
       'Call awa.rebase_after_restore() once.' as hint, null::jsonb as details
 where awa._is_restored() and exists (select from awa.ring)
union all
select 1, 'critical', 'restore', 'awa.' || m.name, 'it has lost its row: nothing is claimed, and maintenance fails',
       format('Run: %s.', m.cure), null
  from awa._missing_rows m
union all
-- Work that maintenance should have done by now, and passes that have not succeeded.
select 2, case when coalesce(m.late_since, f.since) is null then 'ok' else 'warning' end, 'maintenance', p.pass,
       case when coalesce(m.late_since, f.since) is null then 'it keeps up'
            else concat_ws('; ',
              case
                when m.late_since is not null then format('%s, for %s', m.problem, awa._in_words(n.at - m.late_since))
              end,
              case
                when f.since is not null
                  then format('it has not succeeded for %s, though maintenance is called',
                    awa._in_words(n.at - f.since))
              end) end,
       case when f.since is not null then
         'See the errors of those that call awa.run_maintenance(), or call this pass, too.'
            when m.late_since is not null
              then 'Run workers, or call awa.run_maintenance() every few seconds.'
                || case
                  when m.holder is not null then
                    format(' Where it is called, its work is held by %s: let its transaction end, or end it with '
                      'pg_terminate_backend.',
                      m.holder)
                  when m.job_id is not null then
                    format(' Where it is called, see the warnings of awa.run_pass(%L) about job %s.', m.pass, m.job_id)
                  else ''
                end end,
       case when coalesce(m.late_since, f.since) is not null
            then jsonb_strip_nulls(
              jsonb_build_object('late_seconds', floor(extract(epoch from n.at - coalesce(m.late_since, f.since))),
                'job_id', m.job_id, 'succeeded_at', awa._succeeded_at(f.pass))
            ) end
  from now n
 cross join unnest(array_prepend('run_maintenance', awa._passes())) p(pass)
  left join awa._late_work(n.at) m on m.pass = p.pass
  left join awa._failing_passes f on f.pass = p.pass
union all
-- Transactions that were left open after a call of maintenance, or hang in one.
select 2, 'warning', 'maintenance', awa._backend(h.pid),
       format('its transaction has held up %s for %s', h.what, awa._in_words(n.at - h.since)),
       'Let it end, or end it with pg_terminate_backend. Call maintenance in transactions of its own.',
       jsonb_build_object('pid', h.pid, 'seconds', floor(extract(epoch from n.at - h.since)))
  from awa._maintenance_holders h
 cross join now n
 where h.since < n.at - interval '1 minute'
$$;
comment on function awa._health_maintenance is
  'The rows of health about maintenance, about a database that was restored, and about rows that are missing';

-- Work that maintenance should have done by now, and the sessions that hold it.
-- Returns which pass, how much, since when, one of the jobs, and these sessions.
create or replace function awa._late_work(now timestamptz) returns table (
  pass text, problem text, late_since timestamptz, job_id bigint, holder text
)
language sql stable
as $$
select 'run_maintenance', 'it was not called', (
  select m.at
    from awa.settings s
   cross join (select coalesce(awa._maintained_at(), (select min(q.created_at) from awa.queues q)) as at) m
   where m.at < now - s.warn_silence), null::bigint, null
union all
(select 'promote_due', 'jobs that are due wait', d.run_at, d.job_id, awa._row_holder('awa.deferred_jobs', d.xmax)
   from (select) x
   left join lateral (
     select d.run_at, d.job_id, d.xmax
       from awa.deferred_jobs d
      where d.run_at < now - interval '30 seconds'
      order by d.run_at, d.job_id
      limit 1
   ) d on true)
union all
(select 'fire_due', 'schedules that are due wait', s.next_at, null::bigint, null
   from (select) x
   left join lateral (
     select s.next_at
       from awa.schedules s
      where s.next_at < awa._schedule_clock() - interval '1 minute'
      order by s.next_at
      limit 1
   ) s on true)
union all
(select 'apply_changes', format('change %s does not go on', c.change_id), c.moved_at, null::bigint,
        awa._row_holder('awa.changes', c.xmax)
   from (select) x
   left join lateral (
     select c.change_id, c.moved_at, c.xmax
       from awa.changes c
      where c.state = 'running' and c.moved_at < now - interval '5 minutes'
      order by c.moved_at
      limit 1
   ) c on true)
union all
select * from awa._late_attempts(now)
union all
select * from awa._late_history(now)
union all
select s.*, null from awa._late_segments(now) s
$$;
comment on function awa._late_work is 'Work that maintenance should have done by now, and the sessions that hold it';

-- Open attempts that rescue or materialize should have taken by now, as _late_work returns them.
create or replace function awa._late_attempts(now timestamptz) returns table (
  pass text, problem text, late_since timestamptz, job_id bigint, holder text
)
language sql stable
as $$
with open as (
  select o.job_id, o.claimed_at, d.is_overdue
    from awa._open_items o
   cross join lateral awa._is_overdue(o.lease_until + interval '30 seconds', o.deadline_at + interval '30 seconds',
      o.lease_until - o.claimed_at + interval '30 seconds', o.worker_id, now) d(is_overdue)
   where o.queue_id = any(array(select awa._queue_of(l.lane) from awa._lanes_in_use() l where not l.is_counted))
)
select 'rescue', 'attempts that are overdue run on',
       least(l.claimed_at, (select min(o.claimed_at) from open o where o.is_overdue)), null::bigint,
       awa._row_holder('awa.leases', l.xmax)
  from (select) x
  left join lateral (
    select l.claimed_at, l.xmax
      from awa.leases l
     cross join lateral awa._is_overdue(l.lease_until + interval '30 seconds', l.deadline_at + interval '30 seconds',
        l.lease + interval '30 seconds', l.worker_id, now) d(is_overdue)
     where d.is_overdue
     order by l.claimed_at
     limit 1
  ) l on true
union all
select 'materialize', 'long-running attempts have no rows of their own', o.claimed_at, o.job_id, null
  from (select) x
  left join lateral (
    select * from open o where o.claimed_at < now - interval '1 minute' order by o.claimed_at limit 1
  ) o on true
$$;
comment on function awa._late_attempts is
  'Open attempts that rescue or materialize should have taken by now, as _late_work returns them';

-- Ended jobs that expire_history should have removed by now, as _late_work returns them.
create or replace function awa._late_history(now timestamptz) returns table (
  pass text, problem text, late_since timestamptz, job_id bigint, holder text
)
language sql stable
as $$
select 'expire_history', 'jobs are past their retention', e.until, e.job_id,
       awa._row_holder('awa.done_entries', e.held_by)
  from (select) x left join lateral (
  select e.until, e.job_id, e.held_by
    from (
      (
        select d.finalized_at + s.completed_retention as until, d.job_id, d.xmax as held_by
          from awa.done_entries d, awa.settings s
         where d.state = 'completed'
         order by d.finalized_at
         limit 1
      )
      union all
      -- Of those that are kept longer, the first hundred of each state will do.
      select d.finalized_at + awa._retention(f.state, q.failed_retention, q.dlq_retention), d.job_id, d.xmax
        from unnest(awa._states('done')) f(state)
       cross join lateral (
          select d.lane, d.job_id, d.finalized_at, d.xmax
            from awa.done_entries d
           where d.state = f.state and d.state <> 'completed'
           order by d.job_id
           limit 100
        ) d
        left join awa.queue_settings q on q.queue_id = awa._queue_of(d.lane)
    ) e
   where e.until < now - interval '1 hour'
   order by e.until
   limit 1) e on true
$$;
comment on function awa._late_history is
  'Ended jobs that expire_history should have removed by now, as _late_work returns them';

-- Segments that rotate or prune_oldest should have taken by now, as _late_work returns them.
create or replace function awa._late_segments(now timestamptz) returns table (
  pass text, problem text, late_since timestamptz, job_id bigint
)
language sql stable
as $$
with segments as materialized (
  select * from awa._segments
)
select 'rotate', 'the current segment should have been left', (
  select c.left_at + s.segment_age
    from segments c, awa.settings s
   where c.is_current
     and not c.is_empty
     and (select x.is_empty from segments x where x.segment = (c.segment + 1) % 4)
     and c.left_at < now - s.segment_age - interval '1 hour'
  union all
  select c.left_at
    from segments c, awa.settings s
   where c.is_current
     and c.entry_bytes > 4 * s.segment_bytes
     and (select x.is_empty from segments x where x.segment = (c.segment + 1) % 4)
   limit 1), null::bigint
union all
select 'prune_oldest', 'the oldest segment is past its retention', (
  select min(c.left_at) + s.completed_retention from segments c, awa.settings s, awa.ring r
   where not c.is_current and not c.is_empty and r.outcome is null
   group by s.completed_retention having min(c.left_at) < now - s.completed_retention - interval '1 hour'), null
$$;
comment on function awa._late_segments is
  'Segments that rotate or prune_oldest should have taken by now, as _late_work returns them';

-- The sessions in the way of emptying the oldest segment, by the outcome of its last call: in words, and their pids.
create or replace function awa._prune_obstacles(ring awa.ring) returns table (holders text, pids jsonb)
language sql stable
as $$
with segments as materialized (
  select * from awa._segments
)
select string_agg(distinct l.holder, ', ') as holders, to_jsonb(array_agg(distinct l.pid)) as pids
  from (
    select l.pid, l.holder
      from awa._locks l
     where ring.outcome = 'blocked'
       and l.relation in (
         select format('awa.%s_%s', f,
           coalesce(ring.cleaned_segment,
             (
               select s.segment
                 from segments s
                where not s.is_current and not s.is_empty
                order by (s.segment - ring.current_segment + 4) % 4
                limit 1
             )))::regclass
           from unnest(awa._families()) f)
    union all
    -- Locks of queues, of claims and of the counts, and of the ring, but for those of a moment.
    select l.pid, l.holder
      from awa._locks l
     where ring.outcome = 'busy'
       and l.pid is distinct from pg_backend_pid()
       and l.since < clock_timestamp() - interval '1 second'
       and (
         l.key < 0 and l.key >= awa._crowd_key() or l.relation = 'awa.ring'::regclass and l.mode = 'RowShareLock'
       )
    union all
    select a.pid, awa._backend(a.pid)
      from pg_stat_activity a
     where ring.outcome = 'waiting'
       and a.pid <> pg_backend_pid()
       and a.datid = (select d.oid from pg_database d where d.datname = current_database())
       and a.backend_xmin is not null
       and a.xact_start < clock_timestamp() - interval '1 second'
  ) l
$$;
comment on function awa._prune_obstacles is
  'The sessions in the way of emptying the oldest segment, by the outcome of its last call: in words, and their pids';

-- The rows of health about obstacles to emptying the oldest segment.
create or replace function awa._health_prune() returns table (
  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
)
language sql stable
as $$
with now as (
  select clock_timestamp() as at
), ring as (
  select * from awa.ring
)
select 3,
       case
         when r.outcome in ('unbalanced', 'damaged') then 'critical'
         when r.outcome = 'refused' or r.stuck_since < n.at - interval '1 minute' or c.tries > 2 then 'warning'
         else 'ok'
       end,
       'prune', coalesce('segment ' || r.cleaned_segment, 'oldest segment'),
       case when c.tries > 0 then format('not emptied: the last %s calls did not come to their end', c.tries)
       else format(case r.outcome
           when 'unbalanced' then 'not emptied for %s: rows are missing in it'
           when 'damaged' then 'not emptied for %s: the server can''t read jobs that are alive in it: %s'
           when 'refused' then 'not emptied for %s: the server refuses to carry what is alive in it: %s'
           when 'full' then 'not emptied for %s: more is alive in it than carry_max'
           when 'busy' then 'not emptied for %s: sessions are at work on what is alive in it: %s'
           when 'waiting' then 'not emptied for %s: there are older snapshots, or transactions: %s'
           else 'not emptied for %s: others hold locks on it: %s'
         end, awa._in_words(n.at - r.stuck_since),
         case
           when r.outcome = 'waiting' and r.old_snapshots is not null then array_to_string(r.old_snapshots, '; ')
           when r.outcome = 'damaged' then array_to_string(r.unreadable[:20], ', ')
           when r.outcome = 'refused'
             then concat_ws(', ', 'job ' || nullif(array_to_string(r.refused[:20], ', job '), ''), r.refusal)
           else coalesce(b.holders, 'no session by now, and it is tried again')
         end)
       end,
       case when c.tries > 0 then
         'Look into the server''s log, and at statement_timeout and transaction_timeout of the callers of '
         'awa.run_maintenance(). It is tried again later, in smaller parts.'
       else case r.outcome
         when 'unbalanced' then 'See awa.audit(). To empty it all the same: awa.prune_oldest(true).'
         when 'damaged'
           then 'A page is damaged: see "Jobs that can''t be read" in the reference of Awa. The others were moved.'
         when 'refused' then 'Mend the trigger or the constraint that refuses it. The others were moved.'
         when 'full' then 'Have the jobs worked on, or raise carry_max. Meanwhile the current segment grows.'
         when 'busy' then 'It is tried again. A session that is named for long should end its transaction.'
         else
           'End these transactions when they need not go on. Meanwhile the current segment grows; claims are as fast '
           'as ever.'
       end end,
       jsonb_build_object('outcome', case when c.tries > 0 then 'cut off' else r.outcome end, 'tries',
         greatest(c.tries, r.tries), 'retry_at', r.retry_at, 'pids', b.pids)
  from ring r
 cross join now n
 cross join lateral (
    -- one may be under way
    select case
      when awa._last_prune_at() > '1971-01-01' and (
        s.last_value > 1 or awa._last_prune_at() < n.at - interval '1 minute'
      )
        then s.last_value
      else 0
    end as tries
      from awa.prune_tries s
  ) c
 cross join awa._prune_obstacles(r) b
 where r.outcome is not null or c.tries > 0
$$;
comment on function awa._health_prune is 'The rows of health about obstacles to emptying the oldest segment';

-- The rows of health about segments.
create or replace function awa._health_segments() returns table (
  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
)
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
select 8, case when c.is_current and c.entry_bytes > 4 * s.segment_bytes then 'warning' else 'ok' end, 'segment',
       'segment ' || c.segment,
       case when c.is_current then format('current for %s, %s', awa._in_words(n.at - c.left_at),
         pg_size_pretty(c.bytes))
            when c.is_empty then 'empty'
            else format('left %s ago, %s%s', awa._in_words(n.at - c.left_at), pg_size_pretty(c.bytes),
              case when c.segment = r.cleaned_segment then ', cleaned' else '' end) end,
       case when not c.is_current or c.entry_bytes <= 4 * s.segment_bytes then null
            when (select x.is_empty from segments x where x.segment = (c.segment + 1) % 4)
              then 'It was not left for the next one, which is empty: see maintenance.'
            else
              'The next one is not empty yet: see prune, or keep completed jobs for a shorter time '
              '(completed_retention).' end,
       jsonb_build_object('bytes', c.bytes, 'is_current', c.is_current, 'is_empty', c.is_empty, 'seconds',
         floor(extract(epoch from n.at - c.left_at)))
  from segments c
 cross join settings s
 cross join ring r
 cross join now n
$$;
comment on function awa._health_segments is 'The rows of health about segments';

-- A length of time in words, to the second.
create or replace function awa._in_words(length interval) returns text
language sql stable
return justify_hours(date_trunc('second', greatest(length, '0')))::text;
comment on function awa._in_words is 'A length of time in words, to the second';
