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
