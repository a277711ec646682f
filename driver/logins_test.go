package driver_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
)

// A worker each of whose connections has another login (credentials that rotate) claims, sends heartbeats and ends as
// the members of one role.
func TestLoginsThatChange(t *testing.T) {
	server := ownServer(t, nil)
	admin := untapped(t, server.URL())
	execute(t, admin,
		"create role rota in role awa_worker, awa_maintainer; create role tick login in role rota; create role tock login "+
			"in role rota")
	cfg, err := pgxpool.ParseConfig(server.URL())
	require.NoError(t, err)
	var connections atomic.Int64
	cfg.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		c.User = []string{"tick", "tock"}[connections.Add(1)%2]
		return nil
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)

	var log syncBuffer
	id := enqueue(t, admin, note{}, driver.EnqueueOptions{})
	stop := runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error { return nil }),
		driver.WorkerConfig{MemberOf: "rota", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	waitForState(t, admin, id, "completed")
	assert.Equal(t, "rota", queryValue[string](t, admin, "select min(member_of) from awa.workers"))
	require.NoError(t, stop())
	assert.Zero(t, queryValue[int](t, admin, "select count(*) from awa.workers"))
	assert.NotContains(t, log.String(), "42501")
}
