package driver

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// aheadFor is how much is claimed ahead: what ends within this time at the measured rate.
	aheadFor = 25 * time.Millisecond
	// rateFor is the time over which is averaged, about.
	rateFor = 50 * time.Millisecond
)

// Variables for the sake of tests.
var (
	// aheadMost is for how long a job waits for a slot until it is given back. It is more than aheadFor, so that a
	// worker that becomes slower for a moment keeps its jobs.
	aheadMost = 50 * time.Millisecond
	// wantAhead returns how many jobs of a queue should wait for a slot.
	wantAhead = func(q *queue) int {
		if q.handler >= q.claim {
			return 0
		}
		return int(float64(q.rate) * aheadFor.Seconds())
	}
)

// queue is one of the queues of a run.
type queue struct {
	QueueConfig
	stats *queueStats

	woken    atomic.Bool  // something was enqueued
	waiting  atomic.Int64 // answers that are not sent
	answered atomic.Bool  // some were taken: they may have given back slots of a limit

	// Guarded by slots.
	running  int     // slots that are taken
	ahead    []*task // jobs that wait for a slot, the oldest first
	want     int     // how many of them there should be
	due      bool    // it may have jobs that are not claimed, and no claim is under way
	lastLook time.Time
	ended    int           // jobs since the last measurement
	busy     time.Duration // of their handlers

	// Of the goroutine that claims.
	nextLook   time.Time // when to look for jobs again
	opens      time.Time // when something may begin that may not yet; the zero time when that is not known
	askAt      time.Time // when to ask for that again
	measuredAt time.Time
	rate       average       // of ended jobs, per second
	handler    average       // what a handler takes, in seconds
	claim      average       // what a claim takes, in seconds
	hasLimit   bool          // its attempts have a deadline, so that none may wait
	distance   time.Duration // from an empty look to the next one
	pause      backoff       // after an error that concerns this queue alone
	most       int           // how many jobs to ask for at most, while there is one that can't be claimed; 0 for no limit
	sideBySide time.Time     // when jobs of one group were seen to run side by side
	patient    bool          // the last claim took too long, but not because another session had locked the queue
	link       link
	trouble    trouble
}

// task is a claimed job on its way to a handler.
type task struct {
	attempt
	job   *RawJob
	after []<-chan struct{} // it is held back until all of these are closed
	err   error             // why it can't be decoded
	until time.Time         // after that it is not started, but given back
}

// waitsUntil returns until when a job may wait for a slot, when the claim began and has ended. Heartbeats are sent
// within each lease, so it is the worker's at least until then.
func waitsUntil(began, ended time.Time, heartbeatEvery time.Duration) time.Time {
	until := ended.Add(aheadMost)
	if beat := began.Add(heartbeatEvery); beat.Before(until) {
		return beat
	}
	return until
}

// average is a mean over the last rateFor, about.
type average float64

// add takes note of a value that held for a time.
func (a *average) add(value float64, length time.Duration) {
	weight := 1.0
	if *a != 0 {
		weight = 1 - math.Exp(-float64(length)/float64(rateFor))
	}
	*a += average((value - float64(*a)) * weight)
}

// slots counts the handlers that may be started, and has the jobs that wait for one. Only the goroutine that claims
// takes slots for jobs that are not claimed yet.
type slots struct {
	freed  chan struct{} // a slot is free, or there is room for jobs
	behind atomic.Bool   // there are answers that can't be sent

	mu       sync.Mutex
	queues   []*queue
	total    int
	free     int
	most     int  // how many jobs may wait, of all queues
	waiting  int  // how many do
	troubled bool // the last choice was of a queue in trouble
	stopped  bool // what waits is not started any more

	ready  []*task     // that have a slot, and no goroutine yet
	run    func(*task) // has a new goroutine run a job, and then those that next returns
	closed bool        // no more of them will come
	idle   int         // goroutines that wait for one
	coming int         // goroutines that were woken for one
	wake   *sync.Cond  // of those that wait
}

func newSlots(n, ahead int, queues []*queue, run func(*task)) *slots {
	s := &slots{freed: make(chan struct{}, 1), queues: queues, total: n, free: n, most: ahead, run: run}
	s.wake = sync.NewCond(&s.mu)
	return s
}

// put gives back slots that were taken for jobs which did not come.
func (s *slots) put(q *queue, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free += n
	q.running -= n
}

// choice is the next claim.
type choice struct {
	queue *queue
	slots int       // for so many jobs there are slots, which are taken
	ahead int       // so many more may wait for one
	next  time.Time // when there is no queue: when to look again if nothing is freed before
}

// choose returns the next claim. Slots come first: of the queues that may have jobs, and may run more of them, it is
// the one that has taken the least of the slots for its weight, and it may take what it lacks to its share: weighted
// max-min fairness. A queue without jobs has no share, so the others may take all slots; it gets them back as those
// jobs end. After a queue that is in trouble, which may have taken a while, one that is not comes first. Where no slot
// is free, it is a queue of which fewer jobs wait than should.
func (s *slots) choose(now time.Time) (c choice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		if c.queue != nil {
			c.ahead = max(min(s.room(c.queue), s.mayHave(c.queue)), 0)
			c.queue.due = false
		}
		s.start()
	}()
	c.next = now.Add(time.Hour)
	for _, q := range s.queues {
		q.measure(now)
		if q.due = !now.Before(q.nextLook); !q.due && q.nextLook.Before(c.next) {
			c.next = q.nextLook
		}
		if q.due && s.mayHave(q) <= 0 {
			q.due = false
			if again := now.Add(firstPause); again.Before(c.next) {
				c.next = again
			}
		}
		if len(q.ahead) > 0 && q.ahead[0].until.Before(c.next) {
			c.next = q.ahead[0].until
		}
	}
	s.fill(now)
	var well, troubled []*queue
	for _, q := range s.queues {
		switch {
		case s.free == 0 || !q.due || q.running >= q.Slots || len(q.ahead) > 0:
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
		c.queue = s.emptiest()
		return c
	}
	s.troubled = len(troubled) > 0 && candidates[0] == troubled[0]
	chosen := candidates[0]
	weights := 0
	for _, q := range candidates {
		weights += q.Weight
		if q.before(chosen) {
			chosen = q
		}
	}
	share := (s.total*chosen.Weight + weights - 1) / weights
	c.queue = chosen
	c.slots = min(s.free, chosen.Slots-chosen.running, share-chosen.running, max(s.mayHave(chosen), 1))
	s.free -= c.slots
	chosen.running += c.slots
	return c
}

// mayHave returns how many more jobs of a queue the worker may have, lest it hold any number of answers that can't be
// sent. A queue of which only some wait goes on, whatever number of its jobs run.
func (s *slots) mayHave(q *queue) int {
	waiting := int(q.waiting.Load())
	if !s.behind.Load() || waiting < maxHeld/2 {
		return math.MaxInt
	}
	return maxHeld - waiting - q.running - len(q.ahead)
}

// emptiest returns the queue of which jobs should be claimed ahead, and that has waited longest; nil for none.
func (s *slots) emptiest() (chosen *queue) {
	for _, q := range s.queues {
		if q.due && q.pause.next == 0 && q.isLow() && s.room(q) > 0 && (chosen == nil || q.lastLook.Before(chosen.lastLook)) {
			chosen = q
		}
	}
	return chosen
}

func (q *queue) isLow() bool { return q.want > 0 && len(q.ahead) <= q.want/2 }

// room returns how many more jobs of a queue may wait.
func (s *slots) room(q *queue) int {
	if s.stopped {
		return 0
	}
	return max(min(q.want-len(q.ahead), s.most-s.waiting), 0)
}

// before says whether a queue has taken less of the slots than another one, for their weights, or waited longer.
func (q *queue) before(other *queue) bool {
	if mine, others := q.running*other.Weight, other.running*q.Weight; mine != others {
		return mine < others
	}
	return q.lastLook.Before(other.lastLook)
}

// measure finds out how many jobs should wait: none where handlers take longer than a claim, attempts have a deadline,
// or the queue is in trouble.
func (q *queue) measure(now time.Time) {
	if q.measuredAt.IsZero() {
		q.measuredAt = now
	}
	if since := now.Sub(q.measuredAt); since >= rateFor/5 {
		q.rate.add(float64(q.ended)/since.Seconds(), since)
		if q.ended > 0 {
			q.handler.add(q.busy.Seconds()/float64(q.ended), since)
		}
		q.ended, q.busy, q.measuredAt = 0, 0, now
	}
	q.want = 0
	if !q.hasLimit && q.most == 0 && q.pause.next == 0 {
		q.want = wantAhead(q)
	}
}

// fill gives free slots to jobs that wait, as long as no queue comes first that may have others.
func (s *slots) fill(now time.Time) {
	for s.free > 0 && s.waiting > 0 && !s.stopped {
		var chosen *queue
		for _, q := range s.queues {
			isOver := len(q.ahead) > 0 && now.After(q.ahead[0].until)
			if q.running < q.Slots && !isOver && (len(q.ahead) > 0 || q.due) && (chosen == nil || q.before(chosen)) {
				chosen = q
			}
		}
		if chosen == nil || len(chosen.ahead) == 0 {
			return
		}
		s.ready = append(s.ready, chosen.ahead[0])
		chosen.ahead[0] = nil
		chosen.ahead = chosen.ahead[1:]
		s.waiting--
		s.free--
		chosen.running++
	}
}

// deliver takes what a claim has brought: the first jobs have slots, the others wait.
func (s *slots) deliver(q *queue, slots int, tasks []*task, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q.lastLook = now
	n := min(slots, len(tasks))
	s.ready = append(s.ready, tasks[:n]...)
	s.free += slots - n
	q.running -= slots - n
	q.ahead = append(q.ahead, tasks[n:]...)
	s.waiting += len(tasks) - n
	s.start()
}

// overdue returns the jobs that have waited for too long, or must not wait, to be given back.
func (s *slots) overdue(now time.Time) (tasks []*task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.queues {
		n := 0
		for n < len(q.ahead) && (s.stopped || q.hasLimit || now.After(q.ahead[n].until)) {
			n++
		}
		tasks = append(tasks, q.ahead[:n]...)
		q.ahead = q.ahead[n:]
		s.waiting -= n
	}
	return tasks
}

// start finds goroutines for the jobs that are ready.
func (s *slots) start() {
	for len(s.ready) > s.coming {
		if s.idle > 0 {
			s.idle--
			s.coming++
			s.wake.Signal()
		} else {
			s.run(s.pop())
		}
	}
}

func (s *slots) pop() *task {
	if len(s.ready) == 0 {
		return nil
	}
	t := s.ready[0]
	s.ready[0] = nil
	s.ready = s.ready[1:]
	return t
}

// stop has no more jobs started that wait.
func (s *slots) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
}

// close has the goroutines end when nothing is ready.
func (s *slots) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.wake.Broadcast()
}

// end takes note of a job that has ended, after its handler had taken a while.
func (s *slots) end(q *queue, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(q, took)
	s.start()
}

// next is end, and returns the next job for the same goroutine; nil when there will be none.
func (s *slots) next(q *queue, took time.Duration) *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(q, took)
	for {
		if t := s.pop(); t != nil || s.closed {
			s.start()
			return t
		}
		s.idle++
		s.wake.Wait()
		if !s.closed {
			s.coming--
		}
	}
}

func (s *slots) note(q *queue, took time.Duration) {
	q.ended++
	q.busy += took
	q.running--
	s.free++
	s.fill(time.Now())
	if s.free > 0 || q.isLow() {
		signalTo(s.freed)
	}
}
