-- Gaps, in which rescue was not called, so that workers could send no heartbeats; and times that a clock which was
-- ahead has written.

-- Notes that rescue is called, and the gap since the last call, if that was more than 10 seconds ago.
-- Where the clock was set back, the gaps that lie ahead become one that ends now.
-- Locks: rows of gaps; skips those that another session holds.
-- Why: a change of rescue_called_at is visible to all sessions at once, but the row of a gap only when it commits, and
-- it may roll back. So rescue_called_at moves only past a gap that is older than this transaction. Otherwise other
-- sessions would end attempts that the gap spares.
create or replace function awa._note_call(now timestamptz) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_called_at timestamptz;
  v_gap_ended_at timestamptz;
  v_last timestamptz;
  v_began_at timestamptz; -- of a gap
begin
  select case when s.is_called then to_timestamp(s.last_value / 1000000.0) end
    into v_called_at
    from awa.rescue_called_at s;
  select g.ended_at into v_gap_ended_at from awa.rescue_gaps g order by g.began_at desc, g.ended_at desc limit 1;
  v_last := greatest(v_called_at, v_gap_ended_at);
  if v_last > now + interval '1 second' then -- the clock was set back
    with gone as (
      delete from awa.rescue_gaps g
       where (g.began_at, g.ended_at) in (
          select h.began_at, h.ended_at from awa.rescue_gaps h where h.ended_at > now for update skip locked
        )
      returning g.began_at
    )
    select least(min(g.began_at), case when count(*) > 0 then now end) into v_began_at from gone g;
    perform setval('awa.rescue_called_at', awa._microseconds(now));
  elsif v_last < now - interval '10 seconds' then
    v_began_at := v_last;
  elsif (v_called_at is null or v_called_at < now - interval '1 second')
    and (v_gap_ended_at is null or v_gap_ended_at < transaction_timestamp()) then
    perform setval('awa.rescue_called_at', awa._microseconds(now));
  end if;
  if v_began_at is not null then
    insert into awa.rescue_gaps (began_at, ended_at) values (v_began_at, now) on conflict do nothing;
  end if;
  if exists (select from awa.rescue_gaps g where g.ended_at < least(v_last, now) - interval '1 hour') then
    perform awa._forget_gaps(least(v_last, now));
  end if;
end
$$;
comment on function awa._note_call is
  'Notes that rescue is called, and the gap since the last call, if that was more than 10 seconds ago';

-- Removes gaps that ended longer before the last call of rescue than any lease is long, and than an hour.
-- Locks: their rows; skips those that another session holds.
-- Why: a gap is of no use to attempts that began after it, nor to workers.
create or replace function awa._forget_gaps(last_call timestamptz) returns void
language sql
as $$
  delete from awa.rescue_gaps g
   where (g.began_at, g.ended_at) in (
     select h.began_at, h.ended_at
       from awa.rescue_gaps h
      where h.ended_at < last_call - greatest(interval '1 hour', (select max(l.lease) from awa.leases l),
        (
          select max(o.lease_until - o.claimed_at)
            from awa._open_items o
           where o.queue_id = any(array(select q from awa._busy_queues() q))
        ))
        for update skip locked)
$$;
comment on function awa._forget_gaps is
  'Removes gaps that ended longer before the last call of rescue than any lease is long, and than an hour';

-- Sets back times of workers and leases that a clock which was ahead has written.
-- Not when an attempt was claimed that has never begun, since its job had expired then: see _is_kept.
-- Locks: their rows, until the transaction ends; skips those that another session holds.
create or replace function awa._set_times_back(now timestamptz) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  update awa.workers w set heartbeat_at = now
   where w.worker_id = any(
     array(
       select w.worker_id from awa.workers w where w.heartbeat_at > now + interval '1 second' for update skip locked
     )
   );
  update awa.leases l
     set claimed_at = case when awa._is_kept(l) then l.claimed_at else least(l.claimed_at, now) end,
         lease_until = least(l.lease_until, now + l.lease),
         deadline_at = l.deadline_at - greatest(l.claimed_at - now, '0')
   where l.receipt = any(array(
     select l.receipt
       from awa.leases l
      where l.claimed_at > now + interval '1 second' and not awa._is_kept(l)
         or l.lease_until > now + l.lease + interval '1 second'
        for update skip locked));
end
$$;
comment on function awa._set_times_back is
  'Sets back times of workers and leases that a clock which was ahead has written';
