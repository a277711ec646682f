// Package docs_test runs the programs and commands that the documentation shows, as they stand there.
package docs_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// patience is how long a condition may take that holds within a second on a quiet machine.
const patience = 5 * time.Minute

func TestMain(m *testing.M) { testdb.Main(m) }

// block is a fenced block of a document.
type block struct {
	language string
	text     string
}

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// blocks returns the fenced blocks of a document of this project, whose path is relative to its root.
func blocks(t *testing.T, path string) []block {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", path))
	require.NoError(t, err)
	var found []block
	for _, match := range fence.FindAllStringSubmatch(string(text), -1) {
		found = append(found, block{language: match[1], text: match[2]})
	}
	require.NotEmpty(t, found)
	return found
}

// program is a command that runs beside the test, and what it has printed so far.
type program struct {
	cmd    *exec.Cmd
	output output
	done   chan struct{} // closed when it has ended
	err    error         // set before done is closed
}

// start starts a command. When the test ends it is killed, if it still runs, and what it printed is logged if the test
// failed.
func start(t *testing.T, dir string, env []string, name string, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = dir, append(os.Environ(), env...), &p.output, &p.output
	p.cmd.WaitDelay = 5 * time.Second
	require.NoError(t, p.cmd.Start())
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%s printed:\n%s", p.cmd, p.output.String())
		}
	})
	return p
}

// wait waits until the command has ended with exit status 0. It has all the time of the tests: on a busy machine a
// compiler takes many minutes.
func (p *program) wait(t *testing.T) string {
	t.Helper()
	p.waitForItsEnd(t)
	require.NoErrorf(t, p.err, "%s printed:\n%s", p.cmd, p.output.String())
	return p.output.String()
}

// waitForItsEnd waits until the command has ended; half a minute before the tests' time is over it says which one has
// not.
func (p *program) waitForItsEnd(t *testing.T) {
	t.Helper()
	var over <-chan time.Time // never, where the tests have no end
	if deadline, ok := t.Deadline(); ok {
		over = time.After(time.Until(deadline) - 30*time.Second)
	}
	select {
	case <-p.done:
	case <-over:
		require.Failf(t, "still running", "%s", p.cmd)
	}
}

// run runs a command to its end, which has to be exit status 0, and returns what it printed.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	return start(t, dir, env, name, args...).wait(t)
}

// output is a buffer that one goroutine reads while another one writes.
type output struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
}

var _ io.Writer = (*output)(nil)

func (o *output) Write(p []byte) (int, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.buffer.Write(p)
}

func (o *output) String() string {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.buffer.String()
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, condition func(context.Context) bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(t.Context()); time.Sleep(20 * time.Millisecond) {
		require.Truef(t, time.Now().Before(deadline), "not within %v: %s", patience, what)
	}
}

// write writes an executable file.
func write(t *testing.T, dir, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
}

// fileName returns the name in the first line of a program, a comment.
func fileName(t *testing.T, text string) string {
	t.Helper()
	line, _, _ := strings.Cut(text, "\n")
	name, found := strings.CutPrefix(line, "# ")
	require.Truef(t, found, "the first line of a program is a comment with its name, not %q", line)
	return name
}
