package sql_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/pgserver"
)

// A segment of many lanes is carried some lanes at a time. Between two calls, of which each is rolled back first, jobs
// are enqueued, claimed and answered for, in lanes that are carried and in others, and what is there is right.
func TestLanesAreCarriedSomeAtATime(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.carriesByLanes()
	const queues = 10
	q := func(n int) string { return fmt.Sprint("q", n%queues) }
	open := map[int][]claimed{}
	var all, ended []int64
	put := func(n, jobs int) {
		all = append(all, s.enqueueMany(q(n), jobs)...)
	}
	for n := range queues {
		put(n, 6)
		jobs := s.claim(q(n), 4)
		s.completes(jobs[:1])
		s.exec("select awa.fail($1, $2, 'error', '1 hour')", jobs[1].JobID, jobs[1].Receipt)
		ended = append(ended, jobs[0].JobID, jobs[1].JobID)
		open[n] = jobs[2:]
	}
	s.exec("update awa.lease_claims set claimed_at = claimed_at - interval '1 minute' where lane_seq % 2 = 1 and " +
		"awa._queue_of(lane) % 2 = 0")
	s.exec("select awa._fold(null, true)") // notes some as open
	s.rotate()
	for n := range queues / 2 { // by claims in the new segment
		open[n] = append(open[n], s.claim(q(n), 1)...)
	}
	s.settles()
	n := 0
	for outcome := ""; outcome != "cleaned"; n++ {
		require.Less(t, n, 200)
		for _, end := range []string{"rollback", "commit"} {
			s.exec("begin")
			outcome = s.prune()
			require.Contains(t, []string{"cleaning", "cleaned"}, outcome)
			s.exec(end)
			s.audited()
		}
		put(n, 1)
		if len(open[n%queues]) > 0 {
			s.completes(open[n%queues][:1])
			ended = append(ended, open[n%queues][0].JobID)
			open[n%queues] = open[n%queues][1:]
		}
		open[(n+3)%queues] = append(open[(n+3)%queues], s.claim(q(n+3), 1)...)
		if n == 5 {
			s.rotate()
		}
		s.audited()
	}
	require.Greater(t, n, queues)
	require.Zero(t, one[int](s, "select count(*) from awa._available where segment = 0"))
	require.Zero(t, one[int](s, "select count(*) from awa._running where segment = 0"))
	s.prunes()
	s.balanced()
	for n := range queues {
		for _, j := range append(open[n], s.claim(q(n), 500)...) {
			require.NotContains(t, ended, j.JobID)
			s.completes([]claimed{j})
			ended = append(ended, j.JobID)
		}
	}
	require.ElementsMatch(t, all, ended)
	s.balanced()
}

// Lanes are carried one by one only when no transaction can write to the segment any more: not while a statement is
// running that has taken it for the current one, nor while a transaction that has written to it is open. What these
// bring is carried, too.
func TestLanesWaitForLateWriters(t *testing.T) {
	type sessions struct{ writer, blocker, s *session }
	var ended func() error
	for name, c := range map[string]struct {
		before, after func(sessions) // the rotation
		waits         []func(sessions)
	}{
		"a transaction that has enqueued": {
			before: func(d sessions) { d.writer.exec("begin"); d.writer.enqueue("late") },
			waits:  []func(sessions){func(d sessions) { d.writer.exec("commit") }},
		},
		"an old snapshot that enqueues later": {
			before: func(d sessions) {
				d.writer.exec("begin isolation level repeatable read")
				d.writer.exec("select 1")
			},
			waits: []func(sessions){func(d sessions) { d.writer.enqueue("late"); d.writer.exec("commit") }},
		},
		"a prepared transaction": {
			before: func(d sessions) {
				d.writer.exec("begin")
				d.writer.enqueue("late")
				d.writer.exec("prepare transaction 'late'") // which has not notified
			},
			waits: []func(sessions){func(d sessions) { d.writer.exec("commit prepared 'late'") }},
		},
		// It has read which segment is current, and has no transaction id yet. When it has one its snapshot is gone.
		"a statement that is on its way": {
			before: func(d sessions) {
				d.s.exec(changing("_append", "v_segment := awa._current_segment();",
					"v_segment := awa._current_segment(); perform pg_advisory_lock_shared(42), pg_advisory_unlock_shared(42);"))
				d.blocker.exec("select pg_advisory_lock(42)")
				d.writer.exec("begin")
				d.writer.exec("select 1")
				ended = d.writer.background("select awa.enqueue_many('late', 'k', array['{}'::jsonb])")
				d.s.waitUntilBlocked(d.writer)
			},
			waits: []func(sessions){
				func(d sessions) {
					d.blocker.exec("select pg_advisory_unlock(42)")
					require.NoError(d.s, ended())
				},
				func(d sessions) { d.writer.exec("commit") },
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var d database
			if strings.HasPrefix(name, "a prepared") {
				s, err := pgserver.Start(t.Context(),
					pgserver.Config{Settings: map[string]string{"max_prepared_transactions": "1"}})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, s.Stop()) })
				d = server{s, t}.database("app", true)
			} else {
				d = newDatabase(t)
			}
			ss := sessions{d.session(), d.session(), d.session()}
			s := ss.s
			s.carriesByLanes()
			s.exec("update awa.settings set notifications = false")
			s.enqueue("q")
			s.enqueue("late")
			c.before(ss)
			s.rotate()
			require.Equal(t, "cleaning", s.prune())
			for _, goesOn := range c.waits {
				for range 2 {
					for outcome := s.prune(); outcome != "waiting"; outcome = s.prune() {
						require.Equal(t, "cleaning", outcome)
						require.True(t, one[bool](s, "select carried_before is null from awa.ring"))
					}
				}
				require.NotEmpty(t, one[string](s, "select array_to_string(old_snapshots, ' ') from awa.ring"))
				goesOn(ss)
			}
			for outcome := s.prune(); outcome != "cleaned"; outcome = s.prune() {
				require.Contains(t, settling, outcome)
				s.audited()
			}
			s.prunes()
			s.balanced()
			require.Len(t, s.claim("q", 9), 1)
			require.Len(t, s.claim("late", 9), 2, "what came late is there, too")
			s.balanced()
		})
	}
}

// The rotation is to be committed before cleaning waits for those who can write to the segment: until then, others take
// it for the current one.
func TestLanesWaitForTheRotation(t *testing.T) {
	d := newDatabase(t)
	late, s := d.session(), d.session()
	s.carriesByLanes()
	s.exec("update awa.settings set notifications = false")
	s.enqueue("q")
	s.exec("begin")
	s.rotate()
	require.Equal(t, "cleaning", s.prune())
	require.Equal(t, "waiting", s.prune())
	late.exec("begin")
	late.enqueue("late")
	s.exec("commit")
	for outcome := s.prune(); outcome != "waiting"; outcome = s.prune() {
		require.Equal(t, "cleaning", outcome)
		require.True(t, one[bool](s, "select carried_before is null from awa.ring"))
	}
	late.exec("commit")
	for outcome := s.prune(); outcome != "cleaned"; outcome = s.prune() {
		require.Contains(t, settling, outcome)
	}
	s.prunes()
	s.balanced()
	require.Len(t, s.claim("q", 9), 1)
	require.Len(t, s.claim("late", 9), 1)
	s.balanced()
}

// Cleaning of very many lanes waits only for sessions that would hold up the truncation, too. Other transactions have
// ids and snapshots that are as old, and may last.
func TestLanesDoNotWaitForOthers(t *testing.T) {
	d, elsewhere := newDatabase(t), newDatabase(t)
	old, reader, later, latest := d.session(), d.session(), d.session(), d.session()
	writer, other := d.session(), elsewhere.session()
	s := d.session().neverWaits()
	s.carriesByLanes()
	s.enqueue("q")
	for _, o := range []*session{old, other} {
		o.exec("create table public.t ()")
		o.exec("begin")
		o.exec("insert into t default values") // until the end of the test
	}
	reader.exec("begin isolation level repeatable read")
	reader.exec("select 1")
	writer.exec("begin")
	job := writer.enqueue("q")
	s.rotate()
	says := func() string { return one[string](s, "select message from awa.health() where topic = 'prune'") }
	waits := func(holder *session) {
		for outcome := s.prune(); outcome != "waiting"; outcome = s.prune() {
			require.Equal(t, "cleaning", outcome)
		}
		require.Contains(t, says(), fmt.Sprintf(": backend %d, ", holder.pid))
		require.True(t, one[bool](s, "select carried_before is null from awa.ring"))
	}
	waits(reader)
	// Its snapshot was taken later, and looks as old: the first transaction is still open.
	later.exec("begin isolation level repeatable read")
	later.exec("select 1")
	waits(reader)
	reader.exec("commit")
	waits(writer)
	require.NotContains(t, says(), fmt.Sprintf("backend %d,", old.pid))
	writer.exec("commit")
	waits(later) // It may have taken over a snapshot of the first ones.
	latest.exec("begin isolation level repeatable read")
	latest.exec("select 1")
	waits(later)
	later.exec("commit")
	require.Equal(t, "cleaning", s.prune())
	require.True(t, one[bool](s, "select carried_before is not null from awa.ring"))
	for outcome := s.prune(); outcome != "cleaned"; outcome = s.prune() {
		require.Equal(t, "cleaning", outcome)
	}
	require.Equal(t, "waiting", s.prune())
	latest.exec("commit")
	s.prunes()
	s.balanced()
	jobs := s.claim("q", 9)
	require.Len(t, jobs, 2)
	require.Equal(t, job, jobs[1].JobID)
}

// A session that takes over the snapshot of another one, which then ends, writes to the segment that was current then.
func TestLanesWaitForSnapshotsThatAreTakenOver(t *testing.T) {
	d := newDatabase(t)
	reader, heir := d.session(), d.session()
	s := d.session().neverWaits()
	s.carriesByLanes()
	s.enqueue("q")
	reader.exec("begin isolation level repeatable read")
	snapshot := one[string](reader, "select pg_export_snapshot()")
	s.rotate()
	for outcome := s.prune(); outcome != "waiting"; outcome = s.prune() {
		require.Equal(t, "cleaning", outcome)
	}
	heir.exec("begin isolation level repeatable read")
	heir.exec("set transaction snapshot '" + snapshot + "'")
	reader.exec("commit")
	require.Equal(t, "waiting", s.prune())
	job := heir.enqueue("q")
	require.Equal(t, "waiting", s.prune())
	heir.exec("commit")
	s.prunes()
	s.balanced()
	jobs := s.claim("q", 9)
	require.Len(t, jobs, 2)
	require.Contains(t, []int64{jobs[0].JobID, jobs[1].JobID}, job)
}

// A lane that another session holds, or of whose attempts one is being answered for, is passed over: the others are
// carried. It is carried when that has ended.
func TestLanesThatAreHeldArePassedOver(t *testing.T) {
	for _, holds := range []string{"a claim", "an answer"} {
		d := newDatabase(t)
		a, s := d.session(), d.session().neverWaits()
		s.carriesByLanes()
		s.setPruneWait("1 millisecond")
		var held []claimed
		for n := range 5 {
			q := fmt.Sprint("q", n)
			s.enqueueMany(q, 3)
			held = s.claim(q, 1)
		}
		s.rotate()
		s.settles()
		a.exec("begin")
		if holds == "a claim" {
			require.Len(t, a.claim("q4", 1), 1)
		} else {
			a.exec("select awa.complete($1, $2)", held[0].JobID, held[0].Receipt)
		}
		require.Equal(t, "busy", s.pruneOn())
		require.Equal(t, list[int64](s, "select lane from awa._lanes where queue_id = awa._queue_id('q4')"),
			list[int64](s, "select unnest(passed_over) from awa.ring"))
		require.Zero(t, one[int](s, "select count(*) from awa._available where segment = 0 and queue_id <> "+
			"awa._queue_id('q4')"))
		require.Equal(t, "busy", s.pruneOn())
		for n := range 4 {
			require.Len(t, s.claim(fmt.Sprint("q", n), 1), 1)
		}
		a.exec("commit")
		s.audited()
		s.prunes()
		s.balanced()
		require.NotEmpty(t, s.claim("q4", 9))
		for _, j := range s.running() {
			s.completes([]claimed{j})
		}
		s.balanced()
	}
}

// A lane with more jobs that can't be carried than one call looks at holds up no other.
func TestRefusedLaneHoldsUpNoOther(t *testing.T) {
	s := newDatabase(t).session()
	s.carriesByLanes()
	for n := range 5 {
		s.enqueueMany(fmt.Sprint("q", n), 3)
	}
	s.exec("create function public.refuse() returns trigger language plpgsql as $$ begin if new.lane in (select lane " +
		"from awa._lanes where queue_id in (awa._queue_id('q1'), awa._queue_id('q3'))) then raise exception 'not these'; " +
		"end if; return new; end $$")
	s.rotate()
	s.exec("create trigger refuse before insert on awa.ready_entries for each row execute function public.refuse()")
	require.Equal(t, "refused", s.pruneOn())
	require.Equal(t, []string{"q1", "q3"},
		list[string](s, "select distinct q.name from awa._available a join awa.queues q using (queue_id) "+
			"where a.segment = 0 order by 1"))
	s.exec("drop trigger refuse on awa.ready_entries")
	s.prunes()
	s.balanced()
	for n := range 5 {
		require.Len(t, s.claim(fmt.Sprint("q", n), 9), 3)
	}
}

// More jobs of one lane are refused than one call looks at: cleaning goes through all of them, the other lanes are
// carried, and it says since when that is so, and tries again later and later.
func TestMoreRefusedThanACallLooksAt(t *testing.T) {
	for _, byLanes := range []bool{false, true} {
		s := newDatabase(t).session()
		if byLanes {
			s.carriesByLanes()
		} else {
			s.movesAll()
		}
		for _, q := range []string{"a", "bad", "c"} {
			s.enqueueMany(q, 7)
		}
		s.exec("create function public.refuse() returns trigger language plpgsql as $$ begin if new.lane in (select lane " +
			"from awa._lanes where queue_id = awa._queue_id('bad')) then raise exception 'not these'; end if; return new; " +
			"end $$")
		s.rotate()
		s.exec("create trigger refuse before insert on awa.ready_entries for each row execute function public.refuse()")
		since := ""
		for n := range 8 {
			calls := 0
			for outcome := "cleaning"; outcome != "refused"; outcome = s.prune() {
				require.Equal(t, "cleaning", outcome)
				require.Less(t, calls, 50, "it goes round and round")
				calls++
				if n > 0 {
					require.Contains(t, fmt.Sprint(list[string](s, "select message from awa.health() where topic = 'prune'")),
						"not these")
				}
			}
			require.Equal(t, n+1, one[int](s, "select tries from awa.ring"))
			if n == 0 {
				require.Greater(t, calls, 3)
				since = one[string](s, "select stuck_since::text from awa.ring")
			}
			require.Equal(t, since, one[string](s, "select stuck_since::text from awa.ring"))
			require.Equal(t, []string{"bad"},
				list[string](s, "select distinct q.name from awa._available a join awa.queues q using (queue_id) "+
					"where a.segment = 0"))
			s.audited()
		}
		s.exec("drop trigger refuse on awa.ready_entries")
		s.prunes()
		s.balanced()
		for _, q := range []string{"a", "bad", "c"} {
			require.Len(t, s.claim(q, 9), 7)
		}
	}
}

// Where there are very many lanes, each call goes through some of them, and so does the last one.
func TestEachCallGoesThroughFewLanes(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("set jit = off")
	s.exec("select awa.enqueue('q' || n, 'k') from generate_series(1, 1100) n")
	s.exec("select awa.complete(c.job_id, c.receipt) from generate_series(1, 1000) n, awa.claim('q' || n) c")
	s.rotate()
	s.settles()
	locks := func() int {
		return one[int](s, "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()")
	}
	calls := 0
	for outcome := ""; outcome != "cleaned"; calls++ {
		require.Less(t, calls, 1101)
		s.exec("begin")
		outcome = s.prune()
		require.LessOrEqual(t,
			one[int](s, "select count(*) from awa.queue_rollups r where r.xmin = pg_current_xact_id()::xid"), 500)
		require.LessOrEqual(t, locks(), 501)
		s.exec("commit")
	}
	require.GreaterOrEqual(t, calls, 3) // of 1,100 lanes
	s.prunes()
	s.balanced()
	require.Len(t, s.claim("q1001", 9), 1)
	require.Empty(t, s.claim("q1", 9))
}
