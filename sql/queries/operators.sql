-- name: Configure :exec
select awa.configure(settings => @settings);

-- name: ConfigureQueue :exec
select awa.configure_queue(queue => @queue, settings => @settings);

-- name: ConfigureGroup :exec
select awa.configure_group(queue => @queue, group_key => @group_key, settings => @settings);

-- name: PauseGroup :exec
select awa.pause_group(queue => @queue, group_key => @group_key, reason => sqlc.narg(reason),
  until => sqlc.narg(until));

-- name: ResumeGroup :exec
select awa.resume_group(queue => @queue, group_key => @group_key);

-- name: PauseQueue :exec
select awa.pause_queue(queue => @queue);

-- name: ResumeQueue :exec
select awa.resume_queue(queue => @queue);

-- name: DrainQueue :one
select awa.drain_queue(queue => @queue);

-- name: DropQueue :exec
select awa.drop_queue(queue => @queue, force => @force);

-- name: StartChange :one
select awa.start_change(action => @action, filter => @filter, options => sqlc.narg(options));

-- name: StopChange :exec
select awa.stop_change(change_id => @change_id);

-- name: Cancel :one
select awa.cancel(job_id => @job_id, reason => sqlc.narg(reason));

-- name: DiscardJob :one
select awa.discard_job(job_id => @job_id, reason => sqlc.narg(reason));

-- name: CancelWhere :one
select awa.cancel_where(
  queue => sqlc.narg(queue), kind => sqlc.narg(kind), state => sqlc.narg(state), before => sqlc.narg(before),
  max_jobs => sqlc.narg(max_jobs),
  tag => sqlc.narg(tag), args => sqlc.narg(args), group_key => sqlc.narg(group_key), cause => sqlc.narg(cause));

-- name: Retry :one
select awa.retry(
  job_id => @job_id, queue => sqlc.narg(queue), priority => sqlc.narg(priority), run_at => sqlc.narg(run_at));

-- name: RetryWhere :one
select awa.retry_where(
  queue => sqlc.narg(queue), kind => sqlc.narg(kind), state => sqlc.narg(state), before => sqlc.narg(before),
  max_jobs => sqlc.narg(max_jobs),
  tag => sqlc.narg(tag), args => sqlc.narg(args), group_key => sqlc.narg(group_key), cause => sqlc.narg(cause));

-- name: SetPriority :one
select awa.set_priority(job_id => @job_id, priority => @priority);

-- name: Move :one
select awa.move(job_id => @job_id, queue => @queue);

-- name: Reschedule :one
select awa.reschedule(job_id => @job_id, run_at => @run_at, args => sqlc.narg(args));

-- name: PurgeDLQ :one
select awa.purge_dlq(
  queue => sqlc.narg(queue), kind => sqlc.narg(kind), state => sqlc.narg(state), before => sqlc.narg(before),
  max_jobs => sqlc.narg(max_jobs),
  tag => sqlc.narg(tag), args => sqlc.narg(args), group_key => sqlc.narg(group_key), cause => sqlc.narg(cause));

-- name: DeleteJob :one
select awa.delete_job(job_id => @job_id);

-- name: DeleteWhere :one
select awa.delete_where(
  queue => sqlc.narg(queue), kind => sqlc.narg(kind), state => sqlc.narg(state), before => sqlc.narg(before),
  max_jobs => sqlc.narg(max_jobs),
  tag => sqlc.narg(tag), args => sqlc.narg(args), group_key => sqlc.narg(group_key), cause => sqlc.narg(cause));

-- name: RebaseAfterRestore :one
select * from awa.rebase_after_restore();
