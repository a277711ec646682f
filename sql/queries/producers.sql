-- name: Enqueue :one
select awa.enqueue(
  queue => @queue, kind => @kind, args => @args, priority => sqlc.narg(priority), run_at => sqlc.narg(run_at),
  max_attempts => sqlc.narg(max_attempts), tags => sqlc.narg(tags)::text[], metadata => sqlc.narg(metadata));

-- name: EnqueueMany :many
select awa.enqueue_many(
  queue => @queue, kind => @kind, args => @args::jsonb[], priority => sqlc.narg(priority), run_at => sqlc.narg(run_at),
  max_attempts => sqlc.narg(max_attempts), tags => sqlc.narg(tags)::text[], metadata => sqlc.narg(metadata));

-- name: EnqueueBatch :many
select awa.enqueue_batch(jobs => @jobs);
