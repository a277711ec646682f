-- Changes settings of a queue.
-- Settings that are not named stay; null brings a default back. Makes the queue if it does not exist. The reference
-- lists the keys, with their ranges.
-- Locks: the queue's name, shared, and its settings, until the transaction ends; only drop_queue and other changes of
-- its settings wait.
-- Raises 22023.
create or replace function awa.configure_queue(queue text, settings jsonb) returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
  v_queue_id bigint;
  v_checked jsonb;
begin
  perform awa._check_name('queue', queue);
  v_checked := awa._checked_settings(true, settings);
  v_queue_id := awa._make_queue(queue);
  insert into awa.queue_settings (queue_id) values (v_queue_id) on conflict do nothing;
  update awa.queue_settings s
     set (default_priority, default_max_attempts, lease, deadline, backoff_base, backoff_max, dead_letter,
          aging_interval, failed_retention, dlq_retention, completed_retention, changed_at, changed_by)
       = (select r.default_priority, r.default_max_attempts, r.lease, r.deadline, r.backoff_base, r.backoff_max,
                 r.dead_letter, r.aging_interval, r.failed_retention, r.dlq_retention, r.completed_retention,
                 clock_timestamp(), session_user
            from jsonb_populate_record(s, v_checked) r)
   where s.queue_id = v_queue_id;
end
$$;
comment on function awa.configure_queue is 'Changes settings of a queue';

-- The id of a queue, which is made if it does not exist.
-- Locks: the queue's name, shared, until the transaction ends.
-- Raises 22023.
-- Why: drop_queue would leave behind the settings that the caller is about to write, for the next queue of that name.
create or replace function awa._make_queue(queue text) returns bigint
language plpgsql
as $$
declare
  v_queue_id bigint := awa._queue_id(queue);
begin
  perform awa._check_name('queue', queue);
  perform from awa.queues q where q.queue_id = v_queue_id and q.dropped_at is null for share;
  if not found then
    insert into awa.queues (queue_id, name) values (v_queue_id, queue);
  end if;
  return v_queue_id;
end
$$;
comment on function awa._make_queue is 'The id of a queue, which is made if it does not exist';
