package sql_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// mutable are the calls that need a row of its own for an attempt, or change it.
var mutable = []string{"select awa.extend($1, $2, '2 hours')", "select awa.set_progress($1, $2, '{\"at\": 1}')"}

// An attempt is answered for in a transaction that stays open: materialize leaves it alone and does not wait. Whether
// the answer counts is known at its end.
func TestMaterializeBesideAnOpenAnswer(t *testing.T) {
	for _, shape := range shapes[:4] {
		t.Run(shape.name, func(t *testing.T) {
			d := newDatabase(t)
			a, b := d.session(), d.session().neverWaits()
			for i, first := range append([]answer{{"select awa.cancel($1) where $2::bigint > 0", "cancelled"}}, answers...) {
				for _, end := range []string{"commit", "rollback"} {
					t.Log(first.call, end)
					queue := fmt.Sprint(i, end)
					jobs, others := a.open(queue, shape), a.open(queue+" others", shapes[2])
					a.exec("begin")
					a.exec(first.call, jobs[0].JobID, jobs[0].Receipt)
					left := a.keeps(jobs)
					require.Equal(t, int64(len(others)+len(jobs)-left), b.materialize(), "all but what is in use")
					require.Zero(t, b.materialize())
					a.exec(end)
					if end == "commit" {
						require.Equal(t, int64(left-1), b.materialize())
						require.Equal(t, first.state, b.state(jobs[0].JobID))
						require.False(t, b.answers(answers[0].call, jobs[0])())
					} else {
						require.Equal(t, int64(left), b.materialize())
						b.completes(jobs[:1])
					}
					b.refuses(jobs[0])
					b.completes(append(jobs[1:], others...))
				}
			}
			b.balanced()
		})
	}
}

// A batch that is completed in a transaction that stays open is left alone as a whole.
func TestMaterializeBesideAnOpenCompleteMany(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b := d.session(), d.session().neverWaits()
		jobs := append(a.open("q", shapes[3]), a.open("r", shapes[1])...)
		a.exec("begin")
		require.Empty(t, a.completeMany(jobs))
		require.Zero(t, b.materialize())
		a.exec(end)
		require.Equal(t, map[string]int64{"commit": 0, "rollback": 4}[end], b.materialize())
		b.balanced()
		stale := b.completeMany(jobs)
		if end == "commit" {
			require.Equal(t, ids(jobs), stale)
		} else {
			require.Empty(t, stale)
		}
		b.balanced()
	}
}

// The other way round: answers wait for materialize, and count, wherever the attempt is then.
func TestAnswerBesideAnOpenMaterialize(t *testing.T) {
	for _, shape := range shapes[:4] {
		t.Run(shape.name, func(t *testing.T) {
			d := newDatabase(t)
			a, b, watcher := d.session(), d.session(), d.session()
			for i, second := range append([]answer{{"select awa.cancel($1) where $2::bigint > 0", "cancelled"}}, answers...) {
				for _, end := range []string{"commit", "rollback"} {
					t.Log(second.call, end)
					jobs := a.open(fmt.Sprint(i, end), shape)
					a.exec("begin")
					require.Equal(t, int64(len(jobs)), a.materialize())
					require.Equal(t, "running", a.state(jobs[0].JobID))
					taken := b.answers(second.call, jobs[0])
					watcher.waitUntilBlocked(b)
					a.exec(end)
					require.True(t, taken())
					require.Equal(t, second.state, a.state(jobs[0].JobID))
					a.refuses(jobs[0])
					a.completes(jobs[1:])
				}
			}
			a.balanced()
		})
	}
}

// A batch of answers beside a materialize of the same claims: all of them count, together.
func TestCompleteManyBesideAnOpenMaterialize(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b, watcher := d.session(), d.session(), d.session()
		jobs := append(append(a.open("q", shapes[3]), a.open("r", shapes[1])...), a.open("s", shapes[2])...)
		a.exec("begin")
		require.Equal(t, int64(len(jobs)), a.materialize())
		wait := b.background("create temp table stale as select awa.complete_many($1, $2, $3)", ids(jobs), receipts(jobs),
			[]any{nil, 1, 2, nil, 3, nil, 4})
		watcher.waitUntilBlocked(b)
		a.exec(end)
		require.NoError(t, wait())
		require.Zero(t, one[int](b, "select count(*) from stale"))
		require.Equal(t, len(jobs), one[int](b, "select count(*) from awa.jobs where state = 'completed'"))
		require.Equal(t, 4, one[int](b, "select count(output) from awa.jobs"))
		require.Zero(t, one[int](b, "select count(*) from awa.leases"))
		b.balanced()
	}
}

// Two passes at once: each attempt gets one row, and neither waits.
func TestTwoMaterializesAtOnce(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b := d.session(), d.session().neverWaits()
		jobs := append(a.open("q", shapes[3]), a.open("r", shapes[1])...)
		a.balanced()
		a.exec("update awa.queue_rollups set folded_at = '-infinity'") // both passes count
		a.exec("begin")
		require.Equal(t, int64(4), a.materialize())
		more := b.open("t", shapes[2])
		require.Equal(t, int64(3), b.materialize())
		require.Zero(t, b.materialize())
		a.exec(end)
		require.Equal(t, map[string]int64{"commit": 0, "rollback": 4}[end], b.materialize())
		b.balanced()
		b.completes(append(jobs, more...))
		b.balanced()
	}
}

// Passes that count a lane for the first time do not wait for each other either, nor for somebody who drops a queue.
func TestFirstPassesAtOnce(t *testing.T) {
	for _, first := range []string{"select awa.materialize('0')", "select awa.rescue()",
		"select awa.drop_queue('other', true)"} {
		t.Run(first, func(t *testing.T) {
			d := newDatabase(t)
			a, b := d.session(), d.session().neverWaits()
			a.enqueue("other")
			worker := a.registerWorker()
			a.enqueueMany("q", 2)
			a.claim("q", 1)
			a.exec("begin")
			a.exec(first)
			b.exec("select awa.rescue()")
			b.materialize()
			b.exec("select awa.deregister_worker($1)", worker)
			a.exec("commit")
			b.balanced()
		})
	}
}

// extend and set_progress give an attempt a row of its own. Beside an open one no other session ends the attempt:
// rescue skips it, a cancel and another answer wait.
func TestRescueBesideAnOpenExtend(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			d := newDatabase(t)
			a, b := d.session(), d.session().neverWaits()
			for i, call := range mutable {
				for _, end := range []string{"commit", "rollback"} {
					t.Log(call, end)
					jobs := a.open(fmt.Sprint(i, end), shape)
					a.halfAnHourLater()
					a.exec("begin")
					a.exec(call, jobs[0].JobID, jobs[0].Receipt)
					left := 1
					require.Equal(t, int64(len(jobs)-left), b.rescue())
					b.materialize()
					require.Equal(t, "running", b.state(jobs[0].JobID))
					a.exec(end)
					if i == 0 && end == "commit" {
						left-- // it has two hours more
					}
					require.Equal(t, int64(left), b.rescue())
					if i == 0 && end == "commit" {
						b.completes(jobs[:1])
					} else {
						require.Equal(t, "retryable", b.state(jobs[0].JobID))
						require.Equal(t, i == 1 && end == "commit",
							one[bool](b, "select progress is not null from awa.job($1)", jobs[0].JobID))
					}
					b.refuses(jobs[0])
				}
			}
			b.balanced()
		})
	}
}

// The other way round: they wait for what may end the attempt.
func TestExtendBesideAnOpenEnding(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			d := newDatabase(t)
			a, b, watcher := d.session(), d.session(), d.session()
			for i, call := range mutable {
				for k, ending := range []answer{
					{"select awa.rescue() where $1::bigint > 0 and $2::bigint > 0", "retryable"},
					{"select awa.cancel($1) where $2::bigint > 0", "cancelled"},
					{"select awa.materialize('0') where $1::bigint > 0 and $2::bigint > 0", "running"},
					answers[0], answers[3], answers[7],
				} {
					if k == 2 && shape.materialized {
						continue // it has a row already
					}
					for _, end := range []string{"commit", "rollback"} {
						t.Log(call, ending.call, end)
						jobs := a.open(fmt.Sprint(i, k, end), shape)
						j := jobs[0]
						a.halfAnHourLater()
						a.exec("begin")
						a.exec(ending.call, j.JobID, j.Receipt)
						wait := b.background(call, j.JobID, j.Receipt)
						watcher.waitUntilBlocked(b)
						a.exec(end)
						if err := wait(); end == "commit" && k != 2 {
							require.Equal(t, "JQ001", sqlState(err))
							require.Equal(t, ending.state, a.state(j.JobID))
							a.refuses(j)
						} else {
							require.NoError(t, err)
							require.Equal(t, "running", a.state(j.JobID))
							a.completes(jobs[:1])
						}
						a.rescue()
					}
				}
			}
			a.balanced()
		})
	}
}

// And the other way round again: who ends the attempt waits for them.
func TestEndingBesideAnOpenExtend(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			d := newDatabase(t)
			a, b, watcher := d.session(), d.session(), d.session()
			for i, call := range mutable {
				for k, ending := range []answer{{"select awa.cancel($1) where $2::bigint > 0", "cancelled"}, answers[0], answers[1],
					answers[2], answers[5], answers[7], answers[9]} {
					for _, end := range []string{"commit", "rollback"} {
						t.Log(call, ending.call, end)
						jobs := a.open(fmt.Sprint(i, k, end), shape)
						j := jobs[0]
						a.exec("begin")
						a.exec(call, j.JobID, j.Receipt)
						taken := b.answers(ending.call, j)
						watcher.waitUntilBlocked(b)
						a.exec(end)
						require.True(t, taken())
						require.Equal(t, ending.state, a.state(j.JobID))
						require.Equal(t, i == 1 && end == "commit" && ending.state != "completed",
							one[bool](b, "select progress is not null from awa.job($1)", j.JobID))
						a.refuses(j)
						a.completes(jobs[1:])
					}
				}
			}
			a.balanced()
		})
	}
}

// Two at once for one attempt: both count.
func TestExtendTwiceAtOnce(t *testing.T) {
	for _, shape := range shapes {
		for _, end := range []string{"commit", "rollback"} {
			t.Log(shape.name, end)
			d := newDatabase(t)
			a, b, watcher := d.session(), d.session(), d.session()
			jobs := a.open("q", shape)
			j := jobs[0]
			a.exec("begin")
			a.exec(mutable[1], j.JobID, j.Receipt)
			wait := b.background(mutable[0], j.JobID, j.Receipt)
			watcher.waitUntilBlocked(b)
			a.exec(end)
			require.NoError(t, wait())
			require.Equal(t, end == "commit", one[bool](a, "select progress is not null from awa.job($1)", j.JobID))
			a.halfAnHourLater()
			require.Equal(t, int64(len(jobs)-1), a.rescue())
			a.completes(jobs[:1])
			a.balanced()
		}
	}
}
