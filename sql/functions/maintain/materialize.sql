-- What materialize returns.
create or replace view awa.materialize_row as select c.claim_id as materialized from awa.lease_claims c where false;
comment on view awa.materialize_row is 'The row that materialize returns: how many attempts got a row of their own. The view itself is always empty';

-- Gives attempts that have been open for longer than older_than, 5 seconds by default, rows of their own in leases: at most max_jobs, the oldest claims first. The search for open attempts
-- then no longer has to go back to them. Safe to call from anywhere, as often as one likes.
-- Locks: their claims, where it can have them at once; skips those that somebody is answering for. Raises 22023, JQ004.
create or replace function awa.materialize(older_than interval default null, max_jobs int default 1000) returns setof awa.materialize_row
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
  v_materialized bigint := 0;
begin
  if not awa._fits(older_than, '0', '1 year') then
    perform awa._refuse('older_than must be between 0 and 1 year', older_than::text, 'Leave it out for 5 seconds.');
  end if;
  perform awa._check_pass(max_jobs);
  perform awa._fold();
  v_open := array(
    select o.receipt
      from awa._open_items o
     where o.queue_id = any(awa._busy_queues())
       and (o.claimed_at <= v_now - coalesce(older_than, interval '5 seconds')
         or o.claimed_at > v_now + interval '1 second')); -- by a clock that was ahead: rescue corrects the rows
  begin
    v_materialized := awa._materialize(v_open, v_max);
  exception when others then
    if not awa._is_about_a_row(sqlstate) then
      raise;
    end if;
    -- At random, so that those of another call are reached where more are refused than one call takes.
    select e.materialized into v_materialized from awa._materialize_each(array(select r from unnest(v_open) r order by random() limit v_max)) e;
  end;
  return query select v_materialized;
end
$$;
comment on function awa.materialize is 'Gives attempts that last rows of their own; returns how many';

-- Gives at most max_jobs of some attempts rows of their own, but for those that somebody is answering for. Returns how many.
create or replace function awa._materialize(receipts bigint[], max_jobs int) returns bigint
language plpgsql
as $$
declare
  v_receipts bigint[] := awa._take_open(receipts, max_jobs, 'materialized');
begin
  perform awa._lease(l) from awa._look_up_many(v_receipts) l;
  return cardinality(v_receipts);
end
$$;
comment on function awa._materialize is 'Gives some attempts rows of their own';

-- Gives some attempts rows of their own, one by one, but for those that somebody is answering for: the rest must not wait for a job that the server can't read, or whose row it refuses because of a trigger of somebody else's.
create or replace function awa._materialize_each(receipts bigint[], out materialized bigint, out unreadable bigint[], out refused bigint[], out refusal text)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_receipt bigint;
  v_job_id bigint;
  v_lack text[];
begin
  materialized := 0;
  unreadable := '{}';
  refused := '{}';
  foreach v_receipt in array receipts loop
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
        perform awa._warn_unreadable(v_job_id, sqlerrm);
      else
        refused := refused || v_job_id;
        refusal := awa._refusal(sqlerrm, sqlstate);
        raise warning 'an attempt of job % can''t get a row of its own', v_job_id using errcode = sqlstate, detail = sqlerrm;
      end if;
    end;
  end loop;
  if materialized = 0 then
    perform awa._fail_for(v_lack);
  end if;
end
$$;
comment on function awa._materialize_each is 'Gives some attempts rows of their own, one by one';

-- Refuses what maintenance does not take.
create or replace function awa._check_pass(max_jobs int) returns void
language plpgsql
as $$
begin
  if max_jobs not between 1 and 10000 then
    perform awa._refuse('max_jobs must be between 1 and 10000', max_jobs::text, 'Leave it out for 1000.');
  end if;
  perform awa._check_isolation();
end
$$;
comment on function awa._check_pass is 'Refuses what maintenance does not take';

-- Closes at most max_jobs of some open items for maintenance, the oldest claims first, and returns the receipts of those that it closed. It never waits for one that is being answered for: it only tries the claims, and goes on where it can't have one;
-- and for the answers that a _many form gives to claims of a single job, where it holds no lock to try, it waits for milliseconds, then leaves them alone.
-- Changes lock_timeout: the calling function has to have a SET clause for it.
create or replace function awa._take_open(receipts bigint[], max_jobs int, outcome text) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_claim record;
  v_claims int := 0;
  v_mine bigint[] := '{}';
  v_taken bigint[] := '{}';
  v_receipt bigint;
begin
  for v_claim in
    select r >> 12 as claim_id, array_agg(r order by r) as receipts from unnest(receipts) r group by 1 order by 1
  loop
    exit when cardinality(v_mine) >= max_jobs;
    v_claims := v_claims + 1;
    if awa._try_take_claim(v_claim.claim_id, v_claims) then
      v_mine := v_mine || v_claim.receipts[1:max_jobs - cardinality(v_mine)];
    end if;
  end loop;
  perform set_config('lock_timeout', '50', true);
  begin
    v_taken := awa._take_items(v_mine, outcome);
  exception when lock_not_available then
    perform set_config('lock_timeout', '1', true);
    foreach v_receipt in array v_mine loop
      begin
        v_taken := v_taken || awa._take_items(array[v_receipt], outcome);
      exception when lock_not_available then
        null;
      end;
    end loop;
  end;
  perform set_config('lock_timeout', '0', true);
  return v_taken;
end
$$;
comment on function awa._take_open is 'Closes open items for maintenance, but for those that are being answered for';

-- Keeps everybody off a claim until the transaction ends, as far as they hold its lock; for the nth claim of a call, when that is too many for the server's lock table, only batch rows (see _try_join_claim).
-- Says no where somebody is answering for it, or holds the lock of all.
create or replace function awa._try_take_claim(claim_id bigint, nth int) returns boolean
language plpgsql
as $$
begin
  if nth <= awa._max_locks() then
    return pg_try_advisory_xact_lock(awa._claim_key(claim_id));
  end if;
  return case when not pg_try_advisory_xact_lock_shared(awa._crowd_key()) then false when pg_try_advisory_lock(awa._claim_key(claim_id)) then pg_advisory_unlock(awa._claim_key(claim_id)) else false end;
end
$$;
comment on function awa._try_take_claim is 'Keeps others off a claim, or says that somebody is answering for it';

-- Closes items by a row each, and returns the receipts of those that were open.
create or replace function awa._take_items(receipts bigint[], outcome text) returns bigint[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_taken bigint[];
begin
  with taken as (
    insert into awa.lease_claim_closures (segment, claim_id, item, outcome, closed_at)
    select c.segment, c.claim_id, r & 4095, outcome, clock_timestamp()
      from unnest(receipts) r
     cross join lateral (
        select * from awa.lease_claims c where c.claim_id = r >> 12 limit 1
      ) c
     where (
        select true from awa.lease_claim_closures k where k.claim_id = c.claim_id and k.item < 0 and (r & 4095) = any(k.items) limit 1
      ) is null
     order by r
    on conflict do nothing
    returning claim_id << 12 | item as receipt
  )
  select array_agg(t.receipt) into v_taken from taken t;
  return coalesce(v_taken, '{}');
end
$$;
comment on function awa._take_items is 'Closes items by a row each, and returns the receipts of those that were open';
