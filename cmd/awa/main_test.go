package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/install"
	"github.com/awa-pg/awa/internal/pgserver"
	"github.com/awa-pg/awa/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m, func() error { return goleak.Find() }) }

// patience is how long a test waits for what should happen soon, on a machine that may be very busy.
const patience = 2 * time.Minute

// eventually waits for what gives no signal.
func eventually(t *testing.T, condition func() bool, format string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			require.FailNowf(t, "waited in vain", format, args...)
		}
	}
}

// awa runs the command as the shell would.
func awa(ctx context.Context, args ...string) (status int, stdout, stderr string) {
	var out, err bytes.Buffer
	status = run(ctx, args, &out, &err)
	return status, out.String(), err.String()
}

// tree returns a directory with some files.
func tree(t *testing.T) (dir string, files int) {
	t.Helper()
	dir = t.TempDir()
	for path, content := range map[string]string{
		"a": "hello", "b": "hello", "empty": "", "sub/deep/c": "there", "name with ' and \"": "x",
	} {
		path = filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		files++
	}
	require.NoError(t, os.Symlink("a", filepath.Join(dir, "link")))
	return dir, files
}

func TestUsage(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	for _, test := range []struct {
		args   []string
		status int
		stdout string
		stderr string
	}{
		{nil, 2, "", "usage: awa COMMAND"},
		{[]string{"nonsense"}, 2, "", "unknown command"},
		{[]string{"help"}, 0, "usage: awa COMMAND", ""},
		{[]string{"version"}, 0, "awa ", ""},
		{[]string{"--version"}, 0, "awa ", ""},
		{[]string{"help", "version"}, 0, "usage: awa COMMAND", ""},
		{[]string{"migrate", "--wait", "0"}, 2, "", "this is no duration longer than 0"},
		{[]string{"uninstall", "--wait", "-1s"}, 2, "", "this is no duration longer than 0"},
		{[]string{"help", "nonsense"}, 2, "", "unknown command"},
		{[]string{"uninstall"}, 1, "", "Pass --database-url, or set DATABASE_URL"},
		{[]string{"uninstall", "--force", "--database-url", "postgres://%"}, 1, "", "The URL should look like"},
		{[]string{"sql", "operand"}, 2, "", "unexpected argument: argument 1"},
		{[]string{"migrate", "--nonsense"}, 2, "", "argument 1 is no flag that there is"},
		{[]string{"migrate", "operand"}, 2, "", "unexpected argument: argument 1"},
		{[]string{"demo", "a", "b"}, 2, "", "unexpected argument: argument 2"},
		{[]string{"migrate"}, 1, "", "Pass --database-url, or set DATABASE_URL"},
		{[]string{"migrate", "--database-url", "postgres://%"}, 1, "", "The URL should look like"},
		{[]string{"migrate", "--database-url", "postgres:///db?host=/nowhere"}, 1, "", "Is the server running"},
		{[]string{"demo", "/nowhere"}, 1, "", "no such file or directory"},
		{[]string{"metrics"}, 1, "", "Pass --database-url, or set DATABASE_URL"},
		{[]string{"metrics", "--database-url", "postgres://%"}, 1, "", "The URL should look like"},
		{[]string{"metrics", "--listen", "9187"}, 2, "", "for flag -listen: should be host:port"},
		{[]string{"work"}, 2, "", "Pass --exec, as in"},
		{[]string{"work", "--exec", " "}, 2, "", "Pass --exec, as in"},
		{[]string{"work", "--exec", "true"}, 1, "", "Pass --database-url, or set DATABASE_URL"},
		{[]string{"work", "--exec", "true", "operand"}, 2, "", "unexpected argument: argument 3"},
		{[]string{"work", "--exec", "true", "--exec", "false"}, 2, "", "for flag -exec: there is one already"},
		{[]string{"work", "--exec", "true", "--queue", "a", "--queue", "a=2"}, 2, "",
			"for flag -queue: this queue is there already"},
		{[]string{"work", "--exec", "true", "--queue", ""}, 2, "", "for flag -queue: the name should be"},
		{[]string{"work", "--exec", "true", "--queue", "a=0"}, 2, "", "for flag -queue: the weight should be"},
		{[]string{"work", "--exec", "true", "--slots", "0"}, 2, "",
			"for flag -slots: should be a number from 1 to 10,000"},
		{[]string{"work", "--exec", "true", "--slots", "many"}, 2, "", "for flag -slots: should be"},
		{[]string{"work", "--exec", "true", "--timeout", "0"}, 2, "", "for flag -timeout: should be a positive duration"},
		{[]string{"work", "--exec", "true", "--timeout", "10"}, 2, "",
			"for flag -timeout: should be a positive duration"},
		{[]string{"work", "--exec", "true", "--database-url", "postgres://%"}, 1, "", "The URL should look like"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			status, stdout, stderr := awa(t.Context(), test.args...)
			assert.Equal(t, test.status, status)
			assert.Contains(t, stdout, test.stdout)
			assert.Contains(t, stderr, test.stderr)
		})
	}
}

// Each command says how to use it, and what its exit statuses mean.
func TestHelp(t *testing.T) {
	_, overview, _ := awa(t.Context(), "help")
	assert.Contains(t, overview, "Exit status: 0 done; 1 it failed; 2 the command line is wrong.")
	for command, text := range usages {
		assert.Contains(t, overview, "\n  awa "+command+" ")
		assert.True(t, strings.HasPrefix(text, "usage: awa "+command), text)
		assert.Contains(t, text, "Exit status: ")
		for _, args := range [][]string{{command, "-h"}, {command, "--help"}, {"help", command}} {
			status, stdout, stderr := awa(t.Context(), args...)
			assert.Zero(t, status)
			assert.Equal(t, text, stdout)
			assert.Empty(t, stderr)
		}
		status, stdout, stderr := awa(t.Context(), command, "--nonsense")
		assert.Equal(t, 2, status)
		assert.Empty(t, stdout)
		assert.Contains(t, stderr, text)
	}
}

func TestSQLAndUninstall(t *testing.T) {
	sources, err := install.Embedded()
	require.NoError(t, err)
	for flag, file := range map[string]func() (string, error){"": sources.File, "--uninstall": sources.UninstallFile} {
		text, err := file()
		require.NoError(t, err)
		status, stdout, stderr := awa(t.Context(), strings.Fields("sql "+flag)...)
		assert.Zero(t, status, stderr)
		assert.True(t, text == stdout, "as it is, nothing escaped")
		assert.True(t, strings.HasPrefix(text, "\\set ON_ERROR_STOP on\n"))
	}

	databaseURL := startServer(t, pgserver.Config{}) // whose roles are nobody else's
	t.Setenv("DATABASE_URL", databaseURL)
	status, _, stderr := awa(t.Context(), "migrate", "--role-prefix", "app_")
	require.Zero(t, status, stderr)
	execute(t, testdb.Connect(t, databaseURL), "select awa.enqueue('q', 'k')")
	status, stdout, stderr := awa(t.Context(), "uninstall")
	assert.Equal(t, 1, status)
	assert.Empty(t, stdout)
	assert.Contains(t, stderr, "there are jobs")
	assert.Contains(t, stderr, "--force")
	status, stdout, stderr = awa(t.Context(), "uninstall", "--force")
	assert.Zero(t, status, stderr)
	assert.Equal(t, "Awa is removed.\nNone of its roles is left.\n", stdout)
	// The schema that knew the prefix is gone.
	status, _, stderr = awa(t.Context(), "migrate", "--role-prefix", "app_")
	require.Zero(t, status, stderr)
	execute(t, testdb.Connect(t, databaseURL), "drop schema awa cascade")
	status, stdout, stderr = awa(t.Context(), "uninstall")
	assert.Zero(t, status, stderr)
	assert.Contains(t, stdout, "There was no schema awa.\n")
	assert.NotContains(t, stdout, "None of its roles is left.", "there are those of app_")
	assert.Contains(t, stdout, "--role-prefix app_")
	status, stdout, stderr = awa(t.Context(), "uninstall", "--role-prefix", "app_")
	assert.Zero(t, status, stderr)
	assert.Contains(t, stdout, "No role with the prefix app_ is left.")
	var roles int
	row := testdb.Connect(t, databaseURL).QueryRow(t.Context(), "select count(*) from pg_roles where rolname ~ '^app_'")
	require.NoError(t, row.Scan(&roles))
	assert.Zero(t, roles)
}

func TestMigrate(t *testing.T) {
	databaseURL := testdb.EmptyURL(t)
	status, stdout, stderr := awa(t.Context(), "migrate", "--database-url", databaseURL)
	assert.Zero(t, status, stderr)
	assert.Contains(t, stdout, "Awa is installed: schema version ")
	assert.Contains(t, stdout, ", functions ")
	assert.Contains(t, stdout, "It is there for ")

	t.Setenv("DATABASE_URL", databaseURL)
	status, stdout, stderr = awa(t.Context(), "migrate")
	assert.Zero(t, status, stderr)
	assert.Contains(t, stdout, "Awa is up to date: schema version ")
}

func TestMigrateWithoutPermission(t *testing.T) {
	databaseURL := testdb.EmptyURL(t)
	admin := testdb.Connect(t, databaseURL)
	role := testRole(t, admin)
	execute(t, admin, "alter role "+role+" login")
	status, _, stderr := awa(t.Context(), "migrate", "--database-url", with(t, databaseURL, "user", role))
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "permission denied")
	assert.Contains(t, stderr, "grant create on database")
}

// Where another session has locked the table of the version, the installation waits for as long as it may, and names
// that session.
func TestMigrateNamesTheHolder(t *testing.T) {
	databaseURL := testdb.URL(t)
	holder := testdb.Connect(t, with(t, databaseURL, "application_name", "holder"))
	execute(t, holder, "comment on schema awa is null", // something is to be done
		"begin", "lock table awa.schema_version in access exclusive mode")
	for _, command := range []string{"migrate", "uninstall"} {
		began := time.Now()
		status, _, stderr := awa(t.Context(), command, "--wait", "300ms", "--database-url", databaseURL)
		assert.Equal(t, 1, status, command)
		assert.Less(t, time.Since(began), 30*time.Second, "%s: as if it may wait for a minute", command)
		assert.Contains(t, stderr, "(holder) holds", command)
	}
}

func TestMigrateUnknownDatabase(t *testing.T) {
	databaseURL := strings.Replace(testdb.EmptyURL(t), "awa_test_", "awa_test_not_", 1)
	status, _, stderr := awa(t.Context(), "migrate", "--database-url", databaseURL)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "Create the database first")
}

func TestDemoOnItsOwnServer(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	dir, _ := tree(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "not utf-8 \xff"), nil, 0o644))
	status, stdout, stderr := awa(t.Context(), "demo", dir)
	assert.Zero(t, status, stderr)
	assert.Contains(t, stdout, "Found 5 files in "+dir+", and left out 1 that can't be read.")
	assert.Contains(t, stdout, "Started PostgreSQL ")
	assert.Contains(t, stdout, "failed once    1 of them")
	assert.Contains(t, stdout, "205 completed, 0 failed")
	assert.Contains(t, stdout, "check          ok")
	assert.Empty(t, stderr)
}

func TestDemoOnAnExistingServer(t *testing.T) {
	databaseURL := testdb.EmptyURL(t)
	dir, _ := tree(t)
	for range 2 {
		status, stdout, stderr := awa(t.Context(), "demo", dir, "--database-url", databaseURL)
		assert.Zero(t, status, stderr)
		assert.NotContains(t, stdout, "Started PostgreSQL ")
		assert.Contains(t, stdout, "check          ok")
	}
}

func TestDemoWithoutBinaries(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	t.Setenv("AWA_PG_BINDIR", t.TempDir())
	dir, _ := tree(t)
	status, _, stderr := awa(t.Context(), "demo", dir)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "no PostgreSQL server binaries")
	assert.Contains(t, stderr, "--database-url")
}

func TestDemoWithoutFiles(t *testing.T) {
	status, _, stderr := awa(t.Context(), "demo", t.TempDir())
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "name a directory with files")
}

// interrupter is an output that interrupts the command when it has written something.
type interrupter struct {
	bytes.Buffer
	after     string
	interrupt context.CancelFunc
}

func (w *interrupter) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(w.after)) {
		w.interrupt()
	}
	return w.Buffer.Write(b)
}

func TestDemoIsInterrupted(t *testing.T) {
	dir, _ := tree(t)
	for _, after := range []string{"Found", "Awa is"} {
		ctx, cancel := context.WithCancel(t.Context())
		var stderr bytes.Buffer
		status := run(ctx, []string{"demo", dir, "--database-url", testdb.EmptyURL(t)},
			&interrupter{after: after, interrupt: cancel}, &stderr)
		assert.Equal(t, 1, status)
		assert.Contains(t, stderr.String(), "interrupted")
	}
}

// The demo's check finds what is wrong.
func TestDemoCheck(t *testing.T) {
	dir, files := tree(t)
	pool, err := pgxpool.New(t.Context(), testdb.URL(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	d := &demo{out: io.Discard, log: slog.New(slog.DiscardHandler), pool: pool, queue: "demo", pinged: make(chan struct{})}
	require.NoError(t, d.findFiles(t.Context(), dir))
	require.Len(t, d.files, files)
	require.NoError(t, d.run(t.Context()))
	require.NoError(t, d.check(t.Context()))

	good := d.files[1]
	for name, f := range map[string]file{
		"another hash": {path: good.path, sha256: "0", tries: 1, hashed: 1},
		"hashed twice": {path: good.path, sha256: good.sha256, tries: 2, hashed: 2},
		"tried twice":  {path: good.path, sha256: good.sha256, tries: 2, hashed: 1},
	} {
		d.files[1] = f
		assert.ErrorContains(t, d.check(t.Context()), "1 problems", name)
	}
	d.files[1] = good
	d.files = append(d.files, file{path: "no job"})
	assert.ErrorContains(t, d.check(t.Context()), "1 problems")
	d.files = d.files[:files]
	_, err = driver.NewClient(pool).Enqueue(t.Context(), hashFile{Number: 1, Path: good.path},
		driver.EnqueueOptions{Queue: "demo"})
	require.NoError(t, err)
	assert.ErrorContains(t, d.check(t.Context()), "1 problems")
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	bar := newProgress(&out, "things", 2000)
	bar.terminal = true
	bar.draw(1000)
	bar.end(2000)
	assert.Equal(t, "\r[####################....................] 1,000 of 2,000 things"+
		"\r[########################################] 2,000 of 2,000 things\n", out.String())
}

func TestNumbers(t *testing.T) {
	assert.Equal(t, "0", group(0))
	assert.Equal(t, "999", group(999))
	assert.Equal(t, "1,000", group(1000))
	assert.Equal(t, "1,234,567", group(1234567))
	var values []time.Duration
	assert.Equal(t, "-", percentile(values, 50))
	for i := range 200 {
		values = append(values, time.Duration(200-i)*time.Millisecond)
	}
	assert.Equal(t, "100.0 ms", percentile(values, 50))
	assert.Equal(t, "198.0 ms", percentile(values, 99))
}

// No command prints a password, however odd the URL, whether it can be read or nobody answers there.
func TestNoPasswordIsPrinted(t *testing.T) {
	const secret = "s3cr3t"
	for _, u := range []string{
		"postgres://u:" + secret + "@127.0.0.1:1/db", "postgres://u:" + secret + "@h:port/db",
		"postgres://u:%zz" + secret + "@h/db", "postgres://u:a@" + secret + "@127.0.0.1:1/db",
		"postgres://u:1#" + secret + "@127.0.0.1/db",
		"postgres://u:1/" + secret + "@127.0.0.1:1/db", "postgres:/u:" + secret + "@h/db", "mysql://u:" + secret + "=x@h/db",
		"u:" + secret + "@h/db", "host=127.0.0.1 port=1 password = '" + secret + "' x",
		"host=127.0.0.1 port=1 password='" + secret, "postgres://127.0.0.1:1/db?password=" + secret,
		"host=127.0.0.1 port=1 password=" + secret,
		"postgres://u;" + secret + "@127.0.0.1:1/db", "postgres://u," + secret + "@127.0.0.1:1/db",
		"postgres://u." + secret + "@127.0.0.1:1/db", "postgres://u:p " + secret + "@127.0.0.1:1/db",
		"host=localhost;pwd=" + secret, "Host=127.0.0.1;Port=1;Username=u;Password=" + secret,
		"postgres://127.0.0.1:1/db;password=" + secret, "postgres://127.0.0.1:1/db?user=u%2F" + secret,
		"host=127.0.0.1 port=1 dbname='d " + secret + "'", `host=127.0.0.1 port=1 user='u"` + secret + `\\'`,
	} {
		for _, args := range [][]string{{"migrate"}, {"doctor"}, {"doctor", "--json"}, {"work", "--exec", "true"},
			{"selftest"}, {"demo", "testdata"}, {"schedules"}, {"schedules", "pause", "s"}} {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // a worker goes on trying
			_, stdout, stderr := awa(ctx, append(args, "--database-url", u)...)
			cancel()
			assert.NotContains(t, stdout+stderr, secret, "%v %s", args, u)
		}
	}

	// Wherever it stands
	const url = "postgres://u:" + secret + "@127.0.0.1:1/db"
	none := func(args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		status, stdout, stderr := awa(ctx, args...)
		assert.NotZero(t, status, args)
		assert.NotContains(t, stdout+stderr, secret, args)
	}
	for _, s := range []string{
		url, "u:" + secret + "@h/db", "host=127.0.0.1 port=1 password=" + secret, "password=" + secret,
		"PASSWORD = " + secret, "sslpassword=" + secret, "postgres%3A%2F%2Fu%3A" + secret + "%40h", "u:" + secret,
		"--" + url, "-" + url,
		"--database-url:" + url, "--x=" + url, "--" + url + "=x", "---" + url, "postgres://u:" + secret + "\t\"@h/db",
		"--postgres://u:" + secret + "\"@h/db?a=b", "=" + url,
		secret + "@h/db", "u/" + secret + "@h", "--pwd=" + secret, "--" + secret, "PGPASSWORD=" + secret,
	} {
		none(s)
		none("help", s)
		for _, command := range []string{"migrate", "doctor", "work", "selftest", "demo", "sql", "uninstall",
			"schedules", "nonsense"} {
			none(command, s)
			none(command, "--database-url=", s)
			none(command, "--database-url", url, s)
			none(command, "x", s)
			none(command, s, "x")
		}
		for _, args := range [][]string{{"migrate", "--wait"}, {"migrate", "--role-prefix"}, {"uninstall", "--role-prefix"},
			{"uninstall", "--force"}, {"doctor", "--json"}, {"selftest", "--phase"}, {"work", "--slots"},
			{"work", "--timeout"}} {
			none(append(args, s)...)
			none(append(args[:1:1], args[1]+"="+s)...)
			none(append(args[:1:1], args[1]+"="+s, "--database-url", url)...)
		}
	}
	none(secret)
	none("help", secret)
	for _, command := range []string{
		"migrate", "doctor", "work", "selftest", "demo", "sql", "uninstall", "schedules", "metrics",
	} {
		none(command, secret)
	}
	none("work", "--exec", "true", "--queue", url, "--database-url", url)
	none("work", "--exec", "true", "--queue="+url+"=0")
	for _, u := range []string{
		"user=postgres:" + secret + "@h/db host=127.0.0.1 port=1", "user=u:" + secret + " host=127.0.0.1 port=1",
		"dbname=" + url + " host=127.0.0.1 port=1", "dbname='password=" + secret + "' host=127.0.0.1 port=1",
		"host=u:" + secret + "@h", "host=127.0.0.1,u:" + secret + "@h port=1",
		"host=" + url, "postgres://127.0.0.1:1/postgres:%2F%2Fu:" + secret + "%40h",
		"postgres://127.0.0.1:1/?dbname=" + strings.ReplaceAll(url, "@", "%40"),
		"postgres://u:%40" + secret + "%40h%2Fdb:x@127.0.0.1:1/" + "?user=u:" + secret,
	} {
		for _, args := range [][]string{{"migrate"}, {"doctor"}, {"work", "--exec", "true"}, {"uninstall"}, {"schedules"}} {
			none(append(args, "--database-url", u)...)
		}
	}
	for _, variable := range []string{"PGDATABASE", "PGUSER", "PGHOST", "PGPORT", "PGSERVICE", "PGSERVICEFILE",
		"PGSSLMODE", "PGSSLROOTCERT", "PGCONNECT_TIMEOUT", "PGTARGETSESSIONATTRS", "PGAPPNAME", "PGOPTIONS", "PGTZ",
		"PGPASSFILE", "PGMINPROTOCOLVERSION"} {
		for _, value := range []string{url, "u:" + secret + "@h", "password=" + secret, "u/" + secret, "u " + secret} {
			t.Setenv(variable, value)
			none("migrate", "--database-url",
				"host=127.0.0.1 port=1 "+map[string]string{"PGHOST": "user=u", "PGPORT": "user=u"}[variable])
			none("doctor", "--database-url", "connect_timeout=1")
			os.Unsetenv(variable)
		}
	}
}
