package sql_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/pgserver"
)

// says waits until health says something of a topic, and returns it: level, subject, message and hint.
func (s *session) says(topic, message string) (row string) {
	s.Helper()
	require.Eventually(s, func() bool {
		rows := list[string](s,
			"select concat_ws(': ', h.level, h.subject, h.message, h.hint) from awa.health() h where h.topic = $1 and "+
				"h.message ~ $2", topic, message)
		if len(rows) > 0 {
			row = rows[0]
		}
		return len(rows) > 0
	}, patience, 20*time.Millisecond, "health never said %q", message)
	return row
}

// A session that holds a queue's lock is named, whatever it does meanwhile; and nobody is told to run more workers.
func TestHealthNamesWhoHoldsAQueue(t *testing.T) {
	for _, state := range []string{"idle", "active", "prepared"} {
		own, err := pgserver.Start(t.Context(),
			pgserver.Config{Settings: map[string]string{"max_prepared_transactions": "1"}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, own.Stop()) })
		d := server{own, t}.database("held", true)
		holder, s := d.session(), d.session()
		s.setClaimWait("1 millisecond")
		ids := s.enqueueMany("q", 3)
		w := s.registerWorker()
		s.exec("update awa.workers set queues = null where worker_id = $1", w)
		s.exec("update awa.settings set warn_ready_age = '1 millisecond'")
		who := fmt.Sprintf("backend %d ", holder.pid)
		holder.exec("begin")
		switch state {
		case "idle":
			require.Len(t, holder.claim("q", 1), 1)
		case "active":
			require.Len(t, holder.claim("q", 1), 1)
			cancelled := holder.background("select pg_sleep(600)")
			t.Cleanup(func() { s.exec("select pg_terminate_backend($1)", holder.pid); _ = cancelled() })
		case "prepared":
			holder.exec("select awa.cancel($1)", ids[2])
			holder.exec("prepare transaction 'held'")
			who = "prepared transaction held"
		}
		require.Contains(t, s.says("claimer", "has held the lock of queue q for"), "warning: "+who)
		require.Contains(t, s.says("queue", "ready"), "Nothing is claimed from it while "+who)
		require.Contains(t, one[string](s, "select awa.explain_job($1)", ids[1]), who)
		require.Contains(t, one[string](s, "select awa.explain_job($1)", ids[1]), "has held the lock of the queue since")
		switch state {
		case "idle":
			holder.exec("commit")
		case "prepared":
			s.exec("commit prepared 'held'")
		default:
			continue
		}
		require.Zero(t, one[int](s, "select count(*) from awa.health() h where h.topic = 'claimer'"))
	}
}

// A session that holds all shards of a queue is named once, with the other locks that it holds.
func TestHealthNamesAHolderOfShardsOnce(t *testing.T) {
	d := newDatabase(t)
	holder, s := d.session(), d.session()
	s.setClaimWait("1 millisecond")
	s.enqueueMany("q", 3)
	s.exec("select awa.configure_queue('q', '{\"shards\": 2}')")
	s.exec("select awa._note_shards(awa._queue_id('q'))")
	w := s.registerWorker()
	s.exec("update awa.settings set warn_ready_age = '1 millisecond'")
	holder.exec("begin; select awa._lock_queue(awa._queue_id('q'))")
	holder.exec("select awa._lock_worker($1, false)", w)
	said := fmt.Sprintf(`
		select array_agg(regexp_replace(h.message, ' for [0-9:]+: ', ': ') order by h.message)
		  from awa.health() h
		 where h.topic = 'claimer' and (h.details ->> 'pid')::int = %d`, holder.pid)
	s.says("claimer", "has held the lock of") // after a second
	require.Equal(t, []string{"has held the lock of 64 shards of queue q: nothing is claimed from it",
		fmt.Sprintf("has held the lock of worker %d: it claims nothing", w)}, one[[]string](s, said))
	require.Equal(t, 1, strings.Count(s.says("queue", "ready"), fmt.Sprintf("backend %d ", holder.pid)))

	// A claim keeps its worker, too: that is no row of its own.
	holder.exec("rollback; begin")
	holder.exec("select awa._lock_worker($1, true)", w)
	holder.exec("select awa._lock_shard(awa._queue_id('q') << 6)")
	s.says("claimer", "has held the lock of")
	require.Equal(t, []string{"has held the lock of shard 0 of queue q: nothing is claimed from it"},
		one[[]string](s, said))
}

// Who is in the way of emptying the oldest segment is named: who answers for an attempt in it, who holds a queue, who
// reads.
func TestHealthNamesWhoIsInTheWayOfPruning(t *testing.T) {
	for _, way := range []struct{ name, begin, outcome string }{
		{"an open answer", "select awa.complete($1, $2)", "busy"},
		{"a queue's lock", "select count(*) from awa.claim('other') where $1::bigint is not null and $2::bigint is not null",
			"busy"},
		{"a reader", "select count(*) from awa.settings where $1::bigint is not null and $2::bigint is not null", "waiting"},
	} {
		t.Run(way.name, func(t *testing.T) {
			d := newDatabase(t)
			d.t = t
			holder, s := d.session(), d.session()
			j := s.open("q", shapes[2])
			s.enqueueMany("other", 2000)
			s.rotate()
			begin := "begin"
			if way.outcome == "waiting" {
				begin = "begin isolation level repeatable read"
			}
			holder.exec(begin)
			holder.exec(way.begin, j[0].JobID, j[0].Receipt)
			who := fmt.Sprintf("backend %d ", holder.pid)
			if way.outcome == "waiting" {
				who = fmt.Sprintf("backend %d", holder.pid)
			}
			require.Eventually(t, func() bool { // a reader of a moment is waited for only after the cleaning
				return one[bool](s,
					"select $2 = 'busy' or a.xact_start < clock_timestamp() - interval '1.1 seconds' from pg_stat_activity a where "+
						"a.pid = $1", holder.pid, way.outcome)
			}, patience, 20*time.Millisecond)
			require.Eventually(t, func() bool {
				s.exec("update awa.ring set retry_at = null, left_at[1] = '2000-01-01'")
				s.exec("select awa.prune_oldest()")
				// whichever: it depends on how long this takes
				return one[bool](s, "select coalesce(r.outcome in ('busy', 'waiting', 'blocked'), false) from awa.ring r")
			}, patience, 20*time.Millisecond)
			require.Contains(t, s.says("prune", who), who)
			holder.exec("rollback")
		})
	}
}

// An idle transaction that holds what a pass should have done by now is named, whatever call it has made.
func TestHealthNamesWhoHoldsLateWork(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	due := one[int64](s, "select awa.enqueue('q', 'k', run_at => now() + interval '1 hour')")
	s.exec("update awa.deferred_jobs set run_at = now() - interval '1 minute' where job_id = $1", due)
	ended := s.ended("q", ends[3])
	s.starts("delete", "{}", "{}")
	s.exec("update awa.changes set moved_at = now() - interval '6 minutes'")
	s.enqueue("r")
	require.Len(t, s.claimAs(s.registerWorker(), "r", 1), 1)
	s.materialize()
	s.exec("update awa.leases set lease_until = now() - interval '1 hour', deadline_at = now() - interval '1 hour'")
	for _, held := range []struct{ pass, call string }{
		{"promote_due", "select awa.promote_due()"},
		{"promote_due", fmt.Sprintf("select awa.set_priority(%d, 3)", due)},
		{"promote_due", fmt.Sprintf("select from awa.deferred_jobs where job_id = %d for update", due)},
		{"apply_changes", "select awa.apply_changes()"},
		{"apply_changes", "select awa.stop_change(change_id) from awa.list_changes()"},
		{"rescue", "select awa.rescue()"},
		{"expire_history", fmt.Sprintf("select awa.delete_job(%d)", ended)},
	} {
		if held.pass == "expire_history" {
			s.exec("update awa.done_entries set finalized_at = now() - interval '1 year' where job_id = $1", ended)
		}
		late := func() string {
			return one[string](s, "select concat_ws(' ', h.level, h.hint) from awa.health() h "+
				"where h.topic = 'maintenance' and h.subject = $1", held.pass)
		}
		require.Contains(t, late(), "warning", held.pass)
		require.NotContains(t, late(), "held by")
		holder := d.session()
		holder.exec("begin")
		holder.exec(held.call)
		require.Contains(t, late(), fmt.Sprintf("its work is held by backend %d ", holder.pid), held.call)
		holder.exec("rollback")
		require.NotContains(t, late(), "held by", held.call)
	}
}
