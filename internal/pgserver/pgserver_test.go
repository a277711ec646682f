//go:build unix

package pgserver

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// helperEnv makes the test binary start a server, print its directory and
// process number, and wait to be killed.
const helperEnv = "PGSERVER_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		srv, err := Start(context.Background(), Config{})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(srv.Dir(), srv.proc.cmd.Process.Pid)
		select {}
	}
	goleak.VerifyTestMain(m)
}

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	srv, err := Start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, srv.Stop()) })
	return srv
}

func connect(t *testing.T, srv *Server) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), srv.URL())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func query[T any](t *testing.T, conn *pgx.Conn, sql string) T {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql)
	require.NoError(t, err)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	require.NoError(t, err)
	return v
}

// openDir returns a new directory that, unlike t.TempDir's, every user can use.
func openDir(t *testing.T) string {
	t.Helper()
	acct, err := serverAccount()
	require.NoError(t, err)
	parent, err := tempParent(acct)
	require.NoError(t, err)
	dir, err := os.MkdirTemp(parent, "awa")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o777))
	return dir
}

// watchTemp returns the directory that this test's servers are created in, to
// see what they leave there.
func watchTemp(t *testing.T) string {
	t.Helper()
	dir := openDir(t)
	t.Setenv("TMPDIR", dir)
	t.Setenv(MemoryEnv, "off")
	return dir
}

func assertEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	assert.NoError(t, err)
	assert.Empty(t, entries)
}

func assertNoProcess(t *testing.T, pid int) {
	t.Helper()
	assert.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "process %d", pid)
}

func TestStartStop(t *testing.T) {
	srv := start(t, Config{})
	conn := connect(t, srv)
	assert.Equal(t, 1, query[int](t, conn, "select 1"))
	assert.Equal(t, "postgres postgres", query[string](t, conn, "select current_user || ' ' || current_database()"))
	assert.Equal(t, "UTF8 C", query[string](t, conn,
		"select pg_encoding_to_char(encoding) || ' ' || datcollate from pg_database where datname = current_database()"))
	assert.Equal(t, "off", query[string](t, conn, "select current_setting('fsync')"))
	assert.Empty(t, query[string](t, conn, "select current_setting('listen_addresses')"))
	version, _, _ := strings.Cut(query[string](t, conn, "select current_setting('server_version')"), " ")
	assert.Equal(t, version, srv.ServerVersion())
	assert.FileExists(t, filepath.Join(srv.BinDir(), "postgres"))
	fi, err := os.Stat(srv.Dir())
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), fi.Mode().Perm())

	rows, err := conn.Query(t.Context(), "select pid from pg_stat_activity")
	require.NoError(t, err)
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	require.NoError(t, err)
	pids = append(pids, srv.proc.cmd.Process.Pid)
	require.Greater(t, len(pids), 4)

	require.NoError(t, srv.Stop()) // with a connection still open
	assert.NoDirExists(t, srv.Dir())
	for _, pid := range pids {
		assertNoProcess(t, pid)
	}
	require.NoError(t, srv.Stop())
}

func TestStopConcurrently(t *testing.T) {
	srv := start(t, Config{})
	errs := make(chan error)
	for range 4 {
		go func() {
			err := srv.Stop()
			assert.NoDirExists(t, srv.Dir())
			errs <- err
		}()
	}
	for range 4 {
		assert.NoError(t, <-errs)
	}
}

func TestConfig(t *testing.T) {
	srv := start(t, Config{Durable: true, Settings: map[string]string{
		"max_connections":   "17",
		"application_name":  `it's a \ name`,
		"port":              "1",
		"statement_timeout": "1min",
	}})
	conn := connect(t, srv)
	assert.Equal(t, "on", query[string](t, conn, "select current_setting('fsync')"))
	assert.Equal(t, "on", query[string](t, conn, "select current_setting('full_page_writes')"))
	assert.Equal(t, "17", query[string](t, conn, "select current_setting('max_connections')"))
	assert.Equal(t, "1min", query[string](t, conn, "select current_setting('statement_timeout')"))
	assert.Equal(t, `it's a \ name`, query[string](t, conn, "select current_setting('application_name')"))
}

func TestTwoServers(t *testing.T) {
	a, b := start(t, Config{}), start(t, Config{})
	assert.NotEqual(t, a.Dir(), b.Dir())
	connA, connB := connect(t, a), connect(t, b)
	_, err := connA.Exec(t.Context(), "create table only_a ()")
	require.NoError(t, err)
	assert.True(t, query[bool](t, connA, "select to_regclass('only_a') is not null"))
	assert.False(t, query[bool](t, connB, "select to_regclass('only_a') is not null"))
	require.NoError(t, a.Stop())
	assert.Equal(t, 1, query[int](t, connB, "select 1"))
}

func TestBadSetting(t *testing.T) {
	dir := watchTemp(t)
	_, err := Start(t.Context(), Config{Settings: map[string]string{"no_such_setting": "1"}})
	require.Error(t, err)
	assert.Contains(t, err.Error(), `unrecognized configuration parameter "no_such_setting"`)
	assert.Contains(t, err.Error(), "exit status 1")
	assertEmpty(t, dir)
}

func TestServerThatDied(t *testing.T) {
	srv, err := Start(t.Context(), Config{})
	require.NoError(t, err)
	require.NoError(t, srv.proc.cmd.Process.Signal(syscall.SIGQUIT))
	<-srv.proc.done
	conn, err := pgx.Connect(t.Context(), srv.URL())
	if err == nil {
		conn.Close(t.Context())
	}
	assert.Error(t, err)
	assert.NoError(t, srv.Stop(), "an orderly end is no failure")
	assert.NoDirExists(t, srv.Dir())
}

func TestNoBinaries(t *testing.T) {
	bin := openDir(t)
	dir := watchTemp(t)

	_, err := Start(t.Context(), Config{BinDir: bin})
	require.ErrorIs(t, err, ErrNoBinaries)
	assert.Contains(t, err.Error(), bin)
	assert.Contains(t, err.Error(), "initdb")

	t.Setenv(BinDirEnv, bin)
	_, err = Start(t.Context(), Config{})
	require.ErrorIs(t, err, ErrNoBinaries)
	assert.Contains(t, err.Error(), BinDirEnv+"="+bin)
	assertEmpty(t, dir)
}

func TestOldBinaries(t *testing.T) {
	bin := stubs(t, map[string]string{"postgres": "echo 'postgres (PostgreSQL) 14.9 (Debian 14.9-1)'"})
	_, err := Start(t.Context(), Config{BinDir: bin})
	require.ErrorIs(t, err, ErrNoBinaries)
	assert.Contains(t, err.Error(), "14.9 is too old")
}

func TestVersions(t *testing.T) {
	for _, version := range []string{"15.18 (Debian 15.18-0+deb12u1)", "18beta1", "17devel"} {
		bin := stubs(t, map[string]string{"postgres": "echo 'postgres (PostgreSQL) " + version + "'"})
		b, err := inspect(t.Context(), bin)
		require.NoError(t, err)
		assert.Equal(t, strings.Fields(version)[0], b.Version)
		assert.Equal(t, bin, b.Dir)
	}
}

func TestFindBinaries(t *testing.T) {
	server := func(version string) map[string]string {
		return map[string]string{"postgres": "echo 'postgres (PostgreSQL) " + version + "'"}
	}
	old, pg15, pg16, pg18 := stubs(t, server("9.6.24")), stubs(t, server("15.1")), stubs(t, server("16.1")),
		stubs(t, server("18.1"))
	t.Setenv(BinDirEnv, "")
	t.Cleanup(func(dirs []string) func() { return func() { packageDirs = dirs } }(packageDirs))
	find := func(path string, packages ...string) (string, error) {
		t.Setenv("PATH", path)
		packageDirs = packages
		b, err := FindBinaries(t.Context(), "")
		return b.Dir, err
	}

	_, err := find(old, old)
	require.ErrorIs(t, err, ErrNoBinaries)
	assert.Contains(t, err.Error(), "apt-get install postgresql-15")

	dir, err := find(old + ":" + pg15)
	require.NoError(t, err)
	assert.Equal(t, pg15, dir)

	dir, err = find(pg15, old, pg16, pg18, pg15)
	require.NoError(t, err)
	assert.Equal(t, pg18, dir, "the newest package comes before PATH")

	script := "#!/bin/sh\necho " + pg16 + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(pg15, "pg_config"), []byte(script), 0o755))
	dir, err = find(pg15, pg18)
	require.NoError(t, err)
	assert.Equal(t, pg16, dir, "pg_config comes first")

	t.Setenv(BinDirEnv, pg15)
	dir, err = find(old, pg18)
	require.NoError(t, err)
	assert.Equal(t, pg15, dir, "the environment decides")

	b, err := FindBinaries(t.Context(), pg18)
	require.NoError(t, err)
	assert.Equal(t, pg18, b.Dir, "the argument decides")
}

// stubs returns a directory with shell scripts in place of the PostgreSQL
// programs, which do nothing where no other body is given.
func stubs(t *testing.T, bodies map[string]string) string {
	t.Helper()
	dir := openDir(t)
	for _, name := range []string{"initdb", "pg_ctl", "postgres"} {
		script := "#!/bin/sh\n" + bodies[name] + "\n"
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	return dir
}

func TestCancelDuringStart(t *testing.T) {
	// The stub that hangs says so over a FIFO and keeps that open.
	const hang = `exec 3>"$FIFO"; echo hanging >&3; exec sleep 3600`
	const version = `if [ "$1" = --version ]; then echo 'postgres (PostgreSQL) 99.1'; exit; fi; `
	for name, bodies := range map[string]map[string]string{
		"initdb": {
			"postgres": version,
			"initdb":   hang,
		},
		// initdb's child keeps the group and the output open.
		"child of initdb": {
			"postgres": version,
			"initdb":   `sh -c '` + hang + `'; true`,
		},
		"postgres": {
			"postgres": version + hang,
			"initdb":   `mkdir "$2" && touch "$2/postgresql.conf"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			fifo := filepath.Join(openDir(t), "fifo")
			require.NoError(t, syscall.Mkfifo(fifo, 0o666))
			require.NoError(t, os.Chmod(fifo, 0o666))
			t.Setenv("FIFO", fifo)
			bin := stubs(t, bodies)
			dir := watchTemp(t)

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				defer cancel()
				f, err := os.Open(fifo)
				if !assert.NoError(t, err) {
					return
				}
				defer f.Close()
				r := bufio.NewReader(f)
				_, err = r.ReadString('\n')
				assert.NoError(t, err)
				cancel()
				_, err = io.ReadAll(r) // ends with the last process
				assert.NoError(t, err)
			}()

			_, err := Start(ctx, Config{BinDir: bin})
			require.ErrorIs(t, err, context.Canceled)
			assertEmpty(t, dir)
			<-ended
		})
	}
}

func TestCancelledContext(t *testing.T) {
	dir := watchTemp(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Start(ctx, Config{})
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, ErrNoBinaries)
	assertEmpty(t, dir)
}

// A temporary directory that the server cannot use is replaced by /tmp.
func TestLongTempDir(t *testing.T) {
	long := filepath.Join(watchTemp(t), strings.Repeat("x", 80))
	require.NoError(t, os.Mkdir(long, 0o777))
	t.Setenv("TMPDIR", long)
	srv := start(t, Config{})
	assert.Equal(t, "/tmp", filepath.Dir(srv.Dir()))
}

func TestReaches(t *testing.T) {
	dir := watchTemp(t)
	a := &account{uid: 12345, gid: 12345}
	assert.True(t, a.reaches(dir))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	require.NoError(t, os.Chmod(dir, 0o700))
	assert.False(t, a.reaches(filepath.Join(dir, "sub")))
	assert.False(t, a.reaches(filepath.Join(dir, "none")))
	var self *account
	assert.True(t, self.reaches(filepath.Join(dir, "sub")))
}
