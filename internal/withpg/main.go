//go:build unix

// Withpg runs a command with a private, throw-away PostgreSQL server.
//
//	go run ./internal/withpg [-set name=value ...] -- COMMAND ARGS...
//	go run ./internal/withpg -bindir
//
// The command finds the server in DATABASE_URL, in AWA_TEST_DATABASE_URL (which
// the tests use) and in the variables of libpq (PGHOST, PGPORT, PGUSER,
// PGDATABASE). Withpg exits with the command's status.
// It passes SIGINT and SIGTERM on to the command and then stops the server.
//
// With -bindir it prints where the server's programs are, and runs nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/awa-pg/awa/internal/pgserver"
)

// killDelay is how long the command may go on after a signal.
const killDelay = 30 * time.Second

func main() {
	settings := map[string]string{
		"max_connections":           "300",
		"shared_buffers":            "256MB",
		"max_prepared_transactions": "10",
	}
	flag.Func("set", "server setting, as `name=value` (repeatable)", func(arg string) error {
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			return errors.New("want name=value")
		}
		settings[name] = value
		return nil
	})
	bindir := flag.Bool("bindir", false, "print the directory of the server's programs")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: withpg [-set name=value ...] -- COMMAND ARGS...")
		flag.PrintDefaults()
	}
	flag.Parse()

	if *bindir {
		bin, err := pgserver.FindBinaries(context.Background(), "")
		if err != nil {
			fmt.Fprintln(os.Stderr, "withpg:", err)
			os.Exit(1)
		}
		fmt.Println(bin.Dir)
		return
	}
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	status, err := run(pgserver.Config{Settings: settings}, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "withpg:", err)
	}
	os.Exit(status)
}

// run starts the server and runs the command. The status is the command's; an
// error comes with a status other than zero.
func run(cfg pgserver.Config, args []string) (status int, err error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()

	srv, err := pgserver.Start(ctx, cfg)
	if err != nil {
		return 1, err
	}
	defer func() {
		if stopErr := srv.Stop(); stopErr != nil {
			err = errors.Join(err, stopErr)
			status = max(status, 1)
		}
	}()

	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = commandEnv(os.Environ(), srv)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// A process group of its own, so that a signal reaches everything that the
	// command has started, and reaches it once. The price is that the command
	// cannot read from the terminal: it gets an end of file at once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if fi, err := os.Stdin.Stat(); err != nil || fi.Mode()&os.ModeCharDevice != 0 {
		cmd.Stdin = nil
	}
	if err := cmd.Start(); err != nil {
		return 127, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var kill <-chan time.Time
	for {
		select {
		case sig := <-signals:
			syscall.Kill(-cmd.Process.Pid, sig.(syscall.Signal))
			if kill == nil {
				kill = time.After(killDelay)
			}
		case <-kill:
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		case err := <-done:
			return exitStatus(cmd.ProcessState, err)
		}
	}
}

// exitStatus returns the status that a shell reports for the command.
func exitStatus(state *os.ProcessState, err error) (int, error) {
	if state == nil {
		return 1, err
	}
	if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal()), fmt.Errorf("the command ended: %v", state)
	}
	return state.ExitCode(), nil
}

// commandEnv replaces all variables of libpq by those for the server.
func commandEnv(env []string, srv *pgserver.Server) []string {
	vars := map[string]string{
		"AWA_TEST_DATABASE_URL": srv.URL(),
		"DATABASE_URL":          srv.URL(),
		"PGHOST":                srv.Dir(),
		"PGPORT":                srv.Port(),
		"PGUSER":                srv.User(),
		"PGDATABASE":            "postgres",
	}
	env = slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasPrefix(name, "PG")
	})
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		env = append(env, name+"="+vars[name])
	}
	return env
}
