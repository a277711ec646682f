package driver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Variables for the sake of tests.
var (
	// abandonAfter is how long handlers may take to return when their contexts have ended.
	abandonAfter = 5 * time.Second
	// windUpTimeout bounds the last answers.
	windUpTimeout = 10 * time.Second
	// deregisterTimeout bounds the end of the registration, which comes after them.
	deregisterTimeout = 10 * time.Second
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
	keyDelay    = "delay"
	keyReason   = "reason"
	keySignal   = "signal"
	keySource   = "source"   // of schedules
	keyRevision = "revision" // of the schedules that a source declares
	keyLeftOut  = "left_out" // records like this one that were not logged since the last one
)

// WorkerConfig says how a worker works. The zero value is ready to use.
type WorkerConfig struct {
	// Queues are the queues to work on; by default the one that is called "default".
	Queues []QueueConfig
	// Slots is how many handlers run at once, of all queues together, 1 to 10,000; 100 by default. The worker claims jobs
	// for free slots, and some more where they end fast: see ClaimAhead.
	Slots int
	// ClaimAhead is how many claimed jobs, of all queues together, may wait for a slot, up to 10,000; 1,000 by default,
	// negative for none. The worker claims jobs ahead where handlers take less time than a claim, and no more than end
	// within 25 ms at the rate that it measures. It gives back, uncounted, what has waited for 50 ms, and all of it when
	// it is stopped. It never does so on a queue with a deadline.
	ClaimAhead int
	// Lease is how long a claimed job stays this worker's after its last heartbeat, 1 ms to a year; by default the
	// queue's, which is a minute unless configured.
	Lease time.Duration
	// PollInterval is how often an idle worker looks for jobs that no notification told it about, more than 0; 1 s by
	// default.
	PollInterval time.Duration
	// Name is the name in awa.workers, 1 to 200 characters; host name and process id by default.
	Name string
	// MemberOf is a role of which every login of this worker is a member. Set it where logins change while the worker runs
	// (BeforeConnect of the pool, say): otherwise only the login that registered the worker may claim and send
	// heartbeats as it.
	MemberOf string
	// HeartbeatEvery is how often the worker says that it is alive, more than 0; 10 s by default, or a third of Lease
	// where that is less. It must be shorter than the lease, that of each queue where Lease is not given.
	HeartbeatEvery time.Duration
	// StopTimeout is how long running handlers may go on when the worker is stopped, before their contexts end; 30 s by
	// default, negative for not at all.
	StopTimeout time.Duration
	// Middleware is around all handlers, the first one outermost.
	Middleware []Middleware
	// ScheduleSource names the program whose schedules the handlers declare, in 1 to 200 characters: the server keeps
	// apart what several programs declare. It has to be set where the handlers have schedules. All workers with the same
	// source should declare the same schedules. Where it is set and the handlers have none, those of the source are
	// removed.
	ScheduleSource string
	// ScheduleRevision says how new the schedules are that the handlers declare, as a number that grows with each release,
	// such as that of a build. A worker whose revision is lower than the last one that was synchronised leaves the
	// schedules as they are, and says so in its log: so an old release that starts again during a deploy does no harm. By
	// default, 0, the worker that has started last decides.
	ScheduleRevision int64
	// NoMaintenance keeps the worker from maintenance, which is for all queues: it makes deferred jobs ready and
	// fires schedules when they are due, and every 5 s calls run_passes, which also ends attempts whose workers have died,
	// and empties old history. Set it where the worker's role may not (it needs awa_maintainer), or where something else
	// does it. Some process has to; any number of them may.
	NoMaintenance bool
	// Logger gets the messages of the worker; [slog.Default] by default. A warning is repeated once a minute at most, with
	// the number of those that were left out as left_out.
	Logger *slog.Logger
}

// QueueConfig says how a worker works on one queue.
type QueueConfig struct {
	// Name is the name of the queue, 1 to 200 characters.
	Name string
	// Slots is how many handlers of this queue's jobs run at once, 1 to 10,000; by default, and never more than, as
	// many as the worker has.
	Slots int
	// Weight is the queue's share of the worker's slots when there are more jobs than slots, beside those of the other
	// queues that have jobs, 1 to 1,000; 1 by default. Slots that one queue does not need are used by the others, so that
	// a slot may be taken by another queue's job, until that ends.
	Weight int
}

// WithDefaults returns the configuration with its zero values replaced by the defaults. [NewWorker] does so itself.
func (c WorkerConfig) WithDefaults() WorkerConfig {
	c.Slots = cmp.Or(c.Slots, 100)
	c.ClaimAhead = cmp.Or(c.ClaimAhead, 1000)
	c.Queues = slices.Clone(c.Queues)
	if len(c.Queues) == 0 {
		c.Queues = []QueueConfig{{Name: DefaultQueue}}
	}
	for i := range c.Queues {
		c.Queues[i].Slots = min(cmp.Or(c.Queues[i].Slots, c.Slots), c.Slots)
		c.Queues[i].Weight = cmp.Or(c.Queues[i].Weight, 1)
	}
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
	if c.Slots < 1 || c.Slots > 10_000 {
		return errors.New("Slots must be between 1 and 10,000")
	}
	if c.ClaimAhead > 10_000 {
		return errors.New("ClaimAhead must not be more than 10,000")
	}
	names := map[string]bool{}
	for _, q := range c.Queues {
		switch length := utf8.RuneCountInString(q.Name); {
		case length < 1 || length > 200:
			return errors.New("Queues: Name must be 1 to 200 characters long")
		case names[q.Name]:
			return fmt.Errorf("Queues: %q is there twice", q.Name)
		case q.Slots < 1:
			return fmt.Errorf("Queues: Slots of %q must be between 1 and 10,000", q.Name)
		case q.Weight < 1 || q.Weight > 1000:
			return fmt.Errorf("Queues: Weight of %q must be between 1 and 1,000", q.Name)
		}
		names[q.Name] = true
	}
	switch {
	case c.Lease != 0 && (c.Lease < time.Millisecond || c.Lease > year):
		return errors.New("Lease must be between a millisecond and a year")
	case c.PollInterval < 0:
		return errors.New("PollInterval must not be negative")
	case utf8.RuneCountInString(c.Name) > 200:
		return errors.New("Name must be 1 to 200 characters long")
	case utf8.RuneCountInString(c.ScheduleSource) > 200:
		return errors.New("ScheduleSource must be 1 to 200 characters long")
	case c.HeartbeatEvery < 0:
		return errors.New("HeartbeatEvery must not be negative")
	case slices.ContainsFunc(c.Middleware, func(m Middleware) bool { return m == nil }):
		return errors.New("Middleware must not hold nil")
	case c.Lease != 0 && c.HeartbeatEvery >= c.Lease:
		return errors.New("HeartbeatEvery must be shorter than Lease")
	}
	return nil
}

// Worker runs the jobs of some queues.
type Worker struct {
	pool     *pgxpool.Pool
	db       handlersDB
	handlers *Handlers
	cfg      WorkerConfig
	log      *slog.Logger
	stats    map[string]*queueStats // by queue

	schedules json.RawMessage // those of the handlers, as they are sent

	warnings warnings
	unknown  warnings // of kinds without a handler

	mu   sync.Mutex
	runs map[*run]bool // that go on
}

// NewWorker returns a worker, or an error when the configuration is not possible.
//
// The worker takes three connections of its own, beyond the pool's maximum, made as the pool makes its own: to claim,
// to answer, and to send heartbeats and listen. So it works on when its handlers, or others, have exhausted the pool;
// maintenance, [RawJob.SetProgress] and [RawJob.Extend] wait for the pool. Behind a proxy (pgbouncer, say) it does not
// listen, but polls, and none of its connections prepares statements or relies on a session.
func NewWorker(pool *pgxpool.Pool, handlers *Handlers, cfg WorkerConfig) (*Worker, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	switch {
	case pool == nil:
		return nil, errors.New("worker: the pool is nil")
	case handlers == nil:
		return nil, errors.New("worker: handlers is nil: call NewHandlers, and Handle for each kind")
	}
	w := &Worker{
		pool: pool, db: handlersDB{pool, unprepared(pool.Config().ConnConfig)}, handlers: handlers.within(cfg.Middleware),
		cfg: cfg, log: cfg.Logger.With(keyWorker, cfg.Name),
		stats: map[string]*queueStats{}, runs: map[*run]bool{},
	}
	for _, q := range cfg.Queues {
		w.stats[q.Name] = new(queueStats)
	}
	var err error
	if w.schedules, err = encodeSchedules(handlers.schedules); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	return w, nil
}

// Stats returns what the worker has done, for each of its queues, in the order of its configuration.
func (w *Worker) Stats() []QueueStats {
	var stats []QueueStats
	for _, q := range w.cfg.Queues {
		stats = append(stats, w.stats[q.Name].read(q.Name))
	}
	return stats
}

// Run works until the context is cancelled and everything is wound up. Then it claims nothing more, lets the running
// handlers finish (a soft stop), ends their contexts when StopTimeout is over (a hard stop), sends the last answers,
// and gives back what is still open: those attempts do not count. It returns nil, or an error when it could not start,
// because the server has refused it, or not wind up as it should: what it could not give back runs again when its lease
// is over.
//
// While it works it gets over a server that goes away and comes back, also if it is not there at first. A worker may be
// run again, also while it runs.
func (w *Worker) Run(ctx context.Context) error {
	if len(w.handlers.schedules) > 0 && w.cfg.ScheduleSource == "" {
		return fmt.Errorf("worker: %w", errNoSource)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	background := context.WithoutCancel(ctx)
	handling, stopHandling := context.WithCancelCause(background)
	defer stopHandling(nil)
	answering, stopAnswering := context.WithCancel(background)
	defer stopAnswering()

	r := &run{
		Worker:        w,
		background:    background,
		stop:          stop,
		handling:      handling,
		stopHandling:  stopHandling,
		server:        serverOf(w.pool),
		control:       dedicated{pool: w.pool},
		trouble:       trouble{log: w.log, what: "jobs can't be claimed"},
		syncTrouble:   trouble{log: w.log, what: "schedules can't be synchronised"},
		registrations: registrations{ids: map[int64]bool{}},
		retired:       make(chan struct{}, 1),
		channels:      map[string][]*queue{},
		wake:          make(chan struct{}, 1),
		due:           make(chan struct{}, 1),
	}
	for _, cfg := range w.cfg.Queues {
		log := w.log.With(keyQueue, cfg.Name)
		q := &queue{QueueConfig: cfg, stats: w.stats[cfg.Name], distance: firstDistance,
			trouble: trouble{log: log, what: "jobs of this queue can't be claimed"}}
		r.queues = append(r.queues, q)
		r.channels[wakeChannel(q.Name)] = append(r.channels[wakeChannel(q.Name)], q)
	}
	r.slots = newSlots(w.cfg.Slots, max(w.cfg.ClaimAhead, 0), r.queues,
		func(t *task) { r.goroutines.Go(func() { r.runTasks(t) }) })
	defer context.AfterFunc(ctx, r.slots.stop)()
	r.completer = newCompleter(w.pool, w.log)
	r.completer.warnings = &w.warnings
	r.completer.behind = &r.slots.behind
	r.completer.wake = r.wake
	w.add(r)
	defer w.remove(r)
	defer r.control.close(background)
	if err := r.register(ctx); err != nil {
		if !isTemporary(err) {
			return fmt.Errorf("worker: %w", mapError(err))
		}
		r.trouble.report(ctx, err)
	}
	syncLater, err := r.syncAtStart(ctx)
	if err != nil {
		return fmt.Errorf("worker: %w", errors.Join(err, r.deregister()))
	}

	// The grace period begins with the stop, whatever the worker is waiting for then.
	endsGrace := context.AfterFunc(ctx, func() {
		grace := time.NewTimer(max(w.cfg.StopTimeout, 0))
		defer grace.Stop()
		select {
		case <-grace.C:
			stopHandling(ErrStopped)
		case <-handling.Done():
		}
	})
	defer endsGrace()

	var helpers, completer sync.WaitGroup
	completer.Go(func() { r.completer.run(answering) })
	helping, stopHelping := context.WithCancel(background) // heartbeats and maintenance: until the end
	defer stopHelping()
	helpers.Go(func() { r.pulse(helping) })
	if syncLater {
		helpers.Go(func() { r.syncLater(ctx) })
	}
	if !w.cfg.NoMaintenance {
		helpers.Go(func() { r.beOnTime(helping) })
		maintain := pass{trouble: trouble{log: w.log, what: "maintenance is not done by this worker"},
			every: maintainEvery, call: runMaintenance}
		helpers.Go(func() { maintain.repeat(helping, w.pool) })
	}

	r.work(ctx)
	r.slots.close()
	abandoned := r.waitForHandlers()

	// No handler is left that could answer.
	timer := time.AfterFunc(windUpTimeout, stopAnswering)
	r.completer.finish()
	completer.Wait()
	timer.Stop()
	stopHelping()
	helpers.Wait()

	err = r.deregister()
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

// RunUntilSignal is [Worker.Run] until a signal comes, too: by default [os.Interrupt] or SIGTERM. The first one is a
// soft stop, a second one a hard stop, and from the third on signals do what they do without it.
func (w *Worker) RunUntilSignal(ctx context.Context, signals ...os.Signal) error {
	if len(signals) == 0 {
		signals = []os.Signal{os.Interrupt, syscall.SIGTERM}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	received := make(chan os.Signal, len(signals))
	signal.Notify(received, signals...)
	defer signal.Stop(received)
	ended := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		for _, react := range []func(os.Signal){
			func(s os.Signal) {
				stop()
				w.log.InfoContext(ctx, "stopping: handlers may finish; another signal stops them", keySignal, s)
			},
			func(s os.Signal) {
				w.log.WarnContext(ctx, "stopping: the contexts of handlers end", keySignal, s)
				w.StopNow()
				signal.Stop(received)
			},
		} {
			select {
			case s := <-received:
				react(s)
			case <-ended:
				return
			}
		}
	})
	err := w.Run(ctx)
	close(ended)
	waiting.Wait()
	return err
}

// StopNow is a hard stop of whatever runs the worker: it claims nothing more, and the contexts of its handlers end. It
// returns at once; Run returns when everything is wound up.
func (w *Worker) StopNow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range w.runs {
		r.stop()
		r.stopHandling(ErrStopped)
	}
}

func (w *Worker) add(r *run) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs[r] = true
}

func (w *Worker) remove(r *run) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.runs, r)
}
