package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Maintenance looks at the queues that were claimed from, and at all of them only now and then.
func TestMaintenanceLooksAtBusyQueues(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("select awa.enqueue('quiet' || n, 'k') from generate_series(1, 100) n")
	s.exec("select setval('awa.next_fold_at', 1), awa._fold()")
	require.True(t, one[bool](s, "select last_value > extract(epoch from now()) * 1000000 from awa.next_fold_at"))
	s.exec("select setval('awa.next_fold_at', (extract(epoch from now() + interval '30 minutes') * 1000000)::bigint)") // not for now
	require.Equal(t, "{}", one[string](s, "select awa._busy_queues()::text"))
	counted := one[int64](s, "select count(*) from awa.queue_rollups")

	s.exec("select awa.enqueue('busy', 'k') from generate_series(1, 3)")
	jobs := s.claim("busy", 2)
	require.True(t, one[bool](s, "select awa._busy_queues() = array[awa._queue_id('busy')]"))
	require.Equal(t, int64(2), one[int64](s, "select materialized from awa.materialize('0')"))
	require.Equal(t, counted+1, one[int64](s, "select count(*) from awa.queue_rollups"), "the lane that was claimed from")
	require.Empty(t, s.completeMany(jobs))
	s.exec("update awa.lease_claims set claimed_at = claimed_at - interval '1 minute'")
	s.exec("select awa._fold(), awa._fold()")
	require.Equal(t, "{}", one[string](s, "select awa._busy_queues()::text"), "all is counted, and nobody claims")

	// One that stays open is known, however long it lasts.
	s.exec("update awa.queue_rollups set folded_at = folded_at - interval '1 minute'")
	s.claim("quiet7", 1)
	s.exec("update awa.lease_claims set claimed_at = claimed_at - interval '1 minute'")
	s.exec("select awa._fold(), awa._fold()")
	require.Equal(t, int64(1), one[int64](s, "select materialized from awa.materialize('0')"))

	// One that was committed so late that maintenance has gone past it is found when all queues are looked at.
	s.claim("quiet8", 1)
	s.exec("select setval('awa.folded_until', (select last_value from awa.claim_ids))")
	require.Zero(t, one[int64](s, "select materialized from awa.materialize('0')"))
	s.exec("update awa.lease_claims set claimed_at = claimed_at - interval '11 seconds'")
	s.exec("update awa.queue_rollups set folded_at = folded_at - interval '1 minute'")
	s.exec("select setval('awa.next_fold_at', 1)")
	require.Equal(t, int64(1), one[int64](s, "select materialized from awa.materialize('0')"))
	s.balanced()
}

// The name of a dropped queue goes away with its last row; not while somebody who has seen it may still enqueue without looking again.
func TestDroppedQueuesAreForgotten(t *testing.T) {
	d := newDatabase(t)
	producer, s := d.session(), d.session()
	names := func() int { return one[int](s, "select count(distinct queue_id) from awa.queues") }
	look := func() { s.exec("select setval('awa.next_fold_at', 1)"); s.exec("select awa._fold()") } // as maintenance does
	forget := func() { look(); look() }
	s.enqueue("q")
	producer.exec("begin isolation level repeatable read")
	require.Equal(t, 1, one[int](producer, "select count(distinct queue_id) from awa.queues"))
	s.exec("select awa.drop_queue('q', true)")
	forget()
	require.Equal(t, 1, names(), "its entry is still there")
	s.rotate()
	s.exec("truncate awa.ready_entries, awa.ready_tombstones") // as after their retention
	forget()
	require.Equal(t, 1, names(), "an old snapshot sees the name")
	job := producer.enqueue("q")
	s.exec("begin")
	s.exec("select awa._forget_queues()")
	s.exec("commit")
	require.Equal(t, 1, names())
	producer.exec("commit")
	forget()
	require.Equal(t, 1, names(), "there is a job again")
	require.Equal(t, []int64{job}, ids(s.claim("q", 9)))

	// A transaction without a snapshot, that has found the name before the queue was dropped, and is not committed yet
	producer.exec("begin")
	job = producer.enqueue("q")
	producer.exec("savepoint s") // which lets go of the snapshot of the statement before it
	s.exec("select awa.drop_queue('q', true)")
	s.exec("truncate awa.lease_claims, awa.lease_claim_closures")
	s.exec("delete from awa.ready_tombstones")
	s.exec("delete from awa.ready_entries")
	forget()
	require.Equal(t, 1, names(), "its transaction is older than the mark")
	producer.exec("commit")
	forget()
	require.Equal(t, 1, names(), "there is a job again")
	require.Equal(t, []int64{job}, ids(s.claim("q", 9)))

	s.exec("select awa.drop_queue('q', true)")
	s.exec("truncate awa.ready_entries, awa.ready_tombstones, awa.lease_claims, awa.lease_claim_closures")
	forget()
	require.Zero(t, names())
	require.Zero(t, one[int](s, "select count(*) from awa.queue_rollups"))
	s.enqueue("q")
	s.balanced()
}

// Without its row, settings would let nothing be claimed, and ring nothing enqueued.
func TestRowsThatMustBeThere(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	job := s.enqueue("q")
	for _, sql := range []string{"delete from awa.settings", "truncate awa.settings", "delete from awa.ring", "truncate awa.ring"} {
		require.Equal(t, "55000", sqlState(s.try(sql)), sql)
	}
	s.exec("set session_replication_role = replica") // as a restore may
	s.exec("delete from awa.settings")
	require.Equal(t, "55000", sqlState(s.try("select awa.claim('q')")))
	s.exec("insert into awa.settings default values")
	s.exec("create temp table lost as select * from awa.ring")
	s.exec("delete from awa.ring")
	require.Equal(t, "55000", sqlState(s.try("select awa.claim('q')")))
	require.Equal(t, "55000", sqlState(s.try("call awa.run_maintenance()")), "it ends")
	s.exec("insert into awa.ring select * from lost")
	require.Equal(t, []int64{job}, ids(s.claim("q", 9)))
}
