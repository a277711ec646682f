package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/gen"
)

// Job is one attempt of a job, as a handler gets it. It belongs to the handler until that returns.
type Job[T Args] struct {
	ID          int64
	Receipt     int64 // proves that the attempt is this worker's
	Queue       string
	Kind        string
	Args        T
	Attempt     int        // from 1
	MaxAttempts int        // when this one fails the job ends as failed
	Priority    int        // 1 (first) to 4 (last)
	CreatedAt   time.Time  // when the job was enqueued
	ReadyAt     time.Time  // since when this attempt could run
	DeadlineAt  *time.Time // when the attempt has to end, by the server's clock; nil for none
	Tags        []string
	Metadata    json.RawMessage // nil for none
	Progress    json.RawMessage // what an earlier attempt said with SetProgress; nil for none

	attempt *attempt
}

// SetOutput sets what the job leaves behind, to be stored as JSON when the handler returns nil; nil for none. If it
// can't be encoded the attempt fails. [Job.CompleteTx] stores it too.
func (j *Job[T]) SetOutput(v any) { j.attempt.output = v }

// CompleteTx completes the job inside the handler's own transaction: the job is completed if and when that commits, so
// that its effects in the same database happen once. It fails with [ErrStaleReceipt] when the attempt is no longer this
// worker's: roll back, and return the error.
//
// Return nil only after the commit has succeeded. Otherwise return an error, and the attempt fails, unless the commit
// had succeeded after all. If the handler returns nil without having committed, the attempt fails too.
func (j *Job[T]) CompleteTx(ctx context.Context, tx DBTX) error {
	if err := completeTx(ctx, tx, j.ID, j.Receipt, j.attempt.output); err != nil {
		return err
	}
	j.attempt.completedTx = true
	return nil
}

// SetProgress says how far the job is: at once, so that [Client.Job] shows it, and the next attempt gets it if this one
// fails. It is stored as JSON; nil clears it. It fails with [ErrStaleReceipt] when the attempt is no longer this worker's:
// return the error.
//
// The first call of an attempt is the dearest: it gives the attempt a row of its own.
func (j *Job[T]) SetProgress(ctx context.Context, v any) error {
	encoded, err := encode("progress", v)
	if err == nil {
		err = mapError(queries.SetProgress(ctx, j.attempt.pool, gen.SetProgressParams{JobID: j.ID, Receipt: j.Receipt, Progress: encoded}))
	}
	if err != nil {
		return fmt.Errorf("set progress of job %d: %w", j.ID, err)
	}
	return nil
}

// Extend makes the lease of this attempt end so long from now, 1 ms to a year, and returns when that is. The worker's
// heartbeats keep leases alive by themselves, so this is for an attempt that should outlast the lack of them. A deadline
// stays. It fails with [ErrStaleReceipt] when the attempt is no longer this worker's: return the error.
func (j *Job[T]) Extend(ctx context.Context, lease time.Duration) (time.Time, error) {
	until, err := queries.Extend(ctx, j.attempt.pool, gen.ExtendParams{JobID: j.ID, Receipt: j.Receipt, Lease: lease})
	if err != nil {
		return time.Time{}, fmt.Errorf("extend job %d: %w", j.ID, mapError(err))
	}
	return until, nil
}

// Handlers are the functions that run jobs, by kind. The zero value is not usable: call [NewHandlers].
type Handlers struct {
	byKind map[string]handlerFunc
}

// NewHandlers returns an empty set of handlers.
func NewHandlers() *Handlers { return &Handlers{byKind: map[string]handlerFunc{}} }

// Handle registers the function that runs the jobs of T's kind. When it returns nil the job is completed; when it returns
// an error or panics, or the arguments can't be decoded into a T, the attempt fails with that text. Errors made by
// [Snooze], [Discard], [Cancel] and [RetryAfter], also when they are wrapped, say something else. It must be safe to run
// many times at once, and, since a job can run more than once, to repeat.
//
// The context ends
//   - when the job was cancelled, or the attempt is no longer the worker's for another reason: [context.Cause] is
//     [ErrStaleReceipt] then, and what the handler returns does not matter;
//   - at the attempt's deadline, if it has one;
//   - when the worker is stopped and the handler has not returned within the worker's StopTimeout: an attempt that then
//     returns an error, whichever, is given back and does not count.
//
// Handle panics when the kind has a handler already. Register everything before [NewWorker].
func Handle[T Args](h *Handlers, run func(ctx context.Context, job *Job[T]) error) {
	var zero T
	kind := zero.Kind()
	if _, ok := h.byKind[kind]; ok {
		panic(fmt.Sprintf("driver: kind %q has two handlers", kind))
	}
	h.byKind[kind] = func(ctx context.Context, a *attempt) error {
		job := &Job[T]{
			ID:          a.JobID,
			Receipt:     a.Receipt,
			Queue:       a.Queue,
			Kind:        a.Kind,
			Attempt:     int(a.Attempt),
			MaxAttempts: int(a.MaxAttempts),
			Priority:    int(a.Priority),
			CreatedAt:   a.CreatedAt,
			ReadyAt:     a.ReadyAt,
			DeadlineAt:  a.DeadlineAt,
			Tags:        a.Tags,
			Metadata:    a.Metadata,
			Progress:    a.Progress,
			attempt:     a,
		}
		if err := json.Unmarshal(a.Args, &job.Args); err != nil {
			return fmt.Errorf("arguments of a job of kind %q: %w", a.Kind, err)
		}
		return run(ctx, job)
	}
}

type handlerFunc func(context.Context, *attempt) error

// attempt is a claimed job and what its handler said about it.
type attempt struct {
	gen.AwaClaimedJob
	pool        *pgxpool.Pool
	output      any
	completedTx bool
}

// errExited is the failure of a handler that ended its goroutine.
var errExited = errors.New("the handler called runtime.Goexit")

// panicError is the failure of a handler that panicked.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n\n%s", e.value, e.stack) }

// call runs the handler of an attempt, and then done, also when the handler panics or ends its goroutine.
func (h handlerFunc) call(ctx context.Context, a *attempt, done func(error)) {
	err := errExited
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{value: v, stack: debug.Stack()}
		}
		done(err)
	}()
	if h == nil {
		err = fmt.Errorf("no handler for kind %q in this worker", a.Kind)
		return
	}
	err = h(ctx, a)
}
