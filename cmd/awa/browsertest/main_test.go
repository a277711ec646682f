package browsertest

import (
	"bufio"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// patience is how long a test waits for what should happen soon, on a machine that may be very busy.
const patience = time.Minute

func TestMain(m *testing.M) { testdb.Main(m, func() error { return os.RemoveAll(built) }) }

var built string // the directory of the command, once it is built

// command returns the path of the command, which is built once.
var command = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "awa-browsertest-")
	if err != nil {
		return "", err
	}
	built = dir
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", dir, "github.com/awa-pg/awa/cmd/awa").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return filepath.Join(dir, "awa"), nil
})

// log holds what a command has logged.
type log struct {
	mutex sync.Mutex
	text  strings.Builder
}

func (l *log) Write(text []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.Write(text)
}

func (l *log) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.String()
}

// site is "awa ui" for a database with jobs.
type site struct {
	t           *testing.T
	databaseURL string
	owner       *pgx.Conn // who may do everything
	address     string    // of the overview, without a slash at its end
	log         *log
	role        string
	process     *os.Process
	stop        func() // stops the command, and waits until it has
}

// newSite serves the pages of a new database as a role, with more arguments.
func newSite(t *testing.T, role string, arguments ...string) *site {
	t.Helper()
	s := &site{t: t, databaseURL: testdb.URL(t)}
	s.owner = testdb.Connect(t, s.databaseURL)
	s.fill()
	s.serve(role, arguments...)
	return s
}

// serve starts the command, which stops when the test ends.
func (s *site) serve(role string, arguments ...string) {
	s.t.Helper()
	s.role = role
	s.listen("127.0.0.1:0", arguments...)
}

// restart starts the command again, at the same address.
func (s *site) restart(arguments ...string) {
	s.t.Helper()
	s.stop()
	address, err := url.Parse(s.address)
	require.NoError(s.t, err)
	s.listen(address.Host, arguments...)
}

func (s *site) listen(at string, arguments ...string) {
	s.t.Helper()
	path, err := command()
	require.NoError(s.t, err)
	databaseURL, err := url.Parse(s.databaseURL)
	require.NoError(s.t, err)
	query := databaseURL.Query()
	query.Set("role", s.role)
	databaseURL.RawQuery = query.Encode()
	arguments = append([]string{"ui", "--listen", at, "--database-url", databaseURL.String()}, arguments...)
	awa := exec.Command(path, arguments...)
	s.log = &log{}
	awa.Stderr = s.log
	stdout, err := awa.StdoutPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, awa.Start())
	s.process = awa.Process
	s.stop = sync.OnceFunc(func() {
		_ = awa.Process.Signal(syscall.SIGTERM)
		_ = awa.Wait()
	})
	s.t.Cleanup(s.stop)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(s.t, err, "%s", s.log)
	address, found := strings.CutPrefix(strings.TrimSpace(line), "serving the pages at ")
	require.True(s.t, found, line)
	s.address = strings.TrimSuffix(address, "/")
}

// execute runs statements as the owner.
func (s *site) execute(statements ...string) {
	s.t.Helper()
	for _, statement := range statements {
		_, err := s.owner.Exec(s.t.Context(), statement)
		require.NoError(s.t, err, statement)
	}
}

// value returns what a statement returns, as text.
func (s *site) value(statement string, arguments ...any) (text string) {
	s.t.Helper()
	require.NoError(s.t, s.owner.QueryRow(s.t.Context(), statement, arguments...).Scan(&text), statement)
	return text
}

// withOperator makes the role that may read, operate and enqueue, for all tests that use the server.
func withOperator(t *testing.T) (role string) {
	t.Helper()
	role = "awa_test_browser_operator"
	owner := testdb.Connect(t, testdb.URL(t))
	for _, statement := range []string{
		`do $$
		begin
		  create role ` + role + `;
		exception when duplicate_object then null;
		end $$`,
		`grant awa_reader, awa_operator, awa_producer to ` + role,
	} {
		_, err := owner.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	t.Cleanup(func() { _, _ = owner.Exec(context.Background(), "drop role "+role) })
	return role
}
