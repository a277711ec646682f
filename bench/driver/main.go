// Package driver measures the Go worker as it is by default, with handlers that do nothing: jobs per second, how soon a
// job is picked up, and how much of the processors the driver takes. Give it a database of its own, freshly migrated,
// on this machine.
package driver

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/driver"
)

const (
	batch    = 500
	depth    = 4000 // jobs on their way, end to end
	name     = "awa-bench-driver"
	tick     = 10 * time.Millisecond // of /proc
	patience = time.Minute
)

// noop is a job of 200 bytes.
type noop struct {
	Data string `json:"data"`
}

func (noop) Kind() string { return "noop" }

var payload = noop{Data: strings.Repeat("x", 188)}

// Main runs the sub-command "driver".
func Main(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("driver", flag.ExitOnError)
	url := flags.String("database-url", os.Getenv("DATABASE_URL"), "a migrated database for this alone")
	jobs := flags.Int("jobs", 200_000, "jobs of each run")
	rounds := flags.Int("rounds", 3, "runs of each kind, in turn")
	length := flags.Duration("for", 20*time.Second, "how long jobs are offered at each rate")
	rates := flags.String("rates", "10,100,1000", "jobs per second to offer")
	slots := flags.Int("slots", 0, "of the worker; 0 for its default")
	takes := flags.Duration("handler", 0, "how long a handler takes")
	profile := flags.String("cpuprofile", "", "file for a profile of the processor time of this process")
	flags.Parse(arguments)
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	return run(ctx, *url, *jobs, *rounds, *slots, *takes, *length, *rates)
}

func run(ctx context.Context, url string, jobs, rounds, slots int, takes, length time.Duration, rates string) error {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return err
	}
	cfg.ConnConfig.RuntimeParams["application_name"] = name
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	var version string
	if err := pool.QueryRow(ctx, "select current_setting('server_version')").Scan(&version); err != nil {
		return err
	}
	b := &bench{pool: pool, client: driver.NewClient(pool), slots: slots, takes: takes}
	fmt.Printf("PostgreSQL %s, jobs of 200 bytes\n\n| | jobs/s | CPU of the driver, µs per job | of its backends | "+
		"share of the driver |\n| --- | --- | --- | --- | --- |\n", version)
	for range rounds {
		if err := b.drain(ctx, jobs); err != nil {
			return err
		}
		if err := b.endToEnd(ctx, jobs); err != nil {
			return err
		}
	}
	fmt.Print("\n| jobs/s offered | jobs | pick-up p50 | p99 | max | CPU of the driver and the producer |\n| --- | --- " +
		"| --- | --- | --- | --- |\n")
	for _, field := range strings.Split(rates, ",") {
		rate, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return err
		}
		if err := b.offer(ctx, rate, length); err != nil {
			return err
		}
	}
	return nil
}

type bench struct {
	pool   *pgxpool.Pool
	client *driver.Client
	slots  int
	takes  time.Duration
}

// work runs a worker with a handler, while f runs.
func (b *bench) work(ctx context.Context, handler func(id int64), f func(context.Context, *driver.Worker) error) error {
	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(_ context.Context, job *driver.Job[noop]) error {
		handler(job.ID)
		if b.takes > 0 {
			time.Sleep(b.takes)
		}
		return nil
	})
	worker, err := driver.NewWorker(b.pool, handlers,
		driver.WorkerConfig{Slots: b.slots,
			Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	stopped := make(chan error, 1)
	go func() { stopped <- worker.Run(working) }()
	err = f(working, worker)
	stop()
	if workErr := <-stopped; err == nil {
		err = workErr
	}
	return err
}

func (b *bench) enqueue(ctx context.Context, n int) error {
	args := make([]driver.Args, n)
	for i := range args {
		args[i] = payload
	}
	_, err := b.client.EnqueueMany(ctx, args, driver.EnqueueOptions{})
	return err
}

// completed waits until the worker has completed n jobs.
func completed(ctx context.Context, w *driver.Worker, n int) error {
	for deadline := time.Now().Add(10 * patience); w.Stats()[0].Completed < int64(n); time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d jobs were completed", w.Stats()[0].Completed, n)
		}
	}
	return nil
}

// drain works off a backlog; nobody else does anything.
func (b *bench) drain(ctx context.Context, jobs int) error {
	for range jobs / batch {
		if err := b.enqueue(ctx, batch); err != nil {
			return err
		}
	}
	before, err := b.cpu(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	return b.work(ctx, func(int64) {}, func(ctx context.Context, w *driver.Worker) error {
		if err := completed(ctx, w, jobs); err != nil {
			return err
		}
		took := time.Since(began)
		after, err := b.cpu(ctx)
		if err != nil {
			return err
		}
		own, backends := after.own-before.own, after.backends-before.backends
		fmt.Printf("| a backlog of %d | %.0f | %.1f | %.1f | %.0f %% |\n", jobs, float64(jobs)/took.Seconds(),
			float64(own.Microseconds())/float64(jobs), float64(backends.Microseconds())/float64(jobs),
			100*float64(own)/float64(own+backends))
		return nil
	})
}

// endToEnd enqueues beside the worker, in the same process.
func (b *bench) endToEnd(ctx context.Context, jobs int) error {
	began := time.Now()
	return b.work(ctx, func(int64) {}, func(ctx context.Context, w *driver.Worker) error {
		for enqueued := 0; enqueued < jobs; enqueued += batch {
			for enqueued-int(w.Stats()[0].Completed) > depth-batch {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				time.Sleep(time.Millisecond)
			}
			if err := b.enqueue(ctx, batch); err != nil {
				return err
			}
		}
		if err := completed(ctx, w, jobs); err != nil {
			return err
		}
		fmt.Printf("| end to end, %d at a time enqueued beside it | %.0f | | | |\n", batch,
			float64(jobs)/time.Since(began).Seconds())
		return nil
	})
}

// offer enqueues one job at a time, at a rate, and measures from when the commit was sent to the start of the handler.
func (b *bench) offer(ctx context.Context, rate float64, length time.Duration) error {
	var mu sync.Mutex
	sent, started := map[int64]time.Time{}, map[int64]time.Time{}
	n := int(rate * length.Seconds())
	handler := func(id int64) {
		now := time.Now()
		mu.Lock()
		started[id] = now
		mu.Unlock()
	}
	return b.work(ctx, handler, func(ctx context.Context, w *driver.Worker) error {
		time.Sleep(time.Second) // until it listens, and sleeps
		before, err := b.cpu(ctx)
		if err != nil {
			return err
		}
		// As many producers as keep up with the rate, each with a share of the schedule, which waits for no answer.
		producers := max(1, int(rate/100))
		began := time.Now()
		errs := make(chan error, producers)
		for p := range producers {
			go func() {
				errs <- func() error {
					for i := p; i < n; i += producers {
						time.Sleep(time.Until(began.Add(time.Duration(float64(i) / rate * float64(time.Second)))))
						tx, err := b.pool.BeginTx(ctx, pgx.TxOptions{})
						if err != nil {
							return err
						}
						id, err := b.client.EnqueueTx(ctx, tx, payload, driver.EnqueueOptions{})
						if err != nil {
							return err
						}
						now := time.Now()
						if err := tx.Commit(ctx); err != nil {
							return err
						}
						mu.Lock()
						sent[id] = now
						mu.Unlock()
					}
					return nil
				}()
			}()
		}
		for range producers {
			if err := <-errs; err != nil {
				return err
			}
		}
		if err := completed(ctx, w, n); err != nil {
			return err
		}
		took := time.Since(began)
		after, err := b.cpu(ctx)
		if err != nil {
			return err
		}
		var waits []time.Duration
		for id, at := range started {
			waits = append(waits, at.Sub(sent[id]))
		}
		slices.Sort(waits)
		fmt.Printf("| %.0f | %d | %.1f ms | %.1f ms | %.1f ms | %.1f %% of a core |\n", rate, len(waits),
			ms(waits[len(waits)/2]), ms(waits[len(waits)*99/100]), ms(waits[len(waits)-1]),
			100*float64(after.own-before.own)/float64(took))
		return nil
	})
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// usage is what was used of the processors.
type usage struct{ own, backends time.Duration }

// cpu returns what this process has used, and the backends of its connections that are still open.
func (b *bench) cpu(ctx context.Context) (u usage, err error) {
	var self syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &self); err != nil {
		return u, err
	}
	u.own = time.Duration(self.Utime.Nano() + self.Stime.Nano())
	rows, _ := b.pool.Query(ctx, "select pid from pg_stat_activity where application_name = $1", name)
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return u, err
	}
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return u, fmt.Errorf("the server is not on this machine: %w", err)
		}
		_, after, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(after)
		for _, field := range fields[11:13] { // utime, stime
			ticks, err := strconv.Atoi(field)
			if err != nil {
				return u, err
			}
			u.backends += time.Duration(ticks) * tick
		}
	}
	return u, nil
}
