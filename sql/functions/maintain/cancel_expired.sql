-- The row that cancel_expired returns.
create or replace view awa.cancel_expired_row as select c.claim_id as cancelled from awa.lease_claims c where false;
comment on view awa.cancel_expired_row is
  'The row that cancel_expired returns: how many jobs it cancelled. The view itself is always empty';

-- Cancels available jobs that have not begun by their expires_at, at most max_jobs, of one shard; returns how many.
-- Those that wait for their groups are cancelled first, in all shards.
-- A call that has found such jobs is to be followed by another one. It reads at most 50,000 entries, and the next call
-- goes on where it has stopped. Safe to call from anywhere, as often as one likes.
-- Locks: the rows of limited_jobs that it cancels, tried, then the shard of the queue, for which it waits for 0.1 s;
-- until the transaction ends.
-- Raises 22023, JQ004, 55000; and the error of a resource that the server lacks, where it could cancel no job for that.
-- Why: claims cancel those that they meet. This is for jobs that no claim comes to: in a queue that is paused or has no
-- workers, and behind others. One shard, so that its claims wait for one batch only.
create or replace function awa.cancel_expired(max_jobs int default 1000) returns setof awa.cancel_expired_row
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
set jit = off
set lock_timeout = 0
as $$
#variable_conflict use_variable
declare
  v_at awa._place := awa._expiry_place();
  v_lanes bigint[];
  v_lane bigint;
  v_found record;
  v_each record;
  v_left int := 50000;
  v_is_locked boolean := false;
  v_cancelled bigint := 0;
  v_lines record;
begin
  perform awa._check_pass(max_jobs);
  v_lines := awa._expire_lines(coalesce(max_jobs, 1000));
  v_cancelled := v_lines.cancelled;
  v_lanes := array(
    select l.lane
      from (select distinct q.queue_id from awa.queues q where q.may_expire) q
     cross join lateral awa._lanes_of(q.queue_id) l
     order by l.lane < v_at.lane, l.lane
     limit 1000);
  foreach v_lane in array v_lanes loop
    if v_lane <> v_at.lane then
      v_at := (0, null, null, v_lane, null, '0', null, null);
    end if;
    v_found := awa._find_expired(v_at, greatest(coalesce(max_jobs, 1000) - v_cancelled, 1)::int, v_left);
    v_left := v_left - 50 - v_found.looked_at;
    v_at := v_found.last;
    if v_found.entries <> '{}' then
      v_is_locked := awa._lock_shard_within(awa._shard_of(v_lane), '100 milliseconds');
      v_left := v_left - 5000; -- so that it waits ten times at most
    end if;
    exit when v_is_locked or v_left <= 0;
  end loop;
  if v_is_locked then
    v_each := awa._expire_each(v_lane, v_found.entries);
    v_cancelled := v_cancelled + v_each.cancelled;
    if v_each.left_over > 0 then
      v_at := v_found.entries[cardinality(v_found.entries) - v_each.left_over]; -- the next call takes these
    end if;
  end if;
  if v_cancelled = 0 then
    perform awa._fail_for(v_lines.lack);
  end if;
  perform awa._store_expiry_place(v_at, v_is_locked or v_left <= 0 or cardinality(v_lanes) = 1000);
  perform awa._note_success('cancel_expired');
  return query select v_cancelled;
end
$$;
comment on function awa.cancel_expired is
  'Cancels available jobs that have not begun by their expires_at, at most max_jobs, of one shard; returns how many';

-- Cancels jobs that wait for their groups, and have expired, at most max_jobs, those first whose time came first.
-- Returns how many, and a lack (see _lack). Where it can cancel none of so many, it goes on with those that come next,
-- for a second.
-- Locks: the rows of these jobs, tried, until the transaction ends.
create or replace function awa._expire_lines(max_jobs int, out cancelled bigint, out lack text[])
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_until timestamptz := clock_timestamp() + awa._budget('1 second', 4);
  v_job_ids bigint[];
  v_tried bigint[] := '{}';
  v_pass record;
begin
  loop
    v_job_ids := array(
      select w.job_id
        from awa.limited_jobs w
       where w.expires_at <= (select clock_timestamp()) and w.attempt = 1 and w.expires_at is not null
         and (v_tried = '{}' or w.job_id <> all(v_tried))
       order by w.expires_at
       limit max_jobs
         for update skip locked);
    v_pass := awa._expire_limited(v_job_ids, v_until);
    cancelled := v_pass.cancelled;
    lack := coalesce(lack, v_pass.lack);
    exit when cancelled > 0 or cardinality(v_job_ids) < max_jobs or clock_timestamp() > v_until;
    v_tried := v_tried || v_job_ids;
  end loop;
end
$$;
comment on function awa._expire_lines is
  'Cancels jobs that wait for their groups, and have expired, at most max_jobs, those first whose time came first';

-- The place from which cancel_expired goes on.
create or replace function awa._expiry_place() returns awa._place
language sql stable
as $$
  select (i.last_value, null, null, l.last_value, null, x.last_value::text::xid8, null, null)::awa._place
    from awa.expiry_lane l, awa.expiry_xid x, awa.expiry_id i
$$;
comment on function awa._expiry_place is 'The place from which cancel_expired goes on';

-- Writes the place from which cancel_expired goes on; where it has been everywhere it begins anew.
create or replace function awa._store_expiry_place(place awa._place, goes_on boolean) returns void
language sql
as $$
  select setval('awa.expiry_lane', p.lane), setval('awa.expiry_xid', p.xid), setval('awa.expiry_id', p.id)
    from (
      select case when goes_on then place.lane else 0 end as lane,
             case when goes_on then place.xid::text::bigint else 0 end as xid,
             case when goes_on then place.id else 0 end as id
    ) p
   where goes_on or (select l.last_value <> 0 from awa.expiry_lane l)
$$;
comment on function awa._store_expiry_place is
  'Writes the place from which cancel_expired goes on; where it has been everywhere it begins anew';

-- The entries of a lane, after a place, whose jobs have expired, at most max_jobs; and how far it has looked.
-- It looks at most_entries, and at those that were committed late.
create or replace function awa._find_expired(
  after awa._place,
  max_jobs int,
  most_entries int,
  out entries awa._place[],
  out looked_at int,
  out last awa._place
)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_now timestamptz := clock_timestamp();
  v_lane record;
  v_late awa._place[];
  v_last awa._place[];
begin
  select l.* into v_lane from awa._lanes l where l.queue_id = awa._queue_of(after.lane) and l.lane = after.lane;
  v_late := array(
    select (e.job_id, 'available', null, e.lane, e.lane & 7, e.xid, e.segment, null)::awa._place
      from awa._late_entries(v_lane.lane, v_lane.lo, v_lane.hi, v_lane.pos_xid, v_lane.pos_id, v_lane.from_xid,
             v_lane.from_id) e
     where awa._is_expired(e.expires_at, e.attempt, v_now)
       and (
         select true from awa.ready_tombstones t where t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id limit 1
       ) is null
     limit max_jobs);
  with walked as materialized (
    select e.xid, e.job_id, e.segment, awa._is_expired(e.expires_at, e.attempt, v_now) as is_expired
      from awa._entries e
     where e.lane = after.lane
       and (e.xid, e.job_id) > (greatest(v_lane.from_xid, after.xid),
         case
           when after.xid > v_lane.from_xid then after.id
           when after.xid = v_lane.from_xid then greatest(after.id, v_lane.from_id)
           else v_lane.from_id
         end)
     order by e.xid, e.job_id
     limit greatest(most_entries, 1)
  ), expired as materialized (
    select w.xid, w.job_id, w.segment
      from walked w
     where w.is_expired
       and (
         select true
           from awa.ready_tombstones t
          where t.lane = after.lane and t.xid = w.xid and t.job_id = w.job_id
          limit 1
       ) is null
     order by w.xid, w.job_id
     limit max_jobs - cardinality(v_late)
  )
  select array(
           select (e.job_id, 'available', null, after.lane, after.lane & 7, e.xid, e.segment, null)::awa._place
             from expired e
         ), array(
           select (w.job_id, 'available', null, after.lane, after.lane & 7, w.xid, w.segment, null)::awa._place
             from walked w order by w.xid desc, w.job_id desc limit 1
         ), (select count(*) from walked)
    into entries, v_last, looked_at;
  last := coalesce(case when cardinality(v_late || entries) < max_jobs then v_last[1] else entries[cardinality(entries)]
    end, after);
  entries := v_late || entries;
end
$$;
comment on function awa._find_expired is
  'The entries of a lane, after a place, whose jobs have expired, at most max_jobs; and how far it has looked';

-- Cancels expired jobs, but for those that others hold; returns how many, and of how many it had no time for.
-- In parts, each twice as large as the one before, up to 32, for half a second. Where a part fails it cancels the rest
-- one by one, at random, for a tenth of a second. A session that is changing one of them in an open transaction has
-- buried it; this waits for milliseconds.
-- Raises the error of a resource that the server lacks, where it could cancel no job for that.
-- Why: no worker claims from the shard meanwhile. Where more are refused than it has time for, the next call comes to
-- others.
create or replace function awa._expire_each(
  lane bigint,
  entries awa._place[],
  out cancelled bigint,
  out left_over int
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_until timestamptz := awa._step_end(clock_timestamp(), '500 milliseconds', 4);
  v_many int := 1;
  v_entry awa._place;
  v_has_failed boolean := false;
  v_refused bigint[] := '{}';
  v_refusal text;
  v_lack text[];
begin
  cancelled := 0;
  left_over := 0;
  perform set_config('lock_timeout', '10', true);
  while entries <> '{}' and not v_has_failed and (v_many = 1 or clock_timestamp() < v_until) loop
    begin
      cancelled := cancelled + awa._expire_ready(lane, entries[: v_many]);
      entries := entries[v_many + 1 :];
      v_many := least(v_many * 2, 32);
    exception when others then
      if sqlstate <> '55P03' and not awa._is_about_a_row(sqlstate) then
        raise;
      end if;
      v_has_failed := true; -- one by one
    end;
  end loop;
  if not v_has_failed then
    left_over := cardinality(entries);
    entries := '{}';
  end if;
  perform set_config('lock_timeout', '1', true);
  v_until := awa._step_end(clock_timestamp(), '100 milliseconds', 4);
  for v_entry in select e.* from unnest(entries) e order by random() loop
    exit when clock_timestamp() > v_until;
    begin
      cancelled := cancelled + awa._expire_ready(lane, array[v_entry]);
    exception when others then
      continue when awa._is_passing(sqlstate);
      if not awa._is_about_a_row(sqlstate) then
        raise;
      end if;
      v_lack := coalesce(v_lack, awa._lack(sqlerrm, sqlstate));
      v_refused := v_refused || v_entry.id;
      v_refusal := coalesce(v_refusal, awa._refusal(sqlerrm, sqlstate));
    end;
  end loop;
  perform awa._warn_refused(v_refused, 'has expired, and can''t be cancelled', v_refusal);
  perform set_config('lock_timeout', '0', true);
  if cancelled = 0 then
    perform awa._fail_for(v_lack);
  end if;
end
$$;
comment on function awa._expire_each is
  'Cancels expired jobs, but for those that others hold; returns how many, and of how many it had no time for';

-- Cancels expired jobs that are available, under the lock of their shard, which the caller has taken.
-- Returns how many. Leaves those that were claimed, or buried, before the lock was taken.
-- Why: no claim can begin meanwhile, so that nothing is left to be decided at the end of the transaction.
create or replace function awa._expire_ready(lane bigint, entries awa._place[]) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_buried bigint[];
  v_left awa._place[];
  v_batches cursor (buried awa._place[]) for
    select e as attempts from awa._entries_as_attempts(buried) e;
begin
  v_left := array(
    select p
      from unnest(entries) p
      left join lateral (
        select * from awa.lease_claims c where c.lane = lane order by c.lane_seq desc limit 1
      ) c on true
     where case
             when c.lane_seq is null then true
             when c.lo is null then not pg_visible_in_snapshot(p.xid, c.hi)
             else not pg_visible_in_snapshot(p.xid, c.lo)
               and not (pg_visible_in_snapshot(p.xid, c.hi) and (p.xid, p.id) <= (c.pos_xid, c.pos_id))
           end
       and (
         select true from awa.ready_tombstones t where t.lane = lane and t.xid = p.xid and t.job_id = p.id limit 1
       ) is null);
  v_buried := awa._bury(v_left, awa._new_batch(), true);
  for v_batch in v_batches(array(select p from unnest(v_left) p where p.id = any(v_buried))) loop
    perform awa._end_expired(v_batch.attempts);
  end loop;
  return cardinality(v_buried);
end
$$;
comment on function awa._expire_ready is
  'Cancels expired jobs that are available, under the lock of their shard, which the caller has taken';

