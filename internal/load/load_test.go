package load

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/awa-pg/awa/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m, func() error { return goleak.Find() }) }

// open returns a load on a new database, and another connection to it.
func open(t *testing.T, cfg Config) (*Load, *pgx.Conn) {
	t.Helper()
	db := testdb.Connect(t, testdb.URL(t))
	cfg.Conn, cfg.Queue = db.Config(), "load"
	l, err := Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(l.Close)
	return l, db
}

func counts(t *testing.T, db *pgx.Conn) (available, completed int) {
	t.Helper()
	err := db.QueryRow(t.Context(),
		"select coalesce(sum(available), 0), coalesce(sum(completed), 0) from awa.queue_counts('load')").Scan(&available,
		&completed)
	require.NoError(t, err)
	return available, completed
}

func TestFullSpeed(t *testing.T) {
	calls := make(chan Call, 10_000)
	l, db := open(t, Config{OnCall: func(c Call) { calls <- c }})
	for run := range 2 {
		figures, err := l.Run(t.Context(), Offer{For: time.Hour, Jobs: 1234, Depth: 1000})
		require.NoError(t, err)
		assert.Equal(t, 1234, figures.Jobs)
		assert.Len(t, figures.Latencies, 1234)
		assert.Positive(t, figures.Rate())
		available, completed := counts(t, db)
		assert.Zero(t, available)
		assert.Equal(t, 1234*(run+1), completed)
	}
	seen := map[string]bool{}
	for len(calls) > 0 {
		seen[(<-calls).Name] = true
	}
	assert.Equal(t, map[string]bool{"enqueue_many": true, "claim": true, "complete_many": true}, seen)
}

// hold keeps everybody from claiming until release is called.
func hold(t *testing.T, db *pgx.Conn) (release func()) {
	t.Helper()
	_, err := db.Exec(t.Context(), "update awa.settings set claim_wait = '1 hour'")
	require.NoError(t, err)
	tx, err := db.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "select awa.claim('load')")
	require.NoError(t, err)
	return func() { require.NoError(t, tx.Rollback(context.Background())) }
}

// Otherwise the producers of a slow queue would slow down with it, and hide it.
func TestRateWaitsForNobody(t *testing.T) {
	l, db := open(t, Config{})
	release := hold(t, testdb.Connect(t, db.Config().ConnString()))
	type result struct {
		Figures
		err error
	}
	results := make(chan result)
	go func() {
		figures, err := l.Run(t.Context(), Offer{For: time.Hour, Jobs: 1000, Rate: 5000, Depth: 1})
		results <- result{figures, err}
	}()
	require.Eventually(t, func() bool {
		available, _ := counts(t, db)
		return available == 1000
	}, 5*time.Minute, time.Millisecond)
	release()
	r := <-results
	require.NoError(t, r.err)
	assert.Equal(t, 1000, r.Jobs)
}

func TestDepth(t *testing.T) {
	l, db := open(t, Config{})
	release := hold(t, testdb.Connect(t, db.Config().ConnString()))
	done := make(chan error)
	go func() {
		_, err := l.Run(t.Context(), Offer{For: time.Hour, Jobs: 5000, Depth: 1000})
		done <- err
	}()
	require.Eventually(t, func() bool {
		available, _ := counts(t, db)
		return available == 1000
	}, 5*time.Minute, time.Millisecond)
	l.mu.Lock()
	assert.Equal(t, 1000, l.offered)
	l.mu.Unlock()
	release()
	require.NoError(t, <-done)
}

// A job that nobody enqueued must not pass for one that was.
func TestForeignJob(t *testing.T) {
	l, db := open(t, Config{})
	_, err := db.Exec(t.Context(), "select awa.enqueue('load', 'foreign')")
	require.NoError(t, err)
	_, err = l.Run(t.Context(), Offer{For: time.Hour, Jobs: 1000, Depth: 1000})
	assert.ErrorContains(t, err, "not the same")
}

func TestErrorsAndInterruption(t *testing.T) {
	l, db := open(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	release := hold(t, testdb.Connect(t, db.Config().ConnString()))
	done := make(chan error)
	go func() {
		_, err := l.Run(ctx, Offer{For: time.Hour, Depth: 1000})
		done <- err
	}()
	require.Eventually(t, func() bool {
		available, _ := counts(t, db)
		return available == 1000
	}, 5*time.Minute, time.Millisecond)
	cancel()
	release() // the claims that were under way end
	require.ErrorIs(t, <-done, context.Canceled)
	for _, conn := range l.conns {
		assert.False(t, conn.IsClosed())
	}

	_, err := db.Exec(t.Context(), "drop function awa.claim")
	require.NoError(t, err)
	_, err = l.Run(t.Context(), Offer{For: time.Hour, Jobs: 1000, Depth: 1000})
	assert.ErrorContains(t, err, "claim: ")
}
