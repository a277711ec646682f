-- Jobs that were not begun in time.

-- Whether a job that waits has expired: its expires_at has passed, and no attempt that counts has begun.
-- attempt is the number of the attempt to come.
create or replace function awa._is_expired(expires_at timestamptz, attempt smallint, now timestamptz) returns boolean
language sql immutable parallel safe
return coalesce(expires_at <= now and attempt = 1, false);
comment on function awa._is_expired is
  'Whether a job that waits has expired: its expires_at has passed, and no attempt that counts has begun';

-- Cancels items of a claim that the caller has just appended, since their jobs have expired.
-- A job whose end the server refuses to store, because of a user's trigger, is put off, as promote_due does it.
-- Why: the claim must not fail for that job, and must not hand it out.
create or replace function awa._expire_claimed(receipts bigint[]) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_receipt bigint;
begin
  begin
    perform awa._expire_items(receipts);
    return;
  exception when others then
    if not awa._is_about_a_row(sqlstate) then
      raise;
    end if; -- one by one
  end;
  foreach v_receipt in array receipts loop
    begin
      perform awa._expire_items(array[v_receipt]);
    exception when others then
      if not awa._is_about_a_row(sqlstate) then
        raise;
      end if;
      perform awa._put_off_expired(v_receipt, awa._refusal(sqlerrm, sqlstate));
    end;
  end loop;
end
$$;
comment on function awa._expire_claimed is
  'Cancels items of a claim that the caller has just appended, since their jobs have expired';

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
  raise warning 'a job that has expired can''t be cancelled' using detail = error;
  perform awa._take_items(array[receipt], 'snoozed', begun => false);
  v_attempts := awa._look_up(array[receipt]);
  perform awa._defer(v_attempts, 'scheduled',
    array(select clock_timestamp() + awa._put_off_delay(a.errors) from unnest(v_attempts) a),
    array(
      select jsonb_set(awa._add_error(a.errors, a.attempt - 1, 'to cancel it was refused: ' || error), '{-1,put_off}',
               'true')
        from unnest(v_attempts) a
    ));
  perform awa._change_state(array_agg(a.job_id), array_agg(a.lane), array_agg(a.unique_key), 'available', 'scheduled')
     from unnest(v_attempts) a
    where a.unique_key is not null;
end
$$;
comment on function awa._put_off_expired is
  'Puts off the job of an item of a claim that has expired, since the server refuses to store its end';

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
