-- The row that prune_oldest returns: the oldest segment, and the outcome.
create or replace view awa.prune_oldest_row as
select r.current_segment as segment, q.name as outcome
  from awa.ring r, awa.queues q
 where false;
comment on view awa.prune_oldest_row is
  'The row that prune_oldest returns: the oldest segment, and the outcome. The view itself is always empty';

-- Empties the oldest segment, in several calls: cleans it, then truncates its tables.
-- Begins when its completed jobs are past their retention, or when forced. The first calls carry live rows to the
-- current segment, some at a time, as a log-structured file system does. Later calls truncate its tables, one by one.
-- With force it also goes on where rows are missing, and does not wait between tries; only operators may force it.
-- Returns an outcome: empty (there is no segment to empty), kept (its jobs are not past their retention), cleaning
-- (there is more to carry), cleaned, truncating (there is more to truncate), truncated; or the obstacle: unbalanced
-- (rows are missing: see audit), damaged (the server can't read a live job in it: see health), refused (the current
-- segment does not take a row, because of a user's trigger: see health), full (more rows are alive than carry_max),
-- busy (another session is working on its live rows), waiting (for older snapshots, or for transactions that may write
-- to it), blocked (another session holds a lock on it). Then it is tried again after a second, then two, four, up to
-- five minutes. Or cut off: calls did not come to their end. Then it is tried again 8 seconds after the last one began,
-- 16, up to five minutes, and with smaller batches until the segment is empty.
-- Locks: ring; to clean, the counts, then the queues of the rows that it carries, in the order of their ids, then
-- claims, tried; to truncate, one of the segment's tables. The wait for them grows with the tries, up to half a second,
-- which is less than deadlock_timeout.
-- Raises JQ004, 42501, 55000.
create or replace function awa.prune_oldest(force boolean default false) returns setof awa.prune_oldest_row
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set lock_timeout = 0
as $$
declare
  v_force boolean := force is true;
  v_ring awa.ring;
  v_began timestamptz := clock_timestamp();
  v_cut_off int; -- tries that did not come to their end
  v_wait interval;
  v_segment smallint;
  v_outcome text;
begin
  perform awa._check_force(force), awa._check_pass(null);
  select * into v_ring from awa.ring r for no key update skip locked;
  if not found then
    return query select null::smallint, 'busy';
    return;
  end if;
  -- A segment that was cleaned is finished first: its rows would count again.
  select s into v_segment
    from generate_series(1, 3) n, lateral (select ((v_ring.current_segment + n) % 4)::smallint) o(s)
   where not awa._is_empty(s)
   order by s = v_ring.cleaned_segment desc nulls last, n
   limit 1;
  select s.last_value into v_cut_off from awa.prune_tries s;
  if v_segment is null then
    v_outcome := 'empty';
  elsif not v_force
    and (v_ring.left_at[v_segment + 1] <= clock_timestamp() - (awa._settings()).completed_retention) is not true then
    v_outcome := 'kept';
  -- not by a clock that was ahead
  elsif not v_force and v_ring.retry_at - clock_timestamp() between interval '0' and awa._backoff(v_ring.tries) then
    perform awa._note_success('prune_oldest');
    return query select v_segment, v_ring.outcome;
    return;
  elsif not v_force
    and v_cut_off > 0
    and awa._last_prune_at() between clock_timestamp() - awa._backoff(v_cut_off + 2) and clock_timestamp() then
    perform awa._note_success('prune_oldest');
    return query select v_segment, 'cut off';
    return;
  else
    -- Known before it begins, and not rolled back: that it was tried.
    perform setval('awa.prune_tries', v_cut_off + 1),
      setval('awa.prune_tried_at', (extract(epoch from clock_timestamp()) * 1000000)::bigint);
    v_wait := awa._prune_wait(v_ring.tries);
    if v_ring.cleaned_segment is distinct from v_segment or v_ring.cleaned_by is null then
      v_outcome := awa._clean(v_segment, v_force, v_cut_off, v_wait);
    else
      v_outcome := awa._truncate(v_segment, v_wait);
    end if;
    -- Goes on with as much at a time, or twice that where there is room for it: with all at once it would be cut off
    -- again.
    perform setval('awa.prune_tries',
      case
        when v_outcome in ('cleaning', 'busy')
          then greatest(v_cut_off - (clock_timestamp() - v_began < awa._budget('10 seconds', 10))::int, 0)
        else 0
      end),
            setval('awa.prune_tried_at', 1);
  end if;
  if v_outcome in ('unbalanced', 'damaged', 'refused', 'full', 'busy', 'waiting', 'blocked') then
    update awa.ring r
       set outcome = v_outcome, tries = r.tries + 1, stuck_since = coalesce(r.stuck_since, clock_timestamp()),
           retry_at = clock_timestamp() + awa._backoff(r.tries);
  elsif v_outcome in ('cleaning', 'truncating') then
    -- For the rest it waits about as long. Where jobs can't be carried the obstacle stays while it looks at others.
    update awa.ring r
       set outcome = case when c.is_stuck then r.outcome end,
           tries = case when c.is_stuck then r.tries else least(r.tries, 4) end,
           stuck_since = case when c.is_stuck then r.stuck_since end, retry_at = null
      from (select (r.unreadable <> '{}' or r.refused <> '{}') is true as is_stuck from awa.ring r) c
     where r.outcome is not null;
  else
    update awa.ring r
       set outcome = null, tries = 0, stuck_since = null, retry_at = null
     where r.outcome is not null or r.tries > 0;
  end if;
  perform awa._note_success('prune_oldest');
  return query select v_segment, v_outcome;
end
$$;
comment on function awa.prune_oldest is
  'Empties the oldest segment, in several calls: cleans it, then truncates its tables';

-- How long to wait after so many tries: a second, two, four, up to five minutes.
create or replace function awa._backoff(tries int) returns interval
language sql immutable
return least(interval '1 second' * power(2, least(tries, 20)), interval '5 minutes');
comment on function awa._backoff is 'How long to wait after so many tries: a second, two, four, up to five minutes';

-- How long a try waits for its locks after so many: prune_wait, twice that, four times, up to half a second.
create or replace function awa._prune_wait(tries int) returns interval
language sql stable
as $$
select greatest(s.prune_wait, least(s.prune_wait * power(2, least(tries, 9)), interval '500 milliseconds'))
  from awa._settings() s $$;
comment on function awa._prune_wait is
  'How long a try waits for its locks after so many: prune_wait, twice that, four times, up to half a second';

-- Truncates one table of a segment that was cleaned, unless a session may still need it.
-- In this order: entries, tombstones, arrivals, claims, closures. When the entries are gone, it removes the notes of
-- deleted jobs, some in each call.
-- Locks: that table, exclusively, until the transaction ends; waits so long for it, and returns blocked after that.
-- Why: one table in each transaction, since a session that holds one of them may be about to lock another.
create or replace function awa._truncate(segment smallint, wait interval) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_ring awa.ring;
  v_family text := (
    select f.name from unnest(awa._families()) with ordinality f(name, ordinal)
     -- also where all rows were moved, or are not committed yet
     where pg_relation_size(format('awa.%s_%s', f.name, segment)::regclass) > 0
     order by f.ordinal
     limit 1);
begin
  select * into v_ring from awa.ring r;
  if v_ring.cleaned_by = pg_current_xact_id_if_assigned() then
    return 'waiting'; -- it is to be committed first
  end if;
  if v_ring.old_snapshots is distinct from '{}' then
    perform pg_stat_clear_snapshot(); -- this transaction may have looked before
    update awa.ring r
       set old_snapshots = array(
         select o.holder
           from awa._old_snapshots(v_ring.cleaned_by) o
          where v_ring.old_snapshots is null or o.holder = any(v_ring.old_snapshots))
    returning r.old_snapshots into v_ring.old_snapshots;
    if v_ring.old_snapshots <> '{}' then
      return 'waiting';
    end if;
  end if;
  if v_family is distinct from 'ready_entries' and awa._forget_deleted(segment, 10000) = 10000 then
    return 'truncating';
  end if;
  if v_family is not null then
    perform set_config('lock_timeout', awa._milliseconds(wait), true);
    begin
      -- No session writes there any more, but readers go on while this one looks. Rows that older transactions have
      -- put there since the cleaning call for another one.
      execute format('lock table awa.%s_%s in share mode', v_family, segment);
      if (v_ring.carried_before is null or v_family = 'ready_tombstones') -- to the others nobody can write
        and (case v_family
            when 'ready_entries' then
              exists (
                select from awa._lanes_in_segment(segment) l
                 cross join lateral (
                    select true
                      from awa.ready_entries e
                     where e.segment = segment
                       and e.lane = l.lane
                       and (e.xid, e.job_id) > (pg_snapshot_xmax(v_ring.cleaned_until), 0)
                     limit 1
                  ) e)
              or exists (
                select from awa._lanes_in_segment(segment) l
                 cross join pg_snapshot_xip(v_ring.cleaned_until) x
                 cross join lateral (
                    select true
                      from awa.ready_entries e
                     where e.segment = segment and e.lane = l.lane and e.xid = x
                     limit 1
                  ) e)
            when 'ready_tombstones' then
              exists (select from awa._buried_since(segment, v_ring.cleaned_until))
            when 'arrivals' then
              exists (
                select from awa._lanes_in_segment(segment) l
                 cross join lateral (
                    select true
                      from awa.arrivals a
                     where a.segment = segment and a.lane = l.lane and a.xid >= pg_snapshot_xmax(v_ring.cleaned_until)
                     limit 1
                  ) a)
              or exists (
                select from awa._lanes_in_segment(segment) l
                 cross join pg_snapshot_xip(v_ring.cleaned_until) x
                 cross join lateral (
                    select true from awa.arrivals a where a.segment = segment and a.lane = l.lane and a.xid = x limit 1
                  ) a)
            when 'lease_claims' then
              exists (select from awa._uncounted_lanes(segment)) or exists (select from awa._cursors_in(segment))
            else false
          end)
      then
        update awa.ring r set cleaned_by = null;
        return 'busy';
      end if;
      execute format('truncate awa.%s_%s', v_family, segment);
    exception when lock_not_available then
      return 'blocked';
    end;
    if exists (
      select from unnest(awa._families()) f where pg_relation_size(format('awa.%s_%s', f, segment)::regclass) > 0
    ) then
      return 'truncating';
    end if;
  end if;
  update awa.ring r
     set cleaned_segment = null, cleaned_until = null, cleaned_by = null, carried_before = null, old_snapshots = null;
  return 'truncated';
end
$$;
comment on function awa._truncate is
  'Truncates one table of a segment that was cleaned, unless a session may still need it';

-- Removes notes of deleted jobs whose entries are gone, at most so many; returns how many.
-- These are jobs that were deleted while the segment was the current one. Their entries lay in that segment or an older
-- one. Only notes that are counted are removed.
create or replace function awa._forget_deleted(segment smallint, max_jobs int) returns bigint
language sql
as $$
  with gone as (
    delete from awa.deleted_jobs d
     where d.job_id = any(array(
       select d.job_id
         from awa.deleted_jobs d
        cross join lateral (select * from awa.queue_rollups r where r.lane = d.lane limit 1) r
        where d.segment = _forget_deleted.segment
          and (pg_visible_in_snapshot(d.by_xid, r.counted) or pg_visible_in_snapshot(d.xid, r.dropped))
        limit max_jobs))
    returning 1
  )
  select count(*) from gone
$$;
comment on function awa._forget_deleted is
  'Removes notes of deleted jobs whose entries are gone, at most so many; returns how many';
