//go:build unix

package testdb

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/pgserver"
)

// Bouncer is a pgbouncer of a test.
type Bouncer struct {
	*pgserver.Bouncer
	t *testing.T
}

// StartBouncer starts a pgbouncer in front of a server, with so many connections to each database. It stops when the
// test ends.
func StartBouncer(t *testing.T, databaseURL string, connections int) *Bouncer {
	t.Helper()
	b, err := pgserver.StartBouncer(databaseURL, connections)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return &Bouncer{b, t}
}

// Start starts it again, after Stop.
func (b *Bouncer) Start() {
	b.t.Helper()
	require.NoError(b.t, b.Bouncer.Start())
}

// URL returns the URL of a database through the proxy.
func (b *Bouncer) URL(databaseURL string, mode pgx.QueryExecMode) string {
	b.t.Helper()
	to, err := b.Bouncer.URL(databaseURL, mode)
	require.NoError(b.t, err)
	return to
}
