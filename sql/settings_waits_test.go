package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Changes of settings wait for those of others no longer than claim_wait, and name the session that holds them.
func TestSettingsWaitsAreBounded(t *testing.T) {
	d := newDatabase(t)
	s, holder := d.session(), d.session()
	s.exec(`select awa.configure('{"claim_wait": "50 ms"}'); select awa.configure_queue('q', '{}')`)
	const group = `select awa.configure_group('g', 'limited', '{"group_max_running": 2}')`
	s.exec(group + "; select awa.pause_group('g', 'paused')")
	holder.exec("set application_name = 'holder'")
	for _, c := range []struct{ held, waits string }{
		{`select awa.configure('{"prune_wait": "10 ms"}')`, `select awa.configure('{"prune_wait": "20 ms"}')`},
		{`select awa.configure_queue('q', '{"lease": "5 s"}')`, `select awa.configure_queue('q', '{"lease": "6 s"}')`},
		{"select awa.pause_queue('q')", `select awa.configure_queue('q', '{"lease": "6 s"}')`},
		{"select awa.pause_queue('q')", "select awa.pause_queue('q')"},
		{"select awa.pause_queue('q')", "select awa.resume_queue('q')"},
		{"select awa.pause_queue('q')", "select awa.drain_queue('q')"},
		{"select awa.configure_queue('new', '{}')", "select awa.configure_queue('new', '{}')"},
		{"select awa.drop_queue('q', true)", "select awa.configure_queue('q', '{}')"},
		{group, group},
		{group, "select awa.pause_group('g', 'limited')"},
		{"select awa.pause_group('g', 'new')", "select awa.pause_group('g', 'new')"},
		{"select awa.resume_group('g', 'paused')", "select awa.resume_group('g', 'paused')"},
		{"select awa.drop_queue('g', true)", "select awa.resume_group('g', 'paused')"},
		{"select awa.drop_queue('q', true)", "select awa.pause_queue('q')"},
	} {
		holder.exec("begin; " + c.held)
		err := s.try("set statement_timeout = '1 min'; " + c.waits)
		require.Equal(t, "55P03", sqlState(err), "%s beside %s: %v", c.waits, c.held, err)
		require.Contains(t, detail(err), "holder", "%s beside %s", c.waits, c.held)
		require.Contains(t, err.Error(), "being changed by another session")
		holder.exec("rollback")
		s.exec("begin; set local lock_timeout = '7 s'; " + c.waits)
		require.Equal(t, "7s", one[string](s, "select current_setting('lock_timeout')"))
		s.exec("rollback")
	}
}
