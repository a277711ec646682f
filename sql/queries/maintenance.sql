-- name: PromoteDue :one
select * from awa.promote_due(max_jobs => @max_jobs);

-- name: Materialize :one
select * from awa.materialize(older_than => sqlc.narg(older_than), max_jobs => sqlc.narg(max_jobs));

-- name: Rescue :one
select * from awa.rescue(max_jobs => sqlc.narg(max_jobs));

-- name: CancelExpired :one
select * from awa.cancel_expired(max_jobs => sqlc.narg(max_jobs));

-- name: ApplyChanges :one
select * from awa.apply_changes(max_jobs => sqlc.narg(max_jobs));

-- name: ExpireHistory :one
select * from awa.expire_history();

-- name: Rotate :one
select * from awa.rotate(force => @force);

-- name: PruneOldest :one
select * from awa.prune_oldest(force => @force);

-- name: RunMaintenance :exec
call awa.run_passes(if_due => true);

-- name: FireDue :one
select * from awa.fire_due(max_jobs => sqlc.narg(max_jobs));

-- name: Fold :one
select * from awa.fold();

-- name: Summarize :one
select * from awa.summarize();

-- name: ForgetWorkers :one
select * from awa.forget_workers();

-- name: EndStuckClaimers :one
select * from awa.end_stuck_claimers();

-- name: RunPass :one
select awa.run_pass(pass => @pass, max_jobs => sqlc.narg(max_jobs), if_due => sqlc.narg(if_due));

-- name: UntilPassesAreDue :one
select coalesce(extract(epoch from awa.pass_due_at('promote_due') operator(pg_catalog.-) pg_catalog.clock_timestamp()),
         86400)::pg_catalog.float8 as promote_due,
       coalesce(extract(epoch from awa.pass_due_at('fire_due') operator(pg_catalog.-) pg_catalog.clock_timestamp()),
         86400)::pg_catalog.float8 as fire_due;
