package sql_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A transaction has cancelled an available job, and another one claims it and answers meanwhile: until its end the
// first sees what both have done. No read fails and no count is below zero; a retry is taken, and refused at commit.
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
		require.Equal(t, []int64{0}, list[int64](a, "select least(available, running, completed, failed, cancelled, 0) "+
			"from awa.queue_counts('q')"))
		a.exec("select awa.list_jobs(state => 'available'), awa.list_jobs('q'), awa.list_queues(), awa.audit()")
		call := strings.ReplaceAll(retry, "%d", fmt.Sprint(job))
		if call != retry && answer.state == "available" {
			require.Equal(t, "JQ005", sqlState(a.try(call)))
			a.exec("rollback")
		} else {
			require.Equal(t, int64(1), one[int64](a, call))
			require.Equal(t, "40001", sqlState(a.try("commit")))
		}
		require.Equal(t, answer.state, b.state(job))
		b.balanced()
		b.exec("select awa.drop_queue('q', true)")
	}
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
