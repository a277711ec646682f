package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Very many cancelled jobs in a row keep no claim for long. It walks over their entries for a quarter of a second, and
// notes how far it came; the next one goes on from there, and an empty one wakes the queue for that. None is passed
// that is not cancelled: not of a transaction that was committed late either.
func TestClaimsPastManyCancelledJobs(t *testing.T) {
	for _, c := range []struct {
		name, settings string
		isLong         bool // a claim has the time to walk over all of them
	}{
		{"without limits", `{}`, false},
		{"with limits", `{"group_max_running": 2}`, false},
		{"by turns", `{"group_max_running": 2, "group_turns": true}`, false},
		{"with shards", `{"shards": 2}`, false},
		{"in time", `{}`, true},
		{"in time, with limits", `{"group_max_running": 2}`, true},
		{"in time, by turns", `{"group_max_running": 2, "group_turns": true}`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDatabase(t)
			s, late := d.session(), d.session()
			s.limits("q", c.settings)
			budget := "'0'" // 2,000 entries at least
			if c.isLong {
				budget = "'1 hour'"
			}
			s.exec(changing("_next_part", "'250 milliseconds'", budget))
			enqueue := func(s *session, kind string, jobs int) []int64 {
				return list[int64](s, "select awa.enqueue_many('q', $1, array_fill('{}'::jsonb, array[$2::int]), "+
					"group_key => case when $3 then 'g' end)", kind, jobs, c.name == "with shards")
			}
			// claims until nothing was left, and returns what each claim got
			claims := func() (jobs []int64, got []int) {
				for {
					s.exec("select setval('awa.wake_clock_' || left(encode(sha256('q'), 'hex'), 1), 1)")
					n := ids(s.claim("q", 100))
					jobs = append(jobs, n...)
					got = append(got, len(n))
					if len(n) == 0 && s.wakeTick("q") == 1 {
						return jobs, got
					}
					require.Less(t, len(got), 20)
				}
			}
			late.exec("begin")
			enqueue(late, "bad", 5000)
			lates := enqueue(late, "k", 1)
			enqueue(late, "bad", 5000)
			first := enqueue(s, "k", 20)
			enqueue(s, "bad", 7000)
			second := enqueue(s, "k", 20)
			enqueue(s, "bad", 3000)
			require.EqualValues(t, 10000, one[int64](s, "select awa.cancel_where(queue => 'q', kind => 'bad', "+
				"max_jobs => 10000)"))
			jobs, got := claims()
			require.Equal(t, append(first, second...), jobs)
			if c.isLong {
				require.Equal(t, []int{40, 0}, got)
			} else {
				require.Equal(t, 20, got[0], "a claim ends where it would walk on for long: %v", got)
				require.Greater(t, len(got), 5, "%v", got)
			}

			late.exec("commit")
			require.EqualValues(t, 10000, one[int64](s, "select awa.cancel_where(queue => 'q', kind => 'bad', "+
				"max_jobs => 10000)"))
			jobs, got = claims()
			require.Equal(t, lates, jobs)
			require.Equal(t, c.isLong, len(got) == 2, "%v", got)

			last := enqueue(s, "k", 3)
			require.Equal(t, last, ids(s.claim("q", 100)), "then all is as before")
			s.exec("select awa.fold()")
			s.balanced()
		})
	}
}
