package sql_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	inAnHour  = "select awa.reschedule($1, now() + interval '1 hour')"
	inTwo     = "select awa.reschedule($1, now() + interval '2 hours')"
	now       = "select awa.reschedule($1, now())"
	nowOther  = "select awa.reschedule($1, now(), '\"other\"')"
	laterThan = "select run_at > now() + interval '90 minutes' from awa.job($1)"
)

// A reschedule stands in a transaction for as long as it likes: nobody who claims the job, or answers for it, waits.
// When it commits, it finds that the job has begun, and changes nothing.
func TestAnswerBesideAnOpenReschedule(t *testing.T) {
	for _, call := range []string{inAnHour, nowOther} {
		for _, shape := range shapes {
			d := newDatabase(t)
			a, b := d.session(), d.session().neverWaits()
			for _, answer := range answers {
				t.Log(call, shape.name, answer.call)
				queue := answer.call
				job := one[int64](a,
					"select case when $2 then (select job_id from awa.enqueue_unique($1, 'k', unique_key => $1)) "+
						"else awa.enqueue($1, 'k') end", queue, shape.keyed)
				b.enqueueMany(queue, shape.jobs-1)
				a.exec("begin")
				require.Equal(t, "available", one[string](a, call, job))
				jobs := b.claim(queue, shape.jobs)
				require.Equal(t, job, jobs[0].JobID)
				if shape.materialized {
					b.materialize()
				}
				require.True(t, b.answers(answer.call, jobs[0])())
				b.completes(jobs[1:])
				require.Equal(t, answer.state, b.state(job))
				require.Equal(t, "40001", sqlState(a.try("commit")))
				require.Equal(t, answer.state, b.state(job))
			}
			b.balanced()
		}
	}
}

// A claim that is open when a reschedule commits: the commit waits until it knows whether the claim counts.
func TestRescheduleCommitsBesideAnOpenClaim(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b, watcher := d.session(), d.session(), d.session()
		job := a.enqueueUnique("q", "key")
		a.exec("begin")
		a.exec(inAnHour, job)
		require.Equal(t, "scheduled", a.state(job))
		b.exec("begin")
		require.Len(t, b.claim("q", 1), 1)
		wait := a.background("commit")
		watcher.waitUntilBlocked(a)
		b.exec(end)
		if end == "commit" {
			require.Equal(t, "40001", sqlState(wait()))
			require.Equal(t, "running", b.state(job))
		} else {
			require.NoError(t, wait())
			require.Equal(t, "scheduled", b.state(job))
			require.Empty(t, b.claim("q", 1))
		}
		b.balanced()
	}
}

// Of two changes of one job the second waits for the first, and then sees what it has done.
func TestRescheduleBesideAnotherChange(t *testing.T) {
	d := newDatabase(t)
	a, b, watcher := d.session(), d.session(), d.session()
	for _, changes := range []struct{ first, second, state, sqlState string }{
		{inAnHour, inTwo, "scheduled", "<nil>"},
		{inTwo, "select awa.cancel($1)", "cancelled", "<nil>"},
		{inAnHour, "select awa.set_priority($1, 1)", "scheduled", "<nil>"},
		{inAnHour, "select awa.move($1, 'other')", "scheduled", "<nil>"},
		{inAnHour, "select awa.retry($1)", "available", "<nil>"},
		{"select awa.cancel($1)", inTwo, "cancelled", "JQ005"},
		{"select awa.set_priority($1, 1)", inTwo, "scheduled", "<nil>"},
		{"select awa.move($1, 'other')", inTwo, "scheduled", "<nil>"},
	} {
		for _, state := range []string{"available", "scheduled"} {
			for _, end := range []string{"commit", "rollback"} {
				if state == "available" && changes.second == "select awa.retry($1)" && end == "rollback" {
					continue // it does not wait: an available job can't be retried
				}
				t.Log(changes, state, end)
				job := one[int64](a,
					"select awa.enqueue('q', 'k', run_at => case when $1 = 'scheduled' then now() + interval '1 minute' end)", state)
				a.exec("begin")
				a.exec(changes.first, job)
				if state == "available" && changes.second == "select awa.retry($1)" {
					require.Equal(t, "JQ005", sqlState(b.try(changes.second, job)))
					a.exec(end)
					b.exec(changes.second, job)
				} else {
					wait := b.background(changes.second, job)
					watcher.waitUntilBlocked(b)
					a.exec(end)
					want := changes.sqlState
					if end == "rollback" {
						want = "<nil>"
					}
					require.Equal(t, want, sqlState(wait()))
				}
				after := watcher.state(job)
				switch {
				case end == "commit":
					require.Equal(t, changes.state, after)
				case changes.second == inTwo:
					require.Equal(t, "scheduled", after)
				}
				if after == "scheduled" && (changes.second == inTwo) {
					require.True(t, one[bool](watcher, laterThan, job))
				}
			}
		}
		watcher.balanced()
	}
}

// Several changes of one job in one transaction: the last one counts, and what a savepoint takes back never was.
func TestRescheduleAgainInOneTransaction(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session().neverWaits()
	for _, state := range []string{"available", "scheduled", "its own"} {
		for i, changes := range []struct {
			calls []string
			state string
			args  string
		}{
			{[]string{inAnHour, inTwo}, "scheduled", "{}"},
			{[]string{inAnHour, now}, "available", "{}"},
			{[]string{inAnHour, nowOther}, "available", `"other"`},
			{[]string{inAnHour, now, inTwo}, "scheduled", "{}"},
			{[]string{inAnHour, "savepoint s", now, "rollback to s"}, "scheduled", "{}"},
			{[]string{inAnHour, "savepoint s", nowOther, "rollback to s", inTwo}, "scheduled", "{}"},
			{[]string{"savepoint s", inAnHour, "rollback to s", nowOther}, "available", `"other"`},
			{[]string{"savepoint s", nowOther, "rollback to s", inTwo}, "scheduled", "{}"},
			{[]string{inAnHour, "select awa.cancel($1)"}, "cancelled", "{}"},
			{[]string{inAnHour, "select awa.move($1, 'moved')", now}, "available", "{}"},
			{[]string{"select awa.set_priority($1, 1)", inTwo}, "scheduled", "{}"},
		} {
			for _, end := range []string{"commit", "rollback"} {
				t.Log(state, changes, end)
				queue := fmt.Sprint(state, i, end)
				a.exec("begin")
				job := one[int64](a, "select job_id from awa.enqueue_unique($1, 'k', unique_key => $1, run_at => "+
					"case when $2 = 'scheduled' then now() + interval '1 minute' end)", queue, state)
				if state != "its own" {
					a.exec("commit; begin")
				}
				refused := false
				for _, call := range changes.calls {
					var args []any
					if call != "savepoint s" && call != "rollback to s" {
						args = []any{job}
					}
					if err := a.try(call, args...); err != nil {
						require.Equal(t, "its own", state)
						require.Equal(t, "JQ005", sqlState(err), "back to the place where this transaction has put it")
						refused = true
						break
					}
				}
				if refused {
					a.exec("rollback")
					continue
				}
				require.Equal(t, changes.state, a.state(job))
				require.Equal(t, int64(1), one[int64](a, "select count(*) from awa.jobs where id = $1", job))
				a.exec(end)
				if end == "commit" {
					require.Equal(t, changes.state, b.state(job))
					require.Equal(t, changes.args, one[string](b, "select args::text from awa.job($1)", job))
					require.Equal(t, changes.state != "cancelled",
						one[bool](b, "select exists (select from awa.unique_claims where job_id = $1)", job))
				} else if state != "its own" {
					require.Equal(t, state, b.state(job))
				}
				want := []int64(nil)
				if end == "commit" && changes.state == "available" || end == "rollback" && state == "available" {
					want = []int64{job}
				}
				require.Equal(t, want, ids(append(b.claim(queue, 9), b.claim("moved", 9)...)))
			}
		}
		b.balanced()
	}
}

// A job may hold its key in one of the two states alone. It lets go of the key when the reschedule commits, so that no
// claim waits for it meanwhile.
func TestKeysOfRescheduledJobs(t *testing.T) {
	for _, states := range []string{"{available}", "{available,running}", "{scheduled}", "{scheduled,available}"} {
		for _, meanwhile := range []string{"nothing", "claim", "another"} {
			t.Log(states, meanwhile)
			d := newDatabase(t)
			a, b := d.session(), d.session().neverWaits()
			enqueue := fmt.Sprintf("select job_id from awa.enqueue_unique('q', 'k', unique_key => 'key', unique_states => '%s')",
				states)
			holder := func() []int64 {
				return list[int64](b, "select job_id from awa.unique_claims where job_id is not null")
			}
			job := one[int64](a, enqueue)
			var other int64
			if meanwhile == "another" && states == "{scheduled}" {
				other = one[int64](a, enqueue[:len(enqueue)-1]+", run_at => now() + interval '1 hour')")
			}
			a.exec("begin")
			a.exec(inAnHour, job)
			if meanwhile == "claim" {
				require.Len(t, b.claim("q", 9), 1)
				require.Equal(t, "40001", sqlState(a.try("commit")))
				b.audited()
				continue
			}
			a.exec("commit")
			require.Equal(t, "scheduled", b.state(job))
			switch {
			case other > 0:
				require.Equal(t, []int64{other}, holder(), "it goes on without")
			case states == "{available}" || states == "{available,running}":
				require.Empty(t, holder())
			default:
				require.Equal(t, []int64{job}, holder())
			}
			b.audited()
			b.exec(now, job)
			if states == "{scheduled}" && other == 0 {
				require.Empty(t, holder())
			} else if other == 0 {
				require.Equal(t, []int64{job}, holder())
			}
			b.audited()
		}
	}
}
