package driver_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

func TestListJobs(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	var ids []int64
	for range 5 {
		ids = append(ids,
			enqueue(t, pool, note{"text"}, driver.EnqueueOptions{Queue: "q", MaxAttempts: 3, Tags: []string{"a"}}))
	}
	later := enqueue(t, pool, otherKind{}, driver.EnqueueOptions{RunAt: time.Now().Add(time.Hour)})
	list := func(filter driver.ListFilter) (ids []int64) {
		jobs, err := client.ListJobs(t.Context(), filter)
		require.NoError(t, err)
		for _, job := range jobs {
			ids = append(ids, job.ID)
		}
		return ids
	}
	assert.Equal(t, []int64{later, ids[4], ids[3], ids[2], ids[1], ids[0]}, list(driver.ListFilter{}))
	assert.Equal(t, []int64{ids[4], ids[3]}, list(driver.ListFilter{Queue: "q", MaxJobs: 2}))
	assert.Equal(t, []int64{ids[2], ids[1]}, list(driver.ListFilter{Queue: "q", MaxJobs: 2, BeforeID: ids[3]}))
	assert.Equal(t, []int64{later}, list(driver.ListFilter{State: "scheduled"}))
	assert.Equal(t, []int64{later}, list(driver.ListFilter{Kind: "other"}))
	assert.Empty(t, list(driver.ListFilter{Queue: "unknown"}))

	jobs, err := client.ListJobs(t.Context(), driver.ListFilter{Queue: "q", MaxJobs: 1})
	require.NoError(t, err)
	one, err := client.Job(t.Context(), ids[4])
	require.NoError(t, err)
	assert.Equal(t, []driver.JobInfo{one}, jobs)
	assert.Equal(t, []any{"q", "note", 3, []string{"a"}}, []any{one.Queue, one.Kind, one.MaxAttempts, one.Tags})

	_, err = client.ListJobs(t.Context(), driver.ListFilter{State: "lost"})
	assert.ErrorIs(t, err, driver.ErrInvalidArgument)
	_, err = client.ListJobs(t.Context(), driver.ListFilter{MaxJobs: -1})
	assert.ErrorIs(t, err, driver.ErrInvalidArgument)
}

func TestHealthAndAudit(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "q"})
	enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "r", RunAt: time.Now().Add(time.Hour)})
	findings, err := client.Audit(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []driver.AuditFinding{
		{Queue: "q", Enqueued: 1, Available: 1, Balanced: true},
		{Queue: "r", Enqueued: 1, Scheduled: 1, Balanced: true},
	}, findings)

	execute(t, pool, "update awa.ready_entries set ready_at = ready_at - interval '1 hour'")
	health, err := client.Health(t.Context())
	require.NoError(t, err)
	topics := map[string]driver.HealthFinding{}
	for _, f := range health {
		topics[f.Topic+" "+f.Subject] = f
	}
	require.Contains(t, topics, "queue q")
	assert.Equal(t, "warning", topics["queue q"].Level)
	assert.NotEmpty(t, topics["queue q"].Message)
	assert.NotEmpty(t, topics["queue q"].Hint)
	assert.Regexp(t, `"oldest_ready_seconds": 3[67]\d\d\b`, string(topics["queue q"].Details))

	counts, err := client.AllQueueCounts(t.Context())
	require.NoError(t, err)
	require.Len(t, counts, 2)
	assert.Equal(t, []any{"q", int64(1), "r", int64(1)},
		[]any{counts[0].Queue, counts[0].Available, counts[1].Queue, counts[1].Scheduled})

	execute(t, pool, "select awa._fold(null, true); delete from awa.ready_entries")
	findings, err = client.Audit(t.Context())
	require.NoError(t, err)
	assert.False(t, findings[0].Balanced)
	assert.NotEmpty(t, findings[0].Problem)
}

func TestListQueues(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "a"})
	hour, depth := time.Hour, 1000
	require.NoError(t, client.ConfigureQueue(t.Context(), "b", driver.QueueSettings{
		DefaultPriority: driver.Set(3), DefaultMaxAttempts: driver.Set(7), Lease: driver.Set(90 * time.Second),
		Deadline: driver.Set(hour), BackoffBase: driver.Set(5 * time.Second), BackoffMax: driver.Set(2 * hour),
		DeadLetter: driver.Set(true), AgingInterval: driver.Set(30 * time.Second),
		FailedRetention: driver.Set(90 * 24 * hour), DLQRetention: driver.Set(360 * 24 * hour),
		CompletedRetention: driver.Set(23 * hour), MaxDepth: driver.Set(1000),
		GroupMaxRunning: driver.Set(1), MaxRunning: driver.Set(3), GroupOrder: driver.Set(driver.OrderStrict),
		GroupTurns: driver.Set(true), Rate: driver.Set(driver.Rate{Jobs: 100, Per: time.Minute}),
	}))
	require.NoError(t, client.PauseQueue(t.Context(), "b"))
	execute(t, pool, "select awa.register_worker('w', '{a}'), awa.register_worker('x')")
	queues, err := client.ListQueues(t.Context())
	require.NoError(t, err)
	require.Len(t, queues, 2)

	counts, err := client.QueueCounts(t.Context(), "a")
	require.NoError(t, err)
	assert.EqualValues(t, 1, counts.Available)
	assert.Equal(t, driver.QueueInfo{
		Queue: "a", DefaultPriority: 2, DefaultMaxAttempts: 25, Lease: time.Minute, BackoffBase: time.Second,
		BackoffMax:    24 * hour,
		AgingInterval: time.Minute, FailedRetention: 72 * hour, DLQRetention: 30 * 24 * hour, CompletedRetention: 24 * hour,
		Shards: 1, GroupOrder: "start", Workers: 2, Counts: counts,
	}, queues[0])
	assert.WithinDuration(t, queryValue[time.Time](t, pool, "select now()"), *queues[1].PausedAt, time.Hour)
	assert.NotNil(t, queues[1].ChangedAt)
	assert.Equal(t, queryValue[string](t, pool, "select session_user::text"), queues[1].ChangedBy)
	queues[1].PausedAt, queues[1].ChangedAt, queues[1].ChangedBy = nil, nil, ""
	assert.Equal(t, driver.QueueInfo{
		Queue: "b", DefaultPriority: 3, DefaultMaxAttempts: 7, Lease: 90 * time.Second, Deadline: &hour,
		BackoffBase: 5 * time.Second,
		BackoffMax:  2 * hour, DeadLetter: true, AgingInterval: 30 * time.Second, FailedRetention: 90 * 24 * hour,
		DLQRetention:       360 * 24 * hour,
		CompletedRetention: 23 * hour, Shards: 1, MaxDepth: &depth, GroupMaxRunning: new(1), MaxRunning: new(3),
		GroupOrder: "strict", GroupTurns: true,
		Rate:    &driver.Rate{Jobs: 100, Per: time.Minute, Burst: 5},
		Workers: 1, Counts: driver.QueueCounts{Queue: "b"},
	}, queues[1])
}

func TestListWorkers(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	workers, err := client.ListWorkers(t.Context())
	require.NoError(t, err)
	assert.Empty(t, workers)
	enqueue(t, pool, note{}, driver.EnqueueOptions{Queue: "q"})
	execute(t, pool, `select awa.register_worker('w', '{q,r}', '{"version": 1}'), awa.register_worker('x')`)
	execute(t, pool, "select awa.claim('q', worker_id => 1)")
	execute(t, pool, "update awa.workers set heartbeat_at = heartbeat_at - interval '2 minutes' where worker_id = 2")
	workers, err = client.ListWorkers(t.Context())
	require.NoError(t, err)
	require.Len(t, workers, 2)
	assert.Equal(t, 2*time.Minute, workers[1].StartedAt.Sub(workers[1].HeartbeatAt))
	login := queryValue[string](t, pool, "select session_user::text")
	at := workers[0].StartedAt
	assert.Equal(t, driver.WorkerInfo{
		ID: 1, Name: "w", Queues: []string{"q", "r"}, Info: []byte(`{"version": 1}`), StartedAt: at, HeartbeatAt: at,
		OpenAttempts: 1, RegisteredBy: login,
	}, workers[0])
	assert.Equal(t, driver.WorkerInfo{ID: 2, Name: "x", StartedAt: at, HeartbeatAt: workers[1].HeartbeatAt, Overdue: true,
		RegisteredBy: login}, workers[1])
}

// Reads do not need a transaction of the caller's, and end with the caller's context.
func TestReadsWhoseContextHasEnded(t *testing.T) {
	client := driver.NewClient(testdb.New(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := client.ListJobs(ctx, driver.ListFilter{})
	assert.ErrorIs(t, err, context.Canceled)
	_, err = client.AllQueueCounts(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	_, err = client.Health(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	_, err = client.Audit(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	_, err = client.Configuration(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	_, err = client.ListQueues(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	_, err = client.ListWorkers(ctx)
	assert.ErrorIs(t, err, context.Canceled)
}
