-- name: RegisterWorker :one
select awa.register_worker(name => @name, queues => sqlc.narg(queues)::pg_catalog.text[], info => sqlc.narg(info),
  member_of => sqlc.narg(member_of));

-- name: Heartbeat :many
select * from awa.heartbeat(worker_id => @worker_id);

-- name: DeregisterWorker :one
select awa.deregister_worker(worker_id => @worker_id);

-- name: ReleaseUnknown :one
select awa.release_unknown(worker_id => @worker_id, job_ids => @job_ids::bigint[], receipts => @receipts::bigint[]);

-- name: Claim :many
select *
  from awa.claim(queue => @queue, max_jobs => @max_jobs, worker_id => sqlc.narg(worker_id), lease => sqlc.narg(lease),
    durable => sqlc.narg(durable));

-- name: ClaimWithin :many
select c.job_id, c.receipt, c.queue, c.kind,
       (case when s.bytes operator(pg_catalog.<=) @max_bytes::bigint then c.args end)::pg_catalog.jsonb as args,
       c.priority, c.attempt, c.max_attempts, c.created_at, c.ready_at, c.deadline_at,
       (case when s.bytes operator(pg_catalog.<=) @max_bytes then c.tags end)::pg_catalog.text[] as tags,
       (case when s.bytes operator(pg_catalog.<=) @max_bytes then c.metadata end)::pg_catalog.jsonb as metadata,
       (case when s.bytes operator(pg_catalog.<=) @max_bytes then c.progress end)::pg_catalog.jsonb as progress,
       c.group_key,
       c.expires_at, s.bytes::bigint as bytes
  from awa.claim(queue => @queue, max_jobs => @max_jobs, worker_id => sqlc.narg(worker_id), lease => sqlc.narg(lease),
    durable => sqlc.narg(durable)) c
 cross join lateral (
    select pg_catalog.octet_length(c.args::pg_catalog.text)::bigint
         operator(pg_catalog.+) coalesce(pg_catalog.octet_length(c.tags::pg_catalog.text), 0)
         operator(pg_catalog.+) coalesce(pg_catalog.octet_length(c.metadata::pg_catalog.text), 0)
         operator(pg_catalog.+) coalesce(pg_catalog.octet_length(c.progress::pg_catalog.text), 0) as bytes
    offset 0
 ) s;

-- name: Complete :exec
select awa.complete(job_id => @job_id, receipt => @receipt, output => sqlc.narg(output));

-- name: CompleteMany :many
select awa.complete_many(job_ids => @job_ids::bigint[], receipts => @receipts::bigint[],
  outputs => sqlc.narg(outputs)::pg_catalog.jsonb[]);

-- name: Fail :one
select awa.fail(
  job_id => @job_id, receipt => @receipt, error => @error, retry_after => sqlc.narg(retry_after),
  details => sqlc.narg(details));

-- name: FailMany :many
select awa.fail_many(
  job_ids => @job_ids::bigint[], receipts => @receipts::bigint[], errors => @errors::pg_catalog.text[],
  retry_after => sqlc.narg(retry_after)::interval[]);

-- name: Release :exec
select awa.release(job_id => @job_id, receipt => @receipt);

-- name: Discard :one
select awa.discard(job_id => @job_id, receipt => @receipt, error => @error, details => sqlc.narg(details));

-- name: Snooze :exec
select awa.snooze(job_id => @job_id, receipt => @receipt, delay => @delay, hold_group => @hold_group);

-- name: PutOff :one
select awa.put_off(job_id => @job_id, receipt => @receipt, error => @error);

-- name: CancelAttempt :exec
select awa.cancel_attempt(job_id => @job_id, receipt => @receipt, reason => sqlc.narg(reason));

-- name: Extend :one
select awa.extend(job_id => @job_id, receipt => @receipt, lease => @lease);

-- name: SetProgress :exec
select awa.set_progress(job_id => @job_id, receipt => @receipt, progress => sqlc.narg(progress));
