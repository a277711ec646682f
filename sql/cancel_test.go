package sql_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// setClaimWait bounds waits for queues, and those of operators.
func (s *session) setClaimWait(wait string) {
	s.Helper()
	s.exec("update awa.settings set claim_wait = $1::text::interval", wait)
}

func (s *session) enqueueUnique(queue, key string) int64 {
	s.Helper()
	return one[int64](s, "select job_id from awa.enqueue_unique($1, 'k', unique_key => $2)", queue, key)
}

func (s *session) claimAs(worker int64, queue string, max int) []int64 {
	s.Helper()
	return list[int64](s, "select receipt from awa.claim($1, $2, $3)", queue, max, worker)
}

func (s *session) registerWorker() int64 {
	s.Helper()
	return one[int64](s, "select awa.register_worker('w')")
}

// lost is what a heartbeat tells a worker: jobs and reasons.
func (s *session) lost(worker int64) []string {
	s.Helper()
	return list[string](s, "select job_id || ' ' || reason from awa.heartbeat($1)", worker)
}

// A change stands in a transaction for as long as it likes. Nobody who claims waits for it.
func TestClaimBesideOpenChanges(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b := d.session(), d.session().neverWaits()
		cancelled, keyed, moved, demoted, other := a.enqueue("q"), a.enqueueUnique("q", "key"), a.enqueue("q"),
			a.enqueue("q"), a.enqueue("q")
		deferred := list[int64](a,
			"select awa.enqueue_many('q', 'k', '{\"1\",\"2\",\"3\"}'::jsonb[], run_at => now() + interval '1 hour')")
		failed := a.open("failed", shapes[2])
		for _, j := range failed {
			a.exec("select awa.discard($1, $2, 'error')", j.JobID, j.Receipt)
		}
		a.exec("begin")
		for _, job := range []int64{cancelled, keyed, deferred[0]} {
			a.exec("select awa.cancel($1)", job)
		}
		a.exec("select awa.move($1, 'elsewhere')", moved)
		a.exec("select awa.set_priority($1, 4)", demoted)
		a.exec("select awa.set_priority($1, 1)", deferred[1])
		a.exec("select awa.retry($1)", deferred[2])
		a.exec("select awa.retry($1)", failed[0].JobID)
		require.Equal(t, []int64{cancelled}, ids(b.claim("q", 1)), "it is not gone before the commit")
		require.Empty(t, b.claim("elsewhere", 1))
		require.Empty(t, b.claim("failed", 1))
		require.Zero(t, one[int64](b, "select promoted from awa.promote_due()"))
		b.balanced()
		a.exec(end)
		var want []int64
		if end == "commit" {
			want = []int64{other, demoted, deferred[2]}
			require.Equal(t, []int64{moved}, ids(b.claim("elsewhere", 9)))
			require.Equal(t, []int64{failed[0].JobID}, ids(b.claim("failed", 9)))
			require.Equal(t, "cancelled", b.state(cancelled))
		} else {
			want = []int64{keyed, moved, demoted, other}
			require.Empty(t, b.claim("elsewhere", 9))
			require.Empty(t, b.claim("failed", 9))
			require.Equal(t, "running", b.state(cancelled))
		}
		require.ElementsMatch(t, want, ids(b.claim("q", 9)))
		b.balanced()
	}
}

// A job is available when its cancel is called, and claimed before that commits: its attempt is cancelled then, and its
// worker told.
func TestCancelOfAJobThatIsClaimedMeanwhile(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session().neverWaits()
	for _, shape := range shapes[:4] {
		for _, end := range []string{"commit", "rollback"} {
			for _, materialized := range []bool{false, true} {
				t.Log(shape.name, end, materialized)
				queue := fmt.Sprint(shape.name, end, materialized)
				worker := b.registerWorker()
				var jobs []int64
				for i := range shape.jobs {
					if shape.keyed {
						jobs = append(jobs, a.enqueueUnique(queue, fmt.Sprint(queue, i)))
					} else {
						jobs = append(jobs, a.enqueue(queue))
					}
				}
				job := jobs[len(jobs)/2]
				a.exec("begin")
				require.Equal(t, "available", one[string](a, "select awa.cancel($1, 'reason')", job))
				require.Equal(t, "cancelled", a.state(job))
				receipts := b.claimAs(worker, queue, 9)
				require.Len(t, receipts, len(jobs))
				if materialized {
					require.Equal(t, int64(len(jobs)), b.materialize())
				}
				require.Equal(t, "running", b.state(job))
				require.Empty(t, b.lost(worker))
				b.balanced()
				a.exec(end)
				attempt := claimed{job, receipts[len(jobs)/2]}
				if end == "commit" {
					require.Equal(t, "cancelled", b.state(job))
					require.Equal(t, []string{fmt.Sprint(job, " cancelled")}, b.lost(worker))
					require.Equal(t, attempt.Receipt,
						one[int64](b, "select receipt from awa.job($1) where worker_id = $2 and attempt = 1", job, worker))
					require.Equal(t, "reason", one[string](b, "select errors -> -1 ->> 'error' from awa.job($1)", job))
					b.refuses(attempt)
				} else {
					require.Empty(t, b.lost(worker))
					b.completes([]claimed{attempt})
				}
				b.balanced()
				for i, j := range jobs {
					if j != job {
						b.completes([]claimed{{j, receipts[i]}})
					}
				}
				require.Empty(t, b.claim(queue, 9))
				b.balanced()
			}
		}
	}
}

// Changes of available jobs that were claimed, and more, before they commit: a cancel ends the attempt if it is open,
// everything else fails and changes nothing.
func TestChangeOfAJobThatMovesOnMeanwhile(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session().neverWaits()
	for _, change := range []struct{ call, state string }{
		{"select awa.cancel($1)", "cancelled"},
		{"select awa.discard_job($1)", "dead"},
		{"select awa.set_priority($1, 1)", "available"},
		{"select awa.move($1, 'elsewhere')", "available"},
		{"select awa.cancel_where((select queue from awa.job($1)))", "cancelled"},
		{"select awa.reschedule($1, now() + interval '1 hour')", "scheduled"},
		{"select awa.reschedule($1, now(), '2')", "available"},
	} {
		for _, meanwhile := range []struct {
			name  string
			run   func(queue string, j claimed)
			state string
			open  bool
		}{
			{"claimed", func(string, claimed) {}, "running", true},
			{"completed", func(_ string, j claimed) { b.completes([]claimed{j}) }, "completed", false},
			{"completed by a batch", func(_ string, j claimed) { require.Empty(b, b.completeMany([]claimed{j})) }, "completed",
				false},
			{"failed", func(_ string, j claimed) { b.exec("select awa.fail($1, $2, 'error')", j.JobID, j.Receipt) }, "retryable",
				false},
			{"released", func(_ string, j claimed) { b.exec("select awa.release($1, $2)", j.JobID, j.Receipt) }, "available",
				false},
			{"materialized", func(string, claimed) { require.Equal(b, int64(1), b.materialize()) }, "running", true},
			{"materialized and failed", func(_ string, j claimed) {
				b.materialize()
				b.exec("select awa.fail($1, $2, 'error')", j.JobID, j.Receipt)
			}, "retryable", false},
			{"claimed again", func(queue string, j claimed) {
				b.exec("select awa.release($1, $2)", j.JobID, j.Receipt)
				require.Len(b, b.claim(queue, 1), 1)
			}, "running", false},
		} {
			for _, size := range []int{1, 3} {
				t.Log(change.call, meanwhile.name, size)
				queue := fmt.Sprint(change.call, meanwhile.name, size)
				job := a.enqueue(queue)
				a.exec("begin")
				a.exec(change.call, job)
				if size > 1 {
					b.enqueueMany(queue, size-1)
				}
				jobs := b.claim(queue, size)
				require.Equal(t, job, jobs[0].JobID)
				b.completes(jobs[1:])
				meanwhile.run(queue, jobs[0])
				state := b.state(job)
				require.Equal(t, meanwhile.state, state)
				err := a.try("commit")
				if (change.state == "cancelled" || change.state == "dead") && meanwhile.open {
					require.NoError(t, err)
					state = change.state
				} else {
					require.Equal(t, "40001", sqlState(err))
				}
				require.Equal(t, state, b.state(job))
				require.Equal(t, state == "running" && meanwhile.open, b.answers("select awa.complete($1, $2)", jobs[0])())
				again := ids(b.claim(queue, 9))
				if state == "available" {
					require.Equal(t, []int64{job}, again)
				} else {
					require.Empty(t, again)
				}
				require.Empty(t, b.claim("elsewhere", 9))
				for _, j := range list[int64](b, "select id from awa.jobs where state = 'running'") {
					b.exec("select awa.cancel($1)", j)
				}
			}
		}
		b.balanced()
	}
}

// No worker claims the job meanwhile: it is cancelled, or has gone where it should.
func TestChangeOfAJobThatStays(t *testing.T) {
	for _, change := range []struct{ call, state, queue string }{
		{"select awa.cancel($1)", "cancelled", "q"},
		{"select awa.set_priority($1, 1)", "available", "q"},
		{"select awa.move($1, 'elsewhere')", "available", "elsewhere"},
	} {
		for _, end := range []string{"commit", "rollback"} {
			t.Log(change.call, end)
			d := newDatabase(t)
			a, b := d.session(), d.session().neverWaits()
			before, job, after := a.enqueue("q"), a.enqueueUnique("q", "key"), a.enqueue("q")
			a.exec("begin")
			require.Equal(t, "available", one[string](a, change.call, job))
			require.Equal(t, []int64{before}, ids(b.claim("q", 1)), "others are claimed meanwhile")
			b.balanced()
			a.exec(end)
			b.balanced()
			want, elsewhere := []int64{job, after}, []int64(nil)
			if end == "commit" {
				require.Equal(t, change.state, b.state(job))
				if change.state == "cancelled" {
					want = []int64{after}
				} else if change.queue == "elsewhere" {
					want, elsewhere = []int64{after}, []int64{job}
				}
			}
			require.Equal(t, want, ids(b.claim("q", 9)))
			require.Equal(t, elsewhere, ids(b.claim("elsewhere", 9)))
			require.Empty(t, b.claim("q", 9))
			b.balanced()
		}
	}
}

// A claim that is open when a cancel commits: the commit waits until it knows whether the claim counts, for a bounded
// time.
func TestCancelCommitsBesideAnOpenClaim(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b, watcher := d.session(), d.session(), d.session()
		job := a.enqueueUnique("q", "key")
		a.exec("begin")
		a.exec("select awa.cancel($1)", job)
		b.exec("begin")
		jobs := b.claim("q", 1)
		require.Len(t, jobs, 1)
		wait := a.background("commit")
		watcher.waitUntilBlocked(a)
		b.exec(end)
		require.NoError(t, wait())
		require.Equal(t, "cancelled", b.state(job))
		b.refuses(jobs[0])
		require.Empty(t, b.claim("q", 1))
		b.balanced()

		// It does not wait for longer than a claim would.
		job = a.enqueueUnique("q", "another")
		a.setClaimWait("20 milliseconds")
		a.exec("begin")
		a.exec("select awa.cancel($1)", job)
		b.exec("begin")
		require.Len(t, b.claim("q", 1), 1)
		require.Equal(t, "55P03", sqlState(a.try("commit")))
		b.exec(end)
		require.Equal(t, map[string]string{"commit": "running", "rollback": "available"}[end], a.state(job))
		a.balanced()
	}
}

// A worker that answers in a transaction that is open when the cancel commits: the cancel does not hold up the queue
// until it knows, but fails.
func TestCancelCommitsBesideAnOpenAnswer(t *testing.T) {
	d := newDatabase(t)
	a, b, c := d.session().neverWaits(), d.session().neverWaits(), d.session()
	for _, size := range []int{1, 3} {
		for _, materialized := range []bool{false, true} {
			for _, answer := range []answer{answers[0], answers[2], answers[7], answers[9]} {
				if materialized && answer.state == "completed" {
					continue
				}
				t.Log(size, materialized, answer.call)
				queue := fmt.Sprint(size, materialized, answer.call)
				job := a.enqueue(queue)
				a.enqueueMany(queue, size-1)
				a.exec("begin")
				a.exec("select awa.cancel($1)", job)
				jobs := b.claim(queue, size)
				require.Equal(t, job, jobs[0].JobID)
				if materialized {
					b.materialize()
				}
				b.exec("begin")
				require.True(t, b.answers(answer.call, jobs[0])())
				require.Equal(t, "40001", sqlState(a.try("commit")))
				b.exec("commit")
				require.Equal(t, answer.state, c.state(job))
				c.completes(jobs[1:])
			}
		}
	}
	c.balanced()
}

// A worker that answers for a job whose cancel is open does not wait for that, neither does rescue: the one that
// commits first wins.
func TestAnswerBesideAnOpenCancelOfAnAvailableJob(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			d := newDatabase(t)
			a, b := d.session(), d.session().neverWaits()
			for _, answer := range append([]answer{{"rescue", "failed"}}, answers...) {
				t.Log(answer.call)
				queue := answer.call
				job := one[int64](a,
					"select case when $2 then (select job_id from awa.enqueue_unique($1, 'k', unique_key => $1, max_attempts => 1)) "+
						"else awa.enqueue($1, 'k', max_attempts => 1) end",
					queue, shape.keyed)
				b.enqueueMany(queue, shape.jobs-1)
				a.exec("begin")
				a.exec("select awa.cancel($1)", job)
				jobs := b.claim(queue, shape.jobs)
				if shape.materialized {
					b.materialize()
				}
				if answer.call == "rescue" {
					b.halfAnHourLater()
					require.Equal(t, int64(shape.jobs), b.rescue())
				} else {
					require.True(t, b.answers(answer.call, jobs[0])())
					b.completes(jobs[1:])
				}
				if answer.state == "retryable" {
					answer.state = "failed"
				}
				require.Equal(t, answer.state, b.state(job))
				require.Equal(t, "40001", sqlState(a.try("commit")))
				require.Equal(t, answer.state, b.state(job))
			}
			b.balanced()
		})
	}
}

// A job that holds its key only until it runs: letting go of it must not make a claim, with the queue's lock, wait for
// a cancel that is open.
func TestClaimBesideAnOpenCancelOfAUniqueJob(t *testing.T) {
	for _, states := range []string{"{scheduled,available}", "{running}", "{running,cancelled}", "{available,running}"} {
		t.Run(states, func(t *testing.T) {
			d := newDatabase(t)
			a, b := d.session(), d.session()
			b.exec("set statement_timeout = '3s'")
			job := one[int64](a, "select job_id from awa.enqueue_unique('q', 'k', unique_key => 'key', unique_states => $1)",
				states)
			a.exec("begin")
			a.exec("select awa.cancel($1)", job)
			jobs := b.claim("q", 1)
			require.Len(t, jobs, 1)
			a.exec("commit")
			require.Equal(t, "cancelled", b.state(job))
			b.refuses(jobs[0])
			require.Equal(t, states == "{running,cancelled}",
				one[bool](b, "select exists (select from awa.unique_claims where job_id is not null)"))
		})
	}
}

// Of two cancels of one job the second waits for the first.
func TestTwoCancelsAtOnce(t *testing.T) {
	d := newDatabase(t)
	a, b, watcher := d.session(), d.session(), d.session()
	for _, state := range []string{"available", "scheduled", "running", "running in a lease row", "retryable"} {
		for _, first := range []string{"select awa.cancel($1)",
			"select awa.cancel_by_unique_key(unique_key => (select queue from awa.job($1)))",
			"select awa.cancel_where((select queue from awa.job($1)))"} {
			for _, end := range []string{"commit", "rollback"} {
				t.Log(state, first, end)
				queue := fmt.Sprint(state, first, end)
				job := one[int64](a,
					"select job_id from awa.enqueue_unique($1, 'k', unique_key => $1, run_at => case when $2 = 'scheduled' then "+
						"now() + interval '1 hour' end)", queue, state)
				if state != "available" && state != "scheduled" {
					j := a.claim(queue, 1)[0]
					switch state {
					case "retryable":
						a.exec("select awa.fail($1, $2, 'error')", j.JobID, j.Receipt)
					case "running in a lease row":
						a.materialize()
					}
				}
				a.exec("begin")
				a.exec(first, job)
				wait := b.background("select awa.cancel($1)", job)
				watcher.waitUntilBlocked(b)
				a.exec(end)
				if end == "commit" {
					require.Equal(t, "JQ005", sqlState(wait()))
				} else {
					require.NoError(t, wait())
				}
				require.Equal(t, "cancelled", b.state(job))
				require.Empty(t, b.claim(queue, 9))
			}
		}
	}
	b.balanced()
}

// Transactions that cancel jobs of the same queues in opposite order lock these, when they commit, in the same order.
func TestCancelsInOppositeOrder(t *testing.T) {
	d := newDatabase(t)
	holder, a, b, watcher := d.session(), d.session(), d.session(), d.session()
	queues := list[string](a, "select q from unnest('{x,y}'::text[]) q order by awa._queue_id(q)")
	low, high := queues[0], queues[1]
	jobs := map[string][]int64{low: a.enqueueMany(low, 3), high: a.enqueueMany(high, 3)}
	a.exec("begin")
	a.exec("select awa.cancel($1)", jobs[high][0])
	a.exec("select awa.cancel($1)", jobs[low][0])
	b.exec("begin")
	b.exec("select awa.cancel($1)", jobs[low][1])
	b.exec("select awa.cancel($1)", jobs[high][1])

	// Held back, both wait for their first queue. If these were not the same, each would have one that the other needs.
	holder.exec("begin")
	holder.claim(low, 1)
	highHolder := d.session()
	highHolder.exec("begin")
	highHolder.claim(high, 1)
	waitA, waitB := a.background("commit"), b.background("commit")
	watcher.waitUntilBlocked(a)
	watcher.waitUntilBlocked(b)
	highHolder.exec("rollback")
	holder.exec("rollback")
	require.NoError(t, waitA())
	require.NoError(t, waitB())
	for _, queue := range queues {
		require.Equal(t, jobs[queue][2:], ids(a.claim(queue, 9)))
	}
	a.balanced()
}

// An entry that is buried in the middle of a backlog leaves its neighbours where they are.
func TestCancelsInTheMiddleOfABacklog(t *testing.T) {
	d := newDatabase(t)
	s, late, other := d.session(), d.session(), d.session()
	late.exec("begin")
	lateJobs := late.enqueueMany("q", 6)
	jobs := s.enqueueMany("q", 20)
	require.Equal(t, jobs[:3], ids(s.claim("q", 3)), "in the middle of a window")
	var want []int64
	for i, job := range jobs[3:] {
		if i%3 == 1 {
			s.exec("select awa.cancel($1)", job)
		} else {
			want = append(want, job)
		}
	}
	late.exec("commit")
	for i, job := range lateJobs {
		if i%2 == 0 {
			s.exec("select awa.cancel($1)", job)
		} else {
			want = append(want, job)
		}
	}
	gone := other.enqueueMany("q", 5) // a transaction of which nothing is left
	for _, job := range gone {
		s.exec("select awa.cancel($1)", job)
	}
	s.balanced()
	var got []int64
	for {
		next := s.claim("q", 2)
		if len(next) == 0 {
			break
		}
		got = append(got, ids(next)...)
		s.balanced()
		s.completes(next)
	}
	require.Equal(t, want, got)
	s.balanced()
}

// A late transaction of which all, or the end, is buried: the claim goes on behind it, and gets what comes after.
func TestLateCommitThatIsBuried(t *testing.T) {
	for _, keep := range []int{0, 1, 2} {
		d := newDatabase(t)
		s, late := d.session(), d.session().neverWaits()
		late.exec("begin")
		lateJobs := late.enqueueMany("q", 3)
		s.enqueue("q")
		require.Len(t, s.claim("q", 9), 1)
		late.exec("commit")
		for i, job := range lateJobs {
			if i != keep {
				s.exec("select awa.cancel($1)", job)
			}
		}
		after := s.enqueueMany("q", 2)
		require.Equal(t, append([]int64{lateJobs[keep]}, after...), ids(late.claim("q", 9)))

		late.exec("begin")
		lateJobs = late.enqueueMany("q", 3)
		s.enqueue("q")
		require.Len(t, s.claim("q", 9), 1)
		late.exec("commit")
		for _, job := range lateJobs {
			s.exec("select awa.cancel($1)", job)
		}
		after = s.enqueueMany("q", 2)
		require.Equal(t, after, ids(late.claim("q", 9)))
		s.balanced()
	}
}

// A job that was cancelled and retried has a second entry, which may lie before or behind the first one, by the age of
// the transaction that retried it.
func TestRetryOfACancelledJob(t *testing.T) {
	for _, when := range []string{"older", "same", "newer", "older, and behind the cursor",
		"newer, and behind the cursor"} {
		for _, cancelWhen := range []string{"available", "running"} {
			if when == "same" && cancelWhen == "running" {
				continue
			}
			t.Log(when, cancelWhen)
			d := newDatabase(t)
			s, old, b := d.session(), d.session(), d.session()
			old.exec("begin")
			old.exec("select pg_current_xact_id()")
			before := s.enqueue("q")
			job := s.enqueueUnique("q", "key")
			after := s.enqueue("q")
			waiting := []int64{before, job, after}
			var first claimed
			if cancelWhen == "running" {
				jobs := s.claim("q", 2)
				first = jobs[1]
				s.completes(jobs[:1])
				waiting = []int64{job, after}
			}
			switch when {
			case "same":
				old.exec("select awa.cancel($1)", job)
			case "older, and behind the cursor", "newer, and behind the cursor":
				s.exec("select awa.cancel($1)", job)
				if cancelWhen == "available" {
					s.completes(s.claim("q", 1))
				}
				s.completes(s.claim("q", 1))
				waiting = []int64{job}
			default:
				s.exec("select awa.cancel($1)", job)
			}
			s.balanced()
			if when == "newer" || when == "newer, and behind the cursor" {
				old.exec("rollback")
				old.exec("begin")
			}
			require.Equal(t, "cancelled", one[string](old, "select awa.retry($1)", job))
			require.Equal(t, "available", old.state(job))
			s.balanced()
			old.exec("commit")
			require.Equal(t, "available", s.state(job))
			s.balanced()
			if first.Receipt != 0 {
				s.refuses(first)
			}
			again := s.claim("q", 9)
			require.ElementsMatch(t, waiting, ids(again))
			s.balanced()
			require.Empty(t, b.claim("q", 9))
			for _, j := range again {
				require.Equal(t, "running", s.state(j.JobID))
			}
			for _, j := range again { // the body of the buried entry is not taken for the other's
				require.True(t, s.answers(answers[1].call, j)())
			}
			require.Equal(t, "completed", s.state(job))
			require.Equal(t, []int32{1}, list[int32](s, "select attempt from awa.job($1)", job))
			s.balanced()
			require.Zero(t, one[int](s, "select count(*) from awa.unique_claims where job_id is not null"))
		}
	}
}

// A job that goes to another lane and comes back has two entries in one claim's stretch of its lane: the buried one is
// nobody's.
func TestJobThatComesBackToItsLane(t *testing.T) {
	for _, changes := range [][]string{
		{"select awa.set_priority($1, 1)", "select awa.set_priority($1, 2)"},
		{"select awa.move($1, 'elsewhere')", "select awa.move($1, 'q')"},
		{"select awa.cancel($1)", "select awa.retry($1)"},
		{"select awa.reschedule($1, now() + interval '1 hour')", "select awa.reschedule($1, now())"},
		{"select awa.reschedule($1, now() + interval '1 hour')", "select awa.retry($1)"},
	} {
		for _, then := range []string{"materialize", "discard", "rescue", "cancel", "release"} {
			t.Log(changes, then)
			d := newDatabase(t)
			s := d.session()
			before, job, after := s.enqueue("q"), s.enqueueUnique("q", "key"), s.enqueue("q")
			for _, change := range changes {
				s.exec(change, job)
			}
			s.balanced()
			jobs := s.claim("q", 9)
			require.Equal(t, []int64{before, after, job}, ids(jobs))
			j := jobs[2]
			switch then {
			case "materialize":
				require.Equal(t, int64(3), s.materialize())
				s.balanced()
				s.completes(jobs)
			case "discard":
				s.exec("select awa.discard($1, $2, 'error')", j.JobID, j.Receipt)
				require.Equal(t, "failed", s.state(job))
			case "rescue":
				s.halfAnHourLater()
				require.Equal(t, int64(3), s.rescue())
			case "cancel":
				s.exec("select awa.cancel($1)", job)
				require.Equal(t, "cancelled", s.state(job))
			case "release":
				s.exec("select awa.release($1, $2)", j.JobID, j.Receipt)
				require.Equal(t, []int64{job}, ids(s.claim("q", 9)))
			}
			s.balanced()
		}
	}
}

// Cancelled and retried in one transaction, and claimed meanwhile: the open attempt ends, and the job, with its key, is
// there once more.
func TestCancelAndRetryOfAJobThatIsClaimedMeanwhile(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		for _, materialized := range []bool{false, true} {
			d := newDatabase(t)
			a, b := d.session(), d.session()
			job := a.enqueueUnique("q", "key")
			a.exec("begin")
			a.exec("select awa.cancel($1)", job)
			a.exec("select awa.retry($1)", job)
			first := b.claim("q", 9)
			require.Equal(t, []int64{job}, ids(first))
			if materialized {
				b.materialize()
			}
			a.exec(end)
			b.balanced()
			if end == "rollback" {
				b.completes(first)
				continue
			}
			b.refuses(first[0])
			require.Equal(t, "available", b.state(job))
			require.Equal(t, job, b.enqueueUnique("q", "key"))
			b.completes(b.claim("q", 9))
			require.Empty(t, b.claim("q", 9))
			b.balanced()
		}
	}
}

// Savepoints: what was rolled back is not decided, what was not is.
func TestCancelInASavepoint(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	jobs := a.enqueueMany("q", 4)
	a.exec("begin")
	a.exec("select awa.cancel($1)", jobs[0])
	a.exec("savepoint s")
	a.exec("select awa.cancel($1)", jobs[1])
	a.exec("rollback to s")
	a.exec("savepoint s")
	a.exec("select awa.cancel($1)", jobs[2])
	a.exec("release s")
	got := b.claim("q", 9)
	require.Equal(t, jobs, ids(got))
	a.exec("commit")
	b.completes([]claimed{got[1], got[3]})
	b.refuses(got[0])
	b.refuses(got[2])
	b.balanced()
}

// Decided early, and again at the end for what came after.
func TestCancelsThatAreDecidedEarly(t *testing.T) {
	for _, savepoint := range []bool{false, true} {
		d := newDatabase(t)
		a, b := d.session(), d.session().neverWaits()
		first, second, third := a.enqueue("q"), a.enqueue("r"), a.enqueue("s")
		// it may stay idle for as long as the other one works
		a.exec("create or replace function awa._end_when_idle() returns void language sql as 'select'")
		a.exec("begin")
		a.exec("select awa.cancel($1)", first)
		a.exec("savepoint s")
		a.exec("set constraints all immediate")
		if savepoint {
			a.exec("rollback to s")
			require.Equal(t, []int64{first}, ids(b.claim("q", 9)))
		}
		a.exec("set constraints all deferred")
		a.exec("select awa.cancel($1)", second)
		attempts := append(b.claim("r", 9), b.claim("s", 9)...)
		require.Equal(t, []int64{second, third}, ids(attempts))
		a.exec("commit")
		b.refuses(attempts[0])
		b.completes(attempts[1:])
		require.Equal(t, "cancelled", b.state(first))
		require.Empty(t, b.claim("q", 9))
		b.balanced()
	}
}

// A transaction that rolls back changes nothing, whatever it did.
func TestChangesThatRollBack(t *testing.T) {
	d := newDatabase(t)
	s, b := d.session(), d.session()
	picture := func() []string {
		return list[string](s, `
			select format('%s %s %s %s %s %s', id, queue, state, priority, attempt, errors) from awa.jobs
			union all select format('%s %s', key, job_id) from awa.unique_claims where job_id is not null
			union all select c::text from awa.queue_counts c
			union all select r::text from awa.lost_attempts r
			order by 1`)
	}
	worker := s.registerWorker()
	lease := s.open("lease", shapes[4])[0]
	ready := s.enqueueUnique("q", "ready")
	deferred := one[int64](s,
		"select job_id from awa.enqueue_unique('q', 'k', unique_key => 'deferred', run_at => now() + interval '1 hour')")
	failed := s.open("failed", shapes[1])[0]
	s.exec("select awa.discard($1, $2, 'error')", failed.JobID, failed.Receipt)
	s.enqueueUnique("running", "running")
	running := claimed{one[int64](s, "select id from awa.jobs where queue = 'running'"),
		s.claimAs(worker, "running", 1)[0]}
	before := picture()
	for _, call := range []struct {
		sql  string
		args []any
	}{
		{"select awa.cancel($1)", []any{ready}},
		{"select awa.cancel($1)", []any{deferred}},
		{"select awa.cancel($1)", []any{running.JobID}},
		{"select awa.cancel($1)", []any{lease.JobID}},
		{"select awa.cancel_where('q')", nil},
		{"select awa.cancel_by_unique_key(unique_key => 'ready')", nil},
		{"select awa.set_priority($1, 1)", []any{ready}},
		{"select awa.set_priority($1, 1)", []any{deferred}},
		{"select awa.move($1, 'elsewhere')", []any{ready}},
		{"select awa.move($1, 'elsewhere')", []any{deferred}},
		{"select awa.reschedule($1, now() + interval '2 hours')", []any{ready}},
		{"select awa.reschedule($1, now(), '2')", []any{ready}},
		{"select awa.reschedule($1, now() + interval '2 hours')", []any{deferred}},
		{"select awa.reschedule($1, now())", []any{deferred}},
		{"select awa.retry($1)", []any{deferred}},
		{"select awa.retry($1)", []any{failed.JobID}},
		{"select awa.retry_where('failed')", nil},
		{"select awa.snooze($1, $2, '1 hour')", []any{running.JobID, running.Receipt}},
		{"select awa.discard($1, $2, 'error')", []any{running.JobID, running.Receipt}},
		{"select awa.cancel_attempt($1, $2)", []any{running.JobID, running.Receipt}},
		{"select awa.snooze($1, $2, '1 hour')", []any{lease.JobID, lease.Receipt}},
		{"select awa.discard($1, $2, 'error')", []any{lease.JobID, lease.Receipt}},
		{"select awa.set_progress($1, $2, '1')", []any{running.JobID, running.Receipt}},
		{"select awa.materialize('0')", nil},
		{"select awa.drop_queue('q', true)", nil},
		{"select awa.drop_queue('running', true)", nil},
		{"select awa.drop_queue('failed')", nil},
	} {
		t.Log(call.sql, call.args)
		s.exec("begin")
		s.exec(call.sql, call.args...)
		s.exec("rollback")
		require.Equal(t, before, picture())
		s.exec("begin")
		s.exec("savepoint s")
		s.exec(call.sql, call.args...)
		s.exec("rollback to s")
		s.exec("commit")
		require.Equal(t, before, picture())
	}
	s.balanced()
	b.completes([]claimed{running, lease})
	b.completes(b.claim("q", 9))
	b.balanced()
}

// The counts that a transaction sees of its own are those of the jobs that it sees.
func TestCountsInsideATransactionThatChanges(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	jobs := a.enqueueMany("q", 6)
	a.exec("begin")
	a.exec("select awa.cancel($1)", jobs[0])
	a.exec("select awa.set_priority($1, 1)", jobs[1])
	a.exec("select awa.move($1, 'elsewhere')", jobs[2])
	a.exec("select awa.cancel($1)", jobs[3])
	a.exec("select awa.retry($1)", jobs[3])
	a.balanced()
	b.claim("q", 5)
	a.balanced()
	b.materialize()
	b.balanced()
	a.exec("rollback")
	b.balanced()
}

// Decided at once, a cancel lets go of the key at once: all that belongs to it is there by then.
func TestKeyOfAJobThatIsCancelledEarly(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	first := s.enqueueUnique("q", "key")
	s.exec(fmt.Sprintf("begin; set constraints all immediate; select awa.cancel(%d); commit", first))
	s.balanced()
	require.NotEqual(t, first, s.enqueueUnique("q", "key"))
}

// A session that takes itself for a replica (session_replication_role) decides at its end as any other does.
func TestCancelInAReplicaSession(t *testing.T) {
	for _, claimedMeanwhile := range []bool{false, true} {
		d := newDatabase(t)
		s, other := d.session(), d.session()
		s.exec("set session_replication_role = replica")
		job := s.enqueueUnique("q", "key")
		s.exec("begin")
		s.exec("select awa.cancel($1)", job)
		var taken []claimed
		if claimedMeanwhile {
			taken = other.claim("q", 1)
		}
		s.exec("commit")
		require.Equal(t, "cancelled", s.state(job))
		require.Empty(t, other.claim("q", 1))
		for _, j := range taken {
			other.refuses(j)
		}
		require.Zero(t, one[int](s, "select count(*) from awa.unique_claims where job_id is not null"))
		s.balanced()
		require.Empty(t, list[string](s, `
			select format('%s on %s', t.tgname, t.tgrelid::regclass)
			  from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
			 where n.nspname = 'awa' and t.tgenabled <> 'A' and t.tgname <> 'refuse_removal'`),
			"no trigger is off in such a session, but those against a slip")
	}
}
