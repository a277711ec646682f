package sql_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A job that comes first in its group, and can't begin yet, keeps its place when it gets another priority: one that a
// worker has held, one that comes back to a closed group, and one that was retried under halt. Whether it has its turn
// or not.
func TestPriorityOfTheFirstInLine(t *testing.T) {
	for _, how := range []string{"held", "paused", "dead", "has a turn", "rate"} {
		t.Run(how, func(t *testing.T) {
			s := newDatabase(t).session()
			s.limits("q", `{"group_order": "halt", "group_rate": {"jobs": 60, "per": "1 hour", "burst": 3}}`)
			jobs := s.enqueueInGroup("q", "g", 2)
			first := s.claim("q", 9)
			require.Equal(t, jobs[:1], ids(first))
			end := func(call string) { s.exec(call, first[0].JobID, first[0].Receipt) }
			switch how {
			case "held", "has a turn":
				end("select awa.snooze($1, $2, '1 hour', hold_group => true)")
			case "paused", "rate":
				if how == "paused" {
					s.exec("select awa.pause_group('q', 'g')")
				} else {
					s.exec(`select awa.configure_group('q', 'g', '{"group_rate": {"jobs": 1, "per": "1 hour"}}')`)
				}
				end("select awa.fail($1, $2, 'error', '0')")
				s.promotesAll()
			case "dead":
				s.exec("select awa.pause_group('q', 'g')")
				end("select awa.discard($1, $2, 'error')")
				s.exec("select awa.retry($1)", jobs[0])
			}
			require.Empty(t, s.claim("q", 9))
			require.Empty(t, s.claim("q", 9))
			require.Equal(t, 2, one[int](s, "select count(*)::int from awa.limited_jobs"))
			other := s.enqueueWithPriority("q", 1)
			if how == "has a turn" {
				s.exec("select awa.resume_group('q', 'g')")
				require.Equal(t, []int64{other}, ids(s.claim("q", 1)))
				require.Equal(t, 1, one[int](s, "select count(*)::int from awa.turns"))
			} else {
				require.Equal(t, []int64{other}, ids(s.claim("q", 9)))
			}
			for _, priority := range []int{1, 4} {
				require.Equal(t, "available", one[string](s, "select awa.set_priority($1, $2)", jobs[0], priority))
				require.Equal(t, priority, one[int](s, "select priority from awa.jobs where id = $1", jobs[0]))
			}
			s.slots()
			s.exec("select awa.resume_group('q', 'g')")
			s.passGates(2 * time.Hour)
			first = s.claim("q", 9)
			require.Equal(t, jobs[:1], ids(first))
			require.Equal(t, 4, one[int](s, "select priority from awa.jobs where id = $1", jobs[0]))
			s.slots()
			s.completeMany(first)
			s.passGates(2 * time.Hour)
			require.Equal(t, jobs[1:], ids(s.claim("q", 9)))
			s.slots()
			s.balanced()
		})
	}
}
