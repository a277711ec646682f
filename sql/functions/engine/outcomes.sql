-- The rows that follow attempts that were closed.

-- Writes the rows that follow failed attempts that were closed; returns the state of one of them.
-- The next attempt goes to deferred_jobs, the end to done_entries. There is an error and a delay for each attempt. With
-- final no attempt follows, whatever attempts are left. leased: as for _end_attempts.
-- Why: one statement finds the delays, and defers the jobs.
create or replace function awa._record_failures(
  attempts    awa.leases[],
  errors      text[],
  retry_after interval[],
  details     jsonb default null,
  final       boolean default false,
  leased      boolean default true
) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_retried bigint := 0;
  v_next timestamptz; -- when the first of them runs again
begin
  if not final and (cardinality(attempts) > 1 or attempts[1].attempt < attempts[1].max_attempts) then
    with retried as (
      insert into awa.deferred_jobs
      select w.*
        from (
          select a.attempt,
                 clock_timestamp() + coalesce(a.retry_after, make_interval(secs => least(
                   extract(epoch from coalesce(s.backoff_base, awa._default_interval('backoff_base')))
                     * power(2::float8, least((a.attempt).attempt, 62)) * (1 + random() / 4),
                   extract(epoch from coalesce(s.backoff_max, awa._default_interval('backoff_max')))))) as run_at,
                 awa._add_error((a.attempt).errors, (a.attempt).attempt, a.error, details) as errors
            from (
              select unnest(attempts) as attempt, unnest(errors) as error, unnest(retry_after) as retry_after
            ) a
            left join awa.queue_settings s on s.queue_id = awa._queue_of((a.attempt).lane)
           where (a.attempt).attempt < (a.attempt).max_attempts
        ) f
       cross join lateral awa._as_waiting(f.attempt, 'retryable', f.run_at, f.errors, true) w
      returning deferred_jobs.run_at
    )
    select count(*), min(r.run_at) into v_retried, v_next from retried r;
    if awa._is_due_soon(v_next) then
      perform awa._wake_due(v_next);
    end if;
  end if;
  if v_retried = cardinality(attempts) then
    if not awa._holds_nothing(attempts, leased) then
      perform awa._end_attempts(attempts, 'retryable', leased);
    end if;
    return 'retryable';
  elsif v_retried > 0 then
    perform awa._end_attempts(array(select a from unnest(attempts) a where a.attempt < a.max_attempts), 'retryable',
      leased);
  end if;
  return awa._end_failures(attempts, errors, details, final, leased);
end
$$;
comment on function awa._record_failures is
  'Writes the rows that follow failed attempts that were closed; returns the state of one of them';

-- Writes the ends of failed attempts after which none follows; returns the state of one of them.
-- The others among the attempts it leaves alone: those that are not the last, unless final says so.
create or replace function awa._end_failures(
  attempts awa.leases[],
  errors   text[],
  details  jsonb,
  final    boolean,
  leased   boolean
) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_ended record;
  v_state text;
begin
  for v_ended in
    select f.state, array_agg(f.attempt) as attempts, array_agg(f.errors) as errors
      from (
        select case when s.dead_letter then 'dead' else 'failed' end as state, a.attempt,
               awa._add_error((a.attempt).errors, (a.attempt).attempt, a.error, details) as errors
          from (select unnest(attempts) as attempt, unnest(errors) as error) a
          left join awa.queue_settings s on s.queue_id = awa._queue_of((a.attempt).lane)
         where final or (a.attempt).attempt >= (a.attempt).max_attempts
      ) f
     group by f.state
  loop
    v_state := v_ended.state;
    perform awa._end(v_ended.attempts, v_ended.state,
      reason => case when final then 'discarded' else 'attempts used up' end, errors => v_ended.errors);
    if not awa._holds_nothing(v_ended.attempts, leased) then
      perform awa._end_attempts(v_ended.attempts, v_ended.state, leased);
    end if;
  end loop;
  return v_state;
end
$$;
comment on function awa._end_failures is
  'Writes the ends of failed attempts after which none follows; returns the state of one of them';

-- Writes the rows that follow closed attempts whose failure the server refuses to store.
-- Returns when the last of the jobs runs again. leased: as for _end_attempts.
create or replace function awa._put_off(
  attempts awa.leases[],
  error text,
  leased boolean default true
) returns timestamptz
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_run_at timestamptz[];
  v_errors jsonb[];
begin
  select array_agg(clock_timestamp() + awa._put_off_delay(a.errors) order by a.ordinality),
         array_agg(jsonb_set(awa._add_error(a.errors, a.attempt, error), '{-1,put_off}', 'true') order by a.ordinality)
    into v_run_at, v_errors
    from unnest(attempts) with ordinality a;
  perform awa._defer(attempts, 'scheduled', v_run_at, v_errors, counts => true);
  if not awa._holds_nothing(attempts, leased) then
    perform awa._end_attempts(attempts, 'scheduled', leased);
  end if;
  return (select max(r) from unnest(v_run_at) r);
end
$$;
comment on function awa._put_off is
  'Writes the rows that follow closed attempts whose failure the server refuses to store';

-- How long to put a job off that was put off after each of its last attempts.
create or replace function awa._put_off_delay(errors jsonb) returns interval
language sql stable
return (
  select least(interval '1 minute' * 2 ^ least(count(*), 10), '1 hour')
    from jsonb_array_elements(errors) with ordinality e(error, ordinal)
   where e.ordinal > coalesce((
      select max(o.ordinal)
        from jsonb_array_elements(errors) with ordinality o(error, ordinal)
       where not o.error ? 'put_off'
    ),
     0));
comment on function awa._put_off_delay is 'How long to put a job off that was put off after each of its last attempts';

-- Appends the jobs of attempts that were released to the front lanes of their queues.
-- leased: as for _end_attempts.
create or replace function awa._record_releases(attempts awa.leases[], leased boolean default true) returns void
language plpgsql
as $$
declare
  v_run_at timestamptz[] := array_fill(clock_timestamp(), array[cardinality(attempts)]); -- no part of the query below
begin
  perform awa._append_ready(array(select w from awa._waiting(attempts, 'available', v_run_at) w), in_front => true);
  if not awa._holds_nothing(attempts, leased) then
    perform awa._end_attempts(attempts, 'available', leased);
  end if;
end
$$;
comment on function awa._record_releases is
  'Appends the jobs of attempts that were released to the front lanes of their queues';

-- Writes the ends of attempts that were closed as cancelled.
-- leased: as for _end_attempts. by: the login that has cancelled them. state: as for _cancel.
create or replace function awa._record_cancels(
  attempts awa.leases[],
  reason text,
  leased boolean default true,
  by text default session_user,
  state text default 'cancelled'
) returns void
language plpgsql
as $$
begin
  perform awa._end_as_cancelled(attempts, reason, by, state);
  if not awa._holds_nothing(attempts, leased) then
    perform awa._end_attempts(attempts, state, leased, holds_group => false);
  end if;
end
$$;
comment on function awa._record_cancels is 'Writes the ends of attempts that were closed as cancelled';

-- Writes the ends of cancelled jobs, after their last attempts.
-- by: the login that has cancelled them; null where they have expired. state: as for _cancel.
create or replace function awa._end_as_cancelled(
  attempts awa.leases[],
  reason text,
  by text default session_user,
  state text default 'cancelled'
) returns void
language plpgsql
as $$
begin
  perform awa._end(attempts, state,
    reason => case when state = 'dead' then 'discarded' end,
    errors => array(
      select awa._add_error(a.errors, a.attempt, coalesce(reason, 'cancelled'), by => by)
        from unnest(attempts) with ordinality a
       order by a.ordinality
    ));
end
$$;
comment on function awa._end_as_cancelled is 'Writes the ends of cancelled jobs, after their last attempts';

-- Notes for the registered workers of attempts that they have lost them, with a reason for each.
create or replace function awa._record_lost_attempts(attempts awa.leases[], reasons text[]) returns void
language plpgsql
as $$
declare
  v_workers bigint[];
begin
  with lost as (
    insert into awa.lost_attempts (worker_id, receipt, job_id, reason)
    select a.worker_id, a.receipt, a.job_id, left(reasons[a.ordinality], 20000)
      from unnest(attempts) with ordinality a
     where exists (select from awa.workers w where w.worker_id = a.worker_id)
    on conflict do nothing
    returning lost_attempts.worker_id
  )
  select array_agg(distinct l.worker_id) into v_workers from lost l;
  perform awa._notify('awa_lost_attempts', w::text) from unnest(v_workers) w;
end
$$;
comment on function awa._record_lost_attempts is
  'Notes for the registered workers of attempts that they have lost them, with a reason for each';
