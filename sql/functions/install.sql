-- The manifest: views that are row contracts come with their functions, public functions first, private ones after, grants last.
-- Everything is "create or replace", so that it can be installed again at any time, and keeps what depends on it.
-- Whoever may create objects in public must not be able to slip in a function.
set local search_path = pg_catalog, pg_temp;
set local check_function_bodies = off;
set local client_min_messages = warning;

do $$
begin
  if getdatabaseencoding() <> 'UTF8' then
    raise warning 'the database is encoded in %', getdatabaseencoding()
      using detail = 'Jobs and outputs with characters that this encoding lacks are refused (22P05), and so are JSON escapes for them; Go workers store errors with escapes. SQL_ASCII takes any bytes, and says nothing of what they mean.',
            hint = 'A database in UTF-8 takes all of them: create database mydb encoding ''UTF8'' template template0. In this one, let Go programs set client_encoding=UTF8.';
  end if;
end
$$;

{{ template "shared/queues.sql" . }}
{{ template "maintain/segments.sql" . }}
{{ template "shared/unique_keys.sql" . }}
{{ template "close/attempts.sql" . }}
{{ template "maintain/fold.sql" . }}
{{ template "read/jobs.sql" . }}
{{ template "enqueue/enqueue.sql" . }}
{{ template "enqueue/enqueue_many.sql" . }}
{{ template "enqueue/enqueue_unique.sql" . }}
{{ template "enqueue/enqueue_batch.sql" . }}
{{ template "enqueue/cancel_by_unique_key.sql" . }}
{{ template "claim/claim.sql" . }}
{{ template "close/complete.sql" . }}
{{ template "close/complete_many.sql" . }}
{{ template "close/fail.sql" . }}
{{ template "close/fail_many.sql" . }}
{{ template "close/discard.sql" . }}
{{ template "close/snooze.sql" . }}
{{ template "close/release.sql" . }}
{{ template "close/cancel_attempt.sql" . }}
{{ template "lease/extend.sql" . }}
{{ template "lease/set_progress.sql" . }}
{{ template "defer/promote_due.sql" . }}
{{ template "maintain/materialize.sql" . }}
{{ template "maintain/rescue.sql" . }}
{{ template "maintain/expire_history.sql" . }}
{{ template "maintain/rotate.sql" . }}
{{ template "maintain/prune_oldest.sql" . }}
{{ template "maintain/run_maintenance.sql" . }}
{{ template "worker/register_worker.sql" . }}
{{ template "worker/heartbeat.sql" . }}
{{ template "worker/release_unknown.sql" . }}
{{ template "worker/deregister_worker.sql" . }}
{{ template "operate/configure_queue.sql" . }}
{{ template "operate/pause_queue.sql" . }}
{{ template "operate/resume_queue.sql" . }}
{{ template "operate/drop_queue.sql" . }}
{{ template "operate/cancel.sql" . }}
{{ template "operate/cancel_where.sql" . }}
{{ template "operate/retry.sql" . }}
{{ template "operate/retry_where.sql" . }}
{{ template "operate/set_priority.sql" . }}
{{ template "operate/move.sql" . }}
{{ template "operate/purge_dlq.sql" . }}
{{ template "operate/rebase_after_restore.sql" . }}
{{ template "read/job.sql" . }}
{{ template "read/list_jobs.sql" . }}
{{ template "read/queue_counts.sql" . }}
{{ template "read/explain_job.sql" . }}
{{ template "read/audit.sql" . }}
{{ template "read/health.sql" . }}
{{ template "read/version.sql" . }}

{{ template "shared/arguments.sql" . }}
{{ template "shared/changes.sql" . }}

{{ template "grants.sql" . }}
