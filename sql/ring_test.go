package sql_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A transaction that has called everything that reads, and is left open, holds up nothing but truncation: jobs are
// counted, expire, and a segment is cleaned.
func TestAuditLeftOpen(t *testing.T) {
	d := newDatabase(t)
	reader, s := d.session(), d.session().neverWaits()
	failed := s.open("q", shapes[0])[0]
	s.exec("select awa.discard($1, $2, 'error')", failed.JobID, failed.Receipt)
	s.exec("update awa.done_entries set finalized_at = now() - interval '73 hours'")
	s.enqueueMany("q", 2)
	reader.exec("begin")
	for _, read := range []string{"* from awa.audit()", "* from awa.health()", "* from awa.queue_counts()",
		"* from awa.queue_counts('q')", "* from awa.queue_stats()", "* from awa.queue_stats('q')", "* from awa.list_jobs()",
		"j.* from unnest(awa._states('known')) s cross join awa.list_jobs('q', s) j", "* from awa.scan_jobs('{}')",
		"* from awa.list_queues()", "* from awa.list_workers()", "* from awa.list_groups('q')",
		"* from awa.list_schedules()", "* from awa.list_changes()", "awa.next_ready_at()", "awa.next_ready_at('{q}')",
		"* from awa.jobs", fmt.Sprintf("* from awa.job(%d)", failed.JobID),
		fmt.Sprintf("awa.explain_job(%d)", failed.JobID)} {
		reader.exec("select " + read) // without arguments, which would keep the last snapshot
	}
	require.Equal(t, []string{"relation AccessShareLock", "virtualxid ExclusiveLock"},
		list[string](s, "select distinct locktype || ' ' || mode from pg_locks where pid = $1 order by 1", reader.pid))
	s.exec("select awa._fold(null, true)")
	require.Equal(t, int64(3), one[int64](s, "select sum(appended)::bigint from awa.queue_rollups"))
	require.Equal(t, int64(1), one[int64](s, "select expired from awa.expire_history()"))
	s.rotate()
	require.Equal(t, "cleaned", s.prune())
	require.Equal(t, "blocked", s.prune())
	require.Len(t, s.claim("q", 9), 2)
	reader.exec("commit")
	s.prunes()
	s.audited()
}

// A cancel that decides at its commit about a job that was claimed meanwhile, or the drop of a queue, in a transaction
// that has read the tables of a segment that is being emptied, so that its truncation waits for it. They delete nothing
// there: a lock to write, beside that of the truncation, would be a deadlock at once.
func TestDeletesBesideATruncation(t *testing.T) {
	for _, drops := range []bool{false, true} {
		d := newDatabase(t)
		a, s, p := d.session(), d.session().neverWaits(), d.session()
		old := s.enqueueMany("old", 2)
		s.exec("select awa.cancel($1)", old[0])
		s.rotate()
		job := s.enqueue("q")
		require.Equal(t, "cleaned", s.prune())
		require.Equal(t, "truncating", s.prune(), "the entries")
		s.setPruneWait("1 minute")
		a.exec("begin")
		a.exec("select from awa.jobs")
		if !drops {
			a.exec("select awa.cancel($1)", job)
			require.Len(t, s.claim("q", 1), 1)
		}
		pruned := p.prunesInTheBackground()
		s.waitUntilBlocked(p)
		if drops {
			a.exec("select awa.drop_queue('q', true)")
		}
		a.exec("commit")
		require.Equal(t, "truncated", pruned(), "the tombstones")
		require.Equal(t, []string{map[bool]string{true: "gone", false: "cancelled"}[drops]}, s.states(job))
		s.audited()
		require.Equal(t, old[1:], ids(s.claim("old", 9)))
	}
}

// movesAll lets cleaning move what is alive, some at a time, before it looks at the rest, also where that is little.
func (s *session) movesAll() {
	s.Helper()
	s.exec("set jit = off") // to compile the views would take seconds on a busy machine
	s.exec(changing("_begin_cleaning", "or cut_off > 0", "or v_alive > 0"))
	s.exec(changing("_clean", "greatest(1000 >>", "greatest(2 >>"))
}

// carriesByLanes lets cleaning carry lane by lane, a piece of one lane and two jobs in each call, as it does where
// there are very many lanes.
func (s *session) carriesByLanes() {
	s.Helper()
	s.exec("set jit = off")
	s.exec(changing("_begin_cleaning", "> 500", "> 0"))
	s.exec(changing("_clean", "greatest(50 >>", "greatest(1 >>"))
	s.exec(changing("_clean", "greatest(1000 >> least(cut_off, 5), 1))\n", "greatest(2 >> least(cut_off, 5), 1))\n"))
	s.exec(changing("_carry_lanes", "v_tried >= 450", "v_tried >= 1"))
}

// settling is what cleaning says until then: it waits for transactions of other databases, too.
var settling = []string{"cleaning", "waiting"}

// settles begins to clean, and returns when no transaction can write to the segment any more.
func (s *session) settles() {
	s.Helper()
	for !one[bool](s, "select carried_before is not null from awa.ring") {
		require.Contains(s, settling, s.prune())
	}
}

// moves lets cleaning move what is alive, and stops before the rest.
func (s *session) moves(segment int) {
	s.Helper()
	for range 20 {
		require.Equal(s, "cleaning", s.prune())
		if one[int64](s, "select count(*) from awa._available where segment = $1", segment) == 0 {
			return
		}
	}
	require.Fail(s, "it never ends")
}

// What waits is moved some at a time: it keeps its place, and is counted where it is, also when others have the queues,
// and rotate, in between.
func TestCleaningMovesWhatWaits(t *testing.T) {
	d := newDatabase(t)
	reader, producer, claimer, s := d.session(), d.session(), d.session(), d.session().neverWaits()
	s.movesAll()
	s.setPruneWait("1 millisecond")
	jobs := s.enqueueMany("q", 5)
	other := s.enqueue("other")
	producer.exec("begin")
	late := producer.enqueue("q") // commits when the others are gone
	jobs = append(jobs, s.enqueueMany("q", 2)...)
	first := s.claim("q", 1)
	reader.exec("begin isolation level repeatable read")
	require.Equal(t, int64(7), one[int64](reader, "select count(*) from awa.jobs where state = 'available'"))
	s.rotate()
	require.Equal(t, "cleaning", s.prune(), "it has looked")
	require.Equal(t, "cleaning", s.prune(), "two jobs are moved")
	s.audited()
	claimer.exec("begin")
	second := claimer.claim("q", 2) // one here, one there
	require.Contains(t, []string{"cleaning", "busy"}, s.prune())
	require.Equal(t, other, s.claim("other", 1)[0].JobID)
	claimer.exec("commit")
	producer.exec("commit")
	s.audited()
	for outcome := ""; outcome != "cleaned"; outcome = s.prune() {
		require.Contains(t, []string{"", "cleaning", "busy"}, outcome)
	}
	require.Equal(t, int64(7), one[int64](reader, "select count(*) from awa.jobs where state = 'available'"),
		"an old snapshot sees what it saw")
	require.Equal(t, "waiting", s.prune())
	reader.exec("commit")
	s.prunesLater()
	s.audited()
	third := s.claim("q", 9)
	require.Equal(t, jobs,
		ids(slices.DeleteFunc(slices.Concat(first, second, third), func(c claimed) bool { return c.JobID == late })))
	require.Contains(t, ids(third), late)
	s.completes(slices.Concat(first, second, third))
	s.audited()
}

// A segment of which everything was moved is not empty: it has to be truncated, and nobody may rotate onto it before.
func TestSegmentFromWhichAllWasMoved(t *testing.T) {
	d := newDatabase(t)
	s := d.session().neverWaits()
	s.movesAll()
	jobs := s.enqueueMany("q", 3)
	for range 3 {
		s.rotate()
	}
	s.moves(0)
	require.Zero(t, one[int64](s, "select count(*) from awa.ready_entries where segment = 0"))
	require.False(t, one[bool](s, "select rotated from awa.rotate(true)"))
	require.Equal(t, "cleaned", s.prune())
	require.False(t, one[bool](s, "select rotated from awa.rotate(true)"))
	s.prunes()
	require.Zero(t, one[int64](s, "select pg_relation_size('awa.ready_entries_0')"))
	s.rotate()
	s.audited()
	require.Equal(t, jobs, ids(s.claim("q", 9)))
}

// A cancel, or another change, of a job that is moved before it commits: what it has buried in the old segment comes
// along, and is counted once.
func TestBurialOfWhatIsMoved(t *testing.T) {
	for _, c := range []struct{ call, state string }{{"select awa.cancel($1)", "cancelled"},
		{"select awa.set_priority($1, 4)", "available"},
		{"select awa.reschedule($1, now() + interval '1 hour')", "scheduled"}} {
		for n := range 6 {
			commits, byLanes := []string{"before the cleaning", "after it", "never"}[n%3], n > 2
			if commits == "never" && c.state != "cancelled" {
				continue
			}
			t.Log(c.call, commits, byLanes)
			d := newDatabase(t)
			operator, s := d.session(), d.session().neverWaits()
			jobs := s.enqueueMany("q", 3)
			if byLanes {
				s.carriesByLanes()
				s.rotate()
				s.settles()
			} else {
				s.movesAll()
			}
			operator.exec("begin")
			operator.exec(c.call, jobs[1])
			if !byLanes {
				s.rotate()
			}
			s.moves(0)
			if commits == "before the cleaning" {
				operator.exec("commit")
			}
			for outcome := ""; outcome != "cleaned"; outcome = s.prune() {
				require.Contains(t, []string{"", "cleaning", "busy"}, outcome)
			}
			s.audited()
			want, state := []int64{jobs[0], jobs[2]}, c.state
			switch commits {
			case "after it":
				operator.exec("commit")
			case "never":
				operator.exec("rollback")
				want, state = jobs, "available"
			}
			s.prunesLater()
			s.audited()
			require.Equal(t, state, s.state(jobs[1]))
			if strings.Contains(c.call, "priority") && commits != "never" {
				want = append(want, jobs[1])
			}
			require.Equal(t, want, ids(s.claim("q", 9)))
		}
	}
}

// A cleaning that is cut off leaves little behind, is known to have been tried, waits, says so, and goes on with less.
func TestCleaningThatIsCutOff(t *testing.T) {
	d := newDatabase(t)
	blocker, s := d.session(), d.session()
	s.exec("update awa.settings set completed_retention = '0'")
	s.enqueueMany("q", 3000)
	s.rotate()
	blocker.exec("begin")
	blocker.exec("lock table awa.queue_rollups in share mode") // the cleaning stops there, when it has moved some
	require.Equal(t, "cleaning", one[string](s, "select outcome from awa.prune_oldest()"))
	for try := range 4 {
		s.exec("set statement_timeout = '1s'")
		require.Equal(t, "57014", sqlState(s.try("select awa.prune_oldest()")))
		s.exec("set statement_timeout = 0")
		require.Equal(t, int64(try+1), one[int64](s, "select last_value from awa.prune_tries"))
		require.Equal(t, "cut off", one[string](s, "select outcome from awa.prune_oldest()"), "it waits")
		if try > 0 {
			require.Contains(t, one[string](s, "select level || ': ' || message from awa.health() where topic = 'prune'"),
				fmt.Sprintf("%s: not emptied: the last %d calls did not come to their end",
					map[bool]string{false: "ok", true: "warning"}[try > 1], try+1))
		}
		s.exec("select setval('awa.prune_tried_at', (extract(epoch from now() - interval '5 minutes') * 1000000)::bigint)")
	}
	require.Less(t, one[int64](s, "select pg_relation_size('awa.ready_entries_1')"),
		one[int64](s, "select pg_relation_size('awa.ready_entries_0')"))
	blocker.exec("commit")
	require.Equal(t, "cleaning", one[string](s, "select outcome from awa.prune_oldest()"))
	require.Equal(t, int64(62), one[int64](s, "select count(*) from awa.ready_entries where segment = 1"),
		"a sixteenth of what it would have been")
	require.Equal(t, int64(0), one[int64](s, "select count(*) from awa.health() where topic = 'prune'"))
	s.exec("call awa.run_maintenance()")
	require.Equal(t, "empty", s.prune())
	s.audited()
	require.Equal(t, int64(3000), one[int64](s, "select available from awa.queue_counts()"))
}

// After a success, cleaning that was cut off before goes on at once, with about as much at a time: with all that it
// took at first it would be cut off again, and wait.
func TestCleaningGoesOnAsItSucceeded(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("update awa.settings set completed_retention = '0'")
	s.enqueueMany("q", 3000)
	s.rotate()
	require.Equal(t, "cleaning", one[string](s, "select outcome from awa.prune_oldest()"), "it has looked")
	s.exec("select setval('awa.prune_tries', 4), setval('awa.prune_tried_at', (extract(epoch from now() - interval '5 " +
		"minutes') * 1000000)::bigint)")
	for range 2 {
		require.Equal(t, "cleaning", one[string](s, "select outcome from awa.prune_oldest()"))
		require.Equal(t, int64(0), one[int64](s, "select count(*) from awa.health() where topic = 'prune'"))
	}
	require.LessOrEqual(t, one[int64](s, "select count(*) from awa.ready_entries where segment = 1"), int64(62+125))
	require.LessOrEqual(t, one[int64](s, "select last_value from awa.prune_tries"), int64(4))
	s.exec("call awa.run_maintenance()")
	require.Equal(t, "empty", s.prune())
	require.Equal(t, int64(0), one[int64](s, "select last_value from awa.prune_tries"))
	s.audited()
}

// A session that was left in a transaction after a call of maintenance is named by health.
func TestIdleMaintenanceIsNamed(t *testing.T) {
	for _, call := range []string{"select awa.fold()", "select awa.rotate()", "select awa.prune_oldest()",
		"select awa.expire_history()", "select awa.run_pass('rescue')"} {
		d := newDatabase(t)
		a, s := d.session(), d.session().neverWaits()
		s.exec(changing("_health_maintenance", "interval '1 minute'", "interval '0'"))
		named := func() []string {
			return list[string](s, "select h.level || ': ' || h.message from awa.health() h where h.topic = 'maintenance' and "+
				"starts_with(h.subject, 'backend ' || $1 || ' ')", strconv.Itoa(int(a.pid)))
		}
		require.Empty(t, named())
		a.exec("begin")
		a.exec(call)
		require.Len(t, named(), 1, call)
		require.Regexp(t, "^warning: its transaction has held up .* for ", named()[0], call)
		a.exec("commit")
		require.Empty(t, named(), call)
		a.exec("begin")
		a.exec("select awa.health(), awa.audit(), awa.queue_counts(), awa.enqueue('q', 'k')")
		require.Empty(t, named(), "a session that reads, or enqueues, holds up nothing")
	}
}

// Nothing is moved from a queue, and no cursor, while a claim has it: the claim would go on from a cursor that is not
// the newest.
func TestNothingIsMovedBesideAnOpenClaim(t *testing.T) {
	d := newDatabase(t)
	claimer, s := d.session(), d.session().neverWaits()
	s.movesAll()
	s.setPruneWait("1 millisecond")
	s.completes(s.open("q", shapes[0]))
	jobs := s.enqueueMany("q", 3)
	s.rotate()
	require.Equal(t, "cleaning", s.prune(), "it has looked")
	claimer.exec("begin")
	require.Equal(t, jobs[:1], ids(claimer.claim("q", 1)))
	require.Equal(t, "busy", s.prune())
	require.Equal(t, int64(0), one[int64](s, "select count(*) from awa.ready_entries where segment = 1"))
	claimer.exec("commit")
	require.Equal(t, jobs[1:2], ids(s.claim("q", 1)))
	s.prunesLater()
	require.Equal(t, jobs[2:], ids(s.claim("q", 9)))
	s.audited()
}

// What is moved before it was counted is counted where it is then, once.
func TestMovesWhatIsNotCounted(t *testing.T) {
	d := newDatabase(t)
	producer, s := d.session(), d.session()
	s.movesAll()
	producer.exec("begin")
	late := producer.enqueue("q")
	job := s.enqueue("q")
	s.exec("select awa._fold(null, true)")
	s.rotate()
	require.Equal(t, "cleaning", s.prune(), "it has looked")
	producer.exec("commit") // no program counts from here on
	require.Equal(t, "cleaning", s.prune())
	require.Equal(t, []int64{2, 0},
		list[int64](s, "select (select count(*) from awa.ready_entries where segment = n) from generate_series(1, 0, -1) n"),
		"both are moved")
	require.False(t,
		one[bool](s,
			"select pg_visible_in_snapshot(e.xid, r.counted) from awa.ready_entries e join awa.queue_rollups r using (lane) "+
				"where job_id = $1", late))
	require.Equal(t, "1 0",
		one[string](s, "select format('%s %s', segment_entries[2], segment_entries[1]) from awa.queue_rollups"))
	s.audited()
	s.cleans()
	s.audited()
	require.Equal(t, []int64{late, job}, ids(s.claim("q", 9)))
}

// Who completes jobs in long transactions keeps no segment but that of the claim from being emptied.
func TestPruneBesideCompletions(t *testing.T) {
	d := newDatabase(t)
	worker, s := d.session(), d.session()
	s.enqueueMany("q", 2)
	s.completeMany(s.claim("q", 9))
	s.rotate()
	s.enqueueMany("q", 4)
	jobs := append(s.claim("q", 1), s.claim("q", 3)...)
	s.rotate() // the claims are not in the current segment
	s.exec("select awa._fold(null, true)")
	worker.exec("begin")
	for _, j := range jobs[:2] { // of a claim of one job, and of several
		worker.exec("select awa.complete($1, $2)", j.JobID, j.Receipt)
	}
	require.Equal(t, []string{"awa.lease_claim_closures_1", "awa.lease_claims_1", "awa.lease_claims_2"},
		list[string](s,
			"select distinct relation::regclass::text from pg_locks where pid = $1 and locktype = 'relation' and "+
				"relation::regclass::text ~ '_[0-3]$' order by 1", worker.pid))
	// the portal of the call before goes, and its snapshot: one that is there when the segment is cleaned is waited for
	worker.exec("savepoint s")
	require.Equal(t, []string{"cleaned", "truncating", "truncating", "truncated"},
		[]string{s.prune(), s.prune(), s.prune(), s.prune()})
	worker.exec("commit")
	require.Equal(t, []int64{jobs[0].JobID, jobs[1].JobID}, s.completeMany(jobs), "they are completed, once")
	s.audited()
}

// What answers for jobs, or changes them, in a transaction that lasts keeps no table of a segment locked but that of
// its jobs and the current one: the truncation of the oldest would wait for each of these transactions.
func TestPruneBesideAnswersAndChanges(t *testing.T) {
	d := newDatabase(t)
	worker, s := d.session(), d.session()
	s.completeMany(append(s.open("q", shapes[0]), s.open("q", shapes[0])...))
	s.rotate()
	jobs := []claimed{}
	for range 2 {
		s.enqueueMany("q", 6)
		jobs = append(jobs, s.claim("q", 6)...)
	}
	waiting := s.enqueue("q")
	kept := one[int64](s,
		"select job_id from awa.enqueue_unique('u', 'k', unique_key => 'kept', unique_states => "+
			"'{available,running,completed}')")
	keeps := s.claim("u", 1)[0]
	require.Equal(t, kept, keeps.JobID)
	held := one[int64](s, "select job_id from awa.enqueue_unique('u', 'k', unique_key => 'held')")
	s.exec("select awa.discard($1, $2, 'x')", jobs[0].JobID, jobs[0].Receipt)
	scheduled := one[int64](s, "select awa.enqueue('q', 'k', run_at => now() + interval '1 hour')")
	s.rotate() // what they concern is not in the current segment
	a, b, other := jobs[1], jobs[2], jobs[7]
	for _, c := range []struct {
		call string
		args []any
	}{
		{"complete($1, $2)", []any{a.JobID, a.Receipt}},
		{"complete($1, $2, '1')", []any{a.JobID, a.Receipt}},
		{"complete($1, $2)", []any{keeps.JobID, keeps.Receipt}},
		{"complete_many(array[$1::bigint, $3], array[$2::bigint, $4])", []any{a.JobID, a.Receipt, b.JobID, b.Receipt}},
		{"complete_many(array[$1::bigint, $3], array[$2::bigint, $4])",
			[]any{a.JobID, a.Receipt, other.JobID, other.Receipt}},
		{"complete_many(array[$1::bigint, $3], array[$2::bigint, $4], '{1,null}')",
			[]any{a.JobID, a.Receipt, b.JobID, b.Receipt}},
		{"complete_many(array[$1::bigint], array[$2::bigint])", []any{keeps.JobID, keeps.Receipt}},
		{"fail($1, $2, 'x')", []any{a.JobID, a.Receipt}},
		{"fail_many(array[$1::bigint, $3], array[$2::bigint, $4], '{x,y}')",
			[]any{a.JobID, a.Receipt, other.JobID, other.Receipt}},
		{"release($1, $2)", []any{a.JobID, a.Receipt}},
		{"snooze($1, $2, '1 hour')", []any{a.JobID, a.Receipt}},
		{"put_off($1, $2, 'x')", []any{a.JobID, a.Receipt}},
		{"discard($1, $2, 'x')", []any{a.JobID, a.Receipt}},
		{"cancel_attempt($1, $2)", []any{a.JobID, a.Receipt}},
		{"set_progress($1, $2, '1')", []any{a.JobID, a.Receipt}},
		{"extend($1, $2, '1 hour')", []any{a.JobID, a.Receipt}},
		{"cancel($1)", []any{a.JobID}},
		{"cancel($1)", []any{waiting}},
		{"cancel($1)", []any{scheduled}},
		{"retry($1)", []any{scheduled}},
		{"retry($1)", []any{jobs[0].JobID}},
		{"move($1, 'z')", []any{waiting}},
		{"move($1, 'z')", []any{held}},
		{"set_priority($1, 1)", []any{waiting}},
		{"reschedule($1, now() + interval '1 hour')", []any{waiting}},
		{"reschedule($1, now() + interval '2 hours')", []any{scheduled}},
		{"enqueue_unique('u', 'k', unique_key => 'new')", nil},
		{"enqueue_unique('u', 'k', unique_key => 'held')", nil},
		{"enqueue_unique('u', 'k', unique_key => 'kept')", nil},
		{"cancel_by_unique_key(unique_key => 'held')", nil},
	} {
		worker.exec("begin")
		worker.exec("select awa.enqueue('q', 'k')") // it has an id
		worker.exec("select awa."+c.call, c.args...)
		worker.exec("select awa.enqueue_unique('u', 'k', unique_key => 'held')") // after a cancel, and a move
		require.Empty(t,
			list[string](s,
				"select distinct relation::regclass::text from pg_locks where pid = $1 and locktype = 'relation' and "+
					"relation::regclass::text ~ '_[03]$' and relation::regclass::text !~ 'wake' order by 1", worker.pid), c.call)
		worker.exec("rollback")
	}
	s.audited()
}

// cleans lets a cleaning that has begun come to its end.
func (s *session) cleans() {
	s.Helper()
	for outcome := ""; outcome != "cleaned"; outcome = s.prune() {
		require.Contains(s, []string{"", "cleaning", "busy"}, outcome)
	}
}

// Between the moves of a cleaning anything may happen: each job is there once, in its place, and is claimed once.
func TestBetweenTheMoves(t *testing.T) {
	for _, c := range []struct {
		name string
		// does it, and returns what ends it, and the jobs that are to be claimed then
		does func(d database, s *session, jobs []int64) (ends func(), want []int64)
	}{
		{"another rotation", func(d database, s *session, jobs []int64) (func(), []int64) {
			s.rotate()
			return func() {}, append(jobs, s.enqueue("q"))
		}},
		{"it is counted", func(d database, s *session, jobs []int64) (func(), []int64) {
			s.exec("select awa._fold(null, true)")
			return func() {}, jobs
		}},
		{"the queue is dropped", func(d database, s *session, jobs []int64) (func(), []int64) {
			s.exec("select awa.drop_queue('q', true)")
			return func() {}, []int64{s.enqueue("q")}
		}},
		{"the drop of the queue is open", func(d database, s *session, jobs []int64) (func(), []int64) {
			a := d.session()
			a.exec("begin")
			a.exec("select awa.drop_queue('q', true)")
			require.Equal(s, "busy", s.prune())
			a.exec("rollback")
			return func() {}, jobs
		}},
		{"a reader comes", func(d database, s *session, jobs []int64) (func(), []int64) {
			reader := d.session()
			reader.exec("begin isolation level repeatable read")
			require.Equal(s, jobs, list[int64](reader, "select id from awa.jobs where state = 'available' order by id"))
			return func() {
				require.Equal(s, "waiting", s.prune())
				require.Equal(s, jobs, list[int64](reader, "select id from awa.jobs where state = 'available' order by id"))
				require.Equal(s, jobs, list[int64](reader, "select job_id from awa.ready_entries order by 1"), "as a dump would")
				reader.exec("commit")
			}, jobs
		}},
		{"an old snapshot enqueues", func(d database, s *session, jobs []int64) (func(), []int64) {
			producer := d.session()
			producer.exec("begin isolation level repeatable read")
			producer.exec("select 1")
			s.rotate()
			late := producer.enqueue("q")
			return func() { producer.exec("commit") }, append(jobs, late)
		}},
		{"some are changed", func(d database, s *session, jobs []int64) (func(), []int64) {
			for _, job := range []int64{jobs[0], jobs[5]} {
				s.exec("select awa.set_priority($1, 3)", job)
			}
			return func() {}, append(jobs[1:5:5], jobs[0], jobs[5])
		}},
		{"the mover has cancelled some", func(d database, s *session, jobs []int64) (func(), []int64) {
			s.exec("begin")
			for _, job := range []int64{jobs[0], jobs[5]} {
				s.exec("select awa.cancel($1)", job)
			}
			require.Equal(s, "cleaning", s.prune())
			s.exec("commit")
			return func() {}, jobs[1:5]
		}},
		{"a cancel is open when the job is claimed", func(d database, s *session, jobs []int64) (func(), []int64) {
			a := d.session()
			a.exec("begin")
			a.exec("select awa.cancel($1)", jobs[5])
			return func() {
				taken := s.claim("q", 6)
				require.Equal(s, jobs, ids(taken))
				a.exec("commit")
				require.Equal(s, "cancelled", s.state(jobs[5]))
				require.Equal(s, []int64{jobs[5]}, s.completeMany(taken), "stale")
			}, nil
		}},
		{"a move is open when the job is claimed", func(d database, s *session, jobs []int64) (func(), []int64) {
			a := d.session()
			a.exec("begin")
			a.exec("select awa.move($1, 'other')", jobs[5])
			return func() {
				taken := s.claim("q", 6)
				require.Equal(s, jobs, ids(taken))
				require.Equal(s, "40001", sqlState(a.try("commit")))
				require.Empty(s, s.completeMany(taken))
				require.Empty(s, s.claim("other", 9))
			}, nil
		}},
		{"two are at it, in both segments", func(d database, s *session, jobs []int64) (func(), []int64) {
			a := d.session()
			a.exec("begin")
			a.exec("select awa.cancel($1)", jobs[5])
			s.moves(0)
			s.exec("select awa.set_priority($1, 4)", jobs[5])
			return func() { require.Equal(s, "40001", sqlState(a.try("commit"))) }, jobs
		}},
	} {
		for _, byLanes := range []bool{false, true} {
			t.Log(c.name, byLanes)
			d := newDatabase(t)
			s := d.session()
			s.setPruneWait("1 millisecond")
			jobs := s.enqueueMany("q", 6)
			s.exec("select awa._fold(null, true)")
			s.rotate()
			if byLanes {
				s.carriesByLanes()
				s.settles()
			} else {
				s.movesAll()
				require.Equal(t, "cleaning", s.prune(), "it has looked")
			}
			require.Equal(t, "cleaning", s.prune(), "two jobs are moved")
			require.Equal(t, int64(4), one[int64](s, "select count(*) from awa.ready_entries where segment = 0"))
			ends, want := c.does(d, s, slices.Clone(jobs))
			s.audited()
			s.cleans()
			s.audited()
			ends()
			s.audited()
			s.prunesLater()
			s.audited()
			taken := s.claim("q", 9)
			require.Equal(t, want, ids(taken), c.name)
			s.completes(taken)
			s.audited()
		}
	}
}

// A lane whose window is open, with commits that came late: moved, they are claimed once each, the late ones first.
func TestMovesInAnOpenWindow(t *testing.T) {
	d := newDatabase(t)
	producers := []*session{d.session(), d.session()}
	s := d.session()
	s.movesAll()
	s.enqueue("q")
	var late [][]int64
	for _, p := range producers {
		p.exec("begin")
		late = append(late, p.enqueueMany("q", 3))
	}
	s.completes(s.claim("q", 1))
	after := s.enqueueMany("q", 3)
	producers[0].exec("commit")
	first := s.claim("q", 1)
	require.Equal(t, late[0][:1], ids(first), "the window is open, in the middle of the late ones")
	s.rotate()
	require.Equal(t, "cleaning", s.prune(), "it has looked")
	require.Equal(t, "cleaning", s.prune())
	producers[1].exec("commit")
	s.audited()
	second := s.claim("q", 1)
	require.Equal(t, late[0][1:2], ids(second))
	s.cleans()
	s.audited()
	s.prunesLater()
	third := s.claim("q", 9)
	require.ElementsMatch(t, slices.Concat(late[0][2:], after, late[1]), ids(third))
	require.Equal(t, late[0][2:], ids(third)[:1])
	s.completes(slices.Concat(first, second, third))
	s.audited()
}

// One queue is held by somebody: what was claimed meanwhile in the others does not let all of it be copied at once.
func TestMovesBesideAQueueThatIsHeld(t *testing.T) {
	d := newDatabase(t)
	holder, blocker, s, p := d.session(), d.session(), d.session(), d.session()
	s.movesAll()
	s.exec(changing("_lock_some", "'500 milliseconds'", "'5 minutes'"))
	queues := s.queuesInOrder(2)
	first := s.enqueue(queues[0])
	s.enqueueMany(queues[1], 9)
	s.rotate()
	require.Equal(t, "cleaning", s.prune(), "it has looked")
	holder.exec("begin")
	holder.lockQueue(queues[0])
	blocker.exec("begin")
	blocker.lockQueue(queues[1])
	pruned := p.prunesInTheBackground()
	holder.waitUntilBlocked(p)
	require.Equal(t, []int64{first}, ids(holder.claim(queues[0], 1)))
	holder.exec("commit")
	require.Equal(t, "cleaning", pruned())
	require.Zero(t, one[int64](s, "select count(*) from awa.ready_entries where segment = 1"))
	blocker.exec("commit")
	s.cleans()
	s.prunesLater()
	require.Len(t, s.claim(queues[1], 99), 9)
	s.audited()
}

// A claimer waits for the queue, and cleaning behind it: the claimer has its turn first, and the rest is moved.
func TestMovesBehindAClaimThatWaits(t *testing.T) {
	d := newDatabase(t)
	holder, claimer, s, p := d.session(), d.session(), d.session(), d.session()
	s.movesAll()
	s.exec(changing("_lock_some", "'500 milliseconds'", "'5 minutes'"))
	s.setClaimWait("5 minutes")
	jobs := s.enqueueMany("q", 3)
	s.rotate()
	require.Equal(t, "cleaning", s.prune(), "it has looked")
	holder.exec("begin")
	holder.lockQueue("q")
	claimed := claimer.background("select from awa.claim('q', 1)")
	holder.waitUntilBlocked(claimer)
	pruned := p.prunesInTheBackground()
	holder.waitUntilBlocked(p)
	require.ElementsMatch(t, []int32{int32(holder.pid), int32(claimer.pid)},
		one[[]int32](holder, "select pg_blocking_pids($1)", p.pid), "it waits for both")
	holder.exec("commit")
	require.NoError(t, claimed())
	require.Equal(t, "cleaning", pruned())
	require.Equal(t, "running", s.state(jobs[0]))
	require.Equal(t, jobs[1:], list[int64](s, "select job_id from awa.ready_entries where segment = 1 order by 1"))
	s.audited()
	s.cleans()
	s.prunesLater()
	require.Equal(t, jobs[1:], ids(s.claim("q", 9)))
	s.audited()
}

// Somebody answers for an attempt: what waits is moved all the same.
func TestMovesBesideAnAnswer(t *testing.T) {
	d := newDatabase(t)
	worker, s := d.session(), d.session()
	s.movesAll()
	s.setPruneWait("1 millisecond")
	s.enqueueMany("q", 9)
	running := s.claim("q", 1)
	s.rotate()
	require.Equal(t, "cleaning", s.prune(), "it has looked")
	worker.exec("begin")
	worker.exec("select awa.complete($1, $2)", running[0].JobID, running[0].Receipt)
	s.moves(0)
	require.Equal(t, "busy", s.pruneOn())
	worker.exec("commit")
	s.prunesLater()
	require.Len(t, s.claim("q", 99), 8)
	s.audited()
}

// What a clock that was ahead has written delays neither the emptying of a segment, nor the counting.
func TestRingAfterAClockThatWasAhead(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("update awa.settings set completed_retention = '0'")
	s.enqueue("q")
	s.rotate()
	s.exec("update awa.ring set outcome = 'blocked', tries = 3, retry_at = now() + interval '1 hour'")
	require.Equal(t, "cleaned", one[string](s, "select outcome from awa.prune_oldest()"))
	s.exec("select setval('awa.prune_tries', 3), setval('awa.prune_tried_at', (extract(epoch from now() + interval '1 " +
		"hour') * 1000000)::bigint)")
	require.NotEqual(t, "cut off", one[string](s, "select outcome from awa.prune_oldest()"))

	s.completes(s.open("q", shapes[0]))
	s.exec("select awa._fold(null, true)")
	counted := one[int64](s, "select sum(completed)::bigint from awa.queue_rollups")
	s.exec("update awa.queue_rollups set folded_at = now() + interval '1 hour'")
	s.completes(s.open("q", shapes[0]))
	s.exec("select awa._fold()")
	require.Greater(t, one[int64](s, "select sum(completed)::bigint from awa.queue_rollups"), counted)

	// A claim that is open is passed over, and maintenance need not begin with it each time.
	s.open("ahead", shapes[3])
	s.exec("update awa.lease_claims set claimed_at = now() + interval '1 hour' where awa._queue_of(lane) = " +
		"awa._queue_id('ahead')")
	s.exec("select awa._fold(null, true)")
	require.NotEmpty(t,
		list[int64](s, "select unnest(open_seqs) from awa.queue_rollups where awa._queue_of(lane) = awa._queue_id('ahead')"))
	last := one[int64](s, "select max(claim_id) from awa.lease_claims")
	require.Equal(t, last, one[int64](s, "select awa._claimed_until(now() + interval '1 second' - interval '0 seconds')"))
}

// A worker is told what it lost for a minute, whatever the clock that wrote when it was told first.
func TestToldByAClockThatWasAhead(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	worker := s.registerWorker()
	s.exec("insert into awa.lost_attempts (worker_id, receipt, job_id, reason, told_at) values ($1, 1, 1, 'r', now() + "+
		"interval '1 hour')", worker)
	require.Empty(t, s.lost(worker))
	require.Zero(t, one[int64](s, "select count(*) from awa.lost_attempts"))
}

// maintains calls maintenance under a timeout, and says how that ended.
func (s *session) maintains(setting, timeout string) string {
	s.Helper()
	s.exec("set " + setting + " = '" + timeout + "'")
	err := s.try("call awa.run_maintenance()")
	if s.db.IsClosed() {
		return "closed"
	}
	s.exec("set " + setting + " = 0")
	return sqlState(err)
}

// Under a timeout of whoever calls it maintenance does as much as there is time for, and the ring turns: in one call,
// or in several, none of which is cut off.
func TestMaintenanceUnderATimeout(t *testing.T) {
	for _, timeout := range []string{"300ms", "2s"} {
		d := newDatabase(t)
		s := d.session()
		s.exec("update awa.settings set completed_retention = '0'")
		s.exec("select awa.enqueue_many('q', 'k', array_fill('{}'::jsonb, array[10000])) from generate_series(1, 2)")
		s.exec("select awa.enqueue_many('q', 'k', array_fill('{}'::jsonb, array[10000]), run_at => now() + interval '1 " +
			"second')")
		s.rotate()
		cut := 0
		for calls := 0; !one[bool](s, "select awa._is_empty(0)"); calls++ {
			require.Less(t, calls, 500)
			if s.maintains("statement_timeout", timeout) == "57014" {
				cut++
				s.exec("select setval('awa.prune_tried_at', (extract(epoch from now() - interval '5 minutes') * 1000000)::bigint)")
			}
		}
		t.Log(timeout, cut, "calls were cut off")
		require.LessOrEqual(t,
			one[int64](s, "select pg_relation_size('awa.ready_entries_1') / (select count(*) from awa.ready_entries)"),
			int64(400), "without dead copies")
		s.audited()
	}
}

// Maintenance whose caller has a timeout ends before that, however much there is to do.
func TestMaintenanceEndsInTime(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("create or replace function awa.prune_oldest(force boolean default false) returns setof awa.prune_oldest_row " +
		"language sql as $$ select 0::smallint, 'cleaning' from pg_sleep(0.05) $$")
	s.exec("create function begins_with(step int) returns float language plpgsql as $$ declare v_seed float; begin loop " +
		"v_seed := random(); perform setseed(v_seed); if floor(random() * 10) = step then perform setseed(v_seed); return " +
		"v_seed; end if; end loop; end $$")
	var ends []string
	for range 5 { // a machine that stops for longer than a batch takes may be late
		s.exec("select begins_with(9)") // so that the step that is never done is the last one
		ends = append(ends, s.maintains("statement_timeout", "3s"))
		if ends[len(ends)-1] == "<nil>" {
			return
		}
	}
	require.Fail(t, "it never ends in time", "%v", ends)
}

// Maintenance that is cancelled, killed, or ended by a timeout in the middle of a cleaning: that it tried is known,
// little is left behind, it waits, health says so, and later it goes on.
func TestMaintenanceThatIsEnded(t *testing.T) {
	d := newDatabase(t)
	blocker, s, other := d.session(), d.session(), d.session().neverWaits()
	s.exec("update awa.settings set completed_retention = '0'")
	jobs := s.enqueueMany("q", 3000)
	s.rotate()
	require.Equal(t, "cleaning", one[string](s, "select outcome from awa.prune_oldest()"), "it has looked")
	blocker.exec("begin")
	blocker.exec("select pg_advisory_xact_lock(42)")
	s.exec("create function stops() returns trigger language plpgsql set lock_timeout = 0 as $$ " +
		"begin perform pg_advisory_xact_lock(42); return new; end $$")
	// the cleaning stops there, when it has deleted some
	s.exec("create trigger stops before insert on awa.ready_entries_1 for each row execute function stops()")
	ways := []string{"cancel", "terminate", "statement_timeout", "transaction_timeout"}
	if one[bool](s, "select current_setting('server_version_num')::int < 170000") {
		ways = ways[:3]
	}
	for n, way := range ways {
		t.Log(way)
		a := d.session()
		if strings.HasSuffix(way, "timeout") {
			a.exec("set " + way + " = '5s'")
		}
		ended := a.background("call awa.run_maintenance()")
		if !strings.HasSuffix(way, "timeout") {
			s.waitUntilBlocked(a)
			s.exec("select pg_"+way+"_backend($1)", a.pid)
		}
		require.Error(t, ended())
		// its locks go with it
		for way != "cancel" &&
			one[bool](s, "select exists (select from pg_stat_activity where pid = $1 and state <> 'idle')", a.pid) {
		}
		require.Equal(t, int64(n+1), one[int64](s, "select last_value from awa.prune_tries"), way)
		require.Equal(t, "cut off", one[string](other, "select outcome from awa.prune_oldest()"), "it waits")
		if n > 0 {
			require.Contains(t, one[string](s, "select message from awa.health() where topic = 'prune'"),
				fmt.Sprintf("the last %d calls did not come to their end", n+1))
		}
		s.exec("select setval('awa.prune_tried_at', (extract(epoch from now() - interval '5 minutes') * 1000000)::bigint)")
	}
	require.Less(t, one[int64](s, "select pg_relation_size('awa.ready_entries_1')"),
		one[int64](s, "select pg_relation_size('awa.ready_entries_0')"))
	blocker.exec("commit")
	s.exec("call awa.run_maintenance()")
	require.True(t, one[bool](s, "select awa._is_empty(0)"))
	require.Empty(t, list[string](s, "select message from awa.health() where topic = 'prune'"))
	s.audited()
	require.Equal(t, jobs[:9], ids(s.claim("q", 9)))
}
