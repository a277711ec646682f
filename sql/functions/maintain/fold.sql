-- The row that fold returns: whether there is more to count.
create or replace view awa.fold_row as select r.only_row as more from awa.ring r where false;
comment on view awa.fold_row is
  'The row that fold returns: whether there is more to count. The view itself is always empty';

-- Adds new entries and closed claims to the counts; returns whether there is more.
-- Reads of the counts then add only later rows. The searches for open attempts (rescue, materialize, forget_workers,
-- the end of a worker, health) read all claims that are not counted yet, so they stay short only while fold is called.
-- Safe to call from anywhere, as often as one likes.
-- Returns false, and is not remembered as a success, where another session is counting.
-- Locks: the counts, where it can have them at once.
-- Raises JQ004, 55000.
create or replace function awa.fold() returns setof awa.fold_row
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
declare
  v_more boolean;
begin
  perform awa._check_pass(null);
  if not pg_try_advisory_xact_lock(awa._fold_key()) then
    return query select false;
    return;
  end if;
  v_more := awa._fold();
  perform awa._store_statistics(array(select e from awa._take_leased_ends(20000) e));
  perform awa._thin_statistics(10000);
  perform awa._forget_idle_groups(10000);
  perform awa._forget_pauses(10000);
  perform awa._note_success('fold');
  return query select v_more;
end
$$;
comment on function awa.fold is 'Adds new entries and closed claims to the counts; returns whether there is more';
