package driver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
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

// What no retry can cure ends at once.
func ExampleDiscard() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()

	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		stop()
		return fmt.Errorf("greet %s: %w", job.Args.Name, driver.Discard(errors.New("no such user")))
	})
	job := runOne(ctx, pool, handlers)
	fmt.Printf("%s after %d of %d attempts: %s\n", job.State, job.Attempt, job.MaxAttempts, job.Errors[0].Error)
	// Output: failed after 1 of 25 attempts: greet ada: no such user
}

// A job that is not wanted any more is no failure.
func ExampleCancel() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()

	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		stop()
		return driver.Cancel("has left")
	})
	job := runOne(ctx, pool, handlers)
	fmt.Printf("%s: %s\n", job.State, job.Errors[0].Error)
	// Output: cancelled: has left
}

// A handler that knows when to try again says so.
func ExampleRetryAfter() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()

	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		stop()
		return driver.RetryAfter(time.Hour, errors.New("too many requests"))
	})
	job := runOne(ctx, pool, handlers)
	fmt.Println(job.State, "after", job.Attempt, "attempt")
	fmt.Println("in about an hour:", time.Until(job.RunAt).Round(time.Hour) == time.Hour)
	// Output:
	// retryable after 1 attempt
	// in about an hour: true
}

// An attempt says how far it is, and the next one goes on from there.
func ExampleJob_SetProgress() {
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

// examplePool returns a pool on a new database; drop drops it.
func examplePool(ctx context.Context) (pool *pgxpool.Pool, drop func()) {
	databaseURL, dropDatabase, err := testdb.Create(ctx)
	if err != nil {
		log.Fatal(err)
	}
	if pool, err = pgxpool.New(ctx, databaseURL); err != nil {
		log.Fatal(err)
	}
	return pool, func() {
		pool.Close()
		if err := dropDatabase(); err != nil {
			log.Fatal(err)
		}
	}
}

// runOne enqueues a job, runs a worker until its handler stops it, and returns what became of the job.
func runOne(ctx context.Context, pool *pgxpool.Pool, handlers *driver.Handlers) driver.JobInfo {
	client := driver.NewClient(pool)
	id, err := client.Enqueue(ctx, Greet{Name: "ada"}, driver.EnqueueOptions{})
	if err != nil {
		log.Fatal(err)
	}
	worker, err := driver.NewWorker(pool, handlers, driver.WorkerConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		log.Fatal(err)
	}
	if err := worker.Run(ctx); err != nil {
		log.Fatal(err)
	}
	job, err := client.Job(context.Background(), id)
	if err != nil {
		log.Fatal(err)
	}
	return job
}
