-- Jobs that claims have put aside, since their groups were full, or are served by turns.

-- A job that waits for its group, as one that waits for a time.
create or replace function awa._as_deferred(job awa.limited_jobs) returns setof awa.deferred_jobs
language sql stable
as $$
  select job.job_id, job.lane, 'available', job.ready_at, job.created_at, null::timestamptz, job.attempt,
         job.max_attempts, job.body_bytes, job.unique_key, job.kind, job.args, job.tags, job.metadata, job.group_key,
         job.expires_at, job.progress, job.errors
$$;
comment on function awa._as_deferred is 'A job that waits for its group, as one that waits for a time';

-- Takes jobs out of the lines of their groups; returns them, as jobs that wait for a time.
-- Those that have gone meanwhile are left out. Wakes their queues: others may be next.
-- Locks: the jobs' rows, until the transaction ends. A claim passes over such a row, and comes back to it.
create or replace function awa._leave_lines(job_ids bigint[]) returns setof awa.deferred_jobs
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_queue_ids bigint[];
begin
  v_queue_ids := array(
    select distinct awa._queue_of(w.lane) from awa.limited_jobs w where w.job_id = any(job_ids) order by 1);
  return query
    with gone as (
      delete from awa.limited_jobs w where w.job_id = any(job_ids) returning w as job
    )
    select d.* from gone g cross join lateral awa._as_deferred(g.job) d;
  perform awa._wake(q) from unnest(v_queue_ids) q;
end
$$;
comment on function awa._leave_lines is
  'Takes jobs out of the lines of their groups; returns them, as jobs that wait for a time';

-- Cancels jobs that wait for their groups, and have expired, until a time; returns how many, and a lack (see _lack).
-- One by one where that fails. A job whose end the server refuses to store, because of a user's trigger, is put off, as
-- promote_due does it: it leaves its line, and the others go on. Where it can't be put off either, where the server
-- can't read it, or lacks a resource, or another session is in the way for more than milliseconds, it stays.
-- Changes lock_timeout: the calling function has to have a SET clause for it.
-- Locks: the jobs' rows, until the transaction ends.
create or replace function awa._expire_limited(
  job_ids bigint[],
  until timestamptz,
  out cancelled bigint,
  out lack text[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_job_id bigint;
  v_refused bigint[] := '{}';
  v_refusal text;
begin
  cancelled := 0;
  if job_ids = '{}' then
    return;
  end if;
  perform set_config('lock_timeout', '10', true);
  begin
    cancelled := cardinality(awa._cancel_waiting(job_ids, 'expired', null));
    job_ids := '{}';
  exception when others then
    if not awa._is_about_a_row(sqlstate) then
      raise;
    end if; -- one by one
  end;
  perform set_config('lock_timeout', '1', true);
  foreach v_job_id in array job_ids loop
    exit when clock_timestamp() > until;
    begin
      cancelled := cancelled + cardinality(awa._cancel_waiting(array[v_job_id], 'expired', null));
    exception when others then
      continue when awa._is_passing(sqlstate);
      if not awa._is_about_a_row(sqlstate) then
        raise;
      end if;
      lack := coalesce(lack, awa._lack(sqlerrm, sqlstate));
      if awa._lack(sqlerrm, sqlstate) is null then
        v_refused := v_refused || v_job_id;
        v_refusal := coalesce(v_refusal, awa._refusal(sqlerrm, sqlstate));
        perform awa._put_off_in_line(v_job_id, sqlerrm, sqlstate);
      end if;
    end;
  end loop;
  perform awa._warn_refused(v_refused, 'has expired, and can''t be cancelled', v_refusal);
  perform set_config('lock_timeout', '0', true);
end
$$;
comment on function awa._expire_limited is
  'Cancels jobs that wait for their groups, and have expired, until a time; returns how many, and a lack (see _lack)';

-- Puts off a job in line that has expired, since the server refuses to cancel it; where it can't, the job stays.
create or replace function awa._put_off_in_line(job_id bigint, message text, code text) returns void
language plpgsql
as $$
begin
  perform awa._put_off_limited(job_id, 'cancel', awa._refusal(message, code));
exception when others then
  if not awa._is_about_a_row(sqlstate) then
    raise;
  end if;
end
$$;
comment on function awa._put_off_in_line is
  'Puts off a job in line that has expired, since the server refuses to cancel it; where it can''t, the job stays';

-- Puts off a job that waits for its group, since the server refuses to begin it, or to cancel it when it has expired.
create or replace function awa._put_off_limited(job_id bigint, deed text, error text) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_jobs awa.deferred_jobs[] := array(select g from awa._leave_lines(array[job_id]) g);
  v_attempts awa.leases[] := array(select a from unnest(v_jobs) g cross join lateral awa._last_attempt(g) a);
begin
  perform awa._change_state(array[g.job_id], array[g.lane], array[g.unique_key], 'available', 'scheduled')
     from unnest(v_jobs) g
    where g.unique_key is not null;
  perform awa._defer_refused(v_attempts, deed, error);
end
$$;
comment on function awa._put_off_limited is
  'Puts off a job that waits for its group, since the server refuses to begin it, or to cancel it when it has expired';

-- Writes the rows of jobs that are put off since the server refuses a deed.
-- attempts: the last ones before these.
create or replace function awa._defer_refused(attempts awa.leases[], deed text, error text) returns void
language plpgsql
as $$
begin
  perform awa._defer(attempts, 'scheduled',
    array(select clock_timestamp() + awa._put_off_delay(a.errors) from unnest(attempts) a),
    array(
      select jsonb_set(awa._add_error(a.errors, a.attempt, format('to %s it was refused: %s', deed, error)),
               '{-1,put_off}', 'true')
        from unnest(attempts) a
    ),
    counts => true);
end
$$;
comment on function awa._defer_refused is
  'Writes the rows of jobs that are put off since the server refuses a deed';

-- Puts off the job of an item of a claim that nobody was given, since the server refuses a deed.
create or replace function awa._put_off_item(receipt bigint, deed text, error text) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_attempts awa.leases[];
begin
  perform awa._take_items(array[receipt], 'snoozed', begun => false);
  v_attempts := awa._look_up(array[receipt]);
  perform awa._defer_refused(array(select awa._unbegun(a) from unnest(v_attempts) a), deed, error);
  perform awa._change_state(array_agg(a.job_id), array_agg(a.lane), array_agg(a.unique_key), 'available', 'scheduled')
     from unnest(v_attempts) a
    where a.unique_key is not null;
end
$$;
comment on function awa._put_off_item is
  'Puts off the job of an item of a claim that nobody was given, since the server refuses a deed';

-- Puts off a job that had its turn, since the server refuses to begin it, and gives its slot back; returns the job.
-- Where it can't be put off either, its turn goes to the end of its lane. It keeps its place in a group in order.
create or replace function awa._put_off_turn(waiting_id bigint, message text, code text) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_job record;
begin
  select w.shard, w.group_id, w.job_id, w.lane into v_job
    from awa.limited_jobs w
   where w.waiting_id = waiting_id;
  begin
    perform awa._put_off_limited(v_job.job_id, 'begin', awa._refusal(message, code));
    insert into awa.slots (shard, freed, looks, holders)
    select v_job.shard, array[v_job.group_id], array[v_job.group_id], array[v_job.job_id]
     where v_job.group_id is not null;
    perform awa._wake(v_job.shard >> 6);
  exception when others then
    if not awa._is_about_a_row(sqlstate) then
      raise;
    end if;
    insert into awa.turns (turn_id, lane, group_id, waiting_id)
    values (nextval('awa.turn_ids'), v_job.lane, v_job.group_id, waiting_id);
  end;
  return v_job.job_id;
end
$$;
comment on function awa._put_off_turn is
  'Puts off a job that had its turn, since the server refuses to begin it, and gives its slot back; returns the job';

-- Takes a job that this transaction has cancelled out of the line of its group; returns whether it was there.
-- A claim has put it aside since. Where the transaction has retried it, too, it has its place in the log, and keeps its
-- unique key.
-- Locks: the job's row.
create or replace function awa._cancel_put_aside(job_id bigint) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_jobs awa.deferred_jobs[] := array(select g from awa._leave_lines(array[job_id]) g);
begin
  perform awa._change_state(array[g.job_id], array[g.lane], array[g.unique_key], 'available', d.state)
     from unnest(v_jobs) g
    cross join lateral (
       select d.state from awa.done_entries d where d.job_id = job_id and awa._is_cancel(d.state, d.receipt) limit 1
     ) d
    where g.unique_key is not null;
  return v_jobs <> '{}';
end
$$;
comment on function awa._cancel_put_aside is
  'Takes a job that this transaction has cancelled out of the line of its group; returns whether it was there';

-- Removes all that is known of the limits of a queue: lines, with their jobs, turns, slots and states.
-- The caller has locked the queue, and ended its attempts.
create or replace function awa._forget_limits(queue_id bigint) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_first bigint := queue_id << 6;
  v_last bigint := queue_id << 6 | 63;
  v_job_ids bigint[];
  v_keys bytea[];
begin
  with gone as (
    delete from awa.limited_jobs w where w.shard between v_first and v_last returning w.job_id, w.unique_key
  )
  select array_agg(g.job_id), array_agg(substr(g.unique_key, 1, 32)) into v_job_ids, v_keys
    from gone g
   where g.unique_key is not null;
  perform awa._let_go(v_job_ids, v_keys);
  delete from awa.turns t where t.lane between awa._first_lane(queue_id) and awa._last_lane(queue_id);
  delete from awa.slots s where s.shard between v_first and v_last;
  delete from awa.group_states s where s.shard between v_first and v_last;
  delete from awa.group_settings g where g.queue_id = queue_id;
  delete from awa.shard_states s where s.shard between v_first and v_last;
end
$$;
comment on function awa._forget_limits is
  'Removes all that is known of the limits of a queue: lines, with their jobs, turns, slots and states';

-- Removes states of groups that are idle, at most so many.
-- Those that were written since the oldest snapshot stay.
-- Locks: these rows. Skips those that a claim is replacing.
-- Why: without one a group is idle as well. But while a transaction elsewhere keeps the older ones, a look for the
-- newest state would pass over all of them if it was gone.
create or replace function awa._forget_idle_groups(max_groups int) returns void
language plpgsql
as $$
declare
  v_horizon constant xid8 := awa._horizon();
begin
  delete from awa.group_states s
   where s.ctid = any(array(
     select s.ctid
       from awa.group_states s
      where s.ctid = any(array(
        (
          select s.ctid
            from awa.group_states s
           where s.running = 0 and not s.has_line and not s.has_front and s.holder is null
             and coalesce(s.next_at, '-infinity') = '-infinity' and s.xid < v_horizon
           order by s.xid
           limit max_groups
        )
        union all
        (
          select s.ctid
            from awa.group_states s
           where s.running = 0 and not s.has_line and not s.has_front and s.holder is null
             and coalesce(s.next_at, '-infinity') > '-infinity'
             and coalesce(s.next_at, '-infinity') <= (select clock_timestamp()) -- before, its rate needs it
             and s.xid < v_horizon
           order by coalesce(s.next_at, '-infinity')
           limit max_groups
        )
      ))
        for update skip locked));
end
$$;
comment on function awa._forget_idle_groups is 'Removes states of groups that are idle, at most so many';

-- Begins the states of limits anew, after a restore: running jobs are counted, waiting ones in line, and holders hold.
-- The caller has given all open attempts a row in leases.
-- Why: the transaction ids in slots are those of another server. The times of rates stay.
create or replace function awa._recount_limits() returns void
language plpgsql
as $$
declare
  v_now pg_snapshot := awa._snapshot();
begin
  perform awa._change_holders(c.shard, c.groups, c.holders, c.leavers, coalesce(s.group_order, 'start'))
     from (
       select n.shard, array_agg(p.group_id) as groups, array_agg(p.holders) as holders, array_agg(p.leavers) as leavers
         from awa.slots n
        cross join unnest(n.looks, n.holders, n.leavers) p(group_id, holders, leavers)
        where num_nonnulls(p.holders, p.leavers) > 0
        group by n.shard
     ) c
     left join awa.queue_settings s on s.queue_id = c.shard >> 6;
  delete from awa.turns t where t.group_id is not null;
  delete from awa.slots;
  with known as (
    delete from awa.group_states s returning s.shard, s.group_id, s.state_id, s.holder, s.next_at
  )
  insert into awa.group_states
    (shard, group_id, state_id, running, has_line, has_front, taken, front_taken, holder, next_at, rate_turns)
  select g.shard, g.group_id, nextval('awa.state_ids'), sum(g.running), bool_or(g.in_line), bool_or(g.in_front), 0,
         -9223372036854775808, min(g.holder), max(g.next_at), 0
    from (
      select awa._shard_of(l.lane) as shard, l.group_id, 1 as running, false as in_line, false as in_front,
             null::bigint as holder, null::timestamptz as next_at
        from awa.leases l
       where l.group_id is not null
      union all
      select w.shard, w.group_id, 0, w.waiting_id >= 0, w.waiting_id < 0, null, null
        from awa.limited_jobs w
       where w.group_id is not null
      union all
      (
        select distinct on (k.shard, k.group_id) k.shard, k.group_id, 0, false, false, k.holder, k.next_at
          from known k
         order by k.shard, k.group_id, k.state_id desc
      )
    ) g
   group by g.shard, g.group_id
  having sum(g.running) > 0 or bool_or(g.in_line) or bool_or(g.in_front) or min(g.holder) is not null
      or max(g.next_at) is not null;
  insert into awa.shard_states
    (shard, state_id, read_until, turns_until, running, next_at, group_max_running, group_order)
  select s.shard, nextval('awa.state_ids'), v_now, '{0,0,0,0,0}',
         (
           select count(*)
             from awa.leases l
            where l.holds_queue and awa._first_shard(awa._shard_of(l.lane)) = s.shard
         ), s.next_at, 0, s.group_order -- 0 is not a setting: claims look at all groups
    from (
      select distinct on (s.shard) s.shard, s.next_at, s.group_order, s.state_id
        from (
          select s.shard, s.next_at, s.group_order, s.state_id from awa.shard_states s
          union all
          select g.shard, null, null, -1 from awa.group_states g
          union all
          select awa._first_shard(awa._shard_of(l.lane)), null, null, -1 from awa.leases l where l.holds_queue
        ) s
       order by s.shard, s.state_id desc
    ) s;
  delete from awa.shard_states s
   where exists (select from awa.shard_states n where n.shard = s.shard and n.state_id > s.state_id);
end
$$;
comment on function awa._recount_limits is
  'Begins the states of limits anew, after a restore: running jobs are counted, waiting ones in line, and holders hold';
