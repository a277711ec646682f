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

// A schedule fires when it is due, also one that is made while the worker sleeps; and the next one while another
// session holds the first one.
func TestWorkerWakesWhenAScheduleIsDue(t *testing.T) {
	driver.SetMaintenance(t, time.Hour)
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	make := func(name string) {
		require.NoError(t, client.Schedule(t.Context(), driver.Schedule{Name: name, Every: time.Second, Args: note{}}))
	}
	fired := func(name string, times int) {
		t.Helper()
		waitFor(t, func() bool {
			return queryValue[bool](t, pool, "select count(distinct metadata #>> '{schedule,at}') >= $2 from awa.jobs "+
				"where metadata #>> '{schedule,name}' = $1 and state = 'completed'", name, times)
		}, name+" did not fire")
	}
	make("before")
	runWorker(t, pool, handle(newTally().handle), driver.WorkerConfig{})
	fired("before", 2)
	make("meanwhile")
	fired("meanwhile", 2)

	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, client.PauseScheduleTx(t.Context(), tx, "before", ""))
	make("beside")
	fired("beside", 3)
	require.NoError(t, tx.Rollback(t.Context()))
	fired("before", 4)
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
