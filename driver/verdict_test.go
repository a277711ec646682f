package driver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

func TestVerdicts(t *testing.T) {
	boom := errors.New("boom")
	wrap := func(err error) error { return fmt.Errorf("wrapped: %w", err) }
	for name, test := range map[string]struct {
		verdict  error
		settings string
		state    string
		attempt  int
		errors   []string
		runIn    time.Duration
	}{
		"snooze":         {verdict: driver.Snooze(time.Hour), state: "scheduled", runIn: time.Hour},
		"wrapped snooze": {verdict: wrap(driver.Snooze(time.Hour)), state: "scheduled", runIn: time.Hour},
		"discard":        {verdict: driver.Discard(boom), state: "failed", attempt: 1, errors: []string{"boom"}},
		"wrapped": {verdict: wrap(driver.Discard(boom)), state: "failed", attempt: 1,
			errors: []string{"wrapped: boom"}},
		"dead": {verdict: driver.Discard(boom), settings: `{"dead_letter": true}`, state: "dead", attempt: 1,
			errors: []string{"boom"}},
		"discard nil":    {verdict: driver.Discard(nil), state: "failed", attempt: 1, errors: []string{"discarded"}},
		"cancel":         {verdict: driver.Cancel("sold out"), state: "cancelled", attempt: 1, errors: []string{"sold out"}},
		"cancel, no why": {verdict: driver.Cancel(""), state: "cancelled", attempt: 1, errors: []string{"cancelled"}},
		"retry after": {verdict: driver.RetryAfter(2*time.Hour, boom), state: "retryable", attempt: 1,
			errors: []string{"boom"}, runIn: 2 * time.Hour},
		"retry, no why": {verdict: driver.RetryAfter(time.Hour, nil), state: "retryable", attempt: 1,
			errors: []string{"retry after 1h0m0s"}, runIn: time.Hour},
		"plain error": {verdict: boom, settings: `{"backoff_base": "1 hour"}`, state: "retryable", attempt: 1,
			errors: []string{"boom"}, runIn: 2 * time.Hour},
		"bad snooze": {verdict: driver.Snooze(-time.Second), state: "retryable", attempt: 1,
			errors: []string{"the snooze was refused: delay must be between"}},
		"bad delay": {verdict: driver.RetryAfter(-time.Second, boom), state: "retryable", attempt: 1,
			errors: []string{"the retry delay was refused: retry_after must be between"}},
		"NUL": {verdict: driver.Discard(errors.New("a\x00b")), state: "failed", attempt: 1,
			errors: []string{"a\uFFFDb"}},
	} {
		t.Run(name, func(t *testing.T) {
			pool := testdb.New(t)
			if test.settings == "" {
				test.settings = "{}"
			}
			id := enqueueConfigured(t, pool, note{}, driver.EnqueueOptions{}, test.settings)
			stop := runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error { return test.verdict }),
				driver.WorkerConfig{NoMaintenance: true})
			job := waitForState(t, pool, id, test.state)
			require.NoError(t, stop())
			assert.Equal(t, test.attempt, job.Attempt)
			require.Len(t, job.Errors, len(test.errors))
			for i, e := range test.errors {
				assert.Contains(t, job.Errors[i].Error, e)
			}
			if test.runIn > 0 {
				assert.InDelta(t, test.runIn, time.Until(job.RunAt), float64(test.runIn)/4+float64(time.Minute))
			}
		})
	}
	assert.ErrorIs(t, driver.Discard(boom), boom)
	assert.ErrorIs(t, driver.RetryAfter(time.Second, boom), boom)
}

type pointerError struct{ text string }

func (e *pointerError) Error() string { return e.text }

type panickingOutput struct{}

func (panickingOutput) MarshalJSON() ([]byte, error) { panic("ouch") }

type panickingChain struct{ error }

func (panickingChain) Unwrap() error { panic("ouch") }

// What a handler returns, or leaves as its output, is of its own types, whose methods may panic: that fails the
// attempt, and not the process.
func TestWhatAHandlerReturnsPanics(t *testing.T) {
	pool := testdb.New(t)
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		switch job.Args.Text {
		case "nil pointer":
			var none *pointerError
			return none
		case "output":
			job.SetOutput(panickingOutput{})
			return nil
		}
		return panickingChain{errors.New("chain")}
	}), driver.WorkerConfig{})
	for text, want := range map[string]string{"nil pointer": "<nil>", "output": "panic: ouch", "chain": "panic: ouch"} {
		job := waitForState(t, pool, enqueue(t, pool, note{text}, driver.EnqueueOptions{MaxAttempts: 1}), "failed")
		assert.Contains(t, job.Errors[0].Error, want)
	}
}

type panickingLongChain struct{ panickingChain }

func (panickingLongChain) Unwrap() error { panic(strings.Repeat("x", 1<<20)) }

// An error of any length is a log record of some kilobytes, whatever the handler's verdict is, and also for a panic.
func TestLongErrorsInTheLog(t *testing.T) {
	pool := testdb.New(t)
	long := errors.New(strings.Repeat("x", 1<<20))
	for text, verdict := range map[string]error{
		"attempt failed":                long,
		"job discarded":                 driver.Discard(fmt.Errorf("wrapped: %w", long)),
		"job cancelled by its handler":  driver.Cancel(long.Error()),
		"attempt failed, while it ends": panickingLongChain{panickingChain{errors.New("chain")}},
	} {
		var log bytes.Buffer
		w, err := driver.NewWorker(pool, handle(func(context.Context, *driver.Job[note]) error { return verdict }),
			driver.WorkerConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		enqueue(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1})
		_, err = w.RunOne(t.Context())
		require.NoError(t, err)
		text, _, _ = strings.Cut(text, ",")
		assert.True(t, strings.Contains(log.String(), text) && strings.Contains(log.String(), "xxx"), text)
		assert.Less(t, log.Len(), 20<<10, text)
	}
}

func TestOutcome(t *testing.T) {
	boom := errors.New("boom")
	for _, test := range []struct {
		err     error
		outcome string
		cause   error
	}{
		{nil, "completed", nil},
		{boom, "failed", boom},
		{driver.RetryAfter(time.Hour, boom), "failed", boom},
		{fmt.Errorf("wrapped: %w", driver.Discard(boom)), "discarded", boom},
		{driver.Snooze(time.Hour), "snoozed", nil},
		{driver.Cancel("sold out"), "cancelled", nil},
	} {
		outcome, cause := driver.Outcome(test.err)
		assert.Equal(t, test.outcome, outcome)
		assert.Equal(t, test.cause, cause)
	}
	nothing := driver.Discard(nil)
	outcome, cause := driver.Outcome(nothing)
	assert.Equal(t, "discarded", outcome)
	assert.Equal(t, nothing, cause)
}

// One stale verdict must not take the others of its batch with it.
func TestVerdictsOfABatch(t *testing.T) {
	pool := testdb.New(t)
	const n = 20
	want := map[int64]string{}
	for i := range n {
		text := []string{"snooze", "discard", "cancel", "retry", "complete", "fail"}[i%6]
		want[enqueue(t, pool, note{text}, driver.EnqueueOptions{})] = map[string]string{
			"snooze": "scheduled", "discard": "failed", "cancel": "cancelled", "retry": "retryable", "complete": "completed",
			"fail": "retryable",
		}[text]
	}
	stale := enqueue(t, pool, note{"snooze"}, driver.EnqueueOptions{})
	want[stale] = "completed"
	var started atomic.Int32
	answered, receipts := make(chan struct{}), make(chan int64, 1)
	all := make(chan struct{})
	var log bytes.Buffer
	stop := runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		if job.ID == stale {
			receipts <- job.Receipt
		}
		if started.Add(1) == n+1 {
			close(all)
		}
		<-answered // so that all verdicts come at once
		return verdict(job.Args.Text)
	}), driver.WorkerConfig{NoMaintenance: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	receive(t, all)
	require.NoError(t, driver.NewClient(pool).CompleteTx(t.Context(), pool, stale, receive(t, receipts), nil))
	close(answered)
	require.NoError(t, stop())
	for id, state := range want {
		waitForState(t, pool, id, state)
	}
	assert.Contains(t, log.String(), "answers were stale")
	assert.NotContains(t, log.String(), "refused")
}

// A job that snoozes again and again never uses up its attempts.
func TestSnoozedAttemptsDoNotCount(t *testing.T) {
	driver.SetMaintenance(t, 10*time.Millisecond)
	pool := testdb.New(t)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1})
	var runs atomic.Int32
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		assert.Equal(t, 1, job.Attempt)
		if runs.Add(1) < 4 {
			return driver.Snooze(0)
		}
		return nil
	}), driver.WorkerConfig{})
	job := waitForState(t, pool, id, "completed")
	assert.EqualValues(t, 4, runs.Load())
	assert.Equal(t, 1, job.Attempt)
}

// What an attempt was stopped for is not its handler's verdict: a deploy must not end jobs.
func TestStoppedAttemptHasNoVerdict(t *testing.T) {
	pool := testdb.New(t)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	started := make(chan struct{})
	stop := runWorker(t, pool, handle(func(ctx context.Context, _ *driver.Job[note]) error {
		close(started)
		<-ctx.Done()
		return driver.Discard(ctx.Err())
	}), driver.WorkerConfig{StopTimeout: -1})
	receive(t, started)
	require.NoError(t, stop())
	assert.Zero(t, waitForState(t, pool, id, "available").Attempt)
}
