package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A claim after a change of one group's limits looks for the turns that wait, and passes none of those that were
// served while a transaction elsewhere keeps their rows.
func TestChangedGroupBesideServedTurns(t *testing.T) {
	d := newDatabase(t)
	s, old := d.session(), d.session()
	s.limits("q", `{"group_turns": true}`)
	s.exec("select awa.enqueue('q', 'k', group_key => 'g' || n % 20) from generate_series(1, 4000) n")
	s.exec("select awa.pause_group('q', 'closed')")
	require.Len(t, s.claim("q", 20), 20)
	old.exec("begin isolation level repeatable read")
	_ = one[int](old, "select 1")
	count := func() int64 {
		s.exec("select pg_stat_force_next_flush()")
		s.exec("select pg_stat_clear_snapshot()")
		return one[int64](s, "select idx_tup_read from pg_stat_user_indexes where indexrelname = 'turns_pkey'")
	}
	for range 60 {
		require.NotEmpty(t, s.claim("q", 50))
	}
	require.Greater(t, one[int64](s, "select last_value from awa.turn_ids"), int64(2000))
	s.exec("select awa.pause_group('q', 'other')")
	before := count()
	require.Len(t, s.claim("q", 1), 1)
	require.Less(t, count()-before, int64(500))
	s.slots()
}
