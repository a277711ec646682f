package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A claim that begins nothing, and has left groups to the next one that it did not look at, wakes the queue: in one of
// them a job may wait that can begin. Where it could deal none, what opens the queue wakes it.
func TestClaimsThatLeaveGroupsWake(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"group_order": "halt", "dead_letter": true}`)
	const groups = 2500
	s.exec("select awa.enqueue_batch((select jsonb_agg(jsonb_build_object('queue', 'q', 'kind', 'k', "+
		"'group_key', 'g' || n)) from generate_series(1, $1::int) n))", groups)
	dead := s.claimsToTheEnd("q", groups)
	require.Equal(t, groups, len(dead))
	s.exec("select awa.discard(j, r, 'error') from unnest($1::bigint[], $2::bigint[]) u(j, r)", ids(dead), receipts(dead))
	waits := s.enqueueInGroup("q", "g77", 1)
	require.Empty(t, s.claim("q", 9))
	s.exec("select awa.purge_dlq('q', max_jobs => 10000)")
	sleeps := func() { s.exec("select setval('awa.wake_clock_' || left(encode(sha256('q'), 'hex'), 1), 1)") }
	empty := false
	for !empty { // which groups it looks at is left to chance
		sleeps()
		s.exec("begin")
		empty = len(s.claim("q", 1)) == 0
		if empty {
			s.exec("commit")
		} else {
			s.exec("rollback")
		}
	}
	require.Greater(t, s.wakeTick("q"), int64(1))
	var begun []int64
	for claims := 0; len(begun) == 0; claims++ {
		require.Less(t, claims, 4)
		begun = ids(s.claim("q", 1))
	}
	require.Equal(t, waits, begun)
	for range 4 {
		require.Empty(t, s.claim("q", 1))
	}
	sleeps()
	require.Empty(t, s.claim("q", 1))
	require.Equal(t, int64(1), s.wakeTick("q"), "all are looked at")
	s.slots()
}

// wakeTick is when the workers of a queue were notified last.
func (s *session) wakeTick(queue string) int64 {
	s.Helper()
	return one[int64](s, "select pg_sequence_last_value(('awa.wake_clock_' || "+
		"left(encode(sha256(convert_to($1, 'UTF8')), 'hex'), 1))::regclass)", queue)
}
