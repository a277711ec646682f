package driver_test

import (
	"context"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/pgserver"
	"github.com/awa-pg/awa/internal/testdb"
	"github.com/awa-pg/awa/sql"
)

func TestMigrateTwice(t *testing.T) {
	databaseURL := testdb.EmptyURL(t)
	first, err := driver.Migrate(t.Context(), databaseURL)
	require.NoError(t, err)
	assert.Zero(t, first.SchemaBefore)
	assert.Positive(t, first.SchemaAfter)
	assert.NotEmpty(t, first.Functions)
	assert.NotEmpty(t, first.Role)

	second, err := driver.Migrate(t.Context(), databaseURL)
	require.NoError(t, err)
	assert.Equal(t, first.SchemaAfter, second.SchemaBefore)
	assert.Equal(t, first.SchemaAfter, second.SchemaAfter)
	assert.Equal(t, first.Functions, second.Functions)
}

// Without the lock both would create the tables.
func TestMigrateTwiceAtOnce(t *testing.T) {
	databaseURL := testdb.EmptyURL(t)
	var results [4]driver.MigrateResult
	var group sync.WaitGroup
	for i := range results {
		group.Go(func() {
			var err error
			results[i], err = driver.Migrate(t.Context(), databaseURL)
			assert.NoError(t, err)
		})
	}
	group.Wait()
	installed := 0
	for _, r := range results {
		if r.SchemaBefore == 0 {
			installed++
		}
		assert.Positive(t, r.SchemaAfter)
	}
	assert.Equal(t, 1, installed)
}

// Roles belong to the whole server, so installations in different databases meet there.
func TestMigrateTwoDatabasesAtOnce(t *testing.T) {
	urls := [...]string{testdb.EmptyURL(t), testdb.EmptyURL(t)}
	var group sync.WaitGroup
	for _, databaseURL := range urls {
		group.Go(func() {
			_, err := driver.Migrate(t.Context(), databaseURL)
			assert.NoError(t, err)
		})
	}
	group.Wait()
}

func TestMigrateErrors(t *testing.T) {
	_, err := driver.Migrate(t.Context(), "postgres://%")
	assert.Error(t, err)
	_, err = driver.Migrate(t.Context(), "postgres:///db?host=/nowhere")
	assert.Error(t, err)
}

// A role that may not create roles installs for itself alone, and is told so.
func TestMigrateAsPlainRole(t *testing.T) {
	server, err := pgserver.Start(t.Context(), pgserver.Config{}) // one that nobody has created the roles in
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, server.Stop()) })
	admin := testdb.Connect(t, server.URL())
	for _, sql := range []string{"create role plain login", "create database plain owner plain"} {
		_, err := admin.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	u, err := url.Parse(server.URL())
	require.NoError(t, err)
	query := u.Query()
	query.Set("user", "plain")
	u.Path, u.RawQuery = "/plain", query.Encode()

	result, err := driver.Migrate(t.Context(), u.String())
	require.NoError(t, err)
	assert.Equal(t, "plain", result.Role)
	require.Len(t, result.Warnings, 1)
	assert.Contains(t, result.Warnings[0].Message, "installed for plain alone")
	assert.NotEmpty(t, result.Warnings[0].Hint)
	result, err = driver.Migrate(t.Context(), u.String())
	require.NoError(t, err)
	assert.False(t, result.Changed)
	assert.Empty(t, result.Warnings, "nothing was to be done")
	var id int64
	require.NoError(t, testdb.Connect(t, u.String()).QueryRow(t.Context(), "select awa.enqueue('q', 'k')").Scan(&id))
}

// A worker on a database that is older than it says so, and how to go on; one that is newer suits it,
// and one that differs in the third number only.
func TestWorkerRefusesADatabaseThatIsTooOld(t *testing.T) {
	pool := testdb.New(t)
	worker, err := driver.NewWorker(pool, driver.NewHandlers(),
		driver.WorkerConfig{Queues: []driver.QueueConfig{{Name: "q"}}})
	require.NoError(t, err)
	replace := func(version string) {
		_, err := pool.Exec(t.Context(),
			"create or replace function awa.version() returns text language sql stable security definer set search_path = "+
				"pg_catalog, pg_temp as $$ select '"+version+"' $$")
		require.NoError(t, err)
	}
	for _, version := range []string{"0.0.9", "0.0.10", "0.0"} {
		replace(version)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		err = worker.Run(ctx)
		cancel()
		require.ErrorIs(t, err, driver.ErrDatabaseTooOld)
		assert.ErrorContains(t, err, "it has Awa "+version)
		assert.ErrorContains(t, err, "awa migrate")
	}
	ours := sql.Version
	t.Cleanup(func() { sql.Version = ours })
	sql.Version = "0.2.1"
	for _, version := range []string{"0.10.0", "0.2.0", "0.2", "0.2.1", "1.0"} {
		replace(version)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- worker.Run(ctx) }()
		waitFor(t, func() bool {
			return len(done) > 0 || queryValue[bool](t, pool, "select exists (select from awa.workers)")
		}, "it does not register")
		cancel()
		require.NoError(t, receive(t, done), version)
	}
}
