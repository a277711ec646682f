-- The row that promote_due returns: how many jobs it made ready.
create or replace view awa.promote_due_row as select c.claim_id as promoted from awa.lease_claims c where false;
comment on view awa.promote_due_row is
  'The row that promote_due returns: how many jobs it made ready, or cancelled since they had expired. The view itself '
  'is always empty';

-- Makes deferred jobs ready whose time has come, at most max_jobs; returns how many.
-- Those that have expired by then are cancelled, and counted, too. The longest due first. Safe to call from anywhere,
-- as often as one likes: see _promote_due. Looks ten seconds back for jobs that were committed late.
-- Locks: the rows that it promotes. Skips rows that others hold.
-- Raises 22023, 55000; and the error of a resource that the server lacks, such as disk, where it could promote no job
-- for that.
create or replace function awa.promote_due(max_jobs int default 4096) returns setof awa.promote_due_row
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
set lock_timeout = 0
as $$
begin
  if coalesce(max_jobs, 4096) not between 1 and 10000 then
    perform awa._refuse('max_jobs must be between 1 and 10000', max_jobs::text, 'Leave it out for 4096.');
  end if;
  perform awa._check_rows();
  return query select awa._promote_due(max_jobs, true);
end
$$;
comment on function awa.promote_due is
  'Makes deferred jobs ready whose time has come, at most max_jobs; returns how many';

-- Makes deferred jobs ready whose time has come, where it is looked for them; returns how many.
-- A fast pass reads from the last pass's horizon, so that it never walks over deleted rows; or from ten seconds before
-- it: always, or once a second. Jobs that were committed later than that are found by a sweep over everything, which
-- may take one fiftieth of the time: on every call when the table is small, seldom when a transaction elsewhere keeps
-- millions of deleted rows in it. A horizon ahead of now was written by a clock that was set back: then the sweep is
-- due. Behind jobs that stay as they are, as a user's trigger wants it, the next pass goes on where this one has ended,
-- also among the jobs of one time. A look back begins before all jobs of that time.
create or replace function awa._promote_due(max_jobs int, looks_back boolean) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set lock_timeout = 0
as $$
declare
  v_max int := coalesce(max_jobs, 4096);
  v_now timestamptz := clock_timestamp();
  v_from timestamptz := awa._due_from(v_now, looks_back);
  v_until timestamptz;
  v_until_id bigint;
  v_pass record;
  v_swept bigint := 0;
  v_is_lacking boolean;
  v_lack text[];
begin
  select p.at, p.job_id into v_until, v_until_id from awa._promoted_until() p;
  v_pass := awa._promote_past(v_from, case when v_from = v_until then v_until_id else 0 end, v_now, v_max,
    case when v_until > v_now then '-infinity' else v_until end, v_until_id, '2 seconds');
  v_is_lacking := v_pass.promoted = 0 and v_pass.lack is not null;
  if not v_pass.is_full then
    perform awa._set_promoted_until(v_now, 0)
      where not v_is_lacking and (v_pass.promoted > 0 or v_until not between v_now - interval '5 seconds' and v_now);
    if v_until > v_now + interval '1 second'
       or (
         select not to_timestamp(s.last_value / 1000000.0) between v_now and v_now + awa._sweep_pause(l.last_value)
           from awa.next_sweep_at s, awa.sweep_level l
       )
    then
      select s.swept, s.lack into v_swept, v_lack from awa._sweep(v_now, v_max - v_pass.promoted::int) s;
    end if;
  elsif (v_pass.run_at, v_pass.job_id) > (v_until, v_until_id) or v_until > v_now then
    -- the next pass need not walk over these
    perform awa._set_promoted_until(v_pass.run_at, v_pass.job_id);
  end if;
  if v_pass.promoted + v_swept = 0 then
    perform awa._fail_for(coalesce(v_pass.lack, v_lack));
  end if;
  perform awa._note_success('promote_due');
  return v_pass.promoted + v_swept;
end
$$;
comment on function awa._promote_due is
  'Makes deferred jobs ready whose time has come, where it is looked for them; returns how many';

-- How far promote_due has come: a time, and the last job that it has looked at among those of this time.
-- No job where it has come to all times before, or where two sessions that were moving both have left a time of one and
-- a job of the other. Then it begins with the first job of this time.
create or replace function awa._promoted_until(out at timestamptz, out job_id bigint)
language sql stable
as $$
  select case when s.is_called then to_timestamp(s.last_value / 1000000.0) else '-infinity' end,
         awa._unmarked(i.last_value, s.last_value)
    from awa.promoted_until s, awa.promoted_id i
$$;
comment on function awa._promoted_until is
  'How far promote_due has come: a time, and the last job that it has looked at among those of this time';

-- A job that carries the remainder of its time, in microseconds, so that another time does not fit it.
create or replace function awa._marked(job_id bigint, at bigint) returns bigint
language sql immutable
return case when job_id between 1 and 2 ^ 50 then job_id * 4093 + at % 4093 else 0 end;
comment on function awa._marked is
  'A job that carries the remainder of its time, in microseconds, so that another time does not fit it';

-- The job that carries the remainder of a time; 0, which comes before all jobs, where it carries that of another one.
create or replace function awa._unmarked(marked bigint, at bigint) returns bigint
language sql immutable
return case when marked % 4093 = at % 4093 then marked / 4093 else 0 end;
comment on function awa._unmarked is
  'The job that carries the remainder of a time; 0, which comes before all jobs, where it carries that of another one';

-- Notes how far promote_due has come.
create or replace function awa._set_promoted_until(at timestamptz, job_id bigint) returns void
language sql
as $$
  select setval('awa.promoted_until', t.at), setval('awa.promoted_id', awa._marked(job_id, t.at))
    from (select awa._microseconds(at) as at) t
$$;
comment on function awa._set_promoted_until is 'Notes how far promote_due has come';

-- Looks everywhere for due jobs that were committed late.
-- Where that was cut off (by statement_timeout, for example) or took long, piece by piece, from now back into the past,
-- for a tenth of a second at a time. Each time it is cut off the pieces become smaller, and the pause doubles. Its next
-- time is set before it begins, and sequences keep their values through a rollback. Where it had no time for all jobs
-- of a piece, because some can't be promoted, the next call goes on behind those that it has come to; every few seconds
-- where it could promote none, since smaller pieces would not help.
create or replace function awa._sweep(now timestamptz, max_jobs int, out swept bigint, out lack text[])
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_level int := (select s.last_value from awa.sweep_level s where s.is_called);
  v_began timestamptz := clock_timestamp();
  v_budget interval := awa._budget('100 milliseconds', 4);
  v_piece_began timestamptz;
  v_slowest interval := '0';
  v_from timestamptz;
  v_to timestamptz;
  v_pass record;
  v_is_done boolean;
  v_until timestamptz := (select to_timestamp(s.last_value / 1000000.0) from awa.swept_until s);
  v_until_id bigint := (select awa._unmarked(i.last_value, s.last_value) from awa.swept_until s, awa.swept_id i);
  v_goes_on boolean;
  v_is_stuck boolean;
begin
  v_level := coalesce(v_level, 0);
  perform setval('awa.sweep_level', least(v_level + 1, 12)),
    setval('awa.next_sweep_at', awa._microseconds(now + awa._sweep_pause(v_level + 1)));
  select case
    when v_level > 0 and s.last_value > 1 and s.last_value < awa._microseconds(now)
      then to_timestamp(s.last_value / 1000000.0)
    else now
  end into v_to
    from awa.swept_from s;
  loop
    v_from := case
      when v_level = 0 or now - v_to > interval '1 year' then '-infinity'
      else v_to - greatest(now - v_to, '10 seconds') / 2 ^ (v_level - 1)
    end;
    v_piece_began := clock_timestamp();
    v_goes_on := v_until > '1970-01-02' and v_until > v_from and v_until <= v_to;
    v_pass := awa._promote_past(case when v_goes_on then v_until else v_from end,
      case when v_goes_on then v_until_id else 0 end, v_to, max_jobs, '-infinity', 0, '100 milliseconds');
    v_is_stuck := v_pass.is_full and v_pass.promoted < max_jobs;
    if v_pass.is_full then
      v_until := v_pass.run_at;
      v_until_id := v_pass.job_id;
    elsif v_goes_on then
      v_until := 'epoch';
    end if;
    if not v_is_stuck then
      v_slowest := greatest(v_slowest, clock_timestamp() - v_piece_began);
    end if;
    v_is_done := v_from = '-infinity' and not v_pass.is_full;
    exit when v_pass.promoted > 0 or v_is_stuck; -- so that it is committed before anything can be cut off
    v_to := v_from;
    exit when v_from = '-infinity' or clock_timestamp() - v_began > v_budget;
  end loop;
  if v_level > 0 then
    perform setval('awa.swept_from', case when v_is_done then 1 else awa._microseconds(v_to) end);
  end if;
  perform setval('awa.swept_until', awa._microseconds(v_until)),
    setval('awa.swept_id', awa._marked(v_until_id, awa._microseconds(v_until)));
  v_level := case
    when v_is_stuck then greatest(v_level, 3)
    when v_slowest > interval '100 milliseconds' then least(v_level + 1, 12)
    when v_is_done and v_slowest < interval '25 milliseconds' then greatest(v_level - 1, 0)
    else v_level
  end;
  perform setval('awa.sweep_level', v_level),
          setval('awa.next_sweep_at',
            awa._microseconds(
              clock_timestamp() + case
                when v_pass.promoted > 0 and not v_is_done then '0'
                else least(50 * (clock_timestamp() - v_began), awa._sweep_pause(v_level))
              end
            ));
  swept := v_pass.promoted;
  lack := v_pass.lack;
end
$$;
comment on function awa._sweep is 'Looks everywhere for due jobs that were committed late';

-- The longest pause before the next sweep, by the level of the last one.
-- A next time that is further away was set by a clock that was ahead.
create or replace function awa._sweep_pause(level bigint) returns interval
language sql immutable
return least(interval '1 second' * 2 ^ level, '10 minutes');
comment on function awa._sweep_pause is 'The longest pause before the next sweep, by the level of the last one';

-- Promotes due jobs, and goes on behind those that the server refuses.
-- It begins behind from_id among the jobs of due_from. Behind jobs that can't even be put off it goes on at skip_at and
-- skip_id, where that is further on, while there is time.
-- Returns how many it promoted, whether there may be more, how far it came, and the resource that the server lacks, if
-- any.
-- Why: more may be refused than one call gets past, and the others must not wait for them.
create or replace function awa._promote_past(
  due_from timestamptz,
  from_id bigint,
  due_until timestamptz,
  max_jobs int,
  skip_at timestamptz,
  skip_id bigint,
  most interval,
  out promoted bigint,
  out is_full boolean,
  out run_at timestamptz,
  out job_id bigint,
  out lack text[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_end timestamptz := clock_timestamp() + awa._budget(most, 4);
  v_pass record;
  v_refused bigint[] := '{}';
  v_refusal text;
begin
  promoted := 0;
  loop
    v_pass := awa._promote(due_from, from_id, due_until, (max_jobs - promoted)::int, awa._budget(most / 4, 16));
    promoted := promoted + v_pass.promoted;
    is_full := v_pass.is_full;
    run_at := coalesce(v_pass.run_at, run_at);
    job_id := coalesce(v_pass.job_id, job_id);
    v_refused := v_refused || v_pass.refused;
    v_refusal := coalesce(v_refusal, v_pass.refusal);
    lack := coalesce(lack, v_pass.lack);
    exit when not is_full or promoted >= max_jobs or v_pass.refused = '{}' or clock_timestamp() > v_end;
    due_from := run_at;
    from_id := job_id;
    if v_pass.has_left and (skip_at, skip_id) > (run_at, job_id) then
      due_from := skip_at;
      from_id := skip_id;
    end if;
  end loop;
  perform awa._warn_refused(v_refused, 'can''t be made ready', v_refusal);
end
$$;
comment on function awa._promote_past is 'Promotes due jobs, and goes on behind those that the server refuses';

-- Promotes due jobs, and puts off those that can't be promoted.
-- It begins behind from_id among the jobs of due_from. One by one, after an error, it goes on for so long at most.
-- A job is put off when the server can't read it, because a page is damaged, or refuses to make it
-- ready, because of a user's trigger: the others must not wait for it. For a minute; a refused one for twice as long
-- each time, up to an hour, and its errors tell so, where health finds it.
-- Leaves out jobs whose entries this transaction itself has buried: in the same lane again they would be buried, too,
-- and those that another session has put there are no longer the caller's.
-- Returns how many it promoted; whether it met as many as it may, or had no time for all; when the last of them was
-- due, and its id; those that were refused, with the first error; whether it has left one of these, since it can't be
-- put off; and the resource that the server lacks, if any.
-- Locks: the rows of these jobs, until the transaction ends. Skips rows that others hold. Changes lock_timeout: the
-- calling function has to have a SET clause for it.
create or replace function awa._promote(
  due_from timestamptz,
  from_id bigint,
  due_until timestamptz,
  max_jobs int,
  most interval,
  out promoted bigint,
  out is_full boolean,
  out run_at timestamptz,
  out job_id bigint,
  out refused bigint[],
  out refusal text,
  out has_left boolean,
  out lack text[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_buried bigint[] := '{}';
  v_due bigint[];
  v_times timestamptz[];
  v_expired bigint[];
  v_end timestamptz;
  v_refusal text;
begin
  if pg_current_xact_id_if_assigned() is not null then
    begin
      v_buried := array(select b.job_id from awa._buried_here b);
      raise sqlstate 'JQ999'; -- see _look_up
    exception when sqlstate 'JQ999' then
      null;
    end;
  end if;
  refused := '{}';
  has_left := false;
  select array_agg(d.job_id order by d.run_at, d.job_id), array_agg(d.run_at order by d.run_at, d.job_id),
         coalesce(count(*) = max_jobs, false),
         coalesce(array_agg(d.job_id) filter (where awa._is_expired(d.expires_at, d.attempt, clock_timestamp())), '{}')
    into v_due, v_times, is_full, v_expired
    from (
      select d.job_id, d.run_at, d.expires_at, d.attempt
        from awa.deferred_jobs d
       where (d.run_at, d.job_id) > (due_from, from_id) and d.run_at <= due_until and d.job_id <> all(v_buried)
       order by d.run_at, d.job_id
       limit max_jobs
         for update skip locked
    ) d;
  promoted := 0;
  if v_due is null then
    return;
  end if;
  run_at := v_times[cardinality(v_times)];
  job_id := v_due[cardinality(v_due)];
  begin
    perform set_config('lock_timeout', '10', true); -- a user's trigger may wait for another session
    promoted := awa._make_ready(v_due, v_expired);
    perform set_config('lock_timeout', '0', true);
    return;
  exception when others then
    if not awa._is_about_a_row(sqlstate) then
      raise;
    end if; -- one by one
  end;
  perform set_config('lock_timeout', '1', true);
  v_end := clock_timestamp() + most;
  for v_nth in 1..cardinality(v_due) loop
    if v_nth > 1 and clock_timestamp() > v_end then
      is_full := true;
      exit;
    end if;
    run_at := v_times[v_nth];
    job_id := v_due[v_nth];
    begin
      promoted := promoted + awa._make_ready(array[job_id],
        case when job_id = any(v_expired) then array[job_id] else '{}' end);
    exception when others then
      continue when awa._is_passing(sqlstate);
      if not awa._is_about_a_row(sqlstate) then
        raise;
      end if;
      v_refusal := awa._refusal(sqlerrm, sqlstate);
      refused := refused || job_id;
      refusal := coalesce(refusal, v_refusal);
      if sqlstate = 'XX001' then
        v_refusal := null;
      else
        lack := coalesce(lack, awa._lack(sqlerrm, sqlstate));
      end if;
      begin
        update awa.deferred_jobs d
           set run_at = clock_timestamp() + case
             when v_refusal is null then interval '1 minute'
             else awa._put_off_delay(d.errors)
           end,
               errors = case
                 when v_refusal is null then d.errors
                 else jsonb_set(awa._add_error(d.errors, d.attempt, 'to make it ready was refused: ' || v_refusal),
                   '{-1,put_off}', 'true')
               end
         where d.job_id = job_id;
      exception when others then
        if not awa._is_about_a_row(sqlstate) then
          raise;
        end if;
        has_left := true;
      end;
    end;
  end loop;
  perform set_config('lock_timeout', '0', true);
end
$$;
comment on function awa._promote is 'Promotes due jobs, and puts off those that can''t be promoted';

-- Moves deferred jobs to ready_entries, and wakes their queues; returns how many.
-- expired: those that it cancels instead, and counts, too.
create or replace function awa._make_ready(job_ids bigint[], expired bigint[] default '{}') returns bigint
language plpgsql
as $$
declare
  v_cancelled bigint := 0;
begin
  if expired <> '{}' then
    v_cancelled := cardinality(awa._cancel_waiting(expired, 'expired', null));
  end if;
  return v_cancelled + awa._append_deferred(job_ids);
end
$$;
comment on function awa._make_ready is 'Moves deferred jobs to ready_entries, and wakes their queues; returns how many';
