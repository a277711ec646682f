package driver_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"

	"github.com/awa-pg/awa/driver"
)

// One worker serves several queues. While all have more jobs than it has slots, each gets slots by its weight, so that
// a busy one does not starve the others.
func ExampleQueueConfig() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()

	client := driver.NewClient(pool)
	for _, queue := range []string{"mail", "reports"} {
		if _, err := client.Enqueue(ctx, Greet{Name: queue}, driver.EnqueueOptions{Queue: queue}); err != nil {
			log.Fatal(err)
		}
	}
	handlers := driver.NewHandlers()
	greeted := make(chan string, 2)
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		greeted <- job.Queue
		if len(greeted) == 2 {
			stop()
		}
		return nil
	})
	worker, err := driver.NewWorker(pool, handlers, driver.WorkerConfig{
		Slots: 20,
		Queues: []driver.QueueConfig{
			{Name: "mail", Weight: 3},
			{Name: "reports", Slots: 5}, // never more than five at a time
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := worker.Run(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("greeted:", len(greeted))
	// Output: greeted: 2
}
