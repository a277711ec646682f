package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/awa-pg/awa/gen"
)

// Job is one attempt of a job, as a handler gets it. It belongs to the handler until that returns.
type Job[T Args] struct {
	ID          int64
	Receipt     int64 // proves that the attempt is this worker's
	Queue       string
	Kind        string
	Args        T
	Attempt     int       // from 1
	MaxAttempts int       // when this one fails the job ends as failed
	Priority    int       // 1 (first) to 4 (last)
	CreatedAt   time.Time // when the job was enqueued
	ReadyAt     time.Time // since when this attempt could run
	Tags        []string
	Metadata    json.RawMessage // nil for none

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

// Handlers are the functions that run jobs, by kind. The zero value is not usable: call [NewHandlers].
type Handlers struct {
	byKind map[string]handlerFunc
}

// NewHandlers returns an empty set of handlers.
func NewHandlers() *Handlers { return &Handlers{byKind: map[string]handlerFunc{}} }

// Handle registers the function that runs the jobs of T's kind. When it returns nil the job is completed; when it returns
// an error or panics, or the arguments can't be decoded into a T, the attempt fails with that text. It must be safe to
// run many times at once, and, since a job can run more than once, to repeat.
//
// The context ends when the worker is stopped and the handler has not returned within the worker's StopTimeout, or when the
// attempt is no longer the worker's ([context.Cause] is [ErrStaleReceipt] then).
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
			Tags:        a.Tags,
			Metadata:    a.Metadata,
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
