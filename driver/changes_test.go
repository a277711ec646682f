package driver_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

func TestChanges(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	first := enqueue(t, pool, note{"eu"}, driver.EnqueueOptions{Tags: []string{"eu"}})
	second := enqueue(t, pool, note{"us"}, driver.EnqueueOptions{})
	filter := driver.JobFilter{Tag: "eu", State: "available", Contains: note{"eu"}}

	id, err := client.StartChange(t.Context(), driver.ChangeMove, filter, driver.ChangeOptions{Queue: "elsewhere"})
	require.NoError(t, err)
	changes, err := client.ListChanges(t.Context(), driver.ChangeFilter{State: "running"})
	require.NoError(t, err)
	require.Len(t, changes, 1)
	assert.Equal(t, id, changes[0].ID)
	assert.Equal(t, "move", changes[0].Action)
	assert.JSONEq(t, `{"queue": "elsewhere"}`, string(changes[0].Options))
	assert.Equal(t, "postgres", changes[0].StartedBy)
	assert.Empty(t, changes[0].Actor)
	assert.True(t, changes[0].EndedAt.IsZero())
	execute(t, pool, "select awa.apply_changes()")
	job, err := client.Job(t.Context(), first)
	require.NoError(t, err)
	assert.Equal(t, "elsewhere", job.Queue)
	job, err = client.Job(t.Context(), second)
	require.NoError(t, err)
	assert.Equal(t, driver.DefaultQueue, job.Queue)

	var other int64
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "set local awa.actor = 'Ada'")
		require.NoError(t, err)
		other, err = client.StartChangeTx(t.Context(), tx, driver.ChangeRetry, driver.JobFilter{Queue: "elsewhere"},
			driver.ChangeOptions{Priority: 1, RunAt: time.Now().Add(time.Hour), Over: 90 * time.Second})
		return err
	}))
	require.NoError(t, client.StopChange(t.Context(), other))
	changes, err = client.ListChanges(t.Context(), driver.ChangeFilter{MaxChanges: 1})
	require.NoError(t, err)
	require.Len(t, changes, 1)
	assert.Equal(t, other, changes[0].ID)
	assert.Equal(t, "stopped", changes[0].State)
	assert.Equal(t, "Ada", changes[0].Actor)
	assert.False(t, changes[0].EndedAt.IsZero())
	changes, err = client.ListChanges(t.Context(), driver.ChangeFilter{BeforeID: other})
	require.NoError(t, err)
	require.Len(t, changes, 1)
	assert.Equal(t, "finished", changes[0].State)
	assert.EqualValues(t, 1, changes[0].Changed)

	assert.ErrorIs(t, client.StopChange(t.Context(), 1000), driver.ErrNoSuchChange)
	for _, refused := range []func() error{
		func() error {
			_, err := client.StartChange(t.Context(), driver.ChangeCancel, driver.JobFilter{}, driver.ChangeOptions{})
			return err
		},
		func() error {
			_, err := client.StartChange(t.Context(), driver.ChangeDelete, filter, driver.ChangeOptions{})
			return err
		},
		func() error {
			_, err := client.StartChange(t.Context(), "burn", filter, driver.ChangeOptions{})
			return err
		},
		func() error {
			_, err := client.StartChange(t.Context(), driver.ChangeCancel, filter, driver.ChangeOptions{Priority: 1})
			return err
		},
		func() error {
			_, err := client.ListChanges(t.Context(), driver.ChangeFilter{State: "asleep"})
			return err
		},
	} {
		assert.ErrorIs(t, refused(), driver.ErrInvalidArgument)
	}
}
