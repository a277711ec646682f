package sql_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A transaction that has read the books, and is left open, holds up nothing but truncation: jobs are counted, expire, and a segment is cleaned.
func TestAuditLeftOpen(t *testing.T) {
	d := newDatabase(t)
	reader, s := d.session(), d.session().neverWaits()
	failed := s.open("q", shapes[0])[0]
	s.exec("select awa.discard($1, $2, 'error')", failed.JobID, failed.Receipt)
	s.exec("update awa.done_entries set finalized_at = now() - interval '73 hours'")
	s.enqueueMany("q", 2)
	reader.exec("begin")
	reader.exec("select * from awa.audit()")
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

// A cancel that decides at its commit about a job that was claimed meanwhile, and the drop of a queue, have read the tables of a segment that is being emptied, and so its truncation waits for them. They delete nothing there: a lock to
// write, beside that of the truncation, would be a deadlock at once.
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
		if drops {
			a.exec("select from awa.jobs")
		} else {
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
	s.exec(`
		do $$ begin
		  execute replace(pg_get_functiondef('awa._clean'::regproc), 'v_alive > 1000 or cut_off > 0', 'v_alive > 0 or cut_off > 0');
		  execute replace(pg_get_functiondef('awa._clean'::regproc), 'greatest(1000 >>', 'greatest(2 >>');
		end $$`)
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

// What waits is moved some at a time: it keeps its place, and is counted where it is, also when others have the queues, and rotate, in between.
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
	require.Equal(t, int64(7), one[int64](reader, "select count(*) from awa.jobs where state = 'available'"), "an old snapshot sees what it saw")
	require.Equal(t, "waiting", s.prune())
	reader.exec("commit")
	s.prunesLater()
	s.audited()
	third := s.claim("q", 9)
	require.Equal(t, jobs, ids(slices.DeleteFunc(slices.Concat(first, second, third), func(c claimed) bool { return c.JobID == late })))
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

// A cancel, or another change, of a job that is moved before it commits: what it has buried in the old segment comes along, and is counted once.
func TestBurialOfWhatIsMoved(t *testing.T) {
	for _, c := range []struct{ call, state string }{{"select awa.cancel($1)", "cancelled"}, {"select awa.set_priority($1, 4)", "available"}} {
		for _, commits := range []string{"before the cleaning", "after it", "never"} {
			if commits == "never" && c.state != "cancelled" {
				continue
			}
			t.Log(c.call, commits)
			d := newDatabase(t)
			operator, s := d.session(), d.session().neverWaits()
			s.movesAll()
			jobs := s.enqueueMany("q", 3)
			operator.exec("begin")
			operator.exec(c.call, jobs[1])
			s.rotate()
			s.moves(0)
			if commits == "before the cleaning" {
				operator.exec("commit")
			}
			for outcome := ""; outcome != "cleaned"; outcome = s.prune() {
				require.Contains(t, []string{"", "cleaning", "busy"}, outcome)
			}
			want := []int64{jobs[0], jobs[2]}
			switch commits {
			case "after it":
				operator.exec("commit")
			case "never":
				operator.exec("rollback")
				want, c.state = jobs, "available"
			}
			s.prunesLater()
			s.audited()
			require.Equal(t, c.state, s.state(jobs[1]))
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
				fmt.Sprintf("%s: not emptied: the last %d calls did not come to their end", map[bool]string{false: "ok", true: "warning"}[try > 1], try+1))
		}
		s.exec("select setval('awa.prune_tried_at', (extract(epoch from now() - interval '5 minutes') * 1000000)::bigint)")
	}
	require.Less(t, one[int64](s, "select pg_relation_size('awa.ready_entries_1')"), one[int64](s, "select pg_relation_size('awa.ready_entries_0')"))
	blocker.exec("commit")
	require.Equal(t, "cleaning", one[string](s, "select outcome from awa.prune_oldest()"))
	require.Equal(t, int64(62), one[int64](s, "select count(*) from awa.ready_entries where segment = 1"), "a sixteenth of what it would have been")
	require.Equal(t, int64(0), one[int64](s, "select count(*) from awa.health() where topic = 'prune'"))
	s.exec("call awa.run_maintenance()")
	require.Equal(t, "empty", s.prune())
	s.audited()
	require.Equal(t, int64(3000), one[int64](s, "select available from awa.queue_counts()"))
}

// A session that was left in a transaction after a call of maintenance is named.
func TestIdleMaintenanceIsNamed(t *testing.T) {
	for _, call := range []string{"select awa.materialize()", "select awa.rotate()", "select awa.prune_oldest()", "select awa.expire_history()", "select awa.rescue()"} {
		d := newDatabase(t)
		a, s := d.session(), d.session().neverWaits()
		a.exec("begin")
		a.exec(call)
		require.Equal(t, []int32{int32(a.pid)}, list[int32](s, "select pid from awa._maintenance_holders"), call)
		a.exec("commit")
		require.Empty(t, list[int32](s, "select pid from awa._maintenance_holders"))
		a.exec("begin")
		a.exec("select awa.health(), awa.audit(), awa.queue_counts(), awa.enqueue('q', 'k')")
		require.Empty(t, list[int32](s, "select pid from awa._maintenance_holders"), "who reads, or enqueues, is in nobody's way")
	}
}

// Nothing is moved from a queue, and no cursor, while a claim has it: the claim would go on from a cursor that is not the newest.
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
