-- What prune_oldest returns.
create or replace view awa.prune_oldest as select r.current_segment as segment, q.name as outcome from awa.ring r, awa.queues q where false;
comment on view awa.prune_oldest is 'The row that prune_oldest returns: the oldest segment, and what became of it. The view itself is always empty';

-- Empties the oldest segment, when its completed jobs are past their retention, or forced: in several calls. The first one cleans it, as a log-structured file system does: carries what is alive to the current segment.
-- Later ones truncate its tables, one by one. The outcome is empty (there is none), kept (its jobs are not past their retention), cleaning (there is more to carry), cleaned, truncating (there is more to truncate), truncated;
-- or what is in the way: unbalanced (rows are missing: see audit), full (more is alive than carry_max), busy (somebody is at work on what is alive in it), waiting (for snapshots that are older than the cleaning), blocked (somebody
-- holds a lock on it). Then it is tried again after a second, then two, four, up to five minutes; forced, at once. Forced it also goes on where rows are missing.
-- Locks: ring; to clean, the queues of what it carries, in the order of their ids, then claims, tried; to truncate, one of the segment's tables, for which it waits for prune_wait at most. Raises JQ004.
create or replace function awa.prune_oldest(force boolean default false) returns setof awa.prune_oldest
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
  v_segment smallint;
  v_outcome text;
begin
  perform awa._check_isolation(), awa._current_segment();
  select * into v_ring from awa.ring r for no key update skip locked;
  if not found then
    return query select null::smallint, 'busy';
    return;
  end if;
  -- What was cleaned is finished first: what it holds would count again.
  select s into v_segment
    from generate_series(1, 3) n, lateral (select ((v_ring.current_segment + n) % 4)::smallint) o(s)
   where not awa._is_empty(s)
   order by s = v_ring.cleaned_segment desc nulls last, n
   limit 1;
  if v_segment is null then
    v_outcome := 'empty';
  elsif not v_force and v_ring.left_at[v_segment + 1] > clock_timestamp() - (select s.completed_retention from awa.settings s) then
    v_outcome := 'kept';
  elsif not v_force and v_ring.retry_at > clock_timestamp() then
    return query select v_segment, v_ring.outcome;
    return;
  elsif v_ring.cleaned_segment is distinct from v_segment or v_ring.cleaned_by is null then
    v_outcome := awa._clean(v_segment, v_force);
  else
    v_outcome := awa._truncate(v_segment);
  end if;
  if v_outcome in ('unbalanced', 'full', 'busy', 'waiting', 'blocked') then
    update awa.ring r
       set outcome = v_outcome, tries = r.tries + 1, stuck_since = coalesce(r.stuck_since, clock_timestamp()),
           retry_at = clock_timestamp() + least(interval '1 second' * power(2, least(r.tries, 20)), interval '5 minutes');
  elsif v_ring.outcome is not null then
    update awa.ring r set outcome = null, tries = 0, stuck_since = null, retry_at = null;
  end if;
  return query select v_segment, v_outcome;
end
$$;
comment on function awa.prune_oldest is 'Empties the oldest segment, in several calls: cleans it, then truncates its tables';

-- Carries what is alive in a segment to the current one: entries that nobody has claimed, under the same place; cursors; and, to leases, attempts that are open. Then ring says that the segment counts no more, up to a
-- snapshot. May have to be called again, for what a transaction that was older has put there since.
-- Copies first, and locks the queues only then, for what has changed meanwhile: so that their claims wait for milliseconds, however much is copied. What was claimed meanwhile is there twice until the commit, and only once after it.
create or replace function awa._clean(segment smallint, force boolean) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_ring awa.ring;
  v_settings awa.settings;
  v_before pg_snapshot;
  v_until pg_snapshot;
  v_queue_ids bigint[];
  v_open bigint[];
  v_taken bigint[];
  v_lanes bigint[];
  v_late_lanes bigint[];
begin
  select * into v_ring from awa.ring r;
  select * into v_settings from awa.settings s;
  if (select count(*) from (select from awa._available a where a.segment = segment limit v_settings.carry_max + 1) a) > v_settings.carry_max then
    return 'full';
  end if;
  -- The lock of each queue takes room in the server's lock table.
  if (select count(*) from (select distinct a.lane >> 3 from awa._available a where a.segment = segment limit 1001) a) > 1000 then
    return 'full';
  end if;
  -- While somebody reads for long it could not be truncated, and claims would have to pass over what was carried, again and again.
  if not force then
    if exists (select from awa._long_readers(segment) r where r.locks) then
      return 'blocked';
    elsif exists (select from awa._long_readers(segment)) then
      return 'waiting';
    elsif awa._is_unbalanced(segment) then
      return 'unbalanced';
    end if;
  end if;
  -- Before anything is copied: is somebody answering for an open attempt?
  if exists (
    select from (
      select distinct awa._claim_key(o.receipt >> 12) as key
        from (select o.receipt from awa._open_items o where o.segment = segment union select r.receipt from awa._running r where r.segment = segment) o
       limit 1000
    ) c where not case when pg_try_advisory_lock(c.key) then pg_advisory_unlock(c.key) else false end)
  then
    return 'busy';
  end if;
  begin
    -- The cursors of very many quiet queues come first, some at a time: the server's lock table is small.
    v_queue_ids := array(select distinct l.lane >> 3 from awa._lanes l where l.cursor_segment = segment order by 1 limit 501);
    if cardinality(v_queue_ids) > 500 then
      perform awa._lock_for(array(select awa._queue_key(q) from unnest(v_queue_ids) q), v_settings.prune_wait);
      perform awa._carry_cursors(segment, v_queue_ids);
      return 'cleaning';
    end if;

    v_before := awa._snapshot();
    perform awa._lock_for(array[awa._fold_key()], v_settings.prune_wait);
    perform awa._fold(null, true); -- what is copied now must not be counted again
    with carried as (
      insert into awa.ready_entries
        (segment, lane, xid, job_id, ready_at, priority, attempt, max_attempts, body_bytes, unique_key, kind, args, tags, metadata, created_at, progress, errors)
      select v_ring.current_segment, e.lane, e.xid, e.job_id, e.ready_at, e.priority, e.attempt, e.max_attempts, e.body_bytes, e.unique_key,
             e.kind, e.args, e.tags, e.metadata, e.created_at, e.progress, e.errors
        from awa._available a
       cross join lateral (
          select * from awa.ready_entries e where e.segment = segment and e.lane = a.lane and e.xid = a.xid and e.job_id = a.job_id limit 1
        ) e
       where a.segment = segment and pg_visible_in_snapshot(a.xid, v_before)
      returning lane
    )
    select coalesce(array_agg(c.lane), '{}') into v_lanes from carried c;

    v_queue_ids := array(
      select l >> 3 from unnest(v_lanes) l
      union
      select l.lane >> 3 from awa._lanes l where l.cursor_segment = segment
      order by 1);
    perform awa._lock_for(array(select awa._queue_key(q) from unnest(v_queue_ids) q), v_settings.prune_wait);
    v_until := awa._snapshot();
    -- Something of another queue that was committed only now: a claim may be taking it, and would not find it where it was; and it is not counted.
    if exists (
      select from awa._lanes l
       cross join lateral awa._appended_since(l.lane, v_before, l.dropped) a
       where l.lane >> 3 <> all(v_queue_ids) and a.segment = segment and pg_visible_in_snapshot(a.xid, v_until))
    then
      raise lock_not_available;
    end if;

    -- Open attempts: those claimed in the segment, and those whose entries are in it.
    v_open := array(
      select o.receipt from awa._open_items o where o.segment = segment
      union
      select r.receipt from awa._running r where r.segment = segment);
    if cardinality(v_open) > 1000 then
      raise lock_not_available; -- materialize has them in a moment
    end if;
    v_taken := awa._take_open(v_open, 1000, 'materialized');
    insert into awa.leases select distinct on (a.receipt) a.* from awa._attempts(v_taken) a;
    if cardinality(v_taken) < cardinality(v_open) then
      raise lock_not_available;
    end if;
    perform awa._fold(null, true, v_queue_ids);
    if awa._has_uncounted(segment) then
      raise lock_not_available;
    end if;

    -- What was committed meanwhile; claimed or not, it makes no difference.
    with carried as (
      insert into awa.ready_entries
        (segment, lane, xid, job_id, ready_at, priority, attempt, max_attempts, body_bytes, unique_key, kind, args, tags, metadata, created_at, progress, errors)
      select v_ring.current_segment, e.lane, e.xid, e.job_id, e.ready_at, e.priority, e.attempt, e.max_attempts, e.body_bytes, e.unique_key,
             e.kind, e.args, e.tags, e.metadata, e.created_at, e.progress, e.errors
        from unnest(v_queue_ids) q
       cross join generate_series(q * 8, q * 8 + 4) l
       cross join lateral (
          select distinct a.xid from awa._appended_since(l, v_before, null) a where a.segment = segment and a.entries > 0 and pg_visible_in_snapshot(a.xid, v_until)
        ) a
       cross join lateral (
          select * from awa._entries e where e.segment = segment and e.lane = l and e.xid = a.xid offset 0
        ) e
      returning lane
    )
    select coalesce(array_agg(c.lane), '{}') into v_late_lanes from carried c;
    update awa.queue_rollups r
       set kept[segment + 1] = n.late, kept[v_ring.current_segment + 1] = r.kept[v_ring.current_segment + 1] + n.carried
      from (
        select r.lane, coalesce(c.carried, 0) as carried, (
                 select coalesce(sum(a.entries), 0)
                   from awa._appended_since(r.lane, v_until, r.dropped) a
                  where a.segment = segment and pg_visible_in_snapshot(a.xid, r.counted)) as late
          from awa.queue_rollups r
          left join (select l as lane, count(*) as carried from unnest(v_lanes || v_late_lanes) l group by l) c on c.lane = r.lane
         where r.kept[segment + 1] > 0
      ) n
     where r.lane = n.lane;
    -- Burials of entries that were carried before.
    insert into awa.ready_tombstones (segment, lane, xid, job_id, by_xid, batch, cancels)
    select e.segment, t.lane, t.xid, t.job_id, t.by_xid, t.batch, t.cancels
      from awa._buried_since(segment, case when v_ring.cleaned_segment = segment then v_ring.cleaned_until else v_before end) t
     cross join lateral (
        select e.segment from awa.ready_entries e where e.lane = t.lane and e.xid = t.xid and e.job_id = t.job_id and e.segment <> segment limit 1
      ) e
     where t.lane > 0 and pg_visible_in_snapshot(t.by_xid, v_until) -- the others call for another cleaning
    on conflict do nothing;
    perform awa._carry_cursors(segment, v_queue_ids);
  exception when lock_not_available then
    return 'busy';
  end;
  update awa.ring r
     set cleaned_segment = segment, cleaned_until = v_until, cleaned_by = pg_current_xact_id(), old_snapshots = null;
  return 'cleaned';
end
$$;
comment on function awa._clean is 'Carries what is alive in a segment to the current one';

-- Takes advisory locks in their order, and waits so long at most, for all of them together.
create or replace function awa._lock_for(keys bigint[], wait interval) returns void
language plpgsql
as $$
declare
  v_end timestamptz := clock_timestamp() + wait;
  v_key bigint;
begin
  foreach v_key in array keys loop
    if not pg_try_advisory_xact_lock(v_key) then
      perform set_config('lock_timeout', awa._milliseconds(greatest(v_end - clock_timestamp(), '1 millisecond')), true);
      perform pg_advisory_xact_lock(v_key);
    end if;
  end loop;
  perform set_config('lock_timeout', '0', true); -- what is written next may have to wait for a page
end
$$;
comment on function awa._lock_for is 'Takes advisory locks, and waits so long at most';

-- Copies the cursors of queues that are in a segment to the current one.
create or replace function awa._carry_cursors(segment smallint, queue_ids bigint[]) returns void
language sql
as $$
  insert into awa.lease_claims
    (segment, claim_id, lane, lane_seq, hi, lo, first_xid, first_id, pos_xid, pos_id, claimed_at, lease_until, holds_keys, job_ids)
  select awa._current_segment(), nextval('awa.claim_ids'), l.lane, l.lane_seq + 1, l.hi, l.lo, l.pos_xid, l.pos_id, l.pos_xid, l.pos_id,
         clock_timestamp(), clock_timestamp(), false, '{}'
    from awa._lanes l
   where l.cursor_segment = _carry_cursors.segment and l.lane >> 3 = any(queue_ids)
$$;
comment on function awa._carry_cursors is 'Copies the cursors of queues that are in a segment to the current one';

-- What was buried in a segment by transactions that are not visible in a snapshot.
create or replace function awa._buried_since(segment smallint, since pg_snapshot) returns setof awa.ready_tombstones
language sql stable
as $$
  select * from awa.ready_tombstones t where t.segment = _buried_since.segment and t.by_xid >= pg_snapshot_xmax(since)
  union all
  select t.* from pg_snapshot_xip(since) x cross join lateral (select * from awa.ready_tombstones t where t.segment = _buried_since.segment and t.by_xid = x offset 0) t
$$;
comment on function awa._buried_since is 'What was buried in a segment by transactions that are not visible in a snapshot';

-- Whether a segment holds claims that are not counted yet: those that are open, for one.
create or replace function awa._has_uncounted(segment smallint) returns boolean
language sql stable
as $$
  select exists (
      select from awa._lanes l
       cross join lateral (select true from awa.lease_claims c where c.segment = _has_uncounted.segment and c.lane = l.lane and c.lane_seq > l.closed_seq limit 1) c)
    or exists (
      select from awa._lanes l
       cross join lateral unnest(l.open_seqs) s
       cross join lateral (select true from awa.lease_claims c where c.segment = _has_uncounted.segment and c.lane = l.lane and c.lane_seq = s limit 1) c)
$$;
comment on function awa._has_uncounted is 'Whether a segment holds claims that are not counted yet';

-- Whether rows are missing in a segment. Counts all of them, so it needs other plans than the rest; on one processor, for the others have work to do.
create or replace function awa._is_unbalanced(segment smallint) returns boolean
language plpgsql stable
set enable_seqscan = on
set enable_bitmapscan = on
set enable_hashjoin = on
set max_parallel_workers_per_gather = 0
as $$
begin
  return exists (select from awa._imbalances i where i.segment = _is_unbalanced.segment);
end
$$;
comment on function awa._is_unbalanced is 'Whether rows are missing in a segment';

-- Truncates one table of a segment that was cleaned, unless somebody may still need it: the entries, then the tombstones, the claims, the closures. One at a time, in transactions of their own: who holds one of them may be about to
-- lock another.
create or replace function awa._truncate(segment smallint) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_ring awa.ring;
  v_wait interval;
  v_family text := case
    when exists (select from awa.ready_entries e where e.segment = segment) then 'ready_entries'
    when exists (select from awa.ready_tombstones t where t.segment = segment) then 'ready_tombstones'
    when exists (select from awa.lease_claims c where c.segment = segment) then 'lease_claims'
    else 'lease_claim_closures'
  end;
begin
  select * into v_ring from awa.ring r;
  if v_ring.cleaned_by = pg_current_xact_id_if_assigned() then
    return 'waiting'; -- it is to be committed first
  end if;
  if v_ring.old_snapshots is distinct from '{}' then
    perform pg_stat_clear_snapshot(); -- this transaction may have looked before
    update awa.ring r
       set old_snapshots = array(
         select o.holder from awa._old_snapshots(v_ring.cleaned_by) o where v_ring.old_snapshots is null or o.holder = any(v_ring.old_snapshots))
    returning r.old_snapshots into v_ring.old_snapshots;
    if v_ring.old_snapshots <> '{}' then
      return 'waiting';
    end if;
  end if;
  select s.prune_wait into v_wait from awa.settings s;
  perform set_config('lock_timeout', awa._milliseconds(v_wait), true);
  begin
    -- Nobody writes there any more, but readers go on while this one looks. What transactions that were older have put there since the cleaning calls for another one.
    execute format('lock table awa.%s_%s in share mode', v_family, segment);
    if (case v_family
          when 'ready_entries' then
            exists (
              select from awa._lanes l
               cross join lateral (
                  select true
                    from awa.ready_entries e
                   where e.segment = segment and e.lane = l.lane and (e.xid, e.job_id) > (pg_snapshot_xmax(v_ring.cleaned_until), 0)
                   limit 1
                ) e)
            or exists (
              select from awa._lanes l
               cross join pg_snapshot_xip(v_ring.cleaned_until) x
               cross join lateral (
                  select true from awa.ready_entries e where e.segment = segment and e.lane = l.lane and e.xid = x limit 1
                ) e)
          when 'ready_tombstones' then
            exists (select from awa._buried_since(segment, v_ring.cleaned_until) t where t.lane not in (-1, -2))
          when 'lease_claims' then
            awa._has_uncounted(segment) or exists (select from awa._lanes l where l.cursor_segment = segment)
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
  if not awa._is_empty(segment) then
    return 'truncating';
  end if;
  update awa.ring r
     set cleaned_segment = null, cleaned_until = null, cleaned_by = null, old_snapshots = null;
  return 'truncated';
end
$$;
comment on function awa._truncate is 'Truncates one table of a segment that was cleaned, unless somebody may still need it';

-- Who has held a snapshot, or a lock on a segment, for more than a second.
create or replace function awa._long_readers(segment smallint) returns table (pid int, locks boolean)
language sql stable
as $$
  select a.pid, l.locks
    from pg_stat_activity a
   cross join lateral (
      select exists (
        select from pg_locks l
         where l.pid = a.pid and l.locktype = 'relation' and l.granted
           and l.relation in (select format('awa.%s_%s', f, _long_readers.segment)::regclass from unnest('{ready_entries,ready_tombstones,lease_claims,lease_claim_closures}'::text[]) f)) as locks
    ) l
   where a.pid <> pg_backend_pid() and a.datid = (select d.oid from pg_database d where d.datname = current_database()) and a.backend_type is distinct from 'autovacuum worker'
     and a.xact_start < clock_timestamp() - interval '1 second' 
     and (a.backend_xmin is not null and (a.state <> 'active' or a.query_start < clock_timestamp() - interval '1 second') or l.locks)
$$;
comment on function awa._long_readers is 'Who has held a snapshot, or a lock on a segment, for more than a second';

-- Who could read this database with a snapshot that does not see a transaction. A snapshot that was taken later may look like that, too, while an older transaction is still open: so only the first list after the transaction's
-- commit counts, and of that list those who are still on it. Where this role may not see the snapshots of others, it takes every session of theirs for one.
create or replace function awa._old_snapshots(xid xid8) returns table (holder text)
language sql stable
as $$
  select format('backend %s, %s', a.pid, coalesce(extract(epoch from a.xact_start)::text, 'since it began')) -- the same in every time zone
    from pg_stat_activity a
   where a.pid <> pg_backend_pid()
     and (a.datid is null or a.datid = (select d.oid from pg_database d where d.datname = current_database()))
     and a.backend_type is distinct from 'autovacuum worker'
     and (age(a.backend_xmin) >= age(_old_snapshots.xid::xid)
       or a.backend_type is null and a.usesysid is not null and not pg_has_role(a.usesysid, 'usage') and not pg_has_role('pg_read_all_stats', 'usage'))
  union all
  select 'replication slot ' || s.slot_name from pg_replication_slots s where age(s.xmin) >= age(_old_snapshots.xid::xid)
$$;
comment on function awa._old_snapshots is 'Who has a snapshot that does not see a transaction';
