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
	// maxHeld is how many jobs of a queue a worker has at most while half as many of its answers wait, and can't be sent:
	// then it claims no more.
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

	// How long an answer may wait for a lock that another session holds, and for how long when there are many that were
	// refused.
	lockWait      = 50 * time.Millisecond
	shortLockWait = 3 * time.Millisecond
	manyHeld      = 10
	// heldFor is how long another session holds an answer until the log says so.
	heldFor = time.Second
	// heldPace is how often any of those that other sessions hold are sent again, when there are many: the server logs
	// each refusal.
	heldPace = 25 * time.Millisecond
)

// outbox holds the answers of one kind that the server has not taken yet.
//
// Fresh ones are sent together, as a parcel, as soon as they come. When that is refused, for whatever reason, it is set
// apart, and sent again later, in halves, down to one answer. So a single answer is found that is refused by itself: it
// is a suspect, and sent again at times of its own; and when one passes, more and more of them together. When nothing
// passes the trouble is one of them all, and after some probes the next ones are sent after a pause.
//
// While there are refused answers of a queue, its fresh ones are held back: they are sent in between, and without those
// of other queues, which would be refused, or wait, with them.
type outbox struct {
	send     sendFunc
	fresh    []answer   // not sent yet
	behind   [][]answer // not sent yet, either, and held back: by queue
	apart    [][]answer // parts of parcels that were refused, each of one queue
	suspects []answer   // refused alone

	size      sizer     // of fresh parcels
	againSize sizer     // of others
	freshDue  time.Time // when to send those that were not sent yet, after the connection was lost
	turn      source    // the kind that was sent last in between
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

// held is how many answers were refused, and are to be sent again.
func (o *outbox) held() int { return count(o.apart) + len(o.suspects) }

func (o *outbox) len() int { return len(o.fresh) + count(o.behind) + o.held() }

func count(parts [][]answer) (n int) {
	for _, part := range parts {
		n += len(part)
	}
	return n
}

func (o *outbox) put(a answer) {
	a.since = time.Now()
	o.fresh = append(o.fresh, a)
}

// next returns when there is something to be sent, if there is anything: a fresh one, or another one when resting is
// over.
func (o *outbox) next(resting time.Time) (due time.Time, ok bool) {
	if len(o.behind) > 0 {
		due, ok = o.freshDue, true
	}
	if len(o.apart) > 0 && (!ok || o.due.Before(due)) {
		due, ok = o.due, true
	}
	for _, a := range o.suspects {
		at := a.refusal.due
		if o.isPassing {
			at = time.Time{}
		}
		if at = later(o.due, at); !ok || at.Before(due) {
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
	s.most, s.bytes = max(len(refused)/partsOf(err), 1), max(bytes/2, minParcel)
}

// partsOf returns the number of parts in which a parcel that failed with err is sent again.
func partsOf(err error) int {
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

// setApart takes a refused parcel: first in a part for each queue, since the cause lies most often with the jobs of one
// queue, and then in smaller ones.
func (o *outbox) setApart(refused []answer, err error) {
	now := time.Now()
	var parts [][]answer
	ofQueue := map[*queueStats]int{}
	for _, a := range byReceipt(refused) { // so those of a claim, which another session may hold, stay together
		if a.refusal == nil {
			a.refusal = &refusal{passed: o.passed, first: now}
		}
		i, ok := ofQueue[a.stats]
		if !ok {
			i, parts = len(parts), append(parts, nil)
			ofQueue[a.stats] = i
		}
		parts[i] = append(parts[i], a)
	}
	if n := partsOf(err); len(parts) == 1 {
		parts = slices.Collect(slices.Chunk(parts[0], (len(refused)+n-1)/n))
	}
	for _, part := range parts {
		o.apart = append(o.apart, slices.Clone(part)) // none keeps the outputs of another one in memory
	}
}

// holdBack holds back fresh answers of queues of which others were refused, or are held back.
func (o *outbox) holdBack() {
	if len(o.behind) == 0 && o.held() == 0 {
		return
	}
	place := map[*queueStats]int{} // of a queue's in behind; -1 where none are there yet
	for _, part := range o.apart {
		place[part[0].stats] = -1
	}
	for _, a := range o.suspects {
		place[a.stats] = -1
	}
	for i, part := range o.behind {
		place[part[0].stats] = i
	}
	var others []answer
	for _, a := range o.fresh {
		switch i, ok := place[a.stats]; {
		case !ok:
			others = append(others, a)
		case i < 0:
			place[a.stats] = len(o.behind)
			o.behind = append(o.behind, []answer{a})
		default:
			o.behind[i] = append(o.behind[i], a)
		}
	}
	o.fresh = others
}

// parcel is what is sent in between, at once.
type parcel struct {
	answers []answer
	from    source
}

// source is a kind of answers that are sent in between. They have their turns in this order.
type source int

const (
	suspects      source = iota // that are due, the oldest first
	behind                      // those of a queue that are held back
	firstApart                  // the part that was set apart first, so that good answers pass soon
	smallestApart               // the smallest part, so that the cause of the refusal is found
	sources       = iota
)

// again takes the answers to send in between; none where none are due. While the outbox rests, only those that are held
// back have their turn: they were not sent yet.
func (o *outbox) again(now time.Time) (p parcel) {
	isDue := !now.Before(o.due)
	for range sources {
		o.turn = (o.turn + 1) % sources
		p.from = o.turn
		switch {
		case p.from == suspects && isDue:
			p.answers = o.suspectsDue(now)
		case p.from == behind && !now.Before(o.freshDue):
			p.answers = o.take(&o.behind, 0)
		case p.from == firstApart && isDue:
			p.answers = o.take(&o.apart, 0)
		case p.from == smallestApart && isDue:
			p.answers = o.take(&o.apart, smallest(o.apart))
		}
		if len(p.answers) > 0 {
			return p
		}
	}
	return parcel{}
}

// putBack puts answers that were not sent back to where they came from.
func (o *outbox) putBack(p parcel) {
	switch p.from {
	case suspects:
		o.suspects = append(o.suspects, p.answers...)
	case behind:
		isOfQueue := func(part []answer) bool { return part[0].stats == p.answers[0].stats }
		if i := slices.IndexFunc(o.behind, isOfQueue); i >= 0 {
			o.behind[i] = append(p.answers, o.behind[i]...)
		} else {
			o.behind = append(o.behind, p.answers)
		}
	default:
		o.apart = append(o.apart, p.answers)
	}
}

// cut takes the first n of some answers. The outputs of these are in memory for as long as they are sent, not as the
// others are there.
func cut(answers *[]answer, n int) (first []answer) {
	if n == len(*answers) {
		first, *answers = *answers, nil
		return first
	}
	first = slices.Clone((*answers)[:n])
	*answers = slices.Delete(*answers, 0, n)
	return first
}

// take takes a part, or as much of it as is sent at once; the rest goes to the end.
func (o *outbox) take(parts *[][]answer, i int) []answer {
	if len(*parts) == 0 {
		return nil
	}
	part := (*parts)[i]
	*parts = slices.Delete(*parts, i, i+1)
	first := cut(&part, o.againSize.of(part))
	if len(part) > 0 {
		*parts = append(*parts, part)
	}
	return first
}

func smallest(parts [][]answer) (chosen int) {
	for i, part := range parts {
		if len(part) < len(parts[chosen]) {
			chosen = i
		}
	}
	return chosen
}

func (o *outbox) suspectsDue(now time.Time) []answer {
	if len(o.suspects) == 0 {
		o.together, o.isPassing = 0, false
		return nil
	}
	slices.SortStableFunc(o.suspects, func(a, b answer) int { return a.refusal.due.Compare(b.refusal.due) })
	if !o.isPassing && now.Before(o.suspects[0].refusal.due) {
		return nil
	}
	return cut(&o.suspects, min(max(o.together, 1), o.againSize.of(o.suspects)))
}

func (o *outbox) lockWait() time.Duration {
	if o.held() < manyHeld {
		return lockWait
	}
	return shortLockWait
}

// sendFresh sends answers that were not sent yet, and are not held back. It says whether there were any.
func (c *completer) sendFresh(ctx context.Context, o *outbox) (sent bool) {
	for {
		o.holdBack()
		if len(o.fresh) == 0 || time.Now().Before(later(o.freshDue, c.due)) {
			return sent
		}
		n := o.size.of(o.fresh)
		stale, err := c.try(ctx, o.fresh[:n], o.send, lockWait)
		if err != nil && c.isUnreached(ctx, err) {
			return sent
		}
		sent = true
		parcel := cut(&o.fresh, n)
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

// sendAgain sends answers that were refused, or held back, for as long as no others come, or for a moment. Others says
// whether there were some right now: then they have half of the time.
func (c *completer) sendAgain(ctx context.Context, others bool) {
	began := time.Now()
	if others && began.Before(c.resting) {
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
				c.resting = time.Now().Add(took)
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

// sendSomeAgain sends some answers of an outbox that were refused, or held back. It returns false when none is due, or
// the server is not reached.
func (c *completer) sendSomeAgain(ctx context.Context, o *outbox) bool {
	now := time.Now()
	if now.Before(c.due) {
		return false
	}
	wait := o.lockWait()
	p := o.again(now)
	n := len(p.answers)
	if n == 0 {
		return false
	}
	stale, err := c.try(ctx, p.answers, o.send, wait)
	switch {
	case err == nil:
		c.acknowledge(ctx, p.answers, stale)
		o.took()
		o.againSize.grow()
		c.well(ctx)
	case c.isUnreached(ctx, err):
		o.putBack(p)
		return false
	case n == 1:
		c.refused(ctx, o, p.answers[0], err)
	case p.from == suspects:
		o.againSize.shrink(p.answers, err)
		o.putBack(p)
	default:
		o.againSize.shrink(p.answers, err)
		o.setApart(p.answers, err)
	}
	if p.from == suspects {
		o.together, o.isPassing = n/2, n > 1
		if err == nil {
			o.together, o.isPassing = min(2*n, flushSize), true
		}
	}
	if p.from == behind && !c.db.isOpen() {
		o.freshDue = time.Now().Add(firstPause)
	}
	if err != nil && o.isInTrouble(err) {
		o.rest()
	}
	return true
}

// isInTrouble says whether the trouble is one of all refused answers, so that they are sent again after a pause only.
func (o *outbox) isInTrouble(err error) bool {
	if _, isPg := errors.AsType[*pgconn.PgError](err); !isPg && o.probes > 0 {
		return true // each try takes a new connection, or 20 s
	}
	isOfAll := o.probes >= maxProbes || o.probes > 2 && o.pause.next > 0
	// Where the server itself is well, each answer is tried once: good answers may be in the refused parts.
	return isOfAll && (len(o.apart) == 0 || isTemporary(err))
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
