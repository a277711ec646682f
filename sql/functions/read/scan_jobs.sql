-- What scan_jobs returns.
create or replace view awa.scan_jobs_row as select c.claim_id as next_before_id, c.job_ids from awa.lease_claims c where false;
comment on view awa.scan_jobs_row is 'The row that scan_jobs returns: where to go on, and the jobs found. The view itself is always empty';

-- Ids of the jobs that a filter matches, the newest first: an object of queue, kind, state, before (enqueued before or, for jobs that have ended, ended before), tag, and args (contains), as many of these as one likes. Reads at most
-- 100,000 entries: next_before_id says where the next call goes on, as before_id; null at the end. Raises 22023.
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
    perform awa._refuse('filter must be a JSON object', awa._brief(v_filter), 'Pass something like {"queue": "email", "tag": "eu"}.');
  end if;
  for v_key, v_value in select * from jsonb_each(v_filter) loop
    if v_key not in ('queue', 'kind', 'state', 'before', 'tag', 'args') then
      perform awa._refuse('filter holds an unknown key', v_key, 'The keys are queue, kind, state, before, tag and args.');
    elsif v_key <> 'args' and jsonb_typeof(v_value) not in ('string', 'null') then
      perform awa._refuse(format('%s must be a string', v_key), awa._brief(v_value), 'Pass it in quotation marks, or leave it out.');
    end if;
  end loop;
  begin
    v_before := (v_filter ->> 'before')::timestamptz;
  exception when data_exception then
    v_is_time := false;
  end;
  if not v_is_time then
    perform awa._refuse('before must be a time', v_filter ->> 'before', 'Pass one such as 2026-01-31T12:00:00Z.');
  end if;
  perform awa._check_state(v_filter ->> 'state');
  perform awa._check_tag(v_filter ->> 'tag');
  return query
    select s.next_before_id, s.job_ids
      from awa._scan(v_filter ->> 'queue', v_filter ->> 'kind', v_filter ->> 'state', v_before, v_filter ->> 'tag', nullif(v_filter -> 'args', 'null'), before_id, null) s;
end
$$;
comment on function awa.scan_jobs is 'Ids of the jobs that a filter matches, of at most 100,000 entries, and where to go on';

-- The ids of jobs that match, the newest first, at most so many; and where to go on, null at the end. Reads at most 100,000 entries.
create or replace function awa._scan(queue text, kind text, state text, before timestamptz, tag text, args jsonb, before_id bigint, max_jobs int, out next_before_id bigint, out job_ids bigint[])
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_until bigint := least(before_id, (select s.last_value + 1 from awa.job_ids s));
  v_left bigint := 100000;
  v_length bigint := 1000;
  v_stretch record;
begin
  job_ids := '{}';
  while v_until > 1 loop
    v_stretch := awa._stretch(v_until, v_length, v_left);
    if v_stretch.from_id is null then
      next_before_id := v_until;
      return;
    end if;
    if not v_stretch.is_empty then
      job_ids := job_ids || array(
        select j.id
          from awa.jobs j
         where j.id >= v_stretch.from_id and j.id < v_until
           and (queue is null or j.queue = queue) and (kind is null or j.kind = kind) and (state is null or j.state = state) and (tag is null or j.tags @> array[tag]) and (args is null or j.args @> args)
           and (before is null or coalesce(j.finalized_at, j.created_at) < before)
         order by j.id desc
         limit max_jobs - cardinality(job_ids));
      if cardinality(job_ids) = max_jobs then
        next_before_id := job_ids[max_jobs];
        return;
      end if;
    end if;
    v_until := v_stretch.from_id;
    v_left := v_left - v_stretch.entries;
    v_length := 2 * v_length;
  end loop;
end
$$;
comment on function awa._scan is 'The ids of jobs that match, of at most 100,000 entries, and where to go on';

-- A stretch of ids before one: so long, or shorter, so that it has no more than so many entries; null where there is no room for one. Jobs that were deleted are not counted: a stretch that has no others is empty, and need not be read.
create or replace function awa._stretch(until_id bigint, length bigint, most bigint, out from_id bigint, out entries bigint, out is_empty boolean)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_deleted bigint;
begin
  loop
    from_id := greatest(until_id - length, 1);
    select count(*) into v_deleted from awa.deleted_jobs d where d.job_id >= from_id and d.job_id < until_id;
    is_empty := v_deleted >= until_id - from_id;
    entries := 0;
    exit when is_empty;
    select count(*) into entries
      from (
        select from awa.ready_entries e where e.job_id >= from_id and e.job_id < until_id
        union all select from awa.deferred_jobs d where d.job_id >= from_id and d.job_id < until_id
        union all select from awa.leases l where l.job_id >= from_id and l.job_id < until_id
        union all select from awa.done_entries d where d.job_id >= from_id and d.job_id < until_id
        limit most + v_deleted + 1
      ) e;
    is_empty := entries = 0;
    entries := greatest(entries - v_deleted, 0);
    exit when entries <= most;
    if most < 10000 or length = 1 then
      from_id := null;
      exit;
    end if;
    length := length / 2;
  end loop;
end
$$;
comment on function awa._stretch is 'A stretch of ids before one that has no more than so many entries';

-- Refuses a state that there is not.
create or replace function awa._check_state(state text) returns void
language plpgsql
as $$
begin
  if state not in ('available', 'scheduled', 'retryable', 'running', 'waiting_external', 'completed', 'failed', 'cancelled', 'dead') then
    perform awa._refuse('state must be a state of a job', state,
      'The states are available, scheduled, retryable, running, waiting_external, completed, failed, cancelled and dead.');
  end if;
end
$$;
comment on function awa._check_state is 'Refuses a state that there is not';

-- Refuses a tag that no job has.
create or replace function awa._check_tag(tag text) returns void
language plpgsql
as $$
begin
  if char_length(tag) not between 1 and 200 then
    perform awa._refuse('tag must be 1 to 200 characters long', tag, 'Pass one of the job''s tags, or leave it out.');
  end if;
end
$$;
comment on function awa._check_tag is 'Refuses a tag that no job has';
