package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// maxHeld is how many answers may wait that can't be sent, beside those in the channel.
	maxHeld = 2 * flushSize
	// maxParcel bounds what is sent at once, in bytes of outputs and failures.
	maxParcel = 4 << 20
	minParcel = 64 << 10

	// maxProbes is how many answers are sent alone, in a row and in vain, until the trouble is taken for one of them all.
	maxProbes = 10
	// maxRefusals is how often an answer is refused alone, although others pass, until it is given up as it is.
	maxRefusals = 4
	// maxSuspects is how many answers are sent again alone before the others have their turn.
	maxSuspects = 4

	// How long an answer may wait for a lock that another session holds: the first time, and when it is known that there
	// is such a one.
	firstLockWait = time.Second
	nextLockWait  = 50 * time.Millisecond
)

// refusalPatience is for how long answers of one kind are sent again that are all refused, for a reason that does not
// pass by itself. A variable for the sake of tests.
var refusalPatience = time.Minute

// refusalDelay is in how long an attempt is followed by the next one when it fails because all answers are refused: the
// queue's backoff, often of seconds, would use up all attempts in one such trouble.
const refusalDelay = time.Minute

// blindPutOff is for how long a job is put off whose failure is refused, and of which the server does not even store
// that.
const blindPutOff = time.Hour

// refusal is what is known of an answer that was refused when it was sent alone.
type refusal struct {
	times  int
	first  time.Time // when it was refused alone first
	passed int       // how many parcels of its outbox had passed then
	due    time.Time
	pause  backoff
	long   time.Duration // the last pause after nothing at all was taken for its attempt
	mute   time.Time     // when that was first
}

// longer returns the pause after nothing at all was taken for an attempt: 5 s, then twice as long each time, up to an
// hour.
func (r *refusal) longer() time.Duration {
	r.long = min(max(2*r.long, maxPause), time.Hour)
	return r.long
}

// outbox holds the answers of one kind that the server has not taken yet.
//
// They are sent together, as a parcel. When that is refused, for whatever reason, the next parcel is smaller, down to
// one answer.
// So a single answer is found that is refused by itself: while others pass it is a suspect, and sent alone from then
// on, at times of its own. When none passes the trouble is one of them all: they are kept, and tried again after a
// pause.
type outbox struct {
	send     sendFunc
	fresh    []answer // to be sent together
	tried    []answer // refused alone, and nothing has passed since
	suspects []answer // refused alone, although others pass

	passed  int       // how many parcels have passed
	refused int       // how often an answer was refused alone since
	ill     time.Time // when the first of them was
	probes  int       // how many of them were since the last rest
	due     time.Time // when to try again, after nothing has passed
	pause   backoff
	most    int  // how many answers to send at once, and
	bytes   int  // how many bytes; 0 for as many as there may be
	slow    bool // a parcel took too long, or too much memory: the size grows slowly
}

func (o *outbox) len() int { return len(o.fresh) + len(o.tried) + len(o.suspects) }

// put adds an answer. If the trouble is one of all, the new one is tried soon.
func (o *outbox) put(a answer) {
	a.since = time.Now()
	o.fresh = append(o.fresh, a)
	if soon := a.since.Add(firstPause); soon.Before(o.due) {
		o.due = soon
	}
}

// next returns when there is something to be sent, if there is anything.
func (o *outbox) next() (due time.Time, ok bool) {
	if len(o.fresh)+len(o.tried) > 0 {
		due, ok = o.due, true
	}
	for _, a := range o.suspects {
		if !ok || a.refusal.due.Before(due) {
			due, ok = a.refusal.due, true
		}
	}
	return due, ok
}

// parcel returns how many answers to send at once.
func (o *outbox) parcel() int {
	most, bytes := flushSize, maxParcel
	if o.most > 0 {
		most = o.most
	}
	if o.bytes > 0 {
		bytes = o.bytes
	}
	n := 0
	for n < len(o.fresh) && n < most {
		bytes -= o.fresh[n].size()
		if bytes < 0 && n > 0 {
			break
		}
		n++
	}
	return n
}

// took takes note that the server has taken answers: whatever was refused alone before has only itself to blame.
func (o *outbox) took() {
	o.passed++
	o.refused, o.ill, o.probes, o.due = 0, time.Time{}, 0, time.Time{}
	o.pause.reset()
	o.fresh, o.tried = append(o.fresh, o.tried...), nil
	if o.most > 0 {
		if o.slow {
			o.most += o.most/8 + 1
		} else {
			o.most *= 2
		}
		if o.most >= flushSize {
			o.most, o.slow = 0, false
		}
	}
	if o.bytes > 0 {
		if o.bytes += o.bytes / 8; o.bytes >= maxParcel {
			o.bytes = 0
		}
	}
}

// shrink has the next parcels smaller than one that was refused.
func (o *outbox) shrink(refused []answer, err error) {
	var pg *pgconn.PgError
	isPg := errors.As(err, &pg)
	o.most = len(refused) / 2
	if !isPg || pg.Code == queryCanceled || strings.HasPrefix(pg.Code, "53") { // it took too long, or too much
		bytes := 0
		for _, a := range refused {
			bytes += a.size()
		}
		o.bytes, o.slow = max(bytes/2, minParcel), true
	}
	if !isPg {
		o.most = max(len(refused)/8, 1)
	}
}

// rest has nothing tried for a while.
func (o *outbox) rest() {
	o.probes = 0
	o.fresh, o.tried = append(o.fresh, o.tried...), nil
	// those that are tried next are others
	rand.Shuffle(len(o.fresh), func(i, j int) { o.fresh[i], o.fresh[j] = o.fresh[j], o.fresh[i] })
	o.due = time.Now().Add(o.pause.pause())
}

// sendFresh sends what is to be sent together.
func (c *completer) sendFresh(ctx context.Context, o *outbox, now time.Time) {
	if now.Before(o.due) {
		return
	}
	for len(o.fresh) > 0 {
		n := o.parcel()
		wait := firstLockWait
		if o.most > 0 {
			wait = nextLockWait
		}
		stale, err := c.try(ctx, o.fresh[:n], o.send, wait)
		switch {
		case err == nil:
			c.acknowledge(ctx, o.fresh[:n], stale)
			if o.fresh = o.fresh[n:]; len(o.fresh) == 0 {
				o.fresh = nil
			}
			o.took()
			c.well(ctx)
		case c.isUnreached(ctx, err):
			return
		case n > 1:
			o.shrink(o.fresh[:n], err)
		default:
			a := o.fresh[0]
			o.fresh = o.fresh[1:]
			c.refused(ctx, o, a, err)
			var pg *pgconn.PgError
			if o.probes >= maxProbes || o.probes > 2 && o.pause.next > 0 || o.probes > 0 && !errors.As(err, &pg) {
				o.rest()
				return
			}
		}
	}
	if len(o.tried) > 0 {
		o.rest()
	}
}

// sendSuspects sends some of those again that were refused alone although others pass.
func (c *completer) sendSuspects(ctx context.Context, o *outbox) {
	for range min(maxSuspects, len(o.suspects)) {
		a := o.suspects[0]
		o.suspects = o.suspects[1:]
		if time.Now().Before(a.refusal.due) {
			o.suspects = append(o.suspects, a)
			continue
		}
		stale, err := c.try(ctx, []answer{a}, o.send, nextLockWait)
		switch {
		case err == nil:
			c.acknowledge(ctx, []answer{a}, stale)
			o.passed++
			c.well(ctx)
		case c.isUnreached(ctx, err):
			o.suspects = append(o.suspects, a)
			return
		default:
			c.refused(ctx, o, a, err)
		}
	}
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

// refused deals with an answer that was sent alone, and refused.
func (c *completer) refused(ctx context.Context, o *outbox, a answer, err error) {
	now := time.Now()
	if a.refusal == nil {
		a.refusal = &refusal{passed: o.passed, first: now}
	}
	a.refusal.times++
	if o.refused++; o.refused == 1 {
		o.ill = now
	}
	othersPass := o.passed > a.refusal.passed
	var delay *time.Duration // the queue's backoff, if it is this answer's own fault
	if !othersPass && !c.isAboutTheAnswer(err) {
		delay = new(refusalDelay)
	}
	mayGiveUp := c.mayGiveUp(o, a, othersPass, err)
	if mayGiveUp && c.sendOtherwise(ctx, a, err, delay, othersPass) {
		return
	}
	if othersPass {
		const what = "an answer is refused, though others are taken: it is sent again"
		c.warnings.warn(ctx, c.log, slog.LevelWarn, what, what, keyJobID, a.jobID, keyError, mapError(err))
		if a.refusal.due = now.Add(a.refusal.pause.pause()); mayGiveUp {
			a.refusal.due = now.Add(a.refusal.longer())
		}
		o.suspects = append(o.suspects, a)
		return
	}
	c.trouble.report(ctx, err)
	o.tried = append(o.tried, a)
	o.probes++
}

// mayGiveUp says whether it makes no sense to send an answer again as it is.
func (c *completer) mayGiveUp(o *outbox, a answer, othersPass bool, err error) bool {
	var pg *pgconn.PgError
	switch {
	case c.isAboutTheAnswer(err):
		return true
	case errors.As(err, &pg) && isWait(pg): // another session holds the attempt: that ends some time
		return false
	case pg != nil && isAboutOthers(pg.Code): // when others pass for long, it is the answer, whatever the code says
		return othersPass && a.refusal.times >= maxRefusals && time.Since(a.refusal.first) >= refusalPatience
	case othersPass:
		return a.refusal.times >= maxRefusals
	}
	// None passes. The one that is given up first shows whether the server takes anything else. Each answer has the same
	// patience: those that come late, too.
	long := time.Since(o.ill) >= refusalPatience && time.Since(a.since) >= refusalPatience
	if isTemporary(err) && !hasCode(err, readOnly) {
		return c.mayBeTheAnswer(err) && o.refused >= maxRefusals && long
	}
	return o.refused >= maxRefusals && (c.ending || long)
}

// mayBeTheAnswer says whether an error that is most often over the next time may also be about a single answer: the
// connection does not carry it, or goes on, since it takes too long, or too much of the server, or a trigger raises it.
func (c *completer) mayBeTheAnswer(err error) bool {
	var pg *pgconn.PgError
	return !errors.As(err, &pg) || c.db.isOpen()
}

// sendOtherwise sends something in place of an answer that the server refuses: an output that is no jsonb, say, a delay
// that is negative, or a text that its encoding does not have. An attempt that fails although its handler did not say
// so is followed by
// the next one after the delay; nil for the queue's backoff. othersPass says whether others of its kind are taken. Says
// whether the server has taken anything.
func (c *completer) sendOtherwise(
	ctx context.Context, a answer, err error, delay *time.Duration, othersPass bool,
) bool {
	err = mapError(err)
	warn := func(level slog.Level, text string) {
		c.warnings.warn(ctx, c.log, level, text, text, keyJobID, a.jobID, keyError, err)
	}
	gone := false // the connection
	var refusal error
	try := func(a answer) bool {
		if gone {
			return false
		}
		stale, err := c.try(ctx, []answer{a}, c.of(a).send, nextLockWait)
		if err == nil {
			c.acknowledge(ctx, []answer{a}, stale)
		}
		gone = !c.db.isOpen()
		refusal = mapError(err)
		return err == nil
	}
	if other := a; asciiText(a.failure) != a.failure {
		other.failure = asciiText(a.failure)
		if try(other) {
			return true
		}
	}
	if what, ok := refusable[a.outcome]; ok && (a.outcome != failed || a.delay != nil) {
		what := "the " + what + " was refused"
		text := what + ": " + err.Error()
		if a.failure != "" {
			text += "; it was: " + a.failure
		}
		a.outcome, a.output, a.delay, a.failure = failed, nil, delay, cleanText(text)
		other := a
		other.failure = asciiText(a.failure)
		if try(a) || other.failure != a.failure && try(other) {
			warn(slog.LevelWarn, what+", so the attempt fails")
			return true
		}
		a.delay = nil // perhaps it is that which is refused
	}
	// nothing else can be said of an attempt that is given back, or put off
	if a.outcome != failed && a.outcome != committed {
		return false
	}
	failure := a.failure
	a.failure = fmt.Sprintf("the attempt failed, but the server refused to store why (SQLSTATE %s)", sqlState(err))
	if try(a) {
		warn(slog.LevelWarn, "the text of a failure was refused, so the attempt fails without it")
		return true
	}
	if refusal != nil {
		err = refusal
	}
	// So that the job is not held for as long as the worker lives: put off, with the reason if that is taken, or at
	// least snoozed.
	a.outcome, a.delay = postponed, nil
	putOff := cleanText(fmt.Sprintf("the failure was refused: %s; it was: %s", err, failure))
	for _, text := range []string{putOff, asciiText(putOff), "the server refuses to store how the attempt failed"} {
		if a.failure = text; try(a) {
			warn(slog.LevelError, "a failure was refused, so the job is put off")
			return true
		}
	}
	a.delay = new(blindPutOff)
	if try(a) {
		warn(slog.LevelError, "a failure was refused, so the job is put off, uncounted, without a word of that")
		return true
	}
	if gone {
		return false
	}
	// Nothing goes where jobs wait. When that lasts the job ends where history is, so that the attempt counts, and an
	// operator may retry it.
	err = refusal
	if a.refusal.mute.IsZero() {
		a.refusal.mute = time.Now()
	}
	var pg *pgconn.PgError
	isHeld := errors.As(err, &pg) && isWait(pg)
	if time.Since(a.refusal.mute) >= refusalPatience && !isHeld &&
		(othersPass || !isTemporary(err) || hasCode(err, readOnly)) {
		a.outcome, a.delay = discarded, nil
		discard := cleanText(fmt.Sprintf("the job was discarded, since the server refuses all that would have it run "+
			"again: %s; the failure was: %s", err, failure))
		for _, text := range []string{discard, asciiText(discard),
			"the job was discarded, since the server refuses all that would have it run again"} {
			if a.failure = text; try(a) {
				warn(slog.LevelError, "all that would have a job run again was refused, so it is discarded")
				return true
			}
		}
	}
	warn(slog.LevelError, "no answer is taken")
	return false
}

// asciiText returns a text that every server can store: what is not ASCII is written as Go does, as in \u2192.
func asciiText(s string) string {
	var text strings.Builder
	for _, r := range s {
		switch {
		case r < 0x80:
			text.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&text, `\u%04x`, r)
		default:
			fmt.Fprintf(&text, `\U%08x`, r)
		}
	}
	return cleanText(text.String())
}
