package driver

import (
	"sync"
	"sync/atomic"
	"time"
)

// queue is one of the queues of a run.
type queue struct {
	QueueConfig
	stats *queueStats

	woken   atomic.Bool // something was enqueued
	running int         // slots that are taken; guarded by slots

	// Of the goroutine that claims.
	nextLook time.Time // when to look for jobs again
	lastLook time.Time
	distance time.Duration // from an empty look to the next one
	pause    backoff       // after an error that concerns this queue alone
	most     int           // how many jobs to ask for at most, while there is one that can't be claimed; 0 for no limit
	patient  bool          // the last claim took too long, but not because somebody had locked the queue
	link     link
	trouble  trouble
}

// slots counts the handlers that may be started. Only the goroutine that claims takes.
type slots struct {
	freed chan struct{} // some were put back

	mu       sync.Mutex
	total    int
	free     int
	troubled bool // the last choice was of a queue in trouble
}

func newSlots(n int) *slots { return &slots{freed: make(chan struct{}, 1), total: n, free: n} }

func (s *slots) take(q *queue, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free -= n
	q.running += n
}

func (s *slots) put(q *queue, n int) {
	s.mu.Lock()
	s.free += n
	q.running -= n
	s.mu.Unlock()
	signalTo(s.freed)
}

// choose returns the queue to claim from, and for how many slots; or nil, and when to look again if no slot is freed
// before.
//
// Of the queues that may have jobs, and may run more of them, it is the one that has taken the least of the slots for
// its weight, and it may take what it lacks to its share: weighted max-min fairness. A queue without jobs has no share,
// so the
// others may take all slots; it gets them back as those jobs end. After a queue that is in trouble, which may have
// taken a while, one that is not comes first.
func (s *slots) choose(queues []*queue, now time.Time) (chosen *queue, n int, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next = now.Add(time.Hour)
	if s.free == 0 {
		return nil, 0, next
	}
	var well, troubled []*queue
	for _, q := range queues {
		switch {
		case q.running >= q.Slots:
		case now.Before(q.nextLook):
			if q.nextLook.Before(next) {
				next = q.nextLook
			}
		case q.pause.next > 0:
			troubled = append(troubled, q)
		default:
			well = append(well, q)
		}
	}
	candidates := well
	if len(well) == 0 || len(troubled) > 0 && !s.troubled {
		candidates = troubled
	}
	if len(candidates) == 0 {
		return nil, 0, next
	}
	s.troubled = len(troubled) > 0 && candidates[0] == troubled[0]
	chosen = candidates[0]
	weights := 0
	for _, q := range candidates {
		weights += q.Weight
		if q.before(chosen) {
			chosen = q
		}
	}
	share := (s.total*chosen.Weight + weights - 1) / weights
	return chosen, min(s.free, chosen.Slots-chosen.running, share-chosen.running), now
}

// before says whether a queue has taken less of the slots than another one, for their weights, or waited longer.
func (q *queue) before(other *queue) bool {
	if mine, others := q.running*other.Weight, other.running*q.Weight; mine != others {
		return mine < others
	}
	return q.lastLook.Before(other.lastLook)
}
