package sql_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What the unique indexes of one segment can't refuse, because the other row lies in another one.

// Two operators change one job, and between them the segment is cleaned: the entry's copy, and the second tombstone,
// lie in another segment than the first tombstone.
func TestTwoBurialsAcrossACleaning(t *testing.T) {
	for _, first := range []string{"select awa.cancel($1)", "select awa.discard_job($1)",
		"select awa.set_priority($1, 1)", "select awa.reschedule($1, now() + interval '1 hour')"} {
		for _, second := range []string{"select awa.cancel($1)", "select awa.discard_job($1)",
			"select awa.set_priority($1, 3)", "select awa.move($1, 'other')",
			"select awa.reschedule($1, now() + interval '1 hour')"} {
			d := newDatabase(t)
			a, b, s := d.session(), d.session(), d.session()
			job := s.enqueue("q")
			a.exec("begin")
			a.exec(first, job)
			s.rotate()
			require.Equal(t, "cleaned", s.prune())
			b.exec(second, job)
			require.Equal(t, "40001", sqlState(a.try("commit")), "%s, %s", first, second)
			require.LessOrEqual(t, len(s.claim("q", 9))+len(s.claim("other", 9)), 1)
			s.balanced()
		}
	}
}

// A job comes back to the place that this transaction has taken it from, and a rotation lies between.
func TestSamePlaceTwiceAcrossARotation(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session()
	a.exec("begin")
	job := a.enqueue("q")
	a.exec("select awa.cancel($1)", job)
	s.rotate()
	require.Equal(t, "JQ005", sqlState(a.try("select awa.retry($1)", job)))
	a.exec("rollback")

	job = s.enqueue("q")
	a.exec("begin")
	a.exec("select awa.set_priority($1, 3)", job)
	a.exec("select awa.set_priority($1, 2)", job)
	s.rotate()
	require.Equal(t, "JQ005", sqlState(a.try("select awa.set_priority($1, 3)", job)))
	a.exec("rollback")
	s.balanced()
	require.Equal(t, []int64{job}, ids(s.claim("q", 9)))
}

// Who has an old snapshot is the same one for pruners in other time zones, and for one that has looked before.
func TestOldSnapshotIsKnownAgain(t *testing.T) {
	d := newDatabase(t)
	reader, looked, s := d.session(), d.session(), d.session()
	s.enqueue("q")
	s.rotate()
	looked.exec("begin")
	looked.exec("select count(*) from pg_stat_activity")
	reader.exec("begin isolation level repeatable read")
	reader.exec("select 1 from awa.settings")
	require.Equal(t, "cleaned", s.prune())
	require.Equal(t, "waiting", looked.prune())
	looked.exec("commit")
	require.Equal(t, "waiting", s.prune())
	s.exec("set timezone = 'Asia/Tokyo'")
	require.Equal(t, "waiting", s.prune())
	require.Equal(t, int64(1), one[int64](reader, "select count(*) from awa.jobs"))
}

// Somebody who was stopped for a whole turn of the ring writes into a segment that comes before the one that was
// cleaned: that one is finished first, or what it holds would count again.
func TestWhatWasCleanedIsFinishedFirst(t *testing.T) {
	d := newDatabase(t)
	reader, s := d.session(), d.session()
	jobs := s.enqueueMany("q", 3)
	s.rotate()
	s.rotate()
	reader.exec("begin isolation level repeatable read")
	reader.exec("select 1 from awa.settings")
	require.Equal(t, "cleaned", s.prune())
	s.exec(`insert into awa.ready_entries (segment, lane, job_id, ready_at, priority, attempt, max_attempts, body_bytes,
		kind, args)
		select 3, e.lane, nextval('awa.job_ids'), now(), 2, 1, 25, 60, 'k', '{}' from awa.ready_entries e limit 1`)
	require.Equal(t, "waiting", s.prune())
	require.Len(t, s.claim("q", 9), len(jobs)+1)
	s.balanced()
	reader.exec("commit")
	s.prunes()
	s.prunes()
	s.balanced()
}

// While a session keeps an old snapshot, a segment can't be truncated, and claims would have to pass over what was
// carried: so much is not carried. A mere lock keeps only the truncation. And where readers come and go, it is cleaned
// all the same.
func TestMuchIsNotCarriedBesideALongReader(t *testing.T) {
	d := newDatabase(t)
	readers, s := []*session{d.session(), d.session()}, d.session()
	s.exec("update awa.settings set completed_retention = '0'")
	prune := func() string {
		s.exec("update awa.ring set retry_at = null")
		return one[string](s, "select outcome from awa.prune_oldest()")
	}
	read := func(reader *session) {
		reader.exec("begin isolation level repeatable read")
		reader.exec("select 1 from awa.settings")
		require.Eventually(t, func() bool {
			return one[bool](s,
				"select exists (select from awa._long_readers() where holder like format('backend %s,%%', $1::int))", reader.pid)
		}, patience, 10*time.Millisecond)
	}
	s.enqueueMany("q", 1001)
	s.rotate()
	read(readers[0])
	require.Equal(t, "waiting", prune())
	require.Contains(t, one[string](s, "select message from awa.health() where topic = 'prune'"),
		fmt.Sprint("backend ", readers[0].pid))
	read(readers[1])
	require.Equal(t, "waiting", prune(), "the first one is still there")
	readers[0].exec("commit")
	read(readers[0])
	require.Equal(t, "cleaning", prune(), "it has gone; those that are there now have come since")
	require.Equal(t, "cleaning", prune())
	for _, reader := range readers {
		require.Equal(t, int64(1001), one[int64](reader, "select count(*) from awa.jobs where state = 'available'"))
		reader.exec("commit")
	}
	readers[0].exec("begin")
	readers[0].exec("lock table awa.ready_entries_0 in access share mode")
	require.Eventually(t, func() bool { // then a snapshot would count
		return one[bool](s,
			"select xact_start < clock_timestamp() - interval '1 second' from pg_stat_activity where pid = $1", readers[0].pid)
	}, patience, 10*time.Millisecond)
	for outcome := prune(); outcome != "blocked"; outcome = prune() {
		require.Contains(t, []string{"cleaning", "cleaned"}, outcome)
	}
	require.Len(t, s.claim("q", 9), 9)
	readers[0].exec("commit")
	s.prunes()
	s.audited()
	require.Equal(t, int64(992), one[int64](s, "select available from awa.queue_counts()"))
}

// Two fresh servers give the same OIDs, or the same transaction ids, but hardly both: then it is the other one that
// tells, and that the server is another one.
func TestRestoreOntoATwin(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	job := s.enqueue("q")
	s.exec("create table saved as select xid, server + 1 as server from awa.origin")
	s.exec("delete from awa.origin")
	s.exec("insert into awa.origin select * from saved") // as a restore does
	require.Equal(t, "55000", sqlState(s.try("select awa.enqueue('q', 'k')")))
	require.Equal(t, "55000", sqlState(s.try("call awa.run_maintenance()")))
	s.exec("begin")
	s.exec("savepoint a")
	s.exec("select awa.rebase_after_restore()")
	s.exec("commit")
	s.balanced()
	require.Equal(t, []int64{job}, ids(s.claim("q", 9)))
}

// Very many queues are quiet: their cursors are carried some at a time.
func TestManyQuietQueues(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("select awa.enqueue('q' || n, 'k') from generate_series(1, 600) n")
	s.exec("select awa.complete(c.job_id, c.receipt) from generate_series(1, 600) n, awa.claim('q' || n) c")
	s.rotate()
	require.Equal(t, "cleaning", s.prune())
	s.exec("begin")
	require.Equal(t, "cleaning", s.prune())
	require.LessOrEqual(t,
		one[int](s, "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"), 501)
	s.exec("commit")
	s.prunes()
	s.balanced()
	require.Empty(t, s.claim("q7", 9))
}
