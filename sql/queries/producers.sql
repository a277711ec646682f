-- name: Enqueue :one
select awa.enqueue(
  queue => @queue, kind => @kind, args => @args, priority => sqlc.narg(priority), run_at => sqlc.narg(run_at),
  max_attempts => sqlc.narg(max_attempts), tags => sqlc.narg(tags)::pg_catalog.text[], metadata => sqlc.narg(metadata),
  group_key => sqlc.narg(group_key), expires_at => sqlc.narg(expires_at));

-- name: EnqueueMany :many
select awa.enqueue_many(
  queue => @queue, kind => @kind, args => @args::pg_catalog.jsonb[], priority => sqlc.narg(priority),
  run_at => sqlc.narg(run_at),
  max_attempts => sqlc.narg(max_attempts), tags => sqlc.narg(tags)::pg_catalog.text[], metadata => sqlc.narg(metadata),
  group_key => sqlc.narg(group_key), expires_at => sqlc.narg(expires_at));

-- name: EnqueueBatch :many
select * from awa.enqueue_batch(jobs => @jobs);

-- name: EnqueueUnique :one
select * from awa.enqueue_unique(
  queue => @queue, kind => @kind, args => @args, unique_key => sqlc.narg(unique_key),
  unique_by => sqlc.narg(unique_by)::pg_catalog.text[],
  unique_period => sqlc.narg(unique_period)::pg_catalog.text::interval, unique_zone => sqlc.narg(unique_zone),
  unique_states => sqlc.narg(unique_states)::pg_catalog.text[], priority => sqlc.narg(priority),
  run_at => sqlc.narg(run_at), max_attempts => sqlc.narg(max_attempts), tags => sqlc.narg(tags)::pg_catalog.text[],
  metadata => sqlc.narg(metadata), group_key => sqlc.narg(group_key), expires_at => sqlc.narg(expires_at));

-- name: CancelByUniqueKey :many
select awa.cancel_by_unique_key(
  queue => sqlc.narg(queue), kind => sqlc.narg(kind), args => sqlc.narg(args), unique_key => sqlc.narg(unique_key),
  unique_by => sqlc.narg(unique_by)::pg_catalog.text[],
  unique_period => sqlc.narg(unique_period)::pg_catalog.text::interval, unique_zone => sqlc.narg(unique_zone),
  run_at => sqlc.narg(run_at));
