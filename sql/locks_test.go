package sql_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/pgserver"
)

// A server's lock table is small: whatever ends many attempts has to make do with a part of it.
func TestMoreClaimsThanLocks(t *testing.T) {
	srv, err := pgserver.Start(t.Context(),
		pgserver.Config{Settings: map[string]string{"max_connections": "20", "max_locks_per_transaction": "20",
			"fsync": "off"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Stop()) })
	d := server{srv, t}.database("awa", true)
	const claims = 3000
	claim := func(s *session, size int) (worker int64) {
		worker = one[int64](s, "select awa.register_worker('w')")
		s.exec(fmt.Sprintf(`do $$ begin
			for n in 1..%d loop perform awa.enqueue_many('q', 'k', array_fill('{}'::jsonb, array[%d])); commit; end loop;
			for n in 1..%d loop perform awa.claim('q', %d, %d); if n %% 50 = 0 then commit; end if; end loop;
		end $$`, claims/50, 50*size, claims, size, worker))
		return worker
	}

	s := d.session()
	worker := claim(s, 2)
	require.Zero(t, one[int](s, `select count(*)
		from (select array_agg(o.job_id) as jobs, array_agg(o.receipt) as receipts from awa._open_items o
		where o.receipt & 4095 = 0) o, awa.complete_many(o.jobs, o.receipts)`))
	require.Equal(t, int64(claims), one[int64](s, "select awa.deregister_worker($1)", worker))
	require.Equal(t, "(3000,0,3000)",
		one[string](s, "select row(available, running, completed)::text from awa.queue_counts('q')"))
	s.exec("select awa.drop_queue('q', true)")

	s = d.session()
	claim(s, 1)
	require.Equal(t, int64(1000), one[int64](s, "select materialized from awa.materialize('0')"))
	require.Equal(t, int64(claims), one[int64](s, "select awa.cancel_where('q', state => 'running', max_jobs => 10000)"))
	s.exec("select awa.drop_queue('q')")

	s = d.session()
	claim(s, 1)
	s.exec("select awa.drop_queue('q', true)")
	s.balanced()
}

// Who answers for more claims than it has locks for, closes the last ones by a row for each item. It has no lock on
// these, and others can tell all the same.
func TestManyBesideACrowd(t *testing.T) {
	for _, commits := range []bool{true, false} {
		d := newDatabase(t)
		crowd, many, watcher := d.session(), d.session(), d.session()
		jobs := manyClaims(crowd, 70, 3)
		first, last := jobs[:3], jobs[len(jobs)-3:]
		crowd.exec("begin")
		require.Empty(t, crowd.completeMany(each(jobs, 3, 0)))

		require.Empty(t, many.completeMany(last[1:2]), "other items do not wait")
		wait := many.background("create temp table stale as select awa.complete_many($1, $2) as job_id", ids(last),
			receipts(last))
		watcher.waitUntilBlocked(many)
		if commits {
			crowd.exec("commit")
			require.NoError(t, wait())
			require.ElementsMatch(t, ids(last[:2]), list[int64](many, "select job_id from stale"))
		} else {
			crowd.exec("rollback")
			require.NoError(t, wait())
			require.Equal(t, ids(last[1:2]), list[int64](many, "select job_id from stale"))
		}
		require.Empty(t, many.completeMany(first[1:]))
		require.Equal(t, map[bool]int{true: 1, false: 0}[commits], len(many.completeMany(first[:1])))
		many.balanced()
	}
}

// A batch looks for what is closed when it has locked its claims, and knows that nobody answers for too many.
func TestBatchBesideAnAnswerThatEnds(t *testing.T) {
	stopped := func(t *testing.T, before string) (first, batch, watcher *session) {
		d := newDatabase(t)
		first, batch, watcher = d.session(), d.session(), d.session()
		watcher.exec(changing("_close_batches", before, "perform pg_advisory_xact_lock_shared(42); "+before))
		watcher.exec("select pg_advisory_lock(42)")
		return first, batch, watcher
	}
	const many = "create temp table stale as select awa.complete_many($1, $2) as job_id"

	t.Run("before it locks", func(t *testing.T) {
		first, batch, watcher := stopped(t, "while v_to < v_jobs loop")
		first.enqueueMany("q", 3)
		jobs := first.claim("q", 3)
		wait := batch.background(many, ids(jobs), receipts(jobs))
		watcher.waitUntilBlocked(batch)
		first.exec("select awa.complete($1, $2)", jobs[1].JobID, jobs[1].Receipt)
		watcher.exec("select pg_advisory_unlock(42)")
		require.NoError(t, wait())
		require.Equal(t, ids(jobs[1:2]), list[int64](batch, "select job_id from stale"))
		batch.balanced()
	})
	t.Run("before it looks for a crowd", func(t *testing.T) {
		crowd, batch, watcher := stopped(t, "if awa._is_crowded() then")
		jobs := manyClaims(crowd, 70, 3)
		last := jobs[len(jobs)-3:]
		crowd.exec("begin")
		require.Empty(t, crowd.completeMany(jobs[:len(jobs)-1]))
		wait := batch.background(many, ids(last), receipts(last))
		watcher.waitUntilBlocked(batch)
		crowd.exec("commit")
		watcher.exec("select pg_advisory_unlock(42)")
		require.NoError(t, wait())
		require.Equal(t, ids(last[:2]), list[int64](batch, "select job_id from stale"))
		batch.balanced()
	})
}

// A single answer at REPEATABLE READ leaves an empty batch row. It closes nothing else.
func TestManyAfterAnAnswerAtRepeatableRead(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.enqueueMany("q", 3)
	jobs := s.claim("q", 3)
	s.exec("begin isolation level repeatable read")
	s.exec("select awa.complete($1, $2)", jobs[0].JobID, jobs[0].Receipt)
	s.exec("commit")
	require.Equal(t, ids(jobs[:1]), s.completeMany(jobs))
	s.balanced()
}

// The other way round: it waits for a batch of items of one of its last claims.
func TestCrowdBesideAnOpenMany(t *testing.T) {
	d := newDatabase(t)
	crowd, many, watcher := d.session(), d.session(), d.session()
	jobs := manyClaims(crowd, 70, 3)
	last := jobs[len(jobs)-3:]
	many.exec("begin")
	require.Empty(t, many.completeMany(last[:2]))
	wait := crowd.background("create temp table stale as select awa.complete_many($1, $2) as job_id", ids(jobs),
		receipts(jobs))
	watcher.waitUntilBlocked(crowd)
	many.exec("commit")
	require.NoError(t, wait())
	require.ElementsMatch(t, ids(last[:2]), list[int64](crowd, "select job_id from stale"))
	crowd.balanced()
}

// Where no session answers for too many claims, a batch is one row. A session that looks for such ones is in no other
// session's way.
func TestBatchesAreOneRow(t *testing.T) {
	d := newDatabase(t)
	s, other := d.session(), d.session()
	jobs := manyClaims(s, 3, 3)
	other.exec("begin")
	require.Empty(t, other.completeMany(jobs[:2]))
	require.Empty(t, s.completeMany(jobs[3:]))
	other.exec("commit")
	require.Equal(t, int64(3), one[int64](s, "select count(*) from awa.lease_claim_closures k where k.item < 0"))
	require.Zero(t, one[int64](s, "select count(*) from awa.lease_claim_closures k where k.item >= 0"))
}

// An operator cancels what runs; a worker answers for the same attempts in two calls, in the opposite order. Claims are
// joined before anything is written.
func TestCancelWhereBesideTwoAnswers(t *testing.T) {
	d := newDatabase(t)
	operator, worker, watcher := d.session(), d.session(), d.session()
	jobs := manyClaims(worker, 2, 2)
	worker.exec("begin")
	require.Empty(t, worker.completeMany(jobs[2:]))
	wait := operator.background("select awa.cancel_where('q', state => 'running')")
	watcher.waitUntilBlocked(operator)
	worker.exec("select awa.complete($1, $2)", jobs[0].JobID, jobs[0].Receipt)
	worker.exec("commit")
	require.NoError(t, wait())
	require.Equal(t, []string{"completed", "cancelled", "completed", "completed"},
		list[string](operator, "select state from awa.jobs order by id"))
	operator.balanced()
}

// Jobs that are available are cancelled at commit, under the locks of their queues: of a bounded number.
func TestCancelWhereInManyQueues(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("select awa.enqueue('q' || n, 'k') from generate_series(1, 502) n")
	require.Equal(t, int64(500), one[int64](s, "select awa.cancel_where(kind => 'k')"))
	require.Equal(t, int64(2), one[int64](s, "select awa.cancel_where(kind => 'k')"))
	require.Zero(t, one[int64](s, "select awa.cancel_where(kind => 'k')"))
}

// manyClaims makes claims of so many jobs each.
func manyClaims(s *session, claims, size int) (jobs []claimed) {
	s.Helper()
	s.enqueueMany("q", claims*size)
	for range claims {
		jobs = append(jobs, s.claim("q", size)...)
	}
	return jobs
}

// each returns the item of each claim of that size.
func each(jobs []claimed, size, item int) (some []claimed) {
	for n := item; n < len(jobs); n += size {
		some = append(some, jobs[n])
	}
	return some
}
