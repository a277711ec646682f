-- The manifest: views that are row contracts come with their functions, public functions first, private ones after, grants last.
-- Everything is "create or replace", so that it can be installed again at any time, and keeps what depends on it.
-- Whoever may create objects in public must not be able to slip in a function.
set local search_path = pg_catalog, pg_temp;
set local check_function_bodies = off;
set local client_min_messages = warning;

{{ template "close/attempts.sql" . }}
{{ template "enqueue/enqueue.sql" . }}
{{ template "enqueue/enqueue_many.sql" . }}
{{ template "enqueue/enqueue_batch.sql" . }}
{{ template "claim/claim.sql" . }}
{{ template "close/complete.sql" . }}
{{ template "close/complete_many.sql" . }}
{{ template "close/fail.sql" . }}
{{ template "close/fail_many.sql" . }}
{{ template "close/release.sql" . }}
{{ template "defer/promote_due.sql" . }}
{{ template "worker/register_worker.sql" . }}
{{ template "worker/heartbeat.sql" . }}
{{ template "worker/deregister_worker.sql" . }}
{{ template "operate/configure_queue.sql" . }}
{{ template "operate/pause_queue.sql" . }}
{{ template "operate/resume_queue.sql" . }}
{{ template "read/jobs.sql" . }}
{{ template "read/job.sql" . }}
{{ template "read/list_jobs.sql" . }}
{{ template "read/queue_counts.sql" . }}
{{ template "read/version.sql" . }}

{{ template "shared/arguments.sql" . }}
{{ template "shared/queues.sql" . }}

{{ template "grants.sql" . }}
