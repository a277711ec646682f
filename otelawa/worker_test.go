package otelawa_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/otelawa"
)

// otherNote is a job for which no worker has a handler.
type otherNote struct{ note }

func (otherNote) Kind() string { return "other" }

// outcomes returns awa.worker.jobs by outcome.
func (f *fixture) outcomes() map[any]int64 {
	f.t.Helper()
	counts := map[any]int64{}
	for _, p := range f.metric("awa.worker.jobs") {
		assert.Equal(f.t, "awa", p.attributes["messaging.system"])
		assert.Equal(f.t, queue, p.attributes["messaging.destination.name"])
		counts[p.attributes["awa.job.outcome"]] = p.value
	}
	return counts
}

func TestObserveWorker(t *testing.T) {
	f := newFixture(t)
	verdicts := map[string]error{
		"complete": nil,
		"fail":     errBoom,
		"snooze":   driver.Snooze(time.Hour),
		"discard":  driver.Discard(errBoom),
		"cancel":   driver.Cancel("customer left"),
	}
	ofQueue := map[attribute.Key]any{"messaging.system": "awa", "messaging.destination.name": queue}
	worker := f.worker(func(ctx context.Context, job *driver.Job[note]) error {
		if job.Args.Text == "stale" {
			assert.Equal(t, []point{{ofQueue, 1}}, f.metric("awa.worker.running"))
			_, err := f.client.Cancel(ctx, job.ID, "")
			return err
		}
		return verdicts[job.Args.Text]
	})
	registration, err := otelawa.ObserveWorker(worker, f.cfg)
	require.NoError(t, err)
	none := map[any]int64{"completed": 0, "failed": 0, "snoozed": 0, "discarded": 0, "cancelled": 0, "unknown_kind": 0,
		"stale": 0}
	assert.Equal(t, none, f.outcomes())
	assert.Equal(t, []point{{ofQueue, 0}}, f.metric("awa.worker.claimed"))

	// Each outcome another number of times.
	jobs := 0
	for i, text := range []string{"complete", "fail", "snooze", "discard", "cancel", "stale"} {
		for range i + 1 {
			_, err := f.client.Enqueue(t.Context(), note{Text: text}, inQueue)
			require.NoError(t, err)
			f.runOne(t.Context(), worker)
			jobs++
		}
	}
	for range 7 {
		_, err = f.client.Enqueue(t.Context(), otherNote{}, inQueue)
		require.NoError(t, err)
		f.runOne(t.Context(), worker)
		jobs++
	}
	assert.Equal(t, map[any]int64{"completed": 1, "failed": 2, "snoozed": 3, "discarded": 4, "cancelled": 5, "stale": 6,
		"unknown_kind": 7}, f.outcomes())
	assert.Equal(t, []point{{ofQueue, int64(jobs)}}, f.metric("awa.worker.claimed"))
	assert.Equal(t, []point{{ofQueue, 0}}, f.metric("awa.worker.running"))

	for name, monotonic := range map[string]bool{"awa.worker.jobs": true, "awa.worker.claimed": true,
		"awa.worker.running": false} {
		m := f.collect(name)
		assert.Equal(t, "{attempt}", m.Unit, name)
		assert.Equal(t, monotonic, m.Data.(metricdata.Sum[int64]).IsMonotonic, name)
	}

	require.NoError(t, registration.Unregister())
	assert.Empty(t, f.outcomes())
}

func TestWorkersAddUp(t *testing.T) {
	f := newFixture(t)
	for range 2 {
		worker := f.worker(succeed)
		_, err := otelawa.ObserveWorker(worker, f.cfg)
		require.NoError(t, err)
		f.enqueue(inQueue)
		f.runOne(t.Context(), worker)
	}
	assert.EqualValues(t, 2, f.outcomes()["completed"])
	assert.EqualValues(t, 2, f.metric("awa.worker.claimed")[0].value)
}

func TestQueuesAreCountedApart(t *testing.T) {
	f := newFixture(t)
	worker, err := driver.NewWorker(f.pool, driver.NewHandlers(),
		driver.WorkerConfig{Queues: []driver.QueueConfig{{Name: "a"}, {Name: "b"}}})
	require.NoError(t, err)
	_, err = otelawa.ObserveWorker(worker, f.cfg)
	require.NoError(t, err)
	_, err = f.client.Enqueue(t.Context(), note{}, driver.EnqueueOptions{Queue: "b"})
	require.NoError(t, err)
	f.runOne(t.Context(), worker)
	claimed := map[any]int64{}
	for _, p := range f.metric("awa.worker.claimed") {
		claimed[p.attributes["messaging.destination.name"]] = p.value
	}
	assert.Equal(t, map[any]int64{"a": 0, "b": 1}, claimed)
}
