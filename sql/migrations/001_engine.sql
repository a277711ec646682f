-- The tables of the engine: two logs, two ledgers, and what is configured around them.
-- Code (functions, views, grants) is installed separately, again at every migration: see sql/functions.

-- Whoever may create objects in public must not be able to slip in a function or a type.
set local search_path = pg_catalog, pg_temp;

do $$
begin
  if current_setting('server_version_num')::int < 150000 then
    raise exception using errcode = '0A000', message = 'awa needs PostgreSQL 15 or newer',
      detail = format('This is PostgreSQL %s.', current_setting('server_version'));
  end if;
end
$$;

create schema awa;
comment on schema awa is 'Awa: a log-structured job queue';

-- Sequences -------------------------------------------------------------------------------------

create sequence awa.job_ids;
comment on sequence awa.job_ids is 'The id of a job; also its place among the jobs of one transaction';

create sequence awa.claim_ids;
comment on sequence awa.claim_ids is 'The id of a claim; a crash may hand a number out again, so a receipt alone proves nothing';

create sequence awa.promoted_until;
comment on sequence awa.promoted_until is 'Microseconds since 1970: promote_due has promoted what was due before, late commits aside. A sequence, so that moving it leaves no dead row';

create sequence awa.next_sweep_at;
comment on sequence awa.next_sweep_at is 'Microseconds since 1970: when promote_due next looks for late commits everywhere';

do $$
declare
  v_digit text;
begin
  foreach v_digit in array string_to_array('0,1,2,3,4,5,6,7,8,9,a,b,c,d,e,f', ',') loop
    execute format('create sequence awa.wake_clock_%s', v_digit);
    execute format('comment on sequence awa.wake_clock_%s is %L', v_digit,
      'The 5 ms tick of the last notification on channel awa_wake_' || v_digit
      || '; a sequence, so that a rollback does not turn it back');
  end loop;
end
$$;

-- Queues ----------------------------------------------------------------------------------------

create table awa.queues (
  queue_id   bigint not null,
  name       text not null,
  created_at timestamptz not null default now()
);
-- Not unique, on purpose: a unique index would make the second producer of a new queue wait for the first one's commit.
create index queues_queue_id on awa.queues (queue_id);
comment on table awa.queues is 'The name behind a queue id: one row from each producer that found none, so usually one. Read the distinct ones';
comment on column awa.queues.queue_id is 'The first 60 bits of the SHA-256 of the name, so that nobody has to agree on a number';

create table awa.queue_settings (
  queue_id             bigint primary key,
  default_priority     smallint,
  default_max_attempts smallint,
  lease                interval,
  backoff_base         interval,
  backoff_max          interval,
  paused_at            timestamptz,
  changed_at           timestamptz not null default now(),
  changed_by           text not null default session_user
) with (fillfactor = 50);
comment on table awa.queue_settings is 'What an operator set for a queue; where nothing is set, here or for want of a row, the default holds';
comment on column awa.queue_settings.default_priority is 'Priority of a job that names none; 2 by default';
comment on column awa.queue_settings.default_max_attempts is 'Attempts of a job that names none; 25 by default';
comment on column awa.queue_settings.lease is 'How long a claim lasts for a caller that names no lease; a minute by default';
comment on column awa.queue_settings.backoff_base is 'The n-th retry waits 2^n times this, and up to a quarter more; a second by default';
comment on column awa.queue_settings.backoff_max is 'No retry waits longer than this; 24 hours by default';
comment on column awa.queue_settings.paused_at is 'Since when nothing is claimed from the queue; null when it runs';

-- Control ---------------------------------------------------------------------------------------

create table awa.settings (
  only_row    boolean primary key default true check (only_row),
  claim_wait  interval not null default '5 seconds' check (claim_wait >= '1 millisecond'),
  claim_bytes integer not null default 184320 check (claim_bytes > 0)
);
insert into awa.settings default values;
comment on table awa.settings is 'Settings of the whole installation, in one row';
comment on column awa.settings.claim_wait is 'How long a claim waits for another claim on the same queue before it gives up with 55P03';
comment on column awa.settings.claim_bytes is 'Bytes of a claim''s result, estimated, but at least one job: so small that it fits the buffers of a Unix socket (204 kB on Linux) when nobody reads it';

create table awa.ring (
  only_row        boolean primary key default true check (only_row),
  current_segment smallint not null default 0 check (current_segment between 0 and 3)
);
insert into awa.ring default values;
comment on table awa.ring is 'Which of the four segments new rows go to, in one row';

create table awa.workers (
  worker_id     bigint generated always as identity primary key,
  name          text not null,
  queues        text[],
  info          jsonb,
  started_at    timestamptz not null default now(),
  heartbeat_at  timestamptz not null default now(),
  registered_by text not null default session_user
) with (fillfactor = 50);
comment on table awa.workers is 'Worker processes that are registered now';
comment on column awa.workers.queues is 'The queues that it said it works on; null when it did not say';

-- The hot families: append only, never updated, emptied by TRUNCATE --------------------------------

create table awa.ready_entries (
  lane         bigint not null,
  xid          xid8 not null default pg_current_xact_id(),
  job_id       bigint not null,
  ready_at     timestamptz not null,
  segment      smallint not null,
  priority     smallint not null,
  attempt      smallint not null,
  max_attempts smallint not null,
  body_bytes   integer not null,
  kind         text not null,
  args         jsonb not null,
  tags         text[],
  metadata     jsonb,
  created_at   timestamptz,
  progress     jsonb,
  errors       jsonb
) partition by list (segment);
comment on table awa.ready_entries is 'One runnable attempt of a job, with its body';
comment on column awa.ready_entries.lane is 'The ordered stream it belongs to: queue_id * 8 + priority, or + 0 for the front lane of what was given back';
comment on column awa.ready_entries.xid is 'The transaction that appended it; (xid, job_id) is its place in the lane';
comment on column awa.ready_entries.ready_at is 'Since when it may run';
comment on column awa.ready_entries.priority is '1 (first) to 4 (last); the lane''s own, but on the front lane';
comment on column awa.ready_entries.attempt is 'The number of this attempt, from 1';
comment on column awa.ready_entries.body_bytes is 'Size of kind, args, tags, metadata and progress in a claim''s result, estimated: for its byte budget';
comment on column awa.ready_entries.created_at is 'When the job was enqueued; null when that is ready_at';
comment on column awa.ready_entries.errors is 'How earlier attempts failed, oldest first';

create table awa.lease_claims (
  claim_id    bigint not null,
  lane        bigint not null,
  lane_seq    bigint not null,
  first_xid   xid8 not null,
  first_id    bigint not null,
  pos_xid     xid8 not null,
  pos_id      bigint not null,
  claimed_at  timestamptz not null,
  lease_until timestamptz not null,
  deadline_at timestamptz,
  worker_id   bigint,
  segment     smallint not null,
  hi          pg_snapshot not null,
  lo          pg_snapshot,
  job_ids     bigint[] not null
) partition by list (segment);
comment on table awa.lease_claims is 'One claim: the entries that one caller took; the newest one of a lane is the lane''s cursor';
comment on column awa.lease_claims.lane_seq is 'The claim''s number within its lane';
comment on column awa.lease_claims.hi is 'Upper end of the window: what is visible in it, up to the position, is claimed';
comment on column awa.lease_claims.lo is 'Lower end of the window; null when the window was read to its end';
comment on column awa.lease_claims.first_xid is 'With first_id, the first place taken';
comment on column awa.lease_claims.pos_xid is 'With pos_id, the last place taken';
comment on column awa.lease_claims.job_ids is 'The jobs taken, in order; item i (from 0) has the receipt claim_id << 12 | i';

create table awa.lease_claim_closures (
  claim_id  bigint not null,
  closed_at timestamptz not null,
  segment   smallint not null,
  item      smallint not null,
  outcome   text not null check (outcome in ('completed', 'recorded', 'failed', 'released')),
  items     smallint[],
  check ((item < 0) = (items is not null))
) partition by list (segment);
comment on table awa.lease_claim_closures is 'How one item, or a batch of items, of a claim ended; in the segment of its claim';
comment on column awa.lease_claim_closures.item is 'The item that ended, from 0; in a batch row -1, -2, ... in the order in which they came';
comment on column awa.lease_claim_closures.items is 'The items of a batch row; null in an item row';
comment on column awa.lease_claim_closures.outcome is 'completed; recorded: completed, and done_entries has the row; failed: the next attempt, if any, is in deferred_jobs; released: back in ready_entries';

do $$
declare
  v_segment int;
begin
  for v_segment in 0..3 loop
    execute format('create table awa.ready_entries_%1$s partition of awa.ready_entries for values in (%1$s)
      with (autovacuum_enabled = off, toast.autovacuum_enabled = off)', v_segment);
    execute format('create unique index ready_entries_%1$s_place on awa.ready_entries_%1$s (lane, xid, job_id)', v_segment);
    execute format('create index ready_entries_%1$s_job on awa.ready_entries_%1$s
      using brin (job_id int8_minmax_multi_ops)', v_segment);

    -- A claim's array must stay in its row: 960 ids of 8 bytes fit.
    execute format('create table awa.lease_claims_%1$s partition of awa.lease_claims for values in (%1$s)
      with (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160)', v_segment);
    execute format('create unique index lease_claims_%1$s_claim on awa.lease_claims_%1$s (claim_id)', v_segment);
    execute format('create unique index lease_claims_%1$s_cursor on awa.lease_claims_%1$s (lane, lane_seq)', v_segment);
    execute format('create index lease_claims_%1$s_place on awa.lease_claims_%1$s (lane, pos_xid, pos_id)', v_segment);
    execute format('create index lease_claims_%1$s_worker on awa.lease_claims_%1$s (worker_id, claim_id)
      where worker_id is not null', v_segment);

    execute format('create table awa.lease_claim_closures_%1$s partition of awa.lease_claim_closures for values in (%1$s)
      with (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160)', v_segment);
    execute format('create unique index lease_claim_closures_%1$s_item on awa.lease_claim_closures_%1$s (claim_id, item)', v_segment);
  end loop;
end
$$;

-- Beside the hot path -----------------------------------------------------------------------------

create table awa.deferred_jobs (
  job_id       bigint primary key,
  lane         bigint not null,
  run_at       timestamptz not null,
  created_at   timestamptz not null,
  attempted_at timestamptz,
  attempt      smallint not null,
  max_attempts smallint not null,
  body_bytes   integer not null,
  kind         text not null,
  args         jsonb not null,
  tags         text[],
  metadata     jsonb,
  progress     jsonb,
  errors       jsonb
);
create index deferred_jobs_run_at on awa.deferred_jobs (run_at, job_id);
comment on table awa.deferred_jobs is 'One job that may not run yet; deleted when it is promoted to ready_entries';
comment on column awa.deferred_jobs.attempt is 'The number of the attempt to come, from 1';
comment on column awa.deferred_jobs.attempted_at is 'When the last attempt began; null for a job that never ran: scheduled, not retryable';

create table awa.done_entries (
  job_id       bigint primary key,
  lane         bigint not null,
  state        text not null check (state in ('completed', 'failed', 'cancelled')),
  receipt      bigint,
  worker_id    bigint,
  ready_at     timestamptz not null,
  created_at   timestamptz not null,
  attempted_at timestamptz,
  finalized_at timestamptz not null,
  attempt      smallint not null,
  max_attempts smallint not null,
  kind         text not null,
  args         jsonb not null,
  tags         text[],
  metadata     jsonb,
  progress     jsonb,
  errors       jsonb,
  output       jsonb
);
create index done_entries_state on awa.done_entries (state, job_id) where state <> 'completed';
comment on table awa.done_entries is 'One ended job that the ledgers alone do not describe: it failed, or it left an output';
