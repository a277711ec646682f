//go:build unix

package chaos

import (
	"fmt"
	"sync"
	"time"
)

// A queue of the load. Jobs have numbers of their own in their arguments, so that the book knows them also where the
// answer to an enqueue was lost.
type queue string

const (
	bulk   queue = "bulk"   // enqueue_many, complete_many
	orders queue = "orders" // one by one, in transactions that write something else, too
	worker queue = "worker" // the Go worker, in processes of its own
)

var queues = []queue{bulk, orders, worker}

// fate is what a client knows of a write.
type fate uint8

const (
	open    fate = iota // not sent, or under way
	refused             // it has no effect
	unknown             // it was sent, and no answer came
	learnt              // no answer came, and a later look has found it
	held                // it was acknowledged
	gone                // it was acknowledged, and the stand-by that took over had not got it
)

type job struct {
	queue    queue
	enqueued fate
	ended    fate // completed
	failed   bool // the last attempt was answered by a failure, so it comes again
	durable  bool // the last claim waited for the disk
	attempt  int32
	runs     int32
	id       int64
	claimed  time.Time
}

// claim is one job as a claim returned it.
type claim struct {
	n, id, receipt int64
	attempt        int32
}

// Why a job ran again though its attempt had not been answered by a failure.
const (
	forgotten = "the crash forgot the claim"          // the same attempt, and a crash since
	givenBack = "given back"                          // the same attempt
	leaseOver = "the lease was over"                  // a later attempt
	late      = "begun late, beside a later attempt"  // an earlier attempt: its worker was stopped
	takenBack = "the stand-by had not its completion" // completed, and that was lost in an asynchronous fail-over
)

// A book is what the clients know: each acknowledgement that they got, and each run.
type book struct {
	mu       sync.Mutex
	jobs     []job // by number, less 1
	again    map[string]int
	problems []string       // what must not be
	enqueued map[queue]int  // acknowledged, or learnt
	ended    map[queue]int  // acknowledged, or learnt
	unclear  map[int64]int  // enqueues of which nothing is known: their first numbers, and how many jobs they have
	byWorker []int64        // the jobs whose completions worker processes had acknowledged
	gone     map[string]int // acknowledged, and the stand-by that took over had not got it
	crashed  time.Time      // when the server was up again
	// When the latest call began that was acknowledged.
	lastEnqueue, lastEnd time.Time
	// Clients wait here before each call, while somebody looks whether the book and the server agree.
	gate sync.RWMutex
}

func newBook() *book {
	return &book{again: map[string]int{}, enqueued: map[queue]int{}, ended: map[queue]int{}, unclear: map[int64]int{},
		gone: map[string]int{}}
}

func (b *book) problem(format string, args ...any) {
	if len(b.problems) < 30 {
		b.problems = append(b.problems, fmt.Sprintf(format, args...))
	}
}

// offer gives numbers to so many jobs, and returns the first one.
func (b *book) offer(q queue, jobs int) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := int64(len(b.jobs)) + 1
	for range jobs {
		b.jobs = append(b.jobs, job{queue: q})
	}
	return first
}

// enqueue notes what became of an enqueue that began at a time.
func (b *book) enqueue(first int64, jobs int, f fate, began time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range jobs {
		b.jobs[first-1+int64(i)].enqueued = f
	}
	switch f {
	case unknown:
		b.unclear[first] = jobs
	case held:
		b.lastEnqueue = later(b.lastEnqueue, began)
		fallthrough
	case learnt:
		b.enqueued[b.jobs[first-1].queue] += jobs
	}
}

// run notes that somebody has claimed jobs and begins them.
func (b *book) run(claims []claim, durable bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for _, c := range claims {
		j := b.of(c.n)
		if j == nil {
			b.problem("job %d, number %d, was never enqueued", c.id, c.n)
			continue
		}
		switch {
		case j.enqueued == refused || j.enqueued == gone:
			b.problem("job %d, number %d, was not committed, and runs", c.id, c.n)
		case j.id != 0 && j.id != c.id:
			b.problem("number %d is job %d and job %d", c.n, j.id, c.id)
		case c.attempt < j.attempt:
			b.again[late]++
			continue
		case j.ended == held || j.ended == learnt:
			b.problem("job %d runs again, as attempt %d, after its completion was acknowledged", c.id, c.attempt)
		case j.ended == gone:
			b.again[takenBack]++
		case j.runs == 0 || j.failed:
		case c.attempt > j.attempt:
			b.again[fmt.Sprintf("%s (%s)", leaseOver, j.queue)]++
		case j.claimed.After(b.crashed):
			b.again[givenBack]++
		default:
			b.again[forgotten]++
			if j.durable {
				b.problem("job %d: its claim waited for the disk, and was forgotten", c.id)
			}
		}
		j.runs++
		j.id, j.attempt, j.failed, j.durable, j.claimed = c.id, c.attempt, false, durable, now
		if j.ended == gone {
			j.ended = open
		}
	}
}

func (b *book) of(n int64) *job {
	if n < 1 || n > int64(len(b.jobs)) {
		return nil
	}
	return &b.jobs[n-1]
}

// end notes what became of completions that were sent at a time.
func (b *book) end(numbers []int64, f fate, began time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range numbers {
		j := b.of(n)
		if j == nil {
			continue // run has said so
		}
		if f == held && j.ended == held {
			b.problem("job %d was completed twice", j.id)
		}
		if f >= learnt && j.ended < learnt {
			b.ended[j.queue]++
		}
		if f == held {
			b.lastEnd = later(b.lastEnd, began)
		}
		j.ended = max(j.ended, f)
		if f == held && j.queue == worker {
			b.byWorker = append(b.byWorker, n)
		}
	}
}

// onTheirWay says how many jobs of a queue were enqueued and have not ended, about.
func (b *book) onTheirWay(q queue) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.enqueued[q] - b.ended[q]
}

// fail notes that attempts were answered by a failure: they come again, as they should.
func (b *book) fail(numbers []int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range numbers {
		if j := b.of(n); j != nil {
			j.failed = true
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// began notes that a job was begun of whose completion nobody hears.
func (b *book) began(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.of(n); j != nil && j.runs == 1 {
		b.ended[j.queue]++
	}
}

// isUp notes that the server has crashed, and is up again: claims that did not wait for the disk may be forgotten.
func (b *book) isUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.crashed = time.Now()
}
