package sql_test

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var sameAll = flag.Bool("same.all", false, "all orders of the changes of TestChangesInOneTransaction, for minutes")

// A trial is one transaction that changes one job with a unique key again and again.
type trial struct {
	changes  []string
	claimed  int  // before which of them another session claims the job; -1 for never
	answered int  // before which of them it answers; after the commit where there are not so many
	answer   int  // of trialAnswers
	byQueue  bool // whether its queue is a part of the key
}

var trialChanges = map[string]string{
	"cancel": "select awa.cancel($1) where $2::text > ''",
	"retry":  "select awa.retry($1) where $2::text > ''",
	"move":   "select awa.move($1, $2 || ' moved')",
	"drop":   "select awa.drop_queue($2, true) where $1::bigint > 0",
}

var trialAnswers = []answer{
	{"select awa.complete($1, $2)", "completed"},
	{"select awa.fail($1, $2, 'error', '1 hour')", "retryable"},
	{"select awa.release($1, $2)", "available"},
}

// trials are all trials of some changes in this order.
func trials(changes []string) (all []trial) {
	all = append(all, trial{changes: changes, claimed: -1, byQueue: len(changes)%2 == 0})
	for claimed := range len(changes) + 1 {
		answered := []int{claimed, len(changes), len(changes) + 1}
		slices.Sort(answered)
		for _, answered := range slices.Compact(answered) {
			all = append(all, trial{changes, claimed, answered, len(all) % 3, len(all)%2 == 0})
		}
	}
	return all
}

// orders are all orders of n different changes.
func orders(n int) (all [][]string) {
	if n == 0 {
		return [][]string{nil}
	}
	for _, before := range orders(n - 1) {
		for _, change := range []string{"cancel", "retry", "move", "drop"} {
			if !slices.Contains(before, change) {
				all = append(all, append(slices.Clone(before), change))
			}
		}
	}
	return all
}

// One transaction cancels, retries, moves and drops with its queue one job that has a unique key, in any order, while
// another session claims it, and answers. What the transaction was told holds once it has committed, and then a later
// answer is stale; or else its commit fails, and it is as if it had never been. There is one job of a key at most, and
// the key is free when that has ended.
func TestChangesInOneTransaction(t *testing.T) {
	var all []trial
	for n := 1; n <= 4; n++ {
		for i, changes := range orders(n) {
			if *sameAll || n < 3 || n == 3 && i%4 == 0 || i%8 == 0 {
				all = append(all, trials(changes)...)
			}
		}
	}
	d := newDatabase(t)
	var a, b, watcher *session
	ends := map[string]int{}
	for n, c := range all {
		if n%100 == 0 {
			a, b, watcher = d.session(), d.session(), d.session()
			a.setClaimWait("1 minute")
		}
		ends[c.runs(a, b, watcher, n)]++
		if n%20 == 0 {
			watcher.audited()
		}
	}
	t.Log(len(all), "trials", ends)
	for _, end := range []string{"committed", "committed, taken before", "committed, stale", "40001, taken before",
		"40001, taken"} {
		require.Positive(t, ends[end], end)
	}
	watcher.balanced()
}

// runs runs one, and says how it ended.
func (c trial) runs(a, b, watcher *session, n int) string {
	t := a.T
	queue := fmt.Sprint("queue ", n)
	key := ", unique_key => $1"
	if c.byQueue {
		key = ", unique_by => '{queue}'"
	}
	enqueues := func(queue string) (job int64, inserted bool) {
		require.NoError(t, watcher.db.QueryRow(watcher.ctx, "select job_id, inserted from awa.enqueue_unique($1::text, 'k'"+
			key+")", queue).Scan(&job, &inserted))
		return job, inserted
	}
	job, _ := enqueues(queue)
	a.exec("begin")
	// The job as the transaction sees it, and as it is without the transaction; what that has done, and when.
	state, at, without := "available", queue, "available"
	changed, changedBefore, dropped := false, false, false
	var attempt claimed
	var answered chan error
	done, taken := false, false
	settle := func(err error) {
		done, taken = true, err == nil
		if err != nil {
			require.Equal(t, "JQ001", sqlState(err), "%v: %v", c, err)
		} else {
			without = trialAnswers[c.answer].state
		}
	}
	answers := func() {
		answered = make(chan error, 1)
		go func() { answered <- b.try(trialAnswers[c.answer].call, attempt.JobID, attempt.Receipt) }()
		for !done {
			select {
			case err := <-answered:
				settle(err)
			case <-time.After(time.Millisecond):
				if one[bool](watcher, "select cardinality(pg_blocking_pids($1)) > 0", b.pid) {
					return // until the transaction has ended
				}
			}
		}
		if !changed {
			state = without
		}
		require.True(t, taken, "%v", c)
	}
	for i := range len(c.changes) + 1 {
		if i == c.claimed && !dropped { // while its queue is being dropped a claim would wait for that
			require.NoError(t, b.db.QueryRow(b.ctx, "select job_id, receipt from awa.claim($1)", queue).
				Scan(&attempt.JobID, &attempt.Receipt), "%v", c)
			require.Equal(t, job, attempt.JobID)
			changedBefore, without = changed, "running"
			if !changed {
				state = "running"
			}
		}
		if i == c.answered && attempt.Receipt != 0 {
			answers()
		}
		if i == len(c.changes) {
			break
		}
		change := c.changes[i]
		a.exec("savepoint before")
		if err := a.try(trialChanges[change], job, queue); err != nil {
			require.Contains(t, []string{"40001", "JQ002", "JQ003", "JQ005"}, sqlState(err), "%v %s: %v", c, change, err)
			a.exec("rollback to before")
			continue
		}
		changed = true
		switch change {
		case "cancel":
			state = "cancelled"
		case "retry":
			state = "available"
		case "move":
			at = queue + " moved"
		default:
			dropped = true
			if at == queue {
				state = "gone"
			}
		}
	}
	err := a.try("commit")
	if err != nil {
		require.Equal(t, "40001", sqlState(err), "%v: %v", c, err)
		require.NotZero(t, attempt, "%v: nothing came between", c)
	}
	decided := err == nil && changed
	if !decided {
		state, at = without, queue
	}
	end := map[bool]string{true: "committed", false: "40001"}[err == nil]
	if !changed {
		end = "nothing"
	}
	switch {
	case done:
		require.False(t, decided && changedBefore, "%v: both", c)
		end += ", taken before"
	case attempt.Receipt != 0:
		if answered == nil {
			settle(b.try(trialAnswers[c.answer].call, attempt.JobID, attempt.Receipt))
		} else {
			settle(<-answered)
		}
		require.Equal(t, !decided, taken, "%v", c)
		end += map[bool]string{true: ", taken", false: ", stale"}[taken]
		if taken {
			state = without
		}
	}
	c.checks(watcher, job, state, at, queue, enqueues)
	return end
}

// checks says that the job is in this state, in this queue, that no other has its key, and that each job runs once.
func (c trial) checks(s *session, job int64, state, at, queue string, enqueues func(string) (int64, bool)) {
	want := []string{state + " in " + at}
	if state == "gone" {
		want = []string{}
	}
	require.Equal(s, want, list[string](s, "select state || ' in ' || queue from awa.jobs where id = $1", job), "%v", c)
	ready := map[int64]bool{}
	if state == "available" {
		ready[job] = true
	}
	for _, q := range []string{queue, queue + " moved"} {
		if q != queue && !c.byQueue {
			continue // another key
		}
		holds := (state == "available" || state == "retryable") && (at == q || !c.byQueue)
		next, inserted := enqueues(q)
		require.Equal(s, !holds, inserted, "%v", c)
		require.Equal(s, holds, next == job, "%v", c)
		again, inserted := enqueues(q)
		require.False(s, inserted, "%v", c)
		require.Equal(s, next, again, "%v", c)
		ready[next] = ready[next] || !holds
	}
	for _, q := range []string{queue, queue + " moved"} {
		jobs := s.claim(q, 9)
		for _, j := range jobs {
			require.True(s, ready[j.JobID], "%v: job %d", c, j.JobID)
			delete(ready, j.JobID)
		}
		s.completes(jobs)
	}
	delete(ready, map[bool]int64{true: job}[state == "retryable"])
	require.Empty(s, ready, "%v: lost", c)
}

// A job whose key is also held by cancelled ones goes on in another queue, with its key, where one transaction cancels
// it, retries it once it was claimed, moves it, and drops its queue.
func TestKeyOfACancelledJobThatGoesOn(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	enqueues := func() (job int64, inserted bool) {
		require.NoError(t, b.db.QueryRow(b.ctx, "select job_id, inserted from awa.enqueue_unique('q', 'k', "+
			"unique_key => 'x', unique_states => '{available,cancelled}')").Scan(&job, &inserted))
		return job, inserted
	}
	job, _ := enqueues()
	a.exec("begin")
	a.exec("select awa.cancel($1)", job)
	require.Len(t, b.claim("q", 1), 1)
	a.exec("select awa.retry($1)", job)
	a.exec("select awa.move($1, 'other')", job)
	a.exec("select awa.drop_queue('q', true)")
	a.exec("commit")
	require.Equal(t, "available", b.state(job))
	held, inserted := enqueues()
	require.False(t, inserted)
	require.Equal(t, job, held)
	b.balanced()
}

// A drop of a queue does not let go of the keys of jobs that its transaction has cancelled in others.
func TestDropBesideACancelElsewhere(t *testing.T) {
	s := newDatabase(t).session()
	enqueues := func(queue string) (job int64, inserted bool) {
		require.NoError(t, s.db.QueryRow(s.ctx, "select job_id, inserted from awa.enqueue_unique($1, 'k', "+
			"unique_key => 'x')", queue).Scan(&job, &inserted))
		return job, inserted
	}
	enqueues("other")
	s.enqueue("q")
	s.exec("begin")
	require.Equal(t, int64(2), one[int64](s, "select awa.cancel_where(before => now() + interval '1 hour')"))
	heir, inserted := enqueues("other")
	require.True(t, inserted)
	s.exec("select awa.drop_queue('q', true)")
	held, inserted := enqueues("other")
	require.False(t, inserted)
	require.Equal(t, heir, held)
	s.exec("commit")
	s.balanced()
}
