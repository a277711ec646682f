package driver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// syncBuffer is a log that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A queue with jobs without end, whose handlers hold all slots, leaves half of them to another one that gets jobs.
func TestBusyQueueDoesNotStarveAnother(t *testing.T) {
	pool := testdb.New(t)
	jobs := map[string]int{"busy": 400, "quiet": 20}
	enqueueAll := func(queue string) {
		args := make([]driver.Args, jobs[queue])
		for i := range args {
			args[i] = note{queue}
		}
		_, err := driver.NewClient(pool).EnqueueMany(t.Context(), args, driver.EnqueueOptions{Queue: queue})
		require.NoError(t, err)
	}
	enqueueAll("busy")
	started, finish := map[string]chan struct{}{}, map[string]chan struct{}{}
	for queue, n := range jobs {
		started[queue], finish[queue] = make(chan struct{}, n), make(chan struct{})
	}
	w, err := driver.NewWorker(pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		started[job.Args.Text] <- struct{}{}
		<-finish[job.Args.Text]
		return nil
	}), driver.WorkerConfig{Slots: 4, Queues: []driver.QueueConfig{{Name: "busy"}, {Name: "quiet"}},
		PollInterval: 20 * time.Millisecond, Logger: logger(t)})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	for range 4 {
		receive(t, started["busy"])
	}
	enqueueAll("quiet")
	for quiet, freed := 0, 0; quiet < 2; freed++ {
		require.Less(t, freed, jobs["busy"]/2, "the quiet queue gets no slots")
		finish["busy"] <- struct{}{}
		select { // a slot may go to the busy queue before the worker knows that the quiet one has jobs
		case <-started["busy"]:
		case <-started["quiet"]:
			quiet++
		case <-time.After(patience):
			require.FailNow(t, "the slot stays free")
		}
	}
	finish["busy"] <- struct{}{}
	receive(t, started["busy"]) // each has its half now
	finish["quiet"] <- struct{}{}
	receive(t, started["quiet"])
	assert.Empty(t, started["busy"])
	assert.Empty(t, started["quiet"])
	stats := w.Stats()
	assert.EqualValues(t, 2, stats[0].Running)
	assert.EqualValues(t, 2, stats[1].Running)
	close(finish["busy"])
	close(finish["quiet"])
	stop()
	require.NoError(t, receive(t, result))
}

// A queue that another session has locked does not keep the worker from another one.
func TestLockedQueueBesideAnother(t *testing.T) {
	driver.SetCallTimeouts(t, 5*time.Minute, 5*time.Second) // so that it is not this that ends a claim
	pool := testdb.New(t)
	_, err := pool.Exec(t.Context(), "update awa.settings set claim_wait = '10 milliseconds'")
	require.NoError(t, err)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	_, err = tx.Exec(t.Context(), "select awa.claim('locked')")
	require.NoError(t, err)
	locked := enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "locked"})
	var log syncBuffer
	runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error { return nil }), driver.WorkerConfig{
		Queues: []driver.QueueConfig{{Name: "locked"}, {Name: "free"}}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	waitFor(t, func() bool { return strings.Contains(log.String(), "queue=locked") }, "nothing is logged")
	_, err = pool.Exec(t.Context(), "update awa.settings set claim_wait = '1 hour'") // for the next tries
	require.NoError(t, err)
	for range 3 {
		waitForState(t, pool, enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "free"}), "completed")
	}
	require.NoError(t, tx.Rollback(t.Context()))
	waitForState(t, pool, locked, "completed")
	assert.Regexp(t, `jobs of this queue can't be claimed".* queue=locked .*the queue is locked by another session`,
		log.String())
}

// A claim that the server refuses although it is of one job, or in which the session ends, is logged with its queue.
func TestRefusedClaimNamesItsQueue(t *testing.T) {
	for name, refusal := range map[string]string{
		"refused": "raise exception 'no memory' using errcode = '53200'",
		"ended":   "perform pg_terminate_backend(pg_backend_pid())",
	} {
		t.Run(name, func(t *testing.T) {
			pool := untapped(t, testdb.URL(t))
			enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "bad"})
			for _, sql := range []string{
				"create function public.refuse() returns trigger security definer language plpgsql as $$ begin if new.job_ids <> " +
					"'{}' then " + refusal + "; end if; return new; end $$",
				"create trigger refuse before insert on awa.lease_claims for each row execute function public.refuse()",
			} {
				_, err := pool.Exec(t.Context(), sql)
				require.NoError(t, err)
			}
			var log syncBuffer
			runWorker(t, pool, handle(newTally().handle), driver.WorkerConfig{
				Queues: []driver.QueueConfig{{Name: "bad"}}, NoMaintenance: true, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			})
			said := regexp.MustCompile(`can't be claimed".* queue=bad .*SQLSTATE (53200|57P01)`)
			waitFor(t, func() bool { return said.MatchString(log.String()) }, "the queue is not named: %s", &log)
		})
	}
}

func TestMiddleware(t *testing.T) {
	pool := testdb.New(t)
	type key struct{}
	var mu sync.Mutex
	var calls []string
	middleware := func(name string) driver.Middleware {
		return func(ctx context.Context, job *driver.RawJob, next func(context.Context) error) error {
			err := next(context.WithValue(ctx, key{}, fmt.Sprint(ctx.Value(key{}), name)))
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, fmt.Sprintf("%s %s %s", name, job.Args, errors.Unwrap(err)))
			if err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
			return err
		}
	}
	boom := errors.New("boom")
	h := driver.NewHandlers()
	driver.Handle(h, func(ctx context.Context, job *driver.Job[note]) error {
		job.SetOutput(ctx.Value(key{}))
		if job.Args.Text == "fail" {
			return fmt.Errorf("handler: %w", boom)
		}
		return nil
	}, middleware("c"), middleware("d"))
	driver.HandleOthers(h, func(ctx context.Context, job *driver.RawJob) error {
		job.SetOutput(ctx.Value(key{}))
		return nil
	}, middleware("e"))
	runWorker(t, pool, h, driver.WorkerConfig{Middleware: []driver.Middleware{middleware("a"), middleware("b")}})
	fine := waitForState(t, pool, enqueue(t, pool, note{"fine"}, driver.EnqueueOptions{}), "completed")
	assert.JSONEq(t, `"<nil>abcd"`, string(fine.Output))
	assert.Equal(t, []string{`d {"text": "fine"} %!s(<nil>)`, `c {"text": "fine"} %!s(<nil>)`,
		`b {"text": "fine"} %!s(<nil>)`, `a {"text": "fine"} %!s(<nil>)`}, calls)
	other := waitForState(t, pool, enqueue(t, pool, otherKind{}, driver.EnqueueOptions{}), "completed")
	assert.JSONEq(t, `"<nil>abe"`, string(other.Output))
	failed := waitForState(t, pool, enqueue(t, pool, note{"fail"}, driver.EnqueueOptions{MaxAttempts: 1}), "failed")
	assert.Equal(t, "a: b: c: d: handler: boom", failed.Errors[0].Error)
}

// Middleware may do without the handler, decide what becomes of the job, and panic.
func TestMiddlewareDecides(t *testing.T) {
	pool := testdb.New(t)
	ran := newTally()
	var panicked *driver.PanicError
	runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		if job.Args.Text == "handler" {
			panic("handler")
		}
		return ran.handle(ctx, job)
	}), driver.WorkerConfig{Middleware: []driver.Middleware{func(ctx context.Context, job *driver.RawJob,
		next func(context.Context) error) error {
		switch {
		case bytes.Contains(job.Args, []byte("skip")):
			return driver.Cancel("skipped")
		case bytes.Contains(job.Args, []byte("middleware")):
			panic("middleware")
		}
		err := next(ctx)
		if errors.As(err, &panicked) {
			return driver.Discard(errors.New("no second chance"))
		}
		return err
	}}})
	skipped := enqueue(t, pool, note{"skip"}, driver.EnqueueOptions{})
	assert.Equal(t, "skipped", waitForState(t, pool, skipped, "cancelled").Errors[0].Error)
	assert.Zero(t, ran.of(skipped))
	own := waitForState(t, pool, enqueue(t, pool, note{"middleware"}, driver.EnqueueOptions{MaxAttempts: 1}), "failed")
	assert.Contains(t, own.Errors[0].Error, "panic: middleware")
	handlers := waitForState(t, pool, enqueue(t, pool, note{"handler"}, driver.EnqueueOptions{}), "failed")
	assert.Equal(t, "no second chance", handlers.Errors[0].Error)
	assert.Equal(t, "handler", panicked.Value)
	assert.Contains(t, string(panicked.Stack), "lifecycle_test.go")
}

func TestTimeout(t *testing.T) {
	pool := testdb.New(t)
	causes := make(chan error, 1)
	h := driver.NewHandlers()
	driver.Handle(h, func(ctx context.Context, job *driver.Job[note]) error {
		<-ctx.Done()
		causes <- context.Cause(ctx)
		switch job.Args.Text {
		case "done all the same":
			return nil
		case "snooze":
			return driver.Snooze(time.Hour)
		case "other":
			return errors.New("something else")
		}
		return fmt.Errorf("read: %w", ctx.Err())
	}, driver.Timeout(10*time.Millisecond))
	driver.HandleOthers(h, func(ctx context.Context, _ *driver.RawJob) error { // has no timeout
		_, has := ctx.Deadline()
		assert.False(t, has)
		return nil
	})
	runWorker(t, pool, h, driver.WorkerConfig{})
	for text, want := range map[string]struct{ state, err string }{
		"":                  {"failed", "timeout of 10ms: read: context deadline exceeded"},
		"other":             {"failed", "something else"},
		"done all the same": {"completed", ""},
		"snooze":            {"scheduled", ""},
	} {
		job := waitForState(t, pool, enqueue(t, pool, note{text}, driver.EnqueueOptions{MaxAttempts: 1}), want.state)
		assert.ErrorIs(t, receive(t, causes), driver.ErrTimeout)
		if want.err != "" {
			assert.Equal(t, want.err, job.Errors[0].Error)
		}
	}
	waitForState(t, pool, enqueue(t, pool, otherKind{}, driver.EnqueueOptions{}), "completed")
	assert.Panics(t, func() { driver.Timeout(0) })
}

// A job of a kind that this worker does not know is put off, uncounted, and another worker takes it. Meanwhile its slot
// serves others.
func TestUnknownKind(t *testing.T) {
	driver.SetMaintenance(t, 20*time.Millisecond)
	pool := testdb.New(t)
	var log syncBuffer
	ran := newTally()
	w, err := driver.NewWorker(pool, handle(ran.handle),
		driver.WorkerConfig{Slots: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	began := time.Now()
	unknown := enqueue(t, pool, otherKind{}, driver.EnqueueOptions{MaxAttempts: 1})
	enqueue(t, pool, otherKind{}, driver.EnqueueOptions{})
	known := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	waitForState(t, pool, known, "completed")
	waitFor(t, func() bool { return w.Stats()[0].UnknownKind >= 4 }, "the jobs are not tried again")
	job, err := driver.NewClient(pool).Job(t.Context(), unknown)
	require.NoError(t, err)
	assert.Contains(t, []string{"scheduled", "available", "running"}, job.State)
	assert.LessOrEqual(t, job.Attempt, 1) // 1 while it runs
	assert.Empty(t, job.Errors)
	assertRare(t, log.String(), "no handler for jobs of this kind", began)
	assert.Contains(t, log.String(), "kind=other")

	attempts := make(chan int, 10)
	h := driver.NewHandlers()
	driver.HandleOthers(h, func(_ context.Context, job *driver.RawJob) error {
		attempts <- job.Attempt
		return nil
	})
	runWorker(t, pool, h, driver.WorkerConfig{})
	waitForState(t, pool, unknown, "completed")
	assert.Equal(t, 1, receive(t, attempts))
	stop()
	require.NoError(t, receive(t, result))
}

// The longer a job has waited for a worker that knows it, the less often it is tried, up to once a minute.
func TestUnknownKindBacksOff(t *testing.T) {
	pool := testdb.New(t)
	w, err := driver.NewWorker(pool, driver.NewHandlers(), driver.WorkerConfig{Logger: logger(t)})
	require.NoError(t, err)
	for age, want := range map[string]time.Duration{"0": time.Second, "20 seconds": 20 * time.Second,
		"1 day": time.Minute} {
		began := time.Now()
		id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
		_, err := pool.Exec(t.Context(), "update awa.ready_entries set ready_at = ready_at - $1::interval where job_id = $2",
			age, id)
		require.NoError(t, err)
		ran, err := w.RunOne(t.Context())
		require.NoError(t, err)
		assert.ErrorIs(t, ran.Err, driver.ErrUnknownKind)
		job := waitForState(t, pool, id, "scheduled")
		assert.WithinRange(t, job.RunAt, began.Add(want), time.Now().Add(want+time.Since(began)), age)
		assert.Zero(t, job.Attempt)
	}
}

func TestStats(t *testing.T) {
	pool := testdb.New(t)
	started, finish := make(chan struct{}), make(chan struct{})
	var w *driver.Worker
	w, err := driver.NewWorker(pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		switch job.Args.Text {
		case "fail":
			return driver.RetryAfter(time.Hour, errors.New("boom"))
		case "snooze":
			return driver.Snooze(time.Hour)
		case "discard":
			return driver.Discard(nil)
		case "cancel":
			return driver.Cancel("")
		case "stale":
			return driver.NewClient(pool).CompleteTx(ctx, pool, job.ID, job.Receipt, nil)
		case "tx":
			return job.CompleteTx(ctx, pool)
		case "uncommitted":
			tx, err := pool.Begin(ctx)
			if err != nil {
				return err
			}
			defer tx.Rollback(context.WithoutCancel(ctx))
			return job.CompleteTx(ctx, tx)
		case "runs":
			close(started)
			<-finish
		}
		return nil
	}),
		driver.WorkerConfig{Queues: []driver.QueueConfig{{Name: "a"}, {Name: "b"}}, NoMaintenance: true, Logger: logger(t)})
	require.NoError(t, err)
	assert.Equal(t, []driver.QueueStats{{Queue: "a"}, {Queue: "b"}}, w.Stats())
	for _, text := range []string{"", "", "fail", "snooze", "discard", "cancel", "stale", "tx", "uncommitted", "runs"} {
		enqueue(t, pool, note{text}, driver.EnqueueOptions{Queue: "a"})
	}
	enqueue(t, pool, otherKind{}, driver.EnqueueOptions{Queue: "b"})
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	receive(t, started)
	want := []driver.QueueStats{
		{Queue: "a", Running: 1, Claimed: 10, Completed: 3, Failed: 2, Snoozed: 1, Discarded: 1, Cancelled: 1, Stale: 1},
		{Queue: "b", Claimed: 1, UnknownKind: 1},
	}
	waitFor(t, func() bool { return assert.ObjectsAreEqual(want, w.Stats()) }, "not %+v", want)
	close(finish)
	stop()
	require.NoError(t, receive(t, result))
	want[0].Running, want[0].Completed = 0, 4
	assert.Equal(t, want, w.Stats())
}

// A hard stop comes at once, however long the grace period is, and gives back what runs.
func TestStopNow(t *testing.T) {
	pool := testdb.New(t)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	started, stopping := make(chan struct{}), make(chan struct{})
	w, err := driver.NewWorker(pool, handle(func(ctx context.Context, _ *driver.Job[note]) error {
		close(started)
		<-ctx.Done()
		close(stopping)
		return ctx.Err()
	}), driver.WorkerConfig{StopTimeout: time.Hour, Logger: logger(t)})
	require.NoError(t, err)
	w.StopNow() // nothing runs
	result := make(chan error, 1)
	go func() { result <- w.Run(t.Context()) }()
	receive(t, started)
	w.StopNow()
	receive(t, stopping)
	w.StopNow()
	require.NoError(t, receive(t, result))
	job := waitForState(t, pool, id, "available")
	assert.Zero(t, job.Attempt)
	assert.Empty(t, job.Errors)
}

// The first signal lets handlers finish, the second stops them.
func TestSignals(t *testing.T) {
	for _, signals := range []int{1, 2} {
		t.Run(fmt.Sprint(signals), func(t *testing.T) {
			pool := testdb.New(t)
			id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
			started, finish := make(chan struct{}), make(chan struct{})
			var log syncBuffer
			w, err := driver.NewWorker(pool, handle(func(ctx context.Context, _ *driver.Job[note]) error {
				close(started)
				select {
				case <-ctx.Done():
				case <-finish:
				}
				return ctx.Err()
			}), driver.WorkerConfig{StopTimeout: time.Hour, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			require.NoError(t, err)
			result := make(chan error, 1)
			go func() { result <- w.RunUntilSignal(t.Context(), syscall.SIGUSR1, syscall.SIGUSR2) }()
			receive(t, started)
			require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGUSR1))
			waitFor(t, func() bool { return strings.Contains(log.String(), "handlers may finish") }, "the signal is not heard")
			assert.Empty(t, result)
			if signals == 2 {
				require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGUSR2))
				require.NoError(t, receive(t, result))
				assert.Zero(t, waitForState(t, pool, id, "available").Attempt)
				assert.Contains(t, log.String(), "the contexts of handlers end")
				return
			}
			close(finish)
			require.NoError(t, receive(t, result))
			waitForState(t, pool, id, "completed")
		})
	}
}

func TestRunOne(t *testing.T) {
	pool := testdb.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := driver.NewWorker(pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		switch job.Args.Text {
		case "exit":
			runtime.Goexit()
		case "stop":
			cancel()
			return ctx.Err()
		case "stale":
			return driver.NewClient(pool).CompleteTx(ctx, pool, job.ID, job.Receipt, nil)
		}
		return nil
	}), driver.WorkerConfig{Queues: []driver.QueueConfig{{Name: "a"}, {Name: "b"}}, Logger: logger(t)})
	require.NoError(t, err)
	ran, err := w.RunOne(ctx)
	require.NoError(t, err)
	assert.Nil(t, ran)

	inB, inA := enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "b"}),
		enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "a"})
	for _, id := range []int64{inA, inB} {
		ran, err := w.RunOne(ctx)
		require.NoError(t, err)
		assert.Equal(t, &driver.Ran{JobID: id}, ran)
		waitForState(t, pool, id, "completed")
	}
	stale := enqueue(t, pool, note{"stale"}, driver.EnqueueOptions{Queue: "a"})
	ran, err = w.RunOne(ctx)
	require.NoError(t, err)
	assert.Equal(t, &driver.Ran{JobID: stale, Stale: true}, ran)

	enqueue(t, pool, note{"exit"}, driver.EnqueueOptions{Queue: "b"})
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		w.RunOne(ctx)
	}()
	receive(t, exited)
	assert.Zero(t, w.Stats()[1].Running, "its handler has ended its goroutine")

	stopped := enqueue(t, pool, note{"stop"}, driver.EnqueueOptions{Queue: "a"})
	ran, err = w.RunOne(ctx)
	require.NoError(t, err)
	assert.ErrorIs(t, ran.Err, context.Canceled)
	job := waitForState(t, pool, stopped, "available")
	assert.Zero(t, job.Attempt)
	assert.Empty(t, job.Errors)
}
