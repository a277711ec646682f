package sql_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// linesThatExpired makes a queue in which a job of each of some groups runs, and one waits in line that has expired:
// first those of kind bad, then others. other is one more that has expired, in a queue without limits.
func linesThatExpired(t *testing.T, nBad, nGood int) (d database, s *session, bad, good []int64, other int64) {
	d = newDatabase(t)
	s = d.session()
	s.limits("q", `{"group_max_running": 1}`)
	for n := range nBad + nGood {
		group := fmt.Sprintf("g%d", n)
		s.enqueueInGroup("q", group, 1)
		kind, ids := "bad", &bad
		if n >= nBad {
			kind, ids = "good", &good
		}
		*ids = append(*ids, one[int64](s, "select awa.enqueue('q', $1, group_key => $2, expires_at => now() + '1 day')",
			kind, group))
	}
	require.Len(t, s.claim("q", 100), nBad+nGood)
	s.exec("update awa.limited_jobs set expires_at = now() - interval '1 hour' where kind = 'bad'")
	s.exec("update awa.limited_jobs set expires_at = now() - interval '1 second' where kind = 'good'")
	jobs := s.enqueueExpiring("other", 1)
	s.expire(jobs...)
	return d, s, bad, good, jobs[0]
}

// refusesAll has a user's triggers refuse the ends of bad jobs, and to put them off.
func (s *session) refusesAll(code string) {
	s.Helper()
	s.exec("create or replace function public.refuse() returns trigger language plpgsql as $$ begin if new.kind = 'bad' " +
		"then raise exception 'not this one' using errcode = '" + code + "'; end if; return new; end $$")
	for _, table := range []string{"done_entries", "deferred_jobs"} {
		s.exec("create trigger refuse before insert on awa." + table + " for each row execute function public.refuse()")
	}
}

// Jobs in line that have expired, and that can neither be cancelled nor put off, keep no others from being cancelled:
// in lines, also where there are more of them than one call looks at, and in queues without limits. They stay, and are
// cancelled once that is possible.
func TestExpiryBesideJobsThatStay(t *testing.T) {
	for _, code := range []string{"23514", "XX001", "55P03", "53100"} {
		t.Run(code, func(t *testing.T) {
			_, s, bad, good, other := linesThatExpired(t, 5, 3)
			s.refusesAll(code)
			for n := 0; slices.Contains(append(states(s, good), s.state(other)), "available"); n++ {
				require.Less(t, n, 5)
				s.exec("select awa.cancel_expired(2)")
			}
			require.Equal(t, []string{"available", "available", "available", "available", "available"}, states(s, bad))
			err := s.try("select awa.cancel_expired(2)")
			if code == "53100" {
				require.Equal(t, code, sqlState(err), "it could cancel none")
			} else {
				require.NoError(t, err)
			}
			s.exec("drop trigger refuse on awa.done_entries")
			require.Equal(t, int64(5), s.cancelExpired())
			s.slots()
			s.balanced()
		})
	}
}

// Nor do they stop the claims that come to their turns, of neither kind of turns.
func TestTurnsBesideExpiredJobsThatStay(t *testing.T) {
	for _, settings := range []string{`{"group_max_running": 1}`, `{"group_max_running": 1, "group_turns": true}`} {
		for _, code := range []string{"23514", "XX001", "53100"} {
			for _, room := range []int{1, 10} {
				t.Run(fmt.Sprint(settings, code, room), func(t *testing.T) {
					_, s, bad, good, _ := linesThatExpired(t, 2, 1)
					s.limits("q", settings)
					s.refusesAll(code)
					next := s.enqueueInGroup("q", "g2", 1)
					s.exec("select awa.complete_many(array_agg(h.job_id), array_agg(h.receipt)) from awa._holders h")
					require.Equal(t, next, ids(s.claimsToTheEnd("q", room)))
					require.Equal(t, []string{"cancelled"}, states(s, good))
					require.Equal(t, []string{"available", "available"}, states(s, bad))
					s.slots()
					s.exec("drop trigger refuse on awa.done_entries")
					require.Empty(t, s.claimsToTheEnd("q", room))
					require.Equal(t, []string{"cancelled", "cancelled"}, states(s, bad))
					s.slots()
					s.balanced()
				})
			}
		}
	}
}

// A job in line whose end waits for another session, in a user's trigger, keeps no others from being cancelled.
func TestExpiryBesideALock(t *testing.T) {
	d, s, bad, good, other := linesThatExpired(t, 2, 2)
	s.exec("create table public.locked (); insert into public.locked default values; grant all on public.locked to public")
	s.exec("create function public.wait() returns trigger language plpgsql as $$ begin if new.kind = 'bad' " +
		"then perform from public.locked for update; end if; return new; end $$")
	s.exec("create trigger wait before insert on awa.done_entries for each row execute function public.wait()")
	holder := d.session()
	holder.exec("begin")
	holder.exec("select from public.locked for update")
	for range 3 {
		s.exec("select awa.cancel_expired()")
	}
	require.Equal(t, []string{"cancelled", "cancelled"}, states(s, good))
	require.Equal(t, "cancelled", s.state(other))
	require.Equal(t, []string{"available", "available"}, states(s, bad))
	holder.exec("rollback")
	require.Equal(t, int64(2), s.cancelExpired())
	s.slots()
	s.balanced()
}

// One warning tells of all jobs in line that a call can't cancel, or can't let begin, and names one of them; whether
// they can be put off or not.
func TestOneWarningForJobsInLine(t *testing.T) {
	for _, also := range []bool{false, true} {
		d, s, bad, _, _ := linesThatExpired(t, 5, 1)
		w, warnings := d.warned(t)
		s.refusesAll("23514")
		if !also {
			s.exec("drop trigger refuse on awa.deferred_jobs")
		}
		w.exec("select awa.cancel_expired()")
		require.Equal(t, []string{fmt.Sprintf("job %d has expired, and can't be cancelled, nor can 4 others", bad[0])},
			*warnings)
		s.exec("drop trigger refuse on awa.done_entries")
		s.exec("update awa.limited_jobs set expires_at = null; delete from awa.deferred_jobs where kind = 'bad'")
		for n := range 5 {
			s.exec("select awa.enqueue('q', 'bad', group_key => $1)", fmt.Sprintf("g%d", n))
		}
		require.Empty(t, s.claim("q", 10))
		s.exec("create trigger refuse before insert on awa.ready_entries for each row execute function public.refuse()")
		s.exec("select awa.complete_many(array_agg(h.job_id), array_agg(h.receipt)) from awa._holders h")
		*warnings = nil
		w.claim("q", 10)
		require.Len(t, *warnings, 1)
		require.Regexp(t, `job \d+ can't begin, nor can 4 others`, (*warnings)[0])
	}
}
