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
  return awa._record_failures(array[receipt], array[error], array[retry_after], details);
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
-- There is an error and a delay for each receipt. Final means that no attempt follows, whatever are left.
create or replace function awa._record_failures(
  receipts    bigint[],
  errors      text[],
  retry_after interval[],
  details     jsonb,
  final       boolean default false
) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_now timestamptz := clock_timestamp();
  v_retryable bigint[];
  v_failed bigint[];
  v_dead bigint[];
begin
  with attempts as materialized (
    select a.*, f.delay, s.backoff_base, s.backoff_max,
           case when a.attempt < a.max_attempts and not final then 'retryable' when s.dead_letter then 'dead' else 'failed' end as state,
           awa._add_error(a.errors, a.attempt, f.error, details) as all_errors
      from awa._attempts(receipts) a
      join lateral (
        select errors[n.n] as error, retry_after[n.n] as delay from array_position(receipts, a.receipt) n(n)
      ) f on true
      left join awa.queue_settings s on s.queue_id = a.lane >> 3
  ), retryable as (
    insert into awa.deferred_jobs
      (job_id, lane, state, run_at, created_at, attempted_at, attempt, max_attempts, body_bytes, unique_key, kind, args, tags, metadata, progress, errors)
    select a.job_id, a.lane & ~7::bigint | a.priority, a.state,
           v_now + coalesce(a.delay, make_interval(secs => least(
             extract(epoch from coalesce(a.backoff_base, '1 second')) * power(2::float8, least(a.attempt, 62)) * (1 + random() / 4),
             extract(epoch from coalesce(a.backoff_max, '24 hours'))))),
           a.created_at, a.claimed_at, a.attempt + 1, a.max_attempts, a.body_bytes, a.unique_key, a.kind, a.args, a.tags, a.metadata, a.progress, a.all_errors
      from attempts a
     where a.state = 'retryable'
  ), ended as (
    insert into awa.done_entries
      (job_id, lane, state, reason, recorded, receipt, worker_id, ready_at, created_at, attempted_at, finalized_at, attempt, max_attempts, body_bytes, unique_key,
       kind, args, tags, metadata, progress, errors)
    select a.job_id, a.lane & ~7::bigint | a.priority, a.state, case when final then 'discarded' else 'attempts used up' end, false, a.receipt, a.worker_id, a.ready_at, a.created_at,
           a.claimed_at, v_now, a.attempt, a.max_attempts, a.body_bytes, a.unique_key, a.kind, a.args, a.tags, a.metadata, a.progress, a.all_errors
      from attempts a
     where a.state <> 'retryable'
  )
  select array_agg(a.receipt) filter (where a.state = 'retryable'),
         array_agg(a.receipt) filter (where a.state = 'failed'),
         array_agg(a.receipt) filter (where a.state = 'dead')
    into v_retryable, v_failed, v_dead
    from attempts a;
  perform awa._settle(s.receipts, s.state)
     from (values (v_retryable, 'retryable'), (v_failed, 'failed'), (v_dead, 'dead')) s(receipts, state)
    where s.receipts is not null;
  return case when v_retryable is not null then 'retryable' when v_failed is not null then 'failed' when v_dead is not null then 'dead' end;
end
$$;
comment on function awa._record_failures is 'Writes what follows failed attempts';
