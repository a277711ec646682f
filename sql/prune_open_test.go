package sql_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// However many attempts are open in a segment, emptying it gives them rows of their own, and comes to its end, also
// where no program calls materialize.
func TestPruneBesideManyOpenAttempts(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.enqueueMany("q", 2500)
	var jobs []claimed
	for len(jobs) < 2500 {
		jobs = append(jobs, s.claim("q", 1000)...)
	}
	s.exec("select awa.rotate(true)")
	var outcomes []string
	require.Eventually(t, func() bool {
		outcome := s.prune()
		if outcome != "waiting" { // for snapshots of whoever uses the server beside this test
			outcomes = append(outcomes, outcome)
		}
		return outcome == "truncated" || len(outcomes) > 40
	}, patience, time.Millisecond)
	require.Equal(t, "truncated", outcomes[len(outcomes)-1], outcomes)
	require.NotContains(t, outcomes, "busy")
	require.Equal(t, len(jobs), one[int](s, "select count(*) from awa.leases"))
	require.Empty(t, s.completeMany(jobs))
	s.balanced()
}
