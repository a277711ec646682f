package sql_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// warned is a session of a test, and the warnings that it gets.
func (d database) warned(t *testing.T) (s *session, warnings *[]string) {
	config, err := pgx.ParseConfig(d.url)
	require.NoError(t, err)
	warnings = new([]string)
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.Severity == "WARNING" {
			*warnings = append(*warnings, n.Message)
		}
	}
	db, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close(context.Background()) })
	return &session{T: t, ctx: t.Context(), db: db, pid: db.PgConn().PID()}, warnings
}

// enqueueMarked enqueues jobs of the kind bad, which a trigger refuses, and then one of another queue.
func (s *session) enqueueMarked(bad int, badAgo, goodAgo time.Duration) (good int64) {
	s.Helper()
	s.exec("select awa.enqueue_many('q', 'bad', array_fill('{}'::jsonb, array[$1::int]), run_at => "+
		"clock_timestamp() + interval '1 hour')", bad)
	good = one[int64](s, "select awa.enqueue('other', 'k', run_at => clock_timestamp() + interval '1 hour')")
	s.exec("update awa.deferred_jobs set run_at = now() - case kind when 'bad' then $1::interval else $2::interval end",
		badAgo, goodAgo)
	return good
}

// refuse has a trigger refuse a deed to rows of the kind bad. Its name comes before those of Awa's triggers.
func (s *session) refuse(deed, table, of string) {
	s.Helper()
	s.exec("create or replace function public.refuse() returns trigger language plpgsql as $$ begin if " + of +
		".kind = 'bad' then raise 'on purpose'; end if; return coalesce(new, old); end $$")
	s.exec("create trigger a_refuse before " + deed + " on awa." + table +
		" for each row execute function public.refuse()")
}

// Jobs that can be neither made ready nor put off, more of one time than a pass takes, keep no other job waiting: a
// pass goes on where the last one has ended, and so does the look for late commits. One warning tells of all.
func TestPromotionGoesOnPastRefusals(t *testing.T) {
	d := newDatabase(t)
	for _, c := range []struct {
		name               string
		bad, good, horizon time.Duration // ago
		call               string
		calls              int
	}{
		{"behind them", 2 * time.Second, time.Second, time.Minute, "awa.run_pass('promote_due', 5)", 10},
		{"of the same time", 2 * time.Second, 2 * time.Second, time.Minute, "awa.run_pass('promote_due', 5)", 10},
		{"in a direct call", 2 * time.Second, 2 * time.Second, time.Minute, "awa.promote_due(5)", 10},
		{"after the clock was set back", 8 * time.Second, 7 * time.Second, -time.Hour,
			"setval('awa.sweep_level', 12), awa.promote_due(5)", 10},
		{"late", time.Minute, 30 * time.Second, 0, "setval('awa.next_sweep_at', 1), awa.promote_due(5)", 30},
		{"late and just behind them", time.Minute, time.Minute - time.Millisecond, 0,
			"setval('awa.next_sweep_at', 1), awa.promote_due(5)", 30},
		{"late and of the same time", time.Minute, time.Minute, 0, "setval('awa.next_sweep_at', 1), awa.promote_due(5)",
			30},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, warned := d.warned(t)
			s.exec("select setval('awa.promoted_until', awa._microseconds(clock_timestamp() - $1::interval))", c.horizon)
			// a batch of five takes all the time that a call has
			s.exec(changing("_promote_past", "clock_timestamp() > v_end", "cardinality(v_refused) >= 10"))
			good := s.enqueueMarked(23, c.bad, c.good)
			s.refuse("update or delete", "deferred_jobs", "old")
			n := 0
			for ; s.state(good) != "available"; n++ {
				require.Less(t, n, c.calls)
				*warned = nil
				s.exec("select " + c.call)
				require.LessOrEqual(t, len(*warned), 2, "one of the pass, one of the look for late commits")
			}
			require.Equal(t, 23, one[int](s, "select count(*) from awa.deferred_jobs"))
			s.exec("select setval('awa.sweep_level', 0)")
			s.exec("drop trigger a_refuse on awa.deferred_jobs")
			s.exec("delete from awa.deferred_jobs")
			s.exec(changing("_promote_past", "cardinality(v_refused) >= 10", "clock_timestamp() > v_end"))
		})
	}
}

// A pass that ends among the jobs of one time leaves none of them behind: a lower one that was committed late, or that
// another session held, comes within a second, by the look back. Nor does a horizon of which two sessions have each
// written one half.
func TestPromotionAmongJobsOfOneTime(t *testing.T) {
	for name, act := range map[string]func(s, other *session) (low int64){
		"committed late": func(s, other *session) int64 {
			other.exec("begin")
			low := one[int64](other, "select awa.enqueue('q', 'k', run_at => '2100-01-01 00:00+00')")
			other.exec("update awa.deferred_jobs set run_at = '2020-01-01 00:00+00'")
			s.dueAtOnce(12)
			require.EqualValues(s, 5, one[int64](s, "select promoted from awa.promote_due(5)"))
			other.exec("commit")
			s.exec("select "+succeeded, "promote_due", "2 seconds")
			return low
		},
		"held": func(s, other *session) int64 {
			low := s.dueAtOnce(12)
			other.exec("begin")
			other.exec("select from awa.deferred_jobs where job_id = $1 for update", low)
			require.EqualValues(s, 5, one[int64](s, "select promoted from awa.promote_due(5)"))
			other.exec("rollback")
			s.exec("select "+succeeded, "promote_due", "2 seconds")
			return low
		},
		"promoted in a transaction that was rolled back": func(s, other *session) int64 {
			low := s.dueAtOnce(17)
			other.exec("begin")
			require.EqualValues(s, 5, one[int64](other, "select promoted from awa.promote_due(5)"))
			require.EqualValues(s, 5, one[int64](s, "select promoted from awa.promote_due(5)"))
			other.exec("rollback")
			s.exec("select "+succeeded, "promote_due", "2 seconds")
			return low
		},
		"of two horizons": func(s, _ *session) int64 {
			low := one[int64](s, "select awa.enqueue('q', 'k', run_at => '2100-01-01 00:00+00')")
			s.dueAtOnce(12)
			require.EqualValues(s, 5, one[int64](s, "select promoted from awa.promote_due(5)"))
			s.exec("update awa.deferred_jobs set run_at = '2020-01-01 01:00+00' where job_id = $1", low)
			s.exec("select setval('awa.promoted_until', awa._microseconds('2020-01-01 01:00+00'))")
			s.exec("select "+succeeded, "promote_due", "0 seconds") // no look back
			return low
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			s, other := d.session(), d.session()
			// the sweep, which finds everything in the end, is not due
			s.exec("select setval('awa.sweep_level', 12), setval('awa.next_sweep_at', " +
				"awa._microseconds(clock_timestamp() + interval '9 minutes'))")
			low := act(s, other)
			s.exec("select awa.run_pass('promote_due', 5)")
			require.Equal(t, "available", s.state(low))
			if name != "of two horizons" { // which has gone past the others
				for one[int](s, "select count(*) from awa.deferred_jobs") > 0 {
					require.Positive(t, s.promote())
				}
			}
		})
	}
}

// The look for late commits keeps a time and a job, too. Where two sessions have left one each, it looks at all jobs of
// this time.
func TestSweepAmongJobsOfOneTime(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	late := s.dueAtOnce(3)
	s.exec("select setval('awa.swept_until', awa._microseconds('2020-01-01 00:00+00')), setval('awa.swept_id', " +
		"awa._marked(1000000, awa._microseconds('2020-01-01 01:00+00')))")
	require.EqualValues(t, 3, one[int64](s, "select swept from awa._sweep(clock_timestamp(), 100)"))
	require.Equal(t, "available", s.state(late))
}

// dueAtOnce enqueues jobs of one time that has passed, and returns the first of them.
func (s *session) dueAtOnce(jobs int) (first int64) {
	s.Helper()
	first = one[int64](s, "select min(e) from awa.enqueue_many('q', 'k', array_fill('{}'::jsonb, array[$1::int]), "+
		"run_at => '2100-01-01 00:00+00') e", jobs)
	s.exec("update awa.deferred_jobs set run_at = '2020-01-01 00:00+00' where job_id >= $1", first)
	return first
}

// Jobs that are past their retention, and that a trigger keeps, or an open transaction holds, keep no other ones: more
// of them than a call removes, in the first lane, or in front of the others of one lane. One warning tells of all.
func TestExpiryOfHistoryGoesOnPastRefusals(t *testing.T) {
	d := newDatabase(t)
	for _, state := range []string{"failed", "completed"} {
		t.Run(state, func(t *testing.T) {
			s, warned := d.warned(t)
			holder := d.session()
			fill := func() {
				s.exec("delete from awa.done_entries")
				// as the rows that jobs of these queues leave: many of one time, then one later, and one of the other lane
				s.exec(`insert into awa.done_entries
					  (job_id, lane, state, counted_by_closure, ready_at, created_at, finalized_at, attempt, max_attempts,
					   body_bytes, kind, args)
					select n, case n when 5102 then $2::bigint else $1::bigint end, $3, false, now(), now(),
					       now() - interval '200 days' + n / 5101 * interval '1 second', 1, 1, 2,
					       case when n > 5100 then 'k' else 'bad' end, '{}'
					  from generate_series(1, 5102) n`, 1<<9|2, 2<<9|2, state)
				*warned = nil
			}
			left := func() int { return one[int](s, "select count(*) from awa.done_entries where kind <> 'bad'") }

			fill()
			s.refuse("delete", "done_entries", "old")
			for n, told := 0, false; left() > 0 || !told; n++ {
				require.Less(t, n, 100) // at random: the chance of a call is a sixth, at least
				*warned = nil
				s.exec("select awa.expire_history()")
				require.LessOrEqual(t, len(*warned), 1)
				told = told || len(*warned) == 1
			}
			require.Equal(t, 5100, one[int](s, "select count(*) from awa.done_entries"))
			s.exec("drop trigger a_refuse on awa.done_entries")

			fill()
			holder.exec("begin")
			holder.exec("select from awa.done_entries where kind = 'bad' for update")
			require.EqualValues(t, 2, one[int64](s, "select expired from awa.expire_history()"))
			require.Zero(t, left())
			require.Empty(t, *warned)
			holder.exec("rollback")
			s.exec("delete from awa.done_entries")
		})
	}
}

// Jobs that have expired, and whose ends a trigger refuses, keep no other ones: also more than a call has time for.
func TestExpiryGoesOnPastRefusals(t *testing.T) {
	d := newDatabase(t)
	s, warned := d.warned(t)
	s.exec("select awa.pause_queue('q')")
	s.exec("select awa.enqueue_many('q', case n when 1 then 'bad' else 'k' end, array_fill('{}'::jsonb, " +
		"array[case n when 1 then 30 else 3 end]), expires_at => clock_timestamp() + interval '1 hour') " +
		"from generate_series(1, 2) n")
	s.exec("update awa.ready_entries set expires_at = clock_timestamp()")
	s.refuse("insert", "done_entries", "new")
	s.exec(changing("_expire_each", "clock_timestamp() > v_until", "cardinality(v_refused) = 5"))
	for n := 0; one[int](s, "select count(*) from awa.done_entries") < 3; n++ {
		require.Less(t, n, 500)
		*warned = nil
		s.exec("select awa.cancel_expired()")
		require.LessOrEqual(t, len(*warned), 1)
	}
	require.Equal(t, 30, one[int](s, "select count(*) from awa.jobs where kind = 'bad' and state = 'available'"))
}

// A pass that finds many jobs which it can't get past warns of them once.
func TestRefusalsAreOneWarning(t *testing.T) {
	d := newDatabase(t)
	s, warned := d.warned(t)
	s.exec("select awa.enqueue_many('q', 'bad', array_fill('{}'::jsonb, array[20]))")
	require.Len(t, s.claim("q", 20), 20)
	s.refuse("insert", "leases", "new")
	s.exec("select awa.materialize('0')")
	require.Len(t, *warned, 1)
	require.Regexp(t, `^job \d+ can't get a row of its attempt in leases, nor can 19 others$`, (*warned)[0])
	s.exec("drop trigger a_refuse on awa.leases")

	*warned = nil
	s.halfAnHourLater()
	s.refuse("insert", "deferred_jobs", "new")
	s.exec("select awa.rescue()")
	require.Len(t, *warned, 1)
	require.Regexp(t, `^job \d+ is overdue, and its attempt can't be ended, nor can 19 others$`, (*warned)[0])
}

// One job that can't be promoted delays the others of a piece of the look for late commits by as long as it takes to
// pass them one by one: it has no pause while it promotes some.
func TestLateCommitsBesideARefusal(t *testing.T) {
	d := newDatabase(t)
	for _, call := range []string{"awa.promote_due(100)", "awa.run_pass('promote_due', 100)"} {
		t.Run(call, func(t *testing.T) {
			s := d.session()
			s.exec("select setval('awa.promoted_until', awa._microseconds(clock_timestamp()))")
			s.exec(changing("_promote", "clock_timestamp() > v_end", "v_nth > 3")) // a call has time for three
			s.exec(changing("_sweep", "'100 milliseconds', 4", "'1 hour', 4"))
			s.exec("select awa.enqueue_many('q', k, array_fill('{}'::jsonb, array[n]), " +
				"run_at => clock_timestamp() + interval '1 hour') from (values ('k', 12), ('bad', 1), ('k', 9)) j(k, n)")
			s.exec("update awa.deferred_jobs set run_at = now() - interval '1 minute' + job_id * interval '1 microsecond'")
			s.refuse("update or delete", "deferred_jobs", "old")
			s.exec("select setval('awa.next_sweep_at', 1)")
			for left := 21; left > 0; {
				more := one[string](s, "select "+call+"::text")
				now := one[int](s, "select count(*) from awa.deferred_jobs where kind <> 'bad'")
				require.Less(t, now, left)
				left = now
				if left > 9 {
					require.True(t, one[bool](s, "select awa._sweeps_on()"), "the next call goes on at once")
					require.Contains(t, []string{"true", "(3)", "3"}, more)
				}
			}
			s.exec("drop trigger a_refuse on awa.deferred_jobs")
			s.exec("delete from awa.deferred_jobs")
			s.exec(changing("_promote", "v_nth > 3", "clock_timestamp() > v_end"))
			s.exec(changing("_sweep", "'1 hour', 4", "'100 milliseconds', 4"))
		})
	}
}
