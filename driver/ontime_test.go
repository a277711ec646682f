package driver_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// A worker that looks for deferred jobs once an hour wakes when one is due.
func TestWorkerWakesWhenAJobIsDue(t *testing.T) {
	driver.SetMaintenance(t, time.Hour)
	pool := testdb.New(t)
	ran := newTally()
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(200 * time.Millisecond)})
	runWorker(t, pool, handle(ran.handle), driver.WorkerConfig{})
	job := waitForState(t, pool, id, "completed")
	require.NotNil(t, job.AttemptedAt)
	assert.False(t, job.AttemptedAt.Before(job.RunAt))
}

// So it does for a job that comes while it sleeps, and is due within a second.
func TestWorkerWakesForAJobThatComes(t *testing.T) {
	driver.SetMaintenance(t, time.Hour)
	pool := testdb.New(t)
	ran := newTally()
	runWorker(t, pool, handle(ran.handle), driver.WorkerConfig{})
	waitFor(t, func() bool {
		return queryValue[bool](t, pool, "select exists (select from pg_stat_activity where datname = current_database() "+
			"and query like '%heartbeat%')")
	}, "it does not listen yet")
	for range 3 {
		id := enqueue(t, pool, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(50 * time.Millisecond)})
		waitForState(t, pool, id, "completed")
	}
}

func TestNextReadyAt(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	at, err := client.NextReadyAt(t.Context())
	require.NoError(t, err)
	assert.True(t, at.IsZero())
	due := time.Now().Add(time.Hour).Truncate(time.Second)
	enqueue(t, pool, note{}, driver.EnqueueOptions{RunAt: due, Queue: "q"})
	for _, queues := range [][]string{nil, {"q"}, {"q", "other"}} {
		at, err = client.NextReadyAt(t.Context(), queues...)
		require.NoError(t, err)
		assert.True(t, due.Equal(at))
	}
	at, err = client.NextReadyAt(t.Context(), "other")
	require.NoError(t, err)
	assert.True(t, at.IsZero())
}
