-- The dead letters, for readers: their conditions see no others. See _shown_done.
create or replace view awa.dlq_entries with (security_barrier = true) as
select d.job_id,
       d.kind,
       (select q.name from awa.queues q where q.queue_id = d.lane >> 9 limit 1) as queue,
       d.args,
       d.reason,
       (d.lane & 7)::int as priority,
       d.attempt::int as attempt,
       d.max_attempts::int as max_attempts,
       d.ready_at as run_at,
       d.attempted_at,
       d.finalized_at,
       d.created_at,
       coalesce(d.errors, '[]') as errors,
       d.metadata,
       d.tags,
       encode(substr(d.unique_key, 1, 32), 'hex') as unique_key,
       d.receipt,
       d.progress,
       d.worker_id,
       d.group_key,
       d.expires_at
  from awa._done_here d
 where d.state = 'dead';
comment on view awa.dlq_entries is 'The dead letters, and why each has no attempt more';

-- The rows of awa.jobs: every job that is still kept, one row each, in one state.
create or replace function awa.jobs_compat() returns setof awa.jobs
language sql stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$ select * from awa.jobs $$;
comment on function awa.jobs_compat is 'The rows of awa.jobs: every job that is still kept, one row each, in one state';
