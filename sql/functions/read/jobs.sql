-- The dead letters among the ended jobs.
create or replace view awa.dlq_entries as
select d.job_id, d.lane, d.reason, d.receipt, d.worker_id, d.ready_at, d.created_at, d.attempted_at, d.finalized_at,
       d.attempt, d.max_attempts, d.body_bytes, d.unique_key,
       d.kind, d.args, d.tags, d.metadata, d.group_key, d.progress, d.errors
  from awa.done_entries d
 where d.state = 'dead';
comment on view awa.dlq_entries is 'The dead letters among the ended jobs';

-- The rows of awa.jobs: every job that is still kept, one row each, in one state.
create or replace function awa.jobs_compat() returns setof awa.jobs
language sql stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$ select * from awa.jobs $$;
comment on function awa.jobs_compat is 'The rows of awa.jobs: every job that is still kept, one row each, in one state';
