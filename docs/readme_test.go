package docs_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// database is the database that the examples of the README and the tutorial name, on localhost.
const (
	database    = "app"
	databaseURL = "postgres://localhost/" + database
)

// A new user runs the blocks of the README one after the other, as they stand: with the version of this checkout as the
// latest one that was published, and with a server at localhost.
func TestREADME(t *testing.T) {
	pool, env := localhost(t)
	home := t.TempDir()
	env = append(append(published(t), env...), "GOPATH="+home, "GOBIN=")
	write(t, home, "send-mail.sh", "#!/bin/sh\njq -r .args.order 2>/dev/null || cat\n")
	completed := func(kind string, args string) func(context.Context) bool {
		return func(ctx context.Context) bool {
			var n int
			row := pool.QueryRow(ctx, `
				select count(*) from awa.jobs where kind = $1 and args = $2 and state = 'completed'`, kind, args)
			require.NoError(t, row.Scan(&n))
			return n == 1
		}
	}

	user := reader{pool: pool, url: databaseURL, home: home, env: env, receipts: map[string]string{}}
	for _, b := range blocks(t, "README.md") {
		switch {
		case strings.HasPrefix(b.text, "make demo "):
			run(t, "..", nil, "make", "demo") // "make test" is what runs this test
		case strings.HasPrefix(b.text, "awa work "):
			_, err := pool.Exec(t.Context(), `select awa.enqueue('email', 'send_mail', '{"order": 4713}')`)
			require.NoError(t, err)
			worker := start(t, home, env, "sh", "-c", "exec "+b.text)
			eventually(t, "awa work completes a job", completed("send_mail", `{"order": 4713}`))
			require.NoError(t, worker.cmd.Process.Signal(syscall.SIGTERM))
			worker.wait(t)
		case b.language == "sh":
			run(t, home, env, "sh", "-ec", b.text)
			env = exported(env, home, b.text)
		case b.language == "sql":
			user.psql(t, b.text)
		case b.language == "go":
			write(t, home, "main.go", b.text)
			run(t, home, env, "go", "build", "-o", "shop", ".")
			shop := start(t, home, env, "./shop")
			eventually(t, "the program completes its job", completed("confirm_order", `{"order": 4712}`))
			require.NoError(t, shop.cmd.Process.Signal(syscall.SIGTERM))
			assert.Contains(t, shop.wait(t), "confirming order 4712")
		default:
			assert.Failf(t, "a block that nothing runs", "%s\n%s", b.language, b.text)
		}
	}
}

// exported adds to the environment what a block has exported in the reader's terminal: where go install puts programs.
func exported(env []string, gopath, block string) []string {
	if strings.Contains(block, `export PATH="$PATH:$(go env GOPATH)/bin"`) {
		env = append(env, "PATH="+os.Getenv("PATH")+string(os.PathListSeparator)+filepath.Join(gopath, "bin"))
	}
	return env
}

// localhost creates the database of the README, and returns a pool on it, and the environment in which the server
// listens at localhost.
func localhost(t *testing.T) (*pgxpool.Pool, []string) {
	t.Helper()
	empty, err := url.Parse(testdb.EmptyURL(t))
	require.NoError(t, err)
	config, err := pgxpool.ParseConfig(empty.String())
	require.NoError(t, err)
	admin := testdb.Connect(t, empty.String())
	t.Cleanup(func() {
		_, err := admin.Exec(context.Background(), "drop database if exists "+database+" with (force)")
		assert.NoError(t, err)
	})
	_, err = admin.Exec(t.Context(), "drop database if exists "+database+" with (force)")
	require.NoError(t, err)
	_, err = admin.Exec(t.Context(), "create database "+database)
	require.NoError(t, err)
	config.ConnConfig.Database = database
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)

	// The server of the tests may listen at a Unix socket alone.
	listener, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	network, address := pgconnAddress(config)
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				server, err := net.Dial(network, address)
				if err != nil {
					return
				}
				defer server.Close()
				go func() {
					defer server.Close()
					io.Copy(server, client)
				}()
				io.Copy(client, server)
			}()
		}
	}()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	return pool, []string{
		"PGHOST=localhost", "PGPORT=" + port,
		"PGUSER=" + config.ConnConfig.User, "PGPASSWORD=" + config.ConnConfig.Password,
	}
}

// pgconnAddress returns where a pool's server is.
func pgconnAddress(config *pgxpool.Config) (network, address string) {
	host, port := config.ConnConfig.Host, config.ConnConfig.Port
	if filepath.IsAbs(host) {
		return "unix", filepath.Join(host, ".s.PGSQL."+strconv.Itoa(int(port)))
	}
	return "tcp", net.JoinHostPort(host, strconv.Itoa(int(port)))
}
