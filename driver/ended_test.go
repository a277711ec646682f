package driver_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/gen"
	"github.com/awa-pg/awa/internal/testdb"
)

// A worker that another session has ended stops its handlers: their jobs run again. Only the end of its context ends
// the handler.
func TestHandlersOfAWorkerThatSomebodyElseHasEnded(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, pool *pgxpool.Pool, workerID int64){
		"deregistered": func(t *testing.T, pool *pgxpool.Pool, workerID int64) {
			released, err := gen.New().DeregisterWorker(t.Context(), pool, workerID)
			require.NoError(t, err)
			assert.Equal(t, int64(1), released)
		},
		"an hour of silence": func(t *testing.T, pool *pgxpool.Pool, workerID int64) {
			// What rescue and forget_workers do then: the attempts have failed, and the worker is forgotten.
			_, err := pool.Exec(t.Context(), `
				with failed as (select awa.fail(j.id, j.receipt, 'lease expired') from awa.jobs j where j.state = 'running')
				delete from awa.workers w where w.worker_id = $1 and (select count(*) from failed) = 1`, workerID)
			require.NoError(t, err)
			assert.Zero(t, queryValue[int](t, pool, "select count(*) from awa.workers where worker_id = $1", workerID))
		},
	} {
		t.Run(name, func(t *testing.T) {
			pool := testdb.New(t)
			id := enqueueRetrying(t, pool, note{}, 5)
			runEnded(t, pool, id, driver.WorkerConfig{HeartbeatEvery: 20 * time.Millisecond, StopTimeout: -1}, end)
			assert.Equal(t, 1, queryValue[int](t, pool, "select count(*) from awa.workers"), "the worker has begun anew")
		})
	}
}

// A worker that another session ends does not wait for its next heartbeat to learn that its attempts are gone.
func TestEndedWorkerStopsAtOnce(t *testing.T) {
	pool := testdb.New(t)
	id := enqueueRetrying(t, pool, note{}, 5)
	cfg := driver.WorkerConfig{Slots: 1, HeartbeatEvery: time.Hour, StopTimeout: -1}
	runEnded(t, pool, id, cfg, func(t *testing.T, pool *pgxpool.Pool, workerID int64) {
		_, err := gen.New().DeregisterWorker(t.Context(), pool, workerID)
		require.NoError(t, err)
	})
}

// runEnded runs a worker that is ended during the first attempt of a job. Its handler ends with its context, and the
// job completes in a second attempt.
func runEnded(t *testing.T, pool *pgxpool.Pool, id int64, cfg driver.WorkerConfig,
	end func(t *testing.T, pool *pgxpool.Pool, workerID int64),
) {
	t.Helper()
	started, causes := make(chan int64), make(chan error, 1)
	var attempts atomic.Int64
	runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		if attempts.Add(1) > 1 {
			return nil
		}
		started <- queryValue[int64](t, pool, "select worker_id from awa.workers")
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return ctx.Err()
	}), cfg)
	end(t, pool, receive(t, started))
	assert.ErrorIs(t, receive(t, causes), driver.ErrStaleReceipt)
	waitForState(t, pool, id, "completed")
	assert.Equal(t, int64(2), attempts.Load())
}

// Another session ends the worker between the commit of a claim and its answer: no handler is started for what is not
// the worker's any more.
func TestClaimOfAWorkerThatSomebodyElseHasEnded(t *testing.T) {
	databaseURL := testdb.URL(t)
	admin, others := testdb.Connect(t, databaseURL), untapped(t, databaseURL)
	var log syncBuffer
	var ended atomic.Bool
	tap := &wiretap{onWrite: func(c *tappedConn, _ []byte) (func() error, error) {
		if !c.claims || ended.Load() {
			return nil, nil
		}
		return func() error {
			var workerID int64
			err := admin.QueryRow(context.Background(),
				"select coalesce(max(worker_id), 0) from awa.lease_claims").Scan(&workerID)
			if err != nil || workerID == 0 {
				return err
			}
			ended.Store(true)
			_, err = admin.Exec(context.Background(), "select awa.deregister_worker($1)", workerID)
			for deadline := time.Now().Add(patience); err == nil &&
				!strings.Contains(log.String(), "no longer knows this worker") && time.Now().Before(deadline); {
				time.Sleep(look)
			}
			return err
		}, nil
	}}
	ran := make(chan int64, 2)
	runWorker(t, tap.pool(t, databaseURL), handle(func(_ context.Context, job *driver.Job[note]) error {
		ran <- job.Receipt
		return nil
	}), driver.WorkerConfig{HeartbeatEvery: 20 * time.Millisecond, NoMaintenance: true,
		Logger: slog.New(slog.NewTextHandler(&log, nil))})
	id := enqueue(t, others, note{}, driver.EnqueueOptions{})
	receipt := receive(t, ran)
	job := waitForState(t, others, id, "completed")
	assert.True(t, ended.Load())
	assert.Equal(t, *job.Receipt, receipt, "the first run was that of the attempt that counts")
	assert.Empty(t, ran)
}
