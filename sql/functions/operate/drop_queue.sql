-- Removes a queue and its jobs; refused while it has jobs that have not ended, unless forced.
-- Removes its settings, its name, and its waiting, failed, cancelled and dead jobs. With force, its other jobs are
-- gone, too, and answers for its running jobs will be stale. Its completed jobs are no longer shown or counted. A job
-- whose transaction has not committed when all waits are over stays, and brings the queue back. All or nothing: beside
-- a job that another session cancels, or answers for, for longer than claim_wait it fails, and names the session.
-- Locks: the queue's name, its number of shards where it has several, the queue and the counts, for which it waits as
-- claim does, its claims, and its jobs' rows.
-- Raises 22023, JQ002, JQ004, JQ005, 55P03; 40001 where a job that this transaction has changed was claimed meanwhile,
-- as the commit does without a drop.
create or replace function awa.drop_queue(queue text, force boolean default false) returns void
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
  v_queue_id bigint := awa._require_queue(queue);
  v_first bigint := awa._first_lane(v_queue_id);
  v_last bigint := awa._last_lane(v_queue_id);
  v_live bigint;
  v_now pg_snapshot;
  v_batch bigint;
  v_job_ids bigint[];
  v_keys bytea[];
  v_segment smallint;
  v_changed bigint[];
begin
  perform awa._check_isolation(), awa._bound_waits();
  perform from awa.queues q where q.queue_id = v_queue_id and q.dropped_at is null for update; -- waits for settings
  perform awa._lock_shards(v_queue_id) from awa.queue_settings s where s.queue_id = v_queue_id and s.shards > 1;
  perform awa._lock_queue(v_queue_id);
  if not pg_try_advisory_xact_lock(awa._fold_key()) then
    perform awa._wait_for_lock(awa._fold_key(), false, 'the counts are locked by another session',
      'Maintenance holds them for a moment. If its transaction was left open, let it end, and try again.');
  end if;
  select awa._jobs_in(c, 'live') into v_live from awa._queue_counts(queue) c;
  if v_live > 0 and force is not true then
    raise exception using errcode = 'JQ005', message = 'the queue has jobs that have not ended',
      detail = format('%s of them.', v_live),
      hint = 'Let them end, cancel them, or pass force => true to drop them with it.';
  end if;

  v_changed := awa._stop_jobs(v_queue_id);
  perform awa._let_go_of_buried(t.batch) -- as the commit would, which does not find them then
     from (
       select distinct t.batch from awa.ready_tombstones t
        where t.by_xid = pg_current_xact_id_if_assigned() and t.lane between v_first and v_last
          and not t.cancels -- the rows of those that it has cancelled go below, with their keys
     ) t;
  v_now := awa._snapshot(); -- jobs that commit from here on stay

  -- Every cursor goes past the ready jobs, and the counts begin anew. Jobs that this transaction itself has enqueued
  -- are too young for that, and are buried.
  perform awa._let_go(array_agg(a.job_id), array_agg(substr(a.unique_key, 1, 32)))
     from awa._available a
    where a.queue_id = v_queue_id
      and a.unique_key is not null
      and (pg_visible_in_snapshot(a.xid, v_now) or a.xid = pg_current_xact_id_if_assigned());
  perform awa._forget_limits(v_queue_id);
  v_batch := awa._new_batch();
  perform awa._bury(array(
    select (a.job_id, 'available', null, a.lane, a.lane & 7, a.xid, a.segment, null)::awa._place
      from awa._available a
     where a.queue_id = v_queue_id and a.xid = pg_current_xact_id_if_assigned()), v_batch, false);
  perform awa._decide_at_end(v_batch);
  -- Nothing is left to decide about. Each delete names its segment, so that the other segments' tables are not locked.
  for v_segment in
    select distinct t.segment from awa.ready_tombstones t
     where t.by_xid = pg_current_xact_id_if_assigned() and t.lane between v_first and v_last
  loop
    delete from awa.ready_tombstones t
     where t.segment = v_segment and t.by_xid = pg_current_xact_id_if_assigned()
       and t.lane between v_first and v_last and pg_visible_in_snapshot(t.xid, v_now);
  end loop;
  perform awa._add_rollups(array(select l.lane from awa._lanes_of(v_queue_id) l));
  with cursors as materialized (
    select l.lane, awa._move_cursor(g.current_segment, l.lane, coalesce(c.lane_seq, 0) + 1, v_now) as lane_seq
      from awa._current_segment() g(current_segment)
     cross join awa._lanes_of(v_queue_id) l
      left join lateral (
        select c.lane_seq from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 1
      ) c on true
  )
  update awa.queue_rollups r
     set counted = v_now, closed_seq = c.lane_seq, open_seqs = '{}', dropped = v_now, enqueued = 0, appended = 0,
         segment_entries = '{0,0,0,0}', buried = 0, claimed = 0, completed = 0, failed = 0, cancelled = 0, dead = 0
    from cursors c
   where r.lane = c.lane;

  with deferred as (
    delete from awa.deferred_jobs d where d.lane between v_first and v_last and force returning d.job_id, d.unique_key
  ), done as (
    delete from awa.done_entries d where d.lane between v_first and v_last returning d.job_id, d.unique_key
  ), gone as (
    select * from deferred union all select * from done
  )
  select array_agg(g.job_id), array_agg(substr(g.unique_key, 1, 32)) into v_job_ids, v_keys
    from gone g where g.unique_key is not null;
  perform awa._let_go(v_job_ids, v_keys), awa._forget_statistics(v_queue_id);
  -- A job that this transaction cancelled, retried and moved goes on elsewhere, with its key.
  perform awa._change_state(array[p.id], array[p.lane], array[p.unique_key], null, p.state) -- whatever held it before
     from unnest(awa._places_of(v_changed)) p
    where p.unique_key is not null;
  -- not those that a producer is taking
  perform awa._free_keys(array(
    select u.key from awa.unique_claims u where u.held_until is not null and u.queue_id = v_queue_id
       for update skip locked));
  -- For the books: changes that other sessions made before the rows could be locked.
  update awa.queue_rollups r
     set enqueued = b.jobs - b.enqueued
    from (
      select awa._jobs_in(q, 'known') as jobs,
             (select sum(c.enqueued) from awa._lane_counts c where c.queue_id = v_queue_id)::bigint as enqueued
        from awa._queue_counts(queue) q
    ) b
   where r.lane = (select max(l.lane) from awa._lanes_of(v_queue_id) l) and b.jobs <> b.enqueued;
  update awa.queues q set dropped_at = clock_timestamp() where q.queue_id = v_queue_id and q.dropped_at is null;
  delete from awa.queue_settings s where s.queue_id = v_queue_id;
  perform awa._note_change('drop_queue', jsonb_build_object('queue', queue), jsonb_build_object('force', force), 0);
end
$$;
comment on function awa.drop_queue is
  'Removes a queue and its jobs; refused while it has jobs that have not ended, unless forced';

-- Locks the waiting and ended jobs of a queue, and ends its open attempts.
-- Also attempts of jobs that this transaction has cancelled while they were available, and another session has claimed
-- since.
-- Returns the ids of these.
-- Raises 55P03; 40001 where such a job was answered, or this transaction has moved it or put it off.
-- Why: a session that is changing a job now, or answering for it, may leave it in another state. This one waits for it
-- before it decides which jobs go.
create or replace function awa._stop_jobs(queue_id bigint) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_first bigint := awa._first_lane(queue_id);
  v_last bigint := awa._last_lane(queue_id);
  v_taken record;
  v_undecided bigint[] := '{}';
  v_cancelled bigint[];
  v_detail text;
begin
  -- Lines first: a job that leaves one while this waits is deferred, or has ended, then.
  perform from awa.limited_jobs w where w.shard between queue_id << 6 and queue_id << 6 | 63 for update;
  perform from awa.deferred_jobs d where d.lane between v_first and v_last for update;
  perform from awa.done_entries d where d.lane between v_first and v_last for update;
  -- A job that this transaction buried, and another session claimed meanwhile, is decided now, as in _resolve_change.
  for v_taken in
    select t.segment, t.lane, t.xid, t.job_id, t.cancels
      from awa.ready_tombstones t
     cross join lateral awa._claim_of(t.lane, t.xid, t.job_id) c
     where t.by_xid = pg_current_xact_id_if_assigned() and t.lane between v_first and v_last
  loop
    if not v_taken.cancels then
      perform awa._moved_on(v_taken.job_id);
    end if;
    v_undecided := v_undecided || v_taken.job_id;
    delete from awa.ready_tombstones t -- so that its attempt is an open one, here as for others
     where t.segment = v_taken.segment and t.lane = v_taken.lane and t.xid = v_taken.xid and t.job_id = v_taken.job_id;
  end loop;
  select awa._cancel_running(array_agg(r.job_id), array_agg(r.receipt), 'the queue was dropped') into v_cancelled
    from awa._running r
   where r.queue_id = queue_id;
  perform awa._moved_on(j) -- it was answered: it may be anywhere
     from unnest(v_undecided) j
    where j <> all(v_cancelled)
      and (
        select true from awa.limited_jobs w where w.job_id = j and w.shard between queue_id << 6 and queue_id << 6 | 63
      ) is null;
  return v_undecided;
exception when lock_not_available then
  get stacked diagnostics v_detail = pg_exception_detail;
  if v_detail <> '' then
    raise; -- it names the holder
  end if;
  perform awa._refuse_wait(
    array['awa.limited_jobs', 'awa.deferred_jobs', 'awa.done_entries', 'awa.leases',
      'awa.lease_claim_closures']::regclass[],
    'jobs of the queue are being changed by another session',
    'A session cancels one, or answers for it, in a transaction that lasts: let that end, and try again.');
end
$$;
comment on function awa._stop_jobs is 'Locks the waiting and ended jobs of a queue, and ends its open attempts';
