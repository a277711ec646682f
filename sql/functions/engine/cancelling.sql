-- Cancels of jobs, wherever they are. A job that an operator discards goes the same way, and is dead then.

-- Cancels a job unless it has ended; returns the state that it was in.
-- state: the one that follows, cancelled or dead. It looks where the job is, then acts there. Where the job has left
-- meanwhile, it looks again.
-- Raises JQ003; JQ005 in a state of which it does not know how to cancel it; 40001.
create or replace function awa._cancel(job_id bigint, reason text, state text default 'cancelled') returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_place awa._place;
  v_detail text;
begin
  perform awa._shorten_waits();
  for v_look in 1..10 loop
    v_place := awa._locate(job_id);
    begin
      if v_place.state = any(awa._states('ended'))
        or awa._cancel_there(array[v_place], reason, state => state) <> '{}' then
        return v_place.state;
      end if;
    exception when lock_not_available then
      get stacked diagnostics v_detail = pg_exception_detail;
      if v_detail <> '' then
        raise; -- it names the holder
      end if;
      perform awa._refuse_change(job_id);
    end;
  end loop;
  perform awa._moved_on(job_id);
end
$$;
comment on function awa._cancel is 'Cancels a job unless it has ended; returns the state that it was in';

-- Cancels jobs in these places; returns the ids of those that were still there. Leaves out those that have ended.
-- by: the login that cancels them. state: as for _cancel.
-- Locks: rows of deferred_jobs, in any order; then as _cancel_ready and _cancel_running.
-- Raises JQ005 in a state of which it does not know how to cancel the job.
create or replace function awa._cancel_there(
  places awa._place[],
  reason text,
  by text default session_user,
  state text default 'cancelled'
) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_waiting bigint[] := '{}';
  v_ready awa._place[] := '{}';
  v_running bigint[] := '{}';
  v_receipts bigint[] := '{}';
  v_place awa._place;
  v_cancelled bigint[] := '{}';
begin
  foreach v_place in array places loop
    if v_place.state = any(awa._states('deferred')) then
      v_waiting := v_waiting || v_place.id;
    elsif v_place.state = 'available' then
      v_ready := v_ready || v_place;
    elsif v_place.state = 'running' then
      v_running := v_running || v_place.id;
      v_receipts := v_receipts || v_place.receipt;
    elsif v_place.state <> all(awa._states('ended')) then
      perform awa._refuse_state(v_place.id, v_place.state, 'Jobs in this state cannot be cancelled.');
    end if;
  end loop;
  if v_waiting <> '{}' then
    v_cancelled := awa._cancel_waiting(v_waiting, reason, by, state);
  end if;
  if v_ready <> '{}' then
    v_cancelled := v_cancelled || awa._cancel_ready(v_ready, reason, by, state);
  end if;
  if v_running <> '{}' then
    v_cancelled := v_cancelled || awa._cancel_running(v_running, v_receipts, reason, by, state);
  end if;
  return v_cancelled;
end
$$;
comment on function awa._cancel_there is
  'Cancels jobs in these places; returns the ids of those that were still there. Leaves out those that have ended';

-- Cancels jobs that wait, for a time or for their groups; returns their ids.
-- by: the login that cancels them; null where they have expired. state: as for _cancel.
create or replace function awa._cancel_waiting(
  job_ids bigint[],
  reason text,
  by text default session_user,
  state text default 'cancelled'
) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_batches cursor for -- a cursor is read row by row, a query by fifty rows
    with gone as (
      delete from awa.deferred_jobs d where d.job_id = any(job_ids) returning d as job
    )
    select array_agg(b.job order by (b.job).job_id) as jobs -- in an order: otherwise they might all be hashed in memory
      from (
        select w.job,
               sum(
                 pg_column_size(w.job) + pg_column_size(array[(w.job).errors])
               ) over (rows unbounded preceding) / 67108864 as batch
          from (
            select g.job from gone g
             union all
            select l from awa._leave_lines(job_ids) l
          ) w
      ) b
     group by b.batch;
  v_gone bigint[] := '{}';
begin
  for v_batch in v_batches loop
    perform awa._change_state(array_agg(g.job_id), array_agg(g.lane), array_agg(g.unique_key), g.state, state)
       from unnest(v_batch.jobs) g
      where g.unique_key is not null
      group by g.state;
    perform awa._end_as_cancelled(
      array(select a from unnest(v_batch.jobs) g cross join lateral awa._last_attempt(g) a), reason, by,
      state);
    perform awa._note_leavers(array_agg(g.job_id), array_agg(g.lane), array_agg(g.group_key))
       from unnest(v_batch.jobs) g
      where num_nonnulls(g.attempted_at, g.errors) > 0; -- one that was put off when it should begin has errors alone
    v_gone := v_gone || array(select g.job_id from unnest(v_batch.jobs) g);
  end loop;
  return v_gone;
end
$$;
comment on function awa._cancel_waiting is
  'Cancels jobs that wait, for a time or for their groups; returns their ids';

-- Cancels available jobs; returns the ids of all that no other session had buried before.
-- A place without an xid is one in limited_jobs: the job leaves it at once. Any other job is decided when the caller
-- commits: it lets go of its unique key, and if it was claimed meanwhile, its attempt is cancelled.
-- state: as for _cancel.
-- Why: a session that has claimed a job should not have to wait.
create or replace function awa._cancel_ready(
  entries awa._place[],
  reason text,
  by text default session_user,
  state text default 'cancelled'
) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_batch bigint := awa._new_batch();
  v_limited bigint[] := array(select p.id from unnest(entries) p where p.xid is null);
  v_buried bigint[];
begin
  if v_limited <> '{}' then
    v_limited := awa._cancel_waiting(v_limited, reason, by, state);
    entries := array(select p from unnest(entries) p where p.xid is not null);
  end if;
  v_buried := awa._bury(entries, v_batch, true);
  perform awa._end_as_cancelled(e, reason, by, state),
          awa._note_leavers(array(select a.job_id from unnest(e) a), array(select a.lane from unnest(e) a),
            array(select a.group_key from unnest(e) a))
     from awa._entries_as_attempts(array(select p from unnest(entries) p where p.id = any(v_buried))) e;
  if v_buried <> '{}' then
    perform awa._decide_at_end(v_batch);
  end if;
  return v_limited || v_buried;
end
$$;
comment on function awa._cancel_ready is
  'Cancels available jobs; returns the ids of all that no other session had buried before';

-- Entries that were cancelled, as attempts that have not begun, in arrays of about 64 MB.
create or replace function awa._entries_as_attempts(entries awa._place[]) returns setof awa.leases[]
language plpgsql stable
as $$
#variable_conflict use_variable
begin
  return query
    select array_agg(b.attempt order by (b.attempt).job_id) -- in an order: otherwise they might all be hashed in memory
      from (
        select a as attempt, sum(
                 pg_column_size(a) + pg_column_size(array[a.errors])
               ) over (rows unbounded preceding) / 67108864 as batch
          from unnest(entries) p
         cross join lateral (
            select * from awa._entries e where e.lane = p.lane and e.xid = p.xid and e.job_id = p.id limit 1
          ) e
         cross join lateral awa._as_attempt(e) a
      ) b
     group by b.batch;
  raise sqlstate 'JQ999'; -- see _look_up
exception when sqlstate 'JQ999' then
  null;
end
$$;
comment on function awa._entries_as_attempts is
  'Entries that were cancelled, as attempts that have not begun, in arrays of about 64 MB';

-- Cancels open attempts; returns the ids of those jobs whose attempts were still open.
-- state: as for _cancel.
-- Locks: in the order of the _many forms: the claims, then items of the ledger, then rows of leases.
create or replace function awa._cancel_running(
  job_ids bigint[],
  receipts bigint[],
  reason text,
  by text default session_user,
  state text default 'cancelled'
) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_attempt record;
  v_batches cursor (asked bigint[]) for select l as attempts from awa._look_up_many(asked) l;
  v_job_ids bigint[] := '{}';
  v_taken bigint[] := '{}';
  v_other_jobs bigint[] := '{}';
  v_others bigint[] := '{}';
  v_found bigint[] := '{}';
begin
  perform awa._join_claim(c.claim_id, c.nth::int)
     from (
       select c.claim_id, row_number() over (order by c.claim_id) as nth
         from (select distinct r >> 12 as claim_id from unnest(receipts) r) c
        order by 1
     ) c;
  for v_attempt in select a.job_id, a.receipt from unnest(job_ids, receipts) a(job_id, receipt) order by a.receipt loop
    if (awa._close_item(v_attempt.job_id, v_attempt.receipt, 'cancelled', joined => true)).closed then
      v_job_ids := v_job_ids || v_attempt.job_id;
      v_taken := v_taken || v_attempt.receipt;
    else
      v_other_jobs := v_other_jobs || v_attempt.job_id;
      v_others := v_others || v_attempt.receipt;
    end if;
  end loop;
  for v_attempt in select a.job_id, a.receipt from unnest(v_other_jobs, v_others) a(job_id, receipt) loop
    perform from awa.leases l where l.receipt = v_attempt.receipt and l.job_id = v_attempt.job_id for update;
    if found then
      v_job_ids := v_job_ids || v_attempt.job_id;
      v_taken := v_taken || v_attempt.receipt;
    end if;
  end loop;
  for v_batch in v_batches(v_taken) loop
    perform awa._record_lost_attempts(v_batch.attempts,
      array(select coalesce(reason, 'cancelled') from unnest(v_batch.attempts)));
    perform awa._record_cancels(v_batch.attempts, reason, by => by, state => state);
    v_found := v_found || array(select a.receipt from unnest(v_batch.attempts) a);
  end loop;
  perform awa._check_found(v_taken, v_found);
  return v_job_ids;
end
$$;
comment on function awa._cancel_running is
  'Cancels open attempts; returns the ids of those jobs whose attempts were still open';
