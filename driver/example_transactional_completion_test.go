package driver_test

import (
	"context"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5"

	"github.com/awa-pg/awa/driver"
)

// A job that is completed in the transaction that has its effects has them once, although it may run more than once:
// here the first attempt loses its connection before the commit.
func ExampleRawJob_CompleteTx() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()
	if _, err := pool.Exec(ctx, "create table greetings (name text)"); err != nil {
		log.Fatal(err)
	}

	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "insert into greetings values ($1)", job.Args.Name); err != nil {
				return err
			}
			if err := job.CompleteTx(ctx, tx); err != nil {
				return err // ErrStaleReceipt, say: roll back
			}
			if job.Attempt == 1 {
				return driver.RetryAfter(0, tx.Conn().Close(ctx))
			}
			stop()
			return nil // commits: the job is completed
		})
	})
	job := runOne(ctx, pool, handlers)
	var greetings int
	if err := pool.QueryRow(context.Background(), "select count(*) from greetings").Scan(&greetings); err != nil {
		log.Fatal(err)
	}
	fmt.Println(job.State, "after", job.Attempt, "attempts, greetings:", greetings)
	// Output: completed after 2 attempts, greetings: 1
}
