package driver_test

import (
	"context"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/pgserver"
	"github.com/awa-pg/awa/internal/testdb"
)

// resumesIn is how soon a worker is to work again when the server is back.
const resumesIn = 10 * time.Second

// untapped returns a pool whose broken connections are the test's fault.
func untapped(t *testing.T, databaseURL string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), databaseURL)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// ownServer returns a server with Awa that the test may halt.
func ownServer(t *testing.T, settings map[string]string) *pgserver.Server {
	t.Helper()
	server, err := pgserver.Start(t.Context(), pgserver.Config{Settings: settings})
	require.NoError(t, err)
	t.Cleanup(func() { server.Stop() })
	_, err = driver.Migrate(t.Context(), server.URL())
	require.NoError(t, err)
	return server
}

// tally counts how often each job was run.
type tally struct {
	mu   sync.Mutex
	runs map[int64]int
}

func newTally() *tally { return &tally{runs: map[int64]int{}} }

func (c *tally) handle(_ context.Context, job *driver.Job[note]) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs[job.ID]++
	return nil
}

func (c *tally) of(id int64) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.runs[id]
}

// enqueueSoon enqueues as soon as a server can be reached.
func enqueueSoon(t *testing.T, pool *pgxpool.Pool) int64 {
	t.Helper()
	var id int64
	waitFor(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var err error
		id, err = driver.NewClient(pool).Enqueue(ctx, note{}, driver.EnqueueOptions{})
		return err == nil
	}, "nothing can be enqueued")
	return id
}

// requireResumed requires that a job that is enqueued now is soon run.
func requireResumed(t *testing.T, pool *pgxpool.Pool, ran *tally) {
	t.Helper()
	began := time.Now()
	id := enqueueSoon(t, pool)
	waitFor(t, func() bool { return ran.of(id) > 0 }, "job %d is not run", id)
	took := time.Since(began)
	t.Logf("the worker has resumed within %s", took)
	assert.Less(t, took, resumesIn)
	waitFor(t, func() bool { // the pool may have dead connections
		job, err := driver.NewClient(pool).Job(t.Context(), id)
		return err == nil && job.State == "completed"
	}, "job %d is not completed", id)
}

// The server crashes while a handler runs, is away for a while, and comes back: the answer is taken, and the worker works on.
func TestServerRestart(t *testing.T) {
	server := ownServer(t, nil)
	pool := untapped(t, server.URL())
	ran := newTally()
	started, finish := make(chan struct{}), make(chan struct{})
	stop := runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		if job.Args.Text == "during" {
			started <- struct{}{}
			<-finish
		}
		return ran.handle(ctx, job)
	}), driver.WorkerConfig{HeartbeatEvery: 20 * time.Millisecond})
	during := enqueue(t, pool, note{"during"}, driver.EnqueueOptions{})
	receive(t, started)
	enqueue(t, pool, note{}, driver.EnqueueOptions{}) // writes the claim to the disk, too, which does not wait for it
	for range 2 {
		require.NoError(t, server.Halt())
		_, err := pool.Exec(t.Context(), "select 1")
		require.Error(t, err)
		require.NoError(t, server.Resume(t.Context()))
		requireResumed(t, pool, ran)
	}
	require.NoError(t, server.Halt())
	close(finish)
	waitFor(t, func() bool { return ran.of(during) == 1 }, "the handler does not end")
	require.NoError(t, server.Resume(t.Context()))
	requireResumed(t, pool, ran)
	waitForState(t, pool, during, "completed")
	require.NoError(t, stop())
	assert.Equal(t, 1, ran.of(during))
}

// A worker that is started before its server waits for it; one that the server refuses says so.
func TestStartBeforeTheServer(t *testing.T) {
	server := ownServer(t, nil)
	pool := untapped(t, server.URL())
	require.NoError(t, server.Halt())
	ran := newTally()
	runWorker(t, pool, handle(ran.handle), driver.WorkerConfig{})
	require.NoError(t, server.Resume(t.Context()))
	requireResumed(t, pool, ran)
}

// Each connection of the worker dies in turn, whatever it is for. With an hour between polls a job is found in time only when
// the worker listens again.
func TestTerminatedConnections(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool, admin := untapped(t, databaseURL), testdb.New(t)
	ran := newTally()
	runWorker(t, pool, handle(ran.handle), driver.WorkerConfig{PollInterval: time.Hour, HeartbeatEvery: time.Hour, NoMaintenance: true})
	requireResumed(t, pool, ran) // so that there are all
	database := queryValue[string](t, pool, "select current_database()")
	pids := queryValue[[]int32](t, admin, "select array_agg(pid order by pid) from pg_stat_activity where datname = $1 and backend_type = 'client backend'", database)
	require.GreaterOrEqual(t, len(pids), 4, "claims, answers, notifications, and the pool's")
	for _, pid := range pids {
		waitUntilAsleep(t, pool)
		assert.True(t, queryValue[bool](t, admin, "select pg_terminate_backend($1, 5000)", pid))
		requireResumed(t, pool, ran)
	}
}

// The primary crashes, and the stand-by at the second address of the URL takes over: no job that was committed is missing,
// since the stand-by is a synchronous one.
func TestFailOver(t *testing.T) {
	primary := ownServer(t, nil)
	standby, err := primary.Standby(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { standby.Stop() })
	admin := testdb.Connect(t, primary.URL())
	for _, sql := range []string{"alter system set synchronous_standby_names = '*'", "select pg_reload_conf()"} {
		_, err := admin.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	waitFor(t, func() bool {
		var synchronous bool
		require.NoError(t, admin.QueryRow(t.Context(), "select exists (select from pg_stat_replication where sync_state = 'sync')").Scan(&synchronous))
		return synchronous
	}, "the stand-by does not follow")

	both := "postgres:///postgres?" + url.Values{
		"host": {primary.Dir() + "," + standby.Dir()}, "port": {primary.Port() + "," + standby.Port()}, "user": {primary.User()},
		"target_session_attrs": {"read-write"},
	}.Encode()
	pool := untapped(t, both)
	ran := newTally()
	started, finish := make(chan struct{}), make(chan struct{})
	stop := runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		if job.Args.Text == "during" {
			started <- struct{}{}
			<-finish
		}
		return ran.handle(ctx, job)
	}), driver.WorkerConfig{})
	during := enqueue(t, pool, note{"during"}, driver.EnqueueOptions{})
	receive(t, started)
	waiting := enqueue(t, pool, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(2 * time.Second)})
	require.NoError(t, primary.Halt())
	_, err = testdb.Connect(t, standby.URL()).Exec(t.Context(), "select pg_promote()")
	require.NoError(t, err)
	requireResumed(t, pool, ran)
	waitForState(t, pool, waiting, "completed")
	close(finish)
	waitForState(t, pool, during, "completed")
	require.NoError(t, stop())
}

// A server that was made read-only, as one that is demoted is, is not asked again on the same connection: the next one may
// lead to another server.
func TestServerBecomesReadOnly(t *testing.T) {
	server := ownServer(t, nil)
	pool := untapped(t, server.URL())
	admin := untapped(t, server.URL())
	ran := newTally()
	runWorker(t, pool, handle(ran.handle), driver.WorkerConfig{NoMaintenance: true, HeartbeatEvery: 20 * time.Millisecond})
	requireResumed(t, pool, ran)
	claiming := queryValue[[]int32](t, admin, "select array_agg(pid) from pg_stat_activity where query = 'commit'")
	require.NotEmpty(t, claiming)
	set := func(value string) {
		conn, err := admin.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
		for _, sql := range []string{"set default_transaction_read_only = off", "alter system set default_transaction_read_only = " + value, "select pg_reload_conf()"} {
			_, err := conn.Exec(t.Context(), sql)
			require.NoError(t, err)
		}
	}
	set("on")
	waitFor(t, func() bool {
		return queryValue[int](t, admin, "select count(*) from pg_stat_activity where pid = any($1)", claiming) < len(claiming)
	}, "the worker keeps its connection")
	set("off")
	requireResumed(t, pool, ran)
}

// A backend that hangs is left alone after a while.
func TestSilentConnection(t *testing.T) {
	driver.SetCallTimeouts(t, 500*time.Millisecond, time.Second)
	server := ownServer(t, nil)
	pool := untapped(t, server.URL())
	ran := newTally()
	runWorker(t, pool, handle(ran.handle), driver.WorkerConfig{NoMaintenance: true, PollInterval: 20 * time.Millisecond, HeartbeatEvery: time.Hour})
	requireResumed(t, pool, ran)
	for _, pid := range queryValue[[]int32](t, pool, "select array_agg(pid) from pg_stat_activity where query = 'commit'") {
		require.NoError(t, syscall.Kill(int(pid), syscall.SIGSTOP))
		t.Cleanup(func() { syscall.Kill(int(pid), syscall.SIGCONT) })
	}
	requireResumed(t, pool, ran)
}

// The first address of the URL accepts connections, and says nothing: the worker goes on to the second.
func TestSilentAddress(t *testing.T) {
	driver.SetCallTimeouts(t, 10*time.Second, 100*time.Millisecond)
	server := ownServer(t, nil)
	dir := t.TempDir()
	silent, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	require.NoError(t, err)
	t.Cleanup(func() { silent.Close() })
	pool := untapped(t, "postgres:///postgres?"+url.Values{"host": {dir + "," + server.Dir()}, "user": {server.User()}}.Encode())
	ran := newTally()
	runWorker(t, pool, handle(ran.handle), driver.WorkerConfig{NoMaintenance: true})
	requireResumed(t, untapped(t, server.URL()), ran)
}

// The worker does not need the pool, which its handlers, or others, may have exhausted, from its start to its end.
func TestExhaustedPool(t *testing.T) {
	databaseURL := testdb.URL(t)
	cfg, err := pgxpool.ParseConfig(databaseURL)
	require.NoError(t, err)
	cfg.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	held, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	others := untapped(t, databaseURL)

	ran := newTally()
	progressed := make(chan error, 1)
	stop := runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		if job.Args.Text == "progress" {
			progressed <- job.SetProgress(ctx, 1) // waits for the pool
		}
		return ran.handle(ctx, job)
	}), driver.WorkerConfig{})
	waits := enqueue(t, others, note{"progress"}, driver.EnqueueOptions{})
	requireResumed(t, others, ran)
	assert.Zero(t, ran.of(waits))
	held.Release()
	require.NoError(t, receive(t, progressed))
	waitForState(t, others, waits, "completed")

	held, err = pool.Acquire(t.Context())
	require.NoError(t, err)
	defer held.Release()
	requireResumed(t, others, ran)
	require.NoError(t, stop())
}

// Answers that can't be sent hold up handlers, and so claims: memory does not grow with the time that the server is away.
func TestBackPressure(t *testing.T) {
	databaseURL := testdb.URL(t)
	var cut atomic.Bool
	tap := &wiretap{onWrite: func(_ *tappedConn, sent []byte) (func() error, error) {
		if cut.Load() && strings.Contains(string(sent), "complete_many") {
			return nil, errCut
		}
		return nil, nil
	}}
	pool := tap.pool(t, databaseURL)
	const n, slots = 3000, 10
	args := make([]driver.Args, n)
	for i := range args {
		args[i] = note{}
	}
	_, err := driver.NewClient(pool).EnqueueMany(t.Context(), args, driver.EnqueueOptions{})
	require.NoError(t, err)
	cut.Store(true)
	w, err := driver.NewWorker(pool, handle(func(context.Context, *driver.Job[note]) error { return nil }), driver.WorkerConfig{Slots: slots, NoMaintenance: true, Logger: logger(t)})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	most := int64(driver.AnswersOnTheirWay + slots)
	waitFor(t, func() bool { return w.Stats()[0].Claimed >= driver.AnswersOnTheirWay/2 }, "the worker does not work")
	waitUntilQuiet(t, pool)
	assert.LessOrEqual(t, w.Stats()[0].Claimed, most)
	cut.Store(false)
	waitFor(t, func() bool { return w.Stats()[0].Completed == n }, "the worker does not go on")
	assert.Zero(t, w.Stats()[0].Stale)
	stop()
	require.NoError(t, receive(t, result))
}

// waitUntilQuiet waits until no connection to the database has been used for a while.
func waitUntilQuiet(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	waitFor(t, func() bool {
		return queryValue[bool](t, pool, `
			select not exists (select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
			                    and backend_type = 'client backend' and (state <> 'idle' or state_change > clock_timestamp() - interval '200 milliseconds'))`)
	}, "the connections do not rest")
}
