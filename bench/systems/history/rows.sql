-- Variant (a): each completion writes the rows of its jobs, in the completing transaction. It needs no look-up: the
-- caller has what they hold.
create function history.complete_many(job_ids bigint[], receipts bigint[]) returns setof bigint
language plpgsql as $$
declare
  v_stale bigint[] := array(select awa.complete_many(job_ids, receipts));
  v_segment smallint := (select current_segment from awa.ring);
begin
  insert into history.done_entries (job_id, receipt, finalized_at, segment)
  select j, r, clock_timestamp(), v_segment
    from unnest(job_ids, receipts) a(j, r)
   where j <> all(v_stale);
  return query select unnest(v_stale);
end
$$;
