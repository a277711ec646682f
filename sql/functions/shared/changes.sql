-- Changes of jobs from outside: where a job is, and entries that must not be claimed any more.

-- Refuses a change of no job, and the wrong isolation level.
create or replace function awa._check_change(job_id bigint) returns void
language plpgsql
as $$
begin
  if job_id is null then
    perform awa._refuse('job_id must not be null', null, 'Pass the id that enqueue returned.');
  end if;
  perform awa._check_isolation();
end
$$;
comment on function awa._check_change is 'Refuses a change of no job, and the wrong isolation level';

-- Where a job is: its state, and its place there. Raises JQ003.
create or replace function awa._locate(job_id bigint) returns awa._place
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_place awa._place;
begin
  select * into v_place from awa._place p where p.id = job_id;
  if not found then
    raise exception using errcode = 'JQ003', message = 'no such job', detail = format('Got %s.', job_id),
      hint = 'It was never enqueued, or it has ended and is not kept any more.';
  end if;
  return v_place;
end
$$;
comment on function awa._locate is 'Where a job is, or JQ003';

-- Raises JQ005.
create or replace function awa._refuse_state(job_id bigint, state text, hint text) returns void
language plpgsql
as $$
begin
  raise exception using errcode = 'JQ005', message = 'the job''s state does not allow this change', detail = format('Job %s is %s.', job_id, state), hint = hint;
end
$$;
comment on function awa._refuse_state is 'Raises JQ005';

-- Raises 23505.
create or replace function awa._refuse_key(job_id bigint, key bytea) returns void
language plpgsql
as $$
begin
  raise exception using errcode = '23505', message = 'another job holds the job''s unique key',
    detail = (select format('Job %s holds the key of job %s.', h.job_id, _refuse_key.job_id) from awa._holder(key) h),
    hint = 'Wait until that one has ended, and its period is over where the key has one; or cancel it.';
end
$$;
comment on function awa._refuse_key is 'Raises 23505';

-- Raises 40001.
create or replace function awa._moved_on(job_id bigint) returns void
language plpgsql
as $$
begin
  raise exception using errcode = '40001', message = 'the job moved on meanwhile', detail = format('Somebody else was changing job %s.', job_id),
    hint = 'Try again: the next call sees the job''s new state.';
end
$$;
comment on function awa._moved_on is 'Raises 40001';

-- From here on no lock of this transaction is waited for longer than a claim would be. The calling function has to have a SET clause for lock_timeout.
create or replace function awa._bound_waits() returns void
language sql
as $$ select set_config('lock_timeout', awa._milliseconds(s.claim_wait), true) from awa.settings s $$;
comment on function awa._bound_waits is 'Bounds the waits for locks of the calling function';

-- Buries entries: no claim takes them any more once the caller commits. Returns the ids of those that nobody else has buried. The caller has to add the batch to
-- decisions when it has written all that belongs to it.
create or replace function awa._bury(places awa._place[], batch bigint, cancels boolean) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_buried bigint[];
begin
  perform awa._current_segment(); -- in a restored database, places mean nothing
  with buried as (
    insert into awa.ready_tombstones (segment, lane, xid, job_id, batch, cancels)
    select p.segment, p.lane, p.xid, p.id, batch, cancels from unnest(places) p order by p.lane, p.xid, p.id
    on conflict do nothing
    returning ready_tombstones.job_id
  )
  select array_agg(b.job_id) into v_buried from buried b;
  return coalesce(v_buried, '{}');
end
$$;
comment on function awa._bury is 'Buries entries; returns the ids of those that were not buried before';

-- Gives an heir, at the end of its transaction, the unique key that the job before it has let go of; unless the heir has left by then, too. It has asked after the transaction began. Fails with 40001 where another job has taken the key: the one before it
-- was claimed meanwhile, and did not hold it while it ran.
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
  select substr(p.unique_key, 1, 32) into v_key from awa._place p where p.id = new.heir_id and awa._holds(p.unique_key, p.state);
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
comment on function awa._inherit is 'Gives an heir, at the end of its transaction, its unique key';

-- Decides, at the end of a transaction that has buried entries, what becomes of those that were claimed meanwhile. One that nobody claimed stays buried. Where the job was to be
-- cancelled, its open attempt is closed. Otherwise the transaction fails with 40001. A session that decides before the end of its transaction may not stay idle in it for more than a second.
-- Locks: all queues in which the transaction has buried anything, in the order of their ids, and the claims of such entries, shared; until the commit, which follows at once.
create or replace function awa._decide() returns trigger
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
  v_taken record;
  v_claims int := 0;
  v_last bigint;
  v_closed boolean;
  v_state text;
  v_attempts awa.leases[];
  v_job_ids bigint[];
  v_keys bytea[];
begin
  delete from awa.decisions d where d.batch = new.batch;
  perform awa._end_when_idle();
  perform awa._lock_queue(q.queue_id)
     from (select distinct t.lane >> 3 as queue_id from awa.ready_tombstones t where t.by_xid = pg_current_xact_id() order by 1) q;
  perform awa._moved_on(t.job_id)
     from (select t.* from awa.ready_tombstones t where t.by_xid = pg_current_xact_id() and t.batch = new.batch offset 0) t
     join awa.queue_rollups r on r.lane = t.lane
    where pg_visible_in_snapshot(t.xid, r.dropped); -- its queue was dropped with it
  -- Somebody else has buried it, and cleaning has put its entry, or a tombstone, into another segment: no unique index spans these.
  perform awa._moved_on(t.job_id)
     from (select t.* from awa.ready_tombstones t where t.by_xid = pg_current_xact_id() and t.batch = new.batch offset 0) t
    where (select true from awa.ready_tombstones o where o.lane = t.lane and o.xid = t.xid and o.job_id = t.job_id and o.by_xid <> t.by_xid limit 1);
  perform set_config('lock_timeout', '100', true); -- nobody waits for the queue longer than this
  for v_taken in
    select t.*, c.claim_id, c.receipt
      from (select t.* from awa.ready_tombstones t where t.by_xid = pg_current_xact_id() and t.batch = new.batch offset 0) t
     cross join lateral (
        select c.lo, c.hi, c.pos_xid, c.pos_id from awa.lease_claims c where c.lane = t.lane order by c.lane_seq desc limit 1
      ) cursor
     cross join lateral (
        select c.claim_id, c.claim_id << 12 | (array_position(c.job_ids, t.job_id) - 1) as receipt
          from awa.lease_claims c
         where case
                 when cursor.lo is null then pg_visible_in_snapshot(t.xid, cursor.hi)
                 else pg_visible_in_snapshot(t.xid, cursor.lo)
                   or pg_visible_in_snapshot(t.xid, cursor.hi) and (t.xid, t.job_id) <= (cursor.pos_xid, cursor.pos_id)
               end
           and c.lane = t.lane
           and (c.pos_xid, c.pos_id) >= (t.xid, t.job_id)
           and (c.first_xid, c.first_id) <= (t.xid, t.job_id)
           and pg_visible_in_snapshot(t.xid, c.hi)
           and t.job_id = any(c.job_ids)
         order by c.pos_xid, c.pos_id
         limit 1
      ) c
     order by c.claim_id
  loop
    v_claims := v_claims + (v_taken.claim_id is distinct from v_last)::int;
    v_last := v_taken.claim_id;
    if not v_taken.cancels or not awa._try_join_claim(v_taken.claim_id, v_claims) then
      perform awa._moved_on(v_taken.job_id);
    end if;
    begin
      v_closed := (awa._close_item(v_taken.job_id, v_taken.receipt, 'cancelled', joined => true)).closed;
      if not v_closed then
        perform from awa.leases l where l.receipt = v_taken.receipt for update;
        v_closed := found;
      end if;
    exception when lock_not_available then
      v_closed := false;
    end;
    if not v_closed then
      perform awa._moved_on(v_taken.job_id);
    end if;
    delete from awa.ready_tombstones t where t.segment = v_taken.segment and t.lane = v_taken.lane and t.xid = v_taken.xid and t.job_id = v_taken.job_id; -- the other segments' tables are not locked
    v_attempts := awa._look_up(array[v_taken.receipt]);
    update awa.done_entries d
       set receipt = a.receipt, worker_id = a.worker_id, attempted_at = a.claimed_at, attempt = a.attempt
      from unnest(v_attempts) a
     where d.job_id = v_taken.job_id and d.state = 'cancelled';
    -- A job that this transaction cancelled and then retried goes on.
    v_state := case when found then 'cancelled' else 'available' end;
    perform awa._lose(v_attempts, '{cancelled}');
    perform awa._end_attempts(v_attempts, v_state);
  end loop;

  select array_agg(d.job_id), array_agg(d.unique_key) into v_job_ids, v_keys
    from (select * from awa.ready_tombstones t where t.by_xid = pg_current_xact_id() and t.batch = new.batch and t.cancels offset 0) t
   cross join lateral (
      select * from awa.done_entries d where d.job_id = t.job_id and d.state = 'cancelled' and d.unique_key is not null limit 1
    ) d;
  perform awa._move_keys(v_job_ids, v_keys, 'available', 'cancelled');
  -- Keys of the queues that jobs have left.
  perform awa._let_go(array_agg(t.job_id), array_agg(substr(e.unique_key, 1, 32)))
     from (select * from awa.ready_tombstones t where t.by_xid = pg_current_xact_id() and t.batch = new.batch and not t.cancels offset 0) t
    cross join lateral (
       select e.unique_key from awa._entries e where e.lane = t.lane and e.xid = t.xid and e.job_id = t.job_id limit 1
     ) e
    where case when awa._names_queue(e.unique_key) then not awa._is_holder(t.job_id, substr(e.unique_key, 1, 32)) else false end;
  return null;
end
$$;
comment on function awa._decide is 'Decides, at commit, what becomes of buried entries that were claimed meanwhile';

-- Has the server end this session when it stays idle in this transaction for a second. Where a transaction decides before its end (set constraints all immediate), it holds the queues from then on, and must not be left open.
create or replace function awa._end_when_idle() returns void
language plpgsql
as $$
begin
  if current_setting('idle_in_transaction_session_timeout')::interval not between '1 millisecond' and '1 second' then
    perform set_config('idle_in_transaction_session_timeout', '1s', true);
  end if;
end
$$;
comment on function awa._end_when_idle is 'Has the server end this session when it stays idle in this transaction for a second';

-- Not for rows that a restore or a subscription brings: these were decided elsewhere, and a role that applies a subscription may not run deferred triggers.
-- Always, also in a session that takes itself for a replica: otherwise a job that it cancels is claimed, and runs.
do $$
begin
  if (select count(*) from pg_trigger t where t.tgrelid in ('awa.decisions'::regclass, 'awa.heirs'::regclass) and t.tgname in ('decide', 'inherit') and t.tgenabled = 'A') < 2 then
    drop trigger if exists decide on awa.decisions;
    drop trigger if exists inherit on awa.heirs;
    create constraint trigger decide after insert on awa.decisions deferrable initially deferred
      for each row when (new.xid = pg_current_xact_id()) execute function awa._decide();
    create constraint trigger inherit after insert on awa.heirs deferrable initially deferred
      for each row when (new.xid = pg_current_xact_id()) execute function awa._inherit();
    alter table awa.decisions enable always trigger decide;
    alter table awa.heirs enable always trigger inherit;
  end if;
end
$$;

-- Notes for the workers of attempts, if they are registered, that they have lost them: with a reason for each.
create or replace function awa._lose(attempts awa.leases[], reasons text[]) returns void
language plpgsql
as $$
declare
  v_workers bigint[];
begin
  with lost as (
    insert into awa.heartbeat_replies (worker_id, receipt, job_id, reason)
    select a.worker_id, a.receipt, a.job_id, left(reasons[a.ordinality], 20000)
      from unnest(attempts) with ordinality a
     where exists (select from awa.workers w where w.worker_id = a.worker_id)
    on conflict do nothing
    returning heartbeat_replies.worker_id
  )
  select array_agg(distinct l.worker_id) into v_workers from lost l;
  perform awa._notify('awa_lost', w::text) from unnest(v_workers) w;
end
$$;
comment on function awa._lose is 'Notes for the workers of attempts that they have lost them';
