package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// inOrder makes a queue in order, with three jobs of a group, of which the first one runs.
func inOrder(t *testing.T) (d database, s *session, jobs []int64, attempt []claimed) {
	d = newDatabase(t)
	s = d.session()
	s.exec("update awa.settings set notifications = false")
	s.limits("q", `{"group_order": "strict"}`)
	jobs = s.enqueueInGroup("q", "g", 3)
	attempt = s.claim("q", 9)
	require.Equal(t, jobs[:1], ids(attempt))
	return d, s, jobs, attempt
}

// goOn works the jobs off, which have to begin in this order.
func (s *session) goOn(jobs []int64) {
	s.Helper()
	for _, job := range jobs {
		got := s.claim("q", 9)
		require.Equal(s, []int64{job}, ids(got))
		require.Empty(s, s.claim("q", 9))
		s.slots()
		s.completeMany(got)
	}
	require.Empty(s, s.claim("q", 9))
	s.slots()
	s.balanced()
}

// Two answers for an attempt, and a claim of its group between them: the first one decides whether the place is kept.
func TestTwoEndsOfAHolder(t *testing.T) {
	for _, way := range []string{"commit", "rollback", "prepare"} {
		d, s, jobs, attempt := inOrder(t)
		a, b := d.session(), d.session()
		a.exec("begin")
		a.exec("select awa.fail($1, $2, 'error', '0')", attempt[0].JobID, attempt[0].Receipt)
		completes := b.background("select awa.complete($1, $2)", attempt[0].JobID, attempt[0].Receipt)
		a.waitUntilBlocked(b)
		require.Empty(t, s.claim("q", 9))
		s.slots()
		if way == "prepare" {
			a.exec("prepare transaction 'p'")
			require.Empty(t, s.claim("q", 9))
			a.exec("commit prepared 'p'")
		} else {
			a.exec(way)
		}
		if way == "rollback" {
			require.NoError(t, completes())
			s.goOn(jobs[1:])
			continue
		}
		require.Equal(t, "JQ001", sqlState(completes()))
		require.Empty(t, s.claim("q", 9))
		s.promotesAll()
		s.goOn(jobs)
	}
}

// A claim that rolls back leaves the place of the job that it began, whether the job was promoted or given back, and
// whether the claim had read that it comes again.
func TestClaimOfAHolderThatRollsBack(t *testing.T) {
	for _, call := range []string{"select awa.release($1, $2)", "select awa.snooze($1, $2, '1 hour')"} {
		for _, isRead := range []bool{true, false} {
			d, s, jobs, attempt := inOrder(t)
			other := d.session()
			s.exec(call, attempt[0].JobID, attempt[0].Receipt)
			if isRead && call != "select awa.release($1, $2)" {
				require.Empty(t, s.claim("q", 9))
			}
			s.promotesAll()
			for range 2 {
				s.exec("begin")
				require.Equal(t, jobs[:1], ids(s.claim("q", 9)))
				s.exec("rollback")
				other.slots()
			}
			other.goOn(jobs)
		}
	}
}

// rescue passes over an attempt that is being completed, and after it has rescued one, the answer is stale.
func TestRescueOfAHolderBesideComplete(t *testing.T) {
	d, s, jobs, attempt := inOrder(t)
	other := d.session()
	s.exec("select awa.extend($1, $2, '1 millisecond')", attempt[0].JobID, attempt[0].Receipt)
	s.noGap()
	other.exec("begin")
	other.completes(attempt)
	require.Zero(t, s.rescue())
	require.Empty(t, s.claim("q", 9))
	other.exec("rollback")
	s.noGap()
	s.exec("begin")
	require.Equal(t, int64(1), s.rescue())
	require.Empty(t, other.claim("q", 9))
	completes := other.background("select awa.complete($1, $2)", attempt[0].JobID, attempt[0].Receipt)
	s.waitUntilBlocked(other)
	s.exec("commit")
	require.Equal(t, "JQ001", sqlState(completes()))
	require.Empty(t, s.claim("q", 9))
	s.promotesAll()
	s.goOn(jobs)
}

// One session cancels a job whose place is kept, another one retries it: whichever commits first, the place is given up
// with the cancel, once.
func TestRetryOfAHolderBesideCancel(t *testing.T) {
	for _, way := range []string{"commit", "rollback"} {
		d, s, jobs, attempt := inOrder(t)
		a, b := d.session(), d.session()
		s.exec("select awa.fail($1, $2, 'error', '1 hour')", attempt[0].JobID, attempt[0].Receipt)
		require.Empty(t, s.claim("q", 9))
		a.exec("begin")
		a.exec("select awa.cancel($1)", jobs[0])
		retries := b.background("select awa.retry($1)", jobs[0])
		a.waitUntilBlocked(b)
		require.Empty(t, s.claim("q", 9))
		s.slots()
		a.exec(way)
		require.NoError(t, retries()) // of the cancelled job: it comes as a new one
		if way == "rollback" {
			s.goOn(jobs)
			continue
		}
		s.goOn([]int64{jobs[1], jobs[2], jobs[0]})
	}
	// A cancel that comes to a job that a claim has begun meanwhile ends its attempt; a move fails.
	for _, call := range []string{"select awa.cancel($1)", "select awa.move($1, 'other')"} {
		d, s, jobs, attempt := inOrder(t)
		a := d.session()
		s.exec("select awa.release($1, $2)", attempt[0].JobID, attempt[0].Receipt)
		a.exec("begin")
		a.exec(call, jobs[0])
		attempt = s.claim("q", 9)
		require.Equal(t, jobs[:1], ids(attempt))
		s.slots()
		if call == "select awa.cancel($1)" {
			a.exec("commit")
		} else {
			require.Equal(t, "40001", sqlState(a.try("commit")))
			s.slots()
			s.completeMany(attempt)
		}
		s.slots()
		s.goOn(jobs[1:])
	}
}

// The order is changed beside a claim: the claim goes by the one that it has read, and the next one by the new one.
func TestOrderThatChangesBesideAClaim(t *testing.T) {
	d, s, jobs, attempt := inOrder(t)
	a := d.session()
	s.exec("select awa.snooze($1, $2, '1 hour')", attempt[0].JobID, attempt[0].Receipt)
	a.exec("begin")
	a.limits("q", `{"group_order": "start", "group_max_running": 1}`)
	require.Empty(t, s.claim("q", 9))
	require.Equal(t, jobs[0], *s.holder("q", "g"))
	a.exec("commit")
	s.exec("begin")
	attempt = s.claim("q", 9)
	require.Equal(t, jobs[1:2], ids(attempt))
	a.limits("q", `{"group_order": "strict"}`)
	s.exec("commit")
	s.slots()
	s.exec("select awa.snooze($1, $2, '1 hour')", attempt[0].JobID, attempt[0].Receipt)
	require.Empty(t, s.claim("q", 9))
	require.Equal(t, jobs[1], *s.holder("q", "g"), "it ends under strict")
	s.promotesAll()
	s.goOn([]int64{jobs[1], jobs[2], jobs[0]})
}

// A restore keeps the places: those that claims know, and those that none has read.
func TestPlacesAfterARestore(t *testing.T) {
	_, s, jobs, attempt := inOrder(t)
	other := s.enqueueInGroup("q", "h", 2)
	two := s.claim("q", 9)
	require.Equal(t, other[:1], ids(two))
	s.exec("select awa.snooze($1, $2, '1 hour')", attempt[0].JobID, attempt[0].Receipt)
	require.Empty(t, s.claim("q", 9))
	s.exec("select awa.snooze($1, $2, '1 hour')", two[0].JobID, two[0].Receipt)
	s.exec("select awa._recount_limits()")
	s.slots()
	require.Empty(t, s.claim("q", 9))
	s.slots()
	s.promotesAll()
	got := s.claim("q", 9)
	require.ElementsMatch(t, []int64{jobs[0], other[0]}, ids(got))
	s.completeMany(got)
	require.ElementsMatch(t, []int64{jobs[1], other[1]}, ids(s.claim("q", 9)))
	s.slots()
}

// After a restore the books are right before the first claim, also of a group with a limit of its own that has room.
func TestOwnLimitAfterARestore(t *testing.T) {
	s := newDatabase(t).session()
	s.limits("q", `{"group_max_running": 1}`)
	s.exec(`select awa.configure_group('q', 'g', '{"group_max_running": 2}')`)
	jobs := s.enqueueInGroup("q", "g", 4)
	s.completeMany(s.claim("q", 9)[:1])
	require.Equal(t, int64(1), s.materialize(), "a restore has counted the attempts, which have rows of their own by then")
	s.exec("select awa._recount_limits()")
	s.slots()
	require.Equal(t, jobs[2:3], ids(s.claim("q", 9)))
	s.slots()
}

// A job that failed for good is retried before the next claim: under strict it is a new one, behind those in line, also
// behind those that claims have not come to; under halt it goes first.
func TestRetryBeforeTheNextClaim(t *testing.T) {
	for _, order := range []string{"strict", "halt"} {
		for _, end := range []string{"discard", "fail_many"} {
			d := newDatabase(t)
			s, other := d.session(), d.session()
			s.limits("q", `{"group_order": "`+order+`", "default_max_attempts": 1}`)
			first := s.enqueueInGroup("q", "g", 1)
			attempt := s.claim("q", 9)
			require.Equal(t, first, ids(attempt))
			line := s.enqueueInGroup("q", "g", 1)
			require.Empty(t, s.claim("q", 9))
			late := s.enqueueInGroup("q", "g", 1)
			if end == "discard" {
				s.exec("select awa.discard($1, $2, 'error')", attempt[0].JobID, attempt[0].Receipt)
			} else {
				s.exec("select awa.fail_many($1, $2, '{error}')", ids(attempt), receipts(attempt))
			}
			other.exec("select awa.retry($1)", first[0])
			want := append(append(line, late...), first...)
			if order == "halt" {
				want = append(first, append(line, late...)...)
			}
			for _, job := range want {
				attempt = s.claim("q", 9)
				require.Equal(t, []int64{job}, ids(attempt), order)
				s.slots()
				s.completeMany(attempt)
			}
			s.balanced()
		}
	}
}
