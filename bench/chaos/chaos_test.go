//go:build unix

package chaos

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The program is its own worker process.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == WorkerCommand {
		if err := WorkerMain(context.Background(), os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// The book says so where a promise is broken, and where it is not it says why a job ran again.
func TestBook(t *testing.T) {
	now := time.Now()
	enqueued := func(f fate) (*book, claim) {
		b := newBook()
		n := b.offer(bulk, 1)
		b.enqueue(n, 1, f, now)
		return b, claim{n: n, id: 7, receipt: 4096, attempt: 1}
	}
	for name, c := range map[string]struct {
		enqueue fate
		do      func(*book, claim)
		problem string
		again   string
	}{
		"completed": {held, func(b *book, c claim) {
			b.run([]claim{c}, true)
			b.end([]int64{c.n}, held, now)
		}, "", ""},
		"claimed before the enqueue was acknowledged": {open, func(b *book, c claim) { b.run([]claim{c}, true) }, "", ""},
		"a job that was rolled back": {refused, func(b *book, c claim) { b.run([]claim{c}, true) },
			"was not committed, and runs", ""},
		"a job out of nothing": {held, func(b *book, c claim) { b.run([]claim{{n: 2, id: 8}}, true) }, "never enqueued", ""},
		"two jobs of one enqueue": {held, func(b *book, c claim) { b.run([]claim{c, {n: c.n, id: 8, attempt: 1}}, true) },
			"is job 7 and job 8", ""},
		"a completed job runs again": {held, func(b *book, c claim) {
			b.run([]claim{c}, true)
			b.end([]int64{c.n}, held, now)
			b.run([]claim{c}, true)
		}, "after its completion was acknowledged", ""},
		"so does one of which that was learnt": {held, func(b *book, c claim) {
			b.run([]claim{c}, true)
			b.end([]int64{c.n}, learnt, now)
			b.run([]claim{c}, true)
		}, "after its completion was acknowledged", ""},
		"completed twice": {held, func(b *book, c claim) {
			b.run([]claim{c}, true)
			b.end([]int64{c.n, c.n}, held, now)
		}, "was completed twice", ""},
		"a claim that waited for the disk is forgotten": {held, func(b *book, c claim) {
			b.run([]claim{c}, true)
			b.isUp()
			b.run([]claim{c}, true)
		}, "waited for the disk", forgotten},
		"one that did not": {held, func(b *book, c claim) {
			b.run([]claim{c}, false)
			b.isUp()
			b.run([]claim{c}, true)
		}, "", forgotten},
		"given back": {held, func(b *book, c claim) { b.run([]claim{c, c}, false) }, "", givenBack},
		"the next attempt": {held, func(b *book, c claim) {
			b.run([]claim{c}, true)
			c.attempt++
			b.run([]claim{c}, true)
		}, "", leaseOver + " (bulk)"},
		"the attempt before, late": {held, func(b *book, c claim) {
			c.attempt++
			b.run([]claim{c}, true)
			b.end([]int64{c.n}, held, now)
			c.attempt--
			b.run([]claim{c}, true)
		}, "", late},
		"a failure": {held, func(b *book, c claim) {
			b.run([]claim{c}, true)
			b.fail([]int64{c.n})
			c.attempt++
			b.run([]claim{c}, true)
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b, first := enqueued(c.enqueue)
			c.do(b, first)
			if c.problem == "" {
				assert.Empty(t, b.problems)
			} else {
				require.Len(t, b.problems, 1)
				assert.Contains(t, b.problems[0], c.problem)
			}
			if c.again == "" {
				assert.Empty(t, b.again)
			} else {
				assert.Equal(t, map[string]int{c.again: 1}, b.again)
			}
		})
	}
}

// A server that is killed loses nothing; and the program would see it if it did: where somebody deletes jobs, or undoes
// a completion behind the back of the functions.
func TestRun(t *testing.T) {
	for name, f := range map[string]fault{
		"killed": {times: 1, strike: killServer},
		"lost": {times: 1, strike: func(ctx context.Context, r *rig, _ int) (time.Time, error) {
			return time.Now(), untilItHits(ctx, r, "delete from awa.deferred_jobs where state = 'scheduled'")
		}},
		"undone": {times: 1, strike: func(ctx context.Context, r *rig, _ int) (time.Time, error) {
			return time.Now(), untilItHits(ctx, r, `
				delete from awa.lease_claim_closures
				 where ctid = (select k.ctid from awa.lease_claim_closures k where k.outcome = 'completed' and k.items <> '{}'
				                order by k.claim_id desc limit 1)`)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f.name = name
			row, err := run(t.Context(), f, 1)
			said := strings.Join(row.problems, "\n")
			if err != nil {
				said += err.Error()
			}
			if name == "killed" {
				require.Empty(t, said)
				assert.Positive(t, row.acknowledged)
				assert.Zero(t, row.lost)
				return
			}
			require.NotEmpty(t, said)
			assert.Regexp(t, map[string]string{
				"lost": "is not there",
				// the second where maintenance had counted it before, and so never looks at it again
				"undone": "whose completion was acknowledged|there are open jobs",
			}[name], said)
		})
	}
}

// untilItHits runs a statement until it changes something.
func untilItHits(ctx context.Context, r *rig, sql string) error {
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for ctx.Err() == nil {
		done, err := conn.Exec(ctx, sql)
		if err != nil || done.RowsAffected() > 0 {
			return err
		}
	}
	return ctx.Err()
}

// Everything at random, for a moment: the books balance.
func TestSoak(t *testing.T) {
	require.NoError(t, soak(t.Context(), 3*time.Second, 1))
}
