-- The row that rescue returns: how many attempts it ended.
create or replace view awa.rescue_row as select c.claim_id as rescued from awa.lease_claims c where false;
comment on view awa.rescue_row is
  'The row that rescue returns: how many attempts it ended. The view itself is always empty';

-- Ends overdue attempts as failed, at most max_jobs; returns how many.
-- The attempt counts, and the job runs again after its backoff, or ends. An attempt is overdue after its deadline; or
-- after its lease, unless its worker sent a heartbeat that is younger than the lease is long. After a gap of more than
-- 10 seconds between two calls (the server was down), attempts that were alive before the gap get one more lease. Reads
-- all claims that fold has not counted, so fold must be called as often. Safe to call from anywhere, as often as one
-- likes.
-- Locks: their claims, where it can have them at once, or their lease rows; and the rows of workers and leases with
-- times that a clock ahead has written, which it sets back. All tried: it skips rows of other sessions, and attempts
-- that another session is answering for. What an end waits for otherwise, in a user's trigger for example, it waits for
-- for milliseconds. It works for seconds at most, and the next call goes on.
-- Raises 22023, JQ004, 55000.
create or replace function awa.rescue(max_jobs int default 1000) returns setof awa.rescue_row
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set lock_timeout = 0
as $$
#variable_conflict use_variable
declare
  v_max int := coalesce(max_jobs, 1000);
  v_now timestamptz := clock_timestamp();
  v_materialized bigint[];
  v_others bigint[] := '{}';
  v_in_parts record;
  v_one record;
  v_rescued bigint;
  v_ended bigint;
  v_refused bigint[] := '{}';
  v_refusal text;
  v_lack text[];
  v_until timestamptz;
begin
  perform awa._check_pass(max_jobs);
  perform awa._note_call(v_now), awa._set_times_back(v_now);
  v_materialized := array(
    select l.receipt
      from awa.leases l
     where (
         select o
           from awa._is_overdue(l.lease_until, l.deadline_at, l.lease, case
                  when not awa._is_expired(l.expires_at, l.attempt, l.claimed_at) then l.worker_id -- else see _is_kept
                end, v_now) o
       )
     order by l.receipt
     limit v_max
       for update skip locked);
  if cardinality(v_materialized) < v_max then
    v_others := array(
      select o.receipt
        from awa._open_items o
       where o.queue_id = any(array(select q from awa._busy_queues() q))
         and (
          select d
            from awa._is_overdue(o.lease_until, o.deadline_at, o.lease_until - o.claimed_at, o.worker_id, v_now) d
        ));
  end if;
  if v_materialized = '{}' and v_others = '{}' then
    perform awa._note_success('rescue');
    return query select 0::bigint;
    return;
  end if;
  perform set_config('lock_timeout', '50', true);
  v_in_parts := awa._rescue_in_parts(v_materialized, v_others, v_max, v_now);
  v_rescued := v_in_parts.rescued;
  if v_in_parts.is_refused then
    -- One by one: the rest must not wait for a job that the server can't read, whose failure it refuses to store, or
    -- whose end has to wait. At random, so that all are reached where more are so than a call takes, or has time for.
    perform set_config('lock_timeout', '1', true);
    v_materialized := array(
      select l.receipt
        from awa.leases l
       where (
         select o
           from awa._is_overdue(l.lease_until, l.deadline_at, l.lease, case
                  when not awa._is_expired(l.expires_at, l.attempt, l.claimed_at) then l.worker_id -- else see _is_kept
                end, v_now) o
       )
       order by random()
       limit v_max
         for update skip locked);
    v_others := array(select r from unnest(v_others) r order by random() limit v_max);
    v_until := awa._step_end(clock_timestamp(), '1 second', 4);
    for v_one in
      select *
        from (
          select array[r] as materialized, '{}'::bigint[] as others, r as receipt from unnest(v_materialized) r
          union all
          select '{}', array[r], r from unnest(v_others) r
        ) o
       order by random()
    loop
      exit when clock_timestamp() > v_until or v_rescued >= v_max;
      begin
        v_rescued := v_rescued + awa._rescue(v_one.materialized, v_one.others, 1, v_now);
      exception when others then
        perform awa._rest_kept(v_one.receipt, awa._refusal(sqlerrm, sqlstate)) where awa._is_passing(sqlstate);
        continue when awa._is_passing(sqlstate);
        if not awa._is_about_a_row(sqlstate) then
          raise;
        end if;
        v_ended := null;
        if sqlstate <> 'XX001' then
          v_lack := coalesce(v_lack, awa._lack(sqlerrm, sqlstate));
          v_ended := awa._rescue_otherwise(v_one.materialized, v_one.others, v_now, sqlerrm, sqlstate);
        end if;
        v_rescued := v_rescued + coalesce(v_ended, 0);
        if v_ended is null then
          v_refused := v_refused || (select a.job_id from awa._attempts(array[v_one.receipt]) a);
          perform awa._rest_kept(v_one.receipt, awa._refusal(sqlerrm, sqlstate));
          v_refusal := coalesce(v_refusal, awa._refusal(sqlerrm, sqlstate));
        end if;
      end;
    end loop;
    perform awa._warn_refused(v_refused, 'is overdue, and its attempt can''t be ended', v_refusal);
    if v_rescued = 0 then
      perform awa._fail_for(v_lack);
    end if;
  end if;
  perform awa._note_success('rescue');
  return query select v_rescued;
end
$$;
comment on function awa.rescue is 'Ends overdue attempts as failed, at most max_jobs; returns how many';

-- Ends overdue attempts in parts, until one is refused; returns how many, and whether one was.
-- Some with lease rows, which the caller has locked, then others, at most max_jobs. Each part is twice as large as the
-- one before, up to 32; after a second, the rest is left to the next call.
-- Why: a user's trigger may take long for each of them. A call that is cut off by a statement_timeout has ended none,
-- and the next one would come to the same end.
create or replace function awa._rescue_in_parts(
  materialized bigint[],
  others bigint[],
  max_jobs int,
  now timestamptz,
  out rescued bigint,
  out is_refused boolean
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_until timestamptz := awa._step_end(clock_timestamp(), '1 second', 4);
  v_leased int := cardinality(materialized);
  v_at int := 1;
  v_many int := 1;
begin
  rescued := 0;
  is_refused := false;
  others := array(select r from unnest(others) r order by r);
  while v_at <= v_leased + cardinality(others) and rescued < max_jobs
    and (v_at = 1 or clock_timestamp() < v_until)
  loop
    begin
      rescued := rescued + awa._rescue(materialized[v_at : v_at + v_many - 1],
        others[v_at - v_leased : v_at - v_leased + v_many - 1], (max_jobs - rescued)::int, now,
        awa._claims_of(others[: v_at - v_leased - 1]));
    exception when others then
      if not awa._is_about_a_row(sqlstate) then
        raise;
      end if;
      is_refused := true;
      return;
    end;
    v_at := v_at + v_many;
    v_many := least(v_many * 2, 32);
  end loop;
end
$$;
comment on function awa._rescue_in_parts is
  'Ends overdue attempts in parts, until one is refused; returns how many, and whether one was';

-- Ends overdue attempts: some with lease rows, and at most max_others of the others; returns how many.
-- The caller has locked the lease rows. Skips attempts that another session is answering for. claims: of how many the
-- caller has taken some before, in the same call.
create or replace function awa._rescue(
  materialized bigint[],
  others bigint[],
  max_others int,
  now timestamptz,
  claims int default 0
) returns bigint
language plpgsql
as $$
declare
  v_never bigint[] := awa._never_begun(others);
  v_receipts bigint[] := materialized
    || awa._take_open(array(select r from unnest(others) r where r <> all(v_never)), max_others, 'failed', claims)
    || awa._take_open(v_never, max_others, 'cancelled', claims);
  v_batches cursor (asked bigint[]) for select l as attempts from awa._look_up_many(asked) l;
  v_begun awa.leases[];
  v_reasons text[];
  v_found bigint[] := '{}';
begin
  for v_batch in v_batches(v_receipts) loop
    v_found := v_found || array(select a.receipt from unnest(v_batch.attempts) a);
    v_begun := awa._cancel_kept(v_batch.attempts);
    if v_begun <> '{}' then
      v_reasons := awa._overdue_reasons(v_begun, now);
      perform awa._record_lost_attempts(v_begun, v_reasons);
      perform awa._record_failures(v_begun, v_reasons, null, leased => materialized <> '{}');
    end if;
  end loop;
  perform awa._check_found(v_receipts, v_found, warns => true);
  return cardinality(v_receipts);
end
$$;
comment on function awa._rescue is
  'Ends overdue attempts: some with lease rows, and at most max_others of the others; returns how many';

-- The open items, of some, that have never begun, since their jobs had expired.
create or replace function awa._never_begun(receipts bigint[]) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
begin
  receipts := array(
    select r
      from unnest(receipts) r
     cross join lateral (select c.lane from awa.lease_claims c where c.claim_id = r >> 12 limit 1) c
     where (select true from awa.queues q where q.queue_id = awa._queue_of(c.lane) and q.may_expire limit 1));
  if receipts = '{}' then
    return receipts;
  end if;
  return array(
    select a.receipt from awa._look_up_many(receipts) l cross join lateral unnest(l) a where awa._is_kept(a));
end
$$;
comment on function awa._never_begun is
  'The open items, of some, that have never begun, since their jobs had expired';

-- Ends one overdue attempt whose failure the server refuses to store: puts its job off.
-- Where that is refused as well, the attempt stays open for the next pass.
-- Returns how many attempts it ended; null where it was refused.
create or replace function awa._rescue_otherwise(
  materialized bigint[],
  others bigint[],
  now timestamptz,
  error text,
  state text
) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_attempts awa.leases[];
  v_reasons text[];
begin
  v_attempts := awa._look_up(materialized || awa._take_open(others, 1, 'snoozed'));
  if awa._is_kept(v_attempts[1]) then
    perform awa._defer_expired(v_attempts, awa._refusal(error, state)),
      awa._end_attempts(v_attempts, 'scheduled', holds_group => false);
    return 1;
  end if;
  v_reasons := awa._overdue_reasons(v_attempts, now);
  perform awa._record_lost_attempts(v_attempts, v_reasons);
  perform awa._put_off(v_attempts,
    format('the failure was refused: %s (SQLSTATE %s); it was: %s', error, state, v_reasons[1]));
  return cardinality(v_attempts);
exception when others then
  if not awa._is_about_a_row(sqlstate) then
    raise;
  end if;
  if awa._is_passing(sqlstate) then
    return 0;
  end if;
  return null;
end
$$;
comment on function awa._rescue_otherwise is
  'Ends one overdue attempt whose failure the server refuses to store: puts its job off';

-- Cancels the jobs of attempts that have never begun, since the jobs had expired; returns the other attempts.
create or replace function awa._cancel_kept(attempts awa.leases[]) returns awa.leases[]
language plpgsql
as $$
declare
  v_kept awa.leases[] := array(select a from unnest(attempts) a where awa._is_kept(a));
begin
  if v_kept = '{}' then
    return attempts;
  end if;
  perform awa._end_as_cancelled(array(select awa._unbegun(a) from unnest(v_kept) a), 'expired', null);
  perform awa._end_attempts(v_kept, 'cancelled', holds_group => false);
  perform awa._note_leavers(array_agg(a.job_id), array_agg(a.lane), array_agg(a.group_key)) from unnest(v_kept) a;
  return array(select a from unnest(attempts) a where not awa._is_kept(a));
end
$$;
comment on function awa._cancel_kept is
  'Cancels the jobs of attempts that have never begun, since the jobs had expired; returns the other attempts';

-- Has rescue come back in a minute to an attempt that has never begun, since the server refuses what would end it.
create or replace function awa._rest_kept(receipt bigint, error text) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  update awa.leases l
     set lease = '1 minute', lease_until = clock_timestamp() + interval '1 minute', -- see _set_times_back
         errors = case when l.errors -> -1 ? 'put_off' then l.errors else awa._add_put_off(l, error) end
   where l.receipt = receipt and awa._is_kept(l);
exception when others then
  if not awa._is_about_a_row(sqlstate) then
    raise;
  end if; -- the next pass comes back
end
$$;
comment on function awa._rest_kept is
  'Has rescue come back in a minute to an attempt that has never begun, since the server refuses what would end it';

-- The reasons why attempts are overdue, one for each.
create or replace function awa._overdue_reasons(attempts awa.leases[], now timestamptz) returns text[]
language plpgsql immutable
as $$
begin
  return array(
    select case when a.deadline_at <= now then 'deadline exceeded' else 'lease expired' end
      from unnest(attempts) with ordinality a
     order by a.ordinality);
end
$$;
comment on function awa._overdue_reasons is 'The reasons why attempts are overdue, one for each';
