package sql_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// listPasses returns the passes of maintenance, in their order.
func (s *session) listPasses() []string {
	s.Helper()
	return list[string](s, "select unnest(awa._passes())")
}

// succeeded sets when a pass has succeeded last.
const succeeded = "setval(('awa.pass_clock_' || $1::text)::regclass, awa._microseconds(clock_timestamp() - " +
	"$2::interval))"

// A session that hangs inside a pass, with its lock, keeps nobody from running that pass: others leave it out only
// while it has succeeded just now.
func TestPassThatHangs(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session().neverWaits()
	job := s.enqueue("q")
	require.Len(t, s.claim("q", 1), 1)
	a.exec("begin")
	a.exec("select awa.run_pass('rescue')") // and it does not go on from here
	s.halfAnHourLater()
	s.exec("select "+succeeded+", awa.run_pass('rescue')", "rescue", "0")
	require.Equal(t, "running", s.state(job), "it is left to the other session")
	s.exec("select "+succeeded+", awa.run_pass('rescue')", "rescue", "6 seconds")
	require.Equal(t, "retryable", s.state(job), "but not for long")
	s.exec("select "+succeeded+", awa.run_pass('rescue')", "rescue", "-1 hour") // by a clock that was ahead
	require.True(t, one[bool](s, "select awa._succeeded_at('rescue') <= clock_timestamp()"))
	require.Equal(t, []string{"rescue"}, list[string](s, "select what from awa._maintenance_holders"), "it is named")
	a.exec("rollback")
	s.balanced()
}

// Passes with a backlog take turns, a batch each, and what becomes due meanwhile has its turn, too. A pass that fails
// is not tried again in the same call.
func TestPassesTakeTurns(t *testing.T) {
	s := newDatabase(t).session()
	s.exec(`create table awa.batches (n serial, pass text)`)
	s.exec(`create or replace function awa.pass_due_at(pass text) returns timestamptz language sql as $$
		select case when pass = 'promote_due' then '-infinity'::timestamptz end $$`)
	s.exec(`create or replace function awa.run_pass(
		  pass text, max_jobs int default null, if_due boolean default false
		) returns boolean language plpgsql as $$
		begin
		  insert into awa.batches (pass) values ($1);
		  if $1 = 'summarize' then
		    raise 'on purpose';
		  end if;
		  return (select count(*) from awa.batches b where b.pass = $1) < case $1
		    when 'fire_due' then 4
		    when 'rescue' then 3
		    else 0
		  end;
		end $$`)
	order := append(s.listPasses(), // the first round
		"promote_due", "fire_due", "rescue", "promote_due", "fire_due", "rescue", "promote_due", "fire_due")
	require.ErrorContains(t, s.try("call awa.run_maintenance()"), "on purpose")
	calls := one[int](s, "select last_value::int from awa.batches_n_seq")
	require.Equal(t, len(order), calls, "with the one that fails")
	require.Equal(t, slices.DeleteFunc(order, func(pass string) bool { return pass == "summarize" }),
		list[string](s, "select pass from awa.batches order by n"))
}

// Each pass is run beside one that hangs, and waits for nothing. Those that need what the other one holds are not said
// to have succeeded.
func TestPassesThatHang(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session().neverWaits()
	s.completes(s.open("q", shapes[0]))
	for _, pass := range s.listPasses() {
		a.exec("begin")
		a.exec("select awa.run_pass($1)", pass)
		s.exec("select "+succeeded, pass, "6 seconds")
		s.exec("select awa.run_pass($1)", pass)
		needs := map[string]bool{"fold": true, "expire_history": true, "rotate": true, "prune_oldest": true}
		require.Equal(t, !needs[pass],
			one[bool](s, "select awa._succeeded_at($1) > clock_timestamp() - interval '5 seconds'", pass), pass)
		a.exec("commit")
		s.exec("select awa.run_pass($1)", pass)
		require.True(t, one[bool](s, "select awa._succeeded_at($1) > clock_timestamp() - interval '1 minute'", pass), pass)
	}
}

// The current segment is summarized once no session holds a lock on it: a vacuum, say.
func TestSummarizeBesideAVacuum(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session().neverWaits()
	a.exec("begin")
	a.exec("lock table awa.ready_entries_0 in share update exclusive mode")
	require.Zero(t, one[int](s, "select summarized from awa.summarize()"))
	require.True(t, one[bool](s, "select awa._succeeded_at('summarize') is null"))
	a.exec("commit")
	s.exec("select awa.summarize()")
	require.True(t, one[bool](s, "select awa._succeeded_at('summarize') is not null"))
}

// A pass that another session runs just then is not run a second time: whether it is due is looked at under its lock.
func TestPassThatAnotherSessionHasJustRun(t *testing.T) {
	d := newDatabase(t)
	a, b, s := d.session(), d.session(), d.session()
	s.exec("create table public.runs (n int); grant all on public.runs to public")
	s.exec("create or replace function awa._pass_period(pass text) returns interval language sql immutable " +
		"return interval '10 minutes'")
	s.exec(changing("run_pass", "interval '5 seconds'", "interval '1 hour'"))
	s.exec("create or replace function awa.forget_workers() returns setof awa.forget_workers_row language sql " +
		"security definer as $$ insert into public.runs values (1); select awa._note_success('forget_workers'); " +
		"select f.* from awa.forget_workers_row f $$")
	// a session that has read when the pass has succeeded waits, where the test says so
	s.exec("alter function awa._succeeded_at rename to _succeeded_at_once")
	s.exec(`create function awa._succeeded_at(pass text) returns timestamptz language plpgsql as $$
		declare
		  v_at constant timestamptz := awa._succeeded_at_once(pass);
		begin
		  if current_setting('test.waits', true) = 'on' then
		    perform pg_advisory_xact_lock(4711);
		  end if;
		  return v_at;
		end $$`)
	s.exec("select "+succeeded, "forget_workers", "30 minutes")
	s.exec("select pg_advisory_lock(4711)")
	b.exec("set test.waits = on")
	ended := b.background("select awa.run_pass('forget_workers', if_due => true)")
	s.waitUntilBlocked(b)
	require.False(t, one[bool](a, "select awa.run_pass('forget_workers', if_due => true)"))
	s.exec("select pg_advisory_unlock(4711)")
	require.NoError(t, ended())
	require.Equal(t, 1, one[int](s, "select count(*) from public.runs"))
	a.exec("select awa.run_pass('forget_workers', if_due => true)")
	require.Equal(t, 1, one[int](s, "select count(*) from public.runs"), "nor later, within its period")
	a.exec("select awa._make_due('forget_workers')")
	a.exec("select awa.run_pass('forget_workers', if_due => true)")
	require.Equal(t, 2, one[int](s, "select count(*) from public.runs"), "unless it has left work")
}

// Maintenance, and the trigger that keeps rows, run as their caller, by whose search_path functions, operators and
// types of others fit better than the server's own: none of them is called.
func TestMaintenanceCallsNothingOfOthers(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.completes(s.open("q", shapes[0]))
	s.exec("create function public.hijacked() returns boolean language plpgsql as $$ begin raise 'hijacked'; end $$")
	for _, function := range []string{
		"current_setting(text) returns text", "statement_timestamp() returns timestamptz",
		"floor(double precision) returns double precision", "cardinality(text[]) returns int",
		"array_fill(interval, int[]) returns interval[]", "array_remove(text[], text) returns text[]",
		"clock_timestamp() returns timestamptz", "random() returns double precision",
		"differ(text[], text[]) returns boolean", "differ(text, text) returns boolean",
		"format(text, name) returns text", "format(text, text) returns text", "lower(text) returns text",
		"join_up(text[], text[]) returns text[]", "join_up(text[], text) returns text[]",
	} {
		s.exec("create function public." + function +
			" language plpgsql as $$ begin perform public.hijacked(); return null; end $$")
	}
	for _, operator := range []string{
		"<> (leftarg = text[], rightarg = text[], function = public.differ)",
		"<> (leftarg = text, rightarg = text, function = public.differ)",
		"|| (leftarg = text[], rightarg = text[], function = public.join_up)",
		"|| (leftarg = text[], rightarg = text, function = public.join_up)",
	} {
		s.exec("create operator public." + operator)
	}
	for _, of := range []string{"text", "timestamptz"} {
		s.exec("create domain public." + of + " as pg_catalog." + of + " check (public.hijacked())")
	}
	for _, path := range []string{`"$user", public`, "public, pg_catalog"} {
		for _, timeout := range []string{"0", "5 s"} { // the short form draws a first pass
			for _, call := range []string{"awa.run_maintenance()", "awa.run_passes()"} {
				caller := d.session()
				caller.exec("set statement_timeout = '" + timeout + "'")
				caller.exec("set search_path = " + path)
				caller.exec("call " + call)
				require.Equal(t, path, one[string](caller, "show search_path"), "it is the caller's again")
				require.ErrorContains(t, caller.try("delete from awa.settings"), "must keep its row")
			}
		}
	}
}
