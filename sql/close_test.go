package sql_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// Effects happen once: a completion inside a business transaction that rolls back never was.
func TestCompleteInsideATransactionThatRollsBack(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.enqueueMany("q", 2)
	for _, j := range s.claim("q", 2) {
		s.exec("begin")
		s.exec("select awa.complete($1, $2, '1')", j.JobID, j.Receipt)
		require.Equal(t, "completed", s.state(j.JobID))
		s.exec("rollback")
		require.Equal(t, "running", s.state(j.JobID))
		s.exec("select awa.complete($1, $2)", j.JobID, j.Receipt)
		require.Equal(t, "completed", s.state(j.JobID))
		require.Equal(t, "JQ001", sqlState(s.try("select awa.complete($1, $2)", j.JobID, j.Receipt)))
	}
}

// Of two answers for one attempt the first one counts; the second waits until it knows.
func TestTwoAnswersForOneAttempt(t *testing.T) {
	d := newDatabase(t)
	a, b, watcher := d.session(), d.session(), d.session()
	for _, size := range []int{1, 2} { // a claim of one job takes no lock
		for _, commits := range []bool{true, false} {
			for _, second := range []string{
				"select awa.complete($1, $2)", "select awa.fail($1, $2, 'error')", "select awa.release($1, $2)",
			} {
				t.Log(size, commits, second)
				q := fmt.Sprint(size, commits, second)
				a.enqueueMany(q, size)
				j := a.claim(q, size)[0]
				a.exec("begin")
				a.exec("select awa.complete($1, $2)", j.JobID, j.Receipt)
				wait := b.background(second, j.JobID, j.Receipt)
				watcher.waitUntilBlocked(b)
				if commits {
					a.exec("commit")
					require.Equal(t, "JQ001", sqlState(wait()))
					require.Equal(t, "completed", a.state(j.JobID))
				} else {
					a.exec("rollback")
					require.NoError(t, wait())
					require.NotEqual(t, "running", a.state(j.JobID))
				}
			}
		}
	}
}

// A single form in a long transaction holds its own item, and no other of the claim.
func TestManyBesideAnOpenSingle(t *testing.T) {
	for _, commits := range []bool{true, false} {
		d := newDatabase(t)
		single, many, watcher := d.session(), d.session(), d.session()
		single.enqueueMany("q", 5)
		jobs := single.claim("q", 5)
		single.exec("begin")
		single.exec("select awa.complete($1, $2)", jobs[0].JobID, jobs[0].Receipt)

		require.Empty(t, many.completeMany(jobs[1:3]), "other items do not wait")
		wait := many.background("create temp table stale as select awa.complete_many($1, $2) as job_id", ids(jobs),
			receipts(jobs))
		watcher.waitUntilBlocked(many)
		if commits {
			single.exec("commit")
			require.NoError(t, wait())
			require.ElementsMatch(t, ids(jobs[:3]), list[int64](many, "select job_id from stale"))
		} else {
			single.exec("rollback")
			require.NoError(t, wait())
			require.ElementsMatch(t, ids(jobs[1:3]), list[int64](many, "select job_id from stale"))
		}
		require.Equal(t, int64(5), one[int64](many, "select completed from awa.queue_counts('q')"))
		require.Zero(t, one[int64](many, "select running from awa.queue_counts('q')"))
	}
}

// Claims are locked in ascending order, whatever the order of the answers: who waits for one holds none after it.
func TestManyOutOfOrderBesideAnOpenMany(t *testing.T) {
	d := newDatabase(t)
	open, many, watcher := d.session(), d.session(), d.session()
	open.enqueueMany("q", 8)
	before, after := open.claim("q", 4), open.claim("q", 4)
	open.exec("begin")
	require.Empty(t, open.completeMany(before[:2]))
	jobs := slices.Concat(after[2:], before[2:])
	wait := many.background("create temp table stale as select awa.complete_many($1, $2) as job_id", ids(jobs),
		receipts(jobs))
	watcher.waitUntilBlocked(many)
	require.Empty(t, open.completeMany(after[:2]), "no session waits for both of them")
	open.exec("commit")
	require.NoError(t, wait())
	require.Zero(t, one[int64](many, "select count(*) from stale"))
	require.Equal(t, int64(8), one[int64](many, "select completed from awa.queue_counts('q')"))
}

// An open cancel, or answer, of one job does not hold up the answers for others: who answers for it too waits for
// claim_wait at most, and the rest pass without it.
func TestAnswersBesideAnOpenCancel(t *testing.T) {
	many := map[string]string{
		"complete_many": "select awa.complete_many($1, $2)",
		"outputs":       `select awa.complete_many($1, $2, (select array_agg('1'::jsonb) from unnest($1::bigint[])))`,
		"fail_many":     "select awa.fail_many($1, $2, array_fill('e'::text, array[cardinality($1::bigint[])]))",
	}
	d := newDatabase(t)
	for _, size := range []int{1, 3} { // a claim of one job takes no lock
		for _, lasts := range []bool{false, true} { // with rows in leases
			for name, answer := range many {
				t.Run(fmt.Sprintf("%s of %d, lasting: %t", name, size, lasts), func(t *testing.T) {
					d := database{t, d.url}
					operator, worker := d.session(), d.session()
					worker.setClaimWait("100 milliseconds")
					worker.enqueueMany(t.Name(), 3)
					var jobs []claimed
					for len(jobs) < 3 {
						jobs = append(jobs, worker.claim(t.Name(), size)...)
					}
					if lasts {
						for _, j := range jobs {
							worker.exec("select awa.extend($1, $2, '1 hour')", j.JobID, j.Receipt)
						}
					}
					held := jobs[0]
					operator.exec("begin")
					operator.exec("select awa.cancel($1)", held.JobID)
					worker.exec("set lock_timeout = '1h'")

					require.Equal(t, "55P03", sqlState(worker.try(answer, ids(jobs), receipts(jobs))))
					for _, single := range []string{
						"select awa.complete($1, $2)", "select awa.fail($1, $2, 'e')", "select awa.release($1, $2)",
						"select awa.extend($1, $2, '1 hour')",
						"select awa.complete_many(array[$1::bigint], array[$2::bigint])",
					} {
						require.Equal(t, "55P03", sqlState(worker.try(single, held.JobID, held.Receipt)), single)
					}
					worker.exec("begin")
					require.Empty(t, list[int64](worker, answer, ids(jobs[1:]), receipts(jobs[1:])))
					require.Equal(t, "1h", one[string](worker, "show lock_timeout"), "it is the caller's again")
					worker.exec("commit")
					operator.exec("rollback")
					require.Equal(t, ids(jobs[1:]), list[int64](worker, answer, ids(jobs), receipts(jobs)))
					require.Zero(t, one[int64](worker, "select running from awa.queue_counts($1)", t.Name()))
				})
			}
		}
	}
}

// The other way round: a single form waits while a _many form of the same claim is not committed.
func TestSingleBesideAnOpenMany(t *testing.T) {
	d := newDatabase(t)
	single, many, watcher := d.session(), d.session(), d.session()
	single.enqueueMany("q", 4)
	jobs := single.claim("q", 4)
	many.exec("begin")
	require.Empty(t, many.completeMany(jobs[:2]))
	wait := single.background("select awa.complete($1, $2)", jobs[0].JobID, jobs[0].Receipt)
	watcher.waitUntilBlocked(single)
	many.exec("commit")
	require.Equal(t, "JQ001", sqlState(wait()))
	single.exec("select awa.complete($1, $2)", jobs[2].JobID, jobs[2].Receipt)
	require.Equal(t, ids(jobs[:3]), many.completeMany(jobs))
}

// At the higher isolation levels the single forms must not trust their eyes: the snapshot may be older than the other
// close.
func TestCompleteWithAnOldSnapshot(t *testing.T) {
	for _, level := range []string{"repeatable read", "serializable"} {
		for _, size := range []int{1, 3} {
			for name, first := range map[string]string{
				"single": "select awa.complete($1, $2)",
				"batch":  "select awa.complete_many(array[$1::bigint], array[$2::bigint])",
				"fails":  "select awa.fail_many(array[$1::bigint], array[$2::bigint], '{error}')",
			} {
				t.Run(level+" "+name, func(t *testing.T) {
					d := newDatabase(t)
					old, other := d.session(), d.session()
					old.enqueueMany("q", size)
					jobs := old.claim("q", size)
					old.exec("begin isolation level " + level)
					old.exec("select 1 from awa.ring") // takes the snapshot
					other.exec(first, jobs[0].JobID, jobs[0].Receipt)
					err := old.try("select awa.complete($1, $2)", jobs[0].JobID, jobs[0].Receipt)
					require.Contains(t, []string{"40001", "JQ001"}, sqlState(err))
					old.exec("rollback")

					// A close that the snapshot can see, or of another item, is as ever.
					for _, j := range jobs[1:] {
						old.exec("begin isolation level " + level)
						old.exec("select awa.complete($1, $2)", j.JobID, j.Receipt)
						old.exec("commit")
					}
					old.exec("begin isolation level " + level)
					require.Equal(t, "JQ001", sqlState(old.try("select awa.complete($1, $2)", jobs[0].JobID, jobs[0].Receipt)))
					old.exec("rollback")
					require.Zero(t, one[int64](other, "select running from awa.queue_counts('q')"))
					require.Equal(t, jobs[0].JobID, other.completeMany(jobs)[0])
				})
			}
		}
	}
}

// What is given back runs next, even ahead of priority 1, and what was closed meanwhile does not come again.
func TestDeregisterBesideAnOpenSingle(t *testing.T) {
	d := newDatabase(t)
	s, single, watcher := d.session(), d.session(), d.session()
	worker := one[int64](s, "select awa.register_worker('w')")
	jobs := s.enqueueMany("q", 3)
	rows := list[int64](s, "select receipt from awa.claim('q', 3, $1)", worker)
	backlog := one[int64](s, "select awa.enqueue('q', 'k', priority => 1)")

	single.exec("begin")
	single.exec("select awa.complete($1, $2)", jobs[1], rows[1])
	wait := s.background("select awa.deregister_worker($1)", worker)
	watcher.waitUntilBlocked(s)
	single.exec("commit")
	require.NoError(t, wait())
	require.Equal(t, []int64{jobs[0], jobs[2], backlog}, ids(s.claim("q", 10)))
	require.Equal(t, []int32{1, 1},
		list[int32](s, "select attempt from awa.jobs where id = any($1) and state = 'running' order by id",
			[]int64{jobs[0], jobs[2]}))
	require.Equal(t, "JQ001", sqlState(s.try("select awa.complete($1, $2)", jobs[0], rows[0])), "the old receipt is stale")
}

// A job that is released into the lane that it came from has two entries there. The old claim's answer must not be
// taken for the new entry.
func TestReleaseByATransactionOlderThanTheClaim(t *testing.T) {
	d := newDatabase(t)
	old, s := d.session(), d.session()
	job := s.enqueue("q")
	first := s.claim("q", 1)[0]
	s.exec("select awa.release($1, $2)", first.JobID, first.Receipt) // now in the front lane
	s.exec("begin")
	s.exec("select pg_current_xact_id()")
	old.exec("begin")
	old.exec("select pg_current_xact_id()") // an id that lies before the next entries of the front lane
	s.exec("rollback")
	other := s.enqueue("q")
	back := s.claim("q", 1)[0]
	require.Equal(t, job, back.JobID)
	s.exec("select awa.enqueue('q', 'k')")
	second := s.claim("q", 1)[0]
	require.Equal(t, other, second.JobID)
	s.exec("select awa.release($1, $2)", second.JobID, second.Receipt)

	old.exec("select awa.release($1, $2)", back.JobID, back.Receipt)
	require.Equal(t, "running", s.state(job), "not committed yet")
	old.exec("commit")
	require.Equal(t, "available", s.state(job))
	again := s.claim("q", 2)
	require.Equal(t, []int64{job, other}, ids(again), "in the order of their transactions")
	require.Equal(t, "running", s.state(job))
	require.Empty(t, s.completeMany(again))
	require.Equal(t, 1, one[int](s, "select count(*) from awa.jobs where id = $1", job))
}

// PostgreSQL arrays need not begin at 1.
func TestArraysWithOtherLowerBounds(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.enqueueMany("q", 4)
	jobs := s.claim("q", 4)
	bounds := func(values any) string { return one[string](s, "select '[0:1]=' || $1::bigint[]::text", values) }
	s.exec("select awa.fail_many($1::text::bigint[], $2::text::bigint[], '[0:1]={first,second}')", bounds(ids(jobs[:2])),
		bounds(receipts(jobs[:2])))
	s.exec("select awa.complete_many($1::text::bigint[], $2::text::bigint[], '[0:1]={3,4}'::jsonb[])",
		bounds(ids(jobs[2:])), bounds(receipts(jobs[2:])))
	require.Equal(t, []string{"first", "second", "3", "4"},
		list[string](s, "select coalesce(errors -> 0 ->> 'error', output::text) from awa.jobs order by id"))
}

// A worker's claim that is not committed yet when the worker is deregistered: its jobs must not be left with a worker
// that there is not.
func TestDeregisterBesideAnOpenClaim(t *testing.T) {
	d := newDatabase(t)
	s, supervisor, watcher := d.session(), d.session(), d.session()
	worker := one[int64](s, "select awa.register_worker('w')")
	jobs := s.enqueueMany("q", 3)
	s.exec("begin")
	s.exec("select awa.claim('q', 2, $1)", worker)
	wait := supervisor.background("select awa.deregister_worker($1)", worker)
	watcher.waitUntilBlocked(supervisor)
	s.exec("commit")
	require.NoError(t, wait())
	require.Equal(t, "22023", sqlState(s.try("select awa.claim('q', 1, $1)", worker)))
	require.ElementsMatch(t, jobs, ids(s.claim("q", 10)))

	// The other way round: the claim waits, and is refused.
	worker = one[int64](s, "select awa.register_worker('w')")
	s.enqueue("q")
	supervisor.exec("begin")
	supervisor.exec("select awa.deregister_worker($1)", worker)
	wait = s.background("select awa.claim('q', 1, $1)", worker)
	watcher.waitUntilBlocked(s)
	supervisor.exec("commit")
	require.Equal(t, "22023", sqlState(wait()))
	require.Len(t, s.claim("q", 1), 1)
}

// A worker's claim whose answer is lost, and that is not committed yet when the worker gives back what it does not
// know: what it does know stays its own.
func TestReleaseUnknownBesideAnOpenClaim(t *testing.T) {
	d := newDatabase(t)
	s, again, watcher := d.session(), d.session(), d.session()
	worker := one[int64](s, "select awa.register_worker('w')")
	jobs := s.enqueueMany("q", 5)
	known := claimedBy(s, worker, 2)
	s.exec("begin")
	s.exec("select awa.claim('q', 2, $1)", worker)
	wait := again.background("select awa.release_unknown($1, $2, $3)", worker, ids(known), receipts(known))
	watcher.waitUntilBlocked(again)
	s.exec("commit")
	require.NoError(t, wait())
	require.Empty(t, s.completeMany(known))
	require.Equal(t, jobs[2:], ids(s.claim("q", 10)))
}

// claimedBy returns jobs that a worker has claimed.
func claimedBy(s *session, worker int64, n int) []claimed {
	s.Helper()
	rows, err := s.db.Query(s.ctx, "select job_id, receipt from awa.claim('q', $1, $2)", n, worker)
	require.NoError(s, err)
	jobs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[claimed])
	require.NoError(s, err)
	return jobs
}

// A snapshot that is older than the claim itself does not make its receipt stale: the caller has to begin anew.
// Whatever numbers other claims had before, and whether or not the snapshot sees these.
func TestCompleteWithASnapshotOlderThanTheClaim(t *testing.T) {
	for _, level := range []string{"repeatable read", "serializable"} {
		// the claim is open when the snapshot is taken, and a later one of another queue is not
		for _, open := range []bool{false, true} {
			for _, materialized := range []bool{false, true} {
				d := newDatabase(t)
				old, other, third := d.session(), d.session(), d.session()
				old.enqueue("q")
				old.enqueue("other")
				begin := func() {
					old.exec("begin isolation level " + level)
					old.exec("select 1 from awa.ring")
				}
				var j claimed
				if open {
					other.exec("begin")
					j = other.claim("q", 1)[0]
					require.Greater(t, third.claim("other", 1)[0].Receipt, j.Receipt)
					begin()
					other.exec("commit")
				} else {
					begin()
					j = other.claim("q", 1)[0]
				}
				if materialized {
					other.exec("select awa.extend($1, $2, '1 hour')", j.JobID, j.Receipt)
				}
				require.Equal(t, "40001", sqlState(old.try("select awa.complete($1, $2)", j.JobID, j.Receipt)))
				old.exec("rollback")
				begin()
				old.exec("select awa.complete($1, $2)", j.JobID, j.Receipt)
				old.exec("commit")
			}
		}
	}
}

// Where there is no such claim, or none any more, the receipt is stale also above READ COMMITTED, however often one
// asks: a claim that was rolled back, a number that was drawn for something else, one that is yet to be drawn.
func TestStaleReceiptsWithAnOldSnapshot(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.enqueue("q")
	s.exec("begin")
	j := s.claim("q", 1)[0]
	s.exec("rollback")
	s.exec("select nextval('awa.claim_ids')")
	for _, level := range []string{"repeatable read", "serializable"} {
		for _, receipt := range []int64{j.Receipt, j.Receipt + 1<<12, j.Receipt + 1<<40} {
			s.exec("begin isolation level " + level)
			require.Equal(t, "JQ001", sqlState(s.try("select awa.complete($1, $2)", j.JobID, receipt)))
			s.exec("rollback")
		}
	}
	require.Len(t, s.claim("q", 1), 1, "and nothing of that is left")
	require.Equal(t, int64(1), one[int64](s, "select count(*) from awa.lease_claims"))
}
