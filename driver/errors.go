package driver

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Errors that a caller may want to react to. Test for them with [errors.Is]. Where the server has raised an error, it
// is in the same chain as a [*pgconn.PgError], with its SQLSTATE, DETAIL and HINT; the text of the error has all three.
// Errors of a caller's own transaction, such as of its commit, have them after [MapError].
var (
	// ErrStaleReceipt says that an attempt is no longer the caller's: it was answered before, or given to another
	// worker. Drop its result. SQLSTATE JQ001.
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
	// ErrQueueFull says that more jobs of the queue are ready than its max_depth: nothing was enqueued. Try again when
	// workers have claimed some. SQLSTATE JQ006.
	ErrQueueFull = errors.New("queue full")
	// ErrNoSuchSchedule says that there is no schedule of that name, or no more. SQLSTATE JQ007.
	ErrNoSuchSchedule = errors.New("no such schedule")
	// ErrNoSuchChange says that no change of many jobs has that id, or that it ended long ago. SQLSTATE JQ008.
	ErrNoSuchChange = errors.New("no such change")
	// ErrInvalidArgument says that an argument was refused, before anything was written: the text names it, and says
	// what to pass. SQLSTATE 22023.
	ErrInvalidArgument = errors.New("invalid argument")
	// ErrUniqueKeyHeld says that another job holds the unique key of a job that was to be retried. Wait until that one has
	// ended, or cancel it. SQLSTATE 23505.
	ErrUniqueKeyHeld = errors.New("another job holds the unique key")
	// ErrMovedOn says that another session changed the job meanwhile, and that nothing was done. It may come as late as
	// the commit of the caller's own transaction. Try again: the next call sees the new state. SQLSTATE 40001.
	ErrMovedOn = errors.New("the job moved on meanwhile")
	// ErrSerialization says that the transaction, at REPEATABLE READ or above, can't be reconciled with what others did
	// meanwhile. Begin it again. SQLSTATE 40001, from PostgreSQL; and from Awa, where it is about no job: a queue was
	// dropped since the snapshot, for example.
	ErrSerialization = errors.New("the transaction has to begin again")
	// ErrDeadlock says that the transaction waited for another one that waited for it. Begin it again. SQLSTATE 40P01.
	ErrDeadlock = errors.New("deadlock")
	// ErrLocked says that another session holds what the call needs, for longer than the call waits: the queue, in a
	// claim that lasts, or the job, in a transaction that changes it or answers for it. Try again. SQLSTATE 55P03.
	ErrLocked = errors.New("locked by another session")
	// ErrRestored says that the database was restored from a dump: nothing is enqueued or claimed until an operator has
	// called awa.rebase_after_restore. SQLSTATE 55000.
	ErrRestored = errors.New("the database was restored from a dump")
	// ErrRowMissing says that a table of the installation has lost a row that must be there: the text says how to bring it
	// back. SQLSTATE 55000.
	ErrRowMissing = errors.New("a row of the installation is missing")
	// ErrJobMissing says that the row of an attempt's job is gone, with a damaged page, for example: the answer was not
	// taken, and the attempt stays open until its lease ends. SQLSTATE XX001.
	ErrJobMissing = errors.New("the attempt's job is missing")
	// ErrShardsInUse says that the number of shards of a queue can't change while jobs with a group wait or run. SQLSTATE
	// 55000.
	ErrShardsInUse = errors.New("jobs with a group keep the number of shards")
	// ErrNotPermitted says that the login may not do this: it lacks one of Awa's roles, or the worker is another login's.
	// SQLSTATE 42501.
	ErrNotPermitted = errors.New("not permitted")
	// ErrDatabaseTooOld says that the functions in the database are older than those that this program was made for.
	// Run awa migrate on it first: a program works with the functions of its own version, and of the next one.
	ErrDatabaseTooOld = errors.New("the database is too old for this program")
	// ErrUntranslatable says that a text has a character that the database's encoding lacks. SQLSTATE 22P05.
	ErrUntranslatable = errors.New("a character that the database can't store")
)

// ErrUnknownKind says that a worker has no handler for a job. The job was put off.
var ErrUnknownKind = errors.New("no handler for jobs of this kind")

// ErrUndecodable says that a part of a job can't be decoded by this program. Its attempt failed.
var ErrUndecodable = errors.New("the job can't be decoded")

// ErrTooLarge says that a job is too large for the connection to the server: claims of it, or of smaller jobs, were cut
// off before they had come to their end. Its attempt failed.
var ErrTooLarge = errors.New("the job is too large for the connection to the server")

// ErrStopped is the cause of a handler's context's end when its worker is stopped, and no longer waits for it.
var ErrStopped = errors.New("the worker was stopped")

// ErrTimeout says that a handler took longer than its [Timeout].
var ErrTimeout = errors.New("timeout")

var sentinels = map[string]error{
	"JQ001":              ErrStaleReceipt,
	"JQ002":              ErrNoSuchQueue,
	"JQ003":              ErrNoSuchJob,
	"JQ004":              ErrIsolation,
	"JQ005":              ErrWrongState,
	"JQ006":              ErrQueueFull,
	"JQ007":              ErrNoSuchSchedule,
	"JQ008":              ErrNoSuchChange,
	invalidParameter:     ErrInvalidArgument,
	"22P05":              ErrUntranslatable,
	serializationFailure: ErrSerialization,
	"40P01":              ErrDeadlock,
	"55P03":              ErrLocked,
	"42501":              ErrNotPermitted,
}

// sentinelFor tells apart the causes that share a SQLSTATE, by what Awa's own messages begin or end with: they are
// constant, in every language of the server.
func sentinelFor(pg *pgconn.PgError) error {
	switch {
	case pg.Code == serializationFailure && pg.Message == "the job moved on meanwhile":
		return ErrMovedOn
	case pg.Code == "XX001" && pg.Message == "the attempt's job is missing":
		return ErrJobMissing
	case pg.Code == "23505" && pg.Message == "another job holds the job's unique key":
		return ErrUniqueKeyHeld
	case pg.Code == "55000" && pg.Message == "the database was restored from a dump":
		return ErrRestored
	case pg.Code == "55000" && strings.HasPrefix(pg.Message, "awa.") && strings.HasSuffix(pg.Message, " has lost its row"):
		return ErrRowMissing
	case pg.Code == "55000" && strings.HasPrefix(pg.Message, "shards cannot change while jobs with a group wait or run"):
		return ErrShardsInUse
	}
	return sentinels[pg.Code]
}

// invalidParameter is the SQLSTATE of everything that the functions refuse before they write anything.
const invalidParameter = "22023"

// serializationFailure is the SQLSTATE of what might succeed the next time.
const serializationFailure = "40001"

// queryCanceled is the SQLSTATE of what a timeout has ended.
const queryCanceled = "57014"

// lockNotAvailable is the SQLSTATE of a wait for a lock that was too long.
const lockNotAvailable = "55P03"

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
	case e.pg.Code == "3F000" && strings.Contains(e.pg.Message, `"awa"`), // no such schema, in any language
		e.pg.Code == "42883" && strings.Contains(e.pg.Message, "awa."): // no such function
		text.WriteString("; hint: Run awa migrate on this database.")
	case e.pg.Hint != "":
		text.WriteString("; hint: " + e.pg.Hint)
	case e.pg.Code == "55P03":
		text.WriteString("; hint: Another session changes it, or answers for it, in a transaction that lasts. Try again.")
	case e.pg.Code == "42501": // insufficient privilege
		text.WriteString("; hint: Grant the role what it needs: awa_producer to enqueue, awa_worker to work, " +
			"awa_maintainer for maintenance, awa_operator to change jobs, awa_reader to read. Where Awa was installed with " +
			"another prefix than awa_, their names begin with that.")
	}
	return text.String()
}

func (e *serverError) Unwrap() []error {
	if e.sentinel == nil {
		return []error{e.err}
	}
	return []error{e.sentinel, e.err}
}

// MapError adds to an error of the server one of the errors of this package that it is, for [errors.Is], and DETAIL and
// HINT to its text. Other errors stay as they are, nil included. All that this package returns is like that already: it
// is for what a transaction of the caller's own returns.
//
//	if err := driver.MapError(tx.Commit(ctx)); errors.Is(err, driver.ErrMovedOn) { // once more
func MapError(err error) error { return mapError(err) }

func mapError(err error) error {
	var known *serverError
	var pg *pgconn.PgError
	if err == nil || errors.As(err, &known) || !errors.As(err, &pg) {
		return err
	}
	return &serverError{err: err, pg: pg, sentinel: sentinelFor(pg)}
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
