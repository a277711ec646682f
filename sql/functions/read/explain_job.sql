-- Explains in words why a job is not running now, or how it has ended.
-- Raises JQ003, 55000.
create or replace function awa.explain_job(job_id bigint) returns text
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = on
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_place awa._place := awa._locate(job_id);
  v_job awa.jobs;
  v_now timestamptz := clock_timestamp();
  v_paused_at timestamptz;
  v_has_shards boolean;
  v_error text;
  v_reason text;
  v_lease record;
  v_waits boolean := false; -- for maintenance
  v_ahead bigint;
  v_workers bigint;
  v_holder text;
  v_says text;
begin
  select * into v_job from awa.jobs j where j.id = v_place.id;
  select s.paused_at into v_paused_at from awa.queue_settings s where s.queue_id = awa._queue_of(v_place.lane);
  v_error := v_job.errors -> -1 ->> 'error';
  select count(*) into v_workers
    from awa.workers w
   where w.heartbeat_at > v_now - (select s.warn_silence from awa._settings() s)
     and (w.queues is null or v_job.queue = any(w.queues));
  v_says := case
    when v_job.state = any(awa._states('deferred')) and v_job.errors -> -1 ? 'put_off' then
      format(
        'It was put off in attempt %s of %s, because the server refuses a row of it (%s). It is tried again in %s, at '
        '%s.',
        v_job.errors -> -1 ->> 'attempt', v_job.max_attempts, v_error, awa._span(v_job.run_at - v_now), v_job.run_at)
    when v_job.state = 'scheduled'
      then format('It is scheduled: it may run in %s, at %s.', awa._span(v_job.run_at - v_now), v_job.run_at)
    when v_job.state = 'retryable'
      then format('Attempt %s of %s failed (%s). It waits for its retry in %s, at %s.', v_job.attempt,
        v_job.max_attempts, v_error, awa._span(v_job.run_at - v_now), v_job.run_at)
    when v_job.state = 'completed' then format('It completed at %s, in attempt %s.', v_job.finalized_at, v_job.attempt)
    when v_job.state = 'failed'
      then format('It failed for good at %s, after attempt %s of %s: %s. retry lets it run again.', v_job.finalized_at,
        v_job.attempt, v_job.max_attempts, v_error)
    when v_job.state = 'cancelled'
      then format('It was cancelled at %s%s: %s.', v_job.finalized_at, ' by ' || (v_job.errors -> -1 ->> 'by'), v_error)
  end;
  if v_job.state = any(awa._states('deferred')) and v_job.run_at <= v_now then
    v_says := v_says
      || ' That is over: it becomes available when maintenance promotes it (promote_due), which is late if this lasts.';
  elsif v_job.state = 'dead' then
    select d.reason into v_reason from awa.done_entries d where d.job_id = v_place.id and d.state = 'dead';
    v_says :=
      format('It is dead since %s, after attempt %s of %s (%s): %s. retry lets it run again, purge_dlq removes it.',
      v_job.finalized_at, v_job.attempt, v_job.max_attempts, v_reason, v_error);
  elsif v_job.state = 'running' then
    select * into v_lease from (
      select l.lease_until, l.lease from awa.leases l where l.receipt = v_job.receipt
      union all
      select c.lease_until, c.lease_until - c.claimed_at from awa.lease_claims c where c.claim_id = v_job.receipt >> 12
    ) l limit 1;
    v_lease.lease_until := (
      select e from awa._lease_ends_at(v_lease.lease_until, v_lease.lease, v_job.worker_id) e
    );
    v_says := format('It is running: attempt %s, since %s, with %s. ', v_job.attempt, v_job.attempted_at,
        coalesce(
          (select format('worker %s (%s)', w.worker_id, w.name) from awa.workers w where w.worker_id = v_job.worker_id),
          'worker ' || v_job.worker_id || ', which is not registered any more', 'a caller that is not registered'))
      || case
        when v_lease.lease_until > v_now then format('The attempt is its own until %s', v_lease.lease_until)
        else format('Its lease ended at %s, and the next rescue ends the attempt', v_lease.lease_until)
      end
      || coalesce(', at most until ' || v_job.deadline_at, '')
      || '.' || awa._kept_in_words(v_job.expires_at, v_job.attempt, v_job.attempted_at, v_error);
    v_waits := v_lease.lease_until <= v_now;
  elsif v_job.state = 'available' then
    v_ahead := awa._jobs_ahead(v_place);
    v_has_shards := exists (
      select from awa._lanes_of(awa._queue_of(v_place.lane)) l
       where awa._shard_of(l.lane) <> awa._shard_of(v_place.lane)
    );
    v_says := coalesce(awa._line_in_words(v_job),
      format('It is available since %s, and waits in queue %s behind %s of priority %s', v_job.run_at,
      v_job.queue, case v_ahead when 1 then '1 job' when 10001 then 'more than 10000 jobs' else v_ahead || ' jobs' end,
      v_job.priority)
      || case when v_place.lane & 7 = 0 then ' that were given back, too' else '' end
      || case when v_has_shards then ', in its shard' else '' end
      || '; jobs of other priorities may come before it.');
  end if;
  if (v_job.state = 'available' or v_job.state = any(awa._states('deferred'))) then
    if v_paused_at is not null then
      v_says := v_says
        || format(' The queue is paused since %s: nothing is claimed from it until resume_queue.', v_paused_at);
    end if;
    if v_workers = 0 then
      v_says := v_says || ' No live worker has registered for the queue.';
    end if;
    v_holder := (
      select format('%s has held the lock of the queue%s since %s: nothing is claimed from it.', l.holder,
               case when v_has_shards then ', that of this job''s shard,' else '' end, l.since)
        from awa._held_locks l, awa._settings() s
       where l.shard = awa._shard_of(v_place.lane) and l.since < v_now - greatest(s.claim_wait, interval '1 second')
       limit 1);
    v_says := concat_ws(' ', v_says, awa._waits_in_words(v_job, v_place.lane, v_now), v_holder,
      case
        when awa._is_restored()
          then 'The database was restored from a dump: nothing is claimed until rebase_after_restore was called.'
      end);
  end if;
  if (v_waits or v_job.state = any(awa._states('deferred')))
    and awa._maintained_at() < v_now - (select s.warn_silence from awa._settings() s) then
    v_says := v_says || format(' Maintenance has not been called since %s.', awa._maintained_at());
  end if;
  return v_says;
end
$$;
comment on function awa.explain_job is 'Explains in words why a job is not running now, or how it has ended';

-- The reason for which an available job waits in the line of its group, in words.
create or replace function awa._line_in_words(job awa.jobs) returns text
language sql stable
as $$
  select format('It is available since %s, and waits for its %s: %s%s%s', job.run_at,
           coalesce('group ' || w.group_key || case when s.group_turns then ', which is served by turns' else '' end,
             'turn beside the groups'),
           case
             when g.holder is not null then awa._holder_in_words(g.holder)
             when s.group_turns and t.turn_id is not null then format('it has its turn, %s are before it', (
               select count(*)
                 from (
                   select
                     from awa.turns b
                    where b.lane = t.lane and b.turn_id < t.turn_id
                    order by b.turn_id desc
                    limit 10001
                 ) b
             ))
             when t.turn_id is not null then 'it has its turn, and begins with the next claim that has room'
             else format('%s%s run', coalesce(g.running, 0),
               ' of ' || awa._group_limit(coalesce(o.group_max_running, s.group_max_running), s.group_order))
           end,
           ' (jobs ' || (
             select string_agg(h.job_id::text, ', ' order by h.job_id)
               from (
                 select h.job_id
                   from awa._holders h
                  where g.holder is null
                    and h.queue_id = w.shard >> 6 and awa._shard_of(h.lane) = w.shard and h.group_id = w.group_id
                  limit 5
               ) h
           ) || ')',
           case when t.turn_id is null then format(', %s before it.', (
             select count(*)
               from (
                 select
                   from awa.limited_jobs o
                  where o.shard = w.shard and o.group_id = w.group_id and o.waiting_id < w.waiting_id
                  limit 10001
               ) o
           )) else '.' end)
    from awa.limited_jobs w
    left join awa.turns t on t.lane between w.shard << 3 and w.shard << 3 | 7 and t.waiting_id = w.waiting_id
    left join awa.queue_settings s on s.queue_id = w.shard >> 6
    left join awa.group_settings o on o.queue_id = w.shard >> 6 and o.group_id = w.group_id
    left join lateral awa._group_state(w.shard, w.group_id) g on true
   where w.job_id = job.id
   limit 1
$$;
comment on function awa._line_in_words is
  'The reason for which an available job waits in the line of its group, in words';

-- The job for which a group is reserved, and the reason why it waits, in words.
create or replace function awa._holder_in_words(holder bigint) returns text
language sql stable
as $$
  select coalesce((
      select format('it is reserved for job %s, which %s%s', j.id,
               case
                 when j.state = 'retryable' then format('waits for its retry at %s', j.run_at)
                 when j.state = any(awa._states('deferred')) then format('is put off until %s', j.run_at)
                 when j.state = 'available' then 'begins first'
                 else format('is %s since %s; to retry or to delete it lets the group go on', j.state, j.finalized_at)
               end,
               case when j.state = any(awa._states('deferred'))
                 then '; to retry or to cancel that one lets the group go on at once' end
                 || coalesce('; its last error: ' || (j.errors -> -1 ->> 'error'), ''))
        from awa.jobs j
       where j.id = holder
       limit 1
    ), format('it is reserved for job %s, which has left', holder))
$$;
comment on function awa._holder_in_words is
  'The job for which a group is reserved, and the reason why it waits, in words';

-- The pause, or the rate, of a group that lets none of its jobs begin now, in words; null where there is none.
create or replace function awa._gate_in_words(
  queue_id bigint,
  lane bigint,
  group_key text,
  now timestamptz
) returns text
language sql stable
as $$
  select case
           when t.is_paused then format('Its group is paused since %s%s%s.', o.paused_at, ' until ' || o.paused_until,
             ': ' || o.reason)
           when r.at > now then format('It waits for the rate of its group, next at %s.', r.at)
         end
    from (select awa._group_id(group_key) as group_id where group_key is not null) g
    left join awa.queue_settings s on s.queue_id = _gate_in_words.queue_id
   cross join lateral awa._group_terms(s, _gate_in_words.queue_id, g.group_id, true, now) t
    left join awa.group_settings o on o.queue_id = _gate_in_words.queue_id and o.group_id = g.group_id
    left join lateral awa._group_state(awa._shard_of(lane), g.group_id) n on true
   cross join lateral (select awa._rate_opens_at(t.rate, awa._rate_after(t.rate, n.next_at, now, 0)) as at) r
$$;
comment on function awa._gate_in_words is
  'The pause, or the rate, of a group that lets none of its jobs begin now, in words; null where there is none';

-- The limits of a queue that let no job begin now, in words; null where there are none.
create or replace function awa._limits_in_words(queue_id bigint, now timestamptz) returns text
language sql stable
as $$
  select concat_ws(' ',
           case when n.running >= s.max_running
             then format('It waits for its queue, too: %s of %s run.', n.running, s.max_running) end,
           case when o.at > now then format('It waits for the rate of its queue, next at %s.', o.at) end)
    from awa.queue_settings s
   cross join lateral (
      select n.running, n.next_at
        from awa.shard_states n
       where n.shard = queue_id << 6
       order by n.state_id desc
       limit 1
    ) n
   cross join lateral (select awa._rate_opens_at(s.rate, awa._rate_after(s.rate, n.next_at, now, 0)) as at) o
   where s.queue_id = _limits_in_words.queue_id
     and (n.running >= s.max_running or o.at > now)
$$;
comment on function awa._limits_in_words is
  'The limits of a queue that let no job begin now, in words; null where there are none';

-- By when a job that waits has to begin, in words; null where it may wait for ever.
create or replace function awa._expiry_in_words(job awa.jobs, now timestamptz) returns text
language sql stable
return case
  when job.attempt > 0 then null
  when job.state = 'scheduled' and job.run_at > now and job.run_at >= job.expires_at
    then format(case when job.expires_at <= now then 'It has expired' else 'It expires' end
      || ' at %s: it is cancelled when it is due.', job.expires_at)
  when job.expires_at <= now
    then format('It has expired at %s: the next claim that comes to it, or maintenance, cancels it.', job.expires_at)
  when job.expires_at is not null then format('It is cancelled if it has not begun by %s.', job.expires_at)
end;
comment on function awa._expiry_in_words is
  'By when a job that waits has to begin, in words; null where it may wait for ever';

-- The reasons why a waiting job does not begin, and by when it has to begin, in words.
create or replace function awa._waits_in_words(job awa.jobs, lane bigint, now timestamptz) returns text
language sql stable
return nullif(concat_ws(' ', 'Its group is ' || job.group_key || '.',
  awa._gate_in_words(awa._queue_of(lane), lane, job.group_key, now),
  case when job.state = 'available' then awa._limits_in_words(awa._queue_of(lane), now) end,
  awa._expiry_in_words(job, now)), '');
comment on function awa._waits_in_words is
  'The reasons why a waiting job does not begin, and by when it has to begin, in words';

-- An interval in words, to the second.
create or replace function awa._span(span interval) returns text
language sql immutable
return greatest(date_trunc('second', span), interval '0')::text;
comment on function awa._span is 'An interval in words, to the second';

-- How many jobs come before one that is available, in its lane: at most 10,001.
create or replace function awa._jobs_ahead(place awa._place) returns bigint
language sql stable
as $$
  select count(*)
    from (
      -- in three parts, each with both its ends in the index: a row comparison as the upper end would read the job's
      -- transaction to its end
      select
        from awa._lanes l
       cross join lateral (
          select e.xid, e.job_id from awa._entries e
           where e.lane = l.lane and (e.xid, e.job_id) > (l.from_xid, l.from_id) and e.xid < place.xid
          union all
          select e.xid, e.job_id from awa._entries e
           where place.xid >= l.from_xid and e.lane = l.lane and e.xid = place.xid
             and e.job_id > case when l.from_xid = place.xid then l.from_id else 0 end and e.job_id < place.id
          union all
          select e.xid, e.job_id
            from awa._late(l.lo, l.hi, l.pos_xid, l.pos_id, l.from_xid, l.from_id) x
           cross join lateral (
              select * from awa._entries e
               where e.lane = l.lane
                 and e.xid = x.xid
                 and e.job_id > x.after_id
                 and e.job_id <= case
                   when x.xid = place.xid then least(x.until_id, place.id - 1)
                   else x.until_id
                 end
              offset 0
            ) e
           where x.xid <= place.xid
        ) e
       where l.queue_id = awa._queue_of(place.lane) and l.lane = place.lane
         and (
          select true
            from awa.ready_tombstones t
           where t.lane = l.lane and t.xid = e.xid and t.job_id = e.job_id
           limit 1
        ) is null
       limit 10001
    ) a
$$;
comment on function awa._jobs_ahead is 'How many jobs come before one that is available, in its lane: at most 10,001';

-- A sentence about an attempt of a job that had expired when it was claimed; otherwise nothing. See _is_kept.
create or replace function awa._kept_in_words(
  expires_at timestamptz,
  attempt int,
  attempted_at timestamptz,
  error text
) returns text
language sql immutable
return case
  when awa._is_expired(expires_at, attempt::smallint, attempted_at)
    then ' No worker was given it: it had expired, and could not be cancelled' || coalesce(' (' || error || ').', '.')
  else ''
end;
comment on function awa._kept_in_words is
  'A sentence about an attempt of a job that had expired when it was claimed; otherwise nothing. See _is_kept';
