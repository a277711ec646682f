package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// listPasses returns the passes of maintenance, in their order.
func (s *session) listPasses() []string {
	s.Helper()
	return list[string](s, "select unnest(awa._passes())")
}

// succeeded sets when a pass has succeeded last.
const succeeded = "setval(('awa.pass_clock_' || $1::text)::regclass, awa._microseconds(clock_timestamp() - " +
	"$2::interval))"

// A session that hangs inside a pass, with its lock, keeps nobody from running that pass: others leave it out only
// while it has succeeded just now.
func TestPassThatHangs(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session().neverWaits()
	job := s.enqueue("q")
	require.Len(t, s.claim("q", 1), 1)
	a.exec("begin")
	a.exec("select awa.run_pass('rescue')") // and it does not go on from here
	s.halfAnHourLater()
	s.exec("select "+succeeded+", awa.run_pass('rescue')", "rescue", "0")
	require.Equal(t, "running", s.state(job), "it is left to the other session")
	s.exec("select "+succeeded+", awa.run_pass('rescue')", "rescue", "6 seconds")
	require.Equal(t, "retryable", s.state(job), "but not for long")
	s.exec("select "+succeeded+", awa.run_pass('rescue')", "rescue", "-1 hour") // by a clock that was ahead
	require.True(t, one[bool](s, "select awa._succeeded_at('rescue') <= clock_timestamp()"))
	require.Equal(t, []string{"rescue"}, list[string](s, "select what from awa._maintenance_holders"), "it is named")
	a.exec("rollback")
	s.balanced()
}

// Each pass is run beside one that hangs, and waits for nothing. Those that need what the other one holds are not said
// to have succeeded.
func TestPassesThatHang(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session().neverWaits()
	s.completes(s.open("q", shapes[0]))
	for _, pass := range s.listPasses() {
		a.exec("begin")
		a.exec("select awa.run_pass($1)", pass)
		s.exec("select "+succeeded, pass, "6 seconds")
		s.exec("select awa.run_pass($1)", pass)
		needs := map[string]bool{"fold": true, "expire_history": true, "rotate": true, "prune_oldest": true}
		require.Equal(t, !needs[pass],
			one[bool](s, "select awa._succeeded_at($1) > clock_timestamp() - interval '5 seconds'", pass), pass)
		a.exec("commit")
		s.exec("select awa.run_pass($1)", pass)
		require.True(t, one[bool](s, "select awa._succeeded_at($1) > clock_timestamp() - interval '1 minute'", pass), pass)
	}
}

// The current segment is summarized once nobody holds a lock on it: a vacuum, say.
func TestSummarizeBesideAVacuum(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session().neverWaits()
	a.exec("begin")
	a.exec("lock table awa.ready_entries_0 in share update exclusive mode")
	require.Zero(t, one[int](s, "select summarized from awa.summarize()"))
	require.True(t, one[bool](s, "select awa._succeeded_at('summarize') is null"))
	a.exec("commit")
	s.exec("select awa.summarize()")
	require.True(t, one[bool](s, "select awa._succeeded_at('summarize') is not null"))
}
