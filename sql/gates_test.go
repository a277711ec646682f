package sql_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// passGates lets time pass for rates and pauses of groups.
func (s *session) passGates(span time.Duration) {
	s.Helper()
	s.exec("update awa.group_settings set paused_until = paused_until - $1::interval", span)
	s.exec("update awa.group_states set next_at = next_at - $1::interval, opens_at = opens_at - $1::interval", span)
	s.exec("update awa.shard_states set opened_until = opened_until - $1::interval", span)
}

// opensIn is how long it takes, at most a day, until next_ready_at says that something of the queue may begin.
func (s *session) opensIn(queue string) time.Duration {
	s.Helper()
	return one[time.Duration](s, "select least(awa.next_ready_at(array[$1]) - now(), '1 day')", queue)
}

// Nothing of a paused group begins, whatever waits, has its turn, or was given back; others go on. Once it is opened,
// all of it begins, in its order. Also in a queue without limits, and where the group had no jobs yet.
func TestPausedGroup(t *testing.T) {
	for _, limits := range []string{
		`{}`, `{"group_max_running": 2}`, `{"group_rate": {"jobs": 1000, "per": "1 second"}}`,
	} {
		s := newDatabase(t).session()
		s.limits("q", limits)
		s.exec("select awa.pause_group('q', 'new', 'because')")
		jobs := s.enqueueInGroup("q", "g", 6)
		fresh := s.enqueueInGroup("q", "new", 1)
		first := s.claim("q", 1)
		require.Equal(t, jobs[:1], ids(first)) // by now others wait, and one has its turn, where there are limits
		require.Len(t, s.claim("q", 1), 1)
		s.exec("select awa.pause_group('q', 'g')")
		other := s.enqueueInGroup("q", "h", 1)
		s.exec("select awa.release($1, $2)", first[0].JobID, first[0].Receipt)
		require.Equal(t, other, ids(s.claim("q", 9)), limits)
		for range 3 {
			require.Empty(t, s.claim("q", 9), limits)
			s.slots()
		}
		s.exec("select awa.resume_group('q', 'g')")
		require.Equal(t, jobs[0], s.claim("q", 9)[0].JobID, "what was given back comes first")
		if limits != `{"group_max_running": 2}` {
			require.Empty(t, s.claim("q", 9))
		}
		s.slots()
		if limits == `{"group_max_running": 2}` { // another one has its turn
			s.enqueueInGroup("q", "turns", 5)
			two := s.claim("q", 9)
			require.Len(t, two, 2)
			require.Empty(t, s.claim("q", 9))
			s.completeMany(two)
			require.Len(t, s.claim("q", 1), 1)
			s.exec("select awa.pause_group('q', 'turns')")
			require.Empty(t, s.claim("q", 9))
			s.exec("select awa.resume_group('q', 'turns')")
			require.Len(t, s.claim("q", 9), 1)
		}
		s.exec("select awa.resume_group('q', 'new')")
		require.Equal(t, fresh, ids(s.claim("q", 9)))
		s.slots()
		require.Zero(t, one[int](s, "select count(*)::int from awa.group_settings"), "a group that is open has no row")
		s.audited()
	}
}

// A group that is paused until a time opens by itself: next_ready_at says when, and the first claim after that begins
// its jobs. Also where a thousand groups open at once, whose looks do not fit into one claim; and where the clock was
// set back since others have opened.
func TestPauseThatEnds(t *testing.T) {
	s := newDatabase(t).session()
	const groups = 1500
	s.exec("select awa.pause_group('q', 'g' || n, null, now() + interval '1 hour') from generate_series(1, $1) n", groups)
	s.exec("select awa.enqueue('q', 'k', group_key => 'g' || n) from generate_series(1, $1) n", groups)
	for one[int](s, "select count(*)::int from awa.limited_jobs") < groups {
		require.Empty(t, s.claim("q", 9))
	}
	s.slots()
	require.InDelta(t, time.Hour, s.opensIn("q"), float64(time.Minute))
	require.Empty(t, s.claim("q", 9))
	s.passGates(time.Hour + time.Minute)
	require.Negative(t, s.opensIn("q"))
	begun := 0
	for begun < groups {
		got := len(s.claim("q", 400))
		require.Positive(t, got)
		begun += got
		s.slots()
	}
	s.exec("select awa.fold()")
	require.Zero(t, one[int](s, "select count(*)::int from awa.group_settings"), "a pause that is over has no row")

	s.exec("select awa.pause_group('q', 'late', null, now() + interval '1 hour')")
	job := s.enqueueInGroup("q", "late", 1)
	require.Empty(t, s.claim("q", 9))
	s.exec("update awa.shard_states set opened_until = now() + interval '2 hours'") // by a clock that was ahead
	require.Empty(t, s.claim("q", 9))
	s.slots()
	s.passGates(2 * time.Hour)
	require.Equal(t, job, ids(s.claim("q", 9)))
	s.slots()
}

// A pause holds from the first claim on that begins after its commit; an end of a pause that commits late wakes those
// who wait, once, also beside a claim that is open. One that rolls back has changed nothing.
func TestPauseBesideAClaim(t *testing.T) {
	d := newDatabase(t)
	s, claimer, other := d.session(), d.session(), d.session()
	s.limits("q", `{"group_max_running": 1}`)
	jobs := s.enqueueInGroup("q", "g", 4)

	claimer.exec("begin")
	first := claimer.claim("q", 9)
	require.Equal(t, jobs[:1], ids(first))
	s.exec("select awa.pause_group('q', 'g')") // waits for no claim
	claimer.exec("commit")
	s.completeMany(first)
	require.Empty(t, s.claim("q", 9))
	s.slots()

	other.exec("begin")
	other.exec("select awa.resume_group('q', 'g')")
	claimer.exec("begin")
	require.Empty(t, claimer.claim("q", 9))
	other.exec("commit")
	claimer.exec("commit")
	s.slots()
	second := s.claim("q", 9)
	require.Equal(t, jobs[1:2], ids(second))

	other.exec("begin")
	other.exec("select awa.pause_group('q', 'g')")
	s.completeMany(second)
	claimer.exec("begin")
	third := claimer.claim("q", 9)
	require.Equal(t, jobs[2:3], ids(third), "a pause that is not committed holds nothing")
	other.exec("rollback")
	claimer.exec("rollback")
	require.Equal(t, jobs[2:3], ids(s.claim("q", 9)))
	s.slots()
	s.audited()
}

// A group with its own limits has these, with the same exactness: raised, its jobs begin with the next claim; lowered,
// what runs goes on, and a job that has its turn does not begin before there is room; taken away, the queue's hold.
func TestConfiguredGroup(t *testing.T) {
	d := newDatabase(t)
	s, claimer := d.session(), d.session()
	s.limits("q", `{"group_max_running": 2}`)
	s.exec(`select awa.configure_group('q', 'acme', '{"group_max_running": 5}')`)
	acme, rest := s.enqueueInGroup("q", "acme", 20), s.enqueueInGroup("q", "rest", 20)
	begun := s.claim("q", 50)
	require.Len(t, begun, 7)
	require.Equal(t, 5, s.holds("q", new("acme")))
	s.slots()
	s.completeMany(begun[:3])
	require.Equal(t, acme[5:6], ids(s.claim("q", 1))) // two others have their turns
	s.exec(`select awa.configure_group('q', 'acme', '{"group_max_running": 3}')`)
	require.Empty(t, s.claim("q", 50))
	s.slots()
	s.completeMany(begun[3:4])
	require.Equal(t, acme[6:7], ids(s.claim("q", 50)))
	s.slots()

	claimer.exec("begin") // a limit that is changed beside a claim
	require.Empty(t, claimer.claim("q", 50))
	s.exec(`select awa.configure_group('q', 'acme', '{"group_max_running": 4}')`)
	claimer.exec("commit")
	require.Equal(t, acme[7:8], ids(s.claim("q", 50)))
	s.slots()
	s.exec(`select awa.configure_group('q', 'acme', '{"group_max_running": null}')`)
	require.Zero(t, one[int](s, "select count(*)::int from awa.group_settings"))
	require.Empty(t, s.claim("q", 50))
	s.slots()
	s.limits("q", `{"group_max_running": null}`)
	require.Len(t, s.claim("q", 50), 12+18)
	s.slots()
	require.Len(t, rest, 20)
	s.audited()

	// In a queue without limits
	s.exec(`select awa.configure_group('r', 'acme', '{"group_max_running": 1}')`)
	s.enqueueInGroup("r", "acme", 3)
	s.enqueueInGroup("r", "rest", 3)
	require.Len(t, s.claim("r", 50), 4)
	s.slots()
}

// Of a group with a rate, burst jobs begin at once, then one each step, of each group by itself; next_ready_at and
// explain_job say when. A claim that rolls back, or is refused by another limit, uses nothing up.
func TestGroupRate(t *testing.T) {
	d := newDatabase(t)
	s, other := d.session(), d.session()
	s.limits("q", `{"group_rate": {"jobs": 60, "per": "1 hour", "burst": 3}}`)
	jobs := s.enqueueInGroup("q", "g", 12)
	others := s.enqueueInGroup("q", "h", 2)
	for range 3 {
		s.exec("begin")
		require.Equal(t, append(jobs[:3:3], others...), ids(s.claim("q", 9)))
		s.exec("rollback")
	}
	require.Equal(t, jobs[:2], ids(s.claim("q", 2)))
	require.Equal(t, append(jobs[2:3:3], others...), ids(s.claim("q", 9)))
	require.Empty(t, other.claim("q", 9))
	s.slots()
	require.InDelta(t, time.Minute, s.opensIn("q"), float64(5*time.Second))
	require.Contains(t, one[string](s, "select awa.explain_job($1)", jobs[5]), "waits for the rate of its group, next at")

	s.passGates(61 * time.Second)
	require.Equal(t, jobs[3:4], ids(s.claim("q", 9)))
	require.Empty(t, s.claim("q", 9))
	s.passGates(121 * time.Second)
	require.Equal(t, jobs[4:5], ids(s.claim("q", 1))) // another one has its turn, which is not used up
	require.Equal(t, one[int](s, "select count(*)::int from awa.turns"), 1)
	s.slots()
	s.passGates(time.Hour)
	require.Equal(t, jobs[5:8], ids(s.claim("q", 9)), "a turn that was given before counts when it is served")
	require.Empty(t, s.claim("q", 9))
	s.slots()
	s.audited()

	// Nothing is used up where another limit refuses
	s.limits("q", `{"max_running": 1}`)
	s.passGates(time.Hour)
	one := s.claim("q", 9)
	require.Equal(t, jobs[8:9], ids(one))
	for range 3 {
		require.Empty(t, s.claim("q", 9))
	}
	s.limits("q", `{"max_running": null}`)
	require.Equal(t, jobs[9:11], ids(s.claim("q", 9)))
	require.Empty(t, s.claim("q", 9))
	s.slots()

	// A rate that is changed, or taken away, opens what waits
	s.limits("q", `{"group_rate": {"jobs": 60, "per": "1 hour", "burst": 1}}`)
	require.Empty(t, s.claim("q", 9))
	s.limits("q", `{"group_rate": null}`)
	require.Equal(t, jobs[11:], ids(s.claim("q", 9)))
	s.slots()
	s.audited()
}

// In any stretch of time as long as per, at most jobs + burst of a group begin, and nearly as many as may: whatever
// claims ask for, whichever ends in between, with turns that are served later, and with jobs of its line that are
// cancelled, or given back.
func TestGroupRateAtRandom(t *testing.T) {
	s := newDatabase(t).session()
	seed := rand.Uint64()
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const perJob, burst = 100 * time.Second, 4
	s.limits("q", `{"group_rate": {"jobs": 36, "per": "1 hour", "burst": 4}, "group_max_running": 6}`)
	s.exec("select awa.enqueue('q', 'k', group_key => 'g' || n % 3, priority => 1 + n % 2) from generate_series(1, 900) n")
	now, steps := time.Duration(0), 400
	begun := map[string][]time.Duration{}
	for range steps {
		for _, job := range s.claim("q", 1+random.IntN(5)) {
			group := one[string](s, "select group_key from awa.job($1)", job.JobID)
			begun[group] = append(begun[group], now)
			if random.IntN(8) == 0 {
				s.exec("select awa.release($1, $2)", job.JobID, job.Receipt)
			} else {
				s.exec("select awa.complete($1, $2)", job.JobID, job.Receipt)
			}
		}
		if random.IntN(10) == 0 {
			s.exec("select awa.cancel(w.job_id) from awa.limited_jobs w join awa.turns t using (waiting_id) limit 1")
		}
		span := time.Duration(random.Float64() * random.Float64() * float64(2*perJob))
		s.passGates(span)
		now += span
	}
	s.slots()
	for group, at := range begun {
		for i, from := range at {
			n := 0
			for n < len(at)-i && at[i+n]-from < time.Hour {
				n++
			}
			require.LessOrEqual(t, n, 36+burst, "%s, from %s", group, from)
		}
		require.Greater(t, float64(len(at)), 0.85*float64(now)/float64(perJob), group)
	}
}

// A worker closes its own group until a time, uncounted: its job comes first when that is over. A pause of an operator
// that lasts longer stays; one that is shorter ends later.
func TestHeldGroup(t *testing.T) {
	s := newDatabase(t).session()
	for n, limits := range []string{`{}`, `{"group_max_running": 2}`} {
		queue := fmt.Sprint("q", n)
		s.limits(queue, limits)
		jobs := s.enqueueInGroup(queue, "g", 4)
		first := s.claim(queue, 2)
		require.Equal(t, jobs[:2], ids(first))
		s.exec("select awa.snooze($1, $2, '1 hour', hold_group => true)", first[1].JobID, first[1].Receipt)
		require.Equal(t, []string{"available", "0"}, list[string](s,
			"select unnest(array[state, attempt::text]) from awa.job($1)", jobs[1]))
		require.Empty(t, s.claim(queue, 9))
		s.completeMany(first[:1])
		require.Empty(t, s.claim(queue, 9))
		s.slots()
		require.InDelta(t, time.Hour, s.opensIn(queue), float64(time.Minute))
		require.Contains(t, one[string](s, "select awa.explain_job($1)", jobs[3]),
			fmt.Sprintf("held by job %d", jobs[1]))
		s.passGates(time.Hour)
		got := s.claim(queue, 9)
		require.Equal(t, jobs[1], got[0].JobID, limits)
		s.slots()

		s.exec("select awa.pause_group($1, 'g', 'for good')", queue)
		s.exec("select awa.snooze($1, $2, '1 hour', hold_group => true)", got[0].JobID, got[0].Receipt)
		require.Empty(t, s.claim(queue, 9))
		s.passGates(2 * time.Hour)
		require.Empty(t, s.claim(queue, 9))
		s.slots()
		s.exec("select awa.resume_group($1, 'g')", queue)
		require.Equal(t, jobs[1], s.claim(queue, 9)[0].JobID)
		s.slots()
	}
	// Of a job without a group it is a snooze
	s.enqueue("none")
	got := s.claim("none", 1)
	s.exec("select awa.snooze($1, $2, '1 hour', true)", got[0].JobID, got[0].Receipt)
	require.Equal(t, "scheduled", s.state(got[0].JobID))
	s.audited()
}

// Searches for groups that open do not begin with those that have opened before, whose rows a snapshot elsewhere keeps.
func TestOpenedGroupsAreInNobodysWay(t *testing.T) {
	d := newDatabase(t)
	s, old := d.session(), d.session()
	s.limits("q", `{"group_rate": {"jobs": 1, "per": "1 minute"}}`)
	s.exec("select awa.enqueue('q', 'k', group_key => 'g' || n % 20) from generate_series(1, 4000) n")
	require.Len(t, s.claim("q", 50), 20)
	for one[int](s, "select count(*)::int from awa.limited_jobs") < 3980 {
		require.Empty(t, s.claim("q", 50))
	}
	old.exec("begin isolation level repeatable read")
	_ = one[int](old, "select 1")
	count := func() int64 {
		s.exec("select pg_stat_force_next_flush()")
		s.exec("select pg_stat_clear_snapshot()")
		return one[int64](s, "select idx_tup_read from pg_stat_user_indexes where indexrelname = 'group_states_opens_at'")
	}
	for range 60 {
		s.exec("update awa.group_states set next_at = next_at - interval '61 seconds', opens_at = clock_timestamp()")
		require.Len(t, s.claim("q", 50), 20)
	}
	before := count()
	require.Empty(t, s.claim("q", 50))
	require.Less(t, count()-before, int64(200))
	s.slots()
}

// The state of an idle group goes, but not before its rate lets as many begin as at first. A crash forgets nothing: a
// claim waits for the disk where any group has a rate.
func TestIdleGroupKeepsItsRate(t *testing.T) {
	s := newDatabase(t).session()
	s.limits("q", `{"group_rate": {"jobs": 60, "per": "1 hour", "burst": 2}}`)
	jobs := s.enqueueInGroup("q", "g", 2)
	s.completeMany(s.claim("q", 9))
	s.exec("select awa.fold()")
	jobs = append(jobs, s.enqueueInGroup("q", "g", 2)...)
	require.Empty(t, s.claim("q", 9))
	s.passGates(61 * time.Second)
	third := s.claim("q", 9)
	require.Equal(t, jobs[2:3], ids(third))
	s.completeMany(third)
	s.exec("select awa.cancel($1)", jobs[3])
	require.Empty(t, s.claim("q", 9))
	s.passGates(time.Hour)
	require.Eventually(t, func() bool { // those stay that are younger than the oldest snapshot of the server
		s.claim("q", 9)
		s.exec("select awa.fold()")
		return one[int](s, "select count(*)::int from awa.group_states") == 0
	}, time.Minute, time.Millisecond, "idle groups leave no rows")
	s.slots()

	s.exec(`select awa.configure_group('r', 'g', '{"group_rate": {"jobs": 1, "per": "1 hour"}}')`)
	for _, queue := range []string{"q", "r"} {
		s.enqueueInGroup(queue, "g", 1)
		s.exec("begin")
		s.exec("select awa.claim($1, durable => false)", queue)
		require.Equal(t, "on", one[string](s, "select current_setting('synchronous_commit')"), "it waits for the disk")
		s.exec("commit")
	}
}

// In a queue whose groups go in order, a holder that comes back asks the pause and the rate of its group, and keeps its
// place meanwhile; so does one that a worker has held. Its own limit does not let two run at once.
func TestGatesOfGroupsInOrder(t *testing.T) {
	s := newDatabase(t).session()
	s.limits("q", `{"group_order": "strict", "group_rate": {"jobs": 60, "per": "1 hour", "burst": 2}}`)
	require.ErrorContains(t, s.try(`select awa.configure_group('q', 'g', '{"group_max_running": 2}')`), "must be 1")
	jobs := s.enqueueInGroup("q", "g", 4)
	retries := func(job claimed) {
		s.exec("select awa.fail($1, $2, 'error', '0')", job.JobID, job.Receipt)
		s.promote()
	}
	first := s.claim("q", 9)
	require.Equal(t, jobs[:1], ids(first))
	retries(first[0])
	first = s.claim("q", 9)
	require.Equal(t, jobs[:1], ids(first))
	retries(first[0])
	require.Empty(t, s.claim("q", 9), "the rate is used up")
	s.slots()
	s.passGates(61 * time.Second)
	first = s.claim("q", 9)
	require.Equal(t, jobs[:1], ids(first))
	s.passGates(time.Hour)

	s.exec("select awa.pause_group('q', 'g')")
	retries(first[0])
	require.Empty(t, s.claim("q", 9))
	s.slots()
	s.exec("select awa.resume_group('q', 'g')")
	first = s.claim("q", 9)
	require.Equal(t, jobs[:1], ids(first))

	s.exec("select awa.snooze($1, $2, '1 hour', hold_group => true)", first[0].JobID, first[0].Receipt)
	require.Empty(t, s.claim("q", 9))
	s.slots()
	s.passGates(2 * time.Hour)
	for _, job := range jobs {
		got := s.claim("q", 9)
		require.Equal(t, []int64{job}, ids(got))
		s.completeMany(got)
		s.passGates(time.Hour)
	}
	s.slots()
	s.audited()
}

// Health names a job for which others of its group wait for long: one that runs, and one for which the group is kept;
// and has nobody add workers for jobs that wait for a limit.
func TestHealthOfGroups(t *testing.T) {
	s := newDatabase(t).session()
	s.exec("select awa.configure('{\"warn_group_age\": \"1 millisecond\", \"warn_ready_age\": \"1 millisecond\"}')")
	s.limits("runs", `{"group_max_running": 1}`)
	s.limits("keeps", `{"group_order": "strict"}`)
	groups := func() []string {
		return list[string](s, "select message from awa.health() where topic = 'group' order by subject")
	}
	for _, queue := range []string{"runs", "keeps"} {
		s.enqueueInGroup(queue, "acme", 1)
	}
	runs, keeps := s.claim("runs", 9), s.claim("keeps", 9)
	s.materialize()
	require.Empty(t, groups(), "nobody waits")
	for _, queue := range []string{"runs", "keeps"} {
		s.enqueueInGroup(queue, "acme", 1)
		require.Empty(t, s.claim(queue, 9))
	}
	s.exec("select awa.fail($1, $2, 'error', '1 hour')", keeps[0].JobID, keeps[0].Receipt)
	require.Empty(t, s.claim("keeps", 9))
	said := groups()
	require.Len(t, said, 2)
	require.Contains(t, said[0], fmt.Sprintf("group acme wait for job %d, which has its place", keeps[0].JobID))
	require.Contains(t, said[1], fmt.Sprintf("group acme wait for job %d, which has run", runs[0].JobID))
	require.Contains(t, one[string](s, "select hint from awa.health() where topic = 'queue' and subject = 'runs'"),
		"waits for a limit")
	s.exec("select awa.configure('{\"warn_group_age\": null}')")
	require.Empty(t, groups())
}

// Nobody waits for the row of a group for longer than claim_wait, whatever lock_timeout says: not a worker that closes
// its group either, whose attempt goes on. And nobody holds that row who waits for the number of shards.
func TestGroupThatIsBeingChanged(t *testing.T) {
	d := newDatabase(t)
	s, other, watcher := d.session(), d.session(), d.session()
	s.limits("q", `{}`)
	s.exec("update awa.settings set claim_wait = '50 milliseconds'")
	s.exec("select awa.pause_group('q', 'g')")
	s.exec("select awa.resume_group('q', 'g')")
	s.enqueueInGroup("q", "g", 1)
	attempt := s.claim("q", 1)[0]
	s.exec("select awa.pause_group('q', 'g')")
	other.exec("begin")
	other.exec("select awa.pause_group('q', 'g', 'open')")
	hold := "select awa.snooze($1, $2, '1 hour', hold_group => true)"
	require.Equal(t, "55P03", sqlState(s.try(hold, attempt.JobID, attempt.Receipt)))
	for _, call := range []string{"select awa.pause_group('q', 'g')", "select awa.resume_group('q', 'g')",
		`select awa.configure_group('q', 'g', '{"group_max_running": 1}')`} {
		require.Equal(t, "55P03", sqlState(s.try(call)), call)
		require.Equal(t, "0", one[string](s, "show lock_timeout"))
	}
	other.exec("rollback")
	s.exec("begin")
	s.exec(hold, attempt.JobID, attempt.Receipt)
	require.Equal(t, "0", one[string](s, "show lock_timeout"))
	s.exec("commit")

	s.exec("update awa.settings set claim_wait = '1 hour'")
	for _, call := range []string{"select awa.pause_group('q', 'g')", "select awa.resume_group('q', 'g')",
		`select awa.configure_group('q', 'g', '{"group_max_running": 1}')`} {
		other.exec("begin")
		other.exec("select pg_advisory_xact_lock(awa._shards_key(awa._queue_id('q')))") // as drop_queue does
		wait := s.background(call)
		watcher.waitUntilSleeping(s)
		other.exec("select from awa.group_settings for update nowait")
		other.exec("commit")
		require.NoError(t, wait())
	}
	s.slots()
}
