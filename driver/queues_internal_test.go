package driver

import (
	"bytes"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func testQueues(slots, weights []int) (queues []*queue) {
	for i, n := range slots {
		queues = append(queues, &queue{QueueConfig: QueueConfig{Slots: n, Weight: weights[i]}})
	}
	return queues
}

// fill claims, as long as there are free slots, from queues that all have jobs without end.
func fill(s *slots, now time.Time) {
	for {
		q := s.choose(now).queue
		if q == nil {
			return
		}
		q.lastLook = now
	}
}

func testSlots(n int, queues []*queue) *slots { return newSlots(n, 1000, queues, func(*task) {}) }

// take takes slots as earlier claims would have done.
func (s *slots) take(q *queue, n int) { s.put(q, -n) }

func runningOf(queues []*queue) (running []int) {
	for _, q := range queues {
		running = append(running, q.running)
	}
	return running
}

func TestShares(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		total          int
		slots, weights []int
		taken          []int // before
		want           []int
	}{
		"one queue":              {10, []int{10}, []int{1}, []int{0}, []int{10}},
		"alike":                  {10, []int{10, 10}, []int{1, 1}, []int{0, 0}, []int{5, 5}},
		"by weight":              {12, []int{12, 12, 12}, []int{3, 2, 1}, []int{0, 0, 0}, []int{6, 4, 2}},
		"no more than its slots": {12, []int{2, 12}, []int{5, 1}, []int{0, 0}, []int{2, 10}},
		"who has more waits":     {10, []int{10, 10}, []int{1, 1}, []int{7, 0}, []int{7, 3}},
		"who has none is first":  {2, []int{2, 2}, []int{1000, 1}, []int{1, 0}, []int{1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			queues := testQueues(c.slots, c.weights)
			s := testSlots(c.total, queues)
			for i, n := range c.taken {
				s.take(queues[i], n)
			}
			fill(s, now)
			assert.Equal(t, c.want, runningOf(queues))
		})
	}
}

// What one queue has taken beyond its share while others had no jobs goes to them as it becomes free.
func TestSharesAreMadeGood(t *testing.T) {
	now := time.Now()
	queues := testQueues([]int{10, 10}, []int{1, 1})
	s := testSlots(10, queues)
	queues[1].nextLook = now.Add(time.Second)
	fill(s, now)
	require.Equal(t, []int{10, 0}, runningOf(queues))
	now = queues[1].nextLook
	for range 5 {
		s.put(queues[0], 1)
		fill(s, now)
	}
	assert.Equal(t, []int{5, 5}, runningOf(queues))
	s.put(queues[0], 1)
	fill(s, now)
	assert.Equal(t, []int{5, 5}, runningOf(queues))
}

// Jobs that end at once leave all slots free again: then the queues take turns, however light they are.
func TestQueuesTakeTurns(t *testing.T) {
	now := time.Now()
	queues := testQueues([]int{1, 1, 1}, []int{1000, 1, 1})
	s := testSlots(1, queues)
	looks := map[*queue]int{}
	for range 30 {
		c := s.choose(now)
		looks[c.queue]++
		now = now.Add(time.Millisecond)
		c.queue.lastLook = now
		s.put(c.queue, c.slots)
	}
	for _, q := range queues {
		assert.Equal(t, 10, looks[q])
	}
}

// A claim from a queue in trouble may take a while: whoever is well is served between two of them, and neither kind is
// forgotten.
func TestTroubledQueuesBesideOthers(t *testing.T) {
	now := time.Now()
	queues := testQueues([]int{10, 10, 10, 10}, []int{1, 1, 1, 1})
	s := testSlots(10, queues)
	for _, q := range queues[:3] {
		q.pause.next = time.Second
	}
	looks := map[*queue]int{}
	wellBefore := true
	for range 60 {
		c := s.choose(now)
		q := c.queue
		require.Positive(t, c.slots)
		s.put(q, c.slots)
		looks[q]++
		well := q == queues[3]
		require.True(t, well || wellBefore, "two in trouble, one after the other")
		wellBefore = well
		now = now.Add(time.Millisecond)
		q.lastLook = now
	}
	assert.Equal(t, map[*queue]int{queues[0]: 10, queues[1]: 10, queues[2]: 10, queues[3]: 30}, looks)
}

// Of two answers for one job in one batch one may be stale: that of the older attempt, and the other counts.
func TestTwoAnswersForOneJob(t *testing.T) {
	c := newCompleter(nil, slog.New(slog.DiscardHandler))
	stats := new(queueStats)
	older, newer := &attempt{jobID: 1, receipt: 1, stats: stats}, &attempt{jobID: 1, receipt: 2, stats: stats}
	c.acknowledge(t.Context(), []answer{{attempt: older}, {attempt: newer}}, []int64{1})
	assert.Equal(t, QueueStats{Completed: 1, Stale: 1}, stats.read(""))
	assert.Equal(t, 1, c.stale)
}

// Stale answers are logged once a minute, however many batches have some, and a few of them by their ids.
func TestManyStaleAnswers(t *testing.T) {
	var log bytes.Buffer
	c := newCompleter(nil, slog.New(slog.NewTextHandler(&log, nil)))
	for i := range int64(10) {
		a := &attempt{jobID: i, receipt: i, stats: new(queueStats)}
		c.acknowledge(t.Context(), []answer{{attempt: a}}, []int64{i})
	}
	assert.Equal(t, 10, c.stale)
	assert.Equal(t, 1, strings.Count(log.String(), "answers were stale"))
	log.Reset()
	c.warnings = new(warnings)
	many := testAnswers(new(queueStats), flushSize)
	c.acknowledge(t.Context(), many, jobIDsOf(many))
	assert.Contains(t, log.String(), `jobs=500 job_ids="[1 2 3 4 5 6 7 8 9 10]"`)
}

func TestIsTemporary(t *testing.T) {
	for code, want := range map[string]bool{
		"": false, "08006": true, "40001": true, "53300": true, "55P03": true, "57P01": true, "25006": true, "25001": false,
		"28P01": false, "3D000": false, "42501": false,
	} {
		assert.Equal(t, want, isTemporary(&pgconn.PgError{Code: code}), code)
	}
	assert.True(t, isTemporary(io.ErrUnexpectedEOF))
}

// Whatever has happened before: who is chosen may take at least one, no queue gets more than its slots, and none that
// lacks most is passed over; when none is chosen there is nothing to do before next.
func TestChoose(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	now := time.Now()
	for range 100_000 {
		total := 1 + random.IntN(20)
		var queues []*queue
		s := testSlots(total, nil)
		for range 1 + random.IntN(5) {
			q := &queue{QueueConfig: QueueConfig{Slots: 1 + random.IntN(total), Weight: 1 + random.IntN(10)}}
			if random.IntN(3) == 0 {
				q.nextLook = now.Add(time.Duration(1 + random.IntN(100)))
			}
			s.take(q, min(random.IntN(q.Slots+1), s.free))
			queues = append(queues, q)
		}
		s.queues = queues
		c := s.choose(now)
		chosen, n, next := c.queue, c.slots, c.next
		if chosen != nil {
			require.Zero(t, c.ahead)
			s.put(chosen, n)
		}
		var able []*queue
		for _, q := range queues {
			if s.free > 0 && q.running < q.Slots {
				if now.Before(q.nextLook) {
					require.True(t, chosen != nil || !next.After(q.nextLook))
					continue
				}
				able = append(able, q)
			}
		}
		if len(able) == 0 {
			require.Nil(t, chosen)
			continue
		}
		require.Contains(t, able, chosen)
		require.Positive(t, n)
		require.LessOrEqual(t, n, s.free)
		require.LessOrEqual(t, chosen.running+n, chosen.Slots)
		for _, q := range able {
			require.LessOrEqual(t, chosen.running*q.Weight, q.running*chosen.Weight)
		}
	}
}

// While answers can't be sent, the worker claims from a queue of which few wait, however many of its jobs run, and not
// from one of which many wait and that has a thousand jobs.
func TestClaimsWhileAnswersWait(t *testing.T) {
	now := time.Now()
	queues := testQueues([]int{2000, 2000, 2000}, []int{1, 1, 1})
	s := testSlots(6000, queues)
	s.behind.Store(true)
	s.take(queues[0], 1500)
	queues[0].waiting.Store(10)
	queues[1].waiting.Store(maxHeld - 10)
	s.take(queues[2], 1500)
	queues[2].waiting.Store(maxHeld / 2)
	fill(s, now)
	assert.Equal(t, []int{2000, 10, 1500}, runningOf(queues))
	for _, q := range queues { // it looks again in a moment, or sooner, when a queue is due to be looked at
		q.nextLook = now.Add(time.Hour)
	}
	queues[2].nextLook = now
	c := s.choose(now)
	assert.Nil(t, c.queue)
	assert.Equal(t, now.Add(firstPause), c.next)
	queues[0].nextLook = now.Add(firstPause / 2)
	assert.Equal(t, queues[0].nextLook, s.choose(now).next)
	for _, q := range queues {
		q.nextLook = now
	}
	s.behind.Store(false)
	fill(s, now)
	assert.Equal(t, []int{2000, 2000, 2000}, runningOf(queues))
}
