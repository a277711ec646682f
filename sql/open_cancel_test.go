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
				require.Zero(t, one[int](a, "select count(*) from awa.dlq_entries where job_id = $1", job), what)
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
				require.Zero(t, one[int](a, "select awa."+many, queue), many)
				seesOnce(many)
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

// Jobs that it has cancelled, and others have claimed, are neither available nor running for it.
func TestCountsOfACancelWhoseJobsAreClaimed(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	all := a.enqueueMany("q", 6)
	a.exec("begin")
	a.exec("select awa.cancel(j) from unnest($1::bigint[]) j", all[:4])
	jobs := b.claim("q", 3)
	b.completes(jobs[:1])
	require.Equal(t, "available 2, running 0, cancelled 4, completed 1",
		one[string](a, "select format('available %s, running %s, cancelled %s, completed %s', available, running, "+
			"cancelled, completed) from awa.queue_counts('q')"))
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
