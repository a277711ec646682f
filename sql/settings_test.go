package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Of two changes of settings at once both hold: the second one waits for the first.
func TestTwoChangesOfSettings(t *testing.T) {
	d := newDatabase(t)
	a, b, claimer, watcher := d.session(), d.session(), d.session().neverWaits(), d.session()
	claimer.enqueue("q")
	for _, c := range []struct{ first, second, settings string }{
		{`select awa.configure('{"carry_max": 7}')`, `select awa.configure('{"claim_bytes": 8}')`,
			"select concat_ws(' ', carry_max, claim_bytes) from awa.settings"},
		{`select awa.configure_queue('q', '{"lease": 7}')`, `select awa.configure_queue('q', '{"default_max_attempts": 8}')`,
			"select concat_ws(' ', extract(second from lease)::int, default_max_attempts) from awa.queue_settings"},
	} {
		a.exec("begin")
		a.exec(c.first)
		second := b.background(c.second)
		watcher.waitUntilBlocked(b)
		require.Len(t, claimer.claim("q", 1), 1, "no other session waits")
		claimer.enqueue("q")
		a.exec("commit")
		require.NoError(t, second())
		require.Equal(t, "7 8", one[string](a, c.settings))
	}
}

// The rows of settings and ring can't be removed. Where one is missing all the same, nothing counts as expired: claims,
// all of maintenance, and whatever else reads a setting fail, and what has completed stays. Producers go on without
// settings, and so do answers.
func TestRowsThatMustBeThere(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	job := s.enqueue("q")
	for _, sql := range []string{"delete from awa.settings", "truncate awa.settings", "delete from awa.ring",
		"truncate awa.ring"} {
		require.Equal(t, "55000", sqlState(s.try(sql)), sql)
	}
	s.completeMany(s.claim("q", 1))
	s.exec("select awa.register_worker('w')")
	open := s.open("q", shapes[0])
	s.exec("select awa.rotate(true)")
	s.exec("call awa.run_maintenance()")
	calls := []string{"claim('q')", "expire_history()", "promote_due()", "prune_oldest()", "prune_oldest(true)",
		"rotate(true)"}
	for _, pass := range s.listPasses() {
		calls = append(calls, "run_pass('"+pass+"')", pass+"()")
	}
	missing := func(calls ...string) {
		t.Helper()
		for _, call := range calls {
			require.ErrorContains(t, s.try("select awa."+call), "has lost its row (SQLSTATE 55000)", call)
		}
		require.Equal(t, "55000", sqlState(s.try("call awa.run_maintenance()")), "it ends")
	}

	s.exec("set session_replication_role = replica") // as a restore may
	s.exec("create temp table lost as select * from awa.ring")
	s.exec("delete from awa.ring")
	missing(append(calls, "enqueue('q', 'k')")...)
	s.exec("insert into awa.ring select * from lost")

	s.exec("delete from awa.settings")
	missing(append(calls, "list_queues()", "list_workers()", "explain_job(1)", "configure('{}')",
		"configure_queue('q', '{\"completed_retention\": 1}')", "move(1, 'q')", "retry(1)",
		"delete_job(1)", "set_priority(1, 1)", "cancel_where('q')", "delete_where('q')", "drain_queue('q')",
		"drop_queue('q')")...)
	require.Equal(t, "completed", s.state(job))
	s.completes(open)
	s.exec(changing("_settings", "if not found then", "if false then"))
	s.exec("select awa.prune_oldest()")
	require.Equal(t, "completed", s.state(job), "the row may be lost in the middle of a pass")
	later := s.enqueue("q")
	s.exec("insert into awa.settings default values")
	require.Equal(t, []int64{later}, ids(s.claim("q", 9)))
	require.Equal(t, "23514", sqlState(s.try("update awa.ring set left_at[2] = null")), "nor may a time be missing there")
	require.Equal(t, "23514", sqlState(s.try("update awa.ring set left_at = left_at[:2]")))
	s.balanced()
}
