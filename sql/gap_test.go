package sql_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// later moves all that the rescue of attempts goes by into the past: as if so much time had gone by, in which nobody
// did anything. A negative span is a clock that was set back.
func (s *session) later(span time.Duration) {
	s.Helper()
	for _, sql := range []string{
		"update awa.lease_claims set claimed_at = claimed_at - $1::interval, lease_until = lease_until - $1::interval, " +
			"deadline_at = deadline_at - $1::interval",
		"update awa.leases set claimed_at = claimed_at - $1::interval, lease_until = lease_until - $1::interval, " +
			"deadline_at = deadline_at - $1::interval",
		"update awa.workers set heartbeat_at = heartbeat_at - $1::interval",
		"update awa.rescue_gaps set began_at = began_at - $1::interval, ended_at = ended_at - $1::interval",
		"update awa.queue_rollups set folded_at = folded_at - $1::interval",
		"update awa.lost_attempts set told_at = told_at - $1::interval",
		"select setval('awa.next_fold_at', greatest(last_value - (extract(epoch from $1::interval) * 1000000)::bigint, 1)) " +
			"from awa.next_fold_at where is_called",
		"select setval('awa.rescue_called_at', last_value - (extract(epoch from $1::interval) * 1000000)::bigint) from " +
			"awa.rescue_called_at where is_called",
	} {
		s.exec(sql, span)
	}
}

// passes lets time go by in which maintenance is called again and again, and returns how many attempts that ended.
func (s *session) passes(span time.Duration) (rescued int64) {
	s.Helper()
	rescued = s.rescue()
	s.later(span)
	s.noGap()
	rescued += s.rescue()
	s.forgetWorkers()
	return rescued
}

// openAttempts claims four jobs for five minutes: with and without a worker, in the ledger and with rows of their own.
// It returns the worker.
func (s *session) openAttempts() (worker int64) {
	s.Helper()
	worker = s.registerWorker()
	for _, materialized := range []bool{true, false} {
		for queue, id := range map[string]*int64{"mine": &worker, "nobodys": nil} {
			s.enqueue(queue)
			require.Len(s, list[int64](s, "select receipt from awa.claim($1, 1, $2, '5 minutes')", queue, id), 1)
		}
		if materialized {
			require.Equal(s, int64(2), s.materialize())
		}
	}
	return worker
}

func (s *session) attempts() int {
	return one[int](s, "select count(*) from awa.jobs where state = 'running'")
}

// While the server is down nobody can send a heartbeat. Attempts that were alive when it went get one more lease when
// it is back.
func TestTimeInWhichTheServerIsDownIsNoSilence(t *testing.T) {
	for _, comesBack := range []bool{false, true} {
		d := newDatabase(t)
		s := d.session()
		require.Zero(t, s.rescue())
		worker := s.openAttempts()
		require.Zero(t, s.passes(2*time.Minute))
		s.later(3 * time.Hour)
		require.Zero(t, s.rescue(), "the first pass finds the gap")
		require.Zero(t, s.forgetWorkers())
		require.Zero(t, s.rescue(), "and the next one knows of it")
		require.Contains(t, one[string](s, "select awa.explain_job(1)"), "The attempt is its own until")
		require.Empty(t,
			list[string](s,
				"select message from awa.health() where topic = 'maintenance' and subject = 'rescue' and level <> 'ok'"))
		require.Equal(t, 1, one[int](s, "select count(*) from awa.workers"), "it is not forgotten")
		require.Zero(t, s.passes(4*time.Minute))
		require.Equal(t, 4, s.attempts())
		if comesBack {
			s.lost(worker)
			require.Equal(t, int64(2), s.passes(2*time.Minute), "nobody's")
			require.Zero(t, s.passes(2*time.Minute))
			require.Equal(t, int64(2), s.passes(2*time.Minute))
		} else {
			require.Equal(t, int64(4), s.passes(2*time.Minute))
		}
		require.Zero(t, s.attempts())
		s.balanced()

		require.Zero(t, s.passes(62*time.Minute))
		require.Zero(t, one[int](s, "select count(*) from awa.workers"), "one that does not come back is forgotten")
		require.Zero(t, one[int](s, "select count(*) from awa.rescue_gaps"), "and so is the gap")
	}
}

// Workers that live lose nothing when the server is down again and again, each time for longer than a lease, and they
// can send a heartbeat only in between.
func TestOutagesOneAfterTheOther(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	require.Zero(t, s.rescue())
	s.exec("select awa.enqueue_many('q', 'k', array_fill('{}'::jsonb, array[60]), max_attempts => 1)")
	var workers []int64
	for n := range 6 {
		workers = append(workers, s.registerWorker())
		require.Len(t, list[int64](s, "select receipt from awa.claim('q', 10, $1, '5 minutes')", workers[n]), 10)
		if n == 2 {
			require.Equal(t, int64(30), s.materialize())
		}
	}
	for range 5 {
		s.later(10 * time.Minute)
		require.Zero(t, s.rescue())
		for _, w := range workers {
			require.Empty(t, s.lost(w))
		}
		require.Zero(t, s.passes(2*time.Minute))
		for _, w := range workers {
			require.Empty(t, s.lost(w))
		}
	}
	require.Equal(t, 60, s.attempts())
	require.Zero(t, one[int](s, "select failed from awa.queue_counts('q')"))
	require.Empty(t, list[int64](s, "select awa.complete_many(array_agg(id), array_agg(receipt)) from awa.jobs"))
	require.Equal(t, 60, one[int](s, "select completed from awa.queue_counts('q')"))
	s.balanced()
}

// What was granted for one gap is not granted again for the next one.
func TestGapsDoNotAddUp(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	require.Zero(t, s.rescue())
	s.openAttempts()
	s.later(2 * time.Minute)
	require.Zero(t, s.rescue(), "1: the leases end after it")
	s.later(4 * time.Minute)
	require.Zero(t, s.rescue(), "2: they end in it")
	s.later(2 * time.Minute)
	require.Zero(t, s.rescue(), "3: they have ended before, but the lease after 2 lasts")
	s.later(2 * time.Minute)
	require.Zero(t, s.rescue())
	s.later(90 * time.Second)
	require.Equal(t, int64(4), s.rescue(), "five minutes after 2")
}

// Where a cron job calls maintenance every minute, every time is in a gap. An attempt ends one lease after the pass
// that follows the end of its lease.
func TestRescueThatIsSeldomCalled(t *testing.T) {
	for _, every := range []time.Duration{2 * time.Minute, 4 * time.Minute, 24 * time.Hour} {
		d := newDatabase(t)
		s := d.session()
		require.Zero(t, s.rescue())
		s.openAttempts()
		for at, grantedAt := time.Duration(0), time.Duration(0); ; {
			at += every
			s.later(every)
			if grantedAt > 0 && at > grantedAt+5*time.Minute {
				require.Equal(t, int64(4), s.rescue(), "at %s, every %s", at, every)
				break
			}
			require.Zero(t, s.rescue(), "at %s, every %s", at, every)
			if grantedAt == 0 && at > 5*time.Minute {
				grantedAt = at
			}
		}
		for range 2 * (time.Hour + every) / every {
			s.later(every)
			require.Zero(t, s.rescue())
			s.forgetWorkers()
		}
		require.Zero(t, one[int](s, "select count(*) from awa.workers"), "a worker is forgotten, too")
		require.LessOrEqual(t, one[int](s, "select count(*) from awa.rescue_gaps"), int(time.Hour/every)+2)
	}
}

// Of two passes at once that find a gap, each spares what it spares, whether the other one has committed or not; and
// neither waits.
func TestTwoPassesThatFindAGap(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b := d.session(), d.session().neverWaits()
		require.Zero(t, a.rescue())
		a.openAttempts()
		a.later(time.Hour)
		a.exec("begin")
		require.Zero(t, a.rescue())
		b.exec("begin")
		require.Zero(t, b.rescue())
		require.Zero(t, a.rescue())
		a.exec(end)
		require.Zero(t, b.rescue())
		b.exec("rollback")
		require.Zero(t, b.passes(4*time.Minute))
		require.Equal(t, int64(4), b.passes(2*time.Minute))
	}
}

// What a clock that was ahead has written keeps no dead worker alive, and takes nothing from a live one.
func TestClockThatIsSetBack(t *testing.T) {
	for _, ahead := range []time.Duration{time.Minute, 40 * time.Minute, 24 * 365 * time.Hour} {
		for _, comesBack := range []bool{false, true} {
			d := newDatabase(t)
			s := d.session()
			s.exec(`select awa.configure_queue(q, '{"deadline": "12 minutes"}'), awa.cancel(id) from (select q, ` +
				`awa.enqueue(q, 'k') as id from unnest('{mine,nobodys}'::text[]) q) q`)
			require.Zero(t, s.rescue())
			s.later(time.Hour)
			require.Zero(t, s.rescue(), "there is a gap")
			worker := s.openAttempts()
			s.later(-ahead)
			require.Zero(t, s.rescue())
			s.exec("select awa.materialize()") // what seems to begin in the future, too; then that is corrected
			require.Zero(t, s.rescue())
			require.Equal(t, 4, s.attempts())
			require.LessOrEqual(t, one[time.Duration](s, `
				select max(a.at - clock_timestamp())
				  from (
				    select heartbeat_at as at from awa.workers union all select attempted_at from awa.jobs where state = 'running'
				        union all select ended_at from awa.rescue_gaps union all select to_timestamp(last_value / 1000000.0)
				        from awa.rescue_called_at) a`), time.Second)
			if !comesBack {
				require.Zero(t, s.passes(4*time.Minute))
				require.Equal(t, int64(4), s.passes(2*time.Minute), "%s", ahead)
				continue
			}
			var rescued int64
			for range 3 {
				s.lost(worker)
				rescued += s.passes(3 * time.Minute)
			}
			require.Equal(t, int64(2), rescued, "nobody's have ended")
			s.lost(worker)
			require.Equal(t, int64(2), s.passes(4*time.Minute), "and the others, at the deadline")
			require.Equal(t, "deadline exceeded",
				one[string](s, fmt.Sprintf("select string_agg(distinct reason, ', ') from awa.heartbeat(%d)", worker)))
		}
	}
}

// Nor does it keep segments: their ages count from when it was set back.
func TestSegmentsAfterTheClockWasSetBack(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("update awa.ring set left_at = array[now() - interval '1 day', now() + interval '10 years', now() - interval " +
		"'2 days', now() + interval '40 minutes']")
	require.Equal(t, int16(1), one[int16](s, "select current_segment from awa.rotate(true)"))
	require.Equal(t, []bool{true, true, true, true},
		list[bool](s, "select at <= clock_timestamp() from awa.ring, unnest(left_at) at"))
	require.Equal(t, int64(2),
		one[int64](s, "select round(extract(epoch from clock_timestamp() - left_at[3]) / 86400)::bigint from awa.ring"))
}
