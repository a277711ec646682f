-- One page of matching jobs, in the descending order of their ids.
-- The next page is the one before the last id of this one. Completed jobs, jobs in any state, and available jobs where
-- they are many, are read in stretches of ids, each twice as long as the one before, until the page is full. Jobs in
-- the other states are read from where they are, however long the history is. Nothing indexes tags, arguments, groups
-- and causes: with a filter by these, one call reads at most 100,000 entries; by the cause of the last error, as
-- failure_causes names it, 20,000. So a page may be short, or empty, before the
-- last one; scan_jobs tells where to go on. A page ends before the job with which its text would be larger than 64 MiB,
-- but holds at least one job.
-- Raises 22023.
create or replace function awa.list_jobs(
  queue     text default null,
  state     text default null,
  kind      text default null,
  before_id bigint default null,
  max_jobs  int default 100,
  tag       text default null,
  args      jsonb default null,
  group_key text default null,
  cause     text default null
) returns setof awa.jobs
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
  v_job awa.jobs;
  v_bytes bigint := 0;
  v_is_page boolean := false; -- it has a job
begin
  for v_job in select * from awa._list_jobs(queue, state, kind, before_id, max_jobs, tag, args, group_key, cause,
      null) loop
    v_bytes := v_bytes + awa._job_bytes(v_job);
    exit when v_bytes > 67108864 and v_is_page;
    return next v_job;
    v_is_page := true;
  end loop;
end
$$;
comment on function awa.list_jobs is 'One page of matching jobs, in the descending order of their ids';

-- The bytes of the large fields of a job, as text.
create or replace function awa._job_bytes(job awa.jobs) returns bigint
language sql stable
return 100 + octet_length(job.args::text)::bigint + octet_length(job.errors::text)
  + coalesce(octet_length(job.tags::text), 0) + coalesce(octet_length(job.metadata::text), 0)
  + coalesce(octet_length(job.progress::text), 0) + coalesce(octet_length(job.output::text), 0);
comment on function awa._job_bytes is 'The bytes of the large fields of a job, as text';

-- The jobs of a page, of any size; or those that a worker runs.
-- Raises 22023.
create or replace function awa._list_jobs(
  queue     text,
  state     text,
  kind      text,
  before_id bigint,
  max_jobs  int,
  tag       text,
  args      jsonb,
  group_key text,
  cause     text,
  worker_id bigint
) returns setof awa.jobs
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_left int := coalesce(max_jobs, 100);
  v_until bigint := least(before_id, (select s.last_value + 1 from awa.job_ids s));
  v_from bigint;
  v_length bigint := 4 * coalesce(max_jobs, 100)::bigint;
  v_found bigint;
  v_is_short boolean := false; -- few are available
  v_queue_ids bigint[]; -- that have jobs in this state
  -- entries to be read; null: as many as it takes
  v_most bigint := awa._most_entries(tag, args, group_key, cause);
  v_cause text := awa._cause(cause);
  v_stretch record;
begin
  if v_left not between 1 and 10000 then
    perform awa._refuse('max_jobs must be between 1 and 10000', max_jobs::text, 'Leave it out for 100.');
  end if;
  if worker_id is not null and coalesce(state, 'running') <> 'running' then
    perform awa._refuse('state must be running with a worker_id', state, 'Leave it out.');
  elsif worker_id is not null then
    state := 'running';
  end if;
  perform awa._check_state(state);
  perform awa._check_tag(tag);
  perform awa._check_group(group_key);
  perform awa._check_cause(cause);

  if state = 'available' or state = 'running' then
    select coalesce(sum(c.available), 0) <= 10000,
           coalesce(array_agg(awa._queue_id(c.queue))
             filter (where case state when 'available' then c.available else c.running end > 0), '{}')
      into v_is_short, v_queue_ids
      from awa.queue_counts(queue) c;
  end if;
  if state = 'running' or v_is_short then
    perform set_config('enable_bitmapscan', 'off', true); -- until the end of the function: it is for BRIN alone
    return query
      select *
        from awa._list_open(v_queue_ids, state, kind, v_until, v_left, tag, args, group_key, v_cause, v_most,
        worker_id);
  elsif state = any(awa._states('deferred')) then
    return query
      select *
        from (select * from awa._deferred j where j.id < v_until and j.state = state order by j.id desc limit v_most) j
       where (queue is null or j.queue = queue) and (kind is null or j.kind = kind)
         and (tag is null or j.tags @> array[tag]) and (args is null or j.args @> args)
         and (group_key is null or j.group_key = group_key)
         and (cause is null or awa._cause_of(j.errors) = v_cause)
       order by j.id desc
       limit v_left;
  elsif state = any(awa._states('done')) then
    return query
      select *
        from (
          select * from awa._done j
           where j.id < v_until and j.state = state and j.state <> 'completed'
           order by j.id desc
           limit v_most
        ) j
       where (queue is null or j.queue = queue) and (kind is null or j.kind = kind)
         and (tag is null or j.tags @> array[tag]) and (args is null or j.args @> args)
         and (group_key is null or j.group_key = group_key)
         and (cause is null or awa._cause_of(j.errors) = v_cause)
       order by j.id desc
       limit v_left;
  elsif state is null or state = any(awa._states('logged')) then
    while v_left > 0 and v_until > 1 loop
      v_from := greatest(v_until - v_length, 1);
      if v_most is not null then
        v_stretch := awa._stretch(v_until, v_length, v_most);
        exit when v_stretch.from_id is null;
        v_from := v_stretch.from_id;
        v_most := v_most - v_stretch.entries;
      end if;
      return query
        select * from awa.jobs j
         where j.id >= v_from and j.id < v_until and (state is null or j.state = state)
           and (queue is null or j.queue = queue)
           and (kind is null or j.kind = kind)
           and (tag is null or j.tags @> array[tag]) and (args is null or j.args @> args)
           and (group_key is null or j.group_key = group_key)
           and (cause is null or awa._cause_of(j.errors) = v_cause)
         order by j.id desc
         limit v_left;
      get diagnostics v_found = row_count;
      v_left := v_left - v_found;
      v_until := v_from;
      v_length := 2 * v_length;
    end loop;
  end if;
end
$$;
comment on function awa._list_jobs is 'The jobs of a page, of any size; or those that a worker runs';

-- The jobs that are available, or running, in some queues, in the descending order of their ids.
-- Of running ones it reads at most so many entries.
create or replace function awa._list_open(
  queue_ids bigint[],
  state text,
  kind text,
  until_id bigint,
  max_jobs int,
  tag text,
  args jsonb,
  group_key text,
  cause text,
  max_entries bigint,
  worker_id bigint
) returns setof awa.jobs
language plpgsql stable
as $$
#variable_conflict use_variable
begin
  return query
    select j.id, j.kind, j.queue, j.args, j.state, j.priority, j.attempt, j.max_attempts, j.run_at, j.heartbeat_at,
           j.deadline_at, j.attempted_at, j.finalized_at, j.created_at, j.errors, j.metadata, j.tags, j.unique_key,
           j.receipt, j.progress, j.output, j.worker_id, j.group_key, j.expires_at
      from (
        select * from (
          select a.lane, a.xid, a.job_id, a.kind, a.queue_id, a.tags, a.args, a.group_key, a.errors
            from awa._all_available a where state = 'available'
          union all
          (select r.lane, r.xid, r.job_id, r.kind, r.queue_id, r.tags, r.args, r.group_key, r.errors
             from awa._running r
            where state = 'running' and r.queue_id = any(queue_ids)
              and (worker_id is null or r.worker_id = worker_id)
            limit max_entries)
        ) p
         where p.job_id < until_id and p.queue_id = any(queue_ids) and (kind is null or p.kind = kind)
           and (tag is null or p.tags @> array[tag]) and (args is null or p.args @> args)
           and (group_key is null or p.group_key = group_key)
           and (cause is null or awa._cause_of(p.errors) = cause)
         order by p.job_id desc
         limit max_jobs
      ) p
     cross join lateral (
        select j.id, j.kind, j.queue, j.args, j.state, j.priority, j.attempt, j.max_attempts, j.run_at,
               j.heartbeat_at, j.deadline_at, j.attempted_at, j.finalized_at, j.created_at, j.errors, j.metadata,
               j.tags, j.unique_key, j.receipt, j.progress, j.output, j.worker_id, j.group_key, j.expires_at
          from awa._ledger j where p.xid is not null and j.lane = p.lane and j.xid = p.xid and j.id = p.job_id
        union all
        select * from awa._leased j where p.xid is null and state = 'running' and j.id = p.job_id
        union all
        select * from awa._limited j where p.xid is null and state = 'available' and j.id = p.job_id
      ) j
     order by j.id desc;
end
$$;
comment on function awa._list_open is
  'The jobs that are available, or running, in some queues, in the descending order of their ids';
