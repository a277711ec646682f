package testdb

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { Main(m, func() error { return goleak.Find() }) }

func TestEachTestHasItsOwnDatabase(t *testing.T) {
	names := make(chan string, 2)
	t.Run("group", func(t *testing.T) {
		for _, name := range []string{"first", "second"} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				pool := New(t)
				var id int64
				require.NoError(t, pool.QueryRow(t.Context(), "select awa.enqueue('q', 'k')").Scan(&id))
				assert.EqualValues(t, 1, id)
				var name string
				require.NoError(t, pool.QueryRow(t.Context(), "select current_database()").Scan(&name))
				names <- name
			})
		}
	})
	assert.NotEqual(t, <-names, <-names)
}

func TestDatabaseIsDropped(t *testing.T) {
	var name string
	t.Run("user", func(t *testing.T) {
		require.NoError(t, New(t).QueryRow(t.Context(), "select current_database()").Scan(&name))
	})
	server, err := serverURL()
	require.NoError(t, err)
	var exists bool
	require.NoError(t,
		Connect(t, server).QueryRow(t.Context(), "select exists (select from pg_database where datname = $1)",
			name).Scan(&exists))
	assert.False(t, exists)
}

func TestEmptyURL(t *testing.T) {
	var empty bool
	require.NoError(t, Connect(t, EmptyURL(t)).QueryRow(t.Context(), "select to_regnamespace('awa') is null").Scan(&empty))
	assert.True(t, empty)
}

func TestCreate(t *testing.T) {
	databaseURL, drop, err := Create(context.Background())
	require.NoError(t, err)
	require.NoError(t, drop())
	assert.True(t, strings.Contains(databaseURL, "awa_test_"))
}

func TestWithDatabase(t *testing.T) {
	assert.Equal(t, "postgres://u@h:1/x?sslmode=disable", withDatabase("postgres://u@h:1/y?sslmode=disable&dbname=z", "x"))
	assert.Equal(t, "postgres:///x?host=%2Ftmp", withDatabase("postgres:///?host=/tmp", "x"))
	assert.Equal(t, "host=/tmp dbname=y dbname=x", withDatabase("host=/tmp dbname=y", "x"))
}
