-- Without this, no user could see which settings hold for a queue, that it is paused, or that no worker works on it.
\set name list_queues
\ir ../prelude.psql
\ir states.psql

select awa.enqueue(:'queue' || ' default', 'k') as default_id \gset
select awa.enqueue(:'queue' || ' own', 'k') \g /dev/null

begin;
select plan(18);
update awa.workers set heartbeat_at = '2000-01-01'; -- those of others
create function pg_temp.queue(suffix text) returns awa.list_queues_row
language sql
as $$ select q.* from awa.list_queues() q where q.queue = pg_temp.q(suffix) $$;

-- Settings
select is((select to_jsonb(q) from pg_temp.queue(' default') q) - '{queue,available,oldest_ready_at}'::text[],
  '{"default_priority": 2, "default_max_attempts": 25, "lease": "00:01:00", "deadline": null,
    "backoff_base": "00:00:01", "backoff_max": "24:00:00", "dead_letter": false, "aging_interval": "00:01:00",
    "failed_retention": "72:00:00",
    "dlq_retention": "30 days", "completed_retention": "24:00:00", "shards": 1, "max_depth": null,
    "group_max_running": null, "group_rate": null, "max_running": null, "rate": null, "group_order": "start",
    "group_turns": false,
    "limited": 0, "paused_at": null,
    "changed_at": null, "changed_by": null, "workers": 0, "scheduled": 0, "retryable": 0, "running": 0,
    "waiting_external": 0, "completed": 0, "failed": 0,
    "cancelled": 0, "dead": 0}'::jsonb, 'the defaults, of a queue that has no settings of its own');
-- They are what its jobs get
create temp table c as select * from awa.claim(pg_temp.q(' default'));
select is((select row(j.priority, j.max_attempts)::text from awa.job(:default_id) j),
  (select row(q.default_priority, q.default_max_attempts)::text from pg_temp.queue(' default') q), 'jobs have these');
select is((select row(l.lease_until - l.claimed_at, l.deadline_at)::text from c
  join awa.lease_claims l on l.claim_id = c.receipt >> 12),
  (select row(q.lease, q.deadline)::text from pg_temp.queue(' default') q), 'claims');
select awa.fail(job_id, receipt, 'e') from c \g /dev/null
select ok((select j.run_at - (j.errors -> 0 ->> 'at')::timestamptz between 2 * q.backoff_base and 2.5 * q.backoff_base
  from awa.job(:default_id) j, pg_temp.queue(' default') q), 'and failures');

create temp table own as
select '{"default_priority": 3, "default_max_attempts": 7, "lease": "00:01:30", "deadline": "02:00:00",
  "backoff_base": "00:00:05", "backoff_max": "02:00:00", "dead_letter": true, "aging_interval": "00:00:30",
  "failed_retention": "90 days", "dlq_retention": "100 years", "completed_retention": "23:00:00",
  "shards": 4, "max_depth": 1000, "group_max_running": 1, "max_running": null, "rate": null,
  "group_order": "halt", "group_turns": true}'::jsonb as settings;
select awa.configure_queue(pg_temp.q(' own'), o.settings) from own o \g /dev/null
select is((select to_jsonb(q) from pg_temp.queue(' own') q) @> o.settings, true, 'or its own') from own o;
select is((select row(q.changed_by, q.changed_at between now() and clock_timestamp())::text
  from pg_temp.queue(' own') q), format('(%s,t)', session_user), 'who changed them, and when');
select awa.configure_queue(pg_temp.q(' own'), '{"lease": null, "completed_retention": null}') \g /dev/null
select is((select row(q.lease, q.completed_retention, q.deadline)::text from pg_temp.queue(' own') q),
  '(00:01:00,24:00:00,02:00:00)', 'and defaults for the rest');
select awa.configure('{"completed_retention": "50 hours"}') \g /dev/null
select is((select q.completed_retention from pg_temp.queue(' own') q), interval '50 hours',
  'of the retention, that of the installation');
select awa.pause_queue(pg_temp.q(' own')) \g /dev/null
select ok((select q.paused_at between now() and clock_timestamp() from pg_temp.queue(' own') q),
  'since when it is paused');
select awa.resume_queue(pg_temp.q(' own')) \g /dev/null
select is((select q.paused_at from pg_temp.queue(' own') q), null, 'null when it runs');

-- Counts
select is((select array_agg(q.queue) from awa.list_queues() q), (select array_agg(c.queue) from awa.queue_counts() c),
  'the queues of queue_counts, in its order');
select is((select count(*) from (select to_jsonb(c) from awa.queue_counts() c
  except select (select jsonb_object_agg(e.key, e.value) from jsonb_each(to_jsonb(q)) e where to_jsonb(c) ? e.key)
  from awa.list_queues() q join awa.queue_counts() c using (queue)) d), 0::bigint,
  'with its counts');
select is((select row(q.available, q.running, q.completed, q.dead)::text from pg_temp.queue('') q), '(4,2,4,1)',
  'of each state');

-- Workers
select awa.register_worker('a', array[pg_temp.q(' default'), pg_temp.q(' own')]) as worker_a,
  awa.register_worker('b', array[pg_temp.q(' own'), pg_temp.q(' own')]) \gset
select is((select row((pg_temp.queue(' default')).workers, (pg_temp.queue(' own')).workers,
  (pg_temp.queue('')).workers)::text), '(1,2,0)', 'the workers that named it, each once');
select awa.register_worker('c') \g /dev/null
select is((select row((pg_temp.queue(' default')).workers, (pg_temp.queue(' own')).workers,
  (pg_temp.queue('')).workers)::text), '(2,3,1)', 'and those that work on all queues');
update awa.workers set heartbeat_at = clock_timestamp() - interval '2 minutes' where worker_id = :worker_a;
select is((select row((pg_temp.queue(' default')).workers, (pg_temp.queue(' own')).workers,
  (pg_temp.queue('')).workers)::text), '(1,2,1)', 'not one that is silent');
select awa.configure('{"warn_silence": "1 hour"}') \g /dev/null
select is((select row((pg_temp.queue(' default')).workers, (pg_temp.queue(' own')).workers,
  (pg_temp.queue('')).workers)::text), '(2,3,1)', 'for warn_silence');
select awa.drop_queue(pg_temp.q(' own'), true) \g /dev/null
select is((select count(*) from awa.list_queues() q where q.queue = pg_temp.q(' own')), 0::bigint,
  'a dropped queue is gone');

select * from finish();
rollback;
