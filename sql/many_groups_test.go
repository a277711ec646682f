package sql_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

const enqueueInManyQueues = "select awa.enqueue_batch((select jsonb_agg(jsonb_build_object('queue', 'q' || n, " +
	"'kind', 'k', 'group_key', 'g')) from generate_series(1, 100) n))"

// keptNumbers returns how many locks of numbers of shards a session holds; the one for many counts as one.
func (s *session) keptNumbers() int {
	s.Helper()
	return one[int](s, "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() and "+
		"classid::bigint << 32 | objid::bigint between awa._many_shards_key() and awa._shards_key((1::bigint << 54) - 1)")
}

// One call keeps few locks, however many queues it puts jobs with a group into: the server's lock table is small.
func TestFewLocksForGroupsInManyQueues(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("begin")
	s.exec(enqueueInManyQueues)
	require.Equal(t, 1, s.keptNumbers())
	s.exec("commit")
	s.exec("select awa.cancel_where(kind => 'k')")
	for call, locks := range map[string]int{"select awa.retry_where(kind => 'k')": 65,
		"select awa.retry_where('q', kind => 'k')": 1} {
		s.enqueueGroup("q", "g", 70)
		s.exec("select awa.cancel_where('q')")
		s.exec("begin")
		s.exec(call)
		require.LessOrEqual(t, s.keptNumbers(), locks, call)
		s.exec("rollback")
	}
	s.exec("begin")
	s.exec("select awa.enqueue_batch((select jsonb_agg(jsonb_build_object('queue', 'r' || n % 9, 'kind', 'k', " +
		"'group_key', 'g' || n)) from generate_series(1, 100) n))")
	require.Equal(t, 9, s.keptNumbers(), "of a few queues each one, whatever the number of jobs")
	s.exec("commit")
	s.balanced()

	for _, minute := range []string{"10:00:10", "10:05:00"} { // on time, and missed
		d := newDatabase(t)
		s := d.session()
		s.setsClock("2030-01-01 09:59:30 UTC")
		s.exec("select awa.schedule('s' || n, 'q' || n, 'k', '* * * * *', group_key => 'g') from generate_series(1, 70) n")
		s.clockIs("2030-01-01 " + minute + " UTC")
		s.exec("begin")
		s.exec("select awa.fire_due()")
		require.Equal(t, 70, one[int](s, "select count(*) from awa.jobs"))
		require.LessOrEqual(t, s.keptNumbers(), 2)
		s.exec("commit")
	}
}

// A call that puts jobs with a group into very many queues, and a change of one queue's number of shards: whoever comes
// second sees the first. Nobody waits for a session that waits for them.
func TestShardsBesideGroupsInManyQueues(t *testing.T) {
	d := newDatabase(t)
	operator, producer, watcher := d.session(), d.session(), d.session()
	other := d.session().neverWaits()
	operator.exec("update awa.settings set claim_wait = '50 milliseconds'")
	change := `select awa.configure_queue('q7', '{"shards": 5}')`

	// The number is being changed.
	operator.exec("begin")
	operator.exec(change)
	err := producer.try(enqueueInManyQueues)
	require.Equal(t, "55P03", sqlState(err))
	require.Contains(t, err.(*pgconn.PgError).Message, "the number of shards of the queue is being changed")
	operator.exec("rollback")
	watcher.exec("update awa.settings set claim_wait = '1 hour'")
	operator.exec("begin")
	operator.exec(change)
	wait := producer.background(enqueueInManyQueues)
	watcher.waitUntilSleeping(producer)
	other.exec("select awa.enqueue('q8', 'k', group_key => 'g')")
	operator.exec("commit")
	require.NoError(t, wait())
	require.Equal(t, []int{one[int](watcher, "select awa._group_bits('g') % 5")}, watcher.shardsOf("q7"))
	require.Len(t, watcher.claim("q7", 10), 1)

	// The jobs are not committed.
	producer.exec("select awa.drop_queue('q7', true)")
	producer.exec("begin")
	producer.exec(enqueueInManyQueues)
	watcher.exec("update awa.settings set claim_wait = '50 milliseconds'")
	err = operator.try(change)
	require.Equal(t, "55P03", sqlState(err))
	require.Contains(t, err.(*pgconn.PgError).Message, "the number of shards of the queue is in use")
	watcher.exec("update awa.settings set claim_wait = '1 hour'")
	wait = operator.background(change)
	watcher.waitUntilSleeping(operator)
	for range 20 {
		other.exec("select awa.enqueue('q7', 'k', group_key => 'g')") // beside one that tries again and again
	}
	producer.exec("commit")
	require.Equal(t, "55000", sqlState(wait()), "there are jobs with a group by now")
	require.Len(t, watcher.claim("q7", 100), 21)
}
