package sql_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// waitsFor says that a call fails beside another session, whom it names, after a millisecond.
func (s *session) waitsFor(other *session, call string, args ...any) {
	s.Helper()
	err := s.try(call, args...)
	require.Equal(s, "55P03", sqlState(err), "%s: %v", call, err)
	require.Contains(s, detail(err), "Waited 00:00:00.001 for ", call)
	require.Contains(s, detail(err), fmt.Sprintf("backend %d (", other.pid), call)
}

// Whoever waits for longer than claim_wait for another session that changes the same job learns which session it is.
func TestChangesNameWhoChangesTheJob(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session().neverWaits()
	a.setClaimWait("1 millisecond")
	change := map[string]string{
		"cancel":       "select awa.cancel($1)",
		"retry":        "select awa.retry($1)",
		"set_priority": "select awa.set_priority($1, 1)",
		"move":         "select awa.move($1, 'other')",
		"reschedule":   "select awa.reschedule($1, now() + interval '2 hours', '{}')",
		"delete_job":   deleteJob,
	}
	for _, c := range []struct {
		state, held string
		make        func() int64
		changes     []string
	}{
		{"scheduled", "set_priority", func() int64 {
			return one[int64](a, "select awa.enqueue('q', 'k', run_at => now() + interval '1 hour')")
		}, []string{"cancel", "retry", "set_priority", "move", "reschedule"}},
		{"available", "cancel", func() int64 { return a.enqueue("q") },
			[]string{"cancel", "set_priority", "move", "reschedule"}},
		{"failed", "retry", func() int64 { return a.ended("q", ends[3]) }, []string{"retry", "delete_job"}},
		{"running", "cancel", func() int64 { return a.open("q", shapes[0])[0].JobID }, []string{"cancel"}},
	} {
		job := c.make()
		require.Equal(t, c.state, a.state(job))
		a.exec("begin")
		a.exec(change[c.held], job)
		for _, name := range c.changes {
			t.Log(c.state, name)
			b.waitsFor(a, change[name], job)
		}
		a.exec("rollback")
		a.exec("select awa.drop_queue('q', true)")
	}
	job := a.enqueueUnique("q", "key")
	a.exec("begin")
	a.exec("select awa.cancel($1)", job)
	b.waitsFor(a, "select awa.cancel_by_unique_key(unique_key => 'key')")
	a.exec("rollback")
}

// So does a session that waits for a change, for the lease of an attempt, or for the settings of a queue that are made.
func TestOtherWaitsNameTheHolder(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session().neverWaits()
	a.setClaimWait("1 millisecond")
	a.enqueue("q")
	a.starts("set_priority", "{}", `{"priority": 4}`)
	attempt := a.open("alone", shapes[0])[0]
	for _, c := range []struct {
		held  string
		waits []string
	}{
		{"select awa.apply_changes()", []string{"select awa.stop_change(change_id) from awa.list_changes()"}},
		{"select awa.stop_change(change_id) from awa.list_changes()",
			[]string{"select awa.stop_change(change_id) from awa.list_changes()"}},
		{"select awa.extend(%d, %d, '2 hours')", []string{
			"select awa.extend(%d, %d, '3 hours')", "select awa.set_progress(%d, %d, '1')",
			"select awa.complete(%d, %d)", "select awa.fail(%d, %d, 'error')", "select awa.release(%d, %d)",
		}},
		{"select awa.configure_queue('new', '{}')",
			[]string{"begin isolation level repeatable read; select awa.enqueue('new', 'k', group_key => 'g'); commit"}},
	} {
		if strings.Contains(c.held, "%d") {
			a.exec("select awa.extend($1, $2, '1 hour')", attempt.JobID, attempt.Receipt)
		}
		filled := func(call string) string {
			return strings.Replace(strings.Replace(call, "%d", fmt.Sprint(attempt.JobID), 1), "%d",
				fmt.Sprint(attempt.Receipt), 1)
		}
		a.exec("begin; " + filled(c.held))
		for _, call := range c.waits {
			b.waitsFor(a, filled(call))
			if b.db.PgConn().TxStatus() != 'I' {
				b.exec("rollback")
			}
		}
		a.exec("rollback")
	}
	a.exec("select awa.complete($1, $2)", attempt.JobID, attempt.Receipt)
	a.audited()
}
