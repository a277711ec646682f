package sql_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// lanes is the lanes of a queue that are known to be in use, by their priorities, with a row for each of them.
func (s *session) lanes(queue string) []int {
	s.Helper()
	return list[int](s,
		"select (lane & 511)::int from awa.queues where name = $1 and lane is not null order by lane", queue)
}

func (s *session) enqueueWithPriority(queue string, priority int) int64 {
	s.Helper()
	return one[int64](s, "select awa.enqueue($1, 'k', priority => $2)", queue, priority)
}

// A lane is noted by its first job. The note goes with a savepoint, and then the next job notes it again.
func TestALaneNotedInASavepoint(t *testing.T) {
	d := newDatabase(t)
	producer, s := d.session(), d.session()
	producer.exec("begin")
	producer.exec("savepoint s")
	producer.enqueueWithPriority("q", 1)
	producer.exec("rollback to s")
	job := producer.enqueueWithPriority("q", 1)
	producer.exec("savepoint s")
	again := producer.enqueueWithPriority("q", 1)
	producer.exec("rollback to s")
	require.NotEqual(t, job, again)
	require.Empty(t, s.claim("q", 9))
	producer.exec("commit")
	require.Equal(t, []int64{job}, ids(s.claim("q", 9)))
	require.Equal(t, []int{1}, s.lanes("q"))
	s.balanced()
}

// Two producers of a new lane do not wait for each other. Each notes it, so that neither's jobs depend on the other's
// end.
func TestTwoProducersOfANewLane(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		first, second, s := d.session(), d.session().neverWaits(), d.session()
		s.enqueueWithPriority("q", 2)
		first.exec("begin")
		job := first.enqueueWithPriority("q", 1)
		other := second.enqueueWithPriority("q", 1)
		require.Equal(t, []int64{other}, ids(s.claim("q", 1)))
		first.exec(end)
		if end == "commit" {
			require.Equal(t, []int64{job}, ids(s.claim("q", 1)))
			require.Equal(t, []int{1, 1, 2}, s.lanes("q"))
		}
		third := s.enqueueWithPriority("q", 1)
		require.Equal(t, []int64{third}, ids(s.claim("q", 1)))
		s.balanced()
	}
}

// A queue that is dropped beside a producer: of a lane that the producer notes itself, or that it has found noted. Its
// job comes after its commit, and so does that of a producer that comes later. The names go, at last, with the lanes.
func TestLanesOfADroppedQueue(t *testing.T) {
	for _, priority := range []int{1, 2} {
		for _, isolation := range []string{"read committed", "repeatable read"} {
			for _, later := range []bool{false, true} {
				d := newDatabase(t)
				producer, s := d.session(), d.session().neverWaits()
				s.enqueueWithPriority("q", 2)
				producer.exec("begin isolation level " + isolation)
				var job int64
				if isolation == "read committed" {
					job = producer.enqueueWithPriority("q", priority)
				} else {
					one[int](producer, "select 1") // a snapshot, and no id
				}
				s.exec("select awa.drop_queue('q', true)")
				for _, table := range []string{"ready_entries", "ready_tombstones", "arrivals"} {
					s.exec("delete from awa." + table) // as after their retention
				}
				for range 3 {
					s.exec("select setval('awa.next_fold_at', 1), awa._fold()") // forgets what is left of dropped queues
				}
				require.NotEmpty(t, s.lanes("q"), "the producer may count on them")
				if isolation == "read committed" {
					producer.exec("rollback")
					require.Eventually(t, func() bool { // when what other tests have open has ended, too
						s.exec("select setval('awa.next_fold_at', 1), awa._fold()")
						return len(s.lanes("q")) == 0
					}, patience, time.Millisecond)
					s.enqueueWithPriority("q", 2)
					producer.exec("begin")
					job = producer.enqueueWithPriority("q", priority)
					s.exec("select awa.drop_queue('q', true)")
				} else {
					job = producer.enqueueWithPriority("q", priority)
				}
				var after []int64
				if later {
					after = []int64{s.enqueueWithPriority("q", 4)}
					require.Equal(t, after, ids(s.claim("q", 9)))
				}
				producer.exec("commit")
				require.Equal(t, []int64{job}, ids(s.claim("q", 9)))
				require.Equal(t, int64(1+len(after)), one[int64](s, "select running from awa.queue_counts('q')"))
				job = s.enqueueWithPriority("q", priority)
				require.Equal(t, []int64{job}, ids(s.claim("q", 9)))
				s.balanced()
			}
		}
	}
}

// Whatever puts a job into a lane notes it: no other lane is looked at.
func TestWhoeverAppendsNotesTheLane(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for name, appends := range map[string]func(queue string) (job int64, lane int){
		"released": func(queue string) (int64, int) {
			job := s.enqueueWithPriority(queue, 3)
			c := s.claim(queue, 1)[0]
			s.exec("select awa.release($1, $2)", c.JobID, c.Receipt)
			return job, 0
		},
		"of a worker that left": func(queue string) (int64, int) {
			job := s.enqueueWithPriority(queue, 3)
			worker := s.registerWorker()
			require.Len(t, s.claimAs(worker, queue, 1), 1)
			s.exec("select awa.deregister_worker($1)", worker)
			return job, 0
		},
		"promoted": func(queue string) (int64, int) {
			job := one[int64](s, "select awa.enqueue($1, 'k', priority => 4, run_at => now() + interval '1 hour')", queue)
			s.exec("update awa.deferred_jobs set run_at = now()")
			require.Equal(t, int64(1), s.promote())
			return job, 4
		},
		"of another priority": func(queue string) (int64, int) {
			job := s.enqueueWithPriority(queue, 3)
			s.exec("select awa.set_priority($1, 1)", job)
			return job, 1
		},
		"scheduled, of another priority": func(queue string) (int64, int) {
			job := one[int64](s, "select awa.enqueue($1, 'k', run_at => now() + interval '1 hour')", queue)
			s.exec("select awa.set_priority($1, 1)", job)
			s.exec("update awa.deferred_jobs set run_at = now()")
			require.Equal(t, int64(1), s.promote())
			return job, 1
		},
		"moved": func(queue string) (int64, int) {
			job := s.enqueueWithPriority("other", 4)
			s.exec("select awa.move($1, $2)", job, queue)
			return job, 4
		},
		"released, then of another priority, then retried": func(queue string) (int64, int) {
			job := s.enqueueWithPriority(queue, 3)
			c := s.claim(queue, 1)[0]
			s.exec("select awa.release($1, $2)", c.JobID, c.Receipt)
			s.exec("select awa.set_priority($1, 1)", job)
			c = s.claim(queue, 1)[0]
			s.exec("select awa.fail($1, $2, 'e')", c.JobID, c.Receipt)
			s.exec("select awa.retry($1)", job)
			return job, 1
		},
		"retried": func(queue string) (int64, int) {
			job := one[int64](s, "select awa.enqueue($1, 'k', priority => 4, max_attempts => 1)", queue)
			c := s.claim(queue, 1)[0]
			s.exec("select awa.fail($1, $2, 'e')", c.JobID, c.Receipt)
			s.exec("select awa.retry($1)", job)
			return job, 4
		},
	} {
		t.Run(name, func(t *testing.T) {
			job, lane := appends(name)
			require.Contains(t, s.lanes(name), lane)
			require.Equal(t, []int64{job}, ids(s.claim(name, 9)))
			s.balanced()
		})
	}
}
