package driver_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/awa-pg/awa/driver"
)

// A worker stops softly at the first signal: it takes no more jobs, and what runs may finish, for as long as
// StopTimeout. A second signal, or the end of that time, ends the contexts of handlers. What then does not return nil
// is given back:
// another
// worker runs it at once, and the attempt does not count.
func ExampleWorker_RunUntilSignal() {
	ctx := context.Background()
	pool, drop := examplePool(ctx)
	defer drop()

	signalled := make(chan struct{})
	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		if job.Args.Name == "quick" {
			<-signalled
			fmt.Println("finishes")
			return nil
		}
		<-ctx.Done()
		fmt.Println("is stopped")
		return ctx.Err()
	})
	client := driver.NewClient(pool)
	var ids []int64
	for _, name := range []string{"quick", "slow"} {
		id, err := client.Enqueue(ctx, Greet{Name: name}, driver.EnqueueOptions{})
		if err != nil {
			log.Fatal(err)
		}
		ids = append(ids, id)
	}
	worker, err := driver.NewWorker(pool, handlers, driver.WorkerConfig{
		StopTimeout: time.Second, // 30 s by default
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}

	go func() { // so that the example ends: kill -TERM
		for worker.Stats()[0].Running < 2 {
			time.Sleep(time.Millisecond)
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			log.Fatal(err)
		}
		close(signalled)
	}()
	if err := worker.RunUntilSignal(ctx); err != nil {
		log.Fatal(err)
	}
	for _, id := range ids {
		job, err := client.Job(ctx, id)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(job.State, "after", job.Attempt, "attempts")
	}
	// Unordered output:
	// finishes
	// is stopped
	// completed after 1 attempts
	// available after 0 attempts
}
