package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// Snooze returns an error for a handler to return: the job runs again after a delay of 0 to 10 years, and the attempt
// does not count.
func Snooze(delay time.Duration) error {
	return &verdict{outcome: snoozed, delay: delay, text: fmt.Sprintf("snooze for %s", delay)}
}

// SnoozeGroup is [Snooze] for the whole group of the job: nothing of it begins before the delay is over, and then the
// job comes first. It is for a server that asks to wait (Retry-After). Of a job without a group it is Snooze.
func SnoozeGroup(delay time.Duration) error {
	return &verdict{outcome: snoozed, delay: delay, holdsGroup: true, text: fmt.Sprintf("snooze its group for %s", delay)}
}

// Discard returns an error for a handler to return: the job ends as failed, whatever attempts are left, or as dead
// where its queue keeps dead letters.
func Discard(err error) error {
	return &verdict{outcome: discarded, err: err, text: "discarded"}
}

// Cancel returns an error for a handler to return: the job ends as cancelled. The reason is kept with it; "" for none.
func Cancel(reason string) error {
	v := &verdict{outcome: cancelled, text: "cancelled"}
	if reason != "" {
		v.text = reason
	}
	return v
}

// RetryAfter returns an error for a handler to return: the attempt fails, but the next one, if any is left, comes after
// a delay of 0 to 10 years, whatever the queue's backoff is.
func RetryAfter(delay time.Duration, err error) error {
	return &verdict{outcome: failed, delay: delay, err: err, text: fmt.Sprintf("retry after %s", delay)}
}

// verdict is an error with which a handler says what is to become of its attempt.
type verdict struct {
	outcome outcome
	delay   time.Duration
	err     error  // nil where there is none
	text    string // for when there is none

	holdsGroup bool // of a snooze
}

func (v *verdict) Error() string {
	if v.err != nil {
		return v.err.Error()
	}
	return v.text
}

func (v *verdict) Unwrap() error { return v.err }

// Outcome returns the outcome of an attempt whose handler returns err, in the words of [QueueStats]: "completed",
// "failed", "snoozed", "discarded" or "cancelled"; and the cause: err itself, or the error that [Discard] or
// [RetryAfter] was given; nil when nothing went wrong. It is for [Middleware].
func Outcome(err error) (outcome string, cause error) {
	v, ok := errors.AsType[*verdict](err)
	switch {
	case err == nil:
		return "completed", nil
	case !ok:
		return "failed", err
	case v.outcome == snoozed:
		return "snoozed", nil
	case v.outcome == cancelled:
		return "cancelled", nil
	case v.outcome == discarded:
		return "discarded", cmp.Or(v.err, err)
	default:
		return "failed", cmp.Or(v.err, err)
	}
}

// judge turns what the handler of a job has returned into an answer. Errors and outputs are the handler's own types,
// whose methods may panic: then the attempt has failed.
func judge(ctx context.Context, log *slog.Logger, a *attempt, job *RawJob, err error) (result answer) {
	decided := false
	defer func() {
		if v := recover(); v != nil && !decided {
			panicked := &PanicError{Value: v, Stack: debug.Stack()}
			result = answer{attempt: a, outcome: failed, failure: cleanText(panicked.Error())}
			log.InfoContext(ctx, "attempt failed", keyQueue, job.Queue, keyJobID, job.ID, keyKind, job.Kind, keyAttempt,
				job.Attempt, keyError, loggable(panicked))
		}
	}()
	result.attempt = a
	if err == nil && !job.completedTx {
		result.output, err = encode("output", job.output)
	}
	if err == nil {
		if job.completedTx {
			// If the handler has kept its promise this is refused as stale. If not, the job would stay open for ever.
			result.outcome, result.failure, result.completedTx = failed, notCommitted, true
		}
		return result
	}
	result.outcome, result.failure = failed, cleanText(fmt.Sprint(err)) // of a nil pointer, too
	if v, ok := errors.AsType[*verdict](err); ok {
		result.outcome = v.outcome
		if v.outcome == failed || v.outcome == snoozed {
			result.delay, result.holdsGroup = &v.delay, v.holdsGroup
		}
	}
	decided = true
	level, text := slog.LevelInfo, "attempt failed"
	switch result.outcome {
	case snoozed:
		level, text = slog.LevelDebug, "attempt snoozed"
	case discarded:
		text = "job discarded"
	case cancelled:
		text = "job cancelled by its handler"
	}
	log.Log(ctx, level, text, keyQueue, job.Queue, keyJobID, job.ID, keyKind, job.Kind, keyAttempt, job.Attempt, keyError,
		loggable(err))
	return result
}

// loggable returns an error for the log: a text that is too long is cut as that for the server is.
func loggable(err error) error {
	if text := fmt.Sprint(err); len(text) > maxErrorText {
		return &cutError{err: err, text: cleanText(text)}
	}
	return err
}

// cutError is an error of which only the begin is shown.
type cutError struct {
	err  error
	text string
}

func (e *cutError) Error() string { return e.text }

func (e *cutError) Unwrap() error { return e.err }
