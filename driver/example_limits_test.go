package driver_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/awa-pg/awa/driver"
)

// The jobs of each customer begin in the order of their enqueuing, one at a time, and at most 100 of the queue in a
// minute. The limits hold over all workers and processes.
func ExampleClient_ConfigureQueue_limits() {
	ctx := context.Background()
	pool, drop := examplePool(ctx)
	defer drop()

	client := driver.NewClient(pool)
	if err := client.ConfigureQueue(ctx, "email", driver.QueueSettings{
		GroupOrder: driver.Set(driver.OrderStrict),
		Rate:       driver.Set(driver.Rate{Jobs: 100, Per: time.Minute}),
	}); err != nil {
		log.Fatal(err)
	}
	for n := range 2 {
		job := Greet{Name: fmt.Sprint("customer 7, mail ", n+1)}
		if _, err := client.Enqueue(ctx, job, driver.EnqueueOptions{Queue: "email", GroupKey: "customer 7"}); err != nil {
			log.Fatal(err)
		}
	}
	queues, err := client.ListQueues(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(queues[0].Queue, queues[0].GroupOrder, queues[0].Rate.Jobs)
	// Output: email strict 100
}
