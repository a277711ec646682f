-- Changes of jobs from outside, about which their transaction decides at its end.

-- Buries entries; returns the ids of those that were still there, and not buried before.
-- No claim takes them any more once the caller commits. The caller has to call _decide_at_end with the batch, once it
-- has written all that belongs to it.
-- Locks: the tables of their segments, so that these are not truncated before the caller has committed.
create or replace function awa._bury(entries awa._place[], batch bigint, cancels boolean) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_segment smallint;
  v_buried bigint[] := '{}';
begin
  perform awa._current_segment(); -- in a restored database, places mean nothing
  for v_segment in select distinct p.segment from unnest(entries) p order by 1 loop
    with buried as (
      insert into awa.ready_tombstones (segment, lane, xid, job_id, batch, cancels)
      select p.segment, p.lane, p.xid, p.id, batch, cancels
        from unnest(entries) p
       where p.segment = v_segment
         and (
           select true
             from awa.ready_entries e
            where e.segment = v_segment and e.lane = p.lane and e.xid = p.xid and e.job_id = p.id
            limit 1
         )
       order by p.lane, p.xid, p.id
      on conflict do nothing
      returning ready_tombstones.job_id
    )
    select v_buried || array_agg(b.job_id) into v_buried from buried b;
  end loop;
  perform awa._use_lanes(array(select distinct p.lane from unnest(entries) p), buried => true);
  return v_buried;
end
$$;
comment on function awa._bury is
  'Buries entries; returns the ids of those that were still there, and not buried before';

-- A number for a batch of buried entries, which no other batch has.
create or replace function awa._new_batch() returns bigint
language sql volatile
return nextval('awa.claim_ids');
comment on function awa._new_batch is 'A number for a batch of buried entries, which no other batch has';

-- Has this transaction decide at its end about a batch of buried entries: some may have been claimed meanwhile.
-- At once, where the caller has set its constraints to immediate.
-- Raises as _resolve_change does, then.
create or replace function awa._decide_at_end(batch bigint) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.pending_changes (batch) values (batch);
end
$$;
comment on function awa._decide_at_end is
  'Has this transaction decide at its end about a batch of buried entries: some may have been claimed meanwhile';

-- Gives an heir, at the end of its transaction, the unique key that the job before it has let go of.
-- Unless the heir has left by then, too. It has asked after the transaction began.
-- Locks: the key, until the transaction ends; waits for it for 100 ms.
-- Raises 40001 where another job has taken the key: the one before it was claimed meanwhile, and did not hold it while
-- it ran.
create or replace function awa._inherit() returns trigger
language plpgsql
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
declare
  v_key bytea;
  v_taken boolean;
begin
  delete from awa.heirs h where h.xid = new.xid and h.job_id = new.job_id;
  perform set_config('lock_timeout', '100', true);
  select substr(p.unique_key, 1, 32) into v_key
    from awa._place p
   where p.id = new.heir_id and awa._holds(p.unique_key, p.state);
  if found then
    begin
      v_taken := (awa._take_key(v_key, true, new.heir_id, transaction_timestamp())).taken;
    exception when lock_not_available then
      null;
    end;
    if v_taken is not true then
      perform awa._moved_on(new.heir_id);
    end if;
  end if;
  return null;
end
$$;
comment on function awa._inherit is
  'Gives an heir, at the end of its transaction, the unique key that the job before it has let go of';

-- The tombstones that this transaction has written in a batch.
-- Why: fenced off, so that the joins of its caller begin with these few rows.
create or replace function awa._buried_now(batch bigint) returns setof awa.ready_tombstones
language sql stable
as $$
  select t.*
    from awa.ready_tombstones t
   where t.by_xid = pg_current_xact_id() and t.batch = _buried_now.batch
  offset 0
$$;
comment on function awa._buried_now is 'The tombstones that this transaction has written in a batch';

-- Lets go of the unique keys of buried jobs, at the end of the transaction that has written a batch of tombstones.
-- These are the keys of jobs that it has cancelled, the keys of queues that jobs have left, and keys that jobs do not
-- hold while they are scheduled.
create or replace function awa._let_go_of_buried(batch bigint) returns void
language plpgsql
as $$
begin
  perform awa._change_state(array_agg(d.job_id), array_agg(d.lane), array_agg(d.unique_key), 'available', d.state)
     from awa._buried_now(batch) t
    cross join lateral (
       select *
         from awa.done_entries d
        where t.cancels and d.job_id = t.job_id and awa._is_cancel(d.state, d.receipt) and d.unique_key is not null
        limit 1
     ) d
    group by d.state;
  -- Keys that jobs may have left behind.
  perform awa._let_go(array_agg(t.job_id), array_agg(substr(e.unique_key, 1, 32)))
     from awa._buried_now(batch) t
    cross join lateral (
       select e.unique_key
         from awa._entries e
        where not t.cancels and e.lane = t.lane and e.xid = t.xid and e.job_id = t.job_id
        limit 1
     ) e
    where case
      when e.unique_key is null then false
      when awa._names_queue(e.unique_key) or not awa._holds(e.unique_key, 'scheduled')
        then not awa._is_holder(t.job_id, substr(e.unique_key, 1, 32))
      else false
    end;
end
$$;
comment on function awa._let_go_of_buried is
  'Lets go of the unique keys of buried jobs, at the end of the transaction that has written a batch of tombstones';

-- Whether a row of done_entries is that of a job that was cancelled, or discarded by an operator, before an attempt.
create or replace function awa._is_cancel(state text, receipt bigint) returns boolean
language sql immutable
return state = 'cancelled' or state = 'dead' and receipt is null;
comment on function awa._is_cancel is
  'Whether a row of done_entries is that of a job that was cancelled, or discarded by an operator, before an attempt';

-- Decides, at the end of a transaction that has buried entries, about those that were claimed meanwhile.
-- An entry that was not claimed stays buried. Where the job was to be cancelled, its open attempt is closed, or it
-- leaves the line of its group. Otherwise the transaction fails. A session that decides before the end of its
-- transaction may not stay idle in it for more than a second. Where the transaction has buried many entries of a lane,
-- the lane's cursor moves past those at its head.
-- Locks: all shards in which the transaction has buried entries, in the order of their ids, and the claims of such
-- entries, shared, and rows of limited_jobs; until the commit, which follows at once.
-- Raises 40001.
create or replace function awa._resolve_change() returns trigger
language plpgsql
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
  v_all record;
  v_taken record;
  v_claims int := 0;
  v_last bigint;
  v_closed boolean;
  v_is_aside boolean;
  v_state text;
  v_attempts awa.leases[];
begin
  delete from awa.pending_changes d where d.batch = new.batch;
  perform awa._end_when_idle();
  select array_agg(distinct awa._shard_of(t.lane) order by awa._shard_of(t.lane)) as shards,
         count(*) filter (where t.batch = new.batch) as buried
    into v_all
    from awa.ready_tombstones t
   where t.by_xid = pg_current_xact_id();
  perform awa._lock_each_shard(coalesce(v_all.shards, '{}'));
  perform awa._moved_on(t.job_id)
     from awa._buried_now(new.batch) t
     join awa.queue_rollups r on r.lane = t.lane
    where pg_visible_in_snapshot(t.xid, r.dropped); -- its queue was dropped with it
  -- Another session has buried it, and cleaning has put its entry, or a tombstone, into another segment: no unique
  -- index spans these.
  perform awa._moved_on(t.job_id)
     from awa._buried_now(new.batch) t
    where (
       select true
         from awa.ready_tombstones o
        where o.lane = t.lane and o.xid = t.xid and o.job_id = t.job_id and o.by_xid <> t.by_xid
        limit 1
     );
  perform set_config('lock_timeout', '100', true); -- no session waits for the queue longer than this
  for v_taken in
    select t.*, c.claim_id, c.receipt
      from awa._buried_now(new.batch) t
     cross join lateral awa._claim_of(t.lane, t.xid, t.job_id) c
     order by c.claim_id
  loop
    v_claims := v_claims + (v_taken.claim_id is distinct from v_last)::int;
    v_last := v_taken.claim_id;
    if not v_taken.cancels or not awa._try_join_claim(v_taken.claim_id, v_claims) then
      perform awa._moved_on(v_taken.job_id);
    end if;
    begin
      v_closed := (awa._close_item(v_taken.job_id, v_taken.receipt, 'cancelled', joined => true)).closed;
      v_is_aside := false;
      if not v_closed then
        perform from awa.leases l where l.receipt = v_taken.receipt for update;
        v_is_aside := not found and awa._cancel_put_aside(v_taken.job_id);
        v_closed := found or v_is_aside;
      end if;
    exception when lock_not_available then
      v_closed := false;
    end;
    if not v_closed then
      perform awa._moved_on(v_taken.job_id);
    end if;
    -- the other segments' tables are not locked
    delete from awa.ready_tombstones t
     where t.segment = v_taken.segment and t.lane = v_taken.lane and t.xid = v_taken.xid and t.job_id = v_taken.job_id;
    continue when v_is_aside; -- it never began
    v_attempts := awa._look_up(array[v_taken.receipt]);
    with ended as (
      update awa.done_entries d
         set receipt = a.receipt, worker_id = a.worker_id, attempted_at = a.claimed_at, attempt = a.attempt
        from unnest(v_attempts) a
       where d.job_id = v_taken.job_id and awa._is_cancel(d.state, d.receipt)
      returning d.state
    )
    -- A job that this transaction cancelled and then retried goes on.
    select coalesce(max(e.state), 'available') into v_state from ended e;
    perform awa._record_lost_attempts(v_attempts,
      array[case when v_state = 'dead' then 'discarded' else 'cancelled' end]);
    perform awa._end_attempts(v_attempts, v_state, holds_group => v_state = 'available');
  end loop;

  perform awa._let_go_of_buried(new.batch);
  if v_all.buried >= 100 then -- not for those that are cancelled one by one
    perform awa._pass_buried(l.lane, 2 * l.entries)
       from (
         select t.lane, count(*)::int as entries
           from awa._buried_now(new.batch) t
          group by t.lane
         having count(*) >= 100
          order by t.lane
       ) l;
  end if;
  return null;
end
$$;
comment on function awa._resolve_change is
  'Decides, at the end of a transaction that has buried entries, about those that were claimed meanwhile';

-- Not for rows that a restore or a subscription brings: these were decided elsewhere, and a role that applies a
-- subscription may not run deferred triggers.
-- Always, also in a session that takes itself for a replica: otherwise a job that it cancels is claimed, and runs.
do $$
begin
  if (
    select count(*)
      from pg_trigger t
     where t.tgrelid in ('awa.pending_changes'::regclass, 'awa.heirs'::regclass)
       and t.tgname in ('resolve', 'inherit')
       and t.tgenabled = 'A'
  ) < 2 then
    drop trigger if exists resolve on awa.pending_changes;
    drop trigger if exists inherit on awa.heirs;
    create constraint trigger resolve after insert on awa.pending_changes deferrable initially deferred
      for each row when (new.xid = pg_current_xact_id()) execute function awa._resolve_change();
    create constraint trigger inherit after insert on awa.heirs deferrable initially deferred
      for each row when (new.xid = pg_current_xact_id()) execute function awa._inherit();
    alter table awa.pending_changes enable always trigger resolve;
    alter table awa.heirs enable always trigger inherit;
  end if;
end
$$;
