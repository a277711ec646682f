package sql_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/pgserver"
)

// Without ids that nobody has to agree on, each second enqueue would wait for the other's commit, and the two would
// deadlock.
func TestProducersOfNewQueuesInOppositeOrder(t *testing.T) {
	d := newDatabase(t)
	a, b, worker := d.session(), d.session(), d.session()
	a.exec("begin")
	b.exec("begin")
	a.exec("set local lock_timeout = '2s'")
	b.exec("set local lock_timeout = '2s'")
	a.enqueue("one")
	b.enqueue("two")
	a.enqueue("two")
	b.enqueue("one")
	require.Empty(t, worker.claim("one", 10), "nothing is committed, and the claim does not wait")
	a.exec("commit")
	b.exec("commit")
	require.Len(t, worker.claim("one", 10), 2)
	require.Len(t, worker.claim("two", 10), 2)
	require.Equal(t, []string{"one", "two"}, list[string](worker, "select queue from awa.queue_counts()"))
}

// A producer's open transaction holds up neither producers nor claims, and what it wrote comes when it commits, once.
func TestLateCommit(t *testing.T) {
	d := newDatabase(t)
	late, producer, worker := d.session(), d.session(), d.session()
	late.exec("begin")
	lateJobs := late.enqueueMany("q", 3)
	var seen []int64
	for range 5 {
		want := producer.enqueueMany("q", 10)
		got := worker.claim("q", 7)
		got = append(got, worker.claim("q", 7)...)
		require.Equal(t, want, ids(got))
		require.Empty(t, worker.completeMany(got))
		seen = append(seen, ids(got)...)
	}
	moreLateJobs := late.enqueueMany("q", 3)
	late.exec("commit")
	next := producer.enqueue("q")
	got := worker.claim("q", 4)
	got = append(got, worker.claim("q", 10)...)
	require.Equal(t, append(append(lateJobs, moreLateJobs...), next), ids(got),
		"the late transaction's jobs come first: it began before")
	require.Empty(t, worker.claim("q", 10))
	require.Empty(t, worker.completeMany(got))
	require.Equal(t, int64(len(seen)+len(got)), one[int64](worker, "select completed from awa.queue_counts('q')"))
}

func TestRollbackAndSavepoints(t *testing.T) {
	d := newDatabase(t)
	producer, other, worker := d.session(), d.session(), d.session()

	producer.exec("begin")
	producer.enqueueMany("q", 5)
	other.enqueue("other") // so that the transaction to be rolled back lies within the next snapshot
	require.Empty(t, worker.claim("q", 10))
	producer.exec("rollback")
	require.Empty(t, worker.claim("q", 10))

	producer.exec("begin")
	first := producer.enqueue("q")
	producer.exec("savepoint s")
	producer.enqueueMany("q", 3)
	producer.exec("rollback to s")
	second := producer.enqueue("q")
	producer.exec("savepoint s")
	third := producer.enqueue("q")
	producer.exec("release s")
	producer.exec("commit")
	require.Equal(t, []int64{first, second, third}, ids(worker.claim("q", 10)))

	// A queue whose first row went with a savepoint still gets its name.
	producer.exec("begin")
	producer.exec("savepoint s")
	producer.enqueue("new")
	producer.exec("rollback to s")
	producer.enqueue("new")
	producer.exec("commit")
	require.Equal(t, int64(1), one[int64](worker, "select available from awa.queue_counts('new')"))
}

// A large enqueue that was rolled back leaves entries in the index. The first claim walks over them, and moves the
// cursor, so that the next one does not.
func TestRolledBackEnqueueIsWalkedOnce(t *testing.T) {
	d := newDatabase(t)
	producer, worker := d.session(), d.session()
	producer.exec("begin")
	for range 40 {
		producer.exec("select awa.enqueue_many('q', 'k', array_fill('{}'::jsonb, array[10000]))")
	}
	producer.exec("rollback")
	worker.claim("q", 1)
	blocks := worker.blocksRead(func() { worker.claim("q", 1) })
	require.Less(t, blocks, int64(200))
}

// blocksRead counts the blocks of the hot families and their indexes that a call touches.
func (s *session) blocksRead(call func()) int64 {
	s.Helper()
	count := func() int64 {
		s.exec("select pg_stat_force_next_flush()")
		s.exec("select pg_stat_clear_snapshot()")
		return one[int64](s, `
			select coalesce(sum(heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit + idx_blks_read, 0)), 0)::bigint
			  from pg_statio_user_tables
			 where schemaname = 'awa' and relname ~ '^(ready_entries|lease_claims|lease_claim_closures)_'`)
	}
	before := count()
	call()
	return count() - before
}

// The clock of notifications is a sequence: a rollback does not turn it back, and a burst notifies once per tick.
func TestNotifications(t *testing.T) {
	d := newDatabase(t)
	listener, producer := d.session(), d.session()
	digit := one[string](listener, "select left(encode(sha256('q'), 'hex'), 1)")
	listener.exec("listen awa_wake_" + digit)

	producer.enqueue("q")
	_, err := listener.db.WaitForNotification(listener.ctx)
	require.NoError(t, err, "a commit notifies")

	started := time.Now()
	const jobs = 500
	for range jobs {
		producer.enqueue("q")
	}
	ticks := int(time.Since(started)/(5*time.Millisecond)) + 2
	notifications := 0
	for {
		ctx, cancel := context.WithTimeout(listener.ctx, 200*time.Millisecond)
		_, err := listener.db.WaitForNotification(ctx)
		cancel()
		if err != nil {
			break
		}
		notifications++
	}
	require.LessOrEqual(t, notifications, ticks)
	require.Positive(t, notifications)

	tick := func() int64 { return one[int64](producer, "select last_value from awa.wake_clock_"+digit) }
	before := tick()
	producer.exec("begin")
	producer.enqueue("q")
	producer.exec("rollback")
	require.Greater(t, tick(), before)
}

// A clock that is set back, by however much, keeps no notification from being sent. None is sent where the settings say
// so, or where the server's queue of notifications is half full.
func TestNotificationsByTheClockAndTheSettings(t *testing.T) {
	d := newDatabase(t)
	listener, producer := d.session(), d.session()
	digit := one[string](listener, "select left(encode(sha256('q'), 'hex'), 1)")
	listener.exec("listen awa_wake_" + digit)
	listener.exec("listen awa_lost_attempts")
	before := func(mark string) string { // the channels of what was notified before
		producer.exec("select pg_notify('awa_lost_attempts', $1)", mark)
		var channels []string
		for {
			n, err := listener.db.WaitForNotification(listener.ctx)
			require.NoError(t, err)
			if n.Payload == mark {
				return strings.Join(channels, " ")
			}
			channels = append(channels, n.Channel)
		}
	}
	for _, ahead := range []string{"1 second", "40 minutes", "10 years"} {
		producer.exec("select setval('awa.wake_clock_"+digit+
			"', (extract(epoch from clock_timestamp() + $1::interval) * 200)::bigint)", ahead)
		producer.exec("select awa._wake(awa._queue_id('q'))")
		require.Equal(t, "awa_wake_"+digit, before(ahead))
	}

	worker := producer.registerWorker()
	jobs := producer.enqueueMany("q", 5)
	require.Len(t, producer.claimAs(worker, "q", 5), 5)
	before("claimed")
	both := "awa_wake_" + digit + " awa_lost_attempts"
	notifies := func(want, when string) {
		t.Helper()
		producer.exec("select setval('awa.wake_clock_" + digit + "', 1)")
		producer.enqueue("q")
		producer.exec("select awa.cancel($1)", jobs[0])
		jobs = jobs[1:]
		require.Equal(t, want, before(when), when)
	}
	for i, want := range []string{"", both} {
		producer.exec("update awa.settings set notifications = $1", i == 1)
		notifies(want, fmt.Sprint("set ", i))
	}
	const usage = "pg_notification_queue_usage()"
	for full, want := range map[string]string{"0.49": both, "0.5": "", "1": ""} {
		producer.exec(changing("_notify", usage+" <", full+" <"))
		notifies(want, full+" full")
		producer.exec(changing("_notify", full+" <", usage+" <"))
	}
}

// While a transaction is about to notify, others that enqueue leave it to that one, for 50 ms: a transaction that
// notifies keeps a lock of the whole server until its commit is on the disk, and each would wait for the one before.
func TestNotificationsBesideOneThatIsDue(t *testing.T) {
	for _, last := range []struct {
		ago    string // since somebody notified
		open   bool   // that transaction has not committed
		notify bool
	}{{"1 minute", true, false}, {"1 hour", true, true}, {"1 minute", false, true}} {
		t.Run(fmt.Sprintf("%v", last), func(t *testing.T) {
			d := newDatabase(t)
			first, second := d.session(), d.session()
			first.exec(changing("_notify_once", "v_tick - 10", "v_tick - 200 * 600"))
			digit := one[string](first, "select left(encode(sha256('q'), 'hex'), 1)")
			tick := func() int64 { return one[int64](second, "select last_value from awa.wake_clock_"+digit) }
			first.exec("begin")
			first.enqueue("q")
			if !last.open {
				first.exec("commit")
			}
			second.exec("select setval('awa.wake_clock_"+digit+
				"', (extract(epoch from clock_timestamp() - $1::interval) * 200)::bigint)", last.ago)
			before := tick()
			second.enqueue("q")
			require.Equal(t, last.notify, tick() > before)
		})
	}
}

// A listener that stays in a transaction fills the server's queue of notifications. That keeps nobody from enqueuing,
// and is named; when the listener has gone, maintenance empties the queue. That of older servers takes 4 GB to fill.
func TestFullNotificationQueue(t *testing.T) {
	binaries, err := pgserver.FindBinaries(t.Context(), "")
	require.NoError(t, err)
	if major, _, _ := strings.Cut(binaries.Version, "."); major < "17" {
		t.Skip("the size of the queue is fixed before PostgreSQL 17")
	}
	started, err := pgserver.Start(t.Context(),
		pgserver.Config{Settings: map[string]string{"max_notify_queue_pages": "64"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, started.Stop()) })
	d := server{started, t}.database("small_queue", true)
	listener, filler, producer := d.session(), d.session(), d.session()
	health := func() string {
		return one[string](producer,
			"select format('%s %s %s', level, details -> 'pid', message) from awa.health() where topic = 'notifications'")
	}
	require.Equal(t, "ok null 0 % full", health())
	listener.exec("listen x")
	listener.exec("begin")
	listener.exec("select 1")
	worker := producer.registerWorker()
	for n, full := 0, false; !full; n++ {
		err := filler.try("select pg_notify('x', repeat('x', 7000) || $1::text)", fmt.Sprint(n))
		full = sqlState(err) == "54000"
		require.True(t, full || err == nil, "%v", err)
		producer.exec("select setval('awa.wake_clock_' || d, 1) from " +
			"unnest(string_to_array('0,1,2,3,4,5,6,7,8,9,a,b,c,d,e,f', ',')) d")
		job := producer.enqueue("q")
		require.Len(t, producer.claimAs(worker, "q", 1), 1)
		producer.exec("select awa.cancel($1)", job)
	}
	require.Regexp(t,
		fmt.Sprintf(`^warning %d \d+ %% full; workers are not notified, and poll; held by a listener, most likely backend `+
			`%[1]d \(.*idle in transaction\), in a transaction for`, listener.pid), health())
	require.Contains(t, one[string](producer, "select hint from awa.health() where topic = 'notifications'"),
		"jobs wait for the poll interval of their workers")
	require.NoError(t, listener.db.Close(listener.ctx))
	producer.exec("select awa.forget_workers()")
	filler.exec("select pg_notify('x', repeat('x', 7000))")
	require.Regexp(t, "^ok null ", health())
}
