//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// views are the commands that show something; JOB stands for the id of a job.
var views = []string{"jobs", "job JOB", "queues", "queues q", "dlq", "workers", "health", "audit"}

// onTerminal runs a command with a terminal of so many characters as stdout, and returns what reaches the terminal.
func onTerminal(t *testing.T, width int, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	master, terminal := openTerminal(t, width)
	read := make(chan string)
	go func() {
		var out bytes.Buffer
		io.Copy(&out, master) // ends with an error when the terminal is closed
		read <- out.String()
	}()
	var complaint bytes.Buffer
	status = run(t.Context(), args, terminal, &complaint)
	require.NoError(t, terminal.Close())
	return status, strings.ReplaceAll(<-read, "\r\n", "\n"), complaint.String()
}

func openTerminal(t *testing.T, width int) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { master.Close() })
	control := func(request uintptr, argument unsafe.Pointer) {
		conn, err := master.SyscallConn() // Fd would make reads of it block for good
		require.NoError(t, err)
		require.NoError(t, conn.Control(func(fd uintptr) {
			_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(argument))
			assert.Zero(t, errno)
		}))
	}
	var unlocked int32
	var number uint32
	size := [4]uint16{30, uint16(width)}
	control(syscall.TIOCSPTLCK, unsafe.Pointer(&unlocked))
	control(syscall.TIOCGPTN, unsafe.Pointer(&number))
	control(syscall.TIOCSWINSZ, unsafe.Pointer(&size))
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { terminal.Close() })
	return master, terminal
}

// readJSON runs a command, which succeeds, and decodes what it prints.
func readJSON[T any](t *testing.T, args ...string) (value T) {
	t.Helper()
	status, stdout, stderr := awa(t.Context(), args...)
	require.Zero(t, status, "%s: %s", args, stderr)
	require.Empty(t, stderr)
	decoder := json.NewDecoder(strings.NewReader(stdout))
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&value), stdout)
	return value
}

func keys(object map[string]any) (names []string) {
	for name := range object {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func enqueued(t *testing.T, conn *pgx.Conn, query string, args ...any) (id int64) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), query, args...).Scan(&id))
	return id
}

func TestJobsAndJob(t *testing.T) {
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	db := testdb.Connect(t, databaseURL)
	assert.Empty(t, readJSON[[]any](t, "jobs"))
	big := `{"n": 12345678901234567890123, "password": "hunter2", "email": "ada@example.com", "text": "<é>"}`
	first := enqueued(t, db, `select awa.enqueue('q', 'send', $1, tags => '{vip}', group_key => 'g',
		metadata => '{"token": "hunter2"}')`, big)
	execute(t, db, "select awa.enqueue('q', 'fails', max_attempts => 1)",
		"select awa.configure_queue('q', '{\"dead_letter\": true}')")
	failing := enqueued(t, db, "select max(id) from awa.jobs")
	later := enqueued(t, db, `select awa.enqueue('other', 'later', run_at => now() + interval '3 hours 1 minute')`)
	long := enqueued(t, db, `select awa.enqueue('other', 'long', to_jsonb(repeat('x', 5000)))`)
	execute(t, db, "select awa.claim('q', 1)", fmt.Sprintf("select awa.cancel(%d, 'not needed')", first))
	execute(t, db, `select awa.fail(c.job_id, c.receipt, 'said {"api_key": "hunter2"} `+strings.Repeat("y", 400)+`')
		from awa.claim('q', 1) c`)

	jobs := readJSON[[]map[string]any](t, "jobs")
	require.Len(t, jobs, 4)
	assert.Equal(t, []string{
		"args", "args_bytes", "args_start", "attempt", "attempted_at", "created_at", "expires_at", "finalized_at",
		"group_key", "id", "kind", "last_error", "max_attempts", "priority", "queue", "run_at", "state", "tags",
		"worker_id",
	}, keys(jobs[0]))
	assert.Equal(t, []any{number(long), nil, strings.Repeat("x", 299)},
		[]any{fmt.Sprint(jobs[0]["id"]), jobs[0]["args"], jobs[0]["args_start"].(string)[1:]})
	assert.Equal(t, "scheduled", jobs[1]["state"])
	assert.Equal(t, "dead", jobs[2]["state"])
	assert.Len(t, jobs[2]["last_error"], 296, "300, and *** in the place of hunter2 is four shorter")
	assert.Equal(t, map[string]any{
		"n": json.Number("12345678901234567890123"), "password": "***", "email": "ada@example.com", "text": "<é>",
	}, jobs[3]["args"])

	ids := func(args ...string) (ids []string) {
		for _, job := range readJSON[[]map[string]any](t, append([]string{"jobs"}, args...)...) {
			ids = append(ids, fmt.Sprint(job["id"]))
		}
		return ids
	}
	for flags, id := range map[string]int64{
		"--queue other --kind later": later, "--state dead": failing, "--kind send": first, "--tag vip": first,
		"--group g": first, "--limit 1": long, fmt.Sprintf("--limit 1 --before-id %d", later): failing,
		`--args {"email":"ada@example.com"}`: first,
	} {
		assert.Equal(t, []string{number(id)}, ids(strings.Fields(flags)...), flags)
	}
	dead := readJSON[[]map[string]any](t, "dlq", "--queue", "q")
	require.Len(t, dead, 1)
	assert.Equal(t, number(failing), fmt.Sprint(dead[0]["id"]))

	job := readJSON[map[string]any](t, "job", number(first), "--mask", "EMAIL")
	assert.Equal(t, []string{
		"args", "attempt", "attempted_at", "created_at", "deadline_at", "errors", "expires_at", "explanation",
		"finalized_at", "group_key", "heartbeat_at", "id", "kind", "max_attempts", "metadata", "output", "priority",
		"progress", "queue", "receipt", "run_at", "state", "tags", "unique_key", "worker_id",
	}, keys(job))
	assert.Equal(t, map[string]any{
		"n": json.Number("12345678901234567890123"), "password": "***", "email": "***", "text": "<é>",
	}, job["args"])
	assert.Equal(t, map[string]any{"token": "***"}, job["metadata"])
	assert.Contains(t, job["explanation"], "cancelled")

	explained := readJSON[map[string]any](t, "job", number(later), "--explain")
	assert.Equal(t, number(later), fmt.Sprint(explained["id"]))
	status, stdout, stderr := onTerminal(t, 80, "job", "--explain", number(later))
	assert.Zero(t, status, stderr)
	const says = `^It is scheduled: it may run in 0[23]:\S+, at \S+ \S+ No live worker has registered for the queue.`
	assert.Regexp(t, says+"$", explained["explanation"])
	assert.Regexp(t, says+"\n$", stdout)

	status, stdout, stderr = onTerminal(t, 100, "jobs", "--limit", "3")
	assert.Zero(t, status, stderr)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	require.Len(t, lines, 5)
	assert.Regexp(t, `^ *ID  QUEUE  KIND +STATE +PRIORITY  ATTEMPT +SINCE  LAST ERROR, OR ARGS$`, lines[0])
	assert.Regexp(t, `^ *\d+  other  long +available +2     0/25 +\d+s  "x+…$`, lines[1])
	assert.Regexp(t, `^ *\d+  other  later +scheduled +2     0/25 +in [23]h  {}$`, lines[2])
	assert.Regexp(t, `^ *\d+  q      fails +dead +2      1/1 +\d+s  said {"api_key": "\*\*\*"} y*…$`, lines[3])
	assert.Equal(t, fmt.Sprintf("There may be more: --before-id %d", failing), lines[4])
	for _, line := range lines {
		assert.LessOrEqual(t, len([]rune(line)), 100)
	}
	_, stdout, _ = onTerminal(t, 80, "jobs", "--tag", "nobody")
	assert.Equal(t, "There are no such jobs.\n", stdout)
	_, stdout, _ = awa(t.Context(), "jobs", "--json=false", "--queue", "nobody")
	assert.Equal(t, "There are no such jobs.\n", stdout)

	_, stdout, _ = onTerminal(t, 80, "job", number(long))
	assert.Contains(t, stdout, "xxx… (--json shows all of it)\n")
	_, stdout, _ = onTerminal(t, 80, "job", number(failing))
	assert.Regexp(t, `\nerror +attempt 1, \S+: said {"api_key": "\*\*\*"} y+\n`, stdout)
	status, _, stderr = awa(t.Context(), "job", "999999")
	assert.Equal(t, 1, status)
	assert.Equal(t, "awa: "+errNoSuchJob.Error()+"\n", stderr)
	status, _, stderr = awa(t.Context(), "job", "999999", "--explain")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "no such job")
}

func TestQueuesWorkersHealthAudit(t *testing.T) {
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	db := testdb.Connect(t, databaseURL)
	_, stdout, _ := onTerminal(t, 80, "queues")
	assert.Equal(t, "There are no such queues.\n", stdout)
	_, stdout, _ = onTerminal(t, 80, "workers")
	assert.Equal(t, "There are no such workers.\n", stdout)
	execute(t, db, "select awa.enqueue_many('q', 'k', '{1,2,3}')", "select awa.pause_queue('slow')",
		`select awa.configure_queue('slow', '{"rate": {"jobs": 10, "per": "1 minute"}}')`,
		"select awa.register_worker('host-1', '{q,slow}', '{\"secret\": 1}')", "select awa.register_worker('host-2')")

	queues := readJSON[[]map[string]any](t, "queues")
	require.Len(t, queues, 2)
	assert.Equal(t, []any{"q", json.Number("3"), nil},
		[]any{queues[0]["queue"], queues[0]["available"], queues[0]["paused_at"]})
	assert.Subset(t, keys(queues[0]), []string{"lease", "running", "oldest_ready_at", "workers", "limited", "dead"})
	assert.Len(t, readJSON[[]any](t, "queues", "--search", "LO"), 1)
	assert.Len(t, readJSON[[]any](t, "queues", "--limit", "1"), 1)
	_, stdout, _ = onTerminal(t, 120, "queues")
	lines := strings.Split(stdout, "\n")
	assert.Regexp(t, `^QUEUE  STATE   AVAILABLE  OLDEST  LIMITED  RUNNING  SCHEDULED  RETRYABLE  FAILED  DEAD  WORKERS$`,
		lines[0])
	assert.Regexp(t, `^q      open            3 +\d+s        0        0 +0 +0 +0 +0 +2$`, lines[1])
	assert.Regexp(t, `^slow   paused          0       -        0 +0 +0 +0 +0 +0 +2$`, lines[2])

	one := readJSON[map[string]any](t, "queues", "slow")
	assert.Equal(t, []string{"queue", "stats"}, keys(one))
	assert.Equal(t, "slow", one["queue"].(map[string]any)["queue"])
	assert.NotEmpty(t, one["stats"])
	_, stdout, _ = onTerminal(t, 120, "queues", "slow")
	assert.Regexp(t, `\nlease +00:01:00\n`, stdout)
	assert.Regexp(t, `\nrate +{.*"jobs": ?10.*}\n`, stdout)
	assert.Contains(t, stdout, "\nFROM (UTC)  ENQUEUED ")
	status, _, stderr := awa(t.Context(), "queues", "nobody")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "there is no queue of this name")

	workers := readJSON[[]map[string]any](t, "workers")
	require.Len(t, workers, 2)
	assert.Equal(t, []any{"host-1", []any{"q", "slow"}, map[string]any{"secret": "***"}},
		[]any{workers[0]["name"], workers[0]["queues"], workers[0]["info"]})
	assert.Len(t, readJSON[[]any](t, "workers", "--search", "-2"), 1)
	_, stdout, _ = onTerminal(t, 120, "workers")
	assert.Regexp(t, `\n +1  host-1  live +0 +\d+s +\d+s  \S+ +q, slow\n +2  host-2  live .* all\n$`, stdout)

	audited := readJSON[[]map[string]any](t, "audit")
	assert.Equal(t, []any{"q", json.Number("3"), true},
		[]any{audited[0]["queue"], audited[0]["enqueued"], audited[0]["balanced"]})
	_, stdout, _ = onTerminal(t, 120, "audit")
	assert.Regexp(t, `^QUEUE  ENQUEUED .*\nq +3 +3 .* balanced\nslow .* balanced\n`, stdout)
	execute(t, db, "select awa.fold()", "delete from awa.ready_entries")
	status, stdout, _ = awa(t.Context(), "audit", "--json=false")
	assert.Equal(t, 1, status, stdout)
	assert.Contains(t, stdout, "WRONG: ")

	execute(t, db, "call awa.run_maintenance()", "update awa.workers set heartbeat_at = now() - interval '1 hour'")
	status, stdout, stderr = awa(t.Context(), "health")
	assert.NotZero(t, status, stderr)
	var findings []map[string]any
	require.NoError(t, json.Unmarshal([]byte(stdout), &findings))
	assert.Equal(t, []string{"details", "hint", "level", "message", "subject", "topic"}, keys(findings[0]))
	_, stdout, _ = onTerminal(t, 120, "health")
	assert.Regexp(t, `(?m)^warning +worker +host-1`, stdout)
	assert.NotRegexp(t, `(?m)^ok `, stdout)
	_, stdout, _ = onTerminal(t, 120, "health", "--all")
	assert.Regexp(t, `(?m)^ok `, stdout)
}

// Of large jobs a list reads the size alone, and it is as long as it should be: pages of list_jobs are short then.
func TestLargeJobs(t *testing.T) {
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	db := testdb.Connect(t, databaseURL)
	for range 5 {
		execute(t, db, "select awa.enqueue('q', 'k', to_jsonb(repeat('x', 30000000)), max_attempts => 1)")
	}
	execute(t, db, "select awa.fail(c.job_id, c.receipt, repeat('x', 20000)) from awa.claim('q', 1) c")
	status, stdout, stderr := awa(t.Context(), "jobs", "--json=false", "--timeout", "1m")
	require.Zero(t, status, stderr)
	assert.Less(t, len(stdout), 1500)
	assert.Equal(t, 6, strings.Count(stdout, "\n"), stdout)
	assert.Equal(t, 4, strings.Count(stdout, "(args of 3"), stdout)
	jobs := readJSON[[]map[string]any](t, "jobs", "--timeout", "1m")
	require.Len(t, jobs, 5)
	stored, err := jobs[0]["args_bytes"].(json.Number).Int64()
	require.NoError(t, err)
	assert.Less(t, stored, int64(1000000), "as it is stored: nothing takes it apart")
	assert.Nil(t, jobs[0]["args_start"])
	assert.Nil(t, jobs[0]["args"])
	assert.Len(t, jobs[4]["last_error"], payloadStart)
	jobs = readJSON[[]map[string]any](t, "jobs", "--limit", "4", "--timeout", "1m")
	assert.Len(t, jobs, 4)
}

// A list that is not the whole says so, and where to go on, also as JSON.
func TestListsThatAreNotTheWhole(t *testing.T) {
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	db := testdb.Connect(t, databaseURL)
	tagged := enqueued(t, db, "select awa.enqueue('q', 'k', tags => '{vip}')")
	execute(t, db, "select awa.enqueue_many('q', 'k', array_fill('{}'::jsonb, array[10000])) from generate_series(1, 11)",
		`select awa.register_worker('host', array(select 'q' || n from generate_series(1, 120) n))`)
	_, stdout, _ := onTerminal(t, 80, "jobs", "--tag", "vip")
	assert.Regexp(t, `^None of the jobs that were looked at match.\nThere may be more: --before-id \d+\n$`, stdout)
	status, stdout, stderr := awa(t.Context(), "jobs", "--tag", "vip")
	assert.Zero(t, status)
	assert.Equal(t, "[]\n", stdout)
	var before string
	_, err := fmt.Sscanf(stderr, "awa: There may be more: --before-id %s\n", &before)
	require.NoError(t, err, stderr)
	found := readJSON[[]map[string]any](t, "jobs", "--tag", "vip", "--before-id", before)
	require.Len(t, found, 1)
	assert.Equal(t, number(tagged), fmt.Sprint(found[0]["id"]))

	_, stdout, stderr = awa(t.Context(), "jobs")
	assert.Equal(t, 20, strings.Count(stdout, `"id": `))
	assert.Regexp(t, `^awa: There may be more: --before-id \d+\n$`, stderr)
	assert.Len(t, readJSON[[]any](t, "jobs", "--limit", "20"), 20, "so many were asked for")

	_, stdout, _ = onTerminal(t, 3000, "workers")
	assert.Contains(t, stdout, ", q100, … (120 in all)\n")
	assert.Equal(t, json.Number("120"), readJSON[[]map[string]any](t, "workers")[0]["queue_count"])
}

// Wrong flags are named, and nothing of their values is shown.
func TestViewFlags(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres:///db?host=/nowhere")
	for command, complaint := range map[string]string{
		"jobs --state hunter2":                 "for flag -state: should be available, ",
		"jobs --limit hunter2":                 "for flag -limit: should be a number from 1 to 1000",
		"jobs --args hunter2":                  "for flag -args: should be JSON",
		"jobs --before-id 0":                   "for flag -before-id: should be",
		"jobs --queue=":                        "for flag -queue: should not be empty",
		"jobs --every 0s":                      "for flag -every: should be a positive duration",
		"jobs --timeout hunter2":               "for flag -timeout: should be a positive duration",
		"jobs --mask *":                        "for flag -mask: a pattern should be",
		"jobs --json=hunter2":                  "for flag -json: ",
		"jobs hunter2":                         "argument 1 should be cancel, ",
		"job":                                  "which job? Pass its id",
		"job hunter2":                          "argument 1 should be the id of a job",
		"job 1 --queue q":                      "argument 2 is no flag that there is",
		"dlq --state dead":                     "--state has no meaning here",
		"queues q --search hunter2 --limit 3":  "--limit, --search has no meaning for one queue",
		"queues postgres://u:hunter2@h/db?a=b": "an argument is the URL of a database",
		"workers --limit 0":                    "for flag -limit: should be a number from 1 to 10000",
		"health --every hunter2":               "for flag -every",
		"audit operand":                        "unexpected argument: argument 1",
	} {
		status, stdout, stderr := awa(t.Context(), strings.Fields(command)...)
		assert.Equal(t, 2, status, command)
		assert.Empty(t, stdout, command)
		assert.Contains(t, stderr, complaint, command)
		assert.NotContains(t, stderr, "hunter2", command)
	}
	for _, command := range views {
		status, _, stderr := awa(t.Context(), strings.Fields(strings.ReplaceAll(command, "JOB", "1"))...)
		assert.NotZero(t, status, command)
		assert.Contains(t, stderr, "Is the server running", command)
	}
	t.Setenv("DATABASE_URL", "")
	for _, command := range views {
		status, _, stderr := awa(t.Context(), strings.Fields(strings.ReplaceAll(command, "JOB", "1"))...)
		assert.NotZero(t, status, command)
		assert.Contains(t, stderr, "Pass --database-url, or set DATABASE_URL", command)
	}
}

// What a role may not read, and a database that has no Awa, are said in words.
func TestViewsAreRefused(t *testing.T) {
	databaseURL := testdb.URL(t)
	admin := testdb.Connect(t, databaseURL)
	role := testRole(t, admin)
	execute(t, admin, "alter role "+role+" login", "select awa.enqueue('q', 'k')")
	id := enqueued(t, admin, "select max(id) from awa.jobs")
	for _, command := range views {
		args := append(strings.Fields(strings.ReplaceAll(command, "JOB", number(id))), "--database-url")
		status, stdout, stderr := awa(t.Context(), append(args, with(t, databaseURL, "user", role))...)
		assert.NotZero(t, status, command)
		assert.Empty(t, stdout, command)
		assert.Contains(t, stderr, "the role of this login may not do that: ", command)
		assert.Contains(t, stderr, "awa_reader", command)
		status, stdout, stderr = awa(t.Context(), append(args, testdb.EmptyURL(t))...)
		assert.NotZero(t, status, command)
		assert.Empty(t, stdout, command)
		assert.Contains(t, stderr, "Awa is not installed in this database, or in another version: ", command)
	}
	execute(t, admin, "grant awa_reader to "+role)
	for _, command := range views {
		args := append(strings.Fields(strings.ReplaceAll(command, "JOB", number(id))), "--database-url")
		status, _, stderr := awa(t.Context(), append(args, with(t, databaseURL, "user", role))...)
		if command != "health" {
			assert.Zero(t, status, "%s: %s", command, stderr)
		}
		assert.Empty(t, stderr, command)
	}
}

// A statement that takes too long ends, and the error names what narrows it.
func TestViewsEndInTime(t *testing.T) {
	databaseURL := testdb.URL(t)
	holder := testdb.Connect(t, databaseURL)
	execute(t, holder, "begin", "lock table awa.ready_entries in access exclusive mode")
	status, _, stderr := awa(t.Context(), "jobs", "--timeout", "50ms", "--database-url", databaseURL)
	assert.Equal(t, 1, status)
	assert.Equal(t, "awa: it took longer than 50ms: narrow it by --state, --queue or --limit, or allow it more by "+
		"--timeout\n", stderr)
}

// A view that is watched reads again and again, and a signal ends it, with the status 0.
func TestWatch(t *testing.T) {
	databaseURL := testdb.URL(t)
	db := testdb.Connect(t, databaseURL)
	execute(t, db, "select awa.enqueue('q', 'k')")
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		var out, stderr safeBuffer
		process := watchProcess(t, databaseURL, "jobs", "--watch", "--every", "10ms")
		process.Stdout, process.Stderr = &out, &stderr
		require.NoError(t, process.Start())
		eventually(t, func() bool { return strings.Count(out.String(), "\n") > 3 }, "it reads again: %s", &stderr)
		require.NoError(t, process.Process.Signal(s))
		assert.NoError(t, process.Wait(), "%s: %s", s, &stderr)
		assert.Empty(t, stderr.String())
		for line := range strings.Lines(out.String()) {
			var jobs []map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &jobs))
			assert.Len(t, jobs, 1)
		}
	}
}

func watchProcess(t *testing.T, databaseURL string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	process := exec.CommandContext(context.WithoutCancel(t.Context()), self, args...)
	process.Env = append(os.Environ(), asCommand+"=1", "DATABASE_URL="+databaseURL, "TERM=xterm")
	t.Cleanup(func() { process.Process.Kill() })
	return process
}

// On a terminal what is watched stays in its place, and says since when it could not be read again.
func TestWatchOnATerminal(t *testing.T) {
	databaseURL := testdb.URL(t)
	db := testdb.Connect(t, databaseURL)
	_, err := db.Exec(t.Context(), "select awa.enqueue($1, $1)", hostile)
	require.NoError(t, err)
	master, terminal := openTerminal(t, 60)
	var out safeBuffer
	copied := make(chan struct{})
	go func() { defer close(copied); io.Copy(&out, master) }()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int)
	var stderr safeBuffer
	go func() {
		args := []string{"jobs", "--every", "10ms", "--timeout", "1s", "--database-url", databaseURL}
		ended <- run(ctx, args, terminal, &stderr)
	}()
	out.waitForText(t, "awa jobs, every 10ms: read at ")
	execute(t, db, "alter schema awa rename to gone")
	out.waitForText(t, "NOT READ FOR 0s: Awa is not installed")
	cancel()
	assert.Zero(t, <-ended, &stderr)
	require.NoError(t, terminal.Close())
	<-copied
	text := out.String()
	for _, sequence := range []string{"\x1b[H", "\x1b[K", "\x1b[J", "\r"} {
		text = strings.ReplaceAll(text, sequence, "")
	}
	assertPrintable(t, text)
	assert.Contains(t, text, `q\u001b[2J\u001b]0`)
	for line := range strings.Lines(text) {
		assert.LessOrEqual(t, len([]rune(strings.TrimSpace(line))), 60)
	}
}

// Args and metadata of a schedule are masked, and a list can be watched.
func TestSchedulesAreMaskedAndWatched(t *testing.T) {
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	execute(t, testdb.Connect(t, databaseURL), `select awa.schedule('s', 'q', 'k', every => '1 day',
		args => '{"token": "hunter2", "n": 12345678901234567890}', metadata => '{"pin": 17}')`)
	masked := schedules(t, "--json", "--mask", "pin")
	assert.NotContains(t, masked, "hunter2")
	assert.NotContains(t, masked, "17,")
	assert.Contains(t, masked, "12345678901234567890")
	ctx, cancel := context.WithCancel(t.Context())
	var out, stderr safeBuffer
	ended := make(chan int)
	go func() { ended <- run(ctx, []string{"schedules", "--every", "10ms", "--json"}, &out, &stderr) }()
	eventually(t, func() bool { return strings.Count(out.String(), "\n") > 2 }, "it reads again: %s", &stderr)
	cancel()
	assert.Zero(t, <-ended)
	assert.Empty(t, stderr.String())
}

// What an error holds is masked wherever a command prints it.
func TestErrorsAreMasked(t *testing.T) {
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	db := testdb.Connect(t, databaseURL)
	const said = `said {"token": "hunter2", "a": "{\"password\": \"hunter2\"}"}`
	var ids []string
	for _, attempts := range []int{1, 5} {
		ids = append(ids, number(enqueued(t, db, "select awa.enqueue('q', 'k', max_attempts => $1)", attempts)))
		_, err := db.Exec(t.Context(), "select awa.fail(c.job_id, c.receipt, $1) from awa.claim('q', 1) c", said)
		require.NoError(t, err)
	}
	_, err := db.Exec(t.Context(), `select awa.schedule('s', 'q', 'k', every => '1 day'),
		awa.schedule('paused', 'q', 'k', every => '1 day'), awa.pause_schedule('paused', $1)`, said)
	require.NoError(t, err)
	_, err = db.Exec(t.Context(), "update awa.schedules set error = $1, failures = 1 where name = 's'", said)
	require.NoError(t, err)
	_, err = db.Exec(t.Context(), `select set_config('awa.actor', 'ada', false), awa.cancel($1, $2),
		awa.start_change('cancel', '{"args": {"token": "hunter2"}}')`, ids[1], said)
	require.NoError(t, err)
	for _, command := range []string{
		"jobs", "dlq", "job FAILED", "job FAILED --explain", "job CANCELLED", "job CANCELLED --explain", "job delete FAILED",
		"schedules", "schedules explain s", "schedules explain paused", "schedules resume s", "changes", "health --all",
	} {
		args := strings.Fields(strings.NewReplacer("FAILED", ids[0], "CANCELLED", ids[1]).Replace(command))
		flags := [][]string{{}}
		if args[0] != "schedules" || len(args) == 1 {
			flags = [][]string{{"--json"}, {"--json=false"}}
		}
		for _, more := range flags {
			_, stdout, stderr := awa(t.Context(), append(slices.Clone(args), more...)...)
			assert.NotContains(t, stdout+stderr, "hunter2", "%s %s", command, more)
			if strings.HasPrefix(command, "job ") || command == "schedules explain s" {
				assert.Contains(t, stdout, "***", "%s %s", command, more)
			}
		}
	}
	v := newView("top", time.Minute, "", io.Discard, io.Discard)
	require.NoError(t, v.parse(nil, 0, nil))
	require.NoError(t, v.open(t.Context()))
	defer v.close()
	for i, id := range []int64{1, 2} {
		require.Equal(t, number(id), ids[i])
		says, err := (&topSource{view: v}).explain(t.Context(), id)
		require.NoError(t, err)
		assert.NotContains(t, says, "hunter2")
		assert.Contains(t, says, "***")
	}
	preview := readJSON[map[string]any](t, "jobs", "cancel", "--args", `{"token": "hunter2"}`)
	assert.NotContains(t, fmt.Sprint(preview), "hunter2")
}

// Names that others choose stay within their cells.
func TestViewsOfHostileNames(t *testing.T) {
	databaseURL := testdb.URL(t)
	db := testdb.Connect(t, databaseURL)
	var id int64
	require.NoError(t, db.QueryRow(t.Context(), "select awa.enqueue($1, $1, to_jsonb($1::text), tags => array[$1], "+
		"group_key => $1, metadata => jsonb_build_object($1, $1))", hostile).Scan(&id))
	_, err := db.Exec(t.Context(), "select awa.register_worker($1, array[$1], to_jsonb($1::text))", hostile)
	require.NoError(t, err)
	for _, command := range append([]string{"queues HOSTILE"}, views...) {
		if command == "queues q" {
			continue
		}
		var args []string
		for _, arg := range append(strings.Fields(command), "--database-url", databaseURL) {
			args = append(args, strings.NewReplacer("JOB", number(id), "HOSTILE", hostile).Replace(arg))
		}
		_, stdout, stderr := onTerminal(t, 100, args...)
		assertPrintable(t, stdout)
		assert.Empty(t, stderr, command)
		if command != "health" && command != "dlq" {
			assert.Contains(t, stdout, `q\u001b[2J\u001b]0;t`, command)
		}
		_, stdout, _ = awa(t.Context(), args...)
		assertPrintable(t, stdout)
		assert.True(t, json.Valid([]byte(stdout)), "%s: %s", command, stdout)
	}
}
