//go:build unix

package testdb

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// Bouncer is a pgbouncer that pools transactions: whoever begins one gets any of a few connections to the server.
type Bouncer struct {
	t    *testing.T
	dir  string
	port string // only part of the socket's name
	cmd  *exec.Cmd
}

// StartBouncer starts a pgbouncer in front of a server, with so many connections to each database. It stops when the
// test ends.
func StartBouncer(t *testing.T, databaseURL string, connections int) *Bouncer {
	t.Helper()
	to, err := pgx.ParseConfig(databaseURL)
	require.NoError(t, err)
	dir, err := os.MkdirTemp("/tmp", "awa-bouncer") // a socket's path has to be short
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &Bouncer{t: t, dir: dir, port: "6432"}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ini"), fmt.Appendf(nil, `
[databases]
* = host=%s port=%d user=%s
[pgbouncer]
pool_mode = transaction
default_pool_size = %d
auth_type = any
listen_addr =
listen_port = %s
unix_socket_dir = %s
log_connections = 0
log_disconnections = 0
`, to.Host, to.Port, to.User, connections, b.port, dir), 0o644))
	b.Start()
	t.Cleanup(b.Stop)
	return b
}

// Start starts it again, after Stop.
func (b *Bouncer) Start() {
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
	require.Eventually(b.t, func() bool { // the socket is there before anybody listens
		conn, err := net.Dial("unix", filepath.Join(b.dir, ".s.PGSQL."+b.port))
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, timeout, time.Millisecond, "pgbouncer does not start")
}

// Stop kills it.
func (b *Bouncer) Stop() {
	b.cmd.Process.Kill()
	b.cmd.Wait()
	os.Remove(filepath.Join(b.dir, ".s.PGSQL."+b.port))
	os.Remove(filepath.Join(b.dir, ".s.PGSQL."+b.port+".lock"))
}

// URL returns the URL of a database through the proxy.
func (b *Bouncer) URL(databaseURL string, mode pgx.QueryExecMode) string {
	cfg, err := pgx.ParseConfig(databaseURL)
	require.NoError(b.t, err)
	return "postgres:///" + cfg.Database + "?" + url.Values{
		"host": {b.dir}, "port": {b.port}, "user": {cfg.User}, "default_query_exec_mode": {map[pgx.QueryExecMode]string{
			pgx.QueryExecModeCacheStatement: "cache_statement", pgx.QueryExecModeCacheDescribe: "cache_describe",
			pgx.QueryExecModeDescribeExec: "describe_exec", pgx.QueryExecModeExec: "exec",
			pgx.QueryExecModeSimpleProtocol: "simple_protocol",
		}[mode]},
	}.Encode()
}
