-- Statistics: the jobs that came and ended in each minute, as fold counts them. Claims and answers write none of them.

-- The beginning of the minute of a time.
create or replace function awa._minute_of(at timestamptz) returns timestamptz
language sql immutable parallel safe
return date_bin('1 minute', at, '2000-01-01 00:00:00+00');
comment on function awa._minute_of is 'The beginning of the minute of a time';

-- The step of a length of time, of four for each doubling.
-- Step n ends at 2 ^ (n / 4) milliseconds, and step 0 at one.
create or replace function awa._duration_step(length interval) returns bigint
language sql immutable parallel safe
return least(ceil(4 / ln(2::float8) * ln(greatest(date_part('epoch', length) * 1000, 1))), 200)::bigint;
comment on function awa._duration_step is 'The step of a length of time, of four for each doubling';

-- The middle of a step of lengths of time: no length in it differs from that by more than 9 %.
create or replace function awa._step_length(step bigint) returns interval
language sql immutable parallel safe
return make_interval(secs => case when step = 0 then 0.001 else power(2, (step - 0.5) / 4) / 1000 end);
comment on function awa._step_length is
  'The middle of a step of lengths of time: no length in it differs from that by more than 9 %';

-- Steps of lengths of time, each with a number of attempts, with those of one step added up.
create or replace function awa._add_steps(steps bigint[]) returns bigint[]
language sql immutable parallel safe
return (
  select coalesce(array_agg(s.step << 40 | s.attempts order by s.step), '{}')
    from (
      select v >> 40 as step, sum(v & 1099511627775)::bigint as attempts from unnest(steps) v group by 1
    ) s);
comment on function awa._add_steps is
  'Steps of lengths of time, each with a number of attempts, with those of one step added up';

-- The ends of the attempts of some claims of one lane, counted job by job.
-- completed_at: as in _ends_of. Where an entry has gone with its segment, its attempt counts for no kind, and did not
-- wait.
-- Why: there may be very many entries of other claims between one that came late and the next one. Then claim by claim
-- is counted.
create or replace function awa._ends_by_job(claims awa.lease_claims[], completed_at timestamptz[])
returns setof awa.queue_statistics
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_lane bigint := claims[1].lane;
  v_first record;
  v_last record;
begin
  select c.first_xid as xid, c.first_id as id into v_first
    from unnest(claims) c
   order by c.first_xid, c.first_id
   limit 1;
  select c.pos_xid as xid, c.pos_id as id into v_last
    from unnest(claims) c
   order by c.pos_xid desc, c.pos_id desc
   limit 1;
  if cardinality(claims) > 1
    and (select true
           from awa._claimed_entries(v_lane, v_first.xid, v_first.id, v_last.xid, v_last.id, 0, 9223372036854775807)
         offset 5000
          limit 1) then
    for i in 1..cardinality(claims) loop
      return query select e.* from awa._ends_by_job(claims[i : i], completed_at[i : i]) e;
    end loop;
    return;
  end if;
  return query
    select awa._queue_of(v_lane), 60, a.at, a.kind, 0::bigint, case when a.is_failure then 0 else a.attempts end,
           case when a.is_failure then a.attempts else 0 end,
           case when a.wait is null then '{}' else array[a.wait << 40 | a.attempts] end,
           array[a.run << 40 | a.attempts]
      from (
        select awa._minute_of(j.closed_at) as at, e.kind, j.is_failure,
               awa._duration_step(j.claimed_at - case when e.last > j.claimed_at then e.first else e.last end) as wait,
               awa._duration_step(j.closed_at - j.claimed_at) as run, count(*) as attempts
          from (
            select c.claimed_at, c.unnest as closed_at, false as is_failure, j as job_id
              from unnest(claims, completed_at) c
             cross join lateral unnest(c.job_ids) j
             where c.unnest is not null
            union all
            select c.claimed_at, k.closed_at, k.outcome = 'failed', c.job_ids[i + 1]
              from unnest(claims, completed_at) c
             cross join lateral (
                select *
                  from awa.lease_claim_closures k
                 where k.claim_id = c.claim_id and k.outcome in ('completed', 'completed_with_row', 'failed')
                offset 0
              ) k
             cross join lateral unnest(coalesce(k.items, array[k.item])) i
             where c.unnest is null
          ) j
          left join (
            -- two entries while a segment is cleaned, where the first one is buried, or after another attempt
            select e.job_id, min(e.kind) as kind, min(e.ready_at) as first, max(e.ready_at) as last
              from awa._claimed_entries(v_lane, v_first.xid, v_first.id, v_last.xid, v_last.id, 0, 9223372036854775807)
                   e
             group by e.job_id
          ) e on e.job_id = j.job_id
         group by 1, 2, 3, 4, 5
      ) a;
end
$$;
comment on function awa._ends_by_job is 'The ends of the attempts of some claims of one lane, counted job by job';

-- The ends of the attempts of some claims, as statistics.
-- completed_at: when all attempts of each claim completed, if they did so at once; otherwise null.
-- Why: for a claim of hundreds that completed at once it counts the entries, and does not look at the jobs. The others
-- are put together, so that a claim of one does not cost a search.
create or replace function awa._ends_of(claims awa.lease_claims[], completed_at timestamptz[])
returns setof awa.queue_statistics
language plpgsql stable
set enable_hashjoin = on
set enable_nestloop = off
set enable_sort = off
as $$
#variable_conflict use_variable
declare
  v_whole awa.queue_statistics[];
  v_counted bigint[];
  v_stretch record;
begin
  -- claims with as many visible entries as jobs: then there is none that is buried, or gone, or of another claim
  select coalesce(array_agg((awa._queue_of(w.lane), 60, awa._minute_of(w.completed_at), w.kind, 0, w.attempts, 0,
           array[awa._duration_step(w.claimed_at - w.ready_at) << 40 | w.attempts],
           array[awa._duration_step(w.completed_at - w.claimed_at) << 40 | w.attempts])::awa.queue_statistics), '{}'),
         coalesce(array_agg(distinct w.nth), '{}')
    into v_whole, v_counted
    from (
      select c.*, e.*, sum(e.attempts) over (partition by c.nth) as entries
        from (
          select c.lane, c.first_xid, c.first_id, c.pos_xid, c.pos_id, c.hi, c.claimed_at, c.unnest as completed_at,
                 cardinality(c.job_ids) as jobs, c.ordinality as nth
            from unnest(claims, completed_at) with ordinality c
           where c.unnest is not null and cardinality(c.job_ids) >= 50
        ) c
       cross join lateral (
          select e.kind, e.ready_at, count(*) as attempts
            from awa._claimed_entries(c.lane, c.first_xid, c.first_id, c.pos_xid, c.pos_id, 0, 9223372036854775807) e
           where pg_visible_in_snapshot(e.xid, c.hi)
           group by e.kind, e.ready_at
          offset 0
        ) e
    ) w
   where w.entries = w.jobs;
  return query select m.* from awa._merge_statistics(v_whole) m;
  -- the others, about 2,000 jobs at a time
  for v_stretch in
    select array_agg(c.claim) as claims, array_agg(c.completed_at) as completed_at
      from (
        select c.claim, c.completed_at, c.nth, sum(cardinality((c.claim).job_ids)) over in_order / 2000 as jobs,
               (c.claim).lane_seq - row_number() over in_order as before_first
          from (
            select unnest(claims) as claim, unnest(completed_at) as completed_at,
                   generate_series(1, cardinality(claims)) as nth
          ) c
        window in_order as (order by (c.claim).lane, (c.claim).lane_seq)
      ) c
     where not exists (select from unnest(v_counted) w where w = c.nth)
     group by (c.claim).lane, c.before_first, trunc(c.jobs) -- the same for claims of a lane that follow one another
  loop
    return query select e.* from awa._ends_by_job(v_stretch.claims, v_stretch.completed_at) e;
  end loop;
end
$$;
comment on function awa._ends_of is 'The ends of the attempts of some claims, as statistics';

-- Statistics, with those of one queue, time and kind added up.
create or replace function awa._merge_statistics(counts awa.queue_statistics[]) returns setof awa.queue_statistics
language plpgsql stable
as $$
#variable_conflict use_variable
begin
  if counts <> '{}' then
    return query
      select p.queue_id, p.seconds, p.at, p.kind, sum(p.enqueued)::bigint, sum(p.completed)::bigint,
             sum(p.failed)::bigint,
             coalesce(array_agg(p.step << 40 | p.attempts order by p.step) filter (where p.is_wait), '{}'),
             coalesce(array_agg(p.step << 40 | p.attempts order by p.step) filter (where not p.is_wait), '{}')
        from (
          select c.queue_id, c.seconds, c.at, c.kind, c.enqueued, c.completed, c.failed, null::boolean as is_wait,
                 null::bigint as step, null::bigint as attempts
            from unnest(counts) c
          union all
          select c.queue_id, c.seconds, c.at, c.kind, 0, 0, 0, v.is_wait, v.value >> 40,
                 sum(v.value & 1099511627775)::bigint
            from unnest(counts) c
           cross join lateral (
              select unnest(c.waits) as value, true as is_wait union all select unnest(c.runs), false
            ) v
           group by c.queue_id, c.seconds, c.at, c.kind, v.is_wait, v.value >> 40
        ) p
       group by p.queue_id, p.seconds, p.at, p.kind;
  end if;
end
$$;
comment on function awa._merge_statistics is 'Statistics, with those of one queue, time and kind added up';

-- Adds counts to the statistics of their queues.
-- Kinds beyond the first 50 within one time have one row. The caller has locked the counts.
create or replace function awa._store_queue_statistics(counts awa.queue_statistics[]) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.queue_statistics as s (queue_id, seconds, at, kind, enqueued, completed, failed, waits, runs)
  select m.queue_id, m.seconds, m.at, m.kind, m.enqueued, m.completed, m.failed, m.waits, m.runs
    from awa._merge_statistics(array(
      select (c.queue_id, c.seconds, c.at,
             case when k.is_there or k.kinds + dense_rank() over (
               partition by c.queue_id, c.seconds, c.at, k.is_there order by c.kind
             ) <= 50 then c.kind end,
             c.enqueued, c.completed, c.failed, c.waits, c.runs)::awa.queue_statistics
        from unnest(counts) c
       cross join lateral (
          select count(*) as kinds, coalesce(bool_or(t.kind = c.kind), false) as is_there
            from awa.queue_statistics t
           -- as rows, for which no other index can be taken
           where (t.queue_id, t.seconds, t.at) between (c.queue_id, c.seconds, c.at) and (c.queue_id, c.seconds, c.at)
          offset 0
        ) k)) m
  on conflict (queue_id, seconds, at, kind) do update
     set enqueued = s.enqueued + excluded.enqueued, completed = s.completed + excluded.completed,
         failed = s.failed + excluded.failed, waits = awa._add_steps(s.waits || excluded.waits),
         runs = awa._add_steps(s.runs || excluded.runs);
end
$$;
comment on function awa._store_queue_statistics is 'Adds counts to the statistics of their queues';

-- Adds counts to the statistics of all queues together.
-- Kinds beyond the first 50 within one time have one row. The caller has locked the counts.
create or replace function awa._store_all_statistics(counts awa.queue_statistics[]) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.statistics as s (seconds, at, kind, enqueued, completed, failed, waits, runs)
  select m.seconds, m.at, m.kind, m.enqueued, m.completed, m.failed, m.waits, m.runs
    from awa._merge_statistics(array(
      select (0, c.seconds, c.at,
             case when k.is_there or k.kinds + dense_rank() over (
               partition by c.seconds, c.at, k.is_there order by c.kind
             ) <= 50 then c.kind end,
             c.enqueued, c.completed, c.failed, c.waits, c.runs)::awa.queue_statistics
        from unnest(counts) c
       cross join lateral (
          select count(*) as kinds, coalesce(bool_or(t.kind = c.kind), false) as is_there
            from awa.statistics t
           where t.seconds = c.seconds and t.at = c.at
          offset 0
        ) k)) m
  on conflict (seconds, at, kind) do update
     set enqueued = s.enqueued + excluded.enqueued, completed = s.completed + excluded.completed,
         failed = s.failed + excluded.failed, waits = awa._add_steps(s.waits || excluded.waits),
         runs = awa._add_steps(s.runs || excluded.runs);
end
$$;
comment on function awa._store_all_statistics is 'Adds counts to the statistics of all queues together';

-- Adds counts to the statistics of their queues, and to those of all queues together.
-- The caller has locked the counts.
create or replace function awa._store_statistics(counts awa.queue_statistics[]) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  if counts <> '{}' then
    counts := array(select m from awa._merge_statistics(counts) m);
    perform awa._store_queue_statistics(counts);
    perform awa._store_all_statistics(counts);
  end if;
end
$$;
comment on function awa._store_statistics is
  'Adds counts to the statistics of their queues, and to those of all queues together';

-- The statistics of ends of attempts that had rows in leases.
create or replace function awa._as_statistics(ends awa.leased_ends[]) returns setof awa.queue_statistics
language sql stable
as $$
  select m.*
    from awa._merge_statistics(array(
      select (awa._queue_of(e.lane), 60, awa._minute_of(e.ended_at), e.kind, 0, (not e.is_failure)::int,
             e.is_failure::int, array[awa._duration_step(e.claimed_at - e.ready_at) << 40 | 1],
             array[awa._duration_step(e.ended_at - e.claimed_at) << 40 | 1])::awa.queue_statistics
        from unnest(ends) e
    )) m
$$;
comment on function awa._as_statistics is 'The statistics of ends of attempts that had rows in leases';

-- Takes ends of attempts that had rows in leases, at most so many, to be added to the statistics.
-- Locks: their rows, until the transaction ends.
create or replace function awa._take_leased_ends(max_rows int) returns setof awa.queue_statistics
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_ends awa.leased_ends[];
begin
  with gone as (
    delete from awa.leased_ends e
     where e.ctid = any(array(select e.ctid from awa.leased_ends e limit max_rows for update skip locked))
    returning e as ended
  )
  select array_agg(g.ended) into v_ends from gone g;
  return query select s.* from awa._as_statistics(v_ends) s;
end
$$;
comment on function awa._take_leased_ends is
  'Takes ends of attempts that had rows in leases, at most so many, to be added to the statistics';

-- Puts minutes that are older than a day together into hours, and removes hours that are older than 30 days.
-- At most so many rows of each table. The caller has locked the counts.
create or replace function awa._thin_statistics(max_rows int) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_minutes_until timestamptz := date_bin('1 hour', clock_timestamp() - interval '25 hours', '2000-01-01 00:00:00+00');
  v_hours_until timestamptz := clock_timestamp() - interval '30 days 1 hour';
  v_hours awa.queue_statistics[];
begin
  with gone as (
    delete from awa.queue_statistics s
     where s.ctid = any(array(
       select s.ctid
         from awa.queue_statistics s
        where s.seconds = 60 and s.at < v_minutes_until
        order by s.at
        limit max_rows))
    returning (s.queue_id, 3600, date_bin('1 hour', s.at, '2000-01-01 00:00:00+00'), s.kind, s.enqueued, s.completed,
      s.failed, s.waits, s.runs)::awa.queue_statistics as hour
  )
  select array_agg(g.hour) into v_hours from gone g;
  perform awa._store_queue_statistics(array(select m from awa._merge_statistics(v_hours) m));
  with gone as (
    delete from awa.statistics s
     where s.ctid = any(array(
       select s.ctid
         from awa.statistics s
        where s.seconds = 60 and s.at < v_minutes_until
        order by s.at
        limit max_rows))
    returning (0, 3600, date_bin('1 hour', s.at, '2000-01-01 00:00:00+00'), s.kind, s.enqueued, s.completed,
      s.failed, s.waits, s.runs)::awa.queue_statistics as hour
  )
  select array_agg(g.hour) into v_hours from gone g;
  perform awa._store_all_statistics(array(select m from awa._merge_statistics(v_hours) m));
  delete from awa.queue_statistics s
   where s.ctid = any(array(
     select s.ctid
       from awa.queue_statistics s
      where s.seconds = 3600 and s.at < v_hours_until
      order by s.at
      limit max_rows));
  delete from awa.statistics s where s.seconds = 3600 and s.at < v_hours_until;
end
$$;
comment on function awa._thin_statistics is
  'Puts minutes that are older than a day together into hours, and removes hours that are older than 30 days';

-- Removes the statistics of a queue, and the uncounted ends of attempts that had rows in leases.
-- The caller has locked the counts.
create or replace function awa._forget_statistics(queue_id bigint) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  delete from awa.queue_statistics s where s.queue_id = queue_id;
  delete from awa.leased_ends e where e.lane between awa._first_lane(queue_id) and awa._last_lane(queue_id);
end
$$;
comment on function awa._forget_statistics is
  'Removes the statistics of a queue, and the uncounted ends of attempts that had rows in leases';

-- The jobs that came and ended in a lane, and are not in its counts yet, as fold will add them to the statistics.
-- Of ends also those in claims that are still open. Reads so many entries, and claims, at most.
create or replace function awa._uncounted_statistics(lane bigint, max_rows int) returns setof awa.queue_statistics
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_lane record;
begin
  select * into v_lane from awa._lanes l where l.queue_id = awa._queue_of(lane) and l.lane = lane;
  if not found then
    return;
  end if;
  return query
    select m.*
      from awa._merge_statistics(array(
        select (v_lane.queue_id, 60, a.at, a.kind, a.enqueued, 0, 0, '{}', '{}')::awa.queue_statistics
          from (
            select awa._minute_of(coalesce(a.ready_at, clock_timestamp())) as at, a.kind, sum(a.enqueued) as enqueued
              from (
                select *
                  from awa._appended_since(lane, v_lane.counted, v_lane.dropped) a
                 where not pg_visible_in_snapshot(a.xid, v_lane.counted)
                 limit max_rows
              ) a
             where a.enqueued > 0 and a.kind is not null
             group by 1, 2
          ) a)) m;
  return query
    select e.*
      from awa._ends_of(array(
        select c.claim
          from (
            select c as claim, sum(cardinality(c.job_ids)) over (rows unbounded preceding) as jobs
              from awa._uncounted(lane, v_lane.closed_seq, v_lane.open_seqs, max_rows) c
          ) c
         where c.jobs <= max_rows and (c.claim).job_ids <> '{}'), '{}') e;
end
$$;
comment on function awa._uncounted_statistics is
  'The jobs that came and ended in a lane, and are not in its counts yet, as fold will add them to the statistics';
