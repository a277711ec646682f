-- Jobs that were not begun in time.

-- Whether a job that waits has expired: its expires_at has passed, and no attempt that counts has begun.
-- attempt is the number of the attempt to come.
create or replace function awa._is_expired(expires_at timestamptz, attempt smallint, now timestamptz) returns boolean
language sql immutable parallel safe
return coalesce(expires_at <= now and attempt = 1, false);
comment on function awa._is_expired is
  'Whether a job that waits has expired: its expires_at has passed, and no attempt that counts has begun';

-- Cancels items of a claim that the caller has just appended, since their jobs have expired.
-- In parts, each twice as large as the one before, up to 32, until a second after began_at, when the call began; after
-- an error, where it takes one again, for a tenth of a second. A job whose end the server refuses to store, because of
-- a user's trigger, is put off, as promote_due does it. Where it can't be put off either, where the server lacks a
-- resource, where another session is in the way for more than milliseconds, or where the time is over, it is left to
-- rescue (_keep_expired).
-- Changes lock_timeout: the calling function has to have a SET clause for it.
-- Why: the claim must not fail for that job, and must not hand it out. A claim that takes as long as a slow trigger
-- needs for a thousand jobs would be cut off by a statement_timeout, and so would the next one, at the same place.
create or replace function awa._expire_claimed(receipts bigint[], began_at timestamptz) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_until timestamptz := awa._step_end(began_at, '1 second', 4);
  v_at int := 1;
  v_many int := 1;
  v_receipt bigint;
  v_refusal text;
  v_refused bigint[] := '{}';
  v_kept bigint[] := '{}';
  v_error text;
  v_has_failed boolean := false; -- there was an error
begin
  perform set_config('lock_timeout', '10', true);
  while v_at <= cardinality(receipts) and (v_at = 1 or clock_timestamp() < v_until) loop
    begin
      perform awa._expire_items(receipts[v_at : v_at + v_many - 1]);
      v_at := v_at + v_many;
      v_many := least(v_many * 2, 32);
    exception when others then
      if not awa._is_about_a_row(sqlstate) then
        raise;
      end if;
      perform set_config('lock_timeout', '1', true);
      if not v_has_failed then
        v_until := least(v_until, clock_timestamp() + interval '100 milliseconds');
        v_has_failed := true;
      end if;
      if v_many > 1 then
        v_many := 1;
        continue;
      end if;
      v_receipt := receipts[v_at];
      v_at := v_at + 1;
      v_refusal := awa._refusal(sqlerrm, sqlstate);
      v_error := coalesce(v_error, v_refusal);
      if awa._is_passing(sqlstate) or awa._lack(sqlerrm, sqlstate) is not null then
        v_kept := v_kept || v_receipt;
      else
        v_refused := v_refused || v_receipt;
        begin
          perform awa._put_off_expired(v_receipt, v_refusal);
        exception when others then
          if not awa._is_about_a_row(sqlstate) then
            raise;
          end if;
          perform awa._keep_expired(array[v_receipt], v_refusal, began_at);
        end;
      end if;
    end;
  end loop;
  v_kept := v_kept || receipts[v_at:];
  perform awa._keep_expired(v_kept, null, began_at) where v_kept <> '{}';
  perform awa._warn_refused(awa._jobs_of(v_refused), 'has expired, and can''t be cancelled', v_error)
    where v_refused <> '{}';
  perform set_config('lock_timeout', '0', true);
end
$$;
comment on function awa._expire_claimed is
  'Cancels items of a claim that the caller has just appended, since their jobs have expired';

-- The jobs of some receipts of one claim, in their order.
create or replace function awa._jobs_of(receipts bigint[]) returns bigint[]
language sql stable
return array(
  select c.job_ids[(r & 4095) + 1]
    from awa.lease_claims c
   cross join unnest(receipts) with ordinality u(r, n)
   where c.claim_id = receipts[1] >> 12
   order by u.n);
comment on function awa._jobs_of is 'The jobs of some receipts of one claim, in their order';

-- Leaves the jobs of items of a claim that have expired, and could not be cancelled, to rescue: as attempts of nobody.
-- These have lease rows, and no slots. Where a row is refused, too, or two seconds are over since began_at, the item
-- stays open, and materialize tries it again. In parts as _expire_claimed does it.
-- Why: an item that has passed the cursor is claimed, or it is lost.
create or replace function awa._keep_expired(receipts bigint[], error text, began_at timestamptz) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_until timestamptz := awa._step_end(began_at, '2 seconds', 2);
  v_at int := 1;
  v_many int := 1;
  v_open bigint[] := '{}';
begin
  while v_at <= cardinality(receipts) and (v_at = 1 or clock_timestamp() < v_until) loop
    begin
      perform awa._lease_expired(receipts[v_at : v_at + v_many - 1], error);
      v_at := v_at + v_many;
      v_many := least(v_many * 2, 32);
    exception when others then
      if not awa._is_about_a_row(sqlstate) then
        raise;
      end if;
      if v_many = 1 then
        v_open := v_open || receipts[v_at];
        v_at := v_at + 1;
      end if;
      v_many := 1;
    end;
  end loop;
  v_open := v_open || receipts[v_at:];
  begin
    perform awa._let_groups_go(l) from awa._look_up_many(v_open) l where v_open <> '{}';
  exception when others then
    if not awa._is_about_a_row(sqlstate) then
      raise;
    end if;
  end;
end
$$;
comment on function awa._keep_expired is
  'Leaves the jobs of items of a claim that have expired, and could not be cancelled, to rescue: as attempts of nobody';

-- Gives items of a claim that have expired rows in leases, of ten seconds, of no worker.
create or replace function awa._lease_expired(receipts bigint[], error text) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_batches cursor for select l as attempts from awa._look_up_many(receipts) l;
begin
  perform awa._take_items(receipts, 'materialized', begun => false);
  for v_batch in v_batches loop
    perform awa._lease(array(select awa._kept(a, error) from unnest(v_batch.attempts) a));
    perform awa._change_state(array_agg(a.job_id), array_agg(a.lane), array_agg(a.unique_key), 'available', 'running')
       from unnest(v_batch.attempts) a
      where a.unique_key is not null;
    perform awa._let_groups_go(v_batch.attempts);
  end loop;
end
$$;
comment on function awa._lease_expired is
  'Gives items of a claim that have expired rows in leases, of ten seconds, of no worker';

-- Lets go of the groups of jobs that have expired, and can't be ended.
-- Why: such a job may have been given back, and hold its group, which must not wait for its end.
create or replace function awa._let_groups_go(attempts awa.leases[]) returns void
language plpgsql
as $$
begin
  perform awa._note_leavers(array_agg(a.job_id), array_agg(a.lane), array_agg(a.group_key)) from unnest(attempts) a;
end
$$;
comment on function awa._let_groups_go is 'Lets go of the groups of jobs that have expired, and can''t be ended';

-- An attempt of a claim, as one of nobody that rescue ends in ten seconds.
create or replace function awa._kept(attempt awa.leases, error text) returns awa.leases
language plpgsql volatile
as $$
begin
  attempt.lease := '10 seconds';
  attempt.lease_until := clock_timestamp() + attempt.lease;
  attempt.deadline_at := null;
  attempt.worker_id := null;
  attempt.errors := case when error is null then attempt.errors else awa._add_put_off(attempt, error) end;
  return attempt;
end
$$;
comment on function awa._kept is 'An attempt of a claim, as one of nobody that rescue ends in ten seconds';

-- Whether an attempt has never begun: a claim has met its job when it had expired, and could not cancel it.
create or replace function awa._is_kept(attempt awa.leases) returns boolean
language sql immutable
as $$ select awa._is_expired(attempt.expires_at, attempt.attempt, attempt.claimed_at) $$;
comment on function awa._is_kept is
  'Whether an attempt has never begun: a claim has met its job when it had expired, and could not cancel it';

-- The errors of a job that has expired, with one more: that to cancel it was refused.
create or replace function awa._add_put_off(attempt awa.leases, error text) returns jsonb
language sql volatile
as $$
  select jsonb_set(awa._add_error(attempt.errors, attempt.attempt - 1, 'to cancel it was refused: ' || error),
           '{-1,put_off}', 'true')
$$;
comment on function awa._add_put_off is
  'The errors of a job that has expired, with one more: that to cancel it was refused';

-- Closes items of a claim, and writes the ends of their jobs.
-- The jobs have never been anybody's: they keep no receipt, and no attempt counts.
create or replace function awa._expire_items(receipts bigint[]) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_batches cursor for select l as attempts from awa._look_up_many(receipts) l;
begin
  perform awa._take_items(receipts, 'cancelled', begun => false);
  for v_batch in v_batches loop
    perform awa._end_expired(array(select awa._unbegun(a) from unnest(v_batch.attempts) a));
  end loop;
end
$$;
comment on function awa._expire_items is 'Closes items of a claim, and writes the ends of their jobs';

-- Puts off the job of an item of a claim that has expired, since the server refuses to store its end.
create or replace function awa._put_off_expired(receipt bigint, error text) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_attempts awa.leases[];
begin
  perform awa._take_items(array[receipt], 'snoozed', begun => false);
  v_attempts := awa._look_up(array[receipt]);
  perform awa._defer_expired(v_attempts, error);
  perform awa._change_state(array_agg(a.job_id), array_agg(a.lane), array_agg(a.unique_key), 'available', 'scheduled')
     from unnest(v_attempts) a
    where a.unique_key is not null;
end
$$;
comment on function awa._put_off_expired is
  'Puts off the job of an item of a claim that has expired, since the server refuses to store its end';

-- Writes the rows of jobs that have expired, and that are put off, since the server refuses to store their ends.
create or replace function awa._defer_expired(attempts awa.leases[], error text) returns void
language plpgsql
as $$
begin
  perform awa._defer(attempts, 'scheduled',
    array(select clock_timestamp() + awa._put_off_delay(a.errors) from unnest(attempts) a),
    array(select awa._add_put_off(a, error) from unnest(attempts) a));
  perform awa._let_groups_go(attempts);
end
$$;
comment on function awa._defer_expired is
  'Writes the rows of jobs that have expired, and that are put off, since the server refuses to store their ends';

-- An attempt of a claim, as one that has not begun.
create or replace function awa._unbegun(attempt awa.leases) returns awa.leases
language plpgsql immutable
as $$
begin
  attempt.receipt := null;
  attempt.claimed_at := null;
  attempt.lease := null;
  attempt.lease_until := null;
  attempt.deadline_at := null;
  attempt.worker_id := null;
  attempt.attempt := attempt.attempt - 1;
  return attempt;
end
$$;
comment on function awa._unbegun is 'An attempt of a claim, as one that has not begun';

-- Writes the ends of available jobs that have expired, and lets go of their keys and groups.
create or replace function awa._end_expired(attempts awa.leases[]) returns void
language plpgsql
as $$
begin
  perform awa._end_as_cancelled(attempts, 'expired', null);
  perform awa._change_state(array_agg(a.job_id), array_agg(a.lane), array_agg(a.unique_key), 'available', 'cancelled')
     from unnest(attempts) a
    where a.unique_key is not null;
  perform awa._note_leavers(array_agg(a.job_id), array_agg(a.lane), array_agg(a.group_key)) from unnest(attempts) a;
end
$$;
comment on function awa._end_expired is
  'Writes the ends of available jobs that have expired, and lets go of their keys and groups';
