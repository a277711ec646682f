-- Exact counts of jobs by queue and state, of all queues or of one.
-- limited is how many of the available wait for a limit of their groups, or of the queue. They include jobs that are
-- not kept any more. Of all queues it looks only at the lanes that have changed since they
-- were counted, or that have available jobs.
create or replace function awa.queue_counts(queue text default null) returns setof awa.queue_counts_row
language sql stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
select c.* from awa._queue_counts(queue) c
$$;
comment on function awa.queue_counts is 'Exact counts of jobs by queue and state, of all queues or of one';

-- Reads the function, which does without JIT: compiling would take seconds.
create or replace view awa.queue_counts as
select c.queue, c.available, c.scheduled, c.retryable, c.running, c.waiting_external, c.completed, c.failed,
       c.cancelled, c.dead, c.oldest_ready_at, c.limited
  from awa.queue_counts(null) c;
comment on view awa.queue_counts is 'Exact counts of jobs by queue and state';
