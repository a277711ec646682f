-- The tables of the engine: two logs, two ledgers, and the configuration around them.
-- Code (functions, views, grants) is installed separately, again at every migration: see sql/functions. The installer
-- has made schema awa.
-- Every table has a replica identity (a primary key, a unique index, or the whole row), so that a publication of all
-- tables refuses nothing.

-- A role that may create objects in public must not be able to slip in a function or a type.
set local search_path = pg_catalog, pg_temp;

do $$
begin
  if current_setting('server_version_num')::int < 150000 then
    raise exception using errcode = '0A000', message = 'awa needs PostgreSQL 15 or newer',
      detail = format('This is PostgreSQL %s.', current_setting('server_version'));
  end if;
end
$$;

comment on schema awa is 'Awa: a log-structured job queue';

-- Sequences -------------------------------------------------------------------------------------

create sequence awa.job_ids;
comment on sequence awa.job_ids is 'The id of a job; also its place among the jobs of one transaction';

create sequence awa.sharded;
comment on sequence awa.sharded is
  'Bit n is set once a claim has found a queue, with an id that ends in the five bits n, in several shards';

create sequence awa.claim_ids;
comment on sequence awa.claim_ids is
  'The id of a claim, a batch of burials, or a round of a unique key; a crash may hand a number out again, so a '
  'receipt alone proves nothing';

do $$
declare
  v_digit text;
begin
  foreach v_digit in array string_to_array('0,1,2,3,4,5,6,7,8,9,a,b,c,d,e,f', ',') loop
    execute format('create sequence awa.room_%s', v_digit);
    execute format('comment on sequence awa.room_%s is %L', v_digit,
      'The last id of a job before the depth of a queue is looked at again, and 19 bits of the id of that queue: see '
      '_has_room. A sequence, so that moving it leaves no dead row');
  end loop;
end
$$;

create sequence awa.promoted_until;
comment on sequence awa.promoted_until is
  'Microseconds since 1970: promote_due has promoted all jobs due before, late commits aside. A sequence, so that '
  'moving it leaves no dead row';

create sequence awa.promoted_id minvalue 0;
comment on sequence awa.promoted_id is
  'The last job of that time that it has looked at, times 4093, and the remainder of that time by 4093; 0 where it has '
  'looked at all times before. A sequence, too';

create sequence awa.due_clock;
comment on sequence awa.due_clock is
  'The 5 ms tick of the last notification on channel awa_due; a sequence, so that a rollback does not turn it back';

create sequence awa.folded_until minvalue 0;
comment on sequence awa.folded_until is
  'The last claim before those that maintenance looks at again: older ones are counted, or noted as open. A sequence, '
  'so that moving it leaves no dead row';

create sequence awa.next_fold_at;
comment on sequence awa.next_fold_at is
  'Microseconds since 1970: when maintenance next looks at all queues, not only at those that have been claimed from';

create sequence awa.fold_from minvalue 0;
comment on sequence awa.fold_from is
  'The lane before which a look at all queues goes on, where the last one was cut off; 0 when it begins anew';
select setval('awa.fold_from', 0);

create sequence awa.expiry_lane minvalue 0;
comment on sequence awa.expiry_lane is
  'The lane in which cancel_expired goes on to look for jobs that have expired; 0 when it begins anew. A sequence, so '
  'that moving it leaves no dead row';
create sequence awa.expiry_xid minvalue 0;
comment on sequence awa.expiry_xid is
  'The transaction of the entry, in that lane, after which cancel_expired goes on';
create sequence awa.expiry_id minvalue 0;
comment on sequence awa.expiry_id is
  'The job of the entry, in that lane, after which cancel_expired goes on';
select setval('awa.expiry_lane', 0), setval('awa.expiry_xid', 0), setval('awa.expiry_id', 0);

create sequence awa.rescue_called_at;
comment on sequence awa.rescue_called_at is 'Microseconds since 1970: when rescue was called last, to the second';

create sequence awa.next_sweep_at;
comment on sequence awa.next_sweep_at is
  'Microseconds since 1970: when promote_due next looks for late commits everywhere';

create sequence awa.sweep_level minvalue 0;
comment on sequence awa.sweep_level is
  'How small the pieces are in which promote_due looks for late commits: 0 for the whole, then 1 to 12. One more while '
  'it looks, in case that is cut off';

create sequence awa.swept_from;
comment on sequence awa.swept_from is
  'Microseconds since 1970: how far back promote_due has looked for late commits, where it looks in pieces';

create sequence awa.swept_until;
comment on sequence awa.swept_until is
  'Microseconds since 1970: how far it has come in a piece, upwards, where it had no time for all of its jobs; 1 where '
  'it begins a piece';

create sequence awa.swept_id minvalue 0;
comment on sequence awa.swept_id is
  'The last job of that time that it has looked at, times 4093, and the remainder of that time by 4093';

create sequence awa.prune_tries minvalue 0;
comment on sequence awa.prune_tries is
  'How many tries in a row to empty the oldest segment were begun, and not ended. A sequence, so that a try that is '
  'cut off leaves its mark';

create sequence awa.prune_tried_at;
comment on sequence awa.prune_tried_at is 'Microseconds since 1970: when the last of these tries began';

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

-- One clock for each pass of maintenance (see the view passes), and how often it was cut off. Sequences, so that moving
-- them leaves no dead rows, and so that a rollback does not turn them back.
do $$
declare
  v_pass text;
begin
  foreach v_pass in array string_to_array('promote_due,fire_due,fold,end_stuck_claimers,rescue,materialize,'
    'cancel_expired,apply_changes,expire_history,summarize,rotate,prune_oldest,forget_workers', ',') loop
    execute format('create sequence awa.pass_clock_%s', v_pass);
    execute format('comment on sequence awa.pass_clock_%s is %L', v_pass,
      'Microseconds since 1970: when ' || v_pass || ' succeeded last, to the second');
    execute format('create sequence awa.pass_cuts_%s minvalue 0 start 0', v_pass);
    execute format('comment on sequence awa.pass_cuts_%s is %L', v_pass,
      'How often ' || v_pass || ' takes half as many jobs, since it did not come to its end');
  end loop;
end
$$;

-- Queues ----------------------------------------------------------------------------------------

create table awa.queues (
  queue_id   bigint not null,
  lane       bigint,
  name       text not null,
  has_tombstones boolean not null default false,
  may_expire boolean not null default false,
  has_limits boolean not null default false,
  created_at timestamptz not null default now(),
  dropped_at timestamptz,
  forget_after xid8
);
-- Not unique, on purpose: a unique index would make the second producer of a new queue wait for the first one's commit.
create index queues_queue_id on awa.queues (queue_id, lane);
alter table awa.queues replica identity full;
comment on table awa.queues is
  'The name behind a queue id, and its lanes in use: a row for each lane from each producer that found none, so '
  'usually one. Read the distinct ones';
comment on column awa.queues.name is 'The name of the queue';
comment on column awa.queues.created_at is 'When this row was written';
comment on column awa.queues.has_tombstones is
  'Whether an entry of the lane was ever buried: a row of its own, before the first tombstone can be seen';
comment on column awa.queues.may_expire is
  'Whether a job of the lane ever had an expires_at: a row of its own, before the first such job can be seen';
comment on column awa.queues.has_limits is
  'Whether the queue ever had a limit: a row of its own, without a lane, from then on';
comment on column awa.queues.dropped_at is
  'When the queue was dropped; jobs of a transaction that committed later still find its name';
comment on column awa.queues.forget_after is
  'Once all transactions before this one have ended, maintenance may remove the name: nothing else is left of the '
  'dropped queue';
comment on column awa.queues.queue_id is
  'The first 54 bits of the SHA-256 of the name, so that no agreement on a number is needed';
comment on column awa.queues.lane is
  'A lane that jobs have been put to: it has a row before anything of it can be seen. Null where the queue was made '
  'without a job';

create table awa.queue_settings (
  queue_id             bigint primary key,
  default_priority     smallint,
  default_max_attempts smallint,
  lease                interval,
  backoff_base         interval,
  backoff_max          interval,
  deadline             interval,
  dead_letter          boolean,
  aging_interval       interval,
  shards               smallint,
  max_depth            integer,
  depth_note           smallint check (depth_note between 0 and 15),
  failed_retention     interval,
  dlq_retention        interval,
  completed_retention  interval,
  group_max_running    integer,
  group_rate           jsonb,
  max_running          integer,
  rate                 jsonb,
  group_order          text check (group_order in ('start', 'strict', 'halt')),
  group_turns          boolean,
  paused_at            timestamptz,
  changed_at           timestamptz not null default now(),
  changed_by           text not null default session_user
) with (fillfactor = 50);
comment on table awa.queue_settings is
  'The settings of a queue, as an operator set them; where nothing is set, or there is no row, the default '
  'of awa._known_settings holds';
comment on column awa.queue_settings.queue_id is 'As queues.queue_id';
comment on column awa.queue_settings.changed_at is 'When the row was changed last';
comment on column awa.queue_settings.changed_by is 'The login that changed it';
comment on column awa.queue_settings.default_priority is 'Priority of a job that names none';
comment on column awa.queue_settings.default_max_attempts is 'Attempts of a job that names none';
comment on column awa.queue_settings.lease is 'How long a claim lasts for a caller that names no lease';
comment on column awa.queue_settings.backoff_base is 'The n-th retry waits 2^n times this, and up to a quarter more';
comment on column awa.queue_settings.backoff_max is 'No retry waits longer than this';
comment on column awa.queue_settings.deadline is
  'How long an attempt may take, whatever its worker says; without end by default';
comment on column awa.queue_settings.dead_letter is
  'Whether a job that fails for good becomes a dead letter; by default it is kept as failed';
comment on column awa.queue_settings.aging_interval is
  'For each of these that the head of a lane has waited, its priority counts as one less';
comment on column awa.queue_settings.shards is
  'In how many shards new jobs are spread, each of which is claimed from by itself';
comment on column awa.queue_settings.max_depth is
  'How many jobs may be ready before new ones are refused; any number by default';
comment on column awa.queue_settings.depth_note is
  'Which of the sequences room_0 to room_f keeps the last look at the depth; null without max_depth';
comment on column awa.queue_settings.failed_retention is 'How long failed and cancelled jobs are kept, at least';
comment on column awa.queue_settings.dlq_retention is 'How long dead letters are kept, at least';
comment on column awa.queue_settings.completed_retention is
  'How long completed jobs are shown, where that is shorter than settings.completed_retention';
comment on column awa.queue_settings.group_max_running is
  'How many jobs of a group run at once, at most; without end by default';
comment on column awa.queue_settings.group_rate is
  'How often jobs of a group begin: jobs, per (an interval) and burst; without end by default';
comment on column awa.queue_settings.max_running is
  'How many jobs of the queue run at once, at most; without end by default';
comment on column awa.queue_settings.rate is
  'How often jobs begin: jobs, per (an interval) and burst; without end by default';
comment on column awa.queue_settings.group_turns is 'Whether groups are served by turns; null: no';
comment on column awa.queue_settings.group_order is
  'start: the next job of a group begins when there is room. strict: when the one before has ended for good. halt: as '
  'strict, and not while one that failed for good is kept';
comment on column awa.queue_settings.paused_at is 'Since when nothing is claimed from the queue; null when it runs';

-- Control ---------------------------------------------------------------------------------------

-- Intervals are checked by their seconds: as intervals, '1 year -360 days' is nothing, but it is five days long, and
-- infinity is a length. The name of a check is the text of its error.
create table awa.settings (
  only_row    boolean primary key default true check (only_row),
  claim_wait interval not null default '5 seconds' constraint "claim_wait must be 1 millisecond to 1 hour" check (
    extract(epoch from claim_wait) between 0.001 and 3600
  ),
  claim_bytes integer not null default 184320 constraint "claim_bytes must be 1 to 1000000000" check (
    claim_bytes between 1 and 1000000000
  ),
  segment_bytes bigint not null default 1073741824 constraint "segment_bytes must be 1 or more" check (
    segment_bytes > 0
  ),
  -- 100 years
  segment_age interval not null default '8 hours' constraint "segment_age must be 1 microsecond to 100 years" check (
    extract(epoch from segment_age) between 0.000001 and 3155760000
  ),
  completed_retention interval not null default
    '24 hours' constraint "completed_retention must be 0 to 100 years" check (
      extract(epoch from completed_retention) between 0 and 3155760000
    ),
  carry_max integer not null default 100000 constraint "carry_max must be 0 to 10000000" check (
    carry_max between 0 and 10000000
  ),
  -- shorter than deadlock_timeout
  prune_wait interval not null default '20 milliseconds' constraint "prune_wait must be 1 to 500 milliseconds" check (
    extract(epoch from prune_wait) between 0.001 and 0.5
  ),
  notifications boolean not null default true,
  warn_ready_age interval not null default
    '5 minutes' constraint "warn_ready_age must be 1 millisecond to 100 years" check (
      extract(epoch from warn_ready_age) between 0.001 and 3155760000
    ),
  warn_failed_share numeric not null default 0.25 constraint "warn_failed_share must be 0 to 1" check (
    warn_failed_share between 0 and 1
  ),
  warn_silence interval not null default '1 minute' constraint "warn_silence must be 1 millisecond to 100 years" check (
    extract(epoch from warn_silence) between 0.001 and 3155760000
  ),
  warn_transaction_age interval not null default
    '1 hour' constraint "warn_transaction_age must be 1 millisecond to 100 years" check (
      extract(epoch from warn_transaction_age) between 0.001 and 3155760000
    ),
  warn_group_age interval not null default
    '15 minutes' constraint "warn_group_age must be 1 millisecond to 100 years" check (
      extract(epoch from warn_group_age) between 0.001 and 3155760000
    )
);
insert into awa.settings default values;
comment on table awa.settings is 'Settings of the whole installation, in one row';
comment on column awa.settings.only_row is 'True: the table has one row';
comment on column awa.settings.claim_wait is
  'How long a call waits for a lock that another session holds, a claim for another claim on the same queue, say, '
  'before it gives up with 55P03';
comment on column awa.settings.segment_bytes is
  'Bytes of entries at which the current segment is left for the next one';
comment on column awa.settings.segment_age is 'Age at which the current segment is left for the next one';
comment on column awa.settings.completed_retention is 'How long completed jobs are kept, at least';
comment on column awa.settings.carry_max is
  'How many entries that were not claimed, or open attempts, are carried out of a segment; where there are more it '
  'stays';
comment on column awa.settings.prune_wait is
  'How long the truncation of a segment waits for its locks, and others behind it, at the first try; twice as long at '
  'the next, up to half a second';
comment on column awa.settings.notifications is 'Whether workers are notified; without, they poll';
comment on column awa.settings.warn_ready_age is
  'How long the first job in line of a queue may be ready before health warns';
comment on column awa.settings.warn_failed_share is
  'Which share of the jobs of a queue that ended of late may have failed in their last attempt before health warns';
comment on column awa.settings.warn_silence is
  'How long maintenance may not be called, or a worker send no heartbeat, before health warns';
comment on column awa.settings.warn_transaction_age is
  'How long a transaction may keep old rows from being removed before health warns';
comment on column awa.settings.warn_group_age is
  'How long jobs of a group may wait for one job of it before health warns';
comment on column awa.settings.claim_bytes is
  'Bytes of a claim''s result, estimated, but at least one job: so small that it fits the buffers of a Unix socket '
  '(204 kB on Linux) when its reader does not read';

create table awa.ring (
  only_row        boolean primary key default true check (only_row),
  current_segment smallint not null default 0 check (current_segment between 0 and 3),
  left_at         timestamptz[] not null default array_fill(now(), array[4]) constraint "left_at must be four times"
    check (array_dims(left_at) = '[1:4]' and array_position(left_at, null) is null),
  carried_segment smallint,
  carried_since   pg_snapshot,
  begun_by        xid8,
  carried_before  bigint,
  passed_over     bigint[],
  cleaned_segment smallint,
  cleaned_until   pg_snapshot,
  cleaned_by      xid8,
  old_snapshots   text[],
  looked_again    boolean not null default false,
  unreadable      bigint[],
  refused         bigint[],
  refusal         text,
  outcome         text,
  tries           int not null default 0,
  retry_at        timestamptz,
  stuck_since     timestamptz,
  tables          oid[] not null
) with (fillfactor = 50);
comment on table awa.ring is
  'Which of the four segments new rows go to, and how far the oldest one is on its way out; in one row';
comment on column awa.ring.only_row is 'True: the table has one row';
comment on column awa.ring.current_segment is 'The segment that new rows go to, from 0 to 3';
comment on column awa.ring.left_at is
  'When each segment (1 for segment 0, ...) was left for the next one; the current one''s is when it was begun';
comment on column awa.ring.carried_segment is
  'The segment that entries are carried out of, before it is cleaned; null when there is none';
comment on column awa.ring.carried_since is 'A snapshot from before the first of them was carried';
comment on column awa.ring.begun_by is
  'The transaction that has begun to clean a segment of very many lanes; null once no session can write to that '
  'segment, and for other segments';
comment on column awa.ring.carried_before is
  'Of a segment that no session can write to: lanes from this one on are carried; null for other segments';
comment on column awa.ring.passed_over is 'The lanes among these that are not carried, and are tried again';
comment on column awa.ring.cleaned_segment is
  'The segment from which all live rows were carried to the current one; null when there is none';
comment on column awa.ring.cleaned_until is 'Entries of the cleaned segment that are visible in it count no more';
comment on column awa.ring.cleaned_by is 'The transaction that cleaned it';
comment on column awa.ring.old_snapshots is
  'The sessions that delay the truncation, or the cleaning of a segment of very many lanes, because of their old '
  'snapshots: those that had one at the first look, and still have it; null before that look. Then those that may have '
  'rows in it that are not committed';
comment on column awa.ring.looked_again is
  'Whether old_snapshots are of a second look, when those of the first had ended: see _look_for_writers';
comment on column awa.ring.unreadable is 'Jobs that were not carried because the server can''t read them';
comment on column awa.ring.refused is
  'Jobs that were not carried because a trigger or a constraint that is none of Awa''s refuses their rows';
comment on column awa.ring.refusal is 'The error with which the last one was refused';
comment on column awa.ring.outcome is
  'The obstacle to emptying the oldest segment, as prune_oldest returns it; null when there is none';
comment on column awa.ring.tries is
  'How often the obstacle was met, since the oldest segment was last cleaned or emptied';
comment on column awa.ring.retry_at is 'When emptying is tried again';
comment on column awa.ring.stuck_since is 'Since when there is an obstacle';
comment on column awa.ring.tables is
  'The OIDs of ring and ready_entries: a logical restore gives them others, and transaction ids a new meaning';

create table awa.origin (
  xid    xid not null,
  server bigint not null
);
-- No key: a restore of data alone has to be able to add its row, and is known by that.
alter table awa.origin replica identity full;
comment on table awa.origin is 'Where its one row was written: by this a database that was restored is known';
comment on column awa.origin.xid is
  'The transaction that wrote this row: its xmin, unless it was written again';
comment on column awa.origin.server is 'The identifier of the server on which it was written';

create table awa.workers (
  worker_id     bigint generated always as identity primary key,
  name          text not null,
  queues        text[],
  info          jsonb,
  started_at    timestamptz not null default now(),
  heartbeat_at  timestamptz not null default now(),
  registered_by text not null default session_user,
  member_of     text
) with (fillfactor = 50);
comment on table awa.workers is 'Worker processes that are registered now';
comment on column awa.workers.worker_id is 'The id of the worker, by which it claims';
comment on column awa.workers.name is 'The name that the worker gave, such as its host';
comment on column awa.workers.info is 'Further facts that the worker gave of itself; null for none';
comment on column awa.workers.started_at is 'When it was registered';
comment on column awa.workers.heartbeat_at is 'When it sent its last heartbeat';
comment on column awa.workers.queues is 'The queues that it said it works on; null when it did not say';
comment on column awa.workers.registered_by is 'The login that registered it, and may use its id';
comment on column awa.workers.member_of is 'The role whose members may use its id, too; null when there is none';

create table awa.rescue_gaps (
  began_at timestamptz not null,
  ended_at timestamptz not null,
  primary key (began_at, ended_at)
);
comment on table awa.rescue_gaps is
  'One time of more than 10 seconds in which rescue was not called, because the server was down, say: workers could '
  'send no heartbeats';
comment on column awa.rescue_gaps.began_at is 'When rescue had been called last';
comment on column awa.rescue_gaps.ended_at is
  'When it was called again. Attempts that were alive when the gap began get one more lease from then on';

-- Schedules -------------------------------------------------------------------------------------

create table awa.schedules (
  name          text primary key,
  source        text,
  queue         text not null,
  kind          text not null,
  cron          text,
  cron_bits     bigint[],
  every         interval,
  args          jsonb not null,
  timezone      text not null,
  missed        text not null check (missed in ('skip', 'latest', 'all')),
  missed_for    interval not null,
  overlap       text not null check (overlap in ('allow', 'skip', 'wait', 'replace')),
  starts_at     timestamptz,
  ends_at       timestamptz,
  priority      int,
  max_attempts  int,
  tags          text[],
  metadata      jsonb,
  group_key     text,
  made_at       timestamptz not null,
  changed_at    timestamptz not null,
  changed_by    text not null default session_user,
  paused_at     timestamptz,
  paused_by     text,
  pause_reason  text,
  removed_at    timestamptz,
  decided_until timestamptz not null,
  next_tick     timestamptz,
  next_wall     timestamp,
  next_at       timestamptz,
  last_tick     timestamptz,
  last_job_id   bigint,
  waiting_tick  timestamptz,
  ran           tstzmultirange not null default '{}',
  unsure        tstzrange not null default 'empty',
  times_missed  bigint not null default 0,
  times_skipped bigint not null default 0,
  failures      int not null default 0,
  error         text,
  failed_at     timestamptz,
  check (num_nonnulls(cron, every) = 1),
  check (num_nulls(cron, cron_bits) in (0, 2))
) with (fillfactor = 70);
create index schedules_next_at on awa.schedules (next_at) where next_at is not null;
comment on table awa.schedules is
  'One schedule: its job, its times, and how far it has come. A removed one is kept for 30 days, for its last tick';
comment on column awa.schedules.name is 'The name of the schedule';
comment on column awa.schedules.queue is 'The name of the queue of its jobs';
comment on column awa.schedules.kind is 'The kind of its jobs';
comment on column awa.schedules.args is 'The arguments of its jobs';
comment on column awa.schedules.priority is 'The priority of its jobs; null for the default of the queue';
comment on column awa.schedules.max_attempts is 'The attempts of its jobs, at most; null for the default of the queue';
comment on column awa.schedules.tags is 'The tags of its jobs; null for none';
comment on column awa.schedules.metadata is
  'The metadata of its jobs, to which each adds the tick; null for nothing else';
comment on column awa.schedules.group_key is 'The group of its jobs; null for none';
comment on column awa.schedules.changed_at is 'When it was changed last';
comment on column awa.schedules.changed_by is 'The login that changed it';
comment on column awa.schedules.paused_by is 'The login that paused it; null when it is not paused';
comment on column awa.schedules.pause_reason is 'Why it is paused; null for no reason';
comment on column awa.schedules.failed_at is 'When it failed to fire the last time; null when it has fired since';
comment on column awa.schedules.source is
  'The program that declared it by sync_schedules; null when it was made by hand';
comment on column awa.schedules.cron is 'Its expression, as it was written; null when it has an interval';
comment on column awa.schedules.cron_bits is
  'The result of _cron_bits, so that a tick need not read the expression again';
comment on column awa.schedules.every is
  'Its interval, which counts from starts_at, or from made_at; null when it has an expression';
comment on column awa.schedules.timezone is 'The time zone of cron, and of the days and months of every';
comment on column awa.schedules.missed is
  'The policy for ticks that were not served within a minute: skip, latest or all';
comment on column awa.schedules.missed_for is 'How old a missed tick may be, where missed is all';
comment on column awa.schedules.overlap is
  'The policy for a tick while the last job has not ended: allow, skip, wait or replace';
comment on column awa.schedules.starts_at is 'It has no tick before this time';
comment on column awa.schedules.ends_at is 'It has no tick at this time, or later';
comment on column awa.schedules.made_at is 'When it was first made; every counts from here where starts_at is null';
comment on column awa.schedules.paused_at is 'Since when it is paused; null when it is not';
comment on column awa.schedules.removed_at is 'When it was removed; null while it is there';
comment on column awa.schedules.decided_until is
  'About ticks up to this time it was decided: they fired, wait, or were left out';
comment on column awa.schedules.next_tick is
  'The first tick after that; null when there is none, and while it is paused';
comment on column awa.schedules.next_wall is
  'The local time of its zone at next_tick, as it was computed: it differs when the data of the zone have '
  'changed';
comment on column awa.schedules.next_at is
  'When fire_due looks at it next: at next_tick, later where it was put off, sooner where a tick waits; null when '
  'never';
comment on column awa.schedules.last_tick is 'The last tick that fired: its nominal time';
comment on column awa.schedules.last_job_id is 'The job that it enqueued last, by a tick or by trigger_schedule';
comment on column awa.schedules.waiting_tick is 'The tick that waits for the last job to end, where overlap is wait';
comment on column awa.schedules.ran is
  'From which to which time all of its ticks have fired; at most 100 ranges, the older ones put together';
comment on column awa.schedules.unsure is
  'Between which times ran may hold ticks that have not fired: where ranges were put together, or the expression was '
  'another one';
comment on column awa.schedules.times_missed is 'How many ticks were left out because they were missed';
comment on column awa.schedules.times_skipped is 'How many ticks were left out because the last job had not ended';
comment on column awa.schedules.failures is 'How often it has failed to fire since it fired last';
comment on column awa.schedules.error is 'Why it failed to fire the last time';

create table awa.schedule_sources (
  source    text primary key,
  owner     text,
  owner_id  oid,
  revision  bigint,
  content   bytea not null
);
comment on table awa.schedule_sources is 'A program that declares schedules by sync_schedules';
comment on column awa.schedule_sources.source is 'The name of the program';
comment on column awa.schedule_sources.owner is
  'The role that synchronised it first, by its name of the last time; null while only operators have';
comment on column awa.schedule_sources.owner_id is
  'The OID of that role, which may synchronise the source, and so may its members, while it is there';
comment on column awa.schedule_sources.revision is 'The last revision that was synchronised; null when none had one';
comment on column awa.schedule_sources.content is 'The SHA-256 of the schedules that were declared with that revision';

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
  unique_key   bytea,
  kind         text not null,
  args         jsonb not null,
  tags         text[],
  metadata     jsonb,
  group_key    text,
  expires_at   timestamptz,
  created_at   timestamptz,
  progress     jsonb,
  errors       jsonb
) partition by list (segment);
comment on table awa.ready_entries is 'One runnable attempt of a job, with its body';
comment on column awa.ready_entries.job_id is 'The id of the job';
comment on column awa.ready_entries.segment is 'The segment that holds the row, from 0 to 3';
comment on column awa.ready_entries.max_attempts is 'How many attempts the job has, at most';
comment on column awa.ready_entries.kind is 'The kind of the job: it names the handler';
comment on column awa.ready_entries.args is 'The arguments of the job, as its producer gave them';
comment on column awa.ready_entries.tags is 'Labels by which jobs are found; null for none';
comment on column awa.ready_entries.metadata is 'Data that is carried beside the arguments; null for none';
comment on column awa.ready_entries.progress is 'The last progress of earlier attempts; null for none';
comment on column awa.ready_entries.lane is
  'The ordered stream it belongs to: queue_id << 9 | shard << 3 | priority; 0 in place of a priority is the front '
  'lane, of jobs that were given back, and 7 the lane of turns, of jobs that waited for their groups';
comment on column awa.ready_entries.xid is 'The transaction that appended it; (xid, job_id) is its place in the lane';
comment on column awa.ready_entries.ready_at is 'Since when it may run';
comment on column awa.ready_entries.priority is '1 (first) to 4 (last); the lane''s own, but on the front lane';
comment on column awa.ready_entries.attempt is 'The number of this attempt, from 1';
comment on column awa.ready_entries.body_bytes is
  'Size of kind, args, tags, metadata, group_key and progress in a claim''s result, estimated: for its byte budget';
comment on column awa.ready_entries.unique_key is
  '32 bytes from the SHA-256 of the job''s unique key, two that say in which states it holds it and whether its queue '
  'or its args are a part of it, and, where it outlives the completed job, eight for the end of the period; null when '
  'it has none';
comment on column awa.ready_entries.group_key is 'The group that the job belongs to; null for none';
comment on column awa.ready_entries.expires_at is
  'When the job is cancelled, unless an attempt that counts has begun by then; null for never';
comment on column awa.ready_entries.created_at is 'When the job was enqueued; null when that is ready_at';
comment on column awa.ready_entries.errors is 'How earlier attempts failed, oldest first';

create table awa.rebasing (like awa.ready_entries including comments);
alter table awa.rebasing replica identity full;
comment on table awa.rebasing is
  'Jobs to which rebase_after_restore is giving new places; otherwise empty. Not made by it: creating a table may '
  'fire an event trigger';

create table awa.ready_tombstones (
  lane    bigint not null,
  xid     xid8 not null,
  job_id  bigint not null,
  by_xid  xid8 not null default pg_current_xact_id(),
  batch   bigint not null,
  segment smallint not null,
  cancels boolean not null
) partition by list (segment);
comment on table awa.ready_tombstones is 'An entry that must not be claimed any more; in the segment of the entry';
comment on column awa.ready_tombstones.lane is 'The lane of the entry';
comment on column awa.ready_tombstones.xid is 'The transaction that appended the entry';
comment on column awa.ready_tombstones.job_id is 'The job of the entry';
comment on column awa.ready_tombstones.segment is 'The segment of the entry';
comment on column awa.ready_tombstones.by_xid is 'The transaction that buried it';
comment on column awa.ready_tombstones.batch is 'The call that buried it';
comment on column awa.ready_tombstones.cancels is 'Whether the job was cancelled; otherwise it has another entry now';

create table awa.arrivals (
  lane    bigint not null,
  xid     xid8 not null default pg_current_xact_id(),
  jobs    bigint not null,
  segment smallint not null,
  kind    text
) partition by list (segment);
comment on table awa.arrivals is 'How many jobs came to a lane without an entry, or, negative, left it: for the counts';
comment on column awa.arrivals.lane is 'The lane to which they came';
comment on column awa.arrivals.jobs is 'How many jobs came; negative: how many left';
comment on column awa.arrivals.segment is 'The segment that holds the row, from 0 to 3';
comment on column awa.arrivals.kind is 'The kind of new jobs, for the statistics; null where they are not new';
comment on column awa.arrivals.xid is 'The transaction that brought them, or took them away';

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
  bytes       integer not null default 0,
  holds_keys  boolean not null,
  hi          pg_snapshot not null,
  lo          pg_snapshot,
  job_ids     bigint[] not null,
  groups      bigint[],
  holds_queue boolean not null default false
) partition by list (segment);
comment on table awa.lease_claims is
  'One claim: the entries that one caller took; the newest one of a lane is the lane''s cursor';
comment on column awa.lease_claims.claim_id is 'The id of the claim';
comment on column awa.lease_claims.lane is 'The lane of its entries';
comment on column awa.lease_claims.first_id is 'With first_xid, the first place taken';
comment on column awa.lease_claims.pos_id is 'With pos_xid, the last place taken';
comment on column awa.lease_claims.claimed_at is 'When the attempts began';
comment on column awa.lease_claims.lease_until is 'Until when the attempts are their caller''s, without a heartbeat';
comment on column awa.lease_claims.deadline_at is 'When the attempts end whatever their worker says; null for never';
comment on column awa.lease_claims.worker_id is
  'The registered worker that claimed; null for a caller that is not registered';
comment on column awa.lease_claims.segment is 'The segment that holds the row, from 0 to 3';
comment on column awa.lease_claims.lane_seq is 'The claim''s number within its lane';
comment on column awa.lease_claims.hi is
  'Upper end of the window: entries that are visible in it, up to the position, are claimed';
comment on column awa.lease_claims.lo is 'Lower end of the window; null when the window was read to its end';
comment on column awa.lease_claims.first_xid is 'With first_id, the first place taken';
comment on column awa.lease_claims.pos_xid is 'With pos_id, the last place taken';
comment on column awa.lease_claims.bytes is
  'Bytes of the result that was read for it, estimated: for the byte budget of the rest of the same call. Larger '
  'than the budget where not all of that fit';
comment on column awa.lease_claims.holds_keys is
  'Whether any of the jobs has a unique key, so that closing the others costs nothing';
comment on column awa.lease_claims.job_ids is
  'The jobs taken, in order; item i (from 0) has the receipt claim_id << 12 | i';
comment on column awa.lease_claims.groups is
  'The group in which each attempt holds a slot, null where it holds none; null where no attempt does';
comment on column awa.lease_claims.holds_queue is 'Whether each attempt holds a slot of the queue: it has max_running';

create table awa.lease_claim_closures (
  claim_id  bigint not null,
  closed_at timestamptz not null,
  segment   smallint not null,
  item      smallint not null,
  outcome   text not null,
  items     smallint[]
) partition by list (segment);
comment on table awa.lease_claim_closures is
  'How one item, or a batch of items, of a claim ended; in the segment of its claim';
comment on column awa.lease_claim_closures.claim_id is 'The claim';
comment on column awa.lease_claim_closures.closed_at is 'When the items were closed';
comment on column awa.lease_claim_closures.segment is 'The segment of the claim';
comment on column awa.lease_claim_closures.item is
  'The number of the row in its claim, which no two rows share: of the item that it closes, from 0; of a row that '
  'closes several, -1, -2, ... in the order in which they came';
comment on column awa.lease_claim_closures.items is
  'The items that a batch row closes, none where it only keeps its number taken; null in the row of one item';
comment on column awa.lease_claim_closures.outcome is
  'completed; completed_with_row: completed, and done_entries has a row of the job; failed: deferred_jobs has the next '
  'attempt, or done_entries the end; released: back in ready_entries; snoozed: in deferred_jobs; cancelled: in '
  'done_entries; materialized: the attempt goes on in leases; limited: no attempt began, the job is in limited_jobs';

do $$
declare
  v_segment int;
begin
  for v_segment in 0..3 loop
    execute format('create table awa.ready_entries_%1$s partition of awa.ready_entries for values in (%1$s)
      with (autovacuum_enabled = off, toast.autovacuum_enabled = off)', v_segment);
    execute format('create unique index ready_entries_%1$s_place on awa.ready_entries_%1$s (lane, xid, job_id)',
      v_segment);
    execute format('alter table awa.ready_entries_%1$s replica identity using index ready_entries_%1$s_place',
      v_segment);
    execute format('create index ready_entries_%1$s_job on awa.ready_entries_%1$s
      using brin (job_id int8_minmax_multi_ops)', v_segment);

    execute format('create table awa.ready_tombstones_%1$s partition of awa.ready_tombstones for values in (%1$s)
      with (autovacuum_enabled = off, toast.autovacuum_enabled = off)', v_segment);
    execute format('create unique index ready_tombstones_%1$s_place on awa.ready_tombstones_%1$s (lane, xid, job_id)',
      v_segment);
    execute format('alter table awa.ready_tombstones_%1$s replica identity using index ready_tombstones_%1$s_place',
      v_segment);
    execute format('create index ready_tombstones_%1$s_by on awa.ready_tombstones_%1$s (by_xid, batch)', v_segment);
    execute format('create index ready_tombstones_%1$s_since on awa.ready_tombstones_%1$s (lane, by_xid)', v_segment);

    execute format('create table awa.arrivals_%1$s partition of awa.arrivals for values in (%1$s)
      with (autovacuum_enabled = off)', v_segment);
    execute format('alter table awa.arrivals_%1$s replica identity full', v_segment);
    execute format('create index arrivals_%1$s_lane on awa.arrivals_%1$s (lane, xid)', v_segment);

    -- A claim's array must stay in its row: 960 ids of 8 bytes fit.
    execute format('create table awa.lease_claims_%1$s partition of awa.lease_claims for values in (%1$s)
      with (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160)', v_segment);
    execute format('create unique index lease_claims_%1$s_claim on awa.lease_claims_%1$s (claim_id)', v_segment);
    execute format('alter table awa.lease_claims_%1$s replica identity using index lease_claims_%1$s_claim', v_segment);
    execute format('create unique index lease_claims_%1$s_cursor on awa.lease_claims_%1$s (lane, lane_seq)', v_segment);
    execute format('create index lease_claims_%1$s_place on awa.lease_claims_%1$s (lane, pos_xid, pos_id)', v_segment);

    execute format('create table awa.lease_claim_closures_%1$s
      partition of awa.lease_claim_closures for values in (%1$s)
      with (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160)', v_segment);
    execute format(
      'create unique index lease_claim_closures_%1$s_item on awa.lease_claim_closures_%1$s (claim_id, item)',
      v_segment);
    execute format(
      'alter table awa.lease_claim_closures_%1$s replica identity using index lease_claim_closures_%1$s_item',
      v_segment);
  end loop;
end
$$;

-- Beside the hot path -----------------------------------------------------------------------------

create table awa.pending_changes (
  batch bigint primary key,
  xid   xid8 not null default pg_current_xact_id()
);
comment on table awa.pending_changes is
  'A batch of buried entries about which a transaction decides at its end: some may have been claimed meanwhile. The '
  'row is gone by then';
comment on column awa.pending_changes.xid is 'The transaction that decides';
comment on column awa.pending_changes.batch is 'The batch of the tombstones';

create table awa.heirs (
  xid     xid8 not null default pg_current_xact_id(),
  job_id  bigint not null,
  heir_id bigint not null,
  primary key (xid, job_id)
);
comment on table awa.heirs is
  'A job that gets the unique key of another one when its transaction ends. The row is gone by then';
comment on column awa.heirs.xid is 'The transaction at whose end the key is passed on';
comment on column awa.heirs.job_id is 'The job that lets go of the key';
comment on column awa.heirs.heir_id is 'The job that gets it';

create table awa.leases (
  receipt      bigint primary key,
  job_id       bigint not null,
  lane         bigint not null,
  priority     smallint not null,
  ready_at     timestamptz not null,
  created_at   timestamptz not null,
  claimed_at   timestamptz not null,
  lease        interval not null,
  lease_until  timestamptz not null,
  deadline_at  timestamptz,
  worker_id    bigint,
  attempt      smallint not null,
  max_attempts smallint not null,
  body_bytes   integer not null,
  unique_key   bytea,
  kind         text not null,
  args         jsonb not null,
  tags         text[],
  metadata     jsonb,
  group_key    text,
  expires_at   timestamptz,
  progress     jsonb,
  errors       jsonb,
  group_id     bigint,
  holds_queue  boolean not null default false
) with (fillfactor = 70);
create index leases_job on awa.leases (job_id);
create index leases_lane on awa.leases (lane);
create index leases_worker on awa.leases (worker_id) where worker_id is not null;
comment on table awa.leases is
  'One attempt that runs long, or that needed a row that can change; its item in the ledger is closed as materialized';
comment on column awa.leases.receipt is 'The receipt of the attempt';
comment on column awa.leases.lane is 'The lane in which the attempt was claimed, as ready_entries.lane';
comment on column awa.leases.priority is 'The priority of the job, 1 (first) to 4 (last)';
comment on column awa.leases.created_at is 'When the job was enqueued';
comment on column awa.leases.claimed_at is 'When the attempt began';
comment on column awa.leases.worker_id is 'The registered worker that has it; null for a caller that is not registered';
comment on column awa.leases.lease is 'How long it stays its worker''s after a heartbeat';
comment on column awa.leases.lease_until is 'Until when it stays its worker''s without one';
comment on column awa.leases.deadline_at is 'When it ends whatever its worker says';
comment on column awa.leases.progress is 'The progress that the worker reported last';
comment on column awa.leases.group_id is 'The group in which it holds a slot; null where it holds none';
comment on column awa.leases.holds_queue is 'Whether it holds a slot of its queue';

create table awa.lost_attempts (
  worker_id bigint not null,
  receipt   bigint not null,
  job_id    bigint not null,
  reason    text not null,
  told_at   timestamptz,
  primary key (worker_id, receipt)
);
comment on table awa.lost_attempts is
  'An attempt that was taken from a registered worker, until the worker was told for a minute';
comment on column awa.lost_attempts.worker_id is 'The worker that had the attempt';
comment on column awa.lost_attempts.receipt is 'The receipt of the attempt';
comment on column awa.lost_attempts.job_id is 'The job';
comment on column awa.lost_attempts.reason is 'Why the attempt was taken from it, in words';
comment on column awa.lost_attempts.told_at is 'When a heartbeat returned it first';

create table awa.deferred_jobs (
  job_id       bigint not null,
  lane         bigint not null,
  state        text not null check (state in ('scheduled', 'retryable')),
  run_at       timestamptz not null,
  created_at   timestamptz not null,
  attempted_at timestamptz,
  attempt      smallint not null,
  max_attempts smallint not null,
  body_bytes   integer not null,
  unique_key   bytea,
  kind         text not null,
  args         jsonb not null,
  tags         text[],
  metadata     jsonb,
  group_key    text,
  expires_at   timestamptz,
  progress     jsonb,
  errors       jsonb,
  primary key (run_at, job_id)
);
-- Not unique: a session that reschedules an available job in an open transaction, and the answer to an attempt that
-- began meanwhile, would wait for each other; one of the two is refused anyway.
create index deferred_jobs_job on awa.deferred_jobs (job_id);
create index deferred_jobs_lane on awa.deferred_jobs (lane, state, run_at);
create index deferred_jobs_retryable on awa.deferred_jobs (attempted_at) where state = 'retryable';
create index deferred_jobs_put_off on awa.deferred_jobs (lane) where (errors -> -1) ? 'put_off';
comment on table awa.deferred_jobs is 'One job that may not run yet; deleted when it is promoted to ready_entries';
comment on column awa.deferred_jobs.lane is 'The lane of the job, with its own priority, as ready_entries.lane';
comment on column awa.deferred_jobs.run_at is 'When the job may run';
comment on column awa.deferred_jobs.created_at is 'When the job was enqueued';
comment on column awa.deferred_jobs.state is
  'scheduled: for a time, by its producer or by a snooze; retryable: its last attempt failed';
comment on column awa.deferred_jobs.attempt is 'The number of the attempt to come, from 1';
comment on column awa.deferred_jobs.attempted_at is 'When the last attempt began; null for a job that never ran';

-- Limits ------------------------------------------------------------------------------------------
-- These are written and read under the lock of the shard, but for slots, to which any session appends, and
-- group_settings, which operators write. Rows that are over are deleted, and vacuumed. A search begins at a position
-- that is stored, so it passes over no dead rows.

create sequence awa.waiting_ids;
comment on sequence awa.waiting_ids is 'The place of a job in the line of its group';
create sequence awa.turn_ids;
comment on sequence awa.turn_ids is 'The place of a turn in its lane';
create sequence awa.state_ids;
comment on sequence awa.state_ids is 'The order of the states of a group, and of a shard';

create table awa.slots (
  shard    bigint not null,
  xid      xid8 not null default pg_current_xact_id(),
  of_queue integer not null default 0,
  freed    bigint[] not null default '{}',
  looks    bigint[] not null default '{}',
  holders  bigint[] not null default '{}',
  leavers  bigint[] not null default '{}',
  changed  bigint[] not null default '{}'
);
create index slots_shard on awa.slots (shard, xid);
alter table awa.slots replica identity full;
comment on table awa.slots is
  'Slots that attempts have given back, and groups to look at again, until a claim has read them';
comment on column awa.slots.shard is 'The shard that the slots belong to: queue_id << 6 | its number, from 0';
comment on column awa.slots.xid is 'The transaction that wrote the row';
comment on column awa.slots.of_queue is 'How many slots of the queue were given back';
comment on column awa.slots.freed is 'The groups of which a slot was given back, once for each';
comment on column awa.slots.looks is
  'Groups that the next claim looks at again: they may have room, or their holder may change';
comment on column awa.slots.holders is
  'Jobs whose attempts have ended, and for which their groups may be reserved; of the groups in looks, one for each. '
  'The negative number of a job says that it failed for good';
comment on column awa.slots.leavers is
  'Jobs that left without an attempt: their groups are no longer reserved for them; of the groups in looks, one for '
  'each';
comment on column awa.slots.changed is 'Groups whose own limits have changed: their turns go back first';

create table awa.shard_states (
  shard             bigint not null,
  state_id          bigint not null,
  read_until        pg_snapshot not null,
  turns_until       bigint[] not null,
  running           integer not null,
  next_at           timestamptz,
  group_max_running integer,
  group_order       text,
  group_rate        jsonb,
  opened_until      timestamptz,
  group_turns       boolean not null default false,
  primary key (shard, state_id)
);
comment on table awa.shard_states is
  'The state of a shard of a queue with limits, as a claim has left it. The newest row counts';
comment on column awa.shard_states.shard is 'As slots.shard';
comment on column awa.shard_states.state_id is 'The order of the rows of a shard: the highest one is the newest';
comment on column awa.shard_states.read_until is 'Slots that are visible in it are read';
comment on column awa.shard_states.turns_until is
  'The last turn that was served in the lane of each priority (1 for the front lane, 2 for priority 1, ...)';
comment on column awa.shard_states.running is 'How many attempts hold a slot of the queue; in its first shard';
comment on column awa.shard_states.next_at is
  'When the next job may begin under the rate of the queue, if it had no burst; in its first shard';
comment on column awa.shard_states.group_max_running is 'The limit by which claims have looked at the groups last';
comment on column awa.shard_states.group_order is 'The setting by which claims have looked at the groups last';
comment on column awa.shard_states.group_rate is 'The setting by which claims have looked at the groups last';
comment on column awa.shard_states.group_turns is 'The setting by which claims have looked at the groups last';
comment on column awa.shard_states.opened_until is 'Groups that open before this time were looked at since';

create table awa.group_states (
  shard       bigint not null,
  group_id    bigint not null,
  state_id    bigint not null,
  running     integer not null,
  has_line    boolean not null,
  has_front   boolean not null,
  taken       bigint not null,
  front_taken bigint not null,
  holder      bigint,
  next_at     timestamptz,
  rate_turns  integer not null,
  opens_at    timestamptz,
  xid         xid8 not null default pg_current_xact_id(),
  primary key (shard, group_id, state_id)
);
create index group_states_idle on awa.group_states ((coalesce(next_at, '-infinity')), xid)
  where running = 0 and not has_line and not has_front and holder is null;
create index group_states_opens_at on awa.group_states (shard, opens_at) where opens_at is not null;
create index group_states_line on awa.group_states (shard, group_id)
  where has_line or has_front or holder is not null;
comment on table awa.group_states is
  'A group as a claim has left it. The newest row counts; a group without one is idle';
comment on column awa.group_states.shard is 'As slots.shard';
comment on column awa.group_states.state_id is 'The order of the rows of a group: the highest one is the newest';
comment on column awa.group_states.group_id is 'The first 64 bits of the SHA-256 of the group''s key';
comment on column awa.group_states.running is 'How many attempts and turns hold a slot of the group';
comment on column awa.group_states.has_line is 'Whether jobs may wait in its line, without a turn';
comment on column awa.group_states.has_front is 'Whether jobs that were given back may wait there: they come first';
comment on column awa.group_states.taken is 'The last one in its line that got a turn';
comment on column awa.group_states.front_taken is 'The last one, of those that were given back, that got a turn';
comment on column awa.group_states.holder is
  'The job for which it is reserved, by its order: one that runs again, or that failed for good. No other one begins';
comment on column awa.group_states.next_at is
  'When the next job may begin under the rate of the group, if it had no burst';
comment on column awa.group_states.rate_turns is
  'How many of its turns wait to be served, where it has a rate, or groups are served by turns';
comment on column awa.group_states.opens_at is
  'When a claim is to look at its line again: its rate lets the next one begin, or a pause is over';
comment on column awa.group_states.xid is
  'The transaction that wrote it: once no snapshot looks further back, the states before it are in no scan''s way';

create table awa.group_settings (
  queue_id          bigint not null,
  group_id          bigint not null,
  group_key         text not null,
  group_max_running integer,
  group_rate        jsonb,
  paused_at         timestamptz,
  paused_until      timestamptz,
  reason            text,
  changed_at        timestamptz not null,
  changed_by        text not null,
  primary key (queue_id, group_id)
) with (fillfactor = 50);
create index group_settings_rate on awa.group_settings (queue_id) where group_rate is not null;
create index group_settings_paused_until on awa.group_settings (paused_until)
  where group_max_running is null and group_rate is null and paused_until is not null;
comment on table awa.group_settings is
  'One group that has limits of its own, or is paused, whether it has jobs or not';
comment on column awa.group_settings.queue_id is 'As queues.queue_id';
comment on column awa.group_settings.group_key is 'The key of the group';
comment on column awa.group_settings.group_id is 'As group_states.group_id';
comment on column awa.group_settings.group_max_running is 'As the setting of the queue, for which it stands';
comment on column awa.group_settings.group_rate is 'As the setting of the queue, for which it stands';
comment on column awa.group_settings.paused_at is 'Since when no job of it begins; null when it is not paused';
comment on column awa.group_settings.paused_until is 'When the pause ends by itself; null when it does not';
comment on column awa.group_settings.reason is 'Why it is paused';
comment on column awa.group_settings.changed_at is 'When the row was changed last';
comment on column awa.group_settings.changed_by is 'The login that changed it';

create table awa.limited_jobs (
  waiting_id   bigint primary key,
  shard        bigint not null,
  group_id     bigint,
  job_id       bigint not null,
  lane         bigint not null,
  ready_at     timestamptz not null,
  created_at   timestamptz not null,
  attempt      smallint not null,
  max_attempts smallint not null,
  body_bytes   integer not null,
  unique_key   bytea,
  kind         text not null,
  args         jsonb not null,
  tags         text[],
  metadata     jsonb,
  group_key    text,
  expires_at   timestamptz,
  progress     jsonb,
  errors       jsonb,
  check ((group_id is null) = (group_key is null))
);
create index limited_jobs_line on awa.limited_jobs (shard, group_id, waiting_id);
create index limited_jobs_job on awa.limited_jobs (job_id);
create index limited_jobs_lane on awa.limited_jobs (lane, ready_at);
create index limited_jobs_expires_at on awa.limited_jobs (expires_at) where expires_at is not null and attempt = 1;
comment on table awa.limited_jobs is
  'One available job that a claim came to, and that waits for its group, or its turn; deleted when it begins';
comment on column awa.limited_jobs.shard is 'As slots.shard';
comment on column awa.limited_jobs.created_at is 'When the job was enqueued';
comment on column awa.limited_jobs.group_id is 'As group_states.group_id; null: it has no group, and has its turn';
comment on column awa.limited_jobs.waiting_id is
  'Its place in the line of its group. Numbers below 0 are the front of the line, and begin first: jobs that were '
  'given back, or for which their group is reserved';
comment on column awa.limited_jobs.lane is 'The lane of its priority';

create table awa.turns (
  turn_id    bigint not null,
  lane       bigint not null,
  group_id   bigint,
  waiting_id bigint not null,
  is_again   boolean not null default false,
  primary key (lane, turn_id)
);
comment on table awa.turns is
  'A slot of a group that is reserved for a job of its line: the next claim that comes to its lane begins it';
comment on column awa.turns.turn_id is 'The order of the turns of a lane';
comment on column awa.turns.lane is 'The lane of the job''s priority';
comment on column awa.turns.waiting_id is 'As limited_jobs.waiting_id: the job that is to begin';
comment on column awa.turns.group_id is 'As group_states.group_id; null for a job without a group, which holds no slot';
comment on column awa.turns.is_again is
  'Whether its group was served before, and has had a line since, where groups are served by turns. Before a claim '
  'serves such a turn, it reads on';

create table awa.done_entries (
  job_id             bigint not null,
  lane               bigint not null,
  state              text not null check (state in ('completed', 'failed', 'cancelled', 'dead')),
  reason             text,
  counted_by_closure boolean not null,
  receipt            bigint,
  worker_id          bigint,
  ready_at           timestamptz not null,
  created_at         timestamptz not null,
  attempted_at       timestamptz,
  finalized_at       timestamptz not null,
  attempt            smallint not null,
  max_attempts       smallint not null,
  body_bytes         integer not null,
  unique_key         bytea,
  kind               text not null,
  args               jsonb not null,
  tags               text[],
  metadata           jsonb,
  group_key          text,
  expires_at         timestamptz,
  progress           jsonb,
  errors             jsonb,
  output             jsonb
);
-- Not unique: a session that cancels a job in an open transaction, and one that answers for it, would wait for each
-- other; one of the two is refused anyway.
alter table awa.done_entries replica identity full;
create index done_entries_job on awa.done_entries (job_id);
create index done_entries_state on awa.done_entries (state, job_id) where state <> 'completed';
create index done_entries_completed on awa.done_entries (lane, finalized_at) where state = 'completed';
create index done_entries_failed on awa.done_entries (finalized_at) where reason is not null;
create index done_entries_lane on awa.done_entries (lane, state, finalized_at) where not counted_by_closure;
comment on table awa.done_entries is
  'One ended job that the ledgers alone do not describe: it failed, was cancelled, is a dead letter, left an output, '
  'or its attempt had a row in leases';
comment on column awa.done_entries.lane is 'The lane of the job, with its own priority, as ready_entries.lane';
comment on column awa.done_entries.state is 'The state in which it ended: completed, failed, cancelled or dead';
comment on column awa.done_entries.receipt is 'The receipt of the attempt that ended the job; null where none did';
comment on column awa.done_entries.worker_id is 'The registered worker of that attempt; null where there was none';
comment on column awa.done_entries.created_at is 'When the job was enqueued';
comment on column awa.done_entries.attempted_at is 'When the last attempt began; null when none began';
comment on column awa.done_entries.finalized_at is 'When the job ended';
comment on column awa.done_entries.output is 'The result of the last attempt; null for none';
comment on column awa.done_entries.reason is
  'Why a failed or dead job has no attempt more: attempts used up, or discarded; null for the others';
comment on column awa.done_entries.counted_by_closure is
  'Whether a closure counts it as completed, too: the row only adds the output';
comment on column awa.done_entries.attempt is 'The number of its last attempt; 0 when none began';

-- The other columns of the tables that hold jobs are as in ready_entries.
do $$
declare
  v_column record;
begin
  for v_column in
    select a.attrelid::regclass as of_table, a.attname as name, col_description(e.attrelid, e.attnum) as comment
      from pg_attribute a
      join pg_attribute e on e.attrelid = 'awa.ready_entries'::regclass and e.attname = a.attname
     where a.attrelid in ('awa.deferred_jobs'::regclass, 'awa.leases'::regclass, 'awa.limited_jobs'::regclass,
             'awa.done_entries'::regclass)
       and a.attnum > 0
       and col_description(a.attrelid, a.attnum) is null
  loop
    execute format('comment on column %s.%I is %L', v_column.of_table, v_column.name, v_column.comment);
  end loop;
end
$$;

create table awa.deleted_jobs (
  job_id  bigint primary key,
  lane    bigint not null,
  xid     xid8,
  by_xid  xid8 not null default pg_current_xact_id(),
  segment smallint not null
);
create index deleted_jobs_lane on awa.deleted_jobs (lane, by_xid);
create index deleted_jobs_segment on awa.deleted_jobs (segment);
comment on table awa.deleted_jobs is
  'One job that was deleted after it had completed, and that the ledgers still hold: it is not shown, and not counted. '
  'Until its entry has gone with its segment';
comment on column awa.deleted_jobs.job_id is 'The id of the job';
comment on column awa.deleted_jobs.lane is 'The lane of the job';
comment on column awa.deleted_jobs.xid is 'The transaction of its entry; null when done_entries described it';
comment on column awa.deleted_jobs.by_xid is 'The transaction that deleted it';
comment on column awa.deleted_jobs.segment is
  'The current segment by then: when that one has been emptied, so has the one with the entry';

create table awa.unique_claims (
  key        bytea not null,
  round      bigint not null default 0,
  job_id     bigint,
  queue_id   bigint,
  held_until timestamptz,
  free_since xid8,
  primary key (key, round)
);
create index unique_claims_held_until on awa.unique_claims (held_until) where held_until is not null;
create index unique_claims_free_since on awa.unique_claims (free_since) where free_since is not null;
comment on table awa.unique_claims is
  'One unique key that a job holds. Of the rows of a key the one of the highest round counts';
comment on column awa.unique_claims.key is
  'The hash in the key that the job carries: without the states and the end of the period';
comment on column awa.unique_claims.round is
  '0 in the first row of a key, which keeps others out. Some keys that were let go of have a second row, whose round '
  'grows each time that it changes: it is found without a look at the rows before it, which an old snapshot may keep';
comment on column awa.unique_claims.job_id is
  'The job that holds the key; null in a row that counts when no job does, and in the first row of a key that has two';
comment on column awa.unique_claims.held_until is 'The end of the period, once the job has completed';
comment on column awa.unique_claims.free_since is
  'In a second row: the transaction that let go of the key; null while a job holds it';
comment on column awa.unique_claims.queue_id is 'The queue in which the job completed';

create table awa.queue_rollups (
  lane            bigint primary key,
  counted         pg_snapshot not null default '3:3:',
  enqueued        bigint not null default 0,
  appended        bigint not null default 0,
  segment_entries bigint[] not null default '{0,0,0,0}',
  buried          bigint not null default 0,
  closed_seq      bigint not null default 0,
  open_seqs       bigint[] not null default '{}',
  claimed         bigint not null default 0,
  completed       bigint not null default 0,
  failed          bigint not null default 0,
  cancelled       bigint not null default 0,
  dead            bigint not null default 0,
  dropped         pg_snapshot,
  folded_at       timestamptz not null default clock_timestamp()
) with (fillfactor = 50);
create index queue_rollups_open on awa.queue_rollups (lane) where open_seqs <> '{}';
create index queue_rollups_dropped on awa.queue_rollups (lane) where dropped is not null;
comment on table awa.queue_rollups is
  'Counts of the past of a lane, so that an exact count adds up only the rows that came after';
comment on column awa.queue_rollups.lane is 'The lane that is counted';
comment on column awa.queue_rollups.appended is 'Entries that were appended to the lane';
comment on column awa.queue_rollups.claimed is 'Jobs of the closed claims';
comment on column awa.queue_rollups.completed is 'Jobs that these claims completed, without those that were deleted';
comment on column awa.queue_rollups.cancelled is 'Cancelled jobs that are no longer kept';
comment on column awa.queue_rollups.dead is 'Dead letters that are no longer kept';
comment on column awa.queue_rollups.folded_at is
  'When the lane was counted last; -infinity while there is more to count';
comment on column awa.queue_rollups.counted is
  'Entries and tombstones of transactions that are visible in it are counted in appended and buried';
comment on column awa.queue_rollups.enqueued is
  'Jobs that were enqueued, or moved here; less those that were moved away or purged';
comment on column awa.queue_rollups.segment_entries is
  'How many of the entries that are counted each segment (1 for segment 0, ...) still has to hold';
comment on column awa.queue_rollups.buried is 'Entries with a tombstone';
comment on column awa.queue_rollups.closed_seq is
  'Claims up to this number are closed, each item of them, and counted in claimed and completed; but for those in '
  'open_seqs';
comment on column awa.queue_rollups.open_seqs is 'Older claims that are still open';
comment on column awa.queue_rollups.dropped is
  'When the queue was dropped last: entries that are visible in it are not shown any more';
comment on column awa.queue_rollups.failed is 'Failed jobs that are no longer kept';

-- Statistics ------------------------------------------------------------------------------------

create table awa.queue_statistics (
  queue_id  bigint not null,
  seconds   int not null check (seconds in (60, 3600)),
  at        timestamptz not null,
  kind      text,
  enqueued  bigint not null,
  completed bigint not null,
  failed    bigint not null,
  waits     bigint[] not null,
  runs      bigint[] not null,
  unique nulls not distinct (queue_id, seconds, at, kind)
) with (fillfactor = 70);
create index queue_statistics_at on awa.queue_statistics (seconds, at);
alter table awa.queue_statistics replica identity full;
comment on table awa.queue_statistics is
  'The jobs that came and ended in a queue within one minute, of one kind; after a day within one hour. Kept for '
  '30 days';
comment on column awa.queue_statistics.queue_id is 'As queues.queue_id';
comment on column awa.queue_statistics.seconds is 'The length of that time: 60 or 3600';
comment on column awa.queue_statistics.at is 'The beginning of that time';
comment on column awa.queue_statistics.kind is 'Null for all kinds beyond the first 50 of that time';
comment on column awa.queue_statistics.enqueued is 'New jobs';
comment on column awa.queue_statistics.completed is 'Attempts that completed';
comment on column awa.queue_statistics.failed is 'Attempts that failed, whether or not the job runs again';
comment on column awa.queue_statistics.waits is
  'How long these attempts had waited, ready, until they began: for each step of _duration_step that occurs, the step '
  'shifted left by 40 bits, plus the number of attempts';
comment on column awa.queue_statistics.runs is 'How long these attempts took, as waits';

create table awa.statistics (
  seconds   int not null check (seconds in (60, 3600)),
  at        timestamptz not null,
  kind      text,
  enqueued  bigint not null,
  completed bigint not null,
  failed    bigint not null,
  waits     bigint[] not null,
  runs      bigint[] not null,
  unique nulls not distinct (seconds, at, kind)
) with (fillfactor = 70);
alter table awa.statistics replica identity full;
comment on table awa.statistics is 'As queue_statistics, of all queues together: so a look at all costs as little';
comment on column awa.statistics.seconds is 'As queue_statistics.seconds';
comment on column awa.statistics.at is 'As queue_statistics.at';
comment on column awa.statistics.kind is 'As queue_statistics.kind';
comment on column awa.statistics.enqueued is 'As queue_statistics.enqueued';
comment on column awa.statistics.completed is 'As queue_statistics.completed';
comment on column awa.statistics.failed is 'As queue_statistics.failed';
comment on column awa.statistics.waits is 'As queue_statistics.waits';
comment on column awa.statistics.runs is 'As queue_statistics.runs';

create table awa.leased_ends (
  lane       bigint not null,
  kind       text not null,
  is_failure boolean not null,
  ready_at   timestamptz not null,
  claimed_at timestamptz not null,
  ended_at   timestamptz not null
);
alter table awa.leased_ends replica identity full;
comment on table awa.leased_ends is
  'An attempt with a row in leases that completed or failed, until fold has counted it in the statistics';
comment on column awa.leased_ends.lane is 'As leases.lane';
comment on column awa.leased_ends.kind is 'As leases.kind';
comment on column awa.leased_ends.is_failure is 'Whether it failed';
comment on column awa.leased_ends.ready_at is 'As leases.ready_at';
comment on column awa.leased_ends.claimed_at is 'As leases.claimed_at';
comment on column awa.leased_ends.ended_at is 'When it ended';

-- Changes of many jobs --------------------------------------------------------------------------

create sequence awa.change_ids;
comment on sequence awa.change_ids is 'The id of a change of many jobs';

create table awa.changes (
  change_id  bigint primary key,
  action     text not null,
  filter     jsonb not null,
  options    jsonb not null,
  started_by text not null,
  actor      text,
  started_at timestamptz not null,
  state      text not null check (state in ('running', 'stopped', 'finished')),
  before_id  bigint,
  found      bigint not null default 0,
  changed    bigint not null default 0,
  skipped    bigint not null default 0,
  last_error text,
  turn_at    timestamptz not null,
  moved_at   timestamptz not null,
  ended_at   timestamptz,
  check ((state = 'running') = (ended_at is null))
);
create index changes_running on awa.changes (change_id) where state = 'running';
create index changes_ended_at on awa.changes (ended_at) where ended_at is not null;
comment on table awa.changes is
  'One change of all jobs that match a filter, which maintenance makes in parts; or one that was made at once, by a '
  'session with the setting awa.actor. Kept for 90 days after its end';
comment on column awa.changes.change_id is 'The id of the change';
comment on column awa.changes.action is
  'The change of each job: cancel, discard, retry, move, set_priority or delete; or what was done at once, such as '
  'reschedule of one job, or pause_queue';
comment on column awa.changes.options is 'The options of the action, such as the queue to move to';
comment on column awa.changes.started_at is 'When it was started';
comment on column awa.changes.state is 'running, stopped before its end, or finished';
comment on column awa.changes.changed is 'How many jobs were changed';
comment on column awa.changes.ended_at is 'When it was stopped, or finished; null while it runs';
comment on column awa.changes.filter is
  'As scan_jobs takes it; of a change of one job, its id as job_id; of a change of a queue or a group, which one';
comment on column awa.changes.started_by is 'The login of the session that has started it';
comment on column awa.changes.actor is 'The setting awa.actor of that session; null where it had none';
comment on column awa.changes.before_id is
  'The next part looks for jobs with lower ids. Jobs that were enqueued after the start have higher ones';
comment on column awa.changes.found is 'How many jobs matched when their turn came: changed and skipped ones';
comment on column awa.changes.skipped is
  'How many of them could not be changed: another session was changing the job, or another job holds its unique key';
comment on column awa.changes.last_error is 'Why the last one of these was skipped, or why the last part failed';
comment on column awa.changes.turn_at is 'The change with the earliest one has the next turn';
comment on column awa.changes.moved_at is 'When a part of it was made last; when it was started, before that';

insert into awa.origin (xid, server) select pg_current_xact_id()::xid, c.system_identifier from pg_control_system() c;
insert into awa.ring (tables) values (array['awa.ring'::regclass, 'awa.ready_entries'::regclass]::oid[]);
