-- The row that scan_jobs returns: where to go on, and the jobs found.
create or replace view awa.scan_jobs_row as
select c.claim_id as next_before_id, c.job_ids
  from awa.lease_claims c
 where false;
comment on view awa.scan_jobs_row is
  'The row that scan_jobs returns: where to go on, and the jobs found. The view itself is always empty';

-- The ids of matching jobs, of at most 100,000 entries, and where to go on; the newest first.
-- The filter is an object with any of queue, kind, state, before (enqueued before or, for ended jobs, ended before),
-- tag, args (contains), group_key and cause (of the last error, as failure_causes names it; then it reads 20,000).
-- next_before_id is the before_id of the next call; null at the end.
-- Raises 22023.
create or replace function awa.scan_jobs(filter jsonb, before_id bigint default null) returns setof awa.scan_jobs_row
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
  return query
    select s.next_before_id, s.job_ids
      from awa._read_filter(filter) f
     cross join lateral awa._scan(f.queue, f.kind, case when f.state is not null then array[f.state] end, f.before,
        f.tag, f.args, f.group_key, f.cause, before_id, null, false,
        case when f.cause is null then 100000 else 20000 end) s;
end
$$;
comment on function awa.scan_jobs is
  'The ids of matching jobs, of at most 100,000 entries, and where to go on; the newest first';
