-- When the next deferred job is due, of these queues or of all; null when there is none.
-- A time that has passed: call promote_due. A job that was committed late, after promote_due has gone past its time,
-- counts for ten seconds.
-- Raises 22023.
-- Why: a caller of promote_due can wait until then, a second at most: jobs that come meanwhile, and are due sooner,
-- are notified on the channel awa_due. Reads one entry of an index, or one for each lane and state. It begins where
-- the last pass has ended, since a transaction elsewhere may keep millions of promoted rows before that.
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
    return (select d.run_at from awa.deferred_jobs d where d.run_at >= v_from order by d.run_at, d.job_id limit 1);
  end if;
  perform awa._check_array('queues', queues, 10000);
  return (
    select min(d.run_at)
      from (select distinct q.name from unnest(queues) q(name)) q
     cross join lateral (select l.lane from awa._lanes_of(awa._queue_id(q.name)) l(lane) offset 0) l
     cross join unnest('{scheduled,retryable}'::text[]) s(state)
     cross join lateral (
        select d.run_at
          from awa.deferred_jobs d
         where d.lane = l.lane and d.state = s.state and d.run_at >= v_from
         order by d.run_at
         limit 1
      ) d);
end
$$;
comment on function awa.next_ready_at is
  'When the next deferred job is due, of these queues or of all; null when there is none';
