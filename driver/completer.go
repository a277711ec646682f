package driver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/gen"
)

const (
	flushSize  = 500
	flushDelay = 2 * time.Millisecond
	// maxErrorText is the most that is kept of the text of an error, in bytes. Stack traces can be long.
	maxErrorText = 16 << 10
)

type outcome int

const (
	completed outcome = iota
	failed
	snoozed
	discarded
	cancelled
	unknownKind // sent as a snooze
	postponed   // put off, because a failure was refused; with a delay, sent as a snooze
	released
	outcomes = iota
)

// answer is how one attempt ended.
type answer struct {
	*attempt
	outcome outcome
	output  json.RawMessage
	failure string         // also why it was discarded or cancelled
	delay   *time.Duration // of a snooze or, unless it is the queue's backoff, before the next attempt

	holdsGroup  bool      // whether a snooze closes the job's group
	completedTx bool      // by the handler, in its own transaction: this is sent to be refused as stale
	since       time.Time // when it was put into its outbox
	refusal     *refusal  // nil for one that was not refused
	perhaps     *outcome  // what the server may have taken: the connection was lost before it said so
}

func (a *answer) size() int { return len(a.output) + len(a.failure) }

// completer sends answers to the server, many at a time, on a connection of its own.
type completer struct {
	db       dedicated
	log      *slog.Logger
	trouble  trouble
	warnings *warnings

	answers chan answer
	last    chan struct{} // closed when no more answers are to come
	done    chan struct{} // closed when all answers are sent
	lost    int           // answers that could not be sent: read it after done
	stale   int           // answers that were refused: the same

	outboxes [outcomes]*outbox // by outcome; several may share one
	retries  *outbox           // failures with a delay
	all      []*outbox         // each once
	ending   bool              // no more answers are to come
	due      time.Time         // when to look for the server again
	pause    backoff
	resting  time.Time       // when to send any that are not fresh, if there are fresh ones
	turn     int             // whose are the next
	behind   *atomic.Bool    // there are answers that can't be sent
	wake     chan<- struct{} // answers were taken; nil where nobody waits for that
}

func newCompleter(pool *pgxpool.Pool, log *slog.Logger) *completer {
	c := &completer{
		db: dedicated{pool: pool}, log: log, trouble: trouble{log: log, what: "answers can't be sent"},
		warnings: new(warnings), behind: new(atomic.Bool),
		answers: make(chan answer, flushSize), last: make(chan struct{}), done: make(chan struct{}),
	}
	add := func(send sendFunc) *outbox {
		o := &outbox{send: send}
		c.all = append(c.all, o)
		return o
	}
	c.retries = add(failMany)
	c.outboxes = [outcomes]*outbox{
		completed: add(completeMany), failed: add(failMany), snoozed: add(sendSingly), discarded: add(sendSingly),
		cancelled: add(sendSingly), released: add(sendSingly),
	}
	c.outboxes[unknownKind], c.outboxes[postponed] = c.outboxes[snoozed], c.outboxes[snoozed]
	return c
}

// of returns the outbox for an answer.
func (c *completer) of(a answer) *outbox {
	if a.outcome == failed && a.delay != nil {
		return c.retries
	}
	return c.outboxes[a.outcome]
}

// held is how many answers are not sent yet, and no longer in the channel.
func (c *completer) held() (n int) {
	for _, o := range c.all {
		n += o.len()
	}
	return n
}

// send hands over an answer. It waits when the server is slower than the handlers.
func (c *completer) send(a answer) {
	if a.queue != nil {
		a.queue.waiting.Add(1)
	}
	select {
	case c.answers <- a:
	case <-c.done: // an abandoned handler
	}
}

// finish says that no more answers are to come.
func (c *completer) finish() { close(c.last) }

// run sends answers until finish is called and all are sent, or the context ends.
func (c *completer) run(ctx context.Context) {
	defer close(c.done)
	defer c.db.close(ctx)
	for c.collect(ctx) {
		c.flush(ctx)
	}
}

// sendAll sends answers, and returns when the server has taken them, or the context has ended. No others are to come.
func (c *completer) sendAll(ctx context.Context, answers []answer) {
	c.finish()
	for _, a := range answers {
		c.of(a).put(a)
	}
	c.flush(ctx)
	for c.collect(ctx) {
		c.flush(ctx)
	}
}

// collect waits for an answer, and a little for others, or until it is time to send one again that was refused. It
// returns false when there is nothing left to be sent, or no time.
func (c *completer) collect(ctx context.Context) bool {
	last := c.last
	if c.ending {
		last = nil
		for len(c.answers) > 0 {
			a := <-c.answers
			c.of(a).put(a)
		}
		if c.held() == 0 {
			return false
		}
	}
	wait := time.NewTimer(c.untilDue(time.Now()))
	defer wait.Stop()
	select {
	case <-ctx.Done():
		c.lost += c.held() + len(c.answers)
		return false
	case a := <-c.answers:
		c.of(a).put(a)
	case <-last:
		c.ends()
		return true
	case <-wait.C:
		return true
	}
	wait.Reset(flushDelay)
	for range flushSize - 1 {
		select { // rather than to flush, when both are possible
		case a := <-c.answers:
			c.of(a).put(a)
			continue
		default:
		}
		select {
		case a := <-c.answers:
			c.of(a).put(a)
		case <-wait.C:
			return true
		case <-last:
			c.ends()
			return true
		}
	}
	return true
}

// ends takes note that no more answers are to come: there is little time, so all that were refused are due.
func (c *completer) ends() {
	c.ending = true
	c.due, c.pause, c.resting = time.Time{}, backoff{}, time.Time{}
	for _, o := range c.all {
		o.due, o.pause, o.probes = time.Time{}, backoff{}, 0
		for _, a := range o.suspects {
			a.refusal.due = time.Time{}
		}
	}
}

// untilDue is in how long something has to be sent again.
func (c *completer) untilDue(now time.Time) time.Duration {
	next := now.Add(time.Hour)
	for _, o := range c.all {
		if due, ok := o.next(c.resting); ok && due.Before(next) {
			next = due
		}
	}
	return later(next, c.due).Sub(now)
}

// flush sends the answers that are due: first those that were not sent yet.
func (c *completer) flush(ctx context.Context) {
	sent := false
	for _, o := range c.all {
		sent = c.sendFresh(ctx, o) || sent
	}
	if c.held() > 0 {
		c.behind.Store(true)
		c.sendAgain(ctx, sent)
	}
	if c.behind.Load() {
		c.behind.Store(c.held() > 0)
	}
}

type sendFunc func(context.Context, pipeline, []answer) (stale []int64, err error)

// errUnreached is around errors of a server that was not reached, or does not want to be written to.
type errUnreached struct{ error }

func (e errUnreached) Unwrap() error { return e.error }

// try sends answers once, and notes which of them the server may have taken where it can't say so. No session that
// holds a lock keeps the others waiting for long.
func (c *completer) try(
	ctx context.Context, answers []answer, send sendFunc, wait time.Duration,
) (stale []int64, err error) {
	if err := c.db.open(ctx); err != nil {
		return nil, errUnreached{err}
	}
	unknown, err := c.db.callUntil(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		stale, err = send(ctx, pipeline{conn: conn, lockTimeout: wait}, answers)
		return err
	})
	if unknown && err != nil && !isShutdown(err) {
		for i := range answers {
			answers[i].perhaps = new(answers[i].outcome)
		}
	}
	if hasCode(err, readOnly) && !c.db.isOpen() {
		err = errUnreached{err}
	}
	return stale, err
}

// isShutdown says whether the server has ended the session, and says so: then it has rolled back what it was asked, or
// was not even asked yet.
func isShutdown(err error) bool {
	pg, isPg := errors.AsType[*pgconn.PgError](err)
	return isPg && strings.HasPrefix(pg.Code, "57")
}

// byReceipt returns answers in the order of their receipts: so their claims are locked in the order of all others, and
// the server closes those of a claim at a time.
func byReceipt(answers []answer) []answer {
	return slices.SortedStableFunc(slices.Values(answers),
		func(a, b answer) int { return cmp.Compare(a.receipt, b.receipt) })
}

func completeMany(ctx context.Context, db pipeline, answers []answer) ([]int64, error) {
	answers = byReceipt(answers)
	var params gen.CompleteManyParams
	params.JobIds, params.Receipts = ids(answers)
	for i, a := range answers {
		if a.output != nil {
			if params.Outputs == nil {
				params.Outputs = make([]json.RawMessage, len(answers))
			}
			params.Outputs[i] = a.output
		}
	}
	return queries.CompleteMany(ctx, db, params)
}

// failMany sends failures, either all with a delay or all without.
func failMany(ctx context.Context, db pipeline, answers []answer) ([]int64, error) {
	answers = byReceipt(answers)
	params := gen.FailManyParams{Errors: make([]string, len(answers))}
	params.JobIds, params.Receipts = ids(answers)
	for i, a := range answers {
		params.Errors[i] = a.failure
		if a.delay != nil {
			params.RetryAfter = append(params.RetryAfter, *a.delay)
		}
	}
	return queries.FailMany(ctx, db, params)
}

// sendSingly sends answers for which there is no function that takes many. One that is stale fails them all.
func sendSingly(ctx context.Context, db pipeline, answers []answer) (stale []int64, err error) {
	answers = byReceipt(answers)
	err = db.all(ctx, func(db gen.DBTX) {
		for _, a := range answers {
			switch a.outcome {
			case released:
				queries.Release(ctx, db, gen.ReleaseParams{JobID: a.jobID, Receipt: a.receipt})
			case postponed:
				if a.delay == nil {
					queries.PutOff(ctx, db, gen.PutOffParams{JobID: a.jobID, Receipt: a.receipt, Error: a.failure})
					continue
				}
				queries.Snooze(ctx, db, gen.SnoozeParams{JobID: a.jobID, Receipt: a.receipt, Delay: *a.delay})
			case snoozed, unknownKind:
				queries.Snooze(ctx, db, gen.SnoozeParams{
					JobID: a.jobID, Receipt: a.receipt, Delay: *a.delay, HoldGroup: a.holdsGroup,
				})
			case discarded:
				queries.Discard(ctx, db, gen.DiscardParams{JobID: a.jobID, Receipt: a.receipt, Error: a.failure})
			case cancelled:
				queries.CancelAttempt(ctx, db, gen.CancelAttemptParams{JobID: a.jobID, Receipt: a.receipt, Reason: &a.failure})
			}
		}
	})
	if len(answers) == 1 && errors.Is(mapError(err), ErrStaleReceipt) {
		return []int64{answers[0].jobID}, nil
	}
	return nil, err
}

func ids(answers []answer) (jobIDs, receipts []int64) {
	jobIDs, receipts = make([]int64, len(answers)), make([]int64, len(answers))
	for i, a := range answers {
		jobIDs[i], receipts[i] = a.jobID, a.receipt
	}
	return jobIDs, receipts
}

const notCommitted = "the handler returned nil, but the transaction in which it completed the job was not committed"

// acknowledge takes note of what the server has said. A stale answer is nothing that the handler's author could do
// anything about: the attempt was given to another worker meanwhile. After a lost connection it is a repetition, and
// counts as what was taken then.
func (c *completer) acknowledge(ctx context.Context, answers []answer, stale []int64) {
	isStale := make(map[int64]int, len(stale))
	for _, id := range stale {
		isStale[id]++
	}
	var unexpected []int64
	if len(stale) > 0 {
		answers = byReceipt(answers)
	}
	for _, a := range answers {
		if a.queue != nil {
			a.queue.waiting.Add(-1)
			a.queue.answered.Store(true)
		}
		a.answered()
		stale := isStale[a.jobID] > 0
		if stale {
			isStale[a.jobID]-- // of several answers for one job, the first are the older attempts'
		}
		switch {
		// As it should be. After a lost connection as well it is most likely that the handler has kept its promise.
		case stale && a.completedTx:
			a.stats.ended[completed].Add(1)
		case stale && a.perhaps != nil:
			a.stats.ended[*a.perhaps].Add(1)
		case stale:
			c.stale++
			a.stats.stale.Add(1)
			unexpected = append(unexpected, a.jobID)
		default:
			if a.completedTx {
				c.warnings.warn(ctx, c.log, slog.LevelWarn, notCommitted, notCommitted, keyJobID, a.jobID)
			}
			a.stats.ended[a.outcome].Add(1)
		}
	}
	signalTo(c.wake)
	if len(unexpected) > 0 {
		const what = "answers were stale"
		c.warnings.warn(ctx, c.log, slog.LevelInfo, what, what, keyJobs, len(unexpected), keyJobIDs,
			unexpected[:min(len(unexpected), 10)])
	}
}

// cleanText returns what PostgreSQL can store as text: valid UTF-8 without NUL, and not too long.
func cleanText(s string) string {
	if len(s) > maxErrorText {
		cut := maxErrorText
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
