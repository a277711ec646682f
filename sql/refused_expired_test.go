package sql_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

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
	require.Zero(t, s.rescue())
	require.Equal(t, 3, one[int](s, "select count(*) from awa.leases where kind = 'bad' and "+
		"lease_until > now() + interval '20 seconds'"), "no sooner")
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

// sleepsOnce has the first row of a job of some kind in a table take as long as all the time that a claim has.
func (s *session) sleepsOnce(table, kind string) {
	s.Helper()
	s.exec("create sequence public.met; grant all on sequence public.met to public")
	s.exec("create function public.sleep_once() returns trigger language plpgsql as $$ begin if new.kind = '" + kind +
		"' and nextval('public.met') = 1 then perform pg_sleep(2.1); end if; return new; end $$")
	s.exec("create trigger sleep_once before insert on awa." + table +
		" for each row execute function public.sleep_once()")
	if table == "leases" { // all but the first one of each claim row are left to it
		s.exec(changing("_expire_claimed", "'1 second'", "'-1 second'"))
	}
}

// Nor where the slow ones come after many quick ones, however large the parts have become by then: here the first slow
// one takes all the time that there is, and no more than 31 end with it.
func TestClaimPastExpiredJobsThatTakeLongAfterQuickOnes(t *testing.T) {
	for _, slow := range []string{"done_entries", "leases"} {
		d := newDatabase(t)
		s := d.session()
		// A claim of ten jobs reads 10 entries, 30, 90, 270, then 810: in parts of 1 to 128, the next one would have 256.
		for _, kind := range []string{"quick", "slow"} {
			s.exec("select awa.enqueue_many('q', $1, array_fill('{}'::jsonb, array[400 + 255]), expires_at => now() + "+
				"interval '1 day')", kind)
		}
		s.exec("update awa.ready_entries set expires_at = now() - interval '1 second'")
		last := s.enqueueMany("q", 1)
		s.sleepsOnce(slow, "slow")
		s.claim("q", 10)
		require.LessOrEqual(t, one[int](s, "select count(*) from awa."+slow+" where kind = 'slow'"), 32, slow)
		require.Equal(t, last, ids(s.claim("q", 10)))
		s.balanced()
	}
}

// A claim has one time for all expired jobs that it meets, in all lanes and shards. When it is over, it takes one of
// each claim row.
func TestTimeOfAClaimPastExpiredJobs(t *testing.T) {
	for _, settings := range []string{"{}", `{"shards": 8}`, `{"max_running": 5}`, `{"group_max_running": 1}`,
		`{"group_turns": true}`} {
		for _, slow := range []string{"done_entries", "leases"} {
			d := newDatabase(t)
			s := d.session()
			s.limits("q", settings)
			for n := range 8 {
				s.exec("select awa.enqueue_many('q', 'slow', array_fill('{}'::jsonb, array[50]), priority => 1 + $1::int % 2, "+
					"group_key => $1::int::text, expires_at => now() + interval '1 day')", n)
			}
			s.exec("update awa.ready_entries set expires_at = now() - interval '1 second'")
			last := s.enqueueMany("q", 1)
			s.sleepsOnce(slow, "slow")
			require.Equal(t, last, ids(s.claim("q", 2)), settings)
			require.LessOrEqual(t, one[int](s, "select count(*) from awa."+slow),
				one[int](s, "select count(*) from awa.lease_claims where job_ids <> '{}'"), settings)
			s.slots()
			s.balanced()
		}
	}
}

// The time of a claim is a share of what is left of its statement, not of what was there when that began.
func TestTimeOfALateClaim(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("set statement_timeout = '20s'")
	s.exec("begin")
	require.Equal(t, []string{"00:00:05", "00:00:01", "00:00:04"}, list[string](s, "select (awa._step_end(b, m, 4) - "+
		"b)::text from (values (statement_timestamp(), interval '1 hour'), (statement_timestamp(), '1 second'), "+
		"(statement_timestamp() + interval '4 seconds', '1 hour')) v(b, m)"))
}

// A queue goes on beside expired jobs that can't be ended, however many they are: they hold no slots, also where they
// stay open in the ledger, and also where others come between them.
func TestSlotsBesideExpiredJobsThatStayOpen(t *testing.T) {
	for _, settings := range []string{`{"max_running": 2}`, `{"max_running": 2, "group_max_running": 1}`,
		`{"max_running": 2, "group_turns": true}`} {
		d := newDatabase(t)
		s := d.session()
		s.limits("q", settings)
		s.refusesIn("23514", "done_entries", "deferred_jobs", "leases")
		var want, got []int64
		for _, bad := range []int{3000, 1, 2, 0, 40, 1} {
			if bad > 0 {
				s.expire(list[int64](s, "select awa.enqueue_many('q', 'bad', array_fill('{}'::jsonb, array[$1::int]), "+
					"group_key => 'g', expires_at => now() + interval '1 day')", bad)...)
			}
			want = append(want, s.enqueueMany("q", 1)...)
		}
		for range 20 {
			for _, job := range s.claim("q", 10) {
				got = append(got, job.JobID)
				s.slots()
				require.LessOrEqual(t, s.holds("q", nil), 2)
				s.exec("select awa.complete($1, $2)", job.JobID, job.Receipt)
			}
		}
		require.ElementsMatch(t, want, got, settings)
		require.Equal(t, 3044, one[int](s, "select count(*) from awa.jobs where kind = 'bad' and state = 'running'"))
		s.slots()
		for _, table := range []string{"done_entries", "deferred_jobs", "leases"} {
			s.exec("drop trigger refuse on awa." + table)
		}
		ended := "lease_claims" // rescue ends them where they are
		if settings != `{"max_running": 2}` {
			ended = "leases"
			for s.materialize() > 0 {
			}
		}
		s.exec("update awa." + ended + " set lease_until = claimed_at + interval '1 millisecond'")
		for left := int64(3044); left > 0; {
			s.noGap()
			rescued := s.rescue()
			require.Positive(t, rescued)
			left -= rescued
		}
		require.Equal(t, 3044, one[int](s, "select count(*) from awa.jobs where kind = 'bad' and state = 'cancelled'"))
		require.Zero(t, one[int](s, "select count(*) from awa.lease_claim_closures where outcome = 'failed'"))
		s.slots()
		s.balanced()
	}
}

// Whether an attempt has never begun is told from the time of its claim, also where a clock that was ahead wrote that.
func TestKeptJobsOfAClockThatWasAhead(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	bad, _ := s.expiredEntries("q")
	s.refusesIn("23514", "done_entries", "deferred_jobs")
	s.claim("q", 10)
	s.exec("drop trigger refuse on awa.done_entries")
	s.exec("update awa.leases set claimed_at = now() + interval '1 hour', expires_at = now() + interval '30 minutes', " +
		"lease_until = now() + interval '1 hour'")
	s.noGap()
	require.Zero(t, s.rescue())
	s.exec("update awa.leases set lease_until = now() - interval '1 second'")
	require.Equal(t, int64(3), s.rescue())
	require.Equal(t, []string{"cancelled", "cancelled", "cancelled"}, states(s, bad))
	s.balanced()
}

// Maintenance takes overdue and long attempts in parts, for a second: however slow a user's trigger is, a call ends
// within its statement_timeout, and the next one goes on. Here the first row takes all that time. So it is where it
// goes one by one, since another one is refused.
func TestMaintenanceOfAttemptsThatTakeLong(t *testing.T) {
	for _, refuses := range []bool{false, true} {
		for _, call := range []string{"rescue of rows", "rescue", "materialize"} {
			t.Run(fmt.Sprint(call, refuses), func(t *testing.T) {
				d := newDatabase(t)
				s := d.session()
				list[int64](s, "select awa.enqueue('q', case n when 0 then 'bad' else 'slow' end) from "+
					"generate_series(0, 60) n")
				require.Len(t, s.claim("q", 100), 61)
				maintain, table := s.rescue, "deferred_jobs"
				switch call {
				case "materialize":
					maintain, table = s.materialize, "leases"
				case "rescue of rows":
					for s.materialize() > 0 {
					}
					fallthrough
				default:
					s.halfAnHourLater()
				}
				s.sleepsOnce(table, "slow")
				if refuses {
					s.refusesIn("23514", table)
				} else {
					s.exec("update awa.leases set kind = 'slow' where kind = 'bad'")
					s.exec("update awa.ready_entries set kind = 'slow' where kind = 'bad'")
				}
				s.noGap()
				require.Equal(t, int64(1), maintain())
				left := int64(60)
				if refuses {
					left--
				}
				for left > 0 {
					s.noGap()
					n := maintain()
					require.Positive(t, n)
					left -= n
				}
				s.noGap()
				require.Zero(t, maintain())
				s.balanced()
			})
		}
	}
}

// Where maintenance goes one by one, it waits for no more than a millisecond for each of those that are being answered
// for, not for as long as it may where it takes many at once.
func TestOneByOneWaitsForAMillisecond(t *testing.T) {
	d := newDatabase(t)
	s, holder := d.session(), d.session()
	s.enqueueMany("q", 10)
	var jobs []claimed // each of a claim of its own, which an answer does not lock
	for range 10 {
		jobs = append(jobs, s.claim("q", 1)...)
	}
	holder.exec("begin")
	holder.exec("select awa.fail_many($1, $2, array_fill('error'::text, array[10]), array_fill(interval '1 hour', "+
		"array[10]))", ids(jobs), receipts(jobs))
	took := func(wait string) time.Duration {
		s.exec("select set_config('lock_timeout', $1, false)", wait)
		began := time.Now()
		require.Empty(t, list[int64](s, "select unnest(awa._take_open(array[r], 1, 'failed')) from unnest($1::bigint[]) r",
			receipts(jobs)))
		return time.Since(began)
	}
	require.Less(t, took("1ms"), took("10s")/2)
	holder.exec("rollback")
}

// Under strict order a job that was given back keeps its place in its group. When it has expired by then, and can't be
// cancelled, it gives the place up: others of its group do not wait until it can.
func TestExpiredHolderThatStays(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for n, tables := range [][]string{{"done_entries"}, {"done_entries", "deferred_jobs"},
		{"done_entries", "deferred_jobs", "leases"}} {
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
		require.Equal(t, []string{[]string{"scheduled", "running", "running"}[n]}, states(s, []int64{held}))
		s.slots()
		for _, table := range tables {
			s.exec("drop trigger refuse on awa." + table)
		}
		s.noGap()
		s.materialize()
		s.exec("update awa.leases set lease_until = now() - interval '1 second' where job_id = $1", held)
		s.exec("update awa.deferred_jobs set run_at = now() where job_id = $1", held)
		s.exec("select awa.promote_due(), awa.rescue()")
		require.Equal(t, []string{"cancelled"}, states(s, []int64{held}))
		s.slots()
		s.balanced()
	}
}
