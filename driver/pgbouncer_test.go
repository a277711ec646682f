//go:build unix

package driver_test

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// A worker works behind a proxy that pools transactions, whatever the mode in which its pool sends queries, and resumes
// when the proxy was away.
func TestBehindAProxy(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			driver.SetMaintenance(t, 20*time.Millisecond)
			databaseURL := testdb.URL(t)
			proxy := testdb.StartBouncer(t, databaseURL, 3)
			var listens atomic.Bool
			tap := &wiretap{onWrite: func(_ *tappedConn, sent []byte) (func() error, error) {
				if bytes.Contains(sent, []byte("listen ")) {
					listens.Store(true)
				}
				return nil, nil
			}}
			direct, through := untapped(t, databaseURL), tap.pool(t, proxy.URL(databaseURL, mode))
			ran := newTally()
			handler := func(ctx context.Context, job *driver.Job[note]) error {
				if job.Args.Text == "progress" {
					for i := range 5 {
						if err := job.SetProgress(ctx, i); err != nil {
							return err
						}
						if _, err := job.Extend(ctx, time.Hour); err != nil {
							return err
						}
					}
					return errors.New("keeps its progress")
				}
				if err := verdict(job.Args.Text); err != nil {
					return err
				}
				job.SetOutput(job.Args.Text)
				return ran.handle(ctx, job)
			}
			// Several, so that they get each other's connections to the server.
			for range 3 {
				h := handle(handler)
				h.Schedule(driver.Schedule{Name: "declared", Cron: "@yearly", Args: note{}})
				runWorker(t, through, h, driver.WorkerConfig{PollInterval: 20 * time.Millisecond,
					HeartbeatEvery: 20 * time.Millisecond, ScheduleSource: "this", MemberOf: "postgres"})
			}
			waitFor(t, func() bool { return len(scheduleNames(t, direct)) == 1 }, "no schedule is synchronised")
			settings := `{"backoff_base": "1 hour"}`
			for text, want := range map[string]string{
				"": "completed", "fail": "retryable", "snooze": "scheduled", "discard": "failed", "cancel": "cancelled",
				"retry": "retryable", "progress": "retryable",
			} {
				id := enqueueConfigured(t, direct, note{text}, driver.EnqueueOptions{}, settings)
				job := waitForState(t, direct, id, want)
				switch text {
				case "":
					assert.JSONEq(t, `""`, string(job.Output))
				case "progress":
					assert.JSONEq(t, "4", string(job.Progress))
				}
			}
			deferred := enqueue(t, direct, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(50 * time.Millisecond)})
			waitForState(t, direct, deferred, "completed")
			// What only maintenance as a whole does.
			waitFor(t, func() bool {
				return queryValue[bool](t, direct, "select exists (select from awa.queue_rollups where completed > 0)")
			}, "maintenance is not done")
			assert.False(t, listens.Load(), "notifications would go to whoever gets that connection next")

			proxy.Stop()
			waiting := enqueue(t, direct, note{}, driver.EnqueueOptions{})
			proxy.Start()
			waitForState(t, direct, waiting, "completed")
			requireResumed(t, direct, ran)
		})
	}
}

// What is claimed ahead through such a proxy is run, or given back and run by another worker.
func TestClaimedAheadBehindAProxy(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			want := claimAhead(t, 5, 50*time.Millisecond)
			databaseURL := testdb.URL(t)
			proxy := testdb.StartBouncer(t, databaseURL, 3)
			direct, through := untapped(t, databaseURL), untapped(t, proxy.URL(databaseURL, mode))
			ids := enqueueNotes(t, direct, 6)
			g := newGate()
			runWorker(t, through, handle(g.handle), aheadConfig)
			first := receive(t, g.started)
			want.Store(0)
			other := newTally()
			runWorker(t, through, handle(other.handle), driver.WorkerConfig{PollInterval: 20 * time.Millisecond})
			for _, id := range ids {
				if id != first {
					assert.Equal(t, 1, waitForState(t, direct, id, "completed").Attempt)
					assert.Equal(t, 1, other.of(id))
				}
			}
			want.Store(5)
			close(g.open)
			for _, id := range append(enqueueNotes(t, direct, 100), first) {
				waitForState(t, direct, id, "completed")
				assert.Equal(t, 1, g.of(id)+other.of(id))
			}
		})
	}
}

// The proxy of these tests does what makes proxies a trouble: a session is nobody's.
func TestProxyPoolsTransactions(t *testing.T) {
	databaseURL := testdb.URL(t)
	proxy := testdb.StartBouncer(t, databaseURL, 3)
	first := testdb.Connect(t, proxy.URL(databaseURL, pgx.QueryExecModeCacheStatement))
	second := testdb.Connect(t, proxy.URL(databaseURL, pgx.QueryExecModeExec))
	pid := func(conn interface {
		QueryRow(context.Context, string, ...any) pgx.Row
	}) (pid int) {
		require.NoError(t, conn.QueryRow(t.Context(), "select pg_backend_pid()", pgx.QueryExecModeExec).Scan(&pid))
		return pid
	}
	before := pid(first)
	_, err := first.Exec(t.Context(), "select $1::int", 1) // prepares
	require.NoError(t, err)
	tx, err := second.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	require.Equal(t, before, pid(tx), "the connection to the server has changed hands")
	_, err = first.Exec(t.Context(), "select $1::int", 2)
	assert.ErrorContains(t, err, "does not exist", "a prepared statement stays with the session")
}
