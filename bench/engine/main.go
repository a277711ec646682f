// Command engine measures the SQL functions of Awa by themselves: milliseconds per call, WAL and dead rows per job, and whether
// any of it grows with history or with somebody's open transaction. Give it a database of its own, freshly migrated.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const batch = 500

var payload = json.RawMessage(`{"data": "` + strings.Repeat("x", 188) + `"}`) // 200 bytes

func main() {
	url := flag.String("database-url", os.Getenv("DATABASE_URL"), "a migrated database for the measurements alone")
	history := flag.String("history", "0,1000000,5000000", "rows of completed history to measure at, ascending")
	rounds := flag.Int("rounds", 5, "rounds; the median of their medians is printed")
	flag.Parse()
	log.SetFlags(0)
	if err := run(context.Background(), *url, *history, *rounds); err != nil {
		log.Fatal(err)
	}
}

type bench struct {
	ctx    context.Context
	db     *pgx.Conn
	queue  string
	rounds int
}

func run(ctx context.Context, url, history string, rounds int) error {
	db, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer db.Close(ctx)
	b := &bench{ctx: ctx, db: db, queue: fmt.Sprintf("bench-%d", time.Now().UnixNano()), rounds: rounds}

	var version string
	if err := db.QueryRow(ctx, "select version()").Scan(&version); err != nil {
		return err
	}
	fmt.Println(version)
	fmt.Printf("payload %d bytes, medians of %d rounds\n\n", len(payload), rounds)

	done := 0
	for _, step := range strings.Split(history, ",") {
		var want int
		if _, err := fmt.Sscan(step, &want); err != nil {
			return fmt.Errorf("-history: %w", err)
		}
		if want > done {
			if err := b.grow(want - done); err != nil {
				return err
			}
			done = want
		}
		if err := b.report(fmt.Sprintf("%d jobs of history", done)); err != nil {
			return err
		}
	}
	release, err := b.pin(url)
	if err != nil {
		return err
	}
	if err := b.report("the same, a transaction with an id held open"); err != nil {
		return err
	}
	release()
	return b.million()
}

// pin holds a transaction open that has an id and a snapshot, until the returned function is called.
func (b *bench) pin(url string) (func(), error) {
	db, err := pgx.Connect(b.ctx, url)
	if err != nil {
		return nil, err
	}
	_, err = db.Exec(b.ctx, "begin isolation level repeatable read; select pg_current_xact_id()")
	return func() { db.Close(b.ctx) }, err
}

// report measures every call once the way a worker would use it, and prints one line per call.
func (b *bench) report(title string) error {
	fmt.Printf("%s:\n", title)
	var many, claims, completes, ones, claim1s, complete1s, pings []float64
	for range b.rounds {
		var m, c, k, e1, c1, k1, p []float64
		for range 40 {
			var err error
			var jobs, receipts []int64
			if err = timed(&m, func() error { return b.enqueueMany(batch) }); err != nil {
				return err
			}
			if err = timed(&c, func() error { jobs, receipts, err = b.claim(batch); return err }); err != nil {
				return err
			}
			if len(jobs) != batch {
				return fmt.Errorf("claim returned %d jobs of %d", len(jobs), batch)
			}
			if err = timed(&k, func() error { return b.completeMany(jobs, receipts) }); err != nil {
				return err
			}
		}
		for range 200 {
			var err error
			var jobs, receipts []int64
			if err = timed(&p, func() error { _, err := b.db.Exec(b.ctx, "select 1"); return err }); err != nil {
				return err
			}
			if err = timed(&e1, func() error {
				_, err := b.db.Exec(b.ctx, "select awa.enqueue($1, 'bench', $2)", b.queue, payload)
				return err
			}); err != nil {
				return err
			}
			if err = timed(&c1, func() error { jobs, receipts, err = b.claim(1); return err }); err != nil {
				return err
			}
			if len(jobs) != 1 {
				return fmt.Errorf("claim returned %d jobs of 1", len(jobs))
			}
			if err = timed(&k1, func() error {
				_, err := b.db.Exec(b.ctx, "select awa.complete($1, $2)", jobs[0], receipts[0])
				return err
			}); err != nil {
				return err
			}
		}
		many, claims, completes = append(many, median(m)), append(claims, median(c)), append(completes, median(k))
		ones, claim1s, complete1s, pings = append(ones, median(e1)), append(claim1s, median(c1)), append(complete1s, median(k1)), append(pings, median(p))
	}
	for _, line := range []struct {
		name string
		ms   []float64
	}{
		{"enqueue_many(500)", many}, {"claim(500)", claims}, {"complete_many(500)", completes},
		{"select 1", pings}, {"enqueue", ones}, {"claim(1)", claim1s}, {"complete", complete1s},
	} {
		fmt.Printf("  %-20s %7.3f ms  (%.3f to %.3f)\n", line.name, median(line.ms), slices.Min(line.ms), slices.Max(line.ms))
	}
	return nil
}

// grow enqueues, claims and completes n jobs.
func (b *bench) grow(n int) error {
	for ; n > 0; n -= batch {
		if err := b.cycle(min(n, batch)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) cycle(n int) error {
	if err := b.enqueueMany(n); err != nil {
		return err
	}
	jobs, receipts, err := b.claim(n)
	if err != nil {
		return err
	}
	return b.completeMany(jobs, receipts)
}

// million runs a million jobs through, and prints the WAL and the dead rows that they left.
func (b *bench) million() error {
	const jobs = 1_000_000
	if _, err := b.db.Exec(b.ctx, "checkpoint"); err != nil {
		return err
	}
	var from string
	if err := b.db.QueryRow(b.ctx, "select pg_current_wal_insert_lsn()::text").Scan(&from); err != nil {
		return err
	}
	started := time.Now()
	if err := b.grow(jobs); err != nil {
		return err
	}
	took := time.Since(started)
	var wal int64
	if err := b.db.QueryRow(b.ctx, "select (pg_current_wal_insert_lsn() - $1::pg_lsn)::bigint", from).Scan(&wal); err != nil {
		return err
	}
	var dead, updated, deleted int64
	if _, err := b.db.Exec(b.ctx, "select pg_stat_clear_snapshot()"); err != nil {
		return err
	}
	err := b.db.QueryRow(b.ctx, `
		select sum(n_dead_tup), sum(n_tup_upd), sum(n_tup_del) from pg_stat_user_tables
		 where schemaname = 'awa' and relname ~ '^(ready_entries|lease_claims|lease_claim_closures)'`).Scan(&dead, &updated, &deleted)
	fmt.Printf("a million jobs in batches of %d, one connection: %.0f jobs/s, %.0f bytes of WAL per job, %d dead rows, %d updates, %d deletes on the hot families\n",
		batch, jobs/took.Seconds(), float64(wal)/jobs, dead, updated, deleted)
	return err
}

func (b *bench) enqueueMany(n int) error {
	args := make([]json.RawMessage, n)
	for i := range args {
		args[i] = payload
	}
	rows, err := b.db.Query(b.ctx, "select awa.enqueue_many($1, 'bench', $2::jsonb[])", b.queue, args)
	if err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}

func (b *bench) claim(n int) (jobs, receipts []int64, err error) {
	rows, err := b.db.Query(b.ctx, "select * from awa.claim($1, $2)", b.queue, n)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var job, receipt int64
		if err := rows.Scan(&job, &receipt, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil); err != nil {
			return nil, nil, err
		}
		jobs, receipts = append(jobs, job), append(receipts, receipt)
	}
	return jobs, receipts, rows.Err()
}

func (b *bench) completeMany(jobs, receipts []int64) error {
	rows, err := b.db.Query(b.ctx, "select awa.complete_many($1, $2)", jobs, receipts)
	if err != nil {
		return err
	}
	defer rows.Close()
	if rows.Next() {
		return fmt.Errorf("complete_many refused jobs")
	}
	return rows.Err()
}

func timed(into *[]float64, call func() error) error {
	started := time.Now()
	err := call()
	*into = append(*into, float64(time.Since(started).Microseconds())/1000)
	return err
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
