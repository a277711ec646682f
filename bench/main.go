// Command bench compares job queues in PostgreSQL, and measures Awa by itself.
//
//	go run . run [-systems a,b] [-scenarios x,y] [-rounds n] [-out DIR]   compare systems; see -help
//	go run . compare A.jsonl B.jsonl                                      what has changed between two runs
//	go run . report [-into FILE.md -section NAME] RESULTS.jsonl           write a run's report again
//	go run . systems                                                      which there are
//	go run . engine|driver|soak|lateness|wakeups|turns                    Awa by itself
//	go run . chaos [-faults a,b] [-times n]                               what holds when things go wrong
//
// It starts a PostgreSQL server of its own, a durable one, unless -database-url or DATABASE_URL names another, where it
// has to be a superuser. docs/benchmarks.md says more.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/awa-pg/awa/bench/chaos"
	"github.com/awa-pg/awa/bench/driver"
	"github.com/awa-pg/awa/bench/engine"
	"github.com/awa-pg/awa/bench/harness"
	"github.com/awa-pg/awa/bench/lateness"
	"github.com/awa-pg/awa/bench/soak"
	"github.com/awa-pg/awa/bench/systems"
	"github.com/awa-pg/awa/bench/turns"
	"github.com/awa-pg/awa/bench/wakeups"
	awa "github.com/awa-pg/awa/driver"
)

// alone are the parts that measure Awa by itself, in a database that they are given.
var alone = map[string]func(context.Context, []string) error{
	"engine": engine.Main, "driver": driver.Main, "soak": soak.Main, "lateness": lateness.Main, "wakeups": wakeups.Main,
	"turns": turns.Main,
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 {
		log.Fatal("usage: bench run|compare|report|systems|engine|driver|soak|lateness|wakeups|turns|chaos; " +
			"see docs/benchmarks.md")
	}
	if err := command(ctx, os.Args[1], os.Args[2:]); err != nil {
		log.Fatalf("bench %s: %v", os.Args[1], err)
	}
}

func command(ctx context.Context, name string, args []string) error {
	if part := alone[name]; part != nil {
		return withDatabase(ctx, args, part)
	}
	switch name {
	case "chaos":
		return chaos.Main(ctx, args)
	case chaos.WorkerCommand:
		signal.Ignore(os.Interrupt) // it ends when its input does
		return chaos.WorkerMain(context.WithoutCancel(ctx), args)
	case "run":
		return run(ctx, args)
	case "compare":
		if len(args) != 2 {
			return errors.New("compare takes two files of results")
		}
		a, err := harness.ReadFile(args[0])
		if err != nil {
			return err
		}
		b, err := harness.ReadFile(args[1])
		if err != nil {
			return err
		}
		harness.Compare(os.Stdout, a, b)
		return nil
	case "report":
		flags := flag.NewFlagSet(name, flag.ExitOnError)
		var p page
		p.register(flags).Parse(args)
		if flags.NArg() != 1 {
			return errors.New("report takes a file of results")
		}
		results, err := harness.ReadFile(flags.Arg(0))
		if err != nil {
			return err
		}
		return p.report(results, filepath.Dir(flags.Arg(0)), os.Stdout)
	case "systems":
		var s sources
		s.register(flag.NewFlagSet(name, flag.ExitOnError)).Parse(args)
		for _, info := range s.all() {
			fmt.Printf("%-16s %s%s\n", info.Name, info.Contract, missing(info))
		}
		return nil
	case systems.ChildCommand: // child NAME FLAGS...: see systems.Processes
		var s sources
		s.register(flag.NewFlagSet(name, flag.ExitOnError)).Parse(args[1:])
		infos, err := systems.Find(s.all(), args[0])
		if err != nil {
			return err
		}
		signal.Ignore(os.Interrupt) // it ends when its input does
		return systems.Serve(context.WithoutCancel(ctx), infos[0], os.Stdin, os.Stdout)
	}
	return errors.New("no such command")
}

func missing(info systems.Info) string {
	if info.Missing == "" {
		return ""
	}
	return " (left out: " + info.Missing + ")"
}

// withDatabase gives a part that measures Awa alone a fresh database with Awa, unless its arguments or DATABASE_URL
// name one.
func withDatabase(ctx context.Context, args []string, part func(context.Context, []string) error) error {
	named := func(arg string) bool {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		return slices.Contains([]string{"database-url", "h", "help"}, name)
	}
	if os.Getenv("DATABASE_URL") != "" || slices.ContainsFunc(args, named) {
		return part(ctx, args)
	}
	server, err := harness.StartServer(ctx, "")
	if err != nil {
		return err
	}
	defer server.Stop()
	if err := server.Exec(ctx, "create database bench"); err != nil {
		return err
	}
	url, err := server.URL("bench")
	if err != nil {
		return err
	}
	if _, err := awa.Migrate(ctx, url); err != nil {
		return err
	}
	return part(ctx, append([]string{"-database-url", url}, args...))
}

// sources are where systems that others make come from.
type sources struct{ pgque, pgmq, children, python string }

func (s *sources) register(flags *flag.FlagSet) *flag.FlagSet {
	flags.StringVar(&s.pgque, "pgque", os.Getenv("BENCH_PGQUE"), "PgQue's `file` sql/pgque.sql; or BENCH_PGQUE")
	flags.StringVar(&s.pgmq, "pgmq", os.Getenv("BENCH_PGMQ"), "pgmq's `file` pgmq-extension/sql/pgmq.sql; or BENCH_PGMQ")
	flags.StringVar(&s.children, "children", "children", "`directory` of the children in other languages")
	flags.StringVar(&s.python, "python", cmp.Or(os.Getenv("BENCH_PYTHON"), "python3"),
		"a Python `program` that has the package awa-pg; or BENCH_PYTHON")
	return flags
}

// arguments are the flags that register has, as they were given.
func (s *sources) arguments() []string {
	return []string{"-pgque", s.pgque, "-pgmq", s.pgmq, "-children", s.children, "-python", s.python}
}

// all are the systems, in the order in which they are listed.
func (s *sources) all() []systems.Info {
	all := []systems.Info{
		systems.Floor(), systems.AwaSQL(1), systems.AwaSQL(4), systems.AwaSQL(16), systems.Awa(),
		systems.PgQue(s.pgque, 10*time.Millisecond), systems.PgQue(s.pgque, 100*time.Millisecond), systems.PgQ(),
		systems.Pgmq(s.pgmq), systems.River(true), systems.River(false),
		systems.Node("graphile-worker", s.children), systems.Node("pg-boss", s.children), systems.Node("bullmq", s.children),
		systems.DBOS(), systems.AwaRust(s.python, s.children),
	}
	return append(all, systems.History()...)
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("run", flag.ExitOnError)
	var from sources
	var into page
	into.register(from.register(flags))
	url := flags.String("database-url", os.Getenv("DATABASE_URL"), "a server to use, as a superuser, in place of its own")
	names := flags.String("systems", "floor,awa-sql,awa,pgque,pgmq,river", "which, or \"all\"")
	scenarios := flags.String("scenarios", "main", "which; \"main\", \"full\"; a name may end in *")
	rounds := flags.Int("rounds", 3, "rounds")
	within := flags.Duration("within", 0, "begin no round that would not end within this time")
	warm := flags.Duration("warm", time.Second, "length of a warm-up")
	length := flags.Duration("for", 2*time.Second, "length of a measured phase")
	out := flags.String("out", "results", "directory for the results, the report and its plots")
	flags.Parse(args)

	all := from.all()
	var chosen []systems.Info
	if *names == "all" { // history's variants are no peers
		chosen = all[:len(all)-len(systems.History())]
	} else {
		var err error
		if chosen, err = systems.Find(all, *names); err != nil {
			return err
		}
	}
	systems.ChildFlags = from.arguments()
	todo := harness.Main(*warm, *length)
	if *scenarios != "main" {
		todo = harness.Full(*warm, *length)
		if *scenarios != "full" {
			var err error
			if todo, err = harness.Pick(todo, *scenarios); err != nil {
				return err
			}
		}
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(*out, time.Now().UTC().Format("2006-01-02T150405")+".jsonl"))
	if err != nil {
		return err
	}
	defer file.Close()
	server, err := harness.StartServer(ctx, *url)
	if err != nil {
		return err
	}
	defer server.Stop()
	began := time.Now()
	results, err := harness.Run(ctx, harness.Options{Server: server, Systems: chosen, Scenarios: todo, Rounds: *rounds,
		Within: *within, Out: file, Log: os.Stderr})
	if results == nil || len(results.Samples) == 0 {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s; took %s\n", file.Name(), time.Since(began).Round(time.Second))
	return errors.Join(err, into.report(results, *out, os.Stdout))
}

// page is a document that shows results.
type page struct{ file, section string }

func (p *page) register(flags *flag.FlagSet) *flag.FlagSet {
	flags.StringVar(&p.file, "into", "", "a Markdown `file` to fill, too: a section of it")
	flags.StringVar(&p.section, "section", "main", "what is between <!-- results NAME --> and <!-- end NAME -->")
	return flags
}

// report writes a report and its plots into a directory, and the report to the writer, and into the page.
func (p *page) report(results *harness.Results, dir string, w io.Writer) error {
	scenarios := harness.Full(0, 0)
	plots, err := harness.Plot(results, dir)
	if err != nil {
		return err
	}
	var text strings.Builder
	harness.Report(&text, results, scenarios, plots, "#")
	fmt.Fprint(w, text.String())
	title := "# Side by side\n\n"
	err = os.WriteFile(filepath.Join(dir, "report.md"), []byte(title+text.String()), 0o644)
	if err != nil || p.file == "" {
		return err
	}
	images := strings.TrimSuffix(p.file, ".md") // a directory beside the page
	images, err = filepath.Abs(filepath.Join(images, p.section))
	if err == nil {
		err = os.MkdirAll(images, 0o755)
	}
	if err != nil {
		return err
	}
	if plots, err = harness.Plot(results, images); err != nil {
		return err
	}
	for scenario, name := range plots {
		plots[scenario] = filepath.Join(strings.TrimSuffix(filepath.Base(p.file), ".md"), p.section, name)
	}
	text.Reset()
	harness.Report(&text, results, scenarios, plots, "##")
	old, err := os.ReadFile(p.file)
	if err != nil {
		return err
	}
	filled, err := harness.Fill(string(old), p.section, text.String())
	if err != nil {
		return err
	}
	return os.WriteFile(p.file, []byte(filled), 0o644)
}
