package driver_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

func TestQueueStatsByStep(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	enqueue(t, pool, note{}, driver.EnqueueOptions{})
	enqueueConfigured(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1, Priority: 1}, "{}")
	require.Equal(t, "failed", fails(t, pool))
	stats, err := client.QueueStats(t.Context(), driver.StatsFilter{Queue: driver.DefaultQueue, Since: 5 * time.Minute})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(stats), 6)
	var enqueued, failed int64
	for _, step := range stats {
		enqueued, failed = enqueued+step.Enqueued, failed+step.Failed
		assert.Equal(t, step.Failed > 0, step.Run.P99 != nil)
		assert.Equal(t, step.Failed > 0, step.Wait.P50 != nil)
	}
	assert.EqualValues(t, 2, enqueued)
	assert.EqualValues(t, 1, failed)

	stats, err = client.QueueStats(t.Context(), driver.StatsFilter{ByKind: true})
	require.NoError(t, err)
	require.NotEmpty(t, stats)
	assert.Equal(t, note{}.Kind(), stats[0].Kind)
	stats, err = client.QueueStats(t.Context(),
		driver.StatsFilter{Kind: "other", Since: 7 * 24 * time.Hour, Step: 24 * time.Hour})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(stats), 8)
	assert.Zero(t, stats[0].Enqueued)
	_, err = client.QueueStats(t.Context(), driver.StatsFilter{Since: -time.Hour})
	assert.ErrorIs(t, err, driver.ErrInvalidArgument)
}
