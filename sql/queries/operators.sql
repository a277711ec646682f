-- name: ConfigureQueue :exec
select awa.configure_queue(queue => @queue, settings => @settings);

-- name: PauseQueue :exec
select awa.pause_queue(queue => @queue);

-- name: ResumeQueue :exec
select awa.resume_queue(queue => @queue);
