// Package driver works with Awa, a log-structured job queue in PostgreSQL, from Go.
//
// [Migrate] installs Awa in a database. A [Client] enqueues jobs, if asked to inside the caller's own transaction. A
// [Worker] claims jobs of one queue or more, and runs the functions that [Handle] has registered for their kinds.
//
// The driver is thin: what becomes of a job, when it is retried, and who may have it, is decided by the SQL functions
// in schema awa, which every other program may call as well.
package driver
