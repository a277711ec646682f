-- name: Schedule :exec
select awa.schedule(
  name => @name, queue => @queue, kind => @kind, cron => sqlc.narg(cron),
  every => sqlc.narg(every)::pg_catalog.text::interval,
  args => @args, timezone => sqlc.narg(timezone), missed => sqlc.narg(missed),
  missed_for => sqlc.narg(missed_for)::pg_catalog.text::interval, overlap => sqlc.narg(overlap),
  starts_at => sqlc.narg(starts_at), ends_at => sqlc.narg(ends_at), priority => sqlc.narg(priority),
  max_attempts => sqlc.narg(max_attempts), tags => sqlc.narg(tags)::pg_catalog.text[], metadata => sqlc.narg(metadata),
  group_key => sqlc.narg(group_key));

-- name: Unschedule :exec
select awa.unschedule(name => @name);

-- name: PauseSchedule :exec
select awa.pause_schedule(name => @name, reason => sqlc.narg(reason));

-- name: ResumeSchedule :exec
select awa.resume_schedule(name => @name);

-- name: TriggerSchedule :one
select awa.trigger_schedule(name => @name);

-- name: BackfillSchedule :many
select awa.backfill_schedule(
  name => @name, "from" => @from_time, "to" => @to_time, max_jobs => sqlc.narg(max_jobs), repeat => @repeat);

-- name: SyncSchedules :one
select awa.sync_schedules(source => @source, schedules => @schedules, revision => sqlc.narg(revision));

-- name: ListSchedules :many
select * from awa.list_schedules();

-- name: ExplainSchedule :one
select awa.explain_schedule(name => @name);

-- name: NextFires :many
select awa.next_fires(
  cron => @cron, timezone => sqlc.narg(timezone), "after" => sqlc.narg(after_time), n => sqlc.narg(n));

-- name: DescribeCron :one
select awa.describe_cron(cron => @cron);
