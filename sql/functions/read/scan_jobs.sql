-- The row that scan_jobs returns: where to go on, and the jobs found.
create or replace view awa.scan_jobs_row as
select c.claim_id as next_before_id, c.job_ids
  from awa.lease_claims c
 where false;
comment on view awa.scan_jobs_row is
  'The row that scan_jobs returns: where to go on, and the jobs found. The view itself is always empty';

-- The ids of matching jobs, of at most 100,000 entries, and where to go on; the newest first.
-- The filter is an object with any of queue, kind, state, before (enqueued before or, for ended jobs, ended before),
-- tag, args (contains) and group_key. next_before_id is the before_id of the next call; null at the end.
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
declare
  v_filter jsonb := coalesce(filter, '{}');
  v_key text;
  v_value jsonb;
  v_before timestamptz;
  v_is_time boolean := true;
begin
  if jsonb_typeof(v_filter) <> 'object' then
    perform awa._refuse('filter must be a JSON object', awa._brief(v_filter),
      'Pass something like {"queue": "email", "tag": "eu"}.');
  end if;
  for v_key, v_value in select * from jsonb_each(v_filter) loop
    if v_key not in ('queue', 'kind', 'state', 'before', 'tag', 'args', 'group_key') then
      perform awa._refuse('filter holds an unknown key', v_key,
        'The keys are queue, kind, state, before, tag, args and group_key.');
    elsif v_key <> 'args' and jsonb_typeof(v_value) not in ('string', 'null') then
      perform awa._refuse(format('filter: %s must be a string', v_key), awa._brief(v_value),
        'Pass it in quotation marks, or leave it out.');
    end if;
  end loop;
  begin
    v_before := (v_filter ->> 'before')::timestamptz;
  exception when data_exception then
    v_is_time := false;
  end;
  if not v_is_time then
    perform awa._refuse('filter: before must be a time', v_filter ->> 'before',
      'Pass one such as 2026-01-31T12:00:00Z.');
  end if;
  perform awa._check_state(v_filter ->> 'state', 'filter: state');
  perform awa._check_tag(v_filter ->> 'tag', 'filter: tag');
  perform awa._check_group(v_filter ->> 'group_key', 'filter: group_key');
  return query
    select s.next_before_id, s.job_ids
      from awa._scan(v_filter ->> 'queue', v_filter ->> 'kind', v_filter ->> 'state', v_before, v_filter ->> 'tag',
        nullif(v_filter -> 'args', 'null'), v_filter ->> 'group_key', before_id, null, false) s;
end
$$;
comment on function awa.scan_jobs is
  'The ids of matching jobs, of at most 100,000 entries, and where to go on; the newest first';
