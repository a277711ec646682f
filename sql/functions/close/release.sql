-- Gives one attempt back, without counting it: the job is ready at once, ahead of the queue's other jobs.
-- Locks: the claim, shared, until the transaction ends. Raises JQ001, 22023; 55P03, 40001 as complete does.
create or replace function awa.release(job_id bigint, receipt bigint) returns void
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
as $$
begin
  perform awa._close(job_id, receipt, 'released');
  perform awa._give_back(array[receipt]);
end
$$;
comment on function awa.release is 'Gives one attempt back without counting it: the job is ready at once';

-- Appends the entries of attempts that were given back to the front lane of their queue.
create or replace function awa._give_back(receipts bigint[]) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_queue_ids bigint[];
begin
  with appended as (
    insert into awa.ready_entries
      (segment, lane, job_id, ready_at, priority, attempt, max_attempts, body_bytes, unique_key, kind, args, tags, metadata, created_at, progress, errors)
    select r.current_segment, a.lane & ~7::bigint, a.job_id, clock_timestamp(), a.priority, a.attempt, a.max_attempts, a.body_bytes,
           a.unique_key, a.kind, a.args, a.tags, a.metadata, a.created_at, a.progress, a.errors
      from awa._current_segment() r(current_segment), awa._attempts(receipts) a
    returning lane >> 3 as queue_id
  )
  select array_agg(distinct a.queue_id) into v_queue_ids from appended a;
  perform awa._settle(receipts, 'available');
  perform awa._wake(q) from unnest(v_queue_ids) q;
end
$$;
comment on function awa._give_back is 'Appends attempts that were given back to the front lane of their queue';
