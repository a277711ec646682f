package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// drain_queue counts what a claim takes that had begun before it, and none begins after it: so 0 means that nothing
// runs. In one shard, and in several.
func TestDrainQueueBesideClaims(t *testing.T) {
	for _, shards := range []string{"1", "4"} {
		t.Run(shards+" shards", func(t *testing.T) {
			d := newDatabase(t)
			a, b, c, watcher := d.session(), d.session(), d.session(), d.session()
			a.exec(`select awa.configure_queue('q', '{"shards": ` + shards + `}')`)
			a.enqueueMany("q", 1)
			a.exec("begin")
			require.Len(t, a.claim("q", 1), 1)
			var running int64
			drained := make(chan int64, 1)
			go func() { drained <- one[int64](b, "select awa.drain_queue('q')") }()
			watcher.waitUntilBlocked(b)
			a.exec("commit")
			require.EqualValues(t, 1, <-drained, "the claim that was going on is counted")

			// a claim that waits for a call that counts finds nothing
			c.enqueueMany("q", 4)
			require.Empty(t, c.claim("q", 1))
			c.exec("select awa.resume_queue('q')")
			b.exec("begin")
			running = one[int64](b, "select awa.drain_queue('q')")
			require.EqualValues(t, 1, running)
			claimed := c.background("create temp table claimed as select * from awa.claim('q', 10)")
			watcher.waitUntilBlocked(c)
			b.exec("commit")
			require.NoError(t, claimed())
			require.Zero(t, one[int64](c, "select count(*) from claimed"))
			require.EqualValues(t, 1, one[int64](b, "select awa.drain_queue('q')"), "none has begun")
		})
	}
}

// While it waits for a claim that lasts, claims of other queues and enqueues go on; and it gives up after claim_wait.
func TestDrainQueueBesideAClaimThatLasts(t *testing.T) {
	d := newDatabase(t)
	a, b, c, watcher := d.session(), d.session(), d.session().neverWaits(), d.session()
	a.enqueueMany("q", 2)
	a.enqueue("other")
	a.exec("begin")
	require.Len(t, a.claim("q", 1), 1)
	waits := b.background("select awa.drain_queue('q')")
	watcher.waitUntilBlocked(b)
	c.enqueue("q")
	require.Len(t, c.claim("other", 1), 1)
	require.Equal(t, "55P03", sqlState(waits()))
	a.exec("commit")
	require.Len(t, a.claim("q", 1), 1, "it has paused nothing then")
	require.EqualValues(t, 2, one[int64](b, "select awa.drain_queue('q')"))
}
