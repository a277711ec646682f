// Awa installs the job queue Awa in a PostgreSQL database, and shows it at work.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

const usage = `usage: awa COMMAND [ARGS]

  awa migrate [--database-url URL]     install Awa in a database, or bring it up to date
  awa demo [DIR] [--database-url URL]  hash the files in DIR (by default Go's source) as jobs,
                                       on a throw-away PostgreSQL server unless there is a URL
  awa doctor [--database-url URL] [--json] [--verbose]
                                       say what is wrong with an installation, and what to do; exit
                                       status 0: all is well, 1: there are warnings, 2: something is
                                       critical, there is no connection, or the command line is wrong
  awa selftest [--database-url URL] [--phase DURATION] [--saturated]
                                       show that what others do in the database does not slow the
                                       queue: about a minute, at a third of the queue's full speed,
                                       or saturated, at full speed and without a verdict
  awa work --exec CMD [--queue NAME[=WEIGHT]]... [--slots N] [--timeout DURATION]
           [--database-url URL]        run CMD by the shell for each job of the queues (by default the
                                       one called default), N at once (by default as many as there are
                                       CPUs). CMD reads the job as JSON; what it prints is kept; exit
                                       status 0: completed, 75: once more in a minute, 65: failed for
                                       good, any other: failed, to be tried again
  awa version                          print the version of this program
  awa help                             print this

The environment variable DATABASE_URL stands in for --database-url.
`

// errUsage is an error in the command line that the user has been told of.
var errUsage = errors.New("usage")

func main() {
	if len(os.Args) > 1 && os.Args[1] == "work" { // a signal stops it in its own way
		os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	// SIGPIPE comes when the reader of the output has gone. Each of them leaves time to clean up.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	context.AfterFunc(ctx, func() {
		time.Sleep(3 * time.Second)
		stop() // from now on a signal kills
	})
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs a command and returns its exit status: 1 for errors, 2 for a wrong command line.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	stdout, stderr = printable{stdout}, printable{stderr}
	var command string
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	var status int // of a command without an error
	var err error
	switch command {
	case "migrate":
		err = runMigrate(ctx, args, stdout, stderr)
	case "demo":
		err = runDemo(ctx, args, stdout, stderr)
	case "doctor":
		status, err = runDoctor(ctx, args, stdout, stderr)
	case "selftest":
		err = runSelftest(ctx, args, stdout, stderr)
	case "work":
		err = runWork(ctx, args, stdout, stderr)
	case "version":
		fmt.Fprintf(stdout, "awa %s (%s)\n", version(), runtime.Version())
	case "help", "-h", "-help", "--help":
		fmt.Fprint(stdout, usage)
	case "":
		fmt.Fprint(stderr, usage)
		return 2
	default:
		fmt.Fprintf(stderr, "awa: unknown command %q\n%s", command, usage)
		return 2
	}
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return status
	case errors.Is(err, errUsage):
		return 2
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "awa: interrupted")
		return 1
	default:
		fmt.Fprintln(stderr, "awa:", err)
		return 1
	}
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// parse reads the flags of a command, which may stand before and after its operands. It returns the operands, at most
// max of them, and the database's URL, if there is one. Flags of its own are defined by more.
func parse(command string, args []string, max int, stdout, stderr io.Writer, more ...func(*flag.FlagSet)) (operands []string, databaseURL string, err error) {
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&databaseURL, "database-url", os.Getenv("DATABASE_URL"), "")
	for _, define := range more {
		define(flags)
	}
	fail := func(format string, v ...any) ([]string, string, error) {
		fmt.Fprintf(stderr, "awa %s: %s\n%s", command, fmt.Sprintf(format, v...), usage)
		return nil, "", errUsage
	}
	for {
		if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stdout, usage)
			return nil, "", err
		} else if err != nil {
			return fail("%v", err)
		}
		if flags.NArg() == 0 {
			return operands, databaseURL, nil
		}
		if len(operands) == max {
			return fail("unexpected argument %q", flags.Arg(0))
		}
		operands, args = append(operands, flags.Arg(0)), flags.Args()[1:]
	}
}
