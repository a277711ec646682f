package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func (s *session) rotate() {
	s.Helper()
	require.True(s, one[bool](s, "select rotated from awa.rotate(true)"))
}

func (s *session) prune() string {
	s.Helper()
	return one[string](s, "select outcome from awa.prune_oldest(true)")
}

// prunes calls prune_oldest until the oldest segment is gone.
func (s *session) prunes() {
	s.Helper()
	for range 10 {
		switch outcome := s.prune(); outcome {
		case "truncated":
			return
		case "cleaned", "truncating":
		default:
			require.Fail(s, "not pruned", outcome)
		}
	}
}

// Out of a segment that is emptied comes what is alive: entries keep their places, attempts their receipts, quiet lanes their cursors, and nothing is counted twice.
func TestPruneCarriesWhatIsAlive(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	jobs := s.enqueueMany("q", 6)
	waits := s.enqueueUnique("paused", "key")
	running := s.claim("q", 4)
	s.completes(running[:2])
	s.exec("select awa.cancel($1)", jobs[4])
	s.completes(s.open("quiet", shapes[0]))
	s.rotate()
	next := s.enqueue("q")
	s.balanced()
	s.prunes()
	require.Zero(t, one[int](s, "select count(*) from awa.ready_entries where segment = 0"))
	require.Equal(t, []string{"running", "running", "cancelled", "available", "available"},
		list[string](s, "select state from awa.jobs where id = any($1) order by id", append(jobs, next)))
	require.Equal(t, int64(2), one[int64](s, "select completed from awa.queue_counts('q')"))
	require.Equal(t, int64(1), one[int64](s, "select completed from awa.queue_counts('quiet')"))
	require.Equal(t, []int64{jobs[5], next}, ids(s.claim("q", 9)), "in their places")
	require.Equal(t, []int64{waits}, ids(s.claim("paused", 9)))
	require.Empty(t, s.claim("quiet", 9), "its cursor is there")
	s.completes(running[2:])
	require.Len(t, s.open("quiet", shapes[0]), 1)
	for range 8 { // twice around the ring
		s.rotate()
		s.prunes()
	}
	require.Equal(t, int64(4), one[int64](s, "select completed from awa.queue_counts('q')"))
	require.Equal(t, int64(2), one[int64](s, "select running from awa.queue_counts('q')"))
}

// The next segment is not empty: the current one goes on.
func TestRotateOntoAFullSegment(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for range 3 {
		s.enqueue("q")
		s.rotate()
	}
	last := s.enqueue("q")
	require.False(t, one[bool](s, "select rotated from awa.rotate(true)"))
	require.Len(t, s.claim("q", 9), 4)
	require.Equal(t, int64(3), one[int64](s, "select segment::bigint from awa.ready_entries where job_id = $1", last))
}

// A producer began before the rotation, and commits after the cleaning: its job is not lost, nor are those that were carried doubled.
func TestPruneBesideAnOpenEnqueue(t *testing.T) {
	d := newDatabase(t)
	producer, s := d.session(), d.session().neverWaits()
	first := s.enqueue("q")
	producer.exec("begin")
	late := producer.enqueue("q")
	s.rotate()
	require.Equal(t, "cleaned", s.prune())
	require.Contains(t, []string{"blocked", "waiting"}, s.prune(), "it has written there, and may have a snapshot")
	producer.exec("commit")
	require.Equal(t, "busy", s.prune(), "something came after the cleaning")
	s.balanced()
	require.Equal(t, "available", s.state(late))
	s.prunes()
	s.balanced()
	require.Equal(t, []int64{first, late}, ids(s.claim("q", 9)))
}

// The same with a burial: the job that was carried stays cancelled.
func TestPruneBesideAnOpenCancel(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		operator, s := d.session(), d.session().neverWaits()
		job := s.enqueueUnique("q", "key")
		operator.exec("begin")
		operator.exec("select awa.cancel($1)", job)
		s.rotate()
		require.Equal(t, "cleaned", s.prune())
		operator.exec(end)
		for s.prune() != "truncated" {
			s.balanced()
		}
		s.balanced()
		require.Equal(t, map[string]int{"commit": 0, "rollback": 1}[end], len(s.claim("q", 9)))
	}
}

// Attempts that somebody is answering for are left alone, and the segment with them.
func TestPruneBesideAnOpenComplete(t *testing.T) {
	for _, shape := range shapes {
		for _, end := range []string{"commit", "rollback"} {
			d := newDatabase(t)
			a, s := d.session(), d.session().neverWaits()
			jobs := s.open("q", shape)
			a.exec("begin")
			a.exec("select awa.complete($1, $2)", jobs[0].JobID, jobs[0].Receipt)
			s.rotate()
			if !shape.lasts {
				require.Equal(t, "busy", s.prune())
			}
			a.exec(end)
			s.prunes()
			s.claim("q", 9)
			if end == "commit" {
				s.refuses(jobs[0])
				jobs = jobs[1:]
			}
			s.completes(jobs)
			require.Zero(t, one[int64](s, "select running + available from awa.queue_counts('q')"))
			require.Equal(t, int64(shape.jobs), one[int64](s, "select completed from awa.queue_counts('q')"))
		}
	}
}

// A reader whose snapshot is older than the cleaning sees every job that is alive, also where it locks the tables only now; the truncation waits for it.
func TestPruneBesideAnOldSnapshot(t *testing.T) {
	d := newDatabase(t)
	reader, s := d.session(), d.session().neverWaits()
	job := s.enqueue("q")
	s.completes(s.open("q", shapes[0])[:0])
	reader.exec("begin isolation level repeatable read")
	reader.exec("select 1 from awa.settings")
	s.rotate()
	require.Equal(t, "cleaned", s.prune())
	require.Equal(t, "waiting", s.prune())
	require.Equal(t, "running", reader.state(job))
	require.Equal(t, "running", s.state(job))
	reader.exec("commit")
	s.prunes()
	require.Equal(t, "running", s.state(job))
}

// Two pruners, and somebody who holds a lock on a table: nobody waits for long.
func TestPruneBesideLocks(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session().neverWaits()
	s.enqueue("q")
	s.rotate()
	a.exec("begin")
	a.exec("select awa.prune_oldest(true)")
	require.Equal(t, "busy", s.prune())
	require.False(t, one[bool](s, "select rotated from awa.rotate(true)"))
	a.exec("commit")
	a.exec("begin")
	a.exec("lock table awa.ready_entries_0 in access share mode")
	require.Equal(t, "blocked", s.prune())
	s.exec("update awa.settings set completed_retention = '0'")
	require.Equal(t, "blocked", one[string](s, "select outcome from awa.prune_oldest()"), "it is not tried again at once")
	require.Len(t, s.claim("q", 9), 1)
	a.exec("commit")
	s.prunes()
	require.True(t, one[bool](s, "select stuck_since is null and tries = 0 and outcome is null from awa.ring"))
}
