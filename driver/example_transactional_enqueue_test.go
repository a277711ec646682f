package driver_test

import (
	"context"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// A job that is enqueued in a transaction exists if and when that commits.
func ExampleClient_EnqueueTx() {
	ctx := context.Background()
	databaseURL, drop, err := testdb.Create(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer drop()
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, "create table users (name text primary key)"); err != nil {
		log.Fatal(err)
	}
	client := driver.NewClient(pool)

	signUp := func(name string) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := client.EnqueueTx(ctx, tx, Greet{Name: name}, driver.EnqueueOptions{}); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "insert into users values ($1)", name)
			return err
		})
	}
	fmt.Println("first:", signUp("ada") == nil)
	fmt.Println("again:", signUp("ada") == nil) // there is such a user: nobody is greeted twice

	counts, err := client.QueueCounts(ctx, driver.DefaultQueue)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("jobs:", counts.Available)
	// Output:
	// first: true
	// again: false
	// jobs: 1
}
