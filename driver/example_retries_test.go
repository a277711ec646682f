package driver_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/awa-pg/awa/driver"
)

// An attempt that fails is followed by another one, later and later, until there are none left. A queue says how long
// to wait, and whether what failed for good becomes a dead letter.
func Example_retries() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()

	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		fmt.Printf("attempt %d of %d\n", job.Attempt, job.MaxAttempts)
		if job.Attempt < 3 {
			return errors.New("nobody at home") // so would a panic
		}
		stop()
		return nil
	})
	settings := `{"backoff_base": "10 milliseconds", "backoff_max": "1 hour", "dead_letter": true}`
	job := runOneWith(ctx, pool, handlers, driver.EnqueueOptions{MaxAttempts: 5}, settings)
	for _, e := range job.Errors {
		fmt.Printf("attempt %d: %s\n", e.Attempt, e.Error)
	}
	fmt.Println(job.State)
	// Output:
	// attempt 1 of 5
	// attempt 2 of 5
	// attempt 3 of 5
	// attempt 1: nobody at home
	// attempt 2: nobody at home
	// completed
}

// A handler that knows when to try again says so.
func ExampleRetryAfter() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()

	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		stop()
		return driver.RetryAfter(time.Hour, errors.New("too many requests"))
	})
	job := runOne(ctx, pool, handlers)
	fmt.Println(job.State, "after", job.Attempt, "attempt")
	fmt.Println("in about an hour:", time.Until(job.RunAt).Round(time.Hour) == time.Hour)
	// Output:
	// retryable after 1 attempt
	// in about an hour: true
}
