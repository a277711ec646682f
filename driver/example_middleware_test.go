package driver_test

import (
	"context"
	"fmt"
	"time"

	"github.com/awa-pg/awa/driver"
)

// Middleware is around handlers: of all kinds, or of one.
func ExampleMiddleware() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()

	announce := func(ctx context.Context, job *driver.RawJob, next func(context.Context) error) error {
		fmt.Printf("%s %s begins\n", job.Kind, job.Args)
		err := next(ctx)
		fmt.Println("and ends with", err)
		return err
	}
	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		stop()
		fmt.Printf("Hello, %s!\n", job.Args.Name)
		return nil
	}, announce, driver.Timeout(time.Minute))
	fmt.Println(runOne(ctx, pool, handlers).State)
	// Output:
	// greet {"name": "ada"} begins
	// Hello, ada!
	// and ends with <nil>
	// completed
}
