// Package turns measures groups that are served by turns (group_turns) behind a large one: how long it takes until each
// of the others has begun a job, how many of the large one have begun before, and how long claims take. Give it a
// database of its own, freshly migrated.
package turns

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Main runs the sub-command "turns".
func Main(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("turns", flag.ExitOnError)
	url := flags.String("database-url", os.Getenv("DATABASE_URL"), "a migrated database for this alone")
	first := flags.Int("first", 200_000, "jobs of the first group")
	groups := flags.Int("groups", 1_000, "other groups, which come after it")
	jobs := flags.Int("jobs", 10, "jobs of each")
	batch := flags.Int("batch", 100, "jobs that a claim asks for")
	flags.Parse(arguments)
	db, err := pgx.Connect(ctx, *url)
	if err != nil {
		return err
	}
	defer db.Close(ctx)
	for _, call := range []struct {
		sql  string
		args []any
	}{
		{"set synchronous_commit = off", nil},
		{`select awa.configure_queue('turns', '{"group_turns": true}')`, nil},
		{`select awa.enqueue_batch((select jsonb_agg(jsonb_build_object('queue', 'turns', 'kind', 'k', 'group_key',
		  'first')) from generate_series(n, least(n + 9999, $1::int)))) from generate_series(1, $1, 10000) n`,
			[]any{*first}},
		{`select awa.enqueue_batch((select jsonb_agg(jsonb_build_object('queue', 'turns', 'kind', 'k', 'group_key',
		  'group ' || g) order by n) from generate_series(1, $2::int) n)) from generate_series(1, $1::int) g`,
			[]any{*groups, *jobs}},
		{"select awa.fold()", nil},
	} {
		if _, err := db.Exec(ctx, call.sql, call.args...); err != nil {
			return err
		}
	}
	return measure(ctx, db, *groups, *groups**jobs, *batch)
}

// measure claims and completes until the others are done.
func measure(ctx context.Context, db *pgx.Conn, groups, others, batch int) error {
	begun, seen := map[string]int{}, 0
	var took []time.Duration
	began := time.Now()
	for seen < others {
		claimed := time.Now()
		rows, err := db.Query(ctx, "select job_id, receipt, group_key from awa.claim('turns', $1)", batch)
		if err != nil {
			return err
		}
		var ids, receipts []int64
		var id, receipt int64
		var group string
		_, err = pgx.ForEachRow(rows, []any{&id, &receipt, &group}, func() error {
			ids, receipts = append(ids, id), append(receipts, receipt)
			begun[group]++
			if group != "first" {
				seen++
			}
			return nil
		})
		if err != nil {
			return err
		}
		took = append(took, time.Since(claimed))
		if len(ids) == 0 {
			return fmt.Errorf("nothing comes, after %d of %d jobs of the others", seen, others)
		}
		if _, err := db.Exec(ctx, "select awa.complete_many($1, $2)", ids, receipts); err != nil {
			return err
		}
		if len(begun) == groups+1 && groups > 0 {
			report("all others have begun", time.Since(began), took, begun["first"], seen)
			groups = -1 // once
		}
	}
	report("all others are done", time.Since(began), took, begun["first"], seen)
	return nil
}

func report(what string, after time.Duration, took []time.Duration, first, others int) {
	sorted := slices.Sorted(slices.Values(took))
	fmt.Printf("%s after %.1f s and %d claims, median %.1f ms, longest %.1f ms; "+
		"jobs begun: %d of the first group, %d of the others\n",
		what, after.Seconds(), len(took), float64(sorted[len(sorted)/2].Microseconds())/1000,
		float64(sorted[len(sorted)-1].Microseconds())/1000, first, others)
}
