package sql_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Promoters do not wait for each other, and each due job is promoted once; one that rolls back leaves its jobs to the others.
func TestTwoPromoters(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	promote := func(s *session) int64 { return one[int64](s, "select promoted from awa.promote_due()") }
	for range 3 {
		a.exec("select awa.enqueue('q', 'k', run_at => clock_timestamp() + interval '300 milliseconds')")
	}
	a.exec("select pg_sleep(0.3)")
	a.exec("begin")
	require.Equal(t, int64(3), promote(a))
	b.exec("set lock_timeout = '2s'")
	require.Zero(t, promote(b))
	a.exec("rollback")
	require.Equal(t, int64(3), promote(b))
	require.Zero(t, promote(a))
	require.Len(t, b.claim("q", 10), 3)
}

// A deferred job that commits long after it was due lies behind the horizon of the fast pass. The sweep finds it.
func TestDeferredJobThatCommitsLate(t *testing.T) {
	d := newDatabase(t)
	late, s := d.session(), d.session()
	promote := func() int64 { return one[int64](s, "select promoted from awa.promote_due()") }
	late.exec("begin")
	late.exec("select awa.enqueue('q', 'k', run_at => clock_timestamp() + interval '1 hour')")
	late.exec("update awa.deferred_jobs set run_at = clock_timestamp() - interval '1 minute'") // as if it had been open for an hour and a minute
	require.Zero(t, promote())
	late.exec("commit")
	require.Eventually(t, func() bool { return promote() == 1 }, patience, time.Millisecond)
}
