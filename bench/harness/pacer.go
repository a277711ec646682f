package harness

import (
	"context"
	"sync"
	"time"
)

// pacer tells producers when to enqueue.
type pacer struct {
	tracker *Tracker
	depth   int64

	mu     sync.Mutex
	rate   float64 // 0: as long as fewer jobs than depth are on their way
	since  time.Time
	issued int // since then
}

// setRate begins a new schedule.
func (p *pacer) setRate(rate float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.since, p.issued = rate, time.Now(), 0
}

// next waits until n jobs are to be enqueued, and returns when each of them is due: for all times of a schedule that
// have passed while producers were slow, the past. It returns false when the context ends.
func (p *pacer) next(ctx context.Context, n int) (due func(i int) time.Time, ok bool) {
	for ctx.Err() == nil {
		p.mu.Lock()
		if p.rate > 0 {
			first, since, rate := p.issued, p.since, p.rate
			p.issued += n
			p.mu.Unlock()
			due = func(i int) time.Time {
				return since.Add(time.Duration(float64(first+i) / rate * float64(time.Second)))
			}
			return due, sleep(ctx, time.Until(due(n-1)))
		}
		p.mu.Unlock()
		if p.tracker.Depth() < p.depth {
			now := time.Now()
			return func(int) time.Time { return now }, true
		}
		sleep(ctx, 500*time.Microsecond)
	}
	return nil, false
}
