package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"
	"unicode/utf8"
)

// Handlers are the functions that run jobs, by kind, and the schedules of the program. The zero value is empty, and
// ready to use.
type Handlers struct {
	byKind    map[string]handlerFunc
	others    handlerFunc // nil for none
	schedules []Schedule
}

type handlerFunc func(ctx context.Context, job *RawJob) error

// NewHandlers returns an empty set of handlers.
func NewHandlers() *Handlers { return &Handlers{byKind: map[string]handlerFunc{}} }

// Middleware is called in place of a handler, and calls the handler by next, once, or not at all. It may pass on
// another context, look at what the handler has returned (a [*PanicError] if it panicked), and return something else,
// which then decides what becomes of the job. It must be safe to run many times at once.
type Middleware func(ctx context.Context, job *RawJob, next func(context.Context) error) error

// Handle registers the function that runs the jobs of T's kind, with middleware around it, the first one outermost;
// that of the [WorkerConfig] is around these. When it returns nil the job is completed; when it returns an error or
// panics, or the arguments can't be decoded into a T, the attempt fails with that text. Errors made by [Snooze],
// [Discard], [Cancel] and [RetryAfter], also when they are wrapped, say something else. It must be safe to run many
// times at once, and, since a job can run more than once, to repeat.
//
// The context ends
//   - when the job was cancelled, or the attempt is no longer the worker's for another reason: [context.Cause] is
//     [ErrStaleReceipt] then, and what the handler returns does not matter;
//   - at the attempt's deadline, if it has one;
//   - when the worker is stopped and the handler has not returned within the worker's StopTimeout: [context.Cause] is
//     [ErrStopped] then, and an attempt that returns an error, whichever, is given back and does not count.
//
// Handle panics when the kind has a handler already, or is not 1 to 200 characters long, or a function is nil. Register
// everything before [NewWorker].
func Handle[T Args](h *Handlers, run func(ctx context.Context, job *Job[T]) error, middleware ...Middleware) {
	var zero T
	kind := zero.Kind()
	switch length := utf8.RuneCountInString(kind); {
	case length < 1 || length > 200:
		panic(fmt.Sprintf("driver: Kind of %T must be 1 to 200 characters long", zero))
	case h.byKind[kind] != nil:
		panic(fmt.Sprintf("driver: kind %q has two handlers", kind))
	case run == nil:
		panic(fmt.Sprintf("driver: the handler of kind %q is nil", kind))
	case h.byKind == nil:
		h.byKind = map[string]handlerFunc{}
	}
	h.byKind[kind] = wrap(func(ctx context.Context, raw *RawJob) error {
		job := &Job[T]{RawJob: raw}
		if err := json.Unmarshal(raw.Args, &job.Args); err != nil {
			return fmt.Errorf("arguments of a job of kind %q: %w", raw.Kind, err)
		}
		return run(ctx, job)
	}, middleware)
}

// HandleOthers registers the function that runs the jobs of all kinds that have no handler of their own, as [Handle]
// does.
// Without one, a worker puts such jobs off, uncounted, for a second at first and up to a minute, until another worker
// takes them, and says so in its log.
//
// HandleOthers panics when it is called twice, or a function is nil.
func HandleOthers(h *Handlers, run func(ctx context.Context, job *RawJob) error, middleware ...Middleware) {
	switch {
	case h.others != nil:
		panic("driver: other kinds have two handlers")
	case run == nil:
		panic("driver: the handler of other kinds is nil")
	}
	h.others = wrap(run, middleware)
}

// wrap puts middleware around a handler whose panics become errors.
func wrap(run handlerFunc, middleware []Middleware) handlerFunc {
	if slices.ContainsFunc(middleware, func(m Middleware) bool { return m == nil }) {
		panic("driver: middleware is nil")
	}
	handler := func(ctx context.Context, job *RawJob) (err error) {
		defer recoverAsError(&err)
		return run(ctx, job)
	}
	return around(handler, middleware)
}

func around(handler handlerFunc, middleware []Middleware) handlerFunc {
	for _, m := range slices.Backward(middleware) {
		next := handler
		handler = func(ctx context.Context, job *RawJob) error {
			return m(ctx, job, func(ctx context.Context) error { return next(ctx, job) })
		}
	}
	return handler
}

// within returns a copy of the handlers with middleware around each.
func (h *Handlers) within(middleware []Middleware) *Handlers {
	copied := NewHandlers()
	copied.schedules = h.schedules
	for kind, handler := range h.byKind {
		copied.byKind[kind] = around(handler, middleware)
	}
	if h.others != nil {
		copied.others = around(h.others, middleware)
	}
	return copied
}

// of returns the handler of a kind, nil when there is none.
func (h *Handlers) of(kind string) handlerFunc {
	if handler, ok := h.byKind[kind]; ok {
		return handler
	}
	return h.others
}

// Timeout returns a middleware that ends the handler's context when it has taken longer than d, which has to be
// positive:
// [context.Cause] is [ErrTimeout] then. A handler that returns its context's error because of that fails its attempt
// with [ErrTimeout]. One that does not look at its context goes on, and so does its job: give its queue a deadline,
// too.
func Timeout(d time.Duration) Middleware {
	if d <= 0 {
		panic("driver: Timeout must be positive")
	}
	return func(ctx context.Context, _ *RawJob, next func(context.Context) error) error {
		timedOut := fmt.Errorf("%w of %s", ErrTimeout, d)
		ctx, cancel := context.WithTimeoutCause(ctx, d, timedOut)
		defer cancel()
		err := next(ctx)
		if err != nil && context.Cause(ctx) == timedOut && errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("%w: %w", timedOut, err)
		}
		return err
	}
}

// PanicError is the error of an attempt whose handler panicked.
type PanicError struct {
	Value any    // what it panicked with
	Stack []byte // as [debug.Stack] has it
}

// Error returns the value and the stack.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n\n%s", e.Value, e.Stack) }

// recoverAsError is to be deferred.
func recoverAsError(err *error) {
	if v := recover(); v != nil {
		*err = &PanicError{Value: v, Stack: debug.Stack()}
	}
}

// errExited is the failure of a handler that ended its goroutine.
var errExited = errors.New("the handler called runtime.Goexit")

// call runs the handler of an attempt, and then done, also when middleware panics, or the handler ends the goroutine.
func (h handlerFunc) call(ctx context.Context, job *RawJob, done func(error)) {
	err := errExited
	defer func() { done(err) }()
	defer recoverAsError(&err)
	err = h(ctx, job)
}
