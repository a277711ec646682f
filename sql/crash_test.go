package sql_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/pgserver"
)

// A claim that does not wait for the disk may be forgotten by a crash. Then its jobs come again: the answers of the
// workers of before are refused, what was answered stays answered, and what was enqueued is there.
func TestCrash(t *testing.T) {
	server, err := pgserver.Start(t.Context(), pgserver.Config{Settings: map[string]string{
		"wal_writer_delay": "10s", // what no session waits for is not written before the crash
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	_, err = driver.Migrate(t.Context(), server.URL())
	require.NoError(t, err)

	connect := func() *session {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		t.Cleanup(cancel)
		var db *pgx.Conn
		require.Eventually(t, func() (ok bool) {
			db, err = pgx.Connect(ctx, server.URL())
			return err == nil
		}, patience, 10*time.Millisecond)
		t.Cleanup(func() { db.Close(ctx) })
		return &session{T: t, ctx: ctx, db: db, pid: db.PgConn().PID()}
	}

	enqueued, answered := map[int64]bool{}, map[int64]bool{}
	var open []claimed // attempts that the workers of before the crash still believe to be theirs
	forgotten := 0
	for range 5 {
		s, witness := connect(), connect()
		for _, id := range s.enqueueMany("q", 40) {
			enqueued[id] = true
		}
		for _, j := range open {
			stale := s.completeMany([]claimed{j})
			switch state := s.state(j.JobID); {
			case len(stale) == 0:
				require.Equal(t, "completed", state)
				require.False(t, answered[j.JobID])
				answered[j.JobID] = true
			default:
				require.Equal(t, "available", state, "a forgotten claim leaves its jobs ready")
				forgotten++
			}
		}
		jobs := s.claim("q", 10) // this one is written with the next commit that waits
		require.Empty(t, s.completeMany(jobs[:5]))
		for _, j := range jobs[:5] {
			require.False(t, answered[j.JobID], "a job that was answered came again")
			answered[j.JobID] = true
		}
		open = jobs[5:]
		s.exec("set synchronous_commit = off")
		open = append(open, s.claim("q", 10)...)
		// the server goes down with it, recovers, and starts again
		require.NoError(t, syscall.Kill(int(s.pid), syscall.SIGKILL))
		require.Error(t, witness.try("select pg_sleep(60)"), "the server has ended all sessions")
	}
	require.Positive(t, forgotten, "no claim was forgotten: the test did not test anything")

	s := connect()
	for _, j := range open {
		if len(s.completeMany([]claimed{j})) == 0 {
			answered[j.JobID] = true
		}
	}
	for {
		jobs := s.claim("q", 100)
		if len(jobs) == 0 {
			break
		}
		require.Empty(t, s.completeMany(jobs))
		for _, j := range jobs {
			require.False(t, answered[j.JobID], "a job that was answered came again")
			answered[j.JobID] = true
		}
	}
	require.Equal(t, enqueued, answered)
	require.Equal(t, int64(len(enqueued)), one[int64](s, "select completed from awa.queue_counts('q')"))
}
