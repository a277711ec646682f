package sql_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// While its max_running, or its rate, lets no job of a queue begin, and one that was given back waits for that, claims
// that come for nothing write nothing, however many groups are to be looked at. Nobody is told of a time that has
// passed. Then all goes on: what was given back comes first.
func TestClaimsFromAClosedQueue(t *testing.T) {
	for _, by := range []string{"max_running", "rate", "pause"} {
		t.Run(by, func(t *testing.T) {
			s := newDatabase(t).session()
			s.limits("q", `{"group_max_running": 1, "max_running": 2}`)
			first := append(s.enqueueInGroup("q", "g", 1), s.enqueueInGroup("q", "h", 1)...)
			running := s.claim("q", 9)
			require.Equal(t, first, ids(running))
			line := s.enqueueInGroup("q", "g", 2)
			require.Empty(t, s.claim("q", 9))
			s.exec(`select awa.configure_group('q', 'i', '{"group_rate": {"jobs": 1, "per": "1 hour"}}')`)
			s.limits("q", `{"max_running": 4}`)
			opens := s.enqueueInGroup("q", "i", 2)
			began := s.claim("q", 9) // the other one waits for the rate of its group
			require.Equal(t, opens[:1], ids(began))
			s.completeMany(began)
			require.InDelta(t, time.Hour, s.opensIn("q"), float64(time.Minute))

			s.exec("select awa.release($1, $2)", running[0].JobID, running[0].Receipt)
			switch by {
			case "max_running":
				s.limits("q", `{"max_running": 1}`)
			case "rate":
				s.limits("q", `{"rate": {"jobs": 1, "per": "10 hours"}}`)
				again := s.claim("q", 9)
				require.Equal(t, ids(running[:1]), ids(again), "that uses the rate up")
				s.exec("select awa.release($1, $2)", again[0].JobID, again[0].Receipt)
			case "pause":
				s.exec("select awa.pause_queue('q')")
			}
			require.Empty(t, s.claim("q", 9))
			s.exec("insert into awa.slots (shard, looks) select awa._queue_id('q') << 6, array_agg(n) " +
				"from generate_series(1, 30000) n")
			s.passGates(2 * time.Hour)
			noted := "select array_agg(xid::text order by xid)::text from awa.slots"
			before := one[string](s, noted)
			for range 3 {
				require.Empty(t, s.claim("q", 9))
			}
			require.Equal(t, before, one[string](s, noted))
			if by == "rate" {
				require.Greater(t, s.opensIn("q"), time.Hour)
			} else {
				require.Equal(t, 24*time.Hour, s.opensIn("q"))
			}
			s.slots()
			s.exec("select awa.resume_queue('q')")
			s.limits("q", `{"max_running": 9, "rate": null}`)
			begun := s.claimsToTheEnd("q", 9)
			require.Equal(t, running[0].JobID, begun[0].JobID)
			require.Contains(t, ids(begun), opens[1])
			require.NotContains(t, ids(begun), line[0])
			s.slots()
			s.balanced()
		})
	}
}
