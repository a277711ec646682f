-- The row that summarize returns: how many ranges of blocks got a summary.
create or replace view awa.summarize_row as select c.claim_id as summarized from awa.lease_claims c where false;
comment on view awa.summarize_row is
  'The row that summarize returns: how many ranges of blocks got a summary. The view itself is always empty';

-- Brings the block summaries of the current segment up to date; returns how many are new.
-- A job is found from its id by these summaries. Safe to call from anywhere, as often as one likes.
-- Returns 0, and is not remembered as a success, where another session holds a lock on the segment: a vacuum, or
-- another call of this.
-- Locks: the current segment of ready_entries in SHARE UPDATE EXCLUSIVE mode, for which it waits for a tenth of a
-- second.
-- Raises JQ004, 55000.
create or replace function awa.summarize() returns setof awa.summarize_row
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
set lock_timeout = 100
as $$
declare
  v_summarized bigint;
begin
  perform awa._check_pass(null);
  begin
    v_summarized := awa._summarize();
  exception when lock_not_available then
    return query select 0::bigint;
    return;
  end;
  perform awa._note_success('summarize');
  return query select v_summarized;
end
$$;
comment on function awa.summarize is
  'Brings the block summaries of the current segment up to date; returns how many are new';
