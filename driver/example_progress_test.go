package driver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/awa-pg/awa/driver"
)

// An attempt says how far it is, and the next one goes on from there.
func ExampleRawJob_SetProgress() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()

	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		greeted := 0
		if job.Progress != nil {
			if err := json.Unmarshal(job.Progress, &greeted); err != nil {
				return err
			}
		}
		for ; greeted < 4; greeted++ {
			if greeted == 2 && job.Attempt == 1 {
				return driver.RetryAfter(0, errors.New("out of breath"))
			}
			fmt.Printf("attempt %d: Hello, %s!\n", job.Attempt, job.Args.Name)
			if err := job.SetProgress(ctx, greeted+1); err != nil {
				return err
			}
		}
		stop()
		return nil
	})
	fmt.Println(runOne(ctx, pool, handlers).State)
	// Output:
	// attempt 1: Hello, ada!
	// attempt 1: Hello, ada!
	// attempt 2: Hello, ada!
	// attempt 2: Hello, ada!
	// completed
}
