package sql_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A transaction has cancelled an available job, and another one claims it and answers meanwhile: until its end the
// first sees the job once, where it has put it itself. No read fails and no count is below zero; a retry is taken, and
// refused at commit.
func TestReadsOfACancelWhoseJobWasAnswered(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	retries := []string{"select count(awa.retry(%d))", "select awa.retry_where('q')",
		"select awa.retry_where(state => 'cancelled')"}
	for n, answer := range append(answers, answers...) {
		retry, materialized := retries[n%len(retries)], n < len(answers)
		t.Log(answer.call, retry, materialized)
		job := a.enqueue("q")
		a.exec("begin")
		a.exec("select awa.cancel($1)", job)
		jobs := b.claim("q", 1)
		if materialized {
			b.materialize()
		}
		require.True(t, b.answers(answer.call, jobs[0])())
		require.Equal(t, []string{"cancelled"}, list[string](a, "select state from awa.job($1)", job), answer.call)
		require.Equal(t, []int64{0}, list[int64](a, "select least(available, running, completed, failed, cancelled, 0) "+
			"from awa.queue_counts('q')"))
		a.exec("select awa.list_jobs(state => 'available'), awa.list_jobs('q'), awa.list_queues(), awa.audit()")
		call := strings.ReplaceAll(retry, "%d", fmt.Sprint(job))
		require.Equal(t, int64(1), one[int64](a, call))
		require.Equal(t, []string{"available"}, list[string](a, "select state from awa.job($1)", job), answer.call)
		require.Equal(t, "40001", sqlState(a.try("commit")))
		require.Equal(t, answer.state, b.state(job))
		b.balanced()
		b.exec("select awa.drop_queue('q', true)")
	}
}

// Whatever a transaction does to an available job, and whatever another one, that claims it, does to it meanwhile, and
// a third one after that: no transaction sees the job twice, in no view, and nothing that changes many jobs takes up
// the row of the others.
func TestOneStateBesideAnOpenChange(t *testing.T) {
	changes := map[string]string{
		"select awa.cancel($1)":                                     "cancelled",
		"select awa.discard_job($1)":                                "dead",
		"select awa.set_priority($1, 3)":                            "available",
		"select awa.move($1, 'other')":                              "available",
		"select awa.reschedule($1, now() + interval '1 hour')":      "scheduled",
		"select awa.reschedule($1, now(), '{\"other\": \"args\"}')": "available",
	}
	others := [][]string{{}, {"select awa.cancel($1)"}, {"select awa.retry($1)"},
		{"select awa.retry($1)", "select awa.claim('$2')"}}
	d := newDatabase(t)
	a, b := d.session(), d.session()
	for change, state := range changes {
		for n, answer := range answers {
			queue := "q"
			if n%2 == 0 {
				queue = "with dead letters"
			}
			b.exec("select awa.enqueue($1, 'k')", queue)
			b.exec("select awa.configure_queue($1, jsonb_build_object('dead_letter', $2::bool))", queue, n%2 == 0)
			b.exec("select awa.claim($1)", queue)
			job := a.enqueue(queue)
			a.exec("begin")
			if n%4 < 2 {
				a.exec(change, job)
			} else {
				a.exec("savepoint s")
				a.exec(change, job)
				a.exec("release s")
			}
			seesOnce := func(when string) {
				t.Helper()
				what := fmt.Sprint(change, ", ", answer.call, ", ", when)
				require.Equal(t, []string{state}, list[string](a, "select state from awa.job($1)", job), what)
				require.Equal(t, []string{state}, list[string](a, "select state from awa._place where id = $1", job), what)
				require.Empty(t, list[string](a, jobsInTwoPlaces), what)
				require.Equal(t, state == "dead",
					one[bool](a, "select count(*) = 1 from awa.dlq_entries where job_id = $1", job), what)
			}
			seesOnce("before the claim")
			jobs := b.claim(queue, 1)
			require.Equal(t, []int64{job}, ids(jobs))
			seesOnce("claimed")
			if n%3 == 0 {
				b.materialize()
				seesOnce("with a row of its own")
			}
			require.True(t, b.answers(answer.call, jobs[0])())
			seesOnce("answered")
			if answer.state == "retryable" || answer.state == "scheduled" {
				for _, other := range others[n%len(others)] {
					b.exec(strings.ReplaceAll(strings.ReplaceAll(other, "$1", fmt.Sprint(job)), "$2", queue))
					seesOnce(other)
				}
			}
			b.exec("update awa.deferred_jobs set run_at = now() where job_id = $1", job)
			require.Zero(t, one[int](a, "select promoted from awa.promote_due()"))
			seesOnce("promoted by itself")
			for _, many := range []string{"cancel_where($1, state => 'retryable')", "retry_where($1, state => 'failed')",
				"retry_where($1, state => 'dead')", "retry_where($1, state => 'retryable')"} {
				if !strings.Contains(many, "'"+state+"'") {
					require.Zero(t, one[int](a, "select awa."+many, queue), many)
					seesOnce(many)
				}
			}
			if state == "cancelled" || state == "dead" { // it sees what it has done itself, and may undo it
				require.Equal(t, 1, one[int](a, "select awa.retry_where($1, state => $2)", queue, state))
				require.Equal(t, []string{"available"}, list[string](a, "select state from awa.job($1)", job))
			}
			require.Equal(t, "40001", sqlState(a.try("commit")), "%s, %s", change, answer.call)
			require.Empty(t, list[string](b, jobsInTwoPlaces))
			b.balanced()
			b.exec("select awa.drop_queue($1, true)", queue)
		}
	}
}

// A transaction puts off a job that it has enqueued itself, which is due before it ends, and promotes what is due: in
// the same lane again, and in another segment, the entry would stay buried.
func TestPromotionInTheTransactionThatPutOff(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session()
	a.exec("begin")
	job := a.enqueue("q")
	a.exec("select awa.reschedule($1, now() + interval '1 hour')", job)
	a.exec("update awa.deferred_jobs set run_at = now()")
	s.rotate()
	require.Zero(t, one[int](a, "select promoted from awa.promote_due()"))
	a.exec("commit")
	require.Equal(t, "scheduled", s.state(job))
	require.Equal(t, 1, one[int](s, "select promoted from awa.promote_due()"))
	require.Equal(t, []int64{job}, ids(s.claim("q", 1)))
	s.balanced()
}

// Jobs that it has cancelled, and others have claimed, are cancelled for it, and nothing else: each is counted once,
// and the books balance.
func TestCountsOfACancelWhoseJobsAreClaimed(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	all := a.enqueueMany("q", 9)
	a.exec("begin")
	a.exec("select awa.cancel(j) from unnest($1::bigint[]) j", all[:7])
	jobs := b.claim("q", 6)
	b.completes(jobs[:1])
	b.exec("select awa.complete($1, $2, output => '1')", jobs[1].JobID, jobs[1].Receipt)
	b.exec("select awa.fail($1, $2, 'error', '1 hour')", jobs[2].JobID, jobs[2].Receipt)
	b.exec("select awa.discard($1, $2, 'error')", jobs[3].JobID, jobs[3].Receipt)
	require.Equal(t, int64(1), one[int64](b, "select awa._materialize($1, 1)", receipts(jobs[4:5])))
	for _, counts := range []string{"queue_counts('q')", "queue_counts()", "audit()"} {
		require.Equal(t, "available 2, running 0, retryable 0, failed 0, cancelled 7, completed 0",
			one[string](a, "select format('available %s, running %s, retryable %s, failed %s, cancelled %s, completed %s', "+
				"available, running, retryable, failed, cancelled, completed) from awa."+counts), counts)
	}
	require.Empty(t, list[string](a, "select problem from awa.audit() where not balanced"))
	a.exec("rollback")
	b.balanced()
}

// A transaction has cancelled an available job, and then many at once; meanwhile the job was claimed, and has a row of
// its own. It is no running job of others for that transaction, so that its commit decides about it as ever.
func TestCancelsOfManyLeaveOutWhatWasCancelled(t *testing.T) {
	for _, materialized := range []bool{false, true} {
		d := newDatabase(t)
		a, b := d.session(), d.session()
		job, other := a.enqueue("q"), a.enqueue("q")
		a.exec("begin")
		a.exec("select awa.cancel($1)", job)
		jobs := b.claim("q", 2)
		require.Equal(t, []int64{job, other}, ids(jobs))
		if materialized {
			require.Positive(t, b.materialize())
		}
		require.Equal(t, int64(1), one[int64](a, "select awa.cancel_where('q')"))
		require.Equal(t, int64(0), one[int64](a, "select awa.cancel_where('q')"))
		a.exec("commit")
		for _, j := range jobs {
			require.Equal(t, "cancelled", b.state(j.JobID))
			b.refuses(j)
		}
		b.balanced()
	}
}

// The same before its queue is dropped: nothing of the attempt stays behind.
func TestDropQueueOfACancelWhoseJobHasARow(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	job := a.enqueue("q")
	a.exec("begin")
	a.exec("select awa.cancel($1)", job)
	jobs := b.claim("q", 1)
	require.Positive(t, b.materialize())
	a.exec("select awa.drop_queue('q', true)")
	a.exec("commit")
	require.Zero(t, one[int](b, "select count(*) from awa.jobs"))
	require.Zero(t, one[int](b, "select count(*) from awa.leases"))
	require.Zero(t, one[int](b, "select count(*) from awa.queue_counts"))
	b.refuses(jobs[0])
	b.enqueue("q")
	require.Len(t, b.claim("q", 9), 1)
	b.balanced()
}

// A transaction has changed an available job, which another session has claimed since, and drops the queue. That is
// decided at once: an attempt is over whose job was cancelled, and its answer is stale; else the drop fails as the
// commit would, since the job would be there twice.
func TestDropQueueOfWhatWasClaimedMeanwhile(t *testing.T) {
	end := func(answer string) func(*session, claimed) {
		return func(s *session, j claimed) { s.exec("select awa."+answer, j.JobID, j.Receipt) }
	}
	d := newDatabase(t)
	a, b := d.session(), d.session()
	n := 0
	for _, change := range []string{"cancel($1)", "discard_job($1)", "cancel_where($2)", "move($1, 'p')",
		"set_priority($1, 1)", "reschedule($1, now() + interval '1 hour')"} {
		isCancel := strings.HasPrefix(change, "cancel") || strings.HasPrefix(change, "discard")
		for name, meanwhile := range map[string]func(*session, claimed){
			"nothing":      nil,
			"claimed":      func(*session, claimed) {},
			"materialized": func(s *session, _ claimed) { require.Positive(s, s.materialize()) },
			"completed":    end("complete($1, $2)"),
			"failed":       end("fail($1, $2, 'error', '1 hour')"),
			"released":     end("release($1, $2)"),
			"gone": func(s *session, j claimed) {
				end("release($1, $2)")(s, j)
				s.exec("select awa.move($1, 'elsewhere')", j.JobID)
			},
		} {
			for _, force := range []bool{false, true} {
				t.Log(change, name, force)
				n++
				q := fmt.Sprint("q", n)
				job := a.enqueue(q)
				a.exec("begin")
				a.exec("select awa."+change+" where $1::bigint > 0 and $2::text > ''", job, q)
				var jobs []claimed
				if meanwhile != nil {
					jobs = b.claim(q, 1)
					require.Len(t, jobs, 1)
					meanwhile(b, jobs[0])
				}
				err := a.try("select awa.drop_queue($1, $2)", q, force)
				stays := change == "set_priority($1, 1)" || strings.HasPrefix(change, "reschedule")
				switch {
				case stays && !force:
					require.Equal(t, "JQ005", sqlState(err))
					a.exec("rollback")
				case meanwhile == nil, isCancel && (name == "claimed" || name == "materialized"):
					require.NoError(t, err)
					a.exec("commit")
					require.Zero(t, one[int](b, "select count(*) from awa.jobs where queue = $1", q))
					require.Equal(t, change == "move($1, 'p')",
						one[bool](b, "select exists (select from awa.jobs where id = $1 and state = 'available')", job))
					require.Zero(t, one[int](b, "select count(*) from awa.leases where job_id = $1", job))
					for _, j := range jobs {
						require.Equal(t, "JQ001", sqlState(b.try("select awa.complete($1, $2)", j.JobID, j.Receipt)))
					}
				default: // the job may be available, for another attempt
					require.Contains(t, []string{"40001", "JQ005"}, sqlState(err))
					a.exec("rollback")
					if name == "claimed" || name == "materialized" {
						b.completes(jobs)
					}
				}
				b.enqueue(q)
				require.NotEmpty(t, b.claim(q, 9))
			}
		}
	}
	b.balanced()
}
