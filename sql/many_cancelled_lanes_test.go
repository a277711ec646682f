package sql_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// manyCancelled is a database whose claims walk over buried entries for a time, of which so much is over when they
// begin. 200 entries are read at once, and walked over at least, in place of 2,000.
func manyCancelled(t *testing.T, settings, time, over string) (database, *session) {
	t.Helper()
	d := newDatabase(t)
	s := d.session()
	s.limits("q", settings)
	s.exec(changing("_next_part", "'250 milliseconds'", "'"+time+"'"))
	s.exec(changing("_walked", "'250 milliseconds'", "'"+time+"'"))
	s.exec(changing("_claim_terms", "coalesce(began_at, v_terms.claimed_at)",
		"coalesce(began_at, v_terms.claimed_at - interval '"+over+"')"))
	s.exec(changing("_most_at_once", "2000", "200"))
	s.exec(changing("_walk_buried", "2000", "200"))
	s.exec(changing("_pass_buried", "if not found then", "if true then")) // a cancel passes what it has buried
	return d, s
}

func (s *session) enqueueBad(jobs, priority int, group string) {
	s.Helper()
	s.exec("select awa.enqueue_many('q', 'bad', array_fill('{}'::jsonb, array[$1::int]), priority => $2, "+
		"group_key => nullif($3, ''))", jobs, priority, group)
}

func (s *session) cancelBad(jobs int64) {
	s.Helper()
	require.Equal(s, jobs, one[int64](s, "select awa.cancel_where(queue => 'q', kind => 'bad', max_jobs => 10000)"))
}

// step claims once. It returns the jobs; whether another claim is called for, by jobs or because it woke the queue;
// and the lanes whose cursors it has moved.
func (s *session) step() (jobs []int64, goesOn bool, lanes []int64) {
	s.Helper()
	s.exec("select setval('awa.wake_clock_' || left(encode(sha256('q'), 'hex'), 1), 1)")
	last := one[int64](s, "select last_value from awa.claim_ids")
	jobs = ids(s.claim("q", 100))
	lanes = list[int64](s, "select distinct lane from awa.lease_claims where claim_id > $1", last)
	return jobs, len(jobs) > 0 || s.wakeTick("q") != 1, lanes
}

// The time that a claim has for buried entries is one for all of its lanes and shards: once it is over, and the cursor
// of a lane was moved, the claim ends, and wakes the queue where it has got no job.
func TestClaimsPastCancelledJobsOfManyLanes(t *testing.T) {
	const each = 150 // less than a claim reads in any case
	for _, c := range []struct {
		name, settings string
		shards         int
	}{
		{"lanes", `{}`, 0},
		{"lanes, with limits", `{"group_max_running": 2}`, 0},
		{"lanes, with limits of the queue", `{"max_running": 100}`, 0},
		{"lanes, by turns", `{"group_max_running": 2, "group_turns": true}`, 0},
		{"shards", `{"shards": 4}`, 4},
		{"shards, with limits", `{"shards": 4, "group_max_running": 2}`, 4},
		{"shards, by turns", `{"shards": 4, "group_max_running": 2, "group_turns": true}`, 4},
	} {
		for _, over := range []string{"2 hours", "0"} {
			t.Run(fmt.Sprintf("%s, %s", c.name, over), func(t *testing.T) {
				_, s := manyCancelled(t, c.settings, "1 hour", over)
				for n := range 4 {
					if c.shards > 0 {
						s.enqueueBad(each, 2, s.group(n, c.shards))
					} else {
						s.enqueueBad(each, n+1, "")
					}
				}
				s.cancelBad(4 * each)
				want := map[string]int{"2 hours": 1, "0": 4}[over] // lanes for each claim
				var moved []int64
				for goesOn := true; goesOn; {
					var jobs, lanes []int64
					jobs, goesOn, lanes = s.step()
					require.Empty(t, jobs)
					if goesOn || len(lanes) > 0 {
						require.Len(t, lanes, want)
					}
					moved = append(moved, lanes...)
				}
				slices.Sort(moved)
				require.Len(t, slices.Compact(moved), 4)
				last := s.enqueueMany("q", 3)
				require.Equal(t, last, ids(s.claim("q", 100)), "then all is as before")
				s.balanced()
			})
		}
	}
}

// Whatever comes between the steps, and beside the byte budget, each job is claimed once, in its order: also those of
// two transactions that were committed late.
func TestBetweenStepsPastCancelledJobs(t *testing.T) {
	for _, c := range []struct{ name, settings string }{
		{"without limits", `{}`},
		{"with limits", `{"group_max_running": 2}`},
		{"by turns", `{"group_max_running": 2, "group_turns": true}`},
		{"with shards", `{"shards": 2}`},
	} {
		for _, between := range []struct {
			name  string
			bytes int
			does  func(*session)
		}{
			{"a job's bytes", 1, func(*session) {}},
			{"rollback", 184320, func(s *session) {
				s.exec("begin")
				s.claim("q", 100)
				s.exec("rollback")
				s.exec("select awa.fold()")
			}},
			{"cleaning", 1000, func(s *session) {
				s.exec("select awa.rotate(true)")
				s.pruneOn() // it waits for the open transactions
			}},
		} {
			t.Run(c.name+", "+between.name, func(t *testing.T) {
				d, s := manyCancelled(t, c.settings, "0", "0")
				s.exec("update awa.settings set claim_bytes = $1, carry_max = 10000000", between.bytes)
				late := []*session{d.session(), d.session()}
				var lates, jobs, got []int64
				for _, l := range late {
					l.exec("begin")
					l.enqueueBad(250, 2, "g")
					lates = append(lates, l.enqueueGroup("q", "a", 1)...)
					l.enqueueBad(250, 2, "g")
				}
				claims := func() {
					t.Helper()
					for range 60 {
						step, goesOn, _ := s.step()
						got = append(got, step...)
						if !goesOn {
							return
						}
						between.does(s)
					}
					require.Fail(t, "it never ends", "%v", got)
				}
				jobs = s.enqueueMany("q", 2)
				s.enqueueBad(250, 2, "")
				jobs = append(jobs, s.enqueueMany("q", 2)...)
				s.enqueueBad(250, 2, "")
				s.cancelBad(500)
				claims()
				require.ElementsMatch(t, jobs, got)
				if c.name != "with shards" {
					require.Equal(t, jobs, got)
				}

				got = nil
				for _, l := range late {
					l.exec("commit")
				}
				s.cancelBad(1000)
				claims()
				require.ElementsMatch(t, lates, got)
				s.exec("select awa.fold()")
				s.balanced()
			})
		}
	}
}
