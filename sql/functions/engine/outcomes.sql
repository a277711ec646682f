-- The rows that follow attempts that were closed.

-- Writes the rows that follow failed attempts that were closed; returns the state of one of them.
-- The next attempt goes to deferred_jobs, the end to done_entries. There is an error and a delay for each attempt. With
-- final no attempt follows, whatever attempts are left.
create or replace function awa._record_failures(
  attempts    awa.leases[],
  errors      text[],
  retry_after interval[],
  details     jsonb default null,
  final       boolean default false
) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_states text[];
  v_run_at timestamptz[];
  v_errors jsonb[];
  v_state text;
  v_ordinals int[];
begin
  select array_agg(f.state), array_agg(f.run_at), array_agg(f.errors)
    into v_states, v_run_at, v_errors
    from (
      select case
               when a.attempt < a.max_attempts and not final then 'retryable'
               when s.dead_letter then 'dead'
               else 'failed'
             end as state,
             clock_timestamp() + coalesce(retry_after[a.ordinality], make_interval(secs => least(
               extract(epoch from coalesce(s.backoff_base, awa._default_interval('backoff_base')))
                 * power(2::float8, least(a.attempt, 62)) * (1 + random() / 4),
               extract(epoch from coalesce(s.backoff_max, awa._default_interval('backoff_max')))))) as run_at,
             awa._add_error(a.errors, a.attempt, errors[a.ordinality], details) as errors
        from unnest(attempts) with ordinality a
        left join awa.queue_settings s on s.queue_id = awa._queue_of(a.lane)
       order by a.ordinality
    ) f;
  v_state := v_states[1];
  if v_state = all(v_states) then
    perform awa._write_failures(attempts, v_state, v_run_at, v_errors, final);
    return v_state;
  end if;
  foreach v_state in array array(select distinct s from unnest(v_states) s) loop
    v_ordinals := array_positions(v_states, v_state);
    perform awa._write_failures(array(select attempts[p] from unnest(v_ordinals) p), v_state,
      array(select v_run_at[p] from unnest(v_ordinals) p), array(select v_errors[p] from unnest(v_ordinals) p),
      final);
  end loop;
  return v_state;
end
$$;
comment on function awa._record_failures is
  'Writes the rows that follow failed attempts that were closed; returns the state of one of them';

-- Writes the rows that follow failed attempts, all of which go to one state.
create or replace function awa._write_failures(
  attempts awa.leases[],
  state    text,
  run_at   timestamptz[],
  errors   jsonb[],
  final    boolean
) returns void
language plpgsql
as $$
begin
  if state = 'retryable' then
    perform awa._defer(attempts, state, run_at, errors, counts => true);
  else
    perform awa._end(attempts, state, reason => case when final then 'discarded' else 'attempts used up' end,
      errors => errors);
  end if;
  perform awa._end_attempts(attempts, state);
end
$$;
comment on function awa._write_failures is 'Writes the rows that follow failed attempts, all of which go to one state';

-- Writes the rows that follow closed attempts whose failure the server refuses to store.
-- Returns when the last of the jobs runs again.
create or replace function awa._put_off(attempts awa.leases[], error text) returns timestamptz
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
  perform awa._end_attempts(attempts, 'scheduled');
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
create or replace function awa._record_releases(attempts awa.leases[]) returns void
language plpgsql
as $$
declare
  v_run_at timestamptz[] := array_fill(clock_timestamp(), array[cardinality(attempts)]); -- no part of the query below
begin
  perform awa._append_ready(array(select w from awa._waiting(attempts, 'available', v_run_at) w), in_front => true);
  perform awa._end_attempts(attempts, 'available');
end
$$;
comment on function awa._record_releases is
  'Appends the jobs of attempts that were released to the front lanes of their queues';

-- Writes the ends of attempts that were closed as cancelled.
create or replace function awa._record_cancels(attempts awa.leases[], reason text) returns void
language plpgsql
as $$
begin
  perform awa._end_as_cancelled(attempts, reason);
  perform awa._end_attempts(attempts, 'cancelled');
end
$$;
comment on function awa._record_cancels is 'Writes the ends of attempts that were closed as cancelled';

-- Writes the ends of cancelled jobs, after their last attempts.
-- by: the login that has cancelled them; null where they have expired.
create or replace function awa._end_as_cancelled(
  attempts awa.leases[],
  reason text,
  by text default session_user
) returns void
language plpgsql
as $$
begin
  perform awa._end(attempts, 'cancelled',
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
