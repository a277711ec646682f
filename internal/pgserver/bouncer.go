//go:build unix

package pgserver

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Bouncer is a pgbouncer that pools transactions: whoever begins one gets any of a few connections to the server.
type Bouncer struct {
	dir string
	cmd *exec.Cmd
}

const (
	bouncerPort     = "6432" // only part of the socket's name
	bouncerMessages = "messages"
)

// StartBouncer starts a pgbouncer in front of a server, with so many connections to each database.
func StartBouncer(databaseURL string, connections int) (*Bouncer, error) {
	to, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "awa-bouncer") // a socket's path has to be short
	if err != nil {
		return nil, err
	}
	b := &Bouncer{dir: dir}
	err = os.WriteFile(filepath.Join(dir, "ini"), fmt.Appendf(nil, `
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
`, to.Host, to.Port, to.User, connections, bouncerPort, dir), 0o644)
	if err == nil {
		err = b.Start()
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Start starts it again, after Stop.
func (b *Bouncer) Start() error {
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path = "/usr/sbin/pgbouncer" // not on everybody's PATH
	}
	acct, err := serverAccount() // it refuses to run as root, too
	if err != nil {
		return err
	}
	if acct != nil {
		if err := os.Chown(b.dir, acct.uid, acct.gid); err != nil {
			return err
		}
	}
	messages, err := os.Create(filepath.Join(b.dir, bouncerMessages))
	if err != nil {
		return err
	}
	defer messages.Close() // it has its own descriptor
	cmd := exec.Command(path, filepath.Join(b.dir, "ini"))
	cmd.Dir, cmd.Stderr, cmd.SysProcAttr = b.dir, messages, &syscall.SysProcAttr{}
	if acct != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(acct.uid), Gid: uint32(acct.gid)}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("install pgbouncer: %w", err)
	}
	b.cmd = cmd
	for began := time.Now(); ; time.Sleep(time.Millisecond) { // the socket is there before anybody listens
		conn, err := net.Dial("unix", filepath.Join(b.dir, ".s.PGSQL."+bouncerPort))
		if err == nil {
			return conn.Close()
		}
		if time.Since(began) > startTimeout {
			text, _ := os.ReadFile(filepath.Join(b.dir, bouncerMessages))
			return fmt.Errorf("pgbouncer does not start%s", indent(strings.Split(string(text), "\n")))
		}
	}
}

// Stop kills it.
func (b *Bouncer) Stop() {
	if b.cmd == nil {
		return
	}
	b.cmd.Process.Kill()
	b.cmd.Wait()
	os.Remove(filepath.Join(b.dir, ".s.PGSQL."+bouncerPort))
	os.Remove(filepath.Join(b.dir, ".s.PGSQL."+bouncerPort+".lock"))
}

// Close stops it, and removes its directory.
func (b *Bouncer) Close() error {
	b.Stop()
	return os.RemoveAll(b.dir)
}

// URL returns the URL of a database through the proxy.
func (b *Bouncer) URL(databaseURL string, mode pgx.QueryExecMode) (string, error) {
	cfg, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return "", err
	}
	return "postgres:///" + cfg.Database + "?" + url.Values{
		"host": {b.dir}, "port": {bouncerPort}, "user": {cfg.User}, "default_query_exec_mode": {map[pgx.QueryExecMode]string{
			pgx.QueryExecModeCacheStatement: "cache_statement", pgx.QueryExecModeCacheDescribe: "cache_describe",
			pgx.QueryExecModeDescribeExec: "describe_exec", pgx.QueryExecModeExec: "exec",
			pgx.QueryExecModeSimpleProtocol: "simple_protocol",
		}[mode]},
	}.Encode(), nil
}
