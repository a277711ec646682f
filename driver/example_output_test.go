package driver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"

	"github.com/awa-pg/awa/driver"
)

// What a job leaves behind can be read as long as the job is kept.
func ExampleRawJob_SetOutput() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()

	type greeting struct {
		Text  string `json:"text"`
		Words int    `json:"words"`
	}
	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		job.SetOutput(greeting{Text: "Hello, " + job.Args.Name + "!", Words: 2})
		stop()
		return nil
	})
	job := runOne(ctx, pool, handlers)
	var output greeting
	if err := json.Unmarshal(job.Output, &output); err != nil {
		log.Fatal(err)
	}
	fmt.Println(job.State, output.Text, output.Words)
	// Output: completed Hello, ada! 2
}
