package sql_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
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

// kills ends all processes of the server at once, and starts it again.
func (s server) kills() {
	s.t.Helper()
	require.NoError(s.t, s.Kill())
	require.NoError(s.t, s.Resume(s.t.Context()))
}

// The server crashes again and again while a segment is cleaned lane by lane: in the middle of a piece, after one, and
// after one that is forgotten. Then cleaning goes on, and each job is there once, whatever happened in between.
func TestCrashBetweenLanes(t *testing.T) {
	own, err := pgserver.Start(t.Context(), pgserver.Config{Settings: map[string]string{
		"wal_writer_delay": "10s", // what no session waits for is not written before the crash
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, own.Stop()) })
	server := server{own, t}
	d := server.database("app", true)
	s := d.session()
	s.carriesByLanes()
	alive, open := map[int64]bool{}, map[string][]claimed{}
	enqueue := func(s *session, queue string, jobs int) {
		for _, id := range s.enqueueMany(queue, jobs) {
			alive[id] = true
		}
	}
	const queues = 4
	for n := range queues {
		q := fmt.Sprint("q", n)
		enqueue(s, q, 6)
		jobs := s.claim(q, 3)
		s.completes(jobs[:1])
		delete(alive, jobs[0].JobID)
		open[q] = jobs[1:]
	}
	s.exec("select awa._fold(null, true)")
	s.rotate()
	crashes, forgotten := map[string]int{}, 0
	for n, outcome := 0, ""; outcome != "truncated" && outcome != "empty"; n++ {
		require.Less(t, n, 200)
		q := fmt.Sprint("q", n%queues)
		enqueue(s, q, 1)
		if len(open[q]) > 0 { // a claim that was forgotten leaves its jobs ready
			if j := open[q][0]; len(s.completeMany([]claimed{j})) == 0 {
				require.True(t, alive[j.JobID], "a job that was answered came again")
				delete(alive, j.JobID)
			} else {
				require.Equal(t, "available", s.state(j.JobID))
			}
			open[q] = open[q][1:]
		}
		before := one[string](s, "select r::text from awa.ring r")
		how := []string{"in the middle", "", "forgotten", "", "after"}[n%5]
		switch how {
		case "in the middle": // what it has written so far is on the disk
			s.exec("begin")
			s.prune()
			enqueue(d.session(), "other", 1)
		case "forgotten":
			s.exec("set synchronous_commit = off")
			open[q] = append(open[q], s.claim(q, 1)...)
			s.prune()
		default:
			outcome = s.prune()
		}
		if how != "" {
			server.kills()
			s = d.session()
			crashes[how]++
			if how == "forgotten" && before == one[string](s, "select r::text from awa.ring r") {
				forgotten++
			}
		}
		s.audited()
		require.ElementsMatch(t, slices.Collect(maps.Keys(alive)),
			list[int64](s, "select id from awa.jobs where state in ('available', 'running')"), "%d, %s", n, how)
	}
	t.Log("crashes", crashes, "forgotten", forgotten)
	require.Positive(t, forgotten, "no piece was forgotten: the test did not test anything")
	require.Len(t, crashes, 3)
	s.balanced()
	for _, jobs := range open {
		for _, j := range jobs {
			if len(s.completeMany([]claimed{j})) == 0 {
				delete(alive, j.JobID)
			}
		}
	}
	for _, q := range []string{"q0", "q1", "q2", "q3", "other"} {
		jobs := s.claim(q, 500)
		for _, j := range jobs {
			require.True(t, alive[j.JobID], "a job that was answered came again")
			delete(alive, j.JobID)
		}
		s.completes(jobs)
	}
	require.Empty(t, alive, "jobs that were lost")
	s.balanced()
}
