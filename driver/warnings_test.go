package driver_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// assertRare requires that a log says something, and no more often than once a minute.
func assertRare(t *testing.T, log, text string, began time.Time) {
	t.Helper()
	times := strings.Count(log, text)
	assert.Positive(t, times, text)
	assert.LessOrEqual(t, times, 1+int(time.Since(began)/time.Minute), text)
}

// Hundreds of kinds that a worker does not know, a hundred answers that the server refuses, a hundred leases that end
// at once: the log stays short.
func TestManyUnknownKinds(t *testing.T) {
	pool := testdb.New(t)
	began := time.Now()
	const n = 500
	_, err := pool.Exec(t.Context(), "select awa.enqueue($1, 'kind ' || n) from generate_series(1, $2) n",
		driver.DefaultQueue, n)
	require.NoError(t, err)
	var log syncBuffer
	w, err := driver.NewWorker(pool, driver.NewHandlers(),
		driver.WorkerConfig{NoMaintenance: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	waitFor(t, func() bool { return w.Stats()[0].UnknownKind == n }, "not all jobs are put off")
	stop()
	require.NoError(t, receive(t, result))
	times := strings.Count(log.String(), "no handler for jobs of this kind")
	assert.GreaterOrEqual(t, times, 10, "ten kinds are named")
	assert.LessOrEqual(t, times, 10*(1+int(time.Since(began)/time.Minute)))
}

func TestManyRefusals(t *testing.T) {
	pool := testdb.New(t)
	began := time.Now()
	const n = 100
	args := make([]driver.Args, n)
	for i := range args {
		args[i] = note{}
	}
	_, err := driver.NewClient(pool).EnqueueMany(t.Context(), args, driver.EnqueueOptions{MaxAttempts: 1})
	require.NoError(t, err)
	var log syncBuffer
	w, err := driver.NewWorker(pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		job.SetOutput("\x00") // is JSON, but no jsonb
		return nil
	}), driver.WorkerConfig{NoMaintenance: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	waitFor(t, func() bool { return w.Stats()[0].Failed == n }, "not all attempts fail")
	stop()
	require.NoError(t, receive(t, result))
	assertRare(t, log.String(), "the completion was refused", began)
}

func TestManyLostLeases(t *testing.T) {
	pool := testdb.New(t)
	began := time.Now()
	const n = 100
	args := make([]driver.Args, n)
	for i := range args {
		args[i] = note{}
	}
	_, err := driver.NewClient(pool).EnqueueMany(t.Context(), args, driver.EnqueueOptions{})
	require.NoError(t, err)
	var log syncBuffer
	var started, ended atomic.Int32
	stop := runWorker(t, pool, handle(func(ctx context.Context, _ *driver.Job[note]) error {
		started.Add(1)
		<-ctx.Done()
		ended.Add(1)
		return ctx.Err()
	}), driver.WorkerConfig{Slots: n, NoMaintenance: true, HeartbeatEvery: 20 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(&log, nil))})
	waitFor(t, func() bool { return started.Load() == n }, "not all jobs run")
	_, err = pool.Exec(t.Context(), `
		create or replace function awa.heartbeat(worker_id bigint) returns setof awa.lost_attempt_row language sql
		as $$ select j.id, j.receipt, 'lease expired' from awa.jobs j where j.state = 'running' $$`)
	require.NoError(t, err)
	waitFor(t, func() bool { return ended.Load() >= n }, "the handlers go on")
	require.NoError(t, stop()) // it warns when it has told the last handler, which may have ended by then
	assertRare(t, log.String(), "their lease ended before a heartbeat came", began)
	assert.Contains(t, log.String(), "jobs=100")
}
