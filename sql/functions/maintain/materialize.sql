-- The row that materialize returns: how many attempts got a row of their own.
create or replace view awa.materialize_row as select c.claim_id as materialized from awa.lease_claims c where false;
comment on view awa.materialize_row is
  'The row that materialize returns: how many attempts got a row of their own. The view itself is always empty';

-- Gives attempts that have been open for long rows of their own in leases; returns how many.
-- These are attempts that have been open for longer than older_than, 5 seconds by default: at most max_jobs, the oldest
-- claims first, in parts, each twice as large as the one before, up to 32, for a second. The search for open attempts
-- then need not go back to their claims. Reads all claims that fold has not counted, so fold must be called as often.
-- Safe to call from anywhere, as often as one likes.
-- Locks: their claims, where it can have them at once. Skips attempts that another session is answering for.
-- Raises 22023, JQ004, 55000.
create or replace function awa.materialize(
  older_than interval default null,
  max_jobs int default 1000
) returns setof awa.materialize_row
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
  v_now timestamptz := clock_timestamp();
  v_max int := coalesce(max_jobs, 1000);
  v_open bigint[];
  v_at int := 1;
  v_many int := 1;
  v_until timestamptz;
  v_materialized bigint := 0;
begin
  if not awa._fits(older_than, '0', '1 year') then
    perform awa._refuse('older_than must be between 0 and 1 year', older_than::text, 'Leave it out for 5 seconds.');
  end if;
  perform awa._check_pass(max_jobs);
  v_open := array(
    select o.receipt
      from awa._open_items o
     where o.queue_id = any(array(select q from awa._busy_queues() q))
       and (o.claimed_at <= v_now - coalesce(older_than, interval '5 seconds')
         or o.claimed_at > v_now + interval '1 second') -- by a clock that was ahead: rescue corrects the rows
     order by o.receipt);
  v_until := awa._step_end(clock_timestamp(), '1 second', 4);
  perform set_config('lock_timeout', '50', true); -- a user's trigger may wait for another session
  while v_at <= cardinality(v_open) and v_materialized < v_max and (v_at = 1 or clock_timestamp() < v_until) loop
    begin
      v_materialized := v_materialized + awa._materialize(v_open[v_at : v_at + v_many - 1],
        (v_max - v_materialized)::int, awa._claims_of(v_open[: v_at - 1]));
    exception when others then
      if not awa._is_about_a_row(sqlstate) then
        raise;
      end if;
      perform set_config('lock_timeout', '1', true);
      -- At random, so that those of another call are reached where more are refused than one call takes, or has time
      -- for.
      select v_materialized + e.materialized into v_materialized
        from awa._materialize_each(
               array(select r from unnest(v_open[v_at:]) r order by random() limit v_max - v_materialized),
               awa._step_end(clock_timestamp(), '1 second', 4), is_first => v_materialized = 0) e;
      exit;
    end;
    v_at := v_at + v_many;
    v_many := least(v_many * 2, 32);
  end loop;
  perform awa._note_success('materialize');
  return query select v_materialized;
end
$$;
comment on function awa.materialize is
  'Gives attempts that have been open for long rows of their own in leases; returns how many';

-- Gives some attempts rows of their own in leases, at most max_jobs; returns how many.
-- One that has never begun, since its job had expired, becomes one of nobody. Skips attempts that another session is
-- answering for. claims: of how many the caller has taken some before, in the same call.
create or replace function awa._materialize(receipts bigint[], max_jobs int, claims int default 0) returns bigint
language plpgsql
as $$
declare
  v_receipts bigint[] := awa._take_open(receipts, max_jobs, 'materialized', claims);
  v_found bigint[] := '{}';
  v_batches cursor (asked bigint[]) for select l as attempts from awa._look_up_many(asked) l;
begin
  for v_batch in v_batches(v_receipts) loop
    perform awa._lease(array(
      select case when awa._is_kept(a) then awa._kept(a, null) else a end from unnest(v_batch.attempts) a));
    v_found := v_found || array(select a.receipt from unnest(v_batch.attempts) a);
  end loop;
  perform awa._check_found(v_receipts, v_found, warns => true);
  return cardinality(v_receipts);
end
$$;
comment on function awa._materialize is
  'Gives some attempts rows of their own in leases, at most max_jobs; returns how many';

-- Gives some attempts rows of their own in leases, one by one, until a time; returns how many.
-- Skips attempts that another session is answering for. is_first: the call has given none before, and fails where the
-- server lacks a resource.
-- Why: the rest must not wait for a job that the server can't read, or whose row a user's trigger refuses.
create or replace function awa._materialize_each(
  receipts bigint[],
  until timestamptz default 'infinity',
  is_first boolean default true,
  out materialized bigint,
  out unreadable bigint[],
  out refused bigint[],
  out refusal text
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_receipt bigint;
  v_job_id bigint;
  v_error text;
  v_lack text[];
begin
  materialized := 0;
  unreadable := '{}';
  refused := '{}';
  foreach v_receipt in array receipts loop
    exit when clock_timestamp() > until;
    begin
      materialized := materialized + awa._materialize(array[v_receipt], 1);
    exception when others then
      if not awa._is_about_a_row(sqlstate) then
        raise;
      end if;
      continue when awa._is_passing(sqlstate);
      v_lack := coalesce(v_lack, awa._lack(sqlerrm, sqlstate));
      v_job_id := (select a.job_id from awa._attempts(array[v_receipt]) a);
      if sqlstate = 'XX001' then
        unreadable := unreadable || v_job_id;
      else
        refused := refused || v_job_id;
        refusal := awa._refusal(sqlerrm, sqlstate);
      end if;
      v_error := coalesce(v_error, awa._refusal(sqlerrm, sqlstate));
    end;
  end loop;
  perform awa._warn_refused(unreadable || refused, 'can''t get a row of its attempt in leases', v_error);
  if materialized = 0 and is_first then
    perform awa._fail_for(v_lack);
  end if;
end
$$;
comment on function awa._materialize_each is
  'Gives some attempts rows of their own in leases, one by one, until a time; returns how many';
