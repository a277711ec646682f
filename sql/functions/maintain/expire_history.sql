-- The row that expire_history returns: how many jobs it removed.
create or replace view awa.expire_history_row as select c.claim_id as expired from awa.lease_claims c where false;
comment on view awa.expire_history_row is
  'The row that expire_history returns: how many jobs it removed. The view itself is always empty';

-- Removes ended jobs that are past their retention, at most 2,000 of each kind; returns how many.
-- Failed and cancelled jobs are kept for failed_retention, dead letters for dlq_retention, completed jobs with rows of
-- their own for completed_retention, or for that of their queue where it is shorter. They stay in the counts. Also
-- removes unique keys of completed jobs whose period is over. Safe to call from anywhere, as often as one likes.
-- Locks: the counts, or else it leaves all to the session that holds them; and the rows. Skips rows that another
-- session is changing: rows behind them are removed.
-- Raises 55000, and the error of a resource that the server lacks, such as disk, where it could remove no job for that.
create or replace function awa.expire_history() returns setof awa.expire_history_row
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = on
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set lock_timeout = 0
as $$
declare
  v_expired bigint;
begin
  perform awa._check_rows();
  if not pg_try_advisory_xact_lock(awa._fold_key()) then
    return query select 0::bigint; -- another session is counting
    return;
  end if;
  begin
    perform awa._expire_keys();
  exception when others then
    if not awa._is_about_a_row(sqlstate) then
      raise;
    end if;
    raise warning 'unique keys can''t be removed' using errcode = sqlstate, detail = sqlerrm;
  end;
  v_expired := awa._expire(false) + awa._expire(true);
  perform awa._note_success('expire_history');
  return query select v_expired;
end
$$;
comment on function awa.expire_history is
  'Removes ended jobs that are past their retention, at most 2,000 of each kind; returns how many';

-- Removes ended jobs that are past their retention, but for rows that others hold; returns how many.
-- Either completed ones with rows of their own, or the others. Where that fails, it removes some of them one by one, at
-- random, for a second. Changes lock_timeout: the calling function has to have a SET clause for it.
-- Why: the rest must not wait for rows that a user's trigger keeps, also where these are more than one call takes.
create or replace function awa._expire(completed boolean) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_states text[] := awa._states(case when completed then 'completed_retention' else 'done' end);
  v_until timestamptz;
  v_job_id bigint;
  v_expired bigint := 0;
  v_refused bigint[] := '{}';
  v_refusal text;
  v_lack text[];
begin
  perform set_config('lock_timeout', '10', true); -- a user's trigger may wait for another session
  begin
    return awa._remove_done(v_states, awa._past_retention(completed));
  exception when others then
    if not awa._is_about_a_row(sqlstate) then
      raise;
    end if;
  end;
  perform set_config('lock_timeout', '1', true);
  v_until := clock_timestamp() + awa._budget('1 second', 8);
  foreach v_job_id in array awa._some_past_retention(completed) loop
    exit when clock_timestamp() > v_until;
    begin
      v_expired := v_expired + awa._remove_done(v_states, array[v_job_id]);
    exception when others then
      if not awa._is_about_a_row(sqlstate) then
        raise;
      end if;
      continue when awa._is_passing(sqlstate);
      v_lack := coalesce(v_lack, awa._lack(sqlerrm, sqlstate));
      v_refused := v_refused || v_job_id;
      v_refusal := coalesce(v_refusal, awa._refusal(sqlerrm, sqlstate));
    end;
  end loop;
  perform awa._warn_refused(v_refused, 'is past its retention, and can''t be removed', v_refusal);
  if v_expired = 0 then
    perform awa._fail_for(v_lack);
  end if;
  return v_expired;
end
$$;
comment on function awa._expire is
  'Removes ended jobs that are past their retention, but for rows that others hold; returns how many';

-- Ended jobs that are past their retention, at most 2,000: completed ones with rows of their own, or the others.
-- Locks: the rows. Skips those that others hold.
-- Why: completed jobs are looked for by an index of their own, so that one with an output is in that one only.
create or replace function awa._past_retention(completed boolean) returns bigint[]
language plpgsql
as $$
declare
  v_now timestamptz := now(); -- not what this transaction itself has cancelled: another job may wait for its key
  v_kept interval := (awa._settings()).completed_retention;
begin
  if completed then -- that have a row of their own; the others go with their segment
    return array(
      select d.job_id
        from awa._completed_lanes() l(lane)
        left join lateral (
          select s.completed_retention from awa.queue_settings s where s.queue_id = awa._queue_of(l.lane) limit 1
        ) s on true
       cross join lateral (
          select d.job_id from awa.done_entries d
           where d.lane = l.lane and d.state = 'completed'
             and d.finalized_at < v_now - least(v_kept, s.completed_retention)
           order by d.finalized_at limit 2000
             for update skip locked
        ) d
       limit 2000);
  end if;
  return array(
    select d.job_id
      from awa._done_lanes() l(lane)
      left join lateral (select * from awa.queue_settings s where s.queue_id = awa._queue_of(l.lane) limit 1) s on true
     cross join unnest(awa._states('done')) f(state)
     cross join lateral (
        select d.job_id from awa.done_entries d
         where d.lane = l.lane and d.state = f.state and not d.counted_by_closure
           and d.finalized_at < v_now - awa._retention(f.state, s.failed_retention, s.dlq_retention)
         order by d.finalized_at limit 2000
           for update skip locked
      ) d
     limit 2000);
end
$$;
comment on function awa._past_retention is
  'Ended jobs that are past their retention, at most 2,000: completed ones with rows of their own, or the others';

-- Some of these jobs, at random, at most 1,000.
-- Out of up to 20,000, from a lane on, which is chosen at random. Of each of its states up to 5,000: the first ones;
-- where there are more, as often those from a time on, which is chosen at random, too.
create or replace function awa._some_past_retention(completed boolean) returns bigint[]
language plpgsql
as $$
declare
  v_now timestamptz := now(); -- not what this transaction itself has cancelled: another job may wait for its key
  v_kept interval := (awa._settings()).completed_retention;
  v_lanes bigint[] := array(
    select l from awa._completed_lanes() l where completed
    union all
    select l from awa._done_lanes() l where not completed);
  v_first int := 1 + floor(random() * cardinality(v_lanes));
  v_share float := case when random() < 0.5 then awa._random_share() else 0 end;
  v_kind record;
  v_some bigint[];
  v_job_ids bigint[] := '{}';
begin
  for v_kind in
    select l.lane, f.state,
           v_now - case
             when completed then least(v_kept, s.completed_retention)
             else awa._retention(f.state, s.failed_retention, s.dlq_retention)
           end as before
      from unnest(v_lanes[v_first:] || v_lanes[:v_first - 1]) with ordinality l(lane, nth)
     cross join unnest(awa._states(case when completed then 'completed_retention' else 'done' end)) f(state)
      left join lateral (select * from awa.queue_settings s where s.queue_id = awa._queue_of(l.lane) limit 1) s on true
     order by l.nth
  loop
    v_some := awa._ended_before(v_kind.lane, v_kind.state, v_kind.before, 0, 5000);
    if v_share > 0 and cardinality(v_some) = 5000 then
      v_some := awa._ended_before(v_kind.lane, v_kind.state, v_kind.before, v_share, 5000);
    end if;
    v_job_ids := v_job_ids || v_some;
    exit when cardinality(v_job_ids) >= 20000;
  end loop;
  return array(select j from unnest(v_job_ids) j order by random() limit 1000);
end
$$;
comment on function awa._some_past_retention is 'Some of these jobs, at random, at most 1,000';

-- Ended jobs of a lane and a state that ended before a time: the first ones, or those from a share of their times on.
create or replace function awa._ended_before(
  lane bigint,
  state text,
  before timestamptz,
  share float,
  most int
) returns bigint[]
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_first timestamptz;
begin
  if state = 'completed' then
    v_first := (select min(d.finalized_at) from awa.done_entries d where d.lane = lane and d.state = 'completed');
    return array(
      select d.job_id
        from awa.done_entries d
       where d.lane = lane
         and d.state = 'completed'
         and d.finalized_at between v_first + share * (before - v_first) and before
       order by d.finalized_at
       limit most);
  end if;
  v_first := (
    select min(d.finalized_at)
      from awa.done_entries d
     where d.lane = lane and d.state = state and not d.counted_by_closure);
  return array(
    select d.job_id
      from awa.done_entries d
     where d.lane = lane
       and d.state = state
       and not d.counted_by_closure
       and d.finalized_at between v_first + share * (before - v_first) and before
     order by d.finalized_at
     limit most);
end
$$;
comment on function awa._ended_before is
  'Ended jobs of a lane and a state that ended before a time: the first ones, or those from a share of their times on';

-- Removes rows of ended jobs in some states that no other session has locked, and counts them; returns how many.
-- Locks: these rows, until the transaction ends.
create or replace function awa._remove_done(states text[], job_ids bigint[]) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_jobs record;
  v_removed bigint := 0;
begin
  for v_jobs in
    with gone as (
      delete from awa.done_entries d
       where d.job_id = any(
         array(
           select e.job_id
             from awa.done_entries e
            where e.job_id = any(job_ids) and e.state = any(states)
              for update skip locked
         )
       )
         and d.state = any(states)
      returning d.job_id, d.lane, d.state, d.counted_by_closure, d.unique_key, d.group_key
    )
    select g.lane, g.state, g.counted_by_closure, count(*) as jobs,
           array_agg(g.job_id) filter (where g.unique_key is not null) as keyed,
           array_agg(g.lane) filter (where g.unique_key is not null) as lanes,
           array_agg(g.unique_key) filter (where g.unique_key is not null) as keys,
           array_agg(g.job_id) filter (where g.group_key is not null) as grouped,
           array_agg(g.lane) filter (where g.group_key is not null) as group_lanes,
           array_agg(g.group_key) filter (where g.group_key is not null) as groups
      from gone g
     group by g.lane, g.state, g.counted_by_closure
     order by g.lane, g.state, g.counted_by_closure
  loop
    perform awa._change_state(v_jobs.keyed, v_jobs.lanes, v_jobs.keys, v_jobs.state, null);
    if not v_jobs.counted_by_closure then -- its claim counts it otherwise
      perform awa._count_gone(v_jobs.lane, v_jobs.state, v_jobs.jobs);
    end if;
    if v_jobs.state = any(awa._states('holds_group')) then
      perform awa._note_leavers(v_jobs.grouped, v_jobs.group_lanes, v_jobs.groups);
    end if;
    v_removed := v_removed + v_jobs.jobs;
  end loop;
  return v_removed;
end
$$;
comment on function awa._remove_done is
  'Removes rows of ended jobs in some states that no other session has locked, and counts them; returns how many';

-- Adds jobs that are no longer kept to the counts of their lane.
create or replace function awa._count_gone(lane bigint, state text, jobs bigint) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  perform awa._add_rollups(array[lane]);
  update awa.queue_rollups r
     set completed = r.completed + case when state = any(awa._states('counted_as_completed')) then jobs else 0 end,
         failed = r.failed + case when state = any(awa._states('counted_as_failed')) then jobs else 0 end,
         cancelled = r.cancelled + case when state = any(awa._states('counted_as_cancelled')) then jobs else 0 end,
         dead = r.dead + case when state = any(awa._states('counted_as_dead')) then jobs else 0 end
   where r.lane = lane;
end
$$;
comment on function awa._count_gone is 'Adds jobs that are no longer kept to the counts of their lane';

-- The lanes that have jobs in done_entries.
-- Why: it goes from one lane to the next by the index, so that other queues cost nothing.
create or replace function awa._done_lanes() returns setof bigint
language sql stable
as $$
  with recursive lanes(lane) as (
    (select d.lane from awa.done_entries d where not d.counted_by_closure order by d.lane limit 1)
    union all
    select (
      select d.lane from awa.done_entries d where not d.counted_by_closure and d.lane > l.lane order by d.lane limit 1
    )
      from lanes l
     where l.lane is not null
  )
  select l.lane from lanes l where l.lane is not null
$$;
comment on function awa._done_lanes is 'The lanes that have jobs in done_entries';

-- The lanes that have completed jobs with rows of their own.
create or replace function awa._completed_lanes() returns setof bigint
language sql stable
as $$
  with recursive lanes(lane) as (
    (select d.lane from awa.done_entries d where d.state = 'completed' order by d.lane limit 1)
    union all
    select (
      select d.lane from awa.done_entries d where d.state = 'completed' and d.lane > l.lane order by d.lane limit 1
    )
      from lanes l
     where l.lane is not null
  )
  select l.lane from lanes l where l.lane is not null
$$;
comment on function awa._completed_lanes is 'The lanes that have completed jobs with rows of their own';
