package driver_test

import (
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// aheadConfig has no heartbeat that is due while jobs wait.
var aheadConfig = driver.WorkerConfig{Slots: 1, HeartbeatEvery: time.Hour, Lease: 2 * time.Hour}

// gate is a handler that waits, until it is opened, for as long as its context lasts.
type gate struct {
	*tally
	started chan int64
	open    chan struct{}
}

func newGate() *gate {
	return &gate{tally: newTally(), started: make(chan int64, 100), open: make(chan struct{})}
}

func (g *gate) handle(ctx context.Context, job *driver.Job[note]) error {
	g.started <- job.ID
	select {
	case <-g.open:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return g.tally.handle(ctx, job)
}

// claimAhead has the workers of a test claim n jobs ahead, until it is told otherwise, and keep them for so long.
func claimAhead(t *testing.T, n int64, most time.Duration) *atomic.Int64 {
	var want atomic.Int64
	want.Store(n)
	driver.SetAhead(t, func() int { return int(want.Load()) }, most)
	return &want
}

func enqueueNotes(t *testing.T, pool *pgxpool.Pool, n int) []int64 {
	t.Helper()
	args := make([]driver.Args, n)
	for i := range args {
		args[i] = note{}
	}
	ids, err := driver.NewClient(pool).EnqueueMany(t.Context(), args, driver.EnqueueOptions{})
	require.NoError(t, err)
	return ids
}

func waitForRunning(t *testing.T, pool *pgxpool.Pool, n int) {
	t.Helper()
	waitFor(t, func() bool {
		return queryValue[int](t, pool, "select coalesce(sum(running), 0)::int from awa.queue_counts") == n
	}, "there are not %d running jobs", n)
}

// What was claimed ahead is given back at once when the worker is stopped, while a handler goes on, and does not count.
func TestClaimedAheadBesideAStop(t *testing.T) {
	claimAhead(t, 5, time.Hour)
	pool := testdb.New(t)
	ids := enqueueNotes(t, pool, 6)
	g := newGate()
	w, err := driver.NewWorker(pool, handle(g.handle), aheadConfig)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	first := receive(t, g.started)
	waitForRunning(t, pool, 6)
	stop()
	for _, id := range ids {
		if id != first {
			assert.Zero(t, waitForState(t, pool, id, "available").Attempt)
		}
	}
	waitForState(t, pool, first, "running")
	close(g.open)
	require.NoError(t, receive(t, result))
	waitForState(t, pool, first, "completed")
	assert.Empty(t, g.started)
}

// What waits for too long is given back while the worker goes on, and another one runs it.
func TestClaimedAheadForTooLong(t *testing.T) {
	want := claimAhead(t, 5, 50*time.Millisecond)
	pool := testdb.New(t)
	ids := enqueueNotes(t, pool, 6)
	g := newGate()
	runWorker(t, pool, handle(g.handle), aheadConfig)
	first := receive(t, g.started)
	want.Store(0)
	other := newTally()
	runWorker(t, pool, handle(other.handle), driver.WorkerConfig{})
	for _, id := range ids {
		if id != first {
			assert.Equal(t, 1, waitForState(t, pool, id, "completed").Attempt)
			assert.Equal(t, 1, other.of(id))
		}
	}
	waitForState(t, pool, first, "running")
	close(g.open)
	waitForState(t, pool, first, "completed")
	assert.Empty(t, g.started)
}

// A job that is cancelled while it waits does not start, once the worker was told.
func TestCancelOfAJobThatWaits(t *testing.T) {
	claimAhead(t, 2, time.Hour)
	pool := testdb.New(t)
	ids := enqueueNotes(t, pool, 3)
	g := newGate()
	var log syncBuffer
	cfg := aheadConfig
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	runWorker(t, pool, handle(g.handle), cfg)
	require.Equal(t, ids[0], receive(t, g.started))
	waitForRunning(t, pool, 3)
	_, err := driver.NewClient(pool).Cancel(t.Context(), ids[1], "")
	require.NoError(t, err)
	waitFor(t, func() bool { return strings.Contains(log.String(), "attempt is no longer this worker's") },
		"the worker is not told")
	close(g.open)
	waitForState(t, pool, ids[0], "completed")
	waitForState(t, pool, ids[2], "completed")
	waitForState(t, pool, ids[1], "cancelled")
	assert.Zero(t, g.of(ids[1]))
}

// Jobs that wait while another session ends their worker are not started, but run under its next registration.
func TestEndOfAWorkerWithJobsThatWait(t *testing.T) {
	claimAhead(t, 5, time.Hour)
	pool := testdb.New(t)
	ids := enqueueNotes(t, pool, 6)
	g := newGate()
	var log syncBuffer
	cfg := aheadConfig
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	runWorker(t, pool, handle(g.handle), cfg)
	require.Equal(t, ids[0], receive(t, g.started))
	waitForRunning(t, pool, 6)
	_, err := pool.Exec(t.Context(), "select awa.deregister_worker(worker_id) from awa.workers")
	require.NoError(t, err)
	waitFor(t, func() bool { return strings.Contains(log.String(), "the server no longer knows this worker") },
		"the worker is not told")
	close(g.open)
	for _, id := range ids {
		assert.Equal(t, 1, waitForState(t, pool, id, "completed").Attempt)
		assert.Equal(t, id, receive(t, g.started))
	}
	assert.Empty(t, g.started)
}

// On a queue with a deadline nothing is claimed ahead: it would run down while the job waits. The first claim shows
// that there is one, and what it has taken is given back.
func TestNothingIsClaimedAheadWithADeadline(t *testing.T) {
	claimAhead(t, 5, time.Hour)
	pool := testdb.New(t)
	enqueueConfigured(t, pool, note{}, driver.EnqueueOptions{}, `{"deadline": "1 hour"}`)
	enqueueNotes(t, pool, 5)
	g := newGate()
	runWorker(t, pool, handle(g.handle), aheadConfig)
	receive(t, g.started)
	waitFor(t, func() bool {
		return queryValue[int](t, pool, "select available::int from awa.queue_counts") == 5
	}, "what waits is not given back")
	close(g.open)
	for range 5 {
		receive(t, g.started)
	}
	waitFor(t, func() bool {
		return queryValue[int](t, pool, "select completed::int from awa.queue_counts") == 6
	}, "the jobs do not complete")
	assert.Equal(t, 1,
		queryValue[int](t, pool, "select count(*)::int from awa.lease_claims where cardinality(job_ids) > 1"))
}

// Jobs of an unknown kind, and those that can't be decoded, are answered when it is their turn.
func TestJobsWithoutAHandlerThatWait(t *testing.T) {
	claimAhead(t, 5, time.Hour)
	pool := testdb.New(t)
	g := newGate()
	first := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	unknown := enqueue(t, pool, otherKind{}, driver.EnqueueOptions{})
	last := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	runWorker(t, pool, handle(g.handle), aheadConfig)
	require.Equal(t, first, receive(t, g.started))
	waitForRunning(t, pool, 3)
	close(g.open)
	waitForState(t, pool, last, "completed")
	waitForState(t, pool, unknown, "scheduled")
}

// A handler that ends its goroutine leaves its slot to the jobs that wait.
func TestGoexitBeforeJobsThatWait(t *testing.T) {
	claimAhead(t, 5, time.Hour)
	pool := testdb.New(t)
	ids := enqueueNotes(t, pool, 3)
	ran := newTally()
	runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		if job.ID == ids[0] {
			runtime.Goexit()
		}
		return ran.handle(ctx, job)
	}), aheadConfig)
	waitForState(t, pool, ids[1], "completed")
	waitForState(t, pool, ids[2], "completed")
	waitForState(t, pool, ids[0], "retryable")
}

// A worker that is measured claims ahead by itself, and each job runs once.
func TestClaimsAheadByItself(t *testing.T) {
	pool := testdb.New(t)
	var ids []int64
	for range 10 {
		ids = append(ids, enqueueNotes(t, pool, 1000)...)
	}
	ran := newTally()
	runWorker(t, pool, handle(ran.handle), driver.WorkerConfig{Slots: 4})
	waitFor(t, func() bool {
		return queryValue[int](t, pool, "select completed::int from awa.queue_counts") == len(ids)
	}, "the jobs do not complete")
	for _, id := range ids {
		require.Equal(t, 1, ran.of(id))
	}
	assert.Greater(t, queryValue[int](t, pool, "select max(cardinality(job_ids)) from awa.lease_claims"), 4)
}

func TestClaimAheadIsChecked(t *testing.T) {
	pool := testdb.New(t)
	_, err := driver.NewWorker(pool, driver.NewHandlers(), driver.WorkerConfig{ClaimAhead: 10_001})
	assert.ErrorContains(t, err, "ClaimAhead")
	assert.Equal(t, 1000, driver.WorkerConfig{}.WithDefaults().ClaimAhead)
	assert.Negative(t, driver.WorkerConfig{ClaimAhead: -1}.WithDefaults().ClaimAhead)
}
