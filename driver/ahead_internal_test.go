package driver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fast is a queue of which jobs are claimed ahead: 20,000 a second, by handlers that take less than a claim.
func fast(now time.Time, slots int) *queue {
	return &queue{QueueConfig: QueueConfig{Slots: slots, Weight: 1}, measuredAt: now, rate: 20_000, handler: 0.001,
		claim: 0.002}
}

// deliver has a queue's claim bring as many jobs as it was for.
func (s *slots) bring(c choice, now time.Time) {
	tasks := make([]*task, c.slots+c.ahead)
	for i := range tasks {
		tasks[i] = &task{attempt: attempt{queue: c.queue}, until: now.Add(aheadMost)}
	}
	s.deliver(c.queue, c.slots, tasks, now)
}

// As many jobs are claimed ahead as end within 25 ms, and none where that makes no sense, or must not be.
func TestHowManyAreClaimedAhead(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		change func(*slots, *queue)
		want   int
	}{
		"fast handlers":                   {func(*slots, *queue) {}, 500},
		"a limit":                         {func(s *slots, _ *queue) { s.most = 20 }, 20},
		"never":                           {func(s *slots, _ *queue) { s.most = 0 }, 0},
		"handlers that take a second":     {func(_ *slots, q *queue) { q.handler = 1 }, 0},
		"nothing measured":                {func(_ *slots, q *queue) { q.rate, q.handler, q.claim = 0, 0, 0 }, 0},
		"attempts with a deadline":        {func(_ *slots, q *queue) { q.hasLimit = true }, 0},
		"a job that can't be claimed":     {func(_ *slots, q *queue) { q.most = 10 }, 0},
		"a worker that is being stopped":  {func(s *slots, _ *queue) { s.stop() }, 0},
		"others of the worker wait":       {func(s *slots, _ *queue) { s.waiting = 800 }, 200},
		"a queue that has not been asked": {func(_ *slots, q *queue) { q.measuredAt, q.ended = now.Add(-time.Hour), 0 }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			q := fast(now, 10)
			s := testSlots(10, []*queue{q})
			c.change(s, q)
			got := s.choose(now)
			assert.Equal(t, q, got.queue)
			assert.Equal(t, 10, got.slots)
			assert.Equal(t, c.want, got.ahead)
		})
	}
}

// When no slot is free, jobs are claimed ahead, again when half of them are left.
func TestClaimAheadAgain(t *testing.T) {
	now := time.Now()
	q := fast(now, 10)
	s := testSlots(10, []*queue{q})
	s.bring(s.choose(now), now)
	assert.Equal(t, 500, len(q.ahead))
	assert.Equal(t, 10, q.running)
	assert.Nil(t, s.choose(now).queue)
	for range 249 {
		s.end(q, 0)
		q.ended = 0
	}
	assert.Equal(t, 10, q.running)
	assert.Nil(t, s.choose(now).queue)
	assert.Empty(t, s.freed)
	s.end(q, 0)
	assert.Len(t, s.freed, 1)
	c := s.choose(now)
	assert.Equal(t, q, c.queue)
	assert.Zero(t, c.slots)
	assert.Equal(t, 250, c.ahead)
}

// A job that has waited for too long is not started, but given back; so are all of a worker that is being stopped, and
// those of a queue that has a deadline now.
func TestJobsThatWaitTooLong(t *testing.T) {
	for name, change := range map[string]func(*slots, *queue, *time.Time){
		"too long":   func(_ *slots, _ *queue, now *time.Time) { *now = now.Add(aheadMost + 1) },
		"a stop":     func(s *slots, _ *queue, _ *time.Time) { s.stop() },
		"a deadline": func(_ *slots, q *queue, _ *time.Time) { q.hasLimit = true },
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			q := fast(now, 1)
			s := testSlots(1, []*queue{q})
			s.bring(s.choose(now), now)
			require.Empty(t, s.overdue(now))
			change(s, q, &now)
			if !q.hasLimit {
				s.put(q, 1)
				s.mu.Lock()
				s.fill(now)
				s.mu.Unlock()
				assert.Zero(t, q.running)
			}
			assert.Len(t, s.overdue(now), 500)
			assert.Zero(t, s.waiting)
			assert.Empty(t, q.ahead)
		})
	}
}

// No job waits for longer than the worker surely keeps it: a heartbeat is sent within each lease.
func TestWaitsUntil(t *testing.T) {
	now := time.Now()
	assert.Equal(t, now.Add(time.Second+aheadMost), waitsUntil(now, now.Add(time.Second), 10*time.Second))
	assert.Equal(t, now.Add(time.Second), waitsUntil(now, now.Add(2*time.Second), time.Second))
}

// A slot goes to the queue that has the least for its weight, whether jobs of it wait or it has to be asked: jobs that
// wait take no share from a queue that may have some.
func TestSharesOfQueuesWithJobsThatWait(t *testing.T) {
	now := time.Now()
	busy := fast(now, 4)
	other := &queue{QueueConfig: QueueConfig{Slots: 4, Weight: 1}, measuredAt: now, nextLook: now.Add(time.Hour)}
	s := testSlots(4, []*queue{busy, other})
	s.bring(s.choose(now), now)
	require.Equal(t, []int{4, 0}, runningOf(s.queues))

	other.nextLook = now // it was woken
	require.Nil(t, s.choose(now).queue)
	s.end(busy, 0)
	require.Equal(t, []int{3, 0}, runningOf(s.queues), "the slot is reserved for the other queue")
	require.Len(t, s.freed, 1)
	c := s.choose(now)
	require.Equal(t, choice{queue: other, slots: 1, next: c.next}, c)
	s.end(busy, 0)
	require.Equal(t, []int{3, 1}, runningOf(s.queues), "while the other queue is asked, jobs that wait are started")

	s.bring(c, now)
	require.Nil(t, s.choose(now).queue)
	s.end(busy, 0)
	require.Equal(t, []int{2, 1}, runningOf(s.queues))
	c = s.choose(now)
	require.Equal(t, choice{queue: other, slots: 1, next: c.next}, c)
}

// An attempt that was lost before its handler ran is not started.
func TestLostBeforeItBegins(t *testing.T) {
	r := &registration{open: map[*attempt]bool{}}
	a := &attempt{jobID: 1, receipt: 2, registration: r}
	require.True(t, r.opened(a))
	assert.True(t, r.lose(1, 2))
	assert.False(t, a.begins(func(error) {}))
	assert.Empty(t, r.open)

	require.True(t, r.opened(a))
	a.lost = false
	assert.Equal(t, 1, r.loseAll())
	assert.False(t, a.begins(func(error) {}))
	assert.False(t, r.opened(a))
}
