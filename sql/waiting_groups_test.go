package sql_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// enqueueForEach makes a job for each of so many groups, which expires after a day.
func (s *session) enqueueForEach(queue string, groups int) {
	s.Helper()
	s.exec("select awa.enqueue_batch(jsonb_agg(jsonb_build_object('queue', $1::text, 'kind', 'k', 'group_key', "+
		"'group ' || n, 'expires_at', now() + interval '1 day'))) from generate_series(1, $2::int) n", queue, groups)
}

// putsAllAside claims until so many jobs wait for their groups.
func (s *session) putsAllAside(queue string, jobs int) {
	s.Helper()
	for one[int](s, "select count(*)::int from awa.limited_jobs") < jobs {
		require.Empty(s, s.claim(queue, 5000))
	}
}

// rowsRead is how many rows of Awa's tables a call reads, in a transaction of its own, and what it returns.
func (s *session) rowsRead(call string) (rows int, returned string) {
	s.Helper()
	const read = "select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::int from pg_stat_xact_user_tables " +
		"where schemaname = 'awa'"
	s.exec("begin")
	before := one[int](s, read)
	returned = one[string](s, "select coalesce(min(r::text), '') from awa."+call+" r")
	rows = one[int](s, read) - before
	s.exec("commit")
	return rows, returned
}

// Jobs of many groups that wait for a day are in no segment: the ring turns, and neither its turns nor other passes of
// maintenance, nor claims, read more than a few rows of them, or of the groups that wait, or are idle and may not begin
// a job before that.
func TestManyGroupsThatWaitForADay(t *testing.T) {
	const groups, most = 4000, 1000
	s := newDatabase(t).session()
	s.exec("update awa.settings set completed_retention = '0'")
	s.limits("q", `{"group_rate": {"jobs": 1, "per": "1 day", "burst": 1}, "shards": 2}`)
	for _, waiting := range []int{0, groups} { // at first the groups are idle
		if s.enqueueForEach("q", groups); waiting == 0 {
			for begun := 0; begun < groups; {
				got := s.claim("q", 5000)
				require.NotEmpty(t, got)
				require.Empty(t, s.completeMany(got))
				begun += len(got)
			}
		} else {
			s.putsAllAside("q", groups)
		}
		for one[bool](s, "select more from awa.fold()") {
		}
		for turn := range 6 {
			for _, call := range []string{"rotate(true)", "fold()", "materialize()", "rescue()", "cancel_expired()",
				"promote_due()", "expire_history()", "claim('q', 500)", "claim('q', 1)"} {
				if rows, _ := s.rowsRead(call); turn > 0 { // at first they count, and summarize, what is in the log
					assert.Less(t, rows, most, "turn %d of the ring, with %d jobs that wait: %s", turn, waiting, call)
				}
			}
			for isOver := false; !isOver; {
				rows, returned := s.rowsRead("prune_oldest(true)")
				if turn >= 4 { // nothing is left of the log
					assert.Less(t, rows, most, "%s", returned)
				}
				isOver = strings.Contains(returned, "truncated") || strings.Contains(returned, "empty")
			}
		}
		require.Equal(t, waiting, one[int](s, "select limited::int from awa.queue_counts where queue = 'q'"))
	}
	s.slots()
}

// Of many jobs in line that have expired, each pass cancels a thousand, and reads a few rows for each, also beside an
// old snapshot, which keeps the rows of those that were cancelled; then no group has a line.
func TestManyExpiredJobsInLine(t *testing.T) {
	const groups, each = 400, 25
	d := newDatabase(t)
	s, old := d.session(), d.session()
	s.limits("q", `{"group_max_running": 1}`)
	for range 1 + each {
		s.enqueueForEach("q", groups)
	}
	first := s.claim("q", groups)
	require.Len(t, first, groups)
	s.putsAllAside("q", groups*each)
	old.exec("begin isolation level repeatable read")
	old.exec("select from awa.queues")
	s.exec("update awa.limited_jobs set expires_at = now() - interval '1 second'")
	for range groups * each / 1000 {
		rows, returned := s.rowsRead("cancel_expired()")
		require.Equal(t, "(1000)", returned)
		require.Less(t, rows, 30*1000)
	}
	rows, returned := s.rowsRead("cancel_expired()")
	require.Equal(t, "(0)", returned)
	require.Less(t, rows, 1000)
	old.exec("rollback")
	require.Empty(t, s.completeMany(first))
	require.Empty(t, s.claim("q", 9))
	require.Zero(t, one[int](s, "select count(*)::int from awa.list_groups('q')"))
	s.slots()
	s.audited()
}
