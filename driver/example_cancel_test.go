package driver_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/awa-pg/awa/driver"
)

// A job that is not wanted any more is no failure.
func ExampleCancel() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()

	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		stop()
		return driver.Cancel("has left")
	})
	job := runOne(ctx, pool, handlers)
	fmt.Printf("%s: %s\n", job.State, job.Errors[0].Error)
	// Output: cancelled: has left
}

// A job that runs can be cancelled from outside, too: its handler's context ends, and what it returns does not matter.
func ExampleClient_Cancel() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()

	client := driver.NewClient(pool)
	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		defer stop()
		// Somebody else would do this. The handler's own context may end before the call returns.
		state, err := client.Cancel(context.WithoutCancel(ctx), job.ID, "changed our minds")
		if err != nil {
			return err
		}
		fmt.Println("it was", state)
		<-ctx.Done()
		fmt.Println("stale:", errors.Is(context.Cause(ctx), driver.ErrStaleReceipt))
		return ctx.Err()
	})
	job := runOne(ctx, pool, handlers)
	fmt.Printf("%s: %s\n", job.State, job.Errors[0].Error)
	// Output:
	// it was running
	// stale: true
	// cancelled: changed our minds
}
