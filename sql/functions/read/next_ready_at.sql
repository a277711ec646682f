-- When the next deferred job, or the next tick of a schedule, is due, of these queues or of all; null when none is.
-- With queues, also when the next job may begin under the rate of one that has let none begin just now, and when a
-- group opens that has jobs waiting: its rate lets the next one begin, or a pause is over.
-- A time that has passed: call promote_due and fire_due, or run_maintenance. A job that was committed late, after
-- promote_due has gone past its time, counts for ten seconds.
-- Raises 22023.
-- Why: a caller can wait until then, a second at most: jobs that come meanwhile, and are due sooner, are notified on
-- the channel awa_due. Reads two entries of indexes; with queues, one for each lane and state, and the schedules up to
-- the first one of these queues. Of deferred jobs it begins where the last pass has ended, since a transaction
-- elsewhere may keep millions of promoted rows before that.
create or replace function awa.next_ready_at(queues text[] default null) returns timestamptz
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_from timestamptz := awa._due_from(clock_timestamp(), false);
begin
  if queues is null then
    return least(awa._next_deferred(), awa._next_tick_of(null));
  end if;
  perform awa._check_array('queues', queues, 10000);
  return least(awa._next_tick_of(queues), awa._next_under_rate(queues), awa._next_opening(queues), (
    select min(d.run_at)
      from (select distinct q.name from unnest(queues) q(name)) q
     cross join lateral (select l.lane from awa._lanes_of(awa._queue_id(q.name)) l(lane) offset 0) l
     cross join unnest(awa._states('deferred')) s(state)
     cross join lateral (
        select d.run_at
          from awa.deferred_jobs d
         where d.lane = l.lane and d.state = s.state and d.run_at >= v_from
         order by d.run_at
         limit 1
      ) d));
end
$$;
comment on function awa.next_ready_at is
  'When the next deferred job, or the next tick of a schedule, is due, of these queues or of all; null when none is';

-- When the next job may begin under the rate of one of these queues, if that lies ahead; null when it does not.
create or replace function awa._next_under_rate(queues text[]) returns timestamptz
language sql stable
as $$
  select min(o.at)
    from (select distinct awa._queue_id(q.name) as queue_id from unnest(queues) q(name)) q
   cross join lateral (
      select s.rate from awa.queue_settings s where s.queue_id = q.queue_id and s.rate is not null limit 1
    ) s
   cross join lateral (
      select s.next_at from awa.shard_states s where s.shard = q.queue_id << 6 order by s.state_id desc limit 1
    ) n
   cross join lateral (select clock_timestamp() as now offset 0) c
   cross join lateral (
      select awa._rate_opens_at(s.rate, awa._rate_after(s.rate, n.next_at, c.now, 0)) as at offset 0
    ) o
   where o.at > c.now
$$;
comment on function awa._next_under_rate is
  'When the next job may begin under the rate of one of these queues, if that lies ahead; null when it does not';

-- When a claim is to look at a group of one of these queues again, whose jobs wait for a time; null when it is not.
create or replace function awa._next_opening(queues text[]) returns timestamptz
language sql stable
as $$
  select min(g.opens_at)
    from (
      select distinct awa._shard_of(l.lane) as shard
        from (select distinct awa._queue_id(q.name) as queue_id from unnest(queues) q(name)) q
       cross join lateral awa._lanes_of(q.queue_id) l
       where (select true from awa.queues n where n.queue_id = q.queue_id and n.has_limits limit 1)
    ) s
    left join lateral (
      select n.opened_until from awa.shard_states n where n.shard = s.shard order by n.state_id desc limit 1
    ) n on true
   cross join lateral (
      select g.opens_at
        from awa.group_states g
       where g.shard = s.shard and g.opens_at >= coalesce(n.opened_until, '-infinity')
       order by g.opens_at
       limit 1
    ) g
$$;
comment on function awa._next_opening is
  'When a claim is to look at a group of one of these queues again, whose jobs wait for a time; null when it is not';
