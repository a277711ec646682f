package driver_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/gen"
	"github.com/awa-pg/awa/internal/testdb"
)

func TestCancel(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	running := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	claim(t, pool, 1)
	for state, id := range map[string]int64{
		"running":   running,
		"available": enqueue(t, pool, note{}, driver.EnqueueOptions{}),
		"scheduled": enqueue(t, pool, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(time.Hour)}),
	} {
		was, err := client.Cancel(t.Context(), id, "why not")
		require.NoError(t, err)
		assert.Equal(t, state, was)
		job := waitForState(t, pool, id, "cancelled")
		require.Len(t, job.Errors, 1)
		assert.Equal(t, "why not", job.Errors[0].Error)
		assert.Equal(t, "postgres", job.Errors[0].By)
		_, err = client.Cancel(t.Context(), id, "")
		assert.ErrorIs(t, err, driver.ErrWrongState)
	}
}

func TestRetry(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1})
	_, err := client.Retry(t.Context(), id, driver.RetryOptions{})
	assert.ErrorIs(t, err, driver.ErrWrongState)
	assert.Equal(t, "failed", fails(t, pool))
	was, err := client.Retry(t.Context(), id, driver.RetryOptions{})
	require.NoError(t, err)
	assert.Equal(t, "failed", was)
	job := waitForState(t, pool, id, "available")
	assert.Zero(t, job.Attempt)
	assert.Len(t, job.Errors, 1)

	later := enqueue(t, pool, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(time.Hour)})
	was, err = client.Retry(t.Context(), later, driver.RetryOptions{})
	require.NoError(t, err)
	assert.Equal(t, "scheduled", was)
	waitForState(t, pool, later, "available")

	runAt := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	was, err = client.Retry(t.Context(), retriedLater(t, pool),
		driver.RetryOptions{Queue: "elsewhere", Priority: 1, RunAt: runAt})
	require.NoError(t, err)
	assert.Equal(t, "cancelled", was)
	jobs, err := client.ListJobs(t.Context(), driver.ListFilter{Queue: "elsewhere"})
	require.NoError(t, err)
	require.Len(t, jobs, 1)
	assert.Equal(t, "scheduled", jobs[0].State)
	assert.Equal(t, 1, jobs[0].Priority)
	assert.True(t, runAt.Equal(jobs[0].RunAt))
	for _, bad := range []driver.RetryOptions{
		{Priority: 5}, {RunAt: time.Unix(1<<40, 0)}, {Queue: strings.Repeat("q", 201)},
	} {
		_, err = client.Retry(t.Context(), later, bad)
		assert.Error(t, err)
	}
}

func TestDiscardJob(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	was, err := client.DiscardJob(t.Context(), id, "looks odd")
	require.NoError(t, err)
	assert.Equal(t, "available", was)
	waitForState(t, pool, id, "dead")
	_, err = client.DiscardJob(t.Context(), id, "")
	assert.ErrorIs(t, err, driver.ErrWrongState)
}

// retriedLater returns a job that was cancelled.
func retriedLater(t *testing.T, pool *pgxpool.Pool) int64 {
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	_, err := driver.NewClient(pool).Cancel(t.Context(), id, "")
	require.NoError(t, err)
	return id
}

func TestRetryOfAJobWhoseKeyIsHeld(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	first, _, err := client.EnqueueUnique(t.Context(), note{}, driver.UniqueOptions{}, driver.EnqueueOptions{})
	require.NoError(t, err)
	_, err = client.Cancel(t.Context(), first, "")
	require.NoError(t, err)
	second, inserted, err := client.EnqueueUnique(t.Context(), note{}, driver.UniqueOptions{}, driver.EnqueueOptions{})
	require.NoError(t, err)
	require.True(t, inserted)
	_, err = client.Retry(t.Context(), first, driver.RetryOptions{})
	assert.ErrorIs(t, err, driver.ErrUniqueKeyHeld)
	n, err := client.RetryWhere(t.Context(), driver.JobFilter{State: "cancelled"})
	require.NoError(t, err)
	assert.Zero(t, n)
	_, err = client.Cancel(t.Context(), second, "")
	require.NoError(t, err)
	_, err = client.Retry(t.Context(), first, driver.RetryOptions{})
	require.NoError(t, err)
}

func TestSetPriorityAndMove(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	for state, runAt := range map[string]time.Time{"available": {}, "scheduled": time.Now().Add(time.Hour)} {
		id := enqueue(t, pool, note{state}, driver.EnqueueOptions{RunAt: runAt})
		was, err := client.SetPriority(t.Context(), id, 1)
		require.NoError(t, err)
		assert.Equal(t, state, was)
		was, err = client.Move(t.Context(), id, "elsewhere")
		require.NoError(t, err)
		assert.Equal(t, state, was)
		job := waitForState(t, pool, id, state)
		assert.Equal(t, 1, job.Priority)
		assert.Equal(t, "elsewhere", job.Queue)
		for _, priority := range []int{0, 5, 1 << 40} {
			_, err = client.SetPriority(t.Context(), id, priority)
			assert.ErrorContains(t, err, "SQLSTATE 22023")
		}
		_, err = client.Move(t.Context(), id, "")
		assert.ErrorContains(t, err, "SQLSTATE 22023")
	}
	running := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	claim(t, pool, 1)
	_, err := client.SetPriority(t.Context(), running, 1)
	assert.ErrorIs(t, err, driver.ErrWrongState)
	_, err = client.Move(t.Context(), running, "elsewhere")
	assert.ErrorIs(t, err, driver.ErrWrongState)
}

func TestReschedule(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	later := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	for state, runAt := range map[string]time.Time{"available": {}, "scheduled": time.Now().Add(time.Hour)} {
		id := enqueue(t, pool, note{state}, driver.EnqueueOptions{RunAt: runAt})
		was, err := client.Reschedule(t.Context(), id, later, note{"other"})
		require.NoError(t, err)
		assert.Equal(t, state, was)
		job := waitForState(t, pool, id, "scheduled")
		assert.True(t, later.Equal(job.RunAt))
		assert.JSONEq(t, `{"text": "other"}`, string(job.Args))
		for _, never := range []time.Time{time.Unix(1<<62, 0), time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)} {
			_, err = client.Reschedule(t.Context(), id, never, nil)
			assert.Error(t, err)
		}
		_, err = client.Reschedule(t.Context(), id, later, make(chan int))
		assert.ErrorContains(t, err, "args")
		was, err = client.Reschedule(t.Context(), id, time.Time{}, nil)
		require.NoError(t, err)
		assert.Equal(t, "scheduled", was)
		assert.JSONEq(t, `{"text": "other"}`, string(waitForState(t, pool, id, "available").Args))
	}
	claim(t, pool, 1)
	running := queryValue[int64](t, pool, "select id from awa.jobs where state = 'running'")
	_, err := client.Reschedule(t.Context(), running, later, nil)
	assert.ErrorIs(t, err, driver.ErrWrongState)
	unique, _, err := client.EnqueueUnique(t.Context(), note{}, driver.UniqueOptions{}, driver.EnqueueOptions{})
	require.NoError(t, err)
	_, err = client.Reschedule(t.Context(), unique, later, note{"other"})
	assert.ErrorIs(t, err, driver.ErrInvalidArgument)
}

// The change is decided when it commits. Then a claim that had begun before has taken the job.
func TestJobThatMovesOnMeanwhile(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	claimed, err := gen.New().Claim(t.Context(), tx, gen.ClaimParams{Queue: driver.DefaultQueue, MaxJobs: 1})
	require.NoError(t, err)
	require.Len(t, claimed, 1)

	result := make(chan error, 1)
	go func() {
		_, err := client.SetPriority(t.Context(), id, 1)
		result <- err
	}()
	waitFor(t, func() bool {
		return queryValue[bool](t, pool, `
			select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
			and query = 'commit')`)
	}, "the change does not wait for the claim")
	require.NoError(t, tx.Commit(t.Context()))
	err = receive(t, result)
	assert.ErrorIs(t, err, driver.ErrMovedOn)
	assert.ErrorContains(t, err, "hint: Try again")
	assert.Equal(t, 2, waitForState(t, pool, id, "running").Priority)
}

func TestChangesOfManyJobs(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	for range 3 {
		enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "a"})
		enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "b"})
	}
	scheduled := enqueue(t, pool, otherKind{}, driver.EnqueueOptions{Queue: "b", RunAt: time.Now().Add(time.Hour)})
	for name, test := range map[string]driver.JobFilter{
		"nothing":  {},
		"state":    {State: "completed"},
		"max jobs": {Queue: "a", MaxJobs: 10_001},
		"negative": {Queue: "a", MaxJobs: -1},
	} {
		for _, call := range []func(driver.JobFilter) (int64, error){
			func(f driver.JobFilter) (int64, error) { return client.CancelWhere(t.Context(), f) },
			func(f driver.JobFilter) (int64, error) { return client.RetryWhere(t.Context(), f) },
			func(f driver.JobFilter) (int64, error) { return client.PurgeDLQ(t.Context(), f) },
		} {
			_, err := call(test)
			assert.ErrorContains(t, err, "SQLSTATE 22023", name)
		}
	}

	cancel := func(want int64, filter driver.JobFilter) {
		t.Helper()
		n, err := client.CancelWhere(t.Context(), filter)
		require.NoError(t, err)
		assert.Equal(t, want, n)
	}
	cancel(0, driver.JobFilter{Before: time.Now().Add(-time.Hour)})
	cancel(1, driver.JobFilter{Kind: "other", Before: time.Now().Add(time.Hour)})
	waitForState(t, pool, scheduled, "cancelled")
	cancel(2, driver.JobFilter{Queue: "a", MaxJobs: 2})
	cancel(1, driver.JobFilter{Queue: "a"})
	cancel(3, driver.JobFilter{State: "available"})

	n, err := client.RetryWhere(t.Context(), driver.JobFilter{Queue: "b", Kind: "note"})
	require.NoError(t, err)
	assert.EqualValues(t, 3, n)
	counts, err := client.QueueCounts(t.Context(), "b")
	require.NoError(t, err)
	assert.EqualValues(t, 3, counts.Available)
	assert.EqualValues(t, 1, counts.Cancelled)
}

func TestPurgeDLQ(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	id := enqueueConfigured(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1}, `{"dead_letter": true}`)
	assert.Equal(t, "dead", fails(t, pool))
	n, err := client.PurgeDLQ(t.Context(), driver.JobFilter{Kind: "other"})
	require.NoError(t, err)
	assert.Zero(t, n)
	n, err = client.PurgeDLQ(t.Context(), driver.JobFilter{State: "dead"})
	require.NoError(t, err)
	assert.EqualValues(t, 1, n)
	_, err = client.Job(t.Context(), id)
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
}

// A deploy configures its queues before anything is enqueued to them.
func TestConfigureQueue(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	require.NoError(t, client.ConfigureQueue(t.Context(), "q", driver.QueueSettings{
		Lease: driver.Set(13 * time.Second), DefaultMaxAttempts: driver.Set(7),
		FailedRetention: driver.Set(90 * 24 * time.Hour)}))
	require.NoError(t, client.PauseQueue(t.Context(), "q"))
	require.NoError(t, client.ConfigureQueue(t.Context(), "q", driver.QueueSettings{
		DefaultMaxAttempts: driver.Default[int](), Deadline: driver.Set(1500 * time.Millisecond)}))
	require.NoError(t, client.ConfigureQueue(t.Context(), "q", driver.QueueSettings{}))
	assert.Equal(t, "00:00:13 00:00:01.5 - 2160:00:00 t", queryValue[string](t, pool,
		"select concat_ws(' ', lease, deadline, coalesce(default_max_attempts::text, '-'), failed_retention, paused_at is "+
			"not null) from awa.queue_settings"))
	counts, err := client.AllQueueCounts(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []driver.QueueCounts{{Queue: "q"}}, counts)

	enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "q"})
	claims := func() int {
		jobs, err := gen.New().Claim(t.Context(), pool, gen.ClaimParams{Queue: "q", MaxJobs: 1})
		require.NoError(t, err)
		return len(jobs)
	}
	assert.Zero(t, claims())
	require.NoError(t, client.ResumeQueue(t.Context(), "q"))
	assert.Equal(t, 1, claims())

	assert.ErrorIs(t, client.ResumeQueue(t.Context(), "unknown"), driver.ErrNoSuchQueue)
	assert.ErrorIs(t, client.PauseQueue(t.Context(), ""), driver.ErrInvalidArgument)
	for name, settings := range map[string]driver.QueueSettings{"negative": {Lease: driver.Set(-time.Second)},
		"too large": {Shards: driver.Set(65)}, "zero is a value": {MaxDepth: driver.Set(0)}} {
		assert.ErrorIs(t, client.ConfigureQueue(t.Context(), "new", settings), driver.ErrInvalidArgument, name)
	}
	_, err = client.QueueCounts(t.Context(), "new")
	assert.ErrorIs(t, err, driver.ErrNoSuchQueue)

	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		require.NoError(t, client.ConfigureQueueTx(t.Context(), tx, "other",
			driver.QueueSettings{Lease: driver.Set(time.Second)}))
		require.NoError(t, client.PauseQueueTx(t.Context(), tx, "other"))
		require.NoError(t, client.ResumeQueueTx(t.Context(), tx, "other"))
		return errors.New("rollback")
	})
	require.ErrorContains(t, err, "rollback")
	_, err = client.QueueCounts(t.Context(), "other")
	assert.ErrorIs(t, err, driver.ErrNoSuchQueue)
}

// The orders of groups that the driver names are those that the server knows.
func TestGroupOrders(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	orders := []string{driver.OrderStart, driver.OrderStrict, driver.OrderHalt}
	for _, order := range orders {
		require.NoError(t, client.ConfigureQueue(t.Context(), "q", driver.QueueSettings{GroupOrder: driver.Set(order)}))
		queues, err := client.ListQueues(t.Context())
		require.NoError(t, err)
		require.Equal(t, order, queues[0].GroupOrder)
	}
	err := client.ConfigureQueue(t.Context(), "q", driver.QueueSettings{GroupOrder: driver.Set("other")})
	require.ErrorIs(t, err, driver.ErrInvalidArgument)
	for _, order := range orders {
		require.ErrorContains(t, err, order)
	}
}

// A setting that is left out stays, one that is taken away has its default, and zero is a value of its own: for each
// setting that the server knows.
func TestQueueSettingsAreThreeThings(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	set := driver.QueueSettings{
		DefaultPriority: driver.Set(3), DefaultMaxAttempts: driver.Set(7), Lease: driver.Set(90 * time.Second),
		Deadline: driver.Set(time.Hour), BackoffBase: driver.Set(5 * time.Second), BackoffMax: driver.Set(time.Hour),
		DeadLetter: driver.Set(true), AgingInterval: driver.Set(30 * time.Second),
		FailedRetention: driver.Set(time.Hour), DLQRetention: driver.Set(time.Hour),
		CompletedRetention: driver.Set(time.Hour), Shards: driver.Set(1), MaxDepth: driver.Set(1000),
		GroupMaxRunning: driver.Set(1), MaxRunning: driver.Set(3), GroupOrder: driver.Set(driver.OrderStrict),
		GroupTurns: driver.Set(true),
		Rate:       driver.Set(driver.Rate{Jobs: 100, Per: time.Minute}),
		GroupRate:  driver.Set(driver.Rate{Jobs: 10, Per: time.Minute}),
	}
	unset := driver.QueueSettings{
		DefaultPriority: driver.Default[int](), DefaultMaxAttempts: driver.Default[int](),
		Lease: driver.Default[time.Duration](), Deadline: driver.Default[time.Duration](),
		BackoffBase: driver.Default[time.Duration](), BackoffMax: driver.Default[time.Duration](),
		DeadLetter: driver.Default[bool](), AgingInterval: driver.Default[time.Duration](),
		FailedRetention: driver.Default[time.Duration](), DLQRetention: driver.Default[time.Duration](),
		CompletedRetention: driver.Default[time.Duration](), Shards: driver.Default[int](),
		MaxDepth: driver.Default[int](), GroupMaxRunning: driver.Default[int](), MaxRunning: driver.Default[int](),
		Rate: driver.Default[driver.Rate](), GroupRate: driver.Default[driver.Rate](),
		GroupOrder: driver.Default[string](), GroupTurns: driver.Default[bool](),
	}
	named := func() int { // settings that have a value
		return queryValue[int](t, pool, `select count(*)
			from awa.queue_settings s cross join jsonb_each(to_jsonb(s)) v join awa._known_settings k on k.of_queue and
				k.name = v.key
			where v.value <> 'null'`)
	}
	known := queryValue[int](t, pool, "select count(*) from awa._known_settings k where k.of_queue")
	require.NoError(t, client.ConfigureQueue(t.Context(), "q", set))
	require.Equal(t, known, named(), "each setting has a field")
	require.NoError(t, client.ConfigureQueue(t.Context(), "q", driver.QueueSettings{}))
	require.Equal(t, known, named(), "those that are left out stay")
	require.NoError(t, client.ConfigureQueue(t.Context(), "q", driver.QueueSettings{DeadLetter: driver.Set(false)}))
	require.Equal(t, known, named())
	require.Equal(t, "false", queryValue[string](t, pool, "select dead_letter::text from awa.queue_settings"))
	require.NoError(t, client.ConfigureQueue(t.Context(), "q", unset))
	require.Zero(t, named(), "those that are taken away are gone")
}

// What the server returns of settings can be read into those that change them: each has a field, and a copy of a
// queue's settings, or of the installation's, is what they were.
func TestSettingsThereAndBack(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	require.NoError(t, client.ConfigureQueue(t.Context(), "a", driver.QueueSettings{
		Lease: driver.Set(90 * time.Second), FailedRetention: driver.Set(90 * 24 * time.Hour),
		DeadLetter: driver.Set(true), MaxRunning: driver.Set(3),
		Rate: driver.Set(driver.Rate{Jobs: 100, Per: 1500 * time.Millisecond, Burst: 7}),
	}))
	const row = "select (to_jsonb(q) - 'queue')::text from awa.list_queues() q where q.queue = $1"
	var settings driver.QueueSettings
	require.NoError(t, json.Unmarshal([]byte(queryValue[string](t, pool, row, "a")), &settings))
	lease, ok := settings.Lease.Value()
	assert.True(t, ok)
	assert.Equal(t, 90*time.Second, lease)
	rate, _ := settings.Rate.Value()
	assert.Equal(t, driver.Rate{Jobs: 100, Per: 1500 * time.Millisecond, Burst: 7}, rate)
	_, ok = settings.MaxDepth.Value()
	assert.False(t, ok)
	assert.False(t, settings.MaxDepth.IsZero(), "it is taken away")
	encoded, err := json.Marshal(settings)
	require.NoError(t, err)
	var again driver.QueueSettings
	require.NoError(t, json.Unmarshal(encoded, &again))
	assert.Equal(t, settings, again)
	require.NoError(t, client.ConfigureQueue(t.Context(), "b", settings))
	queues, err := client.ListQueues(t.Context())
	require.NoError(t, err)
	a, b := queues[0], queues[1]
	b.Queue, b.Counts.Queue, b.ChangedAt = a.Queue, a.Counts.Queue, a.ChangedAt
	assert.Equal(t, a, b)

	require.NoError(t, client.Configure(t.Context(), driver.Settings{
		ClaimWait: driver.Set(time.Second), WarnFailedShare: driver.Set(0.5), Notifications: driver.Set(false)}))
	before, err := client.Configuration(t.Context())
	require.NoError(t, err)
	var all driver.Settings
	require.NoError(t, json.Unmarshal([]byte(queryValue[string](t, pool,
		"select jsonb_object_agg(c.name, c.value)::text from awa.configuration() c")), &all))
	for i := range reflect.TypeFor[driver.Settings]().NumField() {
		assert.False(t, reflect.ValueOf(all).Field(i).IsZero(), "each field is a setting")
	}
	assert.Equal(t, reflect.TypeFor[driver.Settings]().NumField(),
		queryValue[int](t, pool, "select count(*) from awa.configuration()"), "each setting has a field")
	require.NoError(t, client.Configure(t.Context(), driver.Settings{
		ClaimWait: driver.Default[time.Duration](), WarnFailedShare: driver.Default[float64](),
		Notifications: driver.Default[bool]()}))
	require.NoError(t, client.Configure(t.Context(), all))
	after, err := client.Configuration(t.Context())
	require.NoError(t, err)
	assert.Equal(t, before, after)

	assert.Error(t, json.Unmarshal([]byte(`{"lease": true}`), &settings))
	assert.Error(t, json.Unmarshal([]byte(`{"rate": {"jobs": 1, "per": "no time"}}`), &settings))
}

// Two releases, with other slots and weights, restart by turns: none changes what an operator has set meanwhile.
func TestWorkersChangeNoSettings(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	settings := func() string {
		return queryValue[string](t, pool, "select to_jsonb(s)::text from awa.queue_settings s")
	}
	done := make(chan struct{})
	handlers := handle(func(context.Context, *driver.Job[note]) error { done <- struct{}{}; return nil })
	releases := []driver.WorkerConfig{
		{Slots: 3, Lease: 20 * time.Second, Queues: []driver.QueueConfig{{Name: driver.DefaultQueue, Slots: 2}}},
		{Slots: 70, Queues: []driver.QueueConfig{{Name: driver.DefaultQueue, Slots: 50, Weight: 9}}},
	}
	for i, operators := range []driver.QueueSettings{
		{MaxDepth: driver.Set(1000), Lease: driver.Set(5 * time.Minute)}, {MaxDepth: driver.Set(10)},
		{MaxDepth: driver.Default[int]()}, {Lease: driver.Default[time.Duration]()},
	} {
		require.NoError(t, client.ConfigureQueue(t.Context(), driver.DefaultQueue, operators))
		want := settings()
		for range 2 { // one release begins before the other one ends
			stop := runWorker(t, pool, handlers, releases[i%2])
			enqueue(t, pool, note{}, driver.EnqueueOptions{})
			<-done
			stopOther := runWorker(t, pool, handlers, releases[(i+1)%2])
			require.NoError(t, stop())
			enqueue(t, pool, note{}, driver.EnqueueOptions{})
			<-done
			require.NoError(t, stopOther())
			require.Equal(t, want, settings())
		}
	}
}

// Jobs of a group are found, listed, cancelled, retried and deleted by it.
func TestJobsByGroup(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	completed := enqueue(t, pool, note{}, driver.EnqueueOptions{GroupKey: "acme"})
	job := claim(t, pool, 1)[0]
	require.NoError(t, client.CompleteTx(t.Context(), pool, job.JobID, job.Receipt, nil))
	waits := enqueue(t, pool, note{}, driver.EnqueueOptions{GroupKey: "acme"})
	other := enqueue(t, pool, note{}, driver.EnqueueOptions{GroupKey: "other"})

	ids, _, err := client.ScanJobs(t.Context(), driver.JobFilter{GroupKey: "acme"}, 0)
	require.NoError(t, err)
	assert.Equal(t, []int64{waits, completed}, ids)
	jobs, err := client.ListJobs(t.Context(), driver.ListFilter{GroupKey: "acme", State: "available"})
	require.NoError(t, err)
	require.Len(t, jobs, 1)
	assert.Equal(t, []any{waits, "acme"}, []any{jobs[0].ID, jobs[0].GroupKey})
	says, err := client.ExplainJob(t.Context(), waits)
	require.NoError(t, err)
	assert.Contains(t, says, "Its group is acme.")

	acme := driver.JobFilter{GroupKey: "acme"}
	for name, change := range map[string]func() (int64, error){
		"1 cancel": func() (int64, error) { return client.CancelWhere(t.Context(), acme) },
		"2 retry":  func() (int64, error) { return client.RetryWhere(t.Context(), acme) },
		"3 purge":  func() (int64, error) { return client.PurgeDLQ(t.Context(), acme) },
		"4 delete": func() (int64, error) { return client.DeleteWhere(t.Context(), acme) },
	} {
		_, err := change()
		require.NoError(t, err, name)
	}
	_, err = client.Job(t.Context(), completed)
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
	waitForState(t, pool, other, "available")
	_, err = client.CancelWhere(t.Context(), driver.JobFilter{GroupKey: strings.Repeat("g", 201)})
	assert.ErrorIs(t, err, driver.ErrInvalidArgument)
	assert.ErrorContains(t, err, "group_key")
}

// Before a deploy a queue is drained: no job begins, and the caller learns when none runs.
func TestDrainQueue(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	enqueue(t, pool, note{}, driver.EnqueueOptions{})
	enqueue(t, pool, note{}, driver.EnqueueOptions{})
	job := claim(t, pool, 1)[0]
	running, err := client.DrainQueue(t.Context(), driver.DefaultQueue)
	require.NoError(t, err)
	assert.EqualValues(t, 1, running)
	assert.Zero(t, queryValue[int](t, pool, "select count(*) from awa.claim($1)", driver.DefaultQueue))
	require.NoError(t, client.CompleteTx(t.Context(), pool, job.JobID, job.Receipt, nil))
	running, err = client.DrainQueue(t.Context(), driver.DefaultQueue)
	require.NoError(t, err)
	assert.Zero(t, running)
	require.NoError(t, client.ResumeQueue(t.Context(), driver.DefaultQueue))
	assert.Len(t, claim(t, pool, 1), 1)
	_, err = client.DrainQueue(t.Context(), "mistyped")
	assert.ErrorIs(t, err, driver.ErrNoSuchQueue)
	_, err = client.DrainQueue(t.Context(), "")
	assert.ErrorIs(t, err, driver.ErrInvalidArgument)
}

// Settings of the installation are changed by a call, and those that are not named stay.
func TestConfigure(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	defaults := driver.Configuration{
		ClaimWait: 5 * time.Second, ClaimBytes: 184_320, SegmentBytes: 1 << 30, SegmentAge: 8 * time.Hour,
		CompletedRetention: 24 * time.Hour,
		CarryMax:           100_000, PruneWait: 20 * time.Millisecond, Notifications: true,
		WarnReadyAge: 5 * time.Minute, WarnFailedShare: 0.25, WarnSilence: time.Minute,
		WarnGroupAge: 15 * time.Minute, WarnTransactionAge: time.Hour,
	}
	configuration := func() driver.Configuration {
		c, err := client.Configuration(t.Context())
		require.NoError(t, err)
		return c
	}
	assert.Equal(t, defaults, configuration())
	require.NoError(t, client.Configure(t.Context(), driver.Settings{
		ClaimWait: driver.Set(1500 * time.Millisecond), ClaimBytes: driver.Set(1000),
		SegmentBytes: driver.Set(int64(1 << 40)), SegmentAge: driver.Set(26*time.Hour + 500*time.Millisecond),
		CompletedRetention: driver.Set(30 * 24 * time.Hour), CarryMax: driver.Set(7),
		PruneWait: driver.Set(time.Millisecond), Notifications: driver.Set(false),
		WarnReadyAge: driver.Set(90 * time.Second), WarnFailedShare: driver.Set(0.5),
		WarnSilence: driver.Set(2 * time.Minute), WarnGroupAge: driver.Set(20 * time.Minute),
		WarnTransactionAge: driver.Set(48 * time.Hour),
	}))
	changed := driver.Configuration{
		ClaimWait: 1500 * time.Millisecond, ClaimBytes: 1000, SegmentBytes: 1 << 40,
		SegmentAge:         26*time.Hour + 500*time.Millisecond,
		CompletedRetention: 30 * 24 * time.Hour, CarryMax: 7, PruneWait: time.Millisecond,
		WarnReadyAge: 90 * time.Second, WarnFailedShare: 0.5, WarnSilence: 2 * time.Minute,
		WarnGroupAge: 20 * time.Minute, WarnTransactionAge: 48 * time.Hour,
	}
	assert.Equal(t, changed, configuration())
	require.NoError(t, client.Configure(t.Context(), driver.Settings{}))
	assert.Equal(t, changed, configuration(), "those that are left out stay")
	require.NoError(t, client.Configure(t.Context(), driver.Settings{CarryMax: driver.Set(0)}))
	changed.CarryMax = 0
	assert.Equal(t, changed, configuration(), "zero is a value")
	require.NoError(t, client.Configure(t.Context(), driver.Settings{CarryMax: driver.Default[int]()}))
	changed.CarryMax = defaults.CarryMax
	assert.Equal(t, changed, configuration())

	assert.ErrorIs(t, client.Configure(t.Context(), driver.Settings{ClaimWait: driver.Set(-time.Second)}),
		driver.ErrInvalidArgument)
	assert.ErrorContains(t, client.Configure(t.Context(), driver.Settings{WarnFailedShare: driver.Set(math.NaN())}),
		"settings")
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		require.NoError(t, client.ConfigureTx(t.Context(), tx, driver.Settings{CarryMax: driver.Set(1)}))
		return errors.New("rollback")
	})
	require.ErrorContains(t, err, "rollback")
	assert.Equal(t, changed, configuration())

	_, err = pool.Exec(t.Context(),
		"begin; set local session_replication_role = replica; delete from awa.settings; commit")
	require.NoError(t, err)
	_, err = client.Configuration(t.Context())
	assert.ErrorContains(t, err, "configuration: carry_max", "a missing row is no configuration of zeros")
}

func TestDropQueue(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "q"})
	assert.ErrorIs(t, client.DropQueue(t.Context(), "q", false), driver.ErrWrongState)
	require.NoError(t, client.DropQueue(t.Context(), "q", true))
	_, err := client.Job(t.Context(), id)
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
	assert.ErrorIs(t, client.DropQueue(t.Context(), "q", false), driver.ErrNoSuchQueue)
}

func TestDeleteJob(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1})
	_, err := client.DeleteJob(t.Context(), id)
	assert.ErrorIs(t, err, driver.ErrWrongState)
	assert.Equal(t, "failed", fails(t, pool))
	was, err := client.DeleteJob(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, "failed", was)
	_, err = client.Job(t.Context(), id)
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
	_, err = client.DeleteJob(t.Context(), id)
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
	counts, err := client.QueueCounts(t.Context(), driver.DefaultQueue)
	require.NoError(t, err)
	assert.Zero(t, counts.Failed)
}

// Jobs of a customer are found, cancelled and deleted by a tag, or by what their arguments contain.
func TestJobsByTagAndArguments(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	completed := enqueue(t, pool, note{"a"}, driver.EnqueueOptions{Tags: []string{"eu", "one"}})
	job := claim(t, pool, 1)[0]
	require.NoError(t, client.CompleteTx(t.Context(), pool, job.JobID, job.Receipt, nil))
	waits := enqueue(t, pool, note{"a"}, driver.EnqueueOptions{Tags: []string{"eu"}})
	other := enqueue(t, pool, note{"b"}, driver.EnqueueOptions{Tags: []string{"us"}})

	text := map[string]string{"text": "a"}
	for _, filter := range []driver.JobFilter{{Tag: "eu"}, {Contains: text},
		{Tag: "eu", Contains: text, Kind: "note", Queue: driver.DefaultQueue, Before: time.Now().Add(time.Hour)}} {
		ids, next, err := client.ScanJobs(t.Context(), filter, 0)
		require.NoError(t, err)
		assert.Zero(t, next)
		assert.Equal(t, []int64{waits, completed}, ids)
		jobs, err := client.ListJobs(t.Context(), driver.ListFilter{Tag: filter.Tag, Contains: filter.Contains})
		require.NoError(t, err)
		require.Len(t, jobs, 2)
		assert.Equal(t, []int64{waits, completed}, []int64{jobs[0].ID, jobs[1].ID})
	}
	ids, _, err := client.ScanJobs(t.Context(), driver.JobFilter{}, other)
	require.NoError(t, err)
	assert.Equal(t, []int64{waits, completed}, ids)
	ids, _, err = client.ScanJobs(t.Context(), driver.JobFilter{State: "completed", Tag: "us"}, 0)
	require.NoError(t, err)
	assert.Empty(t, ids)

	n, err := client.DeleteWhere(t.Context(), driver.JobFilter{Tag: "eu"})
	require.NoError(t, err)
	assert.EqualValues(t, 1, n)
	_, err = client.Job(t.Context(), completed)
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
	n, err = client.CancelWhere(t.Context(), driver.JobFilter{Contains: text})
	require.NoError(t, err)
	assert.EqualValues(t, 1, n)
	waitForState(t, pool, waits, "cancelled")
	waitForState(t, pool, other, "available")
	n, err = client.RetryWhere(t.Context(), driver.JobFilter{Contains: map[string]string{"text": "b"}})
	require.NoError(t, err)
	assert.Zero(t, n)
	n, err = client.RetryWhere(t.Context(), driver.JobFilter{Tag: "eu"})
	require.NoError(t, err)
	assert.EqualValues(t, 1, n)

	_, err = client.DeleteWhere(t.Context(), driver.JobFilter{})
	assert.ErrorIs(t, err, driver.ErrInvalidArgument)
	_, _, err = client.ScanJobs(t.Context(), driver.JobFilter{State: "lost"}, 0)
	assert.ErrorIs(t, err, driver.ErrInvalidArgument)
	_, _, err = client.ScanJobs(t.Context(), driver.JobFilter{Contains: func() {}}, 0)
	assert.ErrorContains(t, err, "Contains")
	_, err = client.ListJobs(t.Context(), driver.ListFilter{Contains: func() {}})
	assert.ErrorContains(t, err, "Contains")
}

func TestExplainJob(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(time.Hour)})
	says, err := client.ExplainJob(t.Context(), id)
	require.NoError(t, err)
	assert.Contains(t, says, "It is scheduled")
}

func TestChangesOfAJobThatIsNot(t *testing.T) {
	client := driver.NewClient(testdb.New(t))
	_, err := client.Cancel(t.Context(), 1, "")
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
	_, err = client.Retry(t.Context(), 1, driver.RetryOptions{})
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
	_, err = client.SetPriority(t.Context(), 1, 1)
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
	_, err = client.Move(t.Context(), 1, "q")
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
	_, err = client.Reschedule(t.Context(), 1, time.Now(), nil)
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
	_, err = client.DeleteJob(t.Context(), 1)
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
	_, err = client.ExplainJob(t.Context(), 1)
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
}

// In a transaction of the caller a change is a part of that, and needs READ COMMITTED.
func TestChangesInTransactions(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	failed := enqueueConfigured(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1, Priority: 1},
		`{"dead_letter": true}`)
	require.Equal(t, "dead", fails(t, pool))
	filter := driver.JobFilter{Queue: driver.DefaultQueue}
	rollback := errors.New("rollback")
	for name, change := range map[string]func(tx driver.DBTX) error{
		"cancel":  func(tx driver.DBTX) error { _, err := client.CancelTx(t.Context(), tx, id, ""); return err },
		"discard": func(tx driver.DBTX) error { _, err := client.DiscardJobTx(t.Context(), tx, id, ""); return err },
		"retry": func(tx driver.DBTX) error {
			_, err := client.RetryTx(t.Context(), tx, failed, driver.RetryOptions{})
			return err
		},
		"set priority": func(tx driver.DBTX) error { _, err := client.SetPriorityTx(t.Context(), tx, id, 4); return err },
		"move":         func(tx driver.DBTX) error { _, err := client.MoveTx(t.Context(), tx, id, "q"); return err },
		"reschedule": func(tx driver.DBTX) error {
			_, err := client.RescheduleTx(t.Context(), tx, id, time.Now().Add(time.Hour), nil)
			return err
		},
		"cancel where": func(tx driver.DBTX) error { _, err := client.CancelWhereTx(t.Context(), tx, filter); return err },
		"retry where":  func(tx driver.DBTX) error { _, err := client.RetryWhereTx(t.Context(), tx, filter); return err },
		"purge":        func(tx driver.DBTX) error { _, err := client.PurgeDLQTx(t.Context(), tx, filter); return err },
		"delete":       func(tx driver.DBTX) error { _, err := client.DeleteJobTx(t.Context(), tx, failed); return err },
		"delete where": func(tx driver.DBTX) error { _, err := client.DeleteWhereTx(t.Context(), tx, filter); return err },
		"drop queue":   func(tx driver.DBTX) error { return client.DropQueueTx(t.Context(), tx, driver.DefaultQueue, true) },
	} {
		t.Run(name, func(t *testing.T) {
			before := jobsOf(t, pool)
			err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				require.NoError(t, change(tx))
				return rollback
			})
			require.ErrorIs(t, err, rollback)
			assert.Equal(t, before, jobsOf(t, pool))
			if name == "purge" { // takes what it can see
				return
			}
			err = pgx.BeginTxFunc(t.Context(), pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead},
				func(tx pgx.Tx) error { return change(tx) })
			assert.ErrorIs(t, err, driver.ErrIsolation)
		})
	}
}

func jobsOf(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	return queryValue[string](t, pool, "select jsonb_agg(j order by id)::text from awa.jobs j")
}

// A transaction whose snapshot is older than the key is told to begin again.
func TestKeyTakenSinceTheSnapshot(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), "select 1")
	require.NoError(t, err)
	_, _, err = client.EnqueueUnique(t.Context(), note{}, driver.UniqueOptions{}, driver.EnqueueOptions{})
	require.NoError(t, err)
	_, _, err = client.EnqueueUniqueTx(t.Context(), tx, note{}, driver.UniqueOptions{}, driver.EnqueueOptions{})
	assert.ErrorIs(t, err, driver.ErrSerialization)
	assert.NotErrorIs(t, err, driver.ErrMovedOn)
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg)
	assert.Equal(t, "40001", pg.Code)
}
