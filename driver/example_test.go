package driver_test

import (
	"context"
	"log"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

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
	return runOneWith(ctx, pool, handlers, driver.EnqueueOptions{}, "{}")
}

// runOneWith is runOne, with options of the job, and settings of the queue.
func runOneWith(
	ctx context.Context, pool *pgxpool.Pool, handlers *driver.Handlers, opts driver.EnqueueOptions, settings string,
) driver.JobInfo {
	client := driver.NewClient(pool)
	id, err := client.Enqueue(ctx, Greet{Name: "ada"}, opts)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := pool.Exec(ctx, "select awa.configure_queue($1, $2)", driver.DefaultQueue, settings); err != nil {
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
