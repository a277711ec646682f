// Package testdb gives each test a database of its own, with Awa installed.
//
// The databases are in the server that AWA_TEST_DATABASE_URL names or, when that is not set, in a private one that the
// test binary starts when a test first needs it. Each database is a clone of a template, which the first test that
// finds none for this version of the SQL creates. On a server that stays, the templates (awa_template_...) stay too.
package testdb

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/pgserver"
	"github.com/awa-pg/awa/sql"
)

const (
	// urlEnv names the environment variable that says which server to use.
	urlEnv = "AWA_TEST_DATABASE_URL"
	// timeout bounds each step that has to do with a server or a database as a whole.
	timeout = time.Minute
	// templateLock is the key of the advisory lock under which a template is created.
	templateLock = int64(0x61776174656d706c) // "awatempl"
)

// Main runs the tests of a package: call it from TestMain. Afterwards it stops the private server, if there is one,
// and, when all is well, runs the checks, each until it passes, or for a minute: what a test has closed may still be at
// its end, a connection whose server is silent for 15 s. It does not return.
func Main(m *testing.M, checks ...func() error) {
	status := m.Run()
	if private.server != nil {
		if err := private.server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "testdb:", err)
			status = max(status, 1)
		}
	}
	for _, check := range checks {
		if status != 0 {
			break
		}
		err := check()
		for deadline := time.Now().Add(timeout); err != nil && time.Now().Before(deadline); err = check() {
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "testdb:", err)
			status = 1
		}
	}
	os.Exit(status)
}

// New returns a pool on a new database with Awa installed. When the test ends the pool is closed and the database is
// dropped.
func New(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), URL(t))
	if err != nil {
		t.Fatal("testdb:", err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// URL returns the URL of a new database with Awa installed. The database is dropped when the test ends.
func URL(t testing.TB) string {
	t.Helper()
	return create(t, Create)
}

// EmptyURL returns the URL of a new database without Awa. The database is dropped when the test ends.
func EmptyURL(t testing.TB) string {
	t.Helper()
	return create(t, createEmpty)
}

// Connect returns a connection that is closed when the test ends.
func Connect(t testing.TB, databaseURL string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal("testdb:", err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func create(t testing.TB, create func(context.Context) (string, func() error, error)) string {
	t.Helper()
	databaseURL, drop, err := create(t.Context())
	if err != nil {
		t.Fatal("testdb:", err)
	}
	t.Cleanup(func() {
		if err := drop(); err != nil {
			t.Error("testdb:", err)
		}
	})
	return databaseURL
}

// Create creates a database with Awa installed, for an example, which has no test to clean up after: call drop.
func Create(ctx context.Context) (databaseURL string, drop func() error, err error) {
	server, err := serverURL()
	if err != nil {
		return "", nil, err
	}
	template, err := ensureTemplate(ctx, server)
	if err != nil {
		return "", nil, fmt.Errorf("create a template on %s: %w", whichServer(), err)
	}
	return createFrom(ctx, server, template)
}

// whichServer says where the server's URL is from.
func whichServer() string {
	if os.Getenv(urlEnv) != "" {
		return "the server of " + urlEnv
	}
	return "the private server"
}

func createEmpty(ctx context.Context) (databaseURL string, drop func() error, err error) {
	server, err := serverURL()
	if err != nil {
		return "", nil, err
	}
	return createFrom(ctx, server, "template0")
}

func createFrom(ctx context.Context, server, template string) (databaseURL string, drop func() error, err error) {
	name := "awa_test_" + strings.ToLower(rand.Text()[:12])
	if err := execute(ctx, server, fmt.Sprintf("create database %s template %s", name, template)); err != nil {
		return "", nil, fmt.Errorf("create a database on %s: %w", whichServer(), err)
	}
	drop = func() error {
		return execute(context.Background(), server, fmt.Sprintf("drop database if exists %s with (force)", name))
	}
	return withDatabase(server, name), drop, nil
}

// private is the server of this test binary. Main reads it when all tests are done.
var private struct {
	once   sync.Once
	server *pgserver.Server
	err    error
}

// serverURL returns the URL of the server that the tests use.
func serverURL() (string, error) {
	if databaseURL := os.Getenv(urlEnv); databaseURL != "" {
		return databaseURL, nil
	}
	private.once.Do(func() {
		private.server, private.err = pgserver.Start(context.Background(), pgserver.Config{
			Settings: map[string]string{"max_connections": "300"},
		})
	})
	if private.err != nil {
		return "", private.err
	}
	return private.server.URL(), nil
}

// ensureTemplate returns the name of the template for this version of the SQL, and creates it if need be.
var ensureTemplate = func() func(context.Context, string) (string, error) {
	var mu sync.Mutex
	var name string
	return func(ctx context.Context, server string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if name == "" {
			hash, err := sqlHash()
			if err != nil {
				return "", err
			}
			template := "awa_template_" + hash
			if err := createTemplate(ctx, server, template); err != nil {
				return "", err
			}
			name = template
		}
		return name, nil
	}
}()

// createTemplate creates the template unless it exists. It gets its name when it is complete.
func createTemplate(ctx context.Context, server, template string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(ctx, "select pg_advisory_lock($1)", templateLock); err != nil {
		return err
	}
	var exists bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1)",
		template).Scan(&exists); err != nil || exists {
		return err
	}
	unfinished := template + "_unfinished"
	if _, err := conn.Exec(ctx, fmt.Sprintf("drop database if exists %s with (force)", unfinished)); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, fmt.Sprintf("create database %s template template0", unfinished)); err != nil {
		return err
	}
	if _, err := driver.Migrate(ctx, withDatabase(server, unfinished)); err != nil {
		return err
	}
	// The server has not always noticed yet that the last connection is gone.
	for {
		_, err = conn.Exec(ctx, fmt.Sprintf("alter database %s rename to %s", unfinished, template))
		var state interface{ SQLState() string }
		if !errors.As(err, &state) || state.SQLState() != "55006" {
			break
		}
	}
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, fmt.Sprintf("alter database %s with allow_connections false", template))
	return err
}

// sqlHash identifies the SQL that Migrate installs.
func sqlHash() (string, error) {
	hash := sha256.New()
	for _, tree := range []fs.FS{sql.Migrations, sql.Functions, sql.Install} {
		err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			body, err := fs.ReadFile(tree, path)
			fmt.Fprintf(hash, "%s %d\n%s", path, len(body), body)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x", hash.Sum(nil)[:8]), nil
}

// execute runs a statement on a connection of its own.
func execute(ctx context.Context, databaseURL, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(ctx, statement)
	return err
}

// withDatabase returns the URL, or the connection string, of another database on the same server.
func withDatabase(databaseURL, name string) string {
	u, err := url.Parse(databaseURL)
	if err != nil || u.Scheme == "" {
		return databaseURL + " dbname=" + name
	}
	u.Path = "/" + name
	query := u.Query()
	query.Del("dbname")
	query.Del("database")
	u.RawQuery = query.Encode()
	return u.String()
}
