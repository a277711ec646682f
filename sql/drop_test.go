package sql_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A queue that is dropped while a producer has not committed yet: it does not wait, its job comes, and the queue is
// back.
func TestDropQueueBesideAnOpenEnqueue(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		for _, deferred := range []bool{false, true} {
			d := newDatabase(t)
			producer, s := d.session(), d.session().neverWaits()
			s.enqueueMany("q", 3)
			s.enqueueUnique("q", "key")
			s.claim("q", 1)
			one[int64](s, "select awa.enqueue('q', 'k', run_at => now() + interval '1 hour')")
			producer.exec("begin")
			late := one[int64](producer,
				"select awa.enqueue('q', 'k', run_at => case when $1 then now() + interval '1 hour' end)", deferred)
			require.Equal(t, "JQ005", sqlState(s.try("select awa.drop_queue('q')")))
			s.exec("select awa.drop_queue('q', true)")
			require.Zero(t, one[int](s, "select count(*) from awa.jobs"))
			require.Zero(t, one[int](s, "select count(*) from awa.unique_claims where job_id is not null"))
			require.Empty(t, s.claim("q", 9))
			require.Zero(t, one[int](s, "select count(*) from awa.queue_counts"))
			producer.exec(end)
			s.due()
			jobs := s.claim("q", 9)
			if end == "rollback" {
				require.Empty(t, jobs)
				require.Zero(t, one[int](s, "select count(*) from awa.queue_counts"))
				continue
			}
			require.Equal(t, []int64{late}, ids(jobs))
			s.balanced()
			require.Equal(t, []int64{1, 0},
				list[int64](s, "select unnest(array[running, available]) from awa.queue_counts('q')"))
			next := s.enqueueUnique("q", "key")
			require.Equal(t, []int64{next}, ids(s.claim("q", 9)))
			s.balanced()
		}
	}
}

// A queue that is dropped while its jobs run: the answers are stale, and the workers told.
func TestDropQueueThatRuns(t *testing.T) {
	for _, materialized := range []bool{false, true} {
		for _, end := range []string{"commit", "rollback"} {
			d := newDatabase(t)
			a, b, watcher := d.session(), d.session(), d.session()
			worker := a.registerWorker()
			jobs := a.enqueueMany("q", 3)
			keyed := a.enqueueUnique("q", "key")
			receipts := a.claimAs(worker, "q", 3)
			if materialized {
				a.materialize()
			}
			a.exec("begin")
			a.exec("select awa.drop_queue('q', true)")
			require.Equal(t, "running", b.state(jobs[0]))
			taken := b.answers(answers[0].call, claimed{jobs[0], receipts[0]})
			watcher.waitUntilBlocked(b)
			a.exec(end)
			require.Equal(t, end == "rollback", taken())
			if end == "rollback" {
				a.completes([]claimed{{jobs[1], receipts[1]}, {jobs[2], receipts[2]}})
				require.Equal(t, []int64{keyed}, ids(a.claim("q", 9)))
				a.balanced()
				continue
			}
			for i, job := range jobs {
				a.refuses(claimed{job, receipts[i]})
			}
			require.Len(t, a.lost(worker), 3)
			require.Zero(t, one[int](a, "select count(*) from awa.leases"))
			require.Empty(t, a.claim("q", 9))
			a.enqueueUnique("q", "key")
			require.Len(t, a.claim("q", 9), 1)
			a.balanced()
		}
	}
}

// A business transaction that completes a job of the queue: the drop waits for a bounded time.
func TestDropQueueBesideAnOpenComplete(t *testing.T) {
	for _, shape := range shapes {
		d := newDatabase(t)
		a, b, watcher := d.session(), d.session(), d.session()
		jobs := a.open("q", shape)
		a.setClaimWait("20 milliseconds")
		a.exec("begin")
		a.exec("select awa.complete($1, $2)", jobs[0].JobID, jobs[0].Receipt)
		require.Equal(t, "55P03", sqlState(b.try("select awa.drop_queue('q', true)")))
		b.setClaimWait("9 seconds")
		wait := b.background("select awa.drop_queue('q', true)")
		watcher.waitUntilBlocked(b)
		a.exec("commit")
		require.NoError(t, wait())
		for _, j := range jobs {
			a.refuses(j)
		}
		require.Zero(t, one[int](a, "select count(*) from awa.unique_claims where job_id is not null"))
		a.enqueue("q")
		require.Len(t, a.claim("q", 9), 1)
		a.balanced()
	}
}

// What is committed while the drop waits for its locks is not lost: the queue is no longer empty.
func TestDropQueueKeepsWhatCommitsBesideIt(t *testing.T) {
	d := newDatabase(t)
	a, b, producer, watcher := d.session(), d.session(), d.session(), d.session()
	a.completes(a.open("q", shapes[0]))
	a.exec("begin")
	a.exec("select awa._fold()")
	wait := b.background("select awa.drop_queue('q')")
	watcher.waitUntilBlocked(b)
	late := producer.enqueue("q")
	keyed := producer.enqueueUnique("q", "key")
	one[int64](producer, "select awa.enqueue('q', 'k', run_at => now() + interval '1 hour')")
	a.exec("commit")
	require.Equal(t, "JQ005", sqlState(wait()))
	producer.balanced()
	require.Equal(t, []int64{late, keyed}, ids(b.claim("q", 9)))
}

// A job of the queue is being cancelled, or moved, in an open transaction, and the queue is dropped: it is too late for
// the change, and the counts stay right.
func TestDropQueueBesideAnOpenChange(t *testing.T) {
	for _, change := range []string{"select awa.cancel($1)", "select awa.set_priority($1, 4)",
		"select awa.move($1, 'other')", "select awa.reschedule($1, now() + interval '1 hour')"} {
		d := newDatabase(t)
		a, b := d.session(), d.session()
		job := a.enqueue("q")
		a.exec("begin")
		a.exec(change, job)
		b.exec("select awa.drop_queue('q', true)")
		b.balanced()
		require.Equal(t, "40001", sqlState(a.try("commit")))
		a.enqueue("q")
		a.balanced()
		for _, queue := range []string{"q", "other"} {
			a.completes(a.claim(queue, 9))
		}
		a.balanced()
	}
}

// A job that is scheduled, or waits for its group, or runs, is being cancelled in an open transaction: a drop waits for
// a bounded time, says for whom, and has dropped nothing; afterwards it drops all.
func TestDropQueueBesideAnOpenCancel(t *testing.T) {
	for _, state := range []string{"scheduled", "in line", "running", "running, with a row of its own"} {
		for _, end := range []string{"commit", "rollback"} {
			t.Log(state, end)
			d := newDatabase(t)
			a, b := d.session(), d.session()
			b.setClaimWait("50 milliseconds")
			var job int64
			switch state {
			case "scheduled":
				job = one[int64](b, "select awa.enqueue('q', 'k', run_at => now() + interval '1 hour')")
			case "in line":
				b.limits("q", `{"group_max_running": 1}`)
				job = b.enqueueInGroup("q", "g", 2)[1]
				b.claim("q", 9)
				require.Equal(t, []int64{job}, list[int64](b, "select job_id from awa.limited_jobs"))
			default:
				job = b.enqueue("q")
				b.claim("q", 1)
			}
			if state == "running, with a row of its own" {
				b.materialize()
			}
			other := b.enqueue("q")
			a.exec("begin")
			a.exec("select awa.cancel($1)", job)
			err := b.try("select awa.drop_queue('q', true)")
			require.Equal(t, "55P03", sqlState(err))
			require.Contains(t, detail(err), fmt.Sprintf(" for backend %d (", a.pid))
			require.Equal(t, "available", b.state(other))
			b.balanced()
			a.exec(end)
			b.exec("select awa.drop_queue('q', true)")
			require.Zero(t, one[int](b, "select count(*) from awa.jobs"))
			b.balanced()
		}
	}
}

// A job is given back, or promoted, or retried, while a forced drop waits for that: it goes with the queue.
func TestForcedDropQueueWaitsBeforeItDecides(t *testing.T) {
	for name, change := range map[string]func(*session, []claimed){
		"release": func(s *session, j []claimed) { s.exec("select awa.release($1, $2)", j[0].JobID, j[0].Receipt) },
		"fail": func(s *session, j []claimed) {
			s.exec("select awa.fail($1, $2, 'error', '0')", j[0].JobID, j[0].Receipt)
		},
		"snooze": func(s *session,
			j []claimed) {
			s.exec("select awa.snooze($1, $2, '1 hour')", j[0].JobID, j[0].Receipt)
		},
		"promote":      func(s *session, j []claimed) { s.exec("select awa.promote_due()") },
		"retry":        func(s *session, j []claimed) { s.exec("select awa.retry(id) from awa.jobs where state = 'failed'") },
		"retry a dead": func(s *session, j []claimed) { s.exec("select awa.retry(id) from awa.jobs where state = 'dead'") },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			d.t = t
			a, b, watcher := d.session(), d.session(), d.session()
			for _, deadLetter := range []bool{false, true} {
				j := a.openAlone("q", shapes[0])
				a.exec("select awa.configure_queue('q', jsonb_build_object('dead_letter', $1::boolean))", deadLetter)
				a.exec("select awa.discard($1, $2, 'error')", j[0].JobID, j[0].Receipt)
			}
			open := a.openAlone("q", shapes[2])
			a.exec("select awa.enqueue('q', 'k', run_at => now() + interval '1 hour')")
			a.exec("update awa.deferred_jobs set run_at = now() - interval '1 second'")
			a.exec("begin")
			change(a, open)
			require.Equal(t, 6, one[int](a, "select count(*) from awa.jobs where state <> 'completed'"))
			wait := b.background("select awa.drop_queue('q', true)")
			watcher.waitUntilBlocked(b)
			a.exec("commit")
			require.NoError(t, wait())
			require.Zero(t, one[int](a, "select count(*) from awa.jobs"))
			require.Zero(t, one[int](a, "select count(*) from awa.queue_counts"))
			require.Empty(t, a.claim("q", 9))
			a.enqueue("q")
			require.Len(t, a.claim("q", 9), 1)
			a.balanced()
		})
	}
}

// A queue that is configured, or paused, in an open transaction can't be dropped meanwhile; nor is one configured that
// is being dropped: its settings would be those of the next queue of that name.
func TestDropQueueBesideOpenSettings(t *testing.T) {
	for _, call := range []string{`select awa.configure_queue('q', '{"lease": "13 seconds"}')`,
		"select awa.pause_queue('q')"} {
		for _, configured := range []bool{false, true} {
			for _, dropFirst := range []bool{false, true} {
				d := newDatabase(t)
				a, b, watcher := d.session(), d.session(), d.session()
				a.exec("update awa.settings set claim_wait = '5 minutes'")
				a.enqueue("q")
				if configured {
					a.exec(`select awa.configure_queue('q', '{"deadline": "1 hour"}')`)
				}
				first, second := call, "select awa.drop_queue('q', true)"
				if dropFirst {
					first, second = second, first
				}
				a.exec("begin")
				a.exec(first)
				ended := b.background(second)
				watcher.waitUntilBlocked(b)
				a.exec("commit")
				require.NoError(t, ended())
				settings := list[string](a,
					"select concat_ws(' ', extract(epoch from lease)::int, extract(epoch from deadline)::int, paused_at is not "+
						"null) from awa.queue_settings")
				queues := one[int](a, "select count(*) from awa.queue_counts")
				if dropFirst {
					require.Len(t, settings, 1)
					require.NotContains(t, settings[0], "3600")
					require.Equal(t, 1, queues)
				} else {
					require.Empty(t, settings)
					require.Zero(t, queues)
				}
				a.balanced()
			}
		}
	}
}

// Two transactions make the same queue: whichever commits, it is there, with the settings of both.
func TestQueueMadeTwiceAtOnce(t *testing.T) {
	d := newDatabase(t)
	a, b, producer, watcher := d.session(), d.session(), d.session().neverWaits(), d.session()
	a.exec("begin")
	a.exec(`select awa.configure_queue('q', '{"lease": "13 seconds"}')`)
	producer.enqueue("q")
	paused := b.background("select awa.pause_queue('q')")
	watcher.waitUntilBlocked(b)
	a.exec("commit")
	require.NoError(t, paused())
	require.Equal(t, []string{"q"}, list[string](a, "select queue from awa.queue_counts"))
	require.Equal(t, []string{"00:00:13 t"},
		list[string](a, "select concat_ws(' ', lease, paused_at is not null) from awa.queue_settings"))
	require.Empty(t, a.claim("q", 1))
	a.exec("select awa.resume_queue('q')")
	require.Len(t, a.claim("q", 1), 1)
	a.balanced()
}
