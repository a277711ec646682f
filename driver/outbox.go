package driver

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// maxHeld is how many jobs of a queue a worker has at most while answers can't be sent: then it claims no more.
	maxHeld = 2 * flushSize
	// maxParcel bounds what is sent at once, in bytes of outputs and failures.
	maxParcel = 4 << 20
	minParcel = 64 << 10

	// maxProbes is how many answers are sent alone, in a row and in vain, until the trouble is taken for one of them all.
	maxProbes = 10
	// maxRefusals is how often an answer is refused alone, although others pass, until it is given up as it is.
	maxRefusals = 4
	// maxAgain is for how long answers are sent again before the fresh ones have their turn.
	maxAgain = 50 * time.Millisecond

	// How long an answer may wait for a lock that another session holds: the first time, when there are others that were
	// refused, and when there are many of them.
	firstLockWait = time.Second
	nextLockWait  = 50 * time.Millisecond
	shortLockWait = 10 * time.Millisecond
)

// outbox holds the answers of one kind that the server has not taken yet.
//
// Fresh ones are sent together, as a parcel, as soon as they come. When that is refused, for whatever reason, it is set
// apart, and sent again later, in halves, down to one answer. So a single answer is found that is refused by itself: it
// is a suspect, and sent again at times of its own; and when one passes, more and more of them together. When nothing
// passes the trouble is one of them all, and after some probes the next ones are sent after a pause.
type outbox struct {
	send     sendFunc
	fresh    []answer // not sent yet
	apart    []part   // of parcels that were refused
	suspects []answer // refused alone

	size      sizer     // of parcels
	freshDue  time.Time // when to send them, after the connection was lost
	turn      int       // which of those that were refused are the next
	together  int       // how many suspects to send at once, if more than one
	isPassing bool      // the last suspect has passed: those that are not due may pass, too

	passed  int       // how many parcels have passed
	refused int       // how often an answer was refused alone since
	ill     time.Time // when the first of them was
	probes  int       // how many of them were since the last rest
	due     time.Time // when to send any of them again, after nothing has passed
	pause   backoff
	mute    time.Time // since when nothing at all is taken in place of an answer, but perhaps a discard
}

// part is a part of a refused parcel, after so many splits.
type part struct {
	answers []answer
	splits  int
}

// held is how many answers were refused, and are to be sent again.
func (o *outbox) held() int {
	n := len(o.suspects)
	for _, p := range o.apart {
		n += len(p.answers)
	}
	return n
}

func (o *outbox) len() int { return len(o.fresh) + o.held() }

func (o *outbox) put(a answer) {
	a.since = time.Now()
	o.fresh = append(o.fresh, a)
}

// next returns when there is something to be sent, if there is anything: a fresh one, or one that was refused.
func (o *outbox) next(resting time.Time) (due time.Time, ok bool) {
	if len(o.apart) > 0 {
		due, ok = o.due, true
	}
	for _, a := range o.suspects {
		if at := later(o.due, a.refusal.due); !ok || at.Before(due) {
			due, ok = at, true
		}
	}
	due = later(due, resting)
	if len(o.fresh) > 0 && (!ok || o.freshDue.Before(due)) {
		due, ok = o.freshDue, true
	}
	return due, ok
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// sizer says how many answers to send at once: fewer after a parcel that took too long, or too much memory.
type sizer struct {
	most  int // how many answers, and
	bytes int // how many bytes; 0 for as many as there may be
}

func (s *sizer) of(answers []answer) int {
	most, bytes := flushSize, maxParcel
	if s.most > 0 {
		most = s.most
	}
	if s.bytes > 0 {
		bytes = s.bytes
	}
	n := 0
	for n < len(answers) && n < most {
		bytes -= answers[n].size()
		if bytes < 0 && n > 0 {
			break
		}
		n++
	}
	return n
}

func (s *sizer) grow() {
	if s.most > 0 {
		if s.most += s.most/8 + 1; s.most >= flushSize {
			s.most = 0
		}
	}
	if s.bytes > 0 {
		if s.bytes += s.bytes / 8; s.bytes >= maxParcel {
			s.bytes = 0
		}
	}
}

func (s *sizer) shrink(refused []answer, err error) {
	var pg *pgconn.PgError
	isPg := errors.As(err, &pg)
	if isPg && pg.Code != queryCanceled && !strings.HasPrefix(pg.Code, "53") {
		return
	}
	bytes := 0
	for _, a := range refused {
		bytes += a.size()
	}
	s.most, s.bytes = max(len(refused)/parts(err), 1), max(bytes/2, minParcel)
}

// parts returns the number of parts in which a parcel that failed with err is sent again.
func parts(err error) int {
	if _, ok := errors.AsType[*pgconn.PgError](err); !ok {
		return 8 // each try takes a new connection, or 20 s
	}
	return 2
}

// took takes note that the server has taken answers: an answer that was refused alone before is itself the cause.
func (o *outbox) took() {
	o.passed++
	o.refused, o.probes = 0, 0
	o.ill, o.due, o.mute = time.Time{}, time.Time{}, time.Time{}
	o.pause.reset()
}

// rest stops new tries of refused answers for a while.
func (o *outbox) rest() {
	o.probes = 0
	o.due = time.Now().Add(o.pause.pause())
}

// setApart takes a refused parcel of fresh answers: first in a part for each queue, since the cause lies most often
// with the jobs of one queue.
func (o *outbox) setApart(refused []answer, err error) {
	now := time.Now()
	var queues []*queueStats
	ofQueue := map[*queueStats][]answer{}
	for _, a := range byReceipt(refused) { // so those of a claim, which another session may hold, stay together
		a.refusal = &refusal{passed: o.passed, first: now}
		if ofQueue[a.stats] == nil {
			queues = append(queues, a.stats)
		}
		ofQueue[a.stats] = append(ofQueue[a.stats], a)
	}
	for _, q := range queues {
		if p := (part{answers: ofQueue[q]}); len(queues) > 1 {
			o.apart = append(o.apart, p)
		} else {
			o.split(p, err)
		}
	}
}

func (o *outbox) split(p part, err error) {
	n := len(p.answers)
	for answers := range slices.Chunk(p.answers, (n+parts(err)-1)/parts(err)) {
		o.apart = append(o.apart, part{answers, p.splits + 1})
	}
}

// again takes the answers to send again. It takes three kinds in turn: a part that was split seldom, so that good
// answers pass soon; a small part, so that the cause of the refusal is found; and suspects that are due, the oldest
// first.
func (o *outbox) again(now time.Time) (p part, areSuspects bool) {
	o.turn++
	if suspects := o.suspectsDue(now, o.turn%3 == 0 || len(o.apart) == 0); suspects != nil {
		return part{answers: suspects}, true
	}
	if len(o.apart) == 0 {
		return part{}, false
	}
	isBefore := func(p, other part) bool { return p.splits < other.splits }
	if o.turn%3 != 1 {
		isBefore = func(p, other part) bool { return len(p.answers) < len(other.answers) }
	}
	chosen := 0
	for i, p := range o.apart {
		if isBefore(p, o.apart[chosen]) {
			chosen = i
		}
	}
	p = o.apart[chosen]
	if n := o.size.of(p.answers); n < len(p.answers) {
		o.apart[chosen].answers = p.answers[n:]
		p.answers = p.answers[:n:n]
	} else {
		o.apart = slices.Delete(o.apart, chosen, chosen+1)
	}
	return p, false
}

func (o *outbox) suspectsDue(now time.Time, isTheirTurn bool) (parcel []answer) {
	if !isTheirTurn || len(o.suspects) == 0 {
		return nil
	}
	slices.SortStableFunc(o.suspects, func(a, b answer) int { return a.refusal.due.Compare(b.refusal.due) })
	if !o.isPassing && now.Before(o.suspects[0].refusal.due) {
		return nil
	}
	n := min(max(o.together, 1), len(o.suspects))
	parcel, o.suspects = slices.Clone(o.suspects[:n]), o.suspects[n:]
	return parcel
}

func (o *outbox) lockWait() time.Duration {
	if o.held() < maxProbes {
		return nextLockWait
	}
	return shortLockWait
}

// sendFresh sends answers that were not sent yet.
func (c *completer) sendFresh(ctx context.Context, o *outbox) {
	for len(o.fresh) > 0 && !time.Now().Before(later(o.freshDue, c.due)) {
		n := o.size.of(o.fresh)
		wait := firstLockWait
		if o.held() > 0 {
			wait = nextLockWait
		}
		stale, err := c.try(ctx, o.fresh[:n], o.send, wait)
		if err != nil && c.isUnreached(ctx, err) {
			return
		}
		parcel := o.fresh[:n]
		if o.fresh = o.fresh[n:]; len(o.fresh) == 0 {
			o.fresh = nil
		}
		switch {
		case err == nil:
			c.acknowledge(ctx, parcel, stale)
			o.took()
			o.size.grow()
			c.well(ctx)
			continue
		case n > 1:
			o.size.shrink(parcel, err)
			o.setApart(parcel, err)
		default:
			c.refused(ctx, o, parcel[0], err)
		}
		if !c.db.isOpen() {
			o.freshDue = time.Now().Add(firstPause)
		}
	}
}

// sendAgain sends answers again that were refused, for as long as no others come, or for a moment.
func (c *completer) sendAgain(ctx context.Context) {
	began := time.Now()
	if began.Before(c.resting) {
		return
	}
	for {
		isIdle := true
		for range c.all {
			c.turn++
			if !c.sendSomeAgain(ctx, c.all[c.turn%len(c.all)]) {
				continue
			}
			isIdle = false
			if took := time.Since(began); len(c.answers) > 0 {
				c.resting = time.Now().Add(took) // so the others have half of the time
				return
			} else if took > maxAgain {
				return
			}
		}
		if isIdle {
			return
		}
	}
}

// sendSomeAgain sends some answers of an outbox again, once. It returns false when none is due.
func (c *completer) sendSomeAgain(ctx context.Context, o *outbox) bool {
	now := time.Now()
	if now.Before(later(o.due, c.due)) {
		return false
	}
	wait := o.lockWait()
	p, areSuspects := o.again(now)
	parcel, n := p.answers, len(p.answers)
	if n == 0 {
		return false
	}
	stale, err := c.try(ctx, parcel, o.send, wait)
	isUnreached := err != nil && c.isUnreached(ctx, err)
	switch {
	case err == nil:
		c.acknowledge(ctx, parcel, stale)
		o.took()
		c.well(ctx)
	case (isUnreached || n > 1) && areSuspects:
		o.suspects = append(o.suspects, parcel...)
	case isUnreached:
		o.apart = append(o.apart, p)
	case n > 1:
		o.size.shrink(parcel, err)
		o.split(p, err)
	default:
		c.refused(ctx, o, parcel[0], err)
	}
	switch {
	case isUnreached:
	case !areSuspects && err == nil:
		o.size.grow()
	case !areSuspects:
	case err == nil:
		o.together, o.isPassing = min(2*n, flushSize), true
	default:
		o.together, o.isPassing = n/2, n > 1
	}
	_, isPg := errors.AsType[*pgconn.PgError](err)
	isOfAll := o.probes >= maxProbes || o.probes > 2 && o.pause.next > 0
	// Where the server itself is well, each answer is tried once: good answers may be in the refused parts.
	if isOfAll && (len(o.apart) == 0 || isTemporary(err)) || o.probes > 0 && err != nil && !isPg {
		o.rest()
	}
	return !isUnreached
}

// well takes note that the server takes answers.
func (c *completer) well(ctx context.Context) {
	c.pause.reset()
	c.trouble.report(ctx, nil)
}

// isUnreached says whether the trouble is with the way to the server, and if so, has it looked for later.
func (c *completer) isUnreached(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	if _, ok := errors.AsType[errUnreached](err); !ok {
		return false
	}
	c.trouble.report(ctx, err)
	c.due = time.Now().Add(c.pause.pause())
	return true
}
