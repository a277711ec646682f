package sql_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Producers of a queue with a max_depth wait for nobody: neither for one that has looked at the depth and not
// committed, nor for a change of the setting. What is not committed is not ready.
func TestProducersOfALimitedQueueDoNotWait(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session().neverWaits()
	b.exec(`select awa.configure_queue('q', '{"max_depth": 3}')`)
	a.exec("begin")
	a.enqueueMany("q", 10)
	b.enqueueMany("q", 3)
	b.enqueue("q")
	require.Equal(t, "JQ006", sqlState(b.try("select awa.enqueue('q', 'k')")), "four are ready")
	b.claim("q", 2)
	b.enqueue("q")
	a.exec("commit")
	require.Equal(t, "JQ006", sqlState(b.try("select awa.enqueue('q', 'k')")))

	a.exec("begin")
	a.exec(`select awa.configure_queue('q', '{"max_depth": null}')`)
	require.Equal(t, "JQ006", sqlState(b.try("select awa.enqueue('q', 'k')")), "another setting holds from its commit on")
	a.exec("commit")
	b.enqueue("q")
}

// Jobs of a transaction that was in progress when maintenance counted are ready from its commit on.
func TestLateCommitsOfALimitedQueue(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	b.exec(`select awa.configure_queue('q', '{"max_depth": 3}')`)
	b.enqueue("q")
	a.exec("begin")
	a.enqueueMany("q", 3)
	b.exec("select awa._fold(null, true)")
	b.enqueue("q")
	a.exec("commit")
	require.Equal(t, "JQ006", sqlState(b.try("select awa.enqueue('q', 'k')")), "five are ready")

	// and what it has cancelled is not
	a.exec("begin")
	a.exec("select awa.cancel(j.id) from awa.jobs j where j.queue = 'q'")
	b.exec("select awa._fold(null, true)")
	require.Equal(t, "JQ006", sqlState(b.try("select awa.enqueue('q', 'k')")))
	a.exec("commit")
	b.enqueue("q")
}

// With a backlog of many thousands, whether maintenance has counted it or not, a look finds the limit, and a job does
// not take one.
func TestDepthBesideMuch(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec(`select awa.configure_queue('q', '{"max_depth": 20000}')`)
	s.enqueueMany("q", 10_000)
	s.enqueueMany("q", 9_000)
	s.claim("q", 500)
	look := func() int64 { return one[int64](s, "select awa._depth(awa._queue_id('q'), 20000)") }
	room := func() int64 {
		return one[int64](s, "select sum(coalesce(last_value, 0))::bigint from pg_sequences where sequencename ~ '^room_'")
	}
	require.Equal(t, one[int64](s, "select available from awa.queue_counts('q')"), look(), "nothing is counted yet")
	require.Equal(t, int64(5001), one[int64](s, "select awa._depth(awa._queue_id('q'), 5000)"), "it reads no further")
	s.exec("select awa._fold(null, true)")
	require.Equal(t, one[int64](s, "select available from awa.queue_counts('q')"), look(), "all is counted")

	before := room()
	s.enqueue("q")
	after := room()
	require.NotEqual(t, before, after, "the first one looks")
	for range 600 {
		s.enqueue("q")
	}
	require.Equal(t, after, room(), "the next ones, up to a 32nd of max_depth, do not")
	for range 100 {
		s.enqueue("q")
	}
	require.NotEqual(t, after, room(), "then one looks again")
	s.enqueueMany("q", 2_000)
	require.Equal(t, "JQ006", sqlState(s.try("select count(*) from awa.enqueue_many('q', 'k', "+
		"array_fill('{}'::jsonb, array[1000]))")))
}

// While one producer looks at the depth, others that come go on without, for a 32nd of max_depth. Then each looks by
// itself, and a queue that is full stays so.
func TestOneProducerLooksAtTheDepth(t *testing.T) {
	d := newDatabase(t)
	s, looker := d.session().neverWaits(), d.session()
	s.exec(`select awa.configure_queue('q', '{"max_depth": 320}')`)
	room := func() int64 {
		return one[int64](s, "select sum(coalesce(last_value, 0))::bigint from pg_sequences where sequencename ~ '^room_'")
	}
	hold := func() {
		looker.exec("begin")
		looker.exec("select pg_advisory_xact_lock(awa._look_key(awa._queue_id('q')))") // as in the middle of its look
	}
	for range 10 {
		s.enqueue("q")
	}
	before := room()
	hold()
	for range 10 {
		s.enqueue("q")
	}
	require.Equal(t, before, room(), "another one looks")
	s.enqueue("q")
	require.NotEqual(t, before, room(), "not for longer than that")
	looker.exec("commit")
	s.enqueueMany("q", 300)
	require.Equal(t, "JQ006", sqlState(s.try("select awa.enqueue('q', 'k')")), "321 are ready")
	for range 3 { // one that looks, and is refused, gives no room
		hold()
		require.Equal(t, "JQ006", sqlState(s.try("select awa.enqueue('q', 'k')")))
		looker.exec("rollback")
	}
	s.claim("q", 1)
	s.enqueue("q")
}

// Where more has come since maintenance counted than the counts are read for, a queue with a large max_depth has a
// depth: it is refused beyond that, and not before. The numbers are small ones here.
func TestDepthBesideMoreThanIsRead(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec(changing("_depth", "max_depth, 5000)", "max_depth, 5)"))
	s.exec(changing("_depth", "1000000)", "20)"))
	s.exec(changing("_depth", "100000)", "10)"))
	s.exec(`select awa.configure_queue('q', '{"max_depth": 30}')`)
	s.enqueueMany("q", 41)
	require.Equal(t, "JQ006", sqlState(s.try("select awa.enqueue('q', 'k')")), "41 are ready")
	s.claim("q", 11)
	s.enqueue("q")
	require.Equal(t, "JQ006", sqlState(s.try("select awa.enqueue('q', 'k')")), "31 are")
	s.claim("q", 15)
	s.enqueue("q")
}

// Many producers at once go past max_depth by no more than a look lasts for, twice, and one job of each.
func TestManyProducersOfALimitedQueue(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	const depth, producers = 640, 8
	s.exec(fmt.Sprintf(`select awa.configure_queue('q', '{"max_depth": %d}')`, depth))
	var wg sync.WaitGroup
	for range producers {
		p := d.session()
		wg.Go(func() {
			for {
				if err := p.try("select awa.enqueue('q', 'k')"); err != nil {
					assert.Equal(t, "JQ006", sqlState(err))
					return
				}
			}
		})
	}
	wg.Wait()
	ready := one[int64](s, "select available from awa.queue_counts('q')")
	require.Greater(t, ready, int64(depth))
	// a look lasts for 20, and for 20 more while another producer looks; a producer that had looked before it, and one
	// that had passed before, may each add one more
	require.LessOrEqual(t, ready, int64(depth+40+2*producers))
}

// Sixteen queues with a max_depth each keep their looks in a note of their own: so producers that take turns among them
// look once in a 32nd, and not at each call. The next queue shares the note of one other, and gets one of its own when
// there is one again.
func TestNotesOfDepth(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	limit := func(queue int, depth string) {
		s.exec("select awa.configure_queue('q' || $1::int, jsonb_build_object('max_depth', $2::jsonb))", queue, depth)
	}
	queues := func() int {
		return one[int](s, "select count(distinct q.depth_note)::int from awa.queue_settings q")
	}
	for queue := range 16 {
		limit(queue, "320000")
		limit(queue, "32000") // it keeps its note
	}
	require.Equal(t, 16, queues())
	looks := func() int64 {
		return one[int64](s, "select pg_stat_get_xact_function_calls('awa._depth'::regproc)")
	}
	s.exec("set track_functions = 'all'")
	s.exec("begin")
	for range 20 {
		for queue := range 16 {
			s.exec("select awa.enqueue('q' || $1::int, 'k')", queue)
		}
	}
	require.Equal(t, int64(16), looks(), "each queue is looked at once")
	s.exec("commit")

	limit(16, "320000")
	require.Equal(t, 16, queues())
	limit(3, "null")
	limit(16, "320000")
	require.Equal(t, 16, queues(), "it takes the note that is free now")
	s.exec("select awa.drop_queue('q5', force => true)")
	limit(3, "320000")
	require.Equal(t, 16, queues())
}
