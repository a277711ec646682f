package driver_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/pgserver"
	"github.com/awa-pg/awa/internal/testdb"
)

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
	t.Logf("the worker has resumed within %s", time.Since(began))
	waitFor(t, func() bool { // the pool may have dead connections
		job, err := driver.NewClient(pool).Job(t.Context(), id)
		return err == nil && job.State == "completed"
	}, "job %d is not completed", id)
}

// The server crashes while a handler runs, is away for a while, and comes back: the answer is taken, and the worker
// works on.
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
	waitForState(t, untapped(t, server.URL()), during, "completed")
	require.NoError(t, stop())
	assert.Equal(t, 1, ran.of(during))
}

// A worker that is started before its server waits for it; one that the server refuses says so.
func TestStartBeforeTheServer(t *testing.T) {
	server := ownServer(t, nil)
	pool := untapped(t, server.URL())
	require.NoError(t, server.Halt())
	ran := newTally()
	h := handle(ran.handle)
	h.Schedule(driver.Schedule{Name: "declared", Cron: "@yearly", Args: note{}})
	runWorker(t, pool, h, driver.WorkerConfig{ScheduleSource: "this"})
	require.NoError(t, server.Resume(t.Context()))
	requireResumed(t, pool, ran)
	waitFor(t, func() bool { return len(scheduleNames(t, pool)) == 1 }, "the schedules are not synchronised")
}

// Each connection of the worker dies in turn, whatever it is for. With an hour between polls a job is found in time
// only when the worker listens again.
func TestTerminatedConnections(t *testing.T) {
	driver.SleepUntilNotified(t)
	databaseURL := testdb.URL(t)
	pool, admin := untapped(t, databaseURL), testdb.New(t)
	ran := newTally()
	runWorker(t, pool, handle(ran.handle),
		driver.WorkerConfig{PollInterval: time.Hour, HeartbeatEvery: time.Hour, NoMaintenance: true})
	requireResumed(t, pool, ran)
	database := queryValue[string](t, pool, "select current_database()")
	var pids []int32
	waitFor(t, func() bool {
		pids = queryValue[[]int32](t, admin, `
			select array_agg(pid order by pid) from pg_stat_activity
			 where datname = $1 and backend_type = 'client backend'`, database)
		return len(pids) >= 4
	}, "not all are there: for claims, answers, notifications, and the pool's")
	for _, pid := range pids {
		waitUntilAsleep(t, pool)
		assert.True(t, queryValue[bool](t, admin, "select pg_terminate_backend($1, $2)", pid, patience.Milliseconds()))
		requireResumed(t, pool, ran)
	}
}

// The primary crashes, and the stand-by at the second address of the URL takes over: no job that was committed is
// missing, since the stand-by is a synchronous one.
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
		require.NoError(t,
			admin.QueryRow(t.Context(),
				"select exists (select from pg_stat_replication where sync_state = 'sync')").Scan(&synchronous))
		return synchronous
	}, "the stand-by does not follow")

	both := "postgres:///postgres?" + url.Values{
		"host": {primary.Dir() + "," + standby.Dir()}, "port": {primary.Port() + "," + standby.Port()},
		"user":                 {primary.User()},
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
	alive := untapped(t, both) // the other pool may have more dead connections
	waitForState(t, alive, waiting, "completed")
	close(finish)
	waitForState(t, alive, during, "completed")
	require.NoError(t, stop())
}

// A server that was made read-only, as one that is demoted is, is not asked again on the same connection: the next one
// may lead to another server.
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
		for _, sql := range []string{"set default_transaction_read_only = off",
			"alter system set default_transaction_read_only = " + value, "select pg_reload_conf()"} {
			_, err := conn.Exec(t.Context(), sql)
			require.NoError(t, err)
		}
	}
	set("on")
	waitFor(t, func() bool {
		return queryValue[int](t, admin, "select count(*) from pg_stat_activity where pid = any($1)",
			claiming) < len(claiming)
	}, "the worker keeps its connection")
	set("off")
	requireResumed(t, pool, ran)
}

// stopBackend stops a backend that is in no transaction: one that is would keep its locks.
func stopBackend(t *testing.T, admin *pgxpool.Pool, pid int32) {
	t.Helper()
	t.Cleanup(func() { syscall.Kill(int(pid), syscall.SIGCONT) })
	waitFor(t, func() bool {
		require.NoError(t, syscall.Kill(int(pid), syscall.SIGSTOP))
		if queryValue[bool](t, admin, "select state = 'idle' from pg_stat_activity where pid = $1", pid) {
			return true
		}
		require.NoError(t, syscall.Kill(int(pid), syscall.SIGCONT))
		return false
	}, "backend %d is always in a transaction", pid)
}

// A backend that hangs is left alone after a while.
func TestSilentConnection(t *testing.T) {
	driver.SetCallTimeouts(t, 3*time.Second, 5*time.Second)
	server := ownServer(t, nil)
	pool := untapped(t, server.URL())
	ran := newTally()
	runWorker(t, pool, handle(ran.handle),
		driver.WorkerConfig{NoMaintenance: true, PollInterval: 20 * time.Millisecond, HeartbeatEvery: time.Hour})
	requireResumed(t, pool, ran)
	admin := untapped(t, server.URL())
	pids := queryValue[[]int32](t, admin, "select array_agg(pid) from pg_stat_activity where query = 'commit'")
	for _, pid := range pids {
		stopBackend(t, admin, pid)
	}
	requireResumed(t, pool, ran)
}

// The first address of the URL accepts connections, and says nothing: the worker goes on to the second.
func TestSilentAddress(t *testing.T) {
	driver.SetCallTimeouts(t, 20*time.Second, time.Second)
	server := ownServer(t, nil)
	dir := t.TempDir()
	silent, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	require.NoError(t, err)
	t.Cleanup(func() { silent.Close() })
	pool := untapped(t,
		"postgres:///postgres?"+url.Values{"host": {dir + "," + server.Dir()}, "user": {server.User()}}.Encode())
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
	h := handle(func(ctx context.Context, job *driver.Job[note]) error {
		if job.Args.Text == "progress" {
			progressed <- job.SetProgress(ctx, 1) // waits for the pool
		}
		return ran.handle(ctx, job)
	})
	h.Schedule(driver.Schedule{Name: "declared", Cron: "@yearly", Args: note{}})
	stop := runWorker(t, pool, h, driver.WorkerConfig{ScheduleSource: "this"})
	waits := enqueue(t, others, note{"progress"}, driver.EnqueueOptions{})
	requireResumed(t, others, ran)
	assert.Zero(t, ran.of(waits))
	assert.Equal(t, []string{"declared"}, scheduleNames(t, others))
	held.Release()
	require.NoError(t, receive(t, progressed))
	waitForState(t, others, waits, "completed")

	held, err = pool.Acquire(t.Context())
	require.NoError(t, err)
	defer held.Release()
	requireResumed(t, others, ran)
	require.NoError(t, stop())
}

// Answers that can't be sent hold up handlers, and so claims: memory does not grow with the time that the server is
// away.
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
	w, err := driver.NewWorker(pool, handle(func(context.Context, *driver.Job[note]) error { return nil }),
		driver.WorkerConfig{Slots: slots, NoMaintenance: true, Logger: logger(t)})
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
			                    and backend_type = 'client backend' and (state <> 'idle'
			                    or state_change > clock_timestamp() - interval '200 milliseconds'))`)
	}, "the connections do not rest")
}

// Whatever the pool's configuration is made for, the worker's own connections work: with handlers of notifications,
// which keep them from who waits for them; without a cache of descriptions; and with what is done before and after a
// connect.
func TestPoolWithHooks(t *testing.T) {
	driver.SleepUntilNotified(t)
	cfg, err := pgxpool.ParseConfig(testdb.URL(t))
	require.NoError(t, err)
	var before, after atomic.Int32
	cfg.ConnConfig.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	cfg.ConnConfig.DescriptionCacheCapacity = 0
	cfg.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		before.Add(1)
		c.RuntimeParams["application_name"] = "hooked"
		return nil
	}
	cfg.AfterConnect = func(context.Context, *pgx.Conn) error {
		after.Add(1)
		return nil
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	ran := newTally()
	runWorker(t, pool, handle(ran.handle),
		driver.WorkerConfig{PollInterval: time.Hour, HeartbeatEvery: time.Hour, NoMaintenance: true})
	for range 2 {
		waitUntilAsleep(t, pool)
		requireResumed(t, pool, ran)
	}
	assert.GreaterOrEqual(t, before.Load(), int32(4))
	assert.Equal(t, before.Load(), after.Load())
	assert.Zero(t,
		queryValue[int](t, pool,
			"select count(*) from pg_stat_activity where datname = current_database() and application_name <> 'hooked'"))
}

// However many addresses are silent, the one that answers is reached in time.
func TestManySilentAddresses(t *testing.T) {
	driver.SetCallTimeouts(t, 6*time.Second, 5*time.Second)
	server := ownServer(t, nil)
	var hosts []string
	for range 5 {
		dir := t.TempDir()
		silent, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
		require.NoError(t, err)
		t.Cleanup(func() { silent.Close() })
		hosts = append(hosts, dir)
	}
	hosts = append(hosts, server.Dir())
	pool := untapped(t,
		"postgres:///postgres?"+url.Values{"host": {strings.Join(hosts, ",")}, "user": {server.User()}}.Encode())
	ran := newTally()
	runWorker(t, pool, handle(ran.handle), driver.WorkerConfig{NoMaintenance: true})
	requireResumed(t, untapped(t, server.URL()), ran)
}

// A crash may forget a claim, and hand out its number again, while the handler of the first attempt still runs: the two
// don't get into each other's way.
func TestReceiptGivenTwice(t *testing.T) {
	pool := testdb.New(t)
	started := make(chan int64, 2)
	finish := map[string]chan struct{}{"a": make(chan struct{}), "b": make(chan struct{})}
	var log syncBuffer
	w, err := driver.NewWorker(pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		started <- job.Receipt
		<-finish[job.Args.Text]
		return nil
	}), driver.WorkerConfig{NoMaintenance: true, Queues: []driver.QueueConfig{{Name: "q1", Slots: 1}, {Name: "q2"}},
		Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	enqueue(t, pool, note{"a"}, driver.EnqueueOptions{Queue: "q1"})
	receipt := receive(t, started)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	for _, sql := range []string{"delete from awa.lease_claims where claim_id = $1::bigint >> 12",
		"select setval('awa.claim_ids', $1::bigint >> 12, false)"} {
		_, err := tx.Exec(t.Context(), sql, receipt)
		require.NoError(t, err)
	}
	id, err := driver.NewClient(pool).EnqueueTx(t.Context(), tx, note{"b"}, driver.EnqueueOptions{Queue: "q2"})
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, receipt, receive(t, started))
	close(finish["a"])
	waitFor(t, func() bool { return w.Stats()[0].Stale == 1 }, "the answer of the forgotten attempt is not stale")
	close(finish["b"])
	waitForState(t, pool, id, "completed")
	stop()
	require.NoError(t, receive(t, result))
}

// What the server refuses for another reason than what the answer says is sent again.
func TestAnswersThatAreRefusedForAWhile(t *testing.T) {
	pool := testdb.New(t)
	rename := func(from, to string) {
		_, err := pool.Exec(t.Context(), "alter function awa.complete_many"+from+" rename to complete_many"+to)
		require.NoError(t, err)
	}
	rename("", "_away")
	var log syncBuffer
	runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error { return nil }),
		driver.WorkerConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	waitFor(t, func() bool { return strings.Contains(log.String(), "answers can't be sent") }, "nothing is refused")
	rename("_away", "")
	job := waitForState(t, pool, id, "completed")
	assert.Empty(t, job.Errors)
	assert.Equal(t, 1, job.Attempt)
}

// A job whose failure the server does not take is not held for as long as the worker lives.
func TestFailureThatIsRefused(t *testing.T) {
	pool := testdb.New(t)
	_, err := pool.Exec(t.Context(), `
		create or replace function awa.fail_many(
		  job_ids bigint[],
		  receipts bigint[],
		  errors text[],
		  retry_after interval[] default null
		) returns setof bigint
		language plpgsql as $$ begin raise exception using errcode = '22023', message = 'not today'; end $$`)
	require.NoError(t, err)
	var log syncBuffer
	stop := runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error { return errors.New("boom") }),
		driver.WorkerConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	job := waitForState(t, pool, id, "scheduled")
	require.NoError(t, stop()) // the log says it after the server has taken it
	assert.Equal(t, 1, job.Attempt)
	assert.Contains(t, job.Errors[0].Error, "the failure was refused: not today (SQLSTATE 22023); it was: boom")
	assert.Contains(t, log.String(), "a failure was refused, so the job is put off")
}

// The answer of a claim is lost beside a handler that runs for long: what the claim has taken is given back at once,
// and the long attempt goes on.
func TestLostClaimBesideALongHandler(t *testing.T) {
	databaseURL := testdb.URL(t)
	admin := testdb.Connect(t, databaseURL)
	var armed atomic.Bool
	tap := &wiretap{onWrite: func(c *tappedConn, sent []byte) (func() error, error) {
		if !c.claims {
			return nil, nil
		}
		return func() error {
			if !armed.Load() {
				return nil
			}
			var claimed bool
			if err := admin.QueryRow(context.Background(),
				"select count(*) > 1 from awa.lease_claims").Scan(&claimed); err != nil || !claimed {
				return err
			}
			armed.Store(false)
			return errCut
		}, nil
	}}
	pool, direct := tap.pool(t, databaseURL), untapped(t, databaseURL)
	started, finish := make(chan struct{}, 1), make(chan struct{})
	ran := newTally()
	stop := runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		if job.Args.Text == "long" {
			started <- struct{}{}
			<-finish
		}
		return ran.handle(ctx, job)
	}), driver.WorkerConfig{PollInterval: 20 * time.Millisecond, Lease: time.Hour, HeartbeatEvery: time.Minute})
	long := enqueue(t, direct, note{"long"}, driver.EnqueueOptions{})
	receive(t, started)
	armed.Store(true)
	requireResumed(t, direct, ran)
	assert.False(t, armed.Load(), "no claim was lost")
	close(finish)
	job := waitForState(t, direct, long, "completed")
	assert.Equal(t, 1, job.Attempt)
	assert.Equal(t, 1, ran.of(long))
	require.NoError(t, stop())
	assert.Zero(t, queryValue[int](t, direct, "select count(*) from awa.workers"))
}

// blockClaims locks a queue, until the function that it returns is called, and waits until the worker waits for it.
func blockClaims(t *testing.T, pool *pgxpool.Pool, queue string) (locked func(), unlock func()) {
	t.Helper()
	_, err := pool.Exec(t.Context(), "update awa.settings set claim_wait = '1 hour'")
	require.NoError(t, err)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { tx.Rollback(context.Background()) })
	_, err = tx.Exec(t.Context(), "select awa.claim($1)", queue)
	require.NoError(t, err)
	locked = func() {
		t.Helper()
		waitFor(t, func() bool {
			return queryValue[bool](t, pool,
				"select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and "+
					"query like '%claim%')")
		}, "the worker does not wait for the queue")
	}
	return locked, func() { require.NoError(t, tx.Rollback(context.Background())) }
}

// A claim that waits for a queue does not keep the worker from saying that it is alive.
func TestHeartbeatsBesideALockedQueue(t *testing.T) {
	pool := testdb.New(t)
	locked, unlock := blockClaims(t, pool, driver.DefaultQueue)
	runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error { return nil }),
		driver.WorkerConfig{HeartbeatEvery: 20 * time.Millisecond})
	locked()
	heartbeat := func() time.Time { return queryValue[time.Time](t, pool, "select heartbeat_at from awa.workers") }
	for range 3 {
		before := heartbeat()
		waitFor(t, func() bool { return heartbeat().After(before) }, "no heartbeat")
	}
	locked()
	unlock()
}

// Nor does it put off the end of the grace period.
func TestGracePeriodBesideALockedQueue(t *testing.T) {
	pool := testdb.New(t)
	started, ended := make(chan struct{}), make(chan error)
	w, err := driver.NewWorker(pool, handle(func(ctx context.Context, _ *driver.Job[note]) error {
		close(started)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return ctx.Err()
	}), driver.WorkerConfig{StopTimeout: 50 * time.Millisecond, Slots: 2, Logger: logger(t)})
	require.NoError(t, err)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	receive(t, started)
	locked, unlock := blockClaims(t, pool, driver.DefaultQueue)
	locked()
	stop()
	assert.ErrorIs(t, receive(t, ended), driver.ErrStopped)
	locked()
	unlock()
	require.NoError(t, receive(t, result))
	assert.Zero(t, waitForState(t, pool, id, "available").Attempt)
}

// Jobs become ready in time while the rest of maintenance takes long.
func TestPromotionBesideMaintenance(t *testing.T) {
	driver.SetMaintenance(t, 10*time.Millisecond)
	pool := testdb.New(t)
	_, err := pool.Exec(t.Context(),
		"create or replace procedure awa.run_passes(if_due boolean default true) language plpgsql as $$ "+
			"begin perform pg_advisory_xact_lock(7); end $$")
	require.NoError(t, err)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	_, err = tx.Exec(t.Context(), "select pg_advisory_xact_lock(7)")
	require.NoError(t, err)
	ran := newTally()
	runWorker(t, pool, handle(ran.handle), driver.WorkerConfig{})
	waiting := "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = " +
		"'Lock' and query like '%run_passes%')"
	waitFor(t, func() bool { return queryValue[bool](t, pool, waiting) }, "maintenance does not wait")
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(20 * time.Millisecond)})
	waitForState(t, pool, id, "completed")
	assert.True(t, queryValue[bool](t, pool, waiting))
}

// A claim hangs with its backend, and holds the registration under which it was made: others are claimed under another
// one, and at the end of the worker all but that is given back.
func TestStopBesideAHangingClaim(t *testing.T) {
	driver.SetCallTimeouts(t, 5*time.Second, 5*time.Second)
	driver.SetTimeouts(t, time.Minute, time.Minute, 8*time.Second)
	pool := testdb.New(t)
	started := make(chan struct{})
	w, err := driver.NewWorker(pool, handle(func(ctx context.Context, _ *driver.Job[note]) error {
		close(started)
		<-ctx.Done()
		return ctx.Err()
	}), driver.WorkerConfig{NoMaintenance: true, StopTimeout: -1,
		Queues: []driver.QueueConfig{{Name: "locked"}, {Name: "free"}}, Logger: logger(t)})
	require.NoError(t, err)
	locked, unlock := blockClaims(t, pool, "locked")
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	locked()
	pid := queryValue[int](t, pool,
		"select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'")
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGCONT) })
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "free"})
	receive(t, started)
	assert.Equal(t, 2, queryValue[int](t, pool, "select count(*) from awa.workers"))
	stop()
	assert.ErrorContains(t, receive(t, result), "worker: stop: ")
	assert.Zero(t, waitForState(t, pool, id, "available").Attempt)
	assert.Equal(t, 1, queryValue[int](t, pool, "select count(*) from awa.workers"), "the hanging claim holds its own")
	unlock()
}

// A job that an open transaction cancels does not keep a worker, at its end, from giving back its other jobs.
func TestStopBesideAnOpenCancel(t *testing.T) {
	driver.SetTimeouts(t, time.Minute, time.Minute, 12*time.Second)
	pool := testdb.New(t)
	started := make(chan struct{})
	w, err := driver.NewWorker(pool, handle(func(ctx context.Context, _ *driver.Job[note]) error {
		started <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}), driver.WorkerConfig{NoMaintenance: true, StopTimeout: -1, Queues: []driver.QueueConfig{{Name: "q"}},
		Logger: logger(t)})
	require.NoError(t, err)
	var ids []int64
	for range 4 {
		ids = append(ids, enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "q"}))
	}
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	for range ids {
		receive(t, started)
	}
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), "select awa.cancel($1)", ids[1])
	require.NoError(t, err)
	stop()
	require.NoError(t, receive(t, result))
	for _, id := range []int64{ids[0], ids[2], ids[3]} {
		assert.Zero(t, waitForState(t, pool, id, "available").Attempt)
	}
	require.NoError(t, tx.Commit(t.Context()))
	waitForState(t, pool, ids[1], "cancelled")
	assert.Zero(t, queryValue[int](t, pool, "select count(*) from awa.workers"))
}

// Where claims may wait for longer than the worker waits for an answer, a locked queue does not hold up the others for
// long.
func TestLockedQueueWithALongWait(t *testing.T) {
	driver.SetCallTimeouts(t, 5*time.Second, 5*time.Second)
	pool := testdb.New(t)
	locked, unlock := blockClaims(t, pool, "locked")
	ran := newTally()
	w, err := driver.NewWorker(pool, handle(ran.handle),
		driver.WorkerConfig{NoMaintenance: true, Queues: []driver.QueueConfig{{Name: "locked"}, {Name: "free"}},
			Logger: logger(t)})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	locked()
	for range 3 {
		waitForState(t, pool, enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "free"}), "completed")
	}
	assert.LessOrEqual(t, queryValue[int64](t, pool, "select last_value from awa.workers_worker_id_seq"), int64(2),
		"one claim is lost, the others are refused")
	unlock()
	stop()
	require.NoError(t, receive(t, result))
}

// A claim hangs with its backend, nobody can cancel it, and it is committed long after the worker has given it up: what
// it takes is given back all the same, beside a handler of the same registration that goes on.
func TestClaimThatIsCommittedLate(t *testing.T) {
	driver.SetCallTimeouts(t, 5*time.Second, 5*time.Second)
	databaseURL := testdb.URL(t)
	tap := &wiretap{onWrite: func(_ *tappedConn, sent []byte) (func() error, error) {
		if len(sent) >= 8 && bytes.Equal(sent[4:8], []byte{4, 210, 22, 46}) { // a request to cancel
			return nil, errCut
		}
		return nil, nil
	}}
	pool, direct := tap.pool(t, databaseURL), testdb.Connect(t, databaseURL)
	others := untapped(t, databaseURL)
	started, finish := make(chan struct{}, 1), make(chan struct{})
	ran := newTally()
	var log syncBuffer
	stop := runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		if job.Args.Text == "long" {
			started <- struct{}{}
			<-finish
		}
		return ran.handle(ctx, job)
	}), driver.WorkerConfig{
		NoMaintenance: true, Lease: time.Hour, HeartbeatEvery: 50 * time.Millisecond, PollInterval: 50 * time.Millisecond,
		Queues: []driver.QueueConfig{{Name: "locked"}, {Name: "free"}}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	long := enqueue(t, others, note{"long"}, driver.EnqueueOptions{Queue: "free"})
	receive(t, started)
	locked, unlock := blockClaims(t, others, "locked")
	locked()
	var pid int
	require.NoError(t,
		direct.QueryRow(t.Context(),
			"select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like "+
				"'%claim%'").Scan(&pid))
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGCONT) })
	id := enqueue(t, others, note{}, driver.EnqueueOptions{Queue: "locked"})
	waitFor(t, func() bool { return queryValue[int](t, others, "select count(*) from awa.workers") == 2 },
		"the worker does not give up")
	// The first time that it gives back what it does not know, it waits for the claim in vain: then the heart beats on.
	waitFor(t, func() bool {
		return queryValue[bool](t, others,
			"select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and "+
				"query like '%release_unknown%')")
	}, "nothing is given back")
	heartbeat := func() time.Time { return queryValue[time.Time](t, others, "select max(heartbeat_at) from awa.workers") }
	before := heartbeat()
	waitFor(t, func() bool { return heartbeat().After(before) }, "no heartbeat")
	unlock() // the backend that does not run has the queue now
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	waitFor(t, func() bool { return ran.of(id) > 0 }, "what the late claim took is held")
	waitForState(t, others, id, "completed")
	close(finish)
	assert.Equal(t, 1, waitForState(t, others, long, "completed").Attempt)
	assert.Equal(t, 1, ran.of(long))
	require.NoError(t, stop())
	assert.Contains(t, log.String(), "attempts were given back whose claim was lost")
	assert.Zero(t, queryValue[int](t, others, "select count(*) from awa.workers"))
}
