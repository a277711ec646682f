package sql_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

type unique struct {
	JobID    int64
	Inserted bool
}

// enqueuesUnique enqueues a job that may have to wait for another transaction.
func (s *session) enqueuesUnique(options string) func() unique {
	type result struct {
		row unique
		err error
	}
	done := make(chan result, 1)
	go func() {
		rows, _ := s.db.Query(s.ctx,
			"select job_id, inserted from awa.enqueue_unique('q', 'k', unique_key => 'key'"+options+")")
		row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[unique])
		done <- result{row, err}
	}()
	return func() unique {
		s.Helper()
		r := <-done
		require.NoError(s, r.err)
		return r.row
	}
}

const (
	later    = ", run_at => now() + interval '1 hour'"
	oneTry   = ", max_attempts => 1"
	tillRuns = ", unique_states => '{scheduled,available,retryable}'"
)

// Two producers of one key: the second waits until it knows whether the first one's job is there.
func TestTwoUniqueProducers(t *testing.T) {
	for _, first := range []string{"", later} {
		for _, second := range []string{"", later} {
			for _, end := range []string{"commit", "rollback"} {
				t.Log(first, second, end)
				d := newDatabase(t)
				a, b, watcher := d.session(), d.session(), d.session()
				a.exec("begin")
				job := a.enqueuesUnique(first)()
				require.True(t, job.Inserted)
				require.Equal(t, unique{job.JobID, false}, a.enqueuesUnique(first)(), "in the same transaction")
				other := watcher.neverWaits().enqueueUnique("q", "another key")
				got := b.enqueuesUnique(second)
				watcher.waitUntilBlocked(b)
				a.exec(end)
				if end == "commit" {
					require.Equal(t, unique{job.JobID, false}, got())
				} else {
					row := got()
					require.True(t, row.Inserted)
					require.NotEqual(t, job.JobID, row.JobID)
				}
				b.balanced()
				require.Contains(t, ids(b.claim("q", 9)), other)
				require.Equal(t, 2, one[int](b, "select count(*) from awa.jobs"))
				require.False(t, b.enqueuesUnique("")().Inserted)
				b.balanced()
			}
		}
	}
}

// Many producers of one key: one job, whoever wins.
func TestManyUniqueProducers(t *testing.T) {
	d := newDatabase(t)
	s, watcher := d.session(), d.session()
	s.exec("begin")
	s.enqueuesUnique("")()
	var rows []func() unique
	for range 6 {
		p := d.session()
		rows = append(rows, p.enqueuesUnique(""))
		watcher.waitUntilBlocked(p)
	}
	s.exec("rollback")
	inserted, jobs := 0, map[int64]bool{}
	for _, row := range rows {
		r := row()
		jobs[r.JobID] = true
		if r.Inserted {
			inserted++
		}
	}
	require.Equal(t, 1, inserted)
	require.Len(t, jobs, 1)
	s.balanced()
}

// A producer beside the transaction that ends the job that holds the key waits until it knows.
func TestUniqueProducerBesideAnOpenEnding(t *testing.T) {
	d := newDatabase(t)
	a, b, watcher := d.session(), d.session(), d.session()
	for _, ending := range []string{
		"select awa.complete($1, $2)",
		"select awa.complete($1, $2, '{}')",
		"select awa.complete_many(array[$1::bigint], array[$2::bigint])",
		"select awa.fail($1, $2, 'error')",
		"select awa.discard($1, $2, 'error')",
		"select awa.cancel_attempt($1, $2)",
		"select awa.cancel($1) where $2::bigint > 0",
		"select awa.discard_job($1) where $2::bigint > 0",
	} {
		for _, materialized := range []bool{false, true} {
			for _, end := range []string{"commit", "rollback"} {
				t.Log(ending, materialized, end)
				job := a.enqueuesUnique(oneTry)()
				require.True(t, job.Inserted)
				j := a.claim("q", 1)[0]
				if materialized {
					a.materialize()
				}
				a.exec("begin")
				a.exec(ending, j.JobID, j.Receipt)
				got := b.enqueuesUnique("")
				watcher.waitUntilBlocked(b)
				a.exec(end)
				if row := got(); end == "commit" {
					require.True(t, row.Inserted)
					require.Equal(t, []int64{row.JobID}, ids(b.claim("q", 9)))
				} else {
					require.Equal(t, unique{job.JobID, false}, row)
				}
				b.balanced()
				b.exec("select awa.cancel_where('q')")
			}
		}
	}
}

// A transaction that cancels a job and enqueues another one under its key replaces it, whether the job is claimed
// meanwhile or not.
func TestReplaceAUniqueJob(t *testing.T) {
	for _, meanwhile := range []string{"", "claimed", "materialized", "completed"} {
		for _, states := range []string{"", tillRuns} {
			for _, end := range []string{"commit", "rollback"} {
				t.Log(meanwhile, states, end)
				d := newDatabase(t)
				a, b := d.session(), d.session().neverWaits()
				old := a.enqueuesUnique(states)().JobID
				a.exec("begin")
				a.exec("select awa.cancel($1)", old)
				row := a.enqueuesUnique(states)()
				require.True(t, row.Inserted)
				var jobs []claimed
				if meanwhile != "" {
					jobs = b.claim("q", 1)
					require.Equal(t, []int64{old}, ids(jobs))
				}
				switch meanwhile {
				case "materialized":
					require.Equal(t, int64(1), b.materialize())
				case "completed":
					b.completes(jobs)
				}
				err := a.try(end)
				if end == "commit" && meanwhile == "completed" {
					require.Equal(t, "40001", sqlState(err))
					require.Equal(t, "completed", b.state(old))
					require.Zero(t, one[int](b, "select count(*) from awa.unique_claims where job_id is not null"))
					continue
				}
				require.NoError(t, err)
				if end == "commit" {
					require.Equal(t, "cancelled", b.state(old))
					require.Equal(t, row.JobID, one[int64](b, "select job_id from awa.unique_claims where job_id is not null"))
					require.Equal(t, []int64{row.JobID}, ids(b.claim("q", 9)))
				} else if meanwhile == "" {
					require.Equal(t, []int64{old}, ids(b.claim("q", 9)))
				} else {
					require.Empty(t, b.claim("q", 9))
				}
				for _, j := range jobs {
					require.Equal(t, end == "rollback" && meanwhile != "completed", b.answers("select awa.complete($1, $2)", j)())
				}
				if states == "" {
					b.balanced()
				}
			}
		}
	}
}

// The key stays with the job from when it is scheduled until it ends, through promotion and retries.
func TestUniqueKeyOfADeferredJob(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session().neverWaits()
	job := a.enqueuesUnique(later)().JobID
	duplicate := func() {
		t.Helper()
		require.Equal(t, unique{job, false}, b.enqueuesUnique("")())
		require.Equal(t, unique{job, false}, b.enqueuesUnique(later)())
		b.balanced()
	}
	duplicate()
	a.exec("update awa.deferred_jobs set run_at = now()")
	a.exec("begin")
	require.Equal(t, int64(1), one[int64](a, "select promoted from awa.promote_due()"))
	duplicate()
	a.exec("rollback")
	duplicate()
	require.Equal(t, int64(1), one[int64](a, "select promoted from awa.promote_due()"))
	duplicate()
	j := a.claim("q", 1)[0]
	duplicate()
	a.exec("select awa.snooze($1, $2, '0')", j.JobID, j.Receipt)
	duplicate()
	a.exec("select awa.retry($1)", job)
	duplicate()
	j = a.claim("q", 1)[0]
	a.exec("begin")
	a.exec("select awa.fail($1, $2, 'error', '0')", j.JobID, j.Receipt)
	duplicate()
	a.exec("commit")
	duplicate()
	require.Equal(t, int64(1), one[int64](a, "select promoted from awa.promote_due()"))
	j = a.claim("q", 1)[0]
	a.materialize()
	duplicate()
	a.exec("select awa.discard($1, $2, 'error')", j.JobID, j.Receipt)
	b.balanced()
	require.True(t, b.enqueuesUnique("")().Inserted)
	b.balanced()
}

// A job that ended can't come back while a newer one has its key: it stays where it is. Where the newer one's
// transaction rolls back, it can.
func TestRetryOfAJobWhoseKeyIsTaken(t *testing.T) {
	for _, state := range []string{"failed", "dead", "cancelled"} {
		for _, end := range []string{"commit", "rollback"} {
			t.Log(state, end)
			d := newDatabase(t)
			a, b, watcher := d.session(), d.session(), d.session()
			job := a.enqueuesUnique(oneTry)().JobID
			if state == "cancelled" {
				a.exec("select awa.cancel($1)", job)
			} else {
				if state == "dead" {
					a.exec("select awa.configure_queue('q', '{\"dead_letter\": true}')")
				}
				j := a.claim("q", 1)[0]
				a.exec("select awa.fail($1, $2, 'error')", j.JobID, j.Receipt)
			}
			a.exec("begin")
			newer := a.enqueuesUnique("")().JobID
			wait := b.background("select awa.retry($1)", job)
			watcher.waitUntilBlocked(b)
			a.exec(end)
			if end == "rollback" {
				require.NoError(t, wait())
				require.Equal(t, []int64{job}, ids(b.claim("q", 9)))
				b.balanced()
				continue
			}
			require.Equal(t, "23505", sqlState(wait()))
			require.Equal(t, state, b.state(job))
			require.Zero(t, one[int64](b, "select awa.retry_where('q', state => $1)", state))
			b.balanced()
			require.Equal(t, []int64{newer}, ids(b.claim("q", 9)))

			// The newer one is about to end.
			j := claimed{newer, one[int64](a, "select receipt from awa.job($1)", newer)}
			a.exec("begin")
			a.exec("select awa.complete($1, $2)", j.JobID, j.Receipt)
			wait = b.background("select awa.retry($1)", job)
			watcher.waitUntilBlocked(b)
			a.exec("commit")
			require.NoError(t, wait())
			require.Equal(t, []int64{job}, ids(b.claim("q", 9)))
			b.balanced()
		}
	}
}

// A producer beside a retry that takes the key.
func TestUniqueProducerBesideAnOpenRetry(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b, watcher := d.session(), d.session(), d.session()
		job := a.enqueuesUnique("")().JobID
		a.exec("select awa.cancel($1)", job)
		a.exec("begin")
		a.exec("select awa.retry($1)", job)
		got := b.enqueuesUnique("")
		watcher.waitUntilBlocked(b)
		a.exec(end)
		if row := got(); end == "commit" {
			require.Equal(t, unique{job, false}, row)
		} else {
			require.True(t, row.Inserted)
		}
		b.balanced()
	}
}

// A job that let go of its key when it began to run takes it again when it has to wait. A producer that is about to
// take it, in a transaction that stays open, keeps it, and holds up nobody: neither the worker's answer, nor rescue,
// nor the promoter, nor a claim.
func TestKeysAreTakenAgainWithoutWaiting(t *testing.T) {
	for name, back := range map[string]func(s *session, j claimed){
		"fail":    func(s *session, j claimed) { s.exec("select awa.fail($1, $2, 'error', '0')", j.JobID, j.Receipt) },
		"snooze":  func(s *session, j claimed) { s.exec("select awa.snooze($1, $2, '0')", j.JobID, j.Receipt) },
		"release": func(s *session, j claimed) { s.exec("select awa.release($1, $2)", j.JobID, j.Receipt) },
		"rescue":  func(s *session, j claimed) { s.halfAnHourLater(); require.Equal(s, int64(1), s.rescue()) },
		"rescue of a lease row": func(s *session, j claimed) {
			s.materialize()
			s.halfAnHourLater()
			require.Equal(s, int64(1), s.rescue())
		},
	} {
		for _, end := range []string{"commit", "rollback"} {
			t.Run(name+" "+end, func(t *testing.T) {
				d := newDatabase(t)
				a, b := d.session(), d.session().neverWaits()
				job := a.enqueuesUnique(tillRuns)().JobID
				j := b.claim("q", 1)[0]
				require.Zero(t, one[int](b, "select count(*) from awa.unique_claims where job_id is not null"))
				a.exec("begin")
				newer := a.enqueuesUnique(tillRuns)()
				require.True(t, newer.Inserted)
				back(b, j)
				if name != "release" {
					if name == "rescue" || name == "rescue of a lease row" {
						b.exec("update awa.deferred_jobs set run_at = now()")
					}
					require.Equal(t, int64(1), one[int64](b, "select promoted from awa.promote_due()"))
				}
				require.Equal(t, []int64{job}, ids(b.claim("q", 9)))
				a.exec(end)
				if end == "commit" {
					require.Equal(t, newer.JobID, one[int64](b, "select job_id from awa.unique_claims where job_id is not null"))
				} else {
					require.Zero(t, one[int](b, "select count(*) from awa.unique_claims where job_id is not null"))
				}
			})
		}
	}
}

// The key of a job that this transaction has cancelled passes on, but not from one that goes on, or that keeps it, nor
// to one that does not hold it.
func TestKeyPassesOnOnlyFromWhoLetsGo(t *testing.T) {
	const again = "select job_id, inserted from awa.enqueue_unique('q', 'k', unique_key => 'x')"
	enqueue := func(s *session, sql string) (job int64, inserted bool) {
		s.Helper()
		require.NoError(s, s.db.QueryRow(s.ctx, sql).Scan(&job, &inserted))
		return job, inserted
	}
	d := newDatabase(t)
	s := d.session()
	first, _ := enqueue(s, again)
	s.exec("begin")
	s.exec("select awa.cancel($1)", first)
	s.exec("select awa.retry($1)", first)
	job, inserted := enqueue(s, again)
	s.exec("commit")
	require.Equal(t, first, job)
	require.False(t, inserted)
	s.balanced()

	s.exec("begin")
	s.exec("select awa.cancel($1)", first)
	heir, inserted := enqueue(s, again)
	require.True(t, inserted)
	require.Equal(t, "23505", sqlState(s.try("select awa.retry($1)", first)), "the heir has it now")
	s.exec("rollback")
	s.balanced()
	require.NotEqual(t, first, heir)

	s.exec("begin")
	s.exec("select awa.cancel($1)", first)
	_, inserted = enqueue(s,
		"select job_id, inserted from awa.enqueue_unique('q', 'k', unique_key => 'x', unique_states => '{available}', "+
			"run_at => now() + interval '1 hour')")
	s.exec("commit")
	require.True(t, inserted)
	require.Zero(t, one[int](s, "select count(*) from awa.unique_claims where job_id is not null"),
		"it does not hold it while it is scheduled")

	keeps, _ := enqueue(s,
		"select job_id, inserted from awa.enqueue_unique('q', 'k', unique_key => 'y', unique_states => "+
			"'{available,cancelled}')")
	s.exec("begin")
	s.exec("select awa.cancel($1)", keeps)
	job, inserted = enqueue(s, "select job_id, inserted from awa.enqueue_unique('q', 'k', unique_key => 'y')")
	s.exec("commit")
	require.Equal(t, keeps, job)
	require.False(t, inserted)
}

// A cancel of the holder that another session commits is no cancel of the producer's own: the producer takes the
// key, and the next one finds it taken. The producer is held up between its looks at the key and at the jobs that have
// ended, if there are two.
func TestCancelThatCommitsBesideAUniqueProducer(t *testing.T) {
	d := newDatabase(t)
	a, b, canceller, locker, watcher := d.session(), d.session(), d.session(), d.session(), d.session()
	old := a.enqueuesUnique("")().JobID
	b.enqueuesUnique("")() // so that what it calls is planned already
	canceller.exec("begin")
	canceller.exec("select awa.cancel($1)", old)
	locker.exec("begin")
	locked := locker.background("lock table awa.done_entries in access exclusive mode")
	watcher.waitUntilBlocked(locker)
	b.exec("begin")
	got := b.enqueuesUnique("")
	watcher.waitUntilBlocked(b)
	canceller.exec("commit")
	require.NoError(t, locked())
	locker.exec("rollback")
	row := got()
	require.True(t, row.Inserted)
	next := a.enqueuesUnique("")
	watcher.waitUntilBlocked(a)
	b.exec("commit")
	require.Equal(t, unique{row.JobID, false}, next())
	b.balanced()
}

// A job is replaced with as few statements when it has been replaced many times before in the same transaction.
func TestReplaceAUniqueJobManyTimes(t *testing.T) {
	s := newDatabase(t).session()
	// how often a call looks for those who come next in the line
	s.exec("create sequence looks minvalue 0 start 0; grant usage on sequence looks to public")
	s.exec(changing("_holder", "line := line || v_heirs;", "line := line || v_heirs; perform nextval('public.looks');"))
	s.enqueuesUnique("")()
	cancels := "select awa.cancel_by_unique_key(unique_key => 'key')"
	replaces := func() int {
		before := one[int](s, "select last_value from looks")
		require.Len(t, list[int64](s, cancels), 1)
		require.True(t, s.enqueuesUnique("")().Inserted)
		return one[int](s, "select last_value from looks") - before
	}
	s.exec("begin")
	var before int
	for range 3 {
		before = replaces()
	}
	// The line is made longer by others that were cancelled, which is faster than by calls.
	s.enqueueMany("q", 400)
	last := list[int64](s, cancels)
	line := append(last, list[int64](s, "select id from awa.jobs where state = 'available' order by id")...)
	require.Len(t, line, 401)
	require.Equal(t, 400, one[int](s, "select awa.cancel_where(queue => 'q', max_jobs => 400)"))
	s.exec(`insert into awa.heirs (job_id, heir_id)
		select l.id, ($1::bigint[])[l.n + 1] from unnest($1::bigint[]) with ordinality l(id, n) where l.n < 401`, line)
	require.True(t, s.enqueuesUnique("")().Inserted)
	require.LessOrEqual(t, replaces(), before)
	require.Positive(t, before)
	s.exec("rollback")
}

// A transaction may replace a job as often as it likes: the last one lives, alone, and holds the key.
func TestReplaceAUniqueJobAgain(t *testing.T) {
	byKey := func(s *session, job int64) {
		require.Equal(s, job, one[int64](s, "select awa.cancel_by_unique_key(unique_key => 'key')"))
	}
	for name, cancel := range map[string]func(s *session, job int64){
		"cancel_by_unique_key": byKey,
		"cancel":               func(s *session, job int64) { s.exec("select awa.cancel($1)", job) },
		"cancel in a savepoint": func(s *session, job int64) {
			s.exec("savepoint s")
			s.exec("select awa.cancel($1)", job)
			require.True(s, s.enqueuesUnique("")().Inserted)
			s.exec("rollback to s")
			s.exec("savepoint s")
			s.exec("select awa.cancel($1)", job)
			s.exec("release s")
		},
	} {
		for _, options := range []string{"", later, tillRuns} {
			t.Run(name+options, func(t *testing.T) {
				d := newDatabase(t)
				a, b := d.session(), d.session().neverWaits()
				job := a.enqueuesUnique("")().JobID
				a.exec("begin")
				for range 4 {
					cancel(a, job)
					row := a.enqueuesUnique(options)()
					require.True(t, row.Inserted)
					require.NotEqual(t, job, row.JobID)
					job = row.JobID
					require.Equal(t, unique{job, false}, a.enqueuesUnique(options)())
				}
				a.exec("commit")
				require.Equal(t, []int64{job}, list[int64](b, "select id from awa.jobs where state in ('available', 'scheduled')"))
				require.Equal(t, job, one[int64](b, "select job_id from awa.unique_claims where job_id is not null"))
				require.Equal(t, unique{job, false}, b.enqueuesUnique("")())

				// And for nobody, in the end.
				a.exec("begin")
				for range 2 {
					cancel(a, job)
					job = a.enqueuesUnique(options)().JobID
				}
				byKey(a, job)
				require.Empty(t, list[int64](a, "select awa.cancel_by_unique_key(unique_key => 'key')"))
				a.exec("commit")
				require.Zero(t, one[int](b, "select count(*) from awa.unique_claims where job_id is not null"))
				require.Zero(t, one[int](b, "select count(*) from awa.jobs where state in ('available', 'scheduled')"))
			})
		}
	}
}

// Jobs of one key in one transaction, that come and go: the first comes back where its heir has gone, and not while
// that one is there.
func TestHeirThatLeaves(t *testing.T) {
	for name, leave := range map[string]string{
		"cancelled":          "select awa.cancel($1)",
		"dropped":            "select awa.drop_queue((select queue from awa.job($1)), true)",
		"scheduled, dropped": "select awa.drop_queue((select queue from awa.job($1)), true)",
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			s := d.session()
			first := s.enqueuesUnique("")().JobID
			s.exec("begin")
			s.exec("select awa.cancel($1)", first)
			var heir int64
			s.exec("savepoint s")
			require.NoError(t,
				s.db.QueryRow(s.ctx,
					"select job_id from awa.enqueue_unique('heirs', 'k', unique_key => 'key', run_at => case when $1 then now() + "+
						"interval '1 hour' end)",
					name == "scheduled, dropped").Scan(&heir))
			s.exec("savepoint taken")
			require.Equal(t, "23505", sqlState(s.try("select awa.retry($1)", first)))
			s.exec("rollback to taken")
			s.exec(leave, heir)
			s.exec("savepoint again")
			s.exec("select awa.retry($1)", first)
			require.Equal(t, unique{first, false}, s.enqueuesUnique("")())
			s.exec("rollback to again")
			last := s.enqueuesUnique("")()
			require.True(t, last.Inserted)
			s.exec("commit")
			require.Equal(t, last.JobID, one[int64](s, "select job_id from awa.unique_claims where job_id is not null"))
			s.balanced()

			// The first one goes on, and goes again.
			s.exec("begin")
			s.exec("select awa.cancel($1)", last.JobID)
			require.NoError(t,
				s.db.QueryRow(s.ctx,
					"select job_id from awa.enqueue_unique('heirs', 'k', unique_key => 'key', run_at => case when $1 then now() + "+
						"interval '1 hour' end)",
					name == "scheduled, dropped").Scan(&heir))
			s.exec(leave, heir)
			s.exec("select awa.retry($1)", last.JobID)
			s.exec("select awa.cancel($1)", last.JobID)
			end := s.enqueuesUnique("")()
			require.True(t, end.Inserted)
			s.exec("commit")
			require.Equal(t, end.JobID, one[int64](s, "select job_id from awa.unique_claims where job_id is not null"))
			require.Equal(t, []int64{end.JobID},
				list[int64](s, "select id from awa.jobs where state in ('available', 'scheduled')"))
		})
	}
}

// The job before the heir was claimed meanwhile, which freed its key, and another session has taken that: two jobs with
// one key would be there.
func TestKeyThatIsTakenBeforeItPassesOn(t *testing.T) {
	for _, end := range []string{"commit", "rollback", ""} {
		t.Run(end, func(t *testing.T) {
			d := newDatabase(t)
			a, b, c := d.session(), d.session().neverWaits(), d.session()
			old := a.enqueuesUnique(tillRuns)().JobID
			a.exec("begin")
			a.exec("select awa.cancel($1)", old)
			require.True(t, a.enqueuesUnique(tillRuns)().Inserted)
			require.Equal(t, []int64{old}, ids(b.claim("q", 1)))
			c.exec("begin")
			other := c.enqueuesUnique(tillRuns)()
			require.True(t, other.Inserted)
			if end != "" {
				c.exec(end)
			}
			err := a.try("commit")
			if end == "" {
				c.exec("commit")
			}
			if end == "rollback" {
				require.NoError(t, err)
				require.Equal(t, "cancelled", b.state(old))
				return
			}
			require.Equal(t, "40001", sqlState(err))
			require.Equal(t, "running", b.state(old))
			require.Equal(t, other.JobID, one[int64](b, "select job_id from awa.unique_claims where job_id is not null"))
			require.Equal(t, []int64{other.JobID}, list[int64](b, "select id from awa.jobs where state = 'available'"))
		})
	}
}

// A job whose time comes while it is being enqueued is either scheduled or available, and holds its key accordingly.
func TestRunAtThatPassesMeanwhile(t *testing.T) {
	for name, enqueue := range map[string]string{
		"enqueue_unique": `awa.enqueue_unique('q', 'k', unique_key => n::text, unique_states => '{available,running}',
			run_at => clock_timestamp() + n % 40 * interval '10 microseconds')`,
		"enqueue_batch": `awa.enqueue_batch(jsonb_build_array(jsonb_build_object('queue', 'q', 'kind', 'k',
			'run_at', clock_timestamp() + n % 40 * interval '20 microseconds',
			'unique', jsonb_build_object('key', n::text, 'states', '{available,running}'::text[]))))`,
	} {
		t.Run(name, func(t *testing.T) {
			s := newDatabase(t).session()
			s.exec("select " + enqueue + " from generate_series(1, 3000) n")
			require.Zero(t, one[int](s, "select count(*) from awa.jobs j where state = 'available' "+
				"and not exists (select from awa.unique_claims u where u.job_id = j.id)"))
			require.Zero(t, one[int](s,
				"select count(*) from awa.jobs j join awa.unique_claims u on u.job_id = j.id where state = 'scheduled'"))
			require.NotZero(t, one[int](s, "select count(*) from awa.jobs where state = 'available'"))
			require.NotZero(t, one[int](s, "select count(*) from awa.jobs where state = 'scheduled'"))
		})
	}
}

// A session that takes many keys takes them in their order, whatever that of the jobs is: otherwise a retry of many,
// and a producer of the same keys, would wait for each other.
func TestRetryOfManyBesideAProducerOfTheirKeys(t *testing.T) {
	d := newDatabase(t)
	s, producer, watcher := d.session(), d.session(), d.session()
	jobs := map[string]int64{"a": s.enqueueUnique("q", "a"), "b": s.enqueueUnique("q", "b")}
	// the last one first
	keys := list[string](s, "select case id when $1 then 'a' else 'b' end from awa.jobs order by unique_key desc",
		jobs["a"])
	s.exec("select awa.cancel_where('q')")
	// Jobs in the opposite order of their keys.
	require.Len(t, keys, 2)
	for _, key := range keys {
		s.exec("select awa.cancel(awa.enqueue('q', 'k'))")
		s.exec("select awa.cancel(job_id) from awa.enqueue_unique('many', 'k', unique_key => $1)", key)
	}
	first, last := keys[1], keys[0]
	producer.exec("begin")
	producer.enqueueUnique("other", first)
	retries := s.background("select awa.retry_where('many')")
	watcher.waitUntilBlocked(s)
	producer.neverWaits().enqueueUnique("other", last)
	producer.exec("commit")
	require.NoError(t, retries())
	require.Zero(t, one[int](watcher, "select count(*) from awa.jobs where queue = 'many' and state = 'available'"))
	watcher.balanced()
}

// A key of a period that a producer is just taking is not its old queue's any more, when that is dropped: its first row
// keeps others out.
func TestDropQueueBesideAProducerOfItsKey(t *testing.T) {
	d := newDatabase(t)
	s, old, producer := d.session(), d.session(), d.session()
	const key = ", 'k', unique_key => 'key', unique_period => '1 day')"
	old.exec("begin isolation level repeatable read")
	one[int](old, "select count(*) from awa.jobs")
	for one[int](s, "select count(*) from awa.unique_claims") < 2 { // one time in sixteen
		s.exec("select * from awa.enqueue_unique('q'" + key)
		s.exec("select awa.cancel_by_unique_key(unique_key => 'key', unique_period => '1 day')")
	}
	s.exec("select * from awa.enqueue_unique('q'" + key)
	s.completes(s.claim("q", 1))
	// the period is over
	s.exec("update awa.unique_claims set held_until = now() - interval '1 second' where held_until is not null")
	producer.exec("begin")
	job := one[int64](producer, "select job_id from awa.enqueue_unique('taker'"+key)
	s.neverWaits().exec("select awa.drop_queue('q', true)")
	producer.exec("commit")
	require.Equal(t, job, one[int64](s, "select job_id from awa.enqueue_unique('taker'"+key))
	require.Equal(t, "40001", sqlState(old.try("select * from awa.enqueue_unique('taker'"+key)))
	require.Equal(t, []int64{job}, list[int64](s, "select id from awa.jobs where queue = 'taker'"))
}

// A call that asks within a period is a duplicate of the job of that period, also where it had to wait for a
// transaction that completes the job, and commits in the next one.
func TestPeriodThatEndsDuringAWait(t *testing.T) {
	for name, enqueue := range map[string]string{
		"enqueue_unique": "awa.enqueue_unique('q', 'k', unique_key => 'key', unique_period => '4 seconds')",
		"enqueue_batch": `awa.enqueue_batch('[{"queue": "q", "kind": "k", "unique": {"key": "key", "period": "4 ` +
			`seconds"}}]')`,
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			s, worker, producer := d.session(), d.session(), d.session()
			for {
				first := one[int64](s, "select job_id from "+enqueue)
				worker.exec("begin")
				worker.completes(worker.claim("q", 1))
				producer.exec("create temp table got as select * from " + enqueue + " with no data")
				got := producer.background("insert into got select * from " + enqueue)
				s.waitUntilBlocked(producer)
				ends := one[time.Time](s, "select awa._held_until(unique_key) from awa.ready_entries where job_id = $1", first)
				// a busy machine may have been too slow: then once more
				asked := one[bool](s, "select clock_timestamp() < $1", ends)
				s.exec("select pg_sleep_until($1)", ends)
				worker.exec("commit")
				require.NoError(t, got())
				if asked {
					require.Equal(t, []int64{first}, list[int64](producer, "select job_id from got where not inserted"))
					require.NotEqual(t, first, one[int64](s, "select job_id from "+enqueue+" where inserted"),
						"the next period has a job of its own")
					s.balanced()
					return
				}
				producer.exec("drop table got")
				s.exec("select awa.cancel_where('q')")
			}
		})
	}
}

// expire_history leaves what its own transaction has cancelled, however short the retention is: the job that waits for
// the key would be told nothing of its end, and a second one could take the key.
func TestHistoryIsNotExpiredByItsOwnTransaction(t *testing.T) {
	s := newDatabase(t).session()
	s.exec(`select awa.configure_queue('q', '{"failed_retention": "1 millisecond"}')`)
	first := s.enqueueUnique("q", "a")
	s.exec("begin")
	s.exec("select awa.cancel($1)", first)
	heir := s.enqueueUnique("q", "a")
	require.NotEqual(t, first, heir)
	s.exec("select pg_sleep(0.002)") // the retention is over
	s.exec("select awa.expire_history()")
	require.Equal(t, heir, s.enqueueUnique("q", "a"))
	s.exec("commit")
	require.Equal(t, heir, s.enqueueUnique("q", "a"))
	require.EqualValues(t, 1, one[int64](s, "select expired from awa.expire_history()"))
	require.Equal(t, []int64{heir}, ids(s.claim("q", 9)))
}
