-- name: PromoteDue :one
select * from awa.promote_due(max_jobs => @max_jobs);
