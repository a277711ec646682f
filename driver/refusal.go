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

// refusalPatience is for how long answers of one kind are sent again that are all refused, for a reason that does not
// pass by itself. A variable for the sake of tests.
var refusalPatience = time.Minute

// refusalDelay is in how long an attempt is followed by the next one when it fails because all answers are refused: the
// queue's backoff, often of seconds, would use up all attempts in one such trouble.
const refusalDelay = time.Minute

// blindPutOff is for how long a job is put off whose failure is refused, and of which the server does not even store
// that.
const blindPutOff = time.Hour

// refusal is the history of an answer that was refused.
type refusal struct {
	times  int       // how often, alone, and not only for a wait
	first  time.Time // when it was refused first, perhaps with others
	passed int       // how many parcels of its outbox had passed then
	due    time.Time
	pause  backoff
	long   time.Duration // the last pause after nothing at all was taken for its attempt
	mute   time.Time     // when that was first
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

// refused deals with an answer that was sent alone, and refused.
func (c *completer) refused(ctx context.Context, o *outbox, a answer, err error) {
	now := time.Now()
	if a.refusal == nil {
		a.refusal = &refusal{passed: o.passed, first: now}
	}
	pg, _ := errors.AsType[*pgconn.PgError](err)
	isHeld := pg != nil && isWait(pg)
	if !isHeld {
		a.refusal.times++
	}
	if o.refused++; o.refused == 1 {
		o.ill = now
	}
	othersPass := o.passed > a.refusal.passed
	var delay *time.Duration // the queue's backoff, if it is this answer's own fault
	if !othersPass && !c.isAboutTheAnswer(err) {
		delay = new(refusalDelay)
	}
	mayGiveUp := c.mayGiveUp(o, a, othersPass, err)
	if mayGiveUp && c.sendOtherwise(ctx, o, a, err, delay, othersPass) {
		return
	}
	a.refusal.due = now
	if othersPass || isHeld {
		wait := a.refusal.pause.pause()
		switch {
		case isHeld:
			wait += time.Duration(len(o.suspects)) * heldPace
		case mayGiveUp:
			wait = a.refusal.longer()
		}
		a.refusal.due = now.Add(wait)
		if soon := now.Add(time.Second); c.ending && soon.Before(a.refusal.due) {
			a.refusal.due = soon
		}
	} else {
		o.probes++
	}
	switch {
	case isHeld && now.Sub(a.refusal.first) < heldFor: // most often that is all
	case othersPass:
		const what = "an answer is refused, though others are taken: it is sent again"
		c.warnings.warn(ctx, c.log, slog.LevelWarn, what, what, keyJobID, a.jobID, keyError, mapError(err))
	default:
		c.trouble.report(ctx, err)
	}
	o.suspects = append(o.suspects, a)
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
// so is followed by the next one after the delay; nil for the queue's backoff. othersPass says whether others of its
// kind are taken. Says whether the server has taken anything.
func (c *completer) sendOtherwise(
	ctx context.Context, o *outbox, a answer, err error, delay *time.Duration, othersPass bool,
) bool {
	s := substitute{completer: c, outbox: o, isMute: !a.refusal.mute.IsZero(), why: mapError(err)}
	if !s.isMute && s.tryTexts(ctx, a, asciiText(a.failure)) {
		return true
	}
	if what, ok := refusable[a.outcome]; ok && (a.outcome != failed || a.delay != nil) {
		what := "the " + what + " was refused"
		text := what + ": " + s.why.Error()
		if a.failure != "" {
			text += "; it was: " + a.failure
		}
		a.outcome, a.output, a.delay, a.failure = failed, nil, delay, cleanText(text)
		if !s.isMute && (s.try(ctx, a) || s.tryTexts(ctx, a, asciiText(a.failure))) {
			s.warn(ctx, slog.LevelWarn, a, what+", so the attempt fails")
			return true
		}
		a.delay = nil // perhaps it is that which is refused
	}
	// nothing else can be said of an attempt that is given back, or put off
	if a.outcome != failed && a.outcome != committed {
		return false
	}
	text := fmt.Sprintf("the attempt failed, but the server refused to store why (SQLSTATE %s)", sqlState(s.why))
	if !s.isMute && s.tryTexts(ctx, a, text) {
		s.warn(ctx, slog.LevelWarn, a, "the text of a failure was refused, so the attempt fails without it")
		return true
	}
	return s.putOff(ctx, a) || !s.gone && s.discard(ctx, a, othersPass)
}

// substitute is what is sent in place of an answer: something that says less than the one before, until that is taken.
type substitute struct {
	*completer
	outbox  *outbox
	isMute  bool  // all was refused before: there is no need to go through it again
	why     error // why the answer was refused
	refusal error // why the last one was that was sent in its place
	gone    bool  // the connection is, or another session holds the attempt: nothing else would be taken, either
}

// try sends an answer in place of the one that was refused, and says whether it was taken.
func (s *substitute) try(ctx context.Context, a answer) bool {
	if s.gone {
		return false
	}
	stale, err := s.completer.try(ctx, []answer{a}, s.of(a).send, lockWait)
	if err == nil {
		s.acknowledge(ctx, []answer{a}, stale)
	}
	pg, _ := errors.AsType[*pgconn.PgError](err)
	s.gone = !s.db.isOpen() || pg != nil && isWait(pg)
	s.refusal = mapError(err)
	return err == nil
}

// tryTexts is try, with one text after the other in place of the answer's own.
func (s *substitute) tryTexts(ctx context.Context, a answer, texts ...string) bool {
	before := a.failure
	for _, a.failure = range texts {
		if a.failure != before && s.try(ctx, a) {
			return true
		}
		before = a.failure
	}
	return false
}

func (s *substitute) warn(ctx context.Context, level slog.Level, a answer, text string) {
	s.warnings.warn(ctx, s.log, level, text, text, keyJobID, a.jobID, keyError, s.why)
}

// putOff puts off the job of a failure that was refused, so that the worker does not hold it for as long as it lives:
// with the reason if that is taken, or it is at least snoozed.
func (s *substitute) putOff(ctx context.Context, a answer) bool {
	if s.refusal != nil {
		s.why = s.refusal
	}
	text := cleanText(fmt.Sprintf("the failure was refused: %s; it was: %s", s.why, a.failure))
	texts := []string{text, asciiText(text), "the server refuses to store how the attempt failed"}
	if s.isMute {
		texts = texts[:1]
	}
	a.outcome, a.delay = postponed, nil
	if s.tryTexts(ctx, a, texts...) {
		s.outbox.mute = time.Time{}
		s.warn(ctx, slog.LevelError, a, "a failure was refused, so the job is put off")
		return true
	}
	a.delay = new(blindPutOff)
	if s.try(ctx, a) {
		s.outbox.mute = time.Time{}
		s.warn(ctx, slog.LevelError, a, "a failure was refused, so the job is put off, uncounted, without a word of that")
		return true
	}
	return false
}

// discard ends a job of which nothing is taken that would have it wait, when that lasts: where history is, so that the
// attempt counts, and an operator may retry it.
func (s *substitute) discard(ctx context.Context, a answer, othersPass bool) bool {
	s.why = s.refusal
	if !s.isMute {
		a.refusal.mute = time.Now()
	}
	if s.outbox.mute.IsZero() {
		s.outbox.mute = time.Now()
	}
	// An answer that has waited for long need not be looked at twice, when it is the same with all others.
	lasts := time.Since(a.refusal.mute) >= refusalPatience ||
		time.Since(s.outbox.mute) >= refusalPatience && time.Since(a.since) >= refusalPatience
	if lasts && (othersPass || !isTemporary(s.why) || hasCode(s.why, readOnly)) {
		const what = "the job was discarded, since the server refuses all that would have it run again"
		text := cleanText(fmt.Sprintf(what+": %s; the failure was: %s", s.why, a.failure))
		a.outcome, a.delay = discarded, nil
		if s.tryTexts(ctx, a, text, asciiText(text), what) {
			s.warn(ctx, slog.LevelError, a, "all that would have a job run again was refused, so it is discarded")
			return true
		}
	}
	s.warn(ctx, slog.LevelError, a, "no answer is taken")
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
