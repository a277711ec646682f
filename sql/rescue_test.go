package sql_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// due makes every deferred job due, and promotes it.
func (s *session) due() {
	s.Helper()
	s.exec("update awa.deferred_jobs set run_at = now()")
	s.exec("select awa.promote_due()")
}

// A job that kills its worker every time ends: each of its attempts counts.
func TestJobThatKillsItsWorkers(t *testing.T) {
	for _, state := range []string{"failed", "dead"} {
		for _, materialized := range []bool{false, true} {
			d := newDatabase(t)
			s := d.session()
			s.exec("select awa.enqueue_unique('q', 'k', unique_key => 'key', max_attempts => 3)")
			s.exec("select awa.configure_queue('q', jsonb_build_object('dead_letter', $1::boolean))", state == "dead")
			for attempt := 1; attempt <= 3; attempt++ {
				worker := s.registerWorker()
				jobs := s.claimAs(worker, "q", 1)
				require.Len(t, jobs, 1)
				j := claimed{1, jobs[0]}
				require.Equal(t, attempt, one[int](s, "select attempt from awa.job(1)"))
				if materialized {
					require.Equal(t, int64(1), s.materialize())
				}
				require.Zero(t, s.rescue())
				s.halfAnHourLater()
				require.Equal(t, int64(1), s.rescue())
				require.Zero(t, s.rescue())
				s.refuses(j)
				require.Equal(t, attempt, one[int](s, "select jsonb_array_length(errors) from awa.job(1)"))
				s.balanced()
				if attempt < 3 {
					require.Equal(t, "retryable", s.state(1))
					s.due()
				}
			}
			require.Equal(t, state, s.state(1))
			require.Equal(t, 3, one[int](s, "select attempt from awa.job(1)"))
			require.Empty(t, s.claim("q", 9))
			require.Zero(t, one[int](s, "select count(*) from awa.unique_claims where job_id is not null"))
		}
	}
}

// A worker that lives keeps its attempts beyond their leases, but not beyond a deadline.
func TestHeartbeatKeepsAttempts(t *testing.T) {
	for _, materialized := range []bool{false, true} {
		d := newDatabase(t)
		s, beat := d.session(), d.session()
		worker := s.registerWorker()
		job, limited, nobodys := s.enqueue("q"), s.enqueue("limited"), s.enqueue("nobodys")
		s.exec("select awa.configure_queue('limited', '{\"deadline\": \"20 minutes\"}')")
		kept := claimed{job, s.claimAs(worker, "q", 1)[0]}
		late := claimed{limited, s.claimAs(worker, "limited", 1)[0]}
		s.claim("nobodys", 1)
		if materialized {
			require.Equal(t, int64(3), s.materialize())
			s.exec("select awa.extend($1, $2, '5 hours')", late.JobID, late.Receipt)
		}
		s.halfAnHourLater()
		require.Empty(t, s.lost(worker))
		require.Equal(t, int64(2), s.rescue())
		require.Equal(t, []string{"running", "retryable", "retryable"},
			[]string{s.state(job), s.state(limited), s.state(nobodys)})
		require.Equal(t, "deadline exceeded", one[string](s, "select errors -> -1 ->> 'error' from awa.job($1)", limited))
		require.Equal(t, "lease expired", one[string](s, "select errors -> -1 ->> 'error' from awa.job($1)", nobodys))
		require.Equal(t, []string{fmt.Sprint(limited, " deadline exceeded")}, s.lost(worker))
		s.refuses(late)

		// A heartbeat counts when it is committed.
		s.halfAnHourLater()
		beat.exec("begin")
		beat.lost(worker)
		require.Equal(t, int64(1), s.rescue())
		beat.exec("commit")
		require.Equal(t, []string{fmt.Sprint(job, " lease expired"), fmt.Sprint(limited, " deadline exceeded")},
			s.lost(worker))
		s.refuses(kept)
		s.balanced()
	}
}

// A pass ends so many attempts, those in the ledger and those with rows of their own together.
func TestRescueIsBounded(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for range 3 {
		s.open("q", shapes[5])
	}
	for range 2 {
		s.open("q", shapes[2])
		s.open("q", shapes[0])
	}
	s.halfAnHourLater()
	for left := int64(17); left > 0; left -= 4 {
		require.Equal(t, min(left, 4), one[int64](s, "select rescued from awa.rescue(4)"))
		require.Equal(t, max(left-4, 0), one[int64](s, "select running from awa.queue_counts('q')"))
		s.balanced()
	}
	require.Zero(t, s.rescue())
}

// Two passes at once end different attempts, and do not wait for each other.
func TestTwoRescuesAtOnce(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b := d.session(), d.session().neverWaits()
		a.open("q", shapes[5])
		a.open("q", shapes[3])
		a.open("r", shapes[1])
		a.halfAnHourLater()
		a.balanced()
		a.exec("update awa.queue_rollups set folded_at = '-infinity'") // both passes count
		a.exec("begin")
		require.Equal(t, int64(7), a.rescue())
		require.Zero(t, b.rescue())
		b.open("s", shapes[2])
		b.exec("update awa.lease_claims set lease_until = now()")
		b.noGap()
		require.Equal(t, int64(3), b.rescue())
		a.exec(end)
		require.Equal(t, map[string]int64{"commit": 0, "rollback": 7}[end], b.rescue())
		b.balanced()
		require.Equal(t, 10, one[int](b, "select count(*) from awa.jobs where state = 'retryable' and attempt = 1"))
	}
}

// A worker is told of what it lost by every heartbeat of a minute.
func TestWorkerIsTold(t *testing.T) {
	for _, materialized := range []bool{false, true} {
		d := newDatabase(t)
		s, other := d.session(), d.session()
		worker, bystander := s.registerWorker(), s.registerWorker()
		other.exec("listen awa_lost_attempts")
		jobs := s.enqueueMany("q", 4)
		receipts := s.claimAs(worker, "q", 4)
		if materialized {
			s.materialize()
		}
		cancels := func(job int64, end string) {
			s.exec("begin")
			s.exec("select awa.cancel($1, 'reason')", job)
			s.exec(end)
		}
		cancels(jobs[3], "rollback")
		require.Empty(t, s.lost(worker))
		cancels(jobs[0], "commit")
		cancels(jobs[1], "commit")
		for range 2 {
			require.Equal(t, worker, other.notified(), "none from what rolled back")
		}
		want := []string{fmt.Sprint(jobs[0], " reason"), fmt.Sprint(jobs[1], " reason")}
		for range 3 {
			require.Equal(t, want, s.lost(worker))
		}
		require.Equal(t, receipts[:2], list[int64](s, "select receipt from awa.heartbeat($1)", worker))
		require.Empty(t, s.lost(bystander))
		s.exec("update awa.lost_attempts set told_at = told_at - interval '61 seconds' where job_id = $1", jobs[0])
		require.Equal(t, want[1:], s.lost(worker))

		// Cancelled before it was claimed, decided when it had been.
		job := s.enqueue("q")
		s.exec("begin")
		s.exec("select awa.cancel($1)", job)
		other.claimAs(worker, "q", 1)
		s.exec("commit")
		require.Equal(t, worker, other.notified())
		s.halfAnHourLater()
		require.Equal(t, int64(2), s.rescue())
		require.Equal(t, worker, other.notified())
		require.Len(t, s.lost(worker), 4)
		s.balanced()
	}
}

// A worker that another session ends hears of it, so that it stops what runs.
func TestEndedWorkerIsNotified(t *testing.T) {
	d := newDatabase(t)
	s, other := d.session(), d.session()
	other.exec("listen awa_lost_attempts")
	idle, worker, last := s.registerWorker(), s.registerWorker(), s.registerWorker()
	s.enqueueMany("q", 3)
	s.claimAs(worker, "q", 1)
	s.materialize()
	s.claimAs(worker, "q", 1)
	s.claimAs(last, "q", 1)
	s.exec("begin")
	s.exec("select awa.deregister_worker($1)", last)
	s.exec("rollback")
	for _, w := range []int64{idle, worker, last} {
		s.exec("select awa.deregister_worker($1)", w)
	}
	require.Equal(t, []int64{worker, last}, []int64{other.notified(), other.notified()},
		"none for a worker without attempts, nor for what rolled back")
}

// notified waits for a notification on awa_lost_attempts and returns the worker that it is for.
func (s *session) notified() (worker int64) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	n, err := s.db.WaitForNotification(ctx)
	require.NoError(s, err)
	require.Equal(s, "awa_lost_attempts", n.Channel)
	_, err = fmt.Sscan(n.Payload, &worker)
	require.NoError(s, err)
	return worker
}

// A heartbeat waits for an open one of the same worker within bounds, and so does the end of the worker. Who holds the
// row is named, by health, too.
func TestHeartbeatBesideAnOpenHeartbeat(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session()
	worker := s.registerWorker()
	s.exec("update awa.settings set claim_wait = '100 milliseconds', warn_silence = '1 millisecond'")
	s.exec("set statement_timeout = '60s'")
	for _, savepoint := range []string{"", "savepoint a"} {
		a.exec("begin; " + savepoint)
		a.exec("select awa.heartbeat($1)", worker)
		if savepoint != "" { // its number is not that of a's transaction, and is told nowhere any more
			a.exec("release a")
		}
		for _, call := range []string{"heartbeat", "deregister_worker"} {
			err := s.try("select awa."+call+"($1)", worker)
			require.Equal(t, "55P03", sqlState(err), call)
			var refused *pgconn.PgError
			require.ErrorAs(t, err, &refused)
			require.Contains(t, refused.Detail, fmt.Sprintf("backend %d ", a.pid), call)
		}
		require.Contains(t, one[string](s, "select message from awa.health() where topic = 'worker'"),
			fmt.Sprintf("its row is locked by backend %d ", a.pid))
		a.exec("commit")
	}
	s.exec("select awa.heartbeat($1)", worker)
	s.exec("select awa.deregister_worker($1)", worker)
}

// A heartbeat and the end of its worker: one waits for the other.
func TestHeartbeatBesideDeregister(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b, watcher := d.session(), d.session(), d.session()
		worker := a.registerWorker()
		job := a.enqueueUnique("q", "key")
		a.claimAs(worker, "q", 1)
		a.exec("begin")
		a.exec("select awa.heartbeat($1)", worker)
		wait := b.background("select awa.deregister_worker($1)", worker)
		watcher.waitUntilBlocked(b)
		a.exec(end)
		require.NoError(t, wait())
		require.Equal(t, "available", a.state(job))
		require.Equal(t, "22023", sqlState(a.try("select awa.heartbeat($1)", worker)))

		worker = a.registerWorker()
		require.Len(t, a.claimAs(worker, "q", 1), 1)
		a.exec("begin")
		require.Equal(t, int64(1), one[int64](a, "select awa.deregister_worker($1)", worker))
		wait = b.background("select awa.heartbeat($1)", worker)
		watcher.waitUntilBlocked(b)
		a.exec(end)
		if err := wait(); end == "commit" {
			require.Equal(t, "22023", sqlState(err))
			require.Equal(t, "available", a.state(job))
		} else {
			require.NoError(t, err)
			require.Equal(t, "running", a.state(job))
		}
		a.balanced()
	}
}

// A worker that is deregistered gives back what it has, in the ledger and in rows of its own, and nothing that it lost
// meanwhile.
func TestDeregisterBesideOpenChanges(t *testing.T) {
	for _, materialized := range []bool{false, true} {
		for name, change := range map[string]string{
			"cancel":   "select awa.cancel($1) where $2::bigint > 0",
			"complete": "select awa.complete($1, $2)",
			"progress": "select awa.set_progress($1, $2, '{}')",
			"rescue":   "select awa.rescue() where $1::bigint > 0 and $2::bigint > 0",
		} {
			for _, end := range []string{"commit", "rollback"} {
				t.Log(materialized, name, end)
				d := newDatabase(t)
				a, b, watcher := d.session(), d.session(), d.session()
				worker := a.registerWorker()
				jobs := []int64{a.enqueueUnique("q", "a"), a.enqueueUnique("q", "b")}
				receipts := append(a.claimAs(worker, "q", 1), a.claimAs(worker, "q", 1)...)
				if materialized {
					a.materialize()
				}
				a.balanced() // its counts are there: deregister does not wait for those
				if name == "rescue" {
					a.halfAnHourLater()
					a.lost(worker)
					a.exec("select awa.extend($1, $2, '2 hours')", jobs[1], receipts[1])
					a.exec("update awa.workers set heartbeat_at = heartbeat_at - interval '10 minutes'")
				}
				a.exec("begin")
				a.exec(change, jobs[0], receipts[0])
				wait := b.background("select awa.deregister_worker($1)", worker)
				watcher.waitUntilBlocked(b)
				a.exec(end)
				require.NoError(t, wait())
				want := map[string]string{"cancel": "cancelled", "complete": "completed", "progress": "available",
					"rescue": "retryable"}[name]
				if end == "rollback" {
					want = "available"
				}
				require.Equal(t, want, a.state(jobs[0]))
				require.Equal(t, "available", a.state(jobs[1]))
				for i, job := range jobs {
					a.refuses(claimed{job, receipts[i]})
				}
				a.balanced()
				require.Zero(t, one[int](a, "select count(*) from awa.leases"))
				if want == "available" {
					require.Equal(t, jobs, ids(a.claim("q", 9)))
				} else {
					require.Equal(t, jobs[1:], ids(a.claim("q", 9)))
				}
			}
		}
	}
}

// What a silent worker was to be told goes with it.
func TestSilentWorkerIsForgotten(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	worker := s.registerWorker()
	s.enqueueMany("q", 2)
	s.claimAs(worker, "q", 1)
	s.exec("select awa.cancel(1)")
	for range 3 {
		s.halfAnHourLater()
	}
	s.exec("select awa.rescue(), awa.forget_workers()")
	require.Zero(t, one[int](s, "select count(*) from awa.workers"))
	require.Zero(t, one[int](s, "select count(*) from awa.lost_attempts"))
}

// Neither is what it lost while it was being deregistered.
func TestDeregisteredWorkerIsForgotten(t *testing.T) {
	d := newDatabase(t)
	a, b, watcher := d.session(), d.session(), d.session()
	worker := a.registerWorker()
	job := a.enqueue("q")
	a.claimAs(worker, "q", 1)
	a.balanced()
	a.exec("begin")
	a.exec("select awa.cancel($1)", job)
	wait := b.background("select awa.deregister_worker($1)", worker)
	watcher.waitUntilBlocked(b)
	a.exec("commit")
	require.NoError(t, wait())
	a.exec("select awa.forget_workers()")
	require.Zero(t, one[int](a, "select count(*) from awa.lost_attempts"))
}

// A dead letter that is retried and purged, or retried twice, at once: whoever commits first has it.
func TestRetryBesidePurge(t *testing.T) {
	for _, shape := range []shape{shapes[0], shapes[3]} {
		for _, end := range []string{"commit", "rollback"} {
			d := newDatabase(t)
			a, b, watcher := d.session(), d.session(), d.session()
			a.enqueue("q")
			a.completes(a.claim("q", 1))
			a.exec("select awa.configure_queue('q', '{\"dead_letter\": true}')")
			for _, j := range a.open("q", shape) {
				a.exec("select awa.discard($1, $2, 'error')", j.JobID, j.Receipt)
			}
			dead := list[int64](a, "select id from awa.jobs where state = 'dead' order by id")
			job := dead[0]
			n := int64(len(dead))

			// The purge skips the one that is being retried; another retry waits, that of a filter does not.
			a.exec("begin")
			require.Equal(t, "dead", one[string](a, "select awa.retry($1)", job))
			b.neverWaits()
			require.Equal(t, n-1, one[int64](b, "select awa.retry_where('q')"))
			require.Zero(t, one[int64](b, "select awa.purge_dlq('q')"))
			wait := b.background("select awa.retry($1)", job)
			watcher.waitUntilBlocked(b)
			a.exec(end)
			if end == "commit" {
				require.Equal(t, "JQ005", sqlState(wait()))
			} else {
				require.NoError(t, wait())
			}
			a.balanced()
			jobs := a.claim("q", 9)
			require.ElementsMatch(t, dead, ids(jobs))
			require.Equal(t, 1, one[int](a, "select attempt from awa.job($1)", job))

			// A retry waits for the purge.
			for _, j := range jobs {
				a.exec("select awa.discard($1, $2, 'error')", j.JobID, j.Receipt)
			}
			a.exec("begin")
			require.Equal(t, n, one[int64](a, "select awa.purge_dlq('q')"))
			require.Zero(t, one[int64](b, "select awa.retry_where('q')"))
			require.Zero(t, one[int64](b, "select awa.purge_dlq('q')"))
			wait = b.background("select awa.retry($1)", job)
			watcher.waitUntilBlocked(b)
			a.exec(end)
			if end == "commit" {
				require.Equal(t, "JQ003", sqlState(wait()))
				require.Empty(t, a.claim("q", 9))
			} else {
				require.NoError(t, wait())
				require.Equal(t, []int64{job}, ids(a.claim("q", 9)))
			}
			a.balanced()
		}
	}
}

// A job that is due, retried and promoted at once: it becomes ready once.
func TestRetryBesideThePromoter(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b, watcher := d.session(), d.session(), d.session()
		promote := func(s *session) int64 { return one[int64](s, "select promoted from awa.promote_due()") }
		deferred := func() int64 {
			job := one[int64](a, "select awa.enqueue('q', 'k', run_at => now() + interval '1 hour')")
			a.exec("update awa.deferred_jobs set run_at = now()")
			return job
		}
		job := deferred()
		a.exec("begin")
		a.exec("select awa.retry($1)", job)
		require.Zero(t, promote(b))
		a.exec(end)
		require.Equal(t, map[string]int64{"commit": 0, "rollback": 1}[end], promote(b))
		require.Equal(t, []int64{job}, ids(b.claim("q", 9)))

		job = deferred()
		a.exec("begin")
		require.Equal(t, int64(1), promote(a))
		wait := b.background("select awa.retry($1)", job)
		watcher.waitUntilBlocked(b)
		a.exec(end)
		if end == "commit" {
			require.Equal(t, "JQ005", sqlState(wait()))
		} else {
			require.NoError(t, wait())
		}
		require.Zero(t, promote(b))
		require.Equal(t, []int64{job}, ids(b.claim("q", 9)))
		b.balanced()
	}
}

// A worker that is silent for an hour, but has a lease that is longer, keeps its attempt.
func TestSilentWorkerWithALongLease(t *testing.T) {
	for _, materialized := range []bool{false, true} {
		d := newDatabase(t)
		s := d.session()
		worker := s.registerWorker()
		job := s.enqueue("q")
		s.exec("select awa.claim('q', 1, $1, '3 hours')", worker)
		if materialized {
			s.materialize()
		}
		for range 7 { // the plain lease is over, the last heartbeat three hours and less ago
			s.halfAnHourLater()
		}
		s.exec("update awa.workers set heartbeat_at = now() - interval '2 hours'")
		require.Zero(t, s.rescue())
		require.Zero(t, s.forgetWorkers())
		require.Zero(t, s.rescue())
		require.Equal(t, "running", s.state(job))
		s.exec("update awa.workers set heartbeat_at = now() - interval '4 hours'")
		require.Equal(t, int64(1), s.rescue())
		require.Equal(t, "retryable", s.state(job))
		require.Equal(t, int64(1), s.forgetWorkers())
		require.Zero(t, one[int](s, "select count(*) from awa.workers"))
	}
}

// Large claims that somebody is answering for, in a transaction that lasts, do not keep rescue and materialize from the
// others.
func TestMaintenanceGoesOnPastWhatIsAnswered(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session().neverWaits()
	s.enqueueMany("big", 6)
	big := append(s.claim("big", 3), s.claim("big", 3)...)
	other := s.open("other", shapes[0])[0]
	third := s.open("third", shapes[0])[0]
	a.exec("begin")
	a.exec("select awa.complete($1, $2)", big[0].JobID, big[0].Receipt)
	a.exec("select awa.complete($1, $2)", big[3].JobID, big[3].Receipt)
	require.Equal(t, int64(1), one[int64](s, "select materialized from awa.materialize('0', 1)"))
	require.NotContains(t, []int64{big[0].JobID, big[3].JobID}, one[int64](s, "select job_id from awa.leases"))
	s.halfAnHourLater()
	require.Equal(t, int64(3), one[int64](s, "select rescued from awa.rescue(3)"))
	require.Equal(t, int64(3), s.rescue())
	require.Equal(t, "retryable", s.state(other.JobID))
	require.Equal(t, "retryable", s.state(third.JobID))
	a.exec("commit")
	require.Zero(t, s.rescue())
	s.balanced()
}

// A worker that is frozen in a transaction which answers for one job keeps that one, and no others of its claim: these
// run again when their lease is over, however long the transaction is open, and get rows of their own before.
func TestOpenAnswerKeepsOneJob(t *testing.T) {
	for _, way := range []string{"rescue", "materialize"} {
		t.Run(way, func(t *testing.T) {
			d := newDatabase(t)
			a, s := d.session(), d.session().neverWaits()
			s.enqueueMany("q", 300)
			jobs := s.claim("q", 300)
			a.exec("begin")
			a.exec("select awa.complete($1, $2)", jobs[100].JobID, jobs[100].Receipt)
			if way == "materialize" {
				require.Equal(t, int64(299), one[int64](s, "select materialized from awa.materialize('0')"))
			}
			s.halfAnHourLater()
			require.Equal(t, int64(299), s.rescue())
			require.Equal(t, "running", s.state(jobs[100].JobID))
			for _, j := range []claimed{jobs[0], jobs[299]} {
				require.Equal(t, "retryable", s.state(j.JobID))
				require.Len(t, s.completeMany([]claimed{j}), 1, "an answer that comes too late")
			}
			a.exec("commit")
			require.Equal(t, "completed", s.state(jobs[100].JobID))
			require.Zero(t, s.rescue())
			s.balanced()
		})
	}
}

// An answer in a transaction that lasts does not stop the counting of what comes after it.
func TestCountingGoesOnPastAnOpenAnswer(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session()
	first := s.open("q", shapes[0])[0]
	a.exec("begin")
	a.exec("select awa.complete($1, $2)", first.JobID, first.Receipt)
	for range 5 {
		s.completes(s.open("q", shapes[2]))
	}
	s.halfAnHourLater()
	s.balanced()
	rest := func() []int64 {
		return list[int64](s, "select unnest(open_seqs) from awa.queue_rollups where closed_seq = 6")
	}
	require.Equal(t, []int64{1}, rest())
	require.Equal(t, int64(1), one[int64](s, "select running from awa.queue_counts('q')"))
	a.exec("commit")
	s.balanced()
	require.Empty(t, rest())
	require.Equal(t, int64(16), one[int64](s, "select completed from awa.queue_counts('q')"))
}

// Two passes that sweep away what nobody will ask for any more: the second one does not wait for the first.
func TestTwoSweepsAtOnce(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session().neverWaits()
	a.exec("insert into awa.lost_attempts (worker_id, receipt, job_id, reason) values (-1, 1, 1, 'gone')")
	a.exec("begin")
	a.exec("select awa.forget_workers()")
	b.exec("select awa.forget_workers()")
	a.exec("commit")
	require.Zero(t, one[int](b, "select count(*) from awa.lost_attempts"))
}
