package sql_test

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// queuesInOrder returns names of queues in the order in which their locks are taken.
func (s *session) queuesInOrder(n int) []string {
	s.Helper()
	return list[string](s,
		"select q from (select 'queue ' || n as q from generate_series(1, $1) n) q order by awa._queue_id(q)", n)
}

func (s *session) lockQueue(queue string) {
	s.Helper()
	s.exec("select pg_advisory_xact_lock(awa._queue_key(awa._queue_id($1)))", queue)
}

// What is committed between the copying and the snapshot up to which the segment counts no more, on a queue that the
// cleaning is about to lock: it waits for another one meanwhile.
func TestPruneBesideWhatCommitsMeanwhile(t *testing.T) {
	d := newDatabase(t)
	holder, a, s, p := d.session(), d.session(), d.session().neverWaits(), d.session()
	queues := s.queuesInOrder(2)
	s.setPruneWait("1 minute")
	claim := " from awa.claim('$QUEUE', 1)"
	for i, c := range []call{
		{"nothing", "select awa.enqueue('$QUEUE', '$QUEUE')", "available"},
		{"ready", "select job_id" + claim, "running"},
		{"ready", "select awa.cancel($JOB)", "cancelled"},
		{"nothing", "select awa.enqueue('$QUEUE', '$QUEUE', priority => 1)", "available"},
		{"ready", "select awa.complete(job_id, receipt)" + claim, "completed"},
		{"ready", "select awa.release(job_id, receipt)" + claim, "available"},
		{"ready", "select awa.fail(job_id, receipt, 'error', '1 hour')" + claim, "retryable"},
		{"ready", "select awa.set_priority($JOB, 1)", "available"},
		{"ready", "select awa.move($JOB, 'other')", "available"},
		{"ready", "select awa.reschedule($JOB, now() + interval '1 hour')", "scheduled"},
	} {
		for _, end := range []string{"commit", "rollback"} {
			if i > 2 && end == "rollback" {
				break
			}
			t.Log(c.sql, end)
			s.enqueue(queues[0])
			b := &beside{by: a}
			b.prepares(s, c, queues[1])
			b.last = b.ready[1]
			if c.about == "nothing" { // to the segment that is to be emptied
				a.exec("begin")
				a.exec(b.statement())
			}
			s.rotate()
			holder.exec("begin")
			holder.lockQueue(queues[0])
			pruned := p.prunesInTheBackground()
			holder.waitUntilBlocked(p)
			if c.about != "nothing" {
				a.exec("begin")
				a.exec(b.statement())
			}
			a.exec(end)
			s.audited()
			holder.exec("commit")
			require.Equal(t, "cleaned", pruned())
			s.audited()
			s.prunesLater()
			b.ended(s, end == "commit", "")
			s.worksOff()
		}
	}
	s.balanced()
}

// The same on a queue that the cleaning has not listed, for it was empty then: it has to look again. A claim that is in
// the middle of its work would find the entry twice.
func TestPruneBesideAnEntryThatCommitsMeanwhile(t *testing.T) {
	for _, claims := range []bool{false, true} {
		d := newDatabase(t)
		holder, producer, claimer, blocker, s, p := d.session(), d.session(), d.session(), d.session(),
			d.session().neverWaits(), d.session()
		s.setPruneWait("1 minute")
		held := s.enqueue("held")
		producer.exec("begin")
		late := producer.enqueue("late")
		s.rotate()
		holder.exec("begin")
		holder.lockQueue("held")
		pruned := p.prunesInTheBackground()
		holder.waitUntilBlocked(p)
		producer.exec("commit")
		var wait func() error
		if claims {
			blocker.exec("begin")
			blocker.exec("lock table awa.lease_claims_1 in share mode")
			claimer.exec("create temp table got as select 0 as job_id limit 0")
			wait = claimer.background("insert into got select job_id from awa.claim('late', 9)")
			s.waitUntilBlocked(claimer)
		}
		holder.exec("commit")
		require.Equal(t, "busy", pruned())
		if claims {
			blocker.exec("commit")
			require.NoError(t, wait())
			require.Equal(t, []int64{late}, list[int64](claimer, "select job_id from got"))
		}
		s.audited()
		s.prunes()
		s.balanced()
		if !claims {
			require.Equal(t, []int64{late}, ids(s.claim("late", 9)))
		}
		require.Equal(t, "running", s.state(late))
		require.Equal(t, []int64{held}, ids(s.claim("held", 9)))
		s.worksOff()
	}
}

// stopsAfterItsSnapshot lets cleaning wait for the advisory lock 42, when it has taken its snapshot and goes on to open
// attempts.
func (s *session) stopsAfterItsSnapshot() {
	s.Helper()
	s.exec(changing("_take_open", "for v_claim in", "perform pg_advisory_xact_lock_shared(42); for v_claim in"))
}

// What is committed after that snapshot counts where it is, and is carried by the next cleaning: also where that is not
// the first one.
func TestPruneBesideWhatCommitsAfterItsSnapshot(t *testing.T) {
	d := newDatabase(t)
	producers := []*session{d.session(), d.session()}
	blocker, s, p := d.session(), d.session().neverWaits(), d.session()
	s.stopsAfterItsSnapshot()
	running, ready := s.open("q", shapes[3]), s.enqueue("q")
	for n, producer := range producers {
		producer.exec("begin")
		producer.exec("select awa.enqueue(q, 'k', run_at => now() + interval '1 hour') from unnest('{q,late}'::text[]) q")
		if n == 0 {
			producer.exec("select awa.enqueue(q, 'k') from unnest('{q,late}'::text[]) q")
		}
	}
	s.rotate()
	for n, producer := range producers {
		blocker.exec("begin")
		blocker.exec("select pg_advisory_xact_lock(42)") // the cleaning stops there
		pruned := p.prunesInTheBackground()
		s.waitUntilBlocked(p)
		producer.exec("commit")
		s.enqueue("fresh")
		require.Len(t, s.claim("fresh", 1), 1, "others go on")
		blocker.exec("commit")
		require.Equal(t, "cleaned", pruned())
		s.audited()
		require.Equal(t, "busy", s.pruneOn(), "cleaning %d", n+1)
		s.audited()
	}
	s.prunes()
	s.balanced()
	jobs := ids(s.claim("q", 9))
	require.Len(t, jobs, 2)
	require.Equal(t, ready, jobs[0])
	require.Len(t, s.claim("late", 9), 1)
	require.Equal(t, int64(4), one[int64](s, "select sum(scheduled)::bigint from awa.queue_counts"))
	require.Subset(t, s.running(), running)
	s.worksOff()
	s.balanced()
}

// A burial that is committed in the middle of a second cleaning is counted once.
func TestSecondCleaningBesideABurial(t *testing.T) {
	d := newDatabase(t)
	operator, producer, blocker, s, p := d.session(), d.session(), d.session(), d.session().neverWaits(), d.session()
	s.stopsAfterItsSnapshot()
	job := s.enqueue("q")
	producer.exec("begin")
	producer.exec("select awa.enqueue('late', 'k')")
	operator.exec("begin")
	operator.exec(fmt.Sprintf("select awa.cancel(%d)", job))
	s.rotate()
	require.Equal(t, "cleaned", s.prune())
	producer.exec("commit")
	require.Equal(t, "busy", s.prune(), "something came after the cleaning")
	s.balanced()

	blocker.exec("begin")
	blocker.exec("select pg_advisory_xact_lock(42)") // the second cleaning stops there, when it has taken its snapshot
	pruned := p.prunesInTheBackground()
	s.waitUntilBlocked(p)
	operator.exec("commit")
	blocker.exec("commit")
	require.Contains(t, []string{"cleaned", "busy"}, pruned())
	s.audited()
	s.prunesLater()
	s.balanced()
	require.Empty(t, s.claim("q", 9))
}

// What transactions that were older than the cleaning commit while the truncation waits for its lock is seen under the
// lock.
func TestPruneBesideWhatCommitsWhileItWaits(t *testing.T) {
	for _, c := range []struct {
		call  string
		state []string
	}{
		{"select awa.enqueue('q', 'k')", []string{"available", "cancelled", "available"}},
		// leaves an arrival
		{"select awa.enqueue('q', 'k', run_at => now() + interval '1 hour')",
			[]string{"available", "cancelled", "scheduled"}},
		{"select awa.cancel(1)", []string{"cancelled", "cancelled", "gone"}},
	} {
		t.Log(c.call)
		d := newDatabase(t)
		a, s, p := d.session(), d.session().neverWaits(), d.session()
		s.enqueueMany("q", 2)
		s.exec("select awa.cancel(2)")
		s.setPruneWait("1 millisecond")
		a.exec("begin")
		a.exec(c.call)
		s.rotate()
		require.Equal(t, "cleaned", s.prune())
		require.Equal(t, "blocked", s.pruneOn()) // from here on it does not look for snapshots
		s.setPruneWait("1 minute")
		pruned := p.prunesInTheBackground()
		s.waitUntilBlocked(p)
		a.exec("commit")
		require.Contains(t, []string{"busy", "truncating"}, pruned())
		s.audited()
		s.prunesLater()
		s.balanced()
		require.Equal(t, c.state, s.states(1, 2, 3))
		s.worksOff()
	}
}

// Two at once: one cleans, or truncates; the others leave the ring alone, and do not wait.
func TestTwoPrunersAtOnce(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session().neverWaits()
	job := s.enqueue("q")
	s.completes(s.open("other", shapes[0]))
	s.rotate()
	for _, outcome := range []string{"cleaned", "truncating", "truncating", "truncated"} {
		for _, end := range []string{"rollback", "commit"} {
			a.exec("begin")
			require.Equal(t, outcome, a.prune())
			require.Equal(t, "busy", s.prune())
			require.False(t, one[bool](s, "select rotated from awa.rotate(true)"))
			a.exec(end)
			s.audited()
		}
	}
	require.True(t,
		one[bool](s,
			"select cleaned_segment is null and cleaned_until is null and cleaned_by is null and old_snapshots is null from "+
				"awa.ring"))
	require.Equal(t, []int64{job}, ids(s.claim("q", 9)))
	s.balanced()
}

// What is called in one transaction: nothing is truncated before the cleaning is committed; and what the transaction
// itself has enqueued comes, or not, with the rest of it.
func TestPruneTwiceInATransaction(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, s := d.session(), d.session().neverWaits()
		job := s.enqueue("q")
		a.exec("begin")
		own := a.enqueue("q")
		s.enqueue("other") // ends after a began: a lies below the next snapshot's xmax
		a.rotate()
		require.Equal(t, "cleaned", a.prune())
		next := a.enqueue("q")
		require.Equal(t, "waiting", a.prune())
		require.Equal(t, []string{"available", "available", "available"}, a.states(job, own, next))
		s.audited()
		a.exec(end)
		s.audited()
		s.prunesLater()
		s.audited()
		want := []int64{job}
		if end == "commit" {
			want = append(want, own, next)
		}
		require.Equal(t, want, ids(s.claim("q", 9)))
		s.worksOff()
		s.balanced()
	}
}

// A reader whose snapshot is older than the cleaning sees every job, also where it locks the tables only now; the
// truncation waits for it.
func TestPruneBesideAnOldSnapshot(t *testing.T) {
	d := newDatabase(t)
	reader, s := d.session(), d.session().neverWaits()
	running := s.open("q", shapes[0])[0].JobID
	s.completes(s.open("q", shapes[0]))
	ready := s.enqueue("q")
	reader.exec("begin isolation level repeatable read")
	reader.exec("select 1 from awa.settings")
	s.rotate()
	require.Equal(t, "cleaned", s.prune())
	for range 2 {
		require.Equal(t, "waiting", s.prune())
		message := one[string](s, "select message from awa.health() where topic = 'prune'")
		require.Contains(t, message, fmt.Sprint("backend ", reader.pid))
	}
	require.Equal(t, []string{"running", "available", "completed"}, reader.states(running, ready, 2))
	require.Equal(t, []string{"running", "available", "gone"}, s.states(running, ready, 2))
	reader.exec("commit")
	s.prunes()
	require.Equal(t, []string{"running", "available", "gone"}, s.states(running, ready, 2))
	s.balanced()
}

// Transactions whose snapshots are older than the rotation write where the segment was current for them: that is
// carried later. What the cleaning has changed they are not allowed to answer.
func TestPruneBesideAnOldSnapshotThatWrites(t *testing.T) {
	for _, isolation := range []string{"repeatable read", "serializable"} {
		d := newDatabase(t)
		producer, worker, s := d.session(), d.session(), d.session().neverWaits()
		running, ready := s.open("q", shapes[2]), s.enqueue("q")
		for _, a := range []*session{producer, worker} {
			a.exec("begin isolation level " + isolation)
			a.exec("select 1")
		}
		s.rotate()
		require.Equal(t, "cleaned", s.prune())
		producer.exec("select awa.enqueue('q', 'k')")
		require.Equal(t, int64(0),
			one[int64](producer, "select max(segment)::bigint from awa.ready_entries where xid = pg_current_xact_id()"))
		require.Equal(t, "40001", sqlState(worker.try("select awa.complete($1, $2)", running[0].JobID, running[0].Receipt)))
		worker.exec("rollback")
		require.Equal(t, "waiting", s.prune())
		s.audited()
		producer.exec("commit")
		require.Equal(t, "busy", s.prune())
		s.prunes()
		s.balanced()
		jobs := ids(s.claim("q", 9))
		require.Len(t, jobs, 2)
		require.Equal(t, ready, jobs[0])
		s.completes(running)
		s.balanced()
	}
}

// A second cleaning carries what a snapshot from between the two saw where it was: it is waited for, too.
func TestSecondCleaningBesideAnOldSnapshot(t *testing.T) {
	d := newDatabase(t)
	producer, reader, s := d.session(), d.session(), d.session().neverWaits()
	s.enqueue("q")
	producer.exec("begin")
	producer.exec("select awa.enqueue('q', 'late')")
	s.rotate()
	require.Equal(t, "cleaned", s.prune())
	require.Equal(t, "blocked", s.prune(), "there is no snapshot to wait for")
	producer.exec("commit")
	reader.exec("begin isolation level repeatable read")
	reader.exec("select 1")
	require.Equal(t, "busy", s.prune())
	require.Equal(t, "cleaned", s.prune())
	require.Equal(t, "waiting", s.prune())
	require.Equal(t, int64(2), one[int64](reader, "select count(*) from awa.jobs where state = 'available'"))
	reader.exec("commit")
	s.prunes()
	s.balanced()
}

// A transaction that merely holds an id makes all snapshots that others take look old. Only those are waited for that
// were there when the cleaning was committed.
func TestPruneBesideAnOldId(t *testing.T) {
	d := newDatabase(t)
	holder, reader, young, s := d.session(), d.session(), d.session(), d.session().neverWaits()
	holder.exec("begin")
	holder.exec("select pg_current_xact_id()")
	job := s.enqueue("q")
	reader.exec("begin isolation level repeatable read")
	reader.exec("select 1")
	s.rotate()
	require.Equal(t, "cleaned", s.prune())
	require.Equal(t, "waiting", s.prune(), "for the reader")
	young.exec("begin isolation level repeatable read")
	young.exec("select 1")
	reader.exec("commit")
	require.True(t,
		one[bool](s, "select age(backend_xmin) > age(cleaned_by::xid) from pg_stat_activity, awa.ring where pid = $1",
			young.pid))
	s.prunes()
	require.Equal(t, []string{"available"}, young.states(job))
	s.balanced()

	// Nobody but the holder is there: nothing to wait for.
	young.exec("commit")
	s.rotate()
	s.prunes()
	require.Equal(t, []int64{job}, ids(s.claim("q", 9)))
}

// A reader that holds a lock: prune_oldest gives up, backs off for longer each time, and says who it is. Others go on,
// at the latest when it has given up.
func TestPruneBesideALock(t *testing.T) {
	d := newDatabase(t)
	reader, s, p, worker := d.session(), d.session().neverWaits(), d.session(), d.session()
	s.enqueueMany("q", 2)
	s.rotate()
	s.exec("update awa.settings set completed_retention = '0'")
	require.Equal(t, "cleaned", s.prune())
	reader.exec("begin")
	reader.exec("lock table awa.ready_entries_0 in access share mode")
	for try := range 12 {
		began := one[time.Time](s, "select clock_timestamp()")
		require.Equal(t, "blocked", s.prune(), "forced, it is tried at once")
		ended := one[time.Time](s, "select clock_timestamp()")
		pause := min(time.Second<<try, 5*time.Minute)
		require.WithinRange(t, one[time.Time](s, "select retry_at from awa.ring"), began.Add(pause), ended.Add(pause))
	}
	require.Equal(t, "blocked", one[string](s, "select outcome from awa.prune_oldest()"))
	require.Equal(t, 12, one[int](s, "select tries from awa.ring"), "it was not tried again")
	require.Contains(t,
		list[int32](s, "select jsonb_array_elements(details -> 'pids')::int from awa.health() where topic = 'prune'"),
		int32(reader.pid))
	require.Contains(t, one[string](s, "select message from awa.health() where topic = 'prune'"),
		fmt.Sprint("backend ", reader.pid))

	s.setPruneWait("2 seconds")
	pruned := p.prunesInTheBackground()
	s.waitUntilBlocked(p)
	s.enqueue("q")
	claims := worker.background("select awa.claim('q', 1)") // it reads the entries of all segments
	require.Eventually(t, func() bool {
		return one[bool](s, "select $1::int = any(pg_blocking_pids($2))", p.pid, worker.pid)
	}, patience, time.Millisecond, "the claim never waited for prune_oldest")
	require.NoError(t, claims(), "it goes on while the reader is still there")
	require.Equal(t, "blocked", pruned())

	reader.exec("commit")
	require.Len(t, s.claim("q", 9), 2)
	s.prunes()
	require.True(t,
		one[bool](s, "select stuck_since is null and tries = 0 and outcome is null and retry_at is null from awa.ring"))
	s.balanced()
}

// One job that runs for hours, and a queue without workers, while the ring turns: the answer is taken, the order
// is kept.
func TestRingTurns(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	worker := s.registerWorker()
	running := claimed{s.enqueue("q"), 0}
	running.Receipt = s.claimAs(worker, "q", 1)[0]
	waits := s.enqueueMany("paused", 5)
	s.exec("select awa.pause_queue('paused')")
	waits = append(waits, one[int64](s, "select awa.enqueue('paused', 'k', priority => 3)"))
	for turn := range 5 {
		for range 4 {
			s.completes(s.open("q", shapes[2]))
			s.rotate()
			s.prunes()
		}
		s.halfAnHourLater()
		require.Empty(t, s.lost(worker), "a heartbeat")
		require.Zero(t, s.rescue())
		waits = append(waits[:len(waits)-1], s.enqueue("paused"), waits[len(waits)-1])
		require.Equal(t, int64((turn+1)*12), one[int64](s, "select completed from awa.queue_counts('q')"))
	}
	s.balanced()
	require.Equal(t, running.Receipt, one[int64](s, "select receipt from awa.job($1)", running.JobID))
	s.completes([]claimed{running})
	s.exec("select awa.resume_queue('paused')")
	require.Equal(t, waits, ids(s.claim("paused", 100)))
	s.balanced()
}

// More is alive than carry_max, or somebody locks all tables for long: the ring stays where it is, the current segment
// grows, claims and answers go on.
func TestRingStays(t *testing.T) {
	for _, outcome := range []string{"full", "blocked"} {
		d := newDatabase(t)
		reader, s := d.session(), d.session().neverWaits()
		s.exec("update awa.settings set carry_max = 4")
		waits := s.enqueueMany("paused", map[string]int{"full": 5, "blocked": 4}[outcome])
		s.exec("select awa.pause_queue('paused')")
		for range 3 {
			s.rotate()
			s.completes(s.open("q", shapes[2]))
		}
		if outcome == "blocked" {
			reader.exec("begin")
			reader.exec("lock table awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, " +
				"awa.lease_claim_closures in access share mode")
		}
		for range 3 {
			require.Equal(t, outcome, s.pruneOn())
			require.False(t, one[bool](s, "select rotated from awa.rotate(true)"))
			s.completes(s.open("q", shapes[2]))
		}
		s.balanced()
		require.Equal(t, int64(18), one[int64](s, "select completed from awa.queue_counts('q')"))
		if outcome == "blocked" {
			reader.exec("commit")
		} else {
			s.exec("update awa.settings set carry_max = 5")
		}
		s.prunes()
		s.rotate()
		s.exec("select awa.resume_queue('paused')")
		require.Equal(t, waits, ids(s.claim("paused", 9)))
		s.balanced()
	}
}

// Entries wait in more queues than there is room for in the server's lock table: they are carried some queues at a
// time.
func TestPruneManyQueues(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("select count(awa.enqueue('queue ' || n, 'k')) from generate_series(1, 1001) n")
	s.rotate()
	for range 3 {
		s.exec("begin")
		require.Equal(t, "cleaning", s.prune())
		require.LessOrEqual(t,
			one[int](s, "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"), 501)
		s.exec("commit")
	}
	require.Len(t, s.claim("queue 1", 9), 1)
	s.prunes()
	s.audited()
	require.Equal(t, int64(1000), one[int64](s, "select sum(available)::bigint from awa.queue_counts()"))
}

// Even without the lock of the queue, a claim that is committed after the cleaning is not truncated.
func TestPruneBesideAClaimWithoutTheLock(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session().neverWaits()
	s.exec(changing("_begin_claim", "pg_try_advisory_xact_lock(awa._queue_key(v_queue_id))", "true"))
	jobs := s.enqueueMany("q", 2)
	a.exec("begin")
	claimed := a.claim("q", 1)
	s.rotate()
	require.Equal(t, "cleaned", s.prune())
	a.exec("commit")
	require.Equal(t, "busy", s.pruneOn())
	require.Equal(t, []string{"running", "available"}, s.states(jobs...))
	s.prunes()
	s.balanced()
	s.completes(claimed)
	require.Equal(t, jobs[1:], ids(s.claim("q", 9)))
}

// Somebody answers for an attempt, or counts: that is known before anything is copied in vain.
func TestPruneLooksFirst(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session().neverWaits()
	running := s.open("q", shapes[2])
	s.enqueueMany("q", 100)
	s.rotate()
	for _, sql := range []string{fmt.Sprintf("select awa.complete(%d, %d)", running[0].JobID, running[0].Receipt),
		"select awa._fold()"} {
		a.exec("begin")
		a.exec(sql)
		require.Equal(t, "busy", s.pruneOn())
		require.Zero(t, one[int](s, "select pg_relation_size('awa.ready_entries_1')"))
		a.exec("commit")
	}
	s.prunes()
	s.balanced()
}

// Rows are missing: nothing is removed before somebody has looked.
func TestPruneWhereRowsAreMissing(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("update awa.settings set completed_retention = '0'")
	jobs := s.enqueueMany("q", 2)
	s.audited()
	s.exec("delete from awa.ready_entries where job_id = $1", jobs[0])
	s.rotate()
	require.Equal(t, "unbalanced", one[string](s, "select outcome from awa.prune_oldest()"))
	require.Equal(t, "critical", one[string](s, "select level from awa.health() where topic = 'prune'"))
	require.Zero(t, one[int](s, "select count(*) from awa.ready_entries_1"))
	s.prunes()
	require.Equal(t, jobs[1:], ids(s.claim("q", 9)))
}

// A crash between the cleaning and the truncations, or between two of these, or before one of them is committed: all is
// there, and it goes on from where it was.
func TestPruneBesideACrash(t *testing.T) {
	d := newServer(t).database("app", true)
	s := d.session()
	jobs := ids(s.open("q", shapes[3]))
	jobs = append(jobs, s.enqueueMany("q", 2)...)
	s.exec("select awa.cancel($1)", jobs[3])
	s.completes(s.open("other", shapes[0]))
	s.rotate()
	for _, c := range []struct{ outcome, end string }{
		{"cleaned", "rollback"}, {"cleaned", "commit"}, {"truncating", "rollback"}, {"truncating", "commit"},
		{"truncating", "commit"}, {"truncating", "commit"}, {"truncated", "commit"},
	} {
		a := d.session()
		a.exec("begin")
		outcome := a.prune()
		for outcome == "cleaning" { // after a crash it goes on in smaller parts
			outcome = a.prune()
		}
		require.Equal(t, c.outcome, outcome)
		if c.end == "commit" {
			a.exec("commit")
		}
		// the server goes down with it, recovers, and starts again
		require.NoError(t, syscall.Kill(int(a.pid), syscall.SIGKILL))
		require.Error(t, s.try("select pg_sleep(60)"), "the server has ended all sessions")
		require.Eventually(t, func() bool {
			db, err := pgx.Connect(t.Context(), d.url)
			if err == nil {
				db.Close(t.Context())
			}
			return err == nil
		}, patience, time.Millisecond)
		s = d.session()
		s.audited()
		require.Equal(t, []string{"running", "running", "running", "cancelled", "available"}, s.states(jobs...))
	}
	require.Equal(t, jobs[4:], ids(s.claim("q", 9)))
	s.completes(s.running())
	s.balanced()
}

// A standby reports the snapshots of its readers: they are waited for.
func TestPruneBesideAStandby(t *testing.T) {
	d := newServer(t).database("app", true)
	s := d.session().neverWaits()
	s.enqueue("q")
	config, err := pgconn.ParseConfig(d.url)
	require.NoError(t, err)
	config.RuntimeParams["replication"] = "true"
	standby, err := pgconn.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer standby.Close(t.Context())
	_, err = standby.Exec(t.Context(), "CREATE_REPLICATION_SLOT standby PHYSICAL").ReadAll()
	require.NoError(t, err)
	standby.Frontend().Send(&pgproto3.Query{String: "START_REPLICATION SLOT standby PHYSICAL " +
		one[string](s, "select pg_current_wal_lsn()::text")})
	report := make([]byte, 25)
	report[0] = 'h'
	binary.BigEndian.PutUint32(report[9:],
		uint32(one[int64](s, "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint")))
	standby.Frontend().Send(&pgproto3.CopyData{Data: report})
	require.NoError(t, standby.Frontend().Flush())
	require.Eventually(t, func() bool {
		return one[bool](s, "select xmin is not null from pg_replication_slots")
	}, patience, time.Millisecond)
	s.rotate()
	require.Equal(t, "cleaned", s.prune())
	require.Equal(t, "waiting", s.prune())
	require.Equal(t, []string{"replication slot standby"}, list[string](s, "select unnest(old_snapshots) from awa.ring"))
	require.NoError(t, standby.Close(t.Context()))
	require.Eventually(t, func() bool { return s.try("select pg_drop_replication_slot('standby')") == nil }, patience,
		time.Millisecond)
	s.prunes()
	require.Len(t, s.claim("q", 9), 1)
}

// A client that does not read what it has claimed is named, and after ten seconds ended by end_stuck_claimers, if the
// owner of the functions may.
func TestStuckClaimer(t *testing.T) {
	own := newServer(t)
	d := own.database("app", true)
	s := d.session()
	s.exec("create role worker login in role awa_worker")
	s.exec("grant awa_worker to worker")
	for _, queue := range []string{"q", "super"} {
		s.exec("select awa.enqueue_many($1, 'k', array_fill(to_jsonb(repeat('x', 1 << 20)), array[3]))", queue)
	}
	claims := func(url, queue string) *session {
		slow := database{t, url}.session()
		front := slow.db.PgConn().Frontend()
		front.Send(&pgproto3.Query{String: "select * from awa.claim('" + queue + "', 3)"})
		require.NoError(t, front.Flush())
		return slow
	}
	worker, super := claims(d.url+"&user=worker", "q"), claims(d.url, "super")
	named := func() []int32 {
		return list[int32](s,
			"select (details ->> 'pid')::int from awa.health() where topic = 'claimer' and level = 'warning' and message like "+
				"'%has not read%' order by details ->> 'queue'")
	}
	require.Eventually(t, func() bool { return len(named()) == 2 }, patience, 50*time.Millisecond)
	require.Equal(t, []int32{int32(worker.pid), int32(super.pid)}, named())

	require.Zero(t, one[int](s, "select ended from awa.end_stuck_claimers()"))
	require.Len(t, named(), 2, "awa_owner may not end them")
	s.exec("grant pg_signal_backend to awa_owner")
	require.Equal(t, 1, one[int](s, "select ended from awa.end_stuck_claimers()"))
	require.Eventually(t, func() bool { return len(named()) == 1 }, patience, time.Millisecond)
	require.Equal(t, []int32{int32(super.pid)}, named(), "a superuser's session is ended by superusers alone")
	require.Len(t, s.claim("q", 3), 1, "nothing was claimed")
	s.balanced()
}
