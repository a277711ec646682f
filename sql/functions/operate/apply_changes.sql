-- The row that apply_changes returns.
create or replace view awa.apply_changes_row as
select c.changed, false as more from awa.changes c where false;
comment on view awa.apply_changes_row is
  'The row that apply_changes returns: how many jobs it changed, and whether there is more to do. The view itself is '
  'always empty';

-- Makes the next part of a change that start_change has started, of at most max_jobs jobs.
-- Of the change whose last part is the longest ago. Also forgets changes that ended more than 90 days ago. A part is
-- made as a whole, with the note of how far the change has come, or not at all. It leaves alone jobs that no longer
-- match when their turn comes; a job that another session holds, or that cannot be changed, is skipped and counted. A
-- part that fails as a whole is tried again ten seconds later. Safe to call from anywhere, as often as one likes.
-- Returns how many jobs it changed, and whether there is more to do.
-- Locks: the change, or else it takes another one; then as the action does, for the jobs of the part, but it waits for
-- 0.1 s at most; until the transaction ends.
-- Raises 22023, JQ004, 55000; the error of a resource that the server lacks; 40001 where a job has moved on meanwhile
-- that its transaction had changed before.
create or replace function awa.apply_changes(max_jobs int default 500) returns setof awa.apply_changes_row
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = on
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set lock_timeout = 0
as $$
#variable_conflict use_variable
declare
  v_change awa.changes;
  v_changed bigint := 0;
begin
  perform awa._check_pass(max_jobs);
  delete from awa.changes c
   where c.change_id = any(array(
     select o.change_id
       from awa.changes o
      where o.ended_at < (select clock_timestamp()) - interval '90 days'
      order by o.ended_at
      limit 1000
        for update skip locked));
  select c.* into v_change
    from awa.changes c
   where c.state = 'running' and awa._has_turn(c.turn_at)
   order by c.turn_at, c.change_id
   limit 1
     for update skip locked;
  if found then
    -- earlier changes of the transaction are decided by themselves
    set constraints awa.resolve, awa.inherit immediate;
    set constraints awa.resolve, awa.inherit deferred;
    begin
      v_changed := awa._make_part(v_change, coalesce(max_jobs, 500));
    exception when others then
      if not awa._is_about_a_row(sqlstate) or awa._lack(sqlerrm, sqlstate) is not null then
        raise;
      end if;
      raise warning 'a part of change % failed', v_change.change_id using errcode = sqlstate, detail = sqlerrm;
      update awa.changes c
         set turn_at = clock_timestamp() + interval '10 seconds', last_error = awa._refusal(sqlerrm, sqlstate)
       where c.change_id = v_change.change_id;
    end;
  end if;
  perform awa._note_success('apply_changes');
  return query
    select v_changed, v_change.change_id is not null
             and exists (select from awa.changes c where c.state = 'running' and awa._has_turn(c.turn_at));
end
$$;
comment on function awa.apply_changes is
  'Makes the next part of a change that start_change has started, of at most max_jobs jobs';

-- Whether a change has its turn.
-- Why: after a failure it is ten seconds ahead. One that is further ahead was written by a clock that was set back.
create or replace function awa._has_turn(turn_at timestamptz) returns boolean
language sql stable
return turn_at <= clock_timestamp() or turn_at > clock_timestamp() + interval '1 minute';
comment on function awa._has_turn is 'Whether a change has its turn';

-- Makes the next part of a change, and notes how far it has come; returns how many jobs were changed.
-- Where the time is over before its end, the next part goes on from there.
create or replace function awa._make_part(change awa.changes, max_jobs int) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_now timestamptz;
  v_page record;
  v_part record;
begin
  v_page := awa._find_part(change, max_jobs);
  v_part := awa._change_part(change, v_page.places);
  if v_part.handled < cardinality(v_page.places) then
    v_page.next_before_id := v_page.places[v_part.handled].id;
  end if;
  v_now := clock_timestamp();
  update awa.changes c
     set before_id = v_page.next_before_id, found = c.found + v_part.handled, changed = c.changed + v_part.changed,
         skipped = c.skipped + v_part.handled - v_part.changed, last_error = coalesce(v_part.error, c.last_error),
         turn_at = v_now, moved_at = v_now,
         state = case when v_page.next_before_id is null then 'finished' else c.state end,
         ended_at = case when v_page.next_before_id is null then v_now end
   where c.change_id = change.change_id;
  return v_part.changed;
end
$$;
comment on function awa._make_part is
  'Makes the next part of a change, and notes how far it has come; returns how many jobs were changed';

-- The places of the jobs that the next part of a change is about, the newest first, and where the one after it begins.
-- Null at the end.
-- Of a job to be deleted its state alone. It reads 20,000 entries, more where it would not get on otherwise: those of
-- one job may be as many.
-- Why: stable, so that all of it sees one snapshot.
create or replace function awa._find_part(
  change awa.changes,
  max_jobs int,
  out next_before_id bigint,
  out places awa._place[]
)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_filter record := awa._read_filter(change.filter);
  v_states constant text[] := awa._states_of_change(change);
  v_found record;
  v_first bigint;
  v_last bigint;
  v_most bigint;
begin
  if v_states <@ (awa._states('done') || awa._states('deferred')) then
    v_found := awa._find_rows(change, max_jobs);
    next_before_id := v_found.next_before_id;
    places := v_found.places;
    return;
  end if;
  foreach v_most in array '{20000,1000000,1000000000}'::bigint[] loop
    v_found := awa._scan(v_filter.queue, v_filter.kind, v_states, v_filter.before, v_filter.tag, v_filter.args,
      v_filter.group_key, v_filter.cause, change.before_id, max_jobs, hidden => change.action = 'delete',
      max_entries => v_most);
    exit when v_found.next_before_id is distinct from change.before_id;
  end loop;
  next_before_id := v_found.next_before_id;
  if v_found.job_ids = '{}' then
    places := '{}';
  elsif change.action = 'delete' then
    places := array(
      select (j.id, coalesce(d.state, 'completed'), null, null, null, null, null, null)::awa._place
        from unnest(v_found.job_ids) j(id)
        left join lateral (
          select d.state from awa.done_entries d where d.job_id = j.id and d.state <> 'completed' limit 1
        ) d on true
       order by j.id desc);
  else
    select min(j), max(j) into v_first, v_last from unnest(v_found.job_ids) j;
    places := array(
      select f.place
        from (
          select distinct on (p.id) p.id, p::awa._place as place -- it is there twice while a segment is cleaned
            from awa._place p
           -- by the range: each id by itself would read the whole BRIN index
           where p.id >= v_first and p.id <= v_last and p.id + 0 = any(v_found.job_ids)
           order by p.id
        ) f
       order by f.id desc);
  end if;
end
$$;
comment on function awa._find_part is
  'The places of the jobs that the next part of a change is about, the newest first, and where the one after it begins';

-- As _find_part, for jobs that have rows of their own: in done_entries and deferred_jobs.
-- It looks at 20,000 of each state.
-- Why: it passes by all that completed, of which there may be very many more.
create or replace function awa._find_rows(
  change awa.changes,
  max_jobs int,
  out next_before_id bigint,
  out places awa._place[]
)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_filter record := awa._read_filter(change.filter);
  v_states constant text[] := awa._states_of_change(change);
  v_queue_id bigint := awa._queue_id(v_filter.queue);
  v_most constant int := case when v_filter.cause is null then 20000 else 5000 end;
  v_from bigint;
begin
  with looked as materialized (
    select s.n, d.job_id, d.state, d.receipt, d.lane, d.unique_key,
           (v_filter.queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
             and (v_filter.kind is null or d.kind = v_filter.kind)
             and (v_filter.before is null or d.ended_at < v_filter.before)
             and (v_filter.tag is null or d.tags @> array[v_filter.tag])
             and (v_filter.args is null or d.args @> v_filter.args)
             and (v_filter.group_key is null or d.group_key = v_filter.group_key)
             and (v_filter.cause is null or awa._cause_of(d.errors) = v_filter.cause) as matches
      from unnest(v_states) with ordinality s(state, n)
     cross join lateral (
        (
          select d.job_id, d.state, d.receipt, d.lane, d.unique_key, d.kind, d.tags, d.args, d.group_key,
                 d.errors, d.finalized_at as ended_at
            from awa.done_entries d
           where d.state = s.state and d.state <> 'completed' and d.job_id < change.before_id
           order by d.job_id desc
           limit v_most
        )
        union all
        (
          select d.job_id, d.state, null, d.lane, d.unique_key, d.kind, d.tags, d.args, d.group_key, d.errors,
                 d.created_at
            from awa.deferred_jobs d
           where s.state = any(awa._states('deferred')) and d.state = s.state and d.job_id < change.before_id
           order by d.job_id desc
           limit v_most
        )
     ) d
  ), read as (
    select max(r.from_id) as from_id
      from (select min(l.job_id) as from_id from looked l group by l.n having count(*) >= v_most) r
  )
  select r.from_id, array(
           select (l.job_id, l.state, l.receipt, l.lane, (l.lane & 7)::int, null, null, l.unique_key)::awa._place
             from looked l
            where l.matches and l.job_id >= coalesce(r.from_id, 0)
            order by l.job_id desc
            limit max_jobs
         )
    into v_from, places
    from read r;
  next_before_id := case when cardinality(places) = max_jobs then places[max_jobs].id else v_from end;
end
$$;
comment on function awa._find_rows is
  'As _find_part, for jobs that have rows of their own: in done_entries and deferred_jobs';

-- The states of the jobs that a change is about.
create or replace function awa._states_of_change(change awa.changes) returns text[]
language sql immutable
as $$
  select case
           when change.filter ? 'state' then array[change.filter ->> 'state']
           when change.action = 'retry' then awa._states('done')
           else awa._changed_states(change.action)
         end
$$;
comment on function awa._states_of_change is 'The states of the jobs that a change is about';

-- Changes the jobs of a part, but for those that other sessions hold, and those that can't be changed.
-- Returns how many it has handled, the first ones; how many of these it has changed; and why it skipped the last of the
-- others. Where one fails, it goes on with half of them at a time; less where that fails, more where it does not, for a
-- quarter of a second; but it handles one at least.
-- Locks: as the action does, for each job; then the shards of the available ones; until the transaction ends.
-- Raises the error of a resource that the server lacks, where it could not change one job for that.
-- Why: about entries that were claimed meanwhile it decides here, not when the transaction ends. So one such entry
-- fails by itself, and the claims of its queue wait only for the rest of the part. An attempt that has begun is ended
-- only where the change is about running jobs.
create or replace function awa._change_part(
  change awa.changes,
  places awa._place[],
  out handled bigint,
  out changed bigint,
  out error text
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_jobs constant int := cardinality(places);
  v_states constant text[] := awa._states_of_change(change);
  v_until timestamptz;
  v_at int := 1;
  v_size int := v_jobs;
  v_piece record;
begin
  changed := 0;
  perform set_config('lock_timeout', '100', true);
  while v_at <= v_jobs and (v_at = 1 or v_until is null or clock_timestamp() < v_until) loop
    begin
      v_piece := awa._change_jobs(change, places[v_at : v_at + v_size - 1], v_at - 1);
      perform awa._lock_each_shard(array(
        select distinct awa._shard_of(t.lane)
          from awa.ready_tombstones t
         where t.by_xid = pg_current_xact_id_if_assigned()
         order by 1));
      if 'running' <> all(v_states) then
        perform awa._moved_on(t.job_id)
           from awa.pending_changes d
          cross join lateral awa._buried_now(d.batch) t
          cross join lateral awa._claim_of(t.lane, t.xid, t.job_id) c
          where d.xid = pg_current_xact_id_if_assigned() and t.cancels
            and not exists (select from awa.limited_jobs w where w.job_id = t.job_id);
      end if;
      set constraints awa.resolve, awa.inherit immediate;
      set constraints awa.resolve, awa.inherit deferred;
      changed := changed + v_piece.changed;
      error := coalesce(v_piece.error, error);
      v_at := v_at + v_size;
      v_size := 2 * v_size;
    exception when others then
      if not awa._is_about_a_row(sqlstate) or (v_size = 1 and awa._lack(sqlerrm, sqlstate) is not null) then
        raise;
      elsif v_size = 1 then
        error := format('job %s: %s', places[v_at].id, awa._refusal(sqlerrm, sqlstate));
        v_at := v_at + 1;
      end if;
      v_size := greatest(least(v_size, v_jobs - v_at + 1) / 2, 1);
      v_until := coalesce(v_until, clock_timestamp() + awa._budget('250 milliseconds', 4));
      perform set_config('lock_timeout', '10', true);
    end;
  end loop;
  perform set_config('lock_timeout', '0', true);
  handled := least(v_at - 1, v_jobs);
end
$$;
comment on function awa._change_part is
  'Changes the jobs of a part, but for those that other sessions hold, and those that can''t be changed';

-- Changes jobs in these places as a change says; returns how many, and why the last of the others was not changed.
-- after: how many jobs of the part come before these.
-- Locks: as the action does.
-- Raises as the action does: then none of them is changed.
create or replace function awa._change_jobs(
  change awa.changes,
  places awa._place[],
  after int,
  out changed bigint,
  out error text
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_left awa._place[] := awa._left_of(change, places);
  v_jobs bigint[] := array(select p.id from unnest(v_left) p);
  v_queue text := change.options ->> 'queue';
  v_priority int := change.options ->> 'priority';
begin
  if change.action = 'cancel' then
    changed := cardinality(awa._cancel_there(v_left, coalesce(change.options ->> 'reason', 'cancelled with others'),
      change.started_by));
  elsif change.action = 'discard' then
    changed := cardinality(awa._cancel_there(v_left, coalesce(change.options ->> 'reason', 'discarded with others'),
      change.started_by, 'dead'));
  elsif change.action = 'delete' then
    changed := awa._delete_rows(array(select p.id from unnest(v_left) p where p.state <> 'completed'));
    v_jobs := array(select p.id from unnest(v_left) p where p.state = 'completed');
    if v_jobs <> '{}' then
      changed := changed + awa._delete_rows(v_jobs) + awa._delete_completed(v_jobs);
    end if;
  elsif change.action = 'retry' then
    select r.changed, r.error into changed, error from awa._retry_part(change, v_left, after) r;
  else
    select r.changed, r.error into changed, error from awa._relocate_part(v_left, v_queue, v_priority) r;
  end if;
  if changed < cardinality(places) then
    error := coalesce(error, 'another session was changing a job, or has changed it');
  end if;
end
$$;
comment on function awa._change_jobs is
  'Changes jobs in these places as a change says; returns how many, and why the last of the others was not changed';

-- Of these places, those that still match: rows that another session has changed, or is changing, are left out.
-- Those in the ledgers, and in lines, are left to the action, which sees whether the job is still there.
-- Locks: the rows of deferred_jobs and done_entries, until the transaction ends.
create or replace function awa._left_of(change awa.changes, places awa._place[]) returns awa._place[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_states constant text[] := awa._states_of_change(change);
  v_filter record := awa._read_filter(change.filter);
  v_queue_id bigint := awa._queue_id(v_filter.queue);
  v_waiting bigint[] := array(select p.id from unnest(places) p where p.state = any(awa._states('deferred')));
  v_done bigint[] := array(select p.id from unnest(places) p where p.state = any(awa._states('done')));
  v_left bigint[];
begin
  if v_waiting = '{}' and v_done = '{}' then
    return places;
  end if;
  v_left := array(
    select d.job_id
      from awa.deferred_jobs d
     where d.job_id = any(v_waiting) and d.state = any(v_states)
       and (v_filter.queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
       and (v_filter.kind is null or d.kind = v_filter.kind)
       and (v_filter.before is null or d.created_at < v_filter.before)
       and (v_filter.tag is null or d.tags @> array[v_filter.tag])
       and (v_filter.args is null or d.args @> v_filter.args)
       and (v_filter.group_key is null or d.group_key = v_filter.group_key)
       and (v_filter.cause is null or awa._cause_of(d.errors) = v_filter.cause)
     order by d.job_id
       for update skip locked);
  v_left := v_left || array(
    select d.job_id
      from awa.done_entries d
     where d.job_id = any(v_done) and d.state <> 'completed' and d.state = any(v_states)
       and (v_filter.queue is null or d.lane between awa._first_lane(v_queue_id) and awa._last_lane(v_queue_id))
       and (v_filter.kind is null or d.kind = v_filter.kind)
       and (v_filter.before is null or d.finalized_at < v_filter.before)
       and (v_filter.tag is null or d.tags @> array[v_filter.tag])
       and (v_filter.args is null or d.args @> v_filter.args)
       and (v_filter.group_key is null or d.group_key = v_filter.group_key)
       and (v_filter.cause is null or awa._cause_of(d.errors) = v_filter.cause)
     order by d.job_id
       for update skip locked);
  return array(
    select p
      from unnest(places) p
     where case when p.state = any(awa._states('deferred')) or p.state = any(awa._states('done'))
                then p.id = any(v_left) else true end);
end
$$;
comment on function awa._left_of is
  'Of these places, those that still match: rows that another session has changed, or is changing, are left out';

-- Retries jobs as a change says; returns how many, and why the last of the others was not retried.
-- With over, the n-th job that the change has found waits for the part of that time that is the fraction of n times the
-- golden ratio. So the retries are spread evenly, however many jobs there are.
-- Locks: as retry does; the keys in the order in which retry_where takes them.
create or replace function awa._retry_part(
  change awa.changes,
  places awa._place[],
  after int,
  out changed bigint,
  out error text
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_from timestamptz := coalesce((change.options ->> 'run_at')::timestamptz, change.started_at);
  v_over interval := change.options ->> 'over';
  v_run_at timestamptz := change.options ->> 'run_at';
  v_job record;
  v_outcome text;
begin
  changed := 0;
  for v_job in
    select p.id, p.state, (change.found + after + p.nth) * 0.6180339887498949::float8 as turns
      from unnest(places) with ordinality
           p(id, state, receipt, lane, priority, xid, segment, unique_key, nth)
     order by substr(p.unique_key, 1, 32), p.id
  loop
    if v_over is not null then
      v_run_at := v_from + v_over * (v_job.turns - floor(v_job.turns));
    end if;
    v_outcome := awa._retry(v_job.id, v_job.state, after + changed >= awa._max_locks(),
      change.options ->> 'queue', (change.options ->> 'priority')::int, v_run_at);
    if v_outcome = 'retried' then
      changed := changed + 1;
    elsif v_outcome = 'taken' then
      error := format('job %s: another job holds its unique key', v_job.id);
    end if;
  end loop;
end
$$;
comment on function awa._retry_part is
  'Retries jobs as a change says; returns how many, and why the last of the others was not retried';
