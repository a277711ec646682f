package driver

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// maxAgain is for how long answers are sent again before the fresh ones have their turn.
const maxAgain = 50 * time.Millisecond

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
		answers := cut(&o.fresh, n)
		switch {
		case err == nil:
			c.tookSome(ctx, o, answers, stale)
			o.size.grow()
			continue
		case n > 1:
			o.size.shrink(answers, err)
			o.setApart(answers, err)
		default:
			c.refused(ctx, o, answers[0], err)
		}
		if !c.db.isOpen() {
			o.freshDue = time.Now().Add(firstPause)
			o.lostConnection()
		}
	}
}

// tookSome takes note that the server has taken answers, but for those that were stale. When all were, nothing had to
// be written for them: that does not say that others would be taken.
func (c *completer) tookSome(ctx context.Context, o *outbox, answers []answer, stale []int64) {
	c.acknowledge(ctx, answers, stale)
	if len(stale) < len(answers) {
		o.took()
	}
	c.pause.reset()
	c.trouble.report(ctx, nil)
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
	if p.from == givenUp {
		return c.sendInPlace(ctx, o, p.answers[0])
	}
	stale, err := c.try(ctx, p.answers, o.send, wait)
	switch {
	case err == nil:
		c.tookSome(ctx, o, p.answers, stale)
		o.againSize.grow()
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
		o.noteSuspects(n, err)
	}
	if p.from == behind && !c.db.isOpen() {
		o.freshDue = time.Now().Add(firstPause)
	}
	if !c.db.isOpen() {
		o.lostConnection()
	}
	if err != nil && o.isInTrouble(err) {
		c.rest(o)
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

// rest stops new tries of an outbox's refused answers for a while.
func (c *completer) rest(o *outbox) {
	o.probes = 0
	o.due = time.Now().Add(c.bounded(o.pause.pause()))
}

// isUnreached says whether the trouble is with the way to the server, and if so, has it looked for later. What was
// refused before says nothing of what is refused after that.
func (c *completer) isUnreached(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	if _, ok := errors.AsType[errUnreached](err); !ok {
		return false
	}
	c.trouble.report(ctx, err)
	c.due = time.Now().Add(c.bounded(c.pause.pause()))
	for _, o := range c.all {
		o.beginAnew()
	}
	return true
}
