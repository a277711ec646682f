package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Turns are fair in starts, not in time: of a group whose jobs run for long as many begin as of one whose jobs end at
// once, until the long ones hold all slots of the workers. A limit of each group leaves the others theirs.
func TestTurnsAreFairInStarts(t *testing.T) {
	const slots, jobs = 8, 40
	for _, c := range []struct {
		settings   string
		long, runs int
	}{
		{`{"group_turns": true, "lease": "1 hour"}`, slots, slots},
		{`{"group_turns": true, "lease": "1 hour", "group_max_running": 3}`, 3, jobs},
	} {
		s := newDatabase(t).session()
		s.limits("q", c.settings)
		s.enqueueForGroups("q", jobs, "long", "short")
		begun := map[string]int{}
		for begun["long"] < slots && begun["short"] < jobs {
			attempts, groups := s.claimGroups("q", slots-begun["long"])
			require.NotEmpty(t, attempts, "%v", begun)
			for n, group := range groups {
				begun[group]++
				if group == "short" {
					s.completeMany(attempts[n : n+1])
				}
			}
			if begun["long"] < c.long {
				require.InDelta(t, begun["long"], begun["short"], 1, c.settings)
			}
			s.slots()
		}
		require.Equal(t, c.long, begun["long"], c.settings)
		require.InDelta(t, c.runs, begun["short"], 1, c.settings)
		s.balanced()
	}
}

// What was given back begins before all turns, also in a claim of one job; the turn of its group stays counted. It is
// one that was given as the last of several rounds, and put off, since another session was changing its job.
func TestTurnBesideWhatWasGivenBack(t *testing.T) {
	d := newDatabase(t)
	s, other := d.session(), d.session()
	s.limits("q", `{"group_turns": true, "group_max_running": 5}`)
	jobs := s.enqueueInGroup("q", "g", 3)
	first := s.claim("q", 1)
	require.Equal(t, jobs[:1], ids(first))
	other.exec("begin")
	other.exec("select awa.cancel($1)", jobs[2])
	require.Equal(t, jobs[1:2], ids(s.claim("q", 3)))
	other.exec("rollback")
	require.Equal(t, 1, one[int](s, "select count(*)::int from awa.turns"))
	s.exec("select awa.release($1, $2)", first[0].JobID, first[0].Receipt)
	require.Equal(t, jobs[:1], ids(s.claim("q", 1)))
	require.Equal(t, 1, one[int](s, "select rate_turns from awa.group_states order by state_id desc limit 1"),
		"otherwise it gets another one")
	s.slots()
	require.Equal(t, jobs[2:], ids(s.claim("q", 1)))
	s.slots()
	s.balanced()
}
