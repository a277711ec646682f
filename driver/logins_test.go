package driver_test

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

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
	pool := changingLogins(t, server.URL())
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

// changingLogins returns a pool each of whose connections has another login than the one before.
func changingLogins(t *testing.T, databaseURL string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(databaseURL)
	require.NoError(t, err)
	var connections atomic.Int64
	cfg.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		c.User = []string{"tick", "tock"}[connections.Add(1)%2]
		return nil
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// The schedules of a worker whose logins change belong to their role, so that each of them may synchronise them, and
// no other. A login that may not enqueue may not have jobs enqueued by schedules.
func TestLoginsThatDeclareSchedules(t *testing.T) {
	server := ownServer(t, nil)
	admin := untapped(t, server.URL())
	execute(t, admin,
		"create role rota in role awa_worker, awa_producer, awa_maintainer; create role tick login in role rota; "+
			"create role tock login in role rota; create role stranger login in role awa_worker, awa_producer; "+
			"create role poor login in role awa_worker, awa_maintainer")
	pool := changingLogins(t, server.URL())
	declare := func(pool *pgxpool.Pool, source, memberOf, name string) error {
		h, _ := scheduled(driver.Schedule{Name: name, Cron: "@daily", Args: note{}})
		w, err := driver.NewWorker(pool, h, driver.WorkerConfig{ScheduleSource: source, MemberOf: memberOf,
			NoMaintenance: true, Logger: logger(t)})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		result := make(chan error, 1)
		go func() { result <- w.Run(ctx) }()
		for {
			select {
			case err := <-result:
				return err
			case <-time.After(look):
				if slices.Contains(scheduleNames(t, admin), name) {
					stop()
				}
			}
		}
	}
	for _, name := range []string{"first", "second", "third"} {
		require.NoError(t, declare(pool, "shop", "rota", name))
		pool.Reset()
	}
	assert.Equal(t, "rota", queryValue[string](t, admin, "select owner from awa.schedule_sources"))
	assert.Equal(t, []string{"third"}, scheduleNames(t, admin))

	err := declare(loginPool(t, server.URL(), "stranger"), "shop", "", "mine")
	assert.ErrorContains(t, err, "the source belongs to another role")
	assert.ErrorContains(t, err, `schedules of source "shop"`)
	err = declare(loginPool(t, server.URL(), "poor"), "poor", "", "mine")
	assert.ErrorContains(t, err, "schedules are for operators, and for workers that may enqueue")
	assert.Equal(t, []string{"third"}, scheduleNames(t, admin))
}

// loginPool returns a pool of connections of a login.
func loginPool(t *testing.T, databaseURL, login string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(databaseURL)
	require.NoError(t, err)
	cfg.ConnConfig.User = login
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}
