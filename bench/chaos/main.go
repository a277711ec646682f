//go:build unix

// Package chaos shows what holds when things go wrong. It puts a server of its own under load, lets one fault happen
// again and again, and compares what the clients were told with what the server has: no job that was acknowledged is
// lost, none comes again whose completion was acknowledged, and effects happen once.
package chaos

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/awa-pg/awa/bench/harness"
	"github.com/awa-pg/awa/internal/pgserver"
)

// Main runs the sub-command "chaos".
func Main(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("chaos", flag.ExitOnError)
	names := flags.String("faults", "*", "which, separated by commas; a name may have a *; \"list\" lists them")
	times := flags.Int("times", 0, "how often each happens; by default as the list says")
	seed := flags.Uint64("seed", uint64(time.Now().UnixNano()), "of the load, and of when a fault happens")
	into := flags.String("into", "", "a Markdown `file` to fill, too: a section of it")
	section := flags.String("section", "chaos", "what is between <!-- results NAME --> and <!-- end NAME -->")
	soaks := flags.Duration("soak", 0, "no fault, but everything that can be done with a queue, at random, for so long")
	flags.Parse(arguments)
	if *soaks > 0 {
		return soak(ctx, *soaks, *seed)
	}
	all := append(serverFaults(), otherFaults()...)
	if *names == "list" {
		for _, f := range all {
			fmt.Printf("%-24s %3d times: %s\n", f.name, f.times, f.what)
		}
		return nil
	}
	var rows []result
	for _, name := range strings.Split(*names, ",") {
		found := false
		for _, f := range all {
			if ok, _ := path.Match(name, f.name); !ok {
				continue
			}
			found = true
			if *times > 0 {
				f.times = *times
			}
			fmt.Fprintf(os.Stderr, "%s, %d times, -seed %d:", f.name, f.times, *seed)
			row, err := run(ctx, f, *seed)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				row.problems = append(row.problems, "was not finished: "+err.Error())
			}
			fmt.Fprintf(os.Stderr, "\n%s\n", row)
			rows = append(rows, row)
		}
		if !found {
			return fmt.Errorf("no such fault: %s", name)
		}
	}
	binaries, err := pgserver.FindBinaries(ctx, "")
	if err != nil {
		return err
	}
	var text strings.Builder
	report(&text, rows, binaries.Version)
	fmt.Print(text.String())
	if *into != "" {
		page, err := os.ReadFile(*into)
		if err != nil {
			return err
		}
		filled, err := harness.Fill(string(page), *section, text.String())
		if err != nil {
			return err
		}
		if err := os.WriteFile(*into, []byte(filled), 0o644); err != nil {
			return err
		}
	}
	var broken []string
	for _, row := range rows {
		if len(row.problems) > 0 {
			broken = append(broken, row.name)
		}
	}
	if broken != nil {
		return fmt.Errorf("broken promises: %s", strings.Join(broken, ", "))
	}
	return nil
}

// result is what was seen of one fault.
type result struct {
	name, what, missing string
	times               int
	load                time.Duration // how long the load was on, checks left out
	acknowledged, ended int
	lost                int
	again               map[string]int
	recoveries          []time.Duration
	errors              map[string]int
	gone                map[string]int // see book
	problems            []string
}

// run lets one fault happen.
func run(ctx context.Context, f fault, seed uint64) (result, error) {
	row := result{name: f.name, what: f.what, times: f.times, again: map[string]int{}, errors: map[string]int{},
		gone: map[string]int{}}
	if f.needs != nil {
		if row.missing = f.needs(); row.missing != "" {
			return row, nil
		}
	}
	rounds, perRound := 1, f.times
	if f.isFresh {
		rounds, perRound = f.times, 1
	}
	for round := range rounds {
		if err := row.round(ctx, f, perRound, seed+uint64(round)); err != nil {
			return row, err
		}
	}
	return row, nil
}

func (row *result) round(ctx context.Context, f fault, times int, seed uint64) error {
	r, err := newRig(ctx, f, seed)
	if err != nil {
		return err
	}
	defer r.close()
	for nth := range times {
		began := time.Now()
		sleep(ctx, time.Duration(500+r.rand.IntN(1500))*time.Millisecond)
		since, err := f.strike(ctx, r, nth)
		if err == nil {
			err = r.recovered(ctx, since)
		}
		if err != nil {
			r.stopLoad()
			return err
		}
		row.recoveries = append(row.recoveries, time.Since(since))
		row.load += time.Since(began)
		if err := r.check(ctx); err != nil {
			r.stopLoad()
			return err
		}
		fmt.Fprintf(os.Stderr, " %d", nth+1)
	}
	began := time.Now()
	if err := r.drain(ctx); err != nil {
		return err
	}
	row.load += time.Since(began)
	for _, w := range r.workers {
		if err := w.stop(); err != nil {
			return err
		}
	}
	lost, err := r.checkEnd(ctx)
	row.lost += lost
	for _, j := range r.book.jobs {
		if j.enqueued == held || j.enqueued == learnt {
			row.acknowledged++
		}
		if j.ended >= learnt && j.ended != gone {
			row.ended++
		}
	}
	for why, n := range r.book.again {
		row.again[why] += n
	}
	for what, n := range r.errors {
		row.errors[what] += n
	}
	for what, n := range r.book.gone {
		row.gone[what] += n
	}
	row.problems = append(row.problems, r.book.problems...)
	return err
}

// String is the result, line by line.
func (row result) String() string {
	if row.missing != "" {
		return "  left out: " + row.missing
	}
	lines := []string{fmt.Sprintf("  %d jobs acknowledged, %d completions; lost %s; run again: %s; recovered after %s",
		row.acknowledged, row.ended, row.losses(), counts(row.again, ", "), row.recovery()),
		"  errors: " + counts(row.errors, ", ")}
	return strings.Join(append(lines, row.problems...), "\n  ")
}

// losses says what was lost, and what PostgreSQL had lost by itself.
func (row result) losses() string {
	if len(row.gone) == 0 {
		return fmt.Sprint(row.lost)
	}
	return fmt.Sprintf("%d; PostgreSQL lost what the stand-by had not got: %s", row.lost, counts(row.gone, ", "))
}

func (row result) recovery() string {
	if len(row.recoveries) == 0 {
		return ""
	}
	slices.Sort(row.recoveries)
	n := len(row.recoveries)
	return seconds(row.recoveries[n/2]) + ", " + seconds(row.recoveries[n-1])
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func counts(of map[string]int, separator string) string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%s %d", what, of[what]))
	}
	if parts == nil {
		return "0"
	}
	return strings.Join(parts, separator)
}

// report writes a table.
func report(w io.Writer, rows []result, version string) {
	fmt.Fprintf(w, "PostgreSQL %s, %s, %s.\n\n", version, harness.Machine(), time.Now().UTC().Format("2006-01-02"))
	fmt.Fprintln(w, "| fault | times | jobs/s | jobs acknowledged | lost | run again | recovered after: median, "+
		"longest | errors that clients got, by SQLSTATE |")
	fmt.Fprintln(w, "| --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, row := range rows {
		if row.missing != "" {
			fmt.Fprintf(w, "| `%s`: %s | 0: %s | | | | | | |\n", row.name, row.what, row.missing)
			continue
		}
		fmt.Fprintf(w, "| `%s`: %s | %d | %.0f | %d | %s | %s | %s | %s |\n", row.name, row.what, row.times,
			float64(row.acknowledged)/row.load.Seconds(), row.acknowledged, row.losses(), counts(row.again, "; "),
			row.recovery(), counts(row.errors, ", "))
	}
}
