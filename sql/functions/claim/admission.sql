-- Which new entries begin, and which wait for their groups.

-- The entries of a part of a window, in their order, and which of them a claim takes (takes is 1).
-- Of the others, those with a size are to wait for their groups, and those without have expired. A claim takes those
-- whose group has room, and no line; a job that was given back waits only behind other jobs that were given back. Of
-- a group that is reserved for a job it takes that job alone, or puts it into the front of the line, which keeps its
-- place from then on.
-- Why: a query of SQL, which the planner puts in the place of its call. States are looked up row by row: a join between
-- the parts of one statement would look at all pairs.
create or replace function awa._admission(
  shard bigint,
  lane bigint,
  part awa._window_row,
  cleaned smallint,
  cleaned_until pg_snapshot,
  max_entries int,
  row_bytes int,
  settings awa.queue_settings,
  has_own boolean,
  at timestamptz
) returns table (
  xid xid8, job_id bigint, kind text, args jsonb, priority smallint, attempt smallint, max_attempts smallint,
  created_at timestamptz, ready_at timestamptz, tags text[], metadata jsonb, progress jsonb, group_key text,
  expires_at timestamptz, unique_key bytea, body_bytes int, ordinality bigint, size int, group_id bigint, row_id tid,
  running int, has_line boolean, has_front boolean, taken bigint, front_taken bigint, holder bigint,
  next_at timestamptz, rate_turns int, opens_at timestamptz, room int, max_running int, rate jsonb,
  is_paused boolean, paused_until timestamptz, takes int
)
language sql stable
as $$
  select k.*,
         case
           when k.size is null then 0
           when k.group_id is null then 1
           when k.job_id = k.holder then ((k.room > 0) is not false)::int
           when k.holder is not null then 0
           when k.has_front or k.has_line and _admission.lane & 7 <> 0 then 0
           when row_number() over (partition by k.group_id, k.size is null order by k.ordinality)
             > k.room then 0
           else 1
         end
    from (
      select e.*, s.row_id, coalesce(s.running, 0) as running, coalesce(s.has_line, false) as has_line,
             coalesce(s.has_front, false) as has_front, coalesce(s.taken, 0) as taken,
             coalesce(s.front_taken, -9223372036854775808) as front_taken, s.holder, s.next_at,
             coalesce(s.rate_turns, 0) as rate_turns, s.opens_at,
             case
               when t.is_paused then 0
               else least(t.max_running - coalesce(s.running, 0),
                 awa._rate_allows(t.rate, s.next_at, at) - coalesce(s.rate_turns, 0))
             end as room, t.*
        from (
          select e.*, row_number() over (order by e.xid, e.job_id) as ordinality,
                 case when not awa._is_expired(e.expires_at, e.attempt, at) then e.body_bytes + row_bytes end as size,
                 awa._group_id(e.group_key) as group_id
            from awa._read_part(_admission.lane, cleaned, cleaned_until, (part).at_xid, (part).at_id, (part).to_xid,
                   (part).hi, (part).is_buried, (part).most, max_entries) e
        ) e
        left join lateral awa._group_state(_admission.shard, e.group_id) s on true
        left join lateral awa._group_terms(settings, _admission.shard >> 6, e.group_id, has_own, at) t
          on e.group_id is not null
    ) k
$$;
comment on function awa._admission is
  'The entries of a part of a window, in their order, and which of them a claim takes (takes is 1)';

-- Whether a part of a window has entries. They may be buried.
-- Why: most often, where a lane has turns, it has none; and the statement of _admit_part takes ten times as long.
create or replace function awa._has_entries(
  lane bigint,
  part awa._window_row,
  cleaned smallint,
  cleaned_until pg_snapshot
) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
begin
  return (
    select true
      from awa.ready_entries e
     where e.lane = lane
       and (e.segment <> cleaned or not pg_visible_in_snapshot(e.xid, cleaned_until))
       and (e.xid, e.job_id) > (part.at_xid, part.at_id)
       and e.xid <= part.to_xid
       and pg_visible_in_snapshot(e.xid, part.hi)
     limit 1
  ) is true;
end
$$;
comment on function awa._has_entries is 'Whether a part of a window has entries. They may be buried';

-- Takes the entries of a part of a window that may begin, and puts the others into the lines of their groups.
-- As far as there is room for jobs and bytes. Of the others it copies 8 kB for each of max_entries, and one at least.
-- claim: the row to append, without the values of its entries. Its bytes have a 64th of those of jobs that do not
-- begin: 12 MB of these use up the usual byte budget. Where none begins, they are those of the others: see _scanned.
-- one_by_one: see _admit_each.
-- Locks: the states that it replaces, tried.
create or replace function awa._admit_part(
  queue text, shard bigint, lane bigint, part awa._window_row, cleaned smallint, cleaned_until pg_snapshot,
  max_entries int, room int, room_bytes bigint, is_first boolean, settings awa.queue_settings, has_own boolean,
  claim awa.lease_claims, one_by_one boolean
) returns setof awa.claimed_job_row
language plpgsql
as $$
#variable_conflict use_variable
begin
  claim.lane := lane;
  claim.lane_seq := part.lane_seq + 1;
  claim.hi := part.hi;
  claim.lo := part.lo;
  if one_by_one then
    return query select * from awa._admit_each(queue, shard, lane, part, cleaned, cleaned_until, max_entries, room,
      room_bytes, is_first, settings, has_own, claim);
  elsif max_entries = 1 and is_first and settings.group_rate is null and (has_own or settings.group_turns) is not true
  then
    return query
      select * from awa._admit_first(queue, shard, part, cleaned, cleaned_until, settings.group_max_running, claim);
    if found then
      return;
    end if;
  end if;
  if one_by_one or not awa._has_entries(lane, part, cleaned, cleaned_until) then
    return;
  end if;
  return query
    with decided as materialized (
      select d.*, sum(d.takes) over through as jobs_through,
             sum(case when d.takes = 1 then d.size else 0 end) over through as bytes_through,
             count(*) filter (where d.size is null) over through as expired_through,
             sum(d.size * (1 - d.takes)) over through as aside_through
        from awa._admission(shard, lane, part, cleaned, cleaned_until, max_entries, awa._row_bytes(queue),
               settings, has_own, claim.claimed_at) d
      window through as (order by d.ordinality rows unbounded preceding)
    ), cut as materialized (
      select count(*)::int as entries, count(*) filter (where d.jobs_through - d.takes < room
                 and (d.bytes_through <= room_bytes or d.jobs_through = 0 or d.jobs_through = 1 and is_first)
                 and (d.jobs_through * d.expired_through = 0 or not claim.holds_queue) -- see _fitting
                 and (d.aside_through <= max_entries * 8192::bigint or d.ordinality = 1) is not false)::int as jobs
        from decided d
    ), changed as materialized (
      select d.group_id, (array_agg(d.row_id))[1] as row_id,
             min(d.running) + case when min(d.max_running) is null then 0 else sum(d.takes) end as running,
             bool_or(d.has_line or d.takes = 0 and lane & 7 <> 0 and d.job_id is distinct from d.holder) as has_line,
             bool_or(d.has_front or d.takes = 0 and (lane & 7 = 0 or d.job_id = d.holder) is true) as has_front,
             min(d.taken) as taken, min(d.front_taken) as front_taken,
             nullif(min(d.holder), min(d.job_id) filter (where d.job_id = d.holder)) as holder,
             case
               when bool_or(d.rate is not null) -- without one the call costs more than all the rest
                 then awa._rate_after((array_agg(d.rate))[1], min(d.next_at), claim.claimed_at, sum(d.takes)::int)
               else min(d.next_at)
             end as next_at,
             min(d.rate_turns) as rate_turns, min(d.opens_at) as opens_at, bool_or(d.is_paused) as is_paused,
             min(d.paused_until) as paused_until, (array_agg(d.rate))[1] as rate
        from cut c
       cross join decided d
       where d.ordinality <= c.jobs and d.group_id is not null and d.size is not null
         and (num_nonnulls(d.max_running, d.rate) > 0 or d.takes = 0)
       group by d.group_id
    ), gone as (
      delete from awa.group_states s where s.ctid = any(array(
        select s.ctid
          from awa.group_states s
         where s.ctid = any(array(select c.row_id from changed c))
           for update skip locked -- fold may be removing it: it counts no more
      ))
    ), states as (
      insert into awa.group_states
        (shard, group_id, state_id, running, has_line, has_front, taken, front_taken, holder, next_at, rate_turns,
         opens_at)
      select shard, c.group_id, nextval('awa.state_ids'), c.running, c.has_line, c.has_front, c.taken, c.front_taken,
             c.holder, c.next_at, c.rate_turns,
             case when c.has_line or c.has_front then coalesce(
               awa._opens_at(c.is_paused, c.paused_until, c.rate, c.next_at, c.rate_turns, claim.claimed_at),
               c.opens_at) end
        from changed c
    ), put_aside as (
      insert into awa.limited_jobs
        (waiting_id, shard, group_id, job_id, lane, ready_at, created_at, attempt, max_attempts, body_bytes,
         unique_key, kind, args, tags, metadata, group_key, expires_at, progress, errors)
      select nextval('awa.waiting_ids')
               - case when lane & 7 = 0 or e.job_id = e.holder then 4611686018427387904 else 0 end,
             shard, e.group_id, e.job_id, shard << 3 | e.priority, e.ready_at, coalesce(e.created_at, e.ready_at),
             e.attempt, e.max_attempts, e.body_bytes, e.unique_key, e.kind, e.args, e.tags, e.metadata, e.group_key,
             e.expires_at, e.progress, case when e.created_at is not null then awa._errors_of(lane, e.xid, e.job_id) end
        from (
          select d.*
            from cut c
           cross join decided d
           where d.takes = 0 and d.size is not null and d.ordinality <= c.jobs
           order by d.ordinality
        ) e
    ), claim as materialized (
      select awa._append_limited(claim, num_nonnulls(part.late, part.most) > 0 or f.entries = max_entries
               or f.jobs < f.entries, f.xids, f.job_ids, f.keys, f.groups, f.bytes, f.aside, f.expired) as claim_id
        from (
          select c.entries, c.jobs, array_agg(d.xid order by d.ordinality) as xids,
                 array_agg(d.job_id order by d.ordinality) as job_ids,
                 case max(d.takes) when 1 then sum(d.size >> 6 - 6 * d.takes) else sum(d.size) end as bytes,
                 array_agg(case when d.takes = 1 then d.unique_key end order by d.ordinality) as keys,
                 array_agg(case when d.takes * d.max_running > 0 then d.group_id end order by d.ordinality) as groups,
                 array_agg(d.ordinality - 1) filter (where d.size is null) as expired,
                 array_agg((d.ordinality - 1)::smallint) filter (where d.takes = 0 and d.size is not null) as aside
            from cut c
           cross join decided d
           where d.ordinality <= c.jobs
           group by c.entries, c.jobs
        ) f
    )
    select e.job_id, c.claim_id << 12 | (e.ordinality - 1), queue, e.kind, e.args, e.priority::int, e.attempt::int,
           e.max_attempts::int, coalesce(e.created_at, e.ready_at), e.ready_at, claim.deadline_at, e.tags, e.metadata,
           e.progress, e.group_key, e.expires_at
      from claim c
     cross join cut u
     cross join decided e
     where e.ordinality <= u.jobs and e.takes = 1;
end
$$;
comment on function awa._admit_part is
  'Takes the entries of a part of a window that may begin, and puts the others into the lines of their groups';

-- Takes the entries of a part of a window as _admit_part does, where the server has refused a row.
-- That is most often because of a user's trigger. It takes twice as many as the last time; where that fails, one. An
-- entry that is refused by itself is put off.
-- Not for a resource that the server lacks, or another session that is in the way.
create or replace function awa._admit_each(
  queue text, shard bigint, lane bigint, part awa._window_row, cleaned smallint, cleaned_until pg_snapshot,
  max_entries int, room int, room_bytes bigint, is_first boolean, settings awa.queue_settings, has_own boolean,
  claim awa.lease_claims
) returns setof awa.claimed_job_row
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_many int;
  v_refusal text;
begin
  foreach v_many in array array[awa._at_once(lane, part.lane_seq, claim.claimed_at, max_entries), 1] loop
    begin
      return query
        select * from awa._admit_part(queue, shard, lane, part, cleaned, cleaned_until, v_many, room, room_bytes,
          is_first, settings, has_own, claim, false);
      return;
    exception when others then
      v_refusal := awa._refusal_of_one(sqlerrm, sqlstate);
      if v_refusal is null then
        raise;
      end if;
    end;
    exit when v_many = 1;
  end loop;
  perform awa._put_off_entry(shard, lane, part, cleaned, cleaned_until, claim, v_refusal);
end
$$;
comment on function awa._admit_each is
  'Takes the entries of a part of a window as _admit_part does, where the server has refused a row';

-- How many entries of a lane a claim looks at next, after one that was refused: twice as many as the last time.
create or replace function awa._at_once(lane bigint, lane_seq bigint, claimed_at timestamptz, most int) returns int
language plpgsql
as $$
#variable_conflict use_variable
begin
  return least(most, coalesce((
    select 2 * cardinality(c.job_ids)
      from awa.lease_claims c
     where c.lane = lane and c.lane_seq = lane_seq and c.claimed_at = claimed_at and c.job_ids <> '{}'
     limit 1
  ), 1));
end
$$;
comment on function awa._at_once is
  'How many entries of a lane a claim looks at next, after one that was refused: twice as many as the last time';

-- Puts off the first entry of a part of a window, by a claim of its own, since the server refuses a row of it.
-- Where it can't be put off either, it is an attempt of nobody that rescue ends in ten seconds.
-- Why: the cursor has to pass it, or no claim comes to the jobs behind it.
create or replace function awa._put_off_entry(
  shard bigint,
  lane bigint,
  part awa._window_row,
  cleaned smallint,
  cleaned_until pg_snapshot,
  claim awa.lease_claims,
  refusal text
) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_entry record;
  v_receipt bigint;
begin
  select e.xid, e.job_id, e.group_key into v_entry
    from awa._read_part(lane, cleaned, cleaned_until, part.at_xid, part.at_id, part.to_xid, part.hi, part.is_buried,
           part.most, 1) e;
  claim.lane := lane;
  claim.lane_seq := part.lane_seq + 1;
  claim.hi := part.hi;
  claim.lo := part.lo;
  claim.lease_until := clock_timestamp() + interval '10 seconds';
  claim.deadline_at := null;
  claim.worker_id := null;
  claim.holds_queue := false;
  v_receipt := awa._append_limited(claim, true, array[v_entry.xid], array[v_entry.job_id], '{}', '{}', 0, null, null)
    << 12;
  begin
    perform awa._put_off_item(v_receipt, 'put it in line', refusal);
    perform awa._hold_if_idle(shard, awa._group_id(v_entry.group_key), v_entry.job_id)
      where v_entry.group_key is not null;
  exception when others then
    if not awa._is_about_a_row(sqlstate) then
      raise;
    end if;
  end;
end
$$;
comment on function awa._put_off_entry is
  'Puts off the first entry of a part of a window, by a claim of its own, since the server refuses a row of it';

-- Warns of the jobs that a claim has put off since the server refuses to put them in line.
create or replace function awa._warn_put_off(terms awa._terms_row, refusal text) returns void
language plpgsql
as $$
begin
  perform awa._warn_refused(array(
      select c.job_ids[1]
        from unnest(terms.lanes) l(lane)
       cross join lateral (
          select * from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 2000
        ) c
       where c.claimed_at = terms.claimed_at
         and (
           select true from awa.lease_claim_closures k where k.claim_id = c.claim_id and k.outcome = 'snoozed' limit 1)
    ), 'can''t wait for its group', refusal);
end
$$;
comment on function awa._warn_put_off is
  'Warns of the jobs that a claim has put off since the server refuses to put them in line';

-- Takes the first entry of a part of a window, where its group has room, and no line.
-- Returns nothing where it is another case: see _admit_part. group_max_running: the limit of each group.
-- Locks: the state that it replaces, tried.
-- Why: for a claim of one job the statement of _admit_part takes several times as long.
create or replace function awa._admit_first(
  queue text,
  shard bigint,
  part awa._window_row,
  cleaned smallint,
  cleaned_until pg_snapshot,
  group_max_running int,
  claim awa.lease_claims
) returns setof awa.claimed_job_row
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_entry record;
  v_group_id bigint;
  v_state record;
  v_claim_id bigint;
begin
  select e.* into v_entry
    from awa._read_part(claim.lane, cleaned, cleaned_until, part.at_xid, part.at_id, part.to_xid, part.hi,
           part.is_buried, part.most, 1) e;
  if not found or awa._is_expired(v_entry.expires_at, v_entry.attempt, claim.claimed_at) then
    return;
  end if;
  if v_entry.group_key is not null then
    v_group_id := awa._group_id(v_entry.group_key);
    select s.row_id, s.running, s.taken, s.front_taken,
           s.has_line or s.has_front or num_nonnulls(s.holder, s.next_at, s.opens_at) > 0 as has_more into v_state
      from awa._group_state(shard, v_group_id) s;
    if v_state.has_more or v_state.running >= group_max_running then
      return;
    end if;
    if group_max_running is null then
      v_group_id := null;
    else
      insert into awa.group_states
        (shard, group_id, state_id, running, has_line, has_front, taken, front_taken, rate_turns)
      values (shard, v_group_id, nextval('awa.state_ids'), coalesce(v_state.running, 0) + 1, false, false,
        coalesce(v_state.taken, 0), coalesce(v_state.front_taken, -9223372036854775808), 0);
      if v_state.row_id is not null then
        delete from awa.group_states s where s.ctid = any(array( -- fold may be removing it
          select s.ctid from awa.group_states s where s.ctid = v_state.row_id for update skip locked));
      end if;
    end if;
  end if;
  v_claim_id := awa._append_limited(claim, true, array[v_entry.xid], array[v_entry.job_id], array[v_entry.unique_key],
    array[v_group_id], v_entry.body_bytes + awa._row_bytes(queue), null, null);
  return query
    select v_entry.job_id, v_claim_id << 12, queue, v_entry.kind, v_entry.args, v_entry.priority::int,
           v_entry.attempt::int, v_entry.max_attempts::int, coalesce(v_entry.created_at, v_entry.ready_at),
           v_entry.ready_at, claim.deadline_at, v_entry.tags, v_entry.metadata, v_entry.progress, v_entry.group_key,
           v_entry.expires_at;
end
$$;
comment on function awa._admit_first is
  'Takes the first entry of a part of a window, where its group has room, and no line';

-- Appends a claim of some entries, in their order; returns its id. Those that are put aside are closed at once.
-- keys, groups: of those that begin; null where there is none. goes_on: its window is not read to its end. expired,
-- aside: the items that have expired, and those that are put aside.
create or replace function awa._append_limited(
  claim awa.lease_claims,
  goes_on boolean,
  xids xid8[],
  job_ids bigint[],
  keys bytea[],
  groups bigint[],
  bytes bigint,
  aside smallint[],
  expired bigint[]
) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_size constant int := cardinality(job_ids);
begin
  claim.claim_id := nextval('awa.claim_ids');
  claim.first_xid := xids[1];
  claim.first_id := job_ids[1];
  claim.pos_xid := xids[v_size];
  claim.pos_id := job_ids[v_size];
  claim.lo := case when goes_on then claim.lo end;
  claim.bytes := least(coalesce(bytes, 0), 2147483647);
  claim.job_ids := job_ids;
  claim.holds_keys := array_remove(keys, null) <> '{}';
  if array_remove(groups, null) <> '{}' then
    claim.groups := groups;
  end if;
  perform awa._append_claim(claim, case when claim.holds_keys then keys end, expired);
  if aside is not null then -- a claim of one job is never closed by a batch row
    perform awa._append_closure(claim.segment, claim.claim_id,
      case when v_size = 1 then 0 else awa._next_batch(null) end, case when v_size > 1 then aside end, 'limited');
  end if;
  return claim.claim_id;
end
$$;
comment on function awa._append_limited is
  'Appends a claim of some entries, in their order; returns its id. Those that are put aside are closed at once';
