// Package pgserver starts private, throw-away PostgreSQL servers from the
// PostgreSQL binaries that are installed on the machine.
//
// A server lives in one temporary directory that holds its data, its log and
// its Unix socket. It listens on that socket only, and only the account that
// started it (and root) can reach the socket, so there is no password.
//
//	srv, err := pgserver.Start(ctx, pgserver.Config{})
//	if err != nil {
//		return err
//	}
//	defer srv.Stop()
//	conn, err := pgx.Connect(ctx, srv.URL())
//
// PostgreSQL refuses to run as root. When the program runs as root the server
// runs as the system user "postgres" or, without one, as "nobody".
//
// On Linux the server shuts down when the program that started it is killed,
// but then nobody removes its directory, unless that is in memory: there the
// next program that starts a server does. The data of a server that is not
// durable is in memory where there is enough of it.
package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// startTimeout bounds Start when its context has no deadline.
	startTimeout = time.Minute
	// stopTimeout is how long Stop waits after each signal before it sends
	// the next, harsher one.
	stopTimeout = 10 * time.Second
	// pollInterval is the pause between two attempts to connect at start.
	pollInterval = 20 * time.Millisecond

	superuser = "postgres"
	port      = "5432" // only part of the socket's file name

	// MemoryEnv names the environment variable that, with the value off, keeps
	// the data of all servers out of memory, in a directory for temporary files.
	MemoryEnv = "AWA_PG_MEMORY"

	dirPrefix = "awa-pg"
	// maxSocketPath is what fits in sockaddr_un everywhere: macOS has 104
	// bytes and Linux 108, both with the final NUL.
	maxSocketPath = 103
)

// Config says how to start a server. The zero value is ready to use.
type Config struct {
	// BinDir is the directory with initdb, pg_ctl and postgres. When it is
	// empty, FindBinaries looks for one.
	BinDir string

	// Settings are appended to postgresql.conf, by name. The port and the
	// socket directory cannot be changed.
	Settings map[string]string

	// Durable makes the server write safely to disk, and compile plans as it
	// does by default. The zero value turns fsync off, which is faster and fits
	// tests: what was committed still survives a crash of the server, but not
	// one of the machine. Its data may be in memory, see MemoryEnv. It turns jit
	// off, too: to compile a plan takes longer than to run it on the few rows of
	// a test.
	Durable bool

	checksums string // of the data: on, off, or as initdb has it
}

// Server is a running PostgreSQL server.
type Server struct {
	dir      string
	owner    *os.File // open as long as the directory is in use, if that is in memory
	binaries Binaries
	acct     *account
	proc     *process

	stopOnce sync.Once
	stopErr  error
}

// Start creates a database cluster in a new temporary directory, starts a
// server on it and waits until the server accepts connections. The context
// bounds the start only; the server runs until Stop. When Start fails it leaves
// neither a process nor a directory behind.
//
// The error is ErrNoBinaries when there is no suitable PostgreSQL.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, startTimeout)
		defer cancel()
	}
	bin, err := FindBinaries(ctx, cfg.BinDir)
	if err != nil {
		return nil, err
	}
	acct, err := serverAccount()
	if err != nil {
		return nil, err
	}
	s := &Server{binaries: bin, acct: acct}
	if err := s.makeDir(cfg.Durable); err != nil {
		return nil, err
	}
	if err := s.start(ctx, cfg); err != nil {
		if s.proc != nil {
			s.proc.terminate()
		}
		return nil, errors.Join(err, s.removeDir())
	}
	return s, nil
}

// URL returns the connection string of the superuser "postgres" for the
// database "postgres".
func (s *Server) URL() string {
	return "postgres:///postgres?" + url.Values{
		"host": {s.dir}, "port": {port}, "user": {superuser},
	}.Encode()
}

// Dir returns the server's directory, which is also that of its socket.
func (s *Server) Dir() string { return s.dir }

// Port returns the server's port, which is only part of the socket's name.
func (s *Server) Port() string { return port }

// User returns the name of the superuser.
func (s *Server) User() string { return superuser }

// BinDir returns the directory of the binaries the server was started from.
func (s *Server) BinDir() string { return s.binaries.Dir }

// ServerVersion returns the server's version, for example "15.18".
func (s *Server) ServerVersion() string { return s.binaries.Version }

// Stop shuts the server down, which closes every connection, and removes its
// directory. A server that does not shut down in time is killed. Stop may be
// called more than once and from any goroutine: every call waits for the first
// one and returns its result. It returns an error when the server had failed
// before, or when the directory could not be removed.
func (s *Server) Stop() error {
	s.stopOnce.Do(func() {
		select {
		case <-s.proc.done:
			if s.proc.err != nil {
				s.stopErr = fmt.Errorf("postgres ended before Stop: %w%s", s.proc.err, s.logTail())
			}
		default:
			s.proc.terminate()
		}
		s.stopErr = errors.Join(s.stopErr, s.removeDir())
	})
	return s.stopErr
}

// Halt ends the server, as a crash does: without a checkpoint, and without a word to anybody. Its directory stays, for
// Resume. The server must not be used by others at the same time.
func (s *Server) Halt() error {
	s.proc.cmd.Process.Signal(syscall.SIGQUIT)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-s.proc.done:
		return nil
	case <-timer.C:
		return errors.New("postgres does not end")
	}
}

// Resume starts a server again that was halted or killed, and waits until it accepts connections.
func (s *Server) Resume(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := s.run(ctx)
		if err == nil || ctx.Err() != nil || !strings.Contains(s.logTail(), "still in use") {
			return err
		}
		time.Sleep(pollInterval) // a process of before is still on its way out
	}
}

// Standby starts a second server, which follows this one and can be read, until it is promoted (select pg_promote()).
// It halts this one for a moment, to copy its data.
func (s *Server) Standby(ctx context.Context) (*Server, error) {
	standby := &Server{binaries: s.binaries, acct: s.acct}
	if err := standby.makeDir(s.owner == nil); err != nil {
		return nil, err
	}
	if err := s.follow(ctx, standby); err != nil {
		if standby.proc != nil {
			standby.proc.terminate()
		}
		return nil, errors.Join(err, standby.removeDir())
	}
	return standby, nil
}

func (s *Server) follow(ctx context.Context, standby *Server) error {
	if err := s.Halt(); err != nil {
		return err
	}
	if out, err := standby.command("cp", "-R", s.dataDir(), standby.dataDir()).CombinedOutput(); err != nil {
		return fmt.Errorf("copy: %w: %s", err, out)
	}
	if err := s.Resume(ctx); err != nil {
		return err
	}
	if err := standby.configure(map[string]string{"primary_conninfo": fmt.Sprintf("host=%s port=%s user=%s", s.dir, port,
		superuser)}); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(standby.dataDir(), "postmaster.pid")); err != nil &&
		!errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(filepath.Join(standby.dataDir(), "standby.signal"), nil, 0o644); err != nil {
		return err
	}
	return standby.Resume(ctx)
}

// start fills the directory and starts the server in it. It sets s.proc as
// soon as there is a process to end.
func (s *Server) start(ctx context.Context, cfg Config) error {
	if err := s.initdb(ctx, cfg); err != nil {
		return err
	}
	settings := map[string]string{"listen_addresses": ""}
	if !cfg.Durable {
		settings["fsync"] = "off"
		settings["full_page_writes"] = "off"
		settings["jit"] = "off"
	}
	maps.Copy(settings, cfg.Settings)
	if err := s.configure(settings); err != nil {
		return err
	}
	return s.run(ctx)
}

func (s *Server) run(ctx context.Context) error {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the server has its own descriptor
	cmd := s.command(filepath.Join(s.binaries.Dir, "postgres"), "-D", s.dataDir(), "-k", s.dir, "-p", port)
	cmd.Stdout, cmd.Stderr = log, log
	if s.proc, err = startProcess(cmd); err != nil {
		return err
	}
	return s.waitReady(ctx)
}

func (s *Server) initdb(ctx context.Context, cfg Config) error {
	args := []string{
		"-D", s.dataDir(), "-U", superuser, "-A", "trust",
		"--locale=C", "--encoding=UTF8", "--no-instructions",
	}
	if !cfg.Durable {
		args = append(args, "--no-sync")
	}
	switch {
	case cfg.checksums == "on":
		args = append(args, "--data-checksums")
	case cfg.checksums == "off" && s.binaries.major >= 18: // where they are the default
		args = append(args, "--no-data-checksums")
	}
	cmd := s.command(filepath.Join(s.binaries.Dir, "initdb"), args...)
	// Wait returns when the last writer has closed the output. The server
	// processes that initdb starts inherit it, so they are gone by then too.
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	proc, err := startProcess(cmd)
	if err != nil {
		return err
	}
	select {
	case <-proc.done:
	case <-ctx.Done():
		proc.killGroup()
		<-proc.done
		return fmt.Errorf("initdb: %w", context.Cause(ctx))
	}
	if proc.err != nil {
		return fmt.Errorf("initdb: %w%s", proc.err, indent(tail(output.Bytes())))
	}
	return nil
}

// configure appends settings to postgresql.conf; of several lines for one
// setting the last one counts.
func (s *Server) configure(settings map[string]string) error {
	var conf strings.Builder
	conf.WriteByte('\n')
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		quoted := strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(settings[name])
		fmt.Fprintf(&conf, "%s = '%s'\n", name, quoted)
	}
	f, err := os.OpenFile(filepath.Join(s.dataDir(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(conf.String())
	return errors.Join(err, f.Close())
}

func (s *Server) waitReady(ctx context.Context) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		conn, err := pgx.Connect(ctx, s.URL())
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.proc.done:
			return fmt.Errorf("postgres ended at start (%v)%s", s.proc.state(), s.logTail())
		case <-ctx.Done():
			return fmt.Errorf("postgres does not accept connections: %w; last attempt: %w%s",
				context.Cause(ctx), err, s.logTail())
		case <-ticker.C:
		}
	}
}

// command prepares a program that runs as the server's account. It runs in the
// server's directory because the unprivileged user may not be able to enter ours.
func (s *Server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = s.dir
	cmd.Env = serverEnv(os.Environ())
	cmd.SysProcAttr = sysProcAttr(s.acct)
	return cmd
}

func (s *Server) dataDir() string { return filepath.Join(s.dir, "data") }
func (s *Server) logFile() string { return filepath.Join(s.dir, "log") }

// logTail returns the end of the server's log, indented to follow a message.
func (s *Server) logTail() string {
	f, err := os.Open(s.logFile())
	if err != nil {
		return ""
	}
	defer f.Close()
	const size = 16 << 10
	if fi, err := f.Stat(); err == nil && fi.Size() > size {
		f.Seek(-size, io.SeekEnd)
	}
	text, _ := io.ReadAll(f)
	return indent(tail(text))
}

// tail returns the last lines of text.
func tail(text []byte) []string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[max(0, len(lines)-20):]
}

func indent(lines []string) string {
	return ":\n\t" + strings.Join(lines, "\n\t")
}

// serverEnv removes the variables that libpq and the server itself read, and
// asks for messages in English.
func serverEnv(env []string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		return strings.HasPrefix(kv, "PG") || strings.HasPrefix(kv, "LC_ALL=")
	})
	return append(env, "LC_ALL=C")
}

// makeDir creates the server's directory and gives it to the account.
func (s *Server) makeDir(durable bool) error {
	parent, inMemory := memoryParent(s.acct)
	if durable || !inMemory {
		var err error
		if parent, err = tempParent(s.acct); err != nil {
			return err
		}
	} else {
		removeLeft()
	}
	dir, err := os.MkdirTemp(parent, dirPrefix)
	if err != nil {
		return err
	}
	s.dir = dir
	if s.owner, err = own(dir); err == nil && s.acct != nil {
		// The mode stays 0700: it keeps other users away from the socket,
		// and root reaches it anyway.
		err = os.Chown(dir, s.acct.uid, s.acct.gid)
	}
	if err != nil {
		return errors.Join(err, s.removeDir())
	}
	return nil
}

// removeDir removes the server's directory.
func (s *Server) removeDir() error {
	err := os.RemoveAll(s.dir)
	s.owner.Close() // nil is fine
	return err
}

// tempParent returns the usual directory for temporary files or, when the
// account cannot reach it or a socket's path in it would be too long, /tmp.
func tempParent(acct *account) (string, error) {
	// MkdirTemp appends at most ten digits.
	inside := len("/" + dirPrefix + "0123456789" + "/.s.PGSQL." + port)
	for _, dir := range []string{os.TempDir(), "/tmp"} {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return "", err
		}
		if len(dir)+inside <= maxSocketPath && acct.reaches(dir) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("neither %s nor /tmp can hold the server's directory", os.TempDir())
}

// process is a child process and the goroutine that waits for it.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // of Wait; read it after done only
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The signal that the child gets when its parent dies is tied to the
		// thread that started it. Keep that thread until the child has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// state describes how the process ended.
func (p *process) state() string { return p.cmd.ProcessState.String() }

// terminate asks the server for a fast shutdown, then for an immediate one, and
// kills it at last. It returns when the process has ended.
func (p *process) terminate() {
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		p.cmd.Process.Signal(sig)
		timer := time.NewTimer(stopTimeout)
		select {
		case <-p.done:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
	p.killGroup()
	<-p.done
}
