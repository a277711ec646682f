// Package engine measures the SQL functions of Awa by themselves: milliseconds per call, WAL and dead rows per job, and
// whether any of it grows with history or with an open transaction elsewhere. Give it a database of its own, freshly
// migrated; it clones it for each length of history.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const batch = 500

// rescued is how many attempts each measured call of rescue ends.
const rescued = 100

var payload = json.RawMessage(`{"data": "` + strings.Repeat("x", 188) + `"}`) // 200 bytes

// Main runs the sub-command "engine".
func Main(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("engine", flag.ExitOnError)
	url := flags.String("database-url", os.Getenv("DATABASE_URL"), "a migrated database for the measurements alone")
	history := flags.String("history", "0,1000000,5000000", "rows of completed history to measure at, ascending")
	beside := flags.String("beside", "", "another such database, of another version, say, to measure in turn")
	rounds := flags.Int("rounds", 5, "rounds; the median of their medians is printed")
	flags.Parse(arguments)
	return run(ctx, *url, *beside, *history, *rounds)
}

type bench struct {
	ctx context.Context
	db  *pgx.Conn
}

const queue = "bench"

func open(ctx context.Context, config *pgx.ConnConfig, database string) (*bench, error) {
	config = config.Copy()
	if database != "" {
		config.Database = database
	}
	config.RuntimeParams["synchronous_commit"] = "off" // the functions are measured, not the disk
	db, err := pgx.ConnectConfig(ctx, config)
	return &bench{ctx, db}, err
}

func run(ctx context.Context, url, beside, history string, rounds int) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	admin, err := open(ctx, config, "postgres")
	if err != nil {
		return err
	}
	defer admin.db.Close(ctx)
	var version string
	if err := admin.db.QueryRow(ctx, "select version()").Scan(&version); err != nil {
		return err
	}
	fmt.Println(version)
	fmt.Printf("payload %d bytes, synchronous_commit = off; medians of %d rounds, each the median of its calls\n",
		len(payload), rounds)

	// A database for each length of history, so that they can be measured in turn: machines change their speed from
	// minute to minute.
	var stages []*stage
	done := 0
	for _, step := range strings.Split(history, ",") {
		var want int
		if _, err := fmt.Sscan(step, &want); err != nil {
			return fmt.Errorf("-history: %w", err)
		}
		grown, err := open(ctx, config, "")
		if err != nil {
			return err
		}
		if err := grown.grow(want - done); err != nil {
			return err
		}
		done = want
		grown.db.Close(ctx)
		name := fmt.Sprint(config.Database, "_", want)
		if _, err := admin.db.Exec(ctx,
			fmt.Sprintf("create database %q template %q strategy file_copy", name, config.Database)); err != nil {
			return err
		}
		defer admin.db.Exec(ctx, fmt.Sprintf("drop database %q with (force)", name))
		b, err := open(ctx, config, name)
		if err != nil {
			return err
		}
		defer b.db.Close(ctx)
		stages = append(stages, &stage{bench: b, title: fmt.Sprintf("%d jobs of history", want)})
	}
	last := stages[len(stages)-1].bench
	if beside != "" {
		other, err := pgx.ParseConfig(beside)
		if err != nil {
			return err
		}
		b, err := open(ctx, other, "")
		if err != nil {
			return err
		}
		defer b.db.Close(ctx)
		stages = append(stages, &stage{bench: b, title: "the other database"})
	}
	pinner, err := open(ctx, last.db.Config(), "")
	if err != nil {
		return err
	}
	defer pinner.db.Close(ctx)
	pinned := &stage{bench: last, title: "the same, pinned", pinner: pinner}

	for range rounds {
		for _, s := range append(stages, pinned) {
			if err := s.measure(); err != nil {
				return fmt.Errorf("%s: %w", s.title, err)
			}
		}
	}
	fmt.Printf("%-22s", "ms per call")
	for _, call := range calls {
		fmt.Printf("%21s", call)
	}
	fmt.Println()
	for _, s := range append(stages, pinned) {
		s.print()
	}
	if err := last.million(); err != nil {
		return err
	}
	return last.reads()
}

// reads measures what people look at, beside all that history and a million jobs that are ready.
func (b *bench) reads() error {
	const ready = 1_000_000
	for range ready / batch {
		if err := b.enqueueMany(batch); err != nil {
			return err
		}
	}
	started := time.Now()
	for {
		var rest int64 // maintenance counts what is closed; a worker has it done every few seconds
		if err := b.exec("select awa.fold()"); err != nil {
			return err
		}
		err := b.db.QueryRow(b.ctx, `
			select count(*) from awa.lease_claims c join awa.queue_rollups r on r.lane = c.lane
			 where c.lane_seq > r.closed_seq`).Scan(&rest)
		if err != nil {
			return err
		}
		if rest == 0 {
			break
		}
	}
	if err := b.exec("select awa.promote_due()"); err != nil {
		return err
	}
	fmt.Printf("%d jobs ready besides; counting the past took %.1f s once\n", ready, time.Since(started).Seconds())
	var newest int64
	if err := b.db.QueryRow(b.ctx, "select last_value from awa.job_ids").Scan(&newest); err != nil {
		return err
	}
	for _, read := range []struct {
		what, sql string
		args      []any
	}{
		{"queue_counts()", "select * from awa.queue_counts()", nil},
		{"job, the newest", "select * from awa.job($1)", []any{newest}},
		{"job, in the middle", "select * from awa.job($1)", []any{newest / 2}},
		{"list_jobs()", "select * from awa.list_jobs()", nil},
		{"list_jobs(available)", "select * from awa.list_jobs(state => 'available')", nil},
		{"list_jobs(running)", "select * from awa.list_jobs(state => 'running')", nil},
		{"explain_job, the newest", "select awa.explain_job($1)", []any{newest}},
		{"cancel, the newest", "select awa.cancel($1::bigint - $2)", nil},
	} {
		var ms []float64
		for i := range 21 {
			args := read.args
			if args == nil && strings.Contains(read.sql, "$2") {
				args = []any{newest, i}
			}
			started := time.Now()
			if err := b.exec(read.sql, args...); err != nil {
				return fmt.Errorf("%s: %w", read.what, err)
			}
			if i > 0 {
				ms = append(ms, float64(time.Since(started).Microseconds())/1000)
			}
		}
		fmt.Printf("%-26s%10.2f ms (%.2f-%.2f)\n", read.what, median(ms), slices.Min(ms), slices.Max(ms))
	}
	return nil
}

var calls = []string{"enqueue_many(500)", "claim(500)", "complete_many(500)", "select 1", "enqueue", "claim(1)",
	"complete", "fail", "rescue(100)"}

// A stage is one line of the report.
type stage struct {
	*bench
	title  string
	pinner *bench               // holds a transaction open meanwhile, which has an id and a snapshot
	ms     map[string][]float64 // a median for each round
}

// measure measures every call once the way a worker would use it.
func (s *stage) measure() error {
	if s.pinner != nil {
		if _, err := s.pinner.db.Exec(s.ctx,
			"begin isolation level repeatable read; select pg_current_xact_id()"); err != nil {
			return err
		}
		defer s.pinner.db.Exec(s.ctx, "rollback")
	}
	ms := map[string][]float64{}
	timed := func(call string, f func() error) error {
		started := time.Now()
		err := f()
		ms[call] = append(ms[call], float64(time.Since(started).Nanoseconds())/1e6)
		return err
	}
	var jobs, receipts []int64
	for i := range 50 {
		err := errors.Join(
			timed("enqueue_many(500)", func() error { return s.enqueueMany(batch) }),
			timed("claim(500)", func() (err error) { jobs, receipts, err = s.claim(batch); return err }),
			timed("complete_many(500)", func() error { return s.completeMany(jobs, receipts) }),
		)
		if err == nil && len(jobs) != batch {
			err = fmt.Errorf("claim returned %d jobs of %d", len(jobs), batch)
		}
		if err != nil {
			return err
		}
		if i == 9 {
			clear(ms) // the first ones warm up
		}
	}
	for range 200 {
		err := errors.Join(
			timed("select 1", func() error { return s.exec("select 1") }),
			timed("enqueue", func() error { return s.exec("select awa.enqueue($1, 'bench', $2)", queue, payload) }),
			timed("claim(1)", func() (err error) { jobs, receipts, err = s.claim(1); return err }),
			timed("complete", func() error { return s.exec("select awa.complete($1, $2)", jobs[0], receipts[0]) }),
		)
		if err != nil {
			return err
		}
	}
	for range 100 {
		jobs, receipts, err := s.claimNew(1, "1 minute")
		if err != nil {
			return err
		}
		if err := timed("fail", func() error {
			return s.exec("select awa.fail($1, $2, 'it failed', '1 day')", jobs[0], receipts[0])
		}); err != nil {
			return err
		}
	}
	for range 3 {
		// as beside a worker: older claims are counted, and no gap spares these
		if err := s.exec("call awa.run_maintenance()"); err != nil {
			return err
		}
		if _, _, err := s.claimNew(rescued, "1 second"); err != nil {
			return err
		}
		time.Sleep(1100 * time.Millisecond)
		var n int
		if err := timed("rescue(100)", func() error {
			return s.db.QueryRow(s.ctx, "select rescued from awa.rescue()").Scan(&n)
		}); err != nil {
			return err
		}
		if n != rescued {
			return fmt.Errorf("rescue ended %d attempts of %d", n, rescued)
		}
	}
	if s.ms == nil {
		s.ms = map[string][]float64{}
	}
	for call, all := range ms {
		s.ms[call] = append(s.ms[call], median(all))
	}
	return nil
}

// claimNew enqueues and claims jobs.
func (s *stage) claimNew(n int, lease string) (jobs, receipts []int64, err error) {
	if err := s.enqueueMany(n); err != nil {
		return nil, nil, err
	}
	err = s.db.QueryRow(s.ctx, "select array_agg(c.job_id), array_agg(c.receipt) from awa.claim($1, $2, lease => $3) c",
		queue, n, lease).Scan(&jobs, &receipts)
	if err == nil && len(jobs) != n {
		err = fmt.Errorf("claim returned %d jobs of %d", len(jobs), n)
	}
	return jobs, receipts, err
}

func (s *stage) print() {
	fmt.Printf("%-22s", s.title)
	for _, call := range calls {
		ms := s.ms[call]
		fmt.Printf("%21s", fmt.Sprintf("%.3f (%.2f-%.2f)", median(ms), slices.Min(ms), slices.Max(ms)))
	}
	fmt.Println()
}

func (b *bench) exec(sql string, args ...any) error {
	_, err := b.db.Exec(b.ctx, sql, args...)
	return err
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
	if err := b.db.QueryRow(b.ctx, "select (pg_current_wal_insert_lsn() - $1::pg_lsn)::bigint",
		from).Scan(&wal); err != nil {
		return err
	}
	var dead, updated, deleted int64
	if _, err := b.db.Exec(b.ctx, "select pg_stat_clear_snapshot()"); err != nil {
		return err
	}
	err := b.db.QueryRow(b.ctx, `
		select sum(n_dead_tup), sum(n_tup_upd), sum(n_tup_del) from pg_stat_user_tables
		 where schemaname = 'awa' and relname ~ '^(ready_entries|lease_claims|lease_claim_closures)'`).
		Scan(&dead, &updated, &deleted)
	fmt.Printf("a million jobs in batches of %d, one connection: %.0f jobs/s, %.0f bytes of WAL per job, %d dead rows, "+
		"%d updates, %d deletes on the hot families\n",
		batch, jobs/took.Seconds(), float64(wal)/jobs, dead, updated, deleted)
	return err
}

func (b *bench) enqueueMany(n int) error {
	args := make([]json.RawMessage, n)
	for i := range args {
		args[i] = payload
	}
	rows, err := b.db.Query(b.ctx, "select awa.enqueue_many($1, 'bench', $2::jsonb[])", queue, args)
	if err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}

func (b *bench) claim(n int) (jobs, receipts []int64, err error) {
	rows, err := b.db.Query(b.ctx, "select * from awa.claim($1, $2)", queue, n)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var job, receipt int64
		columns := make([]any, len(rows.FieldDescriptions())) // other versions have others
		columns[0], columns[1] = &job, &receipt
		if err := rows.Scan(columns...); err != nil {
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

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
