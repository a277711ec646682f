package driver

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Errors that a caller may want to react to. Test for them with [errors.Is]. Where the server has raised an error, it is in
// the same chain as a [*pgconn.PgError], with its SQLSTATE, DETAIL and HINT.
var (
	// ErrStaleReceipt says that an attempt is no longer the caller's: it was answered before, or given to somebody
	// else. Drop its result. SQLSTATE JQ001.
	ErrStaleReceipt = errors.New("stale receipt")
	// ErrNoSuchQueue says that there is no queue of that name: nothing was ever enqueued to it, nor was it configured or
	// paused. SQLSTATE JQ002.
	ErrNoSuchQueue = errors.New("no such queue")
	// ErrNoSuchJob says that there is no job of that id, or no more. SQLSTATE JQ003.
	ErrNoSuchJob = errors.New("no such job")
	// ErrIsolation says that the call needs the isolation level READ COMMITTED. SQLSTATE JQ004.
	ErrIsolation = errors.New("wrong isolation level")
	// ErrWrongState says that the job's state does not allow the change, or that a queue has jobs that have not ended.
	// SQLSTATE JQ005.
	ErrWrongState = errors.New("wrong state")
	// ErrUniqueKeyHeld says that another job holds the unique key of a job that was to be retried. Wait until that one has
	// ended, or cancel it. SQLSTATE 23505.
	ErrUniqueKeyHeld = errors.New("another job holds the unique key")
	// ErrMovedOn says that somebody else changed the job meanwhile, and that nothing was done. It may come as late as the
	// commit of the caller's own transaction, and is not in the chain of what that returns. Try again: the next call sees
	// the new state. SQLSTATE 40001.
	ErrMovedOn = errors.New("the job moved on meanwhile")
)

// ErrUnknownKind says that a worker has no handler for a job. The job was put off.
var ErrUnknownKind = errors.New("no handler for jobs of this kind")

// ErrUndecodable says that a part of a job can't be decoded by this program. Its attempt failed.
var ErrUndecodable = errors.New("the job can't be decoded")

// ErrStopped is the cause of a handler's context's end when its worker is stopped, and no longer waits for it.
var ErrStopped = errors.New("the worker was stopped")

// ErrTimeout says that a handler took longer than its [Timeout].
var ErrTimeout = errors.New("timeout")

var sentinels = map[string]error{
	"JQ001": ErrStaleReceipt,
	"JQ002": ErrNoSuchQueue,
	"JQ003": ErrNoSuchJob,
	"JQ004": ErrIsolation,
	"JQ005": ErrWrongState,
	"23505": ErrUniqueKeyHeld,
	"40001": ErrMovedOn,
}

// invalidParameter is the SQLSTATE of everything that the functions refuse before they write anything.
const invalidParameter = "22023"

// serializationFailure is the SQLSTATE of what might succeed the next time.
const serializationFailure = "40001"

// queryCanceled is the SQLSTATE of what a timeout has ended.
const queryCanceled = "57014"

// serverError is an error of the server, with all that it has to say, and the sentinel for its SQLSTATE.
type serverError struct {
	err      error
	pg       *pgconn.PgError
	sentinel error // nil where there is none
}

func (e *serverError) Error() string {
	var text strings.Builder
	text.WriteString(e.pg.Message + " (SQLSTATE " + e.pg.Code + ")")
	if e.pg.Detail != "" {
		text.WriteString("; detail: " + e.pg.Detail)
	}
	switch {
	case e.pg.Hint != "":
		text.WriteString("; hint: " + e.pg.Hint)
	case e.pg.Code == "3F000" || e.pg.Code == "42883": // no such schema, no such function
		text.WriteString("; hint: Run awa migrate on this database.")
	case e.pg.Code == "42501": // insufficient privilege
		text.WriteString("; hint: Grant the role what it needs: awa_producer to enqueue, awa_worker to work, awa_maintainer for maintenance, awa_operator to change jobs, awa_reader to read.")
	}
	return text.String()
}

func (e *serverError) Unwrap() []error {
	if e.sentinel == nil {
		return []error{e.err}
	}
	return []error{e.sentinel, e.err}
}

// mapError adds the sentinel for its SQLSTATE, DETAIL and HINT to an error of the server. Other errors stay as they are.
func mapError(err error) error {
	var known *serverError
	var pg *pgconn.PgError
	if err == nil || errors.As(err, &known) || !errors.As(err, &pg) {
		return err
	}
	return &serverError{err: err, pg: pg, sentinel: sentinels[pg.Code]}
}

func hasCode(err error, code string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code
}

// sqlState returns the SQLSTATE of an error of the server, "" for others.
func sqlState(err error) string {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return ""
	}
	return pg.Code
}
