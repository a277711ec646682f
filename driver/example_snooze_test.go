package driver_test

import (
	"context"
	"fmt"
	"time"

	"github.com/awa-pg/awa/driver"
)

// A handler that has come too early puts its job off. The attempt does not count.
func ExampleSnooze() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()

	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		stop()
		return driver.Snooze(time.Hour)
	})
	job := runOne(ctx, pool, handlers)
	fmt.Println(job.State, "after", job.Attempt, "attempts")
	// Output: scheduled after 0 attempts
}
