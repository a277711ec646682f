package sql_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Schedules go through a dump and a restore with all that is known of them. What has fired does not fire again, what is
// due fires once, a pause lasts, and an old version of a program does not undo the declaration of the new one.
func TestSchedulesThroughARestore(t *testing.T) {
	server := newServer(t)
	d := server.database("t", true)
	s := d.session()
	s.setsClock("2026-06-01 12:00:30+00")
	s.exec("select awa.schedule('fired', 'q', 'k', '* * * * *')")
	s.exec("select awa.schedule('waits', 'q', 'k', '* * * * *', overlap => 'wait')")
	s.exec("select awa.schedule('paused', 'q', 'k', '* * * * *'), awa.pause_schedule('paused', 'because')")
	s.exec("create role app in role awa_worker, awa_producer; create role another; set role app")
	s.exec(`select awa.sync_schedules('app', '[{"name": "declared", "queue": "q", "kind": "k", "cron": "* * * * *"}]', 7)`)
	s.exec("reset role")
	s.clockIs("2026-06-01 12:01:01+00")
	require.EqualValues(t, 3, s.fire())
	s.clockIs("2026-06-01 12:02:01+00")
	require.EqualValues(t, 2, s.fire())
	s.exec("select awa.schedule('due', 'q', 'k', '* * * * *')")
	s.clockIs("2026-06-01 12:03:00+00")

	const all = "select to_jsonb(l)::text from awa.list_schedules() l order by l.name"
	before, times := list[string](s, all), s.times("fired")
	r := server.restore("restored", server.dumps(d)()).session()
	require.Equal(t, "55000", sqlState(r.try("select awa.fire_due()")))
	// on another server, the OID of the owner is that of another role
	r.exec("update awa.schedule_sources set owner_id = 'another'::regrole")
	r.exec("select awa.rebase_after_restore()")
	require.Equal(t, "app", one[string](r, "select owner_id::regrole::text from awa.schedule_sources"))
	require.Equal(t, before, list[string](r, all))
	r.clockIs("2026-06-01 12:02:01+00")
	require.EqualValues(t, 0, r.fire(), "nothing fires twice")
	require.EqualValues(t, 0, one[int](r, "select count(*) from awa.backfill_schedule('fired', '2026-06-01 12:01+00', "+
		"'2026-06-01 12:02:01+00')"), "nor is it made up for")
	r.clockIs("2026-06-01 12:03:00+00")
	for _, session := range []*session{s, r} { // both go on, each with its own
		require.EqualValues(t, 3, session.fire())
		require.Equal(t, append(times, "12:03"), session.times("fired"))
		require.Equal(t, []string{"12:03"}, session.times("due"))
		require.Empty(t, session.times("paused"))
		require.Equal(t, []string{"12:01"}, session.times("waits"))
		require.False(t, one[bool](session, "select awa.sync_schedules('app', '[]', 6)"))
		session.exec("select awa.cancel(last_job_id) from awa.list_schedules() where name = 'waits'")
		session.clockIs("2026-06-01 12:03:01.5+00")
		require.EqualValues(t, 1, session.fire())
		require.Equal(t, []string{"12:01", "12:02"}, session.times("waits"))
		session.balanced()
	}
}

// An old version of a program that starts while the new one is being synchronised, and waits for a schedule, waits for
// that, and changes nothing then.
func TestOldSynchronisationBesideANewerOne(t *testing.T) {
	d := newDatabase(t)
	newer, older, holder, s := d.session(), d.session(), d.session(), d.session()
	s.exec(`select awa.configure('{"claim_wait": "1 minute"}')`)
	const declare = `select awa.sync_schedules('app', '[{"name": "x", "queue": "q", "kind": "k", "cron": "%s"},
		{"name": "%s", "queue": "q", "kind": "k", "cron": "@daily"}]', %d)`
	s.exec(fmt.Sprintf(declare, "@daily", "first", 1))
	holder.exec("begin")
	holder.exec("select awa.pause_schedule('x')")
	newerEnded := newer.background(fmt.Sprintf(declare, "@hourly", "new", 3))
	s.waitUntilBlocked(newer)
	olderEnded := older.background(fmt.Sprintf(declare, "@weekly", "old", 2))
	s.waitUntilBlocked(older)
	holder.exec("commit")
	require.NoError(t, newerEnded())
	require.NoError(t, olderEnded())
	require.Equal(t, "new @daily, x @hourly",
		one[string](s, "select string_agg(name || ' ' || cron, ', ' order by name) from awa.list_schedules()"))
	require.True(t, one[bool](s, "select paused_at is not null from awa.list_schedules() where name = 'x'"))
}
