package driver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/gen"
	"github.com/awa-pg/awa/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m, func() error { return goleak.Find() }) }

const (
	// patience is how long a test waits for what should happen at once, on a machine that may be very busy.
	patience = 2 * time.Minute
	look     = 10 * time.Millisecond
)

// note is the job of most tests.
type note struct {
	Text string `json:"text"`
}

func (note) Kind() string { return "note" }

// handle returns handlers with the one for notes.
func handle(run func(ctx context.Context, job *driver.Job[note]) error) *driver.Handlers {
	h := driver.NewHandlers()
	driver.Handle(h, run)
	return h
}

// runWorker runs a worker. Stop stops it, waits for it and returns its result; it is called at the end in any case.
func runWorker(t *testing.T, pool *pgxpool.Pool, h *driver.Handlers, cfg driver.WorkerConfig) (stop func() error) {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = logger(t)
	}
	w, err := driver.NewWorker(pool, h, cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	stop = func() error {
		cancel()
		err := <-result
		result <- nil
		return err
	}
	t.Cleanup(func() { assert.NoError(t, stop()) })
	return stop
}

func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func enqueue(t *testing.T, pool *pgxpool.Pool, args driver.Args, opts driver.EnqueueOptions) int64 {
	t.Helper()
	id, err := driver.NewClient(pool).Enqueue(t.Context(), args, opts)
	require.NoError(t, err)
	return id
}

// enqueueRetrying enqueues a job whose retries come quickly.
func enqueueRetrying(t *testing.T, pool *pgxpool.Pool, args driver.Args, maxAttempts int) int64 {
	t.Helper()
	return enqueueConfigured(t, pool, args, driver.EnqueueOptions{MaxAttempts: maxAttempts},
		`{"backoff_base": "10 milliseconds"}`)
}

// enqueueConfigured enqueues a job to the default queue, and gives that settings before anybody can claim.
func enqueueConfigured(
	t *testing.T, pool *pgxpool.Pool, args driver.Args, opts driver.EnqueueOptions, settings string,
) int64 {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	id, err := driver.NewClient(pool).EnqueueTx(t.Context(), tx, args, opts)
	require.NoError(t, err)
	require.NoError(t, gen.New().ConfigureQueue(t.Context(), tx, gen.ConfigureQueueParams{
		Queue: driver.DefaultQueue, Settings: json.RawMessage(settings),
	}))
	require.NoError(t, tx.Commit(t.Context()))
	return id
}

// verdict is what a handler returns that is asked for it; nil when it is asked for nothing of that.
func verdict(text string) error {
	switch text {
	case "snooze":
		return driver.Snooze(time.Hour)
	case "discard":
		return driver.Discard(errors.New("no"))
	case "cancel":
		return driver.Cancel("no")
	case "retry":
		return driver.RetryAfter(time.Hour, errors.New("later"))
	case "fail":
		return errors.New("boom")
	}
	return nil
}

// claim takes jobs of the default queue for nobody.
func claim(t *testing.T, pool *pgxpool.Pool, n int) []gen.AwaClaimedJobRow {
	t.Helper()
	jobs, err := gen.New().Claim(t.Context(), pool, gen.ClaimParams{Queue: driver.DefaultQueue, MaxJobs: int32(n)})
	require.NoError(t, err)
	require.Len(t, jobs, n)
	return jobs
}

// fails claims the next job, fails it, and returns the state that follows.
func fails(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	job := claim(t, pool, 1)[0]
	state, err := gen.New().Fail(t.Context(), pool, gen.FailParams{JobID: job.JobID, Receipt: job.Receipt, Error: "boom"})
	require.NoError(t, err)
	return state
}

// waitForState waits until a job is in a state.
func waitForState(t *testing.T, pool *pgxpool.Pool, id int64, state string) driver.JobInfo {
	t.Helper()
	var job driver.JobInfo
	waitFor(t, func() bool {
		var err error
		job, err = driver.NewClient(pool).Job(t.Context(), id)
		require.NoError(t, err)
		return job.State == state
	}, "job %d is not %s", id, state)
	return job
}

// waitFor waits for something that gives no signal.
func waitFor(t *testing.T, condition func() bool, format string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(look) {
		if time.Now().After(deadline) {
			require.FailNowf(t, "waited in vain", format, args...)
		}
	}
}

// waitUntilAsleep waits until a worker that does no maintenance, or seldom, relies on notifications: its connections,
// the one on which it listens and sends heartbeats among them, have done what they had to.
func waitUntilAsleep(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	waitFor(t, func() bool {
		return queryValue[bool](t, pool, `
			select count(*) filter (where query = 'commit') >= 2
			  and bool_and(state = 'idle' and state_change < clock_timestamp() - interval '200 milliseconds')
			  from pg_stat_activity
			 where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`)
	}, "the worker does not fall asleep")
}

// receive waits for a signal.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		require.FailNow(t, "waited in vain for a signal")
		panic("unreachable")
	}
}

func queryValue[T any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, pool.QueryRow(t.Context(), sql, args...).Scan(&v))
	return v
}

// wiretap sees what the connections of a pool send, and may break them.
type wiretap struct {
	// onWrite is called before something is sent. An error breaks the connection; so does one from the function that it
	// may return, called before the answer is read.
	onWrite func(c *tappedConn, sent []byte) (beforeRead func() error, err error)
}

// pool returns a pool with the wiretap.
func (w *wiretap) pool(t *testing.T, databaseURL string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(databaseURL)
	require.NoError(t, err)
	dial := cfg.ConnConfig.DialFunc
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &tappedConn{Conn: conn, tap: w}, nil
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

type tappedConn struct {
	net.Conn
	tap        *wiretap
	claims     bool // it has prepared a claim,
	answers    bool // or an answer
	beforeRead atomic.Pointer[func() error]
}

func (c *tappedConn) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("awa.claim(")) {
		c.claims = true
	}
	if bytes.Contains(b, []byte("awa.complete_many(")) || bytes.Contains(b, []byte("awa.fail_many(")) {
		c.answers = true
	}
	beforeRead, err := c.tap.onWrite(c, b)
	if err != nil {
		c.Close()
		return 0, err
	}
	if beforeRead != nil {
		c.beforeRead.Store(&beforeRead)
	}
	return c.Conn.Write(b)
}

func (c *tappedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if beforeRead := c.beforeRead.Swap(nil); beforeRead != nil && err == nil {
		if err := (*beforeRead)(); err != nil {
			c.Close()
			return 0, err
		}
	}
	return n, err
}

var errCut = errors.New("the connection was cut by the test")
