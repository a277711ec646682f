package sql_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// enqueueExpiring makes jobs that expire, one day.
func (s *session) enqueueExpiring(queue string, jobs int) []int64 {
	s.Helper()
	return list[int64](s, "select awa.enqueue_many($1, 'k', array_fill('{}'::jsonb, array[$2::int]), "+
		"expires_at => now() + interval '1 day')", queue, jobs)
}

// expire lets the time of jobs go by.
func (s *session) expire(jobs ...int64) {
	s.Helper()
	s.exec("update awa.ready_entries set expires_at = now() - interval '1 second' where job_id = any($1)", jobs)
	s.exec("update awa.deferred_jobs set expires_at = now() - interval '1 second' where job_id = any($1)", jobs)
}

func (s *session) cancelExpired() int64 {
	s.Helper()
	return one[int64](s, "select cancelled from awa.cancel_expired()")
}

// A claim never hands out a job that has expired, whatever it asks for, and never more jobs than it asks for; it gets
// to all the others, in their order.
func TestClaimsPassExpiredJobs(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for _, max := range []int{1, 2, 7, 100, 2000} {
		for _, pattern := range []string{"x.", ".x", "xxx.", "...x", "xxxxxxxxx.........", "x", "."} {
			queue := fmt.Sprint(pattern, max)
			jobs := s.enqueueExpiring(queue, map[bool]int{true: 1500, false: 100}[max >= 100])
			keyed := s.enqueueUnique(queue, queue)
			s.exec("select awa.configure($1::jsonb)", `{"claim_bytes": 20000}`)
			var expired, live []int64
			for i, job := range jobs {
				if pattern[i%len(pattern)] == 'x' {
					expired = append(expired, job)
				} else {
					live = append(live, job)
				}
			}
			s.expire(expired...)
			var got []int64
			for len(got) <= len(live) {
				claimed := s.claim(queue, max)
				require.LessOrEqual(t, len(claimed), max)
				got = append(got, ids(claimed)...)
				if len(claimed) > 0 { // it may have ended early
					s.completeMany(claimed)
				}
			}
			require.Equal(t, append(live, keyed), got, queue)
			require.Empty(t, s.claim(queue, max))
			require.Len(t, list[int64](s, "select id from awa.jobs where queue = $1 and state = 'cancelled'", queue),
				len(expired))
		}
	}
	s.balanced()
}

// A claim that is rolled back has cancelled nothing.
func TestExpiryRollsBackWithItsClaim(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	jobs := s.enqueueExpiring("q", 3)
	key := one[int64](s,
		"select job_id from awa.enqueue_unique('q', 'k', unique_key => 'q', expires_at => now() + interval '1 day')")
	s.expire(append(jobs[:2:2], key)...)
	s.exec("begin")
	require.Equal(t, jobs[2:], ids(s.claim("q", 10)))
	require.Equal(t, "cancelled", s.state(jobs[0]))
	s.exec("rollback")
	require.Equal(t, "available", s.state(jobs[0]))
	require.Equal(t, key, s.enqueueUnique("q", "q"), "it has its key")
	require.Equal(t, jobs[2:], ids(s.claim("q", 10)))
	require.Equal(t, "cancelled", s.state(jobs[0]))
	require.NotEqual(t, key, s.enqueueUnique("q", "q"), "it has let go of its key")
	s.balanced()
}

// The pass has found a job that has expired, and waits for a claim that began before that: the job has begun.
func TestCancelExpiredBesideAnOpenClaim(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b, watcher := d.session(), d.session(), d.session()
		a.exec(changing("cancel_expired", "'100 milliseconds'", "'10 minutes'"))
		jobs := a.enqueueExpiring("q", 4)
		a.exec("begin")
		require.Equal(t, jobs[:2], ids(a.claim("q", 2)))
		watcher.expire(jobs...)
		wait := b.background("select awa.cancel_expired()")
		watcher.waitUntilBlocked(b)
		a.exec(end)
		require.NoError(t, wait())
		if end == "commit" {
			require.Equal(t, []string{"running", "running", "cancelled", "cancelled"}, states(a, jobs))
		} else {
			require.Equal(t, []string{"cancelled", "cancelled", "cancelled", "cancelled"}, states(a, jobs))
		}
		a.balanced()
	}
}

func states(s *session, jobs []int64) []string {
	s.Helper()
	return list[string](s, "select state from awa.jobs where id = any($1) order by id", jobs)
}

// An open pass keeps claims of its shard waiting, and they take what is left. A claim in progress keeps the pass off
// for a moment only.
func TestClaimBesideAnOpenCancelExpired(t *testing.T) {
	d := newDatabase(t)
	a, b, watcher := d.session(), d.session(), d.session()
	for _, end := range []string{"commit", "rollback"} {
		jobs := a.enqueueExpiring("q", 5)
		a.expire(jobs[1], jobs[3])
		a.exec("begin")
		require.EqualValues(t, 2, a.cancelExpired())
		wait := b.background("select from awa.claim('q', 10)")
		watcher.waitUntilBlocked(b)
		a.exec(end)
		require.NoError(t, wait())
		require.Equal(t, []string{"running", "cancelled", "running", "cancelled", "running"}, states(a, jobs))
		a.balanced()
	}
	jobs := a.enqueueExpiring("q", 2)
	a.exec("begin")
	require.Len(t, a.claim("q", 1), 1)
	watcher.expire(jobs...)
	require.Zero(t, b.cancelExpired())
	a.exec("rollback")
	require.EqualValues(t, 2, b.cancelExpired()+b.cancelExpired())
	a.balanced()
}

// A change of a job that has expired stands in an open transaction. Neither the pass nor a claim waits for it, and the
// other jobs are cancelled. A claim that comes to the job cancels it: then the change fails.
func TestExpiryBesideAnOpenChange(t *testing.T) {
	for _, change := range []string{
		"select awa.cancel($1)", "select awa.set_priority($1, 4)", "select awa.move($1, 'other')",
	} {
		for _, end := range []string{"commit", "rollback"} {
			for _, claims := range []bool{true, false} {
				t.Log(change, end, claims)
				d := newDatabase(t)
				a, b := d.session(), d.session().neverWaits()
				jobs := a.enqueueExpiring("q", 3)
				a.expire(jobs...)
				a.exec("begin")
				a.exec(change, jobs[1])
				if claims {
					require.Empty(t, b.claim("q", 1))
					require.Equal(t, []string{"cancelled", "cancelled", "cancelled"}, states(b, jobs))
				} else {
					for cancelled := int64(0); cancelled < 2; { // one call has little time for the others
						cancelled += b.cancelExpired()
					}
					require.Equal(t, []string{"cancelled", "available", "cancelled"}, states(b, jobs))
				}
				err := a.try(end)
				if claims && end == "commit" {
					require.Equal(t, "40001", sqlState(err))
				} else {
					require.NoError(t, err)
				}
				b.balanced()
				for slices.Contains(states(b, jobs), "available") {
					b.cancelExpired()
				}
				require.Equal(t, []string{"cancelled", "cancelled", "cancelled"}, states(b, jobs))
				b.balanced()
			}
		}
	}
}

// A job that has expired lets go of its unique key as a cancel does: to whoever asks next, also in the same
// transaction; and an heir that was promised the key gets it, or its transaction fails.
func TestExpiredJobLetsGoOfItsKey(t *testing.T) {
	const expiring = "select job_id from awa.enqueue_unique('q', 'k', unique_key => 'key', expires_at => now() + " +
		"interval '1 day')"
	for _, expires := range []string{"select awa.claim('q', 10)", "select awa.cancel_expired()"} {
		d := newDatabase(t)
		a, b := d.session(), d.session().neverWaits()
		first := one[int64](a, expiring)
		a.expire(first)
		a.exec("begin")
		a.exec("select awa.cancel($1)", first)
		heir := a.enqueueUnique("q", "key")
		require.NotEqual(t, first, heir)
		if expires == "select awa.claim('q', 10)" {
			b.exec(expires)
			require.Equal(t, "cancelled", b.state(first))
			require.Equal(t, "40001", sqlState(a.try("commit")))
			require.NotEqual(t, first, b.enqueueUnique("q", "key"))
		} else {
			b.exec(expires)
			require.Equal(t, "available", b.state(first))
			a.exec("commit")
			require.Equal(t, heir, b.enqueueUnique("q", "key"))
		}
		b.exec("select awa.cancel_by_unique_key(unique_key => 'key')")

		second := one[int64](a, expiring)
		a.expire(second)
		a.exec("begin")
		a.exec(expires)
		third := a.enqueueUnique("q", "key")
		require.NotEqual(t, second, third)
		a.exec("commit")
		require.Equal(t, third, b.enqueueUnique("q", "key"))
		require.Equal(t, []string{"cancelled", "available"}, states(b, []int64{second, third}))
		b.balanced()
	}
}

// A job that has begun does not expire: its retry runs. Attempts that do not count are no beginning.
func TestBegunJobsDoNotExpire(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for _, way := range []struct{ answer, state string }{
		{"select awa.fail($1, $2, 'error', '0')", "running"},
		{"select awa.put_off($1, $2, 'error')", "running"},
		{"select awa.snooze($1, $2, '0')", "cancelled"},
		{"select awa.release($1, $2)", "cancelled"},
	} {
		job := s.enqueueExpiring("q", 1)[0]
		attempt := s.claim("q", 1)[0]
		s.exec(way.answer, attempt.JobID, attempt.Receipt)
		s.expire(job)
		s.exec("update awa.deferred_jobs set run_at = now() where job_id = $1", job)
		s.exec("select awa.promote_due()")
		s.cancelExpired()
		s.exec("select awa.claim('q', 1)")
		require.Equal(t, way.state, s.state(job), way.answer)
	}
	s.balanced()
}

// A session that retries a job that has expired wants it to run; a time to come stays. It cannot be put off
// past its time.
func TestChangesOfExpiringJobs(t *testing.T) {
	const expiresAt = "select coalesce((select expires_at::text from awa.job($1)), 'never')"
	d := newDatabase(t)
	s := d.session()
	for _, state := range []string{"cancelled", "scheduled"} {
		job := s.enqueueExpiring("q", 1)[0]
		before := one[string](s, expiresAt, job)
		if state == "scheduled" {
			s.exec("select awa.reschedule($1, now() + interval '1 hour')", job)
		}
		s.expire(job)
		if state == "cancelled" {
			require.EqualValues(t, 1, s.cancelExpired())
		}
		require.Equal(t, state, one[string](s, "select awa.retry($1)", job))
		require.Equal(t, "never", one[string](s, expiresAt, job))
		require.Equal(t, []int64{job}, ids(s.claim("q", 1)))

		job = s.enqueueExpiring("q", 1)[0]
		s.exec("select awa.cancel($1)", job)
		s.exec("select awa.retry($1)", job)
		require.NotEqual(t, "never", one[string](s, expiresAt, job))
		for _, late := range []string{"1 day", "2 days"} {
			require.Equal(t, "22023", sqlState(s.try("select awa.reschedule($1, now() + $2::text::interval)", job, late)))
		}
		for _, change := range []string{"select awa.reschedule($1, now() + interval '1 hour')",
			"select awa.set_priority($1, 1)", "select awa.move($1, 'other ' || $1::bigint)",
			"select awa.reschedule($1, now(), '1')"} {
			s.exec(change, job)
			require.NotEqual(t, "never", one[string](s, expiresAt, job), change)
		}
		require.NotEmpty(t, before)
		// the queue that it has come to knows that it may expire
		s.expire(job)
		require.Equal(t, "22023", sqlState(s.try("select awa.reschedule($1, now())", job)))
		require.Empty(t, s.claim(fmt.Sprint("other ", job), 1))
		require.Equal(t, "cancelled", s.state(job))
	}
	s.balanced()
}

// In each shard, with groups or without, and in the front lane.
func TestExpiryInShards(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for _, claims := range []bool{true, false} {
		queue := fmt.Sprint("q", claims)
		s.setShards(queue, 8)
		var expired, live []int64
		for i := range 100 {
			group := "group_key => null"
			if i%2 == 0 {
				group = fmt.Sprintf("group_key => 'g%d'", i)
			}
			job := one[int64](s, "select awa.enqueue($1, 'k', priority => $2, expires_at => now() + interval '1 day', "+group+
				")", queue, 1+i%4)
			if i%3 == 0 {
				live = append(live, job)
			} else {
				expired = append(expired, job)
			}
		}
		for _, j := range s.claim(queue, 20) {
			s.exec("select awa.release($1, $2)", j.JobID, j.Receipt)
		}
		s.expire(expired...)
		if claims {
			var got []int64
			for len(got) < len(live) {
				got = append(got, ids(s.claim(queue, 10))...)
			}
			slices.Sort(got)
			require.Equal(t, live, got)
			require.Empty(t, s.claim(queue, 10))
		} else {
			s.exec("select awa.pause_queue($1)", queue)
			calls := 0
			for s.cancelExpired() > 0 {
				calls++
			}
			require.GreaterOrEqual(t, calls, 8, "one shard in a call")
		}
		require.Len(t, list[int64](s, "select id from awa.jobs where queue = $1 and state = 'cancelled'", queue),
			len(expired))
		s.balanced()
	}
}

// A job that was committed late, behind the place that the pass has come to, is found by a later one; and so is one
// that lies deeper than one call reads.
func TestCancelExpiredFindsAll(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	a.exec(changing("cancel_expired", "v_left int := 50000", "v_left int := 200"))
	a.exec("begin")
	late := a.enqueueExpiring("q", 1)[0]
	a.exec("savepoint s")
	jobs := b.enqueueExpiring("q", 1000)
	b.exec("select awa.claim('q', 1)")
	b.exec("select awa.pause_queue('q')")
	b.expire(jobs[999])
	calls := 0
	for b.cancelExpired() == 0 {
		calls++
		require.Less(t, calls, 10)
	}
	require.Equal(t, "cancelled", b.state(jobs[999]))
	a.exec("commit")
	b.expire(late)
	for b.cancelExpired() == 0 {
		calls++
		require.Less(t, calls, 20)
	}
	require.Equal(t, "cancelled", b.state(late))
	b.balanced()
}
