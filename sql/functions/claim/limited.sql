-- Claims from a queue that has, or had, limits.

-- Takes jobs from a queue with limits: see _take_limited.
-- Where the server refuses a row of one of them, because of a user's trigger, it takes them one by one.
create or replace function awa._claim_limited(
  queue text,
  shard bigint,
  now pg_snapshot,
  terms awa._terms_row,
  max_jobs int,
  worker_id bigint
) returns setof awa.claimed_job_row
language plpgsql
as $$
begin
  if terms.lanes = '{}' and not terms.has_others then -- it was paused: without its front lane, others would go first
    return;
  end if;
  return query select * from awa._take_limited(queue, shard, now, terms, max_jobs, worker_id, false);
exception when others then
  if awa._is_passing(sqlstate) or not awa._is_about_a_row(sqlstate) then
    raise;
  end if;
  return query select * from awa._take_limited(queue, shard, now, terms, max_jobs, worker_id, true);
  perform awa._warn_put_off(terms, awa._refusal(sqlerrm, sqlstate));
end
$$;
comment on function awa._claim_limited is 'Takes jobs from a queue with limits: see _take_limited';

-- Takes up to max_jobs jobs of a shard that the caller has locked, as the limits of its queue allow.
-- First it takes jobs that were given back, which come first in their groups. Then groups with room get turns for the
-- jobs in their lines. Then it goes through the lanes: in each it begins the jobs that have turns, then reads new
-- entries. It takes those whose group has room and no line, and puts the others into the line of their group: out of
-- the log, into limited_jobs. Where groups are served by turns, _take_by_turns does that. It reads at most about 2,000
-- entries; where these gave it no job, or it has left groups to the next claim, it wakes the queue.
-- now: a snapshot that was taken under the lock. Limits of the queue as a whole lower the number of jobs: their state
-- is that of the first shard, whose lock it tries where it claims from another one.
-- Why: all that decides who may begin is written and read under the lock of the shard. Only that a slot is free comes
-- from outside: see _free_slots.
create or replace function awa._take_limited(
  queue text, shard bigint, now pg_snapshot, terms awa._terms_row, max_jobs int, worker_id bigint, one_by_one boolean
) returns setof awa.claimed_job_row
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_limits record;
  v_settings awa.queue_settings;
  v_state awa.shard_states;
  v_bytes bigint := terms.claim_bytes;
  v_room int;
  v_groups bigint[];
  v_freed int[];
  v_dealt awa.turns[] := '{}';
  v_is_dealt boolean := false;
  v_order record;
  v_lane bigint;
  v_window awa._window_row;
  v_claim awa.lease_claims;
  v_jobs int;
  v_turns record;
  v_is_stuck boolean := false; -- the last turns that it looked at have not begun
  v_last bigint := 0;
  v_scanned int := 0;
begin
  v_limits := awa._limits_now(terms.queue_id, shard, now, terms.claimed_at, max_jobs);
  if v_limits.most is null then
    return;
  end if;
  v_settings := v_limits.settings;
  v_state := v_limits.state;
  v_groups := v_limits.groups;
  v_freed := v_limits.freed;
  v_room := v_limits.most;
  v_claim := (0, 0, 0, null, 0, null, 0, terms.claimed_at, terms.lease_until, terms.deadline_at, worker_id,
    terms.segment, 0, false, null, null, null, null, v_settings.max_running is not null)::awa.lease_claims;
  <<rounds>>
  for v_round in 0..3 loop
    if v_round = 0 then -- jobs that were given back come before turns, and may take free slots
      continue when shard << 3 <> all(terms.lanes);
      v_order := awa._limited_lanes(terms, shard, now, v_settings.aging_interval, v_state.turns_until, true);
      if v_order.lanes <> '{}' and v_groups <> '{}' then
        perform awa._deal_turns(shard, v_groups, v_freed, v_settings, v_limits.has_own, terms.claimed_at, false);
        v_freed := array_fill(0, array[cardinality(v_groups)]);
      end if;
    elsif v_settings.group_turns then
      return query select * from awa._take_by_turns(queue, shard, now, terms, v_settings, v_state, v_limits.whole,
        v_limits.has_slots, v_limits.has_own, v_groups, v_freed, v_claim, v_limits.most, v_room, v_bytes, one_by_one);
      return;
    else
      exit when v_round > 1 and v_groups = '{}';
      if v_groups <> '{}' then
        v_dealt := v_dealt
          || awa._deal_turns(shard, v_groups, v_freed, v_settings, v_limits.has_own, terms.claimed_at, true);
        v_groups := '{}';
        v_freed := '{}';
      end if;
      v_is_dealt := true;
      exit when v_room <= 0;
      v_last := (select s.last_value from awa.turn_ids s); -- turns that are put off get later ones
      v_order := awa._limited_lanes(terms, shard, now, v_settings.aging_interval, v_state.turns_until, false, v_dealt);
    end if;
    foreach v_lane in array v_order.lanes loop
      while v_lane = any(v_order.turned) loop
        exit rounds when v_room <= 0 or v_bytes <= 0;
        v_turns := awa._next_turns(v_lane, v_state.turns_until[(v_lane & 7) + 1], v_last, v_dealt, v_is_stuck, v_room,
          v_bytes, awa._row_bytes(queue), terms.claimed_at, v_room = v_limits.most);
        exit rounds when v_turns.is_full;
        v_is_stuck := v_turns.waiting_ids = '{}';
        v_dealt := v_turns.left_over;
        v_state.turns_until[(v_lane & 7) + 1] := v_turns.last_id;
        v_groups := v_groups || v_turns.void;
        v_freed := v_freed || array_fill(1, array[cardinality(v_turns.void)]);
        perform awa._count_served(shard, v_turns.groups, v_turns.void, v_settings, v_limits.has_own, terms.claimed_at)
          where v_settings.group_rate is not null or v_limits.has_own;
        if v_turns.waiting_ids <> '{}' then
          return query select * from awa._begin_turns(queue, shard, now, v_turns.waiting_ids, v_claim, one_by_one);
          get diagnostics v_jobs = row_count;
          v_room := v_room - v_jobs;
          v_bytes := v_bytes - v_turns.bytes;
        end if;
        exit when v_turns.is_read;
      end loop;
      continue when v_lane <> all(v_order.unread);
      v_window := awa._open_window(terms.segment, v_lane, now, terms.has_tombstones);
      loop -- new entries
        exit rounds when v_room <= 0 or v_bytes <= 0 or v_scanned >= 2000;
        if v_window.at_xid < pg_snapshot_xmax(v_window.lo) then
          v_window := awa._late_part(v_lane, v_window, terms.cleaned, terms.cleaned_until);
        end if;
        return query select * from awa._admit_part(queue, shard, v_lane, v_window, terms.cleaned, terms.cleaned_until,
          awa._to_read(v_room + case v_room when 1 then least(v_scanned, 50) else 50 end, v_jobs + v_window.passed,
            v_claim.holds_queue and v_scanned > 0, 450), v_room, v_bytes, v_room = v_limits.most, v_settings,
          v_limits.has_own, v_claim, one_by_one);
        get diagnostics v_jobs = row_count;
        v_room := v_room - v_jobs;
        exit rounds when v_room = 0;
        v_window := awa._next_part(terms.segment, v_lane, now, v_window, v_jobs, v_room = v_limits.most,
          terms.cleaned, terms.cleaned_until, true, terms.has_others, terms.began_at);
        v_bytes := v_bytes - case when v_jobs > 0 then v_window.bytes else 0 end;
        v_scanned := v_scanned + awa._scanned(v_jobs, v_window, case when one_by_one then terms.began_at end);
        exit rounds when v_window.is_full;
        exit when v_window.is_read;
      end loop;
    end loop;
  end loop;
  if v_groups <> '{}' then
    v_dealt := v_dealt
      || awa._deal_turns(shard, v_groups, v_freed, v_settings, v_limits.has_own, terms.claimed_at, v_is_dealt);
    perform awa._look_again(shard, v_groups) where not v_is_dealt; -- the front lane is not read to its end
  end if;
  perform awa._store_turns(v_dealt) where v_dealt <> '{}';
  perform awa._store_limits(v_settings, v_state, v_limits.whole, terms.claimed_at, v_limits.most - v_room,
    case when v_limits.has_slots then now end);
  if v_room = v_limits.most and (v_scanned >= 2000 or v_is_dealt and awa._looks_again(shard)) then
    perform awa._wake(terms.queue_id);
  end if;
end
$$;
comment on function awa._take_limited is
  'Takes up to max_jobs jobs of a shard that the caller has locked, as the limits of its queue allow';

-- For how many entries a part of a window counts from which a claim took so many jobs, of 2,000 that it may read.
-- Where all were put aside, they count for one in each 8 kB. began_at, where the claim goes one by one: for all, once
-- its time is over.
create or replace function awa._scanned(jobs int, part awa._window_row, began_at timestamptz) returns int
language plpgsql
as $$
begin
  return case
    when began_at is not null and clock_timestamp() > began_at + awa._budget('1 second', 4) then 2000
    when jobs = 0 then greatest(part.passed, least(part.bytes / 8192, 2000))
    else jobs + part.passed
  end;
end
$$;
comment on function awa._scanned is
  'For how many entries a part of a window counts from which a claim took so many jobs, of 2,000 that it may read';

-- Puts entries into the lines of their groups as _put_aside does, where the server has refused a row.
-- As _admit_each does it.
create or replace function awa._put_aside_each(
  shard bigint,
  lane bigint,
  part awa._window_row,
  cleaned smallint,
  cleaned_until pg_snapshot,
  max_entries int,
  claim awa.lease_claims,
  out fresh bigint[],
  out held bigint[],
  out lanes bigint[],
  out bytes bigint
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_many int;
  v_part record;
  v_refusal text;
begin
  foreach v_many in array array[awa._at_once(lane, part.lane_seq, claim.claimed_at, max_entries), 1] loop
    begin
      v_part := awa._put_aside(shard, lane, part, cleaned, cleaned_until, v_many, claim);
      fresh := v_part.fresh;
      held := v_part.held;
      lanes := v_part.lanes;
      bytes := v_part.bytes;
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
  fresh := '{}';
  held := '{}';
  lanes := '{}';
  bytes := 0;
end
$$;
comment on function awa._put_aside_each is
  'Puts entries into the lines of their groups as _put_aside does, where the server has refused a row';

-- The bytes of the fixed columns of a claimed row, in text format.
create or replace function awa._row_bytes(queue text) returns int
language sql immutable
return 153 + octet_length(queue);
comment on function awa._row_bytes is 'The bytes of the fixed columns of a claimed row, in text format';

-- The lanes of a shard in the order in which claims serve them, without lanes that have neither turns nor new entries.
-- in_front: its front lane alone; otherwise all others but the lane of turns. The order is by priority, less one for
-- each aging interval that the first job in line has waited. turned: the lanes that have turns, which wait or were just
-- dealt. unread: those that may have new entries; a lane that is the only one counts as unread.
create or replace function awa._limited_lanes(
  terms awa._terms_row,
  shard bigint,
  now pg_snapshot,
  aging interval,
  turns_until bigint[],
  in_front boolean,
  dealt awa.turns[] default '{}',
  out lanes bigint[],
  out turned bigint[],
  out unread bigint[]
)
language plpgsql stable
as $$
#variable_conflict use_column
begin
  lanes := array(select l.lane from awa._lanes_in_shard(shard) l where in_front = (l.lane & 7 = 0) and l.lane & 7 < 5);
  if cardinality(lanes) = 1 and not in_front then -- most often there is one, and no order
    unread := lanes;
    turned := array(
      select lanes[1]
       where dealt <> '{}'
          or exists (select from awa.turns t where t.lane = lanes[1] and t.turn_id > turns_until[(lanes[1] & 7) + 1]));
    return;
  end if;
  select coalesce(array_agg(l.lane), '{}'), coalesce(array_agg(l.lane) filter (where l.first_turn is not null), '{}'),
         coalesce(array_agg(l.lane) filter (where l.is_unread), '{}')
    into lanes, turned, unread
    from (
      select l.lane, t.waiting_id as first_turn, u.is_unread
        from unnest(lanes) l(lane)
        left join lateral (
          select * from awa.lease_claims c where c.lane = l.lane order by c.lane_seq desc limit 1
        ) c on true
       cross join lateral awa._head(l.lane,
          greatest(case when c.lo is not null then c.pos_xid end, pg_snapshot_xmax(coalesce(c.lo, c.hi, '3:3:'))),
          case when c.lo is not null and c.pos_xid >= pg_snapshot_xmax(c.lo) then c.pos_id else 0 end, terms.cleaned,
          terms.cleaned_until) h
       cross join lateral (
          select h.ready_at is not null
              or h.took > interval '10 milliseconds'
              or (
                select true
                  from (select pg_snapshot_xip(c.lo) union all select pg_snapshot_xip(c.hi)) x(xid)
                 where pg_visible_in_snapshot(x.xid, now)
                 limit 1
              ) is true as is_unread
        ) u
        left join lateral (
          select t.waiting_id,
                 (select w.ready_at from awa.limited_jobs w where w.waiting_id = t.waiting_id) as ready_at
            from (
              (
                select t.waiting_id
                  from awa.turns t
                 where t.lane = l.lane and t.turn_id > turns_until[(l.lane & 7) + 1]
                 order by t.turn_id
                 limit 1
              )
              union all
              select d.waiting_id from unnest(dealt) d where d.lane = l.lane
            ) t
           limit 1
        ) t on true
       where u.is_unread or t.waiting_id is not null
       order by (l.lane & 7) - floor(
                  greatest(extract(epoch from terms.claimed_at - least(h.ready_at, t.ready_at))::float8, 0)
                    / extract(epoch from coalesce(aging, awa._default_interval('aging_interval')))::float8
                ),
                least(h.ready_at, t.ready_at),
                l.lane
    ) l;
end
$$;
comment on function awa._limited_lanes is
  'The lanes of a shard in the order in which claims serve them, without lanes that have neither turns nor new entries';
