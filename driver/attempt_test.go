package driver_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// With an hour between heartbeats a handler can learn that its job was cancelled only by the notification.
func TestCancelStopsTheHandlerAtOnce(t *testing.T) {
	for name, slots := range map[string]int{"idle": 0, "all slots full": 1} {
		t.Run(name, func(t *testing.T) {
			pool := testdb.New(t)
			client := driver.NewClient(pool)
			started, causes := make(chan struct{}, 1), make(chan error, 1)
			var log bytes.Buffer
			stop := runWorker(t, pool, handle(func(ctx context.Context, _ *driver.Job[note]) error {
				started <- struct{}{}
				<-ctx.Done()
				causes <- context.Cause(ctx)
				return ctx.Err()
			}), driver.WorkerConfig{
				Slots: slots, HeartbeatEvery: time.Hour, PollInterval: time.Hour,
				Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			})
			for range 2 {
				id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
				receive(t, started)
				waitUntilAsleep(t, pool)
				state, err := client.Cancel(t.Context(), id, "no longer needed")
				require.NoError(t, err)
				assert.Equal(t, "running", state)
				assert.ErrorIs(t, receive(t, causes), driver.ErrStaleReceipt)
				job := waitForState(t, pool, id, "cancelled")
				require.Len(t, job.Errors, 1)
				assert.Equal(t, "no longer needed", job.Errors[0].Error)
				assert.Equal(t, "postgres", job.Errors[0].By)
			}
			require.NoError(t, stop())
			assert.NotContains(t, log.String(), "answers were stale")
			assert.NotContains(t, log.String(), "attempt failed")
			assert.NotContains(t, log.String(), "level=WARN")
		})
	}
}

func TestCancelStopsTheHandlerOfAStoppingWorker(t *testing.T) {
	pool := testdb.New(t)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	started := make(chan struct{})
	w, err := driver.NewWorker(pool, handle(func(ctx context.Context, _ *driver.Job[note]) error {
		close(started)
		<-ctx.Done()
		return ctx.Err()
	}), driver.WorkerConfig{HeartbeatEvery: time.Hour, StopTimeout: time.Hour, Logger: logger(t)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	receive(t, started)
	cancel()
	_, err = driver.NewClient(pool).Cancel(t.Context(), id, "")
	require.NoError(t, err)
	require.NoError(t, receive(t, result))
	waitForState(t, pool, id, "cancelled")
}

// However many attempts are taken from a worker, it sends at most ten heartbeats a second; the first one at once.
func TestLostInAFlood(t *testing.T) {
	var beats atomic.Int32
	tap := &wiretap{onWrite: func(_ *tappedConn, sent []byte) (func() error, error) {
		if bytes.Contains(sent, []byte("awa.heartbeat(")) {
			beats.Add(1)
		}
		return nil, nil
	}}
	pool := tap.pool(t, testdb.URL(t))
	const jobs = 200
	started, causes := make(chan struct{}, jobs), make(chan error, jobs)
	runWorker(t, pool, handle(func(ctx context.Context, _ *driver.Job[note]) error {
		started <- struct{}{}
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return nil
	}), driver.WorkerConfig{Slots: jobs, HeartbeatEvery: time.Hour, NoMaintenance: true})
	var ids []int64
	for range jobs {
		ids = append(ids, enqueue(t, pool, note{}, driver.EnqueueOptions{}))
	}
	for range jobs {
		receive(t, started)
	}
	waitFor(t, func() bool { return beats.Load() > 0 }, "no heartbeat")
	before, began := beats.Load(), time.Now()
	for _, id := range ids {
		_, err := driver.NewClient(pool).Cancel(t.Context(), id, "")
		require.NoError(t, err)
	}
	for range jobs {
		assert.ErrorIs(t, receive(t, causes), driver.ErrStaleReceipt)
	}
	assert.LessOrEqual(t, beats.Load()-before, int32(time.Since(began)/(100*time.Millisecond))+2)
}

// What was lost before the worker could listen, or while it could not, is found as soon as it can.
func TestCancelBeforeTheWorkerListens(t *testing.T) {
	var deaf atomic.Bool
	deaf.Store(true)
	tap := &wiretap{onWrite: func(_ *tappedConn, sent []byte) (func() error, error) {
		if deaf.Load() && bytes.Contains(sent, []byte("listen ")) {
			return nil, errCut
		}
		return nil, nil
	}}
	pool := tap.pool(t, testdb.URL(t))
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	started, causes := make(chan struct{}), make(chan error, 1)
	runWorker(t, pool, handle(func(ctx context.Context, _ *driver.Job[note]) error {
		close(started)
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return nil
	}), driver.WorkerConfig{HeartbeatEvery: time.Hour, StopTimeout: -1})
	receive(t, started)
	_, err := driver.NewClient(pool).Cancel(t.Context(), id, "")
	require.NoError(t, err)
	deaf.Store(false)
	assert.ErrorIs(t, receive(t, causes), driver.ErrStaleReceipt)
}

// A slot whose job was cancelled is free again, though its handler's answer was never sent.
func TestCancelByUniqueKeyFreesTheSlot(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	started := make(chan string, 1)
	runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		started <- job.Args.Text
		<-ctx.Done()
		return nil
	}), driver.WorkerConfig{Slots: 1, HeartbeatEvery: time.Hour, StopTimeout: -1})
	unique := driver.UniqueOptions{Key: "one"}
	id, inserted, err := client.EnqueueUnique(t.Context(), note{"first"}, unique, driver.EnqueueOptions{})
	require.NoError(t, err)
	assert.True(t, inserted)
	assert.Equal(t, "first", receive(t, started))
	enqueue(t, pool, note{"second"}, driver.EnqueueOptions{})
	got, cancelled, err := client.CancelByUniqueKey(t.Context(), nil, unique, "")
	require.NoError(t, err)
	assert.True(t, cancelled)
	assert.Equal(t, id, got)
	assert.Equal(t, "second", receive(t, started))
}

// A worker that is cut off from the server, for good as far as anybody knows: another one gets its job, and when the
// first comes back its answer is not taken.
func TestJobOfADeadWorkerRunsAgain(t *testing.T) {
	driver.SetMaintenance(t, 20*time.Millisecond)
	databaseURL := testdb.URL(t)
	var cut atomic.Bool
	tap := &wiretap{onWrite: func(*tappedConn, []byte) (func() error, error) {
		if cut.Load() {
			return nil, errCut
		}
		return nil, nil
	}}
	deadPool := tap.pool(t, databaseURL)
	pool := (&wiretap{onWrite: func(*tappedConn, []byte) (func() error, error) { return nil, nil }}).pool(t, databaseURL)
	id := enqueueRetrying(t, pool, note{}, 5)
	started, finish := make(chan struct{}), make(chan struct{})
	causes := make(chan error, 1)
	stop := runWorker(t, deadPool, handle(func(ctx context.Context, _ *driver.Job[note]) error {
		close(started)
		<-ctx.Done()
		causes <- context.Cause(ctx)
		<-finish
		return errors.New("from the dead")
	}), driver.WorkerConfig{Slots: 1, Lease: 300 * time.Millisecond, HeartbeatEvery: 20 * time.Millisecond,
		NoMaintenance: true})
	receive(t, started)
	cut.Store(true)

	attempts := make(chan int, 1)
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		attempts <- job.Attempt
		return nil
	}), driver.WorkerConfig{})
	assert.Equal(t, 2, receive(t, attempts))
	job := waitForState(t, pool, id, "completed")
	require.Len(t, job.Errors, 1)
	assert.Equal(t, "lease expired", job.Errors[0].Error)

	cut.Store(false)
	assert.ErrorIs(t, receive(t, causes), driver.ErrStaleReceipt)
	close(finish)
	require.NoError(t, stop())
	assert.Len(t, waitForState(t, pool, id, "completed").Errors, 1)
}

func TestProgress(t *testing.T) {
	driver.SetMaintenance(t, 10*time.Millisecond)
	pool := testdb.New(t)
	id := enqueueRetrying(t, pool, note{}, 5)
	said, goOn := make(chan struct{}), make(chan struct{})
	got := make(chan string, 2)
	runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		got <- string(job.Progress)
		switch job.Attempt {
		case 1:
			if err := job.SetProgress(ctx, func() {}); !assert.ErrorContains(t, err, "progress: json") {
				return err
			}
			if err := job.SetProgress(ctx, map[string]int{"lines": 1}); err != nil {
				return err
			}
			if err := job.SetProgress(ctx, map[string]int{"lines": 7}); err != nil {
				return err
			}
			said <- struct{}{}
			<-goOn
			return errors.New("boom")
		case 2:
			if err := job.SetProgress(ctx, nil); err != nil {
				return err
			}
			said <- struct{}{}
			<-goOn
		}
		return nil
	}), driver.WorkerConfig{})
	assert.Empty(t, receive(t, got))
	receive(t, said)
	assert.JSONEq(t, `{"lines": 7}`, string(waitForState(t, pool, id, "running").Progress))
	goOn <- struct{}{}
	assert.JSONEq(t, `{"lines": 7}`, receive(t, got))
	receive(t, said)
	assert.Nil(t, waitForState(t, pool, id, "running").Progress)
	goOn <- struct{}{}
	waitForState(t, pool, id, "completed")
}

func TestProgressAndExtendOfAStaleAttempt(t *testing.T) {
	pool := testdb.New(t)
	enqueue(t, pool, note{}, driver.EnqueueOptions{})
	type result struct{ progress, extend error }
	results := make(chan result, 1)
	runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		if err := driver.NewClient(pool).CompleteTx(ctx, pool, job.ID, job.Receipt, nil); err != nil {
			return err
		}
		_, err := job.Extend(ctx, time.Minute)
		results <- result{job.SetProgress(ctx, 1), err}
		return nil
	}), driver.WorkerConfig{})
	got := receive(t, results)
	assert.ErrorIs(t, got.progress, driver.ErrStaleReceipt)
	assert.ErrorIs(t, got.extend, driver.ErrStaleReceipt)
}

func TestExtend(t *testing.T) {
	pool := testdb.New(t)
	enqueue(t, pool, note{}, driver.EnqueueOptions{})
	type result struct {
		until time.Time
		err   error
	}
	results := make(chan result, 2)
	runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		for _, lease := range []time.Duration{0, time.Hour} {
			until, err := job.Extend(ctx, lease)
			results <- result{until, err}
		}
		return nil
	}), driver.WorkerConfig{})
	assert.ErrorContains(t, receive(t, results).err, "lease must be between")
	got := receive(t, results)
	require.NoError(t, got.err)
	assert.WithinDuration(t, time.Now().Add(time.Hour), got.until, 30*time.Minute)
}

func TestDeadlineEndsTheContext(t *testing.T) {
	pool := testdb.New(t)
	id := enqueueConfigured(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1}, `{"deadline": "100 milliseconds"}`)
	type seen struct {
		deadlineAt *time.Time
		deadline   time.Time
		cause      error
	}
	deadlines := make(chan seen, 1)
	runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		<-ctx.Done()
		deadline, _ := ctx.Deadline()
		deadlines <- seen{job.DeadlineAt, deadline, context.Cause(ctx)}
		return ctx.Err()
	}), driver.WorkerConfig{NoMaintenance: true})
	got := receive(t, deadlines)
	require.NotNil(t, got.deadlineAt)
	assert.True(t, got.deadlineAt.Equal(got.deadline))
	assert.ErrorIs(t, got.cause, context.DeadlineExceeded)
	job := waitForState(t, pool, id, "failed")
	require.Len(t, job.Errors, 1)
	assert.Contains(t, job.Errors[0].Error, "deadline exceeded")
}

// A handler that does not look at its context does not keep its job beyond the deadline, though its worker is alive.
func TestDeadlineOfAStubbornHandler(t *testing.T) {
	driver.SetMaintenance(t, 20*time.Millisecond)
	pool := testdb.New(t)
	id := enqueueConfigured(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1}, `{"deadline": "100 milliseconds"}`)
	started, finish := make(chan struct{}), make(chan struct{})
	stop := runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error {
		close(started)
		<-finish
		return nil
	}), driver.WorkerConfig{HeartbeatEvery: 20 * time.Millisecond})
	receive(t, started)
	job := waitForState(t, pool, id, "failed")
	close(finish)
	require.NoError(t, stop())
	require.Len(t, job.Errors, 1)
	assert.Equal(t, "deadline exceeded", job.Errors[0].Error)
	waitForState(t, pool, id, "failed")
}

func TestDeadlineIsShown(t *testing.T) {
	pool := testdb.New(t)
	id := enqueueConfigured(t, pool, note{}, driver.EnqueueOptions{}, `{"deadline": "1 hour"}`)
	deadlines, finish := make(chan *time.Time, 1), make(chan struct{})
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		deadlines <- job.DeadlineAt
		<-finish
		return nil
	}), driver.WorkerConfig{})
	deadlineAt := receive(t, deadlines)
	shown := waitForState(t, pool, id, "running").DeadlineAt
	close(finish)
	require.NotNil(t, deadlineAt)
	require.NotNil(t, shown)
	assert.True(t, deadlineAt.Equal(*shown))
	assert.WithinDuration(t, time.Now().Add(time.Hour), *deadlineAt, 30*time.Minute)
}

func TestMaintenance(t *testing.T) {
	driver.SetMaintenance(t, 20*time.Millisecond)
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	started, finish := make(chan struct{}), make(chan struct{})
	old := enqueueConfigured(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1},
		`{"failed_retention": "1 millisecond"}`)
	assert.Equal(t, "failed", fails(t, pool))
	lasting := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error {
		close(started)
		<-finish
		return nil
	}), driver.WorkerConfig{})
	receive(t, started)
	waitFor(t, func() bool {
		_, err := client.Job(t.Context(), old)
		return errors.Is(err, driver.ErrNoSuchJob)
	}, "the failed job is kept")

	_, err := pool.Exec(t.Context(), "update awa.lease_claims set claimed_at = claimed_at - interval '1 minute'")
	require.NoError(t, err)
	waitFor(t, func() bool {
		return queryValue[bool](t, pool, "select exists (select from awa.leases where job_id = $1)", lasting)
	}, "the attempt gets no row of its own")
	close(finish)
	waitForState(t, pool, lasting, "completed")
}
