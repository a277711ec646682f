-- Fails one attempt: the job runs again after a delay, or, when its attempts are used up, ends as failed. Returns the state that followed.
-- The delay is retry_after, or 2^attempt times the queue's backoff_base and up to a quarter more, at most its backoff_max.
-- Locks: the claim, shared, until the transaction ends. Raises JQ001, 22023; 40001 as complete does.
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
  perform awa._check_delays(array[retry_after]);
  perform awa._close_item(job_id, receipt, 'failed');
  return awa._record_failures(array[receipt], array[error], array[retry_after], details);
end
$$;
comment on function awa.fail is 'Fails one attempt; returns the state that followed: retryable or failed';

-- Refuses delays that are negative or too long.
create or replace function awa._check_delays(retry_after interval[]) returns void
language plpgsql
as $$
begin
  if exists (select from unnest(retry_after) r where r not between interval '0' and interval '10 years') then
    perform awa._refuse('retry_after must be between 0 and 10 years', retry_after::text, 'Leave it out for the queue''s backoff.');
  end if;
end
$$;
comment on function awa._check_delays is 'Refuses delays that are negative or too long';

-- Writes what follows failed attempts: the next attempt in deferred_jobs, or the end in done_entries. Returns the state of the last one.
-- There is an error and a delay for each receipt.
create or replace function awa._record_failures(
  receipts    bigint[],
  errors      text[],
  retry_after interval[],
  details     jsonb
) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_now timestamptz := clock_timestamp();
  v_state text;
begin
  with failed as materialized (
    select a.*, f.delay, s.backoff_base, s.backoff_max, v_now as failed_at,
           coalesce(a.errors, '[]') || jsonb_build_array(
             jsonb_build_object('attempt', a.attempt, 'at', v_now, 'error', left(f.error, 20000))
             || case when details is null then '{}' else jsonb_build_object('details', details) end) as all_errors
      from awa._attempts(receipts) a
      join lateral (
        select errors[n.n] as error, retry_after[n.n] as delay from array_position(receipts, a.receipt) n(n)
      ) f on true
      left join awa.queue_settings s on s.queue_id = a.lane >> 3
  ), retried as (
    insert into awa.deferred_jobs
      (job_id, lane, run_at, created_at, attempted_at, attempt, max_attempts, body_bytes, kind, args, tags, metadata, progress, errors)
    select f.job_id, f.lane & ~7::bigint | f.priority,
           f.failed_at + coalesce(f.delay, make_interval(secs => least(
             extract(epoch from coalesce(f.backoff_base, '1 second')) * power(2::float8, least(f.attempt, 62)) * (1 + random() / 4),
             extract(epoch from coalesce(f.backoff_max, '24 hours'))))),
           f.created_at, f.claimed_at, f.attempt + 1, f.max_attempts, f.body_bytes, f.kind, f.args, f.tags, f.metadata, f.progress, f.all_errors
      from failed f
     where f.attempt < f.max_attempts
  ), ended as (
    insert into awa.done_entries
      (job_id, lane, state, receipt, worker_id, ready_at, created_at, attempted_at, finalized_at, attempt, max_attempts,
       kind, args, tags, metadata, progress, errors)
    select f.job_id, f.lane & ~7::bigint | f.priority, 'failed', f.receipt, f.worker_id, f.ready_at, f.created_at, f.claimed_at, f.failed_at,
           f.attempt, f.max_attempts, f.kind, f.args, f.tags, f.metadata, f.progress, f.all_errors
      from failed f
     where f.attempt >= f.max_attempts
  )
  select case when f.attempt < f.max_attempts then 'retryable' else 'failed' end into v_state from failed f limit 1;
  return v_state;
end
$$;
comment on function awa._record_failures is 'Writes what follows failed attempts';
