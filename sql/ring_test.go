package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A transaction that has read the books, and is left open, holds up nothing but truncation: jobs are counted, expire, and a segment is cleaned.
func TestAuditLeftOpen(t *testing.T) {
	d := newDatabase(t)
	reader, s := d.session(), d.session().neverWaits()
	failed := s.open("q", shapes[0])[0]
	s.exec("select awa.discard($1, $2, 'error')", failed.JobID, failed.Receipt)
	s.exec("update awa.done_entries set finalized_at = now() - interval '73 hours'")
	s.enqueueMany("q", 2)
	reader.exec("begin")
	reader.exec("select * from awa.audit()")
	s.exec("select awa._fold(null, true)")
	require.Equal(t, int64(3), one[int64](s, "select sum(appended)::bigint from awa.queue_rollups"))
	require.Equal(t, int64(1), one[int64](s, "select expired from awa.expire_history()"))
	s.rotate()
	require.Equal(t, "cleaned", s.prune())
	require.Equal(t, "blocked", s.prune())
	require.Len(t, s.claim("q", 9), 2)
	reader.exec("commit")
	s.prunes()
	s.audited()
}

// A cancel that decides at its commit about a job that was claimed meanwhile, and the drop of a queue, have read the tables of a segment that is being emptied, and so its truncation waits for them. They delete nothing there: a lock to
// write, beside that of the truncation, would be a deadlock at once.
func TestDeletesBesideATruncation(t *testing.T) {
	for _, drops := range []bool{false, true} {
		d := newDatabase(t)
		a, s, p := d.session(), d.session().neverWaits(), d.session()
		old := s.enqueueMany("old", 2)
		s.exec("select awa.cancel($1)", old[0])
		s.rotate()
		job := s.enqueue("q")
		require.Equal(t, "cleaned", s.prune())
		require.Equal(t, "truncating", s.prune(), "the entries")
		s.setPruneWait("1 minute")
		a.exec("begin")
		if drops {
			a.exec("select from awa.jobs")
		} else {
			a.exec("select awa.cancel($1)", job)
			require.Len(t, s.claim("q", 1), 1)
		}
		pruned := p.prunesInTheBackground()
		s.waitUntilBlocked(p)
		if drops {
			a.exec("select awa.drop_queue('q', true)")
		}
		a.exec("commit")
		require.Equal(t, "truncated", pruned(), "the tombstones")
		require.Equal(t, []string{map[bool]string{true: "gone", false: "cancelled"}[drops]}, s.states(job))
		s.audited()
		require.Equal(t, old[1:], ids(s.claim("old", 9)))
	}
}
