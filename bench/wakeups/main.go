// Package wakeups measures how soon the Go worker, as it is by default, picks up jobs from transactions that stay open
// after they have enqueued: in bursts, so that the notifications of most of them are suppressed. Then how many claims
// the worker makes while it is idle. Give it a database of its own, freshly migrated, on this machine.
package wakeups

import (
	"context"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/driver"
)

type noop struct{}

func (noop) Kind() string { return "noop" }

// Main runs the sub-command "wakeups".
func Main(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("wakeups", flag.ExitOnError)
	url := flags.String("database-url", os.Getenv("DATABASE_URL"), "a migrated database for this alone")
	bursts := flags.Int("bursts", 30, "bursts of transactions")
	producers := flags.Int("producers", 5, "transactions in a burst")
	open := flags.Duration("open", 100*time.Millisecond, "how long each stays open, give or take half of it")
	rollBack := flags.Float64("roll-back", 0.1, "the share of them that rolls back")
	flags.Parse(arguments)
	return run(ctx, *url, *bursts, *producers, *open, *rollBack)
}

func run(ctx context.Context, url string, bursts, producers int, open time.Duration, rollBack float64) error {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return err
	}
	cfg.MaxConns = int32(producers) + 4
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	var mu sync.Mutex
	committed, started := map[int64]time.Time{}, map[int64]time.Time{}
	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(_ context.Context, job *driver.Job[noop]) error {
		mu.Lock()
		defer mu.Unlock()
		started[job.ID] = time.Now()
		return nil
	})
	worker, err := driver.NewWorker(pool, handlers,
		driver.WorkerConfig{Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	working, stop := context.WithCancel(ctx)
	result := make(chan error, 1)
	go func() { result <- worker.Run(working) }()
	defer func() { stop(); <-result }()

	client := driver.NewClient(pool)
	produce := func() error {
		time.Sleep(rand.N(3 * time.Millisecond))
		tx, err := pool.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx)
		id, err := client.EnqueueTx(ctx, tx, noop{}, driver.EnqueueOptions{})
		if err != nil {
			return err
		}
		time.Sleep(open/2 + rand.N(open))
		if rand.Float64() < rollBack {
			return nil
		}
		mu.Lock()
		committed[id] = time.Now()
		mu.Unlock()
		return tx.Commit(ctx)
	}
	for range bursts {
		time.Sleep(1500*time.Millisecond + rand.N(time.Second)) // the worker falls asleep
		var all sync.WaitGroup
		for range producers {
			all.Go(func() {
				if err := produce(); err != nil {
					log.Print(err)
				}
			})
		}
		all.Wait()
	}
	time.Sleep(3 * time.Second)
	var waits []time.Duration
	mu.Lock()
	for id, at := range committed {
		waits = append(waits, started[id].Sub(at))
	}
	mu.Unlock()
	slices.Sort(waits)
	at := func(q float64) time.Duration {
		return waits[min(int(q*float64(len(waits))), len(waits)-1)].Round(100 * time.Microsecond)
	}
	late := 0
	for _, w := range waits {
		if w >= 500*time.Millisecond {
			late++
		}
	}
	fmt.Printf("%d jobs: p50 %s, p90 %s, p99 %s, max %s; %.1f %% waited for half a second or more\n", len(waits), at(0.5),
		at(0.9), at(0.99), at(1), 100*float64(late)/float64(len(waits)))

	calls := func() (n int64, err error) {
		err = pool.QueryRow(ctx,
			"select coalesce(sum(calls), 0)::bigint from pg_stat_user_functions where schemaname = 'awa' and funcname = "+
				"'claim'").Scan(&n)
		return n, err
	}
	before, err := calls()
	if err != nil {
		return err
	}
	time.Sleep(10 * time.Second)
	after, err := calls()
	if err != nil {
		return err
	}
	fmt.Printf("idle: %.1f claims/s (with track_functions = all)\n", float64(after-before)/10)
	return nil
}
