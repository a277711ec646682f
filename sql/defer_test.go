package sql_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Promoters do not wait for each other, and each due job is promoted once; one that rolls back leaves its jobs to the
// others.
func TestTwoPromoters(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	promote := func(s *session) int64 { return one[int64](s, "select promoted from awa.promote_due()") }
	for range 3 {
		a.exec("select awa.enqueue('q', 'k', run_at => clock_timestamp() + interval '1 hour')")
	}
	a.exec("update awa.deferred_jobs set run_at = clock_timestamp()")
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
	// as if it had been open for an hour and a minute
	late.exec("update awa.deferred_jobs set run_at = clock_timestamp() - interval '1 minute'")
	require.Zero(t, promote())
	late.exec("commit")
	require.Eventually(t, func() bool { return promote() == 1 }, patience, time.Millisecond)
}

// lateCommit is a job that was due so long ago, and committed just now.
func (s *session) lateCommit(ago string) int64 {
	s.Helper()
	job := one[int64](s, "select awa.enqueue('q', 'k', run_at => clock_timestamp() + interval '1 hour')")
	s.exec("update awa.deferred_jobs set run_at = clock_timestamp() - $1::interval where job_id = $2", ago, job)
	return job
}

func (s *session) promote() int64 {
	s.Helper()
	return one[int64](s, "select promoted from awa.promote_due()")
}

// A sweep that is cut off, by a statement_timeout say, is not begun again at once: the pause doubles, and what is due
// is promoted meanwhile. It goes on in smaller pieces, which find late commits of any age.
func TestSweepThatIsCutOff(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	require.Zero(t, s.promote())
	s.exec("create function cut_off() returns trigger language plpgsql as $$ begin if old.run_at < now() - interval '5 " +
		"seconds' then raise query_canceled; end if; return old; end $$")
	s.exec("create trigger cut_off before delete on awa.deferred_jobs for each row execute function cut_off()")
	late := s.lateCommit("1 minute")
	pause := func() time.Duration {
		return one[time.Duration](s, "select to_timestamp(last_value / 1000000.0) - clock_timestamp() from awa.next_sweep_at")
	}
	swept := func() error {
		s.exec("select setval('awa.next_sweep_at', 1)")
		return s.try("select awa.promote_due()")
	}
	level := func() int { return one[int](s, "select last_value from awa.sweep_level") }
	for level() < 8 {
		before := level()
		if err := swept(); err == nil {
			continue // it is on its way there
		} else {
			require.Equal(t, "57014", sqlState(err))
		}
		require.Equal(t, before+1, level())
		most := time.Second << level()
		require.LessOrEqual(t, pause(), most)
		if level() >= 6 { // otherwise a slow machine might let it go by
			require.Greater(t, pause(), most/2)
			due := s.lateCommit("0 seconds")
			require.Equal(t, int64(1), s.promote())
			require.Equal(t, "available", s.state(due))
		}
	}
	// Where the past is what takes too long, what is younger is found all the same: in a piece of its own.
	s.exec("update awa.deferred_jobs set run_at = run_at - interval '1 day' where job_id = $1", late)
	s.exec("create or replace function cut_off() returns trigger language plpgsql as $$ begin if old.run_at < now() - " +
		"interval '12 hours' then raise query_canceled; end if; return old; end $$")
	for _, ago := range []string{"12 seconds", "1 minute", "1 hour"} {
		young := s.lateCommit(ago)
		for n := 0; s.state(young) != "available"; n++ {
			require.Less(t, n, 10_000)
			if err := swept(); err != nil {
				require.Equal(t, "57014", sqlState(err))
			}
		}
	}
	s.exec("drop trigger cut_off on awa.deferred_jobs")
	jobs := []int64{late}
	for _, ago := range []string{"11 seconds", "12 seconds", "1 minute", "3 days", "200 days", "2 years", "60 years"} {
		jobs = append(jobs, s.lateCommit(ago))
	}
	for n := 0; one[int](s, "select count(*) from awa.deferred_jobs") > 0; n++ {
		require.Less(t, n, 10_000)
		require.NoError(t, swept())
	}
	for _, job := range jobs {
		require.Equal(t, "available", s.state(job))
	}
}

// When it passes again, the pieces become larger again, up to the whole.
func TestSweepRecovers(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("select setval('awa.sweep_level', 3)")
	for n := 0; one[int](s, "select last_value from awa.sweep_level") > 0; n++ {
		require.Less(t, n, 500)
		s.exec("select setval('awa.next_sweep_at', 1)")
		require.Zero(t, s.promote())
	}
}

// What a clock that was ahead has written delays no due job, however far ahead it was.
func TestPromotionAfterTheClockWasSetBack(t *testing.T) {
	for _, ahead := range []string{"11 seconds", "40 minutes", "59 minutes", "10 years"} {
		for _, sequences := range [][]string{{"promoted_until"}, {"next_sweep_at"}, {"promoted_until", "next_sweep_at"}} {
			for _, ago := range []string{"0 seconds", "1 minute"} {
				d := newDatabase(t)
				s := d.session()
				require.Zero(t, s.promote())
				for _, sequence := range sequences {
					s.exec("select setval('awa."+sequence+
						"', (extract(epoch from clock_timestamp() + $1::interval) * 1000000)::bigint)", ahead)
				}
				job := s.lateCommit(ago)
				require.Equal(t, int64(1), s.promote(), "%s ahead, %v, due %s ago", ahead, sequences, ago)
				require.Equal(t, "available", s.state(job))
			}
		}
	}
}

// A pass that has promoted as many jobs as it may leaves its horizon where they end, so that the next one does not walk
// over them.
func TestPromotionOfABacklogGoesForward(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for n := range 5 {
		s.lateCommit(fmt.Sprint(5-n, " hours"))
	}
	for left := 4; left >= 2; left-- {
		require.Equal(t, int64(1), one[int64](s, "select promoted from awa.promote_due(1)"))
		require.Equal(t, left+1,
			int(one[time.Duration](s,
				"select clock_timestamp() - to_timestamp(last_value / 1000000.0) from awa.promoted_until")/time.Hour))
	}
	require.Equal(t, int64(2), s.promote())
}

// A transaction elsewhere keeps all rows that were promoted: the look for the next job does not go over them, nor over
// those of other queues.
func TestNextReadyAtReadsLittle(t *testing.T) {
	d := newDatabase(t)
	old, s := d.session(), d.session()
	old.exec("begin isolation level repeatable read")
	old.exec("select 1 from awa.settings")
	many := "select count(*) from awa.enqueue_many($1, 'k', array_fill('{}'::jsonb, array[3000]), run_at => " +
		"clock_timestamp() + $2::interval)"
	require.Equal(t, 3000, one[int](s, many, "q", "200 years"))
	s.exec("update awa.deferred_jobs set run_at = clock_timestamp()")
	require.Equal(t, int64(3000), s.promote())
	require.Equal(t, 3000, one[int](s, many, "other", "1 hour"))
	s.exec("select awa.enqueue('q', 'k', run_at => '2131-01-01 00:00+00')")
	require.Equal(t, 3000, one[int](s, many, "q", "101 years"))
	reads := func(queues any) int64 {
		s.exec("begin")
		s.exec("select "+succeeded, "promote_due", "0") // it has just looked back
		read := "select pg_stat_get_xact_tuples_returned('awa.deferred_jobs_pkey'::regclass) + " +
			"pg_stat_get_xact_tuples_returned('awa.deferred_jobs_lane'::regclass)"
		before := one[int64](s, read)
		require.Equal(t, queues != nil,
			one[bool](s, "select awa.next_ready_at($1::text[]) > now() + interval '1 year'", queues))
		defer s.exec("commit")
		return one[int64](s, read) - before
	}
	require.LessOrEqual(t, reads(nil), int64(2))
	require.LessOrEqual(t, reads([]string{"q"}), int64(2))
}

// A job that is due before maintenance looks again is notified, whatever defers it; others are not.
func TestNotificationsOfDueJobs(t *testing.T) {
	d := newDatabase(t)
	listener, s := d.session(), d.session()
	listener.exec("listen awa_due")
	attempt := func() claimed {
		s.enqueue("q")
		return s.claim("q", 1)[0]
	}
	for _, c := range []struct {
		call  func()
		heard bool
	}{
		{func() {
			s.exec("select awa.enqueue('d', 'k', run_at => clock_timestamp() + interval '500 milliseconds')")
		}, true},
		{func() { s.exec("select awa.enqueue('d', 'k', run_at => clock_timestamp() + interval '1 minute')") }, false},
		{func() { j := attempt(); s.exec("select awa.fail($1, $2, 'e', '0')", j.JobID, j.Receipt) }, true},
		{func() { j := attempt(); s.exec("select awa.fail($1, $2, 'e')", j.JobID, j.Receipt) }, false},
		{func() { j := attempt(); s.exec("select awa.snooze($1, $2, '0')", j.JobID, j.Receipt) }, true},
		{func() { s.exec("select awa.reschedule($1, clock_timestamp() + interval '1 second')", s.enqueue("r")) }, true},
		{func() { s.exec("select awa.reschedule($1, clock_timestamp() + interval '1 hour')", s.enqueue("r")) }, false},
	} {
		s.exec("select setval('awa.due_clock', 1)") // as if the last notification were long ago
		c.call()
		s.exec("notify awa_due, 'end'")
		notification, err := listener.db.WaitForNotification(s.ctx)
		require.NoError(t, err)
		require.Equal(t, c.heard, notification.Payload == "")
		if c.heard {
			_, err = listener.db.WaitForNotification(s.ctx)
			require.NoError(t, err)
		}
	}
}
