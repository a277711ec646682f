package sql_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// enqueueForGroups makes so many jobs of each of some groups, one group after the other; "" is none.
func (s *session) enqueueForGroups(queue string, jobs int, groups ...string) {
	s.Helper()
	for _, group := range groups {
		for left := jobs; left > 0; left -= 10_000 {
			s.exec("select awa.enqueue_batch(jsonb_agg(jsonb_build_object('queue', $1::text, 'kind', 'k', 'group_key', "+
				"nullif($2::text, '')))) from generate_series(1, $3)", queue, group, min(left, 10_000))
		}
	}
}

// serves claims jobs and completes them; it returns their groups, in the order in which they begin.
func (s *session) serves(queue string, jobs int) []string {
	s.Helper()
	attempts, groups := s.claimGroups(queue, jobs)
	if len(attempts) > 0 {
		require.Empty(s, s.completeMany(attempts))
	}
	return groups
}

// claimGroups claims jobs, and returns their groups, too.
func (s *session) claimGroups(queue string, jobs int) (attempts []claimed, groups []string) {
	s.Helper()
	rows, err := s.db.Query(s.ctx, "select job_id, receipt, coalesce(group_key, '') from awa.claim($1, $2)", queue, jobs)
	require.NoError(s, err)
	var a claimed
	var group string
	_, err = pgx.ForEachRow(rows, []any{&a.JobID, &a.Receipt, &group}, func() error {
		attempts, groups = append(attempts, a), append(groups, group)
		return nil
	})
	require.NoError(s, err)
	return attempts, groups
}

// leftTheLog returns how many jobs of a queue claims have read.
func (s *session) leftTheLog(queue string, served int) int {
	s.Helper()
	return served + one[int](s, "select count(*)::int from awa.limited_jobs where shard >> 6 = awa._queue_id($1)", queue)
}

func count(groups []string) map[string]int {
	counts := map[string]int{}
	for _, group := range groups {
		counts[group]++
	}
	return counts
}

// A few jobs of each of many groups come behind very many of one. Claims read 200 entries at least for each job of a
// group that was served before, so the others begin soon; and from then on each group in its turn.
func TestTurnsBehindALargeGroup(t *testing.T) {
	const large, others, each = 4000, 40, 3
	for _, size := range []int{1, 30} {
		s := newDatabase(t).session()
		s.limits("q", `{"group_turns": true}`)
		s.enqueueForGroups("q", large, "large")
		names := []string{}
		for n := range others {
			names = append(names, fmt.Sprint("other ", n))
		}
		s.enqueueForGroups("q", each, names...)
		begun, served, read := map[string]int{}, 0, 0
		serve := func() []string {
			groups := s.serves("q", size)
			require.NotEmpty(t, groups)
			again := 0
			for _, group := range groups {
				if begun[group] > 0 {
					again++
				}
				begun[group]++
			}
			served += len(groups)
			now := s.leftTheLog("q", served)
			require.LessOrEqual(t, now-read, 2000, "a claim reads no more")
			if now < large+others*each {
				require.GreaterOrEqual(t, now-read, 200*again, "size %d, after %d", size, served)
			}
			read = now
			return groups
		}
		for len(begun) <= others {
			serve()
		}
		require.LessOrEqual(t, begun["large"], large/200+2+size)
		s.slots()
		before := begun["large"]
		for range (each - 1) * others / size {
			serve()
			for n, name := range names {
				if n > 0 && begun[name] < each && begun[names[0]] < each {
					require.InDelta(t, begun[names[0]], begun[name], 2, "others are served in turn")
				}
			}
		}
		s.slots()
		require.LessOrEqual(t, begun["large"]-before, each+size, "and so is the large one")
		require.Greater(t, begun["large"], before)
		s.balanced()
	}
}

// Where few groups wait, a claim of many jobs is filled all the same, with as many of each, in few statements. Those
// that have no more leave their share to the others; a job that another session is changing is passed over.
func TestTurnsOfFewGroups(t *testing.T) {
	d := newDatabase(t)
	s, other := d.session(), d.session()
	s.limits("q", `{"group_turns": true}`)
	s.enqueueForGroups("q", 300, "a", "b", "c")
	s.enqueueForGroups("q", 5, "d")
	claims := "select count(*)::int from awa.lease_claims where lane & 7 = 7"
	for _, want := range []map[string]int{{"a": 99, "b": 98, "c": 98, "d": 5}, {"a": 100, "b": 100, "c": 100}} {
		before := one[int](s, claims)
		got := count(s.serves("q", 300))
		for group, jobs := range want {
			require.InDelta(t, jobs, got[group], 1, "%v", got)
		}
		require.Equal(t, 300, got["a"]+got["b"]+got["c"]+got["d"])
		require.LessOrEqual(t, one[int](s, claims)-before, 8, "statements")
		s.slots()
	}
	require.LessOrEqual(t, one[int](s, "select max(rate_turns) from awa.group_states"), 1, "no group has two turns")

	other.exec("begin")
	other.exec("select awa.cancel(job_id) from awa.limited_jobs where waiting_id = any(array(select min(waiting_id) " +
		"from awa.turns))")
	require.Greater(t, len(s.serves("q", 60)), 2, "the groups go on")
	s.slots()
	other.exec("rollback")
	total := 0
	for {
		got := s.serves("q", 100)
		if len(got) == 0 {
			break
		}
		total += len(got)
		s.slots()
	}
	require.Equal(t, 0, one[int](s, "select count(*)::int from awa.jobs where state <> 'completed'"))
	s.balanced()
	s.forgetsIdleGroups()
}

// What fits into the bytes of a claim bounds what a claim takes of few groups; turns that it could not serve are not
// left behind, before those of a group that comes then.
func TestTurnsOfFewLargeJobs(t *testing.T) {
	s := newDatabase(t).session()
	s.limits("q", `{"group_turns": true}`)
	s.exec("select awa.enqueue('q', 'k', to_jsonb(repeat('x', 20000)), group_key => 'a') from generate_series(1, 40)")
	require.Less(t, len(s.serves("q", 40)), 10)
	require.LessOrEqual(t, one[int](s, "select count(*)::int from awa.turns"), 2)
	s.enqueueForGroups("q", 1, "b")
	got := count(s.serves("q", 4))
	require.Equal(t, 1, got["b"])
	s.slots()
}

// A claim copies what it reads, and ends soon, however large the jobs are: one of more than 8 kB counts for several.
// All the same it begins as many as it may, also of a group that was served before.
func TestTurnsReadSoManyBytes(t *testing.T) {
	s := newDatabase(t).session()
	s.limits("q", `{"group_turns": true}`)
	const size, jobs = 100_000, 60
	for _, group := range []any{"a", nil} { // these are read in one part; a job without a group has its turn at once
		s.exec("select awa.enqueue('q', 'k', to_jsonb(repeat('x', $1)), group_key => $2) from generate_series(1, $3)",
			size, group, jobs/2)
	}
	s.exec("select awa.enqueue('q', 'k', to_jsonb(repeat('x', $1)))", 200*8192+size) // more than a claim of one job reads
	read := 0
	for n := range jobs + 1 {
		require.Len(t, s.claim("q", 1), 1, "claim %d", n)
		now := s.leftTheLog("q", n+1)
		require.LessOrEqual(t, now-read, 200*8192/size+1)
		read = now
		s.slots()
	}
	require.Empty(t, s.claim("q", 1))
	s.balanced()
}

// A job without a group is a group by itself: it has its turn when claims come to it. It holds no slot, and its group's
// pauses and limits are none of its business; another priority is served first, as ever.
func TestTurnsOfJobsWithoutAGroup(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"group_turns": true, "max_running": 100}`)
	s.enqueueForGroups("q", 100, "a", "b")
	require.Len(t, s.serves("q", 2), 2)
	s.enqueueForGroups("q", 10, "")
	counts := count(nil)
	for range 14 {
		for _, group := range s.serves("q", 1) {
			counts[group]++
		}
		s.slots()
	}
	require.Equal(t, 10, counts[""], "%v", counts)
	require.Equal(t, 2, counts["a"])

	s.enqueueForGroups("q", 6, "")
	urgent := s.enqueueWithPriority("q", 1)
	got := s.claim("q", 1)
	require.Equal(t, []int64{urgent}, ids(got))
	require.Zero(t, one[int](s, "select count(*)::int from awa._holders where group_id is not null"))
	s.completeMany(got)
	require.Len(t, s.serves("q", 1), 1) // the others are put aside
	job := one[int64](s, "select min(job_id) from awa.limited_jobs where group_key is null")
	require.Contains(t, one[string](s, "select awa.explain_job($1)", job), "waits for its turn beside the groups")
	s.exec("select awa.cancel($1)", job)
	other := one[int64](s, "select min(job_id) from awa.limited_jobs where group_key is null")
	s.exec("select awa.set_priority($1, 1)", other)
	require.Equal(t, []int64{other}, ids(s.claim("q", 1)))
	s.slots()
	last := one[int64](s, "select max(job_id) from awa.limited_jobs where group_key is null")
	s.limits("q", `{"group_max_running": 1}`) // turns of groups go back, its own does not
	require.Len(t, s.claim("q", 1), 1)
	s.slots()
	s.materialize()
	s.exec("select awa._recount_limits()") // as a restore does
	s.slots()
	s.limits("q", `{"group_turns": false, "group_max_running": null}`)
	require.Contains(t, ids(s.claim("q", 90)), last)
	s.slots()
	s.balanced()
}

// Switched on and off while jobs wait, run and come: nothing is lost, and nothing stands still.
func TestTurnsOnAndOff(t *testing.T) {
	for _, other := range []string{`{}`, `{"group_max_running": 2}`, `{"group_order": "strict"}`,
		`{"group_rate": {"jobs": 1000, "per": "1 second", "burst": 3}}`} {
		for _, sees := range []bool{false, true} {
			s := newDatabase(t).session()
			s.limits("q", other)
			total := 0
			open := []claimed{}
			for round := range 6 {
				s.enqueueForGroups("q", 8, "a", "b", "c", "")
				open = append(open, s.claim("q", 5)...)
				s.limits("q", fmt.Sprintf(`{"group_turns": %t}`, round%2 == 0))
				if sees {
					open = append(open, s.claim("q", 5)...)
					s.slots()
				}
				if round%3 == 1 {
					total += len(open)
					s.completeMany(open)
					open = nil
				}
			}
			s.completeMany(open)
			total += len(open)
			s.limits("q", `{"group_rate": null}`)
			for len(s.serves("q", 50)) > 0 {
			}
			s.slots()
			require.Zero(t, one[int](s, "select count(*)::int from awa.jobs where state <> 'completed'"), other)
			s.balanced()
			s.audited()
			s.forgetsIdleGroups()
		}
	}
}

// Other limits hold beside turns: no more of a group run than may, also where a pause, an order or a rate closes it;
// a turn is given when it opens.
func TestTurnsBesideOtherLimits(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"group_turns": true, "group_max_running": 2}`)
	s.enqueueForGroups("q", 9, "a", "b", "c")
	got, groups := s.claimGroups("q", 50)
	require.Equal(t, map[string]int{"a": 2, "b": 2, "c": 2}, count(groups))
	s.slots()
	require.Equal(t, 21, one[int](s, "select limited::int from awa.queue_counts('q')"))
	require.Empty(t, s.claim("q", 50))
	s.exec("select awa.pause_group('q', 'a', 'asked')")
	require.Empty(t, s.claim("q", 50))
	s.completeMany(got)
	got, groups = s.claimGroups("q", 3)
	require.Equal(t, map[string]int{"b": 2, "c": 1}, count(groups))
	s.slots()
	s.exec("select awa.resume_group('q', 'a')")
	s.completeMany(got[:1])
	more, groups := s.claimGroups("q", 50)
	require.Equal(t, 2, count(groups)["a"], "it had none")
	require.Len(t, groups, 4, "six run")
	s.completeMany(append(got[1:], more...))
	s.limits("q", `{"group_order": "strict", "group_max_running": null}`)
	got, groups = s.claimGroups("q", 50)
	require.Equal(t, map[string]int{"a": 1, "b": 1, "c": 1}, count(groups))
	s.exec("select awa.fail($1, $2, 'error', '1 hour')", got[0].JobID, got[0].Receipt)
	s.completeMany(got[1:])
	kept := groups[0]
	_, groups = s.claimGroups("q", 50)
	require.Len(t, groups, 2)
	require.NotContains(t, groups, kept, "it is reserved for its job")
	s.slots()
	s.promotesAll()
	require.Equal(t, ids(got[:1]), ids(s.claim("q", 50)), "it keeps its place")
	s.slots()
	s.audited()

	s = d.session()
	s.limits("r", `{"group_turns": true, "group_rate": {"jobs": 2, "per": "1 hour", "burst": 2}}`)
	s.enqueueForGroups("r", 9, "a", "b")
	require.Equal(t, map[string]int{"a": 2, "b": 2}, count(s.serves("r", 50)))
	require.Empty(t, s.claim("r", 50))
	s.slots()
	require.True(t, one[bool](s, "select awa.next_ready_at('{r}') > now() + interval '20 minutes'"))
	s.exec("update awa.group_states set next_at = next_at - interval '31 minutes', " +
		"opens_at = opens_at - interval '31 minutes'")
	require.Equal(t, map[string]int{"a": 1, "b": 1}, count(s.serves("r", 50)))
	require.Empty(t, s.claim("r", 50))
	s.slots()
	s.limits("m", `{"group_turns": true, "max_running": 3}`)
	s.enqueueForGroups("m", 9, "a", "b")
	got = s.claim("m", 50)
	require.Len(t, got, 3)
	require.Empty(t, s.claim("m", 50))
	s.completeMany(got[:2])
	require.Len(t, s.claim("m", 50), 2)
	s.slots()
}

// Under strict all jobs with a group lie in one lane, and have their turns in those of their priorities: a claim that
// has read them comes there, whichever it began with.
func TestTurnsInOrderAmongPriorities(t *testing.T) {
	for _, order := range []string{"strict", "halt"} {
		s := newDatabase(t).session()
		s.limits("q", `{"group_turns": true, "group_order": "`+order+`"}`)
		jobs := map[string][]int64{}
		for n := range 12 {
			group := fmt.Sprint("g", n%3)
			jobs[group] = append(jobs[group], one[int64](s, "select awa.enqueue('q', 'k', group_key => $1, priority => $2)",
				group, 1+(n*7)%4))
		}
		for n := range 12 {
			got, groups := s.claimGroups("q", 1)
			require.Len(t, got, 1, "claim %d", n)
			require.Equal(t, jobs[groups[0]][0], got[0].JobID)
			jobs[groups[0]] = jobs[groups[0]][1:]
			s.completeMany(got)
			s.slots()
		}
		s.exec("select awa.enqueue_batch(jsonb_agg('{\"queue\": \"q\", \"kind\": \"k\", \"group_key\": \"large\", " +
			"\"priority\": 4}'::jsonb)) from generate_series(1, 1500)") // another priority than the lane's
		s.exec("select awa.enqueue('q', 'k', group_key => 'h', priority => 4)")
		for n := 0; ; n++ {
			got := s.serves("q", 1)
			require.Len(t, got, 1, "claim %d", n)
			if got[0] == "h" {
				require.LessOrEqual(t, n, 12)
				break
			}
		}
		s.slots()
	}
}

// Under an order, while the lane in which all jobs come is not read, a lane that comes before it and has nothing to
// begin does not keep its jobs waiting: one that was used once, and whose last claim saw a transaction in progress; and
// one whose job another session is cancelling.
func TestTurnsBesideALaneWithNothingToBegin(t *testing.T) {
	for _, order := range []string{"strict", "halt"} {
		for _, way := range []string{"used once", "is cancelled"} {
			d := newDatabase(t)
			s, other := d.session(), d.session()
			s.limits("q", `{"group_turns": true, "group_order": "`+order+`"}`)
			other.exec("begin")
			if way == "used once" {
				other.exec("select awa.enqueue('r', 'k')")
				s.enqueueWithPriority("q", 1)
				require.Len(t, s.serves("q", 1), 1)
				other.exec("commit")
			} else {
				for _, group := range []string{"a", "b"} {
					s.exec("select awa.enqueue('q', 'k', group_key => $1, priority => 1)", group)
				}
				require.Equal(t, []string{"a"}, s.serves("q", 1))
				other.exec("select awa.cancel(w.job_id) from awa.limited_jobs w join awa.turns t using (waiting_id)")
			}
			s.enqueueForGroups("q", 4500, "large")
			for n := range 2 {
				require.Equal(t, []string{"large"}, s.serves("q", 1), "%s, %s, claim %d", order, way, n)
			}
			if way == "is cancelled" {
				other.exec("rollback")
			}
			s.slots()
			s.balanced()
		}
	}
}

// Jobs that have expired in line take no turn with them, and however many there are, a claim ends.
func TestTurnsOfExpiredJobs(t *testing.T) {
	s := newDatabase(t).session()
	s.limits("q", `{"group_turns": true}`)
	s.exec("select awa.enqueue('q', 'k', group_key => 'g', expires_at => now() + interval '1 day') " +
		"from generate_series(1, 900)")
	s.exec("select awa.enqueue('q', 'k', expires_at => now() + interval '1 day') from generate_series(1, 5)")
	require.Len(t, s.serves("q", 1), 1)
	for one[int](s, "select count(*)::int from awa._available") > 0 {
		require.Len(t, s.serves("q", 1), 1)
	}
	s.enqueueForGroups("q", 2, "g", "h")
	s.exec("update awa.limited_jobs set expires_at = now() - interval '1 second'")
	counts := count(nil)
	for range 60 {
		for _, group := range s.serves("q", 1) {
			counts[group]++
		}
		s.slots()
	}
	require.Equal(t, map[string]int{"g": 2, "h": 2}, counts)
	s.balanced()
}

// In a queue of several shards groups are served by turns within each shard. A shard whose claims have not looked at
// its groups since the setting was changed is found.
func TestTurnsOnShards(t *testing.T) {
	s := newDatabase(t).session()
	s.limits("q", `{"shards": 4, "group_turns": true}`)
	names := []string{}
	for n := range 20 {
		names = append(names, fmt.Sprint("g", n))
	}
	s.enqueueForGroups("q", 40, names...)
	s.enqueueForGroups("q", 20, "")
	served := 0
	for n := 0; served < 800+20; n++ {
		if n == 30 {
			s.limits("q", `{"group_turns": false}`)
			for one[int](s, "select cardinality(awa._shards_with_jobs(awa._queue_id('q'), '{}'))") > 0 && served < 500 {
				served += len(s.serves("q", 10))
			}
			s.limits("q", `{"group_turns": true}`)
		}
		got := s.serves("q", 10)
		require.NotEmpty(t, got)
		served += len(got)
		s.slots()
	}
	require.Empty(t, s.claim("q", 10))
	s.balanced()
}

// A job that runs for long keeps nobody waiting where its group has room: health says nothing of it, until it has none.
func TestTurnsBesideALongJob(t *testing.T) {
	for _, settings := range []string{`{"group_turns": true}`, `{"group_turns": true, "group_max_running": 2}`} {
		s := newDatabase(t).session()
		s.exec("select awa.configure('{\"warn_group_age\": \"1 millisecond\"}')")
		s.limits("q", settings)
		s.enqueueForGroups("q", 9, "a", "b")
		require.Len(t, s.claim("q", 1), 1)
		s.materialize()
		s.exec("select pg_sleep(0.005)")
		warnings := "select count(*)::int from awa.health() where topic = 'group'"
		require.Zero(t, one[int](s, warnings), settings)
		s.limits("q", `{"group_max_running": 1}`)
		s.claim("q", 9)
		require.Equal(t, 1, one[int](s, warnings), settings)
	}
}

// A queue that is dropped leaves no turns to the next one of its name; what waits in line stays while the ring turns.
func TestTurnsWhileTheRingTurns(t *testing.T) {
	s := newDatabase(t).session()
	s.exec("update awa.settings set completed_retention = '0'")
	s.limits("q", `{"group_turns": true}`)
	s.enqueueForGroups("q", 12, "a", "b", "")
	for range 6 {
		require.Len(t, s.serves("q", 3), 3)
		s.exec("select awa.rotate(true)")
		for range 20 {
			if outcome := s.prune(); outcome == "truncated" || outcome == "empty" {
				break
			}
		}
		s.slots()
		s.balanced()
	}
	s.exec("select awa.drop_queue('q', true)")
	require.Zero(t, one[int](s, "select (select count(*) from awa.turns) + (select count(*) from awa.limited_jobs)"))
	s.enqueueForGroups("q", 2, "a")
	require.Len(t, s.serves("q", 9), 2)
	s.balanced()
}

// Whatever operators do with jobs that wait for their turn, each is served once, or gone, and no group stands still.
func TestTurnsOfChangedJobs(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 2))
	s := newDatabase(t).session()
	s.limits("q", `{"group_turns": true, "group_max_running": 3, "dead_letter": true}`)
	s.limits("other", `{"group_turns": true}`)
	calls := []string{"select awa.cancel($1)", "select awa.move($1, 'other')", "select awa.set_priority($1, 1)",
		"select awa.set_priority($1, 3)", "select awa.reschedule($1, now() + interval '1 hour')",
		"select awa.reschedule($1, now(), '{\"a\": 1}')"}
	open := []claimed{}
	for range 150 {
		switch random.IntN(6) {
		case 0:
			s.enqueueForGroups("q", 1+random.IntN(4), []string{"a", "b", "c", ""}[random.IntN(4)])
		case 1, 2:
			open = append(open, s.claim("q", 1+random.IntN(5))...)
		case 3:
			if len(open) > 0 {
				call := []string{"select awa.complete($1, $2)", "select awa.release($1, $2)", "select awa.snooze($1, $2, '0')",
					"select awa.fail($1, $2, 'error', '0')", "select awa.discard($1, $2, 'error')"}[random.IntN(5)]
				s.exec(call, open[0].JobID, open[0].Receipt)
				open = open[1:]
			}
		default:
			jobs := list[int64](s, "select job_id from awa.limited_jobs where shard >> 6 = awa._queue_id('q') order by 1")
			if len(jobs) > 0 {
				s.exec(calls[random.IntN(len(calls))], jobs[random.IntN(len(jobs))])
			}
		}
		s.slots()
	}
	s.completeMany(open)
	for range 200 {
		s.promotesAll()
		if len(s.serves("q", 9))+len(s.serves("other", 9)) == 0 {
			break
		}
		s.slots()
	}
	require.Zero(t, one[int](s, "select count(*)::int from awa.jobs where state <> all(awa._states('ended'))"))
	s.audited()
}
