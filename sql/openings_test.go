package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What opens a queue or a group is announced whatever was announced before, also beside a wake that rolled back.
func TestOpeningsAreAnnounced(t *testing.T) {
	d := newDatabase(t)
	listener, s := d.session(), d.session()
	s.limits("q", `{"max_running": 1, "group_max_running": 1}`)
	// as within 5 ms of a wake that rolled back
	s.exec(changing("_notify_once", "if v_last not between", "if false and v_last not between"))
	listener.exec("listen awa_wake_" + one[string](s, "select left(encode(sha256('q'), 'hex'), 1)"))
	listener.exec("listen mark")
	for _, call := range []string{
		`select awa.configure_queue('q', '{"max_running": 2}')`,
		`select awa.configure_queue('q', '{"max_running": null}')`,
		`select awa.configure_group('q', 'g', '{"group_max_running": 2}')`,
		"select awa.pause_group('q', 'g')",
		"select awa.resume_group('q', 'g')",
		"select awa.pause_queue('q')",
		"select awa.resume_queue('q')",
	} {
		s.exec(call)
		s.exec("notify mark, 'end'")
		var woken bool
		for {
			n, err := listener.db.WaitForNotification(listener.ctx)
			require.NoError(t, err)
			if n.Payload == "end" {
				break
			}
			woken = woken || n.Channel != "mark"
		}
		require.Equal(t, call[:16] != "select awa.pause", woken, call)
	}
}
