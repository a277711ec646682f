package driver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

func TestRoundTrip(t *testing.T) {
	pool := testdb.New(t)
	expiresAt := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	id := enqueue(t, pool, note{"hello"}, driver.EnqueueOptions{
		Queue: "q", Priority: 1, MaxAttempts: 3, Tags: []string{"x"}, Metadata: map[string]int{"n": 1}, GroupKey: "g",
		ExpiresAt: expiresAt,
	})
	jobs := make(chan *driver.Job[note], 1)
	stop := runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		job.SetOutput(map[string]string{"answer": job.Args.Text})
		jobs <- job
		return nil
	}), driver.WorkerConfig{Queues: []driver.QueueConfig{{Name: "q"}}})
	job := receive(t, jobs)
	assert.Equal(t, id, job.ID)
	assert.Positive(t, job.Receipt)
	assert.Equal(t, "q", job.Queue)
	assert.Equal(t, "note", job.Kind)
	assert.Equal(t, note{"hello"}, job.Args)
	assert.Equal(t, 1, job.Attempt)
	assert.Equal(t, 3, job.MaxAttempts)
	assert.Equal(t, 1, job.Priority)
	assert.WithinDuration(t, time.Now(), job.CreatedAt, time.Hour)
	assert.WithinDuration(t, time.Now(), job.ReadyAt, time.Hour)
	assert.Equal(t, []string{"x"}, job.Tags)
	assert.JSONEq(t, `{"n": 1}`, string(job.Metadata))
	assert.Equal(t, "g", job.GroupKey)
	assert.True(t, expiresAt.Equal(*job.ExpiresAt), job.ExpiresAt)

	require.NoError(t, stop())
	info := waitForState(t, pool, id, "completed")
	assert.JSONEq(t, `{"answer": "hello"}`, string(info.Output))
	assert.NotNil(t, info.FinalizedAt)
	assert.Zero(t, queryValue[int](t, pool, "select count(*) from awa.workers"), "the worker has not deregistered")
}

func TestFailuresAreRetriedUntilAttemptsAreUsedUp(t *testing.T) {
	pool := testdb.New(t)
	id := enqueueRetrying(t, pool, note{}, 3)
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		return fmt.Errorf("boom %d\x00\xff", job.Attempt)
	}), driver.WorkerConfig{})
	job := waitForState(t, pool, id, "failed")
	require.Len(t, job.Errors, 3)
	for i, e := range job.Errors {
		assert.Equal(t, i+1, e.Attempt)
		assert.Equal(t, fmt.Sprintf("boom %d\uFFFD\uFFFD", i+1), e.Error)
		assert.WithinDuration(t, time.Now(), e.At, time.Hour)
	}
}

type wrongShape struct{ Text []int }

func (wrongShape) Kind() string { return "note" }

func TestHowAnAttemptFails(t *testing.T) {
	for name, test := range map[string]struct {
		args driver.Args
		run  func(context.Context, *driver.Job[note]) error
		want []string
	}{
		"panic": {note{}, func(context.Context, *driver.Job[note]) error { panic("ouch") },
			[]string{"panic: ouch", "worker_test.go"}},
		"nil panic": {note{}, func(context.Context, *driver.Job[note]) error { panic(nil) },
			[]string{"panic: panic called with nil"}},
		"goexit": {note{}, func(context.Context, *driver.Job[note]) error { runtime.Goexit(); return nil },
			[]string{"runtime.Goexit"}},
		"wrong shape": {wrongShape{[]int{1}}, func(context.Context, *driver.Job[note]) error { return nil },
			[]string{`arguments of a job of kind "note"`, "cannot unmarshal array"}},
		"output": {note{}, func(_ context.Context, job *driver.Job[note]) error { job.SetOutput(func() {}); return nil },
			[]string{"output: json: unsupported type"}},
		"long text": {note{},
			func(context.Context, *driver.Job[note]) error { return errors.New(strings.Repeat("é", 1<<20)) }, []string{"éé"}},
	} {
		t.Run(name, func(t *testing.T) {
			pool := testdb.New(t)
			id := enqueue(t, pool, test.args, driver.EnqueueOptions{MaxAttempts: 1})
			runWorker(t, pool, handle(test.run), driver.WorkerConfig{})
			job := waitForState(t, pool, id, "failed")
			require.Len(t, job.Errors, 1)
			for _, want := range test.want {
				assert.Contains(t, job.Errors[0].Error, want)
			}
			assert.Less(t, len(job.Errors[0].Error), 20_000)
		})
	}
}

// One answer that the server refuses must not take the others of its batch with it.
func TestOneBadAnswerOfABatch(t *testing.T) {
	pool := testdb.New(t)
	const n = 20
	var good []int64
	var bad int64
	for i := range n {
		if i == n/2 {
			bad = enqueue(t, pool, note{"bad"}, driver.EnqueueOptions{MaxAttempts: 1})
		} else {
			good = append(good, enqueue(t, pool, note{"good"}, driver.EnqueueOptions{}))
		}
	}
	var started atomic.Int32
	all := make(chan struct{})
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		if started.Add(1) == n {
			close(all)
		}
		<-all // so that all answers come at once
		job.SetOutput(job.Args.Text)
		if job.Args.Text == "bad" {
			job.SetOutput("\x00") // is JSON, but no jsonb
		}
		return nil
	}), driver.WorkerConfig{})
	for _, id := range good {
		assert.JSONEq(t, `"good"`, string(waitForState(t, pool, id, "completed").Output))
	}
	job := waitForState(t, pool, bad, "failed")
	require.Len(t, job.Errors, 1)
	assert.Contains(t, job.Errors[0].Error, "the completion was refused")
	assert.Contains(t, job.Errors[0].Error, "SQLSTATE 22P05")
}

func TestCompletionInTheHandlersTransaction(t *testing.T) {
	pool := testdb.New(t)
	_, err := pool.Exec(t.Context(), "create table effects (job_id bigint)")
	require.NoError(t, err)
	id := enqueueRetrying(t, pool, note{}, 5)
	receipts := make(chan int64, 5)
	stop := runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		receipts <- job.Receipt
		tx, err := pool.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx))
		if _, err := tx.Exec(ctx, "insert into effects values ($1)", job.ID); err != nil {
			return err
		}
		job.SetOutput(job.Attempt)
		if err := job.CompleteTx(ctx, tx); err != nil {
			return err
		}
		switch job.Attempt {
		case 1:
			return errors.New("changed my mind")
		case 2:
			return nil // forgot to commit
		}
		return tx.Commit(ctx)
	}), driver.WorkerConfig{})
	job := waitForState(t, pool, id, "completed")
	require.NoError(t, stop())
	assert.Equal(t, 3, job.Attempt)
	assert.JSONEq(t, `3`, string(job.Output))
	assert.Equal(t, 1, queryValue[int](t, pool, "select count(*) from effects"))
	require.Len(t, job.Errors, 2)
	assert.Equal(t, "changed my mind", job.Errors[0].Error)
	assert.Contains(t, job.Errors[1].Error, "not committed")

	for range 3 {
		err := driver.NewClient(pool).CompleteTx(t.Context(), pool, id, receive(t, receipts), nil)
		assert.ErrorIs(t, err, driver.ErrStaleReceipt)
	}
}

func TestWakesByNotification(t *testing.T) {
	driver.SleepUntilNotified(t)
	pool := testdb.New(t)
	ran := make(chan struct{}, 1)
	runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error {
		ran <- struct{}{}
		return nil
	}), driver.WorkerConfig{PollInterval: time.Hour, HeartbeatEvery: time.Hour,
		Queues: []driver.QueueConfig{{Name: "some queue"}}})
	waitUntilAsleep(t, pool)
	enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "some queue"})
	receive(t, ran)
}

func TestWorksWithoutNotifications(t *testing.T) {
	tap := &wiretap{onWrite: func(_ *tappedConn, sent []byte) (func() error, error) {
		if bytes.Contains(sent, []byte("listen ")) {
			return nil, errCut
		}
		return nil, nil
	}}
	pool := tap.pool(t, testdb.URL(t))
	ran := make(chan struct{}, 1)
	runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error {
		ran <- struct{}{}
		return nil
	}), driver.WorkerConfig{PollInterval: 10 * time.Millisecond})
	for range 3 {
		enqueue(t, pool, note{}, driver.EnqueueOptions{})
		receive(t, ran)
	}
}

// What is enqueued just after a notification, and not announced, is found soon, however long the worker waits between
// polls.
func TestLooksAgainAtGrowingDistances(t *testing.T) {
	pool := testdb.New(t)
	ran := newTally()
	runWorker(t, pool, handle(ran.handle),
		driver.WorkerConfig{PollInterval: time.Hour, HeartbeatEvery: time.Hour, NoMaintenance: true})
	requireResumed(t, pool, ran)
	waitUntilAsleep(t, pool)
	_, err := pool.Exec(t.Context(), "update awa.settings set notifications = false")
	require.NoError(t, err)
	requireResumed(t, pool, ran)
	requireResumed(t, pool, ran)
}

// More jobs than fit into one claim, or into the slots, are all worked off without a poll or a notification in between.
func TestBacklogIsWorkedOffAtOnce(t *testing.T) {
	driver.SleepUntilNotified(t)
	pool := testdb.New(t)
	const n = 40
	large := strings.Repeat("x", 20_000) // a claim takes 128 KiB
	var args []driver.Args
	for i := range n {
		args = append(args, note{fmt.Sprint(i, large)})
	}
	_, err := driver.NewClient(pool).EnqueueMany(t.Context(), args, driver.EnqueueOptions{})
	require.NoError(t, err)
	ran := make(chan struct{}, n)
	runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error {
		ran <- struct{}{}
		return nil
	}), driver.WorkerConfig{PollInterval: time.Hour, HeartbeatEvery: time.Hour, Slots: 30})
	for range n {
		receive(t, ran)
	}
}

func TestSlotsLimitHandlers(t *testing.T) {
	pool := testdb.New(t)
	const n, slots = 30, 3
	for range n {
		enqueue(t, pool, note{}, driver.EnqueueOptions{})
	}
	var running, most atomic.Int32
	ran := make(chan struct{}, n)
	runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error {
		now := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		runtime.Gosched()
		ran <- struct{}{}
		return nil
	}), driver.WorkerConfig{Slots: slots})
	for range n {
		receive(t, ran)
	}
	assert.LessOrEqual(t, most.Load(), int32(slots))
}

func TestSoftStop(t *testing.T) {
	pool := testdb.New(t)
	first := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	second := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	started, finish := make(chan struct{}), make(chan struct{})
	w, err := driver.NewWorker(pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		close(started)
		<-finish
		return ctx.Err() // must not have ended
	}), driver.WorkerConfig{Slots: 1, Logger: logger(t)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	receive(t, started)
	cancel()
	assert.Empty(t, result)
	close(finish)
	require.NoError(t, receive(t, result))
	waitForState(t, pool, first, "completed")
	waitForState(t, pool, second, "available")
	assert.Zero(t, queryValue[int](t, pool, "select count(*) from awa.workers"))
}

func TestHardStopGivesJobsBack(t *testing.T) {
	pool := testdb.New(t)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	started := make(chan struct{})
	stop := runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		close(started)
		<-ctx.Done()
		return fmt.Errorf("stopped: %w", ctx.Err())
	}), driver.WorkerConfig{StopTimeout: -1})
	receive(t, started)
	require.NoError(t, stop())
	job := waitForState(t, pool, id, "available")
	assert.Zero(t, job.Attempt)
	assert.Empty(t, job.Errors)

	attempts := make(chan int, 1)
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		attempts <- job.Attempt
		return nil
	}), driver.WorkerConfig{})
	assert.Equal(t, 1, receive(t, attempts))
	waitForState(t, pool, id, "completed")
}

// A handler that does not care about its context is left behind, and its job goes to another worker.
func TestStopLeavesStubbornHandlersBehind(t *testing.T) {
	driver.SetTimeouts(t, time.Millisecond, time.Minute, time.Minute)
	pool := testdb.New(t)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	started, finish, finished := make(chan struct{}), make(chan struct{}), make(chan struct{})
	w, err := driver.NewWorker(pool, handle(func(context.Context, *driver.Job[note]) error {
		defer close(finished)
		close(started)
		<-finish
		return nil
	}), driver.WorkerConfig{StopTimeout: -1, Logger: logger(t)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	receive(t, started)
	cancel()
	assert.ErrorContains(t, receive(t, result), "1 handlers have not returned")
	waitForState(t, pool, id, "available")
	close(finish)
	receive(t, finished)
}

// So is one that has returned, but with an output that never becomes JSON: the error of Run counts it.
func TestStopLeavesAStubbornOutputBehind(t *testing.T) {
	driver.SetTimeouts(t, time.Millisecond, time.Minute, time.Minute)
	pool := testdb.New(t)
	enqueue(t, pool, note{}, driver.EnqueueOptions{})
	output := stubborn{started: make(chan struct{}), finish: make(chan struct{}), finished: make(chan struct{})}
	w, err := driver.NewWorker(pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		job.SetOutput(output)
		return nil
	}), driver.WorkerConfig{StopTimeout: -1, Logger: logger(t)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	receive(t, output.started)
	cancel()
	assert.ErrorContains(t, receive(t, result), "1 handlers have not returned")
	close(output.finish)
	receive(t, output.finished)
}

// stubborn is an output that tells when it is encoded, and waits.
type stubborn struct{ started, finish, finished chan struct{} }

func (s stubborn) MarshalJSON() ([]byte, error) {
	close(s.started)
	<-s.finish
	close(s.finished)
	return []byte("1"), nil
}

// Answers are sent in the order of their receipts: the server need not sort them.
func TestAnswersAreInOrder(t *testing.T) {
	pool := testdb.New(t)
	execute(t, pool, `
		create table public.sent (in_order boolean);
		alter function awa.complete_many rename to complete_many_as_before;
		create function awa.complete_many(job_ids bigint[], receipts bigint[], outputs jsonb[] default null)
		returns setof bigint language sql security definer as $$
			insert into public.sent values (receipts = array(select r from unnest(receipts) r order by r));
			select awa.complete_many_as_before(job_ids, receipts, outputs)
		$$`)
	success := func(*driver.Job[note]) error { return nil }
	for _, id := range together(t, pool, texts(60), 1, driver.WorkerConfig{}, success) {
		waitForState(t, pool, id, "completed")
	}
	var sent, inOrder int
	require.NoError(t, pool.QueryRow(t.Context(), "select count(*), count(*) filter (where in_order) from public.sent").
		Scan(&sent, &inOrder))
	assert.Positive(t, sent)
	assert.Equal(t, sent, inOrder)
}

// When the last answers can't be sent the worker stops all the same, says so, and gives the jobs back.
func TestStopWithoutAnAnswer(t *testing.T) {
	driver.SetTimeouts(t, time.Minute, time.Second, time.Minute)
	tap := &wiretap{onWrite: func(_ *tappedConn, sent []byte) (func() error, error) {
		if bytes.Contains(sent, []byte("awa.complete_many(")) {
			return nil, errCut
		}
		return nil, nil
	}}
	pool := tap.pool(t, testdb.URL(t))
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	ran := make(chan struct{}, 1)
	w, err := driver.NewWorker(pool, handle(func(context.Context, *driver.Job[note]) error {
		ran <- struct{}{}
		return nil
	}), driver.WorkerConfig{Logger: logger(t)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	receive(t, ran)
	cancel()
	assert.ErrorContains(t, receive(t, result), "1 answers could not be sent")
	waitForState(t, pool, id, "available")
}

// The server says that an attempt is no longer this worker's: its handler is told.
func TestLostAttemptIsStopped(t *testing.T) {
	pool := testdb.New(t)
	_, err := pool.Exec(t.Context(), `
		create or replace function awa.heartbeat(worker_id bigint) returns setof awa.lost_attempt_row language sql
		as $$ select j.id, j.receipt, 'cancelled' from awa.jobs j where j.state = 'running' $$`)
	require.NoError(t, err)
	causes := make(chan error, 10)
	runWorker(t, pool, handle(func(ctx context.Context, _ *driver.Job[note]) error {
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return ctx.Err()
	}), driver.WorkerConfig{HeartbeatEvery: 20 * time.Millisecond})
	enqueue(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1})
	assert.ErrorIs(t, receive(t, causes), driver.ErrStaleReceipt)
}

// Every connection dies while there is work: the worker gets over it, and every job is completed.
func TestServerCutsAllConnections(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool := (&wiretap{onWrite: func(*tappedConn, []byte) (func() error, error) { return nil, nil }}).pool(t, databaseURL)
	admin := testdb.Connect(t, databaseURL)
	client := driver.NewClient(pool)
	var ran atomic.Int32
	runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error {
		ran.Add(1)
		return nil
	}), driver.WorkerConfig{HeartbeatEvery: 20 * time.Millisecond, PollInterval: 20 * time.Millisecond})
	const n, rounds = 200, 3
	for round := range rounds {
		args := make([]driver.Args, n)
		for i := range args {
			args[i] = note{}
		}
		waitFor(t, func() bool { // the pool may have dead connections
			_, err := client.EnqueueMany(t.Context(), args, driver.EnqueueOptions{})
			return err == nil
		}, "nothing can be enqueued")
		waitFor(t, func() bool { return ran.Load() > int32(round*n) }, "nothing is run")
		_, err := admin.Exec(t.Context(), `
			select pg_terminate_backend(pid) from pg_stat_activity
			 where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`)
		require.NoError(t, err)
	}
	waitFor(t, func() bool {
		counts, err := client.QueueCounts(t.Context(), driver.DefaultQueue)
		return err == nil && counts.Completed >= n*rounds && counts.Available+counts.Running+counts.Retryable == 0
	}, "not all jobs were completed")
}

// The connection is cut after the server has committed a claim, but before the worker has read it. Nobody knows of
// these jobs, and the worker's heartbeats would keep them alive: it must give them back while it works on.
func TestClaimWhoseAnswerIsLost(t *testing.T) {
	// The ways in which a worker's connections run queries.
	for _, mode := range []string{"cache_describe", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) { testClaimWhoseAnswerIsLost(t, mode) })
	}
}

func testClaimWhoseAnswerIsLost(t *testing.T, mode string) {
	databaseURL := testdb.URL(t)
	admin := testdb.Connect(t, databaseURL)
	var armed atomic.Bool
	tap := &wiretap{}
	tap.onWrite = func(c *tappedConn, sent []byte) (func() error, error) {
		if !c.claims {
			return nil, nil
		}
		return func() error {
			if !armed.Load() {
				return nil
			}
			// Has the job been claimed?
			var claimed bool
			err := admin.QueryRow(context.Background(), "select exists (select from awa.lease_claims)").Scan(&claimed)
			if err != nil || !claimed {
				return err
			}
			armed.Store(false)
			return errCut
		}, nil
	}
	pool := tap.pool(t, databaseURL+"&default_query_exec_mode="+mode)
	ran := make(chan int, 1)
	armed.Store(true)
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		ran <- job.Attempt
		return nil
	}), driver.WorkerConfig{HeartbeatEvery: 20 * time.Millisecond, PollInterval: 20 * time.Millisecond, Lease: time.Hour})
	job := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	assert.Equal(t, 1, receive(t, ran))
	waitForState(t, pool, job, "completed")
	assert.False(t, armed.Load(), "no claim was lost")
}

func TestRegistersAgainWhenUnknown(t *testing.T) {
	pool := testdb.New(t)
	ran := make(chan struct{}, 1)
	runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error {
		ran <- struct{}{}
		return nil
	}), driver.WorkerConfig{HeartbeatEvery: time.Hour, PollInterval: 20 * time.Millisecond})
	enqueue(t, pool, note{}, driver.EnqueueOptions{})
	receive(t, ran)
	worker := queryValue[int64](t, pool, "select worker_id from awa.workers")
	_, err := pool.Exec(t.Context(), "select awa.deregister_worker($1)", worker)
	require.NoError(t, err)
	enqueue(t, pool, note{}, driver.EnqueueOptions{})
	receive(t, ran)
	assert.NotEqual(t, worker, queryValue[int64](t, pool, "select worker_id from awa.workers"))
}

// An answer that comes too late is nobody's error.
func TestStaleAnswer(t *testing.T) {
	pool := testdb.New(t)
	started, finish := make(chan int64, 1), make(chan struct{})
	var log bytes.Buffer
	stop := runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		started <- job.Receipt
		<-finish
		return nil
	}), driver.WorkerConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	require.NoError(t, driver.NewClient(pool).CompleteTx(t.Context(), pool, id, receive(t, started), "first"))
	close(finish)
	require.NoError(t, stop())
	assert.JSONEq(t, `"first"`, string(waitForState(t, pool, id, "completed").Output))
	assert.Contains(t, log.String(), "answers were stale")
	assert.NotContains(t, log.String(), "level=ERROR")
}

// A worker needs awa_worker, and nothing else, when it does no maintenance; a producer awa_producer; an operator
// awa_operator.
func TestRolesSuffice(t *testing.T) {
	databaseURL := testdb.URL(t)
	as := func(role string) *pgxpool.Pool {
		cfg, err := pgxpool.ParseConfig(databaseURL)
		require.NoError(t, err)
		cfg.ConnConfig.RuntimeParams["role"] = role
		pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		return pool
	}
	client := driver.NewClient(as("awa_producer"))
	id, err := client.Enqueue(t.Context(), note{}, driver.EnqueueOptions{})
	require.NoError(t, err)
	_, err = client.Job(t.Context(), id)
	assert.ErrorContains(t, err, "permission denied")
	reader := as("awa_reader")
	stop := runWorker(t, as("awa_worker"), handle(func(ctx context.Context, job *driver.Job[note]) error {
		if err := job.SetProgress(ctx, 1); err != nil {
			return err
		}
		if _, err := job.Extend(ctx, time.Minute); err != nil {
			return err
		}
		return verdict(job.Args.Text)
	}), driver.WorkerConfig{NoMaintenance: true})
	waitForState(t, reader, id, "completed")
	for text, state := range map[string]string{"snooze": "scheduled", "discard": "failed", "cancel": "cancelled"} {
		id, inserted, err := client.EnqueueUnique(t.Context(), note{text}, driver.UniqueOptions{}, driver.EnqueueOptions{})
		require.NoError(t, err)
		assert.True(t, inserted)
		waitForState(t, reader, id, state)
	}
	require.NoError(t, stop())
	_, cancelled, err := client.CancelByUniqueKey(t.Context(), note{"snooze"}, driver.UniqueOptions{}, "")
	require.NoError(t, err)
	assert.True(t, cancelled)

	operator := driver.NewClient(as("awa_operator"))
	n, err := operator.RetryWhere(t.Context(), driver.JobFilter{Queue: driver.DefaultQueue})
	require.NoError(t, err)
	assert.EqualValues(t, 3, n)
	require.NoError(t, operator.DropQueue(t.Context(), driver.DefaultQueue, true))
	_, err = client.Cancel(t.Context(), id, "")
	assert.ErrorContains(t, err, "awa_operator to change jobs")
}

func TestNoMaintenance(t *testing.T) {
	pool := testdb.New(t)
	h := handle(func(context.Context, *driver.Job[note]) error { return nil })
	late := enqueue(t, pool, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(time.Hour)})
	_, err := pool.Exec(t.Context(), "update awa.deferred_jobs set run_at = clock_timestamp()")
	require.NoError(t, err)
	stop := runWorker(t, pool, h, driver.WorkerConfig{NoMaintenance: true})
	waitForState(t, pool, enqueue(t, pool, note{}, driver.EnqueueOptions{}), "completed")
	waitForState(t, pool, late, "scheduled")
	require.NoError(t, stop())
	runWorker(t, pool, h, driver.WorkerConfig{})
	waitForState(t, pool, late, "completed")
}

func TestRunFailsWithoutAwa(t *testing.T) {
	pool := (&wiretap{onWrite: func(*tappedConn, []byte) (func() error, error) { return nil, nil }}).pool(t,
		testdb.EmptyURL(t))
	w, err := driver.NewWorker(pool, driver.NewHandlers(), driver.WorkerConfig{Logger: logger(t)})
	require.NoError(t, err)
	assert.ErrorContains(t, w.Run(t.Context()), "does not exist")
}

func TestWorkerConfig(t *testing.T) {
	cfg := driver.WorkerConfig{}.WithDefaults()
	assert.Equal(t, []driver.QueueConfig{{Name: "default", Slots: 100, Weight: 1}}, cfg.Queues)
	assert.Equal(t, 100, cfg.Slots)
	cfg = driver.WorkerConfig{Slots: 10,
		Queues: []driver.QueueConfig{{Name: "a", Slots: 3, Weight: 2}, {Name: "b", Slots: 30}}}.WithDefaults()
	assert.Equal(t, []driver.QueueConfig{{Name: "a", Slots: 3, Weight: 2}, {Name: "b", Slots: 10, Weight: 1}}, cfg.Queues)
	assert.Equal(t, time.Second, cfg.PollInterval)
	assert.Equal(t, 10*time.Second, cfg.HeartbeatEvery)
	assert.Equal(t, 30*time.Second, cfg.StopTimeout)
	assert.NotEmpty(t, cfg.Name)
	assert.NotNil(t, cfg.Logger)
	assert.Equal(t, time.Second, driver.WorkerConfig{Lease: 3 * time.Second}.WithDefaults().HeartbeatEvery)

	for name, cfg := range map[string]driver.WorkerConfig{
		"queue":     {Queues: []driver.QueueConfig{{Name: strings.Repeat("q", 201)}}},
		"no name":   {Queues: []driver.QueueConfig{{}}},
		"twice":     {Queues: []driver.QueueConfig{{Name: "a"}, {Name: "b"}, {Name: "a"}}},
		"its slots": {Queues: []driver.QueueConfig{{Name: "a", Slots: -1}}},
		"weight":    {Queues: []driver.QueueConfig{{Name: "a", Weight: -1}}},
		"heavy":     {Queues: []driver.QueueConfig{{Name: "a", Weight: 1001}}},
		"slots":     {Slots: 10_001},
		"negative":  {Slots: -1},
		"lease":     {Lease: time.Microsecond},
		"poll":      {PollInterval: -1},
		"name":      {Name: strings.Repeat("n", 201)},
		"heartbeat": {HeartbeatEvery: -1},
		"too slow":  {Lease: time.Second, HeartbeatEvery: time.Second},
		"nothing":   {Middleware: []driver.Middleware{nil}},
	} {
		_, err := driver.NewWorker(nil, driver.NewHandlers(), cfg)
		assert.Error(t, err, name)
		assert.NotContains(t, err.Error(), "pool", name)
	}
}

func TestWrongHandlersPanic(t *testing.T) {
	var h driver.Handlers
	run := func(context.Context, *driver.Job[note]) error { return nil }
	others := func(context.Context, *driver.RawJob) error { return nil }
	driver.Handle(&h, run)
	driver.HandleOthers(&h, others)
	for name, wrong := range map[string]func(){
		"twice":          func() { driver.Handle(&h, run) },
		"others twice":   func() { driver.HandleOthers(&h, others) },
		"nil":            func() { driver.Handle[note](driver.NewHandlers(), nil) },
		"others nil":     func() { driver.HandleOthers(driver.NewHandlers(), nil) },
		"nil middleware": func() { driver.Handle(driver.NewHandlers(), run, nil) },
		"no kind":        func() { driver.Handle(&h, func(context.Context, *driver.Job[noKind]) error { return nil }) },
	} {
		assert.Panics(t, wrong, name)
	}
}

type noKind struct{}

func (noKind) Kind() string { return "" }

func TestNewWorkerOfNothing(t *testing.T) {
	pool := testdb.New(t)
	_, err := driver.NewWorker(nil, driver.NewHandlers(), driver.WorkerConfig{})
	assert.ErrorContains(t, err, "the pool is nil")
	_, err = driver.NewWorker(pool, nil, driver.WorkerConfig{})
	assert.ErrorContains(t, err, "call NewHandlers")
}
