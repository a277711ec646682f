-- The row that job_summaries returns, one per job.
create or replace view awa.job_summaries_row as
select d.job_id as id, d.kind, d.kind as queue, d.state, d.body_bytes as priority, d.body_bytes as attempt,
       d.body_bytes as max_attempts, d.created_at as run_at, d.expires_at as heartbeat_at,
       d.expires_at as deadline_at, d.attempted_at, d.expires_at as finalized_at, d.created_at, d.tags, d.worker_id,
       d.group_key, d.expires_at, d.group_key as args_start, d.job_id as args_bytes, d.group_key as last_error,
       d.job_id as errors_bytes
  from awa.done_entries d
 where false;
comment on view awa.job_summaries_row is
  'The row that job_summaries returns, one per job. The view itself is always empty';

-- One page of matching jobs, as list_jobs, without what may be large, in the descending order of their ids.
-- worker_id: those that a registered worker runs. job_ids: the jobs with these ids (at most 10,000), and no other
-- condition. args_start: the first 300 characters of the arguments, null where they take more than 4 kB as stored;
-- args_bytes: their bytes as text, or as stored where these are more. last_error: the first 300 characters of the last
-- error, null where all errors of the job take more than 16 kB as stored; errors_bytes: as stored.
-- Raises 22023.
-- Why: the server can't read a part of a large value. So those that are larger are not read, however many of them a
-- page has. A row may not be passed on as a whole: that would read them, too.
create or replace function awa.job_summaries(
  queue     text default null,
  state     text default null,
  kind      text default null,
  before_id bigint default null,
  max_jobs  int default 100,
  tag       text default null,
  args      jsonb default null,
  group_key text default null,
  cause     text default null,
  worker_id bigint default null,
  job_ids   bigint[] default null
) returns setof awa.job_summaries_row
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = on
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_variable
begin
  if job_ids is not null then
    if num_nonnulls(queue, state, kind, before_id, tag, args, group_key, cause, worker_id) > 0 then
      perform awa._refuse('job_ids must be the only condition', null, 'Leave out the others.');
    elsif cardinality(job_ids) > 10000 then
      perform awa._refuse('job_ids must be at most 10000 ids', cardinality(job_ids)::text, 'Read page by page.');
    end if;
  end if;
  return query
    select j.id, j.kind, j.queue, j.state, j.priority, j.attempt, j.max_attempts, j.run_at, j.heartbeat_at,
           j.deadline_at, j.attempted_at, j.finalized_at, j.created_at, j.tags, j.worker_id, j.group_key, j.expires_at,
           left(a.text, 300), coalesce(octet_length(a.text), pg_column_size(j.args))::bigint,
           case when pg_column_size(j.errors) <= 16384 then left(j.errors -> -1 ->> 'error', 300) end,
           pg_column_size(j.errors)::bigint
      from (
        select j.*
          from awa._list_jobs(queue, state, kind, before_id, max_jobs, tag, args, group_key, cause, worker_id) j
         where job_ids is null
        union all
        select j.*
          from (select distinct i as id from unnest(job_ids) i where i is not null) i
         cross join lateral (select * from awa.jobs j where j.id = i.id offset 0) j
      ) j
     cross join lateral (
        select case when pg_column_size(j.args) <= 4096 then j.args::text end as text offset 0
      ) a
     order by j.id desc;
end
$$;
comment on function awa.job_summaries is
  'One page of matching jobs, as list_jobs, without what may be large, in the descending order of their ids';
