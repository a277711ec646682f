package driver

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// refusalPatience is for how long answers of one kind are sent again that are all refused, for a reason that does not
// pass by itself. A variable for the sake of tests.
var refusalPatience = time.Minute

const (
	// maxRefusals is how often an answer is refused alone for one reason, although others pass, until it is given up as
	// it is.
	maxRefusals = 4
	// passingFor is for how long others count as taken after the last of them was.
	passingFor = time.Minute
	// refusalDelay is in how long an attempt is followed by the next one when it fails because all answers are refused:
	// the queue's backoff, often of seconds, would use up all attempts in one such trouble.
	refusalDelay = time.Minute

	// heldFor is how long another session holds an answer until the log says so.
	heldFor = time.Second
	// heldPace is how often any of those that other sessions hold are sent again, when there are many: the server logs
	// each refusal.
	heldPace = 25 * time.Millisecond
	// endPause is the longest pause of an answer when the worker ends.
	endPause = time.Second
)

// refusal is the history of an answer that was refused.
type refusal struct {
	first  time.Time      // when it was refused first, perhaps with others
	last   time.Time      // when it was refused last, alone
	passed [reasons]tally // for each reason, of those alone: how often others had passed since the time before
	due    time.Time      // when to send it again
	pause  backoff

	// Of one that is given up:
	why   error          // it was refused, and so given up; nil for one that is not
	delay *time.Duration // until the next attempt, if it fails for that; nil for the queue's backoff
	stage int            // of what is sent in its place; 0 before the first
	left  []substitute   // of this stage
	said  error          // why the last one of all these was refused; nil before
	mute  time.Time      // when nothing at all was taken first
	long  time.Duration  // the last pause after that
}

// lastError is why the last thing was refused that was sent for the attempt.
func (r *refusal) lastError() error {
	if r.said != nil {
		return r.said
	}
	return r.why
}

// reason is what a refusal is about, as far as the error says.
type reason int

const (
	ofAnswer     reason = iota // what the answer says: it will be the same the next time
	ofLock                     // another session holds the attempt, and ends some time
	ofOthers                   // what others do at the same time
	ofServer                   // the server can't do it just now, though the connection goes on
	ofConnection               // the connection was lost without a word, or the server was silent for too long
	ofSession                  // the server has ended the connection
	ofOwner                    // anything else: a privilege, a constraint, a trigger, functions that are being replaced
	reasons      = iota
)

// tally counts refusals for one reason. Those for another one say nothing of it: after an outage, or a long lock, the
// first error of a trigger is the first.
type tally struct {
	since time.Time // when it was the reason first
	times int
}

func (t *tally) begin(now time.Time) {
	if t.since.IsZero() {
		t.since = now
	}
}

func (c *completer) reasonOf(err error) reason {
	pg, isPg := errors.AsType[*pgconn.PgError](err)
	hasClass := func(class string) bool { return strings.HasPrefix(pg.Code, class) }
	switch {
	case !isPg && c.db.isOpen(): // it could not be encoded
		return ofAnswer
	// data: an argument that is out of range, an output that is no jsonb; limits of the server; Awa
	case isPg && slices.ContainsFunc([]string{"22", "54", "JQ"}, hasClass):
		return ofAnswer
	case isPg && isWait(pg):
		return ofLock
	case isPg && isAboutOthers(pg.Code):
		return ofOthers
	case !isTemporary(err) || hasCode(err, readOnly): // a server that is read-only itself is not reached
		return ofOwner
	case !isPg:
		return ofConnection
	case !c.db.isOpen():
		return ofSession
	}
	return ofServer
}

// isGivenUp says whether it makes no sense to send an answer again as it is:
//
//	the refusal is about   while others of its kind are taken   while none is
//	ofAnswer               at once                              at once
//	ofLock                 never                                never
//	ofOthers               after 4 refusals, and a minute       never
//	ofServer               after 4 refusals, and 10 seconds     after 4 refusals, and a minute
//	ofConnection           the same                             the same
//	ofSession              the same                             never
//	ofOwner                after 4 refusals                     after 4 refusals, and a minute
//
// When the worker ends there is no time for the 10 seconds, nor for the minute of ofOwner.
//
// Only refusals for the same reason count, and while others are taken only those between which others have passed: so
// no trouble of all is taken for one of this answer, whatever has passed before it began. While none is taken, the one
// that is given up first shows whether the server takes anything else. Each answer has a minute of its own then, also
// one that comes late.
func (c *completer) isGivenUp(o *outbox, a answer, of reason) bool {
	now := time.Now()
	lasts := func(since time.Time, patience time.Duration) bool { return now.Sub(since) >= patience }
	own, all := a.refusal.passed[of], o.nonePassed[of]
	isSingledOut, isRefusedWithAll := own.times >= maxRefusals, all.times >= maxRefusals
	isLongOfAll := lasts(all.since, refusalPatience) && lasts(a.since, refusalPatience)
	isBrief := !lasts(own.since, refusalPatience/6) && !c.ending
	switch of {
	case ofAnswer:
		return true
	case ofLock:
		return false
	case ofOthers:
		return isSingledOut && lasts(own.since, refusalPatience)
	case ofServer, ofConnection:
		return isSingledOut && !isBrief || isRefusedWithAll && isLongOfAll
	case ofSession:
		return isSingledOut && !isBrief
	default:
		return isSingledOut || isRefusedWithAll && (isLongOfAll || c.ending)
	}
}

// refused deals with an answer that was sent alone, and refused: it is sent again later, or something else in its
// place.
func (c *completer) refused(ctx context.Context, o *outbox, a answer, err error) {
	now := time.Now()
	of := c.reasonOf(err)
	o.noteRefusal(&a, of, now)
	r := a.refusal
	r.why, r.said, r.delay, r.stage, r.left = nil, nil, nil, 0, nil
	if !c.isGivenUp(o, a, of) {
		c.sendLater(ctx, o, a, of == ofLock, err)
		return
	}
	r.why = mapError(err)
	if of != ofAnswer && r.passed[of].times < maxRefusals {
		r.delay = new(refusalDelay)
	}
	o.givenUp = append(o.givenUp, a)
}

// noteRefusal takes note of the refusal of an answer that was sent alone. A wait for a lock says nothing of the answer.
func (o *outbox) noteRefusal(a *answer, of reason, now time.Time) {
	if a.refusal == nil {
		a.refusal = &refusal{first: now, last: now}
	}
	r := a.refusal
	own, all := &r.passed[of], &o.nonePassed[of]
	own.begin(now)
	all.begin(now)
	all.times++
	if of != ofLock && o.passedAt.After(r.last) {
		own.times++
	}
	r.last = now
}

// othersPass says whether others of a refused answer's kind are taken: some were since it was refused first, and not
// long ago.
func (o *outbox) othersPass(r *refusal, now time.Time) bool {
	return o.passedAt.After(r.first) && now.Sub(o.passedAt) < passingFor
}

// sendLater puts an answer among those that are sent again, and says so. It is held by another session, or refused.
// Where others pass, it has a pause of its own. Where none does it is sent at once, and once some were in vain, the
// outbox has a pause.
func (c *completer) sendLater(ctx context.Context, o *outbox, a answer, isHeld bool, err error) {
	now := time.Now()
	r := a.refusal
	othersPass := o.othersPass(r, now)
	var wait time.Duration
	switch {
	case isHeld:
		wait = r.pause.pause() + time.Duration(len(o.suspects))*heldPace
	case !othersPass:
		o.probes++
	case r.why != nil: // nothing was taken in its place, either
		wait = r.longer()
	default:
		wait = r.pause.pause()
	}
	r.due = now.Add(c.bounded(wait))
	o.suspects = append(o.suspects, a)
	switch {
	case isHeld && now.Sub(r.first) < heldFor: // most often that is all
	case othersPass:
		const what = "an answer is refused, though others are taken: it is sent again"
		c.warnings.warn(ctx, c.log, slog.LevelWarn, what, what, keyJobID, a.jobID, keyError, mapError(err))
	default:
		c.trouble.report(ctx, err)
	}
}

// bounded returns a pause, or less of it when the worker ends.
func (c *completer) bounded(pause time.Duration) time.Duration {
	if c.ending {
		return min(pause, endPause)
	}
	return pause
}

// longer returns the pause after nothing at all was taken for an attempt: 5 s, then twice as long each time, up to an
// hour, but not past the time from when on its job may be discarded.
func (r *refusal) longer() time.Duration {
	r.long = min(max(2*r.long, maxPause), time.Hour)
	if left := refusalPatience - time.Since(r.mute); left > 0 {
		return min(r.long, left)
	}
	return r.long
}
