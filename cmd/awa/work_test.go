//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// asCommand is set for a process that is this test's binary, and should be the command.
const asCommand = "AWA_TEST_AS_COMMAND"

func init() {
	if os.Getenv(asCommand) != "" {
		main()
	}
}

// doKind is a CMD for which the kind of a job is the script to run.
const doKind = `eval "$AWA_KIND"`

// startWork runs awa work in this process until stop is called, which returns its exit status.
func startWork(t *testing.T, databaseURL string, args ...string) (stderr *safeBuffer, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stderr = new(safeBuffer)
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, append([]string{"work", "--database-url", databaseURL}, args...), io.Discard, stderr)
	}()
	stop = func() int {
		cancel()
		status := <-ended
		ended <- status
		return status
	}
	t.Cleanup(func() { assert.Zero(t, stop(), stderr) })
	return stderr, stop
}

// startProcess runs awa work in a process of its own, and a process group, like one of a shell.
func startProcess(t *testing.T, databaseURL string, args ...string) (stderr *safeBuffer, process *exec.Cmd) {
	t.Helper()
	stderr = new(safeBuffer)
	process = awaProcess(t, databaseURL, args...)
	process.Stderr = stderr
	// A child inherits ignored signals, as nohup and a shell's background leave them. It gets back the default of those
	// that its parent handles.
	handled := make(chan os.Signal, 1)
	signal.Notify(handled, os.Interrupt, syscall.SIGHUP)
	defer signal.Stop(handled)
	require.NoError(t, process.Start())
	t.Cleanup(func() { process.Process.Kill() })
	return stderr, process
}

func awaProcess(t *testing.T, databaseURL string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	process := exec.Command(self, append([]string{"work", "--database-url", databaseURL}, args...)...)
	process.Env = append(os.Environ(), asCommand+"=1")
	process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return process
}

// safeBuffer may be read while it is written to.
type safeBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// waitForText waits until something was written.
func (b *safeBuffer) waitForText(t *testing.T, text string) {
	t.Helper()
	eventually(t, func() bool { return strings.Contains(b.String(), text) }, "no %q in %s", text, b)
}

func receive[T any](t *testing.T, from <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		require.FailNow(t, "waited in vain", what)
	}
	return v
}

// enqueueKind enqueues a job; options are more arguments of awa.enqueue.
func enqueueKind(t *testing.T, pool *pgxpool.Pool, queue, kind string, options ...string) (id int64) {
	t.Helper()
	sql := "select awa.enqueue($1, $2" + strings.Join(append([]string{""}, options...), ", ") + ")"
	require.NoError(t, pool.QueryRow(t.Context(), sql, queue, kind).Scan(&id))
	return id
}

// waitForJob waits until a job is in a state.
func waitForJob(t *testing.T, pool *pgxpool.Pool, id int64, state string) (job driver.JobInfo) {
	t.Helper()
	eventually(t, func() (is bool) {
		var err error
		job, err = driver.NewClient(pool).Job(t.Context(), id)
		require.NoError(t, err)
		return job.State == state
	}, "job %d is not %s", id, state)
	return job
}

// lifeline is a FIFO that a CMD opens as $FIFO, to say that it runs. It is closed when the CMD and all that has
// inherited it are dead.
type lifeline struct{ opened, closed chan struct{} }

func newLifeline(t *testing.T) lifeline {
	t.Helper()
	path := newFIFO(t, "FIFO")
	l := lifeline{opened: make(chan struct{}), closed: make(chan struct{})}
	go func() {
		f, err := os.Open(path)
		if err != nil {
			return
		}
		defer f.Close()
		close(l.opened)
		io.Copy(io.Discard, f)
		close(l.closed)
	}()
	t.Cleanup(func() { // the open must not wait for ever
		if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
			f.Close()
		}
	})
	return l
}

// newFIFO makes a FIFO whose path is in a variable of the environment.
func newFIFO(t *testing.T, variable string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	t.Setenv(variable, path)
	return path
}

// connect returns a pool on a database that was made for this test.
func connect(t *testing.T, databaseURL string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), databaseURL)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func setKillDelay(t *testing.T, d time.Duration) {
	before := killDelay
	killDelay = d
	t.Cleanup(func() { killDelay = before })
}

func TestWorkVerdicts(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool := connect(t, databaseURL)
	stderr, _ := startWork(t, databaseURL, "--exec", doKind, "--slots", "4")
	full := strings.Repeat("x", maxOutput)
	ids := map[string]int64{}
	for _, test := range []struct {
		name   string
		script string
		state  string
		output string // JSON, or "" for none
		errors string // the one error begins so
	}{
		{"nothing", `true`, "completed", ``, ""},
		{"newlines", `printf '\n\n'`, "completed", ``, ""},
		{"object", `echo '{"a": [1, "<&>", 12345678901234567890.5]}'`, "completed",
			`{"a": [1, "<&>", 12345678901234567890.5]}`, ""},
		{"lines of JSON are text", `echo 1; echo 2`, "completed", `"1\n2"`, ""},
		{"null", `echo null`, "completed", `null`, ""},
		{"text", `echo hello; echo; echo '"world'`, "completed", `"hello\n\n\"world"`, ""},
		{"NUL", `printf 'a\000b'`, "completed", `"a�b"`, ""},
		{"no UTF-8", `printf 'a\377b'`, "completed", `"a�b"`, ""},
		{"no UTF-8 in JSON", `printf '"a\377b"'`, "completed", `"\"a�b\""`, ""},
		{"escaped NUL", `printf %s '"\u0000"'`, "completed", `"\"\\u0000\""`, ""},
		{"half a surrogate pair", `printf %s '["\uD83D"]'`, "completed", `"[\"\\uD83D\"]"`, ""},
		{"surrogate pair", `printf %s '["\uD83D\uDE00"]'`, "completed", `["😀"]`, ""},
		{"no numeric", `echo 1e999999`, "completed", `"1e999999"`, ""},
		{"as much as there may be", `head -c 1048576 /dev/zero | tr '\0' x`, "completed", `"` + full + `"`, ""},
		{"too much", `head -c 1048577 /dev/zero | tr '\0' x`, "retryable", ``,
			"standard output is more than 1048576 bytes (exit status 0)"},
		{"too much, for ever", `exec yes`, "retryable", ``,
			"standard output is more than 1048576 bytes (signal: broken pipe)"},
		{"temporary failure", `echo output; echo message >&2; exit 75`, "scheduled", ``, ""},
		{"bad data", `echo output; echo message >&2; exit 65`, "failed", ``, "exit status 65\nmessage"},
		{"failure", `echo output; printf 'a\000\377b\nc' >&2; exit 3`, "retryable", ``, "exit status 3\na��b\nc"},
		{"failure without a message", `exit 1`, "retryable", ``, "exit status 1"},
		{"signal", `kill -9 $$`, "retryable", ``, "signal: killed"},
		{"no such command", `no-such-command`, "retryable", ``, "exit status 127\nsh: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			began := time.Now()
			id := enqueueKind(t, pool, "default", test.script)
			ids[test.name] = id
			job := waitForJob(t, pool, id, test.state)
			if test.output == "" {
				assert.Nil(t, job.Output)
			} else {
				require.NotNil(t, job.Output)
				assert.JSONEq(t, test.output, string(job.Output))
			}
			if test.errors == "" {
				assert.Empty(t, job.Errors)
			} else {
				require.Len(t, job.Errors, 1)
				assert.True(t, strings.HasPrefix(job.Errors[0].Error, test.errors), job.Errors[0].Error)
			}
			if test.state == "scheduled" {
				assert.Zero(t, job.Attempt, "does not count")
				assert.WithinRange(t, job.RunAt, began.Add(time.Minute), time.Now().Add(time.Minute))
			}
		})
	}
	// Numbers stay as they are, down to the last digit.
	job := waitForJob(t, pool, ids["object"], "completed")
	assert.Contains(t, string(job.Output), "12345678901234567890.5")

	log := stderr.String()
	assert.Contains(t, log, fmt.Sprintf("\njob %d: message\n", ids["bad data"]))
	assert.Contains(t, log, fmt.Sprintf("\njob %d: a\\u0000\\xffb\njob %[1]d: c\n", ids["failure"]),
		"also without a newline at the end")
	assert.Contains(t, log, fmt.Sprintf(` job_id=%d kind="%s" attempt=1 error="exit status 3"`+"\n", ids["failure"],
		`echo output; printf 'a\\000\\377b\\nc' >&2; exit 3`),
		"without what is there already")
}

func TestWorkKeepsTheEndOfStderr(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool := connect(t, databaseURL)
	startWork(t, databaseURL, "--exec", doKind)
	id := enqueueKind(t, pool, "default", `seq 5000 >&2; exit 1`)
	job := waitForJob(t, pool, id, "retryable")
	text := job.Errors[0].Error
	assert.True(t, strings.HasPrefix(text, "exit status 1\n..."), text[:30])
	assert.True(t, strings.HasSuffix(text, "\n4999\n5000"), text[len(text)-30:])
	assert.InDelta(t, maxStderr, len(text), 30)
}

// What is no jsonb would fail the attempt, although CMD has succeeded.
// Arguments that can't be passed on fail their attempt, and no other one's.
func TestWorkDeepArguments(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool := connect(t, databaseURL)
	deep := enqueueKind(t, pool, "default", "job", "max_attempts => 1")
	_, err := pool.Exec(t.Context(),
		"update awa.ready_entries set args = (repeat('[', 10001) || repeat(']', 10001))::jsonb")
	require.NoError(t, err)
	other := enqueueKind(t, pool, "default", "job")
	startWork(t, databaseURL, "--exec", "cat >&2")
	job := waitForJob(t, pool, deep, "failed")
	require.Len(t, job.Errors, 1)
	assert.Contains(t, job.Errors[0].Error, "max depth")
	assert.Equal(t, 1, waitForJob(t, pool, other, "completed").Attempt)
}

func TestIsJSONB(t *testing.T) {
	pool := testdb.New(t)
	for text, want := range map[string]bool{
		`{}`: true, `{`: false, ``: false, `{} {}`: false, ` [1] `: true, `nul`: false,
		`"\u0000"`: false, `"\\u0000"`: true, `"\\\u0000"`: false, `{"\u0000": 1}`: false, `"\u0001"`: true,
		"\"\x00\"": false,
		`"\ud800"`: false, `"\uDBFF"`: false, `"\udc00"`: false, `"\udc00\ud800"`: false, `"\ud800\ud800\udc00"`: false,
		`"\ud800\udc00"`: true, `"\uDBFF\uDFFF"`: true, `"\ud83d\\ude00"`: false, `"\\ud83d"`: true,
		`"\ud7ff\ue000\uffff"`: true,
		"\"\xff\"":             false, "\"\xed\xa0\x80\"": false, `"�"`: true,
		`1e400`: true, `-1E-999`: true, `"1e999999"`: true, `1e131072`: false, `[1e-20000]`: false,
		`{"a": -1E+131072}`:                false,
		"0." + strings.Repeat("1", 17_000): false, strings.Repeat("1", 140_000): false, strings.Repeat("1", 900): true,
		strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000): true,
	} {
		assert.Equal(t, want, isJSONB([]byte(text)), "%.50q", text)
		_, err := pool.Exec(t.Context(), "select $1::text::jsonb", text)
		assert.Equal(t, want, err == nil, "%.50q: the server says %v", text, err)
		if err != nil {
			var refused *pgconn.PgError
			assert.True(t, errors.As(err, &refused), err)
		}
	}
}

func TestWorkInput(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool := connect(t, databaseURL)
	id := enqueueKind(t, pool, "default", "k<i>nd",
		`'{"b": "<é>", "n": 12345678901234567890.5}'`, "priority => 3", "max_attempts => 7", "tags => '{x,y}'",
		`metadata => '{"m": 1}'`, "group_key => 'g'", "expires_at => now() + interval '1 hour'")
	_, err := pool.Exec(t.Context(), `select awa.configure_queue('default', '{"deadline": "1 hour"}')`)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(),
		`select awa.set_progress(job_id, receipt, '{"p": 50}'), awa.fail(job_id, receipt, 'once', retry_after => '0') from `+
			`awa.claim('default')`)
	require.NoError(t, err)
	plain := enqueueKind(t, pool, "plain", "plain")

	startWork(t, databaseURL, "--exec", "cat", "--queue", "default", "--queue", "plain")
	job := waitForJob(t, pool, id, "completed")
	var input map[string]any
	decoder := json.NewDecoder(bytes.NewReader(job.Output))
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&input))
	for _, name := range []string{"created_at", "ready_at", "deadline_at", "expires_at"} {
		_, err := time.Parse(time.RFC3339Nano, fmt.Sprint(input[name]))
		assert.NoError(t, err)
		delete(input, name)
	}
	number := func(n any) json.Number { return json.Number(fmt.Sprint(n)) }
	assert.Equal(t, map[string]any{
		"job_id": number(id), "receipt": number(*job.Receipt), "queue": "default", "kind": "k<i>nd",
		"args":     map[string]any{"b": "<é>", "n": number("12345678901234567890.5")},
		"priority": number(3), "attempt": number(2), "max_attempts": number(7),
		"tags": []any{"x", "y"}, "metadata": map[string]any{"m": number(1)}, "progress": map[string]any{"p": number(50)},
		"group_key": "g",
	}, input)

	require.NoError(t, json.Unmarshal(waitForJob(t, pool, plain, "completed").Output, &input))
	for _, name := range []string{"deadline_at", "metadata", "progress", "tags", "group_key", "expires_at"} {
		assert.Contains(t, input, name)
		assert.Nil(t, input[name])
	}
	assert.Equal(t, map[string]any{}, input["args"])
}

// The columns of awa.claim are all there, and nothing else is.
func TestWorkInputHasTheColumnsOfClaim(t *testing.T) {
	var columns []string
	require.NoError(t, testdb.New(t).QueryRow(t.Context(),
		`select array_agg(attname::text) from pg_attribute where attrelid = 'awa.claimed_job_row'::regclass and attnum > `+
			`0`).Scan(&columns))
	line, err := encodeJob(&driver.RawJob{Args: json.RawMessage("{}")})
	require.NoError(t, err)
	assert.Equal(t, 1, bytes.Count(line, []byte("\n")))
	assert.True(t, bytes.HasSuffix(line, []byte("}\n")))
	var input map[string]any
	require.NoError(t, json.Unmarshal(line, &input))
	var names []string
	for name := range input {
		names = append(names, name)
	}
	assert.ElementsMatch(t, columns, names)
}

func TestWorkEnvironment(t *testing.T) {
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	t.Setenv("INHERITED", "yes")
	t.Setenv("AWA_KIND", "another worker's")
	pool := connect(t, databaseURL)
	id := enqueueKind(t, pool, "it's", "a 'kind'", "max_attempts => 7")
	startWork(t, databaseURL, "--queue", "it's", "--exec",
		`printf '%s\n' "$AWA_JOB_ID" "$AWA_RECEIPT" "$AWA_QUEUE" "$AWA_KIND" "$AWA_ATTEMPT" "$AWA_MAX_ATTEMPTS" `+
			`"$INHERITED" "$DATABASE_URL"`)
	job := waitForJob(t, pool, id, "completed")
	var output string
	require.NoError(t, json.Unmarshal(job.Output, &output))
	assert.Equal(t, []string{fmt.Sprint(id), fmt.Sprint(*job.Receipt), "it's", "a 'kind'", "1", "7", "yes", databaseURL},
		strings.Split(output, "\n"))
}

func TestWorkQueues(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool := connect(t, databaseURL)
	other := enqueueKind(t, pool, "default", "k")
	a, b := enqueueKind(t, pool, "a", "k"), enqueueKind(t, pool, "b=c", "k")
	stderr, stop := startWork(t, databaseURL, "--exec", `echo "$AWA_QUEUE"`, "--queue", "a", "--queue", "b=c=10",
		"--slots", "1")
	assert.JSONEq(t, `"a"`, string(waitForJob(t, pool, a, "completed").Output))
	assert.JSONEq(t, `"b=c"`, string(waitForJob(t, pool, b, "completed").Output))
	assert.Zero(t, stop())
	assert.Contains(t, stderr.String(), `msg=starting queues="[a b=c]" slots=1`)
	assert.Zero(t, waitForJob(t, pool, other, "available").Attempt)
}

func TestParseQueue(t *testing.T) {
	for value, want := range map[string]driver.QueueConfig{
		"a": {Name: "a"}, "a=1": {Name: "a", Weight: 1}, "a=1000": {Name: "a", Weight: 1000},
		"a=b=2":                  {Name: "a=b", Weight: 2},
		strings.Repeat("é", 200): {Name: strings.Repeat("é", 200)},
	} {
		queue, err := parseQueue(value)
		assert.NoError(t, err)
		assert.Equal(t, want, queue)
	}
	for _, value := range []string{"", "=1", "a=", "a=0", "a=1001", "a=b", "a=1.5", strings.Repeat("é", 201)} {
		_, err := parseQueue(value)
		assert.Error(t, err, value)
	}
}

func TestWorkTimeout(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool := connect(t, databaseURL)
	startWork(t, databaseURL, "--timeout", "1s", "--exec", "sleep 1000")
	id := enqueueKind(t, pool, "default", "k", "max_attempts => 1")
	job := waitForJob(t, pool, id, "failed")
	assert.Equal(t, "timeout of 1s (signal: terminated)", job.Errors[0].Error)
}

// The end of its context ends all that CMD has started: by SIGTERM, or, who does not heed it, by SIGKILL.
func TestProgramIsEnded(t *testing.T) {
	const patient = time.Second // the time in which who heeds SIGTERM has to end
	for name, test := range map[string]struct {
		script, status string
		killDelay      time.Duration
	}{
		"SIGTERM":             {`exec 9>"$FIFO"; sleep 1000 & sleep 1000`, "signal: terminated", patience},
		"SIGKILL":             {`trap "" TERM; exec 9>"$FIFO"; sleep 1000 & sleep 1000`, "signal: killed", patient},
		"SIGKILL for a child": {`(trap "" TERM; exec 9>"$FIFO"; sleep 1000) & sleep 1000`, "signal: terminated", patient},
		"0 after all":         {`trap "exit 0" TERM; (exec 9>"$FIFO"; exec sleep 1000) & wait`, "exit status 0", patience},
		"75 after all":        {`trap "exit 75" TERM; (exec 9>"$FIFO"; exec sleep 1000) & wait`, "exit status 75", patience},
	} {
		t.Run(name, func(t *testing.T) {
			setKillDelay(t, test.killDelay)
			line := newLifeline(t)
			ctx, end := context.WithCancelCause(t.Context())
			result := make(chan error, 1)
			p := program{command: "echo message >&2; " + test.script, stderr: io.Discard}
			go func() { result <- p.run(ctx, &driver.RawJob{}) }()
			receive(t, line.opened, "CMD does not run")
			end(errors.New("enough"))
			assert.EqualError(t, receive(t, result, "CMD does not end"), "enough ("+test.status+")\nmessage")
			receive(t, line.closed, "something is left behind")
		})
	}
}

// What CMD leaves in the background neither holds up the job, though it holds the pipes, nor outlives it.
func TestWorkBackground(t *testing.T) {
	for name, redirect := range map[string]string{"with the pipes": "", "without them": ">/dev/null 2>&1"} {
		t.Run(name, func(t *testing.T) {
			setKillDelay(t, time.Second)
			databaseURL := testdb.URL(t)
			pool := connect(t, databaseURL)
			line := newLifeline(t)
			startWork(t, databaseURL, "--exec", `exec 9>"$FIFO"; sleep 1000 `+redirect+` & echo done`)
			id := enqueueKind(t, pool, "default", "k")
			receive(t, line.opened, "CMD does not run")
			receive(t, line.closed, "something is left behind")
			assert.JSONEq(t, `"done"`, string(waitForJob(t, pool, id, "completed").Output))
		})
	}
}

func TestWorkCancelledJob(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool := connect(t, databaseURL)
	line := newLifeline(t)
	startWork(t, databaseURL, "--exec", `exec 9>"$FIFO"; sleep 1000`)
	id := enqueueKind(t, pool, "default", "k")
	receive(t, line.opened, "CMD does not run")
	_, err := driver.NewClient(pool).Cancel(t.Context(), id, "")
	require.NoError(t, err)
	receive(t, line.closed, "CMD goes on")
	waitForJob(t, pool, id, "cancelled")
}

// A CMD may leave its input unread, even when that is more than a pipe holds. The process would get SIGPIPE.
func TestWorkUnreadInput(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool := connect(t, databaseURL)
	_, process := startProcess(t, databaseURL, "--exec", `exec <&-; echo done`, "--slots", "1")
	for range 3 {
		id := enqueueKind(t, pool, "default", "k", `jsonb_build_array(repeat('x', 1000000))`)
		job := waitForJob(t, pool, id, "completed")
		assert.JSONEq(t, `"done"`, string(job.Output))
	}
	require.NoError(t, process.Process.Signal(syscall.SIGTERM))
	assert.NoError(t, process.Wait())
}

// At the first signal the children may finish. Ctrl-C does not reach them.
func TestWorkSoftStop(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			databaseURL := testdb.URL(t)
			pool := connect(t, databaseURL)
			line := newLifeline(t)
			goOn := newFIFO(t, "GO_ON")
			// With one slot: a claim that is under way at the stop is not interrupted.
			stderr, process := startProcess(t, databaseURL, "--slots", "1",
				"--exec", `exec 9>"$FIFO"; read word <"$GO_ON"; echo "$word"`)
			id := enqueueKind(t, pool, "default", "k")
			receive(t, line.opened, "CMD does not run")
			require.NoError(t, syscall.Kill(-process.Process.Pid, sig)) // all of the group, as a terminal does
			stderr.waitForText(t, "stopping: handlers may finish")
			late := enqueueKind(t, pool, "default", "k")
			require.NoError(t, os.WriteFile(goOn, []byte("done\n"), 0))
			assert.NoError(t, process.Wait(), stderr)
			assert.JSONEq(t, `"done"`, string(waitForJob(t, pool, id, "completed").Output))
			assert.Zero(t, waitForJob(t, pool, late, "available").Attempt)
		})
	}
}

// At the second signal they end, and their jobs are given back.
func TestWorkHardStop(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool := connect(t, databaseURL)
	line := newLifeline(t)
	// It does not heed SIGTERM: that is the longest that a stop may take.
	stderr, process := startProcess(t, databaseURL, "--exec", `trap "" TERM; exec 9>"$FIFO"; sleep 1000 & sleep 1000`)
	id := enqueueKind(t, pool, "default", "k")
	receive(t, line.opened, "CMD does not run")
	require.NoError(t, process.Process.Signal(syscall.SIGTERM))
	stderr.waitForText(t, "stopping: handlers may finish")
	require.NoError(t, process.Process.Signal(syscall.SIGINT))
	assert.NoError(t, process.Wait(), stderr)
	receive(t, line.closed, "something is left behind")
	job := waitForJob(t, pool, id, "available")
	assert.Zero(t, job.Attempt, "does not count")
	assert.Empty(t, job.Errors)
}

func TestWorkUnderNohup(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool := connect(t, databaseURL)
	stderr := new(safeBuffer)
	process := awaProcess(t, databaseURL, "--exec", "true")
	process.Args = append([]string{"sh", "-c", `trap "" HUP; exec "$0" "$@"`, process.Path}, process.Args[1:]...)
	var err error
	process.Path, err = exec.LookPath("sh")
	require.NoError(t, err)
	process.Stderr = stderr
	require.NoError(t, process.Start())
	t.Cleanup(func() { process.Process.Kill() })
	waitForJob(t, pool, enqueueKind(t, pool, "default", "k"), "completed") // by now it handles signals
	require.NoError(t, process.Process.Signal(syscall.SIGHUP))
	require.NoError(t, process.Process.Signal(syscall.SIGTERM))
	assert.NoError(t, process.Wait())
	assert.NotContains(t, stderr.String(), "hangup")
	assert.Contains(t, stderr.String(), "signal=terminated")
}

// Nobody reads the log any more: jobs are done all the same.
func TestWorkWithoutReader(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool := connect(t, databaseURL)
	process := awaProcess(t, databaseURL, "--exec", `echo message >&2; exit 1`)
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	process.Stderr = writer
	require.NoError(t, process.Start())
	t.Cleanup(func() { process.Process.Kill() })
	writer.Close()
	reader.Close()
	for range 2 {
		waitForJob(t, pool, enqueueKind(t, pool, "default", "k"), "retryable")
	}
	require.NoError(t, process.Process.Signal(syscall.SIGTERM))
	assert.NoError(t, process.Wait())
}

func TestWorkWithoutAwa(t *testing.T) {
	status, _, stderr := awa(t.Context(), "work", "--exec", "true", "--database-url", testdb.EmptyURL(t))
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "Run awa migrate on this database")

	databaseURL := strings.Replace(testdb.EmptyURL(t), "awa_test_", "awa_test_not_", 1)
	status, _, stderr = awa(t.Context(), "work", "--exec", "true", "--database-url", databaseURL)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "Create the database first")
}

func TestWorkWithoutPermission(t *testing.T) {
	databaseURL := testdb.URL(t)
	admin := testdb.Connect(t, databaseURL)
	role := testRole(t, admin)
	status, _, stderr := awa(t.Context(), "work", "--exec", "true", "--database-url",
		with(t, databaseURL, "options", "-c role="+role))
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "permission denied")
	assert.Contains(t, stderr, "awa_worker to work")
	assert.NotContains(t, stderr, "grant create")
}

func TestWorkWithoutShell(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	status, _, stderr := awa(t.Context(), "work", "--exec", "true", "--database-url", "postgres:///db?host=/nowhere")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "CMD is run by a shell")
}

func TestLineWriter(t *testing.T) {
	var out bytes.Buffer
	w := lineWriter{w: &out, prefix: "> "}
	for _, piece := range []string{"a", "b\n\nc", "\nd"} {
		fmt.Fprint(&w, piece)
	}
	assert.Equal(t, "> ab\n> \n> c\n", out.String())
	w.flush()
	w.flush()
	assert.Equal(t, "> ab\n> \n> c\n> d\n", out.String())

	out.Reset()
	long := strings.Repeat("x", maxStderrLine)
	fmt.Fprint(&w, long)
	assert.Equal(t, "> "+long+"\n", out.String(), "what is no line is not waited for")
}

// A job's queue and kind, the errors of an attempt, and what CMD prints, are escaped in the log.
func TestWorkLogMovesNoCursor(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool := connect(t, databaseURL)
	stderr, stop := startWork(t, databaseURL, "--exec", `printf '%s\n' "$AWA_KIND" >&2; exit 1`, "--queue", hostile)
	waitForJob(t, pool, enqueueKind(t, pool, hostile, hostile), "retryable")
	assert.Zero(t, stop())
	assertPrintable(t, stderr.String())
	assert.Contains(t, stderr.String(), `job 1: q\u001b[2J`)
	assert.Contains(t, stderr.String(), `kind="q\x1b[2J`)
}
