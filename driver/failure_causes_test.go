package driver_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

func TestFailureCauses(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	causes, err := client.FailureCauses(t.Context(), driver.CausesFilter{})
	require.NoError(t, err)
	require.Empty(t, causes)
	enqueueConfigured(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1}, "{}")
	require.Equal(t, "failed", fails(t, pool))
	causes, err = client.FailureCauses(t.Context(),
		driver.CausesFilter{Queue: driver.DefaultQueue, Kind: note{}.Kind(), Since: time.Hour, MaxCauses: 1})
	require.NoError(t, err)
	require.Len(t, causes, 1)
	cause := causes[0]
	assert.Equal(t, []any{note{}.Kind(), int64(1), int64(0), int64(0)},
		[]any{cause.Kind, cause.Failed, cause.Dead, cause.Retryable})
	assert.NotEmpty(t, cause.LastError)
	assert.Equal(t, cause.FirstAt, cause.LastAt)
	assert.True(t, cause.CountedSince.Before(cause.FirstAt))

	jobs, err := client.ListJobs(t.Context(), driver.ListFilter{State: "failed", Cause: cause.Cause})
	require.NoError(t, err)
	require.Len(t, jobs, 1)
	assert.Equal(t, cause.LastJobID, jobs[0].ID)
	ids, _, err := client.ScanJobs(t.Context(), driver.JobFilter{Cause: "another one"}, 0)
	require.NoError(t, err)
	assert.Empty(t, ids)
	ids, _, err = client.ScanJobs(t.Context(), driver.JobFilter{Cause: cause.LastError}, 0)
	require.NoError(t, err)
	assert.Equal(t, []int64{cause.LastJobID}, ids)
	retried, err := client.RetryWhere(t.Context(), driver.JobFilter{Cause: cause.Cause})
	require.NoError(t, err)
	assert.EqualValues(t, 1, retried)
	_, err = client.FailureCauses(t.Context(), driver.CausesFilter{Since: -time.Hour})
	assert.ErrorIs(t, err, driver.ErrInvalidArgument)
}
