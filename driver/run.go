package driver

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// run is one run of a worker. Its fields belong to the goroutine of Run, unless they are safe for all.
type run struct {
	*Worker
	background   context.Context // never ends
	stop         func()          // claim nothing more
	handling     context.Context // of the handlers
	stopHandling context.CancelCauseFunc

	server        string // of the pool
	control       dedicated
	trouble       trouble
	syncTrouble   trouble // of one goroutine: that of Run, then that of syncLater
	registrations registrations
	retired       chan struct{} // there is one more
	saidProxied   bool          // of the goroutine of pulse

	queues     []*queue
	channels   map[string][]*queue // on which notifications for them come
	slots      *slots
	wake       chan struct{} // a queue was woken, or there is no registration any more
	due        chan struct{} // a deferred job has come that is due soon
	completer  *completer
	goroutines sync.WaitGroup // of attempts: they run handlers, and answer
	active     atomic.Int64   // handlers that run, or whose answers are not handed over yet
}

// tasks returns the jobs that a claim has brought. Jobs that are not the worker's any more, since it was ended
// meanwhile, are left out.
func (r *run) tasks(
	ctx context.Context, registration *registration, q *queue, jobs []claimedJob, until time.Time,
) []*task {
	tasks := make([]*task, 0, len(jobs))
	for _, claimed := range jobs {
		t := &task{job: newRawJob(claimed.AwaClaimedJobRow, r.db), err: claimed.err, until: until}
		t.attempt = attempt{jobID: t.job.ID, receipt: t.job.Receipt, registration: registration, stats: q.stats, queue: q}
		if registration.opened(&t.attempt) {
			tasks = append(tasks, t)
		}
	}
	r.holdBack(ctx, q, tasks)
	return tasks
}

// runTasks runs a job, and then others, as long as there are some. A goroutine is used again, since the growth of a new
// stack would take longer than most other work for a job.
func (r *run) runTasks(t *task) {
	defer func() {
		if t != nil { // a handler has ended the goroutine
			r.slots.end(t.queue, 0)
		}
	}()
	for t != nil {
		t = r.slots.next(t.queue, r.runTask(t))
	}
}

// runTask runs the handler of a job, if it has one, and hands over the answer. It returns how long the handler took.
func (r *run) runTask(t *task) (took time.Duration) {
	job, a := t.job, &t.attempt
	ctx, cancel := context.WithCancelCause(r.handling)
	defer cancel(nil)
	defer ofProcess.leave(a)
	if !a.begins(cancel) || !r.awaits(ctx, t) {
		return 0
	}
	a.stats.claimed.Add(1)
	if t.err != nil {
		if errors.Is(t.err, ErrTooLarge) {
			r.warnings.warn(r.background, r.log, slog.LevelWarn, ErrTooLarge.Error(),
				"a job can't be sent to this worker in time, so its attempt fails", keyQueue, job.Queue, keyJobID, job.ID, keyError,
				t.err)
		}
		r.completer.send(judge(r.background, r.log, a, job, t.err))
		return 0
	}
	handler := r.handlers.of(job.Kind)
	if handler == nil {
		r.putOff(job, a)
		return 0
	}
	t.queue.stats.running.Add(1)
	r.active.Add(1)
	defer r.active.Add(-1) // not before: what a handler returns may have methods that hang
	ctx, stopTimer := untilDeadline(ctx, job)
	began := time.Now()
	handler.call(ctx, job, func(err error) {
		took = time.Since(began)
		stopTimer()
		cancel(nil)
		ofProcess.leave(a)
		lost := a.returned()
		t.queue.stats.running.Add(-1)
		if !lost && (err == nil || r.handling.Err() == nil) { // otherwise it is another worker's, or given back at the end
			r.completer.send(judge(r.background, r.log, a, job, err))
		}
	})
	return took
}

// untilDeadline returns a context that ends at the attempt's deadline.
func untilDeadline(ctx context.Context, job *RawJob) (context.Context, context.CancelFunc) {
	if job.DeadlineAt == nil {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, *job.DeadlineAt)
}

const (
	shortestPutOff = time.Second
	longestPutOff  = time.Minute
)

// putOff puts off a job for which there is no handler.
func (r *run) putOff(job *RawJob, a *attempt) {
	delay := putOffDelay(job)
	r.unknown.warn(r.background, r.log, slog.LevelWarn, job.Kind,
		"no handler for jobs of this kind in this worker: they are put off, uncounted, until a worker that has one takes "+
			"them",
		keyKind, job.Kind, keyQueue, job.Queue, keyJobID, job.ID, keyDelay, delay)
	r.completer.send(answer{attempt: a, outcome: unknownKind, delay: &delay})
}

// waitForHandlers returns when all handlers have returned, or when they had all the time that they may have. It returns
// how many are still running.
func (r *run) waitForHandlers() (abandoned int64) {
	done := make(chan struct{})
	go func() {
		r.goroutines.Wait()
		close(done)
	}()
	select {
	case <-done:
		return 0
	case <-r.handling.Done():
	}
	abandon := time.NewTimer(abandonAfter)
	defer abandon.Stop()
	select {
	case <-done:
		return 0
	case <-abandon.C:
		return r.active.Load()
	}
}
