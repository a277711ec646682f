// Package lateness measures how long after their time scheduled jobs, and those of schedules, begin with Go workers,
// and what a worker costs while it has nothing to do.
package lateness

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/driver"
)

var (
	flags    = flag.NewFlagSet("lateness", flag.ExitOnError)
	url      = flags.String("database-url", os.Getenv("DATABASE_URL"), "a migrated database for this alone")
	deferred = flags.Int("deferred", 1_000_000, "jobs that are deferred for a year, beside those that are measured")
	rate     = flags.Int("rate", 10_000, "jobs that come due each second in the second part")
	seconds  = flags.Int("seconds", 10, "for how long")
	workers  = flags.Int("workers", 2, "workers")
	pinned   = flags.Bool("pinned", false, "beside a transaction that holds a snapshot")
	idle     = flags.Duration("idle", time.Minute, "for how long workers are idle")
	minutes  = flags.Int("minutes", 3, "for how long schedules fire each minute")
	parts    = flags.String("parts", "idle,seconds,rate,schedules", "what to measure")
)

type nothing struct{}

func (nothing) Kind() string { return "nothing" }

// Main runs the sub-command "lateness".
func Main(ctx context.Context, arguments []string) error {
	flags.Parse(arguments)
	return run(ctx)
}

func run(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, *url)
	if err != nil {
		return err
	}
	defer pool.Close()
	if strings.Contains(*parts, "idle") {
		if err := measureIdle(ctx, pool); err != nil {
			return err
		}
	}
	if *pinned {
		conn, err := pgx.Connect(ctx, *url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, "begin isolation level repeatable read; select pg_current_xact_id(), 1"); err != nil {
			return err
		}
	}
	if strings.Contains(*parts, "seconds") {
		at := time.Now().Add(5 * time.Second).Truncate(time.Second)
		due := map[time.Time]int{}
		for i := range *seconds {
			due[at.Add(time.Duration(i)*time.Second)] = 1000
		}
		if err := measureLateness(ctx, pool, "1000 at each second", due); err != nil {
			return err
		}
	}
	if strings.Contains(*parts, "rate") {
		if err := enqueue(ctx, pool, "later", time.Now().AddDate(1, 0, 0), *deferred); err != nil {
			return err
		}
		if _, err := pool.Exec(ctx, "vacuum analyze awa.deferred_jobs"); err != nil {
			return err
		}
		at := time.Now().Add(10 * time.Second).Truncate(time.Second)
		due := map[time.Time]int{}
		for i := range *seconds * 100 {
			due[at.Add(time.Duration(i)*10*time.Millisecond)] = *rate / 100
		}
		what := fmt.Sprintf("%d each second, beside %d", *rate, *deferred)
		if err := measureLateness(ctx, pool, what, due); err != nil {
			return err
		}
	}
	if strings.Contains(*parts, "schedules") {
		for _, isOne := range []bool{true, false} {
			if err := measureSchedules(ctx, pool, isOne); err != nil {
				return err
			}
		}
	}
	return nil
}

// measureSchedules measures 1,000 schedules that fire each minute. A job is ready at the time of its entry; others see
// it when fire_due has committed, which its claim shows. They have one expression, or each has another one, which is
// computed by itself: all minutes but one, and all days but one, which do not come within the next nine minutes.
func measureSchedules(ctx context.Context, pool *pgxpool.Pool, isOne bool) error {
	_, err := pool.Exec(ctx, `
		select awa.sync_schedules('lateness', jsonb_agg(jsonb_build_object('name', 'schedule ' || n, 'queue', 'schedules',
		         'kind', 'nothing', 'args', jsonb_build_object('n', n), 'cron', case when $1 then '* * * * *' else format(
		         '%s * %s * *', (select string_agg(m::text, ',') from generate_series(0, 59) m
		           where m <> (extract(minute from now() at time zone 'UTC')::int + 10 + n % 45) % 60),
		         (select string_agg(d::text, ',') from generate_series(1, 31) d
		           where d <> 1 + (extract(day from now() at time zone 'UTC')::int + 1 + n / 45) % 31)) end)))
		  from generate_series(1, 1000) n`, isOne)
	if err != nil {
		return err
	}
	stop, err := work(ctx, pool, "schedules")
	if err != nil {
		return err
	}
	began := time.Now().Truncate(time.Minute).Add(time.Minute)
	time.Sleep(time.Until(began.Add(time.Duration(*minutes-1)*time.Minute + 10*time.Second)))
	if _, err := pool.Exec(ctx, "select awa.sync_schedules('lateness', '[]')"); err != nil {
		return err
	}
	if err := stop(); err != nil {
		return err
	}
	var ms json.RawMessage
	err = pool.QueryRow(ctx, `
		with jobs as (
		  select s.at, 1000 * extract(epoch from j.run_at - s.at) as ready,
		         1000 * extract(epoch from j.attempted_at - s.at) as begun
		    from awa.jobs j, cast(j.metadata #>> '{schedule,at}' as timestamptz) s(at)
		   where j.queue = 'schedules' and j.state = 'completed' and s.at >= $1
		)
		select jsonb_build_object('jobs', count(*), 'ready', percentile_disc('{0.5,0.99,1}'::float8[]) within group (order by
		         round(ready)), 'begun', percentile_disc('{0.5,0.99,1}'::float8[]) within group (order by round(begun)),
		         'longest of each minute', (select array_agg(m.longest order by m.at)
		                                      from (select at, round(max(begun)) as longest from jobs group by at) m))
		  from jobs`, began).Scan(&ms)
	what := map[bool]string{true: "one expression for all", false: "an expression for each"}[isOne]
	fmt.Printf("1000 schedules each minute, %s: p50, p99, longest: %s (ms)\n", what, ms)
	return err
}

func enqueue(ctx context.Context, pool *pgxpool.Pool, queue string, at time.Time, n int) error {
	for n > 0 {
		part := min(n, 10_000)
		_, err := pool.Exec(ctx, `select count(*) from awa.enqueue_many($1, 'nothing',
			array_fill('{}'::jsonb, array[$2::int]), run_at => $3)`, queue, part, at)
		if err != nil {
			return err
		}
		n -= part
	}
	return nil
}

// work runs the workers until the function that it returns is called.
func work(ctx context.Context, pool *pgxpool.Pool, queue string) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(context.Context, *driver.Job[nothing]) error { return nil })
	var running sync.WaitGroup
	errs := make([]error, *workers)
	for i := range *workers {
		w, err := driver.NewWorker(pool, handlers, driver.WorkerConfig{
			Queues: []driver.QueueConfig{{Name: queue}}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			cancel()
			return nil, err
		}
		running.Go(func() { errs[i] = w.Run(ctx) })
	}
	return func() error {
		cancel()
		running.Wait()
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func measureLateness(ctx context.Context, pool *pgxpool.Pool, queue string, due map[time.Time]int) error {
	total := 0
	for at, n := range due {
		if err := enqueue(ctx, pool, queue, at, n); err != nil {
			return err
		}
		total += n
	}
	stop, err := work(ctx, pool, queue)
	if err != nil {
		return err
	}
	for {
		time.Sleep(time.Second)
		var left int
		if err := pool.QueryRow(ctx, "select available + scheduled + running from awa.queue_counts($1)", queue).
			Scan(&left); err != nil {
			return err
		}
		if left == 0 {
			break
		}
	}
	if err := stop(); err != nil {
		return err
	}
	var ms json.RawMessage
	err = pool.QueryRow(ctx, `
		select jsonb_build_object('jobs', count(*), 'early', count(*) filter (where j.attempted_at < j.run_at),
		         'p50', round(1000 * percentile_cont(0.5) within group (order by extract(epoch from attempted_at - run_at))),
		         'p99', round(1000 * percentile_cont(0.99) within group (order by extract(epoch from attempted_at - run_at))),
		         'max', round(1000 * max(extract(epoch from attempted_at - run_at))))
		  from awa.jobs j where j.queue = $1 and j.state = 'completed'`, queue).Scan(&ms)
	fmt.Printf("%s: of %d: %s (ms)\n", queue, total, ms)
	return err
}

// usage is what the sessions of this database have used.
type usage struct {
	xids, wal int64
	cpu       float64 // seconds
}

func measureIdle(ctx context.Context, pool *pgxpool.Pool) error {
	stop, err := work(ctx, pool, "idle")
	if err != nil {
		return err
	}
	time.Sleep(7 * time.Second)
	before, err := used(ctx, pool)
	if err != nil {
		return err
	}
	time.Sleep(*idle)
	after, err := used(ctx, pool)
	if err != nil {
		return err
	}
	hours := idle.Hours()
	fmt.Printf("%d idle workers, each hour: %.0f transaction ids, %.0f KiB of WAL, %.1f s of the server's CPU\n", *workers,
		float64(after.xids-before.xids)/hours, float64(after.wal-before.wal)/1024/hours, (after.cpu-before.cpu)/hours)
	return stop()
}

func used(ctx context.Context, pool *pgxpool.Pool) (u usage, err error) {
	var pids []int
	err = pool.QueryRow(ctx, `
		select pg_snapshot_xmax(pg_current_snapshot())::text::bigint, pg_current_wal_insert_lsn() - '0/0',
		       array_agg(pid order by pid)
		  from pg_stat_activity where datname = current_database()`).Scan(&u.xids, &u.wal, &pids)
	for _, pid := range pids {
		text, readErr := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		var ns int64
		if _, scanErr := fmt.Sscan(string(text), &ns); readErr == nil && scanErr == nil {
			u.cpu += float64(ns) / 1e9
		}
	}
	return u, err
}
