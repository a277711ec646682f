-- One job, or no row.
-- Why: found by its id through the BRIN indexes, however long the history is.
create or replace function awa.job(job_id bigint) returns setof awa.jobs
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
begin
  return query select * from awa.jobs j where j.id = job.job_id;
end
$$;
comment on function awa.job is 'One job, or no row';
