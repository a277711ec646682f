package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// slowFor has each row of some tables take its time, where its kind is slow.
func (s *session) slowFor(seconds float64, tables ...string) {
	s.exec("create function public.sleep() returns trigger language plpgsql as $$ begin if new.kind = 'slow' " +
		"then perform pg_sleep(tg_argv[0]::float); end if; return new; end $$")
	for _, table := range tables {
		s.exec("create trigger sleep before insert on awa." + table + " for each row execute function public.sleep(" +
			one[string](s, "select $1::float8::text", seconds) + ")")
	}
}

// A batch that does not end within the caller's timeout is not repeated as it is.
func TestPassThatIsCutOffTakesFewer(t *testing.T) {
	for _, c := range []struct{ pass, table, done, fill string }{
		{"promote_due", "ready_entries", "select count(*) from awa.ready_entries",
			"select awa.enqueue_many('q', 'slow', array_fill('{}'::jsonb, array[200]), run_at => now() + interval '0.3 s')"},
		{"fire_due", "ready_entries", "select count(*) from awa.ready_entries",
			"select awa.schedule('s' || n, 'q', 'slow', every => '1 second') from generate_series(1, 200) n; " +
				"select pg_sleep(1.5)"},
		{"apply_changes", "done_entries", "select count(*) from awa.done_entries",
			"select awa.start_change('cancel', '{\"queue\": \"q\"}') from (select count(*) from " +
				"awa.enqueue_many('q', 'slow', array_fill('{}'::jsonb, array[200]))) q"},
	} {
		t.Run(c.pass, func(t *testing.T) {
			d := newDatabase(t)
			s := d.session()
			s.slowFor(0.01, c.table) // 2 s for all
			s.exec(c.fill)
			s.exec("select pg_sleep(0.4)")
			s.exec("set statement_timeout = '1s'")
			cut := 0
			for tries := 0; one[int](s, c.done) < 200; tries++ {
				require.Less(t, tries, 60, "%d done, %d cut off", one[int](s, c.done), cut)
				if err := s.try("select awa.run_pass($1)", c.pass); err != nil {
					require.Equal(t, "57014", sqlState(err), err)
					cut++
				}
			}
			require.Positive(t, cut)
			s.exec("set statement_timeout = 0")
			for range 10 {
				s.exec("select awa.run_pass($1)", c.pass)
			}
			require.Zero(t, one[int](s, "select last_value from awa.pass_cuts_"+c.pass), "it takes as many again")
			s.balanced()
		})
	}
}

// A pass that is cut off each time does not keep all others from being run: under a timeout a call begins with any.
func TestPassesBeginAnywhereUnderATimeout(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("set statement_timeout = '1min'")
	first := map[string]bool{}
	for range 100 {
		s.exec("select setval(('awa.pass_clock_' || p)::regclass, 1) from unnest(awa._passes()) p")
		s.exec("call awa.run_maintenance()")
		first[one[string](s, "select p from unnest(awa._passes()) p order by awa._succeeded_at(p) limit 1")] = true
		if len(first) > 2 {
			return
		}
	}
	require.Fail(t, "each call began with the same pass", "%v", first)
}

// Maintenance waits for no row that another session holds, and that a user's trigger needs: the rest goes on.
func TestPassesBesideALockOfATrigger(t *testing.T) {
	for _, c := range []struct{ pass, trigger, fill, call, rest string }{
		{"promote_due", "before insert on awa.ready_entries",
			"select awa.enqueue('q', k, run_at => now() + interval '0.3 s') from unnest('{bad,good,bad,good}'::text[]) k",
			"select awa.promote_due()",
			"select count(*) from awa.jobs where state = 'available' and kind = 'good'"},
		{"expire_history", "before delete on awa.done_entries",
			"select awa.cancel(awa.enqueue('q', k)) from unnest('{bad,good,bad,good}'::text[]) k",
			"select awa.expire_history()",
			"select 2 - count(*) from awa.jobs where kind = 'good'"},
		{"materialize", "before insert on awa.leases",
			"select awa.enqueue('q', k) from unnest('{bad,good,bad,good}'::text[]) k",
			"select awa.materialize(older_than => '0') from (select count(*) from awa.claim('q', 10)) c",
			"select count(*) from awa.leases where kind = 'good'"},
		{"prune_oldest", "before insert on awa.ready_entries",
			"select awa.enqueue_many('q', k, array_fill('{}'::jsonb, array[n])) from " +
				"(values ('bad', 2), ('good', 1500)) v(k, n)",
			"select awa.prune_oldest(force => true) from generate_series(1, 3)",
			"select least(2, count(*)) from awa.ready_entries e, awa.ring r where e.segment = r.current_segment and " +
				"e.kind = 'good'"},
	} {
		t.Run(c.pass, func(t *testing.T) {
			d := newDatabase(t)
			s, holder, worker := d.session(), d.session(), d.session()
			s.exec(c.fill)
			s.exec("select pg_sleep(0.4)")
			s.exec("update awa.done_entries set finalized_at = now() - interval '1 year'")
			s.exec("create table public.locked (); insert into public.locked default values; " +
				"grant all on public.locked to public")
			s.exec("create function public.wait() returns trigger language plpgsql as $$ begin " +
				"if (coalesce(new, old)).kind = 'bad' then perform from public.locked for update; end if; " +
				"return coalesce(new, old); end $$")
			s.exec("create trigger wait " + c.trigger + " for each row execute function public.wait()")
			if c.pass == "prune_oldest" {
				s.exec("select awa.rotate(force => true)")
			}
			holder.exec("begin")
			holder.exec("select from public.locked for update")
			s.neverWaits()
			s.exec(c.call)
			require.Equal(t, 2, one[int](s, c.rest), "the rest goes on")
			worker.exec("select awa.claim('q', 1)")
			holder.exec("rollback")
			s.exec(c.call)
			require.Zero(t, one[int](s, "select count(*) from awa.deferred_jobs"))
			require.Zero(t, one[int](s, "select count(*) from awa.done_entries"))

		})
	}
}

// Nor does cancel_expired keep a queue for as long as a slow trigger needs for all jobs that it has found.
func TestCancelExpiredIsBounded(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.slowFor(0.02, "done_entries") // 12 s for all
	s.exec("select awa.enqueue_many('q', 'slow', array_fill('{}'::jsonb, array[600]), " +
		"expires_at => now() + interval '1 day')")
	s.exec("update awa.ready_entries set expires_at = now() - interval '1 second'")
	s.exec("set statement_timeout = '6s'")
	for range 2 {
		cancelled := one[int](s, "select cancelled from awa.cancel_expired()")
		require.Positive(t, cancelled)
		require.Less(t, cancelled, 100)
	}
	s.exec("drop trigger sleep on awa.done_entries")
	for one[int](s, "select cancelled from awa.cancel_expired()") > 0 {
	}
	require.Equal(t, 600, one[int](s, "select count(*) from awa.done_entries where state = 'cancelled'"))
	s.balanced()
}
