package sql_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// refusesIn has a user's triggers refuse the rows of bad jobs in some tables.
func (s *session) refusesIn(code string, tables ...string) {
	s.Helper()
	s.exec("create or replace function public.refuse() returns trigger language plpgsql as $$ begin if new.kind = 'bad' " +
		"then raise exception 'not this one' using errcode = '" + code + "'; end if; return new; end $$")
	for _, table := range tables {
		s.exec("create trigger refuse before insert or update on awa." + table +
			" for each row execute function public.refuse()")
	}
}

// expiredEntries makes a queue in which jobs of kind bad have expired, one with a unique key, and then come others.
func (s *session) expiredEntries(queue string) (bad, good []int64) {
	s.Helper()
	for n := range 3 {
		bad = append(bad, one[int64](s, "select job_id from awa.enqueue_unique($1, 'bad', group_key => 'g', "+
			"expires_at => now() + interval '1 day', unique_key => $2)", queue,
			fmt.Sprint(queue, n)))
	}
	good = append(s.enqueueInGroup(queue, "g", 1), s.enqueueInGroup(queue, "h", 1)...)
	s.expire(bad...)
	return bad, good
}

// Jobs that have expired before a claim met them, and that can neither be cancelled nor put off, hold up no others: the
// claim goes on past them, and gives them to nobody. Health names them. They take no slots, and are cancelled once that
// is possible, whatever their worker says; or put off.
func TestClaimPastExpiredJobsThatStay(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	worker := s.registerWorker()
	for _, settings := range []string{"{}", `{"max_running": 2}`, `{"group_max_running": 1}`, `{"group_turns": true}`,
		`{"group_order": "strict"}`} {
		for _, code := range []string{"23514", "XX001", "55P03"} {
			for _, tables := range [][]string{{"done_entries", "deferred_jobs"}, {"done_entries", "deferred_jobs", "leases"}} {
				if settings != "{}" && code != "23514" {
					continue
				}
				queue := fmt.Sprint(settings, code, len(tables))
				s.limits(queue, settings)
				bad, good := s.expiredEntries(queue)
				s.refusesIn(code, tables...)
				var got []int64
				for range 5 {
					receipts := s.claimAs(worker, queue, 10)
					for _, r := range receipts {
						job := one[int64](s, "select id from awa.jobs where receipt = $1", r)
						got = append(got, job)
						s.exec("select awa.complete($1, $2)", job, r)
					}
				}
				require.ElementsMatch(t, good, got, queue)
				require.Equal(t, []string{"running", "running", "running"}, states(s, bad), queue)
				s.slots()
				s.balanced()
				s.noGap()
				s.exec("update awa.leases set lease_until = now() where kind <> 'bad'")
				require.Zero(t, s.rescue())
				if len(tables) == 2 {
					s.exec("update awa.leases set lease_until = now() - interval '1 second'")
					require.Zero(t, s.rescue())
					if code == "23514" {
						require.Equal(t, 3, one[int](s, "select count(*) from awa.leases where lease_until > now()"),
							"it comes back in a minute")
						require.Contains(t, one[string](s, "select message from awa.health() where topic = 'refusals' "+
							"and subject = $1", queue),
							fmt.Sprintf("to put off: 3; the first one is job %d: to cancel it was refused", bad[0]))
						require.Contains(t, one[string](s, "select awa.explain_job($1)", bad[0]), "No worker was given it")
					}
				}
				require.Empty(t, s.claimAs(worker, queue, 10))
				for _, table := range tables {
					s.exec("drop trigger refuse on awa." + table)
				}
				if len(tables) == 3 {
					require.Equal(t, int64(3), s.materialize())
				}
				if code == "55P03" { // an end that is refused, and a job that can be put off
					s.refusesIn("23514", "done_entries")
					s.exec("update awa.leases set lease_until = now() - interval '1 second'")
					s.exec("select awa.heartbeat($1)", worker)
					require.Equal(t, int64(3), s.rescue())
					require.Equal(t, []string{"scheduled", "scheduled", "scheduled"}, states(s, bad), queue)
					s.slots()
					s.exec("drop trigger refuse on awa.done_entries")
					s.promotesAll()
				} else {
					s.exec("update awa.leases set lease_until = now() - interval '1 second'")
					s.exec("select awa.heartbeat($1)", worker)
					require.Equal(t, int64(3), s.rescue())
				}
				require.Equal(t, []string{"cancelled", "cancelled", "cancelled"}, states(s, bad), queue)
				require.Empty(t, s.lost(worker), "it never had them")
				require.Equal(t, 3, one[int](s, "select count(*) from awa.jobs where id = any($1) and attempt = 0 and "+
					"errors -> -1 ->> 'error' = 'expired'", bad))
				s.slots()
				s.balanced()
			}
		}
	}
}

// Nor does one whose end waits for another session, in a user's trigger.
func TestClaimPastAnExpiredJobBesideALock(t *testing.T) {
	d := newDatabase(t)
	s, holder := d.session().neverWaits(), d.session()
	bad, good := s.expiredEntries("q")
	s.exec("create table public.locked (); insert into public.locked default values; grant all on public.locked to public")
	s.exec("create function public.wait() returns trigger language plpgsql as $$ begin if new.kind = 'bad' " +
		"then perform from public.locked for update; end if; return new; end $$")
	s.exec("create trigger wait before insert on awa.done_entries for each row execute function public.wait()")
	holder.exec("begin")
	holder.exec("select from public.locked for update")
	require.Equal(t, good, ids(s.claim("q", 10)))
	s.noGap()
	overdue := "update awa.leases set lease_until = now() - interval '1 second' where job_id = any($1)"
	s.exec(overdue, bad)
	last := s.enqueueMany("q", 1) // a job of another kind, whose attempt has a lease row
	s.claim("q", 1)
	require.Positive(t, s.materialize())
	s.exec(overdue, last)
	require.Equal(t, int64(1), s.rescue(), "it does not wait until the holder ends")
	require.Equal(t, []string{"retryable"}, states(s, last))
	require.Equal(t, []string{"running", "running", "running"}, states(s, bad))
	require.Equal(t, 3, one[int](s, "select count(*) from awa.leases where kind = 'bad' and "+
		"lease_until > now() + interval '50 seconds'"), "it comes back in a minute")
	require.Contains(t, one[string](s, "select message from awa.health() where topic = 'refusals' and subject = 'q'"),
		"lock timeout")
	holder.exec("rollback")
	s.exec(overdue, bad)
	require.Equal(t, int64(3), s.rescue())
	require.Equal(t, []string{"cancelled", "cancelled", "cancelled"}, states(s, bad))
	s.balanced()
}

// Nor does the end of an attempt that was one keep those of others, where it waits for another session.
func TestRescueBesideALock(t *testing.T) {
	d := newDatabase(t)
	s, holder := d.session().neverWaits(), d.session()
	s.exec("create table public.locked (); insert into public.locked default values; grant all on public.locked to public")
	s.exec("create function public.wait() returns trigger language plpgsql as $$ begin if new.kind = 'bad' " +
		"then perform from public.locked for update; end if; return new; end $$")
	s.exec("create trigger wait before insert on awa.deferred_jobs for each row execute function public.wait()")
	for _, are := range []string{"materialized", "open"} {
		jobs := list[int64](s, "select awa.enqueue('q', k) from unnest('{bad,k,bad,k,bad}'::text[]) k")
		require.Len(t, s.claim("q", 5), 5)
		if are == "materialized" {
			require.Equal(t, int64(5), s.materialize())
		}
		s.halfAnHourLater()
		s.noGap()
		holder.exec("begin")
		holder.exec("select from public.locked for update")
		require.Equal(t, int64(2), s.rescue())
		require.Equal(t, []string{"running", "retryable", "running", "retryable", "running"}, states(s, jobs))
		require.Zero(t, s.rescue())
		holder.exec("rollback")
		require.Equal(t, int64(3), s.rescue())
		s.balanced()
		s.exec("update awa.deferred_jobs set run_at = now() + interval '1 day'")
	}
}

// A claim that meets hundreds of expired jobs takes no longer than its statement may, however slow a user's trigger is
// for each of them: what is left stays open, or has rows, and takes the slots that it is to take.
func TestClaimPastExpiredJobsThatTakeLong(t *testing.T) {
	for _, c := range []struct{ name, settings, slow, refuses string }{
		{"ends", `{}`, "done_entries", ""},
		{"rows of attempts", `{}`, "leases", "done_entries, deferred_jobs"},
		{"all", `{}`, "done_entries, deferred_jobs, leases", ""},
		{"refused", `{}`, "done_entries, deferred_jobs, leases", "done_entries, deferred_jobs, leases"},
		{"of a limited queue", `{"max_running": 2}`, "done_entries, deferred_jobs, leases", ""},
		{"refused, of a limited queue", `{"max_running": 2}`, "done_entries, deferred_jobs, leases",
			"done_entries, deferred_jobs, leases"},
		{"with groups", `{"group_max_running": 1}`, "done_entries, deferred_jobs, leases", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDatabase(t)
			s := d.session()
			s.limits("q", c.settings)
			s.exec("select awa.enqueue_many('q', 'bad', array_fill('{}'::jsonb, array[1500]), group_key => 'g', " +
				"expires_at => now() + interval '1 day')")
			s.exec("update awa.ready_entries set expires_at = now() - interval '1 second'")
			last := append(s.enqueueInGroup("q", "h", 1), s.enqueueInGroup("q", "i", 1)...)
			s.exec("create function public.slow() returns trigger language plpgsql as $$ begin if new.kind = 'bad' " +
				"then perform pg_sleep(0.01); if tg_argv[0]::boolean then raise 'not this one'; end if; end if; return new; " +
				"end $$")
			for _, table := range strings.Split(c.slow, ", ") {
				s.exec("create trigger slow before insert on awa." + table + " for each row execute function public.slow(" +
					fmt.Sprint(strings.Contains(c.refuses, table)) + ")")
			}
			if c.slow == "leases" {
				s.refusesIn("23514", strings.Split(c.refuses, ", ")...)
			}
			s.exec("set statement_timeout = '4s'")
			var got []int64
			for range 10 {
				for _, job := range s.claim("q", 10) {
					got = append(got, job.JobID)
				}
			}
			s.exec("set statement_timeout = 0")
			require.ElementsMatch(t, last, got)
			s.slots()
			s.balanced()
		})
	}
}

// Under strict order a job that was given back keeps its place in its group. When it has expired by then, and can't be
// cancelled, it gives the place up: others of its group do not wait until it can.
func TestExpiredHolderThatStays(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for n, tables := range [][]string{{"done_entries"}, {"done_entries", "deferred_jobs"}} {
		queue := fmt.Sprint("q", n)
		s.limits(queue, `{"group_order": "strict"}`)
		held := one[int64](s, "select awa.enqueue($1, 'bad', group_key => 'g', expires_at => now() + interval '1 day')",
			queue)
		next := s.enqueueInGroup(queue, "g", 1)
		job := s.claim(queue, 10)
		require.Equal(t, []int64{held}, ids(job))
		s.exec("select awa.release($1, $2)", held, job[0].Receipt)
		s.expire(held)
		s.refusesIn("23514", tables...)
		got := ids(s.claim(queue, 10))
		require.Equal(t, next, append(got, ids(s.claim(queue, 10))...))
		require.Equal(t, []string{[]string{"scheduled", "running"}[n]}, states(s, []int64{held}))
		s.slots()
		for _, table := range tables {
			s.exec("drop trigger refuse on awa." + table)
		}
		s.noGap()
		s.exec("update awa.leases set lease_until = now() - interval '1 second' where job_id = $1", held)
		s.exec("update awa.deferred_jobs set run_at = now() where job_id = $1", held)
		s.exec("select awa.promote_due(), awa.rescue()")
		require.Equal(t, []string{"cancelled"}, states(s, []int64{held}))
		s.slots()
		s.balanced()
	}
}
