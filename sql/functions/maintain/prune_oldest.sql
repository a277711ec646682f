-- What prune_oldest returns.
create or replace view awa.prune_oldest as select r.current_segment as segment, q.name as outcome from awa.ring r, awa.queues q where false;
comment on view awa.prune_oldest is 'The row that prune_oldest returns: the oldest segment, and what became of it. The view itself is always empty';

-- Empties the oldest segment, when its completed jobs are past their retention, or forced: in several calls. The first one cleans it, as a log-structured file system does: carries what is alive to the current segment.
-- Later ones truncate its tables, one by one. The outcome is: empty (there is none), kept (its jobs are not past their retention), busy (somebody is at work on what is alive in it: try again), full (more is alive than carry_max),
-- cleaned, waiting (for snapshots that are older than the cleaning), blocked (somebody holds a lock on it; tried again later and later), truncating (there is more), truncated.
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
#variable_conflict use_variable
declare
  v_ring awa.ring;
  v_segment smallint;
begin
  perform awa._check_isolation();
  select * into v_ring from awa.ring r for no key update skip locked;
  if not found then
    return query select null::smallint, 'busy';
    return;
  end if;
  select s into v_segment
    from generate_series(1, 3) n, lateral (select ((v_ring.current_segment + n) % 4)::smallint) o(s)
   where not awa._is_empty(s)
   order by n
   limit 1;
  if v_segment is null then
    return query select null::smallint, 'empty';
  elsif force is not true and v_ring.left_at[v_segment + 1] > clock_timestamp() - (select s.completed_retention from awa.settings s) then
    return query select v_segment, 'kept';
  elsif v_ring.cleaned_segment is distinct from v_segment or v_ring.cleaned_by is null then
    return query select v_segment, awa._clean(v_segment);
  elsif force is not true and v_ring.retry_at > clock_timestamp() then
    return query select v_segment, 'blocked';
  else
    return query select v_segment, awa._truncate(v_segment);
  end if;
end
$$;
comment on function awa.prune_oldest is 'Empties the oldest segment, in several calls: cleans it, then truncates its tables';

-- Carries what is alive in a segment to the current one: entries that nobody has claimed, under the same place; cursors; and, to leases, attempts that are open. Then ring says that the segment counts no more, up to a
-- snapshot. May have to be called again, for what a transaction that was older has put there since.
create or replace function awa._clean(segment smallint) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_ring awa.ring;
  v_most int;
  v_queue_id bigint;
  v_until pg_snapshot;
  v_open bigint[];
  v_taken bigint[];
  v_entries bigint;
  v_cursors bigint;
begin
  select * into v_ring from awa.ring r;
  select s.carry_max into v_most from awa.settings s;
  if (select count(*) from (select from awa._available a where a.segment = segment limit v_most + 1) a) > v_most then
    return 'full';
  end if;
  perform set_config('lock_timeout', '100', true);
  begin
    for v_queue_id in
      select a.lane >> 3 from awa._available a where a.segment = segment
      union
      select l.lane >> 3 from awa._lanes l where l.cursor_segment = segment
      order by 1
    loop
      perform pg_advisory_xact_lock(awa._queue_key(v_queue_id));
    end loop;
    perform pg_advisory_xact_lock(awa._fold_key());
  exception when lock_not_available then
    return 'busy';
  end;
  v_until := awa._snapshot();

  -- Open attempts: those claimed in the segment, and those whose entries are in it.
  v_open := array(
    select o.receipt from awa._open_items o where o.segment = segment
    union
    select r.receipt from awa._running r where r.segment = segment);
  if cardinality(v_open) > v_most then
    return 'full';
  end if;
  v_taken := awa._take_open(v_open, greatest(v_most, 1), 'materialized');
  insert into awa.leases select * from awa._attempts(v_taken);
  if cardinality(v_taken) < cardinality(v_open) then
    return 'busy';
  end if;

  perform awa._fold(null, true);
  if exists (
    select from awa._lanes l
     cross join lateral (
        select true from awa.lease_claims c
         where c.segment = segment and c.lane = l.lane and (c.lane_seq > l.closed_seq or c.lane_seq = any(l.open_seqs))
         limit 1
      ) c)
  then
    return 'busy';
  end if;

  -- Burials of entries that were carried before.
  insert into awa.ready_tombstones (segment, lane, xid, job_id, by_xid, batch, cancels)
  select e.segment, t.lane, t.xid, t.job_id, t.by_xid, t.batch, t.cancels
    from awa.ready_tombstones t
   cross join lateral (
      select e.segment from awa.ready_entries e where e.lane = t.lane and e.xid = t.xid and e.job_id = t.job_id and e.segment <> segment limit 1
    ) e
   where v_ring.cleaned_segment = segment and t.segment = segment and t.lane > 0 and not pg_visible_in_snapshot(t.by_xid, v_ring.cleaned_until)
  on conflict do nothing;

  with carried as (
    insert into awa.ready_entries
      (segment, lane, xid, job_id, ready_at, priority, attempt, max_attempts, body_bytes, unique_key, kind, args, tags, metadata, created_at, progress, errors)
    select v_ring.current_segment, e.lane, e.xid, e.job_id, e.ready_at, e.priority, e.attempt, e.max_attempts, e.body_bytes, e.unique_key,
           e.kind, e.args, e.tags, e.metadata, e.created_at, e.progress, e.errors
      from awa._available a
     cross join lateral (
        select * from awa.ready_entries e where e.segment = segment and e.lane = a.lane and e.xid = a.xid and e.job_id = a.job_id limit 1
      ) e
     where a.segment = segment and pg_visible_in_snapshot(a.xid, v_until)
    returning 1
  )
  select count(*) into v_entries from carried;
  with carried as (
    insert into awa.lease_claims
      (segment, claim_id, lane, lane_seq, hi, lo, first_xid, first_id, pos_xid, pos_id, claimed_at, lease_until, holds_keys, job_ids)
    select v_ring.current_segment, nextval('awa.claim_ids'), l.lane, l.lane_seq + 1, l.hi, l.lo, l.pos_xid, l.pos_id, l.pos_xid, l.pos_id,
           clock_timestamp(), clock_timestamp(), false, '{}'
      from awa._lanes l
     where l.cursor_segment = segment
    returning 1
  )
  select count(*) into v_cursors from carried;

  update awa.ring r
     set cleaned_segment = segment, cleaned_until = v_until, cleaned_by = pg_current_xact_id(),
         carried = v_entries + v_cursors + cardinality(v_taken) > 0 or (r.carried and r.cleaned_segment = segment);
  return 'cleaned';
end
$$;
comment on function awa._clean is 'Carries what is alive in a segment to the current one';

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
  if v_ring.carried and awa._has_snapshot_before(v_ring.cleaned_by) then
    return 'waiting';
  end if;
  select s.prune_wait into v_wait from awa.settings s;
  perform set_config('lock_timeout', ceil(extract(epoch from v_wait) * 1000)::bigint::text, true);
  begin
    execute format('lock table awa.%s_%s in access exclusive mode', v_family, segment);
  exception when lock_not_available then
    update awa.ring r
       set tries = r.tries + 1,
           retry_at = clock_timestamp() + least(interval '1 second' * power(2, least(r.tries, 20)), interval '5 minutes'),
           blocked_since = coalesce(r.blocked_since, clock_timestamp());
    return 'blocked';
  end;

  -- Nobody is in it any more. What transactions that were older have put there since the cleaning calls for another one.
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
          exists (
            select from awa.ready_tombstones t where t.segment = segment and t.lane > 0 and not pg_visible_in_snapshot(t.by_xid, v_ring.cleaned_until))
        when 'lease_claims' then
          exists (
            select from awa._lanes l
             where l.cursor_segment = segment
                or exists (
                  select from awa.lease_claims c
                   where c.segment = segment and c.lane = l.lane and (c.lane_seq > l.closed_seq or c.lane_seq = any(l.open_seqs))))
        else false
      end)
  then
    update awa.ring r set cleaned_by = null;
    return 'busy';
  end if;
  execute format('truncate awa.%s_%s', v_family, segment);
  if not awa._is_empty(segment) then
    return 'truncating';
  end if;
  update awa.ring r
     set cleaned_segment = null, cleaned_until = null, cleaned_by = null, carried = false, tries = 0, retry_at = null, blocked_since = null;
  return 'truncated';
end
$$;
comment on function awa._truncate is 'Truncates one table of a segment that was cleaned, unless somebody may still need it';

-- Whether anybody who could read this database has a snapshot that does not see a transaction. Where this role may not see the snapshots of others, it takes every session of theirs for one.
create or replace function awa._has_snapshot_before(xid xid8) returns boolean
language sql stable
as $$
  select exists (
      select from pg_stat_activity a
       where a.pid <> pg_backend_pid()
         and (a.datid is null or a.datid = (select d.oid from pg_database d where d.datname = current_database()))
         and a.backend_type is distinct from 'autovacuum worker'
         and (age(a.backend_xmin) >= age(_has_snapshot_before.xid::xid)
           or a.backend_type is null and a.usesysid is not null and not pg_has_role(a.usesysid, 'usage') and not pg_has_role('pg_read_all_stats', 'usage')))
    or exists (select from pg_prepared_xacts p where p.database = current_database() and age(p.transaction) >= age(_has_snapshot_before.xid::xid))
    or exists (select from pg_replication_slots s where age(s.xmin) >= age(_has_snapshot_before.xid::xid))
$$;
comment on function awa._has_snapshot_before is 'Whether anybody has a snapshot that does not see a transaction';
