package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Where many jobs at the head of a lane are cancelled, its cursor moves past them: but past no job that waits, whenever
// it was committed, and whoever else is changing it.
func TestCursorMovesPastBuriedJobs(t *testing.T) {
	d := newDatabase(t)
	s, late, other := d.session(), d.session(), d.session()
	s.setClaimWait("100 milliseconds")
	cursors := func() int {
		return one[int](s, "select count(*) from awa.lease_claims where job_ids = '{}'")
	}
	for _, queue := range []string{"a window of its own", "the window of a claim"} {
		t.Log(queue)
		s.exec("select awa.drop_queue('q', true) from awa.list_queues() where queue = 'q'")
		opened := 0
		if queue == "the window of a claim" {
			s.enqueueMany("q", 3)
			s.completes(s.claim("q", 2))
			s.exec("select awa.cancel_where('q')")
			opened = 2
		}
		before := cursors()
		late.exec("begin")
		first := one[int64](late, "select awa.enqueue('q', 'late')")
		jobs := s.enqueueMany("q", 900)
		require.Equal(t, int64(300), one[int64](s, "select awa.cancel_where('q', 'k', max_jobs => 300)"))
		require.Equal(t, before+1, cursors())
		late.exec("commit")
		s.exec("select awa.cancel_where('q', 'k', max_jobs => 200)")
		require.Equal(t, before+2, cursors(), "in a window from which it is missing")
		other.exec("begin")
		other.exec("select awa.cancel($1)", jobs[650])
		require.Equal(t, int64(299), one[int64](s, "select awa.cancel_where('q', 'k', max_jobs => 300)"))
		require.Equal(t, before+3, cursors())
		other.exec("rollback")
		more := s.enqueueMany("q", 300)
		require.Equal(t, int64(300), one[int64](s, "select awa.cancel_where('q', 'k', max_jobs => 300)"))
		require.Equal(t, before+4, cursors(), "to the end of a window, and not into the next one, in which a job waits")
		want := append([]int64{first}, more[199:]...)
		var got []int64
		for {
			claimed := ids(s.claim("q", 100))
			if len(claimed) == 0 {
				break
			}
			got = append(got, claimed...)
		}
		require.ElementsMatch(t, want, got)
		require.Equal(t, []int64{int64(opened)}, list[int64](s, "select completed from awa.queue_counts('q')"))
		s.balanced()
	}
}

// A claim takes jobs that an open transaction has cancelled: the cursor goes on from there.
func TestCursorMovesBesideAClaim(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b := d.session(), d.session()
		jobs := a.enqueueMany("q", 500)
		a.exec("begin")
		a.exec("select awa.cancel_where('q', max_jobs => 300)")
		taken := b.claim("q", 100)
		more := b.enqueueMany("q", 5)
		a.exec(end)
		if end == "commit" {
			require.Equal(t, ids(taken), b.completeMany(taken))
			require.Equal(t, append(jobs[300:], more...), ids(b.claim("q", 400)))
		} else {
			require.Empty(t, b.completeMany(taken))
			require.Equal(t, append(jobs[100:], more...), ids(b.claim("q", 500)))
		}
		b.balanced()
	}
}
