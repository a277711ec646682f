-- Attempts: looked up once, and passed on as values.
--
-- Answers and changes of jobs that read all segments do so in a subtransaction that is rolled back. So the transaction
-- of the caller, which may be long, keeps none of their tables locked, and holds up no truncation. Values survive.

-- The attempts behind some receipts that the caller has closed, or whose lease rows it has locked.
-- Reads the claims' own stretch of the lane, however long the history is. A job has one entry there that is not buried:
-- an earlier one lies in an earlier window, and a later one exists only once this item is closed.
-- Why: the limits and the offset fence the subqueries off. The planner believes the tables to be empty, and must not
-- turn them round. Stable, so that it becomes a part of the query that calls it, and of that query's cached plan.
create or replace function awa._attempts(receipts bigint[]) returns setof awa.leases
language sql stable
as $$
  select l.* from awa.leases l where l.receipt = any(receipts)
  union all
  select t.*
    from (
      select r >> 12 as claim_id, array_agg(r) as receipts
        from unnest(receipts) r
       where (select true from awa.leases l where l.receipt = r limit 1) is null
       group by 1
    ) a
   cross join lateral (
      select * from awa.lease_claims c where c.claim_id = a.claim_id limit 1
    ) c
   cross join lateral (
      select min(c.job_ids[(r & 4095) + 1]) as first_id, max(c.job_ids[(r & 4095) + 1]) as last_id
        from unnest(a.receipts) r
    ) j
   cross join lateral (
      select *
        from awa._claimed_entries(c.lane, c.first_xid, c.first_id, c.pos_xid, c.pos_id, j.first_id, j.last_id)
      offset 0
    ) e
   cross join lateral (
      select array_position(c.job_ids, e.job_id) as ordinal offset 0 -- once: it goes through the array
    ) i
   cross join lateral awa._as_attempt(e, c.claim_id << 12 | (i.ordinal - 1), c.claimed_at, c.lease_until,
      c.deadline_at, c.worker_id, c.groups[i.ordinal], c.holds_queue) t
   where t.receipt = any(a.receipts)
     and case
           when (select true from awa.ready_tombstones limit 1)
           then (
             select true
               from awa.ready_tombstones t
              where t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id
              limit 1
           ) is null
           else true
         end
$$;
comment on function awa._attempts is
  'The attempts behind some receipts that the caller has closed, or whose lease rows it has locked';

-- The attempt behind a receipt that was closed in the ledger, where its entry is in the segment of its claim.
-- Why: with a constant for the segment it plans, reads and locks no others, and four times as many tables cost nearly
-- four times as much. Most jobs are claimed in the segment that they were put into.
create or replace function awa._attempt_in(segment smallint, receipt bigint) returns setof awa.leases
language sql stable
as $$
  select t.*
    from (
      select c.*, c.job_ids[(receipt & 4095) + 1] as job_id
        from awa.lease_claims c
       where c.segment = _attempt_in.segment and c.claim_id = receipt >> 12
       limit 1
    ) c
   cross join lateral (
      select *
        from awa._claimed_entries(c.lane, c.first_xid, c.first_id, c.pos_xid, c.pos_id, c.job_id, c.job_id,
               _attempt_in.segment)
      offset 0
    ) e
   cross join lateral awa._as_attempt(e, receipt, c.claimed_at, c.lease_until, c.deadline_at, c.worker_id,
      c.groups[(receipt & 4095) + 1], c.holds_queue) t
   where (
      select true
        from awa.ready_tombstones t
       where t.segment = _attempt_in.segment and t.lane = e.lane and t.xid = e.xid and t.job_id = e.job_id
       limit 1
    ) is null
$$;
comment on function awa._attempt_in is
  'The attempt behind a receipt that was closed in the ledger, where its entry is in the segment of its claim';

-- The attempts behind some receipts, as values to be passed on.
-- segment: of the claim of a single receipt that was closed in the ledger.
-- Raises XX001 where the entry of one is missing; without checks it leaves that one out.
create or replace function awa._look_up(
  receipts bigint[],
  segment smallint default null,
  checks boolean default true
) returns awa.leases[]
language plpgsql stable
as $$
declare
  v_attempts awa.leases[];
begin
  if segment is not null then
    case segment
      when 0 then v_attempts := array(select a from awa._attempt_in(0::smallint, receipts[1]) a);
      when 1 then v_attempts := array(select a from awa._attempt_in(1::smallint, receipts[1]) a);
      when 2 then v_attempts := array(select a from awa._attempt_in(2::smallint, receipts[1]) a);
      when 3 then v_attempts := array(select a from awa._attempt_in(3::smallint, receipts[1]) a);
    end case;
    if cardinality(v_attempts) = 1 then
      return v_attempts;
    end if;
  end if;
  begin
    v_attempts := (select coalesce(array_agg(a), '{}') from awa._attempts(receipts) a);
    raise sqlstate 'JQ999';
  exception when sqlstate 'JQ999' then
    null;
  end;
  if checks and cardinality(v_attempts) < cardinality(receipts) then
    perform awa._check_found(receipts, array(select a.receipt from unnest(v_attempts) a));
  end if;
  return v_attempts;
end
$$;
comment on function awa._look_up is 'The attempts behind some receipts, as values to be passed on';

-- The attempts behind very many receipts, in arrays of about 64 MB: an array can't hold 1 GB.
create or replace function awa._look_up_many(receipts bigint[]) returns setof awa.leases[]
language plpgsql stable
as $$
declare
  v_attempts awa.leases[];
begin
  if cardinality(receipts) = 1 then
    -- while a segment is cleaned, its entry is there twice
    v_attempts := (awa._look_up(receipts, checks => false))[1:1];
    if cardinality(v_attempts) = 1 then
      return next v_attempts;
    end if;
    return;
  end if;
  return query
    -- in an order: otherwise they might all be hashed in memory
    select array_agg(b.attempt order by (b.attempt).receipt)
      from (
        select a.attempt,
               sum(
                 pg_column_size(a.attempt) + pg_column_size(array[(a.attempt).errors])
               ) over (order by a.receipt rows unbounded preceding) / 67108864 as batch
          -- while a segment is cleaned, entries are there twice
          from (select distinct on (a.receipt) a.receipt, a as attempt from awa._attempts(receipts) a) a
      ) b
     group by b.batch;
  raise sqlstate 'JQ999';
exception when sqlstate 'JQ999' then
  null;
end
$$;
comment on function awa._look_up_many is
  'The attempts behind very many receipts, in arrays of about 64 MB: an array can''t hold 1 GB';

-- Of how many claims some receipts are.
create or replace function awa._claims_of(receipts bigint[]) returns int
language sql immutable
return (select count(distinct r >> 12) from unnest(receipts) r);
comment on function awa._claims_of is 'Of how many claims some receipts are';

-- Raises XX001 where attempts were not found, or warns: their entries are missing.
-- With warns, for maintenance, it is a warning in the log of the server. Maintenance has to end such attempts, since a
-- segment is not emptied while an attempt in it is open.
-- Why: an answer would close the attempt, and nothing would follow it.
create or replace function awa._check_found(
  receipts bigint[],
  looked_up bigint[],
  warns boolean default false
) returns void
language plpgsql stable
as $$
declare
  v_jobs text;
begin
  if cardinality(looked_up) >= cardinality(receipts) then
    return;
  end if;
  select string_agg(c.job_ids[(r & 4095) + 1]::text, ', ' order by r) into v_jobs
    from (select unnest(receipts) except select unnest(looked_up)) m(r)
   cross join lateral (select * from awa.lease_claims c where c.claim_id = r >> 12 limit 1) c;
  if warns then
    raise warning 'attempts have ended whose jobs are missing' using errcode = 'XX001',
      detail = format('There are no entries of the jobs %s.', v_jobs),
      hint = 'Rows were deleted, or a damaged page was cleared. See awa.audit().';
    return;
  end if;
  raise exception 'the attempt''s job is missing' using errcode = 'XX001',
    detail = format('There is no entry of job %s.', v_jobs),
    hint = 'A row was deleted, or a damaged page was cleared. The attempt stays open until its lease ends.';
end
$$;
comment on function awa._check_found is
  'Raises XX001 where attempts were not found, or warns: their entries are missing';

-- The errors of the job of an entry.
create or replace function awa._errors_of(lane bigint, xid xid8, job_id bigint) returns jsonb
language plpgsql stable
as $$
#variable_conflict use_variable
begin
  return (
    select e.errors from awa.ready_entries e where e.lane = lane and e.xid = xid and e.job_id = job_id limit 1
  );
end
$$;
comment on function awa._errors_of is 'The errors of the job of an entry';

-- The errors of a job with one more.
-- The first 20 and the last 20 are kept, and between them an object with the number that were left out. by names the
-- source of a cancel.
-- Why: volatile, as the clock is, so that it becomes a part of the query that calls it. Otherwise each call would plan
-- it anew.
create or replace function awa._add_error(
  errors jsonb,
  attempt int,
  error text,
  details jsonb default null,
  by text default null
) returns jsonb
language sql volatile
return case jsonb_array_length(errors)
    when 40 then jsonb_set(errors, '{20}', '{"omitted": 1}')
    when 41 then jsonb_set(errors - 21, '{20,omitted}', to_jsonb((errors -> 20 ->> 'omitted')::int + 1))
    else coalesce(errors, '[]')
  end
  || jsonb_build_array(
    jsonb_strip_nulls(
      jsonb_build_object('attempt', attempt, 'at', clock_timestamp(), 'error', left(error, 20000), 'by', by)
    )
    || case when details is null then '{}' else jsonb_build_object('details', details) end);
comment on function awa._add_error is 'The errors of a job with one more';

-- Until when an attempt stays its worker's.
-- For its lease, or for as long after the worker's last heartbeat; but for one more lease after the last of the gaps
-- that began before that.
-- Why: later gaps do not count. So the attempts of a worker that never comes back end, also where rescue is seldom
-- called, and every time is in a gap. A set of one time, so that it becomes a part of the query that calls it.
create or replace function awa._lease_ends_at(
  lease_until timestamptz,
  lease interval,
  worker_id bigint
) returns setof timestamptz
language sql stable
as $$
  select greatest(e.at,
    (
      select g.ended_at + lease
        from awa.rescue_gaps g
       where g.began_at < e.at
       order by g.began_at desc, g.ended_at desc
       limit 1
    ))
    from (
      select greatest(lease_until,
        (select w.heartbeat_at + lease from awa.workers w where w.worker_id = _lease_ends_at.worker_id)) as at
    ) e
$$;
comment on function awa._lease_ends_at is 'Until when an attempt stays its worker''s';

-- Whether an attempt's time is over.
-- Why: a set of one, as _lease_ends_at.
create or replace function awa._is_overdue(
  lease_until timestamptz,
  deadline_at timestamptz,
  lease interval,
  worker_id bigint,
  now timestamptz
) returns setof boolean
language sql stable
as $$
  select deadline_at <= now
    or lease_until <= now and (select e from awa._lease_ends_at(lease_until, lease, worker_id) e) <= now
$$;
comment on function awa._is_overdue is 'Whether an attempt''s time is over';

-- The claim that has taken an entry, and the receipt; no row where the lane's cursor has not passed it.
create or replace function awa._claim_of(
  lane bigint,
  xid xid8,
  job_id bigint,
  out claim_id bigint,
  out receipt bigint
) returns setof record
language sql stable
as $$
  select c.claim_id, c.claim_id << 12 | (array_position(c.job_ids, _claim_of.job_id) - 1)
    from (
      select c.lo, c.hi, c.pos_xid, c.pos_id
        from awa.lease_claims c
       where c.lane = _claim_of.lane
       order by c.lane_seq desc
       limit 1
    ) cursor
   cross join lateral (
      select c.claim_id, c.job_ids
        from awa.lease_claims c
       where case
               when cursor.lo is null then pg_visible_in_snapshot(_claim_of.xid, cursor.hi)
               else pg_visible_in_snapshot(_claim_of.xid, cursor.lo)
                 or pg_visible_in_snapshot(_claim_of.xid, cursor.hi)
                and (_claim_of.xid, _claim_of.job_id) <= (cursor.pos_xid, cursor.pos_id)
             end
         and c.lane = _claim_of.lane
         and (c.pos_xid, c.pos_id) >= (_claim_of.xid, _claim_of.job_id)
         and (c.first_xid, c.first_id) <= (_claim_of.xid, _claim_of.job_id)
         and pg_visible_in_snapshot(_claim_of.xid, c.hi)
         and _claim_of.job_id = any(c.job_ids)
       order by c.pos_xid, c.pos_id
       limit 1
    ) c
$$;
comment on function awa._claim_of is
  'The claim that has taken an entry, and the receipt; no row where the lane''s cursor has not passed it';
