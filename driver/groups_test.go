package driver_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// A group is paused, listed and opened; limits of its own are set and taken away.
func TestGroups(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	ctx := t.Context()
	until := time.Now().Add(time.Hour).Round(time.Microsecond)
	require.NoError(t, client.PauseGroup(ctx, "q", "acme", "they asked", until))
	require.NoError(t, client.PauseGroup(ctx, "q", "other", "", time.Time{}))
	require.NoError(t, client.ConfigureGroup(ctx, "q", "rich", driver.GroupSettings{
		MaxRunning: driver.Set(3), Rate: driver.Set(driver.Rate{Jobs: 10, Per: time.Second}),
	}))
	groups, err := client.ListGroups(ctx, "q", "", 0)
	require.NoError(t, err)
	require.Len(t, groups, 3)
	byKey := map[string]driver.GroupInfo{}
	for _, g := range groups {
		byKey[g.GroupKey] = g
	}
	assert.Equal(t, "they asked", byKey["acme"].Reason)
	assert.WithinDuration(t, until, *byKey["acme"].PausedUntil, 0)
	assert.Equal(t, byKey["acme"].PausedUntil, byKey["acme"].NextAt)
	assert.NotNil(t, byKey["other"].PausedAt)
	assert.Nil(t, byKey["other"].PausedUntil)
	assert.Equal(t, driver.GroupInfo{GroupKey: "rich"}, byKey["rich"])
	page, err := client.ListGroups(ctx, "q", groups[1].GroupKey, 2)
	require.NoError(t, err)
	assert.Equal(t, groups[2:], page)

	require.NoError(t, client.ResumeGroup(ctx, "q", "other"))
	require.NoError(t, client.ConfigureGroup(ctx, "q", "rich", driver.GroupSettings{
		MaxRunning: driver.Default[int](), Rate: driver.Default[driver.Rate](),
	}))
	groups, err = client.ListGroups(ctx, "q", "", 0)
	require.NoError(t, err)
	assert.Len(t, groups, 1)

	require.ErrorIs(t, client.PauseGroup(ctx, "q", "", "", time.Time{}), driver.ErrInvalidArgument)
	require.ErrorIs(t, client.PauseGroup(ctx, "q", "g", "", time.Now().Add(-time.Hour)), driver.ErrInvalidArgument)
	require.ErrorIs(t, client.ConfigureGroup(ctx, "q", "g", driver.GroupSettings{MaxRunning: driver.Set(0)}),
		driver.ErrInvalidArgument)
	require.ErrorIs(t, client.ResumeGroup(ctx, "none", "g"), driver.ErrNoSuchQueue)
	_, err = client.ListGroups(ctx, "none", "", 0)
	require.ErrorIs(t, err, driver.ErrNoSuchQueue)
}

// A handler closes the group of its job; other groups go on, and the job comes first when the group opens. The handler
// sees the key of the group.
func TestSnoozeGroup(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	type seen struct{ group, text string }
	handled := make(chan seen, 10)
	first := enqueue(t, pool, note{Text: "1"}, driver.EnqueueOptions{Queue: "q", GroupKey: "g"})
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		handled <- seen{job.GroupKey, job.Args.Text}
		if job.Args.Text == "1" {
			return driver.SnoozeGroup(time.Hour)
		}
		return nil
	}), driver.WorkerConfig{Slots: 1, Queues: []driver.QueueConfig{{Name: "q"}}}) // one after the other
	require.Equal(t, seen{"g", "1"}, <-handled)
	waitFor(t, func() bool {
		groups, err := client.ListGroups(t.Context(), "q", "", 0)
		return err == nil && len(groups) == 1 && groups[0].PausedUntil != nil
	}, "the group is not closed")
	enqueue(t, pool, note{Text: "2"}, driver.EnqueueOptions{Queue: "q", GroupKey: "g"})
	enqueue(t, pool, note{Text: "3"}, driver.EnqueueOptions{Queue: "q", GroupKey: "h"})
	require.Equal(t, seen{"h", "3"}, <-handled)
	job, err := client.Job(t.Context(), first)
	require.NoError(t, err)
	assert.Zero(t, job.Attempt)
	require.NoError(t, client.ResumeGroup(t.Context(), "q", "g"))
	require.Equal(t, seen{"g", "1"}, <-handled)
}

// A worker comes when the rate of a queue, or of a group, lets the next job begin, and when the pause of a group is
// over, also where it looks for jobs once an hour, and a deferred job is there, too.
func TestWorkerComesWhenALimitOpens(t *testing.T) {
	for name, limit := range map[string]driver.QueueSettings{
		"rate":       {Rate: driver.Set(driver.Rate{Jobs: 1, Per: 200 * time.Millisecond, Burst: 1})},
		"group rate": {GroupRate: driver.Set(driver.Rate{Jobs: 1, Per: 200 * time.Millisecond, Burst: 1})},
		"pause":      {},
	} {
		t.Run(name, func(t *testing.T) {
			driver.SleepUntilNotified(t)
			pool := testdb.New(t)
			client := driver.NewClient(pool)
			require.NoError(t, client.ConfigureQueue(t.Context(), "default", limit))
			var last int64
			for range 4 {
				last = enqueue(t, pool, note{}, driver.EnqueueOptions{GroupKey: "g"})
			}
			enqueue(t, pool, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(time.Hour)})
			if name == "pause" {
				require.NoError(t, client.PauseGroup(t.Context(), "default", "g", "", time.Now().Add(time.Second)))
			}
			ran := newTally()
			runWorker(t, pool, handle(ran.handle), driver.WorkerConfig{PollInterval: time.Hour})
			waitForState(t, pool, last, "completed")
		})
	}
}

// A slot that comes back unannounced, as within 5 ms of a wake that rolled back, is found with the next look of a
// worker that waits for it: after PollInterval at the latest, however long the worker has been idle.
func TestSlotThatIsNotAnnounced(t *testing.T) {
	driver.SleepUntilNotified(t)
	const every = 400 * time.Millisecond
	for name, limit := range map[string]driver.QueueSettings{
		"of the queue": {MaxRunning: driver.Set(1)},
		"of a group":   {GroupMaxRunning: driver.Set(1)},
	} {
		t.Run(name, func(t *testing.T) {
			pool := testdb.New(t)
			require.NoError(t, driver.NewClient(pool).ConfigureQueue(t.Context(), "default", limit))
			_, err := pool.Exec(t.Context(), "create or replace function awa._notify_once(clock regclass, "+
				"channel text) returns void language plpgsql as 'begin end'")
			require.NoError(t, err)
			began := make(chan time.Time, 1)
			var took []time.Duration
			for range 3 { // the one in the middle, since any one may be late on a busy machine
				enqueue(t, pool, note{}, driver.EnqueueOptions{GroupKey: "g"})
				var job, receipt int64
				require.NoError(t, pool.QueryRow(t.Context(), "select job_id, receipt from awa.claim('default', 1)").
					Scan(&job, &receipt))
				waits := enqueue(t, pool, note{}, driver.EnqueueOptions{GroupKey: "g"})
				stop := runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error {
					began <- time.Now()
					return nil
				}), driver.WorkerConfig{PollInterval: every})
				time.Sleep(4 * every) // its looks have become as rare as they get
				require.Equal(t, "available", waitForState(t, pool, waits, "available").State)
				_, err := pool.Exec(t.Context(), "select awa.complete($1, $2)", job, receipt)
				require.NoError(t, err)
				returned := time.Now()
				took = append(took, (<-began).Sub(returned))
				waitForState(t, pool, waits, "completed")
				require.NoError(t, stop())
			}
			slices.Sort(took)
			require.Less(t, took[1], 2*every, "%v", took)
		})
	}
}
