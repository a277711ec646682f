-- Fails one attempt: the job runs again after a delay, or, when its attempts are used up, ends: as failed, or dead where the queue keeps dead letters. Returns the state that followed.
-- The delay is retry_after, or 2^attempt times the queue's backoff_base and up to a quarter more, at most its backoff_max.
-- Locks: the claim, shared, until the transaction ends. Raises JQ001, 22023; 55P03, 40001 as complete does.
create or replace function awa.fail(
  job_id      bigint,
  receipt     bigint,
  error       text,
  retry_after interval default null,
  details     jsonb default null
) returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
  if error is null then
    perform awa._refuse('error must not be null', null, 'Say what went wrong, in a text that is read in awa.jobs.');
  end if;
  perform awa._json_bytes('details', details, most => 65536);
  perform awa._check_delays(array[retry_after]);
  perform awa._close(job_id, receipt, 'failed');
  return awa._record_failures(awa._look_up(array[receipt]), array[error], array[retry_after], details);
end
$$;
comment on function awa.fail is 'Fails one attempt; returns the state that followed: retryable, failed or dead';

-- Refuses delays that are negative or too long.
create or replace function awa._check_delays(retry_after interval[]) returns void
language plpgsql
as $$
begin
  if exists (select from unnest(retry_after) r where not awa._fits(r, '0', '10 years')) then
    perform awa._refuse('retry_after must be between 0 and 10 years', retry_after::text, 'Leave it out for the queue''s backoff.');
  end if;
end
$$;
comment on function awa._check_delays is 'Refuses delays that are negative or too long';

-- Writes what follows failed attempts that were closed: the next attempt in deferred_jobs, or the end in done_entries. Returns the state of one of them.
-- There is an error and a delay for each attempt. Final means that no attempt follows, whatever are left.
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
  v_places int[];
  v_attempts awa.leases[] := attempts;
begin
  select array_agg(f.state order by f.place), array_agg(f.run_at order by f.place), array_agg(f.errors order by f.place)
    into v_states, v_run_at, v_errors
    from (
      select a.ordinality as place,
             case when a.attempt < a.max_attempts and not final then 'retryable' when s.dead_letter then 'dead' else 'failed' end as state,
             clock_timestamp() + coalesce(retry_after[a.ordinality], make_interval(secs => least(
               extract(epoch from coalesce(s.backoff_base, '1 second')) * power(2::float8, least(a.attempt, 62)) * (1 + random() / 4),
               extract(epoch from coalesce(s.backoff_max, '24 hours'))))) as run_at,
             awa._add_error(a.errors, a.attempt, errors[a.ordinality], details) as errors
        from unnest(attempts) with ordinality a
        left join awa.queue_settings s on s.queue_id = a.lane >> 3
    ) f;
  foreach v_state in array array(select distinct s from unnest(v_states) s) loop
    v_places := array_positions(v_states, v_state);
    if cardinality(v_places) < cardinality(v_states) then
      v_attempts := array(select attempts[p] from unnest(v_places) p);
    end if;
    if v_state = 'retryable' then
      perform awa._defer(v_attempts, v_state, array(select v_run_at[p] from unnest(v_places) p), array(select v_errors[p] from unnest(v_places) p), counts => true);
    else
      perform awa._end(v_attempts, v_state, reason => case when final then 'discarded' else 'attempts used up' end, errors => array(select v_errors[p] from unnest(v_places) p));
    end if;
    perform awa._end_attempts(v_attempts, v_state);
  end loop;
  return v_state;
end
$$;
comment on function awa._record_failures is 'Writes what follows failed attempts';
