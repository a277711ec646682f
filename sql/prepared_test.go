package sql_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/pgserver"
)

// A prepared transaction has no session, so that nobody sees its snapshot or ends it, and keeps its locks and its id.
func TestPreparedTransactions(t *testing.T) {
	started, err := pgserver.Start(t.Context(),
		pgserver.Config{Settings: map[string]string{"max_prepared_transactions": "50"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, started.Stop()) })
	own := server{started, t}
	for name, test := range map[string]func(*testing.T, database){
		"notifications":  prepareAfterANotification,
		"maintenance":    maintenanceBesidePrepared,
		"drop_queue":     dropQueueBesidePrepared,
		"forget_workers": forgetWorkersBesidePrepared,
		"keys":           uniqueKeysBesidePrepared,
	} {
		t.Run(name, func(t *testing.T) {
			d := own.database(name, true)
			d.t = t
			test(t, d)
		})
	}
}

// A transaction that has notified cannot be prepared. Where transactions are prepared, notifications are off.
func prepareAfterANotification(t *testing.T, d database) {
	s := d.session()
	s.exec("begin")
	s.enqueue("q")
	require.Equal(t, "0A000", sqlState(s.try("prepare transaction 'p'")))
	s.exec(`select awa.configure('{"notifications": false}')`)
	s.exec("begin")
	job := s.enqueue("q")
	s.exec("prepare transaction 'p'")
	require.Empty(t, s.claim("q", 9))
	s.exec("commit prepared 'p'")
	require.Equal(t, []int64{job}, ids(s.claim("q", 9)))
}

// Maintenance goes on beside it; a segment into which
// it has written is emptied after its end, and nothing of it is lost, or there twice.
func maintenanceBesidePrepared(t *testing.T, d database) {
	s := d.session().neverWaits()
	s.exec(`select awa.configure('{"notifications": false}')`)
	s.setPruneWait("1 millisecond")
	all := slices.Concat(calls, busyCalls)
	var sessions []*session
	for range all {
		sessions = append(sessions, d.session())
	}
	for _, end := range []string{"commit", "rollback"} {
		var besides []*beside
		for i, c := range all {
			besides = append(besides, &beside{by: sessions[i]})
			besides[i].prepares(s, c, fmt.Sprint("q", i))
		}
		last := one[int64](s, "select last_value from awa.job_ids")
		for i, b := range besides {
			b.last = last
			b.by.exec("begin")
			b.by.exec(b.statement())
			b.by.exec(fmt.Sprintf("prepare transaction 'p%d'", i))
		}
		s.rotate()
		require.Contains(t, []string{"busy", "blocked"}, s.pruneOn())
		s.exec("call awa.run_maintenance()")
		for i := range besides {
			s.says("horizon", "it has been prepared")
			require.Equal(t, 1, one[int](s,
				"select count(*)::int from awa.health() h where h.topic = 'horizon' and h.subject = $1",
				fmt.Sprint("prepared transaction p", i)))
		}
		s.audited()
		for i := range besides {
			s.exec(fmt.Sprintf("%s prepared 'p%d'", end, i))
		}
		s.prunesLater()
		for _, b := range besides {
			b.ended(s, end == "commit", "")
		}
		s.worksOff()
		s.balanced()
	}
}

// A queue is dropped beside a prepared producer: its job comes with its commit, and its name stays until then.
func dropQueueBesidePrepared(t *testing.T, d database) {
	s := d.session().neverWaits()
	s.exec(`select awa.configure('{"notifications": false}')`)
	for _, end := range []string{"commit", "rollback"} {
		s.enqueue("q")
		s.exec("begin")
		job := s.enqueue("q")
		s.exec("prepare transaction 'p'")
		s.exec("select awa.drop_queue('q', true)")
		for _, table := range []string{"ready_entries", "ready_tombstones", "arrivals"} {
			s.exec("delete from awa." + table) // as after their retention
		}
		for range 3 {
			s.exec("select setval('awa.next_fold_at', 1), awa._fold()") // forgets what is left of dropped queues
		}
		require.NotEmpty(t, s.lanes("q"), "the producer counts on them")
		s.exec(end + " prepared 'p'")
		if end == "commit" {
			require.Equal(t, []int64{job}, ids(s.claim("q", 9)))
			s.completes(s.running())
			continue
		}
		for range 2 {
			s.exec("select setval('awa.next_fold_at', 1), awa._fold()")
		}
		require.Empty(t, s.claim("q", 9))
		s.balanced()
	}
}

// A worker is forgotten beside a prepared claim of its own: the attempt ends with its lease, and the job runs again.
func forgetWorkersBesidePrepared(t *testing.T, d database) {
	s := d.session().neverWaits()
	s.exec(`select awa.configure('{"notifications": false}')`)
	for _, end := range []string{"commit", "rollback"} {
		job := s.enqueue("q")
		worker := s.registerWorker()
		s.exec("begin")
		require.Len(t, s.claimAs(worker, "q", 1), 1)
		s.exec("prepare transaction 'p'")
		s.exec("update awa.workers set heartbeat_at = now() - interval '2 hours'")
		s.rescue()
		s.noGap()
		require.Equal(t, int64(1), s.forgetWorkers())
		s.exec(end + " prepared 'p'")
		if end == "commit" {
			require.Equal(t, "running", s.state(job))
			s.exec("update awa.lease_claims set lease_until = now() where lease_until > now()")
			require.Equal(t, int64(1), s.rescue())
			s.exec("select awa.retry($1)", job)
		}
		require.Equal(t, []int64{job}, ids(s.claim("q", 9)))
		s.completes(s.running())
		s.balanced()
	}
}

// A unique key that a prepared transaction takes, or lets go of, is decided at its end, also by those that look after
// maintenance has gone over the keys that no job holds.
func uniqueKeysBesidePrepared(t *testing.T, d database) {
	s, other, watcher := d.session(), d.session(), d.session()
	s.exec(`select awa.configure('{"notifications": false}')`)
	for _, end := range []string{"commit", "rollback"} {
		for _, held := range []bool{false, true} { // before
			key := fmt.Sprint(end, held)
			var before int64
			if held {
				before = s.enqueueUnique("q", key)
			} else { // a free key, with a row that expires
				s.exec("select awa.cancel($1)", s.enqueueUnique("q", key))
			}
			s.exec("begin")
			if held {
				s.exec("select awa.cancel($1)", before)
			}
			job := s.enqueueUnique("q", key)
			require.NotEqual(t, before, job)
			s.exec("prepare transaction 'p'")
			s.exec("select awa._expire_keys()")
			wait := other.background(
				"create temp table got as select job_id, inserted from awa.enqueue_unique('q', 'k', unique_key => $1)", key)
			watcher.waitUntilBlocked(other)
			s.exec(end + " prepared 'p'")
			require.NoError(t, wait())
			got := one[int64](other, "select job_id from got")
			switch {
			case end == "commit":
				require.Equal(t, job, got)
			case held:
				require.Equal(t, before, got)
			default:
				require.True(t, one[bool](other, "select inserted from got"))
			}
			other.exec("drop table got")
			s.exec("select awa._expire_keys()")
			require.Equal(t, got, s.enqueueUnique("q", key), "one holder")
			s.balanced()
		}
	}
}
