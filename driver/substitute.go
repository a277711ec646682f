package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// blindPutOff is for how long a job is put off whose failure is refused, and of which the server does not even store
// that.
const blindPutOff = time.Hour

// substitute is what is sent in place of an answer that the server refuses: an output that is no jsonb, say, a delay
// that is negative, or a text that its encoding does not have. Each says less than the one before, until one is taken:
//
//	failing     the answer, in ASCII; the attempt's failure, with the reason; that without delay and reason
//	puttingOff  the job is put off, counted, with the reason, or without; it is snoozed
//	discarding  the job is discarded, once nothing else is taken for a minute
//
// When none is taken, the answer itself has its turn again after a pause, and then only the last two stages.
type substitute struct {
	answer
	level   slog.Level
	message string // what the log says when it is taken; "" for nothing
	why     error  // the error in that
}

// The stages of what is sent in place of an answer.
const (
	failing = 1 + iota
	puttingOff
	discarding
)

// refusable names the part of an answer that the server may refuse.
var refusable = map[outcome]string{
	completed: "completion", failed: "retry delay", snoozed: "snooze", discarded: "discard", cancelled: "cancellation",
}

// sendInPlace sends the next thing in place of an answer: one each time, since others have their turns in between. It
// returns false when the server is not reached.
func (c *completer) sendInPlace(ctx context.Context, o *outbox, a answer) bool {
	r := a.refusal
	s, ok := c.nextSubstitute(ctx, o, a)
	if !ok {
		c.keep(ctx, o, a, false, r.why)
		return true
	}
	sent := []answer{s.answer}
	stale, err := c.try(ctx, sent, c.of(s.answer).send, lockWait)
	a.perhaps = sent[0].perhaps
	pg, isPg := errors.AsType[*pgconn.PgError](err)
	isHeld := isPg && isWait(pg)
	switch {
	case err == nil:
		c.acknowledge(ctx, sent, stale)
		if s.outcome == postponed {
			o.mute = time.Time{}
		}
		if s.message != "" && len(stale) == 0 {
			c.warnings.warn(ctx, c.log, s.level, s.message, s.message, keyJobID, s.jobID, keyError, s.why)
		}
	case c.isUnreached(ctx, err):
		o.putBack(parcel{answers: []answer{a}, from: givenUp})
		return false
	case !c.db.isOpen() || isHeld: // nothing else would be taken, either, but soon: that the answer is refused is not all
		r.why = nil
		c.keep(ctx, o, a, isHeld, err)
	default:
		r.said, r.left = mapError(err), r.left[1:]
		o.putBack(parcel{answers: []answer{a}, from: givenUp})
	}
	return true
}

// keep keeps an answer in whose place nothing is taken, for now.
func (c *completer) keep(ctx context.Context, o *outbox, a answer, isHeld bool, err error) {
	c.sendLater(ctx, o, a, isHeld, err)
	if o.isInTrouble(err) {
		c.rest(o)
	}
}

// nextSubstitute returns what to send next in place of an answer, if anything is left.
func (c *completer) nextSubstitute(ctx context.Context, o *outbox, a answer) (next substitute, ok bool) {
	r := a.refusal
	isMute := !r.mute.IsZero() // all was refused before: there is no need to go through it again
	for len(r.left) == 0 {
		r.stage++
		switch {
		case r.stage == failing && isMute:
		case r.stage == failing:
			r.left = failures(a)
		case !canFail(a): // nothing else can be said of an attempt that is given back, or put off
			return next, false
		case r.stage == puttingOff:
			r.left = putOffs(a, isMute)
		case r.stage == discarding:
			r.left = o.discards(a, time.Now())
		default:
			const what = "no answer is taken"
			c.warnings.warn(ctx, c.log, slog.LevelError, what, what, keyJobID, a.jobID, keyError, r.said)
			return next, false
		}
	}
	return r.left[0], true
}

// canFail says whether something else than the answer itself may be sent, as that its attempt has failed.
func canFail(a answer) bool {
	_, ok := refusable[a.outcome]
	return ok
}

// asFailure returns the failure of an attempt whose answer was refused: its own, or that the answer was. What is
// refused is named; "" where the failure is its own. An attempt that fails although its handler did not say so is
// followed by the next one after a delay; nil for the queue's backoff.
func asFailure(a answer) (failure answer, refused string) {
	if a.outcome == failed && a.delay == nil {
		return a, ""
	}
	refused = "the " + refusable[a.outcome] + " was refused"
	text := refused + ": " + a.refusal.why.Error()
	if a.failure != "" {
		text += "; it was: " + a.failure
	}
	a.outcome, a.output, a.delay, a.failure = failed, nil, a.refusal.delay, cleanText(text)
	return a, refused
}

// failures are the first stage: the answer with a text that every server can store, or as a failure.
func failures(a answer) (all []substitute) {
	all = withTexts(all, substitute{answer: a}, asciiText(a.failure))
	if !canFail(a) {
		return all
	}
	why := a.refusal.why
	failure, refused := asFailure(a)
	s := substitute{answer: failure, level: slog.LevelWarn, message: refused + ", so the attempt fails", why: why}
	if refused != "" {
		all = withTexts(append(all, s), s, asciiText(failure.failure))
	}
	s.delay = nil // perhaps it is that which is refused
	s.message = "the text of a failure was refused, so the attempt fails without it"
	return withTexts(all, s,
		fmt.Sprintf("the attempt failed, but the server refused to store why (SQLSTATE %s)", sqlState(why)))
}

// putOffs are the second stage: the job of a failure that was refused is put off, so that the worker does not hold it
// for as long as it lives. To an answer that was mute before they are fewer.
func putOffs(a answer, isMute bool) (all []substitute) {
	why := a.refusal.lastError()
	failure, _ := asFailure(a)
	text := cleanText(fmt.Sprintf("the failure was refused: %s; it was: %s", why, failure.failure))
	texts := []string{text, asciiText(text), "the server refuses to store how the attempt failed"}
	if isMute {
		texts = texts[:1]
	}
	s := substitute{answer: failure, level: slog.LevelError, why: why,
		message: "a failure was refused, so the job is put off"}
	s.outcome, s.delay = postponed, nil
	all = withTexts(all, s, texts...)
	s.delay = new(blindPutOff)
	s.message = "a failure was refused, so the job is put off, uncounted, without a word of that"
	return append(all, s)
}

// noteMute takes note that nothing is taken that would have the job of an answer wait. It says whether that lasts.
func (o *outbox) noteMute(a answer, now time.Time) (lasts bool) {
	r := a.refusal
	if r.mute.IsZero() {
		r.mute = now
	}
	if o.mute.IsZero() {
		o.mute = now
	}
	isLong := func(since time.Time) bool { return now.Sub(since) >= refusalPatience }
	// An answer that has waited for long need not be looked at twice, when it is the same with all others.
	return isLong(r.mute) || isLong(o.mute) && isLong(a.since)
}

// discards takes note that nothing is taken that would have the job of an answer wait, and returns the last stage: when
// that lasts the job ends, where history is, so that the attempt counts, and an operator may retry it.
func (o *outbox) discards(a answer, now time.Time) []substitute {
	why := a.refusal.lastError()
	isServers := !o.othersPass(a.refusal, now) && isTemporary(why) && !hasCode(why, readOnly)
	if lasts := o.noteMute(a, now); !lasts || isServers {
		return nil
	}
	failure, _ := asFailure(a)
	const what = "the job was discarded, since the server refuses all that would have it run again"
	text := cleanText(fmt.Sprintf(what+": %s; the failure was: %s", why, failure.failure))
	s := substitute{answer: failure, level: slog.LevelError, why: why,
		message: "all that would have a job run again was refused, so it is discarded"}
	s.outcome, s.delay = discarded, nil
	return withTexts(nil, s, text, asciiText(text), what)
}

// withTexts adds what is sent with one text after the other in place of its own, but for those that are the same.
func withTexts(all []substitute, s substitute, texts ...string) []substitute {
	before := s.failure
	for _, text := range texts {
		if s.failure = text; text != before {
			all = append(all, s)
		}
		before = text
	}
	return all
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
