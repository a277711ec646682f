package sql_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// limits gives a queue limits.
func (s *session) limits(queue, settings string) {
	s.Helper()
	s.exec("select awa.configure_queue($1, $2)", queue, settings)
}

// enqueueGroup makes jobs of a group, in a transaction each.
func (s *session) enqueueInGroup(queue, group string, jobs int) (ids []int64) {
	s.Helper()
	for range jobs {
		ids = append(ids, one[int64](s, "select awa.enqueue($1, 'k', group_key => $2)", queue, group))
	}
	return ids
}

// forgetsIdleGroups waits until no group has a state: other tests may have transactions open.
func (s *session) forgetsIdleGroups() {
	s.Helper()
	require.Eventually(s, func() bool {
		s.exec("select awa.fold()")
		return one[int](s, "select count(*)::int from awa.group_states") == 0
	}, patience, time.Millisecond)
}

// slots says that the books of limits are right.
func (s *session) slots() {
	s.Helper()
	s.exec("set jit = off") // to compile the view would take seconds on a busy machine
	require.Empty(s, list[string](s, "select problem from awa._limit_problems"))
}

// holds is how many open attempts hold slots of a group, or of a queue without one.
func (s *session) holds(queue string, group *string) int {
	s.Helper()
	return one[int](s, `
		select count(*)::int from awa._holders h
		 where h.queue_id = awa._queue_id($1)
		   and case when $2::text is null then h.holds_queue else h.group_id = awa._group_id($2) end`, queue, group)
}

// An end is what ends an attempt, whoever does it.
var attemptEnds = []struct{ name, call string }{
	{"complete", "select awa.complete($1, $2)"},
	{"complete with an output", "select awa.complete($1, $2, '{}')"},
	{"complete_many", "select awa.complete_many(array[$1::bigint], array[$2::bigint])"},
	{"complete_many with an output", "select awa.complete_many(array[$1::bigint], array[$2::bigint], '{1}')"},
	{"complete_many that is told twice",
		"select awa.complete_many(array[$1::bigint, $1], array[$2::bigint, $2])"},
	{"fail", "select awa.fail($1, $2, 'error', '1 hour')"},
	{"fail_many", "select awa.fail_many(array[$1::bigint], array[$2::bigint], '{error}', '{1 hour}')"},
	{"discard", "select awa.discard($1, $2, 'error')"},
	{"snooze", "select awa.snooze($1, $2, '1 hour')"},
	{"put_off", "select awa.put_off($1, $2, 'error')"},
	{"cancel_attempt", "select awa.cancel_attempt($1, $2)"},
	{"cancel", "select awa.cancel($1) where $2 > 0"},
	{"discard_job", "select awa.discard_job($1) where $2 > 0"},
	{"cancel_where", "select awa.cancel_where(kind => 'k', state => 'running') where $1 > 0 and $2 > 0"},
	{"rescue", "select awa.rescue() where $1 > 0 and $2 > 0"},
	{"rescue that retries", "select awa.rescue() where $1 > 0 and $2 > 0"},
}

// Whatever ends an attempt gives its slots back, once, in the transaction that ends it: of its group, and of its queue.
// Also where the attempt has a row of its own, and where the same is said again.
func TestEveryEndGivesItsSlotBack(t *testing.T) {
	d := newDatabase(t)
	s, other := d.session(), d.session()
	s.noGap()
	for _, row := range []string{"no row", "materialize", "extend"} {
		for n, end := range attemptEnds {
			queue := end.name + ", " + row
			s.limits(queue, `{"group_max_running": 1, "max_running": 1, "dead_letter": true, "lease": "1 millisecond"}`)
			if end.name != "rescue" && end.name != "rescue that retries" {
				s.limits(queue, `{"lease": "1 hour"}`)
			}
			s.enqueueInGroup(queue, "g", 3)
			job := s.claim(queue, 9)
			require.Len(t, job, 1, queue)
			switch row {
			case "materialize":
				require.Positive(t, s.materialize(), queue)
			case "extend":
				s.exec("select awa.extend($1, $2, '1 millisecond')", job[0].JobID, job[0].Receipt)
			}
			require.Empty(t, s.claim(queue, 9), queue)
			s.slots()
			s.noGap()

			for _, commits := range []bool{false, true} {
				s.exec("begin")
				s.exec(end.call, job[0].JobID, job[0].Receipt)
				require.Empty(t, other.claim(queue, 9), "%s gives its slot before it commits", queue)
				s.exec(map[bool]string{false: "rollback", true: "commit"}[commits])
				other.slots()
			}
			if n != 11 && n < 12 { // a stale answer gives nothing
				_ = s.try(end.call, job[0].JobID, job[0].Receipt)
			}
			s.slots()
			next := other.claim(queue, 9)
			require.Len(t, next, 1, "%s gives one slot", queue)
			require.NotEqual(t, job[0].JobID, next[0].JobID)
			require.Equal(t, 1, s.holds(queue, new("g")), queue)
			require.Equal(t, 1, s.holds(queue, nil), queue)
			s.slots()
		}
	}
	s.audited()
}

// Many answers at once, some of them stale, some given twice, of two claims: each attempt that was open gives its slots
// back, once, and no other does.
func TestManyAnswersGiveEachSlotOnce(t *testing.T) {
	for _, row := range []bool{false, true} {
		for _, call := range []string{
			"select awa.complete_many($1, $2)",
			"select awa.complete_many($1, $2, array_fill('{}'::jsonb, array[cardinality($1::bigint[])]))",
			"select awa.fail_many($1, $2, array_fill('error'::text, array[cardinality($1::bigint[])]))",
		} {
			d := newDatabase(t)
			s := d.session()
			s.noGap()
			s.limits("q", `{"group_max_running": 6, "max_running": 6, "backoff_base": "1 hour"}`)
			s.enqueueInGroup("q", "g", 4)
			first := s.claim("q", 9)
			require.Len(t, first, 4)
			s.enqueueInGroup("q", "g", 10)
			second := s.claim("q", 9)
			require.Len(t, second, 2)
			if row {
				require.Positive(t, s.materialize())
			}
			s.completes(first[:1])
			require.Len(t, s.claim("q", 9), 1)
			s.slots()

			stale, open := first[0], []claimed{first[1], first[2], second[0]}
			other := claimed{first[3].JobID, second[1].Receipt} // a receipt that is not of this job
			asked := []claimed{open[0], stale, open[1], open[0], other, stale, open[2], open[1]}
			jobs, receipts := []int64{}, []int64{}
			for _, a := range asked {
				jobs, receipts = append(jobs, a.JobID), append(receipts, a.Receipt)
			}
			require.Equal(t, []int64{stale.JobID, other.JobID, stale.JobID}, list[int64](s, call, jobs, receipts), call)
			s.slots()
			require.Equal(t, 3, s.holds("q", new("g")), call)
			require.Len(t, s.claim("q", 9), 3, "each slot once: %s", call)
			require.Equal(t, 6, s.holds("q", nil), call)
			require.Empty(t, s.claim("q", 9), call)
			s.slots()
			s.balanced()
		}
	}
}

// What was given back comes first in its group, whoever gave it back: before those that wait, also where one of these
// has its turn by then.
func TestWhatWasGivenBackComesFirst(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for _, call := range []string{"select awa.release($1, $2)", "select awa.deregister_worker($3)",
		"select awa.release_unknown($3, '{}', '{}')"} {
		for _, materialized := range []bool{false, true} {
			queue := fmt.Sprint(call, materialized)
			s.limits(queue, `{"group_max_running": 2}`)
			jobs := s.enqueueInGroup(queue, "g", 5)
			worker := s.registerWorker()
			require.Len(t, s.claimAs(worker, queue, 9), 2)
			require.Empty(t, s.claim(queue, 9)) // the others are in line
			receipt := one[int64](s, "select receipt from awa.job($1)", jobs[0])
			if materialized {
				s.materialize()
			}
			if call == "select awa.release($1, $2)" {
				s.exec(call, jobs[0], receipt)
				require.Equal(t, jobs[:1], ids(s.claim(queue, 9)))
			} else {
				s.exec("select awa.release($1, $2)", jobs[0], receipt)
				s.exec(map[bool]string{false: "select awa.deregister_worker($1)",
					true: "select awa.release_unknown($1, '{}', '{}')"}[call != "select awa.deregister_worker($3)"], worker)
				require.Equal(t, jobs[:2], ids(s.claim(queue, 9)))
			}
			s.slots()
		}
	}
	// It waits, too, where its group is full meanwhile; and then comes before those that wait for longer.
	s.limits("q", `{"group_max_running": 2}`)
	jobs := s.enqueueInGroup("q", "g", 5)
	first := s.claim("q", 2)
	require.Equal(t, jobs[:2], ids(first))
	require.Empty(t, s.claim("q", 9)) // the others are in line
	s.limits("q", `{"group_max_running": 1}`)
	s.exec("select awa.release($1, $2)", first[1].JobID, first[1].Receipt)
	require.Empty(t, s.claim("q", 9))
	s.slots()
	s.completeMany(first[:1])
	for _, job := range jobs[1:] {
		got := s.claim("q", 9)
		require.Equal(t, []int64{job}, ids(got))
		s.completeMany(got)
	}
	s.slots()
}

// Two attempts of a group end in open transactions: each slot comes back when its own commits, also the older one last.
func TestSlotsThatCommitLate(t *testing.T) {
	d := newDatabase(t)
	s, a, b := d.session(), d.session(), d.session()
	s.limits("q", `{"group_max_running": 2, "max_running": 9}`)
	jobs := s.enqueueInGroup("q", "g", 5)
	first := s.claim("q", 9)
	require.Len(t, first, 2)
	a.exec("begin")
	a.completes(first[:1])
	b.exec("begin")
	b.completes(first[1:])
	b.exec("commit")
	require.Equal(t, jobs[2:3], ids(s.claim("q", 9)))
	require.Empty(t, s.claim("q", 9))
	a.exec("commit")
	require.Equal(t, jobs[3:4], ids(s.claim("q", 9)))
	require.Empty(t, s.claim("q", 9))
	s.slots()
}

// A transaction that ends an attempt and then claims gets the slot with a later claim, once.
func TestSlotOfTheClaimersOwn(t *testing.T) {
	d := newDatabase(t)
	s, other := d.session(), d.session()
	s.limits("q", `{"group_max_running": 1}`)
	jobs := s.enqueueInGroup("q", "g", 3)
	first := s.claim("q", 9)
	s.exec("begin")
	s.completes(first)
	other.exec("select pg_current_xact_id()") // a snapshot leaves out the caller's own transaction, which is older now
	require.Empty(t, s.claim("q", 9))
	s.exec("commit")
	require.Equal(t, jobs[1:2], ids(other.claim("q", 9)))
	require.Empty(t, s.claim("q", 9))
	s.slots()
}

// A claim that rolls back has taken nothing: no slot, no turn, no part of a rate, and nobody's place in line.
func TestClaimThatRollsBack(t *testing.T) {
	d := newDatabase(t)
	s, other := d.session(), d.session()
	s.limits("q", `{"group_max_running": 1, "max_running": 3, "rate": {"jobs": 4, "per": "1 hour", "burst": 4}}`)
	jobs := append(s.enqueueInGroup("q", "g", 3), s.enqueueInGroup("q", "h", 3)...)
	for range 3 {
		s.exec("begin")
		require.Equal(t, []int64{jobs[0], jobs[3]}, ids(s.claim("q", 9)))
		s.exec("rollback")
		other.slots()
	}
	first := s.claim("q", 9)
	require.Equal(t, []int64{jobs[0], jobs[3]}, ids(first))
	s.completeMany(first)
	s.exec("begin")
	require.Equal(t, []int64{jobs[1], jobs[4]}, ids(s.claim("q", 9)))
	s.exec("rollback")
	require.Equal(t, []int64{jobs[1], jobs[4]}, ids(other.claim("q", 9)))
	other.slots()
}

// A larger limit holds at once, a smaller one stops nothing that runs, and begins nothing before there is room; also
// not a job that has its turn already. Taken away and set again, it loses nobody.
func TestChangedLimits(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"group_max_running": 1}`)
	jobs := s.enqueueInGroup("q", "g", 12)
	one := s.claim("q", 9)
	require.Equal(t, jobs[:1], ids(one))
	s.limits("q", `{"group_max_running": 3}`)
	require.Equal(t, jobs[1:2], ids(s.claim("q", 1))) // another one has its turn
	s.slots()
	s.limits("q", `{"group_max_running": 2}`)
	require.Empty(t, s.claim("q", 9))
	s.slots()
	s.completeMany(one)
	two := s.claim("q", 9)
	require.Equal(t, jobs[2:3], ids(two))
	s.limits("q", `{"group_max_running": null}`)
	more := s.enqueueInGroup("q", "g", 1)
	three := s.claim("q", 5)
	require.Equal(t, jobs[3:8], ids(three))
	s.limits("q", `{"group_max_running": 6}`)
	require.Empty(t, s.claim("q", 9))
	s.slots()
	s.completeMany(append(two, three...))
	require.Equal(t, append(jobs[8:], more...), ids(s.claim("q", 9)))
	s.slots()
}

// A claim gives so many turns at most; the next ones give the others, as far as there is room.
func TestManyTurns(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec(changing("_deal_turns", "greatest(10000 /", "greatest(1000 /"))
	for queue, limit := range map[string]string{"q": "5000", "r": "null"} {
		s.limits(queue, `{"group_max_running": 1}`)
		s.exec("select awa.enqueue($1, 'k', group_key => 'g') from generate_series(1, 2500)", queue)
		require.Len(t, s.claim(queue, 1), 1)
		for one[int](s, "select count(*)::int from awa.limited_jobs where lane >> 9 = awa._queue_id($1)", queue) < 2499 {
			require.Empty(t, s.claim(queue, 9))
		}
		s.limits(queue, `{"group_max_running": `+limit+`}`)
		for left := 2499; left > 0; {
			got := len(s.claim(queue, 500))
			require.Positive(t, got, "%s, %d wait", limit, left)
			left -= got
		}
		s.slots()
	}
}

// Where a limit is taken away from many groups that wait, the claims after that are full.
func TestLimitTakenFromManyGroups(t *testing.T) {
	s := newDatabase(t).session()
	s.limits("q", `{"group_max_running": 1}`)
	const groups = 2500
	for range 2 {
		s.exec("select awa.enqueue_batch(jsonb_agg(jsonb_build_object('queue', 'q', 'kind', 'k', 'group_key', 'g' || n))) "+
			"from generate_series(1, $1) n", groups)
	}
	for running := 0; running < groups || one[int](s, "select count(*)::int from awa.limited_jobs") < groups; {
		running += len(s.claim("q", 500))
	}
	s.limits("q", `{"group_max_running": null}`)
	for range groups / 100 {
		require.Len(t, s.claim("q", 100), 100)
	}
	require.Empty(t, s.claim("q", 1))
	s.slots()
	s.balanced()
}

// Of a group, explain_job tells what it is in the job's queue.
func TestGroupsOfTwoQueues(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("a", `{"group_max_running": 1}`)
	s.limits("b", `{"group_max_running": 3}`)
	a, b := s.enqueueInGroup("a", "g", 4), s.enqueueInGroup("b", "g", 4)
	for _, queue := range []string{"a", "b", "a", "b"} {
		s.claim(queue, 9)
	}
	says := func(job int64) string { return one[string](s, "select awa.explain_job($1)", job) }
	require.Contains(t, says(a[3]), fmt.Sprintf("group g: 1 of 1 run (jobs %d), 2 before it.", a[0]))
	require.Contains(t, says(b[3]), fmt.Sprintf("group g: 3 of 3 run (jobs %d, %d, %d), 0 before it.", b[0], b[1], b[2]))
}

// A job of priority 1 without a group begins with the next claim, whatever waits for its group, or has its turn.
func TestPrioritiesBesideGroups(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"group_max_running": 1}`)
	s.enqueueInGroup("q", "g", 50)
	s.enqueueInGroup("q", "h", 50)
	first := s.claim("q", 9)
	require.Len(t, first, 2)
	require.Empty(t, s.claim("q", 9))
	s.completeMany(first)
	urgent := s.enqueueWithPriority("q", 1)
	require.Equal(t, []int64{urgent}, ids(s.claim("q", 1)))
	require.Len(t, s.claim("q", 9), 2)
	s.slots()
}

// A job that waits can be cancelled, moved, and given another priority or time: with its turn, and without. The
// transaction that does it holds up nobody else, and may roll back.
func TestChangesOfWhatWaits(t *testing.T) {
	for _, c := range []struct {
		call, state string
	}{
		{"select awa.cancel($1)", "cancelled"},
		{"select awa.discard_job($1)", "dead"},
		{"select awa.cancel_where(queue => 'q', state => 'available', max_jobs => 1) where $1 > 0", "cancelled"},
		{"select awa.move($1, 'other')", "available"},
		{"select awa.set_priority($1, 4)", "available"},
		{"select awa.reschedule($1, now() + interval '1 hour')", "scheduled"},
		{"select awa.reschedule($1, now(), '{\"new\": true}')", "available"},
	} {
		for _, hasTurn := range []bool{false, true} {
			for _, commits := range []bool{false, true} {
				d := newDatabase(t)
				s, other := d.session(), d.session()
				s.limits("q", `{"group_max_running": 1}`)
				s.limits("other", `{"group_max_running": 1}`)
				jobs := s.enqueueInGroup("q", "g", 4)
				first := s.claim("q", 9)
				require.Empty(t, s.claim("q", 9))
				if hasTurn { // the turn is given, and nothing may begin
					s.exec("select awa.complete($1, $2)", first[0].JobID, first[0].Receipt)
					blocker := s.enqueueWithPriority("q", 1)
					require.Equal(t, []int64{blocker}, ids(s.claim("q", 1)))
					require.Equal(t, 1, one[int](s, "select count(*)::int from awa.turns"), "a turn")
					first = []claimed{{blocker, one[int64](s, "select receipt from awa.job($1)", blocker)}}
				}
				require.Equal(t, 3, one[int](s, "select count(*)::int from awa.limited_jobs"), "they wait")
				s.exec("begin")
				s.exec(c.call, jobs[1])
				other.completeMany(first)
				require.Empty(t, other.claim("q", 9), "the turn stays with the one that is being changed: %s", c.call)
				other.slots()
				s.exec(map[bool]string{false: "rollback", true: "commit"}[commits])
				other.slots()
				order := []int64{}
				for range 6 {
					for _, queue := range []string{"q", "other"} {
						got := s.claim(queue, 9)
						require.LessOrEqual(t, len(got), 1)
						if len(got) > 0 {
							order = append(order, ids(got)...)
							s.completeMany(got)
						}
						s.slots()
					}
				}
				switch {
				case !commits:
					require.ElementsMatch(t, jobs[1:], order, c.call)
				case c.state != "available":
					require.Equal(t, jobs[2:], order, c.call)
					require.Equal(t, c.state, s.state(jobs[1]))
				default:
					require.ElementsMatch(t, jobs[1:], order, c.call)
				}
				s.balanced()
			}
		}
	}
}

// The last one in line is cancelled: the group is free for the next job, and leaves no row behind.
func TestLastInLineIsCancelled(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"group_max_running": 1}`)
	jobs := s.enqueueInGroup("q", "g", 2)
	first := s.claim("q", 9)
	require.Empty(t, s.claim("q", 9))
	s.exec("select awa.cancel($1)", jobs[1])
	s.completeMany(first)
	next := s.enqueueInGroup("q", "g", 1)
	got := s.claim("q", 9)
	require.Equal(t, next, ids(got))
	s.completeMany(got)
	require.Empty(t, s.claim("q", 9))
	s.slots()
	s.forgetsIdleGroups()
	require.Equal(t, []int{0, 0, 0, 0}, list[int](s, `
		select count(*)::int from awa.group_states union all select count(*)::int from awa.limited_jobs
		union all select count(*)::int from awa.turns union all select count(*)::int from awa.slots`))
}

// A group that becomes idle while a transaction elsewhere keeps its old states keeps its last one, so that a look for
// the newest does not pass over the others. Once nobody can see them it leaves none behind.
func TestIdleGroupBesideAnOldSnapshot(t *testing.T) {
	d := newDatabase(t)
	s, reader := d.session(), d.session()
	s.limits("q", `{"group_max_running": 1}`)
	reader.exec("begin isolation level repeatable read")
	reader.exec("select 1")
	for range 400 {
		s.enqueueInGroup("q", "g", 1)
		s.completeMany(s.claim("q", 1))
	}
	require.Empty(t, s.claim("q", 1))
	s.exec("select awa.fold()")
	s.exec("set enable_seqscan = off")
	s.exec(`
		create function pg_temp.blocks(query text) returns int
		language plpgsql
		as $$
		declare
		  v_plan json;
		begin
		  execute 'explain (analyze, buffers, format json) ' || query into v_plan;
		  return v_plan -> 0 -> 'Plan' ->> 'Shared Hit Blocks';
		end
		$$`)
	require.LessOrEqual(t, one[int](s, `
		select pg_temp.blocks('select from awa.group_states s where s.shard = awa._queue_id(''q'') << 6 '
		  'and s.group_id = awa._group_id(''g'') order by s.state_id desc limit 1')`), 5)
	s.enqueueInGroup("q", "g", 2)
	require.Len(t, s.claim("q", 9), 1)
	s.slots()
	reader.exec("commit")
	s.exec("select awa.cancel_where('q')")
	require.Empty(t, s.claim("q", 9))
	s.forgetsIdleGroups()
}

// A queue has no more attempts at once than max_running, whoever claims, and whichever shard a job lies in.
func TestMaxRunning(t *testing.T) {
	d := newDatabase(t)
	s, a, b := d.session(), d.session(), d.session()
	s.limits("q", `{"shards": 4}`)
	s.enqueueInGroup("q", "a", 3)
	for i := range 8 {
		s.enqueueInGroup("q", fmt.Sprint("group ", i), 2)
	}
	require.Equal(t, "22023", sqlState(s.try(`select awa.configure_queue('q', '{"max_running": 3}')`)))
	require.Equal(t, "22023",
		sqlState(s.try(`select awa.configure_queue('q', '{"rate": {"jobs": 1, "per": "1 second"}}')`)))
	s.limits("r", `{"max_running": 3}`)
	require.Equal(t, "22023", sqlState(s.try(`select awa.configure_queue('r', '{"shards": 2}')`)))
	s.enqueueMany("r", 9)
	a.exec("begin")
	require.Len(t, a.claim("r", 2), 2)
	claims := b.background("select count(*) from awa.claim('r', 9)")
	s.waitUntilBlocked(b)
	a.exec("commit")
	require.NoError(t, claims())
	require.Equal(t, 3, s.holds("r", nil))
	require.Empty(t, s.claim("r", 9))
	require.Contains(t,
		one[string](s, "select awa.explain_job(min(id)) from awa.jobs where queue = 'r' and state = 'available'"),
		"3 of 3 run")
	s.slots()
}

// A queue that has one shard now may have its jobs in others from before. Its limits hold for them, and they begin as
// those before them end; what belongs to groups of the first shard is left for its own claims.
func TestMaxRunningBesideTheFirstShard(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"shards": 64}`)
	want := []int64{}
	for range 4 {
		want = append(want, s.enqueueMany("q", 3)...)
	}
	require.True(t, one[bool](s, "select bool_or(awa._shard_of(lane) & 63 <> 0) from awa.ready_entries"))
	s.limits("q", `{"shards": 1, "max_running": 1, "group_max_running": 1}`)
	got := []int64{}
	for len(got) < 12+3 {
		jobs := []claimed{}
		for n := 0; n < 40 && len(jobs) == 0; n++ {
			jobs = s.claim("q", 9)
		}
		require.Len(t, jobs, 1, "after %d", len(got))
		require.Empty(t, s.claim("q", 9))
		require.Equal(t, 1, s.holds("q", nil))
		s.slots()
		s.completeMany(jobs)
		s.slots()
		if got = append(got, ids(jobs)...); len(got) == 6 { // from now on there are jobs in the first shard, too
			want = append(want, s.enqueueInGroup("q", "g", 3)...)
		}
	}
	require.ElementsMatch(t, want, got)
	s.audited()
}

// Jobs of a group lie in one shard, so the limit of a group holds on any number of them; whatever waits is found there.
func TestLimitsOnShards(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"shards": 8, "group_max_running": 2}`)
	want := []int64{}
	for i := range 20 {
		want = append(want, s.enqueueInGroup("q", fmt.Sprint("group ", i), 5)...)
	}
	got := []int64{}
	for len(got) < len(want) {
		jobs := []claimed{}
		for more := s.claim("q", 100); len(more) > 0; more = s.claim("q", 100) {
			jobs = append(jobs, more...)
		}
		require.NotEmpty(t, jobs, "%d of %d have begun", len(got), len(want))
		require.Empty(t, list[int64](s, "select group_id from awa._holders group by group_id having count(*) > 2"))
		s.slots()
		s.completeMany(jobs)
		got = append(got, ids(jobs)...)
	}
	require.ElementsMatch(t, want, got)
}

// Where nothing but a line is in a shard, a claim comes to it when the limit was raised, or taken away, and after a
// restore. Before that none does.
func TestLinesOnShards(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.looksAtOnce()
	for queue, want := range map[string]int{"raised": 4, "taken away": 9, "restored": 1} {
		s.limits(queue, `{"shards": 4, "group_max_running": 1}`)
		s.enqueueMany(queue, 40)
		jobs := s.enqueueInGroup(queue, "g", 10)
		all := []claimed{}
		for more := s.claim(queue, 90); len(more) > 0; more = s.claim(queue, 90) {
			all = append(all, more...)
		}
		shards := "select cardinality(awa._shards_with_jobs(awa._queue_id($1), '{}'))"
		require.Equal(t, 0, one[int](s, shards, queue))
		switch queue {
		case "raised":
			s.limits(queue, `{"group_max_running": 5}`)
		case "taken away":
			s.limits(queue, `{"group_max_running": null}`)
		case "restored":
			s.completeMany(all)
			s.exec("select awa._recount_limits()") // the slots of another server are not to be read
		}
		require.Equal(t, 1, one[int](s, shards, queue))
		require.Equal(t, jobs[1:want+1], ids(s.claim(queue, 90)), queue)
		require.Equal(t, 0, one[int](s, shards, queue))
		if queue != "restored" {
			s.slots()
			s.completeMany(all)
		}
		s.exec("select awa.drop_queue($1, true)", queue) // recounting would have to know its attempts
	}
}

// A rate lets burst jobs begin at once, then one for each of its steps. Jobs that are given back have begun; claims
// that come back empty use nothing up.
func TestRate(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"rate": {"jobs": 60, "per": "1 hour"}}`)
	require.Equal(t, "3", one[string](s, "select rate ->> 'burst' from awa.queue_settings"))
	passes := func(span string) {
		s.exec("update awa.shard_states set next_at = next_at - $1::interval", span)
	}
	s.enqueueMany("q", 20)
	require.Len(t, s.claim("q", 9), 3)
	for range 3 {
		require.Empty(t, s.claim("q", 9))
	}
	next := one[float64](s, "select extract(epoch from awa.next_ready_at('{q}') - now())::float8")
	require.InDelta(t, 60, next, 50)
	require.Contains(t,
		one[string](s, "select awa.explain_job(max(id)) from awa.jobs"), "waits for the rate of its queue, next at")
	passes("60 seconds")
	got := s.claim("q", 9)
	require.Len(t, got, 1)
	s.exec("select awa.release($1, $2)", got[0].JobID, got[0].Receipt)
	require.Empty(t, s.claim("q", 9))
	passes("100 seconds")
	require.Equal(t, ids(got), ids(s.claim("q", 9)))
	passes("1 day")
	require.Len(t, s.claim("q", 9), 3, "no more than burst, however long it was quiet")
	s.exec("update awa.shard_states set next_at = now() + interval '1 year'") // by a clock that was ahead
	passes("0")
	require.Less(t, one[float64](s, "select extract(epoch from awa._rate_opens_at(rate, awa._rate_after(rate, next_at, "+
		"now(), 1)) - now())::float8 from awa.shard_states, awa.queue_settings"), 3700.0)
	s.limits("q", `{"rate": null}`)
	require.Len(t, s.claim("q", 9), 9)
	s.slots()
	require.Equal(t, "on", one[string](s, `
		with c as (select awa.configure_queue('r', '{"rate": {"jobs": 1, "per": "1 second"}}'))
		select 'on' from c`))
	s.exec("begin")
	s.claim("r", 1)
	s.exec("commit")
	s.exec("begin")
	s.exec("select awa.claim('r', durable => false)")
	require.Equal(t, "on", one[string](s, "select current_setting('synchronous_commit')"), "it waits for the disk")
	s.exec("commit")
}

// What waits for its group is in no segment: the ring turns, and each slot, line and turn is what it was. Attempts are
// carried with the slots that they hold.
func TestLimitsWhileTheRingTurns(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("update awa.settings set completed_retention = '0'")
	s.limits("q", `{"group_max_running": 2}`)
	jobs := s.enqueueInGroup("q", "g", 30)
	running := s.claim("q", 9)
	require.Empty(t, s.claim("q", 9))
	for turn := range 6 {
		s.exec("select awa.rotate(true)")
		for range 20 {
			if outcome := s.prune(); outcome == "truncated" || outcome == "empty" {
				break
			}
		}
		s.slots()
		s.completeMany(running[:1])
		next := s.claim("q", 9)
		require.Equal(t, jobs[turn+2:turn+3], ids(next))
		running = append(running[1:], next...)
		require.Empty(t, s.claim("q", 9))
		s.slots()
		s.balanced()
	}
}

// A queue that is dropped leaves nothing of its limits to the next one of its name.
func TestDropForgetsLimits(t *testing.T) {
	d := newDatabase(t)
	s, late := d.session(), d.session()
	s.limits("q", `{"group_max_running": 1, "max_running": 2}`)
	s.enqueueInGroup("q", "g", 5)
	s.enqueueInGroup("q", "h", 5)
	first := s.claim("q", 9)
	require.Len(t, first, 2)
	s.completeMany(first[:1])
	require.Len(t, s.claim("q", 9), 1)
	late.exec("begin")
	late.completes(first[1:])
	drops := s.background("select awa.drop_queue('q', true)")
	late.waitUntilBlocked(s)
	late.exec("commit")
	require.NoError(t, drops())
	require.Equal(t, []int{0, 0, 0, 0, 0}, list[int](s, `
		select count(*)::int from awa.group_states union all select count(*)::int from awa.limited_jobs
		union all select count(*)::int from awa.turns union all select count(*)::int from awa.slots
		union all select count(*)::int from awa.shard_states`))
	s.limits("q", `{"group_max_running": 2}`)
	jobs := s.enqueueInGroup("q", "g", 5)
	require.Equal(t, jobs[:2], ids(s.claim("q", 9)))
	s.slots()
}

// Jobs that expire in line are cancelled, by a claim that comes to their turn, or by maintenance, and take no slot with
// them.
func TestExpiryInLine(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"group_max_running": 1}`)
	for range 6 {
		s.exec("select awa.enqueue('q', 'k', group_key => 'g', expires_at => now() + interval '1 day')")
	}
	jobs := list[int64](s, "select id from awa.jobs order by 1")
	first := s.claim("q", 9)
	require.Empty(t, s.claim("q", 9))
	s.exec("update awa.limited_jobs set expires_at = now() - interval '1 second' where job_id = any($1)", jobs[1:3])
	s.completeMany(first)
	first = s.claim("q", 9)
	require.Equal(t, jobs[3:4], ids(first), "the claim passes over those that have expired")
	require.Equal(t, "cancelled", s.state(jobs[1]))
	s.slots()
	s.exec("update awa.limited_jobs set expires_at = now() - interval '1 second' where job_id = any($1)", jobs[4:])
	require.Equal(t, int64(2), s.cancelExpired())
	require.Equal(t, "cancelled", s.state(jobs[5]))
	s.completeMany(first)
	require.Empty(t, s.claim("q", 9))
	s.slots()
	s.balanced()
}

// A job that has expired, and whose end a user's trigger refuses, leaves its line: the next one of its group begins,
// and the pass over those that have expired goes on.
func TestRefusedExpiryInLine(t *testing.T) {
	for _, by := range []string{"claim", "cancel_expired"} {
		t.Run(by, func(t *testing.T) {
			s := newDatabase(t).session()
			s.limits("q", `{"group_max_running": 1}`)
			for n := range 4 {
				s.exec("select awa.enqueue_unique('q', 'k', to_jsonb($1::int), unique_key => 'key ' || $1::int, "+
					"group_key => 'g', expires_at => now() + interval '1 day')", n)
			}
			jobs := list[int64](s, "select id from awa.jobs order by 1")
			first := s.claim("q", 9)
			s.exec("update awa.limited_jobs set expires_at = now() - interval '1 second' where job_id = any($1)", jobs[1:3])
			s.exec("create function public.refuse() returns trigger language plpgsql as $$ begin if new.args = '1' then " +
				"raise check_violation; end if; return new; end $$")
			s.exec("create trigger refuse before insert on awa.done_entries for each row execute function public.refuse()")
			if by == "cancel_expired" {
				require.Equal(t, int64(1), s.cancelExpired())
			}
			s.completeMany(first)
			first = s.claim("q", 9)
			require.Equal(t, jobs[3:], ids(first))
			require.Equal(t, "scheduled", s.state(jobs[1]))
			require.Equal(t, "cancelled", s.state(jobs[2]))
			s.completeMany(first)
			s.slots()
			s.exec("drop trigger refuse on awa.done_entries")
			s.exec("update awa.deferred_jobs set run_at = now()")
			s.exec("select awa.promote_due()")
			require.Empty(t, s.claim("q", 9))
			require.Equal(t, "cancelled", s.state(jobs[1]))
			s.slots()
			s.balanced()
		})
	}
}

// audit finds what somebody has removed by hand.
func TestAuditOfLimits(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"group_max_running": 1, "max_running": 5}`)
	s.enqueueInGroup("q", "g", 4)
	s.enqueueInGroup("q", "h", 4)
	first := s.claim("q", 9)
	require.Empty(t, s.claim("q", 9))
	s.completeMany(first)
	s.completeMany(s.claim("q", 1)) // the other group has a turn
	s.slots()
	s.audited()
	for _, table := range []string{"turns", "slots", "limited_jobs", "group_states", "shard_states"} {
		require.Positive(t, one[int](s, "select count(*)::int from awa."+table), table)
		s.exec("begin")
		s.exec("delete from awa." + table)
		require.NotEmpty(t, list[string](s, "select problem from awa.audit() where not balanced"), table)
		s.exec("rollback")
	}
	s.exec("update awa.group_states set taken = 1000000")
	require.Contains(t, one[string](s, "select problem from awa.audit() where not balanced"), "are not known")
}

// A queue that never had a limit takes the path that it took before: none of its calls touches a table of limits.
func TestNoLimitsNoTables(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.looksAtOnce()
	jobs := s.enqueueInGroup("q", "g", 6)
	got := s.claim("q", 3)
	require.Equal(t, jobs[:3], ids(got))
	s.completes(got[:1])
	require.Empty(t, s.completeMany(got[1:2]))
	s.exec("select awa.fail($1, $2, 'error')", got[2].JobID, got[2].Receipt)
	require.Equal(t, []int64{0}, list[int64](s, `
		select count(*) from (
		  select true from awa.slots union all select true from awa.group_states union all select true from awa.shard_states
		  union all select true from awa.limited_jobs union all select true from awa.turns) t`))
	require.True(t, one[bool](s, "select bool_and(groups is null and not holds_queue) from awa.lease_claims"))
	s.limits("r", `{"shards": 8}`)
	s.enqueueMany("r", 30)
	for len(s.claim("r", 90)) > 0 {
	}
	s.exec("begin")
	require.Equal(t, 0, one[int](s, "select cardinality(awa._shards_with_jobs(awa._queue_id('r'), '{}'))"))
	require.Equal(t, 0, one[int](s, `
		select sum(pg_stat_get_xact_numscans(i.indexrelid))::int
		  from pg_index i
		 where i.indrelid = any(array['awa.slots', 'awa.turns', 'awa.shard_states', 'awa.group_states']::regclass[])`))
	s.exec("rollback")
}

// A rate that is changed holds with the next claims, and so does one whose time a clock that was ahead has written: the
// wait ends after burst steps at most. In no stretch do more begin than jobs + burst.
func TestRateThatIsChanged(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"rate": {"jobs": 1, "per": "1 day"}}`)
	s.enqueueMany("q", 40)
	require.Len(t, s.claim("q", 1), 1)
	require.Empty(t, s.claim("q", 9))
	s.limits("q", `{"rate": {"jobs": 10, "per": "10 seconds", "burst": 3}}`)
	for _, at := range []string{"", "update awa.shard_states set next_at = clock_timestamp() + interval '1 hour'"} {
		if at != "" {
			s.exec(at) // as a clock that was ahead would have
		}
		next := one[float64](s, "select extract(epoch from awa.next_ready_at('{q}') - clock_timestamp())::float8")
		require.LessOrEqual(t, next, 1.0, "a step")
		begun, claims := 0, 0
		start := time.Now()
		for time.Since(start) < 5*time.Second {
			got := len(s.claim("q", 9))
			if got > 0 {
				claims++
			}
			begun += got
			require.LessOrEqual(t, begun, 3+int(time.Since(start)/time.Second), "burst, and one for each step")
			if why := one[*string](s, "select awa._limits_in_words(awa._queue_id('q'), clock_timestamp())"); why != nil {
				require.Contains(t, *why, "waits for the rate")
			}
			time.Sleep(200 * time.Millisecond)
		}
		require.GreaterOrEqual(t, begun, 2, "burst steps at most")
		require.GreaterOrEqual(t, claims, 1)
	}
	s.slots()
}

// A fold that stays open holds rows of groups that were idle. Claims do not wait for it, whatever they do with such a
// group, and the row that stays, where it rolls back, is one that counts no more.
func TestClaimsBesideAnOpenFold(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		s, folder := d.session(), d.session()
		s.limits("q", `{"group_max_running": 1}`)
		s.enqueueInGroup("q", "g", 1)
		s.completeMany(s.claim("q", 9))
		require.Empty(t, s.claim("q", 9))
		require.Equal(t, 1, one[int](s, "select count(*)::int from awa.group_states where running = 0"), "it is idle")
		require.Eventually(t, func() bool { // when what other tests have open has ended
			folder.exec("begin")
			folder.exec("select awa.fold()")
			if one[int](folder, "select count(*)::int from awa.group_states") == 0 {
				return true
			}
			folder.exec("rollback")
			return false
		}, patience, time.Millisecond)
		s.exec("set statement_timeout = '5s'")
		jobs := s.enqueueInGroup("q", "g", 3)
		got := s.claim("q", 9)
		require.Equal(t, jobs[:1], ids(got))
		s.slots()
		require.Empty(t, s.claim("q", 9), "one at once")
		s.completeMany(got)
		got = s.claim("q", 9)
		require.Equal(t, jobs[1:2], ids(got))
		s.slots()
		folder.exec(end)
		s.slots()
		require.Empty(t, s.claim("q", 9), "one at once")
		s.completeMany(got)
		got = s.claim("q", 9)
		require.Equal(t, jobs[2:], ids(got))
		s.completeMany(got)
		require.Empty(t, s.claim("q", 9))
		s.balanced()
		s.forgetsIdleGroups()
	}
}

// A claim puts a job aside that an open transaction cancels: it is cancelled all the same when this one commits. One
// that moves it, or changes its priority, fails, and the job has its place in line.
func TestPutAsideBesideAnOpenChange(t *testing.T) {
	for _, c := range []struct{ call, state string }{
		{"select awa.cancel($1)", "cancelled"},
		{"select awa.cancel_where(queue => 'q', state => 'available') where $1 > 0", "cancelled"},
		{"with c as (select awa.cancel($1) as c) select awa.retry($1) from c where c is not null", "available"},
		{"select awa.move($1, 'other')", "fails"},
		{"select awa.set_priority($1, 4)", "fails"},
		{"select awa.reschedule($1, now() + interval '1 hour')", "fails"},
	} {
		for _, size := range []int{1, 3} { // of the claim that puts it aside
			for _, hasTurn := range []bool{false, true} {
				t.Log(c.call, size, hasTurn)
				d := newDatabase(t)
				s, other := d.session(), d.session()
				s.exec("set statement_timeout = '5s'")
				s.limits("q", `{"group_max_running": 1}`)
				first := s.enqueueInGroup("q", "g", 1)
				running := s.claim("q", 9)
				require.Equal(t, first, ids(running))
				job := one[int64](s, "select job_id from awa.enqueue_unique('q', 'k', unique_key => 'key', group_key => 'g')")
				s.enqueueMany("q", size-1)
				other.exec("begin")
				require.NoError(t, other.try(c.call, job))
				worker := s.registerWorker()
				require.Len(t, s.claimAs(worker, "q", 9), size-1)
				require.Equal(t, 1, one[int](s, "select count(*)::int from awa.limited_jobs where job_id = $1", job))
				if hasTurn {
					s.completeMany(running)
					running = nil
					blocker := s.enqueueWithPriority("q", 1)
					require.Equal(t, []int64{blocker}, ids(s.claim("q", 1)))
					require.Equal(t, 1, one[int](s, "select count(*)::int from awa.turns"), "a turn")
				}
				err := other.try("commit")
				s.slots()
				if c.state == "fails" {
					require.ErrorContains(t, err, "40001")
					require.Equal(t, "available", s.state(job))
				} else {
					require.NoError(t, err)
					require.Equal(t, c.state, s.state(job))
					require.NotContains(t, s.lost(worker), fmt.Sprint(job, " cancelled"), "it never began")
					require.Equal(t, c.state == "cancelled", one[bool](s, "select exists (select from awa.done_entries "+
						"where job_id = $1 and attempt = 0 and num_nonnulls(receipt, attempted_at, worker_id) = 0)", job))
				}
				require.Equal(t, c.state == "cancelled", one[bool](s,
					"select (select job_id from awa.enqueue_unique('q', 'k', unique_key => 'key', group_key => 'g')) <> $1", job))
				if len(running) > 0 {
					s.completeMany(running)
				}
				require.Len(t, s.claim("q", 9), 1, "the group goes on")
				s.balanced()
			}
		}
	}
}
