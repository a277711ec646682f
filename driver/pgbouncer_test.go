//go:build unix

package driver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// bouncer is a pgbouncer that pools transactions: whoever begins one gets any of three connections to the server.
type bouncer struct {
	t    *testing.T
	dir  string
	port string // only part of the socket's name
	cmd  *exec.Cmd
}

func startBouncer(t *testing.T, databaseURL string) *bouncer {
	t.Helper()
	to, err := pgx.ParseConfig(databaseURL)
	require.NoError(t, err)
	dir, err := os.MkdirTemp("/tmp", "awa-bouncer") // a socket's path has to be short
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &bouncer{t: t, dir: dir, port: "6432"}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ini"), fmt.Appendf(nil, `
[databases]
* = host=%s port=%d user=%s
[pgbouncer]
pool_mode = transaction
default_pool_size = 3
auth_type = any
listen_addr =
listen_port = %s
unix_socket_dir = %s
log_connections = 0
log_disconnections = 0
`, to.Host, to.Port, to.User, b.port, dir), 0o644))
	b.start()
	t.Cleanup(b.stop)
	return b
}

func (b *bouncer) start() {
	b.t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path = "/usr/sbin/pgbouncer" // not on everybody's PATH
	}
	b.cmd = exec.Command(path, filepath.Join(b.dir, "ini"))
	b.cmd.Dir = b.dir
	b.cmd.Stderr = b.t.Output()
	if os.Geteuid() == 0 { // it refuses to run as root
		account, err := user.Lookup("postgres")
		require.NoError(b.t, err)
		uid, err := strconv.Atoi(account.Uid)
		require.NoError(b.t, err)
		gid, err := strconv.Atoi(account.Gid)
		require.NoError(b.t, err)
		require.NoError(b.t, os.Chown(b.dir, uid, gid))
		b.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	require.NoError(b.t, b.cmd.Start(), "install pgbouncer")
	waitFor(b.t, func() bool { // the socket is there before anybody listens
		conn, err := net.Dial("unix", filepath.Join(b.dir, ".s.PGSQL."+b.port))
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, "pgbouncer does not start")
}

func (b *bouncer) stop() {
	b.cmd.Process.Kill()
	b.cmd.Wait()
	os.Remove(filepath.Join(b.dir, ".s.PGSQL."+b.port))
	os.Remove(filepath.Join(b.dir, ".s.PGSQL."+b.port+".lock"))
}

// url returns the URL of a database through the proxy.
func (b *bouncer) url(databaseURL string, mode pgx.QueryExecMode) string {
	cfg, err := pgx.ParseConfig(databaseURL)
	require.NoError(b.t, err)
	return "postgres:///" + cfg.Database + "?" + url.Values{
		"host": {b.dir}, "port": {b.port}, "user": {cfg.User}, "default_query_exec_mode": {map[pgx.QueryExecMode]string{
			pgx.QueryExecModeCacheStatement: "cache_statement", pgx.QueryExecModeCacheDescribe: "cache_describe",
			pgx.QueryExecModeDescribeExec: "describe_exec", pgx.QueryExecModeExec: "exec", pgx.QueryExecModeSimpleProtocol: "simple_protocol",
		}[mode]},
	}.Encode()
}

// A worker works behind a proxy that pools transactions, whatever the mode in which its pool sends queries, and resumes when
// the proxy was away.
func TestBehindAProxy(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			driver.SetMaintenance(t, 20*time.Millisecond)
			databaseURL := testdb.URL(t)
			proxy := startBouncer(t, databaseURL)
			var listens atomic.Bool
			tap := &wiretap{onWrite: func(_ *tappedConn, sent []byte) (func() error, error) {
				if bytes.Contains(sent, []byte("listen ")) {
					listens.Store(true)
				}
				return nil, nil
			}}
			direct, through := untapped(t, databaseURL), tap.pool(t, proxy.url(databaseURL, mode))
			ran := newTally()
			handler := func(ctx context.Context, job *driver.Job[note]) error {
				switch job.Args.Text {
				case "fail":
					return errors.New("boom")
				case "snooze":
					return driver.Snooze(time.Hour)
				case "discard":
					return driver.Discard(errors.New("no"))
				case "cancel":
					return driver.Cancel("no")
				case "retry":
					return driver.RetryAfter(time.Hour, errors.New("later"))
				case "progress":
					for i := range 5 {
						if err := job.SetProgress(ctx, i); err != nil {
							return err
						}
						if _, err := job.Extend(ctx, time.Hour); err != nil {
							return err
						}
					}
					return errors.New("keeps its progress")
				}
				job.SetOutput(job.Args.Text)
				return ran.handle(ctx, job)
			}
			// Several, so that they get each other's connections to the server.
			for range 3 {
				runWorker(t, through, handle(handler), driver.WorkerConfig{PollInterval: 20 * time.Millisecond, HeartbeatEvery: 20 * time.Millisecond})
			}
			settings := `{"backoff_base": "1 hour"}`
			for text, want := range map[string]string{
				"": "completed", "fail": "retryable", "snooze": "scheduled", "discard": "failed", "cancel": "cancelled", "retry": "retryable", "progress": "retryable",
			} {
				id := enqueueConfigured(t, direct, note{text}, driver.EnqueueOptions{}, settings)
				job := waitForState(t, direct, id, want)
				switch text {
				case "":
					assert.JSONEq(t, `""`, string(job.Output))
				case "progress":
					assert.JSONEq(t, "4", string(job.Progress))
				}
			}
			deferred := enqueue(t, direct, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(50 * time.Millisecond)})
			waitForState(t, direct, deferred, "completed")
			// What only maintenance as a whole does.
			waitFor(t, func() bool {
				return queryValue[bool](t, direct, "select exists (select from awa.queue_rollups where completed > 0)")
			}, "maintenance is not done")
			assert.False(t, listens.Load(), "notifications would go to whoever gets that connection next")

			proxy.stop()
			waiting := enqueue(t, direct, note{}, driver.EnqueueOptions{})
			proxy.start()
			waitForState(t, direct, waiting, "completed")
			requireResumed(t, direct, ran)
		})
	}
}

// The proxy of these tests does what makes proxies a trouble: a session is nobody's.
func TestProxyPoolsTransactions(t *testing.T) {
	databaseURL := testdb.URL(t)
	proxy := startBouncer(t, databaseURL)
	first := testdb.Connect(t, proxy.url(databaseURL, pgx.QueryExecModeCacheStatement))
	second := testdb.Connect(t, proxy.url(databaseURL, pgx.QueryExecModeExec))
	pid := func(conn interface {
		QueryRow(context.Context, string, ...any) pgx.Row
	}) (pid int) {
		require.NoError(t, conn.QueryRow(t.Context(), "select pg_backend_pid()", pgx.QueryExecModeExec).Scan(&pid))
		return pid
	}
	before := pid(first)
	_, err := first.Exec(t.Context(), "select $1::int", 1) // prepares
	require.NoError(t, err)
	tx, err := second.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	require.Equal(t, before, pid(tx), "the connection to the server has changed hands")
	_, err = first.Exec(t.Context(), "select $1::int", 2)
	assert.ErrorContains(t, err, "does not exist", "a prepared statement stays with the session")
}
