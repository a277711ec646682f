package driver_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/awa-pg/awa/driver"
)

// What no retry can cure ends at once.
func ExampleDiscard() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()

	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		stop()
		return fmt.Errorf("greet %s: %w", job.Args.Name, driver.Discard(errors.New("no such user")))
	})
	job := runOne(ctx, pool, handlers)
	fmt.Printf("%s after %d of %d attempts: %s\n", job.State, job.Attempt, job.MaxAttempts, job.Errors[0].Error)
	// Output: failed after 1 of 25 attempts: greet ada: no such user
}
