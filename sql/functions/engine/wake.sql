-- Notifications.

-- Whether a session has notified the workers of a queue within the same 5 ms.
-- The next tick is that of a quicker session. The planner puts the expression in the place of the call.
create or replace function awa._is_awake(queue_id bigint) returns boolean
language sql
as $$
  select pg_sequence_last_value(('awa.wake_clock_' || to_hex(queue_id >> 50))::regclass)
    - (date_part('epoch', clock_timestamp()) * 200)::bigint in (0, 1)
$$;
comment on function awa._is_awake is 'Whether a session has notified the workers of a queue within the same 5 ms';

-- Whether maintenance may not look at the deferred jobs again before a time.
-- It looks within a second, and some time is left for the commit. The planner puts the expression in the place of the
-- call.
create or replace function awa._is_due_soon(run_at timestamptz) returns boolean
language sql volatile
return run_at < clock_timestamp() + interval '1.2 seconds';
comment on function awa._is_due_soon is 'Whether maintenance may not look at the deferred jobs again before a time';

-- Notifies maintenance, when the caller commits, of a deferred job, or a schedule, that is due before it looks again.
-- At most once per 5 ms.
create or replace function awa._wake_due(run_at timestamptz) returns void
language plpgsql
as $$
begin
  if awa._is_due_soon(run_at) then
    perform awa._notify_once('awa.due_clock', 'awa_due');
  end if;
end
$$;
comment on function awa._wake_due is
  'Notifies maintenance, when the caller commits, of a deferred job, or a schedule, that is due before it looks again';

-- Notifies the workers of a queue when the caller commits, at most once per 5 ms.
-- The channel is awa_wake_ and the first hexadecimal digit of the SHA-256 of the queue's name: queues that share it
-- wake together.
create or replace function awa._wake(queue_id bigint) returns void
language plpgsql
as $$
declare
  v_digit text := to_hex(queue_id >> 50);
begin
  perform awa._notify_once(('awa.wake_clock_' || v_digit)::regclass, 'awa_wake_' || v_digit);
end
$$;
comment on function awa._wake is 'Notifies the workers of a queue when the caller commits, at most once per 5 ms';

-- Notifies the workers of a queue when the caller commits, whatever was sent before.
-- Why: for rare calls that open a queue or a group. One within 5 ms of a transaction that was rolled back would not be
-- announced, and an idle worker would come with its next look.
create or replace function awa._wake_now(queue_id bigint) returns void
language plpgsql
as $$
begin
  perform awa._notify('awa_wake_' || to_hex(queue_id >> 50), '');
end
$$;
comment on function awa._wake_now is
  'Notifies the workers of a queue when the caller commits, whatever was sent before';

-- Notifies when the caller commits, unless another session has done so within the same 5 ms of a clock.
-- Nor when another transaction is about to notify, and another session has done so within 50 ms.
-- Locks: that of the transaction that notifies, where it can have it at once, until the transaction ends.
-- Why: a transaction that notifies keeps a lock of the whole server while its commit is written to the disk. Where that
-- takes longer than 5 ms, those that notify would come faster than they go, until every producer is one of them.
create or replace function awa._notify_once(clock regclass, channel text) returns void
language plpgsql
as $$
declare
  v_tick bigint := extract(epoch from clock_timestamp()) * 200;
  v_last bigint := coalesce(pg_sequence_last_value(clock), 0);
begin
  -- before, or a clock that was ahead; the next tick is that of a quicker session
  if v_last not between v_tick and v_tick + 1
    and (pg_try_advisory_xact_lock(awa._notifier_key()) or v_last not between v_tick - 10 and v_tick + 1)
  then
    perform setval(clock, v_tick), awa._notify(channel, '');
  end if;
end
$$;
comment on function awa._notify_once is
  'Notifies when the caller commits, unless another session has done so within the same 5 ms of a clock';

-- Notifies when the caller commits, if that is safe and the settings allow it.
-- It is not while the server's queue of notifications is half full: when it is full, commits fail. Everything works
-- without.
create or replace function awa._notify(channel text, payload text) returns void
language plpgsql
as $$
begin
  if pg_notification_queue_usage() < 0.5 and (select s.notifications from awa.settings s) then
    perform pg_notify(channel, payload);
  end if;
end
$$;
comment on function awa._notify is 'Notifies when the caller commits, if that is safe and the settings allow it';
