package driver_test

import (
	"context"
	"fmt"
	"log"

	"github.com/awa-pg/awa/driver"
)

// Of a unique job there is one at a time. To enqueue it again is no error: it gives the id of the one that there is.
func ExampleClient_EnqueueUnique() {
	ctx := context.Background()
	pool, drop := examplePool(ctx)
	defer drop()

	client := driver.NewClient(pool)
	greetOnce := driver.UniqueOptions{By: []string{"kind", "args"}} // as is the default
	first, inserted, err := client.EnqueueUnique(ctx, Greet{Name: "ada"}, greetOnce, driver.EnqueueOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("first:", inserted)
	second, inserted, err := client.EnqueueUnique(ctx, Greet{Name: "ada"}, greetOnce, driver.EnqueueOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("again:", inserted, "the same:", first == second)

	_, cancelled, err := client.CancelByUniqueKey(ctx, Greet{Name: "ada"}, greetOnce, driver.DefaultQueue)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("cancelled:", cancelled)
	// Output:
	// first: true
	// again: false the same: true
	// cancelled: true
}
