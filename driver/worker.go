package driver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/gen"
)

// Variables for the sake of tests.
var (
	// abandonAfter is how long handlers may take to return when their contexts have ended.
	abandonAfter = 5 * time.Second
	// windUpTimeout bounds the last answers, and then the end of the registration.
	windUpTimeout = 10 * time.Second
)

// Keys of the log records.
const (
	keyQueue    = "queue"
	keyWorker   = "worker"
	keyWorkerID = "worker_id"
	keyJobID    = "job_id"
	keyJobIDs   = "job_ids"
	keyJobs     = "jobs"
	keyKind     = "kind"
	keyAttempt  = "attempt"
	keyError    = "error"
)

// WorkerConfig says how a worker works. The zero value is ready to use.
type WorkerConfig struct {
	// Queue is the queue to work on, 1 to 200 characters; "default" by default.
	Queue string
	// Slots is how many handlers run at once, 1 to 10,000; 100 by default.
	Slots int
	// Lease is how long a claimed job stays this worker's after its last heartbeat, 1 ms to a year; by default the
	// queue's, which is a minute unless configured.
	Lease time.Duration
	// PollInterval is how often an idle worker looks for jobs that no notification told it about; 1 s by default.
	PollInterval time.Duration
	// Name is what operators see in awa.workers, 1 to 200 characters; host name and process id by default.
	Name string
	// HeartbeatEvery is how often the worker says that it is alive; 10 s by default, or a third of Lease where that is
	// less. It must be shorter than the lease.
	HeartbeatEvery time.Duration
	// StopTimeout is how long running handlers may go on when the worker is stopped, before their contexts end; 30 s by
	// default, negative for not at all.
	StopTimeout time.Duration
	// NoMaintenance keeps the worker from maintenance, which is for all queues: every second it makes deferred jobs ready
	// that are due, every 5 s it calls run_maintenance, which also ends attempts whose workers have died, and empties old
	// history. Set it where the worker's role may not (it needs awa_maintainer), or where something else does it. Some
	// process has to; any number of them may.
	NoMaintenance bool
	// Logger gets what the worker has to say; [slog.Default] by default.
	Logger *slog.Logger
}

// WithDefaults returns the configuration with its zero values replaced by the defaults. [NewWorker] does so itself.
func (c WorkerConfig) WithDefaults() WorkerConfig {
	c.Queue = cmp.Or(c.Queue, DefaultQueue)
	c.Slots = cmp.Or(c.Slots, 100)
	c.PollInterval = cmp.Or(c.PollInterval, time.Second)
	if c.HeartbeatEvery == 0 {
		c.HeartbeatEvery = 10 * time.Second
		if c.Lease > 0 {
			c.HeartbeatEvery = max(min(c.HeartbeatEvery, c.Lease/3), time.Microsecond)
		}
	}
	c.StopTimeout = cmp.Or(c.StopTimeout, 30*time.Second)
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		c.Name = fmt.Sprintf("%s:%d", host, os.Getpid())
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c WorkerConfig) validate() error {
	const year = 365 * 24 * time.Hour
	switch {
	case utf8.RuneCountInString(c.Queue) > 200:
		return errors.New("Queue must be 1 to 200 characters long")
	case c.Slots < 1 || c.Slots > 10_000:
		return errors.New("Slots must be between 1 and 10,000")
	case c.Lease != 0 && (c.Lease < time.Millisecond || c.Lease > year):
		return errors.New("Lease must be between a millisecond and a year")
	case c.PollInterval < 0:
		return errors.New("PollInterval must not be negative")
	case utf8.RuneCountInString(c.Name) > 200:
		return errors.New("Name must be 1 to 200 characters long")
	case c.HeartbeatEvery < 0:
		return errors.New("HeartbeatEvery must not be negative")
	case c.Lease != 0 && c.HeartbeatEvery >= c.Lease:
		return errors.New("HeartbeatEvery must be shorter than Lease")
	}
	return nil
}

// Worker runs the jobs of one queue.
type Worker struct {
	pool     *pgxpool.Pool
	handlers map[string]handlerFunc
	cfg      WorkerConfig
}

// NewWorker returns a worker, or an error when the configuration is not possible. A job whose kind has no handler fails.
//
// The worker takes two connections of its own, beyond the pool's maximum: one to claim, one to listen. Answers go through
// the pool, one connection at a time: handlers should leave one free.
func NewWorker(pool *pgxpool.Pool, handlers *Handlers, cfg WorkerConfig) (*Worker, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	return &Worker{pool: pool, handlers: maps.Clone(handlers.byKind), cfg: cfg}, nil
}

// Run works until the context is cancelled and everything is wound up. Then it claims nothing more, lets the running
// handlers finish, ends their contexts when StopTimeout is over, sends the last answers, and gives back what is still
// open: those attempts do not count. It returns nil, or an error when it could not start, or not wind up as it should:
// what it could not give back runs again when its lease is over.
//
// While it works it gets over a server that goes away and comes back. A worker may be run again, also while it runs.
func (w *Worker) Run(ctx context.Context) error {
	background := context.WithoutCancel(ctx)
	handling, stopHandling := context.WithCancelCause(background)
	defer stopHandling(nil)
	answering, stopAnswering := context.WithCancel(background)
	defer stopAnswering()

	r := &run{
		Worker:       w,
		log:          w.cfg.Logger.With(keyQueue, w.cfg.Queue, keyWorker, w.cfg.Name),
		background:   background,
		handling:     handling,
		stopHandling: stopHandling,
		control:      control{pool: w.pool},
		slots:        newSlots(w.cfg.Slots),
		wake:         make(chan struct{}, 1),
		lost:         make(chan struct{}, 1),
		running:      map[int64]context.CancelCauseFunc{},
		ids:          map[int64]bool{},
	}
	r.completer = newCompleter(w.pool, r.log)
	defer r.control.close(background)
	if err := r.register(ctx); err != nil {
		return fmt.Errorf("worker: %w", mapError(err))
	}

	var helpers, completer sync.WaitGroup
	completer.Go(func() { r.completer.run(answering) })
	helping, stopHelping := context.WithCancel(background) // maintenance, and what was lost: until the end
	defer stopHelping()
	helpers.Go(func() { r.listen(helping) })
	if !w.cfg.NoMaintenance {
		helpers.Go(func() { maintain(helping, w.pool, r.log) })
	}

	r.work(ctx)
	abandoned := r.waitForHandlers()

	// No handler is left that could answer.
	timer := time.AfterFunc(windUpTimeout, stopAnswering)
	r.completer.finish()
	completer.Wait()
	timer.Stop()
	stopHelping()
	helpers.Wait()

	err := r.deregister()
	if abandoned > 0 {
		err = errors.Join(err, fmt.Errorf("%d handlers have not returned although their contexts have ended", abandoned))
	}
	if n := r.completer.lost; n > 0 {
		err = errors.Join(err, fmt.Errorf("%d answers could not be sent", n))
	}
	if err != nil {
		return fmt.Errorf("worker: stop: %w", err)
	}
	return nil
}

// run is one run of a worker. Its fields belong to the goroutine of Run, unless they are safe for all.
type run struct {
	*Worker
	log          *slog.Logger
	background   context.Context // never ends
	handling     context.Context // of the handlers
	stopHandling context.CancelCauseFunc

	control       control
	registration  *registration   // nil when the worker is not registered
	retired       []*registration // with open attempts
	nextHeartbeat time.Time

	slots     *slots
	wake      chan struct{} // somebody has enqueued something
	lost      chan struct{} // an attempt was taken from this worker: a heartbeat will tell which
	completer *completer
	handlers  sync.WaitGroup

	mu      sync.Mutex
	running map[int64]context.CancelCauseFunc // by receipt; nil when the attempt is lost
	ids     map[int64]bool                    // of all registrations
}

// start runs the handlers of claimed jobs, each in a goroutine of its own.
func (r *run) start(jobs []gen.AwaClaimedJob) {
	registration := r.registration
	registration.open.Add(int64(len(jobs)))
	for _, job := range jobs {
		ctx, cancel := context.WithCancelCause(r.handling)
		r.mu.Lock()
		r.running[job.Receipt] = cancel
		r.mu.Unlock()
		r.handlers.Go(func() {
			a := &attempt{AwaClaimedJob: job, pool: r.pool}
			ctx, stopTimer := ctx, func() {}
			if job.DeadlineAt != nil {
				ctx, stopTimer = context.WithDeadline(ctx, *job.DeadlineAt)
			}
			r.Worker.handlers[job.Kind].call(ctx, a, func(err error) {
				stopTimer()
				cancel(nil)
				r.mu.Lock()
				lost := r.running[job.Receipt] == nil
				delete(r.running, job.Receipt)
				r.mu.Unlock()
				if lost {
					registration.open.Add(-1)
				} else {
					r.answer(a, err, registration)
				}
				r.slots.put(1)
			})
		})
	}
}

// answer says how an attempt ended, unless it was stopped: then it is given back at the end.
func (r *run) answer(a *attempt, err error, registration *registration) {
	result := answer{jobID: a.JobID, receipt: a.Receipt, registration: registration}
	if err == nil && !a.completedTx {
		result.output, err = encode("output", a.output)
	}
	if err != nil && r.handling.Err() != nil {
		return
	}
	switch {
	case err != nil:
		judge(&result, err)
		level, text := slog.LevelInfo, "attempt failed"
		switch result.outcome {
		case snoozed:
			level, text = slog.LevelDebug, "attempt snoozed"
		case discarded:
			text = "job discarded"
		case cancelled:
			text = "job cancelled by its handler"
		}
		r.log.Log(r.background, level, text, keyJobID, a.JobID, keyKind, a.Kind, keyAttempt, a.Attempt, keyError, err)
	case a.completedTx:
		// If the handler has kept its promise this is refused as stale. If not, the job would stay open for ever.
		result.outcome, result.failure = committed, "the handler returned nil, but the transaction in which it completed the job was not committed"
	}
	r.completer.send(result)
}

// waitForHandlers returns when all handlers have returned, or when they had all the time that they may have. Meanwhile
// the heart beats on. It returns how many are still running.
func (r *run) waitForHandlers() (abandoned int) {
	done := make(chan struct{})
	go func() {
		r.handlers.Wait()
		close(done)
	}()
	deadline := time.NewTimer(max(r.cfg.StopTimeout, 0))
	defer deadline.Stop()
	heartbeat := time.NewTimer(time.Until(r.nextHeartbeat))
	defer heartbeat.Stop()
	for {
		select {
		case <-done:
			return 0
		case <-heartbeat.C:
			r.heartbeat(r.background)
			heartbeat.Reset(time.Until(r.nextHeartbeat))
		case <-r.lost:
			r.heartbeat(r.background)
			heartbeat.Reset(time.Until(r.nextHeartbeat))
		case <-deadline.C:
			if r.handling.Err() != nil {
				r.mu.Lock()
				defer r.mu.Unlock()
				return len(r.running)
			}
			r.stopHandling(errors.New("the worker was stopped"))
			deadline.Reset(abandonAfter)
		}
	}
}

// info is what register_worker gets to know about the process.
func info() json.RawMessage {
	host, _ := os.Hostname()
	encoded, _ := json.Marshal(map[string]any{"host": host, "pid": os.Getpid(), "runtime": runtime.Version()})
	return encoded
}

// trouble logs the first of several errors in a row, and when it is over.
type trouble struct {
	log  *slog.Logger
	what string
	on   bool
}

func (t *trouble) report(ctx context.Context, err error) {
	switch {
	case err != nil && !t.on:
		t.log.WarnContext(ctx, t.what, keyError, mapError(err))
	case err == nil && t.on:
		t.log.InfoContext(ctx, "no longer: "+t.what)
	}
	t.on = err != nil
}
