package driver_test

import (
	"context"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// Greet is a job: its fields are the arguments, its Kind finds the handler.
type Greet struct {
	Name string `json:"name"`
}

func (Greet) Kind() string { return "greet" }

// The first job: enqueue it, and run a worker until it is done.
func Example() {
	ctx := context.Background()
	databaseURL, drop, err := testdb.Create(ctx) // yours: driver.Migrate(ctx, databaseURL) installs Awa in it
	if err != nil {
		log.Fatal(err)
	}
	defer drop()
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	client := driver.NewClient(pool)
	if _, err := client.Enqueue(ctx, Greet{Name: "world"}, driver.EnqueueOptions{}); err != nil {
		log.Fatal(err)
	}

	ctx, stop := context.WithCancel(ctx) // a program that serves would use signal.NotifyContext
	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		fmt.Printf("Hello, %s! (attempt %d)\n", job.Args.Name, job.Attempt)
		stop()
		return nil
	})
	worker, err := driver.NewWorker(pool, handlers, driver.WorkerConfig{})
	if err != nil {
		log.Fatal(err)
	}
	if err := worker.Run(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: Hello, world! (attempt 1)
}
