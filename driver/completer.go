package driver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
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
	// maxErrorText is what is kept of an error, in bytes. Stack traces can be long.
	maxErrorText = 16 << 10
)

type outcome int

const (
	completed outcome = iota
	failed
	committed // completed by the handler, in its own transaction: sent as failed, to be refused as stale
	snoozed
	discarded
	cancelled
	unknownKind // sent as a snooze
	postponed   // the same, because a failure was refused
	released
	outcomes = iota
)

// refusable is what the server may refuse of an answer.
var refusable = map[outcome]string{
	completed: "completion", failed: "retry delay", snoozed: "snooze", discarded: "discard", cancelled: "cancellation",
}

// answer is how one attempt ended.
type answer struct {
	*attempt
	outcome outcome
	output  json.RawMessage
	failure string         // also why it was discarded or cancelled
	delay   *time.Duration // of a snooze or, unless it is the queue's backoff, before the next attempt
}

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
}

func newCompleter(pool *pgxpool.Pool, log *slog.Logger) *completer {
	return &completer{
		db: dedicated{pool: pool}, log: log, trouble: trouble{log: log, what: "answers can't be sent"}, warnings: new(warnings),
		answers: make(chan answer, 2*flushSize), last: make(chan struct{}), done: make(chan struct{}),
	}
}

// send hands over an answer. It waits when the server is slower than the handlers.
func (c *completer) send(a answer) {
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
	batch := make([]answer, 0, flushSize)
	for {
		batch = c.collect(batch[:0])
		if len(batch) == 0 {
			return
		}
		c.sendAll(ctx, batch)
	}
}

// sendAll sends answers, and returns when the server has taken them, or the context has ended.
func (c *completer) sendAll(ctx context.Context, batch []answer) {
	var completions, failures, delayed, others []answer
	for _, a := range batch {
		switch {
		case a.outcome == completed:
			completions = append(completions, a)
		case a.outcome == failed && a.delay != nil:
			delayed = append(delayed, a)
		case a.outcome == failed || a.outcome == committed:
			failures = append(failures, a)
		default:
			others = append(others, a)
		}
	}
	c.flush(ctx, completions, completeMany)
	c.flush(ctx, failures, failMany)
	c.flush(ctx, delayed, failMany)
	c.flush(ctx, others, sendSingly)
}

// collect waits for an answer, and a little for others. It returns none when there will be no more.
func (c *completer) collect(batch []answer) []answer {
	select {
	case a := <-c.answers:
		batch = append(batch, a)
	case <-c.last:
	}
	delay := time.NewTimer(flushDelay)
	defer delay.Stop()
	for len(batch) < flushSize {
		select {
		case a := <-c.answers:
			batch = append(batch, a)
			continue
		default:
		}
		select {
		case a := <-c.answers:
			batch = append(batch, a)
		case <-delay.C:
			return batch
		case <-c.last:
			select {
			case a := <-c.answers:
				batch = append(batch, a)
			default:
				return batch
			}
		}
	}
	return batch
}

type sendFunc func(context.Context, pipeline, []answer) (stale []int64, err error)

// flush sends answers, again and again until the server takes them. What it refuses is found by sending one at a time.
func (c *completer) flush(ctx context.Context, answers []answer, send sendFunc) {
	if len(answers) == 0 {
		return
	}
	var pause backoff
	for {
		stale, refused, err := c.try(ctx, answers, send)
		if err == nil {
			c.trouble.report(ctx, nil)
			c.settle(ctx, answers, stale)
			return
		}
		if refused {
			if len(answers) == 1 {
				c.refused(ctx, answers[0], err)
				return
			}
			for i := range answers {
				c.flush(ctx, answers[i:i+1], send)
			}
			return
		}
		if ctx.Err() == nil {
			c.trouble.report(ctx, err)
		}
		if !sleep(ctx, pause.pause()) {
			c.lost += len(answers)
			return
		}
	}
}

// try sends answers once. Refused means that it would be the same the next time.
func (c *completer) try(ctx context.Context, answers []answer, send sendFunc) (stale []int64, refused bool, err error) {
	_, err = c.db.callUntil(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		stale, err = send(ctx, pipeline{conn: conn}, answers)
		return err
	})
	if err == nil {
		return stale, false, nil
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return nil, isAboutTheAnswer(pg.Code), err
	}
	return nil, c.db.isOpen() && ctx.Err() == nil, err // it could not be encoded
}

// isAboutTheAnswer says whether the server has refused what an answer says. Anything else may be over the next time: a
// privilege that was revoked, functions that are just being replaced.
func isAboutTheAnswer(code string) bool {
	return slices.ContainsFunc([]string{
		"22", // data: an argument that is out of range, an output that is no jsonb
		"54", // limits of the server
		"JQ",
	}, func(class string) bool { return strings.HasPrefix(code, class) })
}

func completeMany(ctx context.Context, db pipeline, answers []answer) ([]int64, error) {
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

// sendSingly sends answers for which there is no function that takes many. One that is stale fails them all: then they
// are sent one at a time.
func sendSingly(ctx context.Context, db pipeline, answers []answer) (stale []int64, err error) {
	// In the order in which all others lock claims.
	answers = slices.SortedFunc(slices.Values(answers), func(a, b answer) int { return cmp.Compare(a.receipt, b.receipt) })
	err = db.all(ctx, func(db gen.DBTX) {
		for _, a := range answers {
			switch a.outcome {
			case released:
				queries.Release(ctx, db, gen.ReleaseParams{JobID: a.jobID, Receipt: a.receipt})
			case snoozed, unknownKind, postponed:
				queries.Snooze(ctx, db, gen.SnoozeParams{JobID: a.jobID, Receipt: a.receipt, Delay: *a.delay})
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

// settle takes note of what the server has said. A stale answer is nothing that the handler's author could do anything
// about: the attempt was given to somebody else meanwhile, or this is a repetition after a lost connection.
func (c *completer) settle(ctx context.Context, answers []answer, stale []int64) {
	isStale := make(map[int64]int, len(stale))
	for _, id := range stale {
		isStale[id]++
	}
	var unexpected []int64
	for _, a := range answers {
		a.answered()
		stale := isStale[a.jobID] > 0
		if stale {
			isStale[a.jobID]-- // of several answers for one job, the first are the older attempts'
		}
		switch {
		case a.outcome == committed && stale: // as it should be
			a.stats.ended[completed].Add(1)
		case a.outcome == committed:
			c.warnings.warn(ctx, c.log, slog.LevelWarn, "not committed", a.failure, keyJobID, a.jobID)
			a.stats.ended[failed].Add(1)
		case stale:
			c.stale++
			a.stats.stale.Add(1)
			unexpected = append(unexpected, a.jobID)
		default:
			a.stats.ended[a.outcome].Add(1)
		}
	}
	if len(unexpected) > 0 {
		c.log.InfoContext(ctx, "answers were stale", keyJobs, len(unexpected), keyJobIDs, unexpected)
	}
}

// refused deals with an answer that the server will never take: an output that is no jsonb, say, or a delay that is
// negative. The attempt fails with that.
func (c *completer) refused(ctx context.Context, a answer, err error) {
	err = mapError(err)
	switch what, ok := refusable[a.outcome]; {
	case ok && (a.outcome != failed || a.delay != nil):
		what := "the " + what + " was refused"
		c.warnings.warn(ctx, c.log, slog.LevelWarn, what, what+", so the attempt fails", keyJobID, a.jobID, keyError, err)
		text := what + ": " + err.Error()
		if a.failure != "" {
			text += "; it was: " + a.failure
		}
		a.outcome, a.output, a.failure, a.delay = failed, nil, cleanText(text), nil
		c.flush(ctx, []answer{a}, failMany)
	case a.outcome == failed || a.outcome == committed:
		// So that the job is not held for as long as the worker lives.
		const what = "a failure was refused, so the job is put off, uncounted"
		c.warnings.warn(ctx, c.log, slog.LevelError, what, what, keyJobID, a.jobID, keyError, err)
		a.outcome, a.delay = postponed, new(longestPutOff)
		c.flush(ctx, []answer{a}, sendSingly)
	default: // it stays open until the worker ends
		const what = "no answer is taken"
		c.warnings.warn(ctx, c.log, slog.LevelError, what, what, keyJobID, a.jobID, keyError, err)
		c.lost++
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
