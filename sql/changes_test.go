package sql_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// starts starts a change of queue q, and returns its id.
func (s *session) starts(action, filter, options string) int64 {
	s.Helper()
	return one[int64](s, "select awa.start_change($1, '{\"queue\": \"q\"}'::jsonb || $2::jsonb, $3::jsonb)", action,
		filter, options)
}

// applies makes the next part of a change, and returns how many jobs it has changed.
func (s *session) applies(maxJobs int) int64 {
	s.Helper()
	return one[int64](s, "select changed from awa.apply_changes($1)", maxJobs)
}

// progress says how far a change has come.
func (s *session) progress(change int64) string {
	s.Helper()
	return one[string](s, "select format('%s: %s found, %s changed, %s skipped', state, found, changed, skipped) "+
		"from awa.list_changes() where change_id = $1", change)
}

// Of two maintainers one makes a part of a change, and the other one does something else. After a crash, which is a
// rollback, the part is made by whoever comes next, and the change goes on from there.
func TestTwoMaintainersOfAChange(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b := d.session(), d.session().neverWaits()
		jobs := a.enqueueMany("q", 6)
		change := a.starts("cancel", "{}", "{}")
		a.exec("begin")
		require.EqualValues(t, 2, a.applies(2))
		a.exec("set local idle_in_transaction_session_timeout = 0") // which a decision before the end has set
		require.Zero(t, b.applies(2), "the part that is being made")
		require.False(t, one[bool](b, "select more from awa.apply_changes()"), "it does not wait for that, either")
		other := b.enqueue("r")
		second := one[int64](b, `select awa.start_change('cancel', '{"queue": "r"}')`)
		require.EqualValues(t, 1, b.applies(2), "another change goes on")
		require.Equal(t, "cancelled", b.state(other))
		require.Equal(t, "finished: 1 found, 1 changed, 0 skipped", b.progress(second))
		require.Equal(t, "running: 0 found, 0 changed, 0 skipped", b.progress(change))
		a.exec(end)
		want := map[string][]string{
			"commit":   {"available", "available", "available", "available", "cancelled", "cancelled"},
			"rollback": {"available", "available", "available", "available", "available", "available"},
		}[end]
		require.Equal(t, want, states(b, jobs), "from the highest id down")
		for b.applies(2) > 0 {
		}
		require.Equal(t, "finished: 6 found, 6 changed, 0 skipped", b.progress(change), "each once")
		b.balanced()
	}
}

// What no longer matches when its turn comes stays as it is, and so does what was enqueued after the start.
func TestChangeOfWhatMovedOn(t *testing.T) {
	d := newDatabase(t)
	a, late := d.session(), d.session()
	late.exec("begin") // before the start, but it enqueues after it
	deferred := list[int64](a, `select awa.enqueue('q', 'k', '{"a": 1}', run_at => now() + interval '1 hour')
		from generate_series(1, 4)`)
	available := list[int64](a, `select awa.enqueue('q', 'k', '{"a": 1}') from generate_series(1, 3)`)
	waiting := a.starts("cancel", `{"state": "scheduled", "args": {"a": 1}}`, "{}")
	ready := a.starts("set_priority", `{"state": "available", "args": {"a": 1}}`, `{"priority": 1}`)
	a.exec("select awa.move($1, 'other')", deferred[0])
	a.exec(`select awa.reschedule($1, now() + interval '1 hour', '{"a": 2}')`, deferred[1])
	a.exec("select awa.retry($1)", deferred[2])
	a.exec("select awa.cancel($1)", available[0])
	require.Len(t, a.claim("q", 1), 1)
	after := a.enqueue("q")
	came := one[int64](late, `select awa.enqueue('q', 'k', '{"a": 1}')`)
	late.exec("commit")
	for range 2 {
		a.applies(10)
	}
	require.Equal(t, []string{"scheduled", "scheduled", "available", "cancelled"}, states(a, deferred))
	require.Equal(t, "finished: 1 found, 1 changed, 0 skipped", a.progress(waiting))
	require.Equal(t, "finished: 2 found, 2 changed, 0 skipped", a.progress(ready), "one more has come there by a retry")
	require.Equal(t, []int32{1, 1, 2, 2},
		list[int32](a, "select priority from awa.jobs where state = 'available' and queue = 'q' order by id"),
		"those that came after the start")
	require.Equal(t, []string{"available", "available"}, states(a, []int64{after, came}))
	a.balanced()
}

// A job that another session changes after it was found, and before it has its turn, is left alone, and the others are
// changed. The part has time for all of them: what the next one finds has moved on before.
func TestChangeBesideAnotherOne(t *testing.T) {
	const pause = "perform pg_advisory_xact_lock(4711);\n  "
	for _, c := range []struct {
		home, action, options string
		change                string
		state                 string // of the job afterwards
	}{
		{"deferred", "cancel", "{}", `select awa.reschedule($1, now() + interval '1 hour', '{"a": 2}')`, "scheduled"},
		{"deferred", "move", `{"queue": "r"}`, "select awa.move($1, 'other')", "scheduled"},
		{"deferred", "cancel", "{}", "select awa.move($1, 'other')", "scheduled"},
		{"deferred", "cancel", "{}", "select awa.retry($1)", "available"},
		{"available", "cancel", "{}", "select awa.move($1, 'other')", "available"},
		{"available", "move", `{"queue": "r"}`, "select awa.cancel($1)", "cancelled"},
		{"deferred", "discard", "{}", "select awa.move($1, 'other')", "scheduled"},
		{"available", "discard", "{}", "select awa.complete(job_id, receipt) from awa.claim('q') where job_id = $1",
			"completed"},
		{"available", "set_priority", `{"priority": 1}`, "select count(c) from awa.claim('q') c where job_id = $1",
			"running"},
		{"available", "cancel", "{}", "select count(c) from awa.claim('q') c where job_id = $1", "running"},
		{"available", "discard", "{}", "select count(c) from awa.claim('q') c where job_id = $1", "running"},
		{"available", "cancel", "{}", "select awa.complete(job_id, receipt) from awa.claim('q') where job_id = $1",
			"completed"},
		{"dead", "retry", "{}", "select awa.delete_job($1)", "gone"},
		{"dead", "delete", "{}", "select awa.retry($1)", "available"},
		{"dead", "retry", `{"queue": "r"}`, "select awa.retry($1, 'other')", "available"},
	} {
		t.Run(c.home+", "+c.action+" beside "+c.change, func(t *testing.T) {
			d := newDatabase(t)
			a, b, other, watcher := d.session(), d.session(), d.session().neverWaits(), d.session()
			a.exec(changing("_change_part", "'250 milliseconds'", "'1 hour'"))
			runAt := map[bool]string{true: "now() + interval '1 hour'", false: "null"}[c.home == "deferred"]
			jobs := list[int64](a, `select awa.enqueue('q', 'k', '{"a": 1}', run_at => `+runAt+`) from generate_series(1, 3)`)
			if c.home == "dead" {
				a.exec(`select awa.configure_queue('q', '{"dead_letter": true}')`)
				a.exec("select awa.discard(job_id, receipt, 'e') from awa.claim('q', 3)")
			}
			filter := `{"args": {"a": 1}}`
			if c.state == "running" {
				filter = `{"args": {"a": 1}, "state": "available"}`
			}
			change := a.starts(c.action, filter, c.options)
			a.exec(changing("_make_part", "v_part := awa._change_part", pause+"v_part := awa._change_part"))
			a.exec("select pg_advisory_lock(4711)")
			applies := b.background("select awa.apply_changes()")
			watcher.waitUntilBlocked(b)
			other.exec(c.change, jobs[0])
			a.exec("select pg_advisory_unlock(4711)")
			require.NoError(t, applies())
			a.exec(changing("_make_part", pause, ""))
			for one[bool](a, "select more from awa.apply_changes()") { // until it finds no more
			}
			require.Equal(t, "finished: 3 found, 2 changed, 1 skipped", a.progress(change))
			require.Equal(t, []string{c.state}, a.states(jobs[0]))
			require.NotNil(t, one[*string](a, "select last_error from awa.list_changes()"))
			a.balanced()
		})
	}
}

// Jobs that other sessions keep are skipped and counted, and hold up no others.
func TestChangeBesideOpenTransactions(t *testing.T) {
	d := newDatabase(t)
	b := d.session()
	b.setClaimWait("1 hour") // no part waits that long
	deferred := list[int64](b,
		"select awa.enqueue('q', 'k', run_at => now() + interval '1 hour') from generate_series(1, 20)")
	available := b.enqueueMany("q", 20)
	running := b.claim("q", 5)
	for _, keeps := range []string{
		fmt.Sprintf("select awa.cancel(%d)", deferred[7]),
		fmt.Sprintf("select awa.cancel(%d)", available[12]),
		fmt.Sprintf("select awa.set_priority(%d, 1)", available[17]),
		fmt.Sprintf("select awa.complete(%d, %d)", running[1].JobID, running[1].Receipt),
	} {
		s := d.session()
		s.exec("begin")
		s.exec(keeps)
		defer s.exec("rollback")
	}
	change := b.starts("cancel", "{}", "{}")
	for one[bool](b, "select more from awa.apply_changes(15)") {
	}
	require.Equal(t, "finished: 40 found, 36 changed, 4 skipped", b.progress(change))
	require.Equal(t, []string{"available", "available", "running", "scheduled"},
		list[string](b, "select state from awa.jobs where state <> 'cancelled' order by state"))
	require.NotNil(t, one[*string](b, "select last_error from awa.list_changes()"))
}

// A claim that is left open has its queue: a part waits for it for a tenth of a second, and goes on, and so does the
// change that comes next.
func TestChangeBesideAnOpenClaim(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	b.setClaimWait("1 hour")
	b.exec("set statement_timeout = '1 min'")
	a.enqueueMany("q", 3)
	free := a.enqueueMany("r", 3)
	a.exec("begin")
	require.Len(t, a.claim("q", 1), 1)
	held := b.starts("cancel", "{}", "{}")
	other := one[int64](b, `select awa.start_change('move', '{"queue": "r"}', '{"queue": "s"}')`)
	for one[bool](b, "select more from awa.apply_changes()") {
	}
	require.Equal(t, "finished: 3 found, 0 changed, 3 skipped", b.progress(held))
	require.Contains(t, one[string](b, "select last_error from awa.list_changes() where change_id = $1", held),
		"the queue is locked by another session")
	require.Equal(t, "finished: 3 found, 3 changed, 0 skipped", b.progress(other))
	require.Equal(t, []string{"available", "available", "available"}, states(b, free))
	a.exec("commit")
	b.balanced()
}

// stop_change waits for the part that is being made. Then no job is changed any more.
func TestStopChangeInTheMiddle(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b, watcher := d.session(), d.session(), d.session()
		a.setClaimWait("5 minutes")
		a.enqueueMany("q", 6)
		change := a.starts("cancel", "{}", "{}")
		a.exec("begin")
		require.EqualValues(t, 2, a.applies(2))
		a.exec("set local idle_in_transaction_session_timeout = 0") // which a decision before the end has set
		stops := b.background("select awa.stop_change($1)", change)
		watcher.waitUntilBlocked(b)
		a.exec(end)
		require.NoError(t, stops())
		require.Zero(t, a.applies(2))
		made := map[string]int{"commit": 2, "rollback": 0}[end]
		require.Equal(t, fmt.Sprintf("stopped: %d found, %[1]d changed, 0 skipped", made), b.progress(change))
		require.Equal(t, made, one[int](b, "select count(*) from awa.jobs where state = 'cancelled'"))
		b.balanced()
	}
}

// A change whose parts fail keeps its place, says why, and holds up no other; health names it. What the server lacks is
// an error of the pass.
func TestChangeThatFails(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	job := s.enqueue("q")
	bad := s.starts("cancel", "{}", "{}")
	good := one[int64](s, `select awa.start_change('cancel', '{"queue": "r"}')`)
	s.enqueue("q")
	fails := func(code string) {
		s.exec(changing("_make_part", "begin\n", "begin\n  if change.filter ->> 'queue' = 'q' then raise 'no' using "+
			"errcode = '"+code+"'; end if;\n"))
	}
	fails("XX001")
	require.Zero(t, s.applies(10))
	require.Equal(t, "running: 0 found, 0 changed, 0 skipped", s.progress(bad))
	require.Equal(t, "no (SQLSTATE XX001)",
		one[string](s, "select last_error from awa.list_changes() where change_id = $1", bad))
	s.applies(10)
	require.Equal(t, "finished: 0 found, 0 changed, 0 skipped", s.progress(good))
	require.Zero(t, s.applies(10))
	require.Equal(t, "available", s.state(job))
	const late = "select count(*) from awa.health() where topic = 'maintenance' and message ~ 'does not go on'"
	require.Zero(t, one[int](s, late))
	s.exec("update awa.changes set moved_at = now() - interval '1 hour' where change_id = $1", bad)
	require.Equal(t, 1, one[int](s, late))
	fails("53100")
	s.exec("update awa.changes set turn_at = now() where change_id = $1", bad)
	require.Equal(t, "53100", sqlState(s.try("select awa.apply_changes()")))
	// by a clock that was ahead
	s.exec("update awa.changes set turn_at = now() + interval '1 hour' where change_id = $1", bad)
	require.Equal(t, "53100", sqlState(s.try("select awa.apply_changes()")))
}

// A job that a trigger of a user refuses to change is skipped.
func TestChangeThatATriggerRefuses(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	jobs := s.enqueueMany("q", 9)
	s.exec(`create function public.refuse() returns trigger language plpgsql as
		$$ begin if new.job_id = tg_argv[0]::bigint then raise 'no'; end if; return new; end $$`)
	s.exec(fmt.Sprintf("create trigger refuse before insert on awa.done_entries for each row execute function "+
		"public.refuse(%d)", jobs[4]))
	change := s.starts("cancel", "{}", "{}")
	for one[bool](s, "select more from awa.apply_changes()") {
	}
	require.Equal(t, "finished: 9 found, 8 changed, 1 skipped", s.progress(change))
	require.Equal(t, fmt.Sprintf("job %d: no (SQLSTATE P0001)", jobs[4]),
		one[string](s, "select last_error from awa.list_changes()"))
	require.Equal(t, "available", s.state(jobs[4]))
	s.balanced()
}

// Retries that are spread over a time are spread evenly, however many there are, and in however small parts.
func TestRetriesOverATime(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.enqueueMany("q", 90)
	s.exec("select awa.cancel_where('q')")
	change := s.starts("retry", "{}", `{"over": "100 minutes", "run_at": "2130-01-01T00:00:00Z"}`)
	for one[bool](s, "select more from awa.apply_changes(7)") {
	}
	require.Equal(t, "finished: 90 found, 90 changed, 0 skipped", s.progress(change))
	tenths := list[int](s, `select count(j.id)::int from generate_series(0, 9) t
		left join awa.jobs j on j.state = 'scheduled'
		 and j.run_at >= timestamptz '2130-01-01 00:00Z' + t * interval '10 minutes'
		 and j.run_at < timestamptz '2130-01-01 00:00Z' + (t + 1) * interval '10 minutes'
		group by t`)
	require.Len(t, tenths, 10)
	for _, n := range tenths {
		require.InDelta(t, 9, n, 1)
	}
	s.balanced()
}

// A change by state goes past all that completed, and one whose part is full of what does not match goes on behind it.
func TestChangeReadsLittle(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec(changing("_find_rows", "then 20000 else", "then 4 else"))
	s.exec(changing("_scan", "job_ids := '{}';", "raise 'it reads the ledgers';"))
	for _, queue := range []string{"q", "r", "q", "r"} {
		s.enqueueMany(queue, 5)
		s.exec("select awa.cancel(job_id) from (select job_id from awa.claim($1, 10)) c", queue)
	}
	change := s.starts("retry", "{}", "{}")
	parts := 0
	for one[bool](s, "select more from awa.apply_changes(3)") {
		parts++
	}
	require.Equal(t, 10, one[int](s, "select count(*) from awa.jobs where state = 'available' and queue = 'q'"))
	require.Equal(t, "finished: 10 found, 10 changed, 0 skipped", s.progress(change))
	require.Greater(t, parts, 3)
}
