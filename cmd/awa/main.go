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
	"strings"
	"syscall"
	"time"

	"github.com/awa-pg/awa/internal/dburl"
)

const usage = `usage: awa COMMAND [ARGS]

  awa migrate     install Awa in a database, or bring it up to date
  awa doctor      say what is wrong with an installation, and what to do
  awa work        run a program for each job
  awa top         show queues, rates and running jobs on a terminal, with keys to act
  awa jobs        list jobs by queue, state, kind, tag, group or args; change all that match
  awa job         show a job, and say why it is not running; cancel, retry, move or delete some
  awa queues      list queues with their counts; show, pause, resume or configure one
  awa schedules   list schedules, with their next and last times; pause, resume or trigger one
  awa dlq         list dead letters; retry or delete some, or all that match
  awa changes     list changes of many jobs; stop one
  awa workers     list workers
  awa health      say what is wrong in the database, and what to do
  awa audit       check that no job is missing
  awa metrics     serve metrics for Prometheus
  awa ui          serve pages that show the queue
  awa demo        hash files as jobs, on a throw-away PostgreSQL server
  awa selftest    show that what others do in the database does not slow the queue
  awa sql         print the installation as one SQL file, for psql
  awa uninstall   remove Awa from a database
  awa version     print the version of this program (also --version)
  awa help        print this, or how to use a command: awa help COMMAND

The environment variable DATABASE_URL stands in for --database-url.

Exit status: 0 done; 1 it failed; 2 the command line is wrong. awa doctor: 0 all is well, 1 there are
warnings, 2 something is critical, or it could not look.
`

// usages are how to use each command.
var usages = map[string]string{
	"migrate": `usage: awa migrate [--database-url URL] [--role-prefix PREFIX] [--wait DURATION]

Installs Awa in a database, or brings it up to date, in one transaction. Safe to repeat, and while
everything runs: where nothing is to be done, nothing is locked.

  --role-prefix PREFIX  what the names of the roles begin with, in a new installation (awa_)
  --wait DURATION       how long others may be in the way before it gives up (1m)

Exit status: 0 all is as this program has it, or newer;
1 it failed, and nothing was changed; 2 the command line is wrong.
`,
	"demo": `usage: awa demo [DIR] [--database-url URL]

Hashes the files in DIR (by default Go's source) as jobs, on a throw-away PostgreSQL server unless
there is a URL.

Exit status: 0 each job was done; 1 it failed; 2 the command line is wrong.
`,
	"doctor": `usage: awa doctor [--database-url URL] [--json] [--verbose]

Says what is wrong with an installation, and what to do. It changes nothing, and calls nothing of the
schema before it has compared it with what this program installs. A superuser and the role that installs
see all, a member of awa_reader what a monitor needs.

Exit status: 0 all is well; 1 there are warnings; 2 something is critical, there is no connection, or
the command line is wrong.
`,
	"selftest": `usage: awa selftest [--database-url URL] [--phase DURATION] [--saturated]

Shows that what others do in the database does not slow the queue: about a minute, at a third of the
queue's full speed; or saturated, at full speed and without a verdict.

Exit status: 0 it was not slower; 1 it was, or the test failed; 2 the command line is wrong.
`,
	"work": `usage: awa work --exec CMD [--queue NAME[=WEIGHT]]... [--slots N] [--timeout DURATION]
                [--database-url URL]

Runs CMD by the shell for each job of the queues (by default the one called default), N at once (by
default as many as there are CPUs). CMD reads the job as JSON; what it prints is kept.

Exit status of CMD: 0 completed; 75 once more in a minute; 65 failed for good; any other: failed, to be
tried again.

Exit status: 0 it was stopped by a signal, and all was answered; 1 it failed; 2 the command line is wrong.
`,
	"schedules": `usage: awa schedules [list] [--json] [--watch] [--every DURATION] [--mask PATTERN]
       awa schedules next NAME [-n N]
       awa schedules explain NAME [--mask PATTERN]
       awa schedules pause NAME [REASON]
       awa schedules resume NAME [--mask PATTERN]
       awa schedules trigger NAME
       each with [--database-url URL]

Lists schedules with their next and last times, in the zone of each, their last jobs, and how they are;
says when one fires next, N times (5), and why it does not fire; pauses and resumes one; or enqueues its
job now. To list needs the role awa_reader, to change awa_operator. awa help jobs says what --watch, --every
and --mask do.

Exit status: 0 done, or a signal has ended --watch; 1 it failed, or there is no such schedule; 2 the command
line is wrong.
`,
	"top":     topUsage,
	"jobs":    jobsUsage,
	"job":     jobUsage,
	"queues":  queuesUsage,
	"dlq":     dlqUsage,
	"changes": changesUsage,
	"workers": workersUsage,
	"health":  healthUsage,
	"audit":   auditUsage,
	"metrics": metricsUsage,
	"ui":      uiUsage,
	"sql": `usage: awa sql [--uninstall]

Prints what awa migrate does, or with --uninstall what awa uninstall does, as one file for psql:
  awa sql > awa.sql; psql -f awa.sql DATABASE; psql -v role_prefix=app_ -f awa.sql DATABASE

Exit status: 0 printed; 2 the command line is wrong.
`,
	"uninstall": `usage: awa uninstall [--database-url URL] [--role-prefix PREFIX] [--wait DURATION] [--force]

Removes Awa from a database: the schema awa, and its roles where nothing else on the server needs them.
Refuses while there are jobs, ended ones too, or schedules, while objects of others depend on it, and
where a newer program has installed it.

  --force               remove it all the same
  --role-prefix PREFIX  of the roles, where the schema is gone already (awa_)
  --wait DURATION       how long others may be in the way before it gives up (1m)

Exit status: 0 it is gone; 1 it was refused or failed, and nothing was changed; 2 the command line is wrong.
`,
}

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
	stdout, stderr = &printable{w: stdout}, &printable{w: stderr}
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
	case "schedules":
		err = runSchedules(ctx, args, stdout, stderr)
	case "top":
		err = runTop(ctx, args, stdout, stderr)
	case "jobs":
		err = runJobs(ctx, args, stdout, stderr)
	case "job":
		err = runJob(ctx, args, stdout, stderr)
	case "queues":
		err = runQueues(ctx, args, stdout, stderr)
	case "dlq":
		err = runDLQ(ctx, args, stdout, stderr)
	case "changes":
		err = runChanges(ctx, args, stdout, stderr)
	case "workers":
		err = runWorkers(ctx, args, stdout, stderr)
	case "health":
		status, err = runHealth(ctx, args, stdout, stderr)
	case "audit":
		status, err = runAudit(ctx, args, stdout, stderr)
	case "metrics":
		err = runMetrics(ctx, args, stdout, stderr)
	case "ui":
		err = runUI(ctx, args, stdout, stderr)
	case "sql":
		err = runSQL(args, stdout, stderr)
	case "uninstall":
		err = runUninstall(ctx, args, stdout, stderr)
	case "version", "-version", "--version":
		fmt.Fprintf(stdout, "awa %s (%s)\n", version(), runtime.Version())
	case "help", "-h", "-help", "--help":
		text := usage
		if len(args) > 0 && args[0] != "version" && args[0] != "help" {
			if text = usages[args[0]]; text == "" {
				fmt.Fprintf(stderr, "awa: unknown command\n%s", usage)
				return 2
			}
		}
		fmt.Fprint(stdout, text)
	case "":
		fmt.Fprint(stderr, usage)
		return 2
	default:
		fmt.Fprintf(stderr, "awa: unknown command\n%s", usage)
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

// flagValue keeps why a flag refused its value: the package flag's error shows the value, which may be a password.
type flagValue struct {
	flag.Value
	name    string
	refused *error
}

func (v flagValue) Set(s string) error {
	err := v.Value.Set(s)
	if err != nil {
		*v.refused = fmt.Errorf("invalid value for flag -%s: %w", v.name, err)
	}
	return err
}

func (v flagValue) IsBoolFlag() bool {
	b, ok := v.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// parse reads the flags of a command, which may stand before and after its operands. It returns the operands, at most
// max of them, and the database's URL, if there is one. Flags of its own are defined by more. Errors show nothing of
// the arguments but names of flags that there are: anything may be a password, or a piece of one.
func parse(
	command string, args []string, max int, stdout, stderr io.Writer, more ...func(*flag.FlagSet),
) (operands []string, databaseURL string, err error) {
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&databaseURL, "database-url", os.Getenv("DATABASE_URL"), "")
	for _, define := range more {
		define(flags)
	}
	var refused error
	flags.VisitAll(func(f *flag.Flag) { f.Value = flagValue{f.Value, f.Name, &refused} })
	count := len(args)
	fail := func(format string, v ...any) ([]string, string, error) {
		fmt.Fprintf(stderr, "awa %s: %s\n%s", command, fmt.Sprintf(format, v...), usages[command])
		return nil, "", errUsage
	}
	for {
		if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stdout, usages[command])
			return nil, "", err
		} else if refused != nil {
			return fail("%s", refused)
		} else if err != nil && strings.HasPrefix(err.Error(), "flag needs an argument") {
			return fail("%s", err)
		} else if err != nil {
			at := count - flags.NArg()
			if strings.HasPrefix(err.Error(), "bad flag syntax") { // not counted as read
				at++
			}
			return fail("argument %d is no flag that there is", at)
		}
		if flags.NArg() == 0 {
			for _, w := range []io.Writer{stdout, stderr} {
				if p, ok := w.(*printable); ok && command != "sql" { // which prints a file as it is
					p.hide(dburl.NotPlain(databaseURL))
				}
			}
			return operands, databaseURL, nil
		}
		if len(operands) == max {
			return fail("unexpected argument: argument %d", count-flags.NArg()+1)
		}
		operands, args = append(operands, flags.Arg(0)), flags.Args()[1:]
	}
}
