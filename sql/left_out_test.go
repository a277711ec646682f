package sql_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// keeping are the calls that keep other sessions off an attempt until their transaction ends, and the state that
// follows when it commits.
var keeping = []answer{
	{"select awa.cancel($1) where $2::bigint > 0", "cancelled"},
	{"select awa.extend($1, $2, '2 hours')", "running"},
	{"select awa.complete($1, $2)", "completed"},
	// for two answers it locks the whole claim; one that is given twice counts once
	{"select awa.fail_many(array[$1::bigint, $1], array[$2::bigint, $2], '{e,e}', '{1 hour,1 hour}')", "retryable"},
}

// One attempt that another session is answering for, or changing, in a transaction that stays open keeps none of the
// worker's other attempts from being given back. It can be given back later, uncounted.
func TestReleaseLeavesOutWhatOthersKeep(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	b.setClaimWait("100 milliseconds")
	for _, call := range []string{"select awa.deregister_worker($1)", "select awa.release_unknown($1, '{}', '{}')"} {
		for _, materialized := range []bool{false, true} {
			for _, first := range keeping {
				for _, end := range []string{"commit", "rollback"} {
					t.Log(call, materialized, first.call, end)
					q := fmt.Sprint(call, materialized, first.call, end)
					worker := b.registerWorker()
					jobs := b.enqueueMany(q, 9)
					receipts := append(append(b.claimAs(worker, q, 5), b.claimAs(worker, q, 1)...),
						b.claimAs(worker, q, 3)...)
					if materialized {
						b.materialize()
					}
					for _, held := range []int{2, 5} { // among others of its claim, and alone
						a.exec("begin")
						a.exec(first.call, jobs[held], receipts[held])
						left := one[int64](b, "select count(*) from awa.jobs where state = 'running'")
						want := left - 1
						if first.call == keeping[3].call && held == 2 {
							want -= 4 // the whole claim is kept
						}
						require.Equal(t, want, one[int64](b, call, worker))
						require.Equal(t, "running", b.state(jobs[held]))
						require.Equal(t, "0", one[string](b, "show lock_timeout"))
						a.exec(end)
						if end == "commit" && first.state != "running" {
							require.Equal(t, first.state, b.state(jobs[held]))
						}
						b.exec("select awa.release_unknown($1, '{}', '{}')", worker)
						require.Zero(t, one[int](b, "select count(*) from awa.jobs where state = 'running'"))
						require.Zero(t, one[int](b, "select count(*) from awa.jobs where state = 'available' and attempt > 0"))
						if held == 2 { // the same for the second one, alone in its claim
							worker = b.registerWorker()
							b.exec("select awa.cancel_where($1)", q)
							jobs = append(make([]int64, 5), b.enqueueMany(q, 4)...)
							receipts = append(append(make([]int64, 5), b.claimAs(worker, q, 1)...), b.claimAs(worker, q, 3)...)
							if materialized {
								b.materialize()
							}
						}
					}
					b.balanced()
				}
			}
		}
	}
}

// Nor does it keep cancel_where from the others; nor does a job that waits, and that another session is changing.
func TestCancelWhereLeavesOutWhatOthersKeep(t *testing.T) {
	waiting := []answer{{"select awa.cancel($1) where $2::bigint is null", "cancelled"},
		{"select awa.move($1, 'elsewhere') where $2::bigint is null", "available"},
		{"select awa.set_priority($1, 1) where $2::bigint is null", "available"},
		{"select awa.reschedule($1, now() + interval '1 hour') where $2::bigint is null", "scheduled"}}
	for n, first := range append(waiting, append(keeping, keeping...)...) {
		for _, end := range []string{"commit", "rollback"} {
			isRunning, materialized := n >= len(waiting), n >= len(waiting)+len(keeping)
			t.Log(first.call, isRunning, materialized, end)
			d := newDatabase(t)
			a, b := d.session(), d.session()
			b.setClaimWait("100 milliseconds")
			jobs := b.enqueueMany("q", 9)
			var receipt any
			if isRunning {
				open := append(b.claim("q", 5), b.claim("q", 2)...)
				receipt = open[2].Receipt
			}
			if materialized {
				b.materialize()
			}
			a.exec("begin")
			a.exec(first.call, jobs[2], receipt)
			want := int64(8)
			if first.call == keeping[3].call {
				want -= 4 // the whole claim is kept
			}
			require.Equal(t, want, one[int64](b, "select awa.cancel_where('q')"))
			require.NotEqual(t, "cancelled", b.state(jobs[2]))
			require.Zero(t, one[int64](b, "select awa.cancel_where('q', state => 'available')"))
			a.exec(end)
			if end == "commit" {
				require.Equal(t, first.state, b.state(jobs[2]))
			}
			b.exec("select awa.cancel_where(kind => 'k')")
			require.Zero(t, one[int](b, "select count(*) from awa.jobs where state not in ('cancelled', 'completed')"))
			b.balanced()
		}
	}
}

// One ended job whose unique key another session is about to take keeps none of the others from running again; nor does
// one that this transaction itself has put into the same place before.
func TestRetryWhereLeavesOutWhatOthersKeep(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		for _, filter := range []string{"'q'", "kind => 'k'", "'q', state => 'failed'"} {
			t.Log(end, filter)
			d := newDatabase(t)
			a, b := d.session(), d.session()
			b.setClaimWait("100 milliseconds")
			for key := range 9 {
				b.exec("select awa.enqueue_unique('q', 'k', unique_key => $1)", fmt.Sprint(key))
			}
			jobs := b.claim("q", 9)
			for _, j := range jobs {
				b.exec("select awa.discard($1, $2, 'error')", j.JobID, j.Receipt)
			}
			a.exec("begin")
			a.exec("select awa.enqueue_unique('q', 'k', unique_key => k) from unnest('{2,7}'::text[]) k")
			require.Equal(t, 7, one[int](b, "select awa.retry_where("+filter+")"))
			require.Equal(t, "0", one[string](b, "show lock_timeout"))
			require.Equal(t, "failed", b.state(jobs[2].JobID))
			require.Equal(t, "failed", b.state(jobs[7].JobID))
			a.exec(end)
			want := 0
			if end == "rollback" {
				want = 2
			}
			require.Equal(t, want, one[int](b, "select awa.retry_where("+filter+")"))
			require.Len(t, b.claim("q", 20), 9)
			require.Empty(t, list[string](b, keysThatAreWrong))
			b.balanced()
		}
	}

	d := newDatabase(t)
	s := d.session()
	s.enqueue("q")
	s.exec("select awa.cancel(id) from awa.jobs")
	s.exec("begin")
	s.exec("select awa.cancel($1)", s.enqueue("q"))
	require.Equal(t, 1, one[int](s, "select awa.retry_where('q')"))
	s.exec("commit")
	require.Equal(t, 1, one[int](s, "select awa.retry_where('q')"))
	require.Len(t, s.claim("q", 9), 2)
	s.balanced()
}

// Where many are kept, what is left is given back all the same, in a bounded time.
func TestReleaseBesideManyOpenChanges(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	b.setClaimWait("100 milliseconds")
	worker := b.registerWorker()
	const jobs, kept = 2000, 4
	b.enqueueMany("q", jobs)
	for range jobs / 500 {
		b.claimAs(worker, "q", 500)
	}
	a.exec("begin")
	a.exec("select awa.cancel(j.id) from (select id from awa.jobs where id % 500 = 7) j")
	require.Equal(t, kept, one[int](a, "select count(*) from awa.jobs where state = 'cancelled'"))
	require.Equal(t, int64(jobs-kept), one[int64](b, "select awa.deregister_worker($1)", worker))
	a.exec("commit")
	b.balanced()
}
