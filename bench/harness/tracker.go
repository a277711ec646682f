package harness

import (
	"sync"
	"sync/atomic"

	"github.com/awa-pg/awa/bench/systems"
)

// Tracker numbers the jobs of a run, and knows which of them were enqueued and which were acknowledged.
type Tracker struct {
	next     atomic.Int64
	enqueued atomic.Int64 // confirmed
	unsure   atomic.Int64 // whose enqueue has failed, so that they may be there or not

	mu        sync.Mutex
	ended     []uint64 // a bit for each job
	completed int64    // different jobs
	doubled   int64    // acknowledged again
	endToEnd  *Histogram
	pickUp    *Histogram
}

// NewTracker returns a tracker of no jobs.
func NewTracker() *Tracker { return &Tracker{endToEnd: &Histogram{}, pickUp: &Histogram{}} }

// Take returns the first of n new numbers.
func (t *Tracker) Take(n int) int64 { return t.next.Add(int64(n)) - int64(n) }

// Enqueued notes that an enqueue was confirmed, or that it has failed.
func (t *Tracker) Enqueued(n int, err error) {
	if err != nil {
		t.unsure.Add(int64(n))
		return
	}
	t.enqueued.Add(int64(n))
}

// Done notes acknowledged jobs.
func (t *Tracker) Done(done []systems.Done) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range done {
		word, bit := d.N/64, uint64(1)<<(d.N%64)
		if grow := int(word) + 1 - len(t.ended); grow > 0 {
			t.ended = append(t.ended, make([]uint64, grow+len(t.ended)/2)...)
		}
		if t.ended[word]&bit != 0 {
			t.doubled++
			continue
		}
		t.ended[word] |= bit
		t.completed++
		t.endToEnd.Add(d.Ended - d.At)
		if d.Picked > 0 {
			t.pickUp.Add(d.Picked - d.At)
		}
	}
}

// Tally is what a tracker knows at a moment.
type Tally struct{ Enqueued, Completed, Doubled, Unsure int64 }

// Depth is the number of jobs on their way.
func (t Tally) Depth() int64 { return t.Enqueued - t.Completed }

// Tally returns what is known now.
func (t *Tracker) Tally() Tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Tally{t.enqueued.Load(), t.completed, t.doubled, t.unsure.Load()}
}

// Depth is the number of jobs on their way.
func (t *Tracker) Depth() int64 { return t.Tally().Depth() }

// Latencies returns those of the jobs that have ended since the last call.
func (t *Tracker) Latencies() (endToEnd, pickUp *Histogram) {
	t.mu.Lock()
	defer t.mu.Unlock()
	endToEnd, pickUp = t.endToEnd, t.pickUp
	t.endToEnd, t.pickUp = &Histogram{}, &Histogram{}
	return endToEnd, pickUp
}
