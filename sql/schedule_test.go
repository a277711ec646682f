package sql_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// setsClock lets schedules of this database go by a clock that stands still until it is set, and sets it.
func (s *session) setsClock(at string) {
	s.Helper()
	s.exec("create table public.test_clock (at timestamptz); grant select on public.test_clock to public")
	s.exec("insert into public.test_clock values ($1::text::timestamptz)", at)
	s.exec(`create or replace function awa._schedule_clock() returns timestamptz language sql volatile
		as 'select at from public.test_clock'`)
}

func (s *session) clockIs(at string) {
	s.Helper()
	s.exec("update public.test_clock set at = $1::text::timestamptz", at)
}

// fire returns how many jobs a call of fire_due has enqueued.
func (s *session) fire() int64 {
	s.Helper()
	return one[int64](s, "select fired from awa.fire_due()")
}

// times are the nominal times of the jobs of a schedule, by their ids.
func (s *session) times(name string) []string {
	s.Helper()
	return list[string](s, `
		select substr(j.metadata #>> '{schedule,at}', 12, 5) from awa.jobs j
		 where j.metadata #>> '{schedule,name}' = $1 order by j.id`, name)
}

// A schedule that fires each minute, and is due at 12:01.
func dueSchedule(t *testing.T, options string) (database, *session) {
	d := newDatabase(t)
	s := d.session()
	s.setsClock("2026-06-01 12:00:30+00")
	s.exec("select awa.schedule('s', 'q', 'k', '* * * * *'" + options + ")")
	s.clockIs("2026-06-01 12:01:01+00")
	return d, s
}

// Two programs that run maintenance at one tick enqueue one job: the second one passes over what the first one holds,
// waits for nothing, and finds the tick noted afterwards. So it is when the first one rolls back: the tick fires then.
func TestTwoMaintainersAtOneTick(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d, s := dueSchedule(t, "")
		s.exec("select awa.schedule('other', 'q', 'k', '* * * * *')")
		s.exec("update awa.schedules set decided_until = '2026-06-01 12:00:30+00', next_tick = '2026-06-01 12:01:00+00', " +
			"next_wall = '2026-06-01 12:01:00', next_at = '2026-06-01 12:01:00+00' where name = 'other'")
		a, b := d.session(), d.session().neverWaits()
		a.exec("begin")
		require.EqualValues(t, 1, one[int64](a, "select fired from awa.fire_due(1)"))
		require.EqualValues(t, 1, b.fire(), "the other one is free")
		require.EqualValues(t, 0, b.fire(), "and that is all")
		a.exec(end)
		require.EqualValues(t, map[string]int64{"commit": 0, "rollback": 1}[end], b.fire())
		require.Equal(t, []string{"12:01"}, s.times("s"), end)
		require.Equal(t, []string{"12:01"}, s.times("other"), end)
		s.balanced()
	}
}

// Many sessions fire the same schedules, as often as they can, while the clock goes on: each tick fires once.
func TestManyMaintainers(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.setsClock("2026-06-01 12:00:00+00")
	s.exec("select awa.schedule('s' || n, 'q', 'k', '* * * * * *', missed => 'all') from generate_series(1, 20) n")
	var ends []func() error
	for range 4 {
		a := d.session()
		ends = append(ends, a.background(`
			do $$
			begin
			  while (select at < '2026-06-01 12:01:00+00' from public.test_clock) loop
			    perform awa.fire_due(7);
			    commit;
			  end loop;
			end $$`))
	}
	for n := 1; n <= 60; n++ {
		s.clockIs(fmt.Sprintf("2026-06-01 12:%02d:%02d+00", n/60, n%60))
		s.fire()
	}
	for _, end := range ends {
		require.NoError(t, end())
	}
	for s.fire() > 0 {
	}
	require.EqualValues(t, "1200 1200",
		one[string](s, "select count(*) || ' ' || count(distinct metadata -> 'schedule') from awa.jobs"))
	s.balanced()
}

// An open change of a queue's number of shards keeps nothing but the schedules with a group of that queue, which are
// left for a later pass. It is no failure of theirs.
func TestFiringBesideAnOpenChangeOfShards(t *testing.T) {
	d := newDatabase(t)
	s, operator := d.session().neverWaits(), d.session()
	s.exec("update awa.settings set claim_wait = '1 hour'")
	s.setShards("q", 4)
	s.setsClock("2026-06-01 12:00:30+00")
	s.exec("select awa.schedule('s' || n, 'q', 'k', '* * * * *', group_key => 'g') from generate_series(1, 3) n")
	s.exec("select awa.schedule('other', 'r', 'k', '* * * * *', group_key => 'g')")
	s.clockIs("2026-06-01 12:01:01+00")
	operator.exec("begin")
	operator.setShards("q", 8)
	require.EqualValues(t, 1, s.fire())
	require.Equal(t, []string{"12:01"}, s.times("other"))
	require.Zero(t, one[int](s, "select count(*) from awa.schedules where failures > 0 or error is not null"))
	require.Equal(t, "0", one[string](s, "show lock_timeout"))
	operator.exec("commit")
	require.EqualValues(t, 3, s.fire())
	require.Equal(t, []int{one[int](s, "select awa._group_bits('g') % 8")}, s.shardsOf("q"))
	s.balanced()
}

// The job and the tick are in one transaction: whatever ends it before its commit, neither is there, and the tick fires
// later. A server that crashes right after the enqueue is such an end.
func TestCrashBetweenEnqueueAndTick(t *testing.T) {
	server := newServer(t)
	d := server.database("t", true)
	s := d.session()
	s.setsClock("2026-06-01 12:00:30+00")
	s.exec("select awa.schedule('s', 'q', 'k', '* * * * *')")
	s.clockIs("2026-06-01 12:01:01+00")
	s.exec("checkpoint")
	a := d.session()
	a.exec("begin")
	require.EqualValues(t, 1, a.fire())
	require.NoError(t, server.Halt())
	require.NoError(t, server.Resume(t.Context()))
	s = d.session()
	require.Empty(t, s.times("s"), "the job is gone with its tick")
	require.EqualValues(t, 1, s.fire())
	require.EqualValues(t, 0, s.fire())
	require.Equal(t, []string{"12:01"}, s.times("s"))
	s.balanced()
}

// A session that changes a schedule while a firing of it is open waits for it, and sees the tick that it has noted.
func TestChangesBesideAnOpenFiring(t *testing.T) {
	for _, test := range []struct {
		call  string
		times []string // once the next minute has come
	}{
		{"select awa.schedule('s', 'q', 'k', '* * * * *', args => '1')", []string{"12:01", "12:02"}},
		{"select awa.schedule('s', 'q', 'k', '*/3 * * * *')", []string{"12:01"}},
		{"select awa.pause_schedule('s')", []string{"12:01"}},
		{"select awa.pause_schedule('s'), awa.resume_schedule('s')", []string{"12:01", "12:02"}},
		{"select awa.trigger_schedule('s')", []string{"12:01", "12:01", "12:02"}},
		{"select awa.backfill_schedule('s', '2026-06-01 12:00+00', '2026-06-01 12:01:01+00')",
			[]string{"12:01", "12:00", "12:02"}},
		{"select awa.unschedule('s')", []string{"12:01"}},
		{"select awa.sync_schedules('app', '[]')", []string{"12:01", "12:02"}},
	} {
		t.Run(test.call, func(t *testing.T) {
			d, s := dueSchedule(t, "")
			a, b := d.session(), d.session()
			a.exec("begin")
			require.EqualValues(t, 1, a.fire())
			ended := b.background(test.call)
			if !strings.Contains(test.call, "sync") {
				s.waitUntilBlocked(b)
			}
			a.exec("commit")
			require.NoError(t, ended())
			s.fire()
			s.clockIs("2026-06-01 12:02:01+00")
			s.fire()
			require.Equal(t, test.times, s.times("s"))
			s.balanced()
		})
	}
}

// A change that is open keeps its schedule from firing, and no other one; firing waits for nothing. What was due fires
// after the change, by what it says then.
func TestFiringBesideOpenChanges(t *testing.T) {
	for _, test := range []struct {
		call  string
		times []string
	}{
		{"select awa.schedule('s', 'q', 'k', '* * * * *', args => '1')", []string{"12:01"}},
		{"select awa.schedule('s', 'q', 'k', '*/3 * * * *')", []string{}},
		{"select awa.pause_schedule('s')", []string{}},
		{"select awa.unschedule('s')", []string{}},
		{"select awa.trigger_schedule('s')", []string{"12:01", "12:01"}},
		{"select awa.backfill_schedule('s', '2026-06-01 12:01+00', '2026-06-01 12:01:01+00')", []string{"12:01"}},
	} {
		t.Run(test.call, func(t *testing.T) {
			d, s := dueSchedule(t, "")
			s.exec("insert into awa.schedules select (jsonb_populate_record(s, '{\"name\": \"other\"}')).* " +
				"from awa.schedules s")
			a, b := d.session(), d.session().neverWaits()
			a.exec("begin")
			a.exec(test.call)
			require.EqualValues(t, 1, b.fire())
			require.Equal(t, []string{"12:01"}, s.times("other"))
			a.exec("commit")
			b.fire()
			require.Equal(t, test.times, s.times("s"))
			s.balanced()
		})
	}
}

// A synchronisation that changes nothing keeps none of its schedules from firing while it is open, and waits for none.
func TestFiringBesideAnOpenSynchronisation(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.setsClock("2026-06-01 12:00:30+00")
	const sync = `select awa.sync_schedules('app', '[{"name": "s", "queue": "q", "kind": "k", "cron": "* * * * *"}]')`
	s.exec(sync)
	s.clockIs("2026-06-01 12:01:01+00")
	a, b := d.session(), d.session().neverWaits()
	a.exec("begin")
	a.exec(sync)
	require.EqualValues(t, 1, b.fire())
	a.exec("commit")
	a.exec("begin")
	s.clockIs("2026-06-01 12:02:01+00")
	require.EqualValues(t, 1, a.fire())
	b.exec(sync)
	a.exec("commit")
	require.Equal(t, []string{"12:01", "12:02"}, s.times("s"))
}

// A call that changes a schedule does not wait without end for a transaction that is left open.
func TestChangesOfAScheduleWaitWithinBounds(t *testing.T) {
	d, s := dueSchedule(t, "")
	s.exec(`select awa.configure('{"claim_wait": "50 milliseconds"}')`)
	a, b := d.session(), d.session()
	a.exec("begin; select awa.trigger_schedule('s')")
	for _, call := range []string{"awa.schedule('s', 'q', 'k', '@daily')", "awa.pause_schedule('s')",
		"awa.resume_schedule('s')", "awa.unschedule('s')", "awa.trigger_schedule('s')",
		"awa.backfill_schedule('s', '2026-01-01', '2026-01-02')"} {
		b.exec("set lock_timeout = '7s'")
		require.Equal(t, "55P03", sqlState(b.try("select "+call)), call)
		require.Equal(t, "7s", one[string](b, "show lock_timeout"), call)
	}
	a.exec("commit")
}

// Two sessions make the same schedule: one of them makes it, and the other one changes it.
func TestTwoMakersOfASchedule(t *testing.T) {
	d := newDatabase(t)
	a, b, s := d.session(), d.session(), d.session()
	a.exec("begin; select awa.schedule('s', 'q', 'k', '@daily')")
	ended := b.background("select awa.schedule('s', 'q', 'k', '@hourly')")
	s.waitUntilBlocked(b)
	a.exec("commit")
	require.NoError(t, ended())
	require.Equal(t, "@hourly", one[string](s, "select cron from awa.list_schedules()"))
}

// Two programs of one source start at the same time: the second one waits for the first, and nothing is removed that
// both declare. An older one that starts beside a newer one changes nothing.
func TestTwoSynchronisationsAtOnce(t *testing.T) {
	const declare = `select awa.sync_schedules('app', '[{"name": "a", "queue": "q", "kind": "k", "cron": "@daily"},
		{"name": "%s", "queue": "q", "kind": "k", "cron": "@daily"}]', %d)`
	for _, test := range []struct {
		first, second, want string
	}{
		{fmt.Sprintf(declare, "b", 1), fmt.Sprintf(declare, "b", 1), "a b"},
		{fmt.Sprintf(declare, "b", 1), fmt.Sprintf(declare, "c", 2), "a c"},
		{fmt.Sprintf(declare, "c", 2), fmt.Sprintf(declare, "b", 1), "a c"},
	} {
		d := newDatabase(t)
		a, b, s := d.session(), d.session(), d.session()
		s.exec("select awa.sync_schedules('app', '[]', 0)")
		a.exec("begin")
		a.exec(test.first)
		ended := b.background(test.second)
		s.waitUntilBlocked(b)
		a.exec("commit")
		require.NoError(t, ended())
		require.Equal(t, test.want, one[string](s, "select string_agg(name, ' ' order by name) from awa.list_schedules()"))
	}
}

// A program finds its schedules declared as it declares them, while another session, which declares them otherwise, has
// not committed yet. The last one to synchronise wins all the same.
func TestSynchronisationOfWhatChangesMeanwhile(t *testing.T) {
	const declare = `select awa.sync_schedules('app', '[{"name": "a", "queue": "q", "kind": "k", "cron": "%s"}]')`
	d := newDatabase(t)
	a, b, s := d.session(), d.session(), d.session()
	s.exec(fmt.Sprintf(declare, "@daily"))
	a.exec("begin")
	a.exec(fmt.Sprintf(declare, "@hourly"))
	ended := b.background(fmt.Sprintf(declare, "@daily"))
	s.waitUntilBlocked(b)
	a.exec("commit")
	require.NoError(t, ended())
	require.Equal(t, "@daily", one[string](s, "select cron from awa.list_schedules()"))
}

// A job that is claimed while it is replaced is cancelled all the same, where the cancel comes first or where it finds
// the claim; a claim that is open keeps the schedule from firing for now, which is no failure, and holds up no other.
func TestReplaceBesideAnOpenClaim(t *testing.T) {
	d, s := dueSchedule(t, ", overlap => 'replace'")
	s.setClaimWait("5 minutes")
	require.EqualValues(t, 1, s.fire())
	job := one[int64](s, "select last_job_id from awa.list_schedules()")
	a := d.session()
	a.exec("begin")
	require.Len(t, a.claim("q", 1), 1)
	s.clockIs("2026-06-01 12:02:01+00")
	began := time.Now()
	require.EqualValues(t, 0, s.fire(), "the queue is locked: the job can't be cancelled now")
	require.Less(t, time.Since(began), 2*time.Minute, "and no session waits for it")
	require.EqualValues(t, 0, one[int](s, "select failures from awa.list_schedules()"))
	require.Equal(t, "available", s.state(job))
	require.EqualValues(t, "0 f", one[string](s, "select fired || ' ' || left(more::text, 1) from awa.fire_due()"))
	a.exec("commit")
	s.clockIs("2026-06-01 12:02:02.5+00")
	require.EqualValues(t, 0, s.fire(), "it is cancelled")
	require.Equal(t, "cancelled", s.state(job))
	require.EqualValues(t, 1, s.fire(), "and the next call fires")
	require.Equal(t, []string{"12:01", "12:02"}, s.times("s"))
	s.balanced()
}

// Jobs of many schedules that are replaced: a call cancels those of many queues at once, and writes nothing about the
// schedules. The next one fires.
func TestReplaceOfMany(t *testing.T) {
	s := newDatabase(t).session()
	s.setsClock("2026-06-01 12:00:30+00")
	s.exec("select awa.schedule('s' || n, 'q' || n % 2, 'k', '* * * * *', overlap => 'replace') " +
		"from generate_series(1, 120) n")
	s.exec(changing("_replace_jobs", "250 milliseconds", "1 hour"))
	s.clockIs("2026-06-01 12:01:01+00")
	for s.fire() > 0 {
	}
	s.clockIs("2026-06-01 12:02:01+00")
	const places = "select string_agg(ctid::text, ' ' order by name) from awa.schedules"
	before := one[string](s, places)
	s.exec(changing("_cancel_there", "begin\n", "begin\n  perform nextval('public.cancels');\n"))
	s.exec("create sequence public.cancels; grant all on public.cancels to public")
	require.EqualValues(t, 0, s.fire())
	require.Equal(t, before, one[string](s, places), "no row is written")
	require.EqualValues(t, "120 2 2", one[string](s, "select count(*) || ' ' || count(distinct queue) || ' ' || "+
		"(select last_value from public.cancels) from awa.jobs where state = 'cancelled'"), "in two statements")
	require.EqualValues(t, 120, s.fire())
	require.EqualValues(t, "0 f", one[string](s, "select fired || ' ' || left(more::text, 1) from awa.fire_due()"))
	require.EqualValues(t, "120 240", one[string](s,
		"select count(*) filter (where state = 'available') || ' ' || count(*) from awa.jobs"))
	s.balanced()
}

// Of many jobs that are replaced, one that another session answers for, and one whose end a trigger refuses, keep none
// of the others from being replaced. The one is put off, the other has failed, and both fire once that is over.
func TestReplaceOfManyBesideOneThatCannotBe(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.setsClock("2026-06-01 12:00:30+00")
	s.exec("select awa.schedule(format('s%s', n), case n when 7 then 'held' else 'q' end, 'k', '* * * * *', " +
		"overlap => 'replace') from generate_series(1, 60) n")
	s.clockIs("2026-06-01 12:01:01+00")
	require.EqualValues(t, 60, s.fire())
	held := s.claim("held", 1)[0]
	refused := one[int64](s, "select last_job_id from awa.list_schedules() where name = 's9'")
	s.exec(fmt.Sprintf(`create function public.refuse() returns trigger language plpgsql as $$
		begin if new.job_id = %d then raise 'not this one'; end if; return new; end $$`, refused))
	s.exec("create trigger refuse before insert on awa.done_entries for each row execute function public.refuse()")
	a := d.session()
	a.exec("begin")
	require.Empty(t, a.completeMany([]claimed{held}))
	s.clockIs("2026-06-01 12:02:01+00")
	var fired int64
	for range 20 {
		fired += s.fire()
	}
	require.EqualValues(t, 58, fired, "all others")
	require.Equal(t, "not this one",
		one[string](s, "select split_part(error, ' (', 1) from awa.schedules where name = 's9'"))
	require.EqualValues(t, "1 0", one[string](s, `select string_agg(failures::text, ' ' order by name desc)
		from awa.schedules where name in ('s9', 's7')`))
	a.exec("commit")
	s.exec("drop trigger refuse on awa.done_entries")
	s.clockIs("2026-06-01 12:02:10+00")
	fired = 0
	for range 4 {
		fired += s.fire()
	}
	require.EqualValues(t, 2, fired)
	require.EqualValues(t, "60 60", one[string](s, `select count(*) || ' ' || count(distinct metadata -> 'schedule')
		from awa.jobs where metadata #>> '{schedule,at}' = '2026-06-01T12:02:00Z'`))
	s.balanced()
}

// After a standstill of many schedules, a call ends in time, and what it has done stays: here each call has time for
// one of them. Those that are on time come first, all fire in the end, and none twice.
func TestManySchedulesAfterAStandstill(t *testing.T) {
	s := newDatabase(t).session()
	s.setsClock("2026-06-01 12:00:30+00")
	s.exec(`select awa.schedule('s' || n, 'q', 'k', '* * * * *', missed => (array['skip', 'latest', 'all'])[1 + n % 3])
		from generate_series(1, 12) n`)
	s.exec("select awa.schedule('on time', 'q', 'k', '0 13 * * *')")
	s.exec(changing("fire_due", "awa._budget('1 second', 4)", "interval '0 seconds'"))
	s.clockIs("2026-06-01 13:00:30+00")
	require.EqualValues(t, "1 t", one[string](s, "select fired || ' ' || left(more::text, 1) from awa.fire_due()"))
	require.Equal(t, []string{"13:00"}, s.times("on time"))
	for range 12 {
		require.Positive(t, s.fire())
	}
	require.EqualValues(t, 0, s.fire())
	require.False(t, one[bool](s, "select more from awa.fire_due()"))
	require.EqualValues(t, "249 249", // 4 with all of 60 times, 8 with one, and the one on time
		one[string](s, "select count(*) || ' ' || count(distinct metadata -> 'schedule') from awa.jobs"))
	s.balanced()
}

// Schedules that are on time fire many at once, whatever their queues, zones and options are. One that fails holds
// up no other one, and all fire once.
func TestManySchedulesAtOneTick(t *testing.T) {
	s := newDatabase(t).session()
	s.exec("select awa.configure_queue('q 1', '{\"default_priority\": 3, \"default_max_attempts\": 7}')")
	s.setShards("q 2", 4)
	s.setsClock("2026-06-01 12:00:30+00")
	s.exec(`select awa.schedule('s' || n, 'q ' || n % 3, 'k', cron => case when n % 5 > 0 then '* * * * *' end,
			every => case n % 5 when 0 then interval '30 seconds' end, args => to_jsonb(n), overlap =>
			(array['allow', 'skip', 'wait', 'replace'])[1 + n % 4], timezone => (array['UTC', 'Europe/Berlin'])[1 + n % 2],
			tags => case n % 2 when 0 then '{t}'::text[] end, priority => nullif(n % 4, 0),
			group_key => case n % 7 when 0 then 'g' end, metadata => case n % 6 when 0 then '{"m": 1}'::jsonb end,
			ends_at => case when n % 10 = 1 then timestamptz '2026-06-01 12:02+00' end)
		from generate_series(1, 300) n`)
	s.clockIs("2026-06-01 12:01:00+00")
	s.exec(changing("_fire", "fired := 0;", "raise 'by itself';")) // none of them has to be looked at by itself
	require.EqualValues(t, "300 0 f",
		one[string](s, "select fired || ' ' || failed || ' ' || left(more::text, 1) from awa.fire_due()"))
	// a job is as it would be, had its schedule fired by itself
	s.exec(changing("_fire", "raise 'by itself';", "fired := 0;"))
	s.exec("create temp table many as select j.*, e.body_bytes from awa.jobs j " +
		"join awa.ready_entries e on e.job_id = j.id")
	s.exec("create temp table triggered as select awa.trigger_schedule('s' || n) as id from generate_series(1, 300) n")
	require.Zero(t, one[int](s, `
		select count(*)
		  from triggered d
		  join awa.jobs j on j.id = d.id
		  join many m on m.args = j.args
		  join awa.ready_entries e on e.job_id = j.id
		 where (j.queue, j.kind, j.state, j.attempt, j.max_attempts, j.priority, j.tags, j.group_key,
		         j.metadata #- '{schedule,at}', e.body_bytes)
		    is distinct from (m.queue, m.kind, m.state, m.attempt, m.max_attempts, m.priority, m.tags, m.group_key,
		         m.metadata #- '{schedule,at}', m.body_bytes)`))
	require.Equal(t, 300, one[int](s, "select count(*) from many m join awa.list_schedules() l on l.args = m.args"))
	require.Equal(t, []int{0, 1, 2, 3}, s.shardsOf("q 2"))

	s.exec("create function public.refuse() returns trigger language plpgsql as $$ begin raise 'full'; end $$")
	s.exec("create trigger refuse before insert on awa.ready_entries for each row when (new.args = '44') " +
		"execute function public.refuse()")
	s.exec("update awa.schedules set last_job_id = -1") // nothing overlaps
	s.clockIs("2026-06-01 12:02:00+00")
	for more := true; more; {
		more = one[bool](s, "select more from awa.fire_due()")
	}
	require.Equal(t, "s44 1", one[string](s,
		"select string_agg(name || ' ' || failures, ', ') from awa.list_schedules() where failures > 0"))
	require.Zero(t, one[int](s, "select count(*) from awa.list_schedules() where every is null and last_at <> case "+
		"when ends_at is null and failures = 0 then timestamptz '2026-06-01 12:02+00' else '2026-06-01 12:01+00' end"))
	require.Zero(t, one[int](s, `select count(*) from (select 1 from awa.jobs where id not in (select id from triggered)
		group by metadata -> 'schedule' having count(*) > 1) twice`))
	s.balanced()
}

// The cancel of a job that is replaced holds its queue until the transaction ends. So it is the only thing that its
// transaction does: no other schedule fires in it, or is lost with it.
func TestReplaceInATransactionOfItsOwn(t *testing.T) {
	d, s := dueSchedule(t, ", overlap => 'replace'")
	require.EqualValues(t, 1, s.fire())
	s.exec("select awa.schedule('other', 'other', 'k', '* * * * *')")
	s.clockIs("2026-06-01 12:02:01+00")
	a := d.session()
	a.exec("begin")
	require.EqualValues(t, "1 t", one[string](a, "select fired || ' ' || left(more::text, 1) from awa.fire_due()"))
	a.exec("commit")
	require.Equal(t, []string{"12:02"}, s.times("other"), "the other one first")
	a.exec("begin")
	require.EqualValues(t, "0 t", one[string](a, "select fired || ' ' || left(more::text, 1) from awa.fire_due()"))
	b := d.session().neverWaits()
	b.enqueue("q")
	a.exec("commit")
	require.EqualValues(t, 1, s.fire())
	s.balanced()
}

// The server's clock is set back and forth. No tick fires twice, and none is lost.
func TestSchedulesAndAClockThatIsSet(t *testing.T) {
	_, s := dueSchedule(t, ", missed => 'all'")
	var fired int64
	for _, at := range []string{"12:01:01", "12:00:10", "12:01:30", "11:00:00", "12:02:10", "12:01:59", "12:05:00",
		"12:03:00", "12:04:30", "12:06:01"} {
		s.clockIs("2026-06-01 " + at + "+00")
		fired += s.fire()
	}
	require.EqualValues(t, 6, fired)
	require.Equal(t, []string{"12:01", "12:02", "12:03", "12:04", "12:05", "12:06"}, s.times("s"))
}

// Who may synchronise: a login that is both a worker and a producer, or an operator; of a source that exists, its owner
// and members of it.
func TestWhoSynchronises(t *testing.T) {
	server := newServer(t)
	d := server.database("t", true)
	s := d.session()
	s.exec(`create role team in role awa_worker, awa_producer; create role ann login in role team;
		create role bob login in role team; create role carl login in role awa_worker, awa_producer;
		create role worker login in role awa_worker; create role producer login in role awa_producer;
		create role olga login in role awa_operator`)
	as := func(login string) *session {
		return database{t, withUser(t, server.URL(), login, "t")}.session()
	}
	ann, bob, carl := as("ann"), as("bob"), as("carl")
	const sync = "select awa.sync_schedules('app', '[]')"
	require.Equal(t, "42501", sqlState(as("worker").try(sync)), "a worker")
	require.Equal(t, "42501", sqlState(as("producer").try(sync)), "a producer")
	ann.exec("set role team")
	ann.exec(sync)
	require.Equal(t, "team", one[string](s, "select owner from awa.schedule_sources"))
	bob.exec(sync)
	require.Equal(t, "42501", sqlState(carl.try(sync)), "who is no member of the owner")
	as("olga").exec(sync)
	require.Equal(t, "team", one[string](s, "select owner from awa.schedule_sources"), "an operator takes nothing over")
	as("olga").exec("select awa.sync_schedules('new', '[]')")
	carl.exec("select awa.sync_schedules('new', '[]')")
	require.Equal(t, "42501", sqlState(bob.try("select awa.sync_schedules('new', '[]')")), "nor for itself")

	s.exec("alter role team rename to crew; create role team role carl")
	require.Equal(t, "42501", sqlState(carl.try(sync)), "another role has the name of the owner by now")
	bob.exec(sync)
	s.exec("grant crew to carl")
	carl.exec(sync)
	s.exec("revoke crew from carl; create role heir in role awa_worker, awa_producer role bob; drop role crew")
	carl.exec(sync)
	require.Equal(t, "carl", one[string](s, "select owner from awa.schedule_sources where source = 'app'"),
		"the role is gone: the next one owns the source")
	carl.exec("select awa.sync_schedules('own', '[]')")
	require.Equal(t, "42501", sqlState(bob.try("select awa.sync_schedules('own', '[]')")))
}

// A year passes for a hundred schedules in five zones, with calls at odd times and standstills between them: each fires
// at the times of the reference, none is missed, and none comes twice. See scripts/cron_reference.py --year.
func TestYearOfSchedules(t *testing.T) {
	reference, err := os.ReadFile("testdata/schedules_of_a_year.txt")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(reference)), "\n")[1:]
	require.Len(t, lines, 100)
	s := newDatabase(t).session()
	s.setsClock("2025-01-01 00:00:00+00")
	s.exec("set synchronous_commit = off")
	for n, line := range lines {
		parts := strings.Split(line, "|")
		s.exec("select awa.schedule('s' || $1::int, 'q', 'k', $2, timezone => $3, missed => 'all', missed_for => '30 days')",
			n, parts[0], parts[1])
	}
	began := time.Now()
	// Most calls are on time, one in fifty after hours or days.
	s.exec(`
		do $$
		declare
		  v_next timestamptz;
		begin
		  perform setseed(0.5);
		  loop
		    v_next := (select min(next_at) from awa.schedules);
		    exit when v_next > '2026-01-01 00:00+00';
		    v_next := v_next + random() * case when random() < 0.02 then interval '2 days' else interval '50 seconds' end;
		    update public.test_clock set at = least(v_next, '2026-01-01 00:00:30+00');
		    perform awa.fire_due();
		    commit;
		  end loop;
		end $$`)
	t.Logf("a year in %s", time.Since(began).Round(time.Second))
	for n, line := range lines {
		parts := strings.Split(line, "|")
		require.Equal(t, strings.Join(parts[2:], "|"), one[string](s, `
			select count(distinct e.metadata #>> '{schedule,at}') || '|'
			         || md5(string_agg(e.metadata #>> '{schedule,at}', ' ' order by e.job_id))
			  from awa.ready_entries e where e.metadata #>> '{schedule,name}' = 's' || $1::int`, n), line)
	}
	require.Zero(t, one[int](s, "select sum(times_missed + times_skipped + failures) from awa.list_schedules()"))
}

// Many schedules that fail at the same time hold up no others: a call ends in time, what it has decided stays, and
// those that do not fail fire. Here each call has time for a part of them.
func TestManySchedulesThatFail(t *testing.T) {
	s := newDatabase(t).session()
	s.setsClock("2026-06-01 12:00:30+00")
	s.exec(`select awa.schedule('s' || n, 'q', case when n % 100 = 0 then 'good' else 'bad' end, '* * * * *',
			overlap => (array['allow', 'skip'])[1 + n % 2])
		from generate_series(1, 1000) n`)
	s.exec("create function public.refuse() returns trigger language plpgsql as $$ begin raise 'full'; end $$")
	s.exec("create trigger refuse before insert on awa.ready_entries for each row when (new.kind = 'bad') " +
		"execute function public.refuse()")
	s.exec(changing("fire_due", "awa._budget('1 second', 4)", "interval '1 millisecond'"))
	s.clockIs("2026-06-01 12:01:01+00")
	var fired, failed, calls int64
	for more := true; more; calls++ {
		parts := strings.Fields(one[string](s, "select fired || ' ' || failed || ' ' || more from awa.fire_due()"))
		var f, b int64
		_, err := fmt.Sscan(parts[0]+" "+parts[1], &f, &b)
		require.NoError(t, err)
		more = parts[2] == "true"
		require.True(t, f+b > 0 || !more, "each call decides something")
		fired, failed = fired+f, failed+b
	}
	require.EqualValues(t, []int64{10, 990}, []int64{fired, failed})
	require.Greater(t, calls, int64(2), "no call does it all")
	require.Equal(t, 10, one[int](s, "select count(*) from awa.jobs where kind = 'good'"))
	require.Equal(t, 990, one[int](s, "select count(*) from awa.list_schedules() where failures = 1 and error ~ 'full'"))
	s.clockIs("2026-06-01 12:02:01+00")
	s.exec("update awa.schedules set last_job_id = -1")
	require.EqualValues(t, 10, s.fire(), "those that have failed come last")
	s.balanced()
}
