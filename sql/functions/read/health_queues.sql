-- Health of queues, and of sessions that hold their locks.

-- The rows of health about sessions that hold the locks of queues.
create or replace function awa._health_claimers() returns table (
  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
)
language sql stable
as $$
with now as (
  select clock_timestamp() as at
), settings as (
  select * from awa.settings
), held as materialized (
  select l.*
    from awa._held_locks l, settings s, now n
   where l.since < n.at - greatest(s.claim_wait, interval '1 second')
), locks as (
  select l.pid, l.holder, l.mode, l.since, l.queue, l.worker_id, l.claim_id, l.what, l.so from held l
   where l.queue is null
  union all
  -- of the shards of a queue one row
  select l.pid, l.holder, null, min(l.since), l.queue, null, null,
         case
           when min(l.what) = max(l.what) then min(l.what)
           else format('%s shards of queue %s', count(*), l.queue)
         end,
         min(l.so)
    from held l
   where l.queue is not null
   group by l.pid, l.holder, l.queue
)
select 4, 'warning', 'claimer', awa._backend(c.pid),
       format('holds up the claims of queue %s: its client has not read its jobs for %s', c.queue,
         awa._in_words(n.at - c.since)),
       format('End it with pg_terminate_backend. For maintenance to do so, let a superuser say: grant '
         'pg_signal_backend to %I.', current_user), -- whom maintenance runs as, too
       jsonb_build_object('pid', c.pid, 'queue', c.queue)
  from awa._stuck_claimers c
 cross join now n
union all
-- Anybody who can connect can take these locks, also by mistake.
select 4, 'warning', 'claimer', l.holder,
       format('has held the lock of %s for %s: %s', l.what, awa._in_words(n.at - l.since), l.so),
       case
         when l.pid is null then 'Commit it, or roll it back.'
         else format(
           'Let it end its transaction, or end it: select pg_terminate_backend(%s). A transaction that claims, or '
           'cancels, should commit at once.',
           l.pid)
       end,
       jsonb_strip_nulls(jsonb_build_object('queue', l.queue, 'worker_id', l.worker_id, 'claim_id', l.claim_id))
         || jsonb_build_object('pid', l.pid, 'seconds', floor(extract(epoch from n.at - l.since)))
  from locks l
 cross join now n
 where not exists (select from awa._stuck_claimers c where c.pid = l.pid)
   -- a claim holds its worker, too
   and (
     l.worker_id is null
       or l.mode <> 'ShareLock'
       or not exists (
         select from locks q where q.queue is not null and q.pid is not distinct from l.pid and q.holder = l.holder
       )
   )
$$;
comment on function awa._health_claimers is 'The rows of health about sessions that hold the locks of queues';

-- The rows of health about queues.
create or replace function awa._health_queues() returns table (
  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
)
language sql stable
as $$
with now as (
  select clock_timestamp() as at
), settings as (
  select * from awa.settings
), counts as materialized (
  select * from awa.queue_counts(null)
), locks as materialized (
  select l.*
    from awa._held_locks l, settings s, now n
   where l.since < n.at - greatest(s.claim_wait, interval '1 second')
)
select 5, case when w.waits and s.paused_at is null then 'warning' else 'ok' end, 'queue', q.queue,
       format('%s ready', q.available)
         || case
           when q.oldest_ready_at is not null
             then format(', the oldest for %s', awa._in_words(n.at - q.oldest_ready_at))
           else ''
         end
         || format(', %s running', q.running)
         || case
           when s.paused_at is not null then format('; paused for %s', awa._in_words(n.at - s.paused_at))
           else ''
         end,
       case
         when not w.waits or s.paused_at is not null then null
         when l.holder is not null
           then format('Nothing is claimed from it while %s holds its lock: see claimer.', l.holder)
         when q.limited >= q.available
           then 'All that is ready waits for a limit, of the queue or of its groups: more workers begin none of it.'
         when c.claimed_at > n.at - t.warn_silence and w.is_worked_on
           then 'Its workers do not keep up: run more of them.'
         when c.claimed_at > n.at - t.warn_silence
           then 'Callers that claim from it, unregistered, do not keep up: run more of them.'
         when w.is_worked_on and q.running > 0
           then 'Its workers are busy with what runs: run more of them, or look at what takes so long.'
         when w.is_worked_on then 'Its workers are alive, and claim nothing: see what they log.'
         else 'No registered worker is alive that works on it.'
       end,
       jsonb_build_object('available', q.available, 'running', q.running, 'oldest_ready_seconds',
         floor(extract(epoch from n.at - q.oldest_ready_at)), 'paused_at', s.paused_at)
  from counts q
 cross join now n
 cross join settings t
  cross join lateral (select awa._queue_id(q.queue) as queue_id) x
  left join awa.queue_settings s on s.queue_id = x.queue_id
 cross join lateral (
    select coalesce(q.oldest_ready_at < n.at - t.warn_ready_age, false) as waits,
           exists (
             select
               from awa.workers w
              where coalesce(q.queue = any(w.queues), true) and w.heartbeat_at > n.at - t.warn_silence
           ) as is_worked_on
 ) w
  left join lateral (
    select string_agg(distinct l.holder, ', ') as holder from locks l where l.queue = q.queue
 ) l on true
  left join lateral (
    select max(c.claimed_at) as claimed_at
      from awa._lanes_of(x.queue_id) l
     cross join lateral (
        select c.claimed_at
          from awa.lease_claims c
         where c.lane = l.lane and c.job_ids <> '{}'
         order by c.lane_seq desc
         limit 1
      ) c
     where w.waits
 ) c on true
union all
-- Of the hundred queues with most failures: others have few.
select f.*
  from awa._health_failures(array(
    select c.queue
      from counts c
     where c.failed + c.dead + c.retryable > 0
     order by c.failed + c.dead + c.retryable desc
     limit 100)) f
$$;
comment on function awa._health_queues is 'The rows of health about queues';

-- The rows of health about groups whose jobs wait long for one job: it runs, or the group is reserved for it.
-- One row for each queue. A job that runs keeps the others waiting only where its group has no room.
create or replace function awa._health_groups() returns table (
  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
)
language sql stable
as $$
with limits as (
  select clock_timestamp() as at, clock_timestamp() - t.warn_group_age as since from awa.settings t
), held as (
  select awa._shard_of(l.lane) as shard, l.group_id, l.job_id, l.claimed_at as since, 'has run' as what
    from awa.leases l
   cross join limits t
   cross join lateral awa._shard_of(l.lane) h(shard)
   cross join lateral awa._group_state(h.shard, l.group_id) s
   where l.group_id is not null
     and l.claimed_at < t.since
     and s.running - s.rate_turns >= ( -- a job that has its turn waits for no other
       select awa._group_limit(coalesce(o.group_max_running, c.group_max_running), c.group_order)
         from (select h.shard >> 6 as queue_id) q
         left join awa.queue_settings c on c.queue_id = q.queue_id
         left join awa.group_settings o on o.queue_id = q.queue_id and o.group_id = l.group_id)
  union all
  select s.shard, s.group_id, s.holder, w.ready_at, 'has its place'
    from awa.group_states s
   cross join limits t
   cross join lateral (
      select w.ready_at
        from awa.limited_jobs w
       where w.shard = s.shard and w.group_id = s.group_id
       order by w.waiting_id
       limit 1
    ) w
   where s.holder is not null and w.ready_at < t.since
), worst as (
  select distinct on (h.shard >> 6) h.*, w.group_key, count(*) over (partition by h.shard >> 6) as jobs
    from held h
   cross join lateral (
      select w.group_key from awa.limited_jobs w where w.shard = h.shard and w.group_id = h.group_id limit 1
    ) w
   order by h.shard >> 6, h.since
)
select 5, 'warning', 'group', q.name,
       format('others of group %s wait for job %s, which %s for %s', w.group_key, w.job_id, w.what,
         awa._in_words(t.at - w.since))
         || case when w.jobs > 1 then format('; so for %s more jobs', w.jobs - 1) else '' end,
       format('Look at it: explain_job(%s). To cancel it, or to delete it if it has ended, lets the others go on.',
         w.job_id),
       jsonb_build_object('queue', q.name, 'group_key', w.group_key, 'job_id', w.job_id, 'seconds',
         floor(extract(epoch from t.at - w.since)), 'jobs', w.jobs)
  from worst w
 cross join limits t
 cross join lateral (
    select q.name from awa.queues q where q.queue_id = w.shard >> 6 and q.dropped_at is null limit 1
  ) q
$$;
comment on function awa._health_groups is
  'The rows of health about groups whose jobs wait long for one job: it runs, or the group is reserved for it';

-- The rows of health about how many of the recently ended jobs of some queues failed.
create or replace function awa._health_failures(queues text[]) returns table (
  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
)
language sql stable
as $$
select 5,
       case
         when f.failed >= 3 and f.failed > t.warn_failed_share * (f.failed + f.completed) then 'warning'
         else 'ok'
       end,
       'failures', q.queue,
       format('of %s jobs that ended in the last %s, %s failed in their last attempt', f.failed + f.completed,
         awa._in_words(n.at - f.counted_since), f.failed),
       case
         when f.failed >= 3 and f.failed > t.warn_failed_share * (f.failed + f.completed)
           then 'See why: the errors of its jobs that are failed, dead or retryable, in awa.jobs.'
       end,
       jsonb_build_object('failed', f.failed, 'completed', f.completed, 'seconds',
         floor(extract(epoch from n.at - f.counted_since)))
  from (select clock_timestamp() as at) n
 cross join awa.settings t
 cross join unnest(queues) q(queue)
 cross join lateral (select awa._queue_id(q.queue) as queue_id) x
 cross join lateral awa._results(x.queue_id, n.at - interval '1 day') f
 where f.failed > 0
$$;
comment on function awa._health_failures is
  'The rows of health about how many of the recently ended jobs of some queues failed';

-- The rows of health about jobs that were put off, because the server refuses to store their failure.
-- Or refuses to make them ready. Reads 10,000 of these at most. And about those that have expired, and can't even be
-- put off.
create or replace function awa._health_refusals() returns table (
  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
)
language sql stable
as $$
select 5, 'warning', 'refusals', coalesce((select x.name from awa.queues x where x.queue_id = q.queue_id limit 1), '?'),
       format(
         'jobs that are put off, because the server refuses to store how they failed, or to make them ready: %s; the '
         'last one is job %s, in attempt %s of %s: %s',
         q.jobs, d.job_id, d.errors -> -1 ->> 'attempt', d.max_attempts, left(d.errors -> -1 ->> 'error', 300)),
       'Mend the trigger or the constraint that refuses it. They run again within an hour; at once after awa.retry.',
       jsonb_build_object('jobs', q.jobs, 'job_id', d.job_id, 'run_at', d.run_at)
  from (
    select awa._queue_of(p.lane) as queue_id, count(*) as jobs,
           (array_agg(p.job_id order by p.attempted_at desc, p.job_id desc))[1] as job_id
      from (
        select d.lane, d.job_id, d.attempted_at from awa.deferred_jobs d where (d.errors -> -1) ? 'put_off' limit 10000
      ) p
     group by 1
  ) q
  join awa.deferred_jobs d on d.job_id = q.job_id
union all
select 5, 'warning', 'refusals', coalesce((select x.name from awa.queues x where x.queue_id = q.queue_id limit 1), '?'),
       format(
         'jobs that have expired, and that the server refuses to cancel, and to put off: %s; the first one is job %s: '
         '%s',
         q.jobs, q.job_id, left(l.errors -> -1 ->> 'error', 300)),
       'Mend the trigger or the constraint that refuses it. Then they are cancelled within a minute or two.',
       jsonb_build_object('jobs', q.jobs, 'job_id', q.job_id)
  from (
    select awa._queue_of(l.lane) as queue_id, count(*) as jobs, min(l.job_id) as job_id
      from awa.leases l
     where awa._is_expired(l.expires_at, l.attempt, l.claimed_at) and (l.errors -> -1) ? 'put_off'
     group by 1
  ) q
  join awa.leases l on l.job_id = q.job_id
$$;
comment on function awa._health_refusals is
  'The rows of health about jobs that were put off, because the server refuses to store their failure';

-- How many jobs of a queue failed in their last attempt since a time, and how many completed.
-- Jobs that wait for a retry have failed, too. Looks at the last 200 claims of each lane, and counts from where these
-- begin. Counts at most 10,001 of each kind that have rows of their own.
create or replace function awa._results(
  queue_id bigint,
  since timestamptz,
  out counted_since timestamptz,
  out failed bigint,
  out completed bigint
) returns record
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
       cross join lateral (
          select c.claim_id, c.claimed_at
            from awa.lease_claims c
           where c.lane = l.lane
           order by c.lane_seq desc
           limit 200
        ) c
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
             cross join lateral (
                select
                  from awa.done_entries d
                 where d.lane = l.lane
                   and d.state = 'completed'
                   and not d.counted_by_closure
                   and d.finalized_at >= counted_since
                 limit 10001
              ) d
             limit 10001) d);
  failed := (
    select count(*)
      from awa._lanes_of(queue_id) l
     cross join lateral (
        (
          select
            from awa.done_entries d
           where d.lane = l.lane and d.state = 'failed' and not d.counted_by_closure and d.finalized_at >= counted_since
           limit 10001
        )
        union all
        (
          select
            from awa.done_entries d
           where d.lane = l.lane and d.state = 'dead' and not d.counted_by_closure and d.finalized_at >= counted_since
           limit 10001
        )
        union all
        (
          select
            from (
              select d.attempted_at from awa.deferred_jobs d where d.lane = l.lane and d.state = 'retryable' limit 10001
            ) d
           where d.attempted_at >= counted_since
        )
      ) d);
end
$$;
comment on function awa._results is
  'How many jobs of a queue failed in their last attempt since a time, and how many completed';
