-- name: Job :one
select * from awa.job(job_id => @job_id);

-- name: ListJobs :many
select * from awa.list_jobs(
  queue => sqlc.narg(queue), state => sqlc.narg(state), kind => sqlc.narg(kind), before_id => sqlc.narg(before_id),
  max_jobs => sqlc.narg(max_jobs),
  tag => sqlc.narg(tag), args => sqlc.narg(args), group_key => sqlc.narg(group_key),
  cause => sqlc.narg(cause));

-- name: JobSummaries :many
select * from awa.job_summaries(
  queue => sqlc.narg(queue), state => sqlc.narg(state), kind => sqlc.narg(kind), before_id => sqlc.narg(before_id),
  max_jobs => sqlc.narg(max_jobs),
  tag => sqlc.narg(tag), args => sqlc.narg(args), group_key => sqlc.narg(group_key), cause => sqlc.narg(cause),
  worker_id => sqlc.narg(worker_id), job_ids => sqlc.narg(job_ids)::bigint[]);

-- name: ScanJobs :one
select * from awa.scan_jobs(filter => @filter, before_id => sqlc.narg(before_id));

-- name: FailureCauses :many
select * from awa.failure_causes(
  queue => sqlc.narg(queue), since => sqlc.narg(since), kind => sqlc.narg(kind), max_causes => sqlc.narg(max_causes));

-- name: QueueCounts :many
select * from awa.queue_counts(queue => sqlc.narg(queue));

-- name: Configuration :many
select * from awa.configuration();

-- name: ListQueues :many
select * from awa.list_queues();

-- name: ListGroups :many
select * from awa.list_groups(queue => @queue, after_key => sqlc.narg(after_key), max_groups => sqlc.narg(max_groups));

-- name: NextReadyIn :one
select coalesce(extract(epoch from awa.next_ready_at(queues => @queues::pg_catalog.text[])
         operator(pg_catalog.-) pg_catalog.clock_timestamp()), -1)::pg_catalog.float8;

-- name: QueueStats :many
select * from awa.queue_stats(
  queue => sqlc.narg(queue), since => sqlc.narg(since), step => sqlc.narg(step),
  kind => sqlc.narg(kind), by_kind => @by_kind);

-- name: ListWorkers :many
select * from awa.list_workers();

-- name: ListChanges :many
select * from awa.list_changes(
  state => sqlc.narg(state), before_id => sqlc.narg(before_id), max_changes => sqlc.narg(max_changes));

-- name: Version :one
select awa.version();

-- name: ExplainJob :one
select awa.explain_job(job_id => @job_id);

-- name: Audit :many
select * from awa.audit();

-- name: HealthOf :many
select * from awa.health_of(topics => sqlc.narg(topics)::pg_catalog.text[]);

-- name: Health :many
select * from awa.health();

-- name: NextReadyAt :one
select n.at::pg_catalog.timestamptz as at
  from awa.next_ready_at(queues => sqlc.narg(queues)::pg_catalog.text[]) n(at)
 where n.at is not null;
