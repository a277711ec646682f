package driver_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// heldLog counts the jobs that are held back, as the log says.
type heldLog struct {
	slog.Handler
	jobs, givenBack atomic.Int32
}

func (*heldLog) Enabled(context.Context, slog.Level) bool { return true }

func (l *heldLog) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l *heldLog) Handle(_ context.Context, r slog.Record) error {
	switch {
	case strings.Contains(r.Message, "is held back"):
		l.jobs.Add(1)
	case strings.Contains(r.Message, "is given back, uncounted"):
		l.givenBack.Add(1)
	}
	return nil
}

// A cancel, and whatever else ends an attempt from outside, gives its slot to the next job of its group at once. Within
// one process this one waits until the handler has returned, whichever worker runs it, and however late the news is.
func TestNextOfAGroupWaitsForTheOldHandler(t *testing.T) {
	limits := map[string]driver.QueueSettings{
		"one at a time": {GroupMaxRunning: driver.Set(1)},
		"in order":      {GroupOrder: driver.Set(driver.OrderStrict)},
	}
	ends := map[string]string{
		"cancel":     "select awa.cancel($1::bigint)",
		"deregister": "select awa.deregister_worker((select worker_id from awa.jobs where id = $1::bigint))",
	}
	for limit, settings := range limits {
		for end, call := range ends {
			for name, slots := range map[string]int{"the same worker": 2, "another worker": 1} {
				t.Run(limit+", "+end+", "+name, func(t *testing.T) {
					pool := testdb.New(t)
					client := driver.NewClient(pool)
					execute(t, pool, "update awa.settings set notifications = false")
					require.NoError(t, client.ConfigureQueue(t.Context(), "default", settings))
					first := enqueue(t, pool, note{"first"}, driver.EnqueueOptions{GroupKey: "g"})
					next := enqueue(t, pool, note{"next"}, driver.EnqueueOptions{GroupKey: "g"})
					var running atomic.Int32
					began, open := make(chan int32, 9), make(chan bool)
					handler := handle(func(context.Context, *driver.Job[note]) error { // it does not look at its context
						began <- running.Add(1)
						defer running.Add(-1)
						<-open
						return nil
					})
					held := new(heldLog)
					cfg := driver.WorkerConfig{Slots: slots, NoMaintenance: true, HeartbeatEvery: time.Hour, PollInterval: look,
						Logger: slog.New(held)}
					runWorker(t, pool, handler, cfg)
					receive(t, began)
					if slots == 1 {
						runWorker(t, pool, handler, cfg)
					}
					execute(t, pool, call, first)
					if end == "deregister" { // what was given back comes first
						next = first
					}
					waitFor(t, func() bool { return held.jobs.Load() > 0 || len(began) > 0 }, "the next one is not claimed")
					close(open)
					assert.Equal(t, int32(1), receive(t, began), "two run at once")
					waitForState(t, pool, next, "completed")
				})
			}
		}
	}
}

// Where the old handler does not return, the next job is given back, uncounted, and comes first again.
func TestNextOfAGroupIsGivenBack(t *testing.T) {
	driver.SetHeldMost(t, 50*time.Millisecond)
	pool := testdb.New(t)
	require.NoError(t, driver.NewClient(pool).ConfigureQueue(t.Context(), "default",
		driver.QueueSettings{GroupMaxRunning: driver.Set(1)}))
	first := enqueue(t, pool, note{}, driver.EnqueueOptions{GroupKey: "g"})
	next := enqueue(t, pool, note{}, driver.EnqueueOptions{GroupKey: "g"})
	last := enqueue(t, pool, note{}, driver.EnqueueOptions{GroupKey: "g"})
	held, began, open := new(heldLog), make(chan int64, 9), make(chan bool)
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		began <- job.ID
		<-open
		return nil
	}), driver.WorkerConfig{NoMaintenance: true, Logger: slog.New(held)})
	require.Equal(t, first, receive(t, began))
	execute(t, pool, "select awa.cancel($1::bigint)", first)
	waitFor(t, func() bool { return held.jobs.Load() > 2 }, "it does not come again")
	assert.Positive(t, held.givenBack.Load())
	assert.Empty(t, began)
	close(open)
	assert.Equal(t, next, receive(t, began))
	assert.Equal(t, last, receive(t, began))
	assert.Equal(t, 1, waitForState(t, pool, next, "completed").Attempt)
}

// Where jobs of a group run side by side, a worker does not ask the server about them with each claim.
func TestJobsOfAGroupSideBySide(t *testing.T) {
	pool := testdb.New(t)
	execute(t, pool, "create sequence public.heartbeats; grant all on sequence public.heartbeats to public")
	execute(t, pool, `
		create function public.count_heartbeats() returns trigger language plpgsql as
		$$ begin perform nextval('public.heartbeats'); return new; end $$;
		create trigger count_heartbeats before update on awa.workers for each row
		execute function public.count_heartbeats()`)
	began, open := make(chan bool, 20), make(chan bool)
	runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error {
		began <- true
		<-open
		return nil
	}), driver.WorkerConfig{NoMaintenance: true, HeartbeatEvery: time.Hour})
	for range 20 {
		enqueue(t, pool, note{}, driver.EnqueueOptions{GroupKey: "g"})
		receive(t, began)
	}
	close(open)
	heartbeats := queryValue[int64](t, pool, "select last_value from public.heartbeats")
	assert.Greater(t, heartbeats, int64(1), "it has asked")
	assert.LessOrEqual(t, heartbeats, int64(4))
}
