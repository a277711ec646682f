package sql_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// A claim that stays open keeps a job from being replaced. The schedule says so, and health warns of it once it is
// late, as long as the claim is open.
func TestReplaceThatIsKeptForLong(t *testing.T) {
	d, s := dueSchedule(t, ", overlap => 'replace'")
	s.exec("select awa.register_worker('w')")
	require.EqualValues(t, 1, s.fire())
	a := d.session()
	a.exec("begin")
	require.Len(t, a.claim("q", 1), 1)
	for _, at := range []string{"12:02:01", "12:02:30", "12:05:01", "12:12:01"} {
		s.clockIs("2026-06-01 " + at + "+00")
		require.EqualValues(t, 0, s.fire())
	}
	s.exec("set timezone = 'UTC'")
	require.Regexp(t, `^Its time 2026-06-01 12:02:00.* could not fire at 2026-06-01 12:12:01.*, since another session is `+
		`in its way: .*SQLSTATE 55P03`, one[string](s, "select awa.explain_schedule('s')"))
	require.Regexp(t, "another session is in its way: .*55P03",
		one[string](s, "select message from awa.health() where topic = 'schedule' and level = 'warning'"))
	require.EqualValues(t, 0, one[int](s, "select failures from awa.list_schedules()"))
	a.exec("rollback")
	s.clockIs("2026-06-01 12:12:31+00")
	require.EqualValues(t, 0, s.fire(), "it is cancelled")
	require.EqualValues(t, 1, s.fire(), "and the next call fires")
	require.Equal(t, "ok", one[string](s, "select level from awa.health() where topic = 'schedule'"))
}

// A session that keeps a schedule locked is named by explain_schedule and health, and by calls that wait for it.
func TestSessionThatHoldsASchedule(t *testing.T) {
	d, s := dueSchedule(t, "")
	s.exec("select awa.register_worker('w')")
	s.setClaimWait("50 milliseconds")
	a := d.session()
	a.exec("set application_name = 'holder'")
	a.exec("begin; select awa.trigger_schedule('s')")
	s.clockIs("2026-06-01 12:03:30+00")
	require.EqualValues(t, 0, s.fire())
	holder := fmt.Sprintf("%d.*holder", one[int](a, "select pg_backend_pid()"))
	require.Regexp(t, "It is locked by .*"+holder, one[string](s, "select awa.explain_schedule('s')"))
	require.Regexp(t, "it is late: .*, and it is locked by .*"+holder,
		one[string](s, "select message from awa.health() where topic = 'schedule' and level = 'warning'"))
	for _, call := range []string{"awa.schedule('s', 'q', 'k', '@daily')", "awa.pause_schedule('s')",
		"awa.sync_schedules('app', '[{\"name\": \"s\", \"queue\": \"q\", \"kind\": \"k\", \"cron\": \"@daily\"}]')"} {
		if call[:8] == "awa.sync" {
			a.exec("rollback")
			s.exec("update awa.schedules set source = 'app'")
			a.exec("begin; select awa.trigger_schedule('s')")
		}
		err := s.try("select " + call)
		require.Equal(t, "55P03", sqlState(err), call)
		require.Regexp(t, holder, err.(*pgconn.PgError).Detail, call)
	}
	a.exec("rollback")
	s.exec("select awa.pause_schedule('s')")
}

// So is one that has locked the schedule, and then changed it in a subtransaction, as fire_due does, and one whose
// subtransaction has locked it, and is over. A session that has others locked is not named, nor one that has let go.
func TestSessionThatHoldsAScheduleThroughASubtransaction(t *testing.T) {
	for _, calls := range []string{
		"select fired from awa.fire_due(1)",
		"savepoint a; select awa.pause_schedule('s'); release a; select awa.trigger_schedule('s')",
		"savepoint a; savepoint b; select awa.trigger_schedule('s'); release b; release a",
	} {
		d, s := dueSchedule(t, "")
		s.exec("select awa.register_worker('w')")
		s.exec("select awa.schedule('other', 'q', 'k', '@yearly')")
		s.setClaimWait("50 milliseconds")
		a, b := d.session(), d.session()
		a.exec("set application_name = 'holder'")
		a.exec("begin; " + calls)
		b.exec("set application_name = 'another'")
		b.exec("begin; select awa.trigger_schedule('other')")
		s.clockIs("2026-06-01 12:03:30+00")
		require.EqualValues(t, 0, s.fire())
		holder := fmt.Sprintf(`backend %d \([^)]*holder[^)]*\)`, one[int](a, "select pg_backend_pid()"))
		require.Regexp(t, "It is locked by "+holder+", and does not",
			one[string](s, "select awa.explain_schedule('s')"), calls)
		require.Regexp(t, "it is late: .*, and it is locked by "+holder+"$",
			one[string](s, "select message from awa.health() where topic = 'schedule' and level = 'warning'"), calls)
		err := s.try("select awa.pause_schedule('s')")
		require.Equal(t, "55P03", sqlState(err), calls)
		require.Regexp(t, "for "+holder+`\.$`, err.(*pgconn.PgError).Detail, calls)
		require.NotRegexp(t, "locked by", one[string](a, "select awa.explain_schedule('s')"), "it is its own")
		a.exec("rollback")
		require.NotRegexp(t, "locked by", one[string](s, "select awa.explain_schedule('s')"), calls)
		s.exec("select awa.pause_schedule('s')")
	}
}

// So is one that keeps what a synchronisation is to remove, or its source, also one that is not there yet; and one that
// has made a schedule of the same name, and has not committed.
func TestSessionThatKeepsASynchronisationWaiting(t *testing.T) {
	const declared = `'[{"name": "n", "queue": "q", "kind": "k", "cron": "@daily"}]'`
	for _, test := range []struct{ holds, waits string }{
		{"awa.trigger_schedule('s')", "awa.sync_schedules('app', '[]')"},
		{"awa.sync_schedules('app', '[]')", "awa.sync_schedules('app', " + declared + ")"},
		{"awa.sync_schedules('new', '[]')", "awa.sync_schedules('new', '[]')"},
		{"awa.sync_schedules('new', " + declared + ")", "awa.sync_schedules('app', " + declared + ")"},
		{"awa.sync_schedules('new', " + declared + ")", "awa.schedule('n', 'q', 'k', '@daily')"},
		{"awa.schedule('n', 'q', 'k', '@daily')", "awa.sync_schedules('app', " + declared + ")"},
		{"awa.schedule('n', 'q', 'k', '@daily')", "awa.schedule('n', 'q', 'k', '@daily')"},
	} {
		d := newDatabase(t)
		s, a := d.session(), d.session()
		s.exec(`select awa.sync_schedules('app', '[{"name": "s", "queue": "q", "kind": "k", "cron": "@daily"}]')`)
		s.setClaimWait("50 milliseconds")
		call := test.holds + " beside " + test.waits
		a.exec("begin; select " + test.holds)
		err := s.try("select " + test.waits)
		require.Equal(t, "55P03", sqlState(err), call)
		refused := err.(*pgconn.PgError)
		require.Regexp(t, "the (schedule|source) is locked by another session", refused.Message, call)
		require.Contains(t, refused.Detail, fmt.Sprintf("for backend %d (", a.pid), call)
		require.NotEmpty(t, refused.Hint, call)
		a.exec("rollback")
		s.exec("select " + test.waits)
	}
}

// While another session keeps the settings of all queues, a call ends after its second, and no schedule waits in each
// call again.
func TestSchedulesBesideSettingsThatAreLocked(t *testing.T) {
	d := newDatabase(t)
	s, a := d.session(), d.session()
	s.setsClock("2026-06-01 12:00:30+00")
	s.exec("select awa.schedule('s' || n, 'q', 'k', '* * * * *') from generate_series(1, 60) n")
	s.clockIs("2026-06-01 12:01:01+00")
	s.exec(changing("fire_due", "awa._budget('1 second', 4)", "interval '0 seconds'"))
	a.exec("begin; lock table awa.queue_settings in access exclusive mode")
	require.EqualValues(t, 0, s.fire())
	kept := one[int](s, "select count(*) from awa.schedules where error ~ '55P03' and failures = 0")
	require.Positive(t, kept, "it notes which ones are kept")
	require.Less(t, kept, 60, "and ends when its time is over")
	a.exec("commit")
	s.clockIs("2026-06-01 12:01:03+00")
	for s.fire() > 0 {
	}
	require.EqualValues(t, 60, one[int](s, "select count(*) from awa.jobs"))
	require.Zero(t, one[int](s, "select count(*) from awa.schedules where error is not null"))
	s.balanced()
}

// Where the caller's timeout is short, a call takes a part of it alone, and what it has decided stays. Here it has time
// for one schedule.
func TestSchedulesAndAShortTimeout(t *testing.T) {
	s := newDatabase(t).session()
	s.setsClock("2026-06-01 12:00:30+00")
	s.exec("select awa.schedule('s' || n, 'q', 'k', '* * * * *') from generate_series(1, 3) n")
	s.exec("update awa.schedules set failures = 1")
	s.exec("create or replace function awa._budget(most interval, share int) returns interval language sql stable " +
		"return case when most = '1 second' and share = 4 then interval '0' else most end")
	s.clockIs("2026-06-01 12:01:01+00")
	require.EqualValues(t, "1 t", one[string](s, "select fired || ' ' || left(more::text, 1) from awa.fire_due()"))
}
