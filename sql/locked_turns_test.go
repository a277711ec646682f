package sql_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A claim of one job goes on past turns whose jobs other sessions are changing, to those of groups that may go on.
// These turns come later, and no job is lost.
func TestClaimPastLockedTurns(t *testing.T) {
	for _, settings := range []string{`{"group_max_running": 1}`, `{"group_max_running": 1, "group_turns": true}`,
		`{"group_order": "strict"}`} {
		for _, locked := range []int{1, 3, 60} {
			t.Run(fmt.Sprint(settings, locked), func(t *testing.T) {
				d := newDatabase(t)
				s, holder := d.session(), d.session()
				s.limits("q", settings)
				var jobs [2][]int64
				var running []claimed
				for n := range jobs {
					for group := range locked + 1 {
						jobs[n] = append(jobs[n], s.enqueueInGroup("q", fmt.Sprintf("g%d", group), 1)...)
					}
					running = append(running, s.claimsToTheEnd("q", 100)...)
				}
				require.ElementsMatch(t, jobs[0], ids(running))
				s.completeMany(running)
				first := s.claim("q", 1) // it has dealt turns to all
				require.Len(t, first, 1)
				require.Equal(t, locked, one[int](s, "select count(*)::int from awa.turns"))
				free := one[int64](s, "select w.job_id from awa.turns t join awa.limited_jobs w using (waiting_id) "+
					"order by t.turn_id desc limit 1")
				holder.exec("begin")
				for _, id := range jobs[1] {
					if id != free && id != first[0].JobID {
						holder.exec("select awa.set_priority($1, 4)", id)
					}
				}
				s.neverWaits()
				begun := s.claim("q", 1)
				require.Equal(t, []int64{free}, ids(begun))
				s.slots()
				holder.exec("rollback")
				require.ElementsMatch(t, jobs[1], ids(append(append(first, begun...), s.claimsToTheEnd("q", 1)...)))
				s.slots()
				s.balanced()
			})
		}
	}
}
